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

__all__ = ["METRICS", "RISES", "auroc", "correlations", "row"]

#: The five measures, in the order in which they are taken.
METRICS = (
    "gradient_norm",
    "fgsm_pgd_cosine",
    "linearization_error",
    "pgd_collinearity",
    "gradient_information",
)

#: Measures that are high where gradients are masked; the others are low there.
RISES = ("gradient_norm", "linearization_error")
#: Fewest models that a correlation is told of.
_FEWEST = 4


def correlations(
    table: pd.DataFrame,
    metrics: Sequence[str],
    gaps: Sequence[str],
    *,
    groups: str = "",
    repeats: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Correlate measures with gaps over models: Pearson and Spearman with 95 % intervals.

    Rows are metric and gap; columns ``models``, ``pearson``, ``pearson_low``, ``pearson_high`` and
    the same for ``spearman``. The intervals are by bootstrap over models (with `groups`, a column,
    over groups of them: seeds of one defence are no models of their own). Models without a value
    are left out; NaN with fewer than four, or where all are equal.
    """
    if missing := [name for name in (*metrics, *gaps) if name not in table]:
        raise DataError(f"The table of models has no column '{missing[0]}'.")
    drawn = np.random.default_rng(seed)
    rows = {}
    for metric in metrics:
        for gap in gaps:
            part = table[[metric, gap] + [groups] * bool(groups)].dropna()
            rows[metric, gap] = {"models": len(part)} | _intervals(
                part[metric].to_numpy(float),
                part[gap].to_numpy(float),
                part[groups].to_numpy() if groups else np.arange(len(part)),
                repeats,
                drawn,
            )
    found = pd.DataFrame(rows).T.astype({"models": int})
    return found.rename_axis(index=["metric", "gap"])


def _intervals(
    a: np.ndarray, b: np.ndarray, groups: np.ndarray, repeats: int, drawn: np.random.Generator
) -> dict[str, float]:
    names = np.unique(groups)
    members = [np.flatnonzero(groups == name) for name in names]
    picks = drawn.integers(len(names), size=(repeats, len(names))) if len(names) else []
    found = {}
    for kind in ("pearson", "spearman"):
        values = [
            _correlation(a[rows], b[rows], kind)
            for rows in (np.concatenate([members[k] for k in pick]) for pick in picks)
        ]
        values = np.array([value for value in values if math.isfinite(value)])
        enough = len(names) >= _FEWEST and values.size > repeats // 2
        low, high = np.percentile(values, [2.5, 97.5]) if enough else (math.nan, math.nan)
        found |= {kind: _correlation(a, b, kind) if enough else math.nan}
        found |= {f"{kind}_low": float(low), f"{kind}_high": float(high)}
    return found


def _correlation(a: np.ndarray, b: np.ndarray, kind: str) -> float:
    if kind == "spearman":
        from scipy.stats import rankdata

        a, b = rankdata(a), rankdata(b)
    a, b = a - a.mean(), b - b.mean()
    size = math.sqrt((a @ a) * (b @ b))
    return float(a @ b / size) if size > 1e-12 else math.nan


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
    found: Profile, attacked: Attacked | None = None, *, masks: bool, defended: bool
) -> dict[str, Any]:
    """Put what is known of one model into a row of the table of models.

    >>> pd.DataFrame({"pgd": row(found, attacked, masks=False, defended=True)}).T  # doctest: +SKIP

    Accuracies and their gaps are in % and points; a measure is its mean over the samples, a cosine
    0 where there is no gradient, as the author's code has it. `masks` says whether the model
    hides its gradients by construction, ``told`` what the profile says.
    """
    values = found.samples
    right = {f"{name} (%)": 100 * values[name].mean() for name in ("clean", "fgsm", "pgd")}
    if attacked is not None:
        right["autoattack (%)"] = 100 * attacked.accuracy
    told = {name: values[name] for name in METRICS if name in values}
    for name in ("fgsm_pgd_cosine", "pgd_collinearity"):
        if name in told:
            told[name] = told[name].fillna(0.0)
    gaps = {
        f"{a}-{b}": right[f"{a} (%)"] - right[f"{b} (%)"]
        for a, b in (("fgsm", "autoattack"), ("fgsm", "pgd"), ("pgd", "autoattack"))
        if f"{b} (%)" in right
    }
    measures = {name: part.mean() for name, part in told.items()}
    ends = {"trust": found.trust[0], "masks": masks, "defended": defended, "told": found.masks}
    return right | gaps | measures | ends
