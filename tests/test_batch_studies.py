"""Finding studies, reading and checking their parameters."""

from __future__ import annotations

import ast
import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from papermill.translators import PythonTranslator

from geowb.batch import find_studies, lint, load_study
from geowb.batch.studies import TYPES, read_parameters
from geowb.errors import RequestError


def notebook(source, **block):
    cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": source}
    return {"cells": [cell], "metadata": {"geowb": block}}


def test_reads_names_types_defaults_and_help():
    parameters = read_parameters(
        "# how long\n"
        "epochs: int = 3  # passes over the data\n"
        "offset: float = -1e-3\n"
        "bands: list[str] = ['RED', 'NIR_NARROW']  # which\n"
        "plain = True\n"
    )
    assert {n: (p.type, p.default, p.help) for n, p in parameters.items()} == {
        "epochs": ("int", 3, "passes over the data"),
        "offset": ("float", -1e-3, ""),
        "bands": ("list[str]", ["RED", "NIR_NARROW"], "which"),
        "plain": ("bool", True, ""),
    }


@pytest.mark.parametrize(
    ("line", "default", "papermill_default"),
    [
        ('value: str = "a=b"', "a=b", None),
        ('value: "int | None" = None', None, None),
        ('value: str = "a # b"  # help', "a # b", '"a'),
    ],
)
def test_sees_what_papermill_drops_or_cuts(line, default, papermill_default):
    theirs = {p.name: p.default for p in PythonTranslator.inspect({"source": line})}
    assert theirs.get("value") == papermill_default
    assert read_parameters(line)["value"].default == default
    assert lint(notebook(line))


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("epochs = 3", "has no type annotation"),
        ("epochs: int | None = None", "has the type int | None"),
        ("when: datetime = 3", "has the type datetime"),
        ("lr: float = 1 / 3", "not a literal"),
        ("epochs: int = 3.5", "not of its type int"),
        ("epochs: int = True", "not of its type int"),
        ("bands: list[str] = ['RED', 3]", "not of its type list[str]"),
        ("bands: list[str] = [\n  'RED',\n]", "several lines"),
        ("name: str = 'a=b'", "second '='"),
        ("epochs: int = 3  # default=3", "second '='"),
        ("name: str = 'a#b'", "'#' in its value"),
        ("import os", "not an assignment"),
        ("epochs: int", "not an assignment"),
        ("a = b = 3", "not an assignment"),
        ("epochs: int = 3\nepochs: int = 4", "assigns 'epochs' twice"),
        ("epochs: int = ", "not Python (line 1"),
    ],
)
def test_lint_names_what_is_wrong(source, told):
    problems = lint(notebook(source))
    assert len(problems) == 1
    assert told in problems[0]


def test_lint_checks_the_metadata_against_the_cell():
    problems = lint(
        notebook(
            "epochs: int = 3",
            parameters={"epoch": {}, "epochs": {"minimum": 1}},
            profiles={"full": {"epocs": 9}},
        )
    )
    assert len(problems) == 3
    assert all("Did you mean" in problem for problem in problems)


def test_lint_wants_exactly_one_parameters_cell():
    broken = notebook("epochs: int = 3")
    broken["cells"] *= 2
    assert lint(broken) == ["It has 2 cells with the tag 'parameters', not one."]
    assert lint({"cells": []}) == ["It has 0 cells with the tag 'parameters', not one."]


names = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(
    lambda name: name.isidentifier() and not name[0].isdigit()
)
text = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), max_size=12)
values = {
    "int": st.integers(),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "bool": st.booleans(),
    "str": text,
}
values |= {f"list[{kind}]": st.lists(values[kind], max_size=4) for kind in ("str", "int", "float")}
assignments = st.sampled_from(TYPES).flatmap(
    lambda kind: st.tuples(names, st.just(kind), values[kind], text.map(str.strip))
)


@given(assignments)
def test_what_lint_passes_papermill_reads_alike(assignment):
    """Either lint refuses a line, or papermill's own reader finds in it what ours does."""
    name, kind, value, help_text = assignment
    source = f"{name}: {kind} = {value!r}" + (f"  # {help_text}" if help_text else "")
    assume(not lint(notebook(source)))
    (ours,) = read_parameters(source).values()
    (theirs,) = PythonTranslator.inspect({"source": source})
    assert (theirs.name, theirs.inferred_type_name) == (ours.name, ours.type) == (name, kind)
    assert ast.literal_eval(theirs.default) == ours.default == value


def test_find_studies_lists_notebooks_with_a_study_block(tmp_path, write_study):
    write_study(tmp_path / "one.ipynb")
    write_study(tmp_path / "helper.ipynb", study=False)
    (found,) = find_studies(tmp_path).values()
    assert (found.name, found.title, found.paper) == ("one", "Tiny", "2406.19888")
    assert found.with_role("run_dir") == "run_dir"
    assert load_study("one", tmp_path) == found
    assert load_study(tmp_path / "helper.ipynb").title == "helper"


def test_an_unknown_study_is_answered_with_the_nearest(tmp_path, write_study, monkeypatch):
    write_study(tmp_path / "agb_transfer.ipynb")
    with pytest.raises(RequestError, match="Did you mean 'agb_transfer'"):
        load_study("agb_transfr", tmp_path)
    with pytest.raises(RequestError, match="no notebook at"):
        load_study(tmp_path / "nothing.ipynb")
    write_study(tmp_path / "my_own.ipynb")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match=r"Did you mean the notebook my_own\.ipynb"):
        load_study("my_own")


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"nbformat": 3, "worksheets": []})])
def test_a_file_that_is_no_notebook_is_named(tmp_path, content):
    (tmp_path / "broken.ipynb").write_text(content)
    with pytest.raises(RequestError, match=r"broken\.ipynb"):
        load_study(tmp_path / "broken.ipynb")
