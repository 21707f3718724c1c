"""The profile with its verdict, comparing models, the published tables, samples, pictures."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import geowb
from geowb.errors import DataError, RequestError
from geowb.labelled import Places
from geowb.masking import comparing, metrics, pictures, profile, published
from geowb.masking.comparing import METRICS, auroc, correlations, row
from geowb.masking.drawing import pixel_range, samples
from geowb.masking.profiling import _foresight
from geowb.masking.verdict import trust_of, weights_of


def clusters(count=60, classes=4, seed=0):
    """Images of 16 pixels, one group of which is bright: any linear model tells them."""
    drawn = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % classes
    x = 0.4 + 0.05 * torch.randn((count, 1, 4, 4), generator=drawn)
    for k in range(classes):
        x[y == k, 0, k] += 0.2
    return x.clamp(0.1, 0.9), y


def reading(gain=8.0):
    """A linear model that reads the groups."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    with torch.no_grad():
        model[1].bias.zero_()
        model[1].weight.copy_(gain * torch.eye(4).repeat_interleave(4, 1))
    return model


class Around(nn.Module):
    def __init__(self, work):
        super().__init__()
        self.inner, self.work = reading(), work

    def forward(self, x):
        return self.work(self.inner, x)


# --- the profile ---------------------------------------------------------------------------------


def test_a_profile_holds_what_the_measures_say():
    x, y = clusters()
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 4))
    torch.manual_seed(0)
    for part in (model[1], model[3]):
        part.reset_parameters()
    how = {"epsilon": 0.05, "seed": 3}
    found = profile(model, [(x[:25], y[:25]), (x[25:], y[25:])], draws=48, batch_size=17, **how)
    own = {
        "gradient_norm": metrics.gradient_norm(model, x, y),
        "fgsm_pgd_cosine": metrics.fgsm_pgd_cosine(model, x, y, **how),
        "linearization_error": metrics.linearization_error(model, x, y, draws=48, **how),
        "pgd_collinearity": metrics.pgd_collinearity(model, x, y, **how),
        "gradient_information": metrics.gradient_information(model, x, y),
    }
    for name, values in own.items():
        told = torch.tensor(found.samples[name].to_numpy(), dtype=torch.float32)
        assert torch.allclose(told, values, atol=1e-5, rtol=1e-3, equal_nan=True), name
        assert found.table.loc[name, "mean"] == pytest.approx(float(values.nanmean()), rel=1e-3)
        assert found.table.loc[name, "undefined"] == int(values.isnan().sum())
        assert found.table.loc[name, "low"] <= found.table.loc[name, "mean"]
    assert found.settings["draws"] == 48


def test_passes_are_those_that_were_made():
    x, y = clusters(8)
    calls = []
    model = reading()
    model.register_forward_hook(lambda _, given, __: calls.append(len(given[0])))
    found = profile(model, (x, y), epsilon=0.05, draws=32)
    assert found.passes.forward == sum(calls)
    spent = found.table[["forward", "backward"]].sum() * len(x)
    assert spent["forward"] == found.passes.forward
    assert spent["backward"] == found.passes.backward
    # one gradient at the samples serves norm, FGSM and the loss's forecast; one pass of a few
    # images tells whether the model draws random numbers
    assert found.table.loc["gradient_norm", ["forward", "backward"]].tolist() == [2, 1]
    assert found.table.loc["fgsm_pgd_cosine", "backward"] == 25
    assert found.table.loc["linearization_error", ["forward", "backward"]].tolist() == [33, 1]


def test_more_corners_are_drawn_only_where_the_verdict_needs_them():
    x, y = clusters()
    clear = profile(reading(), (x, y), epsilon=0.05)
    assert clear.settings["draws"] == 16
    # near the limit sixteen corners do not tell
    near = Around(lambda m, x: m(x) + 0.018 * torch.sin(60 * m(x)))
    torn = profile(near, clusters(100), epsilon=0.03, seed=3)
    assert torn.settings["draws"] == 256
    assert torn.masks is None
    assert torn.trust[1] < 0.6 < torn.trust[2]
    assert profile(reading(), (x, y), epsilon=0.05, draws=20).settings["draws"] == 20


