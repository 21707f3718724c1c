"""Pages of results are what their scripts make of the kept records."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from geowb.batch import load_study
from geowb.batch.results import read_runs

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def script(monkeypatch, tmp_path):
    """Import a script of docs/, which writes its page into a folder of its own."""
    monkeypatch.syspath_prepend(str(DOCS))
    names = ["results_pages"]

    def imported(name):
        names.append(name)
        found = importlib.import_module(name)
        monkeypatch.setattr(found, "PAGE", tmp_path / "page.md")
        return found

    yield imported
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def page(script):
    return script("make_prithvi_page")


def test_the_page_of_the_four_tasks_is_made_of_the_kept_runs(page, capsys):
    page.main()
    assert page.PAGE.read_text() == (DOCS / "prithvi_results.md").read_text()


def test_the_page_of_compressed_embeddings_is_made_of_the_kept_runs(script, monkeypatch, tmp_path):
    nec = script("make_nec_page")
    (tmp_path / "figures").mkdir()
    monkeypatch.setattr(nec, "PICTURES", tmp_path / "figures")
    nec.main()
    assert nec.PAGE.read_text() == (DOCS / "nec_results.md").read_text()
    made = {file.name for file in (tmp_path / "figures").iterdir()}
    assert made == {"nec_world.png", "nec_ucmerced.png"}


def test_the_page_of_masked_gradients_is_made_of_the_kept_runs(script, monkeypatch, tmp_path):
    masking = script("make_masking_page")
    (tmp_path / "figures").mkdir()
    monkeypatch.setattr(masking, "PICTURES", tmp_path / "figures")
    masking.main()
    assert masking.PAGE.read_text() == (DOCS / "masking_results.md").read_text()
    assert [file.name for file in (tmp_path / "figures").iterdir()] == ["masking.png"]


def test_kept_runs_are_done_full_and_say_nothing_of_the_machine():
    runs = [run for folder in sorted((DOCS / "records").iterdir()) if folder.is_dir()
            for run in read_runs(folder)]  # fmt: skip
    assert {run.study for run in runs} == {"prithvi_tasks", "nec_tradeoff", "masking_metrics"}
    names = {study: load_study(study).parameters.keys() for study in {run.study for run in runs}}
    for run in runs:
        assert (run.status, run.profile) == ("done", "full")
        assert run.parameters.keys() <= names[run.study]
        record = json.loads((Path(run.path) / "run.json").read_text())
        assert not {"host", "cwd", "pid", "notebook", "platform"} & record.keys()


def test_a_value_that_was_not_reached_is_a_lower_bound(page):
    import pandas as pd
    from results_pages import spread

    assert spread(pd.Series([125.0, 155.0]), "{:.0f}", most=150) == "**>140** (125, >150)"
    assert spread(pd.Series([1.0, float("nan")])) == "**1.0** (1.0, -)"


def test_a_steps_row_says_what_holds_in_each_seed(page):
    import pandas as pd

    runs = pd.DataFrame(
        {
            "steps/prithvi/to-95": [10.0, 20.0, 40.0],
            "steps/random/to-95": [40.0, 40.0, 40.0],
            "steps/score-to-reach": [0.8, 0.8, 0.8],
            "steps": 150,
            "learning_rate/prithvi": [0.002, 0.002, 0.0005],
            "learning_rate/random": 0.002,
        }
    )
    found = "| **0.58** (0.25, 0.50, 1.00) | in 2 of 3 | 0.25, 0.50 |"
    assert found in page.steps({"flood": runs})
    assert "| yes |" in page.steps({"flood": runs.head(2)})
