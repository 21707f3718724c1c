"""Where the warm process of an environment lies, and which environment a kernel needs."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import stat
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geowb.machine import short_waits

__all__ = ["KERNEL", "Place", "fixed", "folder", "impossible", "parent_environment", "place"]

KERNEL = "geowb-warm"

#: Variables that libraries read when they are loaded: in a fork it is too late.
_NAMES = (
    *("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "LANG"),
    # A cluster ends what belongs to a job, or to a step of it, with it.
    *("SLURM_JOB_ID", "SLURM_STEP_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID"),
)
#: And beginnings of such names.
_FIXED = (
    *("PYTHON", "LD_", "LC_", "MALLOC_", "GLIBC_", "JE_ARROW_", "TQDM_", "ZARR_", "FSSPEC_"),
    *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "GOTO_", "NUMEXPR_", "NUMBA_"),
    *("TORCH", "PYTORCH", "TRITON_", "HF_", "HUGGINGFACE", "TRANSFORMERS_"),
    *("MPL", "MATPLOTLIB", "NPY_", "PROJ_", "GDAL_", "ARROW_"),
)
#: Of these, what a kernel can still change, and what has no part in what is computed.
_FREE = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS"),
    *("NUMEXPR_NUM_THREADS", "NUMEXPR_MAX_THREADS", "NUMBA_NUM_THREADS"),
    *("MPLBACKEND", "PYTHONSTARTUP"),
    *("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK"),  # which scikit-learn sets in who imports it
)
#: With these no library starts a thread while it is imported; a kernel sets its own numbers.
_NO_THREADS = {
    "OPENBLAS_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
_LONGEST = 100  # bytes that a unix socket's path may have, with some to spare


def impossible(environment: Mapping[str, str] = os.environ) -> str:
    """Say in a sentence why there can be no warm kernels here; empty when there can.

    >>> impossible({"GEOWB_WARM": "off"})
    'GEOWB_WARM is off.'
    """
    if environment.get("GEOWB_WARM", "").lower() in ("0", "off", "no", "false"):
        return f"GEOWB_WARM is {environment['GEOWB_WARM']}."
    if not sys.platform.startswith("linux"):
        return "they need Linux: elsewhere a process with such libraries cannot be forked safely."
    return _without_pidfd()


@functools.cache
def _without_pidfd() -> str:
    """Say that processes cannot be watched here: an old Linux, or one that forbids it."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError) as error:
        return f"processes cannot be watched here (pidfd_open: {error})."
    return ""


@dataclass(frozen=True)
class Place:
    """Files of the warm process of one environment; all of one name, in the user's own folder."""

    folder: Path
    key: str

    @property
    def socket(self) -> Path:
        """Socket on which it listens."""
        return self.folder / f"{self.key}.socket"

    @property
    def lock(self) -> Path:
        """Held by who starts it."""
        return self.folder / f"{self.key}.lock"

    @property
    def log(self) -> Path:
        """What the imports printed, and what went wrong."""
        return self.folder / f"{self.key}.log"

    @property
    def about(self) -> Path:
        """What it was started with, for who has to start it again."""
        return self.folder / f"{self.key}.json"

    def read_about(self) -> dict[str, Any]:
        """Facts that the process wrote of itself; empty when there are none."""
        try:
            return json.loads(self.about.read_text("utf-8"))
        except (OSError, ValueError):
            return {}


def folder() -> Path:
    """Folder of the user's own for sockets: made if it is not there, refused if others can write.

    Raises
    ------
    OSError
        It cannot be made, is not a folder of this user alone, or its path is too long for a socket.
    """
    named = os.environ.get("GEOWB_WARM_DIR")
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if named:
        path = Path(named)
    elif runtime and Path(runtime).is_dir() and Path(runtime).stat().st_uid == os.getuid():
        path = Path(runtime) / "geowb-warm"
    else:
        path = Path(tempfile.gettempdir()) / f"geowb-warm-{os.getuid()}"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise OSError(f"{path} is not a folder of this user alone; remove it")
    if len(os.fsencode(path)) + 30 > _LONGEST:
        raise OSError(f"the path {path} is too long for a socket; set GEOWB_WARM_DIR to a shorter")
    return path


def fixed(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that a kernel must share with the process of which it is a fork.

    >>> fixed({"PYTHONPATH": "lib", "OMP_NUM_THREADS": "1", "TERM": "xterm"})["PYTHONPATH"]
    'lib'
    >>> "OMP_NUM_THREADS" in fixed({"OMP_NUM_THREADS": "1"})
    False
    """
    known = {**environment, **short_waits(environment)}
    return {
        name: known[name]
        for name in sorted(known)
        if name in _NAMES or (name.startswith(_FIXED) and name not in _FREE)
    }


def parent_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Environment of the warm process for kernels with this one."""
    left_out = (*_FREE, "CUDA_VISIBLE_DEVICES")  # imports see the GPUs that a kernel may have
    kept = {name: value for name, value in environment.items() if name not in left_out}
    return {**kept, **fixed(environment), **_NO_THREADS}


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """Where the warm process for kernels with this environment lies.

    Another Python environment, another checkout of geowb, another priority, another container, or
    another value of a variable that libraries read when they are loaded is another place.
    """
    identity = [sys.executable, sys.prefix, str(Path(__file__).resolve().parent)]
    identity += [str(os.getpriority(os.PRIO_PROCESS, 0)), str(Path("/proc/self/ns/mnt").readlink())]
    text = json.dumps([identity, fixed(environment)])
    return Place(folder(), hashlib.sha256(text.encode()).hexdigest()[:16])
