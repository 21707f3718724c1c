"""AutoAttack and its parts, from pyautoattack (the extra ``attacks``), for any model and range.

>>> found = autoattack(model, x, y, epsilon=8 / 255)  # doctest: +SKIP
>>> found.table  # doctest: +SKIP
         right  seconds  forward  backward
attack
apgd-ce   0.73      0.7      101       101
apgd-t    0.72      5.1      664       664
fab-t     0.72      9.8      650      1300
square    0.72     21.0     3600         0
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import nn

from geowb.errors import DataError, RequestError, did_you_mean
from geowb.masking import steps as step
from geowb.masking.subject import Passes, Subject, points, undisturbed

__all__ = ["ATTACKS", "Attacked", "attacks_for", "autoattack", "standard"]

#: What AutoAttack is made of, and the fewest classes that each takes.
ATTACKS = {"apgd-ce": 2, "apgd-dlr": 3, "apgd-t": 4, "fab": 2, "fab-t": 2, "square": 2}
#: Classes that a targeted attack aims at, at most.
_TARGETS = 9
#: Share that Square may take more than the other attacks until AutoAttack remarks on it.
_MORE = 0.002


@dataclass
class Attacked:
    """What is left after a strong attack.

    ``x`` are the attacked samples, in the model's pixel range; ``right`` ``(N,)`` which of them are
    still told right; ``table`` has a row an attack, in their order, each on what the one before has
    left: share still right, seconds, and passes an image of all; ``notes`` what AutoAttack itself
    remarked (zero gradients, randomness, Square finding more than the gradients), and what was left
    out for a model of few classes.
    """

    x: torch.Tensor
    right: torch.Tensor
    table: pd.DataFrame
    notes: tuple[str, ...]
    seconds: float
    passes: Passes

    @property
    def accuracy(self) -> float:
        """Share of the samples that are still told right."""
        return float(self.right.double().mean())


def standard(classes: int) -> tuple[str, ...]:
    """Name AutoAttack's standard attacks, as far as a model of so many classes takes them.

    >>> standard(10)
    ('apgd-ce', 'apgd-t', 'fab-t', 'square')
    >>> standard(3)
    ('apgd-ce', 'apgd-dlr', 'fab-t', 'square')

    The difference of logits ratio (DLR) is divided by that of the first and the third largest, its
    targeted form by that of the first to the third and fourth.
    """
    middle = {2: (), 3: ("apgd-dlr",)}.get(classes, ("apgd-t",))
    return ("apgd-ce", *middle, "fab-t", "square")


def autoattack(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    epsilon: float,
    bounds: tuple[float, float] = (0.0, 1.0),
    norm: str = "linf",
    attacks: Sequence[str] = (),
    queries: int = 5000,
    seed: int = 0,
    batch_size: int = 256,
) -> Attacked:
    """Attack with AutoAttack (Croce and Hein, 2020): each attack on what the others have left.

    >>> autoattack(model, x, y, epsilon=8 / 255, attacks=["square"]).accuracy  # doctest: +SKIP
    0.41

    Parameters
    ----------
    x, y
        Images ``(N, C, H, W)`` without missing pixels, and classes ``(N,)``.
    epsilon, bounds, norm
        As in `geowb.masking.fgsm_pgd_cosine`.
    attacks
        Names of `ATTACKS`, in this order; the standard ones if empty. Those that a model has too
        few classes for are replaced, which a note says; asked for by name they are an error.
    queries
        Of Square, a sample; it needs no gradient.

    Raises
    ------
    RequestError
        Unknown attacks, too few classes for one, or pyautoattack is not installed.
    ModelError, DataError
        As in `geowb.masking.gradient_norm`; and images of another shape.
    """
    step.check(norm, epsilon, queries=queries)
    attacks_for(max(ATTACKS.values()), attacks)  # unknown names
    try:
        from pyautoattack import AutoAttack
    except ImportError as error:
        raise RequestError(
            "AutoAttack is not installed: pip install 'geowb[attacks]'. Without it there are "
            "geowb.masking.pgd and geowb.masking.spsa."
        ) from error
    subject, began = Subject(model, bounds), time.perf_counter()
    rows, notes = {}, []
    with undisturbed(model, seed), _quietly(model, notes):
        found = list(points(subject, x, y, batch_size))
        if x.ndim != 4 or any(point.there is not None for point in found):
            raise DataError(
                "AutoAttack takes images (N, C, H, W) without missing pixels; these are "
                f"{tuple(x.shape)}{'' if x.ndim != 4 else ', some of them NaN'}."
            )
        found[0].need_classes("AutoAttack")
        u = torch.cat([point.u for point in found])
        y = torch.cat([point.y for point in found])
        right = torch.cat([point.prediction == point.y for point in found])
        names, told = attacks_for(found[0].output.shape[1], attacks)
        notes += told
        of = {"norm": "Linf" if norm == "linf" else "L2", "eps": epsilon, "seed": seed}
        for name in names:
            before, clock = subject.passes + Passes(), time.perf_counter()
            tool = AutoAttack(
                _Counted(subject), **of, version="custom", attacks=[name], device=u.device
            )
            _settings(tool, found[0].output.shape[1], queries)
            if right.any():
                moved, told = tool.run_standard_evaluation(
                    u[right], y[right], batch_size=batch_size
                )
                u[right], right[right.clone()] = moved, told == y[right]
            spent = subject.passes - before
            rows[name] = {
                "right": float(right.double().mean()),
                "seconds": time.perf_counter() - clock,
                "forward": spent.forward / len(u),
                "backward": spent.backward / len(u),
            }
            shares = [row["right"] for row in rows.values()]
            if name == "square" and len(shares) > 1 and shares[-2] - shares[-1] > _MORE:
                notes.append(
                    f"Square, which needs no gradient, took {100 * (shares[-2] - shares[-1]):.1f} "
                    "points more than the attacks that follow gradients: they may be masked."
                )
    table = pd.DataFrame(rows).T.rename_axis("attack")
    x = subject.pixels(u, None).detach().to(x.device)
    seconds = time.perf_counter() - began
    return Attacked(x, right.cpu(), table, tuple(notes), seconds, subject.passes)


def attacks_for(classes: int, attacks: Sequence[str] = ()) -> tuple[Sequence[str], list[str]]:
    """Say which attacks a model of so many classes gets, and what is to be remarked on that.

    >>> attacks_for(10, ["square"])
    (['square'], [])

    Raises
    ------
    RequestError
        For an attack that is named and needs more classes.
    """
    for name in attacks:
        if name not in ATTACKS:
            raise RequestError(f"There is no attack '{name}'. {did_you_mean(name, ATTACKS)}")
        if classes < ATTACKS[name]:
            raise RequestError(
                f"The attack '{name}' takes {ATTACKS[name]} classes or more; the model tells "
                f"{classes}. Use {', '.join(standard(classes))}, which is what is left of the "
                "standard ones."
            )
    if attacks or classes >= ATTACKS["apgd-t"]:
        return attacks or standard(classes), []
    left = ", ".join(standard(classes))
    told = f"With {classes} classes there is no targeted APGD: {left} were run."
    return standard(classes), [told]


def _settings(tool: Any, classes: int, queries: int) -> None:
    """Give a custom AutoAttack the settings of the standard one."""
    tool.apgd.n_restarts = tool.fab.n_restarts = tool.apgd_targeted.n_restarts = 1
    targets = min(_TARGETS, classes - 1)
    tool.apgd_targeted.n_target_classes = tool.fab.n_target_classes = targets
    tool.square.n_queries = queries


class _Counted(nn.Module):
    """A subject as a module of [0, 1], whose passes are counted in both directions."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.subject = subject

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        """Logits of images in [0, 1]."""
        output = self.subject.output(u)
        if output.requires_grad:
            output.register_hook(self._backward)
        return output

    def _backward(self, gradient: torch.Tensor) -> None:
        self.subject.passes.backward += len(gradient)


@contextmanager
def _quietly(model: nn.Module, notes: list[str]) -> Iterator[None]:
    """Keep the parameters' gradients and a debugger's trace; take AutoAttack's remarks as notes."""
    logger, tracer = logging.getLogger("auto-attack"), sys.gettrace()
    keeps = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    handler, propagates = _Notes(notes), logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        model.requires_grad_(False)
        yield
    finally:
        for parameter, wanted in keeps:
            parameter.requires_grad_(wanted)
        logger.removeHandler(handler)
        logger.propagate = propagates
        sys.settrace(tracer)


class _Notes(logging.Handler):
    """Keeps warnings as sentences."""

    def __init__(self, notes: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.notes = notes

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what is said, on one line."""
        told = " ".join(record.getMessage().split()).removesuffix(" See flags_doc.md for details.")
        told = f"AutoAttack: {told}"
        if re.sub(r"\d+", "", told) not in {re.sub(r"\d+", "", note) for note in self.notes}:
            self.notes.append(told)
