"""What a map looks like: a reduced picture, the limits of its colours, its classes' colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geowb.errors import DataError, RequestError, did_you_mean
from geowb.maps.parts import named, plane, read, windows
from geowb.plots.axes import COLOURS

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Look", "Picture", "class_colours", "drawn", "file_of", "span"]

#: Whole numbers without a unit and without names are classes up to so many different ones.
_MOST = 32
#: Colours after Okabe and Ito's seven: their yellow, grey, and some of Tol's.
_MORE = ("#F0E442", "#999999", "#882255", "#332288", "#44AA99", "#DDCC77", "#661100")
#: GDAL's block cache, bytes.
_CACHE = 32 * 2**20


@dataclass(frozen=True)
class Look:
    """How a map is drawn: a quantity between two limits, or classes with a colour each.

    `classes` is None for a quantity; else it names the classes that are known or occur, by value.
    `colours` has them all, and may have more.
    """

    units: str = ""
    limits: tuple[float, float] = (0.0, 1.0)
    cmap: str = "viridis"
    classes: Mapping[int, str] | None = None
    colours: Mapping[int, str] | None = None


@dataclass(frozen=True)
class Picture:
    """A map that is at most so many pixels wide and high, north up.

    `values` (rows, columns) are in the map's unit, or its classes; `given` says where there are
    any.
    """

    map: xr.DataArray
    values: np.ndarray
    given: np.ndarray
    look: Look


def drawn(
    source: str | Path | xr.DataArray,
    *,
    size: int,
    variable: str = "",
    units: str | None = None,
    limits: tuple[float, float] | None = None,
    cmap: str = "viridis",
    classes: Mapping[int, str] | Sequence[str] | None = None,
    colours: Mapping[int, str] | Sequence[str] | None = None,
) -> Picture:
    """Reduce a map to a picture and find out how it is drawn.

    >>> drawn("agb.tif", size=512).look.units  # doctest: +SKIP
    'Mg/ha'

    Of a raster file each pixel of the picture is the mean of those below it, from the file's
    overviews where it has them; of classes and of arrays it is the one in the middle. Memory is
    that of a few blocks of the map, whatever its size.
    """
    _checked(limits, cmap, size)
    found = plane(source, variable)
    file = file_of(source)
    own = _table(file) if colours is None and file else {}
    names = {} if own and classes is None and not found.attrs.get("flag_meanings") else None
    names = named(found, classes) if names is None else names
    values, given = _reduced(found, file, size, names)
    if names == {} and not own and np.unique(values[given]).size > _MOST:
        names = None  # such as heights, in whole metres
        values, given = _reduced(found, file, size, names)
    if names is None:
        unit = str(found.attrs.get("units", "")) if units is None else units
        look = Look("" if unit == "1" else unit, span(values[given], limits), cmap)
    else:
        occurring = [int(value) for value in np.unique(values[given])]
        known = dict(sorted(names.items()))  # first, so that others do not change their colours
        known |= {value: str(value) for value in occurring if value not in known}
        look = Look(classes=known, colours=class_colours(known, own, colours))
    return Picture(found, *_north_up(found, values, given), look)


def span(
    values: np.ndarray,
    limits: tuple[float, float] | None = None,
    shares: tuple[float, float] = (1, 99),
) -> tuple[float, float]:
    """Limits of the colours: those asked for, or percentiles; never equal."""
    if limits is not None:
        return float(limits[0]), float(limits[1])
    if not values.size:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(values, shares))
    if low == high:
        low, high = (float(v) for v in (values.min(), values.max()))
    half = abs(low) / 10 or 1.0
    return (low, high) if low < high else (low - half, high + half)


def _checked(limits: Any, cmap: str, size: int) -> None:
    """Refuse what cannot be drawn, before a map is opened."""
    import matplotlib

    if limits is not None:
        pair = np.asarray(limits, dtype=float)
        if pair.shape != (2,) or not np.isfinite(pair).all() or pair[0] >= pair[1]:
            raise RequestError(f"Limits are a low and a higher number, such as (0, 300): {limits}.")
    if cmap not in matplotlib.colormaps:
        raise RequestError(
            f"There is no colour map '{cmap}'. {did_you_mean(cmap, matplotlib.colormaps)}"
        )
    if size < 1:
        raise RequestError(f"A picture has a size of 1 pixel or more; size is {size}.")


# --- reading ---------------------------------------------------------------------------------


def file_of(source: Any) -> str:
    """Name of the raster file that a map is; empty for a Zarr and for an array."""
    if isinstance(source, (str, Path)) and not str(source).rstrip("/").endswith(".zarr"):
        return str(source)
    return ""


def _reduced(
    found: xr.DataArray, file: str, size: int, names: Mapping[int, str] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Values of a map at most `size` pixels an edge, and where there are any."""
    shape = tuple(min(size, edge) for edge in found.shape)
    return _overview(found, file, shape, names) if file else _sampled(found, shape, names)


