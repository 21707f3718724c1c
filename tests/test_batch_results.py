"""Many run directories as one table."""

from __future__ import annotations

import json
import math
import os

import pandas as pd
import pytest

from geowb.batch.record import one_sentence
from geowb.batch.results import BASE, load_runs, read_runs, write_parquet
from geowb.batch.rundir import write_at_once
from geowb.errors import RequestError

WORLD = {"data": {"entry": "world", "driver": "world", "world_version": "1.0"}}
REAL = {"data": {"entry": "agb_south_texas", "driver": "raster", "files": {}}}


def write_run(folder, metrics=None, *, unit="Mg/ha", **changes):
    """A run directory with a small record; None leaves a key out."""
    folder.mkdir(parents=True)
    record = {
        "study": "agb_transfer",
        "status": "done",
        "profile": "full",
        "parameters": {"data": "world", "seed": 0, "regions": [], "epochs": 40},
        "started": "2026-01-01T00:00:00+00:00",
        "seconds": 60.5,
        "data": WORLD,
        "error": None,
    } | changes
    record = {key: value for key, value in record.items() if value is not None or key == "error"}
    (folder / "run.json").write_text(json.dumps(record))
    if metrics is not None:
        values = {n: {"value": v, "unit": unit} for n, v in metrics.items()}
        (folder / "metrics.json").write_text(json.dumps(values))
    return folder


def test_one_row_for_each_run_at_any_depth_sorted_by_start(tmp_path):
    write_run(tmp_path / "late", {"rmse": 2.0}, started="2026-03-01T00:00:00+00:00")
    inner = write_run(tmp_path / "sweep" / "early", {"rmse": 1.0})
    write_run(inner / "models" / "inside")
    write_run(tmp_path / ".hidden" / "x")
    write_run(tmp_path / ".late.partial-1-abc")
    frame = load_runs(tmp_path)
    assert list(frame["run"]) == ["early", "late"]
    assert list(frame.columns[: len(BASE)]) == list(BASE)
    assert list(frame["rmse"]) == [1.0, 2.0]
    assert frame.attrs["units"] == {"rmse": "Mg/ha"}
    assert str(frame["started"].dtype) == "datetime64[us, UTC]"
    assert frame.loc[0, "path"] == str(tmp_path / "sweep" / "early")
    assert math.isnan(frame.loc[0, "peak_memory_mb"])
    assert list(load_runs(inner)["run"]) == ["early"]


def test_names_that_are_taken_get_a_prefix(tmp_path):
    write_run(tmp_path / "a", {"epochs": 1.0, "seconds": 2.0, "metric/x": 3.0})
    frame = load_runs(tmp_path)
    found = {
        name: frame.loc[0, name]
        for name in ("parameter/data", "epochs", "metric/epochs", "metric/seconds")
    }
    assert found == {
        "parameter/data": "world",
        "epochs": 40,
        "metric/epochs": 1.0,
        "metric/seconds": 2.0,
    }
    assert frame.loc[0, "metric/metric/x"] == 3.0
    assert frame.loc[0, "seconds"] == 60.5


