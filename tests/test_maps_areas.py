"""Areas on the ground, of pixels, classes and zones, against closed forms and brute force."""

from __future__ import annotations

import json

import geopandas
import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401 - gives .rio
import shapely
import xarray as xr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS, Geod, Transformer

from geowb.errors import DataError, RequestError
from geowb.labels.grid import Grid
from geowb.maps import parts, zones
from geowb.maps.areas import area_per_class, pixel_areas
from geowb.maps.files import open_map
from geowb.maps.zones import zonal_summary

UTM = Affine(30, 0, 500_000, 0, -30, 7_000_000)
SINUSOIDAL = "+proj=sinu +R=6371007.181 +units=m"


def grid(crs, transform, height=1, width=1):
    return Grid(CRS.from_user_input(crs), transform, height, width)


def on_ground(where, row, col, points=200):
    """Area of a pixel on the ellipsoid by geodesics between many points of its outline."""
    s, t = np.linspace(0, 1, points), where.transform
    col = np.concatenate([col + s, 0 * s + col + 1, col + 1 - s, 0 * s + col])
    row = np.concatenate([0 * s + row, row + s, 0 * s + row + 1, row + 1 - s])
    x, y = t.a * col + t.b * row + t.c, t.d * col + t.e * row + t.f
    base = where.crs.source_crs or where.crs.geodetic_crs
    lon, lat = Transformer.from_crs(where.crs, base, always_xy=True).transform(x, y)
    return abs(where.crs.get_geod().polygon_area_perimeter(lon, lat)[0])


def array(values, crs=32722, transform=UTM, nodata=None, **attrs):
    """A map in memory."""
    made = xr.DataArray(np.asarray(values), dims=("y", "x"), attrs=attrs)
    height, width = made.shape
    made = made.assign_coords(
        x=transform.c + transform.a * (np.arange(width) + 0.5),
        y=transform.f + transform.e * (np.arange(height) + 0.5),
    ).rio.write_transform(transform)
    made = made if crs is None else made.rio.write_crs(crs)
    return made if nodata is None else made.rio.write_nodata(nodata)


def tiff(file, values, crs=32722, transform=UTM, tags=None, **options):
    """A map in a file."""
    values = np.asarray(values)
    height, width = values.shape
    profile = {"driver": "GTiff", "height": height, "width": width, "count": 1}
    profile |= {"dtype": values.dtype, "crs": crs, "transform": transform, **options}
    units = profile.pop("units", "")
    with rasterio.open(file, "w", **profile) as made:
        made.write(values, 1)
        made.units = (units,)
        made.update_tags(**(tags or {}))
    return file


def polygons(*shapes, crs=32722, **columns):
    return geopandas.GeoDataFrame(columns, geometry=list(shapes), crs=crs)


def box(col, row, wide, high, transform=UTM):
    """A rectangle given in pixels of a map."""
    (x, y), (right, down) = ((transform.c, transform.f), (transform.a, transform.e))
    return shapely.box(
        x + col * right, y + (row + high) * down, x + (col + wide) * right, y + row * down
    )


# --- pixels ----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [4326, 4979, "EPSG:4326+5773"])
def test_a_grid_of_the_whole_earth_has_the_area_of_the_ellipsoid(code):
    where = grid(code, Affine(0.5, 0, -180, 0, -0.5, 90), 360, 720)
    a, b = 6378137.0, 6378137.0 * (1 - 1 / 298.257223563)
    e = np.sqrt(1 - (b / a) ** 2)
    surface = 2 * np.pi * a**2 + np.pi * b**2 / e * np.log((1 + e) / (1 - e))
    assert pixel_areas(where).sum() == pytest.approx(surface, rel=1e-12)


@given(lat=st.floats(-89.9, 89.8), size=st.floats(1e-4, 0.1))
@settings(max_examples=25, deadline=None)
def test_pixels_in_degrees_are_cells_of_the_ellipsoid(lat, size):
    where = grid(4326, Affine(size, 0, 20, 0, -size, lat + size), 1, 1)
    # Geodesics instead of parallels at 200 points an edge; small pixels meet rounding.
    assert pixel_areas(where)[0, 0] == pytest.approx(on_ground(where, 0, 0), rel=1e-6, abs=1e-3)


def test_rows_that_reach_beyond_the_pole_end_there_and_a_sphere_has_no_eccentricity():
    where = grid("+proj=longlat +R=6371000", Affine(1, 0, -180, 0, -1, 90.5), 181, 360)
    assert pixel_areas(where).sum() == pytest.approx(4 * np.pi * 6371000.0**2, rel=1e-12)


