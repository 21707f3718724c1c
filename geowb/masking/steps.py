"""Steps, balls and angles in pixel space, for both norms; random draws that all samples share."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from geowb.errors import RequestError, did_you_mean
from geowb.masking.subject import NORMS, Point

__all__ = [
    "GROUP",
    "ascend",
    "check",
    "cosine",
    "directions",
    "length",
    "projected",
    "start",
    "steepest",
    "wide",
]


#: Perturbations that are drawn, and passed on, at a time.
GROUP = 16


def check(norm: str, epsilon: float | None = None, **counts: int) -> None:
    """Refuse a norm that is not known, an epsilon or a count that makes no sense."""
    if norm not in NORMS:
        raise RequestError(f"There is no norm '{norm}'. {did_you_mean(norm, NORMS)}")
    if epsilon is not None and not 0 < epsilon < float("inf"):
        raise RequestError(
            f"epsilon is a positive fraction of the pixel range, such as 8/255: it was {epsilon}."
        )
    for name, value in counts.items():
        if value < 1:
            raise RequestError(f"{name} must be 1 or more: {value}.")


def wide(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """``(N,)`` as ``(N, 1, ...)``."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def length(v: torch.Tensor) -> torch.Tensor:
    """Euclidean length a sample, ``(N,)``; small gradients do not underflow."""
    largest = v.abs().flatten(1).amax(1)
    scale = torch.where(largest > 0, largest, 1.0)
    return (v / wide(scale, v)).flatten(1).norm(dim=1) * scale


def steepest(gradient: torch.Tensor, norm: str) -> torch.Tensor:
    """Find the step of length one that raises a linear function most; zero for no gradient."""
    if norm == "linf":
        return gradient.sign()
    scale = gradient.abs().flatten(1).amax(1)
    scaled = gradient / wide(torch.where(scale > 0, scale, 1.0), gradient)
    size = scaled.flatten(1).norm(dim=1)
    return scaled / wide(torch.where(size > 0, size, 1.0), gradient)


def projected(delta: torch.Tensor, epsilon: float, norm: str) -> torch.Tensor:
    """Find the nearest point of the ball of radius `epsilon`."""
    if norm == "linf":
        return delta.clamp(-epsilon, epsilon)
    size = delta.flatten(1).norm(dim=1)
    scale = torch.where(size > epsilon, epsilon / size, 1.0)
    return delta * wide(scale, delta)


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Cosine of the angle a sample, ``(N,)``; NaN where one of the two is zero."""
    a, b = steepest(a, "l2"), steepest(b, "l2")
    found = (a * b).flatten(1).sum(1).clamp(-1, 1)
    zero = (a == 0).flatten(1).all(1) | (b == 0).flatten(1).all(1)
    return torch.where(zero, torch.nan, found)


def start(like: torch.Tensor, epsilon: float, norm: str, seed: int) -> torch.Tensor:
    """Draw a point evenly from the ball, ``(1, ...)``: the same for all samples and devices."""
    drawn = torch.Generator().manual_seed(seed)
    shape = (1, *like.shape[1:])
    if norm == "linf":
        found = epsilon * (2 * torch.rand(shape, generator=drawn) - 1)
    else:
        way = torch.randn(shape, generator=drawn)
        radius = torch.rand((), generator=drawn) ** (1 / max(1, way.numel()))
        found = epsilon * radius * way / way.norm()
    return found.to(like)


def directions(
    like: torch.Tensor, epsilon: float, norm: str, count: int, seed: int, group: int = GROUP
) -> Iterator[torch.Tensor]:
    """Draw corners of the ball (or points of its sphere), ``(group, ...)`` at a time; shared.

    What is drawn depends on `group`, which therefore follows nothing but what the caller wants.
    """
    drawn = torch.Generator().manual_seed(seed)
    for first in range(0, count, group):
        shape = (min(group, count - first), *like.shape[1:])
        if norm == "linf":
            way = torch.where(torch.rand(shape, generator=drawn) > 0.5, 1.0, -1.0)
        else:
            way = steepest(torch.randn(shape, generator=drawn), "l2")
        yield (epsilon * way).to(like)


def ascend(
    point: Point,
    *,
    epsilon: float,
    size: float,
    steps: int,
    norm: str,
    target: str,
    begin: torch.Tensor | None = None,
    project: bool = True,
) -> Iterator[torch.Tensor]:
    """Climb the loss in steps of `size`; gives the pixels after each step.

    `begin` is added first (a random start). Steps stay in [0, 1], and with `project` in the ball of
    `epsilon`. The first gradient of a climb without a start is the one
    that `point` may have already.
    """
    u = point.u
    if begin is not None:
        begin = begin if point.there is None else begin * point.there
        u = (point.u + begin).clamp(0, 1)
    for number in range(steps):
        first = number == 0 and begin is None
        gradient = point.gradient(target) if first else point.at(u, target)
        u = u + size * steepest(gradient, norm)
        if project:
            u = point.u + projected(u - point.u, epsilon, norm)
        u = u.clamp(0, 1)
        yield u
