"""Small classifiers that are defended in different ways, honestly or by hiding their gradients.

>>> x, y = torch.rand(64, 1, 8, 8), torch.arange(64) % 4
>>> model = train("pgd", x, y, epsilon=0.1, epochs=1)
>>> model(x).shape
torch.Size([64, 4])

They differ in how much they mask: that is what they are for. None is a defence to rely on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from geowb.errors import DataError, RequestError, did_you_mean
from geowb.lines import Line
from geowb.models.classifier import Classifier, build_classifier

__all__ = ["DEFENCES", "OPTIMIZERS", "Defence", "train"]

OPTIMIZERS = ("adam", "sgd")


@dataclass(frozen=True)
class Defence:
    """How a model is trained or built to withstand an attack.

    Parameters
    ----------
    says
        What it does, in a line.
    masks
        Whether it hides its gradients by construction: without making the model any more robust.
        None where training leads into it (catastrophic overfitting), to a degree that depends.
    examples
        What it is trained on in place of the images; None for the images themselves.
    penalty
        Added to the loss, times `weight`.
    strength
        Epsilon of the training, as a multiple of what is defended against.
    both
        Whether it is trained on the images too.
    longer, faster
        Epochs and learning rate, as multiples of the others'.
    built
        Arguments of `geowb.models.build_classifier` that differ.
    after
        Entries of the trained classifier's card that are changed at the end.
    """

    says: str
    masks: bool | None = False
    examples: Callable[..., torch.Tensor] | None = None
    penalty: Callable[..., torch.Tensor] | None = None
    weight: float = 0.0
    strength: float = 1.0
    both: bool = False
    longer: int = 1
    faster: float = 1.0
    built: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)


def _loss_gradient(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, keep: bool = False
) -> torch.Tensor:
    x = x if keep else x.detach().requires_grad_()
    return torch.autograd.grad(cross_entropy(model(x), y, reduction="sum"), x, create_graph=keep)[0]


def _fgsm(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, epsilon: float, _: torch.Generator
) -> torch.Tensor:
    return (x + epsilon * _loss_gradient(model, x, y).sign()).clamp(0, 1)


def _step_ll(
    model: nn.Module, x: torch.Tensor, _: torch.Tensor, epsilon: float, __: torch.Generator
) -> torch.Tensor:
    with torch.no_grad():
        least = model(x).argmin(1)
    return (x - epsilon * _loss_gradient(model, x, least).sign()).clamp(0, 1)


def _pgd(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, epsilon: float, drawn: torch.Generator
) -> torch.Tensor:
    """Seven steps of epsilon/4 from a random start, as in the paper's code."""
    u = (x + epsilon * (2 * torch.rand(x.shape, generator=drawn).to(x) - 1)).clamp(0, 1)
    for _ in range(7):
        moved = u + epsilon / 4 * _loss_gradient(model, u, y).sign()
        u = (x + (moved - x).clamp(-epsilon, epsilon)).clamp(0, 1)
    return u


def _jacobian(
    model: nn.Module, x: torch.Tensor, _: torch.Tensor, drawn: torch.Generator
) -> torch.Tensor:
    """``||J||_F^2`` of the logits, by one random projection (Hoffman et al., 2019)."""
    x = x.detach().requires_grad_()
    output = model(x)
    way = torch.randn(output.shape, generator=drawn).to(output)
    return torch.autograd.grad(output, x, way, create_graph=True)[0].square().flatten(1).sum(1)


def _curvature(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, _: torch.Generator, reach: float = 1.5
) -> torch.Tensor:
    """``||grad loss(x + h z) - grad loss(x)||``, z along the gradient's sign (CURE)."""
    x = x.detach().requires_grad_()
    here = _loss_gradient(model, x, y, keep=True)
    way = here.detach().sign()
    size = way.flatten(1).norm(dim=1).clamp_min(1e-9).reshape(-1, *[1] * (x.ndim - 1))
    there = _loss_gradient(model, x + reach * way / size, y, keep=True)
    return (there - here).flatten(1).norm(dim=1)


DEFENCES: Mapping[str, Defence] = MappingProxyType(
    {
        "none": Defence("trained on the images alone"),
        "fgsm": Defence("trained on FGSM's images", examples=_fgsm),
        "fgsm_strong": Defence(
            "trained on FGSM's images of twice epsilon", examples=_fgsm, strength=2
        ),
        "fgsm_overfit": Defence(
            "trained on FGSM's images of 2.5 epsilon, three times as long and fast: it learns to "
            "withstand one step, not many (catastrophic overfitting)",
            masks=None,
            examples=_fgsm,
            strength=2.5,
            longer=3,
            faster=5.0,
        ),
        "step_ll": Defence(
            "trained on images and on steps to the least likely class", examples=_step_ll, both=True
        ),
        "pgd": Defence("trained on PGD's images", examples=_pgd),
        "pgd_weak": Defence("trained on PGD's images of half epsilon", examples=_pgd, strength=0.5),
        "jacobian": Defence(
            "logits that change little: Jacobian regularisation", penalty=_jacobian, weight=0.01
        ),
        "curvature": Defence(
            "gradients that change little: curvature regularisation", penalty=_curvature, weight=0.5
        ),
        "saturated": Defence(
            "trained on the images alone; logits times 100", masks=True, after={"gain": 100.0}
        ),
        "rounded_input": Defence(
            "trained on the images alone; pixels in four levels",
            masks=True,
            after={"levels": 4},
        ),
        "rounded_activations": Defence(
            "activations in four levels", masks=True, built={"activation": "levels"}
        ),
        "winners": Defence(
            "only 5 % of a layer's activations stay (k-WTA)",
            masks=True,
            built={"activation": "winners"},
        ),
        "steep": Defence(
            "activations that are nearly steps", masks=True, built={"activation": "steep"}
        ),
    }
)


