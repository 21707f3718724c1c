"""The ledger's rules, and verdicts from run directories."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t, ttest_1samp
from test_batch_results import REAL, WORLD, write_run

import geowb
from geowb.batch.checks import preflight
from geowb.batch.claims import judge, load_claims, statistics, unusual
from geowb.batch.ledger import Condition, Paper, Rule
from geowb.batch.results import BASE, Record, read_runs
from geowb.batch.studies import load_study
from geowb.errors import RequestError

PROJECT = Path(__file__).resolve().parent.parent
FROZEN = {"weights": "swin.safetensors", "labels": "", "epochs": 40, "regions": []}
FROZEN |= {"label_density": 1.0, "encoder": "swin_demo", "data": "world", "accelerator": "cpu"}
FROZEN |= {"chip_size": 64, "learning_rates": [1e-3, 5e-3, 2e-2, 8e-2], "patience": 0}
EMPTY = Record(*[None] * len(BASE))
CLAIM = {
    "says": "It is close.",
    "published": [{"name": "RMSE", "value": 68.7, "unit": "Mg/ha", "source": "abstract"}],
    "quantity": "RMSE, frozen / U-Net",
    "unit": "",
    "ratio": ["rmse/{encoder}/all", "rmse/unet/all"],
    "holds": {"at_most": 1.1},
    "data": ["world"],
}


def _documented():
    """What docs/claims.md says of metrics' names, as a pattern; capitals stand for a choice."""
    text = (PROJECT / "docs" / "claims.md").read_text("utf-8").split("## Names of metrics")[1]
    names = [re.escape(name) for name in re.findall(r"`([a-z][^` ]*/[^` ]+)`", text)]
    choice = r"\b[A-Z]+\b|\\\{\w+\\\}"
    return re.compile("|".join(re.sub(choice, "[^/]+", name) for name in names))


DOCUMENTED = _documented()


def ledger(**changes):
    claim = {key: value for key, value in {**CLAIM, **changes}.items() if value is not None}
    block = {"title": "A paper", "cite": "A, 2024", "study": "agb_transfer"}
    return {"1": Paper.model_validate({**block, "known_from": "abstract", "claims": {"c": claim}})}


def runs(folder, ratios, *, name="r", frozen=80.0, **changes):
    """A run for each ratio of RMSE, with seeds 0, 1, ..."""
    parameters = FROZEN | changes.pop("parameters", {})
    for seed, ratio in enumerate(ratios):
        metrics = {
            "rmse/swin_demo/all": ratio and frozen,
            "rmse/unet/all": ratio and frozen / ratio,
        }
        write_run(
            folder / f"{name}{seed}", metrics, parameters={"seed": seed} | parameters, **changes
        )


def only(folder, **changes):
    (verdict,) = judge(ledger(**changes), folder)
    return verdict


# --- verdicts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratios", "verdict", "reason"),
    [
        ([1.05, 1.06, 1.04], "holds", "In all 3 runs at most 1.1, and so is the 95 % interval"),
        ([1.25, 1.26, 1.24], "does not hold", "In all 3 runs above 1.1, and so is the 95 %"),
        ([1.05, 1.06], "cannot tell", "Too few seeds: 2, and 3 are needed"),
        ([1.05, 1.06, 1.2], "cannot tell", "The runs disagree: 2 of 3 are at most 1.1"),
        ([1.09, 1.0, 0.9], "cannot tell", "In all 3 runs at most 1.1, but the 95 % interval"),
        ([1.11, 1.2, 1.4], "cannot tell", "In all 3 runs above 1.1, but the 95 % interval"),
        ([1.05, 1.06, 1.04, None], "cannot tell", "1 of 4 runs have no finite value"),
    ],
)
def test_a_verdict_needs_every_run_and_the_interval(tmp_path, ratios, verdict, reason):
    runs(tmp_path, ratios)
    found = only(tmp_path)
    assert found.verdict == verdict
    assert reason in found.reason
    assert found.n == len([r for r in ratios if r])
    assert [v["seed"] for v in found.values] == list(range(len(ratios)))


