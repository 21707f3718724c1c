"""Files in, files out: sources, targets, what is wrong with them, and what a kill leaves."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import rasterio
import rasterio.shutil
import torch
import xarray as xr
from dask.system import cpu_count
from predicting import TRANSFORM, Blur, Layer, Pixelwise, counts, raster, sparse
from rasterio.control import GroundControlPoint
from rasterio.transform import from_origin
from scenes import scene

from geowb.bands import HLS6
from geowb.errors import DataError, RequestError
from geowb.maps import area_per_class, open_map
from geowb.models import build, save
from geowb.predict import open_scene, predict_scene, predict_scenes
from geowb.predict.heap import kept

BIG = {"tile": 128, "progress": False}
HOW = {"tile": 32, "overlap": 8, "blend": 4, "batch_size": 2, "progress": False}
PROGRAM = Path(__file__).with_name("predicting.py")


def truth(values):
    """What the pixelwise model makes of counts ``(band, y, x)``."""
    x = torch.from_numpy(values.astype("float32"))[None, :, None]
    return Pixelwise()(x)[0, 0].numpy()


@pytest.fixture
def values():
    return counts(150, 130)


@pytest.fixture
def file(tmp_path, values):
    return raster(tmp_path / "scene.tif", values, nodata=-9999)


# --- targets ------------------------------------------------------------------------------------


def test_a_geotiff_is_cloud_optimised_and_says_what_it_is(tmp_path, file, values):
    from rio_cogeo.cogeo import cog_validate

    made = predict_scene(Pixelwise(), file, tmp_path / "map.tif", units="Mg/ha", **HOW)
    assert made.file == tmp_path / "map.tif"
    assert cog_validate(made.file)[0]
    with rasterio.open(made.file) as found:
        np.testing.assert_allclose(found.read(1), truth(values), rtol=1e-6)
        assert found.crs.to_epsg() == 32722
        assert found.transform == TRANSFORM
        assert np.isnan(found.nodata)
        assert found.units == ("Mg/ha",)
        tags = found.tags()
    assert json.loads(tags["geowb_how"])["tile"] == 32
    assert tags["geowb_scene"] == "scene.tif"
    assert json.loads(tags["geowb_model"]) == {"class": "Pixelwise"}
    assert str(tmp_path) not in json.dumps(tags)
    assert made.open().attrs["units"] == "Mg/ha"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map.tif", "scene.tif"]


def test_several_outputs_are_several_files_or_variables(tmp_path, file):
    asked = {"output": ["classes", "confidence", "probabilities"],
             "classes": ["forest", "open water", "sand"]}  # fmt: skip
    tif = predict_scene(Blur(outputs=3), file, tmp_path / "map.tif", **asked, **HOW)
    zarr = predict_scene(Blur(outputs=3), file, tmp_path / "map.zarr", **asked, **HOW)
    assert [path.name for path in tif.files.values()] == [
        "map.tif", "map_confidence.tif", "map_probabilities.tif"]  # fmt: skip
    for name in asked["output"]:
        one, other = tif.open(name), zarr.open(name)
        assert np.array_equal(one.values, other.values, equal_nan=True)
        assert one.rio.crs == other.rio.crs
        assert one.rio.transform() == other.rio.transform()
    with rasterio.open(tif.files["probabilities"]) as found:
        assert found.descriptions == ("forest", "open water", "sand")
    with rasterio.open(tif.file) as found:
        assert (found.dtypes, found.nodata) == (("uint8",), 255)
        assert found.tags()["flag_meanings"] == "forest open_water sand"
    data = xr.open_zarr(tmp_path / "map.zarr", consolidated=False)
    assert data["probabilities"].dims == ("class", "y", "x")
    assert data["probabilities"].attrs["class_names"] == asked["classes"]
    for one in (tif.open("probabilities"), zarr.open("probabilities")):
        assert "flag_meanings" not in one.attrs  # they are no classes
        assert one.attrs["units"] == "1"
    with pytest.raises(RequestError, match=r"has 3 layers along .band.: choose one"):
        area_per_class(tif.files["probabilities"])
    assert np.allclose(data.y.values, open_map(tif.file).y.values)


def test_two_hundred_sixty_classes_do_not_fit_a_byte(tmp_path):
    class Many(torch.nn.Module):
        def forward(self, x):
            return x[:, :1, 0] * 0 + torch.arange(260.0)[:, None, None]

    made = predict_scene(Many(), scene(20, 20), tmp_path / "map.tif", **HOW)
    with rasterio.open(made.file) as found:
        assert (found.dtypes, found.nodata) == (("int16",), -1)
        assert (found.read(1) == 259).all()


def test_overviews_of_a_large_map_are_there_and_do_not_mix_classes(tmp_path):
    class Half(torch.nn.Module):
        def forward(self, x):
            return torch.stack([x[:, 0, 0] - 2500, 2500 - x[:, 0, 0], x[:, 0, 0] * 0 - 9e9], 1)

    made = predict_scene(Half(), scene(700, 600), tmp_path / "map.tif", tile=128, progress=False)
    with rasterio.open(made.file) as found:
        assert found.overviews(1) == [2]
        assert set(np.unique(found.read(1, out_shape=(350, 300)))) == {0, 1}


def test_a_target_that_exists_is_not_replaced_unless_it_is_said(tmp_path, file, values):
    target = tmp_path / "map.tif"
    shutil.copy(file, target)
    before = target.read_bytes()
    with pytest.raises(RequestError, match="exists, and is not the map of this request"):
        predict_scene(Pixelwise(), file, target, **HOW)
    assert target.read_bytes() == before
    predict_scene(Pixelwise(), file, target, overwrite=True, **HOW)
    first = target.read_bytes()
    again = predict_scene(Pixelwise(), file, target, **HOW)
    assert (again.seconds, target.read_bytes()) == (0.0, first)
    with pytest.raises(RequestError, match="is not the map of this request"):
        predict_scene(Pixelwise(), file, target, **HOW | {"tile": 24})
    with rasterio.open(file, "r+") as changed:  # other pixels under the same name
        changed.write(values[::-1])
    with pytest.raises(RequestError, match="is not the map of this request"):
        predict_scene(Pixelwise(), file, target, **HOW)
    one = scene(300, 290)
    predict_scene(Pixelwise(), one, target, overwrite=True, **HOW)
    one.reflectance[0, 0, 120, 120] += 1  # an array in memory, between the windows of the sample
    with pytest.raises(RequestError, match="is not the map of this request"):
        predict_scene(Pixelwise(), one, target, **HOW)
    folder = tmp_path / "map.zarr"
    predict_scene(Pixelwise(), file, folder, **HOW)
    with pytest.raises(RequestError, match="is not the map of this request"):
        predict_scene(Layer(), file, folder, **HOW)
    made = predict_scene(Layer(), file, folder, overwrite=True, **HOW)
    assert made.seconds > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map.tif", "map.zarr", "scene.tif"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("map.png", "neither .tif nor .zarr"),
        ("no/such/folder/map.tif", "There is no folder"),
        ("scene.tif", "is what the map is made of"),
        ("folder.tif", "is a folder, and the map would be a file"),
        ("file.zarr", "is a file, and the map would be a folder"),
    ],
)
def test_targets_that_cannot_be_are_refused(tmp_path, file, target, message):
    (tmp_path / "folder.tif").mkdir()
    (tmp_path / "file.zarr").write_bytes(b"mine")
    before = file.read_bytes()
    for source in (file, [file]):
        with pytest.raises(RequestError, match=message):
            predict_scene(Pixelwise(), source, tmp_path / target, overwrite=True, **HOW)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file.zarr", "folder.tif", "scene.tif"]
    assert file.read_bytes() == before


# --- sources ------------------------------------------------------------------------------------


def read(opened):
    """The whole of an opened scene, ``(C, T, y, x)``."""
    return opened.window(0, opened.shape[0], 0, opened.shape[1]).values


def test_files_of_bands_and_of_dates_are_one_scene(tmp_path):
    first, second = counts(40, 50), counts(40, 50, seed=1)
    single = [raster(tmp_path / f"b{i}.tif", first[i : i + 1]) for i in range(6)]
    dates = [raster(tmp_path / f"d{i}.tif", v) for i, v in enumerate((first, second))]
    both = raster(tmp_path / "both.tif", np.concatenate([first, second]))
    singles = [raster(tmp_path / f"e{i}.tif", second[i : i + 1]) for i in range(6)]
    stack = np.stack([first, second], axis=1)
    assert np.array_equal(read(open_scene(single, wanted=HLS6)), first[:, None])
    assert np.array_equal(read(open_scene(dates, wanted=HLS6, frames=2)), stack)
    assert np.array_equal(read(open_scene(both, wanted=HLS6, frames=2)), stack)
    assert np.array_equal(read(open_scene([*single, *singles], wanted=HLS6, frames=2,
                                          stack="bands")), stack)  # fmt: skip
    assert np.array_equal(read(open_scene(dates, wanted=HLS6, dates=[1])), second[:, None])
    with pytest.raises(RequestError, match="5 files cannot be the bands of 2 dates"):
        open_scene(single[:5], wanted=HLS6, frames=2, stack="bands")
    raster(tmp_path / "d1.tif", counts(41, 50))
    with pytest.raises(RequestError, match=r"d1.tif is not on the grid of b0.tif"):
        open_scene([single[0], dates[1]], wanted=HLS6)


def test_bands_are_found_by_their_names_whatever_their_order(tmp_path):
    values = counts(20, 20, bands=8)
    names = ["B01", "B04", "B03", "B02", "B8A", "B12", "B11", "Fmask"]
    named = raster(tmp_path / "named.tif", values, names=names)
    assert np.array_equal(read(open_scene(named, wanted=HLS6)), values[[3, 2, 1, 4, 6, 5]][:, None])
    assert np.array_equal(
        read(open_scene(named, wanted=HLS6, bands=[1, 2, 3, "NIR_NARROW", 6, 7])),
        values[[0, 1, 2, 4, 5, 6]][:, None],
    )
    # All bands of Sentinel-2: its B05 to B07 are no bands of the model, as they are in Landsat.
    full = [f"B{i:02}" for i in range(1, 9)] + ["B8A", "B09", "B11", "B12"]
    values = counts(20, 20, bands=12)
    sentinel = raster(tmp_path / "s2.tif", values, names=full)
    assert np.array_equal(
        read(open_scene(sentinel, wanted=HLS6)), values[[1, 2, 3, 8, 10, 11]][:, None]
    )
    wrong = raster(tmp_path / "wrong.tif", counts(20, 20), names=["RED", "GREEN", "x", "", "", ""])
    with pytest.raises(RequestError, match=r"Band 1 of 'wrong.tif' is called RED"):
        open_scene(wrong, wanted=HLS6)
    nameless = raster(tmp_path / "nameless.tif", values)
    with pytest.raises(RequestError, match="has 12 bands without names"):
        open_scene(nameless, wanted=HLS6)
    with pytest.raises(RequestError, match="there is no band 13"):
        open_scene(nameless, wanted=HLS6, bands=[1, 2, 3, 4, 5, 13])
    with pytest.raises(RequestError, match="has no band 'NIR'"):
        open_scene(named, wanted=HLS6, bands=["NIR"] * 6)


def test_what_a_file_says_of_its_numbers_makes_counts(tmp_path):
    values = counts(20, 20)
    file = raster(tmp_path / "hls.tif", values, nodata=-9999)
    with rasterio.open(file, "r+") as hls:
        hls.scales = [0.0001] * 6
    assert np.array_equal(read(open_scene(file))[:, 0], values)
    with rasterio.open(file, "r+") as sentinel:
        sentinel.offsets = [-0.1] * 6
    assert np.array_equal(read(open_scene(file))[:, 0], values - 1000)
    with rasterio.open(file, "r+") as landsat:
        landsat.scales, landsat.offsets = [2.75e-5] * 6, [-0.2] * 6
    assert np.allclose(read(open_scene(file))[:, 0], values * 0.275 - 2000, atol=1e-2)
    assert np.array_equal(read(open_scene(file, scale=2.0))[:, 0], 2 * values)
    values[:, 3, 4] = -9999
    raster(tmp_path / "gap.tif", values, nodata=-9999)
    gap = open_scene(tmp_path / "gap.tif").window(0, 20, 0, 20)
    assert np.argwhere(~gap.seen).tolist() == [[3, 4]]
    assert np.isnan(gap.values[:, 0, 3, 4]).all()


@pytest.mark.filterwarnings("ignore:The data type")  # names of bands, as zarr has them
def test_arrays_zarr_and_entries_of_the_catalog_are_scenes(tmp_path):
    one = scene(40, 50, dates=2)
    stack = one.reflectance.values.transpose(1, 0, 2, 3)
    assert np.array_equal(read(open_scene(one, frames=2)), stack)
    assert np.array_equal(read(open_scene(one.chunk(y=16), frames=2)), stack)
    assert np.array_equal(read(open_scene(one, dates=["2022-06-17"])), stack[:, 1:])
    one.to_zarr(tmp_path / "one.zarr", consolidated=False)
    opened = open_scene(tmp_path / "one.zarr", frames=2, wanted=HLS6)
    assert np.array_equal(read(opened), stack)
    assert (opened.crs, opened.transform) == (one.rio.crs, one.rio.transform())
    plain = one.reflectance[0].rename(y="lat", x="lon").rio.set_spatial_dims("lon", "lat")
    assert np.array_equal(read(open_scene(plain.rio.write_crs(4326))), stack[:, :1])
    world = open_scene("world", dates=[0], wanted=HLS6, select={"region": "mata_atlantica"}, seed=3)
    assert world.name == "world mata_atlantica"
    assert np.isfinite(world.sample()).any()
    with pytest.raises(RequestError, match=r"no date 2021. It has: 2022"):
        open_scene(one, dates=["2021"])
    with pytest.raises(RequestError, match="has 2 dates: there is no date 7"):
        open_scene(one, dates=[7])


def test_a_scene_of_the_catalog_gives_the_same_map_as_its_file(tmp_path, file, values):
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(
        "meta: {name: mine}\n"
        "mine:\n  description: A scene.\n  data_type: RasterDataset\n  uri: scene.tif\n"
        f"  driver: {{name: raster, options: {{bands: [{', '.join(HLS6)}]}}}}\n"
        "  metadata: {nodata: -9999}\n"
    )
    one = predict_scene(Pixelwise(), file, tmp_path / "a.tif", **HOW)
    two = predict_scene(Pixelwise(), "mine", tmp_path / "b.tif", catalog=str(catalog), **HOW)
    assert np.array_equal(one.open().values, two.open().values)


def test_a_missing_crs_is_said_and_can_be_given(tmp_path, values):
    bare = raster(tmp_path / "bare.tif", values, crs=None)
    with pytest.raises(RequestError, match=r"has no CRS.*crs='EPSG:32722'"):
        predict_scene(Pixelwise(), bare, tmp_path / "map.tif", **HOW)
    made = predict_scene(Pixelwise(), bare, tmp_path / "map.tif", crs="EPSG:31982", **HOW)
    assert made.open().rio.crs.to_epsg() == 31982
    made = predict_scene(Pixelwise(), bare, tmp_path / "none.tif", crs="none", **HOW)
    assert made.open().rio.crs is None
    with pytest.raises(RequestError, match="is no CRS"):
        open_scene(bare, crs="EPSG:1")
    with pytest.raises(RequestError, match="says CRS EPSG:32722, but EPSG:31982 is given"):
        open_scene(raster(tmp_path / "own.tif", values), crs="EPSG:31982")


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_scene_whose_pixels_lie_nowhere_is_refused(tmp_path, values):
    """Ground control points give a CRS, but no transform."""
    corners = [(row, col) for row in (0, 150) for col in (0, 130)]
    points = [GroundControlPoint(row, col, 10 + col / 1e4, 50 - row / 1e4) for row, col in corners]
    file = raster(tmp_path / "gcps.tif", values, crs=None, transform=None)
    with rasterio.open(file, "r+") as found:
        found.gcps = (points, "EPSG:4326")
    with pytest.raises(RequestError, match=r"gcps.tif' has a CRS, but no transform .*gdalwarp"):
        predict_scene(Pixelwise(), file, tmp_path / "map.tif", **HOW)
    made = predict_scene(Pixelwise(), file, tmp_path / "map.tif", crs="none", **HOW)
    assert made.open().rio.crs is None
    line = xr.DataArray(counts(1, 40), dims=("band", "y", "x"),
                        coords={"y": [7e6], "x": np.arange(40) * 30.0})  # fmt: skip
    with pytest.raises(RequestError, match="coordinates of one pixel"):
        open_scene(line.rio.write_crs(32722))


def test_a_rotated_scene_keeps_its_transform(tmp_path, values):
    turned = TRANSFORM @ rasterio.Affine.rotation(30)
    file = raster(tmp_path / "turned.tif", values, transform=turned)
    for name in ("map.tif", "map.zarr"):
        made = predict_scene(Pixelwise(), file, tmp_path / name, **HOW)
        assert made.open().rio.transform().almost_equals(turned)
        assert np.allclose(made.open().values, truth(values), rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (1, 90), (90, 1), (31, 33), (3, 200)])
def test_odd_sizes(tmp_path, shape):
    values = counts(*shape)
    file = raster(tmp_path / "odd.tif", values)
    made = predict_scene(Pixelwise(), file, tmp_path / "map.tif", **HOW)
    assert np.allclose(made.open().values, truth(values), rtol=1e-6)


def test_a_cog_at_an_address_is_read_in_parts(tmp_path):
    file = raster(tmp_path / "a.tif", counts(700, 600))
    made = predict_scene(Layer(), file, tmp_path / "a.map.tif", **BIG)
    (tmp_path / "web").mkdir()
    cog = tmp_path / "web/cog.tif"
    rasterio.shutil.copy(file, cog, driver="COG", BLOCKSIZE=128)
    with subprocess.Popen([sys.executable, PROGRAM.with_name("serving.py"), cog.parent],
                          stdout=subprocess.PIPE, text=True) as server:  # fmt: skip
        try:
            url = server.stdout.readline().strip()
            assert open_scene(f"{url}/cog.tif").remote
            assert not open_scene(file).remote
            found = predict_scene(Layer(), f"{url}/cog.tif", tmp_path / "b.tif", **BIG)
            again = predict_scene(Layer(), f"{url}/cog.tif", tmp_path / "b.tif", **BIG)
            with pytest.raises(DataError, match=r"no.tif' is not a raster that can be read"):
                predict_scene(Layer(), f"{url}/no.tif", tmp_path / "c.tif", **BIG)
        finally:
            server.terminate()
        seen = server.stdout.read().splitlines()
    assert np.array_equal(found.open().values, made.open().values)
    assert again.seconds == 0
    assert found.open().attrs["geowb_scene"] == "cog.tif"
    parts = [line.partition("bytes=")[2] for line in seen if line.startswith("/cog.tif bytes=")]
    sizes = [int(high) - int(low) for low, high in (part.split("-") for part in parts)]
    assert len(sizes) > 2
    assert max(sizes) < cog.stat().st_size / 2


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(RequestError, match=r"There is no file '.*nope.tif', and no such"):
        open_scene(tmp_path / "nope.tif")
    with pytest.raises(RequestError, match=r"no entry 'wrold'. Did you mean 'world'"):
        open_scene("wrold")
    (tmp_path / "text.tif").write_text("no raster")
    with pytest.raises(DataError, match="not a raster that can be read"):
        open_scene(tmp_path / "text.tif")
    with pytest.raises(RequestError, match="nothing to select"):
        open_scene(tmp_path / "text.tif", select={"region": "mata_atlantica"})


def test_a_wrong_scale_is_refused_before_anything_is_written(tmp_path):
    file = raster(tmp_path / "unit.tif", (counts(60, 60) / 10_000).astype("float32"))
    model = build("unet", seed=0)
    with pytest.raises(RequestError, match=r"expects about .*scale=10000"):
        predict_scene(model, file, tmp_path / "map.tif", **HOW)
    assert [p.name for p in tmp_path.iterdir()] == ["unit.tif"]
    right = raster(tmp_path / "right.tif", counts(60, 60))
    one = predict_scene(model, file, tmp_path / "one.tif", scale=10_000, **HOW)
    two = predict_scene(model, right, tmp_path / "two.tif", **HOW)
    np.testing.assert_allclose(one.open().values, two.open().values, atol=1e-4)


def test_a_variable_of_a_netcdf_is_a_source_and_a_map(tmp_path, values):
    import rioxarray

    image = rioxarray.open_rasterio(raster(tmp_path / "scene.tif", values)).drop_vars("band")
    both = xr.Dataset({"counts": image, "first": image[0]}).rio.write_crs("EPSG:32722")
    both.to_netcdf(tmp_path / "both.nc")
    for use in (open_map, lambda file: predict_scene(Pixelwise(), file, tmp_path / "m.tif", **HOW)):
        with pytest.raises(RequestError, match="holds several rasters: name one, as in netcdf:"):
            use(tmp_path / "both.nc")
        with pytest.raises(DataError, match=r"none\.nc:counts: No such file"):
            use(f"netcdf:{tmp_path}/none.nc:counts")
    named = f"netcdf:{tmp_path}/both.nc:counts"
    assert np.array_equal(open_map(named).values, values)
    found = predict_scene(Pixelwise(), named, tmp_path / "m.tif", **HOW).open()
    assert np.allclose(found.values, truth(values), rtol=1e-6)


def damaged(tmp_path, block="1_1"):
    """A file with one block that cannot be decoded."""
    file = raster(tmp_path / "bad.tif", counts(192, 192), compress="deflate", interleave="pixel")
    with rasterio.open(file) as found:
        at = int(found.get_tag_item(f"BLOCK_OFFSET_{block}", "TIFF", bidx=1))
    with file.open("r+b") as raw:
        raw.seek(at)
        raw.write(b"\xff" * 200)
    return file


@pytest.mark.parametrize("threads", ["1", "ALL_CPUS"])
def test_a_block_that_cannot_be_read_fails_or_is_no_data_and_told(tmp_path, threads, monkeypatch):
    """Also where something (a tile server does) has GDAL decode with several threads."""
    monkeypatch.setenv("GDAL_NUM_THREADS", threads)
    file = damaged(tmp_path)
    with pytest.raises(DataError, match=r"bad.tif cannot be read in rows .*--unreadable nodata"):
        predict_scene(Pixelwise(), file, tmp_path / "map.tif", **HOW)
    assert not (tmp_path / "map.tif").exists()
    made = predict_scene(Pixelwise(), file, tmp_path / "map.tif", unreadable="nodata", **HOW)
    found = made.open()
    gone = np.isnan(found.values)
    assert gone[64:128, 64:128].all()
    assert gone.sum() == 64 * 64
    assert [damage[:5] for damage in made.damages] == [("bad.tif", 64, 128, 64, 128)]
    assert "rows 64-127, columns 64-127" in made.told()[0]
    assert json.loads(found.attrs["geowb_unreadable"])[0]["top"] == 64
    again = predict_scene(Pixelwise(), file, tmp_path / "map.tif", unreadable="nodata", **HOW)
    assert (again.seconds, again.damages, again.told()) == (0.0, made.damages, made.told())
    assert np.allclose(found.values[~gone], truth(counts(192, 192))[~gone], rtol=1e-6)


def test_the_first_block_may_be_the_one_that_cannot_be_read(tmp_path):
    file = damaged(tmp_path, "0_0")
    made = predict_scene(Pixelwise(), file, tmp_path / "map.tif", unreadable="nodata", **HOW)
    assert [damage[:5] for damage in made.damages] == [("bad.tif", 0, 64, 0, 64)]
    assert np.isnan(made.open().values).sum() == 64 * 64


@pytest.mark.parametrize(
    ("how", "told"),
    [
        *(({"scale": scale}, "scale is .*: values are multiplied") for scale in (0, -1, np.nan)),
        ({"tile": 64, "overlap": 64}, "overlap is 64: .* fewer than a tile has, 64"),
        ({"tile": 64, "overlap": 500}, "overlap is 500: .* fewer than a tile has, 64"),
        ({"tile": 64, "overlap": -8}, "overlap is -8"),
        ({"tile": 64, "overlap": 32, "blend": 40}, "blend is 40: .* at most the overlap, 32"),
    ],
)
def test_numbers_that_make_no_map_are_refused(tmp_path, how, told):
    file = raster(tmp_path / "a.tif", counts(96, 96))
    with pytest.raises(RequestError, match=told):
        predict_scene(Pixelwise(), file, tmp_path / "map.tif", **{**HOW, **how})
    assert [one.name for one in tmp_path.iterdir()] == ["a.tif"]


# --- kills, disks, memory -----------------------------------------------------------------------


def run(*words, **env):
    command = [sys.executable, str(PROGRAM), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False,
                          env=os.environ | {"OMP_NUM_THREADS": "1"} | env)  # fmt: skip


@pytest.mark.parametrize("suffix", [".tif", ".zarr"])
def test_after_a_kill_the_same_command_goes_on_and_gives_the_same_pixels(tmp_path, suffix):
    file = raster(tmp_path / "scene.tif", counts(1700, 130))
    how = ["tile=64", "overlap=16", "blend=8", "batch_size=4"]
    target = tmp_path / f"map{suffix}"
    units = open_units(file, target)
    killed = run(file, target, *how, KILL_AT="26")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not target.exists()
    assert sorted(p.name for p in tmp_path.glob("map*")) == []
    kept = len(list(tmp_path.glob(f".map{suffix}.*.partial/unit-*.json")))
    assert 0 < kept < units
    again = run(file, target, *how)
    assert again.returncode == 0, again.stderr
    told = json.loads(again.stdout)
    assert (told["resumed"], told["units"]) == (kept, units)
    other = tmp_path / f"undisturbed{suffix}"
    assert run(file, other, *how).returncode == 0
    assert np.array_equal(open_map(target).values, open_map(other).values)
    assert not list(tmp_path.glob(".*"))


def open_units(file, target):
    from geowb.predict.planning import prepared

    task = prepared(Blur(), file, tile=64, overlap=16, blend=8, batch_size=4)
    return task.grid.units


def test_a_group_that_could_not_be_written_leaves_its_unit_undone(tmp_path, file, monkeypatch):
    """Groups that were queued behind it must not finish the unit without it."""
    from geowb.predict import job

    real, calls = job.Writer.put, []

    def fails_once(self, *rest):
        calls.append(1)
        if len(calls) == 2:
            raise OSError(errno.EIO, "once")
        real(self, *rest)

    monkeypatch.setattr(job.Writer, "put", fails_once)
    with pytest.raises(OSError, match="once"):
        predict_scene(Blur(), file, tmp_path / "map.tif", **HOW)
    assert not list(tmp_path.glob(".map.tif.*.partial/unit-*.json"))
    made = predict_scene(Blur(), file, tmp_path / "map.tif", **HOW)
    other = predict_scene(Blur(), file, tmp_path / "other.tif", **HOW)
    assert np.array_equal(made.open().values, other.open().values)


def test_a_unit_with_nothing_between_its_seams(tmp_path):
    values = counts(200, 60)
    file = raster(tmp_path / "scene.tif", values)
    how = {"tile": 32, "overlap": 16, "blend": 16, "batch_size": 53, "progress": False}
    made = predict_scene(Pixelwise(), file, tmp_path / "map.tif", **how)
    assert made.units > 1
    np.testing.assert_allclose(made.open().values, truth(values), rtol=1e-6)


def test_what_another_request_left_is_not_used(tmp_path, file, values, monkeypatch):
    from geowb.predict import units

    target, real = tmp_path / "map.tif", units._Blender.add

    def stops(self, unit, *rest):
        if unit == 1:
            raise KeyboardInterrupt
        return real(self, unit, *rest)

    monkeypatch.setattr("geowb.predict.grid._UNIT_ROWS", 48)
    monkeypatch.setattr(units._Blender, "add", stops)
    with pytest.raises(KeyboardInterrupt):
        predict_scene(Layer(), file, target, **HOW)
    monkeypatch.setattr(units._Blender, "add", real)
    assert len(left := list(tmp_path.glob(".map.tif.*.partial/unit-00000.json"))) == 1
    stranger = tmp_path / ".map.tif.else.partial"
    stranger.mkdir()
    made = predict_scene(Pixelwise(), file, target, **HOW)
    assert made.resumed == 0
    assert not left[0].parent.exists()
    assert stranger.is_dir()
    assert np.allclose(made.open().values, truth(values), rtol=1e-6)


def test_a_worker_that_outlives_what_started_it_changes_nothing(tmp_path, file, values):
    """It holds a unit's files open while the map is made by others: of its request, or another."""
    from geowb.predict.job import Job, Writer
    from geowb.predict.planning import prepared, request_of

    target = tmp_path / "map.tif"
    task = prepared(Blur(), file, **{k: v for k, v in HOW.items() if k != "progress"})
    request = request_of(task, "cog")
    late = []
    for _ in range(2):
        job = Job(Job.place(target, request), task.grid, task.outputs, request)
        job.begin()
        late.append(Writer(job, 0))
        late[-1].put(0, np.zeros((1, *late[-1].job.raws["values"].shape[:2])))
    predict_scene(Pixelwise(), file, target, **HOW)  # another request
    np.testing.assert_allclose(open_map(target).values, truth(values), rtol=1e-6)
    for one in late:
        with pytest.raises(FileNotFoundError):
            one.finish({"not_finite": 0, "damages": []})
    np.testing.assert_allclose(open_map(target).values, truth(values), rtol=1e-6)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map.tif", "scene.tif"]


