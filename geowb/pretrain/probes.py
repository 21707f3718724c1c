"""What a pretrained encoder is worth: a linear probe, and the reconstruction of hidden pixels.

Both are set beside what costs nothing: the same encoder with random weights, and filling what is
hidden by the mean or by the nearest unit that is shown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from geowb.errors import DataError
from geowb.models.masked import MaskedModel
from geowb.pretrain import views
from geowb.pretrain.scenes import windows

__all__ = [
    "Labelled",
    "features",
    "linear_probe",
    "paired_interval",
    "probe_difference",
    "reconstruction_errors",
    "squares",
]


@dataclass(frozen=True)
class Labelled:
    """Images with a label a pixel.

    ``images`` (N, C, T, H, W) float32 counts; ``labels`` (N, H, W): classes with -1 for unlabelled,
    or a quantity with NaN; ``place`` (N,): images of one number are never parted by a split.
    """

    images: np.ndarray
    labels: np.ndarray
    place: np.ndarray

    @property
    def classes(self) -> bool:
        """Whether labels are classes."""
        return self.labels.dtype.kind != "f"


@torch.no_grad()
def features(model: MaskedModel, images: np.ndarray, batch_size: int = 64) -> np.ndarray:
    """Features of whole images on squares of 8 pixels, ``(N, H / 8, W / 8, D)`` float32.

    >>> features(model, np.zeros((1, 6, 3, 64, 64), np.float32)).shape  # doctest: +SKIP
    (1, 8, 8, 576)

    Prithvi: the last block's tokens of all dates side by side. Swin: its four stages side by side,
    averaged or repeated to squares of 8 pixels.
    """
    model.eval()
    parts = []
    for start in range(0, len(images), batch_size):
        x = torch.from_numpy(images[start : start + batch_size]).to(model.mean.device)
        parts.append(model.features(x).permute(0, 2, 3, 1).float().cpu().numpy())
    return np.concatenate(parts)


def squares(labels: np.ndarray, side: int = 8, classes: bool = True) -> np.ndarray:
    """Label of each square: the class of more than half of its pixels (-1 if none), or the mean."""
    blocks = windows(labels, side)
    blocks = blocks.reshape(*blocks.shape[:3], side * side)
    if not classes:
        known = np.isfinite(blocks)
        count = known.sum(-1)
        mean = np.where(known, blocks, 0).sum(-1) / np.maximum(count, 1)
        return np.where(2 * count > side * side, mean, np.nan)
    names = np.unique(labels[labels >= 0])
    if not len(names):
        return np.full(blocks.shape[:3], -1)
    counts = np.stack([(blocks == name).sum(-1) for name in names], axis=-1)
    most = names[counts.argmax(-1)]
    return np.where(2 * counts.max(-1) > side * side, most, -1)


def linear_probe(
    x: np.ndarray,
    data: Labelled,
    *,
    train: np.ndarray,
    test: np.ndarray,
    labels: int = 20,
    seed: int = 0,
) -> pd.DataFrame:
    """Fit a linear model on frozen features of few squares, and test it on other places.

    >>> linear_probe(features(model, data.images), data, train=a, test=b)  # doctest: +SKIP

    Ridge regression of the quantity, or of an indicator for each class, each class weighing the
    same (the largest wins). The penalty is chosen from seven by cross-validation over four groups
    of the training places, the same way for every model.

    Parameters
    ----------
    x
        Features of the squares, ``(N, H / 8, W / 8, D)``, of any encoder.
    train, test
        Which images, ``(N,)`` bool.
    labels
        Labelled squares of each class that are learned from (of a quantity, ten times as many), or
        as many as there are; drawn from `seed`.

    Returns
    -------
    pandas.DataFrame
        place, truth and prediction of each labelled square of the test images.
    """
    y = squares(data.labels, 8, data.classes)
    known = (y >= 0) if data.classes else np.isfinite(y)
    place = np.broadcast_to(data.place[:, None, None], y.shape)
    fit, held = (known & part[:, None, None] for part in (train, test))
    if not fit.any() or not held.any():
        raise DataError("The probe needs labelled squares in training and in test places.")
    rng = np.random.default_rng(seed)
    all_ = rng.permutation(np.flatnonzero(fit))
    kinds = (
        [y.ravel()[all_] == name for name in np.unique(y[fit])] if data.classes else [slice(None)]
    )
    most = labels if data.classes else 10 * labels
    chosen = np.concatenate([all_[kind][:most] for kind in kinds])
    xs, ys, at = x.reshape(-1, x.shape[-1])[chosen], y.ravel()[chosen], place.ravel()[chosen]
    names, which = np.unique(at, return_inverse=True)
    group = rng.permutation(len(names))[which] % 4 if len(names) >= 4 else np.arange(len(at)) % 4

    folds = [group == k for k in np.unique(group)]
    fits = [_ridge(xs[~out], ys[~out], data.classes) for out in folds]

    def score(penalty: float) -> float:
        found = np.empty(len(ys), ys.dtype)
        for out, predict in zip(folds, fits, strict=True):
            found[out] = predict(xs[out], penalty)
        return probe_score(ys, found, data.classes)

    best = max(np.logspace(-3, 3, 7), key=score)
    found = _ridge(xs, ys, data.classes)(x[held], best)
    return pd.DataFrame({"place": place[held], "truth": y[held], "prediction": found})


def _ridge(
    x: np.ndarray, y: np.ndarray, classes: bool
) -> Callable[[np.ndarray, float], np.ndarray]:
    """Prepare ridge regression in closed form; return what predicts under a penalty."""
    names, which = np.unique(y, return_inverse=True) if classes else (None, None)
    target = np.eye(len(names))[which] if classes else y[:, None].astype(float)
    weight = 1 / np.bincount(which)[which] if classes else np.ones(len(y))
    weight = weight / weight.sum()
    centre, spread = weight @ x, x.std(0) + 1e-6
    level = weight @ target
    z = (x - centre) / spread
    gram = (z * weight[:, None]).T @ z
    right = (z * weight[:, None]).T @ (target - level)

    def predict(new: np.ndarray, penalty: float) -> np.ndarray:
        slope = np.linalg.solve(gram + penalty * np.eye(z.shape[1]), right)
        values = ((new - centre) / spread) @ slope + level
        return names[values.argmax(1)] if classes else values[:, 0]

    return predict


def probe_score(truth: np.ndarray, found: np.ndarray, classes: bool) -> float:
    """Mean accuracy of the classes, or R2 of a quantity."""
    if not classes:
        return 1 - np.square(found - truth).sum() / np.square(truth - truth.mean()).sum()
    return float(np.mean([(found[truth == name] == name).mean() for name in np.unique(truth)]))


@torch.no_grad()
def reconstruction_errors(
    model: MaskedModel,
    images: np.ndarray,
    *,
    mask_ratio: float | None = None,
    columns: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean square error of hidden pixels, a row an image, in the model's normalised units.

    >>> reconstruction_errors(model, images).mean()  # doctest: +SKIP

    ``model`` beside two fillings: ``mean``, of what is shown of the same band and date (of all
    dates, if nothing is shown of that one), and ``nearest``, the shown unit that is nearest in
    (date, row, column); of equally near ones the one at the same place on another date.

    Parameters
    ----------
    columns
        Hide whole columns of units: for images whose rows are all alike.
    """
    model.eval()
    rows = []
    for start in range(0, len(images), 64):
        x = torch.from_numpy(images[start : start + 64]).to(model.mean.device)
        grid, ratio = model.grid(x), mask_ratio
        keys = torch.arange(start, start + len(x))
        if columns:
            noise = views.noise(keys, grid[0] * grid[2], seed).reshape(-1, grid[0], 1, grid[2])
            noise = noise.expand(-1, *grid).flatten(1)
            shown = int(grid[0] * grid[2] * (1 - (mask_ratio or model.card["mask_ratio"])))
            ratio = 1 - (shown + 1e-6) / (grid[0] * grid[2])  # whole columns
        else:
            noise = views.noise(keys, math.prod(grid), seed)
        result = model(x, noise.to(x.device), ratio)
        normal = ((x - model.mean) / model.std).cpu().numpy()
        hidden = result.hidden.cpu().numpy()
        fillings = {
            "model": ((result.prediction - model.mean) / model.std).float().cpu().numpy(),
            "mean": _fill_mean(normal, hidden),
            "nearest": _fill_nearest(normal, hidden, model.unit),
        }
        wanted = hidden & np.isfinite(normal)
        for i in range(len(x)):
            errors = {
                name: np.square(filled[i] - normal[i])[wanted[i]].mean()
                for name, filled in fillings.items()
            }
            rows.append(errors)
    return pd.DataFrame(rows)


