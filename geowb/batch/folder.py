"""A folder of run directories: names, who may write which, what a killed run left.

A run is written under a temporary name, ``.NAME.partial-...`` or, in a sweep,
``.NAME.claimed-...``, and renamed when it has ended. In a sweep the process that
writes it holds the lock ``.STUDY-HASH.lock``, which the system drops if that
process is killed: who gets the lock may tidy up what an earlier holder left.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from geowb.errors import RequestError
from geowb.locks import held

__all__ = [
    "by_key",
    "claim",
    "earlier",
    "finish",
    "is_done",
    "key",
    "label",
    "not_writable",
    "partial",
    "read_record",
    "recover",
    "rename_in",
    "run_name",
]

_TEXTS = (".ipynb", ".json", ".csv", ".txt", ".yaml", ".html")


def key(study: str, values: Mapping[str, Any]) -> str:
    """Hash of a study and all values of its parameters: what makes two runs the same.

    >>> key("agb_transfer", {"epochs": 5, "seed": 0})
    'f160b35a'
    """
    content = json.dumps([study, dict(values)], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()[:8]


def run_name(study: str, values: Mapping[str, Any], label: str = "") -> str:
    """Name for a run: the study, a readable label, and a hash of all values.

    >>> run_name("agb_transfer", {"epochs": 5, "seed": 0}, "teaching")
    'agb_transfer-teaching-f160b35a'
    """
    return "-".join([*filter(None, map(_plain, (study, label))), key(study, values)])


def label(values: Mapping[str, Any], varied: Sequence[str]) -> str:
    """Readable part of a sweep's run: what varies, and to what.

    >>> label({"encoder": "unet", "lr": 0.001, "seed": 2}, ["encoder", "seed"])
    'encoder=unet,seed=2'
    """
    parts = (f"{name}={_short(values[name])}" for name in varied if name in values)
    return ",".join(parts)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return "+".join(map(_short, value)) or "none"
    return " ".join(str(value).split())


def _plain(part: str) -> str:
    return re.sub(r"[^\w.=,+-]+", "_", part, flags=re.ASCII)[:60]


def partial(out: Path, name: str, *, claimed: bool = False) -> Path:
    """Make the folder that a run is written to while it goes."""
    kind = "claimed" if claimed else "partial"
    folder = out / f".{name}.{kind}-{os.getpid()}-{secrets.token_hex(3)}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise not_writable(out, error) from error
    return folder


def not_writable(out: Path, error: OSError) -> RequestError:
    """Error that tells of a folder in which no run can be stored."""
    return RequestError(
        f"The folder {out} for run directories cannot be written to ({error.strerror}). "
        "Choose another with --out."
    )


def claim(out: Path, study: str, values: Mapping[str, Any]) -> AbstractContextManager[bool]:
    """Be the only one who makes this run in this folder; gives False if somebody else is at it."""
    return held(out / f".{_plain(study)}-{key(study, values)}.lock")


def earlier(
    out: Path,
    study: str,
    values: Mapping[str, Any],
    known: Mapping[str, Sequence[Path]] | None = None,
) -> list[tuple[Path, dict[str, Any]]]:
    """List the runs of these values that have ended, each with its record (empty: a broken one).

    Parameters
    ----------
    known
        What `by_key` found in `out`, so that it is not listed once more.
    """
    digest = key(study, values)
    paths = out.glob(f"{_plain(study)}-*{digest}*") if known is None else known.get(digest, ())
    found = []
    for path in sorted(paths):
        record = read_record(path)
        if path.is_dir() and (not record or _same(record, study, values)):
            found.append((path, record))
    return found


def by_key(out: Path) -> dict[str, list[Path]]:
    """List what lies in a folder of runs, by the hash in its name."""
    found: dict[str, list[Path]] = {}
    for path in out.glob("[!.]*"):
        if match := re.search(r"-([0-9a-f]{8})(-\d+)?$", path.name):
            found.setdefault(match[1], []).append(path)
    return found


def recover(out: Path, study: str, values: Mapping[str, Any]) -> None:
    """Put right what a killed run of these values left; only for who holds the claim.

    A run that had ended gets its name; one that had not is removed; a run that
    was being replaced gets its name back if nothing came in its place.
    """
    digest = key(study, values)
    for left in sorted(out.glob(f".{_plain(study)}-*{digest}*.claimed-*")):
        record = read_record(left)
        name = re.sub(r"^\.|\.claimed-.*$", "", left.name)
        if record.get("status") == "done" and _same(record, study, values):
            finish(left, name)
        else:
            shutil.rmtree(left, ignore_errors=True)
    for old in sorted(out.glob(f".{_plain(study)}-*{digest}*.old-*")):
        if any(record for _, record in earlier(out, study, values)):
            shutil.rmtree(old, ignore_errors=True)
        else:
            finish(old, re.sub(r"^\.|\.old-.*$", "", old.name))


def finish(folder: Path, name: str, replaced: Sequence[Path] = ()) -> Path:
    """Give a run its final name, and this name to every text in it that has the temporary one.

    Parameters
    ----------
    replaced
        Runs in whose place it comes; they are removed when it has its name. One that is done
        leaves its place for one that is done only.
    """
    leaving = [path for path in replaced if is_done(folder) or not is_done(path)]
    olds = [(path, path.with_name(f".{path.name}.old-{secrets.token_hex(3)}")) for path in leaving]
    for path, old in olds:
        path.rename(old)
    final = _give_name(folder, name)
    for _, old in olds:
        shutil.rmtree(old, ignore_errors=True)
    return final


def _give_name(folder: Path, name: str) -> Path:
    """Rename to the first name of ``NAME``, ``NAME-2``, ... that no run has."""
    old = folder.name
    for count in itertools.count(1):
        final = folder.with_name(name if count == 1 else f"{name}-{count}")
        if final.exists() and any(final.iterdir()):
            continue
        rename_in(folder, old, final.name)
        old = final.name
        try:
            return folder.rename(final)  # an empty folder is replaced, any other is an error
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    raise AssertionError


def rename_in(folder: Path, old: str, new: str) -> None:
    """Put `new` for `old` in all texts of a run."""
    for file in [f for f in folder.rglob("*") if f.suffix in _TEXTS and f.is_file()]:
        content = file.read_bytes()
        if old.encode() not in content:
            continue
        copy = file.with_name(f".{file.name}.renamed")
        with contextlib.suppress(OSError):  # a full disk: the file is more than the name in it
            copy.write_bytes(content.replace(old.encode(), new.encode()))
            copy.replace(file)
        copy.unlink(missing_ok=True)


def read_record(path: Path) -> dict[str, Any]:
    """Read a run's record; empty where there is none or it is broken."""
    try:
        record = json.loads((path / "run.json").read_text("utf-8"))
        return record if isinstance(record, dict) and "status" in record else {}
    except (OSError, ValueError):
        return {}


def is_done(path: Path) -> bool:
    """Whether a run's record says that it was done."""
    return read_record(path).get("status") == "done"


def _same(record: Mapping[str, Any], study: str, values: Mapping[str, Any]) -> bool:
    return record.get("study") == study and record.get("parameters") == dict(values)
