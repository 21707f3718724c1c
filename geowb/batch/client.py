"""What papermill and nbclient are told to do otherwise: sockets, shutdown, floods of output.

Imported where a notebook is executed only: it loads papermill.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import Any

import psutil
import zmq
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines

from geowb.batch.process import end_tree
from geowb.warm.process import WarmProcess

__all__ = ["ENGINE", "LEFT_OUT", "KernelManager"]

ENGINE = "geowb"

#: Stands in a stored output in the place of its middle.
LEFT_OUT = "[... geowb left out the middle of this long output ...]"

_LONGEST_SOCKET = 80  # a unix socket's path has room for about 104 bytes, some of them zmq's
_MOST_TEXT = 200_000  # characters of a cell's output that are kept of each kind
_SECONDS_TO_LEAVE = 3.0  # ipykernel 7 now and then hangs at its end


class KernelManager(AsyncKernelManager):
    """Kernels that write to a log, are reached through private sockets, and leave by themselves.

    Sockets in a folder of the user's own, instead of TCP ports: no other user
    can read along, and kernels that start together do not race for a port.
    A kernel that has done its work is asked to leave and not waited for: with
    the deep-learning stack loaded that takes seconds, in which the next run
    can start. A subclass sets the attributes below for one execution.
    """

    folder: Path
    environment: dict[str, str]
    directory: str | None = None
    finished = False  # its cells have ended: it may leave in peace
    exit_status: int | None = None
    peak_memory: int | None = None  # bytes
    started: float = 0.0
    pid: int | None = None
    waited = 0.0  # seconds until its process was there: a warm one may have to import first
    fallback = ""  # why the kernel is not the warm one that was asked for

    async def start_kernel(self, **options: Any) -> None:
        """Start the kernel in the execution's folder and environment."""
        kind = type(self)
        if zmq.has("ipc") and os.name == "posix" and len(str(self.folder)) < _LONGEST_SOCKET:
            self.transport, self.ip = "ipc", str(self.folder / "socket")
        options["env"] = {**options.get("env", os.environ), **self.environment}
        if self.directory is not None:
            options["cwd"] = self.directory
        kind.started = began = time.monotonic()
        with (self.folder / "log").open("ab") as stream:
            await super().start_kernel(stdout=stream, stderr=stream, **options)
        kind.waited = time.monotonic() - began
        kind.pid = getattr(self.provisioner, "pid", None)
        kind.fallback = getattr(self.provisioner, "fallback", "")

    async def is_alive(self) -> bool:
        """Tell whether the kernel runs; note its memory, and its exit status if it does not."""
        if self.has_kernel:
            type(self).exit_status = await self.provisioner.poll()
            self._note_memory()
        return await super().is_alive()

    async def shutdown_kernel(self, now: bool = False, restart: bool = False) -> None:
        """Ask a kernel to leave whose cells have ended; kill any other."""
        self._note_memory()
        process = getattr(self.provisioner, "process", None)
        if not self.finished or not isinstance(process, Popen | WarmProcess):
            await super().shutdown_kernel(now=not self.finished, restart=restart)
            return
        self.shutting_down = True
        await self.request_shutdown(restart=restart)
        self.provisioner.process = None  # from here on it is the other thread's
        leaving = threading.Thread(target=_see_off, args=(process,))
        leaving.start()
        if self.environment.get("CUDA_VISIBLE_DEVICES"):  # the next run wants the GPU's memory
            leaving.join()
        await self.cleanup_resources(restart=restart)

    def _note_memory(self) -> None:
        kind, pid = type(self), self.pid
        peak = _peak_memory(pid) if pid else None
        if peak is not None:
            kind.peak_memory = max(peak, kind.peak_memory or 0)


def _see_off(process: Popen | WarmProcess) -> None:
    """Wait until a kernel that was asked to leave has left."""
    try:
        process.wait(_SECONDS_TO_LEAVE)
    except TimeoutExpired:
        end_tree(process.pid)
        process.wait()


def _peak_memory(pid: int) -> int | None:
    """Largest resident memory of a process so far, bytes; where only that is known, the present."""
    with contextlib.suppress(OSError, psutil.Error):
        status = Path(f"/proc/{pid}/status")
        if status.is_file():
            peak = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
            return int(peak[0].split()[1]) * 1024 if peak else None
        info = psutil.Process(pid).memory_info()
        return getattr(info, "peak_wset", info.rss)
    return None


class _Client(PapermillNotebookClient):
    """Stores the beginning and the end of what a cell prints without measure.

    The notebook is stored as each code cell starts, with all that went before, and at the end:
    papermill stores it at both ends of every cell, text included.
    """

    def process_message(
        self, msg: dict[str, Any], cell: NotebookNode, cell_index: int
    ) -> NotebookNode | None:
        output = super().process_message(msg, cell, cell_index)
        if output is not None:
            _shorten(cell.outputs)
        return output

    def papermill_execute_cells(self) -> None:
        for index, cell in enumerate(self.nb.cells):
            if cell.cell_type != "code" or not cell.source.strip():
                self.execute_cell(cell, index)  # tells where the execution is
                continue
            try:
                self.nb_man.cell_start(cell, index)
                self.execute_cell(cell, index)
            except CellExecutionError as error:
                self.nb_man.cell_exception(cell, cell_index=index, exception=error)
                break
            finally:
                file, self.nb_man.output_path = self.nb_man.output_path, None
                self.nb_man.cell_complete(cell, cell_index=index)
                self.nb_man.output_path = file
        type(self.km).finished = True


def _shorten(outputs: list[NotebookNode]) -> None:
    """Join the last output to its stream, and leave out the middle of what is too long."""
    last = outputs[-1] if outputs else {}
    if last.get("output_type") != "stream":
        for kind, value in last.get("data", {}).items():
            if kind.startswith("text/") and isinstance(value, str):
                last["data"][kind] = _without_middle(value, 10 * _MOST_TEXT)
        return
    same = [o for o in outputs if o.output_type == "stream" and o.name == last.name]
    if len(same) > 1:
        same[0].text += last.text
        outputs.pop()
    if len(same[0].text) > 2 * _MOST_TEXT:  # of a progress bar, first, what one can still see
        lines = same[0].text.replace("\r\n", "\n").split("\n")
        text = "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in lines)
        same[0].text = _without_middle(text, _MOST_TEXT)


def _without_middle(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    return f"{text[: most // 2]}\n{LEFT_OUT}\n{text[-most // 2 :]}"


class _Engine(NBClientEngine):
    """papermill's own engine with the client above."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> Any:
        names = ("kernel_manager_class", "timeout_func", "coalesce_streams")
        chosen = {name: options[name] for name in names}
        client = _Client(
            nb_man,
            kernel_name=kernel_name,
            startup_timeout=options["start_timeout"],
            log=logging.getLogger("papermill"),
            on_cell_start=options["on_cell_start"],
            **chosen,
        )
        return client.execute()


papermill_engines.register(ENGINE, _Engine)
