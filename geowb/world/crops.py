"""Crops: what each parcel grows and how green it is through the year.

The classes are those of the multi-temporal crop data set, after the Cropland Data Layer of the
USDA. Each crop has a curve of green cover by day of the year, a rise and a fall; parcels are sown
weeks apart and differ in vigour. Days are those of the central Great Plains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from geowb.world.fields import Array, Streams
from geowb.world.land import CODE, Land
from geowb.world.regions import Region

__all__ = ["CALENDAR", "CROPS", "Calendar", "Crops", "sow"]

#: Classes of the multi-temporal crop data set; the code is the position.
CROPS = (
    "natural_vegetation", "forest", "corn", "soybeans", "wetlands", "developed_barren",
    "open_water", "winter_wheat", "alfalfa", "fallow_idle", "cotton", "sorghum", "other",
)  # fmt: skip


@dataclass(frozen=True)
class Calendar:
    """Season of a crop: days of the year at which half of the cover is there, and gone again."""

    rise: float
    rise_days: float
    fall: float
    fall_days: float
    top: float  # green cover at its height, 0-1
    spread: float  # standard deviation of the parcels' dates, days
    rows: float  # share of the green cover that is shade between rows
    leaf: tuple[float, ...]  # counts of the leaves


CALENDAR: Mapping[str, Calendar] = MappingProxyType(
    {
        "corn": Calendar(160, 8, 248, 9, 0.91, 11, 0.14, (300, 700, 345, 4450, 1880, 860)),
        "soybeans": Calendar(179, 9, 256, 7, 0.91, 12, 0.06, (315, 750, 355, 4950, 2100, 970)),
        "winter_wheat": Calendar(78, 11, 160, 7, 0.86, 11, 0.03, (285, 640, 330, 4150, 1780, 790)),
        "alfalfa": Calendar(95, 10, 300, 12, 0.90, 10, 0.03, (295, 690, 330, 4700, 1900, 830)),
        "fallow_idle": Calendar(125, 20, 275, 18, 0.4, 20, 0.02, (420, 780, 540, 3300, 2400, 1300)),
        "cotton": Calendar(190, 10, 278, 8, 0.82, 11, 0.10, (335, 740, 410, 4500, 2230, 1070)),
        "sorghum": Calendar(186, 10, 268, 9, 0.86, 12, 0.13, (318, 710, 385, 4250, 2020, 960)),
        "other": Calendar(145, 12, 225, 10, 0.85, 32, 0.06, (330, 730, 380, 4600, 2050, 950)),
    }
)  # fmt: skip
#: Days between the cuts of alfalfa, and the day of the first.
_CUTS, _FIRST_CUT = 35.0, 146.0


@dataclass(frozen=True)
class Crops:
    """What grows where, on the scene's grid and by parcel."""

    code: NDArray[np.int16]  # (y, x), codes of CROPS
    kind: NDArray[np.int64]  # of each parcel, codes of CROPS
    parcel: NDArray[np.int64]  # (y, x)
    draws: Array  # standard normal numbers of each parcel: date, vigour, litter, leaves; (4, n)

    def green(self, day: float) -> Array:
        """Green cover of each parcel, 0-1.

        >>> one = Crops(np.zeros((1, 1)), np.array([2, 7]), np.zeros((1, 1)), np.zeros((4, 2)))
        >>> one.green(125).round(1), one.green(205).round(1)  # maize, wheat: early May, late July
        (array([0. , 0.8]), array([0.9, 0. ]))
        """
        late, vigour, litter, _ = self.draws
        cover = np.zeros(self.kind.size)
        for name, season in CALENDAR.items():
            d = day - season.spread * np.clip(late, -2.2, 2.2)
            end = season.fall
            if name == "other":  # anything from oats to sunflowers
                end = season.fall + 14.0 * litter
            here = season.top * _step(d - season.rise, season.rise_days)
            here = here * _step(end - d, season.fall_days)
            if name == "winter_wheat":  # sown in October, it stands short over the winter
                short = _step(d - 298.0, 8.0) + _step(104.0 - d, 10.0) * _step(158.0 - d, 6.0)
                here = np.maximum(here, 0.30 * short)
                again = (litter > 0.7) * _step(d - 205.0, 9.0) * _step(272.0 - d, 8.0)
                here = np.maximum(here, 0.75 * again)  # soybeans after wheat
            elif name == "alfalfa":
                since = np.where(d >= _FIRST_CUT, (d - _FIRST_CUT) % _CUTS, _CUTS)
                here = here * (0.18 + 0.82 * (1.0 - np.exp(-((since / 11.0) ** 1.6))))
            elif name == "fallow_idle":  # weeds, until they are sprayed or ploughed in
                here = here * np.exp(0.75 * vigour) * np.where(d > 175.0 + 45.0 * litter, 0.35, 1.0)
            here = np.clip(here * (1.0 + 0.11 * vigour), 0.0, 0.97)
            cover = np.where(self.kind == CROPS.index(name), here, cover)
        return cover

    def litter(self, day: float) -> Array:
        """Share of each parcel's open ground under straw and stubble, 0-1."""
        late, _, litter, _ = self.draws
        kept = 1.0 / (1.0 + np.exp(0.9 - 1.1 * litter))  # from ploughed to no-till
        gone = np.zeros(self.kind.size)
        for name, season in CALENDAR.items():
            d = day - season.spread * np.clip(late, -2.2, 2.2)
            here = 0.85 * _step(d - season.fall, season.fall_days)
            gone = np.where(self.kind == CROPS.index(name), here, gone)
        return np.maximum(kept, gone * (0.6 + 0.4 * kept))

    def sward(self, greenness: Callable[[int], float], day: int) -> Array:
        """Green share of each parcel's grass: species are weeks early or late."""
        late = np.clip(self.draws[0], -2.0, 2.0)
        days = (np.arange(-50, 51, 10), [greenness(day + d) for d in range(-50, 51, 10)])
        return np.interp(-25.0 * late, *days)

    def leaves(self, standard: tuple[float, ...]) -> Array:
        """How the leaves of each parcel's crop differ from `standard`, counts, `(6, parcel)`."""
        of = np.zeros((len(CROPS), 6))
        for name, season in CALENDAR.items():
            of[CROPS.index(name)] = np.subtract(season.leaf, standard)
        tint = 0.07 * self.draws[3] * np.array(standard)[:, None]
        return of[self.kind].T + tint

    @property
    def rows(self) -> Array:
        """Share of each parcel's green cover that is shade between the rows."""
        of = [CALENDAR[name].rows if name in CALENDAR else 0.0 for name in CROPS]
        return np.array(of)[self.kind]


