"""Have memory that a model gives back kept for its next batch."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

__all__ = ["kept"]

#: Numbers of glibc's ``mallopt`` (malloc.h).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
#: Bytes up to which a piece comes from the heap: the most that glibc takes, and comes to itself.
_LARGEST = 32 * 2**20
#: Bytes that lie free at the heap's end before they go back to the system.
_FREE = 2 * _LARGEST
#: Bytes that the process may grow by, beyond its size in its first batches, before free memory is
#: given back; those batches fill GDAL's cache too.
_GROWTH, _FIRST = 32 * 2**20, 8


@contextmanager
def kept() -> Iterator[Callable[[], None]]:
    """Have the C library keep what is freed, while the block runs, and give it back at its end.

    >>> with kept() as tidy:
    ...     batches = [bytearray(2**22) for _ in range(3)]
    ...     tidy()

    glibc returns the memory of each batch to the system, and the next one's pages are zeroed one
    by one when they are touched: a tenth of the time of a U-Net. Other C libraries are left alone.
    The limits, which stay, are those that glibc's own adjustment ends at.

    What is kept lies in pieces between what is in use, and their sum goes up and down by chance.
    `tidy` is to be called after each batch: it gives them back if the process has grown since the
    first batches.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(libc, "mallopt"):  # musl has none
        yield lambda: None
        return
    libc.mallopt(_MMAP_THRESHOLD, _LARGEST)
    libc.mallopt(_TRIM_THRESHOLD, _FREE)
    process, sizes = psutil.Process(), []

    def tidy() -> None:
        size = process.memory_info().rss
        if len(sizes) < _FIRST:
            sizes.append(size)
        elif size > max(sizes) + _GROWTH:
            libc.malloc_trim(0)

    try:
        yield tidy
    finally:
        libc.malloc_trim(0)
