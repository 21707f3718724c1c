"""Masked pretraining on Lightning: one call from a recipe to a model file.

A folder holds one pretraining: the chips (``chips.zarr``, ``held_out.zarr``), ``checkpoints/``,
``loss.csv`` and ``loss.png``, ``reconstructions/``, and at the end the model file. The same call
again goes on where the last one stopped.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback

from geowb.errors import DataError, ModelError, RequestError
from geowb.lines import Line
from geowb.locks import held
from geowb.models.checks import check_accelerator
from geowb.models.masked import MaskedModel, Reconstruction, build_masked, masked_card
from geowb.models.registry import spec
from geowb.pretrain import views
from geowb.pretrain.archive import ChipArchive, write_archive
from geowb.pretrain.folder import (
    COLUMNS,
    claim,
    finished,
    forget,
    is_first,
    leave,
    machine_of,
    newest_checkpoint,
    taking_turns,
)
from geowb.pretrain.following import Keep, Log, checkpoints, draw_curve, rows_every
from geowb.pretrain.recipes import Recipe
from geowb.pretrain.sampling import Sampling
from geowb.pretrain.stream import ChipStream
from geowb.tasks import check_workers
from geowb.train import quiet, seed_everything

__all__ = ["Pretraining", "pretrain", "training_step"]

_PRECISIONS = ("auto", "32-true", "bf16-mixed")


@dataclass(frozen=True)
class Pretraining:
    """What a pretraining left: its folder, the loss curve, the steps made, and the model file.

    ``history`` has the columns step, loss (mean since the row before), held_out (NaN where it was
    not taken), learning_rate, seconds.
    """

    folder: Path
    history: pd.DataFrame
    step: int
    done: bool

    @property
    def model_file(self) -> Path:
        """``model.safetensors``; it exists when all steps are done."""
        return self.folder / "model.safetensors"


def training_step(
    model: MaskedModel, batch: dict[str, torch.Tensor], recipe: Recipe, step: int
) -> Reconstruction:
    """Show `model` what `step` sees of a batch of `ChipStream`; ``loss`` is to be made smaller.

    >>> training_step(model, next(iter(stream)), recipe, step=0).loss  # doctest: +SKIP
    """
    keys, image = batch["key"].cpu(), batch["image"]
    if recipe.jitter:
        gain, offset = views.gains(keys, *image.shape[1:3], recipe)
        image = image * gain.to(image.device) + offset.to(image.device)
    image = image[:, :, views.dates_of_step(recipe, step)]
    frames, rows, columns = model.grid(image)
    noise = views.noise(keys, frames * rows * columns, recipe.seed)
    return model(image, noise.to(image.device), recipe.mask_ratio)


def optimizer_of(
    model: MaskedModel, recipe: Recipe
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW without decay of biases and norms; its rate rises and falls as a cosine."""
    from timm.optim import param_groups_weight_decay

    on_cpu = model.mean.device.type == "cpu"  # on a GPU, fused rules out clipping in bf16
    groups = param_groups_weight_decay(model, recipe.weight_decay)
    optimizer = torch.optim.AdamW(groups, recipe.learning_rate, betas=(0.9, 0.95), fused=on_cpu)
    total = max(4, recipe.steps)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        recipe.learning_rate,
        total_steps=total,
        # Both parts need two steps.
        pct_start=min(max(recipe.warmup, 2 / total), 1 - 2 / total),
        cycle_momentum=False,
        anneal_strategy="cos",
    )
    return optimizer, schedule


class _Batches:
    """A stream as Lightning wants it: as long as the whole training, and able to go on."""

    def __init__(self, stream: ChipStream) -> None:
        self._stream = stream

    def __len__(self) -> int:
        return self._stream.steps

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return iter(self._stream)

    def state_dict(self) -> dict[str, Any]:
        return {}  # nothing: the stream was begun at the right step

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class _Ends(Callback):
    """Has SIGTERM end a process as its caller wants.

    Lightning would tell the other processes first, by a broadcast for which they may never come.
    """

    def __init__(self) -> None:
        self._handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, *_: Any) -> None:
        if threading.current_thread() is threading.main_thread() and self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)


