"""Masked models and their training."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from geowb.cli import _terminated
from geowb.errors import DataError, ModelError, RequestError, WeightsMismatch
from geowb.models import build, load
from geowb.models.masked import build_masked, masked_card
from geowb.models.wrapper import terratorch
from geowb.pretrain import ChipArchive, ChipStream, Recipe, Sampling, pretrain, recipe, views
from geowb.pretrain.folder import claim, command, newest_checkpoint
from geowb.pretrain.training import model_for, optimizer_of, training_step

CATALOG = """\
meta: {name: tiny}
tiny:
  description: Small worlds
  placeholders: {region: [cerrado, amazonia]}
  driver: {name: world, options: {region: "{region}", size: 96, dates: 4, every: 80}}
  metadata: {category: embedded, source_license: Apache-2.0}
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A recipe of seconds: chips of 32 pixels and two dates from worlds of 96."""
    file = tmp_path_factory.mktemp("catalog") / "catalog.yaml"
    file.write_text(CATALOG)
    chips = Sampling("tiny", str(file), seeds=(0, 1), size=32, frames=2, count=24, min_clear=0.5)
    return Recipe(
        "prithvi_demo",
        chips,
        replace(chips, seeds=(7,), count=4),
        steps=12,
        batch_size=8,
        fewer_dates=0.5,
        seed=3,
    )


@pytest.fixture(scope="module")
def whole(tiny: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a pretraining that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "prithvi"
    assert pretrain(tiny, folder, workers=1, progress=False).done
    return folder


@pytest.fixture
def begin(whole: Path) -> Callable[[Recipe, Path], Path]:
    """Make the folder of a pretraining that was cut off when it had its chips, those of `tiny`."""

    def begun(chosen: Recipe, folder: Path) -> Path:
        claim(folder, chosen)
        for name in ("chips.zarr", "held_out.zarr") if chosen.held_out else ("chips.zarr",):
            shutil.copytree(whole / name, folder / name)
        return folder

    return begun


def curve(folder: Path) -> np.ndarray:
    return np.genfromtxt(folder / "loss.csv", delimiter=",", names=True)


def losses(folder: Path) -> np.ndarray:
    return curve(folder)["loss"]


# --- masked models ----------------------------------------------------------------------------


def test_loss_and_prediction_are_those_of_terratorch() -> None:
    terratorch()  # by itself its import lowers the precision of all that follows in this process
    from terratorch.models.backbones.prithvi_mae import PrithviMAE

    model = build_masked("prithvi_demo", frames=3, mean=[0.0] * 6, std=[1.0] * 6).eval()
    theirs = PrithviMAE(
        img_size=64, patch_size=(1, 8, 8), num_frames=3, in_chans=6, embed_dim=192, depth=6,
        num_heads=6, decoder_embed_dim=96, decoder_depth=2, decoder_num_heads=6,
    ).eval()  # fmt: skip
    state = {k: v for k, v in model.state_dict().items() if k.startswith(("encoder.", "decoder."))}
    theirs.load_state_dict(state)
    x, noise = torch.randn(2, 6, 3, 64, 64), torch.rand(2, 3 * 64)
    masking = theirs.encoder.random_masking
    theirs.encoder.random_masking = lambda tokens, ratio: masking(tokens, ratio, noise)
    with torch.no_grad():
        loss, prediction, mask = theirs(x, mask_ratio=0.75)
        ours = model(x, noise, 0.75)
    torch.testing.assert_close(ours.prediction, prediction, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.loss, loss["loss"], atol=1e-5, rtol=1e-5)
    assert torch.equal(ours.hidden[:, 0], mask.bool())


@pytest.mark.parametrize(
    ("name", "frames"), [("prithvi_demo", 3), ("prithvi_demo", 1), ("swin_demo", 1)]
)
def test_what_is_hidden_is_not_seen(name: str, frames: int) -> None:
    model = build_masked(name, frames=frames, mask_ratio=0.6).eval()
    x = 1000 + 500 * torch.randn(2, 6, frames, 64, 64)
    noise = torch.rand(2, frames * (64 // model.unit) ** 2)
    with torch.no_grad():
        first = model(x, noise)
        other = torch.where(first.hidden, 9000.0, x)
        torch.testing.assert_close(model(other, noise).prediction, first.prediction)
        shown = torch.where(first.hidden, x, 9000.0)
        assert not torch.allclose(model(shown, noise).prediction, first.prediction)
    share = first.hidden.float().mean().item()
    assert 0.6 <= share < 0.66


def test_no_data_is_left_out_of_the_loss() -> None:
    model = build_masked("swin_demo", mask_ratio=0.5).eval()
    x, noise = 1000 + 500 * torch.randn(1, 6, 1, 64, 64), torch.rand(1, 16)
    with torch.no_grad():
        hidden = model(x, noise).hidden.expand_as(x)
        holes = hidden & (torch.rand(x.shape) < 0.5)
        result = model(torch.where(holes, torch.nan, x), noise)
    error = ((result.prediction - x) / model.std).abs()
    assert result.loss.item() == pytest.approx(error[hidden & ~holes].mean().item(), rel=1e-4)
    with torch.no_grad():
        assert model(torch.full_like(x, torch.nan), noise).loss.item() == 0.0


def test_any_number_of_dates_and_other_sizes() -> None:
    model = build_masked("prithvi_demo", frames=3)
    for frames, height, width in ((1, 64, 64), (2, 32, 96), (3, 128, 64)):
        x = torch.zeros(2, 6, frames, height, width)
        assert model(x).prediction.shape == x.shape
        assert model.features(x).shape == (2, 192 * frames, height // 8, width // 8)
    with pytest.raises(ModelError, match=r"multiples of 8.*\(1, 6, 3, 60, 64\)"):
        model(torch.zeros(1, 6, 3, 60, 64))
    with pytest.raises(ModelError, match="1 to 3 dates"):
        model(torch.zeros(1, 6, 4, 64, 64))
    with pytest.raises(ModelError, match=r"mask_ratio 0\.999 shows 0 of"):
        model(torch.zeros(1, 6, 1, 64, 64), mask_ratio=0.999)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("unet", {}, "not pretrained by masking"),
        ("prithvi_demo", {"unit": 16}, "unit 16"),
        ("prithvi_demo", {"size": 60}, "size 60"),
        ("swin_demo", {"size": 48}, "size 48"),
        ("swin_demo", {"unit": 6}, "unit 6"),
        ("swin_demo", {"bands": ("RED", "PINK")}, "PINK"),
    ],
)
def test_what_cannot_be_built_is_said(name: str, options: dict, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_masked(name, **options)


# --- views ------------------------------------------------------------------------------------


def test_draws_depend_on_the_key_alone(tiny: Recipe) -> None:
    keys = torch.tensor([4, 9, 17])
    together = views.noise(keys, 48, 3)
    assert torch.equal(together[1], views.noise(keys[1:2], 48, 3)[0])
    assert not torch.equal(together[0], together[1])
    gain, _ = views.gains(keys, 6, 2, tiny)
    assert torch.equal(gain[2], views.gains(keys[2:], 6, 2, tiny)[0][0])
    assert not torch.equal(views.noise(keys, 48, 4), together)


def test_gains_have_the_spread_of_the_recipe(tiny: Recipe) -> None:
    gain, offset = views.gains(torch.arange(4000), 6, 2, tiny)
    assert gain.log().std().item() == pytest.approx(np.sqrt(6) * tiny.jitter, rel=0.05)
    assert offset.std().item() == pytest.approx(2000 * tiny.jitter, rel=0.05)


def test_some_steps_see_fewer_dates(tiny: Recipe) -> None:
    counts = np.array([len(views.dates_of_step(tiny, step)) for step in range(400)])
    assert (counts == 1).mean() == pytest.approx(0.5, abs=0.08)
    assert views.dates_of_step(tiny, 5) == views.dates_of_step(tiny, 5)
    assert all(len(views.dates_of_step(replace(tiny, fewer_dates=0.0), s)) == 2 for s in range(50))


# --- training ---------------------------------------------------------------------------------


def test_it_learns_and_leaves_a_model_file(whole: Path, tiny: Recipe) -> None:
    assert losses(whole)[-3:].mean() < losses(whole)[:3].mean()
    card = json.loads((whole / "model.json").read_text())
    assert card["pretrained"]
    assert card["trained_on"]["seeds"] == [0, 1]
    assert card["trained_on"]["provenance"]["world_version"]
    assert card["training"]["recipe"]["steps"] == 12
    assert card["training"]["curve"][-1]["step"] == 12
    assert (whole / "loss.png").stat().st_size > 1000
    assert list((whole / "reconstructions").iterdir())
    model = load(whole)
    x = torch.randn(1, 6, 2, 32, 32) * 300 + 1000
    assert model(x).prediction.shape == x.shape


def test_the_encoder_goes_into_a_model(whole: Path) -> None:
    masked, model = (
        load(whole),
        build("prithvi_demo", frames=2, weights=str(whole / "model.safetensors")),
    )
    assert model.pretrained
    assert torch.allclose(model.mean, masked.mean)
    model.eval()
    x = torch.randn(1, 6, 2, 64, 64) * 300 + 1000
    with torch.no_grad():
        torch.testing.assert_close(model.features(x)[-1], masked.features(x), atol=1e-4, rtol=1e-4)
    with pytest.raises((ModelError, WeightsMismatch), match="prithvi_demo"):
        build("swin_demo", weights=str(whole / "model.safetensors"))


def test_the_held_out_loss_is_that_of_all_held_out_chips(whole: Path, tiny: Recipe) -> None:
    found = curve(whole)
    assert found["step"][np.isfinite(found["held_out"])].tolist() == [10, 12]
    apart = ChipArchive(whole / "held_out.zarr")
    image = next(iter(ChipStream(apart, batch_size=4, steps=1, augment=False)))["image"]
    with torch.no_grad():
        last = load(whole).eval()(image, views.noise(torch.arange(4), 32, tiny.seed)).loss
    assert found["held_out"][-1] == pytest.approx(last.item(), rel=1e-4)


def test_chips_are_normalised_by_their_own_statistics_or_the_published(
    whole: Path, tiny: Recipe
) -> None:
    archive = ChipArchive(whole / "chips.zarr")
    usual = masked_card("prithvi_demo")
    other = model_for(replace(tiny, normalise="published"), archive)
    for name, own in (("mean", archive.statistics.mean), ("std", archive.statistics.std)):
        assert getattr(load(whole), name).flatten().tolist() == pytest.approx(own, rel=1e-6)
        assert getattr(other, name).flatten().tolist() == pytest.approx(usual[name], rel=1e-6)
        assert own != pytest.approx(usual[name], rel=0.01)


def test_the_training_is_a_plain_loop(
    whole: Path, tiny: Recipe, begin: Callable[[Recipe, Path], Path], tmp_path: Path
) -> None:
    wild = replace(tiny, held_out=None, jitter=0.5, steps=6)
    folder = begin(wild, tmp_path / "run")
    pretrain(wild, folder, accelerator="cpu", workers=1, progress=False)
    archive, expected = ChipArchive(whole / "chips.zarr"), []
    model = model_for(wild, archive)
    optimizer, schedule = optimizer_of(model, wild)
    for step, batch in enumerate(ChipStream(archive, batch_size=8, steps=6, seed=wild.seed)):
        loss = training_step(model, batch, wild, step).loss
        optimizer.zero_grad()
        loss.backward()
        assert torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0) > 1
        optimizer.step()
        schedule.step()
        expected.append(loss.item())
    np.testing.assert_allclose(losses(folder), expected, rtol=1e-5)


def test_resumed_training_is_the_undisturbed_one(
    whole: Path, tiny: Recipe, begin: Callable[[Recipe, Path], Path], tmp_path: Path
) -> None:
    blind = replace(tiny, held_out=None)  # what is held out changes nothing of the training
    folder = begin(blind, tmp_path / "cut")
    first = pretrain(blind, folder, workers=1, progress=False, stop_after=5)
    assert (first.step, first.done) == (5, False)
    assert not first.model_file.exists()
    again = pretrain(blind, folder, workers=1, progress=False)
    assert again.done
    assert [file.name for file in folder.glob("checkpoints/*")] == ["step-0000012.ckpt"]
    assert losses(folder).tolist() == losses(whole).tolist()
    ours, theirs = (load(place).state_dict() for place in (folder, whole))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_row_and_the_clock_go_on_after_a_resume(
    tiny: Recipe, begin: Callable[[Recipe, Path], Path], tmp_path: Path
) -> None:
    longer = replace(tiny, held_out=None, steps=40)  # a row is the mean of two steps
    curves = []
    for name, parts in (("whole", (10,)), ("cut", (7, 1, 2))):
        folder = begin(longer, tmp_path / name)
        for steps in parts:
            done = pretrain(longer, folder, workers=1, progress=False, stop_after=steps)
        curves.append(done.history)
    whole, cut = curves
    assert cut["step"].tolist() == [2, 4, 6, 8, 10]
    assert cut["loss"].tolist() == whole["loss"].tolist()
    assert cut["seconds"].is_monotonic_increasing


def test_what_is_done_is_not_done_again(whole: Path, tiny: Recipe) -> None:
    before = (whole / "model.safetensors").stat().st_mtime_ns
    assert pretrain(tiny, whole, workers=1, progress=False).done
    assert (whole / "model.safetensors").stat().st_mtime_ns == before


def test_a_checkpoint_that_was_cut_off_is_passed_over(
    tiny: Recipe, begin: Callable[[Recipe, Path], Path], tmp_path: Path
) -> None:
    blind = replace(tiny, held_out=None)
    pretrain(blind, begin(blind, tmp_path / "run"), workers=1, progress=False, stop_after=4)
    folder = tmp_path / "run" / "checkpoints"
    step, good = newest_checkpoint(folder, blind)
    (folder / "step-0000009.ckpt").write_bytes(good.read_bytes()[:5000])
    assert newest_checkpoint(folder, blind) == (step, good)
    assert step == 4
    with pytest.raises(RequestError, match="another recipe"):
        newest_checkpoint(folder, replace(blind, seed=9))


def test_other_values_are_another_pretraining(tiny: Recipe, tmp_path: Path) -> None:
    some = tiny.changed(sampling={"selections": {"region": ["cerrado"]}})
    claim(tmp_path / "one", tiny)
    claim(tmp_path / "one", some)  # nothing was made of the first
    (tmp_path / "one" / "chips.zarr").mkdir()
    with pytest.raises(RequestError, match=r"selections\.region"):
        claim(tmp_path / "one", tiny)
    (tmp_path / "one" / "pretraining.json").write_text("[")
    with pytest.raises(RequestError, match="damaged"):
        claim(tmp_path / "one", tiny)


def test_force_starts_anew_whatever_a_kill_left(
    tiny: Recipe, begin: Callable[[Recipe, Path], Path], tmp_path: Path
) -> None:
    blind = replace(tiny, held_out=None)
    folder = begin(blind, tmp_path / "run")
    pretrain(blind, folder, workers=1, progress=False, stop_after=1)
    (folder / ".chips.zarr.lock").touch()
    other = replace(blind, steps=2, seed=5)
    assert pretrain(other, folder, workers=1, progress=False, force=True).done


def test_force_leaves_only_what_a_pretraining_does_not_make(
    whole: Path, tiny: Recipe, tmp_path: Path
) -> None:
    folder = shutil.copytree(whole, tmp_path / "run")
    for name in (".chips.zarr.partial", ".held_out.zarr.partial"):
        (folder / name).mkdir()
    (folder / ".chips.zarr.lock").touch()
    (folder / "thesis.txt").touch()
    claim(folder, replace(tiny, seed=5), force=True)
    assert sorted(path.name for path in folder.iterdir()) == ["pretraining.json", "thesis.txt"]


@pytest.mark.parametrize("steps", [1, 2, 10])
def test_short_trainings_have_a_rate(steps: int, tiny: Recipe) -> None:
    model = build_masked("prithvi_demo", frames=2, size=32)
    optimizer, schedule = optimizer_of(model, replace(tiny, steps=steps))
    for _ in range(steps):
        optimizer.step()
        schedule.step()
    assert 0 < schedule.get_last_lr()[0] <= tiny.learning_rate


def test_swin_trains_on_several_dates_that_are_channels(
    tiny: Recipe, begin: Callable[[Recipe, Path], Path], tmp_path: Path
) -> None:
    swin = replace(tiny, model="swin_demo", unit=8, fewer_dates=0.0, steps=2)
    result = pretrain(swin, begin(swin, tmp_path / "swin"), workers=1, progress=False)
    model = load(result.folder)
    x = torch.randn(1, 6, 2, 32, 32) * 300 + 1000
    found = model(x)
    assert found.hidden.shape == (1, 1, 2, 32, 32)
    assert torch.equal(found.hidden[:, :, 0], found.hidden[:, :, 1])
    with pytest.raises(RequestError, match="fewer_dates"):
        replace(swin, fewer_dates=0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampling": {"size": 36}}, "size 36"),
        ({"sampling": {"data": "tinny"}}, "tinny"),
        ({"sampling": {"selections": {"region": ["cerado"]}}}, "cerado"),
        ({"sampling": {"bands": ["PINK"]}, "normalise": "published"}, "PINK"),
        ({"worlds": [7]}, "to be trained on and held out"),
        ({"mask_ratio": 0.95, "sampling": {"size": 16, "frames": 2}}, "--mask-ratio"),
    ],
)
def test_wrong_requests_write_nothing(
    change: dict, message: str, tiny: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match=message):
        pretrain(tiny.changed(**change), tmp_path / "new" / "run", progress=False)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["prithvi_demo", "swin_demo"])
def test_two_processes_see_what_one_does(
    name: str, tiny: Recipe, begin: Callable[[Recipe, Path], Path], tmp_path: Path
) -> None:
    words = ["pretrain", name, "--data", "tiny", "--catalog", tiny.sampling.catalog]
    words += ["--worlds", "0,1", "--size", "32", "--frames", "2", "--chips", "24"]
    words += ["--min-clear", "0.5", "--batch-size", "8", "--seed", "3", "--workers", "1"]
    words += ["--steps", "6", "--accelerator", "cpu", "--strategy", "ddp", "--devices", "2"]
    chosen = recipe(name).changed(
        steps=6, worlds=[0, 1], batch_size=8, seed=3, sampling=tiny.sampling.to_dict()
    )
    one, two = (begin(chosen, tmp_path / place) for place in ("one", "two"))
    pretrain(chosen, one, accelerator="cpu", workers=1, progress=False)
    done = subprocess.run(
        [sys.executable, "-m", "geowb.cli", *words, "--out", str(two)],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(two / "model.safetensors")
    np.testing.assert_allclose(losses(two), losses(one), rtol=2e-4)


def test_a_loss_that_is_no_number_leaves_no_model(tiny: Recipe, tmp_path: Path) -> None:
    wild = replace(tiny, learning_rate=1.0, jitter=0.0, steps=3, warmup=0.0)
    import geowb.pretrain.training as training

    original = training.training_step

    def broken(*words: object) -> object:
        result = original(*words)
        return replace(result, loss=result.loss * float("nan"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "training_step", broken)
        with pytest.raises(DataError, match="lower learning rate"):
            pretrain(wild, tmp_path / "nan", workers=1, progress=False)
    assert not (tmp_path / "nan" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("number", "expected"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_ends_it_as_it_ends_other_commands(
    number: int,
    expected: type[BaseException],
    tiny: Recipe,
    begin: Callable[[Recipe, Path], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import geowb.pretrain.training as training

    blind = replace(tiny, held_out=None)
    folder, original = begin(blind, tmp_path / "run"), training.training_step

    def signalled(*words: Any) -> object:
        if words[-1] == 3:
            os.kill(os.getpid(), number)
        return original(*words)

    monkeypatch.setattr(training, "training_step", signalled)
    before = [signal.signal(signal.SIGTERM, _terminated), signal.getsignal(signal.SIGINT)]
    try:
        with pytest.raises(expected) as caught:
            pretrain(blind, folder, workers=1, progress=False)
        held = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
        assert held == [_terminated, before[1]]
    finally:
        signal.signal(signal.SIGTERM, before[0])
    assert number == signal.SIGINT or caught.value.code == 128 + signal.SIGTERM
    monkeypatch.undo()
    assert pretrain(blind, folder, workers=1, progress=False).done


def test_a_process_that_waits_for_the_first_one_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    import geowb.pretrain.folder as module

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(module, "_PATIENCE", 0)
    assert not module.is_first()
    threading.Timer(0.2, (tmp_path / ".ready").touch).start()
    with module.taking_turns(tmp_path, first=False):
        assert "RANK=1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer"), True),
        (torch.distributed.DistBackendError("NCCL communicator was aborted"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_which_errors_are_those_of_another_process(error: RuntimeError, lost: bool) -> None:
    from geowb.pretrain.training import _is_of_another_process

    assert _is_of_another_process(error) == lost


# --- requests ---------------------------------------------------------------------------------


def test_a_folder_belongs_to_one_pretraining(whole: Path, tiny: Recipe, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"sampling\.size is 32 there, 64 here.*--force"):
        pretrain(tiny.changed(sampling={"size": 64}), whole, progress=False)
    (tmp_path / "mine.txt").write_text("thesis")
    with pytest.raises(RequestError, match="holds no pretraining"):
        pretrain(tiny, tmp_path, progress=False, force=True)
    assert (tmp_path / "mine.txt").read_text() == "thesis"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": 3}, "8 chips cannot be shared out among 3 devices"),
        ({"precision": "64"}, "precision is '64'"),
        ({"workers": 0}, "workers is 0"),
        ({"accelerator": "gpu"}, "no GPU"),
    ],
)
def test_options_are_checked_before_anything_is_made(
    options: dict, message: str, tiny: Recipe, tmp_path: Path
) -> None:
    if "accelerator" in options and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(RequestError, match=message):
        pretrain(tiny, tmp_path / "new", progress=False, **options)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"mask_ratio": 1.0}, "mask_ratio is 1.0"),
        ({"steps": 0}, "steps is 0"),
        ({"stored": "int8"}, "int8"),
        ({"model": "unet"}, "not pretrained by masking"),
        ({"model": "prithvy_demo"}, "prithvi_demo"),
    ],
)
def test_recipes_refuse_what_is_out_of_range(change: dict, message: str, tiny: Recipe) -> None:
    with pytest.raises((RequestError, ModelError), match=message):
        replace(tiny, **change)


def test_short_recipes_sample_less_and_other_data_hold_nothing_out(tiny: Recipe) -> None:
    asked = recipe("swin_demo").changed(steps=50, worlds=[1, 2, 3])
    assert asked.sampling.seeds == (1, 2, 3)
    short = recipe("swin_demo").changed(steps=50)
    assert short.sampling.count == 1600
    assert 0 < len(short.sampling.seeds) < len(recipe("swin_demo").sampling.seeds)
    other = recipe("swin_demo").changed(sampling={"data": "hls"})
    assert other.held_out is None
    named = recipe("swin_demo").changed(
        sampling={"data": "hls"}, held_out={"bbox": ["0,0,1,1"], "datetime": ["2022"]}
    )
    assert named.held_out.selections["bbox"] == ("0,0,1,1",)
    worlds, held = recipe("prithvi_demo").sampling.seeds, recipe("prithvi_demo").held_out.seeds
    assert not set(worlds) & set(held)


def test_the_command_of_a_card_makes_the_recipe_again() -> None:
    for chosen in (recipe("prithvi_demo"), recipe("swin_demo").changed(steps=50, seed=2)):
        words = command(chosen).split()
        assert words[:2] == ["geowb", "pretrain"]
    assert command(recipe("swin_demo")) == "geowb pretrain swin_demo"
    assert command(recipe("swin_demo").changed(steps=50, seed=2)) == (
        "geowb pretrain swin_demo --steps 50 --seed 2"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 10, "batch_size": 8, "worlds": [300, 301]},
        {"mask_ratio": 0.5, "sampling": {"size": 128, "min_clear": 0.5, "count": 77}},
        {"learning_rate": 2e-3, "jitter": 0.0, "normalise": "archive", "seed": 4},
        {"sampling": {"selections": {"region": ["cerrado", "amazonia"]}}},
    ],
)
def test_what_the_command_line_can_say_it_says(change: dict) -> None:
    from typer.testing import CliRunner

    import geowb.pretrain
    from geowb.cli import app

    chosen, seen = recipe("prithvi_demo").changed(**change), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geowb.pretrain, "pretrain", lambda made, *_, **__: seen.append(made))
        CliRunner().invoke(app, command(chosen).split()[1:])
    assert seen == [chosen]


def test_what_it_cannot_say_it_leaves_to_the_recipe() -> None:
    assert command(replace(recipe("prithvi_demo"), weight_decay=0.1)) == ""


def test_a_step_uses_the_normalisation_of_the_archive(tiny: Recipe) -> None:
    model = build_masked("prithvi_demo", frames=2, size=32, mean=[1000.0] * 6, std=[500.0] * 6)
    batch = {"image": torch.full((2, 6, 2, 32, 32), 1000.0), "key": torch.tensor([0, 1])}
    result = training_step(model, batch, replace(tiny, jitter=0.0), 0)
    assert result.prediction.mean().item() == pytest.approx(1000, abs=500)
