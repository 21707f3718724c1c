"""Widgets in JupyterLab: from a press of a key on a slider to the new picture on the page."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from run import Row

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "browser"))

PRESSES = 24

#: The explorer, and what a person would write without it: a slider that draws with HoloViews.
CELLS = (
    """import geowb
from geowb.widgets import SceneExplorer
scene = geowb.open_catalog()["world_year"].open(region="cerrado")
explorer = SceneExplorer(scene)
explorer""",
    """import ipywidgets
from IPython.display import display
from geowb import plots
def draw(time):
    display(plots.show(plots.rgb(scene, time=time), "picture.png", inches=5))
slider = ipywidgets.IntSlider(0, 0, scene.sizes["time"] - 1, description="by hand")
ipywidgets.interact(draw, time=slider);""",
)

#: Resolves with the milliseconds from the next key to the next picture.
MEASURE = """([handle, place, kind]) => new Promise((resolve) => {
  let pressed = null;
  const done = () => {
    watch.disconnect();
    requestAnimationFrame(() => resolve(performance.now() - pressed));
  };
  const watch = new MutationObserver(() => {
    if (pressed === null) return;
    if (kind === 'canvas') return done();
    const image = place.querySelector('img');
    if (image) image.decode().then(done, done);
  });
  watch.observe(place, kind === 'canvas'
    ? { attributes: true, attributeFilter: ['data-drawn-at'] }
    : { childList: true, subtree: true });
  handle.addEventListener('keydown', () => { pressed = performance.now(); },
    { once: true, capture: true });
  window.geowbReady = true;
})"""


def rows() -> list[Row]:
    """Move both sliders over the same six dates, and once over large files."""
    from harness import Lab, open_browser

    with Lab() as lab, open_browser() as browser:
        page = browser.notebook(lab, lab.write("bench.ipynb", CELLS))
        page.run_all()
        page.page.wait_for_timeout(3000)
        ours = _median(page, ".geowb-panel .noUi-handle", ".geowb-stage", "canvas")
        by_hand = ".widget-interact"
        theirs = _median(page, f"{by_hand} .noUi-handle", f"{by_hand} .jp-OutputArea", "image")
        assert page.errors() == []
        page.close()
    note = f"median of {PRESSES}, 512 x 512 pixels, from the key to the frame with the picture"
    return [
        Row("SceneExplorer, one date further", ours, "interact with HoloViews", theirs,
            unit="ms", limit=300, note=note),
    ]  # fmt: skip


def _median(page: object, handle: str, place: str, kind: str) -> float:
    """Press arrow keys on a slider, each when the picture of the last one has come."""
    taken = []
    knob, target = page.page.locator(handle).first, page.page.locator(place).first
    knob.scroll_into_view_if_needed()
    for number in range(PRESSES + 2):
        key = "ArrowRight" if number // 5 % 2 == 0 else "ArrowLeft"
        knob.focus()
        page.page.evaluate("window.geowbReady = false")
        nodes = [knob.element_handle(), target.element_handle(), kind]
        page.page.evaluate(f"nodes => {{ window.geowbTook = null; ({MEASURE})(nodes)"
                           ".then(took => { window.geowbTook = took; }); }", nodes)  # fmt: skip
        page.page.keyboard.press(key)
        page.page.wait_for_function("window.geowbTook !== null", timeout=30_000)
        if number > 1:  # the first ones load things
            taken.append(page.page.evaluate("window.geowbTook"))
        page.page.wait_for_timeout(60)
    return statistics.median(taken)
