"""Looking at scenes: parts of any size, pixels of the picture, what is chosen, what goes wrong."""

from __future__ import annotations

import io
import json
import threading
import time
import tracemalloc
import warnings

import dask.array as da
import matplotlib
import numpy as np
import PIL.Image
import pytest
import rasterio
import rioxarray
import traitlets as t
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from rasterio.windows import Window
from rasterio.windows import transform as part_of
from scenes import scene

from geowb.catalog import open_catalog
from geowb.errors import RequestError
from geowb.plots.scenes import stretched
from geowb.widgets import SceneExplorer, drawing
from geowb.widgets.frames import MOST, View, open_frames
from geowb.widgets.work import Turn

LARGE = 10_980
ORIGIN = rasterio.Affine(10, 0, 500_000, 0, -10, 7_000_000)
SCRIPT = "<script>alert('x')</script>"


def opened(source, **traits):
    explorer = SceneExplorer(source, **traits)
    assert explorer.wait(60)
    return explorer


def pixels(explorer):
    """The picture on the page, as it is sent there."""
    return np.array(PIL.Image.open(io.BytesIO(explorer._picture.png)).convert("RGB"))


def bands_of(dataset, names, date=0):
    return dataset.reflectance.isel(time=date).sel(band=list(names)).values


def as_bytes(shares):
    """What a picture of numbers from 0 to 1 has."""
    return np.floor(shares * 255)


def same(picture, expected, most=1):
    assert picture.shape == expected.shape
    difference = np.abs(picture.astype(float) - expected)
    assert difference.max() <= most, f"up to {difference.max()} of 255"


def fails_with(explorer, *words):
    assert explorer.state == "error", explorer.message
    for word in words:
        assert word in explorer.message, explorer.message


def cloudy(height=40, width=50, dates=4, seed=0):
    """A scene with clouds, shadows and labels of several kinds."""
    found, rng = scene(height, width, dates, seed=seed), np.random.default_rng(seed)
    bits = rng.choice([0, 2, 4, 8, 64, 255], (dates, height, width), p=[0.6, *[0.08] * 5])
    found["fmask"] = (("time", "y", "x"), bits.astype("uint8"))
    water = rng.integers(-1, 2, (height, width)).astype("int16")
    attrs = {"flag_values": [0, 1], "flag_meanings": "dry_land water"}
    found["flood"] = (("y", "x"), water, attrs)
    return found


# --- parts of a scene ----------------------------------------------------------------------------

EDGES = st.integers(1, 400)


@st.composite
def parts(draw):
    rows, columns = draw(EDGES), draw(EDGES)
    top, left = draw(st.integers(0, rows - 1)), draw(st.integers(0, columns - 1))
    bottom, right = draw(st.integers(top + 1, rows)), draw(st.integers(left + 1, columns))
    return View(top, bottom, left, right), (rows, columns)


def inside(view, shape):
    return 0 <= view.top < view.bottom <= shape[0] and 0 <= view.left < view.right <= shape[1]


