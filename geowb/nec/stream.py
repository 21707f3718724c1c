"""What lies around entropy-coded words: shape, missing tokens, a checksum.

A stream is

| bytes | |
|---|---|
| 1 | version (upper 4 bits), number of leading dims (3 bits), whether tokens are missing (1 bit) |
| 1 or more each | the leading dims, 7 bits a byte, the lower ones first |
| where some are missing | length of what follows, in the same way; a bit a token, zlib |
| 4 each | words of the coder, little-endian |
| 4 | CRC-32 of all before, begun with the first 4 bytes of the tables' digest |
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geowb.errors import CorruptStream, DataError

__all__ = ["Packed", "pack", "unpack", "unzipped"]

_VERSION = 1
_MOST_DIMS = 7


@dataclass(frozen=True)
class Packed:
    """What is in a stream."""

    shape: tuple[int, ...]  # without the channels
    there: NDArray[np.bool_] | None  # which tokens are, if some are not
    count: int  # tokens that are there
    words: bytes


def pack(shape: Sequence[int], there: NDArray[np.bool_], words: bytes, seed: int) -> bytes:
    """Put a stream together.

    >>> pack((2, 3), np.ones(6, bool), b"", seed=0).hex()
    '14020386e1514f'
    """
    if len(shape) > _MOST_DIMS:
        raise DataError(f"Values of {len(shape) + 1} dims: a stream has {_MOST_DIMS + 1} at most.")
    some = not there.all()
    body = bytes([_VERSION << 4 | len(shape) << 1 | some]) + b"".join(map(_number, shape))
    if some:
        bits = zlib.compress(np.packbits(there).tobytes(), 9)
        body += _number(len(bits)) + bits
    body += words
    return body + zlib.crc32(body, seed).to_bytes(4, "little")


def unpack(stream: bytes, shape: tuple[int, ...] | None, limit: int, seed: int) -> Packed:
    """Take a stream apart.

    Raises
    ------
    CorruptStream
        If the checksum or anything else does not fit, the shape is not `shape`, or there are more
        than `limit` tokens.
    """
    stream = bytes(stream)
    if len(stream) < 5 or zlib.crc32(stream[:-4], seed) != int.from_bytes(stream[-4:], "little"):
        raise CorruptStream(
            f"The checksum of a stream of {len(stream)} bytes does not fit: it is damaged, or was "
            "made with other tables."
        )
    body = stream[:-4]
    version, dims, some = body[0] >> 4, body[0] >> 1 & 7, body[0] & 1
    if version != _VERSION:
        raise CorruptStream(f"The stream is of version {version}; this geowb reads {_VERSION}.")
    found, at = [], 1
    for _ in range(dims):
        size, at = _read_number(body, at)
        found.append(size)
    tokens = math.prod(found)
    if shape is not None and tuple(found) != shape:
        raise CorruptStream(f"The stream holds {tuple(found)} tokens where {shape} are expected.")
    asked = math.prod(max(1, size) for size in found)  # also of a shape that holds nothing
    if asked > max(1, limit):
        raise CorruptStream(f"The stream asks for {asked:,} tokens; {limit:,} are allowed.")
    there, count = None, tokens
    if some:
        length, at = _read_number(body, at)
        if length > len(body) - at:
            raise CorruptStream("The stream ends within the bits of its missing tokens.")
        there = _bits(body[at : at + length], tokens)
        count, at = int(there.sum()), at + length
    words = body[at:]
    if len(words) % 4:
        raise CorruptStream("The stream does not end with a whole word.")
    return Packed(tuple(found), there, count, words)


def _bits(packed: bytes, tokens: int) -> NDArray[np.bool_]:
    size = -(-tokens // 8)
    bits = unzipped(packed, size)
    if len(bits) != size:
        raise CorruptStream(f"The stream has {len(bits)} bytes of bits for {tokens} tokens.")
    return np.unpackbits(np.frombuffer(bits, np.uint8), count=tokens).astype(bool)


def unzipped(packed: bytes, largest: int) -> bytes:
    """Unzip no more than `largest` bytes.

    >>> unzipped(zlib.compress(b"abc"), 3)
    b'abc'

    Raises
    ------
    CorruptStream
        If it is no zlib stream, has more in it, or goes on after its end.
    """
    unzip = zlib.decompressobj()
    try:
        found = unzip.decompress(packed, largest + 1)
    except zlib.error as error:
        raise CorruptStream(f"It cannot be unzipped ({error}).") from error
    if len(found) > largest or not unzip.eof or unzip.unused_data:
        raise CorruptStream(f"Unzipped it is not what it says (at most {largest:,} bytes).")
    return found


def _number(value: int) -> bytes:
    """Write a whole number in as few bytes as it needs, 7 bits each."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _read_number(body: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 63, 7):
        if at >= len(body):
            break
        byte = body[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise CorruptStream("The stream's shape is not readable.")
