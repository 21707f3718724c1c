"""All measures of a model at once, what they took, and what they say together.

>>> x, y = torch.rand(40, 1, 8, 8), torch.arange(40) % 4
>>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
>>> found = profile(model, (x, y), epsilon=0.1)
>>> found.table.loc["gradient_information", "mean"].round(2)
1.0
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from geowb.errors import DataError, RequestError, did_you_mean
from geowb.evaluate import middle_95
from geowb.lines import Line
from geowb.masking import metrics as measure
from geowb.masking import steps as step
from geowb.masking import verdict as judge
from geowb.masking.comparing import ATTACKS, METRICS
from geowb.masking.subject import Loss, Passes, Point, Subject, points, targets, undisturbed

__all__ = ["METRICS", "Profile", "profile"]


@dataclass
class Profile:
    """What `profile` found.

    ``table`` has a row a measure: mean with its 95 % interval (low, high), median, undefined
    (samples), and the passes an image that it took beyond what others had done (forward, backward);
    ``samples`` has a row a sample; ``scores`` what is right without an attack and under FGSM and
    PGD, over all labels, with intervals (of quantities: the root mean square error); ``trust``
    is the mean of three measures with its interval;
    ``masks`` is True, False, or None where it cannot be told; ``verdict`` the same in words.
    """

    table: pd.DataFrame
    samples: pd.DataFrame
    scores: pd.DataFrame
    trust: tuple[float, float, float]
    masks: bool | None
    verdict: str
    passes: Passes
    seconds: float
    settings: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.shown().to_string()}\n{self.verdict}"

    def _repr_html_(self) -> str:
        return f"{self.shown().to_html()}<p>{self.verdict}</p>"

    def shown(self) -> pd.DataFrame:
        """Round the table's numbers, for people."""
        rows = self.table
        told = {
            "mean": rows["mean"].map(_short),
            "95 % interval": [
                "-" if math.isnan(low) else f"{_short(low)} to {_short(high)}"
                for low, high in zip(rows["low"], rows["high"], strict=True)
            ],
            "median": rows["median"].map(_short),
            "undefined": rows["undefined"].map("{:d}".format),
            "forward": rows["forward"].map("{:.0f}".format),
            "backward": rows["backward"].map("{:.0f}".format),
        }
        return pd.DataFrame(told, rows.index)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and words, for JSON; NaN becomes None."""
        names = ("mean", "low", "high")
        return {
            "settings": self.settings,
            "measures": _plain(self.table),
            "scores": _plain(self.scores),
            "trust": {n: _number(v) for n, v in zip(names, self.trust, strict=True)},
            "masks": self.masks,
            "verdict": self.verdict,
            "passes": {"forward": self.passes.forward, "backward": self.passes.backward},
            "seconds": round(self.seconds, 3),
        }


def profile(
    model: nn.Module,
    loader: Iterable[Sequence[torch.Tensor]] | tuple[torch.Tensor, torch.Tensor],
    *,
    epsilon: float = 8 / 255,
    bounds: tuple[float, float] = (0.0, 1.0),
    norm: str = "linf",
    loss: str | Loss = "cross_entropy",
    metrics: Sequence[str] = METRICS,
    draws: int = 0,
    seed: int = 0,
    batch_size: int = 64,
    repeats: int = 2000,
    progress: bool = False,
) -> Profile:
    """Measure how much a model hides its gradients, and say it in words.

    >>> print(profile(model, loader, epsilon=8 / 255).verdict)  # doctest: +SKIP

    Work is shared: one gradient at each sample serves its norm, FGSM and the linear prediction;
    FGSM and PGD serve the cosine and the scores; random corners serve the linearisation error and
    the foresight.

    The verdict first asks whether the model looks robust: whether FGSM or PGD leave a quarter of
    what it gets right. If neither does there is nothing to mask, whatever the measures say: an
    undefended model can score like a masking one (tables 2 and 3 of arXiv:2204.04778). If one does,
    gradients are trusted or not by the mean of three measures, each of which is 1 for a linear
    model and 0 where there is no gradient: the cosine between FGSM's and PGD's changes, gradient
    information, and foresight, the correlation over random corners between what the gradient
    foresees of the loss and what comes. Its limit, 0.6, was set on classifiers of handwritten
    digits. Gradient information counts from 20 samples on for which it is defined.

    Intervals are by bootstrap over the samples; that of the trust also holds the choice of corners,
    but not the random start of PGD, which all samples share. Models that draw random numbers, or
    are no better than guessing, are not judged, nor are fewer than 20 samples or 16 corners.

    Maps are measured by the loss over their labelled pixels, without gradient information; samples
    without a label are left out. Of quantities it is the skill, what the model explains of the
    labels' variance, a quarter of which must be left.

    Parameters
    ----------
    model, epsilon, bounds, norm, loss
        As in `geowb.masking.fgsm_pgd_cosine`.
    loader
        Batches ``(x, y)``, or one pair of tensors.
    metrics
        Which of the five. The verdict needs the first three, and takes gradient information if it
        is among them.
    draws
        Corners of the linearisation error and of foresight; 0 for 16, and 16 more at a time until
        the interval of the trust lies on one side of its limit, at most 256.
    repeats
        Bootstrap draws.
    progress
        Show a line that tells which measure is taken.

    Raises
    ------
    As in `geowb.masking.gradient_norm`.
    """
    metrics = [metrics] if isinstance(metrics, str) else list(metrics)
    if unknown := [name for name in metrics if name not in METRICS]:
        told = did_you_mean(unknown[0], METRICS)
        raise RequestError(f"There is no metric '{unknown[0]}'. {told}")
    step.check(norm, epsilon, draws=draws or 1, repeats=repeats)
    x, y = _labelled(*_gathered(loader, loss))
    kind = "quantities" if y.is_floating_point() else "maps" if y.ndim > 1 else "classes"
    if kind != "classes":
        metrics = [name for name in metrics if name != "gradient_information"]
    if not metrics:
        raise RequestError("No metric is left to take: name one or more that apply here.")
    subject, began = Subject(model, bounds, loss), time.perf_counter()
    with undisturbed(model, seed):
        where = list(points(subject, x, y, batch_size))
        taken = _Taken(where, epsilon, norm, seed, Line() if progress else None)
        weights = judge.weights_of(len(x), repeats, seed)
        for name in METRICS:
            if name in metrics and name != "linearization_error":
                taken.take(name)
        for _ in taken.corners(draws or measure.DRAWS if "linearization_error" in metrics else 0):
            if not draws and judge.decided(judge.trust_of(taken.values, weights, taken.noise)):
                break
        random = taken.random()
    values, right = taken.values, taken.right
    trust = judge.trust_of(values, weights, taken.noise)
    sizes = torch.cat([point.sizes for point in where]).cpu().numpy()
    none = float((values["gradient_norm"] == 0).double().mean()) if "gradient_norm" in values else 0
    scored = {name: found.double().numpy() for name, found in right.items()}
    guessing = judge.guessing_of(y)
    facts = judge.Facts(scored, sizes, kind, guessing, trust, none, taken.drawn, random)
    masks, verdict = judge.verdict(facts, metrics, weights)
    scores = _scores(facts, weights)
    settings = {"epsilon": epsilon, "norm": norm, "bounds": list(bounds), "seed": seed}
    settings |= {"images": len(x), "draws": taken.drawn, "kind": kind}
    return Profile(
        _table(values, taken.passes, weights),
        pd.DataFrame({name: found.numpy() for name, found in (values | right).items()}),
        scores,
        trust,
        masks,
        verdict,
        subject.passes,
        time.perf_counter() - began,
        settings,
    )


class _Taken:
    """What was measured, a value a sample, and the passes that each measure took."""

    def __init__(
        self, where: list[Point], epsilon: float, norm: str, seed: int, line: Line | None
    ) -> None:
        self.points, self.subject, self._line = where, where[0].subject, line
        self.epsilon, self.norm, self.seed = epsilon, norm, seed
        self.values: dict[str, torch.Tensor] = {}
        self.right: dict[str, torch.Tensor] = {}
        self.passes: dict[str, Passes] = {}
        self.drawn, self.noise = 0, 0.0

    @contextmanager
    def _counted(self, name: str) -> Iterator[None]:
        before = self.subject.passes + Passes()
        yield
        spent = self.subject.passes - before
        self.passes[name] = self.passes.get(name, Passes()) + spent

    def take(self, name: str) -> None:
        """Take a measure at all points."""
        with self._counted(name):
            found = []
            for number, point in enumerate(self.points):
                self._show(f"{name}: batch {number + 1}/{len(self.points)}")
                found.append(getattr(self, f"_{name}")(point).detach().cpu())
            self.values[name] = torch.cat(found)

    def _show(self, text: str) -> None:
        if self._line is not None:
            self._line.show(text, lasting=False)

    def _gradient_norm(self, point: Point) -> torch.Tensor:
        return step.length(point.gradient("label"))

    def _fgsm_pgd_cosine(self, point: Point) -> torch.Tensor:
        pgd = {"steps": measure.PGD["steps"], "step_size": measure.PGD["size"], "seed": self.seed}
        pair = measure.attacked(point, self.epsilon, self.norm, "label", **pgd)
        with torch.no_grad():
            outputs = [point.output, *(point.subject.output(u, point.there) for u in pair)]
        for name, output in zip(ATTACKS[:3], outputs, strict=True):
            right = point.score(output).cpu()
            self.right[name] = torch.cat([self.right.get(name, right[:0]), right])
        return step.cosine(*(u - point.u for u in pair))

    def _pgd_collinearity(self, point: Point) -> torch.Tensor:
        target = "label" if point.quantities else "prediction"
        return measure.collinearity(point, self.epsilon, self.norm, target)

    def _gradient_information(self, point: Point) -> torch.Tensor:
        return measure.information(point, self.norm)

    def corners(self, count: int) -> Iterator[int]:
        """Draw corners, a group at a time, and bring error and foresight up to date."""
        like, of = self.points[0].u, "logit" if self.points[0].classes else "label"
        parts: list[list[torch.Tensor]] = []
        for ways in step.directions(like, self.epsilon, self.norm, count, self.seed):
            self._show(f"linearization_error: corner {self.drawn + 1} of {count} at most")
            with self._counted("linearization_error"):
                found = [self._corner(point, ways, of) for point in self.points]
            parts.append([torch.cat(part) for part in zip(*found, strict=True)])
            error, foreseen, came = (torch.cat(part, 1) for part in zip(*parts, strict=True))
            self.values["linearization_error"] = error.nanmean(1)
            self.values["foresight"], self.noise = _foresight(foreseen, came)
            self.drawn += len(ways)
            yield self.drawn

    @staticmethod
    def _corner(point: Point, ways: torch.Tensor, of: str) -> tuple[torch.Tensor, ...]:
        told = measure.changes(point, ways, dict.fromkeys((of, "label")))
        error = measure.relative(*told[of], point.values(point.output.double(), of))
        return tuple(part.detach().cpu() for part in (error, *told["label"]))

    def random(self) -> bool:
        """Whether a second pass of a few images differs from the first."""
        few = self.points[0].part(slice(0, 8))
        with torch.no_grad(), self._counted(next(iter(self.passes))):
            again = self.subject.output(few.u, few.there)
        half = any(p.dtype.itemsize < 4 for p in self.subject.model.parameters())
        slack = 0.03 if half else 1e-3
        spread = float(few.output.std(correction=0))
        return not torch.allclose(again, few.output, rtol=slack, atol=slack * spread)


def _foresight(foreseen: torch.Tensor, came: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Correlation over corners of what was foreseen with what came, ``(N,)``, and its noise.

    0 where the gradient foresees nothing, NaN where it does and nothing comes. The noise is the
    standard error of the mean over the samples that the choice of corners brings, by the jackknife.
    """
    count = foreseen.shape[1]
    sums = [(part, part.sum(1, keepdim=True)) for part in _products(foreseen, came)]
    whole = _correlation([total for _, total in sums], count)[:, 0]
    if count < 3:
        return whole, 0.0
    without = _correlation([total - part for part, total in sums], count - 1)
    left = without.nanmean(0)
    return whole, float(((count - 1) / count * (left - left.mean()).square().sum()).sqrt())


