"""Attacks, defences and the checks of masked gradients, on networks of a second's training."""

from __future__ import annotations

import logging
import sys

import numpy as np
import pytest
import torch
from torch import nn

from geowb.errors import DataError, ModelError, RequestError
from geowb.masking.attacks import accuracy, fgsm, pgd, spsa
from geowb.masking.checks import checklist, random_search
from geowb.masking.defences import DEFENCES, train
from geowb.masking.landscape import loss_along_gradient
from geowb.masking.strong import ATTACKS, autoattack, standard
from geowb.models import build_classifier

EPSILON = 0.15


def digits(rows, classes=4):
    """Some of scikit-learn's digits, of the first classes."""
    from sklearn.datasets import load_digits

    held = load_digits()
    chosen = np.flatnonzero(held.target < classes)[rows]
    x = torch.tensor(held.images[chosen] / 16, dtype=torch.float32)[:, None]
    return x, torch.tensor(held.target[chosen])


@pytest.fixture(scope="module")
def data():
    return digits(slice(500, 540))


@pytest.fixture(scope="module")
def models():
    x, y = digits(slice(400))
    how = {"epsilon": EPSILON, "epochs": 8, "width": 4, "learning_rate": 0.01}
    names = ("none", "pgd", "saturated", "rounded_input")
    return {name: train(name, x, y, **how) for name in names}


# --- FGSM, PGD, SPSA -----------------------------------------------------------------------------


def test_steps_are_as_long_as_they_may_be(models, data):
    x, y = data
    for attack in (fgsm, pgd):
        moved = (attack(models["none"], x, y, epsilon=EPSILON) - x).abs()
        assert moved.max() <= EPSILON + 1e-6
        inside = (x > EPSILON) & (x < 1 - EPSILON)
        assert moved[inside].mean() > 0.8 * EPSILON
        length = (attack(models["none"], x, y, epsilon=0.5, norm="l2") - x).flatten(1).norm(dim=1)
        assert length.max() <= 0.5 + 1e-5
        assert length.median() > 0.45


def test_many_steps_find_more_than_one_and_several_starts_more_than_one(models, data):
    x, y = data
    model = models["none"]
    one, many = (accuracy(model, a(model, x, y, epsilon=EPSILON), y) for a in (fgsm, pgd))
    more = accuracy(model, pgd(model, x, y, epsilon=EPSILON, restarts=4), y)
    assert accuracy(model, x, y) > 0.85
    assert more <= many <= one < 0.8
    assert torch.equal(*(pgd(model, x, y, epsilon=EPSILON, seed=3) for _ in range(2)))


def test_pixels_of_any_range_are_attacked_alike(models, data):
    x, y = data

    class Counts(nn.Module):
        def forward(self, x):
            return models["none"]((x - 100) / 1000)

    there = pgd(Counts(), 100 + 1000 * x, y, epsilon=EPSILON, bounds=(100, 1100))
    assert torch.allclose(
        (there - 100) / 1000, pgd(models["none"], x, y, epsilon=EPSILON), atol=0.02
    )
    assert there.min() >= 100 - 1e-3


def test_spsa_goes_up_where_the_gradient_does(data):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    x, y = data[0].clamp(0.2, 0.8), data[1]
    way = (spsa(model, x, y, epsilon=0.1, samples=128, steps=5) - x).flatten(1)
    slope = (fgsm(model, x, y, epsilon=0.1) - x).flatten(1)
    assert nn.functional.cosine_similarity(way, slope).mean() > 0.7
    assert way.abs().max() <= 0.1 + 1e-6


def test_spsa_attacks_what_has_no_gradient(models, data):
    x, y = data

    class Opaque(nn.Module):
        def forward(self, x):
            return models["none"](x).detach()

    moved = spsa(Opaque(), x, y, epsilon=0.25, samples=64, steps=8)
    assert accuracy(Opaque(), moved, y) < accuracy(Opaque(), x, y) - 0.1


# --- AutoAttack ----------------------------------------------------------------------------------


def test_autoattack_is_that_of_the_library(models, data):
    from pyautoattack import AutoAttack

    x, y = data[0][:12], data[1][:12]
    found = autoattack(models["pgd"], x, y, epsilon=EPSILON, queries=50, seed=2)
    theirs = AutoAttack(
        models["pgd"], norm="Linf", eps=EPSILON, seed=2, device="cpu", version="standard"
    )
    theirs.square.n_queries = 50
    theirs.apgd_targeted.n_target_classes = theirs.fab.n_target_classes = 3
    with torch.random.fork_rng():
        moved, _ = theirs.run_standard_evaluation(x, y, batch_size=256)
    assert torch.equal(found.x, moved)
    assert list(found.table.index) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert found.table["right"].is_monotonic_decreasing
    assert found.accuracy == found.table["right"].iloc[-1]
    assert found.accuracy == pytest.approx(accuracy(models["pgd"], found.x, y))
    assert ((found.x - x).abs() <= EPSILON + 1e-5).all()


