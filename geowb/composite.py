"""Clear-sky composites of a scene."""

from __future__ import annotations

from typing import TYPE_CHECKING

from geowb.errors import DataError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["FMASK_CLOUDY", "clear_mean"]

#: Bits of the HLS v2 Fmask that make an observation unusable: cloud, adjacent to cloud, shadow.
FMASK_CLOUDY = 0b0000_1110


def clear_mean(scene: xr.Dataset) -> xr.Dataset:
    """Average the clear observations of each band and pixel over the dates.

    >>> composite = clear_mean(scene)  # doctest: +SKIP
    >>> composite.reflectance.sizes["time"]  # doctest: +SKIP
    1

    Parameters
    ----------
    scene
        A scene with ``reflectance (time, band, y, x)``. Where it has an ``fmask``, observations
        flagged as cloud, adjacent to cloud or shadow are dropped. Scenes of one date without an
        ``fmask`` and sets of samples come back as they are.

    Returns
    -------
    xarray.Dataset
        One date (the middle of the dates used) and ``clear_looks (y, x)``, the number of clear
        observations; a pixel that was never clear is NaN in every band.

    Notes
    -----
    The recipe of the public biomass model: drop cloudy observations, take the mean of the clear
    values per band (ibm-granite/granite-geospatial-biomass, model card).
    """
    if "sample" in scene.dims or ("fmask" not in scene and scene.sizes.get("time") == 1):
        return scene
    if "time" not in scene.dims:
        raise DataError("The scene has no time dimension, so there is nothing to average over.")
    reflectance = scene["reflectance"]
    clear = reflectance.notnull().all("band")
    if "fmask" in scene:
        clear &= (scene["fmask"].astype("uint8") & FMASK_CLOUDY) == 0
    mean = reflectance.where(clear).mean("time", dtype="float32", keep_attrs=True)
    middle = scene["time"].values[[0, -1]].astype("datetime64[D]").astype("int64").mean()
    times = [middle.astype("datetime64[D]").astype("datetime64[ns]")]
    rest = scene.drop_vars([n for n, v in scene.variables.items() if "time" in v.dims])
    composite = rest.assign(
        reflectance=mean.astype("float32").expand_dims(time=times),
        clear_looks=clear.sum("time").astype("int16").assign_attrs(long_name="clear observations"),
    )
    return composite.assign_attrs(scene.attrs)
