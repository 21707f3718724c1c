"""What a sweep asks for: taken apart, combined, judged all at once, and nothing written."""

from __future__ import annotations

import csv
import doctest
import importlib
import io
import json
import math
import pickle
import sys
import time
import types
from fractions import Fraction

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from geowb.batch.asked import Range, item, items
from geowb.batch.checks import CHECKS, as_text, preflight, profile_values
from geowb.batch.grid import LARGEST, check, plan
from geowb.batch.studies import Parameter, load_study
from geowb.errors import RequestError

CELL = """data: str = "world"
regions: list[str] = ["cerrado"]
encoder: str = "swin"
weights: str = ""
epochs: int = 3
lr: float = 1
rates: list[float] = [0.1]
augment: bool = False
layers: list[int] = []
seed: int = 0
run_dir: str = "" """
RULES = {
    "data": {"check": "source", "selection": {"region": "regions"}},
    "weights": {"check": "weights", "model": "encoder"},
    "epochs": {"min": 1},
    "encoder": {"choices": ["swin", "unet", "unet_resnet18"]},
}
BY_ENCODER = {"by": "encoder", "swin": 9, "else": 4}
PROFILES = {
    "long": {"epochs": BY_ENCODER, "lr": 0.01},
    "teaching": {"epochs": 5, "lr": 0.01, "seed": 7},
    "broken": {"epochs": 0},
}


