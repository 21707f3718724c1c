"""The report: one page that says what the runs in a folder show, and of which data.

``report.html`` needs no network and no file beside it: pictures are inside,
there is no script. What it shows stands in ``claims.json`` and
``runs.parquet`` for programs.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from geowb.batch.claims import VERDICTS, DoneRun, Verdict, done_runs, grouped, judge, statistics
from geowb.batch.ledger import Claim, Paper, Published, load_claims, spelt
from geowb.batch.pages import notebook_pages, picture
from geowb.batch.results import load_runs, write_at_once, write_parquet
from geowb.batch.rundir import write_json
from geowb.batch.studies import Study, find_studies, load_study
from geowb.errors import RequestError
from geowb.paths import notebooks_dir

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["report"]

_LINES = 4  # of a claim or a table that are shown before the rest folds
_PICTURES = 3  # of a study
_METRICS = 6  # of a study that names no key metrics
_COPIES = 20  # notebooks that are written as HTML, too


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
    papers = _papers(claims)
    frame = load_runs(folder)
    verdicts = judge(papers, frame)
    try:
        page = _page(folder, frame, papers, verdicts)
        write_parquet(frame, folder / "runs.parquet")
        write_json(folder / "claims.json", [_as_json(verdict, folder) for verdict in verdicts])
        return write_at_once(folder / "report.html", page.encode())
    except OSError as error:
        raise RequestError(f"The report cannot be written to {folder}: {error}.") from error


def _papers(claims: str | Path | None) -> dict[str, Paper]:
    """Read the ledger; geowb's own may be missing, one that is asked for may not."""
    if claims is None and not (notebooks_dir() / "claims.yaml").is_file():
        return {}
    return load_claims(claims)


def _as_json(verdict: Verdict, folder: Path) -> dict[str, Any]:
    content = dataclasses.asdict(verdict)
    for item in content["values"]:
        item["run"] = Path(item["run"]).relative_to(folder).as_posix()
        item["value"] = item["value"] if _finite(item["value"]) else None
    return content


def _page(
    folder: Path, frame: pd.DataFrame, papers: Mapping[str, Paper], verdicts: Sequence[Verdict]
) -> str:
    from importlib.resources import files

    from jinja2 import Environment, StrictUndefined

    done = done_runs(frame)
    studies = _studies(done)
    shown = {name: _shown(study, done) for name, study in studies.items()}
    failed = frame[frame["status"] == "failed"].iloc[::-1].to_dict("records")
    pictured = [run.path for runs in shown.values() for run in runs]
    newest = [run.path for run in reversed(done)]
    wanted = list(dict.fromkeys(pictured + [run["path"] for run in failed[:10]] + newest))
    copies = notebook_pages(folder, wanted[:_COPIES])

    def links(path: str) -> dict[str, str]:
        """Give the run's name and where its notebook can be opened, relative to the page."""
        notebook = Path(path) / "notebook.ipynb"
        found = {"name": Path(path).name, "read": _link(folder, copies.get(path))}
        return found | {"open": _link(folder, notebook if notebook.is_file() else None)}

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = files("geowb.batch").joinpath("report.html.j2").read_text("utf-8")
    units = {n: frame.attrs["units"].get(c, "") for n, c in frame.attrs["metrics"].items()}
    tables = [_paper(name, paper, verdicts) for name, paper in papers.items()]
    every = [claim["verdict"] for table in tables for claim in table["claims"]]
    return environment.from_string(source).render(
        folder=folder.name,
        made=datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC"),
        statuses=Counter(frame["status"]),
        evidence_counts=Counter(run.evidence for run in done),
        by_study=_by_study(frame),
        summary=_summary(every),
        verdicts=[*VERDICTS] + ["verdicts differ"] * ("verdicts differ" in every),
        papers=tables,
        studies=[_study(studies[n], done, runs, links, units) for n, runs in shown.items()],
        failed=[run | links(run["path"]) for run in failed],
        broken=frame[frame["status"] == "broken"].to_dict("records"),
        runs=[_listed(run) | links(run["path"]) for run in frame.iloc[::-1].to_dict("records")],
        few=_LINES,
    )


# --- claims -------------------------------------------------------------------------------------


