"""Plots of many runs: parallel coordinates and scatter, live and stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from geowb.plots.axes import COLOURS, packed

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Axis", "axes_of", "draw_parallel", "draw_scatter", "parallel", "scatter", "short"]

_DPI = 100  # of a stored picture
_LEVELS = 12  # of a parameter that is not a number, on one axis


@dataclass(frozen=True)
class Axis:
    """One axis of parallel coordinates: where each run is on it, from 0 to 1, and its labels."""

    name: str
    places: np.ndarray
    labels: tuple[tuple[float, str], ...]


def _backed(plot: Any, _: Any) -> None:
    """Give the labels of the axes a background, so that lines do not cross them."""
    plot.handles["glyph"].update(background_fill_color="#ffffff", background_fill_alpha=0.85)


def short(name: str, most: int = 26) -> str:
    """Name of a metric or parameter that fits below an axis.

    >>> short("rmse/pretrained_swin_upernet/amazonia")
    'rmse/pretrain…net/amazonia'
    """
    name = name.removeprefix("parameter/")
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-(most - most // 2 - 1) :]}"


def _known(value: Any) -> bool:
    """Whether a parameter or metric has a value."""
    import pandas as pd

    return isinstance(value, list | tuple) or not pd.isna(value)


def as_text(value: Any) -> str:
    """Value of a parameter on an axis: lists with commas, empty ones in words."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "all"
    return (str(value) or "empty") if _known(value) else "not known"


def axes_of(frame: pd.DataFrame, names: Sequence[str]) -> list[Axis]:
    """Bring columns to axes from 0 to 1; what is no number gets a place for each of its values.

    >>> import pandas as pd
    >>> axes_of(pd.DataFrame({"seed": [0, 2]}), ["seed"])[0].labels
    ((0.0, '0'), (1.0, '2'))
    """
    import pandas as pd

    found = []
    for name in names:
        numbers = pd.to_numeric(frame[name], errors="coerce") if name in frame else None
        if numbers is None:
            continue
        known = frame[name].map(_known)
        values = numbers.to_numpy(float, na_value=np.nan)
        if np.isfinite(values).any() and frame[name].dtype.kind in "ifu":
            low, high = float(np.nanmin(values)), float(np.nanmax(values))
            width = high - low
            places = (values - low) / width if width else np.where(np.isfinite(values), 0.5, np.nan)
            ends = ((0.0, low), (1.0, high)) if width else ((0.5, low),)
            labels = tuple((at, f"{value:.4g}") for at, value in ends)
        else:
            texts = [
                as_text(one) if good else "" for one, good in zip(frame[name], known, strict=True)
            ]
            levels = sorted({text for text in texts if text})[:_LEVELS]
            step = 1 / max(len(levels) - 1, 1)
            where = {text: i * step if len(levels) > 1 else 0.5 for i, text in enumerate(levels)}
            places = np.array([where.get(text, np.nan) for text in texts])
            labels = tuple((at, short(text, 16)) for text, at in where.items())
        found.append(Axis(name, places, labels))
    return found


def parallel(frame: pd.DataFrame, axes: Sequence[Axis], colour: str, units: dict[str, str]) -> Any:
    """Draw a line a run through all axes; ``run`` is what a line says of itself."""
    from geowb.plots.axes import holoviews

    hv = holoviews(live=True)
    value = _colouring(frame, colour)
    rows = [
        {"axis": np.arange(len(axes)), "place": np.array([axis.places[i] for axis in axes])}
        | {"run": run, "value": value[i]}
        for i, run in enumerate(frame["run"])
    ]
    # Contours, whose lines are one thing each; a Path would be cut at each axis.
    lines = hv.Contours(rows, ["axis", "place"], ["run", "value"]).opts(
        **_coloured(frame, colour, units),
        **{"line_width": 2.5, "nonselection_alpha": 0.15, "tools": ["hover", "tap"]},
        hover_tooltips=[("run", "@run"), (colour, "@value")] if colour else [("run", "@run")],
        backend="bokeh",
    )
    marks = [(i, at, text) for i, axis in enumerate(axes) for at, text in axis.labels]
    texts = hv.Labels(marks, ["axis", "place"], "text").opts(
        text_font_size="9pt",
        text_align="left",
        xoffset=0.04,
        text_color="#212121",
        hooks=[_backed],
        backend="bokeh",
    )
    bars = [
        hv.VLine(i).opts(color="#8a8a8a", line_width=1, backend="bokeh") for i in range(len(axes))
    ]
    ticks = [(i, _labelled(axis.name, units)) for i, axis in enumerate(axes)]
    return hv.Overlay([*bars, lines, texts]).opts(
        **{"xticks": ticks, "xrotation": 18, "yaxis": None, "xlabel": "", "show_grid": False},
        **{"width": 1060, "height": 400, "ylim": (-0.08, 1.08), "active_tools": []},
        **{"xlim": (-0.15, len(axes) - 0.45), "show_legend": False, "title": ""},
        backend="bokeh",
    )


