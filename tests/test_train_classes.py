"""Training on classes: losses against closed forms, what is learned, length in steps."""

import itertools

import numpy as np
import pandas as pd
import pytest
import rioxarray  # noqa: F401 - gives .rio
import torch
import xarray as xr

from geowb.chips import ChipDataset, cut, share_of, split_by_place
from geowb.classes import class_table, confusions
from geowb.errors import DataError, RequestError
from geowb.models import build, load, save
from geowb.predict import map_scenes
from geowb.train import Segmentation, class_loss, fit

# --- the losses ------------------------------------------------------------------------------


def test_cross_entropy_is_the_weighted_mean_over_labelled_pixels():
    scores = torch.tensor([[[[2.0, 0.0, 5.0]], [[0.0, 1.0, -5.0]]]])  # (1, 2, 1, 3)
    target = torch.tensor([[[0, 1, -1]]])
    each = [np.log(1 + np.exp(-2.0)), np.log(1 + np.exp(-1.0))]
    assert class_loss(scores, target).item() == pytest.approx(np.mean(each))
    weighed = class_loss(scores, target, weights=[0.3, 0.7]).item()
    assert weighed == pytest.approx(0.3 * each[0] + 0.7 * each[1])


def test_dice_leaves_out_unlabelled_pixels():
    sure = (
        50 * torch.nn.functional.one_hot(torch.tensor([[0, 1, 1, 0]]), 2).permute(0, 2, 1).float()
    )
    scores, target = sure[:, :, None], torch.tensor([[[0, 1, 0, -1]]])
    # Class 0: 1 hit of 1 made and 2 seen; class 1: 1 hit of 2 made and 1 seen.
    assert class_loss(scores, target, name="dice").item() == pytest.approx(1 - 2 / 3, abs=1e-3)


@pytest.mark.parametrize("name", ["cross_entropy", "dice"])
def test_without_labels_there_is_no_gradient(name):
    scores = torch.rand(1, 2, 2, 2, requires_grad=True)
    class_loss(scores, torch.full((1, 2, 2), -1), name=name).backward()
    assert torch.equal(scores.grad, torch.zeros_like(scores))


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"name": "focal"}, "no loss 'focal'"),
        ({"weights": [1.0]}, "1 weights for 2 classes"),
        ({"name": "dice", "weights": [1.0, 2.0]}, "Dice none"),
    ],
)
def test_losses_that_cannot_be(how, told):
    with pytest.raises(RequestError, match=told):
        class_loss(torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.long), **how)


# --- fitting ---------------------------------------------------------------------------------


def scene(seed, label=None):
    """Three dates; wet where the second date's SWIR is low, a tenth of the labels missing."""
    rng = np.random.default_rng(seed)
    counts = rng.uniform(500, 3000, (3, 6, 96, 96)).astype(np.float32)
    wet = rng.random((12, 12)).repeat(8, 0).repeat(8, 1) < 0.4
    counts[1, 5] = np.where(wet, 300, 2500) + rng.normal(0, 100, wet.shape)
    flood = (
        np.where(rng.random(wet.shape) < 0.1, -1, wet)
        if label is None
        else np.full((96, 96), label)
    )
    return xr.Dataset(
        {
            "reflectance": (("time", "band", "y", "x"), counts),
            "flood": (("y", "x"), flood.astype(np.int16)),
        },
        coords={
            "band": ["BLUE", "GREEN", "RED", "NIR_NARROW", "SWIR_1", "SWIR_2"],
            "x": 30.0 * np.arange(96) + 15,
            "y": 30.0 * np.arange(96)[::-1] + 15,
        },
    ).rio.write_crs(32723)


@pytest.fixture(scope="module")
def scenes():
    return {name: scene(seed) for seed, name in enumerate("ab")}


@pytest.fixture(scope="module")
def parts(scenes):
    chips = split_by_place(cut(scenes, 16, label="flood"), seed=0)
    return {
        split: ChipDataset(scenes, chips[chips["split"] == split], label="flood")
        for split in ("train", "val", "test")
    }