@pytest.fixture(scope="module")
def study(tmp_path_factory, write_study):
    path = tmp_path_factory.mktemp("study") / "tiny.ipynb"
    return load_study(write_study(path, CELL, rules=RULES, profiles=PROFILES))


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """Put checks of our own in the place of other rooms'; all that they were asked."""
    asked: list = []

    def source(value, **arguments):
        asked.append(("source", value, arguments))
        return ["The scene has no CRS."] if value == "no_crs" else []

    def weights(value, *, model):
        asked.append(("weights", value, model))
        return [f"{value} does not fit '{model}'."] if value == "a.pt" and model == "unet" else []

    monkeypatch.setitem(sys.modules, "elsewhere", types.SimpleNamespace(s=source, w=weights))
    monkeypatch.setitem(CHECKS, "source", "elsewhere:s")
    monkeypatch.setitem(CHECKS, "weights", "elsewhere:w")
    return asked


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a settings file in the current folder, where nothing else may appear."""
    monkeypatch.chdir(tmp_path)

    def settings(content, name="settings.csv"):
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(data)
        return name

    yield settings
    assert {path.name.split(".")[0] for path in tmp_path.rglob("*")} <= {"settings"}


def told(study, *args, **kwargs):
    with pytest.raises(RequestError) as error:
        plan(study, *args, **kwargs)
    text = str(error.value)
    assert text.startswith("tiny was not started")
    assert "\n" not in text
    return text


def column(found, name):
    return [values[name] for values in found.values]


# What is typed after -p, or given in Python


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("epochs", "1,2", [1, 2]),
        ("epochs", " 1 , 2 ", [1, 2]),
        ("epochs", "[1, 2]", [1, 2]),
        ("epochs", "1..4", [1, 2, 3, 4]),
        ("epochs", "1..11..5", [1, 6, 11]),
        ("epochs", "1..10..5", [1, 6]),
        ("epochs", "4..1..-1", [4, 3, 2, 1]),
        ("epochs", "1..2, 7", [1, 2, 7]),
        ("epochs", 4, [4]),
        ("epochs", range(1, 4), [1, 2, 3]),
        ("epochs", range(3, 0, -1), [3, 2, 1]),
        ("epochs", (1, 2), [1, 2]),
        ("epochs", np.arange(1, 3), [1, 2]),
        ("epochs", np.array(2), [2]),
        ("seed", "-2..0", [-2, -1, 0]),
        ("lr", "1e-3,3e-4", [0.001, 0.0003]),
        ("lr", "0.1..0.5..0.1", [0.1, 0.2, 0.3, 0.4, 0.5]),
        ("lr", "1e-3..2e-3..5e-4,1", [0.001, 0.0015, 0.002, 1.0]),
        ("lr", "0.3..0.1..-0.1", [0.3, 0.2, 0.1]),
        ("lr", np.array([0.5, 1]), [0.5, 1.0]),
        ("lr", range(2), [0.0, 1.0]),
        ("augment", "yes,off", [True, False]),
        ("encoder", "swin, unet", ["swin", "unet"]),
        ("weights", "../x.tif", ["../x.tif"]),
        ("weights", '"a,b",c', ["a,b", "c"]),
        ("weights", '"say ""hi""",  " [x]"', ['say "hi"', " [x]"]),
        ("weights", '"",a', ["", "a"]),
        ("weights", "", [""]),
        ("weights", 'a"b', ['a"b']),
        ("weights", '["a,b", ""]', ["a,b", ""]),
        ("regions", "cerrado", [["cerrado"]]),
        ("regions", "", [[]]),
        ("regions", "[]", [[]]),
        ("regions", '["a", "b"]', [["a", "b"]]),
        ("regions", '[["a"], ["b", "c"]]', [["a"], ["b", "c"]]),
        ("regions", '["a"], ["b"]', [["a"], ["b"]]),
        ("regions", "[[]]", [[]]),
        ("regions", ["a", "b"], [["a", "b"]]),
        ("regions", [["a"], ("b",)], [["a"], ["b"]]),
        ("regions", [], [[]]),
        ("layers", np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        ("layers", range(2), [[0, 1]]),
        ("layers", [range(2), range(3)], [[0, 1], [0, 1, 2]]),
        ("rates", "[1, 0.5]", [[1.0, 0.5]]),
    ],
)
def test_values_are_taken_apart(study, name, value, expected):
    found = plan(study, {name: value})
    assert column(found, name) == expected
    assert [list(setting) for setting in found.given] == [[name]] * len(expected)
    assert [type(v) for v in column(found, name)] == [type(v) for v in expected]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "epochs",
            "4..1",
            "epochs='4..1' is an empty range: 4 is above 1; write 1..4, or 4..1..-1",
        ),
        ("epochs", "1..4..-1", "steps of -1 from 1 lead away from 4; write 1..4..1."),
        ("epochs", "4..1..2", "steps of 2 from 4 lead away from 1; write 4..1..-2."),
        ("epochs", "1..4..0", "epochs='1..4..0' has a step of 0: write first..last"),
        ("epochs", "1..", "epochs='1..' is not a range of whole numbers: write first..last"),
        ("epochs", "..4", "is not a range of whole numbers"),
        ("epochs", "1..2..3..4", "is not a range of whole numbers"),
        ("epochs", "a..b", "is not a range of whole numbers"),
        ("epochs", "0.5..2", "is not a range of whole numbers"),
        ("epochs", "1...3", "is not a range of whole numbers"),
        ("lr", "0..1", "lr='0..1' is a range without a step: write first..last..step, as in 0.1"),
        ("lr", "0..nan..1", "lr='0..nan..1' is not a range of numbers"),
        ("lr", "0..1e999..1", "is not a range of numbers"),
        ("lr", "0..1..1e-999999999", "is not a range of numbers"),
        ("lr", "1/3..1..1/3", "is not a range of numbers"),
        ("lr", "0...5..1", "is not a range of numbers"),
        ("lr", "1e-3,fast", "lr='fast' is not a finite number (float)."),
        ("lr", "[1, ", "lr='[1, ' starts with [ and is not a JSON list"),
        ("lr", "fast,fast", "lr='fast' is not a finite number (float)."),
        ("lr", "1,,2", "lr='1,,2' has an empty item"),
        ("lr", "1,", "lr='1,' has an empty item"),
        ("lr", "", "lr='' is not a finite number (float)."),
        ("lr", "[]", "lr='[]' has no values."),
        ("lr", [], "lr=[] has no values."),
        ("lr", np.array([]), "has no values."),
        ("epochs", range(0), "epochs=range(0, 0) has no values."),
        ("lr", [[1.0]], "lr=[1.0] is not a finite number"),
        ("lr", None, "lr=None is not a finite number"),
        ("weights", '"a', "has a double quote without its other end"),
        ("weights", '"a"b', "has a double quote without its other end"),
        ("regions", "a,b", """write 'regions=["a", "b"]' for one list, 'regions=[["a"], ["b"]]'"""),
        ("layers", "1,2", "write 'layers=[1, 2]' for one list, 'layers=[[1], [2]]' for 2 runs."),
        ("layers", "1,x", "layers='1,x' is not a list of whole numbers"),
        ("layers", "0..3", "layers='0..3' is not a list of whole numbers"),
        ("regions", '["a"], "b"', """is no JSON: write ["a", "b"] for one list"""),
        ("regions", '["a"', "is no JSON"),
        ("regions", "[" * 100_000, "is no JSON"),
        ("regions", [["a"], "b"], "is not a list of text"),
        ("epochs", "0,2", "epochs=0 is below the smallest value allowed, 1."),
        ("encoder", "swin,unett", "encoder='unett' is not a choice. Did you mean 'unet'?"),
        ("epochs", "1..3,2", "epochs=2 is given twice."),
        ("lr", "1,1.0", "lr=1.0 is given twice."),
        ("regions", '["a"],["a"]', "regions=['a'] is given twice."),
        ("lrr", "1", "There is no parameter 'lrr'. Did you mean 'lr'?"),
        ("run_dir", "x,y", "'run_dir' is set by the runner; choose a folder with --out."),
    ],
)
def test_values_that_are_wrong_are_told_with_the_next_step(study, name, value, message):
    text = told(study, {name: value})
    assert message in text
    assert text.count("is not") <= 1  # told once
    assert "reasons" not in text


