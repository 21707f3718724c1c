"""Looking through runs: tables, plots, comparison and claims, whatever lies in the folder."""

from __future__ import annotations

import io
import json
import math
import re
import time

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import traitlets as t
from test_batch_results import REAL, write_run

from geowb.batch.claims import judge, load_claims
from geowb.batch.results import BASE, Record, load_runs, read_runs
from geowb.errors import RequestError
from geowb.widgets import LivePlot, RunsExplorer
from geowb.widgets.comparing import comparison
from geowb.widgets.liveplot import as_json
from geowb.widgets.runplots import as_text, axes_of, draw_parallel, draw_scatter, parallel, scatter
from geowb.widgets.runplots import short as shortened

SCRIPT = "<script>alert('x')</script>"
VIEWS = ("table", "parallel", "scatter", "compare", "claims")


def opened(folder, **traits):
    explorer = RunsExplorer(folder, **traits)
    assert explorer.wait(60)
    return explorer


def moved(explorer, **traits):
    for name, value in traits.items():
        setattr(explorer, name, value)
    assert explorer.wait(60)
    assert explorer.state == "result", explorer.message + explorer._head.detail
    return explorer


def sweep(folder, count=4, **changes):
    """Runs in which the learning rate and the seed differ, one after the other."""
    for number in range(count):
        write_run(
            folder / f"run{number}",
            {"rmse/unet/all": 40.0 + number, "share": 0.5},
            unit="Mg/ha",
            started=f"2026-01-0{number + 1}T00:00:00+00:00",
            seconds=60.0 + number,
            parameters={"lr": 10.0**-number, "seed": number % 2, "regions": ["a"], "epochs": 3},
            **{"study": "tiny"} | changes,
        )
    return folder


@pytest.fixture
def runs(tmp_path):
    return sweep(tmp_path / "runs")


def cells(explorer, name):
    """What the table shows and sorts by, in its order."""
    found = [row["cells"][name] for row in explorer._table.rows]
    return [one.get("sort", one.get("text")) if isinstance(one, dict) else one for one in found]


def labels(explorer):
    return [column["label"] for column in explorer._table.columns]


# --- folders of every kind -----------------------------------------------------------------------


def broken(folder):
    write_run(folder / "torn")
    (folder / "torn" / "run.json").write_text('{"study": ')


def kinds(root):
    """Folders by what is in them, and how many runs of how many studies that is."""
    rng = np.random.default_rng(0)
    write_run(root / "one" / "a", {"rmse": 1.0})
    write_run(root / "no metrics" / "a")
    write_run(root / "no metrics" / "b", seconds=None)
    broken(root / "broken alone")
    sweep(root / "broken too")
    broken(root / "broken too")
    write_run(root / "all failed" / "a", status="failed",
              error={"type": "ValueError", "message": SCRIPT, "heading": "Data"})  # fmt: skip
    sweep(root / "two studies" / "x")
    write_run(root / "two studies" / "y" / "a", {"score": 1.0}, study="other")
    for name, value in (("a", None), ("b", 10.0**300), ("c", 3.0)):
        write_run(root / "no numbers" / name, {"rmse": value}, parameters={"seed": ord(name)})
    write_run(root / "lists" / "a", {"rmse": 1.0}, parameters={"lr": [1, 2], "names": []})
    write_run(root / "lists" / "b", {"rmse": 2.0}, parameters={"lr": [], "names": ["x,y", "z"]})
    write_run(root / "lists" / "c", {"rmse": 2.5}, parameters={"lr": [2], "names": ["z"]})
    settings = [{"k": 1, "flag": True, "s": "x", "f": 0.5}, {"s": ""}, {"k": 3, "flag": False}]
    for number, one in enumerate(settings):
        write_run(root / "older runs" / f"{number}", {"rmse": 1.0 + number}, parameters=one)
    mixed = [1, "1", [1], None, {"a": 1}, 1.5]
    for number, one in enumerate(mixed):
        write_run(
            root / "mixed" / f"{number}", {"rmse": 2.0}, parameters={"k": one, "seed": number}
        )
    for number in range(30):
        write_run(root / "many" / f"r{number}", {"rmse": float(rng.normal())},
                  parameters={"seed": number, "name": f"n{number}"})  # fmt: skip
    taken = {"run": 1.0, "status": 2.0, "path": 3.0, "x/$y$": 4.0, SCRIPT: 5.0}
    for number in range(2):
        write_run(root / "names" / f"r{number}", taken, parameters={"seconds": number, "data": "d"})
    (root / "none").mkdir()
    (root / "others").mkdir()
    (root / "others" / "readme.txt").write_text("no runs")
    return root


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return kinds(tmp_path_factory.mktemp("folders"))


