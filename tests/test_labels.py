"""Labels of one's own: GEDI granules, field plots, and their way onto a scene's grid."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path

import geopandas
import h5py
import numpy as np
import pandas as pd
import pytest
import rasterio.features
import rasterio.transform
import rioxarray  # noqa: F401 - gives .rio
import shapely
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod, Transformer
from scenes import scene

from geowb import labels
from geowb.errors import DataError, RequestError
from geowb.labels.granule import BEAMS, write_granule
from geowb.world import scene as simulate

BEAM = "BEAM0101"
SIDE = 20 * 30.0  # of `place()`, metres


def place(size=20, crs=32722):
    """An empty scene: its north-west corner is at 500 000 east, 7 000 000 north."""
    made = scene(size, size).drop_vars(["agb", "agb_dense"])
    return made if crs == 32722 else made.rio.write_crs(crs)


def points(x, y, agb=100.0, **columns):
    """Points given in the scene's own metres, as a table in degrees."""
    lon, lat = Transformer.from_crs(32722, 4326, always_xy=True).transform(x, y)
    return pd.DataFrame(
        {"lon": np.atleast_1d(lon), "lat": np.atleast_1d(lat), "agb": agb} | columns
    )


def near(x, y, **columns):
    """Points by metres east and south of the corner of `place()`."""
    return points(500_000 + np.asarray(x, float), 7_000_000 - np.asarray(y, float), **columns)


@pytest.fixture(scope="module")
def world():
    return simulate("cerrado", seed=2, size=96, dates=2, gedi_fraction=0.02)


@pytest.fixture(scope="module")
def granule(world, tmp_path_factory):
    return write_granule(world, tmp_path_factory.mktemp("gedi") / "simulated.h5", seed=1)


@pytest.fixture
def altered(granule, tmp_path):
    """The world's granule with something changed in it."""

    def make(change, name="altered.h5"):
        copy = tmp_path / name
        copy.write_bytes(granule.read_bytes())
        with h5py.File(copy, "r+") as file:
            change(file)
        return copy

    return make


# --- granules --------------------------------------------------------------------------------


@pytest.mark.real
def test_a_real_granule_as_read_by_h5py_itself(geowb_data):
    [archive] = (geowb_data / "gedi_l4a").glob("*.zip")
    with zipfile.ZipFile(archive) as packed:
        file = h5py.File(io.BytesIO(packed.read(packed.namelist()[0])))
    beams = [key for key in file if key.startswith("BEAM")]
    column = lambda name: np.concatenate([file[beam][name][()] for beam in beams])  # noqa: E731
    shots = labels.read_gedi(archive)
    assert len(shots) == 966 == column("agbd").size
    assert shots["agb"].isna().sum() == (column("agbd") == -9999).sum() == 71
    assert np.array_equal(shots["shot_number"], column("shot_number"))
    assert np.array_equal(shots["lat"], column("lat_lowestmode"))
    assert np.array_equal(shots["leaf_off_flag"], column("land_cover_data/leaf_off_flag"))
    assert shots.groupby("power")["beam"].nunique().to_dict() == {"coverage": 4, "full": 4}
    # The name has the start of the orbit, which takes 93 minutes: 2021, day 150, 03:12:54.
    minutes = (shots["time"] - pd.Timestamp("2021-05-30 03:12:54")).dt.total_seconds() / 60
    assert minutes.between(46, 93).all()  # the third quarter of it
    assert shots["granule"].unique().tolist() == [archive.stem + ".h5"]

    good = labels.usable(shots)
    passed = column("l4_quality_flag") == 1
    assert len(good) == 733 == passed.sum()
    assert (good["agb"].min(), good["agb"].max()) == (0.0, pytest.approx(1295.5765))
    assert good["agb_se"].astype(float).sum() == pytest.approx(
        column("agbd_se")[passed].sum(dtype=float), rel=1e-12
    )
    assert labels.funnel(shots)["left"].tolist() == [966, 733, 733]
    with pytest.raises(DataError, match=r"None of 966 .* leave 733: degraded=True keeps them"):
        labels.usable(shots, degraded=False)
    assert labels.check_labels(str(archive)) == []
    assert "degraded=True" in labels.check_labels(str(archive.parent), degraded=False)[0]


