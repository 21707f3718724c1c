"""Land cover and biomass: what stands where.

Natural vegetation follows water and soil; people follow roads and clear whole parcels. A further
layer (a flood, a crop calendar) is a function that takes a `Land` and returns one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from geowb.world.fields import (
    PIXEL,
    Array,
    Grid,
    Streams,
    gaussian_field,
    parcels,
    quarter_sections,
    smoothstep,
)  # fmt: skip
from geowb.world.regions import Region
from geowb.world.terrain import Terrain

if TYPE_CHECKING:
    from geowb.world.crops import Crops

__all__ = ["CLASSES", "CODE", "Land", "make_land"]

#: Land cover classes; the code is the position.
CLASSES = (
    "forest", "secondary_forest", "savanna", "grassland", "wetland",
    "pasture", "cropland", "plantation", "bare", "urban", "water",
)  # fmt: skip
#: Code of each class.
CODE = {name: code for code, name in enumerate(CLASSES)}


@dataclass(frozen=True)
class Land:
    """State of the ground on the scene's grid."""

    cover: NDArray[np.int64]  # codes of CLASSES
    biomass: Array  # Mg/ha
    water: Array  # share of the pixel under water, 0-1
    road: Array  # share of the pixel that is road, 0-1
    moist: Array  # 0 well drained to 1 waterlogged
    soil: Array  # 0 first soil of the region to 1 second
    canopy: Array  # roughness of the canopy, mean 0, variance 1
    leaves: Array  # pigment and water of the leaves of each stand, mean 0, variance 1; (2, y, x)
    parcel: NDArray[np.int64]
    draws: Array  # uniform numbers of each parcel, (4, parcels)
    terrain: Terrain  # on the domain
    slope: tuple[Array, Array]
    crops: Crops | None = None  # what grows on cropland, where the region says so


def make_land(streams: Streams, grid: Grid, region: Region, terrain: Terrain) -> Land:
    """Cover the ground: vegetation, then people, then water; then weigh what grows."""
    crop = grid.crop
    slope = tuple(map(crop, terrain.slope))
    above, distance = crop(terrain.above_stream), crop(terrain.stream_distance)
    width = crop(terrain.stream_width)
    steep = np.hypot(*slope)
    meso = crop(gaussian_field(streams.rng("meso"), grid, 1_500, rough=0.6))
    fine = crop(gaussian_field(streams.rng("fine"), grid, 150, rough=0.3))
    soil = crop(gaussian_field(streams.rng("soil"), grid, 4_000, rough=0.5))
    moist = np.exp(-above / (0.35 * region.floodplain + 0.5))

    cover = _vegetation(region, above, distance, width, meso, fine)
    road_distance, u, v = (crop(a) for a in _roads(streams, grid, region))
    cut, size = (quarter_sections, region.quarter) if region.quarter else (parcels, region.parcel)
    which, edge, count, boxes = cut(streams.rng("parcels"), u, v, size)
    draws = streams.rng("parcel-draws").uniform(size=(4, count.size))
    bank = distance - 0.5 * width < 45.0 + 30.0 * fine  # protected strips along streams
    use = _land_use(streams, grid, region, steep, road_distance, which, count, draws)
    cleared = (use[which] >= 0) & ~bank & (steep + 0.04 * fine < 0.5)
    cover = np.where(cleared, use[which], cover)
    pivot = _pivots(region, which, boxes, u, v, draws, use)
    if region.crops:  # what the arm of a pivot does not reach is left in grass
        corner = cleared & np.isin(which, np.unique(which[pivot])) & ~pivot
        cover = np.where(corner, CODE["grassland"], cover)
    cover = np.where(cleared & pivot, CODE["cropland"], cover)
    town = _town(streams, grid, region)
    cover = np.where((town > 0.5) & ~bank, CODE["urban"], cover)
    water = np.clip((0.5 * width - distance) / PIXEL + 0.5, 0.0, 1.0) * (width > 12.0)
    cover = np.where(water > 0.5, CODE["water"], cover)

    lane = np.clip(1.15 - road_distance / 26.0, 0.0, 1.0) * 0.65
    track = np.clip(1.0 - edge / 22.0, 0.0, 1.0) * 0.35 * cleared
    road = np.maximum(lane, track) * (water < 0.2)
    canopy = crop(gaussian_field(streams.rng("canopy"), grid, 45, rough=0.2))
    leaves = np.stack([
        crop(gaussian_field(streams.rng("leaves", what), grid, 350, rough=0.2))
        for what in ("pigment", "water")
    ])  # fmt: skip
    biomass = _biomass(streams, grid, region, cover, moist, draws[:, which], meso)
    biomass *= (1.0 - water) * (1.0 - road)
    return Land(
        cover, biomass, water, road, moist, smoothstep(soil, -1.5, 1.5), canopy, leaves,
        which, draws, terrain, slope,
    )  # fmt: skip


