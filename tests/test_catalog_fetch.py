"""Downloads, against a server on this machine: whole, verified, resumed, unpacked safely."""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from serving import Server

from geowb.catalog import check_source, open_catalog, stac
from geowb.catalog.fetch import _held, archive, download, member_problem, record, unpack
from geowb.catalog.schema import ArchiveFile, Metadata, StacOptions
from geowb.catalog.source import Catalog
from geowb.errors import ChecksumError, DataError, DownloadError, RequestError

BODY = bytes(range(256)) * 4000  # 1 MB


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    server.files["/a.bin"] = BODY
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOWB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GEOWB_DATA", raising=False)


def sha(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def fetch(server: Server, folder: Path, digest: str, path: str = "/a.bin") -> None:
    download(server.url + path, folder / "x" / "a.bin", digest, folder, progress=False)


@pytest.mark.parametrize("digest", [sha(BODY), "md5:" + hashlib.md5(BODY).hexdigest()])
def test_a_download_is_whole_and_verified(tmp_path: Path, server: Server, digest: str) -> None:
    fetch(server, tmp_path, digest)
    assert (tmp_path / "x/a.bin").read_bytes() == BODY
    assert names(tmp_path) == ["lock.json", "x/a.bin"]  # no partial file, no note of it


def test_a_wrong_digest_leaves_nothing(tmp_path: Path, server: Server) -> None:
    with pytest.raises(ChecksumError) as caught:
        fetch(server, tmp_path, sha(b"other"))
    assert sha(b"other") in str(caught.value)
    assert sha(BODY) in str(caught.value)
    assert caught.value.exit_status == 1
    assert names(tmp_path) == []


def test_an_unknown_digest_is_kept_and_compared(tmp_path: Path, server: Server) -> None:
    fetch(server, tmp_path, "unknown")
    line = {"url": server.url + "/a.bin", "digest": sha(BODY)}
    assert json.loads((tmp_path / "lock.json").read_text()) == {"x/a.bin": line}
    (tmp_path / "x/a.bin").unlink()
    fetch(server, tmp_path, "unknown")
    (tmp_path / "x/a.bin").unlink()
    server.files["/a.bin"] = BODY + b"!"
    with pytest.raises(ChecksumError, match=r"lock\.json recorded"):
        fetch(server, tmp_path, "unknown")
    assert names(tmp_path) == ["lock.json"]


def test_a_broken_transfer_goes_on_where_it_stopped(tmp_path: Path, server: Server) -> None:
    server.cut = [262_144, 131_072]
    fetch(server, tmp_path, sha(BODY))
    assert (tmp_path / "x/a.bin").read_bytes() == BODY
    assert server.seen == ["/a.bin", "/a.bin bytes=262144-", "/a.bin bytes=393216-"]


def test_a_transfer_that_stays_broken_is_resumed_next_time(tmp_path: Path, server: Server) -> None:
    server.cut = [65_536] + [0] * 3
    with pytest.raises(DownloadError, match=r"broke off after 65,536 bytes.*goes on from there"):
        fetch(server, tmp_path, sha(BODY))
    assert not (tmp_path / "x/a.bin").exists()
    server.cut = []
    fetch(server, tmp_path, sha(BODY))
    assert server.seen[-1] == "/a.bin bytes=65536-"
    assert (tmp_path / "x/a.bin").read_bytes() == BODY


@pytest.mark.parametrize("how", ["changed file", "no ranges", "already whole"])
def test_resuming_never_mixes_two_files(tmp_path: Path, server: Server, how: str) -> None:
    server.cut = [] if how == "already whole" else [65_536, 0]
    if how == "already whole":  # killed between the last byte and the rename
        fetch(server, tmp_path, sha(BODY))
        (tmp_path / "x/a.bin").rename(tmp_path / "x/a.bin.partial")
        note = {"url": server.url + "/a.bin", "validator": f'"{hashlib.md5(BODY).hexdigest()}"'}
        (tmp_path / "x/a.bin.partial.json").write_text(json.dumps(note))
    else:
        with pytest.raises(DownloadError):
            fetch(server, tmp_path, sha(BODY))
    server.cut = []
    server.ranges = how != "no ranges"
    wanted = BODY[::-1] if how == "changed file" else BODY
    server.files["/a.bin"] = wanted
    fetch(server, tmp_path, sha(wanted))
    assert (tmp_path / "x/a.bin").read_bytes() == wanted


def test_refusals_and_a_missing_network(tmp_path: Path, server: Server) -> None:
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1:\d+ answered 404 Not Found"):
        fetch(server, tmp_path, sha(BODY), "/none.bin")
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(DownloadError) as caught:
        download(server.url + "/a.bin", tmp_path / "y", sha(BODY), tmp_path, twin="world")
    assert "cannot be reached" in str(caught.value)
    assert "'world' works without a network" in str(caught.value)
    assert names(tmp_path) == []


@pytest.mark.parametrize("path", ["../out", "/tmp/out", ".", "link/out"])
def test_nothing_is_written_beside_the_downloads(tmp_path: Path, server: Server, path: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link").symlink_to(tmp_path)
    file = ArchiveFile.model_construct(
        url=server.url + "/a.bin", path=path, digest=sha(BODY), unpack=False
    )
    with pytest.raises(DownloadError, match="which is not below"):
        archive(file, tmp_path / "in", progress=False)
    assert server.seen == []
    assert names(tmp_path) == []


# --- archives ------------------------------------------------------------------------------------


def tar(path: Path, members: dict[str, Any]) -> Path:
    with tarfile.open(path, "w:gz") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content
                file.addfile(info)
    return path


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


@pytest.mark.parametrize("pack", [tar, zipped])
def test_unpacking_drops_folders_that_only_wrap(tmp_path: Path, pack: Any) -> None:
    unpack(pack(tmp_path / "p", {"w/v/a/1.txt": b"1", "w/v/b.txt": b"2"}), tmp_path / "out")
    assert names(tmp_path / "out") == ["a/1.txt", "b.txt"]
    assert names(tmp_path) == ["out/a/1.txt", "out/b.txt", "p"]


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/tmp/evil", "C:\\evil", "..\\evil"])
@pytest.mark.parametrize("pack", [tar, zipped])
def test_members_that_leave_the_folder(tmp_path: Path, pack: Any, name: str) -> None:
    packed = pack(tmp_path / "p", {"good": b"1", name: b"2"})
    with pytest.raises(DownloadError, match="evil") as caught:
        unpack(packed, tmp_path / "out")
    assert caught.value.exit_status == 1
    assert names(tmp_path) == ["p"]
    assert not list(tmp_path.parent.glob("evil"))


@pytest.mark.parametrize(
    "content",
    [
        (tarfile.SYMTYPE, "../../outside"),
        (tarfile.SYMTYPE, "/etc/passwd"),
        (tarfile.LNKTYPE, "../outside"),
        (tarfile.CHRTYPE, ""),
        (tarfile.FIFOTYPE, ""),
    ],
)
def test_links_out_and_devices_are_refused(tmp_path: Path, content: tuple[bytes, str]) -> None:
    with pytest.raises(DownloadError):
        unpack(tar(tmp_path / "p", {"good": b"1", "bad": content}), tmp_path / "out")
    assert names(tmp_path) == ["p"]


def test_links_in_zip_files_are_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "p", "w") as file:
        file.writestr(info, "/etc/passwd")
    with pytest.raises(DownloadError, match="is a link"):
        unpack(tmp_path / "p", tmp_path / "out")


@pytest.mark.parametrize("pack", [tar, zipped])
def test_a_broken_archive_leaves_nothing(tmp_path: Path, pack: Any) -> None:
    noise = np.random.default_rng(0).integers(0, 256, 50_000, dtype="uint8").tobytes()
    data = bytearray(pack(tmp_path / "p", {"a": b"1", "b": noise}).read_bytes())
    data[20_000:20_100] = bytes(100)
    (tmp_path / "p").write_bytes(data)
    with pytest.raises(DownloadError, match="cannot be unpacked"):
        unpack(tmp_path / "p", tmp_path / "out")
    assert names(tmp_path) == ["p"]


parts = st.sampled_from(["a", "b.tif", "..", ".", "...", "..a", "", " "])


@given(st.lists(parts, min_size=1, max_size=6), st.sampled_from(["/", "\\"]), st.booleans())
def test_a_name_is_refused_exactly_when_it_leaves(
    pieces: list[str], slash: str, root: bool
) -> None:
    name = ("/" if root else "") + slash.join(pieces)
    plain = name.replace("\\", "/")
    leaves = not plain or plain.startswith("/") or ".." in plain.split("/")
    assert bool(member_problem(name)) == leaves
    if not leaves:
        assert (PurePosixPath("/data") / plain).is_relative_to("/data")


# --- catalog entries -------------------------------------------------------------------------


def catalog(folder: Path, text: str) -> Catalog:
    (folder / "catalog.yaml").write_text("meta: {name: mine, roots: [nowhere]}\n" + text)
    return open_catalog(folder / "catalog.yaml")


def png(value: int) -> bytes:
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="PNG", width=2, height=2, count=1, dtype="uint8") as file:
            file.write(np.full((1, 2, 2), value, "uint8"))
        return memory.read()


