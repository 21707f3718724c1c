"""What a fork does to be a kernel like any other: files, variables, threads, random numbers."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import logging
import os
import resource
import select
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from geowb.warm.parent import Birth

__all__ = ["become", "own_random_numbers", "set_threads"]

_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP)


def become(birth: Birth) -> NoReturn:
    """Become the kernel that was asked for, be it until it ends, and end the process."""
    status = 1
    try:
        _live(birth)
        status = 0
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:  # noqa: BLE001 - the last stop of this process
        traceback.print_exc()
    _leave(status)


def _live(birth: Birth) -> None:
    """Be the kernel: first what the system knows of a process, then what libraries have read."""
    request = birth.request
    os.setsid()
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, birth.signals)
    _take_files(birth.files)
    _name_process("geowb-kernel")
    os.chdir(request["directory"])
    if started := sys.modules.get("multiprocessing.process"):
        started.ORIGINAL_DIR = request["directory"]  # where spawned processes look for modules
    os.umask(request["umask"])
    _limit(request["limits"])
    with contextlib.suppress(OSError):  # cores that this process may not use
        os.sched_setaffinity(0, request["cores"])
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(birth.environment | request["environment"])
    time.tzset()
    tempfile.tempdir = None
    set_threads(os.environ, len(request["cores"]), birth.threads)
    _read_anew(before)
    own_random_numbers()
    client = 0 if request["independent"] else birth.client
    if client:
        _end_with(client)
    _run_kernel(request["arguments"], client)


def _leave(status: int) -> NoReturn:
    """End as a fork of `multiprocessing` does: what was registered for the end is done.

    The interpreter is not taken to pieces: that would copy all that is shared with the parent. What
    the notebook holds is let go of, so that open files are written (IPython's own function for the
    end empties its namespaces).
    """
    try:
        threading._shutdown()
        atexit._run_exitfuncs()
        gc.collect()
        sys.stdout.flush()
        sys.stderr.flush()
        ctypes.CDLL(None).fflush(None)
    finally:
        os._exit(status)


def _take_files(files: list[int]) -> None:
    """Put the client's files in the place of standard input, output and error."""
    for number, file in enumerate(files):
        os.dup2(file, number)
    for file in files:
        if file > 2:
            os.close(file)


def _name_process(name: str) -> None:
    """Be called this in `top`."""
    with contextlib.suppress(OSError), open("/proc/self/comm", "w") as file:  # noqa: PTH123
        file.write(name)


def _limit(limits: Mapping[str, tuple[int, int]]) -> None:
    """Take the client's limits (`ulimit`)."""
    for name, wanted in limits.items():
        number = getattr(resource, name)
        most = resource.getrlimit(number)[1]
        if most != resource.RLIM_INFINITY:  # this process cannot have more
            wanted = [most if v == resource.RLIM_INFINITY else min(v, most) for v in wanted]
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(number, tuple(wanted))


def set_threads(environment: Mapping[str, str], cores: int, before: int) -> None:
    """Give libraries the numbers of threads that they would have taken at their import.

    >>> set_threads({"OMP_NUM_THREADS": "1"}, cores=8, before=8)  # doctest: +SKIP

    Parameters
    ----------
    cores, before
        That this process may use, and that its parent might.
    """
    from threadpoolctl import ThreadpoolController

    def number(*names: str) -> int | None:
        given = (environment.get(name, "").partition(",")[0] for name in names)
        return next((int(text) for text in given if text.isdigit() and int(text)), None)

    libraries = ThreadpoolController()
    openblas = number("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS") or cores
    libraries.select(internal_api="openblas").limit(limits=openblas)
    if mkl := number("MKL_NUM_THREADS", "OMP_NUM_THREADS"):
        libraries.select(internal_api="mkl").limit(limits=mkl)
    openmp = number("OMP_NUM_THREADS") or (cores if cores != before else None)
    if openmp:
        libraries.select(user_api="openmp").limit(limits=openmp)
    if (torch := sys.modules.get("torch")) and (own := number("MKL_NUM_THREADS") or openmp):
        torch.set_num_threads(own)
    if numexpr := sys.modules.get("numexpr"):
        most = number("NUMEXPR_MAX_THREADS") or 16
        wanted = number("NUMEXPR_NUM_THREADS", "OMP_NUM_THREADS") or min(cores, most)
        numexpr.set_num_threads(min(wanted, numexpr.MAX_THREADS))
    if (numba := sys.modules.get("numba")) and (wanted := number("NUMBA_NUM_THREADS")):
        numba.set_num_threads(min(wanted, numba.config.NUMBA_NUM_THREADS))


def _read_anew(before: Mapping[str, str]) -> None:
    """Tell libraries of what they read at their import, where it has changed."""
    backend = os.environ.get("MPLBACKEND") or "module://matplotlib_inline.backend_inline"
    if matplotlib := sys.modules.get("matplotlib"):
        if Path("matplotlibrc").is_file():
            matplotlib.rc_file("matplotlibrc")
        matplotlib.rcParams["backend"] = backend
    changed = {name for name, value in os.environ.items() if before.get(name) != value}
    changed |= before.keys() - os.environ.keys()
    if (dask := sys.modules.get("dask")) and any(name.startswith("DASK_") for name in changed):
        dask.config.refresh()


def own_random_numbers() -> None:
    """Seed from the system what a fork shares with its parent; `random` does so by itself."""
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
    if torch := sys.modules.get("torch"):
        torch.default_generator.seed()


def _end_with(client: int) -> None:
    """End when the process that asked for the kernel has ended, as ordinary kernels do."""
    try:
        watched = os.pidfd_open(client)
    except ProcessLookupError:  # it has ended already
        os._exit(1)

    def watch() -> None:
        poll = select.poll()
        poll.register(watched, select.POLLIN)
        poll.poll()
        os._exit(1)

    threading.Thread(target=watch, name="geowb-client", daemon=True).start()


def _run_kernel(arguments: list[str], client: int) -> None:
    """Run IPython's kernel; what the imports log goes to the page, as if they were done in it."""
    import ipykernel_launcher
    from ipykernel.kernelapp import IPKernelApp

    sys.argv = [ipykernel_launcher.__file__, *arguments]
    streams: dict[Any, str] = {sys.stdout: "stdout", sys.stderr: "stderr"}
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    handlers = [handler for logger in loggers for handler in getattr(logger, "handlers", ())]
    own = [h for h in handlers if isinstance(h, logging.StreamHandler) and h.stream in streams]
    kept = {handler: streams[handler.stream] for handler in own}
    # It asks for a shell at its import; here it is imported again, with the first picture.
    sys.modules.pop("matplotlib_inline.backend_inline", None)
    app = IPKernelApp.instance(parent_handle=client)
    app.initialize(arguments)
    if ipywidgets := sys.modules.get("ipywidgets"):
        ipywidgets.register_comm_target()  # at its import there was no shell either
    app.poller = None  # it would look at the parent, but a kernel belongs to its client
    for handler, stream in kept.items():
        handler.setStream(getattr(sys, stream))
    app.start()
