"""What is published about the data of four tasks: numbers of chips, statistics, classes.

The tiny copies have the names, layout, CRS and dtype of the published files.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin
from test_catalog_read import tif

import geowb
from geowb.bands import HLS6, STATISTICS
from geowb.catalog import check_source, open_catalog
from geowb.errors import CatalogError, DataError

CATALOG = open_catalog()
CROPS = [
    "natural_vegetation", "forest", "corn", "soybeans", "wetlands", "developed_barren",
    "open_water", "winter_wheat", "alfalfa", "fallow_idle", "cotton", "sorghum", "other",
]  # fmt: skip


# --- facts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "scale", "mean", "std"),
    [
        (
            "sen1floods11", 1e-4,  # hls-foundation-os, configs/sen1floods11_config.py
            [0.14245495, 0.13921481, 0.12434631, 0.31420089, 0.20743526, 0.12046503],
            [0.04036231, 0.04186983, 0.05267646, 0.0822221, 0.06834774, 0.05294205],
        ),
        (
            "burn_scars", 1e-4,  # hls-foundation-os, configs/burn_scars.py
            [0.033349706741586264, 0.05701185520536176, 0.05889748132001316,
             0.2323245113436119, 0.1972854853760658, 0.11944914225186566],
            [0.02269135568823774, 0.026807560223070237, 0.04004109844362779,
             0.07791732423672691, 0.08708738838140137, 0.07241979477437814],
        ),
        (
            "crops", 1,  # hls-foundation-os, configs/multi_temporal_crop_classification.py
            [494.905781, 815.239594, 924.335066, 2968.881459, 2634.621962, 1739.579917],
            [284.925432, 357.84876, 575.566823, 896.601013, 951.900334, 921.407808],
        ),
        (
            "cloud_gaps", 1,  # gfm-gap-filling, pretraining/mae_training.py
            [495.7316, 814.1386, 924.5740, 2962.5623, 2640.8833, 1740.3031],
            [286.9569, 359.3304, 576.3471, 892.2656, 945.9432, 916.1625],
        ),
    ],
)  # fmt: skip
def test_statistics_are_the_published_ones_in_counts(
    name: str, scale: float, mean: list[float], std: list[float]
) -> None:
    held = STATISTICS[name]
    np.testing.assert_allclose(np.multiply(held.mean, scale), mean, rtol=1e-7)
    np.testing.assert_allclose(np.multiply(held.std, scale), std, rtol=1e-7)
    assert len(held.mean) == len(held.std) == len(HLS6)
    assert held.source
    assert CATALOG[name].entry.metadata.statistics == name


@pytest.mark.parametrize(
    ("name", "chips"),
    [
        ("sen1floods11", {"train": 252, "val": 89, "test": 90, "bolivia": 15}),
        ("crops", {"train": 3083, "val": 771}),
        ("cloud_gaps", {"train": 6231, "test": 1621}),
        ("cloud_gap_masks", {"train": 20_042}),
        ("burn_scars", {"all": 804}),
    ],
)
def test_numbers_of_chips_are_the_published_ones(name: str, chips: dict[str, int]) -> None:
    entry = CATALOG[name].entry
    assert entry.metadata.chips == chips
    total = sum(chips.values())
    if name != "cloud_gap_masks":  # 1,600 of the 21,642 are not published as masks
        assert f"{total:,} " in entry.description.replace("446", f"{252 + 89 + 90 + 15}")
    else:
        assert f"{total + 1600:,} in all" in entry.metadata.notes


def label(name: str, variable: str) -> Any:
    return CATALOG[name].reader({})[0].options.labels[variable]


def test_classes_weights_and_values_without_a_label_are_the_published_ones() -> None:
    weights = (
        0.386375, 0.661126, 0.548184, 0.640482, 0.876862, 0.925186, 3.249462, 1.542289,
        2.175141, 2.272419, 3.062762, 3.626097, 1.198702,
    )  # fmt: skip
    for name in ("crops", "crop_chip"):
        crop = label(name, "crop")
        assert (list(crop.classes), crop.nodata, crop.class_weights) == (CROPS, 0, weights)
    for name in ("sen1floods11", "sen1floods11_chip"):
        flood = label(name, "flood")
        assert (flood.classes, flood.nodata) == (("dry", "water"), -1)
        assert flood.class_weights == (0.3, 0.7)
    burn = label("burn_scars", "burn")
    assert (burn.classes, burn.nodata, burn.class_weights) == (("unburnt", "burnt"), -1, ())


def test_an_entry_tells_what_is_published() -> None:
    told = CATALOG["sen1floods11"].describe()
    assert "  chips: 252 train, 89 val, 90 test, 15 bolivia (published)\n" in told
    assert "  statistics: sen1floods11: mean 1424.5 1392.1 1243.5 3142.0 2074.4 1204.7; dev" in told
    flood = "label flood: 0 dry (weight 0.3), 1 water (weight 0.7); -1 in the file is no data"
    assert flood in told
    assert "chips: 804 in all (published)" in CATALOG["burn_scars"].describe()
    told = CATALOG["biomassters_chip"].describe()
    assert "layer cloud_probability: channel 11; a quantity; 255 in the file is no data" in told
    assert "label agb_dense: a quantity\n" in told
    for line in ("chips:", "statistics:", "label", "layer", "None"):
        assert line not in CATALOG["world"].describe()


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("sen1floods11", "flood"),
        ("sen1floods11_chip", "flood"),
        ("burn_scars", "burn"),
        ("crops", "crop"),
        ("crop_chip", "crop"),
    ],
)
def test_an_entry_and_its_twin_have_the_same_label_and_classes(name: str, variable: str) -> None:
    twin = CATALOG[name].entry.twin
    assert set(CATALOG[name].reader({})[0].options.labels) == {variable}
    assert check_source(twin, variables=[variable], bands="HLS6") == []
    options = CATALOG[twin].reader({"region": CATALOG[twin].choices("region")[0]})[0].options
    made = geowb.world.scene(seed=0, **options.model_dump() | {"size": 64})[variable]
    assert (made.dtype, made.dims) == ("int16", ("y", "x"))
    classes = label(name, variable).classes
    assert list(made.flag_values) == list(range(len(classes)))
    assert made.flag_meanings.split() == list(classes)


def test_the_twin_of_the_gaps_has_three_clear_dates() -> None:
    twin = CATALOG["cloud_gaps"].entry.twin
    assert twin == CATALOG["cloud_gap_masks"].entry.twin
    options = CATALOG[twin].reader({"region": "cerrado"})[0].options
    made = geowb.world.scene(seed=0, **options.model_dump() | {"size": 64})
    assert made.sizes["time"] == CATALOG["cloud_gaps"].reader({})[0].options.frames == 3
    assert tuple(made.band.values) == HLS6
    assert np.isfinite(made.reflectance.values).all()


# --- tiny copies ---------------------------------------------------------------------------------


def floods(root: Path, mask: Any) -> Path:
    folder = root / "sen1floods11/v1.1"
    hand, splits = folder / "data/flood_events/HandLabeled", folder / "splits/flood_handlabeled"
    splits.mkdir(parents=True)
    grid = {"crs": 4326, "transform": from_origin(-0.78, 38.13, 9e-5, 9e-5)}
    for split, name in (
        ("train", "Spain_7370579"), ("valid", "Ghana_103272"), ("test", "India_1017769"),
        ("bolivia", "Bolivia_103757"),
    ):  # fmt: skip
        image = np.arange(1, 14, dtype="int16")[:, None, None] * np.full((13, 2, 3), 100, "int16")
        image[:, 1, 2] = 0
        tif(hand / f"S2Hand/{name}_S2Hand.tif", image, nodata=0, **grid)
        tif(hand / f"LabelHand/{name}_LabelHand.tif", np.array(mask, "int16"), **grid)
        (splits / f"flood_{split}_data.csv").write_text(f"{name}_S1Hand.tif,{name}_LabelHand.tif\n")
    return hand / "LabelHand/Spain_7370579_LabelHand.tif"


def burns(root: Path, mask: Any) -> Path:
    folder = root / "burn_scars/data"
    for split, tile, zone in (("training", "T10SGD", 32610), ("validation", "T11SKA", 32611)):
        stem = folder / split / f"subsetted_512x512_HLS.S30.{tile}.2018257.v1.4"
        image = np.arange(1, 7, dtype="float32")[:, None, None] * np.full((6, 2, 3), 0.01, "f4")
        image[:, 1, 2] = -9999
        tif(stem.with_name(stem.name + "_merged.tif"), image, crs=zone)
        tif(stem.with_name(stem.name + ".mask.tif"), np.array(mask, "int16"), crs=zone)
    return stem.with_name(stem.name + ".mask.tif")


def crops(root: Path, mask: Any) -> Path:
    for folder, name in (("training", "chip_104_104"), ("validation", "chip_178_022")):
        image = np.arange(1, 19, dtype="int16")[:, None, None] * np.full((18, 2, 3), 100, "int16")
        image[:6, 1, 2] = -9999
        stem = root / f"crops/{folder}_chips/{name}"
        tif(stem.with_name(f"{name}_merged.tif"), image, crs=5070)
        tif(stem.with_name(f"{name}.mask.tif"), np.array(mask, "uint8"), crs=5070)
    return stem.with_name(f"{name}.mask.tif")


def gaps(root: Path, mask: Any) -> Path:
    for split, name in (("train", "chip_104_104"), ("test", "chip_373_294")):
        image = np.arange(1, 19, dtype="int16")[:, None, None] * np.full((18, 2, 3), 100, "int16")
        tif(root / f"cloud_gaps/{split}/hls_chips/{name}.tif", image, crs=5070)
    image[6:12, 0, 0] = 0  # what is masked at the second date
    tif(root / "cloud_gaps/test/hls_chips_masked/chip_373_294_masked.tif", image, crs=5070)
    for date in (1, 3):
        path = root / f"cloud_gaps/train/cloud_masks/chip_104_104_{date}_cmask.tif"
        tif(path, np.array(mask, "uint8"), crs=5070)
    return path


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GEOWB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GEOWB_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def test_floods(data: Path) -> None:
    floods(data, [[-1, 0, 1], [1, 1, -1]])
    words = r"1 train \(published: 252\), 1 val \(published: 89\), 1 test \(published: 90\), "
    with pytest.warns(UserWarning, match=words):
        scene = CATALOG["sen1floods11"].open()
    assert scene.reflectance.dims == ("sample", "band", "y", "x")
    assert tuple(scene.band.values) == HLS6
    spain = scene.sel(sample="Spain_7370579")
    np.testing.assert_array_equal(
        spain.reflectance.values[:, 0, 0], [200, 300, 400, 900, 1200, 1300]
    )
    assert np.isnan(spain.reflectance.values[:, 1, 2]).all()
    assert spain.flood.values.tolist() == [[-1, 0, 1], [1, 1, -1]]
    assert (scene.flood.dtype, scene.flood.flag_meanings) == ("int16", "dry water")
    assert scene.flood.class_weights == [0.3, 0.7]
    assert dict(zip(scene.sample.values, scene.split.values, strict=True)) == {
        "Bolivia_103757": "bolivia", "Ghana_103272": "val",
        "India_1017769": "test", "Spain_7370579": "train",
    }  # fmt: skip


def test_burn_scars(data: Path) -> None:
    burns(data, [[-1, 0, 1], [1, 1, -1]])
    with pytest.warns(UserWarning, match=r"2 in all \(published: 804\)"):
        scene = CATALOG["burn_scars"].open()
    assert scene.split.values.tolist() == ["train", "val"]
    assert scene.reflectance.values[0, :, 0, 0] == pytest.approx([100, 200, 300, 400, 500, 600])
    assert np.isnan(scene.reflectance.values[:, :, 1, 2]).all()
    assert scene.burn.values[1].tolist() == [[-1, 0, 1], [1, 1, -1]]
    assert (scene.burn.dtype, scene.burn.flag_meanings) == ("int16", "unburnt burnt")


def test_crops(data: Path) -> None:
    crops(data, [[0, 1, 2], [12, 13, 7]])
    with pytest.warns(UserWarning, match=r"1 train \(published: 3,083\), 1 val \(published: 771\)"):
        scene = CATALOG["crops"].open()
    assert scene.reflectance.dims == ("sample", "time", "band", "y", "x")
    assert scene.reflectance.sizes["time"] == 3
    first = scene.reflectance.sel(sample="chip_178_022").values
    assert first[:, 0, 0, 0].tolist() == [100, 700, 1300]
    assert np.isnan(first[:, :, 1, 2]).all(axis=1).tolist() == [True, False, False]
    assert scene.crop.values[0].tolist() == [[-1, 0, 1], [11, 12, 6]]
    assert scene.crop.flag_meanings.split() == CROPS
    assert scene.crop.flag_values == list(range(13))
    assert len(scene.crop.class_weights) == 13


def test_cloud_gaps_and_their_masks(data: Path) -> None:
    gaps(data, [[0, 1, 1], [0, 0, 1]])
    with pytest.warns(UserWarning, match=r"1 train \(published: 6,231\), 1 test \(published: 1,62"):
        scene = CATALOG["cloud_gaps"].open()
    assert scene.reflectance.shape == (2, 3, 6, 2, 3)
    assert scene.sample.values.tolist() == ["chip_373_294", "chip_104_104"]
    assert scene.split.values.tolist() == ["test", "train"]
    assert (scene.reflectance.values[:, 1, 0, 0, 0] == 700).all()  # not the masked copies
    with pytest.warns(UserWarning, match=r"2 train \(published: 20,042\)"):
        masks = CATALOG["cloud_gap_masks"].open()
    assert set(masks.data_vars) == {"missing"}
    assert masks.missing.dims == ("sample", "y", "x")
    assert (masks.missing.dtype, masks.missing.flag_meanings) == ("int16", "clear missing")
    assert masks.missing.chunks is not None  # lazy
    assert masks.sample.values.tolist() == ["chip_104_104_1", "chip_104_104_3"]
    assert masks.split.values.tolist() == ["train", "train"]
    assert masks.missing.values[0].tolist() == [[0, 1, 1], [0, 0, 1]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert check_source("cloud_gap_masks", variables=["missing"]) == []
        [problem] = check_source("cloud_gap_masks", variables=["reflectance"])
    assert "has no variable 'reflectance'. Known: missing." in problem


@pytest.mark.filterwarnings("ignore:Entry .* does not have the published numbers")
@pytest.mark.parametrize(
    ("make", "name", "variable", "value", "known"),
    [
        (floods, "sen1floods11", "flood", 2, "0 dry, 1 water"),
        (burns, "burn_scars", "burn", 3, "0 unburnt, 1 burnt"),
        (crops, "crops", "crop", 14, "1 natural_vegetation, 2 forest, .*, 13 other"),
        (gaps, "cloud_gap_masks", "missing", 255, "0 clear, 1 missing"),
    ],
)
def test_a_value_that_is_no_class_is_named_when_it_is_read(
    data: Path, make: Callable[..., Path], name: str, variable: str, value: int, known: str
) -> None:
    path = make(data, [[0, 1, 1], [1, 1, 1]])
    with rasterio.open(path, "r+") as file:
        file.write(np.array([[[1, 1, 1], [1, 1, value]]], file.dtypes[0]))
    scene = CATALOG[name].open()  # nothing of it is read yet
    words = rf"{path.name}' holds {value}, but '{variable}' has .*Known in the file: {known}\. "
    with pytest.raises(DataError, match=words):
        scene[variable].load()


# --- a catalog of one's own ----------------------------------------------------------------------

MINE = """\
mine:
  uri: set
  driver:
    name: chips
    options:
      images: "{split}/{sample}.tif"
      labels: {flood: {uri: "{split}/{sample}.lab", nodata: -1, classes: [dry, wet],
        class_weights: [1, 2]}}
  metadata: {crs: none, chips: {train: 2, test: 1}, statistics: crops}
