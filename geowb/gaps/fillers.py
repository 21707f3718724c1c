"""What fills gaps without a masked model: three rules of thumb, and a network for pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from geowb.bands import HLS6
from geowb.errors import ModelError
from geowb.models.masked import Reconstruction
from geowb.models.registry import spec
from geowb.models.wrapper import PixelModel, build, statistics

__all__ = ["RULES", "DateMean", "LinearInTime", "NetworkFiller", "TemporalNeighbour"]

#: Band of a network's input that is 1 where a pixel is missing.
_PLANE = "MISSING"


class _Rule(nn.Module):
    """A rule: no weights, any number of dates, of bands and of pixels.

    Pixels that a rule says nothing of (never clear) get what `DateMean` says.
    """

    def __init__(self) -> None:
        super().__init__()
        self.card = {"name": self.name, "frames": None, "weights": "no weights: a rule"}

    def fill(
        self,
        x: torch.Tensor,
        missing: torch.Tensor,
        days: Sequence[float] | None = None,
        means: torch.Tensor | None = None,
    ) -> Reconstruction:
        """Predict what is missing; as `geowb.models.mae.MaskedPrithvi.fill`.

        ``days`` are the dates as numbers; the positions 0, 1, ... if None. ``means``
        ``(B, C, T, 1, 1)`` are what `DateMean` says; those of `x` if None. ``hidden`` are the
        missing pixels, the loss is the mean square error over them in counts.
        """
        gap = _gap(x, missing)
        days = torch.arange(x.shape[2]) if days is None else torch.as_tensor(days)
        days = days.double().to(x.device)
        if len(days) != x.shape[2]:
            raise ModelError(f"There are {len(days)} days for {x.shape[2]} dates.")
        shown = x.masked_fill(gap, torch.nan)
        means = _date_mean(shown) if means is None else means
        made = self._rule(shown, days)
        made = torch.where(torch.isnan(made), means, made)
        wanted = gap & torch.isfinite(x)
        square = (made - x.nan_to_num()).square() * wanted
        return Reconstruction(made, gap, square.sum() / wanted.sum().clamp_min(1))

    def can_fill(self, x: torch.Tensor, missing: torch.Tensor) -> torch.Tensor:
        """Whether each sample has a pixel that is there, ``(B,)`` bool."""
        return ~_gap(x, missing).flatten(1).all(1)

    @property
    def name(self) -> str:
        """Name of the rule, as `geowb.fill_gaps` takes it."""
        return next(name for name, rule in RULES.items() if rule is type(self))

    def _rule(self, shown: torch.Tensor, days: torch.Tensor) -> torch.Tensor:
        """Predict from what is shown, NaN where it is not; NaN where nothing can be said."""
        raise NotImplementedError


class DateMean(_Rule):
    """The mean of the clear pixels of that date and band: the floor.

    >>> x = torch.tensor([1.0, 3.0, 9.0]).reshape(1, 1, 1, 1, 3)
    >>> missing = torch.tensor([False, False, True]).reshape(1, 1, 1, 3)
    >>> DateMean().fill(x, missing).prediction.flatten()
    tensor([2., 2., 2.])

    Of a date without a clear pixel, the mean over all dates.
    """

    def _rule(self, shown: torch.Tensor, days: torch.Tensor) -> torch.Tensor:
        return torch.full_like(shown, torch.nan)


class TemporalNeighbour(_Rule):
    """The same pixel on the nearest date on which it is clear; the earlier of two.

    >>> x = torch.tensor([1.0, 5.0, 9.0]).reshape(1, 1, 3, 1, 1)
    >>> missing = torch.tensor([False, True, False]).reshape(1, 3, 1, 1)
    >>> TemporalNeighbour().fill(x, missing, days=[0, 20, 30]).prediction.flatten()
    tensor([1., 9., 9.])
    """

    def _rule(self, shown: torch.Tensor, days: torch.Tensor) -> torch.Tensor:
        made = torch.full_like(shown, torch.nan)
        for at in range(len(days)):
            # A date's own value comes first: its distance is 0.
            for other in (days - days[at]).abs().argsort(stable=True):
                made[:, :, at] = torch.where(
                    torch.isnan(made[:, :, at]), shown[:, :, other], made[:, :, at]
                )
        return made


class LinearInTime(_Rule):
    """On the line between the clear dates before and after; at the ends, the nearest clear date.

    >>> x = torch.tensor([1.0, 5.0, 9.0]).reshape(1, 1, 3, 1, 1)
    >>> missing = torch.tensor([False, True, False]).reshape(1, 3, 1, 1)
    >>> LinearInTime().fill(x, missing, days=[0, 10, 40]).prediction.flatten()
    tensor([1., 3., 9.])
    """

    def _rule(self, shown: torch.Tensor, days: torch.Tensor) -> torch.Tensor:
        count = len(days)
        before, when = _carried(shown, days, range(count))
        after, then = _carried(shown, days, reversed(range(count)))
        at = days.reshape(1, 1, -1, 1, 1)
        share = ((at - when) / (then - when)).nan_to_num(0.0).to(shown.dtype)
        made = before + share * (after - before)
        made = torch.where(torch.isnan(before), after, made)
        return torch.where(torch.isnan(after), before, made)


#: Rules by the name that `geowb.fill_gaps` takes.
RULES: dict[str, type[_Rule]] = {
    "temporal_neighbour": TemporalNeighbour,
    "linear": LinearInTime,
    "date_mean": DateMean,
}


class NetworkFiller(nn.Module):
    """A network for pixels, such as the U-Net, that is trained to fill gaps.

    >>> filler = NetworkFiller.build("unet", frames=3)
    >>> filler.model.card["outputs"]
    18

    It sees the dates as channels, 0 (the band's mean) where they are missing, and a plane a date
    that says where that is; it predicts all bands and dates in normalised units. Its model file is
    that of ``filler.model``: ``NetworkFiller(geowb.models.load(FILE))``.
    """

    def __init__(self, model: PixelModel) -> None:
        super().__init__()
        card = model.card
        if not self.fits(model):
            raise ModelError(
                f"'{card['name']}' cannot fill gaps: its last input band must be {_PLANE} and its "
                "outputs all other bands of all dates. See NetworkFiller.build."
            )
        self.model = model
        self.card = {**card, "bands": card["bands"][:-1]}

    @staticmethod
    def fits(model: PixelModel) -> bool:
        """Whether a network has the inputs and outputs that gap filling wants."""
        bands, frames = model.card["bands"], model.card["frames"]
        return bands[-1] == _PLANE and model.card["outputs"] == (len(bands) - 1) * frames

    @classmethod
    def build(
        cls,
        name: str,
        *,
        bands: Sequence[str] = HLS6,
        frames: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        seed: int = 0,
    ) -> NetworkFiller:
        """Build a model of `geowb.models.MODELS` for gap filling, with random weights.

        >>> NetworkFiller.build("unet", frames=3).card["weights"]
        'random (seed 0)'

        ``mean`` and ``std`` are band statistics in counts; by default the model's own.
        """
        mean, std = statistics(spec(name), bands, mean, std)
        return cls(
            build(
                name,
                bands=(*bands, _PLANE),
                mean=(*mean, 0.0),
                std=(*std, 1.0),
                frames=frames,
                outputs=len(bands) * frames,
                seed=seed,
            )
        )

    def fill(self, x: torch.Tensor, missing: torch.Tensor) -> Reconstruction:
        """Predict what is missing; as `geowb.models.mae.MaskedPrithvi.fill`.

        ``hidden`` are the missing pixels, the loss is the mean square error over them in
        normalised units, pixels without data left out.
        """
        gap = _gap(x, missing)
        planes = gap.to(x.dtype)
        made = self.model(torch.cat((x.masked_fill(gap, torch.nan), planes), dim=1))
        made = made.unflatten(1, (x.shape[1], x.shape[2]))
        mean, std = self.model.mean[:, :-1], self.model.std[:, :-1]
        wanted = gap & torch.isfinite(x)
        square = (made - ((x - mean) / std).nan_to_num()).square() * wanted
        loss = square.sum() / wanted.sum().clamp_min(1)
        return Reconstruction(made * std + mean, gap, loss)

    can_fill: Callable = _Rule.can_fill


def _gap(x: torch.Tensor, missing: torch.Tensor) -> torch.Tensor:
    """Check the shapes; what is missing and what has no data, ``(B, 1, T, H, W)``."""
    if x.ndim != 5 or missing.shape != (len(x), *x.shape[2:]) or missing.dtype != torch.bool:
        raise ModelError(
            f"Chips are (batch, band, date, y, x) and missing is (batch, date, y, x) of bool; they "
            f"were given as {tuple(x.shape)} and {tuple(missing.shape)} of {missing.dtype}."
        )
    return (missing | ~torch.isfinite(x).all(1))[:, None]


def _date_mean(shown: torch.Tensor) -> torch.Tensor:
    """Mean of what is shown of each date and band, or of the band; ``(B, C, T, 1, 1)``."""
    own = shown.nanmean((-2, -1), keepdim=True)
    return torch.where(torch.isnan(own), shown.nanmean((-3, -2, -1), keepdim=True), own)


def _carried(
    shown: torch.Tensor, days: torch.Tensor, order: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Last value that was shown up to each date in this order, and its day."""
    values, when = shown.clone(), torch.full_like(shown, torch.nan, dtype=days.dtype)
    last = None
    for at in order:
        there = ~torch.isnan(shown[:, :, at])
        when[:, :, at] = torch.where(
            there, days[at], torch.nan if last is None else when[:, :, last]
        )
        if last is not None:
            values[:, :, at] = torch.where(there, shown[:, :, at], values[:, :, last])
        last = at
    return values, when
