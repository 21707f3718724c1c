"""Predict whole scenes: a model and a scene of any size give a georeferenced map."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from geowb.errors import DataError, GeowbError, RequestError
from geowb.locks import held
from geowb.predict.job import Job
from geowb.predict.making import finish, make, tags_of, transform_of
from geowb.predict.outputs import Cube, Outputs
from geowb.predict.planning import prepared, request_of
from geowb.predict.source import Damage
from geowb.predict.writing import array, tags_in

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Prediction", "map_scenes", "predict_scene", "predict_scenes"]


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
            many = f"{self.not_finite:,} pixels of its output"
            lines.append(f"The model gave no number for {many}: no data there.")
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
    cube: Cube | None = None,
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
        Tiles in a batch; by default 2 tiles of 256 pixels on a processor, 32 on a GPU.
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
        Make the map also where there is one. Without it a map of the same request is left, and one
        of another refused.
    cube
        How an embedding lies in a Zarr and is coded (`geowb.nec.embed_scene` says it).

    Raises
    ------
    RequestError
        Found before anything is written: a target that exists or whose kind is unknown, wrong
        bands, numbers in another unit, no CRS, a tile that cannot be, too little room on the disk.
    DataError, ModelError
        A file or a block that cannot be read, a full disk; a model that does not take the tiles.
    """
    began = time.perf_counter()
    kind = _kind(target := Path(target).expanduser())
    model = _loaded(model)
    how = {"level": level, "units": units, "classes": classes, "output": output}
    task = prepared(
        model, source, tile=tile, overlap=overlap, blend=blend, batch_size=batch_size,
        missing=missing, unreadable=unreadable, scale=scale, precision=precision,
        channels_last=channels_last, compile=compile, accelerator=accelerator, cube=cube, **how,
        **opening,
    )  # fmt: skip
    request = request_of(task, kind)
    files = _files(target, task.outputs, kind)
    _check_files(files.values(), source, kind)
    pixels = task.scene.shape[0] * task.scene.shape[1]
    if not overwrite and (tags := _made(files, request)):
        damages = [Damage(**one) for one in json.loads(tags.get("geowb_unreadable", "[]"))]
        wrong = int(tags.get("geowb_not_finite", 0))
        return Prediction(files, pixels, 0.0, damages=damages, not_finite=wrong)
    if not target.parent.is_dir():
        raise RequestError(f"There is no folder {target.parent} for {target.name}: make it first.")
    with held(target.with_name(f".{target.name}.partial.lock")) as mine:
        if not mine:
            raise RequestError(f"{target} is being made by another process: wait, or end that one.")
        job = Job(Job.place(target, request), task.grid, task.outputs, request)
        resumed = job.begin()
        damages, wrong = make(task, job, scheduler, progress)
        finish(task, job, files, kind, tags_of(task, request, damages, wrong))
    seconds = time.perf_counter() - began
    return Prediction(files, pixels, seconds, resumed, task.grid.units, damages, wrong)


def predict_scenes(
    model: torch.nn.Module | str | Path,
    sources: Sequence[Any] | Mapping[str, Any],
    folder: str | Path,
    *,
    suffix: str = ".tif",
    made: Callable[[Prediction], None] | None = None,
    **how: Any,
) -> list[Prediction]:
    """Run a model over many scenes; each map has its scene's name in `folder`.

    >>> predict_scenes("models/unet", ["a/x.tif", "a/y.tif"], "maps")  # doctest: +SKIP

    Keywords are those of `predict_scene`. A scene that fails does not stop the others; what is
    there already is not made again.

    Parameters
    ----------
    sources
        Scenes by name, or paths, whose names without their ending are taken.
    made
        Called with each map when it is there.

    Raises
    ------
    RequestError
        If two scenes would have the same map, or if all are asked for wrongly.
    DataError
        After all others are done, with what is wrong with those that failed.
    """
    if not isinstance(sources, Mapping):
        names = [Path(str(one)).stem for one in sources]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise RequestError(f"Two scenes are called {twice}: give names, {{name: scene}}.")
        sources = dict(zip(names, sources, strict=True))
    model, folder = _loaded(model), Path(folder).expanduser()
    _kind(folder / f"map{suffix}")
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"{folder} is a file: maps of several scenes go into a folder.")
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    maps: list[Prediction] = []
    failed: dict[str, GeowbError] = {}
    for name, source in sources.items():
        try:
            maps.append(predict_scene(model, source, folder / f"{name}{suffix}", **how))
        except GeowbError as error:
            failed[name] = error
        else:
            if made is not None:
                made(maps[-1])
    if new and not any(folder.iterdir()):
        folder.rmdir()
    if failed:
        told = " ".join(f"{name}: {error}" for name, error in failed.items())
        if maps:
            count = f"{len(failed)} of {len(sources)} scenes failed, the others are done."
            raise DataError(f"{count} {told}")
        wrong = all(isinstance(error, RequestError) for error in failed.values())
        raise (RequestError if wrong else DataError)(f"There is no map of any scene. {told}")
    return maps


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


