"""The machine that runs are made on: cores, memory, GPUs, and how runs share them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from geowb.locks import held

__all__ = ["cores", "gpus", "memory", "one_gpu", "room", "share_of_threads", "short_waits"]

#: What the libraries below a study ask for their number of threads.
_THREADS = ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMEXPR", "NUMBA", "RAYON")
_MEMORY_A_RUN = 3 * 2**30  # bytes: a kernel with the deep-learning stack, with room to train


def cores() -> int:
    """Cores that this process may use, a container's limit included."""
    from dask.system import cpu_count

    return cpu_count()


def memory() -> int | None:
    """Bytes of memory, a container's limit included; None where it is not known."""
    names = getattr(os, "sysconf_names", {})
    if not {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= set(names):
        return None
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else ""
    return min(total, int(text)) if text.isdigit() else total


def gpus() -> list[str]:
    """GPUs that runs may use, as ``CUDA_VISIBLE_DEVICES`` names them.

    torch is not asked: importing it takes seconds, and asking it would take hold of a GPU.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [device.strip() for device in named.split(",") if device.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = [line for line in done.stdout.splitlines() if line.startswith("GPU ")]
    return [str(number) for number in range(len(lines))] if done.returncode == 0 else []


def room(*, uses_gpu: bool) -> int:
    """How many runs this machine takes at a time."""
    if uses_gpu and gpus():
        return len(gpus())
    known = memory()
    return max(1, min(cores(), known // _MEMORY_A_RUN) if known else cores())


def share_of_threads(runs: int, limits: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Environment in which a run uses its share of the cores, when `runs` go at a time.

    >>> share_of_threads(10_000)["OMP_NUM_THREADS"]
    '1'

    Parameters
    ----------
    limits
        Numbers of threads that are not exceeded, by the names of their variables.
    """
    share = max(1, cores() // max(1, runs))
    names = [f"{library}_NUM_THREADS" for library in _THREADS]
    names += ["VECLIB_MAXIMUM_THREADS", "DASK_NUM_WORKERS"]
    return {name: str(min(share, _number(limits.get(name), share))) for name in names}


def short_waits(given: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Environment in which threads that wait for each other soon give their core away.

    >>> short_waits({}), short_waits({"OMP_WAIT_POLICY": "active"})
    ({'GOMP_SPINCOUNT': '10000'}, {})

    GNU's OpenMP, which torch uses on Linux, spins while it waits. With one other busy program on
    two cores a training step of a small model took 3.7 s instead of 0.1; so it takes 0.2, and on a
    quiet machine 0.01 more. What the user has set stays.
    """
    own = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(given)
    return {} if own else {"GOMP_SPINCOUNT": "10000"}


def _number(text: str | None, otherwise: int) -> int:
    return int(text) if text and text.isdigit() and int(text) else otherwise


@contextlib.contextmanager
def one_gpu(wanted: bool) -> Iterator[dict[str, str]]:
    """Environment with one GPU that no other run of this user has on this machine; waits for one.

    Parameters
    ----------
    wanted
        False hides all GPUs from the run. Without a GPU the environment is left as it is.
    """
    devices = gpus()
    if not devices:
        yield {}
        return
    if not wanted:
        yield {"CUDA_VISIBLE_DEVICES": ""}
        return
    user = getattr(os, "getuid", lambda: os.environ.get("USERNAME", ""))()
    folder = Path(tempfile.gettempdir()) / f"geowb-gpus-{user}"
    while True:
        for device in devices:
            with held(folder / f"{device.replace('/', '_')}.lock") as mine:
                if mine:
                    yield {"CUDA_VISIBLE_DEVICES": device}
                    return
        time.sleep(1)
