"""An archive of chips: what is in it, which of its shards are whole, and chips as arrays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geowb.bands import BandStatistics
from geowb.errors import DataError, RequestError
from geowb.paths import sha256
from geowb.pretrain.sampling import Sampling

if TYPE_CHECKING:
    import xarray as xr
    import zarr

__all__ = ["NO_DATA", "ChipArchive", "as_floats", "fingerprint"]

#: Stands in `reflectance` where there is no data.
NO_DATA = -9999
_AGAIN = "Call write_archive with the same sampling again."


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
        self.hash = hashlib.sha256(text).hexdigest()
        try:
            plan = json.loads(text)
        except ValueError:
            raise _changed(file) from None
        self.sampling = Sampling(**plan["sampling"])
        self.bands, self.frames = self.sampling.bands, self.sampling.frames
        self.size: int = self.sampling.size
        self.shard: int = plan["shard"]
        self.variables: list[str] = plan["variables"]
        self.provenance: dict[str, Any] = plan["provenance"]
        self.notes: list[str] = plan["notes"]
        self.strata = pd.DataFrame(plan["report"])
        self.table = _read_table(file.with_name("table.json"), plan["table_sha256"])
        self.shards = -(-len(self.table) // self.shard)
        if not partial and (broken := self.broken(checksums=False)):
            raise DataError(
                f"{len(broken)} of {self.shards} shards of '{self.path}' are missing or cut off, "
                f"the first is {broken[0]}. {_AGAIN}"
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
            if checksums and fingerprint(file) != told:
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
            where = np.flatnonzero(wanted // self.shard == number)
            first, last = wanted[where].min(), wanted[where].max()
            for name, values in found.items():  # a run of chips is read faster than one by one
                block = self._of_shard(number, group[name], slice(first, last + 1))
                values[where] = block[wanted[where] - first]
        return {"image": as_floats(found.pop("reflectance")), **found}

    def read_shard(self, number: int) -> np.ndarray:
        """`reflectance` of a whole shard, (n, C, T, H, W) int16."""
        start = number * self.shard
        stop = min(start + self.shard, len(self))
        return self._of_shard(number, self.arrays()["reflectance"], slice(start, stop))

    def _of_shard(self, number: int, array: Any, where: slice) -> np.ndarray:
        """Read a part of a shard that is whole before and after: zarr would fill in what lacks."""
        self._check(number)
        try:
            values = np.asarray(array[where])
        except (OSError, ValueError, RuntimeError) as error:
            raise DataError(f"'{self.path}' has damaged bytes: {error}. {_AGAIN}") from error
        self._check(number)  # while it was read, another process may have begun to write it anew
        return values

    def _check(self, number: int) -> None:
        if not self._whole(number, checksums=False):
            raise DataError(f"Shard {number} of '{self.path}' is missing or cut off. {_AGAIN}")


def as_floats(counts: np.ndarray) -> np.ndarray:
    """float32 with NaN, of int16 with `NO_DATA`.

    >>> as_floats(np.array([5, NO_DATA], "int16"))
    array([ 5., nan], dtype=float32)
    """
    values = counts.astype(np.float32)
    values[counts == NO_DATA] = np.nan
    return values


def fingerprint(file: Path) -> dict[str, Any] | None:
    """Size and checksum; None for a file that is not there, as of a shard without any data."""
    if not file.is_file():
        return None
    return {"bytes": file.stat().st_size, "sha256": sha256(file)}


def _read_table(file: Path, digest: str) -> pd.DataFrame:
    """Read the chosen chips."""
    text = file.read_bytes() if file.is_file() else b""
    if hashlib.sha256(text).hexdigest() != digest:
        raise _changed(file)
    columns = json.loads(text)
    for name in ("dates", "times"):
        columns[name] = [tuple(values) for values in columns[name]]
    return pd.DataFrame(columns)


def _changed(file: Path) -> DataError:
    place = file.parents[1]
    return DataError(f"'{file}' is missing or has changed: remove '{place}' and write it again.")