def _files(target: Path, outputs: Outputs, kind: str) -> dict[str, Path]:
    names = [output.name for output in outputs]
    if kind == "zarr":
        return dict.fromkeys(names, target)
    others = {name: target.with_name(f"{target.stem}_{name}{target.suffix}") for name in names[1:]}
    return {names[0]: target, **others}


def _check_files(files: Iterable[Path], source: Any, kind: str) -> None:
    """Refuse targets that cannot be written over: the scene itself, a file for a folder."""
    for file in filter(Path.exists, files):
        if file.is_dir() != (kind == "zarr"):
            has, meant = ("folder", "file") if file.is_dir() else ("file", "folder")
            raise RequestError(f"{file} is a {has}, and the map would be a {meant}: remove it.")
        for one in source if isinstance(source, (list, tuple)) else [source]:
            if isinstance(one, (str, Path)) and Path(one).exists() and file.samefile(one):
                raise RequestError(f"{file} is what the map is made of: choose another name.")


def _made(files: Mapping[str, Path], request: str) -> dict[str, str] | None:
    """Tags of what this request has made; none that something else made may be there."""
    there = {file: tags_in(file) for file in files.values() if file.exists()}
    for file, tags in there.items():
        if tags.get("geowb_request") != request:
            raise RequestError(
                f"{file} exists, and is not the map of this request: choose another name, or "
                "replace it with overwrite=True (--overwrite)."
            )
    return next(iter(there.values())) if there.keys() == {*files.values()} else None


def map_scenes(
    model: torch.nn.Module,
    scenes: Mapping[str, xr.Dataset],
    *,
    progress: bool = False,
    **how: Any,
) -> dict[str, xr.DataArray]:
    """Predict whole scenes into memory, labelled or not, each on its own grid.

    >>> maps = map_scenes(model, scenes, units="Mg/ha")  # doctest: +SKIP
    >>> maps["cerrado"].rio.to_raster("agb.tif")  # doctest: +SKIP

    As `predict_scene`, for what is small enough; a scene without a CRS gives a map without one. Of
    several outputs the first. It takes the same keywords but `scheduler` and `overwrite`.

    Returns
    -------
    dict of xarray.DataArray
        ``(y, x)`` with the scene's coordinates and CRS; NaN where every band has no data.
        For a set of samples, ``(sample, y, x)``.
    """
    return {name: _mapped(model, scene, progress, how) for name, scene in scenes.items()}


def _mapped(
    model: torch.nn.Module, scene: xr.Dataset, progress: bool, how: Mapping[str, Any]
) -> xr.DataArray:
    import rioxarray  # noqa: F401 - gives .rio
    import xarray as xr

    if "sample" in scene.dims:
        each = [scene.isel(sample=number) for number in range(scene.sizes["sample"])]
        return xr.concat([_mapped(model, one, progress, how) for one in each], "sample")
    crs = None if scene.rio.crs else "none"
    task = prepared(model, scene, **{"crs": crs, "scale": 1.0, **how})
    with tempfile.TemporaryDirectory(prefix="geowb-") as folder:
        job = Job(Path(folder) / "map", task.grid, task.outputs, "")
        job.begin()
        make(task, job, None, progress)
        first = task.outputs.wanted[0]
        where = {"crs": task.scene.crs, "transform": transform_of(task)}
        found = array(job.raws[first.name], first, **where)
    if task.outputs.scale == 1 and {"y", "x"} <= set(scene.coords):
        found = found.assign_coords(y=scene["y"], x=scene["x"])
    return found.rename(None)