VERDICTS = {
    "linear": (lambda m, x: m(x), 0.03, False, "gradients can be trusted"),
    "overrun": (lambda m, x: m(x), 0.3, False, "Nothing to mask"),
    "rounded": (lambda m, x: m((x * 4).round() / 4), 0.05, True, "no gradient at all at 100 %"),
    "saturated": (lambda m, x: 500 * m(x), 0.12, True, "masks its gradients"),
    "rugged": (lambda m, x: m(x) + 2 * torch.sin(900 * m(x)), 0.02, True, "do not tell what comes"),
    "guessing": (lambda m, x: 0 * m(x) + x.flatten(1)[:, :4], 0.05, None, "no better than always"),
}


@pytest.mark.parametrize("kind", VERDICTS)
def test_the_verdict_is_what_the_model_is(kind):
    work, epsilon, masks, told = VERDICTS[kind]
    x, y = clusters()
    if kind == "guessing":
        y = torch.zeros_like(y) + (torch.arange(60) % 10 == 0)
    found = profile(Around(work), (x, y), epsilon=epsilon)
    assert found.masks is masks, found.verdict
    assert told in found.verdict


def test_few_samples_corners_and_measures_tell_nothing():
    for epsilon in (0.03, 0.3):
        told = profile(reading(), clusters(12), epsilon=epsilon).verdict
        assert "20 samples are the least" in told
    few = profile(reading(), clusters(), epsilon=0.03, draws=2)
    assert few.masks is None
    assert "16 corners are the least, and there were 2" in few.verdict
    found = profile(reading(), clusters(), epsilon=0.03, metrics=["pgd_collinearity"])
    assert found.masks is None
    assert "needs fgsm_pgd_cosine and gradient_norm and linearization_error" in found.verdict
    assert list(found.table.index) == ["pgd_collinearity"]


class Drawing(nn.Module):
    def forward(self, x):
        return reading()(x) + 0.3 * torch.randn(len(x), 4)


def test_a_model_that_draws_random_numbers_is_not_judged():
    found = profile(Drawing(), clusters(), epsilon=0.03)
    assert found.masks is None
    assert "draws random numbers" in found.verdict


def test_one_samples_border_decides_nothing():
    values = {"gradient_norm": torch.ones(60), "fgsm_pgd_cosine": torch.full((60,), 0.55)}
    values |= {"foresight": torch.full((60,), 0.62), "gradient_information": torch.full((60,), 0.9)}
    weights = weights_of(60, 100, 0)
    assert trust_of(values, weights)[0] == pytest.approx((0.55 + 0.62 + 0.9) / 3)
    values["gradient_information"][1:] = math.nan
    assert trust_of(values, weights)[0] == pytest.approx((0.55 + 0.62) / 2)
    values["gradient_norm"][:30] = 0  # no gradient: all three are 0 there, and so defined
    assert trust_of(values, weights)[0] == pytest.approx((0.55 / 2 + 0.62 / 2 + 0) / 3)


def test_confident_linear_models_are_foreseen():
    """In float32 the losses of confident samples do not differ; in double precision they do."""
    for gain in (8.0, 30.0):
        found = profile(reading(gain), clusters(), epsilon=0.01)
        assert found.table.loc["foresight", "mean"] > 0.6, gain


def test_the_noise_of_the_corners_is_that_of_other_corners():
    """The jackknife over one set of corners against the spread over many sets."""
    drawn = torch.Generator().manual_seed(0)
    slopes, bends = (torch.randn((150, 4), generator=drawn) for _ in range(2))
    found, noise = [], []
    for _ in range(150):
        ways = torch.randn((4, 24), generator=drawn)
        foreseen = slopes @ ways
        values, one = _foresight(foreseen, foreseen + (bends @ ways) ** 2)
        found.append(float(values.mean()))
        noise.append(one)
    assert np.mean(noise) == pytest.approx(np.std(found), rel=0.35)
    weights, values = weights_of(150, 200, 0), {"foresight": values}
    plain, wide = trust_of(values, weights), trust_of(values, weights, 0.1)
    assert wide[1] < plain[1] - 0.1
    assert wide[2] > plain[2] + 0.1


def test_a_profile_goes_into_json_and_onto_a_page():
    x, y = clusters()
    found = profile(Around(lambda m, x: m(x.round())), (x, y), epsilon=0.05)
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["masks"] is True
    assert told["measures"]["fgsm_pgd_cosine"]["mean"] is None
    assert told["measures"]["fgsm_pgd_cosine"]["undefined"] == 60
    assert told["passes"]["forward"] == found.passes.forward
    assert "<table" in found._repr_html_()
    assert found.verdict in str(found)
    assert "nan" not in str(found)


