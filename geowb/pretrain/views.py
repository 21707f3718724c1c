"""What a model sees of a batch of chips: dates, gains and masks, drawn from seeds alone.

Every draw depends on the recipe's seed and on the chip's key (which chip, in which epoch) or the
step, never on what was drawn before. So a training that was cut off goes on as if nothing had been,
and several devices see together what one would.
"""

from __future__ import annotations

import numpy as np
import torch

from geowb.pretrain.recipes import Recipe

__all__ = ["dates_of_step", "gains", "noise"]


def dates_of_step(recipe: Recipe, step: int) -> list[int]:
    """Choose the dates that a step sees, in order.

    >>> dates_of_step(recipe("swin_demo"), 7)
    [0]
    """
    frames = recipe.sampling.frames
    rng = np.random.default_rng((recipe.seed, 1, step))
    fewer = frames > 1 and rng.random() < recipe.fewer_dates
    count = int(rng.integers(1, frames)) if fewer else frames
    return sorted(rng.permutation(frames)[:count].tolist())


def noise(keys: torch.Tensor, units: int, seed: int) -> torch.Tensor:
    """Draw a number a unit for each chip, ``(B, units)``: the largest are hidden.

    >>> noise(torch.tensor([5, 9]), 64, seed=0).shape
    torch.Size([2, 64])
    """
    rows = [
        np.random.default_rng((seed, 2, key)).random(units, np.float32) for key in keys.tolist()
    ]
    return torch.from_numpy(np.stack(rows))


def gains(
    keys: torch.Tensor, bands: int, frames: int, recipe: Recipe
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a gain and an offset (counts) for each band and date of each chip: ``(B, C, T, 1, 1)``.

    >>> gain, offset = gains(torch.tensor([5]), 6, 3, recipe("prithvi_demo"))
    >>> gain.shape, offset.shape
    (torch.Size([1, 6, 3, 1, 1]), torch.Size([1, 6, 1, 1, 1]))

    The logarithm of the gain is `jitter` times the sum of twice a normal draw for the chip, one
    for the band and one for band and date; the offset is 2,000 times `jitter` times one for the
    band.
    """
    parts = np.split(np.arange(1 + bands * (2 + frames)), [1, 1 + bands, 1 + 2 * bands])
    draws = np.stack(
        [
            np.random.default_rng((recipe.seed, 3, key)).standard_normal(
                1 + bands * (2 + frames), np.float32
            )
            for key in keys.tolist()
        ]
    )
    chip, band, shift, date = (torch.from_numpy(draws[:, part]) for part in parts)
    date = date.reshape(-1, bands, frames)
    gain = torch.exp(recipe.jitter * (2 * chip[..., None] + band[..., None] + date))
    return gain[..., None, None], 2000 * recipe.jitter * shift[..., None, None, None]
