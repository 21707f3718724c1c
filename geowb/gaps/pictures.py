"""Pictures of gaps: what is seen, what is behind, what was filled in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from geowb.bands import HLS6
from geowb.plots import layout, picture, stretched
from geowb.plots.axes import holoviews

if TYPE_CHECKING:
    import holoviews as hv
    import torch

__all__ = ["chips_with_gaps", "fillings"]

#: Bands for red, green and blue.
_SHOWN = ("SWIR_1", "NIR_NARROW", "RED")
_GREY = 0.5


def chips_with_gaps(
    items: Sequence[Mapping[str, torch.Tensor]], bands: Sequence[str] = HLS6
) -> hv.Layout:
    """Show chips date by date with their gaps in grey, a row a chip.

    >>> chips_with_gaps([data[0], data[1]])  # doctest: +SKIP

    Items are those of `geowb.gaps.GapDataset`.
    """
    panels, dates = [], 1
    for number, item in enumerate(items):
        image, missing = item["image"].numpy(), item["missing"].numpy()
        planes, dates = _planes(image, bands), image.shape[1]
        panels += [
            picture(
                np.where(missing[date][..., None], _GREY, planes[date]),
                f"chip {number + 1}, date {date + 1}: {missing[date].mean():.0%} missing",
            )
            for date in range(dates)
        ]
    return _laid_out(panels, dates, "")


def fillings(
    truth: np.ndarray,
    missing: np.ndarray,
    filled: Mapping[str, np.ndarray],
    *,
    date: int = 1,
    bands: Sequence[str] = HLS6,
    limit: float = 0.05,
    title: str = "",
) -> hv.Layout:
    """Show one chip, its gap on one date, and what each model fills in, with the errors below.

    >>> fillings(image, missing, {"prithvi": made, "linear": other})  # doctest: +SKIP

    Parameters
    ----------
    truth, filled
        ``(C, T, H, W)`` in counts; of what was filled the missing pixels are taken.
    missing
        ``(T, H, W)`` bool.
    limit
        End of the colour bar of the errors: mean absolute error over the bands, reflectance.
    """
    hv = holoviews()
    planes, gap = _planes(truth, bands), missing[date]
    dates = len(planes)
    others = [other for other in (date - 1, date + 1) if 0 <= other < dates]
    first = [("truth", planes[date]), ("seen", np.where(gap[..., None], _GREY, planes[date]))]
    panels = [picture(plane, name) for name, plane in first]
    below = [picture(planes[other], f"date {other + 1}") for other in others]
    below += [hv.Empty()] * (2 - len(below))
    height, width = gap.shape
    for name, made in filled.items():
        whole = np.where(missing[None], made, truth)
        panels.append(picture(_planes(whole, bands, truth)[date], name))
        error = np.abs(whole[:, date] - truth[:, date]).mean(0) / 1e4
        panel = hv.Image(
            np.where(gap, error, np.nan), bounds=(0, 0, width, height), vdims=["error"]
        )
        mean = f"error, mean {error[gap].mean():.4f}" if gap.any() else "no gap"
        last = name == list(filled)[-1]
        below.append(
            panel.opts(
                **_axes(mean), cmap="magma_r", clim=(0, limit), colorbar=last, clabel="reflectance"
            )
        )
    return _laid_out(panels + below, 2 + len(filled), title)


def _planes(
    image: np.ndarray, bands: Sequence[str], like: np.ndarray | None = None
) -> list[np.ndarray]:
    """Red, green and blue of each date, stretched alike, by the image `like`; no data is white."""
    names = list(bands)
    picked = [names.index(band) for band in _SHOWN if band in names]
    picked = picked if len(picked) == 3 else [min(i, len(names) - 1) for i in range(3)]
    return list(stretched(image[picked], None if like is None else like[picked]))


def _axes(title: str) -> dict[str, Any]:
    return {
        **{"title": title, "xaxis": None, "yaxis": None, "aspect": "equal"},
        "fontsize": {"title": 8, "cticks": 6, "clabel": 7},
    }


def _laid_out(panels: Sequence[Any], columns: int, title: str) -> hv.Layout:
    told = "red, green, blue: SWIR 1, NIR, red; grey is missing"
    return layout(panels, columns).opts(
        title=f"{title}\n{told}".strip(), hspace=0.08, vspace=0.2, fontsize={"title": 9}
    )
