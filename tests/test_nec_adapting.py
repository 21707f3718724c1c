"""Adapting an encoder to compression, codec files, and embeddings of scenes."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from scenes import scene

from geowb import cli
from geowb.errors import CorruptStream, ModelError, RequestError, WeightsMismatch
from geowb.models import load, weights
from geowb.models.masked import build_masked
from geowb.models.registry import SHIPPED
from geowb.nec import (
    CompressedMAE,
    adapt,
    adapting,
    embed_scene,
    load_codec,
    making,
    open_embeddings,
)
from geowb.nec.codecs import check_codecs, load_codecs, open_base, save_codec

CATALOG = """\
meta: {name: tiny}
tiny:
  description: Small worlds
  placeholders: {region: [cerrado]}
  driver: {name: world, options: {region: "{region}", size: 160, dates: 3, every: 80}}
  metadata: {category: embedded, source_license: Apache-2.0}
"""


@pytest.fixture(scope="module")
def how(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Keywords of an adaptation of seconds."""
    file = tmp_path_factory.mktemp("catalog") / "catalog.yaml"
    file.write_text(CATALOG)
    chips = {"data": "tiny", "catalog": str(file), "selections": {}, "seeds": (0, 1), "count": 16}
    return {
        "sampling": {**chips, "min_clear": 0.3},
        "steps": 6,
        "batch_size": 8,
        "fitting_steps": 40,
        "workers": 1,
        "progress": False,
    }


@pytest.fixture(scope="module")
def codecs(how: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two codecs of `prithvi_demo`."""
    folder = tmp_path_factory.mktemp("nec") / "codecs"
    made = adapt("prithvi_demo", folder, [1, 300], **how)
    assert [one.name for one in made] == ["lambda-1", "lambda-300"]
    return folder


def test_ten_per_cent_of_vit_b_are_trained():
    """Counts of the paper's encoder: 11,622,400 of 111,655,680, and 46,848 of the prior."""
    masked = build_masked("mae_vit_b16", bands=("RED", "GREEN", "BLUE"), size=224)
    assert sum(p.numel() for p in masked.parameters()) == 111_655_680
    share = CompressedMAE.of(masked).trained()
    assert share == (11_622_400 + 46_848, 111_655_680 + 46_848)
    assert round(100 * share.fraction, 2) == 10.45
    assert round(100 * 11_622_400 / 111_655_680, 2) == 10.41


def test_only_these_parameters_change(codecs):
    base, codec = load(SHIPPED / "prithvi_demo").state_dict(), load_codec(codecs / "lambda-1")
    trained = ("encoder.blocks.5.", "decoder.decoder_blocks.0.", "prior.")
    for name, value in codec.model.state_dict().items():
        changed = name.startswith(trained) or "block" not in name
        fixed = any(part in name for part in ("pos_embed", "temporal", "location", "mean", "std"))
        if not changed or fixed:
            assert torch.equal(value, base[name]), name
    moved = [n for n, v in codec.model.state_dict().items() if n in base and (v != base[n]).any()]
    assert any(name.startswith("encoder.blocks.5.") for name in moved)
    assert {"encoder.norm.weight", "encoder.patch_embed.proj.weight"} <= set(moved)


def test_a_larger_lambda_is_larger_and_better(codecs):
    cards = [load_codec(codecs / name).card for name in ("lambda-1", "lambda-300")]
    scores = [card["on_training_chips"] for card in cards]
    assert scores[0]["bits_per_element"] < 0.3 * scores[1]["bits_per_element"]
    assert scores[0]["error"] > scores[1]["error"]
    assert cards[0]["factor"] < cards[1]["factor"]
    for card in cards:
        assert card["iterations"] == {"adapting": 6, "pretraining": 4000}
        assert card["parameters"] == {"trained": 698_976, "all": 3_035_136}
        assert [row["step"] for row in card["curve"]] == [1, 2, 3, 4, 5, 6]


def test_an_adaptation_that_was_cut_off_comes_out_the_same(codecs, how, tmp_path, monkeypatch):
    folder = tmp_path / "codecs"
    monkeypatch.setattr(making, "_EVERY", -1)
    real, steps = making.training_step, []

    def cut(model, batch, recipe, step):
        if isinstance(model, CompressedMAE) and model.training:
            steps.append(step)
            if len(steps) == 4:
                raise KeyboardInterrupt
        return real(model, batch, recipe, step)

    monkeypatch.setattr(making, "training_step", cut)
    with pytest.raises(KeyboardInterrupt):
        adapt("prithvi_demo", folder, [1], **how)
    assert (folder / "lambda-1" / "checkpoint.pt").is_file()
    (one,) = adapt("prithvi_demo", folder, [1], **how)
    assert steps == [0, 1, 2, 3, 3, 4, 5]
    again, before = load_codec(one), load_codec(codecs / "lambda-1")
    assert again.tables == before.tables
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, before.model.state_dict()[name]), name
    assert not (one / "checkpoint.pt").exists()
    assert adapt("prithvi_demo", folder, [1], **how) == [one]
    assert len(steps) == 7


