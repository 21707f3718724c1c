"""``geowb masking``: model files of all kinds on entries of the catalog."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from geowb import cli
from geowb.errors import ModelError, RequestError
from geowb.masking.examining import examine
from geowb.models import build, build_classifier, load, save

NAMES = [str(k) for k in range(10)]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A classifier of digits, and models of classes and of a quantity a pixel."""
    from geowb import open_catalog
    from geowb.masking import train

    folder = tmp_path_factory.mktemp("models")
    scene = open_catalog()["digits"].open()
    x = torch.from_numpy(scene["reflectance"].values[:400] / 16)
    y = torch.from_numpy(scene["label"].values[:400]).long()
    made = train("none", x, y, epsilon=0.1, epochs=6, width=4, learning_rate=0.01)
    made.card |= {"bands": ["GREY"], "pixel_range": [0.0, 16.0]}
    models = {"digits": (made, {}), "other": (build_classifier((1, 8, 8), ["a", "b"]), {})}
    models["flood"] = build("unet", outputs=2), {"task": "segmentation"}
    models["agb"] = build("unet"), {"units": "Mg/ha"}
    for name, (model, said) in models.items():
        save(model, folder / name / "model.safetensors", **said)
    return folder


def geowb(*words):
    run = [sys.executable, "-m", "geowb.cli", *map(str, words)]
    return subprocess.run(run, capture_output=True, text=True, check=False)


def test_a_classifier_is_a_model_file(files):
    made = load(files / "digits")
    assert made.card["kind"] == "classifier"
    assert made.card["defence"] == "none"
    assert made.card["classes"] == NAMES
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(made(x), load(files / "digits" / "model.safetensors")(x))
    with pytest.raises(
        ModelError, match=r"takes \(batch, 1 x 8 x 8\); it was given \(2, 1, 9, 9\)"
    ):
        made(torch.zeros(2, 1, 9, 9))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"network": "big"}, "no network 'big'"),
        ({"activation": "relu6"}, "Did you mean 'relu'"),
        ({"levels": 1}, "0 or 2 levels"),
        ({"classes": ["a"]}, "two classes or more"),
        ({"shape": (8, 8)}, "bands, rows, columns"),
    ],
)
def test_classifiers_that_cannot_be_are_told(wrong, told):
    asked = {"shape": (1, 8, 8), "classes": ["a", "b"]} | wrong
    with pytest.raises(RequestError, match=told):
        build_classifier(asked.pop("shape"), asked.pop("classes"), **asked)


def test_the_command_tells_measures_and_verdict_and_writes_json(files, tmp_path):
    out = tmp_path / "found.json"
    ran = geowb(
        "masking", files / "digits", "--data", "digits", "--epsilon", 0.15, "--images", 40,
        "--json", out,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "40 images of digits: epsilon 2.4 of pixels from 0 to 16" in ran.stdout
    assert "fgsm_pgd_cosine" in ran.stdout
    told = json.loads(out.read_text())
    assert told["verdict"] in ran.stdout
    assert told["about"]["classes"] == NAMES
    assert ran.stdout.splitlines()[-1] == str(out)
    here = examine(files / "digits", "digits", epsilon=0.15, images=40)
    mine, theirs = here.to_dict()["measures"], told["measures"]
    for name in mine:
        assert mine[name]["mean"] == pytest.approx(theirs[name]["mean"], rel=1e-3), name


def test_json_goes_to_the_screen_alone(files):
    words = ["--data", "digits", "--images", "24", "--json", "-", "--quiet"]
    words += ["--metric", "gradient_norm"]
    ran = CliRunner().invoke(cli.app, ["masking", str(files / "digits"), *words])
    told = json.loads(ran.stdout)
    assert list(told["measures"]) == ["gradient_norm"]
    assert told["settings"]["epsilon"] == pytest.approx(8 / 255)


def test_a_wrong_command_is_a_sentence_and_status_two(files, tmp_path):
    ran = geowb("masking", files / "digits", "--data", "dgits")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "Did you mean 'digits'" in ran.stderr
    assert "Traceback" not in ran.stderr
    for words, told in [
        (["--bounds", "3"], "--bounds is two numbers"),
        (["--json", str(tmp_path / "no" / "x.json")], "There is no folder"),
    ]:
        ran = CliRunner().invoke(cli.app, ["masking", str(files), "--data", "digits", *words])
        assert isinstance(ran.exception, RequestError)
        assert told in str(ran.exception)


@pytest.mark.parametrize(
    ("model", "asked", "told"),
    [
        ("other", {"data": "digits"}, "The model tells a, b; 'digits' has 0, 1.* None of them"),
        (
            "digits",
            {"data": "world_floods"},
            "those of 'world_floods' are 0 to 10000",
        ),
        ("digits", {"data": "digits", "bounds": (0, 255)}, "are given as 0 to 255"),
        ("other", {"data": "world_floods"}, r"has 6 band\(s\); the model takes 1"),
        ("digits", {"data": "digits", "bounds": (16, 0)}, "smallest and the largest"),
        ("digits", {"data": "digits", "epsilon": -1}, "positive fraction"),
        ("flood", {"data": "digits"}, r"lacks the band\(s\) BLUE"),
        ("flood", {"data": "world_floods", "attack": True}, "AutoAttack takes a class an image"),
        ("flood", {"data": "world_floods", "label": "floods"}, "Did you mean 'flood'"),
        ("flood", {"data": "world_floods", "label": "agb"}, "does not fit a model of 2 output"),
        ("flood", {"data": "world_agb"}, "no label of 2 classes for this model.*It has"),
    ],
)
def test_models_and_data_that_do_not_fit_are_told(files, model, asked, told):
    with pytest.raises(RequestError, match=told):
        examine(files / model, asked.pop("data"), **asked)


def test_a_masked_model_has_nothing_to_miss():
    with pytest.raises(RequestError, match="no model of classes or quantities"):
        examine("mae_demo", "digits")


@pytest.mark.parametrize(("model", "data"), [("flood", "world_floods"), ("agb", "world_agb")])
def test_models_of_maps_are_measured_on_their_own_label(files, model, data):
    how = {"images": 2, "chip_size": 32, "select": {"region": "cerrado"}, "epsilon": 0.01}
    found = examine(files / model, data, metrics=["gradient_norm"], **how)
    assert found.about["label"] == model
    assert found.about["epsilon_in_pixels"] == pytest.approx(100)
    assert found.about["pixel_range"] == [0.0, 10_000.0]
    assert found.profile.settings["images"] == 2
    assert np.isfinite(found.profile.table.loc["gradient_norm", "mean"])
    told = {"flood": "maps", "agb": "quantities"}[model]
    assert found.profile.settings["kind"] == told
