"""From bands and labels to the pixels of a picture: composites, indices, clouds, overlays."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from geowb.maps.looks import class_colours, span

__all__ = [
    "CLOUDS", "Look", "Overlay", "composites", "encode", "extended", "index", "joined", "overlaid",
    "overlay_of", "shade", "spans", "stretch", "veil",
]  # fmt: skip

#: Three bands for red, green and blue, by the name under which they are offered.
_COMPOSITES = {
    "natural colour": ("RED", "GREEN", "BLUE"),
    "shortwave infrared": ("SWIR_1", "NIR_NARROW", "RED"),
    "near infrared": ("NIR_NARROW", "RED", "GREEN"),
}
#: Normalised differences: (first - second) / (first + second).
_INDICES = {
    "NDVI (vegetation)": ("NIR_NARROW", "RED"),
    "NDMI (moisture)": ("NIR_NARROW", "SWIR_1"),
    "NBR (burns)": ("NIR_NARROW", "SWIR_2"),
    "MNDWI (water)": ("GREEN", "SWIR_1"),
}
#: Legend of what hides the ground: hatched, the two in different directions.
CLOUDS = [
    {"name": "cloud", "colour": "#E69F00", "hatch": "/"},
    {"name": "shadow", "colour": "#0072B2", "hatch": "\\"},
]
_LIMITS = (-0.6, 0.9)


@dataclass(frozen=True)
class Look:
    """What is shown of a scene: three bands, one, or an index of two."""

    name: str
    bands: tuple[str, ...]
    kind: str  # rgb, grey or index
    joint: bool = False  # one stretch for all bands, so that colours are those of the ground


@dataclass(frozen=True)
class Overlay:
    """Colours of a label, and its legend."""

    limits: tuple[float, float] = (0.0, 1.0)
    classes: Mapping[int, str] | None = None
    colours: Mapping[int, str] = field(default_factory=dict)
    units: str = ""

    def legend(self) -> list[dict[str, Any]]:
        """Items of the legend: a square a class, or a bar with its ends."""
        if self.classes is not None:
            return [
                {"name": name.replace("_", " "), "colour": self.colours[value]}
                for value, name in self.classes.items()
            ]
        low, high = (f"{value:.4g}" for value in self.limits)
        return [{"colours": _ramp("viridis"), "low": low, "high": high, "unit": self.units}]


def composites(bands: Sequence[str]) -> dict[str, Look]:
    """List what can be shown of these bands, by name; the first is to begin with.

    >>> list(composites(["RED"]))
    ['RED']
    """
    have = set(bands)
    found = {
        name: Look(name, three, "rgb", joint=name == "natural colour")
        for name, three in _COMPOSITES.items()
        if have >= set(three)
    }
    if not found and len(bands) > 2:
        name = ", ".join(bands[:3])
        found[name] = Look(name, tuple(bands[:3]), "rgb")
    found |= {n: Look(n, b, "index") for n, b in _INDICES.items() if have >= set(b)}
    return found | {band: Look(band, (band,), "grey") for band in bands}


def index(values: np.ndarray) -> np.ndarray:
    """Normalised difference of two bands ``(2, y, x)``; NaN where their sum is none."""
    first, second = values
    total = first + second
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.abs(total) > 1e-6, (first - second) / total, np.nan)[None]


def spans(values: np.ndarray, clear: np.ndarray | None, shares: Sequence[float]) -> np.ndarray:
    """Find the ends of the stretch of each band ``(B, 2)``: percentiles of what is clear."""
    thinned = values[:, :: max(1, values.shape[1] // 160), :: max(1, values.shape[2] // 160)]
    if clear is not None:
        seen = clear[:: max(1, values.shape[1] // 160), :: max(1, values.shape[2] // 160)]
        if seen.mean() > 0.05:
            thinned = np.where(seen, thinned, np.nan)
    found = [span(band[np.isfinite(band)], shares=(shares[0], shares[1])) for band in thinned]
    return np.array(found, np.float32)


def joined(limits: np.ndarray, look: Look) -> np.ndarray:
    """One stretch for all bands where the look wants it."""
    if not look.joint:
        return limits
    return np.broadcast_to([limits[:, 0].min(), limits[:, 1].max()], limits.shape)


def stretch(values: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Bring bands ``(B, y, x)`` between their limits to ``(y, x, 3)`` bytes; no data is white."""
    low, high = limits[:, 0, None, None], limits[:, 1, None, None]
    with np.errstate(invalid="ignore"):
        scaled = np.clip((values - low) / np.maximum(high - low, 1e-9), 0, 1) * 255
    scaled = np.where(np.isfinite(values).all(0), scaled, 255).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(np.broadcast_to(scaled, (3, *scaled.shape[1:])), 0, -1))


