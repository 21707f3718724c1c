"""The study of compression: heads, judging, the trade-off, the codecs that ship, the notebook."""

import gc
import json
import shutil
import weakref
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import geowb
from geowb.batch import run as run_study
from geowb.batch.checks import preflight
from geowb.errors import DataError, ModelError, RequestError, WeightsMismatch
from geowb.labelled import Places, cut_places, dominant
from geowb.nec import (
    CompressedMAE,
    FactorizedPriorCodec,
    Tables,
    load_codec,
    open_embeddings,
    sending,
    tradeoff,
)
from geowb.nec.baselines import coded, from_jpeg2000, quality_for
from geowb.nec.codecs import check_worlds, codec_folders, load_codecs, open_base, read_card
from geowb.nec.heads import DecoderLayer, MapHead, SceneHead, TokenDataset
from geowb.nec.judging import judge, map_embedding, operations
from geowb.nec.pictures import WAYS, at_each_rate, curves, principal_colours
from geowb.plots.axes import holoviews
from geowb.train import Segmentation, fit

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def base():
    return CompressedMAE.of(open_base("mae_demo")[0]).eval()


@pytest.fixture(scope="module")
def scenes():
    made = {
        f"cerrado {seed}": geowb.world.scene("cerrado", seed=seed, size=256, dates=1, clouds=False)
        for seed in range(2)
    }
    return {name: scene.sel(band=["RED", "GREEN", "BLUE"]) for name, scene in made.items()}


@pytest.fixture(scope="module")
def places(scenes):
    return cut_places(scenes, 128, bands=("RED", "GREEN", "BLUE"))


