"""Verdicts: what the runs here have to say to the papers' claims.

A verdict is computed from run directories; nobody writes one by hand.
``clearly`` means in every seed, and with a 95 % interval over the seeds that
leaves out the threshold.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geowb.batch.ledger import Claim, Condition, Paper, load_claims, spelt
from geowb.errors import RequestError

if TYPE_CHECKING:
    import pandas as pd

    from geowb.batch.studies import Study

__all__ = [
    "TECHNICAL",
    "VERDICTS",
    "DoneRun",
    "Verdict",
    "done_runs",
    "grouped",
    "judge",
    "load_claims",
    "statistics",
]

VERDICTS = ("holds", "does not hold", "cannot tell", "not tested here")

#: Parameters that do not change what a run measures; runs may differ in them and be one group.
TECHNICAL = frozenset({"accelerator", "catalog", "run_dir"})


@dataclass(frozen=True)
class Verdict:
    """What the runs of one data set with one choice of settings say to a claim.

    >>> [v.verdict for v in judge(load_claims(), "runs")]  # doctest: +SKIP
    ['holds', 'not tested here', ...]
    """

    paper: str
    claim: str
    says: str
    published: tuple[dict[str, Any], ...]
    quantity: str
    formula: str
    unit: str
    rule: str
    study: str
    testable_on: tuple[str, ...]
    note: str
    verdict: str  # one of VERDICTS
    reason: str
    command: str = ""  # that would test it, where nothing has
    data: str = ""  # label of the data, "" where not tested
    evidence: str = ""  # simulated, real, mixed or unknown
    simulated: bool | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    n: int = 0  # runs that count
    values: tuple[dict[str, Any], ...] = ()  # seed, value, run (path)
    mean: float | None = None
    sd: float | None = None
    interval: tuple[float, float] | None = None  # 95 %, Student t over the runs


@dataclass(frozen=True)
class DoneRun:
    """A run that is done, as claims see it."""

    path: str
    study: str
    profile: str | None
    data: str
    evidence: str
    started: float
    parameters: dict[str, Any]
    metrics: dict[str, float]  # NaN where recorded as no finite number
    versions: tuple[str, str, str]  # of the notebook, geowb and data

    def fill(self, template: str) -> str:
        """Put parameters into a metric's name: rmse/{encoder}/all -> rmse/swin_demo/all."""
        return re.sub(r"\{(\w+)\}", lambda m: spelt(self.parameters.get(m[1], m[0])), template)

    def settings(self, names: Sequence[str] = (), *, seed: bool = False) -> dict[str, Any]:
        """Parameters that matter: those named, or all but the technical ones and the seed."""
        if names:
            return {name: self.parameters.get(name) for name in names}
        left_out = TECHNICAL if seed else TECHNICAL | {"seed"}
        return {n: v for n, v in self.parameters.items() if n not in left_out}

    def key(self, names: Sequence[str] = (), *, seed: bool = False) -> str:
        """Text that this run shares with its repeats (over seeds, unless `seed`)."""
        settings = self.settings(names, seed=seed)
        return json.dumps([self.data, self.evidence, settings], sort_keys=True)


def judge(
    claims: Mapping[str, Paper] | str | Path | None, runs: pd.DataFrame | str | Path
) -> list[Verdict]:
    """Hold every claim against runs: one verdict for each data set and choice of settings.

    Only runs that are done and meet the claim's conditions count, a repeated
    run of the same parameters once (the newest). Runs are pooled over seeds
    and over nothing else. A claim that no run tests has one verdict,
    ``not tested here``.

    >>> judge(load_claims(), "runs")[0].reason  # doctest: +SKIP

    Parameters
    ----------
    claims
        What `load_claims` gives, or the path of a ledger; None for geowb's own.
    runs
        What `load_runs` gives, or a folder of run directories.

    Raises
    ------
    RequestError
        The ledger or the folder cannot be read, or the table is not of `load_runs`.
    """
    from geowb.batch.results import load_runs
    from geowb.batch.studies import find_studies

    papers = claims if isinstance(claims, Mapping) else load_claims(claims)
    done = done_runs(load_runs(runs) if isinstance(runs, str | Path) else runs)
    studies, verdicts = find_studies(), []
    for paper_id, paper in papers.items():
        own = [run for run in done if run.study == paper.study]
        for claim_id, claim in paper.claims.items():
            about = _about(paper_id, claim_id, paper, claim)
            tests = [run for run in own if not _unmet(claim, run)]
            lines = [
                Verdict(**about, **line)
                for group, repeats in grouped(tests, claim.depends_on)
                if (line := _judge_group(claim, group, repeats))
            ]
            study = studies.get(paper.study)
            missing = {
                "verdict": "not tested here",
                "reason": _what_is_missing(paper.study, claim, own, tests, study),
                "command": _command(study, claim) if study and not claim.awaits else "",
            }
            verdicts += lines or [Verdict(**about, **missing)]
    return verdicts


