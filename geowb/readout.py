"""A linear readout of a frozen encoder, fitted in closed form: what the encoder itself knows."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader

from geowb.chips import with_labels
from geowb.errors import ModelError, RequestError
from geowb.lines import Line
from geowb.models.wrapper import placed

if TYPE_CHECKING:
    from geowb.chips import ChipDataset
    from geowb.models.wrapper import PixelModel

__all__ = ["PENALTIES", "Readout", "fit_linear"]

#: Penalties that are tried, in units of a feature's variance.
PENALTIES = tuple(float(value) for value in np.logspace(-5, 1, 13))


@dataclass
class Readout:
    """A fitted readout.

    ``model`` is in eval mode; ``history`` has a row a penalty (penalty, val_rmse), of which the
    ``penalty`` with the least error was taken; ``seconds`` is the time of fitting and validation.
    """

    model: PixelModel
    history: pd.DataFrame
    penalty: float
    seconds: float

    @property
    def val_score(self) -> float:
        """Its RMSE on the validation split."""
        return float(self.history["val_rmse"].min())


@torch.no_grad()
def fit_linear(
    model: PixelModel,
    train: ChipDataset,
    val: ChipDataset,
    *,
    turned: bool = True,
    penalties: Sequence[float] = PENALTIES,
    batch_size: int = 8,
    accelerator: str = "auto",
    units: str = "",
    progress: bool = True,
) -> Readout:
    """Fit the linear decoder of a model by ridge regression; the penalty is chosen on `val`.

    >>> model = build("swin_demo", weights="pretrained", freeze_backbone=True, decoder="linear")
    >>> fit_linear(model, train, val).val_score  # doctest: +SKIP

    The encoder stays as it is. Nothing is random, and there is no rate and no number of steps to
    choose. Sums are kept, no features: memory grows with the square of the number of
    channels and not with the data.

    Parameters
    ----------
    model
        From ``geowb.models.build(..., decoder="linear", freeze_backbone=True)``, of one output.
    train, val
        Labelled chips; that `train` turns and mirrors them at random is of no account.
    turned
        Learn from the eight symmetries of each training chip, and not from the chip alone.
    penalties
        Added to the variance of the standardised features; the intercept is free.
    batch_size
        Chips that are encoded at once.
    accelerator
        ``auto``, ``cpu`` or ``gpu``.
    units
        Of the labels, for the line that is shown.

    Raises
    ------
    DataError
        If a split has no labelled pixel.
    ModelError
        If the encoder returns values that are not finite.
    RequestError
        For a model with another decoder, several outputs or an encoder that is not frozen, and for
        arguments out of range.

    Notes
    -----
    Hoerl and Kennard 1970, Ridge Regression, with standardised predictors.
    """
    penalties = tuple(map(float, penalties))
    _check(model, penalties, batch_size)
    train, val = with_labels(train, val).plain(), val.labelled_only().plain()
    began, line = time.perf_counter(), Line() if progress else None
    with placed(model, accelerator):
        weights, bias = _solve(model, _sums(model, train, batch_size, turned, line), penalties)
        error = _errors(model, val, batch_size, weights, bias)
    best = int(error.argmin())
    layer = model.network.head.head[-1]
    layer.weight.copy_(weights[:, best].reshape(layer.weight.shape))
    layer.bias.copy_(bias)
    history = pd.DataFrame({"penalty": penalties, "val_rmse": error.numpy()})
    result = Readout(model.eval(), history, penalties[best], time.perf_counter() - began)
    if line:
        told = f"RMSE validation {result.val_score:.1f} {units}".rstrip()
        line.show(f"{told}, penalty {result.penalty:.2g} | {result.seconds:.0f} s")
    return result


def _check(model: PixelModel, penalties: Sequence[float], batch_size: int) -> None:
    card = model.card
    if card.get("decoder") != "linear" or card["outputs"] != 1 or not card["freeze_backbone"]:
        raise RequestError(
            "fit_linear() takes a model built with decoder='linear', outputs=1 and "
            f"freeze_backbone=True; this '{card['name']}' has decoder={card.get('decoder')!r}, "
            f"outputs={card['outputs']}, freeze_backbone={card['freeze_backbone']}."
        )
    if not penalties or not all(0 < penalty < math.inf for penalty in penalties):
        raise RequestError(
            f"penalties must be finite and above 0, one or more; they are {list(penalties)}."
        )
    if batch_size < 1:
        raise RequestError(f"batch_size must be at least 1; it is {batch_size}.")


def _sums(
    model: PixelModel, train: ChipDataset, batch_size: int, turned: bool, line: Line | None
) -> torch.Tensor:
    """Sum products of (1, features, wanted) over the labelled pixels of all views."""
    for norm in model.network.decoder.norms:
        norm.reset_running_stats()
    views, sums = range(8 if turned else 1), torch.zeros(1)
    for view in views:
        for x, y in _labelled(model, train, batch_size, view):
            rows = torch.cat([torch.ones(len(x), 1), x, y[:, None]], dim=1).double()
            sums = sums + rows.T @ rows
        if line:
            line.show(f"training chips seen {view + 1} of {len(views)} times", lasting=False)
    if not sums.isfinite().all():
        raise ModelError(
            f"The encoder of '{model.card['name']}' ({model.origin}) returns values that are not "
            "finite for these chips: look for infinite pixels, or use other weights."
        )
    return sums


def _labelled(
    model: PixelModel, data: ChipDataset, batch_size: int, view: int = 0
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield what the last layer sees at labelled pixels, ``(N, D)``, and what it should give."""
    device = next(model.parameters()).device
    mean, spread = model.card["output_mean"], model.card["output_std"]
    with _watched(model) as seen:
        for batch in DataLoader(data, batch_size):
            image, labels = (_turned(batch[key], view) for key in ("image", "label"))
            model(image.to(device))
            known = torch.isfinite(labels)
            read = [_sampled(m, k, seen["size"]) for m, k in zip(seen["maps"], known, strict=True)]
            yield torch.cat(read).cpu(), (labels[known] - mean) / spread