def test_widening_changes_nothing_without_a_prior():
    base, _ = open_base("prithvi_demo")
    model = CompressedMAE.of(base)
    model._between = lambda latent: (latent, None)
    x, noise = 2000 + 500 * torch.randn(1, 6, 1, 64, 64), torch.rand(1, 64)
    model.rescale(5.0)
    with torch.no_grad():
        a, b = model(x, noise).prediction, base(x, noise).prediction
        torch.testing.assert_close(a, b, atol=0.05, rtol=1e-4)  # counts
        torch.testing.assert_close(
            model.embed(x), 5 * CompressedMAE.of(base).embed(x), atol=1e-4, rtol=1e-4
        )


def test_what_is_decoded_is_what_the_decoder_was_trained_for(codecs):
    codec = load_codec(codecs / "lambda-300")
    x = 2000 + 500 * torch.randn(1, 6, 3, 64, 64)
    with torch.no_grad():
        values = codec.model.embed(x)
        arrived, _ = codec.model.prior(values)
    again = codec.tables.decode(codec.tables.encode(values.numpy()))
    np.testing.assert_allclose(again, arrived, atol=1e-4)
    features = codec.model.features(x)
    assert features.shape == (1, 3 * 192, 8, 8)
    assert torch.equal(features[0, 192:384, 2, 5], values[0, 1, 2, 5])


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"steps": 101}, "at most 2.5% of them, 100"),
        ({"steps": 0}, "0 steps"),
        ({"lambdas": []}, "lambdas"),
        ({"lambdas": [1, 1]}, "each once"),
        ({"lambdas": [1234567, 1234568]}, "six digits"),
        ({"lambdas": [-1]}, "above 0"),
        ({"learning_rate": 3.0}, "learning_rate is 3"),
        ({"stored": "int8"}, "float16"),
        ({"base": "unet"}, "There is no masked model unet"),
        ({"base": "swin_demo"}, "no masked model with tokens"),
        ({"sampling": {"data": "nowhere"}}, "nowhere"),
        ({"sampling": {"sizes": 64}}, "sampling has no 'sizes'. Did you mean 'size'"),
        ({"accelerator": "tpu"}, "accelerator is 'tpu'"),
        ({"workers": 0}, "workers is 0"),
    ],
)
def test_bad_requests_leave_nothing(how, tmp_path, change, told):
    asked = {"base": "prithvi_demo", "lambdas": [1], **how, **change}
    with pytest.raises(RequestError, match=told):
        adapt(asked.pop("base"), tmp_path / "codecs", asked.pop("lambdas"), **asked)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_others_is_kept(codecs, how, tmp_path):
    with pytest.raises(RequestError, match="another adaptation"):
        adapt("prithvi_demo", codecs, [1], **{**how, "seed": 5})
    (tmp_path / "mine.txt").touch()
    with pytest.raises(RequestError, match="holds no adaptation"):
        adapt("prithvi_demo", tmp_path, [1], **how)
    with pytest.raises(RequestError, match="holds no adaptation"):
        adapt("prithvi_demo", tmp_path, [1], force=True, **how)
    assert (tmp_path / "mine.txt").is_file()


