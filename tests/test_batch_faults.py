"""What a sweep survives. Each test ends with no finished run lost, none done twice, no orphan."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys

import psutil
import pytest
from sweeping import CELLS, PARAMETERS, Sweep, ends, until, waiting

from geowb.batch import load_run

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals and tmpfs are POSIX's")


@pytest.fixture(scope="module")
def study(tmp_path_factory, write_study):
    return write_study(tmp_path_factory.mktemp("study") / "tiny.ipynb", PARAMETERS, CELLS)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "runs"


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


def go(log):
    log.with_name("log.go").touch()


def statuses(out):
    return sorted(load_run(path).status for path in out.glob("[!.]*"))


def finished(out):
    return [path for path in out.glob("[!.]*") if load_run(path).status == "done"]


def is_tidy(out):
    """Nothing is left there but run directories."""
    return [path.name for path in out.iterdir() if path.name.startswith(".")] == []


def finish_and_check(study, out, log, words, *, done_before, runs):
    """The same command does what is missing, and nothing else."""
    before = {path: (path / "run.json").stat().st_mtime_ns for path in done_before}
    again = Sweep(study, *words)
    status, _, told = again.end()
    assert status == 0, told
    assert statuses(out) == ["done"] * runs
    assert sorted(ends(log).values()) == [1] * runs, "a run was done twice, or not at all"
    assert {path: (path / "run.json").stat().st_mtime_ns for path in done_before} == before
    assert is_tidy(out)
    assert again.has_no_process()


def half_way(study, out, log, *, runs=4):
    """A sweep of which one run is done, and two are in the middle."""
    words = ("-p", f"log={log}", "-p", "mode=ok,wait", "-p", "n=1", "--out", out, "--workers", "2")
    first = Sweep(study, *words[:2], "-p", "mode=ok", *words[4:])
    assert first.end()[0] == 0
    words = (*words, "--repeat", str(runs // 2))
    sweep = Sweep(study, *words)
    assert until(lambda: len(list(out.glob("[!.]*"))) == 2 and waiting(log) == 2)
    return sweep, words


def test_a_killed_sweep_goes_on_where_it_was(study, out, log):
    sweep, words = half_way(study, out, log)
    done = finished(out)
    assert len(done) == 2
    sweep.process.kill()
    assert sweep.has_no_process(), "its workers or kernels live on"
    go(log)
    finish_and_check(study, out, log, words, done_before=done, runs=4)


def test_a_killed_sweep_whose_workers_are_killed_too_goes_on(study, out, log):
    """As when a machine loses its power: nobody tidies up."""
    sweep, words = half_way(study, out, log)
    done = finished(out)
    for process in sweep.processes():
        process.kill()
    assert sweep.has_no_process()
    assert len(list(out.glob(".*.claimed-*"))) == 2
    go(log)
    finish_and_check(study, out, log, words, done_before=done, runs=4)


def test_a_killed_worker_costs_its_run_another_attempt_only(study, out, log):
    sweep, _ = half_way(study, out, log)
    worker = sweep.processes("geowb.batch.worker")[0]
    kernels = worker.children()
    worker.kill()
    assert until(lambda: not any(kernel.is_running() for kernel in kernels), 5)
    assert until(lambda: waiting(log) == 2), "its run was not begun anew"
    go(log)
    status, _, told = sweep.end()
    assert status == 0, told
    assert statuses(out) == ["done"] * 4
    assert sorted(ends(log).values()) == [1] * 4
    assert is_tidy(out)
    assert sweep.has_no_process()


def test_a_run_whose_worker_dies_again_and_again_is_given_up(study, out, log):
    sweep = Sweep(study, "-p", f"log={log}", "-p", "mode=wait,ok", "--out", out, "--workers", "2")
    for attempt in range(3):
        assert until(lambda: waiting(log) == 1 and statuses(out) == ["done"])
        partial = next(out.glob(".*.claimed-*")).name
        (worker,) = [
            p for p in sweep.processes("geowb.batch.worker") if f"claimed-{p.pid}-" in partial
        ]
        worker.kill()
        assert until(lambda old=partial: not (out / old).exists()), attempt
    status, _, told = sweep.end()
    assert status == 1
    assert "WorkerDied: its process ended with signal 9, most often" in told
    assert "; so 3 times." in told
    assert "alone: geowb run" in told
    assert statuses(out) == ["done"]
    assert is_tidy(out)
    assert sweep.has_no_process()


def test_a_killed_kernel_is_a_failed_run_and_the_next_sweep_does_it(study, out, log):
    sweep, words = half_way(study, out, log)
    done = finished(out)
    worker = sweep.processes("geowb.batch.worker")[0]
    worker.children()[-1].kill()
    assert until(lambda: "failed" in statuses(out))
    go(log)
    status, _, told = sweep.end()
    assert status == 1
    assert "ended by SIGKILL" in told
    assert statuses(out) == ["done", "done", "done", "failed"]
    finish_and_check(study, out, log, words, done_before=done, runs=4)


@pytest.mark.parametrize("who", ["geowb.batch.worker", "ipykernel"])
def test_what_a_notebook_has_started_ends_with_it(study, out, log, who):
    sweep = Sweep(study, "-p", f"log={log}", "-p", "mode=child", "--out", out)
    assert until(lambda: waiting(log) == 1)
    log.with_name("log.go").touch()
    for _ in range(3 if who == "geowb.batch.worker" else 1):
        assert until(lambda: waiting(log) == 1)
        (process,) = [p for p in sweep.processes(who) if "cli" not in p.cmdline()]
        process.kill()
        assert until(lambda old=process: not old.is_running())
        assert until(lambda: waiting(log) == 0 or sweep.processes(who), 30)
        for file in log.parent.glob("log.waits-*"):
            pid = int(file.name.split("-")[-1])
            if not psutil.pid_exists(pid):
                file.unlink()
    status, _, told = sweep.end()
    assert status == 1, told
    assert sweep.has_no_process(), "a child of the notebook lives on"


@pytest.mark.parametrize("order", ["", '{"order": "study", "name": "ti'])
def test_a_worker_whose_sweep_ends_before_an_order_is_whole_ends_too(order):
    command = [sys.executable, "-P", "-m", "geowb.batch.worker"]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    worker.stdin.write(order)
    worker.stdin.close()
    assert worker.wait(60) == 0
    assert json.loads(worker.stdout.read()) == {"event": "ready"}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_sweep_that_ends_while_it_starts_leaves_no_process(study, out, number):
    sweep = Sweep(study, "--out", out)
    assert until(lambda: sweep.processes("geowb.batch.worker"))
    sweep.process.send_signal(number)
    sweep.end(30)
    assert sweep.has_no_process()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_sweep_keeps_what_is_done(study, out, log, number, status):
    sweep, words = half_way(study, out, log)
    done = finished(out)
    sweep.process.send_signal(number)
    ended, _, told = sweep.end(20)
    assert ended == status
    assert number == signal.SIGTERM or "the same command does the rest" in told
    assert "Traceback" not in told
    assert sorted(out.glob("[!.]*")) == sorted(done)
    assert is_tidy(out)
    assert sweep.has_no_process(1)
    go(log)
    finish_and_check(study, out, log, words, done_before=done, runs=4)


def test_a_notebook_that_raises_hangs_or_floods_does_not_stop_the_rest(study, out, log):
    modes = "raise,hang,flood,ok"
    words = ("-p", f"mode={modes}", "-p", f"log={log}", "--timeout", "40", "--out", out)
    sweep = Sweep(study, *words)
    status, _, told = sweep.end(180)
    assert status == 1
    assert "under 'Experiment'. ValueError: No pixel has a label: nothing to train on." in told
    assert "Timeout: the run took longer than 40 s and was stopped." in told
    assert "2 of 4 runs are done." in told
    assert statuses(out) == ["done", "done", "failed", "failed"]
    (flood,) = out.glob("*mode=flood*")
    assert (flood / "notebook.ipynb").stat().st_size < 1_000_000
    assert "lacks the middle" in load_run(flood).warnings[0]
    assert sweep.has_no_process()
    assert is_tidy(out)


def test_a_million_printed_lines_are_cut(study, out):
    sweep = Sweep(study, "-p", "mode=lines", "--out", out)
    status, _, told = sweep.end(180)
    assert status == 0, told
    (path,) = out.iterdir()
    assert (path / "notebook.ipynb").stat().st_size < 1_000_000


@pytest.mark.parametrize("content", ["", '{"study": "tiny", "status": "done", "para', "[]"])
def test_a_run_whose_record_is_broken_is_done_again(study, out, log, content):
    words = ("-p", f"log={log}", "-p", "x=1,2", "--out", out)
    assert Sweep(study, *words).end()[0] == 0
    broken = next(out.glob("*x=1*"))
    (broken / "run.json").write_text(content)
    status, _, told = Sweep(study, *words).end()
    assert status == 0, told
    assert ends(log) == {"ok 1.0 0": 2, "ok 2.0 0": 1}
    assert statuses(out) == ["done", "done"]

    assert is_tidy(out)


def test_two_sweeps_in_one_folder_share_the_work(study, out, log):
    words = ("-p", f"log={log}", "-p", "mode=wait,ok", "--out", out, "--workers", "2")
    one = Sweep(study, *words, "--repeat", "3")
    two = Sweep(study, *words, "--repeat", "2")  # the same runs but two
    assert until(lambda: waiting(log) >= 2)
    go(log)
    for sweep in (one, two):
        status, _, told = sweep.end()
        assert status == 0, told
    assert statuses(out) == ["done"] * 6
    assert sorted(ends(log).values()) == [1] * 6
    assert is_tidy(out)
    assert one.has_no_process()
    assert two.has_no_process()


@contextlib.contextmanager
def small_disk(place, size):
    """A file system of this size, where one can be mounted."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here: it takes root")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


