"""What can be said of a model's values before a run: weights, chip size, accelerator.

Each check returns sentences, one a problem, and none if it found none. torch is imported only
where a GPU is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from geowb.bands import HLS6
from geowb.errors import ModelError, did_you_mean
from geowb.models import registry

__all__ = ["check_accelerator", "check_chip_size", "check_weights", "misfits"]


def check_weights(value: str, *, model: str) -> list[str]:
    """Say what is wrong with weights for a model, as far as a header tells; nothing is downloaded.

    >>> check_weights("hf://ibm-nasa-geospatial/Prithvi-EO-2.0-300M", model="prithvi_eo_v2_300")
    []

    Parameters
    ----------
    value
        As for `geowb.models.registry.locate`, or empty for random weights.
    model
        Name of the model that is to take them.

    Returns
    -------
    list of str
        One sentence a problem; empty if none was found.
    """
    if not value:
        return []
    if model not in registry.MODELS:
        return [f"There is no model '{model}'. {did_you_mean(model, registry.MODELS)}"]
    try:
        place = registry.locate(str(value), model)
        file = place if isinstance(place, Path) else _cached(*place)
        if file:
            shapes, card = registry.tensor_shapes(file), registry.read_card(file)
        else:
            published = [m for m in registry.MODELS.values() if m.hub == "/".join(place)]
            if not published:
                return []
            shapes, card = _outline(published[0]), {}
        return misfits(file or value, shapes, model, card) or _lacks(file or value, shapes, model)
    except ModelError as error:
        return [str(error)]


def _cached(repository: str, file: str) -> Path | None:
    """Find the hub's file here, if it was downloaded before."""
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError
    except ImportError:  # the part of geowb that has no torch
        return None
    try:
        held = try_to_load_from_cache(repository, file)
    except HFValidationError as error:
        raise ModelError(f"'hf://{repository}' is no hub address: {error}") from error
    return Path(held) if isinstance(held, str) else None


def _outline(found: registry.ModelSpec) -> dict[str, tuple[int, ...]]:
    """List what `misfits` and `_lacks` look at in the published checkpoint of a Prithvi."""
    sizes = found.encoder
    stem = (sizes["embed_dim"], len(HLS6), *sizes["patch_size"])
    shapes = {f"blocks.{i}.norm1.bias": stem[:1] for i in range(sizes["depth"])}
    scales = [name for name in registry.SCALES if sizes.get("coords_encoding")]
    return {"patch_embed.proj.weight": stem} | shapes | dict.fromkeys(scales, (1,))


def misfits(
    path: Path | str, shapes: Mapping[str, tuple[int, ...]], model: str, card: Mapping[str, Any]
) -> list[str]:
    """Say in one sentence why a checkpoint is another model's, by its card and first layer.

    >>> misfits("a.pt", {"patch_embed.proj.weight": (96, 6, 4, 4)}, "swin_demo", {})
    ["a.pt is not a checkpoint of 'swin_demo': patch_embed.proj.weight is 96 wide, not 32."]
    """
    if card.get("name", model) != model:
        return [f"{path} holds a '{card['name']}', not a '{model}'."]
    found = registry.spec(model)
    whole = any(key.startswith(("network.", "model.network.")) for key in shapes)
    if found.family not in registry.FOREIGN:
        if whole:
            return []
        return [f"{path} is not a model file of '{model}': no tensor's name starts with 'network.'"]
    names = registry.encoder_tensors(shapes, found)
    stem = next((k for k in names if re.fullmatch(r"patch_embed\.proj(ection)?\.weight", k)), "")
    if not stem:
        return [f"{path} is not a checkpoint of '{model}': it has no patch_embed tensor."]
    shape, width = names[stem], found.encoder["embed_dim"]
    patch = tuple(found.encoder.get("patch_size", (4, 4)))
    wrong = f"{path} is not a checkpoint of '{model}': {stem} is"
    if shape[2:] not in (patch, patch[-2:] if found.flat else patch):
        return [f"{wrong} {shape}, of patches {shape[2:]}, not {patch}."]
    if shape[1] != len(found.bands) and not (whole or card):
        told = "red, green and blue" if found.flat else "the six of HLS"
        return [
            f"{path} takes {shape[1]} bands ({stem} is {shape}); "
            f"'{model}' takes weights for {told}."
        ]
    return [f"{wrong} {shape[0]} wide, not {width}."] if shape[0] != width else []


def _lacks(path: Path | str, shapes: Mapping[str, tuple[int, ...]], model: str) -> list[str]:
    """Say if an encoder has another number of blocks, or none of the scales of coordinates."""
    found = registry.spec(model)
    if found.family not in registry.FOREIGN:
        return []
    names = registry.encoder_tensors(shapes, found)
    held = len({m[0] for m in (re.match(r".*\bblocks\.\d+\.", key) for key in names) if m})
    want = found.encoder["depth"] if "depth" in found.encoder else sum(found.encoder["depths"])
    if held and held != want:
        return [f"{path} is not a checkpoint of '{model}': it has {held} blocks, not {want}."]
    scales = registry.SCALES if found.encoder.get("coords_encoding") else ()
    if held and (missing := [name for name in scales if name not in names]):
        return [
            f"{path} is not a checkpoint of '{model}': it has no {missing[0]}, for coordinates."
        ]
    return []


def check_chip_size(
    value: int, *, model: str, arms: Sequence[str] = (), task: str = "gap_filling"
) -> list[str]:
    """Say so if chips of this edge are not made of whole patches of a Prithvi.

    >>> check_chip_size(60, model="prithvi_demo")
    ["A chip of 60 pixels is not made of whole patches: those of 'prithvi_demo' have 8."]
    >>> check_chip_size(40, model="prithvi_demo", arms=["cgan"])
    ["A chip of 40 pixels is not for the arm 'cgan': it takes multiples of 16 from 32 on."]

    A conditional GAN, where one is among the `arms` that fill gaps, halves them four times.
    """
    sizes = registry.MODELS[model].encoder if model in registry.MODELS else {}
    patch, told = sizes.get("patch_size", (1, 1))[1], f"A chip of {value} pixels is not"
    if value % patch:
        return [f"{told} made of whole patches: those of '{model}' have {patch}."]
    if "cgan" in arms and task == "gap_filling" and (value % 16 or value < 32):
        return [f"{told} for the arm 'cgan': it takes multiples of 16 from 32 on."]
    return []


def check_accelerator(value: str) -> list[str]:
    """Say so if there is no such kind of device, or a GPU is asked for and there is none.

    >>> check_accelerator("cpu")
    []
    """
    known = ("auto", "cpu", "gpu", "cuda", "mps")
    if value not in known:
        return [f"accelerator is '{value}'. Known: {', '.join(known)}."]
    if value in ("auto", "cpu"):
        return []
    import torch

    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if here.get(value, any(here.values())):
        return []
    kind = "GPU" if value == "gpu" else "such GPU"
    return [f"accelerator is '{value}', but torch finds no {kind} here: use 'auto' or 'cpu'."]
