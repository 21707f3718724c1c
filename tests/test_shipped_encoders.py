"""The encoders that come with geowb are what their cards say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from geowb.models import build, load
from geowb.models.checks import check_weights
from geowb.models.masked import from_card
from geowb.models.registry import SHIPPED
from geowb.pretrain import recipe
from geowb.pretrain.probes import (
    features,
    linear_probe,
    probe_difference,
    reconstruction_errors,
)
from geowb.pretrain.worth import SETS, world_chips

NAMES = ("prithvi_demo", "swin_demo")


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_files_are_small_and_whole(name: str) -> None:
    file = SHIPPED / name / "model.safetensors"
    assert file.stat().st_size <= 10e6
    assert check_weights("pretrained", model=name) == []
    card = json.loads(file.with_name("model.json").read_text())
    assert card["training"]["recipe"] == json.loads(json.dumps(recipe(name).as_dict()))
    assert card["training"]["command"] == f"geowb pretrain {name}"
    assert card["training"]["seconds"] <= 3600
    assert card["trained_on"]["provenance"]["world_version"]
    assert min(card["trained_on"]["seeds"]) >= 300
    assert (file.parent / "README.md").read_text().count("linear probe")


def test_the_whole_model_starts_from_them(name: str) -> None:
    model = build(name, weights="pretrained", freeze_backbone=True)
    assert model.pretrained
    random = build(name, seed=0)
    x = 1500 + 500 * torch.randn(1, 6, 1, 64, 64)
    with torch.no_grad():
        ours, theirs = (m.eval().features(x)[-1] for m in (model, random))
    assert not torch.allclose(ours, theirs)


def test_they_are_worth_having_on_unseen_worlds(name: str) -> None:
    model = load(SHIPPED / name)
    images = world_chips(model.card["frames"], seeds=range(400, 402), count=150)
    random = from_card({**model.card, "seed": 0})
    how = {"train": images.train, "test": ~images.train, "seed": 0}
    found, other = (
        linear_probe(features(one, images.data.images), images.data, **how)
        for one in (model, random)
    )
    score, chance, _ = probe_difference(found, other, classes=True)
    assert score > chance
    errors = reconstruction_errors(model, images.data.images).mean()
    assert errors["model"] < 0.9 * errors["mean"]
    assert errors["model"] < 0.8 * errors["nearest"]


@pytest.mark.real
@pytest.mark.parametrize("data", ["biomassters", "sen1floods11"])
def test_they_fill_in_real_chips(name: str, data: str, geowb_data: Path) -> None:
    model = load(SHIPPED / name)
    errors = reconstruction_errors(model, SETS[data](model.card["frames"]).data.images)
    assert np.isfinite(errors).all(axis=None)
    assert errors["model"].mean() < 0.95 * errors[["mean", "nearest"]].mean().min()
