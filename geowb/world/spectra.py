"""Seasons and spectra: from the state of the ground to its reflectance.

Each pixel is a linear mixture of end-members (Adams et al. 1986; Roberts et al. 1998): sunlit
leaves, bark and twigs, crown shade, green and dry grass, crops, soil, water, roofs. Biomass shows
through crown closure and crown shade, both of which level off, and through canopy roughness.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import numpy as np

from geowb.world.fields import Array, Streams, smoothstep
from geowb.world.fires import ASH, CHAR
from geowb.world.land import CODE, Land
from geowb.world.regions import Region

if TYPE_CHECKING:
    from geowb.world.fires import Fire
    from geowb.world.floods import Flood

__all__ = ["Surface", "crop_greenness", "greenness", "season_shift"]

#: End-members that regions share, in counts; order of the bands as in geowb.HLS6.
STRAW = (560, 850, 1170, 2250, 3150, 2100)
SHADE = (110, 150, 90, 750, 300, 110)
CROP = (330, 730, 380, 4700, 2050, 950)
EUCALYPT = (250, 480, 300, 3200, 1450, 600)
CLEAR_WATER = (300, 380, 270, 160, 70, 45)
SILT_WATER = (620, 980, 1100, 620, 130, 80)
ROOFS = (1150, 1400, 1600, 2250, 2500, 2250)
ROAD = (1000, 1400, 2050, 2750, 3400, 3050)

#: How far reflectance follows the pigment and the water of leaves, by band: species differ.
PIGMENT = (0.09, 0.06, 0.11, 0.055, 0.03, 0.05)
WATER = (0.02, 0.02, 0.03, 0.01, 0.09, 0.13)

#: Crop calendars: (share, ((day of fullest growth, half-width in days), ...)).
CALENDARS = (
    (0.50, ((15, 38), (115, 36))),  # soy, then maize
    (0.22, ((20, 42),)),  # soy, then fallow
    (0.12, ((110, 55),)),  # cotton
    (0.16, ((75, 115),)),  # cane
)


def season_shift(streams: Streams, year: int) -> float:
    """By how many days a year's seasons are late."""
    return float(10.0 * streams.rng("season", year).standard_normal())


def greenness(region: Region, day: int, shift: float = 0.0) -> float:
    """Share of the herb layer that is green, 0-1, by day of the year (before soil moisture)."""
    phase = 0.5 + 0.5 * np.cos(2 * np.pi * (day - region.green_day - shift) / 365.25)
    return float(region.dry_grass + (0.92 - region.dry_grass) * smoothstep(phase, 0.08, 0.75))


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


