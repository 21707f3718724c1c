"""What is written for the Hugging Face hub: it loads, it reads well, it is never half there."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest

torch = pytest.importorskip("torch")
hub = pytest.importorskip("huggingface_hub")

from typer.testing import CliRunner  # noqa: E402

import geowb  # noqa: E402
from geowb import cli, models  # noqa: E402
from geowb.errors import ModelError, RequestError  # noqa: E402
from geowb.models import publishing  # noqa: E402

FILES = {"model.safetensors", "model.json", "config.json", "README.md"}
TRAINED = {"data": "world", "regions": ["amazonia"], "seed": 3}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory with a U-Net in it."""
    folder = tmp_path_factory.mktemp("runs") / "agb-1"
    model = models.build("unet", output_mean=100.0, output_std=40.0, non_negative=True)
    models.save(
        model, folder / "models/unet/model.safetensors", units="Mg/ha", trained_on=TRAINED, run="a"
    )
    record = {
        "study": "agb_transfer",
        "profile": "teaching",
        "parameters": {"epochs": 6, "regions": [], "weights": "/home/me/secret/w.pt"},
        "cwd": "/home/me/secret",
        "seconds": 69.563,
        "data": {"data": {"entry": "world", "driver": "world", "world_version": "1.0"}},
    }
    numbers = {
        "rmse/unet/all": {"value": 66.332, "unit": "Mg/ha"},
        "rmse/unet_resnet18/all": {"value": 1.0, "unit": "Mg/ha"},
        "rmse/unet/300-400": {"value": None, "unit": "Mg/ha", "note": "not finite"},
        "trainable/unet": {"value": 7763905, "unit": "parameters"},
    }
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "metrics.json").write_text(json.dumps(numbers))
    return folder


@pytest.fixture(scope="module")
def published(run, tmp_path_factory):
    more = [{"name": "bias", "value": -3, "unit": "Mg/ha", "data": "plots in Acre"}]
    folder = tmp_path_factory.mktemp("hub") / "new" / "agb-unet"
    return models.publish(run, folder, repo_id="me/agb-unet", metrics=more)


