"""What a person types and what they are told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import geowb
from geowb import cli
from geowb.doctor import Finding
from geowb.errors import CatalogError, DownloadError

GEOWB = [sys.executable, "-m", "geowb.cli"]
CELLS = (
    "## Experiment",
    "import os, time\nfrom geowb.batch import RunDirectory\nrun = RunDirectory(run_dir)",
    "if epochs == 13:\n    raise ValueError('Unlucky.')\n"
    "if epochs == 99:\n    open(run.path / f'kernel-{os.getpid()}', 'w').close(); time.sleep(300)",
    "run.metric('loss', epochs / 7, 'Mg/ha')",
)


@pytest.fixture(scope="module")
def study(tmp_path_factory, write_study):
    return write_study(
        tmp_path_factory.mktemp("study") / "tiny.ipynb",
        'epochs: int = 3  # passes\nencoder: str = "unet"\nrun_dir: str = ""',
        CELLS,
        rules={"epochs": {"min": 1}, "encoder": {"choices": ["unet", "swin_demo"]}},
        profiles={"teaching": {"epochs": 2}, "full": {}},
    )


def geowb_command(*words, cwd=None):
    return subprocess.run([*GEOWB, *map(str, words)], capture_output=True, text=True, cwd=cwd)


def call(*words):
    """The command in this process; GeowbError comes through as in `main`."""
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def test_a_run_prints_its_directory_last_and_progress_on_stderr(study, tmp_path):
    done = geowb_command("run", study, "-p", "epochs=7", "--profile", "teaching", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout)
    assert done.stdout == f"{tmp_path / 'runs' / folder.name.strip()}\n"
    assert geowb.batch.load_run(done.stdout.strip()).parameters["epochs"] == 7
    assert "tiny: Experiment (cell 3 of 5" in done.stderr
    assert done.stderr.splitlines()[-1].split() == ["loss", "1", "Mg/ha"]
    assert "TCP" not in done.stderr


def test_a_failed_run_is_status_1_and_keeps_its_notebook(study, tmp_path):
    done = geowb_command("run", study, "-p", "epochs=13", "--out", tmp_path / "runs")
    assert done.returncode == 1
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert "tiny failed under 'Experiment'. ValueError: Unlucky." in last
    assert Path(last.split(": ")[-1]).is_file()
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run", "agb_transfr"], "Did you mean 'agb_transfer'?"),
        (["run", "nothing.ipynb"], "There is no notebook at nothing.ipynb."),
        (["run", "STUDY", "-p", "epochz=9"], "Did you mean 'epochs'?"),
        (["run", "STUDY", "-p", "epochs=ten"], "epochs='ten' is not a whole number (int)."),
        (["run", "STUDY", "-p", "epochs=0"], "below the smallest value allowed, 1."),
        (["run", "STUDY", "-p", "encoder=swin"], "Did you mean 'swin_demo'?"),
        (["run", "STUDY", "-p", "epochs"], "'-p epochs' is not NAME=VALUE"),
        (["run", "STUDY", "-p", "epochs=1", "-p", "epochs=2"], "'epochs' is given twice"),
        (["run", "STUDY", "-p", "run_dir=x"], "choose a folder with --out"),
        (["run", "STUDY", "--profile", "ful"], "Did you mean 'full'?"),
        (["run", "STUDY", "--kernel", "pyton3"], "Did you mean 'python3'?"),
        (["run", "STUDY", "--epochs", "3"], "No such option: --epochs"),
        (["run"], "What to run is missing: the name of a study, or --like RUNDIR."),
        (["run", "--like", "nowhere"], "is not a run directory"),
        (["run", "STUDY", "--like", "nowhere"], "leave out those given here"),
        (["sweep"], "Missing argument"),
        (["sweep", "STUDY", "-p", "epochs=4..1"], "epochs='4..1'"),
        (["sweep", "STUDY", "-p", "epochs=1..x"], "'1..x'"),
        (["sweep", "STUDY", "-p", "epochz=1,2", "-p", "encoder=a"], "for 2 reasons"),
        (["sweep", "STUDY", "--repeat", "3"], "seed"),
        (["sweep", "STUDY", "--settings", "nowhere.csv"], "nowhere.csv"),
        (["sweep", "STUDY", "--workers", "0"], "--workers 0 is not possible"),
        (["sweep", "STUDY", "--scheduler", "nonsense"], "No dask scheduler answers at 'nonsense'"),
        (["sweep", "STUDY", "--kernel", "pyton3"], "Did you mean 'python3'?"),
        (["report", "nowhere"], "nowhere"),
        (["publish"], "Missing argument"),
        (["publish", "nowhere", "out"], "There is no model 'nowhere'"),
        (["rum"], "No such command 'rum'."),
    ],
)
def test_a_wrong_request_is_status_2_and_writes_nothing(study, tmp_path, words, told, capfd):
    words = [str(study) if word == "STUDY" else word for word in words]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setattr(sys, "argv", ["geowb", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    shown = capfd.readouterr()
    assert ended.value.code == 2
    assert told in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""
    assert list(tmp_path.iterdir()) == []


def test_errors_in_a_settings_file_name_row_and_column(study, tmp_path):
    file = tmp_path / "settings.csv"
    file.write_text("epochs,encodr\n3,unet\nten,unet\n")
    done = geowb_command("sweep", study, "--settings", file, "--out", tmp_path / "runs")
    assert (done.returncode, done.stdout) == (2, "")
    assert "settings.csv, row 1, column 2: there is no parameter 'encodr'" in done.stderr
    assert "Did you mean 'encoder'?" in done.stderr
    assert "settings.csv, row 3, column 'epochs': " in done.stderr
    assert list(tmp_path.iterdir()) == [file]


def test_a_sweep_prints_its_folder_and_a_report_its_page(study, tmp_path):
    done = geowb_command("sweep", study, "-p", "epochs=7,14", "--out", "mine", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'mine'}\n"
    assert done.stderr.splitlines()[0] == "tiny: 2 runs, 2 at a time"
    assert done.stderr.splitlines()[-1] == "2 of 2 runs are done."
    page = geowb_command("report", "mine", cwd=tmp_path)
    assert page.returncode == 0, page.stderr
    assert page.stdout == f"{tmp_path / 'mine' / 'report.html'}\n"
    again = geowb_command("run", "--like", next((tmp_path / "mine").glob("*=7-*")), cwd=tmp_path)
    assert geowb.batch.load_run(again.stdout.strip()).metrics["loss"]["value"] == 1


def test_a_wrong_request_is_one_paragraph_in_a_process_of_its_own(study, tmp_path):
    done = geowb_command("run", study, "-p", "epochz=9", "-p", "epochs=ten", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "tiny was not started, for 2 reasons. "
        "(1) There is no parameter 'epochz'. Did you mean 'epochs'? "
        "(2) epochs='ten' is not a whole number (int).\n"
    )
    assert list(tmp_path.iterdir()) == []
    debug = geowb_command("run", study, "-p", "epochz=9", "--debug", cwd=tmp_path)
    assert "Traceback" in debug.stderr


@pytest.mark.skipif(os.name == "nt", reason="signals are sent as on POSIX systems")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_leaves_neither_files_nor_a_kernel(study, tmp_path, number, status):
    command = [*GEOWB, "run", str(study), "-p", "epochs=99", "--out", str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        kernel = _wait_for_kernel(tmp_path)
        process.send_signal(number)
        _, told = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == status
    assert "Traceback" not in told
    assert list(tmp_path.iterdir()) == []
    deadline = time.monotonic() + 10
    while _lives(kernel) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _lives(kernel)


def _wait_for_kernel(folder, seconds=60):
    """Process of the kernel, which leaves its number as the name of a file."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for file in folder.glob(".*/kernel-*"):
            return int(file.name.removeprefix("kernel-"))
        time.sleep(0.05)
    raise AssertionError("the kernel did not come up")


