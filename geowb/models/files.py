"""Model files: ``model.safetensors`` with ``model.json`` beside it."""

from __future__ import annotations

import json
from inspect import signature
from pathlib import Path
from typing import Any

from geowb import __version__
from geowb.errors import ModelError
from geowb.models.registry import MODELS
from geowb.models.weights import fit_state, read_checkpoint
from geowb.models.wrapper import PixelModel, build, trainable

__all__ = ["load", "save"]


def save(
    model: PixelModel,
    file: str | Path,
    *,
    task: str = "regression",
    units: str = "",
    classes: list[str] | None = None,
    trained_on: dict[str, Any] | None = None,
    run: str = "",
) -> Path:
    """Write a model file; `geowb.models.load` needs nothing else.

    >>> save(build("unet"), "unet/model.safetensors", units="Mg/ha")  # doctest: +SKIP

    Parameters
    ----------
    file
        Path of the tensors, ``.../model.safetensors``; the card ``model.json`` is put beside it.
    task, units, classes
        What a pixel of the output means.
    trained_on
        Which data, which regions, how many labels.
    run
        Name of the run that trained it.
    """
    from safetensors.torch import save_file

    file = Path(file)
    if file.name != "model.safetensors":
        raise ModelError(f"A model file is called model.safetensors, not {file.name}.")
    file.parent.mkdir(parents=True, exist_ok=True)
    card = {
        "geowb": __version__,
        **model.card,
        "parameters": sum(p.numel() for p in model.parameters()),
        "trainable": trainable(model),
        "task": task,
        "units": units,
        "classes": classes,
        "trained_on": trained_on or {},
        "run": run,
    }
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    text = json.dumps(card, indent=1) + "\n"  # first: what cannot be written must not be begun
    partial, partial_card = file.with_name(".model.partial"), file.with_name(".card.partial")
    save_file(state, partial)
    partial_card.write_text(text, "utf-8")
    partial_card.replace(file.with_name("model.json"))
    return partial.replace(file)


def load(file: str | Path) -> PixelModel:
    """Load a model file, in eval mode.

    >>> model = load("runs/agb/models/unet/model.safetensors")  # doctest: +SKIP

    Raises
    ------
    ModelError
        If the file or its card is missing or unknown.
    WeightsMismatch
        If tensors and card do not belong together.
    """
    file = Path(file)
    file = file / "model.safetensors" if file.is_dir() else file
    card_file = file.with_name("model.json")
    for part in (file, card_file):
        if not part.is_file():
            raise ModelError(f"There is no {part}: a model file is model.safetensors + model.json.")
    try:
        card = json.loads(card_file.read_text())
        # All that `build` takes but the weights, which are in the file.
        arguments = {key: card[key] for key in signature(build).parameters if key != "weights"}
    except (ValueError, KeyError) as error:
        raise ModelError(f"{card_file} is not a model's card: {error!r}.") from error
    if card["name"] not in MODELS:
        raise ModelError(f"{card_file} names the model '{card['name']}', unknown to this geowb.")
    model = build(**arguments)
    fit_state(model, read_checkpoint(file), file)
    model.card.update(card)
    return model.eval()
