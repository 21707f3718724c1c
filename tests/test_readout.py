"""Decoders, and the linear readout that is solved for."""

import numpy as np
import pytest
import torch
from scenes import scene
from scipy.ndimage import convolve1d
from sklearn.linear_model import Ridge

from geowb import evaluate
from geowb.chips import ChipDataset, cut, split_by_place
from geowb.errors import DataError, ModelError, RequestError, WeightsMismatch
from geowb.models import build, load, save, trainable
from geowb.models.decoders import Smooth, Stack
from geowb.readout import PENALTIES, fit_linear


def images(batch=2, size=32, frames=1, seed=0):
    random = torch.Generator().manual_seed(seed)
    return 3000 * torch.rand(batch, 6, frames, size, size, generator=random)


def parts(size=32, density=0.05, side=192):
    scenes = {"a": scene(side, side, density=density, seed=1)}
    chips = split_by_place(cut(scenes, size), seed=0)
    return {
        name: ChipDataset(scenes, chips[chips["split"] == name], augment=name == "train")
        for name in ("train", "val", "test")
    }


def reader(data, name="swin_demo", **options):
    mean, spread = data["train"].label_statistics()
    scale = {"output_mean": mean, "output_std": spread, "head_dropout": 0.5}
    return build(name, freeze_backbone=True, decoder="linear", seed=3, **scale | options)


# --- decoders -----------------------------------------------------------------------------------


def test_smoothing_is_the_binomial_filter():
    x = torch.rand(2, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    wanted = x.numpy()
    for axis in (2, 3):
        wanted = convolve1d(wanted, [0.25, 0.5, 0.25], axis=axis, mode="nearest")
    np.testing.assert_allclose(Smooth()(x), wanted, rtol=1e-6)


@pytest.mark.parametrize("name", ["swin_demo", "prithvi_demo"])
def test_the_smooth_decoder_leaves_no_grid(name):
    def grid(decoder):
        """Spread of the mean over places that are alike modulo 4, on an image without features."""
        model = build(name, decoder=decoder, seed=5, head_dropout=0.0).eval()
        flat = torch.full((1, 6, 1, 128, 128), 1500.0)
        inner = model(flat).detach()[0, 0, 48:80, 48:80].unfold(0, 4, 4).unfold(1, 4, 4)
        return inner.mean((0, 1)).std().item()

    assert grid("upernet_smooth") < 0.05 * grid("upernet")


def test_smoothing_has_no_parameters():
    plain, smooth = (build("swin_demo", decoder=d, seed=1) for d in ("upernet", "upernet_smooth"))
    assert plain.state_dict().keys() == smooth.state_dict().keys()
    assert not torch.allclose(plain.eval()(images()), smooth.eval()(images()))


def test_no_decoder_named_is_the_public_model_s():
    assert build("swin_demo").card["decoder"] == "upernet"
    assert build("unet").card["decoder"] is None


def test_the_stack_standardises_and_interpolates():
    maps = [torch.rand(3, 2, 8, 8), 5 + 9 * torch.rand(3, 4, 4, 4)]
    stack = Stack([2, 4])
    found = stack(maps)
    assert found.shape == (3, 6, 8, 8)
    assert stack.out_channels == 6
    assert not list(stack.parameters())
    np.testing.assert_allclose(found[:, :2].mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(found[:, :2].std((0, 2, 3), correction=0), 1, atol=1e-3)
    coarse = (maps[1] - maps[1].mean((0, 2, 3), keepdim=True)) / maps[1].std(
        (0, 2, 3), correction=0, keepdim=True
    )
    # Bilinear: an inner value of the finer map is 9, 3, 3 and 1 sixteenths of its neighbours.
    wanted = (9 * coarse[..., 0, 0] + 3 * coarse[..., 0, 1] + 3 * coarse[..., 1, 0]) / 16
    wanted = wanted + coarse[..., 1, 1] / 16
    np.testing.assert_allclose(found[:, 2:, 1, 1], wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "frames", "channels"),
    [("swin_demo", 1, 32 + 64 + 128 + 256), ("prithvi_demo", 2, 4 * 2 * 192)],
)
def test_the_linear_decoder_is_one_layer(name, frames, channels):
    model = build(name, decoder="linear", frames=frames, outputs=3, freeze_backbone=True)
    assert trainable(model) == 3 * (channels + 1)
    assert model.eval()(images(size=33, frames=frames)).shape == (2, 3, 33, 33)


@pytest.mark.parametrize(
    ("name", "decoder", "told"),
    [
        ("unet", "linear", "'unet' has a decoder of its own: leave out decoder='linear'"),
        ("unet_resnet18", "upernet", "has a decoder of its own"),
        ("swin_demo", "linaer", "no decoder 'linaer'. Did you mean 'linear'?"),
    ],
)
def test_decoders_that_are_not_there(name, decoder, told):
    with pytest.raises(ModelError, match=told.replace("?", r"\?")):
        build(name, decoder=decoder)


# --- files --------------------------------------------------------------------------------------


def test_a_file_of_before_has_the_public_model_s_decoder(tmp_path):
    import json

    model = build("swin_demo", seed=1).eval()
    file = save(model, tmp_path / "model.safetensors")
    card = json.loads(file.with_name("model.json").read_text())
    del card["decoder"]
    file.with_name("model.json").write_text(json.dumps(card))
    again = load(file)
    assert again.card["decoder"] == "upernet"
    assert torch.equal(again(images()), model(images()))


@pytest.mark.parametrize("name", ["swin_demo", "prithvi_demo"])
@pytest.mark.parametrize(("theirs", "ours"), [("upernet", "linear"), ("linear", "upernet_smooth")])
def test_another_decoder_takes_the_encoder_of_a_model_file(tmp_path, name, theirs, ours):
    made = build(name, seed=1, decoder=theirs, mean=[1000.0] * 6, output_mean=70.0)
    file = save(made, tmp_path / "model.safetensors", trained_on={"data": "world"})
    model = build(name, seed=2, decoder=ours, weights=str(file))
    for key, value in made.encoder.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[key], value), key
    assert model.origin.startswith("encoder from the model file model.safetensors, sha256 ")
    assert model.pretrained
    assert model.card["mean"] == [1000.0] * 6
    assert model.mean.flatten().tolist() == [1000.0] * 6
    assert model.card["output_mean"] == 0.0  # that scale was another decoder's


