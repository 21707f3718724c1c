"""What a map says of the places in which polygons lie: means, totals, areas of classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from geowb.labels.grid import Grid
from geowb.maps.areas import pixel_areas
from geowb.maps.parts import grid_of, named, plane, read, tally, windows
from geowb.maps.polygons import Zones, ground_areas, on_grid, read_zones

if TYPE_CHECKING:
    import geopandas
    import pandas as pd
    import shapely
    import xarray as xr

__all__ = ["zonal_summary"]

#: Pixels of a zone of which the median is exact.
_EXACT = 2**20
#: Ends of units that are amounts per area, and its square metres.
_PER = {"/ha": 1e4, " ha-1": 1e4, "/m2": 1.0, " m-2": 1.0, "/km2": 1e6, " km-2": 1e6}


def zonal_summary(
    source: str | Path | xr.DataArray,
    polygons: str | Path | geopandas.GeoDataFrame,
    *,
    by: str = "",
    variable: str = "",
    classes: Mapping[int, str] | Sequence[str] | None = None,
) -> pd.DataFrame:
    """Summary of a map for each of several polygons.

    >>> zonal_summary("agb.tif", "stands.geojson", by="stand")  # doctest: +SKIP
      zone   pixels    km2  covered   mean   std   min  median    max    total
    0    A  1210.50  1.090     0.98  102.3  41.2   3.1    99.8  240.2  11154.1

    Parameters
    ----------
    source
        A map of a quantity or of classes, as `open_map` takes it.
    polygons
        What geopandas reads (GeoJSON, GeoPackage, shapefile), in any CRS.
    by
        The column that names the polygons; their index if left out. Each polygon has its own
        row or rows, also where two have one name.
    variable
        Which variable of a Zarr; its first if left out.
    classes
        Names by value, or names of 0, 1, ..., if the map holds none.

    Returns
    -------
    pandas.DataFrame
        Of a quantity, a row a polygon: ``zone``, ``pixels`` (those with data, parts of pixels as
        fractions), ``km2`` (their area within the polygon), ``covered`` (which share of the
        polygon's area that is: the rest has no data, or lies beside the map), ``mean``, ``std``,
        ``min``, ``median``, ``max`` in ``attrs["units"]``, and for a unit per area, such as Mg/ha,
        ``total`` in ``attrs["total_units"]``: the mean times the area with data. Without data
        these are NaN.
        Of classes, a row a polygon and class that is named or occurs: ``zone``, ``class``,
        ``value``, ``km2``, ``share`` of the polygon's area with data, NaN where there is none, and
        ``covered``.
        ``attrs["repaired"]`` lists the polygons that crossed themselves.

    Raises
    ------
    RequestError
        If there is no such column, or a geometry is no polygon.
    DataError
        If the map or the polygons have no CRS, a geometry is empty, or no polygon meets the map.

    Notes
    -----
    Each pixel counts by its area on the ground within the polygon, in all of the statistics; the
    fraction of it that the polygon covers is exact (exactextract). ``std`` is that of the
    population. The median is exact for zones of up to a million pixels, and above that within
    6e-5 of its value.
    The file is read polygon by polygon, in parts of about half a million pixels.
    Straight edges stay straight in the polygons' own CRS: points are added every 5 km before they
    are brought into that of the map. A polygon that crosses itself is repaired by
    ``shapely.make_valid`` (structure): each place that it encloses counts once.
    """
    found = plane(source, variable)
    names = named(found, classes)
    grid = grid_of(found, source)
    zones = read_zones(polygons, by)
    shapes = on_grid(zones, grid)
    if names is None:
        table = _quantities(found, grid, zones, shapes)
    else:
        table = _classes(found, grid, zones, shapes, names)
    table.attrs["repaired"] = zones.repaired
    return table


# --- pixels of a polygon ---------------------------------------------------------------------


class _Part(NamedTuple):
    """Pixels of a polygon that have data."""

    values: np.ndarray
    covered: np.ndarray  # fraction of the pixel
    areas: np.ndarray  # m2 of the covered part


def _parts(
    found: xr.DataArray,
    grid: Grid,
    shape: shapely.Geometry,
    names: Mapping[int, str] | None,
) -> Iterator[_Part]:
    """Read what lies in a polygon, in parts."""
    import shapely

    if shape.is_empty:
        return
    west, south, east, north = shape.bounds
    rows = range(max(0, int(-north)), min(grid.height, int(np.ceil(-south))))
    columns = range(max(0, int(west)), min(grid.width, int(np.ceil(east))))
    least = 1e-6 * min(1.0, shape.area)  # less than that is rounding at an edge
    shapely.prepare(shape)
    for down, across in windows(found, rows, columns):
        covered = _coverage(shape, down, across)
        kept = covered > least
        if not kept.any():
            continue
        values, given = read(found, down, across, names)
        kept &= given
        areas = covered * pixel_areas(grid, down, across)
        yield _Part(values[kept], covered[kept], areas[kept])


def _coverage(shape: shapely.Geometry, rows: slice, columns: slice) -> np.ndarray:
    """Fraction of each pixel that a polygon covers."""
    import shapely
    from exactextract import exact_extract
    from exactextract.raster import NumPyRasterSource

    size = rows.stop - rows.start, columns.stop - columns.start
    west, south, east, north = columns.start, -rows.stop, columns.stop, -rows.start
    if shapely.contains(shape, shapely.box(west, south, east, north)):
        return np.ones(size)
    covered = np.zeros(size)
    near = shapely.clip_by_rect(shape, west - 1, south - 1, east + 1, north + 1)
    flat = [part for part in shapely.get_parts(near) if part.geom_type == "Polygon"]
    if flat:
        grid = NumPyRasterSource(np.zeros(size, np.uint8), west, south, east, north)
        part = shapely.geometry.mapping(shapely.MultiPolygon(flat))
        feature = {"type": "Feature", "properties": {}, "geometry": part}
        (found,) = exact_extract(grid, [feature], ["cell_id", "coverage"])
        told = found["properties"]
        covered.flat[told["cell_id"]] = told["coverage"]
    return covered


def _share(part: float, whole: float) -> float:
    """Share of an area, to 5 digits: the whole is measured in another way than its pixels."""
    return min(1.0, round(part / whole, 5))


# --- quantities ------------------------------------------------------------------------------


@dataclass
class _Moments:
    """Area, mean and spread of pixels that come in parts (Chan, Golub and LeVeque, 1979)."""

    pixels: float = 0.0
    area: float = 0.0
    mean: float = np.nan
    square: float = 0.0
    low: float = np.inf
    high: float = -np.inf

    def add(self, part: _Part) -> None:
        """Take pixels in."""
        if not part.values.size:
            return
        if np.isnan(self.mean):
            self.mean = float(part.values[0])
        area = part.areas.sum()
        apart = part.values - self.mean  # from what is known: a constant stays exact
        shift = part.areas @ apart / area
        both = self.area + area
        self.square += part.areas @ (apart - shift) ** 2 + shift**2 * self.area * area / both
        self.mean += shift * area / both
        self.area = both
        self.pixels += part.covered.sum()
        self.low = min(self.low, part.values.min())
        self.high = max(self.high, part.values.max())

    def row(self, median: float, whole: float) -> dict[str, float]:
        """Make a row of the table of a polygon whose area is `whole`."""
        there = self.area > 0
        return {
            "pixels": self.pixels,
            "km2": self.area / 1e6,
            "covered": _share(self.area, whole),
            "mean": self.mean,
            "std": np.sqrt(self.square / self.area) if there else np.nan,
            "min": self.low if there else np.nan,
            "median": median,
            "max": self.high if there else np.nan,
        }


@dataclass
class _Median:
    """Weighted median of values that come in parts; many values are rounded to 14 bits."""

    values: list[np.ndarray] = field(default_factory=list)
    weights: list[np.ndarray] = field(default_factory=list)
    held: int = 0  # since they were rounded

    def add(self, part: _Part) -> None:
        """Take pixels in."""
        self.values.append(part.values)
        self.weights.append(part.areas)
        self.held += part.values.size
        if self.held > _EXACT:
            self._round()

    def _round(self) -> None:
        mantissa, power = np.frexp(np.concatenate(self.values))
        rounded = np.ldexp(np.round(mantissa * 2**14) / 2**14, power)
        values, where = np.unique(rounded, return_inverse=True)
        weights = np.bincount(where, np.concatenate(self.weights), values.size)
        self.values, self.weights, self.held = [values], [weights], 0

    def value(self) -> float:
        """Value below and above which there is an equal area."""
        values = np.concatenate(self.values) if self.values else np.zeros(0)
        if not values.size:
            return np.nan
        order = np.argsort(values)
        values, sums = values[order], np.cumsum(np.concatenate(self.weights)[order])
        half = sums[-1] / 2
        at = int(np.searchsorted(sums, half * (1 - 1e-12)))
        next_to = at + 1 if sums[at] <= half * (1 + 1e-12) else at
        return float((values[at] + values[min(next_to, values.size - 1)]) / 2)


def _quantities(found: xr.DataArray, grid: Grid, zones: Zones, shapes: np.ndarray) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for name, shape, whole in zip(zones.names, shapes, ground_areas(zones), strict=True):
        moments, median = _Moments(), _Median()
        for part in _parts(found, grid, shape, None):
            moments.add(part)
            median.add(part)
        middle = float(np.clip(median.value(), moments.low, moments.high))
        rows.append({"zone": name, **moments.row(middle, whole)})
    table = pd.DataFrame(rows)
    units = str(found.attrs.get("units", ""))
    table.attrs["units"] = units
    for end, area in _PER.items():
        if units.endswith(end):
            table["total"] = table["mean"] * table["km2"] * 1e6 / area
            table.attrs["total_units"] = units.removesuffix(end)
    return table


# --- classes ---------------------------------------------------------------------------------


def _classes(
    found: xr.DataArray,
    grid: Grid,
    zones: Zones,
    shapes: np.ndarray,
    names: Mapping[int, str],
) -> pd.DataFrame:
    import pandas as pd

    areas: list[dict[int, np.ndarray]] = []
    for shape in shapes:
        areas.append({})
        for part in _parts(found, grid, shape, names):
            tally(areas[-1], part.values, part.areas)
    values = sorted(set(names).union(*areas))
    rows = []
    for zone, sums, all_of_it in zip(zones.names, areas, ground_areas(zones), strict=True):
        whole = sum(float(area[0]) for area in sums.values())
        covered = _share(whole, all_of_it)
        for value in values:
            area = float(sums[value][0]) if value in sums else 0.0
            share = area / whole if whole else np.nan
            rows.append((zone, names.get(value, value), value, area / 1e6, share, covered))
    return pd.DataFrame(rows, columns=["zone", "class", "value", "km2", "share", "covered"])
