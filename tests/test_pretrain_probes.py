"""Probes and fillings, against what can be worked out by hand."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from typer.testing import CliRunner

from geowb.cli import app
from geowb.errors import DataError
from geowb.models import save
from geowb.models.masked import MaskedModel, Reconstruction, build_masked
from geowb.pretrain import probes, worth
from geowb.pretrain.probes import (
    Labelled,
    linear_probe,
    paired_interval,
    probe_difference,
    reconstruction_errors,
    squares,
)

UNIT = 8


@pytest.fixture(scope="module")
def model() -> MaskedModel:
    return build_masked("prithvi_demo", frames=2, size=32, mean=[0.0] * 6, std=[2.0] * 6)


def test_squares_take_what_most_pixels_are() -> None:
    labels = np.full((1, 8, 16), -1)
    labels[0, :5, :8] = 3  # 40 of 64 pixels
    labels[0, :4, 8:] = 5  # exactly half: nobody's
    assert squares(labels).tolist() == [[[3, -1]]]
    quantity = np.where(labels < 0, np.nan, labels).astype(np.float32)
    assert squares(quantity, classes=False)[0, 0, 0] == 3.0
    assert np.isnan(squares(quantity, classes=False)[0, 0, 1])


@pytest.mark.parametrize("seed", range(3))
def test_nearest_unit_is_that_of_a_search(seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames, rows, columns = grid = (2, 3, 4)
    normal = rng.normal(size=(1, 2, frames, rows * UNIT, columns * UNIT)).astype(np.float32)
    off = rng.random(grid) < 0.7
    off[0, 0, 0] = False
    hidden = off.repeat(UNIT, 1).repeat(UNIT, 2)[None, None]
    filled = probes._fill_nearest(normal, hidden, UNIT)
    shown = [p for p in itertools.product(*map(range, grid)) if not off[p]]

    def where(p: tuple[int, ...]) -> tuple:
        y, x = (slice(i * UNIT, (i + 1) * UNIT) for i in p[1:])
        return 0, slice(None), p[0], y, x

    for at in itertools.product(*map(range, grid)):
        # Nearest first; of equally near ones, the one at the same place on another date.
        away = {
            p: (sum((a - b) ** 2 for a, b in zip(p, at, strict=True)), p[1:] != at[1:])
            for p in shown
        }
        near = [p for p in shown if away[p] == min(away.values())]
        assert any(np.array_equal(filled[where(at)], normal[where(p)]) for p in near)


def test_mean_is_that_of_the_date_or_of_all() -> None:
    normal = np.arange(2 * 2 * 8 * 16, dtype=float).reshape(1, 2, 2, 8, 16)
    hidden = np.zeros((1, 1, 2, 8, 16), bool)
    hidden[..., 0, :, :8] = True  # half of the first date
    filled = probes._fill_mean(normal, hidden)
    assert filled[0, 1, 0, 0, 0] == normal[0, 1, 0, :, 8:].mean()
    hidden[:, :, 1] = True  # nothing of the second
    filled = probes._fill_mean(normal, hidden)
    assert filled[0, 0, 1, 0, 0] == normal[0, 0, 0, :, 8:].mean()


def test_errors_of_a_model_that_knows_are_zero(model: MaskedModel) -> None:
    images = np.random.default_rng(0).normal(100, 5, (3, 6, 2, 32, 32)).astype(np.float32)
    images[1, :, 0, :8] = np.nan

    class Knowing(MaskedModel):
        def forward(self, x: torch.Tensor, *words: object) -> Reconstruction:
            result = model(x, *words)
            return replace(result, prediction=x.nan_to_num())

    errors = reconstruction_errors(Knowing(model.card), images)
    assert errors["model"].tolist() == [0, 0, 0]
    # White noise of unit variance 25 / 4: the mean errs by it, another unit by twice as much.
    assert errors["mean"].mean() == pytest.approx(25 / 4, rel=0.1)
    assert errors["nearest"].mean() == pytest.approx(2 * 25 / 4, rel=0.1)


def test_columns_are_hidden_as_a_whole(model: MaskedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = MaskedModel.forward

    def spy(self: MaskedModel, *words: object) -> Reconstruction:
        seen.append(original(self, *words))
        return seen[-1]

    monkeypatch.setattr(MaskedModel, "forward", spy)
    reconstruction_errors(model, np.zeros((2, 6, 2, 32, 32), np.float32), columns=True)
    hidden = seen[0].hidden
    assert torch.equal(hidden, hidden[..., :1, :].expand_as(hidden))
    assert 0.7 < hidden.float().mean() < 0.8


def test_ridge_is_least_squares_with_a_penalty() -> None:
    rng = np.random.default_rng(1)
    x, new = rng.normal(size=(40, 5)), rng.normal(size=(7, 5))
    y = x @ [1.0, 2, 0, -1, 0.5] + 3 + rng.normal(0, 0.1, 40)
    z = (x - x.mean(0)) / (x.std(0) + 1e-6)
    penalty = 0.3
    # The same problem as ordinary least squares on a longer table.
    long = np.vstack([z / np.sqrt(40), np.sqrt(penalty) * np.eye(5)])
    slope, *_ = np.linalg.lstsq(
        long, np.append((y - y.mean()) / np.sqrt(40), np.zeros(5)), rcond=None
    )
    expected = ((new - x.mean(0)) / (x.std(0) + 1e-6)) @ slope + y.mean()
    np.testing.assert_allclose(probes._ridge(x, y, classes=False)(new, penalty), expected)


def test_rare_classes_weigh_as_much_as_frequent_ones() -> None:
    rng = np.random.default_rng(2)
    y = np.repeat([4, 9], [500, 10])
    x = rng.normal(size=(510, 1)) + (y == 9)[:, None] * 1.5
    found = probes._ridge(x, y, classes=True)(x, 1e-3)
    assert (found[y == 9] == 9).mean() > 0.6
    plain = probes._ridge(x, (y == 9).astype(float), classes=False)(x, 1e-3) > 0.5
    assert plain[y == 9].mean() < 0.3


def _data(seed: int = 0) -> Labelled:
    """Eight images; the class of a square is told by its brightness."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 3, (8, 4, 4))
    labels = kinds.repeat(8, 1).repeat(8, 2)
    images = labels[:, None, None] * 4.0 + rng.normal(0, 0.2, (8, 6, 2, 32, 32))
    return Labelled(images.astype(np.float32), labels, np.arange(8))


