"""Masks of clouds and their shadows, cut from simulated skies without any ground below."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from geowb.errors import RequestError, did_you_mean
from geowb.world.regions import REGIONS

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

__all__ = ["cloud_masks"]

#: Windows cut from one sky, and how many skies in a row may give none before it is given up.
_CUTS, _PATIENCE = 8, 300


def cloud_masks(
    count: int,
    *,
    size: int = 64,
    seed: int = 0,
    region: str = "",
    low: float = 0.01,
    high: float = 1.0,
    equalise: bool = False,
) -> xr.DataArray:
    """Cut masks of what clouds and their shadows hide, as Fmask draws them.

    >>> masks = cloud_masks(4, size=32, seed=1)
    >>> masks.dims, masks.shape, bool((masks.cover >= 0.01).all())
    (('sample', 'y', 'x'), (4, 32, 32), True)

    Parameters
    ----------
    count, size : int
        Number of masks, and pixels of 30 m on each side. The first n masks are the same
        whatever `count` is.
    region : str
        Whose clouds; "" mixes all regions.
    low, high : float
        Least and largest share of a mask that is hidden.
    equalise : bool
        Draw the same number from each of ten equal bins between `low` and `high`, as the
        published validation masks of gap filling are; else as often as the weather has them.

    Returns
    -------
    xarray.DataArray
        bool `(sample, y, x)`, True where hidden (Fmask's cloud or shadow, grown as in HLS), with
        the coordinate `cover (sample,)`, the share hidden.

    Raises
    ------
    RequestError
        For a value that is out of range, or shares that no sky has.
    """
    _check(count, size, seed, region, low, high, equalise)
    import numpy as np
    import xarray as xr

    count, size = int(count), int(size)
    edges = np.linspace(low, high, 11 if equalise else 2)
    wanted = [len(range(number, count, edges.size - 1)) for number in range(edges.size - 1)]
    found: list[list[np.ndarray]] = [[] for _ in wanted]
    idle = 0
    for windows in _skies(int(seed), region, size, even=equalise):
        before = sum(map(len, found))
        for window in windows:
            cover = window.mean()
            number = min(int(np.searchsorted(edges, cover, "right")) - 1, len(found) - 1)
            if low <= cover <= high and len(found[number]) < wanted[number]:
                found[number].append(window)
        if (after := sum(map(len, found))) == count:
            break
        idle = 0 if after > before else idle + 1
        if idle > _PATIENCE:
            raise RequestError(
                f"World: no mask of {size} pixels with low={low} and high={high} in {_PATIENCE} "
                f"skies after {after} of {count}. Let them lie further apart."
            )
    masks = np.stack([found[n % len(found)][n // len(found)] for n in range(count)])
    cover = masks.mean((1, 2))
    return xr.DataArray(
        masks, dims=("sample", "y", "x"), coords={"cover": ("sample", cover)}, name="hidden",
        attrs={"long_name": "hidden by cloud or shadow", "region": region or "all", "seed": seed},
    )  # fmt: skip


def _skies(seed: int, region: str, size: int, *, even: bool) -> Iterator[list[np.ndarray]]:
    """Windows of one sky after the other, each of its own region and day."""
    import numpy as np

    from geowb.world import clouds
    from geowb.world.fields import Grid, Streams

    names, number, grid = [region] if region else list(REGIONS), 0, Grid(max(256, 2 * size))
    while True:
        streams = Streams(seed, f"masks/{region}/{number}")
        rng = streams.rng("day")
        what = REGIONS[names[int(rng.integers(len(names)))]]
        day, cover = 1 + int(rng.integers(365)), float(rng.uniform())
        if not even:
            cover = clouds.cloud_cover(rng, what, day)
        zenith, azimuth = np.radians([rng.uniform(20, 60), rng.uniform(30, 150)])
        sky = clouds.make_sky(streams, grid, what, "sky", cover, zenith, azimuth)
        hidden = clouds.grow(sky.cloud, clouds.CLOUD_GROWS)
        hidden |= clouds.grow(sky.shadow, clouds.SHADOW_GROWS)
        corners = rng.integers(0, grid.size - size + 1, (_CUTS, 2)).tolist()
        yield [hidden[y : y + size, x : x + size] for y, x in corners]
        number += 1


def _check(
    count: Any, size: Any, seed: Any, region: Any, low: Any, high: Any, equalise: Any
) -> None:
    """Refuse what cannot be cut."""
    if region != "" and region not in REGIONS:
        raise RequestError(
            f"The world has no region '{region}'. {did_you_mean(str(region), REGIONS)}"
        )
    for name, value, least, most in (
        ("count", count, 1, 1_000_000), ("size", size, 8, 3660), ("seed", seed, 0, None),
    ):  # fmt: skip
        whole = not isinstance(value, bool) and hasattr(value, "__index__")
        if not whole or value < least or (most is not None and value > most):
            span = f"from {least} to {most}" if most else f"of at least {least}"
            raise RequestError(f"World: {name}={value!r} is not a whole number {span}.")
    for name, value in (("low", low), ("high", high)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise RequestError(f"World: {name}={value!r} is not a share between 0 and 1.")
    if low >= high:
        raise RequestError(f"World: low={low} is not below high={high}.")
    if equalise is not True and equalise is not False:
        raise RequestError(f"World: equalise={equalise!r} is neither True nor False.")
