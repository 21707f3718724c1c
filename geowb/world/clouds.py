"""Clouds, their shadows and what Fmask makes of them.

Three kinds: fields of cumulus, decks of stratus and altostratus, streaks of cirrus. Each is a
thresholded random field with an optical thickness, at a height that, with the sun, displaces its
shadow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from geowb.world.fields import PIXEL, Array, Grid, Streams, gaussian_field, smoothstep
from geowb.world.land import CODE, Land
from geowb.world.regions import Region

__all__ = [
    "CLOUD_GROWS",
    "FMASK_BITS",
    "SHADOW_GROWS",
    "Sky",
    "clear_sky",
    "cloud_cover",
    "grow",
    "make_fmask",
    "make_sky",
    "shadow_shift",
]

#: Bits of the HLS v2.0 Fmask layer; bits 6-7 are the aerosol level.
FMASK_BITS = {"cloud": 1, "adjacent": 2, "shadow": 3, "snow": 4, "water": 5}

#: By how many pixels HLS grows clouds and their shadows.
CLOUD_GROWS, SHADOW_GROWS = 4.3, 3.3

# Reflectance of a thick cloud relative to the visible: droplets and ice absorb in the SWIR.
_DROPS = np.array([1.0, 0.99, 0.99, 1.0, 0.80, 0.62])
_ICE = np.array([1.0, 0.99, 0.99, 0.98, 0.55, 0.42])
# Share of the light that a thick shadow takes away: skylight is blue.
_DIRECT = np.array([0.42, 0.54, 0.62, 0.74, 0.82, 0.85])


@dataclass(frozen=True)
class Sky:
    """Clouds over one scene at one moment, on the scene's grid."""

    reflectance: Array  # of the clouds alone, visible, 0-1
    ice: Array  # share of that reflectance that comes from ice
    shade: Array  # share of the direct light taken away, 0-1
    cloud: NDArray[np.bool_]  # thick enough to be found
    shadow: NDArray[np.bool_]  # where Fmask looks for their shadows
    haze: Array  # aerosol optical depth

    @property
    def hides(self) -> NDArray[np.bool_]:
        """Where cloud or its deep shadow keeps an analyst from seeing the ground."""
        return (self.reflectance > 0.25) | (self.shade > 0.6)

    def cover_ground(self, ground: Array) -> Array:
        """Ground of `(6, y, x)` counts seen through and shaded by the clouds."""
        through = (1.0 - self.reflectance) ** 2
        seen = np.empty_like(ground)
        for band, below in enumerate(ground):
            tint = _DROPS[band] + (_ICE[band] - _DROPS[band]) * self.ice
            seen[band] = below * (1.0 - _DIRECT[band] * self.shade) * through
            seen[band] += 10_000.0 * tint * self.reflectance
        return seen


def cloud_cover(rng: np.random.Generator, region: Region, day: int) -> float:
    """Draw a scene's cloud cover: U-shaped (beta) about the mean for the season."""
    wettest, driest = region.cloud
    phase = 0.5 + 0.5 * np.cos(2 * np.pi * (day - region.cloud_day) / 365.25)
    mean = driest + (wettest - driest) * float(phase)
    return float(rng.beta(0.7 * mean, 0.7 * (1.0 - mean)))


def shadow_shift(height: float, zenith: float, azimuth: float) -> tuple[float, float]:
    """Displacement of a cloud's shadow in pixels, `(rows south, columns east)`.

    >>> rows, columns = shadow_shift(1_000.0, np.pi / 4, np.pi / 2)  # sun in the east
    >>> round(rows), round(columns)
    (0, -33)
    """
    length = height * np.tan(zenith) / PIXEL
    return float(length * np.cos(azimuth)), float(-length * np.sin(azimuth))


def make_sky(
    streams: Streams, grid: Grid, region: Region, date: str, cover: float,
    zenith: float, azimuth: float,
) -> Sky:  # fmt: skip
    """Clouds of one date; `cover` is the share of the sky that the main kind takes."""
    rng = streams.rng("sky", date)
    kinds = list(region.cloud_kinds)
    odds = np.cumsum([region.cloud_kinds[kind] for kind in kinds])
    main = kinds[min(int(np.searchsorted(odds / odds[-1], rng.uniform())), len(kinds) - 1)]
    if cover > 0.75:
        main = "deck"
    second = ("cirrus", "cumulus", "deck")[int(rng.integers(3))]
    plan = [(main, cover), (second, cover * rng.uniform(0.0, 0.35))]
    shape = (grid.n, grid.n)
    clear, ice_part, lit = np.ones(shape), np.zeros(shape), np.ones(shape)
    found, expected = np.zeros(shape, bool), np.zeros(shape, bool)
    blur = gaussian_field(streams.rng("detection", date), grid, 400, rough=0.3)
    for number, (kind, share) in enumerate(plan):
        if share < 0.004:
            continue
        tau, height = _KINDS[kind](streams.rng("clouds", date, number), grid, share)
        bright = 0.15 * tau / (2.0 + 0.15 * tau)  # two-stream, asymmetry 0.85
        seen = ndimage.binary_opening(bright > 0.06 + 0.015 * blur)
        move = shadow_shift(height, zenith, azimuth)
        slant = 0.15 * tau / np.cos(zenith)
        dark = slant / (1.0 + slant)
        lit *= 1.0 - ndimage.shift(dark, move, order=1, mode="grid-wrap", prefilter=False)
        # Fmask estimates the height and finds the shadow a little off.
        wrong = [round(m * (1.0 + 0.06 * rng.standard_normal())) for m in move]
        if kind == "cirrus":
            ice_part += bright
        else:
            expected |= np.roll(seen & (bright > 0.12), wrong, (0, 1))
        found |= seen
        clear *= 1.0 - bright
    total = 1.0 - clear
    ice = np.clip(ice_part / np.maximum(total, 1e-9), 0.0, 1.0)
    parts = (total, ice, 1.0 - lit, found, expected, _haze(streams, grid, date))
    return Sky(*map(grid.crop, parts))