ARCHIVE = """\
set:
  uri: set
  driver:
    name: archive
    options:
      files:
        - {url: "URL/set.zip", path: set/images, digest: unknown, unpack: true}
        - {url: "URL/train.txt", path: set/train.txt, digest: unknown}
      then:
        name: chips
        options:
          images: "images/{class}/{sample}.png"
          bands: [RED]
          split_files: {train: train.txt}
  metadata: {crs: none, size: 3 GB}
"""


def test_an_archive_is_fetched_once_and_then_read(tmp_path: Path, server: Server) -> None:
    members = {"wrap/river/r1.png": png(1), "wrap/forest/f1.png": png(2)}
    server.files["/set.zip"] = zipped(tmp_path / "z", members).read_bytes()
    source = catalog(tmp_path, ARCHIVE.replace("URL", server.url))["set"]
    assert source.status() == "remote"
    with pytest.raises(DataError, match=r"geowb catalog get set \(3 GB\)"):
        source.open()
    with pytest.raises(DownloadError, match="404"):  # the second file is not there yet
        source.get(progress=False)
    assert source.status() == "remote"  # one of two files is not the data set
    server.files["/train.txt"] = b"r1.png\n"
    server.seen.clear()
    assert source.get(progress=False) == source.catalog.downloads / "set"
    assert server.seen == ["/train.txt"]  # the archive was not fetched again
    assert source.get(progress=False) == source.catalog.downloads / "set"
    assert len(server.seen) == 1
    scene = source.open()
    assert scene.sample.values.tolist() == ["f1", "r1"]
    assert scene.label.values.tolist() == [0, 1]
    assert scene.split.values.tolist() == ["", "train"]
    assert scene.reflectance.values[:, 0, 0, 0].tolist() == [2, 1]
    assert source.provenance()["files"]["set"]["files"] == 3


