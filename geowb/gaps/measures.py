"""How good a filling is: on the missing pixels, and as it was published."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from geowb.errors import DataError
from geowb.models.wrapper import placed

if TYPE_CHECKING:
    from torch import nn

    from geowb.gaps.chips import GapDataset

__all__ = ["measure", "paired", "scores", "ssim_missing", "with_interval"]


def scores(filled: torch.Tensor, truth: torch.Tensor, missing: torch.Tensor) -> pd.DataFrame:
    """Score filled images against the truth, a row a sample.

    >>> truth = torch.full((1, 6, 3, 16, 16), 2000.0)
    >>> missing = torch.zeros(1, 3, 16, 16, dtype=torch.bool)
    >>> missing[:, 1, :4] = True
    >>> row = scores(truth + 100.0 * missing[:, None], truth, missing).iloc[0]
    >>> print(f"{row.mae_missing:.3f} {row.cover:.2f}")
    0.010 0.25

    Only dates with missing pixels count; values are reflectance (counts / 10,000).

    Parameters
    ----------
    filled, truth
        ``(B, C, T, H, W)`` in counts. Clear pixels of `filled` are taken from `truth`, whatever
        they hold. A pixel without data in `truth` (NaN in any band) is not scored.
    missing
        ``(B, T, H, W)`` bool.

    Returns
    -------
    pandas.DataFrame
        ``cover``: share missing of the dates with gaps.
        ``mae_missing``, ``rmse_missing``: over the missing pixels and all bands.
        ``ssim_missing``: the SSIM map of torchmetrics (Gaussian window, sigma 1.5, data range 1),
        of the filled against the true image, averaged over the missing pixels only.
        ``ssim_published``: both images are multiplied by the mask, and the map is averaged over the
        whole image. Away from the gaps zero meets zero, which counts 1: it rises with the clear
        part, whatever the filling is.
        ``mae_published``: the mean over the whole image, multiplied by the mask, divided by the
        mean cover of all samples that are given. Its mean over them weighs samples by their cover.
        NaN where nothing is missing.

    Raises
    ------
    DataError
        If nothing is missing in any sample, or for other shapes.

    Notes
    -----
    The published variants are those of the public code (github ClarkCGA/gfm-gap-filling and
    gfm-gap-filling-baseline) of Jakubik et al. 2023, section 5.1, and Godwin et al. 2024.
    """
    if filled.shape != truth.shape or missing.shape != (len(truth), *truth.shape[2:]):
        raise DataError(
            f"filled {tuple(filled.shape)}, truth {tuple(truth.shape)} (batch, band, date, y, x) "
            f"and missing {tuple(missing.shape)} (batch, date, y, x) do not fit."
        )
    return _over_all(_sample_by_sample(filled, truth, missing))


def _sample_by_sample(
    filled: torch.Tensor, truth: torch.Tensor, missing: torch.Tensor
) -> pd.DataFrame:
    """Give the scores that a sample has by itself."""
    made, true, gap, owner = _gapped(filled, truth, missing)

    def mean(values: torch.Tensor, where: torch.Tensor) -> np.ndarray:
        return _mean_over(values, where, owner, len(truth)).numpy()

    whole, mask = torch.ones_like(gap), gap[:, None]
    return pd.DataFrame(
        {
            "cover": mean(mask.float(), whole),
            "mae_missing": mean((made - true).abs(), gap),
            "rmse_missing": np.sqrt(mean((made - true).square(), gap)),
            "ssim_missing": mean(_ssim_map(made, true), gap),
            "ssim_published": mean(_ssim_map(made * mask, true * mask), whole),
        }
    )


def _over_all(table: pd.DataFrame) -> pd.DataFrame:
    """Add the score that depends on all samples."""
    if not table["cover"].notna().any():
        raise DataError("No known pixel is missing in these images: there is nothing to score.")
    weighed = table["mae_missing"] * table["cover"] / table["cover"].mean()
    return table.assign(mae_published=weighed)


def ssim_missing(filled: torch.Tensor, truth: torch.Tensor, missing: torch.Tensor) -> torch.Tensor:
    """SSIM on the missing pixels as in `scores`, ``(B,)``; NaN where nothing is missing."""
    made, true, gap, owner = _gapped(filled, truth, missing)
    return _mean_over(_ssim_map(made, true), gap, owner, len(truth))


@torch.no_grad()
def measure(
    model: nn.Module, data: GapDataset, *, batch_size: int = 16, accelerator: str = "auto"
) -> pd.DataFrame:
    """Fill the gaps of chips and score them: `scores`, with the chip's ``index``.

    >>> measure(model, val).ssim_missing.mean()  # doctest: +SKIP
    0.93

    Gaps are those of ``data.plain()``: the same for every model. `batch_size` chips are filled and
    scored at a time, on the GPU if there is one and `accelerator` (``auto``, ``cpu``, ``gpu``) lets
    it: a set of any size takes the memory of a batch.

    Raises
    ------
    DataError
        If what the model fills in is not finite, or nothing is missing in any chip.
    """
    data, tables = data.plain(), []
    with placed(model, accelerator) as device:
        for first in range(0, len(data), batch_size):
            batch = [data[i] for i in range(first, min(first + batch_size, len(data)))]
            image = torch.stack([item["image"] for item in batch]).to(device)
            missing = torch.stack([item["missing"] for item in batch]).to(device)
            shown = image.masked_fill(missing[:, None], torch.nan)  # nothing can look at the truth
            made = model.fill(shown, missing).prediction
            if not made.isfinite().all(1)[missing].all():
                raise DataError(
                    f"The filling of the chips {first} to {first + len(batch) - 1} is not finite: "
                    "the model has diverged. Train it with a lower rate."
                )
            tables.append(_sample_by_sample(made, image, missing))
    table = _over_all(pd.concat(tables, ignore_index=True))
    table.insert(0, "index", range(len(data)))
    return table


def with_interval(table: pd.DataFrame, *, repeats: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Mean of each score with a 95 % interval, by bootstrap over chips.

    >>> table = pd.DataFrame({"ssim_missing": [0.90, 0.92, 0.94]})
    >>> with_interval(table).round(2).loc["ssim_missing"].tolist()
    [0.92, 0.9, 0.94]

    `table` is what `measure` returns. The interval says how much the mean depends on which chips
    and masks were drawn, not how it would be in other scenes.
    """
    values = table.drop(columns=["index"], errors="ignore")
    return _interval(values, values.get("cover"), repeats, seed)


