"""The five measures: known answers, the author's own numbers, and what may not change them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from geowb.errors import DataError, ModelError, NotDifferentiable, RequestError
from geowb.masking import attacks, profile
from geowb.masking.deepfool import deepfool
from geowb.masking.metrics import (
    fgsm_pgd_cosine,
    gradient_information,
    gradient_norm,
    linearization_error,
    pgd_collinearity,
)
from geowb.masking.subject import Subject, points, undisturbed

FACTS = json.loads(Path(__file__).with_name("masking_facts.json").read_text())
ALL = {
    "gradient_norm": gradient_norm,
    "fgsm_pgd_cosine": fgsm_pgd_cosine,
    "linearization_error": linearization_error,
    "pgd_collinearity": pgd_collinearity,
    "gradient_information": gradient_information,
}


def linear(classes, size=16, seed=0):
    """All classes are equally likely at grey, from which no border is far."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(size, classes))
    with torch.no_grad():
        model[1].bias.copy_(-0.5 * model[1].weight.sum(1))
    return model


def inside(count=6, size=16, seed=1):
    """Images far from the ends of the pixel range, so that nothing is clipped."""
    drawn = torch.Generator().manual_seed(seed)
    return 0.4 + 0.2 * torch.rand((count, 1, 4, size // 4), generator=drawn)


class Restless(nn.Module):
    """All that has a state: batch norm, dropout, and a draw of its own in training."""

    def __init__(self, classes=5):
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.Tanh(),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(96, classes),
        )

    def forward(self, x):
        return self.body(x)


# --- known answers -------------------------------------------------------------------------------


def test_a_linear_model_of_two_classes_hides_nothing():
    model, x, y = linear(2), inside(), torch.tensor([0, 1, 0, 1, 1, 0])
    close = {"atol": 1e-5, "rtol": 0}
    ones = torch.ones(6)
    assert torch.allclose(fgsm_pgd_cosine(model, x, y, epsilon=0.1), ones, **close)
    assert torch.allclose(pgd_collinearity(model, x, y, epsilon=0.1), ones, **close)
    assert torch.allclose(pgd_collinearity(model, x, y, epsilon=0.1, norm="l2"), ones, **close)
    for norm in ("linf", "l2"):
        assert linearization_error(model, x, y, epsilon=0.1, norm=norm).max() < 1e-4
        assert torch.allclose(gradient_information(model, x, y, norm=norm), ones, **close)


def test_gradient_information_of_any_linear_model_is_one():
    model, x = linear(7), inside(20)
    found = gradient_information(model, x, torch.zeros(20, dtype=torch.long))
    assert found.isfinite().sum() > 10
    assert torch.allclose(found[found.isfinite()], torch.tensor(1.0), atol=1e-5)


def test_the_norm_of_a_linear_model_is_its_closed_form():
    model, x, y = linear(5), inside(), torch.tensor([0, 1, 2, 3, 4, 0])
    weights, bias = model[1].weight.detach(), model[1].bias.detach()
    share = (x.flatten(1) @ weights.T + bias).softmax(1) - nn.functional.one_hot(y, 5)
    expected = (share @ weights).norm(dim=1)
    assert torch.allclose(gradient_norm(model, x, y), expected, rtol=1e-5)
    # in units of the pixel range: the same model of counts from 0 to 10,000
    counts = nn.Sequential(Scale(1e-4), *model)
    found = gradient_norm(counts, x * 1e4, y, bounds=(0, 1e4))
    assert torch.allclose(found, expected, rtol=1e-4)
    of_prediction = gradient_norm(model, x, y, target="prediction")
    assert torch.allclose(of_prediction, gradient_norm(model, x, model(x).argmax(1)))


class Scale(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, x):
        return x * self.by


class Bowl(nn.Module):
    """The first logit is a constant and half the curvature times the squared distance."""

    def __init__(self, centre, curvature, slope=0.0):
        super().__init__()
        self.centre, self.curvature, self.slope = centre, curvature, slope

    def forward(self, x):
        away = (x - self.centre).flatten(1)
        bowl = 2 + 0.5 * self.curvature * away.square().sum(1) + self.slope * away.sum(1)
        return torch.stack([bowl, torch.zeros_like(bowl), -torch.ones_like(bowl)], 1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_linearisation_error_of_a_bowl_is_its_closed_form(norm):
    x, y, epsilon, curvature = inside(3), torch.zeros(3, dtype=torch.long), 0.1, 4.0
    model = Bowl(x[:1].clone(), curvature)
    # every corner is as far from the centre: D epsilon^2 (a corner), epsilon^2 (the sphere)
    far = epsilon**2 * (16 if norm == "linf" else 1)
    bent = 0.5 * curvature * far
    found = linearization_error(model, x[:1], y[:1], epsilon=epsilon, norm=norm, draws=16)
    assert found.item() == pytest.approx(bent / (2 + bent), rel=1e-4)
    # away from the centre, on a slope: f(x) + <d, g> misses exactly what bends
    (error,) = linearization_error(model, x[1:2], y[:1], epsilon=epsilon, norm=norm, draws=1)
    (way,) = corners(epsilon, norm)
    value = model(x[1:2] + way)[0, 0]
    assert error.item() == pytest.approx(float(bent / value), rel=1e-3)


def corners(epsilon, norm):
    from geowb.masking.steps import directions

    return directions(inside(1), epsilon, norm, 1, 0)


class Ridge(nn.Module):
    """A loss that climbs along the first pixel, and to a ridge along the second."""

    def __init__(self, ridge):
        super().__init__()
        self.ridge = ridge

    def forward(self, x):
        return x[:, :1] - (x[:, 1:] - self.ridge).abs()


def climb(output, _):
    return output[:, 0]


def test_cosine_and_collinearity_of_a_ridge_are_their_closed_forms():
    epsilon = 0.16
    size = epsilon / 16
    x = torch.tensor([[0.4, 0.4]])
    model, y = Ridge(0.4 + 8.5 * size), torch.zeros(1)
    found = pgd_collinearity(model, x, y, epsilon=epsilon, loss=climb, target="label")
    # steps 2 to 9 go on; then the second pixel turns at each step: 16 back (0), 15 on (1)
    assert found.item() == pytest.approx((8 + 15) / 39, abs=1e-5)
    found = pgd_collinearity(
        model, x, y, epsilon=epsilon, loss=climb, target="label", sequential=True
    )
    assert found.item() == pytest.approx(8 / 39, abs=1e-5)
    # FGSM goes to the corner; PGD ends within half a step of the ridge
    ways = [
        fgsm_pgd_cosine(
            model, x, y, epsilon=epsilon, loss=climb, steps=400, step_size=0.005, seed=s
        )
        for s in range(3)
    ]
    ridge = 8.5 * size
    expected = (epsilon + ridge) / math.sqrt(2 * (epsilon**2 + ridge**2))
    assert torch.cat(ways).numpy() == pytest.approx(expected, abs=2e-3)


class Ball(nn.Module):
    """Two classes, parted by a sphere: the margin's gradient is the way from the centre."""

    def forward(self, x):
        away = (x - 0.5).flatten(1)
        margin = away.square().sum(1) / 2 - 0.01
        return torch.stack([torch.zeros_like(margin), margin], 1)


def test_gradient_information_is_the_angle_between_two_gradients():
    x = torch.tensor([[[[0.52, 0.56], [0.5, 0.49]]]])
    y = torch.tensor([0])
    subject = Subject(Ball())
    with undisturbed(subject.model):
        (point,) = points(subject, x, y)
        there = deepfool(point, steps=5)
    assert Ball()(there).argmax() == 1
    assert (there - 0.5).square().sum() / 2 > 0.01  # beyond the border
    expected = nn.functional.cosine_similarity((x - 0.5).flatten(1), (there - 0.5).flatten(1))
    assert torch.allclose(gradient_information(Ball(), x, y), expected, atol=1e-5)


# --- the author's code ---------------------------------------------------------------------------


def fixed():
    """A network whose weights come from numpy, and 24 digits."""
    from sklearn.datasets import load_digits

    drawn = np.random.RandomState(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(128, 10),
    )
    with torch.no_grad():
        for weights in model.parameters():
            fan = weights[0].numel() if weights.ndim > 1 else 16
            drawn_ = drawn.normal(0, 1.5 / np.sqrt(fan), weights.shape)
            weights.copy_(torch.tensor(drawn_, dtype=torch.float32))
    digits = load_digits()
    x = torch.tensor(digits.images[:24] / 16, dtype=torch.float32)[:, None]
    return model, x, torch.tensor(digits.target[:24])


def facts(name):
    return torch.tensor([math.nan if value is None else value for value in FACTS[name]])


def test_published_measures_are_those_of_the_authors_code():
    model, x, y = fixed()
    how = {"published": True, "batch_size": 16}
    close = {"atol": 2e-6, "rtol": 1e-4, "equal_nan": True}
    assert torch.allclose(gradient_norm(model, x, y, **how), facts("gradient_norm"), **close)
    how |= {"epsilon": 0.1}
    assert torch.allclose(pgd_collinearity(model, x, y, **how), facts("pgd_collinearity"), **close)
    found = pgd_collinearity(model, x, y, sequential=True, **how)
    assert torch.allclose(found, facts("pgd_collinearity_sequential"), **close)
    found = gradient_information(model, x, y, published=True)
    assert torch.allclose(found, facts("gradient_information"), **close)
    for of, name in (("logit", "linearization_error"), ("loss", "linearization_error_loss")):
        found = linearization_error(model, x[:4], y[:4], of=of, draws=64, seed=5, **how)
        assert torch.allclose(found, facts(name), **close)


def test_without_the_slips_it_is_another_number():
    model, x, y = fixed()
    norm = gradient_norm(model, x, y, batch_size=16)
    sizes = torch.tensor([16.0] * 16 + [8.0] * 8)
    assert torch.allclose(norm, facts("gradient_norm") * sizes, rtol=1e-4)
    found = linearization_error(model, x[:4], y[:4], epsilon=0.1, draws=64, seed=5)
    assert (found < facts("linearization_error") / 2).all()


def test_cosine_agrees_with_foolbox_over_random_starts():
    model, x, y = fixed()
    found = torch.stack([fgsm_pgd_cosine(model, x, y, epsilon=0.1, seed=s) for s in range(12)])
    spread = torch.sqrt(found.var(0) / 12 + facts("cosine_std") ** 2 / 40) + 1e-6
    assert ((found.mean(0) - facts("cosine_mean")).abs() < 4.5 * spread).all()
    assert (
        attacks.accuracy(model, attacks.fgsm(model, x, y, epsilon=0.1), y) == FACTS["fgsm_accuracy"]
    )
    assert attacks.accuracy(model, attacks.pgd(model, x, y, epsilon=0.1), y) == pytest.approx(
        FACTS["pgd_accuracy"], abs=1e-6
    )


def test_deepfool_goes_as_far_as_foolbox():
    model, x, y = fixed()
    subject = Subject(model)
    with undisturbed(model):
        (point,) = points(subject, x, y)
        far = (deepfool(point, steps=5) - x).abs().flatten(1).amax(1)
        short = (deepfool(point, norm="l2", steps=5) - x).flatten(1).norm(dim=1)
    assert torch.allclose(far, facts("deepfool_linf"), rtol=1e-4, atol=1e-6)
    assert torch.allclose(short, facts("deepfool_l2"), rtol=1e-4, atol=1e-6)


# --- what may not change a value -----------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ALL)
def test_neither_batch_size_nor_order_changes_a_value(name, norm, dtype):
    how = {"epsilon": 0.1, "norm": norm, "seed": 4}
    how = {} if name == "gradient_norm" else how
    how = {"norm": norm} if name == "gradient_information" else how
    model, x, y = fixed()
    model, x = model.to(dtype), x.to(dtype)
    whole = ALL[name](model, x, y, **how)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(7))
    moved = torch.empty_like(whole)
    moved[order] = ALL[name](model, x[order], y[order], batch_size=5, **how)
    assert whole.dtype == dtype
    assert whole.isnan().equal(moved.isnan())
    off = (whole - moved).abs().nan_to_num()
    if name == "linearization_error" and dtype == torch.float32:
        # divided by a logit, the rounding of the model itself grows where that is near zero
        nearest = nearest_logit(model, x, y, norm)
        off = off * nearest.clamp_max(1)
    assert off.max() < 1e-5


def nearest_logit(model, x, y, norm):
    """Smallest logit of the label, in size, at the corners that the measure looks at."""
    from geowb.masking.steps import directions

    ways = torch.cat(list(directions(x, 0.1, norm, 256, 4)))
    with torch.no_grad():
        outputs = torch.stack(
            [model(one + ways)[:, label] for one, label in zip(x, y, strict=True)]
        )
    return outputs.abs().amin(1)


@pytest.mark.parametrize("name", [*ALL, "profile"])
def test_the_model_is_left_as_it_was(name):
    model, x, y = Restless().train(), inside(), torch.tensor([0, 1, 2, 3, 4, 0])
    model.body[1].eval()  # one part frozen, as a fine-tuning leaves it
    model(x).sum().backward()
    modes = {key: part.training for key, part in model.named_modules()}
    before = {key: value.clone() for key, value in model.state_dict().items()}
    grads = {key: p.grad.clone() for key, p in model.named_parameters()}
    drawn = torch.get_rng_state()
    given = x.clone().requires_grad_()
    with torch.no_grad():
        first = profile(model, (given, y)) if name == "profile" else ALL[name](model, given, y)
    assert {key: part.training for key, part in model.named_modules()} == modes
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())
    assert all(p.grad.equal(grads[key]) for key, p in model.named_parameters())
    assert torch.get_rng_state().equal(drawn)
    assert given.grad is None
    assert given.detach().equal(x)
    if name != "profile":
        assert not first.requires_grad
        assert first.shape == (6,)
        again = ALL[name](model.eval(), x, y)
        assert torch.allclose(first, again, equal_nan=True)


