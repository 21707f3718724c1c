"""Preflight: what is wrong is found before anything starts, all of it at once."""

from __future__ import annotations

import importlib
import math
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from papermill.translators import PythonTranslator

from geowb.bands import HLS6
from geowb.batch import as_text, convert, load_study
from geowb.batch import preflight as check
from geowb.batch.checks import CHECKS, sources
from geowb.batch.grid import plan
from geowb.batch.studies import TYPES, Parameter
from geowb.errors import CatalogError, RequestError


def parameter(kind, **rules):
    return Parameter("value", kind, None, "", rules)


@pytest.mark.parametrize(
    ("kind", "given_value", "expected"),
    [
        ("int", "3", 3),
        ("int", " -3 ", -3),
        ("int", np.int64(3), 3),
        ("int", np.array(3), 3),
        ("float", "1e-3", 0.001),
        ("float", 3, 3.0),
        ("float", "3", 3.0),
        ("float", np.float32(0.5), 0.5),
        ("bool", "True", True),
        ("bool", "off", False),
        ("bool", np.True_, True),
        ("str", "3", "3"),
        ("str", "", ""),
        ("str", Path("a") / "b.tif", str(Path("a") / "b.tif")),
        ("list[str]", "RED, NIR_NARROW", ["RED", "NIR_NARROW"]),
        ("list[str]", '["a, b", "c"]', ["a, b", "c"]),
        ("list[str]", "", []),
        ("list[str]", (Path("a"), "b"), ["a", "b"]),
        ("list[int]", "1,2", [1, 2]),
        ("list[int]", range(3), [0, 1, 2]),
        ("list[int]", np.arange(2), [0, 1]),
        ("list[float]", "[1, 0.5]", [1.0, 0.5]),
        ("list[float]", (1, 2.5), [1.0, 2.5]),
    ],
)
def test_converts_text_and_python_values(kind, given_value, expected):
    result = convert(parameter(kind), given_value)
    assert result == expected
    assert type(result) is type(expected)
    if isinstance(expected, list):
        assert [type(item) for item in result] == [type(item) for item in expected]


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        *[("int", bad) for bad in ("ten", "", "1.5", "1e3", 1.5, 3.0, True, None, [3], b"3")],
        *[("float", bad) for bad in ("x", "nan", "inf", math.nan, -math.inf, True, None, 10**400)],
        *[("bool", bad) for bad in ("maybe", "2", 1, 0, None)],
        *[("str", bad) for bad in (3, None, True, b"x", ["a"], "\udc80")],
        *[("list[str]", bad) for bad in ("a,,b", '["a", 1]', "[a", 3, None, {"a"}, b"ab")],
        *[("list[int]", bad) for bad in ("1,x", "[1, 2.5]", "[true]", [1.5], "[[1]]", np.array(3))],
        *[("list[float]", bad) for bad in ("[NaN]", "1,inf", [True], '{"a": 1}')],
    ],
)
def test_refuses_what_is_not_of_the_type(kind, bad):
    with pytest.raises(ValueError, match=r"^value=.* is not .*\(" + kind.replace("[", r"\[")):
        convert(parameter(kind), bad)


plain = {
    "int": st.integers(),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "bool": st.booleans(),
    "str": st.text(st.characters(codec="utf-8")),
}
plain |= {f"list[{kind}]": st.lists(plain[kind], max_size=5) for kind in ("str", "int", "float")}
typed = st.sampled_from(TYPES).flatmap(lambda kind: st.tuples(st.just(kind), plain[kind]))


@given(typed)
def test_any_value_survives_the_command_line(case):
    kind, value = case
    assert convert(parameter(kind), as_text(value)) == value
    assert convert(parameter(kind), value) == value


@given(typed)
def test_any_value_survives_papermills_injection(case):
    kind, value = case
    cell: dict = {}
    exec(PythonTranslator.codify({"value": convert(parameter(kind), value)}), cell)
    assert cell["value"] == value
    assert type(cell["value"]) is type(value)


