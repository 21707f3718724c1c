"""Embeddings as Zarr arrays: opened by anyone, decoded in part, the same bits everywhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import dask
import numpy as np
import pytest
import rioxarray  # noqa: F401 - gives .rio
import xarray as xr
import zarr

from geowb.errors import CorruptStream, DataError, RequestError
from geowb.nec import FactorizedPriorCodec, Tables, open_embeddings, store_size

SHAPE = (2, 40, 70, 24)


def values_of(seed: int = 0) -> np.ndarray:
    """An embedding with an edge of no data and a corner of huge values."""
    rng = np.random.default_rng(seed)
    values = rng.laplace(size=SHAPE) * np.geomspace(0.05, 4, SHAPE[-1])
    values[:, 30:, :33] = np.nan
    values[0, 0, :3] = 1e20
    return values.astype(np.float32)


TABLES = Tables.fit(values_of(1)[1])


def write(target: object, tables: Tables = TABLES, **encoding: object) -> np.ndarray:
    """Write the embedding as `geowb embed` does; give what is to be read."""
    values = values_of()
    data = xr.Dataset(
        {"embedding": (("time", "y", "x", "channel"), values, {"units": "1"})},
        {"y": np.arange(40.0)[::-1] * 240, "x": np.arange(70.0) * 240},
    ).rio.write_crs("EPSG:32723")
    coded = {"serializer": FactorizedPriorCodec(tables), "compressors": (), "filters": ()}
    coded |= {"chunks": (1, 16, 16, 24), "_FillValue": np.nan, "fill_value": np.nan, **encoding}
    data["embedding"].encoding.update(coded)
    data.to_zarr(target, zarr_format=3, consolidated=False)
    return tables.quantise(values)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    folder = tmp_path_factory.mktemp("store") / "scene.zarr"
    return folder, write(folder)


def zipped(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder))
    return target


def test_xarray_opens_it_as_any_other(store):
    folder, meant = store
    found = xr.open_zarr(folder, consolidated=False)["embedding"]
    assert found.data.chunksize == (1, 16, 16, 24)
    for scheduler in ("sync", "threads"):
        with dask.config.set(scheduler=scheduler):
            np.testing.assert_array_equal(found.to_numpy(), meant)
    ours = open_embeddings(folder)
    np.testing.assert_array_equal(ours.to_numpy(), meant)
    assert ours.rio.crs == "EPSG:32723"
    assert ours.attrs["units"] == "1"


def test_only_the_chunks_that_are_touched_are_decoded(store, monkeypatch):
    folder, meant = store
    decoded = []
    real = Tables.decode
    monkeypatch.setattr(
        Tables, "decode", lambda self, *a, **k: decoded.append(1) or real(self, *a, **k)
    )
    part = open_embeddings(folder)[1, 17:20, 40:44].to_numpy()
    np.testing.assert_array_equal(part, meant[1, 17:20, 40:44])
    assert len(decoded) == 1


def test_a_zip_and_an_object_store_are_read_too(store, tmp_path):
    import fsspec

    folder, meant = store
    archive = zipped(folder, tmp_path / "scene.zarr.zip")
    np.testing.assert_array_equal(open_embeddings(archive).to_numpy(), meant)
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/bucket/scene.zarr", recursive=True)
    try:
        found = open_embeddings("memory://bucket/scene.zarr")
        np.testing.assert_array_equal(found.to_numpy(), meant)
    finally:
        memory.rm("/bucket", recursive=True)


def test_shards_hold_many_chunks(tmp_path):
    meant = write(tmp_path / "a.zarr", shards=(1, 48, 80, 24))
    found = open_embeddings(tmp_path / "a.zarr")
    np.testing.assert_array_equal(found.to_numpy(), meant)
    assert len([f for f in (tmp_path / "a.zarr/embedding/c").rglob("*") if f.is_file()]) == 2


READ = """
import hashlib, sys
import dask, numpy, xarray
with dask.config.set(scheduler=sys.argv[2], num_workers=4):
    import zarr
    place = sys.argv[1]
    place = zarr.storage.ZipStore(place, mode="r") if place.endswith(".zip") else place
    found = xarray.open_zarr(place, consolidated=False)["embedding"].to_numpy()
