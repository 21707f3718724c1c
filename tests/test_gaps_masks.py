"""Masks out of entries, intervals of scores, pictures of gaps."""

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import geowb
from geowb import gaps, plots
from geowb.errors import DataError
from geowb.gaps import check_masks, chips_with_gaps, cut_masks, fillings, known_mask


class Entry:
    """Enough of a catalog source: scenes by the values of a placeholder."""

    name = "clouds"

    def __init__(self, **scenes):
        self.scenes = scenes
        self.entry = type("Entry", (), {"placeholders": {"tile": tuple(scenes)}})

    def open_each(self, placeholder):
        assert placeholder == "tile"
        return self.scenes


def fmask(values):
    return xr.Dataset({"fmask": (("time", "y", "x"), np.asarray(values, np.uint8))})


def test_windows_are_what_fmask_calls_cloud():
    values = np.zeros((1, 70, 40), np.uint8)
    values[0, :16, :8] = 1 << 1  # cloud
    values[0, 16:32, :16] = 1 << 3  # shadow
    values[0, 32:48, :16] = 1 << 5  # water is no cloud
    values[0, 48:50, 0] = 255  # outside of the image
    values[0, 50:60, 0:9] = 1 << 1
    found = cut_masks(Entry(a=fmask(values)), 16, high=1.0)
    assert found.dims == ("sample", "y", "x")
    assert sorted(found.cover.values) == [0.5, 1.0]
    assert np.allclose(found.mean(("y", "x")), found.cover)
    assert cut_masks(Entry(a=fmask(values)), 16).cover.values.tolist() == [0.5]


def test_masks_of_other_kinds():
    missing = xr.Dataset({"missing": (("sample", "y", "x"), np.eye(8, dtype=np.int16)[None])})
    assert cut_masks(Entry(a=missing), 8).cover.values.tolist() == [0.125]
    percent = np.full((1, 8, 8), 20.0)
    percent[0, 0] = 80.0
    cloudy = xr.Dataset({"cloud_probability": (("time", "y", "x"), percent)})
    assert cut_masks(Entry(a=cloudy), 8).cover.values.tolist() == [0.125]
    assert int(known_mask(cloudy, above=50).sum()) == 8
    assert known_mask(fmask(np.zeros((1, 8, 8)))) is None


def test_entries_are_checked_before_masks_are_cut():
    assert check_masks("") == check_masks("world") == []
    assert "Did you mean 'hls_fmask_tiles'" in check_masks("hls_fmask_tile")[0]
    assert "'sen1floods11' has no variable 'missing' and no" in check_masks("sen1floods11")[0]


def test_entries_without_clouds_are_told():
    with pytest.raises(DataError, match="'clouds' has no window of 16 x 16 pixels"):
        cut_masks(Entry(a=fmask(np.zeros((1, 32, 32)))), 16)
    with pytest.raises(DataError, match="holds no clouds"):
        cut_masks(Entry(a=xr.Dataset({"agb": (("y", "x"), np.zeros((8, 8)))})), 8)


def test_real_masks(monkeypatch):
    source = geowb.open_catalog()["hls_fmask_tiles"]
    if source.status() != "here":
        pytest.skip("the real Fmask tiles are not here")
    found = cut_masks(source, 64, seed=1)
    assert len(found) > 500
    assert 0.01 <= float(found.cover.min()) <= float(found.cover.max()) <= 0.99
    assert not found.equals(cut_masks(source, 64, seed=2))


def test_interval_is_that_of_the_mean():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"index": range(400), "cover": 0.5, "ssim_missing": rng.normal(0.9, 0.05, 400)}
    )
    found = gaps.with_interval(table).loc["ssim_missing"]
    half = 1.96 * 0.05 / 20
    assert found.value == pytest.approx(table.ssim_missing.mean())
    assert found.high - found.value == pytest.approx(half, rel=0.15)
    assert found.value - found.low == pytest.approx(half, rel=0.15)


def test_pairs_cancel_what_is_hard_for_both():
    rng = np.random.default_rng(1)
    hard = rng.normal(0.8, 0.1, 200)
    tables = [
        pd.DataFrame({"index": range(200), "cover": 0.3, "ssim_missing": hard + gain})
        for gain in (0.02, 0.0)
    ]
    found = gaps.paired(*tables).loc["ssim_missing"]
    assert found.tolist() == pytest.approx([0.02] * 3)
    with pytest.raises(DataError, match="other chips or gaps"):
        gaps.paired(tables[0], tables[1].assign(cover=0.4))


def test_pictures_show_gap_and_errors(tmp_path):
    truth = torch.rand(6, 3, 32, 32) * 3000
    missing = torch.zeros(3, 32, 32, dtype=torch.bool)
    missing[1, :16] = True
    rows = chips_with_gaps([{"image": truth, "missing": missing}] * 2)
    assert [panel.opts.get("plot").kwargs["title"] for panel in rows][:2] == [
        "chip 1, date 1: 0% missing",
        "chip 1, date 2: 50% missing",
    ]
    made = {"right": truth.numpy(), "wrong": truth.numpy() + 1000}
    picture = fillings(truth.numpy(), missing.numpy(), made)
    titles = [p.opts.get("plot").kwargs.get("title", "") for p in picture]
    assert titles == [
        *("truth", "seen", "right", "wrong", "date 1", "date 3"),
        *("error, mean 0.0000", "error, mean 0.1000"),
    ]
    grey = np.asarray(list(picture)[1].rgb.dimension_values("R", flat=False))
    assert (grey[-1] == 127).all() or (grey[0] == 127).all()
    plots.show(picture, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
