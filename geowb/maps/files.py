"""Open a map: a quantity or classes on a grid, with its unit or the names of its classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geowb.errors import DataError, RequestError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["class_names", "open_map"]


def open_map(source: str | Path | xr.DataArray, variable: str = "") -> xr.DataArray:
    """Open a map lazily.

    >>> open_map("agb.tif").attrs["units"]  # doctest: +SKIP
    'Mg/ha'

    Parameters
    ----------
    source
        A GeoTIFF, a Zarr that `geowb.predict.predict_scene` wrote, or an array that is open.
    variable
        Which variable of a Zarr; its first if left out.

    Returns
    -------
    xarray.DataArray
        ``(y, x)`` or ``(band, y, x)``, values as they are stored, read when they are used;
        ``.rio.nodata`` is what stands for no data. Attributes ``units`` and ``long_name``, or
        ``flag_values`` and ``flag_meanings`` of classes.

    Raises
    ------
    RequestError
        If there is no such file or variable.
    DataError
        If it cannot be read as a map.
    """
    import rioxarray  # noqa: F401 - gives .rio
    import xarray as xr

    if isinstance(source, xr.DataArray):
        found = source
    elif isinstance(source, xr.Dataset):
        raise RequestError("A map is one variable: pass scene['agb'] rather than the scene.")
    elif str(source).rstrip("/").endswith(".zarr"):
        found = _variable(Path(source), variable)
    else:
        found = _raster(source)
    found = found.squeeze("band", drop=True) if found.sizes.get("band") == 1 else found
    units = found.attrs.get("units")
    if isinstance(units, (tuple, list)) and len(set(units)) == 1:  # of several bands of a file
        found = found.assign_attrs(units=units[0])
    if not {"y", "x"} <= set(found.dims):
        raise DataError(f"A map has the dimensions y and x; this one has {', '.join(found.dims)}.")
    return found


def class_names(found: xr.DataArray) -> dict[int, str]:
    """Names of a map's classes by their values; empty for a quantity.

    >>> class_names(open_map("landcover.tif"))  # doctest: +SKIP
    {0: 'forest', 1: 'water'}
    """
    meanings = str(found.attrs.get("flag_meanings", "")).split()
    values = found.attrs.get("flag_values", range(len(meanings)))
    if isinstance(values, str):
        values = values.replace(",", " ").split()
    if meanings and len(values) != len(meanings):
        raise DataError(
            f"The map has {len(values)} flag_values and {len(meanings)} flag_meanings: of classes "
            "there are as many names as numbers."
        )
    names = [name.replace("_", " ") for name in meanings]
    return dict(zip((int(value) for value in values), names, strict=False))


def _raster(source: str | Path) -> xr.DataArray:
    from geowb.catalog.stored import absent, raster_as_stored

    if absent(source):
        raise RequestError(f"There is no map '{source}'.")
    return raster_as_stored(source)


def _variable(folder: Path, variable: str) -> xr.DataArray:
    from geowb.catalog.stored import zarr_as_stored

    if not folder.exists():
        raise RequestError(f"There is no map '{folder}'.")
    data = zarr_as_stored(folder)
    names: Mapping[Any, Any] = data.data_vars
    if variable and variable not in names:
        raise RequestError(
            f"'{folder}' has no variable '{variable}': {', '.join(map(str, names))}."
        )
    data = data.rio.write_crs(data.rio.crs) if data.rio.crs else data
    return data[variable or next(iter(names))]
