"""JupyterLab as geowb starts it, and what it writes of notebooks with widgets."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from nbformat import v4
from typer.testing import CliRunner

import geowb
from geowb import cli
from geowb.batch.outputs import STATE, VIEW, without_views
from geowb.errors import RequestError
from geowb.lab import folder_of_notebooks, settings, start

GEOWB = [sys.executable, "-m", "geowb.cli"]


def view(model="m", kind="view", **more):
    """What a widget of geowb displays first."""
    data = {VIEW: {"version_major": 2, "version_minor": 0, "model_id": model}}
    return v4.new_output("display_data", data, metadata={"geowb": kind, **more})


def picture():
    return v4.new_output("display_data", {"image/png": "iVBO"}, metadata={"geowb": "picture"})


def foreign(model="theirs"):
    return v4.new_output("display_data", {VIEW: {"model_id": model}})


def notebook(*cells, **metadata):
    made = [
        v4.new_code_cell("x", id=f"cell-{i}", outputs=list(outputs), execution_count=i + 1)
        for i, outputs in enumerate(cells)
    ]
    return v4.new_notebook(cells=made, metadata=metadata)


def kinds(found):
    """Of each cell: what its outputs are."""
    return [
        [o["metadata"].get("geowb", "other") if "metadata" in o else "text" for o in c["outputs"]]
        for c in found["cells"]
    ]


# -- what is taken out of a notebook ----------------------------------------------------------


def test_views_are_taken_out_and_told():
    text = v4.new_output("stream", text="a\n")
    found = notebook([text, view("a"), picture(), view("b"), picture()], [], [foreign()])
    removed = without_views(found)
    assert [(one.cell, one.index, one.model) for one in removed] == [
        ("cell-0", 1, "a"),
        ("cell-0", 3, "b"),
    ]
    assert kinds(found) == [["text", "picture", "picture"], [], ["other"]]
    assert without_views(found) == []
    nbformat.validate(found)


def test_a_notebook_without_views_stays_as_it_is():
    found = notebook([picture(), foreign()], widgets={STATE: {"state": {}}})
    found.cells.append(v4.new_markdown_cell("# Title"))
    before = copy.deepcopy(found)
    assert without_views(found) == []
    assert found == before


def stored(**models):
    """State as JupyterLab stores it: name of a model -> models that it is made of."""
    parts = {m: {"children": [f"IPY_MODEL_{part}" for part in p]} for m, p in models.items()}
    state = {model: {"model_name": "M", "state": part} for model, part in parts.items()}
    return {STATE: {"version_major": 2, "state": state}}


def test_the_state_of_our_widgets_goes_with_them():
    models = stored(ours=["box"], box=["shared"], shared=[], theirs=["shared", "own"], own=[])
    found = notebook([view("ours"), picture()], [foreign("theirs")], widgets=models)
    without_views(found)
    assert set(found.metadata.widgets[STATE]["state"]) == {"shared", "theirs", "own"}


def test_no_state_is_stored_where_all_widgets_are_ours():
    found = notebook([view("ours"), picture()], widgets=stored(ours=[]))
    without_views(found)
    assert "widgets" not in found.metadata


def test_a_run_stores_the_picture_alone(tmp_path, write_study):
    show = (
        "from IPython.display import display\n"
        f"data = {{'{VIEW}': {{'model_id': 'm', 'version_major': 2, 'version_minor': 0}},\n"
        "        'text/plain': 'a widget'}\n"
        "display(data, raw=True, metadata={'geowb': 'view'})\n"
        "display({'image/png': 'iVBORw0KGgo='}, raw=True, metadata={'geowb': 'picture'})\n"
        "display(data, raw=True)"
    )
    study = write_study(tmp_path / "tiny.ipynb", cells=("## Data", show))
    run = geowb.batch.run(study, out=tmp_path / "runs", progress=False)
    outputs = nbformat.read(run.notebook, as_version=4).cells[-1].outputs
    assert [dict(output.data) for output in outputs] == [
        {"image/png": "iVBORw0KGgo="},
        {"text/plain": "a widget"},
    ]


# -- what JupyterLab writes and reads ---------------------------------------------------------


class Server:
    """What `Contents` needs of Jupyter's server; `kernel` is the running one: (id, process)."""

    def __init__(self, folder):
        from nbformat.sign import MemorySignatureStore
        from traitlets.config import Configurable

        from geowb.lab import Contents

        class Parent(Configurable):
            session_manager = self
            kernel_manager = self

        self.kernel, self.path = None, "a.ipynb"
        self.folder = folder
        self.contents = Contents(parent=Parent(), root_dir=str(folder), delete_to_trash=False)
        self.contents.notary.store = MemorySignatureStore()  # not the user's own

    async def list_sessions(self):
        one = {"path": self.path, "type": "notebook"}
        return [one | {"kernel": {"id": self.kernel[0]}}] if self.kernel else []

    def get_kernel(self, identifier):
        assert identifier == self.kernel[0]
        return SimpleNamespace(provisioner=SimpleNamespace(pid=self.kernel[1]))

    def save(self, content, path="a.ipynb"):
        content = copy.deepcopy(content)
        for cell in content["cells"]:
            cell["metadata"]["trusted"] = True
        model = {"type": "notebook", "format": "json", "content": content}
        return asyncio.run(self.contents.save(model, path))

    def get(self, path="a.ipynb", **options):
        return asyncio.run(self.contents.get(path, **options))

    def do(self, coroutine):
        return asyncio.run(coroutine)

    def kinds(self, path="a.ipynb"):
        return kinds(self.get(path)["content"])

    def file(self, path="a.ipynb"):
        return json.loads((self.folder / path).read_text("utf-8"))


