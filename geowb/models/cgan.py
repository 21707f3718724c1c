"""The conditional GAN that gap filling by Prithvi was compared with.

>>> model = build_cgan(width=8)
>>> missing = torch.zeros(1, 3, 32, 32, dtype=torch.bool)
>>> model.fill(torch.zeros(1, 6, 3, 32, 32), missing).prediction.shape
torch.Size([1, 6, 3, 32, 32])

Built from the description and the public code of the baseline (github
ClarkCGA/gfm-gap-filling-baseline, models/generator.py, arch.py and discriminator.py; Godwin et al.
2024, arXiv 2404.19609): a ResNet generator with spectral norms and reflected edges, and PatchGAN
discriminators at two scales.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from geowb.bands import HLS6
from geowb.errors import ModelError
from geowb.models.masked import Reconstruction

__all__ = ["CGAN", "build_cgan", "cgan_card", "from_card"]


def _conv(channels: int, outputs: int, kernel: int) -> nn.Module:
    return spectral_norm(nn.Conv2d(channels, outputs, kernel))


class _Residual(nn.Module):
    """Twice: normalise, ReLU, 3x3 convolution with reflected edges; added to what came in."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        pad, relu = nn.ReflectionPad2d(1), nn.ReLU()
        self.layers = nn.Sequential(
            *(pad, nn.BatchNorm2d(channels), relu, _conv(channels, outputs, 3)),
            *(pad, nn.BatchNorm2d(outputs), relu, _conv(outputs, outputs, 3)),
        )
        same = channels == outputs
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels, outputs, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x) + self.shortcut(x)


def _generator(channels: int, width: int, halvings: int, blocks: int) -> nn.Sequential:
    """Stem of 7x7, strided convolutions, residual blocks, blocks with nearest upsampling."""
    layers = [nn.ReflectionPad2d(3), _conv(channels, width, 7), nn.ReLU()]
    for i in range(halvings):
        n = width * 2**i
        down = spectral_norm(nn.Conv2d(n, 2 * n, 3, stride=2, padding=1))
        layers += [down, nn.BatchNorm2d(2 * n), nn.ReLU()]
    n = width * 2**halvings
    layers += [_Residual(n, n) for _ in range(blocks)]
    for i in range(halvings):
        layers += [nn.Upsample(scale_factor=2), _Residual(n >> i, n >> (i + 1))]
    return nn.Sequential(*layers, nn.ReflectionPad2d(1), _conv(width, channels, 3), nn.Tanh())


def _discriminator(channels: int, width: int) -> nn.Sequential:
    """PatchGAN: a value for each square of 8 x 8 pixels."""
    layers = [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.LeakyReLU(0.2)]
    for n, stride in ((width, 2), (2 * width, 2), (4 * width, 1)):
        conv = spectral_norm(nn.Conv2d(n, 2 * n, 3, stride=stride, padding=1))
        layers += [conv, nn.InstanceNorm2d(2 * n), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 3, padding=1))