def test_entries_take_their_share_of_a_collection(tmp_path: Path, server: Server) -> None:
    server.files |= {"/img%201.png": png(5), "/b2.png": png(6), "/b3.png": png(7)}
    text = f"""\
all:
  data_type: Files
  driver:
    name: archive
    options:
      files:
        - {{url: "{server.url}/img%201.png", path: a/1.png, digest: "{sha(png(5))}"}}
        - url: "{server.url}/b{{n}}.png"
          path: "b/{{n}}.png"
          digest: unknown
          each: {{n: [2, 3]}}
one:
  uri: a/1.png
  driver: {{name: raster, options: {{bands: [RED]}}}}
  metadata: {{crs: none}}
  part_of: all
"""
    here = catalog(tmp_path, text)
    assert [s.status() for s in here.values()] == ["remote", "remote"]
    assert check_source("one", catalog=str(tmp_path / "catalog.yaml"))[0].endswith("get one.")
    here["one"].get(progress=False)
    assert server.seen == ["/img%201.png"]
    assert here["one"].open().reflectance.values.max() == 5
    assert here["all"].get(progress=False) == here.downloads
    assert names(here.downloads) == ["a/1.png", "b/2.png", "b/3.png", "lock.json"]
    assert [row["status"] for row in here.table()] == ["here", "here"]
    assert here.check() == []
    with pytest.raises(DataError, match="set of files, not a scene"):
        here["all"].open()


def one_file(url: str, digest: str) -> str:
    options = f"{{files: [{{url: '{url}', path: x.bin, digest: '{digest}'}}]}}"
    return f"x:\n  uri: x.bin\n  driver: {{name: archive, options: {options}}}\n"


def test_a_download_of_one_catalog_is_not_that_of_another(tmp_path: Path, server: Server) -> None:
    server.files["/b.bin"] = b"other"
    sources = []
    for folder, path, body in (("one", "/a.bin", BODY), ("two", "/b.bin", b"other")):
        (tmp_path / folder).mkdir()
        file = tmp_path / folder / "c.yaml"
        file.write_text("meta: {name: geowb}\n" + one_file(server.url + path, sha(body)))
        sources.append(open_catalog(file)["x"])
        assert sources[-1].get(progress=False).read_bytes() == body
    folders = {open_catalog().downloads, *(source.catalog.downloads for source in sources)}
    assert len(folders) == 3
    assert open_catalog().downloads == tmp_path / "cache/data/geowb"


