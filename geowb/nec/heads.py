"""What a receiver puts on an embedding: heads for scene classes and for maps of classes.

>>> SceneHead(192, 5)(torch.zeros(2, 16, 16, 192)).shape
torch.Size([2, 5])
>>> MapHead(192, 5, size=128).eval()(torch.zeros(2, 16, 16, 192)).shape
torch.Size([2, 5, 128, 128])

Encoder and codec stay as they are; a head sees what arrives of the embedding and nothing else.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from timm.layers import AttentionPoolLatent
from torch import nn

from geowb.errors import RequestError

if TYPE_CHECKING:
    from geowb.nec.autoencoder import CompressedMAE

__all__ = ["DecoderLayer", "MapHead", "SceneHead", "TokenDataset", "predicted"]

#: Channels of an attention head, as in ViT-B.
_HEAD = 64


class DecoderLayer(nn.Module):
    """A masked autoencoder's way from the embedding into its decoder, and the first block there.

    >>> DecoderLayer(model)(torch.zeros(2, 16, 16, 192)).shape  # doctest: +SKIP
    torch.Size([2, 16, 16, 96])

    Begins with the weights of the autoencoder, and is trained (all of it, in every arm: the paper's
    code trains the first layer of some arms alone). Encodings of places are the decoder's own.
    """

    def __init__(self, model: CompressedMAE) -> None:
        super().__init__()
        decoder = model.decoder
        self.embed = copy.deepcopy(decoder.decoder_embed).requires_grad_(True)
        self.block = copy.deepcopy(decoder.decoder_blocks[0]).requires_grad_(True)
        self.channels = self.embed.out_features
        self._places = decoder.interpolate_pos_encoding
        self._unit = model.unit

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map ``(B, y, x, D)`` to ``(B, y, x, channels)``."""
        grid = tokens.shape[1:3]
        shape = (1, grid[0] * self._unit, grid[1] * self._unit)
        places = self._places(shape)[:, 1:].detach().to(tokens)
        return self.block(self.embed(tokens.flatten(1, 2)) + places).unflatten(1, grid)


class _Head(nn.Module):
    """What both heads have: their card, the layer of the decoder that may come first, and a norm.

    Channels are standardised (batch normalisation without weights), as MAE's linear probe does: an
    embedding's channels differ in scale, their means are many times their spread, and a codec may
    widen them all. The published heads have no such norm.
    """

    def __init__(self, channels: int, classes: int, layer: DecoderLayer | None) -> None:
        super().__init__()
        if classes < 2:
            raise RequestError(f"A head for {classes} class(es): two or more are told apart.")
        self.card = {"outputs": classes}
        self.layer = layer
        self.channels = channels if layer is None else layer.channels
        self.norm = nn.BatchNorm2d(self.channels, affine=False)

    def _seen(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map tokens to ``(B, channels, y, x)``."""
        tokens = tokens if self.layer is None else self.layer(tokens)
        return self.norm(tokens.permute(0, 3, 1, 2))


class SceneHead(_Head):
    """One class an image: attention pooling and a linear layer, as in the paper's code.

    Takes tokens ``(B, y, x, channels)``; returns ``(B, classes)`` scores.

    Parameters
    ----------
    layer
        A layer of the decoder that the tokens go through first.
    """

    def __init__(self, channels: int, classes: int, layer: DecoderLayer | None = None) -> None:
        super().__init__(channels, classes, layer)
        heads = max(1, self.channels // _HEAD)
        self.pool = AttentionPoolLatent(self.channels, num_heads=heads)
        self.classes = nn.Linear(self.channels, classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Score images."""
        return self.classes(self.pool(self._seen(tokens).flatten(2).transpose(1, 2)))


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GELU(),
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GELU(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x)


def _enlarging(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 4 * channels, 3, padding=1),
        nn.PixelShuffle(2),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    )


