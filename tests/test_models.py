"""Models: parameter counts, shapes, normalisation, freezing, weights, files."""

import itertools
import json
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from geowb.bands import HLS6
from geowb.errors import ModelError, WeightsMismatch
from geowb.models import build, check_weights, load, save, trainable
from geowb.models.cgan import cgan_card
from geowb.models.checks import check_accelerator, check_chip_size
from geowb.models.registry import tensor_shapes
from geowb.models.weights import read_checkpoint

SMALL = {"seed": 1}


def chips(batch=2, size=32, bands=6, frames=1, seed=0):
    random = torch.Generator().manual_seed(seed)
    return 3000 * torch.rand(batch, bands, frames, size, size, generator=random)


def parameters_of_unet(widths, bands, outputs):
    """Closed form: 3x3 convolutions without bias, two batch-norm values a channel."""
    pairs = lambda a, b: 9 * a * b + 2 * b + 9 * b * b + 2 * b  # noqa: E731
    down = sum(map(pairs, (bands, *widths[:-1]), widths))
    up = sum(4 * b * a + a + pairs(2 * a, a) for a, b in itertools.pairwise(widths))
    return down + up + widths[0] * outputs + outputs


def test_trained_parameters_are_the_papers():
    assert trainable(build("prithvi_swin_B", freeze_backbone=True)) == 630_945
    assert trainable(build("unet")) == 7_763_905
    assert parameters_of_unet((32, 64, 128, 256, 512), 6, 1) == 7_763_905


@pytest.mark.parametrize("name", ["swin_demo", "unet", "unet_resnet18"])
@pytest.mark.parametrize("size", [1, 33, 64])
def test_output_has_the_size_of_the_input(name, size):
    model = build(name, outputs=2).eval()
    assert model(chips(size=size)).shape == (2, 2, size, size)


@pytest.mark.parametrize("name", ["swin_demo", "unet"])
def test_several_dates_and_other_bands(name):
    bands = ["NIR_NARROW", "RED"]
    model = build(name, bands=bands, frames=3).eval()
    assert model(chips(bands=2, frames=3)).shape == (2, 1, 32, 32)
    assert model.mean.flatten().tolist() == pytest.approx([2665.5352, 1020.9082])
    with pytest.raises(ModelError, match=r"2 bands, 3 dates.*\(2, 6, 1, 32, 32\)"):
        model(chips())


def test_normalisation_is_inside_and_no_data_is_the_mean():
    model = build("unet").eval()
    mean = model.mean.expand(1, 6, 1, 32, 32)
    empty = torch.full((1, 6, 1, 32, 32), float("nan"))
    assert torch.equal(model(empty), model(mean))
    other = build("unet", mean=[0.0] * 6, std=[1.0] * 6).eval()
    x = chips()
    assert torch.allclose(other((x - model.mean) / model.std), model(x), atol=1e-5)


def test_output_scale_and_sign():
    x = chips()
    plain = build("unet").eval()(x)
    scaled = build("unet", output_mean=50, output_std=100).eval()(x)
    assert torch.allclose(scaled, 100 * plain + 50, atol=1e-3)
    assert build("unet", output_mean=-1e6, non_negative=True).eval()(x).max() == 0


def test_a_frozen_encoder_stays_as_it_is_through_training():
    model = build("swin_demo", freeze_backbone=True, drop_path=0.3).train()
    assert not any(m.training for m in model.encoder.modules())
    assert model.network.decoder.training
    before = {k: v.clone() for k, v in model.encoder.state_dict().items()}
    free = [p for p in model.parameters() if p.requires_grad]
    model(chips()).sum().backward()
    torch.optim.SGD(free, 0.1).step()
    assert all(torch.equal(v, before[k]) for k, v in model.encoder.state_dict().items())
    with pytest.raises(ModelError, match="no encoder"):
        build("unet", freeze_backbone=True)