@given(first=st.integers(-50, 50), step=st.integers(-9, 9).filter(bool), count=st.integers(1, 30))
def test_a_range_of_whole_numbers_is_pythons(first, step, count):
    expected = range(first, first + step * count, step)
    last = expected[-1] + (abs(step) - 1) * (1 if step > 0 else -1)  # what is beyond, is not run
    for end in (expected[-1], last):
        found = item(Parameter("n", "int", 0), f"{first}..{end}..{step}")
        assert list(found) == list(expected)
        assert found.count == count


@given(
    first=st.integers(-1000, 1000),
    step=st.integers(1, 99),
    count=st.integers(1, 40),
    exponent=st.integers(-9, 3),
)
def test_a_range_of_floats_is_what_one_would_type(first, step, count, exponent):
    last = first + step * (count - 1)
    text = f"{first}e{exponent}..{last}e{exponent}..{step}e{exponent}"
    expected = [float(f"{first + i * step}e{exponent}") for i in range(count)]
    assert list(item(Parameter("x", "float", 0.0), text)) == expected


kinds = {
    "int": st.integers(),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "str": st.text(st.characters(codec="utf-8")),
}


@given(st.data())
def test_any_values_survive_their_text(data):
    kind = data.draw(st.sampled_from(sorted(kinds)))
    values = data.draw(st.lists(kinds[kind], min_size=1, max_size=4))
    assert items(Parameter("v", kind, None), json.dumps(values)) == values
    lists = [values, values[:1]]
    assert items(Parameter("v", f"list[{kind}]", None), json.dumps(lists)) == lists
    assert items(Parameter("v", f"list[{kind}]", None), as_text(values)) == [values]