def _convolutions(channels: int, width: int, count: int, classes: int) -> nn.Module:
    """Build mmsegmentation's FCN head without its concatenated input."""
    layers: list[nn.Module] = []
    for at in range(count):
        layers += [
            nn.Conv2d(width if at else channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.Conv2d(width, classes, 1))


class MapHead(_Head):
    """One class a pixel: the adapter of the paper's code, and two small convolutional heads.

    A 3 x 3 convolution to half the channels, six residual blocks with a path around all of them,
    two enlargements by pixel shuffle; then two convolutions, and in training one beside them as
    auxiliary output (`geowb.train.Segmentation`). The scores are interpolated to the image.
    (In the published code the second convolution of a residual block is never used and the first
    one twice; here each is used once.)

    Takes tokens ``(B, y, x, channels)``; returns ``(B, classes, size, size)`` scores, in training
    a pair of these.

    Parameters
    ----------
    size
        Edge of the image in pixels; tokens of another number of rows make another size.
    width
        Channels of the adapter; half of the tokens' if 0, as published.
    head
        Channels of the head; of the auxiliary one half of it (128 and 64 as published).
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        size: int,
        layer: DecoderLayer | None = None,
        width: int = 0,
        head: int = 128,
    ) -> None:
        super().__init__(channels, classes, layer)
        width = width or self.channels // 2
        self.size = size
        self.narrow = nn.Conv2d(self.channels, width, 3, padding=1)
        self.blocks = nn.Sequential(*(_Residual(width) for _ in range(6)))
        self.enlarge = nn.Sequential(_enlarging(width), _enlarging(width))
        self.head = _convolutions(width, head, 2, classes)
        self.auxiliary = _convolutions(width, max(1, head // 2), 1, classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Score pixels."""
        x = self.narrow(self._seen(tokens))
        x = self.enlarge(x + self.blocks(x))
        if not self.training:
            return self._at_size(self.head(x))
        return self._at_size(self.head(x)), self._at_size(self.auxiliary(x))

    def _at_size(self, scores: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(scores, (self.size, self.size), mode="bilinear")


class TokenDataset:
    """Embeddings and their labels as a torch dataset, for `geowb.train.fit`.

    >>> data = TokenDataset(np.zeros((3, 2, 2, 4), np.float32), np.array([0, 1, 1]), rows=[0, 2])
    >>> len(data), data[1]["label"].item(), data.classes()
    (2, 1, [0, 1])

    Parameters
    ----------
    tokens, labels
        ``(N, y, x, channel)`` float32; ``(N,)`` or ``(N, y, x)`` classes, -1 unlabelled.
    rows
        Which of them, in this order.
    """

    def __init__(self, tokens: np.ndarray, labels: np.ndarray, rows: Sequence[int]) -> None:
        self.tokens, self.labels, self.rows = tokens, labels, np.asarray(rows, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        label = torch.as_tensor(self.labels[row], dtype=torch.int64)
        return {"image": torch.from_numpy(self.tokens[row]), "label": label, "index": index}

    def set_epoch(self, epoch: int) -> None:
        """Nothing is drawn at random."""

    def classes(self) -> list[int]:
        """List the classes among the labels."""
        found = np.unique(self.labels[self.rows])
        return [int(k) for k in found if k >= 0]

    def count_labelled(self) -> int:
        """Count the labels that are there."""
        return int((self.labels[self.rows] >= 0).sum())

    def labelled_only(self) -> TokenDataset:
        """Leave out what has no label at all."""
        there = (self.labels[self.rows] >= 0).reshape(len(self.rows), -1).any(axis=1)
        return TokenDataset(self.tokens, self.labels, self.rows[there])


def predicted(
    head: nn.Module,
    tokens: np.ndarray,
    rows: Sequence[int],
    *,
    batch_size: int = 32,
    accelerator: str = "auto",
) -> np.ndarray:
    """Class of each image ``(n,)`` or of each pixel ``(n, y, x)``."""
    from geowb.models.wrapper import placed

    rows, made = np.asarray(rows), []
    with placed(head.eval(), accelerator) as device, torch.inference_mode():
        for start in range(0, len(rows), batch_size):
            some = torch.from_numpy(tokens[rows[start : start + batch_size]]).to(device)
            made.append(head(some).argmax(1).cpu().numpy())
    return np.concatenate(made)
