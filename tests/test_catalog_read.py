"""Readers and checks, on tiny files made here."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine
from rasterio.enums import Resampling
from rasterio.transform import from_origin

from geowb.catalog import check_source, open_catalog
from geowb.catalog.source import Source
from geowb.errors import DataError, RequestError

ORIGIN = from_origin(440280, 3159720, 30, 30)


def tif(
    path: Path,
    data: np.ndarray,
    *,
    crs: int | None = 32614,
    transform: Any = ORIGIN,
    nodata: float | None = None,
    names: tuple[str, ...] = (),
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = data if data.ndim == 3 else data[None]
    count, height, width = data.shape
    with rasterio.open(
        path, "w", driver="GTiff" if path.suffix == ".tif" else "PNG", count=count, height=height,
        width=width, dtype=data.dtype, crs=crs, transform=transform, nodata=nodata,
    ) as file:  # fmt: skip
        file.write(data)
        if names:
            file.descriptions = names


def source(folder: Path, body: str, name: str = "chip") -> Source:
    (folder / "catalog.yaml").write_text(f"{name}:\n{body}", encoding="utf-8")
    return open_catalog(folder / "catalog.yaml")[name]


def check(folder: Path, **needs: Any) -> list[str]:
    return check_source("chip", catalog=str(folder / "catalog.yaml"), **needs)


@pytest.fixture(autouse=True)
def _no_real_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GEOWB_DATA", raising=False)


RASTER = """\
  uri: image.tif
  driver:
    name: raster
    options:
      bands: [SWIR_1, null, BLUE]
      labels:
        agb: {uri: agb.tif, nodata: -1}
        crop: {uri: crop.tif, nodata: 0, classes: [a, b]}
  data_adapter: {unit_mult: {reflectance: 10}, unit_add: {field: -1, agb: 2}, rename: {crop: field}}
  metadata: {nodata: -9999}
