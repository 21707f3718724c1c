"""A notebook, its parameters and a kernel: execution through papermill."""

from __future__ import annotations

import logging
import math
import re
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from geowb.errors import RequestError, did_you_mean
from geowb.machine import short_waits
from geowb.warm.process import UNKNOWN_STATUS

__all__ = ["Execution", "check_kernel", "execute", "heading_of", "preferred_kernel"]


def check_kernel(name: str) -> None:
    """Raise RequestError where Jupyter has no kernel of this name."""
    from jupyter_client.kernelspec import KernelSpecManager

    known = KernelSpecManager().find_kernel_specs()
    if name not in known:
        raise RequestError(
            f"There is no Jupyter kernel named '{name}'. {did_you_mean(name, known)}"
        )


def preferred_kernel() -> tuple[str, str]:
    """Kernel of runs of which nobody says which: a warm one; where there is none, why not."""
    from jupyter_client.kernelspec import KernelSpecManager

    from geowb.warm import KERNEL, impossible

    if why := impossible():
        return "python3", "" if "GEOWB_WARM" in why else why  # who set it knows
    if KERNEL not in KernelSpecManager().find_kernel_specs():
        return "python3", f"Jupyter has no kernel {KERNEL} here; installing geowb brings it."
    return KERNEL, ""


def heading_of(cell: Mapping[str, Any], before: str) -> str:
    """Heading that holds from this cell on: its own last one, or the one before."""
    found = re.findall(r"^#{1,6}\s+(.+?)\s*#*$", cell["source"], re.MULTILINE)
    return found[-1] if cell["cell_type"] == "markdown" and found else before


class Execution:
    """Where an execution is: which cell, under which heading. Told to `watch` at each cell."""

    def __init__(self, watch: Callable[[Execution], None] | None = None) -> None:
        self.index, self.number, self.heading = -1, 0, ""
        self.pid: int | None = None  # of the kernel
        self.kernel_seconds: float | None = None  # from its start to the first cell
        self.peak_memory: int | None = None  # of the kernel's process, bytes
        self.kernel_fallback = ""  # why the kernel is not the warm one that was asked for
        self._watch = watch

    def at(self, cell: Mapping[str, Any], cell_index: int) -> None:
        """Note that this cell starts."""
        self.index, self.heading = cell_index, heading_of(cell, self.heading)
        if cell["cell_type"] == "code" and cell["source"].strip():
            self.number += 1
            if self._watch:
                self._watch(self)


def execute(
    source: Path,
    target: Path,
    values: Mapping[str, Any],
    *,
    kernel: str,
    execution: Execution,
    timeout: float | None = None,
    environment: Mapping[str, str] | None = None,
    directory: str | None = None,
) -> dict[str, Any] | None:
    """Execute a notebook with these parameters and store it.

    Parameters
    ----------
    source, target
        The study, and the file for the executed notebook; papermill writes it
        after each cell.
    execution
        Is kept up to date while cells are executed.
    timeout
        Seconds for all cells and the kernel's start together; the imports of a warm process, once
        for many runs, are no part of it.
    environment
        Variables that the kernel has beside this process's own.
    directory
        The kernel's working directory; this process's own by default.

    Returns
    -------
    dict or None
        What went wrong: number of the cell (as in ``In [7]``), heading, type
        and message. The stored notebook shows it where it happened.
    """
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    from geowb.batch.client import ENGINE, KernelManager
    from geowb.batch.process import end_tree

    logger = logging.getLogger("papermill")
    if not logger.handlers:  # else Python prints the library's warnings to stderr
        logger.addHandler(logging.NullHandler())
    deadline = time.monotonic() + timeout if timeout else None
    failure = None
    with tempfile.TemporaryDirectory(prefix="geowb-", ignore_cleanup_errors=True) as scratch:
        extra = {**short_waits(), **(environment or {})}
        told = {"folder": Path(scratch), "environment": extra, "directory": directory}
        manager = type("KernelManager", (KernelManager,), told)

        def at(cell: Mapping[str, Any], cell_index: int) -> None:
            if execution.kernel_seconds is None:
                execution.kernel_seconds = round(time.monotonic() - manager.started, 3)
                execution.pid, execution.kernel_fallback = manager.pid, manager.fallback
            execution.at(cell, cell_index)

        try:
            papermill.execute_notebook(
                _literal(source),
                _literal(target),
                dict(values),
                engine_name=ENGINE,
                kernel_name=kernel,
                language="python",
                progress_bar=False,
                start_timeout=math.ceil(min(timeout or 120, 120)),
                on_cell_start=at,
                timeout_func=lambda _: (
                    deadline and max(0.1, deadline + manager.waited - time.monotonic())
                ),
                kernel_manager_class=manager,
                coalesce_streams=True,  # progress bars leave their last line, not hundreds
            )
        except PapermillExecutionError as error:
            failure = (error.ename, error.evalue)
        except CellTimeoutError:
            failure = ("Timeout", f"the run took longer than {timeout:g} s and was stopped.")
            _mark(target, execution.index, failure)
        except DeadKernelError:
            end_tree(manager.pid)  # what it had started lives on
            failure = ("KernelDied", _last_words(manager))
            _mark(target, execution.index, failure)
        except (RuntimeError, OSError) as error:
            if execution.number:
                raise
            words = _last_words(manager, error)
            failure = ("KernelDied", f"kernel '{kernel}' did not start: {words}")
        execution.peak_memory = manager.peak_memory
    if failure is None:
        return None
    name, message = failure
    return {
        "cell": execution.number,
        "heading": execution.heading,
        "type": name,
        "message": message.strip(),
    }


def _literal(path: Path) -> str:
    """`path` for papermill, which takes it for a template."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _last_words(manager: Any, error: Exception | str = "") -> str:
    """Say how a kernel ended, and what it left on standard error."""
    status, text = manager.exit_status, str(error) or "it ended"
    if status == UNKNOWN_STATUS:
        text = "it ended, nobody knows how, because the process that had forked it was killed"
    elif status is not None and status < 0:
        text = f"it was ended by {signal.Signals(-status).name}"
        if -status == getattr(signal, "SIGKILL", None):
            text += ", most often the system's answer to too much memory"
    elif status is not None:
        text = f"it ended with exit status {status}"
    file = manager.folder / "log"
    log = file.read_text("utf-8", "replace") if file.is_file() else ""
    words = " / ".join(line.strip() for line in log.splitlines()[-3:])
    return f"{text}. Its last words: {words}" if words else f"{text}."


def _mark(target: Path, index: int, failure: tuple[str, str]) -> None:
    """Show in the stored notebook where it stopped; papermill marks all cells as completed."""
    import nbformat

    notebook = nbformat.read(target, as_version=4)
    name, message = failure
    output = nbformat.v4.new_output(
        "error", ename=name, evalue=message, traceback=[f"{name}: {message}"]
    )
    notebook.cells[index].outputs.append(output)
    for cell in notebook.cells[index:]:
        cell.metadata.papermill |= {"status": "pending"}
    notebook.cells[index].metadata.papermill |= {"status": "failed", "exception": True}
    notebook.metadata.papermill["exception"] = True
    nbformat.write(notebook, target)
