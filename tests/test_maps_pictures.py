"""Maps on paper: values, classes, axes and no data are those of the map."""

import numpy as np
import PIL.Image
import pytest
import rasterio
import rioxarray  # noqa: F401
import xarray as xr
from affine import Affine
from scenes import scene

from geowb import plots
from geowb.errors import DataError, RequestError
from geowb.maps.looks import drawn
from geowb.maps.static import plot_map
from geowb.plots.axes import holoviews

LEGEND = {"flag_values": "0 1 4", "flag_meanings": "water open_forest bare"}


@pytest.fixture
def tif(tmp_path):
    """Write an array into a GeoTIFF."""

    def write(values, *, crs=32722, at=(500_000, 7_000_000), pixel=30.0, name="map", **how):
        values = np.asarray(values)
        file = tmp_path / f"{name}.tif"
        tags, table = how.pop("tags", {}), how.pop("table", None)
        transform = how.pop("transform", Affine(pixel, 0, at[0], 0, -pixel, at[1]))
        shape = {"height": values.shape[0], "width": values.shape[1], "count": 1}
        how = {"crs": crs, "transform": transform, "dtype": values.dtype} | shape | how
        with rasterio.open(file, "w", driver="GTiff", **how) as raster:
            raster.write(values, 1)
            raster.update_tags(**tags)
            if table:
                raster.write_colormap(1, table)
        return file

    return write


def image(element):
    """Numbers of a picture as they are seen, the first row at the top."""
    data = element.get(0) if type(element).__name__ == "Overlay" else element
    planes = [data.dimension_values(d, flat=False)[::-1] for d in data.vdims]
    return planes[0] if len(planes) == 1 else np.stack(planes, axis=-1)


def legend(element):
    """Class names and their colours."""
    return {
        points.label: holoviews()
        .Store.lookup_options("matplotlib", points, "style")
        .kwargs["color"]
        for points in list(element)[1:]
    }


def options(element, group):
    return holoviews().Store.lookup_options("matplotlib", element, group).kwargs


def test_a_quantity_has_its_values_its_unit_and_white_where_there_are_none(tif):
    values = np.arange(12, dtype="float32").reshape(3, 4)
    values[0, 0] = -9999
    picture = plot_map(tif(values, nodata=-9999, tags={"units": "Mg/ha"}), title="AGB")
    expected = np.where(values < 0, np.nan, values)
    assert np.array_equal(image(picture), expected, equal_nan=True)
    assert picture.bounds.lbrt() == pytest.approx((0, 0, 0.12, 0.09))
    told = options(picture, "plot")
    assert (told["clabel"], told["title"]) == ("Mg/ha", "AGB")
    low, high = np.nanpercentile(expected, [1, 99])
    assert told["clim"] == pytest.approx((low, high))
    assert options(plot_map(tif(values), limits=(2, 5), units="t"), "plot")["clim"] == (2, 5)


def test_what_a_mask_hides_is_no_data(tif):
    file = tif(np.arange(4, dtype="float32").reshape(2, 2))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(file, "r+") as raster:
        raster.write_mask(np.array([[0, 255], [255, 255]], "uint8"))
    assert np.array_equal(image(plot_map(file)), [[np.nan, 1], [2, 3]], equal_nan=True)


def test_numbers_that_stand_for_others_are_drawn_in_the_unit(tif):
    values = xr.DataArray(
        np.array([[10, -1], [20, 30]], "int16"),
        dims=("y", "x"),
        attrs={"units": "m", "scale_factor": 0.5, "add_offset": 1.0, "_FillValue": -1},
    )
    assert np.array_equal(image(plot_map(values)), [[6, np.nan], [11, 16]], equal_nan=True)


def test_a_large_file_is_reduced_by_means_and_keeps_its_size_on_the_ground(tif):
    values = np.tile(np.array([[0, 2], [4, 6]], "float32"), (50, 80))
    file = tif(values, tags={"units": "m"})
    picture = plot_map(file, size=40)
    assert image(picture).shape == (40, 40)
    assert np.nanmax(np.abs(image(plot_map(file, size=50)) - 3)) < 1.1
    assert picture.bounds.lbrt() == pytest.approx((0, 0, 160 * 0.03, 100 * 0.03))