"""


def raster(folder: Path, body: str = RASTER) -> Source:
    image = np.arange(3 * 4 * 5, dtype="int16").reshape(3, 4, 5)
    image[2, 1, 1] = -9999
    tif(folder / "image.tif", image)
    agb = np.full((4, 5), -1, "float32")
    agb[0, :2] = 7, 0
    tif(folder / "agb.tif", agb)
    tif(folder / "crop.tif", np.tile(np.array([0, 1, 2, 1, 0], "uint8"), (4, 1)))
    return source(folder, body)


def test_a_scene_keeps_the_contract(tmp_path: Path) -> None:
    scene = raster(tmp_path).open()
    assert scene.reflectance.dims == ("time", "band", "y", "x")
    assert scene.reflectance.dtype == "float32"
    assert scene.reflectance.chunks is not None  # lazy
    assert scene.band.values.tolist() == ["SWIR_1", "BLUE"]
    blue = scene.reflectance.sel(band="BLUE")[0].values
    assert np.isnan(blue[1, 1])
    assert blue[0, 0] == 400  # third channel, times 10
    assert np.isfinite(scene.reflectance.values).sum() == 39
    np.testing.assert_array_equal(scene.agb.values[0], [9, 2, np.nan, np.nan, np.nan])
    assert scene.field.dtype == "int16"
    assert scene.field.values[0].tolist() == [-1, 0, 1, 0, -1]
    assert scene.rio.crs.to_epsg() == 32614
    assert scene.rio.transform() == ORIGIN
    assert scene.x.values[0] == 440280 + 15


@pytest.mark.parametrize("order", [("B2", "B3"), ("B3", "B2")])
def test_all_six_bands_come_in_their_order(tmp_path: Path, order: tuple[str, str]) -> None:
    tif(
        tmp_path / "image.tif",
        np.zeros((6, 2, 2), "int16") + np.arange(6)[:, None, None].astype("int16"),
    )
    chip = source(
        tmp_path,
        "  uri: image.tif\n  driver: {name: raster, options: {bands: "
        "[SWIR_2, SWIR_1, NIR_NARROW, RED, GREEN, BLUE]}}\n",
    )
    scene = chip.open()
    assert scene.band.values.tolist() == ["BLUE", "GREEN", "RED", "NIR_NARROW", "SWIR_1", "SWIR_2"]
    assert scene.reflectance.values[0, :, 0, 0].tolist() == [5, 4, 3, 2, 1, 0]


def test_channels_of_dates_and_files_of_dates(tmp_path: Path) -> None:
    data = np.arange(4, dtype="int16")[:, None, None] + np.zeros((4, 2, 2), "int16")
    tif(tmp_path / "a.tif", data)
    frames = source(
        tmp_path,
        "  uri: a.tif\n  driver: {name: raster, options: {bands: [RED, BLUE], frames: 2, "
        "dates: [2022-04-01, 2022-07-01]}}\n",
    ).open()
    assert frames.reflectance.values[:, :, 0, 0].tolist() == [[0, 1], [2, 3]]  # dates outermost
    assert frames.time.values.astype("datetime64[D]").astype(str).tolist() == [
        "2022-04-01",
        "2022-07-01",
    ]
    tif(tmp_path / "b.tif", data + 4)
    body = (
        "  uri: '[ab].tif'\n  driver: {name: raster, options: {bands: [RED, null, null, null]}}\n"
    )
    files = source(tmp_path, body).open()
    assert files.reflectance.values[:, 0, 0, 0].tolist() == [0, 4]
    assert np.isnat(files.time.values).all()  # no date is made up
    with pytest.raises(DataError, match="names 1 dates, its files hold 2"):
        source(tmp_path, body.replace("{bands", "{dates: [2022-04-01], bands")).open()
    tif(tmp_path / "b.tif", data[:, :1])
    with pytest.raises(DataError, match="not on the grid"):
        source(tmp_path, body).open()


def test_selections_are_checked(tmp_path: Path) -> None:
    tif(tmp_path / "cerrado.tif", np.zeros((2, 2), "int16"))
    chip = source(
        tmp_path,
        "  uri: '{region}.tif'\n  placeholders: {region: [cerrado, pampa]}\n"
        "  driver: {name: raster, options: {bands: [RED]}}\n",
    )
    assert chip.choices("region") == ["cerrado", "pampa"]
    assert chip.choices("year") == []
    assert chip.open().attrs["select_region"] == "cerrado"  # the first value
    assert list(chip.open_each("region", ["cerrado"])) == ["cerrado"]
    with pytest.raises(RequestError, match=r"no region 'cerado'\. Did you mean 'cerrado'"):
        chip.open(region="cerado")
    with pytest.raises(RequestError, match=r"no placeholder 'regoin'\. Did you mean 'region'"):
        chip.open(regoin="cerrado")
    with pytest.raises(DataError, match=r"'pampa\.tif' of entry 'chip' is not here"):
        chip.open(region="pampa")
    assert chip.status() == "missing"
    assert check(tmp_path, selection={"region": ["cerrado"]}) == []
    assert "pampa.tif" in check(tmp_path, selection={"region": []})[0]
    assert "Did you mean 'cerrado'" in check(tmp_path, selection={"region": ["cerado"]})[0]
    assert (
        "no placeholder 'year'"
        in check(tmp_path, selection={"year": ["1"], "region": ["cerrado"]})[0]
    )


def test_places_first_match_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "b").mkdir()
    for folder, value in (("a", 1), ("b", 2), ("env", 3)):
        tif(tmp_path / folder / "image.tif", np.full((2, 2), value, "int16"))
    (tmp_path / "catalog.yaml").write_text(
        "meta: {roots: [none, b, a]}\nchip:\n  uri: image.tif\n  driver: {name: raster}\n"
    )
    chip = open_catalog(tmp_path / "catalog.yaml")["chip"]
    assert chip.open().reflectance.values.max() == 2
    monkeypatch.setenv("GEOWB_DATA", str(tmp_path / "env"))
    assert chip.open().reflectance.values.max() == 3
    assert set(chip.provenance()["files"]) == {"image.tif"}


HALF_OFF, NARROW = from_origin(440295, 3159720, 30, 30), from_origin(440280, 3159720, 29, 30)
TURNED, SHEARED = ORIGIN * Affine.rotation(2), ORIGIN * Affine.shear(0, 1)


@pytest.mark.parametrize(
    ("file", "shape", "how", "words"),
    [
        ("image", (4, 4, 5), {}, "has 4 channels, the entry declares 3"),
        ("image", (3, 4, 5), {"crs": None}, "the file has no CRS"),
        ("agb", (4, 6), {}, "4 x 6 pixels (rows x columns), the image 4 x 5"),
        ("agb", (4, 5), {"crs": 32615}, "its CRS is EPSG:32615, the image's EPSG:32614"),
        ("agb", (4, 5), {"transform": HALF_OFF}, "shifted by 0.5 columns and 0 rows"),
        ("agb", (4, 5), {"transform": NARROW}, "its pixels are 29 x -30, the image's 30 x -30"),
        ("agb", (4, 5), {"transform": TURNED}, "is rotated or sheared against the image"),
        ("agb", (4, 5), {"transform": SHEARED}, "is rotated or sheared against the image"),
        ("image", None, {}, "raster"),
        ("agb", (), {}, "'agb.tif' of entry 'chip' is not here"),
    ],
)
def test_check_and_open_find_the_same_faults(
    tmp_path: Path, file: str, shape: tuple[int, ...] | None, how: Any, words: str
) -> None:
    chip, path = raster(tmp_path), tmp_path / f"{file}.tif"
    assert check(tmp_path, variables=["agb", "field"], bands=["BLUE"]) == []
    if shape:
        tif(path, np.zeros(shape, "int16"), **how)
    elif shape is None:
        path.write_text("no raster")
    else:
        path.unlink()
    found = check(tmp_path)
    assert len(found) == 1
    assert words in found[0]
    with pytest.raises(DataError) as caught:
        chip.open()
    assert words in str(caught.value)


def test_rounding_of_the_grid_is_no_fault(tmp_path: Path) -> None:
    chip = raster(tmp_path)
    tif(
        tmp_path / "agb.tif",
        np.zeros((4, 5), "float32"),
        transform=from_origin(440280.001, 3159720, 30, 30),
    )
    assert check(tmp_path) == []
    assert chip.open().agb.dims == ("y", "x")


def test_a_crs_of_the_entry_must_be_that_of_the_file(tmp_path: Path) -> None:
    tif(tmp_path / "image.tif", np.zeros((1, 2, 2), "int16"))
    body = "  uri: image.tif\n  driver: {name: raster}\n  metadata: {crs: 32615}\n"
    with pytest.raises(DataError, match="the file says CRS EPSG:32614, the entry 32615"):
        source(tmp_path, body).open()
    assert "32615" in check(tmp_path)[0]
    tif(tmp_path / "image.tif", np.zeros((1, 2, 2), "int16"), crs=None)
    assert source(tmp_path, body.replace("32615", "none")).open().rio.crs is None
    assert source(tmp_path, body).open().rio.crs.to_epsg() == 32615


def test_band_descriptions_that_contradict_the_entry(tmp_path: Path) -> None:
    body = "  uri: image.tif\n  driver: {name: raster, options: {bands: [BLUE, RED]}}\n"
    source(tmp_path, body)
    for names, wrong in (
        (("B02", "B04"), False),
        (("BLUE", "red"), False),
        (("x", ""), False),
        (("B04", "B02"), True),
    ):
        tif(tmp_path / "image.tif", np.zeros((2, 2, 2), "int16"), names=names)
        found = check(tmp_path)
        assert bool(found) is wrong, (names, found)
    assert "describes a band as 'B04', which the entry declares to be BLUE" in found[0]


def test_checks_of_what_a_study_needs(tmp_path: Path) -> None:
    raster(tmp_path)
    assert "no variable 'agbs'. Did you mean 'agb'" in check(tmp_path, variables=["agbs"])[0]
    assert "lacks the band(s) GREEN, RED" in check(tmp_path, bands="HLS6")[0]
    path = str(tmp_path / "catalog.yaml")
    assert "Did you mean 'chip'" in check_source("chop", catalog=path)[0]
    assert "docs/catalog.md" in check_source("image.tif", catalog=path)[0]
    assert "no catalog file" in check_source("chip", catalog=str(tmp_path / "x.yaml"))[0]
    (tmp_path / "catalog.yaml").write_text("chip: {dirver: 3}")
    assert "line 1, entry 'chip': unknown key 'dirver'" in check(tmp_path)[0]


# --- chips ---------------------------------------------------------------------------------------

CHIPS = """\
  uri: set
  driver:
    name: chips
    options:
      images: "{split}/{sample}_img.tif"
      bands: [null, RED, BLUE]
      splits: {training: train}
      labels:
        flood: {uri: "{split}/{sample}_lab.tif", nodata: 255, classes: [dry, water]}
  metadata: {crs: none, nodata: -9}
