"""Verdicts: what the runs here have to say to the papers' claims.

A verdict is computed from run directories; nobody writes one by hand.
``clearly`` means in every seed, and with a 95 % interval over the seeds that
leaves out the threshold.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geowb.batch.checks import as_text, filled, profile_values
from geowb.batch.ledger import Claim, Condition, Paper, load_claims
from geowb.batch.results import TECHNICAL, Record, number, read_runs

if TYPE_CHECKING:
    from geowb.batch.studies import Study

__all__ = ["VERDICTS", "Verdict", "grouped", "judge", "load_claims", "statistics", "unusual"]

VERDICTS = ("holds", "does not hold", "cannot tell", "not tested here")

#: Metrics that differ between two runs of the very same computation.
_TIMES = ("seconds", "peak_memory")


@dataclass(frozen=True)
class Verdict:
    """What the runs of one data set with one choice of settings say to a claim.

    >>> [v.verdict for v in judge(load_claims(), "runs")]  # doctest: +SKIP
    ['holds', 'not tested here', ...]
    """

    paper: str  # arXiv id
    claim: str  # its name in the ledger
    about: Claim  # what it says, and how it is tested
    verdict: str  # one of VERDICTS
    reason: str
    command: str = ""  # that would test it, where nothing has
    data: str = ""  # label of the data; "" where not tested, or counted
    evidence: str = ""  # simulated, real, mixed, unknown; counted: depends on no data
    settings: dict[str, Any] = field(default_factory=dict)
    n: int = 0  # runs that count
    values: tuple[dict[str, Any], ...] = ()  # seed, value, run (path)
    mean: float | None = None
    sd: float | None = None
    interval: tuple[float, float] | None = None  # 95 %, Student t over the runs


def judge(
    claims: Mapping[str, Paper] | str | Path | None, runs: Sequence[Record] | str | Path
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
        A folder of run directories, or what `read_runs` gives.

    Raises
    ------
    RequestError
        The ledger or the folder cannot be read.
    """
    from geowb.batch.studies import find_studies

    papers = claims if isinstance(claims, Mapping) else load_claims(claims)
    runs = read_runs(runs) if isinstance(runs, str | Path) else runs
    studies, verdicts = find_studies(), []
    for paper_id, paper in papers.items():
        own, study = [run for run in runs if run.study == paper.study], studies.get(paper.study)
        for claim_id, claim in paper.claims.items():
            done = [run for run in own if run.status == "done"]
            missing = {
                "verdict": "not tested here",
                "reason": _what_is_missing(paper.study, claim, done, study),
                "command": _command(study, claim) if study and not claim.awaits else "",
            }
            lines = _judge(claim, own, study) or [missing]
            verdicts += [Verdict(paper_id, claim_id, claim, **line) for line in lines]
    return verdicts


def _unmet(claim: Claim, run: Record) -> list[str]:
    """Conditions that the run does not meet, in words."""
    values = {**run.parameters, "profile": run.profile}
    return [c.words(n) for n, c in claim.where.items() if not c.met(values.get(n))]


def grouped(
    runs: Iterable[Record], depends_on: Sequence[str] | None = None
) -> list[tuple[list[Record], int]]:
    """Group runs that differ in their seed only; count the repeats left out of each group.

    Of repeats the last counts, so runs are given in the order of their start.
    """
    groups: dict[str, dict[str, Record]] = {}
    repeats: dict[str, int] = {}
    for run in runs:
        group = groups.setdefault(key := run.key(depends_on), {})
        older = group.pop(run.key(seed=True), None)
        repeats[key] = repeats.get(key, 0) + (older is not None)
        group[run.key(seed=True)] = run
    return [(list(group.values()), repeats[key]) for key, group in groups.items()]


def _judge(claim: Claim, own: Sequence[Record], study: Study | None) -> list[dict[str, Any]]:
    """One line for each group of runs that has recorded the claim's metrics."""
    tests = [run for run in own if not _unmet(claim, run)]
    lost = [run for run in tests if run.status != "done"]
    lines, without = [], 0
    for group, repeats in grouped((r for r in tests if r.status == "done"), claim.depends_on):
        if all(_quantity(claim, run) is None for run in group):
            without += len(group)
        else:
            lines.append(_judge_group(claim, group, repeats, lost, study))
    told = f" Other runs, without a metric that it needs: {without}." if without else ""
    return [line | {"reason": line["reason"] + told} for line in lines]


def _quantity(claim: Claim, run: Record) -> float | None:
    """Compute the claim's quantity; None where a metric is not recorded, NaN if not finite."""
    names = [run.fill(name) for name in claim.metrics]
    values = [run.metrics.get(name) for name in names]
    if None in values or len({*names}) < len(names):  # a model is not compared with itself
        return None
    return number(claim.value(values))


