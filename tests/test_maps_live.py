"""Maps on a screen: tiles, values under the mouse, legends; without a network."""

import functools
import io
import math
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import PIL.Image
import pytest
import rasterio
import rioxarray  # noqa: F401
import xarray as xr
from scenes import scene

from geowb.errors import DataError, RequestError
from geowb.maps import hover, layers, live
from geowb.maps.layers import value_at
from geowb.maps.live import show_map
from geowb.maps.looks import drawn

LEGEND = {"flag_values": [0, 1, 4], "flag_meanings": "water open_forest bare"}


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    """No test asks whether there is a network, and none is taken for one in VS Code."""
    for name in [name for name in os.environ if name.startswith("VSCODE")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(live, "_reachable", lambda: False)


def grid(values, *, crs=32722, pixel=3000.0, at=(500_000, 7_000_000), nodata=None, **attrs):
    """A map from numbers."""
    values = np.asarray(values)
    y, x = (np.arange(n) + 0.5 for n in values.shape)
    found = xr.DataArray(
        values,
        dims=("y", "x"),
        coords={"y": at[1] - pixel * y, "x": at[0] + pixel * x},
        attrs=attrs,
    )
    transform = rasterio.Affine(pixel, 0, at[0], 0, -pixel, at[1])
    found = found.rio.write_transform(transform)
    found = found.rio.write_crs(crs) if crs else found
    return found if nodata is None else found.rio.write_nodata(nodata)


def place(found, row, column):
    """Longitude and latitude of the middle of a pixel."""
    at = layers._located(found, "a map").degrees(np.array(row + 0.5), np.array(column + 0.5))
    return tuple(float(angle) for angle in at)


@functools.cache
def fetch(url):
    """Tile that the local server makes."""
    with urllib.request.urlopen(url) as answer:
        assert answer.headers["content-type"] == "image/png"
        return PIL.Image.open(io.BytesIO(answer.read())).convert("RGBA")


def colour(tile, lon, lat, zoom=14):
    """Colour that tiles have at a place."""
    n = 2**zoom
    x = (lon + 180) / 360 * n
    y = (1 - math.asinh(math.tan(math.radians(lat))) / math.pi) / 2 * n
    picture = fetch(tile.url.format(z=zoom, x=int(x), y=int(y)))
    return picture.getpixel((int(x % 1 * 256), int(y % 1 * 256)))


def under(made, found, row, column):
    """What the map says when the mouse is over a pixel."""
    lon, lat = place(found, row, column)
    line = controls(made)[0]
    made._interaction_callbacks(type="mousemove", coordinates=[lat, lon])
    return re.sub("<b>|</b>", "", line.value).split(">", 1)[1].split("<br>")[:-1]


def controls(made):
    """The line under the mouse and the legends."""
    texts = [c.widget for c in made.controls if type(c).__name__ == "WidgetControl"]
    return [text for text in texts if type(text).__name__ == "HTML"]


@pytest.fixture
def quick(monkeypatch):
    """Every event of the mouse is read."""
    monkeypatch.setattr(hover, "_PAUSE", 0)


# --- values ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["float32", "float64", "float16"])
def test_values_stay_what_they_are(quick, kind):
    biomass = grid(np.array([[37.25, 0.5], [150, np.nan]], kind), units="Mg/ha")
    made = show_map(biomass, names=["AGB"])
    assert under(made, biomass, 0, 0) == ["AGB: 37.25 Mg/ha"]
    assert under(made, biomass, 0, 1) == ["AGB: 0.50 Mg/ha"]
    assert under(made, biomass, 1, 1) == ["AGB: no data"]
    with rasterio.open(made.layers[-1].tile_server.filename) as written:
        assert written.dtypes[0] == kind.replace("float16", "float32")
        assert np.array_equal(written.read(1), biomass.values, equal_nan=True)
        assert (written.crs, np.isnan(written.nodata)) == (biomass.rio.crs, True)
        assert written.transform == biomass.rio.transform()


def test_value_at_is_exact_in_files_and_arrays(tmp_path):
    biomass = grid(np.array([[37.25, -9999]], "float32"), nodata=-9999, units="Mg/ha")
    biomass.rio.to_raster(tmp_path / "agb.tif")
    for source in (biomass, tmp_path / "agb.tif"):
        assert value_at(source, *place(biomass, 0, 0)) == 37.25
        assert value_at(source, *place(biomass, 0, 1)) is None
        assert value_at(source, 100, 10) is None
    scaled = grid(np.array([[30, -1]], "int16"), nodata=-1, scale_factor=0.5, add_offset=1.0)
    assert value_at(scaled, *place(scaled, 0, 0)) == 16
    kinds = grid(np.array([[1, 4], [-1, 7]], "int16"), **LEGEND)
    found = [value_at(kinds, *place(kinds, r, c)) for r in (0, 1) for c in (0, 1)]
    assert found == ["open forest", "bare", None, "7"]


@pytest.mark.parametrize(
    ("crs", "pixel", "at"), [(4326, 0.01, (10, 60)), (2263, 500.0, (1e6, 2e5))]
)
@pytest.mark.parametrize("shape", [(6, 1), (1, 6), (1, 1), (3, 4)])
def test_any_grid_is_read_at_the_right_pixel(quick, crs, pixel, at, shape):
    values = np.arange(float(np.prod(shape))).reshape(shape)
    found = grid(values, crs=crs, pixel=pixel, at=at)
    made = show_map(found, names=["a"])
    for (row, column), value in np.ndenumerate(values):
        assert value_at(found, *place(found, row, column)) == value
        assert float(under(made, found, row, column)[0].split()[1]) == value


def test_numbers_in_another_scale_are_shown_in_the_unit(quick):
    heights = grid([[10, -1], [20, 30]], nodata=-1, scale_factor=0.5, add_offset=100.0, units="m")
    made = show_map(heights.astype("int16"), names=["height"], limits=(100, 115))
    assert under(made, heights, 0, 0) == ["height: 105.000 m"]
    dark, light = ([68, 1, 84], [253, 231, 36])
    tile = made.layers[-1]
    assert colour(tile, *place(heights, 1, 1))[:3] == pytest.approx(light, abs=2)
    assert colour(tile, *place(heights, 0, 1))[3] == 0
    made = show_map(heights.astype("int16"), limits=(105, 115))
    assert colour(made.layers[-1], *place(heights, 0, 0))[:3] == pytest.approx(dark, abs=2)


# --- tiles -----------------------------------------------------------------------------------


@pytest.mark.parametrize("nodata", [None, -9999])
def test_tiles_have_the_colours_of_the_values(nodata):
    import matplotlib

    values = np.array([[37.25, 0], [100, np.nan]], "float32")
    values = values if nodata is None else np.nan_to_num(values, nan=nodata)
    biomass = grid(values, nodata=nodata, units="Mg/ha")
    tile = show_map(biomass, limits=(0, 100), cmap="magma").layers[-1]
    for row, column, value in ((0, 0, 37.25), (0, 1, 0), (1, 0, 100)):
        expected = [255 * v for v in matplotlib.colormaps["magma"](value / 100)]
        assert colour(tile, *place(biomass, row, column)) == pytest.approx(expected, abs=4)
    assert colour(tile, *place(biomass, 1, 1))[3] == 0


@pytest.mark.parametrize("kind", ["uint8", "int8", "int16", "int64", "float32", "bool"])
def test_classes_have_their_colours_in_tiles_whatever_their_type(quick, kind):
    values = np.array([[0, 1], [1, 4]]).astype(kind)
    kinds = grid(values, **LEGEND)
    made = show_map(kinds, names=["cover"])
    for row, column in np.ndindex(2, 2):
        at = {0: (0, 0x72, 0xB2), 1: (0xD5, 0x5E, 0), 4: (0, 0x9E, 0x73)}
        value = int(values[row, column])
        assert colour(made.layers[-1], *place(kinds, row, column)) == (*at[value], 255)
        name = {0: "water", 1: "open forest", 4: "bare"}[value]
        assert under(made, kinds, row, column) == [f"cover: {name}"]


def test_classes_far_from_zero_and_unlabelled_pixels():
    kinds = grid(
        np.array([[300, -1], [310, 500]], "int16"),
        flag_values=[300, 310, 500],
        flag_meanings="a b c",
    )
    tile = show_map(kinds).layers[-1]
    found = [colour(tile, *place(kinds, r, c)) for r in (0, 1) for c in (0, 1)]
    assert found[0] == (0, 0x72, 0xB2, 255)
    assert found[1][3] == 0
    assert found[2:] == [(0xD5, 0x5E, 0, 255), (0, 0x9E, 0x73, 255)]
    with pytest.raises(RequestError, match=r"from 300 to 556; .*at most 255 apart"):
        show_map(kinds.where(kinds != 500, 556).assign_attrs(flag_values=[300, 310, 556]))


@pytest.mark.parametrize(("first", "count"), [(0, 256), (0, 255), (1, 20), (-128, 256), (-5, 9)])
def test_each_of_many_classes_has_its_own_colour(first, count):
    values = np.full(256, first, "int16")
    values[:count] = first + np.arange(count)
    kinds = grid(
        values.reshape(16, 16),
        pixel=100,
        flag_values=list(range(first, first + count)),
        flag_meanings=" ".join(f"c{n}" for n in range(count)),
    )
    tile = show_map(kinds).layers[-1]
    expected = drawn(kinds, size=16).look.colours
    for value, (row, column) in zip(values.tolist(), np.ndindex(16, 16), strict=True):
        found = colour(tile, *place(kinds, row, column), zoom=15)
        assert found == pytest.approx((*bytes.fromhex(expected[value][1:]), 255), abs=1)


def test_rare_values_that_are_no_class_are_grey():
    values = np.zeros((1, 1100), "int16")
    values[0, [0, 2]] = -5, 200
    kinds = grid(values, pixel=30, flag_values=[0, 1], flag_meanings="a b")
    assert not {-5, 200} & set(drawn(kinds, size=512).look.classes)  # they were not seen
    tile = show_map(kinds).layers[-1]
    for column, expected in ((1, (0, 0x72, 0xB2)), (0, (128,) * 3), (2, (128,) * 3)):
        assert colour(tile, *place(kinds, 0, column), zoom=17) == (*expected, 255)


def test_a_file_is_served_as_it_is_and_a_large_one_gets_overviews_elsewhere(tmp_path):
    import warnings

    from rio_tiler.errors import NoOverviewWarning

    small = grid(np.ones((20, 20), "float32"), units="m")
    small.rio.to_raster(tmp_path / "small.tif")
    assert show_map(tmp_path / "small.tif").layers[-1].tile_server.filename == str(
        tmp_path / "small.tif"
    )
    large = grid(np.ones((600, 700), "float32"), units="m", pixel=30)
    large.rio.to_raster(tmp_path / "large.tif")
    with warnings.catch_warnings():
        warnings.simplefilter("error", NoOverviewWarning)
        made = show_map(tmp_path / "large.tif")
    with rasterio.open(made.layers[-1].tile_server.filename) as served:
        assert served.overviews(1) == [2]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["large.tif", "small.tif"]


def test_an_array_is_written_in_parts(monkeypatch):
    """Never as a whole, however it is stored."""
    from geowb.maps import parts
    from geowb.maps import tiles as made

    monkeypatch.setattr(parts, "_CELLS", 64)
    values = np.random.default_rng(0).random((60, 50))
    found, asked = grid(values), []
    cut = parts.windows

    def windows(*args):
        for window in cut(*args):
            asked.append(window)
            yield window

    monkeypatch.setattr(made, "windows", windows)
    with rasterio.open(show_map(found.chunk(y=8, x=8)).layers[-1].tile_server.filename) as file:
        assert np.array_equal(file.read(1), values)
    assert len(asked) == 8 * 7


def test_the_tile_server_leaves_the_settings_of_gdal(tmp_path):
    """It sets them for the whole process: files beside a raster would not be read any more."""
    before = dict(os.environ)
    show_map(grid(np.ones((6, 6), "float32")))
    changed = {name for name, value in os.environ.items() if before.get(name) != value}
    assert not {"GDAL_DISABLE_READDIR_ON_OPEN", "GDAL_NUM_THREADS"} & changed


# --- scenes ----------------------------------------------------------------------------------


def test_a_scene_is_three_stretched_bands_below_the_layers(quick):
    one = scene(20, 30, dates=2)
    one["reflectance"][1, :, 0, 0] = np.nan
    made = show_map(one, one.agb_dense, bands=["RED", "GREEN", "BLUE"], time=1, names=["AGB"])
    assert [layer.name for layer in made.layers] == ["scene", "AGB"]
    red, green, blue = one.reflectance.sel(band=["RED", "GREEN", "BLUE"]).values[1, :, 5, 7]
    line = under(made, one.agb_dense, 5, 7)
    assert line[0] == f"scene: RED {red:.6g}, GREEN {green:.6g}, BLUE {blue:.6g}"
    assert under(made, one.agb_dense, 0, 0)[0] == "scene: no data"
    planes = one.reflectance.sel(band=["RED", "GREEN", "BLUE"]).values[1]
    low, high = np.nanpercentile(planes, [2, 98], axis=(1, 2))
    expected = 255 * np.clip(((red, green, blue) - low) / (high - low), 0, 1)
    at = place(one.agb_dense, 5, 7)
    assert colour(made.layers[0], *at, zoom=17)[:3] == pytest.approx(expected, abs=3)
    assert "RED, GREEN, BLUE" in controls(made)[1].value


def test_a_raster_of_bands_is_a_scene(tmp_path, quick):
    planes = scene(20, 30).reflectance.isel(time=0, drop=True)
    planes.drop_vars("band").rio.to_raster(tmp_path / "bands.tif")
    made = show_map(tmp_path / "bands.tif", bands=[3, 2, 1])
    red, green, blue = planes.values[[2, 1, 0], 4, 4]
    told = under(made, planes[0], 4, 4)[0]
    assert told == f"bands: 3 {red:.6g}, 2 {green:.6g}, 1 {blue:.6g}"
    assert made.layers[-1].tile_server.filename == str(tmp_path / "bands.tif")
    assert "1, 2, 3" in controls(show_map(tmp_path / "bands.tif"))[1].value


# --- what stands on the map ------------------------------------------------------------------


def test_a_zarr_of_bands_is_a_scene(tmp_path, quick):
    planes = scene(20, 30).reflectance.isel(time=0, drop=True)
    planes.to_dataset().to_zarr(tmp_path / "bands.zarr", consolidated=False)
    made = show_map(tmp_path / "bands.zarr")
    swir = planes.sel(band="SWIR_1").values[4, 4]
    assert under(made, planes[0], 4, 4)[0].startswith(f"bands: SWIR_1 {swir:.6g}, NIR_NARROW")


def test_legends_name_classes_and_units():
    kinds, biomass = grid([[0, 1]], **LEGEND), grid([[0.0, 80.0]], units="Mg/ha")
    made = show_map(None, biomass, kinds, names=["AGB <1>", "cover"], limits=(0, 80), cmap="magma")
    text = controls(made)[1].value
    assert "AGB &lt;1&gt;" in text
    assert re.search(r">0<.*>40<.*>80 Mg/ha<", text)
    assert "#000004" in text  # where magma begins
    assert re.findall(r"background: (#\w+);\"></span>([\w ]+)", text) == [
        ("#0072B2", "water"),
        ("#D55E00", "open forest"),
        ("#009E73", "bare"),
    ]


def test_maps_of_one_unit_share_their_limits():
    low, high = grid([[0.0, 10.0]], units="Mg/ha"), grid([[90.0, 100.0]], units="Mg/ha")
    made = show_map(None, low, high, grid([[1.0, 2.0]], units="m"))
    text = controls(made)[1].value
    assert len(re.findall(r">0\.1<.*?>99\.9 Mg/ha<", text)) == 2
    assert ">1.99 m<" in text


def test_the_view_holds_the_layers():
    far = grid(np.ones((100, 400)), pixel=100.0)
    made = show_map(far, height=400)
    (south, west), (north, east) = made.layers[-1].bounds
    assert west < made.center[1] < east
    assert south < made.center[0] < north
    pixels = (east - west) / 360 * 256 * 2**made.zoom
    assert live._WIDTH / 2 < pixels <= live._WIDTH
    tall = show_map(grid(np.ones((400, 100)), pixel=100.0), height=400)
    (south, _), (north, _) = tall.layers[-1].bounds
    span = (north - south) / 360 * 256 * 2**tall.zoom / math.cos(math.radians(north))
    assert 190 < span <= 400
    assert show_map(zoom=3, center=(1, 2)).zoom == 3


def test_layers_have_names_one_of_each_and_more_can_be_added(tmp_path):
    found = grid([[1.0, 2.0]])
    found.rio.to_raster(tmp_path / "agb.tif")
    made = show_map(tmp_path / "agb.tif", tmp_path / "agb.tif", opacity=0.5)
    assert [layer.name for layer in made.layers] == ["agb", "agb (2)"]
    assert [layer.opacity for layer in made.layers] == [1, 0.5]
    from ipyleaflet import Marker

    made.add(Marker(location=(0, 0)))
    assert len(made.layers) == 3


def test_a_swipe_has_one_map_on_each_side():
    left, right = grid([[1.0, 2.0]], units="m"), grid([[0, 1]], **LEGEND)
    made = show_map(left, right, swipe=True)
    split = next(c for c in made.controls if type(c).__name__ == "SplitMapControl")
    assert colour(split.left_layer, *place(left, 0, 0))[3] == 255
    assert colour(split.right_layer, *place(right, 0, 0)) == (0, 0x72, 0xB2, 255)
    assert len(made.layers) == 0  # the control has them
    below = show_map(scene(8, 8), left, right, swipe=True)
    assert [layer.name for layer in below.layers] == ["scene"]
    for few in ((left,), (left, left, left, left), ()):
        with pytest.raises(RequestError, match=f"compares two maps; this is {len(few)}"):
            show_map(*few, swipe=True)


def test_the_mouse_is_read_now_and_then_and_errors_are_shown(tmp_path, monkeypatch):
    found = grid([[1.0, 2.0]], units="m")
    made = show_map(found, names=["a"])
    assert under(made, found, 0, 0) == ["a: 1.0000 m"]
    assert under(made, found, 0, 1) == ["a: 1.0000 m"]  # too soon
    time.sleep(hover._PAUSE)
    assert under(made, found, 0, 1) == ["a: 2.0000 m"]
    before = controls(made)[0].value
    made._interaction_callbacks(type="click", coordinates=[0, 0])
    assert controls(made)[0].value == before

    def fail(*args):
        raise failure

    monkeypatch.setattr(layers, "_value", fail)
    failure = DataError("the <file> is gone")
    time.sleep(hover._PAUSE)
    made._interaction_callbacks(type="mousemove", coordinates=[0, 0])
    assert "could not be read. DataError: the &lt;file&gt; is gone" in controls(made)[0].value
    failure = ZeroDivisionError()
    watch = hover.Hover([layers.map_layer(found, "a", tmp_path, limits=None, cmap="Blues")])
    with pytest.raises(ZeroDivisionError):
        watch.read()
    assert "could not be read" in watch.line.value


def test_a_world_that_was_moved_round_is_the_same(quick):
    found = grid([[1.0, 2.0]], crs=4326, pixel=0.1, at=(10, 60), units="m")
    made = show_map(found, names=["a"])
    lon, lat = place(found, 0, 1)
    made._interaction_callbacks(type="mousemove", coordinates=[lat, lon - 360])
    assert "2.0000 m" in controls(made)[0].value


def test_the_last_place_is_read_in_the_end():
    import asyncio

    found = grid([[1.0, 2.0]], units="m")
    made = show_map(found, names=["a"])

    async def move():
        for column in (0, 1):
            under(made, found, 0, column)
        assert "1.0000" in controls(made)[0].value
        await asyncio.sleep(2 * hover._PAUSE)

    asyncio.run(move())
    assert "2.0000" in controls(made)[0].value


# --- the network, and what is left -----------------------------------------------------------


def test_a_missing_network_is_said_once(monkeypatch, capsys):
    monkeypatch.undo()

    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    live._reachable.cache_clear()
    found = grid([[1.0, 2.0]])
    for _ in range(2):
        assert [type(layer).__name__ for layer in show_map(found).layers] == ["BoundedTiles"]
    told = capsys.readouterr()
    assert told.out.count("no basemap, as tile.openstreetmap.org cannot be reached") == 1
    assert told.out.count("\n") == 1
    assert told.err == ""
    assert show_map(found, basemap=True).layers[0].name == "OpenStreetMap"
    live._reachable.cache_clear()
    assert len(show_map(found, basemap=False).layers) == 1
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(socket, "create_connection", lambda *args, **kwargs: socket.socket())
    assert show_map(found).layers[0].name == "OpenStreetMap"
    live._reachable.cache_clear()


def test_a_name_server_that_does_not_answer_is_not_waited_for(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(
        socket, "create_connection", lambda *args, **kwargs: time.sleep(2) or socket.socket()
    )
    monkeypatch.setattr(live, "_PATIENCE", 0.1)
    live._reachable.cache_clear()
    began = time.monotonic()
    assert not live._reachable()
    assert time.monotonic() - began < 1.5
    live._reachable.cache_clear()


def test_temporary_files_go_with_the_map(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = grid([[1.0, 2.0]])
    made = show_map(found)
    assert len(list(tmp_path.glob("*/*.tif"))) == 1
    made.close()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError):
        show_map(found, found.drop_vars("spatial_ref"))
    assert list(tmp_path.iterdir()) == []


def test_temporary_files_go_with_the_process_and_nothing_else_is_shown(tmp_path):
    code = (
        "import sys, geowb.maps.live, geowb.maps.static\n"
        "assert not {'leafmap', 'holoviews', 'matplotlib', 'ipyleaflet'} & set(sys.modules)\n"
        "import tempfile, pathlib; import numpy as np; from scenes import scene\n"
        "made = geowb.maps.live.show_map(scene(8, 8).agb_dense, basemap=False)\n"
        "print(len(list(pathlib.Path(tempfile.gettempdir()).glob('geowb-map-*/*'))))\n"
    )
    env = {"TMPDIR": str(tmp_path), "PYTHONPATH": os.path.dirname(__file__)}  # noqa: PTH120
    env = {k: v for k, v in os.environ.items() if not k.startswith("VSCODE")} | env
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    assert list(tmp_path.glob("geowb-map-*")) == []


def test_wrong_requests_name_what_is_wrong(tmp_path):
    one, found = scene(8, 8), grid([[1.0, 2.0]])
    bare = tmp_path / "bare.tif"
    grid([[1.0, 2.0]], crs=None).rio.to_raster(bare)
    with pytest.raises(DataError, match=r"bare\.tif' has no CRS.*write_crs.*plot_map"):
        show_map(bare)
    with pytest.raises(DataError, match="no CRS"):
        value_at(bare, 0, 0)
    with pytest.raises(RequestError, match="2 maps and 3 names"):
        show_map(found, found, names=["a", "b", "c"])
    with pytest.raises(RequestError, match=r"no reflectance, but agb, agb_dense: .*scene\['"):
        show_map(one.drop_vars("reflectance"))
    with pytest.raises(RequestError, match="no band 'NIR'"):
        show_map(one, bands=["NIR", "RED", "GREEN"])
    with pytest.raises(RequestError, match="three bands, not 2"):
        show_map(one, bands=["RED", "GREEN"])
    with pytest.raises(RequestError, match="1 dates; time is 1"):
        show_map(one, time=1)
    with pytest.raises(RequestError, match="low and a higher"):
        show_map(found, limits=(3, 1))
    with pytest.raises(RequestError, match="There is no map"):
        show_map(tmp_path / "gone.tif")
    with pytest.raises(RequestError, match="choose one of the others"):
        show_map(one.reflectance)
    with pytest.raises(RequestError, match="separate images"):
        show_map(one.rename(time="sample"))