def test_the_state_comes_back_after_an_error():
    model = Restless().train()
    drawn, exact = torch.get_rng_state(), torch.backends.cudnn.allow_tf32
    with pytest.raises(DataError):
        gradient_norm(model, inside() + 5, torch.zeros(6, dtype=torch.long))
    with pytest.raises(DataError):
        gradient_norm(model, inside(), torch.full((6,), 9))
    assert all(part.training for part in model.modules())
    assert torch.get_rng_state().equal(drawn)
    assert torch.backends.cudnn.allow_tf32 is exact


class Tanh(nn.Module):
    """No parameters; writes into what it is given."""

    def forward(self, x):
        x -= 0.5
        return 3 * x.flatten(1)[:, :4].tanh()


def test_any_module_and_type_can_be_measured():
    x, y = inside(), torch.tensor([0, 1, 2, 3, 0, 1])
    plain = {name: measure(Tanh(), x, y) for name, measure in ALL.items()}
    with torch.inference_mode():
        again = {name: measure(Tanh(), x, y.to(torch.int32)) for name, measure in ALL.items()}
    halved = {name: measure(Tanh(), x.bfloat16(), y) for name, measure in ALL.items()}
    for name, values in plain.items():
        assert torch.allclose(values, again[name], equal_nan=True), name
        assert halved[name].dtype == torch.float32
        if name in ("gradient_norm", "pgd_collinearity"):
            assert torch.allclose(values, halved[name], atol=0.1, rtol=0.1), name