KINDS = (
    "one", "no metrics", "broken alone", "broken too", "all failed", "two studies", "no numbers",
    "lists", "older runs", "mixed", "many", "names",
)  # fmt: skip


@pytest.mark.filterwarnings("error", "ignore:.*NodeStrategy:UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_folders_of_every_kind_can_be_looked_through(folders, kind):
    explorer = opened(folders / kind)
    assert explorer.state == "result", explorer.message + explorer._head.detail
    frame = explorer.frame
    expected = load_runs([one for one in read_runs(folders / kind)
                          if (one.study or "") == explorer.study])  # fmt: skip
    expected.attrs = {}
    pd.testing.assert_frame_equal(frame, expected)
    for view in VIEWS:
        moved(explorer, view=view)
    assert len(explorer.picture()) > 1000
    moved(explorer, selected=list(frame["path"]), view="compare")
    for trait in (explorer._table.rows, explorer._table.columns, explorer._plot.item):
        json.dumps(trait, allow_nan=False)
    assert len(explorer._table.rows) == len(frame)
    assert SCRIPT not in explorer._text.value
    assert "nan" not in explorer._text.value
    assert "nan" not in explorer.message
    moved(explorer, view="scatter")
    for name in [value for _, value in explorer._x.options][:5]:
        moved(explorer, x=name, y=name, colour=name)


@pytest.mark.parametrize("kind", ["none", "others", "nowhere"])
def test_a_folder_without_runs_says_how_to_make_one(folders, kind):
    explorer = opened(folders / kind)
    assert explorer.state == "empty"
    assert str(folders / kind) in explorer.message
    assert "StudyRunner" in explorer.message
    assert explorer.frame is None
    for view in VIEWS:
        explorer.view = view
    assert explorer.wait(10)
    assert explorer.state == "empty"
    assert len(explorer.picture()) > 1000


def test_what_has_come_meanwhile_is_read_again(tmp_path):
    explorer = opened(tmp_path / "runs")
    assert explorer.state == "empty"
    sweep(tmp_path / "runs", 2)
    explorer._again.click()
    explorer.wait()
    assert (explorer.state, len(explorer.frame)) == ("result", 2)
    sweep(tmp_path / "more", 3)
    explorer.folder = str(tmp_path / "more")
    explorer.wait()
    assert len(explorer.frame) == 3


def test_a_folder_below_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    sweep(tmp_path / "runs", 1)
    assert len(opened("~/runs").frame) == 1


def test_failed_and_unreadable_runs_are_counted(folders):
    assert opened(folders / "broken too").message == (
        "4 runs of tiny; 1 in the folder cannot be read."
    )
    assert "1 failed" in opened(folders / "all failed").message
    assert "no" in opened(folders / "broken alone").message


# --- the table -----------------------------------------------------------------------------------


def test_the_table_has_what_differs_and_the_numbers_of_the_runs(runs):
    explorer = opened(runs)
    assert labels(explorer)[:5] == ["run", "status", "data", "lr", "seed"]
    assert "epochs" not in labels(explorer)
    assert cells(explorer, "run") == ["run0", "run1", "run2", "run3"]
    assert cells(explorer, "rmse/unet/all") == [40, 41, 42, 43]
    assert cells(explorer, "lr") == [1, 0.1, 0.01, 0.001]
    assert cells(explorer, "seconds") == [60, 61, 62, 63]
    (column,) = [one for one in explorer._table.columns if one["key"] == "rmse/unet/all"]
    assert column["unit"] == "Mg/ha"
    assert "error" not in [one["key"] for one in explorer._table.columns]


def test_a_unit_of_one_is_not_written(tmp_path):
    write_run(tmp_path / "a", {"share": 0.5}, unit="1")
    (column,) = [one for one in opened(tmp_path)._table.columns if one["key"] == "share"]
    assert column.get("unit", "") == ""


def test_the_key_metrics_of_a_study_come_first(tmp_path):
    metrics = {f"other/{i}": 1.0 for i in range(20)} | {"rmse/swin_demo/all": 70.0}
    parameters = {"encoder": "swin_demo"}
    write_run(tmp_path / "a", metrics, study="agb_transfer", parameters=parameters)
    from geowb.batch.studies import load_study

    named = load_study("agb_transfer").metrics
    assert "rmse/{encoder}/all" in named
    assert cells(opened(tmp_path), "rmse/swin_demo/all") == [70]


def test_what_went_wrong_stands_in_the_table_as_text(folders):
    explorer = opened(folders / "all failed")
    (row,) = explorer._table.rows
    assert row["cells"]["status"] == {"text": "✗ failed", "tone": "bad"}
    assert SCRIPT in row["cells"]["error"]  # a cell is text, never HTML
    assert "Data" in row["cells"]["error"]


def test_a_run_leads_to_its_notebook_where_there_is_one(runs):
    (runs / "run1" / "notebook.ipynb").write_text("{}")
    rows = opened(runs)._table.rows
    assert rows[1]["cells"]["run"]["file"] == str(runs / "run1" / "notebook.ipynb")
    assert "file" not in rows[0]["cells"]["run"]


def test_many_metrics_are_read_in_reasonable_time(tmp_path):
    for number in range(3):
        metrics = {f"m/{i}": float(i + number) for i in range(3000)}
        write_run(tmp_path / f"r{number}", metrics, parameters={"seed": number})
    began = time.process_time()
    explorer = opened(tmp_path)
    moved(explorer, view="scatter")
    moved(explorer, selected=list(explorer.frame["path"]), view="compare")
    assert time.process_time() - began < 12
    assert explorer._text.value.count("<tr>") < 60
    assert len(explorer._table.columns) < 15


# --- what is chosen ------------------------------------------------------------------------------


def test_studies_are_shown_one_at_a_time(folders):
    explorer = opened(folders / "two studies")
    assert [value for _, value in explorer._study.options] == ["tiny", "other"]
    assert (explorer.study, len(explorer.frame)) == ("tiny", 4)
    moved(explorer, study="other", view="scatter")
    assert len(explorer.frame) == 1
    assert explorer.y == "score"
    explorer._study.value = "tiny"
    explorer.wait()
    assert (explorer.study, len(explorer.frame)) == ("tiny", 4)
    assert explorer.state == "result"
    assert opened(folders / "two studies", study="other").study == "other"


def test_traits_of_the_beginning_are_kept(runs):
    chosen = [str(runs / "run0"), str(runs / "run2")]
    explorer = opened(runs, view="scatter", x="lr", y="seconds", colour="seed", selected=chosen)
    traits = (explorer.view, explorer.x, explorer.y, explorer.colour, explorer.selected)
    assert traits == ("scatter", "lr", "seconds", "seed", chosen)
    explorer.refresh()
    explorer.wait()
    assert (explorer.x, explorer.selected) == ("lr", chosen)


@pytest.mark.parametrize(
    ("traits", "words"),
    [
        ({"study": "tyni"}, ["tyni", "tiny"]),
        ({"x": "rate"}, ["rate"]),
        ({"y": "rmse/unet/al"}, ["rmse/unet/al", "rmse/unet/all"]),
        ({"colour": "sed"}, ["sed", "seed"]),
        ({"selected": ["/no/run"]}, ["/no/run"]),
    ],
)
def test_wrong_traits_are_told_whenever_they_are_set(runs, traits, words):
    explorer = opened(runs)
    ((name, value),) = traits.items()
    before = getattr(explorer, name)
    with pytest.raises(t.TraitError) as caught:
        setattr(explorer, name, value)
    assert all(word in str(caught.value) for word in [name, *words])
    assert getattr(explorer, name) == before
    explorer.wait()
    assert explorer.state == "result"
    first = opened(runs, **traits)
    assert first.state == "error", first.message
    assert all(word in first.message for word in words)
    assert first.frame is not None


@pytest.mark.parametrize("words", [{"view": "map"}, {"selected": "run0"}, {"selected": [1]}])
def test_values_of_another_type_are_refused(runs, words):
    explorer = opened(runs)
    ((name, value),) = words.items()
    with pytest.raises(t.TraitError, match=name):
        setattr(explorer, name, value)


def test_a_word_that_is_no_trait_is_refused(runs):
    with pytest.raises(RequestError, match=r"colors.*colour"):
        RunsExplorer(runs, colors="seed")


def test_rows_of_the_table_and_chosen_runs_are_the_same(runs):
    explorer = opened(runs)
    explorer._table.selected = [str(runs / "run3"), str(runs / "run1")]
    assert explorer.selected == [str(runs / "run3"), str(runs / "run1")]
    assert "2 chosen" in explorer.message
    explorer.selected = [str(runs / "run0")]
    assert explorer._table.selected == [str(runs / "run0")]


def test_runs_can_be_chosen_in_a_plot(runs):
    explorer = opened(runs, view="scatter")
    explorer._plot.selected = [2, 0]
    assert explorer.selected == [str(runs / "run2"), str(runs / "run0")]
    explorer._plot.selected = [99]  # of a plot that is there no more
    explorer.wait()
    assert explorer.state == "result"
    explorer._plot.selected = []
    assert explorer.selected == []


# --- plots ---------------------------------------------------------------------------------------


def sources(item):
    """Columns of the data in a Bokeh document."""
    found = []

    def look(value):
        if isinstance(value, dict):
            if value.get("name") == "ColumnDataSource":
                entries = value["attributes"]["data"]["entries"]
                found.append(dict(entries))
            for one in value.values():
                look(one)
        elif isinstance(value, list):
            for one in value:
                look(one)

    look(item)
    return found


def test_a_scatter_plot_has_a_point_for_each_run_that_is_done(runs):
    write_run(runs / "bad", {"share": 9.0}, study="tiny", status="failed", parameters={"lr": 5.0})
    explorer = opened(runs, view="scatter", x="lr", y="rmse/unet/all", colour="")
    done = [one for one in read_runs(runs) if one.status == "done"]
    (points,) = [one for one in sources(explorer._plot.item) if "run" in one]
    assert list(points["run"]) == [one.run for one in done]
    frame = load_runs(done)
    drawn = scatter(frame, "lr", "rmse/unet/all", "", {}).data
    np.testing.assert_array_equal(drawn["x"], [one.parameters["lr"] for one in done])
    np.testing.assert_array_equal(drawn["y"], [one.metrics["rmse/unet/all"] for one in done])


def test_axes_name_their_units(runs):
    explorer = opened(runs, view="scatter", x="lr", y="rmse/unet/all")
    assert "rmse/unet/all (Mg/ha)" in json.dumps(explorer._plot.item)


def test_chosen_runs_are_marked_in_a_plot(runs):
    explorer = opened(runs, view="scatter", selected=[str(runs / "run2")])
    assert '"indices": [2]' in json.dumps(explorer._plot.item)


def test_axes_bring_numbers_from_0_to_1_and_words_to_places():
    nan = float("nan")
    frame = pd.DataFrame(
        {
            "run": list("abcd"),
            "numbers": [10.0, nan, 30.0, 15.0],
            "whole": pd.Series([1, None, 3, 2], dtype="Int64"),
            "same": [7.0, 7.0, 7.0, nan],
            "words": ["x", "z", "y", "x"],
            "lists": pd.Series([[1, 2], [], None, [3]], dtype=object),
            "flags": pd.Series([True, None, False, True], dtype="boolean"),
            "nothing": [nan] * 4,
        }
    )
    axes = {axis.name: axis for axis in axes_of(frame, [*frame.columns[1:], "not there"])}
    nothing = axes.pop("nothing", None)  # may have an axis, but no place on it
    assert nothing is None or (not np.isfinite(nothing.places).any() and nothing.labels == ())
    assert list(axes) == list(frame.columns[1:-1])
    np.testing.assert_allclose(axes["numbers"].places, [0, nan, 1, 0.25])
    np.testing.assert_allclose(axes["whole"].places, [0, nan, 1, 0.5])
    np.testing.assert_allclose(axes["same"].places, [0.5, 0.5, 0.5, nan])
    np.testing.assert_allclose(axes["words"].places, [0, 1, 0.5, 0])
    assert np.isnan(axes["lists"].places[2])
    assert len(set(axes["lists"].places[[0, 1, 3]])) == 3
    assert np.isnan(axes["flags"].places[1])
    assert axes["numbers"].labels == ((0.0, "10"), (1.0, "30"))
    for axis in axes.values():
        known = axis.places[np.isfinite(axis.places)]
        assert ((known >= 0) & (known <= 1)).all()
        assert len(axis.labels) <= 12


@pytest.mark.parametrize("colour", ["", "lr", "words", "empty"])
def test_plots_can_be_drawn_in_any_colour(colour):
    frame = pd.DataFrame({"run": [f"r{i}" for i in range(9)], "lr": np.arange(9.0)})
    frame["words"], frame["empty"] = list("abcabcabc"), float("nan")
    axes = axes_of(frame, ["lr", "words"])
    for element in (scatter(frame, "lr", "words", colour, {}), parallel(frame, axes, colour, {})):
        assert as_json(element, rows="run")["doc"]
    for png in (draw_scatter(frame, "lr", "words", colour, {}), draw_parallel(frame, axes, colour)):
        assert PIL.Image.open(io.BytesIO(png)).width > 300


def test_values_are_written_in_words():
    assert as_text([]) == "all"
    assert as_text(["a", 1]) == "a, 1"
    assert as_text("") == "empty"
    assert as_text("") == "empty"
    assert as_text(None) == as_text(pd.NA) == as_text(float("nan")) == "not known"
    assert as_text(0) == "0"
    assert as_text(False) == "False"


@pytest.mark.parametrize("length", [20, 26, 27, 28, 60])
def test_short_names_keep_both_ends(length):
    name = "".join(chr(97 + i % 26) for i in range(length))
    made = shortened(name)
    assert len(made) <= 26
    assert made == name or (name.startswith(made[:10]) and name.endswith(made[-10:]))


# --- side by side --------------------------------------------------------------------------------

EMPTY = dict.fromkeys(BASE) | {"status": "done", "seconds": 1.0, "data": "world", "run": "r"}


def record(**changes):
    return Record(**EMPTY | {"path": "/nowhere"} | changes)


def table(html):
    """Rows of a comparison, by their head."""
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    texts = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]
    return {re.sub(r"<[^>]+>", "", row[0]).strip(): row[1:] for row in texts}