class Surface:
    """The ground's mixture of end-members; what does not change with the season is kept."""

    def __init__(self, region: Region, land: Land) -> None:
        self.region, self.land = region, land
        biomass = land.biomass
        self.eucalypt, self.tilled, self.town, self.pasture, self.wet = (
            (land.cover == CODE[name]).astype(float)
            for name in ("plantation", "cropland", "urban", "pasture", "wetland")
        )
        # Eucalypt closes its canopy early and casts little shade.
        closure = np.where(self.eucalypt > 0, 18.0, region.closure)
        self.trees = 1.0 - np.exp(-biomass / closure)
        reach, at = region.shade
        shade = reach * (1.0 - np.exp(-biomass / at)) * (1.0 - 0.45 * self.eucalypt)
        rough = region.rough * (0.25 + 1.5 * biomass / (biomass + 200.0))
        self.shade = self.trees * np.clip(shade + rough * land.canopy, 0.0, 0.85)
        below = 1.0 - self.trees
        self.built = below * self.town * np.clip(0.62 + 0.16 * land.canopy, 0.1, 0.95)
        self.open = below - self.built
        self.draws = land.draws[:, land.parcel]
        self.grazed = np.maximum(self.pasture, land.cover == CODE["grassland"])

    def season(self, day: int, shift: float) -> float:
        """State of the year, 0 (driest) to 1 (greenest)."""
        driest = self.region.dry_grass
        return (greenness(self.region, day, shift) - driest) / (0.92 - driest)

    def shares(self, day: int, shift: float) -> tuple[Array, Array]:
        """Share of each end-member in each pixel, and of standing water."""
        region, land, tilled = self.region, self.land, self.tilled
        base = greenness(region, day, shift)
        season = self.season(day, shift)
        if land.crops is not None:  # swards of cool and of warm season grasses
            base = land.crops.sward(lambda d: greenness(region, d, shift), day)[land.parcel]
        # Wet ground stays green for longer; some soils hold less water.
        change = 4.0 * season * (1.0 - season)
        grass = base + 0.35 * land.moist * (1.0 - base) + 0.03 * land.canopy
        grass = np.clip(grass + 0.25 * change * (0.5 - land.soil), 0.02, 0.97)
        leaf = region.dry_leaf + (1.0 - region.dry_leaf) * season
        leaf = np.clip(leaf + (1.0 - leaf) * 0.8 * land.moist + 0.02 * land.canopy, 0.0, 1.0)
        leaf = leaf + self.eucalypt * (1.0 - leaf)
        # Herbs over soil below and between the trees; overgrazed pasture thins in the dry season.
        herbs = np.take(_HERBS, land.cover) * (0.85 + 0.15 * season) + 0.08 * land.canopy
        if land.crops is not None:
            herbs += 0.12 * self.grazed * land.crops.draws[1][land.parcel]
        herbs -= 0.20 * (1.0 - season) * self.draws[3] * self.pasture
        if land.crops is None:
            crops = crop_greenness(land.draws, day)[land.parcel]
            stubble = 0.35 + 0.45 * self.draws[1]
        else:
            crops = land.crops.green(day - shift)[land.parcel] * (1.0 + 0.04 * land.canopy)
            crops, stubble = np.clip(crops, 0.0, 0.98), land.crops.litter(day - shift)[land.parcel]
        herbs = np.where(tilled > 0, crops + (1.0 - crops) * stubble, np.clip(herbs, 0.0, 1.0))
        green = np.where(tilled > 0, crops / np.maximum(herbs, 0.1), grass)
        crown = self.trees - self.shade
        fresh = self.open * herbs * green
        bare = self.open * (1.0 - herbs)
        dry, dark = self.open * herbs - fresh, self.shade
        if land.crops is not None:
            rows = fresh * tilled * land.crops.rows[land.parcel]
            fresh, dark = fresh - rows, dark + rows
        ponds = 0.30 * self.wet * (0.35 + 0.65 * season) * land.moist
        parts = (
            crown * leaf * (1.0 - self.eucalypt), crown * leaf * self.eucalypt,
            crown * (1.0 - leaf), dark, fresh * (1.0 - tilled), fresh * tilled,
            dry, bare * (1.0 - land.soil), bare * land.soil, self.built,
        )  # fmt: skip
        return np.stack(parts), np.clip(land.water + ponds, 0.0, 1.0)

    def herbs(self, shares: Array) -> Array:
        """Share of the ground between trees that is under herbs, from the `shares` of a day."""
        return np.clip(shares[4:7].sum(0) / np.maximum(self.open, 0.05), 0.0, 1.0)

    def reflectance(
        self, day: int, shift: float = 0.0, *, fire: Fire | None = None,
        today: dt.date = dt.date.min, flood: Flood | None = None,
    ) -> Array:  # fmt: skip
        """Level ground in counts, `(6, y, x)`, before light, air and sensor.

        Of a `fire` it shows what burnt before `today`; a `flood` stands on the ground as it is.
        """
        region, land = self.region, self.land
        members = np.array([
            region.leaf, EUCALYPT, region.bark, SHADE, region.grass, CROP, STRAW,
            *region.soils, ROOFS, CHAR, ASH,
        ], float)  # fmt: skip
        shares, water = self.shares(day, shift)
        season = self.season(day, shift)
        if fire is not None:
            shares = fire.scar(shares, today, season)
        members = members[: len(shares)]
        # Wet soil is darker, and tilled fields differ from each other.
        tone = (
            1.0
            - 0.10 * season * self.open
            + 0.025 * land.canopy * self.open
            + 0.10 * (self.draws[0] - 0.5) * self.tilled
        )
        silt = 0.15 + 0.6 * season  # rivers run brown in the rains
        lake = (1.0 - silt) * np.array(CLEAR_WATER) + silt * np.array(SILT_WATER)
        pigment, moisture = land.leaves
        counts = np.einsum("kb,kyx->byx", members, shares)
        if land.crops is not None:
            for level, leaf in zip(counts, land.crops.leaves(CROP), strict=True):
                level += shares[5] * leaf[land.parcel]
        for band, level in enumerate(counts):
            level *= tone + self.trees * (PIGMENT[band] * pigment + WATER[band] * moisture)
            level += land.road * (ROAD[band] - level)
            level += water * (lake[band] - level)
        if flood is not None:
            flood.cover_ground(counts, self.trees, self.herbs(shares))
        return counts


#: Herb cover of the ground between trees, by class.
_HERBS = np.array([0.93, 0.92, 0.84, 0.88, 0.95, 0.92, 0.0, 0.75, 0.08, 0.30, 0.5])