@pytest.mark.parametrize("unpack", [False, True])
def test_a_download_counts_only_with_the_digest_of_the_entry(
    tmp_path: Path, server: Server, unpack: bool
) -> None:
    first = zipped(tmp_path / "z", {"a": b"1"}).read_bytes()
    second = zipped(tmp_path / "z", {"a": b"22"}).read_bytes()
    for body in (first, second):
        server.files["/a.bin"] = body
        text = one_file(server.url + "/a.bin", sha(body))
        text = text.replace("x.bin,", "x.bin, unpack: true,") if unpack else text
        source = catalog(tmp_path, text)["x"]
        assert source.status() == "remote"
        got = source.get(progress=False)
        assert source.status() == "here"
        expected = {first: b"1", second: b"22"}[body] if unpack else body
        assert (got / "a" if unpack else got).read_bytes() == expected
    (source.catalog.downloads / "lock.json").unlink()  # a file that somebody laid there
    assert source.status() == "remote"


def test_two_downloads_of_one_file(tmp_path: Path, server: Server) -> None:
    place = tmp_path / "x/a.bin"
    with _held(place), pytest.raises(DownloadError, match="Another process is downloading"):
        fetch(server, tmp_path, sha(BODY))
    assert server.seen == []
    fetch(server, tmp_path, sha(BODY))
    assert names(tmp_path) == ["lock.json", "x/a.bin"]


def test_many_downloads_at_once_are_all_on_record(tmp_path: Path, server: Server) -> None:
    def bring(number: int) -> None:
        download(server.url + "/a.bin", tmp_path / str(number), "unknown", tmp_path, progress=False)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(bring, range(24)))
    assert set(record(tmp_path)) == {str(number) for number in range(24)}
    assert len(names(tmp_path)) == 25


