"""Model files: ``model.safetensors`` with ``model.json`` beside it."""

from __future__ import annotations

import json
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from geowb import __version__
from geowb.errors import ModelError
from geowb.models.registry import MODELS, read_card
from geowb.models.weights import fit_state, read_checkpoint
from geowb.models.wrapper import build, trainable

__all__ = ["load", "save"]


#: What cards of older files lack, as their models were built.
_ADDED = {"decoder": None}
_DTYPES = {"float32": torch.float32, "float16": torch.float16}


def save(
    model: torch.nn.Module,
    file: str | Path,
    *,
    task: str = "",
    units: str = "",
    classes: list[str] | None = None,
    trained_on: dict[str, Any] | None = None,
    run: str = "",
    dtype: str = "float32",
) -> Path:
    """Write a model file; `geowb.models.load` needs nothing else.

    >>> save(build("unet"), "unet/model.safetensors", units="Mg/ha")  # doctest: +SKIP

    Parameters
    ----------
    model
        A `PixelModel`, or any module with a ``card`` that says how to build it again.
    file
        Path of the tensors, ``.../model.safetensors``; the card ``model.json`` is put beside it.
    task, units, classes
        What a pixel of the output means. What is not given stays as in the model's card; the task
        of a new model is regression.
    trained_on
        Which data, which regions, how many labels.
    run
        Name of the run that trained it.
    dtype
        ``"float16"`` halves the file: parameters are rounded to 11 bits, statistics are not.
        `load` makes float32 of them.

    Raises
    ------
    ModelError
        For another file name or dtype, and for parameters that float16 cannot hold.
    """
    from safetensors.torch import save_file

    file = Path(file)
    if file.name != "model.safetensors":
        raise ModelError(f"A model file is called model.safetensors, not {file.name}.")
    state = _state(model, dtype)
    file.parent.mkdir(parents=True, exist_ok=True)
    said = {"task": task, "units": units, "classes": classes, "trained_on": trained_on, "run": run}
    card = {
        "task": "regression",
        "units": "",
        "classes": None,
        "trained_on": {},
        "run": "",
        **model.card,
        "geowb": __version__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "trainable": trainable(model),
        "dtype": dtype,
        **{key: value for key, value in said.items() if value},
    }
    text = json.dumps(card, indent=1) + "\n"  # first: what cannot be written must not be begun
    partial, partial_card = file.with_name(".model.partial"), file.with_name(".card.partial")
    save_file(state, partial)
    partial_card.write_text(text, "utf-8")
    partial.chmod(partial_card.stat().st_mode)  # safetensors writes for its owner alone
    partial_card.replace(file.with_name("model.json"))
    return partial.replace(file)


def _state(model: torch.nn.Module, dtype: str) -> dict[str, torch.Tensor]:
    """Copy a model's tensors to the CPU, its floating parameters as `dtype`."""
    if dtype not in _DTYPES:
        raise ModelError(f"dtype is {' or '.join(_DTYPES)}, not '{dtype}'.")
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    for key in dict(model.named_parameters()).keys() & state.keys():
        state[key] = state[key].to(_DTYPES[dtype])
        if dtype != "float32" and not state[key].isfinite().all():
            raise ModelError(f"{key} has values that {dtype} cannot hold: use float32.")
    return state


def load(file: str | Path) -> torch.nn.Module:
    """Load a model file, in eval mode.

    >>> model = load("runs/agb/models/unet/model.safetensors")  # doctest: +SKIP

    The file of a masked model gives a `geowb.models.masked.MaskedModel`, that of a conditional GAN
    a `geowb.models.cgan.CGAN`, of a classifier a `geowb.models.classifier.Classifier`, every other
    a `PixelModel`.

    Raises
    ------
    ModelError
        If the file or its card is missing or unknown.
    WeightsMismatch
        If tensors and card do not belong together.
    """
    file = Path(file)
    file = file / "model.safetensors" if file.is_dir() else file
    if file.name != "model.safetensors":
        raise ModelError(f"A model file is called model.safetensors, not {file}.")
    card_file = file.with_name("model.json")
    for part in (file, card_file):
        if not part.is_file():
            raise ModelError(f"There is no {part}: a model file is model.safetensors + model.json.")
    card = read_card(file)
    own = card.get("kind") in ("cgan", "classifier")
    if not own and card.get("name", "unet") not in MODELS:
        raise ModelError(f"{card_file} names the model '{card['name']}', unknown to this geowb.")
    try:
        if card.get("kind") == "masked":
            from geowb.models.masked import from_card

            model = from_card(card)
        elif card.get("kind") == "cgan":
            from geowb.models import cgan

            model = cgan.from_card(card)
        elif card.get("kind") == "classifier":
            from geowb.models import classifier

            model = classifier.from_card(card)
        else:  # all that `build` takes but the weights, which are in the file
            held = _ADDED | card
            model = build(
                **{key: held[key] for key in signature(build).parameters if key != "weights"}
            )
    except KeyError as error:
        raise ModelError(f"{card_file} is not a model's card: it has no {error}.") from error
    fit_state(model, read_checkpoint(file), file)
    model.card.update(card)
    return model.eval()