def test_the_interval_is_students_of_the_paired_quantity(tmp_path):
    ratios = [1.02, 1.05, 1.07, 1.03]
    runs(tmp_path, ratios)
    found = only(tmp_path)
    expected = ttest_1samp(ratios, 0).confidence_interval(0.95)
    assert found.interval == pytest.approx(tuple(expected))
    # by hand: mean 1.0425, sd 0.0221736, t(0.975, 3) = 3.182446
    half = 3.182446305284263 * 0.022173558 / 2
    assert found.interval == pytest.approx((1.0425 - half, 1.0425 + half), rel=1e-7)
    assert found.mean == pytest.approx(1.0425)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=8))
def test_statistics_match_the_textbook(values):
    found = statistics(values)
    n = len(values)
    mean = math.fsum(values) / n
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    assert found["mean"] == pytest.approx(mean, abs=1e-6)
    assert found["sd"] == pytest.approx(sd, rel=1e-6, abs=1e-6)
    half = t.ppf(0.975, n - 1) * sd / math.sqrt(n)
    assert found["interval"][1] - found["mean"] == pytest.approx(half, rel=1e-6, abs=1e-5)


def test_a_count_needs_one_run(tmp_path):
    runs(tmp_path, [1.05])
    assert only(tmp_path, exact=True).verdict == "holds"
    assert only(tmp_path, exact=True, holds={"below": 1.0}).verdict == "does not hold"
    assert only(tmp_path).verdict == "cannot tell"
    runs(tmp_path, [1.05, 1.2], name="other")
    assert only(tmp_path, exact=True).verdict == "cannot tell"


@pytest.mark.parametrize(
    ("holds", "verdict"),
    [
        ({"above": 0}, "holds"),
        ({"at_least": 0}, "holds"),
        ({"below": 0}, "does not hold"),
        ({"above": 20}, "does not hold"),
    ],
)
def test_differences_and_single_metrics_are_judged_too(tmp_path, holds, verdict):
    runs(tmp_path, [1.05, 1.06, 1.04])
    difference = {"ratio": None, "difference": CLAIM["ratio"], "unit": "Mg/ha", "holds": holds}
    assert only(tmp_path, **difference).verdict == verdict
    metric = only(tmp_path, ratio=None, metric="rmse/unet/all", unit="Mg/ha", holds={"above": 70})
    assert metric.verdict == "holds"
    assert metric.mean == pytest.approx(sum(80 / r for r in (1.05, 1.06, 1.04)) / 3)


def test_nothing_on_the_threshold_is_clear(tmp_path):
    runs(tmp_path, [1.0, 1.0, 1.0])
    assert only(tmp_path, holds={"at_most": 1.0}).verdict == "cannot tell"
    assert only(tmp_path, holds={"at_most": 1.0}, exact=True).verdict == "holds"


# --- which runs count ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [{"label_density": 0.5}, {"encoder": "prithvi_swin_B"}, {"regions": ["cerrado"]}, {"new": 1}],
)
def test_other_settings_are_not_pooled_as_if_they_were_seeds(tmp_path, change):
    runs(tmp_path, [1.05, 1.06], name="a")
    runs(tmp_path, [1.3, 1.3], name="b", parameters=change | {"seed": 7})
    found = judge(ledger(ratio=None, metric="rmse/unet/all", holds={"above": 0}), tmp_path)
    assert [v.verdict for v in found] == ["cannot tell", "cannot tell"]
    assert [v.settings.get(next(iter(change))) for v in found][1] == next(iter(change.values()))


def test_simulated_and_real_data_are_lines_of_their_own(tmp_path):
    runs(tmp_path, [1.05, 1.06, 1.04], name="world", data=WORLD)
    runs(tmp_path, [1.3, 1.31, 1.32], name="real", data=REAL)
    older = {"data": WORLD["data"] | {"world_version": "0.9"}}
    runs(tmp_path, [1.05], name="old", data=older)
    found = {v.data: (v.verdict, v.evidence) for v in judge(ledger(), tmp_path)}
    assert found == {
        "world 1.0 (simulated)": ("holds", "simulated"),
        "agb_south_texas": ("does not hold", "real"),
        "world 0.9 (simulated)": ("cannot tell", "simulated"),
    }


def test_technical_parameters_do_not_split_a_group(tmp_path):
    for seed, (accelerator, catalog) in enumerate([("cpu", ""), ("gpu", ""), ("gpu", "my.yaml")]):
        changes = {"accelerator": accelerator, "catalog": catalog, "seed": seed}
        runs(tmp_path, [1.05], name=accelerator + str(seed), parameters=changes)
    assert only(tmp_path).n == 3


