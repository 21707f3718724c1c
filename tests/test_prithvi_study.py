"""The study of four tasks: each of them, real chips, wrong requests, published facts."""

import json
import math
import os
import subprocess
import sys

import pytest
import torch

import geowb
from geowb.batch import load_study
from geowb.batch import run as run_study
from geowb.batch.checks import preflight
from geowb.errors import RequestError, RunFailed

TINY = {
    "worlds": 3,
    "steps": 2,
    "val_every": 1,
    "shares": [0.1],
    "decoder_channels": 8,
    "gan_width": 4,
}
CLASSES = {"flood": ["dry", "water"], "burn_scar": ["unburnt", "burnt"]}


def metrics(result):
    found = json.loads((result.path / "metrics.json").read_text())
    return {name: one["value"] for name, one in found.items()}


def sane(values):
    """All scores are shares, per cent or SSIM, and there are some."""
    scores = {
        k: v for k, v in values.items() if k.split("/")[0] in ("score", "iou", "accuracy", "ssim")
    }
    assert scores
    for name, value in scores.items():
        most = 100 if name.startswith(("iou", "accuracy")) else 1
        least = (
            -1 if name.startswith(("ssim", "score")) else 0
        )  # an untrained GAN's SSIM is negative
        assert value is None or math.isnan(value) or least <= value <= most, name


@pytest.mark.parametrize("task", ["flood", "burn_scar", "crop", "gap_filling"])
def test_each_task_runs_and_leaves_models_scores_and_pictures(tmp_path, task):
    asked = {**TINY, "task": task, "most_regions": 2, "unseen": True, "few": ["prithvi"]}
    asked["arms"] = ["prithvi", "random", "frozen", "cgan"]
    if task == "crop":
        asked |= {"decoder": "unet", "arms": ["prithvi", "unet"]}
    result = run_study("prithvi_tasks", asked, out=tmp_path, progress=False)
    values = metrics(result)
    sane(values)
    other = "frozen" if task == "gap_filling" else "cgan"
    arms = {arm for arm in asked["arms"] if arm != other}
    assert not (result.path / "models" / other).exists()
    for arm in arms:
        assert (result.path / "models" / arm / "model.safetensors").is_file()
        assert f"score/{arm}/labels-100" in values
    assert "score/prithvi/labels-10" in values
    assert {"data.png", "maps.png", "curves.png", "labels.png"} <= {
        file.name for file in (result.path / "figures").iterdir()
    }
    if task in CLASSES:
        assert {f"iou/random/{name}" for name in CLASSES[task]} <= set(values)
        assert f"iou/prithvi/unseen/{CLASSES[task][1]}" in values  # of the region held out
        assert "steps/random/to-95" in values
        assert values["trainable/frozen"] < values["trainable/prithvi"]
        pretrained = geowb.models.build("prithvi_demo", weights="pretrained").encoder
        for arm, same in (("frozen", True), ("prithvi", False)):
            model = geowb.models.load(result.path / "models" / arm / "model.safetensors")
            pairs = zip(pretrained.parameters(), model.encoder.parameters(), strict=True)
            assert all(torch.equal(*pair) for pair in pairs) is same
    if task == "gap_filling":
        assert {"ssim/prithvi/missing", "ssim/cgan/missing", "ssim/linear/missing"} <= set(values)
        assert values["ssim/date_mean/published"] > values["ssim/date_mean/missing"]  # inflated


REAL = {
    "flood": {"data": "sen1floods11_chip"},
    "crop": {"data": "crop_chip", "chip_size": 8, "batch_size": 2},
    "gap_filling": {
        "data": "biomassters_chip",
        "masks": "hls_fmask_tiles",
        "weights": "pretrained",
    },
}