def sow(streams: Streams, region: Region, land: Land) -> Land:
    """Give every parcel of cropland a crop; the mix of crops differs from scene to scene."""
    names = list(region.crops)
    share = np.array([region.crops[name] for name in names])
    mix = streams.rng("crop-mix").dirichlet(9.0 * share / share.sum())
    rng = streams.rng("crops")
    pick = np.searchsorted(np.cumsum(mix), rng.uniform(size=land.draws.shape[1]))
    kind = np.array([CROPS.index(name) for name in names])[np.minimum(pick, len(names) - 1)]
    draws = rng.standard_normal((4, kind.size))
    # Neighbours share weather and machines: half of a parcel's lateness is the scene's.
    draws[0] = 0.85 * draws[0] + 0.5 * rng.standard_normal()
    of = {"forest": "forest", "secondary_forest": "forest", "plantation": "forest",
          "wetland": "wetlands", "urban": "developed_barren", "bare": "developed_barren",
          "water": "open_water"}  # fmt: skip
    table = np.zeros(len(CODE), np.int64)
    for cover, crop in of.items():
        table[CODE[cover]] = CROPS.index(crop)
    code = np.where(land.cover == CODE["cropland"], kind[land.parcel], table[land.cover])
    code = np.where(land.road > 0.4, CROPS.index("developed_barren"), code)
    crops = Crops(code.astype(np.int16), kind, land.parcel, draws)
    return replace(land, crops=crops)


def _step(days: Array | float, width: float) -> Array:
    """Rise from 0 to 1 about day 0."""
    return 1.0 / (1.0 + np.exp(-np.clip(np.asarray(days) / width, -40.0, 40.0)))
