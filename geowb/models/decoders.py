"""Decoders: from the maps of an encoder to values a pixel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.layers import LayerNorm2d
from torch import nn

from geowb.models.wrapper import terratorch

__all__ = ["Smooth", "Stack", "TransposedNeck", "pixel_network"]


class Stack(nn.Module):
    """Maps of all stages, standardised and brought to the size of the finest: no parameters.

    >>> maps = [torch.rand(2, 32, 16, 16), torch.rand(2, 64, 8, 8)]
    >>> Stack([32, 64])(maps).shape
    torch.Size([2, 96, 16, 16])

    Takes maps ``(B, channels[i], h_i, w_i)``, the finest first; returns
    ``(B, sum(channels), h_0, w_0)``. A 1x1 convolution on it is a linear readout of the encoder.
    Each channel is standardised by batch normalisation without weights, since an encoder's channels
    differ in scale.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(count, affine=False) for count in channels)
        self.out_channels = sum(channels)

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the stacked maps."""
        size = maps[0].shape[-2:]
        return torch.cat(
            [
                nn.functional.interpolate(norm(one), size, mode="bilinear", align_corners=False)
                for norm, one in zip(self.norms, maps, strict=True)
            ],
            dim=1,
        )


class TransposedNeck(nn.Module):
    """Transposed convolutions from the last map to the pixels, and one convolution: Prithvi's neck.

    >>> TransposedNeck([576], channels=32, doublings=3)([torch.rand(2, 576, 8, 8)]).shape
    torch.Size([2, 32, 64, 64])

    Takes maps ``(B, channels[i], h, w)``, of which it looks at the last; returns
    ``(B, channels, 2^d h, 2^d w)``. As in the public fine-tuning of Prithvi (hls-foundation-os,
    ``ConvTransformerTokensToEmbeddingNeck`` and ``FCNHead`` of one convolution): each transposed
    convolution doubles the size, and behind the first and the third, unless it is the last, come a
    layer norm over the channels and a GELU; then a 3 x 3 convolution, batch norm and ReLU. There
    the neck is as wide as the map; here it is narrower, and a step is many times cheaper.
    """

    def __init__(self, widths: Sequence[int], channels: int, doublings: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for step in range(doublings):
            wide = channels if step else widths[-1]
            layers.append(nn.ConvTranspose2d(wide, channels, kernel_size=2, stride=2))
            if step % 2 == 0 and step < doublings - 1:
                layers += [LayerNorm2d(channels), nn.GELU()]
        layers += [nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(channels), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.out_channels = channels

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the enlarged map."""
        return self.layers(maps[-1])


class Smooth(nn.Module):
    """The binomial filter (1, 2, 1) / 4 along both axes: takes a pattern of period 2 away, inside.

    >>> chessboard = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(2, 2)[None, None]
    >>> Smooth()(chessboard)[0, 0, 1:-1, 1:-1].tolist()
    [[0.5, 0.5], [0.5, 0.5]]

    Takes and returns ``(B, C, H, W)``. A PixelShuffle layer writes each of the four pixels of a
    square with weights of its own, which shows as a grid in a map; Sugawara et al. 2018 (Super-
    resolution using CNNs without any checkerboard artifacts) put such a filter behind it, with a
    mean over 2x2 pixels, which shifts the map by half a pixel; this one does not.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the filtered maps."""
        x = nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
        for _ in range(2):
            x = nn.functional.avg_pool2d(x, 2, stride=1)
        return x


def _decoder(
    encoder: nn.Module, card: Mapping[str, Any], stride: float
) -> tuple[nn.Module | str, dict[str, Any], int]:
    """Return a decoder or its name, its arguments, and the head's count of upsampling layers."""
    name, width = card["decoder"], card["decoder_channels"]
    finer = round(math.log2(stride))  # halvings from the finest map to the pixels
    if name == "linear":
        return Stack(encoder.out_channels), {}, 0
    if name == "fcn":  # of Prithvi's last block, whose map is four times coarser than the finest
        return TransposedNeck(encoder.out_channels, width, finer + 2), {}, 0
    if name == "unet":  # its last step goes beyond the finest map
        widths = [width * times for times in (8, 4, 2, 1)]
        return "UNetDecoder", {"channels": widths}, max(finer - 1, 0)
    return "UperNetDecoder", {"channels": width}, finer


def pixel_network(
    encoder: nn.Module,
    card: Mapping[str, Any],
    *,
    stride: float,
    necks: Sequence[Mapping[str, Any]] = (),
) -> nn.Module:
    """Put the decoder that a card names behind an encoder, with TerraTorch's factory.

    Parameters
    ----------
    encoder
        Returns maps, the finest first; ``out_channels`` counts their channels.
    card
        The model's card: ``decoder``, ``decoder_channels``, ``head_dropout``, ``outputs``.
    stride
        Pixels of the image along a pixel of the finest map that UPerNet is given.
    necks
        TerraTorch's modules between the encoder and the decoder.
    """
    decoder, decoder_kwargs, layers = _decoder(encoder, card, stride)
    network = (
        terratorch()
        .models.EncoderDecoderFactory()
        .build_model(
            "regression",
            backbone=encoder,
            necks=[dict(neck) for neck in necks],
            decoder=decoder,
            decoder_kwargs=decoder_kwargs,
            head_kwargs={"learned_upscale_layers": layers, "dropout": card["head_dropout"]},
            num_outputs=card["outputs"],
        )
    )
    if card["decoder"] == "upernet_smooth":
        for module in network.head.modules():
            if isinstance(getattr(module, "upscale", None), nn.PixelShuffle):
                module.upscale = nn.Sequential(module.upscale, Smooth())
    return network