def _lives(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def main(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["geowb", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (CatalogError("Entry 'x' is wrong."), 2, "Entry 'x' is wrong.\n"),
        (DownloadError("There is no network."), 1, "There is no network.\n"),
        (KeyError("x"), 1, "This is a defect in geowb: KeyError: 'x' Please report it"),
    ],
)
def test_an_error_has_its_classes_status(monkeypatch, capsys, error, status, told):
    def broken(path):
        raise error

    monkeypatch.setattr(geowb, "open_catalog", broken, raising=False)
    assert main(monkeypatch, "catalog", "list") == status
    assert capsys.readouterr().err.startswith(told)
    assert main(monkeypatch, "catalog", "list", "--debug") == status
    debugged = capsys.readouterr().err
    assert debugged.startswith("Traceback")
    assert told in debugged


def test_long_errors_are_wrapped_to_the_terminal(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((40, 20)))
    assert main(monkeypatch, "run", "a_study_that_is_not_there_at_all.ipynb") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 1
    assert all(len(line) <= 40 for line in lines)


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["studies", "STUDY"]])
def test_a_reader_that_has_gone_is_told_nothing(study, words):
    words = [str(study) if word == "STUDY" else word for word in words]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*GEOWB, *words], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.returncode == 1
    assert done.stderr == ""