def test_of_two_runs_what_differs_and_the_second_minus_the_first_are_shown():
    first = record(run="a", parameters={"lr": 0.1, "epochs": 3}, metrics={"rmse": 40.0, "n": 5.0},
                   units={"rmse": "Mg/ha", "n": "1"})  # fmt: skip
    second = record(run="b", parameters={"lr": 0.2, "epochs": 3}, metrics={"rmse": 37.5},
                    units={"rmse": "Mg/ha"}, seconds=2.0)  # fmt: skip
    found = table(comparison([first, second], []))
    assert found["lr"][:2] == ["0.1", "0.2"]
    assert "epochs" not in found
    assert found["rmse Mg/ha"] == ["40", "37.5", "-2.5"]
    assert found["n"] == ["5", "-", "-"]
    assert found["time (s)"][:2] == ["1", "2"]


def test_numbers_that_are_none_are_a_dash():
    nan = math.nan
    runs = [record(metrics={"rmse": nan}, seconds=nan), record(metrics={"rmse": 1.0})]
    html = comparison(runs, [])
    assert "nan" not in html
    assert table(html)["rmse"] == ["-", "1", "-"]


def test_key_metrics_come_first_and_of_very_many_only_some_are_shown():
    one = record(metrics={f"m{i}": float(i) for i in range(500)})
    found = list(table(comparison([one, one, one], ["m400"])))
    assert "m400" in found
    assert found.index("m400") < found.index("m0")
    assert len(found) < 60