def test_weights_are_drawn_from_the_seed_and_leave_the_callers_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, two, other = build("unet"), build("unet"), build("unet", seed=1)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(one.network.head.weight, two.network.head.weight)
    assert not torch.equal(one.network.head.weight, other.network.head.weight)
    assert one.origin == "random (seed 0)"
    assert not one.pretrained


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "unett"}, "Did you mean 'unet'"),
        ({"name": "unet", "bands": ["RED", "NIR"]}, "band 'NIR'"),
        ({"name": "unet", "mean": [1.0], "std": [1.0]}, "6 bands need as many"),
        ({"name": "unet", "std": [0.0] * 6, "mean": [0.0] * 6}, "positive"),
        ({"name": "unet", "output_std": 0.0}, "output_std positive"),
        ({"name": "unet", "output_mean": float("nan")}, "output_mean must be finite"),
        ({"name": "unet", "weights": "nowhere.pt"}, "no weights file"),
    ],
)
def test_wrong_builds_are_refused(arguments, message):
    with pytest.raises(ModelError, match=message):
        build(**arguments)


# --- files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["swin_demo", "unet"])
def test_a_model_file_needs_nothing_else(tmp_path, name):
    model = build(name, seed=3, output_mean=10.0, bands=HLS6[::-1]).eval()
    file = save(model, tmp_path / "model.safetensors", units="Mg/ha", trained_on={"data": "world"})
    again = load(file)
    assert torch.equal(again(chips()), model(chips()))
    assert not again.training
    assert again.card["units"] == "Mg/ha"
    assert again.card["trained_on"] == {"data": "world"}
    assert again.origin == model.origin
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.json", "model.safetensors"]
    assert torch.equal(load(tmp_path)(chips()), model(chips()))


def test_what_cannot_be_written_is_not_begun(tmp_path):
    with pytest.raises(TypeError):
        save(build("unet"), tmp_path / "model.safetensors", trained_on={"a": torch.zeros(1)})
    assert list(tmp_path.iterdir()) == []


def test_broken_model_files_are_explained(tmp_path):
    file = save(build("unet"), tmp_path / "model.safetensors")
    card = json.loads((tmp_path / "model.json").read_text())

    (tmp_path / "model.json").write_text(json.dumps({**card, "name": "swin_demo"}))
    with pytest.raises(WeightsMismatch, match=r"missing.*not the model's"):
        load(file)
    (tmp_path / "model.json").write_text(json.dumps({**card, "name": "vgg"}))
    with pytest.raises(ModelError, match="'vgg'"):
        load(file)
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(ModelError, match="not a model's card"):
        load(file)
    (tmp_path / "model.json").write_text(json.dumps(card))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ModelError, match="not a safetensors file"):
        load(file)
    (tmp_path / "model.json").unlink()
    with pytest.raises(ModelError, match=r"model\.json"):
        load(file)
    with pytest.raises(ModelError, match=r"called model\.safetensors"):
        save(build("unet"), tmp_path / "unet.pt")


# --- weights ---------------------------------------------------------------------------------


def reference_swin():
    """timm's own Swin, of the shape of swin_demo."""
    from timm.models.swin_transformer import SwinTransformer

    torch.manual_seed(0)
    options = {"embed_dim": 32, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8)}
    return SwinTransformer(img_size=448, in_chans=6, num_classes=0, **options).eval()


def as_simmim(state):
    """Rename as SimMIM does: downsampling closes a stage, where timm's opens the next."""
    move = lambda m: f"layers.{int(m[1]) - 1}.downsample"  # noqa: E731
    state = {re.sub(r"layers\.(\d)\.downsample", move, k): v for k, v in state.items()}
    state = {f"encoder.{k}": v for k, v in state.items()}
    extra = {
        "encoder.mask_token": torch.zeros(1, 1, 32),
        "encoder.layers.0.blocks.1.attn_mask": torch.zeros(4, 49, 49),
        "decoder.0.weight": torch.ones(2),
    }
    return {**state, **extra}


