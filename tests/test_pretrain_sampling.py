"""Which chips there are, and which are drawn."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.transform import from_origin

from geowb.catalog import open_catalog
from geowb.errors import DataError, RequestError
from geowb.pretrain import Sampling, draw, survey
from geowb.tasks import each

WORLD = """\
small:
  placeholders: {region: [cerrado, amazonia]}
  driver:
    name: world
    options: {region: "{region}", size: 128, dates: 5, start: 2022-03-01, every: 40}
"""
BANDS = ("RED", "NIR_NARROW")


def catalog(folder: Path, text: str = WORLD) -> str:
    (folder / "catalog.yaml").write_text(text, encoding="utf-8")
    return str(folder / "catalog.yaml")


def tif(path: Path, data: np.ndarray, *, nodata: float | None = None, crs: int = 32622) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = data if data.ndim == 3 else data[None]
    where = from_origin(500_000, 9_000_000, 30, 30)
    count, height, width = data.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=data.dtype,
        crs=crs, transform=where, nodata=nodata,
    ) as file:  # fmt: skip
        file.write(data)


RASTERS = """\
dated:
  uri: "{place}.tif"
  placeholders: {place: [north, south]}
  driver:
    name: raster
    options:
      bands: [RED, NIR_NARROW]
      frames: 4
      dates: [2022-01-15, 2022-04-15, 2022-07-15, 2022-10-15]
      labels:
        landcover: {uri: cover.tif, nodata: 255, classes: [wood, open land]}
  metadata: {nodata: -9999}
"""


def rasters(folder: Path) -> str:
    """Two scenes of 40 x 24 pixels; of the second, the first date has data in the west only."""
    rng = np.random.default_rng(0)
    for place in ("north", "south"):
        data = rng.integers(1, 3000, (8, 40, 24)).astype("int16")
        if place == "south":
            data[1, :, 8:] = -9999  # one band is enough
        tif(folder / f"{place}.tif", data)
    cover = np.zeros((40, 24), "uint8")
    cover[:, 8:], cover[16:, 16:] = 1, 255
    tif(folder / "cover.tif", cover)
    return catalog(folder, RASTERS)


SAMPLES = """\
set:
  uri: images
  driver: {name: chips, options: {images: "{sample}.tif", bands: [RED, NIR_NARROW]}}
  metadata: {crs: none, nodata: 0}
