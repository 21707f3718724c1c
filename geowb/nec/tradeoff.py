"""Rate against usefulness: operating points, gains at equal size, verdicts, what was published.

>>> gain([1, 4], [50.0, 70.0], [1, 16], [40.0, 60.0]).item()  # both cover 1 to 4 bytes
15.0
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from geowb.errors import RequestError

__all__ = ["PUBLISHED", "gain", "published", "verdict", "within"]

_NEC = "nec_decoder"
#: Points of the plots in the README of IBM/neural-embedding-compression (2024-10-24), read off: KiB
#: an image, per cent. UC Merced: accuracy of scene classes, 192 KiB an image; Potsdam: overall
#: accuracy of maps, 768 KiB. Bits of uniform quantisation are by the names of its configurations.
PUBLISHED: MappingProxyType[str, MappingProxyType[str, tuple[tuple[float, float], ...]]] = (
    MappingProxyType(
        {
            "ucmerced": MappingProxyType(
                {
                    "nec": ((0.47, 64.0), (2.13, 88.5), (7.33, 93.5), (36.38, 98.3)),
                    _NEC: ((0.47, 94.0), (2.13, 97.0), (7.33, 98.0), (36.38, 99.0)),
                    "uniform": ((6.58, 67.8), (6.91, 73.8), (16.58, 95.2), (84.27, 98.9)),
                    "uniform_decoder": ((6.58, 80.2), (6.91, 84.0), (16.58, 97.8), (84.27, 99.1)),
                    "float16": ((349.1, 99.3),),
                    "float16_decoder": ((349.1, 99.6),),
                    "jpeg2000": (
                        *((0.50, 74.7), (1.29, 93.1), (3.31, 98.3), (12.2, 99.3), (54.9, 99.5)),
                        (87.2, 99.5),
                    ),
                    "full": ((153.0, 99.8),),
                }
            ),
            "potsdam": MappingProxyType(
                {
                    "nec": ((1.22, 73.0), (5.60, 84.0), (21.76, 86.6), (75.6, 87.9)),
                    _NEC: ((1.22, 74.6), (5.60, 85.4), (21.76, 87.7), (75.6, 88.6)),
                    "uniform": ((6.21, 65.6), (49.45, 87.1), (274.5, 88.0)),
                    "uniform_decoder": ((5.36, 60.6), (6.21, 78.4), (49.45, 87.5), (274.5, 88.8)),
                    "float16": ((1380.0, 88.1),),
                    "float16_decoder": ((1380.0, 88.9),),
                    "jpeg2000": ((1.25, 74.9), (10.5, 86.1), (129.1, 87.9)),
                    "full": ((446.0, 90.7),),
                }
            ),
        }
    )
)


def published(data: str) -> pd.DataFrame:
    """List the paper's points on ``ucmerced`` or ``potsdam``: method, kib, score (%).

    >>> published("ucmerced").query("method == 'nec_decoder'").score.tolist()
    [94.0, 97.0, 98.0, 99.0]

    Raises
    ------
    RequestError
        For other data.
    """
    if data not in PUBLISHED:
        raise RequestError(f"The paper has no points on '{data}'; it has {', '.join(PUBLISHED)}.")
    rows = [(name, *point) for name, points in PUBLISHED[data].items() for point in points]
    return pd.DataFrame(rows, columns=["method", "kib", "score"])


def within(points: pd.DataFrame, budget: float) -> pd.Series | None:
    """Find the largest of some operating points that takes at most `budget` bytes an image.

    >>> points = pd.DataFrame({"size": [90.0, 40.0, 200.0], "score": [3, 2, 4]})
    >>> within(points, 100).score.item()
    3.0

    The largest, and not the most accurate: on the images that are scored one must not choose. None
    if all are larger.
    """
    fitting = points[points["size"] <= budget]
    return None if fitting.empty else fitting.loc[fitting["size"].idxmax()]


def gain(
    our_sizes: Sequence[float],
    our_scores: Any,
    their_sizes: Sequence[float],
    their_scores: Any,
) -> np.ndarray:
    """Average how much better one curve is than another over the sizes that both cover.

    Parameters
    ----------
    our_sizes, their_sizes
        Of each operating point, above 0.
    our_scores, their_scores
        ``(points,)`` or ``(points, draws)``, such as bootstrap draws.

    Returns
    -------
    numpy.ndarray
        One difference, or one a draw; NaN where the curves have no size in common. Between two
        points a curve is a line over the logarithm of the size, and the mean is over that logarithm
        too: each halving counts alike (as in Bjontegaard's measure, with lines for its polynomial).
    """
    ours, ys = _curve(our_sizes, our_scores)
    theirs, zs = _curve(their_sizes, their_scores)
    low, high = max(ours[0], theirs[0]), min(ours[-1], theirs[-1])
    if not low < high:
        return np.full(ys.shape[1:], np.nan)
    knots = np.unique([low, high, *(k for k in (*ours, *theirs) if low < k < high)])
    difference = _at(knots, ours, ys) - _at(knots, theirs, zs)
    return np.trapezoid(difference, knots, axis=0) / (high - low)


def _curve(sizes: Sequence[float], scores: Any) -> tuple[np.ndarray, np.ndarray]:
    sizes, scores = np.asarray(sizes, float), np.asarray(scores, float)
    if not len(sizes) or len(sizes) != len(scores) or sizes.min() <= 0:
        raise RequestError(f"{len(sizes)} sizes (above 0) for {len(scores)} scores.")
    order = np.argsort(sizes)
    return np.log(sizes[order]), scores[order]


def _at(knots: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    flat = y.reshape(len(y), -1)
    return np.stack([np.interp(knots, x, one) for one in flat.T], axis=1).reshape(
        len(knots), *y.shape[1:]
    )


def verdict(low: float, high: float, *, at_most: float) -> str:
    """Say of a loss with the interval from `low` to `high` whether it is at most so large.

    >>> verdict(0.1, 0.8, at_most=1.0), verdict(0.5, 1.5, at_most=1.0)
    ('holds', 'cannot tell')
    """
    if high <= at_most:
        return "holds"
    return "does not hold" if low > at_most else "cannot tell"
