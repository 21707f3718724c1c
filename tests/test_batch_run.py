"""Runs through papermill and a kernel. Kernels are slow: a run serves several tests."""

from __future__ import annotations

import json
import os
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest

import geowb
from geowb.batch import load_run, run, run_name
from geowb.batch.folder import finish as _finish
from geowb.batch.folder import partial as _partial
from geowb.errors import DataError, RequestError, RunFailed
from geowb.machine import short_waits

PARAMETERS = """\
epochs: int = 3  # passes
lr: float = 0.1
seed: int = 4
text: str = "plain"
data: str = "world"
fail: str = ""
run_dir: str = ""
"""
CELLS = (
    "## Data",
    "from geowb.batch import RunDirectory\nrun = RunDirectory(run_dir)\nprint(run.path)",
    "import os\nprint('spins', os.environ.get('GOMP_SPINCOUNT'), 'times')\n"
    "import ipywidgets\nipywidgets.IntSlider(value=7)",
    "import ipykernel\nprint(ipykernel.get_connection_info())",
    "## Experiment",
    "import os, time\n"
    "if fail == 'raise':\n    raise ValueError('No pixel has a label: nothing to train on.')\n"
    "if fail == 'kill':\n    os.kill(os.getpid(), 9)\n"
    "if fail == 'hang':\n    time.sleep(300)",
    "## Results",
    "run.metric('loss', epochs * lr, 'Mg/ha')\n"
    "run.metric('bad', float('nan'), 'Mg/ha')\n"
    "run.figure('where.txt').write_text(str(run.path))\n"
    "import sys\n"
    "for i in range(100):\n    print(f'\\repoch {i}', end='')\n    sys.stdout.flush()\n"
    "print(f'\\n{text!r}')",
)
#: Text that papermill has to carry through a Python source unharmed, braces included.
ODD = 'it\'s "quoted" {epochs}\n\\n \u00e9\u4e2d\U0001f30d'


@pytest.fixture(scope="module", autouse=True)
def _fake_catalog():
    class Source:
        def provenance(self):
            return {"world": 1}

    catalog = types.SimpleNamespace(
        check_source=lambda value: [], open_catalog=lambda path: {"world": Source()}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "geowb.catalog", catalog)
        patch.setattr(geowb, "catalog", catalog, raising=False)
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory, write_study):
    return write_study(
        # papermill takes paths for templates: braces must not be read as such
        tmp_path_factory.mktemp("a {b} c") / "tiny.ipynb",
        PARAMETERS,
        CELLS,
        rules={"data": {"check": "source"}},
        profiles={"teaching": {"epochs": 2, "lr": 0.5}},
    )


@pytest.fixture(scope="module")
def done(study):
    return run(
        study,
        {"epochs": "4", "text": ODD},
        profile="teaching",
        out=study.parent / "runs {x}",
        progress=False,
    )


def fails(study, how, **options):
    """Run a study that fails; the run that is kept, and what the user is told."""
    out = study.parent / f"fails-{how}"
    with pytest.raises(RunFailed) as told:
        run(study, {"fail": how}, out=out, progress=False, **options)
    (path,) = out.iterdir()  # nothing else is left there
    return load_run(path), str(told.value)


@pytest.fixture(scope="module")
def raised(study):
    return fails(study, "raise")


def outputs(run):
    notebook = nbformat.read(run.notebook, as_version=4)
    nbformat.validate(notebook)
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def test_a_run_has_its_directory_and_nothing_else_is_left(done):
    assert done.status == "done"
    assert done.error is None
    assert [folder.name for folder in done.path.parent.iterdir()] == [done.path.name]
    assert sorted(file.name for file in done.path.iterdir()) == [
        "figures",
        "metrics.json",
        "notebook.ipynb",
        "run.json",
    ]
    assert done.metrics == {
        "loss": {"value": 2.0, "unit": "Mg/ha"},
        "bad": {"value": None, "unit": "Mg/ha", "note": "not a number"},
    }
    assert load_run(done.path) == done


