"""Tables as bytes: a digest, and what it is of, compressed; checked when it is read.

>>> parts = [np.zeros(1, "<f4"), np.ones(1, "<f4"), np.zeros(1, "<i4")]
>>> raw = laid_out(*parts, (np.array([3, 1], "<u4"),))
>>> [part.tolist() for part in unpack(pack(raw))[3]]
[[3, 1]]
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence

import numpy as np

from geowb.errors import CorruptStream
from geowb.nec.stream import unzipped

__all__ = ["MOST_CHANNELS", "WIDEST", "damaged", "fits", "laid_out", "pack", "unpack"]

#: A table has this many symbols at most; what lies beyond is escaped.
WIDEST = 2**16
_MAGIC = b"GWBT\x01"
MOST_CHANNELS = 2**16
#: Bytes that tables may have once they are unpacked.
_LARGEST = 2**26


def fits(weights: Sequence[np.ndarray]) -> bool:
    """Whether tables of these weights are small enough to be read again.

    >>> fits([np.ones(3)] * 1000), fits([np.ones(3)] * 100_000)
    (True, False)
    """
    channels = len(weights)
    size = 4 + 16 * channels + 4 * sum(map(len, weights))
    return channels <= MOST_CHANNELS and size <= _LARGEST


def laid_out(
    medians: np.ndarray, steps: np.ndarray, first: np.ndarray, weights: Sequence[np.ndarray]
) -> bytes:
    """Put what is in tables one behind the other: what their digest is of."""
    sizes = np.array([len(weights), *(len(one) - 1 for one in weights)], "<u4")
    # The four bytes of weights apart: the upper ones pack well.
    planes = np.concatenate(weights).view(np.uint8).reshape(-1, 4).T
    parts = (sizes, medians, steps, first, np.ascontiguousarray(planes))
    return b"".join(part.tobytes() for part in parts)


def pack(raw: bytes) -> bytes:
    """Compress what is in tables, behind its digest."""
    return _MAGIC + hashlib.sha256(raw).digest() + zlib.compress(raw, 9)


def unpack(packed: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    """Read medians, steps, first symbols and weights.

    Raises
    ------
    CorruptStream
        If they are damaged, or of another format.
    """
    start = len(_MAGIC) + 32
    if len(packed) < start or packed[: len(_MAGIC)] != _MAGIC:
        raise CorruptStream("These are no tables of geowb's factorised prior, or of a later one.")
    try:
        raw = unzipped(packed[start:], _LARGEST)
        if hashlib.sha256(raw).digest() != packed[len(_MAGIC) : start]:
            raise CorruptStream("The digest is another one.")
        return _parts(raw)
    except (CorruptStream, struct.error, ValueError) as error:
        raise damaged(error) from error


def damaged(error: Exception) -> CorruptStream:
    """Tell that tables are damaged, and what follows from it."""
    return CorruptStream(
        f"The tables of the factorised prior are damaged: {error} Nothing that was "
        "compressed by them can be read; fetch the file again."
    )


def _parts(raw: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    (channels,) = struct.unpack_from("<I", raw)
    fixed = 4 + 16 * channels
    if not 0 < channels <= MOST_CHANNELS or len(raw) < fixed:
        raise CorruptStream("They end too early.")
    counts, medians, steps, first = (
        np.frombuffer(raw, dtype, channels, 4 + 4 * channels * at)
        for at, dtype in enumerate(("<u4", "<f4", "<f4", "<i4"))
    )
    entries = int(counts.sum(dtype=np.uint64)) + channels
    if counts.max() > WIDEST or len(raw) != fixed + 4 * entries:
        raise CorruptStream("Their length is not what they say.")
    planes = np.frombuffer(raw, np.uint8, 4 * entries, fixed).reshape(4, entries)
    flat = np.ascontiguousarray(planes.T).view("<u4")[:, 0]
    return medians, steps, first, tuple(np.split(flat, np.cumsum(counts + 1)[:-1]))