def clear_sky(streams: Streams, grid: Grid, date: str) -> Sky:
    """Take the clouds away and leave the haze of that date."""
    none = np.zeros((grid.size, grid.size))
    return Sky(none, none, none, none > 0, none > 0, grid.crop(_haze(streams, grid, date)))


def _haze(streams: Streams, grid: Grid, date: str) -> Array:
    """Aerosol optical depth: log-normal over days and within the scene."""
    level = streams.rng("haze-level", date).standard_normal()
    field = gaussian_field(streams.rng("haze", date), grid, 5_000, rough=0.4)
    return 0.09 * np.exp(0.45 * level + 0.5 * field)


def _cumulus(rng: np.random.Generator, grid: Grid, cover: float) -> tuple[Array, float]:
    cells = gaussian_field(rng, grid, rng.uniform(300, 900), rough=0.55, inner=20)
    meso = gaussian_field(rng, grid, 3_000, rough=0.5)
    field = 0.82 * cells + np.sqrt(1 - 0.82**2) * meso
    excess = _above(grid, field, cover)
    return 26.0 * excess**0.9, rng.uniform(900, 2_200)


def _deck(rng: np.random.Generator, grid: Grid, cover: float) -> tuple[Array, float]:
    sheet = gaussian_field(rng, grid, 6_000, rough=0.45)
    cells = gaussian_field(rng, grid, 500, rough=0.6, stretch=2.5, angle=rng.uniform(0, np.pi))
    field = 0.93 * sheet + np.sqrt(1 - 0.93**2) * cells
    excess = _above(grid, field, cover)
    return 16.0 * excess * (1.0 + 0.25 * np.tanh(cells)), rng.uniform(1_800, 5_000)


def _cirrus(rng: np.random.Generator, grid: Grid, cover: float) -> tuple[Array, float]:
    angle = rng.uniform(0, np.pi)
    streaks = gaussian_field(rng, grid, 1_500, rough=0.5, stretch=5.0, angle=angle)
    veil = gaussian_field(rng, grid, 5_000, rough=0.9, stretch=2.0, angle=angle)
    field = 0.6 * streaks + 0.8 * veil
    excess = _above(grid, field, cover)
    return 1.1 * excess, rng.uniform(8_500, 12_500)


def _above(grid: Grid, field: Array, cover: float) -> Array:
    """Height of a field above the level that `cover` of the scene exceeds."""
    return np.maximum(field - np.quantile(grid.crop(field), 1.0 - cover), 0.0)


_KINDS = {"cumulus": _cumulus, "deck": _deck, "cirrus": _cirrus}


def make_fmask(streams: Streams, grid: Grid, sky: Sky, date: str, land: Land) -> NDArray[np.uint8]:
    """HLS v2.0 Fmask byte of each pixel, with the usual mistakes.

    Thin cloud is missed, some bright ground is called cloud, shadows are a little off. As in HLS,
    clouds and shadows are grown by some pixels, and five more (150 m) are marked as adjacent.
    """
    bright = (land.cover == CODE["bare"]) | (land.cover == CODE["urban"])
    blotch = grid.crop(gaussian_field(streams.rng("mistakes", date), grid, 120, rough=0.3))
    cloud = grow(sky.cloud | (bright & (blotch > 2.8)), CLOUD_GROWS)
    shadow = grow(sky.shadow, SHADOW_GROWS) & ~cloud
    near = grow(cloud | shadow, 5.2) & ~cloud & ~shadow
    wet = (land.water > 0.5) & ~cloud
    close = smoothstep(ndimage.uniform_filter(cloud.astype(float), 41), 0.0, 0.5)
    air = sky.haze * (1.0 + 2.0 * close) + 0.3 * cloud
    level = 1 + (air > 0.13) + (air > 0.27)
    mask = level.astype(np.uint8) << 6
    for name, where in (("cloud", cloud), ("adjacent", near), ("shadow", shadow), ("water", wet)):
        mask |= where.astype(np.uint8) << FMASK_BITS[name]
    return mask


def grow(mask: NDArray[np.bool_], pixels: float) -> NDArray[np.bool_]:
    """Every pixel within `pixels` of the mask."""
    if not mask.any():
        return mask
    return ndimage.distance_transform_edt(~mask) <= pixels