@given(st.lists(kinds["str"], min_size=1, max_size=4))
def test_quoted_items_are_those_of_csv(texts):
    buffer = io.StringIO()
    csv.writer(buffer, quoting=csv.QUOTE_ALL, lineterminator="").writerow(texts)
    assert items(Parameter("v", "str", ""), buffer.getvalue()) == texts


@given(st.text('ab",[] \n.-1', max_size=12), st.sampled_from(["str", "float", "list[str]"]))
def test_any_text_is_read_or_refused(text, kind):
    message = "v="
    try:
        items(Parameter("v", kind, None), text)
    except ValueError as error:
        message = str(error)
    assert message.startswith("v=")


# Combinations


def test_all_combinations_in_the_order_given_and_the_seed_fastest(study):
    found = plan(study, {"lr": "1,2", "encoder": "unet,swin"}, repeat=2, profile="teaching")
    assert [tuple(g.values()) for g in found.given] == [
        (lr, encoder, seed) for lr in (1, 2) for encoder in ("unet", "swin") for seed in (0, 1)
    ]
    assert found.given[1] == {"lr": 1.0, "encoder": "unet", "seed": 1}
    assert found.varied == ("encoder", "lr", "seed")
    assert (found.profile, found.study) == ("teaching", study)
    assert {values["epochs"] for values in found.values} == {5}
    assert pickle.loads(pickle.dumps(found)) == found


def test_a_plan_of_one_run_is_what_preflight_says(study):
    for profile in (None, "teaching"):
        found = plan(study, {"epochs": "4", "weights": "x"}, profile=profile)
        _, values = preflight(study, {"epochs": 4, "weights": "x"}, profile=profile)
        assert found.values == (values,)
        assert list(found.values[0]) == list(values)
        assert found.varied == ()
    assert plan(study).given == ({},)
    assert plan(study, {}, repeat=1).given == ({"seed": 0},)


def test_the_default_of_a_float_is_a_float(study):
    assert preflight(study)[1] == preflight(study, {"lr": "1"})[1]
    assert type(preflight(study)[1]["lr"]) is float


def test_settings_in_python_are_each_one_run(study):
    found = plan(study, [{"lr": "1"}, {"lr": 2, "regions": "a,b"}, {}], profile="teaching")
    assert column(found, "lr") == [1.0, 2.0, 0.01]
    assert column(found, "regions") == [["cerrado"], ["a", "b"], ["cerrado"]]
    assert "list of settings, item 2: lr='1,2' is not a finite" in told(study, [{}, {"lr": "1,2"}])


def test_varied_looks_at_values_and_not_at_what_was_given(study):
    assert plan(study, [{"lr": 1.0}, {"epochs": 4}]).varied == ("epochs",)


def test_repeat(study, tmp_path, write_study):
    assert column(plan(study, repeat=3, profile="teaching"), "seed") == [0, 1, 2]
    assert "repeat=0 is below the smallest value allowed, 1." in told(study, repeat=0)
    assert "repeat=1.5 is not a whole number" in told(study, repeat=1.5)
    assert "'seed' is given, and repeat fills it too" in told(study, {"seed": "1"}, repeat=2)
    assert "'seed' is given, and repeat fills it too" in told(study, [{"seed": 1}, {}], repeat=2)
    for cell in ('run_dir: str = ""', 'seed: float = 1.0\nrun_dir: str = ""'):
        path = write_study(tmp_path / "tiny.ipynb", cell)
        assert "no whole-number parameter 'seed'" in told(path, repeat=2)


@pytest.mark.parametrize(
    ("grid", "repeat", "number"),
    [
        ({"epochs": "1..1000000000000"}, None, "1,000,000,000,000"),
        ({"lr": "0..1..1e-300"}, None, "more than 10^15"),
        ({"epochs": range(1, 10**20)}, None, "more than 10^15"),
        ({"epochs": "1.." + "9" * 4000, "seed": "1.." + "9" * 4000}, None, "more than 10^15"),
        ({"epochs": "1..101", "seed": "1..100"}, None, "10,100"),
        ({}, 10**12, "1,000,000,000,000"),
        ([{}] * 10_001, None, "10,001"),
    ],
)
def test_too_many_runs_are_refused_before_they_are_made(study, grid, repeat, number):
    started = time.monotonic()
    text = told(study, grid, repeat=repeat)
    assert f"These are {number} runs, more than 10,000" in text
    assert time.monotonic() - started < 2


