"""The models that geowb can build by name, and what is known of them without building them.

Nothing here needs torch, so that `checks` can look at a run's values before it starts.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from geowb.bands import HLS6
from geowb.errors import ModelError, did_you_mean

__all__ = [
    "FOREIGN",
    "MODELS",
    "SCALES",
    "SHIPPED",
    "ModelSpec",
    "encoder_tensors",
    "locate",
    "read_card",
    "shipped",
    "spec",
    "tensor_shapes",
]

T = TypeVar("T")

_HUB = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:/(.+))?")

#: Where the weights are that come with geowb: NAME/model.safetensors.
SHIPPED = Path(__file__).parent / "shipped"

#: Wrappers' prefixes that say nothing about the tensor.
_PREFIXES = re.compile(r"(?:(?:module|model|network|encoder|backbone|_timm_module)\.)*")

#: What a Prithvi that takes coordinates multiplies their encodings with.
SCALES = ("temporal_embed_enc.scale", "location_embed_enc.scale")

#: What a checkpoint holds beside the encoder: decoders, heads, mask tokens, and what follows from
#: the image's size (Prithvi's positions, the attention masks that Swin's first code stored).
#: SimMIM's Swin ends with a norm that TerraTorch's has not.
FOREIGN = {
    family: re.compile(
        r"(decoder|decode_head|auxiliary_head|aux_heads|head|neck|fc)[._]|mask_token$"
        rf"|.*(attn_mask|_embed_dec\.scale)$|{own}"
    )
    for family, own in (("swin", r"norm\."), ("prithvi", r"pos_embed$"))
}


@dataclass(frozen=True)
class ModelSpec:
    """What a model is, before it is built.

    ``family`` says which code builds it (``swin``, ``prithvi``, ``unet`` or ``smp``), ``encoder``
    holds the arguments of the encoder, ``statistics`` names the default band statistics, ``hub`` is
    the file of its published weights, OWNER/REPOSITORY/FILE on the Hugging Face hub. ``flat`` says
    that foreign checkpoints are of a 2-D masked autoencoder: red, green and blue, patches without
    an axis of time, and encodings of places of their own.
    """

    title: str
    family: str
    encoder: Mapping[str, object] = field(default_factory=dict)
    statistics: str = "granite_agb"
    source: str = ""
    hub: str = ""
    flat: bool = False

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands of a foreign checkpoint."""
        return ("RED", "GREEN", "BLUE") if self.flat else HLS6


#: TerraTorch's defaults for Prithvi (prithvi_cfgs).
_VIT = {
    "img_size": 224,
    "num_frames": 4,
    "patch_size": (1, 16, 16),
    "embed_dim": 768,
    "depth": 12,
    "num_heads": 12,
    "decoder_embed_dim": 512,
    "decoder_depth": 8,
    "decoder_num_heads": 16,
}
_COORDINATES = {"coords_encoding": ("time", "location"), "coords_scale_learn": True}
_VIT_L = {"embed_dim": 1024, "depth": 24, "num_heads": 16}
_VIT_H = {"embed_dim": 1280, "depth": 32, "num_heads": 16, "patch_size": (1, 14, 14)}
_TINY = {"num_frames": 1, "embed_dim": 192, "num_heads": 3}

#: Prithvi by name: repository and file of the published weights, what differs from the defaults.
_PRITHVI: dict[str, tuple[str, str, dict[str, object]]] = {
    "prithvi_eo_v1_100": ("Prithvi-EO-1.0-100M", "Prithvi_EO_V1_100M.pt", {"num_frames": 3}),
    "prithvi_eo_v2_tiny_tl": ("Prithvi-EO-2.0-tiny-TL", "Prithvi_EO_V2_tiny_TL.pt", _TINY),
    "prithvi_eo_v2_100_tl": ("Prithvi-EO-2.0-100M-TL", "Prithvi_EO_V2_100M_TL.pt", {}),
    "prithvi_eo_v2_300": ("Prithvi-EO-2.0-300M", "Prithvi_EO_V2_300M.pt", _VIT_L),
    "prithvi_eo_v2_300_tl": ("Prithvi-EO-2.0-300M-TL", "Prithvi_EO_V2_300M_TL.pt", _VIT_L),
    "prithvi_eo_v2_600": ("Prithvi-EO-2.0-600M", "Prithvi_EO_V2_600M.pt", _VIT_H),
    "prithvi_eo_v2_600_tl": ("Prithvi-EO-2.0-600M-TL", "Prithvi_EO_V2_600M_TL.pt", _VIT_H),
}
_PRITHVI_DEMO = {
    "img_size": 64,
    "num_frames": 3,
    "patch_size": (1, 8, 8),
    "embed_dim": 192,
    "depth": 6,
    "num_heads": 6,
    "decoder_embed_dim": 96,
    "decoder_depth": 2,
    "decoder_num_heads": 6,
}
#: The MAE ViT-B/16 of neural embedding compression: one date, 224 pixels.
_MAE_B = {**_VIT, "num_frames": 1}
_MAE_DEMO = {**_PRITHVI_DEMO, "num_frames": 1, "img_size": 128}
_SWIN_B = {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)}
_SWIN_DEMO = {"embed_dim": 32, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8)}

