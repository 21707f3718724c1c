"""What is trained: a loss, the score that says which weights are best, an optimiser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from torchmetrics import MeanSquaredError, Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from geowb.chips import with_labels
from geowb.errors import DataError
from geowb.train.losses import class_loss, masked_rmse

if TYPE_CHECKING:
    from geowb.chips import ChipDataset
    from geowb.models.wrapper import PixelModel

__all__ = ["Classification", "Regression", "Segmentation", "Task"]

#: Weight of an auxiliary output in the loss (mmsegmentation's FCN, TerraTorch's too).
_AUXILIARY = 0.4

#: Share of the steps in which the rate of the schedule ``poly`` rises.
_WARM = 0.05


class Task(L.LightningModule):
    """One model in training; subclasses say how a batch becomes a loss.

    ``score`` names the columns ``train_{score}`` and ``val_{score}`` of the history, ``mode`` says
    whether the best of them is the ``"min"`` or the ``"max"``, and ``told`` how it is written.
    `plan` holds what `geowb.train.fit` was asked for: learning_rate, weight_decay, schedule,
    and the options of the task.
    """

    score = "loss"
    mode = "min"
    told = "loss {:.3f}"

    def __init__(self, model: torch.nn.Module, plan: dict[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.plan = plan
        # A frozen encoder is not written into checkpoints; it is in the model already.
        self.strict_loading = False

    @staticmethod
    def ready(train: Any, val: Any) -> Any:
        """Check the data, and return the training chips that can be learnt from."""
        return train

    @property
    def options(self) -> dict[str, Any]:
        """What was given to `geowb.train.fit` for this task."""
        return self.plan.get("options", {})

    def _step(self, batch: dict[str, torch.Tensor], part: str) -> torch.Tensor:
        """Return the loss of a batch of the part ``train`` or ``val``, and log the score."""
        raise NotImplementedError

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        """Return the loss of a training batch."""
        return self._step(batch, "train")

    def validation_step(self, batch: dict[str, torch.Tensor], _: int) -> None:
        """Score a validation batch."""
        self._step(batch, "val")

    def configure_optimizers(self) -> dict[str, Any]:
        """Return AdamW, with the schedule of the plan."""
        free = [p for p in self.parameters() if p.requires_grad]
        rate = self.plan["learning_rate"]
        optimizer = torch.optim.AdamW(free, rate, weight_decay=self.plan["weight_decay"])
        if self.plan["schedule"] == "plateau":
            falls = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, self.mode)
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": falls, "monitor": f"val_{self.score}"},
            }
        steps = int(self.trainer.estimated_stepping_batches)
        if self.plan["schedule"] == "poly":
            rise = max(1, round(_WARM * steps))
            schedule = torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda at: min((at + 1) / rise, (steps - at) / max(1, steps - rise))
            )
        else:
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        """Draw what is random in the chips anew."""
        self.trainer.train_dataloader.dataset.set_epoch(self.current_epoch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out frozen weights; keep the plan and the random state."""
        frozen = {f"model.{k}" for k, p in self.model.named_parameters() if not p.requires_grad}
        checkpoint["state_dict"] = {
            k: v for k, v in checkpoint["state_dict"].items() if k not in frozen
        }
        checkpoint["plan"] = self.plan
        checkpoint["random_state"] = torch.get_rng_state()
        if torch.cuda.is_available():
            checkpoint["cuda_random_state"] = torch.cuda.get_rng_state_all()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the random state for the start."""
        self._random_state = checkpoint["random_state"]
        self._cuda_random_state = checkpoint.get("cuda_random_state")

    def on_train_start(self) -> None:
        """Go on with the random state of the checkpoint."""
        if hasattr(self, "_random_state"):  # dropout goes on where the checkpoint left it
            torch.set_rng_state(self._random_state)
            if self._cuda_random_state is not None and torch.cuda.is_available():
                torch.cuda.set_rng_state_all(self._cuda_random_state)

    def _log(self, part: str, metric: Metric) -> None:
        self.log(f"{part}_{self.score}", metric, on_step=False, on_epoch=True)


class Regression(Task):
    """One value a pixel, sparse labels: `masked_rmse`, RMSE over labelled pixels."""

    score = "rmse"
    told = "RMSE {:.1f}"

    def __init__(self, model: PixelModel, plan: dict[str, Any]) -> None:
        super().__init__(model, plan)
        self.scores = torch.nn.ModuleDict(
            {part: MeanSquaredError(squared=False) for part in ("fit", "val")}
        )

    @staticmethod
    def ready(train: ChipDataset, val: ChipDataset | None) -> ChipDataset:
        """Leave out training chips without a label; an error if a split has none."""
        return with_labels(train, val)

    def _step(self, batch: dict[str, torch.Tensor], part: str) -> torch.Tensor:
        prediction, target = self.model(batch["image"])[:, 0], batch["label"]
        labelled = torch.isfinite(target)
        if labelled.any():
            score = self.scores["fit" if part == "train" else part]
            score.update(prediction[labelled].detach(), target[labelled])
            self._log(part, score)
        return masked_rmse(prediction, target)


class Segmentation(Task):
    """One class a pixel, -1 unlabelled: `class_loss`; the mean IoU over the classes.

    Options: ``loss`` (``cross_entropy`` or ``dice``) and ``class_weights``. The mean is that of
    torchmetrics: over the classes that are observed or predicted in the split. Of a model that
    gives a pair in training the second is an auxiliary output, with 0.4 times its loss.
    """

    score = "miou"
    mode = "max"
    told = "mIoU {:.3f}"

    def __init__(self, model: PixelModel, plan: dict[str, Any]) -> None:
        super().__init__(model, plan)
        count = model.card["outputs"]
        self.scores = torch.nn.ModuleDict(
            {part: MulticlassJaccardIndex(count, ignore_index=-1) for part in ("fit", "val")}
        )

    @staticmethod
    def ready(train: ChipDataset, val: ChipDataset | None) -> ChipDataset:
        """Leave out training chips without a label; an error if all pixels are of one class."""
        labelled = with_labels(train, val)
        if len(found := labelled.classes()) < 2:
            raise DataError(
                f"All labelled pixels of the {len(labelled)} training chips are of the class "
                f"{found[0]}: two are needed to learn from. Take more chips or another seed."
            )
        if val is not None and len(found := val.classes()) < 2:
            raise DataError(
                f"All labelled pixels of the {len(val)} validation chips are of the class "
                f"{found[0]}: a map of that class alone would be the best. Validate on more chips."
            )
        return labelled

    def _step(self, batch: dict[str, torch.Tensor], part: str) -> torch.Tensor:
        prediction, target = self.model(batch["image"]), batch["label"]
        prediction, *others = prediction if isinstance(prediction, tuple) else (prediction,)
        _check_classes(target, prediction.shape[1])
        score = self.scores["fit" if part == "train" else part]
        if (target >= 0).any():
            score.update(_called(prediction.detach(), target), target)
            self._log(part, score)
        how = {"name": self.options.get("loss", "cross_entropy")}
        how["weights"] = self.options.get("class_weights", ())
        loss = class_loss(prediction, target, **how)
        return loss + _AUXILIARY * sum(class_loss(other, target, **how) for other in others)


class Classification(Task):
    """One class an image: cross entropy; the share of the images that are right.

    The model gives ``(B, K)`` scores; its card counts them as ``outputs``.
    Options: ``smoothing`` of the labels, 0 by default.
    """

    score = "accuracy"
    mode = "max"
    told = "accuracy {:.3f}"

    def __init__(self, model: torch.nn.Module, plan: dict[str, Any]) -> None:
        super().__init__(model, plan)
        count = model.card["outputs"]
        self.scores = torch.nn.ModuleDict(
            {part: MulticlassAccuracy(count, average="micro") for part in ("fit", "val")}
        )

    @staticmethod
    def ready(train: Any, val: Any) -> Any:
        """Refuse training images that are all of one class."""
        if len(found := train.classes()) < 2:
            raise DataError(
                f"All {len(train)} training images are of the class {found[0]}: two are needed to "
                "learn from. Take more images or another seed."
            )
        return train

    def _step(self, batch: dict[str, torch.Tensor], part: str) -> torch.Tensor:
        prediction, target = self.model(batch["image"]), batch["label"]
        _check_classes(target, prediction.shape[1])
        score = self.scores["fit" if part == "train" else part]
        score.update(_called(prediction.detach(), target), target)
        self._log(part, score)
        smoothing = self.options.get("smoothing", 0.0)
        return torch.nn.functional.cross_entropy(prediction, target, label_smoothing=smoothing)


def _called(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Class of each pixel; where the network has diverged, one that is not the right one."""
    wrong = (target + 1).remainder(prediction.shape[1])
    return torch.where(prediction.isfinite().all(1), prediction.argmax(1), wrong)


def _check_classes(target: torch.Tensor, count: int) -> None:
    """Refuse labels that the model has no output for."""
    low, high = int(target.min()), int(target.max())
    if low < -1 or high >= count:
        raise DataError(
            f"A label has the class {low if low < -1 else high}; the model knows 0 to {count - 1} "
            "and -1 for unlabelled. Name the entry's classes, or its no-data value, in the catalog."
        )
