"""A map equals the model on the whole scene, whatever the sizes."""

from threading import current_thread

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from predicting import Blur, Constant, Pixelwise, counts
from scenes import scene

from geowb.errors import DataError, ModelError, RequestError
from geowb.models import build
from geowb.predict import map_scenes
from geowb.predict.grid import Axis, Grid, reflected


@pytest.fixture(autouse=True, scope="module")
def _low_units():
    """Units of few rows, so that scenes of a test have several, with seams between them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("geowb.predict.grid._UNIT_ROWS", 40)
        yield


SIDE = st.one_of(st.integers(1, 12), st.integers(1, 150))


@st.composite
def tilings(draw):
    """Tile, overlap and blend that go together."""
    tile = draw(st.integers(1, 48))
    overlap = draw(st.integers(0, tile // 2 + tile % 2)) if tile > 1 else 0
    blend = draw(st.integers(0, min(overlap, tile - overlap)))
    return {"tile": tile, "overlap": overlap, "blend": blend, "batch_size": draw(st.integers(1, 9))}


def whole(model, one):
    """What the model makes of the whole scene at once, ``(K, y, x)``."""
    with torch.no_grad():
        return model(torch.from_numpy(one.reflectance.values).transpose(0, 1)[None])[0].numpy()


def mapped(model, one, **how):
    return map_scenes(model, {"a": one}, **how)["a"]


@settings(max_examples=200, deadline=None)
@given(height=SIDE, width=SIDE, tiling=tilings())
def test_a_pixelwise_models_map_is_the_model_on_the_whole_scene(height, width, tiling):
    one = scene(height, width)
    found = mapped(Pixelwise(), one, **tiling)
    assert found.shape == (height, width)
    np.testing.assert_allclose(found, whole(Pixelwise(), one)[0], rtol=1e-6)


@settings(max_examples=200, deadline=None)
@given(height=st.integers(4, 120), width=st.integers(4, 120), tiling=tilings(),
       radius=st.integers(1, 3))  # fmt: skip
def test_a_convolution_leaves_no_trace_of_tiles_where_the_margin_is_wide_enough(
    height, width, tiling, radius
):
    margin = tiling["overlap"] - tiling["blend"]
    assume(margin // 2 >= radius < tiling["tile"])
    one, model = scene(height, width), Blur(radius)
    np.testing.assert_allclose(mapped(model, one, **tiling), whole(model, one)[0], atol=1e-5)


@settings(max_examples=200, deadline=None)
@given(height=SIDE, width=SIDE, tiling=tilings())
def test_a_constant_model_gives_a_constant_map(height, width, tiling):
    assert (mapped(Constant(), scene(height, width), **tiling).values == np.float32(0.1)).all()


def test_a_margin_that_is_too_small_shows():
    """The comparison with the whole scene can fail."""
    one, model = scene(90, 90), Blur(3)
    found = mapped(model, one, tile=32, overlap=2, blend=2)
    assert np.abs(found - whole(model, one)[0]).max() > 1e-3


@settings(max_examples=300, deadline=None)
@given(length=st.integers(1, 500), tiling=tilings())
def test_weights_of_all_tiles_add_to_one_exactly_at_each_pixel(length, tiling):
    axis = Axis(length, tiling["tile"], tiling["overlap"], tiling["blend"])
    total = np.zeros(length)
    for i in range(axis.count):
        assert axis.start(i) <= axis.cut(i) < axis.end(i) <= axis.start(i) + axis.tile
        total[axis.cut(i) : axis.end(i)] += axis.weights(i)
    assert (total == 1).all()
    assert axis.count == 1 or axis.start(1) - axis.start(0) == axis.stride


@settings(max_examples=100, deadline=None)
@given(height=SIDE, width=SIDE, tiling=tilings())
def test_each_tile_is_in_one_group_and_batches_are_full_but_at_a_units_end(height, width, tiling):
    size = tiling.pop("batch_size")
    grid = Grid(Axis(height, **tiling), Axis(width, **tiling), size)
    seen = []
    for unit in range(grid.units):
        groups = list(grid.groups(unit))
        assert [group.last for group in groups] == [False] * (len(groups) - 1) + [True]
        if len(grid.unit(unit)) == grid.rows:
            assert all(len(g.rows) * len(g.cols) % size == 0 for g in groups[:-1])
        seen += [(i, j) for group in groups for j in group.cols for i in group.rows]
    assert sorted(seen) == [(i, j) for i in range(grid.y.count) for j in range(grid.x.count)]
    assert sum(map(grid.pixels, range(grid.units))) == height * width


def test_positions_beyond_a_side_are_mirrored_as_numpy_does():
    for length in (1, 2, 5, 40):
        line = np.arange(length)
        padded = np.pad(line, 37, mode="reflect" if length > 1 else "edge")
        assert (line[reflected(-37, length + 37, length)] == padded).all()


@pytest.mark.parametrize(
    ("tile", "overlap", "blend"),
    [(0, 0, 0), (8, 8, 0), (8, 9, 0), (8, 4, 5), (8, 5, 4), (8, -1, 0)],
)
def test_tiles_that_cannot_be_are_refused_with_their_numbers(tile, overlap, blend):
    with pytest.raises(RequestError, match=f"tile {tile}, overlap {overlap}, blend {blend}"):
        Axis(100, tile, overlap, blend)


def test_no_data_in_is_no_data_out():
    one = scene(70, 80, dates=2)
    one.reflectance[:, :, 10, 20] = np.nan  # no band of any date
    one.reflectance[0, :, 30, 40] = np.nan  # one date only
    one.reflectance[:, 1, 50:52] = np.nan  # one band only

    class Mean(torch.nn.Module):
        def forward(self, x):
            return x.nanmean(dim=(1, 2))[:, None]

    model = Mean()
    model.card = {"frames": 2, "bands": list(one.band.values)}
    how = {"tile": 24, "overlap": 8}
    assert np.argwhere(np.isnan(mapped(model, one, **how).values)).tolist() == [[10, 20]]
    gone = np.isnan(mapped(model, one, missing="any", **how).values)
    assert gone.sum() == 2 + 2 * 80
    with pytest.raises(RequestError, match="missing is 'some'"):
        mapped(model, one, missing="some")


def test_normalisation_is_the_models_and_the_same_for_every_tile():
    """A scene with one bright corner: by tile its dark part would be stretched."""
    one = scene(96, 96)
    one.reflectance[..., :20, :20] *= 10
    model = build("unet", seed=1).eval()
    dark = one.isel(y=slice(48, 96), x=slice(48, 96))
    alone = mapped(model, dark, tile=48, overlap=0)
    together = mapped(model, one, tile=48, overlap=0)
    assert np.allclose(alone, together[48:, 48:], atol=1e-5)


def test_classes_probabilities_and_confidence_belong_together():
    one, model = scene(60, 50), Blur(1, outputs=4)
    one.reflectance[..., 5, 5] = np.nan
    how = {"tile": 32, "overlap": 8, "blend": 2}
    found = {
        name: mapped(model, one, output=name, **how)
        for name in ("classes", "probabilities", "confidence")
    }
    shares = found["probabilities"]
    assert shares.dims == ("class", "y", "x")
    assert found["classes"].dtype == np.uint8
    assert found["classes"].values[5, 5] == 255
    assert np.isnan(found["confidence"].values[5, 5])
    seen = np.isfinite(shares.values[0])
    assert np.allclose(shares.values.sum(0)[seen], 1, atol=1e-6)
    assert (found["classes"].values[seen] == shares.values.argmax(0)[seen]).all()
    assert (found["confidence"].values[seen] == shares.values.max(0)[seen]).all()
    clear = one.copy()
    clear["reflectance"] = one.reflectance.fillna(1000.0)
    own = torch.softmax(torch.from_numpy(whole(model, clear)), 0)
    shares = mapped(model, clear, output="probabilities", **how)
    assert np.allclose(shares, own, atol=1e-5)
    assert (mapped(model, clear, **how).values == own.argmax(0).numpy()).all()  # auto is classes


def test_embeddings_lie_on_the_token_grid():
    class Tokens(torch.nn.Module):
        """Means of 8 x 8 pixels."""

        def features(self, x):
            return [torch.nn.functional.avg_pool2d(x[:, :, 0], 8)]

    one = scene(50, 83)
    found = mapped(Tokens(), one, output="embedding", tile=32, overlap=8)
    assert found.dims == ("y", "x", "channel")
    assert found.shape == (7, 11, 6)
    blocks = one.reflectance.values[0, :, :48, :80].reshape(6, 6, 8, 10, 8).mean(axis=(2, 4))
    np.testing.assert_allclose(found.values[:6, :10], np.moveaxis(blocks, 0, -1), rtol=1e-5)
    assert found.rio.resolution() == (240.0, -240.0)
    assert found.rio.crs == one.rio.crs
    with pytest.raises(RequestError, match="overlap is 4, the model's output has 1 pixel for 8"):
        mapped(Tokens(), one, output="embedding", tile=32, overlap=4)
    with pytest.raises(ModelError, match="36 x 36 pixels is no multiple of the model"):
        mapped(Tokens(), one, output="embedding", tile=36)


def test_the_embedding_of_a_real_encoder_is_what_its_features_are():
    model = build("swin_demo", seed=0).eval()
    one = scene(64, 64)
    found = mapped(model, one, output="embedding", level=0, tile=64, overlap=0, units="")
    with torch.no_grad():
        own = model.features(torch.from_numpy(one.reflectance.values).transpose(0, 1)[None])[0][0]
    np.testing.assert_allclose(found.values, own.permute(1, 2, 0).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("clases", "Did you mean 'classes'"),
        (["values", "classes"], "cannot be had in one pass"),
        ("classes", "gives one value a pixel, no classes"),
    ],
)
def test_outputs_that_cannot_be_are_refused(asked, message):
    with pytest.raises(RequestError, match=message):
        mapped(Pixelwise2(), scene(20, 20), output=asked, tile=16)


class Pixelwise2(torch.nn.Module):
    def forward(self, x):
        return x[:, :1, 0]


def test_a_model_that_gives_no_number_is_told_and_written_as_no_data(tmp_path):
    from geowb.predict import predict_scene

    class Root(torch.nn.Module):
        def forward(self, x):
            return torch.sqrt(x[:, :1, 0] - 300)  # NaN for dark pixels

    one = scene(100, 90)
    made = predict_scene(Root(), one, tmp_path / "a.tif", tile=32, overlap=8, progress=False)
    dark = int((one.reflectance[0, 0] < 300).sum())
    assert 0 < dark == made.not_finite == int(np.isnan(made.open().values).sum())
    assert f"no number for {dark:,} pixels" in made.told()[0]
    again = predict_scene(Root(), one, tmp_path / "a.tif", tile=32, overlap=8, progress=False)
    assert (again.seconds, again.not_finite) == (0.0, dark)


def test_a_pixel_for_which_only_one_of_two_units_has_no_number_is_counted(tmp_path):
    """In the seam between two units both count; each tile of this model lacks its first rows."""
    from geowb.predict import predict_scene

    class Top(torch.nn.Module):
        def forward(self, x):
            given = x[:, :1, 0].clone()
            given[:, :, :3] = float("nan")
            return given

    one = scene(170, 60)
    how = {"tile": 32, "overlap": 8, "blend": 8, "batch_size": 2, "progress": False}
    made = predict_scene(Top(), one, tmp_path / "a.tif", **how)
    assert made.units > 2
    assert made.not_finite == int(np.isnan(made.open().values).sum()) > 0


def test_reading_and_writing_beside_the_model_or_after_it_is_the_same(tmp_path, monkeypatch):
    """What is done depends on the cores that the model leaves; both ways on any machine."""
    from geowb.predict import predict_scene, units

    found, threads = [], []
    real = units.read
    monkeypatch.setattr(
        units, "read", lambda *a: (threads.append(current_thread().name), real(*a))[1]
    )
    for cores in (torch.get_num_threads(), torch.get_num_threads() + 1):
        monkeypatch.setattr(units, "cpu_count", lambda cores=cores: cores)
        file = tmp_path / f"{cores}.tif"
        made = predict_scene(Blur(2), scene(150, 140), file, tile=32, overlap=8, progress=False)
        found.append(made.open().values)
    assert {name.partition("_")[0] for name in threads} == {"MainThread", "geowb-predict"}
    assert np.array_equal(*found)


def test_a_batch_for_which_there_is_no_memory_is_said(tmp_path):
    from geowb.predict import predict_scene

    class Hungry(Blur):
        def forward(self, x):
            if len(x) > 1:
                torch.empty(2**58)
            return super().forward(x)

    with pytest.raises(ModelError, match=r"no memory for a batch of 4 tiles .*batch_size=2"):
        predict_scene(Hungry(2), scene(60, 60), tmp_path / "a.tif", tile=16, batch_size=4,
                      progress=False)  # fmt: skip
    assert not (tmp_path / "a.tif").exists()


def test_what_a_model_holds_beside_its_weights_is_part_of_the_request(tmp_path):
    from geowb.predict import predict_scene

    class Times(torch.nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def forward(self, x):
            return x[:, :1, 0] * self.factor

    how = {"tile": 32, "progress": False}
    predict_scene(Times(2.0), scene(40, 40), tmp_path / "a.tif", **how)
    assert predict_scene(Times(2.0), scene(40, 40), tmp_path / "a.tif", **how).seconds == 0
    with pytest.raises(RequestError, match="is not the map of this request"):
        predict_scene(Times(3.0), scene(40, 40), tmp_path / "a.tif", **how)


def test_a_model_stays_as_it_was():
    """Trainable, on its device, its weights in their order: nothing of a prediction is left."""
    model = build("unet", seed=0)
    before = {name: (p.stride(), p.detach().clone()) for name, p in model.named_parameters()}
    mapped(model, scene(40, 40), tile=32)
    for name, parameter in model.named_parameters():
        stride, values = before[name]
        assert parameter.stride() == stride
        assert torch.equal(parameter, values)
        assert not parameter.is_inference()
    model(torch.zeros(1, 6, 1, 32, 32)).sum().backward()


def test_precision_is_what_is_asked_for_and_the_tile_that_of_training(tmp_path):
    import json

    from geowb.predict import predict_scene

    one, model = scene(100, 100), Blur(2)
    model.card = {"trained_on": {"chip_size": 40}, "bands": list(one.band.values), "mean": [2100.0]}
    found = {}
    for precision in ("32", "bf16"):
        file = tmp_path / f"{precision}.tif"
        made = predict_scene(model, one, file, precision=precision, progress=False)
        found[precision] = made.open()
        how = json.loads(found[precision].attrs["geowb_how"])
        assert (how["tile"], how["precision"]) == (40, precision)
    error = np.abs(found["bf16"] - found["32"]).max() / found["32"].std()
    assert 1e-5 < error < 0.05
    with pytest.raises(RequestError, match="precision is '16': it is auto, 32, bf16"):
        mapped(model, one, precision="16")
    with pytest.raises(RequestError, match="tile is 0"):
        mapped(model, one, tile=0)


def test_samples_are_mapped_one_by_one():
    samples = xr.concat([scene(20, 20).isel(time=0), scene(20, 20, seed=1).isel(time=0)], "sample")
    found = mapped(Pixelwise2(), samples, tile=16)
    assert np.array_equal(found.values, samples.reflectance.values[:, 0])
    lone = samples.drop_vars("spatial_ref")
    lone.reflectance.encoding.clear()
    assert mapped(Pixelwise2(), lone, tile=16).rio.crs is None


def test_wrong_scenes_are_refused():
    model = build("unet")
    one = scene(20, 20)
    with pytest.raises(RequestError, match=r"has 5 bands .* the model takes 6"):
        mapped(model, one.isel(band=slice(0, 5)))
    with pytest.raises(RequestError, match="has 1 date, the model takes 2"):
        mapped(build("unet", frames=2), one)
    with pytest.raises(DataError, match="no variable reflectance; it has agb"):
        mapped(model, one[["agb"]])
    with pytest.raises(ModelError, match="cannot take a tile"):
        mapped(torch.nn.Conv2d(3, 1, 1), one, tile=16)


def test_numbers_in_another_unit_are_told_with_the_factor():
    from geowb.predict import open_scene
    from geowb.predict.planning import check_numbers

    card = build("unet").card
    one = scene(40, 40)
    check_numbers(open_scene(one), card)
    for factor, told in ((1e-4, "scale=10000"), (100.0, "scale=0.01"), (1e4, "scale=0.0001")):
        other = one.assign(reflectance=one.reflectance * factor)
        with pytest.raises(RequestError, match=told):
            check_numbers(open_scene(other), card)
        right = open_scene(other, scale=1 / factor)
        assert np.allclose(right.window(0, 8, 0, 8).values,
                           open_scene(one).window(0, 8, 0, 8).values, rtol=1e-5)  # fmt: skip
    empty = one.assign(reflectance=one.reflectance * np.nan)
    check_numbers(open_scene(empty), card)  # nothing to judge by
    assert counts(2, 2).dtype == "int16"