PROJECTED = {
    "UTM, its middle": (32722, Affine(10, 0, 499_995, 0, -10, 7_000_000)),
    "UTM, edge of the zone": (32722, Affine(10, 0, 166_000, 0, -10, 9_900_000)),
    "Web Mercator at 60 degrees": (3857, Affine(30, 0, 1e6, 0, -30, 8_399_737.9)),
    "Web Mercator at the equator": (3857, Affine(30, 0, 1e6, 0, -30, 15)),
    "US feet": (2264, Affine(100, 0, 2e6, 0, -100, 6e5)),
    "polar": (3031, Affine(1000, 0, -500, 0, -1000, 500)),
    "Albers": (5070, Affine(30, 0, -2e6, 0, -30, 3e6)),
    "sinusoidal": (SINUSOIDAL, Affine(463.3, 0, -5e6, 0, -463.3, 8e6)),
    "northing first": (2193, Affine(10, 0, 1.6e6, 0, -10, 5.4e6)),
    "rotated": (32722, Affine(30, 5, 166_000, 4, -30, 7_000_000)),
    "rotated degrees": (4326, Affine(2e-3, 1e-3, 10, 5e-4, -2e-3, 55)),
    "south up": (32722, Affine(30, 0, 166_000, 0, 30, 7_000_000)),
}


@pytest.mark.parametrize("name", PROJECTED)
def test_a_pixel_has_its_area_on_the_ground(name):
    where = grid(*PROJECTED[name])
    assert pixel_areas(where)[0, 0] == pytest.approx(on_ground(where, 0, 0), rel=2e-7)


def test_a_pixel_of_web_mercator_at_60_degrees_is_a_quarter_of_what_it_seems():
    where = grid(*PROJECTED["Web Mercator at 60 degrees"])
    # 1 / 4 on the sphere; the ellipsoid adds (N / a)(M / a) = 1.0034 there.
    assert pixel_areas(where)[0, 0] / 900 == pytest.approx(0.25084, abs=1e-5)


@pytest.mark.parametrize(
    ("code", "pixel", "corner", "size"),
    [
        (32722, 30, (166_000, 7_300_000), 4000),
        (32722, 1000, (166_000, 9_900_000), 600),
        (3857, 1000, (0, 16_000_000), 600),
        (3031, 1000, (-3_000_000, 3_000_000), 6000),
        (3995, 12_500, (-4_000_000, 4_000_000), 640),
    ],
)
def test_between_the_nodes_the_scale_holds_to_four_in_ten_million(code, pixel, corner, size):
    where = grid(code, Affine(pixel, 0, corner[0], 0, -pixel, corner[1]), size, size)
    rng = np.random.default_rng(0)
    for row, col in [(0, 0), (size - 1, size - 1), *rng.integers(0, size, (15, 2)).tolist()]:
        found = pixel_areas(where, slice(row, row + 1), slice(col, col + 1))[0, 0]
        assert found == pytest.approx(on_ground(where, row, col), rel=4e-7), (row, col)


@pytest.mark.parametrize("code", [32722, 3857])
def test_parts_of_a_map_are_those_of_the_whole(code):
    where = grid(code, Affine(700, 0, 200_000, 0, -700, 7_000_000), 61, 45)
    whole = pixel_areas(where)
    assert whole.shape == (61, 45)
    for rows, columns in ((slice(7, 30), slice(3, 4)), (slice(60, 61), slice(0, 45))):
        part = pixel_areas(where, rows, columns)
        np.testing.assert_allclose(part, whole[rows, columns], rtol=1e-14)


def test_pixels_beyond_the_earth_have_no_area_and_those_at_its_edge_have():
    sphere = "+proj=moll +R=6371000"
    where = grid(sphere, Affine(1e5, 0, -181e5, 0, -1e5, 91e5), 182, 362)
    areas = pixel_areas(where)
    assert areas[0, 0] == 0
    # An equal-area projection: whole pixels, also at the edge.
    np.testing.assert_allclose(areas[areas > 0], 1e10, rtol=1e-4)
    assert areas.sum() == pytest.approx(4 * np.pi * 6_371_000**2, rel=0.01)


def test_pixel_areas_takes_a_file_and_tells_of_a_crs_without_an_earth(tmp_path):
    file = tiff(tmp_path / "map.tif", np.zeros((4, 5), "uint8"))
    assert pixel_areas(file).shape == (4, 5)
    with pytest.raises(DataError, match="Engineering CRS"):
        pixel_areas(grid('LOCAL_CS["site",UNIT["metre",1]]', UTM))
    bare = tiff(tmp_path / "bare.tif", np.zeros((4, 5), "uint8"), crs=None)
    with pytest.raises(DataError, match=r"bare.tif' has no CRS.*write_crs"):
        pixel_areas(bare)