def toy(count=60, classes=3, spread=0.1, seed=0):
    """Places whose embedding tells the class: as `Places` and as `Sent`."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    tokens = rng.normal(0, spread, (count, 4, 4, 16)).astype("float32")
    tokens[..., 0] += labels[:, None, None]
    maps = np.repeat(np.repeat(np.arange(16).reshape(4, 4) % classes, 4, 0), 4, 1)
    maps = np.stack([(maps + label) % classes for label in labels])
    tokens[..., 1] += maps[:, ::4, ::4]
    table = pd.DataFrame({"scene": ["a", "b"] * (count // 2), "sample": np.arange(count)})
    table = table.assign(y=np.arange(count), x=0)
    names = [f"class{k}" for k in range(classes)]
    images = np.zeros((count, 3, 16, 16), "float32")
    made = Places(images, table, labels, names, maps, names)
    sizes = np.full(count, 100)
    return made, sending.Sent("toy", "all", tokens, sizes, 0, {})


# Places.


def test_the_class_of_a_place_is_what_covers_enough_of_it():
    maps = np.array([[[0, 0], [0, 1]], [[1, 1], [2, 2]], [[-1, -1], [-1, 2]]])
    assert dominant(maps, 3).tolist() == [0, 1, -1]
    assert dominant(maps, 3, least=0.8).tolist() == [-1, -1, -1]
    assert dominant(maps, 3, least=0.2).tolist() == [0, 1, 2]


def test_scenes_are_cut_and_classes_without_an_image_left_out(scenes, places):
    assert places.images.shape == (8, 3, 128, 128)
    assert places.maps.shape == (8, 128, 128)
    first = scenes["cerrado 0"]
    window = first.reflectance.isel(time=0, y=slice(128), x=slice(128, 256)).values
    assert np.array_equal(places.images[1], window)
    assert np.array_equal(places.maps[1], first.landcover.values[:128, 128:])
    shares = [np.bincount(m.ravel(), minlength=11).max() / m.size for m in places.maps]
    assert (places.classes >= 0).tolist() == [share >= 0.5 for share in shares]
    assert set(places.classes) - {-1} == set(range(len(places.names)))
    row = int(np.flatnonzero(places.classes >= 0)[0])
    most = np.bincount(places.maps[row].ravel()).argmax()
    assert places.names[places.classes[row]] == places.map_names[most]
    assert places.index.tolist()[1] == ("cerrado 0", "0/128")


def test_images_of_a_set_stay_whole_and_are_averaged_down():
    values = RNG.integers(0, 255, (4, 3, 32, 32)).astype("float32")
    values[3, 0, 0, 0] = np.nan
    data = xr.Dataset(
        {
            "reflectance": (("sample", "band", "y", "x"), values),
            "label": ("sample", np.array([2, 0, 2, 2]), {"flag_meanings": "beach farm river"}),
        },
        coords={"band": ["RED", "GREEN", "BLUE"], "sample": list("abcd")},
    )
    made = cut_places({"set": data}, 16, bands=("RED", "GREEN", "BLUE"))
    assert made.images.shape == (3, 3, 16, 16)  # the one with a hole is left out
    means = values[:3].reshape(3, 3, 16, 2, 16, 2).mean((3, 5))
    assert np.allclose(made.images, means)
    assert (made.classes.tolist(), made.names, made.maps) == ([1, 0, 1], ["beach", "river"], None)
    assert cut_places({"set": data}, 64, bands=["RED"]).images.shape == (3, 1, 32, 32)
    none = data.assign(label=("sample", np.full(4, -1)))
    with pytest.raises(DataError, match=r"No image has a class\."):
        cut_places({"set": none}, 16, bands=["RED"])
    with pytest.raises(DataError, match="neither a class each"):
        cut_places({"set": data.drop_vars("label")}, 16, bands=["RED"])


def test_folds_test_each_image_once_a_repeat():
    made, _ = toy()
    parts = made.folds(5, repeats=2, seed=1)
    assert len(parts) == 10
    for repeat in (parts[:5], parts[5:]):
        assert sorted(np.concatenate([test for _, test in repeat])) == list(range(60))
    for train, test in parts:
        assert not set(train) & set(test)
        assert np.bincount(made.classes[test]).tolist() == [4, 4, 4]
    assert not np.array_equal(parts[0][1], parts[5][1])
    assert not np.array_equal(parts[0][1], made.folds(5, seed=2)[0][1])
    with pytest.raises(DataError, match="fewer images than there are folds"):
        made.folds(30)  # 20 images a class
    with pytest.raises(DataError, match="1 folds part nothing"):
        made.folds(1)


def test_squares_of_one_sample_are_in_one_fold():
    made, _ = toy()
    made = replace(made, table=made.table.assign(scene="set", sample=np.arange(60) // 4))
    for train, test in made.folds(3, repeats=2):
        assert not set(train // 4) & set(test // 4)
        assert len(train) + len(test) == 60
    few = replace(made, table=made.table.assign(sample=np.arange(60) // 20))
    with pytest.raises(DataError, match="those of one sample or scene count once"):
        few.folds(5)
    of_scenes = replace(made, table=made.table.assign(scene=[f"{n // 10}" for n in range(60)]))
    of_scenes.table["sample"] = -1  # squares of six scenes
    for train, test in of_scenes.folds(3):
        assert not set(train // 10) & set(test // 10)
    with pytest.raises(DataError, match="those of one sample or scene count once"):
        of_scenes.folds(7)


# Heads.


def test_heads_have_the_published_parts(base):
    head = MapHead(768, 6, size=512)
    assert head.narrow.weight.shape == (384, 768, 3, 3)
    assert len(head.blocks) == 6
    assert [m.upscale_factor for m in head.enlarge.modules() if hasattr(m, "upscale_factor")] == [
        2,
        2,
    ]
    assert head.head[0].weight.shape == (128, 384, 3, 3)
    assert head.auxiliary[0].weight.shape == (64, 384, 3, 3)
    head = MapHead(4, 3, size=32, width=4, head=4).eval()
    head.blocks = torch.nn.Conv2d(4, 4, 1)
    torch.nn.init.zeros_(head.blocks.weight)  # what comes around the blocks is still seen
    one, other = head(torch.randn(2, 8, 8, 4))
    assert not torch.allclose(one, other, atol=1e-4)
    layer = DecoderLayer(base)
    tokens = torch.randn(2, 16, 16, 192)
    assert layer(tokens).shape == (2, 16, 16, 96)
    # The first block of the decoder sees what it saw in the autoencoder.
    decoder = base.decoder
    inside = decoder.decoder_embed(tokens.flatten(1, 2))
    inside = inside + decoder.interpolate_pos_encoding((1, 128, 128))[:, 1:]
    expected = decoder.decoder_blocks[0](inside).unflatten(1, (16, 16))
    assert torch.allclose(layer(tokens), expected, atol=1e-5)
    SceneHead(192, 4, layer).train()(tokens).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    assert all(p.grad is None for p in decoder.decoder_blocks[0].parameters())  # a copy


def test_an_auxiliary_output_counts_in_training_alone():
    made, sent = toy(12)
    head = MapHead(16, 3, size=16, width=8, head=8)
    tokens = torch.from_numpy(sent.tokens)
    pair = head.train()(tokens)
    assert [p.shape for p in pair] == [(12, 3, 16, 16)] * 2
    plan = {"learning_rate": 1e-3, "weight_decay": 0.0}
    task = Segmentation(head, plan)
    task.log = lambda *a, **k: None
    batch = {"image": tokens, "label": torch.from_numpy(made.maps).long()}
    entropy = torch.nn.functional.cross_entropy
    expected = entropy(pair[0], batch["label"]) + 0.4 * entropy(pair[1], batch["label"])
    assert task._step(batch, "train").item() == pytest.approx(expected.item(), rel=1e-5)
    assert head.eval()(tokens).shape == (12, 3, 16, 16)


def test_a_dataset_of_tokens_leaves_out_what_has_no_label():
    labels = np.full((4, 2, 2), -1)
    labels[1, 0, 0] = 2
    data = TokenDataset(np.zeros((4, 1, 1, 3), "float32"), labels, [3, 1])
    assert (data.count_labelled(), data.classes()) == (1, [2])
    assert data.labelled_only().rows.tolist() == [1]
    one = TokenDataset(np.zeros((2, 1, 1, 3), "float32"), np.zeros(2, int), [0, 1])
    with pytest.raises(DataError, match="two are needed to learn from"):
        fit(SceneHead(3, 2), one, None, epochs=1, task=geowb.train.Classification)


# Judging.


@pytest.mark.parametrize("maps", [False, True])
def test_what_can_be_told_apart_is_and_noise_is_not(maps):
    made, sent = toy()
    parts = [(np.arange(40), np.arange(40, 60))]
    how = {"maps": maps, "epochs": 12, "learning_rate": 5e-3, "batch_size": 8}
    how |= {"width": 8, "head_channels": 8}
    table = judge(sent, made, parts, **how).table
    assert table.index.tolist() == made.index[40:].tolist()
    assert table.to_numpy().sum() == 20 * (256 if maps else 1)
    assert geowb.classes.drawn(table, score="accuracy")[0] > 0.95
    noise = sending.Sent("noise", "", RNG.normal(size=(60, 4, 4, 16)).astype("float32"), *[0] * 3)
    assert geowb.classes.drawn(judge(noise, made, parts, **how).table, score="accuracy")[0] < 0.75


def test_judging_repeats_and_follows_its_seed():
    made, sent = toy(spread=2.0)
    parts = made.folds(3, seed=0)
    how = {"epochs": 2, "learning_rate": 1e-3}
    first = judge(sent, made, parts, **how).table
    assert first.sum().sum() == 60
    torch.manual_seed(99)  # what was drawn before does not count
    assert first.equals(judge(sent, made, parts, **how).table)
    assert not first.equals(judge(sent, made, parts, seed=1, **how).table)
    twice = judge(sent, made, made.folds(3, repeats=2, seed=0), **how).table
    assert twice.sum(axis=1).tolist() == [2] * 60
    assert ((twice - first) >= 0).all(axis=None)


def test_averages_are_those_of_all_that_was_trained_on():
    made, sent = toy(count=96, spread=1.0)
    train = np.arange(80)  # ordered by nothing that the averages may depend on
    head = judge(sent, made, [(train, np.arange(80, 96))], epochs=1, batch_size=8).head
    seen = sent.tokens[train].reshape(-1, 16)
    assert head.norm.running_mean.numpy() == pytest.approx(seen.mean(0), abs=1e-4)
    assert head.norm.running_var.numpy() == pytest.approx(seen.var(0, ddof=1), rel=0.02)


def test_what_a_head_was_trained_on_is_let_go():
    made, sent = toy()
    sent = replace(sent, tokens=sent.tokens + 1)
    gc.disable()  # not by the collector, which comes late
    try:
        held = weakref.ref(sent.tokens)
        found = judge(sent, made, [(np.arange(40), np.arange(40, 60))], epochs=1)
        del sent
        assert held() is None
        assert len(found.table) == 20
    finally:
        gc.enable()


def test_a_split_without_images_to_test_is_told():
    made, sent = toy()
    with pytest.raises(DataError, match="no image to test a head on, and 60 to train"):
        judge(sent, made, [(np.arange(60), np.arange(0))], epochs=1)


def test_an_embedding_is_mapped_window_by_window():
    head = MapHead(5, 3, size=32, width=4, head=4).eval()
    values = RNG.normal(size=(1, 12, 16, 5)).astype("float32")
    values[0, 0, 0] = np.nan
    coords = {"y": 1000.0 - 40 * np.arange(12), "x": 40.0 * np.arange(16)}
    cube = xr.DataArray(values, dims=("time", "y", "x", "channel"), coords=coords)
    made = map_embedding(head, cube.rio.write_crs(32723), tokens=8, unit=4)
    assert made.shape == (48, 64)
    assert (made.values[:4, :4] == -1).all()
    assert (made.values == -1).sum() == 16
    # Pixels lie where they lay: the first token's centre is that of its 4 x 4 pixels.
    assert float(made.y[:4].mean()) == 1000.0
    assert float(made.x[:4].mean()) == 0.0
    assert float(made.x[1] - made.x[0]) == 10.0
    window = torch.from_numpy(values[:, 4:12, 8:16])
    assert np.array_equal(made.values[16:, 32:], head(window).argmax(1)[0].numpy())
    with pytest.raises(DataError, match="a window has 20"):
        map_embedding(head, cube, tokens=20, unit=4)
    with pytest.raises(DataError, match=r"no coordinates x and y.*turned"):
        map_embedding(head, cube.drop_vars(("x", "y")), tokens=8, unit=4)


def test_a_chunk_is_decoded_once_for_a_row_of_windows(tmp_path, monkeypatch):
    tables = Tables.fit(RNG.normal(size=(100, 5)))
    values = RNG.normal(size=(1, 16, 64, 5)).astype("float32")
    coords = {"y": -40.0 * np.arange(16), "x": 40.0 * np.arange(64)}
    cube = xr.Dataset({"embedding": (("time", "y", "x", "channel"), values)}, coords)
    coded_by = {"serializer": FactorizedPriorCodec(tables), "compressors": (), "filters": ()}
    cube["embedding"].encoding.update(coded_by | {"chunks": (1, 16, 32, 5)})
    cube.to_zarr(tmp_path / "a.zarr", zarr_format=3, consolidated=False)
    decoded, real = [], Tables.decode
    monkeypatch.setattr(
        Tables, "decode", lambda self, *a, **k: decoded.append(1) or real(self, *a, **k)
    )
    head = MapHead(5, 3, size=32, width=4, head=4).eval()
    map_embedding(head, open_embeddings(tmp_path / "a.zarr"), tokens=8, unit=4)
    assert len(decoded) == 2 * 2  # two chunks, two rows of eight windows


def test_operations_are_counted_as_by_hand(base):
    convolution = torch.nn.Conv2d(3, 8, 3, padding=1)
    assert operations(convolution, torch.zeros(1, 3, 10, 10)) == 2 * 8 * 3 * 9 * 100
    whole = operations(base.embed, torch.zeros(1, 3, 1, 128, 128))
    # A block of D channels and N tokens: 12 D^2 N in its layers, 2 N^2 D in its attention.
    d, n = 192, 257
    blocks = 6 * 2 * (12 * d * d * n + 2 * n * n * d)
    patches = 2 * 256 * d * 3 * 64
    assert whole == pytest.approx(blocks + patches, rel=0.01)


# The trade-off.


def test_gains_are_the_area_between_two_curves():
    # Two lines over the logarithm of the size: 10 points apart, then as far as 20.
    assert tradeoff.gain([1, 100], [60, 80], [1, 100], [50, 70]) == pytest.approx(10)
    assert tradeoff.gain([100, 1], [80, 60], [1, 100], [50, 60]) == pytest.approx(15)
    assert tradeoff.gain([10, 1000], [70, 70], [1, 100], [0, 20]) == pytest.approx(55)
    both = tradeoff.gain([1, 4], [[1, 2], [3, 4]], [1, 4], [[0, 0], [0, 0]])
    assert both == pytest.approx([2, 3])
    assert np.isnan(tradeoff.gain([1, 2], [1, 1], [3, 4], [1, 1]))
    assert np.isnan(tradeoff.gain([1], [1], [1], [1]))
    with pytest.raises(RequestError, match="above 0"):
        tradeoff.gain([0, 1], [1, 1], [1, 2], [1, 1])


def test_a_budget_takes_the_largest_and_not_the_best():
    points = pd.DataFrame({"size": [10.0, 50.0, 99.0, 101.0], "score": [90, 95, 80, 99]})
    assert tradeoff.within(points, 100)["score"] == 80
    assert tradeoff.within(points, 9) is None


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [(-1, 1, "holds"), (-1, 1.01, "cannot tell"), (1.01, 3, "does not hold"), (1, 1, "holds")],
)
def test_verdicts_look_at_the_whole_interval(low, high, says):
    assert tradeoff.verdict(low, high, at_most=1) == says


def test_results_are_paired():
    right = np.array([[1, 0, 0, 0], [0, 0, 0, 1]] * 50)
    wrong = np.array([[0, 1, 0, 0], [0, 0, 1, 0]] * 50)
    index = pd.MultiIndex.from_product([["a", "b"], range(50)])
    good, half = right.copy(), right.copy()
    half[:50] = wrong[:50]
    results = tradeoff.Results(raw=1000, zstd=500.0, repeats=200)
    tokens = np.zeros((100, 2, 2, 4), "float32")
    for name, size, table in (("full", 500, good), ("nec", 40, good), ("nec", 4, half)):
        sizes = np.full(100, size)
        sent = sending.Sent(name, f"{size}", tokens, sizes, 0, {})
        results.add("classes", name, sent, pd.DataFrame(table, index=index))
    assert results.lost("classes", "nec", "40") == (0, 0, 0)  # the same images are right
    lost, low, high = results.lost("classes", "nec", "4")
    assert (lost, low, high) == (50, 50, 50)  # all of scene a, whichever are drawn
    points = results.of("classes", "nec").set_index("setting")
    assert points.loc["40", ["score", "of_raw", "of_zstd"]].tolist() == [100, 4, 8]
    assert points.loc["40", "bits_per_element"] == 20
    assert points.loc["4", "miou"] == pytest.approx(100 / 3)
    table = results.at_budgets("classes", {"a": 450.0, "b": 4.5}, {"a": 1.0, "b": 1.0})
    assert table[["budget", "setting", "verdict"]].to_numpy().tolist() == [
        ["a", "40", "holds"],
        ["b", "4", "does not hold"],
    ]
    assert np.isnan(results.gain("classes", "nec", "jpeg2000")[0])
    assert results.gain("classes", "nec", "nec")[0] == 0


def test_what_is_right_or_wrong_together_is_drawn_together():
    right, wrong = [1, 0, 0, 0], [0, 1, 0, 0]
    rows = [right if scene % 3 else wrong for scene in range(12) for _ in range(16)]
    names = [(f"scene {scene}", f"{place}") for scene in range(12) for place in range(16)]
    samples = [("set", f"{scene}") for scene in range(12) for _ in range(16)]
    sent = sending.Sent("full", "zstd", np.zeros((192, 1, 1, 4), "float32"), np.full(192, 9), 0, {})
    widths = {}
    for kind, index, by_scene in (
        ("images", names, False), ("scenes", names, True), ("samples", samples, False)
    ):  # fmt: skip
        results = tradeoff.Results(raw=1000, zstd=9.0, by_scene=by_scene, repeats=4000)
        results.add("classes", "full", sent, pd.DataFrame(rows, pd.MultiIndex.from_tuples(index)))
        point = results.of("classes").iloc[0]
        assert point["score"] == pytest.approx(100 * 8 / 12)
        widths[kind] = (point["low"], point["high"])
    # Twelve of two kinds, drawn twelve times: binomial, 12 draws of 8 in 12.
    drawn = np.random.default_rng(5).binomial(12, 8 / 12, 100_000) / 0.12
    assert widths["scenes"] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.1)
    assert widths["samples"] == widths["scenes"]
    assert widths["images"] == (pytest.approx(66.7, abs=0.1),) * 2  # no scene is of both kinds
    # Of five scenes images are drawn, as if by_scene were not asked for.
    five, six = (
        pd.DataFrame([right, wrong] * 30, pd.MultiIndex.from_product([list(names), range(count)]))
        for names, count in (("abcde", 12), ("abcdef", 10))
    )
    found = []
    for by_scene in (True, False):
        results = tradeoff.Results(raw=1000, zstd=9.0, by_scene=by_scene)
        results.add("classes", "full", sent, five)
        found.append(results.of("classes")[["low", "high"]].iloc[0].tolist())
        results.add("classes", "nec", replace(sent, method="nec"), five)
        (says,) = results.at_budgets("classes", {"a": 10.0}, {"a": 1.0})["verdict"]
        assert says == ("cannot tell" if by_scene else "holds")
    assert found[0] == found[1]
    assert 30 < found[0][0] < 45 < 55 < found[0][1] < 70
    results = tradeoff.Results(raw=1000, zstd=9.0, by_scene=True)
    for method in ("full", "nec"):
        results.add("classes", method, replace(sent, method=method), six)
    assert results.at_budgets("classes", {"a": 10.0}, {"a": 1.0})["verdict"].tolist() == ["holds"]
    with pytest.raises(RequestError, match="two operating points 'zstd' of nec"):
        results.add("classes", "nec", replace(sent, method="nec"), six)


def test_budgets_that_nothing_fits_are_an_empty_table():
    results = tradeoff.Results(raw=1000, zstd=9.0, repeats=10)
    sent = sending.Sent("full", "zstd", np.zeros((3, 1, 1, 4), "float32"), np.full(3, 9), 0, {})
    index = pd.MultiIndex.from_tuples([("a", "0"), ("b", "0"), ("c", "0")])
    for name in ("full", "nec"):
        table = pd.DataFrame([[1, 0, 0, 0]] * 3, index)
        results.add("classes", name, replace(sent, method=name), table)
    found = results.at_budgets("classes", {"a": 3.0}, {"a": 1.0})
    assert len(found) == 0
    assert {"method", "budget", "verdict"} <= set(found)


def test_published_points_are_those_that_were_read_off():
    points = tradeoff.published("ucmerced").set_index(["method", "kib"]).score
    assert points["nec_decoder", 0.47] == 94.0
    assert points["nec", 0.47] == 64.0
    assert points["jpeg2000", 3.31] == 98.3
    # 99.7 % less than 192 KiB; bits an element of 257 tokens with 768 channels.
    assert round(100 * (1 - 0.47 / 192), 1) == 99.8
    assert round(0.47 * 8192 / (257 * 768), 2) == 0.02
    with pytest.raises(RequestError, match="no points on 'world'"):
        tradeoff.published("world")


# The codecs that ship.


@pytest.mark.parametrize("folder", codec_folders("mae_demo"), ids=lambda folder: folder.name)
def test_shipped_codecs_are_small_adapted_as_said_and_exact(folder, base, places):
    codec = load_codec(f"mae_demo/{folder.name}")
    card = codec.card
    steps = card["iterations"]
    assert steps["adapting"] <= 0.025 * steps["pretraining"]
    share = codec.model.trained()
    assert card["parameters"] == {"trained": share.trained, "all": share.all}
    assert sum(file.stat().st_size for file in folder.iterdir()) < 1.6e6
    assert {file.name for file in folder.iterdir()} == {
        "codec.json",
        "codec.safetensors",
        "tables.bin",
    }
    on_chips = card["on_training_chips"]
    assert on_chips["error"] < 1.4 * on_chips["error_before"]
    images = sending.Images.of(places.images[:2], base)
    sent = sending.by_codec(codec, images)
    values, _ = sending.embedded(codec.model, images)
    assert np.array_equal(sent.tokens, codec.tables.quantise(values))
    assert sent.shared == (folder / "tables.bin").stat().st_size
    for value, size in zip(values, sent.sizes, strict=True):
        assert size * 8 <= codec.tables.information(value) * 1.001 + 16 * 8


def test_tables_counted_anew_make_other_images_smaller(base, places):
    codec = load_codec("mae_demo/lambda-20")
    rng = np.random.default_rng(5)
    photographs = rng.integers(0, 255, (24, 3, 16, 16)).repeat(8, 2).repeat(8, 3)
    images = sending.Images.of(photographs, base)
    before, rows = sending.by_codec(codec, images), range(16)
    codec = sending.recounted(codec, images, rows)
    after = sending.by_codec(codec, images)
    assert after.sizes[16:].mean() < 0.8 * before.sizes[16:].mean()  # of those not counted
    assert after.shared == len(codec.tables.to_bytes())
    values, _ = sending.embedded(codec.model, images)
    off = np.abs(after.tokens - values) / codec.tables.steps
    assert off.max() < 0.5001
    assert np.abs(codec.tables.medians - np.median(values[:16], (0, 1, 2))).max() < 1e-5


def test_sizes_that_differ_have_names_that_do():
    named = {size: sending._named(size) for size in (286, 290, 1228, 5120, 13_312)}
    told = ["0.28 KiB", "0.2832 KiB", "1.20 KiB", "5.00 KiB", "13.00 KiB"]
    assert list(named.values()) == told


def test_what_receives_images_encodes_those_that_arrived(base, places):
    images = sending.Images.of(places.images[:4], base)
    whole, _ = sending.embedded(base, images)
    assert np.array_equal(sending.lossless(base, images).tokens, whole)
    sent = sending.by_jpeg2000(base, images, 400)
    quality = min(quality_for(image, 400) for image in images.pixels)
    arrived = np.stack([from_jpeg2000(coded(image, quality)) for image in images.pixels])
    seen, _ = sending.embedded(base, sending.Images(arrived, images.gain, images.offset))
    assert np.array_equal(sent.tokens, seen)
    assert np.abs(sent.tokens - whole).max() > 0.01
    assert sent.sizes.max() <= 400


def test_a_larger_lambda_costs_more_and_loses_less():
    cards = [load_codec(folder).card["on_training_chips"] for folder in codec_folders("mae_demo")]
    bits = [card["bits_per_element"] for card in cards]
    errors = [card["error"] for card in cards]
    assert bits == sorted(bits)
    assert errors == sorted(errors, reverse=True)


def test_codecs_are_found_by_name_and_what_is_not_there_is_told():
    assert [f.name for f in codec_folders("mae_demo", [100, 1.7])] == ["lambda-1.7", "lambda-100"]
    with pytest.raises(RequestError, match="has no codec of lambda 7; it has those of"):
        codec_folders("mae_demo", [7])
    with pytest.raises(RequestError, match="whose codecs come with geowb \\(mae_demo\\)"):
        codec_folders("swin_demo")
    with pytest.raises(RequestError, match=r"There is no codec in mae_demo/lambda-3.*/lambda-1.7"):
        read_card("mae_demo/lambda-3")


def test_codecs_of_a_study_are_of_its_encoder(tmp_path):
    said = open_base("mae_demo")[1]
    found = load_codecs("mae_demo", [100, 1.7], said)
    assert list(found) == ["lambda 1.7", "lambda 100"]
    assert found["lambda 100"].card["lambda"] == 100
    with pytest.raises(WeightsMismatch, match="of another encoder than 'mae_demo'"):
        load_codecs("mae_demo", [1.7], {**said, "sha256": "0" * 64})
    for name in ("one", "two"):
        shutil.copytree(codec_folders("mae_demo", [4])[0], tmp_path / name)
    with pytest.raises(RequestError, match="are codecs of one lambda"):
        codec_folders(tmp_path)
    # A folder of any name, and no folder of that name within it.
    assert load_codec(tmp_path / "one").setting == "lambda 4"
    with pytest.raises(RequestError, match=r"There is no codec in .*lambda-99"):
        load_codec(tmp_path / "one" / "lambda-99")
    with pytest.raises(ModelError, match=r"There is no weights file gone\.pth"):
        load_codec(tmp_path / "one", weights="gone.pth")


def test_an_image_is_seen_again_from_its_embedding(base, places):
    images = sending.Images.of(places.images[:3], base)
    tokens, _ = sending.embedded(base, images)
    made = base.reconstruct(torch.from_numpy(tokens)[:, None])[:, :, 0].numpy()
    truth = images.pixels.astype(float)
    flat = truth.mean((2, 3), keepdims=True)
    assert made.shape == truth.shape
    assert ((made - truth) ** 2).mean() < 0.9 * ((flat - truth) ** 2).mean()
    other = base.reconstruct(torch.from_numpy(tokens[[1, 2, 0]])[:, None])[:, :, 0].numpy()
    assert np.allclose(other[0], made[1], atol=1)  # each image for itself


def test_curves_of_many_methods_keep_their_legend_and_plain_numbers():
    names = [f"{way}{end}" for way in list(WAYS)[:6] for end in ("", "_decoder")]
    rows = [(name, kib, 80.0, 79.0, 81.0) for name in names for kib in (0.3, 0.9)]
    points = pd.DataFrame(rows, columns=["method", "kib", "score", "low", "high"])
    drawn = holoviews().renderer("matplotlib").get_plot(curves(points)).state
    drawn.canvas.draw()
    axes = drawn.axes[0]
    assert len(axes.get_legend().get_texts()) == len(names)
    numbers = [one.get_text() for one in axes.get_xticklabels(which="both")]
    assert {"0.5", "1"} <= set(numbers)
    assert not any("10^" in one or "times" in one for one in numbers)


def test_pictures_of_all_rates_are_drawn(base, places):
    codecs = [load_codec(folder) for folder in codec_folders("mae_demo", [1.7, 100])]
    drawn = at_each_rate(sending.Images.of(places.images[:1], base), base, codecs)
    assert len(drawn) == 12
    shown = [holoviews().Store.lookup_options("matplotlib", one, "plot") for one in drawn]
    sizes = [float(one.kwargs["title"].split()[0]) for one in shown[2:4]]
    assert sizes[0] > sizes[1]  # the largest first
    maps = RNG.normal(size=(4, 4, 8))
    reference = principal_colours(maps, maps)
    turned = principal_colours(maps, maps, 1 - reference)
    assert np.allclose(turned, 1 - reference)


# The notebook.

TINY = {
    **{"regions": ["cerrado"], "worlds": 3, "lambdas": [1.7], "epochs": 1, "map_epochs": 1},
    **{"map_images": 8, "adapter_channels": 8, "head_channels": 8, "roundings": []},
}


def metrics(result):
    found = json.loads((result.path / "metrics.json").read_text())
    return {name: one["value"] for name, one in found.items()}


def test_the_study_runs_and_leaves_its_metrics_pictures_and_store(tmp_path):
    asked = {**TINY, "map_heads": ["decoder"]}
    result = run_study("nec_tradeoff", asked, out=tmp_path, progress=False)
    values = metrics(result)
    for name in ("accuracy/full/all", "accuracy/nec_decoder/zstd-75", "accuracy/jpeg2000/raw-99.7"):
        assert 0 <= values[name] <= 100
    assert 0 <= values["overall_accuracy/nec_decoder/zstd-75"] <= 100
    assert values["trainable/nec"] / values["parameters/autoencoder"] == pytest.approx(0.216, 0.01)
    assert values["iterations/nec"] / values["iterations/pretraining"] == 0.025
    pictures = {file.name for file in (result.path / "figures").iterdir()}
    assert {"data.png", "classes.png", "maps.png", "rates.png", "store.png"} <= pictures
    store = geowb.nec.open_embeddings(result.path / "scene.zarr")
    assert store.sizes == {"time": 1, "y": 64, "x": 64, "channel": 192}


def test_real_photographs_run_by_cross_validation(tmp_path):
    if geowb.open_catalog()["ucmerced_subset"].status() != "here":
        pytest.skip("the real test chips are not here")
    asked = {**TINY, "regions": [], "data": "ucmerced_subset", "folds": 2, "chip_size": 64}
    asked |= {"with_decoder": [], "jpeg_kib": [1.0], "recount": True}
    result = run_study("nec_tradeoff", asked, out=tmp_path, progress=False)
    values = metrics(result)
    assert 0 <= values["accuracy/full/all"] <= 100
    assert not any(name.startswith("overall") for name in values)


def test_worlds_that_an_encoder_has_seen_are_refused_and_no_others(tmp_path):
    how = {"worlds": 4, "data": "world_places", "model": "mae_demo"}
    assert [bool(check_worlds(seed, **how)) for seed in (74, 75, 84, 85)] == [0, 1, 1, 0]
    assert check_worlds(75, **how | {"data": "ucmerced"}) == []
    # Codecs that were made of other worlds than their encoder.
    codec = shutil.copytree(codec_folders("mae_demo")[0], tmp_path / "lambda-1")
    card = json.loads((codec / "codec.json").read_text())
    card["sampling"]["seeds"] = [7]
    (codec / "codec.json").write_text(json.dumps(card))
    (told,) = check_worlds(1, **how, codecs=str(tmp_path))
    assert "the worlds 4 to 7, of which the codec in" in told
    assert check_worlds(2, **how, codecs=str(tmp_path)) == []
    card["sampling"]["data"] = "ucmerced"  # their seeds are no worlds
    (codec / "codec.json").write_text(json.dumps(card))
    assert check_worlds(1, **how, codecs=str(tmp_path)) == []


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"data": "world_place"}, "world_place"),
        ({"regions": ["sahara"]}, "sahara"),
        ({"with_decoder": ["jpeg2000"]}, "with_decoder"),
        ({"worlds": 2}, "worlds=2 is below the smallest value allowed, 3"),
        ({"least": 0.0}, "least=0.0 is not above 0"),
        ({"bits": [17]}, "bits=17"),
        ({"lambdas": [7.0]}, "mae_demo has no codec of lambda 7; it has those of 1, 1.7, 4"),
        ({"encoder": "mae_vit_b16"}, "There are no codecs in 'mae_vit_b16'"),
        ({"codecs": "nowhere"}, "There are no codecs in 'nowhere'"),
        ({"weights": "nowhere.pth"}, "There is no weights file nowhere.pth"),
        ({"seed": 12, "worlds": 24}, "worlds 288 to 311, of which mae_demo was trained on 12"),
        ({"seed": 84}, "worlds 336 to 339, of which mae_demo was trained on 4"),
    ],
)
def test_wrong_requests_are_refused_before_anything_starts(asked, told):
    with pytest.raises(RequestError, match="was not started") as error:
        preflight("nec_tradeoff", asked)
    assert told in str(error.value)
