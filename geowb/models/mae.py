"""Prithvi's masked autoencoder, which can also fill what is missing from an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from geowb.errors import ModelError
from geowb.models.masked import MaskedModel, Reconstruction
from geowb.models.registry import ModelSpec
from geowb.models.wrapper import terratorch

__all__ = ["MaskedPrithvi"]


class MaskedPrithvi(MaskedModel):
    """Prithvi's 3-D masked autoencoder: the encoder sees shown patches only; mean square error."""

    def __init__(self, card: dict[str, Any], found: ModelSpec) -> None:
        super().__init__(card)
        terratorch()
        from terratorch.models.backbones.prithvi_mae import PrithviMAE

        # The grid of positions is the registry's, as in `build`; other sizes are interpolated.
        arguments = {**found.encoder, "num_frames": card["frames"]}
        mae = PrithviMAE(in_chans=len(card["bands"]), **arguments)
        # Held apart so that the names in a file are those of Prithvi's checkpoints.
        self.encoder, self.decoder = mae.encoder, mae.decoder
        self._image = mae.unpatchify
        for name, parameter in self.named_parameters():
            if "temporal_embed" in name or "location_embed" in name:
                parameter.requires_grad_(False)  # pretrained without coordinates

    def fill(self, x: torch.Tensor, missing: torch.Tensor) -> Reconstruction:
        """Predict what is missing from what is not.

        >>> model, x = build_masked("prithvi_demo", frames=3), torch.zeros(1, 6, 3, 16, 16)
        >>> missing = torch.zeros(1, 3, 16, 16, dtype=torch.bool)
        >>> missing[:, 1, :5, :5] = True
        >>> int(model.fill(x, missing).hidden.sum())  # one patch of 8 x 8
        64

        A patch with a missing pixel is hidden as a whole, all others are shown. Each sample keeps
        all of its own, however many the others of its batch have.

        Parameters
        ----------
        x
            Chips ``(B, C, T, H, W)`` in counts; anything where they are missing. Pixels with NaN in
            any band are missing too.
        missing
            ``(B, T, H, W)`` bool.

        Returns
        -------
        Reconstruction
            The loss is the mean square error over the hidden patches of the whole batch, pixels
            without data left out (Jakubik et al. 2023; ClarkCGA/gfm-gap-filling, models_mae.py):
            in training `x` holds the truth behind the mask.

        Raises
        ------
        ModelError
            For other shapes, and for a sample of which no patch is left to see.
        """
        off = self._off(x, missing)
        visible = (~off).flatten(1).sum(1)
        if not visible.all():
            blind = visible.eq(0).nonzero()[0].item()
            raise ModelError(
                f"Sample {blind} of the batch has no patch of {self.unit} x {self.unit} pixels "
                "without a missing one: there is nothing to fill it from. Leave it out."
            )
        order = off.flatten(1).byte().argsort(dim=1, stable=True)  # shown patches first
        return self._reconstruct(x, order, int(visible.max()), off)

    def can_fill(self, x: torch.Tensor, missing: torch.Tensor) -> torch.Tensor:
        """Whether each sample has a patch that is wholly there, ``(B,)`` bool."""
        return ~self._off(x, missing).flatten(1).all(1)

    def _off(self, x: torch.Tensor, missing: torch.Tensor) -> torch.Tensor:
        """Which patches have a missing pixel."""
        grid = self.grid(x)
        if missing.shape != (len(x), *x.shape[2:]) or missing.dtype != torch.bool:
            raise ModelError(
                f"missing is {tuple(missing.shape)} of {missing.dtype}; chips {tuple(x.shape)} "
                f"want {(len(x), *x.shape[2:])} of torch.bool."
            )
        missing = missing | ~torch.isfinite(x).all(1)
        patches = missing.unflatten(-1, (grid[2], self.unit)).unflatten(-3, (grid[1], self.unit))
        return patches.any(-1).any(-2)

    def _predict(
        self, x: torch.Tensor, order: torch.Tensor, kept: int, off: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        # Samples that show fewer are filled up with hidden tokens, to which nothing attends.
        padding = off.flatten(1).gather(1, order[:, :kept])
        latent, bits = self._between(self._encode_shown(x, order[:, :kept], padding))
        return self._decode_shown(latent, order, padding, x.shape[-3:]), bits

    def _between(self, latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Pass tokens ``(B, 1 + shown, D)`` on to the decoder; give the bits of each."""
        return latent, None

    def _encode_shown(
        self, x: torch.Tensor, shown: torch.Tensor, padding: torch.Tensor
    ) -> torch.Tensor:
        """Encode the class token and the shown patches: ``(B, 1 + shown, D)``."""
        encoder = self.encoder
        tokens = encoder.patch_embed(x)
        places = encoder.interpolate_pos_encoding(x.shape[-3:])
        tokens = tokens + places[:, 1:]
        tokens = tokens.gather(1, shown[..., None].expand(-1, -1, tokens.shape[-1]))
        first = (encoder.cls_token + places[:, :1]).expand(len(x), -1, -1)
        latent = torch.cat((first, tokens), dim=1)
        seen = ~nn.functional.pad(padding, (1, 0))[:, None, None] if padding.any() else None
        for block in encoder.blocks:
            latent = block(latent, attn_mask=seen)
        return encoder.norm(latent)

    def _decode_shown(
        self,
        latent: torch.Tensor,
        order: torch.Tensor,
        padding: torch.Tensor,
        shape: Sequence[int],
    ) -> torch.Tensor:
        """Predict images of a shape (T, H, W) from the tokens of the patches that come first."""
        decoder = self.decoder
        latent = decoder.decoder_embed(latent)
        # As TerraTorch's MAEDecoder, but that mask tokens take the place of the padding too.
        shown = torch.where(padding[..., None], decoder.mask_token, latent[:, 1:])
        rest = decoder.mask_token.expand(len(order), order.shape[1] - shown.shape[1], -1)
        shown = torch.cat((shown, rest), dim=1)
        back = order.argsort(dim=1)[..., None].expand(-1, -1, shown.shape[-1])
        latent = torch.cat((latent[:, :1], shown.gather(1, back)), dim=1)
        latent = latent + decoder.interpolate_pos_encoding(shape)
        for block in decoder.decoder_blocks:
            latent = block(latent)
        patches = decoder.decoder_pred(decoder.decoder_norm(latent))[:, 1:]
        return self._image(patches, image_size=shape[-2:])

    def _encode(self, x: torch.Tensor) -> list[torch.Tensor]:
        from geowb.models.prithvi import as_map

        return [as_map(self.encoder.forward_features(x)[-1], self.grid(x))]

    @staticmethod
    def _error(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (prediction - target).square()
