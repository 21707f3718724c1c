"""What a run's record says about the software and the machine."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import geowb
from geowb.batch.studies import Study
from geowb.machine import cores
from geowb.paths import project_dir

__all__ = ["environment", "one_sentence"]

_PACKAGES = ("numpy", "scipy", "pandas", "xarray", "rioxarray", "rasterio", "zarr", "dask")
_PACKAGES += ("torch", "torchvision", "torchgeo", "terratorch", "timm", "lightning")
_PACKAGES += ("segmentation-models-pytorch", "papermill", "nbclient", "ipykernel")


def environment(study: Study) -> dict[str, Any]:
    """Versions, platform, working directory, and which notebook it was.

    >>> environment(load_study("agb_transfer"))["python"]  # doctest: +SKIP
    '3.11.9'
    """
    return {
        "notebook_sha256": study.code_sha256(),
        "geowb": geowb.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: v for name in _PACKAGES if (v := _version(name))},
        "platform": platform.platform(),
        "cores": cores(),
        "host": platform.node(),
        "pid": os.getpid(),
        "cwd": str(Path.cwd()),
    }


def one_sentence(message: str, longest: int = 600) -> str:
    r"""Put a message on one line, cut it where it is very long, and end it with a full stop.

    >>> one_sentence("no\n  file")
    'no file.'
    """
    text = " ".join(message.split())
    text = text if len(text) <= longest else f"{text[:longest]}..."
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Commit of the checkout that geowb runs from, with ``-dirty`` for changed files."""
    if not (project_dir() / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=project_dir(), capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
