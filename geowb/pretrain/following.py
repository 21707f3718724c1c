"""What follows a pretraining: its loss curve, its checkpoints, and pictures of it."""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from geowb.errors import DataError
from geowb.lines import Line, duration
from geowb.models.masked import MaskedModel, Reconstruction
from geowb.pretrain import views
from geowb.pretrain.folder import COLUMNS, machine_of, write_history
from geowb.pretrain.recipes import Recipe

__all__ = ["Keep", "Log", "checkpoints", "draw_curve", "rows_every"]


def rows_every(recipe: Recipe) -> int:
    """Count the steps from one row of the loss curve to the next."""
    return max(1, min(10, recipe.steps // 20))


class Log(Callback):
    """The loss curve: kept in checkpoints, written to loss.csv, told in a line."""

    def __init__(self, recipe: Recipe, held_out: torch.Tensor | None, shown: bool) -> None:
        self.rows: list[dict[str, float]] = []
        self._recipe, self._held_out = recipe, held_out
        self._line = Line() if shown else None
        self._sum, self._count, self._began, self._before = 0.0, 0, time.perf_counter(), 0.0
        self._first, self.machine, self._rate = 0, "", 0.0
        # Rows often enough for a curve; the held-out chips at most 20 times.
        self._every = rows_every(recipe)
        self._rare = max(10, recipe.steps // 20 // self._every * self._every)

    @property
    def seconds(self) -> float:
        """Time in training steps, that before a resume included."""
        return self._before + time.perf_counter() - self._began

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds of the curve."""
        return {"rows": self.rows, "seconds": self.seconds, "sum": self._sum, "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the curve of a checkpoint."""
        self.rows, self._before = list(state["rows"]), state["seconds"]
        self._sum, self._count = state["sum"], state["count"]

    def on_train_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Start the clock."""
        self._began, self._first = time.perf_counter(), trainer.global_step
        self.machine = machine_of(task.device)

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Take the rate that the step is made with."""
        self._rate = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(
        self, trainer: L.Trainer, task: L.LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Add a row now and then, and tell it."""
        self._sum, self._count = self._sum + outputs["loss"].detach(), self._count + 1
        step = trainer.global_step
        if step % self._every and step < self._recipe.steps:
            return
        loss = trainer.strategy.reduce(torch.as_tensor(self._sum / self._count), reduce_op="mean")
        self._sum, self._count = 0.0, 0
        if not torch.isfinite(loss):
            raise DataError(
                f"The loss of '{self._recipe.model}' is {float(loss)} at step {step}: use a lower "
                "learning rate (--learning-rate), in another folder. No model file was written."
            )
        rare = step % self._rare == 0 or step == self._recipe.steps
        held_out = float("nan")
        if rare and self._held_out is not None and trainer.is_global_zero:
            held_out = _held_out_loss(task.model, self._held_out, self._recipe)
        values = (step, float(loss), held_out, self._rate, round(self.seconds, 2))
        self.rows.append(dict(zip(COLUMNS, values, strict=True)))
        if trainer.is_global_zero and self._line is not None:
            self._line.show(self._text(step), lasting=rare)

    def _text(self, step: int) -> str:
        row, steps = self.rows[-1], self._recipe.steps
        pace = (step - self._first) / max(1e-9, time.perf_counter() - self._began)
        bar = "#" * round(20 * step / steps)
        held = next((r["held_out"] for r in reversed(self.rows) if r["held_out"] >= 0), None)
        told = f", held out {held:.4f}" if held is not None else ""
        return (
            f"step {step:>{len(str(steps))}}/{steps} [{bar:<20}] loss {row['loss']:.4f}{told} | "
            f"{pace * self._recipe.batch_size:.0f} chips/s, {duration(self.seconds)}, "
            f"{duration((steps - step) / pace)} left"
        )


@torch.no_grad()
def _held_out_loss(model: MaskedModel, image: torch.Tensor, recipe: Recipe) -> float:
    """Loss on the held-out chips, always under the same masks, without gains."""
    was = model.training
    model.eval()
    losses = [_reconstruct(model, part, recipe).loss * len(part) for part in image.split(32)]
    model.train(was)
    return float(sum(losses)) / len(image)


def _reconstruct(model: MaskedModel, image: torch.Tensor, recipe: Recipe) -> Reconstruction:
    """Hide units by their place in the batch and predict them."""
    frames, rows, columns = model.grid(image)
    noise = views.noise(torch.arange(len(image)), frames * rows * columns, recipe.seed)
    return model(image.to(model.mean.device), noise.to(model.mean.device), recipe.mask_ratio)


class Keep(Callback):
    """Writes loss.csv when a checkpoint is written, and now and then a picture beside it."""

    def __init__(
        self, log: Log, folder: Path, recipe: Recipe, held_out: torch.Tensor | None
    ) -> None:
        self._log, self._folder, self._recipe, self._held_out = log, folder, recipe, held_out
        self._every, self._drawn = max(10, recipe.steps // 10), 0  # a picture takes a second

    def on_save_checkpoint(
        self, trainer: L.Trainer, task: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the recipe in the checkpoint, and write the rest beside it."""
        checkpoint["recipe"] = self._recipe.as_dict()
        if trainer.is_global_zero:
            write_history(self._folder / "loss.csv", self._log.rows)
            step = trainer.global_step
            if step - self._drawn >= self._every or step == self._recipe.steps:
                self._picture(task.model, step)
                self._drawn = step

    @torch.no_grad()
    def _picture(self, model: MaskedModel, step: int) -> None:
        if self._held_out is None or not _can_draw():
            return
        from geowb import plots

        was = model.training
        shown = self._held_out[:3]
        result = _reconstruct(model.eval(), shown, self._recipe)
        model.train(was)
        file = self._folder / "reconstructions" / f"step-{step:06d}.png"
        file.parent.mkdir(exist_ok=True)
        picture = plots.reconstructions(
            shown.numpy(),
            result.prediction.float().cpu().numpy(),
            result.hidden.cpu().numpy(),
            model.card["bands"],
            title=f"{model.card['name']}, step {step}: held-out chips",
        )
        plots.show(picture, file, inches=1.3)


def checkpoints(folder: Path, recipe: Recipe) -> ModelCheckpoint:
    """Write checkpoints; the one before is removed only when the new one is whole."""
    every = rows_every(recipe)
    return ModelCheckpoint(
        dirpath=folder,
        filename="step-{step:07d}",
        auto_insert_metric_name=False,
        # Where a row of the curve ends: then every device resumes with an empty sum.
        every_n_train_steps=max(every, min(250, recipe.steps // 10) // every * every),
        save_top_k=1,
        enable_version_counter=False,
    )


def _can_draw() -> bool:
    """Whether the extra `widgets` is installed; training does without pictures."""
    return find_spec("holoviews") is not None


def draw_curve(folder: Path, recipe: Recipe, rows: list[dict[str, float]]) -> None:
    """Draw loss.png."""
    if not _can_draw():
        return
    from geowb import plots

    curve = plots.loss_curve(pd.DataFrame(rows), title=recipe.model)
    plots.show(curve, folder / "loss.png", inches=5)
