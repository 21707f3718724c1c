"""Every notebook runs in JupyterLab, in a browser to which no network answers."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest
from harness import PROJECT, Lab
from nbformat import v4

NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
START_PAGE = "00_start_here.ipynb"
#: Takes longest, so it runs beside the others, each on one core.
LONGEST = "agb_transfer"
#: What the studies compute is nbval's to check; here they need to run, in a page.
SHORTER = {
    "agb_transfer": "regions, epochs = ['cerrado'], 1",
    "masking_metrics": "defences, epochs, test_images, queries = ['none', 'pgd'], 2, 40, 50",
    "nec_tradeoff": "worlds, epochs, map_epochs = 3, 2, 1",
}
LARGEST_FILE = 2_000_000  # bytes
VIEW = "application/vnd.jupyter.widget-view+json"
PICTURES = "[...document.querySelectorAll('.jp-OutputArea-output img')]"


def is_study(path):
    return "study" in json.loads(path.read_text("utf-8"))["metadata"].get("geowb", {})


def outputs(notebook):
    return [o for cell in notebook["cells"] for o in cell.get("outputs", [])]


def with_pictures(notebook):
    """Outputs that are a picture once the kernel is gone."""
    kinds = ("image/png", "image/svg+xml")
    return [o for o in outputs(notebook) if any(kind in o.get("data", {}) for kind in kinds)]


@pytest.fixture(scope="module")
def at_start():
    """JupyterLab on a folder with the start page."""
    lab, page = Lab(), PROJECT / "notebooks" / START_PAGE
    lab.add(page) if page.is_file() else lab.write(START_PAGE, ["'welcome'"])
    with lab:
        yield lab


def status_of(address):
    try:
        with urllib.request.urlopen(address, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_jupyterlab_opens_at_the_start_page_and_asks_nothing(at_start, browser):
    asked, page = len(browser.blocked), browser.context.new_page()
    page.goto(f"{at_start.url}?token={at_start.token}")
    page.wait_for_selector(".jp-Notebook", timeout=60_000)
    assert page.evaluate("jupyterapp.shell.currentWidget.context.path") == START_PAGE
    page.wait_for_timeout(2000)  # the question would come a moment later
    told = page.locator("body").inner_text()
    assert "get notified" not in told
    assert page.locator(".jp-Dialog, .Toastify__toast").count() == 0
    assert not page.evaluate("jupyterapp.hasPlugin('@jupyterlab/apputils-extension:announcements')")
    assert browser.blocked[asked:] == []
    page.close()


def test_nobody_comes_in_without_the_token(at_start, browser):
    contents = f"{at_start.url}api/contents"
    assert status_of(contents) == status_of(f"{contents}?token=guess") == 403
    assert status_of(f"{contents}?token={at_start.token}") == 200
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{at_start.url}lab")
    assert "/login" in page.url
    context.close()


def test_the_launcher_shows_both_kernels(lab, browser):
    page = browser.context.new_page()
    page.goto(lab.address())
    page.wait_for_selector(".jp-LauncherCard", timeout=60_000)
    told = page.locator(".jp-LauncherCard-label").all_inner_texts()
    assert {"Python 3 (ipykernel)", "Python 3 (warm, geowb)"} <= {text.strip() for text in told}
    page.close()


def shorten(lab, name, values):
    """Put a cell with other values behind the parameters, as papermill does."""
    notebook = lab.read(name)
    places = [n for n, c in enumerate(notebook["cells"]) if "parameters" in tags(c)]
    if values:
        cell = v4.new_code_cell(values, metadata={"tags": ["injected-parameters"]})
        notebook["cells"].insert(places[0] + 1, cell)
        (lab.folder / name).write_text(json.dumps(notebook), encoding="utf-8")


def tags(cell):
    return cell["metadata"].get("tags", [])


@pytest.fixture(scope="module")
def start(lab, browser):
    """Open a notebook and start all its cells; the page of one that has been started."""
    pages = {}

    def opened(path):
        if path not in pages:
            kernel = "geowb-warm" if lab.warm and is_study(path) else ""
            name = lab.add(path, kernel=kernel)
            shorten(lab, name, SHORTER.get(path.stem, ""))
            pages[path] = browser.notebook(lab, name)
            pages[path].start_all()
        return pages[path]

    return opened


def in_order(path):
    return is_study(path), path.stem == LONGEST, path.stem


@pytest.mark.parametrize("path", sorted(NOTEBOOKS, key=in_order), ids=lambda path: path.stem)
def test_a_notebook_runs_in_the_browser(path, start, lab, browser):
    asked = len(browser.blocked)
    if is_study(path):
        start(PROJECT / "notebooks" / f"{LONGEST}.ipynb")
    page = start(path)
    page.page.bring_to_front()
    page.wait_ended(600)
    page.scroll_through()
    assert page.errors() == []
    assert browser.blocked[asked:] == []  # addresses of other machines
    page.save()
    stored = lab.read(path.name)
    assert "widgets" not in stored["metadata"]
    assert [output for output in outputs(stored) if VIEW in output.get("data", {})] == []
    assert (lab.folder / path.name).stat().st_size < LARGEST_FILE
    page.shutdown_kernel()
    page.reload()
    page.scroll_through()
    seen = page.page.evaluate(f"{PICTURES}.filter(one => one.naturalWidth > 0).length")
    assert seen >= len(with_pictures(stored))
    assert page.errors() == []
    page.close()
