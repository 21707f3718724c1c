"""One pixel of a scene over its dates or its bands: a table, a live plot, a stored one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from geowb.plots.axes import COLOURS

if TYPE_CHECKING:
    import pandas as pd

    from geowb.widgets.frames import Frames

__all__ = ["as_curves", "draw_series", "table_of"]

_MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "hex", "star")
_MPL = ("o", "s", "^", "D", "v", "h", "*")


def table_of(
    frames: Frames, dates: Sequence[int], values: np.ndarray, cloudy: np.ndarray
) -> pd.DataFrame:
    """Make a table of a pixel: a row a date, a column a band, and whether it is cloudy then."""
    import pandas as pd

    told = np.array(frames.dates, dtype=object) if frames.times is None else frames.times
    index = pd.Index(told[list(dates)], name=frames.axis or "date")
    table = pd.DataFrame(values, index=index, columns=frames.bands)
    return table.assign(cloudy=cloudy)


def _points(series: pd.DataFrame, frames: Frames) -> tuple[str, list[tuple[str, Any, np.ndarray]]]:
    """Tell what stands along the horizontal axis, and each line: name, places, values."""
    bands = list(frames.bands)
    if frames.axis == "time" and len(series) > 1:
        x = np.arange(len(series)) if frames.times is None else frames.times
        label = "date" if frames.times is not None else "number of the date"
        return label, [(band, x, series[band].to_numpy()) for band in bands]
    return "band", [("pixel", np.arange(len(bands)), series[bands].to_numpy()[0])]


def _known(y: np.ndarray, cloudy: np.ndarray, label: str) -> tuple[np.ndarray, np.ndarray]:
    """Tell which points of a line have a value, and which of these are joined: the clear ones."""
    known = np.isfinite(y)
    return known, known if label == "band" else known & ~cloudy


def as_curves(series: pd.DataFrame, frames: Frames, pixel: tuple[int, int]) -> tuple[Any, str]:
    """Draw a pixel as a live plot, and say in words what it shows; None where it has no bands."""
    from geowb.plots.axes import holoviews

    if not frames.bands:
        return None, ""
    hv = holoviews(live=True)
    label, lines = _points(series, frames)
    unit, drawn = frames.unit, []
    cloudy = series["cloudy"].to_numpy()
    for number, (name, x, y) in enumerate(lines):
        colour, mark = COLOURS[number % len(COLOURS)], _MARKERS[number % len(_MARKERS)]
        known, clear = _known(y, cloudy, label)
        line = hv.Curve((x[clear], y[clear]), label, unit, label=name)
        drawn.append(line.opts(color=colour, line_width=2, backend="bokeh"))
        fill = np.where(clear[known], colour, "#ffffff").tolist()
        points = hv.Scatter((x[known], y[known], fill), label, [unit, "fill"])
        style = {"line_color": colour, "fill_color": "fill", "marker": mark, "size": 8}
        tips = [(label, "@{date}{%F}")] if label == "date" else []
        tips.append((name, f"@{{{unit}}}{{0.###}}"))
        drawn.append(points.opts(**style, tools=["hover"], hover_tooltips=tips, backend="bokeh"))
    if not any(np.isfinite(y).any() for _, _, y in lines):
        return None, "The pixel has no data."
    ticks = {"xticks": list(enumerate(frames.bands)), "xrotation": 30} if label == "band" else {}
    title = f"Pixel row {pixel[0]}, column {pixel[1]}"
    title += "; hollow: cloudy" * bool(cloudy.any() and label != "band")
    overlay = hv.Overlay(drawn).opts(
        **{"width": 470, "height": 320, "title": title, "padding": 0.08, "show_grid": True},
        **{"legend_position": "right", "show_legend": label != "band", "active_tools": []},
        **ticks,
        backend="bokeh",
    )
    return overlay, _words(label, lines, unit, title)


def _words(label: str, lines: list[tuple[str, Any, np.ndarray]], unit: str, title: str) -> str:
    told = []
    for name, _, y in lines:
        known = y[np.isfinite(y)]
        if known.size:
            told.append(f"{name} from {known.min():.4g} to {known.max():.4g}")
    return f"{title}, {unit} by {label}: {', '.join(told) or 'no data'}."


def draw_series(axes: Any, series: pd.DataFrame, frames: Frames) -> None:
    """Draw the same on axes of matplotlib."""
    if not frames.bands:
        axes.set_axis_off()
        return
    label, lines = _points(series, frames)
    cloudy = series["cloudy"].to_numpy()
    for number, (name, x, y) in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        known, clear = _known(y, cloudy, label)
        axes.plot(x[clear], y[clear], color=colour, label=name, linewidth=1.5)
        for which, fill in ((clear, colour), (known & ~clear, "white")):
            axes.plot(
                *(x[which], y[which], _MPL[number % len(_MPL)]),
                **{"color": colour, "markerfacecolor": fill, "markersize": 5},
            )
    axes.set_ylabel(frames.unit, fontsize=8)
    axes.set_xlabel(label, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    if label == "band":
        axes.set_xticks(range(len(frames.bands)), frames.bands, rotation=30, ha="right")
    else:
        axes.tick_params(axis="x", rotation=30)
        axes.legend(fontsize=7)
    axes.set_title("the chosen pixel" + "; hollow: cloudy" * bool(cloudy.any()), fontsize=9)
