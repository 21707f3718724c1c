"""JupyterLab and a browser for the tests of this folder, started once."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))

from harness import Chromium, Lab, find_chromium, open_browser  # noqa: E402

from geowb.warm import impossible  # noqa: E402


class _Running:
    """What runs between the first and the last of these tests.

    Playwright holds an event loop as long as it runs, and tests elsewhere want one of their own: so
    it does not run until the session ends, as a fixture of the session would.
    """

    def __init__(self) -> None:
        self.stack = contextlib.ExitStack()
        self.parts: dict[str, Lab | Chromium] = {}

    def __call__(self, name: str) -> Lab | Chromium:
        if name not in self.parts:
            made = _lab() if name == "lab" else open_browser()
            self.parts[name] = self.stack.enter_context(made)
        return self.parts[name]

    def close(self) -> None:
        self.parts.clear()
        self.stack.close()


def _lab() -> Lab:
    """Two notebooks run at a time, each on one core."""
    return Lab(warm=not impossible({}), environment={"OMP_NUM_THREADS": "1"})


_RUNNING = _Running()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [item for item in items if HERE in item.path.parents]
    found = find_chromium() if ours else None
    why = (
        "there is no Chromium: install it (Debian: apt-get install chromium) or set GEOWB_CHROMIUM"
    )
    for item in ours:
        item.add_marker(pytest.mark.browser)
        if found is None or not found.is_file():
            item.add_marker(pytest.mark.skip(reason=why))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    try:
        return (yield)
    finally:
        if HERE in item.path.parents and (nextitem is None or HERE not in nextitem.path.parents):
            _RUNNING.close()


@pytest.fixture(scope="module")
def lab() -> Lab:
    """JupyterLab as ``geowb lab`` starts it, on an empty folder; warm kernels where possible."""
    return _RUNNING("lab")


@pytest.fixture(scope="module")
def browser() -> Chromium:
    """Chromium to which nothing but this machine answers."""
    return _RUNNING("browser")
