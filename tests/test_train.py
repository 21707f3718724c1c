"""Training: the masked loss, what is learned, resuming, and what it cost."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import scene

from geowb import evaluate
from geowb.chips import ChipDataset, cut, split_by_place
from geowb.errors import DataError, RequestError
from geowb.models import PixelModel, build
from geowb.predict import map_scenes
from geowb.train import Regression, fit, masked_rmse, steps_an_epoch

# --- the loss --------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0.05, 1.0))
def test_loss_is_torchmetrics_rmse_over_all_labelled_pixels(seed, share):
    from torchmetrics.functional import mean_squared_error

    random = torch.Generator().manual_seed(seed)
    prediction, target = torch.rand(2, 4, 8, 8, generator=random).mul(300)
    target[torch.rand(4, 8, 8, generator=random) > share] = torch.nan
    target[0, 0, 0] = 1.0
    known = torch.isfinite(target)
    expected = mean_squared_error(prediction[known], target[known], squared=False)
    assert torch.allclose(masked_rmse(prediction, target), expected)


def test_root_is_taken_once_over_the_batch():
    target = torch.tensor([[0.0, 0.0], [0.0, torch.nan]])
    prediction = torch.tensor([[3.0, 3.0], [6.0, 99.0]])
    assert masked_rmse(prediction, target).item() == pytest.approx(((9 + 9 + 36) / 3) ** 0.5)


def test_gradient_is_finite_where_there_is_no_error_and_zero_where_there_is_no_label():
    for target in (torch.zeros(3), torch.full((3,), torch.nan)):
        prediction = torch.zeros(3, requires_grad=True)
        masked_rmse(prediction, target).backward()
        assert torch.equal(prediction.grad, torch.zeros(3))


# --- fitting ---------------------------------------------------------------------------------


class Linear(torch.nn.Module):
    """One weight a band: enough for the tests' scenes, whose biomass is linear in red."""

    def __init__(self):
        super().__init__()
        self.last = torch.nn.Conv2d(6, 1, 1)
        self.drop = torch.nn.Dropout(0.05)

    def forward(self, x):
        return self.last(self.drop(x))


def linear(seed=0):
    card = {**build("unet").card, "name": "linear", "output_mean": 40.0, "output_std": 40.0}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return PixelModel(Linear(), card)


@pytest.fixture(scope="module")
def parts():
    scenes = {"a": scene(96, 96, seed=1), "b": scene(64, 96, seed=2)}
    chips = split_by_place(cut(scenes, 16), seed=0)
    return scenes, chips, {
        split: ChipDataset(scenes, chips[chips["split"] == split], augment=split == "train")
        for split in ("train", "val", "test")
    }  # fmt: skip


def train(parts, model=None, **options):
    options = {"epochs": 12, "learning_rate": 0.05, "batch_size": 8, "progress": False, **options}
    return fit(model or linear(), parts["train"], parts["val"], accelerator="cpu", **options)


def test_training_learns_a_linear_relation(parts):
    scenes, _, data = parts
    result = train(data)
    pixels = evaluate.at_labels(result.model, data["test"])
    spread = pixels["observed"].std()
    assert evaluate.rmse(pixels) < 0.3 * spread
    assert len(result.history) == 12
    assert result.val_score == result.history["val_rmse"].min()
    assert not result.model.training
    maps = map_scenes(result.model, scenes, tile=16)
    dense = np.sqrt(float(((maps["a"] - scenes["a"].agb_dense) ** 2).mean()))
    assert dense < 0.3 * spread


def test_validation_score_is_that_of_the_returned_weights(parts):
    _, _, data = parts
    result = train(data, learning_rate=0.5)
    pixels = evaluate.at_labels(result.model, data["val"])
    assert evaluate.rmse(pixels) == pytest.approx(result.val_score, rel=1e-4)


def test_the_last_epoch_is_kept_where_it_is_asked_for(parts):
    _, _, data = parts
    last = train(data, epochs=6, learning_rate=0.5, keep="last")
    best = train(data, epochs=6, learning_rate=0.5)
    assert last.history.equals(best.history)
    assert last.kept_epoch == 5
    assert last.val_score == last.history["val_rmse"].iloc[-1] > best.val_score
    pixels = evaluate.at_labels(last.model, data["val"])
    assert evaluate.rmse(pixels) == pytest.approx(last.val_score, rel=1e-4)
    with pytest.raises(RequestError, match="keep is 'first'"):
        train(data, keep="first")


