"""A map in parts that fit into memory: where its blocks lie, what they hold, what is no data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geowb.errors import DataError, RequestError
from geowb.labels.grid import Grid
from geowb.maps.files import class_names, open_map

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["grid_of", "named", "plane", "read", "tally", "windows"]

#: Pixels of a map that are read at a time, where its blocks are not larger.
_CELLS = 2**19
#: GDAL's block cache, bytes.
_CACHE = 32 * 2**20
#: A map with more classes than this is taken for a quantity.
_MOST = 1_000


def plane(source: str | Path | xr.DataArray, variable: str = "") -> xr.DataArray:
    """Open a map of one band; a RequestError for one of several."""
    found = open_map(source, variable)
    more = {str(name): size for name, size in found.sizes.items() if name not in ("y", "x")}
    if more:
        name, size = next(iter(more.items()))
        raise RequestError(
            f"The map has {size} layers along '{name}': choose one, such as "
            f"open_map(...).isel({name}=0)."
        )
    return found.transpose("y", "x")


def grid_of(found: xr.DataArray, source: Any = None) -> Grid:
    """Grid of a map; `source` is what it is called in an error."""
    from affine import Affine
    from pyproj import CRS

    if found.rio.crs is None:
        told = f"'{source}'" if isinstance(source, (str, Path)) else "The map"
        raise DataError(
            f"{told} has no CRS, so the area of its pixels is not known. If you know the CRS, "
            "give it: open_map(...).rio.write_crs(32722)."
        )
    transform = found.rio.transform()
    if transform.b == transform.d == 0:
        transform = found.rio.transform(recalc=True)  # of a part of a map, too
    elif {"xc", "yc"} <= set(found.coords) and min(found.shape) > 1:
        # A part of a turned map has the transform of the whole, and coordinates of its own.
        corners = [
            [float(found[name][at]) for name in ("xc", "yc")] for at in ((0, 0), (0, -1), (-1, 0))
        ]
        (x, y), right, down = np.array(corners)
        a, d = (right - (x, y)) / (found.shape[1] - 1)
        b, e = (down - (x, y)) / (found.shape[0] - 1)
        transform = Affine(a, b, x - (a + b) / 2, d, e, y - (d + e) / 2)
    return Grid(CRS.from_user_input(found.rio.crs), transform, *found.shape)


def named(
    found: xr.DataArray, classes: Mapping[int, str] | Sequence[str] | None
) -> dict[int, str] | None:
    """Names of a map's classes by value, empty where they have none; None for a quantity."""
    if classes is not None:
        given = classes if isinstance(classes, Mapping) else dict(enumerate(classes))
        return {int(value): str(name) for value, name in given.items()}
    if names := class_names(found):
        return names
    scaled = found.attrs.get("scale_factor", 1) != 1 or found.attrs.get("add_offset", 0) != 0
    whole = found.dtype.kind in "iub"
    return {} if whole and not scaled and not found.attrs.get("units") else None


def windows(
    found: xr.DataArray, rows: range | None = None, columns: range | None = None
) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the parts in which a map is read, along its blocks."""
    rows = range(found.shape[0]) if rows is None else rows
    columns = range(found.shape[1]) if columns is None else columns
    if len(rows) * len(columns) <= _CELLS:
        high, wide = max(1, rows.stop), max(1, columns.stop)
    else:
        high, wide = _block(found)
        wide = min(columns.stop, max(wide, _CELLS // high // wide * wide))
        high = max(high, _CELLS // wide // high * high)
        if high * wide > 4 * _CELLS:  # blocks too large to be held more than once
            high, wide = max(1, _CELLS // min(wide, _CELLS)), min(wide, _CELLS)
    for part in _cut(rows, high):
        for across in _cut(columns, wide):
            yield part, across


def _block(found: xr.DataArray) -> tuple[int, int]:
    """Rows and columns of a block, as they are stored."""
    stored = found.encoding.get("preferred_chunks", {})
    if found.chunks:
        stored = {name: sizes[0] for name, sizes in found.chunksizes.items()}
    high, wide = (
        min(stored.get(name, 512), size) for name, size in zip(("y", "x"), found.shape, strict=True)
    )
    return high, wide


def _cut(along: range, size: int) -> Iterator[slice]:
    """Parts of a side that end at multiples of a size."""
    start = along.start
    while start < along.stop:
        stop = min((start // size + 1) * size, along.stop)
        yield slice(start, stop)
        start = stop


def read(
    found: xr.DataArray, rows: slice, columns: slice, names: Mapping[int, str] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Read a part of a map: its values, and where there are any.

    Classes are whole numbers. Quantities are float64 in their unit. Without `names` it is a
    quantity.
    """
    import rasterio
    from rasterio.errors import RasterioError

    try:
        with rasterio.Env(GDAL_CACHEMAX=_CACHE):
            values = found[rows, columns].to_numpy()
    except RasterioError as error:
        raise DataError(
            f"The map cannot be read in rows {rows.start}-{rows.stop - 1}, columns "
            f"{columns.start}-{columns.stop - 1}: {error.__cause__ or error}. Get the file anew."
        ) from error
    values = values.astype(np.uint8) if values.dtype.kind == "b" else values
    given = np.isfinite(values)
    nodata = found.rio.nodata
    if nodata is None and names is not None and -1 not in names:
        nodata = -1
    if nodata is not None:
        given &= values != _like(values, nodata)
    if names is None:
        scale, offset = found.attrs.get("scale_factor", 1), found.attrs.get("add_offset", 0)
        values = values.astype(float) * float(scale) + float(offset)
    elif values.dtype.kind == "f":
        values = _whole(values, given)
    return values, given


def _like(values: np.ndarray, nodata: Any) -> Any:
    """Bring what stands for no data into the type of the values."""
    if values.dtype.kind == "f":
        return values.dtype.type(nodata)
    return int(nodata) if float(nodata).is_integer() else float(nodata)


def _whole(values: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Classes that are stored as floats, as whole numbers."""
    whole = np.where(given, values, 0).astype(np.int64)
    other = given & (whole != values)
    if other.any():
        raise DataError(
            f"Classes are whole numbers; the map has {values[other][0]:g}. If it is a quantity, "
            "use zonal_summary without classes."
        )
    return whole


def tally(sums: dict[int, np.ndarray], values: np.ndarray, *weights: np.ndarray) -> None:
    """Add what pixels weigh to the sums of their classes."""
    unique, where = np.unique(values, return_inverse=True)
    added = np.stack([np.bincount(where, w, unique.size) for w in weights], axis=-1)
    for value, more in zip(unique.tolist(), added, strict=True):
        sums[value] = sums.get(value, 0) + more
    if len(sums) > _MOST:
        raise DataError(
            f"The map has more than {_MOST:,} classes. If it is a quantity, say so: "
            "zonal_summary(open_map(...).astype('float32'), ...)."
        )