#: Models by name.
MODELS: Mapping[str, ModelSpec] = MappingProxyType(
    {
        name: ModelSpec(
            title=f"{repository} encoder, UPerNet decoder",
            family="prithvi",
            encoder=_VIT | sizes | (_COORDINATES if name.endswith("_tl") else {}),
            statistics=name[:13],
            source="TerraTorch prithvi_cfgs",
            hub=f"ibm-nasa-geospatial/{repository}/{file}",
        )
        for name, (repository, file, sizes) in _PRITHVI.items()
    }
    | {
        "prithvi_demo": ModelSpec(
            title="Prithvi encoder of 192 channels, UPerNet decoder",
            family="prithvi",
            encoder=_PRITHVI_DEMO,
            source="the build of prithvi_eo_v1_100, smaller",
        ),
        "mae_vit_b16": ModelSpec(
            title="MAE ViT-B/16 encoder, UPerNet decoder",
            family="prithvi",
            encoder=_MAE_B,
            flat=True,
            source="He et al. 2022; Gomes and Brunschwiler 2024 (IBM/neural-embedding-compression)",
        ),
        "mae_demo": ModelSpec(
            title="MAE encoder of 192 channels, UPerNet decoder",
            family="prithvi",
            encoder=_MAE_DEMO,
            flat=True,
            source="the build of mae_vit_b16, smaller",
        ),
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


def read_card(file: Path) -> dict[str, Any]:
    """Read the card beside a model file; empty for a checkpoint that is no model file.

    >>> read_card(Path("Prithvi_EO_V1_100M.pt"))
    {}

    Raises
    ------
    ModelError
        If the card is not a JSON object.
    """
    card = file.with_name("model.json")
    if file.name != "model.safetensors" or not card.is_file():
        return {}
    try:
        held = json.loads(card.read_text("utf-8"))
    except ValueError as error:
        raise ModelError(f"{card} is not a model's card: {error}.") from error
    if not isinstance(held, dict):
        raise ModelError(f"{card} is not a model's card: it holds a {type(held).__name__}.")
    return held


def locate(value: str, model: str) -> Path | tuple[str, str]:
    """Say where weights are: a file, or a repository on the Hugging Face hub and a file in it.

    >>> locate("hf://ibm-nasa-geospatial/Prithvi-EO-1.0-100M", "prithvi_eo_v1_100")
    ('ibm-nasa-geospatial/Prithvi-EO-1.0-100M', 'Prithvi_EO_V1_100M.pt')

    Parameters
    ----------
    value
        A file, ``hf://OWNER/REPOSITORY/FILE``, ``hf://OWNER/REPOSITORY`` (the published file, or
        ``model.safetensors``), or ``"pretrained"`` for the weights that come with geowb.
    model
        Name of the model that is to take them.

    Raises
    ------
    ModelError
        No such file, no such model, no address of the hub, nothing shipped.
    """
    if value == "pretrained":
        return _shipped(model)
    if value.startswith("hf://"):
        address = _HUB.fullmatch(value)
        if not address:
            raise ModelError(
                f"'{value}' is no hub address: write hf://OWNER/REPOSITORY/FILE, "
                "or hf://OWNER/REPOSITORY."
            )
        repository, file = address.groups()
        published = (m.hub.removeprefix(f"{repository}/") for m in MODELS.values()
                     if m.hub.startswith(f"{repository}/"))  # fmt: skip
        return repository, file or next(published, "model.safetensors")
    path = Path(value).expanduser()
    if not path.is_file():
        raise ModelError(
            f"There is no weights file {path}: give a checkpoint, hf://OWNER/REPOSITORY/FILE or "
            "'pretrained', or leave it empty for random weights."
        )
    return path


def shipped() -> list[str]:
    """Names of the models whose weights come with geowb."""
    return sorted(file.parent.name for file in SHIPPED.glob("*/model.safetensors"))


def _shipped(model: str) -> Path:
    if model in (ships := shipped()):
        return SHIPPED / model / "model.safetensors"
    hub = spec(model).hub.rpartition("/")[0]
    raise ModelError(
        f"geowb ships no weights for '{model}', only for: {', '.join(ships) or 'none'}. Give a "
        f"checkpoint file or hf://{hub or 'OWNER/REPOSITORY/FILE'}, "
        "or leave it empty for random weights."
    )


def encoder_tensors(held: Mapping[str, T], found: ModelSpec) -> dict[str, T]:
    """Pick a Swin or Prithvi encoder's tensors, or their shapes, out of a checkpoint.

    Prefixes of wrappers are taken off the names; decoders and heads are left out, and the scales of
    coordinates for a model that takes none.

    >>> encoder_tensors({"encoder.cls_token": 1, "decoder_norm.bias": 2}, spec("prithvi_demo"))
    {'cls_token': 1}
    """
    bare = {key[_PREFIXES.match(key).end() :]: value for key, value in held.items()}
    drop = FOREIGN[found.family].match
    scaled = "" if found.encoder.get("coords_encoding") else "_embed_enc.scale"
    return {
        key: value
        for key, value in bare.items()
        if (not drop(key) or (found.flat and key == "pos_embed"))
        and not (scaled and key.endswith(scaled))
    }
