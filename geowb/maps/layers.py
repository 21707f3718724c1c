"""Layers of a map on a screen: a file, how it is drawn, and what is at a place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geowb.errors import DataError, RequestError, did_you_mean
from geowb.labels.grid import Grid
from geowb.maps.files import open_map
from geowb.maps.looks import Look, drawn, file_of, span
from geowb.maps.parts import grid_of, named, plane, read
from geowb.maps.tiles import quick, scaled, written

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Layer", "composite_layer", "map_layer", "value_at"]

#: Pixels of an edge of the picture from which limits and classes are found.
_SEEN = 512
#: Bands that are shown as red, green and blue, where a scene has them.
_BANDS = ("SWIR_1", "NIR_NARROW", "RED")


@dataclass(frozen=True)
class Layer:
    """A raster file, and how it is drawn: by its look, or three bands each between two limits."""

    name: str
    file: str
    found: xr.DataArray
    grid: Grid
    look: Look = field(default_factory=Look)
    bands: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    stretch: tuple[tuple[float, float], ...] = ()

    def told(self, lon: float, lat: float) -> str:
        """Say what is at a place: the value with its unit, the class, or no data."""
        if self.bands:
            planes = [self.found.isel(band=i) for i in range(len(self.bands))]
            found = [_value(one, self.grid, None, lon, lat) for one in planes]
            if all(value is None for value in found):
                return "no data"
            texts = ["-" if value is None else f"{value:.6g}" for value in found]
            return ", ".join(" ".join(pair) for pair in zip(self.bands, texts, strict=True))
        value = _value(self.found, self.grid, self.look.classes, lon, lat)
        if value is None:
            return "no data"
        if isinstance(value, str):
            return value
        return f"{value:.{self._digits()}f} {self.look.units}".rstrip()

    def _digits(self) -> int:
        """Digits after the point: as many for all values, by what is between the limits."""
        if self.found.dtype.kind in "iub" and not scaled(self.found):
            return 0
        span = self.look.limits[1] - self.look.limits[0]
        return int(np.clip(4 - np.trunc(np.log10(span)), 0, 12))


def value_at(source: str | Path | xr.DataArray, lon: float, lat: float) -> float | str | None:
    """Value of a map at a place: of the pixel that holds it.

    >>> value_at("agb.tif", -51.2, -27.1)  # doctest: +SKIP
    37.25

    Parameters
    ----------
    source
        A map as `geowb.maps.open_map` takes it.
    lon, lat
        Degrees (WGS 84).

    Returns
    -------
    float, str or None
        In the map's unit; the name of the class where the map names its classes; None where there
        is no data, and outside the map.

    Raises
    ------
    DataError
        If the map has no CRS, or cannot be read.
    """
    found = plane(source)
    grid = _located(found, source)
    return _value(found, grid, named(found, None), lon, lat)


def _value(
    found: xr.DataArray, grid: Grid, names: Mapping[int, str] | None, lon: float, lat: float
) -> float | str | None:
    row, column = (float(v) for v in grid.project(np.array(lon), np.array(lat)))
    if not (np.isfinite(row) and np.isfinite(column) and grid.holds(row, column)):
        return None
    row, column = int(row), int(column)
    values, given = read(found, slice(row, row + 1), slice(column, column + 1), names)
    if not given[0, 0]:
        return None
    return names.get(int(values[0, 0]), str(values[0, 0])) if names else float(values[0, 0])


def _located(found: xr.DataArray, source: Any) -> Grid:
    """Grid of a map; a DataError where it has no CRS."""
    if found.rio.crs is None:
        told = f"'{source}'" if isinstance(source, (str, Path)) else "The map"
        raise DataError(
            f"{told} has no CRS, so it has no place on Earth. If you know the CRS, give it: "
            "open_map(...).rio.write_crs(32722). plot_map draws it without."
        )
    return grid_of(found, source)


# --- from maps and scenes to layers ----------------------------------------------------------


def map_layer(
    source: str | Path | xr.DataArray,
    name: str,
    folder: Path,
    *,
    limits: tuple[float, float] | None,
    cmap: str,
) -> Layer:
    """Make a layer of a quantity or of classes; what is no raster file is written into one."""
    picture = drawn(source, size=_SEEN, limits=limits, cmap=cmap)
    found, look = picture.map, picture.look
    grid = _located(found, source)
    if file := file_of(source):
        return Layer(name, quick(file, folder), found, grid, look)
    file = written([found], grid, folder)
    kept = {key: found.attrs[key] for key in ("scale_factor", "add_offset") if key in found.attrs}
    stored = open_map(file)
    return Layer(name, file, stored.assign_attrs(stored.attrs | kept), grid, look)


def composite_layer(
    found: xr.DataArray, name: str, folder: Path, *, file: str = "", bands: Sequence[Any] = ()
) -> Layer:
    """Make a layer of three bands of ``(band, y, x)``: red, green and blue.

    `file` is the raster that the bands are in; without, the three are written into one.
    """
    known = _band_names(found)
    picked = [str(band) for band in bands]
    if not picked:
        usual = [band for band in _BANDS if band in known]
        picked = usual if len(usual) == 3 else known[:3]
    if missing := [band for band in picked if band not in known]:
        raise RequestError(
            f"The scene has no band '{missing[0]}'. {did_you_mean(missing[0], known)}"
        )
    if len(picked) != 3:
        raise RequestError(
            f"Red, green and blue are three bands, not {len(picked)}: {', '.join(picked)}."
        )
    places = [known.index(band) for band in picked]
    planes = found.isel(band=places).transpose("band", "y", "x")
    grid = _located(planes.isel(band=0, drop=True), file or None)
    if file:
        file = quick(file, folder)
    else:
        file = written(list(planes), grid, folder)
        planes, places = open_map(file), [0, 1, 2]
    numbers = tuple(place + 1 for place in places)
    stretch = _stretch(file, numbers)
    return Layer(name, file, planes, grid, bands=tuple(picked), numbers=numbers, stretch=stretch)


def _band_names(found: xr.DataArray) -> list[str]:
    """Names of bands: those of their coordinate, or a raster's own; else numbers from 1."""
    given = found.attrs.get("long_name")
    if isinstance(given, (tuple, list)) and len(given) == found.sizes["band"]:
        return [str(name) for name in given]
    if "band" in found.coords:
        return [str(name) for name in found["band"].values]
    return [str(number + 1) for number in range(found.sizes["band"])]


def _stretch(file: str, numbers: Sequence[int]) -> tuple[tuple[float, float], ...]:
    """2nd and 98th percentile of bands, as numbers in the file."""
    import rasterio

    with rasterio.open(file) as raster:
        shape = (len(numbers), min(_SEEN, raster.height), min(_SEEN, raster.width))
        seen = raster.read(list(numbers), out_shape=shape, masked=True).astype(float)
    seen = np.ma.masked_invalid(seen)
    return tuple(span(band.compressed(), None, (2, 98)) for band in seen)
