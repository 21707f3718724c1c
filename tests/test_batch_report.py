"""The report: sealed, escaped, honest about data, whole in every empty state."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import sys
from datetime import datetime
from html.parser import HTMLParser
from urllib.parse import unquote

import nbformat
import pandas as pd
import pytest
from nbformat import v4
from PIL import Image
from test_batch_claims import FROZEN, ledger, runs
from test_batch_results import REAL, WORLD, write_run

from geowb.batch.pages import picture
from geowb.batch.reports import figures, report
from geowb.batch.studies import lint
from geowb.errors import RequestError

HOSTILE = "<script>alert('x')</script><img src=https://evil.example/x.png onerror=y()>\"'&"


class Page(HTMLParser):
    """Everything that a page would load, link or run."""

    def __init__(self, text):
        super().__init__()
        self.loaded, self.links, self.tags, self.words = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        self.loaded += [
            attributes[n] for n in ("src", "srcset", "data", "poster") if n in attributes
        ]
        if tag == "link":
            self.loaded.append(attributes.get("href"))
        if tag == "a":
            self.links.append(attributes["href"])
        assert not [name for name in attributes if name.startswith("on")]

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def read(path):
    return Page(path.read_text("utf-8"))


def draw(file, size=(40, 30), mode="RGB"):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise(size, 60).convert(mode).save(file)
    return file


def write_notebook(run, *, study=None, output="42"):
    cell = v4.new_code_cell("print(6 * 7)", outputs=[v4.new_output("stream", text=output)])
    notebook = v4.new_notebook(cells=[cell], metadata={"geowb": {"study": study or {}}})
    nbformat.write(notebook, run / "notebook.ipynb")


@pytest.fixture
def folder(tmp_path):
    """Runs of all kinds, some under a name that a link must not take literally."""
    folder = tmp_path / "my 50% runs"
    runs(folder, [1.05, 1.06, 1.04], name="world")
    runs(folder / "50%25 #1?", [1.31], name="real", data=REAL)
    for run in ("world2", "50%25 #1?/real0"):
        write_notebook(folder / run)
        for name in ("maps.png", "rmse_by_bin.png", "other.png"):
            draw(folder / run / "figures" / name)
    failed = write_run(
        folder / "failed",
        status="failed",
        error={"heading": "Experiment", "type": "ValueError", "message": HOSTILE},
    )
    write_notebook(failed)
    (write_run(folder / "broken") / "run.json").write_text("{")
    return folder


def test_says_what_there_is_and_of_which_data(folder):
    page = read(report(folder))
    assert "On real data: 2 cannot be told. In the simulated world: 2 hold. 29 of 31" in page.text
    assert "29 of 31 claims are not tested here." in page.text
    assert "2 of 8 claims tested here" in page.text
    assert "none of its 8 claims tested here" in page.text
    assert "4 done, 1 failed, 1 unreadable" in page.text
    assert "Some runs here are on the simulated world." in page.text
    assert "RMSE, frozen encoder / U-Net" in page.text
    assert "1.050 ± 0.010" in page.text
    assert "65.5 Mg/ha section 5, as quoted in a digest" in page.text
    assert "In all 3 runs at most 1.1, and so is the 95 % interval, 1.025 to 1.075." in page.text
    assert "run.json cannot be read as JSON" in page.text
    for word in ("✓ holds", "? cannot tell", "simulated world 1.0", "real agb_south_texas"):
        assert word in page.text


def test_everything_is_inside_and_links_lead_somewhere(folder):
    file = report(folder)
    text, page = file.read_text("utf-8"), read(file)
    assert page.loaded
    assert all(source.startswith("data:image/") for source in page.loaded)
    assert "script" not in page.tags
    assert "url(" not in text.split("</style>")[0]
    assert "default-src 'none'" in text
    for link in page.links:
        if link.startswith("#"):
            assert f'id="{link[1:]}"' in text
        elif not re.fullmatch(r"https://arxiv\.org/abs/[\d.]+", link):
            assert (folder / unquote(link)).is_file(), link
    names = {unquote(link) for link in page.links}
    assert {"world2/notebook.ipynb", "report_notebooks/world2/notebook.html"} <= names
    assert "report_notebooks/failed/notebook.html" in names


def test_notebook_pages_run_and_load_nothing(folder):
    report(folder)
    text = (folder / "report_notebooks" / "world2" / "notebook.html").read_text("utf-8")
    assert text.index("Content-Security-Policy") < text.index("<script")
    assert "42" in text
    assert not re.search(r"(?:src|href|import|from)\s*=?\s*[\"']https?:", text)


def test_hostile_text_is_shown_not_run(tmp_path):
    parameters = {"encoder": HOSTILE, "label_density": 1.0}
    runs(tmp_path, [1.05], profile=HOSTILE, parameters=parameters, data={"d": {"entry": HOSTILE}})
    runs(tmp_path, [1.05], name="x", data={"d": {"entry": HOSTILE}}, parameters=parameters)
    metrics = {HOSTILE: 1.0}
    write_run(tmp_path / "m", metrics, study=HOSTILE, status="done")
    write_run(tmp_path / "f", status="failed", error={"type": "E", "message": HOSTILE})
    study = {"title": HOSTILE, "figures": ["../../secret.png"], "metrics": [HOSTILE]}
    write_notebook(tmp_path / "m", study=study)
    draw(tmp_path / "secret.png")
    page = read(report(tmp_path))  # the parser asserts that there is no handler
    assert page.loaded == []
    assert "script" not in page.tags
    assert "<script>alert" in page.text


def test_claims_json_has_what_the_page_shows(folder):
    report(folder)
    content = json.loads((folder / "claims.json").read_text("utf-8"))
    assert list(content) == ["geowb", "made", "folder", "claims"]
    assert content["folder"] == "my 50% runs"
    assert datetime.fromisoformat(content["made"]).tzinfo
    verdicts = content["claims"]
    found = {(v["claim"], v["data"]): v for v in verdicts}
    close = found["frozen-is-close", "world 1.0 (simulated)"]
    assert close["verdict"] == "holds"
    assert close["evidence"] == "simulated"
    assert "simulated" not in close
    assert close["title"].startswith("Fine-tuning of Geospatial")
    assert (close["seeds"], close["exact"]) == (3, False)
    assert close["where"]["weights"] == {"not": ""}
    assert close["where"]["labels"] == {"equal": ""}
    assert close["rule"] == "at most 1.1"
    assert close["n"] == 3
    assert [v["run"] for v in close["values"]] == ["world0", "world1", "world2"]
    assert [v["seed"] for v in close["values"]] == [0, 1, 2]
    assert close["mean"] == pytest.approx(1.05)
    assert close["interval"][0] < 1.05 < close["interval"][1]
    assert close["published"][0] == {
        "name": "RMSE, U-Net",
        "value": 65.5,
        "unit": "Mg/ha",
        "source": "section 5, as quoted in a digest",
        "qualifier": "",
    }
    assert found["frozen-is-close", "agb_south_texas"]["verdict"] == "cannot tell"
    assert len(pd.read_parquet(folder / "runs.parquet")) == 6


def test_values_that_are_not_finite_stay_json(tmp_path):
    runs(tmp_path, [1.05, 1.06, 1.04, None])
    report(tmp_path)
    verdicts = json.loads((tmp_path / "claims.json").read_text("utf-8"), parse_constant=pytest.fail)
    verdicts = verdicts["claims"]
    assert [x["value"] for v in verdicts for x in v["values"] if x["seed"] == 3] == [None, None]


def test_empty_states(tmp_path, monkeypatch):
    page = read(report(tmp_path))
    assert "There are no runs in this folder yet." in page.text
    assert "31 of 31 claims are not tested here." in page.text
    assert "simulated world." not in page.text
    write_run(tmp_path / "a", study="bare", parameters={})
    page = read(report(tmp_path))
    assert "Its runs have recorded no metrics." in page.text
    assert "No pictures." in page.text
    monkeypatch.setattr(sys.modules["geowb.batch.reports"], "notebooks_dir", lambda: tmp_path)
    assert "There is no claims ledger" in read(report(tmp_path)).text


def test_wrong_requests(tmp_path):
    run = write_run(tmp_path / "a")
    with pytest.raises(RequestError, match="no folder"):
        report(tmp_path / "nowhere")
    with pytest.raises(RequestError, match="single run"):
        report(run)
    with pytest.raises(RequestError, match="cannot be read"):
        report(tmp_path, claims=tmp_path / "no.yaml")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a"]
    assert [file.name for file in run.iterdir()] == ["run.json"]


def test_a_report_can_be_made_again_and_keeps_newer_notebook_pages(folder):
    report(folder)
    page = folder / "report_notebooks" / "world2" / "notebook.html"
    stamp = page.stat().st_mtime_ns
    report(folder)
    assert page.stat().st_mtime_ns == stamp
    os.utime(folder / "world2" / "notebook.ipynb", (2**31, 2**31))
    report(folder)
    assert page.stat().st_mtime_ns != stamp
    hidden = [file.name for file in folder.iterdir() if file.name.startswith(".")]
    assert hidden == []


def test_a_notebook_that_is_none_and_a_missing_nbconvert_leave_no_page(folder, monkeypatch):
    (folder / "world2" / "notebook.ipynb").write_text("{}")
    links = {unquote(link) for link in read(report(folder)).links}
    assert "report_notebooks/world2/notebook.html" not in links
    assert "report_notebooks/50%25 #1?/real0/notebook.html" in links
    shutil.rmtree(folder / "report_notebooks")
    monkeypatch.setitem(sys.modules, "nbconvert", None)
    assert not [link for link in read(report(folder)).links if link.endswith(".html")]


def test_many_settings_fold(tmp_path):
    for number in range(12):
        parameters = {"batch_size": number}
        runs(tmp_path, [1.05, 1.2], name=f"b{number}-", parameters=parameters)
    page = read(report(tmp_path))
    assert "8 more settings: 8 cannot tell" in page.text
    assert "In the simulated world: 2 cannot be told." in page.text
    assert "4 more settings" in page.text


def test_the_verdicts_of_all_lines_are_counted_not_the_best_one(tmp_path):
    sys_report = sys.modules["geowb.batch.reports"]
    runs(tmp_path, [1.05, 1.06, 1.04], name="good")
    runs(tmp_path, [1.3, 1.31, 1.32], name="bad", parameters={"encoder": "swin_demo", "lr": 1.0})
    verdicts = sys_report.judge(ledger(), tmp_path)
    (claim,) = sys_report._paper("1", ledger()["1"], verdicts, lambda _: {"any": ""})["claims"]
    told = ("depends on the setting", "of 2 settings 1 holds, 1 does not hold")
    assert claim["on"] == {"real": None, "simulated": told, "unknown": None, "counted": None}
    page = read(report(tmp_path))
    assert "In the simulated world: 1 holds, 1 depends on the setting." in page.text
    assert "of 2 settings 1 holds, 1 does not hold" in page.text


def test_kinds_of_evidence_are_never_in_one_column(tmp_path):
    runs(tmp_path, [1.05, 1.06, 1.04], name="world")
    runs(tmp_path, [1.3, 1.31, 1.32], name="real", data=REAL)
    runs(tmp_path, [1.3, 1.31, 1.32], name="mixed", data={**WORLD, "test": REAL["data"]})
    runs(tmp_path, [1.05], name="nothing", data={})
    write_run(
        tmp_path / "count",
        {"trainable/unet": 7.8e6, "trainable/swin_demo": 1e6},
        parameters={"encoder": "swin_demo"},
        unit="parameters",
    )
    page = read(report(tmp_path))
    for told in (
        "On real data: 1 holds, 1 does not hold.",  # the U-Net is ahead; frozen is not close
        "In the simulated world: 1 holds, 1 depends on the setting.",
        "On data that were not recorded: 2 cannot be told.",
        "Counted, on whatever data: 1 does not hold.",
        "on real data in the simulated world data not recorded counted Muszynski",
        "partly simulated world 1.0 (simulated) + agb_south_texas (real)",
        "counted depends on no data",
    ):
        assert told in page.text


def test_what_a_reader_clicks_leads_to_the_runs(folder):
    for seed in (0, 1, 2):
        write_notebook(folder / f"world{seed}")
    page = report(folder).read_text("utf-8")
    for seed in (0, 1, 2):
        link = f'<a href="report_notebooks/world{seed}/notebook.html">{seed}</a>'
        assert link in page, "a seed of a claim's line"
    assert '<a href="report_notebooks/world2/notebook.html">newest</a>' in page
    assert "notebook (.ipynb)" in page
    assert "maps.png, world2" in page


def test_a_failed_run_can_be_done_again(folder):
    write_run(folder / "fa il", status="failed", parameters=FROZEN | {"seed": 5, "epochs": 7})
    page = read(report(folder))
    assert "profile=full, " in page.text
    assert "epochs=7" in page.text
    assert "seed=5" in page.text
    assert f"geowb run --like '{folder}/fa il'" in page.text


def test_pictures_say_with_which_settings_they_were_made(folder):
    later = "2026-02-01T00:00:00+00:00"
    runs(folder, [1.05], name="other", parameters={"epochs": 77}, started=later)
    draw(folder / "other0" / "figures" / "maps.png")
    page = read(report(folder))
    assert "maps.png, other0 (epochs=77)" in page.text


def test_notebook_pages_of_two_runs_are_two(tmp_path):
    for name in ("a--b", "a/b", "a.html"):
        write_notebook(write_run(tmp_path / name))
    report(tmp_path)
    pages = (tmp_path / "report_notebooks").rglob("notebook.html")
    assert len(list(pages)) == 3


def test_long_settings_are_shortened_in_the_middle(tmp_path):
    for name in "ab":
        weights = f"/scratch/{'x' * 500}/{name}.safetensors"
        runs(tmp_path, [1.05], name=name, parameters={"weights": weights})
    page = read(report(tmp_path))
    assert "x" * 70 not in page.text
    assert re.search(r"weights=/scratch/x+ … x+/a\.safetensors", page.text)


def test_numbers_are_written_as_they_are_in_the_ledger(tmp_path):
    page = read(report(tmp_path))
    assert "accuracy, NEC with a decoder layer (0.47 KiB): 94.0 %" in page.text
    assert "7.8 million parameters" in page.text
    assert "\u22120.85" in page.text
    assert "at most \u22120.5" in page.text
    assert not re.search(r"[ (]-\d", page.text.split("What the runs")[1])
    assert "100-200 Mg/ha" in page.text


def embedded(uri):
    kind, content = uri.removeprefix("data:").split(";base64,")
    return kind, Image.open(io.BytesIO(base64.b64decode(content)))


def test_pictures_are_made_smaller_and_what_is_none_is_left_out(tmp_path):
    small = draw(tmp_path / "small.png")
    kind, image = embedded(picture(small))
    assert (kind, image.size) == ("image/png", (40, 30))
    kind, image = embedded(picture(draw(tmp_path / "wide.png", (2400, 1200), "RGBA")))
    assert (kind, image.size) == ("image/jpeg", (1200, 600))
    (tmp_path / "broken.png").write_bytes(small.read_bytes()[:60])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "page.svg").write_text("<svg onload=alert(1)>")
    for name in ("broken.png", "text.png", "page.svg", "missing.png"):
        assert picture(tmp_path / name) == ""


def test_pictures_without_pillow(tmp_path, monkeypatch):
    small = draw(tmp_path / "small.png")
    (tmp_path / "large.png").write_bytes(bytes(1_000_001))
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert picture(small).startswith("data:image/png;base64,")
    assert picture(tmp_path / "large.png") == ""


@pytest.mark.parametrize(
    ("mean", "sd", "text"),
    [
        (61.2345, 1.234, "61.2 ± 1.2"),
        (61.2345, None, "61.23"),
        (7763905.0, None, "7,763,905"),
        (7763905.0, 0.0, "7,763,905"),
        (0.123456, 0.000123, "0.12346 ± 0.00012"),
        (123456.7, 4567.0, "123,457 ± 4,567"),
        (114.7, 0.0, "114.7 ± 0"),
        (-0.85, None, "\u22120.85"),
        (-0.85, 0.11, "\u22120.85 ± 0.11"),
        (None, None, "–"),
    ],
)
def test_figures_have_the_digits_that_the_spread_warrants(mean, sd, text):
    assert figures(mean, sd) == text


@pytest.mark.parametrize(
    ("about", "told"),
    [
        ({"figures": ["maps.png"], "metrics": ["rmse/{encoder}/all"]}, ""),
        ({"figures": "maps.png"}, "'maps.png' for 'figures', which is not a list of names"),
        ({"metrics": [1]}, "[1] for 'metrics', which is not a list of names"),
        ({"figure": ["maps.png"]}, "unknown 'figure'. Did you mean 'figures'?"),
        ({"title": 3}, "3 for 'title', which is not a text"),
    ],
)
def test_what_a_study_says_for_the_report_is_checked(about, told):
    cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": "a: int = 1"}
    problems = lint({"cells": [cell], "metadata": {"geowb": {"study": about}}})
    assert told in "".join(problems)
    assert bool(problems) is bool(told)
