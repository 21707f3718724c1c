"""Scores of class maps against torchmetrics, and by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from torchmetrics import classification as tm

from geowb.classes import (
    class_table,
    confusion,
    confusions,
    difference,
    paired,
    shares,
    with_interval,
)
from geowb.errors import DataError

NAMES = ["a", "b", "c", "never"]


@pytest.fixture(scope="module")
def maps():
    """Labels of three classes of four, a fifth of them missing, and a map that is often right."""
    rng = np.random.default_rng(0)
    observed = rng.integers(0, 3, (96, 80))
    predicted = np.where(rng.random(observed.shape) < 0.7, observed, rng.integers(0, 3, (96, 80)))
    observed[rng.random(observed.shape) < 0.2] = -1
    return observed, predicted.astype(np.uint8)


@pytest.fixture(scope="module")
def tables(maps):
    observed, predicted = (xr.DataArray(m, dims=("y", "x")) for m in maps)
    scene = xr.Dataset({"crop": observed})
    return confusions({"s": predicted}, {"s": scene}, label="crop", count=4, block=32)


def test_scores_are_torchmetrics(maps, tables):
    observed, predicted = (torch.from_numpy(m.astype(np.int64)) for m in maps)
    table = class_table(tables, NAMES)
    known = table.loc[NAMES[:3]]
    for column, metric in (
        ("iou", tm.MulticlassJaccardIndex),
        ("f1", tm.MulticlassF1Score),
        ("accuracy", tm.MulticlassRecall),
        ("precision", tm.MulticlassPrecision),
    ):
        each = metric(4, average=None, ignore_index=-1)(predicted, observed).numpy()
        assert np.allclose(known[column], each[:3]), column
        assert np.isnan(table.loc["never", column])
    mean = tm.MulticlassJaccardIndex(4, average="macro", ignore_index=-1)(predicted, observed)
    assert table.loc["mean", "iou"] == pytest.approx(float(mean))
    right = tm.MulticlassAccuracy(4, average="micro", ignore_index=-1)(predicted, observed)
    assert table.loc["all", "accuracy"] == pytest.approx(float(right))
    assert table.loc["all", "pixels"] == (maps[0] >= 0).sum()


def test_ignored_pixels_change_nothing(maps):
    observed, predicted = maps
    other = predicted.copy()
    other[observed < 0] = 255
    assert np.array_equal(confusion(observed, predicted, 4), confusion(observed, other, 4))


def test_places_add_up(maps, tables):
    assert len(tables) == 9  # 96 x 80 in blocks of 32
    assert np.array_equal(tables.sum().to_numpy().reshape(4, 4), confusion(*maps, 4))


def test_samples_are_places():
    labels = xr.Dataset({"flood": (("sample", "y", "x"), np.array([[[0, 1]], [[-1, -1]]]))})
    made = xr.DataArray(np.array([[[0, 0]], [[1, 1]]]), dims=("sample", "y", "x"))
    table = confusions({"set": made}, {"set": labels}, label="flood", count=2)
    assert table.index.tolist() == [("set", "0")]
    assert table.to_numpy().tolist() == [[1, 0, 1, 0]]


def test_interval_holds_the_value_and_narrows(tables):
    found = with_interval(tables, NAMES)
    assert found.loc["mean", "value"] == pytest.approx(
        class_table(tables, NAMES).loc["mean", "iou"]
    )
    inside = found.dropna()
    assert (inside["low"] < inside["value"]).all()
    assert (inside["value"] < inside["high"]).all()
    many = pd.concat([tables] * 9, keys=range(9)).droplevel(1)
    many.index.names = ["scene", "place"]
    wide, narrow = (
        f.loc["mean", "high"] - f.loc["mean", "low"] for f in (found, with_interval(many, NAMES))
    )
    assert narrow == pytest.approx(wide / 3, rel=0.3)


def test_paired_difference(maps, tables):
    observed, _ = maps
    perfect = xr.DataArray(np.where(observed < 0, 0, observed), dims=("y", "x"))
    scene = xr.Dataset({"crop": xr.DataArray(observed, dims=("y", "x"))})
    best = confusions({"s": perfect}, {"s": scene}, label="crop", count=4, block=32)
    gain = paired(best, tables)
    assert gain["value"] == pytest.approx(1 - class_table(tables, NAMES).loc["mean", "iou"])
    assert 0 < gain["low"] < gain["high"]
    assert paired(best, best).tolist() == [0, 0, 0]
    with pytest.raises(DataError, match="different pixels"):
        paired(best, tables.iloc[1:])


@pytest.mark.parametrize(
    ("observed", "predicted", "told"),
    [
        ([0, 1], [0.0, np.nan], "1 of 2 labelled pixels have no prediction"),
        ([0, 1], [255, 1], "1 of 2 labelled pixels have no prediction"),
        ([0, 7], [0, 1], "A label has the class 7; the classes are 0 to 1"),
        ([0, 1], [0, 3], "A prediction has the class 3; the classes are 0 to 1"),
    ],
)
def test_refused(observed, predicted, told):
    with pytest.raises(DataError, match=told):
        confusion(np.array(observed), np.array(predicted), 2)


def test_difference_map():
    observed = xr.DataArray(np.array([[0, 1, 1, 0, -1]]), dims=("y", "x"))
    made = xr.DataArray(np.array([[0, 1, 0, 1, 1]]), dims=("y", "x"))
    found = difference(observed, made, classes=["dry", "water"])
    assert found.values.tolist() == [[0, 1, 2, 3, -1]]
    assert found.attrs["flag_meanings"] == "dry_right water_right water_missed water_invented"
    many = difference(observed, made, classes=["a", "b", "c"])
    assert many.values.tolist() == [[0, 0, 1, 1, -1]]


def test_shares_of_the_classes_and_labels_that_stand_for_none():
    label = xr.DataArray(np.array([[0, 2], [2, -1]]), name="crop")
    with pytest.raises(DataError, match="'crop' have no names"):
        shares(label)
    told = label.assign_attrs(flag_meanings="a b c")
    assert shares(told).to_dict() == {"unlabelled": 0.25, "a": 0.25, "b": 0.0, "c": 0.5}
    for wrong in (3, -2, 255):
        with pytest.raises(
            DataError, match=f"'crop' has the value {wrong}; its classes are 0 to 2"
        ):
            shares(told.where(told != 0, wrong))
