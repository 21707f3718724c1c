"""Sweeps on this machine: what is run, what is not run again, and what is refused."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import psutil
import pytest
from sweeping import CELLS, GEOWB, PARAMETERS, Sweep, ends, until, waiting

from geowb import machine
from geowb.batch import load_run, repeat, run, sweep
from geowb.batch.folder import earlier, key, label
from geowb.batch.sweeps import _made, command_for
from geowb.errors import RequestError


@pytest.fixture(scope="module")
def study(tmp_path_factory, write_study):
    return write_study(
        tmp_path_factory.mktemp("study") / "tiny.ipynb",
        PARAMETERS,
        CELLS,
        profiles={"teaching": {"n": 3}},
    )


@pytest.fixture(scope="module")
def swept(study):
    """Four settings, two seeds each, one of them failing for all seeds."""
    log, out = study.parent / "log", study.parent / "runs"
    grid = {"mode": "ok", "x": "0.5,1e-3", "names": '["a b"],[]', "log": str(log)}
    return sweep(study, grid, profile="teaching", repeat=2, out=out, progress=False), log, out


def test_all_combinations_are_run_in_the_order_of_the_grid(swept):
    runs, log, _ = swept
    seen = [(r.parameters["x"], r.parameters["names"], r.parameters["seed"]) for r in runs]
    assert seen == list(itertools.product((0.5, 1e-3), (["a b"], []), (0, 1)))
    assert {run.status for run in runs} == {"done"}
    assert [run.metrics["score"]["value"] for run in runs] == [x * 3 + seed for x, _, seed in seen]
    assert set(ends(log).values()) == {2}  # of the two lists


def test_a_run_is_named_by_what_varies_and_a_hash_of_everything(swept):
    runs, _, out = swept
    assert runs[1].path == out / f"tiny-x=0.5,names=a_b,seed=1-{key('tiny', runs[1].parameters)}"
    assert runs[2].path.name.startswith("tiny-x=0.5,names=none,seed=0-")
    assert sorted(path.name for path in out.iterdir()) == sorted(run.path.name for run in runs)
    assert label({"a": 1, "b": [0.5, 2.0], "c": "x/y"}, ["b", "c"]) == "b=0.5+2,c=x/y"


def test_the_record_has_what_it_takes_to_judge_and_repeat_a_run(swept, study):
    record = json.loads((swept[0][0].path / "run.json").read_text())
    assert record["notebook"] == str(study)
    assert (record["profile"], record["kernel"], record["timeout"]) == ("teaching", "python3", None)
    assert record["cwd"] == str(Path.cwd())
    assert 30 < record["peak_memory_mb"] < 500  # a kernel without torch
    assert 0.1 < record["kernel_seconds"] < record["seconds"]
    assert load_run(swept[0][0].path).peak_memory_mb == record["peak_memory_mb"]


def test_the_same_sweep_again_runs_nothing_and_a_larger_one_the_rest(swept, study, capfd):
    runs, log, out = swept
    grid = {"mode": "ok", "x": [0.5, 1e-3], "names": [["a b"], []], "log": str(log)}
    before = ends(log)
    assert sweep(study, grid, profile="teaching", repeat=2, out=out) == runs
    assert ends(log) == before
    assert capfd.readouterr().err == ""
    copy = log.with_name("larger")
    shutil.copytree(out, copy)
    more = sweep(study, grid, profile="teaching", repeat=3, out=copy)
    assert len(more) == 12
    assert sum(ends(log).values()) == 12
    told = capfd.readouterr().err.splitlines()
    assert (
        told[0] == f"tiny: 12 runs, 8 done before, {min(4, machine.room(uses_gpu=True))} at a time"
    )
    first = next(line for line in told if " done in " in line)  # a slow machine tells more before
    assert re.fullmatch(r"tiny: .+ done in \d+ s; 9 of 12 done.*, about \d+ s left", first)


def test_force_does_finished_runs_again_in_their_place(study, tmp_path):
    log = tmp_path / "log"
    options = {"out": tmp_path / "runs", "progress": False}
    (first,) = sweep(study, {"log": str(log)}, **options)
    (again,) = sweep(study, {"log": str(log)}, force=True, **options)
    assert again.path == first.path
    assert ends(log) == {"ok 1.0 0": 2}
    assert list(options["out"].iterdir()) == [first.path]


def test_a_forced_run_that_fails_does_not_take_the_place_of_a_done_one(study, tmp_path):
    log, out = tmp_path / "log", tmp_path / "runs"
    grid = {"mode": "once", "log": str(log)}
    log.with_name("log.once").touch()
    (first,) = sweep(study, grid, out=out, progress=False)
    log.with_name("log.once").unlink()
    (again,) = sweep(study, grid, out=out, progress=False, force=True, timeout=5)
    assert (first.status, again.status) == ("done", "failed")
    assert load_run(first.path) == first
    assert sorted(out.iterdir()) == [first.path, again.path]
    assert sweep(study, grid, out=out, progress=False) == [first]


def test_runs_of_an_older_notebook_are_told(study, tmp_path, capfd):
    copy = tmp_path / "tiny.ipynb"
    shutil.copy(study, copy)
    options = {"out": tmp_path / "runs"}
    runs = sweep(copy, **options)
    notebook = nbformat.read(copy, 4)
    notebook.cells.append(nbformat.v4.new_markdown_cell("A word more."))
    code = [cell for cell in notebook.cells if cell.cell_type == "code"][-1]
    code.outputs = [nbformat.v4.new_output("stream", text="executed again")]
    nbformat.write(notebook, copy)
    capfd.readouterr()
    assert sweep(copy, **options) == runs
    assert "another version" not in capfd.readouterr().err
    code.source += "\n# a change"
    nbformat.write(notebook, copy)
    assert sweep(copy, **options) == runs
    assert "1 of the 1 runs that are done were made by another version" in capfd.readouterr().err


def test_a_run_made_alone_counts(study, tmp_path):
    log = tmp_path / "log"
    alone = run(study, {"log": str(log)}, out=tmp_path / "runs", progress=False)
    assert sweep(study, {"log": str(log)}, out=tmp_path / "runs", progress=False) == [alone]
    assert ends(log) == {"ok 1.0 0": 1}


def test_a_failed_run_is_repeated_by_the_command_that_is_told(study, tmp_path):
    out, log = tmp_path / "runs", tmp_path / "log"
    going = Sweep(study, "-p", f"log={log}", "-p", "mode=once,ok", "--out", out, "--timeout", "6")
    status, folder, told = going.end()
    assert status == 1
    assert folder == f"{out}\n"
    assert "1 of 2 runs are done." in told
    (command,) = re.findall(r"alone: geowb (.+)", told)
    done = subprocess.run(
        [*GEOWB, *shlex.split(command)], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert Sweep(study, "-p", f"log={log}", "-p", "mode=once,ok", "--out", out).end()[0] == 0
    assert sorted(ends(log).values()) == [1, 1]


def test_the_command_of_a_run_without_a_directory_has_all_values(tmp_path, swept):
    gone = swept[0][0]
    gone = type(gone)(tmp_path / "x", "tiny", "failed", gone.parameters, {}, 0.0)
    words = shlex.split(command_for(gone, "my study.ipynb"))
    assert words[:3] == ["geowb", "run", "my study.ipynb"]
    assert 'names=["a b"]' in words
    assert words[-2:] == ["--out", str(tmp_path)]


def test_a_run_is_repeated_like_its_directory(swept, tmp_path):
    first = swept[0][1]
    again = repeat(first.path, out=tmp_path, progress=False)
    assert (again.parameters, again.metrics) == (first.parameters, first.metrics)
    assert again.path == tmp_path / first.path.name
    changed = repeat(first.path, {"seed": "7"}, out=tmp_path, progress=False)
    assert changed.parameters == first.parameters | {"seed": 7}


def test_a_repeated_run_keeps_a_name_whose_hash_is_all_digits(swept, tmp_path):
    path = tmp_path / "tiny-x=0.5-22535099-2"
    shutil.copytree(swept[0][0].path, path)
    again = repeat(path, out=tmp_path / "more", progress=False)
    assert again.path.name == "tiny-x=0.5-22535099"


def test_long_names_are_repeated_too(write_study, tmp_path):
    study = write_study(tmp_path / f"{'long_' * 12}.ipynb", PARAMETERS, CELLS)
    (first, _) = sweep(study, {"mode": ["m" * 80, "n" * 80]}, out=tmp_path / "runs", progress=False)
    assert 100 < len(first.path.name) < 150
    assert repeat(first.path, out=tmp_path / "more", progress=False).path.name == first.path.name


def test_a_notebook_that_ends_itself_is_warned_of(study, tmp_path):
    (done,) = sweep(study, {"mode": "exit"}, out=tmp_path, progress=False)
    assert done.warnings == ("The notebook ended itself (sys.exit) before its last cell.",)


def test_windows_line_ends_make_no_other_notebook(study, tmp_path, capfd):
    copy = tmp_path / "tiny.ipynb"
    copy.write_bytes(study.read_bytes().replace(b"\n", b"\r\n"))
    runs = sweep(copy, out=tmp_path / "runs")
    capfd.readouterr()
    assert sweep(copy, out=tmp_path / "runs") == runs
    assert capfd.readouterr().err == ""


def test_a_kernel_that_does_not_leave_is_ended_with_what_it_started(monkeypatch):
    from geowb.batch import client

    monkeypatch.setattr(client, "_SECONDS_TO_LEAVE", 0.5)
    code = "import subprocess, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True)"
    kernel = subprocess.Popen(
        [sys.executable, "-c", f"{code}; time.sleep(60)"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    child = psutil.Process(int(kernel.stdout.readline()))
    client._see_off(kernel)
    assert not psutil.pid_exists(kernel.pid)
    assert until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 5)


def test_a_kernel_that_leaves_finishes_what_it_has_to_do(study, tmp_path, write_study):
    left = tmp_path / "left"
    leaves = write_study(
        tmp_path / "leaves.ipynb",
        PARAMETERS,
        (f"import atexit\natexit.register(lambda: open({str(left)!r}, 'w').close())",),
    )
    sweep(leaves, out=tmp_path / "runs", progress=False)
    assert until(left.exists, 5)


def test_relative_paths_of_a_repeated_run_start_where_it_started(study, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    first = run(study, {"log": "log"}, out=tmp_path / "runs", progress=False)
    monkeypatch.chdir(tmp_path / "b")
    again = repeat(first.path, out="mine", progress=False)
    assert ends(tmp_path / "a" / "log") == {"ok 1.0 0": 2}
    assert again.path.parent == tmp_path / "b" / "mine"
    assert Path.cwd() == tmp_path / "b"


def test_runs_start_in_the_folder_that_the_sweep_was_asked_in(study, tmp_path):
    going = Sweep(study, "-p", "log=log", "-p", "x=1,2", "--out", "runs", cwd=tmp_path)
    assert going.end()[0] == 0
    assert ends(tmp_path / "log") == {"ok 1.0 0": 1, "ok 2.0 0": 1}
    assert len(list((tmp_path / "runs").iterdir())) == 2


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 5, 16, 100])
@pytest.mark.parametrize("cores", [1, 2, 4, 7, 64])
def test_runs_together_never_use_more_threads_than_cores(monkeypatch, workers, cores):
    monkeypatch.setattr(machine, "cores", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    share = machine.share_of_threads(workers)
    assert {int(n) * workers <= max(cores, workers) for n in share.values()} == {True}
    assert int(share["OMP_NUM_THREADS"]) == max(1, cores // workers)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert machine.share_of_threads(workers)["OMP_NUM_THREADS"] == "1"


def first_output(path):
    cells = nbformat.read(path / "notebook.ipynb", 4).cells
    return next(c.outputs[0].text for c in cells if c.get("outputs")).splitlines()[0].split()


@pytest.fixture
def two_gpus(tmp_path, monkeypatch):
    """A machine that seems to have two GPUs."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho 'GPU 0: one'\necho 'GPU 1: two'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_each_run_has_a_gpu_of_its_own(study, tmp_path, two_gpus):
    log, out = tmp_path / "log", tmp_path / "runs"
    going = Sweep(study, "-p", f"log={log}", "-p", "mode=wait", "-p", "x=1,2,3", "--out", out)
    assert until(lambda: waiting(log) == 2)
    both = [first_output(path)[1] for path in out.glob(".*.claimed-*")]
    assert sorted(both) == ["0", "1"]
    log.with_name("log.go").touch()
    status, _, told = going.end()
    assert status == 0, told
    assert "2 at a time" in told
    with pytest.raises(RequestError, match="--workers 3 is too many: the runs use a GPU"):
        sweep(study, workers=3, out=tmp_path / "more", progress=False)