@pytest.mark.parametrize(
    ("wrong", "error", "told"),
    [
        ({"metrics": ["cosine"]}, RequestError, "no metric 'cosine'"),
        ({"loader": []}, DataError, "gave no batch"),
        ({"repeats": 0}, RequestError, "repeats must be 1"),
        ({"metrics": []}, RequestError, "No metric is left"),
        ({"loader": [{"x": 1, "y": 2}]}, DataError, "not dict of 2"),
        ({"loader": [(1, 2, 3)]}, DataError, "not tuple of 3"),
        ({"draws": -1}, RequestError, "draws"),
    ],
)
def test_bad_requests_are_told(wrong, error, told):
    asked = {"loader": clusters()} | wrong
    with pytest.raises(error, match=told):
        profile(reading(), asked.pop("loader"), **asked)


# --- comparing models ----------------------------------------------------------------------------


def test_the_14_published_correlations_come_out_of_the_tables():
    theirs = published.tables()
    assert len(theirs) == 25
    assert theirs["flagged"].sum() == 6
    for name, values in published.CORRELATIONS.items():
        for gap, told in zip(("fgsm-autoattack", "fgsm-pgd"), values, strict=True):
            (found,) = correlations(theirs, [name], [gap], repeats=10)["pearson"]
            assert f"{found:.2f}" == f"{told:.2f}", (name, gap)
    assert published.difference() < 0.005


def test_what_is_derived_from_the_tables_is_what_others_derived():
    theirs = published.tables()
    ranks = correlations(theirs, list(published.METRICS), ["pgd-autoattack"], repeats=10)
    told = dict(zip(published.METRICS, (0.35, 0.32, 0.36, -0.35, -0.33, -0.56, -0.25), strict=True))
    for name, value in told.items():
        assert ranks.loc[(name, "pgd-autoattack"), "spearman"] == pytest.approx(value, abs=0.006)
    defended = theirs.drop(index=list(published.UNDEFENDED))
    assert len(defended) == 22
    areas = {
        name: auroc(defended[name], defended["flagged"] == 1, rises=name in ("lin8", "grad_norm"))
        for name in ("cos8", "lin8", "pgd_col", "grad_norm", "grad_info")
    }
    assert areas == pytest.approx(
        {"cos8": 1, "lin8": 1, "pgd_col": 1, "grad_norm": 0.90, "grad_info": 0.84}, abs=0.006
    )


def test_correlations_agree_with_scipy():
    from scipy.stats import pearsonr, spearmanr

    drawn = np.random.default_rng(0)
    table = pd.DataFrame({"a": drawn.normal(size=30)})
    table["b"] = 0.7 * table["a"] + drawn.normal(size=30)
    (found,) = correlations(table, ["a"], ["b"]).to_dict("records")
    assert found["pearson"] == pytest.approx(pearsonr(table["a"], table["b"])[0])
    assert found["spearman"] == pytest.approx(spearmanr(table["a"], table["b"])[0])
    low, high = pearsonr(table["a"], table["b"]).confidence_interval()
    assert found["pearson_low"] == pytest.approx(low, abs=0.12)
    assert found["pearson_high"] == pytest.approx(high, abs=0.12)


def test_too_few_models_and_flat_measures_have_no_correlation():
    table = pd.DataFrame({"a": [1.0, 2, 3, 4, np.nan], "b": [2.0, 4, 5, 9, 7], "c": 1.0})
    found = correlations(table, ["a", "c"], ["b"])
    assert found.loc[("a", "b"), "models"] == 4
    assert found.loc[("a", "b"), "pearson"] > 0.9
    assert math.isnan(found.loc[("a", "b"), "pearson_low"])  # fewer than eight
    assert math.isnan(found.loc[("c", "b"), "spearman"])
    assert math.isnan(correlations(table[:3], ["a"], ["b"]).iloc[0]["pearson"])
    assert correlations(table[:0], ["a"], ["b"]).iloc[0]["models"] == 0
    with pytest.raises(DataError, match="no column 'd'"):
        correlations(table, ["d"], ["b"])