@contextmanager
def _watched(model: PixelModel) -> Iterator[dict[str, Any]]:
    """Hold what last went into the network (its size) and into its head (the stacked maps)."""
    seen: dict[str, Any] = {}
    network = model.network
    hooks = [
        network.register_forward_pre_hook(lambda _, args: seen.update(size=args[0].shape[-2:])),
        network.head.register_forward_pre_hook(lambda _, args: seen.update(maps=args[0])),
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _sampled(maps: torch.Tensor, where: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Read maps ``(D, h, w)`` at pixels of an image of `size`, as bilinear interpolation would."""
    y, x = torch.nonzero(where, as_tuple=True)
    ends = (2 * torch.stack([x, y], -1) + 1) / torch.tensor([size[1], size[0]]) - 1
    grid = ends[None, None].to(maps)
    found = nn.functional.grid_sample(maps[None], grid, padding_mode="border", align_corners=False)
    return found[0, :, 0].T


def _turned(chips: torch.Tensor, view: int) -> torch.Tensor:
    """Turn chips ``(..., H, W)`` by quarters, and mirror the last four of the eight views."""
    chips = torch.rot90(chips, view % 4, (-2, -1))
    return chips.flip(-1) if view >= 4 else chips


def _solve(
    model: PixelModel, sums: torch.Tensor, penalties: Sequence[float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Standardise the stack, and return weights ``(D, P)`` on it and the intercept.

    `sums` are products of (1, features, wanted), summed over pixels.
    """
    moments = sums / sums[0, 0]
    mean = moments[0, 1:]
    covariance = moments[1:, 1:] - mean[:, None] * mean
    start, spread = 0, []
    for norm in model.network.decoder.norms:
        part = slice(start, start := start + norm.num_features)
        # What was seen had gone through a norm of mean 0 and variance 1.
        unit = 1 + norm.eps
        norm.running_mean.copy_(mean[:-1][part] * unit**0.5)
        norm.running_var.copy_(covariance.diagonal()[:-1][part].clamp_min(0) * unit)
        spread.append(((norm.running_var.double().cpu() + norm.eps) / unit).sqrt())
    spread = torch.cat(spread)
    gram = covariance[:-1, :-1] / spread / spread[:, None]
    right = covariance[:-1, -1] / spread
    values, vectors = torch.linalg.eigh(gram)
    turned = (vectors.T @ right)[:, None] / (values[:, None].clamp_min(0) + torch.tensor(penalties))
    return vectors @ turned, mean[-1]


def _errors(
    model: PixelModel,
    val: ChipDataset,
    batch_size: int,
    weights: torch.Tensor,
    bias: torch.Tensor,
) -> torch.Tensor:
    """RMSE of each column of weights on standardised maps, in the units of the labels."""
    squares, count = torch.zeros(weights.shape[1]).double(), 0
    floor = -model.card["output_mean"] / model.card["output_std"]
    for x, y in _labelled(model, val, batch_size):
        found = x.double() @ weights + bias
        found = found.clamp_min(floor) if model.card["non_negative"] else found
        squares += (found - y[:, None].double()).square().sum(0)
        count += len(y)
    return (squares / count).sqrt() * model.card["output_std"]
