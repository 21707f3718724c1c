"""Prithvi: published weights against TerraTorch's own loading, dates, coordinates, any size."""

import dataclasses
import json
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from geowb.bands import HLS6
from geowb.errors import DownloadError, ModelError, WeightsMismatch
from geowb.models import MODELS, build, check_weights, load, registry, save, trainable
from geowb.models.masked import build_masked
from geowb.models.wrapper import terratorch

prithvi_vit = terratorch().models.backbones.prithvi_vit
NAMES = [name for name, found in MODELS.items() if found.family == "prithvi"]
PUBLISHED = [name for name in NAMES if MODELS[name].hub]


@pytest.fixture(autouse=True)
def _demo_in_terratorch(monkeypatch):
    """TerraTorch builds prithvi_demo too, so that it can be the reference of small tests."""
    sizes = {**MODELS["prithvi_demo"].encoder, "bands": prithvi_vit.PRETRAINED_BANDS}
    monkeypatch.setitem(prithvi_vit.prithvi_cfgs, "prithvi_demo", sizes)


def chips(frames=1, height=32, width=32, bands=6, batch=2):
    random = torch.Generator().manual_seed(0)
    return 3000 * torch.rand(batch, bands, frames, height, width, generator=random)


def published(name):
    """Named tensors as in the published file of a model: encoder and decoder, prefixed."""
    with torch.device("meta"):
        names = prithvi_vit.PrithviMAE(in_chans=6, **MODELS[name].encoder).state_dict()
    random = torch.Generator().manual_seed(1)
    state = {k: torch.rand(v.shape, generator=random) - 0.5 for k, v in names.items()}
    for key, value in state.items():  # of a size that keeps features from dying or growing
        if value.ndim > 1:
            value *= 3.5 / value[0].numel() ** 0.5
        elif "norm" in key and key.endswith("weight"):
            value += 1
    return state


def flat(state):
    """The names of the first published file, Prithvi_100M.pt."""
    return {k.removeprefix("encoder.").removeprefix("decoder."): v for k, v in state.items()}


def reference(name, file, frames, bands=HLS6):
    return prithvi_vit._create_prithvi(
        name, pretrained=True, ckpt_path=str(file), num_frames=frames, model_bands=list(bands)
    ).eval()


def assert_same_features(model, theirs, x, **coordinates):
    """Compare every block's tokens with TerraTorch's; its maps are right for square images."""
    normal = (x - model.mean) / model.std
    with torch.no_grad():
        maps = theirs.prepare_features_for_image_model(theirs(normal, **coordinates))
        ours = model.features(x, **coordinates)
    assert len(ours) == len(maps)
    for a, b in zip(ours, maps, strict=True):
        assert a.shape == b.shape
        assert torch.allclose(a, b, atol=1e-5)


# --- what the registry says ------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_and_addresses_are_terratorchs(name):
    theirs, found = prithvi_vit.prithvi_cfgs[name], MODELS[name]
    for key in (*found.encoder, "coords_encoding", "coords_scale_learn"):
        ours = found.encoder.get(key, [] if key == "coords_encoding" else False)
        assert (list(ours) if isinstance(ours, tuple) else ours) == theirs[key]
    held = prithvi_vit.pretrained_weights[name]
    assert found.hub == f"{held['hf_hub_id']}/{held['hf_hub_filename']}"
    mean = registry.spec(name).statistics
    assert mean == ("prithvi_eo_v1" if theirs["mean"][0] == 775.0 else "prithvi_eo_v2")


