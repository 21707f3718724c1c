"""A step of masked pretraining: what of its chips is shown, and what moves the weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from geowb.models.masked import MaskedModel, Reconstruction, build_masked
from geowb.pretrain import Recipe, Sampling, views
from geowb.pretrain.training import optimizer_of, training_step

KEYS = (0, 1, 24)


@pytest.fixture
def plain() -> Recipe:
    """Two dates of 32 pixels, all of them shown, as they are."""
    return Recipe("prithvi_demo", Sampling("world", size=32, frames=2), jitter=0.0, seed=3)


@pytest.fixture(scope="module")
def model() -> MaskedModel:
    return build_masked("prithvi_demo", frames=2, size=32, mean=[1000.0] * 6, std=[500.0] * 6)


def same_chip(count: int) -> torch.Tensor:
    """The same chip, `count` times."""
    chip = 1000 + 500 * torch.randn(1, 6, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    return chip.repeat(count, 1, 1, 1, 1)


def seen(
    model: MaskedModel, recipe: Recipe, image: torch.Tensor, step: int = 0, keys: tuple = KEYS
) -> Reconstruction:
    batch = {"image": image, "key": torch.tensor(keys[: len(image)])}
    with torch.no_grad():
        return training_step(model, batch, recipe, step)


# --- what is shown ----------------------------------------------------------------------------


def test_every_chip_hides_other_units_in_every_epoch(model: MaskedModel, plain: Recipe) -> None:
    first = seen(model, plain, same_chip(3)).hidden  # chip 0, chip 1; chip 0 of 24 an epoch later
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not torch.equal(first[one], first[other])
    assert torch.equal(seen(model, plain, same_chip(3), step=5).hidden, first)
    alone = seen(model, plain, same_chip(1), keys=KEYS[2:]).hidden
    assert torch.equal(alone[0], first[2])


def test_jitter_is_a_gain_and_an_offset_of_the_chip(model: MaskedModel, plain: Recipe) -> None:
    wild, image = replace(plain, jitter=0.3), same_chip(3)
    gain, offset = views.gains(torch.tensor(KEYS), 6, 2, wild)
    assert gain.std() > 0.3
    assert offset.std() > 300
    found = seen(model, wild, image)
    torch.testing.assert_close(found.loss, seen(model, plain, image * gain + offset).loss)
    for other in (image, image * gain, image + offset):
        assert abs(seen(model, plain, other).loss / found.loss - 1) > 0.01


def test_bands_of_a_chip_get_gains_that_are_alike(plain: Recipe) -> None:
    gain, _ = views.gains(torch.arange(4000), 6, 2, replace(plain, jitter=0.2))
    spread = torch.corrcoef(gain.log().flatten(1).T)  # bands, and the two dates of each
    assert spread[0, 1].item() == pytest.approx(5 / 6, abs=0.03)
    assert spread[0, 2].item() == pytest.approx(4 / 6, abs=0.04)


def test_each_date_is_shown_alone_and_in_any_company(plain: Recipe) -> None:
    three = replace(plain, sampling=replace(plain.sampling, frames=3), fewer_dates=1.0)
    shown = Counter(tuple(views.dates_of_step(three, step)) for step in range(600))
    assert set(shown) == {(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)}
    assert min(shown.values()) > 60


def test_a_step_sees_the_dates_that_are_drawn_for_it(model: MaskedModel, plain: Recipe) -> None:
    image, fewer = same_chip(1), replace(plain, fewer_dates=1.0)
    image[:, :, 1] += 3000  # what is not shown does not matter
    for date in (0, 1):
        step = next(s for s in range(50) if views.dates_of_step(fewer, s) == [date])
        found, alone = seen(model, fewer, image, step), image[:, :, [date]]
        assert found.prediction.shape == alone.shape
        expected = model(alone, views.noise(torch.tensor(KEYS[:1]), 16, plain.seed))
        torch.testing.assert_close(found.loss, expected.loss.detach())


@pytest.mark.parametrize("name", ["prithvi_demo", "swin_demo"])
def test_a_learned_token_stands_for_what_is_hidden(name: str) -> None:
    model = build_masked(name, mean=[1000.0] * 6, std=[500.0] * 6)
    token = next(value for key, value in model.named_parameters() if key.endswith("mask_token"))
    assert token.std().item() == pytest.approx(0.02, rel=0.3)
    model(same_chip(2)[:, :, :1].repeat(1, 1, 1, 2, 2)).loss.backward()
    assert token.grad.abs().min() > 0


# --- what moves the weights -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["prithvi_demo", "swin_demo"])
def test_weights_decay_and_biases_and_norms_do_not(name: str, plain: Recipe) -> None:
    frames = 1 if name == "swin_demo" else 2
    model = build_masked(name, frames=frames, size=32, unit=8)
    optimizer, _ = optimizer_of(model, replace(plain, weight_decay=0.5, learning_rate=0.1))
    trained = {key: value for key, value in model.named_parameters() if value.requires_grad}
    for value in trained.values():
        torch.nn.init.ones_(value)
        value.grad = torch.zeros_like(value)  # then decay is all that moves it
    rate = optimizer.param_groups[0]["lr"]
    optimizer.step()
    flat = {key for key, value in trained.items() if value.ndim == 1}
    assert {key for key in flat if key.endswith("bias")}
    for key, value in trained.items():
        left = 1.0 if key in flat else 1 - 0.5 * rate
        assert value.unique().tolist() == pytest.approx([left], abs=1e-6), key
