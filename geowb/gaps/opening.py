"""What is given to `geowb.fill_gaps`: a scene, a mask, a model; checked before anything starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from torch import nn

from geowb.composite import FMASK_CLOUDY
from geowb.errors import DataError, ModelError, RequestError, did_you_mean
from geowb.gaps.fillers import RULES, NetworkFiller
from geowb.models.files import load
from geowb.models.registry import SHIPPED, shipped
from geowb.models.wrapper import PixelModel

__all__ = ["DIMS", "Series", "open_filler", "open_series"]

#: Order of the dims in a series.
DIMS = ("time", "band", "y", "x")


@dataclass(frozen=True)
class Series:
    """A time series: ``values`` (T, C, H, W) float32 with NaN where ``missing`` (T, H, W)."""

    values: np.ndarray
    missing: np.ndarray
    days: np.ndarray
    bands: list[Any]


def open_filler(model: str | Path | nn.Module) -> nn.Module:
    """Find what is to fill."""
    found = model
    if isinstance(model, str) and model in RULES:
        return RULES[model]()
    if isinstance(model, str) and model in shipped():
        found = load(SHIPPED / model / "model.safetensors")
    elif isinstance(model, str | Path):
        if not Path(model).exists():
            hint = did_you_mean(str(model), [*shipped(), *RULES])
            raise ModelError(f"There is no model or model file '{model}'. {hint}")
        found = load(model)
    if isinstance(found, PixelModel) and NetworkFiller.fits(found):
        found = NetworkFiller(found)
    if not isinstance(found, nn.Module) or not hasattr(found, "fill"):
        name = getattr(found, "card", {}).get("name", type(found).__name__)
        raise ModelError(
            f"'{name}' cannot fill gaps: use a masked Prithvi (such as 'prithvi_demo'), a CGAN, a "
            f"NetworkFiller or a rule ({', '.join(RULES)})."
        )
    return found


def open_series(scene: xr.Dataset, mask: Any, filler: nn.Module) -> Series:
    """Check scene and mask, and read them."""
    if "reflectance" not in scene or set(scene["reflectance"].dims) != set(DIMS):
        held = scene["reflectance"].dims if "reflectance" in scene else ", ".join(scene)
        raise DataError(
            f"Gaps are filled in reflectance (time, band, y, x); the scene has {held}. Of a set of "
            "samples, take one: scene.isel(sample=0)."
        )
    bands = _bands(scene, filler)
    days = _days(scene)
    if (frames := filler.card["frames"] or 1) > len(days):
        raise DataError(
            f"'{filler.card['name']}' fills gaps from {frames} dates; the scene has {len(days)}. "
            f"Add dates, or use a rule such as 'linear', or a model of {len(days)}."
        )
    stored = scene["reflectance"].transpose(*DIMS)
    stored = stored.sel(band=bands) if bands else stored
    known = np.isfinite(stored.values)
    if stored.dtype.kind in "iu":
        known = stored.values != _nodata(stored)
    missing = _mask(scene, mask) | ~known.all(1)
    if missing.all():
        raise DataError(
            "The scene has no clear pixel: every one is masked or without data on each of its "
            f"{len(days)} dates. There is nothing to fill it from; look at the mask."
        )
    values = stored.values.astype(np.float32)
    values.transpose(0, 2, 3, 1)[missing] = np.nan
    return Series(values, missing, days, bands)


def _bands(scene: xr.Dataset, filler: nn.Module) -> list[Any]:
    """Names of the bands in the model's order; empty for a rule, which takes any."""
    wanted = filler.card.get("bands", [])
    held = scene["band"].values.tolist() if "band" in scene.coords else []
    lacking = [band for band in wanted if band not in held]
    more = [str(band) for band in held if band not in wanted]
    if wanted and (lacking or more):
        what = f"lacks {', '.join(lacking)}" if lacking else f"also has {', '.join(more)}"
        raise DataError(
            f"'{filler.card['name']}' fills the bands {', '.join(wanted)}; the scene {what}. "
            + ("Name its bands." if lacking else f"Choose them: scene.sel(band={wanted}).")
        )
    return list(wanted)


def _days(scene: xr.Dataset) -> np.ndarray:
    """Dates in days; the positions if none is known."""
    count = scene.sizes["time"]
    if "time" not in scene.coords:
        return np.arange(float(count))
    times = scene["time"].values
    if times.dtype.kind != "M":
        raise DataError(
            f"The scene's time is of {times.dtype}, such as {times[0]!r}: dates are datetime64. "
            "Give it some (scene.assign_coords(time=...)), or leave the coordinate out (drop_vars)."
        )
    times = times.astype("datetime64[s]")
    if np.isnat(times).all():
        return np.arange(float(count))
    if np.isnat(times).any():
        raise DataError("Some dates of the scene are NaT: give all of them, or none.")
    steps = np.diff(times)
    if (steps < np.timedelta64(0)).any():
        at = int((steps < np.timedelta64(0)).argmax())
        raise DataError(
            f"The dates do not ascend: {times[at + 1]} comes after {times[at]}. Sort them: "
            "scene.sortby('time'), and the mask with it."
        )
    if (steps == np.timedelta64(0)).any():
        at = int((steps == np.timedelta64(0)).argmax())
        raise DataError(
            f"The date {times[at]} comes twice. Keep one: scene.drop_duplicates('time')."
        )
    return (times - times[0]) / np.timedelta64(1, "D")


def _mask(scene: xr.Dataset, mask: Any) -> np.ndarray:
    """Say what is missing, ``(time, y, x)`` bool."""
    shape = tuple(scene.sizes[dim] for dim in ("time", "y", "x"))
    if mask is None:
        if "fmask" not in scene:
            raise DataError(
                "The scene has no fmask and no mask was given: which pixels are clouds? Give a "
                "mask (time, y, x), True where missing; of zeros if only no data is."
            )
        flags = scene["fmask"].transpose("time", "y", "x").values
        return (flags.astype(np.uint8) & FMASK_CLOUDY) > 0
    if isinstance(mask, xr.DataArray):
        if set(mask.dims) == {"time", "y", "x"}:
            mask = mask.transpose("time", "y", "x")
        for dim in (dim for dim in mask.dims if dim in mask.coords and dim in scene.coords):
            # Another size is told below.
            same = mask.sizes[dim] != scene.sizes[dim] or mask[dim].equals(scene[dim])
            if not same:
                raise RequestError(f"The mask has other coordinates along {dim} than the scene.")
    mask = np.asarray(mask)
    if mask.shape != shape:
        raise RequestError(f"The mask is {mask.shape}; the scene wants (time, y, x) {shape}.")
    if mask.dtype != bool and not np.isin(mask, (0, 1)).all():
        raise RequestError(
            f"The mask is of {mask.dtype} and not only 0 and 1: say what is missing, such as "
            "probability > 50."
        )
    return mask.astype(bool)


def _nodata(stored: xr.DataArray) -> int:
    """Value of an integer image that stands for no data."""
    held = {**stored.encoding, **stored.attrs}
    return int(held.get("_FillValue", held.get("nodata", -9999)))
