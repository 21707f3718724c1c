"""HoloViews plots that can be zoomed and asked for values, in a page without a network."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import traitlets as t

from geowb.errors import RequestError
from geowb.plots import axes
from geowb.widgets.panel import Panel, Thing, guarded
from geowb.widgets.parts import Plot
from geowb.widgets.work import Turn

__all__ = ["LivePlot", "as_json"]

_EMPTY = "No plot yet: set `element`."
_RENDERING = threading.RLock()  # HoloViews keeps its options in one place


def as_json(element: Any, *, rows: str = "", chosen: Sequence[int] = ()) -> dict[str, Any]:
    """Make what BokehJS draws of a HoloViews element.

    >>> as_json(hv.Curve([1, 2]))["version"]  # doctest: +SKIP
    '3.9.2'

    Options are those of ``.opts(backend="bokeh")``.

    Parameters
    ----------
    rows
        Column of the data whose rows a person can choose on the page.
    chosen
        Numbers of the rows that are chosen to begin with.

    Raises
    ------
    RequestError
        If it is no HoloViews element, or one that only a server can draw.
    """
    import json

    from bokeh.document import Document
    from bokeh.embed import json_item
    from bokeh.models import ColumnDataSource

    hv = axes.holoviews(live=True)

    if not isinstance(element, hv.core.Dimensioned):
        raise RequestError(
            f"A {type(element).__name__} is no HoloViews element: give one such as "
            "hv.Curve(...), or what the functions of geowb.plots return."
        )
    if element.traverse(lambda one: one, [hv.HoloMap, hv.DynamicMap]):
        raise RequestError(
            "A HoloMap or DynamicMap needs a server behind it: show one frame, and set "
            "`plot.element` again from a slider's callback."
        )
    for kind in (hv.Table, hv.ItemTable, hv.Tiles):
        if element.traverse(lambda one: one, [kind]):
            raise RequestError(
                f"A {kind.__name__} needs more than BokehJS, or a network: show a table with "
                "pandas, a map with geowb.show_map."
            )
    with _RENDERING:
        plot = hv.renderer("bokeh").get_plot(element)
        figure = plot.state
        plot.document = Document()  # else the one of the process keeps each plot for ever
    for source in figure.select({"type": ColumnDataSource}) if rows else ():
        if rows in source.data:
            source.name, source.selected.indices = "rows", list(chosen)
    if getattr(figure, "toolbar", None) is not None:
        figure.toolbar.logo = None
    # A plain copy: what Bokeh hands out has numbers of NumPy in it.
    return json.loads(json.dumps(json_item(figure)))


class LivePlot(Panel):
    """A HoloViews plot that is zoomed, moved and asked for values; it needs no network.

    >>> hv = geowb.plots.holoviews(live=True)  # doctest: +SKIP
    >>> LivePlot(hv.Curve([1, 4, 9]))  # doctest: +SKIP

    `element` may be set again. The page gets BokehJS from the kernel, so the notebook stays small:
    it keeps a PNG that matplotlib draws.

    Parameters
    ----------
    element
        An element, overlay or layout. Its looks here are ``.opts(..., backend="bokeh")``, of the
        stored picture those of ``backend="matplotlib"``.
    title
        Stands above it.
    alt
        What it shows, in words, for those who do not see it.
    """

    element = Thing(None)

    def __init__(self, element: Any = None, *, title: str = "", alt: str = "") -> None:
        self._plot, self._alt = Plot(), alt
        super().__init__(title, (self._plot,))
        self.say(_EMPTY, "empty")
        self.element = element

    @t.observe("element")
    @guarded
    def _changed(self, change: dict[str, Any]) -> None:
        if change["new"] is not None:
            self.work(self._draw)
        elif change["old"] is not None:
            self._work.stop()
            self._plot.item = {}
            self.say(_EMPTY, "empty")

    def _draw(self, turn: Turn) -> None:
        element = self.element
        item = as_json(element)
        turn.check()
        with self._plot.hold_sync():
            self._plot.alt = self._alt or f"Plot: {type(element).__name__}"
            self._plot.serial += 1
            self._plot.item = item
        self.say("")

    def picture(self) -> bytes | None:
        """PNG of the element, drawn by matplotlib."""
        if self.element is None or self.error is not None:
            return super().picture()
        with _RENDERING:
            return axes.png(self.element.clone(), inches=4)
