"""What the scripts that write pages of results have in common."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from geowb.batch import load_study
from geowb.batch.checks import as_text
from geowb.batch.claims import grouped, judge, load_claims, unusual
from geowb.batch.results import Record, read_runs


def markdown(rows: Iterable[Iterable[str]], header: Iterable[str]) -> str:
    """Write a table."""
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def spread(values: pd.Series, form: str = "{:.1f}", most: float = float("inf")) -> str:
    """Mean, and the value of each seed if there are several; a dash for one that is not there.

    A value above `most` stands for one that is not known, but for being larger.
    """
    told = {True: f">{form.format(most)}", False: form}
    each = ", ".join(
        "-" if pd.isna(value) else told[bool(value > most)].format(value) for value in values
    )
    if values.isna().all():
        return "-"
    least = ">" if (values > most).any() else ""
    mean = f"**{least}{form.format(values.mean())}**"
    return mean if len(values) == 1 else f"{mean} ({each})"


def verdicts(paper: str, folder: Path, by: str = "") -> str:
    """One row a claim of a paper that the runs can test, and a value of the parameter `by`.

    Nothing if they can test none.
    """
    rows, runs = [], {str(run.path): run for run in read_runs(folder)}
    for found in judge({paper: load_claims()[paper]}, folder):
        if not found.values:
            continue
        values = ", ".join(f"{value['value']:.3g}" for value in found.values)
        interval = "{:.3g} to {:.3g}".format(*found.interval) if found.interval else ""
        about, verdict = found.about, f"**{found.verdict}**"
        own = [runs[str(found.values[0]["run"])].parameters[by]] if by else []
        told = [about.says, about.quantity, *own, about.holds.words(), values, interval, verdict]
        rows.append(told)
    if not rows:
        return ""
    extra = [by] if by else []
    header = ["claim", "quantity", *extra, "holds", "each seed", "95 % interval", "verdict"]
    return markdown(rows, header)


def samples(folder: Path) -> list[list[Record]]:
    """Find the runs of the profile full that differ in their seed only, a list a request."""
    done = [r for r in read_runs(folder) if r.status == "done" and r.profile == "full"]
    groups = [sorted(runs, key=lambda run: run.parameters["seed"]) for runs, _ in grouped(done)]
    if not groups or any(len({run.notebook_sha256 for run in runs}) != 1 for runs in groups):
        sys.exit(f"{folder} holds {len(done)} full runs, not all of a group of one notebook.")
    return groups


def command(records: list[Record], study: str) -> tuple[str, str]:
    """Say what makes such runs, and of which seeds."""
    changed = unusual(records[0], load_study(study))
    words = "".join(f" -p '{name}={as_text(changed[name])}'" for name in changed if name != "seed")
    seeds = ",".join(str(run.parameters["seed"]) for run in records)
    return f"geowb sweep {study} --profile full{words}", seeds
