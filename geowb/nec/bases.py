"""The encoder that is adapted: found by name, folder or file, and described.

>>> open_base("mae_demo")[1]["bands"]
['RED', 'GREEN', 'BLUE']
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from geowb.errors import RequestError
from geowb.paths import sha256

if TYPE_CHECKING:
    from geowb.models.masked import MaskedModel

__all__ = ["encoder_file", "open_base"]


def open_base(base: str | Path, weights: str = "") -> tuple[MaskedModel, dict[str, Any]]:
    """Load a masked model that is to be adapted, and say which it is.

    >>> open_base("prithvi_demo")[1]["weights"]
    'pretrained'

    Parameters
    ----------
    base
        Name of a model that comes with geowb, folder or file of a masked model; with `weights`
        the name of any MAE or Prithvi model.
    weights
        Of that model: a file, or ``hf://OWNER/REPOSITORY/FILE``.

    Raises
    ------
    RequestError
        If there is none, or it is no masked model with tokens.
    """
    from geowb.models.files import load
    from geowb.models.mae import MaskedPrithvi
    from geowb.models.masked import build_masked
    from geowb.models.registry import SHIPPED, spec
    from geowb.models.weights import fetch

    text = str(base)
    if weights:
        found = spec(text)
        how = {"bands": found.bands, "frames": found.encoder.get("num_frames", 1)}
        model, file = build_masked(text, weights=weights, **how), fetch(weights, text)
        named = weights == "pretrained" or weights.startswith("hf://")
        kept = weights if named else str(file.absolute())
    else:
        file = encoder_file(text)
        if not file.is_file():
            raise RequestError(_not_there(text))
        shipped = file.parent.parent == SHIPPED
        model, kept = load(file), "pretrained" if shipped else str(file.absolute())
    if not isinstance(model, MaskedPrithvi):
        raise RequestError(
            f"{text} is no masked model with tokens ('{model.card['name']}'): a codec is made of a "
            "Prithvi or an MAE that was pretrained by masking (geowb pretrain)."
        )
    keys = ("name", "bands", "frames", "size", "unit", "mask_ratio", "mean", "std", "seed")
    said = {key: model.card[key] for key in keys}
    return model.eval(), {**said, "weights": kept, "sha256": sha256(file)}


def encoder_file(name: str) -> Path:
    """Model file of an encoder that comes with geowb, or of a folder; it need not be there."""
    from geowb.models.registry import SHIPPED

    shipped = SHIPPED / name / "model.safetensors"
    file = shipped if name and shipped.is_file() else Path(name)
    return file / "model.safetensors" if file.is_dir() else file


def _not_there(name: str) -> str:
    """Say what can be adapted, in place of what is not there."""
    from geowb.models.registry import MODELS, SHIPPED

    if name in MODELS and MODELS[name].family == "prithvi":
        return f"No weights of {name} come with geowb: give its file (weights=..., --weights)."
    known = sorted(one.name for one in SHIPPED.iterdir() if (one / "model.safetensors").is_file())
    known = [one for one in known if MODELS[one].family == "prithvi"]
    return (
        f"There is no masked model {name}: name one that comes with geowb ({', '.join(known)}), "
        "or the folder that `geowb pretrain` left."
    )