def train(parts, model, **options):
    options = {"steps": 40, "val_every": 10, "learning_rate": 0.01, "batch_size": 8, **options}
    return fit(
        model, parts["train"], parts["val"], task=Segmentation, accelerator="cpu", progress=False,
        **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(parts):
    model = build("unet_resnet18", frames=3, outputs=2, mean=[1750] * 6, std=[750] * 6)
    return train(parts, model)


def test_classes_of_several_dates_are_learned(scenes, trained):
    maps = map_scenes(trained.model, scenes)
    table = class_table(confusions(maps, scenes, label="flood", count=2), ["dry", "water"])
    assert table.loc["mean", "iou"] > 0.8
    assert (trained.score, trained.mode) == ("miou", "max")
    assert trained.val_score == trained.history["val_miou"].max()


def test_length_in_steps_does_not_depend_on_the_number_of_chips(scenes, parts, trained):
    assert trained.history["step"].tolist() == [10, 20, 30, 40]
    chips = parts["train"].chips
    few = {**parts, "train": ChipDataset(scenes, share_of(chips, 0.1), label="flood")}
    short = train(few, build("unet_resnet18", frames=3, outputs=2), steps=20)
    assert short.history["step"].tolist() == [10, 20]
    assert short.history["val_miou"].notna().all()


def test_steps_to_a_score(trained):
    trained.history["val_miou"] = [0.2, 0.5, 0.4, 0.7]
    assert [trained.steps_to(s) for s in (0.1, 0.45, 0.7, 0.9)] == [10, 20, 40, np.inf]
    assert (trained.kept_step, trained.val_score) == (40, 0.7)
    trained.history["val_miou"] = np.nan
    assert trained.val_score == -np.inf


@pytest.mark.parametrize("length", [{}, {"epochs": 1, "steps": 10}, {"steps": 15, "val_every": 10}])
def test_lengths_that_cannot_be(parts, length):
    with pytest.raises(RequestError, match="how long to train"):
        train(parts, build("unet"), **{"steps": 0, "val_every": 0, **length})


def test_what_a_length_in_steps_cannot_have(parts):
    model = build("unet", frames=3, outputs=2)
    with pytest.raises(RequestError, match="need validation chips"):
        train({**parts, "val": None}, model)
    for wrong in ({"schedule": "plateau"}, {"resume": "last.ckpt"}):
        with pytest.raises(RequestError, match="give epochs"):
            train(parts, model, **wrong)


def test_all_chips_of_one_class_are_refused(scenes):
    same = {"a": scene(0, label=1)}
    chips = split_by_place(cut(same, 16, label="flood"), seed=0)
    parts = {
        split: ChipDataset(same, chips[chips["split"] == split], label="flood")
        for split in ("train", "val")
    }
    with pytest.raises(DataError, match="are of the class 1: two are needed"):
        train(parts, build("unet", frames=3, outputs=2))


def test_validation_on_one_class_is_refused(scenes, parts):
    dry = {"a": scene(0, label=0)}
    val = ChipDataset(dry, cut(dry, 16, label="flood"), label="flood")
    with pytest.raises(DataError, match="validation chips are of the class 0: a map of that"):
        train({**parts, "val": val}, build("unet", frames=3, outputs=2))


def test_a_network_that_has_diverged_has_every_pixel_wrong():
    target = torch.tensor([[[0, 0, 0, 1]]])
    task = Segmentation(build("unet", outputs=2), {"options": {}, "learning_rate": 1.0})
    task.model = torch.nn.Identity()
    logged = []
    task.log = lambda name, metric, **_: logged.append((name, metric))
    for made, right in ((torch.nan, 0.0), (0.0, 0.375)):  # equal scores are the first class
        task.validation_step({"image": torch.full((1, 2, 1, 4), made), "label": target}, 0)
        assert logged[-1][1].compute().item() == right
        logged[-1][1].reset()


def test_labels_are_those_of_the_image_whatever_the_order_of_dims(scenes):
    turned = {"a": scenes["a"].transpose("band", "x", "time", "y")}
    chips = cut(scenes, 32, label="flood").query("scene == 'a'")
    pd.testing.assert_frame_equal(chips, cut(turned, 32, label="flood"))
    one, other = (ChipDataset(s, chips, label="flood")[1] for s in (scenes, turned))
    for key in ("image", "label"):
        assert torch.equal(one[key], other[key])
    assert one["label"].dtype == torch.int64
    maps = {"a": scenes["a"]["flood"].where(scenes["a"]["flood"] >= 0, 0)}
    tables = [confusions(maps, s, label="flood", count=2) for s in (scenes, turned)]
    pd.testing.assert_frame_equal(*tables)


def test_labels_outside_the_classes_are_refused(scenes, parts):
    odd = {name: s.assign(flood=s.flood.where(s.flood < 1, 4)) for name, s in scenes.items()}
    wrong = {k: ChipDataset(odd, p.chips, label="flood") for k, p in parts.items()}
    with pytest.raises(DataError, match="class 4; the model knows 0 to 1 and -1"):
        train(wrong, build("unet", frames=3, outputs=2))


def test_shares_are_nested_and_of_labelled_chips():
    chips = pd.DataFrame({"labelled": [5, 0] * 50})
    shares = [set(share_of(chips, s, seed=3).index) for s in (0.05, 0.1, 0.5, 1.0)]
    assert [len(s) for s in shares] == [2, 5, 25, 50]
    assert all(a < b for a, b in itertools.pairwise(shares))
    assert all(i % 2 == 0 for i in shares[-1])
    with pytest.raises(RequestError, match="above 0 and up to 1"):
        share_of(chips, 0.0)


# --- decoders --------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", ["fcn", "unet", "upernet"])
def test_decoders_give_classes_of_any_size_and_survive_a_file(tmp_path, decoder):
    model = build(
        "prithvi_demo", frames=3, outputs=13, decoder=decoder, weights="pretrained"
    ).eval()
    x = torch.rand(2, 6, 3, 40, 56) * 3000
    with torch.inference_mode():
        made = model(x)
        assert made.shape == (2, 13, 40, 56)
        file = save(model, tmp_path / "model.safetensors", classes=[str(k) for k in range(13)])
        assert torch.allclose(load(file)(x), made, atol=1e-4)


def test_the_published_neck_is_counted():
    """Four transposed convolutions from three dates side by side, and a 3 x 3 convolution."""
    model = build("prithvi_eo_v1_100", frames=3, outputs=13, decoder="fcn", decoder_channels=256)
    beside = sum(p.numel() for n, p in model.network.named_parameters() if "encoder" not in n)
    wide, inside = 3 * 768, 256
    enlarging = 4 * wide * inside + 3 * 4 * inside**2 + 4 * inside
    norms, convolution = 2 * 2 * inside, 9 * inside**2 + 2 * inside
    assert beside == enlarging + norms + convolution + 13 * inside + 13


def test_fcn_stands_behind_a_prithvi():
    from geowb.errors import ModelError

    with pytest.raises(ModelError, match="'fcn' stands behind a Prithvi"):
        build("swin_demo", decoder="fcn")
