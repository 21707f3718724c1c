"""Rate against usefulness: operating points, gains at equal size, verdicts, what was published.

>>> gain([1, 4], [50.0, 70.0], [1, 16], [40.0, 60.0]).item()  # both cover 1 to 4 bytes
15.0
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geowb.classes import drawn
from geowb.errors import RequestError
from geowb.evaluate import middle_95

__all__ = ["PUBLISHED", "Results", "gain", "published", "verdict", "within"]

if TYPE_CHECKING:
    from geowb.nec.sending import Sent

_NEC = "nec_decoder"
#: Of fewer scenes an interval says too little: a bootstrap of n misses with 2 ** -n at the least,
#: and in trials said "holds" of a loss at the bound in 14 % of three scenes and 7 % of six.
_SCENES = 6
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


class Results:
    """Operating points as they come, and what follows from them.

    >>> results = Results(raw=98304, zstd=56000.0)
    >>> results.add("classes", "nec", sent, result.table)  # doctest: +SKIP
    >>> results.points  # doctest: +SKIP

    Scores are shares of images (or pixels) that are right, in %; intervals are of 95 %, by
    bootstrap over what is tested, the same draws for all points of a task: differences are paired.

    Parameters
    ----------
    raw, zstd
        Bytes of an image as it is, and without loss.
    by_scene
        Draw whole scenes, where six or more are tested: images of one scene are right or wrong
        together. With fewer, images are drawn within their scenes, which is told, but decides
        nothing. Without it images are drawn so, those of one sample of a set together.
    """

    #: What is held against: the whole encoder on the images.
    FULL = "full"

    def __init__(
        self,
        raw: float,
        zstd: float,
        *,
        by_scene: bool = False,
        repeats: int = 2000,
        seed: int = 0,
    ) -> None:
        self.raw, self.zstd, self.by_scene = raw, zstd, by_scene
        self._how = {"repeats": repeats, "seed": seed}
        self._undecided: set[str] = set()
        self._rows: list[dict[str, Any]] = []
        self._tables: dict[tuple[str, str, str], pd.DataFrame] = {}
        self._draws: dict[tuple[str, str, str], np.ndarray] = {}

    def add(self, task: str, method: str, sent: Sent, table: pd.DataFrame) -> None:
        """Take an operating point; `table` has a confusion matrix a test image.

        Raises
        ------
        RequestError
            If there is one of this name already.
        """
        key = (task, method, sent.setting)
        if key in self._draws:
            raise RequestError(
                f"There are two operating points '{sent.setting}' of {method} ({task}): give each "
                "setting once."
            )
        scene = table.index.get_level_values(0)
        few = self.by_scene and scene.nunique() < _SCENES
        place = scene if self.by_scene and not few else table.index.get_level_values(1)
        if few:
            self._undecided.add(task)
        table = table.groupby([scene, place.rename("place")], sort=False).sum()
        self._tables[key] = table
        self._draws[key] = 100 * drawn(table, score="accuracy", **self._how)
        miou = 100 * drawn(table, **self._how)
        self._rows.append(
            {
                **{"task": task, "method": method, "setting": sent.setting},
                **{"size": sent.size, "kib": sent.kib, "bits_per_element": sent.bits_per_element},
                **{"of_raw": 100 * sent.size / self.raw, "of_zstd": 100 * sent.size / self.zstd},
                **self._with_interval("score", self._draws[key], len(table)),
                **self._with_interval("miou", miou, len(table)),
            }
        )

    @staticmethod
    def _with_interval(name: str, values: np.ndarray, places: int) -> dict[str, float]:
        low, high = middle_95(values[1:], places)
        tail = "" if name == "score" else f"_{name}"
        return {name: values[0], f"low{tail}": low, f"high{tail}": high}

    @property
    def points(self) -> pd.DataFrame:
        """A row an operating point: sizes, score and mean IoU with their bounds."""
        return pd.DataFrame(self._rows)

    def of(self, task: str, method: str = "") -> pd.DataFrame:
        """Those of a task, or of one method in it; none where nothing was added."""
        points = self.points
        found = points[points["task"] == task]
        return found[found["method"] == method] if method else found

    def lost(self, task: str, method: str, setting: str) -> tuple[float, float, float]:
        """Points lost against the full encoder on the images: value, low, high."""
        full = self.of(task, self.FULL)["setting"].iloc[0]
        lost = self._draws[task, self.FULL, full] - self._draws[task, method, setting]
        return lost[0], *middle_95(lost[1:], len(self._tables[task, method, setting]))

    def at_budgets(
        self, task: str, budgets: dict[str, float], allowed: dict[str, float]
    ) -> pd.DataFrame:
        """Find for each method and budget (bytes) the largest point that fits, and what it loses.

        Parameters
        ----------
        allowed
            Points that may be lost, by budget: what the verdict is about. Of too few scenes it is
            always that one cannot tell.
        """
        names = ["budget", "method", "setting", "at_most", "kib", "score"]
        names += ["lost", "low", "high", "verdict"]
        rows = []
        for method, part in self.of(task).groupby("method", sort=False):
            for name, budget in budgets.items() if method != self.FULL else ():
                if (point := within(part, budget)) is None:
                    continue
                lost, low, high = self.lost(task, str(method), point["setting"])
                says = verdict(low, high, at_most=allowed[name])
                says = "cannot tell" if task in self._undecided else says
                row = {"budget": name, "method": method, "setting": point["setting"]}
                row |= {"at_most": budget / 1024, "kib": point["kib"], "score": point["score"]}
                rows.append(row | {"lost": lost, "low": low, "high": high, "verdict": says})
        return pd.DataFrame(rows, columns=names)

    def gain(self, task: str, ours: str, theirs: str) -> tuple[float, float, float]:
        """Points that one method has more than another at equal size: value, low, high.

        NaN where one is missing, or the curves have no size in common.
        """
        curves: list[Any] = []
        places = 0
        for part in (self.of(task, ours), self.of(task, theirs)):
            keys = list(part[["task", "method", "setting"]].itertuples(index=False, name=None))
            if not keys:
                return (float("nan"),) * 3
            curves += [part["size"], [self._draws[key] for key in keys]]
            places = len(self._tables[keys[0]])
        values = gain(*curves)
        return values[0], *middle_95(values[1:], places)
