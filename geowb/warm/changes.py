"""Whether what a process has imported is still what lies on the disk."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Stamps", "difference", "of_environment", "of_modules"]

#: Path -> time and size, or what else tells that it is the same.
Stamps = dict[str, tuple[int, int]]

_GEOWB = Path(__file__).resolve().parents[1]
_METADATA = (".dist-info", ".egg-info", ".egg-link", ".pth")


def of_environment() -> Stamps:
    """Take the stamps of what is installed, and of geowb's own files."""
    prefix = Path(sys.prefix)
    places = [prefix / "pyvenv.cfg", prefix / "conda-meta", *_GEOWB.rglob("*.py")]
    for site in _sites():
        places += site.iterdir() if site.is_dir() else ()
    return dict(_stamp(place) for place in places if place.name != "__pycache__")


def of_modules() -> Stamps:
    """Take the stamps of the imported files that are neither installed nor Python's own."""
    known = (*_sites(), sysconfig.get_path("stdlib"), _GEOWB)
    installed = tuple(f"{place}{os.sep}" for place in known)
    files = {str(getattr(module, "__file__", None) or "") for module in list(sys.modules.values())}
    code = (".py", ".so")
    own = sorted(file for file in files if file.endswith(code) and not file.startswith(installed))
    return dict(_stamp(Path(file)) for file in own)


def difference(before: Stamps, after: Stamps) -> str:
    """Say what has changed, in a few words; empty when nothing has.

    >>> difference({"torch-2.9.dist-info": (1, 0)}, {"torch-2.10.dist-info": (2, 0)})
    'torch-2.10.dist-info is new'
    >>> difference({"geowb/chips.py": (1, 10)}, {"geowb/chips.py": (2, 10)})
    'chips.py has changed'
    """
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) != after.get(path):
            told = "is new" if path not in before else "has changed" if path in after else "is gone"
            return f"{Path(path).name} {told}"
    return ""


def _sites() -> Iterator[Path]:
    """Folders in which packages are installed."""
    for entry in dict.fromkeys(sys.path):
        if Path(entry).name in ("site-packages", "dist-packages"):
            yield Path(entry)


def _stamp(place: Path) -> tuple[str, tuple[int, int]]:
    """Time and size of what says which version it is; of the rest, that it is there."""
    metadata = place.suffix in _METADATA or place.name == "conda-meta"
    if not metadata and place.suffix not in (".py", ".so", ".cfg"):
        return str(place), (1, 0)
    try:
        found = place.stat()
    except OSError:
        return str(place), (0, 0)
    return str(place), (found.st_mtime_ns, 0 if metadata else found.st_size)