# --- classes ---------------------------------------------------------------------------------

NAMES = {"flag_values": "0 1 2 7", "flag_meanings": "grass tall_trees water snow"}


def test_areas_of_classes(tmp_path):
    values = np.array([[0, 0, 1, 9], [0, 2, 255, 255]], "uint8")
    table = area_per_class(tiff(tmp_path / "map.tif", values, tags=NAMES, nodata=255))
    pixel = pixel_areas(grid(32722, UTM))[0, 0] / 1e6
    assert table.columns.tolist() == ["class", "value", "pixels", "km2", "share"]
    assert table["class"].tolist() == ["grass", "tall trees", "water", "snow", 9]
    assert table["value"].tolist() == [0, 1, 2, 7, 9]
    assert table["pixels"].tolist() == [3, 1, 1, 0, 1]
    np.testing.assert_allclose(table["km2"], np.array([3, 1, 1, 0, 1]) * pixel, rtol=1e-6)
    np.testing.assert_allclose(table["share"], np.array([3, 1, 1, 0, 1]) / 6, rtol=1e-6)
    assert table.attrs["nodata_pixels"] == 2
    assert table.attrs["nodata_km2"] == pytest.approx(2 * pixel)


def test_in_degrees_a_class_in_the_north_is_smaller(tmp_path):
    transform = Affine(1, 0, 0, 0, -1, 61)
    values = np.ones((61, 2), "uint8")
    values[0] = 0
    table = area_per_class(tiff(tmp_path / "map.tif", values, 4326, transform), classes=["n", "s"])
    # The latitude of 61 to 60 degrees against the whole of 61 to 0, from published lengths.
    assert table["pixels"].tolist() == [2, 120]
    geod, s = Geod(ellps="WGS84"), np.linspace(0, 2, 2001)
    for row, (south, north) in enumerate([(60, 61), (0, 60)]):
        outline = np.r_[s, s[::-1]], np.r_[0 * s + south, 0 * s + north]
        area = abs(geod.polygon_area_perimeter(*outline)[0]) / 1e6
        assert table["km2"][row] == pytest.approx(area, rel=1e-7)


@pytest.mark.parametrize("blocks", ["strips", "tiles", "one block", "zarr", "dask", "memory"])
def test_parts_add_up_whatever_the_blocks(tmp_path, monkeypatch, blocks):
    monkeypatch.setattr(parts, "_CELLS", 1000)
    rng = np.random.default_rng(1)
    values = rng.integers(0, 4, (130, 95)).astype("uint8")
    options = {
        "tiles": {"tiled": True, "blockxsize": 32, "blockysize": 16},
        "one block": {"blockysize": 130},
    }.get(blocks, {"blockysize": 7})
    source = tiff(tmp_path / "map.tif", values, nodata=3, **options)
    if blocks == "zarr":
        made = array(values, nodata=3).to_dataset(name="classes").chunk({"y": 40, "x": 50})
        source = tmp_path / "map.zarr"
        made.to_zarr(source, consolidated=False)
    elif blocks in ("dask", "memory"):
        source = array(values, nodata=3)
        source = source.chunk({"y": 33, "x": 95}) if blocks == "dask" else source
    table = area_per_class(source)
    assert table["pixels"].tolist() == np.bincount(values.ravel())[:3].tolist()
    assert table.attrs["nodata_pixels"] == (values == 3).sum()
    zonal = zonal_summary(source, polygons(box(-1, -1, 97, 132)))
    np.testing.assert_allclose(zonal["km2"], table["km2"], rtol=1e-9)


@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(1, 9), st.integers(1, 9), st.integers(1, 99)
)
@settings(max_examples=60, deadline=None)
def test_windows_meet_each_pixel_once(height, width, high, wide, cells):
    seen = np.zeros((height, width), int)
    found = xr.DataArray(seen, dims=("y", "x"))
    found.encoding["preferred_chunks"] = {"y": high, "x": wide}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "_CELLS", cells)
        for rows, columns in parts.windows(found):
            seen[rows, columns] += 1
            assert seen[rows, columns].size <= 4 * cells
    assert (seen == 1).all()


