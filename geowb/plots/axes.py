"""What all pictures share: the backend, colours, axes on a grid, putting side by side, storing."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import holoviews as hv
    import xarray as xr
    from IPython.display import Image

__all__ = [
    "COLOURS",
    "frame",
    "holoviews",
    "layout",
    "north_up",
    "on_grid",
    "packed",
    "png",
    "show",
]

#: Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

_PLACING = threading.RLock()  # one thread at a time says how figures are drawn


def holoviews(*, live: bool = False) -> Any:
    """Import HoloViews with its matplotlib backend, without a trace in the page.

    >>> hv = holoviews(live=True)  # and with Bokeh's, for geowb.widgets.LivePlot

    ``hv.extension`` would write to the page, for Bokeh an address from which the page loads it.
    """
    import holoviews as hv
    import holoviews.plotting.mpl

    if live:
        import holoviews.plotting.bokeh

    if hv.Store.current_backend != "matplotlib":  # setting it builds all its options anew
        hv.Store.set_current_backend("matplotlib")
    return hv


def north_up(grid: Any) -> Any:
    """Turn a grid whose rows go from south to north."""
    return grid if float(grid.y[0]) >= float(grid.y[-1]) else grid.isel(y=slice(None, None, -1))


def frame(grid: xr.Dataset | xr.DataArray) -> tuple[tuple[float, float, float, float], str, str]:
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


def on_grid(title: str, xlabel: str, ylabel: str) -> dict[str, Any]:
    """Options of axes on which both sides have one scale, with few numbers and small letters."""
    return {
        "title": title,
        "xlabel": xlabel,
        "ylabel": ylabel,
        "xticks": 4,
        "yticks": 4,
        "aspect": "equal",
        "fontsize": {"title": 9, "labels": 8, "ticks": 7},
    }


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
    from IPython.display import Image

    Path(file).write_bytes(png(element, inches=inches, dpi=dpi))
    return Image(filename=str(file))


def png(element: Any, *, inches: float | tuple[float, float] = 3.0, dpi: int = 90) -> bytes:
    r"""Draw an element as the bytes of a PNG of 256 colours.

    >>> png(rgb(scene))[:4]  # doctest: +SKIP
    b'\x89PNG'

    Parameters
    ----------
    inches
        Height and width of one panel; or width and height of the whole.
    """
    hv = holoviews()
    with _placed_only():
        figure = hv.renderer("matplotlib").get_plot(element.opts(fig_inches=inches)).state
    return packed(figure, dpi)


def packed(figure: Any, dpi: int, *, even: bool = False) -> bytes:
    """Store a figure of matplotlib as the bytes of a PNG of 256 colours.

    With `even` they are spread over all colours that occur, so that lines keep theirs beside a
    photograph; else most go to what covers most.

    >>> len(packed(figure, dpi=90))  # doctest: +SKIP
    41872
    """
    import io

    import PIL.Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", facecolor="white")
    picture = PIL.Image.open(buffer).convert("RGB")
    spread = PIL.Image.Quantize.MAXCOVERAGE if even else PIL.Image.Quantize.MEDIANCUT
    picture = picture.quantize(256, spread, kmeans=int(even), dither=PIL.Image.Dither.NONE)
    buffer = io.BytesIO()
    picture.save(buffer, "png", optimize=True)
    return buffer.getvalue()


@contextlib.contextmanager
def _placed_only() -> Iterator[None]:
    """Have figures of this thread place their axes where they are asked to draw themselves.

    HoloViews draws the whole figure for the place of each colour bar, which takes most of the time
    of a picture with many panels.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with _PLACING:
        draw, mine = FigureCanvasAgg.draw, threading.get_ident()

        def place(canvas: FigureCanvasAgg) -> None:
            if threading.get_ident() != mine:
                draw(canvas)
                return
            for axes in canvas.figure.axes:
                axes.apply_aspect()

        FigureCanvasAgg.draw = place
        try:
            yield
        finally:
            FigureCanvasAgg.draw = draw
