"""The making of one codec: a step's width, the prior, both trained together, the prior again."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geowb.errors import ModelError, RequestError
from geowb.lines import Line, duration
from geowb.models.mae import MaskedPrithvi
from geowb.models.wrapper import placed
from geowb.nec.autoencoder import CompressedMAE
from geowb.nec.codecs import save_codec
from geowb.nec.prior import FactorizedPrior
from geowb.nec.tables import Tables
from geowb.pretrain.archive import ChipArchive
from geowb.pretrain.recipes import Recipe
from geowb.pretrain.stream import ChipStream
from geowb.pretrain.training import training_step

__all__ = ["Adaptation", "Making", "choose_factor", "fit_prior"]

#: Factors of the embedding that are tried.
_FACTORS = tuple(2 ** (half / 2) for half in range(-6, 9))
#: Tokens that the prior is fitted to, and that the factors are tried on.
_TOKENS = 2**14
#: Steps after which the medians are found anew, about which is rounded.
_MEDIANS = 10
#: Seconds between two checkpoints.
_EVERY = 30


@dataclass(frozen=True)
class Adaptation:
    """How an encoder is adapted, in plain values.

    Parameters
    ----------
    steps, batch_size
        Iterations of the network, and chips in each.
    learning_rate, prior_learning_rate
        Peaks of the network's rate and of the prior's; both fall as a cosine. AdamW, betas 0.9 and
        0.95, weight decay 0.01 (0 for the prior).
    fitting_steps
        Of the prior alone, before and after.
    through
        What the decoder sees in training: the embedding with ``rounding`` (its gradient passed on
        as if there were none), or with ``noise``, as in the paper's code.
    stored
        Type of the weights in the file.
    seed
        Of order, masks and noise.
    """

    steps: int
    batch_size: int = 32
    learning_rate: float = 1e-3
    prior_learning_rate: float = 2e-2
    fitting_steps: int = 300
    through: str = "rounding"
    stored: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
            *(("steps", 1, math.inf), ("batch_size", 1, math.inf), ("learning_rate", 1e-9, 1.0)),
            *(("prior_learning_rate", 1e-9, 1.0), ("fitting_steps", 1, math.inf)),
            ("seed", 0, 2**32 - 1),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise RequestError(f"{name} is {value}; it must lie between {low:g} and {high:g}.")
        if self.through not in ("rounding", "noise"):
            raise RequestError(f"through is '{self.through}': it is rounding or noise.")
        if self.stored not in ("float32", "float16"):
            raise RequestError(f"stored is '{self.stored}': weights are float32 or float16.")


class Making:
    """One codec on its way: `go` begins where the last checkpoint is, and ends with its files."""

    def __init__(
        self,
        base: MaskedPrithvi,
        tradeoff: float,
        folder: Path,
        how: Adaptation,
        recipe: Recipe,
        archive: ChipArchive,
        progress: bool = True,
    ) -> None:
        self.base, self.model = base, CompressedMAE.of(base)
        self.tradeoff, self.folder, self.how = tradeoff, folder, how
        self.recipe, self.archive = recipe, archive
        self.line = Line() if progress else None
        self.factor, self.seconds, self.curve = 1.0, 0.0, []
        self._checkpoint = folder / "checkpoint.pt"
        self._seen: dict[str, torch.Tensor] | None = None

    def go(self, asked: dict[str, Any], accelerator: str = "auto") -> None:
        """Make the codec; `asked` goes into its card."""
        self.folder.mkdir(exist_ok=True)
        with placed(self.model, accelerator) as device, torch.random.fork_rng():
            optimizer, start = self._resumed(device) or (self._begun(device), 0)
            self._train(optimizer, start, device)
            latents = self._latents(device)
            fit_prior(self.model.prior, latents, self.how.fitting_steps, self.how.seed)
            scores = self._scores(device)
        share, recipe = self.model.trained(), self.model.card.get("training", {}).get("recipe", {})
        card = {
            **asked,
            "lambda": self.tradeoff,
            "factor": self.factor,
            "parameters": {"trained": share.trained, "all": share.all},
            "iterations": {"adapting": self.how.steps, "pretraining": recipe.get("steps")},
            "seconds": round(self.seconds, 1),
            "on_training_chips": scores,
            "curve": self.curve,
        }
        save_codec(self.model, self.folder, card, dtype=self.how.stored)
        self._checkpoint.unlink(missing_ok=True)
        self._tell(
            f"{scores['bits_per_element']:.4f} bits an element, error of the reconstruction "
            f"{scores['error']:.4f}, before {scores['error_before']:.4f}",
            lasting=True,
        )

    def _tell(self, text: str, *, lasting: bool = False) -> None:
        if self.line:
            self.line.show(f"lambda {self.tradeoff:g}: {text}", lasting=lasting)

    # Beginning and going on.

    def _begun(self, device: torch.device) -> torch.optim.Optimizer:
        """Choose the width of a step and fit the prior to it."""
        self._tell("choosing the width of a step ...")
        model, example = self.model, self._example(device)
        self.factor = choose_factor(model, example, self.recipe, self.tradeoff)
        model.rescale(self.factor)
        latents = self._latents(device)
        width = max(1.0, 2 * float(latents.std(0).mean()))
        prior = FactorizedPrior(latents.shape[1], init_scale=width, seed=self.how.seed)
        model.prior = prior.to(device)
        fit_prior(model.prior, latents, self.how.fitting_steps, self.how.seed)
        return self._optimizer()

    def _resumed(self, device: torch.device) -> tuple[torch.optim.Optimizer, int] | None:
        if not self._checkpoint.is_file():
            return None
        state = torch.load(self._checkpoint, map_location=device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.curve, self.seconds, self.factor = state["curve"], state["seconds"], state["factor"]
        optimizer = self._optimizer()
        optimizer.load_state_dict(state["optimizer"])
        return optimizer, state["step"]

    def _save(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        partial = self._checkpoint.with_suffix(".partial")
        state = {"model": self.model.state_dict(), "optimizer": optimizer.state_dict()}
        said = {"curve": self.curve, "seconds": self.seconds, "factor": self.factor, "step": step}
        torch.save(state | said, partial)
        partial.replace(self._checkpoint)

    def _optimizer(self) -> torch.optim.Optimizer:
        """AdamW; its rates follow the factor, so that wider steps are the same training."""
        how = self.how
        scales = {
            "encoder.norm.weight": self.factor,
            "encoder.norm.bias": self.factor,
            "decoder.decoder_embed.weight": 1 / self.factor,
        }
        groups = []
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad:
                continue
            ours = name.startswith("prior.")
            peak = how.prior_learning_rate if ours else how.learning_rate * scales.get(name, 1.0)
            decay = 0.0 if ours else 0.01 / scales.get(name, 1.0)
            groups.append({"params": [parameter], "peak": peak, "weight_decay": decay})
        return torch.optim.AdamW(groups, betas=(0.9, 0.95))

    # What is looked at beside the training.

    def _example(self, device: torch.device) -> dict[str, torch.Tensor]:
        """Give chips of the archive with `_TOKENS` tokens or a few less; read once."""
        if self._seen is not None:
            return self._seen
        size, patch = self.archive.size, self.model.unit
        tokens = self.archive.frames * (size // patch) ** 2
        count = min(len(self.archive), max(1, _TOKENS // tokens))
        how = {"batch_size": count, "steps": 1, "seed": self.how.seed + 1, "augment": False}
        batch = next(iter(ChipStream(self.archive, **how)))
        self._seen = {key: one.to(device) for key, one in batch.items()}
        return self._seen

    @torch.no_grad()
    def _latents(self, device: torch.device) -> torch.Tensor:
        """Embeddings of these chips, ``(tokens, D)``."""
        return _embedded(self.model, self._example(device)["image"])

    @torch.no_grad()
    def _scores(self, device: torch.device) -> dict[str, float]:
        """Say what the codec costs and loses, on chips that it was fitted to."""
        example, tables = self._example(device), self.model.prior.tables()
        values = _embedded(self.model, example["image"]).cpu().numpy()
        with placed(self.base, device.type):
            before = _error(self.base, example, self.recipe)
        return {
            "chips": len(example["image"]),
            "bits_per_element": round(tables.information(values) / values.size, 6),
            "error": round(_error(self.model.eval(), example, self.recipe), 6),
            "error_before": round(before, 6),
        }

    # Training.

    def _train(self, optimizer: torch.optim.Optimizer, start: int, device: torch.device) -> None:
        model, how = self.model, self.how
        network = [p for n, p in model.named_parameters() if not n.startswith("prior.")]
        size = {"batch_size": how.batch_size, "steps": how.steps, "start": start}
        model.train()
        began, saved, before = time.monotonic(), time.monotonic(), self.seconds
        model.prior.through = how.through
        for step, batch in enumerate(ChipStream(self.archive, seed=how.seed, **size), start):
            if how.through == "rounding" and step % _MEDIANS == 0:
                model.prior.update_quantiles()
            torch.manual_seed(how.seed * 1_000_003 + step)  # of the noise: the step's own
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * (1 + math.cos(math.pi * step / how.steps)) / 2
            batch["image"] = batch["image"].to(device)
            out = training_step(model, batch, self.recipe, step)
            rate = out.bits.mean() / model.prior.channels
            loss = rate + self.tradeoff * out.loss
            if not torch.isfinite(loss):
                raise ModelError(
                    f"The loss of lambda {self.tradeoff:g} is {loss.item()} at step {step}: use a "
                    "lower learning rate, in another folder. No codec was written."
                )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network, 1.0)
            optimizer.step()
            self.seconds = before + time.monotonic() - began
            self._follow(step + 1, rate.item(), out.loss.item())
            if time.monotonic() - saved > _EVERY or step + 1 == how.steps:
                self._save(optimizer, step + 1)
                saved = time.monotonic()

    def _follow(self, step: int, rate: float, error: float) -> None:
        steps = self.how.steps
        if step % max(1, steps // 20) and step != steps:
            return
        row = {"step": step, "bits_per_element": round(rate, 5), "error": round(error, 5)}
        self.curve.append(row)
        left = duration(self.seconds / step * (steps - step))
        self._tell(
            f"step {step}/{steps}, {rate:.4f} bits an element, error {error:.4f} | {left} left"
        )


def _embedded(model: CompressedMAE, image: torch.Tensor) -> torch.Tensor:
    model.eval()
    return torch.cat([model.embed(part).flatten(0, 3) for part in image.split(16)])


def _error(model: MaskedPrithvi, batch: dict[str, torch.Tensor], recipe: Recipe) -> float:
    """Mean square error of a masked reconstruction, a few chips at a time."""
    parts = [dict(zip(batch, some, strict=True)) for some in zip(
        *(value.split(16) for value in batch.values()), strict=True)]  # fmt: skip
    losses = [float(training_step(model, p, recipe, 0).loss) * len(p["image"]) for p in parts]
    return sum(losses) / len(batch["image"])


def fit_prior(prior: FactorizedPrior, latents: torch.Tensor, steps: int, seed: int = 0) -> None:
    """Fit a prior to embeddings ``(tokens, D)`` alone; it ends in eval mode.

    >>> fit_prior(FactorizedPrior(4), torch.randn(100, 4), steps=2)

    `seed` is that of the tokens of a step, and of the noise.
    """
    random = torch.Generator().manual_seed(seed)
    weights = [p for p in prior.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    prior.train()
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(seed)
        for _ in range(steps):
            some = torch.randint(len(latents), (min(1024, len(latents)),), generator=random)
            bits = prior(latents[some.to(latents.device)])[1].mean()
            optimizer.zero_grad()
            bits.backward()
            optimizer.step()
            schedule.step()
    prior.eval()


@torch.no_grad()
def choose_factor(
    model: CompressedMAE, batch: dict[str, torch.Tensor], recipe: Recipe, tradeoff: float
) -> float:
    """Find the factor by which an embedding is widened so that rounding it costs least.

    Rate by the counts of each channel's symbols, error of the masked reconstruction from what was
    rounded; the model is left as it was.
    """
    latents, kept, before = _embedded(model, batch["image"]), model.prior.quantiles.clone(), 1.0
    costs = []
    for factor in _FACTORS:
        model.rescale(factor / before)
        before = factor
        model.prior.quantiles[:, 0, 1] = latents.median(0).values * factor
        values = (latents * factor).cpu().numpy()
        rate = Tables.fit(values).information(values) / values.size
        costs.append(rate + tradeoff * _error(model, batch, recipe))
    model.rescale(1 / before)
    model.prior.quantiles.copy_(kept)
    return _FACTORS[int(np.argmin(costs))]
