"""Seasons and spectra: from the state of the ground to its reflectance.

Each pixel is a linear mixture of end-members (Adams et al. 1986; Roberts et al. 1998): sunlit
leaves, bark and twigs, crown shade, green and dry grass, crops, soil, water, roofs. Biomass shows
through crown closure and crown shade, both of which level off, and through canopy roughness.
"""

from __future__ import annotations

import numpy as np

from geowb.world.fields import Array
from geowb.world.land import CODE, Land
from geowb.world.regions import Region

__all__ = ["crop_greenness", "greenness", "ground_reflectance"]

#: End-members that regions share, in counts; order of the bands as in geowb.HLS6.
STRAW = (720, 1080, 1520, 2500, 3500, 2500)
SHADE = (110, 150, 90, 750, 300, 110)
CROP = (330, 730, 380, 4700, 2050, 950)
EUCALYPT = (250, 480, 300, 3200, 1450, 600)
CLEAR_WATER = (300, 380, 270, 160, 70, 45)
SILT_WATER = (620, 980, 1100, 620, 130, 80)
ROOFS = (1150, 1400, 1600, 2250, 2500, 2250)
ROAD = (1000, 1400, 2050, 2750, 3400, 3050)

#: Crop calendars: (share, ((day of fullest growth, half-width in days), ...)).
CALENDARS = (
    (0.50, ((15, 38), (115, 36))),  # soy, then maize
    (0.22, ((20, 42),)),  # soy, then fallow
    (0.12, ((110, 55),)),  # cotton
    (0.16, ((75, 115),)),  # cane
)


def greenness(region: Region, day: int, shift: float = 0.0) -> float:
    """Share of the herb layer that is green, 0-1, by day of the year (before soil moisture)."""
    phase = 0.5 + 0.5 * np.cos(2 * np.pi * (day - region.green_day - shift) / 365.25)
    return float(region.dry_grass + (0.92 - region.dry_grass) * phase**1.3)


def crop_greenness(draws: Array, day: int) -> Array:
    """Green cover of each crop parcel (0-1) on a day of the year; parcels differ by weeks."""
    late = 30.0 * (draws[2] - 0.5)
    share = np.cumsum([s for s, _ in CALENDARS])
    kind = np.searchsorted(share / share[-1], draws[3])
    green = np.zeros(draws.shape[1])
    for number, (_, seasons) in enumerate(CALENDARS):
        for peak, half in seasons:
            away = (day - peak - late + 182.6) % 365.25 - 182.6
            green = np.maximum(green, (kind == number) * np.exp(-((away / half) ** 4)))
    return green


def ground_reflectance(region: Region, land: Land, day: int, shift: float = 0.0) -> Array:
    """Reflectance of level ground in counts, `(6, y, x)`, before light, air and sensor."""
    cover, biomass = land.cover, land.biomass

    def is_class(*names: str) -> Array:
        return np.isin(cover, [CODE[name] for name in names]).astype(float)

    grass = greenness(region, day, shift)
    season = (grass - region.dry_grass) / (0.92 - region.dry_grass)
    grass = np.clip(grass + 0.30 * land.moist * (1.0 - grass) + 0.04 * land.canopy, 0.02, 0.97)
    leaf = region.dry_leaf + (1.0 - region.dry_leaf) * season
    leaf = np.clip(leaf + (1.0 - leaf) * (0.8 * land.moist) + 0.02 * land.canopy, 0.0, 1.0)

    eucalypt, tilled = is_class("plantation"), is_class("cropland")
    town, bare, wet = is_class("urban"), is_class("bare"), is_class("wetland")
    # Eucalypt closes its canopy early and casts little shade.
    trees = 1.0 - np.exp(-biomass / np.where(eucalypt > 0, 18.0, region.closure))
    reach, at = region.shade
    shade = reach * (1.0 - np.exp(-biomass / at)) * np.where(eucalypt > 0, 0.55, 1.0)
    rough = region.rough * (0.25 + 1.5 * biomass / (biomass + 200.0))
    shade = np.clip(shade + rough * land.canopy, 0.0, 0.85) * trees

    # Below and between the trees: herbs over soil.
    herbs = np.choose(cover, _HERBS) * (0.82 + 0.18 * season)
    herbs = np.clip(herbs + 0.05 * land.canopy - 0.18 * land.draws[3][land.parcel]
                    * is_class("pasture") * (1.0 - season), 0.0, 1.0)  # fmt: skip
    crops = crop_greenness(land.draws, day)[land.parcel]
    stubble = np.where(tilled > 0, 0.35 + 0.4 * land.draws[1][land.parcel], 0.0)
    herbs = np.where(tilled > 0, crops + (1 - crops) * stubble, herbs)
    green = np.where(tilled > 0, crops / np.maximum(herbs, 1e-6), grass)
    open_ = 1.0 - trees
    built = town * np.clip(0.62 + 0.16 * land.canopy, 0.1, 0.95) * open_
    open_ = open_ - built
    crown = trees - shade
    soil = open_ * (1.0 - herbs)
    ponds = 0.30 * wet * (0.35 + 0.65 * season) * np.clip(land.moist, 0.0, 1.0)

    shares = np.stack([
        crown * leaf * (1.0 - eucalypt), crown * (1.0 - leaf) * (1.0 - eucalypt), crown * eucalypt,
        shade, open_ * herbs * green * (1.0 - tilled), open_ * herbs * green * tilled,
        open_ * herbs * (1.0 - green), soil * (1.0 - land.soil), soil * land.soil, built,
    ])  # fmt: skip
    members = np.array([
        region.leaf, region.bark, EUCALYPT, SHADE, region.grass, CROP, STRAW, *region.soils, ROOFS,
    ], float)  # fmt: skip
    dry = np.einsum("kb,kyx->byx", members, shares)
    # Wet soil is darker; a patchwork of its own marks each parcel and each tilled field.
    patch = 1.0 + 0.10 * (land.draws[0][land.parcel] - 0.5) * np.maximum(tilled, bare)
    dry *= (1.0 - 0.10 * season * (1.0 - trees)) * patch
    under = np.clip(land.water + ponds, 0.0, 1.0)
    silt = 0.15 + 0.6 * season  # rivers run brown in the rains
    lake = (1.0 - silt) * np.array(CLEAR_WATER) + silt * np.array(SILT_WATER)
    dry += land.road * (np.array(ROAD)[:, None, None] - dry)
    dry += under * (lake[:, None, None] - dry)
    return dry


#: Herb cover of the ground between trees, by class.
_HERBS = (0.93, 0.90, 0.80, 0.86, 0.95, 0.88, 0.0, 0.75, 0.08, 0.30, 0.5)
