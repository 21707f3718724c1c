"""GEDI shots: sparse biomass labels along ground tracks.

Geometry and errors follow the GEDI mission (Dubayah et al. 2020) and the L4A product (Kellner et
al. 2023): eight tracks 600 m apart, footprints of 25 m every 60 m, horizontal errors of about 10 m.
"""

from __future__ import annotations

import numpy as np

from geowb.world.fields import PIXEL, Array, Grid, Streams
from geowb.world.regions import Region

__all__ = ["ACROSS", "ALONG", "GEOLOCATION", "overpass", "shots"]

#: Distance of footprints along a track and of tracks from each other, in metres.
ALONG, ACROSS = 60.0, 600.0
#: Horizontal geolocation error (one standard deviation along each axis), in metres.
GEOLOCATION = 7.0


def overpass(
    rng: np.random.Generator, side: float, latitude: float
) -> tuple[Array, Array, Array, Array]:
    """Footprints of one overpass of a square scene of `side` metres, and of what lies about it.

    Returns rows: east and south of the scene's north-west corner (m), track 0-7 and number along
    the track. Tracks 0-3 are those of the weaker coverage beams. How many footprints there are
    depends on `side` alone.
    """
    heading = ground_heading(latitude, descending=bool(rng.uniform() < 0.5))
    east, north = np.sin(heading), np.cos(heading)
    reach = 0.75 * side + 4_000.0
    number = np.arange(-int(reach / ALONG), int(reach / ALONG) + 1)
    track = np.arange(8)
    offset = rng.uniform(-0.5, 0.5) * side
    start = rng.uniform(0.0, ALONG, 8)
    along = number[None, :] * ALONG + start[:, None]
    across = np.broadcast_to(((track - 3.5) * ACROSS + offset)[:, None], along.shape)
    x = 0.5 * side + along * east + across * north
    y = 0.5 * side - along * north + across * east
    tracks, numbers = np.broadcast_arrays(track[:, None], number[None, :])
    return x.ravel(), y.ravel(), tracks.ravel(), numbers.ravel()


def ground_heading(latitude: float, *, descending: bool) -> float:
    """Direction of the ground track in radians clockwise from north.

    The orbit is inclined by 51.6 degrees, and the Earth turns east below it.

    >>> round(float(np.degrees(ground_heading(-5.4, descending=True))), 1)
    144.4
    """
    phi = np.radians(latitude)
    inertial = np.arcsin(np.cos(np.radians(51.6)) / np.cos(phi))
    east = 7.20 * np.sin(inertial) - 0.465 * np.cos(phi)  # km/s
    north = 7.20 * np.cos(inertial)
    return float(np.arctan2(east, -north if descending else north))


def shots(
    streams: Streams, grid: Grid, region: Region, biomass: Array, fraction: float, latitude: float
) -> tuple[Array, Array]:
    """Measured biomass and its standard error on the grid (Mg/ha), NaN between shots.

    Overpasses are added until `fraction` of the pixels is reached. An overpass loses stretches
    of its tracks to clouds, single shots to poor waveforms (more on the four weaker coverage
    beams), and all shots over water. A shot sees the biomass where it fell, which is not quite
    where it is written down, and its error is normal in the square root of biomass.
    """
    size = grid.size
    wanted = round(fraction * size * size)
    agb = np.full((size, size), np.nan)
    se = np.full((size, size), np.nan)
    done = 0
    for number in range(400):
        if done >= wanted:
            break
        rng = streams.rng("gedi", number)
        x, y, track, along = overpass(rng, size * PIXEL, latitude)
        # Drawn for all shots, inside or not, so that what one shot meets moves no other.
        jitter = rng.standard_normal((2, x.size)) * GEOLOCATION
        error = rng.standard_normal(x.size) * region.shot_error
        fail = rng.uniform(size=x.size) < np.where(track < 4, 0.35, 0.12)
        veil = _clouds(rng, along, track)
        col, row = np.floor(x / PIXEL).astype(int), np.floor(y / PIXEL).astype(int)
        inside = (col >= 0) & (col < size) & (row >= 0) & (row < size)
        keep = np.flatnonzero(inside & ~fail & (veil < 1.0))
        # The shot falls a little beside the place that is written down.
        to = np.clip((np.stack([x, y]) + jitter)[:, keep] / PIXEL, 0, size - 1).astype(int)
        truth = np.zeros(x.size)
        truth[keep] = biomass[to[1], to[0]]
        keep = keep[(truth[keep] > 0.0) & np.isnan(agb[row[keep], col[keep]])]
        # One overpass gives at most a third of the shots: the clearest stretches of its tracks.
        keep = keep[np.argsort(veil[keep], kind="stable")][: min(wanted - done, -(-wanted // 3))]
        row, col, truth = row[keep], col[keep], truth[keep]
        root = np.maximum(np.sqrt(truth) + error[keep], 1.0)  # the product starts at 1 Mg/ha
        agb[row, col] = root * root
        se[row, col] = 2.0 * root * region.shot_error
        done = int(np.isfinite(agb).sum())
    return agb, se


def _clouds(rng: np.random.Generator, along: Array, track: Array) -> Array:
    """Cloud above each shot (0 mean, variance 1): long waves that cross all tracks aslant."""
    waves = np.exp(rng.uniform(np.log(60.0), np.log(600.0), 6))  # in shots: 4-36 km
    phase, slant = rng.uniform(0.0, 2 * np.pi, 6), rng.uniform(-0.6, 0.6, 6)
    angle = 2 * np.pi * along[:, None] / waves + phase + slant * track[:, None]
    return np.cos(angle).sum(1) / np.sqrt(3.0)