def scatter(frame: pd.DataFrame, x: str, y: str, colour: str, units: dict[str, str]) -> Any:
    """Draw a point a run; ``run`` is what a point says of itself."""
    import pandas as pd

    from geowb.plots.axes import holoviews

    hv = holoviews(live=True)
    table = pd.DataFrame({"run": frame["run"], "value": _colouring(frame, colour)})
    for axis, name in (("x", x), ("y", y)):
        numeric = frame[name].dtype.kind in "ifu"
        table[axis] = frame[name].astype(float) if numeric else frame[name].map(as_text)
    points = hv.Points(table, ["x", "y"], ["run", "value"])
    tips = [("run", "@run"), (x, "@x"), (y, "@y")] + ([(colour, "@value")] if colour else [])
    return points.opts(
        **_coloured(frame, colour, units),
        **{"size": 11, "line_color": "#212121", "nonselection_alpha": 0.25, "padding": 0.08},
        **{"tools": ["hover", "tap", "box_select"], "hover_tooltips": tips, "show_grid": True},
        **{
            "width": 820,
            "height": 420,
            "active_tools": [],
            "xrotation": 15,
            "legend_position": "right",
        },
        xlabel=_labelled(x, units, 70),
        ylabel=_labelled(y, units, 50),
        backend="bokeh",
    )


def _labelled(name: str, units: dict[str, str], most: int = 26) -> str:
    unit = units.get(name, "")
    return f"{short(name, most)} ({unit})" if unit and unit != "1" else short(name, most)


def _colouring(frame: pd.DataFrame, colour: str) -> Any:
    if not colour:
        return np.zeros(len(frame))
    if frame[colour].dtype.kind in "ifu" and frame[colour].nunique() > 6:
        return frame[colour].astype(float).to_numpy()
    return frame[colour].map(as_text).to_numpy()


def _coloured(frame: pd.DataFrame, colour: str, units: dict[str, str]) -> dict[str, Any]:
    """Options that colour by a column: a scale for numbers, Okabe and Ito's colours for others."""
    if not colour:
        return {"color": COLOURS[0]}
    value = _colouring(frame, colour)
    if value.dtype.kind == "f":
        return {"color": "value", "cmap": "viridis", "colorbar": True,
                "clabel": _labelled(colour, units, 40)}  # fmt: skip
    levels = sorted(set(value))
    cmap = {level: COLOURS[i % len(COLOURS)] for i, level in enumerate(levels)}
    return {"color": "value", "cmap": cmap}


# --- stored ---------------------------------------------------------------------------------------


def _shades(frame: pd.DataFrame, colour: str) -> tuple[list[Any], dict[str, str]]:
    """Colour of each run, and a legend where there are levels."""
    import matplotlib

    value = _colouring(frame, colour)
    if colour and value.dtype.kind == "f":
        low, high = np.nanmin(value), np.nanmax(value)
        scaled = (value - low) / (high - low or 1)
        return list(matplotlib.colormaps["viridis"](scaled)), {}
    levels = sorted(set(value)) if colour else []
    names = {level: COLOURS[i % len(COLOURS)] for i, level in enumerate(levels)}
    return [names.get(one, COLOURS[0]) for one in value], names


def draw_parallel(frame: pd.DataFrame, axes: Sequence[Axis], colour: str) -> bytes:
    """Draw the same as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    panel = figure.add_subplot()
    shades, names = _shades(frame, colour)
    for i in range(len(frame)):
        panel.plot(range(len(axes)), [axis.places[i] for axis in axes], color=shades[i], lw=1.6)
    for i, axis in enumerate(axes):
        panel.axvline(i, color="#8a8a8a", lw=0.8)
        for at, text in axis.labels:
            panel.text(i + 0.03, at, text, fontsize=7, va="center", parse_math=False)
    panel.set_xticks(range(len(axes)), [short(axis.name) for axis in axes], rotation=15, fontsize=7)
    panel.set_yticks([])
    _legend(panel, names, colour)
    return packed(figure, _DPI, even=True)


def draw_scatter(frame: pd.DataFrame, x: str, y: str, colour: str, units: dict[str, str]) -> bytes:
    """Draw the same as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4), layout="constrained")
    panel = figure.add_subplot()
    shades, names = _shades(frame, colour)
    places = [
        frame[name] if frame[name].dtype.kind in "ifu" else frame[name].map(as_text)
        for name in (x, y)
    ]
    panel.scatter(*places, c=shades, edgecolors="#212121", linewidths=0.5)
    panel.set_xlabel(_labelled(x, units, 70), fontsize=8)
    panel.set_ylabel(_labelled(y, units, 50), fontsize=8)
    panel.tick_params(labelsize=7)
    panel.grid(alpha=0.3)
    _legend(panel, names, colour)
    return packed(figure, _DPI, even=True)


def _legend(panel: Any, names: dict[str, str], colour: str) -> None:
    if names:
        from matplotlib.patches import Patch

        squares = [Patch(facecolor=shade, label=name) for name, shade in names.items()]
        panel.legend(handles=squares, title=short(colour), fontsize=7, title_fontsize=7)
