"""Make a planned map: here or on a cluster, with a line that tells how far it is, and finish it."""

from __future__ import annotations

import functools
import json
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from geowb.errors import GeowbError, RequestError
from geowb.lines import Line, duration
from geowb.predict.grid import Grid
from geowb.predict.job import Job, full_disk
from geowb.predict.source import Damage
from geowb.predict.units import Task, run_units
from geowb.predict.writing import write_cog, write_zarr

__all__ = ["finish", "make", "tags_of", "transform_of"]


class _Progress:
    """A line with the share that is done, pixels a second and the time that is left."""

    def __init__(self, name: str, grid: Grid, scale: int, done: int, shown: bool) -> None:
        self._name, self._scale, self._shown = name, scale**2, shown
        self._total = grid.y.length * grid.x.length
        self._done = self._before = done
        self._began = self._told = self._logged = time.monotonic()
        self._line = Line()

    def __call__(self, pixels: int) -> None:
        self._done += pixels
        now, ended = time.monotonic(), self._done >= self._total
        if not self._shown or not (ended or now - self._told > 0.5):
            return
        lasting = ended or now - self._logged > 20
        self._told, self._logged = now, now if lasting else self._logged
        new, seconds = self._done - self._before, max(now - self._began, 1e-6)
        rate = new * self._scale / seconds / 1e6
        text = f"{self._name}: {self._done / self._total:.0%}, {rate:.3g} million pixels/s"
        if not ended and new:
            text += f", {duration(seconds * (self._total - self._done) / new)} left"
        self._line.show(text, lasting=lasting)


def make(task: Task, job: Job, scheduler: str | None, progress: bool) -> tuple[list[Damage], int]:
    """Make all units that are not done, here or on a cluster, and the seams between them.

    Gives what could not be read, and for how many pixels the model gave no number.
    """
    units = [unit for unit in range(task.grid.units) if not job.done(unit)]
    before = sum(task.grid.pixels(unit) for unit in range(task.grid.units) if unit not in units)
    tick = _Progress(task.scene.name, task.grid, task.outputs.scale, before, progress)
    if scheduler:
        _make_on_cluster(task, job, units, scheduler, tick)
    elif units:
        run_units(task, units, job, tick)
    wrong, told = job.close_seams(), job.told()
    damages = sorted({Damage(*one) for unit in told for one in unit["damages"]})
    return damages, wrong + sum(unit["not_finite"] for unit in told)


def _make_on_cluster(
    task: Task, job: Job, units: Sequence[int], scheduler: str, tick: Callable[[int], None]
) -> None:
    import cloudpickle

    from geowb.tasks import each

    with full_disk(job.folder):
        (job.folder / "task.pickle").write_bytes(cloudpickle.dumps(task))
    folder = str(job.folder.absolute())
    each(
        _make_unit,
        [(folder, job.request, unit) for unit in units],
        title=f"Prediction of {task.scene.name}",
        scheduler=scheduler,
        ended=lambda unit: tick(task.grid.pixels(unit)),
    )


def _make_unit(folder: str, request: str, unit: int) -> int:
    """Make one unit, in a worker of a cluster."""
    failed = None
    with _ONE:  # torch has threads of its own, and a model is changed while it is placed
        try:
            task = _task_in(folder, request)
            job = Job(Path(folder), task.grid, task.outputs, request)
            run_units(task, [unit], job, lambda _: None)
        except GeowbError as error:  # what it came from cannot always be sent (GDAL's errors)
            failed = type(error)(str(error))
    if failed:
        raise failed
    return unit


@functools.lru_cache(maxsize=1)
def _task_in(folder: str, request: str) -> Task:
    import cloudpickle

    file = Path(folder) / "task.pickle"
    if not file.is_file():
        raise RequestError(
            f"A worker of the cluster does not see {file}: the target must lie on a file system "
            "that all workers share, under the same name."
        )
    return cloudpickle.loads(file.read_bytes())


_ONE = threading.Lock()


def tags_of(task: Task, request: str, damages: Sequence[Damage], not_finite: int) -> dict[str, str]:
    """Give what a map says of how it was made, and of what is not as it should be."""
    from geowb import __version__

    card = getattr(task.model, "card", {})
    kept = {key: card[key] for key in ("name", "weights", "run", "task") if card.get(key)}
    y = task.grid.y
    sizes = {"tile": y.tile, "overlap": y.overlap, "blend": y.blend}
    how = {key: value * task.outputs.scale for key, value in sizes.items()}
    how |= {"batch_size": task.grid.batch_size, "precision": "bf16" if task.way.bf16 else "32"}
    tags = {
        "geowb": __version__,
        "geowb_request": request,
        "geowb_model": json.dumps(kept or {"class": type(task.model).__name__}),
        "geowb_how": json.dumps(how),
        "geowb_scene": task.scene.name,
    }
    if damages:
        tags["geowb_unreadable"] = json.dumps([one._asdict() for one in damages])
    if not_finite:
        tags["geowb_not_finite"] = str(not_finite)
    return tags


def finish(
    task: Task, job: Job, files: Mapping[str, Path], kind: str, tags: Mapping[str, str]
) -> None:
    """Write what others open, and give it its name; the target itself last."""
    where = {"crs": task.scene.crs, "transform": transform_of(task), "tags": tags}
    made = {}
    if kind == "zarr":
        made["all"] = (job.folder / "map.zarr", next(iter(files.values())))
        shutil.rmtree(made["all"][0], ignore_errors=True)
        write_zarr(made["all"][0], job.raws, task.outputs, times=task.scene.times, **where)
    else:
        for output in task.outputs:
            made[output.name] = (job.folder / f"{output.name}.tif", files[output.name])
            write_cog(made[output.name][0], job.raws[output.name], output, **where)
    for new, final in reversed(made.values()):
        if final.is_dir():  # a folder cannot be replaced at one stroke
            final.rename(job.folder / "replaced")
        new.replace(final)
    job.remove()


def transform_of(task: Task) -> Any:
    """Give the transform of the map: the scene's, or that of its token grid."""
    scale, transform = task.outputs.scale, task.scene.transform
    return transform @ type(transform).scale(scale) if scale > 1 else transform
