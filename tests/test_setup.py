"""The files that install geowb say the same thing."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
CONDA_NAMES = {
    "torch": "pytorch",
    "lazy_loader": "lazy-loader",
    "matplotlib": "matplotlib-base",
    "dask": "dask-core",
}
PIP_ONLY = {"constriction", "playwright", "pyautoattack", "terratorch"}


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def declared():
    """Requirement -> specifier, of the core and all extras."""
    extras = {k: v for k, v in project()["optional-dependencies"].items() if k != "all"}
    lines = project()["dependencies"] + [line for extra in extras.values() for line in extra]
    return dict(re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?(.*)", line).groups() for line in lines)


def conda():
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in entries if isinstance(entry, dict))
    split = re.compile(r"([\w.-]+)(.*)")
    plain = dict(split.fullmatch(entry).groups() for entry in entries if isinstance(entry, str))
    return plain, dict(split.fullmatch(entry).groups() for entry in pip if "editable" not in entry)


def test_conda_environment_names_the_same_dependencies_as_pyproject():
    plain, pip = conda()
    want = {CONDA_NAMES.get(name, name): spec for name, spec in declared().items()}
    assert pip == {name: want.pop(name) for name in PIP_ONLY}
    assert plain == {**want, "python": project()["requires-python"], "pip": ""}


def test_each_dependency_has_its_reason():
    reasons = re.findall(r"^- `([^`]+)`: \S", (ROOT / "docs/dependencies.md").read_text(), re.M)
    assert sorted(reasons) == sorted(declared())


def test_lock_has_one_version_a_package_with_digests_and_no_host():
    text = (ROOT / "requirements.lock").read_text()
    blocks = re.findall(r"^([\w.-]+)==([^\s;]+)(.*?)(?=^\w|\Z)", text, re.M | re.S)
    names = [name for name, _, _ in blocks]
    assert len(names) == len(set(names)) > 100
    assert all("--hash=sha256:" in rest for _, _, rest in blocks)
    assert "://" not in text
    assert "--index" not in text
    assert "--find-links" not in text


def test_lock_holds_all_that_is_declared():
    text = (ROOT / "requirements.lock").read_text()
    locked = {n.lower().replace("_", "-") for n in re.findall(r"^([\w.-]+)==", text, re.M)}
    assert {name.lower().replace("_", "-") for name in declared()} <= locked


def test_core_has_no_deep_learning():
    names = {re.match(r"[\w.-]+", line).group() for line in project()["dependencies"]}
    assert not names & {"torch", "lightning", "terratorch", "torchgeo", "leafmap", "holoviews"}


def make(*arguments):
    command = [sys.executable, str(ROOT / "make.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("arguments", [["nonsense"], ["run", "test"]])
def test_make_explains_itself_when_asked_wrongly(arguments):
    done = make(*arguments)
    assert done.returncode == 2
    assert "python make.py run" in done.stdout


def test_make_knows_the_builders_and_their_digests(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    import make as tool

    for package in ("uv", *tool.BUILDERS):
        lines = tool.locked(package).splitlines()
        assert lines[0].startswith(f"{package}==")
        assert all("--hash=sha256:" in line for line in lines[1:])


def test_builders_are_complete(monkeypatch):
    """What they need themselves is among them: nothing else may be fetched for a build."""
    monkeypatch.syspath_prepend(str(ROOT))
    import make as tool

    for package in tool.BUILDERS:
        for line in importlib.metadata.requires(package) or []:
            need = Requirement(line)
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                assert need.name in tool.BUILDERS


def test_studies_are_found_without_any_package(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    import make as tool

    assert "agb_transfer" in tool.studies()