def train(
    defence: str,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    epsilon: float,
    classes: Sequence[str] = (),
    network: str = "small",
    width: int = 16,
    epochs: int = 20,
    optimizer: str = "adam",
    learning_rate: float = 0.002,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> Classifier:
    """Train a small classifier with a defence; all but one get the same length and rate.

    >>> train("none", torch.rand(32, 1, 8, 8), torch.arange(32) % 2, epsilon=0.1, epochs=1).training
    False

    Parameters
    ----------
    defence
        A name of `DEFENCES`.
    x, y
        ``(N, C, H, W)`` in [0, 1], and classes ``(N,)``, on the device to train on.
    classes
        Their names; numbers if empty.
    network, width
        See `geowb.models.build_classifier`.
    optimizer
        ``"adam"``, whose rate rises to `learning_rate` and falls again, or ``"sgd"`` with momentum
        0.9 and a constant rate, as published.
    epsilon
        What is defended against: largest change of a pixel, as a fraction of the pixel range.
    seed
        Of starting weights, order and the attacks' random starts.

    Raises
    ------
    RequestError
        Unknown defence, or an epsilon or length that makes no sense.
    DataError
        Images that are no ``(N, C, H, W)`` in [0, 1], or classes that do not fit.
    """
    if defence not in DEFENCES:
        raise RequestError(f"There is no defence '{defence}'. {did_you_mean(defence, DEFENCES)}")
    sound = all(0 < value < float("inf") for value in (epsilon, learning_rate))
    if not sound or min(epochs, batch_size, width) < 1:
        raise RequestError(
            "epsilon and learning_rate must be positive, and epochs, batch_size and width 1 or "
            f"more: {epsilon}, {learning_rate}, {epochs}, {batch_size}, {width}."
        )
    if not len(x):
        raise DataError("There are no images to train on.")
    if x.ndim != 4 or y.shape != (len(x),) or not (x.min() >= 0 and x.max() <= 1):
        raise DataError(
            f"Training takes images (N, C, H, W) in [0, 1] and classes (N,); these are "
            f"{tuple(x.shape)} from {x.min():g} to {x.max():g} and {tuple(y.shape)}."
        )
    y = y.long()
    if y.min() < 0 or (classes and y.max() >= len(classes)):
        raise DataError(
            f"Classes reach from {int(y.min())} to {int(y.max())}; {len(classes)} are named."
        )
    how = DEFENCES[defence]
    epochs, learning_rate = how.longer * epochs, how.faster * learning_rate
    names = classes or [str(k) for k in range(int(y.max()) + 1)]
    of = {"network": network, "width": width, "seed": seed, **how.built}
    model = build_classifier(tuple(x.shape[1:]), names, **of).to(x.device).train()
    drawn = torch.Generator().manual_seed(seed)
    steps = epochs * -(-len(x) // batch_size)
    steered, schedule = _steered(model, optimizer, learning_rate, steps)
    shown = Line() if progress else None
    for epoch in range(epochs):
        for rows in torch.randperm(len(x), generator=drawn).split(batch_size):
            loss = _loss(how, model, x[rows], y[rows], epsilon, drawn)
            steered.zero_grad()
            loss.backward()
            steered.step()
            if schedule is not None:
                schedule.step()
        if shown is not None:
            shown.show(f"{defence}: epoch {epoch + 1}/{epochs}, loss {loss.item():.3f}")
    model.card |= {"weights": f"trained: {defence}, epsilon {epsilon:g}", "defence": defence}
    model.card |= {"pretrained": True, **how.after}
    return model.eval()


def _steered(
    model: nn.Module, optimizer: str, rate: float, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler | None]:
    """Choose what steers the training, and its schedule."""
    if optimizer not in OPTIMIZERS:
        raise RequestError(
            f"There is no optimizer '{optimizer}'. {did_you_mean(optimizer, OPTIMIZERS)}"
        )
    if optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9), None
    adam = torch.optim.Adam(model.parameters(), lr=rate)
    return adam, torch.optim.lr_scheduler.OneCycleLR(adam, rate, total_steps=steps)


def _loss(
    how: Defence,
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    epsilon: float,
    drawn: torch.Generator,
) -> torch.Tensor:
    """Loss of a batch, mean over its samples."""
    if how.examples is not None:
        attacked = how.examples(model, x, y, how.strength * epsilon, drawn)
        x, y = (torch.cat([x, attacked]), torch.cat([y, y])) if how.both else (attacked, y)
    loss = cross_entropy(model(x), y)
    if how.penalty is not None:
        loss = loss + how.weight * how.penalty(model, x, y, drawn).mean()
    return loss