def test_building_leaves_the_precision_of_matrix_products_alone():
    code = (
        "import torch, geowb; geowb.models.build('swin_demo');"
        "assert torch.get_float32_matmul_precision() == 'highest'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_pretrained_swin_gives_the_features_of_another_implementation(tmp_path):
    reference = reference_swin()
    file = tmp_path / "simmim.pt"
    torch.save({"model": as_simmim(reference.state_dict())}, file)
    model = build("swin_demo", weights=str(file)).eval()
    assert model.pretrained
    assert re.fullmatch(r"encoder from simmim\.pt, sha256 [0-9a-f]{16}", model.origin)

    x = torch.randn(1, 6, 448, 448, generator=torch.Generator().manual_seed(0))
    ours = [layer.detach().permute(0, 3, 1, 2) for layer in model.encoder(x)]
    theirs = reference.forward_intermediates(x, intermediates_only=True)
    for a, b in zip(ours, theirs, strict=True):
        # TerraTorch closes each stage with a LayerNorm of its own, at its initial values here. On
        # 448 pixels the last stage is 14 x 14: at 7 x 7 the original does not shift its one window.
        norm = torch.nn.functional.layer_norm(b.permute(0, 2, 3, 1), b.shape[1:2])
        assert torch.allclose(a, norm.permute(0, 3, 1, 2), atol=1e-4)


@pytest.mark.parametrize("prefix", ["", "module.", "model.encoder._timm_module."])
def test_encoder_weights_are_found_under_the_names_of_their_wrappers(tmp_path, prefix):
    donor = build("swin_demo", seed=7)
    state = {k.removeprefix("_timm_module."): v for k, v in donor.encoder.state_dict().items()}
    named = {prefix + k.replace("stages_", "stages."): v for k, v in state.items()}
    named["model.head.weight"] = torch.zeros(1)
    file = tmp_path / "encoder.safetensors"
    save_file({k: v.contiguous() for k, v in named.items()}, file)
    model = build("swin_demo", weights=str(file), seed=1)
    for a, b in zip(model.encoder.parameters(), donor.encoder.parameters(), strict=True):
        assert torch.equal(a, b)


def test_bands_are_picked_by_name(tmp_path):
    donor = build("swin_demo", seed=7)
    file = save(donor, tmp_path / "model.safetensors")
    state = {k.removeprefix("network."): v for k, v in read_checkpoint(file).items()}
    plain = tmp_path / "encoder.safetensors"
    save_file({k: v for k, v in state.items() if k.startswith("encoder.")}, plain)
    model = build("swin_demo", bands=["RED", "BLUE"], weights=str(plain))

    def pick(m):
        return m.encoder.state_dict()["patch_embed.projection.weight"]

    assert torch.equal(pick(model), pick(donor)[:, [2, 0]])


def test_a_whole_model_file_brings_its_normalisation_and_scale(tmp_path):
    donor = build("unet", seed=7, output_mean=40, output_std=30, mean=[1.0] * 6, std=[2e3] * 6)
    file = save(donor, tmp_path / "model.safetensors", trained_on={"data": "world"})
    model = build("unet", weights=str(file))
    assert model.pretrained
    assert "started from: random (seed 7)" in model.origin
    assert torch.equal(model.eval()(chips()), donor.eval()(chips()))
    again = load(save(model, tmp_path / "again" / "model.safetensors"))
    assert torch.equal(again(chips()), donor(chips()))
    assert again.pretrained


def test_a_random_encoder_stays_random_through_files(tmp_path):
    donor = build("swin_demo", freeze_backbone=True, seed=5)
    file = save(donor, tmp_path / "model.safetensors", trained_on={"data": "world"})
    model = build("swin_demo", freeze_backbone=True, weights=str(file))
    assert not model.pretrained
    assert "random (seed 5)" in model.origin
    untrained = save(build("unet"), tmp_path / "unet" / "model.safetensors")
    assert not build("unet", weights=str(untrained)).pretrained


def test_a_model_file_of_other_bands_is_refused(tmp_path):
    file = save(build("unet"), tmp_path / "model.safetensors")
    with pytest.raises(WeightsMismatch, match="built with bands"):
        build("unet", bands=HLS6[::-1], weights=str(file))


def test_mixed_precision_does_not_coarsen_the_scale_of_the_output():
    model = build("unet", output_mean=150.0, output_std=80.0).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = model(1000 + 500 * torch.rand(1, 6, 1, 64, 64))
    assert found.dtype == torch.float32
    assert (found != found.to(torch.bfloat16)).any()


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_a_gpu_that_is_not_here_is_told(kind, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: kind != "cuda")
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: kind != "mps")
    assert "finds no such GPU" in check_accelerator(kind)[0]
    assert check_accelerator("gpu") == check_accelerator("auto") == []


