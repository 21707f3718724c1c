"""What a pretraining consists of, in plain values, and the recipes of the shipped encoders."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

from geowb.bands import HLS6
from geowb.errors import ModelError, RequestError
from geowb.models.registry import MODELS, spec
from geowb.pretrain.sampling import Sampling

__all__ = ["RECIPES", "Recipe", "recipe"]


@dataclass(frozen=True)
class Recipe:
    """A pretraining: the model, the chips, and how it is trained.

    >>> recipe("swin_demo").sampling.data
    'world_year'

    Parameters
    ----------
    model
        A Prithvi or Swin model of ``geowb.models.MODELS``.
    sampling
        The training chips; their size and dates are the model's.
    held_out
        Chips of other places on which the loss is followed; None for none.
    unit, mask_ratio
        Edge of what is hidden as a whole (pixels; 0 for the model's own) and share that is hidden.
    steps, batch_size
        Number of steps; chips a step, of all devices together.
    learning_rate, weight_decay, warmup
        Peak of the rate, which rises over the share `warmup` of the steps and falls as a cosine;
        decay of the weights (AdamW; biases and norms are left alone).
    jitter
        Spread of random gains and offsets of the bands (`views.gains`), so that what is learned
        depends less on a sensor's calibration and on the season. 0 for none.
    normalise
        ``archive``: by the chips' own statistics; ``published``: by the model's (`models.build`),
        which have room for snow, cities and other sensors.
    fewer_dates
        Share of the steps that see fewer dates than the chips have, so that the encoder also
        takes one or two.
    stored
        Type of the weights in the file.
    seed
        Of weights, order, augmentation and masks.

    Raises
    ------
    RequestError
        For a value that is out of range.
    """

    model: str
    sampling: Sampling
    held_out: Sampling | None = None
    unit: int = 0
    mask_ratio: float = 0.75
    steps: int = 1000
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.1
    jitter: float = 0.1
    normalise: str = "archive"
    fewer_dates: float = 0.0
    stored: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
            *(("steps", 1, math.inf), ("batch_size", 1, math.inf), ("learning_rate", 1e-9, 1.0)),
            *(("weight_decay", 0.0, 10.0), ("warmup", 0.0, 1.0), ("jitter", 0.0, 1.0)),
            *(("mask_ratio", 0.05, 0.95), ("fewer_dates", 0.0, 1.0), ("seed", 0, 2**32 - 1)),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise RequestError(f"{name} is {value}; it must lie between {low:g} and {high:g}.")
        if self.normalise not in ("archive", "published"):
            raise RequestError(f"normalise is '{self.normalise}': it is archive or published.")
        if self.stored not in ("float32", "float16"):
            raise RequestError(f"stored is '{self.stored}': weights are float32 or float16.")
        if spec(self.model).family not in ("prithvi", "swin"):
            raise RequestError(f"'{self.model}' is not pretrained by masking: use {_maskable()}.")
        if self.fewer_dates and spec(self.model).family == "swin":
            raise RequestError("fewer_dates must be 0: for a Swin model the dates are channels.")

    def shortened(self, steps: int) -> Recipe:
        """Return the same for `steps` steps, with no more chips (and worlds) than they can see.

        >>> recipe("swin_demo").shortened(50).sampling.count
        1600
        """
        if steps < 1:
            raise RequestError(f"steps is {steps}; it must be 1 or more.")
        wanted = min(self.sampling.count, steps * self.batch_size)
        worlds = math.ceil(len(self.sampling.seeds) * wanted / self.sampling.count)
        sampling = replace(self.sampling, count=wanted, seeds=self.sampling.seeds[:worlds])
        return replace(self, steps=steps, sampling=sampling)

    def changed(
        self,
        *,
        steps: int | None = None,
        worlds: Sequence[int] | None = None,
        held_out: Mapping[str, Sequence[str]] | None = None,
        sampling: Mapping[str, Any] | None = None,
        **values: Any,
    ) -> Recipe:
        """Return the same with other values; None leaves a value as it is.

        >>> recipe("swin_demo").changed(steps=50, sampling={"size": 32}).sampling.size
        32

        Parameters
        ----------
        steps
            As for `shortened`.
        worlds
            Seeds of the worlds that are sampled.
        held_out
            Selections of the entry for the held-out chips. Without them, another entry than the
            recipe's has none: its places would be those of the training.
        sampling
            Fields of `Sampling`.
        **values
            Fields of the recipe.
        """
        wanted = {key: value for key, value in (sampling or {}).items() if value is not None}
        if worlds is not None:
            wanted["seeds"] = worlds
        chips = replace(self.sampling, **wanted)
        kept = self.held_out
        if held_out:
            kept = replace(chips, selections=held_out, count=64, seeds=_HELD_OUT)
        elif chips.data != self.sampling.data or chips.catalog != self.sampling.catalog:
            kept = None
        elif kept is not None:
            keys = {"size", "frames", "bands", "selections", "min_clear"} & set(wanted)
            kept = replace(kept, **{key: wanted[key] for key in keys})
        values = {key: value for key, value in values.items() if value is not None}
        other = replace(self, sampling=chips, held_out=kept, **values)
        if steps is None:
            return other
        short = other.shortened(steps)
        if worlds is None:
            return short
        return replace(short, sampling=replace(short.sampling, seeds=worlds))  # as asked for

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a record."""
        chips = {"sampling": self.sampling.to_dict()}
        chips["held_out"] = self.held_out.to_dict() if self.held_out else None
        plain = {key: value for key, value in asdict(self).items() if key not in chips}
        return plain | chips


def _maskable() -> str:
    return ", ".join(name for name, found in MODELS.items() if found.family in ("prithvi", "swin"))


#: Worlds that only pretraining sees begin at 300, those of held-out chips at 390. Studies use seeds
#: below 100, probes those from 400; places of different seeds do not overlap.
_FIRST, _HELD_OUT = 300, range(390, 392)


def _demo(
    worlds: int, frames: int, count: int, size: int = 64, bands: Sequence[str] = HLS6
) -> dict[str, Any]:
    seeds = range(_FIRST, _FIRST + worlds)
    chips = Sampling("world_year", seeds=seeds, size=size, frames=frames, count=count, bands=bands)
    return {"sampling": chips, "held_out": replace(chips, seeds=_HELD_OUT, count=64)}


#: Recipes of the encoders that come with geowb, by model.
RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "prithvi_demo": Recipe(
            "prithvi_demo",
            **_demo(worlds=40, frames=3, count=6144),
            steps=4000,
            learning_rate=1.5e-3,
            jitter=0.15,
            normalise="published",
            fewer_dates=0.4,
            stored="float16",
        ),
        "mae_demo": Recipe(
            "mae_demo",
            **_demo(worlds=40, frames=1, count=6144, size=128, bands=("RED", "GREEN", "BLUE")),
            steps=5000,
            batch_size=16,
            learning_rate=1e-3,
            jitter=0.3,
            normalise="published",
            stored="float16",
        ),
        "swin_demo": Recipe(
            "swin_demo",
            **_demo(worlds=24, frames=1, count=8192),
            unit=8,
            mask_ratio=0.6,
            steps=6000,
            jitter=0.15,
            normalise="published",
            stored="float16",
        ),
    }
)


def recipe(model: str) -> Recipe:
    """Return the recipe of a model; those that are not shipped get the published settings.

    >>> recipe("prithvi_eo_v1_100").mask_ratio
    0.75

    Prithvi-100M: three dates of 224 pixels, mask ratio 0.75, peak rate 5e-4 (Jakubik et al. 2023,
    Prithvi_100M_config.yaml). SimMIM: 0.6, units of 32 pixels, 192 pixels rounded up to 224 here.
    The batch size and the number of steps of the paper are not published.

    Raises
    ------
    RequestError
        If there is no such model.
    """
    if model in RECIPES:
        return RECIPES[model]
    try:
        prithvi = spec(model).family == "prithvi"
    except ModelError as error:
        raise RequestError(str(error)) from error
    chips = Sampling(
        "world_year", seeds=range(_FIRST, _FIRST + 40), size=224, frames=3 if prithvi else 1
    )
    return Recipe(
        model,
        chips,
        replace(chips, seeds=_HELD_OUT, count=16),
        unit=0 if prithvi else 32,
        mask_ratio=0.75 if prithvi else 0.6,
        learning_rate=5e-4,
        jitter=0.0,
        normalise="published",
    )
