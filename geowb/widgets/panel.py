"""What all widgets share: states, errors in sight, work beside the kernel's own, a picture."""

from __future__ import annotations

import contextlib
import functools
import html
import os
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import ipywidgets
import traitlets as t

from geowb.batch.outputs import VIEW
from geowb.errors import GeowbError
from geowb.widgets.parts import Head
from geowb.widgets.work import Latest, Turn

__all__ = ["Panel", "Thing", "escaped", "guarded", "note"]

#: Seconds that a cell waits for the picture that it stores.
_PATIENCE = 10.0
#: Seconds of quiet before the stored picture is drawn again.
_QUIET = 0.8

F = TypeVar("F", bound=Callable[..., Any])


def guarded(call: F) -> F:
    """Show in the panel what one of its callbacks raises, which would be lost otherwise.

    >>> class Mine(Panel):
    ...     @guarded
    ...     def _pressed(self, _): ...
    """

    @functools.wraps(call)
    def shown(self: Panel, *args: Any, **options: Any) -> Any:
        try:
            return call(self, *args, **options)
        except Exception as error:  # noqa: BLE001 - Jupyter drops what a callback raises
            self.fail(error)

    return shown  # type: ignore[return-value]


class Thing(t.Any):
    """A trait that changes when it is another object; ``==`` of arrays says something else.

    >>> class Mine(Panel):
    ...     scene = Thing(None)
    """

    def set(self, obj: Any, value: Any) -> None:
        """Set it, and tell who observes it, where it is another object than before."""
        new, old = self._validate(obj, value), obj._trait_values.get(self.name)
        obj._trait_values[self.name] = new
        if new is not old:
            obj._notify_trait(self.name, old, new)


def note(text: str = "", **layout: Any) -> ipywidgets.HTML:
    """Make a text of a panel, as HTML; `escaped` what is not your own.

    >>> note("two dates").value
    'two dates'
    """
    made = ipywidgets.HTML(text, layout=layout)
    made.add_class("geowb-text")
    return made


class Panel(ipywidgets.VBox):
    """A widget with a title, a state and a place for errors; the base of all widgets of geowb.

    >>> class Counter(Panel):
    ...     def __init__(self):
    ...         super().__init__("Counter")
    ...         self.say("Nothing counted yet.", state="empty")
    >>> Counter().state
    'empty'

    `state` is ``empty``, ``loading``, ``result`` or ``error``; `message` is the sentence that
    stands under the title, `error` what was raised. A subclass draws by `work` and says what a
    stored notebook keeps by `picture`.
    """

    state = t.Enum(("empty", "loading", "result", "error"), "empty")
    message = t.Unicode("")
    error = t.Instance(Exception, allow_none=True)

    def __init__(self, title: str = "", children: tuple[Any, ...] = (), **traits: Any) -> None:
        self._head = Head(title=title)
        self._work = Latest(self.fail, stale=True)
        self._storing = Latest(self.fail, delay=_QUIET)
        self._handle: Any = None
        super().__init__([self._head, *children], **traits)
        self.add_class("geowb-panel")
        self._head.on_stop(self.stop)

    # --- states ---

    def say(self, message: str, state: str = "result") -> None:
        """Set the sentence under the title, and the state; an error that stood there is gone."""
        with self._head.hold_sync():
            self._head.detail = ""
            self._head.fraction, self._head.stoppable = None, False
            self._head.text, self._head.state = message, state
        self.error, self.message, self.state = None, message, state
        if state != "loading":
            self._store()

    def fail(self, error: Exception) -> None:
        """Show an error: the sentence of one of geowb's own, else its traceback too."""
        told = str(error) if isinstance(error, GeowbError) else f"{type(error).__name__}: {error}"
        own = isinstance(error, GeowbError)
        with self._head.hold_sync():
            self._head.detail = "" if own else "".join(traceback.format_exception(error))
            self._head.fraction, self._head.stoppable = None, False
            self._head.text, self._head.state = told, "error"
        self.error, self.message, self.state = error, told, "error"
        self._store()

    # --- work ---

    def work(self, job: Callable[[Turn], None], message: str = "") -> None:
        """Have `job` done beside the kernel's own work; the newest that is asked for wins.

        With a `message` the panel says so meanwhile, with a bar and a button that stops it: `job`
        calls ``turn.at(fraction)`` now and then, which ends it when it was stopped.
        """
        if message:
            self._begin(message)
        self._work.ask(job, self._at if message else None)

    def _begin(self, message: str) -> None:
        with self._head.hold_sync():
            self._head.text, self._head.state, self._head.detail = message, "loading", ""
            self._head.fraction, self._head.stoppable = -1.0, True
        self.message, self.state = message, "loading"

    def _at(self, fraction: float, text: str) -> None:
        if text:
            self._head.text = text
        self._head.fraction = float(fraction)

    def stop(self) -> None:
        """Stop what goes on; what was shown before stays."""
        if self._work.stop():
            self.say("Stopped.", "result")

    def wait(self, seconds: float | None = 60.0) -> bool:
        """Wait until nothing goes on and the stored picture shows it; tell whether it came to that.

        >>> Panel().wait()
        True
        """
        done = self._work.wait(seconds)
        if self._storing.stop():
            self._store_now(Turn())
        return done

    def close(self) -> None:
        """End the widget, its work and its parts."""
        self._work.stop()
        self._storing.stop()
        super().close()

    # --- what a notebook keeps ---

    def picture(self) -> bytes | None:
        """PNG of what is shown, for readers without a kernel; None where there is none."""
        from geowb.widgets.stored import card

        return card(self._head.title, [self.message])

    def _ipython_display_(self, **_: Any) -> None:
        """Show the living widget, and beside it the picture that stays when the kernel is gone.

        The outputs are marked in their metadata: what stores a notebook leaves out the view.
        """
        from IPython.display import display

        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        bundle = {"text/plain": repr(self), VIEW: view}
        display(bundle, raw=True, metadata={"geowb": "view", "process": os.getpid()})
        self._work.wait(_PATIENCE)
        with contextlib.suppress(ImportError):  # of what draws; the widget itself works
            if (bundle := self._stored()) is not None:
                told = {"raw": True, "metadata": {"geowb": "picture"}}
                self._handle = display(bundle, display_id=True, **told)

    def _stored(self) -> dict[str, Any] | None:
        """Picture and sentence, as a bundle."""
        from base64 import b64encode

        png = self.picture()
        if png is None:
            return None
        return {"text/plain": f"{self!r}: {self.message}", "image/png": b64encode(png).decode()}

    def _store(self) -> None:
        """Draw the stored picture again, when it has been quiet for a moment."""
        if self._handle is not None:
            self._storing.ask(self._store_now)

    def _store_now(self, turn: Turn) -> None:
        if (bundle := self._stored()) is not None:
            turn.check()
            self._handle.update(bundle, raw=True, metadata={"geowb": "picture"})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._head.title!r})"


def escaped(text: Any) -> str:
    """Text that is safe in HTML.

    >>> escaped("a < b")
    'a &lt; b'
    """
    return html.escape(str(text))