# While one run fills the disk, its neighbour may have no room either; alone each has.
@pytest.mark.parametrize(("workers", "least"), [(1, 2), (2, 1)])
def test_a_full_disk_fails_runs_and_loses_none(study, tmp_path, log, workers, least):
    disk = tmp_path / "disk"
    with small_disk(disk, "4m"):
        words = ("-p", f"log={log}", "-p", "mode=ok,fill", "--repeat", "2", "--out", disk / "runs")
        words += ("--workers", str(workers))
        sweep = Sweep(study, *words)
        status, _, told = sweep.end()
        assert status == 1
        assert "No space left on device" in told
        done = finished(disk / "runs")
        assert least <= len(done) <= 2
        assert all("mode=ok" in path.name for path in done)
        assert f"{len(done)} of 4 runs are done." in told
        assert sweep.has_no_process()
        grow = ["mount", "-o", "remount,size=60m", str(disk)]
        subprocess.run(grow, check=True)
        finish_and_check(study, disk / "runs", log, words, done_before=done, runs=4)


def test_a_disk_that_is_full_to_the_last_byte_keeps_what_was_done(study, tmp_path, log):
    disk = tmp_path / "disk"
    with small_disk(disk, "2m"):
        words = ("-p", f"log={log}", "-p", "x=1,2,3", "--out", disk / "runs", "--workers", "1")
        assert Sweep(study, *words[:2], "-p", "x=1", *words[4:]).end()[0] == 0
        (done,) = (disk / "runs").iterdir()
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        sweep = Sweep(study, *words)
        status, _, told = sweep.end()
        assert status == 1
        assert "No space left on device" in told
        assert "1 of 3 runs are done." in told
        assert load_run(done).status == "done"
        filler.unlink()
        finish_and_check(study, disk / "runs", log, words, done_before=[done], runs=3)


def test_a_name_that_a_killed_process_had_just_taken_is_used(study, out, log):
    words = ("-p", f"log={log}", "--out", out)
    assert Sweep(study, *words).end()[0] == 0
    (run,) = out.iterdir()
    shutil.rmtree(run)
    run.mkdir()
    assert Sweep(study, *words).end()[0] == 0
    assert statuses(out) == ["done"]
    assert list(out.iterdir()) == [run]


def test_a_run_that_ended_as_its_process_was_killed_is_taken_over(study, out, log):
    """Between the record and the final name; and between an old run's name and the new one's."""
    words = ("-p", f"log={log}", "-p", "x=1,2", "--out", out)
    assert Sweep(study, *words).end()[0] == 0
    one, two = sorted(out.iterdir())
    record = json.loads((one / "run.json").read_text())
    one.rename(out / f".{one.name}.claimed-99-abcdef")
    two.rename(out / f".{two.name}.old-abcdef")
    status, _, told = Sweep(study, *words).end()
    assert status == 0, told
    assert ends(log) == {"ok 1.0 0": 1, "ok 2.0 0": 1}
    assert json.loads((one / "run.json").read_text()) == record
    assert sorted(out.iterdir()) == [one, two]