@pytest.mark.parametrize(
    ("data", "label", "evidence", "simulated"),
    [
        (WORLD, "world 1.0 (simulated)", "simulated", True),
        (REAL, "agb_south_texas", "real", False),
        (
            {**WORLD, "test_data": REAL["data"]},
            "world 1.0 (simulated) + agb_south_texas (real)",
            "mixed",
            True,
        ),
        ({}, "no catalog entry", "unknown", None),
        (None, "no catalog entry", "unknown", None),
        ({"data": {"error": "gone"}}, "world (not known what was read)", "unknown", None),
        (
            {**REAL, "test_data": {"entry": "mine", "error": "gone"}},
            "agb_south_texas (real) + mine (not known what was read)",
            "unknown",
            None,
        ),
        (
            {**WORLD, "test_data": {"error": "gone"}},
            "world 1.0 (simulated) + test_data (not known what was read)",
            "mixed",
            True,
        ),
        ({**WORLD, "other": WORLD["data"]}, "world 1.0 (simulated)", "simulated", True),
        ({**REAL, "other": {"entry": "mnist_test"}}, "agb_south_texas + mnist_test", "real", False),
    ],
)
def test_data_are_labelled_for_what_they_are(tmp_path, data, label, evidence, simulated):
    write_run(tmp_path / "a", data=data)
    row = load_runs(tmp_path).iloc[0]
    assert (row["data"], row["evidence"]) == (label, evidence)
    assert (None if pd.isna(row["simulated"]) else row["simulated"]) == simulated


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("run.json", '{"study": "agb_tr', "run.json cannot be read as JSON"),
        ("run.json", "[1]", "run.json holds a list"),
        ("run.json", "[" * 100_000, "run.json cannot be read as JSON"),
        ("run.json", "{}", "no usable 'study'"),
        ("run.json", '{"study": "a", "status": "done", "parameters": 1}', "usable 'parameters'"),
        ("run.json", '{"study": "a", "status": "running", "parameters": {}}', "says 'running'"),
        ("run.json", b"\xff\xfe", "run.json cannot be read"),
        ("metrics.json", '{"rmse": {"value": 1', "metrics.json cannot be read as JSON"),
        ("metrics.json", '{"rmse": 1}', "no number under 'rmse'"),
        ("metrics.json", '{"rmse": {"value": "1"}}', "no number under 'rmse'"),
        ("metrics.json", '{"rmse": {"unit": "m"}}', "no number under 'rmse'"),
        ("metrics.json", r'{"\ud800": {"value": 1}}', "half a character"),
        ("run.json", r'{"study": "\ud800"}', "half a character"),
    ],
)
def test_a_broken_record_is_a_row_with_the_reason(tmp_path, file, content, told):
    write_run(tmp_path / "good", {"rmse": 1.0})
    broken = write_run(tmp_path / "bad", {"rmse": 1.0})
    (broken / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    frame = load_runs(tmp_path).set_index("run")
    assert dict(frame["status"]) == {"good": "done", "bad": "broken"}
    assert told in frame.loc["bad", "error"]
    assert pd.isna(frame.loc["bad", "rmse"])


def test_odd_values_do_not_stop_it(tmp_path):
    write_run(
        tmp_path / "a",
        {"rmse": None, "big": 10**400, "huge": 1e200},
        started="yesterday",
        seconds="long",
        parameters={"seed": 2**70, "chips": 3},
    )
    write_run(tmp_path / "b", {"rmse": 1.0}, parameters={"seed": "x"}, started=None)
    frame = load_runs(tmp_path).set_index("run")
    assert frame.loc["a", ["rmse", "big", "huge", "seconds"]].isna().all()
    assert set(read_runs(tmp_path)[0].metrics) == {"rmse", "big", "huge"}
    assert frame.loc["a", "chips"] == 3
    assert str(frame["chips"].dtype) == "Int64", "16 must not become 16.0 where one is missing"


def test_an_error_is_one_sentence(tmp_path):
    error = {
        "cell": 3,
        "heading": "Data",
        "type": "DataError",
        "message": "no\n  file " + "x" * 999,
    }
    write_run(tmp_path / "a", status="failed", error=error)
    told = load_runs(tmp_path).loc[0, "error"]
    assert told.startswith("Under 'Data': DataError: no file xxx")
    assert len(told) < 310
    assert told.endswith(".")
    assert one_sentence("no\n file " + "x" * 999).endswith("xxx...")
    assert one_sentence("Is it?") == "Is it?"


def test_a_folder_whose_name_is_no_utf8_is_a_broken_row(tmp_path):
    run = write_run(tmp_path / "a", {"rmse": 1.0})
    run.rename(tmp_path / os.fsdecode(b"\xff"))
    frame = load_runs(tmp_path)
    assert list(frame["status"]) == ["broken"]
    assert pd.read_parquet(write_parquet(frame, tmp_path / "runs.parquet"))["run"][0] == r"\udcff"


def test_folders_that_are_missing_or_empty(tmp_path):
    with pytest.raises(RequestError, match="no folder"):
        load_runs(tmp_path / "nowhere")
    frame = load_runs(tmp_path)
    assert list(frame.columns) == list(BASE)
    assert len(frame) == 0


def test_parquet_is_read_by_pandas(tmp_path):
    write_run(tmp_path / "a", {"rmse": 1.0}, parameters={"x": [1, 0.5], "seed": 1, "mixed": "é"})
    write_run(tmp_path / "b", {"rmse": None}, parameters={"x": [], "flag": True, "mixed": 2})
    (write_run(tmp_path / "c") / "run.json").write_text("{")
    frame = load_runs(tmp_path).sort_values("run", ignore_index=True)
    again = pd.read_parquet(write_parquet(frame, tmp_path / "runs.parquet"))
    assert list(again["x"]) == ["[1, 0.5]", "[]", "null"]
    assert list(again["mixed"]) == ['"é"', "2", "null"]
    assert again.attrs == frame.attrs
    pd.testing.assert_frame_equal(
        frame.drop(columns=["x", "mixed"]), again.drop(columns=["x", "mixed"])
    )
    (tmp_path / "empty").mkdir()
    empty = load_runs(tmp_path / "empty")
    pd.testing.assert_frame_equal(
        empty, pd.read_parquet(write_parquet(empty, tmp_path / "empty.parquet"))
    )


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "report.html"
    write_at_once(target, b"old")

    def fails(*_):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", fails)
    with pytest.raises(OSError, match="disk full"):
        write_at_once(target, b"new")
    assert target.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