def test_autoattack_leaves_no_trace(models, data):
    model = models["pgd"].train()
    model.network[0].weight.requires_grad_(False)
    model(data[0]).sum().backward()
    grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    state, tracer = torch.get_rng_state(), sys.gettrace()
    levels = logging.getLogger("auto-attack").handlers[:]
    few = (part[:6] for part in data)
    autoattack(model, *few, epsilon=EPSILON, queries=5, attacks=["apgd-ce", "fab", "square"])
    assert model.training
    assert [p.requires_grad for p in model.parameters()][:2] == [False, True]
    kept = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(a.equal(b) for a, b in zip(grads, kept, strict=True))
    assert torch.get_rng_state().equal(state)
    assert sys.gettrace() is tracer
    assert logging.getLogger("auto-attack").handlers == levels
    model.network[0].weight.requires_grad_(True)
    model.zero_grad(set_to_none=True)
    model.eval()


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes_get_what_they_can_take(classes):
    x, y = digits(slice(12), classes)
    model = build_classifier((1, 8, 8), [str(k) for k in range(classes)], width=2)
    found = autoattack(model, x, y, epsilon=0.05, queries=10)
    assert list(found.table.index) == list(standard(classes))
    assert f"With {classes} classes there is no targeted APGD" in found.notes[0]
    with pytest.raises(RequestError, match=r"'apgd-t' takes 4 classes or more; the model tells"):
        autoattack(model, x, y, epsilon=0.05, attacks=["apgd-t"])


def test_square_says_when_it_finds_more_than_gradients(models, data):
    x, y = data
    how = {"epsilon": 0.3, "queries": 300, "attacks": ["apgd-ce", "square"]}
    found = autoattack(models["rounded_input"], x, y, **how)
    assert found.table.loc["square", "right"] < found.table.loc["apgd-ce", "right"] - 0.002
    assert any("Square, which needs no gradient" in note for note in found.notes)
    assert found.table.loc["square", "backward"] == 0


def test_what_autoattack_cannot_take_is_told(models, data, monkeypatch):
    x, y = data
    holed = x.clone()
    holed[0, 0, 0, 0] = torch.nan
    filled = nn.Sequential(Fill(), models["none"])
    for wrong, error, told in [
        ({"attacks": ["square", "fabt"]}, RequestError, "no attack 'fabt'. Did you mean 'fab-t'"),
        ({"x": holed, "model": filled}, DataError, "without missing pixels"),
        ({"x": x.flatten(1), "model": nn.Linear(64, 4)}, DataError, r"\(N, C, H, W\)"),
        ({"x": x * 9}, DataError, "beyond the range"),
        ({"model": nn.Sequential(models["none"], nn.Softmax(1))}, ModelError, "probabilities"),
        ({"queries": 0}, RequestError, "queries must be 1 or more"),
    ]:
        asked = {"model": models["none"], "x": x, "y": y, "epsilon": EPSILON} | wrong
        with pytest.raises(error, match=told):
            autoattack(asked.pop("model"), asked.pop("x"), asked.pop("y"), **asked)
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(RequestError, match=r"pip install 'geowb\[attacks\]'"):
        autoattack(models["none"], x, y, epsilon=EPSILON)
    assert set(standard(10)) < set(ATTACKS)


class Fill(nn.Module):
    def forward(self, x):
        return x.nan_to_num(0.5)


# --- defences ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DEFENCES)
def test_every_defence_learns_and_comes_ready(name):
    x, y = digits(slice(200))
    model = train(name, x, y, epsilon=0.05, epochs=5, width=4, learning_rate=0.01)
    assert not model.training
    assert accuracy(model, *digits(slice(500, 600))) > 0.5


def test_defences_defend_and_masks_only_look_like_it(models, data):
    x, y = data
    left = {n: accuracy(m, pgd(m, x, y, epsilon=EPSILON), y) for n, m in models.items()}
    assert left["pgd"] > left["none"] + 0.1
    assert min(left["rounded_input"], left["saturated"]) > left["none"] + 0.1
    how = {"epsilon": EPSILON, "attacks": ["apgd-t"]}
    attacked = {n: autoattack(models[n], x, y, **how).accuracy for n in ("none", "saturated")}
    assert attacked["saturated"] == pytest.approx(attacked["none"], abs=0.08)


def test_trainings_repeat_and_differ_by_seed():
    x, y = digits(slice(64))
    how = {"epsilon": EPSILON, "epochs": 1, "width": 4}
    state = torch.get_rng_state()
    first, again, other = (
        train("pgd", x, y, seed=s, **how).state_dict()["network.0.weight"] for s in (0, 0, 1)
    )
    assert first.equal(again)
    assert not first.equal(other)
    assert torch.get_rng_state().equal(state)


