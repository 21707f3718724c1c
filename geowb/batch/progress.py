"""What a person sees of runs while they go: cell, heading, time."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from geowb.batch.kernel import Execution
from geowb.lines import duration

__all__ = ["Progress", "SweepProgress"]

_SECONDS_BETWEEN_LINES = 20.0


class Progress:
    """A line on standard error that moves; without a terminal, a line for each heading.

    >>> with Progress("agb_transfer", cells=12) as progress:  # doctest: +SKIP
    ...     execute(..., execution=Execution(progress.show))
    """

    def __init__(self, title: str, cells: int, *, shown: bool = True) -> None:
        self._title, self._cells, self._shown = title, cells, shown
        self._heading, self._started, self._bar = "", time.monotonic(), None

    def __enter__(self) -> Progress:
        from rich.console import Console

        self._console = Console(stderr=True, quiet=not self._shown)
        self._print(f"{self._title}: kernel starts")
        if self._console.is_terminal and self._shown:
            self._bar = _bar(self._console)
            self._task = self._bar.add_task(f"{self._title}: kernel starts", total=self._cells)
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def show(self, execution: Execution) -> None:
        """Show that an execution has come to its next cell."""
        text = f"{self._title}: {execution.heading or 'start'}"
        where = f"cell {execution.number} of {self._cells}"
        if self._bar:
            done = execution.number - 1
            self._bar.update(self._task, description=f"{text} ({where})", completed=done)
        elif execution.heading != self._heading:
            self._print(f"{text} ({where}, {time.monotonic() - self._started:.0f} s)")
        self._heading = execution.heading

    def _print(self, text: str) -> None:
        if not self._bar and not self._console.is_terminal:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class SweepProgress:
    """How a sweep goes: done, running and under which heading, failed, time left.

    >>> with SweepProgress("agb_transfer", runs=24) as progress:  # doctest: +SKIP
    ...     progress.at("encoder=unet,seed=0", "Experiment", cell=7, cells=24)
    ...     progress.ended("encoder=unet,seed=0", run.status, run.seconds)

    On a terminal a bar for the whole and one for each run that goes; elsewhere
    a line for each run that has ended, and now and then one for the rest.
    """

    def __init__(self, title: str, runs: int, *, shown: bool = True) -> None:
        self._title, self._runs, self._shown = title, runs, shown
        self._before = self._done = self._failed = 0
        self._went: dict[str, str] = {}  # what is running, and where it is
        self._seconds: list[float] = []
        self._tasks: dict[str, Any] = {}
        self._bar, self._at_a_time, self._told = None, 1, 0.0

    def __enter__(self) -> SweepProgress:
        from rich.console import Console

        self._console = Console(stderr=True, quiet=not self._shown, highlight=False)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def begin(self, before: int, at_a_time: int) -> None:
        """Tell how many runs were done before, and how many are made at a time."""
        self._before, self._at_a_time, self._told = before, at_a_time, time.monotonic()
        told = f", {before} done before" if before else ""
        left = min(self._runs - before, at_a_time)
        self.note(f"{self._title}: {_count(self._runs, 'run')}{told}, {left} at a time")
        if self._console.is_terminal and self._shown:
            self._bar = _bar(self._console)
            self._whole = self._bar.add_task(self._state(), total=self._runs, completed=before)
            self._bar.start()

    def going_on(self) -> None:
        """Be asked twice a second whether to go on: what it raises ends the sweep."""

    def note(self, text: str) -> None:
        """Say something, above the bars if there are any."""
        self._console.print(text, markup=False, soft_wrap=True)

    def at(self, name: str, heading: str, cell: int, cells: int) -> None:
        """Show that a run has come to a cell."""
        moved = self._went.get(name) != heading
        self._went[name] = heading
        if self._bar:
            if name not in self._tasks:
                self._tasks[name] = self._bar.add_task("", total=cells)
            text = f"  {_cut(name)}: {heading or 'start'}"
            self._bar.update(self._tasks[name], description=text, completed=cell - 1, total=cells)
            self._bar.update(self._whole, description=self._state())
        elif moved and time.monotonic() - self._told > _SECONDS_BETWEEN_LINES:
            self._line()

    def gone(self, name: str) -> None:
        """Show that a run is not being made any more, by nobody's fault."""
        self._went.pop(name, None)
        if self._bar and name in self._tasks:
            self._bar.remove_task(self._tasks.pop(name))

    def ended(self, name: str, status: str, seconds: float) -> None:
        """Show that a run has ended."""
        self.gone(name)
        if status == "done":
            self._done += 1
            self._seconds.append(seconds)
        else:
            self._failed += 1
        if self._bar:
            self._bar.update(self._whole, completed=self._ended, description=self._state())
            if status != "done":
                self.note(f"{name} failed after {seconds:.0f} s")
        else:
            self.note(f"{self._title}: {name} {status} in {seconds:.0f} s; {self._state()}")
            self._told = time.monotonic()

    @property
    def _ended(self) -> int:
        return self._before + self._done + self._failed

    def _state(self) -> str:
        told = [f"{self._before + self._done} of {self._runs} done"]
        told += [f"{self._failed} failed"] if self._failed else []
        told += [f"{len(self._went)} running"] if self._went else []
        remaining = self._runs - self._ended
        if remaining and self._seconds:
            mean = sum(self._seconds) / len(self._seconds)
            rounds = max(1.0, remaining / self._at_a_time)
            told += [f"about {duration(mean * rounds)} left"]
        return ", ".join(told)

    def _line(self) -> None:
        went = "; ".join(f"{name}: {heading or 'start'}" for name, heading in self._went.items())
        self.note(f"{self._title}: {self._state()} ({went})")
        self._told = time.monotonic()


def _bar(console: Any) -> Any:
    """Bars that go when they are stopped: what is done, how far, for how long."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    text = TextColumn("{task.description}", markup=False)
    columns = (SpinnerColumn(), text, BarColumn(20), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _cut(name: str, most: int = 40) -> str:
    """Cut the middle: what tells runs apart is often at the end."""
    return name if len(name) <= most else f"{name[: most // 2 - 2]}...{name[-(most // 2 - 1) :]}"
