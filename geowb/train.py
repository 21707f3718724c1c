"""Fine-tuning on Lightning: the masked loss, one `fit`, and what it cost."""

from __future__ import annotations

import logging
import math
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch.utils.data import DataLoader, DistributedSampler
from torchmetrics import MeanSquaredError

from geowb.chips import with_labels
from geowb.errors import DataError, RequestError
from geowb.lines import Line
from geowb.memory import PeakMemory
from geowb.models.registry import check_accelerator

if TYPE_CHECKING:
    from geowb.chips import ChipDataset
    from geowb.models.wrapper import PixelModel

_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
_SCHEDULES = ("one_cycle", "plateau")

__all__ = ["Fit", "fit", "masked_rmse", "quiet", "seed_everything", "steps_an_epoch"]


def masked_rmse(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Root of the mean square error over the labelled pixels of the whole batch.

    >>> nan = float("nan")
    >>> masked_rmse(torch.tensor([1.0, 5.0, 9.0]), torch.tensor([4.0, 1.0, nan])).item()
    3.535533905029297

    Both of the same shape; NaN in `target` is unlabelled. The root is taken once, after masking,
    as in TerraTorch's regression task. Without any label the loss is zero and so is its gradient.
    """
    labelled = torch.isfinite(target)
    if not labelled.any():
        return prediction.sum() * 0.0
    square = (prediction[labelled] - target[labelled]).square().mean()
    return square.clamp_min(1e-12).sqrt()  # the root has no finite slope at zero


class _Regression(L.LightningModule):
    """One value a pixel, sparse labels."""

    def __init__(self, model: PixelModel, plan: dict[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.plan = plan
        self.scores = torch.nn.ModuleDict(
            {f"{part}_rmse": MeanSquaredError(squared=False) for part in ("train", "val")}
        )
        # A frozen encoder is not written into checkpoints; it is in the model already.
        self.strict_loading = False

    def _step(self, batch: dict[str, torch.Tensor], part: str) -> torch.Tensor:
        prediction, target = self.model(batch["image"])[:, 0], batch["label"]
        labelled = torch.isfinite(target)
        if labelled.any():
            score = self.scores[f"{part}_rmse"]
            score.update(prediction[labelled].detach(), target[labelled])
            self.log(f"{part}_rmse", score, on_step=False, on_epoch=True)
        return masked_rmse(prediction, target)

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        return self._step(batch, "train")

    def validation_step(self, batch: dict[str, torch.Tensor], _: int) -> None:
        self._step(batch, "val")

    def configure_optimizers(self) -> dict[str, Any]:
        free = [p for p in self.parameters() if p.requires_grad]
        rate = self.plan["learning_rate"]
        optimizer = torch.optim.AdamW(free, rate, weight_decay=self.plan["weight_decay"])
        if self.plan["schedule"] == "plateau":
            falls = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": falls, "monitor": "val_rmse"},
            }
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        self.trainer.train_dataloader.dataset.set_epoch(self.current_epoch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        frozen = {f"model.{k}" for k, p in self.model.named_parameters() if not p.requires_grad}
        checkpoint["state_dict"] = {
            k: v for k, v in checkpoint["state_dict"].items() if k not in frozen
        }
        checkpoint["plan"] = self.plan
        checkpoint["random_state"] = torch.get_rng_state()
        if torch.cuda.is_available():
            checkpoint["cuda_random_state"] = torch.cuda.get_rng_state_all()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._random_state = checkpoint["random_state"]
        self._cuda_random_state = checkpoint.get("cuda_random_state")

    def on_train_start(self) -> None:
        if hasattr(self, "_random_state"):  # dropout goes on where the checkpoint left it
            torch.set_rng_state(self._random_state)
            if self._cuda_random_state is not None and torch.cuda.is_available():
                torch.cuda.set_rng_state_all(self._cuda_random_state)


class _Progress(Callback):
    """One line that is rewritten each epoch: in a notebook in place, else on standard error."""

    def __init__(self, epochs: int, units: str, shown: bool) -> None:
        self.rows: list[dict[str, float]] = []
        self._epochs, self._units = epochs, units
        self._shown = Line() if shown else None
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Time since training began, that before a resume included."""
        return time.perf_counter() - self._began

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = list(state["rows"])
        self._began = time.perf_counter() - state["seconds"]

    def on_train_epoch_end(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        scores = {k: float(v) for k, v in trainer.callback_metrics.items() if k.endswith("_rmse")}
        self.rows.append({"epoch": trainer.current_epoch, **scores})
        if self._shown is not None:
            self._shown.show(self._line(trainer.current_epoch + 1, scores))

    def _line(self, epoch: int, scores: dict[str, float]) -> str:
        seconds = self.seconds
        left = seconds / len(self.rows) * (self._epochs - epoch)
        bar = "#" * round(20 * epoch / self._epochs)
        names = {"train_rmse": "train", "val_rmse": "validation"}
        told = [f"{word} {scores[key]:.1f}" for key, word in names.items() if key in scores]
        return (
            f"epoch {epoch:>3}/{self._epochs} [{bar:<20}] RMSE {', '.join(told)} {self._units} "
            f"| {seconds:.0f} s, {left:.0f} s left"
        )


@dataclass
class Fit:
    """A trained model and what its training took.

    ``model`` is in eval mode, with the weights of the ``kept_epoch``; ``history`` has a row an
    epoch (epoch, train_rmse, val_rmse); ``seconds`` is the time of training and validation;
    ``peak_memory_mb`` is the memory of weights, gradients, optimiser state and activations at its
    peak, in MB (1e6 bytes), NaN where it is not measured (Apple's GPUs); ``keep`` says which epoch
    was kept, the ``best`` or the ``last``.
    """

    model: PixelModel
    history: pd.DataFrame
    learning_rate: float
    seconds: float
    peak_memory_mb: float
    keep: str = "best"

    @property
    def kept_epoch(self) -> int:
        """Epoch that the weights are of, from 0."""
        at = self._val().argmin() if self.keep == "best" else -1
        return int(self.history["epoch"].iloc[at])

    @property
    def val_rmse(self) -> float:
        """Its RMSE on the validation split; infinite if it diverged, or without validation."""
        val = self._val()
        return float(val.min() if self.keep == "best" else val.iloc[-1])

    def _val(self) -> pd.Series:
        return self.history["val_rmse"].fillna(math.inf)


def fit(
    model: PixelModel,
    train: ChipDataset,
    val: ChipDataset | None,
    *,
    epochs: int,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0328325,
    schedule: str = "one_cycle",
    keep: str = "best",
    batch_size: int = 16,
    patience: int = 0,
    seed: int = 0,
    accelerator: str = "auto",
    precision: str = "32-true",
    checkpoints: str | Path | None = None,
    resume: str | Path | None = None,
    units: str = "",
    progress: bool = True,
) -> Fit:
    """Train on labelled chips; keep the weights of the epoch that is best on `val`, or the last.

    >>> result = fit(build("unet"), train, val, epochs=5)  # doctest: +SKIP
    >>> result.val_rmse, result.seconds, result.peak_memory_mb  # doctest: +SKIP

    AdamW; the loss is `masked_rmse`. Chips without a label are left out of `train`.

    Parameters
    ----------
    model, train, val
        From `geowb.models.build` and `geowb.chips`. Without `val` (None), for a training on a few
        chips, the weights of the last epoch are kept.
    learning_rate, weight_decay
        Peak of the cycle, or start; decay as in the public biomass model's configuration.
    schedule
        ``one_cycle``: the rate rises and falls once, step by step; ``plateau``: a tenth of it
        whenever ten epochs were no better on `val`, as for the public biomass model.
    keep
        Weights of the epoch that is ``best`` on `val`, or of the ``last`` one. At the end of one
        cycle the rate has come down to nothing; while it is high, weights swing from epoch to
        epoch, and on few validation chips the best of them is a matter of luck.
    patience
        Stop after so many epochs without a better validation; 0 trains them all.
    accelerator
        ``auto``, ``cpu`` or ``gpu``: the one switch.
    checkpoints
        Folder for ``last.ckpt`` and ``best.ckpt``, written each epoch; by default they are thrown
        away at the end.
    precision
        ``32-true``, or ``bf16-mixed`` or ``16-mixed`` on a GPU.
    resume
        A ``last.ckpt`` to go on from, with the same data and arguments; checkpoints go on into its
        folder. On the CPU the result is that of an undisturbed training.

    Raises
    ------
    DataError
        If a split has no labelled pixel, or training has a single labelled chip.
    RequestError
        For arguments out of range, a GPU that is not there, a checkpoint of another training.
    """
    plan = {
        "epochs": epochs,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "batch_size": batch_size,
        "seed": seed,
    }
    if val is None and (patience or schedule == "plateau"):
        raise RequestError("patience and the schedule 'plateau' need validation chips.")
    keep = "last" if val is None else keep
    _check_request(plan, accelerator, precision, keep, resume)
    labelled = with_labels(train, val)
    if len(labelled) == 1:
        raise DataError("A single training chip has labels: batch normalisation needs two.")
    seed_everything(seed)
    model.train()  # Lightning leaves the modes of a model that was trained before as they are
    lines, memory = _Progress(epochs, units, progress), PeakMemory()
    with tempfile.TemporaryDirectory() as scratch, quiet():
        kept = checkpoints or (Path(resume).parent if resume else None)
        best = ModelCheckpoint(
            dirpath=kept or scratch,
            filename="best",
            monitor="val_rmse" if keep == "best" else None,
            save_top_k=1 if kept or keep == "best" else 0,
            save_last=kept is not None,
            enable_version_counter=False,
        )
        stops = [EarlyStopping("val_rmse", patience=patience)] if patience else []
        trainer = L.Trainer(
            max_epochs=epochs,
            accelerator=accelerator,
            devices=1,
            precision=precision,
            callbacks=[best, lines, memory, *stops],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0 if val is None else None,
        )
        task = _Regression(model, plan)
        trainer.fit(
            task,
            _loader(labelled, batch_size, seed, shuffle=True),
            None if val is None else _loader(val, batch_size, seed, shuffle=False),
            ckpt_path=resume,
            weights_only=False if resume else None,
        )
        if keep == "best" and best.best_model_path:
            held = torch.load(best.best_model_path, map_location="cpu", weights_only=False)
            task.load_state_dict(held["state_dict"], strict=False)
    history = pd.DataFrame(lines.rows, columns=["epoch", "train_rmse", "val_rmse"])
    return Fit(model.cpu().eval(), history, learning_rate, lines.seconds, memory.mb, keep)


def _check_request(
    plan: dict[str, Any], accelerator: str, precision: str, keep: str, resume: str | Path | None
) -> None:
    if plan["epochs"] < 1 or plan["batch_size"] < 2 or not plan["learning_rate"] > 0:
        raise RequestError(
            f"epochs ({plan['epochs']}) must be at least 1, batch_size ({plan['batch_size']}) at "
            f"least 2 and learning_rate ({plan['learning_rate']}) above 0."
        )
    if precision not in _PRECISIONS:
        raise RequestError(f"precision is '{precision}'. Known: {', '.join(_PRECISIONS)}.")
    if keep not in ("best", "last"):
        raise RequestError(f"keep is '{keep}'. Known: best, last.")
    if plan["schedule"] not in _SCHEDULES:
        raise RequestError(f"schedule is '{plan['schedule']}'. Known: {', '.join(_SCHEDULES)}.")
    if problems := check_accelerator(accelerator):
        raise RequestError(problems[0])
    if resume is None:
        return
    if not Path(resume).is_file():
        raise RequestError(f"There is no checkpoint {resume} to resume from.")
    before = torch.load(resume, map_location="cpu", weights_only=False).get("plan")
    if before != plan:
        raise RequestError(f"{resume} is a checkpoint of another training: {before}, not {plan}.")


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch for training; `seed` is a study's one seed."""
    L.seed_everything(seed, workers=True, verbose=False)


def _loader(data: ChipDataset, batch_size: int, seed: int, *, shuffle: bool) -> DataLoader:
    # One replica: only for its order, which depends on the seed and the epoch and on nothing else.
    sampler = DistributedSampler(data, num_replicas=1, rank=0, shuffle=shuffle, seed=seed)
    own = torch.Generator().manual_seed(seed)  # leave the global random state to the model
    alone = shuffle and _one_left(data, batch_size)
    return DataLoader(data, batch_size, sampler=sampler, generator=own, drop_last=alone)


def _one_left(data: ChipDataset, batch_size: int) -> bool:
    """Whether a chip sits out the epoch: a batch of one has no spread to normalise by."""
    return len(data) % batch_size == 1


def steps_an_epoch(train: ChipDataset, batch_size: int) -> int:
    """Training steps that `fit` makes of these chips in an epoch.

    >>> steps_an_epoch(train, 16)  # doctest: +SKIP
    7

    Chips without a label are left out, and so is a chip that would be a batch alone.
    """
    data = train.labelled_only()
    return math.ceil(len(data) / batch_size) - _one_left(data, batch_size)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's greetings and its advice on loader workers out of a notebook."""
    loggers = [logging.getLogger(n) for n in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # Chips are in memory: worker processes would cost more than they bring.
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
            # A training on few chips is meant to have none.
            warnings.filterwarnings("ignore", message=".*validation_step. but have no .val_data.*")
            # A frozen encoder is meant to be in eval mode.
            warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
            # Lightning 2.6 against torch 2.15; harmless.
            warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