def test_no_data_is_what_the_house_says_where_a_file_says_nothing():
    values = np.array([[-1, 0, 1, 1]], "int16")
    table = area_per_class(array(values), classes=["a", "b"])
    assert table["pixels"].tolist() == [1, 2]
    assert table.attrs["nodata_pixels"] == 1
    named = area_per_class(array(values), classes={-1: "cloud", 0: "a", 1: "b"})
    assert named["pixels"].tolist() == [1, 1, 2]
    empty = area_per_class(array(np.full((2, 2), -1, "int8")), classes=["a"])
    assert empty["pixels"].tolist() == [0]
    assert empty["share"].isna().all()


def test_a_quantity_is_cut_into_classes_as_the_error_says(tmp_path):
    values = np.array([[50, 150, 250, -9999]], "float32")
    file = tiff(tmp_path / "agb.tif", values, nodata=-9999, units="Mg/ha")
    with pytest.raises(RequestError, match=r"quantity \(float32, Mg/ha\).*zonal_summary") as error:
        area_per_class(file)
    assert "found.where(found != found.rio.nodata)" in str(error.value)
    found = open_map(file)
    found = found.where(found != found.rio.nodata)
    cut = area_per_class((found > 100).where(found.notnull()), classes=["low", "high"])
    assert cut["pixels"].tolist() == [1, 2]
    assert cut.attrs["nodata_pixels"] == 1


def test_maps_that_have_no_classes_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"the map has 0\.5"):
        area_per_class(array([[0.5, 1.0]]), classes=["a", "b"])
    many = np.arange(1200, dtype="int16").reshape(30, 40)
    with pytest.raises(DataError, match="more than 1,000 classes"):
        area_per_class(array(many))
    with pytest.raises(RequestError, match="int16, m"):
        area_per_class(array(many, units="m"))
    layers = array(np.zeros((2, 2), "uint8")).expand_dims(band=[1, 2, 3])
    with pytest.raises(RequestError, match=r"3 layers along 'band'.*isel"):
        area_per_class(layers)


def test_a_part_that_cannot_be_read_is_named(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 9, (512, 512)).astype("uint8")
    file = tiff(tmp_path / "map.tif", values, compress="deflate", blockysize=64)
    whole = bytearray(file.read_bytes())
    whole[20_000:90_000] = bytes(70_000)
    file.write_bytes(whole)
    with pytest.raises(DataError, match=r"rows 0-511, columns 0-511"):
        area_per_class(file)


# --- zones -----------------------------------------------------------------------------------


def brute(values, shape, transform, weights, fine=40):
    """Mean, share-weighted area and covered pixels by many points in each pixel."""
    height, width = values.shape
    step = (np.arange(fine) + 0.5) / fine
    col = (np.arange(width)[:, None] + step).ravel()
    row = (np.arange(height)[:, None] + step).ravel()
    x, y = np.meshgrid(transform.c + transform.a * col, transform.f + transform.e * row)
    inside = shapely.contains_xy(shape, x, y).reshape(height, fine, width, fine).mean((1, 3))
    inside = np.where(np.isfinite(values), inside, 0)
    areas, known = inside * weights, np.nan_to_num(values)
    mean = (areas * known).sum() / areas.sum()
    std = np.sqrt((areas * (known - mean) ** 2).sum() / areas.sum())
    touched = known[inside > 0]
    order = np.argsort(known, axis=None)
    sums = np.cumsum(areas.ravel()[order])
    median = known.ravel()[order][np.searchsorted(sums, sums[-1] / 2)]
    found = {"pixels": inside.sum(), "km2": areas.sum() / 1e6, "mean": mean, "std": std}
    return found | {"min": touched.min(), "median": median, "max": touched.max()}


DEGREES = Affine(2, 0, 10, 0, -2, 75)  # 75 to 51 degrees north: areas differ by a factor of 2.3


@pytest.mark.parametrize(("crs", "transform"), [(32722, UTM), (4326, DEGREES)])
def test_statistics_of_a_zone_are_those_of_many_points(crs, transform):
    rng = np.random.default_rng(3)
    values = (rng.uniform(0, 100, (12, 14)) + 20 * np.arange(12)[:, None]).astype("float32")
    values[3:5, 4:8] = np.nan
    corners = np.array([(1.3, 0.9), (12.7, 2.2), (9.1, 11.6), (6.4, 6.6), (2.2, 10.9)])
    shape = shapely.Polygon(
        corners @ np.diag([transform.a, transform.e]) + [transform.c, transform.f]
    )
    hole = shapely.Polygon(shape.exterior, [shapely.Point(shape.centroid).buffer(
        1.2 * transform.a).exterior.coords])  # fmt: skip
    weights = pixel_areas(grid(crs, transform, 12, 14))
    expected = brute(values, hole, transform, weights)
    table = zonal_summary(array(values, crs, transform, units="Mg/ha"), polygons(hole, crs=crs))
    for name, value in expected.items():
        assert table[name][0] == pytest.approx(value, rel=2e-3), name
    assert table.attrs["units"] == "Mg/ha"
    assert table.attrs["total_units"] == "Mg"
    assert table["total"][0] == pytest.approx(
        expected["mean"] * expected["km2"] * 100, rel=2e-3
    )  # fmt: skip


