"""Chips, splits by place, the torch dataset, and composites."""

import numpy as np
import pandas as pd
import pytest
import shapely
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import scene

from geowb.chips import (
    SPLITS,
    ChipDataset,
    cut,
    drop_unseen,
    examples,
    split_by_place,
    what_split_shows,
)
from geowb.composite import clear_mean, leaf_on_months
from geowb.errors import DataError, RequestError
from geowb.places import locate, name_regions

# --- cutting ---------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 70), width=st.integers(1, 70), size=st.integers(8, 40))
def test_every_pixel_lies_in_exactly_one_chip(height, width, size):
    chips = cut({"a": scene(height, width)}, size)
    covered = np.zeros((height + size, width + size), int)
    for chip in chips.itertuples():
        covered[chip.y : chip.y + size, chip.x : chip.x + size] += 1
    assert (covered[:height, :width] == 1).all()
    assert chips["labelled"].sum() == scene(height, width).agb.notnull().sum()


def test_cutting_refuses_what_cannot_be_cut():
    with pytest.raises(RequestError, match="4 pixels"):
        cut({"a": scene()}, 4)
    with pytest.raises(DataError, match=r"'a' has no variable 'height': reflectance, agb"):
        cut({"a": scene()}, 16, label="height")
    with pytest.raises(RequestError, match="no scene"):
        cut({})


