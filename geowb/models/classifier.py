"""Classifiers of small images, with parts that may hide their gradients.

>>> model = build_classifier((1, 8, 8), ["dry", "wet"])
>>> model(torch.zeros(3, 1, 8, 8)).shape
torch.Size([3, 2])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from geowb.errors import ModelError, RequestError, did_you_mean

__all__ = ["ACTIVATIONS", "NETWORKS", "Classifier", "build_classifier"]

NETWORKS = ("small", "resnet18")


class Steep(nn.Module):
    """A sigmoid so steep that it is nearly a step."""

    def __init__(self, slope: float = 50.0) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Bring values to nearly 0 or nearly 1."""
        return torch.sigmoid(self.slope * x)


class Winners(nn.Module):
    """Only the largest share of all values of a layer stays; the others are 0 (k-WTA)."""

    def __init__(self, share: float = 0.05) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Put all but the largest to 0."""
        flat = x.flatten(1)
        least = flat.topk(max(1, int(self.share * flat.shape[1])), dim=1).values[:, -1]
        return torch.where(x >= least.reshape(-1, *[1] * (x.ndim - 1)), x, 0.0)


class Levels(nn.Module):
    """Values between 0 and 1 in a few levels; training looks through the rounding."""

    def __init__(self, levels: int = 4) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Clip to [0, 1] and round."""
        x = x.clamp(0, 1)
        rounded = (x * (self.levels - 1)).round() / (self.levels - 1)
        return x + (rounded - x).detach() if self.training else rounded


ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = MappingProxyType(
    {"relu": nn.ReLU, "steep": Steep, "winners": Winners, "levels": Levels}
)


class Classifier(nn.Module):
    """A network that says which class an image is of.

    Takes ``(B, C, H, W)`` from 0 to 1 (its card says of what: ``pixel_range``), returns logits
    ``(B, K)``. With ``levels`` in its card pixels are rounded to so many first; its logits are
    multiplied by the card's ``gain``.
    """

    def __init__(self, network: nn.Module, card: dict[str, Any]) -> None:
        super().__init__()
        self.network, self.card = network, card

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        if x.ndim != 4 or list(x.shape[1:]) != self.card["shape"]:
            shape = " x ".join(map(str, self.card["shape"]))
            raise ModelError(
                f"This classifier takes (batch, {shape}); it was given {tuple(x.shape)}."
            )
        if self.card["levels"]:
            x = Levels(self.card["levels"]).eval()(x)
        return self.card["gain"] * self.network(x)


def build_classifier(
    shape: Sequence[int],
    classes: Sequence[str],
    *,
    network: str = "small",
    width: int = 16,
    activation: str = "relu",
    levels: int = 0,
    gain: float = 1.0,
    pixel_range: Sequence[float] = (0.0, 1.0),
    seed: int = 0,
) -> Classifier:
    """Build a classifier of images ``(C, H, W)``, with random weights.

    Parameters
    ----------
    classes
        Names of the classes, two or more.
    network
        ``"small"``: a convolution, one of twice the channels and half the size, as many again as
        it takes to reach 8 x 8 pixels or fewer, and two linear layers. ``"resnet18"``: ResNet-18
        with a first layer for small images (3 x 3, no pooling behind it).
    width
        Channels of the first layer of the small one.
    activation
        ``"relu"``, or one that hides gradients: ``"steep"``, ``"winners"``, ``"levels"``.
    levels, gain
        See `Classifier`; 0 levels do not round.
    pixel_range
        Of what 0 and 1 stand for; kept in the card.

    Raises
    ------
    RequestError
        Unknown names, or sizes that make no sense.
    """
    for given, known, what in (
        (network, NETWORKS, "network"),
        (activation, ACTIVATIONS, "activation"),
    ):
        if given not in known:
            raise RequestError(f"There is no {what} '{given}'. {did_you_mean(given, known)}")
    few = len(classes) < 2 or width < 1 or levels < 0 or levels == 1 or not 0 < gain < float("inf")
    if len(shape) != 3 or min(shape) < 1 or few:
        raise RequestError(
            "A classifier has images of (bands, rows, columns), two classes or more, a width of 1 "
            "or more, 0 or 2 levels or more, and a positive gain: "
            f"{tuple(shape)}, {len(classes)}, {width}, {levels}, {gain}."
        )
    card = {
        "kind": "classifier",
        "name": network,
        "shape": [int(n) for n in shape],
        "classes": [str(name) for name in classes],
        "width": width,
        "activation": activation,
        "levels": levels,
        "gain": gain,
        "pixel_range": [float(value) for value in pixel_range],
        "seed": seed,
        "weights": f"random (seed {seed})",
        "pretrained": False,
        "task": "classification",
    }
    make = _resnet18 if network == "resnet18" else _small
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Classifier(make(card, ACTIVATIONS[activation]), card)


def from_card(card: Mapping[str, Any]) -> Classifier:
    """Build what a model file's card describes; its weights are put in by the caller."""
    names = ("width", "activation", "levels", "gain", "pixel_range", "seed")
    of = {name: card[name] for name in names}
    return build_classifier(card["shape"], card["classes"], network=card["name"], **of)


def _small(card: dict[str, Any], activation: Callable[[], nn.Module]) -> nn.Module:
    (channels, *size), width = card["shape"], card["width"]
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), activation()]
    while True:
        layers += [nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), activation()]
        width, size = 2 * width, [-(-n // 2) for n in size]
        if max(size) <= 8:
            break
    flat, count = width * size[0] * size[1], len(card["classes"])
    layers += [nn.Flatten(), nn.Linear(flat, 64), activation(), nn.Linear(64, count)]
    return nn.Sequential(*layers)


def _resnet18(card: dict[str, Any], activation: Callable[[], nn.Module]) -> nn.Module:
    from torchvision.models import resnet18

    model = resnet18(num_classes=len(card["classes"]))
    model.conv1 = nn.Conv2d(card["shape"][0], 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    for part in list(model.modules()):
        if hasattr(part, "relu"):
            part.relu = activation()
    return model
