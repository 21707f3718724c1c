"""Cloud masks out of real or simulated Fmasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from geowb.composite import FMASK_CLOUDY
from geowb.errors import DataError

if TYPE_CHECKING:
    import xarray as xr

    from geowb.catalog import Source

__all__ = ["check_masks", "cut_masks", "known_mask"]

#: What says where clouds are; the first of them that a scene has is taken.
_HELD = ("missing", "cloud_probability", "fmask")


def cut_masks(
    source: Source, size: int = 64, *, low: float = 0.01, high: float = 0.99, seed: int = 0
) -> xr.DataArray:
    """Cut the masks of an entry into windows, in random order.

    >>> masks = cut_masks(geowb.open_catalog()["hls_fmask_tiles"], 64)  # doctest: +SKIP
    >>> masks.dims  # doctest: +SKIP
    ('sample', 'y', 'x')

    Parameters
    ----------
    source
        An entry whose images carry ``missing`` (1 where a cloud is), ``cloud_probability`` (per
        cent; missing above 50 %) or ``fmask`` (cloud, adjacent to cloud, shadow).
    size
        Edge of a window in pixels; what does not fill one is left out, and so are windows with a
        pixel outside of the image.
    low, high
        Least and largest share of a window that is missing.

    Returns
    -------
    xarray.DataArray
        ``(sample, y, x)`` bool, True where missing, with the coordinate ``cover (sample)``.

    Raises
    ------
    DataError
        If the entry has no mask, or no window is within the limits.
    """
    import xarray as xr

    free = list(source.entry.placeholders)
    opened = source.open_each(free[0]) if free else {source.name: source.open()}
    found = [part for scene in opened.values() for part in _windows(scene, source.name, size)]
    windows = np.concatenate(found) if found else np.empty((0, size, size), bool)
    cover = windows.mean((1, 2))
    windows = windows[(cover >= low) & (cover <= high)]
    if not len(windows):
        raise DataError(
            f"'{source.name}' has no window of {size} x {size} pixels of which {low:.0%} to "
            f"{high:.0%} is cloud: take a smaller size or wider limits."
        )
    order = np.random.default_rng(seed).permutation(len(windows))
    table = xr.DataArray(windows[order], dims=("sample", "y", "x"), name="missing")
    return table.assign_coords(cover=("sample", windows[order].mean((1, 2))))


def check_masks(value: str, *, catalog: str = "", task: str = "gap_filling") -> list[str]:
    """Say what is wrong with an entry that masks are to be cut from; empty for simulated ones.

    >>> check_masks("hls_fmask_tiles", task="flood")
    ["masks='hls_fmask_tiles' is for gap filling alone; the task is flood."]
    """
    if not value:
        return []
    if task != "gap_filling":
        return [f"masks='{value}' is for gap filling alone; the task is {task}."]
    from geowb.catalog import check_source

    return check_source(value, catalog=catalog, variables=["|".join(_HELD)])


def _windows(scene: xr.Dataset, name: str, size: int) -> list[np.ndarray]:
    """Windows of all masks of a scene or set, ``(n, size, size)`` bool."""
    parts = []
    for mask, known in _masks(scene, name):
        rows, columns = (edge // size for edge in mask.shape)
        if not rows * columns:
            continue
        cut = [
            plane[: rows * size, : columns * size]
            .reshape(rows, size, columns, size)
            .swapaxes(1, 2)
            .reshape(-1, size, size)
            for plane in (mask, known)
        ]
        parts.append(cut[0][cut[1].all((1, 2))])
    return parts


def _masks(scene: xr.Dataset, name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Masks ``(y, x)``, and where they are known."""
    held = [one for one in _HELD if one in scene]
    if not held:
        raise DataError(
            f"'{name}' has no missing, cloud_probability or fmask, only {', '.join(scene)}: it "
            "holds no clouds."
        )
    values = scene[held[0]].values
    planes = values.reshape(-1, *values.shape[-2:])
    if held[0] == "fmask":
        return [((one & FMASK_CLOUDY) > 0, one != 255) for one in planes.astype(np.uint8)]
    if held[0] == "missing":
        return [(one == 1, one >= 0) for one in planes]
    return [(one > 50, np.isfinite(one)) for one in planes]


def known_mask(scene: xr.Dataset, *, above: float = 20.0) -> xr.DataArray | None:
    """Where a scene says by itself that it is cloudy, ``(time, y, x)`` bool; None without fmask.

    >>> geowb.fill_gaps(scene, known_mask(scene))  # doctest: +SKIP

    By ``cloud_probability`` where the scene has one, missing above so many per cent; else None, by
    which `geowb.fill_gaps` looks at ``fmask``. (`cut_masks`, which wants the shapes of clouds,
    takes 50 %: here a clear pixel that is filled costs less than a cloud that stays.)
    """
    return scene["cloud_probability"] > above if "cloud_probability" in scene else None