def test_names_of_others_are_shown_as_they_are():
    one = record(run=SCRIPT, parameters={SCRIPT: 1, "a": SCRIPT}, metrics={SCRIPT: 1.0},
                 units={SCRIPT: SCRIPT}, data=SCRIPT, status=SCRIPT)  # fmt: skip
    two = record(run="b", parameters={"a": "'\"><img src=x onerror=alert(1)>"})
    html = comparison([one, two], [SCRIPT])
    assert "<script" not in html
    assert "<img" not in html


def test_the_same_figure_of_each_run_is_shown(tmp_path):
    records = []
    for name, files in (("a", ["maps.png", "own.png"]), ("b", ["maps.png"])):
        (tmp_path / name / "figures").mkdir(parents=True)
        for file in files:
            PIL.Image.new("RGB", (9, 9)).save(tmp_path / name / "figures" / file)
        records.append(record(run=f"<{name}>", path=str(tmp_path / name)))
    html = comparison(records, [])
    assert html.count("<img") == 2
    assert "maps of &lt;a&gt;" in html
    assert "own" not in html
    (tmp_path / "a" / "figures" / "maps.png").write_bytes(b"0" * 1_000_000)
    assert comparison(records, []).count("<img") == 1


def test_two_to_four_runs_are_compared(runs):
    sweep(runs / "more", 2)
    explorer = opened(runs, view="compare")
    assert "Choose two" in explorer._text.value
    paths = list(explorer.frame["path"])
    moved(explorer, selected=paths[:1])
    assert "Choose two" in explorer._text.value
    moved(explorer, selected=paths[:2])
    assert table(explorer._text.value)["rmse/unet/all Mg/ha"][:2] == ["40", "40"]
    moved(explorer, selected=paths)
    assert len(table(explorer._text.value)["lr"]) == 4
    assert "2 more" in explorer._text.value


