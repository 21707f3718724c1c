"""Sparse labels drawn from a dense map of biomass, as GEDI would see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from geowb.errors import DataError, RequestError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["sparse"]

_BIOMASSTERS = 10.0  # metres: pixels of scenes without a CRS


def sparse(
    scene: xr.Dataset, fraction: float = 0.005, *, seed: int = 0, dense: str = "agb_dense"
) -> xr.Dataset:
    """Draw shots with the geometry of GEDI from a dense map of biomass.

    >>> scene = geowb.open_catalog()["biomassters_chip"].open()  # doctest: +SKIP
    >>> scene = sparse(scene, 0.005)  # doctest: +SKIP
    >>> int(scene.agb.notnull().sum())  # doctest: +SKIP
    328

    Parameters
    ----------
    scene
        Has the variable `dense` (y, x), Mg/ha. Pixels of a scene without a CRS are taken for the
        10 m of BioMassters.
    fraction
        Share of the pixels that is labelled, above 0 and up to 1; at least one pixel. Where the map
        has no data there is no shot.
    seed
        Chooses the overpasses.

    Returns
    -------
    xarray.Dataset
        The scene with ``agb`` (y, x) float32: the map's own value at the pixels of shots, NaN
        elsewhere. An earlier ``agb``, ``agb_se`` and ``agb_count`` are dropped.

    Raises
    ------
    RequestError, DataError
        If `fraction` is out of range; if there is no such map, or not enough of it.

    Notes
    -----
    Overpasses of eight tracks 600 m apart with a footprint every 60 m (`geowb.world.gedi`) are
    added until there are enough shots, each with one stretch of its tracks. North of 51.6 degrees,
    where GEDI never was, the tracks run as at 51; without a CRS, as at the equator. No errors of
    the measurement are drawn: the labels are exact.
    """
    if not 0 < fraction <= 1:
        raise RequestError(f"fraction must lie in (0, 1]; it is {fraction}.")
    if dense not in scene:
        raise DataError(f"The scene has no variable '{dense}': it has {', '.join(scene)}.")
    if "sample" in scene.dims:
        raise DataError("Draw from one image of the set: scene.isel(sample=0).")
    truth = scene[dense].transpose("y", "x").to_numpy()
    known = np.isfinite(truth)
    wanted = max(1, round(fraction * truth.size))
    if wanted > known.sum():
        raise DataError(
            f"fraction={fraction} of {truth.size:,} pixels is {wanted:,}, but '{dense}' has values "
            f"in {known.sum():,} only."
        )
    chosen = _footprints(known, *_scale(scene), wanted, seed)
    attrs = {"long_name": f"{dense} at simulated GEDI footprints", "units": "Mg/ha"}
    stale = [name for name in ("agb", "agb_se", "agb_count") if name in scene]
    return scene.drop_vars(stale).assign(
        agb=(("y", "x"), np.where(chosen, truth, np.nan).astype(np.float32), attrs)
    )


def _scale(scene: xr.Dataset) -> tuple[float, float]:
    """Edge of a pixel in metres, and latitude for the heading of the tracks."""
    import rioxarray  # noqa: F401 - gives .rio

    if scene.rio.crs is None:
        return _BIOMASSTERS, 0.0
    from geowb.labels.grid import Grid

    grid = Grid.of(scene)
    metres = grid.pixel * np.sqrt(np.prod(grid.metres(*grid.middle())))
    return float(metres), float(np.clip(grid.degrees(*grid.middle())[1], -51.0, 51.0))


def _footprints(
    known: np.ndarray, pixel: float, latitude: float, wanted: int, seed: int
) -> np.ndarray:
    """Pixels that have a footprint, `wanted` of those that are known."""
    from geowb.world.gedi import ACROSS, overpass

    # Of a larger square, so that a track at any slant can come to any pixel.
    side = 1.5 * max(known.shape) * pixel + 2 * ACROSS
    north, west = (0.5 * (side - n * pixel) for n in known.shape)
    chosen = np.zeros(known.shape, dtype=bool)
    number = done = 0
    while done < wanted:
        rng = np.random.default_rng((seed, number))
        number += 1
        x, y, _, along = overpass(rng, side, latitude)
        row, col = (np.floor(v / pixel).astype(int) for v in (y - north, x - west))
        inside = (row >= 0) & (row < known.shape[0]) & (col >= 0) & (col < known.shape[1])
        at, along = row[inside] * known.shape[1] + col[inside], along[inside]
        at, first = np.unique(at, return_index=True)
        at = at[np.argsort(along[first], kind="stable")]
        at = at[known.flat[at] & ~chosen.flat[at]]
        # A stretch of the tracks, with at most a third of the shots, as in the simulated world.
        stretch = np.roll(at, rng.integers(at.size + 1))
        chosen.flat[stretch[: min(wanted - done, -(-wanted // 3))]] = True
        done = int(chosen.sum())
    return chosen