def test_a_repeat_of_the_same_parameters_counts_once_and_the_newest_wins(tmp_path):
    runs(tmp_path, [1.05, 1.06], started="2026-01-01T00:00:00+00:00")
    runs(tmp_path, [1.2], name="again", started="2026-02-01T00:00:00+00:00")
    runs(tmp_path, [1.3], name="before", started="2025-12-01T00:00:00+00:00")
    found = only(tmp_path)
    assert found.n == 2
    assert sorted(v["value"] for v in found.values) == pytest.approx([1.06, 1.2])
    assert found.verdict == "cannot tell"
    assert "not counted: 2" in found.reason


def test_failed_and_broken_runs_never_count(tmp_path):
    runs(tmp_path, [1.05, 1.05], name="done")
    runs(tmp_path, [1.05, 1.05, 1.05], name="failed", status="failed", error={"type": "E"})
    runs(tmp_path, [1.05, 1.05, 1.05], name="broken")
    for seed in range(3):
        (tmp_path / f"broken{seed}" / "metrics.json").write_text("{")
    assert only(tmp_path).n == 2


def test_runs_of_several_versions_are_told(tmp_path):
    for seed, commit in enumerate("aab"):
        runs(tmp_path, [1.05], name=f"{commit}{seed}", commit=commit, parameters={"seed": seed})
    assert "The runs are of 2 versions of geowb." in only(tmp_path).reason


def test_a_metric_that_is_not_finite_is_not_left_out(tmp_path):
    """A seed that diverged must not vanish from the count."""
    runs(tmp_path, [1.05, 1.06, 1.04, None])
    assert only(tmp_path).verdict == "cannot tell"
    (tmp_path / "r3" / "metrics.json").write_text("{}")  # recorded nothing at all
    assert only(tmp_path).verdict == "cannot tell"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"parameters": {"weights": ""}}, "weights not empty (not so in 3)"),
        ({"profile": "teaching"}, "profile full or paper (not so in 3)"),
        ({"profile": None}, "profile full or paper (not so in 3)"),
        ({"parameters": {"epochs": 6}}, "epochs at least 40 (not so in 3)"),
        ({"parameters": {"labels": "plots.csv"}}, "labels = empty (not so in 3)"),
        ({"parameters": {"regions": ["cerrado"]}}, "regions = [] (not so in 3)"),
        ({"parameters": {"chip_size": 16}}, "chip_size at least 64 (not so in 3)"),
        ({"parameters": {"patience": 1}}, "patience 0 or 100 (not so in 3)"),
        (
            {"parameters": {"learning_rates": [1e-9]}},
            "learning_rates [0.001, 0.005, 0.02, 0.08] or [0.0001, 0.00031406904, 0.001] "
            "(not so in 3)",
        ),
    ],
)
def test_what_is_no_test_of_the_frozen_encoder_does_not_count(tmp_path, change, told):
    runs(tmp_path, [1.05, 1.06, 1.04], **change)
    paper = {"2406.19888": load_claims()["2406.19888"]}
    found = {v.claim: v for v in judge(paper, tmp_path)}["frozen-is-close"]
    assert found.verdict == "not tested here"
    assert told in found.reason
    assert found.command == "geowb sweep agb_transfer --profile full --repeat 3"


def test_the_frozen_encoder_is_tested_by_full_runs_with_weights(tmp_path):
    runs(tmp_path, [1.05, 1.06, 1.04])
    paper = {"2406.19888": load_claims()["2406.19888"]}
    found = {v.claim: v.verdict for v in judge(paper, tmp_path)}
    assert found["frozen-is-close"] == "holds"
    assert found["unet-is-ahead"] == "holds"
    assert found["fewer-parameters"] == "not tested here"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "There is no done run of agb_transfer."),
        ({"awaits": "a transfer matrix"}, "Awaits a transfer matrix."),
    ],
)
def test_what_is_missing_is_said(tmp_path, changes, told):
    found = only(tmp_path, **changes)
    assert (found.verdict, found.reason, found.n) == ("not tested here", told, 0)
    assert bool(found.command) is not bool(changes)


def test_a_model_is_not_compared_with_itself(tmp_path):
    for seed in range(3):
        parameters = FROZEN | {"seed": seed, "encoder": "unet"}
        write_run(tmp_path / f"r{seed}", {"rmse/unet/all": 60.0 + seed}, parameters=parameters)
    assert only(tmp_path).reason.endswith("but without the metric of a second model.")