def test_infinite_pixels_are_no_missing_ones():
    x = inside()
    x[0, 0, 0, 0] = math.inf
    with pytest.raises(DataError, match=r"reach from .* to inf"):
        gradient_norm(linear(4), x, torch.zeros(6, dtype=torch.long))


def test_no_more_images_go_at_once_than_asked_for():
    seen = []
    model = linear(4)
    model.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    linearization_error(model, inside(), torch.zeros(6, dtype=torch.long), batch_size=2, draws=40)
    assert max(seen) == 8  # four times as many without a gradient


def test_missing_pixels_stay_missing_and_carry_no_gradient():
    x, y = inside(), torch.zeros(6, dtype=torch.long)
    model = nn.Sequential(Fill(), *linear(3))
    x[:, 0, 0, 0] = math.nan
    filled = x.nan_to_num(0.5)
    for name, measure in ALL.items():
        how = {} if name in ("gradient_norm", "gradient_information") else {"epsilon": 0.1}
        assert measure(model, x, y, **how).isfinite().all(), name
    moved = attacks.pgd(model, x, y, epsilon=0.1)
    assert moved.isnan().equal(x.isnan())
    without = gradient_norm(model, filled, y)
    assert (gradient_norm(model, x, y) < without).all()


class Fill(nn.Module):
    def forward(self, x):
        return x.nan_to_num(0.5)