def _fill_mean(normal: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    shown = np.where(hidden, np.nan, normal)
    each = _nanmean(shown, (3, 4))
    whole = _nanmean(shown, (2, 3, 4))
    return np.broadcast_to(np.where(np.isfinite(each), each, whole), normal.shape)


def _nanmean(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    known = np.isfinite(values)
    count = known.sum(axes, keepdims=True)
    total = np.where(known, values, 0).sum(axes, keepdims=True)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _fill_nearest(normal: np.ndarray, hidden: np.ndarray, unit: int) -> np.ndarray:
    n, bands, frames, height, width = normal.shape
    grid = (frames, height // unit, width // unit)
    blocks = normal.reshape(n, bands, frames, grid[1], unit, grid[2], unit)
    blocks = blocks.transpose(0, 2, 3, 5, 1, 4, 6).reshape(n, math.prod(grid), -1)
    off = hidden[:, 0, :, ::unit, ::unit].reshape(n, -1)
    off = off | ~np.isfinite(blocks).any(-1)  # a unit without data fills nothing
    at = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), -1).reshape(-1, 3)
    steps = at[:, None] - at[None]
    away = np.square(steps).sum(-1) + 1e-3 * (steps[..., 1:] != 0).any(-1)
    source = np.where(off[:, None, :], np.inf, away[None]).argmin(-1)
    filled = np.take_along_axis(blocks, source[..., None], 1)
    filled = filled.reshape(n, *grid, bands, unit, unit).transpose(0, 4, 1, 2, 5, 3, 6)
    return np.nan_to_num(filled.reshape(normal.shape))


def probe_difference(
    ours: pd.DataFrame, theirs: pd.DataFrame, *, classes: bool
) -> tuple[float, float, pd.Series]:
    """Scores of two probes of the same squares, and what each place adds to their difference.

    The score is `probe_score`. The mean of what the places add is the difference of the scores; a
    bootstrap of it keeps the weight of each class, or the spread of the quantity, as it is.
    """
    truth = ours["truth"].to_numpy()
    scores = [probe_score(truth, t["prediction"].to_numpy(), classes) for t in (ours, theirs)]
    if classes:
        names, which = np.unique(truth, return_inverse=True)
        weight = 1 / np.bincount(which)[which] / len(names)
        good = [(t["prediction"].to_numpy() == truth) * weight for t in (ours, theirs)]
    else:
        spread = np.square(truth - truth.mean()).sum()
        good = [-np.square(t["prediction"].to_numpy() - truth) / spread for t in (ours, theirs)]
    parts = pd.Series(good[0] - good[1]).groupby(ours["place"].to_numpy()).sum()
    return scores[0], scores[1], parts * len(parts)


def paired_interval(
    differences: Sequence[float], *, repeats: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of the mean of paired differences, by bootstrap.

    >>> low, high = paired_interval([2.0, 2.5, 3.0])
    >>> low > 0
    True
    """
    values = np.asarray(differences, float)
    draws = np.random.default_rng(seed).integers(len(values), size=(repeats, len(values)))
    low, high = np.percentile(values[draws].mean(1), [2.5, 97.5])
    return float(low), float(high)
