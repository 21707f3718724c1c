"""One call that makes a scene."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from geowb.errors import RequestError, did_you_mean
from geowb.world.regions import REGIONS

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

    from geowb.world.events import Events
    from geowb.world.fields import Grid, Streams
    from geowb.world.sensor import Acquisition
    from geowb.world.spectra import Surface

__all__ = ["VERSION", "place", "scene"]

#: Version of the world. It changes whenever any scene changes: see tests/test_world_repeats.py.
#: 1.1 adds floods, fires, the region great_plains with its crops, and cloud masks; every scene of
#: 1.0 is the same byte for byte.
VERSION = "1.1"

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
    max_cloud: float = 0.3,
    flood: bool = False,
    fire: bool = False,
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
        with at most `max_cloud` of the scene under the main cloud layer (Fmask, which grows
        clouds by some pixels, finds more).
    flood : bool
        The rivers are in flood on the last date; earlier dates are as without the flood.
    fire : bool
        One to four fires burnt in the 100 days before the last date; a date before a fire shows
        no scar of it. Biomass, land cover and shots are of before the fire.

    Returns
    -------
    xarray.Dataset
        `reflectance (time, band, y, x)` float32, whole counts of reflectance x 10,000;
        `fmask (time, y, x)` uint8; `landcover (y, x)` int16; `agb`, `agb_se`, `agb_dense`
        (Mg/ha) and `elevation` (m) `(y, x)` float32.

        A region with crops adds `crop (y, x)` int16. `flood` adds `flood (y, x)` int16: 1 water
        on the last date, rivers included, 0 dry, -1 hidden by cloud or deep shadow. `fire` adds
        `burn (y, x)` int16 (1 burnt, 0 not, -1 hidden on the last date) and, hidden or not,
        `burn_severity (y, x)` float32 (share of leaves and herbs consumed or killed, 0-1) and
        `burn_date (y, x)`, NaN and NaT where nothing burnt.

    Raises
    ------
    RequestError
        For a value that is out of range.
    """
    first = _check(region, seed, size, dates, gedi_fraction, start, every, max_cloud)
    _check_switches(clouds=clouds, flood=flood, fire=fire)
    import numpy as np

    from geowb.world import events, gedi, sensor
    from geowb.world.crops import sow
    from geowb.world.fields import Grid, Streams
    from geowb.world.land import make_land
    from geowb.world.spectra import Surface
    from geowb.world.terrain import make_terrain

    seed, size = int(seed), int(size)
    what, streams, grid = REGIONS[region], Streams(seed, region), Grid(size)
    epsg, left, top = place(region, seed, size)
    longitude, latitude = _geographic(epsg, left + 15 * size, top - 15 * size)
    terrain = make_terrain(streams, grid, what)
    land = make_land(streams, grid, what, terrain)
    if what.crops:
        land = sow(streams, what, land)
    surface = Surface(what, land)
    images = list(sensor.acquisitions(streams, what, first, int(dates), int(every), max_cloud))
    happened = events.happen(streams, grid, surface, images[-1].day, flood=flood, fire=fire)
    suns = [
        sensor.sun_position(i.day.timetuple().tm_yday, sensor.SENSORS[i.sensor][1], latitude)
        for i in images
    ]
    looks = [
        _look(streams, grid, surface, i, sun, clouds, happened)
        for i, sun in zip(images, suns, strict=True)
    ]
    agb, agb_se = gedi.shots(streams, grid, what, land.biomass, gedi_fraction, latitude)
    bands = ("time", "band", "y", "x")
    layers = {
        "reflectance": (bands, np.stack([counts for counts, _, _ in looks])),
        "fmask": (("time", "y", "x"), np.stack([mask for _, mask, _ in looks])),
        "landcover": (("y", "x"), land.cover.astype(np.int16)),
        "agb": (("y", "x"), agb.astype(np.float32)),
        "agb_se": (("y", "x"), agb_se.astype(np.float32)),
        "agb_dense": (("y", "x"), land.biomass.astype(np.float32)),
        "elevation": (("y", "x"), grid.crop(terrain.elevation).astype(np.float32)),
        **events.layers(happened, surface, looks[-1][2]),
    }
    degrees = np.round(np.degrees(suns), 3)
    times = {
        "time": [_utc(i, longitude) for i in images],
        "sensor": ("time", [i.sensor for i in images]),
        "sun_zenith": ("time", degrees[:, 0]),
        "sun_azimuth": ("time", degrees[:, 1] % 360.0),
    }
    return _dataset(layers, times, epsg, left, top).assign_attrs(
        title="Simulated HLS-like scene", world_version=VERSION, region=region, seed=seed,
        description=what.description,
    )  # fmt: skip