def test_a_linear_checkpoint_without_a_card_is_loaded_whole(tmp_path):
    made = build("swin_demo", seed=1, decoder="linear")
    torch.save({"state_dict": {f"model.{k}": v for k, v in made.state_dict().items()}},
               tmp_path / "last.ckpt")  # fmt: skip
    model = build("swin_demo", seed=2, decoder="linear", weights=str(tmp_path / "last.ckpt"))
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in made.state_dict().items())
    taken = build("swin_demo", seed=2, decoder="upernet", weights=str(tmp_path / "last.ckpt"))
    assert torch.equal(taken.encoder.patch_embed.projection.weight,
                       made.encoder.patch_embed.projection.weight)  # fmt: skip


def test_a_filter_is_no_reason_to_leave_a_decoder_behind(tmp_path):
    made = build("swin_demo", seed=1, decoder="upernet")
    file = save(made, tmp_path / "model.safetensors")
    model = build("swin_demo", seed=2, decoder="upernet_smooth", weights=str(file))
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in made.state_dict().items())
    assert model.card["decoder"] == "upernet_smooth"


def test_the_decoder_does_not_change_the_encoder_that_a_seed_draws():
    one, two = (build("swin_demo", seed=4, decoder=d).encoder for d in ("linear", "upernet"))
    assert all(torch.equal(v, two.state_dict()[k]) for k, v in one.state_dict().items())


def test_a_frozen_random_encoder_of_a_model_file_is_not_called_pretrained(tmp_path):
    made = build("swin_demo", seed=1, freeze_backbone=True)
    file = save(made, tmp_path / "model.safetensors", trained_on={"data": "world"})
    assert not build("swin_demo", decoder="linear", weights=str(file)).pretrained


