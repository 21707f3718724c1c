"""The form of a study: its fields, what a run would take, running, stopping, what goes wrong."""

from __future__ import annotations

import html
import json
import re
import threading
import time

import psutil
import pytest
import traitlets as t
from hypothesis import given
from hypothesis import strategies as st
from sweeping import CELLS, PARAMETERS, ends, waiting

from geowb.batch.checks import convert
from geowb.batch.grid import plan
from geowb.batch.results import load_runs
from geowb.batch.studies import Parameter, find_studies, load_study
from geowb.errors import RequestError
from geowb.widgets import StudyRunner
from geowb.widgets.form import Picks, limits, typed

SCRIPT = "<script>alert('x')</script>"
TYPES = f"""\
epochs: int = 3  # passes over the data
rate: float = 0.1  # step {SCRIPT}
flag: bool = False  # yes or no
name: str = "x"  # any text
kind: str = "a"  # one of some
size: int = 8  # one of some numbers
many: list[str] = ["p", "q"]  # texts
ints: list[int] = [1]  # whole numbers
floats: list[float] = [0.5]  # numbers
pick: list[str] = ["a"]  # some of some
some: list[int] = [2]  # some of some numbers
data: str = "world"  # entry of the catalog
seed: int = 0  # of the draws
run_dir: str = ""
"""
RULES = {
    "epochs": {"min": 1, "max": 50},
    "rate": {"above": 0},
    "kind": {"choices": ["a", "b", ""]},
    "size": {"choices": [8, 16]},
    "floats": {"items": 1, "min": 0},
    "pick": {"choices": ["a", "b", "c"]},
    "some": {"choices": [1, 2, 3]},
    "data": {"check": "source"},
}
PROFILES = {
    "teaching": {"epochs": 5},
    "full": {"epochs": {"by": "kind", "b": 40, "else": 20}, "pick": ["b", "c"]},
}
CELL = """\
import json
from geowb.batch import RunDirectory
run = RunDirectory(run_dir)
given = [epochs, rate, flag, name, kind, size, many, ints, floats, pick, some, data, seed]
(run.path / "given.json").write_text(json.dumps(given))
run.metric("score", epochs * rate, "points")
"""
RUN = "\nassert name != 'empty'\nif name == 'fail':\n    raise ValueError('No pixel has a label.')"


@pytest.fixture(scope="module")
def study(tmp_path_factory, write_study):
    path = tmp_path_factory.mktemp("study") / "types.ipynb"
    return write_study(path, TYPES, ("## Go", CELL + RUN), rules=RULES, profiles=PROFILES)


@pytest.fixture(scope="module")
def slow(tmp_path_factory, write_study):
    return write_study(tmp_path_factory.mktemp("study") / "slow.ipynb", PARAMETERS, CELLS)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def runner(study, out):
    made = StudyRunner(study, out=str(out))
    yield made
    made.stop()
    made.wait(30)
    made.close()


def field(runner, name):
    return runner._fields[name]


def can_run(runner):
    return not runner._run_button.disabled


def judged(runner):
    return html.unescape(re.sub(r"<[^>]+>", "", runner._judged.value))


def helped(runner, name):
    return html.unescape(re.sub(r"<[^>]+>", " ", field(runner, name)._help.value))


def would(runner):
    """Values of the runs, as the command line's own reading has them."""
    return list(runner.plan().values)


# --- fields --------------------------------------------------------------------------------------


def test_each_parameter_has_a_field_with_its_help_and_its_value(runner, study):
    about = load_study(study)
    expected = plan(about, {}, profile="teaching", checks=False).values[0]
    assert list(runner._fields) == [name for name in about.parameters if name != "run_dir"]
    for name, one in runner._fields.items():
        assert one.value == expected[name]
        assert one.problem() == ""
        assert about.parameters[name].help.split("<")[0].strip() in helped(runner, name)
    assert would(runner) == [expected]
    assert can_run(runner)
    assert "1 run" in judged(runner)


def test_rules_are_said_in_words(runner):
    assert "at least 1, at most 50" in helped(runner, "epochs")
    assert "above 0" in helped(runner, "rate")
    assert limits(Parameter("a", "list[float]", [], rules={"items": 2})) == "2 or more of them"