def test_a_missing_metric_is_named(tmp_path):
    runs(tmp_path, [1.05])
    found = only(tmp_path, ratio=None, metric="ssim/{encoder}/{what}")
    assert "without the metric ssim/swin_demo/{what}" in found.reason


def test_commands_name_what_the_profile_does_not_set(tmp_path):
    where = {"profile": "paper", "epochs": 500, "freeze_backbone": False, "seed": {"at_least": 2}}
    found = only(tmp_path, where=where, data=["agb_south_texas"], seeds=5)
    assert found.command == (
        "geowb sweep agb_transfer --profile paper -p epochs=500 -p freeze_backbone=false "
        "-p seed=2 -p data=agb_south_texas --repeat 5"
    )
    assert only(tmp_path, exact=True).command == "geowb run agb_transfer"


def test_a_count_groups_by_what_it_depends_on(tmp_path):
    runs(tmp_path, [1.05, 1.05], name="a")
    runs(tmp_path, [1.05], name="b", parameters={"epochs": 3})
    assert only(tmp_path, exact=True, depends_on=["encoder"]).n == 3
    assert only(tmp_path, exact=True, depends_on=["encoder"]).settings == {"encoder": "swin_demo"}
    assert only(tmp_path, exact=True, depends_on=[]).settings == {}
    assert len(judge(ledger(exact=True), tmp_path)) == 2


def test_a_count_that_depends_on_no_data_is_no_evidence_of_any(tmp_path):
    runs(tmp_path, [1.05], name="a")
    runs(tmp_path, [1.05], name="b", data=REAL)
    found = only(tmp_path, exact=True, depends_on=["encoder"])
    assert (found.evidence, found.data, found.n, found.verdict) == ("counted", "", 2, "holds")
    on = {"exact": True, "depends_on": ["data"]}
    assert {v.evidence for v in judge(ledger(**on), tmp_path)} == {"simulated", "real"}


def test_of_counts_only_those_of_the_newest_version_are_judged(tmp_path):
    runs(tmp_path, [1.3, 1.3], commit="a")
    runs(tmp_path, [1.05], name="new", commit="b", started="2026-02-01T00:00:00+00:00")
    for depends_on in (["encoder"], []):
        found = only(tmp_path, exact=True, depends_on=depends_on)
        assert (found.verdict, found.n) == ("holds", 1)


def test_records_are_taken_as_well_as_a_folder(tmp_path):
    runs(tmp_path, [1.05, 1.06, 1.04])
    assert judge(ledger(), read_runs(tmp_path)) == judge(ledger(), tmp_path)


# --- what is no fair sample ---------------------------------------------------------------------


def test_a_seed_that_failed_is_not_left_out(tmp_path):
    runs(tmp_path, [1.05, 1.06, 1.04])
    failed = {"parameters": FROZEN | {"seed": 3}, "status": "failed"}
    write_run(tmp_path / "other", parameters=failed["parameters"] | {"epochs": 9}, status="failed")
    assert only(tmp_path).verdict == "holds"
    write_run(tmp_path / "failed", **failed)
    found = only(tmp_path)
    assert (found.verdict, found.n) == ("cannot tell", 3)
    assert found.reason.startswith("Runs that failed, seed 3: do them again first.")
    assert only(tmp_path, exact=True).verdict == "holds"
    write_run(
        tmp_path / "again",
        {"rmse/swin_demo/all": 80.0, "rmse/unet/all": 76.0},
        **{**failed, "status": "done"},
    )
    assert only(tmp_path).verdict == "holds"


def test_a_seed_whose_metrics_cannot_be_read_is_not_left_out(tmp_path):
    runs(tmp_path, [1.05, 1.06, 1.04, 1.05])
    (tmp_path / "r3" / "metrics.json").write_text("{")
    assert "seed 3" in only(tmp_path).reason
    assert only(tmp_path).verdict == "cannot tell"