def test_one_target_is_made_by_one_process(tmp_path, file):
    from geowb.locks import held

    words = f"from predicting import *; from geowb.predict import predict_scene; import sys; \
predict_scene(Pixelwise(), {str(file)!r}, {str(tmp_path / 'map.tif')!r}, tile=32)"
    with held(tmp_path / ".map.tif.partial.lock"):
        done = subprocess.run([sys.executable, "-c", words], cwd=PROGRAM.parent,
                              capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 1
    assert "is being made by another process" in done.stderr


def test_a_full_disk_is_said_and_leaves_nothing_under_the_final_name(tmp_path, file, monkeypatch):
    from geowb.predict import job

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = tmp_path / "map.tif"
    monkeypatch.setattr(job, "_write", full)
    with pytest.raises(DataError, match=r"disk of .* is full .*the same command goes on"):
        predict_scene(Pixelwise(), file, target, **HOW)
    monkeypatch.undo()
    assert not target.exists()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(RequestError, match=r"needs up to .* GB are free"):
        predict_scene(Pixelwise(), file, tmp_path / "other.tif", **HOW)
    monkeypatch.undo()
    assert predict_scene(Pixelwise(), file, target, **HOW).seconds > 0


def test_a_file_that_may_not_grow_is_said_too(tmp_path):
    """The system itself refuses here, in the middle of the GeoTIFF."""
    file = raster(tmp_path / "scene.tif", counts(600, 600))
    script = f"""
import resource, signal, sys
sys.path.insert(0, {str(PROGRAM.parent)!r})
from predicting import Layer
from geowb.predict import predict_scene
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import geowb.predict.making as making
real = making.write_cog
def limited(*args, **how):
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    real(*args, **how)
making.write_cog = limited
predict_scene(Layer(), {str(file)!r}, {str(tmp_path / "map.tif")!r}, progress=False)
"""
    failed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                            check=False)  # fmt: skip
    assert failed.returncode == 1
    assert "DataError" in failed.stderr, failed.stderr
    assert "goes on" in failed.stderr
    assert not (tmp_path / "map.tif").exists()
    made = predict_scene(Layer(), file, tmp_path / "map.tif", progress=False)
    assert made.resumed == made.units
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_memory_does_not_grow_with_the_scene(tmp_path):
    """Beyond the loaded libraries and model, in megabytes: the limit is 300."""
    taken, words = {}, ('model="layer"', "tile=512", "overlap=32")
    for size in (4096, 16384):
        file = sparse(tmp_path / f"{size}.tif", size)
        for threads in ("1", str(cpu_count())):  # reading beside the model, and after it
            how = {"OMP_NUM_THREADS": threads, "GOMP_SPINCOUNT": "1000"}
            done = run(file, tmp_path / f"map{size}.tif", *words, "overwrite=true", **how)
            assert done.returncode == 0, done.stderr
            taken.setdefault(threads, []).append(json.loads(done.stdout)["megabytes"])
    for small, large in taken.values():
        assert max(small, large) <= 300, taken
        assert large <= small + 60, taken
    with rasterio.open(tmp_path / "map16384.tif") as found, rasterio.open(file) as given:
        assert found.shape == (16384, 16384)
        window = rasterio.windows.Window(8192, 8192, 512, 512)
        counts_ = torch.from_numpy(given.read(window=window).astype("float32"))[None, :, None]
        with torch.no_grad():
            own = Layer()(counts_)[0, 0].numpy()
        np.testing.assert_allclose(found.read(1, window=window), own, atol=1e-5)


