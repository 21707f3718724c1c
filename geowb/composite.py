"""Clear-sky composites of a scene."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from geowb.errors import DataError, RequestError

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

__all__ = ["FMASK_CLOUDY", "FMASK_SHADOW", "clear_mean", "leaf_on_months"]

#: Bits of the HLS v2 Fmask that make an observation unusable: cloud, adjacent to cloud, shadow.
FMASK_CLOUDY = 0b0000_1110
#: Of these the bit of shadows.
FMASK_SHADOW = 0b0000_1000


def clear_mean(scene: xr.Dataset, *, months: Collection[int] = ()) -> xr.Dataset:
    """Average the clear observations of each band and pixel over the dates.

    >>> composite = clear_mean(scene)  # doctest: +SKIP
    >>> composite.reflectance.sizes["time"]  # doctest: +SKIP
    1
    >>> composite = clear_mean(scene, months=leaf_on_months(scene))  # doctest: +SKIP

    Parameters
    ----------
    scene
        A scene with ``reflectance (time, band, y, x)``. Where it has an ``fmask``, observations
        flagged as cloud, adjacent to cloud or shadow are dropped. Scenes of one date without an
        ``fmask`` and sets of samples come back as they are.
    months
        Only images of these months (1-12) are used, such as the leaf-on season; empty for all.

    Returns
    -------
    xarray.Dataset
        One date (the middle of the dates used, NaT if one is unknown) and ``clear_looks (y, x)``,
        the number of clear observations; a pixel that was never clear is NaN in every band.

    Raises
    ------
    RequestError
        If a month is not 1-12.
    DataError
        If the scene has no time dimension, no image in these months or no dates to tell, or if no
        pixel was ever clear.

    Notes
    -----
    The recipe of the public biomass model: drop cloudy observations of the leaf-on season, take the
    mean of the clear values per band (ibm-granite/granite-geospatial-biomass, model card).
    """
    scene = _in_months(scene, months)
    if "sample" in scene.dims or ("fmask" not in scene and scene.sizes.get("time") == 1):
        return scene
    if "time" not in scene.dims:
        raise DataError("The scene has no time dimension, so there is nothing to average over.")
    reflectance = scene["reflectance"]
    clear = reflectance.notnull().all("band")
    if "fmask" in scene:
        clear &= (scene["fmask"].astype("uint8") & FMASK_CLOUDY) == 0
    if not any(bool(look.any()) for look in clear.transpose("time", ...)):
        raise DataError(
            f"No pixel of the scene is clear in any of its {scene.sizes['time']} images: a "
            "composite would be empty. Use more dates or another place."
        )
    mean = reflectance.where(clear).mean("time", dtype="float32", keep_attrs=True)
    rest = scene.drop_vars([n for n, v in scene.variables.items() if "time" in v.dims])
    composite = rest.assign(
        reflectance=mean.astype("float32").expand_dims(time=[_middle(scene["time"].values)]),
        clear_looks=clear.sum("time").astype("int16").assign_attrs(long_name="clear observations"),
    )
    return composite.assign_attrs(scene.attrs)


def leaf_on_months(scene: xr.Dataset) -> tuple[int, ...]:
    """Months of the leaf-on season at the middle of a scene, by hemisphere.

    >>> leaf_on_months(geowb.world.scene("cerrado", size=32, dates=1))  # doctest: +SKIP
    (11, 12, 1, 2, 3)

    May to September in the north and November to March in the south. This is a reading: the card of
    the public biomass model says "leaf-on season" of each hemisphere and names no months. Evergreen
    tropics have no such season; there it is the wet one, with more clouds.

    Raises
    ------
    DataError
        If the scene has no CRS.
    """
    import rioxarray  # noqa: F401 - gives .rio

    if scene.rio.crs is None:
        raise DataError("The scene has no CRS, so its hemisphere is unknown: give the months.")
    _, south, _, north = scene.rio.transform_bounds(4326)
    return (5, 6, 7, 8, 9) if south + north >= 0 else (11, 12, 1, 2, 3)


def _in_months(scene: xr.Dataset, months: Collection[int]) -> xr.Dataset:
    """Keep the images of some months, all of them if there are none."""
    import numpy as np

    wanted = list(months)
    if bad := [month for month in wanted if month not in range(1, 13)]:
        raise RequestError(f"Months are numbers from 1 to 12, not {', '.join(map(str, bad))}.")
    if not wanted:
        return scene
    if "time" not in scene.dims or np.isnat(scene["time"].values).any():
        raise DataError(
            "Images of the scene have no dates, so they cannot be chosen by month: leave months "
            "empty."
        )
    held = scene["time"].dt.month.values
    if not np.isin(held, wanted).any():
        raise DataError(
            f"The scene has no image in the months {', '.join(map(str, wanted))}; it has images in "
            f"{', '.join(str(month) for month in sorted(set(held.tolist())))}."
        )
    return scene.isel(time=np.isin(held, wanted))


def _middle(times: np.ndarray) -> np.datetime64:
    """Day half way between the first date and the last, NaT if one is unknown."""
    import numpy as np

    if np.isnat(times).any():
        return np.datetime64("NaT", "ns")
    days = times.astype("datetime64[D]").astype("int64")
    return np.datetime64(int(days.min() + days.max()) // 2, "D").astype("datetime64[ns]")