def test_the_most_runs_that_are_allowed(study):
    found = plan(study, {"epochs": f"1..{LARGEST // 100}"}, repeat=100, checks=False)
    assert len(found.values) == LARGEST


def test_too_many_runs_do_not_hide_other_mistakes(study):
    text = told(study, {"seed": "0..99999", "lr": "fast", "epochz": 1}, profile="teachin")
    for part in ("100,000 runs", "lr='fast'", "'epochz'", "'teachin'"):
        assert part in text


# Everything at once


def test_everything_that_is_wrong_is_told_at_once_and_once(study, write):
    file = write("epochs,lrr\n0,1\n2,1\n")
    grid = {"lr": "1,fast,0..1", "data": "world,no_crs", "regionz": "x", "augment": "2,yes"}
    text = told(study, grid, profile="teachin", settings=file, repeat=2)
    assert "for 9 reasons. (1) " not in text
    for part in (
        "There is no profile 'teachin'. Did you mean 'teaching'?",
        "settings.csv, row 1, column 2: there is no parameter 'lrr'. Did you mean 'lr'?",
        "settings.csv, row 2, column 'epochs': epochs=0 is below the smallest value allowed, 1.",
        "lr='fast' is not a finite number (float).",
        "lr='0..1' is a range without a step",
        "There is no parameter 'regionz'. Did you mean 'regions'?",
        "augment='2' is not true or false (bool).",
        "The scene has no CRS. (In 24 of 48 runs, first with data='no_crs'.)",
    ):
        assert text.count(part) == 1
    assert "for 8 reasons. (1) " in text


def test_a_long_list_of_problems_is_cut(study):
    text = told(study, {"epochs": [f"x{i}" for i in range(1234)]})
    assert "for 1,234 reasons." in text
    assert "(10) epochs='x9' is not" in text
    assert text.endswith("And 1,224 more.")
    assert "(11)" not in text


def test_a_profiles_mistake_is_told_where_it_counts(study):
    assert "epochs=0 is below the smallest value allowed, 1. The profile 'broken' sets it." in told(
        study, {"lr": "1,2"}, profile="broken"
    )
    assert "The profile" in told(study, [{"epochs": 2}, {}], profile="broken")
    assert len(plan(study, {"epochs": "1,2"}, profile="broken").values) == 2


@pytest.mark.parametrize("grid", ["lr=1", 3, [3], ["lr"], []])
def test_a_grid_that_is_none(study, grid):
    assert "ist of settings" in told(study, grid)


# Checks of the machine


def test_each_check_is_made_once_for_the_same_arguments(study, calls):
    grid = {"epochs": "1..5", "data": "world,other", "encoder": "swin,unet", "lr": "1,2"}
    plan(study, grid, repeat=3)
    assert sorted(call[:2] for call in calls) == [
        ("source", "other"),
        ("source", "world"),
        ("weights", ""),
        ("weights", ""),
    ]
    plan(study, grid)
    assert len(calls) == 8  # nothing is kept from one plan for the next


def test_checks_can_be_left_for_later(study, calls):
    grid = {"encoder": "swin,unet", "weights": ["a.pt", "b.pt"], "lr": "1,2"}
    first = "first with weights='a.pt', encoder='unet'"
    message = f"a.pt does not fit 'unet'. (In 2 of 8 runs, {first}.)"
    assert message in told(study, grid)
    calls.clear()
    found = plan(study, grid, checks=False)
    assert not calls
    assert check(pickle.loads(pickle.dumps(found))) == [message]
    assert check(plan(study, {"lr": "1,2"})) == []
    with pytest.raises(RequestError, match="is not a finite number"):
        plan(study, {"lr": "fast"}, checks=False)


