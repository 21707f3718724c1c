"""A forked kernel as its client sees it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Sequence

__all__ = ["UNKNOWN_STATUS", "WarmProcess"]

#: Exit status of a kernel whose parent was killed before it: nobody knows it.
UNKNOWN_STATUS = 256  # no process can end with it


class WarmProcess:
    """A forked kernel, as `subprocess.Popen` would show it.

    Made by `geowb.warm.asking.fork`.

    >>> process = fork(["-f", "connection.json"], files=(0, 1, 2))  # doctest: +SKIP
    >>> process.poll() is None  # doctest: +SKIP
    True
    """

    stdin = stdout = stderr = None

    def __init__(self, pid: int, connection: socket.socket, args: Sequence[str]) -> None:
        self.pid, self.args = pid, list(args)
        self.returncode: int | None = None
        self._connection: socket.socket | None = connection
        try:
            self._process = os.pidfd_open(pid)
        except OSError:
            self._process = -1  # it has ended already, and its parent too

    def poll(self) -> int | None:
        """Exit status, a signal's number negative; None while it runs."""
        if self.returncode is None:
            self._look(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit status.

        Raises
        ------
        subprocess.TimeoutExpired
            It runs for longer than `timeout` seconds.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            left = 3600.0 if end is None else end - time.monotonic()
            if left <= 0:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            self._look(left)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._process, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _look(self, seconds: float) -> None:
        """See whether it has ended, for so long."""
        poll = select.poll()
        watched = self._process if self._connection is None else self._connection.fileno()
        if watched < 0:
            self._ended(UNKNOWN_STATUS)
            return
        poll.register(watched, select.POLLIN)
        if not poll.poll(1000 * seconds):
            return
        if self._connection is None:
            self._ended(UNKNOWN_STATUS)
            return
        try:
            line = self._connection.recv(4096, socket.MSG_DONTWAIT)
        except BlockingIOError:  # another thread has heard it
            return
        except OSError:
            line = b""
        if line:
            self._ended(json.loads(line)["status"])
        else:  # the parent has gone, the kernel lives on
            self._connection.close()
            self._connection = None

    def _ended(self, status: int) -> None:
        self.returncode = status
        if self._connection is not None:
            with contextlib.suppress(OSError):  # a fork of this process may hold the socket too
                self._connection.shutdown(socket.SHUT_RDWR)
            self._connection.close()  # now its number is free
            self._connection = None
        if self._process >= 0:
            os.close(self._process)
            self._process = -1

    def __del__(self) -> None:
        if getattr(self, "_process", -1) >= 0:
            os.close(self._process)
        if getattr(self, "_connection", None) is not None:
            self._connection.close()
