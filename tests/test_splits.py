"""Splits by whole scenes, published splits, and whole test images."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scenes import scene

from geowb.chips import cut, only, split_by_place, split_by_scene, what_split_shows
from geowb.errors import DataError
from geowb.splits import SPLITS, with_test


@pytest.fixture(scope="module")
def scenes():
    return {f"{region}-{n}": scene(48, 48, seed=n) for region in ("a", "b") for n in range(5)}


@pytest.fixture(scope="module")
def groups(scenes):
    return {name: name[0] for name in scenes}


@pytest.mark.parametrize("seed", range(3))
def test_scenes_are_whole_and_each_group_is_in_each_split(scenes, groups, seed):
    chips = split_by_scene(cut(scenes, 16), groups, seed=seed)
    of_scene = chips.groupby("scene")["split"].unique()
    assert (of_scene.map(len) == 1).all()
    for group in ("a", "b"):
        own = [str(split[0]) for name, split in of_scene.items() if name[0] == group]
        assert sorted(own) == ["test", "train", "train", "train", "val"]
    assert chips.equals(split_by_scene(cut(scenes, 16), groups, seed=seed))
    assert "each in one split as a whole" in what_split_shows(chips)


def test_seeds_differ(scenes, groups):
    chips = cut(scenes, 16)
    tested = {
        tuple(split_by_scene(chips, groups, seed=s).query("split == 'test'")["scene"].unique())
        for s in range(6)
    }
    assert len(tested) > 1


def test_too_few_scenes(scenes, groups):
    some = {name: scenes[name] for name in ("a-0", "a-1", "b-0", "b-1", "b-2")}
    with pytest.raises(DataError, match="'a' has 2 scenes with labels"):
        split_by_scene(cut(some, 16), groups)


def test_a_scene_without_a_group_is_told(scenes, groups):
    some = {name: group for name, group in groups.items() if name != "b-3"}
    with pytest.raises(DataError, match="no group for the scenes b-3"):
        split_by_scene(cut(scenes, 16), some)


def test_a_group_that_is_held_out_is_in_no_split(scenes, groups):
    chips = split_by_scene(cut(scenes, 16), groups, unseen="b", seed=1)
    assert set(chips[chips["scene"].map(groups) == "b"]["split"]) == {"unseen"}
    assert set(chips[chips["scene"].map(groups) == "a"]["split"]) == set(SPLITS)
    whole = split_by_scene(cut(scenes, 16), groups, seed=1)
    assert whole[whole["scene"].map(groups) == "a"].equals(chips[chips["scene"].map(groups) == "a"])


def samples(splits):
    one = scene(16, 16)
    table = xr.concat([one.isel(time=0)] * len(splits), "sample")
    return table.assign_coords(split=("sample", list(splits)))


def test_further_published_splits_are_kept_by_name():
    chips = cut({"set": samples(["train", "val", "test", "bolivia"])}, 16)
    with pytest.raises(DataError, match="'bolivia'"):
        split_by_place(chips)
    kept = split_by_place(chips, others=("bolivia",))
    assert kept["split"].tolist() == ["train", "val", "test", "bolivia"]


def test_without_a_published_test_the_validation_is_the_test():
    split = ["train"] * 40 + ["val"] * 8
    table = pd.DataFrame({"split": np.repeat(split, 4), "sample": np.repeat(range(48), 4)})
    table = table.assign(scene="set", labelled=1)  # four chips an image
    made = with_test(table, seed=1)
    assert (made["split"][160:] == "test").all()
    assert made["split"].value_counts().to_dict() == {"train": 144, "test": 32, "val": 16}
    assert (made.groupby("sample")["split"].nunique() == 1).all()  # images are whole
    whole = table.assign(split=np.repeat(["train"] * 20 + ["val"] * 14 + ["test"] * 14, 4))
    assert with_test(whole).equals(whole)


def test_only_keeps_whole_images_and_the_labels_of_the_split(scenes):
    chips = split_by_place(cut(scenes, 16), seed=0)
    tested = only(scenes, chips, label="agb")
    for name, one in tested.items():
        assert one.reflectance.identical(scenes[name].reflectance)
        assert one.agb.attrs == scenes[name].agb.attrs
        labelled = int(np.isfinite(one.agb).sum())
        here = chips[(chips["scene"] == name) & (chips["split"] == "test")]
        assert labelled == here["labelled"].sum() > 0
    table = split_by_place(cut({"set": samples(["train", "test", "val", "test"])}, 16))
    assert (
        only({"set": samples(["train", "test", "val", "test"])}, table, label="agb")["set"].sizes[
            "sample"
        ]
        == 2
    )


def test_chips_without_a_label_count_the_image(scenes):
    chips = cut({"a": scenes["a-0"]}, 32, label=None)
    assert chips["labelled"].tolist() == [1024, 512, 512, 256]
    assert set(split_by_place(cut(scenes, 16, label=None))["split"]) == set(SPLITS)


def test_classes_without_an_image_are_unlabelled_as_classes():
    from geowb.chips import drop_unseen

    one = scene(16, 16).assign(flood=(("y", "x"), np.ones((16, 16), np.int16)))
    one["reflectance"] = one.reflectance.where(one.x > one.x[3])
    found = drop_unseen(one, "flood").flood
    assert found.dtype == np.int16
    assert (found[:, :4] == -1).all()
    assert (found[:, 4:] == 1).all()