def shade(plane: np.ndarray, limits: Sequence[float], cmap: str = "viridis") -> np.ndarray:
    """Colour a quantity ``(y, x)`` to ``(y, x, 3)`` bytes; no data is white."""
    low, high = limits
    with np.errstate(invalid="ignore"):
        at = np.clip((plane - low) / max(high - low, 1e-9), 0, 1) * 255
    colours = _table(cmap)[np.nan_to_num(at).astype(np.uint8)]
    colours[~np.isfinite(plane)] = 255
    return colours


def veil(image: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Hatch clouds and shadows, in two directions, so that they can be told without colours."""
    rows, columns = np.indices(hidden.shape, sparse=True)
    image = image.copy()
    for value, lines, item in (
        (1, (rows + columns) % 8 < 3, CLOUDS[0]),
        (2, (rows - columns) % 8 < 3, CLOUDS[1]),
    ):
        image[(hidden == value) & lines] = _bytes(item["colour"])
    return image


def overlay_of(plane: np.ndarray, attrs: Mapping[str, Any]) -> Overlay:
    """Find out how a label is drawn: classes with a colour each, or a quantity.

    >>> overlay_of(np.array([[0, 1]], np.int16), {}).classes
    {0: '0', 1: '1'}
    """
    meanings = str(attrs.get("flag_meanings", "")).split()
    whole = plane.dtype.kind in "iub"
    units = str(attrs.get("units", ""))
    units = "" if units == "1" else units
    values = np.unique(plane[plane >= 0]) if whole else np.array([])
    if whole and (meanings or len(values) <= 32):
        numbers = [int(v) for v in np.ravel(attrs.get("flag_values", range(len(meanings))))]
        names = dict(zip(numbers, meanings, strict=False))
        names |= {int(value): str(value) for value in values if int(value) not in names}
        return Overlay(classes=names, colours=class_colours(names))
    known = plane[np.isfinite(plane)].astype(float) if plane.size else np.array([])
    return Overlay(limits=span(known), units=units)


def extended(how: Overlay, plane: np.ndarray) -> Overlay:
    """Add the classes that occur in another picture of the same label; colours stay."""
    if how.classes is None:
        return how
    new = [int(v) for v in np.unique(plane[plane >= 0]) if int(v) not in how.classes]
    if not new:
        return how
    names = dict(how.classes) | {value: str(value) for value in new}
    return Overlay(classes=names, colours=class_colours(names) | dict(how.colours))


def overlaid(image: np.ndarray, plane: np.ndarray, how: Overlay, opacity: float) -> np.ndarray:
    """Lay a label over a picture; where it is sparse its pixels are made larger."""
    if how.classes is not None:
        given = plane >= 0
        colours = np.zeros((*plane.shape, 3), np.uint8)
        for value in how.classes:
            colours[plane == value] = _bytes(how.colours[value])
    else:
        given = np.isfinite(plane)
        if 0 < given.mean() < 0.02:
            plane, given = _grown(plane, given)
        colours = shade(plane, how.limits)
    mixed = image * (1 - opacity) + colours * opacity
    return np.where(given[..., None], mixed, image).astype(np.uint8)


def encode(image: np.ndarray) -> bytes:
    """PNG of ``(y, x, 3)`` bytes, made quickly."""
    import PIL.Image

    picture, buffer = PIL.Image.fromarray(image), io.BytesIO()
    picture.save(buffer, "png", compress_level=1)
    return buffer.getvalue()


def _grown(plane: np.ndarray, given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Let each value fill the eight pixels around it too, where nothing is known."""
    rows, columns = np.nonzero(given)
    grown = np.full_like(plane, np.nan)
    for down in (-1, 1, 0):
        for right in (-1, 1, 0):
            at = np.clip(rows + down, 0, plane.shape[0] - 1)
            grown[at, np.clip(columns + right, 0, plane.shape[1] - 1)] = plane[rows, columns]
    grown[given] = plane[given]
    return grown, np.isfinite(grown)


@cache
def _table(cmap: str) -> np.ndarray:
    import matplotlib

    return matplotlib.colormaps[cmap](np.arange(256), bytes=True)[:, :3].copy()


def _ramp(cmap: str) -> list[str]:
    return [f"#{_table(cmap)[i].tobytes().hex()}" for i in range(0, 256, 51)]


def _bytes(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


#: Limits of the indices, and their legend.
INDEX = Overlay(limits=_LIMITS)