def test_in_degrees_the_mean_is_weighted_by_area():
    values = np.repeat([[0.0], [100.0]], 3, axis=1)
    transform = Affine(1, 0, 0, 0, -30, 60)
    areas = pixel_areas(grid(4326, transform, 2, 3))[:, 0]
    table = zonal_summary(array(values, 4326, transform), polygons(box(0, 0, 3, 2, transform),
                                                                   crs=4326))  # fmt: skip
    assert table["mean"][0] == pytest.approx(100 * areas[1] / areas.sum(), rel=1e-12)
    assert table["mean"][0] > 57  # 50 if each pixel counted as one
    assert "total" not in table
    assert table["median"][0] == 100


@given(
    constant=st.floats(-1e6, 1e6, width=32),
    x=st.floats(0, 8),
    y=st.floats(0, 8),
    radius=st.floats(0.05, 6),
)
@settings(max_examples=25, deadline=None)
def test_a_constant_map_has_exactly_its_constant(constant, x, y, radius):
    circle = shapely.Point(UTM.c + 30 * x, UTM.f - 30 * y).buffer(30 * radius)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "_CELLS", 20)
        patch.setattr(zones, "_EXACT", 30)
        row = zonal_summary(array(np.full((9, 9), constant)), polygons(circle)).iloc[0]
    assert row["mean"] == row["min"] == row["median"] == row["max"] == constant
    assert row["std"] == 0


@pytest.mark.parametrize(("crs", "transform"), [(32722, UTM), (4326, DEGREES), (3857, UTM)])
def test_zones_that_tile_the_map_add_up_to_it(crs, transform):
    rng = np.random.default_rng(5)
    values = rng.uniform(0, 200, (12, 10))
    values[0, :3] = np.nan
    areas = np.where(np.isfinite(values), pixel_areas(grid(crs, transform, 12, 10)), 0)
    seeds = shapely.MultiPoint(rng.uniform(0, 1, (15, 2)) * [10, 12])
    cells = shapely.intersection(
        shapely.get_parts(shapely.voronoi_polygons(seeds, extend_to=shapely.box(0, 0, 10, 12))),
        shapely.box(0, 0, 10, 12),
    )
    placed = shapely.transform(
        cells, lambda at: at * [transform.a, transform.e] + [transform.c, transform.f]
    )
    table = zonal_summary(
        array(values, crs, transform, units="Mg ha-1"), polygons(*placed, crs=crs)
    )
    assert table["pixels"].sum() == pytest.approx(117, rel=1e-6)
    assert table["km2"].sum() == pytest.approx(areas.sum() / 1e6, rel=1e-6)
    assert table["total"].sum() == pytest.approx((areas * np.nan_to_num(values)).sum() / 1e4,
                                                 rel=1e-6)  # fmt: skip


@pytest.mark.parametrize("kind", ["quantity", "classes"])
@pytest.mark.parametrize(("crs", "transform"), [(32722, UTM), (4326, DEGREES)])
def test_which_share_of_a_polygon_has_data_is_told(crs, transform, kind):
    """The rest has none, or lies beside the map."""
    values = np.ones((10, 10), "float32" if kind == "quantity" else "int16")
    values[:, :5] = np.nan if kind == "quantity" else -1
    legend = {"flag_values": [1], "flag_meanings": "wood"} if kind == "classes" else {}
    found = array(values, crs, transform, None if kind == "quantity" else -1, **legend)
    places = [(0, 0, 10, 10), (5, 0, 10, 10), (5, 0, 5, 10), (6.2, -3, 1.3, 6), (20, 20, 3, 3)]
    table = zonal_summary(found, polygons(*(box(*at, transform) for at in places), crs=crs))
    above = pixel_areas(grid(crs, transform * Affine.translation(0, -3), 6))  # half of it beside
    half = above[3:].sum() / above.sum()
    np.testing.assert_allclose(table["covered"][[0, 1, 2, 4]], [0.5, 0.5, 1, 0], atol=1e-5)
    assert table["covered"][3] == pytest.approx(half, abs=2e-5)
    assert table["covered"][2] == 1
    elsewhere = polygons(*(box(*at, transform) for at in places), crs=crs).to_crs(3857)
    if crs != 4326:  # there edges of ten degrees bend
        other = zonal_summary(found, elsewhere)
        np.testing.assert_allclose(other["covered"], table["covered"], rtol=1e-3)