def _vegetation(
    region: Region, above: Array, distance: Array, width: Array, meso: Array, fine: Array
) -> NDArray[np.int64]:
    """Cover before people: forest where there is rain or groundwater, savanna between."""
    if region.savanna[0] < 0.25 * region.forest[0]:  # forest biomes
        cover = np.full(above.shape, CODE["forest"])
        swamp = (above < 0.25 * region.floodplain) & (meso + 0.3 * fine > 1.1)
        return np.where(swamp, CODE["wetland"], cover)
    if region.crops:  # prairie: wet lows, woods along the larger streams
        wet = (above < 0.6 * region.floodplain) & (meso - 0.4 * fine < -0.5)
        cover = np.where(wet, CODE["wetland"], CODE["grassland"])
        woods = distance - 0.5 * width < np.minimum(6.0 * width, 160.0) + 30.0 * fine + 40.0 * meso
        return np.where(woods & (width > 8.0), CODE["forest"], cover)
    woody = meso + 0.35 * fine + 0.35 * np.tanh(above / 40.0 - 1.0)
    cover = np.full(above.shape, CODE["savanna"])
    cover = np.where(woody < -0.95, CODE["grassland"], cover)
    cover = np.where(woody > 1.35, CODE["forest"], cover)
    vereda = (above < 0.5 * region.floodplain) & (meso - 0.4 * fine < -0.1)
    cover = np.where(vereda, CODE["wetland"], cover)
    gallery = distance - 0.5 * width < 70.0 + 35.0 * fine + 25.0 * meso
    return np.where(gallery, CODE["forest"], cover)


def _roads(streams: Streams, grid: Grid, region: Region) -> tuple[Array, Array, Array]:
    """Distance (m) to the nearest road, and the plane's coordinates along and across roads."""
    rng = streams.rng("roads")
    if region.quarter:
        return _survey(rng, grid, region.quarter)
    angle = rng.uniform(0.0, np.pi)
    shift = rng.uniform(0.0, region.road_spacing, 2)
    south, east = grid.metres
    bend = gaussian_field(rng, grid, 2_500, rough=1.2, inner=200.0) * (60.0 + 2.0 * region.relief)
    stray = [region.crooked * gaussian_field(rng, grid, 500, rough=0.9) for _ in range(2)]
    u = east * np.cos(angle) + south * np.sin(angle) + bend + stray[0]
    v = south * np.cos(angle) - east * np.sin(angle) + bend + stray[1]
    trunk = 3.0 * region.road_spacing
    side = np.abs((u + shift[0]) % region.road_spacing - 0.5 * region.road_spacing)
    main = np.abs((v + shift[1]) % trunk - 0.5 * trunk)
    return np.minimum(side, main), u, v


def _survey(rng: np.random.Generator, grid: Grid, quarter: float) -> tuple[Array, Array, Array]:
    """As `_roads`, of a survey in squares along the meridian: a road on every section's edge."""
    turn, section = rng.uniform(-0.025, 0.025), 2.0 * quarter  # grid north is not quite true north
    east, south = rng.uniform(0.0, section, 2)
    south, east = grid.metres[0] + south, grid.metres[1] + east
    u, v = east + turn * south, south - turn * east
    away = (np.abs((a + quarter) % section - quarter) for a in (u, v))
    return np.minimum(*away), u, v


def _land_use(
    streams: Streams, grid: Grid, region: Region, steep: Array, road: Array,
    which: NDArray[np.int64], count: NDArray[np.int64], draws: Array,
) -> NDArray[np.int64]:  # fmt: skip
    """Cover code that people gave each parcel, or -1 where they left it alone."""
    frontier = grid.crop(gaussian_field(streams.rng("frontier"), grid, 3_500, rough=0.7))
    pull = region.cleared + 0.9 * frontier + 1.6 * np.exp(-road / 700.0) - 0.5
    pull += -4.0 * np.maximum(steep - 0.12, 0.0)
    share = np.bincount(which.ravel(), pull.ravel(), count.size) / np.maximum(count, 1)
    flat = np.bincount(which.ravel(), steep.ravel(), count.size) / np.maximum(count, 1)
    cleared = share > np.log(draws[0] / (1.0 - draws[0])) * 0.45
    names = list(region.uses)
    bounds = np.cumsum([region.uses[name] for name in names])
    pick = np.searchsorted(bounds / bounds[-1], draws[1])
    use = np.array([CODE[name] for name in names])[np.minimum(pick, len(names) - 1)]
    use = np.where((use == CODE["cropland"]) & (flat > 0.15), CODE["pasture"], use)
    return np.where(cleared, use, -1)