#: What a person does at a control, and what the run gets.
TYPED = [
    ("epochs", 7, 7),
    ("rate", "1e-3", 0.001),
    ("rate", " 2 ", 2.0),
    ("flag", True, True),
    ("name", "a, b", "a, b"),
    ("name", "0..4", "0..4"),
    ("name", '["x"]', '["x"]'),
    ("name", '"quoted"', '"quoted"'),
    ("name", "ü ∑ ' \\ $x$", "ü ∑ ' \\ $x$"),
    ("name", "", ""),
    ("name", SCRIPT, SCRIPT),
    ("kind", "", ""),
    ("size", 16, 16),
    ("many", "a, b ,c", ["a", "b", "c"]),
    ("many", '["a,b", ""]', ["a,b", ""]),
    ("many", "", []),
    ("ints", "3, -2", [3, -2]),
    ("floats", "1, 0.25", [1.0, 0.25]),
    ("pick", ["a", "c"], ["a", "c"]),
    ("pick", [], []),
    ("some", [1, 3], [1, 3]),
    ("seed", -3, -3),
]


@pytest.mark.parametrize(("name", "typed_", "expected"), TYPED)
def test_what_is_typed_is_what_a_run_gets(runner, study, name, typed_, expected):
    field(runner, name).control.value = typed_
    assert field(runner, name).problem() == ""
    assert runner.parameters == {name: expected}
    assert type(runner.parameters[name]) is type(expected)
    base = plan(study, {}, profile="teaching", checks=False).values[0]
    assert would(runner) == [base | {name: expected}]
    assert can_run(runner)
    assert "changed" in field(runner, name)._label.value
    runner._reset.click()
    assert runner.parameters == {}
    assert would(runner) == [base]
    assert field(runner, name).value == base[name]
    assert "changed" not in field(runner, name)._label.value


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, _, v in TYPED])
def test_what_code_sets_is_what_the_form_shows_and_a_run_gets(runner, study, name, value):
    runner.parameters = {name: value}
    assert runner.state == "result", runner.message
    base = plan(study, {}, profile="teaching", checks=False).values[0]
    assert would(runner) == [base | {name: value}]
    assert field(runner, name).value == value
    control = field(runner, name).control
    shown = control.value
    control.value = shown  # seen again by the page
    assert convert(field(runner, name).parameter, shown) == value
    assert runner.parameters == {name: value}


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("epochs", "three", "whole number"), ("epochs", 0, "smallest"), ("epochs", 51, "largest"),
        ("epochs", [1, 2], "whole number"), ("epochs", None, "whole number"),
        ("epochs", "0..4", "whole number"), ("epochs", 2.5, "whole number"),
        ("rate", "x", "finite"), ("rate", "1, 2", "finite"), ("rate", "0.1..0.5..0.1", "finite"),
        ("rate", 0, "above 0"), ("rate", float("nan"), "finite"), ("rate", "", "finite"),
        ("flag", "maybe", "true or false"), ("flag", 2, "true or false"),
        ("name", 5, "text"), ("name", ["a"], "text"), ("kind", "z", "choice"),
        ("size", 9, "choice"), ("many", "[x", "list of text"), ("many", "a,,b", "list of text"),
        ("many", 5, "list of text"), ("ints", "1, x", "whole numbers"), ("ints", [1.5], "whole"),
        ("floats", [], "1 item"), ("floats", "-1", "smallest"), ("pick", ["a", "z"], "'z'"),
        ("pick", "z", "'z'"), ("some", [9], "9"), ("seed", True, "whole number"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_at_its_field_and_nothing_can_run(runner, name, value, word):
    runner.parameters = {name: value}
    assert word in field(runner, name).problem()
    assert name in helped(runner, name)
    assert word in helped(runner, name)
    assert not can_run(runner), judged(runner)
    assert runner._head.detail == ""
    assert "ready" not in runner.message
    with pytest.raises(RequestError, match=name):
        runner.plan()
    runner.run()
    assert runner.wait(5)
    assert runner.state == "error"
    assert name in runner.message
    runner.parameters = {}
    assert can_run(runner)
    assert runner.state == "result"
    assert field(runner, name).problem() == ""


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("epochs", "5", 5), ("flag", "no", False), ("flag", "yes", True), ("rate", "2", 2.0),
        ("many", "a,b", ["a", "b"]), ("ints", "1,2", [1, 2]), ("pick", "b,a", ["b", "a"]),
        ("size", "16", 16),
    ],
)  # fmt: skip
def test_text_from_code_is_read_as_on_the_command_line(runner, name, text, value):
    runner.parameters = {name: text}
    assert field(runner, name).problem() == ""
    assert [values[name] for values in would(runner)] == [value]
    assert can_run(runner)