# --- splitting -------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), block=st.integers(1, 3), density=st.floats(0.005, 0.5))
def test_blocks_belong_to_one_split_and_shares_are_kept(seed, block, density):
    chips = cut({"a": scene(144, 144, density=density, seed=seed), "b": scene(144, 96)}, 8)
    table = split_by_place(chips, seed=seed, block=block)
    assert set(table["split"]) == set(SPLITS)
    assert (table.groupby(["scene", "block"])["split"].nunique() == 1).all()
    side = 8 * block
    together = table.groupby(["scene", table["y"] // side, table["x"] // side])["split"]
    assert (together.nunique() == 1).all()
    for _, part in table.groupby("scene"):
        largest = part.groupby("block")["labelled"].sum().max()
        share = part.groupby("split")["labelled"].sum() / part["labelled"].sum()
        for split, fraction in zip(SPLITS, (0.6, 0.2, 0.2), strict=True):
            assert abs(share[split] - fraction) * part["labelled"].sum() <= 2 * largest
            assert share[split] > 0


def test_splits_follow_the_seed():
    chips = cut({"a": scene(128, 128)}, 16)
    assert split_by_place(chips, seed=1).equals(split_by_place(chips, seed=1))
    assert not split_by_place(chips, seed=1)["split"].equals(split_by_place(chips, seed=2)["split"])
    assert "split" not in chips


def test_a_published_split_is_kept():
    samples = scene(32, 32).isel(time=0).expand_dims(sample=3)
    samples = samples.assign_coords(split=("sample", ["test", "train", "val"]))
    chips = split_by_place(cut({"a": samples}, 16))
    assert chips.groupby("sample")["split"].unique().explode().tolist() == ["test", "train", "val"]
    assert what_split_shows(chips).startswith("3 separate images")


def test_published_splits_must_be_known_and_leavings_are_counted():
    samples = scene(16, 16).isel(time=0).expand_dims(sample=4)
    split = lambda *names: cut({"a": samples.assign_coords(split=("sample", list(names)))}, 16)  # noqa: E731
    with pytest.raises(DataError, match="'training', 'validation'"):
        split_by_place(split("training", "validation", "test", ""))
    chips = split_by_place(split("train", "val", "test", ""))
    assert "1 chips are in no split" in what_split_shows(chips)


def test_samples_without_a_split_are_dealt_out_whole():
    samples = xr.concat([scene(32, 32, density=0.1, seed=i).isel(time=0) for i in range(8)], "s")
    chips = split_by_place(cut({"a": samples.rename(s="sample")}, 16))
    assert (chips.groupby("sample")["split"].nunique() == 1).all()
    assert set(chips["split"]) == set(SPLITS)


def test_published_and_own_splits_side_by_side():
    samples = scene(16, 16).isel(time=0).expand_dims(sample=3)
    samples = samples.assign_coords(split=("sample", ["test", "train", "val"]))
    chips = split_by_place(cut({"a": samples, "b": scene(96, 96)}, 16))
    assert chips[chips["scene"] == "a"]["split"].tolist() == ["test", "train", "val"]
    assert set(chips[chips["scene"] == "b"]["split"]) == set(SPLITS)


def test_too_few_labelled_places_are_an_error():
    empty = scene(64, 64)
    empty["agb"][:, 20:] = np.nan
    with pytest.raises(DataError, match="labels in 2 blocks of 32 pixels"):
        split_by_place(cut({"a": empty}, 32))
    with pytest.raises(RequestError, match="three positive numbers"):
        split_by_place(cut({"a": empty}, 8), fractions=(0.5, 0.5))


def test_a_single_scene_is_said_to_show_interpolation_only():
    one = split_by_place(cut({"a": scene()}, 16))
    two = split_by_place(cut({"a": scene(), "b": scene()}, 16))
    assert "cannot show how the model does at another place" in what_split_shows(one)
    assert what_split_shows(two).startswith("2 scenes")


# --- where chips lie --------------------------------------------------------------------------


def test_chips_are_located_by_their_middles():
    from pyproj import Transformer

    one = scene(40, 64)
    none = scene(16, 16).drop_vars("spatial_ref")
    scenes = {"a": one.assign_attrs(select_region="cerrado"), "b": none}
    chips = locate(cut(scenes, 32), scenes)
    assert chips["region"].tolist() == ["cerrado"] * 4 + ["b"]
    assert chips["lon"].isna().tolist() == [False] * 4 + [True]
    x, y = Transformer.from_crs(4326, 32722, always_xy=True).transform(chips["lon"], chips["lat"])
    # The second row of chips reaches over the edge: 8 pixels of it are in the scene.
    assert np.allclose(x[:4], 500_000 + 30 * np.array([16, 48, 16, 48]), atol=0.01)
    assert np.allclose(y[:4], 7_000_000 - 30 * np.array([16, 16, 36, 36]), atol=0.01)
    samples = one.isel(time=0).expand_dims(sample=2)
    assert locate(cut({"s": samples}, 32), {"s": samples})["lat"].isna().all()


def test_regions_from_polygons(tmp_path):
    import geopandas

    scenes = {"a": scene(32, 96), "b": scene(16, 16).drop_vars("spatial_ref")}
    chips = locate(cut(scenes, 32), scenes).set_index(pd.Index([7, 3, 5, 1]))
    west = lambda first, last: shapely.box(500_000 + 30 * first, 6_990_000, 500_000 + 30 * last,  # noqa: E731
                                           7_010_000)  # fmt: skip
    shapes = geopandas.GeoDataFrame(
        {"ECO_NAME": ["forest", "savanna"]}, geometry=[west(0, 40), west(10, 70)], crs=32722
    )
    shapes.to_crs(4326).to_file(tmp_path / "regions.gpkg")
    named = name_regions(chips, tmp_path / "regions.gpkg", "ECO_NAME")
    assert named["region"].tolist() == ["forest", "savanna", "", ""]
    assert named.index.tolist() == [7, 3, 5, 1]
    with pytest.raises(DataError, match=r"no column 'ECO'.*Its columns are ECO_NAME\."):
        name_regions(chips, tmp_path / "regions.gpkg", "ECO")
    with pytest.raises(DataError, match="no position: use locate"):
        name_regions(cut(scenes, 32), tmp_path / "regions.gpkg", "ECO_NAME")
    shapes.translate(0, 500_000).to_frame("geometry").assign(ECO_NAME="x").to_file(
        tmp_path / "north.geojson"
    )
    with pytest.raises(DataError, match=r"No chip lies in any polygon of .*degrees north; the"):
        name_regions(chips, tmp_path / "north.geojson", "ECO_NAME")
    with pytest.raises(DataError, match="There is no file"):
        name_regions(chips, tmp_path / "absent.shp", "ECO_NAME")


# --- the dataset -----------------------------------------------------------------------------


def test_items_are_windows_of_the_scene_and_mirrored_at_its_edge():
    one = scene(40, 40, dates=2)
    data = ChipDataset({"a": one}, cut({"a": one}, 32))
    item = data[3]
    assert item["image"].shape == (6, 2, 32, 32)
    assert item["image"].dtype == item["label"].dtype == torch.float32
    expected = one.reflectance.transpose("band", "time", "y", "x").values[..., 32:, 32:]
    assert np.array_equal(item["image"][..., :8, :8], expected)
    assert torch.equal(item["image"][..., 8:16, :8], item["image"][..., :8, :8].flip(-2))
    assert torch.isfinite(item["image"]).all()
    assert torch.isnan(item["label"][8:, :]).all()
    assert np.array_equal(item["label"][:8, :8], one.agb.values[32:, 32:], equal_nan=True)


def test_samples_and_lazy_arrays():
    one = scene(16, 16)
    samples = xr.concat([one.isel(time=0), 2 * one.isel(time=0)], "sample").chunk(sample=1)
    data = ChipDataset({"a": samples}, cut({"a": samples}, 16))
    assert len(data) == 2
    assert torch.equal(data[1]["image"], 2 * data[0]["image"])


def test_augmentation_moves_image_and_label_together_and_depends_on_the_epoch():
    one = scene(16, 16, density=1.0)
    one["agb"] = one.reflectance[0, 0]
    chips = pd.concat([cut({"a": one}, 16)] * 8)
    data = ChipDataset({"a": one}, chips, augment=True, seed=1)
    plain = ChipDataset({"a": one}, chips)
    assert torch.equal(plain[0]["image"][0, 0], plain[0]["label"])
    seen = [data[i] for i in range(8)]
    assert all(torch.equal(item["image"][0, 0], item["label"]) for item in seen)
    assert any(not torch.equal(item["label"], plain[0]["label"]) for item in seen)
    assert torch.equal(data[3]["label"], seen[3]["label"])
    data.set_epoch(1)
    assert any(not torch.equal(data[i]["label"], seen[i]["label"]) for i in range(8))


@settings(max_examples=20, deadline=None)
@given(fraction=st.floats(0.05, 1.0), seed=st.integers(0, 100))
def test_thinning_keeps_a_share_of_the_labels_unchanged(fraction, seed):
    one = scene(64, 64, density=1.0)
    chips = cut({"a": one}, 64)
    data = ChipDataset({"a": one}, chips, label_fraction=fraction, seed=seed)
    label = data[0]["label"].numpy()
    kept = np.isfinite(label)
    # Binomial: five standard deviations.
    assert abs(kept.mean() - fraction) <= 5 * np.sqrt(fraction * (1 - fraction) / 4096)
    assert np.array_equal(label[kept], one.agb.values[kept])
    assert data.count_labelled() == kept.sum()


def test_chips_without_labels_can_be_left_out():
    one = scene(32, 32, density=0.0)
    one["agb"][3, 20] = 7.0
    data = ChipDataset({"a": one}, cut({"a": one}, 16))
    assert data.count_labelled() == 1
    only = data.labelled_only()
    assert len(only) == 1
    assert torch.nansum(only[0]["label"]) == 7
    assert len(data) == 4
    with pytest.raises(RequestError, match=r"\(0, 1\]; it is 0"):
        ChipDataset({"a": one}, cut({"a": one}, 16), label_fraction=0)


def test_output_scale_is_that_of_the_labels():
    one = scene(32, 32, density=0.2)
    data = ChipDataset({"a": one}, cut({"a": one}, 16), augment=True)
    labels = one.agb.values[np.isfinite(one.agb.values)].astype(float)
    assert data.label_statistics() == pytest.approx((labels.mean(), labels.std()))
    for bad in (one.agb * np.nan, one.agb * 0):
        with pytest.raises(DataError, match="not two different values"):
            ChipDataset({"a": one.assign(agb=bad)}, cut({"a": one}, 16)).label_statistics()
    with pytest.raises(DataError, match="0 chips"):
        ChipDataset({"a": one}, cut({"a": one}, 16)[:0]).label_statistics()


def test_labels_without_an_image_are_dropped():
    one = scene(16, 16, density=1.0, dates=2)
    one["reflectance"][:, :, 3, 4] = np.nan
    one["reflectance"][0, :, 5, 6] = np.nan
    kept = drop_unseen(one)
    assert np.isnan(kept.agb.values[3, 4])
    assert np.isfinite(kept.agb.values[5, 6])
    assert int(kept.agb.notnull().sum()) == 255


def test_class_labels_of_one_date_without_an_image_are_dropped():
    image = xr.DataArray(np.ones((2, 2, 2)), dims=("band", "y", "x"))
    image[:, 0, 0] = np.nan
    label = xr.DataArray(np.ones((2, 2), np.int16), dims=("y", "x"))
    one = xr.Dataset({"reflectance": image, "flood": label})
    assert drop_unseen(one, "flood").flood.values.tolist() == [[-1, 1], [1, 1]]
    assert drop_unseen(one, None) is one


def test_examples_are_scenes_or_test_samples():
    samples = scene(16, 16).isel(time=0).expand_dims(sample=4)
    samples = samples.assign_coords(split=("sample", ["test", "train", "val", "test"]))
    scenes = {"set": samples, "scene": scene(96, 96)}
    shown = examples(scenes, split_by_place(cut(scenes, 16)))
    assert list(shown) == ["set-0", "set-3", "scene"]
    assert shown["set-3"].reflectance.dims == ("time", "band", "y", "x")
    assert shown["set-3"].agb.dims == ("y", "x")


# --- composites ------------------------------------------------------------------------------


def test_composite_is_the_mean_of_clear_looks():
    one = scene(8, 8, dates=3)
    mask = np.zeros((3, 8, 8), "uint8")
    mask[0, 0, 0] = 0b10  # cloud
    mask[1, 0, 0] = 0b1000  # shadow
    mask[:, 0, 1] = 0b100  # beside a cloud, always
    mask[:, 0, 2] = 0b1110_0000  # water and aerosol: clear
    one["fmask"] = (("time", "y", "x"), mask)
    one["reflectance"][1, :, 0, 3] = np.nan
    composite = clear_mean(one)
    values, r = composite.reflectance.values[0], one.reflectance.values
    assert np.array_equal(values[:, 0, 0], r[2, :, 0, 0])
    assert np.isnan(values[:, 0, 1]).all()
    assert np.allclose(values[:, 0, 2], r[:, :, 0, 2].mean(0))
    assert np.allclose(values[:, 0, 3], r[[0, 2], :, 0, 3].mean(0))
    assert composite.clear_looks.values[0, :4].tolist() == [1, 0, 3, 2]
    assert composite.reflectance.dims == ("time", "band", "y", "x")
    assert composite.time.values[0] == np.datetime64("2022-06-17")
    assert composite.rio.crs == one.rio.crs
    assert "fmask" not in composite
    assert composite.agb.equals(one.agb)


def test_one_date_without_a_mask_is_left_alone():
    one = scene()
    assert clear_mean(one) is one
    with pytest.raises(DataError, match="no time dimension"):
        clear_mean(one.isel(time=0))


def test_a_composite_of_some_months():
    one = scene(8, 8, dates=5)  # 1 and 17 June, 3 and 19 July, 4 August
    july = clear_mean(one, months=[7])
    assert np.allclose(july.reflectance[0], one.reflectance[2:4].mean("time"))
    assert july.time.values[0] == np.datetime64("2022-07-11")
    assert clear_mean(one, months=range(1, 13)).identical(clear_mean(one))
    single = clear_mean(one, months=(8, 9))
    assert np.array_equal(single.reflectance, one.reflectance[4:])
    with pytest.raises(DataError, match="in the months 1, 2; it has images in 6, 7, 8"):
        clear_mean(one, months=(1, 2))
    for wrong in ([0], [13], [6, 6.5]):
        with pytest.raises(RequestError, match="numbers from 1 to 12"):
            clear_mean(one, months=wrong)
    with pytest.raises(DataError, match="no dates"):
        clear_mean(one.isel(time=0).expand_dims(sample=2), months=[7])


def test_unknown_dates_stay_unknown():
    one = scene(8, 8, dates=3)
    for times in (["NaT"] * 3, ["2022-06-01", "NaT", "2022-08-01"]):
        unknown = one.assign_coords(time=np.array(times, "datetime64[ns]"))
        composite = clear_mean(unknown)
        assert composite.time.dtype == "datetime64[ns]"
        assert np.isnat(composite.time.values).all()
        assert np.allclose(composite.reflectance[0], one.reflectance.mean("time"))
        with pytest.raises(DataError, match="no dates"):
            clear_mean(unknown, months=[6])
    assert clear_mean(one.isel(time=[2, 0, 1])).time.values[0] == np.datetime64("2022-06-17")


def test_a_place_that_was_never_clear_has_no_composite():
    one = scene(8, 8, dates=2)
    mask = np.full((2, 8, 8), 0b10, "uint8")
    with pytest.raises(DataError, match="clear in any of its 2 images"):
        clear_mean(one.assign(fmask=(("time", "y", "x"), mask)))
    mask[1, 3, 3] = 0
    composite = clear_mean(one.assign(fmask=(("time", "y", "x"), mask)))
    assert int(composite.reflectance.notnull().all("band").sum()) == 1


def test_leaf_on_months_by_hemisphere():
    south = scene(8, 8)
    assert leaf_on_months(south) == (11, 12, 1, 2, 3)
    north = south.rio.write_crs(32622)  # 63 degrees north
    assert leaf_on_months(north) == (5, 6, 7, 8, 9)
    with pytest.raises(DataError, match="hemisphere is unknown"):
        leaf_on_months(south.drop_vars("spatial_ref"))