@given(parts(), st.floats(0.01, 100), st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_zooming_stays_in_the_scene(part, factor, at):
    view, shape = part
    zoomed = view.zoomed(factor, at, shape)
    assert inside(zoomed, shape)
    assert zoomed.shape[0] >= min(16, shape[0], view.shape[0] * factor)


@given(st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_what_is_under_the_mouse_stays_there_while_it_zooms(at):
    view, shape = View(300, 700, 200, 800), (1000, 1000)
    zoomed = view.zoomed(0.5, at, shape)
    before = (view.top + at[1] * 400, view.left + at[0] * 600)
    after = (zoomed.top + at[1] * zoomed.shape[0], zoomed.left + at[0] * zoomed.shape[1])
    np.testing.assert_allclose(after, before, atol=1)


@given(parts(), st.floats(-5, 5), st.floats(-5, 5))
def test_moving_stays_in_the_scene_and_keeps_its_size(part, right, down):
    view, shape = part
    moved = view.moved(right, down, shape)
    assert inside(moved, shape)
    assert moved.shape == view.shape


@given(parts(), st.data())
def test_places_in_the_picture_and_pixels_of_the_scene_are_the_same(part, data):
    view, _ = part
    row = data.draw(st.integers(view.top, view.bottom - 1))
    column = data.draw(st.integers(view.left, view.right - 1))
    assert view.pixel(view.share(row + 0.5, column + 0.5)) == (row, column)
    assert view.pixel([1.0, 1.0]) == (view.bottom - 1, view.right - 1)


@given(parts(), st.integers(1, 600))
def test_no_picture_is_larger_than_it_may_be(part, most):
    view, _ = part
    step = view.step(most)
    assert -(-max(view.shape) // step) <= most


def read(frames, date=0, bands=("RED",), view=None, most=MOST):
    return frames.read(date, list(bands), view or frames.whole, Turn(), most)


def test_each_nth_pixel_is_read_of_a_part():
    found = scene(700, 90)
    frames = open_frames(found)
    values = bands_of(found, ("SWIR_1", "BLUE"))
    view = View(3, 699, 5, 88)
    np.testing.assert_array_equal(
        read(frames, bands=("SWIR_1", "BLUE"), view=view), values[:, 3:699:2, 5:88:2]
    )
    assert max(read(frames, view=view, most=100).shape) <= 100


@pytest.mark.parametrize("chunks", [None, {"x": 17, "y": 13}, {"band": 1, "y": -1}])
def test_arrays_of_any_kind_are_read_alike(chunks):
    found = scene(64, 48, 2)
    given_ = found if chunks is None else found.chunk(chunks)
    for view in (View(0, 64, 0, 48), View(63, 64, 47, 48), View(10, 41, 3, 44)):
        cut = (slice(view.top, view.bottom), slice(view.left, view.right))
        expected = bands_of(found, ("NIR_NARROW",), 1)[:, cut[0], cut[1]]
        np.testing.assert_array_equal(read(open_frames(given_), 1, ("NIR_NARROW",), view), expected)


def test_other_orders_of_dimensions_are_read_alike():
    found = scene(30, 20, 2)
    turned = found.transpose("x", "band", "y", "time")
    np.testing.assert_array_equal(read(open_frames(turned), 1), bands_of(found, ("RED",), 1))


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_no_data_of_hls_is_not_a_value(dtype):
    numbers = np.full((2, 8, 9), 500, dtype)
    numbers[1, 2, 3] = -9999
    array = xr.DataArray(numbers, dims=("band", "y", "x"))
    array = array if dtype == "int16" else array.rio.write_nodata(-9999)
    frames = open_frames(array)
    found = read(frames, bands=frames.bands)
    assert found.dtype == np.float32
    assert np.isnan(found[1, 2, 3])
    assert np.isnan(found).sum() == 1


def test_numbers_of_eight_bits_are_all_values():
    numbers = np.arange(256, dtype="uint8").reshape(1, 16, 16)
    found = read(open_frames(xr.DataArray(numbers, dims=("band", "y", "x"))), bands=("band 1",))
    np.testing.assert_array_equal(found, numbers.astype("float32"))


def test_single_labels_are_not_lost_when_a_scene_is_reduced():
    found = scene(1100, 600, density=0)
    label = np.full((1100, 600), np.nan, "float32")
    label[1099, 599], label[501, 7], label[502, 6] = 80, 30, 50
    found["agb"] = (("y", "x"), label)
    frames = open_frames(found)
    seen = frames.layer("agb", 0, frames.whole, Turn())
    assert np.isfinite(seen).sum() == 2
    assert sorted(seen[np.isfinite(seen)]) == [40, 80]  # two of one block are one mean


@pytest.mark.parametrize(("bit", "expected"), [(0, 0), (1, 1), (2, 1), (3, 2), (4, 0), (5, 0)])
def test_clouds_are_those_of_the_published_bits(bit, expected):
    found = scene(4, 4)
    bits = np.zeros((1, 4, 4), "uint8")
    bits[0, 0, 0] = 1 << bit
    bits[0, 1, 1] = (1 << bit) | 0b1100_0000  # aerosol says nothing about clouds
    bits[0, 2, 2] = 255  # no data
    found["fmask"] = (("time", "y", "x"), bits)
    frames = open_frames(found)
    hidden = frames.hidden(0, frames.whole, Turn())
    assert hidden[0, 0] == hidden[1, 1] == expected
    assert hidden[2, 2] == hidden[3, 3] == 0


def test_a_part_is_cut_out_with_its_place_and_stays_lazy():
    found = cloudy()
    computed = []

    def told(block):
        computed.append(1)
        return block

    lazy = found.chunk({"time": 1})
    lazy["reflectance"] = lazy["reflectance"].map_blocks(told, template=lazy["reflectance"])
    frames = open_frames(lazy)
    computed.clear()
    part = frames.crop(View(10, 30, 5, 6))
    assert computed == []
    xr.testing.assert_equal(part.drop_vars("spatial_ref").compute(), found.isel(
        y=slice(10, 30), x=slice(5, 6)).drop_vars("spatial_ref"))  # fmt: skip
    expected = part_of(Window(5, 10, 1, 20), found.rio.transform())
    assert part.rio.transform().almost_equals(expected)
    assert part.rio.crs == found.rio.crs
    assert part.attrs == found.attrs


def test_a_single_pixel_can_be_cut_out():
    found = scene()
    part = open_frames(found).crop(View(63, 64, 0, 1))
    assert dict(part.sizes) | {"y": 1, "x": 1} == dict(part.sizes)
    expected = part_of(Window(0, 63, 1, 1), found.rio.transform())
    assert part.rio.transform().almost_equals(expected)


def test_the_place_of_a_pixel_is_that_of_its_middle():
    from rasterio.warp import transform

    found = scene()
    x, y = found.rio.transform() @ (7.5, 12.5)
    (lon,), (lat,) = transform(found.rio.crs, 4326, [x], [y])
    told = open_frames(found).place(12, 7)
    assert told == f"{abs(lat):.4f}° {'N' if lat > 0 else 'S'}, {abs(lon):.4f}° W"


# --- pixels of the picture -----------------------------------------------------------------------


def test_a_composite_is_stretched_as_the_static_pictures_are():
    found = scene(60, 70)
    explorer = opened(found, show="near infrared")
    expected = stretched(bands_of(found, ("NIR_NARROW", "RED", "GREEN")))
    same(pixels(explorer), as_bytes(expected))


def test_natural_colours_share_one_stretch():
    found = scene(60, 70)
    found["reflectance"] = found.reflectance * xr.DataArray(
        [1, 0.5, 0.25, 1, 1, 1], dims="band"
    ).astype("float32")
    explorer = opened(found)
    assert explorer.show == "natural colour"
    values = bands_of(found, ("RED", "GREEN", "BLUE"))
    ends = np.percentile(values, [2, 98], axis=(1, 2))
    low, high = ends[0].min(), ends[1].max()
    same(
        pixels(explorer), as_bytes(np.moveaxis(np.clip((values - low) / (high - low), 0, 1), 0, -1))
    )


def test_the_full_range_goes_from_the_least_to_the_most():
    found = scene(60, 70)
    explorer = opened(found, show="SWIR_2", stretch="full range")
    values = bands_of(found, ("SWIR_2",))[0]
    expected = as_bytes((values - values.min()) / (values.max() - values.min()))
    same(pixels(explorer), np.repeat(expected[..., None], 3, 2))
    (bar,) = explorer._picture.legend
    assert (float(bar["low"]), float(bar["high"])) == pytest.approx(
        (values.min(), values.max()), rel=1e-3
    )


def test_dates_can_be_compared_where_all_have_one_stretch():
    found = scene(60, 70, 3)
    found["reflectance"] = found.reflectance * xr.DataArray([1, 2, 4], dims="time").astype("f4")
    explorer = opened(found, show="RED", stretch="all dates")
    every = found.reflectance.sel(band="RED").values
    for date in range(3):
        explorer.date = date
        explorer.wait()
        expected = stretched(every[date][None], every.reshape(1, 180, 70))
        same(pixels(explorer), np.repeat(as_bytes(expected), 3, 2))


def test_clouds_do_not_count_in_the_stretch():
    found = scene(60, 70)
    cloud = np.zeros((1, 60, 70), "uint8")
    cloud[0, :20] = 0b10
    values = found.reflectance.values.copy()
    values[:, :, :20] = 20_000
    found["reflectance"] = found.reflectance.copy(data=values)
    found["fmask"] = (("time", "y", "x"), cloud)
    picture = pixels(opened(found, show="near infrared"))
    clear = bands_of(found, ("NIR_NARROW", "RED", "GREEN"))[:, 20:]
    same(picture[20:], as_bytes(stretched(clear)))
    assert (picture[:20] == 255).all()


def test_an_index_is_a_normalised_difference_in_its_own_colours():
    found = scene(60, 70)
    found["reflectance"] = found.reflectance.where(found.reflectance.x > float(found.x[3]))
    explorer = opened(found, show="NDVI (vegetation)")
    near, red = bands_of(found, ("NIR_NARROW", "RED")).astype(float)
    ndvi = (near - red) / (near + red)
    at = np.clip((ndvi + 0.6) / 1.5, 0, 1)
    expected = matplotlib.colormaps["viridis"](np.nan_to_num(at), bytes=True)[..., :3].astype(float)
    expected[~np.isfinite(ndvi)] = 255
    same(pixels(explorer), expected, most=4)
    assert "(NIR_NARROW − RED) / (NIR_NARROW + RED)" in explorer._picture.caption


@pytest.mark.parametrize("show", ["natural colour", "RED", "NDVI (vegetation)"])
def test_no_data_is_white(show):
    found = scene(60, 70)
    found["reflectance"] = found.reflectance.where(found.reflectance.y < float(found.y[10]))
    picture = pixels(opened(found, show=show))
    assert (picture[:11] == 255).all()
    assert (picture[11:] < 255).any()


def hexed(colour):
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def test_classes_have_the_colours_of_the_legend():
    found = cloudy()
    explorer = opened(found, overlay="flood", opacity=1.0)
    bare = pixels(opened(found))
    picture, legend = pixels(explorer), explorer._picture.legend
    assert [item["name"] for item in legend] == ["dry land", "water"]
    for value, item in enumerate(legend):
        where = found.flood.values == value
        assert (picture[where] == hexed(item["colour"])).all()
    unlabelled = found.flood.values == -1
    np.testing.assert_array_equal(picture[unlabelled], bare[unlabelled])


def test_a_label_is_mixed_by_its_opacity():
    found = cloudy()
    bare, explorer = pixels(opened(found)), opened(found, overlay="flood", opacity=0.25)
    where = found.flood.values == 1
    colour = np.array(hexed(explorer._picture.legend[1]["colour"]))
    np.testing.assert_allclose(
        pixels(explorer)[where], 0.75 * bare[where] + 0.25 * colour, atol=1.01
    )


def test_a_class_that_first_occurs_later_has_a_colour_and_a_name():
    found = scene(30, 30, 2)
    crops = np.zeros((2, 30, 30), "int16")
    crops[1, 5:10, 5:10] = 7
    found["crop"] = (("time", "y", "x"), crops)
    explorer = opened(found, overlay="crop", opacity=1.0)
    first = {item["name"]: item["colour"] for item in explorer._picture.legend}
    explorer.date = 1
    explorer.wait()
    legend = {item["name"]: item["colour"] for item in explorer._picture.legend}
    assert set(legend) == {"0", "7"}
    assert legend["0"] == first["0"]
    assert (pixels(explorer)[6, 6] == hexed(legend["7"])).all()


def test_a_quantity_has_a_bar_with_its_unit():
    found = scene(60, 70)
    explorer = opened(found, overlay="agb_dense", opacity=1.0)
    (bar,) = explorer._picture.legend
    low, high = np.percentile(found.agb_dense.values, [1, 99])
    assert (float(bar["low"]), float(bar["high"])) == pytest.approx((low, high), rel=1e-3)
    assert bar["unit"] == "Mg/ha"
    at = np.clip((found.agb_dense.values - low) / (high - low), 0, 1)
    expected = matplotlib.colormaps["viridis"](at, bytes=True)[..., :3].astype(float)
    same(pixels(explorer), expected, most=4)


def test_clouds_are_hatched_and_nothing_else_is_changed():
    found = cloudy()
    bare, explorer = pixels(opened(found)), opened(found, clouds=True)
    bits = found.fmask.values[0]
    hidden = ((bits & 0b1110) > 0) & (bits != 255)
    changed = (pixels(explorer) != bare).any(-1)
    assert not changed[~hidden].any()
    assert 0.2 < changed[hidden].mean() < 0.6
    told = {item["name"]: item["colour"] for item in explorer._picture.legend}
    assert set(told) == {"cloud", "shadow"}
    colours = {tuple(one) for one in pixels(explorer)[changed]}
    assert colours == {tuple(hexed(colour)) for colour in told.values()}


@given(
    st.lists(st.sampled_from(["BLUE", "GREEN", "RED", "NIR_NARROW", "SWIR_1", "B9"]), unique=True)
)
def test_what_is_offered_needs_only_bands_that_are_there(names):
    found = drawing.composites(names)
    assert all(set(look.bands) <= set(names) for look in found.values())
    assert set(names) <= set(found)
    assert all(len(look.bands) == {"rgb": 3, "grey": 1, "index": 2}[look.kind]
               for look in found.values())  # fmt: skip


# --- scenes of every kind ------------------------------------------------------------------------


def plain(numbers, dims=("band", "y", "x"), **coords):
    return xr.DataArray(np.asarray(numbers), dims=dims, coords=coords)


def kinds():
    found = scene(24, 20, 3)
    numbers = np.random.default_rng(0).integers(0, 3000, (3, 24, 20)).astype("int16")
    nat = found.assign_coords(time=np.array(["NaT"] * 3, "datetime64[ns]"))
    twice = found.assign_coords(time=np.repeat(found.time.values[:1], 3))
    samples = xr.Dataset(
        {
            "reflectance": (("sample", "band", "y", "x"), np.stack([numbers] * 5).astype("f4")),
            "crop": (("sample", "y", "x"), np.stack([numbers[0] % 4] * 5)),
        },
        coords={"band": ["RED", "GREEN", "BLUE"]},
    )
    infinite = numbers.astype("float32")
    infinite[0, 0, 0], infinite[1, 3, 3] = np.inf, -np.inf
    return {
        "the contract": found,
        "one band": found.isel(band=[2]),
        "two bands": found.isel(band=[2, 3]),
        "a band that is no dimension": found.isel(band=2, drop=True),
        "one date": found.isel(time=[0]),
        "no time": found.isel(time=0, drop=True),
        "a time that is no dimension": found.isel(time=0),
        "unknown dates": nat,
        "one day thrice": twice,
        "no reflectance": found[["agb", "agb_dense"]],
        "a mask alone": cloudy(24, 20, 3)[["fmask"]],
        "no CRS": found.drop_vars("spatial_ref"),
        "no coordinates": found.drop_vars(["spatial_ref", "x", "y"]),
        "rows from the south": found.isel(y=slice(None, None, -1)),
        "nothing but NaN": found.where(False),
        "nothing on the second date": found.where(found.time != found.time[1]),
        "one number everywhere": xr.full_like(found, 7.0),
        "one pixel": found.isel(y=[5], x=[5]),
        "one row": found.isel(y=[5]),
        "a long strip": found.isel(x=[0, 1]),
        "samples": samples,
        "one sample": samples.isel(sample=[0]),
        "photographs": plain(numbers.clip(0, 255).astype("uint8")),
        "an array": plain(numbers),
        "one plane": plain(numbers[0], ("y", "x")),
        "infinite numbers": plain(infinite),
        "latitude and longitude": plain(
            numbers,
            ("band", "latitude", "longitude"),
            latitude=np.linspace(5, 4, 24),
            longitude=np.linspace(0, 1, 20),
        ).rio.write_crs(4326),
        "bands named twice": plain(numbers, band=["a", "a", "b"]),
        "true and false": found.assign(flood=found.agb_dense > 40),
        "a very long name": found.rename(agb="x" * 300),
        "a local CRS": found.rio.write_crs(
            'LOCAL_CS["here",UNIT["metre",1],AXIS["x",EAST],AXIS["y",NORTH]]'
        ),
    }


@pytest.mark.filterwarnings("error", "ignore:Use `@` matmul:PendingDeprecationWarning")
@pytest.mark.parametrize("kind", kinds())
def test_scenes_of_every_kind_can_be_looked_at(kind):
    given_ = kinds()[kind]
    explorer = opened(given_)
    assert explorer.state == "result", explorer.message + explorer._head.detail
    rows, columns = explorer._frames.shape
    assert pixels(explorer).shape == (rows, columns, 3)
    for name in explorer.choices[::4]:
        explorer.show = name
        assert explorer.wait(20)
        assert explorer.state == "result", name + explorer.message + explorer._head.detail
    for name in [*explorer._overlay.options]:
        explorer.overlay, explorer.stretch = name, "all dates"
        assert explorer.wait(20)
        assert explorer.state == "result", name + explorer.message + explorer._head.detail
    explorer.date = len(explorer._date.options) - 1
    explorer.box, explorer.pixel = (0, 1, 0, 1), (rows - 1, columns - 1)
    assert explorer.wait(20)
    assert explorer.state == "result", explorer.message + explorer._head.detail
    assert explorer.selection.sizes["x"] == explorer.selection.sizes["y"] == 1
    assert len(explorer.picture()) > 1000
    json.dumps(explorer._plot.item, allow_nan=False)
    assert len(set(explorer._frames.dates)) == len(explorer._date.options)


@pytest.mark.parametrize("kind", ["nothing but NaN", "nothing on the second date"])
def test_it_is_said_where_there_is_no_data(kind):
    explorer = opened(kinds()[kind])
    explorer.date = 1
    explorer.wait()
    assert "There is no data in this part on this date." in explorer.message
    explorer.show = "NDVI (vegetation)"
    explorer.wait()
    assert (pixels(explorer) == 255).all()


def test_dates_that_nobody_knows_are_said_so():
    assert opened(kinds()["unknown dates"])._frames.dates == [
        f"date {n}, not known" for n in (1, 2, 3)
    ]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (5, ["int", "no scene"]),
        ([1, 2], ["list"]),
        ("nowhere.tif", ["nowhere.tif"]),
        ("", [""]),
        (xr.Dataset(), ["y and x"]),
        (xr.Dataset({"agb": (("lat", "lon"), np.zeros((3, 3)))}), ["y and x", "lat"]),
        (xr.Dataset({"t": (("y", "x"), np.zeros((3, 3), "U1"))}), ["nothing that can be shown"]),
        (xr.Dataset({"agb": (("y", "x"), np.zeros((0, 3)))}), ["empty", "along y"]),
        (plain(np.zeros((2, 3, 4, 5)), ("wave", "band", "y", "x")), ["wave"]),
        (plain(np.zeros(4), ("x",)), ["y"]),
    ],
)
def test_what_is_no_scene_is_refused_in_words(source, words):
    explorer = opened(source)
    fails_with(explorer, *words)
    assert explorer._head.detail == "", explorer._head.detail  # one of geowb's own sentences
    explorer.scene = scene(20, 20)
    explorer.wait()
    assert explorer.state == "result"


def test_files_that_are_no_scene_are_refused_in_words(tmp_path):
    (tmp_path / "text.tif").write_text("not a raster")
    (tmp_path / "folder.tif").mkdir()
    with rasterio.open(
        tmp_path / "cut.tif", "w", driver="GTiff", width=600, height=600, count=1, dtype="uint8"
    ) as file:
        file.write(np.ones((1, 600, 600), "uint8"))
    whole = (tmp_path / "cut.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[: len(whole) // 2])
    for name in ("text.tif", "folder.tif", "cut.tif"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            explorer = opened(tmp_path / name)
        fails_with(explorer, name)
        assert explorer._head.detail == "", explorer._head.detail


def test_a_file_that_has_come_meanwhile_can_be_opened_again(tmp_path):
    path = str(tmp_path / "late.tif")
    explorer = opened(path)
    fails_with(explorer, "late.tif")
    small(path)
    explorer.scene = path
    explorer.wait()
    assert explorer.state == "result"


def small(path, numbers=None, **profile):
    numbers = np.arange(300, dtype="int16").reshape(1, 15, 20) if numbers is None else numbers
    told = {"driver": "GTiff", "dtype": numbers.dtype, "crs": 32722, "transform": ORIGIN} | profile
    count, height, width = numbers.shape
    with rasterio.open(path, "w", count=count, height=height, width=width, **told) as file:
        file.write(numbers)
    return path


def test_names_of_others_are_shown_as_they_are():
    found = scene(20, 20)
    found["x" + SCRIPT] = (("y", "x"), np.zeros((20, 20), "int16"), {"units": SCRIPT})
    explorer = opened(found, overlay="x" + SCRIPT, pixel=(3, 3))
    assert explorer.state == "result"
    assert "<script" not in explorer._text.value
    assert "&lt;script" in explorer._text.value


# --- what is chosen ------------------------------------------------------------------------------


def test_all_that_a_person_moves_can_be_set_at_once_before_the_scene_is_open():
    explorer = SceneExplorer(cloudy(seed=3))
    explorer.date, explorer.pixel, explorer.box = 1, (12, 30), (1, 5, 2, 9)
    explorer.show, explorer.overlay, explorer.clouds = "RED", "flood", True
    assert explorer.wait(30)
    assert (explorer.date, explorer.pixel, explorer.box) == (1, (12, 30), View(1, 5, 2, 9))
    assert (explorer.show, explorer.overlay, explorer.clouds) == ("RED", "flood", True)
    assert explorer._picture.caption.startswith("2022-06-17: RED")
    assert len(explorer.series) == 4


def test_traits_may_be_set_before_there_is_a_scene():
    explorer = SceneExplorer()
    assert explorer.state == "empty"
    explorer.date, explorer.show = 2, "NIR_NARROW"
    assert explorer.wait(5)
    explorer.scene = cloudy()
    assert explorer.wait(30)
    assert (explorer.date, explorer.show, explorer.state) == (2, "NIR_NARROW", "result")


@pytest.mark.parametrize(
    ("traits", "words"),
    [
        ({"date": 99}, ["date is 99", "0 to 3"]),
        ({"show": "RDE"}, ["show is 'RDE'", "RED"]),
        ({"overlay": "floods"}, ["overlay is 'floods'", "flood"]),
        ({"pixel": (40, 0)}, ["pixel is (40, 0)", "39"]),
        ({"box": (0, 41, 0, 5)}, ["box is (0, 41, 0, 5)", "40"]),
        ({"view": (0, 0, 0, 5)}, ["view is (0, 0, 0, 5)"]),
    ],
)
def test_wrong_traits_of_the_beginning_are_told_and_the_scene_is_shown(traits, words):
    explorer = opened(cloudy(), **traits)
    fails_with(explorer, *words)
    assert pixels(explorer).shape == (40, 50, 3)
    explorer.date = 1
    explorer.wait()
    assert explorer.state == "result"
    assert explorer._picture.caption.startswith("2022-06-17")


NONSENSE = [
    ("date", -1, "0 to 3"), ("date", 4, "0 to 3"), ("date", "2", "int"), ("date", 1.5, "int"),
    ("show", "nope", "RED"), ("show", "", "show"), ("overlay", "nope", "none"),
    ("stretch", "x", "all dates"), ("clouds", "maybe", "boolean"),
    ("opacity", 7.0, "1"), ("opacity", -0.1, "0"), ("opacity", float("nan"), "nan"),
    ("pixel", "abc", "pixel"), ("pixel", (1, 2, 3), "(1, 2, 3)"), ("pixel", 5, "5"),
    ("pixel", (1.7, 2), "1.7"), ("pixel", (float("nan"), 1), "nan"), ("pixel", {}, "pixel"),
    ("pixel", (40, 0), "39"), ("pixel", (0, 50), "49"), ("pixel", (-1, 0), "0 to 39"),
    ("box", "abcd", "box"), ("box", (1, 2, 3), "(1, 2, 3)"), ("box", (0, 0, 0, 5), "(0, 0, 0, 5)"),
    ("box", (5, 2, 0, 4), "top"), ("box", (0, 41, 0, 5), "40"), ("box", (0, 1.5, 0, 2), "1.5"),
    ("view", (0, 41, 0, 5), "40"), ("view", (0, 5, 7, 7), "7"), ("view", 3, "3"),
]  # fmt: skip


@pytest.fixture(scope="module")
def shared():
    return opened(cloudy())


@pytest.mark.parametrize(("name", "value", "word"), NONSENSE)
def test_nonsense_is_refused_with_its_value_and_what_is_possible(shared, name, value, word):
    before = getattr(shared, name)
    with pytest.raises(t.TraitError) as caught:
        setattr(shared, name, value)
    assert name in str(caught.value)
    assert word in str(caught.value)
    assert getattr(shared, name) == before
    assert shared.wait(10)
    assert shared.state == "result"


def test_numbers_of_numpy_will_do(shared):
    shared.date, shared.pixel = np.int64(2), np.array([3, 4])
    shared.box, shared.opacity = np.array([0, 4, 0, 4]), np.float64(0.5)
    assert shared.wait(10)
    assert shared.state == "result"
    assert (shared.date, shared.pixel) == (2, (3, 4))
    shared.pixel = shared.box = None
    shared.date = 0


def test_no_view_is_the_whole_scene(shared):
    shared.view = (0, 20, 0, 20)
    shared.wait()
    assert pixels(shared).shape == (20, 20, 3)
    shared.view = None
    shared.wait()
    assert shared.state == "result"
    assert pixels(shared).shape == (40, 50, 3)


def test_a_word_that_is_no_trait_is_refused():
    with pytest.raises(RequestError, match=r"datee.*date"):
        SceneExplorer(scene(20, 20), datee=1)


def test_a_pixel_over_time_is_that_of_the_scene():
    found = cloudy()
    explorer = opened(found, pixel=(7, 9))
    table = explorer.series
    np.testing.assert_array_equal(table.index, found.time.values)
    for band in found.band.values:
        np.testing.assert_array_equal(table[band], found.reflectance.sel(band=band)[:, 7, 9])
    bits = found.fmask.values[:, 7, 9]
    assert table["cloudy"].tolist() == (((bits & 0b1110) > 0) & (bits != 255)).tolist()
    explorer.pixel = None
    explorer.wait()
    assert explorer.series is None
    assert explorer._plot.item == {}


def test_date_and_pixel_may_be_moved_at_once():
    found = cloudy()
    explorer = opened(found, pixel=(0, 0))
    for date, pixel in ((1, (5, 6)), (3, (39, 49))):
        explorer.date, explorer.pixel = date, pixel
        explorer.wait()
        assert explorer._picture.caption.startswith(str(found.time.values[date])[:10])
        np.testing.assert_array_equal(
            explorer.series["RED"], found.reflectance.sel(band="RED")[:, pixel[0], pixel[1]]
        )
        explorer.pixel, explorer.date = (pixel[0] - 5, pixel[1] - 6), 0
        explorer.wait()
        assert explorer._picture.caption.startswith("2022-06-01")
        np.testing.assert_array_equal(
            explorer.series["RED"],
            found.reflectance.sel(band="RED")[:, pixel[0] - 5, pixel[1] - 6],
        )


def test_of_samples_the_one_that_is_shown_is_drawn():
    numbers = np.random.default_rng(0).uniform(0, 1, (5, 3, 8, 8)).astype("float32")
    found = xr.Dataset(
        {"reflectance": (("sample", "band", "y", "x"), numbers)},
        coords={"band": ["RED", "GREEN", "BLUE"]},
    )
    explorer = opened(found, pixel=(2, 3))
    for sample in (0, 4, 1):
        explorer.date = sample
        explorer.wait()
        shown = explorer.series[["RED", "GREEN", "BLUE"]].to_numpy()[-1]
        np.testing.assert_array_equal(shown, numbers[sample, :, 2, 3])
        assert len(explorer.series) == 1
        for value in shown:
            assert f"{value:.4g}" in explorer._plot.alt or min(shown) < value < max(shown)


def test_another_scene_starts_anew():
    explorer = opened(cloudy(), date=3, pixel=(39, 49), box=(30, 40, 40, 50), show="RED")
    explorer.scene = scene(10, 12, 2).isel(band=[0, 1])
    explorer.wait()
    assert explorer.state == "result"
    assert (explorer.pixel, explorer.box, explorer.series) == (None, None, None)
    assert explorer.date < 2
    assert pixels(explorer).shape == (10, 12, 3)
    explorer.scene = None
    explorer.wait()
    assert explorer.state == "empty"
    assert explorer.choices == []


def gesture(explorer, kind, *at):
    explorer._picture._handle_custom_msg({"kind": kind, "at": list(at)}, [])
    explorer.wait()
    assert explorer.state == "result", explorer.message


def test_gestures_do_what_code_does():
    explorer = opened(cloudy())
    gesture(explorer, "point", 0.5, 0.5)
    assert explorer.pixel == (20, 25)
    np.testing.assert_allclose(explorer._picture.mark, [25.5 / 50, 20.5 / 40])
    gesture(explorer, "point", 1.0, 1.0)
    assert explorer.pixel == (39, 49)
    gesture(explorer, "box", 0.9, 0.8, 0.1, 0.2)
    assert explorer.box == View(8, 33, 5, 46)
    gesture(explorer, "box", 0.0, 0.0, 1.0, 1.0)
    assert explorer.box == View(0, 40, 0, 50)
    gesture(explorer, "zoom", 0.0, 0.0, 0.5)
    assert explorer.view == View(0, 20, 0, 25)
    for _ in range(10):
        gesture(explorer, "zoom", 1.0, 1.0, 0.5)
    assert explorer.view.shape == (16, 16)
    gesture(explorer, "move", 50, 50)
    assert explorer.view == View(24, 40, 34, 50)
    gesture(explorer, "move", -50, -50)
    assert explorer.view == View(0, 16, 0, 16)
    assert explorer._picture.mark == []  # the pixel is out of sight
    assert pixels(explorer).shape == (16, 16, 3)
    gesture(explorer, "whole")
    assert explorer.view == View(0, 40, 0, 50)
    gesture(explorer, "clear")
    assert (explorer.pixel, explorer.box) == (None, None)
    assert explorer._picture.mark == explorer._picture.box == []


def test_controls_and_traits_move_together():
    explorer = opened(cloudy())
    explorer._date.value = 2
    explorer._show.value = "RED"
    explorer._clouds.value = True
    explorer._overlay.value = "flood"
    explorer._opacity.value = 0.3
    explorer._stretch.value = "full range"
    explorer.wait()
    traits = ("date", "show", "clouds", "overlay", "opacity", "stretch")
    assert [getattr(explorer, name) for name in traits] == [
        2,
        "RED",
        True,
        "flood",
        0.3,
        "full range",
    ]
    explorer.date, explorer.show, explorer.opacity = 1, "NDVI (vegetation)", 0.9
    assert (explorer._date.value, explorer._show.value) == (1, "NDVI (vegetation)")
    assert explorer._opacity.value == 0.9


def test_an_observer_of_a_person_that_raises_is_shown_and_forgotten():
    explorer = opened(cloudy())

    def bad(change):
        raise KeyError("my own table")

    explorer.observe(bad, "date")
    explorer._date.value = 2  # moved on the page: nobody else would see it
    explorer.wait()
    assert explorer.state == "error"
    assert "my own table" in explorer.message
    assert "bad" in explorer._head.detail
    explorer.unobserve(bad, "date")
    explorer._date.value = 3
    explorer.wait()
    assert explorer.state == "result"
    assert explorer._picture.caption.startswith("2022-07-19")


# --- many moves, stopping, closing ---------------------------------------------------------------


class Slow:
    """Arrays whose reading takes its time and is counted; `gate` holds it up."""

    def __init__(self, found, seconds=0.0):
        self.reads, self.seconds, self.gate = [], seconds, threading.Event()
        self.gate.set()
        count = found.sizes["time"]
        values = found.reflectance.values
        parts = [
            da.map_blocks(self._read, da.from_array(values[i], chunks=(6, -1, -1)), i, dtype="f4")
            for i in range(count)
        ]
        self.scene = found.assign(reflectance=(found.reflectance.dims, da.stack(parts)))

    def _read(self, block, date):
        self.reads.append(date)
        time.sleep(self.seconds)
        self.gate.wait(20)
        return block


@pytest.fixture
def large(monkeypatch):
    """Small scenes are treated as those that are too large for memory."""
    monkeypatch.setattr("geowb.widgets.frames._HELD", 0)


def test_of_ten_fast_moves_the_last_is_shown_and_no_queue_builds_up(large):
    slow = Slow(cloudy(dates=12), 0.05)
    explorer = opened(slow.scene)
    assert explorer.state == "result", explorer._head.detail
    serial = explorer._picture.serial
    slow.reads.clear()
    for date in range(1, 11):
        explorer.date = date
    assert explorer.wait(20)
    assert explorer._picture.caption.startswith(str(slow.scene.time.values[10])[:10])
    assert explorer._picture.serial - serial <= 3
    assert len(set(slow.reads)) <= 3
    same(pixels(explorer), pixels(opened(cloudy(dates=12), date=10)), most=0)


def test_moves_that_come_while_a_picture_is_drawn_are_answered_within_two_pictures(large):
    slow = Slow(cloudy(dates=40), 0.02)
    explorer = opened(slow.scene)
    slow.reads.clear()
    for date in range(1, 40):
        explorer.date = date
        time.sleep(0.005)
    assert explorer.wait(20)
    assert explorer._picture.caption.startswith(str(slow.scene.time.values[39])[:10])
    assert slow.reads[-1] == 39
    assert len(slow.reads) < 39


def test_a_scene_that_opens_slowly_can_be_stopped_and_opened_again(large):
    slow = Slow(cloudy())
    slow.gate.clear()
    explorer = SceneExplorer(slow.scene)
    deadline = time.monotonic() + 10
    while not slow.reads and time.monotonic() < deadline:
        time.sleep(0.01)
    explorer._head._handle_custom_msg({"kind": "stop"}, [])
    slow.gate.set()
    assert explorer.wait(10)
    assert explorer.state != "loading"
    assert explorer._picture.png == b""
    explorer.scene = slow.scene
    assert explorer.wait(10)
    assert explorer.state == "result"
    assert pixels(explorer).shape == (40, 50, 3)


def test_a_widget_that_is_closed_while_it_works_leaves_no_thread(large):
    slow = Slow(cloudy(), 0.2)
    explorer = SceneExplorer(slow.scene)
    explorer.close()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        left = [one for one in threading.enumerate() if one.name == "geowb-widget"]
        if not left:
            break
        time.sleep(0.02)
    assert left == []


# --- large files ---------------------------------------------------------------------------------

PATCHES = [(0, 0), (5_200, 5_200), (9_000, 1_000), (2_000, 8_500), (10_380, 10_380)]


def written(path, numbers, mode="r+"):
    """Write patches of numbers into a file."""
    with rasterio.open(path, mode) as file:
        for number, (row, column) in enumerate(PATCHES):
            file.write(numbers(number), window=Window(column, row, 600, 600))


def patch(number, bands=3):
    rng = np.random.default_rng(number)
    return rng.integers(100, 4000, (bands, 600, 600)).astype("int16")


def sparse(path, bands=3):
    profile = {"driver": "GTiff", "width": LARGE, "height": LARGE, "count": bands, "tiled": True}
    profile |= {"dtype": "int16", "crs": 32722, "transform": ORIGIN, "SPARSE_OK": True}
    profile |= {"nodata": -9999, "blockxsize": 512, "blockysize": 512}
    with rasterio.open(path, "w", **profile):
        pass
    written(path, lambda number: patch(number, bands))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("large")


@pytest.fixture(scope="module")
def bare(folder):
    return sparse(folder / "bare.tif")


@pytest.fixture(scope="module")
def stale(folder):
    """A file whose overviews are not of its numbers: 1,000 where there is anything."""
    path = sparse(folder / "stale.tif")
    written(path, lambda _: np.full((3, 600, 600), 1000, "int16"))
    with rasterio.open(path, "r+") as file:
        file.build_overviews([4, 16, 32], rasterio.enums.Resampling.nearest)
    written(path, patch)
    return path


def from_overviews(explorer):
    """Whether the numbers of the picture are those that only the overviews have."""
    explorer.stretch = "full range"
    assert explorer.wait(60)
    frames = explorer._frames
    found = frames.read(0, frames.bands, explorer.view, Turn())
    return set(np.unique(found[np.isfinite(found)])) == {1000}


class Peak:
    """Most memory that Python's own allocations took, in MB."""

    def __enter__(self):
        tracemalloc.start()
        return self

    def __exit__(self, *_):
        self.mb = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()


def test_a_large_file_is_shown_whole_from_its_overviews(stale):
    with Peak() as peak:
        explorer = opened(stale)
    assert explorer.state == "result", explorer._head.detail
    assert explorer.view == View(0, LARGE, 0, LARGE)
    assert from_overviews(explorer)
    assert max(pixels(explorer).shape) <= MOST
    assert peak.mb < 120  # of 723


def test_details_of_a_large_file_are_its_own_numbers(stale):
    explorer = opened(stale, view=(5_200, 5_500, 5_200, 5_600), pixel=(9_100, 1_050))
    frames = explorer._frames
    np.testing.assert_array_equal(
        frames.read(0, frames.bands, explorer.view, Turn()), patch(1)[:, :300, :400]
    )
    np.testing.assert_array_equal(explorer.series[frames.bands].to_numpy()[0], patch(2)[:, 100, 50])


@pytest.mark.parametrize("kind", ["path", "lazy", "dask"])
def test_without_overviews_the_middle_comes_first_and_the_whole_when_asked(bare, kind):
    source = {
        "path": lambda: bare,
        "lazy": lambda: rioxarray.open_rasterio(bare),
        "dask": lambda: rioxarray.open_rasterio(bare, chunks={"x": 2048, "y": 2048}),
    }[kind]()
    with Peak() as peak:
        explorer = opened(source)
        assert explorer.state == "result", explorer._head.detail
        first = explorer.view
        assert "no overviews" in explorer.message
        explorer._gesture("whole", [])
        assert explorer.wait(60)
    assert first.shape == (512, 512)
    assert abs(first.top + first.bottom - LARGE) <= 1
    assert explorer.state == "result", explorer._head.detail
    assert explorer.view == View(0, LARGE, 0, LARGE)
    step = -(-LARGE // MOST)
    values = explorer._frames.read(0, explorer._frames.bands, explorer.view, Turn())
    count = sum(len(range(-r % step, 600, step)) * len(range(-c % step, 600, step))
                for r, c in PATCHES)  # fmt: skip
    assert (values > 0).any()
    assert np.isfinite(values[0]).sum() == pytest.approx(count, rel=0.15)
    assert peak.mb < 200  # of 723


@pytest.mark.parametrize("kind", ["lazy", "dask", "masked"])
def test_an_array_that_a_file_was_opened_as_is_shown_from_its_overviews(stale, kind):
    parts = {"chunks": {"x": 1024, "y": 1024}}
    options = {"lazy": {}, "dask": parts, "masked": parts | {"masked": True}}
    assert from_overviews(opened(rioxarray.open_rasterio(stale, **options[kind])))


def changed(array):
    """Arrays that are not what the file holds, though they still say that they come from it."""
    renamed = array.isel(band=[0, 2, 1]).assign_coords(band=[1, 2, 3])
    second = array.data.copy()
    second = da.stack([second[0], second[1] + 1, second[2]])
    return {
        "other numbers": array.copy(data=array.data + 1),
        "another second band": array.copy(data=second),
        "filled": array.where(array > 2000, 0),
        "flipped": array.isel(y=slice(None, None, -1)),
        "mirrored": array.isel(x=slice(None, None, -1)),
        "flipped under the same coordinates": array.copy(data=array.data[:, ::-1]),
        "shifted": array.assign_coords(x=array.x + 10_000),
        "rolled": array.roll(x=2000),
        "cropped": array.isel(y=slice(100, None), x=slice(100, None)),
        "bands in another order": renamed,
    }


TINY = xr.DataArray(da.zeros((3, 9, 9)), {"band": [1, 2, 3], "x": range(9)}, ("band", "y", "x"))


@pytest.mark.parametrize("kind", changed(TINY))
def test_an_array_that_was_changed_is_never_shown_from_the_file(stale, kind):
    array = changed(rioxarray.open_rasterio(stale, chunks={"x": 2048, "y": 2048}))[kind]
    frames = open_frames(array)
    view = View(5_300, 5_500, 5_250, 5_500)
    ours = array.isel(y=slice(5_300, 5_500), x=slice(5_250, 5_500)).compute().astype("float32")
    expected = ours.where(ours != -9999).values
    np.testing.assert_array_equal(frames.read(0, frames.bands, view, Turn()), expected)
    if kind not in ("shifted",):
        assert frames.files is None


def test_a_band_of_a_file_is_that_band(stale):
    array = rioxarray.open_rasterio(stale, chunks={"x": 1024, "y": 1024})
    frames = open_frames(xr.concat([array] * 1, "band").isel(band=[1]))
    view = View(5_200, 5_300, 5_200, 5_300)
    np.testing.assert_array_equal(
        frames.read(0, frames.bands, view, Turn())[0], patch(1)[1, :100, :100]
    )


def test_only_the_blocks_of_a_part_are_read_of_a_lazy_array():
    seen = []

    def block(block_info=None):
        where = block_info[None]["array-location"]
        seen.append((where[1][0], where[2][0]))
        shape = [stop - start for start, stop in where]
        return np.full(shape, where[1][0] + 1, "float32")

    array = da.map_blocks(block, chunks=((3,), (1000,) * 11, (1000,) * 11), dtype="float32")
    explorer = opened(xr.DataArray(array, dims=("band", "y", "x")))
    assert explorer.state == "result", explorer._head.detail
    assert set(seen) == {(5000, 5000)}
    seen.clear()
    explorer.view = (900, 1100, 0, 100)
    explorer.wait()
    assert set(seen) == {(0, 0), (1000, 0)}
    seen.clear()
    explorer.pixel = (10_999, 10_999)
    explorer.wait()
    assert set(seen) == {(10_000, 10_000)}
    seen.clear()
    assert explorer.series["band 1"].tolist() == [10_001]
    explorer.box = (0, 2000, 0, 10_000)
    assert explorer.selection.sizes["x"] == 10_000
    assert seen == []


def test_reading_a_large_whole_can_be_stopped(bare):
    begun, array = (
        threading.Event(),
        rioxarray.open_rasterio(bare, chunks={"x": 2048, "y": 1024}).drop_encoding(),
    )

    def slowly(block):
        begun.set()
        time.sleep(0.3)
        return block

    explorer = opened(array.copy(data=array.data.map_blocks(slowly, dtype="int16")))
    picture = explorer._picture.png
    began = time.monotonic()
    begun.clear()
    explorer.view = (0, LARGE, 0, LARGE)
    assert begun.wait(10)
    assert (explorer.state, explorer._head.stoppable) == ("loading", True)
    explorer.stop()
    assert explorer.wait(10)
    assert time.monotonic() - began < 10
    assert explorer.state == "result"
    assert explorer._picture.png == picture


# --- entries of a catalog ------------------------------------------------------------------------


def entry(folder, options, uri, metadata="{}"):
    (folder / "catalog.yaml").write_text(
        f"chip:\n  uri: {uri}\n  driver: {{name: raster, options: {options}}}\n"
        f"  metadata: {metadata}\n"
    )
    return open_catalog(folder / "catalog.yaml")["chip"]


def test_an_entry_is_shown_from_the_overviews_of_its_file(stale, folder):
    source = entry(folder, "{bands: [RED, GREEN, BLUE]}", "stale.tif")
    assert from_overviews(opened(source))
    explorer = opened(source.open())
    assert from_overviews(explorer)
    explorer.view = (5_200, 5_700, 5_200, 5_700)
    explorer.wait()
    np.testing.assert_array_equal(
        explorer._frames.read(0, ["BLUE"], explorer.view, Turn())[0], patch(1)[2, :500, :500]
    )


def test_a_scene_of_an_entry_that_was_changed_is_shown_as_it_is(stale, folder):
    found = entry(folder, "{bands: [RED, GREEN, BLUE]}", "stale.tif").open()
    found["reflectance"] = found.reflectance.copy(data=found.reflectance.data * 2)
    explorer = opened(found, view=(5_200, 5_700, 5_200, 5_700))
    np.testing.assert_array_equal(
        explorer._frames.read(0, ["RED"], explorer.view, Turn())[0], patch(1)[0, :500, :500] * 2.0
    )


def test_channels_that_an_entry_leaves_out_are_left_out(stale, folder):
    source = entry(folder, "{bands: [null, RED, GREEN]}", "stale.tif", "{nodata: 1000}")
    explorer = opened(source, view=(5_200, 5_700, 5_200, 5_700))
    values = explorer._frames.read(0, ["RED"], explorer.view, Turn())[0]
    expected = patch(1)[1, :500, :500].astype("float32")
    expected[expected == 1000] = np.nan
    assert np.isnan(expected).any()
    np.testing.assert_array_equal(values, expected)


def test_each_date_of_an_entry_is_its_own_file(folder):
    for number in (1, 2):
        small(folder / f"date_{number}.tif", np.full((3, 90, 80), 100 * number, "int16"))
    source = entry(folder, "{bands: [RED, GREEN, BLUE], dates: ['2022-01-05', '2022-02-06']}",
                   "date_*.tif")  # fmt: skip
    explorer = opened(source, pixel=(5, 5))
    assert explorer._frames.dates == ["2022-01-05", "2022-02-06"]
    assert explorer.series["RED"].tolist() == [100, 200]


def test_each_date_of_a_large_entry_is_read_from_its_own_file(folder, monkeypatch):
    monkeypatch.setattr("geowb.widgets.frames._HELD", 0)
    for number in (1, 2):
        numbers = np.full((3, 90, 80), 100 * number, "int16")
        numbers[0, 5, 5], numbers[1, 6, 6] = -9999, -1
        small(folder / f"day_{number}.tif", numbers, nodata=-9999)
    source = entry(folder, "{bands: [RED, GREEN, BLUE], dates: ['2022-01-05', '2022-02-06']}",
                   "day_*.tif", "{nodata: -1}")  # fmt: skip
    frames = open_frames(source)
    assert frames.files is not None
    for date in (0, 1):
        found = frames.read(date, frames.bands, frames.whole, Turn())
        np.testing.assert_array_equal(found, frames.values(date, frames.bands, frames.whole))
        assert np.isnan(found).sum() == 2
        assert np.nanmax(found) == 100 * (date + 1)


def test_an_entry_that_is_not_here_says_how_it_is_had(folder):
    explorer = opened(entry(folder, "{bands: [RED]}", "nowhere.tif"))
    fails_with(explorer, "nowhere.tif", "chip")
    assert explorer._head.detail == ""