def test_force_leaves_what_adapting_does_not_make(codecs, how, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(codecs, tmp_path / "codecs"))
    (folder / "thesis.txt").touch()
    (folder / ".chips.zarr.lock").touch()
    monkeypatch.setattr(adapting, "write_archive", lambda *_, **__: sys.exit("no chips"))
    with pytest.raises(SystemExit, match="no chips"):
        adapt("prithvi_demo", folder, [1], force=True, **{**how, "seed": 5})
    assert sorted(path.name for path in folder.iterdir()) == ["adapting.json", "thesis.txt"]
    (folder / "adapting.json").write_text("[")
    (folder / "chips.zarr").mkdir()
    with pytest.raises(RequestError, match=r"adapting\.json is damaged"):
        adapt("prithvi_demo", folder, [1], **how)


def test_codecs_of_a_study_are_checked_before_it_starts(codecs, tmp_path):
    assert check_codecs(str(codecs), model="prithvi_demo", lambdas=[300.0]) == []
    assert check_codecs("", model="mae_demo") == []
    for words, told in (
        ({"model": "mae_demo"}, "is of the encoder 'prithvi_demo', not of 'mae_demo'"),
        ({"model": "prithvi_demo", "lambdas": [7.0]}, "has no codec of lambda 7"),
        ({"model": "prithvi_demo", "weights": "gone.pt"}, "no weights file gone.pt"),
    ):
        (problem,) = check_codecs(str(codecs), **words)
        assert told in problem
    (problem,) = check_codecs(str(tmp_path), model="prithvi_demo")
    assert str(tmp_path) in problem


@pytest.fixture
def copy(codecs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(codecs / "lambda-1", tmp_path / "copy"))


def test_damaged_codecs_are_refused(copy, codecs):
    with pytest.raises(RequestError, match="There is no codec"):
        load_codec(copy.parent)
    (copy / "tables.bin").write_bytes((codecs / "lambda-300" / "tables.bin").read_bytes())
    with pytest.raises(CorruptStream, match="not the tables"):
        load_codec(copy)
    (copy / "tables.bin").unlink()
    with pytest.raises(ModelError, match="not whole"):
        load_codec(copy)
    card = json.loads((copy / "codec.json").read_text())
    for content, told in (("{", "no card"), (json.dumps({**card, "format": 9}), "format 9")):
        (copy / "codec.json").write_text(content)
        with pytest.raises(ModelError, match=told):
            load_codec(copy)


def test_another_encoder_is_refused(copy, tmp_path):
    file, card = copy / "codec.json", json.loads((copy / "codec.json").read_text())
    file.write_text(json.dumps({**card, "base": {**card["base"], "sha256": "0" * 64}}))
    with pytest.raises(WeightsMismatch, match="give the right file"):
        load_codec(copy)
    file.write_text(json.dumps({**card, "base": {**card["base"], "weights": "/nowhere/at/all"}}))
    with pytest.raises(ModelError, match="where nothing is now"):
        load_codec(copy)
    moved = shutil.copytree(SHIPPED / "prithvi_demo", tmp_path / "moved")
    assert load_codec(copy, weights=str(moved)).tables == load_codec(copy, str(moved)).tables


# --- scenes -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embedded(codecs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, xr.Dataset]:
    one = scene(150, 100, 3)
    one["reflectance"][:, :, :24, :40] = np.nan
    target = tmp_path_factory.mktemp("embedded") / "scene.zarr"
    size = embed_scene(codecs / "lambda-300", one, target, scale=1, chunk=8, progress=False)
    assert size.tokens == 3 * (19 * 13 - 3 * 5)
    assert size.channels == 192
    return target, one


