"""What fills gaps in chips: masked Prithvi, the conditional GAN, rules, a network for pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from geowb.errors import ModelError
from geowb.gaps import DateMean, LinearInTime, NetworkFiller, TemporalNeighbour
from geowb.models import load, save
from geowb.models.cgan import build_cgan
from geowb.models.masked import build_masked

NAN = float("nan")


@pytest.fixture(scope="module")
def prithvi():
    return build_masked("prithvi_demo", frames=3, seed=1).eval()


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Four chips, of which 191, 128, 64 and 180 patches of 8 x 8 are whole."""
    draw = torch.Generator().manual_seed(0)
    x = 2000 + 500 * torch.randn(4, 6, 3, 64, 64, generator=draw)
    missing = torch.zeros(4, 3, 64, 64, dtype=torch.bool)
    missing[0, 1, 17, 30] = True
    missing[1, 1] = True
    missing[2, 1:] = True
    missing[3, 2, :20, :30] = True
    return x, missing


def test_each_sample_keeps_all_its_own_patches(prithvi, batch) -> None:
    x, missing = (part.flip(0) for part in batch)  # the first shows neither most nor least
    with torch.no_grad():
        together = prithvi.fill(x, missing)
        alone = [prithvi.fill(x[i : i + 1], missing[i : i + 1]) for i in range(4)]
    hidden = torch.tensor([12, 128, 64, 1]) * 64
    assert together.hidden.flatten(1).sum(1).tolist() == hidden.tolist()
    for i, one in enumerate(alone):
        off = (together.prediction[i] - one.prediction[0]) / prithvi.std[0]
        assert off.abs().max() < 1e-5
        assert torch.equal(together.hidden[i], one.hidden[0])
    # The loss of a batch is the mean over its hidden patches.
    losses = torch.stack([one.loss for one in alone])
    assert together.loss.item() == pytest.approx(
        (losses * hidden).sum().item() / hidden.sum().item(), rel=1e-5
    )


def test_nothing_is_seen_of_hidden_patches(prithvi, batch) -> None:
    x, missing = batch
    hidden = prithvi.fill(x, missing).hidden
    with torch.no_grad():
        expected = prithvi.fill(x, missing).prediction
        for value in (NAN, -9999.0, 30_000.0):
            found = prithvi.fill(torch.where(hidden, value, x), missing).prediction
            assert torch.equal(found, expected)
        shown = x.clone()
        shown[0, 0, 0, 0, 0] += 1000  # that of a shown patch is
        assert not torch.equal(prithvi.fill(shown, missing).prediction[0], expected[0])


def test_no_data_hides_its_patch_and_is_no_part_of_the_loss(prithvi, batch) -> None:
    x, missing = batch[0][:1].clone(), batch[1][:1]
    x[0, 2, 0, 40, 40] = NAN  # one band of another patch
    with torch.no_grad():
        found = prithvi.fill(x, missing)
    assert found.hidden.sum() == 2 * 64
    square = ((found.prediction - x) / prithvi.std).square()
    where = found.hidden & torch.isfinite(x)
    assert where.sum() == 2 * 64 * 6 - 1
    assert found.loss.item() == pytest.approx(square[where].mean().item(), rel=1e-5)


def test_given_masks_and_drawn_ones_agree(prithvi, batch) -> None:
    """The same patches hidden by noise, as in pretraining."""
    x, missing = batch[0][1:2], batch[1][1:2]
    noise = missing[:, :, ::8, ::8].flatten(1).float()  # whole patches: the middle date
    with torch.no_grad():
        drawn = prithvi(x, noise, mask_ratio=1 / 3 - 1e-6)
        given = prithvi.fill(x, missing)
    assert torch.equal(drawn.hidden, given.hidden)
    assert torch.allclose(drawn.prediction, given.prediction, rtol=0, atol=0.02)  # counts


def test_a_sample_of_which_nothing_is_left_is_refused(prithvi, batch) -> None:
    x, missing = batch[0], batch[1].clone()
    missing[2, :, ::8, ::8] = True  # a pixel of every patch
    assert prithvi.can_fill(x, missing).tolist() == [True, True, False, True]
    with pytest.raises(ModelError, match="Sample 2 of the batch has no patch of 8 x 8"):
        prithvi.fill(x, missing)
    with pytest.raises(ModelError, match=r"missing is \(4, 3, 64, 63\)"):
        prithvi.fill(x, missing[..., 1:])
    with pytest.raises(ModelError, match="float32"):
        prithvi.fill(x, missing.float())