def _products(f: torch.Tensor, c: torch.Tensor) -> list[torch.Tensor]:
    return [f, c, f * f, c * c, f * c]


def _correlation(sums: list[torch.Tensor], count: int) -> torch.Tensor:
    f, c, ff, cc, fc = sums
    own, other = ((ff - f * f / count), (cc - c * c / count))
    found = ((fc - f * c / count) / (own * other).clamp_min(0).sqrt()).clamp(-1, 1)
    found = torch.where(other > 1e-12 * cc, found, torch.nan)
    return torch.where(own > 1e-12 * ff, found, torch.where(ff > 0, torch.nan, 0.0))


def _gathered(loader: Any, loss: str | Loss) -> tuple[torch.Tensor, torch.Tensor]:
    """All samples of a loader as one pair of tensors."""
    pair = isinstance(loader, tuple | list) and len(loader) == 2
    pair = pair and all(hasattr(part, "shape") for part in loader)
    batches = [loader] if pair else list(loader)
    if not batches:
        raise DataError("The loader gave no batch: there is nothing to measure at.")
    for batch in batches:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            told = type(batch).__name__
            told += f" of {len(batch)}" if isinstance(batch, tuple | list | dict) else ""
            raise DataError(f"A batch is a pair of images and targets, not {told}.")
    xs, ys = ([torch.as_tensor(part) for part in parts] for parts in zip(*batches, strict=True))
    return torch.cat(xs), targets(torch.cat(ys), loss)