def test_only_the_folder_goes_to_standard_output(tmp_path: Path, server: Server) -> None:
    catalog(tmp_path, one_file(server.url + "/a.bin", sha(BODY)))
    command = [
        sys.executable,
        "-c",
        "from geowb.cli import app; app()",
        "catalog",
        "get",
        "x",
        "--catalog",
    ]
    done = subprocess.run(
        [*command, tmp_path / "catalog.yaml"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        str(open_catalog(tmp_path / "catalog.yaml").downloads / "x.bin")
    ]


def test_nothing_to_get(tmp_path: Path) -> None:
    text = "x:\n  uri: x.tif\n  driver: {name: raster}\n  metadata: {how_to_get: Ask the author.}\n"
    with pytest.raises(
        RequestError, match=r"names no download. Ask the author. Then set GEOWB_DATA"
    ):
        catalog(tmp_path, text)["x"].get()


def test_a_cog_is_read_by_its_address(tmp_path: Path, server: Server) -> None:
    rng = np.random.default_rng(0)
    data = rng.integers(0, 10_000, (1, 1024, 1024), dtype="uint16")
    with rasterio.open(
        tmp_path / "cog.tif", "w", driver="COG", width=1024, height=1024, count=1, dtype="uint16",
        crs=32614, transform=rasterio.transform.from_origin(0, 0, 30, 30), blocksize=128,
    ) as file:  # fmt: skip
        file.write(data)
    server.files["/cog.tif"] = (tmp_path / "cog.tif").read_bytes()
    text = (
        f"x:\n  uri: {server.url}/cog.tif\n  driver: {{name: raster, options: {{bands: [RED]}}}}\n"
    )
    source = catalog(tmp_path, text)["x"]
    assert source.status() == "remote"
    with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"):
        corner = source.open().reflectance[0, 0, :10, :10].values
    np.testing.assert_array_equal(corner, data[0, :10, :10])
    assert any("bytes=" in line for line in server.seen)  # by ranges, not as a whole
    with pytest.raises(RequestError, match="read over the network when it is opened"):
        source.get()


def test_a_label_beside_an_address_is_looked_for(tmp_path: Path) -> None:
    text = """\
x:
  uri: https://example.org/x.tif
  driver: {name: raster, options: {bands: [RED], labels: {agb: {uri: agb.tif}}}}
"""
    source = catalog(tmp_path, text)["x"]
    found = check_source("x", catalog=str(tmp_path / "catalog.yaml"))
    assert len(found) == 1
    assert re.search(r"'agb\.tif' of entry 'x' is not here \(looked in .*Put the files", found[0])
    assert "over the network" not in found[0]
    assert source.catalog.check() == found
    with pytest.raises(DataError, match=r"agb\.tif.*GEOWB_DATA to the folder"):
        source.open()
    (source.catalog.downloads).mkdir(parents=True)
    (source.catalog.downloads / "agb.tif").touch()
    assert check_source("x", catalog=str(tmp_path / "catalog.yaml")) == []


def test_a_misspelt_file_is_a_problem_of_the_catalog(tmp_path: Path) -> None:
    text = "x:\n  uri: 'mispelt.tif'\n  driver: {name: raster}\n"
    here = catalog(tmp_path, text)
    assert len(here.check()) == 1
    assert f"'mispelt.tif' of entry 'x' is not here (looked in {here.downloads})" in here.check()[0]
    excused = text + "  metadata: {how_to_get: Ask the author.}\n"
    assert catalog(tmp_path, excused).check() == []
    free = text.replace("mispelt", "{tile}") + "  placeholders: {tile: any}\n"
    assert catalog(tmp_path, free).check() == []


HUB = """\
set:
  uri: set/data
  driver:
    name: hub
    options:
      path: set
      repo_id: someone/some-data
      revision: 0123456789012345678901234567890123456789
      allow_patterns: [data.tgz]
      unpack: {data.tgz: data}
      token_env: MY_HUB_TOKEN
      then: {name: chips, options: {images: "{split}/{sample}.png", bands: [RED]}}
  metadata: {crs: none}
"""


def test_the_hub_brings_a_snapshot(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked: dict[str, Any] = {}

    def snapshot(repo_id: str, **how: Any) -> None:
        asked.update(how, repo_id=repo_id)
        how["local_dir"].mkdir(parents=True, exist_ok=True)
        if "fail" in asked:
            raise LocalEntryNotFoundError("no network")
        tar(how["local_dir"] / "data.tgz", {"wrap/train/a.png": png(3), "wrap/val/b.png": png(4)})

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setenv("MY_HUB_TOKEN", "secret")
    source = catalog(tmp_path, HUB)["set"]
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1:1 cannot be reached"):
        source.get()
    assert not asked
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
    asked["fail"] = True
    with pytest.raises(DownloadError, match="cannot be reached"):
        source.get()
    assert source.status() == "remote"
    del asked["fail"]
    source.get()
    assert asked["repo_type"] == "dataset"
    assert asked["revision"].startswith("0123")
    assert asked["allow_patterns"] == ["data.tgz"]
    assert asked["token"] == "secret"
    assert names(source.catalog.downloads / "set") == ["data/train/a.png", "data/val/b.png"]
    assert source.open().split.values.tolist() == ["train", "val"]


def test_a_stac_server_that_is_gone(tmp_path: Path, server: Server) -> None:
    server.http.shutdown()
    server.http.server_close()
    text = f"""\
x:
  driver:
    name: stac
    options:
      url: "{server.url}"
      collections: {{c: {{RED: B04}}}}
      bbox: "0,0,1,1"
      datetime: "2022"
  twin: world
world:
  driver: {{name: world, options: {{region: cerrado}}}}
"""
    with pytest.raises(DownloadError, match=r"cannot be reached.*'world' works without"):
        catalog(tmp_path, text)["x"].open()


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_a_token_is_sent_by_the_source_that_is_signed_alone(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, scheduler: str
) -> None:
    import pystac

    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", width=8, height=8, count=1, dtype="int16",
        crs=32614, transform=rasterio.transform.from_origin(5e5, 3e6, 30, 30),
    ) as file:  # fmt: skip
        file.write(np.full((1, 8, 8), 7, "int16"))
    loaded = {}
    monkeypatch.setenv("MY_TOKEN", "secret")
    monkeypatch.setattr(stac, "_guarded", lambda href, host: href)  # this machine stands for NASA's
    box = [-99.0, 27.1215, -98.998, 27.1225]
    for name in ("first", "signed", "plain"):
        server.files[f"/{name}.tif"] = (tmp_path / "a.tif").read_bytes()
        item = pystac.Item("i", None, box, datetime(2022, 7, 1), {}, collection="c")
        west, south, east, north = box
        ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
        item.geometry = {"type": "Polygon", "coordinates": [ring]}
        item.add_asset("B04", pystac.Asset(f"{server.url}/{name}.tif", media_type="image/tiff"))
        monkeypatch.setattr(stac, "_search", lambda options, bbox, item=item: [item])
        options = StacOptions(
            url=server.url, collections={"c": {"RED": "B04"}}, bbox=",".join(map(str, box)),
            datetime="2022", sign="earthdata" if name == "signed" else "none", token_env="MY_TOKEN",
        )  # fmt: skip
        loaded[name] = stac.load(options, Metadata(crs=32614, nodata=-9999))
    for name in ("first", "signed", "plain", "first"):
        scene = loaded[name].compute(scheduler=scheduler)
        assert (scene.reflectance == 7).any()
    tokens = {name: server.tokens[f"/{name}.tif"] for name in loaded}
    assert tokens == {"first": {None}, "signed": {"Bearer secret"}, "plain": {None}}
