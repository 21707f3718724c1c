"""Scores, intervals over places, comparisons, transfer, and errors between the shots."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from scenes import scene
from torchmetrics.functional import mean_squared_error, r2_score

from geowb import evaluate
from geowb.chips import ChipDataset, cut, split_by_place
from geowb.errors import DataError


def table(observed, predicted, *, place=None, scene="a", region=None):
    """A table as `at_labels` gives it."""
    n = len(observed)
    place = np.arange(n) if place is None else place
    return pd.DataFrame(
        {
            "scene": scene,
            "sample": -1,
            "region": scene if region is None else region,
            "place": [str(p) for p in place],
            "row": np.arange(n),
            "col": 0,
            "observed": np.asarray(observed, float),
            "predicted": np.asarray(predicted, float),
        }
    )


def random_table(n=60, *, seed=0, places=12, scene="a", shift=0.0):
    random = np.random.default_rng(seed)
    observed = random.gamma(2.0, 60.0, n)
    hard = random.normal(0, 20, places)  # what makes a place hard for everyone
    place = random.integers(places, size=n)
    return table(observed, observed + shift + hard[place] + random.normal(0, 10, n), place=place,
                 scene=scene)  # fmt: skip


# --- scores ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_torchmetrics(seed):
    pixels = random_table(seed=seed, shift=5 * seed)
    found = evaluate.scores(pixels)
    observed, predicted = (torch.tensor(pixels[c].to_numpy()) for c in ("observed", "predicted"))
    assert found["rmse"] == pytest.approx(mean_squared_error(predicted, observed).item() ** 0.5)
    assert found["r2"] == pytest.approx(r2_score(predicted, observed).item())
    assert found["bias"] == pytest.approx((predicted - observed).mean().item())
    assert found["rmse"] == pytest.approx(evaluate.rmse(pixels))
    assert found["pixels"] == 60


def test_r2_of_equal_labels_is_not_a_number():
    assert np.isnan(evaluate.scores(table([7.0] * 4, [6.0, 7.0, 8.0, 9.0]))["r2"])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_model_that_diverged_has_no_score(bad):
    pixels = random_table()
    broken = pixels.assign(predicted=pixels["predicted"].where(pixels.index != 7, bad))
    assert not np.isfinite(evaluate.scores(broken)[["rmse", "bias"]]).any()
    assert not evaluate.scores(broken)["r2"] > 0
    nothing = broken.assign(predicted=np.nan)
    assert evaluate.with_interval(nothing).isna().all().all()
    assert evaluate.paired(nothing, pixels).isna().all().all()
    with np.errstate(invalid="ignore"):
        tables = evaluate.with_interval(broken), evaluate.paired(broken, pixels)
    for found in tables:
        assert not np.isfinite(found).any().any()


# --- intervals -------------------------------------------------------------------------------


def test_the_interval_is_that_of_scipy_where_every_pixel_is_a_place():
    random = np.random.default_rng(1)
    error = random.normal(3, 10, 80)
    pixels = table(np.full(80, 50.0) + np.arange(80), 50.0 + np.arange(80) + error)
    found = evaluate.with_interval(pixels, repeats=4000)
    root = lambda e, axis: np.sqrt(np.mean(e**2, axis=axis))  # noqa: E731
    for name, statistic in (("rmse", root), ("bias", np.mean)):
        theirs = scipy.stats.bootstrap(
            (error,), statistic, method="percentile", n_resamples=4000, rng=2
        ).confidence_interval
        width = theirs.high - theirs.low
        assert found.loc[name, "low"] == pytest.approx(theirs.low, abs=0.08 * width)
        assert found.loc[name, "high"] == pytest.approx(theirs.high, abs=0.08 * width)


def test_more_pixels_of_the_same_places_make_nothing_surer():
    pixels = random_table()
    often = pd.concat([pixels] * 10)
    one, ten = (evaluate.with_interval(t) for t in (pixels, often))
    pd.testing.assert_frame_equal(one, ten)
    apart = often.assign(place=[str(i) for i in range(len(often))])
    width = lambda t: t.loc["rmse", "high"] - t.loc["rmse", "low"]  # noqa: E731
    assert width(evaluate.with_interval(apart)) < 0.5 * width(one)


def test_each_scene_keeps_its_number_of_places():
    single = table([10.0] * 5, [10.0] * 5, place=[0] * 5, scene="b")
    other = table([0.0, 0.0, 0.0], [100.0, 100.0, 100.0])
    found = evaluate.with_interval(pd.concat([single, other], ignore_index=True))
    expected = 100 * np.sqrt(3 / 8)  # the same in every draw
    assert found.loc["rmse"].tolist() == pytest.approx([expected] * 3)


def test_scenes_of_one_place_each_are_drawn_among_each_other():
    apart = random_table().assign(scene="a")
    apart["place"] = (np.arange(len(apart)) // 10).astype(str)
    each = apart.assign(scene=apart["place"], place="0/0")
    one, other = (evaluate.with_interval(pixels) for pixels in (apart, each))
    assert one.loc["rmse", "high"] > one.loc["rmse", "low"]
    pd.testing.assert_frame_equal(one, other)


def test_two_places_give_no_interval():
    found = evaluate.with_interval(table([1.0, 2.0], [2.0, 4.0]))
    assert np.isfinite(found["value"]).all()
    assert found[["low", "high"]].isna().all().all()


def test_intervals_repeat_and_follow_the_seed():
    pixels = random_table()
    one, two, other = (evaluate.with_interval(pixels, seed=s) for s in (3, 3, 4))
    assert one.equals(two)
    assert not one.equals(other)


# --- comparing two models --------------------------------------------------------------------


def test_what_is_hard_for_both_cancels():
    theirs = random_table(400, places=20)
    ours = theirs.assign(predicted=theirs["observed"] + 0.9 * (theirs.predicted - theirs.observed))
    found = evaluate.paired(ours, theirs)
    assert found.loc["ratio"].tolist() == pytest.approx([0.9] * 3)
    assert found.loc["difference", "high"] < 0
    alone = [evaluate.with_interval(t).loc["rmse"] for t in (ours, theirs)]
    assert alone[0]["high"] > alone[1]["low"]  # apart, nothing could be told


def test_a_model_against_itself_is_a_tie():
    pixels = random_table()
    assert evaluate.paired(pixels, pixels).loc["difference"].tolist() == [0, 0, 0]


def test_models_are_compared_on_the_same_pixels_only():
    pixels = random_table()
    for other in (pixels.iloc[1:], pixels.assign(row=pixels["row"] + 1)):
        with pytest.raises(DataError, match="different pixels"):
            evaluate.paired(pixels, other)


# --- residuals and transfer ------------------------------------------------------------------


def test_residuals_are_quartiles_of_bins_of_the_observed():
    observed = np.r_[np.linspace(0, 49.9, 9), np.linspace(50, 99.9, 7), [150.0]]
    error = np.random.default_rng(0).normal(size=17)
    found = evaluate.residuals(table(observed, observed + error))
    assert found.index.tolist() == [25.0, 75.0]  # one pixel is too few for a bin of its own
    for middle, part in ((25.0, error[:9]), (75.0, error[9:16])):
        expected = np.percentile(part, [25, 50, 75])
        assert found.loc[middle, ["low", "median", "high"]].tolist() == pytest.approx(expected)
    assert found["pixels"].tolist() == [9, 7]


def test_transfer_loss_is_the_mean_ratio_over_ordered_pairs():
    off = {("a", "a"): 10, ("a", "b"): 30, ("b", "a"): 15, ("b", "b"): 20}  # trained, tested

    def tested(trained):
        parts = [
            table([50.0, 150.0], [50.0 + off[trained, at], 150.0 - 2 * off[trained, at]], scene=at)
            for at in "ab"
        ]
        return pd.concat(parts, ignore_index=True)

    found = evaluate.transfer_loss({name: tested(name) for name in "ab"}, least=1)
    assert found["0-100"] == pytest.approx((30 / 20 + 15 / 10) / 2)
    assert found["all"] == pytest.approx((30 / 20 + 15 / 10) / 2)
    assert np.isnan(found["200-300"])
    assert found.index.tolist() == ["0-100", "100-200", "200-300", "0-300", "300+", "all"]
    assert evaluate.transfer_loss({name: tested(name) for name in "ab"}, least=3).isna().all()
    more = {"a": pd.concat([tested("a")] * 2), "b": pd.concat([tested("b")] * 2)}
    assert evaluate.transfer_loss(more, least=3)["all"] == pytest.approx(found["all"])


def test_a_region_without_test_pixels_is_left_out():
    one = {name: random_table(scene="a") for name in "ab"}
    assert evaluate.transfer_loss(one)["all"] == pytest.approx(1.0)


def test_without_a_second_region_there_is_no_transfer():
    assert evaluate.transfer_loss({"a": random_table()}).isna().all()


# --- between the shots -----------------------------------------------------------------------


class Red(torch.nn.Module):
    """The truth of the tests' scenes (0.02 x red), and something beside it."""

    def __init__(self, shift=0.0):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.tensor(float(shift)))

    def forward(self, x):
        return 0.02 * x[:, 2:3, 0] + self.shift