def test_a_check_that_fails_for_all_says_no_number(study):
    assert told(study, {"data": "no_crs", "lr": "1,2"}).endswith("The scene has no CRS.")


def test_a_check_is_left_out_where_what_it_needs_is_wrong(study, calls):
    told(study, {"regions": '["a"],[1]', "encoder": "swin,x"})
    assert [call[0] for call in calls] == ["source", "weights"]


# Settings files


def test_rows_of_a_csv_file_are_combined_with_the_grid(study, write):
    file = write('epochs,regions,weights\n1,"[""a"", ""b""]",\n\n2,,"x,y"\n')
    found = plan(study, {"lr": "1,2"}, settings=file, repeat=2)
    assert found.given[0] == {"epochs": 1, "regions": ["a", "b"], "lr": 1.0, "seed": 0}
    assert found.given[-1] == {"epochs": 2, "weights": "x,y", "lr": 2.0, "seed": 1}
    assert column(found, "epochs") == [1] * 4 + [2] * 4
    assert column(found, "lr") == [1.0, 1.0, 2.0, 2.0] * 2
    assert found.varied == ("regions", "weights", "epochs", "lr", "seed")


@pytest.mark.parametrize(
    "content",
    [
        "epochs,encoder\n1,unet\n2,swin",
        "\ufeffepochs,encoder\r\n1,unet\r\n2,swin\r\n",
        "epochs;encoder\n1;unet\n2;swin\n",
        "\n epochs , encoder \n 1, unet \n  \n2 ,swin\n\n",
        '"epochs","encoder"\n"1","unet"\n"2","swin"\n',
    ],
)
def test_the_csv_that_spreadsheets_write(study, write, content):
    found = plan(study, settings=write(content, "settings.CSV"))
    assert found.given == ({"epochs": 1, "encoder": "unet"}, {"epochs": 2, "encoder": "swin"})


ROWS = [{"epochs": 1, "lr": 1e-3, "regions": ["a", "b"]}, {"augment": True, "weights": "no"}]
GRID = {"epochs": [1, 2], "lr": "1,2", "regions": ["a", "b"], "weights": "x"}


@pytest.mark.parametrize("name", ["settings.yaml", "settings.yml", "settings.json"])
@pytest.mark.parametrize("content", [ROWS, GRID])
def test_yaml_and_json_are_rows_or_a_grid(study, write, name, content):
    text = (
        json.dumps(content) if name.endswith("json") else yaml.safe_dump(content, sort_keys=False)
    )
    assert plan(study, settings=write(text, name)) == plan(study, content)


