"""Pictures of masking: measures against gaps, the loss along the gradient, images and attacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geowb.plots.axes import COLOURS, holoviews

if TYPE_CHECKING:
    import holoviews as hv
    import xarray as xr

__all__ = ["NAMES", "against_gap", "along_gradient", "images", "pixel_panels"]

#: What measures and gaps are called on axes.
NAMES: Mapping[str, str] = {
    "gradient": "gradient (per pixel range)",
    "agreement": "FGSM-PGD agreement",
    "gradient_norm": "gradient norm",
    "fgsm_pgd_cosine": "FGSM-PGD cosine",
    "linearization_error": "linearisation error",
    "pgd_collinearity": "PGD collinearity",
    "gradient_information": "gradient information",
    "cos8": "FGSM-PGD cosine",
    "lin8": "linearisation error",
    "fgsm-autoattack": "FGSM - AutoAttack (points)",
    "fgsm-pgd": "FGSM - PGD (points)",
    "pgd-autoattack": "PGD - AutoAttack (points)",
}
#: How models are drawn: not defended, defended honestly, led into masking, by construction.
_KINDS = (
    ("not defended", COLOURS[6], "s"),
    ("defended", COLOURS[0], "o"),
    ("overfitted", COLOURS[3], "D"),
    ("masking", COLOURS[1], "^"),
)


def against_gap(
    models: pd.DataFrame, metric: str, gap: str, *, log: bool = False, legend: bool = True
) -> hv.Overlay:
    """Draw a measure against a gap of accuracy, a point a model, by kind.

    >>> against_gap(models, "fgsm_pgd_cosine", "fgsm-autoattack")  # doctest: +SKIP

    With `log` the logarithm of the measure is drawn, to base 10.
    """
    hv = holoviews()
    name = NAMES.get(metric, metric)
    axes = (NAMES.get(gap, gap), f"log10 of {name}" if log else name)
    masks = models["masks"].astype(object).map({True: 3, False: 1}).fillna(2)
    kind = np.where(models["defended"].astype(bool), masks, 0)
    drawn = []
    for number, (called, colour, marker) in enumerate(_KINDS):
        part = models.loc[kind == number, [gap, metric]].astype(float).dropna()
        values = np.log10(part[metric]) if log else part[metric]
        style = {"color": colour, "marker": marker, "s": 40, "alpha": 0.75, "padding": 0.1}
        points = list(zip(part[gap], values, strict=True))
        if points:
            drawn.append(hv.Scatter(points, *axes, label=called).opts(**style))
    return hv.Overlay(drawn).opts(
        aspect=1.4, show_grid=True, show_legend=legend, legend_position="right"
    )


def along_gradient(
    losses: Mapping[str, pd.DataFrame], *, epsilon: float, title: str = ""
) -> hv.Overlay:
    """Draw the mean loss along the gradient against epsilon, a line a model.

    >>> along_gradient({"pgd": loss_along_gradient(...)}, epsilon=0.15)  # doctest: +SKIP
    """
    hv = holoviews()
    styles, drawn = ("solid", "dashed", "dotted"), []
    for i, (name, found) in enumerate(losses.items()):
        style = {"color": COLOURS[i % len(COLOURS)], "linestyle": styles[i // len(COLOURS) % 3]}
        points = (found.index, found.mean(axis=1))
        drawn.append(hv.Curve(points, label=name).opts(linewidth=2, **style))
    line = hv.VLine(epsilon).opts(color="grey", linewidth=1.5, linestyle="dotted")
    return hv.Overlay([*drawn, line]).opts(
        title=title,
        xlabel="epsilon (fraction of the pixel range)",
        ylabel="mean loss",
        aspect=1.6,
        show_grid=True,
        legend_position="right",
    )


def images(rows: Mapping[str, Sequence[np.ndarray]], titles: Sequence[str]) -> hv.Layout:
    """Lay out images ``(C, H, W)`` in [0, 1], a row a name, in grey or in their first three bands.

    >>> images({"FGSM": list(x[:4])}, titles=["0", "7"])  # doctest: +SKIP
    """
    from geowb.plots import layout, picture

    panels = []
    for name, planes in rows.items():
        for title, plane in zip(titles, planes, strict=True):
            colours = np.repeat(plane[:1], 3, 0) if len(plane) < 3 else plane[:3]
            panels.append(picture(np.moveaxis(colours, 0, -1), f"{name}: {title}", size=7))
    return layout(panels, len(titles)).opts(hspace=0.06, vspace=0.25)


def pixel_panels(maps: Mapping[str, xr.Dataset], image: np.ndarray, sample: int = 0) -> hv.Layout:
    """Lay out maps of measures, a row a model: the image, then each measure on one scale.

    >>> pixel_panels({"unet": pixel_maps(...)}, colours)  # doctest: +SKIP

    `image` is ``(y, x, 3)``, 0 to 1, of that sample.
    """
    from geowb.plots import layout, picture

    hv, panels = holoviews(), []
    shown = {"gradient": "Blues", "agreement": "PuOr", "linearization_error": "Oranges"}
    tops = {
        name: max(float(np.nanpercentile(one[name][sample], 98)) for one in maps.values())
        for name in shown
    }
    height, width = image.shape[:2]
    for model, found in maps.items():
        panels.append(picture(image, f"{model}: image"))
        for name, cmap in shown.items():
            limits = (-1.0, 1.0) if name == "agreement" else (0.0, tops[name] or 1.0)
            plane = hv.Image(found[name].values[sample], bounds=(0, 0, width, height))
            panels.append(
                plane.opts(
                    **{"cmap": cmap, "clim": limits, "colorbar": True, "aspect": "equal"},
                    **{"xaxis": None, "yaxis": None, "fontsize": {"title": 8, "cticks": 7}},
                    title=NAMES.get(name, name),
                    clabel="",
                    clipping_colors={"NaN": "#DDDDDD"},
                )
            )
    return layout(panels, 1 + len(shown)).opts(hspace=0.4, vspace=0.25)
