"""What measures say together: the trust in a model's gradients, and a verdict in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from geowb.evaluate import middle_95
from geowb.masking.comparing import METRICS

__all__ = ["decided", "guessing_of", "means", "trust_of", "verdict", "weights_of"]

#: What the verdict is made of; each is 1 for a linear model.
TRUST = ("fgsm_pgd_cosine", "foresight", "gradient_information")
#: Below this mean of the three, gradients say too little to be trusted.
ENOUGH = 0.6
#: A model looks robust if a cheap attack leaves this share of what it gets right.
LOOKS_ROBUST = 0.25
#: Samples from which on intervals are wide enough to be believed.
_FEWEST = 20


def weights_of(count: int, repeats: int, seed: int) -> np.ndarray:
    """How often each sample is drawn, ``(repeats, count)``."""
    drawn = np.random.default_rng(seed)
    return drawn.multinomial(count, np.full(count, 1 / count), repeats).astype(np.float64)


def means(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean of what is defined, in each draw."""
    there = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return weights[:, there] @ values[there] / weights[:, there].sum(1)


def trust_of(values: dict[str, torch.Tensor], weights: np.ndarray) -> tuple[float, float, float]:
    """Mean of the measures of trust, with its interval; where there is no gradient each is 0."""
    none = (values["gradient_norm"] == 0).numpy() if "gradient_norm" in values else False
    total, drawn = [], []
    for name in TRUST:
        if name in values:
            found = np.where(none, 0.0, values[name].double().numpy())
            if np.isfinite(found).any():
                total.append(np.nanmean(found))
                drawn.append(means(found, weights))
    if not total:
        return math.nan, math.nan, math.nan
    return (float(np.mean(total)), *middle_95(np.mean(drawn, 0), weights.shape[1]))


def decided(trust: tuple[float, float, float]) -> bool:
    """Whether the whole interval lies on one side of the limit."""
    return not trust[1] <= ENOUGH <= trust[2]


def guessing_of(y: torch.Tensor) -> float:
    """Share that is right by always saying the commonest class; 0 for quantities."""
    if y.is_floating_point():
        return 0.0
    seen = y[y >= 0]
    return float(seen.bincount().max() / len(seen)) if len(seen) else 0.0


def verdict(
    scores: pd.DataFrame,
    trust: tuple[float, float, float],
    values: dict[str, torch.Tensor],
    metrics: Sequence[str],
    kind: str,
    guessing: float,
) -> tuple[bool | None, str]:
    """Whether the model masks, and the same in words."""
    if missing := {"gradient_norm", *METRICS[1:3]} - set(metrics):
        return None, f"No verdict: it needs {' and '.join(sorted(missing))} too."
    clean, fgsm, pgd = (float(scores.loc[name, "mean"]) for name in ("clean", "fgsm", "pgd"))
    left = [clean / max(after, 1e-30) for after in (fgsm, pgd)]
    under = f"the error is {clean:.3g}, {fgsm:.3g} under FGSM, {pgd:.3g} under PGD"
    if kind != "quantities":
        left = [after / max(clean, 1e-30) for after in (fgsm, pgd)]
        of = "of the pixels " if kind == "maps" else ""
        under = f"{100 * clean:.0f} % {of}are right, {100 * fgsm:.0f} % under FGSM, "
        under += f"{100 * pgd:.0f} % under PGD"
        if float(scores.loc["clean", "low"]) <= guessing:
            return None, (
                "Cannot tell: the model is no better than always saying the commonest class, which "
                f"is {100 * guessing:.0f} % of these samples ({under}). There is nothing to attack."
            )
    told = f"trust {trust[0]:.2f} ({trust[1]:.2f} to {trust[2]:.2f}; limit {ENOUGH})"
    if none := float((values["gradient_norm"] == 0).double().mean()):
        told += f", no gradient at all at {100 * none:.0f} % of the samples"
    if kind != "classes":
        told += "; gradient information does not apply to maps"
    if max(left) < LOOKS_ROBUST:
        return False, (
            f"Nothing to mask: the model does not look robust ({under}). The measures do not "
            f"decide here; an undefended model can score like a masking one ({told})."
        )
    few = len(values["gradient_norm"]) < _FEWEST
    if few or not decided(trust):
        why = f"{_FEWEST} samples are the least" if few else "the interval holds the limit"
        return None, f"Cannot tell: {why} ({under}; {told}). Measure at more samples."
    seen = left[1] < LOOKS_ROBUST
    if trust[0] > ENOUGH:
        return False, (
            f"The gradients can be trusted: they tell what comes ({told}), so that what withstands "
            f"the attacks is no work of masking ({under})."
            + " FGSM alone misleads: PGD breaks it."
            * seen
        )
    return True, (
        f"The model masks its gradients: it looks robust ({under}), but they do not tell what "
        f"comes ({told}). Believe no attack that follows them; use one that needs none."
        + " PGD sees through it."
        * seen
    )
