"""Views of widgets while their kernel lives, and pictures afterwards, in JupyterLab itself."""

from __future__ import annotations

import base64
import io

import pytest

SLIDER = """
import os
import ipywidgets
from IPython.display import display
slider, seen = ipywidgets.IntSlider(value=3), []
slider.observe(lambda change: seen.append(change["new"]), "value")
view = {"version_major": 2, "version_minor": 0, "model_id": slider.model_id}
data = {"application/vnd.jupyter.widget-view+json": view, "text/plain": "a slider"}
display(data, raw=True, metadata={"geowb": "view", "process": os.getpid()})
picture = {"image/png": PICTURE, "text/plain": "a picture"}
display(picture, raw=True, metadata={"geowb": "picture"})
"""
BOTH, ALONE = ["view", "picture"], ["picture"]


@pytest.fixture(scope="module")
def png():
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (60, 30), "green").save(stream, "png")
    return base64.b64encode(stream.getvalue()).decode()


@pytest.fixture(scope="module")
def opened(lab, browser, png):
    cells = ["x = 6", SLIDER.replace("PICTURE", repr(png))]
    page = browser.notebook(lab, lab.write("views.ipynb", cells))
    yield page
    page.close()


@pytest.fixture
def page(opened):
    opened.run_all()
    yield opened
    assert opened.errors() == []


def outputs(notebook):
    return [output["metadata"]["geowb"] for output in notebook["cells"][1]["outputs"]]


def shown(page):
    return outputs({"cells": page.cells()})


def move(page):
    """Move the slider by a key; what Python has seen of it."""
    handle = page.page.locator(".noUi-handle")
    handle.wait_for()
    before = page.ask("len(seen)")
    handle.focus()
    page.page.keyboard.press("ArrowRight")
    wait = f"import time; end = time.monotonic() + 5\nwhile len(seen) == {before} and "
    page.ask(wait + "time.monotonic() < end: await __import__('asyncio').sleep(0.05)")
    return page.ask("seen")


def test_a_living_view_is_attached_again_to_its_widget(page, lab):
    assert move(page) == "[4]"
    page.save()
    page.save()  # no question about a file that has changed on the disk
    assert outputs(lab.read("views.ipynb")) == ALONE
    page.reload()
    assert shown(page) == BOTH
    assert move(page) == "[4, 5]"
    assert page.ask("x") == "6"


def test_of_a_dead_kernel_the_picture_is_seen(page):
    page.save()
    page.shutdown_kernel()
    page.reload()
    assert shown(page) == ALONE
    width = "document.querySelector('.jp-OutputArea-output img').naturalWidth"
    assert page.page.evaluate(width) == 60


def test_views_from_before_a_restart_do_not_come_back(page):
    page.restart_kernel()
    page.save()
    page.reload()
    assert shown(page) == ALONE


def test_a_renamed_notebook_keeps_its_views(page, lab):
    page.save()
    page.page.evaluate("geowbTest.panel().context.rename('renamed.ipynb')")
    page.page.wait_for_function("geowbTest.panel().context.path === 'renamed.ipynb'")
    page.save()
    page.page.goto(lab.address("renamed.ipynb", "renamed"))
    page.wait_until_open()
    assert shown(page) == BOTH
    assert move(page) == "[4]"
