"""JupyterLab in Chromium, driven by Playwright: for tests, benchmarks and pictures of the docs.

>>> with Lab([notebook]) as lab, open_browser() as browser:  # doctest: +SKIP
...     page = browser.notebook(lab, notebook.name)
...     page.run_all()
...     assert page.errors() == [] and browser.blocked == []
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, Route, sync_playwright

PROJECT = Path(__file__).resolve().parents[2]
_HELPERS = Path(__file__).with_name("harness.js").read_text("utf-8")
_GEOWB = [sys.executable, "-m", "geowb.cli"]
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"),
    *("--disable-component-update", "--disable-sync"),
]
_LOCAL = re.compile(r"^(?:(?:https?|wss?)://127\.0\.0\.1[:/]|data:|blob:|about:)")
#: Messages of the console that say nothing about a notebook, each with its reason.
HARMLESS = {
    "Could not restore the debugger state": "JupyterLab asks a kernel that is just restarting.",
}


def find_chromium() -> Path | None:
    """Chromium of this machine: ``GEOWB_CHROMIUM``, the system's, or Playwright's own download."""
    if named := os.environ.get("GEOWB_CHROMIUM"):
        return Path(named)
    for name in _NAMES:
        if found := shutil.which(name):
            return Path(found)
    with sync_playwright() as playwright:
        own = Path(playwright.chromium.executable_path)
    return own if own.is_file() else None


def install_chromium() -> tuple[Path | None, str]:
    """Install Chromium with apt-get; where that cannot be, None and a sentence that says why.

    >>> path, why = install_chromium()  # doctest: +SKIP
    """
    if found := find_chromium():
        return found, f"Chromium is {found}."
    if not shutil.which("apt-get"):
        return (
            None,
            "There is no apt-get; install Chromium by hand, or set GEOWB_CHROMIUM.",
        )
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return None, "Installing Chromium needs root; run: sudo apt-get install chromium"
    print("Installing Chromium with apt-get (once; about half a minute) ...", flush=True)  # noqa: T201
    for words in (["update", "-qq"], ["install", "-y", "-qq", "chromium"]):
        done = subprocess.run(
            ["apt-get", *words], capture_output=True, text=True, env=_quiet(), check=False
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            return None, f"apt-get {words[0]} failed: {last}"
    found = find_chromium()
    return found, f"Chromium is {found}." if found else "apt-get brought no Chromium."


def _quiet() -> dict[str, str]:
    return os.environ | {"DEBIAN_FRONTEND": "noninteractive"}


class Lab:
    """JupyterLab on copies of notebooks in a folder of its own, until the block ends.

    Parameters
    ----------
    notebooks
        Files, copied into the folder.
    warm
        Whether there are warm kernels; the process that forks them ends with the block.
    environment
        Further variables.
    """

    def __init__(
        self,
        notebooks: Iterable[Path] = (),
        *,
        warm: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._place = Path(tempfile.mkdtemp(prefix="geowb-")).resolve()
        self.folder, self._log = self._place / "notebooks", self._place / "log"
        self.folder.mkdir()
        self.warm, self.url, self.token = warm, "", ""
        for notebook in notebooks:
            self.add(notebook)
        # Nothing of the person's own settings, workspaces, signatures and history.
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "IPYTHON"))}
        names = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
        kept |= {name: str(self._place / name) for name in names}
        # A short path, which sockets need, of this user alone.
        kept |= {"GEOWB_WARM": "on" if warm else "off", "GEOWB_WARM_DIR": str(self._place / "w")}
        self._environment = kept | dict(environment or {})

    def add(self, notebook: Path, name: str = "", *, kernel: str = "") -> str:
        """Copy a notebook into the folder, for another kernel if one is named; its path there."""
        target = self.folder / (name or notebook.name)
        content = json.loads(notebook.read_text("utf-8"))
        if kernel:
            spec = {"name": kernel, "display_name": kernel, "language": "python"}
            content["metadata"]["kernelspec"] = spec
        target.write_text(json.dumps(content, indent=1), encoding="utf-8")
        return target.name

    def write(self, name: str, cells: Iterable[str], *, kernel: str = "python3") -> str:
        """Write a notebook of code cells into the folder; return its path there."""
        from nbformat import v4, write

        spec = {"name": kernel, "display_name": kernel, "language": "python"}
        made = [v4.new_code_cell(source) for source in cells]
        write(v4.new_notebook(cells=made, metadata={"kernelspec": spec}), self.folder / name)
        return name

    def read(self, name: str) -> dict[str, Any]:
        """Content of a notebook as it is stored."""
        return json.loads((self.folder / name).read_text("utf-8"))

    def address(self, path: str = "", workspace: str = "") -> str:
        """Address of a page, with the token: of a notebook, or of the start page."""
        tree = f"/tree/{urllib.parse.quote(path)}" if path else ""
        place = f"/workspaces/{workspace}" if workspace else ""
        return f"{self.url}lab{place}{tree}?token={self.token}"

    @property
    def log(self) -> str:
        """What JupyterLab and its kernels have printed."""
        return self._log.read_text("utf-8", "replace")

    def __enter__(self) -> Lab:
        if self.warm:
            self._starting = self._warm("start")  # it imports while JupyterLab starts
        command = [*_GEOWB, "lab", str(self.folder)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--no-browser", "--port", "0"],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=self._environment,
                cwd=self.folder,
                start_new_session=True,
            )
        pattern = re.compile(r"(http://127\.0\.0\.1:\d+/)\S*\?token=(\w+)")
        end = time.monotonic() + 90
        while not (found := pattern.search(self.log)):
            if self._process.poll() is not None or time.monotonic() > end:
                told = self.log
                self.__exit__()
                raise RuntimeError(f"JupyterLab did not start:\n{told[-3000:]}")
            time.sleep(0.1)
        self.url, self.token = found.groups()
        return self

    def _warm(self, word: str) -> subprocess.Popen[bytes]:
        nothing = subprocess.DEVNULL
        command = [*_GEOWB, "warm", word]
        return subprocess.Popen(command, env=self._environment, stdout=nothing, stderr=nothing)

    def __exit__(self, *_: object) -> None:
        self._process.terminate()  # JupyterLab ends its kernels
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self.warm:
            self._starting.terminate()
            self._starting.wait()
            self._warm("stop").wait()
        shutil.rmtree(self._place, ignore_errors=True)


class Chromium:
    """A browser to which nothing but this machine answers."""

    def __init__(self, browser: Browser, size: tuple[int, int]) -> None:
        self.browser, self.size = browser, size
        self.blocked: list[str] = []  # addresses elsewhere that pages asked for
        self.context = self.new_context()

    def new_context(self, size: tuple[int, int] | None = None) -> BrowserContext:
        """Windows of another size, without the others' cookies; close it when it is done."""
        width, height = size or self.size
        context = self.browser.new_context(viewport={"width": width, "height": height})
        context.route(lambda address: not _LOCAL.match(address), self._refuse)
        return context

    def _refuse(self, route: Route) -> None:
        self.blocked.append(route.request.url)
        route.abort()

    def notebook(
        self, lab: Lab, path: str, *, context: BrowserContext | None = None
    ) -> NotebookPage:
        """Open a notebook in a tab of its own, in a fresh workspace."""
        return NotebookPage((context or self.context).new_page(), lab, path)


