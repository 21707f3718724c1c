"""Runs of one study as a table: what differs between them, their key metrics, links."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geowb.widgets.runplots import as_text, short

if TYPE_CHECKING:
    import pandas as pd

    from geowb.batch.results import Record

__all__ = ["RunTable", "plain"]

_MOST = 8  # parameters that differ, in a table
_KEY_METRICS = 5
_AXES, _METRIC_AXES = 8, 3


@dataclass(frozen=True)
class RunTable:
    """The runs of one study, and which of their columns matter.

    >>> RunTable.of("agb_transfer", read_runs("runs")).varied  # doctest: +SKIP
    ['label_density', 'seed']

    `frame` is that of `geowb.batch.load_runs` without its ``attrs``, which pandas copies again and
    again; they are here.
    """

    study: str
    frame: pd.DataFrame
    parameters: dict[str, str]  # name -> column
    metrics: dict[str, str]
    units: dict[str, str]
    varied: list[str]  # columns of the parameters in which runs differ
    key_metrics: list[str]  # columns of those that the study names as its own

    @classmethod
    def of(cls, study: str, records: Sequence[Record]) -> RunTable:
        """Make a table of those records that are of a study; "" takes those of none."""
        from geowb.batch.results import TECHNICAL, load_runs

        own = [one for one in records if (one.study or "") == study]
        frame = load_runs(own)
        parameters, metrics = frame.attrs["parameters"], frame.attrs["metrics"]
        units, frame.attrs = frame.attrs["units"], {}
        varied = [
            column
            for name, column in parameters.items()
            if name not in TECHNICAL and frame[column].map(as_text).nunique() > 1
        ]
        key = _key_metrics(study, own, metrics)
        return cls(study, frame, parameters, metrics, units, varied, key)

    @property
    def keys(self) -> list[str]:
        """Paths of the runs, by which they are chosen."""
        return [str(path) for path in self.frame["path"]]

    @property
    def done(self) -> pd.DataFrame:
        """Runs that are done."""
        return self.frame[self.frame["status"] == "done"].reset_index(drop=True)

    @property
    def choices(self) -> list[str]:
        """Columns that can be drawn: what was varied, metrics, all parameters, seconds."""
        found = [*self.varied, *self.metrics.values(), *self.parameters.values(), "seconds"]
        return list(dict.fromkeys(found))

    @property
    def axes(self) -> list[str]:
        """Columns that get an axis: what was varied, then the first metrics."""
        metrics = self.key_metrics[:_METRIC_AXES]
        return [*self.varied[: _AXES - len(metrics)], *metrics]

    def columns(self) -> list[dict[str, Any]]:
        """Columns of the table; what went wrong where something did."""
        found = [
            {"key": "run", "label": "run", "kind": "wide"},
            {"key": "status", "label": "status", "kind": "short"},
            {"key": "data", "label": "data", "kind": "text"},
        ]
        found += [
            {"key": name, "label": name.removeprefix("parameter/"), "kind": "num"}
            for name in self.varied[:_MOST]
        ]
        for name in self.key_metrics:
            unit = self.units.get(name, "")
            column = {"key": name, "label": short(name), "kind": "num", "help": f"{name}."}
            found.append(column | {"unit": "" if unit == "1" else unit})
        found.append({"key": "seconds", "label": "time", "unit": "s", "kind": "num"})
        if self.frame["status"].ne("done").any():
            found.append({"key": "error", "label": "what went wrong", "kind": "text"})
        return found

    def rows(self) -> list[dict[str, Any]]:
        """Rows of the table, each under the path of its directory."""
        shown = [*self.varied[:_MOST], *self.key_metrics]
        needed = ["run", "status", "data", "seconds", "error", "path", *shown]
        found = []
        for row in self.frame[needed].to_dict("records"):
            cells = _cells(row) | {name: _number(row[name]) for name in shown}
            found.append({"key": str(row["path"]), "cells": cells})
        return found

    def lines(self, parameters: int = 3, metrics: int = 3) -> tuple[list[str], list[list[Any]]]:
        """Heads and rows of a short table, for a picture."""
        names = ["run", "status", *self.varied[:parameters], *self.key_metrics[:metrics]]
        rows = [
            [plain(row[name]) for name in names] for row in self.frame[names].to_dict("records")
        ]
        return [short(name, 22) for name in names], rows


def _key_metrics(study: str, records: Sequence[Record], metrics: dict[str, str]) -> list[str]:
    """Columns of the metrics that a study names as its own, else of those that most runs have."""
    from geowb.batch.studies import find_studies

    about = find_studies().get(study)
    named = [one.fill(name) for name in (about.metrics if about else ()) for one in records]
    found = [metrics[name] for name in dict.fromkeys(named) if name in metrics]
    if not found:
        counts = dict.fromkeys(metrics, 0)
        for one in records:
            for name, value in one.metrics.items():
                counts[name] += math.isfinite(value)
        found = [metrics[name] for name in sorted(counts, key=lambda name: -counts[name])]
    return found[:_KEY_METRICS]


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    notebook, good = Path(row["path"]) / "notebook.ipynb", row["status"] == "done"
    link = {"file": notebook.as_posix()} if notebook.is_file() else {}
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
    """Value of a column as Python has it; None where there is none.

    >>> plain(["a", "b"]), plain(float("nan"))
    ('a, b', None)
    """
    import pandas as pd

    if isinstance(value, list | tuple):
        return as_text(value)
    if value is None or pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value
