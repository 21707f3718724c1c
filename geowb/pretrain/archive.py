"""Training examples in one sharded Zarr group that can be cut off at any moment, and resumed.

The group holds `reflectance` (sample, band, frame, y, x) as int16 counts, and `fmask` and
`landcover` where the source has them. Its folder `.geowb` holds the plan (what was sampled, which
chips were drawn), and for each shard that is done a mark with the sizes and checksums of its files.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geowb.batch.rundir import write_at_once
from geowb.errors import DataError, RequestError
from geowb.locks import held
from geowb.pretrain.reader import NO_DATA, ChipArchive, fingerprint
from geowb.pretrain.sampling import Sampling, draw, survey
from geowb.pretrain.scenes import UNCLEAR, open_scene, times_of
from geowb.tasks import each

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["NO_DATA", "ChipArchive", "write_archive"]

_CHUNK_BYTES = 3 * 2**19  # of an inner chunk of reflectance, at most
_BYTES_AT_ONCE = 2**28  # of windows that are read together
_FILLS = {"reflectance": NO_DATA, "fmask": 255, "landcover": -1}
#: Name, unit and what it is of every array whose name does not say it all.
_ABOUT = {
    "reflectance": ("1e-4", "surface reflectance x 10,000"),
    "fmask": ("1", "HLS v2.0 Fmask bits, 255 no data"),
    "landcover": ("1", "land cover class, -1 unlabelled"),
    "time": (None, "time of each date; NaT where it is not published"),
    "stratum": (None, "what the draw was balanced over"),
    "scene": (None, "scene that the chip was cut from"),
    "index": ("1", "number of the image in a set of images, -1 in a scene"),
    "clear": ("1", "share of clear pixels"),
    "crs": (None, "CRS of centre_x and centre_y"),
    "centre_x": (None, "x of the centre in crs"),
    "centre_y": (None, "y of the centre in crs"),
    "lon": ("degrees_east", "longitude of the centre"),
    "lat": ("degrees_north", "latitude of the centre"),
    "row": ("1", "first pixel row of the chip in its scene"),
    "column": ("1", "first pixel column of the chip in its scene"),
}
#: Coordinates of a chip, and the columns of `ChipArchive.table` that they are.
_COLUMNS = {name: name for name in ("lon", "lat", "crs", "stratum", "scene", "clear")} | {
    "centre_x": "east", "centre_y": "north", "row": "y", "column": "x", "index": "sample"
}  # fmt: skip


def write_archive(
    sampling: Sampling,
    path: str | Path,
    *,
    shard: int = 256,
    scheduler: str | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> ChipArchive:
    """Survey, draw and write chips; the same call again goes on where it was cut off.

    >>> archive = write_archive(Sampling(data="world_year", count=500), "a.zarr")  # doctest: +SKIP
    >>> len(archive), archive.bands[0]  # doctest: +SKIP
    (500, 'BLUE')

    Counts are rounded to whole numbers and clipped to -9998 ... 32767. A shard takes about three
    times its own size of memory in the process that writes it.

    Parameters
    ----------
    path
        Folder of the Zarr group. Only shards that are missing, cut off or changed are written.
    shard
        Samples in a shard, which is one file of each variable, written by one task.
    scheduler, workers, progress
        As for `geowb.pretrain.survey`. Workers of a cluster must see `path` and the data.

    Raises
    ------
    RequestError
        If something else is at `path`, or an archive of another sampling or another source.
    DataError
        If there is no candidate, or a scene lacks a band.
    """
    if not hasattr(shard, "__index__") or shard < 1:
        raise RequestError(f"shard: {shard!r} is not a whole number of at least 1.")
    path, shard = Path(path).expanduser().resolve(), int(shard)
    how = {"scheduler": scheduler, "workers": workers, "progress": progress}
    with held(path.with_name(f".{path.name}.lock")) as mine:
        if not mine:
            raise RequestError(f"Another process is writing to '{path}'. Wait until it has ended.")
        if not (found := path.exists()):
            _begin(path, sampling, shard, how)
        archive = ChipArchive(path, partial=True)
        _compare(archive, sampling, shard)
        if todo := archive.broken():
            if found:
                _compare_source(archive)
                _tell(path, complete=False)
            _say(progress, f"{path.name}: {len(todo)} of {archive.shards} shards are to be written")
            tasks = [(path, sampling, number, archive.rows(number)) for number in todo]
            each(_write_shard, tasks, title=f"Shards of {path.name}", **how)
        archive = ChipArchive(path)
        told = archive.statistics
        _tell(path, complete=True, band_mean=list(told.mean), band_std=list(told.std))
    return archive


def _say(progress: bool, *lines: str) -> None:
    from rich.console import Console

    for line in lines:
        Console(stderr=True, quiet=not progress).print(line, highlight=False, markup=False)


def _compare(archive: ChipArchive, sampling: Sampling, shard: int) -> None:
    """Refuse to go on with what is not the wanted archive; name what differs."""
    old = archive.sampling.to_dict() | {"shard": archive.shard}
    new = sampling.to_dict() | {"shard": shard}
    if differs := [f"{k} is {old[k]!r}, not {new[k]!r}" for k in new if old[k] != new[k]]:
        raise RequestError(
            f"'{archive.path}' holds another archive: {'; '.join(differs)}. "
            "Give another path, or remove it."
        )


def _compare_source(archive: ChipArchive) -> None:
    """Refuse to add shards of a source that is not the one that the others came from."""
    old, new = archive.provenance, _provenance(archive.sampling)
    keys = (old.keys() | new.keys()) - {"catalog_sha256"}  # any other entry may change
    if differs := [key for key in sorted(keys) if old.get(key) != new.get(key)]:
        raise RequestError(
            f"Shards of '{archive.path}' are to be written anew, and the source "
            f"'{archive.sampling.data}' has changed since ({', '.join(differs)}). "
            "Give another path, or remove the archive."
        )


def _provenance(sampling: Sampling) -> dict[str, Any]:
    """Collect what the catalog records of all scenes."""
    source, record = sampling.source(), {}
    for how in sampling.scenes(source).values():
        one = source.provenance(**{k: v for k, v in how.items() if k != "seed"})
        record = one | {"files": record.get("files", {}) | one["files"]} if "files" in one else one
    return json.loads(json.dumps(record, default=str))


# --- the plan and the empty group ---------------------------------------------------------------


def _begin(path: Path, sampling: Sampling, shard: int, how: Mapping[str, Any]) -> None:
    """Survey, draw, and put plan and empty group in their place at once."""
    import geowb

    candidates = survey(sampling, **how)
    chosen, report = draw(candidates, sampling.count, sampling.seed)
    facts = chosen.attrs
    flags = facts["landcover"]
    if any(one != flags[0] for one in flags):
        raise DataError(
            f"Scenes of '{sampling.data}' number their land cover classes differently: "
            "give selections that share them."
        )
    _say(how["progress"], *facts["notes"])
    table = json.dumps(chosen.to_dict("list"))
    variables = ["reflectance"] + ["fmask"] * facts["fmask"] + ["landcover"] * bool(flags)
    plan = {
        "format": 1,
        "geowb_version": geowb.__version__,
        "sampling": sampling.to_dict(),
        "shard": shard,
        "provenance": _provenance(sampling),
        "report": report.to_dict("records"),
        "looked_at": {k: facts[k] for k in ("windows", "best_clear", "most_dates")},
        "notes": facts["notes"],
        "variables": variables,
        "landcover": flags[0] if flags else {},
        "table_sha256": hashlib.sha256(table.encode()).hexdigest(),
    }
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a call that was killed; the lock is ours
    _empty_group(partial, plan, chosen)
    (partial / ".geowb" / "shards").mkdir(parents=True)
    (partial / ".geowb" / "table.json").write_text(table, encoding="utf-8")
    (partial / ".geowb" / "plan.json").write_text(json.dumps(plan, indent=1), encoding="utf-8")
    partial.rename(path)


def _empty_group(path: Path, plan: Mapping[str, Any], table: pd.DataFrame) -> None:
    """Make the group with its coordinates, and its large arrays without a shard."""
    import dask.array as da
    import xarray as xr
    from zarr.codecs import BloscCodec, Crc32cCodec

    sampling, shard = Sampling(**plan["sampling"]), plan["shard"]
    n, bands, frames, size = len(table), len(sampling.bands), sampling.frames, sampling.size
    shapes = {
        "reflectance": (("sample", "band", "frame", "y", "x"), (bands, frames, size, size), "i2"),
        "fmask": (("sample", "frame", "y", "x"), (frames, size, size), "u1"),
        "landcover": (("sample", "y", "x"), (size, size), "i2"),
    }
    chip, inner = 2 * bands * frames * size**2, 1  # bytes, and how many in an inner chunk
    while shard % (inner * 2) == 0 and inner * 2 * chip <= _CHUNK_BYTES:
        inner *= 2
    layers, encoding = {}, {"time": {"units": "seconds since 1970-01-01", "dtype": "int64"}}
    for name in plan["variables"]:
        dims, rest, kind = shapes[name]
        empty = da.full((n, *rest), _FILLS[name], dtype=kind, chunks=(shard, *rest))
        layers[name] = (dims, empty)
        pack = BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle", typesize=int(kind[1]))
        encoding[name] = {
            "chunks": (inner, *rest), "shards": (shard, *rest), "fill_value": _FILLS[name],
            "compressors": (pack, Crc32cCodec()),
        }  # fmt: skip
    encoding["reflectance"]["_FillValue"] = NO_DATA
    coords = {name: ("sample", table[column].to_numpy()) for name, column in _COLUMNS.items()}
    times = np.array(table["times"].tolist(), dtype="datetime64[ns]")
    coords["time"] = (("sample", "frame"), times)
    coords["band"] = ("band", np.array(sampling.bands, dtype=object))
    group = xr.Dataset(layers, coords, _attributes(plan))
    for name, (units, text) in _ABOUT.items():
        if name in group.variables:
            group[name].attrs = {"long_name": text} | ({"units": units} if units else {})
    if plan["landcover"]:
        group["landcover"].attrs.update(plan["landcover"])
    with warnings.catch_warnings():  # every reader of the group knows this part
        warnings.filterwarnings("ignore", "Consolidated metadata is currently not part")
        group.to_zarr(path, mode="w-", compute=False, zarr_format=3, encoding=encoding)


def _attributes(plan: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "title": f"Pretraining chips of {plan['sampling']['data']}",
        "Conventions": "CF-1.11",
        "geowb_version": plan["geowb_version"],
        "complete": False,
        "sampling": plan["sampling"],
        "provenance": plan["provenance"],
        "strata": plan["report"],
        "notes": plan["notes"],
    }


def _tell(path: Path, **attrs: Any) -> None:
    """Change attributes of the group, all at once."""
    group = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
    if group["attributes"] != (attrs := group["attributes"] | attrs):
        _put(path / "zarr.json", group | {"attributes": attrs})


def _put(file: Path, values: Mapping[str, Any]) -> None:
    write_at_once(file, json.dumps(values).encode())


# --- shards -------------------------------------------------------------------------------------


def _write_shard(path: Path, sampling: Sampling, number: int, rows: pd.DataFrame) -> None:
    """Cut the chips of a shard out of their scenes, write its files, then its mark."""
    import zarr

    archive = ChipArchive(path, partial=True)
    archive.mark(number).unlink(missing_ok=True)
    for name in archive.variables:
        archive.file(name, number).unlink(missing_ok=True)
    group = zarr.open_group(str(path), mode="r+")
    arrays = {
        name: np.full((len(rows), *group[name].shape[1:]), _FILLS[name], group[name].dtype)
        for name in archive.variables
    }
    done, together = 0, max(1, _BYTES_AT_ONCE // (4 * arrays["reflectance"][0].size))
    for key, part in rows.groupby("scene", sort=False):
        scene = open_scene(sampling, key)
        _compare_times(scene, part, path)
        for first in range(0, len(part), together):
            some = part.iloc[first : first + together]
            for name, values in _cut(scene, some, sampling.size, archive.variables):
                arrays[name][done : done + len(some)] = values
            done += len(some)
    start = number * archive.shard
    for name, values in arrays.items():
        group[name][start : start + len(rows)] = values
    files = {name: fingerprint(archive.file(name, number)) for name in arrays}
    sums = _sums(arrays["reflectance"], arrays.get("fmask"))
    _put(archive.mark(number), {"plan": archive.hash, "files": files, "sums": sums})


def _compare_times(scene: xr.Dataset, rows: pd.DataFrame, path: Path) -> None:
    """Refuse a scene whose dates are not those of the survey, as of a search that finds more."""
    there = dict(enumerate(times_of(scene).tolist()))
    for key, dates, times in rows[["scene", "dates", "times"]].itertuples(index=False):
        if (now := tuple(map(there.get, dates))) != times:
            raise DataError(
                f"The dates {dates} of the scene '{key}' were {times} when '{path}' was begun, "
                f"and are {now}: the source has changed. Give another path, or remove the archive."
            )


def _cut(
    scene: xr.Dataset, rows: pd.DataFrame, size: int, variables: Sequence[str]
) -> Iterator[tuple[str, np.ndarray]]:
    """Each variable of some chips of one scene, in the archive's dtype."""
    import dask

    for name in variables:
        if name not in scene:
            continue
        windows = []
        for sample, y, x, dates in rows[["sample", "y", "x", "dates"]].itertuples(index=False):
            one = scene[name] if sample < 0 else scene[name].isel(sample=sample)
            one = one.isel(y=slice(y, y + size), x=slice(x, x + size))
            windows.append((one.isel(time=list(dates)) if "time" in one.dims else one).data)
        values = np.stack(dask.compute(*windows, scheduler="sync"))
        if name == "reflectance":
            whole = np.clip(np.rint(values), NO_DATA + 1, 32767)
            values = np.where(np.isnan(values), NO_DATA, whole).astype("int16").swapaxes(1, 2)
        yield name, values


def _sums(chips: np.ndarray, fmask: np.ndarray | None) -> dict[str, Any]:
    """Take number, sum and sum of squares of the clear pixels by band, exact."""
    clear = (chips != NO_DATA).all(1)
    if fmask is not None:
        clear &= (fmask & UNCLEAR) == 0
    totals = [[], []]
    for band in range(chips.shape[1]):
        values = chips[:, band][clear].astype("int64")
        totals[0].append(int(values.sum()))
        totals[1].append(int((values * values).sum()))
    return {"count": int(clear.sum()), "sum": totals[0], "squares": totals[1]}
