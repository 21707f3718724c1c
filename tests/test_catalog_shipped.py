"""The catalog that comes with geowb, and the real test chips that it describes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from geowb.bands import HLS6
from geowb.catalog import check_source, open_catalog
from geowb.catalog.chips import find_chips
from geowb.paths import default_catalog

CATALOG = open_catalog()
CHIPS = [name for name, source in CATALOG.items() if source.entry.metadata.category == "test chip"]


def test_the_studies_find_their_data() -> None:
    studies = {
        "agb_granite", "sen1floods11", "burn_scars", "crops", "cloud_gaps", "cloud_gap_masks",
    }  # fmt: skip
    assert studies | {"ucmerced", "eurosat", "potsdam", "hls", "world"} <= set(CATALOG)
    assert len(CATALOG.table()) == len(CATALOG)


@pytest.mark.parametrize("name", CATALOG)
def test_every_entry_says_where_it_comes_from(name: str) -> None:
    entry = CATALOG[name].entry
    assert entry.description
    assert entry.metadata.category
    assert entry.metadata.source_license
    if entry.driver.name not in ("world", "digits"):
        assert entry.metadata.source_url or name == "test_chips"
        assert entry.twin
    assert name in CATALOG[name].describe()


def test_the_file_names_no_folder_of_a_machine() -> None:
    text = default_catalog().read_text()
    assert not re.search(r"(?<![\w./:-])(/(root|home|work|tmp|data|mnt|Users)/|[A-Z]:\\)", text)
    for file in CATALOG["test_chips"].entry.driver.options.files:
        assert re.match(
            r"https://raw\.githubusercontent\.com/[^/]+/[^/]+/[0-9a-f]{7,40}/", file.url
        )


def test_it_is_in_order_where_nothing_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEOWB_CACHE", str(tmp_path))
    monkeypatch.setenv("GEOWB_DATA", str(tmp_path))
    assert CATALOG.check() == []


def test_every_test_chip_is_brought_by_the_collection() -> None:
    brought = [file.path for file in CATALOG["test_chips"].entry.driver.options.all_files()]
    assert len(brought) == len(set(brought))
    for name in CHIPS:
        entry = CATALOG[name].entry
        if entry.part_of:
            top = entry.uri.partition("/")[0]
            assert any(path.startswith(top + "/") for path in brought), name


@pytest.mark.parametrize("region", ["amazonia", "cerrado", "mata_atlantica"])
def test_the_world_is_what_studies_need(region: str) -> None:
    for name in ("world", "world_agb", "world_year"):
        needs = {"variables": ["agb", "agb_dense"], "bands": "HLS6"}
        assert check_source(name, selection={"region": [region]}, **needs) == []
        assert CATALOG[name].choices("region") == ["amazonia", "cerrado", "mata_atlantica"]
    assert "Did you mean 'cerrado'" in check_source("world", selection={"region": ["cerado"]})[0]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("agb_granite", "all_ecos_datasplit/train_images/T10SFF_144_tile_img.tif"),
        ("burn_scars", "training/subsetted_512x512_HLS.S30.T10SGD.2018257.v1.4_merged.tif"),
        ("crops", "validation_chips/chip_178_022_merged.tif"),
        ("sen1floods11", "data/flood_events/HandLabeled/S2Hand/Spain_7370579_S2Hand.tif"),
        ("ucmerced", "images/Images/river/river00.tif"),
        ("eurosat", "images/River/River_1.tif"),
        ("cloud_gaps", "train/hls_chips/chip_373_294.tif"),
        ("cloud_gap_masks", "train/cloud_masks/chip_373_294_2_cmask.tif"),
    ],
)
def test_templates_find_the_published_names(tmp_path: Path, name: str, path: str) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).touch()
    driver, _ = CATALOG[name].reader(CATALOG[name].selections()[0])
    assert len(find_chips(tmp_path, driver.options.images)) == 1


def test_the_examples_of_the_reference_are_valid(tmp_path: Path) -> None:
    text = (default_catalog().parent / "docs" / "catalog.md").read_text(encoding="utf-8")
    examples = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    assert len(examples) >= 7
    for number, example in enumerate(examples):
        path = tmp_path / f"{number}.yaml"
        path.write_text(example, encoding="utf-8")
        assert len(open_catalog(path)) >= 1
    first = open_catalog(tmp_path / "0.yaml")["plots"]
    assert first.status() == "missing"


@pytest.fixture
def real(geowb_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOWB_DATA", str(geowb_data))


@pytest.mark.real
@pytest.mark.usefixtures("real")
@pytest.mark.parametrize("name", [name for name in CHIPS if name != "test_chips"])
def test_the_chips_are_as_described(name: str) -> None:
    source = CATALOG[name]
    assert source.status() == "here"
    if source.entry.data_type == "Files":
        assert source.get().is_file()
    else:
        assert check_source(name) == []


@pytest.mark.real
@pytest.mark.usefixtures("real")
def test_the_biomass_chip() -> None:
    scene = CATALOG["agb_south_texas"].open()
    assert dict(scene.sizes) == {"time": 1, "band": 6, "y": 224, "x": 224}
    assert tuple(scene.band.values) == HLS6
    agb = scene.agb.values
    assert np.isfinite(agb).sum() == 246
    assert (round(float(np.nanmin(agb)), 2), round(float(np.nanmax(agb)), 2)) == (1.21, 23.28)
    assert scene.rio.crs.to_epsg() == 32614
    assert abs(scene.rio.resolution()[0]) == 30
    assert (scene.reflectance.mean(("time", "y", "x")) > 100).all()


@pytest.mark.real
@pytest.mark.usefixtures("real")
def test_the_other_chips() -> None:
    floods = CATALOG["sen1floods11_chip"].open()
    assert dict(floods.reflectance.sizes) == {"time": 1, "band": 6, "y": 512, "x": 512}
    numbers = zip(*np.unique(floods.flood, return_counts=True), strict=True)
    assert dict(numbers) == {-1: 99, 0: 192_010, 1: 70_035}
    crop = CATALOG["crop_chip"].open()
    assert np.isnan(crop.reflectance[0]).all()  # the first date has no data
    assert set(np.unique(crop.crop)) == {0, 2, 4, 5, 6, 7, 8, 9, 12}  # published 1, 3, 5-10, 13
    forest = CATALOG["biomassters_chip"].open()
    assert dict(forest.reflectance.sizes) == {"time": 6, "band": 6, "y": 256, "x": 256}
    assert round(float(forest.agb_dense.mean())) == 76
    cloud = forest.cloud_probability
    assert (cloud.dims, cloud.dtype) == (("time", "y", "x"), "float32")
    assert cloud.max(("y", "x")).values.tolist() == [84, 33, 60, 70, 34, 51]  # per cent
    assert cloud.min() == 0  # no cloud, not no data
    assert cloud.notnull().all()
    places = CATALOG["ucmerced_subset"].open()
    assert dict(places.sizes) == {"sample": 210, "band": 3, "y": 256, "x": 256}
    assert np.bincount(places.label).tolist() == [10] * 21
    for tile, epsg, cloud in zip(
        CATALOG["hls_fmask_tiles"].choices("tile"), (32606, 32613), (4.5, 8.3), strict=True
    ):
        scene = CATALOG["hls_fmask_tiles"].open(tile=tile)
        assert scene.fmask.dtype == "uint8"
        assert scene.rio.crs.to_epsg() == epsg
        values = scene.fmask.values[scene.fmask.values != 255]
        assert round(float((values & 2 > 0).mean() * 100), 1) == cloud
