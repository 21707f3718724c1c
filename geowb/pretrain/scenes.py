"""What lies in the scenes that chips are cut from: clear shares, land cover, season and place.

A window is a square of `size` pixels of a grid that begins at the scene's first pixel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geowb.errors import DataError

if TYPE_CHECKING:
    import xarray as xr

    from geowb.pretrain.sampling import Sampling

__all__ = [
    "UNCLEAR",
    "clear_shares",
    "cover",
    "open_scene",
    "seasons",
    "times_of",
    "windows",
    "with_places",
]

#: Fmask: cloud, next to it, its shadow, snow; 255 (no data) has them all.
UNCLEAR = 0b0001_1110
_SEASONS = np.array(["DJF", "MAM", "JJA", "SON"])


def open_scene(sampling: Sampling, key: str) -> xr.Dataset:
    """Open a scene with the wanted bands; `reflectance` (time, band, y, x), after `sample` if any.

    >>> open_scene(Sampling("world"), "region=cerrado,seed=0")["fmask"].dims  # doctest: +SKIP
    ('time', 'y', 'x')

    `fmask` is uint8, 255 where there is no data; `time` is NaT where no time is published.
    """
    source = sampling.source()
    scene = source.open(**sampling.scenes(source)[key])
    if "reflectance" not in scene:
        raise DataError(f"The scene '{key}' has no reflectance: {', '.join(map(str, scene))}.")
    has = [str(band) for band in scene["band"].values]
    if missing := [band for band in sampling.bands if band not in has]:
        raise DataError(
            f"The scene '{key}' of '{sampling.data}' has no band {', '.join(missing)}. Wanted: "
            f"{', '.join(sampling.bands)}. It has: {', '.join(has)}. Give bands that it has."
        )
    scene = scene.sel(band=list(sampling.bands))
    if "time" not in scene.dims:
        scene["reflectance"] = scene["reflectance"].expand_dims("time")
    if "time" not in scene.coords or scene["time"].dtype.kind != "M":
        times = np.full(scene.sizes["time"], "NaT", "datetime64[ns]")
        scene = scene.assign_coords(time=("time", times))
    if "fmask" in scene:
        mask = scene["fmask"]
        if mask.dtype.kind == "f":
            mask = mask.fillna(255)
        if "time" not in mask.dims:
            mask = mask.expand_dims(time=scene.sizes["time"])
        scene["fmask"] = mask.astype("uint8").transpose(..., "time", "y", "x")
    if "landcover" in scene and scene["landcover"].dtype.kind == "f":
        scene["landcover"] = scene["landcover"].fillna(-1).astype("int16", keep_attrs=True)
    scene["reflectance"] = scene["reflectance"].transpose(..., "time", "band", "y", "x")
    height, width = scene.sizes["y"], scene.sizes["x"]
    if sampling.size > min(height, width):
        raise DataError(
            f"Chips of {sampling.size} pixels do not fit into the scene '{key}' of "
            f"'{sampling.data}', which has {height} x {width}. Give a smaller size."
        )
    return scene


def clear_shares(scene: xr.Dataset, size: int) -> np.ndarray:
    """Share of clear pixels, (time, rows, columns) of windows; one date is read at a time."""
    shares = []
    for date in range(scene.sizes["time"]):
        if "fmask" in scene:
            clear = (_read(scene["fmask"].isel(time=date)) & UNCLEAR) == 0
        else:
            clear = np.isfinite(_read(scene["reflectance"].isel(time=date))).all(0)
        shares.append(windows(clear, size).mean((-2, -1)))
    return np.stack(shares)


def cover(scene: xr.Dataset, size: int) -> list[list[str]]:
    """Name of the most frequent class of each window; of several the first."""
    rows, columns = scene.sizes["y"] // size, scene.sizes["x"] // size
    if "landcover" not in scene:
        return [["unknown"] * columns] * rows
    attrs = scene["landcover"].attrs
    values = np.asarray(attrs.get("flag_values", ())).tolist()
    names = dict(zip(values, str(attrs.get("flag_meanings", "")).split(), strict=False))

    def name(window: np.ndarray) -> str:
        classes, counts = np.unique(window[window >= 0], return_counts=True)
        if not classes.size:
            return "unlabelled"
        number = int(classes[counts.argmax()])
        return names.get(number, f"class_{number}")

    return [[name(window) for window in row] for row in windows(_read(scene["landcover"]), size)]


def times_of(scene: xr.Dataset) -> np.ndarray:
    """ISO time of each date, to the second."""
    return np.datetime_as_string(scene["time"].values, unit="s")


def seasons(times: np.ndarray) -> list[str]:
    """Season of each time.

    >>> seasons(np.array(["1969-12-01", "2022-05-31", "NaT"], "datetime64[s]"))
    ['DJF', 'MAM', 'undated']
    """
    month = times.astype("datetime64[M]").astype(int)  # 0: January
    return np.where(np.isnat(times), "undated", _SEASONS[(month + 1) % 12 // 3]).tolist()


def with_places(table: pd.DataFrame, scene: xr.Dataset, size: int) -> pd.DataFrame:
    """Add CRS, coordinates of the centre and, where they are known, longitude and latitude."""
    import rioxarray  # noqa: F401 - gives .rio
    from pyproj import Transformer

    table = table.assign(crs="", east=np.nan, north=np.nan, lon=np.nan, lat=np.nan)
    crs = scene.rio.crs
    if crs is None or "x" not in scene.coords or table.empty:
        return table
    for name, axis in (("east", "x"), ("north", "y")):
        values, first = scene[axis].values.astype(float), table[axis].to_numpy()
        table[name] = (values[first] + values[first + size - 1]) / 2
    turn = Transformer.from_crs(crs, 4326, always_xy=True)
    lon, lat = turn.transform(table["east"].to_numpy(), table["north"].to_numpy())
    epsg = crs.to_epsg()
    name = f"EPSG:{epsg}" if epsg else crs.to_wkt()
    return table.assign(crs=name, lon=np.round(lon, 6), lat=np.round(lat, 6))


def windows(array: np.ndarray, size: int) -> np.ndarray:
    """Cut (..., y, x) into (..., rows, columns, size, size); what fills no window is left out.

    >>> windows(np.zeros((3, 130, 64)), 64).shape
    (3, 2, 1, 64, 64)
    """
    rows, columns = (side // size for side in array.shape[-2:])
    whole = array[..., : rows * size, : columns * size]
    return whole.reshape(*array.shape[:-2], rows, size, columns, size).swapaxes(-3, -2)


def _read(array: xr.DataArray) -> np.ndarray:
    """Values of an array that may be lazy, read in this thread."""
    return array.compute(scheduler="sync").values
