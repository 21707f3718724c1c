"""Five measures of how much a model hides its gradients from an attack.

>>> x, y = torch.rand(8, 1, 8, 8), torch.arange(8) % 4
>>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
>>> gradient_information(model, x, y).nanmean()  # of a linear model
tensor(1.)

From the public code of Gomes (2022, arXiv:2204.04778; `gradient_masking_tests.py`); with
``published=True`` a measure is taken as that code takes it, slips included, so that published
numbers can be compared. Each takes a batch of samples and returns ``(N,)``: a value a sample, NaN
where it is not defined. `epsilon` is a fraction of the pixel range. The model is left as it was.

For maps (a class or a quantity a pixel) the loss is summed over the labelled pixels of a sample,
and is what the linearisation error is of; a sample without labels is NaN. Gradient information
needs a class a sample. A regression has no target "prediction": there its gradient is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from geowb.errors import RequestError, did_you_mean
from geowb.masking import steps as step
from geowb.masking.deepfool import deepfool
from geowb.masking.subject import Loss, Point, applied

__all__ = [
    "fgsm_pgd_cosine",
    "gradient_information",
    "gradient_norm",
    "linearization_error",
    "pgd_collinearity",
]

#: Steps and their length, as a fraction of epsilon, in the author's code.
PGD = {"steps": 25, "size": 1 / 10}
CLIMB = {"steps": 40, "size": 1 / 16}
DRAWS = 256


def gradient_norm(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    loss: str | Loss = "cross_entropy",
    target: str = "label",
    seed: int = 0,
    batch_size: int = 64,
    published: bool = False,
) -> torch.Tensor:
    """Length of the gradient of a sample's loss: ``||d loss / d x||_2``.

    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
    >>> gradient_norm(model, torch.rand(2, 1, 8, 8), torch.tensor([0, 3])).shape
    torch.Size([2])

    Per unit of the pixel range. High: small changes move the loss much, or, in a model that looks
    robust, that its loss is rugged. Zero: there is no gradient to follow at all, as behind a
    saturated output or a rounded input.

    Parameters
    ----------
    x
        ``(N, ...)`` within `bounds`; NaN where there is no data.
    y
        Classes ``(N,)``; of pixels ``(N, H, W)``, -1 unlabelled; values for ``squared_error``.
    loss
        See `geowb.masking.subject.Subject`.
    target
        ``"label"``, or ``"prediction"``: the loss of the class that the model says.
    seed
        For a model that draws random numbers itself.
    published
        Of the mean loss of a batch, as in the author's code: each value is divided by the number
        of samples in its batch (64 there, and 8 in the last of 200).

    Raises
    ------
    ModelError
        Output or gradient that is not finite, probabilities, or a model without a gradient.
    DataError, RequestError
        Pixels beyond `bounds`, targets of another shape or type; unknown names.
    """

    def measure(point: Point) -> torch.Tensor:
        found = step.length(point.gradient(target))
        return found / len(point) if published else found

    how = {"bounds": bounds, "loss": loss, "seed": seed, "batch_size": batch_size}
    return measured(measure, model, x, y, **how)


def fgsm_pgd_cosine(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    epsilon: float = 8 / 255,
    bounds: tuple[float, float] = (0.0, 1.0),
    norm: str = "linf",
    loss: str | Loss = "cross_entropy",
    target: str = "label",
    steps: int = PGD["steps"],
    step_size: float = PGD["size"],
    seed: int = 0,
    batch_size: int = 64,
    published: bool = False,
) -> torch.Tensor:
    """Cosine between what one large step and what many small ones change: ``cos(d_fgsm, d_pgd)``.

    >>> fgsm_pgd_cosine(model, x, y, epsilon=8 / 255)  # doctest: +SKIP

    `d` is the attacked sample, clipped to the pixel range, minus the sample. High: the loss is
    nearly linear within epsilon. Low: it bends so much that the first gradient is of little use;
    undefended models are like that too, so that a low value alone does not mean masking.
    NaN where the gradient is zero, and FGSM therefore changes nothing.

    Parameters
    ----------
    epsilon
        Radius of the ball, as a fraction of the pixel range.
    norm
        ``"linf"`` (largest change of a pixel) or ``"l2"`` (Euclidean length).
    steps, step_size
        Of PGD: how many, and their length as a fraction of epsilon. It starts at random in the
        ball, at the same offset for all samples.
    seed
        Of that offset.
    published
        0 in place of NaN, as `torch.nn.CosineSimilarity` gives it.

    Others as in `gradient_norm`.
    """
    step.check(norm, epsilon, steps=steps)

    def measure(point: Point) -> torch.Tensor:
        pair = attacked(point, epsilon, norm, target, steps, step_size, seed)
        found = step.cosine(*(u - point.u for u in pair))
        return found.nan_to_num() if published else found

    how = {"bounds": bounds, "loss": loss, "seed": seed, "batch_size": batch_size}
    return measured(measure, model, x, y, **how)


def linearization_error(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    epsilon: float = 8 / 255,
    bounds: tuple[float, float] = (0.0, 1.0),
    norm: str = "linf",
    loss: str | Loss = "cross_entropy",
    of: str = "",
    draws: int = DRAWS,
    seed: int = 0,
    batch_size: int = 64,
    published: bool = False,
) -> torch.Tensor:
    """Mean relative error of the first-order prediction at random corners of the ball.

    ``mean |f(x) + <d, grad f(x)> - f(x + d)| / |f(x + d)|``, where f is the logit of the label.

    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
    >>> x = 0.2 + 0.6 * torch.rand(2, 1, 8, 8)
    >>> bool((linearization_error(model, x, torch.tensor([0, 3])) < 1e-4).all())
    True

    Low: attacks that linearise the model see what is there. High: it is rugged within epsilon.
    Values are divided by a logit that may be near zero, so that single ones can be huge (and the
    rounding of the model's own float32 shows in them): look at medians too. Corners are not clipped
    to the pixel range.

    Parameters
    ----------
    of
        ``"logit"`` of the label (the default for classes), or ``"loss"`` (for all others).
    draws
        Number of perturbations: corners of the cube, or points of the sphere for ``l2``; the same
        for all samples.
    published
        With the sum of the inner products of a whole batch of perturbations (`batch_size` of
        them) in place of each one's own, as in the author's code.

    Others as in `gradient_norm` and `fgsm_pgd_cosine`.
    """
    step.check(norm, epsilon, draws=draws)
    if of not in ("", "logit", "loss"):
        raise RequestError(f"of='{of}' is not known. {did_you_mean(of, ('logit', 'loss'))}")

    def measure(point: Point) -> torch.Tensor:
        summed = batch_size if published else None
        return linear_errors(point, epsilon, norm, of, draws, seed, summed).nanmean(1)

    how = {"bounds": bounds, "loss": loss, "seed": seed, "batch_size": batch_size}
    return measured(measure, model, x, y, **how)


def pgd_collinearity(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    epsilon: float = 8 / 255,
    bounds: tuple[float, float] = (0.0, 1.0),
    norm: str = "linf",
    loss: str | Loss = "cross_entropy",
    target: str = "prediction",
    steps: int = CLIMB["steps"],
    step_size: float = CLIMB["size"],
    sequential: bool = False,
    seed: int = 0,
    batch_size: int = 64,
    published: bool = False,
) -> torch.Tensor:
    """Mean cosine between the first step of a climb and each later one: ``mean_k cos(s_1, s_k)``.

    >>> pgd_collinearity(model, x, y, epsilon=8 / 255)  # doctest: +SKIP

    40 steps of epsilon/16 up the loss of the class that the model says, without a random start and
    without returning to the ball (2.5 epsilon far in all), clipped to the pixel range. High: the
    way up is straight, one gradient tells it. Low: it turns at each step.
    Steps at which nothing moved (no gradient, or every pixel at its bound) are left out; NaN where
    the first is such a step.

    Parameters
    ----------
    target
        ``"prediction"`` as in the author's code, or ``"label"``, as a regression needs it.
    sequential
        Between each step and the next one in place of the first.
    published
        0 in place of what is left out or NaN.

    Others as in `gradient_norm` and `fgsm_pgd_cosine`.
    """
    step.check(norm, epsilon, steps=steps - 1)

    def measure(point: Point) -> torch.Tensor:
        return collinearity(
            point, epsilon, norm, target, steps, step_size, sequential, zero=published
        )

    how = {"bounds": bounds, "loss": loss, "seed": seed, "batch_size": batch_size}
    return measured(measure, model, x, y, **how)


def gradient_information(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    norm: str = "linf",
    steps: int = 5,
    seed: int = 0,
    batch_size: int = 64,
    published: bool = False,
) -> torch.Tensor:
    """Cosine between the gradients here and at the nearest border to another class.

    ``cos(grad (z_c' - z_c)(x'), grad (z_c' - z_c)(x))``, where x' is what DeepFool finds, c the
    class of x and c' that of x'.

    >>> gradient_information(model, x, y).nanmean()  # doctest: +SKIP

    High: the gradient at the sample points to where the classes part. NaN where DeepFool changes
    no label, or a gradient is zero. It needs a class a sample: it is not defined for maps and
    regressions. `y` is only checked: the class is the model's own.

    Parameters
    ----------
    norm
        Of DeepFool.
    steps
        Of DeepFool, at most.
    published
        0 in place of NaN for zero gradients; labels that did not flip stay NaN (the author's code
        leaves them out of the mean).

    Others as in `gradient_norm`.
    """
    step.check(norm, steps=steps)

    def measure(point: Point) -> torch.Tensor:
        return information(point, norm, steps, zero=published)

    how = {"bounds": bounds, "loss": "cross_entropy", "seed": seed, "batch_size": batch_size}
    return measured(measure, model, x, y, **how)


def measured(
    measure: Callable[[Point], torch.Tensor],
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    **how: Any,
) -> torch.Tensor:
    """Take a measure at all samples: ``(N,)`` on the CPU, NaN where there is no label."""
    found = []
    for point, values in applied(measure, model, x, y, **how):
        values = values.float() if values.dtype.itemsize < 4 else values
        found.append(torch.where(point.labelled, values, torch.nan).cpu())
    return torch.cat(found)


def attacked(
    point: Point,
    epsilon: float,
    norm: str,
    target: str,
    steps: int,
    step_size: float,
    seed: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels after FGSM and after PGD."""
    how: dict[str, Any] = {"epsilon": epsilon, "norm": norm, "target": target}
    (fgsm,) = step.ascend(point, size=epsilon, steps=1, **how)
    how |= {"begin": step.start(point.u, epsilon, norm, seed)}
    *_, pgd = step.ascend(point, size=step_size * epsilon, steps=steps, **how)
    return fgsm, pgd


def linear_errors(
    point: Point,
    epsilon: float,
    norm: str,
    of: str = "",
    draws: int = DRAWS,
    seed: int = 0,
    summed: int | None = None,
) -> torch.Tensor:
    """Relative errors of the first-order prediction, ``(N, draws)``; NaN where f(x + d) is zero.

    With `summed`, inner products are summed over so many perturbations at a time.
    """
    of = of or ("logit" if point.classes else "loss")
    if of == "logit" and not point.classes:
        raise RequestError("of='logit' needs a class a sample: use of='loss' for maps and values.")
    errors = []
    for ways in step.directions(point.u, epsilon, norm, draws, seed, summed or step.GROUP):
        ((foreseen, came),) = changes(point, ways, ["label" if of == "loss" else of]).values()
        if summed:
            foreseen = foreseen.sum(1, keepdim=True).expand_as(foreseen)
        here = point.values(point.output.double(), "label" if of == "loss" else of)
        errors.append(relative(foreseen, came, here))
    return torch.cat(errors, 1).to(torch.promote_types(point.u.dtype, torch.float32))


def relative(foreseen: torch.Tensor, came: torch.Tensor, here: torch.Tensor) -> torch.Tensor:
    """Error of a foreseen change, relative to the value that came, ``(N, ways)``."""
    there = (here[:, None] + came).abs()
    return torch.where(there == 0, torch.nan, (foreseen - came).abs() / there)


def changes(
    point: Point, ways: torch.Tensor, of: Sequence[str]
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Tell what the gradient foresees along each way, and what comes: ``(N, ways)`` each.

    The ways are the same for all samples; of each quantity that is named (see `Point.values`).
    Values are taken in double precision: differences of float32 losses of confident models are 0.
    """
    here = {name: point.values(point.output.double(), name) for name in of}
    found: dict[str, list[torch.Tensor]] = {name: [] for name in of}
    most = point.subject.most
    for some in ways.split(most):
        rows, parts = max(1, most // len(some)), {name: [] for name in of}
        for first in range(0, len(point), rows):
            part = point.part(slice(first, first + rows)).repeated(len(some))
            moved = part.u + some.repeat(len(part) // len(some), *[1] * (ways.ndim - 1))
            with torch.no_grad():
                output = point.subject.output(moved, part.there).double()
            for name in of:
                parts[name].append(part.values(output, name).reshape(-1, len(some)))
        for name in of:
            found[name].append(torch.cat(parts[name]))
    flat = ways.flatten(1).T
    return {
        name: (
            (point.gradient(name).flatten(1) @ flat).double(),
            torch.cat(found[name], 1) - here[name][:, None],
        )
        for name in of
    }


def collinearity(
    point: Point,
    epsilon: float,
    norm: str,
    target: str,
    steps: int = CLIMB["steps"],
    step_size: float = CLIMB["size"],
    sequential: bool = False,
    zero: bool = False,
) -> torch.Tensor:
    """Mean cosine of the first with each later step, ``(N,)``."""
    before, first, found = point.u, None, []
    how = {"epsilon": epsilon, "norm": norm, "target": target, "project": False}
    for u in step.ascend(point, size=step_size * epsilon, steps=steps, **how):
        moved = u - before
        if first is not None:
            found.append(step.cosine(first, moved))
        before = u
        first = moved if first is None or sequential else first
    found = torch.stack(found, 1)
    return found.nan_to_num().mean(1) if zero else found.nanmean(1)


def information(point: Point, norm: str, steps: int = 5, zero: bool = False) -> torch.Tensor:
    """Cosine of the gradients here and where DeepFool arrives, ``(N,)``."""
    point.need_classes("Gradient information (it looks for the border to another class)")
    there = deepfool(point, norm=norm, steps=steps)
    with torch.no_grad():
        arrived = point.subject.output(there, point.there).argmax(1)
    flipped = arrived != point.prediction
    found = torch.full((len(point),), torch.nan, device=point.u.device, dtype=point.u.dtype)
    if flipped.any():
        part = point.part(flipped)
        new, old = arrived[flipped][:, None], point.prediction[flipped][:, None]

        def margin(z: torch.Tensor) -> torch.Tensor:
            return (z.gather(1, new) - z.gather(1, old))[:, 0]

        pair = [part.subject.gradient(u, part.there, margin) for u in (there[flipped], part.u)]
        angles = step.cosine(*pair)
        found[flipped] = angles.nan_to_num() if zero else angles
    return found