def test_what_lies_free_in_pieces_is_given_back():
    process = psutil.Process()
    with kept() as tidy:
        for _ in range(10):
            tidy()
        before = process.memory_info().rss
        pieces = [np.ones(2**18) for _ in range(100)]  # 2 MB each
        del pieces[::2]
        full = process.memory_info().rss
        if full < before + 150e6:
            pytest.skip("this C library gives back each piece itself")
        tidy()
        assert process.memory_info().rss < full - 80e6
        assert sum(map(len, pieces)) == 50 * 2**18


# --- many scenes, a cluster, the command line ---------------------------------------------------


def test_many_scenes_in_one_call(tmp_path, values):
    files = [raster(tmp_path / f"s{i}.tif", counts(40, 50, seed=i)) for i in range(3)]
    bare = raster(tmp_path / "bare.tif", values, crs=None)
    how = HOW | {"tile": 16}
    with pytest.raises(DataError, match=r"1 of 4 scenes failed, .*bare: 'bare.tif' has no CRS"):
        predict_scenes(Pixelwise(), [files[0], bare, *files[1:]], tmp_path / "maps", **how)
    again = predict_scenes(Pixelwise(), files, tmp_path / "maps", **how)
    assert [one.seconds for one in again] == [0.0] * 3
    assert [one.file.name for one in again] == ["s0.tif", "s1.tif", "s2.tif"]
    assert np.allclose(again[2].open().values, truth(counts(40, 50, seed=2)), rtol=1e-6)
    mine = tmp_path / "c_confidence.tif"
    mine.write_bytes(b"mine")
    with pytest.raises(RequestError, match=r"c_confidence.tif exists"):
        predict_scene(Blur(outputs=2), files[0], tmp_path / "c.tif",
                      output=["classes", "confidence"], **how)  # fmt: skip
    assert mine.read_bytes() == b"mine"
    with pytest.raises(RequestError, match="Two scenes are called s0"):
        predict_scenes(Pixelwise(), [files[0], files[0]], tmp_path / "maps")
    with pytest.raises(RequestError, match=r"no map of any scene. s0: tile is 0"):
        predict_scenes(Pixelwise(), files, tmp_path / "new/maps", tile=0)
    assert not (tmp_path / "new/maps").exists()
    with pytest.raises(RequestError, match=r"bare.tif is a file: maps of several scenes"):
        predict_scenes(Pixelwise(), files, bare)


