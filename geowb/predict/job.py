"""The folder in which a map grows: what is done is kept, what is not is done again."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from geowb.errors import DataError, RequestError
from geowb.predict.grid import Grid
from geowb.predict.outputs import Outputs

__all__ = ["Job", "Raw", "full_disk"]

#: Columns that are merged at once between two units.
_COLUMNS = 2048
#: Bytes of a unit that wait until they are written: rows that are longer are fewer writes.
_WAITING = 8 * 2**20


@dataclass(frozen=True)
class Raw:
    """A file of numbers ``(y, x, band)``, written and read in parts."""

    path: Path
    shape: tuple[int, int, int]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the whole."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def create(self) -> None:
        """Make the file, empty, of its final size."""
        with self.path.open("wb") as file:
            file.truncate(self.nbytes)

    def write(self, file: BinaryIO, y: int, x: int, block: np.ndarray) -> None:
        """Write a block ``(rows, columns, bands)`` into the open file."""
        width, bands = self.shape[1:]
        rows = np.ascontiguousarray(block, self.dtype)
        if x == 0 and block.shape[1] == width:
            file.seek(y * width * bands * self.dtype.itemsize)
            _write(file, rows)
            return
        for number, row in enumerate(rows):
            file.seek(((y + number) * width + x) * bands * self.dtype.itemsize)
            _write(file, row)

    def read(self, rows: slice, cols: slice) -> np.ndarray:
        """Read ``(rows, columns, bands)``."""
        width, bands = self.shape[1:]
        found = np.empty((rows.stop - rows.start, cols.stop - cols.start, bands), self.dtype)
        with self.path.open("rb") as file:
            for number, row in enumerate(range(rows.start, rows.stop)):
                file.seek((row * width + cols.start) * bands * self.dtype.itemsize)
                found[number] = np.fromfile(file, self.dtype, found[number].size).reshape(-1, bands)
        return found


class Job:
    """A map that is being made: raw numbers, seams between units, marks of units that are done.

    >>> job = Job(Job.place(Path("agb.tif"), request), grid, outputs, request)  # doctest: +SKIP
    >>> job.begin()  # doctest: +SKIP
    3

    Each request has a folder of its own: a worker of a cluster that outlives what started it can
    only write there, what it would write anyway. A unit is done when its mark is there, which is
    written last; whatever has no mark is done again. The seam between two units is kept as sums of
    both, float64, and put into the map when all units are done.
    """

    def __init__(self, folder: Path, grid: Grid, outputs: Outputs, request: str) -> None:
        self.folder = folder
        self.grid = grid
        self.outputs = outputs
        self.request = request
        size = (grid.y.length, grid.x.length)
        self.raws = {
            one.name: Raw(folder / f"{one.name}.raw", (*size, one.bands), np.dtype(one.dtype))
            for one in outputs
        }

    @staticmethod
    def place(target: Path, request: str) -> Path:
        """Folder of a request, beside its target."""
        return target.with_name(f".{target.name}.{request[:12]}.partial")

    @property
    def nbytes(self) -> int:
        """Bytes that the folder takes at most."""
        seams = 2 * (self.grid.units - 1) * self.grid.y.blend * self.grid.x.length
        return sum(raw.nbytes for raw in self.raws.values()) + 8 * seams * self.outputs.channels

    def begin(self) -> int:
        """Make the folder, or find what an earlier run of the same request left; units done.

        What runs of other requests left of the same target is removed.
        """
        for other in self.folder.parent.iterdir():
            if other != self.folder and _other(self.folder.name, other.name):
                shutil.rmtree(other, ignore_errors=True)
        note = self.folder / "request.txt"
        if note.is_file() and note.read_text("utf-8") == self.request:
            return sum(self.done(unit) for unit in range(self.grid.units))
        shutil.rmtree(self.folder, ignore_errors=True)
        free = shutil.disk_usage(self.folder.parent).free
        if self.nbytes > free:
            raise RequestError(
                f"The map needs up to {self.nbytes / 1e9:.3g} GB beside its target, and on that "
                f"disk ({self.folder.parent.absolute()}) {free / 1e9:.3g} GB are free: choose "
                "another place, or fewer outputs."
            )
        with full_disk(self.folder):
            self.folder.mkdir(parents=True)
            for raw in self.raws.values():
                raw.create()
            note.write_text(self.request, "utf-8")
        return 0

    def mark(self, unit: int) -> Path:
        """File that is there when a unit is done."""
        return self.folder / f"unit-{unit:05d}.json"

    def seam(self, unit: int, side: str) -> Path:
        """File of a unit's sums along its top or bottom, (x, channel, y) float64."""
        return self.folder / f"seam-{unit:05d}-{side}.raw"

    def done(self, unit: int) -> bool:
        """Whether a unit is done."""
        return self.mark(unit).is_file()

    def told(self) -> list[dict[str, Any]]:
        """Read what units told when they were done."""
        marks = (self.mark(unit) for unit in range(self.grid.units))
        return [json.loads(mark.read_text("utf-8")) for mark in marks]

    def close_seams(self) -> int:
        """Put the pixels between units into the map; all units must be done.

        Gives the number of pixels for which the upper unit had numbers and the lower had none.
        """
        blend, width, wrong = self.grid.y.blend, self.grid.x.length, 0
        if not blend:
            return wrong
        each = self.outputs.channels * blend
        with full_disk(self.folder):
            files = {name: raw.path.open("r+b", buffering=0) for name, raw in self.raws.items()}
            try:
                for unit in range(1, self.grid.units):
                    y = self.grid.y.cut(self.grid.unit(unit).start)
                    sides = self.seam(unit - 1, "bottom"), self.seam(unit, "top")
                    for x in range(0, width, _COLUMNS):
                        count = min(_COLUMNS, width - x)
                        above, below = (
                            np.fromfile(side, "f8", count * each, offset=x * each * 8)
                            for side in sides
                        )
                        sums = (above + below).reshape(count, -1, blend)
                        above = above.reshape(sums.shape)
                        wrong += int((np.isfinite(above) & np.isnan(sums)).all(axis=1).sum())
                        self.put(files, y, x, np.moveaxis(sums, 0, -1))
            finally:
                for file in files.values():
                    file.close()
        return wrong

    def put(self, files: dict[str, BinaryIO], y: int, x: int, values: np.ndarray) -> None:
        """Write finished values ``(K, y, x)``, NaN for no data, as each of the outputs."""
        for output in self.outputs:
            self.raws[output.name].write(files[output.name], y, x, output.of(values))

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Writer:
    """The open files of one unit."""

    def __init__(self, job: Job, unit: int) -> None:
        self.job = job
        self.unit = unit
        rows, y = job.grid.unit(unit), job.grid.y
        self._top = y.cut(rows.start)
        self._above = y.blend if rows.start > 0 else 0
        self._below = y.blend if rows.stop < y.count else 0
        self._waiting: list[list[np.ndarray]] = []  # by columns, then by output
        self._first = 0
        self._files: dict[str, BinaryIO] = {}
        for name, raw in job.raws.items():
            self._files[name] = raw.path.open("r+b", buffering=0)
        self._own = f".{uuid.uuid4().hex}"  # until a file is whole
        self._seams = {
            side: _beside(job.seam(unit, side), self._own).open("wb")
            for side, wanted in (("top", self._above), ("bottom", self._below))
            if wanted
        }

    def put(self, x: int, sums: np.ndarray) -> None:
        """Take columns ``(K, y, columns)`` of blended values, those of the seams included."""
        stop = sums.shape[1] - self._below
        if not self._waiting:
            self._first = x
        middle = sums[:, self._above : stop]
        self._waiting.append([output.of(middle) for output in self.job.outputs])
        if self._above:
            self._append("top", sums[:, : self._above])
        if self._below:
            self._append("bottom", sums[:, stop:])
        if sum(part.nbytes for parts in self._waiting for part in parts) > _WAITING:
            self._write_waiting()

    def _write_waiting(self) -> None:
        columns = zip(*self._waiting, strict=True)
        for (name, file), parts in zip(self._files.items(), columns, strict=False):
            block = np.concatenate(parts, axis=1)
            self.job.raws[name].write(file, self._top + self._above, self._first, block)
        self._waiting.clear()

    def _append(self, side: str, sums: np.ndarray) -> None:
        _write(self._seams[side], np.ascontiguousarray(np.moveaxis(sums, -1, 0)))

    def finish(self, told: dict[str, Any]) -> None:
        """Put everything on the disk (a full one says so now), and mark the unit as done."""
        self._write_waiting()
        for file in (*self._files.values(), *self._seams.values()):
            file.flush()
            os.fsync(file.fileno())
        self.close()
        mark = self.job.mark(self.unit)
        _beside(mark, self._own).write_text(json.dumps(told), "utf-8")
        for made in (*(self.job.seam(self.unit, side) for side in self._seams), mark):
            _beside(made, self._own).replace(made)

    def close(self) -> None:
        """Close the files."""
        for file in (*self._files.values(), *self._seams.values()):
            file.close()


def _beside(file: Path, ending: str) -> Path:
    return file.with_name(file.name + ending)


def _other(own: str, name: str) -> bool:
    """Whether a folder is of the same target as the folder `own`."""
    target = own.removesuffix(".partial").rpartition(".")[0]
    return re.fullmatch(rf"{re.escape(target)}\.[0-9a-f]{{12}}\.partial", name) is not None


def _write(file: BinaryIO, values: np.ndarray) -> None:
    """Write all of an array; an unbuffered file may take a part of it at a time."""
    if not values.size:  # a unit of one row of tiles may have nothing between its seams
        return
    left = memoryview(values).cast("B")
    while left:
        left = left[file.write(left) :]


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Say in words that a disk is full; what is done is kept."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise DataError(
            f"The disk of {folder.parent.absolute()} is full ({error.strerror}). There is no map "
            "under its name; what is done is kept beside it, and after making room the same "
            "command goes on."
        ) from error