def _judge_group(
    claim: Claim, runs: list[Record], repeats: int, lost: Iterable[Record], study: Study | None
) -> dict[str, Any]:
    if claim.exact:  # counts of older versions say nothing on what is installed
        runs = [run for run in runs if _quantity(claim, run) is not None]
        runs = [run for run in runs if _version(run) == _version(runs[-1])]
    found = [_quantity(claim, run) for run in runs]
    finite = [value for value in found if value is not None and math.isfinite(value)]
    over_seeds = statistics(finite)
    verdict, reason = _decide(claim, found, finite, over_seeds["interval"])
    if doubt := _doubt(claim, runs, lost):
        verdict, reason = "cannot tell", doubt
    return {
        "verdict": verdict,
        "reason": " ".join([reason, *_remarks(claim, runs, repeats, study)]),
        **over_seeds,
        "data": "" if claim.counted else runs[0].data,
        "evidence": "counted" if claim.counted else runs[0].evidence,
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


def _doubt(claim: Claim, runs: Sequence[Record], lost: Iterable[Record]) -> str:
    """Say why runs are no fair sample over seeds of one experiment; "" where they are."""
    names = [(run, run.fill(name)) for run in runs for name in claim.metrics]
    units = {run.units[name] for run, name in names if name in run.units}
    if not claim.fits(units):
        return f"Recorded in other units: {' and '.join(sorted(u or 'none' for u in units))}."
    if claim.exact:
        return ""
    done = {run.key(seed=True) for run in runs}
    alike = [run for run in lost if run.key() == runs[0].key() and run.key(seed=True) not in done]
    if seeds := sorted({str(run.parameters.get("seed")) for run in alike}):
        word = "seed" if len(seeds) == 1 else "seeds"
        return f"Runs that failed, {word} {', '.join(seeds)}: do them again first."
    if (count := len({run.notebook_sha256 for run in runs})) > 1:
        told = f"The runs are of {count} versions of the notebook"
        return f"{told}; do the older ones again with --force."
    if len({run.data_sha256 for run in runs}) > 1:
        return "The runs have not read the same data, as their records have it."
    results = [{n: v for n, v in r.metrics.items() if not n.startswith(_TIMES)} for r in runs]
    if len(runs) > 1 and results[0] and len({json.dumps(r, sort_keys=True) for r in results}) == 1:
        return "The runs have the very same results: their seed changes nothing."
    return ""


def _remarks(claim: Claim, runs: Sequence[Record], repeats: int, study: Study | None) -> list[str]:
    """Say what a reader should know of the runs."""
    told = [f"Repeats of the same parameters not counted: {repeats}."] if repeats else []
    if (count := len({_version(run)[1:] for run in runs})) > 1:
        told.append(f"The runs are of {count} versions of geowb.")
    if study is None or claim.exact:
        return told
    if runs[-1].notebook_sha256 not in (None, study.code_sha256()):
        told.append("Its notebook is another one than the installed.")
    others = {n: v for n, v in unusual(runs[-1], study).items() if n not in claim.where}
    words = [f"{n}={as_text(v)}" for n, v in others.items() if n not in ("seed", "data", "encoder")]
    if words:
        told.append(f"Not as profile {runs[-1].profile} has it: {', '.join(words)}.")
    return told


def _version(run: Record) -> tuple[str | None, ...]:
    return run.notebook_sha256, run.geowb, run.commit


def unusual(run: Record, study: Study) -> dict[str, Any]:
    """Parameters that the run has otherwise than the study's cell and the run's profile.

    >>> unusual(read_runs("runs")[0], load_study("agb_transfer"))  # doctest: +SKIP
    {'seed': 3}
    """
    usual = {p.name: p.default for p in study.parameters.values()}
    usual |= profile_values(study, run.profile, run.parameters)
    empty = {n: usual[n] for n, p in study.parameters.items() if "empty" in p.rules and n in usual}
    meant = filled(study, run.parameters | empty)
    usual |= {name: meant[name] for name in empty}
    return {
        name: value
        for name, value in run.parameters.items()
        if name not in TECHNICAL and (name not in usual or value != usual[name])
    }


def _what_is_missing(name: str, claim: Claim, own: Sequence[Record], study: Study | None) -> str:
    """Say why no run tests a claim."""
    if study is None and not own:
        return f"There is no study {name} yet."
    if claim.awaits:
        return f"Awaits {claim.awaits}."
    if not own:
        return f"There is no done run of {name}."
    if tests := [run for run in own if not _unmet(claim, run)]:
        absent = {tests[-1].fill(m) for m in claim.metrics} - tests[-1].metrics.keys()
        names = " and ".join(sorted(absent)) or "of a second model"
        return f"Done runs that could be a test: {len(tests)}, but without the metric {names}."
    unmet = [words for run in own for words in _unmet(claim, run)]
    needed = [f"{words} (not so in {unmet.count(words)})" for words in dict.fromkeys(unmet)]
    return f"Done runs of {name}: {len(own)}, none of them a test. Needed: {', '.join(needed)}."


def _command(study: Study, claim: Claim) -> str:
    """Write a command that would test the claim: profile, and what that does not set already."""
    wanted = dict(claim.where)
    profile = wanted.pop("profile").example("profile") if "profile" in wanted else None
    values = {p.name: p.default for p in study.parameters.values()}
    values |= profile_values(study, profile, values)
    if "data" in values and not claim.counted:
        wanted.setdefault("data", Condition(one_of=claim.data))
    words = ["geowb", "run" if claim.exact else "sweep", study.name]
    words += ["--profile", profile] if profile else []
    for name, condition in wanted.items():
        if not condition.met(values.get(name)):
            words += ["-p", shlex.quote(f"{name}={condition.example(name)}")]
    return " ".join(words + ([] if claim.exact else ["--repeat", str(claim.seeds)]))