def test_a_cluster_makes_the_same_map(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr("geowb.predict.grid._UNIT_ROWS", 48)
    file = raster(tmp_path / "scene.tif", counts(300, 130))
    how = HOW | {"output": ["classes", "probabilities"]}
    alone = predict_scene(Blur(outputs=3), file, tmp_path / "alone.tif", **how)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=2, processes=False,
                                  dashboard_address=None) as cluster:  # fmt: skip
        address = cluster.scheduler_address
        made = predict_scene(Blur(outputs=3), file, tmp_path / "map.tif", scheduler=address, **how)
        assert made.units > 3
        gone = damaged(tmp_path)
        with pytest.raises(DataError, match="cannot be read in rows"):
            predict_scene(Pixelwise(), gone, tmp_path / "bad.map.tif", scheduler=address, **HOW)
    for name in ("classes", "probabilities"):
        np.testing.assert_allclose(made.open(name).values, alone.open(name).values, atol=1e-6)
    with pytest.raises(RequestError, match="No dask scheduler answers"):
        predict_scene(Blur(), file, tmp_path / "no.tif", scheduler="tcp://127.0.0.1:1", **HOW)


def test_the_command_line(tmp_path, capsys, monkeypatch):
    from geowb.cli import app

    monkeypatch.chdir(tmp_path)
    save(build("unet", seed=0), tmp_path / "m/model.safetensors", units="Mg/ha")
    values = counts(70, 60)
    raster(tmp_path / "a.tif", values)
    raster(tmp_path / "b.tif", values)
    for i in range(6):
        raster(tmp_path / f"band{i}.tif", values[i : i + 1])

    def geowb(*words):
        app(["predict", "m", *words, "--tile", "32", "--quiet"], standalone_mode=False)
        return capsys.readouterr()

    assert geowb("a.tif", "out.tif").out == "out.tif\n"
    assert "It was there already" in geowb("a.tif", "out.tif").err
    assert geowb("a.tif", "out.zarr").out == "out.zarr\n"
    assert "It was there already" in geowb("a.tif", "out.zarr").err
    assert geowb("a.tif", "b.tif", "maps").out == "maps/a.tif\nmaps/b.tif\n"
    with pytest.raises(DataError, match=r"1 of 2 scenes failed, the others are done. no: There is"):
        geowb("a.tif", "no.tif", "maps")
    assert capsys.readouterr().out == "maps/a.tif\n"  # what is there is named all the same
    geowb(*(f"band{i}.tif" for i in range(6)), "bands.tif", "--as", "bands")
    first, second = (rasterio.open(name).read() for name in ("out.tif", "bands.tif"))
    assert np.array_equal(first, second)
    for words, message in (
        (("a.tif",), "geowb predict MODEL SCENE OUT"),
        (("a.tif", "x.png"), "neither .tif nor .zarr"),
        (("a.tif", "b.tif", "x.tif"), "2 scenes cannot go into one file"),
        (("a.tif", "x.tif", "--as", "months"), "--as is 'months'"),
        (("a.tif", "x.tif", "--bands", "1,2"), "2 of them chosen"),
        (("world", "x.tif", "-s", "region=pampa", "-s", "region=cerrado"), "given twice"),
    ):
        with pytest.raises(RequestError, match=message):
            geowb(*words)
    assert from_origin(500_000, 7_000_000, 30, 30) == TRANSFORM


def test_the_command_that_sums_a_map_up(tmp_path, capsys, monkeypatch):
    from geowb.cli import app

    monkeypatch.chdir(tmp_path)
    file = raster(tmp_path / "map.tif", np.array([[[0, 1], [1, 255]]], "uint8"), nodata=255)
    with rasterio.open(file, "r+") as found:
        found.update_tags(flag_values="0 1", flag_meanings="forest open_water")

    def area(*words):
        app(["area", "map.tif", *words], standalone_mode=False)
        return capsys.readouterr()

    told = area("--csv", "table.csv")
    assert [line.split()[0] for line in told.out.splitlines()] == ["class", "forest", "open"]
    assert "No data: 0.0009" in told.err
    assert Path("table.csv").read_text().splitlines()[1].startswith("forest,0,1,0.0009")
    with pytest.raises(RequestError, match="--by names polygons"):
        area("--by", "stand")