def _about(paper_id: str, claim_id: str, paper: Paper, claim: Claim) -> dict[str, Any]:
    return {
        "paper": paper_id,
        "claim": claim_id,
        "says": claim.says,
        "published": tuple(item.model_dump() for item in claim.published),
        "quantity": claim.quantity,
        "formula": claim.formula,
        "unit": claim.unit,
        "rule": claim.holds.words(),
        "study": paper.study,
        "testable_on": claim.data,
        "note": claim.note,
    }


def done_runs(frame: pd.DataFrame) -> list[DoneRun]:
    """Take the done runs out of a table of `load_runs`.

    >>> [run.fill("rmse/{encoder}/all") for run in done_runs(load_runs("runs"))]  # doctest: +SKIP
    ['rmse/swin_demo/all']
    """
    if not {"parameters", "metrics", "not_finite"} <= frame.attrs.keys():
        raise RequestError("The table of runs does not come from geowb.batch.load_runs.")
    runs = []
    for row in frame[frame["status"] == "done"].to_dict("records"):
        parameters = {n: row[column] for n, column in frame.attrs["parameters"].items()}
        metrics = {n: row[column] for n, column in frame.attrs["metrics"].items()}
        null = frame.attrs["not_finite"].get(row["path"], ())
        runs.append(
            DoneRun(
                path=row["path"],
                study=row["study"],
                profile=None if _missing(row["profile"]) else row["profile"],
                data=row["data"],
                evidence=row["evidence"],
                started=-math.inf if _missing(row["started"]) else row["started"].timestamp(),
                parameters={n: v for n, v in parameters.items() if not _missing(v)},
                metrics={n: v for n, v in metrics.items() if n in null or not _missing(v)},
                versions=tuple(
                    str(row[key]) for key in ("notebook_sha256", "commit", "data_sha256")
                ),
            )
        )
    return runs


def _unmet(claim: Claim, run: DoneRun) -> list[str]:
    """Conditions that the run does not meet, in words."""
    values = {**run.parameters, "profile": run.profile}
    return [c.words(n) for n, c in claim.where.items() if not c.met(values.get(n))]


def grouped(
    runs: Iterable[DoneRun], depends_on: Sequence[str] = ()
) -> list[tuple[list[DoneRun], int]]:
    """Group runs that differ in their seed only; count the repeats left out of each group."""
    groups: dict[str, list[DoneRun]] = {}
    for run in sorted(runs, key=lambda run: run.started):
        groups.setdefault(run.key(depends_on), []).append(run)
    result = []
    for group in groups.values():
        newest = {run.key(seed=True): run for run in group}  # later ones win
        result.append((list(newest.values()), len(group) - len(newest)))
    return result


def _judge_group(claim: Claim, runs: list[DoneRun], repeats: int) -> dict[str, Any] | None:
    """Judge one group; None where no run has the metrics."""
    found = []
    for run in runs:
        values = [run.metrics.get(run.fill(name)) for name in claim.metrics]
        found.append(None if None in values else claim.value(values))
    if all(value is None for value in found):
        return None
    finite = [v for v in found if v is not None and math.isfinite(v)]
    over_seeds = statistics(finite)
    verdict, reason = _decide(claim, found, finite, over_seeds["interval"])
    return {
        "verdict": verdict,
        "reason": " ".join([reason, *_remarks(runs, repeats)]),
        **over_seeds,
        "data": runs[0].data,
        "evidence": runs[0].evidence,
        "simulated": runs[0].evidence in ("simulated", "mixed"),
        "settings": runs[0].settings(claim.depends_on),
        "n": len(finite),
        "values": tuple(
            {"seed": run.parameters.get("seed"), "value": value, "run": run.path}
            for run, value in zip(runs, found, strict=True)
        ),
    }


