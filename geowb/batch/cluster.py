"""A sweep's runs on a dask cluster: each is a task, made by a process that the task starts."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import secrets
import tempfile
import threading
import time
import zipfile
from concurrent.futures import CancelledError
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dask
import distributed
from distributed.diagnostics.plugin import WorkerPlugin

import geowb
from geowb.batch.engines import Events
from geowb.batch.folder import rename_in
from geowb.batch.process import ENDS, Snapshot, WorkerProcess
from geowb.errors import RequestError, RunFailed
from geowb.locks import held
from geowb.machine import share_of_threads

__all__ = ["Cluster"]

_SECONDS_TO_CONNECT = 6
_SECONDS_TO_COME_BACK = 10
_SECONDS_BETWEEN_COUNTS = 5.0
_SECONDS_IDLE = 60.0  # then a worker's process ends: nobody may be left to close it


class Cluster:
    """Runs on the workers of a `dask.distributed` scheduler, one a worker thread.

    >>> engine = Cluster("tcp://10.0.0.1:8786", study, Path("runs"), events)  # doctest: +SKIP

    Raises
    ------
    RequestError
        No scheduler answers, it has no worker, or a worker lacks geowb or has another version.
    """

    def __init__(self, address: str, study: Snapshot, out: Path, events: Events) -> None:
        self._events, self._name = events, f"geowb-{secrets.token_hex(4)}"
        self._address, self._lost, self._futures = address, 0.0, {}
        self._client = _connect(address)
        self._levels = _quiet()
        try:
            facts = self._look_around(out)
            self.shared = all(fact["sees"] for fact in facts.values())
            self.at_a_time = sum(fact["threads"] for fact in facts.values())
            self._counted = time.monotonic()
            runs: dict[str, int] = {}
            for fact in facts.values():
                runs[fact["host"]] = runs.get(fact["host"], 0) + fact["threads"]
            self._client.subscribe_topic(self._name, self._hear)
            self._client.register_plugin(_Processes(self._name, study, runs), name=self._name)
        except BaseException:
            self.close()
            raise

    @property
    def capacity(self) -> int:
        """How many runs are handed over at a time: as many as are made, and as many to follow."""
        now = time.monotonic()
        if now - self._counted > _SECONDS_BETWEEN_COUNTS and self._client.status == "running":
            with contextlib.suppress(OSError, CancelledError):
                self.at_a_time = sum(self._client.nthreads().values())
            self._counted = now
        return 2 * max(1, self.at_a_time)

    def examine(self, values: list[dict[str, Any]], kernel: str) -> list[str]:
        """Say what on a worker is not as the runs need it."""
        order = {"order": "check", "values": values, "kernel": kernel, "directory": str(Path.cwd())}
        some = next(iter(self._client.nthreads()))
        try:  # `run` does not wait for the tasks of others, as `submit` would
            event = self._client.run(_examine, self._name, order, workers=[some])[some]
        except (OSError, CancelledError) as error:
            raise RunFailed(
                f"The scheduler at {self._address} is gone; nothing was run."
            ) from error
        return event.get("problems") or ([event["message"]] if "message" in event else [])

    def submit(self, number: int, order: dict[str, Any]) -> None:
        """Have a run made on some worker."""
        order = order | {"order": "run", "number": number, "shared": self.shared}
        key = f"{self._name}-{number}-{secrets.token_hex(3)}"
        future = self._client.submit(_perform, self._name, order, key=key, pure=False)
        self._futures[number] = future  # dask drops what nobody holds
        future.add_done_callback(lambda done: self._ended(number, done))

    def trouble(self) -> str:
        """Say that the scheduler is gone, once it has been for some seconds."""
        if self._client.status == "running":
            self._lost = 0.0
        elif self._client.status == "closed":
            self._lost = -1.0
        else:
            self._lost = self._lost or time.monotonic()
        gone = self._lost and time.monotonic() - self._lost > _SECONDS_TO_COME_BACK
        return f"The scheduler at {self._address} no longer answers." if gone else ""

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what is still being made, and leave the cluster as it was."""
        with contextlib.suppress(Exception):  # whatever a lost cluster raises
            self._client.cancel(list(self._futures.values()), force=True)
            if self._client.status == "running":
                self._client.unregister_worker_plugin(self._name)
        with contextlib.suppress(Exception):  # whatever a lost cluster raises
            self._client.close(timeout=5)
        for logger, level in self._levels.items():
            logger.setLevel(level)

    def _look_around(self, out: Path) -> dict[str, dict[str, Any]]:
        """Ask each worker what it is and whether it sees the folder for runs."""
        token = out / f".{self._name}"
        token.write_text(self._name, encoding="utf-8")
        try:
            self._client.wait_for_workers(1, timeout=_SECONDS_TO_CONNECT)
            with held(_lock_of(token)):
                facts = self._client.run(_describe, str(token), self._name)
        except TimeoutError as error:
            raise RequestError(f"The scheduler at {self._address} has no worker.") from error
        except ImportError as error:
            raise RequestError(
                f"A worker of the scheduler at {self._address} lacks a package: {error}. "
                "Install geowb there, in the version that is here."
            ) from error
        finally:
            token.unlink()
        for worker, fact in facts.items():
            if fact["geowb"] != geowb.__version__:
                raise RequestError(
                    f"The worker {worker} has geowb {fact['geowb']}; here it is "
                    f"{geowb.__version__}. Install the same version there."
                )
        return facts

    def _hear(self, event: tuple[Any, str]) -> None:
        told = json.loads(event[1])
        self._events.put((told["number"], told))

    def _ended(self, number: int, future: distributed.Future) -> None:
        if self._futures.get(number) is not future:
            return
        del self._futures[number]  # and with it, on the cluster, what came back
        if future.status == "finished":
            try:
                self._events.put((number, future.result()))
            except (OSError, CancelledError, RuntimeError) as error:
                self._events.put((number, {"event": "failed", "message": str(error)}))
        elif future.status == "error":
            self._events.put((number, {"event": "failed", "message": str(future.exception())}))
        else:
            self._events.put((number, {"event": "lost"}))