@pytest.mark.parametrize(
    ("rules", "bad", "told"),
    [
        ({"choices": ["swin_demo", "unet"]}, "swin_dmo", "Did you mean 'swin_demo'"),
        ({"choices": ["swin_demo", "unet"]}, "xyz", "Known: swin_demo, unet"),
        ({"min": 1}, 0, "below the smallest value allowed, 1"),
        ({"above": 0}, 0.0, "is not above 0"),
        ({"max": 1.0}, 1.5, "above the largest value allowed, 1.0"),
    ],
)
def test_refuses_what_the_study_does_not_allow(rules, bad, told):
    kind = type(bad).__name__
    with pytest.raises(ValueError, match=told):
        convert(parameter(kind, **rules), bad)
    with pytest.raises(ValueError, match=told):
        convert(parameter(f"list[{kind}]", **rules), [bad])


@pytest.fixture
def study(tmp_path, write_study):
    path = write_study(
        tmp_path / "tiny.ipynb",
        'catalog: str = ""\ndata: str = "world"\nregions: list[str] = ["cerrado"]\n'
        'encoder: str = "swin"\nweights: str = ""\nepochs: int = 3\nlr: float = 0.1\n'
        'run_dir: str = ""',
        rules={
            "data": {
                "check": "source",
                "catalog": "catalog",
                "variables": ["agb"],
                "bands": "HLS6",
                "selection": {"region": "regions"},
            },
            "weights": {"check": "weights", "model": "encoder"},
            "epochs": {"min": 1},
        },
        profiles={"teaching": {"epochs": 5, "lr": 0.01}, "broken": {"epochs": 0}},
    )
    return load_study(path)


@pytest.fixture
def calls(monkeypatch):
    """Put checks of our own in the place of other rooms'; what they were asked."""
    asked: dict = {}

    def source(value, **arguments):
        asked["source"] = (value, arguments)
        return ["The scene has no CRS."] if value == "no_crs" else []

    def weights(value, **arguments):
        asked["weights"] = (value, arguments)
        if value == "broken":
            raise CatalogError("The file is broken.")
        return []

    room = types.SimpleNamespace(source=source, weights=weights)
    monkeypatch.setitem(sys.modules, "another_room", room)
    monkeypatch.setitem(CHECKS, "source", "another_room:source")
    monkeypatch.setitem(CHECKS, "weights", "another_room:weights")
    return asked


def test_given_wins_over_profile_wins_over_cell(study, calls):
    _, values = check(study, {"epochs": "7"}, profile="teaching")
    assert (values["epochs"], values["lr"], values["data"]) == (7, 0.01, "world")
    assert "run_dir" not in values
    assert check(study)[1]["epochs"] == 3


def test_checks_are_called_with_the_other_parameters_values(study, calls):
    check(study, {"catalog": "my.yaml", "regions": "amazon,cerrado", "encoder": "unet"})
    assert calls["source"] == (
        "world",
        {
            "catalog": "my.yaml",
            "variables": ["agb"],
            "bands": HLS6,
            "selection": {"region": ["amazon", "cerrado"]},
        },
    )
    assert calls["weights"] == ("", {"model": "unet"})
    assert sources(*check(study, {"catalog": "my.yaml"})) == {"data": "my.yaml"}


def test_everything_that_is_wrong_is_told_at_once(study, calls):
    wrong = {"epochz": 1, "lr": "fast", "data": "no_crs", "weights": "broken", "run_dir": "x"}
    with pytest.raises(RequestError) as told:
        check(study, wrong, profile="teachin")
    text = str(told.value)
    assert text.startswith("tiny was not started, for 6 reasons. (1) ")
    assert "\n" not in text
    for part in (
        "no profile 'teachin'. Did you mean 'teaching'?",
        "no parameter 'epochz'. Did you mean 'epochs'?",
        "lr='fast' is not a finite number (float).",
        "'run_dir' is set by the runner; choose a folder with --out.",
        "The scene has no CRS.",
        "The file is broken.",
    ):
        assert part in text