def statistics(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation and 95 % interval of the mean by Student's t.

    >>> statistics([1.0, 2.0, 3.0])["sd"]
    1.0
    """
    import numpy as np
    from scipy.stats import t

    mean = float(np.mean(values)) if values else None
    if len(values) < 2:
        return {"mean": mean, "sd": None, "interval": None}
    sd = float(np.std(values, ddof=1)) if min(values) < max(values) else 0.0
    half = float(t.ppf(0.975, len(values) - 1)) * sd / math.sqrt(len(values))
    return {"mean": mean, "sd": sd, "interval": (mean - half, mean + half)}


def _decide(
    claim: Claim,
    found: Sequence[float | None],
    finite: Sequence[float],
    interval: tuple[float, float] | None,
) -> tuple[str, str]:
    """Verdict and its reason, from the quantity in each run."""
    rule, n = claim.holds, len(found)
    if len(finite) < n:
        return "cannot tell", f"{n - len(finite)} of {n} runs have no finite value of it."
    if n < (needed := 1 if claim.exact else claim.seeds):
        return "cannot tell", f"Too few seeds: {n}, and {needed} are needed."
    met = sum(map(rule.met, finite))
    runs = "the one run" if n == 1 else f"all {n} runs"
    span = f"95 % interval, {interval[0]:.4g} to {interval[1]:.4g}" if interval else ""
    if 0 < met < n:
        return "cannot tell", f"The runs disagree: {met} of {n} are {rule.words()} ({span})."
    verdict, words = ("holds" if met else "does not hold"), rule.words(opposite=not met)
    if claim.exact:
        return verdict, f"Counted: {words} in {runs}."
    if interval[0] <= rule.threshold <= interval[1]:
        return "cannot tell", f"In {runs} {words}, but the {span}, has the threshold in it."
    return verdict, f"In {runs} {words}, and so is the {span}."


def _remarks(runs: Sequence[DoneRun], repeats: int) -> list[str]:
    """Say what a reader should know of how runs were pooled."""
    told = []
    if repeats:
        told.append(f"Repeats of the same parameters not counted: {repeats}.")
    for number, what in enumerate(("the notebook", "geowb", "the data's record")):
        if (count := len({run.versions[number] for run in runs})) > 1:
            told.append(f"The runs are of {count} versions of {what}.")
    return told


def _what_is_missing(
    name: str, claim: Claim, own: Sequence[DoneRun], tests: Sequence[DoneRun], study: Study | None
) -> str:
    """Say why no run tests a claim."""
    if study is None and not own:
        return f"There is no study {name} yet."
    if claim.awaits:
        return f"Awaits {claim.awaits}."
    if not own:
        return f"There is no done run of {name}."
    if tests:
        absent = {tests[-1].fill(m) for m in claim.metrics} - tests[-1].metrics.keys()
        names = " and ".join(sorted(absent))
        return f"Done runs that could be a test: {len(tests)}, but without the metric {names}."
    unmet = [words for run in own for words in _unmet(claim, run)]
    needed = [f"{words} (not so in {unmet.count(words)})" for words in dict.fromkeys(unmet)]
    return f"Done runs of {name}: {len(own)}, none of them a test. Needed: {', '.join(needed)}."


def _command(study: Study, claim: Claim) -> str:
    """Write a command that would test the claim: profile, and what that does not set already."""
    wanted = dict(claim.where)
    profile = wanted.pop("profile").example("profile") if "profile" in wanted else None
    values = {p.name: p.default for p in study.parameters.values()}
    values |= study.profiles.get(profile, {})
    if "data" in values:
        wanted.setdefault("data", Condition(one_of=claim.data))
    words = ["geowb", "run" if claim.exact else "sweep", study.name]
    words += ["--profile", profile] if profile else []
    for name, condition in wanted.items():
        if not condition.met(values.get(name)):
            words += ["-p", f"{name}={condition.example(name)}"]
    return " ".join(words + ([] if claim.exact else ["--repeat", str(claim.seeds)]))


def _missing(value: Any) -> bool:
    import pandas as pd

    return value is None or value is pd.NA or value is pd.NaT or value != value
