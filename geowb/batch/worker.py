"""The process that makes a sweep's runs, one after the other: ``python -m geowb.batch.worker``.

Orders come as lines of JSON on standard input, events go as lines of JSON to
standard output. When the input ends, because the sweep has or was killed, the
kernel is ended, the unfinished run removed, and the process ends too.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import psutil

from geowb.batch.checks import machine_checks
from geowb.batch.kernel import Execution, check_kernel, preferred_kernel
from geowb.batch.process import end_tree
from geowb.batch.runner import Job, make_once
from geowb.batch.studies import Study, load_study
from geowb.errors import GeowbError
from geowb.machine import one_gpu

__all__ = ["main"]

_SECONDS_TO_STOP = 10.0  # for the kernel's end and the removal of the run, before all is killed


class _Desk:
    """Takes orders from the sweep, in a thread of its own."""

    def __init__(self, source: TextIO) -> None:
        self._source = source
        self._orders: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._open = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def next(self, idle: float | None) -> dict[str, Any] | None:
        """Wait for an order; None when there will be no more, or none came for `idle` seconds."""
        try:
            return self._orders.get(timeout=idle)
        except queue.Empty:
            return None

    def done(self) -> None:
        """Note that the last order has been carried out."""
        self._open -= 1

    def _listen(self) -> None:
        with contextlib.suppress(ValueError):  # the sweep was killed in the middle of a line
            for line in self._source:
                order = json.loads(line)
                self._open += 1
                self._orders.put(order)
        self._orders.put(None)
        if self._open:
            os.kill(os.getpid(), signal.SIGTERM)  # the main thread leaves its run tidily
            time.sleep(_SECONDS_TO_STOP)
            _end_kernels()
            os._exit(1)


def main() -> int:
    """Carry out orders until there are no more."""
    sys.modules.setdefault("rfc3987_syntax", None)  # as in geowb.cli
    idle = float(sys.argv[1]) if len(sys.argv) > 1 else None
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # no library writes between the events
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    desk, studies = _Desk(sys.stdin), {}

    def tell(event: str, **facts: Any) -> None:
        with contextlib.suppress(BrokenPipeError):
            replies.write(json.dumps({"event": event} | facts) + "\n")

    import geowb.batch.client  # noqa: F401 - papermill, before the first run's clock starts

    with tempfile.TemporaryDirectory(prefix="geowb-worker-") as scratch:
        tell("ready")
        while (order := desk.next(idle)) is not None:
            kind = order.pop("order")
            if kind == "study":
                studies[order["name"]] = _keep(Path(scratch), **order)
            elif kind == "check":
                tell("checked", problems=_problems(studies[order["study"]], **order))
            else:
                _run(studies[order["study"]], order, tell)
            desk.done()
    return 0


def _end_kernels() -> None:
    """Kill the kernels of this process: the one at work, and those that have yet to leave."""
    for child in psutil.Process().children():
        end_tree(child.pid)


def _keep(folder: Path, name: str, content: str, path: str) -> tuple[Study, str]:
    """Store a study as it was when the sweep began; its own notebook may change or be elsewhere."""
    copy = folder / f"{name}.ipynb"
    copy.write_bytes(content.encode())
    return load_study(copy), path


def _problems(
    kept: tuple[Study, str], study: str, values: list[dict[str, Any]], kernel: str
) -> list[str]:
    """Say what on this machine is not as the runs need it."""
    try:
        if kernel:
            check_kernel(kernel)
        return machine_checks(kept[0], values)
    except GeowbError as error:
        return [str(error)]


def _run(kept: tuple[Study, str], order: dict[str, Any], tell: Callable[..., None]) -> None:
    """Make one run, or say why not."""
    study, notebook = kept
    number, uses_gpu = order.pop("number"), order.pop("uses_gpu")
    since, out = order.pop("since"), Path(order.pop("out"))
    environment = order.pop("environment")
    order["kernel"] = order["kernel"] or preferred_kernel()[0]
    del order["study"]

    def watch(execution: Execution) -> None:
        tell(
            "cell",
            number=number,
            heading=execution.heading,
            cell=execution.number,
            cells=cells,
            kernel=execution.pid,
        )

    try:
        with one_gpu(uses_gpu) as device:
            job = Job(
                study=study,
                out=out,
                notebook=notebook,
                environment=environment | device,
                claimed=True,
                **order,
            )
            cells = job.cells
            result = make_once(job, watch, since=since)
    except GeowbError as error:
        tell("failed", number=number, message=str(error))
    except Exception as error:  # noqa: BLE001 - a defect in one run must not stop the others
        tell("failed", number=number, message=f"{type(error).__name__}: {error}")
    else:
        if result is None:
            tell("busy", number=number)
        else:
            tell("done", number=number, path=str(result.path))


if __name__ == "__main__":
    try:
        status = main()
    except SystemExit:  # told to end: nobody is waited for
        _end_kernels()
        raise
    raise SystemExit(status)