"""


def samples(folder: Path, count: int = 5) -> str:
    for i in range(count):
        data = np.full((2, 20, 20), i + 1, "int16")
        if i == 1:
            data[0, :10, :10] = 0
        tif(folder / "images" / f"{i}.tif", data)
    return catalog(folder, SAMPLES)


# --- candidates ---------------------------------------------------------------------------------


def test_a_world_gives_clear_chips_with_their_dates(tmp_path: Path) -> None:
    wanted = Sampling("small", catalog(tmp_path), seeds=[2, 0], size=32, frames=2, min_clear=0.8)
    table = survey(wanted, workers=1, progress=False)
    assert table.attrs["windows"] == 4 * 16
    assert set(table["scene"]) == {
        f"region={region},seed={seed}" for region in ("amazonia", "cerrado") for seed in (0, 2)
    }
    for _, chips in table.groupby(["scene", "y", "x"]):
        dates = [date for group in chips["dates"] for date in group]
        assert len(set(dates)) == len(dates)  # groups have no date in common
    scenes = {key: wanted.source().open(**how) for key, how in list(wanted.scenes().items())[::3]}
    shown = table[table["scene"].isin(list(scenes))].iloc[::5]
    for _, chip in shown.iterrows():
        scene = scenes[chip["scene"]]
        at = {"y": slice(chip["y"], chip["y"] + 32), "x": slice(chip["x"], chip["x"] + 32)}
        window = scene.isel(time=list(chip["dates"]), **at)
        clear = ((window["fmask"].values & 0b11110) == 0).mean((1, 2))
        assert (clear >= 0.8).all()
        assert chip["clear"] == pytest.approx(clear.mean(), abs=1e-6)
        assert list(chip["dates"]) == sorted(chip["dates"])
        assert window["time"].values.astype("M8[s]").astype(str).tolist() == list(chip["times"])
        assert (chip["east"], chip["north"]) == (window["x"].mean(), window["y"].mean())
        classes = np.unique(window["landcover"], return_counts=True)
        names = scene["landcover"].attrs["flag_meanings"].split()
        assert chip["landcover"] == names[classes[0][classes[1].argmax()]]
        month = window["time"].dt.season.values[1]
        assert chip["stratum"] == f"{chip['selection']}/{chip['landcover']}/{month}"


def test_every_clear_date_is_used_once_as_far_as_groups_can_be_filled(tmp_path: Path) -> None:
    wanted = Sampling("dated", rasters(tmp_path), size=8, frames=2, bands=BANDS, min_clear=1)
    table = survey(wanted, workers=1, progress=False)
    groups = table.groupby(["scene", "y", "x"])["dates"].apply(lambda g: sum(g, ()))
    for (scene, _, x), dates in groups.items():
        assert len(dates) == (2 if scene == "place=south" and x >= 8 else 4)
        assert scene == "place=north" or x < 8 or 0 not in dates
    assert len(groups) == 2 * 5 * 3
    assert table["crs"].unique().tolist() == ["EPSG:32622"]
    assert (table["east"].iloc[0], table["north"].iloc[0]) == (500_120, 8_999_880)
    assert table["lon"].between(-51.1, -50.9).all()
    cover = table.groupby(["y", "x"])["landcover"].first()
    assert (cover[0, 0], cover[8, 16]) == ("wood", "open_land")
    assert cover[16, 16] == "unlabelled"
    orders = {tuple(d) for _, d in table[table.scene == "place=north"].groupby(["y", "x"])["dates"]}
    assert len(orders) > 1  # not the same pairs everywhere
    assert not any(table.attrs["notes"])


@pytest.mark.parametrize("kind", ["quantity", "classes"])
def test_which_bits_of_fmask_are_not_clear(tmp_path: Path, kind: str) -> None:
    bits = [1 << bit for bit in range(8)] + [0, 255]
    tif(tmp_path / "image.tif", np.ones((2, 8, 80), "int16"))
    tif(
        tmp_path / "fmask.tif", np.repeat(np.array(bits, "uint8"), 8)[None].repeat(8, 0), nodata=255
    )
    text = f"""\
one:
  uri: image.tif
  driver:
    name: raster
    options:
      bands: [RED, NIR_NARROW]
      labels:
        fmask: {{uri: fmask.tif, kind: {kind}}}