def test_probe_finds_what_is_there_and_tests_on_other_places(model: MaskedModel) -> None:
    data = _data()
    train = np.arange(8) < 5
    x = probes.features(model, data.images)
    found = linear_probe(x, data, train=train, test=~train, labels=15)
    assert set(found["place"]) == {5, 6, 7}
    assert len(found) == 3 * 16
    truth, told = found["truth"].to_numpy(), found["prediction"].to_numpy()
    assert probes.probe_score(truth, told, True) > 0.9
    # What it tells does not depend on the labels that it is tested on.
    other = data.labels.copy()
    other[~train] = (other[~train] + 1) % 3
    again = linear_probe(x, replace(data, labels=other), train=train, test=~train, labels=15)
    assert again["prediction"].tolist() == told.tolist()
    with pytest.raises(DataError, match="labelled squares"):
        linear_probe(x, replace(data, labels=np.full_like(other, -1)), train=train, test=~train)


@pytest.mark.parametrize("classes", [True, False])
def test_parts_of_the_places_make_the_difference(classes: bool) -> None:
    rng = np.random.default_rng(3)
    place = rng.integers(0, 5, 200)
    truth = rng.integers(0, 3, 200) if classes else rng.normal(size=200)
    draw = (lambda: rng.integers(0, 3, 200)) if classes else (lambda: truth + rng.normal(size=200))
    ours, theirs = (
        pd.DataFrame({"place": place, "truth": truth, "prediction": draw()}) for _ in range(2)
    )
    mine, chance, parts = probe_difference(ours, theirs, classes=classes)
    assert parts.mean() == pytest.approx(mine - chance)
    assert len(parts) == 5


def test_interval_is_near_that_of_students_t() -> None:
    values = np.random.default_rng(4).normal(0.4, 1.0, 60)
    low, high = paired_interval(values)
    expected = stats.t.interval(0.95, 59, values.mean(), stats.sem(values))
    assert (low, high) == pytest.approx(expected, abs=0.05)


def test_features_of_swin_stages_lie_on_squares_of_eight() -> None:
    swin = build_masked("swin_demo")
    found = probes.features(swin, np.zeros((2, 6, 1, 64, 64), np.float32))
    assert found.shape == (2, 8, 8, 32 + 64 + 128 + 256)


# --- the command ------------------------------------------------------------------------------


def bright_or_dark(frames: int, **_: object) -> worth.Images:
    """Sixteen places, half of each image bright: a class that every encoder can tell."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(64)[None, None] // 32, 16, 0).repeat(64, 1)
    images = 500 + 3000 * labels[:, None, None] + rng.normal(0, 100, (16, 6, frames, 64, 64))
    data = Labelled(images.astype(np.float32), labels, np.arange(16))
    return worth.Images(data, np.arange(16) < 8, "shade, or light", "sixteen places")


def test_the_figures_go_to_the_screen_and_into_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_masked("prithvi_demo", frames=1, mean=[2000.0] * 6, std=[1500.0] * 6)

    def absent(frames: int, **_: object) -> worth.Images:
        raise DataError("there is none")

    monkeypatch.setattr(worth, "SETS", {"shades": bright_or_dark, "absent": absent})
    file = save(model, tmp_path / "model.safetensors", task="masked")
    done = CliRunner().invoke(app, ["probe", str(tmp_path), "--write"])
    assert done.exit_code == 0, done.output
    assert "shades: features of 16 images, encoder 4 of 4" in done.stderr
    assert "Left out: absent: there is none" in done.stderr
    card = json.loads(file.with_name("model.json").read_text())
    names = ["mean_accuracy/shade_or_light/20", "mean_accuracy/shade_or_light/200", "mse/hidden"]
    assert [row["name"] for row in card["metrics"]] == names
    few, _, filled = card["metrics"]
    assert (few["value"], few["beside"]) == (1.0, {"random weights": 1.0, "gain at 95 %": [0, 0]})
    assert filled["data"] == "sixteen places"
    assert f"{filled['value']:.3f}" in done.stdout.splitlines()[-2]
    assert filled["beside"]["nearest unit shown"] < filled["beside"]["mean of what is shown"]
    monkeypatch.setattr("os.access", lambda *_: False)
    done = CliRunner().invoke(app, ["probe", str(tmp_path), "--write"])
    assert "cannot be written: copy it" in str(done.exception)
    worth.write_metrics(file, worth.Examined(pd.DataFrame(), pd.DataFrame()))
    assert json.loads(file.with_name("model.json").read_text()) == card
