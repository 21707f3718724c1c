"""Fine-tuning on Lightning: what is trained (`tasks`), by which loss (`losses`), and `fit`.

>>> from geowb.train import Segmentation, fit
>>> fit(model, train, val, task=Segmentation, epochs=5).val_score  # doctest: +SKIP
0.71
"""

from geowb.train.fitting import Fit, fit, quiet, seed_everything, steps_an_epoch
from geowb.train.losses import class_loss, masked_rmse
from geowb.train.tasks import Classification, Regression, Segmentation, Task

__all__ = [
    "Classification",
    "Fit",
    "Regression",
    "Segmentation",
    "Task",
    "class_loss",
    "fit",
    "masked_rmse",
    "quiet",
    "seed_everything",
    "steps_an_epoch",
]
