"""What measures of many models say about their gaps of accuracy, and about who masks.

>>> table = pd.DataFrame({"cosine": [0.9, 0.8, 0.2, 0.1], "gap": [1.0, 0.0, 40.0, 60.0]})
>>> correlations(table, ["cosine"], ["gap"]).round(2)[["pearson", "spearman"]].iloc[0].tolist()
[-0.96, -0.8]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geowb.errors import DataError

if TYPE_CHECKING:
    from geowb.masking.profiling import Profile
    from geowb.masking.strong import Attacked

__all__ = ["ATTACKS", "METRICS", "RISES", "auroc", "correlations", "row"]

#: The five measures, in the order in which they are taken.
METRICS = (
    "gradient_norm",
    "fgsm_pgd_cosine",
    "linearization_error",
    "pgd_collinearity",
    "gradient_information",
)

#: What an accuracy is under, from no attack to the strongest.
ATTACKS = ("clean", "fgsm", "pgd", "autoattack")
#: Measures that are high where gradients are masked; the others are low there.
RISES = ("gradient_norm", "linearization_error")
#: Fewest models that a correlation is told of, and that an interval is.
_FEWEST, _SEVERAL = 4, 8


def correlations(
    table: pd.DataFrame,
    metrics: Sequence[str],
    gaps: Sequence[str],
    *,
    repeats: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Correlate measures with gaps over models: Pearson and Spearman with 95 % intervals.

    Rows are metric and gap; columns ``models``, ``pearson``, ``pearson_low``, ``pearson_high`` and
    the same for ``spearman``. The intervals are by bootstrap over models, and NaN with fewer than
    eight. Models without a value are left out; NaN with fewer than four, or where all are equal.
    """
    if missing := [name for name in (*metrics, *gaps) if name not in table]:
        raise DataError(f"The table of models has no column '{missing[0]}'.")
    drawn = np.random.default_rng(seed)
    rows = {}
    for metric in metrics:
        for gap in gaps:
            part = table[[metric, gap]].astype(float).dropna().to_numpy()
            found: dict[str, float] = {"models": len(part)}
            picks = drawn.integers(max(1, len(part)), size=(repeats, len(part)))
            for kind in ("pearson", "spearman"):
                whole, ends = math.nan, (math.nan, math.nan)
                if len(part) >= _FEWEST:
                    whole = float(_correlation(part[None], kind)[0])
                    several = _correlation(part[picks], kind)
                    several = several[np.isfinite(several)]
                    if len(part) >= _SEVERAL and several.size > repeats // 2:
                        ends = tuple(np.percentile(several, [2.5, 97.5]).tolist())
                found |= {kind: whole, f"{kind}_low": ends[0], f"{kind}_high": ends[1]}
            rows[metric, gap] = found
    found = pd.DataFrame(rows).T.astype({"models": int})
    return found.rename_axis(index=["metric", "gap"])


def _correlation(pairs: np.ndarray, kind: str) -> np.ndarray:
    """Correlation of each table of pairs ``(tables, models, 2)``; NaN where one side is flat."""
    if kind == "spearman":
        from scipy.stats import rankdata

        pairs = rankdata(pairs, axis=1)
    away = pairs - pairs.mean(1, keepdims=True)
    size = np.sqrt((away**2).sum(1).prod(1))
    flat = size <= 1e-12 * np.abs(pairs).max(initial=0) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(flat, np.nan, away.prod(2).sum(1) / size)


def auroc(values: pd.Series, masks: pd.Series, *, rises: bool) -> float:
    """Area under the ROC curve of a measure as a test for masking: 1 if it parts all, 0.5 for luck.

    >>> auroc(pd.Series([0.1, 0.2, 0.9]), pd.Series([True, True, False]), rises=False)
    1.0

    `rises` says whether masking makes the measure high. Models without a value are left out; NaN
    without models of both kinds.
    """
    there = values.notna() & masks.notna()
    scores, truth = values[there].to_numpy(float), masks[there].to_numpy(bool)
    if truth.all() or not truth.any():
        return math.nan
    from scipy.stats import mannwhitneyu

    above = mannwhitneyu(scores[truth], scores[~truth]).statistic
    share = float(above) / (truth.sum() * (~truth).sum())
    return share if rises else 1 - share


def row(
    found: Profile, attacked: Attacked | None = None, *, masks: bool | None, defended: bool
) -> dict[str, Any]:
    """Put what is known of one model into a row of the table of models.

    >>> pd.DataFrame({"pgd": row(found, attacked, masks=False, defended=True)}).T  # doctest: +SKIP

    Accuracies and their gaps are in % and points; a measure is its mean over the samples, a cosine
    0 where there is no gradient, as the author's code has it. `masks` says whether the model
    hides its gradients by construction, ``told`` what the profile says.
    """
    values = found.samples
    right = {name: 100 * values[name].mean() for name in ATTACKS[:3]}
    if attacked is not None:
        right["autoattack"] = 100 * attacked.accuracy
    told = {name: values[name] for name in METRICS if name in values}
    for name in ("fgsm_pgd_cosine", "pgd_collinearity"):
        if name in told:
            told[name] = told[name].fillna(0.0)
    gaps = {
        f"{a}-{b}": right[a] - right[b]
        for a, b in (("fgsm", "autoattack"), ("fgsm", "pgd"), ("pgd", "autoattack"))
        if b in right
    }
    measures = {name: part.mean() for name, part in told.items()}
    ends = {"trust": found.trust[0], "masks": masks, "defended": defended, "told": found.masks}
    return right | gaps | measures | ends