@pytest.mark.real
def test_shots_of_a_real_granule_on_a_grid(geowb_data):
    good = labels.usable(labels.read_gedi(geowb_data / "gedi_l4a"))
    x, y = Transformer.from_crs(4326, 32721, always_xy=True).transform(good["lon"], good["lat"])
    west, north = np.median(x) - 15_000, np.median(y) + 15_000
    steps = 30 * (np.arange(1000) + 0.5)
    one = xr.Dataset(coords={"y": north - steps, "x": west + steps}).rio.write_crs(32721)
    grid = labels.to_grid(good, one)
    transform = rasterio.transform.from_origin(west, north, 30, 30)
    good["row"], good["col"] = rasterio.transform.rowcol(transform, x, y)
    inside = good[good["row"].between(0, 999) & good["col"].between(0, 999)]
    assert 100 < len(inside) < 733
    mean = inside.groupby(["row", "col"])["agb"].mean()
    rows, cols = (mean.index.get_level_values(level).to_numpy() for level in (0, 1))
    assert np.array_equal(np.argwhere(grid.agb.notnull().values), np.stack([rows, cols], 1))
    assert np.allclose(grid.agb.values[rows, cols], mean, rtol=1e-6)
    assert grid.agb.attrs["points_inside"] == len(inside)