print(hashlib.sha256(numpy.ascontiguousarray(found + numpy.float32(0)).tobytes()).hexdigest())
print("torch" in sys.modules)
"""


@pytest.mark.parametrize(
    ("scheduler", "env"),
    [
        ("sync", {"OMP_NUM_THREADS": "1"}),
        ("threads", {}),
        ("sync", {"NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512_SKX"}),
    ],
)
def test_another_process_reads_the_same_bits(store, tmp_path, scheduler, env):
    import hashlib

    folder, meant = store
    archive = zipped(folder, tmp_path / "scene.zarr.zip")
    meant = np.ascontiguousarray(meant + np.float32(0))
    features = env.get("NPY_DISABLE_CPU_FEATURES", "").split()
    from numpy._core._multiarray_umath import __cpu_baseline__, __cpu_features__

    known = [f for f in features if __cpu_features__.get(f) and f not in __cpu_baseline__]
    env = {**env, **({"NPY_DISABLE_CPU_FEATURES": " ".join(known)} if features else {})}
    done = subprocess.run(
        [sys.executable, "-c", READ, str(archive), scheduler],
        env=os.environ | env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    digest, torch_too = done.stdout.split()
    assert digest == hashlib.sha256(meant.tobytes()).hexdigest()
    assert torch_too == "False"


def metadata(folder: Path) -> tuple[Path, dict]:
    file = folder / "embedding" / "zarr.json"
    return file, json.loads(file.read_text())


@pytest.fixture
def copy(store, tmp_path) -> Path:
    return Path(shutil.copytree(store[0], tmp_path / "copy.zarr"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: c.pop("tables"), "has no tables"),
        (lambda c: c.update(tables="%%"), "damaged"),
        (lambda c: c.update(tables=c["tables"][:-8]), "damaged"),
        (lambda c: c.update(sha256="0" * 64), "not those with which"),
        (lambda c: c.pop("sha256"), "not those with which"),
    ],
)
def test_damaged_tables_are_refused_when_it_is_opened(copy, change, told):
    file, content = metadata(copy)
    change(content["codecs"][0]["configuration"])
    file.write_text(json.dumps(content))
    with pytest.raises(CorruptStream, match=told):
        open_embeddings(copy)


def test_foreign_tables_are_refused(copy):
    other = FactorizedPriorCodec(Tables.fit(values_of(2)[1])).to_dict()
    file, content = metadata(copy)
    content["codecs"] = [other]
    file.write_text(json.dumps(content))
    found = open_embeddings(copy)
    with pytest.raises(CorruptStream, match="other tables"):
        found.to_numpy()


def test_a_damaged_chunk_is_refused_and_the_others_are_read(copy, store):
    chunk = copy / "embedding" / "c" / "1" / "0" / "1" / "0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    found = open_embeddings(copy)
    np.testing.assert_array_equal(found[1, :16, :16].to_numpy(), store[1][1, :16, :16])
    with pytest.raises(CorruptStream, match="checksum"):
        found[1, :16, 16:32].to_numpy()


def test_a_chunk_of_another_place_is_refused_by_its_shape(tmp_path):
    write(tmp_path / "a.zarr")
    write(tmp_path / "b.zarr", chunks=(1, 8, 16, 24))
    ours = tmp_path / "a.zarr/embedding/c/0/0/0/0"
    ours.write_bytes((tmp_path / "b.zarr/embedding/c/0/0/0/0").read_bytes())
    with pytest.raises(CorruptStream, match="expected"):
        open_embeddings(tmp_path / "a.zarr")[0, 0].to_numpy()


def test_what_is_no_embedding_is_refused_before_it_is_written(tmp_path):
    codec = FactorizedPriorCodec(TABLES)
    how = {"serializer": codec, "compressors": None, "filters": None}
    for shape, chunks, dtype, told in (
        ((8, 8, 24), (4, 4, 24), "float64", "takes float32"),
        ((8, 8, 23), (4, 4, 23), "float32", "24 channels"),
        ((8, 8, 24), (4, 4, 12), "float32", "in one chunk"),
    ):
        with pytest.raises(DataError, match=told):
            zarr.create_array({}, shape=shape, chunks=chunks, dtype=dtype, **how)
    for dtype, channels, told in (
        ("int16", 24, "takes float32"),
        (">f4", 24, "takes float32"),
        ("float32", 48, "24 channels"),
    ):
        store: dict[str, object] = {}
        with pytest.raises(DataError, match=told):
            zarr.create_array(
                store, shape=(8, 8, channels), chunks=(4, 4, channels), shards=(8, 8, channels),
                dtype=dtype, **how,
            )  # fmt: skip
        assert store == {}
    array = zarr.create_array({}, shape=(4, 24), chunks=(4, 24), dtype="float32", **how)
    with pytest.raises(DataError, match="is inf"):
        array[:] = np.inf


def test_what_cannot_be_opened_is_told(tmp_path, store):
    with pytest.raises(DataError, match="There is no"):
        open_embeddings(tmp_path / "nothing.zarr")
    (tmp_path / "empty.zarr").mkdir()
    whole = zipped(store[0], tmp_path / "whole.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cannot be opened .* zarr.json lies at the top"):
        open_embeddings(tmp_path / "cut.zip")
    with pytest.raises(RequestError, match=f"it takes {len(whole):,} bytes"):
        store_size(tmp_path / "whole.zip")
    with pytest.raises(DataError, match="cannot be opened"):
        open_embeddings(tmp_path / "empty.zarr")
    with pytest.raises(DataError, match="no variable 'agb'"):
        open_embeddings(store[0], variable="agb")
    xr.Dataset({"embedding": ("x", np.zeros(3))}).to_zarr(
        tmp_path / "plain.zarr", zarr_format=3, consolidated=False
    )
    with pytest.raises(DataError, match="not coded by"):
        open_embeddings(tmp_path / "plain.zarr")


def test_every_byte_is_counted(store):
    folder, meant = store
    size = store_size(folder)
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert size.total == sum(file.stat().st_size for file in files)
    assert size.tokens == int(np.isfinite(meant[..., 0]).sum())
    assert size.channels == 24
    streams = [TABLES.encode(part, missing=True) for part in _chunks(values_of())]
    assert size.streams == sum(map(len, streams))
    packed = FactorizedPriorCodec(TABLES).to_dict()["configuration"]["tables"]
    assert size.tables == len(packed) + 2
    assert size.bits_per_element == pytest.approx(8 * size.total / (size.tokens * 24))


@pytest.mark.parametrize(
    "encoding",
    [
        {"shards": (1, 48, 80, 24)},
        {"compressors": (zarr.codecs.ZstdCodec(),)},
        {"chunk_key_encoding": {"name": "v2", "separator": "."}},
    ],
    ids=lambda encoding: next(iter(encoding)),
)
def test_stores_that_were_written_in_other_ways_are_counted_too(tmp_path, encoding):
    meant = write(tmp_path / "a.zarr", **encoding)
    size = store_size(tmp_path / "a.zarr")
    assert size.tokens == int(np.isfinite(meant[..., 0]).sum())
    folder = tmp_path / "a.zarr" / "embedding"
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != "zarr.json"]
    assert size.streams == sum(file.stat().st_size for file in files)
    assert size.streams > size.tokens


def test_the_last_dim_may_have_any_name(tmp_path, store):
    renamed = open_embeddings(store[0]).rename(channel="feature").to_dataset()
    renamed["embedding"].encoding["fill_value"] = np.nan
    renamed.to_zarr(tmp_path / "a.zarr", zarr_format=3, consolidated=False)
    assert store_size(tmp_path / "a.zarr").channels == 24


def _chunks(values: np.ndarray) -> list[np.ndarray]:
    """Chunks as Zarr has them: those at the edge filled up with no data, empty ones left out."""
    padded = np.pad(values, [(0, 0), (0, 8), (0, 10), (0, 0)], constant_values=np.float32(np.nan))
    parts = [padded[t : t + 1, y : y + 16, x : x + 16]
             for t in range(2) for y in range(0, 48, 16) for x in range(0, 80, 16)]  # fmt: skip
    return [part for part in parts if np.isfinite(part).any()]
