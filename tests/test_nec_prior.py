"""The learned prior: CompressAI's densities, a rate that real bytes keep, closed forms."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from geowb.errors import ModelError, WeightsMismatch
from geowb.nec import FactorizedPrior, Tables
from geowb.nec.making import fit_prior

FACTS = json.loads(Path(__file__).with_name("compressai_facts.json").read_text())


@pytest.fixture(scope="module")
def fitted() -> tuple[FactorizedPrior, torch.Tensor]:
    """A prior fitted to normal values of four widths."""
    random = torch.Generator().manual_seed(0)
    values = torch.randn(4096, 4, generator=random) * torch.tensor([0.05, 0.5, 2.0, 8.0]) + 0.3
    prior = FactorizedPrior(4, init_scale=4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fit_prior(prior, values, steps=400)
    return prior, values


def test_fitting_follows_its_seed_and_nothing_else(fitted):
    tables = []
    for seed, before in ((3, 0), (3, 1), (4, 0)):
        torch.manual_seed(before)
        prior = FactorizedPrior(4, init_scale=4)
        fit_prior(prior, fitted[1], steps=20, seed=seed)
        tables.append(prior.tables())
    assert tables[0] == tables[1]
    assert tables[0] != tables[2]


def test_likelihoods_are_those_of_compressai():
    """Parameters and likelihoods of an ``EntropyBottleneck`` of version 1.2.6."""
    state = {key: torch.tensor(value) for key, value in FACTS["state"].items()}
    prior = FactorizedPrior(2)
    prior.load_compressai(state)
    found = prior.likelihood(torch.tensor(FACTS["values"]))
    np.testing.assert_allclose(found.detach(), FACTS["likelihoods"], atol=1e-6)
    newer = {"matrix": "matrices.", "bias": "biases.", "factor": "factors."}
    renamed = {}
    for key, value in state.items():
        name = key.strip("_")[:-1]
        renamed["codec." + (newer[name] + key[-1] if name in newer else key)] = value
    again = FactorizedPrior(2)
    again.load_compressai(renamed, prefix="codec.")
    assert all(
        torch.equal(a, b) for a, b in zip(prior.parameters(), again.parameters(), strict=True)
    )
    for bad in ({}, {k: v for k, v in state.items() if k != "_bias2"}):
        with pytest.raises(WeightsMismatch, match="2 channels"):
            FactorizedPrior(2).load_compressai(bad)
    with pytest.raises(WeightsMismatch, match="3 channels"):
        FactorizedPrior(3).load_compressai(state)


def test_counts_of_weights_are_those_of_the_paper():
    prior = FactorizedPrior(768)
    assert sum(p.numel() for p in prior.parameters()) == 46_848


def test_probabilities_of_all_steps_add_to_one(fitted):
    prior, _ = fitted
    steps = torch.arange(-400, 401, dtype=torch.float32)[:, None].expand(-1, 4) + prior.medians
    np.testing.assert_allclose(prior.likelihood(steps).detach().sum(0), 1, atol=1e-4)


def test_a_fitted_density_is_that_of_the_values(fitted):
    """Normal values of width s, rounded to steps, have a known entropy."""
    from scipy.stats import norm

    prior, values = fitted
    prior.eval()
    arrived, bits = prior(values)
    for channel, width in enumerate((0.05, 0.5, 2.0, 8.0)):
        k = np.arange(-100, 101) + float(prior.medians[channel])
        p = norm.cdf(k + 0.5, 0.3, width) - norm.cdf(k - 0.5, 0.3, width)
        entropy = -(p[p > 0] * np.log2(p[p > 0])).sum()
        # It is fitted to noisy values, whose density is a little wider than steps are.
        assert bits[:, channel].mean().item() == pytest.approx(entropy, abs=0.06)
    np.testing.assert_allclose(prior.medians, 0.3, atol=0.4)  # 0.05 wide: anywhere in the step
    assert ((arrived - values).abs() <= 0.5001).all()


def test_real_bytes_keep_the_rate(fitted):
    prior, values = fitted
    prior.eval()
    bits = prior(values)[1].sum().item()
    tables = prior.tables()
    stream = tables.encode(values.numpy())
    assert 8 * len(stream) == pytest.approx(bits, rel=0.015)  # 0.5 % are for what was never seen
    np.testing.assert_allclose(tables.decode(stream), prior(values)[0].detach(), atol=1e-4)


def test_what_was_never_seen_is_not_ruinous(fitted):
    prior, values = fitted
    far = (values + 60).numpy()  # far beyond all tables but one
    tables = prior.tables()
    assert 8 * len(tables.encode(far)) / far.size < 25
    for weights in tables.weights:  # 0.3 % of a bit's worth for each bit, shared out equally
        p = weights / 2**24
        entropy = -(p * np.log2(p)).sum()
        assert p.min() == pytest.approx(max(3e-3 * entropy, 2e-6) / len(p), rel=0.35)
    np.testing.assert_array_equal(tables.decode(tables.encode(far)), tables.quantise(far))


def test_steps_divide_values(fitted):
    prior, values = fitted
    fine = prior.tables(steps=0.25)
    scaled = values.numpy() * np.float32(0.25)
    assert len(fine.encode(scaled)) == len(prior.tables().encode(values.numpy()))
    assert (np.abs(fine.quantise(scaled) - scaled) <= 0.126).all()


def test_noise_in_training_and_rounding_in_use():
    prior = FactorizedPrior(3).train()
    x = torch.zeros(5000, 3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        noisy, bits = prior(x)
    assert noisy.min() >= -0.5
    assert noisy.max() <= 0.5
    assert float(noisy.std()) == pytest.approx(12**-0.5, rel=0.02)
    assert bits.shape == x.shape
    prior.eval()
    arrived = prior(torch.linspace(-3, 3, 30).reshape(10, 3))[0] - prior.medians
    torch.testing.assert_close(arrived, arrived.round(), atol=1e-5, rtol=0)


def test_medians_follow_when_training_ends(fitted):
    prior = FactorizedPrior(1).train()
    with torch.no_grad():
        for bias in prior.biases:
            bias.add_(1.5)
    before = float(prior.medians)
    prior.eval()
    median = float(prior.medians)
    assert median != before
    logits = prior._logits(torch.tensor([[[median]]]))
    assert logits.item() == pytest.approx(0, abs=1e-4)


def test_gradients_reach_what_is_unlikely():
    """Where the likelihood is at its bound, a loss still pulls the value in."""
    prior = FactorizedPrior(1, init_scale=0.1)
    x = torch.full((1, 1), 40.0, requires_grad=True)
    bits = -prior.likelihood(x).log2()
    assert bits.item() == pytest.approx(-np.log2(1e-9), abs=1e-3)
    weights = [p for p in prior.parameters() if p.requires_grad]
    grads = torch.autograd.grad(bits.sum(), [x, *weights], allow_unused=True)
    assert all(torch.isfinite(g).all() for g in grads if g is not None)


def test_a_wide_density_keeps_its_table_small():
    prior = FactorizedPrior(2, init_scale=1e6)
    tables = prior.eval().tables()
    assert max(map(len, tables.weights)) <= 2**15 + 2
    values = np.float32([[3e5, -2e6]])
    np.testing.assert_array_equal(tables.decode(tables.encode(values)), tables.quantise(values))


def test_bad_input_is_told():
    with pytest.raises(ModelError, match="channels=0"):
        FactorizedPrior(0)
    with pytest.raises(ModelError, match="not of 4"):
        FactorizedPrior(3)(torch.zeros(2, 4))
    broken = FactorizedPrior(2)
    with torch.no_grad():
        broken.biases[0].fill_(torch.nan)
    with pytest.raises(ModelError, match="learning rate"):
        broken.eval()


def test_tables_are_the_same_wherever_they_were_frozen(fitted):
    prior, _ = fitted
    packed = prior.tables().to_bytes()
    assert Tables.from_bytes(packed) == prior.tables()
    assert prior.double().tables().channels == 4
    prior.float()
