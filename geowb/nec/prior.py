"""A learned density for each channel of an embedding: its rate, and tables of it.

>>> prior = FactorizedPrior(192)
>>> values, bits = prior(torch.randn(2, 64, 192))
>>> values.shape, bits.shape
(torch.Size([2, 64, 192]), torch.Size([2, 64, 192]))

The factorised prior of Ballé et al. 2018 (arXiv 1802.01436, appendix 6.1), with the parameters of
CompressAI's ``EntropyBottleneck``.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from geowb.errors import ModelError, WeightsMismatch
from geowb.nec.tables import Tables

__all__ = ["FactorizedPrior"]

#: A likelihood is never taken for less (CompressAI).
_LEAST = 1e-9
#: Probability of each tail that is left out of a table, and escaped.
_TAIL = 1e-6
#: What is shared out equally among a channel's symbols and its escape, to each bit of its entropy.
#: It costs 0.4 % more bits, and saves most of them where the prior has not been (clouds, other
#: regions), which else took 20 bits a symbol and more.
_UNSEEN = 3e-3
#: CompressAI's names of its parameters, before and since 1.2.7.
_COMPRESSAI = re.compile(r"(?:.*\.)?_?(matri|bias|factor)(?:x|ces|es|s)?\.?(\d)$")
_OURS = {"matri": "matrices", "bias": "biases", "factor": "factors"}


class FactorizedPrior(nn.Module):
    """One monotonic network a channel, whose sigmoid is the channel's cumulative distribution.

    Takes embeddings ``(..., C)``, the channels last; returns what arrives of them and what it
    costs, both ``(..., C)``: the values with noise of U(-0.5, 0.5) in training, rounded to whole
    steps from the median otherwise, and the bits of each, ``-log2 p``.

    A channel has 58 weights and 3 quantiles (tail, median, tail). Gradients reach the weights; the
    quantiles follow from them by bisection whenever the prior goes into eval mode
    (`update_quantiles`), so that no auxiliary loss is needed.

    Parameters
    ----------
    channels
        C.
    init_scale
        Width of the density at the start, in steps.
    filters
        Widths of the hidden layers.
    seed
        Of the biases; U(-0.5, 0.5).
    """

    def __init__(
        self,
        channels: int,
        *,
        init_scale: float = 10.0,
        filters: Sequence[int] = (3, 3, 3, 3),
        seed: int = 0,
    ) -> None:
        super().__init__()
        if channels < 1 or init_scale <= 0:
            raise ModelError(f"A prior has {channels=} and {init_scale=}: both are above 0.")
        self.channels, self.through = channels, "noise"
        widths = (1, *filters, 1)
        scale = init_scale ** (1 / (len(filters) + 1))
        random = torch.Generator().manual_seed(seed)
        self.matrices, self.biases = nn.ParameterList(), nn.ParameterList()
        self.factors = nn.ParameterList()
        for before, after in itertools.pairwise(widths):
            start = math.log(math.expm1(1 / scale / after))
            self.matrices.append(torch.full((channels, after, before), start))
            self.biases.append(torch.rand((channels, after, 1), generator=random) - 0.5)
        for after in filters:
            self.factors.append(torch.zeros(channels, after, 1))
        start = torch.tensor([-init_scale, 0.0, init_scale]).repeat(channels, 1, 1)
        self.quantiles = nn.Parameter(start, requires_grad=False)

    @property
    def medians(self) -> torch.Tensor:
        """``(C,)``; as of the last `update_quantiles`."""
        return self.quantiles[:, 0, 1]

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Give what arrives of ``x`` ``(..., C)``, and the bits of each value.

        In training noise makes the bits differentiable. What arrives is noisy too, or with
        `through` = ``"rounding"`` it is what will arrive: rounded about the medians of the last
        `update_quantiles`, with the gradient of what was not (Minnen and Singh 2020).
        """
        if x.shape[-1] != self.channels:
            raise ModelError(f"This prior is of {self.channels} channels, not of {x.shape[-1]}.")
        if not self.training:
            arrived = self._rounded(x)
            return arrived, -self.likelihood(arrived).log2()
        noisy = x + torch.empty_like(x).uniform_(-0.5, 0.5)
        bits = -self.likelihood(noisy).log2()
        if self.through == "noise":
            return noisy, bits
        return x + (self._rounded(x) - x).detach(), bits

    def _rounded(self, x: torch.Tensor) -> torch.Tensor:
        return torch.round(x - self.medians) + self.medians

    def likelihood(self, values: torch.Tensor) -> torch.Tensor:
        """Probability of the step around each value ``(..., C)``, 1e-9 at least; float32."""
        with torch.autocast(values.device.type, enabled=False):
            rows = values.float().reshape(-1, self.channels).t().unsqueeze(1)
            lower, upper = self._logits(rows - 0.5), self._logits(rows + 0.5)
            sign = -torch.sign(lower + upper).detach()  # where the difference is not 1 - 1
            found = torch.abs(torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower))
            return _AtLeast.apply(found.squeeze(1).t().reshape(values.shape), _LEAST)

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of the cumulative distribution at ``x`` ``(C, 1, N)``."""
        for at, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            x = torch.baddbmm(bias.to(x.dtype), functional.softplus(matrix.to(x.dtype)), x)
            if at < len(self.factors):
                x = x + torch.tanh(self.factors[at].to(x.dtype)) * torch.tanh(x)
        return x

    def train(self, mode: bool = True) -> FactorizedPrior:
        """Switch to training or out of it; out of it the quantiles are found anew."""
        left = self.training and not mode
        super().train(mode)
        if left:
            self.update_quantiles()
        return self

    @torch.no_grad()
    def update_quantiles(self) -> None:
        """Find tails and medians of the densities by bisection.

        Raises
        ------
        ModelError
            If a density has none: its weights are no numbers.
        """
        for at, target in enumerate((_TAIL, 0.5, 1 - _TAIL)):
            self.quantiles[:, 0, at] = self._quantile(target).to(self.quantiles)

    def _quantile(self, share: float) -> torch.Tensor:
        """Where the cumulative distribution has a value, ``(C,)`` float64."""
        wanted = math.log(share / (1 - share))

        def at(x: torch.Tensor) -> torch.Tensor:
            return self._logits(x.view(-1, 1, 1)).view(-1) - wanted

        high = torch.ones(self.channels, dtype=torch.float64, device=self.quantiles.device)
        low = -high
        for _ in range(64):  # until all lie between
            low = torch.where(at(low) > 0, 2 * low, low)
            high = torch.where(at(high) < 0, 2 * high, high)
        if not ((at(low) <= 0) & (at(high) >= 0)).all():
            raise ModelError(
                "A density of the prior has no quantiles: its weights have become no numbers. "
                "Lower the learning rate."
            )
        for _ in range(60):
            middle = (low + high) / 2
            below = at(middle) < 0
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2

    @torch.no_grad()
    def tables(self, steps: float = 1.0) -> Tables:
        """Freeze the densities into integers, which sender and receiver share from then on.

        >>> FactorizedPrior(3).eval().tables()
        <Tables of 3 channels, ... symbols, ...>

        Parameters
        ----------
        steps
            Of what is encoded, to one of the prior: 1 unless values were divided before the prior.
        """
        quantiles = [self._quantile(share) for share in (_TAIL, 0.5, 1 - _TAIL)]
        median = quantiles[1].float().double()
        first = torch.floor(quantiles[0] - median).clamp(-(2**14), 0)
        last = torch.ceil(quantiles[2] - median).clamp(0, 2**14)
        counts = (last - first + 1).long().cpu()
        probabilities: list[Any] = [None] * self.channels
        for rows in _of_like_width(counts):
            places = torch.arange(int(counts[rows].max()), dtype=torch.float64)
            x = (median + first)[rows].view(-1, 1, 1) + places.to(median.device)
            part = self._of(rows)
            lower, upper = part._logits(x - 0.5), part._logits(x + 0.5)
            sign = -torch.sign(lower + upper)
            found = torch.abs(torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower))[:, 0].cpu()
            for row, values in zip(rows.tolist(), found, strict=True):
                p = values[: counts[row]].numpy()
                p = p / p.sum()
                bits = -(p * np.log2(np.maximum(p, _LEAST))).sum()
                unseen = max(2 * _TAIL, _UNSEEN * bits)
                probabilities[row] = p * (1 - unseen) + unseen / (len(p) + 1)
        return Tables.from_probabilities(
            probabilities, first.int().cpu().numpy(), median.cpu().numpy() * steps, steps
        )

    def _of(self, rows: torch.Tensor) -> FactorizedPrior:
        """Return the prior of some channels."""
        filters = [factor.shape[1] for factor in self.factors]
        part = FactorizedPrior(len(rows), filters=filters).to(self.quantiles.device)
        part.load_state_dict({key: value[rows] for key, value in self.state_dict().items()})
        return part

    def load_compressai(self, state: Mapping[str, torch.Tensor], prefix: str = "") -> None:
        """Take the parameters of CompressAI's ``EntropyBottleneck``, of any of its versions.

        Parameters
        ----------
        state
            A state dict; only keys that begin with `prefix` are looked at.

        Raises
        ------
        WeightsMismatch
            If they are not those of such a bottleneck of as many channels.
        """
        own, taken = self.state_dict(), {}
        for key, value in state.items():
            name = key.removeprefix(prefix)
            if key.startswith(prefix) and (found := _COMPRESSAI.fullmatch(name)):
                taken[f"{_OURS[found[1]]}.{found[2]}"] = value
            elif key.startswith(prefix) and name == "quantiles":
                taken[name] = value
        wrong = [k for k in own if k not in taken or taken[k].shape != own[k].shape]
        if wrong or len(taken) != len(own):
            raise WeightsMismatch(
                f"This is no EntropyBottleneck of {self.channels} channels: "
                f"{', '.join((wrong or [*taken])[:3])} ..."
            )
        self.load_state_dict(taken)


class _AtLeast(torch.autograd.Function):
    """A lower bound that lets gradients through which raise what is below it (CompressAI)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, least: float) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.least = least
        return x.clamp_min(least)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return grad * ((x >= ctx.least) | (grad < 0)), None


def _of_like_width(counts: torch.Tensor, most: int = 2**22) -> Iterator[torch.Tensor]:
    """Part channels by the width of their tables, so that one wide one costs itself only."""
    order = counts.argsort()
    while len(order):
        widths = counts[order].double()
        size = max(1, int((widths * torch.arange(1, len(order) + 1) <= most).sum()))
        yield order[:size]
        order = order[size:]