def test_the_order_of_picks_is_kept_or_the_form_says_so(runner):
    runner.parameters = {"pick": ["c", "a"]}
    (values,) = would(runner)
    assert values["pick"] == field(runner, "pick").value == ["c", "a"]


def test_picks_are_ticked_one_by_one():
    picks, seen = Picks(["a", "b", "c"]), []
    picks.observe(lambda change: seen.append(change["new"]), "value")
    for box in picks.children:
        box.value = True
    picks.children[1].value = False
    assert picks.value == ["a", "c"]
    picks.value = ["b"]
    assert [box.value for box in picks.children] == [False, True, False]
    assert picks.value == ["b"]


@given(st.lists(st.text(max_size=6).filter(lambda text: text.isprintable()), max_size=4))
def test_lists_of_text_are_written_so_that_they_are_read_back(items):
    parameter = Parameter("many", "list[str]", [])
    assert convert(parameter, typed(parameter, items)) == items


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=4))
def test_lists_of_numbers_are_written_so_that_they_are_read_back(items):
    parameter = Parameter("floats", "list[float]", [])
    assert convert(parameter, typed(parameter, items)) == items


def test_fields_are_found_by_name_and_help(runner):
    def shown():
        return [n for n, one in runner._fields.items() if one.box.layout.display != "none"]

    runner._find.value = "PASSES data"
    assert shown() == ["epochs"]
    runner._find.value = "seed"
    assert shown() == ["seed"]
    runner._find.value = "no such thing"
    assert shown() == []
    runner._find.value = ""
    assert shown() == list(runner._fields)


def test_names_and_helps_of_others_are_shown_as_they_are(tmp_path, write_study, out):
    path = write_study(tmp_path / "x.ipynb", f'a: str = "{SCRIPT}"  # {SCRIPT}\nrun_dir: str = ""')
    text = path.read_text().replace('"Tiny"', json.dumps(SCRIPT))
    path.write_text(text.replace('"A small one."', json.dumps(SCRIPT)))
    runner = StudyRunner(path, out=str(out / SCRIPT))
    runner.parameters = {"a": "<img src=x onerror=alert(1)>"}
    runner.vary = {"a": f"{SCRIPT},b"}
    shown = [runner._title, runner._judged, runner._live]
    shown += [part for one in runner._fields.values() for part in (one._label, one._help)]
    for note in shown:
        assert "<script" not in note.value
        assert "<img" not in note.value
    assert "&lt;script" in runner._title.value


# --- profiles ------------------------------------------------------------------------------------


def test_a_profile_changes_what_was_not_changed(runner, study):
    runner.parameters = {"rate": 0.5, "epochs": 7}
    runner.profile = "full"
    assert runner.parameters == {"rate": 0.5, "epochs": 7}
    expected = plan(study, {"rate": 0.5, "epochs": 7}, profile="full", checks=False).values
    assert would(runner) == list(expected)
    assert field(runner, "pick").value == ["b", "c"]
    assert field(runner, "epochs").value == 7
    runner._profile.value = ""
    assert runner.profile == ""
    assert field(runner, "pick").value == ["a"]
    assert runner.parameters == {"rate": 0.5, "epochs": 7}


def test_values_that_depend_on_another_parameter_follow_it(runner, study):
    runner.profile = "full"
    for kind, epochs in (("a", 20), ("b", 40), ("", 20)):
        field(runner, "kind").control.value = kind
        assert field(runner, "epochs").value == epochs
        (values,) = would(runner)
        assert (values["kind"], values["epochs"]) == (kind, epochs)
        assert "epochs" not in runner.parameters
        assert "changed" not in field(runner, "epochs")._label.value
        runner.parameters = {"kind": kind}
        assert field(runner, "epochs").value == epochs


@pytest.mark.parametrize("task", load_study("prithvi_tasks").parameters["task"].rules["choices"])
def test_the_tasks_of_a_real_study_have_their_own_values(task, out):
    about = load_study("prithvi_tasks")
    runner = StudyRunner("prithvi_tasks", out=str(out))
    for profile in about.profiles:
        runner.profile = profile
        runner.parameters = {"task": task}
        (expected,) = plan(about, {"task": [task]}, profile=profile, checks=False).values
        assert would(runner) == [expected]
        for name, one in runner._fields.items():
            if "empty" not in about.parameters[name].rules:
                assert one.value == expected[name], name


