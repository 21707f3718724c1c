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
import pandas as pd

from geowb.bands import BandStatistics
from geowb.errors import DataError, RequestError
from geowb.locks import held
from geowb.pretrain.sampling import _UNCLEAR, Sampling, draw, each, open_scene, survey

if TYPE_CHECKING:
    import xarray as xr
    import zarr

__all__ = ["NO_DATA", "ChipArchive", "write_archive"]

#: Stands in `reflectance` where there is no data.
NO_DATA = -9999
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
    path = Path(path).expanduser().resolve()
    how = {"scheduler": scheduler, "workers": workers, "progress": progress}
    with held(path.with_name(f".{path.name}.lock")) as mine:
        if not mine:
            raise RequestError(f"Another process is writing to '{path}'. Wait until it has ended.")
        found = path.exists()
        if found:
            _compare(path, sampling, shard)
        else:
            _begin(path, sampling, shard, how)
        archive = ChipArchive(path, partial=True)
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


def _compare(path: Path, sampling: Sampling, shard: int) -> None:
    """Refuse to go on with what is not the wanted archive; name what differs."""
    archive = ChipArchive(path, partial=True)
    old = archive.sampling.to_dict() | {"shard": archive.shard}
    new = sampling.to_dict() | {"shard": shard}
    if differs := [f"{k} is {old[k]!r}, not {new[k]!r}" for k in new if old[k] != new[k]]:
        raise RequestError(
            f"'{path}' holds another archive: {'; '.join(differs)}. "
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
    for how in sampling.scenes().values():
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
        raise DataError(f"Scenes of '{sampling.data}' number their land cover classes differently.")
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


def _read_table(path: Path, sha256: str) -> pd.DataFrame:
    """Read the chosen chips."""
    file = path / ".geowb" / "table.json"
    text = file.read_bytes() if file.is_file() else b""
    if hashlib.sha256(text).hexdigest() != sha256:
        raise DataError(f"'{file}' is missing or has changed: remove '{path}' and write it again.")
    columns = json.loads(text)
    for name in ("dates", "times"):
        columns[name] = [tuple(values) for values in columns[name]]
    return pd.DataFrame(columns)


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
    """Write JSON under another name first: nobody reads a half."""
    beside = file.with_name(f".{file.name}.partial")
    beside.write_text(json.dumps(values), encoding="utf-8")
    beside.replace(file)


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
        for first in range(0, len(part), together):
            some = part.iloc[first : first + together]
            for name, values in _cut(scene, some, sampling.size, archive.variables):
                arrays[name][done : done + len(some)] = values
            done += len(some)
    start = number * archive.shard
    for name, values in arrays.items():
        group[name][start : start + len(rows)] = values
    files = {name: _fingerprint(archive.file(name, number)) for name in arrays}
    sums = _sums(arrays["reflectance"], arrays.get("fmask"))
    _put(archive.mark(number), {"plan": archive.hash, "files": files, "sums": sums})


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


def _fingerprint(file: Path) -> dict[str, Any] | None:
    """Size and checksum; None for a file that is not there, as of a shard without any data."""
    if not file.is_file():
        return None
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"bytes": file.stat().st_size, "sha256": digest}


def _sums(chips: np.ndarray, fmask: np.ndarray | None) -> dict[str, Any]:
    """Take number, sum and sum of squares of the clear pixels by band, exact."""
    clear = (chips != NO_DATA).all(1)
    if fmask is not None:
        clear &= (fmask & _UNCLEAR) == 0
    totals = [[], []]
    for band in range(chips.shape[1]):
        values = chips[:, band][clear].astype("int64")
        totals[0].append(int(values.sum()))
        totals[1].append(int((values * values).sum()))
    return {"count": int(clear.sum()), "sum": totals[0], "squares": totals[1]}


# --- reading ------------------------------------------------------------------------------------


