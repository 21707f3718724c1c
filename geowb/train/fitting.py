"""One `fit` for all tasks, and what it cost."""

from __future__ import annotations

import logging
import math
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch.utils.data import DataLoader, DistributedSampler

from geowb.errors import DataError, RequestError
from geowb.lines import Line
from geowb.memory import PeakMemory
from geowb.models.checks import check_accelerator
from geowb.train.tasks import Regression, Task

if TYPE_CHECKING:
    from geowb.chips import ChipDataset

_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
_SCHEDULES = ("one_cycle", "poly", "plateau")

__all__ = ["Fit", "fit", "quiet", "seed_everything", "steps_an_epoch"]


class _Progress(Callback):
    """One line that is rewritten at each validation: in a notebook in place, else on stderr."""

    def __init__(self, plan: dict[str, Any], task: type[Task], units: str, shown: bool) -> None:
        self.rows: list[dict[str, float]] = []
        self._task, self._units = task, units
        self._unit = "step" if plan["steps"] else "epoch"
        self._whole = plan["steps"] or plan["epochs"]
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
        if self._unit == "epoch":
            self._add(trainer, trainer.current_epoch + 1)

    def on_validation_end(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        if self._unit == "step":
            self._add(trainer, trainer.global_step)

    def _add(self, trainer: L.Trainer, done: int) -> None:
        keys = (f"train_{self._task.score}", f"val_{self._task.score}")
        scores = {
            k: float(trainer.callback_metrics[k]) for k in keys if k in trainer.callback_metrics
        }
        self.rows.append({"epoch": trainer.current_epoch, "step": trainer.global_step, **scores})
        if self._shown is not None:
            self._shown.show(self._line(done, scores))

    def _line(self, done: int, scores: dict[str, float]) -> str:
        seconds = self.seconds
        left = seconds / done * (self._whole - done)
        bar = "#" * round(20 * done / self._whole)
        name, number = self._task.told.split(" ", 1)
        words = {f"val_{self._task.score}": "validation"}
        if self._unit == "epoch":  # else it would be of the epoch before
            words = {f"train_{self._task.score}": "train", **words}
        told = [
            f"{word} {number.format(scores[key])}" for key, word in words.items() if key in scores
        ]
        return (
            f"{self._unit} {done:>3}/{self._whole} [{bar:<20}] {name} {', '.join(told)} "
            f"{self._units}".rstrip()
            + f" | {seconds:.0f} s, {left:.0f} s left"
        )


@dataclass
class Fit:
    """A trained model and what its training took.

    ``model`` is in eval mode, with the weights of the ``kept_epoch``; ``history`` has a row a
    validation: epoch, step, and of the score, such as rmse, val_rmse and train_rmse, which is that
    of the last whole epoch; ``seconds`` is the time of training and validation;
    ``peak_memory_mb`` is the memory of weights, gradients, optimiser state and activations at its
    peak, in MB (1e6 bytes), NaN where it is not measured (Apple's GPUs); ``keep`` says which was
    kept, the ``best`` or the ``last``; ``score`` and ``mode`` name the score and say whether its
    ``min`` or ``max`` is best.
    """

    model: torch.nn.Module
    history: pd.DataFrame
    learning_rate: float
    seconds: float
    peak_memory_mb: float
    keep: str = "best"
    score: str = "rmse"
    mode: str = "min"

    @property
    def kept_epoch(self) -> int:
        """Epoch that the weights are of, from 0."""
        return int(self.history["epoch"].iloc[self._kept()])

    @property
    def kept_step(self) -> int:
        """Steps after which the weights are."""
        return int(self.history["step"].iloc[self._kept()])

    @property
    def val_score(self) -> float:
        """Its score on validation; infinitely bad if it diverged, or without validation."""
        return float(self._val().iloc[self._kept()])

    def steps_to(self, score: float) -> float:
        """Count the steps until validation had first reached a score; infinite if it never did.

        >>> history = pd.DataFrame({"step": [10, 20], "val_miou": [0.4, 0.6]})
        >>> Fit(None, history, 1e-3, 1.0, 1.0, score="miou", mode="max").steps_to(0.5)
        20.0
        """
        val = self._val()
        there = val <= score if self.mode == "min" else val >= score
        return float(self.history["step"][there].min()) if there.any() else math.inf

    def _kept(self) -> int:
        if self.keep == "last":
            return -1
        val = self._val()
        return int(val.argmin() if self.mode == "min" else val.argmax())

    def _val(self) -> pd.Series:
        worst = math.inf if self.mode == "min" else -math.inf
        return self.history[f"val_{self.score}"].fillna(worst)


def fit(
    model: torch.nn.Module,
    train: ChipDataset,
    val: ChipDataset | None,
    *,
    epochs: int = 0,
    steps: int = 0,
    val_every: int = 0,
    task: type[Task] = Regression,
    options: Mapping[str, Any] | None = None,
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
    """Train on chips; keep the weights that are best on `val`, or the last.

    >>> result = fit(build("unet"), train, val, epochs=5)  # doctest: +SKIP
    >>> result.val_score, result.seconds, result.peak_memory_mb  # doctest: +SKIP

    AdamW. Chips without a label are left out of `train`.

    Parameters
    ----------
    model, train, val
        From `geowb.models.build` and `geowb.chips`. Without `val` (None), for a training on a few
        chips, the weights of the last epoch are kept.
    epochs, steps, val_every
        Passes over the training chips, with a validation after each; or so many steps, with a
        validation every `val_every` of them, of which `steps` is a multiple: so that trainings on
        many and on few chips are equally long.
    task, options
        What is trained and by which loss: a class of `geowb.train.tasks`, and its options.
    learning_rate, weight_decay
        Peak of the cycle, or start; decay as in the public biomass model's configuration.
    schedule
        ``one_cycle``: the rate rises and falls once, step by step; ``poly``: it rises in the first
        twentieth of the steps and falls on a line to nothing, as in Prithvi's public fine-tuning
        (whose rise is longer); ``plateau``: a tenth of it
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
        "steps": steps,
        "val_every": val_every,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "batch_size": batch_size,
        "seed": seed,
        "options": dict(options or {}),
    }
    if val is None and (patience or schedule == "plateau" or steps):
        raise RequestError(
            "patience, the schedule 'plateau' and a length in steps need validation chips."
        )
    if steps and (resume or schedule == "plateau"):
        raise RequestError(
            "A length in steps goes without resume and the schedule 'plateau': give epochs."
        )
    keep = "last" if val is None else keep
    watched = f"val_{task.score}"
    _check_request(plan, accelerator, precision, keep, checkpoints, resume)
    ready = task.ready(train, val)
    if len(ready) == 1:
        raise DataError("A single training chip can be learnt from: batch normalisation needs two.")
    seed_everything(seed)
    model.train()  # Lightning leaves the modes of a model that was trained before as they are
    lines, memory = _Progress(plan, task, units, progress), PeakMemory()
    with tempfile.TemporaryDirectory() as scratch, quiet():
        kept = checkpoints or (Path(resume).parent if resume else None)
        best = _Checkpoints(
            dirpath=kept or scratch,
            filename="best",
            monitor=watched if keep == "best" else None,
            mode=task.mode,
            save_top_k=1 if kept or keep == "best" else 0,
            save_last=kept is not None,
            enable_version_counter=False,
        )
        stops = [EarlyStopping(watched, mode=task.mode, patience=patience)] if patience else []
        length = {"max_epochs": epochs}
        if steps:
            length = {"max_epochs": -1, "max_steps": steps, "check_val_every_n_epoch": None}
            length["val_check_interval"] = val_every
        trainer = L.Trainer(
            **length,
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
        module = task(model, plan)
        trainer.fit(
            module,
            _loader(ready, batch_size, seed, shuffle=True),
            None if val is None else _loader(val, batch_size, seed, shuffle=False),
            ckpt_path=resume,
            weights_only=False if resume else None,
        )
        if keep == "best" and best.best_model_path:
            held = torch.load(best.best_model_path, map_location="cpu", weights_only=False)
            module.load_state_dict(held["state_dict"], strict=False)
        # Trainer and loops hold each other, and all data with them until they are collected, which
        # for many trainings of one process (each of hundreds of MB) comes too late.
        vars(trainer).clear()
    columns = ["epoch", "step", f"train_{task.score}", watched]
    history = pd.DataFrame(lines.rows, columns=columns)
    took = (learning_rate, lines.seconds, memory.mb)
    return Fit(model.cpu().eval(), history, *took, keep, task.score, task.mode)


class _Checkpoints(ModelCheckpoint):
    """Lightning's, which forgets what was best when its folder has been moved."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Look for all files in the folder where they are now."""

        def here(path: str) -> str:
            return str(Path(self.dirpath) / Path(path).name) if path else path

        moved = {k: here(v) for k, v in state_dict.items() if k.endswith("_model_path")}
        moved["best_k_models"] = {here(k): v for k, v in state_dict["best_k_models"].items()}
        super().load_state_dict(state_dict | moved | {"dirpath": self.dirpath})


def _check_request(
    plan: dict[str, Any],
    accelerator: str,
    precision: str,
    keep: str,
    checkpoints: str | Path | None,
    resume: str | Path | None,
) -> None:
    epochs, steps, every = plan["epochs"], plan["steps"], plan["val_every"]
    if (epochs >= 1) == (steps >= 1) or (steps and (every < 1 or steps % every)):
        raise RequestError(
            f"Say how long to train: epochs ({epochs}) of at least 1, or steps ({steps}) that are "
            f"a multiple of val_every ({every})."
        )
    if plan["batch_size"] < 2 or not plan["learning_rate"] > 0:
        raise RequestError(
            f"batch_size ({plan['batch_size']}) must be at least 2 and learning_rate "
            f"({plan['learning_rate']}) above 0."
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
    if checkpoints and Path(checkpoints).resolve() != Path(resume).resolve().parent:
        raise RequestError(
            f"{resume} goes on in its own folder, where the best weights are: leave out "
            f"checkpoints ({checkpoints})."
        )
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


def steps_an_epoch(train: ChipDataset, batch_size: int, task: type[Task] = Regression) -> int:
    """Training steps that `fit` makes of these chips in an epoch.

    >>> steps_an_epoch(train, 16)  # doctest: +SKIP
    7

    Chips that the task cannot learn from (without a label) are left out, and so is a chip that
    would be a batch alone.
    """
    data = task.ready(train, None)
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
