"""Each fault that the doctor knows is simulated."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import tempfile
import threading
import time
import types
import urllib.error
import urllib.request
import webbrowser
from importlib.metadata import PackageNotFoundError

import pytest

from geowb import doctor
from geowb.doctor import Finding

NMS = """Traceback (most recent call last):
  File "<string>", line 3, in <module>
RuntimeError: operator torchvision::nms does not exist
"""


def pretend_versions(monkeypatch, **versions):
    def version(name):
        found = versions.get(name.replace("-", "_"), "999")
        if found is None:
            raise PackageNotFoundError(name)
        return found

    monkeypatch.setattr(doctor, "version", version)


def pretend_torch(monkeypatch, returncode=0, stderr="", **facts):
    facts = {"gpus": [], "mps": False, "build": None} | facts

    def run(command, **_):
        return subprocess.CompletedProcess(command, returncode, f"{json.dumps(facts)}\n", stderr)

    pretend_versions(monkeypatch, torch="2.15.0", torchvision="0.20.0")
    monkeypatch.setattr(doctor.subprocess, "run", run)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)


def test_a_pair_that_does_not_fit_together_is_a_problem(monkeypatch):
    pretend_torch(monkeypatch, 1, NMS)
    found = doctor.check_torch()
    assert found.level == "problem"
    assert "torch 2.15.0 and torchvision 0.20.0 do not fit together" in found.sentence
    assert "operator torchvision::nms does not exist" in found.sentence
    assert "pip install torch torchvision" in found.next_step


def test_a_torch_that_cannot_be_loaded_is_a_problem(monkeypatch):
    pretend_torch(monkeypatch, 1, "ImportError: libcudart.so.13: cannot open shared object file")
    found = doctor.check_torch()
    assert found.level == "problem"
    assert "libcudart.so.13" in found.sentence
    pretend_torch(monkeypatch, -11)
    assert "no message" in doctor.check_torch().sentence


def test_what_torch_sees_is_told(monkeypatch):
    pretend_torch(monkeypatch, gpus=["NVIDIA H100"], build="13.0")
    assert doctor.check_torch() == Finding("ok", "torch 2.15.0 works with NVIDIA H100.")
    pretend_torch(monkeypatch, mps=True)
    assert doctor.check_torch().level == "ok"
    pretend_torch(monkeypatch)
    absent = doctor.check_torch()
    assert (absent.level, "without a GPU" in absent.sentence) == ("note", True)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    unseen = doctor.check_torch()
    assert (unseen.level, "without CUDA" in unseen.sentence) == ("note", True)


def test_the_program_that_loads_torch_recognises_a_broken_torchvision(tmp_path, monkeypatch):
    """The program itself is run, against a torch and a torchvision that are made up."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(
        "from types import SimpleNamespace as N\n"
        "cuda = N(is_available=lambda: False, device_count=lambda: 0)\n"
        "backends = N(mps=N(is_available=lambda: False))\n"
        "version = N(cuda=None, hip=None)\n"
    )
    (tmp_path / "torchvision.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert doctor.check_torch().level == "note"
    message = "operator torchvision::nms does not exist"
    (tmp_path / "torchvision.py").write_text(f"raise RuntimeError({message!r})")
    found = doctor.check_torch()
    assert (found.level, message in found.sentence) == ("problem", True)


def test_torch_that_is_slow_or_absent_is_no_problem(monkeypatch):
    pretend_versions(monkeypatch, torch=None)
    assert doctor.check_torch() is None
    pretend_versions(monkeypatch)
    monkeypatch.setattr(doctor, "_TORCH_SECONDS", 0.01)
    assert "did not load within" in doctor.check_torch().sentence


def test_missing_packages_are_named_with_their_extra(monkeypatch):
    pretend_versions(monkeypatch, terratorch=None, leafmap=None)
    monkeypatch.setattr(
        doctor,
        "requires",
        lambda name: [
            "numpy>=2",
            'terratorch>=1.2; extra == "models"',
            'leafmap>=0.50; extra == "widgets"',
            'ruff>=0.9; extra == "dev"',
            'geowb[models]; extra == "all"',
        ],
    )
    found = doctor.check_packages()
    assert found.level == "note"
    assert found.sentence == "For models: terratorch missing. For widgets: leafmap missing."
    assert found.next_step == "Run: pip install 'geowb[models,widgets]'"
    pretend_versions(monkeypatch, numpy="1.26.4")
    found = doctor.check_packages()
    assert found.level == "problem"
    assert found.sentence == "For geowb itself: numpy 1.26.4 (>=2 is needed)."
    assert found.next_step == "Run: pip install 'geowb'"
    pretend_versions(monkeypatch)
    assert doctor.check_packages().level == "ok"


def test_geowb_that_is_not_installed_is_told(monkeypatch):
    def requires(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "requires", requires)
    assert doctor.check_packages().level == "problem"


@pytest.mark.parametrize(
    ("check", "step"), [("check_cache", "Set GEOWB_CACHE"), ("check_runs", "--out")]
)
def test_a_folder_that_cannot_be_written_to_is_a_problem(monkeypatch, tmp_path, check, step):
    monkeypatch.setenv("GEOWB_CACHE", str(tmp_path / "not" / "yet"))
    monkeypatch.chdir(tmp_path)
    assert getattr(doctor, check)().level in ("ok", "note")
    assert list(tmp_path.iterdir()) == []

    def refuse(dir):
        raise PermissionError(errno.EACCES, "Permission denied", str(dir))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    found = getattr(doctor, check)()
    assert found.level == "problem"
    assert str(tmp_path) in found.sentence
    assert "(Permission denied)" in found.sentence
    assert step in found.next_step


def test_a_cache_below_a_file_is_a_problem(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GEOWB_CACHE", str(tmp_path / "file" / "cache"))
    assert doctor.check_cache().level == "problem"


@pytest.mark.parametrize(("free", "level"), [(0.5e9, "problem"), (5e9, "note"), (50e9, "ok")])
def test_a_full_disk_is_told(monkeypatch, free, level):
    usage = types.SimpleNamespace(free=free)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
    assert doctor.check_runs().level == level


def test_no_network_is_a_note(monkeypatch):
    def refuse(request, timeout):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    found = doctor.check_network()
    assert found.level == "note"
    assert "nothing can be downloaded" in found.sentence


def test_a_server_that_refuses_is_a_network(monkeypatch):
    def refuse(request, timeout):
        raise urllib.error.HTTPError(request.full_url, 403, "Forbidden", {}, None)

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    assert doctor.check_network().level == "ok"


def test_a_network_that_hangs_is_not_waited_for(monkeypatch):
    released = threading.Event()

    def hang(request, timeout):
        released.wait(20)
        raise urllib.error.URLError("timed out")

    monkeypatch.setattr(urllib.request, "urlopen", hang)
    monkeypatch.setattr(doctor, "_NETWORK_SECONDS", 0.2)
    started = time.monotonic()
    assert doctor.check_network().level == "note"
    assert time.monotonic() - started < 3
    released.set()


def test_the_host_is_the_one_that_most_data_come_from(monkeypatch, tmp_path):
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text("https://a.org/1 https://zenodo.org/1 https://zenodo.org/2")
    monkeypatch.setattr(doctor, "default_catalog", lambda: catalog)
    assert doctor._usual_host() == "zenodo.org"
    catalog.write_text("")
    assert doctor._usual_host() == ""
    assert doctor.check_network().level == "note"


def test_a_missing_browser_is_a_note(monkeypatch):
    def none():
        raise webbrowser.Error("could not locate runnable browser")

    monkeypatch.setattr(webbrowser, "get", none)
    found = doctor.check_browser()
    assert (found.level, "--no-browser" in found.next_step) == ("note", True)
    monkeypatch.setattr(webbrowser, "get", object)
    assert doctor.check_browser().level == "ok"


def test_real_data_and_settings_are_told(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("GEOWB_")]:
        monkeypatch.delenv(name)
    absent = doctor.check_data()
    assert absent.level == "note"
    assert "No GEOWB_ variable is set. No real data" in absent.sentence
    monkeypatch.setenv("GEOWB_DATA", str(tmp_path))
    monkeypatch.setenv("GEOWB_CACHE", "/c")
    empty = doctor.check_data()
    assert f"Settings: GEOWB_CACHE=/c, GEOWB_DATA={tmp_path}. No real data" in empty.sentence
    (tmp_path / "hls_fmask").mkdir()
    for tile in ("L30.T06WVS.2024120T211159", "S30.T13RCN.2024128T173909"):
        (tmp_path / "hls_fmask" / f"HLS.{tile}.v2.0.Fmask.tif").touch()
    found = doctor.check_data()
    assert (found.level, "hls_fmask_tiles" in found.sentence) == ("ok", True)
    monkeypatch.setenv("GEOWB_DATA", str(tmp_path / "gone"))
    assert doctor.check_data().level == "problem"


def test_a_kernel_of_another_python_is_a_problem(monkeypatch, tmp_path):
    assert doctor.check_kernel().level == "ok"
    spec = {"argv": ["/opt/other/bin/python", "-m", "ipykernel_launcher"], "display_name": "x"}
    folder = tmp_path / "kernels" / "python3"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    found = doctor.check_kernel()
    assert (found.level, "/opt/other/bin/python" in found.sentence) == ("problem", True)


@pytest.mark.parametrize(("gibibytes", "level"), [(4, "note"), (16, "ok"), (None, "ok")])
def test_little_memory_is_a_note(monkeypatch, gibibytes, level):
    memory = gibibytes and gibibytes * 2**30
    monkeypatch.setattr(doctor, "memory", lambda: memory)
    found = doctor.check_machine()
    assert found.level == level
    assert f"memory: {gibibytes} GiB" in found.sentence or gibibytes is None


def test_examine_gives_all_findings(monkeypatch):
    monkeypatch.setattr(doctor, "CHECKS", (lambda: Finding("ok", "a"), lambda: None))
    assert doctor.examine() == [Finding("ok", "a")]
