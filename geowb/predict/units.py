"""Run a model over units of a scene: read ahead, run full batches, blend, write."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from dask.local import SynchronousExecutor
from dask.system import cpu_count

from geowb.errors import ModelError
from geowb.models.wrapper import placed
from geowb.predict.grid import Grid, Group
from geowb.predict.heap import kept
from geowb.predict.job import Job, Writer, full_disk
from geowb.predict.outputs import Outputs
from geowb.predict.source import Scene

__all__ = ["Task", "Way", "ready", "run_units"]

#: Batches that are read before they are needed, and outputs that may wait to be written.
_AHEAD = 1


@dataclass(frozen=True)
class Way:
    """How a model is run: precision, layout in memory, device."""

    bf16: bool = False
    channels_last: bool = True
    compiled: bool = False
    accelerator: str = "auto"


@dataclass
class Task:
    """All that is needed to make units of a map, here or on another machine."""

    model: torch.nn.Module
    scene: Scene
    grid: Grid
    outputs: Outputs
    way: Way


def run_units(task: Task, units: Sequence[int], job: Job, tick: Callable[[int], None]) -> None:
    """Make units of a map.

    >>> run_units(task, range(job.grid.units), job, tick=print)  # doctest: +SKIP

    Where the model leaves something of the processor, or the scene comes over a network, threads
    read ahead and blend and write what is done. Where the model takes all cores of the processor,
    one after the other is faster: of a U-Net's two threads each waits for the other, which reading
    beside them holds up. `tick` is told of pixels that are done.
    """
    wanted = ((unit, group) for unit in units for group in task.grid.groups(unit))
    with kept() as tidy, ready(task.model, task.way) as (model, device), ExitStack() as stack:
        pinned = device.type == "cuda"
        spare = device.type != "cpu" or torch.get_num_threads() < cpu_count()
        beside = spare or task.scene.remote
        ahead = 6 if pinned else _AHEAD if beside else 0
        blender = _Blender(task, job)
        stack.callback(blender.close)  # after both pools have ended
        reading = stack.enter_context(_pool((4 if pinned else 1) if beside else 0))
        writing = stack.enter_context(_pool(int(beside)))
        batches: deque[tuple[int, Group, Future]] = deque()
        written: deque[Future] = deque()

        def run_next() -> None:
            unit, group, batch = batches.popleft()
            x, seen = batch.result()
            with _enough_memory(task):
                tiles = x.to(device, non_blocking=pinned).split(task.grid.batch_size)
                given = [task.outputs.run(model, part) for part in tiles]
            written.append(writing.submit(blender.add, unit, group, given, seen))
            while len(written) > (_AHEAD if beside else 0):
                tick(written.popleft().result())
            tidy()

        for unit, group in wanted:
            batches.append((unit, group, reading.submit(read, task, group, pinned)))
            if len(batches) > ahead:
                run_next()
        while batches:
            run_next()
        for one in written:
            tick(one.result())


@contextmanager
def _pool(threads: int) -> Iterator[Executor]:
    """Threads that take up nothing more when the block ends, for whatever reason; 0 is here."""
    pool = ThreadPoolExecutor(threads, "geowb-predict") if threads else SynchronousExecutor()
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _enough_memory(task: Task) -> Iterator[None]:
    """Say in words that a batch is too large."""
    try:
        yield
    except RuntimeError as error:  # that of a GPU has a type of its own, that of a processor none
        told = str(error)
        if "allocate" not in told or "memory" not in told:
            raise
        size, edge = task.grid.batch_size, task.grid.y.tile * task.outputs.scale
        step = f"batch_size={size // 2} (--batch-size)" if size > 1 else "a smaller tile (--tile)"
        raise ModelError(
            f"There is no memory for a batch of {size} tiles of {edge} pixels: take {step}. "
            f"What is done is kept. ({told.splitlines()[0]})"
        ) from error


@contextmanager
def ready(model: torch.nn.Module, way: Way) -> Iterator[tuple[torch.nn.Module, torch.device]]:
    """Give a model that is on its device, in the chosen precision and layout, and the device."""
    with placed(model, way.accelerator) as device:
        if way.channels_last:  # not in inference mode: these tensors could not be trained after it
            _lay_out(model, torch.channels_last)
        try:
            autocast = torch.autocast(device.type, torch.bfloat16, enabled=way.bf16)
            with torch.inference_mode(), autocast:
                yield torch.compile(model) if way.compiled else model, device
        finally:
            if way.channels_last:
                _lay_out(model, torch.contiguous_format)


def _lay_out(model: torch.nn.Module, layout: torch.memory_format) -> None:
    """Change the order in memory of the weights of two-dimensional convolutions, not the values."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)


