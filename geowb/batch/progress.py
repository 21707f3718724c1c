"""What a person sees of a run while it goes: cell, heading, time."""

from __future__ import annotations

import time
from types import TracebackType

from geowb.batch.kernel import Execution

__all__ = ["Progress"]


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
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        self._console = Console(stderr=True, quiet=not self._shown)
        self._print(f"{self._title}: kernel starts")
        if self._console.is_terminal and self._shown:
            text = TextColumn("{task.description}", markup=False)
            columns = (SpinnerColumn(), text, BarColumn(20), TimeElapsedColumn())
            self._bar = Bar(*columns, console=self._console, transient=True)
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
