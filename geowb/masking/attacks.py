"""Attacks that need nothing but torch: FGSM, PGD and SPSA.

>>> x, y = 0.2 + 0.6 * torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])
>>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
>>> (fgsm(model, x, y, epsilon=0.1) - x).abs().amax().round(decimals=4)
tensor(0.1000)

Each takes a model and samples and returns the attacked samples, in the same pixel range; the model
is left as it was. `epsilon` is a fraction of the pixel range. Others are in
`geowb.masking.strong`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from geowb.errors import RequestError
from geowb.masking import steps as step
from geowb.masking.subject import Loss, Point, Subject, applied, points, undisturbed

__all__ = ["accuracy", "fgsm", "pgd", "spsa"]


def fgsm(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    epsilon: float,
    bounds: tuple[float, float] = (0.0, 1.0),
    norm: str = "linf",
    loss: str | Loss = "cross_entropy",
    target: str = "label",
    seed: int = 0,
    batch_size: int = 64,
) -> torch.Tensor:
    """Take one step up the loss, as large as it may be (Goodfellow et al., 2015).

    Parameters and errors as in `geowb.masking.fgsm_pgd_cosine`.
    """
    step.check(norm, epsilon)

    def attack(point: Point) -> torch.Tensor:
        how = {"epsilon": epsilon, "norm": norm, "target": target}
        (found,) = step.ascend(point, size=epsilon, steps=1, **how)
        return found

    how = {"bounds": bounds, "loss": loss, "seed": seed, "batch_size": batch_size}
    return _attacked(attack, model, x, y, **how)


def pgd(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    epsilon: float,
    bounds: tuple[float, float] = (0.0, 1.0),
    norm: str = "linf",
    loss: str | Loss = "cross_entropy",
    target: str = "label",
    steps: int = 25,
    step_size: float = 0.1,
    restarts: int = 1,
    seed: int = 0,
    batch_size: int = 64,
) -> torch.Tensor:
    """Take many small steps up the loss, back to the ball after each (Madry et al., 2018).

    Starts are drawn from the ball, at the same offset for all samples; of several `restarts` the
    one with the highest loss is kept, a sample. `step_size` is a fraction of epsilon; others as in
    `geowb.masking.fgsm_pgd_cosine`.
    """
    step.check(norm, epsilon, steps=steps, restarts=restarts)

    def attack(point: Point) -> torch.Tensor:
        how: dict[str, Any] = {"epsilon": epsilon, "norm": norm, "target": target}
        best, found = None, point.u
        for number in range(restarts):
            begin = step.start(point.u, epsilon, norm, seed + number)
            *_, u = step.ascend(point, size=step_size * epsilon, steps=steps, begin=begin, **how)
            if restarts == 1:
                return u
            with torch.no_grad():
                reached = point.values(point.subject.output(u, point.there), target)
            higher = torch.ones_like(reached, dtype=torch.bool) if best is None else reached > best
            best = reached if best is None else torch.where(higher, reached, best)
            found = torch.where(step.wide(higher, u), u, found)
        return found

    how = {"bounds": bounds, "loss": loss, "seed": seed, "batch_size": batch_size}
    return _attacked(attack, model, x, y, **how)


def spsa(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    epsilon: float,
    bounds: tuple[float, float] = (0.0, 1.0),
    norm: str = "linf",
    loss: str | Loss = "cross_entropy",
    steps: int = 15,
    samples: int = 256,
    reach: float = 0.01,
    step_size: float = 0.3,
    seed: int = 0,
    batch_size: int = 64,
) -> torch.Tensor:
    """Climb the loss without its gradient, by differences along random directions.

    Uesato et al. (2018, arXiv:1802.05666), with Adam; the paper's settings are 15 steps of 256
    samples. It takes ``steps * samples`` forward passes an image and no backward pass.

    Parameters
    ----------
    samples
        Directions a step, half of them the others' opposites; the same for all images.
    reach
        How far along them the loss is compared, as a fraction of the pixel range.
    step_size
        Learning rate of Adam, as a fraction of epsilon (about the published 0.01 at 8/255).

    Others as in `geowb.masking.fgsm_pgd_cosine`.
    """
    step.check(norm, epsilon, steps=steps)
    if samples < 2:
        raise RequestError(f"samples are pairs of opposite directions, 2 or more: {samples}.")

    def attack(point: Point) -> torch.Tensor:
        with torch.no_grad():
            _ = point.output  # checked before anything else
            return _spsa(point, epsilon, norm, steps, samples // 2, reach, step_size, seed)

    how = {"bounds": bounds, "loss": loss, "seed": seed, "batch_size": batch_size}
    return _attacked(attack, model, x, y, **how)


def _spsa(
    point: Point,
    epsilon: float,
    norm: str,
    steps: int,
    pairs: int,
    reach: float,
    size: float,
    seed: int,
) -> torch.Tensor:
    u = point.u.clone()
    mean, square = torch.zeros_like(u), torch.zeros_like(u)
    for number in range(steps):
        slope = torch.zeros_like(u)
        for ways in step.directions(u, 1.0, "linf", pairs, seed * steps + number):
            for row, way in enumerate(ways):
                up, down = (
                    point.values(point.subject.output(u + sign * reach * way, point.there), "label")
                    for sign in (1, -1)
                )
                slope += step.wide((up - down) / (2 * reach * pairs), u) * ways[row]
        mean = 0.9 * mean + 0.1 * slope
        square = 0.999 * square + 0.001 * slope**2
        moment, spread = mean / (1 - 0.9 ** (number + 1)), square / (1 - 0.999 ** (number + 1))
        u = u + size * epsilon * moment / (spread.sqrt() + 1e-8)
        u = (point.u + step.projected(u - point.u, epsilon, norm)).clamp(0, 1)
    return u


def accuracy(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    batch_size: int = 256,
) -> float:
    """Share of the samples (or of the labelled pixels) whose class is right.

    >>> accuracy(model, pgd(model, x, y, epsilon=0.1), y)  # doctest: +SKIP
    0.35
    """
    subject = Subject(model, bounds)
    with undisturbed(model), torch.no_grad():
        found = [(p.score(p.output), p.sizes) for p in points(subject, x, y, batch_size)]
    right, sizes = (torch.cat(part).double() for part in zip(*found, strict=True))
    return float((right.nan_to_num() * sizes).sum() / sizes.sum())


def _attacked(
    attack: Callable[[Point], torch.Tensor],
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    **how: Any,
) -> torch.Tensor:
    """Attack all samples; missing pixels stay missing."""
    found = applied(attack, model, x, y, **how)
    return torch.cat([p.subject.pixels(u, p.there).detach().to(x.device) for p, u in found])
