"""Labels of a scene as a GEDI L4A file, so that the recipe can be walked without a network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geowb.errors import DataError, RequestError
from geowb.labels.gedi import DATASETS, EPOCH, FILL
from geowb.labels.grid import Grid

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["BEAMS", "write_granule"]

#: Beams of the instrument; the first four are the weaker ones.
BEAMS = ("BEAM0000", "BEAM0001", "BEAM0010", "BEAM0011", "BEAM0101", "BEAM0110", "BEAM1000",
         "BEAM1011")  # fmt: skip


def write_granule(scene: xr.Dataset, file: str | os.PathLike, *, seed: int = 0) -> Path:
    """Write the labels of a scene in the layout of GEDI L4A v2.

    >>> file = write_granule(geowb.world.scene(), "GEDI04_A_simulated.h5")  # doctest: +SKIP
    >>> shots = usable(read_gedi(file))  # doctest: +SKIP

    Every labelled pixel is a shot somewhere in that pixel. About a third as many more fail the
    product's quality flag, half of them without a value (-9999).

    Parameters
    ----------
    scene
        Has ``agb`` and ``agb_se`` (y, x), Mg/ha, a CRS and a ``time``.
    file
        Where to write, ending in ``.h5``; folders are made, a file that is there is replaced.
    seed
        Chooses places within pixels, beams, and the shots that fail.

    Raises
    ------
    RequestError, DataError
        If the name does not end in ``.h5``; if the scene lacks something.

    Notes
    -----
    Only the datasets that `read_gedi` uses are written. The scene does not say which beam a shot is
    of: beams are drawn.
    """
    import h5py

    path = Path(file).expanduser()
    if path.suffix != ".h5":
        raise RequestError(f"A granule's name ends in .h5; '{path}' does not.")
    if absent := [name for name in ("agb", "agb_se") if name not in scene]:
        raise DataError(f"The scene has no {' and no '.join(absent)}: there are no shots to write.")
    shots = _shots(scene, np.random.default_rng(seed))
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as granule:
        granule.attrs["short_name"] = "GEDI_L4A"
        granule.attrs["title"] = "Simulated by geowb: no measurement of GEDI"
        for number, beam in enumerate(BEAMS):
            group = granule.create_group(beam)
            group.attrs["description"] = "Coverage beam" if number < 4 else "Full power beam"
            mine = np.flatnonzero(shots["beam"] == number)
            for name, values in shots.items():
                group.create_dataset(name, data=values[mine])
            group["agbd"].attrs["units"] = group["agbd_se"].attrs["units"] = "Mg / ha"
            group["delta_time"].attrs["description"] = "Time delta since Jan 1 00:00 2018."
    return path


def _shots(scene: xr.Dataset, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Datasets of all beams, by name, in the order of time."""
    agb, se = (scene[name].transpose("y", "x").to_numpy() for name in ("agb", "agb_se"))
    row, col = np.nonzero(np.isfinite(agb))
    if not row.size:
        raise DataError("No pixel of the scene has a shot (agb is NaN everywhere).")
    good, bad = row.size, -(-row.size // 3)
    blank = np.arange(bad) % 2 == 0
    guess = rng.choice(agb[row, col], bad) * rng.uniform(0.2, 3.0, bad)
    row = np.concatenate([row, rng.integers(0, agb.shape[0], bad)])
    col = np.concatenate([col, rng.integers(0, agb.shape[1], bad)])
    # Not on the very edge, where rounding could put a shot into the next pixel.
    places = (v + rng.uniform(0.001, 0.999, v.size) for v in (row, col))
    lon, lat = Grid.of(scene).degrees(*places)
    number = rng.permutation(good + bad)
    passed = np.arange(good + bad) < good
    shots = {
        "lon": lon,
        "lat": lat,
        "agb": np.concatenate([agb[row[:good], col[:good]], np.where(blank, FILL, guess)]),
        "agb_se": np.concatenate([se[row[:good], col[:good]], np.where(blank, FILL, 10.0)]),
        "shot_number": np.uint64(139_480_000_300_000_000) + number.astype(np.uint64),
        "time": _seconds(scene) + number * 0.0082,
        "l4_quality_flag": passed.astype(np.uint8),
        "degrade_flag": np.zeros(good + bad, np.uint8),
        "sensitivity": np.where(passed, rng.uniform(0.95, 0.995, good + bad),
                                rng.uniform(0.3, 0.95, good + bad)),
        "leaf_off_flag": np.zeros(good + bad, np.uint8),
        "beam": rng.integers(0, 8, good + bad).astype(np.uint16),
    }  # fmt: skip
    for name in ("agb", "agb_se", "sensitivity"):
        shots[name] = shots[name].astype(np.float32)
    order = np.argsort(shots["time"])
    return {DATASETS.get(name, name): values[order] for name, values in shots.items()}


def _seconds(scene: xr.Dataset) -> float:
    """Seconds from the epoch of GEDI to the first image, 0 where the scene has no date."""
    times = np.ravel(scene["time"].values) if "time" in scene.coords else np.array([])
    times = times[~np.isnat(times)] if times.size else times
    if not times.size:
        return 0.0
    return float((times.min() - EPOCH) / np.timedelta64(1, "s"))
