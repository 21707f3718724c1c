"""Variables that are channels of the image file itself, such as a probability of clouds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from test_catalog_read import check, source, tif

from geowb.catalog.source import Source
from geowb.errors import CatalogError, DataError

SCENE = """\
  uri: image.tif
  driver:
    name: raster
    options:
      bands: [RED, null, null]
      frames: 2
      layers:
        cloud: {channel: 2, nodata: 255}
        snow: {channel: 3, classes: [bare, snow]}
"""


@pytest.fixture(autouse=True)
def _no_real_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GEOWB_DATA", raising=False)


def image(path: Path, *, nodata: float | None = None, snow: int = 1) -> None:
    data = np.zeros((6, 2, 3), "uint16")
    data[[0, 3]] = np.array([700, 900])[:, None, None]
    data[[1, 4]] = np.array([0, 40])[:, None, None]
    data[1, 1, 2], data[4, 0, 0] = 255, 10
    data[5, 0] = snow
    tif(path, data, nodata=nodata)


def scene(folder: Path, body: str = SCENE, **how: float) -> Source:
    image(folder / "image.tif", **how)
    return source(folder, body)


def test_layers_of_a_scene_are_variables_beside_reflectance(tmp_path: Path) -> None:
    found = scene(tmp_path).open()
    assert set(found.data_vars) == {"reflectance", "cloud", "snow"}
    assert found.reflectance.shape == (2, 1, 2, 3)
    assert (found.reflectance.values[:, 0, 0, 0] == [700, 900]).all()
    assert found.cloud.dims == found.snow.dims == ("time", "y", "x")
    assert (found.cloud.dtype, found.snow.dtype) == ("float32", "int16")
    assert found.cloud.chunks is not None  # lazy
    np.testing.assert_array_equal(found.cloud.values[0], [[0, 0, 0], [0, 0, np.nan]])
    np.testing.assert_array_equal(found.cloud.values[1], [[10, 40, 40], [40, 40, 40]])
    assert found.snow.values[:, :, 0].tolist() == [[0, 0], [1, 0]]
    assert found.snow.flag_meanings == "bare snow"
    assert found.rio.crs.to_epsg() == 32614
    assert check(tmp_path, variables=["cloud", "snow", "reflectance"], bands=["RED"]) == []
    assert "Did you mean 'cloud'" in check(tmp_path, variables=["clouds"])[0]


def test_a_layers_own_nodata_takes_the_place_of_the_files(tmp_path: Path) -> None:
    found = scene(tmp_path, nodata=0).open()
    assert (found.cloud.values[0, 0] == 0).all()  # no cloud, not no data
    assert (found.snow.values[0] == -1).all()  # names none: the file's
    found = scene(tmp_path, SCENE + "  metadata: {nodata: 40}\n").open()
    assert found.cloud.values[1].max() == 40  # that of the entry is for reflectance


def test_layers_of_files_of_dates_and_their_adapter(tmp_path: Path) -> None:
    body = SCENE.replace("image.tif", "image*.tif").replace("frames: 2", "frames: 1")
    body = body.replace("[RED, null, null]", "[RED, null, null, null, null, null]")
    body += "  data_adapter: {unit_mult: {cover: 0.01}, rename: {cloud: cover}}\n"
    image(tmp_path / "image2.tif")
    found = scene(tmp_path, body).open()
    assert found.cover.shape == (2, 2, 3)
    assert found.cover.max() == 0


def test_layers_alone_are_no_reflectance(tmp_path: Path) -> None:
    found = scene(tmp_path, SCENE.replace("RED", "null")).open()
    assert set(found.data_vars) == {"cloud", "snow"}
    assert found.sizes == {"time": 2, "y": 2, "x": 3}
    problem = check(tmp_path, variables=["reflectance"], bands=["RED"])
    assert "has no variable 'reflectance'" in problem[0]
    assert "lacks the band(s) RED; it has none" in problem[1]


CHIPS = SCENE.replace("raster", "chips").replace("uri: image.tif", "uri: set")
CHIPS = CHIPS.replace("bands:", 'images: "{sample}.tif"\n      bands:')


@pytest.mark.parametrize("size", [None, 4])
def test_layers_of_chips(tmp_path: Path, size: int | None) -> None:
    for name in "ab":
        image(tmp_path / f"set/{name}.tif", nodata=0)
    body = CHIPS.replace("frames", f"size: {size}\n      frames") if size else CHIPS
    found = source(tmp_path, body).open()
    shape = (size, size) if size else (2, 3)
    assert found.cloud.dims == found.snow.dims == ("sample", "time", "y", "x")
    assert found.cloud.shape == found.snow.shape == (2, 2, *shape)
    assert found.cloud.data.numblocks[0] == 2  # one chunk a file
    assert found.cloud.values.shape == found.snow.values.shape == found.cloud.shape
    assert set(np.unique(found.cloud.values[:, 1])) == {10, 40}  # as stored, not interpolated
    assert np.isnan(found.cloud.values[0, 0, -1, -1])
    assert found.cloud.values[0, 0, 0, 0] == 0
    assert set(np.unique(found.snow)) == {-1, 1}  # 0 is the file's own no data
    assert check(tmp_path, variables=["cloud"]) == []
    one = CHIPS.replace("frames: 2", "frames: 1").replace(
        "null, null]", "null, null" + ", null" * 3 + "]"
    )
    assert source(tmp_path, one).open().cloud.dims == ("sample", "y", "x")


@pytest.mark.parametrize("driver", ["raster", "chips"])
def test_a_layers_classes_and_offset_are_checked(tmp_path: Path, driver: str) -> None:
    path = tmp_path / ("image.tif" if driver == "raster" else "set/a.tif")
    body = SCENE if driver == "raster" else CHIPS
    image(path, snow=7)
    found = source(tmp_path, body).open()
    words = r"holds 7, but 'snow' has 2 classes, 0-1\. Known in the file: 0 bare, 1 snow\."
    with pytest.raises(DataError, match=words):
        found.snow.load()
    assert found.cloud.load().max() == 40
    with rasterio.open(path, "r+") as file:
        file.offsets = (0, 5, 0, 0, 5, 0)
    told = body + "  data_adapter: {unit_add: {reflectance: 0}}\n"
    with pytest.raises(DataError, match=r"offset of 5 .*unit_add: \{cloud: 5\}"):
        source(tmp_path, told).open().cloud.load()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("channel: 2", "channel: 0", "channel: .* not 0"),
        ("channel: 2", "channel: 4", "layer 'cloud': channel 4 is not among the 3 of bands"),
        ("channel: 2", "channel: 1", "layer 'cloud': channel 1 is the band RED; write null there"),
        ("      bands: [RED, null, null]\n", "", "channel 2 is read as a band too; list bands"),
        ("cloud:", "reflectance:", "layer 'reflectance' has the name of another variable"),
        ("cloud: {channel", "cloud: {chanel", "unknown key 'chanel'. Did you mean 'channel'"),
        ("frames: 2", "variable: fmask", "has one channel, and so no layers"),
    ],
)
def test_layers_are_checked_when_the_catalog_is_read(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    assert old in SCENE
    with pytest.raises(CatalogError, match=words):
        source(tmp_path, SCENE.replace(old, new))


def test_bands_that_name_nothing_need_layers(tmp_path: Path) -> None:
    body = SCENE[: SCENE.index("      layers")].replace("RED", "null")
    with pytest.raises(CatalogError, match="bands names no channel, and there are no layers"):
        source(tmp_path, body)
