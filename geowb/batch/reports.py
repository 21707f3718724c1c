"""The report: one page that says what the runs in a folder show, and of which data.

``report.html`` needs no network and no file beside it: pictures are inside,
there is no script. What it shows stands in ``claims.json`` and
``runs.parquet`` for programs.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import geowb
from geowb.batch.checks import as_text
from geowb.batch.claims import Verdict, grouped, judge, statistics, unusual
from geowb.batch.ledger import Claim, Paper, load_claims
from geowb.batch.pages import notebook_pages, picture
from geowb.batch.results import Record, load_runs, read_runs, write_parquet
from geowb.batch.rundir import write_at_once, write_json
from geowb.batch.studies import Study, find_studies, load_study
from geowb.errors import RequestError
from geowb.paths import notebooks_dir

__all__ = ["figures", "report"]

_LINES = 4  # of a claim or a table that are shown before the rest folds
_PICTURES = 3  # of a study
_METRICS = 6  # of a study that names no key metrics
_COPIES = 20  # notebooks that are written as HTML, too
_LONGEST = 60  # characters of a setting's value

#: Kinds of evidence that the first screen keeps apart: head of the column, start of a sentence.
_KINDS = {
    "real": ("on real data", "On real data"),
    "simulated": ("in the simulated world", "In the simulated world"),
    "unknown": ("data not recorded", "On data that were not recorded"),
    "counted": ("counted", "Counted, on whatever data"),
}
_DEPENDS = "depends on the setting"
_WORDS = {  # of a verdict, for one and for many
    "holds": ("holds", "hold"),
    "does not hold": ("does not hold", "do not hold"),
    "cannot tell": ("cannot be told", "cannot be told"),
    _DEPENDS: (_DEPENDS, "depend on the setting"),
    "not tested here": ("is not tested here", "are not tested here"),
}
Links = Callable[[str], dict[str, str]]


def report(folder: str | Path, *, claims: str | Path | None = None) -> Path:
    """Write ``report.html``, ``claims.json`` and ``runs.parquet`` about the runs in a folder.

    Where nbconvert is installed, the notebooks that the page shows pictures
    of, failed ones and the newest others (20 in all) are written to
    ``report_notebooks/`` as HTML, since a browser shows the JSON of an .ipynb.

    >>> report("runs")  # doctest: +SKIP
    PosixPath('/home/me/runs/report.html')

    Parameters
    ----------
    folder
        Folder with run directories, at any depth.
    claims
        A claims ledger; by default the one that comes with geowb.

    Raises
    ------
    RequestError
        There is no such folder, it is itself a run directory, it cannot be
        written to, or the ledger cannot be read.
    """
    folder = Path(folder).expanduser().absolute()
    if (folder / "run.json").is_file():
        raise RequestError(f"{folder} is a single run; report on the folder that it lies in.")
    # geowb's own ledger may be missing, one that is asked for may not
    own = notebooks_dir() / "claims.yaml"
    papers = load_claims(claims) if claims is not None or own.is_file() else {}
    runs = read_runs(folder)
    verdicts, made = judge(papers, runs), datetime.now(UTC)
    about = {"geowb": geowb.__version__, "made": f"{made:%Y-%m-%dT%H:%M:%SZ}"}
    about |= {"folder": folder.name, "claims": [_as_json(v, papers, folder) for v in verdicts]}
    try:
        page = _page(folder, made, runs, papers, verdicts)
        write_parquet(load_runs(runs), folder / "runs.parquet")
        write_json(folder / "claims.json", about)
        return write_at_once(folder / "report.html", page.encode())
    except OSError as error:
        raise RequestError(f"The report cannot be written to {folder}: {error}.") from error


def _as_json(verdict: Verdict, papers: Mapping[str, Paper], folder: Path) -> dict[str, Any]:
    paper, claim = papers[verdict.paper], verdict.about
    content = {"paper": verdict.paper, "title": paper.title, "study": paper.study}
    content |= claim.model_dump(mode="json", by_alias=True, exclude_none=True)
    content |= {"formula": claim.formula, "rule": claim.holds.words(), "testable_on": claim.data}
    content |= {n: v for n, v in vars(verdict).items() if n != "about"}
    content["values"] = [
        item
        | {"run": Path(item["run"]).relative_to(folder).as_posix()}
        | {"value": item["value"] if _finite(item["value"]) else None}
        for item in verdict.values
    ]
    return content


def _page(
    folder: Path,
    made: datetime,
    runs: Sequence[Record],
    papers: Mapping[str, Paper],
    verdicts: Sequence[Verdict],
) -> str:
    from importlib.resources import files

    from jinja2 import Environment, StrictUndefined

    newest = list(reversed(runs))
    done = [run for run in runs if run.status == "done"]
    failed = [run for run in newest if run.status == "failed"]
    studies = _studies(done)
    shown = {name: _shown(study, done) for name, study in studies.items()}
    wanted = [run for runs in shown.values() for run in runs] + failed[:10] + done[::-1]
    copies = notebook_pages(folder, list(dict.fromkeys(run.path for run in wanted))[:_COPIES])

    def links(path: str) -> dict[str, str]:
        """Give the run's name and where its notebook can be opened, relative to the page."""
        notebook = Path(path) / "notebook.ipynb"
        read, file = copies.get(path), notebook if notebook.is_file() else None
        found = {"read": _link(folder, read), "file": _link(folder, file)}
        return found | {"name": Path(path).name, "any": found["read"] or found["file"]}

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["minus"] = _minus
    source = files("geowb.batch").joinpath("report.html.j2").read_text("utf-8")
    tables = [_paper(name, paper, verdicts, links) for name, paper in papers.items()]
    claims = [claim for one in tables for claim in one["claims"]]
    return environment.from_string(source).render(
        folder=folder.name,
        made=f"{made:%d %B %Y, %H:%M} UTC",
        statuses=Counter(run.status for run in runs),
        sorts=Counter(run.evidence for run in done),
        counts=Counter((run.study, run.data, run.status) for run in runs),
        by_study=sorted({(run.study, run.data) for run in runs if run.status != "broken"}),
        summary=_summary(claims),
        kinds={k: head for k, (head, _) in _KINDS.items() if any(c["on"][k] for c in claims)},
        papers=tables,
        studies=[_study(studies[n], done, runs, links) for n, runs in shown.items()],
        failed=[_failed(run, studies.get(run.study)) | links(run.path) for run in failed],
        broken=[run for run in runs if run.status == "broken"],
        runs=[{"run": run} | links(run.path) for run in newest],
        few=_LINES,
    )


