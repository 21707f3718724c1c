"""Work beside the kernel's own: one thing at a time, and only the newest of what is asked for."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

__all__ = ["Latest", "Stopped", "Turn"]


#: Seconds between two messages to the page on how far work is.
_BETWEEN = 0.1


class Stopped(Exception):
    """The work was stopped, or something newer was asked for."""


class Turn:
    """What a piece of work is given: it asks now and then whether to go on, and says how far it is.

    >>> turn = Turn()
    >>> turn.check()  # raises Stopped when it is time to end
    """

    def __init__(self, report: Callable[[float, str], None] | None = None) -> None:
        self.over = False
        self._report, self._told = report, 0.0

    def check(self) -> None:
        """Raise Stopped when it was stopped."""
        if self.over:
            raise Stopped

    def at(self, fraction: float, text: str = "") -> None:
        """Say how far the work is, from 0 to 1; below 0 where nobody knows."""
        self.check()
        if self._report and time.monotonic() - self._told > _BETWEEN:
            self._told = time.monotonic()
            self._report(fraction, text)


class Latest:
    """A thread that does the newest of what it is asked, and leaves out what came between.

    >>> drawing = Latest(print)
    >>> drawing.ask(lambda turn: None)
    >>> drawing.wait(5)
    True

    Parameters
    ----------
    failed
        Is told of what a piece of work raises.
    stale
        Whether work that goes on is stopped when something newer is asked for.
    delay
        Seconds of quiet before anything is begun.

    The thread starts when there is work and ends when there is none.
    """

    def __init__(
        self, failed: Callable[[Exception], None], *, stale: bool = False, delay: float = 0.0
    ) -> None:
        self._failed, self._stale, self._delay = failed, stale, delay
        self._changed = threading.Condition()
        self._next: tuple[Callable[[Turn], None], Turn] | None = None
        self._turn: Turn | None = None
        self._thread: threading.Thread | None = None
        self._asked = 0.0

    def ask(
        self,
        job: Callable[[Turn], None],
        report: Callable[[float, str], None] | None = None,
    ) -> None:
        """Have `job` done next, in place of what has not begun."""
        with self._changed:
            self._next, self._asked = (job, Turn(report)), time.monotonic()
            if self._stale and self._turn:
                self._turn.over = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._go, daemon=True, name="geowb-widget")
                self._thread.start()
            self._changed.notify_all()

    def stop(self) -> bool:
        """End what goes on, forget what is next; tell whether there was anything."""
        with self._changed:
            busy = bool(self._turn or self._next)
            self._next = None
            if self._turn:
                self._turn.over = True
            self._changed.notify_all()
            return busy

    @property
    def busy(self) -> bool:
        """Whether there is work."""
        return bool(self._turn or self._next)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until there is no work; tell whether that came in time."""
        if threading.current_thread() is self._thread:
            return False  # a callback of the work itself
        with self._changed:
            return self._changed.wait_for(lambda: self._thread is None, seconds)

    def _go(self) -> None:
        try:
            while (found := self._take()) is not None:
                self._do(*found)
        finally:
            with self._changed:
                if self._thread is threading.current_thread():  # it did not end of itself
                    self._turn = self._thread = None
                    self._changed.notify_all()

    def _do(self, job: Callable[[Turn], None], turn: Turn) -> None:
        try:
            job(turn)
        except Stopped:
            pass
        except Exception as error:  # noqa: BLE001 - nobody else would see it
            if not turn.over:
                self._tell(error)
        finally:
            with self._changed:
                self._turn = None

    def _tell(self, error: Exception) -> None:
        try:
            self._failed(error)
        except Exception:  # who observes the error raises itself
            logging.getLogger(__name__).exception("A callback failed while an error was shown.")

    def _take(self) -> tuple[Callable[[Turn], None], Turn] | None:
        """Wait for quiet, then take what is next; None, and no thread any more, if nothing is."""
        with self._changed:
            while self._next and (left := self._asked + self._delay - time.monotonic()) > 0:
                self._changed.wait(left)
            found, self._next = self._next, None
            self._turn = found[1] if found else None
            if found is None:
                self._thread = None
                self._changed.notify_all()
            return found
