"""The folder of a pretraining: whose it is, where to go on, what is left in it at the end."""

from __future__ import annotations

import json
import os
import pickle
import platform
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from geowb.batch.rundir import write_at_once
from geowb.errors import RequestError
from geowb.lines import Line
from geowb.pretrain.recipes import Recipe
from geowb.pretrain.recipes import recipe as standard
from geowb.workfolders import WorkFolder

if TYPE_CHECKING:
    from geowb.models.masked import MaskedModel
    from geowb.pretrain.archive import ChipArchive

__all__ = [
    "COLUMNS",
    "claim",
    "command",
    "finished",
    "forget",
    "is_first",
    "leave",
    "machine_of",
    "newest_checkpoint",
    "taking_turns",
    "write_history",
]

#: What a pretraining makes in its folder, and what a process that was killed may have left there.
_WORK = WorkFolder(
    kind="pretraining",
    record="pretraining.json",
    made=(
        *("chips.zarr", "held_out.zarr", "checkpoints", "reconstructions", "loss.csv", "loss.png"),
        *("model.safetensors", "model.json"),
    ),
    leftovers=(".ready", ".chips.zarr*", ".held_out.zarr*", ".loss.csv.*", ".*.partial"),
)
#: Seconds that a process waits for the first one before it says so.
_PATIENCE = 30
#: What launchers number their processes by.
_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
#: What the command line can change of a recipe and of its sampling, and what it calls it there.
OPTIONS = ("steps", "batch_size", "learning_rate", "mask_ratio", "jitter", "normalise", "seed")
SAMPLED = (
    *("data", "catalog", "selections", "seeds", "count", "size", "frames", "bands", "min_clear"),
)
NAMES = {"count": "chips"}
COLUMNS = ("step", "loss", "held_out", "learning_rate", "seconds")


def claim(folder: Path, recipe: Recipe, *, force: bool = False) -> None:
    """Take a folder for a recipe, or make sure that it is this recipe's already.

    With `force` what the folder holds of a pretraining is thrown away; other files stay.

    Raises
    ------
    RequestError
        If it holds another pretraining, or something else.
    """
    _WORK.claim(folder, recipe.as_dict(), force=force)


def finished(folder: Path, recipe: Recipe) -> pd.DataFrame | None:
    """Return the loss curve of a pretraining that has made all its steps, or None."""
    curve = folder / "loss.csv"
    if not (folder / "model.safetensors").is_file() or not curve.is_file():
        return None
    history = pd.read_csv(curve)
    return history if len(history) and history["step"].iloc[-1] == recipe.steps else None


@contextmanager
def taking_turns(folder: Path, first: bool) -> Iterator[None]:
    """Let the first process make the chips; the others wait until it has said that they are there.

    Lightning starts its processes after that; a cluster's launcher starts them all at once.
    """
    ready = folder / ".ready"
    if first:
        ready.unlink(missing_ok=True)
        yield
        ready.touch()
        return
    began, told = time.monotonic(), False
    while not ready.is_file():
        if not told and time.monotonic() - began > _PATIENCE:
            names = [f"{name}={os.environ[name]}" for name in _RANKS if name in os.environ]
            Line().show(
                f"Not the first process ({', '.join(names)}): waiting until that one has made the "
                f"chips in {folder}. If there is none, unset these variables."
            )
            told = True
        time.sleep(0.5)
    yield


def newest_checkpoint(folder: Path, recipe: Recipe) -> tuple[int, Path | None]:
    """Find the last checkpoint that is whole, and its step; ``(0, None)`` if there is none.

    Raises
    ------
    RequestError
        If it is of another recipe.
    """
    found: list[tuple[int, Path]] = []
    for file in folder.glob("*.ckpt"):  # Lightning's own name under SLURM is hpc_ckpt_N.ckpt
        try:
            held = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            step, made_by = held["global_step"], held["recipe"]
        except (RuntimeError, EOFError, KeyError, OSError, pickle.UnpicklingError, ValueError):
            continue  # cut off while it was written; the one before it is still there
        if made_by != recipe.as_dict():
            raise RequestError(f"{file} is a checkpoint of another recipe: remove it.")
        found.append((step, file))
    return max(found, default=(0, None))


