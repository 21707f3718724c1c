"""Where geowb's own notebooks, catalog and cache lie; the digest of a file."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import platformdirs

__all__ = ["cache_dir", "default_catalog", "notebooks_dir", "project_dir", "sha256"]

_PACKAGE = Path(__file__).resolve().parent


def project_dir() -> Path:
    """Folder that holds ``notebooks/`` and ``data_catalog.yaml``.

    It is the checkout when geowb runs from one, and the copy that travels
    inside the wheel (``geowb/_share``) otherwise.
    """
    checkout = _PACKAGE.parent
    if (checkout / "data_catalog.yaml").is_file() and (checkout / "notebooks").is_dir():
        return checkout
    return _PACKAGE / "_share"


def notebooks_dir() -> Path:
    """Folder with the studies."""
    return project_dir() / "notebooks"


def default_catalog() -> Path:
    """Return the path of the data catalog that comes with geowb."""
    return project_dir() / "data_catalog.yaml"


def cache_dir() -> Path:
    """Folder for downloads: ``GEOWB_CACHE``, or the user's cache folder."""
    named = os.environ.get("GEOWB_CACHE")
    return Path(named).expanduser() if named else Path(platformdirs.user_cache_dir("geowb"))


def sha256(file: Path) -> str:
    """Hexadecimal SHA-256 of a file of any size."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
