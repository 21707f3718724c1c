"""Widgets: from a press of a key on a slider to the new picture on the page; large scenes."""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
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
    opened, middle, whole = large()
    big = "10,980 x 10,980 x 6"
    note = f"median of {PRESSES}, 512 x 512 pixels, from the key to the frame with the picture"
    return [
        Row("SceneExplorer, one date further", ours, "interact with HoloViews", theirs,
            unit="ms", limit=300, note=note),
        Row(f"first picture of {big} with overviews", opened, "reading three bands whole", whole,
            limit=2, note="from the path to the picture; rasterio, then each 22nd pixel"),
        Row(f"first picture of {big} without overviews", middle, "reading three bands whole",
            whole, limit=2, note="its middle, 512 x 512 pixels in full detail"),
    ]  # fmt: skip


def large() -> tuple[float, float, float]:
    """Seconds to the first picture of a large file with overviews and without, and to read it."""
    import numpy as np
    import rasterio
    from rasterio.enums import Resampling
    from rasterio.transform import from_origin

    from geowb.widgets import SceneExplorer

    size = 10_980
    SceneExplorer(np_scene()).wait()  # imports
    with tempfile.TemporaryDirectory() as folder:
        plain, reduced = Path(folder) / "plain.tif", Path(folder) / "reduced.tif"
        shape = {"width": size, "height": size, "count": 6, "dtype": "int16", "nodata": -9999}
        place = {"crs": "EPSG:32722", "transform": from_origin(3e5, 9e6, 10, 10)}
        stored = {"tiled": True, "compress": "deflate", "blockxsize": 512, "blockysize": 512}
        rows = (
            np.random.default_rng(0).integers(200, 4000, (6, 549, size), dtype="int16") // 64 * 64
        )
        with rasterio.open(plain, "w", driver="GTiff", **shape, **place, **stored) as raster:
            for top in range(0, size, 549):
                raster.write(rows, window=((top, top + 549), (0, size)))
        shutil.copyfile(plain, reduced)
        with rasterio.open(reduced, "r+") as raster:
            raster.build_overviews([2, 4, 8, 16, 32], Resampling.nearest)
        taken = []
        for path in (reduced, plain):
            began = time.perf_counter()
            explorer = SceneExplorer(path)
            explorer.wait()
            assert explorer.state == "result", explorer.message
            taken.append(time.perf_counter() - began)
        began = time.perf_counter()
        with rasterio.open(plain) as raster:
            raster.read([1, 2, 3])[:, ::22, ::22].copy()
        return taken[0], taken[1], time.perf_counter() - began


def np_scene() -> object:
    """Make a scene of a few pixels."""
    import numpy as np
    import xarray as xr

    return xr.Dataset({"reflectance": (("band", "y", "x"), np.ones((1, 8, 8), "float32"))})


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