def test_all_values_are_explicit_and_recorded(done):
    expected = {"epochs": 4, "lr": 0.5, "seed": 4, "text": ODD, "data": "world", "fail": ""}
    assert done.parameters == expected
    record = json.loads((done.path / "run.json").read_text("utf-8"))
    assert record["parameters"] == expected
    assert (record["study"], record["profile"], record["seed"]) == ("tiny", "teaching", 4)
    assert record["data"] == {"data": {"world": 1}}
    assert record["geowb"] == geowb.__version__
    assert record["packages"]["papermill"]
    assert list(record["timings"]) == ["Tiny study", "Data", "Experiment", "Results"]
    assert 0 < sum(record["timings"].values()) <= record["seconds"]
    assert record["started"] < record["finished"]
    assert len(record["notebook_sha256"]) == 64
    # one text for what was printed bit by bit, of a progress bar the last line
    assert outputs(done)[-1]["text"] == f"epoch 99\n{ODD!r}\n"


def test_the_stored_notebook_names_the_final_directory(done):
    texts = [done.notebook.read_text("utf-8"), (done.path / "figures" / "where.txt").read_text()]
    assert texts[1] == str(done.path)
    assert all("partial" not in text for text in texts)
    assert outputs(done)[0]["text"] == f"{done.path}\n"
    notebook = nbformat.read(done.notebook, as_version=4)
    assert notebook.metadata.papermill.input_path == "tiny.ipynb"
    assert notebook.metadata.papermill.parameters["run_dir"] == str(done.path)


def test_widgets_leave_text_but_no_state(done):
    notebook = nbformat.read(done.notebook, as_version=4)
    assert "widgets" not in notebook.metadata
    data = [output["data"] for output in outputs(done) if "data" in output]
    assert {"text/plain": "IntSlider(value=7)"} in data


@pytest.mark.skipif(os.name == "nt", reason="there are no unix sockets")
def test_threads_of_a_kernel_do_not_spin_while_they_wait(done):
    expected = {**os.environ, **short_waits()}.get("GOMP_SPINCOUNT")
    assert f"spins {expected} times" in (done.path / "notebook.ipynb").read_text("utf-8")
    assert short_waits({}) == {"GOMP_SPINCOUNT": "10000"}


def test_kernels_are_reached_through_private_sockets(done):
    (told,) = [o["text"] for o in outputs(done) if "transport" in o.get("text", "")]
    assert json.loads(told)["transport"] == "ipc"
    assert not Path(json.loads(told)["ip"]).parent.exists()


def test_a_second_run_of_the_same_name_stands_beside_the_first(study, done):
    kept = done.notebook.read_bytes()
    names = []
    for _ in range(3):
        partial = _partial(done.path.parent, done.path.name)
        (partial / "run.json").write_text(json.dumps({"path": str(partial)}))
        final = _finish(partial, done.path.name)
        assert json.loads((final / "run.json").read_text())["path"] == str(final)
        names.append(final.name)
        assert not partial.exists()
    assert names == [f"{done.path.name}-{n}" for n in (2, 3, 4)]
    assert done.notebook.read_bytes() == kept


def test_runs_that_end_together_get_a_name_each(tmp_path):
    partials = [_partial(tmp_path, "run") for _ in range(8)]
    for i, partial in enumerate(partials):
        (partial / "number").write_text(str(i))
    barrier = threading.Barrier(8)

    def finish(partial):
        barrier.wait()
        return _finish(partial, "run")

    with ThreadPoolExecutor(8) as pool:
        finals = list(pool.map(finish, partials))
    assert len(set(finals)) == 8
    assert [(final / "number").read_text() for final in finals] == [str(i) for i in range(8)]
    assert len(list(tmp_path.iterdir())) == 8


def test_a_failed_run_keeps_its_notebook_and_says_where(raised):
    failed, told = raised
    assert failed.status == "failed"
    assert failed.error == {
        "cell": 6,
        "heading": "Experiment",
        "type": "ValueError",
        "message": "No pixel has a label: nothing to train on.",
    }
    assert told == (
        "tiny failed under 'Experiment'. ValueError: No pixel has a label: nothing to train on. "
        f"The notebook with the error in it is kept: {failed.notebook}"
    )
    assert outputs(failed)[-1]["ename"] == "ValueError"
    assert failed.metrics == {}