# --- claims and report ---------------------------------------------------------------------------


@pytest.fixture
def claimed(tmp_path):
    """Runs that test a claim of the ledger, and of which no other is shown."""
    frozen = {"weights": "swin.safetensors", "labels": "", "epochs": 40, "regions": [],
              "label_density": 1.0, "encoder": "swin_demo", "data": "world", "patience": 0,
              "accelerator": "cpu", "chip_size": 64}  # fmt: skip
    for seed in range(3):
        metrics = {"rmse/swin_demo/all": 80.0, "rmse/unet/all": 78.0 + seed}
        write_run(tmp_path / f"r{seed}", metrics, parameters=frozen | {"seed": seed})
    write_run(tmp_path / "real", {"rmse/unet/all": 70.0}, data=REAL, parameters=frozen)
    return tmp_path


def test_the_verdicts_are_those_of_the_report(claimed):
    explorer = moved(opened(claimed, view="claims"))
    ledger = load_claims()
    own = {name for name, paper in ledger.items() if paper.study == "agb_transfer"}
    expected = [one for one in judge(ledger, claimed) if one.paper in own]
    assert len(explorer._ledger.rows) == len(expected) > 0
    told = [row["cells"]["verdict"]["text"] for row in explorer._ledger.rows]
    assert all(one.verdict in text for one, text in zip(expected, told, strict=True))
    for number, one in enumerate(expected):
        explorer._ledger.selected = [explorer._ledger.rows[number]["key"]]
        assert explorer.state == "result", explorer._head.detail
        assert one.reason[:20].split("&")[0].split("<")[0] in explorer._text.value


