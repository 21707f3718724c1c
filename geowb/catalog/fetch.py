"""Downloads: resumed, verified, unpacked safely, and never half there under the final name."""

from __future__ import annotations

import json
import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from geowb.catalog.schema import ArchiveFile, HubOptions
from geowb.errors import ChecksumError, DownloadError, RequestError
from geowb.locks import held

__all__ = [
    "Shown", "agrees", "archive", "download", "hub", "member_problem", "no_network", "record",
    "unpack",
]  # fmt: skip

#: Whether a line on standard error tells how far a download is; or a function that is told the
#: share that is here (below 0 where nobody knows) and a sentence, and ends it by raising.
Shown = bool | Callable[[float, str], None]

_ATTEMPTS = 4
#: What a damaged or encrypted archive raises.
_BROKEN = (
    tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, RuntimeError,
)  # fmt: skip


def no_network(host: str, twin: str | None) -> DownloadError:
    """Error for a host that cannot be reached; names the embedded entry to use meanwhile."""
    instead = f"; the embedded entry '{twin}' works without a network" if twin else ""
    return DownloadError(f"{host} cannot be reached (is there a network?){instead}.")


def archive(
    file: ArchiveFile, target: Path, *, twin: str | None = None, progress: Shown = True
) -> None:
    """Download one file below `target`; marked ``unpack``, it becomes a folder."""
    place = _below(target, file.path)
    packed = place.with_name(place.name + ".archive") if file.unpack else place
    if not (packed.exists() and agrees(file, record(target))):
        download(file.url, packed, file.digest, target, twin=twin, progress=progress)
    if file.unpack:
        try:
            unpack(packed, place)
        except DownloadError:
            packed.unlink()
            raise
        packed.unlink()


def hub(options: HubOptions, target: Path, *, twin: str | None = None) -> None:
    """Download a data set of the Hugging Face hub to ``target/options.path``."""
    import requests

    try:
        import huggingface_hub
        from huggingface_hub import constants, errors
    except ImportError as error:
        raise RequestError(
            "Data of the Hugging Face hub needs huggingface_hub: pip install 'geowb[models]'."
        ) from error
    place = _below(target, options.path)
    partial = place.with_name(place.name + ".partial")  # kept: a second try goes on from here
    if place.exists() and agrees(options, record(target)):
        return
    host = urlsplit(constants.ENDPOINT).netloc
    try:
        # The hub's own client tries for half a minute before it says that there is no network.
        requests.head(constants.ENDPOINT, timeout=10)
        huggingface_hub.snapshot_download(
            options.repo_id,
            repo_type="dataset",
            revision=options.revision,
            allow_patterns=options.allow_patterns,
            local_dir=partial,
            token=os.environ.get(options.token_env) or None,
        )
    except (requests.ConnectionError, requests.Timeout, errors.LocalEntryNotFoundError) as error:
        raise no_network(host, twin) from error
    except errors.HfHubHTTPError as error:
        raise DownloadError(
            f"The hub refused {options.repo_id} at {options.revision}: "
            f"{str(error).splitlines()[0]} A gated data set needs {options.token_env}."
        ) from error
    except (OSError, getattr(errors, "HTTPError", OSError)) as error:
        raise DownloadError(
            f"{options.repo_id} was not brought whole: {error}. Run the same command again."
        ) from error
    for packed, folder in options.unpack.items():
        if (partial / packed).is_file():
            shutil.rmtree(partial / folder, ignore_errors=True)
            unpack(partial / packed, partial / folder)
            (partial / packed).unlink()
    shutil.rmtree(partial / ".cache", ignore_errors=True)
    shutil.rmtree(place, ignore_errors=True)  # of another revision
    partial.replace(place)
    _note(target, *_wanted(options))


def _wanted(file: ArchiveFile | HubOptions) -> tuple[str, str, str]:
    """Where the record has a download, its address, and its digest."""
    if isinstance(file, HubOptions):
        return file.path, f"{file.repo_id}@{file.revision}", "unknown"
    return file.path + (".archive" if file.unpack else ""), file.url, file.digest