def test_units_must_fit(tmp_path):
    runs(tmp_path, [1.05, 1.06, 1.04])
    file = tmp_path / "r1" / "metrics.json"
    file.write_text(file.read_text().replace("Mg/ha", "g/m2"))
    found = only(tmp_path)
    assert found.verdict == "cannot tell"
    assert "Recorded in other units: Mg/ha and g/m2." in found.reason


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({"unit": "points"}, {"%"}),
        ({"unit": "Mg/ha"}, {"Mg/ha"}),
        ({"unit": ""}, {""}),
        ({"ratio": ["a", "b"], "difference": None}, {"s"}),
        ({"metric": "a", "difference": None, "unit": "points"}, {"points"}),
    ],
)
def test_units_that_fit(changes, fits):
    claim = ledger(**{"ratio": None, "difference": ["a", "b"]} | changes)["1"].claims["c"]
    assert claim.fits(fits)
    assert claim.fits(set())
    assert not claim.fits({*fits, "km"})
    assert claim.fits({"km"}) is bool(claim.ratio)


@pytest.mark.parametrize("values", [(-0.9, -0.5), (-1.0, 500.0), (80.0, 0.0), (80.0, -1.0)])
def test_a_ratio_is_one_of_sizes(tmp_path, values):
    for seed in range(3):
        metrics = {"rmse/swin_demo/all": values[0] - seed, "rmse/unet/all": values[1]}
        write_run(tmp_path / f"r{seed}", metrics, parameters=FROZEN | {"seed": seed})
    found = only(tmp_path, holds={"at_most": 1e9})
    assert found.verdict == "cannot tell"
    assert "have no finite value" in found.reason


def test_a_seed_that_changes_nothing_is_no_repeat(tmp_path):
    runs(tmp_path, [1.05, 1.05, 1.05])
    for seed in range(3):
        file = tmp_path / f"r{seed}" / "metrics.json"
        times = {"seconds/unet": {"value": seed, "unit": "s"}, "nan": {"value": None, "unit": ""}}
        file.write_text(json.dumps(json.loads(file.read_text()) | times))
    assert only(tmp_path).verdict == "cannot tell"
    assert "their seed changes nothing" in only(tmp_path).reason
    only_times = {"ratio": None, "metric": "seconds/unet", "unit": "s", "holds": {"above": -1}}
    assert only(tmp_path, exact=True).verdict == "holds"
    file.write_text(file.read_text().replace("80.0", "80.1"))
    assert "seed changes" not in only(tmp_path).reason
    assert "seed changes" not in only(tmp_path, **only_times).reason


def test_one_name_of_data_is_not_always_one_set_of_data(tmp_path):
    for seed, digest in enumerate("aab"):
        data = REAL["data"] | {"files": {"x.tif": {"sha256": digest}}, "catalog_sha256": str(seed)}
        runs(
            tmp_path,
            [1.05 + seed / 100],
            name=str(seed),
            data={"data": data},
            parameters={"seed": seed, "catalog": f"{seed}.yaml"},
        )
    assert "have not read the same data" in only(tmp_path).reason
    assert only(tmp_path).verdict == "cannot tell"
    file = tmp_path / "20" / "run.json"
    file.write_text(file.read_text().replace('"sha256": "b"', '"sha256": "a"'))
    assert only(tmp_path).verdict == "holds", "another entry of the catalog may change"


@pytest.mark.parametrize(("frozen", "unet"), [(1e300, 1.0), (1e149, 1e-149), (1.0, 5e-324)])
def test_huge_values_are_not_finite_for_statistics(tmp_path, frozen, unet):
    for seed in range(3):
        metrics = {"rmse/swin_demo/all": frozen * (seed + 1), "rmse/unet/all": unet}
        write_run(tmp_path / f"r{seed}", metrics, parameters=FROZEN | {"seed": seed})
    found = only(tmp_path, holds={"above": 0})
    assert (found.verdict, found.mean, found.interval) == ("cannot tell", None, None)


