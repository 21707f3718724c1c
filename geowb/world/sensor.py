"""Satellites: when they pass, where the sun stands, what the instrument adds."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from geowb.world.fields import Array, Streams

__all__ = ["SENSORS", "noise", "observe", "overpasses", "sun_position"]

#: Repeat of two satellites together (days) and local solar time of the pass (hours).
SENSORS = {"L30": (8, 10.1), "S30": (5, 10.5)}
#: Standard deviation of the point spread, in pixels of 30 m.
_BLUR = {"L30": 0.5, "S30": 0.4}
#: Share of a pixel's light that comes from its surroundings of 600 m, by band.
_ADJACENT = np.array([0.10, 0.07, 0.05, 0.04, 0.015, 0.01])[:, None, None]
#: Scene-wide error of the atmospheric correction, counts.
_CORRECTION = np.array([28, 22, 18, 22, 12, 10])[:, None, None]


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
    >>> round(np.degrees(zenith), 1), abs(round(np.degrees(azimuth)))
    (23.4, 0)
    """
    declination = np.radians(23.44) * np.sin(2 * np.pi * (284 + day) / 365.25)
    angle = np.radians(15.0 * (hour - 12.0))
    phi = np.radians(latitude)
    up = np.sin(phi) * np.sin(declination) + np.cos(phi) * np.cos(declination) * np.cos(angle)
    east = -np.cos(declination) * np.sin(angle)
    north = np.cos(phi) * np.sin(declination) - np.sin(phi) * np.cos(declination) * np.cos(angle)
    return float(np.arccos(up)), float(np.arctan2(east, north))


def observe(light: Array, sensor: str) -> Array:
    """Blur of `(6, y, x)` counts by the optics and by the air (adjacency effect)."""
    spread = _BLUR[sensor]
    sharp = ndimage.gaussian_filter(light, (0, spread, spread), mode="nearest")
    wide = ndimage.uniform_filter(sharp, (0, 21, 21), mode="nearest")
    return sharp + _ADJACENT * (wide - sharp)


def noise(rng: np.random.Generator, signal: Array) -> Array:
    """Noise of the instrument and of the atmospheric correction, in counts."""
    level = 8.0 + 0.004 * signal
    per_band = rng.standard_normal(6)[:, None, None] * _CORRECTION
    return level * rng.standard_normal(signal.shape, dtype=np.float32) + per_band