# --- bad input -----------------------------------------------------------------------------------


class Returns(nn.Module):
    def __init__(self, work):
        super().__init__()
        self.work = work

    def forward(self, x):
        return self.work(x.flatten(1)[:, :4])


BAD_MODELS = {
    "probabilities": (lambda z: z.softmax(1), ModelError, "returns probabilities"),
    "NaN": (lambda z: torch.where(z > 2, z, torch.nan), ModelError, "not finite .* 6 of 6 images"),
    "infinite": (lambda z: z / (z - z), ModelError, "not finite"),
    "detached": (lambda z: z.detach() + 0.0, NotDifferentiable, "not differentiable.*spsa"),
    "numpy": (lambda z: torch.tensor(z.detach().numpy()), NotDifferentiable, "not differentiable"),
    "constant": (
        lambda z: torch.zeros(len(z), 4, requires_grad=True),
        NotDifferentiable,
        "cut off",
    ),
    "bad root": (lambda z: (z - z).sqrt() + z, ModelError, "gradient is not finite"),
    "one logit": (lambda z: z[:, :1], DataError, "one value a sample"),
    "tuple": (lambda z: (z, z), ModelError, "returned tuple"),
    "pooled": (lambda z: z.mean(0, keepdim=True), ModelError, r"returned \(1, 4\) for 6 images"),
    "map": (lambda z: z.reshape(-1, 4, 1, 1), DataError, r"targets are \(6, 1, 1\)"),
}


