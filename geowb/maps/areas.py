"""Areas on the ground: of a map's pixels, and of its classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geowb.errors import DataError, RequestError
from geowb.labels.grid import Grid
from geowb.maps.parts import grid_of, named, plane, read, tally, windows

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from pyproj import CRS

__all__ = ["area_per_class", "pixel_areas"]

#: Metres between the points at which the scale of a projection is computed.
_NODES = 5_000


def pixel_areas(
    grid: Grid | str | Path | xr.DataArray,
    rows: slice | None = None,
    columns: slice | None = None,
) -> np.ndarray:
    """Area on the ground of a map's pixels, on the ellipsoid of its CRS.

    >>> pixel_areas("agb.tif", slice(0, 1), slice(0, 1))  # doctest: +SKIP
    array([[900.72]])

    Parameters
    ----------
    grid
        A map as `open_map` takes it, or the grid of one.
    rows, columns
        Of the pixels; all if left out. A whole map takes 8 bytes a pixel: ask for parts of a
        large one.

    Returns
    -------
    numpy.ndarray
        ``(rows, columns)`` float64, m2; not to be written into. 0 where the CRS has no position
        on the Earth, as in the corners of a Mollweide map.

    Raises
    ------
    DataError
        If the map has no CRS, or one that is neither geographic nor projected.

    Notes
    -----
    In degrees, the area of a row's pixels is exact: that of the zone of the ellipsoid between two
    parallels, shared among its pixels. In any other CRS it is the pixel's area in the plane times
    the scale at its centre, which is computed every 5 km and bilinear between: within 4e-7 of the
    area, as measured for pixels of up to 10 km. The scale comes from positions on the ellipsoid,
    not from the factors of PROJ, which take the Earth for a sphere in Web Mercator (0.7 % off).
    """
    if not isinstance(grid, Grid):
        grid = grid_of(plane(grid), grid)
    rows = range(grid.height)[rows or slice(None)]
    columns = range(grid.width)[columns or slice(None)]
    crs, t = _horizontal(grid.crs), grid.transform
    if crs.is_geographic and not crs.is_derived and t.b == t.d == 0:
        zones = _zones(crs, t.f + t.e * np.arange(rows.start, rows.stop + 1))
        strip = abs(t.a) * crs.axis_info[0].unit_conversion_factor * zones
        return np.broadcast_to(strip[:, None], (len(rows), len(columns)))
    return abs(t.determinant) * _scales(crs, grid, rows, columns)


def area_per_class(
    source: str | Path | xr.DataArray,
    *,
    classes: Mapping[int, str] | Sequence[str] | None = None,
    variable: str = "",
) -> pd.DataFrame:
    """Area on the ground of each class of a map.

    >>> area_per_class("landcover.tif")  # doctest: +SKIP
        class  value  pixels     km2  share
    0  forest      0   61440   55.34  0.938
    1   water      1    4096    3.69  0.062

    Parameters
    ----------
    source
        A map of classes, as `open_map` takes it.
    classes
        Names by value, or names of 0, 1, ...; those that the map holds if left out.
    variable
        Which variable of a Zarr; its first if left out.

    Returns
    -------
    pandas.DataFrame
        A row a class that is named or occurs, in order of value: ``class`` (its name, or its value
        where it has none), ``value``, ``pixels``, ``km2`` and ``share`` of the area that has data.
        No data is not a row and not in the shares: see ``attrs["nodata_pixels"]`` and
        ``attrs["nodata_km2"]``. It is what the file says it is, NaN, and -1 in a map whose file
        says nothing and has no class of that value.

    Raises
    ------
    RequestError
        If the map is one of a quantity, or has several bands.
    DataError
        If it has no CRS, a value that is no whole number, or more than 1,000 classes.

    Notes
    -----
    The map is read in parts of about half a million pixels.
    """
    found = plane(source, variable)
    names = named(found, classes)
    if names is None:
        raise RequestError(
            "area_per_class counts classes, and this is a map of a quantity"
            f" ({found.dtype}{', ' + found.attrs['units'] if found.attrs.get('units') else ''}). "
            "For its mean and total use zonal_summary (geowb area --zones). For areas cut it into "
            "classes: "
            "found = open_map(...); found = found.where(found != found.rio.nodata); "
            "area_per_class((found > 100).where(found.notnull()), classes=['low', 'high'])."
        )
    grid = grid_of(found, source)
    sums = {value: np.zeros(2) for value in names}
    missing = np.zeros(2)
    for rows, columns in windows(found):
        values, given = read(found, rows, columns, names)
        areas = pixel_areas(grid, rows, columns)
        missing += (~given).sum(), areas[~given].sum()
        tally(sums, values[given], np.ones(given.sum()), areas[given])
    return _table(sums, names, missing)


def _table(
    sums: dict[int, np.ndarray], names: Mapping[int, str], missing: np.ndarray
) -> pd.DataFrame:
    import pandas as pd

    values = sorted(sums)
    pixels, areas = np.array([sums[value] for value in values]).reshape(-1, 2).T
    with np.errstate(invalid="ignore"):  # no data at all: no shares
        shares = areas / areas.sum()
    table = pd.DataFrame(
        {
            "class": [names.get(value, value) for value in values],
            "value": values,
            "pixels": pixels.astype(np.int64),
            "km2": areas / 1e6,
            "share": shares,
        }
    )
    table.attrs = {"nodata_pixels": int(missing[0]), "nodata_km2": float(missing[1]) / 1e6}
    return table


# --- areas on the ellipsoid ------------------------------------------------------------------


def _horizontal(crs: CRS) -> CRS:
    """CRS without heights and without a shift to another; a DataError if it has no Earth."""
    while crs.is_compound or crs.is_bound:
        crs = crs.sub_crs_list[0] if crs.is_compound else crs.source_crs
    if not (crs.is_geographic or crs.is_projected):
        raise DataError(
            f"The map's CRS, {crs.name} ({crs.type_name}), is neither geographic nor projected, "
            "so the area of its pixels is not known. Give the right one with rio.write_crs."
        )
    return crs


def _ellipsoid(crs: CRS) -> tuple[float, float]:
    """Semi-major axis (m) and squared eccentricity."""
    a, b = crs.ellipsoid.semi_major_metre, crs.ellipsoid.semi_minor_metre
    return a, 1 - (b / a) ** 2


def _zones(crs: CRS, lat: np.ndarray) -> np.ndarray:
    """Area (m2) between parallels, a radian wide.

    b^2 / 2 [sin p / (1 - e^2 sin^2 p) + artanh(e sin p) / e], as Snyder (1987), eq. 3-12.
    """
    a, e2 = _ellipsoid(crs)
    unit = crs.axis_info[0].unit_conversion_factor
    sine = np.sin(np.clip(lat * unit, -np.pi / 2, np.pi / 2))
    e = np.sqrt(e2)
    last = np.arctanh(e * sine) / e if e else sine
    return np.abs(np.diff(a**2 * (1 - e2) / 2 * (sine / (1 - e2 * sine**2) + last)))


def _scales(crs: CRS, grid: Grid, rows: range, columns: range) -> np.ndarray:
    """Ground area (m2) of a square unit of a CRS, at pixels: bilinear between nodes."""
    t = grid.transform
    metre = _metre(crs)
    y = _nodes(rows, grid.height, _NODES / np.hypot(t.b, t.e) / metre)
    x = _nodes(columns, grid.width, _NODES / np.hypot(t.a, t.d) / metre)
    col, row = np.meshgrid(x + 0.5, y + 0.5)
    known = _scale(crs, t.a * col + t.b * row + t.c, t.d * col + t.e * row + t.f)

    def fill(values: np.ndarray) -> np.ndarray:
        return _between(_between(values, y, rows).T, x, columns).T

    there = np.isfinite(known)
    if there.all():
        return fill(known)
    weight = fill(there.astype(float))
    return np.divide(
        fill(np.where(there, known, 0)), weight, out=np.zeros_like(weight), where=weight > 0
    )


def _metre(crs: CRS) -> float:
    """Metres that a unit of a CRS is, of degrees at the equator."""
    unit = crs.axis_info[0].unit_conversion_factor
    return unit * _ellipsoid(crs)[0] if crs.is_geographic else unit


def _nodes(along: range, size: int, step: float) -> np.ndarray:
    """Pixels of a side at which the scale is computed, from before a range to after it."""
    every = np.append(np.arange(0, size - 1, max(1, int(step))), size - 1)
    first = np.searchsorted(every, along.start, "right") - 1
    return every[first : np.searchsorted(every, along.stop - 1) + 1]


def _between(values: np.ndarray, nodes: np.ndarray, along: range) -> np.ndarray:
    """Interpolate linearly along the first axis, from nodes to pixels."""
    at = np.arange(along.start, along.stop)
    if len(nodes) == 1:
        return np.repeat(values, at.size, axis=0)
    low = np.clip(np.searchsorted(nodes, at, "right") - 1, 0, len(nodes) - 2)
    part = ((at - nodes[low]) / (nodes[low + 1] - nodes[low]))[:, None]
    return values[low] * (1 - part) + values[low + 1] * part


def _scale(crs: CRS, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Ground area (m2) of a square unit of a CRS, at positions in it; NaN off the Earth.

    The area of the parallelogram between two tangents, from positions 500 m to each side.
    """
    from pyproj import Transformer

    base = crs.source_crs or crs.geodetic_crs
    unit = base.axis_info[0].unit_conversion_factor
    a, e2 = _ellipsoid(base)
    to_degrees = Transformer.from_crs(crs, base, always_xy=True)

    def position(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        lon, lat = np.asarray(to_degrees.transform(x, y)) * unit
        lon, lat = (np.where(np.isfinite(angle), angle, np.nan) for angle in (lon, lat))
        normal = a / np.sqrt(1 - e2 * np.sin(lat) ** 2)
        level = normal * np.cos(lat)
        return np.stack(
            [level * np.cos(lon), level * np.sin(lon), normal * (1 - e2) * np.sin(lat)], axis=-1
        )

    h = 500 / _metre(crs)
    east = position(x + h, y) - position(x - h, y)
    north = position(x, y + h) - position(x, y - h)
    return np.linalg.norm(np.cross(east, north), axis=-1) / (2 * h) ** 2
