"""Masked models: an encoder with the decoder that it is pretrained with.

>>> model = build_masked("swin_demo", size=64)
>>> model(torch.zeros(1, 6, 1, 64, 64)).prediction.shape
torch.Size([1, 6, 1, 64, 64])

A masked model hides most of an image and predicts what is hidden: Prithvi's 3-D masked autoencoder
(`geowb.models.mae`; Jakubik et al. 2023, section 3; TerraTorch's ``PrithviMAE``), and SimMIM for
Swin (`geowb.models.simmim`; Xie et al. 2022: a mask token in the encoder, one convolution and a
PixelShuffle as decoder, L1 loss).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from geowb.bands import HLS6
from geowb.errors import ModelError
from geowb.models.registry import spec
from geowb.models.wrapper import statistics

__all__ = ["MaskedModel", "Reconstruction", "build_masked", "enlarged", "from_card", "masked_card"]


@dataclass(frozen=True)
class Reconstruction:
    """What a masked model made of chips.

    ``prediction`` (B, C, T, H, W) in counts, everywhere; ``hidden`` (B, 1, T, H, W) bool, where
    the model saw nothing; ``loss``, over hidden pixels that have data, in normalised units;
    ``bits`` (B, tokens), what the shown tokens cost, of a model with a prior between (`geowb.nec`).
    """

    prediction: torch.Tensor
    hidden: torch.Tensor
    loss: torch.Tensor
    bits: torch.Tensor | None = None


class MaskedModel(nn.Module):
    """An encoder and its pretraining decoder, with normalisation.

    Takes ``(B, C, T, H, W)`` float32 counts, NaN where there is no data (the network sees the
    band's mean there, and the loss leaves these pixels out). H and W are multiples of `unit`.
    """

    def __init__(self, card: dict[str, Any]) -> None:
        super().__init__()
        self.card = card
        shape = (1, len(card["bands"]), 1, 1, 1)
        self.register_buffer("mean", torch.tensor(card["mean"]).reshape(shape))
        self.register_buffer("std", torch.tensor(card["std"]).reshape(shape))

    @property
    def unit(self) -> int:
        """Edge in pixels of what is hidden or shown as a whole."""
        return self.card["unit"]

    def grid(self, x: torch.Tensor) -> tuple[int, int, int]:
        """Count units along time, y and x; an error if they do not fit `x`."""
        bands, frames = len(self.card["bands"]), self.card["frames"]
        good = x.ndim == 5 and x.shape[1] == bands and 1 <= x.shape[2] <= frames
        if not good or any(side < self.unit or side % self._step for side in x.shape[-2:]):
            raise ModelError(
                f"'{self.card['name']}' takes (batch, {bands} bands, 1 to {frames} dates, y, x) "
                f"with y and x multiples of {self._step}; it was given {tuple(x.shape)}."
            )
        return x.shape[2], x.shape[3] // self.unit, x.shape[4] // self.unit

    def forward(
        self,
        x: torch.Tensor,
        noise: torch.Tensor | None = None,
        mask_ratio: float | None = None,
    ) -> Reconstruction:
        """Hide the units with the largest `noise` and predict them.

        Parameters
        ----------
        x
            Chips ``(B, C, T, H, W)`` in counts.
        noise
            ``(B, T * H/unit * W/unit)``: a number a unit, t-major, then y, then x; drawn from
            torch's generator if None.
        mask_ratio
            Share of the units that is hidden; the card's if None.

        Raises
        ------
        ModelError
            For a shape that does not fit, or a ratio that hides nothing or everything.
        """
        grid = self.grid(x)
        units = math.prod(grid)
        ratio = self.card["mask_ratio"] if mask_ratio is None else mask_ratio
        kept = int(units * (1 - ratio))
        if not 0 < kept < units:
            raise ModelError(f"mask_ratio {ratio} shows {kept} of {units} units: nothing to do.")
        if noise is None:
            noise = torch.rand(len(x), units, device=x.device)
        order = noise.argsort(dim=1)
        off = torch.ones(len(x), units, dtype=torch.bool, device=x.device)
        off = off.scatter(1, order[:, :kept], False).reshape(len(x), *grid)
        return self._reconstruct(x, order, kept, off)

    def _reconstruct(
        self, x: torch.Tensor, order: torch.Tensor, kept: int, off: torch.Tensor
    ) -> Reconstruction:
        normal = (x - self.mean) / self.std
        valid = torch.isfinite(normal)
        normal = normal.nan_to_num(posinf=0.0, neginf=0.0)
        prediction, bits = self._predict(normal, order, kept, off)
        hidden = enlarged(off, self.unit)[:, None].expand(-1, -1, x.shape[2], -1, -1)
        wanted = (hidden & valid).to(prediction.dtype)
        error = self._error(prediction, normal) * wanted
        loss = error.sum() / wanted.sum().clamp_min(1.0)
        return Reconstruction(prediction * self.std + self.mean, hidden, loss, bits)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Encode whole chips: ``(B, D, H / 8, W / 8)``, all dates (or stages) side by side.

        Prithvi: the last block's tokens, brought to squares of 8 pixels. Swin: the four stages,
        averaged or interpolated to them.
        """
        self.grid(x)
        normal = ((x - self.mean) / self.std).nan_to_num(posinf=0.0, neginf=0.0)
        size = (x.shape[-2] // 8, x.shape[-1] // 8)
        resize = nn.functional.interpolate
        return torch.cat(
            [
                nn.functional.adaptive_avg_pool2d(m, size)
                if m.shape[-1] > size[-1]
                else resize(m, size, mode="bilinear")
                for m in self._encode(normal)
            ],
            dim=1,
        )

    # What the two kinds of model do in their own way.

    @property
    def _step(self) -> int:
        return self.unit

    def _predict(
        self, x: torch.Tensor, order: torch.Tensor, kept: int, off: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Predict ``x``, of which the units `off` are hidden; and the bits that it took, if any.

        The units ``order[:, :kept]`` are shown, but for those of them that are `off`.
        """
        raise NotImplementedError

    def _encode(self, x: torch.Tensor) -> list[torch.Tensor]:
        raise NotImplementedError

    @staticmethod
    def _error(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


def enlarged(units: torch.Tensor, times: int) -> torch.Tensor:
    """Repeat the values of units ``(..., y, x)`` over their pixels."""
    return units.repeat_interleave(times, -2).repeat_interleave(times, -1)


def build_masked(name: str, *, weights: str | None = None, **options: Any) -> MaskedModel:
    """Build a masked model; the options are those of `masked_card`.

    >>> build_masked("prithvi_demo", frames=3, weights="pretrained").unit
    8

    Parameters
    ----------
    weights
        Of a Prithvi with its decoder: ``"pretrained"`` (the file that comes with geowb), a file or
        ``hf://OWNER/REPOSITORY/FILE``; None or empty for random ones. A file of geowb brings its
        normalisation, unless `mean` and `std` are given.

    Raises
    ------
    WeightsMismatch
        If they do not fit, or have no decoder.
    """
    model = from_card(masked_card(name, **options))
    if weights:
        from geowb.models.weights import load_masked_weights

        if spec(name).family != "prithvi":
            raise ModelError(f"'{name}' takes no weights here: load its file (geowb.models.load).")
        free = [key for key in ("mean", "std") if options.get(key) is None]
        model.card["weights"], model.card["pretrained"] = load_masked_weights(model, weights, free)
    return model


def masked_card(
    name: str,
    *,
    bands: Sequence[str] = HLS6,
    frames: int = 1,
    size: int = 64,
    unit: int = 0,
    mask_ratio: float = 0.75,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Check what a masked model is to be, and write it as a card; nothing is built.

    >>> masked_card("prithvi_demo", frames=3)["unit"]
    8

    Parameters
    ----------
    name
        A Prithvi or Swin model of ``geowb.models.MODELS``.
    bands, mean, std
        Names of the bands, and their statistics in counts.
    frames
        Most dates that the model takes (Prithvi); the dates of a chip (Swin, where they are
        channels).
    size
        Edge of the chips that it is pretrained on, in pixels.
    unit
        Edge of what is hidden as a whole; 0 for the patch (Prithvi, always) or 16 pixels (Swin).
    mask_ratio
        Share that is hidden in pretraining: 0.75 in Prithvi, 0.6 in SimMIM.
    seed
        Of the random weights.

    Raises
    ------
    ModelError
        For a model that is not pretrained by masking, unknown bands, a size that does not fit.
    """
    found = spec(name)
    if found.family not in ("prithvi", "swin"):
        raise ModelError(f"'{name}' is not pretrained by masking: use a Prithvi or a Swin model.")
    patch = found.encoder["patch_size"][1] if found.family == "prithvi" else 4
    unit = unit or (patch if found.family == "prithvi" else 16)
    step = patch if found.family == "prithvi" else 32
    if unit % patch or (found.family == "prithvi" and unit != patch) or size % max(unit, step):
        raise ModelError(
            f"'{name}' hides units of a multiple of {patch} pixels in chips of a multiple of "
            f"{step}: unit {unit} and size {size} do not fit."
        )
    mean, std = statistics(found, bands, mean, std)
    return {
        "kind": "masked",
        "name": name,
        "bands": list(bands),
        "frames": frames,
        "size": size,
        "unit": unit,
        "mask_ratio": mask_ratio,
        "mean": mean,
        "std": std,
        "seed": seed,
        "weights": f"random (seed {seed})",
        "pretrained": False,
    }


def from_card(card: Mapping[str, Any]) -> MaskedModel:
    """Build the masked model that a card describes; its weights are random."""
    from geowb.models.mae import MaskedPrithvi
    from geowb.models.simmim import MaskedSwin

    card = dict(card)
    found = spec(card["name"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(card["seed"])
        return MaskedPrithvi(card, found) if found.family == "prithvi" else MaskedSwin(card)
