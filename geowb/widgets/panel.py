"""What all widgets share: states, errors in sight, work beside the kernel's own, a picture."""

from __future__ import annotations

import functools
import html
import operator
import os
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import ipywidgets
import traitlets as t

from geowb.batch.outputs import VIEW
from geowb.errors import GeowbError, RequestError, did_you_mean
from geowb.widgets.parts import Head
from geowb.widgets.work import Latest, Turn

__all__ = ["Panel", "Thing", "discard", "escaped", "guarded", "note", "whole"]

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
        self._callback_failed = False  # a new action: what failed before is past
        try:
            return call(self, *args, **options)
        except Exception as error:  # noqa: BLE001 - Jupyter drops what a callback raises
            self.fail(error)
            self._callback_failed = True

    return shown  # type: ignore[return-value]


class Thing(t.Any):
    """A trait that tells of each time it is set; ``==`` of arrays would not say whether it changed.

    >>> class Mine(Panel):
    ...     scene = Thing(None)
    """

    def set(self, obj: Any, value: Any) -> None:
        """Set it, and tell who observes it."""
        new, old = self._validate(obj, value), obj._trait_values.get(self.name)
        obj._trait_values[self.name] = new
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
        self._aside = Latest(self.fail)
        self._storing = Latest(self.fail, delay=_QUIET)
        self._handle: Any = None
        self._callback_failed = False
        super().__init__([self._head, *children], **traits)
        self.add_class("geowb-panel")
        self._head.on_stop(self.stop)

    def take(self, traits: dict[str, Any]) -> None:
        """Set traits that were given by name; a RequestError for a name that is none."""
        own = [name for name in type(self).class_own_traits() if not name.startswith("_")]
        for name in traits:
            if name not in own:
                raise RequestError(
                    f"{type(self).__name__} has no '{name}'. {did_you_mean(name, own)}"
                )
        for name, value in traits.items():
            setattr(self, name, value)

    # --- states ---

    def say(self, message: str, state: str = "result") -> None:
        """Set the sentence under the title, and the state; an error that stood there is gone.

        What a callback raised stays until the next action, though work that it began ends well.
        """
        if self._callback_failed:
            self._head.fraction, self._head.stoppable = None, False
            return
        with self._head.hold_sync():
            self._head.detail = ""
            self._head.fraction, self._head.stoppable = None, False
            self._head.text, self._head.state = message, state
        self.error, self.message, self.state = None, message, state
        if state != "loading":
            self._store()

    def fail(self, error: Exception) -> None:
        """Show an error: the sentence of one of geowb's own, else its traceback too."""
        self._show_error(error)
        self._store()

    def _show_error(self, error: Exception) -> None:
        told = str(error) if isinstance(error, GeowbError) else f"{type(error).__name__}: {error}"
        own = isinstance(error, GeowbError)
        with self._head.hold_sync():
            self._head.detail = "" if own else "".join(traceback.format_exception(error))
            self._head.fraction, self._head.stoppable = None, False
            self._head.text, self._head.state = told, "error"
        self.error, self.message, self.state = error, told, "error"

    # --- work ---

    def work(self, job: Callable[[Turn], None], message: str = "") -> None:
        """Have `job` done beside the kernel's own work; the newest that is asked for wins.

        With a `message` the panel says so meanwhile, with a bar and a button that stops it: `job`
        calls ``turn.at(fraction)`` now and then, which ends it when it was stopped.
        """
        if not message:
            self._work.ask(job)
            return
        before = (self.message, self.state)
        self._begin(message)
        self._work.ask(self._ending(job, before), self._at)

    def _ending(self, job: Callable[[Turn], None], before: tuple[str, str]) -> Callable[..., None]:
        """Say what was said before where a job ends with nothing to say."""

        def done(turn: Turn) -> None:
            job(turn)
            if not turn.over and self.state == "loading":
                self.say(*before)

        return done

    def aside(self, job: Callable[[Turn], None], message: str) -> None:
        """Have `job` done beside `work`, which it does not stop: a report, a map."""
        before = (self.message, self.state)
        self._begin(message)
        self._aside.ask(self._ending(job, before), self._at)

    def _begin(self, message: str) -> None:
        self._callback_failed = False
        with self._head.hold_sync():
            self._head.text, self._head.state, self._head.detail = message, "loading", ""
            self._head.fraction, self._head.stoppable = -1.0, True
        self.message, self.state = message, "loading"

    def _at(self, fraction: float, text: str) -> None:
        if self.state != "loading":
            return  # an error is shown
        if text:
            self._head.text = text
        self._head.fraction = float(fraction)

    def stop(self) -> None:
        """Stop what goes on; what was shown before stays."""
        if self._halt():
            self.say("Stopped.", "result")

    def _halt(self) -> bool:
        """Stop all work; tell whether there was any."""
        return any([self._work.stop(), self._aside.stop()])

    def wait(self, seconds: float | None = 60.0) -> bool:
        """Wait until nothing goes on and the stored picture shows it; tell whether it came to that.

        >>> Panel().wait()
        True
        """
        done = self._work.wait(seconds) and self._aside.wait(seconds)
        if self._storing.stop():
            self._store_now(Turn())
        return done

    def close(self) -> None:
        """End the widget, its work and its parts."""
        if not hasattr(self, "_storing"):
            return  # it never came to be
        self._halt()
        self._storing.stop()
        discard([*self.children, self.layout, *vars(self).values()])
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
        if (bundle := self._stored()) is not None:
            # One number for all cells that show this widget, so that all keep the last picture.
            number = self._handle.display_id if self._handle else True
            told = {"raw": True, "metadata": {"geowb": "picture"}}
            self._handle = display(bundle, display_id=number, **told)
            self._head.stored = True

    def _stored(self) -> dict[str, Any] | None:
        """Picture and sentence, as a bundle; None where it cannot be drawn, which is shown."""
        from base64 import b64encode

        try:
            png = self.picture()
        except Exception as error:  # noqa: BLE001 - the widget itself works
            self._show_error(error)
            return None
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


def discard(held: Iterable[Any]) -> None:
    """Close the widgets among some things, and all that is inside them.

    >>> box = ipywidgets.VBox([ipywidgets.Button()])
    >>> discard([box])
    >>> box.comm is None
    True
    """
    found: dict[str, ipywidgets.Widget] = {}
    waiting = [one for one in held if isinstance(one, ipywidgets.Widget)]
    while waiting:
        one = waiting.pop()
        if one.comm is not None and one.model_id not in found:
            found[one.model_id] = one
            waiting += getattr(one, "children", ())
            looks = (getattr(one, name, None) for name in ("layout", "style"))
            waiting += [look for look in looks if isinstance(look, ipywidgets.Widget)]
    for one in found.values():
        one.close()


def whole(name: str, value: Any, meant: Sequence[str]) -> tuple[int, ...]:
    """Whole numbers of a trait such as ``(row, column)``; a TraitError where it is none.

    >>> whole("pixel", [3, 4], ("row", "column"))
    (3, 4)
    """
    try:
        numbers = tuple(operator.index(one) for one in value)
    except TypeError:
        numbers = ()
    if len(numbers) != len(meant) or isinstance(value, (str, dict)):
        raise t.TraitError(
            f"{name} is {value!r}: it is {', '.join(meant)}, {len(meant)} whole numbers."
        )
    return numbers


def escaped(text: Any) -> str:
    """Text that is safe in HTML.

    >>> escaped("a < b")
    'a &lt; b'
    """
    return html.escape(str(text))