# --- claims -------------------------------------------------------------------------------------


def _paper(name: str, paper: Paper, verdicts: Iterable[Verdict], links: Links) -> dict[str, Any]:
    claims = []
    for claim_id, claim in paper.claims.items():
        own = [v for v in verdicts if (v.paper, v.claim) == (name, claim_id)]
        kinds = {
            kind: [v for v in own if v.evidence.replace("mixed", "simulated") == kind]
            for kind in _KINDS
        }
        # real archives first, and of these what is decided
        own.sort(key=lambda v: (v.evidence != "real", v.verdict == "cannot tell"))
        claims.append(
            {
                "id": re.sub(r"[^\w.-]", "-", f"{name}-{claim_id}"),
                "claim": claim,
                "rule": _rule(claim),
                "lines": _lines(claim, own, links),
                "tested": own[0].verdict != "not tested here",
                "on": {kind: _overall(found) for kind, found in kinds.items()},
                "folded": Counter(v.verdict for v in own[_LINES:]),
            }
        )
    tested = [claim for claim in claims if claim["tested"]]
    untested = [claim for claim in claims if not claim["tested"]]
    return {"id": name, "paper": paper, "claims": claims, "tested": tested, "untested": untested}


def _overall(verdicts: Sequence[Verdict]) -> tuple[str, str] | None:
    """Verdict that all lines have in common, and in what they differ; None where there is none."""
    count = Counter(v.verdict for v in verdicts)
    if len(count) < 2:
        return (verdicts[0].verdict, "") if verdicts else None
    return _DEPENDS, f"of {len(verdicts)} settings {_counted(count)}"