def test_the_papers_network_takes_small_images():
    names = [str(k) for k in range(10)]
    model = build_classifier((3, 16, 16), names, network="resnet18", activation="steep")
    assert model.eval()(torch.zeros(2, 3, 16, 16)).shape == (2, 10)
    assert sum(p.numel() for p in model.parameters()) == 11_173_962
    assert not any(isinstance(part, nn.ReLU) for part in model.modules())


@pytest.mark.parametrize(
    ("wrong", "error", "told"),
    [
        ({"defence": "pdg"}, RequestError, "Did you mean 'pgd'"),
        ({"epsilon": 0}, RequestError, "must be positive"),
        ({"epochs": 0}, RequestError, "1 or more"),
        ({"network": "resnet50"}, RequestError, "no network 'resnet50'"),
        ({"optimizer": "lion"}, RequestError, "no optimizer 'lion'"),
        ({"x": 255 * digits(slice(8))[0]}, DataError, "from 0 to 255"),
        ({"x": digits(slice(8))[0] * torch.nan}, DataError, "from nan to nan"),
        ({"y": torch.full((8,), -1)}, DataError, "Classes reach from -1"),
        ({"classes": ["0", "1"]}, DataError, "2 are named"),
        ({"learning_rate": -1.0}, RequestError, "must be positive"),
        ({"x": torch.zeros(0, 1, 8, 8), "y": torch.zeros(0)}, DataError, "no images"),
        ({"y": torch.zeros(8, 1)}, DataError, r"and \(8, 1\)"),
    ],
)
def test_trainings_that_cannot_be_are_told(wrong, error, told):
    x, y = digits(slice(8))
    asked = {"defence": "none", "x": x, "y": y, "epsilon": 0.1, "epochs": 1} | wrong
    with pytest.raises(error, match=told):
        train(asked.pop("defence"), asked.pop("x"), asked.pop("y"), **asked)


# --- checks and the loss along the gradient ------------------------------------------------------


def test_the_checks_see_what_they_are_for(models, data):
    x, y = data
    how = {"epsilon": EPSILON, "draws": 60, "samples": 16, "steps": 20}
    honest = checklist(models["pgd"], x, y, **how)
    assert not honest["sign"].any(), honest["says"].tolist()
    hidden = checklist(models["rounded_input"], x, y, **how)
    assert hidden.loc["unbounded", "sign"]
    assert "nothing should" in hidden.loc["unbounded", "says"]
    assert hidden.loc["random search", "value"] <= hidden.loc["random search", "beside"]

    class Opaque(nn.Module):
        def forward(self, x):
            return models["none"](x).detach()

    opaque = checklist(Opaque(), x, y, **how)
    assert opaque.loc["unbounded", "sign"]
    assert "no gradient to follow" in opaque.loc["larger epsilon", "says"]
    assert "without gradients" not in checklist(models["pgd"], x, y, **how | {"samples": 0}).index


def test_random_search_stays_in_the_ball_and_keeps_what_it_cannot_fool(models, data):
    x, y = data
    moved = random_search(models["none"], x, y, epsilon=EPSILON, draws=30)
    away = (moved - x).abs().flatten(1).amax(1)
    fooled = models["none"](moved).argmax(1) != y
    assert ((away > 0) <= fooled).all()
    assert away.max() <= EPSILON + 1e-6
    assert torch.equal(moved, random_search(models["none"], x, y, epsilon=EPSILON, draws=30))


def test_the_loss_along_the_gradient_begins_with_the_loss(models, data):
    x, y = data
    found = loss_along_gradient(models["none"], x, y, epsilons=[0, 0.01, 0.1], batch_size=16)
    with torch.no_grad():
        loss = nn.functional.cross_entropy(models["none"](x), y, reduction="none")
    assert np.allclose(found.loc[0.0], loss.numpy(), atol=1e-5)
    assert (found.mean(axis=1).diff().iloc[1:] > 0).all()
    with pytest.raises(RequestError, match="epsilons are 0 or more"):
        loss_along_gradient(models["none"], x, y, epsilons=[])


class Shifts(nn.Module):
    """A model that works in place on what it is given."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        x -= 0.1
        return self.inner(x.clamp(0, 1))


def test_models_that_work_in_place_shift_nothing(models, data):
    x, y = data
    model = Shifts(models["none"])
    for attack in (fgsm, pgd, spsa, random_search):
        how = {"samples": 4, "steps": 2} if attack is spsa else {}
        moved = attack(model, x, y, epsilon=0.01, **how)
        assert (moved - x).abs().max() <= 0.01 + 1e-5, attack.__name__


def test_attacks_on_classes_refuse_maps():
    x, y = torch.rand(4, 1, 8, 8), torch.zeros(4, 8, 8, dtype=torch.long)
    model = nn.Conv2d(1, 3, 1)
    for work in (random_search, autoattack, checklist):
        with pytest.raises(DataError, match="needs a class a sample"):
            work(model, x, y, epsilon=0.1)
    with pytest.raises(RequestError, match="2 or more: 1"):
        spsa(model, x, y, epsilon=0.1, samples=1)