class CGAN(nn.Module):
    """Generator and discriminators; counts come in and go out, reflectance is inside.

    Missing pixels are 0 in what the generator sees, as in the public code: it is not told where
    they are. ``generator`` and ``discriminators`` take dates as channels.
    """

    def __init__(self, card: dict[str, Any]) -> None:
        super().__init__()
        self.card = card
        channels, width = len(card["bands"]) * card["frames"], card["width"]
        self.generator = _generator(channels, width, card["halvings"], card["blocks"])
        self.discriminators = nn.ModuleList(
            _discriminator(2 * channels, width) for _ in range(card["scales"])
        )

    def fill(self, x: torch.Tensor, missing: torch.Tensor) -> Reconstruction:
        """Predict what is missing; as `geowb.models.mae.MaskedPrithvi.fill`.

        ``hidden`` are the missing pixels, and ``loss`` is the mean square error over them in
        reflectance, pixels without data left out.

        Raises
        ------
        ModelError
            For other shapes.
        """
        shown, gap, truth = self.parts(x, missing)
        made = self.generate(shown)
        made = made.float() if made.dtype.itemsize < 4 else made  # of mixed precision
        return Reconstruction(made * 1e4, gap, self.error(made, truth, gap))

    def can_fill(self, x: torch.Tensor, missing: torch.Tensor) -> torch.Tensor:
        """Whether each sample has a pixel that is there, ``(B,)`` bool."""
        return ~self.parts(x, missing)[1].flatten(1).all(1)

    def parts(
        self, x: torch.Tensor, missing: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Give what is shown (0 where missing), what is missing, the truth: reflectance, one shape.

        The second is ``(B, 1, T, H, W)``; the truth is NaN where there is no data.
        """
        bands, frames = len(self.card["bands"]), self.card["frames"]
        good = x.ndim == 5 and x.shape[1:3] == (bands, frames)
        step = _step(self.card["halvings"], self.card["scales"])
        if not good or any(side % step or side < 2 * step for side in x.shape[-2:]):
            raise ModelError(
                f"'{self.card['name']}' takes (batch, {bands} bands, {frames} dates, y, x) with y "
                f"and x multiples of {step}, at least {2 * step}; it was given {tuple(x.shape)}."
            )
        if missing.shape != (len(x), *x.shape[2:]) or missing.dtype != torch.bool:
            raise ModelError(
                f"missing is {tuple(missing.shape)} of {missing.dtype}; chips {tuple(x.shape)} "
                f"want {(len(x), *x.shape[2:])} of torch.bool."
            )
        gap = (missing | ~torch.isfinite(x).all(1))[:, None]
        truth = x * 1e-4
        return truth.masked_fill(gap, 0.0), gap, truth

    def generate(self, shown: torch.Tensor) -> torch.Tensor:
        """Make the reflectance of all pixels, from -1 to 1."""
        return self.generator(shown.flatten(1, 2)).unflatten(1, shown.shape[1:3])

    def judge(self, shown: torch.Tensor, image: torch.Tensor) -> list[torch.Tensor]:
        """Ask what the discriminators say of `image`, knowing what was shown: one map a scale."""
        both, said = torch.cat((shown, image), dim=1).flatten(1, 2), []
        for scale in self.discriminators:
            said.append(scale(both))
            both = nn.functional.avg_pool2d(both, 2)
        return said

    def gates(self, gap: torch.Tensor) -> list[torch.Tensor]:
        """Weigh each value of `judge`: the share of dates missing anywhere in its square."""
        gap = gap[:, 0].float()
        return [
            nn.functional.max_pool2d(gap, 8 << i).mean(1, keepdim=True)
            for i in range(len(self.discriminators))
        ]

    @staticmethod
    def error(made: torch.Tensor, truth: torch.Tensor, gap: torch.Tensor) -> torch.Tensor:
        """Mean square error over what is missing and known."""
        wanted = gap & torch.isfinite(truth)
        square = (made - truth.nan_to_num()).square() * wanted
        return square.sum() / wanted.sum().clamp_min(1)


def _step(halvings: int, scales: int) -> int:
    """Return what an edge is a multiple of, so that squares are whole for all of its networks."""
    return max(2**halvings, 8 * 2 ** (scales - 1))


def cgan_card(
    *,
    bands: Sequence[str] = HLS6,
    frames: int = 3,
    width: int = 64,
    halvings: int = 4,
    blocks: int = 9,
    scales: int = 2,
    size: int = 64,
    seed: int = 0,
) -> dict[str, Any]:
    """Check what a CGAN is to be, and write it as a card; the defaults are the published sizes.

    >>> cgan_card(width=8)["kind"]
    'cgan'

    Raises
    ------
    ModelError
        For sizes that cannot be built.
    """
    sizes = {"frames": frames, "width": width, "halvings": halvings, "scales": scales}
    if min(sizes.values()) < 1 or blocks < 0 or not bands:
        raise ModelError(f"A CGAN has bands and sizes of 1 or more: {sizes}, blocks {blocks}.")
    step = _step(halvings, scales)
    if size % step or size < 2 * step:
        raise ModelError(f"size {size} is no multiple of {step}, or less than twice that.")
    return {
        "kind": "cgan",
        "name": "cgan",
        "bands": list(bands),
        **sizes,
        "blocks": blocks,
        "size": size,
        "seed": seed,
        "weights": f"random (seed {seed})",
        "pretrained": False,
    }


def build_cgan(**options: Any) -> CGAN:
    """Build a CGAN with random weights; the options are those of `cgan_card`.

    >>> sum(p.numel() for p in build_cgan(width=8).generator.parameters())
    2926858
    """
    return from_card(cgan_card(**options))


def from_card(card: Mapping[str, Any]) -> CGAN:
    """Build the CGAN that a card describes; its weights are random."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(card["seed"])
        return CGAN(dict(card))