def copied(source, folder, **changes):
    """The run's model elsewhere, with another card."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").hardlink_to(source / "models/unet/model.safetensors")
    card = json.loads((source / "models/unet/model.json").read_text())
    (folder / "model.json").write_text(json.dumps(card | changes))
    return folder


def test_the_folder_loads_as_the_same_model(run, published):
    assert {file.name for file in published.iterdir()} == FILES
    assert list(published.parent.iterdir()) == [published]
    x = torch.rand(2, 6, 1, 40, 56) * 3000
    with torch.no_grad():
        expected = models.load(run / "models/unet")(x)
        assert torch.equal(models.load(published)(x), expected)
    held = json.loads((published / "config.json").read_text())
    assert (held["model_type"], held["architectures"]) == ("geowb-unet", ["PixelModel"])
    assert held["input"]["shape"] == ["batch", 6, 1, "height", "width"]
    assert held["output"] == {"shape": ["batch", 1, "height", "width"], "units": "Mg/ha"}
    assert held["bands"] == list(geowb.HLS6)


def test_the_hub_can_read_the_card(published):
    data = hub.ModelCard.load(published / "README.md").data
    assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "geowb", None)
    assert {"geowb", "unet", "simulated-data"} < set(data.tags)
    assert data.datasets == ["geowb-world"]
    assert data.model_name == "agb-unet"
    results = {result.metric_name: result for result in data.eval_results}
    assert set(results) == {"rmse/unet/all (Mg/ha)", "bias (Mg/ha)"}
    assert results["rmse/unet/all (Mg/ha)"].metric_value == 66.332
    assert results["rmse/unet/all (Mg/ha)"].dataset_name == "world 1.0 (run a)"
    assert results["bias (Mg/ha)"].dataset_name == "plots in Acre"


def test_the_card_says_what_a_reader_needs(published):
    text = (published / "README.md").read_text()
    assert "no measurements of a place" in " ".join(text.split())
    assert "| rmse/unet/all | 66.33 | Mg/ha | world 1.0 (run a) |" in text
    assert "| rmse/unet/300-400 | n/a | Mg/ha |" in text
    assert "rmse/unet_resnet18" not in text
    assert "| trainable/unet | 7,763,905 | parameters |" in text
    assert "| regions | amazonia |" in text
    assert digest(published) in text
    assert "-p epochs=6" in text
    assert "-p weights=w.pt" in text
    assert "/home/me" not in text
    assert "Ronneberger" in text
    assert "{{" not in text


def digest(folder):
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def run_snippet(folder, monkeypatch):
    """The code in the card, as a reader would run it; what it has called its things."""
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    asked = []
    monkeypatch.setattr(hub, "snapshot_download", lambda repo: asked.append(repo) or str(folder))
    names = {}
    exec(code, names)
    return names | {"asked": asked}


def test_the_code_in_the_card_runs(published, monkeypatch):
    names = run_snippet(published, monkeypatch)
    assert names["asked"] == ["me/agb-unet"]
    assert names["result"].shape == (1, 1, 64, 64)


def test_each_file_can_be_prepared_for_the_hub(published):
    for file in published.iterdir():
        add = hub.CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=str(file))
        assert add.upload_info.size == file.stat().st_size


def test_a_linear_decoder_is_named(tmp_path, monkeypatch):
    model = models.build("swin_demo", decoder="linear", seed=1)
    file = models.save(
        model, tmp_path / "model.safetensors", units="Mg/ha", trained_on={"data": "x"}
    )
    folder = models.publish(file, tmp_path / "out", repo_id="me/linear")
    text = (folder / "README.md").read_text()
    assert "Swin encoder of 32-256 channels, one linear layer: Mg/ha, pixel by pixel" in text
    assert "UPer" not in text
    tuned = run_snippet(folder, monkeypatch)["tuned"]  # built with the same decoder
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in tuned.state_dict().items())


def test_classes_have_the_hubs_task_and_their_names(tmp_path):
    model = models.build("unet", outputs=3, frames=2)
    file = tmp_path / "crops" / "model.safetensors"
    names = ["maize", "soy", "other"]
    models.save(model, file, task="classification", classes=names, trained_on={"data": "mine"})
    (file.parent / "loss.png").write_bytes(b"a picture")
    folder = models.publish(file, tmp_path / "out", title="Crops", description="Mine.")
    card = hub.ModelCard.load(folder / "README.md")
    assert card.data.pipeline_tag == "image-segmentation"
    assert "simulated" not in card.content
    assert "# Crops\n\nMine.\n" in card.content
    assert "![loss.png](loss.png)" in card.content
    assert (folder / "loss.png").read_bytes() == b"a picture"
    assert json.loads((folder / "config.json").read_text())["id2label"]["1"] == "soy"


def test_training_in_the_models_card_is_shown(run, tmp_path):
    curve = [{"step": 4 * i, "loss": 4 / (i + 1), "learning_rate": 0.1} for i in range(101)]
    for row in curve[::5]:
        row["held_out"] = 7.0
    recipe = {"steps": 400, "model": "unet", "sampling": {"seeds": [1, 2]}}
    known = {
        "training": {
            "recipe": recipe | {"catalog": "/home/me/mine.yaml"},
            "command": "geowb pretrain --catalog /home/me/mine.yaml",
            "seconds": 600.0,
            "curve": curve,
        },
        "metrics": [
            {"name": "ssim", "value": 0.91, "unit": "", "data": "test chips"},
            {
                "name": "r2/biomass/200",
                "what": "linear probe",
                "value": 0.5,
                "beside": {"random weights": 0.4, "gain at 95 %": [-0.01, 0.2]},
            },
        ],
        "trained_on": {
            "entry": "world_year",
            "seeds": [*range(300, 340)],
            "provenance": {"files": {"/home/me/tile.tif": {"bytes": 7}}},
        },
    }
    folder = models.publish(copied(run, tmp_path / "unet", **known), tmp_path / "out")
    text = (folder / "README.md").read_text()
    for told in (
        "| steps | 400 |",
        "| time | 10 min |",
        "| command | `geowb pretrain --catalog mine.yaml` |",
        "| step | loss | held out |",
        "| 0 | 4 | 7 |",
        "| 400 | 0.0396 | 7 |",
        "| metric | what | value | beside it | unit | data |\n|---|---|---:|---|---|---|\n",
        "| ssim |  | 0.91 |  |  | test chips |",
        "| r2/biomass/200 | linear probe | 0.5 | random weights 0.4; gain at 95 % -0.01 to 0.2 |",
        "| held_out_loss |  | 7 |  | normalised | world_year held-out chips, of other places |",
        "| seeds | 300 to 339 |",
        "simulated world.",
    ):
        assert told in text
    assert "learning rate" not in text
    assert "sampling" not in text
    assert {r.metric_type for r in hub.ModelCard(text).data.eval_results} >= {"ssim", "r2"}
    card = json.loads((folder / "model.json").read_text())
    assert card["training"]["recipe"]["catalog"] == "mine.yaml"
    assert list(card["trained_on"]["provenance"]["files"]) == ["tile.tif"]
    assert "/home" not in json.dumps(card)


def test_a_masked_model_is_published_the_same_way(tmp_path, monkeypatch):
    from geowb.models.masked import build_masked

    model = build_masked("prithvi_demo", frames=3, size=32)
    model.card["pretrained"] = True
    file = models.save(
        model,
        tmp_path / "mae" / "model.safetensors",
        task="masked",
        trained_on={"entry": "world_year", "provenance": {"world_version": "1.0"}},
        dtype="float16",
    )
    folder = models.publish(file, tmp_path / "out")
    x, noise = torch.rand(1, 6, 3, 32, 32) * 3000, torch.rand(1, 48)
    with torch.no_grad():
        expected = models.load(file)(x, noise).prediction
        assert torch.equal(models.load(folder)(x, noise).prediction, expected)
    card = hub.ModelCard.load(folder / "README.md")
    assert card.data.pipeline_tag == "image-feature-extraction"
    assert "masked-autoencoder" in card.data.tags
    assert "simulated world (version 1.0)" in card.content
    assert "He et al. (2021)" in card.content
    held = json.loads((folder / "config.json").read_text())
    assert held["input"]["shape"] == ["batch", 6, 3, 32, 32]
    assert held["mask_ratio"] == 0.75
    names = run_snippet(folder, monkeypatch)
    assert names["result"].shape == (1, 6, 3, 32, 32)
    assert names["tuned"].pretrained
    state = names["tuned"].network.encoder.state_dict()
    assert torch.equal(
        state["blocks.0.attn.qkv.weight"],
        models.load(file).encoder.state_dict()["blocks.0.attn.qkv.weight"],
    )


def test_random_weights_are_published_only_when_asked_for(run, tmp_path):
    model = copied(run, tmp_path / "unet", trained_on={}, run="")
    with pytest.raises(RequestError, match=r"never trained: its weights are random .*--allow-un"):
        models.publish(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    folder = models.publish(model, tmp_path / "out", allow_untrained=True)
    assert "**The weights are random.**" in (folder / "README.md").read_text()
    assert publishing.was_trained({"weights": "model file x, ...", "pretrained": True})
    assert not publishing.was_trained({"weights": "encoder from x", "pretrained": True})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"licence": "do what you want"}, "'do what you want' is no identifier of a licence"),
        ({"licence": ""}, "no identifier of a licence"),
        ({"repo_id": "unet"}, "'unet' is no repository on the hub: write OWNER/NAME"),
        ({"repo_id": "me/a/b"}, "no repository on the hub"),
        ({"metrics": [{"value": 3}]}, "Metric 1, "),
        ({"metrics": [{"name": "a", "value": 1.0}, {"name": "x", "value": "3"}]}, "Metric 2, "),
        ({"metrics": [{"name": "x", "value": float("nan")}]}, "Metric 1, "),
    ],
)
def test_wrong_words_are_refused(run, tmp_path, options, told):
    with pytest.raises(RequestError, match=told):
        models.publish(run, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_model_is_refused(run, tmp_path, monkeypatch):
    def refused(model, told):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(RequestError, match=told):
            models.publish(model, tmp_path / "out")
        assert sorted(tmp_path.rglob("*")) == before

    monkeypatch.setattr(models.registry, "SHIPPED", tmp_path / "shipped")
    refused("unett", "There is no model 'unett': no such file or folder.")
    copied(run, tmp_path / "shipped" / "unet")
    refused("unett", "Did you mean 'unet'?")
    assert publishing.find_model("unet") == tmp_path / "shipped" / "unet" / "model.safetensors"
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "There is no model in .*empty")
    (tmp_path / "model.pt").write_text("x")
    refused(tmp_path / "model.pt", "is no model file of geowb")
    two = shutil.copytree(run, tmp_path / "two", copy_function=shutil.copy)
    copied(run, two / "models" / "other")
    refused(two, f"2 models; name one of them: {two}/models/other, {two}/models/unet")
    (two / "models/other/model.json").write_text("{")
    refused(two / "models/other", "model.json cannot be read")
    (two / "models/other/model.json").unlink()
    refused(two / "models/other", "is no model file of geowb")
    refused(copied(run, tmp_path / "wide", frames=2), "wide cannot be published. .*another shape")
    cut = two / "models/unet/model.safetensors"
    cut.write_bytes(cut.read_bytes()[:5000])
    refused(cut, "cannot be published. .* not a safetensors file")


def test_weights_that_are_not_finite_are_refused(tmp_path):
    model = models.build("unet")
    next(held for name, held in model.named_buffers() if "running_var" in name)[0] = torch.inf
    file = models.save(model, tmp_path / "model.safetensors", trained_on=TRAINED)
    with pytest.raises(RequestError, match=r"network\S+ has values that are not finite"):
        models.publish(file, tmp_path / "out")


def test_a_folder_in_use_is_left_alone(run, tmp_path):
    out = tmp_path / "out"
    out.write_text("a file")
    with pytest.raises(RequestError, match="is a file"):
        models.publish(run, out, overwrite=True)
    out.unlink()
    (out / ".git").mkdir(parents=True)
    models.publish(run, out)  # a fresh clone
    with pytest.raises(RequestError, match="not empty: name another folder, or say --overwrite"):
        models.publish(run, out)
    (out / "old.png").touch()
    models.publish(run, out, overwrite=True, title="Again")
    assert {file.name for file in out.iterdir()} == {*FILES, ".git"}
    assert "# Again" in (out / "README.md").read_text()
    (out / "thesis.tex").touch()
    with pytest.raises(RequestError, match=r"more than a published model \(thesis.tex\)"):
        models.publish(run, out, overwrite=True)
    other = copied(run, tmp_path / "other")
    with pytest.raises(RequestError, match=r"more than a published model \(model.safetensors\)"):
        models.publish(run, other, overwrite=True)
    assert {file.name for file in tmp_path.iterdir()} == {"out", "other"}


def test_a_disk_that_is_full_leaves_nothing(run, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(ModelError, match=r"out could not be written \(No space left on device\)"):
        models.publish(run, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_the_folder_last(run, tmp_path):
    words = ["publish", str(run), str(tmp_path / "out"), "--repo", "me/agb", "--licence", "mit"]
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 0
    assert done.stdout == f"{tmp_path / 'out'}\n"
    assert done.stderr.endswith(f"To upload it: hf upload me/agb {tmp_path / 'out'}\n")
    assert hub.ModelCard.load(tmp_path / "out" / "README.md").data.license == "mit"