def test_same_seed_same_result_other_seed_another(parts):
    _, _, data = parts
    one, two, other = (train(data, epochs=2, seed=s).history for s in (3, 3, 4))
    assert one.equals(two)
    assert not one.equals(other)


def cut_off(data, epochs, folder, monkeypatch, **options):
    """Train until a power cut early in the last epoch."""
    step = Regression.training_step
    steps = -(-len(data["train"].labelled_only()) // 8)
    calls = []

    def training_step(self, *arguments):
        calls.append(1)
        if len(calls) > (epochs - 1) * steps + 1:
            raise RuntimeError("power cut")
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Regression, "training_step", training_step)
        with pytest.raises(RuntimeError, match="power cut"):
            train(data, epochs=epochs, checkpoints=folder, **options)


@pytest.mark.parametrize("rate", [0.05, 5.0], ids=["best last", "best early"])
def test_resuming_gives_what_an_undisturbed_training_gives(parts, tmp_path, monkeypatch, rate):
    _, _, data = parts
    whole = train(data, epochs=4, learning_rate=rate)
    cut_off(data, 4, tmp_path, monkeypatch, learning_rate=rate)
    rest = train(data, epochs=4, learning_rate=rate, resume=tmp_path / "last.ckpt")
    pd.testing.assert_frame_equal(rest.history, whole.history, rtol=1e-6)
    assert rest.kept_epoch == whole.kept_epoch
    for a, b in zip(rest.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-6)
    # The same again: all is done, nothing is trained, the result is the same.
    again = train(data, epochs=4, learning_rate=rate, resume=tmp_path / "last.ckpt")
    pd.testing.assert_frame_equal(again.history, whole.history, rtol=1e-6)
    with pytest.raises(RequestError, match="another training"):
        train(data, epochs=9, learning_rate=rate, resume=tmp_path / "last.ckpt")


def test_what_was_best_is_found_where_its_folder_is_now(parts, tmp_path, monkeypatch):
    _, _, data = parts
    rate = {"learning_rate": 5.0}  # the first epochs are the best
    whole = train(data, epochs=4, **rate)
    cut_off(data, 4, tmp_path / "a", monkeypatch, **rate)
    (tmp_path / "a").rename(tmp_path / "b")
    rest = train(data, epochs=4, resume=tmp_path / "b" / "last.ckpt", **rate)
    assert rest.kept_epoch == whole.kept_epoch < 3
    for a, b in zip(rest.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-6)
    assert not (tmp_path / "a").exists()
    last = tmp_path / "b" / "last.ckpt"
    with pytest.raises(RequestError, match="goes on in its own folder"):
        train(data, epochs=4, resume=last, checkpoints=tmp_path / "c", **rate)


@pytest.mark.parametrize("left", [1, 2])
def test_a_last_batch_of_one_chip_does_no_harm(parts, left):
    scenes, chips, data = parts
    labelled = chips[(chips["split"] == "train") & (chips["labelled"] > 0)]
    some = ChipDataset(scenes, labelled.iloc[: 8 + left])
    result = train({**data, "train": some}, build("swin_demo", freeze_backbone=True), epochs=1)
    assert np.isfinite(result.val_score)
    with pytest.raises(DataError, match="single training chip"):
        train({**data, "train": ChipDataset(scenes, labelled.iloc[:1])}, epochs=1)


def test_a_training_that_diverges_loses_every_comparison(parts):
    _, _, data = parts
    result = train(data, epochs=2)
    result.history["val_rmse"] = [np.nan, 5.0]
    assert (result.val_score, result.kept_epoch) == (5.0, 1)
    result.history["val_rmse"] = np.nan
    assert result.val_score == np.inf