def test_a_report_is_written_beside_the_runs(claimed):
    explorer = opened(claimed)
    explorer._report.click()
    assert explorer.wait(60)
    assert explorer.state == "result", explorer.message + explorer._head.detail
    (page,) = list(claimed.rglob("*.html"))
    assert page.name in explorer.message
    assert str(page) in json.dumps(explorer._page.rows)


def test_a_report_of_nothing_is_refused_in_words(tmp_path):
    explorer = opened(tmp_path / "nowhere")
    explorer.report()
    explorer.wait()
    assert explorer.state == "error"
    assert explorer._head.detail == ""


# --- live plots ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hv():
    from geowb.plots.axes import holoviews

    return holoviews(live=True)


def test_a_plot_can_be_zoomed_and_asked_without_a_network(hv):
    plot = LivePlot(hv.Curve([1.0, 4.0, 9.0]), title="Squares", alt="squares of 1 to 3")
    assert plot.wait(30)
    assert plot.state == "result"
    text = json.dumps(plot._plot.item, allow_nan=False)
    assert "http://" not in text
    assert "https://" not in text
    assert "WheelZoomTool" in text
    assert plot._plot.alt == "squares of 1 to 3"
    (column,) = [one["y"] for one in sources(plot._plot.item) if "y" in one]
    assert column["array"] if isinstance(column, dict) else column == [1, 4, 9]
    assert PIL.Image.open(io.BytesIO(plot.picture())).width > 100


