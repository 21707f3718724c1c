"""Fine-tuning of what fills gaps, as tasks of `geowb.train.fit`."""

from __future__ import annotations

from typing import Any

import torch
from torchmetrics import MeanMetric

from geowb.errors import RequestError
from geowb.gaps.measures import ssim_missing
from geowb.train import Task

__all__ = ["Adversarial", "GapFilling"]

#: Adversarial training as published: rate of the discriminators beside the generator's (1e-4 beside
#: 5e-4), weight of the square error, Adam's moments.
_SLOWER, _ALPHA, _BETAS = 0.2, 5.0, (0.0, 0.9)


class GapFilling(Task):
    """Fine-tune a masked Prithvi, or a `geowb.gaps.NetworkFiller`, to fill gaps.

    >>> fit(model, train, val, task=GapFilling, epochs=10, learning_rate=1e-3)  # doctest: +SKIP

    The loss is the model's own, behind the drawn gaps; gradients are clipped to a norm of 1. As
    published for Prithvi: AdamW and one cycle to a peak of 1e-3 (github ClarkCGA/gfm-gap-filling,
    mae_training.py). The score is `geowb.gaps.scores`' SSIM on missing pixels, mean over samples.
    """

    score = "ssim"
    mode = "max"
    told = "SSIM {:.4f}"

    def __init__(self, model: torch.nn.Module, plan: dict[str, Any]) -> None:
        super().__init__(model, plan)
        self.ssim = MeanMetric(nan_strategy="disable")  # a network that has diverged scores NaN

    def _step(self, batch: dict[str, torch.Tensor], part: str) -> torch.Tensor:
        made = self.model.fill(batch["image"], batch["missing"])
        if part == "val":  # in training it would take a twelfth of a step
            self._note(made.prediction, batch)
        return made.loss

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clip to a norm of 1."""
        self.clip_gradients(optimizer, gradient_clip_val=1.0, gradient_clip_algorithm="norm")

    @torch.no_grad()
    def _note(self, filled: torch.Tensor, batch: dict[str, torch.Tensor]) -> None:
        image, missing = batch["image"], batch["missing"]
        found = ssim_missing(filled.detach(), image, missing).to(image.device)
        there = (missing & torch.isfinite(image).all(1)).flatten(1).any(1)
        if there.any():
            self.ssim.update(found[there].float())
            self._log("val", self.ssim)


class Adversarial(GapFilling):
    """Train a `geowb.models.cgan.CGAN`: hinge losses where something is missing, and 5 x MSE.

    >>> fit(build_cgan(width=8), train, val, task=Adversarial, epochs=10)  # doctest: +SKIP

    As published (github ClarkCGA/gfm-gap-filling-baseline, trainer.py): Adam without momentum at a
    constant rate for generator and discriminators, whose rate is a fifth of the generator's; one
    step of each a batch. The schedule and the decay of the plan are not used. A step of the
    training is one of the generator. Option: ``alpha``, the weight of the square error. It has no
    precision 16-mixed, whose scaled gradients the discriminators would take as they are.
    """

    def __init__(self, model: torch.nn.Module, plan: dict[str, Any]) -> None:
        super().__init__(model, plan)
        self.automatic_optimization = False

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return Adam for the generator and for the discriminators."""
        if self.trainer.precision == "16-mixed":
            raise RequestError("A GAN is trained with the precision 32-true or bf16-mixed here.")
        rate = self.plan["learning_rate"]
        return [
            torch.optim.Adam(self.model.generator.parameters(), rate, betas=_BETAS),
            torch.optim.Adam(self.model.discriminators.parameters(), rate * _SLOWER, betas=_BETAS),
        ]

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> None:
        """One step of the generator, then one of the discriminators."""
        model, generator = self.model, self.optimizers()[0]
        # The plain optimiser: what Lightning wraps would count its steps too.
        judges = self.optimizers(use_pl_optimizer=False)[1]
        shown, gap, truth = model.parts(batch["image"], batch["missing"])
        gates, real = model.gates(gap), torch.where(gap, truth.nan_to_num(), shown)
        made = model.generate(shown)
        fake = torch.where(gap, made, shown)
        self.toggle_optimizer(generator)
        said = model.judge(shown, fake)
        loss = -sum((d * g).mean() for d, g in zip(said, gates, strict=True))
        loss = loss + self.options.get("alpha", _ALPHA) * model.error(made, truth, gap)
        generator.zero_grad()
        self.manual_backward(loss)
        generator.step()
        self.untoggle_optimizer(generator)
        pairs = zip(model.judge(shown, real), model.judge(shown, fake.detach()), gates, strict=True)
        loss = sum(((1 - r).relu() * g).mean() + ((1 + f).relu() * g).mean() for r, f, g in pairs)
        judges.zero_grad()
        self.manual_backward(loss)
        judges.step()
