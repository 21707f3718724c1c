"""Finding, previewing, opening and fetching data with the catalog's widget."""

from __future__ import annotations

import hashlib
import io
import threading
import time

import numpy as np
import PIL.Image
import pytest
import rasterio
import traitlets as t
import xarray as xr
from scenes import scene
from serving import Server

import geowb
from geowb.catalog import open_catalog
from geowb.errors import CatalogError, RequestError
from geowb.plots.scenes import stretched
from geowb.widgets import CatalogBrowser

SCRIPT = "<script>alert('x')</script>"
ORIGIN = rasterio.Affine(30, 0, 500_000, 0, -30, 7_000_000)


@pytest.fixture(autouse=True)
def _own_places(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOWB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GEOWB_DATA", raising=False)


@pytest.fixture
def server():
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def tif(path, number=0, bands=3):
    numbers = np.random.default_rng(number).integers(100, 3000, (bands, 40, 30)).astype("int16")
    with rasterio.open(
        path, "w", driver="GTiff", width=30, height=40, count=bands, dtype="int16", crs=32722,
        transform=ORIGIN,
    ) as file:  # fmt: skip
        file.write(numbers)
    return numbers


CATALOG = """\
here:
  description: one chip
  uri: here.tif
  driver: {name: raster, options: {bands: [RED, GREEN, BLUE]}}
  metadata: {category: chips, source_license: CC-BY-4.0, size: 7 kB}
other:
  description: another chip
  uri: other.tif
  driver: {name: raster, options: {bands: [RED, GREEN, BLUE]}}
  metadata: {category: chips}
torn:
  description: a file that is no raster
  uri: torn.tif
  driver: {name: raster, options: {bands: [RED, GREEN, BLUE]}}
  metadata: {category: broken}
gone:
  description: a file that is not here
  uri: gone.tif
  driver: {name: raster, options: {bands: [RED]}}
  metadata: {category: broken, how_to_get: Ask the publisher.}
years:
  description: a chip a year
  uri: "{year}/{place}.tif"
  placeholders: {year: ["2020", "2021"], place: [north, south]}
  driver: {name: raster, options: {bands: [RED, GREEN, BLUE]}}
any:
  description: a chip of any name
  uri: "{name}.tif"
  placeholders: {name: any}
  driver: {name: raster, options: {bands: [RED, GREEN, BLUE]}}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    tif(tmp_path / "data" / "here.tif", 1)
    tif(tmp_path / "data" / "other.tif", 2)
    (tmp_path / "data" / "torn.tif").write_text("not a raster")
    for year in ("2020", "2021"):
        (tmp_path / "data" / year).mkdir()
        for number, place in enumerate(("north", "south")):
            tif(tmp_path / "data" / year / f"{place}.tif", int(year) * 10 + number)
    (tmp_path / "data" / "catalog.yaml").write_text(CATALOG)
    return tmp_path / "data"


@pytest.fixture
def browser(folder):
    made = CatalogBrowser(folder / "catalog.yaml")
    yield made
    made.close()


def chosen(browser, entry, **choices):
    browser.selected = entry
    if choices:
        browser.choices = browser.choices | choices
    assert browser.wait(30)
    return browser


def pixels(browser):
    return np.array(PIL.Image.open(io.BytesIO(browser._picture.png)).convert("RGB"))


def has_preview(browser):
    return bool(browser._picture.png) and browser._shown.layout.display != "none"


def until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


# --- the list ------------------------------------------------------------------------------------


def test_the_list_is_the_catalogs_table(browser):
    table = open_catalog(browser.catalog.path).table()
    assert browser.names == [row["name"] for row in table]
    assert [row["key"] for row in browser._table.rows] == browser.names
    told = {row["key"]: row["cells"]["status"]["text"] for row in browser._table.rows}
    assert "on this machine" in told["here"]
    assert "no download" in told["gone"]
    assert browser.message == "6 data sets in catalog.yaml."


def test_geowbs_own_catalog_is_listed_without_a_file():
    browser = CatalogBrowser()
    assert set(browser.names) == set(open_catalog())
    browser.search = "FLOOD  world"
    assert browser.names
    assert set(browser.names) <= {
        name for name, one in open_catalog().items()
        if "world" in (name + one.entry.description).lower() or "world" in str(one.entry.metadata)
    }  # fmt: skip


def test_words_and_filters_narrow_the_list(browser):
    browser.search = "chip"
    assert browser.names == ["here", "other", "years", "any"]
    browser.search = "another chip"
    assert browser.names == ["other"]
    assert browser.message == "1 of 6 data sets in catalog.yaml."
    browser.search = "cc-by"
    assert browser.names == ["here"]
    browser.search, browser.category = "", "broken"
    assert browser.names == ["torn", "gone"]
    browser.place = "missing"
    assert browser.names == ["gone"]
    browser.search = "no such words"
    assert browser.names == browser._table.rows == []
    assert "0 of 6" in browser.message
    assert browser._table.nothing


def test_controls_and_traits_move_together(browser):
    browser._search.value, browser._category.value = "chip", "chips"
    browser._place.value = "here"
    assert (browser.search, browser.category, browser.place) == ("chip", "chips", "here")
    browser._table.selected = ["other"]
    assert browser.selected == "other"
    browser.selected = "here"
    assert browser._table.selected == ["here"]
    browser.selected = ""
    assert browser._table.selected == []


@pytest.mark.parametrize("text", ["", "{}", "# nothing yet\n"])
def test_an_empty_catalog_is_said_to_be_empty(tmp_path, text):
    path = tmp_path / "empty.yaml"
    path.write_text(text)
    browser = CatalogBrowser(path)
    assert browser.state == "empty"
    assert str(path) in browser.message
    browser.search = "flood"
    assert browser.state == "empty"
    assert browser.names == []
    assert len(browser.picture()) > 1000
    browser.open_scene()
    browser.fetch()
    assert browser.wait(5)
    assert browser.scene is None


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_wrong_catalog_is_refused_at_once(tmp_path):
    (tmp_path / "c.yaml").write_text("a:\n  urii: x\n")
    with pytest.raises(CatalogError, match="urii"):
        CatalogBrowser(tmp_path / "c.yaml")
    with pytest.raises((CatalogError, RequestError), match=r"nowhere\.yaml"):
        CatalogBrowser(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("category", "chps", "chips"), ("place", "there", "missing"), ("selected", "hree", "here"),
        ("search", 5, "int"), ("seed", "a", "int"), ("choices", {"region": "x"}, "choices"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_with_what_is_possible(browser, name, value, word):
    before = getattr(browser, name)
    with pytest.raises(t.TraitError) as caught:
        setattr(browser, name, value)
    assert name in str(caught.value)
    assert word in str(caught.value)
    assert getattr(browser, name) == before


def test_a_word_that_is_no_trait_is_refused(folder):
    with pytest.raises(RequestError, match=r"select.*selected"):
        CatalogBrowser(folder / "catalog.yaml", select="here")


# --- one entry -----------------------------------------------------------------------------------


def test_a_preview_has_the_pixels_of_the_entry(browser, folder):
    chosen(browser, "here")
    assert browser.state == "result", browser.message
    numbers = rasterio.open(folder / "here.tif").read().astype("float32")
    ends = np.percentile(numbers, [2, 98], axis=(1, 2))
    like = np.stack([np.full(50, ends[0].min()), np.full(50, ends[1].max())], 1)
    low, high = like[0]
    expected = np.floor(255 * np.clip((np.moveaxis(numbers, 0, -1) - low) / (high - low), 0, 1))
    assert np.abs(pixels(browser) - expected).max() <= 1
    assert stretched(numbers).shape == expected.shape
    assert has_preview(browser)


def test_what_is_known_of_an_entry_is_told(browser):
    chosen(browser, "here")
    for word in ("one chip", "CC-BY-4.0", "7 kB", "on this machine"):
        assert word in browser._about.value
    chosen(browser, "gone")
    assert "Ask the publisher." in browser._about.value
    assert "ask its publisher" in browser._about.value  # of the licence
    assert browser._open_button.disabled


@pytest.mark.parametrize(
    ("name", "choices"),
    [("here", {}), ("years", {"year": "2021"}), ("any", {"name": "other"})],
)
def test_the_line_of_code_opens_what_is_shown(browser, name, choices):
    import html
    import re

    chosen(browser, name, **choices)
    (code,) = re.findall(r"<code>(.*?)</code>", browser._about.value)
    namespace = {"geowb": geowb}
    exec(html.unescape(code), namespace)
    browser.open_scene()
    assert browser.wait(30)
    xr.testing.assert_identical(namespace["scene"].compute(), browser.scene.compute())


def test_placeholders_are_asked_for_and_their_first_value_is_taken(browser, folder):
    chosen(browser, "years")
    assert browser.choices == {"year": "2020", "place": "north"}
    first = pixels(browser)
    year, place = browser._choices.children[:2]
    assert (list(year.options), list(place.options)) == (["2020", "2021"], ["north", "south"])
    place.value = "south"
    assert browser.wait(30)
    assert browser.choices == {"year": "2020", "place": "south"}
    assert (pixels(browser) != first).any()
    browser.open_scene()
    assert browser.wait(30)
    numbers = rasterio.open(folder / "2020" / "south.tif").read()
    np.testing.assert_array_equal(browser.scene.reflectance[0], numbers)
    browser.choices = {"year": "2021", "place": "south"}
    assert (year.value, place.value) == ("2021", "south")


@pytest.mark.parametrize("choices", [{"year": "1999"}, {"yaer": "2020"}, {"year": None}])
def test_wrong_choices_are_refused_in_words(browser, choices):
    chosen(browser, "years")
    before = browser.choices
    with pytest.raises(t.TraitError) as caught:
        browser.choices = before | choices
    assert "Invalid selection" not in str(caught.value)
    assert "year" in str(caught.value)
    assert browser.choices == before
    assert browser.state == "result"


def test_an_entry_of_any_name_waits_for_it(browser, folder):
    chosen(browser, "any")
    assert browser.state != "error", browser.message
    assert browser._open_button.disabled
    assert not has_preview(browser)
    browser._choices.children[0].value = "other"
    assert browser.wait(30)
    assert browser.choices == {"name": "other"}
    assert not browser._open_button.disabled
    browser.open_scene()
    assert browser.wait(30)
    np.testing.assert_array_equal(
        browser.scene.reflectance[0], rasterio.open(folder / "other.tif").read()
    )
    browser._choices.children[0].value = "no such file"
    assert browser.wait(30)
    browser.open_scene()
    assert browser.wait(30)
    assert browser.state == "error"
    assert "no such file.tif" in browser.message
    assert browser._head.detail == ""


def test_an_entry_that_cannot_be_opened_says_why_and_keeps_no_other_ones_preview(browser):
    chosen(browser, "here")
    first = browser._picture.png
    chosen(browser, "torn")
    assert browser.state == "error"
    assert "torn.tif" in browser.message
    assert browser._head.detail == "", browser._head.detail
    assert browser._picture.png != first
    assert not has_preview(browser)
    browser.open_scene()
    assert browser.wait(30)
    assert browser.state == "error"
    assert browser.scene is None
    chosen(browser, "here")
    assert browser.state == "result"
    assert browser._picture.png == first
    assert has_preview(browser)


def test_an_entry_without_a_preview_can_be_chosen(browser):
    chosen(browser, "here")
    chosen(browser, "gone")
    assert browser.state != "error"
    assert not has_preview(browser)
    assert len(browser.picture()) > 1000
    browser.selected = ""
    assert browser.wait(5)
    assert browser.source is None
    assert "here:" not in browser.message


def test_of_many_entries_in_a_row_the_last_is_shown(browser):
    for name in ("here", "other", "years", "here", "other") * 3:
        browser.selected = name
    assert browser.wait(30)
    alone = CatalogBrowser(browser.catalog.path, selected="other")
    assert alone.wait(30)
    assert browser._picture.png == alone._picture.png
    assert browser._picture.alt == "Preview of other"
    assert browser.message.startswith("other")


def test_entries_can_be_opened_from_code(browser):
    browser.open_scene()
    assert browser.wait(5)
    assert browser.scene is None
    assert "first" in browser.message
    seen = []
    browser.observe(lambda change: seen.append(change["new"]), "scene")
    chosen(browser, "here").open_scene()
    assert browser.wait(30)
    assert seen[-1] is browser.scene
    assert browser.scene.attrs["entry"] == "here"
    assert "here is open" in browser.message


def test_a_world_has_a_seed(monkeypatch):
    made = []

    def world(seed, **_):
        made.append(seed)
        return scene(20, 20, seed=seed)

    monkeypatch.setattr("geowb.world.scene", world)
    browser = CatalogBrowser(selected="world", seed=3)
    assert browser.wait(30)
    assert browser.state == "result", browser.message
    assert browser._seed in browser._choices.children
    assert "seed=3" in browser._about.value
    assert made[-1] == 3
    browser._seed.value = 4
    assert browser.wait(30)
    browser.open_scene()
    assert browser.wait(30)
    np.testing.assert_array_equal(browser.scene.reflectance, scene(20, 20, seed=4).reflectance)
    assert "seed=4" in browser._about.value


def test_texts_of_a_catalog_are_shown_as_they_are(tmp_path):
    (tmp_path / "c.yaml").write_text(
        f'x:\n  description: "{SCRIPT}"\n  uri: x.tif\n'
        "  driver: {name: raster, options: {bands: [RED]}}\n"
        f'  metadata: {{notes: "{SCRIPT}", category: "{SCRIPT}", how_to_get: "{SCRIPT}"}}\n'
    )
    browser = chosen(CatalogBrowser(tmp_path / "c.yaml"), "x")
    assert "<script" not in browser._about.value
    assert "&lt;script" in browser._about.value


def test_what_an_observer_of_a_person_raises_is_shown(browser):
    def bad(change):
        raise KeyError("my own list")

    browser.observe(bad, "selected")
    browser._table.selected = ["gone"]
    assert browser.wait(5)
    assert browser.state == "error"
    assert "my own list" in browser.message
    browser.unobserve(bad, "selected")
    chosen(browser, "here")
    assert browser.state == "result"


# --- fetching ------------------------------------------------------------------------------------


def remote(tmp_path, server, *, digest="", size=0):
    tif(tmp_path / "sent.tif", 5)
    data = (tmp_path / "sent.tif").read_bytes() + bytes(size)
    server.files["/sent.tif"] = data
    digest = digest or f"sha256:{hashlib.sha256(data).hexdigest()}"
    (tmp_path / "c.yaml").write_text(
        f"far:\n  description: far away\n  uri: sent/sent.tif\n"
        "  driver:\n    name: archive\n    options:\n"
        f"      files:\n"
        f"      - {{url: '{server.url}/sent.tif', path: sent/sent.tif, digest: '{digest}'}}\n"
        "      then: {name: raster, options: {bands: [RED, GREEN, BLUE]}}\n"
        "  metadata: {size: 7 kB}\n"
    )
    return chosen(CatalogBrowser(tmp_path / "c.yaml"), "far")


def is_offered(browser):
    return browser._get_button.layout.display != "none"


def test_what_is_to_be_fetched_is_fetched_previewed_and_opened(tmp_path, server):
    browser = remote(tmp_path, server)
    assert is_offered(browser)
    assert "7 kB" in browser._get_button.tooltip
    assert not has_preview(browser)
    browser._get_button.click()
    assert browser.wait(30)
    assert browser.state == "result", browser.message
    assert not is_offered(browser)
    (row,) = browser._table.rows
    assert "on this machine" in row["cells"]["status"]["text"]
    assert has_preview(browser)
    browser.open_scene()
    assert browser.wait(30)
    np.testing.assert_array_equal(
        browser.scene.reflectance[0], rasterio.open(tmp_path / "sent.tif").read()
    )


def test_a_download_is_stopped_half_way_and_goes_on_from_there(tmp_path, server, monkeypatch):
    browser = remote(tmp_path, server, size=8_000_000)
    handler, sending = server.http.RequestHandlerClass, threading.Event()
    whole = handler.do_GET

    class Slowly:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            for start in range(0, len(data), 200_000):
                self.file.write(data[start : start + 200_000])
                sending.set()
                time.sleep(0.03)

    def slowly(self, body=True):
        plain, self.wfile = self.wfile, self.wfile
        original = self.end_headers

        def ended():
            original()
            self.wfile = Slowly(plain)

        self.end_headers = ended
        try:
            whole(self, body)
        finally:
            self.wfile = plain

    monkeypatch.setattr(handler, "do_GET", slowly)
    browser._get_button.click()
    assert sending.wait(10)
    assert until(lambda: 0 < (browser._head.fraction or 0) < 1)
    assert (browser.state, browser._head.stoppable) == ("loading", True)
    browser._head._handle_custom_msg({"kind": "stop"}, [])
    assert browser.wait(10)
    assert browser.state == "result"
    assert "topped" in browser.message
    assert is_offered(browser)
    assert browser.catalog["far"].status() == "remote"
    monkeypatch.setattr(handler, "do_GET", whole)
    browser.fetch()
    assert browser.wait(30)
    assert browser.state == "result", browser.message
    assert browser.catalog["far"].status() == "here"
    start = int(server.seen[-1].rpartition("=")[2].rstrip("-"))
    assert 0 < start < 8_000_000


@pytest.mark.parametrize("how", ["cut", "404", "checksum"])
def test_a_download_that_fails_says_why_and_can_be_tried_again(tmp_path, server, how):
    browser = remote(tmp_path, server, digest=f"md5:{'0' * 32}" if how == "checksum" else "")
    data = dict(server.files)
    if how == "cut":
        server.cut = [100, 0, 0, 0, 0]
    elif how == "404":
        server.files.clear()
    browser.fetch()
    assert browser.wait(60)
    assert browser.state == "error"
    assert browser._head.detail == ""
    assert "sent.tif" in browser.message
    assert is_offered(browser)
    server.cut, server.files = [], data
    if how != "checksum":
        browser.fetch()
        assert browser.wait(30)
        assert browser.state == "result", browser.message


def test_what_is_here_or_cannot_be_had_is_not_fetched(browser, folder):
    chosen(browser, "here")
    assert not is_offered(browser)
    browser.fetch()
    assert browser.wait(10)
    assert str(folder / "here.tif") in browser.message
    chosen(browser, "gone").fetch()
    assert browser.wait(10)
    assert browser.state == "error"
    assert "Nothing to download" in browser.message


def test_another_entry_may_be_chosen_while_one_is_fetched(tmp_path, server, folder):
    browser = remote(tmp_path, server)
    browser.fetch()
    browser.selected = ""
    assert browser.wait(30)
    assert browser.state != "loading"
    assert browser.catalog["far"].status() == "here"


def test_a_browser_that_is_closed_while_it_fetches_leaves_no_thread(tmp_path, server):
    browser = remote(tmp_path, server, size=8_000_000)
    browser.fetch()
    browser.close()
    assert until(lambda: not [one for one in threading.enumerate() if one.name == "geowb-widget"])
