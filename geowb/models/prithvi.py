"""Prithvi: TerraTorch's 3-D vision transformer as encoder, and a decoder to pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from geowb.models.decoders import pixel_network
from geowb.models.registry import ModelSpec
from geowb.models.wrapper import terratorch

__all__ = ["PrithviEncoder", "as_map", "build_network"]

#: Without a neck, TerraTorch would take the encoder's maps for tokens.
_AS_THEY_ARE = {"name": "SelectIndices", "indices": [0, 1, 2, 3]}

_PrithviViT = terratorch().models.backbones.prithvi_vit.PrithviViT


class PrithviEncoder(_PrithviViT):
    """TerraTorch's ``PrithviViT``, its tokens laid out as maps.

    >>> encoder = PrithviEncoder(img_size=64, patch_size=(1, 8, 8), num_frames=3, in_chans=6,
    ...                          embed_dim=192, depth=6, num_heads=6)
    >>> [tuple(m.shape) for m in encoder(torch.zeros(1, 6, 3, 64, 32))]
    [(1, 576, 8, 4), (1, 576, 8, 4), (1, 576, 8, 4), (1, 576, 8, 4)]

    Takes ``(B, C, T, H, W)``, or ``(B, C * T, H, W)`` with the dates of a band side by side; H and
    W are multiples of the patch. Returns a map ``(B, T * embed_dim, h, w)`` of each of four
    blocks spread over the depth. (TerraTorch's own neck takes every square number of tokens for a
    square image.)
    """

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**sizes)
        depth = len(self.blocks)
        self.out_indices = [depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4)]
        self.out_channels = [self.embed_dim * self.num_frames] * 4

    def forward(
        self,
        x: torch.Tensor,
        temporal_coords: torch.Tensor | None = None,
        location_coords: torch.Tensor | None = None,
    ) -> list[torch.Tensor]:
        """Return the maps of the four blocks that the decoder reads."""
        return self.maps(x, temporal_coords, location_coords, blocks=self.out_indices)

    def maps(
        self,
        x: torch.Tensor,
        temporal_coords: torch.Tensor | None = None,
        location_coords: torch.Tensor | None = None,
        blocks: Sequence[int] | None = None,
    ) -> list[torch.Tensor]:
        """Return ``(B, T * embed_dim, h, w)``, date-major, of some blocks, or of all."""
        x = x if x.ndim == 5 else x.unflatten(1, (self.in_chans, self.num_frames))
        patch = self.patch_embed.patch_size
        grid = [side // unit for side, unit in zip(x.shape[2:], patch, strict=True)]
        tokens = self.forward_features(x, temporal_coords, location_coords)
        taken = tokens if blocks is None else [tokens[i] for i in blocks]
        return [as_map(one, grid) for one in taken]


def as_map(tokens: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
    """Lay out a block's tokens ``(B, 1 + t h w, D)`` as a map ``(B, t D, h, w)``, date-major.

    >>> as_map(torch.zeros(1, 1 + 3 * 8 * 4, 192), (3, 8, 4)).shape
    torch.Size([1, 576, 8, 4])
    """
    return tokens[:, 1:].unflatten(1, grid).permute(0, 1, 4, 2, 3).flatten(1, 2)


def build_network(found: ModelSpec, card: dict[str, Any]) -> nn.Module:
    """Build encoder, pyramid, decoder and head, for images of multiples of the patch.

    >>> from geowb.models.registry import spec
    >>> card = {"bands": ["RED", "NIR_NARROW"], "frames": 1, "drop_path": 0.0,
    ...         "decoder": "upernet", "decoder_channels": 32, "head_dropout": 0.0, "outputs": 1}
    >>> network = build_network(spec("prithvi_demo"), card).eval()
    >>> network(torch.zeros(1, 2, 8, 16)).output.shape
    torch.Size([1, 8, 16])

    The pyramid's finest map has 4 x 4 values a patch: patches of 8 need one PixelShuffle layer,
    those of 16 two; patches of 14 have two, and the rest is interpolated.
    """
    encoder = PrithviEncoder(
        **{**found.encoder, "num_frames": card["frames"]},
        in_chans=len(card["bands"]),
        drop_path=card["drop_path"],
    )
    pyramid = card["decoder"] not in ("linear", "fcn")
    neck = {"name": "LearnedInterpolateToPyramidal"} if pyramid else _AS_THEY_ARE
    stride = found.encoder["patch_size"][1] / 4
    network = pixel_network(encoder, card, stride=stride, necks=[neck])
    # TerraTorch would pad to an even number of patches, because the pyramid's coarsest level drops
    # an odd row of them; kept, it needs no padding.
    network.patch_size = None
    if pyramid:
        network.neck[0].fpn4[0].ceil_mode = True
    return network