def test_every_study_of_geowb_has_a_form_without_problems(out):
    runner = StudyRunner(out=str(out))
    for name, about in find_studies().items():
        runner.study = name
        assert runner.state != "error", runner.message
        for profile in about.profiles:
            runner.profile = profile
            expected = plan(about, {}, profile=profile, checks=False).values
            assert would(runner) == list(expected)
            assert [one.problem() for one in runner._fields.values()] == [""] * len(runner._fields)
        assert can_run(runner)


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("profile", "ful", "full"), ("study", "agb", "agb_transfer"), ("parameters", {"epoch": 1},
         "epochs"), ("parameters", {"run_dir": "x"}, "run_dir"), ("vary", {"sed": "0..3"}, "seed"),
        ("vary", {"seed": [1, 2]}, "vary"), ("repeat", 0, "repeat"), ("repeat", "many", "repeat"),
        ("again", "x", "again"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_with_what_is_possible(runner, name, value, word):
    before = getattr(runner, name)
    with pytest.raises(t.TraitError) as caught:
        setattr(runner, name, value)
    assert word in str(caught.value)
    assert getattr(runner, name) == before
    assert can_run(runner)


def test_a_word_that_is_no_trait_is_refused(study):
    with pytest.raises(RequestError, match=r"profil.*profile"):
        StudyRunner(study, profil="full")


def test_a_study_that_is_not_there_is_told_in_the_widget(tmp_path, study, out):
    for wrong in ("agb_transfr", tmp_path / "nowhere.ipynb"):
        runner = StudyRunner(wrong, out=str(out))
        assert runner.state == "error"
        assert str(wrong) in runner.message
        assert not can_run(runner)
        runner.run()
        assert runner.wait(5)
        assert not out.exists()
        runner.study = str(study)
        assert runner.state == "result"
        assert can_run(runner)


def test_a_notebook_with_mistakes_is_told_and_cannot_run(tmp_path, write_study, out):
    path = write_study(tmp_path / "bad.ipynb", "epochs = 3\nrun_dir: str = ''")
    runner = StudyRunner(path, out=str(out))
    assert not can_run(runner)
    assert "annotation" in judged(runner)
    (tmp_path / "torn.ipynb").write_text("{")
    runner.study = str(tmp_path / "torn.ipynb")
    assert runner.state == "error"
    assert "torn.ipynb" in runner.message
    assert not can_run(runner)


def test_another_study_starts_anew(study, slow, out):
    runner = StudyRunner(study, out=str(out), parameters={"rate": 0.5}, vary={"seed": "0..2"})
    runner.study = str(slow)
    assert (runner.parameters, runner.vary, runner.repeat) == ({}, {}, 1)
    assert list(runner._fields) == ["mode", "x", "n", "names", "seed", "log"]
    assert "1 run" in judged(runner)


# --- sweeps --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vary", "repeat"),
    [
        ({}, 1),
        ({}, 3),
        ({"rate": "1, 0.5, 0.2"}, 1),
        ({"rate": "0.1..0.5..0.1", "kind": "a,b"}, 2),
        ({"seed": "0..9"}, 1),
        ({"many": '[["a"], ["b", "c"]]', "ints": "[[], [1]]"}, 1),
        ({"epochs": "1..50"}, 20),
    ],
)
def test_as_many_runs_are_announced_as_a_sweep_would_make(runner, study, vary, repeat):
    runner.parameters = {"name": "a, b", "seed": 4}
    runner.vary, runner.repeat = vary, repeat
    grid = {"name": ["a, b"]} | ({} if repeat > 1 or "seed" in vary else {"seed": 4}) | vary
    expected = plan(study, grid, profile="teaching", repeat=repeat if repeat > 1 else None,
                    checks=False)  # fmt: skip
    assert would(runner) == list(expected.values)
    count = len(expected.values)
    assert judged(runner).startswith(f"{count} run{'s' * (count != 1)}")
    for name in expected.varied if count > 1 else ():
        assert name in judged(runner)
    assert can_run(runner)


@pytest.mark.parametrize(
    ("vary", "repeat", "word"),
    [
        ({"rate": "x"}, 1, "rate"), ({"rate": ""}, 1, "rate"), ({"epochs": "0..3"}, 1, "smallest"),
        ({"rate": "1, 1"}, 1, "twice"), ({"seed": "0..3"}, 3, "seed"),
        ({"epochs": "1..50", "seed": "0..999"}, 1, "runs"), ({"many": "a,b"}, 1, "many"),
    ],
)  # fmt: skip
def test_what_cannot_be_varied_is_told(runner, vary, repeat, word):
    runner.vary, runner.repeat = vary, repeat
    assert not can_run(runner)
    assert word in judged(runner)
    runner.vary, runner.repeat = {}, 1
    assert can_run(runner)