def test_versions_of_the_notebook_are_not_pooled(tmp_path):
    for seed in range(3):
        runs(
            tmp_path,
            [1.05 + seed / 100],
            name=str(seed),
            notebook_sha256="ab"[seed // 2],
            parameters={"seed": seed},
        )
    found = only(tmp_path)
    assert found.verdict == "cannot tell"
    assert "2 versions of the notebook; do the older ones again with --force." in found.reason
    assert "Its notebook is another one than the installed." in found.reason


def test_values_that_are_not_the_profiles_are_told(tmp_path):
    runs(tmp_path, [1.05, 1.06, 1.04], parameters={"batch_size": 2})
    digest = load_study("agb_transfer").code_sha256()
    runs(tmp_path, [1.05, 1.06, 1.04], name="usual", notebook_sha256=digest, data=REAL)
    told = [v.reason for v in judge(ledger(where={"weights": {"not": ""}}), tmp_path)]
    assert told[0].endswith("Not as profile full has it: batch_size=2.")
    assert "profile" not in told[1] + told[0].split("Not as")[0]
    assert "notebook" not in told[1]


def test_runs_without_the_metric_are_mentioned_where_others_have_it(tmp_path):
    runs(tmp_path, [1.05, 1.06, 1.04])
    write_run(tmp_path / "bare", {"rmse/unet/all": 1.0}, parameters=FROZEN | {"seed": 0, "new": 1})
    found = only(tmp_path)
    assert found.verdict == "holds"
    assert found.reason.endswith("Other runs, without a metric that it needs: 1.")


# --- the ledger ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("at_most: 1.10", "at_mots: 1.10", "claim frozen-is-close, key holds.at_mots"),
        ("at_most: 1.10", "at_most: 1.10, above: 2", "claim frozen-is-close, key holds: give exa"),
        ("at_most: 1.10", "at_most: .nan", "claim frozen-is-close, key holds.at_most"),
        (", source: abstract}", "}", "claim fewer-parameters, key published.2.source"),
        ("      exact: true", "      exactly: true", "Did you mean 'exact'?"),
        ("  study: agb_transfer", "  studio: x", "paper 2406.19888, key study"),
        ('{not: ""}', "{is: 1}", "key where.weights.is"),
        (
            '{not: ""}',
            "{not: a, at_least: 1}",
            "key where.weights: give exactly one of equal, one_of",
        ),
        ("    frozen-is-close:", "    fewer-parameters:", "'fewer-parameters' stands twice"),
        ('"2403.17886":', "2406.19888:", "'2406.19888' stands twice"),
        ("data: [world, agb_granite]", "data: []", "key data"),
        ("claims:", "claims: {", "cannot be read"),
    ],
)
def test_errors_name_paper_claim_and_key(tmp_path, old, new, told):
    text = (PROJECT / "notebooks" / "claims.yaml").read_text("utf-8")
    assert old in text
    file = tmp_path / "claims.yaml"
    file.write_text(text.replace(old, new, 1), "utf-8")
    with pytest.raises(RequestError) as error:
        load_claims(file)
    assert told in str(error.value)


@pytest.mark.parametrize("content", [None, "", "[1]", "2406.19888"])
def test_what_is_no_ledger_is_refused(tmp_path, content):
    file = tmp_path / "claims.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(RequestError, match="claims"):
        load_claims(file)


def test_an_arxiv_id_without_quotes_keeps_its_last_zero(tmp_path):
    text = (PROJECT / "notebooks" / "claims.yaml").read_text("utf-8")
    file = tmp_path / "claims.yaml"
    file.write_text(re.sub(r'^"([\d.]+)":', r"\1:", text, flags=re.MULTILINE), "utf-8")
    assert list(load_claims(file)) == list(load_claims())


@pytest.mark.parametrize(
    ("condition", "yes", "no"),
    [
        (True, [True], [1, "true", None, False]),
        (1, [1, 1.0], [True, "1"]),
        ([], [[]], ["", ["a"]]),
        ({"not": ""}, ["a"], ["", None]),
        ({"one_of": ["a", "b"]}, ["a"], ["c", None, ["a"]]),
        ({"at_least": 40}, [40, 41.5], [39, None, "x"]),
    ],
)
def test_conditions(condition, yes, no):
    condition = Condition.model_validate(condition)
    assert [condition.met(value) for value in yes] == [True] * len(yes)
    assert [condition.met(value) for value in no] == [False] * len(no)


@pytest.mark.parametrize(
    ("rule", "below", "at", "above"),
    [
        ("at_most", True, True, False),
        ("at_least", False, True, True),
        ("above", False, False, True),
        ("below", True, False, False),
    ],
)
def test_rules(rule, below, at, above):
    rule = Rule.model_validate({rule: 1})
    assert [rule.met(value) for value in (0.5, 1, 1.5)] == [below, at, above]
    assert rule.threshold == 1