def test_chips_of_models_without_patches_are_of_any_size():
    for model in ("unet", "swin_demo"):
        assert check_chip_size(60, model=model) == []
    arms = {"model": "prithvi_demo", "arms": ["prithvi", "cgan"]}
    assert "for the arm 'cgan'" in check_chip_size(40, **arms)[0]
    assert check_chip_size(40, **arms, task="flood") == check_chip_size(64, **arms) == []


@pytest.mark.parametrize("size", range(16, 104, 8))
def test_chips_that_a_gan_refuses_are_refused_before_a_run(size):
    told = check_chip_size(size, model="prithvi_demo", arms=["cgan"])
    with pytest.raises(ModelError) if told else nullcontext():
        cgan_card(size=size)


def test_misfits_name_keys_and_shapes(tmp_path):
    donor = build("swin_demo")
    state = {k: v for k, v in donor.encoder.state_dict().items() if "stages_2.blocks.1" not in k}
    key = "stages_0.blocks.0.attn.w_msa.qkv.weight"
    state[key] = torch.zeros(5, 7)
    state["extra.weight"] = torch.zeros(1)
    file = tmp_path / "encoder.safetensors"
    save_file({k: v.contiguous() for k, v in state.items()}, file)
    with pytest.raises(WeightsMismatch) as raised:
        build("swin_demo", weights=str(file))
    text = str(raised.value)
    assert "stages_2.blocks.1" in text
    assert "extra.weight" in text
    assert "(5, 7) where the model has (96, 32)" in text


def test_a_checkpoint_cannot_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"state_dict": {"a": Evil()}}, tmp_path / "evil.ckpt")
    with pytest.raises(ModelError, match="tensors alone"):
        read_checkpoint(tmp_path / "evil.ckpt")
    assert not (tmp_path / "ran").exists()


def test_headers_tell_what_does_not_fit(tmp_path):
    unet = save(build("unet"), tmp_path / "unet" / "model.safetensors")
    demo = save(build("swin_demo"), tmp_path / "demo" / "model.safetensors")
    assert check_weights("", model="swin_demo") == []
    assert check_weights(str(demo), model="swin_demo") == []
    assert "holds a 'unet', not a 'swin_demo'" in check_weights(str(unet), model="swin_demo")[0]

    bare = tmp_path / "bare.safetensors"
    save_file({"patch_embed.projection.weight": torch.zeros(32, 6, 4, 4)}, bare)
    assert check_weights(str(bare), model="swin_demo") == []
    assert "32 wide, not 128" in check_weights(str(bare), model="prithvi_swin_B")[0]
    assert "not a model file of 'unet'" in check_weights(str(bare), model="unet")[0]

    rgb = {"patch_embed.proj.weight": torch.zeros(128, 3, 4, 4)}
    save_file(rgb, tmp_path / "rgb.safetensors")
    assert (
        "takes 3 bands"
        in check_weights(str(tmp_path / "rgb.safetensors"), model="prithvi_swin_B")[0]
    )
    torch.save({"state_dict": {"encoder.patch_embed.proj.weight": torch.zeros(128, 6, 4, 4)}},
               tmp_path / "simmim.ckpt")  # fmt: skip
    assert check_weights(str(tmp_path / "simmim.ckpt"), model="prithvi_swin_B") == []
    (tmp_path / "text.safetensors").write_text("hello, this is not a checkpoint")
    assert "cut off" in check_weights(str(tmp_path / "text.safetensors"), model="unet")[0]
    (tmp_path / "text.pt").write_text("hello")
    assert "cannot be read" in check_weights(str(tmp_path / "text.pt"), model="unet")[0]
    assert "no weights file" in check_weights(str(tmp_path / "none.pt"), model="unet")[0]
    assert "hub address" in check_weights("hf://nobody", model="unet")[0]
    assert check_weights("hf://ibm-granite/geo/biomass.ckpt", model="prithvi_swin_B") == []


@settings(max_examples=20, deadline=None)
@given(shapes=st.dictionaries(st.text("ab.", min_size=1, max_size=6),
                              st.lists(st.integers(0, 4), max_size=3), max_size=4))  # fmt: skip
def test_safetensors_headers_are_read_without_torch(tmp_path_factory, shapes):
    file = tmp_path_factory.mktemp("header") / "a.safetensors"
    save_file({k: torch.zeros(v) for k, v in shapes.items()}, file)
    assert tensor_shapes(file) == {k: tuple(v) for k, v in shapes.items()}
