"""The loss along the gradient: how far a straight look ahead goes."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from torch import nn

from geowb.errors import RequestError
from geowb.masking import steps as step
from geowb.masking.subject import Loss, Point, applied

__all__ = ["loss_along_gradient"]


def loss_along_gradient(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    epsilons: Sequence[float],
    bounds: tuple[float, float] = (0.0, 1.0),
    norm: str = "linf",
    loss: str | Loss = "cross_entropy",
    seed: int = 0,
    batch_size: int = 64,
) -> pd.DataFrame:
    """Follow the loss from each sample along the first step of an attack.

    >>> loss_along_gradient(model, x, y, epsilons=[0, 0.05, 0.1]).mean(axis=1)  # doctest: +SKIP

    A row an epsilon (fraction of the pixel range), a column a sample. Where the loss rises and
    falls again, a large step misses what a smaller one finds. Pixels are not clipped, as in the
    author's code (figure 3 of arXiv:2204.04778).
    """
    step.check(norm)
    sizes = [float(epsilon) for epsilon in epsilons]
    if not sizes or min(sizes) < 0 or not max(sizes) < float("inf"):
        raise RequestError(f"epsilons are 0 or more, and one at least: {sizes}.")

    def along(point: Point) -> torch.Tensor:
        way = step.steepest(point.gradient("label"), norm)
        with torch.no_grad():
            rows = [
                point.values(point.subject.output(point.u + size * way, point.there), "label")
                for size in sizes
            ]
        return torch.stack(rows)

    how = {"bounds": bounds, "loss": loss, "seed": seed, "batch_size": batch_size}
    columns = [losses.cpu() for _, losses in applied(along, model, x, y, **how)]
    return pd.DataFrame(torch.cat(columns, 1).numpy(), pd.Index(sizes, name="epsilon"))