def _labelled(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Leave out samples without a label: they have no loss."""
    if len(x) != len(y) or not len(y) or (y.ndim < 2 and not y.is_floating_point()):
        return x, y
    seen = (y.isfinite() if y.is_floating_point() else y >= 0).reshape(len(y), -1).any(1)
    if not seen.any():
        raise DataError("No pixel of any sample is labelled: there is no loss to measure.")
    return x[seen.to(x.device)], y[seen]


def _table(
    values: dict[str, torch.Tensor], passes: dict[str, Passes], weights: np.ndarray
) -> pd.DataFrame:
    """Make a row a measure."""
    rows = {}
    for name in (*METRICS, "foresight"):
        if name in values:
            found, spent = values[name].double().numpy(), passes.get(name, Passes())
            low, high = middle_95(judge.means(found, weights), weights.shape[1])
            seen = found[np.isfinite(found)]
            rows[name] = {
                "mean": seen.mean() if seen.size else math.nan,
                "low": low,
                "high": high,
                "median": np.median(seen) if seen.size else math.nan,
                "undefined": len(found) - seen.size,
                "forward": spent.forward / len(found),
                "backward": spent.backward / len(found),
            }
    return pd.DataFrame(rows).T.astype({"undefined": int}).rename_axis("measure")


def _scores(facts: judge.Facts, weights: np.ndarray) -> pd.DataFrame:
    """Share of the labels that is right (or the error) without an attack and under each."""
    rows = {}
    for name, found in facts.right.items():
        low, high = middle_95(
            judge.pooled(found, facts.sizes, facts.kind, weights), weights.shape[1]
        )
        whole = float(judge.pooled(found, facts.sizes, facts.kind)[0])
        rows[name] = {"mean": whole, "low": low, "high": high}
    return pd.DataFrame(rows).T.rename_axis("attack")


def _short(value: float) -> str:
    return (
        "-" if not math.isfinite(value) else f"{value:.3g}" if abs(value) < 1e4 else f"{value:.2e}"
    )


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _plain(table: pd.DataFrame) -> dict[str, dict[str, float | None]]:
    return {
        str(row): {str(name): _number(value) for name, value in columns.items()}
        for row, columns in table.to_dict("index").items()
    }