def _paper(name: str, paper: Paper, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    claims = []
    for claim_id, claim in paper.claims.items():
        lines = [v for v in verdicts if (v.paper, v.claim) == (name, claim_id)]
        lines.sort(key=lambda v: v.evidence == "simulated")  # real archives first
        found = {v.verdict for v in lines}
        claims.append(
            {
                "id": claim_id,
                "claim": claim,
                "rule": _rule(claim),
                "published": [_published(item) for item in claim.published],
                "lines": _lines(claim, lines),
                "verdict": found.pop() if len(found) == 1 else "verdicts differ",
                "counts": Counter(v.verdict for v in lines[_LINES:]),
            }
        )
    tested = [c for c in claims if c["verdict"] != "not tested here"]
    return {
        "id": name,
        "paper": paper,
        "claims": claims,
        "tested": tested,
        "untested": [c for c in claims if c not in tested],
        "counts": Counter(c["verdict"] for c in claims),
    }


def _lines(claim: Claim, verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """One line for each data set and choice of settings, with what tells it from the others."""
    names = set(claim.depends_on) | {n for m in claim.metrics for n in _placeholders(m)}
    differ = _differing([v.settings for v in verdicts])
    lines = []
    for v in verdicts:
        shown = {n: v.settings[n] for n in v.settings if n in (names | differ) - {"data"}}
        seeds = sorted({str(item["seed"]) for item in v.values if item["seed"] is not None})
        spread = None if claim.exact and not v.sd else v.sd
        lines.append(
            {
                "v": v,
                "value": f"{figures(v.mean, spread)} {v.unit}".strip(),
                "seeds": ", ".join(seeds[:8]) + (", ..." if len(seeds) > 8 else ""),
                "settings": _words(shown),
            }
        )
    return lines


def _rule(claim: Claim) -> str:
    """Say the threshold with its unit: "at most 1 point"."""
    words = claim.holds.words()
    return f"{words} {claim.unit.removesuffix('s') if words.endswith(' 1') else claim.unit}".strip()


def _published(item: Published) -> dict[str, str]:
    value = f"{item.value:,}" if isinstance(item.value, int) else f"{item.value:,.6g}"
    return {
        "name": item.name,
        "value": f"{item.qualifier} {value} {item.unit}".strip(),
        "source": item.source,
    }


def _summary(verdicts: Sequence[str]) -> str:
    """Say in one sentence how many claims hold.

    >>> _summary(["holds", "not tested here"])
    'Of 2 claims: 1 holds, 0 do not hold, 0 cannot be told, 1 is not tested here.'
    """
    if not verdicts:
        return "There is no claims ledger, so nothing is judged."
    words = {
        "holds": ("holds", "hold"),
        "does not hold": ("does not hold", "do not hold"),
        "cannot tell": ("cannot be told", "cannot be told"),
        "verdicts differ": ("differs", "differ"),
        "not tested here": ("is not tested here", "are not tested here"),
    }
    where = {"verdicts differ": " between data or settings"}
    count = Counter(verdicts)
    told = [
        f"{count[v]} {one if count[v] == 1 else many}" + where.get(v, "")
        for v, (one, many) in words.items()
        if count[v] or v != "verdicts differ"
    ]
    return f"Of {len(verdicts)} claims: {', '.join(told)}."


# --- studies ------------------------------------------------------------------------------------


def _studies(done: Iterable[DoneRun]) -> dict[str, Study | DoneRun]:
    """Each study of the runs, by name; what the installed geowb says of it, or its last run."""
    installed = find_studies()
    newest = {run.study: run for run in done}
    return {name: installed.get(name) or _from_run(run) for name, run in sorted(newest.items())}


def _from_run(run: DoneRun) -> Study:
    """Read a study that geowb does not come with from an executed notebook."""
    notebook = Path(run.path) / "notebook.ipynb"
    empty = Study(run.study, notebook, run.study, "", "", {}, {})
    try:
        found = load_study(notebook)
    except RequestError:
        return empty
    title = run.study if found.title == notebook.stem else found.title
    return dataclasses.replace(found, name=run.study, title=title)


def _shown(study: Study, done: Sequence[DoneRun]) -> list[DoneRun]:
    """Choose the newest run of each data set, at most three, whose pictures are shown."""
    newest = {run.data: run for run in done if run.study == study.name}
    return list(newest.values())[-_PICTURES:][::-1]


def _study(
    study: Study,
    done: Sequence[DoneRun],
    shown: Sequence[DoneRun],
    links: Callable[[str], dict[str, str]],
    units: Mapping[str, str],
) -> dict[str, Any]:
    own = [run for run in done if run.study == study.name]
    groups = [group for group, _ in grouped(own)]
    settings = [group[0].settings() | {"profile": group[-1].profile or "none"} for group in groups]
    differ = _differing(settings)
    names = list(study.metrics) or list(dict.fromkeys(n for r in own for n in r.metrics))[:_METRICS]
    rows = [
        {
            "run": group[-1],
            "n": len(group),
            "setting": _words({n: v for n, v in setting.items() if n in differ - {"data"}}),
            "cells": [_cell(group, name) for name in names],
        }
        for group, setting in zip(groups, settings, strict=True)
    ]
    rows.sort(key=lambda row: row["run"].evidence == "simulated")
    same = {n: v for n, v in (settings[0] if settings else {}).items() if n not in differ}
    each = max(1, _PICTURES // max(1, len(shown)))
    return {
        "study": study,
        "runs": len(own),
        "rows": rows,
        "settings_differ": any(row["setting"] for row in rows),
        "names": [{"text": _column(n, same), "unit": _unit(own, n, units)} for n in names],
        "constant": _words(same),
        "pictures": [
            {"src": src, "name": name, "run": run, "links": links(run.path)}
            for run in shown
            for name, src in _figures_of(study, run)[:each]
        ],
        "shown": [{"run": run, "links": links(run.path)} for run in shown],
    }


def _cell(group: Sequence[DoneRun], name: str) -> str:
    """Mean ± standard deviation of a metric over the seeds."""
    values = [run.metrics.get(run.fill(name)) for run in group]
    finite = [value for value in values if _finite(value)]
    if not finite:
        return "–"
    over_seeds = statistics(finite)
    missing = len(group) - len(finite)
    told = f" ({missing} without)" if missing else ""
    return figures(over_seeds["mean"], over_seeds["sd"]) + told


def _figures_of(study: Study, run: DoneRun) -> list[tuple[str, str]]:
    """Key figures of a run that can be shown: name and data URI."""
    folder = Path(run.path) / "figures"
    names = study.figures or sorted(f.name for f in folder.glob("*.png")) if folder.is_dir() else ()
    shown = [(name, picture(folder / Path(name).name)) for name in names]
    return [(name, src) for name, src in shown if src]


# --- words and numbers --------------------------------------------------------------------------


def figures(mean: float | None, sd: float | None) -> str:
    """Write a mean with as many digits as its standard deviation warrants.

    >>> figures(61.2345, 1.234), figures(7763905.0, None), figures(0.123456, None)
    ('61.2 ± 1.2', '7,763,905', '0.1235')
    """
    if mean is None:
        return "–"
    if sd:
        digits = min(12, max(0, 1 - math.floor(math.log10(sd))))
        return f"{mean:,.{digits}f} ± {sd:,.{digits}f}"
    if mean.is_integer() or abs(mean) >= 10_000:
        return f"{mean:,.0f}"
    return f"{mean:,.4g}" + (" ± 0" if sd == 0 else "")


def _differing(settings: Sequence[Mapping[str, Any]]) -> set[str]:
    """Names whose values are not the same everywhere."""
    names = {name for one in settings for name in one}
    return {n for n in names if len({spelt(one.get(n)) for one in settings}) > 1}


def _words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{n}={spelt(v) or 'empty'}" for n, v in settings.items())


def _placeholders(metric: str) -> list[str]:
    import re

    return re.findall(r"\{(\w+)\}", metric)


def _column(name: str, same: Mapping[str, Any]) -> str:
    """Fill what is the same in all runs into a metric's name."""
    for parameter in _placeholders(name):
        if parameter in same:
            name = name.replace(f"{{{parameter}}}", spelt(same[parameter]))
    return name


def _unit(runs: Iterable[DoneRun], name: str, units: Mapping[str, str]) -> str:
    """Units of a metric, as the runs recorded them."""
    return " or ".join(sorted({units[n] for run in runs if (n := run.fill(name)) in units}))


def _by_study(frame: pd.DataFrame) -> list[dict[str, Any]]:
    known = frame[frame["status"] != "broken"]
    return [
        {"study": study, "data": data, "counts": Counter(runs["status"])}
        for (study, data), runs in known.groupby(["study", "data"])
    ]


def _listed(run: Mapping[str, Any]) -> dict[str, Any]:
    started = run["started"]
    return {
        **run,
        "when": "" if started != started else f"{started:%Y-%m-%d %H:%M}",
        "took": f"{run['seconds']:,.0f}" if _finite(run["seconds"]) else "",
    }


def _link(folder: Path, path: Path | None) -> str:
    return quote(Path(os.path.relpath(path, folder)).as_posix()) if path else ""


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
