"""Read any raster in windows: which bands and dates, what is no data, what cannot be read."""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from geowb.errors import DataError
from geowb.predict.grid import reflected

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Damage", "Scene", "Window", "bounded_cache"]

#: GDAL's block cache, bytes: enough for the blocks of one unit, instead of 5 % of the memory.
_CACHE = 48 * 2**20


class Damage(NamedTuple):
    """Pixels that could not be read: rows and columns, half open, and what was said."""

    file: str
    top: int
    bottom: int
    left: int
    right: int
    error: str

    def __str__(self) -> str:
        rows, columns = f"{self.top}-{self.bottom - 1}", f"{self.left}-{self.right - 1}"
        return f"{self.file}, rows {rows}, columns {columns}: {self.error}"


@dataclass(frozen=True)
class Window:
    """Pixels of a part of the scene, mirrored beyond its edges."""

    values: np.ndarray  # (C, T, y, x) float32, NaN where there is no data
    seen: np.ndarray  # (y, x) bool: not no data


@dataclass
class Plane:
    """One image of the scene: an array ``(band, y, x)`` and what its numbers mean."""

    name: str
    array: xr.DataArray
    bands: list[int]  # which of its bands, from 0, in the order of the model
    nodata: float | None = None
    gain: float = 1.0
    offset: float = 0.0

    def read_into(self, out: np.ndarray, rows: slice, cols: slice) -> bool:
        """Read a part, ``(band, y, x)`` float32 with NaN; tell whether any may be missing."""
        raw = self.array.isel(band=self._picked, y=rows, x=cols).to_numpy()
        out[...] = raw
        gaps = raw.dtype.kind == "f"
        if self.nodata is not None and np.isfinite(self.nodata):
            absent = raw == raw.dtype.type(self.nodata)
            if absent.any():
                gaps = True
                out[absent] = np.nan
        if (self.gain, self.offset) != (1.0, 0.0):
            out *= np.float32(self.gain)
            out += np.float32(self.offset)
        return gaps

    @property
    def _picked(self) -> slice | list[int]:
        """The bands as a slice where they lie side by side: one read instead of one a band."""
        first, last = self.bands[0], self.bands[-1]
        whole = self.bands == list(range(first, last + 1))
        return slice(first, last + 1) if whole else self.bands

    @property
    def blocks(self) -> tuple[int, int]:
        """Rows and columns that are stored together."""
        chunks = self.array.encoding.get("preferred_chunks", {})
        return int(chunks.get("y", 512)), int(chunks.get("x", 512))