def record(target: Path) -> dict[str, dict[str, str]]:
    """Read what was downloaded below `target`: path -> url and digest."""
    path = target / "lock.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def agrees(file: ArchiveFile | HubOptions, known: dict[str, dict[str, str]]) -> bool:
    """Whether the download of `file` on record is the one that the catalog means now."""
    path, url, digest = _wanted(file)
    had = known.get(path, {})
    return had.get("url") == url and digest in ("unknown", had.get("digest"))


def _note(target: Path, path: str, url: str, digest: str) -> None:
    """Put a download on record; several processes may do so at once."""
    lock = target / "lock.json"
    with held(lock.with_name("lock.json.lock"), wait=True):
        known = record(target) | {path: {"url": url, "digest": digest}}
        fresh = lock.with_name(f"lock.json.{os.getpid()}.partial")
        fresh.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        fresh.replace(lock)


@contextmanager
def _held(place: Path) -> Iterator[None]:
    """Keep other processes from writing `place`; the system lets go if this one is killed."""
    with held(place.with_name(place.name + ".lock")) as mine:
        if not mine:
            raise DownloadError(
                f"Another process is downloading '{place}'. Run the same command again "
                "when it has finished."
            )
        yield


def _below(target: Path, path: str) -> Path:
    """Place of a download; links and odd names cannot lead out of the folder either."""
    place = target / path
    if target.resolve() not in place.resolve().parents:
        raise DownloadError(
            f"The catalog wants to put a download at '{path}', which is not below '{target}'. "
            "Nothing was fetched; give it a relative path."
        )
    return place


# --- one file -----------------------------------------------------------------------------------


def download(
    url: str,
    place: Path,
    digest: str,
    cache: Path,
    *,
    twin: str | None = None,
    progress: Shown = True,
) -> None:
    """Download one file to `place`, and verify it before it gets its name.

    An interrupted transfer is kept as ``place.partial`` and resumed next time,
    if the server says that the file is still the same (``If-Range``).

    Parameters
    ----------
    digest
        ``sha256:...`` or ``md5:...`` of the publisher. With ``unknown`` a later
        download is compared with the first, as ``cache/lock.json`` has it.

    Raises
    ------
    DownloadError
        No network, a refusal of the server, a transfer that stays incomplete,
        another process that is downloading the same file.
    ChecksumError
        The file is not the published one; nothing is kept.
    """
    with _held(place):
        found = _verified(url, place, digest, cache, twin=twin, progress=progress)
        place.with_name(place.name + ".partial").replace(place)
        _note(cache, place.relative_to(cache).as_posix(), url, found)


def _verified(
    url: str, place: Path, digest: str, cache: Path, *, twin: str | None, progress: Shown
) -> str:
    """Bring ``place.partial`` here, and say its digest, which is the right one."""
    import pooch
    import requests

    partial, host = place.with_name(place.name + ".partial"), urlsplit(url).netloc
    for attempt in range(_ATTEMPTS):
        before = partial.stat().st_size if partial.exists() else 0
        try:
            _transfer(url, partial, progress=progress)
            break
        except requests.HTTPError as error:
            status = f"{error.response.status_code} {error.response.reason}"
            raise DownloadError(f"{host} answered {status} for {url}.") from error
        except requests.RequestException as error:
            have = partial.stat().st_size if partial.exists() else 0
            if have > before and attempt < _ATTEMPTS - 1:
                continue
            if not have and isinstance(error, requests.ConnectionError | requests.Timeout):
                raise no_network(host, twin) from error
            raise DownloadError(
                f"The transfer of {url} broke off after {have:,} bytes. "
                "Run the same command again: it goes on from there."
            ) from error
        except OSError as error:
            raise DownloadError(f"'{partial}' cannot be written: {error.strerror}.") from error
    had = record(cache).get(place.relative_to(cache).as_posix(), {})
    recorded = had.get("digest") if had.get("url") == url else None
    expected = recorded if digest == "unknown" else digest
    algorithm = (expected or "sha256").partition(":")[0]
    found = f"{algorithm}:{pooch.file_hash(str(partial), alg=algorithm)}"
    if expected not in (None, found):
        partial.unlink()
        _state(partial).unlink(missing_ok=True)
        whose = "its publisher gives" if digest != "unknown" else f"{cache / 'lock.json'} recorded"
        raise ChecksumError(
            f"{url} has the digest {found}, but {whose} {expected}. The file was not kept."
        )
    _state(partial).unlink(missing_ok=True)
    return found


