"""What happens to a scene: floods and fires, and the layers that say where."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geowb.world.fields import Array, Grid, Streams
from geowb.world.fires import Fire, make_fire
from geowb.world.floods import SEEN, Flood, make_flood

if TYPE_CHECKING:
    from geowb.world.spectra import Surface

__all__ = ["Events", "happen", "layers"]


@dataclass(frozen=True)
class Events:
    """What happened by the last date."""

    last: dt.date
    flood: Flood | None = None
    open_water: Array | None = None  # share of each pixel that is open water in the flood
    fire: Fire | None = None


def happen(
    streams: Streams, grid: Grid, surface: Surface, last: dt.date, *, flood: bool, fire: bool
) -> Events:
    """Draw the events of a scene whose last image is of the day `last`."""
    from geowb.world.spectra import season_shift

    burnt = make_fire(streams, grid, surface.land, last) if fire else None
    if not flood:
        return Events(last, fire=burnt)
    risen = make_flood(streams, grid, surface.region, surface.land)
    day, shift = last.timetuple().tm_yday, season_shift(streams, last.year)
    shares, _ = surface.shares(day, shift)
    if burnt is not None:
        shares = burnt.scar(shares, last, surface.season(day, shift))
    seen = risen.seen(surface.trees, surface.herbs(shares))
    return Events(last, risen, np.maximum(seen, surface.land.water), burnt)


def layers(events: Events, surface: Surface, hidden: NDArray[np.bool_]) -> dict[str, tuple]:
    """Labels on the scene's grid; -1 where the sky hides the ground on the last date."""
    plane, found = ("y", "x"), {}
    if surface.land.crops is not None:
        found["crop"] = (plane, surface.land.crops.code)
    if events.open_water is not None:
        water = np.where(hidden, -1, events.open_water >= SEEN)
        found["flood"] = (plane, water.astype(np.int16))
    if events.fire is not None:
        burnt = events.fire.day > 0
        days = events.fire.day - dt.date(1970, 1, 1).toordinal()
        when = np.where(burnt, days.astype("M8[D]"), np.datetime64("NaT"))
        severity = np.where(burnt, events.fire.severity, np.nan)
        found["burn"] = (plane, np.where(hidden, -1, burnt).astype(np.int16))
        found["burn_severity"] = (plane, severity.astype(np.float32))
        found["burn_date"] = (plane, when.astype("M8[ns]"))
    return found