def test_a_polygon_smaller_than_a_pixel_has_its_own_area():
    values = np.arange(16.0).reshape(4, 4)
    small = polygons(box(1.25, 2.5, 0.1, 0.2), box(1.9, 2.5, 0.4, 0.01), name=["in", "across"])
    table = zonal_summary(array(values), small, by="name")
    assert table["zone"].tolist() == ["in", "across"]
    np.testing.assert_allclose(table["pixels"], [0.02, 0.004], rtol=1e-5)
    np.testing.assert_allclose(table["mean"], [9, 9.75], rtol=1e-5)
    np.testing.assert_allclose(table["km2"], table["pixels"] * 900.72e-6, rtol=1e-4)


@pytest.mark.parametrize("code", [4326, 3857, 32721, 5880])
def test_a_polygon_in_another_crs_covers_the_same_place(tmp_path, code):
    rng = np.random.default_rng(2)
    values = rng.uniform(0, 100, (80, 90)).astype("float32")
    file = tiff(tmp_path / "map.tif", values, nodata=-9999)
    circle = polygons(shapely.Point(UTM.c + 1300, UTM.f - 1200).buffer(700, 64))
    here = zonal_summary(file, circle)
    there = zonal_summary(file, circle.to_crs(code))
    for name in ("pixels", "km2", "mean", "std", "median"):
        assert there[name][0] == pytest.approx(here[name][0], rel=1e-6), name


def test_straight_edges_stay_straight_in_the_polygons_own_crs():
    """The parallel of 60 degrees is an arc on a polar map: 19 km off its chord in 10 degrees."""
    transform = Affine(5000, 0, -1e6, 0, -5000, -2e6)
    values = np.ones((400, 400))
    zone = polygons(shapely.box(-10, 60, 10, 70), crs=4326)
    table = zonal_summary(array(values, 3995, transform), zone)
    lon = np.linspace(-10, 10, 2001)
    outline = np.r_[lon, lon[::-1]], np.r_[0 * lon + 60, 0 * lon + 70]
    area = abs(Geod(ellps="WGS84").polygon_area_perimeter(*outline)[0])
    assert table["km2"][0] == pytest.approx(area / 1e6, rel=1e-5)


def test_no_data_does_not_count_and_scaled_numbers_are_in_their_unit(tmp_path):
    values = np.array([[10, 30, -32768], [-32768, 20, 40]], "int16")
    file = tiff(tmp_path / "agb.tif", values, nodata=-32768, units="t/ha")
    with rasterio.open(file, "r+") as made:
        made.scales, made.offsets = (0.5,), (1,)
    zone = polygons(box(0, 0, 2, 2), box(2, 0, 1, 1), box(50, 50, 1, 1))
    table = zonal_summary(file, zone)
    hectares = pixel_areas(grid(32722, UTM))[0, 0] / 1e4
    assert table["mean"][0] == pytest.approx(11, rel=1e-6)
    assert table["total"][0] == pytest.approx(33 * hectares, rel=1e-6)
    assert table["pixels"].tolist() == [3, 0, 0]
    assert table["km2"].tolist()[1:] == [0, 0]
    assert table.loc[1:, ["mean", "std", "min", "median", "max", "total"]].isna().all(axis=None)


def test_classes_of_zones_are_a_long_table(tmp_path):
    values = np.array([[0, 0, 1, 1], [0, 2, 255, 255]], "uint8")
    file = tiff(tmp_path / "map.tif", values, tags=NAMES, nodata=255)
    zone = polygons(box(0, 0, 2, 2), box(1.5, 0, 1, 2), box(9, 9, 1, 1), stand=["A", "B", "C"])
    table = zonal_summary(file, zone, by="stand")
    assert table.columns.tolist() == ["zone", "class", "value", "km2", "share", "covered"]
    assert table["covered"].unique().tolist() == [1.0, 0.75, 0.0]
    assert table["zone"].tolist() == ["A"] * 4 + ["B"] * 4 + ["C"] * 4
    assert table["class"].tolist() == ["grass", "tall trees", "water", "snow"] * 3
    np.testing.assert_allclose(table["share"][:8], np.r_[[3, 0, 1, 0], [4 / 3] * 3, 0] / 4,
                               rtol=1e-5)  # fmt: skip
    assert table["share"][8:].isna().all()
    pixel = pixel_areas(grid(32722, UTM))[0, 0] / 1e6
    np.testing.assert_allclose(table["km2"], np.r_[3, 0, 1, 0, [0.5] * 3, [0] * 5] * pixel,
                               rtol=1e-5)  # fmt: skip


