"""One call that makes a scene."""

from __future__ import annotations

import datetime as dt
import math
from typing import TYPE_CHECKING

from geowb.errors import RequestError, did_you_mean
from geowb.world.regions import REGIONS

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["VERSION", "place", "scene"]

#: Version of the world. It changes whenever any scene changes: see tests/test_world_version.py.
VERSION = "1.0"

#: Pitch of the lattice on which scenes lie, in pixels.
_PITCH = 512


def place(region: str, seed: int, size: int = _PITCH) -> tuple[int, int, int]:
    """EPSG code and north-west corner (m) of a scene.

    Scenes of one region and of different seeds do not overlap while the seeds differ by less
    than the number of places that the region has (`columns x rows` of its lattice at up to 512
    pixels; fewer for larger scenes).
    """
    where = REGIONS[region]
    step = max(1, -(-size // _PITCH))
    columns, rows = (max(1, n // step) for n in where.slots)
    places = columns * rows
    stride = next(s for s in range(int(0.618 * places) or 1, 0, -1) if math.gcd(s, places) == 1)
    row, column = divmod(seed * stride % places, columns)
    pitch = step * _PITCH * 30
    return where.epsg, where.left + column * pitch, where.top - row * pitch


def scene(
    region: str = "cerrado",
    *,
    seed: int = 0,
    size: int = 512,
    dates: int = 3,
    clouds: bool = True,
    gedi_fraction: float = 0.005,
    start: str = "2022-04-20",
    every: int = 56,
    max_cloud: float = 0.7,
) -> xr.Dataset:
    """Simulate a time series of HLS-like images with biomass, land cover and GEDI shots.

    >>> ds = scene("cerrado", seed=1, size=64, dates=1)
    >>> ds.reflectance.dims, ds.rio.crs.to_epsg()
    (('time', 'band', 'y', 'x'), 32723)

    Parameters
    ----------
    region : str
        One of `REGIONS`.
    seed : int
        Which piece of the region; also chooses the place on the map.
    size : int
        Pixels of 30 m on each side, at least 32.
    dates : int
        Number of images. The first n dates are the same whatever `dates` is.
    clouds : bool
        Without clouds the ground, the dates and the shots are the same.
    gedi_fraction : float
        Share of pixels that carry a shot.
    start, every : str, int
        First day (ISO) and days between images; each is the first overpass after its turn
        with at most `max_cloud` of the sky covered.

    Returns
    -------
    xarray.Dataset
        `reflectance (time, band, y, x)` float32, whole counts of reflectance x 10,000;
        `fmask (time, y, x)` uint8; `landcover (y, x)` int16; `agb`, `agb_se`, `agb_dense`
        (Mg/ha) and `elevation` (m) `(y, x)` float32.

    Raises
    ------
    RequestError
        For a value that is out of range.
    """
    first = _check(region, seed, size, dates, gedi_fraction, start, every, max_cloud)
    import numpy as np

    from geowb.bands import HLS6
    from geowb.world import clouds as sky_module
    from geowb.world import gedi, sensor
    from geowb.world.fields import Grid, Streams
    from geowb.world.land import CODE, make_land
    from geowb.world.spectra import ground_reflectance
    from geowb.world.terrain import illumination, make_terrain

    what, streams, grid = REGIONS[region], Streams(int(seed), region), Grid(int(size))
    epsg, left, top = place(region, int(seed), int(size))
    longitude, latitude = _geographic(epsg, left + 15 * size, top - 15 * size)
    terrain = make_terrain(streams, grid, what)
    land = make_land(streams, grid, what, terrain)
    bright = np.isin(land.cover, [CODE["bare"], CODE["urban"]])

    shape = (int(dates), len(HLS6), grid.size, grid.size)
    counts = np.empty(shape, np.float32)
    masks = np.empty((shape[0], *shape[2:]), np.uint8)
    times, sensors, suns = [], [], []
    for number, (day, name, cover) in enumerate(
        _choose_dates(streams, what, first, int(dates), int(every), max_cloud)
    ):
        of_year, hour = day.timetuple().tm_yday, sensor.SENSORS[name][1]
        zenith, azimuth = sensor.sun_position(of_year, hour, latitude)
        shift = 10.0 * streams.rng("season", day.year).standard_normal()
        ground = ground_reflectance(what, land, of_year, shift)
        ground *= illumination(land.slope, zenith, azimuth)
        light = sensor.observe(ground, name)
        if clouds:
            sky = sky_module.make_sky(streams, grid, what, day.isoformat(), cover, zenith, azimuth)
            light = sky.cover_ground(light)
        else:
            sky = sky_module.clear_sky(streams, grid, day.isoformat())
        light += sensor.noise(streams.rng("noise", day.isoformat()), light)
        counts[number] = np.clip(np.rint(light), 1.0, 16_000.0)
        masks[number] = sky_module.make_fmask(
            streams, grid, sky, day.isoformat(), land.water, bright
        )
        noon = dt.datetime.combine(day, dt.time()) + dt.timedelta(hours=hour - longitude / 15)
        times.append(np.datetime64(noon.replace(microsecond=0), "ns"))
        sensors.append(name)
        suns.append((np.degrees(zenith), np.degrees(azimuth) % 360.0))
    agb, agb_se = gedi.shots(streams, grid, what, land.biomass, gedi_fraction, latitude)
    layers = {
        "landcover": land.cover.astype(np.int16),
        "agb": agb.astype(np.float32),
        "agb_se": agb_se.astype(np.float32),
        "agb_dense": land.biomass.astype(np.float32),
        "elevation": np.rint(grid.crop(terrain.elevation) * 10).astype(np.float32) / 10,
    }
    return _dataset(
        counts, masks, layers, times, sensors, np.round(suns, 3),
        place=(epsg, left, top), region=region, seed=int(seed),
    )  # fmt: skip


def _choose_dates(streams, region, first, dates, every, max_cloud):  # noqa: ANN001, ANN202
    """Day, sensor and cloud cover of each image: the clearest pass if all are too cloudy."""
    from geowb.world import clouds, sensor

    last = first - dt.timedelta(days=1)
    for number in range(dates):
        begin = max(first + dt.timedelta(days=number * every), last + dt.timedelta(days=1))
        tried = []
        for day, name in sensor.overpasses(streams, begin):
            rng = streams.rng("cover", day.isoformat())
            tried.append((clouds.cloud_cover(rng, region, day.timetuple().tm_yday), day, name))
            if tried[-1][0] <= max_cloud or (day - begin).days >= max(every, 8):
                break
        cover, last, name = min(tried)
        yield last, name, cover


def _geographic(epsg: int, east: float, north: float) -> tuple[float, float]:
    """Longitude and latitude in degrees, to a metre or so."""
    from pyproj import Transformer

    lon, lat = Transformer.from_crs(epsg, 4326, always_xy=True).transform(east, north)
    return round(lon, 5), round(lat, 5)


def _check(region, seed, size, dates, gedi_fraction, start, every, max_cloud) -> dt.date:  # noqa: ANN001
    """First day; refuses what cannot be simulated."""
    if region not in REGIONS:
        hint = did_you_mean(region, REGIONS)
        raise RequestError(f"The world has no region '{region}'. {hint}")
    for name, value, low, high in (
        ("seed", seed, 0, None), ("size", size, 32, 3660),
        ("dates", dates, 1, 366), ("every", every, 1, 366),
    ):  # fmt: skip
        whole = not isinstance(value, bool) and hasattr(value, "__index__")
        if not whole or value < low or (high is not None and value > high):
            span = f"from {low} to {high}" if high else f"of at least {low}"
            raise RequestError(f"World: {name}={value!r} is not a whole number {span}.")
    for name, value, high in (("gedi_fraction", gedi_fraction, 0.02), ("max_cloud", max_cloud, 1)):
        if not 0 <= value <= high:
            raise RequestError(f"World: {name}={value!r} is not between 0 and {high}.")
    try:
        return dt.date.fromisoformat(start)
    except (TypeError, ValueError):
        raise RequestError(f"World: start={start!r} is not a date such as '2022-04-20'.") from None


def _dataset(counts, masks, layers, times, sensors, suns, *, place, region, seed) -> xr.Dataset:  # noqa: ANN001
    """The arrays with names, units, coordinates and CRS."""
    import numpy as np
    import rioxarray  # noqa: F401 - gives .rio
    import xarray as xr
    from affine import Affine

    from geowb.bands import HLS6
    from geowb.world.land import CLASSES

    epsg, left, top = place
    size = counts.shape[-1]
    offset = (np.arange(size) + 0.5) * 30.0
    ds = xr.Dataset(
        {
            "reflectance": (("time", "band", "y", "x"), counts),
            "fmask": (("time", "y", "x"), masks),
            **{name: (("y", "x"), values) for name, values in layers.items()},
        },
        coords={
            "time": np.array(times),
            "band": list(HLS6),
            "y": top - offset,
            "x": left + offset,
            "sensor": ("time", sensors),
            "sun_zenith": ("time", suns[:, 0]),
            "sun_azimuth": ("time", suns[:, 1]),
        },
        attrs={
            "title": "Simulated HLS-like scene", "world_version": VERSION, "region": region,
            "seed": seed, "description": REGIONS[region].description,
        },
    )  # fmt: skip
    for name, (long_name, units) in _NAMES.items():
        ds[name].attrs.update(long_name=long_name, units=units)
    ds["landcover"].attrs.update(
        flag_values=np.arange(len(CLASSES), dtype=np.int16), flag_meanings=" ".join(CLASSES)
    )
    ds = ds.rio.write_crs(epsg)
    return ds.rio.write_transform(Affine(30.0, 0.0, left, 0.0, -30.0, top))


_NAMES = {
    "reflectance": ("surface reflectance x 10,000", "1e-4"),
    "fmask": ("HLS v2.0 Fmask: 1 cloud, 2 adjacent, 3 shadow, 5 water, 6-7 aerosol level", "1"),
    "landcover": ("land cover class", "1"),
    "agb": ("above-ground biomass density of simulated GEDI shots", "Mg/ha"),
    "agb_se": ("standard error of agb", "Mg/ha"),
    "agb_dense": ("true above-ground biomass density", "Mg/ha"),
    "elevation": ("elevation of the ground", "m"),
    "sun_zenith": ("solar zenith angle", "degree"),
    "sun_azimuth": ("solar azimuth angle, clockwise from north", "degree"),
}