def read(task: Task, group: Group, pinned: bool = False) -> tuple[torch.Tensor, np.ndarray]:
    """Read the tiles of a group, column by column, and which of their pixels have data."""
    y, x, scale = task.grid.y, task.grid.x, task.outputs.scale
    top, left = y.start(group.rows.start) * scale, x.start(group.cols.start) * scale
    window = task.scene.window(
        top,
        (y.start(group.rows.stop - 1) + y.tile) * scale,
        left,
        (x.start(group.cols.stop - 1) + x.tile) * scale,
    )
    high, wide = y.tile * scale, x.tile * scale
    places = [(i, j) for j in group.cols for i in group.rows]
    if len(places) == 1 and not pinned:
        tiles = torch.from_numpy(np.ascontiguousarray(window.values[None]))
    else:
        tiles = torch.empty((len(places), *window.values.shape[:2], high, wide), pin_memory=pinned)
        for into, (i, j) in zip(tiles.numpy(), places, strict=True):
            row, col = y.start(i) * scale - top, x.start(j) * scale - left
            into[...] = window.values[:, :, row : row + high, col : col + wide]
    seen = window.seen
    if scale > 1:
        height, width = (size // scale for size in seen.shape)
        seen = seen.reshape(height, scale, width, scale).any(axis=(1, 3))
    return tiles, seen


class _Blender:
    """Puts the tiles of units together as they come, from the left, and writes them."""

    def __init__(self, task: Task, job: Job) -> None:
        self.task = task
        self.job = job
        self._writer: Writer | None = None
        self._carry: np.ndarray | None = None
        self._not_finite = 0
        self._failed = False
        self._weights: dict[tuple, np.ndarray] = {}

    def close(self) -> None:
        """Close the files of a unit that is not finished."""
        if self._writer is not None:
            self._writer.close()

    def add(self, unit: int, group: Group, given: list[torch.Tensor], seen: np.ndarray) -> int:
        """Blend and write a group, batches of ``(n, K, y, x)``; give the pixels that are done."""
        if self._failed:  # what was queued behind a group that failed would go on without it
            raise RuntimeError("an earlier group could not be written")
        self._failed = True
        done = self._add(unit, group, given, seen)
        self._failed = False
        return done

    def _add(self, unit: int, group: Group, given: list[torch.Tensor], seen: np.ndarray) -> int:
        y, x = self.task.grid.y, self.task.grid.x
        tiles = [tile for batch in given for tile in batch.cpu().numpy()]
        with full_disk(self.job.folder):
            if self._writer is None:
                self._writer = Writer(self.job, unit)
            sums, wrong = self._blended(group, tiles, seen)
            done = sums.shape[2] - (0 if group.last else x.blend)
            above = y.blend if group.rows.start else 0  # counted by the unit above
            self._not_finite += int(wrong[above:, :done].sum())
            self._writer.put(x.cut(group.cols.start), sums[..., :done])
            self._carry = None if group.last else sums[..., done:].copy()
            if group.last:
                damages = [list(one) for one in self.task.scene.damages]
                self._writer.finish({"not_finite": self._not_finite, "damages": damages})
                self._writer, self._not_finite = None, 0
        return done * (y.cut(group.rows.stop) - y.cut(group.rows.start))

    def _blended(
        self, group: Group, tiles: list[np.ndarray], seen: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Weighted sums ``(K, y, x)`` of all tiles up to here, and where the model gave no number.

        NaN where there is no data, and where the model gave none.
        """
        y, x = self.task.grid.y, self.task.grid.x
        top, left = y.cut(group.rows.start), x.cut(group.cols.start)
        bottom, right = y.end(group.rows.stop - 1), x.end(group.cols.stop - 1)
        sums = np.zeros((len(tiles[0]), bottom - top, right - left))
        if self._carry is not None:
            sums[..., : self._carry.shape[2]] = self._carry
        places = ((i, j) for j in group.cols for i in group.rows)
        for tile, (i, j) in zip(tiles, places, strict=True):
            rows, cols = slice(y.cut(i), y.end(i)), slice(x.cut(j), x.end(j))
            part = tile[:, _from(rows, y.start(i)), _from(cols, x.start(j))]
            sums[:, _from(rows, top), _from(cols, left)] += part * self._weight(i, j)
        data = seen[_from(slice(top, bottom), y.start(group.rows.start))]
        data = data[:, _from(slice(left, right), x.start(group.cols.start))]
        finite = np.isfinite(sums).all(axis=0)
        if not (finite & data).all():
            sums[:, ~(finite & data)] = np.nan
        return sums, data & ~finite

    def _weight(self, i: int, j: int) -> np.ndarray:
        """Weights of a tile; most tiles share them."""
        y, x = self.task.grid.y, self.task.grid.x
        key = (i == 0, i + 1 == y.count, j == 0, j + 1 == x.count)
        if key not in self._weights:
            self._weights[key] = y.weights(i)[:, None] * x.weights(j)
        return self._weights[key]


def _from(part: slice, start: int) -> slice:
    return slice(part.start - start, part.stop - start)
