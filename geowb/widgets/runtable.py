"""Runs of one study as rows of a table: what differs between them, their key metrics, links."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geowb.widgets.runplots import as_text, short

if TYPE_CHECKING:
    import pandas as pd

    from geowb.batch.results import Record

__all__ = ["columns_of", "key_metrics", "plain", "rows_of", "varied"]

_MOST = 8  # parameters that differ, in a table


def varied(frame: pd.DataFrame) -> list[str]:
    """Columns of the parameters in which runs differ, the technical ones left out.

    >>> varied(geowb.batch.load_runs("runs"))  # doctest: +SKIP
    ['label_density', 'seed']
    """
    from geowb.batch.results import TECHNICAL

    return [
        column
        for name, column in frame.attrs["parameters"].items()
        if name not in TECHNICAL and frame[column].map(as_text).nunique() > 1
    ]


def key_metrics(study: str, records: Sequence[Record], frame: pd.DataFrame) -> list[str]:
    """Columns of the metrics that a study names as its own, else of the first that all have."""
    from geowb.batch.studies import find_studies

    known = frame.attrs["metrics"]
    about = find_studies().get(study)
    named = [one.fill(name) for name in (about.metrics if about else ()) for one in records]
    found = [known[name] for name in dict.fromkeys(named) if name in known]
    if not found:
        counted = {column: int(frame[column].notna().sum()) for column in known.values()}
        found = sorted(counted, key=lambda column: -counted[column])
    return found[:5]


def columns_of(frame: pd.DataFrame, parameters: Sequence[str], metrics: Sequence[str]) -> list[Any]:
    """Columns of a table of runs; what went wrong where something did."""
    units = frame.attrs["units"]
    found = [
        {"key": "run", "label": "run", "kind": "wide"},
        {"key": "status", "label": "status", "kind": "short"},
        {"key": "data", "label": "data", "kind": "text"},
    ]
    found += [
        {"key": name, "label": name.removeprefix("parameter/"), "kind": "num"}
        for name in parameters[:_MOST]
    ]
    found += [
        {"key": name, "label": short(name), "kind": "num", "help": f"{name}."}
        | {"unit": units.get(name, "") if units.get(name) != "1" else ""}
        for name in metrics
    ]
    found.append({"key": "seconds", "label": "time", "unit": "s", "kind": "num"})
    if frame["status"].ne("done").any():
        found.append({"key": "error", "label": "what went wrong", "kind": "text"})
    return found


def rows_of(frame: pd.DataFrame, parameters: Sequence[str], metrics: Sequence[str]) -> list[Any]:
    """Rows of a table of runs, each under the path of its directory."""
    shown = [*parameters[:_MOST], *metrics]
    return [
        {
            "key": str(row["path"]),
            "cells": _cells(row) | {name: _number(row[name]) for name in shown},
        }
        for _, row in frame.iterrows()
    ]


def _cells(row: Any) -> dict[str, Any]:
    notebook, good = Path(row["path"]) / "notebook.ipynb", row["status"] == "done"
    link = {"file": str(notebook)} if notebook.is_file() else {}
    sign, tone = ("✓", "good") if good else ("✗", "bad")
    return {
        "run": {"text": row["run"], "title": row["path"]} | link,
        "status": {"text": f"{sign} {row['status']}", "tone": tone},
        "data": plain(row["data"]),
        "seconds": _number(row["seconds"], ".0f"),
        "error": plain(row["error"]),
    }


def _number(value: Any, how: str = ".4g") -> Any:
    """Cell of a number: written short, sorted by what it is."""
    value = plain(value)
    if isinstance(value, float):
        return {"text": f"{value:{how}}", "sort": value}
    return value if isinstance(value, int | str) or value is None else str(value)


def plain(value: Any) -> Any:
    """Value of a column as Python has it; None where there is none."""
    import pandas as pd

    if isinstance(value, list | tuple):
        return as_text(value)
    if value is None or pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value
