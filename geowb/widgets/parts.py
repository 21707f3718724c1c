"""Pieces that are drawn in the browser: head of a panel, picture, table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import traitlets as t

__all__ = ["Head", "Picture", "Table", "static"]


def static(name: str) -> Path:
    """File that goes to the browser."""
    return Path(__file__).parent / "static" / name


class Head(anywidget.AnyWidget):
    """Title, state, progress and stop button of a panel.

    It also hides the picture that is stored beside a living panel, and brings the style sheet.
    """

    _esm = static("head.js")
    _css = static("geowb.css")
    title = t.Unicode("").tag(sync=True)
    state = t.Unicode("empty").tag(sync=True)
    text = t.Unicode("").tag(sync=True)
    detail = t.Unicode("").tag(sync=True)
    #: From 0 to 1, below 0 where nobody knows how far it is, None where nothing goes on.
    fraction = t.Float(None, allow_none=True).tag(sync=True)
    stoppable = t.Bool(False).tag(sync=True)
    #: Whether the next output of the cell is the picture that is stored of it.
    stored = t.Bool(False).tag(sync=True)

    def on_stop(self, call: Callable[[], None]) -> None:
        """Have `call` called when the stop button is pressed."""
        self.on_msg(lambda _, message, __: call() if message.get("kind") == "stop" else None)


class Picture(anywidget.AnyWidget):
    """A PNG on which a person chooses a pixel, draws a box, zooms and moves.

    Places are shares of the picture's width and height, from the upper left.
    """

    _esm = static("picture.js")
    png = t.Bytes(b"").tag(sync=True)
    #: Counts pictures; the page writes that of the one it shows into ``data-serial``.
    serial = t.Int(0).tag(sync=True)
    shown_width = t.Int(512).tag(sync=True)
    #: Row and column of the scene at the upper left.
    origin = t.List([0, 0]).tag(sync=True)
    #: Columns and rows of the scene that the picture shows: a step of the arrow keys.
    pixels = t.List([512, 512]).tag(sync=True)
    alt = t.Unicode("").tag(sync=True)
    caption = t.Unicode("").tag(sync=True)
    hint = t.Unicode("").tag(sync=True)
    legend = t.List([]).tag(sync=True)
    tool = t.Unicode("point").tag(sync=True)
    mark = t.List([]).tag(sync=True)
    box = t.List([]).tag(sync=True)

    def on_gesture(self, call: Callable[[str, list[float]], None]) -> None:
        """Have ``call(kind, numbers)`` called: point, box, move, zoom, whole, clear."""
        self.on_msg(lambda _, message, __: call(message["kind"], message["at"]))

    def show(self, png: bytes, **traits: Any) -> None:
        """Show another picture; what belongs to it changes with it, in one message."""
        with self.hold_sync():
            for name, value in traits.items():
                setattr(self, name, value)
            self.png, self.serial = png, self.serial + 1


class Table(anywidget.AnyWidget):
    """Rows that a person sorts and chooses.

    >>> table = Table(columns=[{"key": "name", "label": "name"}])
    >>> table.rows = [{"key": "a", "cells": {"name": "world"}}]

    A column has ``key``, ``label`` and, where wanted, ``unit``, ``help`` and ``kind`` (``num``,
    ``short``); a cell is a text, a number, or a mapping of ``text`` and, where wanted, ``sort``,
    ``tone`` (``good``, ``bad``), ``title`` and ``file``, which is opened when it is pressed.
    """

    _esm = static("table.js")
    columns = t.List([]).tag(sync=True)
    rows = t.List([]).tag(sync=True)
    selected = t.List([]).tag(sync=True)
    multiple = t.Bool(False).tag(sync=True)
    label = t.Unicode("").tag(sync=True)
    nothing = t.Unicode("Nothing here.").tag(sync=True)
    max_height = t.Int(300).tag(sync=True)
    #: Home folder, for which JupyterLab writes ``~``.
    home = t.Unicode("").tag(sync=True)


class Plot(anywidget.AnyWidget):
    """A plot of Bokeh; the page asks the kernel for BokehJS, so that no network is needed.

    `selected` are the rows of the plot's data source named ``rows`` that are chosen on the page.
    """

    _esm = static("plot.js")
    item = t.Dict({}).tag(sync=True)
    version = t.Unicode("").tag(sync=True)
    alt = t.Unicode("").tag(sync=True)
    serial = t.Int(0).tag(sync=True)
    selected = t.List([]).tag(sync=True)

    def __init__(self, **traits: Any) -> None:
        import bokeh

        super().__init__(version=bokeh.__version__, **traits)
        self.on_msg(self._asked)

    def _asked(self, _: Any, message: dict[str, Any], __: Any) -> None:
        if message.get("kind") == "bokeh":
            import bokeh

            code = Path(bokeh.__file__).parent / "server/static/js/bokeh.min.js"
            self.send({"kind": "bokeh"}, [code.read_bytes()])