def _counted(verdicts: Mapping[str, int]) -> str:
    """Say how many there are of each verdict: "2 hold, 1 does not hold"."""
    found = [(verdicts.get(word, 0), said) for word, said in _WORDS.items()]
    return ", ".join(f"{n} {said[n > 1]}" for n, said in found if n)


def _lines(claim: Claim, verdicts: Sequence[Verdict], links: Links) -> list[dict[str, Any]]:
    """One line for each data set and choice of settings, with what tells it from the others."""
    names = {*(claim.depends_on or ()), *(n for m in claim.metrics for n in _placeholders(m))}
    names = (names | _differing([v.settings for v in verdicts])) - {"data"}
    return [
        {
            "v": v,
            "value": f"{figures(v.mean, None if claim.exact and not v.sd else v.sd)} {claim.unit}",
            "seeds": [
                {"seed": item["seed"], "link": links(item["run"])["any"]}
                for item in (v.values if claim.exact else sorted(v.values, key=_by_seed))
            ],
            "settings": _words({n: s for n, s in v.settings.items() if n in names}),
        }
        for v in verdicts
    ]


def _by_seed(item: Mapping[str, Any]) -> str:
    return str(item["seed"]).zfill(9)


def _rule(claim: Claim) -> str:
    """Say the threshold with its unit: "at most 1 point"."""
    words = claim.holds.words()
    return f"{words} {claim.unit.removesuffix('s') if words.endswith(' 1') else claim.unit}".strip()


