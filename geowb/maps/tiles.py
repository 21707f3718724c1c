"""Tiles of rasters on a screen: the files that they are made from, and their server."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geowb.errors import DataError, RequestError
from geowb.maps.parts import windows

if TYPE_CHECKING:
    import xarray as xr

    from geowb.labels.grid import Grid
    from geowb.maps.layers import Layer
    from geowb.maps.looks import Look

__all__ = ["nodata_of", "quick", "scaled", "tiles", "written"]

#: Files with an edge of more pixels need overviews.
_LARGE = 512
#: Options of GDAL that the tile server sets in the environment.
_SET = ("GDAL_DISABLE_READDIR_ON_OPEN", "GDAL_NUM_THREADS")
#: Colour of a class that has none.
_OTHER = "#808080"


def written(planes: Sequence[xr.DataArray], grid: Grid, folder: Path) -> str:
    """Write arrays ``(y, x)`` into a GeoTIFF of their own type, a part at a time."""
    import rasterio
    from rasterio.windows import Window

    first = planes[0]
    kind = {"bool": "uint8", "float16": "float32"}.get(first.dtype.name, first.dtype.name)
    if not rasterio.dtypes.check_dtype(kind) or "complex" in kind:
        raise DataError(f"A map is of numbers; this one is of {first.dtype}.")
    file = _new(folder, "tif")
    profile = {
        "driver": "GTiff",
        "width": grid.width,
        "height": grid.height,
        "count": len(planes),
        "dtype": kind,
        "crs": first.rio.crs,
        "transform": grid.transform,
        "nodata": nodata_of(first),
    }
    layout = {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate"}
    more = {"zlevel": 1, "bigtiff": "if_safer"}
    with _cache(), rasterio.open(file, "w", **profile, **layout, **more) as raster:
        for number, one in enumerate(planes, start=1):
            for rows, columns in windows(one):
                window = Window.from_slices(rows, columns)
                raster.write(one[rows, columns].to_numpy().astype(kind), number, window=window)
    _reduce(file)
    return str(file)


def quick(file: str, folder: Path) -> str:
    """Give a large file overviews, without which each tile would read all of it.

    They lie in `folder`, beside a virtual raster that reads the file.
    """
    import rasterio
    import rasterio.shutil

    if "://" in file or file.startswith("/vsi"):
        return file
    with rasterio.open(file) as raster:
        if raster.overviews(1) or max(raster.shape) <= _LARGE:
            return file
    virtual = _new(folder, "vrt")
    rasterio.shutil.copy(Path(file).resolve(), virtual, driver="VRT")
    _reduce(virtual)
    return str(virtual)


def _reduce(file: Path) -> None:
    """Build overviews, down to a tile."""
    import rasterio
    from rasterio.enums import Resampling

    with _cache(), rasterio.open(file, "r+") as raster:
        longest = max(raster.shape)
        if smaller := [2**n for n in range(1, 16) if longest / 2**n >= 256]:
            raster.build_overviews(smaller, Resampling.nearest)


def _cache() -> Any:
    """Keep GDAL's block cache small: by default it takes a twentieth of the memory."""
    import rasterio

    return rasterio.Env(GDAL_CACHEMAX=64 * 2**20)


def _new(folder: Path, suffix: str) -> Path:
    return folder / f"{len(list(folder.iterdir())) + 1}.{suffix}"


def nodata_of(found: xr.DataArray) -> float | None:
    """Find what stands for no data in the numbers of a map."""
    nodata = found.rio.nodata
    if nodata is None:
        return np.nan if found.dtype.kind == "f" else None
    fits = found.dtype.kind == "f" or found.dtype.type(nodata) == nodata
    return float(nodata) if fits else None


def scaled(found: xr.DataArray) -> tuple[float, float] | None:
    """Scale and offset of a map whose numbers are not in its unit."""
    scale = float(found.attrs.get("scale_factor", 1)), float(found.attrs.get("add_offset", 0))
    return scale if scale != (1, 0) else None


def tiles(layer: Layer, *, opacity: float = 1.0) -> Any:
    """Serve a layer from this process and return the ipyleaflet layer of its tiles.

    The server reads the file when a browser asks for a tile, so the file must stay.
    """
    from localtileserver import TileClient

    # The tile server sets them for the whole process, in which files then lose what lies beside
    # them, such as overviews, and are decoded by threads that keep errors to themselves.
    before = {name: os.environ.get(name) for name in _SET}
    client = TileClient(layer.file)
    for name in (name for name, value in before.items() if value is None):
        os.environ.pop(name, None)
    south, north, west, east = client.bounds()
    if "google.colab" in sys.modules or any(name.startswith("VSCODE") for name in os.environ):
        client.enable_jupyter_loopback()  # a browser elsewhere: tiles go through the kernel
    made = _bounded_tiles()(
        url=client.get_tile_url(client=True, **_style(layer)),
        bounds=((south, west), (north, east)),
        name=layer.name,
        opacity=opacity,
        max_zoom=30,
        max_native_zoom=30,
    )
    made.tile_server = client  # lives as long as its tiles
    return made


@cache
def _bounded_tiles() -> type:
    """Class of tiles that are asked for within bounds only."""
    import traitlets
    from ipyleaflet import TileLayer

    class BoundedTiles(TileLayer):
        bounds = traitlets.Tuple().tag(sync=True, o=True)

    return BoundedTiles


def _style(layer: Layer) -> dict[str, Any]:
    """Bands, limits and colours in the words of the tile server."""
    nodata = nodata_of(layer.found)
    if layer.bands:
        low, high = (list(ends) for ends in zip(*layer.stretch, strict=True))
        return {"indexes": list(layer.numbers), "vmin": low, "vmax": high, "nodata": nodata}
    look = layer.look
    if look.classes is None:
        import matplotlib

        scale, offset = scaled(layer.found) or (1.0, 0.0)
        low, high = ((limit - offset) / scale for limit in look.limits)
        colours = matplotlib.colormaps[look.cmap]
        if low > high:
            low, high, colours = high, low, colours.reversed()
        return {
            "indexes": [1],
            "vmin": low,
            "vmax": high,
            "colormap": colours,
            "nodata": nodata,
        }
    if nodata is None and -1 not in look.classes and layer.found.dtype.kind != "u":
        nodata = -1
    return {"indexes": [1], "nodata": nodata} | _class_style(look)


def _class_style(look: Look) -> dict[str, Any]:
    """Find a colour for each of 256 values: the server makes bytes of all numbers."""
    from matplotlib.colors import ListedColormap

    first, last = min(look.classes, default=0), max(look.classes, default=0)
    if last - first > 255:
        raise RequestError(
            f"The classes have values from {first} to {last}; on a screen map they can be at most "
            "255 apart. Number them anew, or draw the map with plot_map."
        )
    if first >= 0 and last <= 255:
        start = 0 if last == 255 else -1  # a place for what lies below the classes
    else:
        start = first if last - first == 255 else first - 1
    colours = [look.colours.get(start + n, _OTHER) for n in range(256)]
    return {"vmin": start, "vmax": start + 255, "colormap": ListedColormap(colours)}
