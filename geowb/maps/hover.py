"""What stands beside a map on a screen: the values under the mouse, and the legends."""

from __future__ import annotations

import asyncio
import math
from html import escape
from time import monotonic
from typing import Any

from geowb.errors import GeowbError
from geowb.maps.layers import Layer
from geowb.maps.looks import Look

__all__ = ["Hover", "explain"]

#: Seconds between two readings under the mouse.
_PAUSE = 0.05
_BOX = "font: 12px/1.4 sans-serif; padding: 4px 8px; background: white; color: black;"


class Hover:
    """Writes what is under the mouse into a control, and errors too.

    Events come faster than they are read: within a pause only the last one counts.
    """

    def __init__(self, shown: list[Layer]) -> None:
        from ipywidgets import HTML

        self.shown = shown
        self.line = HTML(self._boxed("Move the mouse over the map."))
        self._at = (0.0, 0.0)
        self._last = -math.inf
        self._later: asyncio.TimerHandle | None = None

    def __call__(self, **event: Any) -> None:
        """Take an event of the map."""
        if event.get("type") != "mousemove":
            return
        self._at = tuple(event["coordinates"])
        wait = self._last + _PAUSE - monotonic()
        if wait <= 0:
            self.read()
        elif self._later is None:
            self._later = _after(wait, self.read)

    def read(self) -> None:
        """Read what is under the mouse now."""
        from pyproj.exceptions import ProjError
        from rasterio.errors import RasterioError

        if self._later is not None:
            self._later.cancel()
        self._later, self._last = None, monotonic()
        lat, lon = self._at
        lon = (lon + 180) % 360 - 180
        told = "The value under the mouse could not be read."  # by an error that nobody expects
        try:
            lines = [
                f"<b>{escape(one.name)}</b>: {escape(one.told(lon, lat))}" for one in self.shown
            ]
            told = "<br>".join([*lines, f"{lat:.5f}, {lon:.5f}"])
        except (GeowbError, RasterioError, ProjError, OSError, ValueError) as error:
            told = f"{told} {type(error).__name__}: {escape(str(error))}"
        finally:
            self.line.value = self._boxed(told)

    @staticmethod
    def _boxed(text: str) -> str:
        return f'<div style="{_BOX}">{text}</div>'


def _after(seconds: float, call: Any) -> asyncio.TimerHandle | None:
    """Call later, where there is a loop that can, as in a notebook."""
    try:
        return asyncio.get_running_loop().call_later(seconds, call)
    except RuntimeError:
        return None


def explain(made: Any, shown: list[Layer]) -> None:
    """Add the line under the mouse and the legends."""
    from ipyleaflet import WidgetControl
    from ipywidgets import HTML

    if not shown:
        return
    hover = Hover(shown)
    made.on_interaction(hover)
    made.add(WidgetControl(widget=hover.line, position="bottomleft"))
    legends = "".join(_legend(one) for one in shown)
    told = f'<div style="{_BOX} max-height: 300px; overflow: auto;">{legends}</div>'
    made.add(WidgetControl(widget=HTML(told), position="bottomright"))


def _legend(layer: Layer) -> str:
    """Legend of a layer, in HTML."""
    title = f"<b>{escape(layer.name)}</b>"
    if layer.bands:
        return f"<div>{title}<br>red, green, blue:<br>{escape(', '.join(layer.bands))}</div>"
    if layer.look.classes is None:
        return f"<div>{title}{_bar(layer.look)}</div>"
    rows = [
        f'<div><span style="display: inline-block; width: 12px; height: 12px; margin-right: 6px; '
        f'vertical-align: -2px; background: {layer.look.colours[value]};"></span>{escape(name)}'
        "</div>"
        for value, name in layer.look.classes.items()
    ]
    return f"<div>{title}{''.join(rows)}</div>"


def _bar(look: Look) -> str:
    """Colour bar of a quantity, with its limits and its unit."""
    import matplotlib
    from matplotlib.colors import to_hex

    colours = matplotlib.colormaps[look.cmap]
    stops = ", ".join(to_hex(colours(n / 16)) for n in range(17))
    low, high = look.limits
    texts = (f"{low:.4g}", f"{(low + high) / 2:.4g}", f"{high:.4g} {escape(look.units)}".rstrip())
    ends = "".join(f"<span>{text}</span>" for text in texts)
    return (
        f'<div style="width: 180px; height: 12px; background: linear-gradient(to right, {stops});">'
        f'</div><div style="width: 180px; display: flex; justify-content: space-between;">{ends}'
        "</div>"
    )