# --- the conditional GAN ------------------------------------------------------------------------


def _generator_size(w: int, c: int, halvings: int, blocks: int) -> int:
    def residual(a: int, b: int) -> int:
        return 9 * a * b + b + 9 * b * b + b + 2 * a + 2 * b + (a * b if a != b else 0)

    m = w << halvings
    down = sum(18 * n * n + 2 * n + 4 * n for n in (w << i for i in range(halvings)))
    up = sum(residual(m >> i, m >> (i + 1)) for i in range(halvings))
    return 49 * c * w + w + down + blocks * residual(m, m) + up + 9 * w * c + c


def _discriminator_size(w: int, c: int) -> int:
    layers = sum(18 * n * n + 2 * n for n in (w, 2 * w, 4 * w))
    return 18 * c * w + w + layers + 72 * w + 1


@pytest.mark.parametrize(
    ("width", "halvings", "blocks", "frames"), [(8, 4, 9, 3), (4, 3, 2, 1), (6, 1, 0, 2)]
)
def test_parameters_of_the_cgan_by_closed_form(width, halvings, blocks, frames) -> None:
    model = build_cgan(width=width, halvings=halvings, blocks=blocks, frames=frames)
    found = [sum(p.numel() for p in part.parameters()) for part in model.children()]
    channels = 6 * frames
    assert found == [
        _generator_size(width, channels, halvings, blocks),
        2 * _discriminator_size(width, channels),
    ]


def test_the_published_cgan_has_186_million_parameters() -> None:
    with torch.device("meta"):
        from geowb.models.cgan import CGAN, cgan_card

        model = CGAN(cgan_card())
    found = sum(p.numel() for p in model.generator.parameters())
    assert found == _generator_size(64, 18, 4, 9) == 186_368_466


def test_the_cgan_sees_nothing_behind_the_mask(batch) -> None:
    model = build_cgan(width=4, blocks=1).eval()
    x, missing = batch
    with torch.no_grad():
        found = model.fill(x, missing)
        other = model.fill(x.masked_fill(missing[:, None], NAN), missing)
    assert torch.equal(found.prediction, other.prediction)
    assert torch.equal(found.hidden[:, 0], missing)
    assert found.prediction.abs().max() <= 1e4  # tanh of reflectance
    square = (found.prediction - x).square().mean(1)[missing].mean() * 1e-8
    assert found.loss.item() == pytest.approx(square.item(), rel=1e-4)
    assert other.loss == 0  # no known pixel is missing
    with pytest.raises(ModelError, match="multiples of 16, at least 32"):
        model.fill(x[..., :40, :40], missing[..., :40, :40])


def test_the_adversarial_loss_counts_where_something_is_missing(batch) -> None:
    model = build_cgan(width=4, blocks=0)
    shown, gap, _ = model.parts(*batch)
    gates = model.gates(gap)
    assert [g.shape for g in gates] == [(4, 1, 8, 8), (4, 1, 4, 4)]
    assert [d.shape for d in model.judge(shown, shown)] == [(4, 1, 8, 8), (4, 1, 4, 4)]
    assert gates[0][0].nonzero().tolist() == [[0, 2, 3]]  # pixel 17, 30
    assert gates[1][0, 0, 1, 1].item() == pytest.approx(1 / 3)  # one date of three
    assert (gates[0][2] - 2 / 3).abs().max() < 1e-6


def test_a_cgan_is_saved_and_loaded(tmp_path: Path, batch) -> None:
    model = build_cgan(width=4, blocks=1, seed=3).eval()
    save(model, tmp_path / "model.safetensors", task="gap filling", units="1e-4")
    again = load(tmp_path)
    assert again.card["kind"] == "cgan"
    assert again.card["width"] == 4
    with torch.no_grad():
        assert torch.equal(again.fill(*batch).prediction, model.fill(*batch).prediction)
    (tmp_path / "model.json").write_text('{"kind": "cgan", "seed": 1}')
    with pytest.raises(ModelError, match="not a model's card"):
        load(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": 0},
        {"size": 40},
        {"frames": 0},
        {"bands": []},
        {"halvings": 3, "size": 24},  # its second discriminator sees one square and a half
        {"halvings": 2, "size": 40},
    ],
)
def test_sizes_that_no_cgan_has(wrong: dict) -> None:
    with pytest.raises(ModelError):
        build_cgan(**wrong)


