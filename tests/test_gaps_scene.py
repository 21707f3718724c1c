"""`geowb.fill_gaps`: scenes of any size in, the same scenes without gaps out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rioxarray  # noqa: F401 - gives .rio
import torch
import xarray as xr
from affine import Affine

import geowb
from geowb.errors import DataError, GeowbError, ModelError, RequestError
from geowb.gaps import NetworkFiller, scores
from geowb.models import build, save
from geowb.models.cgan import build_cgan
from geowb.models.masked import Reconstruction, build_masked


def _scene(dates: int = 3, height: int = 50, width: int = 70, dtype: str = "float32"):
    """A smooth scene with a rectangle of clouds on the second date."""
    t, b, y, x = np.meshgrid(*(np.arange(n) for n in (dates, 6, height, width)), indexing="ij")
    counts = 1000 + 100 * b + 3 * y + 2 * x + 50 * t
    fmask = np.full((dates, height, width), 64, np.uint8)
    fmask[1, 10:30, 20:45] |= 2
    scene = xr.Dataset(
        {
            "reflectance": (("time", "band", "y", "x"), counts.astype(dtype)),
            "fmask": (("time", "y", "x"), fmask),
            "agb": (("y", "x"), np.ones((height, width), np.float32)),
        },
        {
            "time": np.datetime64("2022-04-20", "ns") + np.arange(dates) * np.timedelta64(30, "D"),
            "sensor": ("time", ["L30"] * dates),
            "band": list(geowb.HLS6),
            "y": 8e6 - 30 * (np.arange(height) + 0.5),
            "x": 5e5 + 30 * (np.arange(width) + 0.5),
        },
        {"title": "a scene"},
    )
    scene["reflectance"].attrs = {"units": "1e-4", "long_name": "surface reflectance"}
    scene = scene.rio.write_crs(32723)
    return scene.rio.write_transform(Affine(30, 0, 5e5, 0, -30, 8e6))


def _cloudy(scene: xr.Dataset) -> np.ndarray:
    return (scene["fmask"].values & 14) > 0


def _clear_bytes(scene: xr.Dataset, missing: np.ndarray) -> bytes:
    values = scene["reflectance"].transpose("time", "y", "x", "band").values
    return values[~missing].tobytes()


@pytest.fixture(scope="module")
def prithvi():
    return build_masked("prithvi_demo", frames=3).eval()


class _Constant(torch.nn.Module):
    """Says the same of every pixel, and remembers what it was shown."""

    def __init__(self, value: float = 4321.0, frames: int = 3, size: int = 32) -> None:
        super().__init__()
        self.card = {"name": "constant", "bands": list(geowb.HLS6), "frames": frames, "size": size}
        self.value, self.shown = value, []

    def can_fill(self, x: torch.Tensor, missing: torch.Tensor) -> torch.Tensor:
        return ~missing.flatten(1).all(1)

    def fill(self, x: torch.Tensor, missing: torch.Tensor) -> Reconstruction:
        assert not missing.flatten(1).all(1).any()
        self.shown.append((x, missing))
        return Reconstruction(torch.full_like(x, self.value), missing[:, None], x.sum() * 0)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "uint16"])
@pytest.mark.parametrize("model", ["prithvi_demo", "linear"])
def test_what_is_clear_stays_bit_for_bit(dtype: str, model: str) -> None:
    scene = _scene(dtype=dtype)
    before, missing = scene.copy(deep=True), _cloudy(scene)
    found = geowb.fill_gaps(scene, model=model, progress=False)
    assert scene.identical(before)
    assert _clear_bytes(found, missing) == _clear_bytes(before, missing)
    assert found["reflectance"].dtype == dtype
    assert found["reflectance"].dims == scene["reflectance"].dims
    assert found["reflectance"].attrs == scene["reflectance"].attrs
    assert found.attrs == scene.attrs
    assert found.rio.crs == scene.rio.crs
    assert found.rio.transform() == scene.rio.transform()
    xr.testing.assert_identical(
        found.drop_vars(["reflectance", "filled", "cover"]), scene.drop_vars("reflectance")
    )
    assert np.array_equal(found["filled"], missing.astype(np.uint8))
    assert found["cover"].values == pytest.approx(missing.mean((1, 2)))
    assert found["filled"].attrs["model"] == model
    changed = (found["reflectance"] != scene["reflectance"]).any("band").values
    assert not changed[~missing].any()
    if model == "prithvi_demo":
        assert changed[missing].any()
    else:  # the scene is linear in time
        assert np.abs(found["reflectance"] - scene["reflectance"]).max() < 1e-3


@pytest.mark.parametrize("rule", ["linear", "temporal_neighbour", "date_mean"])
def test_a_rule_fills_strips_as_it_fills_the_whole(rule: str, monkeypatch) -> None:
    scene = _scene(dates=4)
    mask = np.random.default_rng(0).random((4, 50, 70)) < 0.4
    mask[:, 5:9, 5:9] = True  # clear on no date
    whole = geowb.fill_gaps(scene, mask, model=rule)
    monkeypatch.setattr("geowb.gaps.scene._STRIP", 70 * 7)
    strips = geowb.fill_gaps(scene, mask, model=rule)
    xr.testing.assert_identical(strips, whole)
    mean = scene.reflectance.values[1, 2][~mask[1]].mean()
    assert whole.reflectance.values[1, 2, 6, 6] == pytest.approx(mean, rel=1e-5)
    with pytest.raises(RequestError, match="accelerator is 'gup'"):
        geowb.fill_gaps(scene, mask, model=rule, accelerator="gup")


def test_provenance_names_the_weights() -> None:
    found = geowb.fill_gaps(_scene(), progress=False)["filled"]
    assert found.attrs["origin"].startswith("pretrained by masking")
    meanings = found.attrs["flag_meanings"].split()
    assert len(meanings) == len(found.attrs["flag_values"]) == 5
    again = xr.Dataset({"filled": found})
    assert again["filled"].dtype == np.uint8


def test_a_filled_scene_goes_through_a_file(tmp_path: Path) -> None:
    found = geowb.fill_gaps(_scene(), model="linear", progress=False)
    found.to_netcdf(tmp_path / "filled.nc")
    with xr.open_dataset(tmp_path / "filled.nc", decode_coords="all") as again:
        assert again["filled"].attrs["flag_meanings"] == found["filled"].attrs["flag_meanings"]
        assert again.rio.crs == found.rio.crs


def test_order_of_dims_and_bands_stays_as_it_was(prithvi) -> None:
    scene = _scene()
    other = scene.isel(band=[5, 4, 3, 2, 1, 0]).copy()
    other["reflectance"] = other["reflectance"].transpose("y", "band", "x", "time")
    expected = geowb.fill_gaps(scene, model=prithvi, progress=False)
    found = geowb.fill_gaps(other, model=prithvi, progress=False)
    assert found["reflectance"].dims == ("y", "band", "x", "time")
    assert found["band"].values.tolist() == list(geowb.HLS6[::-1])
    same = found["reflectance"].transpose("time", "band", "y", "x").sel(band=list(geowb.HLS6))
    assert np.array_equal(same, expected["reflectance"])


@pytest.mark.parametrize("size", [(5, 3), (1, 90), (33, 64), (64, 64), (130, 71)])
def test_any_height_and_width_and_no_seams(size: tuple[int, int]) -> None:
    scene = _scene(height=size[0], width=size[1])
    mask = np.random.default_rng(0).random((3, *size)) < 0.3
    mask[0, 0, 0] = False
    model = _Constant()
    found = geowb.fill_gaps(scene, mask, model, batch_size=3, progress=False)
    values = found["reflectance"].transpose("time", "y", "x", "band").values
    assert np.abs(values[mask] - 4321).max() < 1e-2  # weights add to one everywhere
    assert _clear_bytes(found, mask) == _clear_bytes(scene, mask)
    assert all(x.shape[1:] == (6, 3, 32, 32) and len(x) <= 3 for x, _ in model.shown)
    assert all(torch.isnan(x.permute(0, 2, 3, 4, 1)[missing]).all() for x, missing in model.shown)


def test_neighbouring_tiles_fade_into_each_other() -> None:
    """A model that says another thing in each tile leaves a ramp, not a step."""

    class Counting(_Constant):
        def fill(self, x: torch.Tensor, missing: torch.Tensor) -> Reconstruction:
            told = torch.full_like(x, 1000.0 * len(self.shown))
            self.shown.append(x)
            return Reconstruction(told, missing[:, None], x.sum() * 0)

    mask = np.zeros((3, 32, 200), bool)
    mask[1] = True
    found = geowb.fill_gaps(
        _scene(height=32, width=200), mask, Counting(), overlap=16, batch_size=1, progress=False
    )
    row = found["reflectance"].values[1, 0, 16]
    assert np.abs(np.diff(row)).max() <= 1000 / 8 + 1
    assert row.max() - row.min() > 3000


def test_the_nearest_dates_go_with_a_date_and_cloudy_ones_count_as_farther() -> None:
    scene = _scene(dates=6)
    mask = np.zeros((6, 50, 70), bool)
    mask[4, :10] = True
    mask[5] = True
    mask[5, 0, 0] = False
    scene["reflectance"][:] = scene["reflectance"] * 0 + xr.DataArray(range(6), dims="time")
    model = _Constant()
    geowb.fill_gaps(scene, mask, model, progress=False)
    shown = {tuple(x.nan_to_num(-1).amax((1, 3, 4))[0].tolist()) for x, _ in model.shown}
    # Date 4 goes with 3 and 2, not with the cloudy 5; of date 5 one pixel is left.
    assert {tuple(int(t) for t in one) for one in shown} >= {(2, 3, 4)}
    assert all(one in ((2, 3, 4), (3, 4, 5), (3, 4, -1)) for one in shown)


def test_where_the_model_sees_nothing_time_or_the_mean_helps() -> None:
    """Of five dates the model takes the three nearest, all under the same cloud."""
    scene = _scene(dates=5, height=160, width=160)
    mask = np.zeros((5, 160, 160), bool)
    mask[1:4, :100, :100] = True
    mask[:, :40, :40] = True  # clear on no date
    found = geowb.fill_gaps(scene, mask, _Constant(), progress=False)
    flags, values = found["filled"].values, found["reflectance"].values
    assert set(np.unique(flags)) == {0, 1, 2, 3, 4}
    assert np.isfinite(values).all()
    assert (flags > 0).sum() == mask.sum()
    third = flags == 3
    assert third.sum() > 50
    # The scene is linear in time, between the clear dates 0 and 4.
    assert np.abs(values - scene["reflectance"].values).max(1)[third].max() < 1e-2
    clear = scene["reflectance"].values[2][:, ~mask[2]].mean(1)
    assert flags[2, 5, 5] == 4
    assert values[2, :, 5, 5] == pytest.approx(clear, rel=1e-4)
    never = mask.all(0)
    assert np.isin(flags[:, never], (2, 4)).all()
    assert not np.isin(flags[:, ~never], (2, 4)).any()


def test_a_tile_of_a_real_model_without_a_whole_patch(prithvi) -> None:
    scene = _scene(height=64, width=64)
    mask = np.zeros((3, 64, 64), bool)
    mask[:, ::8, ::8] = True  # a pixel of each patch
    mask[0, 0, 0] = False
    found = geowb.fill_gaps(scene, mask, prithvi, progress=False)
    assert set(np.unique(found["filled"])) <= {0, 1, 2, 3, 4}
    assert np.isfinite(found["reflectance"]).all()
    assert _clear_bytes(found, mask) == _clear_bytes(scene, mask)


def test_no_data_is_missing_whatever_the_mask_says() -> None:
    scene = _scene()
    scene["reflectance"][0, 2, 40, 60] = np.nan  # one band
    none = np.zeros((3, 50, 70), bool)
    found = geowb.fill_gaps(scene, none, "temporal_neighbour", progress=False)
    assert found["filled"].values.sum() == 1
    assert found["filled"].values[0, 40, 60] == 1
    assert np.array_equal(found["reflectance"][0, :, 40, 60], scene["reflectance"][1, :, 40, 60])
    whole = _scene(dtype="int16")
    whole["reflectance"][0, :, 40, 60] = -9999
    found = geowb.fill_gaps(whole, none, "temporal_neighbour", progress=False)
    assert found["filled"].values.sum() == 1
    assert (found["reflectance"] > 0).all()
    whole["reflectance"] = whole["reflectance"].where(whole["reflectance"] != -9999, 0)
    whole["reflectance"] = whole["reflectance"].astype("int16").assign_attrs(_FillValue=0)
    assert geowb.fill_gaps(whole, none, "linear", progress=False)["filled"].values.sum() == 1


def test_integers_are_rounded_and_kept_in_range() -> None:
    scene = _scene(dtype="int16")
    for value, expected in ((1234.6, 1235), (1e6, 32767), (-1e6, -32768)):
        found = geowb.fill_gaps(scene, model=_Constant(value), progress=False)
        assert (found["reflectance"].values[1, :, 15, 25] == expected).all()


def test_a_scene_without_gaps_comes_back_as_it_is(prithvi) -> None:
    scene = _scene()
    found = geowb.fill_gaps(scene, np.zeros((3, 50, 70), bool), prithvi, progress=False)
    xr.testing.assert_identical(found["reflectance"].drop_vars("cover"), scene["reflectance"])
    assert not found["filled"].values.any()


def test_every_kind_of_model_and_file(tmp_path: Path, prithvi) -> None:
    unet = NetworkFiller.build("unet")
    files = {}
    for name, model in (("prithvi", prithvi), ("unet", unet.model), ("cgan", build_cgan(width=4))):
        files[name] = save(model, tmp_path / name / "model.safetensors")
    for model in (*files.values(), str(tmp_path / "cgan"), unet, unet.model, "date_mean"):
        found = geowb.fill_gaps(_scene(), model=model, progress=False)
        assert np.isfinite(found["reflectance"]).all()
    same = geowb.fill_gaps(_scene(), model=files["prithvi"], progress=False)
    expected = geowb.fill_gaps(_scene(), model=prithvi, progress=False)
    assert np.array_equal(same["reflectance"], expected["reflectance"])


def test_dates_may_be_unknown() -> None:
    scene = _scene()
    expected = geowb.fill_gaps(scene, model="linear", progress=False)["reflectance"].values
    scene["time"] = np.array(["NaT"] * 3, "datetime64[ns]")
    found = geowb.fill_gaps(scene, model="linear", progress=False)
    assert np.array_equal(found["reflectance"], expected)  # equal steps: the order is enough


def _time(*days: str) -> np.ndarray:
    return np.array(days, "datetime64[ns]")


@pytest.mark.parametrize(
    ("change", "mask", "model", "error", "told"),
    [
        ({}, np.ones((3, 50, 70), bool), "linear", DataError, "has no clear pixel"),
        ({}, np.ones((3, 50, 70), bool), "prithvi_demo", DataError, "has no clear pixel"),
        ({}, np.zeros((3, 50, 71), bool), "linear", RequestError, r"mask is \(3, 50, 71\)"),
        ({}, np.zeros((50, 70), bool), "linear", RequestError, r"wants \(time, y, x\)"),
        ({}, np.full((3, 50, 70), 80), "linear", RequestError, "not only 0 and 1"),
        ({"time": ["2022-03-01", "2022-01-01", "2022-05-01"]}, None, "linear", DataError,
         "sortby"),
        ({"time": ["2022-01-01", "2022-01-01", "2022-05-01"]}, None, "linear", DataError,
         "comes twice"),
        ({"time": ["2022-01-01", "NaT", "2022-05-01"]}, None, "linear", DataError, "are NaT"),
        ({"numbers": [120, 150, 180]}, None, "linear", DataError, "time is of int64, such as"),
        ({"numbers": ["March", "May", "July"]}, None, "linear", DataError, "dates are datetime64"),
        ({"isel": {"time": [1]}}, None, "prithvi_demo", DataError, "from 3 dates; the scene has 1"),
        ({"isel": {"time": [0, 1]}}, None, "prithvi_demo", DataError, "3 dates; the scene has 2"),
        ({"drop": "fmask"}, None, "linear", DataError, "no fmask and no mask"),
        ({"isel": {"band": [0, 1, 2, 3, 4]}}, None, "prithvi_demo", DataError, "lacks SWIR_2"),
        ({"drop": "reflectance"}, None, "linear", DataError, "the scene has fmask"),
        ({}, None, "prithvi_dmo", ModelError, "Did you mean 'prithvi_demo'"),
        ({}, None, "swin_demo", ModelError, "'swin_demo' cannot fill gaps"),
        ({}, None, build("unet"), ModelError, "'unet' cannot fill gaps"),
        ({}, None, 3, ModelError, "'int' cannot fill gaps"),
    ],
)  # fmt: skip
def test_bad_input_is_told(change, mask, model, error, told) -> None:
    scene = _scene()
    if "time" in change:
        scene["time"] = _time(*change["time"])
    scene = scene.assign_coords({"time": change["numbers"]} if "numbers" in change else {})
    scene = scene.isel(change.get("isel", {})).drop_vars(change.get("drop", []))
    with pytest.raises(error, match=told) as caught:
        geowb.fill_gaps(scene, mask, model, progress=False)
    assert isinstance(caught.value, GeowbError)


def test_a_scene_without_data_anywhere_and_other_bands() -> None:
    scene = _scene()
    with pytest.raises(DataError, match="no clear pixel"):
        geowb.fill_gaps(scene.assign(reflectance=scene["reflectance"] * np.nan), model="linear")
    more = xr.concat([scene, scene.isel(band=[0]).assign_coords(band=["RED_EDGE"])], "band",
                     data_vars="minimal")  # fmt: skip
    with pytest.raises(DataError, match=r"also has RED_EDGE. Choose them: scene.sel\(band="):
        geowb.fill_gaps(more)
    with pytest.raises(DataError, match="take one"):
        geowb.fill_gaps(scene.expand_dims("sample"), model="linear")
    with pytest.raises(RequestError, match="batch_size"):
        geowb.fill_gaps(scene, batch_size=0)
    with pytest.raises(RequestError, match="overlap"):
        geowb.fill_gaps(scene, overlap=64, progress=False)


def test_a_mask_with_names_is_put_in_order() -> None:
    scene = _scene()
    mask = xr.DataArray(_cloudy(scene), dims=("time", "y", "x"))
    expected = geowb.fill_gaps(scene, model="linear", progress=False)
    for one in (mask.transpose("x", "time", "y"), mask.astype(int), mask.values):
        found = geowb.fill_gaps(scene, one, "linear", progress=False)
        assert found.identical(expected)
    shifted = mask.assign_coords(x=scene["x"] + 30)
    with pytest.raises(RequestError, match="other coordinates along x"):
        geowb.fill_gaps(scene, shifted, "linear", progress=False)


def test_progress_is_told_once_all_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    geowb.fill_gaps(_scene(), model=_Constant())
    assert "tiles filled" in capsys.readouterr().err
    geowb.fill_gaps(_scene(), model=_Constant(), progress=False)
    assert not capsys.readouterr().err


# --- real months --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def months(geowb_data: Path) -> xr.Dataset:
    scene = geowb.open_catalog()["biomassters_chip"].open()
    if "cloud_probability" not in scene:
        pytest.skip("the entry has no cloud_probability")
    return scene.load()


def test_real_months_with_their_own_clouds(months: xr.Dataset) -> None:
    mask = (months["cloud_probability"] > 10) | months["reflectance"].isnull().any("band")
    assert 0.01 < mask.mean() < 0.9
    found = geowb.fill_gaps(months, mask, progress=False)
    values = found["reflectance"].transpose("time", "y", "x", "band").values
    assert np.isfinite(values).all()
    assert _clear_bytes(found, mask.values) == _clear_bytes(months, mask.values)
    assert -0.05 < values[mask.values].mean() / 1e4 < 0.6
    assert np.array_equal(found["filled"] > 0, mask)


def test_real_clear_months_with_drawn_clouds(months: xr.Dataset) -> None:
    """The shipped model is better than the mean of the date."""
    clear = months.isel(time=[3, 4, 5])  # the others have snow
    mask = np.zeros((3, 256, 256), bool)
    mask[1, 64:200, 30:140] = True
    truth = torch.from_numpy(clear["reflectance"].values.astype(np.float32)).transpose(0, 1)[None]
    found = {}
    for model in ("prithvi_demo", "date_mean"):
        filled = geowb.fill_gaps(clear, mask, model, progress=False)["reflectance"].values
        made = torch.from_numpy(filled.astype(np.float32)).transpose(0, 1)[None]
        found[model] = scores(made, truth, torch.from_numpy(mask)[None]).iloc[0]
    assert found["prithvi_demo"].mae_missing < found["date_mean"].mae_missing
    assert found["prithvi_demo"].mae_missing < 0.05