"""
    path = catalog(tmp_path, text)
    wanted = Sampling("one", path, size=8, frames=1, bands=BANDS)
    table = survey(wanted, workers=1, progress=False)
    assert [bits[x // 8] for x in table["x"]] == [1, 32, 64, 128, 0]


def test_windows_at_an_edge_are_whole(tmp_path: Path) -> None:
    wanted = Sampling("dated", rasters(tmp_path), size=16, frames=1, bands=BANDS)
    table = survey(wanted, workers=1, progress=False)
    assert set(zip(table["y"], table["x"], strict=True)) == {(0, 0), (16, 0)}


def test_a_set_of_images_is_single_dates_without_a_time(tmp_path: Path) -> None:
    path = samples(tmp_path)
    table = survey(Sampling("set", path, size=10, frames=1, bands=BANDS), workers=1, progress=False)
    assert table.groupby("sample").size().tolist() == [4, 3, 4, 4, 4]
    assert table["times"].unique().tolist() == [("NaT",)]
    assert table["stratum"].unique().tolist() == ["all"]
    assert "offers no selection and no landcover and no season" in table.attrs["notes"][0]
    pairs = survey(Sampling("set", path, size=10, bands=BANDS), workers=1, progress=False)
    with pytest.raises(DataError, match="at most 1 of their dates are clear, wanted are 3"):
        draw(pairs, 4)


def test_the_order_of_selections_and_seeds_does_not_matter(tmp_path: Path) -> None:
    path = catalog(tmp_path)
    wanted = Sampling("small", path, {"region": ["cerrado", "amazonia"]}, (0, 1))
    turned = Sampling("small", path, {"region": ["amazonia", "cerrado"]}, (1, 0))
    assert list(wanted.scenes().items()) == list(turned.scenes().items())


def test_a_scene_without_a_clear_chip_changes_no_types(tmp_path: Path) -> None:
    wanted = Sampling("dated", rasters(tmp_path), size=8, frames=2, bands=BANDS)
    usual = survey(wanted, workers=1, progress=False)
    tif(tmp_path / "north.tif", np.full((8, 40, 24), -9999, "int16"))
    found = survey(wanted, workers=1, progress=False)
    there = usual[usual["scene"] == "place=south"].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, there)
    assert found.attrs["windows"] == usual.attrs["windows"] == 30


def test_stac_scenes_are_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pystac_client
    from test_catalog_read import BBOX, STAC, item

    items = [
        item(tmp_path, "s", "S30", "B8A", 9, 10, 300), item(tmp_path, "l", "L30", "B05", 3, 40, 100)
    ]  # fmt: skip

    class Client:
        def search(self, **query: object) -> Client:
            return self

        def items(self) -> object:
            return iter(items)

    monkeypatch.setattr(pystac_client.Client, "open", lambda url: Client())
    path = catalog(tmp_path, "hls:\n" + STAC.replace("URL", "https://example.org/stac"))
    place = {"bbox": [BBOX], "datetime": ["2022-07"]}
    wanted = Sampling("hls", path, place, size=8, frames=2, bands=BANDS)
    table = survey(wanted, workers=1, progress=False)
    assert table["dates"].unique().tolist() == [(0, 1)]
    assert table["season"].unique().tolist() == ["JJA"]
    assert table["x"].min() == 8  # the first 200 m have no image: Fmask is fill there
    with pytest.raises(RequestError, match="needs a value for 'datetime'"):
        survey(Sampling("hls", path, {"bbox": [BBOX]}, bands=BANDS), progress=False)


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ({"size": 4}, RequestError, "size: 4 is not a whole number of at least 8"),
        ({"seeds": [0, -1]}, RequestError, "seeds: -1"),
        ({"seeds": []}, RequestError, "seeds is empty"),
        ({"bands": ["RED", "RED"]}, RequestError, "bands names something twice"),
        ({"min_clear": 0}, RequestError, "min_clear=0 is not a share"),
        ({"strata": ["seasons"]}, RequestError, "Did you mean 'season'"),
        ({"selections": {"region": "cerado"}}, RequestError, "Did you mean 'cerrado'"),
        ({"data": "smal"}, RequestError, "Did you mean 'small'"),
        ({"bands": ["RED", "COASTAL"]}, DataError, "no band COASTAL. Wanted: RED, COASTAL. It has"),
        ({"size": 129}, DataError, r"129 pixels do not fit .*'region=cerrado,seed=0'.* 128 x 128"),
    ],
)
def test_what_cannot_be_sampled(tmp_path: Path, how: dict, error: type, words: str) -> None:
    values = {"data": "small", "catalog": catalog(tmp_path), "selections": {"region": ["cerrado"]}}
    with pytest.raises(error, match=words):
        survey(Sampling(**values | how), workers=1, progress=False)


def test_an_error_in_a_process_reads_as_one_here(tmp_path: Path) -> None:
    wanted = Sampling("dated", rasters(tmp_path), size=8, bands=["COASTAL"])
    with pytest.raises(DataError, match="no band COASTAL") as caught:
        survey(wanted, workers=2, progress=False)
    assert "Traceback" not in str(caught.value)


def test_workers_that_end_by_themselves_are_told() -> None:
    import dask
    from distributed import LocalCluster

    how = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": ""}
    once = dask.config.set({"distributed.scheduler.allowed-failures": 0})
    with once, LocalCluster(**how) as cluster:
        where = {"title": "Survey", "scheduler": cluster.scheduler_address, "progress": False}
        with pytest.raises(DataError, match=r"Survey: given up on .* end at one and the same"):
            each(os._exit, [(3,)], **where)


def test_a_process_without_tblib_adds_nothing_to_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from dask.multiprocessing import remote_exception

    from geowb import tasks

    def fail(*_: object) -> None:
        raise remote_exception(DataError("no band"), "Traceback of another process")

    monkeypatch.setattr(tasks, "_here", fail)
    with pytest.raises(DataError, match=r"^no band$"):
        tasks.each(print, [()], title="x", progress=False)


def test_a_sampling_is_plain_values() -> None:
    import json

    wanted = Sampling("world", selections={"region": ["cerrado"]}, seeds=np.arange(2))
    again = Sampling(**json.loads(json.dumps(wanted.to_dict())))
    assert again == wanted
    assert again.to_dict() == wanted.to_dict()


def test_a_year_of_the_world() -> None:
    catalog = open_catalog()
    year = catalog["world_year"].open(region="cerrado", seed=3)
    assert year.sizes["time"] == 6
    assert set(year["time"].dt.season.values) == {"DJF", "MAM", "JJA", "SON"}
    usual = catalog["world"].open(region="cerrado", seed=3)
    np.testing.assert_array_equal(year["agb_dense"], usual["agb_dense"])  # the same places
    assert str(usual["time"].values[0])[:7] in ("2022-04", "2022-05")


# --- the draw -----------------------------------------------------------------------------------


def table(counts: dict[str, int]) -> pd.DataFrame:
    names = [name for name, n in counts.items() for _ in range(n)]
    rows = [(f"s{k % 3}", -1, k, 0, (0,), name) for k, name in enumerate(names)]
    return pd.DataFrame(rows, columns=["scene", "sample", "y", "x", "dates", "stratum"])


counts = st.dictionaries(st.text("abc/", min_size=1, max_size=4), st.integers(1, 30), min_size=1)


@settings(max_examples=40)
@given(counts, st.integers(1, 150), st.integers(0, 3))
def test_strata_are_filled_like_water(counts: dict[str, int], count: int, seed: int) -> None:
    there = table(counts)
    chosen, report = draw(there, count, seed)
    report = report.set_index("stratum")
    assert report["available"].to_dict() == counts
    assert report["taken"].to_dict() == chosen["stratum"].value_counts().to_dict() | {
        name: 0 for name, n in report["taken"].items() if n == 0
    }
    assert len(chosen) == min(count, len(there))
    assert (report["taken"] <= report["available"]).all()
    whole = report["taken"] == report["available"]
    if (~whole).any():  # none of them has more than one above another that could give more
        assert report["taken"].max() - report["taken"][~whole].min() <= 1
    assert report["wanted"].sum() == count
    assert report["wanted"].max() - report["wanted"].min() <= 1
    assert (report["short"] == np.maximum(report["wanted"] - report["available"], 0)).all()
    assert not chosen.duplicated(["stratum", "y"]).any()
    assert chosen["scene"].is_monotonic_increasing  # a shard touches few scenes
    assert bool(chosen.attrs["notes"]) == (count > len(there))


@settings(max_examples=40)
@given(counts, st.integers(1, 60), st.randoms())
def test_the_draw_depends_on_seed_and_candidates_alone(counts: dict, count: int, random):
    there = table(counts)
    order = list(range(len(there)))
    random.shuffle(order)
    chosen, _ = draw(there, count, 5)
    pd.testing.assert_frame_equal(chosen, draw(there.iloc[order], count, 5)[0])
    more, _ = draw(there, count + 7, 5)
    keys = ["stratum", "y"]
    assert set(chosen[keys].itertuples(index=False)) <= set(more[keys].itertuples(index=False))


def test_another_seed_draws_other_chips() -> None:
    there = table({"a": 200, "b": 200})
    first, second = (draw(there, 40, seed)[0] for seed in (0, 1))
    assert 0 < len(set(first["y"]) & set(second["y"])) < 20


@pytest.mark.parametrize(("least", "words"), [(0.9, "90%"), (0.999, r"99\.9%")])
def test_a_source_without_a_clear_pixel_is_told(tmp_path: Path, least: float, words: str) -> None:
    path = rasters(tmp_path)
    for place in ("north", "south"):
        data = np.full((8, 40, 24), -9999, "int16")
        data[:, :4, :8] = 1
        tif(tmp_path / f"{place}.tif", data)
    wanted = Sampling("dated", path, size=8, frames=2, bands=BANDS, min_clear=least)
    there = survey(wanted, progress=False, workers=1)
    with pytest.raises(DataError, match=rf"None of 30 windows .* 50\.0% .* wanted are {words}\. L"):
        draw(there, 10)
