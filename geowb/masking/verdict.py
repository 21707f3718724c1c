"""What measures say together: the trust in a model's gradients, and a verdict in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from geowb.evaluate import middle_95
from geowb.masking.comparing import ATTACKS, METRICS

__all__ = [
    "Facts",
    "decided",
    "guessing_of",
    "means",
    "pooled",
    "trust_of",
    "verdict",
    "weights_of",
]

#: What the verdict is made of; each is 1 for a linear model.
TRUST = ("fgsm_pgd_cosine", "foresight", "gradient_information")
#: Below this mean of the three, gradients say too little to be trusted.
ENOUGH = 0.6
#: A model looks robust if a cheap attack leaves this share of what it gets right.
LOOKS_ROBUST = 0.25
#: Samples, and corners, from which on anything is said.
FEWEST, CORNERS = 20, 16


def weights_of(count: int, repeats: int, seed: int) -> np.ndarray:
    """How often each sample is drawn, ``(repeats, count)``."""
    drawn = np.random.default_rng(seed)
    return drawn.multinomial(count, np.full(count, 1 / count), repeats).astype(np.float32)


def means(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean of what is defined, in each draw."""
    there = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return weights[:, there] @ values[there] / weights[:, there].sum(1)


def pooled(
    values: np.ndarray, sizes: np.ndarray, kind: str, weights: np.ndarray | None = None
) -> np.ndarray:
    """Share of all labels that is right, or the error over all of them, in each draw."""
    weights = np.ones((1, len(values))) if weights is None else weights
    squared = values**2 if kind == "quantities" else values
    found = weights @ (squared * sizes) / (weights @ sizes)
    return np.sqrt(found) if kind == "quantities" else found


def trust_of(
    values: Mapping[str, torch.Tensor], weights: np.ndarray, corners: float = 0.0
) -> tuple[float, float, float]:
    """Mean of the measures of trust, with its interval; where there is no gradient each is 0.

    Gradient information counts if it is defined for enough samples. `corners` is the standard error
    of the mean foresight that the choice of corners brings, which all samples share.
    """
    none = (values["gradient_norm"] == 0).numpy() if "gradient_norm" in values else False
    total, drawn = [], []
    for name in TRUST:
        if name in values:
            found = np.where(none, 0.0, values[name].double().numpy())
            if np.isfinite(found).sum() >= (FEWEST if name == "gradient_information" else 1):
                total.append(np.nanmean(found))
                drawn.append(means(found, weights))
    if not total:
        return math.nan, math.nan, math.nan
    middle = float(np.mean(total))
    low, high = middle_95(np.mean(drawn, 0), weights.shape[1])
    more = 1.96 * corners / len(total)
    return middle, middle - math.hypot(middle - low, more), middle + math.hypot(high - middle, more)


def decided(trust: tuple[float, float, float]) -> bool:
    """Whether the whole interval lies on one side of the limit."""
    return trust[1] > ENOUGH or trust[2] < ENOUGH


def guessing_of(y: torch.Tensor) -> float:
    """Share that is right by always saying the commonest class, or the labels' deviation."""
    if y.is_floating_point():
        return float(y[y.isfinite()].double().std(correction=0))
    seen = y[y >= 0]
    return float(seen.bincount().max() / len(seen)) if len(seen) else 0.0