def test_a_whole_zone_of_classes_is_the_table_of_the_map(tmp_path):
    rng = np.random.default_rng(0)
    file = tiff(tmp_path / "map.tif", rng.integers(0, 3, (24, 16)).astype("uint8"), 4326, DEGREES)
    zonal = zonal_summary(file, polygons(box(0, 0, 16, 24, DEGREES), crs=4326))
    table = area_per_class(file)
    np.testing.assert_allclose(zonal[["km2", "share"]], table[["km2", "share"]], rtol=1e-9)


@pytest.mark.parametrize("suffix", ["geojson", "gpkg", "shp"])
def test_polygons_come_from_files(tmp_path, suffix):
    values = np.arange(12.0).reshape(3, 4)
    crs = 4326 if suffix == "geojson" else 32722
    zone = polygons(box(1, 1, 1, 1), box(2, 0, 1, 2), stand=["A", "B"]).to_crs(crs)
    zone.to_file(tmp_path / f"stands.{suffix}")
    table = zonal_summary(array(values), tmp_path / f"stands.{suffix}", by="stand")
    assert table["zone"].tolist() == ["A", "B"]
    np.testing.assert_allclose(table["mean"], [5, 4], rtol=1e-6)


def test_a_geojson_file_that_names_no_crs_is_in_degrees(tmp_path):
    (shape,) = polygons(box(1, 1, 1, 1)).to_crs(4326).geometry
    file = tmp_path / "stand.geojson"
    features = [{"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(shape)}]
    file.write_text(json.dumps({"type": "FeatureCollection", "crs": None, "features": features}))
    table = zonal_summary(array(np.arange(12.0).reshape(3, 4)), file)
    assert table["mean"][0] == pytest.approx(5, rel=1e-6)


def test_maps_turned_and_mirrored_have_the_same_zones(tmp_path):
    rng = np.random.default_rng(4)
    values = rng.uniform(0, 100, (40, 30)).astype("float32")
    zone = polygons(shapely.Point(UTM.c + 400, UTM.f - 500).buffer(250))
    expected = zonal_summary(array(values), zone)
    turned = Affine(0, -30, UTM.c + 900, -30, 0, UTM.f)  # columns southwards, rows westwards
    file = tiff(tmp_path / "turned.tif", values.T[::-1].copy(), transform=turned)
    south_up = array(values)[::-1]
    for source in (file, south_up, open_map(file)[3:, 2:]):
        found = zonal_summary(source, zone)
        np.testing.assert_allclose(
            found.drop(columns="zone").to_numpy(), expected.drop(columns="zone").to_numpy(),
            rtol=1e-6,
        )  # fmt: skip


def test_countries_far_away_are_rows_without_data():
    """Their outlines cannot be shown in the map's projection, and need not be."""
    lon, lat = Transformer.from_crs(32722, 4326, always_xy=True).transform(UTM.c + 60, UTM.f - 60)
    zone = polygons(
        shapely.box(lon - 5, lat - 5, lon + 5, lat + 5),
        shapely.box(100, -90, 180, 90),
        shapely.box(-180, -90, 180, -60),
        crs=4326,
    )
    table = zonal_summary(array(np.ones((4, 4))), zone)
    assert table["pixels"].tolist() == [16, 0, 0]


def test_a_map_across_the_antimeridian():
    """UTM zone 1 reaches to both sides of it."""
    transform = Affine(1000, 0, 100_000, 0, -1000, 8_000_000)
    values = np.ones((50, 400))
    halves = polygons(shapely.box(170, 60, 180, 80), shapely.box(-180, 60, -170, 80), crs=4326)
    table = zonal_summary(array(values, 32601, transform), halves)
    assert table["pixels"].sum() == pytest.approx(values.size, rel=1e-5)
    assert (table["pixels"] > 1000).all()


def test_a_map_of_the_world_and_polygons_at_the_pole():
    mercator = Affine(2e5, 0, -2e7, 0, -2e5, 2e7)
    south = polygons(shapely.box(-180, -90, 180, -60), crs=4326)
    table = zonal_summary(array(np.ones((200, 200)), 3857, mercator), south)
    assert table["pixels"][0] == pytest.approx(200 * 58.0, rel=1e-2)
    globe = "+proj=ortho +R=6371000"
    source = array(np.ones((140, 140)), globe, Affine(1e5, 0, -7e6, 0, -1e5, 7e6))
    here = polygons(shapely.box(-1, -1, 1, 1), crs=4326)
    area = abs(Geod(ellps="WGS84").geometry_area_perimeter(here.geometry[0])[0]) / 1e6
    assert zonal_summary(source, here)["km2"][0] == pytest.approx(area, rel=0.01)
    with pytest.raises(DataError, match=r"Polygon 1 \(0\) reaches beyond what can be shown"):
        zonal_summary(source, south)


def test_a_zone_along_edges_of_pixels_holds_no_others():
    """Rounding in another CRS makes slivers of its neighbours."""
    values = np.full((9, 9), 1000.0)
    values[2:6, 3:8] = 5
    table = zonal_summary(array(values), polygons(box(3, 2, 5, 4)).to_crs(4326))
    assert table["max"][0] == 5
    assert table["pixels"][0] == pytest.approx(20, rel=1e-6)


def test_a_polygon_that_crosses_itself_is_repaired():
    bow = shapely.Polygon([(0, 0), (4, 4), (4, 0), (0, 4)])
    placed = shapely.transform(bow, lambda at: at * [30, -30] + [UTM.c, UTM.f])
    table = zonal_summary(array(np.ones((4, 4))), polygons(placed, box(0, 0, 1, 1), n=["bow", "b"]),
                          by="n")  # fmt: skip
    assert table["pixels"].tolist() == pytest.approx([8, 1])
    assert table.attrs["repaired"] == ["bow"]


def test_polygons_that_cannot_be_used_are_told(tmp_path):
    found, good = array(np.ones((4, 4))), box(0, 0, 1, 1)
    with pytest.raises(RequestError, match="holds LineString, Point; a zone is a polygon"):
        zonal_summary(found, polygons(good, shapely.Point(0, 0), good.boundary))
    with pytest.raises(DataError, match=r"polygon 2 \(n 'b'\) is empty"):
        zonal_summary(found, polygons(good, shapely.Polygon(), n=["a", "b"]), by="n")
    with pytest.raises(DataError, match=r"polygon 2 \(index 1\) is empty"):
        zonal_summary(found, polygons(good, None))
    with pytest.raises(DataError, match=r"has no CRS.*set_crs"):
        zonal_summary(found, polygons(good, crs=None))
    with pytest.raises(RequestError, match=r"no column 'nam'\. Did you mean 'name'"):
        zonal_summary(found, polygons(good, name=["a"]), by="nam")
    with pytest.raises(RequestError, match="polygons is a list"):
        zonal_summary(found, [good])
    with pytest.raises(DataError, match="no file"):
        zonal_summary(found, tmp_path / "none.gpkg")
    with pytest.raises(DataError, match="no CRS"):
        zonal_summary(array(np.ones((4, 4)), crs=None), polygons(good))


def test_polygons_that_all_lie_elsewhere_are_told_with_both_boxes():
    found = array(np.ones((4, 4)))
    wrong = polygons(box(0, 0, 1, 1), crs=32723)
    with pytest.raises(DataError, match=r"EPSG:32723.*x 500000 to 500030.*EPSG:32722.*CRS"):
        zonal_summary(found, wrong)
    swapped = polygons(shapely.box(-27.1, -51.1, -27.0, -51.0), crs=4326)
    with pytest.raises(DataError, match="None of the 1 polygons lies on the map"):
        zonal_summary(found, swapped)


def test_the_median_of_many_values_is_close(monkeypatch):
    values = np.random.default_rng(0).gamma(2, 50, (71, 71))
    source = array(values, 6933)  # equal areas
    exact = zonal_summary(source, polygons(box(0, 0, 71, 71), crs=6933))
    assert exact["median"][0] == pytest.approx(np.median(values), rel=1e-12)
    even = zonal_summary(source, polygons(box(0, 0, 2, 1), crs=6933))
    assert even["median"][0] == pytest.approx(values[0, :2].mean(), rel=1e-12)
    monkeypatch.setattr(zones, "_EXACT", 500)
    monkeypatch.setattr(parts, "_CELLS", 200)
    close = zonal_summary(source, polygons(box(0, 0, 71, 71), crs=6933))
    assert close["median"][0] == pytest.approx(np.median(values), rel=6.2e-5)
    for table in (exact, close):
        assert table["mean"][0] == pytest.approx(values.mean(), rel=1e-8)
        assert table["std"][0] == pytest.approx(values.std(), rel=1e-8)
