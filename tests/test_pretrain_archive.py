"""Archives that are cut off and go on, and streams of batches from them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from test_pretrain_sampling import BANDS, catalog, rasters, samples

from geowb.errors import DataError, RequestError
from geowb.pretrain import ChipArchive, ChipStream, Sampling, write_archive

QUIET = {"workers": 1, "progress": False}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ChipArchive:
    """36 chips of a small world in five shards, the last with four chips."""
    folder = tmp_path_factory.mktemp("made")
    wanted = Sampling(
        "small", catalog(folder), seeds=[0, 1], size=32, frames=2, count=36, min_clear=0.8
    )
    return write_archive(wanted, folder / "chips.zarr", shard=8, **QUIET)


@pytest.fixture
def own(made: ChipArchive, tmp_path: Path) -> ChipArchive:
    """A copy that a test may damage."""
    import shutil

    shutil.copytree(made.path, tmp_path / "chips.zarr")
    return ChipArchive(tmp_path / "chips.zarr")


# --- what is in it ------------------------------------------------------------------------------


def test_chips_are_those_of_the_scenes(made: ChipArchive) -> None:
    assert (len(made), made.shards, made.bands[3], made.frames) == (36, 5, "NIR_NARROW", 2)
    read = made.read(range(36))
    assert read["image"].shape == (36, 6, 2, 32, 32)
    assert read["image"].dtype == np.float32
    for key, chips in made.table.groupby("scene"):
        scene = made.sampling.source().open(**made.sampling.scenes()[key])
        for number, chip in chips.iterrows():
            at = {name: slice(chip[name], chip[name] + 32) for name in ("y", "x")}
            window = scene.isel(time=list(chip["dates"]), **at)
            image = window["reflectance"].values.swapaxes(0, 1)
            np.testing.assert_array_equal(read["image"][number], image)
            np.testing.assert_array_equal(read["fmask"][number], window["fmask"])
            np.testing.assert_array_equal(read["landcover"][number], window["landcover"])


def test_chips_come_in_the_order_that_is_asked_for(made: ChipArchive) -> None:
    whole, some = made.read(range(36)), made.read([30, 2, 30, 9])
    for name in whole:
        np.testing.assert_array_equal(some[name], whole[name][[30, 2, 30, 9]])
    assert made.read([])["image"].shape == (0, 6, 2, 32, 32)
    with pytest.raises(RequestError, match="Indices go from 0 to 35, not 0 to 36"):
        made.read([0, 36])


def test_statistics_are_of_the_clear_pixels(made: ChipArchive) -> None:
    read = made.read(range(36))
    clear = (read["fmask"] & 0b11110) == 0
    pixels = read["image"].swapaxes(0, 1)[:, clear].astype(np.float64)
    np.testing.assert_allclose(made.statistics.mean, pixels.mean(1), rtol=1e-12)
    np.testing.assert_allclose(made.statistics.std, pixels.std(1), rtol=1e-9)


def test_plain_xarray_reads_it(made: ChipArchive, recwarn: pytest.WarningsRecorder) -> None:
    group = xr.open_zarr(made.path)
    assert not [w for w in recwarn if "zarr" in str(w.category).lower()]
    assert group["reflectance"].dims == ("sample", "band", "frame", "y", "x")
    assert group["reflectance"].attrs["units"] == "1e-4"
    np.testing.assert_array_equal(group["reflectance"], made.read(range(36))["image"])
    assert group["fmask"].dtype == np.uint8
    assert group["landcover"].attrs["flag_meanings"].startswith("forest ")
    assert group.sel(band="RED").sizes["sample"] == 36
    assert group["time"].dims == ("sample", "frame")
    assert group["time"].values[5].astype("M8[s]").astype(str).tolist() == list(made.table.times[5])
    assert group["stratum"].values.tolist() == made.table["stratum"].tolist()
    for name, column in {"centre_x": "east", "row": "y", "lat": "lat"}.items():
        assert group[name].values.tolist() == made.table[column].tolist()
    attrs = group.attrs
    assert attrs["complete"] is True
    assert attrs["band_mean"] == list(made.statistics.mean)
    assert attrs["sampling"]["data"] == "small"
    assert attrs["provenance"]["world_version"]
    assert sum(row["taken"] for row in attrs["strata"]) == 36


def test_no_data_and_odd_values(tmp_path: Path) -> None:
    import rasterio

    path = rasters(tmp_path)
    with rasterio.open(tmp_path / "north.tif", "r+") as file:
        data = file.read()
        data[:, 0, 0], data[:, 0, 1] = -9999, 32767
        file.write(data)
    text = Path(path).read_text(encoding="utf-8")  # times 1.5: halves, and beyond int16
    text = text.replace(
        "  metadata:", "  data_adapter: {unit_mult: {reflectance: 1.5}}\n  metadata:"
    )
    Path(path).write_text(text, encoding="utf-8")
    wanted = Sampling(
        "dated", path, {"place": ["north"]}, size=8, frames=4, bands=BANDS[::-1], count=15
    )
    archive = write_archive(wanted, tmp_path / "a.zarr", **QUIET)
    image = archive.read([0])["image"][0]
    expected = np.rint(data.reshape(4, 2, 40, 24)[:, ::-1, :8, :8] * np.float32(1.5))
    expected = expected.swapaxes(0, 1)
    expected[..., 0, 0], expected[..., 0, 1] = np.nan, 32767
    np.testing.assert_array_equal(image, expected)
    counted = archive.statistics.source.split()[0]
    assert int(counted) == 15 * 4 * 64 - 4
    assert archive.variables == ["reflectance", "landcover"]
    assert archive.read([14])["landcover"].min() == -1
    assert set(archive.provenance["files"]) == {"north.tif", "cover.tif"}


def test_a_set_of_images(tmp_path: Path) -> None:
    wanted = Sampling("set", samples(tmp_path), size=10, frames=1, bands=BANDS, count=100)
    archive = write_archive(wanted, tmp_path / "a.zarr", shard=4, **QUIET)
    assert len(archive) == 19
    assert "100 chips were wanted, and 19 are there" in archive.notes[1]
    image = archive.read(range(19))["image"]
    np.testing.assert_array_equal(image[:, 0, 0, 0, 0], archive.table["sample"] + 1)
    assert np.isnat(archive.open()["time"].values).all()


# --- going on -----------------------------------------------------------------------------------


def shard_times(archive: ChipArchive) -> dict[str, int]:
    return {
        str(file.relative_to(archive.path)): file.stat().st_mtime_ns
        for name in archive.variables
        for file in (archive.path / name).rglob("*")
        if file.is_file() and file.name != "zarr.json"
    }


def cut(archive: ChipArchive, shard: int) -> None:
    file = archive.file("reflectance", shard)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def delete(archive: ChipArchive, shard: int) -> None:
    archive.file("landcover", shard).unlink()


def unmark(archive: ChipArchive, shard: int) -> None:
    archive.mark(shard).unlink()


def half_a_mark(archive: ChipArchive, shard: int) -> None:
    archive.mark(shard).write_text(archive.mark(shard).read_text(encoding="utf-8")[:30])


@pytest.mark.parametrize("shard", [1, 4])
@pytest.mark.parametrize("damage", [cut, delete, unmark, half_a_mark])
def test_only_what_was_cut_off_is_written_again(own: ChipArchive, damage, shard: int) -> None:
    before, content = shard_times(own), own.open().load()
    damage(own, shard)
    with pytest.raises(DataError, match=f"1 of 5 shards .* the first is {shard}"):
        ChipArchive(own.path)
    with pytest.raises(DataError, match=f"Shard {shard} "):
        own.read_shard(shard)
    with pytest.raises(DataError, match=f"Shard {shard} "):
        own.read([0, 8 * shard])
    assert ChipArchive(own.path, partial=True).broken() == [shard]
    again = write_archive(own.sampling, own.path, shard=8, **QUIET)
    after = shard_times(own)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {name for name in before if name.split("/")[2] == str(shard)}
    xr.testing.assert_identical(again.open().load(), content)


def test_an_interrupt_leaves_no_mark(own: ChipArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    from geowb.pretrain import archive

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    file, content = own.file("fmask", 2), own.open().load()
    file.write_bytes(bytes(file.stat().st_size))  # changed, of the same size
    monkeypatch.setattr(archive, "_sums", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_archive(own.sampling, own.path, shard=8, **QUIET)
    assert ChipArchive(own.path, partial=True).broken(checksums=False) == [2]
    assert xr.open_zarr(own.path).attrs["complete"] is False
    monkeypatch.undo()
    xr.testing.assert_identical(
        write_archive(own.sampling, own.path, shard=8, **QUIET).open().load(), content
    )


def test_changed_bytes_are_found_and_never_read(own: ChipArchive) -> None:
    content, file = own.open().load(), own.file("reflectance", 2)
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 3] ^= 1
    file.write_bytes(whole)
    assert ChipArchive(own.path).broken() == [2]
    with pytest.raises(DataError, match="damaged bytes"):
        own.read_shard(2)
    with pytest.raises(DataError, match="damaged bytes"):
        list(ChipStream(own, batch_size=4, steps=9))
    write_archive(own.sampling, own.path, shard=8, **QUIET)
    xr.testing.assert_identical(own.open().load(), content)


def test_a_shard_that_is_taken_away_while_it_is_read_is_told(
    own: ChipArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Taken:
        def __getitem__(self, where: object) -> np.ndarray:
            own.mark(1).unlink()  # as the call does that writes it anew
            own.file("reflectance", 1).unlink()
            return usual[where]

    usual = own.arrays()["reflectance"]
    monkeypatch.setattr(own, "arrays", lambda: {"reflectance": Taken()})
    with pytest.raises(DataError, match="Shard 1 "):
        own.read_shard(1)


def test_nothing_is_written_when_all_is_there(own: ChipArchive) -> None:
    before = {file: file.stat().st_mtime_ns for file in own.path.rglob("*")}
    write_archive(own.sampling, own.path, shard=8, **QUIET)
    assert {file: file.stat().st_mtime_ns for file in own.path.rglob("*")} == before


def test_another_sampling_is_refused(own: ChipArchive, tmp_path: Path) -> None:
    values = own.sampling.to_dict()
    with pytest.raises(RequestError, match=r"min_clear is 0\.8, not 0\.7; shard is 8, not 256"):
        write_archive(Sampling(**values | {"min_clear": 0.7}), own.path, **QUIET)
    (tmp_path / "mine").mkdir()
    with pytest.raises(RequestError, match="is no archive of chips"):
        write_archive(own.sampling, tmp_path / "mine", **QUIET)
    for name in ("table.json", "plan.json"):
        (own.path / ".geowb" / name).write_text("")
        with pytest.raises(
            DataError, match=rf"{name}' is missing or has changed: remove '.*zarr' "
        ):
            ChipArchive(own.path)
    with pytest.raises(RequestError, match="shard: 0 is not a whole number of at least 1"):
        write_archive(own.sampling, tmp_path / "b.zarr", shard=0, **QUIET)
    assert not (tmp_path / "b.zarr").exists()


def test_a_source_that_has_changed_is_refused(tmp_path: Path) -> None:
    wanted = Sampling("dated", rasters(tmp_path), size=8, frames=2, bands=BANDS, count=20)
    archive = write_archive(wanted, tmp_path / "a.zarr", shard=8, **QUIET)
    unmark(archive, 0)
    (tmp_path / "north.tif").write_bytes((tmp_path / "south.tif").read_bytes())
    with pytest.raises(RequestError, match=r"the source 'dated' has changed since \(files\)"):
        write_archive(wanted, tmp_path / "a.zarr", shard=8, **QUIET)


def test_dates_that_have_changed_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from geowb.pretrain import archive as module

    wanted = Sampling("dated", rasters(tmp_path), size=8, frames=2, bands=BANDS, count=20)
    archive = write_archive(wanted, tmp_path / "a.zarr", shard=32, **QUIET)
    unmark(archive, 0)
    usual = module.open_scene
    for now in ([1, 2, 3], [3, 0, 1, 2]):
        with monkeypatch.context() as patch:  # as of a search in a catalog that has moved on
            patch.setattr(module, "open_scene", lambda *how, to=now: usual(*how).isel(time=to))
            with pytest.raises(DataError, match=r"'place=north' were \('2022-.* has changed"):
                write_archive(wanted, archive.path, shard=32, **QUIET)
    assert archive.broken() == [0]
    write_archive(wanted, archive.path, shard=32, **QUIET)


def test_an_archive_does_not_depend_on_where_it_is_written(tmp_path: Path) -> None:
    from distributed import LocalCluster

    wanted = Sampling("dated", rasters(tmp_path), size=8, frames=2, bands=BANDS, count=40)
    how = {"n_workers": 1, "threads_per_worker": 2, "processes": False, "dashboard_address": ""}
    with LocalCluster(**how) as cluster:
        places = [QUIET, QUIET | {"workers": 2}, QUIET | {"scheduler": cluster.scheduler_address}]
        found = []
        for number, where in enumerate(places):
            path = write_archive(wanted, tmp_path / f"{number}.zarr", shard=16, **where).path
            files = [file for file in path.rglob("*") if file.is_file()]
            found.append({file.relative_to(path): file.read_bytes() for file in files})
    assert found[0] == found[1] == found[2]


PROGRAM = """\
import sys, time
from geowb.pretrain import Sampling, archive
usual = archive._sums
archive._sums = lambda *chips: time.sleep(0.3) or usual(*chips)
if __name__ == "__main__":
    wanted = Sampling("dated", sys.argv[1], size=8, frames=1, bands=["RED", "NIR_NARROW"])
    archive.write_archive(wanted, sys.argv[2], shard=4, workers=2)
