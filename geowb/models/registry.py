"""The models that geowb can build by name, and what is known of them without building them.

Nothing here needs torch, so that a run can be checked before it starts.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from geowb.bands import HLS6
from geowb.errors import ModelError, did_you_mean

__all__ = [
    "MODELS",
    "ModelSpec",
    "check_accelerator",
    "check_weights",
    "spec",
    "tensor_shapes",
]

_HUB = re.compile(r"hf://[\w.-]+/[\w.-]+/.+")


@dataclass(frozen=True)
class ModelSpec:
    """What a model is, before it is built.

    ``family`` says which code builds it (``swin``, ``unet`` or ``smp``), ``encoder`` holds the
    arguments of the encoder, ``statistics`` names the default band statistics.
    """

    title: str
    family: str
    encoder: Mapping[str, object] = field(default_factory=dict)
    statistics: str = "granite_agb"
    source: str = ""


_SWIN_B = {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)}
_SWIN_DEMO = {"embed_dim": 32, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8)}

#: Models by name.
MODELS: Mapping[str, ModelSpec] = MappingProxyType(
    {
        "prithvi_swin_B": ModelSpec(
            title="Swin-B encoder (Prithvi), UPerNet decoder",
            family="swin",
            encoder=_SWIN_B,
            source="TerraTorch prithvi_swin_B; ibm-granite/granite-geospatial-biomass config",
        ),
        "swin_demo": ModelSpec(
            title="Swin encoder of 32-256 channels, UPerNet decoder",
            family="swin",
            encoder=_SWIN_DEMO,
            source="the build of prithvi_swin_B, a quarter of its width",
        ),
        "unet": ModelSpec(
            title="U-Net of widths 32-512",
            family="unet",
            encoder={"widths": (32, 64, 128, 256, 512)},
            source="Muszynski et al. 2024 (architecture inferred from its 7.8 M parameters)",
        ),
        "unet_resnet18": ModelSpec(
            title="U-Net with a ResNet-18 encoder",
            family="smp",
            encoder={"encoder_name": "resnet18"},
            source="segmentation-models-pytorch Unet",
        ),
    }
)


def spec(name: str) -> ModelSpec:
    """Return the specification of a model.

    >>> spec("unet").family
    'unet'

    Raises
    ------
    ModelError
        If there is no such model.
    """
    if name not in MODELS:
        raise ModelError(f"There is no model '{name}'. {did_you_mean(name, MODELS)}")
    return MODELS[name]


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a checkpoint, without reading their values.

    Safetensors files are read by their header alone; other files by
    ``torch.load(weights_only=True)`` with their storage left on disk.

    Raises
    ------
    ModelError
        If the file is not a checkpoint, or holds more than tensors and plain values.
    """
    if path.suffix == ".safetensors":
        return _safetensors_header(path)
    from geowb.models.weights import read_checkpoint

    return {key: tuple(value.shape) for key, value in read_checkpoint(path).items()}


def _safetensors_header(path: Path) -> dict[str, tuple[int, ...]]:
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length + 8 > size:
            raise ModelError(f"{path} is not a safetensors file: its header is cut off.")
        try:
            header = json.loads(stream.read(length))
        except ValueError as error:
            raise ModelError(f"{path} is not a safetensors file: its header is no JSON.") from error
    header.pop("__metadata__", None)
    return {key: tuple(entry["shape"]) for key, entry in header.items()}


def check_weights(value: str, *, model: str) -> list[str]:
    """Say what is wrong with weights for a model, as far as a header tells.

    Parameters
    ----------
    value
        A file, ``hf://OWNER/REPOSITORY/FILE`` on the Hugging Face hub, or empty for random weights.
    model
        Name of the model that is to take them.

    Returns
    -------
    list of str
        One sentence a problem; empty if none was found.
    """
    if not value:
        return []
    if model not in MODELS:
        return [f"There is no model '{model}'. {did_you_mean(model, MODELS)}"]
    if str(value).startswith("hf://"):
        good = _HUB.fullmatch(str(value))
        return [] if good else [f"'{value}' is no hub address: write hf://OWNER/REPOSITORY/FILE."]
    path = Path(value).expanduser()
    if not path.is_file():
        return [f"There is no weights file {path}: give a checkpoint, or leave it empty."]
    try:
        return _compare(path, tensor_shapes(path), model)
    except ModelError as error:
        return [str(error)]


def check_accelerator(value: str) -> list[str]:
    """Say so if a GPU is asked for and there is none.

    >>> check_accelerator("cpu")
    []
    """
    if value != "gpu":
        return []
    import torch

    if torch.cuda.is_available() or torch.backends.mps.is_available():
        return []
    return ["accelerator is 'gpu', but torch finds no GPU here: use 'auto' or 'cpu'."]


def _compare(path: Path, shapes: Mapping[str, tuple[int, ...]], model: str) -> list[str]:
    card = path.with_name("model.json")
    if path.name == "model.safetensors" and card.is_file():
        held = json.loads(card.read_text()).get("name")
        if held != model:
            return [f"{path} holds a '{held}', not a '{model}'."]
    found = MODELS[model]
    if found.family != "swin":
        if any(key.startswith(("network.", "model.network.")) for key in shapes):
            return []
        return [f"{path} is not a model file of '{model}': no tensor's name starts with 'network.'"]
    stem = next((k for k in shapes if re.search(r"patch_embed\.(proj|projection)\.weight$", k)), "")
    if not stem:
        return [f"{path} is not a checkpoint of '{model}': it has no patch_embed tensor."]
    width, want = shapes[stem][0], found.encoder["embed_dim"]
    if shapes[stem][1] != len(HLS6) and not stem.startswith("network."):
        return [
            f"{path} takes {shapes[stem][1]} bands ({stem} is {shapes[stem]}); "
            f"'{model}' takes weights for the six of HLS."
        ]
    if width != want:
        return [f"{path} is not a checkpoint of '{model}': {stem} is {width} wide, not {want}."]
    return []
