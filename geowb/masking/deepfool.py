"""DeepFool: to the nearest border between two classes, by linearising all of them."""

from __future__ import annotations

import torch

from geowb.masking import steps as step
from geowb.masking.subject import Point

__all__ = ["deepfool"]


def deepfool(
    point: Point,
    *,
    norm: str = "linf",
    steps: int = 50,
    candidates: int = 10,
    overshoot: float = 0.02,
) -> torch.Tensor:
    """Pixels just beyond the border of the class that the model says, ``(N, ...)``.

    Moosavi-Dezfooli et al. (2016, arXiv:1511.04599), with the limit to the likeliest classes, the
    overshoot and the small constants of foolbox (`LinfDeepFoolAttack`), which the author of the
    metrics used. Samples whose label has changed are left alone; where it has not after `steps`,
    the last pixels are returned.
    """
    ranked = point.output.argsort(1, descending=True)[:, :candidates]
    u, total = point.u.clone(), torch.zeros_like(point.u)
    open_ = torch.arange(len(point), device=u.device)
    for _ in range(steps):
        part, now = point.part(open_), u[open_].detach().requires_grad_()
        output = part.subject.output(now, part.there)
        still = output.argmax(1) == ranked[open_, 0]
        if not still.all():
            open_ = open_[still]
            if not len(open_):
                break
            part, now = point.part(open_), u[open_].detach().requires_grad_()
            output = part.subject.output(now, part.there)
        move = _nearest(part, now, output, ranked[open_], norm)
        total[open_] += move
        u[open_] = (part.u + (1 + overshoot) * total[open_]).clamp(0, 1)
    return u


def _nearest(
    point: Point, u: torch.Tensor, output: torch.Tensor, ranked: torch.Tensor, norm: str
) -> torch.Tensor:
    """Find the step to the nearest of the linearised borders, ``(N, ...)``."""
    rows = torch.arange(len(u), device=u.device)
    best, move = torch.full((len(u),), torch.inf).to(u), torch.zeros_like(u)
    count = ranked.shape[1]
    for k in range(1, count):
        gap = output[rows, ranked[:, k]] - output[rows, ranked[:, 0]]
        slope = point.subject.backward(gap, u, again=k < count - 1)
        flat = slope.flatten(1)
        size = flat.abs().sum(1) if norm == "linf" else flat.norm(dim=1)
        distance = gap.detach().abs() / (size + 1e-8)
        way = slope.sign() if norm == "linf" else slope / (step.wide(size, slope) + 1e-8)
        nearer = distance < best
        move = torch.where(step.wide(nearer, move), step.wide(distance + 1e-4, way) * way, move)
        best = torch.where(nearer, distance, best)
    return move.detach()
