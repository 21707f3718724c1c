"""Decoders, and the linear readout that is solved for."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from geowb import evaluate
from geowb.chips import ChipDataset, cut, split_by_place
from geowb.errors import DataError, ModelError, RequestError, WeightsMismatch
from geowb.models import build, load, save, trainable
from geowb.models.decoders import Smooth, Stack
from geowb.readout import PENALTIES, fit_linear
from tests.scenes import scene


def chips(batch=2, size=32, bands=6, frames=1, seed=0):
    random = torch.Generator().manual_seed(seed)
    return 3000 * torch.rand(batch, bands, frames, size, size, generator=random)


def parts(size=32, density=0.05, **changes):
    scenes = {"a": scene(128, 128, density=density, seed=1, **changes)}
    table = split_by_place(cut(scenes, size), seed=0)
    return {
        split: ChipDataset(scenes, table[table["split"] == split], augment=split == "train")
        for split in ("train", "val", "test")
    }


def linear(data=None, name="swin_demo", **options):
    mean, spread = data["train"].label_statistics() if data else (0.0, 1.0)
    scale = {"output_mean": mean, "output_std": spread}
    return build(name, freeze_backbone=True, decoder="linear", seed=3, **scale | options)