"""


def chips(folder: Path) -> Source:
    for split, sample, value in (("training", "b", 2), ("training", "a", 1), ("test", "c", 3)):
        image = np.full((3, 4, 5), value, "int16")
        image[1] += 10
        image[2, 0, 0] = -9
        tif(folder / "set" / split / f"{sample}_img.tif", image)
        label = np.full((4, 5), value % 2, "uint8")
        label[3, 4] = 255
        tif(folder / "set" / split / f"{sample}_lab.tif", label)
    return source(folder, CHIPS)


def test_chips_pair_images_labels_and_splits(tmp_path: Path) -> None:
    scene = chips(tmp_path).open()
    assert scene.reflectance.dims == ("sample", "band", "y", "x")
    assert scene.reflectance.data.numblocks[0] == 3  # one chunk an image
    assert scene.sample.values.tolist() == ["c", "a", "b"]
    assert scene.split.values.tolist() == ["test", "train", "train"]
    a = scene.sel(sample="a")
    assert a.reflectance.sel(band="RED").values.tolist() == np.full((4, 5), 11).tolist()
    assert np.isnan(a.reflectance.sel(band="BLUE").values[0, 0])
    assert a.flood.values[0, 0] == 1
    assert a.flood.values[3, 4] == -1
    assert scene.flood.attrs["flag_meanings"] == "dry water"
    assert check(tmp_path, variables=["flood"], bands=["RED"]) == []


def test_chips_faults(tmp_path: Path) -> None:
    chip = chips(tmp_path)
    tif(tmp_path / "set/test/d_img.tif", np.zeros((3, 9, 9), "int16"))
    with pytest.raises(DataError, match="1 of 4 images of entry 'chip' have no label 'flood'"):
        chip.open()
    tif(tmp_path / "set/test/d_lab.tif", np.zeros((9, 9), "uint8"))
    with pytest.raises(
        DataError, match="has 9 x 9 pixels, the first image 4 x 5; give the option size"
    ):
        chip.open().reflectance.load()
    sized = source(tmp_path, CHIPS.replace("splits:", "size: 8\n      splits:")).open()
    assert sized.reflectance.load().shape == (4, 2, 8, 8)
    tif(tmp_path / "set/test/c_lab.tif", np.zeros((4, 4), "uint8"))
    assert "off its image's grid: it has 4 x 4" in check(tmp_path)[0]
    (tmp_path / "set/test/c_img.tif").write_text("no raster")
    assert "c_img.tif' is not a raster that can be read" in check(tmp_path)[0]
    source(tmp_path, CHIPS.replace("_img.tif", "_image.tif"))
    assert "fits '{split}/{sample}_image.tif'" in check(tmp_path)[0]


def test_resampled_images_hold_no_nodata(tmp_path: Path) -> None:
    image = np.full((2, 64, 64), 1000, "int16")
    image[0, :, 33:] = -9999
    for own in (None, 0):  # of the file, beside the entry's
        tif(tmp_path / "set/a.tif", image, nodata=own)
        scene = source(
            tmp_path,
            "  uri: set\n  driver: {name: chips, options: {images: '{sample}.tif', size: 32, "
            "bands: [RED, BLUE]}}\n  metadata: {nodata: -9999}\n",
        ).open()
        red, blue = scene.reflectance.values[0]
        np.testing.assert_array_equal(red[:, :16], 1000)
        assert np.isnan(red[:, 17:]).all()
        assert set(red[np.isfinite(red)]) == {1000}
        np.testing.assert_array_equal(blue, 1000)


@pytest.mark.parametrize("height", [9, 40])
def test_resampling_is_that_of_gdal_where_all_is_valid(tmp_path: Path, height: int) -> None:
    image = np.random.default_rng(0).normal(1000, 300, (1, height, 24)).astype("float32")
    tif(tmp_path / "set/a.tif", image)
    scene = source(
        tmp_path,
        "  uri: set\n  driver: {name: chips, options: {images: '{sample}.tif', size: 16}}\n",
    ).open()
    with rasterio.open(tmp_path / "set/a.tif") as file:
        want = file.read(out_shape=(1, 16, 16), resampling=Resampling.bilinear)
    np.testing.assert_allclose(scene.reflectance.values[0], want, rtol=1e-5)


def test_every_label_must_lie_on_its_own_image(tmp_path: Path) -> None:
    chip = chips(tmp_path)
    shifted = tmp_path / "set/training/b_lab.tif"  # the last one
    tif(shifted, np.zeros((4, 5), "uint8"), transform=HALF_OFF)
    scene = chip.open()
    assert (scene.flood.sel(sample="a") >= -1).all()
    with pytest.raises(DataError, match=r"b_lab\.tif' is off .* shifted by 0\.5 columns"):
        scene.flood.load()
    tif(shifted, np.zeros((4, 5), "uint8"), crs=32615)
    with pytest.raises(DataError, match=r"b_lab\.tif' is off .* CRS is EPSG:32615"):
        chip.open().flood.load()


@pytest.mark.parametrize(
    ("value", "dtype"), [(40000, "uint16"), (2, "uint8"), (-2, "int16"), (0.5, "float32")]
)
def test_a_number_that_is_no_class_is_refused(tmp_path: Path, value: float, dtype: str) -> None:
    label = np.array([[0, 1, -1 if dtype == "int16" else 255, value, 0]] * 4, dtype)
    words = rf"lab\.tif' holds {value}, but 'flood' has 2 classes, 0-1\."
    chip = chips(tmp_path)
    tif(tmp_path / "set/training/b_lab.tif", label)
    with pytest.raises(DataError, match=words):
        chip.open().flood.load()
    tif(
        tmp_path / "set/training/b_lab.tif", label[:, [0, 1, 2, 2, 2]]
    )  # nodata and -1 are no class
    assert chip.open().flood.sel(sample="b").values[0].tolist() == [0, 1, -1, -1, -1]
    body = "labels: {flood: {uri: lab.tif, nodata: 255, kind: classes, classes: [a, b]}}"
    tif(tmp_path / "image.tif", np.zeros((4, 5), "int16"))
    tif(tmp_path / "lab.tif", label)
    scene = source(
        tmp_path, f"  uri: image.tif\n  driver: {{name: raster, options: {{{body}}}}}\n"
    ).open()
    with pytest.raises(DataError, match=words):
        scene.flood.load()


def test_classes_are_judged_after_the_adapter(tmp_path: Path) -> None:
    chip = raster(tmp_path)
    tif(tmp_path / "crop.tif", np.full((4, 5), 3, "uint8"))
    with pytest.raises(DataError, match=r"holds 3, but 'field' has 2 classes, 0-1 after its"):
        chip.open().field.load()


@pytest.mark.parametrize("driver", ["raster", "chips"])
@pytest.mark.parametrize("layer", ["image", "label"])
def test_an_offset_in_a_file_is_not_lost(tmp_path: Path, driver: str, layer: str) -> None:
    for name in ("image", "label"):
        tif(tmp_path / f"set/{name}.tif", np.full((2, 2), 1500, "uint16"))
    options = "labels: {agb: {uri: set/label.tif}}"
    if driver == "chips":
        options = "images: '{sample}mage.tif', labels: {agb: {uri: label.tif}}"
    body = (
        f"  uri: {'set' if driver == 'chips' else 'set/image.tif'}\n"
        f"  driver: {{name: {driver}, options: {{{options}}}}}\n"
    )
    assert source(tmp_path, body).open().reflectance.values.max() == 1500
    with rasterio.open(tmp_path / f"set/{layer}.tif", "r+") as file:
        file.scales, file.offsets = (1e-4,), (-0.1,)
    name = "agb" if layer == "label" else "reflectance"
    with pytest.raises(DataError, match=rf"offset of -0\.1 .*unit_add: {{{name}: -1000}}"):
        source(tmp_path, body).open().load()
    told = source(tmp_path, body + f"  data_adapter: {{unit_add: {{{name}: -1000}}}}\n").open()
    assert told[name].values.max() == 500


def test_classes_are_folders_and_splits_are_lists(tmp_path: Path) -> None:
    for kind, sample in (("river", "river1"), ("river", "river10"), ("forest", "forest1")):
        tif(
            tmp_path / "set" / "deep" / kind / f"{sample}.png",
            np.zeros((3, 2, 2), "uint8"),
            crs=None,
        )
    (tmp_path / "set/train.txt").write_text("river1.jpg\nx/forest1_S2Hand.tif,forest1_Label.tif\n")
    (tmp_path / "set/test.txt").write_text("river10.jpg\n\nelsewhere.jpg\n")
    chip = source(
        tmp_path,
        "  uri: set\n  driver:\n    name: chips\n    options:\n"
        "      images: '**/{class}/{sample}.*'\n      bands: [RED, GREEN, BLUE]\n"
        "      split_files: {train: train.txt, test: test.txt}\n  metadata: {crs: none}\n",
    )
    scene = chip.open()
    assert scene.sample.values.tolist() == ["forest1", "river1", "river10"]
    assert scene.label.values.tolist() == [0, 1, 1]
    assert scene.label.attrs["flag_meanings"] == "forest river"
    assert scene.split.values.tolist() == ["train", "train", "test"]
    assert check(tmp_path, variables=["label"]) == []
    (tmp_path / "set/test.txt").unlink()
    assert "split file" in check(tmp_path)[0]


def test_dates_of_chips_are_a_dimension(tmp_path: Path) -> None:
    data = np.arange(6, dtype="int16")[:, None, None] + np.zeros((6, 2, 2), "int16")
    tif(tmp_path / "set/a.tif", data)
    chip = source(
        tmp_path,
        "  uri: set\n  driver: {name: chips, options: {images: '{sample}.tif', frames: 3, "
        "bands: [RED, BLUE]}}\n",
    )
    scene = chip.open()
    assert scene.reflectance.dims == ("sample", "time", "band", "y", "x")
    assert scene.reflectance.values[0, :, :, 0, 0].tolist() == [[0, 1], [2, 3], [4, 5]]


# --- stac ----------------------------------------------------------------------------------------

STAC = """\
  placeholders: {bbox: any, datetime: any}
  driver:
    name: stac
    options:
      url: URL
      collections: {L30: {RED: B04, NIR_NARROW: B05}, S30: {RED: B04, NIR_NARROW: B8A}}
      bbox: "{bbox}"
      datetime: "{datetime}"
      fmask: Fmask
      max_cloud: 50
  metadata: {crs: 32614, nodata: -9999}
