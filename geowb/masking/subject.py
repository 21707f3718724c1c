"""A model under examination: what goes in, what comes out, and its gradients.

Everything in `geowb.masking` sees a model through a `Subject`, which maps pixels to [0, 1], counts
passes, says what is wrong with an output, and leaves the model as it was.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from geowb.errors import (
    DataError,
    ModelError,
    NotDifferentiable,
    RequestError,
    did_you_mean,
)

__all__ = [
    "LOSSES",
    "NORMS",
    "Loss",
    "Passes",
    "Point",
    "Subject",
    "points",
    "targets",
    "undisturbed",
]

NORMS = ("linf", "l2")
LOSSES = ("cross_entropy", "squared_error")
TARGETS = ("label", "prediction")

#: ``(output, target) -> (N,)``: one loss a sample.
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass
class Passes:
    """Images that went forward and backward through a model.

    >>> str(Passes(forward=52, backward=26) + Passes(forward=1))
    '53 forward, 26 backward'
    """

    forward: int = 0
    backward: int = 0

    def __add__(self, other: Passes) -> Passes:
        return Passes(self.forward + other.forward, self.backward + other.backward)

    def __sub__(self, other: Passes) -> Passes:
        return Passes(self.forward - other.forward, self.backward - other.backward)

    def __str__(self) -> str:
        return f"{self.forward:,} forward, {self.backward:,} backward"


@contextmanager
def undisturbed(model: nn.Module, seed: int = 0) -> Iterator[None]:
    """Put a model in eval mode and draw from `seed`; afterwards all is as it was.

    Modes of all submodules, the random states of torch (CPU and CUDA) and whether CUDA may round to
    TF32 (here it may not) are put back; gradients of parameters are never written, since they
    are taken with respect to the input alone.
    """
    modes = [(module, module.training) for module in model.modules()]
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    exact = (torch.backends.cudnn, torch.backends.cuda.matmul)
    rounded = [part.allow_tf32 for part in exact]
    with torch.inference_mode(False), torch.random.fork_rng(devices), torch.enable_grad():
        torch.manual_seed(seed)
        model.eval()
        for part in exact:  # a GPU would round to 11 bits, and a measure would depend on it
            part.allow_tf32 = False
        try:
            yield
        finally:
            for part, was in zip(exact, rounded, strict=True):
                part.allow_tf32 = was
            for module, mode in modes:
                module.training = mode


@dataclass
class Subject:
    """A model, the range of its pixels, and the loss by which it is attacked.

    Parameters
    ----------
    model
        Takes ``(N, ...)``; returns logits ``(N, K)`` or ``(N, K, H, W)``, or values.
    bounds
        Smallest and largest value of a pixel.
    loss
        ``"cross_entropy"`` (of logits; summed over the labelled pixels of a map, -1 is
        unlabelled), ``"squared_error"`` (summed over what is labelled, NaN is not), or a function
        ``(output, target) -> (N,)``.
    """

    model: nn.Module
    bounds: tuple[float, float] = (0.0, 1.0)
    loss: str | Loss = "cross_entropy"
    passes: Passes = field(default_factory=Passes)
    #: Images that go forward at once without a gradient, at most.
    most: int = 256

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise RequestError(
                f"A model is a torch module here, not {type(self.model).__name__}: wrap a function "
                "in a torch.nn.Module."
            )
        if len(self.bounds) != 2 or not self.bounds[0] < self.bounds[1]:
            raise RequestError(f"bounds are the smallest and the largest pixel, not {self.bounds}.")
        if not callable(self.loss) and self.loss not in LOSSES:
            raise RequestError(f"There is no loss '{self.loss}'. {did_you_mean(self.loss, LOSSES)}")

    @property
    def device(self) -> torch.device | None:
        """Where the model is; None if it has neither parameters nor buffers."""
        held = itertools.chain(self.model.parameters(), self.model.buffers())
        return next((tensor.device for tensor in held), None)

    def pixels(self, u: torch.Tensor, there: torch.Tensor | None) -> torch.Tensor:
        """Bring `u` from [0, 1] to the pixel range; NaN where no pixel is `there`."""
        low, high = self.bounds
        x = u.clone() if (low, high) == (0.0, 1.0) else low + u * (high - low)
        return x if there is None else torch.where(there, x, torch.nan)

    def output(self, u: torch.Tensor, there: torch.Tensor | None = None) -> torch.Tensor:
        """Pass pixels in [0, 1] forward, and check what comes out."""
        self.passes.forward += len(u)
        found = self.model(self.pixels(u, there))
        if not isinstance(found, torch.Tensor) or len(found) != len(u):
            shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise ModelError(
                f"The model returned {shape} for {len(u)} images: it must return a tensor with a "
                "row an image."
            )
        bad = ~found.detach().isfinite().flatten(1).all(1) if found.ndim > 1 else ~found.isfinite()
        if bad.any():
            raise ModelError(
                f"The model's output is not finite (NaN or infinity) for {int(bad.sum())} of "
                f"{len(u)} images of a batch: nothing can be measured there. Look for divisions by "
                "zero, overflow, or missing pixels that it cannot take."
            )
        return found.float() if found.is_floating_point() and found.dtype.itemsize < 4 else found

    def losses(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """One loss a sample, ``(N,)``: never divided by the size of a batch."""
        if callable(self.loss):
            found = self.loss(output, target)
            if not isinstance(found, torch.Tensor) or found.shape != (len(output),):
                shape = tuple(getattr(found, "shape", ()))
                raise RequestError(
                    f"The loss returned {shape}; it must return one value a sample, "
                    f"({len(output)},): no mean over the batch."
                )
            return found
        if self.loss == "squared_error":
            output = output.reshape(target.shape)
            seen = target.isfinite()
            error = torch.where(seen, output - target.nan_to_num(), 0.0)
            return error.square().flatten(1).sum(1) if error.ndim > 1 else error.square()
        found = nn.functional.cross_entropy(output, target, ignore_index=-1, reduction="none")
        return found.flatten(1).sum(1) if found.ndim > 1 else found

    def gradient(
        self,
        u: torch.Tensor,
        there: torch.Tensor | None,
        values: Callable[[torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        """Gradient of one value a sample."""
        u = u.detach().requires_grad_()
        return self.backward(values(self.output(u, there)), u)

    def backward(self, values: torch.Tensor, u: torch.Tensor, again: bool = False) -> torch.Tensor:
        """Gradient of ``(N,)`` values with respect to the pixels (of [0, 1])."""
        self.passes.backward += len(u)
        gradient = None
        if values.requires_grad:
            total = values.sum()
            gradient = torch.autograd.grad(total, u, retain_graph=again, allow_unused=True)[0]
        if gradient is None:
            raise NotDifferentiable(
                "The model is not differentiable: its output is cut off from its input (detach(), "
                "no_grad(), numpy, or an integer type on the way). The metrics need gradients; "
                "attack it without (geowb.masking.spsa, geowb.masking.checklist)."
            )
        if not gradient.isfinite().all():
            raise ModelError(
                "The gradient is not finite (NaN or infinity) though the output is: look for "
                "square roots and logarithms at zero, or divisions by a norm."
            )
        return gradient


class Point:
    """Samples of a batch, and what is known of the model there; asked twice, computed once."""

    def __init__(
        self, subject: Subject, u: torch.Tensor, y: torch.Tensor, there: torch.Tensor | None
    ) -> None:
        self.subject, self.u, self.y, self.there = subject, u, y, there
        self._gradients: dict[str, torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self.u)

    @functools.cached_property
    def output(self) -> torch.Tensor:
        """What the model says, detached."""
        with torch.no_grad():
            return checked_output(self.subject, self.subject.output(self.u, self.there), self.y)

    @property
    def classes(self) -> bool:
        """Whether it says one class a sample."""
        if self.output.ndim != 2 or self.y.ndim != 1 or self.quantities:
            return False
        return bool(self.y.min() >= 0 and self.y.max() < self.output.shape[1])

    def need_classes(self, what: str) -> None:
        """Refuse what needs a class a sample, if there is none."""
        if not self.classes:
            raise DataError(
                f"{what} needs a class a sample: logits (N, K) and targets (N,). The model returns "
                f"{tuple(self.output.shape)}, the targets are {tuple(self.y.shape)}."
            )

    @property
    def seen(self) -> torch.Tensor:
        """Where there is a label."""
        return self.y.isfinite() if self.quantities else self.y >= 0

    @functools.cached_property
    def sizes(self) -> torch.Tensor:
        """How many labels each sample has, ``(N,)``."""
        return self.seen.reshape(len(self), -1).sum(1)

    @functools.cached_property
    def prediction(self) -> torch.Tensor:
        """The class that it says, of a sample or of each pixel."""
        return self.output.argmax(1)

    @property
    def quantities(self) -> bool:
        """Whether targets are quantities, not classes."""
        return self.y.is_floating_point()

    @functools.cached_property
    def labelled(self) -> torch.Tensor:
        """Which samples have a label at all, ``(N,)``: others have no loss and no gradient."""
        return self.sizes > 0

    def score(self, output: torch.Tensor) -> torch.Tensor:
        """Say what is right of each sample, ``(N,)``: 0 or 1, or of a map the share of pixels.

        Of quantities it is the error: the root of the mean square over what is labelled.
        """
        if self.quantities:
            error = output.reshape(self.y.shape) - self.y
            total = torch.where(self.seen, error, 0.0).square()
            return (total.reshape(len(self), -1).sum(1) / self.sizes).sqrt()
        right = (output.argmax(1) == self.y) & self.seen
        return right.reshape(len(self), -1).sum(1) / self.sizes

    def target(self, name: str) -> torch.Tensor:
        """Find what the loss is taken against: the ``label`` or the model's own ``prediction``."""
        if name not in TARGETS:
            raise RequestError(f"There is no target '{name}'. {did_you_mean(name, TARGETS)}")
        if name == "label":
            return self.y
        if self.subject.loss == "squared_error" or self.quantities:
            raise RequestError(
                "A regression has no target 'prediction': at the model's own prediction the "
                "gradient of the loss is zero. Use target='label'."
            )
        return self.prediction if self.y.ndim == 1 else torch.where(self.y < 0, -1, self.prediction)

    def values(self, output: torch.Tensor, of: str) -> torch.Tensor:
        """One value a sample: ``logit`` of the label, or ``label``, ``prediction``: the loss."""
        if of == "logit":
            return output.gather(1, self.y[:, None])[:, 0]
        return self.subject.losses(output, self.target(of))

    def gradient(self, of: str) -> torch.Tensor:
        """Gradient at the samples of what `values` gives."""
        if of not in self._gradients:
            if of == "prediction":
                _ = self.prediction  # before its own graph is made
            known = "output" in self.__dict__
            found = self.subject.gradient(self.u, self.there, lambda z: self._first(z, known, of))
            self._gradients[of] = found
        return self._gradients[of]

    def _first(self, output: torch.Tensor, known: bool, of: str) -> torch.Tensor:
        """Check an output before the first loss of it, and keep it."""
        if not known:
            self.__dict__["output"] = checked_output(self.subject, output.detach(), self.y)
        return self.values(output, of)

    def at(self, u: torch.Tensor, of: str) -> torch.Tensor:
        """Gradient elsewhere, with the same target."""
        return self.subject.gradient(u, self.there, lambda z: self.values(z, of))

    def part(self, rows: slice | torch.Tensor) -> Point:
        """Take some of the samples, with the output that is known of them."""
        there = None if self.there is None else self.there[rows]
        found = Point(self.subject, self.u[rows], self.y[rows], there)
        found.__dict__["output"] = self.output[rows]
        return found

    def repeated(self, count: int) -> Point:
        """Each sample `count` times in a row."""
        there = None if self.there is None else self.there.repeat_interleave(count, 0)
        rows = torch.arange(len(self), device=self.u.device).repeat_interleave(count)
        found = Point(self.subject, self.u[rows], self.y[rows], there)
        found.__dict__["output"] = self.output[rows]
        return found