def _summary(claims: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say how many claims hold, in one sentence for each kind of evidence."""
    if not claims:
        return ["There is no claims ledger, so nothing is judged."]
    told = []
    for kind, (_, start) in _KINDS.items():
        count = Counter(c["on"][kind][0] for c in claims if c["on"][kind])
        told += [f"{start}: {_counted(count)}."] if count else []
    untested = sum(not claim["tested"] for claim in claims)
    words = _WORDS["not tested here"][untested != 1]
    return [*told, f"{untested} of {len(claims)} claims {words}."]


# --- studies ------------------------------------------------------------------------------------


def _studies(done: Iterable[Record]) -> dict[str, Study]:
    """Each study of the runs, by name; what the installed geowb says of it, or its last run."""
    installed = find_studies()
    newest = {run.study: run for run in done}
    return {name: installed.get(name) or _from_run(run) for name, run in sorted(newest.items())}


def _from_run(run: Record) -> Study:
    """Read a study that geowb does not come with from an executed notebook."""
    notebook = Path(run.path) / "notebook.ipynb"
    try:
        found = load_study(notebook)
    except RequestError:
        return Study(run.study, notebook, run.study, "", "", {}, {})
    title = run.study if found.title == notebook.stem else found.title
    return dataclasses.replace(found, name=run.study, title=title)


def _shown(study: Study, done: Sequence[Record]) -> list[Record]:
    """Choose the newest run of each data set, at most three, whose pictures are shown."""
    newest = {run.data: run for run in done if run.study == study.name}
    return list(newest.values())[-_PICTURES:][::-1]


def _study(
    study: Study, done: Iterable[Record], shown: Sequence[Record], links: Links
) -> dict[str, Any]:
    own = [run for run in done if run.study == study.name]
    groups = sorted((g for g, _ in grouped(own)), key=lambda g: g[0].evidence == "simulated")
    differ = _differing([_settings(group[-1]) for group in groups])
    names = list(study.metrics) or list(dict.fromkeys(n for r in own for n in r.metrics))[:_METRICS]
    same = {name: value for name, value in _settings(own[-1]).items() if name not in differ}
    each = max(1, _PICTURES // max(1, len(shown)))

    def about(run: Record) -> dict[str, Any]:
        """Give the run, its links, and what tells its settings from the others'."""
        words = {n: v for n, v in _settings(run).items() if n in differ - {"data"}}
        return {"run": run, "setting": _words(words), "links": links(run.path)}

    return {
        "study": study,
        "runs": len(own),
        "rows": [
            about(group[-1]) | {"n": len(group), "cells": [_cell(group, name) for name in names]}
            for group in groups
        ],
        "settings_differ": bool(differ - {"data"}),
        "names": [
            {"text": n if differ & {*_placeholders(n)} else own[-1].fill(n), "unit": _unit(own, n)}
            for n in names
        ],
        "constant": _words(same),
        "pictures": [
            about(run) | {"src": src, "name": name}
            for run in shown
            for name, src in _figures_of(study, run)[:each]
        ],
        "shown": [links(run.path) for run in shown],
    }


def _settings(run: Record) -> dict[str, Any]:
    return run.settings() | {"profile": run.profile or "none"}


def _cell(group: Sequence[Record], name: str) -> str:
    """Mean ± standard deviation of a metric over the seeds."""
    values = [run.metrics.get(run.fill(name)) for run in group]
    finite = [value for value in values if _finite(value)]
    if not finite:
        return "–"
    over_seeds = statistics(finite)
    missing = len(group) - len(finite)
    told = f" ({missing} without)" if missing else ""
    return figures(over_seeds["mean"], over_seeds["sd"]) + told


def _figures_of(study: Study, run: Record) -> list[tuple[str, str]]:
    """Key figures of a run that can be shown: name and data URI."""
    folder = Path(run.path) / "figures"
    names = study.figures or sorted(f.name for f in folder.glob("*.png")) if folder.is_dir() else ()
    shown = [(name, picture(folder / Path(name).name)) for name in names]
    return [(name, src) for name, src in shown if src]


# --- words and numbers --------------------------------------------------------------------------


def figures(mean: float | None, sd: float | None) -> str:
    """Write a mean with as many digits as its standard deviation warrants.

    >>> figures(61.2345, 1.234), figures(7763905.0, None), figures(-0.123456, None)
    ('61.2 ± 1.2', '7,763,905', '−0.1235')
    """
    if mean is None:
        return "–"
    if sd:
        digits = min(12, max(0, 1 - math.floor(math.log10(sd))))
        return _minus(f"{mean:,.{digits}f} ± {sd:,.{digits}f}")
    if mean.is_integer() or abs(mean) >= 10_000:
        return _minus(f"{mean:,.0f}")
    return _minus(f"{mean:,.4g}" + (" ± 0" if sd == 0 else ""))


def _minus(text: str) -> str:
    """Write negative numbers with a true minus sign; 100-200 stays as it is."""
    return re.sub(r"(?<![\w)-])-(?=\d)", "\u2212", text)


def _differing(settings: Sequence[Mapping[str, Any]]) -> set[str]:
    """Names whose values are not the same everywhere."""
    names = {name for one in settings for name in one}
    return {n for n in names if len({as_text(one.get(n)) for one in settings}) > 1}


def _words(settings: Mapping[str, Any]) -> str:
    """Write settings as they are typed; of long ones, such as paths, beginning and end."""
    texts = {name: as_text(value) or "empty" for name, value in settings.items()}
    for name, text in texts.items():
        if len(text) > _LONGEST:
            texts[name] = f"{text[:15]} … {text[15 - _LONGEST :]}"
    return ", ".join(f"{name}={text}" for name, text in texts.items())


def _placeholders(metric: str) -> list[str]:
    return re.findall(r"\{(\w+)\}", metric)


def _unit(runs: Iterable[Record], name: str) -> str:
    """Units of a metric, as the runs recorded them."""
    return " or ".join(sorted({run.units[n] for run in runs if (n := run.fill(name)) in run.units}))


def _failed(run: Record, study: Study | None) -> dict[str, Any]:
    """Say what a reader needs to know of a failed run, and to do it again."""
    others = unusual(run, study) if study else run.settings(seed=True)
    others = {name: value for name, value in others.items() if name != "data"}
    profile = {"profile": run.profile} if run.profile else {}
    command = shlex.join(["geowb", "run", "--like", run.path])
    return {"run": run, "setting": _words(profile | others), "command": command}


def _link(folder: Path, path: Path | None) -> str:
    return quote(Path(os.path.relpath(path, folder)).as_posix()) if path else ""


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
