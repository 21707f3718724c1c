"""The run directory as a notebook sees it."""

from __future__ import annotations

import json
import threading
from decimal import Decimal

import numpy as np
import pytest

from geowb.batch import RunDirectory
from geowb.batch.rundir import write_json
from geowb.errors import DataError


def test_metrics_are_kept_with_their_units(tmp_path):
    run = RunDirectory(tmp_path / "run")
    assert run.metrics == {}
    assert not run.path.exists()
    run.metric("rmse/unet/all", np.float32(61.5), "Mg/ha")
    run.metric("trainable/unet", 7_763_905, "")
    run.metric("rmse/unet/all", 60.0, "Mg/ha")
    expected = {
        "rmse/unet/all": {"value": 60.0, "unit": "Mg/ha"},
        "trainable/unet": {"value": 7763905, "unit": ""},
    }
    assert run.metrics == RunDirectory(run.path).metrics == expected
    assert [file.name for file in run.path.iterdir()] == ["metrics.json"]


@pytest.mark.parametrize(
    ("value", "note"), [(np.nan, "not a number"), (np.inf, "infinite"), (-np.inf, "infinite")]
)
def test_what_is_not_finite_is_null_with_a_note(tmp_path, value, note):
    run = RunDirectory(tmp_path)
    run.metric("rmse", value, "Mg/ha")

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = (tmp_path / "metrics.json").read_text()
    stored = json.loads(text, parse_constant=refuse)
    assert stored == {"rmse": {"value": None, "unit": "Mg/ha", "note": note}}


@pytest.mark.parametrize("value", ["61", None, True, np.zeros(2), [1.0], Decimal(1), 1j])
def test_a_metric_is_one_number(tmp_path, value):
    with pytest.raises(DataError, match=r"Metric 'rmse' is .* not one number"):
        RunDirectory(tmp_path).metric("rmse", value, "Mg/ha")
    assert list(tmp_path.iterdir()) == []


def test_folders_are_made_when_they_are_needed(tmp_path):
    run = RunDirectory(tmp_path / "run")
    assert run.figure("maps.png") == run.path / "figures" / "maps.png"
    assert [folder.name for folder in run.path.iterdir()] == ["figures"]
    assert run.model("unet") == run.path / "models" / "unet" / "model.safetensors"
    assert run.model("unet").parent.is_dir()
    assert run.table("points.csv") == run.path / "tables" / "points.csv"
    assert run.table("points.csv").parent.is_dir()


@pytest.mark.parametrize("name", ["", "../maps.png", "/tmp/maps.png", "a/../../maps.png"])
def test_nothing_is_put_outside(tmp_path, name):
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(DataError, match="not a name"):
        run.figure(name)
    assert not run.path.exists()


def test_by_hand_a_new_notebook_starts_with_no_metrics(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = RunDirectory("")
    first.metric("old", 1, "")
    second = RunDirectory("")
    assert second.path == tmp_path / "runs" / "by-hand"
    assert second.metrics == {}
    second.metric("new", 2, "")
    second.metric("newer", 3, "")
    assert set(RunDirectory(second.path).metrics) == {"new", "newer"}


def test_a_reader_never_sees_half_a_file(tmp_path):
    run, seen = RunDirectory(tmp_path), []
    run.metric("m0", 0, "x" * 50_000)
    done = threading.Event()

    def read():
        while not done.is_set():
            try:
                seen.append(len(json.loads((tmp_path / "metrics.json").read_text())))
            except ValueError:
                seen.append("half a file")

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(60):
        run.metric(f"m{i}", i, "x" * 50_000)
    done.set()
    reader.join()
    assert seen
    assert "half a file" not in seen
    assert seen == sorted(seen)


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"kept": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"many": [1] * 100_000, "bad": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"kept": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