class ChipArchive:
    """An archive of chips that is whole.

    >>> archive = ChipArchive("chips.zarr")  # doctest: +SKIP
    >>> archive.read([0, 7])["image"].shape  # doctest: +SKIP
    (2, 6, 3, 64, 64)

    Attributes
    ----------
    path, sampling, bands, frames, size
        Where it is, and what was sampled.
    table : pandas.DataFrame
        One row a chip: scene, sample, y, x, dates, times, clear, season, landcover, crs, east,
        north, lon, lat, selection, stratum.
    strata : pandas.DataFrame
        What the draw had of each stratum: available, wanted, taken, short.
    variables, shard, shards, provenance, notes
        Arrays, samples a shard, number of shards, source, and what was said of the sampling.

    Parameters
    ----------
    path
        Folder that `write_archive` wrote.
    partial
        Open an archive that lacks shards, to look at it; without it that is a DataError.

    Raises
    ------
    RequestError
        If there is no such archive at `path`.
    DataError
        If shards are missing or cut off (told by their sizes; `broken` reads their bytes).
    """

    def __init__(self, path: str | Path, *, partial: bool = False) -> None:
        self.path = Path(path).expanduser().resolve()
        file = self.path / ".geowb" / "plan.json"
        if not file.is_file():
            raise RequestError(f"'{path}' is no archive of chips: write_archive makes one.")
        text = file.read_bytes()
        plan = json.loads(text)
        self.hash = hashlib.sha256(text).hexdigest()
        self.sampling = Sampling(**plan["sampling"])
        self.bands, self.frames = self.sampling.bands, self.sampling.frames
        self.size: int = self.sampling.size
        self.shard: int = plan["shard"]
        self.variables: list[str] = plan["variables"]
        self.provenance: dict[str, Any] = plan["provenance"]
        self.notes: list[str] = plan["notes"]
        self.strata = pd.DataFrame(plan["report"])
        self.table = _read_table(self.path, plan["table_sha256"])
        self.shards = -(-len(self.table) // self.shard)
        if not partial and (broken := self.broken(checksums=False)):
            raise DataError(
                f"{len(broken)} of {self.shards} shards of '{self.path}' are missing or cut off, "
                f"the first is {broken[0]}. Call write_archive with the same sampling again."
            )

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        shape = f"{len(self)} x {len(self.bands)} x {self.frames} x {self.size} x {self.size}"
        return f"ChipArchive({str(self.path)!r}, {shape})"

    def mark(self, number: int) -> Path:
        """File that says that a shard is done."""
        return self.path / ".geowb" / "shards" / f"{number:06d}.json"

    def file(self, name: str, number: int) -> Path:
        """File of one variable's shard."""
        rest = {"reflectance": 4, "fmask": 3, "landcover": 2}[name]
        return self.path.joinpath(name, "c", str(number), *["0"] * rest)

    def rows(self, number: int) -> pd.DataFrame:
        """Rows of `table` that a shard holds."""
        return self.table.iloc[number * self.shard : (number + 1) * self.shard]

    def broken(self, *, checksums: bool = True) -> list[int]:
        """Shards that are missing, cut off or, by their checksums, changed."""
        return [number for number in range(self.shards) if not self._whole(number, checksums)]

    def _whole(self, number: int, checksums: bool) -> bool:
        mark = self._marked(number)
        if mark is None or mark["plan"] != self.hash:
            return False
        for name in self.variables:
            file, told = self.file(name, number), mark["files"][name]
            size = file.stat().st_size if file.is_file() else None
            if size != (told and told["bytes"]):
                return False
            if checksums and _fingerprint(file) != told:
                return False
        return True

    def _marked(self, number: int) -> dict[str, Any] | None:
        try:
            return json.loads(self.mark(number).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None

    @property
    def statistics(self) -> BandStatistics:
        """Mean and standard deviation of each band over clear pixels, in counts."""
        sums = [mark["sums"] for mark in map(self._marked, range(self.shards)) if mark]
        count = sum(one["count"] for one in sums)
        if count == 0:
            raise DataError(f"'{self.path}' has no clear pixel to take statistics from.")
        mean = [sum(values) / count for values in zip(*(s["sum"] for s in sums), strict=True)]
        square = [sum(values) / count for values in zip(*(s["squares"] for s in sums), strict=True)]
        std = [max(s - m * m, 0.0) ** 0.5 for s, m in zip(square, mean, strict=True)]
        source = f"{count} clear pixels of {len(self)} chips of {self.sampling.data}"
        return BandStatistics(tuple(mean), tuple(std), source)

    def open(self) -> xr.Dataset:
        """Open lazily with xarray: `reflectance` as float32 with NaN, coordinates by name."""
        import xarray as xr

        return xr.open_zarr(self.path, zarr_format=3)

    def arrays(self) -> zarr.Group:
        """Open as zarr: int16 counts with `NO_DATA`."""
        import zarr

        return zarr.open_group(str(self.path), mode="r")

    def read(self, indices: Sequence[int]) -> dict[str, np.ndarray]:
        """Read some chips, in the order of `indices`.

        Returns
        -------
        dict
            image (N, C, T, H, W) float32 counts, NaN for no data; `fmask` (N, T, H, W) uint8 and
            `landcover` (N, H, W) int16 where the source has them.

        Raises
        ------
        RequestError
            For an index that the archive does not have.
        DataError
            If the bytes on disk are damaged.
        """
        wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise RequestError(
                f"Indices go from 0 to {len(self) - 1}, not {wanted.min()} to {wanted.max()}."
            )
        group = self.arrays()
        found = {
            name: np.empty((len(wanted), *group[name].shape[1:]), group[name].dtype)
            for name in self.variables
        }
        for number in np.unique(wanted // self.shard).tolist():
            self._check(number)
            where = np.flatnonzero(wanted // self.shard == number)
            first, last = wanted[where].min(), wanted[where].max()
            for name, values in found.items():  # a run of chips is read faster than one by one
                block = self._guarded(group[name], slice(first, last + 1))
                values[where] = block[wanted[where] - first]
        return {"image": as_floats(found.pop("reflectance")), **found}

    def read_shard(self, number: int) -> np.ndarray:
        """`reflectance` of a whole shard, (n, C, T, H, W) int16."""
        self._check(number)
        start = number * self.shard
        stop = min(start + self.shard, len(self))
        return self._guarded(self.arrays()["reflectance"], slice(start, stop))

    def _check(self, number: int) -> None:
        """Refuse a shard whose files are not those of its mark: zarr would fill in what lacks."""
        if not self._whole(number, checksums=False):
            raise DataError(
                f"Shard {number} of '{self.path}' is missing or cut off. "
                "Call write_archive with the same sampling again."
            )

    def _guarded(self, array: Any, where: Any) -> np.ndarray:
        try:
            return np.asarray(array[where])
        except (OSError, ValueError, RuntimeError) as error:
            raise DataError(
                f"'{self.path}' has damaged bytes: {error}. "
                "Call write_archive with the same sampling again."
            ) from error


def as_floats(counts: np.ndarray) -> np.ndarray:
    """float32 with NaN, of int16 with `NO_DATA`."""
    values = counts.astype(np.float32)
    missing = counts == NO_DATA
    if missing.any():
        values[missing] = np.nan
    return values