def test_an_overview_is_read_where_there_is_one(tif):
    file = tif(np.full((256, 256), 8, "float32"), tags={"units": "m"}, tiled=True)
    with rasterio.open(file, "r+") as raster:
        raster.build_overviews([4], rasterio.enums.Resampling.nearest)
        # The full resolution is changed beneath it: only the overview still has the 8.
    with rasterio.open(file, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as raster:
        raster.write(np.full((256, 256), 1, "float32"), 1)
    assert (image(plot_map(file, size=64)) == 8).all()
    assert (image(plot_map(file, size=256)) == 1).all()


def test_an_array_is_thinned_in_parts_to_the_pixels_in_the_middle(monkeypatch):
    from geowb.maps import looks

    values = xr.DataArray(np.arange(9 * 900.0).reshape(9, 900), dims=("y", "x"))
    monkeypatch.setattr(
        looks,
        "windows",
        lambda found: [
            (slice(a, min(a + 2, 9)), slice(b, b + 100))
            for a in range(0, 9, 2)
            for b in range(0, 900, 100)
        ],
    )
    seen = drawn(values, size=300)
    assert np.array_equal(seen.values, values[:, 1::3])
    assert seen.given.all()
    assert np.array_equal(drawn(values, size=3).values, values[1::3, 150::300])


def test_a_large_array_in_parts_equals_itself_thinned_at_once():
    values = xr.DataArray(np.random.default_rng(0).random((1500, 1001)), dims=("y", "x"))
    rows, columns = (((np.arange(200) + 0.5) * n / 200).astype(int) for n in values.shape)
    assert np.array_equal(drawn(values, size=200).values, values.values[np.ix_(rows, columns)])


def test_classes_have_one_colour_each_and_a_legend_of_those_that_occur(tif):
    values = np.array([[0, 0, 1], [1, 1, -1]], "int16")
    picture = plot_map(tif(values, nodata=-1, tags=LEGEND))
    assert legend(picture) == {"water": "#0072B2", "open forest": "#D55E00"}
    blue, red, white = (0, 0x72, 0xB2), (0xD5, 0x5E, 0), (255, 255, 255)
    assert [[tuple(p) for p in row] for row in image(picture).tolist()] == [
        [blue, blue, red],
        [red, red, white],
    ]
    # The same class has the same colour where another one is missing.
    other = plot_map(tif(np.where(values == 0, 4, values), nodata=-1, tags=LEGEND))
    assert legend(other) == {"open forest": "#D55E00", "bare": "#009E73"}
    more = plot_map(tif(np.where(values == 0, 2, values), nodata=-1, tags=LEGEND))
    assert legend(more) == {"open forest": "#D55E00", "2": "#CC79A7"}


def test_names_and_colours_can_be_given(tif):
    file = tif(np.array([[0, 1]], "uint8"))
    assert list(legend(plot_map(file, classes=["burnt", "not"]))) == ["burnt", "not"]
    chosen = plot_map(file, classes={0: "a", 1: "b"}, colours={1: "red"})
    assert legend(chosen) == {"a": "#0072B2", "b": "#ff0000"}
    assert legend(plot_map(file, colours=["k", "white"])) == {"0": "#000000", "1": "#ffffff"}
    with pytest.raises(RequestError, match="class 1 is 'reed'"):
        plot_map(file, colours=["k", "reed"])


def test_a_colour_table_wins_but_not_over_the_person(tif):
    file = tif(np.array([[3, 7]], "uint8"), table={3: (1, 2, 3, 255), 7: (250, 0, 0, 255)})
    assert legend(plot_map(file)) == {"3": "#010203", "7": "#fa0000"}
    assert legend(plot_map(file, colours={3: "#ffffff"}))["3"] == "#ffffff"


def test_many_classes_have_many_colours_and_whole_heights_are_no_classes(tif):
    values = np.arange(30, dtype="uint8").reshape(5, 6)
    colours = list(legend(plot_map(tif(values))).values())
    assert len(set(colours)) == 30
    named = plot_map(tif(values), classes={n: f"class {n}" for n in range(30)})
    assert len(set(legend(named).values())) == 30
    heights = np.arange(100, dtype="int16").reshape(10, 10)
    assert np.array_equal(image(plot_map(tif(heights))), heights)


def test_what_has_no_unit_says_none():
    share = xr.DataArray(np.linspace(0, 1, 16).reshape(4, 4), dims=("y", "x"), attrs={"units": "1"})
    assert drawn(share, size=4).look.units == ""
    assert drawn(share.assign_attrs(units="m"), size=4).look.units == "m"


def test_axes_are_those_of_the_ground(tif):
    values = np.arange(20.0).reshape(4, 5)
    degrees = plot_map(tif(values, crs=4326, at=(10, 60), pixel=0.5))
    assert degrees.bounds.lbrt() == pytest.approx((10, 58, 12.5, 60))
    assert options(degrees, "plot")["aspect"] == pytest.approx(2.5 * np.cos(np.radians(59)) / 2)
    feet = plot_map(tif(values, crs=2263))
    assert feet.bounds.lbrt()[2] == pytest.approx(5 * 30 * 0.3048006 / 1000)
    bare = plot_map(tif(values, crs=None, at=(0, 0), pixel=1))
    assert bare.bounds.lbrt() == (0, -4, 5, 0)
    assert options(bare, "plot")["xlabel"] == "x"
    turned = Affine.translation(5e5, 7e6) @ Affine.rotation(30) @ Affine.scale(30, -30)
    assert options(plot_map(tif(values, transform=turned)), "plot")["xlabel"] == "pixels"


@pytest.mark.parametrize(("shape", "metres"), [((6, 1), (10, 60)), ((1, 6), (60, 10))])
def test_a_map_one_pixel_wide_has_the_size_that_its_file_says(tif, shape, metres):
    picture = plot_map(tif(np.arange(6.0).reshape(shape), pixel=10))
    assert np.array_equal(image(picture), np.arange(6.0).reshape(shape))
    assert picture.bounds.lbrt() == pytest.approx((0, 0, metres[0] / 1000, metres[1] / 1000))
    assert options(picture, "plot")["xlabel"].endswith("not to scale")


def test_north_is_up_whichever_way_the_rows_run(tif):
    values = np.arange(6.0).reshape(3, 2)
    up = tif(values, transform=Affine(30, 0, 5e5, 0, 30, 7e6))
    assert np.array_equal(image(plot_map(up)), values[::-1])
    array = scene(8, 9).agb_dense
    assert np.array_equal(image(plot_map(array.isel(y=slice(None, None, -1)))), array.values)


def test_a_zarr_is_drawn_like_the_array_it_holds(tmp_path):
    stored = scene(8, 9)[["agb", "agb_dense"]]
    stored.to_zarr(tmp_path / "map.zarr", consolidated=False)
    picture = plot_map(tmp_path / "map.zarr", variable="agb_dense")
    assert np.array_equal(image(picture), stored.agb_dense.values)
    assert picture.bounds.lbrt() == pytest.approx((0, 0, 0.27, 0.24))


def test_a_map_without_data_and_one_of_one_value(tif):
    empty = plot_map(tif(np.full((4, 5), np.nan)), title="AGB")
    assert options(empty, "plot")["title"] == "AGB: no data"
    assert (image(empty) == 255).all()
    none = plot_map(tif(np.full((4, 5), 255, "uint8"), nodata=255, tags=LEGEND))
    assert options(none, "plot")["title"] == "no data"
    same = plot_map(tif(np.full((4, 5), 7.0)))
    assert options(same, "plot")["clim"] == pytest.approx((6.3, 7.7))
    assert options(plot_map(tif(np.zeros((4, 5)))), "plot")["clim"] == (-1, 1)


@pytest.mark.parametrize("shape", [(40, 60), (200, 20), (20, 200), (30, 1), (1, 30), (1, 1)])
@pytest.mark.parametrize("kind", ["values", "classes", "none"])
def test_every_shape_becomes_a_png(tif, tmp_path, shape, kind):
    values = np.random.default_rng(0).uniform(0, 5, shape).astype("float32")
    values = {"values": values, "classes": values.astype("uint8"), "none": values * np.nan}[kind]
    plots.show(plot_map(tif(values), title="a map"), tmp_path / "map.png")
    with PIL.Image.open(tmp_path / "map.png") as png:
        assert min(png.size) > 50
        assert max(png.size) < 800


def test_colours_of_the_png_are_those_of_the_legend(tif, tmp_path):
    values = np.array([[0, 1]], "uint8").repeat(20, 0).repeat(10, 1)
    plots.show(plot_map(tif(values, tags=LEGEND)), tmp_path / "map.png")
    with PIL.Image.open(tmp_path / "map.png") as png:
        counts = {colour: n for n, colour in png.convert("RGB").getcolors(1 << 20)}
    for colour in ((0, 0x72, 0xB2), (0xD5, 0x5E, 0)):
        assert counts[colour] > 5_000  # half of the map, and a square


def test_what_cannot_be_drawn_is_said(tif, tmp_path):
    file = tif(np.zeros((4, 5)))
    with pytest.raises(RequestError, match=r"low and a higher number.*\(5, 5\)"):
        plot_map(file, limits=(5, 5))
    with pytest.raises(RequestError, match=r"no colour map 'viridi'. Did you mean 'viridis'"):
        plot_map(file, cmap="viridi")
    with pytest.raises(RequestError, match="size is 0"):
        plot_map(file, size=0)
    with pytest.raises(RequestError, match="There is no map"):
        plot_map(tmp_path / "gone.tif")
    with pytest.raises(RequestError, match="6 layers along 'band'"):
        plot_map(scene(4, 4).reflectance.isel(time=0))
    broken = tif(np.random.default_rng(0).random((300, 300)), name="cut", compress="deflate")
    data = bytearray(broken.read_bytes())
    data[1_000:600_000] = b"\xff" * 599_000
    broken.write_bytes(data)
    with pytest.raises(DataError, match=r"cut\.tif' cannot be read"):
        plot_map(broken)