"""


def mine(folder: Path, text: str = MINE) -> Any:
    (folder / "catalog.yaml").write_text(text)
    return open_catalog(folder / "catalog.yaml")["mine"]


def test_other_numbers_than_published_are_told_and_the_same_are_not(tmp_path: Path) -> None:
    labels = MINE[MINE.index("      labels") : MINE.index("  metadata")]
    text = MINE.replace(labels, "")
    for name in ("train/a", "train/b", "test/c"):
        tif(tmp_path / f"set/{name}.tif", np.zeros((1, 2, 2), "int16"))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Entry")
        assert mine(tmp_path, text).open().sizes["sample"] == 3
        mine(tmp_path, text.replace("{train: 2, test: 1}", "{all: 3}")).open()
        mine(tmp_path, text.replace("chips: {train: 2, test: 1}, ", "")).open()
    (tmp_path / "set/test/c.tif").unlink()
    tif(tmp_path / "set/extra/d.tif", np.zeros((1, 2, 2), "int16"))
    with pytest.warns(UserWarning, match="'mine' does not have the published numbers") as caught:
        mine(tmp_path, text).open()
    [one] = [warning for warning in caught if "Entry" in str(warning.message)]
    told = str(one.message)
    assert "0 test (published: 1), 1 extra (published: 0). Scores" in told
    assert "train" not in told
    assert one.filename == __file__  # the line that opens is shown


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("statistics: crops", "statistics: crop", "no statistics 'crop' .*Did you mean 'crops'"),
        ("{train: 2, test: 1}", "{train: 0}", "metadata.chips.train: .* not 0"),
        ("{train: 2, test: 1}", "{train: 2, all: 3}", "the number of all chips or that of each"),
        ("[1, 2]", "[1, 2, 3]", "class_weights has 3 numbers, classes 2 names"),
        ("[1, 2]", "[1, 0]", "class_weights.1: .* not 0"),
        ("chips: {", "chip: {", "unknown key 'chip'. Did you mean 'chips'"),
    ],
)
def test_published_facts_are_checked_when_the_catalog_is_read(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    assert mine(tmp_path).entry.metadata.chips == {"train": 2, "test": 1}
    assert old in MINE
    with pytest.raises(CatalogError, match=words):
        mine(tmp_path, MINE.replace(old, new))
