"""Locks between processes, which the system drops when their holder dies."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from geowb.errors import RequestError

__all__ = ["held"]


@contextlib.contextmanager
def held(place: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold the lock file `place` while the block runs; the file is removed after it.

    >>> with held(Path("runs/.demo.lock")) as mine:  # doctest: +SKIP
    ...     print("mine" if mine else "somebody else's")

    Parameters
    ----------
    wait
        Wait for another holder; without it the block is told that it is not the holder.

    Raises
    ------
    RequestError
        If the folder of the lock cannot be made, or nothing written into it: to the lock that
        looks as if somebody held it.
    """
    from filelock import FileLock, Timeout

    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place.parent):
            pass
    except OSError as error:
        why = "a file is there" if isinstance(error, FileExistsError) else error.strerror
        raise RequestError(
            f"The folder {place.parent} cannot be written to ({why}): give another."
        ) from error
    lock = FileLock(place)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        with contextlib.suppress(OSError):  # Windows does not remove what is open
            place.unlink()  # while held: who waits finds its file gone and tries anew
        lock.release()