def test_a_kernel_that_dies_is_a_failed_run(study):
    failed, told = fails(study, "kill")
    assert failed.error["type"] == "KernelDied"
    assert "ended by SIGKILL" in told
    assert "memory" in told
    assert outputs(failed)[-1]["ename"] == "KernelDied"
    cells = nbformat.read(failed.notebook, as_version=4).cells
    status = [cell.metadata.papermill.status for cell in cells if cell.cell_type == "code"]
    assert status == ["completed"] * 5 + ["failed", "pending"]


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["no-such-program-here"], "did not start"),
        ([sys.executable, "-c", "raise SystemExit('No licence.')"], "Its last words: No licence."),
    ],
)
def test_a_kernel_that_does_not_start_is_a_failed_run(study, tmp_path, monkeypatch, argv, told):
    folder = tmp_path / "kernels" / "broken"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "x"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    with pytest.raises(RunFailed, match="kernel 'broken' did not start") as failed:
        run(study, out=tmp_path / "runs", kernel="broken", progress=False)
    assert told in str(failed.value)
    (path,) = (tmp_path / "runs").iterdir()
    assert load_run(path).status == "failed"


def test_a_run_that_takes_too_long_is_stopped(study):
    failed, told = fails(study, "hang", timeout=6)
    assert failed.error["type"] == "Timeout"
    assert "longer than 6 s and was stopped" in told
    assert outputs(failed)[-1]["ename"] == "Timeout"


def test_a_large_notebook_is_warned_of(tmp_path, write_study, monkeypatch):
    path = write_study(tmp_path / "large.ipynb", cells=("print('x' * 20_000)",))
    monkeypatch.setattr("geowb.batch.runner._LARGEST_NOTEBOOK", 10_000)
    result = run(path, out=tmp_path / "runs", name="mine", progress=False)
    assert result.path.name == "mine"
    assert len(result.warnings) == 1
    assert "0.0 MB" in result.warnings[0]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"kernel": "pyton3"}, "no Jupyter kernel named 'pyton3'. Did you mean 'python3'"),
        ({"name": "../elsewhere"}, "cannot be the name of a run directory"),
        ({"name": ".hidden"}, "cannot be the name of a run directory"),
        ({"profile": "ful"}, "no profile 'ful'"),
        ({"parameters": {"epoch": 3}}, "Did you mean 'epochs'"),
    ],
)
def test_a_wrong_request_writes_nothing(study, tmp_path, options, told):
    with pytest.raises(RequestError, match=told):
        run(study, out=tmp_path / "runs", progress=False, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_a_wrong_request(study, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="cannot be written to"):
        run(study, out=tmp_path / "file" / "runs", progress=False)


def test_the_name_depends_on_study_and_values_only():
    name = run_name("agb", {"a": 1, "b": [0.5]}, "teaching")
    assert name == run_name("agb", {"b": [0.5], "a": 1}, "teaching")
    assert name.startswith("agb-teaching-")
    others = [run_name("agb", {"a": 1, "b": [0.25]}, "teaching"), run_name("agc", {"a": 1}, "")]
    assert name[-8:] not in [other[-8:] for other in others]
    assert run_name("a b/c", {}, "x:y").startswith("a_b_c-x_y-")


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "has no run.json"), ("{", "cannot be read"), ('{"study": "x"}', "cannot be read")],
)
def test_what_is_no_run_directory_is_named(tmp_path: Path, content, told):
    if content:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(RequestError, match=told):
        load_run(tmp_path)


def test_run_failed_is_not_a_wrong_request():
    assert (RunFailed.exit_status, RequestError.exit_status, DataError.exit_status) == (1, 2, 1)


def test_the_notebook_is_stored_as_each_code_cell_starts_and_at_the_end(tmp_path, write_study):
    """A cell that is at work finds in the file what came before; text is not stored for."""
    look = (
        "import json, pathlib\n"
        "there = json.loads((pathlib.Path(run_dir) / 'notebook.ipynb').read_text())['cells']\n"
        "print([bool(c['outputs']) for c in there if c['cell_type'] == 'code'])"
    )
    study = write_study(tmp_path / "look.ipynb", 'run_dir: str = ""', ("## Look", look, look))
    written = []
    with pytest.MonkeyPatch.context() as patch:
        from papermill import engines

        store = engines.write_ipynb
        patch.setattr(engines, "write_ipynb", lambda *a: (written.append(a), store(*a)))
        done = run(study, out=tmp_path / "runs")
    cells = [c for c in nbformat.read(done.notebook, 4).cells if c.cell_type == "code"]
    told = [json.loads(c.outputs[0].text.lower()) for c in cells if c.outputs]
    assert [sum(one) for one in told] == [0, 1]
    assert len(written) == len(cells) + 2  # and as the run starts, and at its end
