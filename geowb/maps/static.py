"""Maps on paper: pictures that are stored in a notebook and need neither a kernel nor a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geowb.maps.looks import Picture, drawn
from geowb.plots.axes import frame, holoviews, on_grid

if TYPE_CHECKING:
    import holoviews as hv
    import xarray as xr

__all__ = ["plot_map"]

#: A picture is at most so many times wider than high, or higher than wide.
_LONGEST = 5.0
#: Class names in a column of the legend.
_ROWS = 18


def plot_map(
    source: str | Path | xr.DataArray,
    *,
    title: str = "",
    units: str | None = None,
    limits: tuple[float, float] | None = None,
    cmap: str = "viridis",
    classes: Mapping[int, str] | Sequence[str] | None = None,
    colours: Mapping[int, str] | Sequence[str] | None = None,
    size: int = 1024,
    variable: str = "",
) -> hv.Element:
    """Draw a map of any size: a quantity with a colour bar, or classes with a legend.

    >>> plot_map("agb.tif")  # doctest: +SKIP
    >>> plots.show(plot_map("agb.tif", limits=(0, 300)), "agb.png")  # doctest: +SKIP
    >>> plot_map("burnt.tif", classes={0: "not burnt", 1: "burnt"})  # doctest: +SKIP

    Parameters
    ----------
    source
        A GeoTIFF, a Zarr, or an array that is open, as `geowb.maps.open_map` takes it.
    units
        Of a quantity, beside the colour bar; the map's own if left out.
    limits
        Values at the ends of the colour bar; the 1st and 99th percentile of what is drawn if left
        out.
    cmap
        A colour map of matplotlib, for quantities.
    classes
        Names of classes by value, or in order from 0, where the map has none. A map is taken for
        classes if it names them, if it has a colour table, or if it has whole numbers without a
        unit, at most 32 different ones.
    colours
        Of classes, by value or in order; else those of the file's colour table, else Okabe and
        Ito's and more.
    size
        Pixels of an edge that are drawn at most. A larger map is read in parts, from its overviews
        if the file has them: means of a quantity in a file; of classes and of arrays the pixels in
        the middle, so that classes of a few pixels may be missing.
    variable
        Which variable of a Zarr; its first if left out.

    Returns
    -------
    holoviews.Image or holoviews.Overlay
        The axes are kilometres from the lower left corner, or degrees where the CRS is geographic.
        No data is white. A map longer than five times its width is drawn wider than it is; its axes
        say so.

    Raises
    ------
    RequestError
        If there is no such map, or limits, colours or size make no sense.
    DataError
        If the map cannot be read.
    """
    picture = drawn(
        source,
        size=size,
        variable=variable,
        units=units,
        limits=limits,
        cmap=cmap,
        classes=classes,
        colours=colours,
    )
    hv = holoviews()
    bounds, axes = _laid_out(picture, title)
    if not picture.given.any():
        white = np.full((*picture.given.shape, 3), 255, np.uint8)
        return hv.RGB(white, bounds=bounds).opts(**axes)
    if picture.look.classes is not None:
        return _classes(picture, bounds, axes)
    values = np.where(picture.given, picture.values, np.nan).astype(np.float32)
    look = picture.look
    bar = {"colorbar": True, "clabel": look.units, "cbar_width": 0.05 / min(1, axes["aspect"])}
    image = hv.Image(values, bounds=bounds, vdims=["value"])
    return image.opts(**axes, **bar, cmap=look.cmap, clim=look.limits)


def _classes(picture: Picture, bounds: tuple[float, ...], axes: dict[str, Any]) -> hv.Overlay:
    """Draw classes, with a square in the legend for each one that occurs."""
    from matplotlib.colors import to_rgb

    hv = holoviews()
    look = picture.look
    image = np.full((*picture.given.shape, 3), 255, np.uint8)
    squares = []
    for value in np.unique(picture.values[picture.given]).tolist():
        colour = look.colours[value]
        image[picture.given & (picture.values == value)] = np.multiply(to_rgb(colour), 255).round()
        # A point that lies nowhere: the legend alone shows it.
        point = hv.Points([(np.nan, np.nan)], label=look.classes[value])
        squares.append(point.opts(color=colour, marker="s", s=36, edgecolors="#808080"))
    left, bottom, right, top = bounds
    return hv.Overlay([hv.RGB(image, bounds=bounds), *squares]).opts(
        **axes,
        xlim=(left, right),
        ylim=(bottom, top),
        legend_position="right",
        legend_cols=-(-len(squares) // _ROWS),
        show_legend=True,
    )


def _laid_out(picture: Picture, title: str) -> tuple[tuple[float, ...], dict[str, Any]]:
    """Bounds of a picture, its title, what stands at its axes and how wide it is drawn."""
    found = picture.map
    if {"x", "y"} <= set(found.coords) and found.rio.crs is not None:
        bounds, *labels = frame(found)
    elif {"x", "y"} <= set(found.coords):  # in whatever unit
        bounds, labels = tuple(found.rio.bounds()), ["x", "y"]
    else:
        height, width = found.shape
        bounds, labels = (0.0, 0.0, float(width), float(height)), ["pixels", "pixels"]
    left, bottom, right, top = bounds
    wide = (right - left) / (top - bottom)
    if "degrees" in labels[0]:
        wide *= max(0.05, float(np.cos(np.radians((bottom + top) / 2))))
    aspect = min(max(wide, 1 / _LONGEST), _LONGEST)
    if aspect != wide:
        labels[0] += ", not to scale"
    if not picture.given.any():
        title = f"{title}: no data" if title else "no data"
    axes = on_grid(title, *labels)
    axes["fontsize"] |= {"legend": 7}
    if aspect < 0.5:
        axes["xticks"] = [(left, f"{left:.6g}"), (right, f"{right:.6g}")]
    if aspect > 2:
        axes["yticks"] = [(bottom, f"{bottom:.6g}"), (top, f"{top:.6g}")]
    return bounds, axes | {"aspect": aspect}
