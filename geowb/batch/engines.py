"""Where a sweep's runs are made: processes on this machine, or a dask cluster.

An engine takes orders with `submit` and puts events, each with the number of
its run, into a queue. Both have the runs made by `geowb.batch.worker`.
"""

from __future__ import annotations

import queue
import threading
from dataclasses import asdict
from typing import Any

from geowb.batch.process import ENDS, Snapshot, WorkerProcess
from geowb.machine import share_of_threads

__all__ = ["Events", "Local"]

#: Number of the run, and what its worker tells of it.
Events = queue.Queue[tuple[int, dict[str, Any]]]


class Local:
    """Worker processes on this machine, started when there is work for them.

    >>> engine = Local(study, 2, events)  # doctest: +SKIP
    >>> engine.submit(0, order)  # doctest: +SKIP

    Parameters
    ----------
    workers
        How many runs are made at a time; they share the cores.
    """

    #: Whether runs come to the sweep's folder by themselves.
    shared = True

    def __init__(self, study: Snapshot, workers: int, events: Events) -> None:
        self.capacity = self.at_a_time = workers
        self._study, self._events = study, events
        self._threads = share_of_threads(workers)
        self._lock = threading.Lock()
        self._idle: list[WorkerProcess] = []
        self._all: dict[WorkerProcess, int | None] = {}  # each with the run that it makes

    def submit(self, number: int, order: dict[str, Any]) -> None:
        """Have a run made by an idle worker, or a new one."""
        with self._lock:
            worker = self._idle.pop() if self._idle else None
            if worker:
                self._all[worker] = number
        if worker is None:
            worker = WorkerProcess(directory=order["directory"])
            with self._lock:
                self._all[worker] = number
            threading.Thread(target=self._follow, args=(worker,), daemon=True).start()
            worker.send("study", **asdict(self._study))
        worker.send("run", number=number, environment=self._threads, **order)

    def trouble(self) -> str:
        """Say what is wrong with the engine itself; it is this machine, so nothing."""
        return ""

    def __enter__(self) -> Local:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers and their kernels; unfinished runs are removed."""
        with self._lock:
            closing = [threading.Thread(target=worker.close) for worker in self._all]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()

    def _follow(self, worker: WorkerProcess) -> None:
        for event in worker.events:
            with self._lock:
                number = self._all.get(worker)
                if event["event"] == "died":
                    self._all.pop(worker, None)
                    self._idle = [idle for idle in self._idle if idle is not worker]
                elif event["event"] in ENDS:
                    self._all[worker] = None
                    self._idle.append(worker)
            if number is not None and event["event"] != "ready":
                self._events.put((number, event))
