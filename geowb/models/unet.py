"""The U-Net that is trained from scratch beside the foundation models."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

__all__ = ["UNet"]


def _double_conv(channels_in: int, channels_out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for c_in in (channels_in, channels_out):
        layers += [
            nn.Conv2d(c_in, channels_out, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """U-Net of double 3x3 convolutions and 2x2 transposed convolutions.

    >>> sum(p.numel() for p in UNet(6).parameters())
    7763905

    Takes ``(B, in_channels, H, W)`` with H and W multiples of ``2 ** (len(widths) - 1)``; returns
    ``(B, outputs, H, W)``. Widths 32-512 with bias-free convolutions give the 7.8 M parameters of
    Muszynski et al. 2024 (abstract); the architecture is inferred from that number.
    """

    def __init__(
        self,
        in_channels: int,
        outputs: int = 1,
        widths: Sequence[int] = (32, 64, 128, 256, 512),
    ) -> None:
        super().__init__()
        self.stride = 2 ** (len(widths) - 1)
        self.down = nn.ModuleList(
            _double_conv(a, b) for a, b in zip((in_channels, *widths[:-1]), widths, strict=True)
        )
        rising = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.rise = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in rising)
        self.up = nn.ModuleList(_double_conv(2 * b, b) for _, b in rising)
        self.head = nn.Conv2d(widths[0], outputs, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``(B, outputs, H, W)`` for ``(B, in_channels, H, W)``."""
        skips = []
        for i, block in enumerate(self.down):
            x = block(x if i == 0 else nn.functional.max_pool2d(x, 2))
            skips.append(x)
        for rise, up, skip in zip(self.rise, self.up, skips[-2::-1], strict=True):
            x = up(torch.cat([skip, rise(x)], dim=1))
        return self.head(x)