def test_the_page_gets_bokeh_of_the_version_that_made_the_plot(hv, monkeypatch):
    import bokeh

    plot = LivePlot(hv.Curve([1]))
    plot.wait()
    sent = []
    monkeypatch.setattr(
        plot._plot, "send", lambda content, buffers: sent.append((content, buffers))
    )
    plot._plot._handle_custom_msg({"kind": "bokeh"}, [])
    plot._plot._handle_custom_msg({"kind": "other"}, [])
    ((content, (code,)),) = sent
    assert content == {"kind": "bokeh"}
    assert plot._plot.version == plot._plot.item["version"] == bokeh.__version__
    assert bokeh.__version__.encode() in code[:2_000_000]


@pytest.mark.parametrize("element", [5, "curve", [1, 2], pd.DataFrame({"a": [1]})])
def test_what_is_no_plot_is_refused_in_words(element):
    plot = LivePlot(element)
    assert plot.wait(10)
    assert plot.state == "error"
    assert type(element).__name__ in plot.message
    assert plot._head.detail == ""
    assert len(plot.picture()) > 1000


def test_plots_that_need_a_server_are_refused_in_words(hv):
    frames = hv.HoloMap({i: hv.Curve([i, 1]) for i in range(3)})
    plot = LivePlot(frames)
    assert plot.wait(10)
    assert plot.state == "error"
    assert "HoloMap" in plot.message


def test_another_plot_and_none_can_be_set(hv):
    plot = LivePlot()
    assert plot.state == "empty"
    plot.element = hv.Curve([1, 2])
    plot.wait()
    first = plot._plot.item
    plot.element = hv.Points([(1, 2), (3, 4)])
    plot.wait()
    assert plot._plot.item != first
    plot.element = "nonsense"
    plot.wait()
    assert plot.state == "error"
    plot.element = hv.Curve([1, 2]) * hv.Curve([2, 1])
    plot.wait()
    assert plot.state == "result"
    plot.element = None
    plot.wait()
    assert (plot.state, plot._plot.item) == ("empty", {})


@pytest.mark.parametrize("numbers", [[], [float("nan")] * 3, [1e300, -1e300], [float("inf"), 1.0]])
def test_numbers_of_every_kind_can_be_plotted(hv, numbers):
    plot = LivePlot(hv.Curve(numbers))
    assert plot.wait(30)
    assert plot.state == "result", plot._head.detail
    json.dumps(plot._plot.item, allow_nan=False)


def test_a_layout_and_pictures_of_geowb_can_be_plotted(hv):
    from scenes import scene

    from geowb.plots import raster, rgb

    found = scene(20, 20)
    plot = LivePlot(hv.Layout([rgb(found), raster(found.agb_dense)]))
    assert plot.wait(60)
    assert plot.state == "result", plot._head.detail
    assert len(plot.picture()) > 1000


def test_many_plots_may_be_made_at_once(hv):
    plots = [LivePlot(hv.Curve([i, 1])) for i in range(6)]
    assert all(plot.wait(60) for plot in plots)
    assert [plot.state for plot in plots] == ["result"] * 6
    drawn = [plot.picture() for plot in plots]
    assert all(png[:4] == b"\x89PNG" for png in drawn)
