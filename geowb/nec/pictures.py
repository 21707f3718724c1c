"""Pictures of compression: usefulness against size, images and embeddings at each rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geowb.plots import COLOURS, holoviews, layout

if TYPE_CHECKING:
    import holoviews as hv

__all__ = ["curves", "in_colours", "principal_colours", "rates"]

#: How each way of sending is drawn and called.
WAYS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "nec": (COLOURS[0], "NEC"),
        "uniform": (COLOURS[1], "uniform"),
        "uniform_channels": (COLOURS[4], "uniform, a range a channel"),
        "rounded": (COLOURS[5], "not adapted, entropy-coded"),
        "float16": (COLOURS[3], "float16"),
        "jpeg2000": (COLOURS[2], "JPEG 2000"),
        "full": (COLOURS[6], "images, zstd"),
    }
)
_LAYER = "_decoder"
#: Axes that a point may be drawn against.
_AXES = {
    "kib": "size of an image (KiB)",
    "bits_per_element": "bits an element of the embedding",
    "of_raw": "size (% of the uncompressed image)",
    "of_zstd": "size (% of the image with zstd)",
}


def _way(method: str) -> tuple[str, str, bool]:
    """Colour and name of a method, and whether a decoder layer comes with it."""
    name = method.removesuffix(_LAYER)
    colour, told = WAYS.get(name, (COLOURS[6], name))
    layer = method.endswith(_LAYER)
    return colour, f"{told} + decoder layer" if layer else told, layer


def curves(
    points: pd.DataFrame,
    *,
    x: str = "kib",
    ylabel: str = "accuracy (%)",
    title: str = "",
    published: pd.DataFrame | None = None,
    ylim: tuple[float, float] | None = None,
) -> hv.Overlay:
    """Draw a score against the size of an image, a line a method, with its intervals.

    >>> curves(points, title="scene classes", published=published("ucmerced"))  # doctest: +SKIP

    Solid lines have a layer of the decoder at the receiver, dashed ones have not.

    Parameters
    ----------
    points
        Columns method, score, `x`, and where there are intervals low and high.
    x
        ``kib``, ``bits_per_element``, ``of_raw`` or ``of_zstd``; the axis is logarithmic.
    published
        Points of the paper, drawn as hollow marks with thin lines, where `x` is ``kib``.
    """
    hv = holoviews()
    drawn = []
    for method, part in points.groupby("method", sort=False):
        colour, name, layer = _way(str(method))
        part = part.sort_values(x)
        dashes = "solid" if layer or method == "full" else "dashed"
        style = {"color": colour, "linewidth": 1.6, "linestyle": dashes}
        xy = (part[x], part["score"])
        drawn.append(hv.Curve(xy, _AXES[x], ylabel, label=name).opts(**style))
        drawn.append(hv.Scatter(xy, _AXES[x], ylabel).opts(color=colour, s=14))
        if {"low", "high"} <= set(part):
            spread = (*xy, part["score"] - part["low"], part["high"] - part["score"])
            bars = hv.ErrorBars(spread, _AXES[x], [ylabel, "below", "above"])
            drawn.append(bars.opts(edgecolor=colour, linewidth=0.7, capsize=1.5))
    for method, part in published.groupby("method", sort=False) if published is not None else []:
        colour, name, layer = _way(str(method))
        xy, dashes = (part["kib"], part["score"]), "solid" if layer else "dashed"
        line = hv.Curve(xy, _AXES[x], ylabel, label=f"paper: {name}")
        drawn.append(line.opts(color=colour, linewidth=0.6, linestyle=dashes))
        marks = hv.Scatter(xy, _AXES[x], ylabel)
        drawn.append(marks.opts(facecolors="white", edgecolors=colour, s=16, linewidth=0.8))
    axes = {"title": title, "logx": True, "show_grid": True, "aspect": 1.3, "padding": 0.05}
    axes |= {"ylim": ylim} if ylim else {}
    small = {"title": 9, "labels": 8, "ticks": 7, "legend": 6}
    return hv.Overlay(drawn).opts(legend_position="right", fontsize=small, **axes)


def in_colours(image: np.ndarray, like: np.ndarray | None = None) -> np.ndarray:
    """Stretch the first three bands of ``(C, y, x)`` between percentiles: ``(y, x, 3)``, 0 to 1.

    >>> in_colours(np.arange(12.0).reshape(3, 2, 2)).shape
    (2, 2, 3)

    `like` is the image whose 2nd and 98th percentiles are taken.
    """
    held = (image if like is None else like)[:3]
    low, high = np.nanpercentile(held, [2, 98], axis=(1, 2))
    scaled = (np.moveaxis(image[:3], 0, -1) - low) / np.maximum(high - low, 1e-6)
    return np.nan_to_num(np.clip(scaled, 0, 1), nan=1.0)


def principal_colours(
    tokens: np.ndarray, like: np.ndarray, reference: np.ndarray | None = None
) -> np.ndarray:
    """Draw an embedding ``(y, x, channel)`` in its first three principal components, 0 to 1.

    >>> maps = np.random.default_rng(0).normal(size=(4, 4, 8))
    >>> principal_colours(maps, like=maps).shape
    (4, 4, 3)

    Parameters
    ----------
    like
        Embedding whose components are taken, ``(..., channel)``: each encoder has its own.
    reference
        A picture of the same place; each component is turned (its sign) so that it goes with the
        picture's channel, and pictures of several encoders can be compared.
    """
    flat = like.reshape(-1, like.shape[-1]).astype(np.float64)
    mean = flat.mean(axis=0)
    _, _, axes = np.linalg.svd(flat - mean, full_matrices=False)
    axes = axes[:3]
    held = (flat - mean) @ axes.T
    low, high = np.percentile(held, [2, 98], axis=0)
    made = ((tokens - mean) @ axes.T - low) / np.maximum(high - low, 1e-9)
    if reference is not None:
        flip = [
            np.nan_to_num(np.corrcoef(made[..., k].ravel(), reference[..., k].ravel())[0, 1]) < 0
            for k in range(made.shape[-1])
        ]
        made = np.where(flip, 1 - made, made)
    return np.clip(made, 0, 1)


def rates(rows: Sequence[Mapping[str, np.ndarray]], *, title: str = "") -> hv.Layout:
    """Lay out pictures ``(y, x, 3)``, a row a mapping of title and picture.

    >>> rates([{"image": truth, "0.3 KiB": made}, {"embedding": first}])  # doctest: +SKIP
    """
    hv = holoviews()
    columns = max(len(row) for row in rows)
    panels: list[Any] = []
    for row in rows:
        panels += [_picture(picture, name) for name, picture in row.items()]
        panels += [hv.Empty()] * (columns - len(row))
    return layout(panels, columns).opts(
        title=title, hspace=0.06, vspace=0.22, fontsize={"title": 9}
    )


def _picture(picture: np.ndarray, title: str) -> hv.RGB:
    height, width = picture.shape[:2]
    shown = (255 * picture).astype(np.uint8)
    return (
        holoviews()
        .RGB(shown, bounds=(0, 0, width, height))
        .opts(title=title, xaxis=None, yaxis=None, aspect="equal", fontsize={"title": 7})
    )