def test_what_varies_is_added_and_dropped_by_hand(runner):
    runner._vary_name.value, runner._vary_values.value = "rate", "1, 0.5"
    runner._vary_add.click()
    assert runner.vary == {"rate": "1, 0.5"}
    assert "2 runs" in judged(runner)
    runner._vary_add.click()  # nothing is typed
    assert runner.vary == {"rate": "1, 0.5"}
    runner._repeat.value = 3
    assert "6 runs" in judged(runner)
    (chip,) = runner._varied.children
    assert "rate" in chip.description
    chip.click()
    assert runner.vary == {}
    assert "3 runs" in judged(runner)


def test_a_study_without_seeds_cannot_be_repeated(tmp_path, write_study, out):
    runner = StudyRunner(write_study(tmp_path / "a.ipynb"), out=str(out))
    runner.repeat = 3
    assert not can_run(runner)
    assert "seed" in judged(runner)


def test_the_folder_can_be_chosen(runner, tmp_path, monkeypatch):
    from test_batch_results import write_run

    write_run(tmp_path / "elsewhere" / "a", {"score": 3.0}, study="types")
    write_run(tmp_path / "elsewhere" / "b", {"score": 3.0}, study="another")
    runner.out = str(tmp_path / "elsewhere")
    assert list(runner.frame["run"]) == ["a"]
    assert "elsewhere" in judged(runner)
    monkeypatch.chdir(tmp_path)
    runner.out = ""
    assert "runs/types" in judged(runner)
    assert runner.frame is None


# --- running -------------------------------------------------------------------------------------


def given_to(path):
    return json.loads((path / "given.json").read_text())


def folders(out):
    return sorted(path for path in out.iterdir() if not path.name.startswith("."))


def test_runs_get_exactly_what_was_asked_for(runner, study, out):
    asked = {"epochs": 2, "rate": 0.25, "flag": True, "name": "a, b; 0..4 'ü' \\", "kind": "",
             "size": 16, "many": ["a,b", ""], "ints": [], "floats": [1.0, 1e-9],
             "pick": ["c", "a"], "some": [3, 1]}  # fmt: skip
    runner.parameters = asked
    runner.vary = {"seed": "3, 5"}
    seen = []
    runner._head.observe(lambda change: seen.append(change["new"]), "fraction")
    runner._run_button.click()
    assert runner.state == "loading"
    assert runner.wait(120)
    assert runner.state == "result", runner.message
    assert "2 of 2 done" in runner.message
    expected = plan(study, {n: [v] for n, v in asked.items()} | {"seed": "3,5"},
                    profile="teaching", checks=False).values  # fmt: skip
    records = [json.loads((path / "run.json").read_text()) for path in folders(out)]
    told = {one["parameters"]["seed"]: one["parameters"] for one in records}
    for values in expected:
        assert {n: told[values["seed"]][n] for n in values} == values
    for path, one in zip(folders(out), records, strict=True):
        assert given_to(path) == [one["parameters"][name] for name in values]
    shares = [one for one in seen if one is not None and one >= 0]
    assert shares == sorted(shares)
    assert runner._live.value == ""
    assert len(runner.frame) == 2
    assert set(runner.frame["score"]) == {0.5}
    before = {path: (path / "run.json").stat().st_mtime_ns for path in folders(out)}
    runner.run()
    assert runner.wait(60)
    assert {path: (path / "run.json").stat().st_mtime_ns for path in folders(out)} == before
    assert len(runner.picture()) > 1000


@pytest.mark.parametrize(
    ("name", "words"), [("fail", ["ValueError", "No pixel has a label."]), ("empty", ["Assertion"])]
)
def test_a_run_that_fails_says_why_and_can_be_done_again(runner, out, name, words):
    runner.parameters = {"name": name}
    runner.run()
    assert runner.wait(120)
    assert runner.state == "error"
    assert all(word in runner.message for word in words), runner.message
    assert "IndexError" not in runner.message
    assert list(runner.frame["status"]) == ["failed"]
    assert can_run(runner)
    runner.parameters = {"name": "fine"}
    assert runner.state == "result"