@pytest.fixture
def server(tmp_path):
    made = Server(tmp_path)
    made.kernel = ("k", 100)
    return made


SHOWN = [["view", "picture"], ["text", "view", "picture", "other"]]
STORED = [["picture"], ["text", "picture", "other"]]


def two_widgets(**more):
    text = v4.new_output("stream", text="a\n")
    return notebook([view("a", **more), picture()], [text, view("b", **more), picture(), foreign()])


def test_views_are_not_written_and_come_back_while_their_kernel_lives(server):
    server.save(two_widgets())
    assert kinds(server.file()) == STORED
    assert server.kinds() == SHOWN
    assert server.get()["content"]["cells"][1]["outputs"][1]["data"][VIEW]["model_id"] == "b"
    server.save(server.get()["content"])  # as JupyterLab does each two minutes
    assert kinds(server.file()) == STORED
    assert server.kinds() == SHOWN


@pytest.mark.parametrize("kernel", [None, ("k", 101), ("other", 100)])
def test_views_stay_away_when_their_kernel_is_gone(server, kernel):
    server.save(two_widgets())
    server.kernel = kernel
    assert server.kinds() == STORED
    server.save(two_widgets())  # a page on which they are still shown
    assert server.kinds() == STORED
    server.save(notebook([view("new"), picture()]))
    assert server.kinds() == [["view", "picture"] if kernel else ["picture"]]


def test_views_that_name_another_process_are_not_taken_for_the_new_ones(server):
    server.kernel = ("k", 101)  # restarted before the notebook was saved
    server.save(two_widgets(process=100))
    assert server.kinds() == (STORED if os.name == "posix" else SHOWN)
    server.save(two_widgets(process=101))
    assert server.kinds() == (STORED if os.name == "posix" else SHOWN)  # they are the same views


def test_views_that_name_their_process_come_back(server):
    server.save(two_widgets(process=100))
    assert server.kinds() == SHOWN


def test_views_come_back_where_a_process_has_no_number(server):
    server.kernel = ("k", None)
    server.save(two_widgets(process=100))
    assert server.kinds() == SHOWN