@pytest.mark.parametrize("kind", BAD_MODELS)
@pytest.mark.parametrize("name", [*ALL, "profile"])
def test_bad_models_are_told(name, kind):
    work, error, told = BAD_MODELS[kind]
    x, y = inside(), torch.tensor([0, 1, 2, 3, 0, 1])
    with pytest.raises(error, match=told):
        profile(Returns(work), (x, y)) if name == "profile" else ALL[name](Returns(work), x, y)


BAD_DATA = {
    "counts": (lambda x, y: (x * 255, y), DataError, "reach from 1.* beyond the range of 0 to 1"),
    "integers": (lambda x, y: ((x * 255).byte(), y), DataError, "floating type, not torch.uint8"),
    "no images": (lambda x, y: (x[:0], y[:0]), DataError, "no images"),
    "all missing": (lambda x, y: (x * math.nan, y), DataError, "No pixel has data"),
    "fewer targets": (lambda x, y: (x, y[:3]), DataError, r"\(6, 1, 4, 4\) and \(3,\)"),
    "maps": (lambda x, y: (x, y[:, None]), DataError, r"targets are \(6,\).*\(6, 1\)"),
    "floats": (lambda x, y: (x, y.float()), DataError, "Targets are torch.float32"),
    "beyond": (lambda x, y: (x, y + 9), DataError, "Targets are 9 to 12; the model tells 4"),
    "unlabelled": (lambda x, y: (x, y - 1), DataError, "Targets are -1"),
}


@pytest.mark.parametrize("kind", BAD_DATA)
@pytest.mark.parametrize("name", [*ALL, "profile"])
def test_bad_samples_are_told(name, kind):
    change, error, told = BAD_DATA[kind]
    x, y = change(inside(), torch.tensor([0, 1, 2, 3, 0, 1]))
    with pytest.raises(error, match=told):
        profile(linear(4), (x, y)) if name == "profile" else ALL[name](linear(4), x, y)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"epsilon": 0}, "positive fraction"),
        ({"epsilon": math.nan}, "positive fraction"),
        ({"norm": "l3"}, "no norm 'l3'"),
        ({"bounds": (1, 0)}, "smallest and the largest"),
        ({"bounds": (0, 1, 2)}, "smallest and the largest"),
        ({"loss": "hinge"}, "no loss 'hinge'"),
        ({"loss": lambda z, y: z.mean()}, "one value a sample"),
        ({"batch_size": 0}, "batch_size must be 1"),
        ({"target": "other"}, "no target 'other'"),
        ({"steps": 0}, "must be 1 or more"),
    ],
)
def test_bad_requests_are_told(wrong, told):
    x, y = inside(), torch.zeros(6, dtype=torch.long)
    with pytest.raises(RequestError, match=told):
        fgsm_pgd_cosine(linear(4), x, y, **wrong)


def test_a_function_is_no_model():
    with pytest.raises(RequestError, match="wrap a function"):
        gradient_norm(lambda x: x, inside(), torch.zeros(6, dtype=torch.long))


def test_no_gradient_anywhere_is_undefined_not_an_error():
    model, x, y = Returns(lambda z: (4 * z).round()), inside(), torch.zeros(6, dtype=torch.long)
    assert (gradient_norm(model, x, y) == 0).all()
    assert fgsm_pgd_cosine(model, x, y).isnan().all()
    assert pgd_collinearity(model, x, y).isnan().all()
    assert gradient_information(model, x, y).isnan().all()
    assert linearization_error(model, x, y).isfinite().all()
    assert (fgsm_pgd_cosine(model, x, y, published=True) == 0).all()