def test_the_shipped_ledger_is_honest():
    papers = load_claims()
    assert list(papers) == ["2406.19888", "2403.17886", "2310.18660", "2204.04778"]
    catalog = geowb.open_catalog()
    for paper in papers.values():
        assert 4 <= len(paper.claims) <= 8
        metrics = {name for claim in paper.claims.values() for name in claim.metrics}
        assert not {name for name in metrics if not DOCUMENTED.fullmatch(name)}
        for name, claim in paper.claims.items():
            assert all(item.source.strip() for item in claim.published), name
            assert set(claim.data) <= set(catalog), name
            if not claim.exact:
                assert claim.seeds >= 3
                assert "profile" in claim.where, f"{name} could be settled by a teaching run"
    text = yaml.dump(yaml.safe_load((PROJECT / "notebooks" / "claims.yaml").read_text("utf-8")))
    assert not re.search(r"\bshared\b|reference/|\bissue|\bsession|NOT FOUND", text)


#: Claim: value, qualifier and unit of each published number. Compare with the sources, not here.
PUBLISHED = """
fewer-parameters: 7.8 million parameters, 0.6 million parameters, 13
frozen-is-close: 65.5 Mg/ha, 68.7 Mg/ha, 70.9 Mg/ha, 1.049, 1.082
pretraining-matters:
pretraining-matters-to-a-linear-layer:
unet-is-ahead: 65.5 Mg/ha, 68.7 Mg/ha
unet-is-ahead-at-100-200:
transfer-is-robust-at-low-biomass:
transfer-differs-at-moderate-biomass:
same-accuracy-at-75: 75 %, about 99.8 %, about 99.0 %, 98.3 %
same-accuracy-at-90: 90 %, about 99.8 %, 98.0 %
five-points-at-99.7: 99.7 %, 5 %, about 99.8 %, 94.0 %, 64.0 %
segmentation-at-75: about 90.7 %, 88.6 %, about 87.9 %
few-parameters: about 10 %, 10.45 %
short-training: about 1 %, 1.25 %, about 2.5 %
ahead-of-uniform-quantisation: 98.0 %, 84.0 %, 97.8 %
ahead-of-jpeg2000-when-tiny: 94.0 %, 74.7 %, 98.3 %
floods-beat-the-baseline: 82.99 %, 81.26 %, 24.21 %
gap-filling-beats-gan: up to 0.05, up to 5.7 %, 0.931, 0.904, 0.865
flood-unseen-region: 8.6 %, 77.95 %
burn-scars-beat-unet: 73.62 %, 71.01 %, 69.04 %
crops-beat-unet: 64.06 %, 61.91 %, 42.69 %, 42.09 %
pretraining-is-faster:
few-labels-suffice: over 80 %, 82.99 %, over 0.964
cosine-follows-the-gap: -0.85, -0.84
collinearity-follows-the-gap: -0.81, -0.77
linearization-error-follows-the-gap: 0.76, 0.75
gradient-norm-follows-the-gap: 0.76, 0.83
gradient-information-follows-weakly: -0.45, -0.21
correlations-come-out-of-the-tables: 14
metrics-tell-masking-models: 1.0, 0.84
cheaper-than-a-strong-attack: about 120, up to 1900
"""


def test_published_numbers_are_those_of_the_sources():
    found = ""
    for paper in load_claims().values():
        for name, claim in paper.claims.items():
            numbers = []
            for item in claim.published:
                unit = "" if item.unit.startswith("forward") else item.unit
                numbers.append(f"{item.qualifier} {item.value} {unit}".strip())
            found += f"{name}: {', '.join(numbers)}".strip() + "\n"
    assert found == PUBLISHED.removeprefix("\n")


MEASURED = {
    "nec_tradeoff": (
        {"data": "world"},
        "%",
        {
            "accuracy/full/all": 98.0,
            "accuracy/nec_decoder/zstd-75": 97.5,
            "accuracy/nec_decoder/zstd-90": 96.0,
            "accuracy/jpeg2000/raw-99.7": 80.0,
        },
    ),
    "prithvi_tasks": (
        {"data": "world", "weights": "prithvi.pt", "task": "flood"},
        "%",
        {
            "iou/prithvi/unseen/water": 70.0,
            "iou/unet/unseen/water": 60.0,
            "score/prithvi/labels-10": 70.0,
            "score/prithvi/labels-100": 71.0,
            "steps/prithvi/to-95": 100.0,
            "steps/random/to-95": 500.0,
        },
    ),
    "masking_metrics": (
        {"data": "world"},
        "",
        {
            "pearson/fgsm_pgd_cosine/fgsm-autoattack": -0.8,
            "auroc/fgsm_pgd_cosine/masking": 0.95,
            "pearson/linearization_error/fgsm-autoattack": 0.3,
        },
    ),
}


