"""A masked autoencoder with a factorised prior between encoder and decoder.

>>> from geowb.models.masked import build_masked
>>> model = CompressedMAE.of(build_masked("mae_demo", bands=("RED", "GREEN", "BLUE")))
>>> out = model(torch.zeros(1, 3, 1, 64, 64))
>>> out.prediction.shape, out.bits.shape  # 16 of 64 patches are shown, and the class token
(torch.Size([1, 3, 1, 64, 64]), torch.Size([1, 17]))
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from geowb.errors import ModelError
from geowb.models.mae import MaskedPrithvi
from geowb.models.masked import MaskedModel, enlarged
from geowb.models.registry import ModelSpec, spec
from geowb.nec.prior import FactorizedPrior

__all__ = ["CompressedMAE", "Share"]


class Share(NamedTuple):
    """Parameters that are trained, and all of them."""

    trained: int
    all: int

    @property
    def fraction(self) -> float:
        """Their ratio."""
        return self.trained / self.all


class CompressedMAE(MaskedPrithvi):
    """Prithvi's (or MAE's) masked autoencoder, whose decoder sees what arrives of the embedding.

    The prior stands behind the encoder's last norm; all its channels are coded, nothing is
    projected (Gomes and Brunschwiler 2024, IBM/neural-embedding-compression). Of the network the
    last block of the encoder, the first of the decoder and what is in no block are trainable.
    """

    def __init__(self, card: dict[str, Any], found: ModelSpec) -> None:
        super().__init__(card, found)
        self.prior = FactorizedPrior(self.encoder.embed_dim, seed=card["seed"])
        for block in (*self.encoder.blocks[:-1], *self.decoder.decoder_blocks[1:]):
            block.requires_grad_(False)

    @classmethod
    def of(cls, masked: MaskedModel) -> CompressedMAE:
        """Put a prior into a masked model; its weights are copied.

        Raises
        ------
        ModelError
            For a Swin model, whose stages are no tokens.
        """
        if not isinstance(masked, MaskedPrithvi):
            raise ModelError(
                f"'{masked.card['name']}' has no tokens to compress: use a Prithvi or an MAE model."
            )
        with torch.random.fork_rng(devices=[]):
            model = cls(dict(masked.card), spec(masked.card["name"]))
        own = {k: v for k, v in masked.state_dict().items() if not k.startswith("prior.")}
        model.load_state_dict(own, strict=False)
        return model

    def _between(self, latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        arrived, bits = self.prior(latent)
        return arrived, bits.sum(-1)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Encode whole chips ``(B, C, T, H, W)``; patches as ``(B, T, h, w, D)``, not rounded yet.

        The class token is not among them: it belongs to a chip, not to a place.
        """
        grid = self.grid(x)
        normal = ((x - self.mean) / self.std).nan_to_num(posinf=0.0, neginf=0.0)
        return self.encoder.forward_features(normal)[-1][:, 1:].unflatten(1, grid)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Give `embed` as a map ``(B, T * D, h, w)``, the first date's channels first."""
        return self.embed(x).permute(0, 1, 4, 2, 3).flatten(1, 2)

    @torch.no_grad()
    def reconstruct(self, tokens: torch.Tensor, *, passes: int = 8, seed: int = 0) -> torch.Tensor:
        """Predict images from embeddings ``(B, T, h, w, D)`` as they arrive: ``(B, C, T, H, W)``.

        The decoder has learnt to predict what is hidden, so each patch is predicted from others:
        in each of `passes` it is given a random share of the tokens, as many as in training, and
        the predictions of the others are averaged. The class token does not arrive; that of an
        image of the bands' means stands for it.
        """
        random = torch.Generator().manual_seed(seed)
        grid, unit = tokens.shape[1:4], self.unit
        shape = (grid[0], grid[1] * unit, grid[2] * unit)
        blank = tokens.new_zeros(1, len(self.card["bands"]), *shape)
        first = self.encoder.forward_features(blank)[-1][:, :1].expand(len(tokens), -1, -1)
        flat = tokens.flatten(1, 3)
        count = flat.shape[1]
        shown = max(1, int(count * (1 - self.card["mask_ratio"])))
        total, times = tokens.new_zeros(()), tokens.new_zeros(count)
        for start in range(passes):
            # Shares follow each other through one order, so that every patch has its turn.
            if start * shown % count < shown:
                order = torch.randperm(count, generator=random)
            order = order.roll(-shown)
            latent = torch.cat((first, flat[:, order[:shown]]), dim=1)
            every = order.expand(len(tokens), -1).to(tokens.device)
            padding = torch.zeros(len(tokens), shown, dtype=torch.bool, device=tokens.device)
            made = self._decode_shown(latent, every, padding, shape)
            hidden = torch.ones(count, device=tokens.device)
            hidden[order[:shown]] = 0
            times = times + hidden
            pixels = enlarged(hidden.reshape(grid), unit)
            total = total + made * pixels
        weights = enlarged(times.clamp_min(1).reshape(grid), unit)
        return total / weights * self.std + self.mean

    def trained(self) -> Share:
        """Count what is trained for compression; the prior's quantiles, which are solved for, too.

        Fixed encodings of places are no parameters. Of MAE ViT-B/16 it is 11,669,248 of
        111,702,528: 10.45 %.
        """
        fixed = ("temporal_embed", "location_embed")
        counted = {n: p for n, p in self.named_parameters() if not any(f in n for f in fixed)}
        ours = [p for n, p in counted.items() if p.requires_grad or n == "prior.quantiles"]
        return Share(sum(p.numel() for p in ours), sum(p.numel() for p in counted.values()))

    @torch.no_grad()
    def rescale(self, factor: float) -> None:
        """Widen the embedding by a factor, and have the decoder undo it: a step is finer then.

        Without a prior between, the model is the same function as before.
        """
        norm: nn.Module = self.encoder.norm
        norm.weight.mul_(factor)
        norm.bias.mul_(factor)
        self.decoder.decoder_embed.weight.div_(factor)