@dataclass(frozen=True)
class Facts:
    """What a verdict is made of: `right` and `sizes` a sample, and what can be had by guessing."""

    right: Mapping[str, np.ndarray]
    sizes: np.ndarray
    kind: str
    guessing: float
    trust: tuple[float, float, float]
    none: float
    drawn: int
    random: bool

    def left(self, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Share of the score that FGSM and PGD leave, in each draw; of quantities the skill's."""
        scores = [pooled(self.right[n], self.sizes, self.kind, weights) for n in ATTACKS[:3]]
        if self.kind == "quantities":
            scores = [1 - (score / max(self.guessing, 1e-300)) ** 2 for score in scores]
        clean = np.maximum(scores[0], 1e-12)
        return tuple(np.clip(score / clean, 0, None) for score in scores[1:])


def verdict(facts: Facts, metrics: Sequence[str], weights: np.ndarray) -> tuple[bool | None, str]:
    """Whether the model masks, and the same in words."""
    if missing := {"gradient_norm", *METRICS[1:3]} - set(metrics):
        return None, f"No verdict: it needs {' and '.join(sorted(missing))} too."
    if problem := _no_case(facts, weights):
        return None, problem
    under, told = _told(facts), _trusted(facts)
    left = [float(found[0]) for found in facts.left()]
    low, high = middle_95(np.maximum(*facts.left(weights)), weights.shape[1])
    if high < LOOKS_ROBUST:
        return False, (
            f"Nothing to mask: the model does not look robust ({under}). The measures do not "
            f"decide here; an undefended model can score like a masking one ({told})."
        )
    if not decided(facts.trust):
        return None, (
            f"Cannot tell: the interval of the trust holds the limit ({under}; {told}). Measure at "
            "more samples, or with more draws."
        )
    seen = left[1] < LOOKS_ROBUST
    if facts.trust[0] > ENOUGH:
        return False, (
            f"The gradients can be trusted: they tell what comes ({told}), so that what withstands "
            f"the attacks is no work of masking ({under})."
            + " FGSM alone misleads: PGD breaks it."
            * seen
        )
    if low < LOOKS_ROBUST:
        return None, (
            f"Cannot tell: the gradients say little ({told}), but whether the model looks robust "
            f"is not clear ({under}). Measure at more samples."
        )
    return True, (
        f"The model masks its gradients: it looks robust ({under}), but they do not tell what "
        f"comes ({told}). Believe no attack that follows them; use one that needs none."
        + " PGD sees through it."
        * seen
    )


def _no_case(facts: Facts, weights: np.ndarray) -> str:
    """Why nothing can be said, or nothing."""
    under = _told(facts)
    if facts.random:
        return (
            "No verdict: the model draws random numbers, so that two passes of the same image "
            "differ. Its gradients are those of one draw: attack the mean over many draws."
        )
    if len(facts.sizes) < FEWEST:
        return f"Cannot tell: {FEWEST} samples are the least ({under}). Measure at more samples."
    if facts.drawn < CORNERS:
        return f"Cannot tell: {CORNERS} corners are the least, and there were {facts.drawn}."
    clean = pooled(facts.right["clean"], facts.sizes, facts.kind, weights)
    low, high = middle_95(clean, weights.shape[1])
    if facts.kind == "quantities":
        if high < 1e-6 * facts.guessing:
            return "Cannot tell: there is no error, where the gradient of its square vanishes."
        if high >= facts.guessing:
            return (
                "Cannot tell: the model is no better than always saying the mean, whose error is "
                f"{facts.guessing:.3g} ({under}). There is nothing to attack."
            )
    elif low <= facts.guessing:
        return (
            "Cannot tell: the model is no better than always saying the commonest class, which "
            f"is {100 * facts.guessing:.0f} % of these samples ({under}). There is nothing to "
            "attack."
        )
    return ""


def _told(facts: Facts) -> str:
    """Say what is left under the attacks."""
    scores = [float(pooled(facts.right[n], facts.sizes, facts.kind)[0]) for n in ATTACKS[:3]]
    if facts.kind == "quantities":
        return "the error is {:.3g}, {:.3g} under FGSM, {:.3g} under PGD".format(*scores)
    of = "of the pixels " if facts.kind == "maps" else ""
    clean, fgsm, pgd = (f"{100 * score:.0f} %" for score in scores)
    return f"{clean} {of}are right, {fgsm} under FGSM, {pgd} under PGD"


def _trusted(facts: Facts) -> str:
    """Say the trust, and what it lacks."""
    told = "trust {:.2f} ({:.2f} to {:.2f}; limit {})".format(*facts.trust, ENOUGH)
    if facts.none:
        told += f", no gradient at all at {100 * facts.none:.0f} % of the samples"
    if facts.kind != "classes":
        told += "; gradient information does not apply to maps"
    return told