@pytest.mark.parametrize(
    ("study", "changes", "verdicts"),
    [
        (
            "nec_tradeoff",
            {},
            {"same-accuracy-at-75": "holds", "same-accuracy-at-90": "does not hold"},
        ),
        ("nec_tradeoff", {"profile": "teaching"}, {}),
        (
            "prithvi_tasks",
            {},
            {
                "flood-unseen-region": "holds",
                "few-labels-suffice": "holds",
                "pretraining-is-faster": "holds",
            },
        ),
        (
            "prithvi_tasks",
            {"task": "crop"},
            {"few-labels-suffice": "holds", "pretraining-is-faster": "holds"},
        ),
        ("prithvi_tasks", {"task": "gap_filling"}, {"pretraining-is-faster": "holds"}),
        ("prithvi_tasks", {"weights": ""}, {}),
        ("prithvi_tasks", {"profile": "teaching"}, {}),
        (
            "masking_metrics",
            {},
            {
                "cosine-follows-the-gap": "holds",
                "linearization-error-follows-the-gap": "does not hold",
                "metrics-tell-masking-models": "holds",
            },
        ),
        ("masking_metrics", {"profile": "teaching"}, {}),
    ],
)
def test_the_other_papers_are_tested_by_runs_that_are_a_test(tmp_path, study, changes, verdicts):
    parameters, unit, metrics = MEASURED[study]
    for seed in range(3):
        profile = changes.get("profile", "full")
        values = {name: value + seed / 100 for name, value in metrics.items()}
        own = parameters | {"seed": seed} | {n: v for n, v in changes.items() if n != "profile"}
        write_run(
            tmp_path / f"r{seed}", values, unit=unit, study=study, profile=profile, parameters=own
        )
    papers = {key: paper for key, paper in load_claims().items() if paper.study == study}
    found = {v.claim: v.verdict for v in judge(papers, tmp_path)}
    assert {name: v for name, v in found.items() if v != "not tested here"} == verdicts


def test_claims_on_studies_that_exist_name_parameters_and_metrics_that_they_have():
    """A metric's name, filled, must match one of the patterns that the notebook records."""
    for paper in load_claims().values():
        file = PROJECT / "notebooks" / f"{paper.study}.ipynb"
        if not file.is_file():
            continue
        study = geowb.batch.load_study(file)
        cells = json.loads(file.read_text("utf-8"))["cells"]
        source = "".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
        recorded = re.findall(r'run\.metric\(f?"([^"]+)"', source)
        patterns = [re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(name)) for name in recorded]
        defaults = {p.name: p.default for p in study.parameters.values()}
        run = dataclasses.replace(EMPTY, parameters=defaults)
        for name, claim in paper.claims.items():
            assert claim.where.keys() <= {*study.parameters, "profile"}, name
            assert {*(claim.depends_on or ())} <= study.parameters.keys(), name
            known = []
            for metric in map(run.fill, claim.metrics):
                assert "{" not in metric, name
                arms = study.parameters.get("arms")  # an arm that is none is not recorded
                made = not (claim.awaits and arms) or metric.split("/")[1] in arms.rules["choices"]
                known.append(made and any(re.fullmatch(p, metric) for p in patterns))
                assert known[-1] or claim.awaits, f"{name}: {metric} is recorded nowhere"
            assert not (all(known) and claim.awaits), f"{name} awaits what is there"


def test_a_tasks_own_data_and_a_profiles_own_values_are_not_unusual(tmp_path):
    study = load_study("prithvi_tasks")
    for task in ("flood", "crop"):
        _, values = preflight(study, {"task": task, "seed": 2}, profile="full")
        write_run(tmp_path / task, {}, study=study.name, profile="full", parameters=values)
        (run,) = read_runs(tmp_path / task)
        told = {"seed": 2} if task == "flood" else {"task": "crop", "seed": 2}
        assert unusual(run, study) == told
    other = {**values, "data": "crop_chip", "worlds": 6}
    write_run(tmp_path / "other", {}, study=study.name, profile="full", parameters=other)
    (run,) = read_runs(tmp_path / "other")
    assert unusual(run, study).keys() == {"task", "seed", "data", "worlds"}
