"""Satellites: when they pass, where the sun stands, what the instrument adds."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from geowb.world.clouds import cloud_cover
from geowb.world.fields import Array, Streams
from geowb.world.regions import Region

__all__ = [
    "SENSORS",
    "Acquisition",
    "acquisitions",
    "noise",
    "observe",
    "overpasses",
    "sun_position",
]

#: Repeat of two satellites together (days) and local solar time of the pass (hours).
SENSORS = {"L30": (8, 10.1), "S30": (5, 10.5)}
#: Standard deviation of the point spread, in pixels of 30 m.
_BLUR = {"L30": 0.5, "S30": 0.4}
#: Standard deviation of the misregistration of one date, in pixels.
_REGISTRATION = 0.2
#: Share of a pixel's light that comes from its surroundings of 600 m, by band.
_ADJACENT = np.array([0.10, 0.07, 0.05, 0.04, 0.015, 0.01])
#: Scene-wide error of the atmospheric correction, counts.
_CORRECTION = np.array([35, 30, 25, 35, 25, 20])


@dataclass(frozen=True)
class Acquisition:
    """One image to be: day, sensor and the share of the sky under cloud."""

    cover: float
    day: dt.date
    sensor: str


def acquisitions(
    streams: Streams, region: Region, first: dt.date, dates: int, every: int, max_cloud: float
) -> Iterator[Acquisition]:
    """Choose images `every` so many days: the first pass with at most `max_cloud` of cover.

    Where none is found before the next image's turn, the clearest pass is taken. The weather of
    a day does not depend on which days are asked for.
    """
    after = first
    for number in range(dates):
        begin = max(first + dt.timedelta(days=number * every), after)
        tried: list[Acquisition] = []
        for day, sensor in overpasses(streams, begin):
            rng = streams.rng("cover", day.isoformat())
            cover = cloud_cover(rng, region, day.timetuple().tm_yday)
            tried.append(Acquisition(cover, day, sensor))
            if cover <= max_cloud or (day - begin).days >= max(every, 8):
                break
        best = min(tried, key=lambda a: a.cover)
        after = best.day + dt.timedelta(days=1)
        yield best


def overpasses(streams: Streams, start: dt.date) -> Iterator[tuple[dt.date, str]]:
    """Days from `start` on which a sensor of the HLS constellation passes.

    The day within each repeat cycle depends on the scene's place (the seed), not on `start`.
    """
    rng = streams.rng("orbits")
    phase = {name: int(rng.integers(repeat)) for name, (repeat, _) in SENSORS.items()}
    day = start
    while True:
        for name, (repeat, _) in SENSORS.items():
            if (day.toordinal() - phase[name]) % repeat == 0:
                yield day, name
                break
        day += dt.timedelta(days=1)


def sun_position(day: int, hour: float, latitude: float) -> tuple[float, float]:
    """Zenith and azimuth (radians, clockwise from north) by day of year and local solar time.

    >>> zenith, azimuth = sun_position(172, 12.0, 0.0)  # June solstice, noon, Equator
    >>> round(float(np.degrees(zenith)), 1), abs(round(np.degrees(azimuth)))
    (23.4, 0)
    """
    declination = np.radians(23.44) * np.sin(2 * np.pi * (284 + day) / 365.25)
    angle = np.radians(15.0 * (hour - 12.0))
    phi = np.radians(latitude)
    up = np.sin(phi) * np.sin(declination) + np.cos(phi) * np.cos(declination) * np.cos(angle)
    east = -np.cos(declination) * np.sin(angle)
    north = np.cos(phi) * np.sin(declination) - np.sin(phi) * np.cos(declination) * np.cos(angle)
    return float(np.arccos(up)), float(np.arctan2(east, north))


def observe(rng: np.random.Generator, light: Array, sensor: str) -> Array:
    """Blur `(6, y, x)` counts by the optics and by the air, and lay them a little off the grid."""
    taps = np.arange(-3, 4)
    kernels = [np.exp(-0.5 * ((taps - off) / _BLUR[sensor]) ** 2)
               for off in _REGISTRATION * rng.standard_normal(2)]  # fmt: skip
    seen, middle = np.empty_like(light), np.empty_like(light[0])
    for band, share in enumerate(_ADJACENT):
        ndimage.correlate1d(light[band], kernels[0] / kernels[0].sum(), 0, middle, "nearest")
        ndimage.correlate1d(middle, kernels[1] / kernels[1].sum(), 1, seen[band], "nearest")
        around = ndimage.uniform_filter(seen[band], 21, mode="nearest")
        around -= seen[band]
        around *= share
        seen[band] += around
    return seen


def noise(rng: np.random.Generator, signal: Array) -> Array:
    """Noise of the instrument, and what view angle and atmospheric correction leave, in counts."""
    added = np.empty_like(signal)
    gain = 0.02 * rng.standard_normal()
    for band, error in enumerate(_CORRECTION * rng.standard_normal(6)):
        added[band] = 8.0 + 0.006 * signal[band]
        added[band] *= rng.standard_normal(signal.shape[1:], np.float32)
        added[band] += gain * signal[band] + error
    return added