class NotebookPage:
    """A notebook in JupyterLab; `page` is Playwright's own, for whatever is not here."""

    def __init__(self, page: Page, lab: Lab, path: str) -> None:
        self.page, self.lab, self.path = page, lab, path
        self.troubles: list[str] = []  # of the console, and exceptions of the page
        page.set_default_timeout(30_000)
        page.on("console", lambda told: self._note(told.text) if told.type == "error" else None)
        page.on("pageerror", lambda error: self._note(f"exception: {error}"))
        page.goto(lab.address(path, f"w{time.monotonic_ns()}"))
        self.wait_until_open()

    def _note(self, text: str) -> None:
        if not any(re.search(pattern, text) for pattern in HARMLESS):
            self.troubles.append(text[:500])

    def wait_until_open(self) -> None:
        """Wait until the notebook and its kernel are there."""
        self.page.wait_for_selector(".jp-Notebook", timeout=60_000)
        self.page.evaluate(_HELPERS)
        self.wait_idle(180)  # the first warm kernel waits for its imports
        for side in ("left", "right"):
            self.page.evaluate(f"jupyterapp.shell.collapse{side.capitalize()}()")

    def wait_idle(self, timeout: float = 60) -> None:
        """Wait until the kernel is there and has nothing to do."""
        self._until("geowbTest.idle()", timeout)

    def _until(self, condition: str, timeout: float) -> None:
        self.page.wait_for_function(condition, timeout=timeout * 1000, polling=100)

    def run_all(self, timeout: float = 300) -> float:
        """Run all cells and wait until they have ended, or one has failed; seconds it took."""
        began = time.monotonic()
        self.start_all()
        self.wait_ended(timeout)
        return time.monotonic() - began

    def start_all(self) -> None:
        """Start running all cells, without waiting; `wait_ended` waits."""
        self.page.evaluate("geowbTest.start('notebook:run-all-cells')")

    def wait_ended(self, timeout: float = 300) -> None:
        """Wait until what was started has ended."""
        self._until("geowbTest.ended", timeout)
        self.wait_idle()

    def run_cell(self, index: int, timeout: float = 120) -> str:
        """Run one cell (its number among all cells); return what it printed or shows as text."""
        self.page.evaluate(f"geowbTest.select({index})")
        self.page.evaluate("geowbTest.start('notebook:run-cell')")
        self._until("geowbTest.ended", timeout)
        self.wait_idle(timeout)
        return texts(self.cells()[index])

    def add_cell(self, source: str, timeout: float = 120) -> str:
        """Add a cell at the end and run it; return what it printed or shows as text."""
        index = self.page.evaluate("source => geowbTest.add(source)", source)
        return self.run_cell(index, timeout)

    def ask(self, code: str, timeout: float = 60) -> str:
        """Run code in the kernel, without a cell; return what it prints, or the value's repr.

        Raises
        ------
        RuntimeError
            The code failed; the message is its traceback.
        """
        self.page.evaluate("code => geowbTest.ask(code)", code)
        self._until("geowbTest.answer !== null", timeout)
        failed, text = self.page.evaluate("geowbTest.answer")
        if failed:
            raise RuntimeError(re.sub(r"\x1b\[[\d;]*m", "", text))
        return text.strip()

    def cells(self) -> list[dict[str, Any]]:
        """The cells as the page has them, outputs included (nbformat)."""
        return self.page.evaluate("geowbTest.panel().context.model.toJSON().cells")

    def errors(self) -> list[str]:
        """Whatever is wrong: errors of cells, widgets that are not shown, the console's errors."""
        found = [
            f"cell {number}: {output['ename']}: {output['evalue'][:500]}"
            for number, cell in enumerate(self.cells())
            for output in cell.get("outputs", [])
            if output["output_type"] == "error"
        ]
        told = self.page.locator(".jp-Notebook").inner_text()
        found += ["the page says 'Error displaying widget'"] * ("Error displaying widget" in told)
        found += [f"a dialog: {text}" for text in self.dialogs()]
        return found + [f"console: {text}" for text in self.troubles]

    def dialogs(self) -> list[str]:
        """Texts of dialogs that lie over the page."""
        return self.page.locator(".jp-Dialog").all_inner_texts()

    def scroll_through(self) -> None:
        """Scroll from the top to the end and back: JupyterLab draws what comes into view."""
        self.page.evaluate("geowbTest.scroll()")

    def save(self) -> None:
        """Save the notebook; raise if JupyterLab asks something instead."""
        self.page.evaluate("geowbTest.start('docmanager:save')")
        self._until("geowbTest.ended || document.querySelector('.jp-Dialog')", 30)
        if asked := self.dialogs():
            raise RuntimeError(f"JupyterLab asks instead of saving: {asked}")

    def reload(self) -> None:
        """Load the page again; the kernel stays."""
        self.page.reload()
        self.wait_until_open()

    def restart_kernel(self) -> None:
        """Restart the kernel, without a question; outputs stay on the page."""
        self.page.evaluate("geowbTest.panel().context.sessionContext.restartKernel()")
        self.wait_idle()

    def shutdown_kernel(self) -> None:
        """End the kernel and the session."""
        self.page.evaluate("geowbTest.panel().context.sessionContext.shutdown()")

    def screenshot(self, name: str, **options: Any) -> Path:
        """Store what is to be seen as ``screenshots/NAME.png`` (or in ``GEOWB_SCREENSHOTS``)."""
        folder = Path(os.environ.get("GEOWB_SCREENSHOTS") or PROJECT / "screenshots")
        folder.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=folder / f"{name}.png", **options)
        return folder / f"{name}.png"

    def close(self, *, kernel: bool = True) -> None:
        """Close the tab, and end the kernel unless it is to stay."""
        if kernel:
            self.shutdown_kernel()
        self.page.close()


def texts(cell: dict[str, Any]) -> str:
    """What a cell printed and shows as text.

    >>> texts({"outputs": [{"output_type": "stream", "text": ["a\\n", "b"]}]})
    'a\\nb'
    """
    found = []
    for output in cell.get("outputs", []):
        told = output.get("text") or output.get("data", {}).get("text/plain", "")
        found.append(told if isinstance(told, str) else "".join(told))
        if output["output_type"] == "error":
            found.append(f"{output['ename']}: {output['evalue']}")
    return "\n".join(found).strip()


@contextlib.contextmanager
def open_browser(size: tuple[int, int] = (1280, 900)) -> Iterator[Chromium]:
    """Chromium without a window, until the block ends."""
    path = find_chromium()
    if path is None:
        raise RuntimeError("There is no Chromium; install it or set GEOWB_CHROMIUM.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(path), args=_ARGUMENTS)
        try:
            yield Chromium(browser, size)
        finally:
            browser.close()


if __name__ == "__main__":  # before the tests: no Chromium is no failure, they are skipped
    print(install_chromium()[1])  # noqa: T201
