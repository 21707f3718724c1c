"""Jupyter's way to the warm process: the kernel ``geowb-warm``.

Found by the entry point ``jupyter_client.kernel_provisioners``, named in the kernel's
``kernel.json``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, TimeoutError
from pathlib import Path
from typing import Any

from jupyter_client.launcher import launch_kernel
from jupyter_client.provisioning import LocalProvisioner

from geowb.errors import GeowbError
from geowb.warm.asking import Unavailable, fork
from geowb.warm.process import WarmProcess

__all__ = ["Awaited", "WarmProvisioner"]

_LAUNCHER = ["-m", "ipykernel_launcher"]
_KNOWN = frozenset({"cwd", "env", "stdout", "stderr", "independent"})
_SECONDS_IN_A_PAGE = 0.5  # JupyterLab forgets what is run before a kernel is there


class WarmProvisioner(LocalProvisioner):
    """Has kernels forked by the warm process; starts ordinary ones where that cannot be."""

    #: Why the kernel is an ordinary one; empty when it is a warm one.
    fallback = ""

    async def launch_kernel(self, cmd: list[str], **options: Any) -> dict[str, Any]:
        """Launch a kernel, a warm one if possible.

        Where a page waits for it, the kernel counts as launched before the warm process is ready:
        what is run meanwhile stays in its sockets' queues.
        """
        self.pid = self.pgid = None
        scrubbed = self._scrub_kwargs(options)
        awaited = Awaited(lambda: self._make(cmd, scrubbed))
        made = asyncio.wrap_future(awaited.made)
        try:
            await asyncio.wait([made], timeout=_SECONDS_IN_A_PAGE if self._in_a_page() else None)
        except asyncio.CancelledError:
            awaited.kill()
            raise
        if awaited.made.done():
            self.process = awaited.made.result()
            self.pid = self.pgid = self.process.pid  # it leads a group
        else:
            self.process = awaited
            awaited.made.add_done_callback(lambda _: self._note(awaited))
        self.cwd = options.get("cwd", Path.cwd())
        return self.connection_info

    def _make(
        self, command: list[str], options: dict[str, Any]
    ) -> WarmProcess | subprocess.Popen[bytes]:
        """Start the process."""
        try:
            process = _warm(command, options)
        except (GeowbError, OSError) as reason:
            self.fallback = str(reason)
            self.log.warning("geowb: an ordinary kernel instead of a warm one: %s", reason)
            return launch_kernel(command, **options)
        self.fallback = ""
        return process

    def _note(self, awaited: Awaited) -> None:
        """Note a process's number, unless it has been replaced meanwhile."""
        if self.process is awaited and (number := awaited.pid):
            self.pid = self.pgid = number

    def _in_a_page(self) -> bool:
        """Whether it is Jupyter's server that asks."""
        return type(self.parent).__module__.startswith("jupyter_server.")


class Awaited:
    """A process that is being made: until then it looks like one that runs.

    >>> Awaited(lambda: subprocess.Popen(["true"])).wait()
    0

    Parameters
    ----------
    make
        Makes the process, as long as it may take; called in a thread.
    """

    stdin = stdout = stderr = None

    def __init__(self, make: Callable[[], Any]) -> None:
        self.made: Future[Any] = Future()
        self._ended = 0  # the signal by which it was ended before it was there
        threading.Thread(target=self._make, args=(make,), daemon=True).start()

    @property
    def pid(self) -> int | None:
        """Number of the process, once it is there."""
        return self.made.result().pid if self.made.done() and not self.made.exception() else None

    def poll(self) -> int | None:
        """Exit status; None while it runs or is made."""
        if not self.made.done():
            return -self._ended if self._ended else None
        return 1 if self.made.exception() else self.made.result().poll()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit status, as `subprocess.Popen.wait`."""
        if self._ended and not self.made.done():
            return -self._ended
        try:
            return self.made.result(timeout).wait(timeout)
        except TimeoutError as error:
            raise subprocess.TimeoutExpired("a kernel", timeout or 0.0) from error

    def send_signal(self, number: int) -> None:
        """Send a signal; one that ends it reaches also what is not there yet."""
        if number in (signal.SIGTERM, getattr(signal, "SIGKILL", None)):
            self._ended = number
        if self.made.done() and not self.made.exception():
            self.made.result().send_signal(number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL, where there is one."""
        self.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))

    def _make(self, make: Callable[[], Any]) -> None:
        try:
            process = make()
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            self.made.set_exception(error)
            return
        self.made.set_result(process)
        if self._ended:
            process.kill()
            process.wait()


def _warm(command: list[str], options: dict[str, Any]) -> WarmProcess:
    """Ask for a kernel, with what `subprocess.Popen` would have been given."""
    if command[:3] != [sys.executable, *_LAUNCHER]:
        ours = " ".join([sys.executable, *_LAUNCHER])
        raise Unavailable(f"its command is {' '.join(command[:3])}, not {ours}.")
    if other := sorted(n for n in options.keys() - _KNOWN if options[n] is not None):
        raise Unavailable(f"it is to be started with {', '.join(other)}.")
    directory = options.get("cwd") or str(Path.cwd())
    if not Path(directory).is_dir():
        raise Unavailable(f"{directory} is no folder.")
    environment = dict(os.environ if options.get("env") is None else options["env"])
    if not options.get("independent"):
        environment["JPY_PARENT_PID"] = str(os.getpid())
    outputs = [options.get("stdout"), options.get("stderr")]
    if subprocess.PIPE in outputs:
        raise Unavailable("its output is to go through a pipe.")
    with open(os.devnull, "r+b") as nothing:  # noqa: PTH123
        files = [nothing.fileno()]
        for standard, wanted in zip((1, 2), outputs, strict=True):
            chosen = {None: standard, subprocess.DEVNULL: nothing.fileno()}
            chosen[subprocess.STDOUT] = files[-1]
            files.append(chosen[wanted] if wanted in chosen else _descriptor(wanted))
        return fork(
            command[3:],
            files=tuple(files),
            environment=environment,
            directory=directory,
            independent=bool(options.get("independent")),
        )


def _descriptor(stream: Any) -> int:
    return stream if isinstance(stream, int) else stream.fileno()