def checked_output(subject: Subject, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Refuse an output that the loss cannot be taken of, and probabilities."""
    if callable(subject.loss):
        return output
    if subject.loss == "squared_error":
        without = (len(y), *y.shape[2:]) if y.ndim > 1 and y.shape[1] == 1 else tuple(y.shape)
        one = (len(output), *output.shape[2:]) if output.shape[1:2] == (1,) else tuple(output.shape)
        if one != without:
            raise DataError(
                f"The model returns {tuple(output.shape)}, the targets are {tuple(y.shape)}: give "
                "as many values as it returns, NaN where there is no label."
            )
        return output
    expected = (output.shape[0], *output.shape[2:])
    if output.ndim < 2 or y.shape != expected:
        raise DataError(
            f"The model returns {tuple(output.shape)}, for which targets are {expected}; they were "
            f"given as {tuple(y.shape)}. A class a sample or pixel, as integers."
        )
    count = output.shape[1]
    if count < 2:
        raise DataError(
            "The model returns one value a sample: cross-entropy takes two or more logits. Stack "
            "(0, z), or use loss='squared_error' for a regression."
        )
    if y.is_floating_point() or y.min() < -1 or y.max() >= count or (y.ndim == 1 and y.min() < 0):
        told = y.dtype if y.is_floating_point() else f"{int(y.min())} to {int(y.max())}"
        raise DataError(
            f"Targets are {told}; the model tells {count} classes, of which they must be the "
            f"numbers, 0 to {count - 1} (-1: an unlabelled pixel of a map)."
        )
    sums = output.sum(1)
    if (output >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
        raise ModelError(
            "The model returns probabilities (every row is positive and sums to 1): the metrics "
            "and attacks take logits. Leave out its last softmax, or wrap it so that it returns "
            "the logarithm of the probabilities."
        )
    return output


def targets(y: torch.Tensor, loss: str | Loss) -> torch.Tensor:
    """Bring targets to the type that the loss takes: quantities, or numbers of classes."""
    if loss == "squared_error":
        return y if y.is_floating_point() else y.float()
    return y if y.is_floating_point() else y.long()


def points(
    subject: Subject, x: torch.Tensor, y: torch.Tensor, batch_size: int = 64
) -> Iterator[Point]:
    """Check samples, bring their pixels to [0, 1], and give them in batches."""
    x, y = torch.as_tensor(x), torch.as_tensor(y)
    if not x.is_floating_point():
        raise DataError(
            f"Images must be of a floating type, not {x.dtype}: divide or convert them."
        )
    if x.ndim < 2 or not y.ndim or len(x) != len(y):
        raise DataError(
            f"Images are (N, ...) and targets (N, ...); they were given as {tuple(x.shape)} and "
            f"{tuple(y.shape)}."
        )
    if not len(x):
        raise DataError("There are no images: give one or more.")
    if batch_size < 1:
        raise RequestError(f"batch_size must be 1 or more: {batch_size}.")
    subject.most = 4 * batch_size
    there = ~x.isnan()
    low, high = subject.bounds
    slack = 1e-6 * (high - low)
    seen = x[there]
    if not seen.numel():
        raise DataError("No pixel has data: all are NaN.")
    if seen.min() < low - slack or seen.max() > high + slack:
        raise DataError(
            f"Pixels reach from {seen.min():g} to {seen.max():g}, beyond the range of {low:g} to "
            f"{high:g}: name theirs (bounds=...), or clip them."
        )
    u = x if (low, high) == (0.0, 1.0) else (x - low) / (high - low)
    u = torch.where(there, u, 0.0).clamp(0, 1)
    y = targets(y, subject.loss)
    device = subject.device or x.device
    for start in range(0, len(x), batch_size):
        rows = slice(start, start + batch_size)
        holes = None if there[rows].all() else there[rows].to(device)
        yield Point(subject, u[rows].to(device), y[rows].to(device), holes)


def applied(
    work: Callable[[Point], torch.Tensor],
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    bounds: tuple[float, float],
    loss: str | Loss,
    seed: int,
    batch_size: int,
) -> list[tuple[Point, torch.Tensor]]:
    """Do something with a model at all samples, batch by batch, without touching its state."""
    subject = Subject(model, bounds, loss)
    with undisturbed(model, seed):
        return [(point, work(point).detach()) for point in points(subject, x, y, batch_size)]