@pytest.mark.parametrize("task", REAL)
def test_real_chips_run_end_to_end(tmp_path, task):
    if geowb.open_catalog()[REAL[task]["data"]].status() != "here":
        pytest.skip("the real test chips are not here")
    asked = {**TINY, **REAL[task], "task": task, "arms": ["prithvi", "random"], "few": []}
    result = run_study(
        "prithvi_tasks", {**asked, "steps": 10, "val_every": 5}, out=tmp_path, progress=False
    )
    values = metrics(result)
    sane(values)
    if task == "flood":
        assert values["iou/prithvi/dry"] > 50  # 73 % of the chip is dry
    if task == "gap_filling":
        assert values["ssim/prithvi/missing"] > values["ssim/random/missing"]
        assert values["mae/prithvi/missing"] < 0.1


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"task": "floods"}, "task='floods' is not a choice. Did you mean 'flood'?"),
        ({"task": "flood", "data": "world_crops"}, "flood"),
        ({"task": "crop", "regions": ["cerrado"]}, "cerrado"),
        ({"weights": "nowhere.pt"}, "There is no weights file nowhere.pt"),
        ({"encoder": "prithvi_eo_v1_100"}, "ships no weights for 'prithvi_eo_v1_100'"),
        ({"worlds": 2}, "worlds=2 is below the smallest value allowed, 3"),
        ({"decoder": "fpn"}, "decoder='fpn' is not a choice"),
        ({"shares": [0.0]}, "shares=0.0 is not above 0"),
        ({"steps": 32}, "steps is a multiple of val_every: 32 is none of 6; 30 and 36 are."),
        ({"chip_size": 60}, "A chip of 60 pixels is not made of whole patches"),
        ({"task": "gap_filling", "chip_size": 40}, "A chip of 40 pixels is not for the arm 'cgan'"),
        ({"masks": "hls_fmask_tiles"}, "is for gap filling alone; the task is flood"),
        ({"task": "gap_filling", "masks": "hls_masks"}, "has no entry 'hls_masks'"),
        ({"use_dates": [-1]}, "use_dates=-1 is below the smallest value allowed, 0"),
    ],
)
def test_wrong_requests_are_refused_before_anything_starts(asked, told):
    with pytest.raises(RequestError, match="was not started") as error:
        preflight("prithvi_tasks", asked)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"arms": ["cgan"]}, "No arm is left for flood, weights 'pretrained': not cgan."),
        ({"arms": ["frozen", "prithvi"], "weights": ""}, "not cgan, prithvi, frozen."),
        ({"task": "burn_scar", "class_weights": [1.0, 2.0]}, "no use of class_weights with the"),
        ({"task": "gap_filling", "loss": "dice"}, "gap_filling makes no use of loss"),
        ({"class_weights": [1.0, 2.0, 3.0]}, "3 class_weights, but 2 classes: ['dry', 'water']"),
        ({"use_dates": [0, 1]}, "use_dates=[0, 1], but amazonia 0 has 1 date(s)"),
    ],
)
def test_values_that_do_not_go_together_end_a_run_at_its_start(tmp_path, asked, told):
    with pytest.raises(RunFailed, match="RequestError") as error:
        run_study("prithvi_tasks", {**TINY, **asked}, out=tmp_path, progress=False)
    assert told in str(error.value)


def test_each_task_has_data_of_its_own():
    study = load_study("prithvi_tasks")
    assert study.each == ("task",)
    for task in study.parameters["task"].rules["choices"]:
        _, values = preflight(study, {"task": task})
        assert values["data"].startswith("world_")
    for profile in ("teaching", "full"):
        preflight(study, profile=profile)


def test_the_command_line_says_what_is_wrong(tmp_path):
    words = ["run", "prithvi_tasks", "-p", "task=crops", "--out", str(tmp_path / "runs")]
    done = subprocess.run(
        [sys.executable, "-m", "geowb.cli", *words], capture_output=True, text=True, cwd=tmp_path,
        check=False, env=os.environ,
    )  # fmt: skip
    assert done.returncode == 2
    assert "Did you mean 'crop'?" in done.stderr
    assert not (tmp_path / "runs").exists()
