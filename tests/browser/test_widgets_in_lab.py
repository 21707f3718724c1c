"""Widgets moved by mouse and keys in JupyterLab: the page changes, and so does Python."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from harness import PROJECT
from widgetpages import CONTRAST, FOCUS, INKED, keep, labelled, opened, panel, serial, until

RECORDS = PROJECT / "docs" / "records" / "nec_tradeoff"
SIZES = {1280: 900, 1920: 1080}


@pytest.fixture(scope="module")
def scene_page(lab, browser):
    page = opened(
        lab,
        browser,
        "scene",
        "explorer = SceneExplorer(catalog['world'].open(region='cerrado'))\nexplorer",
        "plain = LivePlot(title='Nothing yet')\nplain",
    )
    yield page
    assert page.errors() == []
    assert browser.blocked == []
    page.close()


@pytest.fixture
def explorer(scene_page):
    scene_page.ask(
        "explorer.box = explorer.pixel = None\n"
        "explorer.view, explorer.date, explorer.overlay = explorer._frames.whole, 0, 'none'\n"
        "explorer.clouds, explorer.show = False, 'natural colour'\nexplorer.wait()"
    )
    return panel(scene_page, "Scene explorer")


def test_the_date_moves_by_keys_and_by_mouse(scene_page, explorer):
    handle = labelled(explorer, "Date")
    before = serial(scene_page, explorer)
    handle.focus()
    scene_page.page.keyboard.press("ArrowRight")
    until(scene_page, "explorer.date", "1")
    scene_page.page.wait_for_function(
        f"+document.querySelector('.geowb-stage').dataset.serial > {before}"
    )
    assert "2022-06-18" in explorer.locator("figcaption").first.inner_text()
    bar = explorer.locator(".noUi-target").first.bounding_box()
    scene_page.page.mouse.click(bar["x"] + bar["width"] - 1, bar["y"] + bar["height"] / 2)
    until(scene_page, "explorer.date", "2")
    scene_page.page.get_by_text("2022-08-12: natural colour").wait_for()


def test_ten_fast_moves_end_at_the_last_one(scene_page, explorer):
    scene_page.ask(
        "drawn = []\noriginal = type(explorer)._redraw\n"
        "def slow(self, turn):\n"
        "    import time\n    time.sleep(0.25)\n    turn.check()\n    drawn.append(self.date)\n"
        "    original(self, turn)\n"
        "type(explorer)._redraw = slow"
    )
    labelled(explorer, "Date").focus()
    for number in range(10):
        scene_page.page.keyboard.press("ArrowLeft" if number % 2 else "ArrowRight")
    scene_page.page.keyboard.press("End")
    until(scene_page, "explorer.date", "2")
    scene_page.page.get_by_text("2022-08-12: natural colour").wait_for()
    scene_page.page.wait_for_timeout(600)
    assert scene_page.ask("drawn[-1], len(drawn) < 6, explorer._work.busy") == "(2, True, False)"
    scene_page.ask("type(explorer)._redraw = original")


def test_what_is_shown_is_chosen(scene_page, explorer):
    labelled(explorer, "Show").select_option("NDVI (vegetation)")
    until(scene_page, "explorer.show", "'NDVI (vegetation)'")
    explorer.get_by_text("NDVI (vegetation) = ").wait_for()
    assert explorer.locator(".geowb-bar").count() == 1
    labelled(explorer, "Label").select_option("landcover")
    until(scene_page, "explorer.overlay", "'landcover'")
    explorer.locator(".geowb-legend").get_by_text("pasture").wait_for()
    box = explorer.get_by_role("checkbox").first
    box.focus()
    scene_page.page.keyboard.press("Space")
    until(scene_page, "explorer.clouds", "True")
    explorer.locator(".geowb-legend").get_by_text("shadow").wait_for()
    scene_page.screenshot("scene_explorer_label")


def test_a_pixel_is_chosen_by_mouse_and_by_keys(scene_page, explorer):
    stage = explorer.locator(".geowb-stage")
    size = stage.bounding_box()
    stage.click(position={"x": size["width"] * 0.25, "y": size["height"] * 0.5})
    until(scene_page, "explorer.pixel is not None and explorer.series is not None", "True")
    row, column = eval(scene_page.ask("explorer.pixel"))
    assert abs(row - 256) <= 2
    assert abs(column - 128) <= 2
    explorer.locator(".geowb-plot canvas").first.wait_for()
    assert "reflectance" in explorer.locator(".geowb-plot").get_attribute("aria-label")
    stage.focus()
    for key in ("ArrowRight", "Shift+ArrowDown", "Enter"):
        scene_page.page.keyboard.press(key)
    until(scene_page, "explorer.pixel", f"({row + 10}, {column + 1})")
    explorer.get_by_text(f"row {row + 10}, column {column + 1}").first.wait_for()
    scene_page.page.keyboard.press("Escape")
    until(scene_page, "explorer.pixel is None", "True")


def test_a_box_is_drawn_by_mouse_and_by_keys(scene_page, explorer):
    explorer.get_by_role("button", name="Box", exact=True).click()
    stage = explorer.locator(".geowb-stage[data-tool=box]")
    place = stage.bounding_box()
    mouse = scene_page.page.mouse
    mouse.move(place["x"] + 52, place["y"] + 104)
    mouse.down()
    mouse.move(place["x"] + 104, place["y"] + 130, steps=4)
    mouse.up()
    until(scene_page, "explorer.box is not None", "True")
    sizes = eval(scene_page.ask("dict(explorer.selection.sizes)"))
    assert abs(sizes["x"] - 52) <= 2
    assert abs(sizes["y"] - 26) <= 2
    stage.focus()
    for key in ("Escape", "Enter", "Shift+ArrowRight", "Shift+ArrowUp", "Enter"):
        scene_page.page.keyboard.press(key)
    until(scene_page, "explorer.box and explorer.box.shape", "(11, 11)")
    explorer.get_by_role("button", name="Pixel", exact=True).click()


def test_the_view_is_zoomed_and_moved(scene_page, explorer):
    stage = explorer.locator(".geowb-stage")
    stage.focus()
    for _ in range(2):
        scene_page.page.keyboard.press("+")
    until(scene_page, "explorer.view.shape", "(128, 128)")
    before = eval(scene_page.ask("explorer.view.left"))
    explorer.get_by_role("button", name="Move", exact=True).click()
    explorer.locator(".geowb-stage[data-tool=move]").wait_for()
    stage.focus()
    scene_page.page.keyboard.press("ArrowLeft")
    until(scene_page, f"explorer.view.left < {before}", "True")
    scene_page.page.keyboard.press("0")
    until(scene_page, "explorer.view.shape", "(512, 512)")
    explorer.get_by_role("button", name="Pixel", exact=True).click()


def test_what_an_observer_raises_is_shown_and_the_widget_goes_on(scene_page, explorer):
    scene_page.ask(
        "def wrong(change):\n    raise ValueError('this observer is broken')\n"
        "explorer.observe(wrong, 'date')"
    )
    labelled(explorer, "Date").focus()
    scene_page.page.keyboard.press("ArrowRight")
    explorer.get_by_text("this observer is broken").first.wait_for()
    assert scene_page.ask("explorer.state, type(explorer.error).__name__") == (
        "('error', 'ValueError')"
    )
    explorer.get_by_text("Details of the error").click()
    assert "Traceback" in explorer.locator("pre").inner_text()
    scene_page.screenshot("scene_explorer_error")
    scene_page.ask("explorer.unobserve(wrong, 'date')")
    labelled(explorer, "Date").focus()
    scene_page.page.keyboard.press("ArrowRight")
    until(scene_page, "explorer.state", "'result'")


def test_the_notebook_keeps_the_last_picture(scene_page, explorer, lab):
    from PIL import Image

    def stored():
        scene_page.save()
        outputs = lab.read("scene.ipynb")["cells"][1]["outputs"]
        assert [one["metadata"]["geowb"] for one in outputs] == ["picture"]
        data = "".join(outputs[0]["data"]["image/png"])
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))

    scene_page.page.wait_for_timeout(2000)
    first = stored()
    labelled(explorer, "Show").select_option("NIR_NARROW")
    until(scene_page, "explorer.show", "'NIR_NARROW'")
    scene_page.page.wait_for_timeout(3000)  # quiet for a moment, then drawn
    second = stored()
    colours = [float(np.ptp(one.astype(int), axis=-1).mean()) for one in (first, second)]
    assert colours[0] > 15 > 3 > colours[1]  # a grey picture, where there was a coloured one


def test_the_explorer_comes_back_when_the_page_is_loaded_again(scene_page, explorer):
    scene_page.ask("explorer.date, explorer.pixel = 1, (40, 50)\nexplorer.wait()")
    scene_page.save()
    scene_page.reload()
    again = panel(scene_page, "Scene explorer")
    again.get_by_text("2022-06-18: natural colour").wait_for()
    again.get_by_text("row 40, column 50").first.wait_for()
    again.locator(".geowb-plot canvas").first.wait_for()
    assert scene_page.page.locator(".jp-RenderedImage:visible").count() == 0  # the stored picture
    labelled(again, "Date").focus()
    scene_page.page.keyboard.press("ArrowRight")
    until(scene_page, "explorer.date", "2")
    again.get_by_text("2022-08-12: natural colour").wait_for()


def test_the_scene_is_shown_on_a_map(scene_page, explorer):
    explorer.get_by_role("button", name="Map", exact=True).click()
    explorer.locator(".leaflet-container").wait_for(timeout=60_000)
    until(scene_page, "explorer.state", "'result'")
    tiles = "document.querySelectorAll('.leaflet-tile{}').length"
    loaded = f"{tiles.format('')} > 0 && {tiles.format('')} === {tiles.format('-loaded')}"
    scene_page.page.wait_for_function(loaded, timeout=30_000)
    explorer.locator(".leaflet-container").scroll_into_view_if_needed()
    scene_page.page.wait_for_timeout(500)  # tiles fade in
    scene_page.screenshot("scene_explorer_map")
    scene_page.ask("explorer._map.children = ()")


def test_a_plot_is_drawn_without_a_network(scene_page):
    empty = panel(scene_page, "Nothing yet")
    empty.get_by_text("No plot yet").wait_for()
    scene_page.ask(
        "hv = geowb.plots.holoviews(live=True)\n"
        "plain.element = hv.Curve([(0, 0), (1, 4), (2, 1)], 'step', 'loss').opts("
        "backend='bokeh', color='#d55e00', line_width=6, width=420)\nplain.wait()"
    )
    empty.locator(".geowb-plot canvas").first.wait_for()
    scene_page.page.wait_for_timeout(500)
    inked = empty.locator(".geowb-plot").evaluate(INKED)
    assert inked > 300
    assert empty.locator(".geowb-plot").get_attribute("role") == "img"


# --- the catalog ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def catalog_page(lab, browser):
    (lab.folder / "empty.yaml").write_text("meta: {name: mine}\n", encoding="utf-8")
    page = opened(
        lab, browser, "catalog", "found = CatalogBrowser()\nfound", "CatalogBrowser('empty.yaml')"
    )
    yield page
    assert page.errors() == []
    assert browser.blocked == []
    page.close()


def test_the_catalog_is_searched_and_an_entry_opened(catalog_page):
    keyboard = catalog_page.page.keyboard
    shown = panel(catalog_page, "Catalog")
    labelled(shown, "Search").click()
    keyboard.type("flood")
    until(catalog_page, "found.names", "['world_floods', 'sen1floods11', 'sen1floods11_chip']")
    shown.locator("tbody tr").nth(2).wait_for()
    assert shown.locator("tbody tr").count() == 3
    shown.locator("tr[data-key=sen1floods11]").click()
    until(catalog_page, "found.selected", "'sen1floods11'")
    shown.get_by_text("names no download").first.wait_for()
    keyboard.press("ArrowUp")
    until(catalog_page, "found.selected", "'world_floods'")
    shown.get_by_text("Preview: natural colour").wait_for()
    shown.locator("select").last.select_option("cerrado")
    until(catalog_page, "found.choices", "{'region': 'cerrado'}")
    catalog_page.screenshot("catalog_browser")
    button = shown.get_by_role("button", name="Open as scene")
    button.focus()
    keyboard.press("Enter")
    until(catalog_page, "found.scene is not None and found.scene.attrs['region']", "'cerrado'")
    shown.get_by_text("world_floods is open").wait_for()


def test_the_catalog_is_sorted_by_its_heads(catalog_page):
    shown = panel(catalog_page, "Catalog")
    catalog_page.ask("found.search = ''")
    shown.get_by_role("columnheader", name="category").get_by_role("button").click()
    first = shown.locator("tbody tr td:nth-child(2)").all_inner_texts()
    assert first == sorted(first, key=str.lower)
    header = shown.get_by_role("columnheader", name="category")
    assert header.get_attribute("aria-sort") == "ascending"


def test_an_empty_catalog_says_so(catalog_page):
    told = catalog_page.page.get_by_text("empty.yaml has no entries")
    told.wait_for()
    assert catalog_page.page.get_by_text("No data set is like that").count() == 1


# --- runs -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs_page(lab, browser):
    page = opened(lab, browser, "seen", f"runs = RunsExplorer({str(RECORDS)!r})\nruns")
    yield page
    assert page.errors() == []
    assert browser.blocked == []
    page.close()


def test_runs_are_looked_through(runs_page):
    shown = panel(runs_page, "Runs")
    rows = shown.locator("tbody tr")
    rows.nth(2).wait_for()
    rows.nth(0).focus()
    runs_page.page.keyboard.press("Enter")
    until(runs_page, "len(runs.selected)", "1")
    rows.nth(1).click()
    until(runs_page, "len(runs.selected)", "2")
    shown.get_by_role("button", name="Compare", exact=True).click()
    shown.get_by_text("difference").wait_for()
    assert "accuracy/full/all" in shown.inner_text()
    runs_page.screenshot("runs_explorer_compare")
    shown.get_by_role("button", name="Claims", exact=True).click()
    shown.get_by_text("✓ holds").first.wait_for()
    shown.locator("tbody tr:visible").first.click()
    shown.locator("h4").wait_for()
    shown.get_by_role("button", name="Parallel coordinates").click()
    until(runs_page, "runs.view, runs.state", "('parallel', 'result')", 40)
    shown.locator(".geowb-plot canvas").first.wait_for()
    runs_page.page.wait_for_timeout(600)
    keep(shown, runs_page.screenshot("runs_explorer_parallel"))


def test_runs_are_chosen_in_a_plot(runs_page):
    runs_page.ask("runs.selected, runs.view = [], 'scatter'\nruns.x = 'seed'\nruns.wait()")
    shown = panel(runs_page, "Runs")
    shown.locator(".geowb-plot canvas").first.wait_for()
    runs_page.page.wait_for_timeout(800)
    runs_page.screenshot("runs_explorer_scatter")
    frame = shown.locator(".geowb-plot").bounding_box()
    # The middle seed is half-way across; it has the smallest value, so it is low down.
    for down in range(360, 5, -5):
        runs_page.page.mouse.click(frame["x"] + 424, frame["y"] + down)
        if runs_page.ask("len(runs.selected)") == "1":
            break
    chosen = "runs.frame.set_index('path').loc[runs.selected, 'seed'].tolist()"
    assert runs_page.ask(chosen) == "[1]"


# --- studies --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study_page(lab, browser, write_study):
    cells = (
        "# Data",
        "import time\nfor _ in range(40):\n    time.sleep(0.05 * (epochs < 9))",
        "# Results",
        "if epochs == 7:\n    raise ValueError('seven is not lucky')",
        "from geowb.batch import RunDirectory\n"
        'RunDirectory(run_dir).metric("rmse", 10.0 / epochs, "Mg/ha")',
    )
    rules = {"epochs": {"min": 1}, "model": {"choices": ["unet", "swin"]}}
    parameters = (
        'epochs: int = 3  # passes over the data\nmodel: str = "unet"  # which network\n'
        'seed: int = 0  # of everything\nrun_dir: str = ""'
    )
    write_study(lab.folder / "tiny.ipynb", parameters, cells, rules=rules)
    page = opened(lab, browser, "study", "runner = StudyRunner('tiny.ipynb')\nrunner")
    yield page
    assert page.errors() == []
    assert browser.blocked == []
    page.close()


def field(shown, name):
    row = shown.locator(".geowb-field").filter(has_text=name).first
    return row, row.locator("input, select").first


def test_a_study_is_run_from_its_form(study_page, lab):
    shown = panel(study_page, "Run a study")
    row, epochs = field(shown, "epochs")
    epochs.fill("0")
    epochs.press("Tab")
    row.get_by_text("below the smallest value").wait_for()
    button = shown.get_by_role("button", name="Run", exact=True)
    assert button.is_disabled()
    epochs.fill("5")
    epochs.press("Tab")
    until(study_page, "runner.parameters", "{'epochs': 5}")
    field(shown, "model")[1].select_option("swin")
    until(study_page, "runner.parameters", "{'epochs': 5, 'model': 'swin'}")
    assert button.is_enabled()
    button.focus()
    study_page.page.keyboard.press("Enter")
    shown.locator(".geowb-head progress").wait_for()
    assert study_page.ask("6 * 7") == "42"  # the kernel is free meanwhile
    until(study_page, "runner.state", "'result'", 90)
    record = eval(study_page.ask("runner.frame[['epochs', 'model', 'rmse']].values.tolist()"))
    assert record == [[5, "swin", 2.0]]
    study_page.screenshot("study_runner")
    shown.locator("tbody a").first.click()
    study_page.page.wait_for_function(
        "jupyterapp.shell.currentWidget.context?.path.endsWith('notebook.ipynb')"
    )
    study_page.page.evaluate("jupyterapp.shell.currentWidget.dispose()")
    study_page.page.wait_for_function("document.querySelectorAll('.jp-Notebook').length === 1")


def test_a_sweep_is_stopped_and_resumed(study_page):
    shown = panel(study_page, "Run a study")
    study_page.ask("runner.parameters = {}\nrunner.vary = {'epochs': '1,2,4'}")
    shown.get_by_text("3 runs: epochs").wait_for()
    shown.get_by_role("button", name="Run", exact=True).click()
    shown.get_by_text("running").first.wait_for(timeout=60_000)
    keep(shown, study_page.screenshot("study_runner_progress"))
    shown.get_by_role("button", name="Stop", exact=True).click()
    shown.get_by_text("Stopped").wait_for()
    until(study_page, "runner._work.busy", "False", 30)
    assert int(study_page.ask("len(runner.frame)")) < 4
    shown.get_by_role("button", name="Run", exact=True).click()
    until(study_page, "runner.state, len(runner.frame)", "('result', 4)", 120)


def test_a_study_that_fails_says_where(study_page):
    shown = panel(study_page, "Run a study")
    study_page.ask("runner.vary = {}\nrunner.parameters = {'epochs': 7}")
    shown.get_by_text("1 run, into").wait_for()
    shown.get_by_role("button", name="Run", exact=True).click()
    until(study_page, "runner.state", "'error'", 90)
    shown.get_by_text("seven is not lucky").first.wait_for()
    assert shown.locator("tbody .bad").count() >= 1


# --- looks ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def start_page(lab, browser):
    context = browser.new_context()
    start = PROJECT / "notebooks" / "00_start_here.ipynb"
    page = browser.notebook(lab, lab.add(start), context=context)
    page.run_all()
    yield page
    assert page.errors() == []
    page.close()
    context.close()


TITLES = ("Catalog", "Scene explorer", "Run a study", "Runs")


@pytest.mark.parametrize("width", SIZES)
@pytest.mark.parametrize("title", TITLES)
def test_a_panel_fits_and_can_be_read_and_reached(start_page, title, width):
    start_page.page.set_viewport_size({"width": width, "height": SIZES[width]})
    shown = panel(start_page, title)
    start_page.page.wait_for_timeout(500)
    name = title.lower().replace(" ", "_")
    start_page.screenshot(f"{name}_{width}")
    if width == 1280:
        keep(shown, start_page.screenshot(f"{name}_alone"))
    wide = "one => [one.scrollWidth, one.clientWidth, one.getBoundingClientRect().right]"
    inside, room, right = shown.evaluate(wide)
    assert inside <= room + 1
    assert right <= width
    assert shown.evaluate(CONTRAST) == []
    assert shown.evaluate(FOCUS) == []


def test_a_panel_can_be_read_in_the_dark(scene_page, catalog_page):
    for page, title in ((scene_page, "Scene explorer"), (catalog_page, "Catalog")):
        theme = "jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})"
        page.page.bring_to_front()
        page.page.evaluate(theme)
        page.page.wait_for_timeout(800)
        shown = panel(page, title)
        assert shown.evaluate(CONTRAST) == []
        page.screenshot(f"{title.lower().replace(' ', '_')}_dark")
        page.page.evaluate(theme.replace("Dark", "Light"))