class Going:
    """A run that waits in its middle until it is let go on."""

    def __init__(self, runner, log):
        self.runner, self.log = runner, log
        runner.parameters = {"mode": "wait", "log": str(log)}
        runner.run()
        deadline = time.monotonic() + 60
        while not waiting(log) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert waiting(log), runner.message

    def go(self):
        self.log.with_name(self.log.name + ".go").touch()


@pytest.fixture
def going(slow, out, tmp_path):
    runner = StudyRunner(slow, out=str(out))
    made = Going(runner, tmp_path / "log")
    yield made
    made.go()
    runner.stop()
    runner.wait(30)


def gone(log):
    deadline = time.monotonic() + 20
    while waiting(log) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not waiting(log)


def test_runs_that_go_on_are_shown_and_stopped(going, out):
    runner = going.runner
    assert runner.state == "loading"
    assert runner._head.stoppable
    deadline = time.monotonic() + 10
    while "Experiment" not in runner._live.value and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "Experiment" in runner._live.value
    assert "0 of 1 done" in runner._head.text
    assert not can_run(runner)
    runner._head._handle_custom_msg({"kind": "stop"}, [])
    assert runner.wait(30)
    assert runner.state == "result"
    assert "topped" in runner.message
    assert gone(going.log)
    assert not out.exists() or not [one for one in out.iterdir() if not one.name.endswith(".lock")]
    assert can_run(runner)
    assert runner._live.value == ""


def test_what_is_changed_meanwhile_does_not_touch_the_run(going, study, out):
    runner = going.runner
    runner.parameters = runner.parameters | {"x": 99.0}
    assert not can_run(runner), "a second run would end the first without a word"
    assert runner.state == "loading"
    going.go()
    assert runner.wait(60)
    assert runner.state == "result", runner.message
    (path,) = folders(out)
    assert json.loads((path / "run.json").read_text())["parameters"]["x"] == 1.0
    assert can_run(runner)


def test_another_study_may_be_chosen_while_one_runs(going, study, out):
    runner = going.runner
    runner.study = str(study)
    going.go()
    assert runner.wait(60)
    assert runner.state != "loading"
    assert [load_runs(out).loc[0, name] for name in ("study", "status")] == ["slow", "done"]
    assert runner.frame is None or set(runner.frame["study"]) == {"types"}


def test_a_runner_that_is_closed_ends_its_runs_and_leaves_no_thread(going, out):
    going.runner.close()
    assert gone(going.log)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if not [one for one in threading.enumerate() if one.name == "geowb-widget"]:
            break
        time.sleep(0.05)
    assert not [one for one in threading.enumerate() if one.name == "geowb-widget"]
    children = psutil.Process().children(recursive=True)
    assert not [one for one in children if "geowb.batch.worker" in " ".join(one.cmdline())]


def test_two_runners_share_a_folder_without_doing_a_run_twice(slow, out, tmp_path):
    log = tmp_path / "log"
    asked = {"parameters": {"log": str(log)}, "vary": {"seed": "0,1"}, "out": str(out)}
    runners = [StudyRunner(slow, **asked) for _ in range(2)]
    for runner in runners:
        runner.run()
    assert all(runner.wait(120) for runner in runners)
    assert [runner.state for runner in runners] == ["result"] * 2, [r.message for r in runners]
    assert all("2 of 2 done" in runner.message for runner in runners)
    assert dict(ends(log)) == {"ok 1.0 0": 1, "ok 1.0 1": 1}
    assert [len(runner.frame) for runner in runners] == [2, 2]


def test_what_is_done_is_done_again_only_when_asked(slow, out, tmp_path):
    log = tmp_path / "log"
    runner = StudyRunner(slow, out=str(out), parameters={"log": str(log)})
    for again, count in ((False, 1), (False, 1), (True, 2)):
        runner._again.value = again
        runner.run()
        assert runner.wait(60)
        assert runner.state == "result", runner.message
        assert sum(ends(log).values()) == count


def test_data_that_is_not_there_is_told_before_anything_starts(runner, out):
    runner.parameters = {"data": "wrld"}
    runner.run()
    assert runner.wait(30)
    assert runner.state == "error"
    assert "world" in runner.message
    assert runner._head.detail == ""
    assert not out.exists()


def test_a_folder_that_cannot_be_written_is_told(runner, tmp_path):
    (tmp_path / "file").write_text("")
    runner.out = str(tmp_path / "file")
    runner.run()
    assert runner.wait(30)
    assert runner.state == "error"
    assert str(tmp_path / "file") in runner.message
    assert can_run(runner)