def _look(
    streams: Streams, grid: Grid, surface: Surface, image: Acquisition, sun: tuple[float, float],
    clouds: bool, happened: Events,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Take one image: counts `(6, y, x)`, Fmask `(y, x)`, and where the sky hides the ground."""
    import numpy as np

    from geowb.world import clouds as skies
    from geowb.world import sensor
    from geowb.world.spectra import season_shift
    from geowb.world.terrain import illumination

    land, date = surface.land, image.day.isoformat()
    flood = happened.flood if image.day == happened.last else None
    light = surface.reflectance(
        image.day.timetuple().tm_yday, season_shift(streams, image.day.year),
        fire=happened.fire, today=image.day, flood=flood,
    )  # fmt: skip
    light *= illumination(land.slope, *sun)
    light = sensor.observe(streams.rng("registration", date), light, image.sensor)
    if clouds:
        sky = skies.make_sky(streams, grid, surface.region, date, image.cover, *sun)
        light = sky.cover_ground(light)
    else:
        sky = skies.clear_sky(streams, grid, date)
    light += sensor.noise(streams.rng("noise", date), light)
    counts = np.clip(np.rint(light), 1.0, 16_000.0).astype(np.float32)
    if flood is not None:
        land = replace(land, water=happened.open_water)
    return counts, skies.make_fmask(streams, grid, sky, date, land), sky.hides


def _utc(image: Acquisition, longitude: float) -> np.datetime64:
    """Time of the pass."""
    import numpy as np

    from geowb.world.sensor import SENSORS

    hours = dt.timedelta(hours=SENSORS[image.sensor][1] - longitude / 15.0)
    moment = dt.datetime.combine(image.day, dt.time()) + hours
    return np.datetime64(moment.replace(microsecond=0), "ns")


def _geographic(epsg: int, east: float, north: float) -> tuple[float, float]:
    """Longitude and latitude in degrees, to a metre or so."""
    from pyproj import Transformer

    lon, lat = Transformer.from_crs(epsg, 4326, always_xy=True).transform(east, north)
    return round(lon, 5), round(lat, 5)


def _check(
    region: Any, seed: Any, size: Any, dates: Any, gedi_fraction: Any, start: Any, every: Any,
    max_cloud: Any,
) -> dt.date:  # fmt: skip
    """Refuse what cannot be simulated; return the first day."""
    if not isinstance(region, str) or region not in REGIONS:
        hint = did_you_mean(str(region), REGIONS)
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
        if not isinstance(value, (int, float)) or not 0 <= value <= high:
            raise RequestError(f"World: {name}={value!r} is not a number between 0 and {high}.")
    try:
        first = dt.date.fromisoformat(str(start))
    except ValueError:
        first = None
    if first is None or not 1985 <= first.year <= 2100:
        raise RequestError(
            f"World: start={start!r} is not a day from 1985 to 2100 such as '2022-04-20'."
        )
    return first


def _check_switches(**switches: Any) -> None:
    """Refuse what is neither True nor False."""
    for name, value in switches.items():
        if value is not True and value is not False:
            raise RequestError(f"World: {name}={value!r} is neither True nor False.")


def _dataset(layers: dict, times: dict, epsg: int, left: int, top: int) -> xr.Dataset:
    """Name the arrays and give them units, coordinates and a CRS."""
    import numpy as np
    import rioxarray  # noqa: F401 - gives .rio
    import xarray as xr
    from affine import Affine

    from geowb.bands import HLS6
    from geowb.world.crops import CROPS
    from geowb.world.land import CLASSES

    offset = 30.0 * (np.arange(layers["agb"][1].shape[0]) + 0.5)
    ds = xr.Dataset(layers, {**times, "band": list(HLS6), "y": top - offset, "x": left + offset})
    for name, (long_name, units) in _NAMES.items():
        if name in ds:
            ds[name].attrs.update(long_name=long_name)
            if units:  # a time has its units from its encoding
                ds[name].attrs.update(units=units)
    classes = {"landcover": CLASSES, "crop": CROPS, "flood": ("dry", "water"),
               "burn": ("unburnt", "burnt")}  # fmt: skip
    for name in classes.keys() & set(ds.data_vars):
        ds[name].attrs.update(
            flag_values=np.arange(len(classes[name]), dtype=np.int16),
            flag_meanings=" ".join(classes[name]),
        )
    for name in {"flood", "burn"} & set(ds.data_vars):
        ds[name].attrs["date"] = str(ds.time.values[-1])[:10]
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
    "crop": ("crop class", "1"),
    "flood": ("open water on the last date, -1 hidden by cloud or deep shadow", "1"),
    "burn": ("burnt before the last date, -1 hidden by cloud or deep shadow", "1"),
    "burn_severity": ("share of leaves and herbs that fire consumed or killed", "1"),
    "burn_date": ("day of the fire", ""),
    "sun_zenith": ("solar zenith angle", "degree"),
    "sun_azimuth": ("solar azimuth angle, clockwise from north", "degree"),
}