def _interval(
    values: pd.DataFrame, cover: pd.Series | None, repeats: int, seed: int
) -> pd.DataFrame:
    """Mean of each column with its interval; what is divided by the mean cover is drawn with it."""
    draws = np.random.default_rng(seed).integers(len(values), size=(repeats, len(values)))
    means = np.nanmean(values.to_numpy(float)[draws], axis=1)
    if cover is not None and "mae_published" in values:
        drawn = np.nanmean(cover.to_numpy(float)[draws], axis=1)
        means[:, values.columns.get_loc("mae_published")] *= cover.mean() / drawn
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return pd.DataFrame({"value": values.mean(), "low": low, "high": high})


def paired(
    ours: pd.DataFrame, theirs: pd.DataFrame, *, repeats: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Difference of each score of two models on the same chips, with a 95 % interval.

    >>> paired(measured["prithvi"], measured["cgan"]).loc["ssim_missing"]  # doctest: +SKIP
    value    0.021
    low      0.017
    high     0.026

    Raises
    ------
    DataError
        If the two tables are not of the same chips with the same gaps.
    """
    keys = ["index", "cover"]
    if len(ours) != len(theirs) or not (ours[keys].to_numpy() == theirs[keys].to_numpy()).all():
        raise DataError("The two tables are of other chips or gaps: compare on one dataset.")
    return _interval((ours - theirs).drop(columns=keys), ours["cover"], repeats, seed)


def _gapped(
    filled: torch.Tensor, truth: torch.Tensor, missing: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Give the dates with gaps, filled and true ``(N, C, H, W)`` in reflectance, equal elsewhere.

    And where the gaps are ``(N, H, W)``, and of which sample each is ``(N,)``.
    """
    gap = missing & torch.isfinite(truth).all(1)
    here = gap.flatten(2).any(2)
    gap, true = gap[here], truth.transpose(1, 2)[here].nan_to_num(0.0) * 1e-4
    made = torch.where(gap[:, None], filled.transpose(1, 2)[here] * 1e-4, true)
    return made, true, gap, here.nonzero()[:, 0]


def _ssim_map(made: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """SSIM at each pixel, ``(N, C, H, W)``."""
    if not len(made):
        return made
    # Differences of squares: half precision would give 0.98 for two equal images.
    with torch.autocast(made.device.type, enabled=False):
        _, full = structural_similarity_index_measure(
            made.float(), true.float(), data_range=1.0, reduction="none", return_full_image=True
        )
    return full


def _mean_over(
    values: torch.Tensor, where: torch.Tensor, owner: torch.Tensor, samples: int
) -> torch.Tensor:
    """Mean of ``(N, C, H, W)`` over bands and the pixels `where`, a sample at a time."""
    # On the CPU: not every accelerator has doubles.
    total = (values.mean(1) * where).flatten(1).cpu().double().sum(1)
    sums, counts = total.new_zeros(2, samples).index_add(
        1, owner.cpu(), torch.stack((total, where.flatten(1).cpu().double().sum(1)))
    )
    return sums / counts
