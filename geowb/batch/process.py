"""A worker process as the sweep, or a cluster's worker, sees it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psutil

from geowb.batch.studies import Study

__all__ = ["ENDS", "Snapshot", "WorkerProcess", "end_tree"]

#: Events after which a worker has no run any more.
ENDS = frozenset({"done", "failed", "busy", "died", "checked"})

_SECONDS_TO_END = 15.0


@dataclass(frozen=True)
class Snapshot:
    """A study's notebook as it was when the sweep began, for machines that may lack the file."""

    name: str
    content: str
    path: str

    @classmethod
    def of(cls, study: Study) -> Snapshot:
        """Take a copy of a study's notebook."""
        content = study.path.read_bytes().decode("utf-8")  # newlines too are as they were
        return cls(study.name, content, str(study.path))


class WorkerProcess:
    """A process that makes runs of one study, in a session of its own (no Ctrl-C reaches it).

    >>> worker = WorkerProcess()  # doctest: +SKIP
    >>> worker.send("study", **asdict(Snapshot.of(study)))  # doctest: +SKIP
    >>> worker.send("run", **order)  # doctest: +SKIP
    >>> for event in worker.events:  # doctest: +SKIP
    ...     print(event)

    Parameters
    ----------
    directory
        Its working directory.
    idle
        Seconds without an order after which it ends by itself.
    """

    def __init__(self, *, directory: str | None = None, idle: float | None = None) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process lives
        self._kernel: tuple[int, float] | None = None
        # -P: a file in the working directory is not taken for a library
        command = [sys.executable, "-P", "-m", "geowb.batch.worker"]
        self._process = subprocess.Popen(
            command + ([str(idle)] if idle else []),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=directory,
            start_new_session=True,
            text=True,
            encoding="utf-8",
            bufsize=1,
        )
        self.events = self._listen()

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    def send(self, order: str, **facts: Any) -> None:
        """Give an order; one to a process that has died is answered by the event ``died``."""
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(json.dumps({"order": order} | facts) + "\n")

    def _listen(self) -> Iterator[dict[str, Any]]:
        """Yield what the process tells, to its last event, which is ``died``."""
        with contextlib.suppress(ValueError):  # a line that was cut off is the last
            for line in self._process.stdout:
                event = json.loads(line)
                self._note_kernel(event)
                yield event
        self._process.wait()
        self.end_kernel()
        yield {"event": "died", "message": self._last_words()}

    def close(self) -> None:
        """Let the process end: its kernel is ended, its unfinished run removed."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End the process and its kernel at once."""
        self._process.kill()
        self._process.wait()
        self.end_kernel()

    def end_kernel(self) -> None:
        """Kill the kernel that a process which died has left."""
        if self._kernel:
            end_tree(*self._kernel)
            self._kernel = None

    def _note_kernel(self, event: dict[str, Any]) -> None:
        if event["event"] in ENDS:
            self._kernel = None
        elif event.get("kernel") and (self._kernel or (0,))[0] != event["kernel"]:
            with contextlib.suppress(psutil.NoSuchProcess):
                pid = event["kernel"]
                self._kernel = (pid, psutil.Process(pid).create_time())

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()[-3:]
        status = self._process.returncode
        told = f"signal {-status}" if status < 0 else f"exit status {status}"
        if -status == getattr(signal, "SIGKILL", None):
            told += ", most often the system's answer to too little memory"
        return " / ".join([f"its process ended with {told}", *map(str.strip, lines)])


def end_tree(pid: int, born: float | None = None) -> None:
    """Kill a process, all that it started, and its group; one that has gone is no error.

    Parameters
    ----------
    born
        Its `psutil.Process.create_time`: another process that has got the number since is spared.
    """
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if born is not None and abs(process.create_time() - born) > 1:
            return
        family = [process, *process.children(recursive=True)]
    with contextlib.suppress(OSError, AttributeError):  # kernels lead a group of their own
        os.killpg(pid, signal.SIGKILL)
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(family, timeout=5)