def test_the_simulated_granule_gives_the_scene_back(world, granule):
    shots = labels.read_gedi(granule)
    count = int(world.agb.notnull().sum())
    assert len(shots) == count + -(-count // 3)
    assert shots["agb"].isna().sum() == -(-(len(shots) - count) // 2)
    assert set(shots["beam"]) == set(BEAMS)
    assert set(shots["power"]) == {"full", "coverage"}
    assert shots["shot_number"].is_unique
    assert all(beam["time"].is_monotonic_increasing for _, beam in shots.groupby("beam"))
    assert str(world.time.values[0])[:10] == str(shots["time"].min())[:10]
    again = labels.to_grid(labels.usable(shots), world.drop_vars(["agb", "agb_se"]))
    assert np.array_equal(again.agb, world.agb, equal_nan=True)
    assert np.array_equal(again.agb_se, world.agb_se, equal_nan=True)
    assert again.agb.dtype == again.agb_se.dtype == np.float32
    assert again.agb_count.dtype == np.int16
    assert int(again.agb_count.sum()) == count
    assert again.agb.rio.crs == world.rio.crs
    assert f"{count:,} shots, {count:,} inside the scene" in labels.told(again)
    # Shots lie anywhere in their pixels.
    x, _ = Transformer.from_crs(4326, world.rio.crs, always_xy=True).transform(
        *shots.iloc[:, :2].T.values
    )
    within = (x - world.rio.transform().c) / 30 % 1
    assert 0.2 < within.std() < 0.4


def test_a_granule_needs_shots_and_a_name(world, tmp_path):
    with pytest.raises(RequestError, match=r"ends in \.h5"):
        write_granule(world, tmp_path / "a.hdf")
    with pytest.raises(DataError, match="no agb_se"):
        write_granule(world.drop_vars("agb_se"), tmp_path / "a.h5")
    with pytest.raises(DataError, match="no CRS"):
        write_granule(world.drop_vars("spatial_ref"), tmp_path / "a.h5")
    assert not list(tmp_path.iterdir())


def test_granules_from_lists_folders_and_archives(granule, tmp_path):
    with zipfile.ZipFile(tmp_path / "two.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(granule, "deep/a.h5")
        archive.write(granule, "b.h5")
    (tmp_path / "c.h5").write_bytes(granule.read_bytes())
    one = len(labels.read_gedi(granule))
    shots = labels.read_gedi(tmp_path)
    assert shots.groupby("granule").size().to_dict() == {"a.h5": one, "b.h5": one, "c.h5": one}
    listed = labels.read_gedi([tmp_path / "c.h5", str(tmp_path / "two.zip")])
    assert listed["granule"].unique().tolist() == ["c.h5", "a.h5", "b.h5"]
    assert len(listed) == 3 * one


def test_bounds_cut_shots(granule):
    shots = labels.read_gedi(granule)
    west, east = shots["lon"].quantile([0.2, 0.7])
    south, north = shots["lat"].quantile([0.3, 0.9])
    cut = labels.read_gedi(granule, bounds=(west, south, east, north))
    inside = shots["lon"].between(west, east) & shots["lat"].between(south, north)
    assert 0 < len(cut) < len(shots)
    assert cut.equals(shots[inside].reset_index(drop=True))
    around = labels.read_gedi(granule, bounds=(east, -90, west, 90))
    assert len(around) == ((shots["lon"] >= east) | (shots["lon"] <= west)).sum()
    with pytest.raises(DataError, match=r"No shot of the 1 granule.*\(10, 10, 11, 11\)"):
        labels.read_gedi(granule, bounds=(10, 10, 11, 11))
    for wrong in ((1, 2, 3), (0, 5, 1, 4), (0, 0, 1, np.nan)):
        with pytest.raises(RequestError, match="west, south, east, north"):
            labels.read_gedi(granule, bounds=wrong)


def test_files_that_are_no_granules(altered, tmp_path):
    (tmp_path / "text.h5").write_text("lon,lat\n")
    with pytest.raises(DataError, match=r"text\.h5 is no HDF5 file"):
        labels.read_gedi(tmp_path / "text.h5")
    with pytest.raises(DataError, match="no file or folder"):
        labels.read_gedi(tmp_path / "absent.h5")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no granule"):
        labels.read_gedi(tmp_path / "empty")
    with pytest.raises(RequestError, match="list of files is empty"):
        labels.read_gedi([])
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("plots.csv", "lon,lat\n")
    with pytest.raises(DataError, match=r"no \.h5 in it"):
        labels.read_gedi(tmp_path / "other.zip")
    (tmp_path / "torn.zip").write_bytes((tmp_path / "other.zip").read_bytes()[:40])
    with pytest.raises(DataError, match="cannot be unpacked"):
        labels.read_gedi(tmp_path / "torn.zip")
    whole = altered(lambda file: None)
    whole.write_bytes(whole.read_bytes()[:-5000])
    with pytest.raises(DataError, match=r"altered\.h5 is no HDF5 file that can be read"):
        labels.read_gedi(whole)


def test_other_products_and_missing_datasets_are_named(altered):
    def other(file):
        for beam in BEAMS:
            del file[beam]
        file.attrs["short_name"] = np.bytes_("GEDI_L2A")

    with pytest.raises(DataError, match=r"no group BEAM.*its product is 'GEDI_L2A'"):
        labels.read_gedi(altered(other))
    with pytest.raises(DataError, match="its product is 'GEDI_L4C'"):
        labels.read_gedi(altered(lambda file: file.attrs.update(short_name="GEDI_L4C")))

    def bare(file):
        del file[BEAM]["degrade_flag"], file[BEAM]["land_cover_data"]

    with pytest.raises(DataError, match=rf"{BEAM} lacks degrade_flag, land_cover_data/leaf_off"):
        labels.read_gedi(altered(bare))


def test_what_each_criterion_drops():
    shots = pd.DataFrame({
        "lon": [0.0] * 7, "lat": [0.0] * 6 + [np.nan],
        "agb": [1, np.nan, -1, 2, 3, 0, 5], "l4_quality_flag": [1] * 7,
        "sensitivity": [0.9, 0.9, 0.9, 0.99, 0.99, 0.99, 0.99],
        "leaf_off_flag": [0, 0, 0, 1, 255, 0, 0], "degrade_flag": [0, 0, 0, 0, 0, 70, 0],
    })  # fmt: skip
    assert labels.usable(shots)["agb"].tolist() == [1, 2, 3, 0]
    options = {"min_sensitivity": 0.95, "leaf_off": False, "degraded": False}
    assert labels.usable(shots, **options)["agb"].tolist() == [3]
    table = labels.funnel(shots, **options)
    assert table["dropped"].tolist() == [0, 0, 3, 1, 1, 1]
    assert table["left"].tolist() == [7, 7, 4, 3, 2, 1]
    with pytest.raises(DataError, match=r"'agb is 0 or above' leaves 0\. Take other granules"):
        labels.usable(shots[1:3])
    with pytest.raises(DataError, match="leave 1: leaf_off=True keeps them"):
        labels.usable(shots[3:4], leaf_off=False)
    with pytest.raises(RequestError, match="min_sensitivity must lie between 0 and 1; it is 95"):
        labels.usable(shots, min_sensitivity=95)


# --- plots -----------------------------------------------------------------------------------


def write(folder, text, name="plots.csv", encoding="utf-8"):
    path = folder / name
    path.write_text(text, encoding=encoding)
    return path


def test_a_table_of_plots(tmp_path):
    path = write(tmp_path, "id,Lon,LAT,agb\na,-51,-27.1,120\nb,-51.2,-27,0\n")
    plots = labels.read_plots(path)
    assert plots.columns.tolist() == ["lon", "lat", "agb", "agb_se", "radius"]
    assert plots["lon"].tolist() == [-51, -51.2]
    assert plots["agb"].tolist() == [120, 0]
    assert plots[["agb_se", "radius"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("header", "options"),
    [
        ("longitude,latitude,agbd,se,r", {"error": "se", "radius": "r"}),
        ("X,Y,Biomass,SE,R", {"error": "se", "radius": "r"}),
        ("long,lat,carbon,agb_se,radius", {"agb": "carbon"}),
        ("easting,northing,AGB,agbd_se,Radius", {}),
    ],
)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_columns_by_their_common_spellings(tmp_path, header, options, separator):
    text = f"{header}\n-51,-27,120,12.5,15\n\n-51,-27,90,,\n".replace(",", separator)
    plots = labels.read_plots(write(tmp_path, text, encoding="utf-8-sig"), **options)
    assert plots.iloc[0].tolist() == [-51, -27, 120, 12.5, 15]
    assert plots.iloc[1, 3:].isna().all()


def test_an_exact_name_wins(tmp_path):
    plots = labels.read_plots(write(tmp_path, "AGB,agb,biomass,lon,lat\n1,2,3,0,0\n"))
    assert plots["agb"].tolist() == [2]
    plots = labels.read_plots(
        write(tmp_path, "AGB,agb,biomass,lon,lat\n1,2,3,0,0\n"), agb="BIOMASS"
    )
    assert plots["agb"].tolist() == [3]


def test_bad_rows_are_told_as_a_spreadsheet_numbers_them(tmp_path):
    rows = ["0,0,5", "", "0,0,n.d.", "0,0,", "0,0,7", "0,0,-3"]
    path = write(tmp_path, "lon,lat,agb\n" + "\n".join(rows) + "\n")
    with pytest.raises(DataError, match=r"'agb' .* row 4 \('n\.d\.'\), row 5 .*, row 7 \('-3'\)"):
        labels.read_plots(path)
    path = write(tmp_path, "lon,lat,agb,se\n0,0,1,\n0,0,1,wide\n")
    with pytest.raises(DataError, match=r"column 'se' \(agb_se\).* row 3 \('wide'\)\. Correct"):
        labels.read_plots(path, error="se")
    path = write(tmp_path, "lon,lat,agb\n" + "0,0,\n" * 9 + "0,0,1\n")
    with pytest.raises(DataError, match=r"row 6 \(empty\) and 4 more"):
        labels.read_plots(path)


def test_missing_columns_and_unreadable_tables(tmp_path):
    path = write(tmp_path, "lon,lat,biomas\n0,0,1\n")
    with pytest.raises(DataError, match=r"no column 'agb' for agb.*columns are lon, lat, biomas"):
        labels.read_plots(path)
    with pytest.raises(DataError, match=r"'biomass' for agb. Did you mean 'biomas'"):
        labels.read_plots(path, agb="biomass")
    with pytest.raises(DataError, match="no column 'se' for agb_se"):
        labels.read_plots(path, agb="biomas", error="se")
    with pytest.raises(DataError, match="There is no file"):
        labels.read_plots(tmp_path / "absent.csv")
    with pytest.raises(DataError, match="no row below its header"):
        labels.read_plots(write(tmp_path, "lon,lat,agb\n"))
    with pytest.raises(DataError, match="cannot be read as a table"):
        labels.read_plots(write(tmp_path, ""))
    path.write_bytes(b"\x89PNG\xff\xfe\x00" * 9)
    with pytest.raises(DataError, match="cannot be read as a table"):
        labels.read_plots(path)


def test_coordinates_in_another_crs(tmp_path):
    path = write(tmp_path, "x,y,agb\n500015,6999985,80\n500500,6999500,90\n")
    with pytest.raises(DataError, match=r"2 of 2 positions .*look like metres. Give their CRS"):
        labels.read_plots(path)
    expected = points([500015, 500500], [6999985, 6999500])
    for crs in (32722, "EPSG:32722", "32722"):
        plots = labels.read_plots(path, crs=crs)
        assert np.allclose(plots[["lon", "lat"]], expected[["lon", "lat"]], atol=1e-9)
    assert np.argwhere(labels.to_grid(plots, place()).agb.notnull().values).tolist() == [
        [0, 0], [16, 16]]  # fmt: skip
    with pytest.raises(RequestError, match="crs='UTM' is no coordinate reference system"):
        labels.read_plots(path, crs="UTM")
    with pytest.raises(DataError, match=r"read in EPSG:32722\. Is it their CRS"):
        labels.read_plots(write(tmp_path, "x,y,agb\n1e30,2e30,1\n"), crs=32722)


def test_degrees_that_cannot_be(tmp_path):
    with pytest.raises(DataError, match=r"first is -5, -151\): they look swapped"):
        labels.read_plots(write(tmp_path, "lon,lat,agb\n-5,-151,1\n-5,-51,1\n"))
    with pytest.raises(DataError, match="0 to 360 must be written as -180 to 180"):
        labels.read_plots(write(tmp_path, "lon,lat,agb\n309,-27,1\n"))
    with pytest.raises(DataError, match=r"1 of 3 positions .*-511, -27\). Correct or remove"):
        labels.read_plots(write(tmp_path, "lon,lat,agb\n-51,-27,1\n-511,-27,1\n-51,-27,1\n"))


def features(crs, shapes, **columns):
    return geopandas.GeoDataFrame(columns, geometry=shapes, crs=crs)


def test_vector_files_say_their_crs(tmp_path):
    x, y = np.array([600_000.0, 601_000.0]), np.array([3_000_000.0, 3_001_000.0])
    lon, lat = Transformer.from_crs(32614, 4326, always_xy=True).transform(x, y)
    made = features(32614, shapely.points(x, y), agb=[10.0, 20.0], lon=[7, 7])
    for name in ("plots.geojson", "plots.gpkg"):
        made.to_file(tmp_path / name)
        plots = labels.read_plots(tmp_path / name)
        assert np.allclose(plots["lon"], lon, atol=1e-8)
        assert np.allclose(plots["lat"], lat, atol=1e-8)
        assert plots["agb"].tolist() == [10, 20]
        assert plots["radius"].isna().all()
    # A GeoJSON in metres that does not say so is taken for degrees by the standard.
    said = json.loads((tmp_path / "plots.geojson").read_text())
    said.pop("crs")
    path = write(tmp_path, json.dumps(said), "silent.geojson")
    with pytest.raises(DataError, match="look like metres"):
        labels.read_plots(path)
    assert np.allclose(labels.read_plots(path, crs=32614)["lon"], lon, atol=1e-8)


@pytest.mark.parametrize("crs", [32614, 4326])
def test_polygons_give_their_middle_and_a_radius(tmp_path, crs):
    shape = features(32614, [shapely.box(600_000, 3_000_000, 600_100, 3_000_050)], agb=[10.0])
    shape.to_crs(crs).to_file(tmp_path / "p.gpkg")
    plots = labels.read_plots(tmp_path / "p.gpkg")
    x, y = Transformer.from_crs(4326, 32614, always_xy=True).transform(plots["lon"], plots["lat"])
    assert np.allclose([x[0], y[0]], [600_050, 3_000_025], atol=0.01)
    # UTM stretches by 0.9996 to 1.0001 here.
    assert plots["radius"][0] == pytest.approx(np.sqrt(5000 / np.pi), rel=1e-3)
    shape.assign(radius=[12.0]).to_file(tmp_path / "r.gpkg")
    assert labels.read_plots(tmp_path / "r.gpkg")["radius"].tolist() == [12.0]


def test_vector_files_that_hold_no_plots(tmp_path):
    features(4326, [shapely.LineString([(0, 0), (1, 1)])], agb=[1.0]).to_file(tmp_path / "l.gpkg")
    with pytest.raises(DataError, match=r"no plots \(LineString\)"):
        labels.read_plots(tmp_path / "l.gpkg")
    with pytest.raises(DataError, match="cannot be read as a vector file"):
        labels.read_plots(write(tmp_path, "not json", "t.geojson"))
    bad = features(4326, [shapely.Point(0, 0), shapely.Point(0, 0)], agb=[1.0, -1.0])
    bad.to_file(tmp_path / "b.geojson")
    with pytest.raises(DataError, match=r"feature 2 \(-1\)"):
        labels.read_plots(tmp_path / "b.geojson")
    with pytest.raises(DataError, match="no column 'mass' for agb"):
        labels.read_plots(tmp_path / "b.geojson", agb="mass")


# --- onto the grid ---------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000), count=st.integers(1, 300), side=st.integers(2, 30),
    least=st.integers(1, 3),
)  # fmt: skip
def test_points_add_up_as_pandas_adds_them(seed, count, side, least):
    rng = np.random.default_rng(seed)
    one = place(side)
    x, y = rng.uniform(-0.5 * side, 1.5 * side, (2, count)) * 30
    x[0] = y[0] = 14.0
    table = near(x, y, agb=rng.uniform(0, 400, count), agb_se=rng.uniform(1, 20, count))
    transform = one.rio.transform()
    row, col = rasterio.transform.rowcol(transform, 500_000 + x, 7_000_000 - y)
    cells = table.assign(row=row, col=col)
    cells = cells[cells["row"].between(0, side - 1) & cells["col"].between(0, side - 1)]
    groups = cells.groupby(["row", "col"])
    kept = groups.size()[groups.size() >= least]
    if kept.empty:
        with pytest.raises(DataError, match=f"min_points={least}"):
            labels.to_grid(table, one, min_points=least)
        return
    grid = labels.to_grid(table, one, min_points=least)
    assert int(grid.agb_count.sum()) == len(cells) == grid.agb.attrs["points_inside"]
    assert grid.agb.attrs["points"] == count
    assert grid.agb.attrs["pixels_labelled"] == len(kept) == int(grid.agb.notnull().sum())
    assert grid.agb.attrs["pixels_shared"] == (kept > 1).sum()
    at = tuple(kept.index.get_level_values(level).to_numpy() for level in (0, 1))
    error = groups["agb_se"].agg(lambda se: np.sqrt((se**2).sum()) / len(se))
    assert np.allclose(grid.agb.values[at], groups["agb"].mean()[kept.index], rtol=1e-6)
    assert np.allclose(grid.agb_se.values[at], error[kept.index], rtol=1e-6)
    assert np.array_equal(grid.agb.notnull(), grid.agb_se.notnull())


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 12))
def test_a_plot_labels_the_pixels_whose_centres_it_holds(seed, count):
    rng = np.random.default_rng(seed)
    one = place(20)
    x, y = rng.uniform(0, SIDE, (2, count))
    radius = rng.choice([np.nan, 5.0, 14.0, 20.0, 40.0, 111.0], count)
    agb = rng.uniform(0, 400, count)
    grid = labels.to_grid(near(x, y, agb=agb, radius=radius), one)
    total, number = np.zeros((2, 20, 20))
    for at_x, at_y, r, value in zip(x, y, radius, agb, strict=True):
        hit = np.zeros((20, 20), bool)
        hit[int(at_y // 30), int(at_x // 30)] = True
        if r >= 15:
            # rasterize takes the pixels whose centre a shape holds; the scale of UTM is 0.9996.
            disc = shapely.Point(500_000 + at_x, 7_000_000 - at_y).buffer(r, quad_segs=256)
            hit |= rasterio.features.rasterize(
                [disc], out_shape=(20, 20), transform=one.rio.transform()) > 0  # fmt: skip
        total += np.where(hit, value, 0.0)
        number += hit
    assert np.array_equal(grid.agb_count, number)
    assert np.allclose(grid.agb, np.where(number > 0, total / np.maximum(number, 1), np.nan),
                       equal_nan=True, rtol=1e-6)  # fmt: skip


def test_plots_on_a_grid_in_degrees():
    step = 1 / 3600  # 31 m north-south, 15 m east-west at 60 degrees north
    steps = step * (np.arange(40) + 0.5)
    one = xr.Dataset(coords={"y": 60 - steps, "x": 20 + steps}).rio.write_crs(4326)
    table = pd.DataFrame({"lon": [20 + 20.5 * step], "lat": [60 - 20.5 * step], "agb": 1.0})
    grid = labels.to_grid(table.assign(radius=100.0), one)
    rows, cols = np.nonzero(grid.agb.notnull().values)
    lon, lat = (
        one.x.values[None] + 0 * one.y.values[:, None],
        one.y.values[:, None] + 0 * one.x.values,
    )
    away = Geod(ellps="WGS84").inv(
        lon.ravel(), lat.ravel(), *(np.full(1600, v) for v in table.iloc[0, :2])
    )[2]
    assert np.array_equal(grid.agb.notnull().values.ravel(), away <= 100)
    assert np.ptp(cols) > 1.8 * np.ptp(rows)


def test_one_point_one_pixel_and_what_is_said():
    one = place(20)
    grid = labels.to_grid(near([45.0, 46.0, 100.0, -10.0], [75.0] * 4, agb=[10, 30, 7, 9]), one)
    assert grid.agb.values[2, 1] == 20
    assert grid.agb_se.isnull().all()
    assert labels.told(grid) == (
        "4 points, 3 inside the scene, on 2 pixels (0.50 %). 1 pixel holds more than one of the "
        "points and takes their mean."
    )
    assert grid.agb.attrs["units"] == grid.agb_se.attrs["units"] == "Mg/ha"
    again = labels.to_grid(near(300.0, 300.0, radius=40.0), grid)
    assert labels.told(again).startswith("1 plots, 1 inside the scene, on ")
    assert np.isnan(again.agb.values[2, 1])
    assert again.agb_count.max() == 1
    assert labels.told(scene(100, 100, density=1)) == "10,000 pixels (100.00 %) are labelled."
    # A part of a scene still knows the transform of the whole.
    part = labels.to_grid(near(45.0, 75.0), one.isel(y=slice(2, 9), x=slice(1, 9)))
    assert np.argwhere(part.agb.notnull().values).tolist() == [[0, 0]]
    coarse = labels.to_grid(near(135.0, 75.0), one.isel(y=slice(1, None, 3), x=slice(1, None, 3)))
    assert np.argwhere(coarse.agb.notnull().values).tolist() == [[0, 1]]
    # The edge in the north and west belongs to the scene, the one in the south and east does not.
    with pytest.raises(DataError, match="lies inside"):
        labels.to_grid(near(SIDE + 0.01, 10.0), one)


def test_what_cannot_be_put_on_a_grid():
    one = place()
    with pytest.raises(DataError, match="has no CRS"):
        labels.to_grid(near(1.0, 1.0), one.drop_vars("spatial_ref"))
    with pytest.raises(DataError, match="separate images"):
        labels.to_grid(near(1.0, 1.0), one.isel(time=0).expand_dims(sample=2))
    with pytest.raises(DataError, match="agb is missing from lon, lat, mass"):
        labels.to_grid(near(1.0, 1.0).rename(columns={"agb": "mass"}), one)
    with pytest.raises(DataError, match=r"1 of 2 points have no position or no agb.*usable"):
        labels.to_grid(near([1.0, 2.0], [1.0, 2.0], agb=[np.nan, 1.0]), one)
    with pytest.raises(DataError, match="no point"):
        labels.to_grid(near(1.0, 1.0)[:0], one)
    with pytest.raises(RequestError, match="min_points must be 1 or more; it is 0"):
        labels.to_grid(near(1.0, 1.0), one, min_points=0)


@pytest.mark.parametrize(
    ("azimuth", "wind"),
    [(0, "north"), (45, "north-east"), (90, "east"), (135, "south-east"), (180, "south"),
     (225, "south-west"), (270, "west"), (315, "north-west")],
)  # fmt: skip
@pytest.mark.parametrize("kilometres", [3.0, 212.0, 5000.0])
def test_points_outside_are_told_by_distance_and_direction(azimuth, wind, kilometres):
    one = place()
    middle = near(SIDE / 2, SIDE / 2)
    lon, lat, _ = Geod(ellps="WGS84").fwd(*middle.iloc[0, :2], azimuth, 1000 * kilometres)
    around, out = azimuth + np.linspace(-170, 180, 200), np.linspace(1100, 3000, 200) * kilometres
    start = (np.full(200, v) for v in middle.iloc[0, :2])
    others = Geod(ellps="WGS84").fwd(*start, around, out)
    table = pd.DataFrame({"lon": [*others[0], lon], "lat": [*others[1], lat], "agb": 1.0})
    with pytest.raises(DataError, match=r"the nearest is .* of the scene") as caught:
        labels.to_grid(table, one)
    said = str(caught.value)
    assert f" km {wind} of the scene" in said
    told = float(said.split("the nearest is ")[1].split(" km")[0].replace(",", ""))
    # From the edge: at most half the diagonal, 424 m, nearer than from the middle.
    corner = 0.3 if azimuth % 90 == 0 else 0.3 * np.sqrt(2)
    assert told == pytest.approx(kilometres - corner, rel=0.01, abs=0.051)


def test_swapped_coordinates_are_seen():
    one = place()
    right = near([30.0, 300.0, 5000.0], [30.0, 300.0, 30.0])
    swapped = right.rename(columns={"lon": "lat", "lat": "lon"})
    with pytest.raises(DataError, match=r"None of the 3 .*2 would .*lon and lat exchanged"):
        labels.to_grid(swapped, one)
    # Where some are inside, nothing is guessed.
    grid = labels.to_grid(pd.concat([right[:1], swapped]), one)
    assert grid.agb.attrs["points_inside"] == 1


def test_metres_taken_for_degrees_are_seen():
    raw = pd.DataFrame({"lon": [500_010.0, 9e5], "lat": [6_999_990.0, 9e5], "agb": 1.0})
    with pytest.raises(DataError, match=r"1 would if their numbers are metres.*crs=32722"):
        labels.to_grid(raw, place())
    with pytest.raises(DataError, match="no degrees"):
        labels.to_grid(raw[1:], place())


# --- drawn from a dense map ------------------------------------------------------------------


@settings(max_examples=15)
@given(seed=st.integers(0, 500), fraction=st.floats(1e-4, 1.0), size=st.integers(8, 60))
def test_drawn_shots_are_values_of_the_map(seed, fraction, size):
    one = scene(size, size, density=0.5).assign(agb_se=lambda s: s.agb_dense)
    drawn = labels.sparse(one, fraction, seed=seed)
    at = drawn.agb.notnull().values
    assert at.sum() == max(1, round(fraction * size**2))
    assert np.array_equal(drawn.agb.values[at], one.agb_dense.values[at])
    assert "agb_se" not in drawn
    assert drawn.agb.equals(labels.sparse(one, fraction, seed=seed).agb)


def test_drawn_shots_lie_on_tracks():
    one = scene(200, 200, density=0)
    one = one.assign_coords(y=one.y - 6_900_000).rio.write_crs(32622)  # at the equator
    drawn = labels.sparse(one, 0.002, seed=3)
    assert not drawn.agb.equals(labels.sparse(one, 0.002, seed=4).agb)
    rows, cols = np.nonzero(drawn.agb.notnull().values)
    # Most shots have a neighbour along the track, 60 m or two pixels away; strewn ones have not.
    away = np.hypot(rows[:, None] - rows, cols[:, None] - cols) + 1e9 * np.eye(rows.size)
    assert np.mean(away.min(1) < 4) > 0.6
    # There tracks run at 35 degrees from north: steps of 49 m to the south and 34 m aside.
    nearest = away.argmin(1)
    assert np.abs(rows[nearest] - rows).mean() > 1.2 * np.abs(cols[nearest] - cols).mean()


@pytest.mark.real
def test_shots_drawn_from_a_real_map(geowb_data):
    import geowb

    one = geowb.open_catalog()["biomassters_chip"].open()
    drawn = labels.sparse(one)
    assert int(drawn.agb.notnull().sum()) == 328
    assert float((drawn.agb - one.agb_dense).max()) == 0
    assert labels.told(drawn) == "328 pixels (0.50 %) are labelled."


def test_what_cannot_be_drawn_from():
    one = scene()
    for wrong in (0, -1, 1.1, np.nan):
        with pytest.raises(RequestError, match=r"fraction must lie in \(0, 1\]"):
            labels.sparse(one, wrong)
    with pytest.raises(DataError, match="no variable 'height': it has reflectance, agb"):
        labels.sparse(one, dense="height")
    with pytest.raises(DataError, match="one image"):
        labels.sparse(one.expand_dims(sample=2))
    with pytest.raises(DataError, match="4,096 pixels is 4,096, but 'agb' has values in"):
        labels.sparse(one, 1.0, dense="agb")


# --- any kind of file ------------------------------------------------------------------------


def test_labels_by_the_kind_of_file(granule, tmp_path):
    good = labels.usable(labels.read_gedi(granule))
    assert labels.read_labels(granule).equals(good)
    path = tmp_path / "shots.csv"
    good.to_csv(path, index=False)
    plots = labels.read_labels(path, crs="")
    assert np.allclose(
        plots[["lon", "lat", "agb", "agb_se"]], good[["lon", "lat", "agb", "agb_se"]]
    )
    with pytest.raises(RequestError, match=r"'a.xlsx' is no known kind of labels: \.csv, .*folder"):
        labels.read_labels("a.xlsx")


def test_problems_are_told_before_anything_runs(granule, altered, tmp_path):
    check = labels.check_labels
    assert check("") == check(" ") == check(str(granule)) == check(str(granule.parent)) == []
    assert "no file or folder" in check(str(tmp_path / "absent"))[0]
    assert "no file" in check(str(tmp_path / "absent.h5"))[0]
    assert "no file" in check(str(tmp_path / "absent.csv"))[0]
    assert "no known kind" in check("plots.xlsx")[0]
    table = str(write(tmp_path, "lon,lat,mass\n0,0,1\n"))
    assert "no column 'agb'" in check(table)[0]
    assert check(table, agb="mass", crs="", degraded=False) == []

    def failed(file):
        for beam in BEAMS:
            file[beam]["l4_quality_flag"][:] = 0

    bad = altered(failed)
    assert "'l4_quality_flag is 1' leaves 0" in check(str(bad))[0]
    assert "No shot" in check(str(granule), bounds=(10, 10, 11, 11))[0]
    # One good granule beside a bad one is enough, but a torn one is told.
    (tmp_path / "b.h5").write_bytes(granule.read_bytes())
    (tmp_path / "bad.h5").write_bytes(bad.read_bytes())
    assert check(str(tmp_path)) == []
    (tmp_path / "c.h5").write_text("torn")
    assert "c.h5 is no HDF5" in check(str(tmp_path))[0]


def test_the_examples_of_the_manual_run(tmp_path, monkeypatch, capsys):
    text = (Path(__file__).parents[1] / "docs" / "biomass_labels.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 5
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks:
        exec(block, names)
    assert "82 shots, 82 inside the scene, on 82 pixels (0.50 %)." in capsys.readouterr().out
    assert names["composite"].sizes["time"] == 1