def test_a_model_file_of_other_bands_is_refused_for_its_encoder_too(tmp_path):
    file = save(build("swin_demo", bands=["RED", "BLUE"]), tmp_path / "model.safetensors")
    with pytest.raises(WeightsMismatch, match="knows the bands RED, BLUE; not 'GREEN'"):
        build("swin_demo", decoder="linear", weights=str(file))


# --- the readout --------------------------------------------------------------------------------


def stacked(model, data, views):
    """What a linear layer may see at the labels, by plain interpolation, and the labels."""
    rows, labels = [], []
    for view in range(views):
        for item in data.plain():
            turn = lambda a, v=view: np.rot90(a, v % 4, (-2, -1))[..., :: -1 if v >= 4 else 1]  # noqa: E731
            image, label = (turn(item[key].numpy()).copy() for key in ("image", "label"))
            with torch.no_grad():
                maps = model.features(torch.tensor(image)[None])
            maps = [maps[i] for i in getattr(model.encoder, "out_indices", range(4))]
            fine = [torch.nn.functional.interpolate(m, maps[0].shape[-2:], mode="bilinear")
                    for m in maps]  # fmt: skip
            full = torch.nn.functional.interpolate(torch.cat(fine, 1), label.shape, mode="bilinear")
            rows.append(full[0, :, np.isfinite(label)].T.double().numpy())
            labels.append(label[np.isfinite(label)])
    return np.concatenate(rows), np.concatenate(labels).astype(float)


@pytest.mark.parametrize("name", ["swin_demo", "prithvi_demo"])
def test_it_is_ridge_regression(name):
    data = parts(density=0.1, side=96)
    model = reader(data, name)
    result = fit_linear(model, data["train"], data["val"], penalties=[0.03], progress=False)
    x, y = stacked(model, data["train"], 8)
    spread = np.sqrt(x.var(0) + 1e-5)
    wanted = Ridge(alpha=0.03 * len(x), solver="cholesky").fit((x - x.mean(0)) / spread, y)
    test, _ = stacked(model, data["test"], 1)
    expected = wanted.predict((test - x.mean(0)) / spread)
    found = evaluate.at_labels(result.model, data["test"], accelerator="cpu")["predicted"]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=0.01)
    assert np.std(expected) > 1  # a constant would pass for anything


@pytest.mark.parametrize(
    ("name", "size"), [("swin_demo", 32), ("swin_demo", 30), ("prithvi_demo", 30)]
)
def test_the_validation_error_is_that_of_the_model(name, size):
    data = parts(size)
    model = reader(data, name, non_negative=True)
    result = fit_linear(model, data["train"], data["val"], progress=False)
    pixels = evaluate.at_labels(result.model, data["val"], accelerator="cpu")
    assert result.val_score == pytest.approx(evaluate.rmse(pixels), rel=1e-5)
    assert (pixels["predicted"] >= 0).all()


def test_the_penalty_with_the_least_error_is_taken():
    data = parts()
    result = fit_linear(reader(data), data["train"], data["val"], progress=False)
    table = result.history.set_index("penalty")["val_rmse"]
    assert list(table.index) == list(PENALTIES)
    assert result.penalty == table.idxmin()
    one = [result.penalty]
    alone = fit_linear(reader(data), data["train"], data["val"], penalties=one, progress=False)
    assert alone.val_score == result.val_score == table.min()
    assert table.max() > 1.01 * table.min()


def test_where_values_below_zero_are_cut_the_validation_cuts_them_too():
    data = parts(density=0.05, side=96)  # so few labels that it is far off
    scores = [
        fit_linear(reader(data, non_negative=cut), data["train"], data["val"], progress=False)
        for cut in (False, True)
    ]
    plain, cut = (result.history["val_rmse"][0] for result in scores)
    assert cut < plain