"""


def test_a_call_that_is_killed_is_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "make.py").write_text(PROGRAM, encoding="utf-8")
    path, catalog = tmp_path / "a.zarr", rasters(tmp_path)
    marks = path / ".geowb" / "shards"
    command = [sys.executable, tmp_path / "make.py", catalog, path]
    for kill, kind in ((os.killpg, signal.SIGINT), (os.kill, signal.SIGKILL)):
        enough = len(list(marks.glob("*.json"))) + 3
        process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
        wait_until(lambda n=enough, p=process: len(list(marks.glob("*.json"))) >= n or p.poll())
        kill(process.pid, kind)
        process.communicate(timeout=60)
        assert process.returncode not in (0, None)
        wait_until(lambda p=process: not group_lives(p.pid))  # no process goes on without it
        archive = ChipArchive(path, partial=True)
        todo = archive.broken()
        assert enough <= archive.shards - len(todo) < archive.shards
        assert not xr.open_zarr(path).attrs["complete"]
    write_archive(archive.sampling, path, shard=4, workers=1)
    told = capsys.readouterr().err
    assert f"{len(todo)} of {archive.shards} shards are to be written" in told
    assert f"{len(todo)} of {len(todo)}\n" in told
    assert ChipArchive(path).broken() == []
    assert not [file for file in tmp_path.iterdir() if "partial" in file.name]


def wait_until(true: Callable[[], object]) -> None:
    for _ in range(2400):
        if true():
            return
        time.sleep(0.05)
    raise AssertionError("two minutes have passed")


def group_lives(number: int) -> bool:
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return False
    return True


# --- streams ------------------------------------------------------------------------------------


def same(first: dict, second: dict) -> bool:
    images = (batch["image"].numpy() for batch in (first, second))
    return np.array_equal(*images, equal_nan=True) and torch.equal(first["key"], second["key"])


def test_each_epoch_has_every_chip_once(made: ChipArchive) -> None:
    for pool in (1, 2, 8):
        stream = ChipStream(made, batch_size=16, steps=9, pool=pool)  # four epochs
        assert len(stream) == 9
        batches = list(stream)
        assert batches[0]["image"].shape == (16, 6, 2, 32, 32)
        assert batches[0]["image"].dtype == torch.float32
        keys = torch.cat([batch["key"] for batch in batches])
        epochs, indices = keys // 36, keys % 36
        assert torch.equal(epochs, torch.arange(4).repeat_interleave(36))
        orders = indices.reshape(4, 36)
        assert (orders.sort(1).values == torch.arange(36)).all()
        assert not (orders[0] == orders[1]).all()
        if pool == 1:  # a shard at a time, in another order in each epoch, and within it too
            shards = [tuple((order // 8).unique_consecutive().tolist()) for order in orders]
            assert all(sorted(order) == list(range(5)) for order in shards)
            assert len(set(shards)) > 1
            starts = [order[:8] - order[:8].min() for order in orders if order[0] < 32]
            assert len({tuple(start.tolist()) for start in starts}) > 1


def test_a_batch_may_be_larger_than_the_archive(made: ChipArchive) -> None:
    keys = torch.cat([b["key"] for b in ChipStream(made, batch_size=100, steps=2, pool=1)])
    assert torch.equal(keys.sort().values[:180], torch.arange(180))


@pytest.mark.parametrize("pool", [1, 2, 8])
def test_a_stream_begins_anywhere(made: ChipArchive, pool: int) -> None:
    how = {"batch_size": 10, "steps": 12, "seed": 3, "pool": pool}
    whole = list(ChipStream(made, **how))
    for start in (1, 4, 11, 12):
        rest = list(ChipStream(made, start=start, **how))
        assert len(rest) == 12 - start
        assert all(map(same, rest, whole[start:]))
    assert not same(whole[0], next(iter(ChipStream(made, **how | {"seed": 4}))))


def test_a_stream_that_begins_late_reads_nothing_of_what_went_before(
    made: ChipArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, usual = [], ChipArchive.read_shard
    monkeypatch.setattr(ChipArchive, "read_shard", lambda self, n: read.append(n) or usual(self, n))
    list(ChipStream(made, batch_size=1, steps=10_001, start=10_000, pool=1))
    assert len(read) <= 2


@pytest.mark.parametrize("pool", [1, 8])
def test_processes_see_together_what_one_would(made: ChipArchive, pool: int) -> None:
    how = {"batch_size": 12, "steps": 8, "pool": pool}
    ranks = [ChipStream(made, rank=rank, world_size=3, **how) for rank in range(3)]
    for whole, *parts in zip(ChipStream(made, **how), *ranks, strict=True):
        for rank, part in enumerate(parts):
            assert same(part, {name: values[rank::3] for name, values in whole.items()})


def test_augmentation_is_one_of_the_eight_symmetries(made: ChipArchive) -> None:
    seen = set()
    how = {"batch_size": 36, "steps": 6}
    for turned, plain in zip(
        ChipStream(made, **how), ChipStream(made, augment=False, **how), strict=True
    ):
        assert torch.equal(turned["key"], plain["key"])
        chips = made.read(plain["key"].numpy() % 36)["image"]
        np.testing.assert_array_equal(plain["image"], chips)
        for chip, image in zip(turned["image"], plain["image"], strict=True):
            forms = [torch.rot90(image, k, (-2, -1)) for k in range(4)]
            forms += [form.flip(-1) for form in forms]
            fit = [k for k, form in enumerate(forms) if torch.equal(form, chip)]
            assert len(fit) == 1
            seen.add(fit[0])
    assert seen == set(range(8))


def test_a_chip_is_turned_by_seed_and_key_alone(made: ChipArchive) -> None:
    def by_key(**how: int) -> dict[int, np.ndarray]:
        batches = list(ChipStream(made, **how))
        keys, images = (torch.cat([b[name] for b in batches]) for name in ("key", "image"))
        return dict(zip(keys.tolist(), images.numpy(), strict=True))

    usual, other = by_key(batch_size=9, steps=16), by_key(batch_size=12, steps=12, pool=1)
    assert usual.keys() == other.keys()
    for key, image in usual.items():
        np.testing.assert_array_equal(image, other[key])
    seeded = by_key(batch_size=9, steps=16, seed=1)
    assert any(not np.array_equal(seeded[key], image) for key, image in usual.items())


def test_memory_is_that_of_two_pools(made: ChipArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    from geowb.pretrain import stream as module

    held, read, usual = [], [], module._Maker.batch

    def counted(self, step: int) -> dict:
        made_batch = usual(self, step)
        held.append(len(self.shards))
        return made_batch

    monkeypatch.setattr(module._Maker, "batch", counted)
    usual_read = ChipArchive.read_shard
    monkeypatch.setattr(
        ChipArchive, "read_shard", lambda self, n: read.append(n) or usual_read(self, n)
    )
    list(ChipStream(made, batch_size=4, steps=45, pool=2))  # five epochs
    assert max(held) <= 4
    assert 10 < len(read) <= 6 * 5  # an epoch is read as it comes
    read.clear()
    list(ChipStream(made, batch_size=4, steps=45, pool=3))  # fits: read once
    assert sorted(read) == list(range(5))


def chip_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("geowb-")]


def test_no_thread_outlives_its_iterator(made: ChipArchive) -> None:
    batches = iter(ChipStream(made, batch_size=4, steps=100, pool=1))
    next(batches)
    assert chip_threads()
    batches.close()
    assert not chip_threads()
    batches = iter(ChipStream(made, batch_size=4, steps=100, pool=1))
    next(batches)
    del batches
    assert not chip_threads()
    for _ in ChipStream(made, batch_size=4, steps=100):
        break
    assert not chip_threads()


def test_an_error_of_the_thread_comes_out(own: ChipArchive) -> None:
    own.file("reflectance", 3).unlink()
    with pytest.raises(DataError, match=r"Shard 3 of .* Call write_archive"):
        list(ChipStream(own, batch_size=4, steps=100, pool=1))
    assert not chip_threads()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"batch_size": 10, "world_size": 3}, "give a multiple of 3"),
        ({"rank": 2, "world_size": 2}, "rank=2 does not lie in"),
        ({"start": 4}, r"start=4 does not lie in 0 \.\.\. steps \(steps=3\)"),
        ({"pool": 0}, "pool=0"),
    ],
)
def test_sizes_that_do_not_fit(made: ChipArchive, how: dict, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        ChipStream(made, **{"batch_size": 8, "steps": 3} | how)