def _connect(address: str) -> distributed.Client:
    try:
        return distributed.Client(
            address, timeout=_SECONDS_TO_CONNECT, set_as_default=False, name="geowb-sweep"
        )
    except (OSError, ValueError, TypeError) as error:  # TimeoutError is an OSError
        raise RequestError(
            f"No dask scheduler answers at '{address}' ({type(error).__name__}). It looks like "
            "tcp://HOST:8786 and is printed by 'dask scheduler' when it starts."
        ) from error


def _quiet() -> dict[logging.Logger, int]:
    """Silence distributed, which tells of a lost connection with tracebacks; give old levels."""
    known = logging.Logger.manager.loggerDict
    names = ["distributed", *(name for name in known if name.startswith("distributed."))]
    levels = {logger: logger.level for logger in map(logging.getLogger, names)}
    for logger in levels:
        logger.setLevel(logging.CRITICAL)
    return levels


def _describe(token: str, content: str, dask_worker: distributed.Worker) -> dict[str, Any]:
    """Tell the sweep what it has to know of this worker."""
    file, sees = Path(token), False
    with contextlib.suppress(OSError):
        if file.read_text("utf-8") == content and os.access(file.parent, os.W_OK):
            with held(_lock_of(file)) as mine:
                sees = not mine  # where locks do not reach other machines, it is as if not shared
    facts = {"sees": sees, "geowb": geowb.__version__, "host": dask_worker.ip}
    return facts | {"threads": dask_worker.state.nthreads}


def _lock_of(token: Path) -> Path:
    return token.with_name(f"{token.name}.lock")


async def _examine(
    name: str, order: dict[str, Any], dask_worker: distributed.Worker
) -> dict[str, Any]:
    """Have a request checked on this worker, whatever else it is doing."""
    return await asyncio.to_thread(dask_worker.plugins[name].perform, order)


def _perform(name: str, order: dict[str, Any]) -> dict[str, Any]:
    """Give an order to the processes of a sweep on this worker: the task."""
    return distributed.get_worker().plugins[name].perform(order)


class _Processes(WorkerPlugin):
    """The processes of one sweep on one dask worker."""

    def __init__(self, name: str, study: Snapshot, runs: dict[str, int]) -> None:
        self.name, self._study, self._runs = name, study, runs

    def setup(self, worker: distributed.Worker) -> None:
        self._worker, self._lock = worker, threading.Lock()
        self._idle: list[WorkerProcess] = []
        self._all: list[WorkerProcess] = []

    def teardown(self, worker: distributed.Worker) -> None:
        for process in self._all:
            process.close()

    def perform(self, order: dict[str, Any]) -> dict[str, Any]:
        """Give an order to a process, and return what it says last."""
        order = order | {"study": self._study.name}
        here = order["directory"] if Path(order["directory"]).is_dir() else None
        if order["order"] == "check":
            del order["directory"]
            return self._follow(self._process(here), order)
        order |= {"environment": self._threads(), "directory": here}
        if order.pop("shared"):
            if not Path(order["out"]).is_dir():  # a worker that has come since
                told = f"The worker {self._worker.address} does not see {order['out']}."
                return {"event": "failed", "message": told}
            return self._follow(self._process(here), order)
        with tempfile.TemporaryDirectory(prefix="geowb-run-") as scratch:
            event = self._follow(self._process(here), order | {"out": scratch})
            return event | _packed(Path(event["path"])) if event["event"] == "done" else event

    def _threads(self) -> dict[str, str]:
        """Share of the cores; what dask itself sets before a worker starts is no wish of a user."""
        runs = self._runs.get(self._worker.ip, self._worker.state.nthreads)
        set_by_dask = dask.config.get("distributed.nanny.pre-spawn-environ", {})
        own = {k: v for k, v in os.environ.items() if str(set_by_dask.get(k)) != v}
        return share_of_threads(runs, own)

    def _follow(self, process: WorkerProcess, order: dict[str, Any]) -> dict[str, Any]:
        process.send(**order)
        for event in process.events:
            if event["event"] in ENDS:
                break
            if event["event"] == "cell":
                self._worker.log_event(self.name, json.dumps(event))
        if event["event"] != "died":
            with self._lock:
                self._idle.append(process)
        return event

    def _process(self, directory: str | None) -> WorkerProcess:
        with self._lock:
            self._all = [process for process in self._all if process.alive]
            self._idle = [process for process in self._idle if process.alive]
            if self._idle:
                return self._idle.pop()
            process = WorkerProcess(directory=directory, idle=_SECONDS_IDLE)
            self._all.append(process)
        process.send("study", **asdict(self._study))
        return process


def _packed(run: Path) -> dict[str, bytes]:
    """Pack a run directory, for a sweep that cannot see it."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        files = [file for file in run.rglob("*") if file != run / "run.json"]
        for file in [*sorted(files), run / "run.json"]:  # who has the record has all
            packed.write(file, file.relative_to(run).as_posix())
    return {"archive": stream.getvalue()}


def unpack(archive: bytes, folder: Path, *, instead_of: str) -> None:
    """Put a run that came through the scheduler into a folder, named in the texts."""
    with zipfile.ZipFile(io.BytesIO(archive)) as packed:
        packed.extractall(folder)
    rename_in(folder, instead_of, str(folder))