def _state(partial: Path) -> Path:
    return partial.with_name(partial.name + ".json")


def _transfer(url: str, partial: Path, *, progress: Shown) -> None:
    """Bring `partial` to its full length, from where it stands if the server agrees."""
    import requests
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    state = _state(partial)
    headers, have = {"Accept-Encoding": "identity"}, 0
    if partial.exists() and state.exists():
        note = json.loads(state.read_text(encoding="utf-8"))
        if note["url"] == url and note["validator"]:
            have = partial.stat().st_size
            headers |= {"Range": f"bytes={have}-", "If-Range": note["validator"]}
    with requests.get(url, headers=headers, stream=True, timeout=(10, 60)) as reply:
        if reply.status_code == 416:  # the server has nothing after what is here: start again
            partial.unlink()
            _transfer(url, partial, progress=progress)
            return
        reply.raise_for_status()
        resumed = reply.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        start = have if reply.status_code == 206 and resumed else 0
        length = reply.headers.get("Content-Length")
        total = start + int(length) if length else None
        etag = reply.headers.get("ETag", "")
        validator = "" if etag.startswith("W/") else etag or reply.headers.get("Last-Modified", "")
        partial.parent.mkdir(parents=True, exist_ok=True)
        state.write_text(json.dumps({"url": url, "validator": validator}), encoding="utf-8")
        columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with (
            partial.open("ab" if start else "wb") as sink,
            Progress(
                *columns, console=Console(stderr=True), disable=progress is not True, transient=True
            ) as bar,
        ):
            name = partial.name.removesuffix(".partial").removesuffix(".archive")
            task = bar.add_task(name, total=total, completed=start)
            for block in reply.iter_content(1 << 16):
                sink.write(block)
                bar.update(task, advance=len(block))
                if callable(progress):
                    have = sink.tell()
                    progress(have / total if total else -1.0, f"{name}: {have / 1e6:,.1f} MB")


# --- archives -----------------------------------------------------------------------------------


def member_problem(name: str) -> str | None:
    """Say why a member of that name must not be unpacked, if it must not.

    >>> member_problem("../evil.txt")
    "the member '../evil.txt' leaves the folder"
    """
    plain = name.replace("\\", "/")
    if not plain or "\0" in plain or plain.startswith("/") or re.match(r"[A-Za-z]:", plain):
        return f"the member {name!r} has an absolute or empty name"
    if ".." in PurePosixPath(plain).parts:
        return f"the member {name!r} leaves the folder"
    return None


def unpack(packed: Path, folder: Path) -> None:
    """Unpack a zip or tar file to `folder`: all of it or nothing.

    Members that would leave the folder, links out of it and devices are
    refused. Folders that only wrap one other folder are dropped, so that a
    layout does not depend on how its publisher packed it.
    """
    fresh = folder.with_name(folder.name + ".unpacking")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        if zipfile.is_zipfile(packed):
            with zipfile.ZipFile(packed) as source:
                for member in source.infolist():
                    _refuse(member_problem(member.filename))
                    if stat.S_ISLNK(member.external_attr >> 16):
                        _refuse(f"the member {member.filename!r} is a link")
                source.extractall(fresh)
        else:
            with tarfile.open(packed) as source:
                source.extractall(fresh, filter=_inside_only)
                while source.fileobj and source.fileobj.read(1 << 20):
                    pass  # only at the end of the stream is its checksum compared
        inner = fresh
        while len(inside := list(inner.iterdir())) == 1 and inside[0].is_dir():
            inner = inside[0]
        shutil.rmtree(folder, ignore_errors=True)  # of another digest
        inner.replace(folder)
    except (*_BROKEN, OSError) as error:
        raise DownloadError(
            f"'{packed}' cannot be unpacked: {error}. Nothing was kept of it."
        ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _refuse(problem: str | None) -> None:
    if problem:
        raise tarfile.TarError(problem)


def _inside_only(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo:
    _refuse(member_problem(member.name))
    return tarfile.data_filter(member, folder)
