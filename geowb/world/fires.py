"""Fires: where they ran, how hot, and how the scar fades.

A fire spreads from where it was lit by the shortest time of travel through fuel, faster downwind
(Finney 2002 for the method), and stops at water, roads and ground with little to burn. What it
takes away turns to char and ash; both fade, and grass comes back.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from geowb.world.fields import Array, Grid, Streams, gaussian_field
from geowb.world.land import CLASSES, CODE, Land

__all__ = ["ASH", "CHAR", "LONGEST", "Fire", "make_fire"]

#: Reflectance of what burnt, in counts: black carbon on the ground, and white ash.
CHAR = (270, 330, 390, 540, 1000, 1180)
ASH = (1350, 1550, 1750, 2150, 2650, 2550)

#: Fires are lit at most so many days before the last image.
LONGEST = 100

#: Speed of fire by land cover, relative; and the severity that it has there on average.
_FUEL = {"forest": (0.22, 0.68), "secondary_forest": (0.40, 0.70), "savanna": (0.90, 0.68),
         "grassland": (1.0, 0.76), "wetland": (0.25, 0.50), "pasture": (0.75, 0.70),
         "cropland": (0.35, 0.60), "plantation": (0.50, 0.70)}  # fmt: skip
#: Side of a cell of the graph on which fires spread, in pixels.
_CELL = 4


@dataclass(frozen=True)
class Fire:
    """What has burnt by the last image, on the scene's grid."""

    severity: Array  # share of the leaves and herbs consumed or killed, 0-1; 0 where unburnt
    day: NDArray[np.int64]  # ordinal day of the fire, 0 where unburnt

    def scar(self, shares: Array, today: dt.date, season: float) -> Array:
        """Shares of end-members `(10, y, x)` after the fire, with those of char and ash behind.

        `season` is the state of the year, 0 (driest) to 1 (greenest).
        """
        age = today.toordinal() - self.day
        burnt = (self.day > 0) & (age > 0)
        age = np.where(burnt, age, 0).astype(float)
        severity = np.where(burnt, self.severity, 0.0)
        parts = list(shares.copy())
        # Crowns are scorched: part of the leaves is consumed, part hangs brown or falls.
        leaves = severity * (parts[0] + parts[1])
        parts[0] *= 1.0 - severity
        parts[1] *= 1.0 - severity
        herbs = np.clip(0.25 + 0.9 * severity, 0.0, 1.0) * (severity > 0)
        taken = herbs * (parts[4] + parts[5] + parts[6])
        for part in (4, 5, 6):
            parts[part] *= 1.0 - herbs
        twigs = 0.75 * severity * parts[2]
        parts[2] += 0.25 * leaves - twigs
        lit = 0.85 * severity * parts[3]  # no leaves that let the NIR through, less shade
        parts[3] -= lit
        soot = 0.8 * herbs * severity
        bare = soot * (parts[7] + parts[8])
        parts[7] *= 1.0 - soot
        parts[8] *= 1.0 - soot
        bed = taken + 0.75 * leaves + twigs + lit + bare
        woody = leaves / np.maximum(leaves + taken, 1e-9)
        lasts = 80.0 + 120.0 * (1.0 - season) + 150.0 * woody  # days: rain and growth end it
        char = np.exp(-age / lasts) * (0.72 + 0.27 * severity)
        ash = np.minimum(0.16 * severity * np.exp(-age / 9.0), 1.0 - char)
        grown = (1.0 - woody) * (1.0 - np.exp(-((age / 70.0) ** 1.5))) * (0.15 + 0.85 * season)
        left = 1.0 - char - ash
        back = bed * np.minimum(grown, left)
        parts[4] += back
        soil = bed * left - back
        both = np.maximum(parts[7] + parts[8], 1e-9)
        first = np.where(both > 1e-6, parts[7] / both, 0.5)
        parts[7] += soil * first
        parts[8] += soil * (1.0 - first)
        return np.stack([*parts, bed * char, bed * ash])


