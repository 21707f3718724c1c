"""Predict whole scenes: a model and a scene of any size give a georeferenced map."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from geowb.errors import RequestError
from geowb.lines import Line, duration
from geowb.locks import held
from geowb.predict.grid import Axis, Grid
from geowb.predict.job import Job
from geowb.predict.opening import check_numbers, open_scene
from geowb.predict.outputs import Outputs, outputs_for
from geowb.predict.source import Damage, Scene
from geowb.predict.units import Task, ready, run_units
from geowb.predict.writing import array, made_by, write_cog, write_zarr

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Prediction", "map_scenes", "predict_scene"]

#: Pixels of a batch: what a processor's caches and memory like, and what keeps a GPU busy.
_BATCH = {"cpu": 2**18, "cuda": 2**21}
_TILE = 256


@dataclass(frozen=True)
class Prediction:
    """A map that is written: where, how fast, and what is not as it should be."""

    files: dict[str, Path]  # by output
    pixels: int  # of the scene
    seconds: float  # of this call; 0 for a map that was there already
    resumed: int = 0  # units that an earlier call had done
    units: int = 0
    damages: list[Damage] = field(default_factory=list)
    not_finite: int = 0

    @property
    def file(self) -> Path:
        """The target itself."""
        return next(iter(self.files.values()))

    def open(self, output: str = "") -> xr.DataArray:
        """Open an output lazily, the first if none is named."""
        from geowb.maps import open_map

        return open_map(self.files[output or next(iter(self.files))], output)

    def told(self) -> list[str]:
        """Sentences on what a person should know of the map."""
        lines = [f"Not readable, written as no data: {damage}" for damage in self.damages]
        if self.not_finite:
            lines.append(f"The model gave no number for {self.not_finite:,} pixels: no data there.")
        return lines


def predict_scene(
    model: torch.nn.Module | str | Path,
    source: Any,
    target: str | Path,
    *,
    tile: int | None = None,
    overlap: int | None = None,
    blend: int | None = None,
    batch_size: int | None = None,
    output: str | Sequence[str] = "auto",
    level: int = -1,
    units: str = "",
    classes: Sequence[str] | None = None,
    missing: str = "all",
    unreadable: str = "fail",
    scale: float | None = None,
    precision: str = "auto",
    channels_last: bool = True,
    compile: bool = False,
    accelerator: str = "auto",
    scheduler: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
    **opening: Any,
) -> Prediction:
    """Run a model over a scene of any size and write the map, in bounded memory.

    >>> predict_scene("models/unet", "scene.tif", "agb.tif").file  # doctest: +SKIP
    PosixPath('agb.tif')

    Tiles of the scene are read ahead, run in full batches, blended and written at the same time.
    Every pixel is covered; beyond the edges of the scene it is mirrored. Where tiles overlap, one
    fades into the other, with weights that add to one exactly. The map grows in a folder beside the
    target, ``.NAME.partial``, and gets its name when it is complete: the same call after a kill
    goes on where it stopped, and gives what an undisturbed one gives.

    Parameters
    ----------
    model
        A model file, or a module from ``(B, C, T, H, W)`` to ``(B, K, H, W)``.
    source
        Anything that `geowb.predict.open_scene` opens: a raster or several (bands or dates), an
        address, a Zarr, a catalog entry, an array. Its keywords (``bands``, ``dates``, ``stack``,
        ``crs``, ``nodata``, ``select``, ``catalog``, ``seed``) may be given here.
    target
        ``.tif``: a Cloud-Optimised GeoTIFF; of several outputs the further ones get their name
        (``agb_confidence.tif``). ``.zarr``: one Zarr with a variable for each output.
    tile, overlap, blend
        In pixels: the edge of a tile; what two neighbours share; over how many pixels of that one
        fades into the other, the rest being margin. By default the size of the chips that the model
        was trained on (256 if its card has none), a quarter of the tile, and half of the overlap.
    batch_size
        Tiles in a batch; by default about 4 tiles of 256 pixels on a processor, 32 on a GPU.
    output
        ``values`` (the default for one channel), ``classes`` (the default for several: uint8, 255
        is no data), ``probabilities``, ``confidence`` (of the predicted class) or ``embedding``
        (the encoder's map, ``level`` says which; on its token grid). Those of classes may be asked
        for together. Classes are those of the blended probabilities.
    units, classes
        Unit, and names of classes; by default what the model's card says.
    missing
        A pixel is no data where ``"all"`` its bands and dates are missing, or ``"any"``.
    unreadable
        ``"fail"`` at a block that cannot be read, or write ``"nodata"`` there and tell.
    scale
        Factor that makes counts of the source's numbers; without it numbers that cannot be what
        the model was trained on are refused, with the factor.
    precision
        ``"32"``, ``"bf16"``, or ``"auto"``: bf16 on a GPU that has it.
    channels_last, compile
        Layout of convolutions in memory (faster on all that was measured), and torch.compile.
    accelerator
        ``auto``, ``cpu`` or ``gpu``.
    scheduler
        Address of a dask scheduler whose workers share this file system; they make units of rows.
    overwrite
        Replace a map of another request. A map of the same request is not made again.

    Raises
    ------
    RequestError
        Found before anything is written: a target that exists or whose kind is unknown, wrong
        bands, a tile that cannot be, too little room on the disk.
    DataError, ModelError
        Numbers in another unit, no CRS, a block that cannot be read, a full disk; a model that does
        not take the tiles.
    """
    began = time.perf_counter()
    kind = _kind(target := Path(target).expanduser())
    model = _loaded(model)
    how = {"level": level, "units": units, "classes": classes, "output": output}
    task = prepared(
        model, source, tile=tile, overlap=overlap, blend=blend, batch_size=batch_size,
        missing=missing, unreadable=unreadable, scale=scale, precision=precision,
        channels_last=channels_last, compiled=compile, accelerator=accelerator, **how, **opening,
    )  # fmt: skip
    request = _request(task, kind)
    files = _files(target, task.outputs, kind)
    pixels = task.scene.shape[0] * task.scene.shape[1]
    if target.exists() and not overwrite:
        _check_made(target, files, request)
        return Prediction(files, pixels, 0.0)
    partial = target.with_name(f".{target.name}.partial")
    if not target.parent.is_dir():
        raise RequestError(f"There is no folder {target.parent} for {target.name}: make it first.")
    with held(partial.with_name(f"{partial.name}.lock")) as mine:
        if not mine:
            raise RequestError(f"{target} is being made by another process: wait, or end that one.")
        job = Job(partial, task.grid, task.outputs, request)
        resumed = job.begin()
        _make(task, job, scheduler, progress)
        told = job.told()
        damages = sorted({Damage(*one) for unit in told for one in unit["damages"]})
        _finish(task, job, files, kind, _tags(task, request, damages))
    wrong = sum(unit["not_finite"] for unit in told)
    seconds = time.perf_counter() - began
    return Prediction(files, pixels, seconds, resumed, task.grid.units, damages, wrong)


def _kind(target: Path) -> str:
    kind = {".tif": "cog", ".tiff": "cog", ".zarr": "zarr"}.get(target.suffix.lower())
    if kind is None:
        raise RequestError(
            f"'{target.name}' is neither .tif nor .zarr: a map is written as one of them."
        )
    return kind


def _loaded(model: torch.nn.Module | str | Path) -> torch.nn.Module:
    if isinstance(model, torch.nn.Module):
        return model
    from geowb.models import load
    from geowb.models.publishing import find_model

    return load(find_model(str(model)))


def prepared(
    model: torch.nn.Module,
    source: Any,
    *,
    tile: int | None = None,
    overlap: int | None = None,
    blend: int | None = None,
    batch_size: int | None = None,
    output: str | Sequence[str] = "auto",
    level: int = -1,
    units: str = "",
    classes: Sequence[str] | None = None,
    missing: str = "all",
    unreadable: str = "fail",
    scale: float | None = None,
    precision: str = "auto",
    channels_last: bool = True,
    compiled: bool = False,
    accelerator: str = "auto",
    **opening: Any,
) -> Task:
    """Open, check and plan everything of a prediction, as `predict_scene` does before it starts."""
    _check_choice("missing", missing, ("all", "any"))
    _check_choice("unreadable", unreadable, ("fail", "nodata"))
    _check_choice("precision", precision, ("auto", "32", "bf16"))
    card = getattr(model, "card", {})
    opening = {"frames": card.get("frames", 1), "wanted": card.get("bands", ()), **opening}
    scene = open_scene(source, scale=scale, **opening)
    scene.tolerant, scene.missing = unreadable == "nodata", missing
    if scale is None and card:
        check_numbers(scene, card)
    tile = tile or _trained_on(card)
    gpu = accelerator != "cpu" and torch.cuda.is_available()
    bf16 = precision == "bf16" or (precision == "auto" and gpu and torch.cuda.is_bf16_supported())
    if batch_size is None:
        most = max(1, _BATCH["cuda" if gpu else "cpu"] // tile**2)
        batch_size = 2 ** (most.bit_length() - 1)
    if batch_size < 1:
        raise RequestError(f"batch_size is {batch_size}: a batch has 1 tile or more.")
    grid = Grid(Axis(1, 1, 0, 0), Axis(1, 1, 0, 0), 1)
    outputs = Outputs((), 0, 1, level)
    task = Task(model, scene, grid, outputs, bf16, channels_last, compiled, accelerator)
    with ready(task) as (_, device):
        example = torch.zeros(1, *scene.channels, tile, tile, device=device)
        task.outputs = outputs_for(
            model, output, example, level=level, units=units, classes=classes
        )
    task.grid = _grid(scene, task.outputs, tile, overlap, blend, batch_size)
    return task


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise RequestError(f"{name} is '{value}': it is {', '.join(choices)}.")


def _trained_on(card: Mapping[str, Any]) -> int:
    """Edge of the chips that a model was trained on, pixels."""
    return int(card.get("size") or (card.get("trained_on") or {}).get("chip_size") or _TILE)


def _grid(
    scene: Scene,
    outputs: Outputs,
    tile: int,
    overlap: int | None,
    blend: int | None,
    batch_size: int,
) -> Grid:
    scale = outputs.scale
    overlap = tile // 4 // scale * scale if overlap is None else overlap
    if blend is None:  # tokens of two tiles are not one another's mean
        blend = 0 if outputs.wanted[0].name == "embedding" else overlap // 2 // scale * scale
    for name, value in (("overlap", overlap), ("blend", blend)):
        if value % scale:
            raise RequestError(
                f"{name} is {value}, the model's output has 1 pixel for {scale}: give a multiple."
            )
    sides = [
        Axis(-(-length // scale), tile // scale, overlap // scale, blend // scale)
        for length in scene.shape
    ]
    return Grid(*sides, batch_size)


def _request(task: Task, kind: str) -> str:
    """Digest of all that the pixels depend on: model, scene, tiles, precision."""
    from geowb import __version__

    digest = hashlib.sha256()
    for name, values in task.model.state_dict().items():
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    grid, scene = task.grid, task.scene
    sides = [(axis.length, axis.tile, axis.overlap, axis.blend) for axis in (grid.y, grid.x)]
    said = {
        "model": [str(task.model), getattr(task.model, "card", {})],
        "outputs": [[o.name, o.dtype, o.bands, o.attrs] for o in task.outputs],
        "level": task.outputs.level,
        "grid": [sides, grid.batch_size],
        "scene": [scene.shape, str(scene.crs), tuple(scene.transform), scene.missing,
                  scene.tolerant],
        "planes": [[[p.bands, p.nodata, p.gain, p.offset] for p in date] for date in scene.dates],
        "precision": [task.bf16, task.channels_last, task.compiled],
        "kind": kind,
        "geowb": __version__,
    }  # fmt: skip
    digest.update(json.dumps(said, sort_keys=True, default=str).encode())
    digest.update(scene.digest().encode())
    return digest.hexdigest()


def _files(target: Path, outputs: Outputs, kind: str) -> dict[str, Path]:
    names = [output.name for output in outputs]
    if kind == "zarr":
        return dict.fromkeys(names, target)
    others = {name: target.with_name(f"{target.stem}_{name}{target.suffix}") for name in names[1:]}
    return {names[0]: target, **others}


def _check_made(target: Path, files: Mapping[str, Path], request: str) -> None:
    """Refuse to replace what another request made; what this one made is there already."""
    if made_by(target) != request or not all(file.exists() for file in files.values()):
        raise RequestError(
            f"{target} exists, and is not the map of this request: choose another name, or replace "
            "it with overwrite=True (--overwrite)."
        )


# --- making -------------------------------------------------------------------------------------


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


def _make(task: Task, job: Job, scheduler: str | None, progress: bool) -> None:
    """Make all units that are not done, here or on a cluster, and the seams between them."""
    units = [unit for unit in range(task.grid.units) if not job.done(unit)]
    before = sum(task.grid.pixels(unit) for unit in range(task.grid.units) if unit not in units)
    tick = _Progress(task.scene.name, task.grid, task.outputs.scale, before, progress)
    if scheduler:
        _make_on_cluster(task, job, units, scheduler, tick)
    elif units:
        run_units(task, units, job, tick)
    job.close_seams()


def _make_on_cluster(
    task: Task, job: Job, units: Sequence[int], scheduler: str, tick: Callable[[int], None]
) -> None:
    import cloudpickle

    from geowb.tasks import each

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
    with _ONE:  # torch has threads of its own, and a model is changed while it is placed
        task = _task_in(folder, request)
        job = Job(Path(folder), task.grid, task.outputs, request)
        run_units(task, [unit], job, lambda _: None)
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


def _tags(task: Task, request: str, damages: Sequence[Damage]) -> dict[str, str]:
    """What a map says of how it was made."""
    from geowb import __version__

    card = getattr(task.model, "card", {})
    kept = {key: card[key] for key in ("name", "weights", "run", "task") if card.get(key)}
    y = task.grid.y
    sizes = {"tile": y.tile, "overlap": y.overlap, "blend": y.blend}
    how = {key: value * task.outputs.scale for key, value in sizes.items()}
    how |= {"batch_size": task.grid.batch_size, "precision": "bf16" if task.bf16 else "32"}
    tags = {
        "geowb": __version__,
        "geowb_request": request,
        "geowb_model": json.dumps(kept or {"class": type(task.model).__name__}),
        "geowb_how": json.dumps(how),
        "geowb_scene": task.scene.name,
    }
    if damages:
        tags["geowb_unreadable"] = "; ".join(map(str, damages))
    return tags


def _finish(
    task: Task, job: Job, files: Mapping[str, Path], kind: str, tags: Mapping[str, str]
) -> None:
    """Write what others open, and give it its name; the target itself last."""
    where = {"crs": task.scene.crs, "transform": _transform(task), "tags": tags}
    made = {}
    if kind == "zarr":
        made["all"] = (job.folder / "map.zarr", next(iter(files.values())))
        shutil.rmtree(made["all"][0], ignore_errors=True)
        write_zarr(made["all"][0], job.raws, task.outputs, **where)
    else:
        for output in task.outputs:
            made[output.name] = (job.folder / f"{output.name}.tif", files[output.name])
            write_cog(made[output.name][0], job.raws[output.name], output, **where)
    for new, final in reversed(made.values()):
        if final.is_dir():  # a folder cannot be replaced at one stroke
            final.rename(job.folder / "replaced")
        new.replace(final)
    job.remove()


def _transform(task: Task) -> Any:
    scale, transform = task.outputs.scale, task.scene.transform
    return transform @ type(transform).scale(scale) if scale > 1 else transform


# --- in memory ----------------------------------------------------------------------------------


def map_scenes(
    model: torch.nn.Module, scenes: Mapping[str, xr.Dataset], **how: Any
) -> dict[str, xr.DataArray]:
    """Predict whole scenes into memory, labelled or not, each on its own grid.

    >>> maps = map_scenes(model, scenes, units="Mg/ha")  # doctest: +SKIP
    >>> maps["cerrado"].rio.to_raster("agb.tif")  # doctest: +SKIP

    As `predict_scene`, whose keywords it takes, for what is small enough; a scene without a CRS
    gives a map without one. Of several outputs the first.

    Returns
    -------
    dict of xarray.DataArray
        ``(y, x)`` with the scene's coordinates and CRS; NaN where every band has no data.
        For a set of samples, ``(sample, y, x)``.
    """
    return {name: _mapped(model, name, scene, how) for name, scene in scenes.items()}


def _mapped(
    model: torch.nn.Module, name: str, scene: xr.Dataset, how: Mapping[str, Any]
) -> xr.DataArray:
    import xarray as xr

    if "sample" in scene.dims:
        each = [scene.isel(sample=number) for number in range(scene.sizes["sample"])]
        return xr.concat([_mapped(model, name, one, how) for one in each], "sample")
    crs = None if scene.rio.crs else "none"
    task = prepared(model, scene, **{"crs": crs, "scale": 1.0, **how})
    with tempfile.TemporaryDirectory(prefix="geowb-") as folder:
        job = Job(Path(folder) / "map", task.grid, task.outputs, "")
        job.begin()
        _make(task, job, None, progress=False)
        first = task.outputs.wanted[0]
        where = {"crs": task.scene.crs, "transform": _transform(task)}
        found = array(job.raws[first.name], first, task.outputs, **where)
    if task.outputs.scale == 1 and {"y", "x"} <= set(scene.coords):
        found = found.assign_coords(y=scene["y"], x=scene["x"])
    return found.rename(None)
