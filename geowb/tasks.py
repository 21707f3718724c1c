"""Many calls of one function: in this process, in several of this machine, or on a dask cluster."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from geowb.errors import DataError, GeowbError, RequestError

__all__ = ["check_workers", "each"]


def each(
    function: Callable[..., Any],
    arguments: Sequence[tuple],
    *,
    title: str,
    scheduler: str | None = None,
    workers: int | None = None,
    progress: bool = True,
    ended: Callable[[Any], None] | None = None,
) -> list[Any]:
    """Call `function` with each of `arguments` on dask; results come in their order.

    >>> each(divmod, [(7, 2), (9, 4)], title="Division", workers=1, progress=False)
    [(3, 1), (2, 1)]

    `ended` is called with each result when it is there, instead of a line that counts them.
    """
    from geowb.machine import cores

    check_workers(workers)
    workers = min(workers or cores(), max(1, len(arguments)))
    shown = contextlib.nullcontext(ended) if ended else _ticker(title, len(arguments), progress)
    with shown as tick:
        try:
            if scheduler:
                return _on_cluster(function, arguments, scheduler, title, tick)
            return _here(function, arguments, workers, tick)
        except GeowbError as error:  # dask adds the traceback of its process to the text
            raise getattr(error, "exception", error) from None
        except BrokenProcessPool as error:
            raise DataError(
                f"{title}: a process ended by itself. If memory ran out, use fewer workers. A "
                'script that starts processes needs the line: if __name__ == "__main__":'
            ) from error


def check_workers(workers: int | None) -> None:
    """Refuse a number of processes that is none."""
    if workers is not None and workers < 1:
        raise RequestError(f"workers is {workers}: give 1 or more (--workers), or leave it out.")


def _here(function: Callable, arguments: Sequence[tuple], workers: int, tick: Callable) -> list:
    import dask
    from dask.callbacks import Callback

    tasks = [dask.delayed(functools.partial(function, *one), pure=False)() for one in arguments]
    keys = {task.key for task in tasks}

    def ended(key: Any, result: Any, *_: Any) -> None:
        if key in keys:
            tick(result)

    how: dict[str, Any] = {"scheduler": "sync"}
    if workers > 1:
        how = {"scheduler": "processes", "num_workers": workers, "chunksize": 1}
        how["initializer"] = _end_with_parent
    with Callback(posttask=ended):
        return list(dask.compute(*tasks, **how))


def _end_with_parent() -> None:
    """Have this process end when the one that started it is killed: it would wait for ever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="geowb-parent", daemon=True).start()


def _on_cluster(
    function: Callable, arguments: Sequence[tuple], address: str, title: str, tick: Callable
) -> list:
    import distributed

    try:
        client = distributed.Client(address, timeout=10, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise RequestError(
            f"No dask scheduler answers at '{address}' ({type(error).__name__}). It looks like "
            "tcp://HOST:8786 and is printed by 'dask scheduler' when it starts."
        ) from error
    with client:
        tasks = [client.submit(function, *one, pure=False) for one in arguments]
        try:
            for task in distributed.as_completed(tasks, loop=client.loop):
                tick(task.result())
            return client.gather(tasks)
        except (distributed.KilledWorker, CancelledError) as error:
            what = "its workers end at one and the same part, as when memory runs out"
            if isinstance(error, CancelledError):
                what = "the scheduler is gone"
            raise DataError(
                f"{title}: given up on the cluster at '{address}': {what}. See its logs. What is "
                "written is kept, and the same call goes on."
            ) from error
        finally:
            client.cancel(tasks, force=True)


@contextlib.contextmanager
def _ticker(title: str, total: int, shown: bool) -> Iterator[Callable[[Any], None]]:
    """Show on standard error how many tasks have ended: a bar, or a line now and then."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    console, done, told = Console(stderr=True, quiet=not shown), 0, time.monotonic()
    if console.is_terminal and shown:
        columns = (*Progress.get_default_columns(), MofNCompleteColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(title, total=total)
            yield lambda _: bar.advance(task)
        return

    def tick(_: Any) -> None:
        nonlocal done, told
        done += 1
        if done == total or time.monotonic() - told > 20:
            told = time.monotonic()
            console.print(f"{title}: {done} of {total}", highlight=False, soft_wrap=True)

    yield tick
