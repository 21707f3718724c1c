"""Pictures of scenes and chips: bands, quantities on a grid, labels, what a masked model made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from geowb.errors import DataError
from geowb.plots.axes import frame, holoviews, layout, north_up, on_grid

if TYPE_CHECKING:
    import holoviews as hv
    import xarray as xr

__all__ = ["picture", "raster", "reconstructions", "rgb", "shots", "stretched"]


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
    planes = north_up(scene["reflectance"])
    bounds, *labels = frame(planes)
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
    return hv.RGB(shown, bounds=bounds).opts(**on_grid(title, *labels))


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
    values = north_up(values)
    bounds, *labels = frame(values)
    element = hv.Image(values.values, bounds=bounds, vdims=["value"])
    return element.opts(
        **on_grid(title, *labels),
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
    labels = north_up(labels)
    (left, bottom, right, top), *names = frame(labels)
    rows, cols = np.nonzero(np.isfinite(labels.values))
    height, width = labels.shape
    table = {
        "east": left + (cols + 0.5) / width * (right - left),
        "north": top - (rows + 0.5) / height * (top - bottom),
        "value": labels.values[rows, cols],
    }
    points = hv.Points(table, ["east", "north"], ["value"])
    return points.opts(
        **on_grid(title, *names),
        color="value",
        cmap=cmap,
        clim=limits,
        colorbar=True,
        clabel=labels.attrs.get("units", ""),
        s=4,
        xlim=(left, right),
        ylim=(bottom, top),
    )


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
