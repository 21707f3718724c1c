"""Run a study from a form: its parameters, a profile, a sweep, progress, results."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets
import traitlets as t

from geowb.batch.checks import depends, filled, refusal, starting_values
from geowb.batch.grid import Plan, plan
from geowb.batch.progress import SweepProgress
from geowb.batch.studies import Study, find_studies, load_study
from geowb.errors import GeowbError, RequestError, RunFailed, did_you_mean
from geowb.widgets.form import Field, typed
from geowb.widgets.panel import Panel, discard, escaped, guarded, note
from geowb.widgets.parts import Table
from geowb.widgets.runtable import RunTable
from geowb.widgets.work import Turn

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["StudyRunner"]

_BETWEEN = 2.0  # seconds between two readings of the results
_DEFAULTS = "the cell's own values"


class StudyRunner(Panel):
    """Choose parameters of a study, run it, see what comes of it.

    >>> runner = StudyRunner("agb_transfer", profile="teaching")  # doctest: +SKIP
    >>> runner.parameters = {"regions": ["cerrado"]}  # doctest: +SKIP
    >>> runner.vary = {"label_density": "1, 0.5, 0.2"}; runner.repeat = 3  # doctest: +SKIP
    >>> runner.run(); runner.wait(600); runner.frame  # a pandas table  # doctest: +SKIP

    Runs are made by `geowb.batch.sweep`, in processes of their own: the notebook stays free, and
    what is done already is not done again.

    Parameters
    ----------
    study
        Name of a study, or the path of a notebook; the first of geowb's own if left out.
    **traits
        Any of those below, to begin with.

    Attributes
    ----------
    study
        Name or path.
    profile
        ``teaching``, ``full``, ``paper``, or ``""`` for the values of the parameters cell.
    parameters
        What was changed: name -> value.
    vary
        Parameters that take several values, as on the command line: ``"0..4"``, ``"1, 0.2"``. All
        combinations are run.
    repeat
        Seeds of each setting: 3 stands for the seeds 0, 1 and 2; 1 for the seed in the form.
    out
        Folder of the run directories; ``runs/STUDY`` if empty.
    again
        Whether runs that are done are done again.
    """

    study = t.Unicode("")
    profile = t.Unicode("teaching")
    parameters = t.Dict({})
    vary = t.Dict(value_trait=t.Unicode(), key_trait=t.Unicode())
    repeat = t.Int(1, min=1)
    out = t.Unicode("")
    again = t.Bool(False)

    def __init__(self, study: str | Path = "", **traits: Any) -> None:
        self._about: Study | None = None
        self._fields: dict[str, Field] = {}
        self._results: RunTable | None = None
        self._going: object = None  # stands for the runs that are being made
        super().__init__("Run a study", (self._make(),))
        self._connect()
        self._names = list(find_studies())
        known = self._names + ([str(study)] if str(study) not in ("", *self._names) else [])
        self._study.options = known
        first = str(study) or (self._names[0] if self._names else "")
        if not first:
            self.say("There are no studies here: give the path of a notebook.", "empty")
            return
        self.study = first
        self.take(traits)

    # --- parts ---

    def _make(self) -> ipywidgets.Box:
        style = {"style": {"description_width": "initial"}, "layout": {"width": "auto"}}
        self._study = ipywidgets.Dropdown(description="Study", **style)
        self._profile = ipywidgets.Dropdown(
            options=[(_DEFAULTS, "")], description="Profile", **style
        )
        self._find = ipywidgets.Text(
            placeholder="a parameter's name or words of its help",
            description="Find", **style | {"layout": {"width": "330px"}},
        )  # fmt: skip
        self._reset = ipywidgets.Button(description="Undo changes", layout={"width": "120px"})
        top = ipywidgets.HBox([self._study, self._profile, self._find, self._reset])
        top.add_class("geowb-gap")
        self._title, self._form = note(), ipywidgets.VBox()
        self._form.add_class("geowb-form")
        self._vary_name = ipywidgets.Dropdown(options=[""], description="Vary", **style)
        self._vary_values = ipywidgets.Text(
            placeholder="1, 0.5, 0.2 or 0..4", layout={"width": "190px"}
        )
        self._vary_add = ipywidgets.Button(
            description="Add",
            tooltip="Run the study for each of these values",
            layout={"width": "60px"},
        )
        self._repeat = ipywidgets.BoundedIntText(1, min=1, max=1000, description="Seeds", **style)
        self._repeat.layout.width = "130px"
        self._varied = ipywidgets.HBox()
        self._varied.add_class("geowb-gap")
        sweep = ipywidgets.HBox([self._vary_name, self._vary_values, self._vary_add, self._repeat])
        sweep.add_class("geowb-gap")
        self._run_button = ipywidgets.Button(
            description="Run", button_style="primary", layout={"width": "90px"}
        )
        self._again = ipywidgets.Checkbox(
            False, description="also what is done already", indent=False, layout={"width": "auto"}
        )
        self._judged = note(flex="1 1 300px")
        go = ipywidgets.HBox([self._run_button, self._again, self._judged])
        go.add_class("geowb-gap")
        go.add_class("geowb-line")
        self._live = note()
        self._table = Table(
            label="Results",
            home=Path.home().as_posix(),
            nothing="No runs yet: press Run.",
            max_height=260,
        )
        return ipywidgets.VBox(
            [top, self._title, self._form, sweep, self._varied, go, self._live, self._table]
        )

    def _connect(self) -> None:
        t.link(
            (self, "study"),
            (self._study, "value"),
            transform=(lambda v: v or None, lambda v: v or ""),
        )
        self._profile.observe(self._profile_moved, "value")
        t.link((self, "repeat"), (self._repeat, "value"))
        t.link((self, "again"), (self._again, "value"))
        self._find.observe(self._found, "value")
        self._reset.on_click(lambda _: setattr(self, "parameters", {}))
        self._vary_add.on_click(self._add_axis)
        self._run_button.on_click(self._start)

    # --- the form ---

    @t.validate("study")
    def _good_study(self, proposal: dict[str, Any]) -> str:
        name = proposal["value"]
        known = (*self._study.options, name) if name.endswith(".ipynb") else self._study.options
        if name and name not in known:
            raise t.TraitError(f"study is '{name}'. {did_you_mean(name, known)}")
        if name not in self._study.options:
            self._study.options = [*self._study.options, name]
        return name

    @t.validate("profile")
    def _good_profile(self, proposal: dict[str, Any]) -> str:
        name = proposal["value"]
        if self._about and name and name not in self._about.profiles:
            raise t.TraitError(f"profile is '{name}'. {did_you_mean(name, self._about.profiles)}")
        return name

    @t.validate("parameters", "vary")
    def _good_names(self, proposal: dict[str, Any]) -> dict[str, Any]:
        for name in proposal["value"]:
            if self._about and name not in self._fields:
                hint = did_you_mean(name, self._fields)
                raise t.TraitError(f"{self._about.name} has no parameter '{name}'. {hint}")
        return proposal["value"]

    @t.observe("study")
    @guarded
    def _studied(self, change: dict[str, Any]) -> None:
        if not change["new"]:
            return
        self._about, self._fields, self._results = None, {}, None
        old, self._form.children, self._run_button.disabled = self._form.children, (), True
        discard(old)
        self._title.value = self._judged.value = self._live.value = ""
        self._table.rows = []
        about = load_study(change["new"])
        self.parameters, self.vary, self.repeat = {}, {}, 1
        self._fields = {
            parameter.name: Field(about, parameter, self._field_changed)
            for parameter in about.parameters.values()
            if parameter.rules.get("role") != "run_dir"
        }
        self._form.children = tuple(field.box for field in self._fields.values())
        self._vary_name.options = ["", *self._fields]
        self._profile.options = [*((n, n) for n in about.profiles), (_DEFAULTS, "")]
        self._about = about
        first = "teaching" if "teaching" in about.profiles else ""
        self.profile = self.profile if self.profile in about.profiles else first
        self._profile.value = self.profile
        paper = f" (arXiv:{escaped(about.paper)})" if about.paper else ""
        self._title.value = f"<b>{escaped(about.title)}</b>{paper}. {escaped(about.summary)}"
        self._fill()
        self._show_results()

    @guarded
    def _profile_moved(self, change: dict[str, Any]) -> None:
        if self._about is not None and change["new"] is not None:
            self.profile = change["new"]

    @t.observe("profile", "parameters")
    @guarded
    def _changed(self, change: dict[str, Any]) -> None:
        if self._about is not None:
            if change["name"] == "profile":
                self._profile.value = change["new"]
            self._fill()

    def _fill(self) -> None:
        """Write into the form what a run would take: the cell, the profile, what was changed."""
        given = self.parameters
        for name, value in given.items():
            self._fields[name].value = value
        start = self._base(given)
        for name, field in self._fields.items():
            if name not in given:
                field.value = start.get(name, "")
            field.tell(changed=name in given)
        self._judge()

    def _base(self, given: dict[str, Any]) -> dict[str, Any]:
        """Values of the cell and the profile; what depends on another parameter, on its value."""
        start = starting_values(self._about, self.profile or None, given, [])
        usable = {n: self._fields[n].value for n in given if not self._fields[n].problem()}
        resolved = filled(self._about, start | usable)
        return {name: resolved[name] if depends(v) else v for name, v in start.items()}

    @guarded
    def _field_changed(self, name: str) -> None:
        field = self._fields[name]
        given = {n: v for n, v in self.parameters.items() if n != name}
        same = not field.problem() and field.value == self._base(given).get(name)
        self.parameters = given if same else given | {name: field.value}

    @guarded
    def _found(self, change: dict[str, Any]) -> None:
        for field in self._fields.values():
            field.box.layout.display = "" if field.matches(change["new"]) else "none"

    # --- sweeps ---

    @guarded
    def _add_axis(self, _: Any) -> None:
        name, values = self._vary_name.value, self._vary_values.value.strip()
        if name and values:
            self.vary = self.vary | {name: values}
            self._vary_values.value = ""

    @t.observe("out")
    @guarded
    def _moved_out(self, _: Any) -> None:
        if self._about is not None:
            self._judge()
            self._show_results()

    @t.observe("vary", "repeat")
    @guarded
    def _axes_changed(self, _: Any) -> None:
        chips = []
        for name, values in self.vary.items():
            chip = ipywidgets.Button(
                description=f"{name}: {values}  ✕",
                tooltip=f"Do not vary {name}",
                layout={"width": "auto"},
            )
            chip.on_click(lambda _, name=name: self._drop_axis(name))
            chips.append(chip)
        old, self._varied.children = self._varied.children, tuple(chips)
        discard(old)
        self._judge()

    @guarded
    def _drop_axis(self, name: str) -> None:
        self.vary = {n: v for n, v in self.vary.items() if n != name}

    def plan(self, *, checks: bool = False) -> Plan:
        """Values of all runs that `run` would make; a RequestError says what is wrong.

        >>> len(StudyRunner("agb_transfer").plan().values)  # doctest: +SKIP
        1
        """
        if self._about is None:
            raise RequestError("No study is chosen: set `study`.")
        asked = [field for name, field in self._fields.items() if name in self.parameters]
        if problems := [field.problem() for field in asked if field.problem()]:
            raise refusal(self._about, problems)
        return plan(self._about, checks=checks, **self._asked())

    def _asked(self) -> dict[str, Any]:
        """Say what is asked of a sweep: each parameter is one value, whatever it looks like."""
        repeat = self.repeat if self.repeat > 1 else None
        left = {"seed"} if repeat else set()
        grid: dict[str, Any] = {
            name: [self._fields[name].value]
            for name in self.parameters
            if name not in self.vary and name not in left
        }
        return {"grid": grid | self.vary, "profile": self.profile or None, "repeat": repeat}

    def _judge(self) -> None:
        """Say how many runs it would be, or what is wrong."""
        if self._about is None:
            return
        try:
            found = self.plan()
        except GeowbError as error:
            wrong, told = True, "cannot run like this: see what is marked with ✗"
            self._judged.value = f"<span class='geowb-problem'>✗ {escaped(error)}</span>"
        else:
            wrong, told, count = False, "is ready to run", len(found.values)
            text = f"{count} runs: {' × '.join(found.varied)}" if count > 1 else "1 run"
            self._judged.value = f"{text}, into <code>{escaped(self._folder())}</code>"
        if not self._going:  # else button and sentence are those of what goes on
            self._run_button.disabled = wrong
            self.say(f"{self._about.name} {told}.")

    def _folder(self) -> str:
        return self.out or f"runs/{self._about.name}"

    # --- running ---

    def run(self) -> None:
        """Make the runs beside the kernel's work; `wait` waits for them, `stop` ends them.

        Raises
        ------
        RequestError
            Runs go on already. What is wrong with the form is shown in it.
        """
        if self._going:
            raise RequestError(
                "Runs go on already: stop them first, or wait until they have ended."
            )
        self._start()

    @guarded
    def _start(self, _: Any = None) -> None:
        if self._about is None:
            self.say("Choose a study first.", "empty")
            return
        self.plan(checks=True)
        self._going, self._run_button.disabled = object(), True
        told = (self._about, self._asked(), self._folder(), self.again, self._going)
        self.work(partial(self._run, *told), f"{self._about.name}: starting ...")

    def _run(
        self,
        about: Study,
        asked: dict[str, Any],
        folder: str,
        again: bool,
        mine: object,
        turn: Turn,
    ) -> None:
        from geowb.batch.sweeps import sweep

        watch = partial(_Watch, self, turn)
        try:
            runs = sweep(about.path, **asked, out=folder, force=again, progress=watch)
        finally:
            self._show_results()
            if self._going is mine:
                self._going, self._live.value = None, ""
                self._judge()
        failed = [one for one in runs if one.error]
        told = f"{len(runs) - len(failed)} of {len(runs)} done"
        if not failed:
            self.say(f"{told}, in {folder}.")
            return
        error = failed[0].error
        first = (error["message"].splitlines() or [""])[0]
        what = f"{error['type']}{f', {first}' * bool(first)}"
        raise RunFailed(f"{told}, in {folder}. {failed[0].path.name} failed: {what}")

    def stop(self) -> None:
        """End the runs that go on; they are removed, what had ended is kept."""
        if self._halt():
            self._going, self._live.value = None, ""
            self._judge()
            self.say("Stopped: unfinished runs are removed, what had ended is kept.")

    def _show_results(self) -> None:
        """Read the folder's runs into the table."""
        from geowb.batch.results import read_runs

        folder = Path(self._folder()).expanduser() if self._about else Path()
        name = self._about.name if self._about else ""
        records = read_runs(folder)[::-1] if name and folder.is_dir() else []
        records = [one for one in records if one.study == name]
        self._results = RunTable.of(name, records) if records else None
        if self._results is None:
            self._table.rows = []
            return
        with self._table.hold_sync():
            self._table.columns, self._table.rows = self._results.columns(), self._results.rows()

    @property
    def frame(self) -> pd.DataFrame | None:
        """Table of the runs in the folder, the newest first; None where there are none."""
        return self._results.frame if self._results else None

    def picture(self) -> bytes | None:
        """PNG of what is chosen and, where there are runs, of their metrics."""
        from geowb.widgets.stored import card

        if self._about is None or self.state == "error":
            return super().picture()
        lines = [self._about.title, self.message]
        if self._results is not None:
            return card("Run a study", lines, *self._results.lines())
        rows = [
            [name, typed(field.parameter, field.value), field.parameter.help]
            for name, field in self._fields.items()
        ]
        return card("Run a study", lines, ["parameter", "value", "what it is"], rows, most=40)

    def __repr__(self) -> str:
        return f"StudyRunner({self.study!r})"