def forget(folder: Path, newest: Path) -> None:
    """Remove the checkpoints that `newest`, a whole one, has made useless."""
    for file in folder.glob("*.ckpt"):
        if file != newest:
            file.unlink(missing_ok=True)


def write_history(file: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write the loss curve at once."""
    text = pd.DataFrame(list(rows), columns=COLUMNS).to_csv(index=False, na_rep="nan")
    write_at_once(file, text.encode())


def leave(
    folder: Path,
    model: MaskedModel,
    recipe: Recipe,
    archive: ChipArchive,
    rows: Sequence[Mapping[str, float]],
    how: Mapping[str, Any],
) -> Path:
    """Write the model file of a pretraining that is done, with a card that says how it was made."""
    from geowb.models.files import save

    every = max(1, len(rows) // 100)
    model.card["pretrained"] = True
    model.card["weights"] = f"pretrained by masking, {recipe.steps} steps of {recipe.batch_size}"
    model.card["training"] = {
        "recipe": json.loads(json.dumps(recipe.as_dict())),
        "command": command(recipe),
        "seconds": round(rows[-1]["seconds"], 1),
        **how,
        "curve": [
            {k: round(row[k], 5) for k in ("step", "loss", "held_out") if row[k] == row[k]}
            for i, row in enumerate(rows)
            if (i + 1) % every == 0 or i == len(rows) - 1
        ],
    }
    sampling = recipe.sampling
    trained_on = {
        "entry": sampling.data,
        "selections": {k: list(v) for k, v in sampling.selections.items()},
        "seeds": list(sampling.seeds) if "world_version" in archive.provenance else [],
        "chips": len(archive),
        "provenance": archive.provenance,
    }
    return save(
        model,
        folder / "model.safetensors",
        task="masked",
        units="1e-4",
        trained_on=trained_on,
        run=folder.name,
        dtype=recipe.stored,
    )


def command(recipe: Recipe) -> str:
    """Return the command line that makes what a recipe makes; empty if options cannot say it.

    >>> command(recipe("swin_demo").changed(steps=50, seed=2))
    'geowb pretrain swin_demo --steps 50 --seed 2'
    """
    base, words = standard(recipe.model), ["geowb", "pretrain", recipe.model]
    chips, usual = recipe.sampling, base.sampling
    steps = None if recipe.steps == base.steps else recipe.steps
    said = {name: getattr(recipe, name) for name in OPTIONS if name != "steps"}
    said = {name: value for name, value in said.items() if value != getattr(base, name)}
    differing = {n: getattr(chips, n) for n in SAMPLED if getattr(chips, n) != getattr(usual, n)}
    held = None
    if recipe.held_out and chips.data != usual.data:
        held = dict(recipe.held_out.selections)
    # A shorter training takes fewer chips and worlds by itself.
    for omitted in (("count", "seeds"), ("seeds",), ("count",), ()):
        sampled = {name: value for name, value in differing.items() if name not in omitted}
        worlds = sampled.pop("seeds", None)
        try:
            again = base.changed(
                steps=steps, worlds=worlds, held_out=held, sampling=sampled, **said
            )
        except RequestError:
            return ""
        if again == recipe:
            break
    else:
        return ""
    words += [] if steps is None else ["--steps", str(steps)]
    for name, value in {**said, **sampled}.items():
        if name == "selections":
            words += _selected("-s", value)
        else:
            shown = ",".join(value) if name == "bands" else str(value)
            words += [f"--{NAMES.get(name, name).replace('_', '-')}", shown]
    words += [] if worlds is None else ["--worlds", ",".join(map(str, worlds))]
    return shlex.join(words + _selected("--held-out", held or {}))


def _selected(option: str, selections: Mapping[str, Sequence[str]]) -> list[str]:
    pairs = [f"{key}={value}" for key, values in selections.items() for value in values]
    return [word for pair in pairs for word in (option, pair)]


def machine_of(device: torch.device) -> str:
    """Say in words what a model is trained on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    count = torch.get_num_threads()
    return f"{platform.machine()} processor, {count} thread{'s' * (count != 1)}"


def is_first() -> bool:
    """Whether this is the first process of a training, before Lightning knows it."""
    return not any(os.environ.get(name, "0") not in ("", "0") for name in _RANKS)