def _pivots(
    region: Region, which: NDArray[np.int64], boxes: Array, u: Array, v: Array, draws: Array,
    use: NDArray[np.int64],
) -> NDArray[np.bool_]:  # fmt: skip
    """Centre-pivot circles in some large parcels of crop country."""
    wide = np.minimum(boxes[1] - boxes[0], boxes[3] - boxes[2])
    chosen = (
        (draws[2] < 0.25) & (wide > 600.0) & (use >= 0) & (region.uses.get("cropland", 0) > 0.4)
    )
    cu, cv = 0.5 * (boxes[0] + boxes[1]), 0.5 * (boxes[2] + boxes[3])
    away = np.hypot(u - cu[which], v - cv[which])
    return chosen[which] & (away < 0.46 * wide[which])


def _town(streams: Streams, grid: Grid, region: Region) -> Array:
    """Built-up tendency (a town is where it exceeds 0.5): one in some scenes."""
    rng = streams.rng("town")
    here = rng.uniform() < 0.35 + 0.35 * np.tanh(region.cleared)
    y, x = rng.uniform(0.15, 0.85, 2) * grid.n * PIXEL
    radius = rng.uniform(300.0, 1_400.0)
    ragged = gaussian_field(rng, grid, 500, rough=0.5)
    south, east = grid.metres
    away = grid.crop(np.hypot(south - y, east - x)) / radius
    return np.where(here, np.exp(-away * away) + 0.16 * grid.crop(ragged) * np.exp(-away), 0.0)


def _biomass(
    streams: Streams, grid: Grid, region: Region, cover: NDArray[np.int64], moist: Array,
    draws: Array, meso: Array,
) -> Array:  # fmt: skip
    """Above-ground biomass of each pixel (Mg/ha)."""
    stand = grid.crop(gaussian_field(streams.rng("stand"), grid, 700, rough=0.25))
    fine = grid.crop(gaussian_field(streams.rng("trees"), grid, 40, rough=0.15))
    mean, spread = region.forest
    # Old forest: regional gradient, stands, gaps at the scale of a pixel; edges lose trees.
    tall = mean + spread * (0.45 * meso + 0.65 * stand + 0.6 * fine - 0.5 * moist)
    is_forest = (cover == CODE["forest"]) | (cover == CODE["secondary_forest"])
    inside = PIXEL * ndimage.distance_transform_edt(np.pad(is_forest, 1, mode="edge"))[1:-1, 1:-1]
    tall *= 1.0 - 0.25 * np.exp(-inside / 90.0)
    tall = np.maximum(tall, 0.12 * mean)
    # Regrowth by age, Chapman-Richards; ages are those of the parcels.
    age = 2.0 + 38.0 * draws[3] ** 1.3
    young = (
        region.regrowth * (1.0 - np.exp(-0.045 * age)) ** 1.2 * np.exp(0.22 * stand + 0.2 * fine)
    )
    low, dev = region.savanna
    open_wood = low * np.exp(dev / low * (0.65 * meso + 0.5 * stand + 0.75 * fine) - 0.1)
    eucalypt = 150.0 * (1.0 - np.exp(-0.32 * (0.5 + 7.0 * draws[3]))) ** 2.2 * np.exp(0.08 * fine)
    # Trees left standing in pasture, more where it is neglected.
    weedy = 2.0 + 14.0 * draws[3] ** 3 + 9.0 * np.maximum(fine - 1.3, 0.0) * (1.0 + draws[2])
    crop = 2.0 + 4.0 * draws[2]
    town = 6.0 * np.exp(0.7 * fine)
    table = {
        "forest": tall, "secondary_forest": young, "savanna": open_wood,
        "grassland": 3.5 * np.exp(0.5 * stand + 0.4 * fine),
        "wetland": 0.35 * low * np.exp(0.6 * stand + 0.3 * fine),
        "pasture": weedy, "cropland": crop, "plantation": eucalypt,
        "bare": 0.5 * np.exp(0.5 * fine), "urban": town, "water": np.zeros_like(tall),
    }  # fmt: skip
    return np.clip(np.choose(cover, [table[name] for name in CLASSES]), 0.0, 700.0)
