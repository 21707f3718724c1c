"""The checks of Athalye et al. (2018, arXiv:1802.00420): signs that gradients are masked.

>>> checklist(model, x, y, epsilon=8 / 255)[["sign", "says"]]  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from torch import nn

from geowb.errors import NotDifferentiable
from geowb.masking import steps as step
from geowb.masking.attacks import fgsm, pgd, spsa
from geowb.masking.subject import Subject, points, undisturbed

__all__ = ["checklist", "random_search"]

#: Level at which one attack is said to find more than another.
_LEVEL = 0.05
#: The whole pixel range from a grey pixel: nothing withstands that.
_UNBOUNDED = 0.5


def random_search(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    epsilon: float,
    bounds: tuple[float, float] = (0.0, 1.0),
    norm: str = "linf",
    draws: int = 1000,
    seed: int = 0,
    batch_size: int = 64,
) -> torch.Tensor:
    """Try random corners of the ball, clipped to the pixel range; the first that fools is kept.

    Returns the samples at that corner, and unchanged where none fooled the model. It takes `draws`
    forward passes an image at most. Parameters as in `geowb.masking.fgsm_pgd_cosine`.
    """
    step.check(norm, epsilon, draws=draws)
    subject, found = Subject(model, bounds), []
    with undisturbed(model, seed), torch.no_grad():
        for point in points(subject, x, y, batch_size):
            point.need_classes("Random search")
            u = point.u.clone()
            left = (point.prediction == point.y).nonzero()[:, 0]
            for ways in step.directions(u, epsilon, norm, draws, seed):
                for way in ways:
                    if not len(left):
                        break
                    part = point.part(left)
                    moved = (part.u + way).clamp(0, 1)
                    right = subject.output(moved, part.there).argmax(1) == part.y
                    u[left[~right]], left = moved[~right], left[right]
            found.append(subject.pixels(u, point.there).to(x.device))
    return torch.cat(found)


def checklist(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    epsilon: float,
    bounds: tuple[float, float] = (0.0, 1.0),
    norm: str = "linf",
    steps: int = 25,
    draws: int = 1000,
    samples: int = 256,
    seed: int = 0,
    batch_size: int = 64,
) -> pd.DataFrame:
    """Look for the five signs of masked gradients, and say what was found.

    One step finds more than many; an attack without gradients finds more than one with them;
    unbounded changes do not fool everything; random search finds what the gradient does not; a
    larger epsilon fools fewer. Where two attacks are compared on the same samples, a sign is a
    difference that chance explains in less than 5 % of cases (a one-sided sign test).

    Returns a row a check: ``sign`` (whether it points to masking), ``value`` and ``beside`` (shares
    still right under the two that are compared), ``says``. A model without a gradient withstands
    all that follows gradients; what needs none is measured all the same.

    Parameters
    ----------
    steps
        Of PGD.
    draws
        Of the random search.
    samples
        Of SPSA, a step; 0 leaves out the attack without gradients.

    Others as in `geowb.masking.fgsm_pgd_cosine`; classes only.
    """
    how = {"bounds": bounds, "norm": norm, "seed": seed, "batch_size": batch_size}

    def right(attack: Callable[..., torch.Tensor], size: float, **more: int) -> np.ndarray:
        return _right(model, attack(model, x, y, epsilon=size, **how, **more), y, bounds)

    clean = _right(model, x, y, bounds)
    rows = {}
    blind = right(spsa, epsilon, samples=samples) if samples else None
    chance = right(random_search, epsilon, draws=draws)
    try:
        one, many = right(fgsm, epsilon), right(pgd, epsilon, steps=steps)
        far = right(pgd, _UNBOUNDED * (1 if norm == "linf" else x[0].numel() ** 0.5), steps=steps)
        sizes = [0.25 * epsilon, 0.5 * epsilon, epsilon, 1.5 * epsilon, 2 * epsilon]
        falling = [right(fgsm, size) for size in sizes]
    except NotDifferentiable:
        one = many = far = clean
        falling = [clean]
    rows["one step"] = _compared(one, many, "one step (FGSM)", f"{steps} (PGD)")
    if blind is not None:
        rows["without gradients"] = _compared(blind, many, "SPSA, without gradients", "PGD")
    rows["unbounded"] = {
        "sign": bool(far.any()),
        "value": far.mean(),
        "beside": 0.0,
        "says": f"Changes without a bound leave {100 * far.mean():.1f} % right"
        + (": nothing should." if far.any() else ", as they should."),
    }
    rows["random search"] = _compared(chance, many, f"{draws} random corners", "PGD")
    rows["larger epsilon"] = _rising(falling)
    return pd.DataFrame(rows).T.astype({"sign": bool, "value": float, "beside": float})


def _right(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, bounds: tuple[float, float]
) -> np.ndarray:
    with undisturbed(model), torch.no_grad():
        found = [p.prediction == p.y for p in points(Subject(model, bounds), x, y, 256)]
    return torch.cat(found).cpu().numpy()


def _more(weaker: np.ndarray, stronger: np.ndarray) -> tuple[bool, int, int]:
    """Whether the one that should be weaker fools more, and how many each fools alone."""
    from scipy.stats import binomtest

    alone, other = int((~weaker & stronger).sum()), int((weaker & ~stronger).sum())
    if not alone:
        return False, 0, other
    test = binomtest(alone, alone + other, 0.5, alternative="greater")
    return test.pvalue < _LEVEL, alone, other


def _compared(weaker: np.ndarray, stronger: np.ndarray, name: str, beside: str) -> dict:
    sign, alone, other = _more(weaker, stronger)
    told = (
        f"{name} leaves {100 * weaker.mean():.0f} % right, {beside} {100 * stronger.mean():.0f} %"
    )
    return {
        "sign": sign,
        "value": weaker.mean(),
        "beside": stronger.mean(),
        "says": f"{told}; {alone} samples fall to the former alone, {other} to the latter.",
    }


def _rising(falling: list[np.ndarray]) -> dict:
    """Whether some larger epsilon of FGSM fools fewer than a smaller one."""
    shares = [right.mean() for right in falling]
    pairs = [
        (before, after)
        for i, before in enumerate(falling)
        for after in falling[i + 1 :]
        if _more(before, after)[0]
    ]
    told = ", ".join(f"{100 * share:.0f}" for share in shares)
    return {
        "sign": bool(pairs),
        "value": shares[-1],
        "beside": min(shares),
        "says": f"FGSM of a quarter to twice epsilon leaves {told} % right."
        if len(shares) > 1
        else "There is no gradient to follow, however large epsilon is.",
    }