def test_nothing_in_it_is_random_and_the_encoder_stays():
    data = parts()
    model = reader(data)
    before = {k: v.clone() for k, v in model.encoder.state_dict().items()}
    first = fit_linear(model, data["train"], data["val"], progress=False)
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    data["train"].set_epoch(7)  # another draw of turned chips
    again = fit_linear(first.model, data["train"], data["val"], progress=False)
    assert all(torch.equal(v, weights[k]) for k, v in again.model.state_dict().items())
    assert all(torch.equal(v, before[k]) for k, v in again.model.encoder.state_dict().items())
    assert not again.model.training


def test_without_turned_chips_it_is_ridge_regression_on_the_chips_alone():
    data = parts(density=0.1, side=96)
    model, given = reader(data), {"penalties": [0.1], "turned": False, "progress": False}
    found = fit_linear(model, data["train"], data["val"], **given).model
    x, y = stacked(model, data["train"], 1)
    spread = np.sqrt(x.var(0) + 1e-5)
    wanted = Ridge(alpha=0.1 * len(x), solver="cholesky").fit((x - x.mean(0)) / spread, y)
    weights = found.network.head.head[-1].weight.flatten() * found.card["output_std"]
    np.testing.assert_allclose(weights.detach(), wanted.coef_, rtol=0.01, atol=0.02)


def test_dates_of_several_images():
    scenes = {"a": scene(96, 96, dates=2, density=0.2)}
    chips = split_by_place(cut(scenes, 32), seed=0)
    train, val = (ChipDataset(scenes, chips[chips["split"] == s]) for s in ("train", "val"))
    mean, spread = train.label_statistics()
    scale = {"output_mean": mean, "output_std": spread}
    for name in ("swin_demo", "prithvi_demo"):
        model = build(name, frames=2, decoder="linear", freeze_backbone=True, **scale)
        result = fit_linear(model, train, val, progress=False)
        pixels = evaluate.at_labels(result.model, val, accelerator="cpu")
        assert result.val_score == pytest.approx(evaluate.rmse(pixels), rel=1e-5)


def test_its_file_predicts_as_it_does(tmp_path):
    data = parts()
    model = fit_linear(reader(data), data["train"], data["val"], progress=False).model
    again = load(save(model, tmp_path / "model.safetensors"))
    assert torch.equal(again(images()), model(images()))
    assert trainable(again) == 481


def test_requests_that_cannot_be_met():
    data = parts()
    train, val = data["train"], data["val"]
    with pytest.raises(RequestError, match="decoder='upernet', outputs=1"):
        fit_linear(build("swin_demo", freeze_backbone=True), train, val)
    with pytest.raises(RequestError, match="decoder=None"):
        fit_linear(build("unet"), train, val)
    with pytest.raises(RequestError, match="outputs=2"):
        fit_linear(reader(data, outputs=2), train, val)
    with pytest.raises(RequestError, match="freeze_backbone=False"):
        fit_linear(build("swin_demo", decoder="linear"), train, val)
    for penalties in ([], [0.0, 1.0], [np.nan], np.array([np.inf])):
        with pytest.raises(RequestError, match="penalties must be finite and above 0"):
            fit_linear(reader(data), train, val, penalties=penalties)
    with pytest.raises(RequestError, match="batch_size must be at least 1; it is 0"):
        fit_linear(reader(data), train, val, batch_size=0)
    with pytest.raises(RequestError, match="accelerator"):
        fit_linear(reader(data), train, val, accelerator="tpu")
    scenes = {"a": scene(192, 192, density=0.0)}
    with pytest.raises(DataError, match="validation split has no labelled pixel"):
        fit_linear(reader(data), train, ChipDataset(scenes, val.chips))


def test_an_encoder_that_gives_no_numbers_is_named():
    data = parts()
    model = reader(data)
    with torch.no_grad():
        next(model.encoder.parameters()).fill_(torch.inf)
    with pytest.raises(ModelError, match=r"'swin_demo' \(random \(seed 3\)\) returns values that"):
        fit_linear(model, data["train"], data["val"], progress=False)


def test_the_line_has_the_unit(capsys):
    data = parts()
    fit_linear(reader(data), data["train"], data["val"], units="Mg/ha")
    assert "Mg/ha, penalty" in capsys.readouterr().err
