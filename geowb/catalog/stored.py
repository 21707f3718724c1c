"""Open rasters and Zarr lazily, their numbers as they are stored."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from geowb.catalog.fetch import no_network
from geowb.errors import DataError, RequestError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["absent", "open_quietly", "raster_as_stored", "zarr_as_stored"]

_OPENING = threading.Lock()  # warning filters belong to the whole process


def open_quietly(opener: Callable[..., Any], path: str | Path, **how: Any) -> Any:
    """Open a raster; a missing georeference is for the checks to judge, not for a warning."""
    from rasterio.errors import NotGeoreferencedWarning, RasterioIOError

    with _OPENING, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            return opener(path, **how)
        except RasterioIOError as error:
            if str(path).startswith("http") and "CURL error" in str(error):
                raise no_network(urlsplit(str(path)).netloc, None) from error
            raise DataError(f"'{path}' is not a raster that can be read: {error}") from error


def absent(path: str | Path) -> bool:
    """Tell whether a path is one of this machine where nothing is.

    >>> absent("nowhere.tif"), absent("https://example.org/scene.tif")
    (True, False)

    What names a driver (``netcdf:FILE:VARIABLE``) or a server is for GDAL to find.
    """
    text = str(path)
    return ":" not in text and not text.startswith("/vsi") and not Path(text).exists()


def raster_as_stored(path: str | Path) -> xr.DataArray:
    """Open a raster lazily ``(band, y, x)``, its numbers as they are stored.

    >>> raster_as_stored("scene.tif").dtype  # doctest: +SKIP
    dtype('int16')
    """
    import rioxarray
    import xarray as xr

    found = open_quietly(rioxarray.open_rasterio, path, cache=False, lock=False)
    if not isinstance(found, xr.DataArray):
        raise RequestError(
            f"'{path}' holds several rasters: name one, as in netcdf:FILE:VARIABLE, or open it and "
            "pass the array."
        )
    return found


def zarr_as_stored(path: str | Path) -> xr.Dataset:
    """Open a Zarr lazily, its numbers as they are stored.

    >>> zarr_as_stored("scene.zarr")["reflectance"].dims  # doctest: +SKIP
    ('band', 'y', 'x')
    """
    import xarray as xr

    try:
        found = xr.open_zarr(
            path, chunks=None, mask_and_scale=False, consolidated=False, decode_coords="all"
        )
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"'{path}' is not a Zarr that can be read: {error}") from error
    if not found.data_vars:
        raise DataError(f"'{path}' has no variable.")
    return found