def test_yaml_is_read_by_the_types_of_parameters(study, write):
    file = write("- {weights: no, lr: 1e-3}\n- {weights: 2024-01-01, epochs: '2'}", "settings.yaml")
    assert plan(study, settings=file).given == (
        {"weights": "no", "lr": 0.001},
        {"weights": "2024-01-01", "epochs": 2},
    )
    file = write("epochs: 1..3\nlr: [1e-3, 2e-3]\nregions: [[a, b], []]", "settings.yaml")
    assert len(plan(study, settings=file).values) == 12


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("lr,epochs,lrr\n1,1,1", "settings.csv, row 1, column 3: there is no parameter 'lrr'. Did"),
        ("lr,run_dir\n1,x", "settings.csv, row 1, column 2: 'run_dir' is set by the runner"),
        ("lr,epochs,lr\n1,1,1", "settings.csv, row 1, column 3: 'lr' is column 1 already."),
        ("lr,lrr\n1,2\n1,3", "settings.csv, row 1, column 2: there is no parameter 'lrr'."),
        ("lr,\n1,", "settings.csv, row 1, column 2: it has no name."),
        ("lr\n1\n\n\nfast", "settings.csv, row 5, column 'lr': lr='fast' is not a finite number"),
        ('weights,lr\n"a\nb",1\n"c",x', "settings.csv, row 4, column 'lr': lr='x' is not"),
        ("lr\nx\n1\nx\nx\nx", "settings.csv, rows 2, 4, 5 and 1 more, column 'lr': lr='x' is not"),
        ("lr\n1..2", "row 2, column 'lr': lr='1..2' is not a finite number"),
        ('lr\n"1,2"', "row 2, column 'lr': lr='1,2' is not a finite number"),
        ("lr;epochs\n0,1;2;3", "settings.csv, row 2: too many cells (3, the header has 2)."),
        (
            "lr,epochs\n1,2\n3\n4",
            "settings.csv, rows 3 and 4: too few cells (1, the header has 2).",
        ),
        ("lr,epochs\n1,2\n,", "settings.csv, row 3: empty cells only; delete it, or give a value."),
        ("lr\n", "settings.csv has no rows under its header: write one for each run."),
        ("", "settings.csv has no rows"),
        ('lr\n1\n"2\n', "settings.csv, row 3: unexpected end of data; look at its double quotes."),
        ("lr,epochs\n1,2\n3,4\n1.0,2", "settings.csv, rows 2 and 4: the same values of all param"),
        ("lr,epochs\n1,\n,3", "settings.csv, rows 2 and 3: the same values of all parameters."),
        (b"lr,weights\n1,\xe9", "settings.csv is not UTF-8 (byte 13): save it as UTF-8, in Excel"),
    ],
)
def test_what_is_wrong_in_a_csv_file(study, write, content, message):
    text = told(study, settings=write(content))
    assert message in text
    assert "reasons" not in text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "settings.yaml",
            "- {lr: 1}\n- {lrr: 1}",
            "settings.yaml, item 2: there is no parameter",
        ),
        ("settings.yaml", "- {lr: x}\n- {lr: x}", "settings.yaml, items 1 and 2: lr='x' is not a"),
        (
            "settings.yaml",
            "- lr: 1\n- 3",
            "settings.yaml, item 2: not a mapping of names",
        ),
        ("settings.yaml", "lr: [1, x]", "settings.yaml: lr='x' is not a finite number (float)."),
        ("settings.yaml", "lrr: 1", "settings.yaml: there is no parameter 'lrr'."),
        ("settings.yaml", "lr: 1, 1", "settings.yaml: lr=1.0 is given twice."),
        ("settings.yaml", "lr: null", "settings.yaml: lr=None is not a finite number"),
        ("settings.yaml", "", "The settings file settings.yaml has no settings in it."),
        ("settings.yaml", "[]", "The settings file settings.yaml has no settings in it."),
        ("settings.yaml", "text", "settings.yaml: neither a mapping of names to values nor a list"),
        ("settings.yaml", "a: [1\nb: 2", "settings.yaml cannot be read: line 2, expected ',' or"),
        ("settings.yaml", "lr: 1\nlr: 2", "cannot be read: line 2, 'lr' is there twice."),
        ("settings.yaml", "a: 1\n---\nb: 2", "cannot be read: line 2, but found another document"),
        (
            "settings.yaml",
            "lr: !!python/object:os.x 1",
            "cannot be read: line 1, could not",
        ),
        ("settings.yaml", "a: \x00", "settings.yaml cannot be read: "),
        (
            "settings.json",
            '{"lr": 1, "lr": 2}',
            "json cannot be read: 'lr' is there twice.",
        ),
        ("settings.json", "{", "settings.json cannot be read: Expecting property name"),
        ("settings.json", "[" * 100_000, "settings.json cannot be read: "),
        ("settings.txt", "lr\n1", "settings.txt is not a .csv, .yaml, .yml or .json file."),
    ],
)
def test_what_is_wrong_in_another_file(study, write, name, content, message):
    text = told(study, settings=write(content, name))
    assert message in text
    assert "reasons" not in text


