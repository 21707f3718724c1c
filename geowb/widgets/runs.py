"""Runs of a folder: a table, parallel coordinates, scatter, comparison, the claims they test."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets
import traitlets as t

from geowb.errors import did_you_mean
from geowb.widgets import runplots, runtable
from geowb.widgets.panel import Panel, escaped, guarded, note
from geowb.widgets.parts import Plot, Table
from geowb.widgets.work import Turn

if TYPE_CHECKING:
    import pandas as pd

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
_MOST_AXES, _METRIC_AXES = 8, 3
_VERDICT_SIGNS = {"holds": ("✓ holds", "good"), "does not hold": ("✗ does not hold", "bad")}


class RunsExplorer(Panel):
    """Look through the runs in a folder, and what they say of the papers' claims.

    >>> explorer = RunsExplorer("runs")  # doctest: +SKIP
    >>> explorer.frame  # a pandas table of the study that is shown  # doctest: +SKIP
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
        Columns of `frame`; a `colour` of ``""`` is one for all.
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
        self._frame: pd.DataFrame | None = None
        self._varied: list[str] = []
        self._key_metrics: list[str] = []
        self._keys: list[str] = []
        self._claims: list[dict[str, Any]] | None = None
        self._given = traits
        super().__init__("Runs", (self._make(),))
        self._connect()
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
            description="Write report", tooltip="geowb report: one page on what the runs show",
            layout={"width": "110px"},
        )  # fmt: skip
        top = ipywidgets.HBox([self._study, self._again, self._report])
        top.add_class("geowb-gap")
        self._x, self._y, self._colour = (
            ipywidgets.Dropdown(options=[("-", "")], description=text, **style)
            for text in ("Across", "Up", "Colour")
        )
        self._axes = ipywidgets.HBox([self._x, self._y, self._colour])
        self._axes.add_class("geowb-gap")
        self._table = Table(label="Runs", multiple=True, home=str(Path.home()), max_height=340)
        self._ledger = Table(label="Claims of the papers", max_height=340, home=str(Path.home()))
        self._plot, self._text = Plot(), note()
        self._stage = ipywidgets.VBox()
        return ipywidgets.VBox([top, self._view, self._stage])

    def _connect(self) -> None:
        for name in ("study", "x", "y", "colour"):
            control = getattr(self, f"_{name}")
            control.observe(lambda change, name=name: self._moved(name, change["new"]), "value")
        t.link((self, "view"), (self._view, "value"))
        t.link((self, "selected"), (self._table, "selected"))
        self._plot.observe(self._tapped, "selected")
        self._ledger.observe(self._claim_chosen, "selected")
        self._again.on_click(lambda _: self.refresh())
        self._report.on_click(lambda _: self.report())

    @guarded
    def _moved(self, name: str, value: Any) -> None:
        if self._frame is not None and value is not None:
            setattr(self, name, value)

    # --- reading ---

    @t.observe("folder")
    @guarded
    def _placed(self, _: Any) -> None:
        self.refresh()

    @guarded
    def refresh(self) -> None:
        """Read the folder again."""
        self.work(self._read, f"Reading the runs in {self.folder} ...")

    def _read(self, turn: Turn) -> None:
        from geowb.batch.results import read_runs

        folder = Path(self.folder).expanduser()
        self._records = read_runs(folder) if folder.is_dir() else []
        turn.check()
        self._claims = None
        studies = list(dict.fromkeys(one.study for one in self._records if one.study))
        if not self._records:
            self._frame, self._stage.children = None, ()
            self._study.options = [("no runs", "")]
            there = "is empty of runs" if folder.is_dir() else "is not there yet"
            self.say(
                f"{self.folder} {there}: make one with StudyRunner, or `geowb run STUDY`.", "empty"
            )
            return
        self._frame = None  # so that setting the options below does not draw
        counts = {name: sum(one.study == name for one in self._records) for name in studies}
        broken = sum(not one.study for one in self._records)
        options = [(f"{name} ({count})", name) for name, count in counts.items()]
        self._study.options = options + ([(f"not readable ({broken})", "")] if broken else [])
        given, self._given = self._given, {}
        wanted = given.pop("study", self.study)
        wanted = wanted if wanted in studies else (studies or [""])[0]
        self._load(wanted)
        self._study.value = self.study = wanted
        for name, value in given.items():
            setattr(self, name, value)
        self._show(turn)

    def _load(self, study: str) -> None:
        """Make the table of one study, and find what differs in it."""
        from geowb.batch.results import load_runs

        records = [one for one in self._records if (one.study or "") == study]
        frame = load_runs(records)
        parameters = frame.attrs["parameters"]
        self._varied = runtable.varied(frame)
        self._key_metrics = runtable.key_metrics(study, records, frame)
        self._keys = [str(path) for path in frame["path"]]
        numbers = [c for c in [*parameters.values(), "seconds"] if c in frame]
        metrics = list(frame.attrs["metrics"].values())
        options = [*self._varied, *metrics, *(c for c in numbers if c not in self._varied)]
        named = [(name.removeprefix("parameter/"), name) for name in options]
        self._x.options = self._y.options = named or [("-", "")]
        self._colour.options = [
            ("one for all", ""),
            *((n.removeprefix("parameter/"), n) for n in options),
        ]
        kept = {"x": self.x, "y": self.y, "colour": self.colour}
        first = {
            "x": (self._varied or metrics or ["seconds"])[0],
            "y": (self._key_metrics or metrics or ["seconds"])[0],
            "colour": (self._varied[1:] or [""])[0],
        }
        self._frame = frame
        for name, value in kept.items():
            good = value in options
            setattr(self, name, value if good else first[name])
            getattr(self, f"_{name}").value = getattr(self, name)
        self.selected = [key for key in self.selected if key in self._keys]

    @property
    def frame(self) -> pd.DataFrame | None:
        """Table of the runs of the study that is shown, as `geowb.batch.load_runs` makes it."""
        return self._frame

    @t.validate("x", "y", "colour")
    def _good_column(self, proposal: dict[str, Any]) -> str:
        name, value = proposal["trait"].name, proposal["value"]
        if self._frame is not None and value and value not in self._frame:
            hint = did_you_mean(value, self._frame.columns)
            raise t.TraitError(f"{name} is '{value}', which the runs do not have. {hint}")
        return value

    @t.observe("study")
    @guarded
    def _studied(self, change: dict[str, Any]) -> None:
        if self._frame is not None and change["new"] != self._shown_study():
            self._load(change["new"])
            self._study.value = change["new"]
            self.work(self._show)

    def _shown_study(self) -> str:
        return "" if self._frame is None else str(self._frame["study"].iloc[0] or "")

    @t.observe("view", "x", "y", "colour")
    @guarded
    def _changed(self, change: dict[str, Any]) -> None:
        if self._frame is None:
            return
        if change["name"] != "view":
            getattr(self, f"_{change['name']}").value = change["new"]
        slow = self.view == "claims" and self._claims is None
        self.work(self._show, "Holding the claims against the runs ..." if slow else "")

    # --- showing ---

    def _show(self, turn: Turn) -> None:
        shown = {
            "table": self._show_table,
            "parallel": self._show_parallel,
            "scatter": self._show_scatter,
            "compare": self._show_comparison,
            "claims": self._show_claims,
        }
        children = shown[self.view]()
        turn.check()
        if self._stage.children != children:
            self._stage.children = children
        self.say(self._sentence())

    def _sentence(self) -> str:
        runs, study = self._records, self._shown_study()
        own = [one for one in runs if (one.study or "") == study]
        failed = sum(one.status == "failed" for one in own)
        broken = sum(one.status == "broken" for one in runs)
        text = f"{len(own)} run{'s' * (len(own) != 1)} of {study or 'no readable study'}"
        text += f", {failed} failed" * bool(failed)
        text += f"; {broken} in the folder cannot be read" * bool(broken)
        return f"{text}; {len(self.selected)} chosen." if self.selected else f"{text}."

    def _show_table(self) -> tuple[Any, ...]:
        shown = (self._frame, self._varied, self._key_metrics)
        with self._table.hold_sync():
            self._table.columns = runtable.columns_of(*shown)
            self._table.rows = runtable.rows_of(*shown)
        self._text.value = (
            "<span class='geowb-muted'>Press a row to choose it (Shift: several), a name to open "
            "its notebook.</span>"
        )
        return (self._table, self._text)

    def _done(self) -> pd.DataFrame:
        frame = self._frame
        attrs = frame.attrs
        done = frame[frame["status"] == "done"].reset_index(drop=True)
        done.attrs = attrs
        return done

    def _show_parallel(self) -> tuple[Any, ...]:
        done = self._done()
        axes = runplots.axes_of(done, self._axis_names())
        if len(done) < 2 or len(axes) < 2:
            return (self._lacking("Parallel coordinates need two runs that are done."),)
        units = self._frame.attrs["units"]
        self._draw(runplots.parallel(done, axes, self.colour, units), done)
        return (ipywidgets.HBox([self._colour]), self._plot)

    def _axis_names(self) -> list[str]:
        """Columns that get an axis: what was varied, then the first metrics."""
        metrics = self._key_metrics[:_METRIC_AXES]
        return [*self._varied[: _MOST_AXES - len(metrics)], *metrics]

    def _show_scatter(self) -> tuple[Any, ...]:
        done = self._done()
        if done.empty or not (self.x and self.y):
            return (self._lacking("A scatter plot needs a run that is done."),)
        units = self._frame.attrs["units"]
        self._draw(runplots.scatter(done, self.x, self.y, self.colour, units), done)
        return (self._axes, self._plot)

    def _draw(self, element: Any, done: pd.DataFrame) -> None:
        from geowb.widgets.liveplot import as_json

        self._plotted = [str(path) for path in done["path"]]
        chosen = [self._plotted.index(one) for one in self.selected if one in self._plotted]
        item = as_json(element, rows="run", chosen=chosen)
        with self._plot.hold_sync():
            self._plot.serial += 1
            self._plot.alt = f"{len(done)} runs; the table has the same numbers"
            self._plot.item = item

    def _lacking(self, text: str) -> Any:
        self._text.value = f"<span class='geowb-muted'>{escaped(text)}</span>"
        return self._text

    @guarded
    def _tapped(self, change: dict[str, Any]) -> None:
        if change["new"] or self.selected:
            self.selected = [self._plotted[i] for i in change["new"] if i < len(self._plotted)]

    @t.observe("selected")
    @guarded
    def _chosen(self, _: Any) -> None:
        if self._frame is None:
            return
        if self.view == "compare":
            self.work(self._show)
        else:
            self.say(self._sentence())

    def _show_comparison(self) -> tuple[Any, ...]:
        records = {str(one.path): one for one in self._records}
        chosen = [records[key] for key in self.selected if key in records][:_MOST_COMPARED]
        if len(chosen) < 2:
            return (
                self._lacking(
                    f"Choose two to {_MOST_COMPARED} runs in the table (or by tapping in a plot), "
                    "then come back."
                ),
            )
        from geowb.widgets.comparing import comparison

        self._text.value = comparison(chosen, self._key_metrics)
        return (self._text,)

    # --- claims ---

    def _show_claims(self) -> tuple[Any, ...]:
        from geowb.batch.claims import judge
        from geowb.batch.ledger import load_claims

        if self._claims is None:
            self._claims = [vars(one) for one in judge(load_claims(), self._records)]
        own = [(i, one) for i, one in enumerate(self._claims) if self._about_study(one)]
        with self._ledger.hold_sync():
            self._ledger.columns = [
                {"key": "claim", "label": "claim"},
                {"key": "verdict", "label": "verdict here", "kind": "short"},
                {"key": "data", "label": "on which data"},
                {"key": "n", "label": "runs", "kind": "num"},
                {"key": "mean", "label": "value", "kind": "num"},
            ]
            self._ledger.rows = [{"key": str(i), "cells": _claim_cells(one)} for i, one in own]
            self._ledger.nothing = "The ledger has no claim about this study."
        self._text.value = "<span class='geowb-muted'>Press a claim to see why.</span>"
        return (self._ledger, self._text)

    def _about_study(self, verdict: dict[str, Any]) -> bool:
        from geowb.batch.ledger import load_claims

        self._papers = getattr(self, "_papers", None) or load_claims()
        return self._papers[verdict["paper"]].study == self.study

    @guarded
    def _claim_chosen(self, change: dict[str, Any]) -> None:
        if change["new"] and self._claims is not None:
            one = self._claims[int(change["new"][0])]
            lines = [f"<h4>{escaped(one['claim'])}</h4>", escaped(one["about"].says)]
            lines += [f"<p>{escaped(one['verdict'])}: {escaped(one['reason'])}</p>"]
            settings = ", ".join(f"{n}={runplots.as_text(v)}" for n, v in one["settings"].items())
            lines += [f"<p class='geowb-muted'>{escaped(settings)}</p>"] * bool(settings)
            if one["command"]:
                lines += [f"To test it: <code>{escaped(one['command'])}</code>"]
            self._text.value = "".join(lines)

    # --- report ---

    @guarded
    def report(self) -> None:
        """Write the report of the folder beside the kernel's work; the text below links to it."""
        self.work(self._write, "Writing the report ...")

    def _write(self, turn: Turn) -> None:
        from geowb.batch.reports import report

        page = report(self.folder)
        turn.check()
        link = Table(
            columns=[{"key": "page", "label": "report"}],
            rows=[{"key": "page", "cells": {"page": {"text": page.name, "file": str(page)}}}],
            home=str(Path.home()),
            label="Report",
        )
        kept = [one for one in self._stage.children if getattr(one, "label", "") != "Report"]
        self._stage.children = (*kept, link)
        self.say(f"The report is {page}.")

    def picture(self) -> bytes | None:
        """PNG of the table, or of the plot that is shown."""
        from geowb.widgets.stored import card

        if self._frame is None or self.state == "error":
            return super().picture()
        done, units = self._done(), self._frame.attrs["units"]
        if self.view == "scatter" and len(done) and self.x and self.y:
            return runplots.draw_scatter(done, self.x, self.y, self.colour, units)
        axes = runplots.axes_of(done, self._axis_names())
        if self.view == "parallel" and len(done) > 1 and len(axes) > 1:
            return runplots.draw_parallel(done, axes, self.colour)
        shown = ["run", "status", *self._varied[:3], *self._key_metrics[:3]]
        rows = [[runtable.plain(row[name]) for name in shown] for _, row in self._frame.iterrows()]
        names = [runplots.short(name, 22) for name in shown]
        return card(f"Runs in {Path(self.folder).name}", [self.message], names, rows)

    def __repr__(self) -> str:
        return f"RunsExplorer({Path(self.folder).name!r}, {len(self._records)} runs)"


def _claim_cells(one: dict[str, Any]) -> dict[str, Any]:
    text, tone = _VERDICT_SIGNS.get(one["verdict"], (one["verdict"], ""))
    unit = one["about"].unit
    return {
        "claim": one["about"].says,
        "verdict": {"text": text, "tone": tone},
        "data": one["data"],
        "n": one["n"] or None,
        "mean": {"text": f"{one['mean']:.3g} {unit}".strip(), "sort": one["mean"]}
        if one["mean"] is not None
        else None,
    }