def test_studies_shows_the_parameters_of_one(study):
    for words in (["studies", study], ["run", study, "--help-parameters"]):
        shown = call(*words)
        assert shown.exit_code == 0
        rows = [line.split() for line in shown.stdout.splitlines()]
        assert ["epochs", "int", "3", "passes", "(min", "1)"] in rows
        assert ["encoder", "str", "unet", "(unet", "|", "swin_demo)"] in rows
        assert ["teaching", "epochs=2"] in rows
        assert "run_dir" not in shown.stdout


def test_studies_lists_what_there_is(study, monkeypatch):
    monkeypatch.setattr("geowb.paths.notebooks_dir", lambda: study.parent)
    assert "tiny" in call("studies").stdout
    monkeypatch.setattr("geowb.paths.notebooks_dir", lambda: study.parent / "nothing")
    assert "no studies" in call("studies").stderr


class FakeCatalog(dict):
    def __init__(self, problems=()):
        super().__init__(world=self)
        self._problems = problems

    def table(self):
        columns = ("name", "category", "licence", "status", "description")
        rows = [("world", "simulated", "Apache-2.0", "embedded", "A world")]
        rows += [("[b]x[/b]", "floods", "unknown", "missing", "Long " * 50)]
        return [dict(zip(columns, row, strict=True)) for row in rows]

    def describe(self):
        return "A simulated world."

    def check(self):
        return list(self._problems)

    def get(self, *, progress):
        return Path("/data/world")


def test_the_catalog_commands(monkeypatch):
    opened = []
    catalog = FakeCatalog()
    monkeypatch.setattr(
        geowb, "open_catalog", lambda path: opened.append(path) or catalog, raising=False
    )
    rows = [line.split() for line in call("catalog", "list").stdout.splitlines()]
    assert rows[0] == ["name", "category", "status", "description"]
    assert rows[1] == ["world", "simulated", "embedded", "A", "world"]
    assert rows[2] == ["[b]x[/b]", "floods", "missing", *["Long"] * 50]
    assert call("catalog", "show", "world").stdout == "A simulated world.\n"
    assert call("catalog", "get", "world", "--catalog", "my.yaml").stdout == "/data/world\n"
    assert opened == [None, None, "my.yaml"]
    assert call("catalog", "check").exit_code == 0
    catalog._problems = ["Entry 'x': its file is broken."]
    checked = call("catalog", "check")
    assert (checked.exit_code, checked.stderr) == (1, "Entry 'x': its file is broken.\n")


@pytest.mark.parametrize(("level", "status"), [("ok", 0), ("note", 0), ("problem", 1)])
def test_doctor_fails_for_problems_only(monkeypatch, level, status):
    monkeypatch.setattr("geowb.doctor.examine", lambda: [Finding(level, "It is so.", "Do this.")])
    shown = call("doctor")
    assert shown.exit_code == status
    assert shown.stdout.startswith(f"{level:<8} It is so. Do this.\n")


@pytest.mark.parametrize(
    "command",
    [["studies"], ["run"], ["sweep"], ["report"], ["doctor"], ["lab"], ["publish"]]
    + [["catalog", name] for name in ("list", "show", "check", "get")]
    + [["warm", name] for name in ("start", "status", "stop")],
)
def test_each_command_shows_an_example(command):
    shown = call(*command, "--help")
    assert shown.exit_code == 0
    assert f"Example: geowb {' '.join(command)}" in shown.stdout


def test_help_lists_the_commands_in_order():
    lines = call("--help").stdout.split("Commands:\n")[1].splitlines()
    names = [line.split()[0] for line in lines]
    first = ["studies", "run", "sweep", "report", "doctor", "lab", "catalog"]
    assert names[: len(first)] == first
    assert "publish" in names[len(first) :]


def test_version():
    assert call("--version").stdout == f"geowb {geowb.__version__}\n"
