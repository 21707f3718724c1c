"""Charts of results: scatter, bars, lines, residuals, matrices, losses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geowb.plots.axes import COLOURS, holoviews, on_grid

if TYPE_CHECKING:
    import holoviews as hv

__all__ = ["bars", "curves", "lines", "loss_curve", "matrix", "residuals", "scatter"]


def scatter(pixels: pd.DataFrame, *, title: str = "", units: str = "Mg/ha") -> hv.Overlay:
    """Draw predicted against observed, a colour a scene, with the 1:1 line.

    >>> scatter(at_labels(model, test), title="U-Net")  # doctest: +SKIP
    """
    hv = holoviews()
    top = (
        float(np.nanmax(pixels[["observed", "predicted"]].to_numpy())) * 1.05 if len(pixels) else 1
    )
    line = hv.Curve([(0, 0), (top, top)]).opts(color="black", linewidth=1, linestyle="dashed")
    clouds = [
        hv.Points(part[["observed", "predicted"]].to_numpy(float), label=str(name)).opts(
            color=COLOURS[i % len(COLOURS)], s=9, alpha=0.6
        )
        for i, (name, part) in enumerate(pixels.groupby("scene"))
    ]
    axes = on_grid(title, f"observed ({units})", f"predicted ({units})")
    limits = {"xlim": (0, top), "ylim": (0, top), "legend_position": "top_left"}
    return hv.Overlay([*clouds, line]).opts(**axes, **limits, legend_cols=1)


def bars(table: pd.DataFrame, *, title: str = "", ylabel: str = "RMSE (Mg/ha)") -> hv.Bars:
    """Draw grouped bars: a group a row of the table, a colour a column; NaN is left out.

    >>> bars(pd.DataFrame({"U-Net": [35.3], "Swin": [40.1]}, index=["0-100"]))  # doctest: +SKIP
    """
    hv = holoviews()
    rows = [
        (str(row), str(column), float(value))
        for row, values in table.iterrows()
        for column, value in values.items()
        if np.isfinite(value)
    ]
    colours = list(COLOURS[: table.shape[1]])
    models = hv.Dimension("model", values=[str(column) for column in table])
    return hv.Bars(rows, [table.index.name or "group", models], "value").opts(
        title=title,
        ylabel=ylabel,
        xlabel=table.index.name or "",
        color=hv.Cycle(colours),
        aspect=2,
        multi_level=False,
        xlim=(-0.6, len(table) - 0.2),
        show_legend=True,
        legend_position="right",
    )


def curves(
    histories: Mapping[str, pd.DataFrame], *, title: str = "", ylabel: str = "RMSE (Mg/ha)"
) -> hv.Overlay:
    """Draw validation error against the epoch, a line a model.

    >>> curves({"U-Net": fit.history})  # doctest: +SKIP
    """
    hv = holoviews()
    last = max((len(history) for history in histories.values()), default=1)
    ticks = sorted({round(tick) for tick in np.linspace(1, last, 8)})
    lines = [
        hv.Curve((history["epoch"] + 1, history["val_rmse"]), "epoch", ylabel, label=name).opts(
            color=COLOURS[i % len(COLOURS)], linewidth=2, xticks=ticks
        )
        for i, (name, history) in enumerate(histories.items())
    ]
    axes = {"title": title, "aspect": 2, "show_grid": True}
    return hv.Overlay(lines).opts(legend_position="right", **axes)


def lines(
    table: pd.DataFrame, *, title: str = "", xlabel: str, ylabel: str = "RMSE (Mg/ha)"
) -> hv.Overlay:
    """Draw a line a column of the table against its index; NaN is left out.

    At most eight of the index are named; the vertical axis spans 5 % of what is on it or more, so
    that a difference of nothing does not look like a fall.

    >>> lines(pd.DataFrame({"U-Net": [80.0, 66.0]}, index=[0.1, 1.0]), xlabel="share of labels")
    ... # doctest: +SKIP
    """
    hv = holoviews()
    ticks, drawn = sorted(table.index), []
    ticks = ticks[(len(ticks) - 1) % (step := math.ceil(len(ticks) / 8) or 1) :: step]
    low, high = table.min(axis=None), table.max(axis=None)
    room = (0.05 * abs(low + high) / 2 - (high - low)) / 2
    axis = {"ylim": (low - room, high + room)} if room > 0 else {}
    for i, (name, values) in enumerate(table.items()):
        values = values.dropna().sort_index()
        style = {"color": COLOURS[i % len(COLOURS)]} | axis
        curve = hv.Curve((values.index, values), xlabel, ylabel, label=str(name))
        points = hv.Scatter((values.index, values), xlabel, ylabel)
        drawn += [curve.opts(linewidth=2, xticks=ticks, padding=0.06, **style)]
        drawn += [points.opts(s=25, padding=0.06, **style)]
    axes = {"title": title, "aspect": 1.6, "show_grid": True}
    return hv.Overlay(drawn).opts(legend_position="right", **axes)


def residuals(tables: Mapping[str, pd.DataFrame], *, title: str = "") -> hv.Overlay:
    """Draw predicted minus observed against observed biomass: median, quartiles, a colour a model.

    >>> residuals({"U-Net": evaluate.residuals(pixels)})  # doctest: +SKIP
    """
    hv = holoviews()
    axes = ("observed (Mg/ha)", "predicted - observed (Mg/ha)")
    top = max((float(t.index.max()) for t in tables.values() if len(t)), default=1.0) * 1.1
    drawn = [hv.Curve([(0, 0), (top, 0)], *axes).opts(color="black", linewidth=1, linestyle="--")]
    for i, (name, table) in enumerate(tables.items()):
        x = table.index + (i - (len(tables) - 1) / 2) * 0.012 * top  # side by side
        spread = (
            x,
            table["median"],
            table["median"] - table["low"],
            table["high"] - table["median"],
        )
        colour = COLOURS[i % len(COLOURS)]
        drawn += [
            hv.ErrorBars(spread, axes[0], [axes[1], "below", "above"]).opts(edgecolor=colour),
            hv.Curve((x, table["median"]), *axes, label=str(name)).opts(color=colour, linewidth=2),
        ]
    style = {"aspect": 1.6, "show_grid": True, "legend_position": "right", "title": title}
    return hv.Overlay(drawn).opts(xlim=(0, top), **style)


def matrix(
    table: pd.DataFrame,
    *,
    title: str = "",
    unit: str = "Mg/ha",
    limits: tuple[float, float] | None = None,
) -> hv.Overlay:
    """Show a table as coloured cells with their numbers: rows trained on, columns tested on.

    >>> matrix(pd.DataFrame({"cerrado": [20.0]}, index=["amazonia"]))  # doctest: +SKIP
    """
    hv = holoviews()
    values = table.to_numpy(float)
    height, width = values.shape
    low, high = limits or (np.nanmin(values), np.nanmax(values))
    names = [table.columns.name or "tested on", table.index.name or "trained on"]
    # An image with ticks: a categorical HeatMap of holoviews 1.22 writes rows beside other names.
    cells = hv.Image(values, names, unit, bounds=(0, 0, width, height)).opts(
        **{"title": title, "aspect": width / height, "xrotation": 20, "cmap": "Blues"},
        clim=(float(low), float(low + 1.6 * (high - low)) or 1.0),  # pale enough for black numbers
        xticks=[(i + 0.5, str(name)) for i, name in enumerate(table.columns)],
        yticks=[(height - i - 0.5, str(name)) for i, name in enumerate(table.index)],
        fontsize={"title": 9, "labels": 8, "ticks": 7},
    )
    texts = [
        (j + 0.5, height - i - 0.5, f"{value:.1f}" if np.isfinite(value) else "-")
        for (i, j), value in np.ndenumerate(values)
    ]
    return cells * hv.Labels(texts, names, "text").opts(color="black", size=8)


def loss_curve(history: pd.DataFrame, *, title: str = "") -> hv.Overlay:
    """Draw the loss of a pretraining against the step, on training and on held-out chips.

    >>> loss_curve(pretraining.history, title="swin_demo")  # doctest: +SKIP
    """
    hv = holoviews()
    held = history.dropna(subset=["held_out"]) if "held_out" in history else history[:0]
    ylabel = "loss of what is hidden"
    lines = [hv.Curve((history["step"], history["loss"]), "step", ylabel, label="training chips")]
    if len(held):
        lines.append(hv.Curve((held["step"], held["held_out"]), "step", ylabel, label="held out"))
    lines = [line.opts(color=COLOURS[i], linewidth=2) for i, line in enumerate(lines)]
    axes = {"aspect": 1.5, "show_grid": True, "logy": True}
    return hv.Overlay(lines).opts(title=title, legend_position="top_right", **axes)
