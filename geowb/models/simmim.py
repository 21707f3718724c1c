"""SimMIM: how a Swin is pretrained by masking."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from geowb.errors import ModelError
from geowb.models.masked import MaskedModel, enlarged
from geowb.models.wrapper import build

__all__ = ["MaskedSwin"]


class MaskedSwin(MaskedModel):
    """SimMIM: a learned token stands for hidden patches; one convolution predicts pixels; L1."""

    def __init__(self, card: dict[str, Any]) -> None:
        super().__init__(card)
        whole = build(card["name"], bands=card["bands"], frames=card["frames"])
        self.encoder = whole.network.encoder
        channels = len(card["bands"]) * card["frames"]
        width = self.encoder.stages_3.norm.normalized_shape[0]
        self.mask_token = nn.Parameter(torch.zeros(1, 1, self.encoder.patch_embed.embed_dim))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        for stage in ("stages_0", "stages_1", "stages_2"):  # SimMIM decodes the last stage alone
            getattr(self.encoder, stage).norm.requires_grad_(False)
        self.decoder = nn.Sequential(
            nn.Conv2d(width, self._step**2 * channels, kernel_size=1), nn.PixelShuffle(self._step)
        )

    @property
    def _step(self) -> int:
        return 32  # of the last stage: patches of 4, merged three times

    def grid(self, x: torch.Tensor) -> tuple[int, int, int]:
        """Count units along y and x; the dates are channels here, hidden together."""
        dates, rows, columns = super().grid(x)
        if dates != self.card["frames"]:
            raise ModelError(
                f"'{self.card['name']}' takes {self.card['frames']} dates, not {dates}."
            )
        return 1, rows, columns

    def _predict(
        self, x: torch.Tensor, order: torch.Tensor, kept: int, off: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        tokens, size = self.encoder.patch_embed(x.flatten(1, 2))
        hidden = enlarged(off[:, 0], size[0] // off.shape[2])
        tokens = torch.where(hidden.flatten(1)[..., None], self.mask_token, tokens)
        out: tuple = (tokens, size)
        for stage in ("stages_0", "stages_1", "stages_2", "stages_3"):
            out = getattr(self.encoder, stage)(out)
        pixels = self.decoder(out[0].permute(0, 3, 1, 2))
        return pixels.unflatten(1, (len(self.card["bands"]), self.card["frames"])), None

    def _encode(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [stage.permute(0, 3, 1, 2) for stage in self.encoder(x.flatten(1, 2))]

    @staticmethod
    def _error(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (prediction - target).abs()
