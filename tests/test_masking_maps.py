"""Measures of models that say a class or a quantity a pixel, and maps of them."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from geowb.errors import DataError, RequestError
from geowb.masking import accuracy, metrics, profile
from geowb.masking.mapping import pixel_maps

HLS = (0.0, 10_000.0)


class Dots(nn.Module):
    """Tells each pixel by itself: class 1 where its bands are bright, or a quantity."""

    def __init__(self, classes=True, bend=0.0, gain=4e-3):
        super().__init__()
        self.classes, self.bend, self.gain = classes, bend, gain

    def forward(self, x):
        x = x.nan_to_num(3000)
        x = (x / 500).round() * 500 if self.bend < 0 else x  # nothing to follow
        bright = self.gain * (x.mean((1, 2)) - 3000)
        bright = bright + max(self.bend, 0) * torch.sin(40 * bright)
        return torch.stack([-bright, bright], 1) if self.classes else bright[:, None]


def chips(count=24, seed=0):
    """Chips ``(N, 2, 1, 8, 8)`` of counts, with a class and a quantity a pixel."""
    drawn = torch.Generator().manual_seed(seed)
    x = 1000 + 4000 * torch.rand((count, 2, 1, 8, 8), generator=drawn)
    mean = x.mean((1, 2))
    classes = (mean > 3000).long()
    classes[:, 0] = -1
    quantity = 4e-3 * (mean - 3000) + torch.randn(mean.shape, generator=drawn)
    quantity[:, :, 0] = math.nan
    return x, classes, quantity


def test_the_loss_of_a_map_is_summed_over_what_is_labelled():
    x, y, quantity = chips(4)
    given = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(
        nn.functional.cross_entropy(Dots()(given), y, ignore_index=-1, reduction="sum"), given
    )
    found = metrics.gradient_norm(Dots(), x, y, bounds=HLS)
    assert torch.allclose(found, 1e4 * slope.flatten(1).norm(dim=1), rtol=1e-4)
    seen = quantity.isfinite()
    away = torch.where(seen, Dots(False)(x)[:, 0] - quantity.nan_to_num(), 0.0)
    # d/dx of (g * mean over 2 bands - y)^2: g * error in each of the two bands
    expected = 1e4 * 4e-3 * away.flatten(1).norm(dim=1) * math.sqrt(2)
    found = metrics.gradient_norm(Dots(False), x, quantity, bounds=HLS, loss="squared_error")
    assert torch.allclose(found, expected, rtol=1e-4)


def test_what_does_not_apply_to_maps_is_told():
    x, y, quantity = chips(4)
    how = {"bounds": HLS}
    with pytest.raises(DataError, match=r"border to another class.* needs a class a sample"):
        metrics.gradient_information(Dots(), x, y, **how)
    with pytest.raises(RequestError, match=r"of='logit' needs a class a sample"):
        metrics.linearization_error(Dots(), x, y, of="logit", **how)
    with pytest.raises(RequestError, match="at the model's own prediction"):
        metrics.pgd_collinearity(Dots(False), x, quantity, loss="squared_error", **how)
    how |= {"loss": "squared_error"}
    found = metrics.pgd_collinearity(Dots(False), x, quantity, target="label", epsilon=0.001, **how)
    assert found.isfinite().all()
    with pytest.raises(DataError, match="give as many values as it returns"):
        metrics.gradient_norm(Dots(False), x, quantity[:, :4], **how)
    with pytest.raises(DataError, match=r"targets are \(4, 8, 8\)"):
        metrics.gradient_norm(Dots(), x, y[:, :4], bounds=HLS)


def test_maps_without_a_label_are_undefined_and_left_out():
    x, y, _ = chips(30)
    y[3] = -1
    found = metrics.gradient_norm(Dots(), x, y, bounds=HLS)
    assert found.isnan().nonzero().flatten().tolist() == [3]
    assert profile(Dots(), (x, y), epsilon=0.01, bounds=HLS).settings["images"] == 29
    with pytest.raises(DataError, match="No pixel of any sample is labelled"):
        profile(Dots(), (x, torch.full_like(y, -1)), epsilon=0.01, bounds=HLS)


@pytest.mark.parametrize(
    ("classes", "bend", "epsilon", "masks", "told"),
    [
        (True, 0.0, 0.01, False, "gradients can be trusted.*% of the pixels are right"),
        (True, 0.0, 0.3, False, "Nothing to mask"),
        (True, 8.0, 0.01, True, "masks its gradients.*gradient information does not apply"),
        (False, 0.0, 0.01, False, "trusted.*the error is"),
        (False, -1.0, 0.02, True, "masks its gradients.*the error is.*no gradient at all at 100 %"),
    ],
)
def test_the_verdict_of_maps(classes, bend, epsilon, masks, told):
    x, y, quantity = chips()
    model = Dots(classes, bend)
    target, loss = (y, "cross_entropy") if classes else (quantity, "squared_error")
    if bend:  # labels that it gets right
        bent = model(x)
        target = bent.argmax(1) if classes else bent[:, 0] + torch.sin(1e3 * x[:, 0, 0])
    found = profile(model, (x, target), epsilon=epsilon, bounds=HLS, loss=loss)
    assert found.masks is masks, found.verdict
    assert re.search(told, found.verdict), found.verdict
    assert "gradient_information" not in found.table.index
    assert found.settings["kind"] == ("maps" if classes else "quantities")


def test_maps_of_measures_are_what_each_pixel_has():
    x, y, _ = chips(3)
    x[0, :, :, 2, 2] = math.nan
    found = pixel_maps(Dots(), x, y, epsilon=0.001, bounds=HLS)
    assert found["gradient"].dims == ("sample", "y", "x")
    whole = metrics.gradient_norm(Dots(), x, y, bounds=HLS)
    together = np.sqrt((found["gradient"].values ** 2).sum((1, 2)))
    assert np.allclose(together, whole.numpy(), rtol=1e-4)
    assert found["gradient"].values[0, 2, 2] == 0
    assert np.isnan(found["agreement"].values[0, 2, 2])
    seen = found["agreement"].values[1:, 1:]
    assert np.nanmin(seen) > 0.7  # both bands go the same way
    error = found["linearization_error"].values
    assert np.isnan(error[:, 0]).all()  # no label there
    assert np.nanmax(error) < 0.05


def test_the_forecast_of_a_pixel_is_its_own():
    """A quantity that is linear in the pixel: the squared error misses exactly the square."""
    x, _, quantity = chips(2)
    epsilon = 0.01
    how = {"epsilon": epsilon, "bounds": HLS, "loss": "squared_error", "draws": 1, "seed": 4}
    found = pixel_maps(Dots(False), x, quantity, **how)["linearization_error"].values
    from geowb.masking.steps import directions

    (way,) = next(directions(x / 1e4, epsilon, "linf", 1, 4))
    step = 4e-3 * 1e4 * way.mean((0, 1))
    there = (Dots(False)(x + 1e4 * way)[:, 0] - quantity) ** 2
    scale = torch.maximum(there, there.nan_to_num().mean((1, 2), keepdim=True))
    assert np.allclose(found, (step**2 / scale).numpy(), rtol=1e-2, atol=1e-4, equal_nan=True)


def test_maps_need_a_label_a_pixel():
    x, y = torch.rand(4, 1, 4, 4), torch.zeros(4, dtype=torch.long)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    with pytest.raises(RequestError, match=r"need a label a pixel, \(N, H, W\); these are \(4,\)"):
        pixel_maps(model, x, y, epsilon=0.1, bounds=(0, 1))


def test_pixels_count_alike_however_many_a_chip_has():
    """Two chips labelled throughout, the others in one pixel: pooled, not the mean of shares."""
    x, _, _ = chips(30)
    y = torch.full((30, 8, 8), -1)
    y[:2] = 0
    y[2:, 4, 4] = 1

    class Always(nn.Module):
        def forward(self, x):
            flat = 1e-3 * x.mean((1, 2))
            return torch.stack([flat - 99, 99 - flat], 1)

    right = 28 / (28 + 128)
    assert accuracy(Always(), x, y, bounds=HLS) == pytest.approx(right)
    found = profile(Always(), (x, y), epsilon=0.01, bounds=HLS)
    assert found.scores.loc["clean", "mean"] == pytest.approx(right)
    assert found.masks is None
    assert "always saying the commonest class, which is 82 %" in found.verdict


def test_quantities_are_judged_by_their_skill():
    x, _, _ = chips(30)
    how = {"bounds": HLS, "loss": "squared_error", "epsilon": 0.01}
    noise = torch.randn((30, 8, 8), generator=torch.Generator().manual_seed(1))
    poor = profile(Dots(False), (x, noise), **how)
    assert poor.masks is None
    assert "no better than always saying the mean" in poor.verdict
    exact = profile(Dots(False), (x, Dots(False)(x)[:, 0]), **how)
    assert exact.masks is None
    assert "there is no error" in exact.verdict
    whole = profile(Dots(False), (x, (Dots(False)(x)[:, 0] + noise).round().int()), **how)
    assert whole.settings["kind"] == "quantities"
    for wrong in (noise.transpose(0, 1)[:8].transpose(0, 1)[:, :, :6], noise.reshape(30, 4, 16)):
        with pytest.raises(DataError, match="give as many values as it returns"):
            metrics.gradient_norm(Dots(False), x, wrong, bounds=HLS, loss="squared_error")