def test_progress_outside_a_notebook_is_a_line_an_epoch_on_standard_error(parts, capsys):
    _, _, data = parts
    train(data, epochs=2, progress=True, units="Mg/ha")
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("epoch")]
    assert out == ""
    assert len(lines) == 2
    assert "2/2 [####################]" in lines[1]
    assert "Mg/ha" in lines[1]


def test_early_stopping(parts):
    _, _, data = parts
    frozen = linear()
    frozen.requires_grad_(False)
    frozen.network.last.bias.requires_grad_(True)
    result = train(data, frozen, epochs=50, learning_rate=1e-12, patience=2)
    assert len(result.history) < 50


def test_without_validation_the_weights_are_those_of_the_last_epoch(parts, capfd):
    _, _, data = parts
    alone = fit(linear(), data["train"], None, epochs=3, learning_rate=0.05, batch_size=8,
                accelerator="cpu")  # fmt: skip
    assert alone.history["val_rmse"].isna().all()
    assert alone.history["train_rmse"].notna().all()
    assert alone.val_score == np.inf  # it wins no comparison
    beside = train(data, epochs=3)
    # Validation that never gets better than in the last epoch keeps the same weights.
    assert beside.kept_epoch == 2
    for ours, theirs in zip(alone.model.parameters(), beside.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    told = capfd.readouterr().err
    assert "nan" not in told
    assert "val_dataloader" not in told


def test_a_model_that_was_trained_before_learns_again(parts):
    _, _, data = parts
    first = train(data, epochs=2).model
    assert not first.training
    seen = []
    first.network.drop.register_forward_hook(lambda module, *_: seen.append(module.training))
    train(data, first, epochs=1)
    assert seen[0]  # with dropout


@pytest.mark.parametrize(("chips", "batch"), [(5, 8), (8, 8), (9, 8), (16, 8), (17, 4), (6, 3)])
def test_steps_of_an_epoch_are_counted_as_they_are_made(parts, monkeypatch, chips, batch):
    _, _, data = parts
    some = ChipDataset(parts[0], data["train"].labelled_only().chips.head(chips))
    assert len(some) == chips
    made = []
    step = Regression.training_step
    monkeypatch.setattr(
        Regression, "training_step", lambda self, *a: (made.append(1), step(self, *a))[1]
    )
    fit(linear(), some, None, epochs=1, batch_size=batch, accelerator="cpu", progress=False)
    assert len(made) == steps_an_epoch(some, batch)


def test_the_rate_falls_on_a_plateau(parts, monkeypatch):
    _, _, data = parts
    frozen = linear()
    frozen.requires_grad_(False)
    frozen.network.last.bias.requires_grad_(True)
    rates = []
    ends = Regression.on_train_epoch_start

    def starts(self):
        rates.append(self.optimizers().param_groups[0]["lr"])
        ends(self)

    monkeypatch.setattr(Regression, "on_train_epoch_start", starts)
    train(data, frozen, epochs=30, learning_rate=1e-12, schedule="plateau")
    assert rates[:11] == [1e-12] * 11
    assert min(rates) == pytest.approx(1e-13, rel=1e-6) or min(rates) < 1e-13
    for wrong in ({"schedule": "plateau"}, {"patience": 3}):
        with pytest.raises(RequestError, match="need validation chips"):
            fit(linear(), data["train"], None, epochs=1, **wrong)
    with pytest.raises(RequestError, match="schedule is 'cosine'"):
        train(data, schedule="cosine")


def test_frozen_encoder_comes_out_unchanged_and_is_not_in_checkpoints(parts, tmp_path):
    _, _, data = parts
    model = build("swin_demo", freeze_backbone=True, output_mean=40, output_std=40)
    before = {k: v.clone() for k, v in model.encoder.state_dict().items()}
    result = train(data, model, epochs=2, learning_rate=1e-2, checkpoints=tmp_path)
    assert all(torch.equal(v, before[k]) for k, v in result.model.encoder.state_dict().items())
    held = torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"]
    assert not any(k.endswith("attn.w_msa.qkv.weight") for k in held)
    assert any("decoder" in k for k in held)


def test_peak_memory_is_at_least_what_the_optimiser_must_hold(parts):
    _, _, data = parts
    result = train(data, build("unet"), epochs=1)
    weights = 7_763_905 * 4 / 1e6
    # Weights, gradients and AdamW's two moments; then activations on top.
    assert 4 * weights < result.peak_memory_mb < 20 * weights
    frozen = train(data, build("swin_demo", freeze_backbone=True), epochs=1)
    assert frozen.peak_memory_mb < result.peak_memory_mb / 2


def test_splits_without_labels_are_an_error_before_anything_is_trained(parts):
    scenes, chips, data = parts
    bare = {name: one.assign(agb=one.agb * np.nan) for name, one in scenes.items()}
    empty = ChipDataset(bare, chips)
    with pytest.raises(DataError, match="training split has no labelled pixel"):
        fit(linear(), empty, data["val"], epochs=1)
    with pytest.raises(DataError, match="validation split has no labelled pixel"):
        fit(linear(), data["train"], empty, epochs=1)
    with pytest.raises(RequestError, match=r"epochs \(0\)"):
        fit(linear(), data["train"], data["val"], epochs=0)
    with pytest.raises(RequestError, match="precision is 'bf16-true'"):
        fit(linear(), data["train"], data["val"], epochs=1, precision="bf16-true")
    if not torch.cuda.is_available():
        with pytest.raises(RequestError, match="finds no GPU"):
            fit(linear(), data["train"], data["val"], epochs=1, accelerator="gpu")
    with pytest.raises(RequestError, match="no checkpoint"):
        fit(linear(), data["train"], data["val"], epochs=1, resume="nowhere.ckpt")


def test_batches_without_labels_are_harmless(parts):
    scenes, chips, data = parts
    few = {name: one.copy(deep=True) for name, one in scenes.items()}
    few["b"]["agb"][:] = np.nan
    val = ChipDataset(few, chips[chips["split"] == "val"].sort_values("scene"))
    result = train({**data, "val": val}, epochs=2, batch_size=2)
    assert np.isfinite(result.history.to_numpy()).all()


# --- tables and maps -------------------------------------------------------------------------


def test_bins_are_half_open_and_pooled():
    pixels = pd.DataFrame({"observed": [0.0, 99.9, 100.0, 400.0]})
    pixels["predicted"] = pixels["observed"] + [1.0, 3.0, 10.0, 20.0]
    table = evaluate.rmse_by_bin(pixels)
    assert table["pixels"].to_dict() == {
        "0-100": 2, "100-200": 1, "200-300": 0, "0-300": 3, "300+": 1, "all": 4
    }  # fmt: skip
    assert table["rmse"]["0-100"] == pytest.approx(5**0.5)
    assert table["rmse"]["100-200"] == 10
    assert np.isnan(table["rmse"]["200-300"])
    assert table["rmse"]["all"] == pytest.approx((510 / 4) ** 0.5)
    broken = table.loc[["0-100", "100-200", "200-300", "all"]]
    broken = broken.assign(rmse=[np.nan, 1.0, np.nan, np.inf])
    assert evaluate.as_text(broken)["rmse"].tolist() == [
        "not finite", "1.0", "no pixels", "not finite",
    ]  # fmt: skip
    text = evaluate.as_text(table)
    assert text["rmse"].tolist() == ["2.2", "10.0", "no pixels", "6.1", "20.0", "11.3"]
    assert text["pixels"].tolist() == [2, 1, 0, 3, 1, 4]
    with pytest.raises(DataError, match="no-label"):
        evaluate.rmse_by_bin(pixels - 500)


class Red(torch.nn.Module):
    """Predicts the red band, so that a map can be compared with its scene."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return x[:, 2]


def test_labelled_pixels_are_found_where_they_lie():
    one = scene(50, 70)
    data = ChipDataset({"a": one}, cut({"a": one}, 32), augment=True)
    pixels = evaluate.at_labels(Red(), data)
    assert data.augment
    rows, cols = pixels["row"].to_numpy(), pixels["col"].to_numpy()
    assert len(pixels) == int(one.agb.notnull().sum())
    assert np.array_equal(pixels["observed"], one.agb.values[rows, cols])
    assert np.array_equal(pixels["predicted"], one.reflectance.values[0, 2][rows, cols])
