"""How well scenes are told apart, and pixels mapped, from what arrives of embeddings.

>>> result = judge(sent, places, splits, epochs=10)  # doctest: +SKIP
>>> classes.drawn(result.table, score="accuracy")[0]  # doctest: +SKIP
0.94
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geowb.classes import confusion
from geowb.errors import DataError

if TYPE_CHECKING:
    import torch
    import xarray as xr

    from geowb.labelled import Places
    from geowb.nec.autoencoder import CompressedMAE
    from geowb.nec.sending import Sent

__all__ = ["Judged", "judge", "map_embedding", "operations"]


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
    """

    table: pd.DataFrame
    head: torch.nn.Module


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
        If the training images have fewer than two classes, or a split has no image to test.
    """
    from geowb.nec.heads import DecoderLayer, MapHead, SceneHead, TokenDataset, predicted
    from geowb.train import Classification, Segmentation, fit, seed_everything

    labels = places.maps if maps else places.classes
    if labels is None:
        raise DataError("There are no classes of pixels here: only whole images are labelled.")
    names = places.map_names if maps else places.names
    channels, count, tables = sent.tokens.shape[-1], len(names), {}
    for train, test in splits:
        if not len(test):
            raise DataError(f"There is no image to test a head on, and {len(train)} to train it.")
        seed_everything(seed)
        layer = None if layer_of is None else DecoderLayer(layer_of)
        head: torch.nn.Module
        if maps:
            how = {"size": labels.shape[-1], "layer": layer, "width": width, "head": head_channels}
            head = MapHead(channels, count, **how)
        else:
            head = SceneHead(channels, count, layer)
        fit(
            *(head, TokenDataset(sent.tokens, labels, train), None),
            task=Segmentation if maps else Classification,
            **{"epochs": epochs, "learning_rate": learning_rate, "batch_size": batch_size},
            **{"weight_decay": 0.05, "seed": seed, "accelerator": accelerator, "progress": False},
        )
        _take_averages(head, sent.tokens, np.random.default_rng(seed).permutation(train))
        made = predicted(head, sent.tokens, test, accelerator=accelerator)
        for row, one in zip(test, made, strict=True):
            found = confusion(labels[row : row + 1], one[None], count).ravel()
            tables[row] = tables[row] + found if row in tables else found
    rows = sorted(row for row, table in tables.items() if table.sum())
    index = places.index[rows]
    return Judged(pd.DataFrame([tables[row] for row in rows], index=index), head)


def _take_averages(
    head: torch.nn.Module, tokens: np.ndarray, rows: np.ndarray, batch_size: int = 64
) -> None:
    """Take the averages of batch normalisation anew, of all that was trained on.

    After a few steps they are still those of the beginning. `rows` come in random order: the spread
    is that within a batch. Batches are of one size, as far as that goes: each counts alike.
    """
    import torch

    batches = np.array_split(rows, math.ceil(len(rows) / batch_size))
    seen = (torch.from_numpy(tokens[batch]) for batch in batches)
    torch.optim.swa_utils.update_bn(seen, head)


def operations(call: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> int:
    """Count the multiplications and additions of a network, as PyTorch does.

    >>> operations(torch.nn.Linear(8, 4), torch.zeros(1, 8))  # 4 x 8 of each
    64
    """
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:  # its hooks need gradients
        call(x)
    return int(counter.get_total_flops())


def map_embedding(
    head: torch.nn.Module, embedding: xr.DataArray, *, tokens: int, unit: int
) -> xr.DataArray:
    """Map the classes of a whole embedding, window by window; neither images nor encoder needed.

    >>> map_embedding(result.head, open_embeddings("scene.zarr"), tokens=16, unit=8)
    ... # doctest: +SKIP

    Parameters
    ----------
    head
        A `geowb.nec.heads.MapHead`.
    embedding
        ``(time, y, x, channel)`` as of `geowb.nec.open_embeddings`; its first date is mapped.
    tokens
        Along an edge of the windows, as in the head's training.
    unit
        Pixels along an edge of a token.

    Returns
    -------
    xarray.DataArray
        ``(y, x)`` int16 on the grid of the pixels, -1 where a token is missing.

    Raises
    ------
    DataError
        If the embedding is smaller than a window, or its places are not known along y and x, as
        those of a turned grid.
    """
    import torch

    whole = embedding.isel(time=0) if "time" in embedding.dims else embedding
    height, width = whole.sizes["y"], whole.sizes["x"]
    if min(height, width) < tokens:
        raise DataError(f"The embedding has {height} x {width} tokens; a window has {tokens}.")
    if missing := {"x", "y"} - set(whole.coords):
        raise DataError(
            f"The embedding has no coordinates {' and '.join(sorted(missing))}, as one of a turned "
            "grid has none: it cannot be put on pixels. Warp the scene to a grid that is not "
            "turned (rioxarray's reproject) before it is encoded."
        )
    made = np.full((height * unit, width * unit), -1, np.int16)
    head.eval()
    with torch.inference_mode():
        for y in range(0, height, tokens):
            top = min(y, height - tokens)
            row = whole.isel(y=slice(top, top + tokens)).values  # each chunk decoded once
            for x in range(0, width, tokens):
                left = min(x, width - tokens)
                part = row[:, left : left + tokens]
                there = np.isfinite(part).all(axis=-1)
                given = torch.from_numpy(np.nan_to_num(part).astype(np.float32))[None]
                found = head(given).argmax(1)[0].numpy().astype(np.int16)
                found[~np.kron(there, np.ones((unit, unit), bool))] = -1
                edge = tokens * unit
                window = np.s_[top * unit : top * unit + edge, left * unit : left * unit + edge]
                made[window] = found
    return _on_pixels(made, whole, unit)


def _on_pixels(values: np.ndarray, tokens: xr.DataArray, unit: int) -> xr.DataArray:
    """Put values on the grid whose squares of `unit` pixels are the tokens."""
    import xarray as xr

    coords = {}
    for dim in ("y", "x"):
        centres = tokens[dim].values
        step = (centres[1] - centres[0]) / unit
        coords[dim] = (centres[:, None] + step * (np.arange(unit) - (unit - 1) / 2)).ravel()
    made = xr.DataArray(values, coords=coords, dims=("y", "x"))
    return made.rio.write_crs(tokens.rio.crs) if tokens.rio.crs is not None else made