def test_auroc_agrees_with_scikit_learn():
    from sklearn.metrics import roc_auc_score

    drawn = np.random.default_rng(1)
    truth = pd.Series(drawn.random(40) > 0.6)
    values = pd.Series(drawn.normal(size=40).round(1) - truth)
    assert auroc(values, truth, rises=True) == pytest.approx(roc_auc_score(truth, values))
    assert auroc(values, truth, rises=False) == pytest.approx(roc_auc_score(truth, -values))
    assert math.isnan(auroc(values, truth | True, rises=True))


def test_a_row_of_a_model_counts_no_gradient_as_no_agreement():
    x, y = clusters()
    flat = Around(lambda m, x: torch.where((x[:, 0, 3, 3] > 0.42)[:, None], m(x), m(x.round())))
    found = profile(flat, (x, y), epsilon=0.05)
    told = row(found, masks=True, defended=True)
    cosines = found.samples["fgsm_pgd_cosine"]
    assert 0 < cosines.isna().sum() < 60
    assert told["fgsm_pgd_cosine"] == pytest.approx(cosines.fillna(0).mean())
    assert told["fgsm-pgd"] == pytest.approx(told["fgsm"] - told["pgd"])
    assert "autoattack" not in told
    assert set(METRICS) < set(told)


# --- samples and pictures ------------------------------------------------------------------------


def places(count=30):
    images = np.arange(count * 16, dtype="float32").reshape(count, 1, 4, 4) % 17
    classes = np.arange(count) % 3
    classes[0] = -1
    table = pd.DataFrame({"scene": "a", "sample": range(count), "y": 0, "x": 0})
    return Places(images, table, classes, ["a", "b", "c"], None, [])


def test_samples_are_drawn_with_their_classes_and_scaled():
    rows = np.arange(30) < 20
    x, y = samples(places(), rows, bounds=(0, 16), seed=1)
    assert len(x) == 19  # one has no class
    assert (x.min(), x.max()) == (0, 1)
    assert sorted(y.tolist()) == sorted((np.arange(1, 20) % 3).tolist())
    few, of = samples(places(), rows, bounds=(0, 16), seed=1, count=5)
    assert torch.equal(few, x[:5])
    assert torch.equal(of, y[:5])
    cut, _ = samples(places(), rows, bounds=(2, 8), seed=1)
    assert (cut.min(), cut.max()) == (0, 1)
    with pytest.raises(DataError, match="No image with a class is left"):
        samples(places(), np.zeros(30, bool), bounds=(0, 16))
    with pytest.raises(RequestError, match="count is 0"):
        samples(places(), rows, bounds=(0, 16), count=-1)


def test_an_entry_without_a_range_says_so():
    assert pixel_range(geowb.open_catalog()["digits"].open()) == (0, 16)
    scene = geowb.open_catalog()["world_agb"].open(region="cerrado")
    with pytest.raises(DataError, match=r"Entry 'world_agb' does not say .* pixel_range"):
        pixel_range(scene)


def test_pictures_have_their_axes(tmp_path):
    theirs = published.tables()
    theirs = theirs.assign(
        masks=theirs["flagged"] == 1, defended=~theirs.index.isin(published.UNDEFENDED)
    )
    drawn = pictures.against_gap(theirs, "lin8", "pgd-autoattack", log=True)
    parts = {part.label: len(part) for part in drawn}
    assert parts == {"not defended": 3, "defended": 16, "masking": 6}
    led = theirs.assign(masks=theirs["masks"].astype(object).where(theirs["aa8"] > 1, None))
    parts = {part.label: len(part) for part in pictures.against_gap(led, "cos8", "fgsm-pgd")}
    assert parts == {"not defended": 3, "defended": 16, "overfitted": 3, "masking": 3}
    assert "log10" in next(iter(drawn)).vdims[0].name
    losses = pd.DataFrame({0: [0.1, 0.4]}, index=[0.0, 0.1])
    along = pictures.along_gradient({"pgd": losses}, epsilon=0.05, title="digits")
    grid = pictures.images({"FGSM": [np.zeros((1, 4, 4)), np.ones((3, 4, 4))]}, ["3", "7"])
    for number, element in enumerate((drawn, along, grid)):
        file = tmp_path / f"{number}.png"
        geowb.plots.show(element, file)
        assert file.stat().st_size > 500
    assert set(comparing.RISES) < set(METRICS)
