"""Pictures of compression: usefulness against size, images and embeddings at each rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geowb.plots import layout, picture, show, stretched
from geowb.plots.axes import COLOURS, holoviews

if TYPE_CHECKING:
    from pathlib import Path

    import holoviews as hv
    from IPython.display import Image

    from geowb.nec.autoencoder import CompressedMAE
    from geowb.nec.codecs import Codec
    from geowb.nec.sending import Images

__all__ = [
    "COVER",
    "at_each_rate",
    "curves",
    "in_colours",
    "principal_colours",
    "rates",
    "show_curves",
]

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
#: Colours of the world's land cover, in its order: forest to water.
COVER = (
    *("#117733", "#88AA55", "#C8B560", "#E8E0A0", "#66BBAA", "#B0D060", "#E69F00", "#7B5E2A"),
    *("#C8B8A8", "#CC3311", "#0072B2"),
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
) -> hv.Overlay:
    """Draw a score against the size of an image, a line a method, with its intervals.

    >>> curves(points, title="scene classes")  # doctest: +SKIP

    Solid lines have a layer of the decoder at the receiver, dashed ones have not.

    Parameters
    ----------
    points
        Columns method, score, `x`, and where there are intervals low and high.
    x
        ``kib``, ``bits_per_element``, ``of_raw`` or ``of_zstd``; the axis is logarithmic.
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
    axes = {"title": title, "logx": True, "show_grid": True, "aspect": "auto", "padding": 0.05}
    axes |= {"hooks": [_plain_numbers], "legend_limit": len(drawn)}  # 25 are the default
    small = {"title": 10, "labels": 9, "ticks": 8, "legend": 8}
    low = np.nanmin(np.append(points["score"], points.get("low", points["score"])))
    high = np.nanmax(np.append(points["score"], points.get("high", points["score"])))
    room = max(1.0, 0.06 * (high - low))
    axes["ylim"] = (max(0, low - room), min(100 + room, high + room))
    return hv.Overlay(drawn).opts(legend_position="right", fontsize=small, **axes)


def _plain_numbers(plot: Any, _element: Any) -> None:
    """Label a logarithmic axis with 1, 2, 5, 10: holoviews leaves it with overlapping powers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis = plot.handles["axis"].xaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def show_curves(panels: Sequence[Any], file: str | Path) -> Image:
    """Store curves, one below the other and each with axes of its own, and return them for display.

    >>> show_curves([curves(ours), curves(published("ucmerced"))], "curves.png")  # doctest: +SKIP
    """
    laid = layout(panels, columns=1, apart=0.4).opts(shared_axes=False)
    return show(laid, file, inches=(7, 5 * len(panels)))


def in_colours(image: np.ndarray, like: np.ndarray | None = None) -> np.ndarray:
    """Stretch the first three bands of ``(C, y, x)`` between percentiles: ``(y, x, 3)``, 0 to 1.

    >>> in_colours(np.arange(12.0).reshape(3, 2, 2)).shape
    (2, 2, 3)

    `like` is the image whose 2nd and 98th percentiles are taken.
    """
    return stretched(image[:3], None if like is None else like[:3])


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
        together = (made - made.mean((0, 1))) * (reference - reference.mean((0, 1)))
        made = np.where(together.sum((0, 1)) < 0, 1 - made, made)
    return np.clip(made, 0, 1)


def at_each_rate(
    images: Images, base: CompressedMAE, codecs: Sequence[Codec], *, title: str = ""
) -> hv.Layout:
    """Show an image as it is seen from the embedding at each rate, the embedding, and JPEG 2000.

    >>> at_each_rate(images, base, [load_codec("codecs/lambda-30")])  # doctest: +SKIP

    The first row has the image, what the decoder makes of its embedding without any rounding, and
    of what arrives with each codec; the second the embeddings in their first three principal
    components; the third the image with JPEG 2000 in as many bytes, where its headers fit into
    them. Sizes are those of the streams, without tables.

    Parameters
    ----------
    images
        Of which the first is shown.
    base
        The encoder before any adaptation.
    """
    import torch

    from geowb.errors import RequestError
    from geowb.nec.baselines import from_jpeg2000, jpeg2000
    from geowb.nec.sending import Images, by_codec, embedded

    one = Images(images.pixels[:1], images.gain, images.offset)
    truth = one.pixels[0].astype(float)
    gain, offset = one.gain[:, None, None], one.offset[:, None, None]
    whole = in_colours(truth)

    def drawn(model: CompressedMAE, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        made = model.reconstruct(torch.from_numpy(tokens)[None, None])[0, :, 0].cpu().numpy()
        unit = model.unit
        coarse = whole.reshape(tokens.shape[0], unit, tokens.shape[1], unit, 3).mean(axis=(1, 3))
        colours = principal_colours(tokens, tokens, coarse)
        enlarged = colours.repeat(unit, axis=0).repeat(unit, axis=1)
        return in_colours((made - offset) / gain, truth), enlarged

    seen, inside = drawn(base, embedded(base, one)[0][0])
    pictures: dict[str, Any] = {"image": whole, "from the embedding": seen}
    embeddings = {" ": np.ones_like(whole), "embedding": inside}
    coded = {"JPEG 2000 in": np.ones_like(whole), "as many bytes": np.ones_like(whole)}
    for codec in sorted(codecs, key=lambda codec: -codec.card["lambda"]):
        sent = by_codec(codec, one)
        name = f"{sent.sizes[0] / 1024:.2f} KiB"
        pictures[name], embeddings[name] = drawn(codec.model, sent.tokens[0])
        try:
            stream = jpeg2000(one.pixels[0], int(sent.sizes[0]))
        except RequestError:
            coded[f"{name}: too small"] = np.ones_like(whole)
            continue
        coded[name] = in_colours(from_jpeg2000(stream).astype(float), truth)
    return rates([pictures, embeddings, coded], title=title)


def rates(rows: Sequence[Mapping[str, np.ndarray]], *, title: str = "") -> hv.Layout:
    """Lay out pictures ``(y, x, 3)``, a row a mapping of title and picture.

    >>> rates([{"image": truth, "0.3 KiB": made}, {"embedding": first}])  # doctest: +SKIP
    """
    hv = holoviews()
    columns = max(len(row) for row in rows)
    panels: list[Any] = []
    for row in rows:
        panels += [picture(plane, name, size=7) for name, plane in row.items()]
        panels += [hv.Empty()] * (columns - len(row))
    return layout(panels, columns).opts(
        title=title, hspace=0.06, vspace=0.22, fontsize={"title": 9}
    )