def test_the_truth_is_met_at_every_pixel_and_shots_are_marked():
    scenes = {"a": scene(48, 40, density=0.05), "b": scene(32, 32, density=0.05, seed=1)}
    chips = split_by_place(cut(scenes, 16), seed=0)
    noisy = scenes["a"].agb + 5
    scenes["a"] = scenes["a"].assign(agb=noisy)
    found = evaluate.against_truth(Red(2.0), scenes, chips)
    assert len(found) == 48 * 40 + 32 * 32
    assert found["shot"].sum() == sum(int(s.agb.notnull().sum()) for s in scenes.values())
    assert evaluate.rmse(found) == pytest.approx(2.0, rel=1e-4)
    at = found[found["shot"] & (found["scene"] == "a")]
    assert (at["label"] - at["observed"]).to_numpy() == pytest.approx(5.0, rel=1e-4)
    assert found.loc[~found["shot"], "label"].isna().all()


def test_pixels_know_their_place_and_region():
    scenes = {"a": scene(64, 64, density=0.1)}
    chips = split_by_place(cut(scenes, 16), block=2).assign(region="savanna")
    found = evaluate.at_labels(Red(), ChipDataset(scenes, chips))
    assert set(found["region"]) == {"savanna"}
    assert (found["place"] == [f"{r // 32}/{c // 32}" for r, c in zip(found.row, found.col)]).all()  # noqa: B905
    plain = evaluate.at_labels(Red(), ChipDataset(scenes, cut(scenes, 16)))
    assert set(plain["region"]) == {"a"}
    assert plain["place"].nunique() == 16