def test_cells_that_were_changed_in_the_file_stay_as_they_are(server):
    server.save(two_widgets())
    changed = server.file()
    changed["cells"][0]["outputs"] = []
    changed["cells"][1]["source"] = "# told apart by outputs, not by text"
    (server.folder / "a.ipynb").write_text(json.dumps(changed))
    assert server.kinds() == [[], SHOWN[1]]


def test_memory_follows_a_renamed_file_and_folder(server):
    server.save(two_widgets())
    server.do(server.contents.rename("a.ipynb", "b.ipynb"))
    server.path = "b.ipynb"
    assert server.kinds("b.ipynb") == SHOWN
    (server.folder / "c").mkdir()
    server.do(server.contents.rename("b.ipynb", "c/b.ipynb"))
    server.do(server.contents.rename("c", "d"))
    server.path = "d/b.ipynb"
    assert server.kinds("d/b.ipynb") == SHOWN


def test_memory_ends_with_the_file(server):
    server.save(two_widgets())
    server.do(server.contents.delete("a.ipynb"))
    assert server.contents._notebooks == {}
    (server.folder / "a.ipynb").write_text(nbformat.writes(notebook([picture()])))
    assert server.kinds() == [["picture"]]


def test_a_copy_has_no_views(server):
    server.save(two_widgets())
    made = server.do(server.contents.copy("a.ipynb"))["path"]
    assert made != "a.ipynb"
    assert kinds(server.file(made)) == server.kinds(made) == STORED


def test_notebooks_stay_trusted(server):
    server.save(two_widgets())
    assert all(cell["metadata"]["trusted"] for cell in server.get()["content"]["cells"])
    (server.folder / "b.ipynb").write_text(nbformat.writes(notebook([foreign()])))
    assert not server.get("b.ipynb")["content"]["cells"][0]["metadata"]["trusted"]


def test_trusting_by_hand_signs_the_file_without_its_views(server):
    content = two_widgets()
    for cell in content["cells"]:
        cell["source"] = "from elsewhere"
    server.contents.notary.mark_cells(content, False)
    model = {"type": "notebook", "format": "json", "content": content}
    server.do(server.contents.save(model, "a.ipynb"))
    assert server.kinds() == SHOWN
    assert not server.get()["content"]["cells"][1]["metadata"]["trusted"]
    server.do(server.contents.trust_notebook("a.ipynb"))
    assert server.get()["content"]["cells"][1]["metadata"]["trusted"]


def test_what_jupyterlab_compares_is_the_file(server):
    saved = server.save(two_widgets())
    found = server.get(content=False, require_hash=True)
    assert saved["last_modified"] == found["last_modified"]
    assert found["hash"] == server.get(require_hash=True)["hash"]
    assert saved["content"] is None


def test_other_files_are_stored_as_ever(server):
    model = {"type": "file", "format": "text", "content": "x"}
    server.do(server.contents.save(model, "a.txt"))
    assert server.get("a.txt")["content"] == "x"
    assert [one["name"] for one in server.get("")["content"]] == ["a.txt"]


# -- how JupyterLab is started ----------------------------------------------------------------


class Started:
    """Takes the place of a process; keeps what it was started with."""

    def __init__(self, command, *, env):
        self.words = command
        self.place = Path(env["JUPYTER_CONFIG_PATH"].split(os.pathsep)[-1])
        self.files = {
            str(file.relative_to(self.place)): json.loads(file.read_text())
            for file in self.place.rglob("*.json")
        }
        Started.last = self

    def wait(self, timeout=None):
        return 0

    def poll(self):
        return 0


def lab(*words):
    return CliRunner().invoke(cli.app, ["lab", *map(str, words)])


def test_lab_is_for_this_machine_only_and_has_a_token(monkeypatch, tmp_path):
    monkeypatch.setattr(subprocess, "Popen", Started)
    assert lab(tmp_path, "--no-browser", "--port", "9999").exit_code == 0
    started = Started.last
    assert {"--ip=127.0.0.1", "--port=9999", "--no-browser"} <= set(started.words)
    assert f"--ServerApp.root_dir={tmp_path}" in started.words
    told = f"{started.words} {started.files}"
    assert not [word for word in ("token", "password", "disable_check_xsrf") if word in told]
    assert not started.place.exists()


