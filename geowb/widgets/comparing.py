"""Runs side by side: the parameters in which they differ, their metrics, a figure of each."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from geowb.widgets.panel import escaped
from geowb.widgets.runplots import as_text

if TYPE_CHECKING:
    from geowb.batch.results import Record

__all__ = ["comparison"]

_MOST = 40  # metrics
_LARGEST = 600_000  # bytes of a figure that goes into the page


def comparison(runs: Sequence[Record], key_metrics: Sequence[str]) -> str:
    """HTML of runs side by side; with two, the second minus the first too.

    >>> comparison(read_runs("runs"), ["rmse/unet/all"])  # doctest: +SKIP
    """
    names = [f"<th class='num'>{escaped(one.run)}</th>" for one in runs]
    difference = "<th class='num'>difference</th>" * (len(runs) == 2)
    head = f"<tr><th></th>{''.join(names)}{difference}</tr>"
    empty = "<td></td>" * (len(runs) == 2)
    rows = [f"<tr><th>{name}</th>{_cells(texts)}{empty}</tr>" for name, texts in _settings(runs)]
    rows += [_metric(name, runs) for name in _shared(runs, key_metrics)]
    return f"<table>{head}{''.join(rows)}</table>{_figures(runs)}"


def _cells(texts: Sequence[str]) -> str:
    return "".join(f"<td class='num'>{escaped(text)}</td>" for text in texts)


def _settings(runs: Sequence[Record]) -> list[tuple[str, list[str]]]:
    """Tell what differs between runs, by name, as text."""
    told = [("status", [one.status for one in runs]), ("data", [one.data for one in runs])]
    told += [("profile", [one.profile or "" for one in runs])]
    names = dict.fromkeys(name for one in runs for name in one.parameters if name != "run_dir")
    for name in names:
        values = [as_text(one.parameters.get(name, "-")) for one in runs]
        if len(set(values)) > 1:
            told.append((escaped(name), values))
    told.append(("time (s)", [_number(one.seconds, ".0f") for one in runs]))
    return told


def _shared(runs: Sequence[Record], first: Sequence[str]) -> list[str]:
    """Metrics of the runs: the study's own first, then the others."""
    names = dict.fromkeys(name for one in runs for name in one.metrics)
    return [*(n for n in first if n in names), *(n for n in names if n not in first)][:_MOST]


def _metric(name: str, runs: Sequence[Record]) -> str:
    values = [one.metrics.get(name) for one in runs]
    unit = next((one.units[name] for one in runs if one.units.get(name, "1") != "1"), "")
    label = f"{escaped(name)} <span class='geowb-muted'>{escaped(unit)}</span>"
    texts = [_number(value) for value in values]
    if len(runs) == 2:
        first, second = values
        texts.append("-" if "-" in texts else f"{second - first:+.3g}")
    return f"<tr><th>{label}</th>{_cells(texts)}</tr>"


def _number(value: float | None, how: str = ".4g") -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:{how}}"


def _figures(runs: Sequence[Record]) -> str:
    """Show the same figure of each run, the first that all have."""
    folders = [Path(one.path) / "figures" for one in runs]
    names = [{file.name for file in folder.glob("*.png")} for folder in folders]
    shared = sorted(set.intersection(*names)) if names else []
    shown = []
    for one, folder in zip(runs, folders, strict=True):
        file = folder / shared[0] if shared else None
        if file is not None and file.stat().st_size < _LARGEST:
            data = b64encode(file.read_bytes()).decode()
            told = f"{escaped(file.stem)} of {escaped(one.run)}"
            picture = f"<img alt='{told}' src='data:image/png;base64,{data}'>"
            shown.append(f"<figure>{picture}<figcaption>{told}</figcaption></figure>")
    return "".join(shown)
