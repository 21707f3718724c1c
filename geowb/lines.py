"""A line that tells how far long work has come, in a notebook, on a terminal or in a log."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["Line", "duration"]


class Line:
    """A line that is rewritten: in a notebook and on a terminal in place, else only now and then.

    >>> line = Line()
    >>> line.show("step 10/100", lasting=True)  # on standard error

    In a log only what is `lasting` is written.
    """

    def __init__(self) -> None:
        self._handle: Any = None
        self._length = 0

    def show(self, text: str, *, lasting: bool = True) -> None:
        """Show `text` in place of what was shown before."""
        from IPython import get_ipython

        if get_ipython() is not None:
            self._display(text)
        elif sys.stderr.isatty():
            end = "\n" if lasting else ""
            print(f"\r{text:<{self._length}}", end=end, file=sys.stderr, flush=True)  # noqa: T201
            self._length = 0 if lasting else len(text)
        elif lasting:
            print(text, file=sys.stderr, flush=True)  # noqa: T201

    def _display(self, text: str) -> None:
        from IPython.display import display

        data = {"text/plain": text}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)


def duration(seconds: float) -> str:
    """Write seconds for a reader.

    >>> duration(59.4), duration(754), duration(7384)
    ('59 s', '13 min', '2.1 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