def _overview(
    found: xr.DataArray, file: str, shape: tuple[int, int], names: Mapping[int, str] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Let GDAL reduce a file, from its overviews where it has them."""
    import rasterio
    from rasterio.enums import Resampling
    from rasterio.errors import RasterioError

    how = Resampling.nearest if names is not None else Resampling.average
    try:
        with rasterio.Env(GDAL_CACHEMAX=_CACHE), rasterio.open(file) as raster:
            seen = raster.read(1, out_shape=shape, resampling=how, masked=True)
    except RasterioError as error:
        raise DataError(
            f"'{file}' cannot be read: {error.__cause__ or error}. Get the file anew."
        ) from error
    rows, columns = (slice(0, edge) for edge in shape)
    values, given = read(found[rows, columns].copy(data=seen.data), rows, columns, names)
    return values, given & ~np.ma.getmaskarray(seen)


def _sampled(
    found: xr.DataArray, shape: tuple[int, int], names: Mapping[int, str] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Take the pixels of an array that lie in the middle of those of the picture."""
    rows, columns = (
        ((np.arange(n) + 0.5) * edge / n).astype(int)
        for n, edge in zip(shape, found.shape, strict=True)
    )
    values = np.zeros(shape, np.int64 if names is not None else float)
    given = np.zeros(shape, bool)
    for part, across in windows(found):
        down = slice(*np.searchsorted(rows, (part.start, part.stop)))
        along = slice(*np.searchsorted(columns, (across.start, across.stop)))
        if down.start == down.stop or along.start == along.stop:
            continue
        block = read(found, part, across, names)
        at = np.ix_(rows[down] - part.start, columns[along] - across.start)
        values[down, along], given[down, along] = (held[at] for held in block)
    return values, given


def _north_up(found: xr.DataArray, *planes: np.ndarray) -> list[np.ndarray]:
    """Turn planes so that north is up and east is right."""
    turned = []
    for held in planes:
        for axis, (name, sign) in enumerate((("y", -1), ("x", 1))):
            if name in found.coords and sign * float(found[name][-1] - found[name][0]) < 0:
                held = np.flip(held, axis)
        turned.append(held)
    return turned


# --- the colours of classes ------------------------------------------------------------------


def _table(file: str) -> dict[int, str]:
    """Colour table of a TIFF; empty where it has none."""
    import rasterio
    from matplotlib.colors import to_hex
    from rasterio.enums import ColorInterp

    with rasterio.open(file) as raster:
        if raster.colorinterp[0] != ColorInterp.palette:
            return {}
        table = raster.colormap(1)
    return {value: to_hex(np.array(rgba[:3]) / 255) for value, rgba in table.items()}


def class_colours(
    classes: Mapping[int, str],
    own: Mapping[int, str] | None = None,
    asked: Mapping[int, str] | Sequence[str] | None = None,
) -> dict[int, str]:
    """Find a colour for each class: the one asked for, the file's own, else one from a list."""
    from matplotlib.colors import is_color_like, to_hex

    if asked is not None and not isinstance(asked, Mapping):
        asked = dict(zip(classes, asked, strict=False))
    asked = {int(value): colour for value, colour in (asked or {}).items()}
    for value, colour in asked.items():
        if not is_color_like(colour):
            raise RequestError(
                f"The colour of class {value} is '{colour}': give a name or #rrggbb, as matplotlib "
                "knows them."
            )
    chosen = dict(own or {}) | {value: to_hex(colour) for value, colour in asked.items()}
    named = any(name != str(value) for value, name in classes.items())
    if not named and all(0 <= value < 256 for value in classes):
        # By value, so that a class has one colour in all maps of its kind.
        return dict(enumerate(_palette(256)[:256])) | chosen
    return dict(zip(classes, _palette(len(classes)), strict=False)) | chosen


def _palette(count: int) -> list[str]:
    """Colours that can be told apart: Okabe and Ito's, then longer lists."""
    first = [*COLOURS, *_MORE]
    if count <= len(first):
        return first
    import holoviews.plotting  # noqa: F401 - registers the lists
    from holoviews.plotting.util import process_cmap

    more = [colour.upper() for colour in process_cmap("glasbey_hv", categorical=True)]
    longer = list(dict.fromkeys(first + more))
    return longer * (count // len(longer) + 1)
