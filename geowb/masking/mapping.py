"""Where in a map gradients are strong, and where they mislead: measures a pixel.

>>> found = pixel_maps(model, x, y, epsilon=0.01, bounds=(0, 10_000))  # doctest: +SKIP
>>> list(found.data_vars)  # doctest: +SKIP
['gradient', 'agreement', 'linearization_error']
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from geowb.errors import RequestError
from geowb.masking import metrics as measure
from geowb.masking import steps as step
from geowb.masking.subject import Point, Subject, points, undisturbed

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["pixel_maps"]


def pixel_maps(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    epsilon: float,
    bounds: tuple[float, float],
    norm: str = "linf",
    loss: str = "cross_entropy",
    draws: int = 8,
    seed: int = 0,
    batch_size: int = 8,
) -> xr.Dataset:
    """Measure each pixel of samples with a label a pixel.

    Returns ``(sample, y, x)``, NaN where nothing is defined:

    ``gradient``: length over the bands (and dates) of the gradient of the sample's loss, per unit
    of the pixel range. ``agreement``: cosine over the bands between what FGSM and what PGD change
    in the pixel. ``linearization_error``: mean relative error of the first-order prediction of the
    pixel's own loss at random corners of the ball, of labelled pixels; its denominator is the loss
    that comes, or the mean loss of the map where that is larger, since pixels of no loss are many.

    Parameters
    ----------
    x, y
        ``(N, ..., H, W)`` within `bounds` (reflectance: 0 to 10,000), and ``(N, H, W)``: classes,
        -1 unlabelled, or quantities, NaN unlabelled, with ``loss="squared_error"``.
    draws
        Corners; each takes a pass forward and two backward.

    Others, and errors, as in `geowb.masking.fgsm_pgd_cosine`; a RequestError for samples that have
    one label each.
    """
    import xarray as xr

    step.check(norm, epsilon, draws=draws)
    subject = Subject(model, bounds, loss)
    found: dict[str, list[np.ndarray]] = {}
    with undisturbed(model, seed), sdpa_kernel(SDPBackend.MATH):  # which has a second derivative
        for point in points(subject, x, y, batch_size):
            if point.y.ndim < 3:
                raise RequestError(
                    f"Maps of measures need a label a pixel, (N, H, W); these are "
                    f"{tuple(point.y.shape)}."
                )
            _ = point.output  # checked, with the targets' shape, before anything else
            for name, values in _maps(point, epsilon, norm, draws, seed).items():
                found.setdefault(name, []).append(values.detach().cpu().numpy())
    units = {"gradient": "1 / pixel range", "agreement": "cosine", "linearization_error": "share"}
    return xr.Dataset(
        {
            name: (("sample", "y", "x"), np.concatenate(parts), {"units": units[name]})
            for name, parts in found.items()
        }
    )


def _maps(
    point: Point, epsilon: float, norm: str, draws: int, seed: int
) -> dict[str, torch.Tensor]:
    pgd = {"steps": measure.PGD["steps"], "step_size": measure.PGD["size"], "seed": seed}
    one, many = (u - point.u for u in measure.attacked(point, epsilon, norm, "label", **pgd))
    flat = (len(point), -1, *point.u.shape[-2:])
    gradient = point.gradient("label").reshape(flat).norm(dim=1)
    first, second = one.reshape(flat), many.reshape(flat)
    size = first.norm(dim=1) * second.norm(dim=1)
    agreement = torch.where(size > 0, (first * second).sum(1) / size, torch.nan)
    errors = [
        _error(point, way)
        for ways in step.directions(point.u, epsilon, norm, draws, seed)
        for way in ways
    ]
    seen = point.seen.reshape(len(point), *point.u.shape[-2:])
    error = torch.where(seen, torch.stack(errors).mean(0), torch.nan)
    return {"gradient": gradient, "agreement": agreement, "linearization_error": error}


def _error(point: Point, way: torch.Tensor) -> torch.Tensor:
    """Relative error of the forecast of each pixel's loss along one way, ``(N, H, W)``.

    The forecast for all pixels at once is the product of the Jacobian with the way: the derivative,
    by weights on the pixels, of the weighted loss's slope along it.
    """
    u = point.u.detach().requires_grad_()
    here = _pixel_losses(point, point.subject.output(u, point.there))
    weights = torch.zeros_like(here, requires_grad=True)
    (slope,) = torch.autograd.grad((here * weights).sum(), u, create_graph=True)
    (foreseen,) = torch.autograd.grad((slope * way).sum(), weights)
    point.subject.passes.backward += 2 * len(point)
    with torch.no_grad():
        there = _pixel_losses(point, point.subject.output(point.u + way, point.there))
        scale = torch.maximum(there, there.mean((1, 2), keepdim=True)).clamp_min(1e-12)
        return ((here + foreseen - there).abs() / scale).detach()


def _pixel_losses(point: Point, output: torch.Tensor) -> torch.Tensor:
    """Loss of each pixel, ``(N, H, W)``, 0 where there is no label."""
    shape = (len(point), *point.u.shape[-2:])
    if point.quantities:
        error = torch.where(point.seen, output.reshape(point.y.shape) - point.y.nan_to_num(), 0.0)
        return error.square().reshape(shape)
    return nn.functional.cross_entropy(output, point.y, ignore_index=-1, reduction="none")