def test_lab_asks_no_question_and_has_our_contents(monkeypatch, tmp_path):
    monkeypatch.setattr(subprocess, "Popen", Started)
    lab(tmp_path)
    assert Started.last.files == settings(tmp_path)
    assert "announcements" in str(Started.last.files["labconfig/page_config.json"])
    server = Started.last.files["jupyter_server_config.json"]["ServerApp"]
    assert server == {"contents_manager_class": "geowb.lab.contents.Contents"}
    assert Started.last.files["jupyter_lab_config.json"]["LabApp"]["expose_app_in_browser"]


def test_lab_opens_at_the_start_page_where_there_is_one(tmp_path):
    assert "default_url" not in settings(tmp_path)["jupyter_lab_config.json"]["LabApp"]
    (tmp_path / "00_start_here.ipynb").touch()
    told = settings(tmp_path)["jupyter_lab_config.json"]["LabApp"]
    assert told["default_url"] == "/lab/tree/00_start_here.ipynb"


def test_lab_is_on_our_notebooks_by_default(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", Started)
    assert lab().exit_code == 0
    assert f"--ServerApp.root_dir={geowb.paths.notebooks_dir()}" in Started.last.words


def test_a_wrong_folder_is_refused_before_anything_starts(tmp_path):
    for folder, told in ((tmp_path / "none", "is no folder"), (__file__, "is a file")):
        done = subprocess.run([*GEOWB, "lab", folder], capture_output=True, text=True)
        assert done.returncode == 2
        assert told in done.stderr


def test_lab_without_jupyterlab_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("geowb.lab.starting.find_spec", lambda name: None)
    with pytest.raises(RequestError, match="geowb\\[widgets\\]"):
        start()


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """As where geowb is installed from a wheel: its notebooks lie among the packages."""
    own = tmp_path / "site-packages" / "geowb" / "_share" / "notebooks"
    (own / "runs" / "by-hand").mkdir(parents=True)
    (own / "agb_transfer.ipynb").write_text("{}")
    monkeypatch.setattr("geowb.lab.starting.notebooks_dir", lambda: own)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return own


def test_installed_notebooks_are_copied_once(installed, tmp_path):
    told = []
    folder = folder_of_notebooks(told.append)
    assert folder == tmp_path / "work" / "geowb-notebooks"
    assert [path.name for path in folder.iterdir()] == ["agb_transfer.ipynb"]
    (folder / "agb_transfer.ipynb").write_text("edited")
    assert folder_of_notebooks(told.append) == folder
    assert (folder / "agb_transfer.ipynb").read_text() == "edited"
    assert (installed / "agb_transfer.ipynb").read_text() == "{}"
    assert [str(folder) in text for text in told] == [True, True]
    assert [path.name for path in folder.parent.iterdir()] == ["geowb-notebooks"]


def test_a_copy_that_cannot_be_made_is_told(installed, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("geowb.lab.starting.shutil.copytree", refuse)
    with pytest.raises(RequestError, match="geowb lab FOLDER"):
        folder_of_notebooks()
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_jupyterlab_ends_with_the_command_that_started_it(tmp_path):
    """A harness, a batch system, a closed terminal: nothing may be left."""
    import psutil

    log = tmp_path / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*GEOWB, "lab", str(tmp_path), "--no-browser", "--port", "0"], stderr=stream
        )
    try:
        end = time.monotonic() + 90
        while b"?token=" not in log.read_bytes() and time.monotonic() < end:
            time.sleep(0.1)
        assert b"http://127.0.0.1:" in log.read_bytes()
        below = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
    finally:
        process.kill()
        process.wait()
    assert below
    assert not [one for one in psutil.wait_procs(below, timeout=5)[1] if one.is_running()]