# --- rules and networks -------------------------------------------------------------------------


def _series(*values: float) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.tensor(values).reshape(1, 1, -1, 1, 1)
    return x.nan_to_num(7777.0), torch.isnan(x)[:, 0]


@pytest.mark.parametrize(
    ("values", "days", "neighbour", "linear"),
    [
        ((1, NAN, 5), None, (1, 1, 5), (1, 3, 5)),  # a tie: the earlier
        ((1, NAN, 5), (0, 30, 40), (1, 5, 5), (1, 4, 5)),
        ((NAN, NAN, 5, 9), None, (5, 5, 5, 9), (5, 5, 5, 9)),
        ((2, 4, NAN, NAN), (0, 1, 2, 90), (2, 4, 4, 4), (2, 4, 4, 4)),
        ((1, NAN, NAN, NAN, 9), (0, 1, 5, 7, 8), (1, 1, 9, 9, 9), (1, 2, 6, 8, 9)),
    ],
)
def test_rules_in_time_by_hand(values, days, neighbour, linear) -> None:
    x, missing = _series(*values)
    for rule, expected in ((TemporalNeighbour(), neighbour), (LinearInTime(), linear)):
        found = rule.fill(x, missing, days=days).prediction.flatten().tolist()
        assert found == pytest.approx(list(expected))


def test_linear_against_numpy() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(2, 3, 7, 5, 4)).astype(np.float32)
    missing = draw.random((2, 7, 5, 4)) < 0.5
    days = np.array([0.0, 3, 10, 11, 30, 47, 50])
    found = LinearInTime().fill(torch.tensor(x), torch.tensor(missing), days=days).prediction
    for at in np.argwhere(~missing.all(1)):
        n, row, column = at
        clear = ~missing[n, :, row, column]
        for band in range(3):
            values = x[n, band, :, row, column]
            expected = np.interp(days, days[clear], values[clear])
            assert found[n, band, :, row, column].numpy() == pytest.approx(expected, abs=1e-5)


def test_what_is_never_clear_gets_the_mean_of_its_date() -> None:
    x = torch.tensor([[1.0, 3.0, 50.0], [5.0, 7.0, 50.0]]).reshape(1, 1, 2, 1, 3)
    missing = torch.tensor([[False, False, True]] * 2).reshape(1, 2, 1, 3)
    for rule in (TemporalNeighbour(), LinearInTime(), DateMean()):
        assert rule.fill(x, missing).prediction[..., 2].flatten().tolist() == [2, 6]
    missing[:, 1] = True  # a date without a clear pixel: the mean over all dates
    assert DateMean().fill(x, missing).prediction[0, 0, :, 0, 0].tolist() == [2, 2]
    with pytest.raises(ModelError, match="3 days for 2 dates"):
        LinearInTime().fill(x, missing, days=[0, 1, 2])


def test_a_network_for_pixels_is_told_where_gaps_are(tmp_path: Path, batch) -> None:
    filler = NetworkFiller.build("unet", seed=2).eval()
    x, missing = batch
    with torch.no_grad():
        found = filler.fill(x, missing)
        again = filler.fill(x.masked_fill(missing[:, None], NAN), missing)
        less = filler.fill(x, missing & (torch.arange(64) < 32))
    assert torch.equal(found.prediction, again.prediction)
    assert not torch.equal(found.prediction[1], less.prediction[1])
    square = ((found.prediction - x) / filler.model.std[:, :-1]).square().mean(1)[missing].mean()
    assert found.loss.item() == pytest.approx(square.item(), rel=1e-4)
    save(filler.model, tmp_path / "model.safetensors")
    loaded = NetworkFiller(load(tmp_path))
    with torch.no_grad():
        assert torch.equal(loaded.fill(x, missing).prediction, found.prediction)


def test_other_networks_are_refused() -> None:
    from geowb.models import build

    with pytest.raises(ModelError, match="cannot fill gaps"):
        NetworkFiller(build("unet", frames=3, outputs=18))
