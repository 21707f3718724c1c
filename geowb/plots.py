"""Static pictures of scenes and results: HoloViews elements on matplotlib.

Each function returns a HoloViews element; `show` stores it as a PNG, in the notebook and in the run
directory, so that an executed notebook reads well without a kernel and without a network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geowb.errors import DataError

if TYPE_CHECKING:
    import holoviews as hv
    import xarray as xr
    from IPython.display import Image

__all__ = [
    "bars",
    "curves",
    "layout",
    "lines",
    "loss_curve",
    "matrix",
    "picture",
    "raster",
    "reconstructions",
    "residuals",
    "rgb",
    "scatter",
    "shots",
    "show",
    "stretched",
]

#: Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def holoviews() -> Any:
    """Import HoloViews with its matplotlib backend, without a trace in the page."""
    import holoviews as hv
    import holoviews.plotting.mpl  # registers the backend; hv.extension would write to the page

    hv.Store.set_current_backend("matplotlib")
    return hv


def _north_up(grid: Any) -> Any:
    return grid if float(grid.y[0]) >= float(grid.y[-1]) else grid.isel(y=slice(None, None, -1))


def _frame(grid: xr.Dataset | xr.DataArray) -> tuple[tuple[float, float, float, float], str, str]:
    """Left, bottom, right, top with labels: degrees, or kilometres from the lower left corner."""
    import rioxarray  # noqa: F401 - gives .rio

    steps, crs = _steps(grid), grid.rio.crs
    if crs is not None and crs.is_geographic:
        west, south = (float(grid[d].min()) - step / 2 for d, step in zip("xy", steps, strict=True))
        east, north = (float(grid[d].max()) + step / 2 for d, step in zip("xy", steps, strict=True))
        return (west, south, east, north), "longitude (degrees)", "latitude (degrees)"
    metre = crs.linear_units_factor[1] if crs is not None and crs.is_projected else 1.0
    width, height = (grid.sizes[d] * s * metre / 1000 for d, s in zip("xy", steps, strict=True))
    return (0.0, 0.0, width, height), "east (km)", "north (km)"


def _steps(grid: xr.Dataset | xr.DataArray) -> list[float]:
    """Edges of a pixel along x and y; those of a side one pixel long are the stored ones, or 30."""
    steps = {d: abs(float(grid[d][1] - grid[d][0])) for d in "xy" if grid.sizes[d] > 1}
    mapping = grid.rio.grid_mapping
    if len(steps) < 2 and mapping in grid.coords and "GeoTransform" in grid[mapping].attrs:
        stored = grid.rio.transform()
        steps = {"x": abs(stored.a), "y": abs(stored.e)} | steps
    return [steps.get(d, 30.0) for d in "xy"]


def _axes(title: str, xlabel: str, ylabel: str) -> dict[str, Any]:
    return {
        "title": title,
        "xlabel": xlabel,
        "ylabel": ylabel,
        "xticks": 4,
        "yticks": 4,
        "aspect": "equal",
        "fontsize": {"title": 9, "labels": 8, "ticks": 7},
    }


def rgb(
    scene: xr.Dataset,
    bands: Sequence[str] = ("SWIR_1", "NIR_NARROW", "RED"),
    *,
    time: int = 0,
    like: xr.Dataset | None = None,
    title: str = "",
) -> hv.RGB:
    """Show three bands of one date, each stretched between its 2nd and 98th percentile.

    >>> rgb(scene, ("RED", "GREEN", "BLUE"), title="Cerrado")  # doctest: +SKIP

    The axes are kilometres from the scene's lower left corner, or degrees where the CRS is
    geographic. No data is white. `like`, a scene of the same dates, gives the percentiles: without
    clouds, the ground is not dark.
    """
    hv = holoviews()
    planes = _north_up(scene["reflectance"])
    bounds, *labels = _frame(planes)
    missing = [b for b in bands if b not in planes["band"].values]
    if missing:
        raise DataError(f"The scene has no band '{missing[0]}': {', '.join(planes.band.values)}.")
    dim = "time" if "time" in planes.dims else "sample"
    values = planes.isel({dim: time}).sel(band=list(bands)).transpose("band", "y", "x").values
    held = None
    if like is not None:
        other = like["reflectance"].isel({dim: time}).sel(band=list(bands))
        held = other.transpose("band", "y", "x").values
    shown = (255 * stretched(values, held)).astype(np.uint8)
    return hv.RGB(shown, bounds=bounds).opts(**_axes(title, *labels))


def stretched(image: np.ndarray, like: np.ndarray | None = None) -> np.ndarray:
    """Stretch bands ``(C, ...)`` between their 2nd and 98th percentiles: ``(..., C)``, 0 to 1.

    >>> stretched(np.arange(12.0).reshape(3, 2, 2)).shape
    (2, 2, 3)

    `like` gives the percentiles, if it is not the image itself. NaN becomes 1, white.
    """
    held = image if like is None else like
    low, high = 0, 1
    if np.isfinite(held).any():
        low, high = np.nanpercentile(held, [2, 98], axis=tuple(range(1, held.ndim)))
    scaled = (np.moveaxis(image, 0, -1) - low) / np.maximum(high - low, 1e-6)
    return np.nan_to_num(np.clip(scaled, 0, 1), nan=1.0)


def picture(plane: np.ndarray, title: str = "", *, size: int = 8) -> hv.RGB:
    """Show ``(y, x, 3)``, 0 to 1, without axes; `size` is that of the title's letters.

    >>> picture(stretched(chip), "chip 1")  # doctest: +SKIP
    """
    height, width = plane.shape[:2]
    shown = holoviews().RGB((255 * plane).astype(np.uint8), bounds=(0, 0, width, height))
    return shown.opts(title=title, xaxis=None, yaxis=None, aspect="equal", fontsize={"title": size})


def raster(
    values: xr.DataArray,
    *,
    title: str = "",
    units: str | None = None,
    limits: tuple[float, float] | None = None,
    cmap: str = "viridis",
) -> hv.Image:
    """Show a quantity on its grid with a colour bar that carries its unit.

    >>> raster(scene.agb_dense, title="truth", limits=(0, 300))  # doctest: +SKIP
    """
    hv = holoviews()
    low, high = limits or tuple(np.nanpercentile(values.values, [1, 99]))
    unit = values.attrs.get("units", "") if units is None else units
    values = _north_up(values)
    bounds, *labels = _frame(values)
    element = hv.Image(values.values, bounds=bounds, vdims=["value"])
    return element.opts(
        **_axes(title, *labels),
        cmap=cmap,
        clim=(float(low), float(high)),
        colorbar=True,
        clabel=unit,
    )


def shots(
    labels: xr.DataArray,
    *,
    title: str = "",
    limits: tuple[float, float],
    cmap: str = "viridis",
) -> hv.Points:
    """Show sparse labels as points, coloured by value.

    >>> shots(scene.agb, title="GEDI shots", limits=(0, 300))  # doctest: +SKIP
    """
    hv = holoviews()
    labels = _north_up(labels)
    (left, bottom, right, top), *names = _frame(labels)
    rows, cols = np.nonzero(np.isfinite(labels.values))
    height, width = labels.shape
    table = {
        "east": left + (cols + 0.5) / width * (right - left),
        "north": top - (rows + 0.5) / height * (top - bottom),
        "value": labels.values[rows, cols],
    }
    points = hv.Points(table, ["east", "north"], ["value"])
    return points.opts(
        **_axes(title, *names),
        color="value",
        cmap=cmap,
        clim=limits,
        colorbar=True,
        clabel=labels.attrs.get("units", ""),
        s=4,
        xlim=(left, right),
        ylim=(bottom, top),
    )


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
    axes = _axes(title, f"observed ({units})", f"predicted ({units})")
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


def reconstructions(
    images: np.ndarray,
    predictions: np.ndarray,
    hidden: np.ndarray,
    bands: Sequence[str],
    *,
    shown: Sequence[str] = ("SWIR_1", "NIR_NARROW", "RED"),
    title: str = "",
) -> hv.Layout:
    """Show chips, what a masked model saw of them, and what it made of them, a row a date.

    >>> reconstructions(images, result.prediction, result.hidden, HLS6)  # doctest: +SKIP

    Parameters
    ----------
    images, predictions
        ``(N, C, T, H, W)`` in counts, NaN for no data (white).
    hidden
        ``(N, 1, T, H, W)`` bool; grey in the picture. In the last picture the pixels that were
        shown are the image's own.
    shown
        Bands for red, green and blue; the first three where there are none of these names.
    """
    names = list(bands)
    picked = [names.index(band) for band in shown if band in names]
    picked = picked if len(picked) == 3 else [min(i, len(names) - 1) for i in range(3)]
    panels = []
    for n, (image, prediction, off) in enumerate(zip(images, predictions, hidden, strict=True)):
        like = image[picked]
        for date in range(image.shape[1]):
            away = off[0, date][..., None]
            truth = stretched(image[picked, date], like)
            made = stretched(np.nan_to_num(prediction[picked, date], nan=-np.inf), like)
            views = (
                (f"chip {n + 1}, date {date + 1}", truth),
                ("shown", np.where(away, 0.5, truth)),
                ("reconstructed", np.where(away, made, truth)),
            )
            panels += [picture(plane, name) for name, plane in views]
    colours = ", ".join(names[i] for i in picked)
    told = f"{title}\nred, green, blue: {colours}; grey is hidden"
    return layout(panels, 3).opts(
        title=told.strip(), hspace=0.05, vspace=0.2, fontsize={"title": 9}
    )


def layout(elements: Sequence[Any], columns: int = 3, *, apart: float = 0.35) -> hv.Layout:
    """Put elements side by side, `columns` to a row.

    >>> layout([rgb(scene), raster(scene.agb_dense)])  # doctest: +SKIP

    Parameters
    ----------
    apart
        Space between two rows, as a share of a panel's height.
    """
    hv = holoviews()
    return (
        hv.Layout(list(elements)).cols(columns).opts(sublabel_format="", hspace=0.7, vspace=apart)
    )


def show(
    element: Any,
    file: str | Path,
    *,
    inches: float | tuple[float, float] = 3.0,
    dpi: int = 90,
) -> Image:
    """Store an element as a PNG of 256 colours and return it for display.

    >>> show(rgb(scene), run.figure("scene.png"))  # doctest: +SKIP

    Parameters
    ----------
    inches
        Height and width of one panel; or width and height of the whole.
    """
    import io

    import PIL.Image
    from IPython.display import Image

    hv = holoviews()
    figure = hv.renderer("matplotlib").get_plot(element.opts(fig_inches=inches)).state
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", facecolor="white")
    picture = PIL.Image.open(buffer).convert("RGB").quantize(256, dither=PIL.Image.Dither.NONE)
    picture.save(file, optimize=True)
    return Image(filename=str(file))