class _Watch(SweepProgress):
    """Progress of a sweep, in a runner: a bar for all of it, a line for each run that goes on."""

    def __init__(self, panel: StudyRunner, turn: Turn, title: str, runs: int) -> None:
        super().__init__(title, runs, shown=False)
        self._panel, self._turn = panel, turn
        self._cells: dict[str, tuple[str, int, int]] = {}
        self._noted: list[str] = []
        self._drawn = self._read = 0.0

    def begin(self, before: int, at_a_time: int) -> None:
        super().begin(before, at_a_time)
        self._draw(now=True)

    def going_on(self) -> None:
        self._turn.check()
        self._draw()

    def note(self, text: str) -> None:
        self._noted = [*self._noted, text][-6:]
        self._draw(now=True)

    def at(self, name: str, heading: str, cell: int, cells: int) -> None:
        super().at(name, heading, cell, cells)
        self._cells[name] = (heading or "start", cell, cells)
        self._draw()

    def gone(self, name: str) -> None:
        super().gone(name)
        self._cells.pop(name, None)

    def ended(self, name: str, status: str, seconds: float) -> None:
        super().ended(name, status, seconds)
        if time.monotonic() - self._read > _BETWEEN:  # a large folder takes time to read
            self._read = time.monotonic()
            self._panel._show_results()
        self._draw(now=True)

    def _draw(self, *, now: bool = False) -> None:
        if not now and time.monotonic() - self._drawn < 0.4:
            return
        self._drawn = time.monotonic()
        part = sum((cell - 1) / max(cells, 1) for _, cell, cells in self._cells.values())
        share = (self._ended + part) / max(self._runs, 1)
        text = f"{self._title}: {self._state()}"
        self._turn.at(share, text)
        lines = [
            f"<progress max='{cells}' value='{cell - 1}' aria-label='{escaped(name)}'></progress> "
            f"{escaped(name)}: {escaped(heading)} (cell {cell} of {cells})"
            for name, (heading, cell, cells) in self._cells.items()
        ]
        lines += [f"<span class='geowb-muted'>{escaped(text)}</span>" for text in self._noted]
        self._panel._live.value = "<br>".join(lines)
