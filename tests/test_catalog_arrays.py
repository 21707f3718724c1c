"""Small images with a class each: npz files, records of bytes, scikit-learn's digits."""

from __future__ import annotations

import numpy as np
import pytest

from geowb.catalog import check_source, open_catalog
from geowb.errors import CatalogError, DataError

NPZ = """\
  uri: few.npz
  driver: {name: arrays, options: {bands: [GREY], classes: [dry, wet]}}
  metadata: {crs: none, pixel_range: [0, 255]}
"""
RECORDS = """\
  uri: set
  driver:
    name: arrays
    options:
      bands: [RED, GREEN, BLUE]
      record: [3, 2, 2]
      splits: {train: "batch_*.bin", test: "**/test.bin"}
"""


def source(folder, body):
    (folder / "catalog.yaml").write_text(f"few:\n{body}")
    return open_catalog(folder / "catalog.yaml")["few"]


@pytest.fixture(autouse=True)
def _no_real_data(monkeypatch):
    monkeypatch.delenv("GEOWB_DATA", raising=False)


def test_an_npz_file_becomes_a_set_of_samples(tmp_path):
    images = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    np.savez(tmp_path / "few.npz", images=images, labels=np.array([1, 0, 1], np.uint8))
    scene = source(tmp_path, NPZ).open()
    assert scene["reflectance"].dims == ("sample", "band", "y", "x")
    assert scene["reflectance"].dtype == np.float32
    assert (scene["reflectance"].values[:, 0] == images).all()
    assert scene["label"].values.tolist() == [1, 0, 1]
    assert scene["label"].attrs["flag_meanings"] == "dry wet"
    assert scene.attrs["pixel_range"] == [0.0, 255.0]
    needs = {"variables": ["reflectance", "label"], "bands": ["GREY"]}
    assert check_source("few", catalog=str(tmp_path / "catalog.yaml"), **needs) == []
    lacks = check_source("few", catalog=str(tmp_path / "catalog.yaml"), bands=["RED"])
    assert "lacks the band(s) RED; it has GREY" in lacks[0]


def test_records_of_bytes_become_splits(tmp_path):
    (tmp_path / "set" / "deep").mkdir(parents=True)
    rows = np.arange(4 * 13, dtype=np.uint8).reshape(4, 13)
    rows[:, 0] = [3, 1, 2, 0]
    for name, part in (("batch_1", rows[:1]), ("batch_2", rows[1:3]), ("deep/test", rows[3:])):
        part.tofile(tmp_path / "set" / f"{name}.bin")
    scene = source(tmp_path, RECORDS).open()
    assert scene["split"].values.tolist() == ["train", "train", "train", "test"]
    assert scene["label"].values.tolist() == [3, 1, 2, 0]
    assert scene["reflectance"].sel(band="GREEN").values[1].tolist() == [[18, 19], [20, 21]]


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"images": np.zeros((2, 4, 4))}, "no array 'labels'; it has images"),
        (
            {"images": np.zeros((2, 4, 4)), "labels": np.zeros(3, int)},
            r"2, 1, 4, 4.* and labels \(3,\)",
        ),
        (
            {"images": np.zeros((2, 3, 4, 4)), "labels": np.zeros(2, int)},
            r"declares \(N, 1, y, x\)",
        ),
        ({"images": np.zeros((2, 4, 4)), "labels": np.zeros(2)}, "these are float64"),
        ({"images": np.zeros((2, 4, 4)), "labels": np.array([0, 2])}, "a class 2, of 2"),
        ({"images": np.zeros((2, 4, 4)), "labels": np.array([0, 40_000])}, "from 0 to 32767"),
        (
            {"images": np.zeros((2, 4, 4), complex), "labels": np.zeros(2, int)},
            "complex128: numbers",
        ),
        ({"images": np.zeros((0, 4, 4)), "labels": np.zeros(0, int)}, "There are 0 images"),
        ({"images": np.zeros((2, 4, 4)), "labels": np.zeros((2, 1), int)}, r"labels \(2, 1\)"),
        ({"images": np.array([[object()]]), "labels": np.zeros(1, int)}, "plain numbers"),
    ],
)
def test_other_arrays_are_told(tmp_path, arrays, told):
    np.savez(tmp_path / "few.npz", **arrays)
    with pytest.raises(DataError, match=told):
        source(tmp_path, NPZ).open()


def test_other_files_are_told(tmp_path):
    (tmp_path / "few.npz").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(DataError, match="no npz file"):
        source(tmp_path, NPZ).open()
    (tmp_path / "few.npz").write_bytes(b"")
    with pytest.raises(DataError, match="no npz file"):
        source(tmp_path, NPZ).open()
    (tmp_path / "set").mkdir()
    with pytest.raises(DataError, match=r"No file in .* fits 'batch_\*.bin'"):
        source(tmp_path, RECORDS).open()
    (tmp_path / "set" / "batch_1.bin").write_bytes(bytes(20))
    (tmp_path / "set" / "test.bin").write_bytes(bytes(13))
    with pytest.raises(DataError, match="has 20 bytes, which are no records of 13"):
        source(tmp_path, RECORDS).open()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("  uri: few.npz\n", ""), "needs a uri"),
        (("bands: [GREY], ", ""), "bands"),
        (("classes: [dry, wet]", "record: [1, 2, 2]"), "record and splits belong together"),
        (("pixel_range: [0, 255]", "pixel_range: [255, 0]"), "must rise"),
    ],
)
def test_bad_entries_are_told(tmp_path, change, told):
    with pytest.raises(CatalogError, match=told):
        source(tmp_path, NPZ.replace(*change))


def test_a_record_has_the_bands_that_are_named(tmp_path):
    with pytest.raises(CatalogError, match=r"does not fit 3 band"):
        source(tmp_path, RECORDS.replace("[3, 2, 2]", "[1, 2, 2]"))


def test_the_digits_come_with_scikit_learn():
    digits = open_catalog()["digits"]
    scene = digits.open()
    assert digits.status() == "embedded"
    assert scene.sizes == {"sample": 1797, "band": 1, "y": 8, "x": 8}
    assert scene["reflectance"].values.max() == scene.attrs["pixel_range"][1] == 16
    assert np.bincount(scene["label"].values).min() == 174
    assert digits.provenance()["scikit_learn_version"]


def test_cifar_is_read_as_it_is_published(tmp_path):
    cifar = open_catalog()["cifar10"]
    driver, _ = cifar.reader({})
    assert driver.options.record == (3, 32, 32)
    assert set(driver.options.splits) == {"train", "test"}
    assert len(driver.options.classes) == 10
