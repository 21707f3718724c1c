"""Shots of GEDI L4A granules, and which of them are good enough to be labels."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geowb.errors import DataError, RequestError

if TYPE_CHECKING:
    import h5py

__all__ = [
    "DATASETS",
    "EPOCH",
    "FILL",
    "beams_of",
    "funnel",
    "granules",
    "read_gedi",
    "shots_of",
    "usable",
]

#: Column -> dataset of a beam, in the L4A v2 layout.
DATASETS = {
    "lon": "lon_lowestmode",
    "lat": "lat_lowestmode",
    "agb": "agbd",
    "agb_se": "agbd_se",
    "shot_number": "shot_number",
    "time": "delta_time",
    "l4_quality_flag": "l4_quality_flag",
    "degrade_flag": "degrade_flag",
    "sensitivity": "sensitivity",
    "leaf_off_flag": "land_cover_data/leaf_off_flag",
}
#: What `delta_time` counts its seconds from, and the value that stands for no data.
EPOCH, FILL = np.datetime64("2018-01-01", "ns"), -9999

Files = str | os.PathLike | Sequence[str | os.PathLike]
Bounds = tuple[float, float, float, float]


def read_gedi(files: Files, *, bounds: Bounds | None = None) -> pd.DataFrame:
    """Read all shots of GEDI L4A v2 granules, of all beams, good and bad.

    >>> shots = read_gedi("GEDI04_A_2021150031254_O13948_03_T06447_02_002_01_V002.zip")
    ... # doctest: +SKIP
    >>> len(shots), int((shots.l4_quality_flag == 1).sum())  # doctest: +SKIP
    (966, 733)

    Parameters
    ----------
    files
        A granule (``.h5``), a ``.zip`` with granules in it, a folder of either, or a list of these.
    bounds
        West, south, east, north in degrees: only shots within. West may be larger than east,
        across the antimeridian.

    Returns
    -------
    pandas.DataFrame
        One row a shot: ``lon``, ``lat`` (degrees, of the lowest mode), ``agb``, ``agb_se``
        (Mg/ha, NaN where the product has none), ``beam``, ``power`` (full or coverage),
        ``shot_number``, ``time`` (UTC), ``l4_quality_flag``, ``degrade_flag``, ``sensitivity``,
        ``leaf_off_flag`` (255 for no data) and ``granule``.

    Raises
    ------
    DataError
        No such file, nothing in the folder, not HDF5, another product, a dataset is missing, or
        no shot lies within `bounds`.

    Notes
    -----
    Kellner et al. (2023), GEDI L4A v2.1, doi:10.3334/ORNLDAAC/2056.
    """
    _check_bounds(bounds)
    tables = [shots_of(granule, name, bounds) for name, granule in granules(files)]
    shots = pd.concat(tables, ignore_index=True)
    if bounds is not None and shots.empty:
        raise DataError(
            f"No shot of the {len(tables)} granule(s) lies within {tuple(bounds)} (west, south, "
            "east, north in degrees). Leave out bounds to see where the shots are."
        )
    return shots


def granules(files: Files) -> Iterator[tuple[str, h5py.File]]:
    """Open each granule in turn, with its name; it is closed when the next one is wanted."""
    import h5py

    for path in _paths(files):
        for name, stream in _streams(path):
            try:
                granule = h5py.File(stream, "r")
            except OSError as error:
                raise DataError(f"{name} is no HDF5 file that can be read: {error}.") from None
            with granule:
                yield name, granule


def _paths(files: Files) -> list[Path]:
    """Granules and archives that are meant, with folders taken apart."""
    given = [files] if isinstance(files, str | os.PathLike) else list(files)
    if not given:
        raise RequestError("There is no granule to read: the list of files is empty.")
    found: list[Path] = []
    for path in (Path(file).expanduser() for file in given):
        if path.is_dir():
            inside = [p for p in sorted(path.iterdir()) if p.suffix.lower() in (".h5", ".zip")]
            if not inside:
                raise DataError(f"The folder {path} holds no granule: no .h5 and no .zip.")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise DataError(f"There is no file or folder {path}.")
    return found


def _streams(path: Path) -> Iterator[tuple[str, Any]]:
    """Each granule of a path; those of an archive as temporary files, as HDF5 jumps about in it."""
    if path.suffix.lower() != ".zip":
        yield path.name, path
        return
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.lower().endswith(".h5")]
            if not names:
                raise DataError(f"{path} holds no granule: there is no .h5 in it.")
            for name in names:
                with tempfile.TemporaryFile() as stream:
                    with archive.open(name) as member:
                        shutil.copyfileobj(member, stream)
                    yield Path(name).name, stream
    except (zipfile.BadZipFile, zlib.error, RuntimeError) as error:  # the last: a password
        raise DataError(f"{path} cannot be unpacked: {error}.") from None


def shots_of(granule: h5py.File, name: str, bounds: Bounds | None = None) -> pd.DataFrame:
    """Shots of one open granule, as in `read_gedi`."""
    tables = []
    for beam in beams_of(granule, name):
        try:
            table = _beam_table(granule[beam], bounds)
        except (OSError, ValueError, IndexError) as error:
            raise DataError(f"{name}, {beam} cannot be read: {error}.") from None
        tables.append(table.assign(beam=beam, power=_power(granule[beam])))
    shots = pd.concat(tables, ignore_index=True).assign(granule=name)
    order = ["lon", "lat", "agb", "agb_se", "beam", "power", *list(DATASETS)[4:], "granule"]
    return shots[order]


def beams_of(granule: h5py.File, name: str) -> list[str]:
    """Names of the beams, once it is sure that they have what is needed."""
    beams = sorted(key for key in granule if key.startswith("BEAM"))
    product = _product(granule)
    if not beams or product not in ("", "GEDI_L4A"):
        said = f"its product is '{product}'" if product else "it does not name its product"
        lacks = "" if beams else "has no group BEAM...; "
        raise DataError(
            f"{name} is no GEDI L4A granule: it {lacks}{said}. Biomass of single shots is in the "
            "product GEDI_L4A_AGB_Density_V2_1."
        )
    for beam in beams:
        if absent := [path for path in DATASETS.values() if path not in granule[beam]]:
            raise DataError(
                f"{name}, {beam} lacks {', '.join(absent)}. Get the whole granule, or have the "
                "subsetter keep these variables."
            )
    return beams


def _product(granule: h5py.File) -> str:
    """Short name of the product, without the version."""
    found = granule.attrs.get("short_name", "")
    if not len(found) and "METADATA/DatasetIdentification" in granule:
        found = granule["METADATA/DatasetIdentification"].attrs.get("shortName", "")
    return "_".join(_text(found).split("_")[:2])


def _power(beam: h5py.Group) -> str:
    first = _text(beam.attrs.get("description", "")).split(" ")[0].lower()
    return first if first in ("full", "coverage") else ""


def _text(value: Any) -> str:
    value = np.ravel(value)[0] if np.size(value) else ""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _beam_table(beam: h5py.Group, bounds: Bounds | None) -> pd.DataFrame:
    lon, lat = beam[DATASETS["lon"]][()], beam[DATASETS["lat"]][()]
    rows = np.flatnonzero(_within(lon, lat, bounds))
    first, last = (rows[0], rows[-1] + 1) if rows.size else (0, 0)
    columns = {name: beam[path][first:last][rows - first] for name, path in DATASETS.items()}
    for name in ("lon", "lat", "agb", "agb_se", "sensitivity"):
        columns[name] = np.where(columns[name] == FILL, np.nan, columns[name])
    columns["time"] = _moments(columns["time"])
    return pd.DataFrame(columns)


def _within(lon: np.ndarray, lat: np.ndarray, bounds: Bounds | None) -> np.ndarray:
    if bounds is None:
        return np.ones(lon.shape, dtype=bool)
    west, south, east, north = bounds
    over, under = lon >= west, lon <= east
    return (over & under if west <= east else over | under) & (lat >= south) & (lat <= north)


def _moments(seconds: np.ndarray) -> np.ndarray:
    known = np.isfinite(seconds) & (seconds != FILL)
    micro = np.rint(np.where(known, seconds, 0.0) * 1e6).astype("timedelta64[us]")
    return np.where(known, EPOCH + micro, np.datetime64("NaT", "ns"))


def _check_bounds(bounds: Bounds | None) -> None:
    if bounds is None:
        return
    values = np.asarray(bounds, dtype=float)
    if values.shape != (4,) or not np.isfinite(values).all() or values[1] >= values[3]:
        raise RequestError(
            f"bounds are west, south, east, north in degrees with south below north, not {bounds}."
        )


def usable(
    shots: pd.DataFrame,
    *,
    min_sensitivity: float = 0.0,
    degraded: bool = True,
    leaf_off: bool = True,
) -> pd.DataFrame:
    """Keep the shots that are good enough to be labels.

    >>> good = usable(read_gedi(file))  # doctest: +SKIP
    >>> good = usable(read_gedi(file), degraded=False, min_sensitivity=0.95)  # doctest: +SKIP

    The product's own flag, ``l4_quality_flag == 1``, and a biomass of 0 or more with its position
    are always asked for; `funnel` tells what each criterion drops.

    Parameters
    ----------
    shots
        What `read_gedi` returns.
    min_sensitivity
        Smallest beam sensitivity, the canopy cover through which ground is still seen; at 0 it is
        not looked at.
    degraded
        Keep shots under a degraded state of pointing or positioning (``degrade_flag != 0``).
    leaf_off
        Keep shots of deciduous forest without leaves (``leaf_off_flag == 1``).

    Raises
    ------
    DataError
        If no shot is left; says how many each criterion left.
    """
    criteria = _criteria(shots, min_sensitivity, degraded, leaf_off)
    kept = shots[np.logical_and.reduce(list(criteria.values()))].reset_index(drop=True)
    if not kept.empty:
        return kept
    told = _counts(criteria, len(shots))
    steps = [f"'{row.criterion}' leaves {row.left:,}" for row in told.itertuples()][1:]
    next_step = "Take other granules or a larger area."
    for name in [name for name in _OPTIONS if name in criteria]:
        others = np.logical_and.reduce([met for key, met in criteria.items() if key != name])
        if others.any():
            next_step = f"The other criteria leave {others.sum():,}: {_OPTIONS[name]} keeps them."
    raise DataError(f"None of {len(shots):,} shots is usable: {', '.join(steps)}. {next_step}")


def funnel(
    shots: pd.DataFrame,
    *,
    min_sensitivity: float = 0.0,
    degraded: bool = True,
    leaf_off: bool = True,
) -> pd.DataFrame:
    """Count the shots that each criterion of `usable` drops, one after the other.

    >>> funnel(read_gedi(file))  # doctest: +SKIP
                  criterion  dropped  left
    0            shots read        0   966
    1  l4_quality_flag is 1      233   733
    2     agb is 0 or above        0   733
    """
    return _counts(_criteria(shots, min_sensitivity, degraded, leaf_off), len(shots))


_SENSITIVE, _POINTED, _LEAVES = "sensitivity is enough", "degrade_flag is 0", "leaf_off_flag is 0"
_OPTIONS = {
    _SENSITIVE: "min_sensitivity=0",
    _POINTED: "degraded=True",
    _LEAVES: "leaf_off=True",
}


def _criteria(
    shots: pd.DataFrame, min_sensitivity: float, degraded: bool, leaf_off: bool
) -> dict[str, np.ndarray]:
    """Which shots meet each criterion, in the order in which they are told."""
    if not 0 <= min_sensitivity <= 1:
        raise RequestError(f"min_sensitivity must lie between 0 and 1; it is {min_sensitivity}.")
    place = np.isfinite(shots["lon"]) & np.isfinite(shots["lat"])
    criteria = {
        "l4_quality_flag is 1": shots["l4_quality_flag"] == 1,
        "agb is 0 or above": np.isfinite(shots["agb"]) & (shots["agb"] >= 0) & place,
    }
    if min_sensitivity > 0:
        criteria[_SENSITIVE] = shots["sensitivity"] >= min_sensitivity
    if not leaf_off:
        criteria[_LEAVES] = shots["leaf_off_flag"] != 1  # 255: the product does not know
    if not degraded:
        criteria[_POINTED] = shots["degrade_flag"] == 0
    return {name: np.asarray(met, dtype=bool) for name, met in criteria.items()}


def _counts(criteria: dict[str, np.ndarray], read: int) -> pd.DataFrame:
    left, rows = np.ones(read, dtype=bool), [("shots read", 0, read)]
    for name, met in criteria.items():
        rows.append((name, int((left & ~met).sum()), int((left & met).sum())))
        left &= met
    return pd.DataFrame(rows, columns=["criterion", "dropped", "left"])