def test_a_check_is_left_out_where_what_it_needs_is_wrong(study, calls):
    with pytest.raises(RequestError, match="is not a list of text"):
        check(study, {"regions": 3})
    assert "source" not in calls
    assert "weights" in calls


def test_a_profiles_own_mistake_is_laid_to_it(study, calls):
    with pytest.raises(RequestError, match=r"below .* The profile 'broken' sets it\."):
        check(study, profile="broken")


def test_a_check_whose_package_is_missing_says_so(study, calls, monkeypatch):
    monkeypatch.setitem(CHECKS, "weights", "no_such_package.models:check")
    with pytest.raises(RequestError, match="the package no_such_package is not installed"):
        check(study)
    monkeypatch.delitem(CHECKS, "weights")
    with pytest.raises(RequestError, match="unknown check 'weights'"):
        check(study)


def test_a_study_that_does_not_lint_is_not_started(tmp_path, write_study):
    path = write_study(tmp_path / "bad.ipynb", 'run_dir: str = ""\nname: str = "a=b"')
    with pytest.raises(RequestError, match=r"bad was not started. Line 2 of its parameters cell"):
        check(path)


def test_a_foreign_notebook_keeps_what_cannot_be_passed_on(tmp_path, write_study):
    source = "a = (1, 2)\nb: float = 1 / 3\nc: int | None = None\nd = None\ne = 2"
    path = write_study(tmp_path / "foreign.ipynb", source, study=False)
    assert check(path)[1] == {"e": 2}
    assert check(path, {"b": "0.5", "d": "x"})[1] == {"b": 0.5, "d": "x", "e": 2}
    with pytest.raises(RequestError, match=r"c='3' is not possible: the type int \| None"):
        check(path, {"c": "3"})
    with pytest.raises(RequestError, match=r"d=.* is not possible: the type of its value"):
        check(path, {"d": {1, 2}})


def test_the_real_checks_can_be_imported_by_name():
    for name in CHECKS.values():
        module, function = name.split(":")
        assert callable(getattr(importlib.import_module(module), function))


@pytest.fixture
def tasks(tmp_path, write_study):
    """A study of two tasks, each with data of its own."""
    return load_study(
        write_study(
            tmp_path / "tasks.ipynb",
            'task: str = "flood"\ndata: str = ""\nrates: list[float] = []\nrun_dir: str = ""',
            rules={
                "task": {"choices": ["flood", "crop"]},
                "data": {
                    "check": "source",
                    "empty": {"by": "task", "flood": "world_floods", "crop": "world_crops"},
                    "variables": {"by": "task", "flood": ["flood"], "crop": ["crop"]},
                },
                "rates": {"empty": [0.1]},
            },
        )
    )


def test_an_empty_value_stands_for_what_the_study_says(tasks, calls):
    _, values = check(tasks)
    assert values == {"task": "flood", "data": "world_floods", "rates": [0.1]}
    assert calls["source"] == ("world_floods", {"variables": ["flood"]})
    _, values = check(tasks, {"task": "crop", "rates": [0.2]})
    assert values == {"task": "crop", "data": "world_crops", "rates": [0.2]}
    assert calls["source"] == ("world_crops", {"variables": ["crop"]})
    assert check(tasks, {"data": "mine"})[1]["data"] == "mine"


def test_a_wrong_choice_is_told_without_what_depends_on_it(tasks, calls):
    with pytest.raises(RequestError, match="task='floods' is not a choice") as told:
        check(tasks, {"task": "floods"})
    assert "reasons" not in str(told.value)


def test_a_sweep_fills_each_run(tasks, calls):
    made = plan(tasks, {"task": ["flood", "crop"]})
    assert [values["data"] for values in made.values] == ["world_floods", "world_crops"]
