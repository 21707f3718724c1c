"""Scores of fillings against hand-written cases, and chips with drawn gaps."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from torchmetrics.functional.image import structural_similarity_index_measure

from geowb.chips import split_by_place
from geowb.errors import DataError, RequestError
from geowb.gaps import (
    GapDataset,
    clear_chips,
    measure,
    paired,
    scores,
    ssim_missing,
    with_interval,
)
from geowb.gaps.fillers import DateMean, LinearInTime


def _truth(samples: int = 2) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return (2000 + 600 * torch.randn(samples, 6, 3, 32, 32, generator=draw)).clamp(1, 9999)


def _gap(*corners: tuple[int, int]) -> torch.Tensor:
    """A rectangle from the corner of the middle date, one a sample."""
    missing = torch.zeros(len(corners), 3, 32, 32, dtype=torch.bool)
    for sample, (height, width) in enumerate(corners):
        missing[sample, 1, :height, :width] = True
    return missing


def test_errors_on_missing_pixels_by_hand() -> None:
    truth, missing = _truth(), _gap((8, 32), (16, 32))
    filled = truth + 300.0  # of which only what is missing counts
    filled[0, :, :, :4] -= 600.0
    filled[1, 3] += 600.0
    table = scores(filled, truth, missing)
    assert table.cover.tolist() == [0.25, 0.5]
    assert table.mae_missing.to_numpy() == pytest.approx([0.03, 0.04], rel=1e-5)
    assert table.rmse_missing[1] == pytest.approx(np.sqrt((5 * 0.03**2 + 0.09**2) / 6), rel=1e-5)
    # Mean over the image, over the mean cover: the mean over samples weighs them by cover.
    assert table.mae_published.to_numpy() == pytest.approx(
        [0.03 * 0.25 / 0.375, 0.04 * 0.5 / 0.375], rel=1e-5
    )


def test_ssim_of_constant_images_by_hand() -> None:
    """Without variance the map is the luminance term alone."""
    truth, missing = torch.full((1, 6, 3, 32, 32), 2000.0), _gap((32, 32))
    table = scores(torch.full_like(truth, 3000.0), truth, missing)
    luminance = (2 * 0.2 * 0.3 + 1e-4) / (0.2**2 + 0.3**2 + 1e-4)
    assert table.ssim_missing[0] == pytest.approx(luminance, rel=1e-4)
    assert table.ssim_published[0] == pytest.approx(luminance, rel=1e-4)


def test_ssim_on_missing_pixels_against_scikit_image() -> None:
    skimage = pytest.importorskip("skimage.metrics")
    truth, missing = _truth(1), _gap((0, 0))
    missing[0, 1, 8:20, 9:22] = True  # the two libraries treat the image's edge in their own ways
    filled = torch.where(missing[:, None], truth.mean(), truth)
    expected = []
    for band in range(6):
        pair = (1e-4 * image[0, band, 1].numpy() for image in (filled, truth))
        _, full = skimage.structural_similarity(
            *pair, data_range=1.0, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False, full=True,
        )  # fmt: skip
        expected.append(full[missing[0, 1].numpy()].mean())
    found = scores(filled, truth, missing).ssim_missing[0]
    assert found == pytest.approx(np.mean(expected), abs=1e-4)
    assert ssim_missing(filled, truth, missing).item() == pytest.approx(found)


def test_the_published_ssim_is_inflated_by_what_is_clear() -> None:
    """The same bad filling, of gaps that shrink."""
    truth = _truth(3)
    missing = _gap((32, 32), (16, 16), (6, 6))
    table = scores(torch.full_like(truth, 2000.0), truth, missing)
    assert table.ssim_missing.max() < 0.7
    assert table.ssim_published[0] == pytest.approx(table.ssim_missing[0])  # nothing is clear
    assert table.ssim_published[1] > 0.8
    assert table.ssim_published[2] > 0.97
    assert (table.ssim_published[1:] > table.ssim_missing[1:] + 0.2).all()


def test_the_published_scores_against_torchmetrics() -> None:
    """As the public code has them: images times mask, the middle date, one number a batch."""
    truth, missing = _truth(3), _gap((32, 20), (5, 5), (16, 30))
    filled = truth * 0.8 + 300
    mask = missing[:, None, 1].float()
    made, true = filled[:, :, 1] * 1e-4 * mask, truth[:, :, 1] * 1e-4 * mask
    table = scores(filled, truth, missing)
    ssim = structural_similarity_index_measure(made, true, data_range=1.0)
    assert table.ssim_published.mean() == pytest.approx(ssim.item(), abs=1e-6)
    mae = (made - true).abs().mean() / mask.mean()
    assert table.mae_published.mean() == pytest.approx(mae.item(), rel=1e-5)


def test_a_perfect_filling_scores_best_and_clear_pixels_do_not_count() -> None:
    truth, missing = _truth(), _gap((9, 9), (20, 30))
    filled = torch.where(missing[:, None], truth, -1.0)
    row = scores(filled, truth, missing).mean()
    assert row.mae_missing == 0
    assert row.rmse_missing == 0
    assert row.ssim_missing == pytest.approx(1)
    assert row.ssim_published == pytest.approx(1)


def test_dates_without_gaps_and_samples_without_are_left_out() -> None:
    truth, missing = _truth(), _gap((8, 32), (0, 0))
    table = scores(truth + 100, truth, missing)
    assert table.iloc[1].isna().all()
    assert table.cover[0] == 0.25  # of the date, not of all three
    two = missing.clone()
    two[0, 0, :16] = True
    assert scores(truth + 100, truth, two).cover[0] == pytest.approx((0.25 + 0.5) / 2)


def test_unknown_truth_is_not_scored() -> None:
    truth, missing = _truth(1), _gap((8, 32))
    truth[0, 2, 1, :4] = float("nan")
    found = scores(torch.full_like(truth, 5000.0), truth, missing)
    assert found.cover[0] == 0.125
    assert np.isfinite(found.to_numpy()).all()
    with pytest.raises(DataError, match="nothing to score"):
        scores(truth, truth, _gap((4, 32)))
    with pytest.raises(DataError, match="do not fit"):
        scores(truth, truth, missing[..., 1:])


# --- chips with gaps ----------------------------------------------------------------------------


def _scene(dates: int = 3, size: int = 96, seed: int = 0) -> xr.Dataset:
    draw = np.random.default_rng(seed)
    counts = draw.normal(2000, 500, (dates, 6, size, size)).astype(np.float32)
    fmask = np.zeros((dates, size, size), np.uint8)
    return xr.Dataset(
        {
            "reflectance": (("time", "band", "y", "x"), counts),
            "fmask": (("time", "y", "x"), fmask),
        }
    )


@pytest.fixture
def masks() -> np.ndarray:
    draw = np.random.default_rng(5)
    masks = np.zeros((12, 40, 48), bool)
    for mask, edge in zip(masks, draw.integers(4, 40, 12), strict=True):
        mask[:edge] = True
    return masks


def test_clear_chips_are_whole_known_and_clear() -> None:
    scene = _scene(size=100)
    scene["fmask"][1, :32, :3] = 2  # cloud on 9 % of the first chip
    scene["fmask"][1, :32, 32:33] = 2  # 3 % of the second
    scene["reflectance"][2, 4, 40, 70] = np.nan
    chips = clear_chips({"a": scene}, 32)
    assert len(chips) == 7
    assert (chips["labelled"] == 1024).all()
    corners = set(zip(chips["y"], chips["x"], strict=True))
    assert not corners & {(0, 0), (32, 64)}
    assert (0, 32) in corners
    assert set(split_by_place(chips, seed=0)["split"]) == {"train", "val", "test"}
    with pytest.raises(DataError, match="one number of dates"):
        clear_chips({"a": scene, "b": _scene(dates=2)})
    with pytest.raises(DataError, match="No chip of 64"):
        clear_chips({"a": scene.assign(reflectance=scene["reflectance"] * np.nan)}, 64)


def test_sets_of_samples_keep_their_published_split(masks: np.ndarray) -> None:
    scenes = [_scene(size=32, seed=i)[["reflectance"]] for i in range(4)]
    whole = xr.concat(scenes, "sample").assign_coords(
        split=("sample", ["train", "train", "val", "test"])
    )
    chips = clear_chips({"set": whole}, 32)
    assert chips["split"].tolist() == ["train", "train", "val", "test"]
    item = GapDataset({"set": whole}, chips, masks)[2]
    assert np.array_equal(item["image"].transpose(0, 1), scenes[2]["reflectance"])


def test_gaps_depend_on_seed_epoch_and_chip_alone(masks: np.ndarray) -> None:
    scenes = {"a": _scene()}
    chips = clear_chips(scenes, 32)

    def gaps(epoch: int = 0, seed: int = 0, *, plain: bool = False) -> list[np.ndarray]:
        data = GapDataset(scenes, chips, masks, seed=seed)
        data.set_epoch(epoch)
        data = data.plain() if plain else data
        return [data[i]["missing"].numpy() for i in range(len(data))]

    def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
        return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))

    assert same(gaps(2), gaps(2))
    assert not same(gaps(2), gaps(3))
    assert not same(gaps(), gaps(seed=1))
    assert same(gaps(2, plain=True), gaps(7, plain=True))
    covers = [gap.mean((1, 2)) for gap in gaps()]
    assert all(cover[0] == cover[2] == 0 and cover[1] > 0 for cover in covers)


def test_any_date_means_each_of_seven_combinations(masks: np.ndarray) -> None:
    scenes = {"a": _scene()}
    data = GapDataset(scenes, clear_chips(scenes, 32), masks, dates="any")
    seen = set()
    for epoch in range(20):
        data.set_epoch(epoch)
        seen |= {tuple(np.flatnonzero(data[i]["missing"].any((1, 2)))) for i in range(len(data))}
    assert len(seen) == 7
    assert () not in seen
    data = GapDataset(scenes, clear_chips(scenes, 32), masks, dates=[2, 0])
    assert data[0]["missing"].any((1, 2)).tolist() == [True, False, True]


def test_image_is_turned_and_mirrored_as_a_whole(masks: np.ndarray) -> None:
    scenes = {"a": _scene()}
    chips = clear_chips(scenes, 32)
    data = GapDataset(scenes, chips, masks, augment=True)
    plain = data.plain()[4]["image"].numpy()
    turned = [np.rot90(plain, k, (-2, -1)) for k in range(4)]
    symmetries = [one for t in turned for one in (t, t[..., ::-1])]
    found = set()
    for epoch in range(40):
        data.set_epoch(epoch)
        image = data[4]["image"].numpy()
        found |= {i for i, one in enumerate(symmetries) if np.array_equal(one, image)}
    assert found == set(range(8))


def test_masks_that_leave_nothing_are_drawn_again_or_refused() -> None:
    scenes = {"a": _scene()}
    chips = clear_chips(scenes, 32)
    some = np.zeros((3, 32, 32), bool)
    some[0] = True
    some[1, :9] = True
    data = GapDataset(scenes, chips, some, dates=[0, 1, 2])
    for i in range(len(data)):
        missing = data[i]["missing"]
        assert missing.any()
        assert not missing.all()
    with pytest.raises(DataError, match="100 masks in a row"):
        GapDataset(scenes, chips, np.zeros((2, 32, 32), bool))[0]
    # A clear square of 16 is enough, but in chips of 56, which patches of 14 fill.
    for size, enough in ((40, True), (56, False)):
        cover = np.ones((1, size, size), bool)
        cover[:, :16, :16] = False
        data = GapDataset(scenes, clear_chips(scenes, size), cover, dates=[0, 1, 2])
        if enough:
            assert data[0]["missing"].any()
            continue
        with pytest.raises(DataError, match="100 masks in a row"):
            data[0]
    with pytest.raises(RequestError, match="at least 32 x 32"):
        GapDataset(scenes, chips, np.zeros((2, 31, 40), bool))


@pytest.mark.parametrize("dates", ["first", [], [3], [-1]])
def test_dates_that_there_are_not(dates, masks: np.ndarray) -> None:
    scenes = {"a": _scene()}
    with pytest.raises(RequestError, match="with 3 dates it is 'any', 'middle', or a list"):
        GapDataset(scenes, clear_chips(scenes, 32), masks, dates=dates)


def test_there_is_no_middle_of_two_dates(masks: np.ndarray) -> None:
    scenes = {"a": _scene(dates=2)}
    with pytest.raises(
        RequestError, match="with 2 dates it is 'any', or a list of positions from 0"
    ):
        GapDataset(scenes, clear_chips(scenes, 32), masks)


def test_measure_hides_the_truth_and_knows_the_rules(masks: np.ndarray) -> None:
    scene = _scene()
    scene["reflectance"][1] = (scene["reflectance"][0] + scene["reflectance"][2]) / 2
    scenes = {"a": scene}
    data = GapDataset(scenes, clear_chips(scenes, 32), masks)
    line, mean = measure(LinearInTime(), data, batch_size=4), measure(DateMean(), data)
    assert line["index"].tolist() == list(range(9))
    assert line.mae_missing.max() < 1e-6
    assert line.ssim_missing.min() > 0.9999
    assert mean.mae_missing.min() > 0.01
    assert (line["mae_published"] == line.mae_missing * line.cover / line.cover.mean()).all()


def test_mixed_precision_changes_no_ssim() -> None:
    truth, missing = _truth(), _gap((16, 16), (8, 32))
    noisy = truth + 200 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
    plain = [ssim_missing(image, truth, missing) for image in (truth, noisy)]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = [ssim_missing(image, truth, missing) for image in (truth, noisy)]
    assert torch.equal(torch.stack(plain), torch.stack(mixed))
    assert plain[0].min() > 0.9999


def test_what_is_divided_by_the_mean_cover_is_drawn_with_it() -> None:
    cover = np.linspace(0.05, 0.95, 40)
    table = pd.DataFrame({"cover": cover, "mae_missing": 0.02})
    table = table.assign(mae_published=table.mae_missing * cover / cover.mean())
    found = with_interval(table).loc["mae_published"]
    assert found.tolist() == pytest.approx([0.02] * 3)  # the same error on every chip
    gain = paired(table.assign(index=range(40)), (table * [1, 2, 2]).assign(index=range(40)))
    assert gain.loc["mae_published"].tolist() == pytest.approx([-0.02] * 3)


def test_chips_of_scenes_without_a_published_split_have_none(masks: np.ndarray) -> None:
    whole = xr.concat([_scene(size=32, seed=i)[["reflectance"]] for i in range(2)], "sample")
    scenes = {"set": whole.assign_coords(split=("sample", ["train", "val"])), "own": _scene()}
    chips = clear_chips(scenes, 32)
    assert chips[chips["scene"] == "own"]["split"].isna().all()
    dealt = split_by_place(chips, seed=0)
    assert set(dealt[dealt["scene"] == "own"]["split"]) == {"train", "val", "test"}
    # Without labels, but no error of another name's.
    assert GapDataset(scenes, chips, masks).count_labelled() == 0


def test_measure_by_batches_is_the_score_of_all_at_once(masks: np.ndarray) -> None:
    scenes = {"a": _scene()}
    data = GapDataset(scenes, clear_chips(scenes, 32), masks)
    items = [data.plain()[i] for i in range(len(data))]
    truth, missing = (torch.stack([item[key] for item in items]) for key in ("image", "missing"))
    whole = scores(DateMean().fill(truth, missing).prediction, truth, missing)
    parts = measure(DateMean(), data, batch_size=2)
    pd.testing.assert_frame_equal(parts.drop(columns="index"), whole, rtol=1e-5)