def test_a_scene_becomes_a_cube_on_the_token_grid(embedded, codecs):
    target, one = embedded
    found = open_embeddings(target)
    assert dict(found.sizes) == {"time": 3, "y": 19, "x": 13, "channel": 192}
    assert found.data.chunksize == (1, 8, 8, 192)
    assert found.rio.crs == one.rio.crs
    assert found.rio.resolution() == (240, -240)
    assert found.rio.bounds()[::3] == (500_000, 7_000_000)
    np.testing.assert_array_equal(found["time"], one["time"])
    card = json.loads(found.attrs["geowb_codec"])
    assert card["encoder"] == "prithvi_demo"
    assert card["lambda"] == 300
    assert found.attrs["units"] == "1"
    values = found.to_numpy()
    assert np.isnan(values[:, :3, :5]).all()
    assert np.isfinite(values).sum() == 192 * 3 * (19 * 13 - 3 * 5)
    # The last tile is encoded as it is alone.
    codec = load_codec(codecs / "lambda-300")
    x = torch.from_numpy(one["reflectance"].values[:, :, 48:112, 32:96].transpose(1, 0, 2, 3))[None]
    with torch.no_grad():
        direct = codec.tables.quantise(codec.model.embed(x)[0].numpy())
    close = np.abs(direct[:, 2:-2, 2:-2] - values[:, 8:12, 6:10])
    assert np.mean(close < 1.5) > 0.95  # other neighbours, so some are another step


def test_the_plain_xarray_reads_it_without_a_warning(embedded, recwarn):
    target, one = embedded
    found = xr.open_zarr(target)["embedding"]
    assert found.rio.crs == one.rio.crs
    assert np.isfinite(found[0, 10, 5].to_numpy()).all()
    assert [str(one.message) for one in recwarn] == []


def test_the_same_request_is_not_made_again_and_another_is_refused(embedded, codecs):
    target, one = embedded
    before = (target / "zarr.json").stat().st_mtime_ns
    how = {"scale": 1, "chunk": 8, "progress": False}
    embed_scene(codecs / "lambda-300", one, target, **how)
    assert (target / "zarr.json").stat().st_mtime_ns == before
    for other in ({**how, "chunk": 4}, {**how, "tile": 32}):
        with pytest.raises(RequestError):
            embed_scene(codecs / "lambda-300", one, target, **other)
    with pytest.raises(RequestError):
        embed_scene(codecs / "lambda-1", one, target, **how)


def test_what_is_not_there_is_told(codecs, tmp_path):
    one = scene(64, 64, 3)
    one["reflectance"][:] = np.nan
    size = embed_scene(codecs / "lambda-1", one, tmp_path / "a.zarr", scale=1, progress=False)
    assert "0 tokens of 192 channels: no token has data" in size.told()
    big = scene(64, 64, 3)
    big["reflectance"][0, 0, :8, :8] = 1e30
    size = embed_scene(codecs / "lambda-1", big, tmp_path / "b.zarr", scale=1, progress=False)
    assert "The model gave no number for" in size.told().splitlines()[1]


def test_a_codec_of_a_checkpoint_is_loaded_again(tmp_path, monkeypatch):
    from safetensors.torch import save_file

    masked, _ = open_base("mae_demo")
    frozen = masked.encoder.blocks[0].norm1.weight
    with torch.no_grad():
        frozen += 1
    monkeypatch.chdir(tmp_path)
    save_file({k: v.contiguous() for k, v in masked.state_dict().items()}, "mine.safetensors")
    base, said = open_base("mae_demo", "mine.safetensors")
    assert said["weights"] == str(tmp_path / "mine.safetensors")
    model = CompressedMAE.of(base)
    save_codec(model, "codec", {"base": said, "lambda": 3.0})
    monkeypatch.chdir("/")
    again = load_codec(tmp_path / "codec")
    assert torch.equal(again.model.encoder.blocks[0].norm1.weight, frozen)
    assert check_codecs(str(tmp_path), model="mae_demo", weights=said["weights"]) == []
    (problem,) = check_codecs(str(tmp_path), model="mae_demo")
    assert "their files differ" in problem
    # The encoder may have moved: who names it has said where it is.
    (tmp_path / "mine.safetensors").rename(tmp_path / "moved.safetensors")
    with pytest.raises(ModelError, match="where nothing is now"):
        load_codec(tmp_path / "codec")
    _, said = open_base("mae_demo", str(tmp_path / "moved.safetensors"))
    assert list(load_codecs(tmp_path, [], said)) == ["lambda 3"]


