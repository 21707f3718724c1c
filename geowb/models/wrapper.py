"""Build a model by name: encoder, decoder, normalisation, one calling convention."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import nn

from geowb.bands import HLS6, STATISTICS
from geowb.errors import ModelError, RequestError, did_you_mean
from geowb.models.checks import check_accelerator
from geowb.models.registry import ModelSpec, spec

__all__ = ["PixelModel", "build", "placed", "trainable"]

#: What can be put behind a Swin or a Prithvi (``fcn``: a Prithvi); the first is the public biomass
#: model's.
DECODERS = ("upernet", "upernet_smooth", "unet", "fcn", "linear")

#: Dropout of the regression head in the public biomass model (granite configs/config.yaml).
_HEAD_DROPOUT = 0.16194593880230534


class PixelModel(nn.Module):
    """A network with its normalisation, from chips to one value or class score a pixel.

    Takes ``(B, C, T, H, W)`` float32 counts with NaN where there is no data; returns
    ``(B, K, H, W)`` in the units of the task. NaN is replaced by the band's mean.
    """

    def __init__(self, network: nn.Module, card: dict[str, Any], stride: int = 1) -> None:
        super().__init__()
        self.network = network
        self.card = card
        self._stride = stride
        shape = (1, len(card["bands"]), 1, 1, 1)
        self.register_buffer("mean", torch.tensor(card["mean"]).reshape(shape))
        self.register_buffer("std", torch.tensor(card["std"]).reshape(shape))
        if card["freeze_backbone"]:
            self.encoder.requires_grad_(False)
            self.encoder.eval()

    @property
    def encoder(self) -> nn.Module:
        """The encoder; an error for a model that has none of its own."""
        if not hasattr(self.network, "encoder"):
            raise ModelError(f"'{self.card['name']}' has no encoder to freeze or take features of.")
        return self.network.encoder

    @property
    def origin(self) -> str:
        """Where the encoder's (or the whole network's) weights came from, in words."""
        return self.card["weights"]

    @property
    def pretrained(self) -> bool:
        """Whether training starts from trained weights; random ones are never called pretrained."""
        return self.card["pretrained"]

    def train(self, mode: bool = True) -> PixelModel:
        """Switch to training; a frozen encoder stays in eval mode (no dropout, no drop path)."""
        super().train(mode)
        if self.card["freeze_backbone"]:
            self.encoder.eval()
        return self

    def forward(
        self,
        x: torch.Tensor,
        temporal_coords: torch.Tensor | None = None,
        location_coords: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return ``(B, K, H, W)`` for chips ``(B, C, T, H, W)`` of counts.

        >>> model = build("prithvi_eo_v2_tiny_tl").eval()
        >>> when, where = [[[2023, 172]]], [[47.3, 8.5]]
        >>> model(torch.zeros(1, 6, 1, 64, 64), temporal_coords=when, location_coords=where).shape
        torch.Size([1, 1, 64, 64])

        Parameters
        ----------
        temporal_coords
            ``(B, T, 2)``: year and day of the year (from 0) of each date; for Prithvi's TL models.
        location_coords
            ``(B, 2)``: latitude and longitude in degrees; for Prithvi's TL models.

        Raises
        ------
        ModelError
            For other shapes, and for coordinates that the model does not take.
        """
        normal = self._normal(x)
        height, width = x.shape[-2:]
        y = self.network(normal, **self._coordinates(x, temporal_coords, location_coords))
        y = getattr(y, "output", y)
        y = y if y.ndim == 4 else y.unsqueeze(1)
        y = y[..., :height, :width]
        y = y.float() if y.dtype.itemsize < 4 else y  # half precision knows 150 and 151, not 150.5
        y = y * self.card["output_std"] + self.card["output_mean"]
        return y.relu() if self.card["non_negative"] else y

    def features(
        self,
        x: torch.Tensor,
        temporal_coords: torch.Tensor | None = None,
        location_coords: torch.Tensor | None = None,
    ) -> list[torch.Tensor]:
        """Return what the encoder makes of chips: maps ``(B, channels, h, w)``.

        >>> [tuple(f.shape) for f in build("swin_demo").features(torch.zeros(1, 6, 1, 64, 64))]
        [(1, 32, 16, 16), (1, 64, 8, 8), (1, 128, 4, 4), (1, 256, 2, 2)]

        Arguments are those of the model. One map a stage (Swin, ResNet), or one a block (Prithvi:
        T * embed_dim channels, those of the first date first); chips that are no multiple of the
        patch are padded on the right and at the bottom.

        Raises
        ------
        ModelError
            For a model without an encoder of its own, and as the model does.
        """
        encoder, normal = self.encoder, self._normal(x)
        coordinates = self._coordinates(x, temporal_coords, location_coords)
        if hasattr(encoder, "maps"):
            return encoder.maps(normal, **coordinates)
        return getattr(encoder, "prepare_features_for_image_model", list)(encoder(normal))

    def _normal(self, x: torch.Tensor) -> torch.Tensor:
        """Check, normalise, put the dates of a band side by side, pad."""
        bands, frames = len(self.card["bands"]), self.card["frames"]
        if x.ndim != 5 or x.shape[1] != bands or x.shape[2] != frames:
            raise ModelError(
                f"'{self.card['name']}' takes (batch, {bands} bands, {frames} dates, y, x); "
                f"it was given {tuple(x.shape)}."
            )
        x = torch.nan_to_num((x - self.mean) / self.std)
        return _pad(x.flatten(1, 2), self._stride)

    def _coordinates(
        self, x: torch.Tensor, temporal: torch.Tensor | None, location: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        """Check coordinates, and give them the type of `x`."""
        shapes = {"temporal": (len(x), self.card["frames"], 2), "location": (len(x), 2)}
        given = {"temporal": temporal, "location": location}
        checked = {}
        for kind in (kind for kind in shapes if given[kind] is not None):
            name, encoder = f"{kind}_coords", getattr(self.network, "encoder", None)
            if not getattr(encoder, f"{kind}_encoding", False):
                raise ModelError(
                    f"'{self.card['name']}' takes no {name}: leave them out, or use a model whose "
                    "name ends in _tl."
                )
            value = torch.as_tensor(given[kind], dtype=x.dtype, device=x.device)
            if value.shape != shapes[kind]:
                raise ModelError(
                    f"{name} of '{self.card['name']}' are {shapes[kind]} for chips "
                    f"{tuple(x.shape)}; they were given as {tuple(value.shape)}."
                )
            checked[name] = value
        return checked


def _pad(x: torch.Tensor, stride: int) -> torch.Tensor:
    """Pad right and bottom to a multiple of `stride`, by reflection where there is room for it."""
    height, width = x.shape[-2:]
    bottom, right = -height % stride, -width % stride
    if not (bottom or right):
        return x
    mode = "reflect" if bottom < height and right < width else "replicate"
    return nn.functional.pad(x, (0, right, 0, bottom), mode=mode)


def build(
    name: str,
    *,
    bands: Sequence[str] = HLS6,
    weights: str | None = None,
    frames: int = 1,
    outputs: int = 1,
    freeze_backbone: bool = False,
    decoder: str | None = None,
    decoder_channels: int = 32,
    drop_path: float = 0.0,
    head_dropout: float = _HEAD_DROPOUT,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    output_mean: float = 0.0,
    output_std: float = 1.0,
    non_negative: bool = False,
    seed: int = 0,
) -> PixelModel:
    """Build a model by name.

    >>> model = build("swin_demo", freeze_backbone=True).eval()
    >>> model(torch.zeros(1, 6, 1, 64, 64)).shape
    torch.Size([1, 1, 64, 64])
    >>> model.pretrained
    False

    Parameters
    ----------
    name
        One of ``geowb.models.MODELS``.
    bands
        Names of the input bands, in the order of the channels.
    weights
        A checkpoint file, ``hf://OWNER/REPOSITORY/FILE``, ``hf://OWNER/REPOSITORY`` (its published
        file, or model.safetensors), or ``"pretrained"``: the file that comes with geowb. None or
        empty gives random weights drawn from `seed`, and the model says so (``model.origin``). A
        model file of geowb brings its own normalisation and output scale; that of a masked model,
        and between a linear decoder and another, its encoder, and its normalisation unless `mean`
        and `std` are given.
    frames
        Number of dates T: an axis of its own in Prithvi; in other models the dates of a band become
        channels of the network.
    outputs
        K, the number of values or classes a pixel.
    decoder
        What makes pixels of the maps of a Swin or Prithvi: ``"upernet"`` (the default);
        ``"upernet_smooth"``, the same with a filter behind each PixelShuffle layer that takes the
        grid of these layers out of the maps (`geowb.models.decoders.Smooth`); ``"unet"``, a U-Net's
        decoder on the same maps; ``"fcn"``, transposed convolutions from the map of Prithvi's last
        block, as in its published fine-tuning; ``"linear"``, one 1x1 convolution on the maps of all
        stages, which shows what the encoder itself knows.
    decoder_channels
        Width of UPerNet and FCN, and of the U-Net's last step (8, 4 and 2 times it before).
    drop_path
        Share of the encoder's blocks that a training step leaves out.
    head_dropout
        Dropout before the last 1x1 convolution.
    freeze_backbone
        Keep the encoder's weights as they are, and keep it in eval mode.
    mean, std
        Band statistics in counts; by default those published with the model (for Swin and U-Nets
        those of the public biomass model).
    output_mean, output_std
        The network's output is multiplied and shifted by these, so that it need not learn the
        scale of the labels.
    non_negative
        End with a ReLU, as the public biomass model does.

    Raises
    ------
    ModelError
        Unknown model, unknown band, wrong number of statistics, nothing to freeze, no such weights.
    WeightsMismatch
        If weights do not fit; names keys and shapes.

    Notes
    -----
    The Swin models are TerraTorch's encoder with its ``UperNetDecoder`` of 32 channels and two
    PixelShuffle layers before the last 1x1 convolution: 630,945 parameters beside the frozen
    Swin-B, the paper's 0.6 M (Muszynski et al. 2024; granite configs/config.yaml). The Prithvi
    models are TerraTorch's ``PrithviViT`` with four of its blocks made a pyramid
    (``LearnedInterpolateToPyramidal``) for the same decoder.
    """
    found = spec(name)
    if min(frames, outputs) < 1:
        raise ModelError(f"frames and outputs must be 1 or more: {frames}, {outputs}.")
    free = [key for key, value in (("mean", mean), ("std", std)) if value is None]
    mean, std = statistics(found, bands, mean, std)
    if not (math.isfinite(output_mean) and 0 < output_std < math.inf):
        raise ModelError(
            f"output_mean must be finite and output_std positive: {output_mean}, {output_std}."
        )
    card = {
        "name": name,
        "bands": list(bands),
        "frames": frames,
        "outputs": outputs,
        "freeze_backbone": freeze_backbone,
        "decoder": _decoder(found, name, decoder),
        "decoder_channels": decoder_channels,
        "drop_path": drop_path,
        "head_dropout": head_dropout,
        "mean": mean,
        "std": std,
        "output_mean": float(output_mean),
        "output_std": float(output_std),
        "non_negative": non_negative,
        "seed": seed,
        "weights": f"random (seed {seed})",
        "pretrained": False,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, stride = _FAMILIES[found.family](found, card)
    model = PixelModel(network, card, stride)
    if weights:
        from geowb.models.weights import load_weights

        card["weights"], card["pretrained"] = load_weights(model, weights, free)
    return model


def _decoder(found: ModelSpec, name: str, decoder: str | None) -> str | None:
    """Check a decoder's name; None for a network that is its own."""
    if found.family in ("unet", "smp"):
        if decoder is not None:
            raise ModelError(f"'{name}' has a decoder of its own: leave out decoder='{decoder}'.")
        return None
    if decoder not in (None, *DECODERS):
        raise ModelError(f"There is no decoder '{decoder}'. {did_you_mean(decoder, DECODERS)}")
    if decoder == "fcn" and found.family != "prithvi":
        raise ModelError(f"The decoder 'fcn' stands behind a Prithvi, not behind '{name}'.")
    return decoder or DECODERS[0]


def statistics(
    found: ModelSpec,
    bands: Sequence[str],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> tuple[list[float], list[float]]:
    """Complete band means and deviations by those published with a model, or say what is wrong."""
    published = STATISTICS[found.statistics]
    table = dict(zip(HLS6, zip(published.mean, published.std, strict=True), strict=True))
    if (mean is None or std is None) and (unknown := [b for b in bands if b not in table]):
        raise ModelError(
            f"There are no published statistics for the band '{unknown[0]}': give mean and std, "
            f"or use known bands. {did_you_mean(unknown[0], HLS6)}"
        )
    mean = [table[b][0] for b in bands] if mean is None else [float(v) for v in mean]
    std = [table[b][1] for b in bands] if std is None else [float(v) for v in std]
    if not len(mean) == len(std) == len(bands):
        raise ModelError(
            f"{len(bands)} bands need as many means and deviations; "
            f"there are {len(mean)} and {len(std)}."
        )
    if not all(math.isfinite(v) for v in mean) or not all(0 < v < math.inf for v in std):
        raise ModelError(f"Band means must be finite and deviations positive: {mean}, {std}.")
    return mean, std


def terratorch() -> ModuleType:
    """Import TerraTorch without the global change that its import makes.

    Importing TerraTorch 1.2 sets ``torch.set_float32_matmul_precision("medium")``: matrix products
    of float32 then run in bfloat16 where the processor can, 2.5e-3 off in one layer. The caller's
    choice is put back.
    """
    precision = torch.get_float32_matmul_precision()
    module = importlib.import_module("terratorch")
    importlib.import_module("terratorch.models.backbones.prithvi_swin")
    torch.set_float32_matmul_precision(precision)
    return module


def _build_swin(found: ModelSpec, card: dict[str, Any]) -> tuple[nn.Module, int]:
    from geowb.models.decoders import pixel_network

    encoder = terratorch().registry.BACKBONE_REGISTRY.build(
        "prithvi_swin_B",
        pretrained=False,
        # One plain input channel each; which band it is stands in the model's card.
        bands=list(range(len(card["bands"]) * card["frames"])),
        drop_path_rate=card["drop_path"],
        **found.encoder,
    )
    return pixel_network(encoder, card, stride=4), 1


def _build_unet(found: ModelSpec, card: dict[str, Any]) -> tuple[nn.Module, int]:
    from geowb.models.unet import UNet

    network = UNet(len(card["bands"]) * card["frames"], card["outputs"], **found.encoder)
    return network, network.stride


def _build_smp(found: ModelSpec, card: dict[str, Any]) -> tuple[nn.Module, int]:
    import segmentation_models_pytorch as smp

    channels = len(card["bands"]) * card["frames"]
    network = smp.Unet(
        **found.encoder, encoder_weights=None, in_channels=channels, classes=card["outputs"]
    )
    return network, 32


def _build_prithvi(found: ModelSpec, card: dict[str, Any]) -> tuple[nn.Module, int]:
    from geowb.models.prithvi import build_network

    return build_network(found, card), found.encoder["patch_size"][1]


_FAMILIES = {"swin": _build_swin, "prithvi": _build_prithvi, "unet": _build_unet, "smp": _build_smp}


@contextmanager
def placed(model: nn.Module, accelerator: str) -> Iterator[torch.device]:
    """Put a model in eval mode on CUDA, if it is here and wanted, and back at the end.

    >>> with placed(build("unet"), "cpu") as device:
    ...     print(device)
    cpu
    """
    if problems := check_accelerator(accelerator):
        raise RequestError(problems[0])
    home = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    gpu = accelerator not in ("cpu", "mps") and torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    model.eval()
    try:
        model.to(device)
        yield device
    finally:
        model.to(home)


def trainable(module: nn.Module) -> int:
    """Count the parameters that training would change.

    >>> trainable(build("unet"))
    7763905
    """
    if not isinstance(module, nn.Module):
        raise RequestError(f"trainable() takes a torch module, not {type(module).__name__}.")
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