def test_headers_and_addresses_are_checked_without_torch(tmp_path):
    file = tmp_path / "a.safetensors"
    save_file({"patch_embed.proj.weight": torch.zeros(1024, 6, 1, 16, 16)}, file)
    code = (
        "import sys; from geowb.models.checks import check_weights as check;"
        f"assert '1024 wide, not 768' in check({str(file)!r}, model='prithvi_eo_v1_100')[0];"
        "hub = 'hf://ibm-nasa-geospatial/Prithvi-EO-2.0-300M';"
        "assert '1024 wide, not 768' in check(hub, model='prithvi_eo_v1_100')[0];"
        "assert check(hub, model='prithvi_eo_v2_300') == [];"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


# --- published weights -----------------------------------------------------------------------


def test_the_published_first_model_gives_terratorchs_features(tmp_path):
    state = flat(published("prithvi_eo_v1_100"))
    assert state["pos_embed"].shape == (1, 589, 768)
    assert state["decoder_pred.weight"].shape == (1536, 512)
    file = tmp_path / "Prithvi_EO_V1_100M.pt"
    torch.save(state, file)
    assert check_weights(str(file), model="prithvi_eo_v1_100") == []
    model = build("prithvi_eo_v1_100", weights=str(file), frames=3).eval()
    assert model.pretrained
    assert model.origin.startswith("encoder from Prithvi_EO_V1_100M.pt, sha256 ")
    assert trainable(model.encoder) == 86_237_184
    assert_same_features(model, reference("prithvi_eo_v1_100", file, 3), chips(3, 64, 64, batch=1))


@pytest.mark.parametrize("names", [flat, dict])
def test_a_model_with_coordinates_gives_terratorchs_features(tmp_path, names):
    file = tmp_path / "tiny.pt"
    torch.save(names(published("prithvi_eo_v2_tiny_tl")), file)
    model = build("prithvi_eo_v2_tiny_tl", weights=str(file), frames=2).eval()
    theirs = reference("prithvi_eo_v2_tiny_tl", file, 2)
    when = torch.tensor([[[2022, 10], [2023, 200]], [[2020, 0], [2021, 364]]])
    where = torch.tensor([[47.3, 8.5], [-3.0, -60.0]])
    both = {"temporal_coords": when.float(), "location_coords": where}
    x = chips(2, 64, 64)
    assert_same_features(model, theirs, x, **both)
    assert_same_features(model, theirs, x)
    # whole numbers are taken too, and each of the coordinates is used
    outputs = [model(x, temporal_coords=when), model(x, location_coords=where), model(x)]
    assert torch.equal(outputs[0], model(x, temporal_coords=when.float()))
    assert not torch.allclose(outputs[0], outputs[2], atol=1e-4)
    assert not torch.allclose(outputs[1], outputs[2], atol=1e-4)


@pytest.mark.parametrize(
    "prefix", ["", "_timm_module.", "module.", "backbone.", "model.encoder._timm_module."]
)
@pytest.mark.parametrize("container", [None, "state_dict", "model"])
def test_encoder_weights_are_found_under_the_names_of_their_wrappers(tmp_path, prefix, container):
    state = flat(published("prithvi_demo"))
    named = {prefix + key: value for key, value in state.items()}
    named["model.head.head.0.weight"] = torch.zeros(1)
    file = tmp_path / "demo.ckpt"
    torch.save({container: named, "epoch": 3} if container else named, file)
    assert check_weights(str(file), model="prithvi_demo") == []
    model = build("prithvi_demo", weights=str(file))
    for key, value in model.encoder.state_dict().items():
        assert key == "pos_embed" or torch.equal(value, state[key])
    assert torch.equal(model.encoder.pos_embed, build("prithvi_demo").encoder.pos_embed)


@pytest.mark.parametrize("frames", [1, 2, 3, 4])
def test_any_number_of_dates(tmp_path, frames):
    file = tmp_path / "demo.pt"
    torch.save(published("prithvi_demo"), file)  # of three dates
    model = build("prithvi_demo", weights=str(file), frames=frames, outputs=3).eval()
    x = chips(frames, 64, 64)
    assert_same_features(model, reference("prithvi_demo", file, frames), x)
    assert model(x).shape == (2, 3, 64, 64)
    with pytest.raises(ModelError, match=rf"{frames} dates.*\(2, 6, 5, 32, 32\)"):
        model(chips(5))


@pytest.mark.parametrize(
    "bands", [HLS6[::-1], ("NIR_NARROW", "RED"), ("SWIR_2",), ("GREEN", "SWIR_1", "BLUE")]
)
def test_bands_are_picked_by_name(tmp_path, bands):
    file = tmp_path / "demo.pt"
    torch.save(published("prithvi_demo"), file)
    model = build("prithvi_demo", weights=str(file), bands=bands, frames=2).eval()
    theirs = reference("prithvi_demo", file, 2, bands)
    assert_same_features(model, theirs, chips(2, 64, 64, bands=len(bands)))


def test_scales_of_coordinates_are_left_out_or_required(tmp_path):
    with_scales = published("prithvi_eo_v2_tiny_tl")
    without = {k: v for k, v in with_scales.items() if "_embed_" not in k}
    for name, state in (("tl", with_scales), ("plain", without)):
        torch.save(state, tmp_path / f"{name}.pt")
    file = str(tmp_path / "plain.pt")
    assert "temporal_embed_enc.scale" in check_weights(file, model="prithvi_eo_v2_tiny_tl")[0]
    with pytest.raises(WeightsMismatch, match=r"2 tensors.*missing \(temporal_embed_enc\.scale"):
        build("prithvi_eo_v2_tiny_tl", weights=file)


def test_scales_of_coordinates_are_no_obstacle_to_a_model_without(tmp_path):
    state = published("prithvi_demo")
    extra = {f"{part}_embed_enc.scale": torch.ones(1) for part in ("temporal", "location")}
    torch.save(flat(state) | extra, tmp_path / "a.pt")
    assert check_weights(str(tmp_path / "a.pt"), model="prithvi_demo") == []
    assert build("prithvi_demo", weights=str(tmp_path / "a.pt")).pretrained


# --- sizes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (8, 8), (50, 70), (16, 64), (224, 224)])
def test_output_has_the_size_of_the_input(size):
    model = build("prithvi_demo", frames=2, outputs=2).eval()
    with torch.no_grad():
        assert model(chips(2, *size, batch=1)).shape == (1, 2, *size)
        maps = model.features(chips(2, *size, batch=1))
    grid = [-(-side // 8) for side in size]
    assert [tuple(m.shape) for m in maps] == [(1, 2 * 192, *grid)] * 6


@pytest.mark.parametrize(("patch", "layers"), [(16, 2), (14, 2), (8, 1)])
def test_patches_of_any_size(monkeypatch, patch, layers):
    demo = MODELS["prithvi_demo"]
    sizes = {**demo.encoder, "patch_size": (1, patch, patch), "img_size": 4 * patch}
    other = dataclasses.replace(demo, encoder=sizes)
    monkeypatch.setattr(registry, "MODELS", {"other": other})
    model = build("other").eval()
    assert model.network.head.learned_upscale_layers == layers
    with torch.no_grad():
        assert model(chips(1, 50, 70)).shape == (2, 1, 50, 70)
        assert model(chips(1, patch, 3 * patch)).shape == (2, 1, patch, 3 * patch)
        assert model.features(chips(1, 50, 70))[0].shape[2:] == (-(-50 // patch), -(-70 // patch))


def test_padding_is_by_reflection_and_cropped_back():
    model = build("prithvi_demo").eval()
    x = chips(1, 50, 70)
    whole = torch.nn.functional.pad(x.flatten(1, 2), (0, 2, 0, 6), mode="reflect").unsqueeze(2)
    assert torch.allclose(model(x), model(whole)[..., :50, :70], atol=1e-5)


def test_maps_of_images_that_are_not_square_keep_every_token_in_its_place():
    model = build("prithvi_demo", frames=3).eval()
    x = chips(3, 16, 64)  # 2 x 8 patches: as many as in a square
    with torch.no_grad():
        tokens = model.encoder.forward_features((x - model.mean) / model.std)
        maps = model.features(x)
        taken = model.encoder((x - model.mean) / model.std)
    for token, drawn in zip(tokens, maps, strict=True):
        assert drawn.shape == (2, 3 * 192, 2, 8)
        for date, row, column in ((0, 0, 0), (0, 1, 2), (2, 0, 7), (1, 1, 5)):
            ours = drawn[:, date * 192 : (date + 1) * 192, row, column]
            assert torch.equal(ours, token[:, 1 + date * 16 + row * 8 + column])
    assert all(torch.equal(a, maps[i]) for a, i in zip(taken, (0, 2, 3, 5), strict=True))


def test_blocks_are_spread_over_the_depth():
    assert build("prithvi_eo_v2_tiny_tl").encoder.out_indices == [2, 5, 8, 11]
    for depth, taken in ((24, [5, 11, 17, 23]), (32, [7, 15, 23, 31])):
        from geowb.models.prithvi import PrithviEncoder

        assert (
            PrithviEncoder(img_size=16, embed_dim=16, depth=depth, num_heads=1).out_indices == taken
        )


# --- training --------------------------------------------------------------------------------


def test_gradients_reach_the_encoder_unless_it_is_frozen():
    free, frozen = (build("prithvi_demo", freeze_backbone=f) for f in (False, True))
    for model in (free, frozen):
        model.train()(chips(1)).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in free.encoder.parameters())
    assert all(p.grad is None for p in frozen.encoder.parameters())
    assert not any(module.training for module in frozen.encoder.modules())
    assert frozen.network.neck[0].fpn1[0].weight.grad.any()
    dropping = build("prithvi_demo", drop_path=0.3).encoder
    assert dropping.blocks[0].drop_path1.drop_prob == 0.3


# --- coordinates -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["prithvi_demo", "swin_demo", "unet"])
def test_other_models_refuse_coordinates(name):
    with pytest.raises(ModelError, match=f"'{name}' takes no location_coords.*_tl"):
        build(name)(chips(), location_coords=torch.zeros(2, 2))


def test_coordinates_of_other_shapes_are_refused():
    model = build("prithvi_eo_v2_tiny_tl", frames=2).eval()
    message = r"temporal_coords .* are \(2, 2, 2\) for chips \(2, 6, 2, 32, 32\).*\(2, 1, 2\)"
    with pytest.raises(ModelError, match=message):
        model(chips(2), temporal_coords=torch.zeros(2, 1, 2))
    with pytest.raises(ModelError, match=r"location_coords .* are \(2, 2\).*as \(1, 2\)"):
        model.features(chips(2), location_coords=torch.zeros(1, 2))


# --- features of other models ----------------------------------------------------------------


def test_features_of_other_models():
    swin = build("swin_demo").eval()
    shapes = [tuple(f.shape) for f in swin.features(chips(1, 64, 32))]
    assert shapes == [(2, 32, 16, 8), (2, 64, 8, 4), (2, 128, 4, 2), (2, 256, 2, 1)]
    normal = ((chips() - swin.mean) / swin.std)[:, :, 0]
    last = swin.encoder(normal)[-1].permute(0, 3, 1, 2)
    assert torch.equal(swin.features(chips())[-1], last)
    with pytest.raises(ModelError, match="'unet' has no encoder"):
        build("unet").features(chips())


# --- files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["prithvi_demo", "prithvi_eo_v2_tiny_tl"])
def test_a_model_file_needs_nothing_else(tmp_path, name):
    model = build(name, bands=HLS6[:3], frames=2, seed=3, output_mean=10.0).eval()
    file = save(model, tmp_path / "model.safetensors", units="Mg/ha", run="one")
    again, x = load(file), chips(2, 40, 24, bands=3)
    assert torch.equal(again(x), model(x))
    assert check_weights(str(file), model=name) == []
    started = build(name, bands=HLS6[:3], frames=2, weights=str(file)).eval()
    assert torch.equal(started(x), model(x))
    kept = load(save(again, tmp_path / "again" / "model.safetensors")).card
    assert (kept["units"], kept["run"]) == ("Mg/ha", "one")


def test_half_precision_halves_the_file(tmp_path):
    model = build("prithvi_demo", seed=3).eval()
    whole = save(model, tmp_path / "whole" / "model.safetensors")
    half = save(model, tmp_path / "half" / "model.safetensors", dtype="float16")
    assert 0.5 < half.stat().st_size / whole.stat().st_size < 0.53
    again = load(half)
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    assert torch.equal(again.mean, model.mean)
    assert torch.allclose(again(chips()), model(chips()), atol=0.02)
    with pytest.raises(ModelError, match="float32 or float16, not 'int8'"):
        save(model, tmp_path / "model.safetensors", dtype="int8")
    model.encoder.cls_token.data[:] = 1e6
    with pytest.raises(ModelError, match="cls_token has values that float16 cannot hold"):
        save(model, tmp_path / "model.safetensors", dtype="float16")
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("name", ["prithvi_demo", "swin_demo"])
def test_the_encoder_of_a_masked_model_brings_its_statistics(tmp_path, name):
    mean, std = [100.0 * i for i in range(1, 5)], [10.0 * i for i in range(1, 5)]
    donor = build_masked(name, bands=HLS6[1:5], frames=2, mean=mean, std=std, seed=4)
    said = {"trained_on": {"data": "world"}}
    file = save(donor, tmp_path / "model.safetensors", task="masked", **said)
    assert check_weights(str(file), model=name) == []
    bands = ["NIR_NARROW", "GREEN"]
    model = build(name, bands=bands, frames=2, weights=str(file))
    assert model.pretrained
    assert model.origin.startswith("encoder from the masked model model.safetensors, sha256 ")
    assert model.origin.endswith("(random (seed 4))")
    assert (model.card["mean"], model.card["std"]) == ([300.0, 100.0], [30.0, 10.0])
    assert model.mean.flatten().tolist() == [300.0, 100.0]
    own = donor.encoder.state_dict()
    for key, value in model.encoder.state_dict().items():
        stem = key.startswith("patch_embed.proj") and key.endswith(".weight")
        dates = [2, 0] if name.startswith("prithvi") else [4, 5, 0, 1]
        assert key == "pos_embed" or torch.equal(value, own[key][:, dates] if stem else own[key])
    again = load(save(model, tmp_path / "fine" / "model.safetensors"))
    assert torch.equal(again(chips(2, bands=2)), model.eval()(chips(2, bands=2)))
    given = build(name, bands=bands, frames=2, weights=str(file), mean=[1.0, 2.0])
    assert (given.card["mean"], given.card["std"]) == ([1.0, 2.0], [30.0, 10.0])
    with pytest.raises(WeightsMismatch, match=r"knows the bands GREEN, .*; not 'BLUE'"):
        build(name, bands=["BLUE"], frames=2, weights=str(file))


def test_masked_files_of_one_date_and_of_others(tmp_path):
    donor = build_masked("swin_demo", frames=2)
    file = str(save(donor, tmp_path / "model.safetensors"))
    with pytest.raises(WeightsMismatch, match="weights of 2 dates, this model 3"):
        build("swin_demo", frames=3, weights=file)
    assert not build("swin_demo", frames=2, weights=file).pretrained  # it was never trained
    one = build_masked("swin_demo", frames=1)
    file = str(save(one, tmp_path / "one" / "model.safetensors"))
    spread = build("swin_demo", frames=3, weights=file).encoder.patch_embed.projection.weight
    assert torch.allclose(
        spread, one.encoder.patch_embed.projection.weight.repeat_interleave(3, 1) / 3
    )


def test_masked_models_are_loaded_as_such(tmp_path):
    donor = build_masked("prithvi_demo", frames=2, seed=4)
    file = save(donor, tmp_path / "model.safetensors", task="masked", dtype="float16")
    again = load(file)
    assert type(again) is type(donor)
    assert not again.training
    assert again.card["task"] == "masked"
    for key, value in donor.state_dict().items():
        assert torch.allclose(again.state_dict()[key], value, atol=1e-3)
    card = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**card, "name": "swin_demo"}))
    with pytest.raises(WeightsMismatch, match="does not fit"):
        load(file)
    del card["std"]
    (tmp_path / "model.json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match=r"no masked model's: no 'std'"):
        build("prithvi_demo", weights=str(file))
    with pytest.raises(ModelError, match=r"not a model's card: it has no 'std'"):
        load(file)
    (tmp_path / "model.json").write_text("[1]")
    assert "holds a list" in check_weights(str(file), model="prithvi_demo")[0]


# --- what does not fit -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "shape", "model", "message"),
    [
        (
            "patch_embed.proj.weight",
            (128, 6, 4, 4),
            "prithvi_demo",
            r"\(128, 6, 4, 4\), of patches",
        ),
        ("encoder.patch_embed.proj.weight", (192, 6, 1, 16, 16), "prithvi_demo", "not .1, 8, 8"),
        (
            "patch_embed.proj.weight",
            (1024, 6, 1, 16, 16),
            "prithvi_eo_v1_100",
            "1024 wide, not 768",
        ),
        ("patch_embed.proj.weight", (192, 3, 1, 8, 8), "prithvi_demo", "takes 3 bands"),
        ("patch_embed.proj.weight", (32, 6, 1, 8, 8), "swin_demo", r"of patches \(1, 8, 8\), not"),
        ("decoder.patch_embed.proj.weight", (1,), "prithvi_demo", "has no patch_embed tensor"),
    ],
)
def test_checkpoints_of_other_models_are_told_apart(tmp_path, key, shape, model, message):
    file = tmp_path / "a.safetensors"
    save_file({key: torch.zeros(shape)}, file)
    problems = check_weights(str(file), model=model)
    assert len(problems) == 1
    assert re.search(message, problems[0])
    if model != "prithvi_eo_v1_100":
        with pytest.raises(WeightsMismatch, match=message):
            build(model, weights=str(file))


def test_checkpoints_of_another_depth_are_told_apart(tmp_path):
    file = tmp_path / "a.pt"
    torch.save({k: v for k, v in published("prithvi_demo").items() if ".blocks.5" not in k}, file)
    assert "has 5 blocks, not 6" in check_weights(str(file), model="prithvi_demo")[0]
    with pytest.raises(WeightsMismatch, match=r"12 tensors.*missing \(blocks\.5"):
        build("prithvi_demo", weights=str(file))
    torch.save({"patch_embed.proj.weight": torch.zeros(32, 6, 4, 4)}
               | {f"layers.{i}.blocks.{j}.norm1.bias": torch.zeros(1)
                  for i in range(4) for j in range(3)}, file)  # fmt: skip
    assert "has 12 blocks, not 8" in check_weights(str(file), model="swin_demo")[0]


def test_a_band_that_the_weights_do_not_know(tmp_path):
    torch.save(published("prithvi_demo"), tmp_path / "a.pt")
    with pytest.raises(WeightsMismatch, match=r"knows the bands BLUE, .*; not 'RED_EDGE_1'"):
        build("prithvi_demo", bands=["RED", "RED_EDGE_1"], mean=[1.0] * 2, std=[1.0] * 2,
              weights=str(tmp_path / "a.pt"))  # fmt: skip


@pytest.mark.parametrize("wrong", [{"frames": 0}, {"outputs": 0}])
def test_there_is_at_least_one_date_and_one_output(wrong):
    with pytest.raises(ModelError, match="1 or more"):
        build("prithvi_demo", **wrong)


# --- weights that come with geowb, and those of the hub --------------------------------------


def test_pretrained_is_what_comes_with_geowb(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "SHIPPED", tmp_path)
    nothing = "ships no weights for 'prithvi_eo_v1_100', only for: none"
    assert nothing in check_weights("pretrained", model="prithvi_eo_v1_100")[0]
    donor = build_masked("prithvi_demo", seed=4)
    file = save(donor, tmp_path / "prithvi_demo" / "model.safetensors", trained_on={"a": 1})
    assert check_weights("pretrained", model="prithvi_demo") == []
    model = build("prithvi_demo", weights="pretrained")
    assert model.pretrained
    assert "geowb's own prithvi_demo, sha256 " in model.origin
    assert torch.equal(model.encoder.cls_token, donor.encoder.cls_token)
    message = (
        "only for: prithvi_demo. Give a checkpoint file or "
        "hf://ibm-nasa-geospatial/Prithvi-EO-2.0-300M, or leave it empty"
    )
    with pytest.raises(ModelError, match=message):
        build("prithvi_eo_v2_300", weights="pretrained")
    file.with_name("model.json").write_text('{"name": "swin_demo"}')
    assert "holds a 'swin_demo'" in check_weights("pretrained", model="prithvi_demo")[0]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of the hub's files, and no network: `hub(repository)` is the folder of its files."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def repository(name):
        folder = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("abc")
        (folder / "snapshots" / "abc").mkdir(parents=True)
        return folder / "snapshots" / "abc"

    return repository


def test_a_published_repository_needs_no_file_name(hub, monkeypatch):
    found = dataclasses.replace(MODELS["prithvi_demo"], hub="they/Demo/Demo.pt")
    monkeypatch.setattr(registry, "MODELS", {**MODELS, "prithvi_demo": found})
    state = published("prithvi_demo")
    torch.save(state, hub("they/Demo") / "Demo.pt")
    for address in ("hf://they/Demo", "hf://they/Demo/Demo.pt"):
        assert check_weights(address, model="prithvi_demo") == []
        model = build("prithvi_demo", weights=address)
        assert model.origin.startswith(f"encoder from {address}, sha256 ")
        assert torch.equal(model.encoder.cls_token, state["encoder.cls_token"])


def test_a_model_file_on_the_hub_brings_its_card(hub):
    folder = hub("we/demo")
    save(build_masked("prithvi_demo", mean=[5.0] * 6), folder / "model.safetensors")
    assert check_weights("hf://we/demo", model="prithvi_demo") == []
    assert build("prithvi_demo", weights="hf://we/demo").card["mean"] == [5.0] * 6
    assert "holds a 'prithvi_demo'" in check_weights("hf://we/demo", model="swin_demo")[0]
    (folder / "model.json").unlink()
    with pytest.raises(DownloadError, match=r"we/demo/model\.json could not be fetched"):
        build(
            "prithvi_demo", weights="hf://we/demo"
        )  # without a network nobody knows if it has one


def test_what_is_not_here_is_not_fetched_before_anything_starts(hub):
    there = "hf://ibm-nasa-geospatial/Prithvi-EO-2.0-600M"
    assert check_weights(there, model="prithvi_eo_v2_600") == []
    assert "1280 wide" not in check_weights(there, model="prithvi_eo_v1_100")[0]
    assert "of patches (1, 14, 14)" in check_weights(there, model="prithvi_eo_v1_100")[0]
    assert "_enc.scale, for coord" in check_weights(there, model="prithvi_eo_v2_600_tl")[0]
    assert check_weights("hf://some/body", model="prithvi_eo_v2_600") == []
    assert "no hub address" in check_weights("hf://a--b/c..d", model="prithvi_demo")[0]
    with pytest.raises(DownloadError, match=r"hf://some/body/model\.safetensors could not be"):
        build("prithvi_demo", weights="hf://some/body")