"""
BBOX = "-99.6145,28.560,-99.605,28.562"  # from 200 m west of the images


def item(
    folder: Path, name: str, collection: str, nir: str, day: int, cloud: float, value: int
) -> Any:
    import pystac

    grid = from_origin(440000, 3159960, 30, 30)
    corners = [[-99.7, 28.4], [-99.5, 28.4], [-99.5, 28.7], [-99.7, 28.7], [-99.7, 28.4]]
    made = pystac.Item(
        name,
        {"type": "Polygon", "coordinates": [corners]},
        [-99.7, 28.4, -99.5, 28.7],
        datetime(2022, 7, day, 17, tzinfo=UTC),
        {"eo:cloud_cover": cloud},
        collection=collection,
    )
    for asset, number in (("B04", value), (nir, value + 1), ("Fmask", 64)):
        path = folder / f"{name}_{asset}.tif"
        data = np.full((40, 40), number, "uint8" if asset == "Fmask" else "int16")
        if asset == "B04":
            data[:, :] = np.where(np.arange(40) % 2, number, -9999)
        tif(path, data, transform=grid, nodata=None if asset == "Fmask" else -9999)
        made.add_asset(asset, pystac.Asset(str(path), media_type="image/tiff"))
    return made


def test_stac_maps_the_bands_of_each_collection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pystac_client

    items = [
        item(tmp_path, "s", "S30", "B8A", 9, 10, 300),
        item(tmp_path, "l", "L30", "B05", 3, 40, -100),
        item(tmp_path, "cloudy", "L30", "B05", 4, 90, 900),
    ]
    asked: dict[str, Any] = {}

    class Client:
        def search(self, **query: Any) -> Any:
            asked.update(query)
            return self

        def items(self) -> Any:
            return iter(items)

    monkeypatch.setattr(pystac_client.Client, "open", lambda url: Client())
    hls = source(tmp_path, STAC.replace("URL", "https://example.org/stac"))
    scene = hls.open(bbox=BBOX, datetime="2022-07")
    assert asked["bbox"] == (-99.6145, 28.560, -99.605, 28.562)
    assert asked["datetime"] == "2022-07"
    assert asked["collections"] == ["L30", "S30"]
    assert "max_items" not in asked  # a long season is not cut short
    assert scene.reflectance.dims == ("time", "band", "y", "x")
    assert scene.band.values.tolist() == ["RED", "NIR_NARROW"]
    outside = scene.sel(x=440000, method="ffill")  # the pixel that ends where the images begin
    assert np.isnan(outside.reflectance).all()
    assert (outside.fmask == 255).all()
    pair = scene.sel(x=slice(440210, 440270)).isel(y=3)
    values = pair.reflectance.values
    np.testing.assert_array_equal(np.nanmax(values, axis=2), [[-100, -99], [300, 301]])  # by date
    assert np.isnan(values).sum(axis=2).tolist() == [[1, 0], [1, 0]]
    assert (pair.fmask == 64).all()
    assert scene.fmask.dims == ("time", "y", "x")
    assert scene.rio.crs.to_epsg() == 32614
    assert scene.rio.resolution() == (30, -30)
    with pytest.raises(RequestError, match="west,south,east,north"):
        hls.open(bbox="1,2,3", datetime="2022-07")
    items.clear()
    with pytest.raises(DataError, match="no item of L30, S30"):
        hls.open(bbox=BBOX, datetime="2022-07")


def test_tokens_are_named_in_the_catalog_and_go_to_their_provider_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from geowb.catalog import stac

    monkeypatch.delenv("MY_TOKEN", raising=False)
    body = STAC.replace("URL", "https://example.org").replace(
        "fmask: Fmask", "sign: earthdata\n      token_env: MY_TOKEN"
    )
    hls = source(tmp_path, body)
    options = hls.reader({"bbox": BBOX, "datetime": "2022"})[0].options
    with pytest.raises(RequestError, match="environment variable MY_TOKEN"):
        stac.signer(options, "L30")
    wanted = {"bbox": [BBOX], "datetime": ["2022"]}
    assert "MY_TOKEN" in check(tmp_path, selection=wanted)[0]
    monkeypatch.setenv("MY_TOKEN", "secret")
    assert check(tmp_path, selection=wanted) == []
    sign = stac.signer(options, "L30")
    assert stac.reader(options).capture_env()["GDAL_HTTP_BEARER"] == "secret"
    good = "https://data.lpdaac.earthdatacloud.nasa.gov/x.tif"
    assert sign(good) == good
    for bad in (
        "http://data.lpdaac.earthdatacloud.nasa.gov/x",
        "https://earthdatacloud.nasa.gov.evil.org/x",
        "/x",
    ):
        with pytest.raises(DataError, match="not on a host"):
            sign(bad)


def test_the_embedded_world_needs_no_files(tmp_path: Path) -> None:
    world = source(
        tmp_path,
        "  placeholders: {region: [cerrado]}\n"
        "  driver: {name: world, options: {size: 32, dates: 1, clouds: false}}\n",
    )
    assert world.status() == "embedded"
    one, same, other = world.open(seed=3), world.open(seed=3), world.open(seed=4)
    xr.testing.assert_equal(one, same)
    assert not one.reflectance.equals(other.reflectance)
    assert one.sizes == {"time": 1, "band": 6, "y": 32, "x": 32}
    record = world.provenance()
    assert set(record) == {"entry", "driver", "entry_sha256", "world_version", "options"}
    assert record["options"]["size"] == 32
    larger = source(
        tmp_path,
        "  placeholders: {region: [cerrado]}\n"
        "  driver: {name: world, options: {size: 64, dates: 1, clouds: false}}\n",
    )
    assert larger.provenance()["entry_sha256"] != record["entry_sha256"]
    with pytest.raises(RequestError, match="makes it itself"):
        world.get()
