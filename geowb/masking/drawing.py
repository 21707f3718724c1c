"""Samples to train, measure and attack on: pixels in [0, 1], a class each.

>>> x, y = samples(places, rows, bounds=(0, 16), count=200, seed=0)  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from geowb.errors import DataError, RequestError

if TYPE_CHECKING:
    import xarray as xr

    from geowb.chips import ChipDataset
    from geowb.labelled import Places

__all__ = ["chip_samples", "pixel_range", "samples"]


def pixel_range(scene: xr.Dataset) -> tuple[float, float]:
    """Smallest and largest value that a pixel of an entry can have, as its catalog says.

    >>> pixel_range(geowb.open_catalog()["digits"].open())
    (0.0, 16.0)

    Raises
    ------
    DataError
        If the entry does not say: an epsilon would be a share of nothing.
    """
    if "pixel_range" not in scene.attrs:
        raise DataError(
            f"Entry '{scene.attrs.get('entry', '')}' does not say between which values its pixels "
            "lie, of which epsilon is a share: add pixel_range to its metadata in the catalog, "
            "such as [0, 255] for photographs or [0, 10000] for reflectance."
        )
    low, high = map(float, scene.attrs["pixel_range"])
    return low, high


def samples(
    places: Places,
    rows: np.ndarray,
    *,
    bounds: tuple[float, float],
    count: int = 0,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Take images that have a class, in random order: ``(N, C, H, W)`` in [0, 1], and ``(N,)``.

    Parameters
    ----------
    rows
        Which of the places, as a mask.
    bounds
        What becomes 0 and 1; what lies beyond (reflectance above 10,000) is cut off there.
    count
        How many at most; 0 for all.

    Raises
    ------
    DataError
        If none is left, or a class has none.
    """
    _check_count(count)
    chosen = np.flatnonzero(np.asarray(rows) & (places.classes >= 0))
    chosen = np.random.default_rng(seed).permutation(chosen)[: count or None]
    if not len(chosen):
        raise DataError("No image with a class is left: look at the split, and at least=.")
    low, high = bounds
    x = torch.from_numpy(places.images[chosen].astype(np.float32))
    x = ((x.clamp(low, high) - low) / (high - low)).clamp(0, 1)
    return x.to(device), torch.from_numpy(places.classes[chosen]).long().to(device)


def chip_samples(
    chips: ChipDataset,
    *,
    bounds: tuple[float, float] = (0.0, 10_000.0),
    count: int = 0,
    seed: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Take labelled chips in random order: ``(N, C, T, H, W)`` of counts, and ``(N, H, W)``.

    >>> x, y = chip_samples(ChipDataset(scenes, table, label="flood"), count=32)  # doctest: +SKIP

    Pixels stay counts; what lies beyond `bounds` (reflectance above 10,000, or below 0) is cut off.

    Raises
    ------
    DataError
        If no chip has a labelled pixel.
    """
    _check_count(count)
    rows = np.flatnonzero(chips.chips["labelled"].to_numpy() > 0)
    rows = np.random.default_rng(seed).permutation(rows)[: count or None]
    if not len(rows):
        raise DataError("No chip has a labelled pixel.")
    items = [chips[int(row)] for row in rows]
    x = torch.stack([item["image"] for item in items]).clamp(*bounds)
    return x, torch.stack([item["label"] for item in items])


def _check_count(count: int) -> None:
    if count < 0:
        raise RequestError(f"count is 0 (all) or more: {count}.")
