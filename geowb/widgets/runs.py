"""Runs of a folder: a table, parallel coordinates, scatter, comparison, the claims they test."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets
import traitlets as t

from geowb.errors import RequestError, did_you_mean
from geowb.widgets import runplots
from geowb.widgets.panel import Panel, escaped, guarded, note
from geowb.widgets.parts import Plot, Table
from geowb.widgets.runtable import RunTable
from geowb.widgets.work import Turn

if TYPE_CHECKING:
    import pandas as pd

    from geowb.batch.claims import Verdict
    from geowb.batch.results import Record

__all__ = ["RunsExplorer"]

_VIEWS = {
    "table": "Table",
    "parallel": "Parallel coordinates",
    "scatter": "Scatter",
    "compare": "Compare",
    "claims": "Claims",
}
_MOST_COMPARED = 4
_VERDICT_SIGNS = {"holds": ("✓ holds", "good"), "does not hold": ("✗ does not hold", "bad")}
_CLAIM_COLUMNS = [
    {"key": "claim", "label": "claim", "kind": "wide"},
    {"key": "verdict", "label": "verdict here", "kind": "short"},
    {"key": "data", "label": "on which data"},
    {"key": "n", "label": "runs", "kind": "num"},
    {"key": "mean", "label": "value", "kind": "num"},
]


class RunsExplorer(Panel):
    """Look through the runs in a folder, and what they say of the papers' claims.

    >>> explorer = RunsExplorer("runs")  # doctest: +SKIP
    >>> explorer.wait(); explorer.frame  # a table of the study that is shown  # doctest: +SKIP
    >>> explorer.view, explorer.y = "scatter", "rmse/unet/all"  # doctest: +SKIP

    Parameters
    ----------
    folder
        Folder with run directories, at any depth.
    **traits
        Any of those below, to begin with.

    Attributes
    ----------
    folder
        Setting it, or `refresh`, reads it anew.
    study
        The study whose runs are shown.
    view
        ``table``, ``parallel``, ``scatter``, ``compare`` or ``claims``.
    selected
        Paths of the chosen runs: in the table, or by tapping in a plot.
    x, y, colour
        Columns of `frame`: parameters, metrics, ``seconds``; a `colour` of ``""`` is one for all.
    """

    folder = t.Unicode("")
    study = t.Unicode("")
    view = t.Enum(tuple(_VIEWS), "table")
    selected = t.List(t.Unicode())
    x = t.Unicode("")
    y = t.Unicode("")
    colour = t.Unicode("")

    def __init__(self, folder: str | Path = "runs", **traits: Any) -> None:
        self._records: list[Record] = []
        self._runs: RunTable | None = None
        self._plotted: list[str] = []
        self._verdicts: list[Verdict] | None = None
        self._reading = self._tapping = False
        self._settled = False  # whether what was asked for at the beginning has been judged
        super().__init__("Runs", (self._make(),))
        self._connect()
        self.take(traits)
        self.folder = str(folder)

    # --- parts ---

    def _make(self) -> ipywidgets.Box:
        style = {"style": {"description_width": "initial"}, "layout": {"width": "auto"}}
        self._study = ipywidgets.Dropdown(options=[("no runs", "")], description="Study", **style)
        self._view = ipywidgets.ToggleButtons(
            options=[(text, key) for key, text in _VIEWS.items()], style={"button_width": "auto"}
        )
        self._again = ipywidgets.Button(
            description="Refresh", tooltip="Read the folder again", layout={"width": "84px"}
        )
        self._report = ipywidgets.Button(
            description="Write report", tooltip="One page on what the runs show (geowb report)",
            layout={"width": "110px"},
        )  # fmt: skip
        top = ipywidgets.HBox([self._study, self._again, self._report])
        self._x, self._y, self._colour = (
            ipywidgets.Dropdown(options=[("-", "")], description=text, **style)
            for text in ("Across", "Up", "Colour")
        )
        self._axes = ipywidgets.HBox([self._x, self._y, self._colour])
        for row in (top, self._axes):
            row.add_class("geowb-gap")
        home = Path.home().as_posix()
        self._table = Table(label="Runs", multiple=True, home=home, max_height=340)
        self._ledger = Table(label="Claims of the papers", max_height=340, columns=_CLAIM_COLUMNS)
        self._page = Table(
            label="Report", home=home, columns=[{"key": "page", "label": "report"}], rows=[]
        )
        self._page.layout.display = "none"
        self._plot, self._text = Plot(), note()
        # All stay on the page, and those that are not wanted are hidden: views keep their state.
        self._stage = (self._axes, self._table, self._ledger, self._plot, self._text)
        self._reveal()
        return ipywidgets.VBox([top, self._page, self._view, *self._stage])

    def _reveal(self, *parts: Any) -> None:
        """Show these parts and hide the others."""
        for part in self._stage:
            part.layout.display = None if part in parts else "none"

    def _connect(self) -> None:
        for name in ("study", "x", "y", "colour"):
            control = getattr(self, f"_{name}")
            control.observe(lambda change, name=name: self._moved(name, change["new"]), "value")
        t.link((self, "view"), (self._view, "value"))
        self._table.observe(self._picked, "selected")
        self._plot.observe(self._tapped, "selected")
        self._ledger.observe(self._claim_chosen, "selected")
        self._again.on_click(lambda _: self.refresh())
        self._report.on_click(lambda _: self.report())

    @guarded
    def _moved(self, name: str, value: Any) -> None:
        if self._runs is not None and value is not None:
            setattr(self, name, value)

    # --- reading ---

    @t.observe("folder")
    @guarded
    def _placed(self, _: Any) -> None:
        self._page.layout.display = "none"  # of another folder
        self.refresh()

    @guarded
    def refresh(self) -> None:
        """Read the folder again."""
        self._reading = True
        self.work(self._read, f"Reading the runs in {self.folder} ...")

    def _read(self, turn: Turn) -> None:
        try:
            self._read_all(turn)
        finally:
            self._reading = turn.over  # then another reading has been asked for

    def _read_all(self, turn: Turn) -> None:
        from geowb.batch.results import read_runs

        folder = Path(self.folder).expanduser()
        records = read_runs(folder) if folder.is_dir() else []
        turn.check()
        self._records, self._verdicts, self._runs = records, None, None
        if not records:
            self._reveal()
            self._study.options = [("no runs", "")]
            told = f"No runs in {self.folder} yet: make one with StudyRunner, then press Refresh."
            self.say(told, "empty")
            return
        studies = list(dict.fromkeys(one.study or "" for one in records))
        counts = {name: sum((one.study or "") == name for one in records) for name in studies}
        self._study.options = [
            (f"{name or 'not readable'} ({count})", name) for name, count in counts.items()
        ]
        wanted, first = self.study, next(filter(None, studies), "")
        missing = bool(wanted) and wanted not in studies
        asked = {name: getattr(self, name) for name in ("x", "y", "colour", "selected")}
        self._load(first if missing or not wanted else wanted)
        self._show(turn)
        if missing:
            raise RequestError(
                f"No run is of the study '{wanted}'. {did_you_mean(wanted, studies)}"
            )

        first_time, self._settled = not self._settled, True
        for name, value in asked.items() if first_time else ():
            if value:
                setattr(self, name, value)  # says what is wrong with it

    def _load(self, study: str) -> None:
        """Make the table of one study; keep what was chosen to be drawn where it has that."""
        runs, self._runs = RunTable.of(study, self._records), None  # so that nothing is drawn yet
        metrics = list(runs.metrics.values())
        named = [(name.removeprefix("parameter/"), name) for name in runs.choices]
        self._x.options = self._y.options = named
        self._colour.options = [("one for all", ""), *named]
        first = {
            "x": (runs.varied or metrics or ["seconds"])[0],
            "y": (runs.key_metrics or metrics or ["seconds"])[0],
            "colour": (runs.varied[1:] or [""])[0],
        }
        for name, value in first.items():
            kept = getattr(self, name)
            setattr(self, name, kept if kept and kept in runs.choices else value)
            getattr(self, f"_{name}").value = getattr(self, name)
        self.selected = [key for key in self.selected if key in runs.keys]
        self.study = self._study.value = study
        self._runs = runs

    @property
    def frame(self) -> pd.DataFrame | None:
        """Table of the runs of the study that is shown: parameters and metrics by name."""
        return self._runs.frame if self._runs else None

    @t.validate("x", "y", "colour", "study")
    def _good_choice(self, proposal: dict[str, Any]) -> str:
        name, value = proposal["trait"].name, proposal["value"]
        known = [key for _, key in getattr(self, f"_{name}").options]
        if self._runs is not None and value not in known:
            raise t.TraitError(f"{name} is '{value}'. {did_you_mean(value, filter(None, known))}")
        return value

    @t.validate("selected")
    def _good_runs(self, proposal: dict[str, Any]) -> list[str]:
        if self._runs is not None and (other := set(proposal["value"]) - set(self._runs.keys)):
            raise t.TraitError(
                f"selected has '{min(other)}', the path of no run that is shown: the column path "
                "of `frame` has them."
            )
        return proposal["value"]

    @t.observe("study")
    @guarded
    def _studied(self, change: dict[str, Any]) -> None:
        if self._runs is not None and change["new"] != self._runs.study and not self._reading:
            self._load(change["new"])
            self.work(self._show)

    @t.observe("view", "x", "y", "colour")
    @guarded
    def _changed(self, change: dict[str, Any]) -> None:
        if self._runs is None or self._reading:  # what is read is shown as it is wanted then
            return
        if change["name"] != "view":
            getattr(self, f"_{change['name']}").value = change["new"]
        slow = self.view == "claims" and self._verdicts is None
        self.work(self._show, "Holding the claims against the runs ..." if slow else "")

    # --- showing ---

    def _show(self, turn: Turn) -> None:
        if self._runs is None:
            return
        shown = {
            "table": self._show_table,
            "parallel": self._show_parallel,
            "scatter": self._show_scatter,
            "compare": self._show_comparison,
            "claims": self._show_claims,
        }
        parts = shown[self.view](self._runs)
        turn.check()
        self._reveal(*parts)
        self.say(self._sentence())

    def _sentence(self) -> str:
        own, study = len(self._runs.frame), self._runs.study
        failed = int((self._runs.frame["status"] == "failed").sum())
        broken = sum(one.status == "broken" for one in self._records)
        text = f"{own} run{'s' * (own != 1)} of {study}" if study else "Runs of no known study"
        text += f", of which {failed} failed" * bool(failed)
        text += f"; {broken} in the folder cannot be read" * bool(broken)
        return f"{text}; {len(self.selected)} chosen." if self.selected else f"{text}."

    def _show_table(self, runs: RunTable) -> tuple[Any, ...]:
        with self._table.hold_sync():
            self._table.columns, self._table.rows = runs.columns(), runs.rows()
        return (
            self._table,
            self._remark("Press a row to choose it (Shift: several), a name to open its notebook."),
        )

    def _show_parallel(self, runs: RunTable) -> tuple[Any, ...]:
        done = runs.done
        axes = runplots.axes_of(done, runs.axes)
        if len(done) < 2 or len(axes) < 2:
            told = "Parallel coordinates need two runs that are done, and two columns of numbers."
            return (self._remark(told),)
        self._x.layout.display = self._y.layout.display = "none"
        self._draw(runplots.parallel(done, axes, self.colour, runs.units), done)
        return (self._axes, self._plot)

    def _show_scatter(self, runs: RunTable) -> tuple[Any, ...]:
        done = runs.done
        if done.empty or not (self.x and self.y):
            return (self._remark("A scatter plot needs a run that is done."),)
        self._x.layout.display = self._y.layout.display = None
        self._draw(runplots.scatter(done, self.x, self.y, self.colour, runs.units), done)
        return (self._axes, self._plot)

    def _draw(self, element: Any, done: pd.DataFrame) -> None:
        from geowb.widgets.liveplot import as_json

        self._plotted = [str(path) for path in done["path"]]
        chosen = [self._plotted.index(one) for one in self.selected if one in self._plotted]
        item = as_json(element, rows="run", chosen=chosen)
        self._tapping = True  # not by a person
        with self._plot.hold_sync():
            self._plot.selected = chosen
            self._plot.serial += 1
            self._plot.alt = f"{len(done)} runs; the table has the same numbers"
            self._plot.item = item
        self._tapping = False

    def _remark(self, text: str) -> Any:
        self._text.value = f"<span class='geowb-muted'>{escaped(text)}</span>"
        return self._text

    def _show_comparison(self, runs: RunTable) -> tuple[Any, ...]:
        from geowb.widgets.comparing import comparison

        records = {str(one.path): one for one in self._records}
        chosen = [records[key] for key in self.selected if key in records]
        if len(chosen) < 2:
            told = "Choose two runs or more in the table (or tap them in a plot), then come back."
            return (self._remark(told),)
        text = comparison(chosen[:_MOST_COMPARED], runs.key_metrics)
        if (left := len(chosen) - _MOST_COMPARED) > 0:
            text += f"<span class='geowb-muted'>and {left} more that are not shown</span>"
        self._text.value = text
        return (self._text,)

    # --- choosing ---

    @guarded
    def _picked(self, change: dict[str, Any]) -> None:
        self.selected = list(change["new"])

    @guarded
    def _tapped(self, change: dict[str, Any]) -> None:
        if self._tapping:
            return
        self._tapping = True
        try:
            self.selected = [self._plotted[i] for i in change["new"] if i < len(self._plotted)]
        finally:
            self._tapping = False

    @t.observe("selected")
    @guarded
    def _chosen(self, change: dict[str, Any]) -> None:
        self._table.selected = list(change["new"])
        if self._runs is None:
            return
        plotted = self.view in ("scatter", "parallel") and not self._tapping
        if (self.view == "compare" or plotted) and not self._reading:
            self.work(self._show)
        else:
            self.say(self._sentence())

    # --- claims ---

    def _show_claims(self, runs: RunTable) -> tuple[Any, ...]:
        from geowb.batch.claims import judge
        from geowb.batch.ledger import load_claims

        papers = load_claims()
        if self._verdicts is None:
            self._verdicts = judge(papers, self._records)
        own = [(i, v) for i, v in enumerate(self._verdicts) if papers[v.paper].study == runs.study]
        self._ledger.nothing = "The ledger has no claim about this study."
        self._ledger.selected = []
        self._ledger.rows = [{"key": str(i), "cells": _claim_cells(one)} for i, one in own]
        return (self._ledger, self._remark("Press a claim to see why."))

    @guarded
    def _claim_chosen(self, change: dict[str, Any]) -> None:
        if not change["new"] or self._verdicts is None:
            return
        one = self._verdicts[int(change["new"][0])]
        settings = ", ".join(f"{n}={runplots.as_text(v)}" for n, v in one.settings.items())
        lines = [f"<h4>{escaped(one.about.says)}</h4>"]
        lines.append(f"<p><b>{escaped(one.verdict)}</b>: {escaped(one.reason)}</p>")
        lines.append(f"<p>{escaped(one.about.quantity)}</p>")
        lines += [f"<p class='geowb-muted'>{escaped(settings)}</p>"] * bool(settings)
        lines += [f"To test it: <code>{escaped(one.command)}</code>"] * bool(one.command)
        self._text.value = "".join(lines)

    # --- report ---

    @guarded
    def report(self) -> None:
        """Write the report of the folder beside the kernel's work; a link to it appears."""
        self.aside(self._write, "Writing the report ...")

    def _write(self, turn: Turn) -> None:
        from geowb.batch.reports import report

        page = report(self.folder)
        turn.check()
        link = {"text": page.name, "file": page.as_posix(), "title": str(page)}
        self._page.rows = [{"key": "page", "cells": {"page": link}}]
        self._page.layout.display = ""
        self.say(f"The report is written: {page.name}.")

    def picture(self) -> bytes | None:
        """PNG of the table, or of the plot that is shown."""
        from geowb.widgets.stored import card

        runs = self._runs
        if runs is None or self.state == "error":
            return super().picture()
        done = runs.done
        if self.view == "scatter" and len(done) and self.x and self.y:
            return runplots.draw_scatter(done, self.x, self.y, self.colour, runs.units)
        axes = runplots.axes_of(done, runs.axes)
        if self.view == "parallel" and len(done) > 1 and len(axes) > 1:
            return runplots.draw_parallel(done, axes, self.colour)
        if self.view == "claims" and self._ledger.rows:
            names = [column["key"] for column in _CLAIM_COLUMNS]
            rows = [[_words(row["cells"][name]) for name in names] for row in self._ledger.rows]
            return card("Claims", [self.message], names, rows)
        return card(f"Runs in {Path(self.folder).name}", [self.message], *runs.lines())

    def __repr__(self) -> str:
        return f"RunsExplorer({Path(self.folder).name!r}, {len(self._records)} runs)"


def _claim_cells(one: Verdict) -> dict[str, Any]:
    text, tone = _VERDICT_SIGNS.get(one.verdict, (one.verdict, ""))
    value = None
    if one.mean is not None:
        value = {"text": f"{one.mean:.3g} {one.about.unit}".strip(), "sort": one.mean}
    return {
        "claim": one.about.says,
        "verdict": {"text": text, "tone": tone},
        "data": one.data,
        "n": one.n or None,
        "mean": value,
    }


def _words(cell: Any) -> Any:
    return cell["text"] if isinstance(cell, dict) else cell
