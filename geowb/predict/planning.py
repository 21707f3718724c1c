"""Plan a prediction: open and check everything before anything starts."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from geowb.errors import RequestError
from geowb.predict.grid import Axis, Grid
from geowb.predict.opening import open_scene
from geowb.predict.outputs import Cube, Outputs, outputs_for
from geowb.predict.source import Scene
from geowb.predict.units import Task, Way, ready

__all__ = ["check_numbers", "prepared", "request_of"]

#: Values are compared with the model's mean in decades: a scene 30 times off is in another unit.
_FAR = 1.5
#: Pixels of a batch: what a processor's caches and memory like, and what keeps a GPU busy.
_BATCH = {"cpu": 2**17, "cuda": 2**21}
_TILE = 256


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
    compile: bool = False,
    accelerator: str = "auto",
    cube: Cube | None = None,
    **opening: Any,
) -> Task:
    """Open, check and plan everything of a prediction, as `predict_scene` does before it starts."""
    _check_choice("missing", missing, ("all", "any"))
    _check_choice("unreadable", unreadable, ("fail", "nodata"))
    _check_choice("precision", precision, ("auto", "32", "bf16"))
    if scale is not None and not (math.isfinite(scale) and scale > 0):
        raise RequestError(f"scale is {scale:g}: values are multiplied by a number above 0.")
    card = getattr(model, "card", {})
    opening = {"frames": card.get("frames", 1), "wanted": card.get("bands", ()), **opening}
    scene = open_scene(source, scale=scale, **opening)
    scene.tolerant, scene.missing = unreadable == "nodata", missing
    if scale is None and card:
        check_numbers(scene, card)
    tile = _trained_on(card) if tile is None else tile
    if tile < 1:
        raise RequestError(f"tile is {tile}: a tile has 1 pixel or more.")
    gpu = accelerator != "cpu" and torch.cuda.is_available()
    bf16 = precision == "bf16" or (precision == "auto" and gpu and torch.cuda.is_bf16_supported())
    if batch_size is None:
        most = max(1, _BATCH["cuda" if gpu else "cpu"] // tile**2)
        batch_size = 2 ** (most.bit_length() - 1)
    if batch_size < 1:
        raise RequestError(f"batch_size is {batch_size}: a batch has 1 tile or more.")
    way = Way(bf16, channels_last, compile, accelerator)
    with ready(model, way) as (_, device):
        example = torch.zeros(1, *scene.channels, tile, tile, device=device)
        outputs = outputs_for(
            model, output, example, level=level, units=units, classes=classes, cube=cube
        )
    grid = _grid(scene, outputs, tile, overlap, blend, batch_size)
    return Task(model, scene, grid, outputs, way)


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
    if not 0 <= overlap < tile:
        raise RequestError(
            f"overlap is {overlap}: two tiles share 0 pixels or more, and fewer than a tile has, "
            f"{tile}."
        )
    if blend is None:  # tokens of two tiles are not one another's mean
        fading = min(overlap // 2, tile - overlap) // scale * scale
        blend = 0 if outputs.wanted[0].name == "embedding" else fading
    if not 0 <= blend <= min(overlap, tile - overlap):
        raise RequestError(
            f"blend is {blend}: it is 0 or more, at most the overlap, {overlap}, and with it no "
            f"more than a tile has, {tile}."
        )
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


def request_of(task: Task, kind: str) -> str:
    """Digest of all that the pixels depend on: model, scene, tiles, precision."""
    from geowb import __version__

    digest = hashlib.sha256()
    for name, values in task.model.state_dict().items():
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    grid, scene = task.grid, task.scene
    sides = [(axis.length, axis.tile, axis.overlap, axis.blend) for axis in (grid.y, grid.x)]
    said = {
        "model": [str(task.model), getattr(task.model, "card", {}), _plain(task.model)],
        "outputs": [
            [o.name, o.dtype, o.bands, o.attrs, o.names, *([o.cube] if o.cube else [])]
            for o in task.outputs
        ],
        "level": task.outputs.level,
        "grid": [sides, grid.batch_size],
        "scene": [scene.shape, str(scene.crs), tuple(scene.transform), scene.missing,
                  scene.tolerant],
        "planes": [[[p.bands, p.nodata, p.gain, p.offset] for p in date] for date in scene.dates],
        "precision": [task.way.bf16, task.way.channels_last, task.way.compiled],
        "kind": kind,
        "geowb": __version__,
    }  # fmt: skip
    digest.update(json.dumps(said, sort_keys=True, default=str).encode())
    digest.update(scene.digest().encode())
    return digest.hexdigest()


def _plain(model: torch.nn.Module) -> dict[str, Any]:
    """Numbers and texts that the modules of a model hold beside their parameters."""
    found = {}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            each = value if isinstance(value, (tuple, list)) else [value]
            if key != "training" and all(isinstance(one, (bool, int, float, str)) for one in each):
                found[f"{name}.{key}"] = value
    return found


def check_numbers(scene: Scene, card: Mapping[str, Any]) -> None:
    """Refuse numbers that are in another unit than the model's, and say the factor.

    >>> check_numbers(scene, model.card)  # doctest: +SKIP

    The middle of what windows all over the scene hold is compared with the means that the model
    was given.

    Raises
    ------
    RequestError
        With the factor that would bring them to the model's.
    """
    sample = scene.sample()
    expected = float(np.median(np.abs(card.get("mean") or [np.nan])))
    finite = np.abs(sample[np.isfinite(sample)])
    found = float(np.median(finite)) if finite.size else 0.0
    if not (np.isfinite(expected) and expected > 0 and found > 0):
        return
    top = float(np.percentile(finite, 99))
    decades = np.log10(expected / found)
    if expected > 100 and top <= 2:
        factor = 10_000.0
    elif abs(decades) > _FAR:
        factor = 10.0 ** round(decades)
    else:
        return
    raise RequestError(
        f"The numbers of '{scene.name}' are not what the model was trained on: half of them are "
        f"below {found:.3g}, where it expects about {expected:.4g}. If they are reflectance in "
        f"another unit, scale={factor:g} (--scale {factor:g}) brings them there; scale=1 takes "
        "them as they are."
    )
