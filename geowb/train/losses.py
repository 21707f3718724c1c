"""Losses over the labelled pixels of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from geowb.errors import RequestError, did_you_mean

__all__ = ["LOSSES", "class_loss", "masked_rmse"]

#: Losses of classes: cross entropy (floods, crops in the Prithvi paper's public code) and Dice
#: (burn scars).
LOSSES = ("cross_entropy", "dice")


def masked_rmse(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Root of the mean square error over the labelled pixels of the whole batch.

    >>> nan = float("nan")
    >>> masked_rmse(torch.tensor([1.0, 5.0, 9.0]), torch.tensor([4.0, 1.0, nan])).item()
    3.535533905029297

    Both of the same shape; NaN in `target` is unlabelled. The root is taken once, after masking,
    as in TerraTorch's regression task. Without any label the loss is zero and so is its gradient.
    """
    labelled = torch.isfinite(target)
    if not labelled.any():
        return prediction.sum() * 0.0
    square = (prediction[labelled] - target[labelled]).square().mean()
    return square.clamp_min(1e-12).sqrt()  # the root has no finite slope at zero


def class_loss(
    scores: torch.Tensor,
    target: torch.Tensor,
    *,
    name: str = "cross_entropy",
    weights: Sequence[float] = (),
) -> torch.Tensor:
    """Loss of class scores over the labelled pixels of the whole batch.

    >>> scores = torch.zeros(1, 2, 1, 3)  # two classes, equally likely
    >>> round(class_loss(scores, torch.tensor([[[0, 1, -1]]])).item(), 4)  # ln 2
    0.6931

    Parameters
    ----------
    scores, target
        ``(B, K, H, W)`` logits; ``(B, H, W)`` classes from 0, -1 unlabelled.
    name
        ``cross_entropy``: a pixel counts by the weight of its class; or ``dice``: the mean
        over all classes of one minus the Dice coefficient of the probabilities, 0 for classes that
        the batch does not hold (segmentation-models-pytorch's).
    weights
        K weights of the cross entropy; empty for equal ones.

    Raises
    ------
    RequestError
        For an unknown loss, a wrong number of weights, or weights that Dice has no use for.
    """
    if name not in LOSSES:
        raise RequestError(f"There is no loss '{name}'. {did_you_mean(name, LOSSES)}")
    if len(weights) not in (0, scores.shape[1]) or (weights and name == "dice"):
        raise RequestError(
            f"class_weights: {len(weights)} weights for {scores.shape[1]} classes and the loss "
            f"'{name}'. The cross entropy takes one a class or none, Dice none."
        )
    if not (target >= 0).any():
        return scores.sum() * 0.0
    if name == "dice":
        import segmentation_models_pytorch as smp

        return smp.losses.DiceLoss("multiclass", ignore_index=-1)(scores, target)
    factors = scores.new_tensor(weights) if weights else None
    return nn.functional.cross_entropy(scores, target, factors, ignore_index=-1)
