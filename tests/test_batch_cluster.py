"""Sweeps on a dask cluster that is started as its users start it."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import time
import types
import zipfile

import pytest
from sweeping import CELLS, PARAMETERS, Sweep, ends, until, waiting

from geowb.batch import load_run, sweep
from geowb.errors import RequestError

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals and mount namespaces")
DASK = [sys.executable, "-m", "dask"]


@pytest.fixture(scope="module")
def study(tmp_path_factory, write_study):
    return write_study(tmp_path_factory.mktemp("study") / "tiny.ipynb", PARAMETERS, CELLS)


class Cluster:
    """A scheduler and workers of one thread each, as processes of their own."""

    def __init__(self, folder, *, workers=2, threads=1, prefix=()):
        self.folder = folder
        self._stack = contextlib.ExitStack()
        self.scheduler = self._start("scheduler", "--port", "0", "--no-dashboard")
        found = []
        assert until(lambda: found.extend(self._address()) or found)
        self.address = found[0]
        self._words = ("--nthreads", threads, "--nanny", "--no-dashboard")
        self.workers = [
            self._start("worker", self.address, *self._words, prefix=prefix) for _ in range(workers)
        ]

    def _start(self, kind, *words, prefix=()):
        log = self._stack.enter_context((self.folder / f"{kind}-{time.time_ns()}.log").open("w"))
        command = [*prefix, *DASK, kind, *map(str, words)]
        cwd = self.folder / f"cwd-{time.time_ns()}"  # not the sweep's: nothing may rely on it
        cwd.mkdir()
        return subprocess.Popen(command, stdout=log, stderr=log, cwd=cwd, start_new_session=True)

    def _address(self):
        logs = "".join(log.read_text() for log in self.folder.glob("scheduler-*.log"))
        return re.findall(r"Scheduler at: +(tcp://\S+)", logs)

    def close(self):
        for process in [*self.workers, self.scheduler]:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in [*self.workers, self.scheduler]:
            process.wait(20)
        self._stack.close()


@pytest.fixture
def cluster(tmp_path):
    with contextlib.closing(Cluster(tmp_path)) as started:
        yield started


def scores(out):
    runs = [load_run(path) for path in out.glob("[!.]*")]
    return {
        (run.parameters["x"], run.parameters["seed"]): run.metrics["score"]["value"] for run in runs
    }


def test_a_cluster_gives_the_same_as_this_machine(study, cluster, tmp_path):
    grid, log = {"x": [1 / 3, 2e-7]}, tmp_path / "log"
    sweep(study, grid, repeat=2, out=tmp_path / "here", progress=False)
    there = Sweep(
        *(study, "-p", f"x={1 / 3},2e-7", "-p", f"log={log}", "--repeat", "2"),
        *("--out", tmp_path / "there", "--scheduler", cluster.address),
    )
    status, folder, told = there.end()
    assert status == 0, told
    assert folder.strip() == str(tmp_path / "there")
    here = scores(tmp_path / "here")
    assert len(here) == 4
    assert scores(tmp_path / "there") == pytest.approx(here, abs=1e-6)
    assert sorted(ends(log).values()) == [1] * 4
    assert there.has_no_process()
    assert "4 of 4 runs are done." in told


def test_threads_that_dask_sets_are_no_limit_and_a_users_are(monkeypatch):
    import dask

    from geowb import machine
    from geowb.batch import cluster

    monkeypatch.setattr(machine, "cores", lambda: 8)
    plugin = cluster._Processes("x", None, {"10.0.0.1": 2})
    plugin._worker = types.SimpleNamespace(ip="10.0.0.1", state=types.SimpleNamespace(nthreads=1))
    assert dask.config.get("distributed.nanny.pre-spawn-environ.OMP_NUM_THREADS") == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MKL_NUM_THREADS", "3")
    threads = plugin._threads()
    assert (threads["OMP_NUM_THREADS"], threads["MKL_NUM_THREADS"]) == ("4", "3")


def test_who_has_the_record_of_a_run_has_all_of_it(tmp_path):
    from geowb.batch.cluster import _packed

    for name in ("run.json", "table.csv", "models/a/model.json", "notebook.ipynb"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    with zipfile.ZipFile(io.BytesIO(_packed(tmp_path)["archive"])) as packed:
        names = [name for name in packed.namelist() if not name.endswith("/")]
    assert names[-1] == "run.json"
    assert len(names) == 4


def test_without_a_shared_file_system_runs_come_through_the_scheduler(study, tmp_path):
    out, log = tmp_path / "runs", tmp_path / "shared" / "log"
    out.mkdir()
    log.parent.mkdir()
    hide = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs tmpfs "{out}" && exec "$@"', "sh"]
    if subprocess.run([*hide, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a file system of its own cannot be had here: it takes root")
    (tmp_path / "cluster").mkdir()
    with contextlib.closing(Cluster(tmp_path / "cluster", prefix=hide)) as cluster:
        words = ("-p", f"log={log}", "-p", "mode=ok,raise", "--repeat", "2", "--out", out)
        going = Sweep(study, *words, "--scheduler", cluster.address)
        status, _, told = going.end()
        assert status == 1
        assert "2 of 4 runs are done." in told
        runs = [load_run(path) for path in sorted(out.glob("[!.]*"))]
        assert [run.status for run in runs] == ["done", "done", "failed", "failed"]
        for run in runs:
            assert str(run.path) in run.notebook.read_text("utf-8")  # printed by the notebook
            assert "geowb-run-" not in run.notebook.read_text("utf-8")
        again = Sweep(study, *words, "--scheduler", cluster.address)
        assert again.end()[0] == 1
        assert sorted(ends(log).values()) == [1, 1]
        assert len(list(out.iterdir())) == 4


def test_a_killed_cluster_worker_costs_its_run_another_attempt_only(study, cluster, tmp_path):
    out, log = tmp_path / "runs", tmp_path / "log"
    words = ("-p", f"log={log}", "-p", "mode=ok,wait", "--repeat", "2", "--out", out)
    going = Sweep(study, *words, "--scheduler", cluster.address)
    assert until(lambda: waiting(log) == 2 and len(ends(log)) == 2)
    os.killpg(cluster.workers[0].pid, signal.SIGKILL)  # the nanny too: it does not come back
    assert until(lambda: waiting(log) == 1)  # its kernel notices within a second or so
    log.with_name("log.go").touch()
    status, _, told = going.end()
    assert status == 0, told
    assert len(scores(out)) == 2
    assert sorted(ends(log).values()) == [1] * 4
    assert not list(out.glob(".*"))


def test_a_scheduler_that_goes_away_ends_the_sweep_and_loses_nothing(study, tmp_path):
    out, log = tmp_path / "runs", tmp_path / "log"
    words = ("-p", f"log={log}", "-p", "mode=ok,wait", "--repeat", "2", "--out", out)
    (tmp_path / "cluster").mkdir()
    with contextlib.closing(Cluster(tmp_path / "cluster")) as cluster:
        going = Sweep(study, *words, "--scheduler", cluster.address)
        assert until(lambda: waiting(log) == 2 and len(ends(log)) == 2)
        os.killpg(cluster.scheduler.pid, signal.SIGKILL)
        status, _, told = going.end(60)
        assert status == 1
        assert "the same command does the rest" in told
        assert "Traceback" not in told
    assert going.has_no_process()
    assert until(lambda: waiting(log) == 0), "kernels of the cluster live on"
    done = {path: (path / "run.json").stat().st_mtime_ns for path in out.glob("[!.]*")}
    assert len(done) == 2
    log.with_name("log.go").touch()
    status, _, told = Sweep(study, *words).end()
    assert status == 0, told
    assert sorted(ends(log).values()) == [1] * 4
    assert {path: (path / "run.json").stat().st_mtime_ns for path in done} == done


def test_an_interrupted_sweep_leaves_the_cluster_free(study, cluster, tmp_path):
    out, log = tmp_path / "runs", tmp_path / "log"
    words = ("-p", f"log={log}", "-p", "mode=wait", "--repeat", "3", "--out", out)
    going = Sweep(study, *words, "--scheduler", cluster.address)
    assert until(lambda: waiting(log) == 2)
    going.process.send_signal(signal.SIGINT)
    status, _, told = going.end(60)
    assert status == 130, told
    assert until(lambda: waiting(log) == 0), "kernels live on"
    assert until(lambda: not out.exists() or not list(out.iterdir()))
    log.with_name("log.go").touch()
    status, _, told = Sweep(study, *words, "--scheduler", cluster.address).end()
    assert status == 0, told
    assert sorted(ends(log).values()) == [1] * 3


@pytest.mark.parametrize(
    "address", ["tcp://127.0.0.1:9", "tcp://192.0.2.1:8786", "nonsense", "tcp:/x", "foo://a:1"]
)
def test_a_scheduler_that_does_not_answer_is_told_within_ten_seconds(study, tmp_path, address):
    began = time.monotonic()
    with pytest.raises(RequestError, match=f"No dask scheduler answers at '{address}'"):
        sweep(study, out=tmp_path / "runs", scheduler=address, progress=False)
    assert time.monotonic() - began < 10
    assert list(tmp_path.iterdir()) == []


def test_a_scheduler_without_workers_is_a_wrong_request(study, tmp_path):
    with contextlib.closing(Cluster(tmp_path, workers=0)) as cluster:
        before = set(tmp_path.iterdir())
        with pytest.raises(RequestError, match="has no worker"):
            sweep(study, out=tmp_path / "runs", scheduler=cluster.address, progress=False)
        assert set(tmp_path.iterdir()) == before


def test_what_a_worker_lacks_is_a_wrong_request(study, cluster, tmp_path):
    before = set(tmp_path.iterdir())
    with pytest.raises(RequestError, match="no Jupyter kernel named 'pyton3'"):
        sweep(
            study,
            out=tmp_path / "runs",
            scheduler=cluster.address,
            kernel="pyton3",
            progress=False,
        )
    assert set(tmp_path.iterdir()) == before