def test_where_weights_lie_is_kept_for_other_machines(monkeypatch):
    assert open_base("mae_demo", "pretrained")[1]["weights"] == "pretrained"
    shipped = SHIPPED / "mae_demo" / "model.safetensors"
    monkeypatch.setattr(weights, "fetch", lambda *_: shipped)
    said = open_base("mae_demo", "hf://someone/some/model.safetensors")[1]
    assert said["weights"] == "hf://someone/some/model.safetensors"
    assert said["sha256"] == open_base("mae_demo")[1]["sha256"]


def test_bad_targets_are_refused(embedded, codecs, tmp_path):
    one = embedded[1]
    for target, chunk, told in (("a.tif", 8, "no .zarr"), ("a.zarr", 0, "chunk is 0")):
        with pytest.raises(RequestError, match=told):
            embed_scene(codecs / "lambda-1", one, tmp_path / target, chunk=chunk, scale=1)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_coder_is_told_before_anything_is_encoded(
    embedded, codecs, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(RequestError, match="pip install 'constriction"):
        embed_scene(codecs / "lambda-1", embedded[1], tmp_path / "a.zarr", scale=1, progress=False)
    assert list(tmp_path.iterdir()) == []
    (told,) = check_codecs(str(codecs), model="prithvi_demo")
    assert "pip install 'constriction" in told


def test_a_chunk_is_no_larger_than_the_scene(embedded, codecs, tmp_path):
    target = tmp_path / "a.zarr"
    how = {"scale": 1, "chunk": 20_000, "progress": False}
    size = embed_scene(codecs / "lambda-300", embedded[1], target, **how)
    assert size.tokens == 3 * (19 * 13 - 3 * 5)
    assert open_embeddings(target).encoding["chunks"] == (1, 19, 13, 192)


def geowb(capsys, monkeypatch, *words: object) -> tuple[int, str, str]:
    """Give what a command line ends with: status, output, errors."""
    monkeypatch.setattr(sys, "argv", ["geowb", *map(str, words)])
    try:
        cli.main()
        status = 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    return status, *capsys.readouterr()


def test_from_the_command_line(codecs, tmp_path, capsys, monkeypatch):
    file, out = tmp_path / "scene.tif", tmp_path / "out.zarr"
    scene(64, 64)["reflectance"][0].rio.to_raster(file)
    codec = ("--codec", codecs / "lambda-1")
    words = ("embed", file, file, file, out, "--as", "dates", *codec, "--scale", 1, "--quiet")
    status, printed, told = geowb(capsys, monkeypatch, *words)
    assert (status, printed.strip()) == (0, str(out)), told
    assert "bits an element" in told
    assert open_embeddings(out).sizes["time"] == 3
    for words, wanted in (
        (("embed", file, *codec), "Name a scene"),
        (("embed", file, file, tmp_path / "b.zarr", *codec), "--as"),
        (("embed", file, tmp_path / "b.zarr", "--codec", tmp_path), "There is no codec"),
        (("adapt", "prithvi_demo", "--lambdas", "1,x"), "--lambdas is '1,x'"),
        (("adapt", "prithvi_demo", "--lambdas", "1", "--steps", "200"), "at most 2.5%"),
    ):
        status, printed, told = geowb(capsys, monkeypatch, *words)
        assert (status, printed) == (2, ""), told
        assert wanted in told
        assert "Traceback" not in told
    assert not (tmp_path / "b.zarr").exists()