@dataclass
class Scene:
    """A scene that is read in windows, its dates one plane or several planes each.

    >>> from geowb.predict.opening import open_scene
    >>> scene = open_scene("scene.tif", bands=HLS6)  # doctest: +SKIP
    >>> scene.window(-8, 56, 0, 64).values.shape  # doctest: +SKIP
    (6, 1, 64, 64)
    """

    name: str
    dates: list[list[Plane]]
    shape: tuple[int, int]
    crs: Any
    transform: Any
    tolerant: bool = False  # of what cannot be read: no data then
    missing: str = "all"
    origin: str = ""  # digests of files, addresses of what is none
    damages: list[Damage] = field(default_factory=list)
    _sample: np.ndarray | None = None

    @property
    def channels(self) -> tuple[int, int]:
        """Numbers of bands and of dates."""
        return sum(len(plane.bands) for plane in self.dates[0]), len(self.dates)

    @property
    def times(self) -> list[Any]:
        """Date of each image, as datetime64; NaT where none is known."""
        coords = [date[0].array.coords for date in self.dates]
        nat = np.datetime64("NaT", "ns")
        return [one["time"].values if "time" in one else nat for one in coords]

    @property
    def remote(self) -> bool:
        """Whether it comes over a network, so that reading it is mostly waiting."""
        return "://" in self.origin or "/vsi" in self.origin

    def window(self, top: int, bottom: int, left: int, right: int) -> Window:
        """Read a window that may reach beyond the scene, where it is mirrored."""
        rows = reflected(top, bottom, self.shape[0])
        cols = reflected(left, right, self.shape[1])
        y, x = (slice(int(at.min()), int(at.max()) + 1) for at in (rows, cols))
        values, gaps = self._read(y, x, self._read_plane)
        if len(rows) != y.stop - y.start or rows[0] != y.start:
            values = values[:, :, rows - y.start]
        if len(cols) != x.stop - x.start or cols[0] != x.start:
            values = values[..., cols - x.start]
        return Window(values, self._seen(values) if gaps else np.ones(values.shape[2:], bool))

    def _read(self, rows: slice, cols: slice, how: Callable[..., bool]) -> tuple[np.ndarray, bool]:
        """Read all bands and dates of a part; tell whether any may be missing."""
        size = (rows.stop - rows.start, cols.stop - cols.start)
        values, gaps = np.empty((*self.channels, *size), np.float32), False
        with bounded_cache():
            for number, date in enumerate(self.dates):
                first = 0
                for plane in date:
                    out = values[first : first + len(plane.bands), number]
                    gaps |= how(plane, out, rows, cols)
                    first += len(plane.bands)
        return values, gaps

    def _seen(self, values: np.ndarray) -> np.ndarray:
        given = np.isfinite(values)
        return given.any(axis=(0, 1)) if self.missing == "all" else given.all(axis=(0, 1))

    def _read_plane(self, plane: Plane, out: np.ndarray, rows: slice, cols: slice) -> bool:
        """Read a part of a plane; block by block where it cannot be read at once."""
        try:
            return plane.read_into(out, rows, cols)
        except _UNREADABLE as error:
            if not self.tolerant:
                raise DataError(
                    f"{plane.name} cannot be read in rows {rows.start}-{rows.stop - 1}, columns "
                    f"{cols.start}-{cols.stop - 1}: {_reason(error)} Get the file again, or have "
                    "such blocks written as no data (unreadable='nodata', --unreadable nodata)."
                ) from error
        for y, x in _blocks(rows, cols, plane.blocks):
            part = out[:, y.start - rows.start : y.stop - rows.start]
            part = part[..., x.start - cols.start : x.stop - cols.start]
            try:
                plane.read_into(part, y, x)
            except _UNREADABLE as error:
                part[...] = np.nan
                self._note(plane, y, x, error)
        return True

    def _note(self, plane: Plane, rows: slice, cols: slice, error: Exception) -> None:
        (high, wide), (height, width) = plane.blocks, self.shape
        top, left = rows.start // high * high, cols.start // wide * wide
        bottom, right = min(top + high, height), min(left + wide, width)
        found = Damage(plane.name, top, bottom, left, right, _reason(error))
        with _NOTING:
            if found[:5] not in [damage[:5] for damage in self.damages]:
                self.damages.append(found)

    def digest(self) -> str:
        """Digest of the files and of what they hold: another scene is not taken for this one.

        Of a file what `geowb.catalog.source.fingerprint` says, of an array in memory all numbers,
        of anything else windows all over the scene.
        """
        digest = hashlib.sha256(np.ascontiguousarray(self.sample()))
        digest.update(self.origin.encode())
        for plane in itertools.chain(*self.dates):
            if isinstance(plane.array.variable._data, np.ndarray):
                digest.update(np.ascontiguousarray(plane.array.variable._data))
        return digest.hexdigest()

    def sample(self, size: int = 64, across: int = 3) -> np.ndarray:
        """Pixels ``(C, T, n)`` of windows spread over the scene, to look at the numbers."""
        if self._sample is None:
            parts = itertools.product(*(_spread(side, size, across) for side in self.shape))
            found = [self._read(rows, cols, _read_or_leave)[0] for rows, cols in parts]
            self._sample = np.concatenate([v.reshape(*v.shape[:2], -1) for v in found], axis=-1)
        return self._sample


def _read_or_leave(plane: Plane, out: np.ndarray, rows: slice, cols: slice) -> bool:
    """Read a part; one that cannot be read is not for the sample to judge."""
    try:
        return plane.read_into(out, rows, cols)
    except _UNREADABLE:
        out[...] = np.nan
        return True


def _spread(length: int, size: int, count: int) -> list[slice]:
    """Equal parts of a side, from its one end to the other."""
    if length <= size:
        return [slice(0, length)]
    starts = np.linspace(0, length - size, count).astype(int) // size * size  # in one block each
    return [slice(start, start + size) for start in starts.tolist()]


_NOTING = threading.Lock()


#: rasterio's errors are OSError; zarr's codecs raise the others for what they cannot decode.
_UNREADABLE: tuple[type[Exception], ...] = (OSError, RuntimeError, ValueError)


def _reason(error: Exception) -> str:
    told = " ".join(str(error.__cause__ or error).split()) or type(error).__name__
    return told if told.endswith(".") else f"{told}."


def _blocks(rows: slice, cols: slice, size: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Parts of a window that do not cross the borders of blocks."""
    for y in _parts(rows, size[0]):
        for x in _parts(cols, size[1]):
            yield y, x


def _parts(part: slice, size: int) -> Iterator[slice]:
    inner = range(part.start - part.start % size + size, part.stop, size)
    for low, high in itertools.pairwise([part.start, *inner, part.stop]):
        yield slice(low, high)


@contextmanager
def bounded_cache() -> Iterator[None]:
    """Have GDAL keep few blocks, and try again where a server fails, while the block runs.

    It decodes with one thread: with several (a tile server sets that for the whole process) GDAL
    3.10 says once that a block cannot be read, and then gives other numbers for it.
    """
    import rasterio

    with rasterio.Env(
        GDAL_CACHEMAX=_CACHE,
        GDAL_NUM_THREADS="1",
        GDAL_HTTP_MAX_RETRY=3,
        GDAL_HTTP_RETRY_DELAY=1,
    ):
        yield
