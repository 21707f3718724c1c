"""Floods: where the rivers stand when they leave their beds, and what that looks like.

Water rises over the height above the nearest stream (HAND; Nobre et al. 2011), higher on larger
rivers, and stands in hollows away from them. It is shallow and silty; what grows higher than it
is deep sticks out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from geowb.world.fields import Array, Grid, Streams, gaussian_field, smoothstep
from geowb.world.land import CODE, Land
from geowb.world.regions import Region

__all__ = ["SEEN", "Flood", "make_flood"]

#: A pixel is labelled water where at least this share of it, seen from above, is open water.
SEEN = 0.3

#: Loss of light in water, 1/m, there and back: clear water, and what a full load of silt adds.
_CLEAR = np.array([0.25, 0.30, 0.9, 5.0, 60.0, 90.0])
_SILT = np.array([6.0, 5.0, 4.0, 3.0, 1.0, 1.0])
#: Reflectance of deep water by load of silt: none, some, full (counts).
_WATERS = np.array([
    (280, 350, 240, 130, 60, 40), (560, 860, 900, 560, 190, 120), (860, 1330, 1720, 1750, 850, 560),
], float)  # fmt: skip
#: What soaking takes from the reflectance of the ground (Lobell and Asner 2002: most in the SWIR).
_SOAKED = (0.30, 0.32, 0.36, 0.42, 0.62, 0.68)
#: Height of what grows below trees, m, by class of land cover.
_HEIGHT = {"grassland": 0.4, "pasture": 0.25, "savanna": 0.5, "cropland": 0.7, "wetland": 0.9,
           "bare": 0.05, "urban": 6.0}  # fmt: skip


@dataclass(frozen=True)
class Flood:
    """State of the flood on the scene's grid."""

    stage: Array  # m above the stream to which the water has risen
    depth: Array  # m of water over the ground, 0 where there is none
    water: Array  # share of the pixel under water, seen through what sticks out or not
    pond: NDArray[np.bool_]  # hollows that rain filled
    wet: Array  # 0 dry to 1 soaked ground
    silt: Array  # load of the water, 0-1
    height: Array  # of the herbs, m
    crown: Array  # height of the trees, m

    def seen(self, trees: Array, herbs: Array) -> Array:
        """Share of each pixel that is open water seen from above."""
        return self.water * (1.0 - self.emergent(trees, herbs))

    def emergent(self, trees: Array, herbs: Array) -> Array:
        """Share of each pixel's water that crowns and tall herbs hide."""
        out = np.clip(1.0 - self.depth / self.height, 0.0, 1.0) * herbs * 0.8
        trees = 0.94 * trees * np.clip(1.2 - self.depth / self.crown, 0.0, 1.0)
        return trees + (1.0 - trees) * out

    def cover_ground(self, counts: Array, trees: Array, herbs: Array) -> Array:
        """Level ground `(6, y, x)` in counts, soaked and under water."""
        seen = self.seen(trees, herbs)
        soaked = self.wet * (1.0 - 0.85 * trees)
        load = 2.0 * self.silt
        low = np.minimum(load.astype(int), 1)
        for band, level in enumerate(counts):
            level *= 1.0 - soaked * _SOAKED[band]
            deep = _WATERS[low, band] + (load - low) * (_WATERS[low + 1, band] - _WATERS[low, band])
            left = np.exp(-2.0 * (_CLEAR[band] + _SILT[band] * self.silt) * self.depth)
            level += seen * (1.0 - left) * (deep - level)
            # Water below what sticks out takes the light that would come back from the ground.
            level *= 1.0 - 0.25 * (self.water - seen) * (band > 2)
        return counts


def make_flood(streams: Streams, grid: Grid, region: Region, land: Land) -> Flood:
    """Draw how high the rivers stand: from little to a third of the scene under water."""
    rng, crop, terrain = streams.rng("flood"), grid.crop, land.terrain
    above = crop(terrain.above_stream)
    order = terrain.stream_width
    for _ in range(2):
        order = ndimage.uniform_filter(order, 31, mode="nearest")
    rise = region.floodplain * np.clip(crop(order) / 40.0, 0.05, 6.0) ** 0.6
    # Banks, levees and hummocks: they only ever stand above the plain.
    fine = crop(gaussian_field(streams.rng("flood", "banks"), grid, 220, rough=0.4))
    ground = above + 0.30 * np.maximum(fine + 0.4, 0.0)
    share = float(np.clip(0.12 * np.exp(0.8 * rng.standard_normal()), 0.01, 0.40))
    bare = np.exp(-land.biomass / region.closure)  # not under crowns
    stage = rise * min(_level(ground / rise, 0.25 + 0.75 * bare, share), 4.5)
    depth = np.maximum(stage - ground, 0.0)
    # Hollows on level ground hold rain.
    hollow = crop(gaussian_field(streams.rng("flood", "hollows"), grid, 350, rough=0.5))
    level = np.hypot(*land.slope) < 0.04
    full = 1.7 + 0.6 * rng.uniform()
    pond = level & (hollow > full) & (depth <= 0.0) & (land.water < 0.5)
    depth = np.where(pond, 0.6 * (hollow - full), depth)
    # Rain has soaked the ground everywhere, fields in patches; the margin is mud.
    rain = crop(gaussian_field(streams.rng("flood", "rain"), grid, 900, rough=0.4))
    margin = np.exp(-3.0 * np.maximum(ground - stage, 0.0))
    soaked = np.clip(0.30 + 0.25 * rain + 0.30 * land.moist + 0.55 * margin, 0.0, 1.0)
    # Puddles are smaller than a pixel; what they hide is no water body.
    puddles = 0.24 * smoothstep(soaked + 0.15 * fine, 0.6, 1.1) * level
    water = np.maximum(smoothstep(depth, 0.0, 0.25), np.maximum(land.water, puddles))
    # River water carries silt; it settles where the water stands.
    load = crop(gaussian_field(streams.rng("flood", "silt"), grid, 2_500, rough=0.6))
    away = crop(terrain.stream_distance)
    silt = 0.25 + 0.55 * rng.uniform() + 0.25 * load + 0.2 * np.exp(-away / 400.0) - 0.3 * pond
    height = np.full(len(CODE), 0.5)
    for name, metres in _HEIGHT.items():
        height[CODE[name]] = metres
    depth = np.maximum(depth, np.maximum(2.5 * land.water, 0.12 * (puddles > 0.0)))
    return Flood(
        stage, depth, water, pond, soaked, np.clip(silt, 0.03, 1.0),
        height[land.cover] * np.exp(0.3 * fine), 6.0 + land.biomass / 12.0,
    )  # fmt: skip


def _level(need: Array, weight: Array, share: float) -> float:
    """Level at which the pixels that `need` less make up `share` of the scene by weight."""
    order = np.argsort(need, axis=None, kind="stable")
    reached = np.cumsum(weight.ravel()[order])
    at = min(int(np.searchsorted(reached, share * need.size)), need.size - 1)
    return float(need.ravel()[order[at]])