class _Masked(L.LightningModule):
    def __init__(self, model: MaskedModel, recipe: Recipe, archive: ChipArchive) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.archive = archive

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        return training_step(self.model, batch, self.recipe, self.global_step).loss

    def train_dataloader(self) -> _Batches:
        # Called after a checkpoint is read: the stream begins with the step that comes next.
        stream = ChipStream(
            self.archive,
            batch_size=self.recipe.batch_size,
            steps=self.recipe.steps,
            start=self.trainer.global_step,
            seed=self.recipe.seed,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        return _Batches(stream)

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer, schedule = optimizer_of(self.model, self.recipe)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def pretrain(
    recipe: Recipe,
    folder: str | Path,
    *,
    accelerator: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    strategy: str = "auto",
    precision: str = "auto",
    scheduler: str | None = None,
    workers: int | None = None,
    stop_after: int = 0,
    force: bool = False,
    progress: bool = True,
) -> Pretraining:
    """Sample chips, train a masked model on them, leave a model file; the same call resumes.

    >>> result = pretrain(recipe("swin_demo").shortened(50), "pretraining")  # doctest: +SKIP
    >>> geowb.models.build("swin_demo", weights=result.model_file)  # doctest: +SKIP

    Parameters
    ----------
    folder
        For everything that is made. On several nodes, one that all of them see.
    accelerator, devices, nodes, strategy
        Lightning's options: ``cpu`` or ``gpu``; how many a node; how many nodes; ``ddp`` and its
        kin. The batch of the recipe is that of all devices together.
    precision
        ``32-true``, ``bf16-mixed``, or ``auto``: bf16 on a GPU that has it.
    scheduler, workers
        Address of a dask scheduler for the sampling, or processes on this machine.
    stop_after
        Stop after so many steps, to be resumed by the same call; 0 for all of them. Several
        devices stop where the next row of the curve ends.
    force
        Throw away what is in the folder.

    On the CPU a training that was cut off gives, resumed, the loss curve of one that was not. At
    most a tenth of the steps is lost.

    Raises
    ------
    RequestError
        For options that do not fit, or a folder that holds another pretraining or something else.
    DataError
        If the sampling finds nothing, or an archive is damaged.
    """
    precision = _check_options(recipe, accelerator, strategy, devices * nodes, precision)
    check_workers(workers)
    _check_recipe(recipe)
    folder, first = Path(folder).expanduser().absolute(), is_first()
    with held(folder.with_name(f".{folder.name}.lock")) if first else nullcontext(True) as mine:
        if not mine:
            raise RequestError(f"Another process pretrains in {folder}: wait until it has ended.")
        if first:
            claim(folder, recipe, force=force)
        if not force and (history := finished(folder, recipe)) is not None:
            return Pretraining(folder, history, recipe.steps, done=True)
        options = {"accelerator": accelerator, "devices": devices, "num_nodes": nodes}
        options |= {"strategy": strategy, "precision": precision}
        sampled = {"scheduler": scheduler, "workers": workers, "progress": progress}
        return _work(recipe, folder, first, stop_after, sampled, options)


def _work(
    recipe: Recipe,
    folder: Path,
    first: bool,
    stop_after: int,
    how: dict[str, Any],
    options: dict[str, Any],
) -> Pretraining:
    """Sample and train; `how` is for the sampling, `options` are Lightning's."""
    progress = how["progress"]
    with taking_turns(folder, first):
        archive = _chips(recipe.sampling, folder / "chips.zarr", first, how)
        held_out = None
        if recipe.held_out is not None:
            apart = _chips(recipe.held_out, folder / "held_out.zarr", first, how)
            stream = ChipStream(apart, batch_size=len(apart), steps=1, augment=False)
            held_out = next(iter(stream))["image"]
    if first and progress:
        _tell_strata(archive)
    log, kept = Log(recipe, held_out, progress), folder / "checkpoints"
    reached, resume = newest_checkpoint(kept, recipe)
    if first and resume is not None:
        forget(kept, resume)  # Lightning keeps what it resumed from
    last = reached + stop_after if stop_after > 0 else recipe.steps
    if options["devices"] * options["num_nodes"] > 1:  # else the sums of the others were lost
        last += -last % rows_every(recipe)
    last = min(last, recipe.steps)
    seed_everything(recipe.seed)
    # Not among what is quiet: importing TerraTorch sets filters of its own.
    task = _Masked(model_for(recipe, archive), recipe, archive)
    with quiet():
        trainer = L.Trainer(
            max_steps=last,
            **options,
            default_root_dir=kept,  # where Lightning leaves a checkpoint that SLURM asks for
            gradient_clip_val=1.0,
            callbacks=[
                log,
                Keep(log, folder, recipe, held_out),
                checkpoints(kept, recipe),
                _Ends(),
            ],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        _fit(trainer, task, resume, folder)
        if trainer.global_step > reached:
            newest = kept / f"step-{trainer.global_step:07d}.ckpt"
            trainer.save_checkpoint(newest)
            if trainer.is_global_zero:
                forget(kept, newest)
    done = trainer.global_step == recipe.steps
    if trainer.is_global_zero and done:
        devices = options["devices"] * options["num_nodes"]
        machine = log.machine or machine_of(task.device)
        used = {"machine": machine, "devices": devices, "precision": options["precision"]}
        leave(folder, task.model, recipe, archive, log.rows, used)
        draw_curve(folder, recipe, log.rows)
    return Pretraining(folder, pd.DataFrame(log.rows, columns=COLUMNS), trainer.global_step, done)


def _fit(trainer: L.Trainer, task: _Masked, resume: Path | None, folder: Path) -> None:
    """Train, and say in the caller's terms how it was stopped."""
    try:
        trainer.fit(task, ckpt_path=resume, weights_only=True if resume else None)
    except SystemExit as stop:
        if trainer.interrupted and stop.code == 1:  # Lightning's way to end at Ctrl-C
            raise KeyboardInterrupt from None
        if trainer.strategy.launcher is not None:  # the processes that this one has started
            trainer.strategy.launcher.kill(signal.SIGTERM)
        raise
    except RuntimeError as error:
        if trainer.world_size > 1 and _is_of_another_process(error):
            raise DataError(
                f"Another process of the training in {folder} ended by itself, or could not be "
                f"reached: see its own message ({' '.join(str(error).split())[:200]}). If "
                "memory ran out, use a smaller batch (--batch-size). The same command goes on "
                "from the last checkpoint."
            ) from error
        raise


def model_for(recipe: Recipe, archive: ChipArchive) -> MaskedModel:
    """Build the model of a recipe, to be trained on an archive.

    >>> model_for(recipe("swin_demo"), archive)  # doctest: +SKIP
    """
    own = archive.statistics if recipe.normalise == "archive" else None
    return build_masked(
        recipe.model,
        bands=archive.bands,
        frames=archive.frames,
        size=archive.size,
        unit=recipe.unit,
        mask_ratio=recipe.mask_ratio,
        mean=own.mean if own else None,
        std=own.std if own else None,
        seed=recipe.seed,
    )


def _chips(sampling: Sampling, path: Path, first: bool, how: dict[str, Any]) -> ChipArchive:
    """Write or open an archive; only the first process of a training writes."""
    return write_archive(sampling, path, **how) if first else ChipArchive(path)


def _tell_strata(archive: ChipArchive) -> None:
    """Say which strata have fewer chips than their share."""
    short = archive.strata[archive.strata["short"] > 0].sort_values("taken")
    if len(short):
        rows = [f"{r.stratum} {r.taken} of {r.wanted}" for r in short.head(3).itertuples()]
        more = " ..." if len(short) > 3 else ""
        Line().show(
            f"{len(short)} of {len(archive.strata)} strata have fewer chips than an equal share: "
            f"{', '.join(rows)}{more} (all in ChipArchive({str(archive.path)!r}).strata)."
        )


def _check_recipe(recipe: Recipe) -> None:
    """Find out before anything is sampled whether the model can be built, and on which places."""
    chips, apart = recipe.sampling, recipe.held_out
    own = recipe.normalise == "archive"
    scenes, others = chips.scenes(), apart.scenes() if apart else {}
    try:
        card = masked_card(
            recipe.model,
            bands=chips.bands,
            frames=chips.frames,
            size=chips.size,
            unit=recipe.unit,
            mean=[0.0] * len(chips.bands) if own else None,
            std=[1.0] * len(chips.bands) if own else None,
        )
    except ModelError as error:
        raise RequestError(str(error)) from error
    dates_apart = spec(recipe.model).family == "prithvi" and not recipe.fewer_dates
    units = (chips.size // card["unit"]) ** 2 * (chips.frames if dates_apart else 1)
    if not 0 < int(units * (1 - recipe.mask_ratio)) < units:
        raise RequestError(
            f"mask_ratio {recipe.mask_ratio} shows none or all of the {units} units of a chip of "
            f"{chips.size} pixels: give another (--mask-ratio), or larger chips (--size)."
        )
    same = apart and (apart.data, apart.catalog) == (chips.data, chips.catalog)
    if same and (both := sorted(scenes.keys() & others.keys())):
        raise RequestError(
            f"The scene '{both[0]}' is to be trained on and held out: give other values for "
            "the held-out chips (--held-out) or for the training (-s, --worlds)."
        )


def _is_of_another_process(error: RuntimeError) -> bool:
    """Whether a collective call failed because another process is gone (gloo has no own class)."""
    known = isinstance(error, torch.distributed.DistError)
    return known or any(name in str(error) for name in ("gloo", "NCCL"))


def _check_options(
    recipe: Recipe, accelerator: str, strategy: str, devices: int, precision: str
) -> str:
    if problems := check_accelerator(accelerator):
        raise RequestError(problems[0])
    if devices < 1 or recipe.batch_size % devices:
        raise RequestError(
            f"The batch of {recipe.batch_size} chips cannot be shared out among {devices} devices: "
            "give a multiple (--batch-size)."
        )
    if strategy != "auto" and not strategy.startswith("ddp"):
        raise RequestError(
            f"strategy is '{strategy}': the held-out chips are looked at by the first device, "
            "which needs the whole model. Use auto or ddp."
        )
    if precision not in _PRECISIONS:
        raise RequestError(f"precision is '{precision}'. Known: {', '.join(_PRECISIONS)}.")
    if precision == "auto":
        gpu = accelerator != "cpu" and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        return "bf16-mixed" if gpu else "32-true"
    return precision