def test_a_file_that_is_not_there(study, tmp_path):
    assert "There is no settings file none.csv." in told(study, settings="none.csv")
    (tmp_path / "folder.csv").mkdir()
    assert "folder.csv cannot be read: Is a directory." in told(
        study, settings=tmp_path / "folder.csv"
    )


def test_a_parameter_in_the_file_and_in_the_grid(study, write):
    file = write("lr,seed\n1,1\n2,2")
    text = told(study, {"lr": "3"}, settings=file, repeat=2)
    assert "'lr' is both in settings.csv and beside it (-p): leave one of them out." in text
    assert "'seed' is given, and repeat fills it too" in text


@given(
    st.lists(
        st.fixed_dictionaries(
            {"epochs": st.integers(1, 9), "lr": st.floats(0, 1)},
            optional={"weights": st.text("a,;\"' b", min_size=1).map(str.strip).filter(bool)},
        ),
        min_size=1,
        max_size=5,
        unique_by=lambda row: (row["epochs"], row["lr"]),
    )
)
def test_any_rows_survive_a_csv_file(tmp_path_factory, study, rows):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["epochs", "lr", "weights"], quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
    found = plan(study, settings=path, checks=False)
    assert list(found.given) == rows


def test_a_foreign_notebook(tmp_path, write_study):
    path = write_study(tmp_path / "f.ipynb", "a = None\nb = 2\nc: int = 2.5", study=False)
    found = plan(path, {"a": "x,y", "b": "1..2"})
    assert [tuple(setting.values()) for setting in found.given] == [
        ("x", 1),
        ("x", 2),
        ("y", 1),
        ("y", 2),
    ]
    assert found.values[0]["c"] == 2.5


@pytest.mark.parametrize("module", ["grid", "asked"])
def test_examples(module, monkeypatch):
    monkeypatch.undo()  # the real checks
    result = doctest.testmod(importlib.import_module(f"geowb.batch.{module}"))
    assert result.attempted > 0
    assert result.failed == 0


def test_a_range_is_not_made_before_it_is_used():
    found = item(Parameter("x", "float", 0.0), "0..1e300..1")
    assert isinstance(found, Range)
    assert found.count == 10**300 + 1
    assert math.isclose(next(iter(found)), 0.0)
    assert found.step == Fraction(1)


# Values of a profile that depend on another parameter


def test_a_profiles_value_may_depend_on_another_parameter(study):
    found = plan(study, {"encoder": "swin,unet", "lr": [0.1]}, profile="long")
    assert column(found, "epochs") == [9, 4]
    assert column(plan(study, {"encoder": "swin", "epochs": "2"}, profile="long"), "epochs") == [2]
    assert profile_values(study, "long", {"encoder": "unet"}) == {"epochs": 4, "lr": 0.01}


def test_each_of_the_values_that_a_profile_may_have_is_judged(tmp_path, write_study):
    profiles = {"wrong": {"epochs": {"by": "encoder", "swin": 0, "else": 4}}}
    bad = load_study(write_study(tmp_path / "tiny.ipynb", CELL, rules=RULES, profiles=profiles))
    assert "epochs=0 is below the smallest value" in told(bad, {"encoder": "unet"}, profile="wrong")


@pytest.mark.parametrize("rule", [{"by": "encodr", "else": 1}, {"by": "encoder", "swin": 1}, {}])
def test_what_a_profile_goes_by_must_be_there_and_complete(tmp_path, write_study, rule):
    profiles = {"wrong": {"epochs": rule}}
    bad = load_study(write_study(tmp_path / "tiny.ipynb", CELL, rules=RULES, profiles=profiles))
    assert "that must be another parameter, and 'else' must say" in told(bad, {})
