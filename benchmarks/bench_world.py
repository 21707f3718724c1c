"""Seconds to simulate a scene, beside reading the same scene from a disk."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

from run import Row

REPEATS = 5


def median(work: Callable[[], object]) -> float:
    """Time a function."""
    taken = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def rows() -> list[Row]:
    """Time one scene of each region; about 1 s is the aim."""
    import xarray

    from geowb.world import REGIONS, VERSION, scene

    scene(size=64, dates=1)  # imports and first calls
    found = []
    for region in REGIONS:
        made = scene(region, seed=1, size=512, dates=3)
        with tempfile.TemporaryDirectory() as folder:
            pixels = made.drop_vars(list(made.coords))
            pixels.to_zarr(f"{folder}/scene.zarr", consolidated=False)
            read = median(
                lambda at=folder: xarray.open_zarr(f"{at}/scene.zarr", consolidated=False).load()
            )
        simulated = median(lambda at=region: scene(at, seed=1, size=512, dates=3))
        what = f"world {VERSION}, {region}: 512 x 512 x 6 bands x 3 dates"
        other = "reading the same scene from Zarr on the disk"
        found.append(Row(what, simulated, other, read, note=f"median of {REPEATS}, one core"))
    return found
