"""How well scenes are told apart, and pixels mapped, from what arrives of embeddings.

>>> result = judge(sent, places, splits, epochs=10)  # doctest: +SKIP
>>> classes.drawn(result.table, score="accuracy")[0]  # doctest: +SKIP
0.94
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geowb.classes import confusion
from geowb.errors import DataError

if TYPE_CHECKING:
    import torch

    from geowb.nec.autoencoder import CompressedMAE
    from geowb.nec.places import Places
    from geowb.nec.sending import Sent

__all__ = ["Judged", "judge"]


@dataclass(frozen=True)
class Judged:
    """What a head made of embeddings that it was not trained on.

    Parameters
    ----------
    table
        Confusion matrix of each test image, as of `geowb.classes.confusions`; with repeated
        cross-validation the sum over the repeats.
    head
        The last head that was trained.
    seconds
        That training took, of all heads.
    """

    table: pd.DataFrame
    head: torch.nn.Module
    seconds: float


def judge(
    sent: Sent,
    places: Places,
    splits: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    maps: bool = False,
    layer_of: CompressedMAE | None = None,
    epochs: int,
    learning_rate: float = 2e-3,
    batch_size: int = 32,
    width: int = 0,
    head_channels: int = 128,
    seed: int = 0,
    accelerator: str = "auto",
) -> Judged:
    """Train a head on the embeddings of each split's training images, and count on its test images.

    >>> judge(by_codec(codec, images), places, splits, epochs=10).table  # doctest: +SKIP

    Parameters
    ----------
    splits
        Rows that are trained on and tested, as of `Places.folds`.
    maps
        Classes of pixels, and not of images.
    layer_of
        An autoencoder whose first layer of the decoder comes before the head.
    epochs, learning_rate, batch_size
        Of AdamW with weight decay 0.05 and one cycle of the rate. Nothing is chosen on the way: the
        weights are those of the end.
    width, head_channels
        Of `MapHead`.

    Raises
    ------
    DataError
        If the training images have fewer than two classes.
    """
    from geowb.nec.heads import DecoderLayer, MapHead, SceneHead, TokenDataset, predicted
    from geowb.train import Classification, Segmentation, fit, seed_everything

    labels = places.maps if maps else places.classes
    if labels is None:
        raise DataError("There are no classes of pixels here: only whole images are labelled.")
    names = places.map_names if maps else places.names
    channels, count, tables, seconds = sent.tokens.shape[-1], len(names), {}, 0.0
    for train, test in splits:
        seed_everything(seed)
        layer = None if layer_of is None else DecoderLayer(layer_of)
        head: torch.nn.Module
        if maps:
            how = {"size": labels.shape[-1], "layer": layer, "width": width, "head": head_channels}
            head = MapHead(channels, count, **how)
        else:
            head = SceneHead(channels, count, layer)
        fitted = fit(
            *(head, TokenDataset(sent.tokens, labels, train), None),
            task=Segmentation if maps else Classification,
            **{"epochs": epochs, "learning_rate": learning_rate, "batch_size": batch_size},
            **{"weight_decay": 0.05, "seed": seed, "accelerator": accelerator, "progress": False},
        )
        seconds += fitted.seconds
        made = predicted(head, sent.tokens, test, accelerator=accelerator)
        for row, one in zip(test, made, strict=True):
            found = confusion(labels[row : row + 1], one[None], count).ravel()
            tables[row] = tables[row] + found if row in tables else found
    rows = sorted(row for row, table in tables.items() if table.sum())
    index = places.index[rows]
    return Judged(pd.DataFrame([tables[row] for row in rows], index=index), head, seconds)