def make_fire(streams: Streams, grid: Grid, land: Land, last: dt.date) -> Fire:
    """Burn one to four pieces of the scene in the `LONGEST` days before `last`."""
    rng = streams.rng("fires")
    size = grid.size
    speed, base = (np.zeros(len(CLASSES)) for _ in range(2))
    for name, (fast, hot) in _FUEL.items():
        speed[CODE[name]], base[CODE[name]] = fast, hot
    patchy = grid.crop(gaussian_field(streams.rng("fires", "fuel"), grid, 700, rough=0.4))
    fine = grid.crop(gaussian_field(streams.rng("fires", "fine"), grid, 130, rough=0.3))
    fuel = speed[land.cover] * np.exp(0.55 * patchy) * (1.0 - 0.75 * land.moist)
    fuel *= np.where(land.cover == CODE["pasture"], 0.4 + 1.2 * land.draws[3][land.parcel], 1.0)
    fuel *= np.where(land.cover == CODE["cropland"], _stubble(land, last), 1.0)
    fuel *= (land.water < 0.3) * (1.0 - 0.8 * np.clip(land.road / 0.5, 0.0, 1.0))
    cells = _coarse(fuel)
    many = 1 + int(rng.integers(4))
    share = float(np.clip(0.11 * np.exp(0.75 * rng.standard_normal()), 0.01, 0.4))
    parts = rng.dirichlet(np.full(many, 2.0)) * share
    burnt = np.zeros((size, size), bool)
    day = np.zeros((size, size), np.int64)
    heat = np.zeros((size, size))
    for part in parts:
        start = rng.uniform(size=2)
        wind, gale = rng.uniform(0.0, 2 * np.pi), rng.uniform(0.2, 0.75)
        before = 1 + int((LONGEST - 1) * rng.uniform() ** 1.8)
        weather = 0.10 * rng.standard_normal()
        arrival = _spread(cells, start, wind, gale)
        arrival = ndimage.zoom(arrival, _CELL, order=1, mode="nearest", grid_mode=True)
        arrival = arrival[:size, :size] * np.exp(0.05 * fine)
        # Damp and sparse ground is left out as islands.
        open_to = (fuel > 0.05) & (fine - 0.9 * land.moist + 0.6 * patchy > -1.9)
        free = np.where(open_to & ~burnt, arrival, np.inf)
        limit = np.partition(free.ravel(), k := min(int(part * size * size), size * size - 1))[k]
        here = free < (limit if np.isfinite(limit) else np.inf)
        burnt |= here
        day[here] = last.toordinal() - before
        heat[here] = weather
    severity = base[land.cover] + heat + 0.12 * patchy + 0.08 * fine - 0.25 * land.moist
    # What hardly burnt is left out, as maps of burn scars do.
    burnt &= severity > 0.2
    return Fire(np.where(burnt, np.minimum(severity, 1.0), 0.0), np.where(burnt, day, 0))


def _stubble(land: Land, last: dt.date) -> Array:
    """Speed of fire in cropland, relative: dry fields with straw carry it, others stop it."""
    if land.crops is None:
        return (land.draws[1] > 0.55)[land.parcel] + 0.03
    day = last.timetuple().tm_yday - LONGEST / 3.0
    dry = (land.crops.green(day) < 0.3) & (land.crops.litter(day) > 0.45)
    return dry[land.parcel] + 0.03


def _coarse(fuel: Array) -> Array:
    """Speed in each cell: the mean, held back by what breaks the fuel."""
    pad = -fuel.shape[0] % _CELL
    full = np.pad(fuel, (0, pad), mode="edge")
    m = full.shape[0] // _CELL
    blocks = full.reshape(m, _CELL, m, _CELL)
    return 0.7 * blocks.mean((1, 3)) + 0.3 * blocks.min((1, 3)) + 1e-3


def _spread(speed: Array, start: Array, wind: float, gale: float) -> Array:
    """Time at which the fire reaches each cell from the one nearest to `start` that burns well."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import dijkstra

    m = speed.shape[0]
    axis = (np.arange(m) + 0.5) / m
    away = np.hypot(axis[:, None] - start[0], axis[None, :] - start[1])
    lit = int(np.argmin(away - 0.15 * np.minimum(speed / np.median(speed), 2.0)))
    index = np.arange(m * m).reshape(m, m)
    rows, cols, times = [], [], []
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            if not (dy or dx):
                continue
            a = (slice(max(0, -dy), m - max(0, dy)), slice(max(0, -dx), m - max(0, dx)))
            b = (slice(max(0, dy), m + min(0, dy)), slice(max(0, dx), m + min(0, dx)))
            along = np.cos(np.arctan2(dy, dx) - wind)
            slow = (1.0 - gale * along) / (1.0 - gale)  # an ellipse with the fire at its focus
            rows.append(index[a].ravel())
            cols.append(index[b].ravel())
            times.append((np.hypot(dy, dx) * slow * 0.5 * (1 / speed[a] + 1 / speed[b])).ravel())
    graph = coo_array(
        (np.concatenate(times), (np.concatenate(rows), np.concatenate(cols))), (m * m, m * m)
    ).tocsr()
    return dijkstra(graph, indices=lit).reshape(m, m)
