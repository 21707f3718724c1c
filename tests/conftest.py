"""Fixtures that all tests share; set before anything heavy is imported."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Workers of pytest-xdist would otherwise each use every core.
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_THREADS = str(max(1, (os.cpu_count() or 1) // _WORKERS))
# A worker inherits what the process that started it has set here; what a person has set stays.
_OURS = set(os.environ.get("GEOWB_TEST_THREADS", "").split())
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    if _name in _OURS or _name not in os.environ:
        os.environ[_name] = _THREADS
        _OURS.add(_name)
os.environ["GEOWB_TEST_THREADS"] = " ".join(sorted(_OURS))
os.environ.setdefault("MPLBACKEND", "agg")
# Sweeps of small studies need no stack; tests of warm kernels have processes of their own.
os.environ.setdefault("GEOWB_WARM", "off")
# The profiler of dask's workers can stop a process for good: CPython 3.11, gh-106883.
os.environ.setdefault("DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED", "False")

# Time limits of single examples fail on a busy machine and say nothing about the code.
settings.register_profile("geowb", deadline=None)
settings.load_profile("geowb")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither use nor fill the cache of the person who runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEOWB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def geowb_data() -> Path:
    """Folder with the real test chips; the test is skipped where there is none."""
    named = os.environ.get("GEOWB_DATA")
    if not named:
        pytest.skip("GEOWB_DATA is not set: it names the folder with the real test chips")
    folder = Path(named).expanduser()
    assert folder.is_dir(), f"GEOWB_DATA is {named}, which is no folder"
    return folder


@pytest.fixture(scope="session")
def write_study() -> Callable[..., Path]:
    """Write a small study: parameters cell, code cells under headings, metadata."""

    def write(
        path: Path,
        parameters: str = 'epochs: int = 3  # passes\nrun_dir: str = ""',
        cells: tuple[str, ...] = (),
        *,
        rules: dict[str, Any] | None = None,
        profiles: dict[str, Any] | None = None,
        study: bool = True,
    ) -> Path:
        import nbformat
        from nbformat import v4

        tagged = v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
        body = [v4.new_markdown_cell("# Tiny study"), tagged]
        for cell in cells:  # "# Heading" alone is markdown
            markdown = cell.startswith("#") and "\n" not in cell
            body.append(v4.new_markdown_cell(cell) if markdown else v4.new_code_cell(cell))
        block: dict[str, Any] = {
            "profiles": {"teaching": {}} if profiles is None else profiles,
            "parameters": {"run_dir": {"role": "run_dir"}} | (rules or {}),
        }
        if study:
            block["study"] = {"title": "Tiny", "paper": "2406.19888", "summary": "A small one."}
        metadata = {"geowb": block, "kernelspec": {"name": "elsewhere", "display_name": "Else"}}
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(v4.new_notebook(cells=body, metadata=metadata), path)
        return path

    return write
