"""Folders of long work that goes on where it stopped: whose a folder is, and what may be removed.

>>> WORK = WorkFolder("pretraining", "pretraining.json", made=("chips.zarr", "loss.csv"))
>>> WORK.claim(Path("models/mine"), {"steps": 5000})  # doctest: +SKIP
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geowb.batch.rundir import write_json
from geowb.errors import RequestError

__all__ = ["WorkFolder"]


@dataclass(frozen=True)
class WorkFolder:
    """What a kind of work leaves in its folder.

    Parameters
    ----------
    kind
        The work in a word, for messages: ``pretraining``.
    record
        File that says what was asked for.
    made
        Names, or patterns of names, of what the work makes beside it.
    leftovers
        Those of what a process that was killed may have left; they are not work that was begun.
    """

    kind: str
    record: str
    made: tuple[str, ...]
    leftovers: tuple[str, ...] = ()

    def claim(self, folder: Path, asked: Mapping[str, Any], *, force: bool = False) -> None:
        """Take a folder for what is asked, or make sure that it is that work's already.

        With `force` what the folder holds of other work of this kind is thrown away; other files
        stay.

        Raises
        ------
        RequestError
            If it holds other work, something else, or cannot be written.
        """
        record, wanted = folder / self.record, json.loads(json.dumps(asked))
        begun = any(True for pattern in self.made for _ in folder.glob(pattern))
        cleared = (force or not begun) and self.clear(folder)  # nothing begun holds no place
        if record.is_file():
            try:
                held = dict(json.loads(record.read_text("utf-8")))
            except (ValueError, TypeError) as error:
                raise RequestError(
                    f"{record} is damaged ({error}): remove the folder, or give another (--out)."
                ) from error
            if differs := _differences(held, wanted):
                raise RequestError(
                    f"{folder} holds another {self.kind}: {'; '.join(differs)}. Give another "
                    "folder (--out), or --force to throw that one away."
                )
            return
        if folder.exists() and not folder.is_dir():
            raise RequestError(f"{folder} is a file: give a folder (--out).")
        if folder.exists() and any(folder.iterdir()) and not cleared:
            raise RequestError(
                f"{folder} is not empty, and holds no {self.kind}: give another folder (--out)."
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(record, wanted)
        except OSError as error:
            raise RequestError(
                f"{folder} cannot be written ({error.strerror}): give another folder (--out)."
            ) from error

    def clear(self, folder: Path) -> bool:
        """Remove what the work made, and nothing else; return whether there was any."""
        if not (folder / self.record).is_file():
            return False
        # The record last: a removal that is cut off can be done again.
        for pattern in (*self.leftovers, *self.made, self.record):
            for path in folder.glob(pattern):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        return True


def _differences(held: Mapping[str, Any], wanted: Mapping[str, Any], where: str = "") -> list[str]:
    found = []
    for name in sorted(held.keys() | wanted.keys()):
        a, b = held.get(name), wanted.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{where}{name}.")
        elif a != b:
            found.append(f"{where}{name} is {_short(a)} there, {_short(b)} here")
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