def test_gpus_are_counted_without_torch(monkeypatch, two_gpus):
    assert machine.gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-8f2")
    assert machine.gpus() == ["3", "GPU-8f2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine.gpus() == []
    with machine.one_gpu(wanted=True) as environment:
        assert environment == {}


def test_a_run_without_a_gpu_does_not_see_one(two_gpus):
    with machine.one_gpu(wanted=False) as environment:
        assert environment == {"CUDA_VISIBLE_DEVICES": ""}
    with machine.one_gpu(wanted=True) as one, machine.one_gpu(wanted=True) as two:
        assert {e["CUDA_VISIBLE_DEVICES"] for e in (one, two)} == {"0", "1"}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"grid": {"x": "4..0"}}, "4..0"),
        ({"grid": {"xx": "1,2", "n": "a"}}, "for 2 reasons"),
        ({"grid": {"seed": "1"}, "repeat": 3}, "seed"),
        ({"profile": "ful"}, "no profile 'ful'"),
        ({"kernel": "pyton3"}, "Did you mean 'python3'"),
        ({"workers": 0}, "--workers 0 is not possible"),
        ({"workers": 2, "scheduler": "tcp://127.0.0.1:9"}, "--workers is for this machine"),
        ({"settings": "nowhere.csv"}, "nowhere.csv"),
    ],
)
def test_a_wrong_request_writes_nothing(study, tmp_path, monkeypatch, options, told):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match=re.escape(told)):
        sweep(study, **options, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_another_studys_runs_is_refused(study, swept, tmp_path, write_study):
    other = write_study(tmp_path / "other.ipynb", PARAMETERS, CELLS)
    out = swept[2]
    before = sorted(out.iterdir())
    with pytest.raises(RequestError, match=f"holds runs of tiny.*--out {out / 'other'}"):
        sweep(other, out=out, progress=False)
    with pytest.raises(RequestError, match="is a run directory itself"):
        sweep(study, out=before[0], progress=False)
    with pytest.raises(RequestError, match="is a file"):
        sweep(study, out=study / "runs", progress=False)
    assert sorted(out.iterdir()) == before


@pytest.mark.parametrize("name", ["/proc/geowb/runs", "x" * 300])
def test_a_folder_that_cannot_be_made_is_a_wrong_request(study, tmp_path, name):
    with pytest.raises(RequestError, match="cannot be"):
        sweep(study, out=tmp_path / name, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_folders_that_were_made_for_nothing_are_removed(study, tmp_path):
    with _made(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []
    with _made(tmp_path / "a" / "b"):
        (tmp_path / "a" / "run").mkdir()
    assert list((tmp_path / "a").iterdir()) == [tmp_path / "a" / "run"]


def test_two_settings_with_the_same_hash_are_told_apart(study, tmp_path):
    path = tmp_path / f"tiny-{key('tiny', {'x': 1})}"
    path.mkdir()
    record = {"study": "tiny", "status": "done", "parameters": {"x": 2}}
    (path / "run.json").write_text(json.dumps(record))
    assert earlier(tmp_path, "tiny", {"x": 1}) == []
    record["parameters"]["x"] = 1
    (path / "run.json").write_text(json.dumps(record))
    assert earlier(tmp_path, "tiny", {"x": 1}) == [(path, record)]
