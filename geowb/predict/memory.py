"""Have memory that a model gives back kept for its next batch."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["kept"]

#: Numbers of glibc's ``mallopt`` (malloc.h).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
#: Bytes up to which a piece comes from the heap: the most that glibc takes, and comes to itself.
_LARGEST = 32 * 2**20
#: Bytes that lie free at the heap's end before they go back to the system.
_FREE = 2 * _LARGEST


@contextmanager
def kept() -> Iterator[None]:
    """Have the C library keep what is freed, while the block runs, and give it back at its end.

    >>> with kept():
    ...     batches = [bytearray(2**22) for _ in range(3)]

    glibc returns the memory of each batch to the system, and the next one's pages are zeroed one
    by one when they are touched: a tenth of the time of a U-Net. Other C libraries are left alone.
    The limits, which stay, are those that glibc's own adjustment ends at.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(libc, "mallopt"):  # musl has none
        yield
        return
    libc.mallopt(_MMAP_THRESHOLD, _LARGEST)
    libc.mallopt(_TRIM_THRESHOLD, _FREE)
    try:
        yield
    finally:
        libc.malloc_trim(0)
