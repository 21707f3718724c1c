"""The run directory, as a notebook sees it: metrics, figures, tables, model files."""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
from pathlib import Path
from typing import Any

from geowb.errors import DataError

__all__ = ["RunDirectory", "write_at_once", "write_json"]


class RunDirectory:
    """Folder that takes what a study makes.

    >>> run = RunDirectory("runs/demo")  # doctest: +SKIP
    >>> run.metric("rmse/unet/all", 61.2, "Mg/ha")  # doctest: +SKIP
    >>> figure.savefig(run.figure("maps.png"))  # doctest: +SKIP

    Parameters
    ----------
    path
        The study's ``run_dir`` parameter. Empty (a notebook run by hand)
        means ``runs/by-hand`` under the current folder, whose earlier
        metrics are dropped at the first new one.
    """

    def __init__(self, path: str | Path = "") -> None:
        self.path = Path(path or Path("runs") / "by-hand").expanduser().absolute()
        self._stale = not path

    def __repr__(self) -> str:
        return f"RunDirectory({str(self.path)!r})"

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """Metrics so far: name -> ``{"value": ..., "unit": ...}``."""
        file = self.path / "metrics.json"
        if self._stale or not file.is_file():
            return {}
        return json.loads(file.read_text("utf-8"))

    def metric(self, name: str, value: float, unit: str) -> None:
        """Record a number with its unit (``""`` where it has none) in ``metrics.json``.

        A value that is not finite is stored as null with a note, so that the
        file stays JSON.

        Raises
        ------
        DataError
            The value is not one number.
        """
        number = _number(name, value)
        entry: dict[str, Any] = {"value": number, "unit": unit}
        if not math.isfinite(number):
            note = "not a number" if math.isnan(number) else "infinite"
            entry = {"value": None, "unit": unit, "note": note}
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "metrics.json", self.metrics | {name: entry})
        self._stale = False

    def figure(self, name: str) -> Path:
        """Path for a figure, ``figures/NAME``; the folder is made."""
        return self._inside("figures", name)

    def table(self, name: str) -> Path:
        """Path for a table, ``tables/NAME``; the folder is made.

        For what has many rows, such as the points of a curve; a metric is one number.
        """
        return self._inside("tables", name)

    def model(self, name: str) -> Path:
        """Path for a model file, ``models/NAME/model.safetensors``; the folder is made."""
        return self._inside("models", f"{name}/model.safetensors")

    def _inside(self, folder: str, name: str) -> Path:
        target = self.path / folder / name
        if not name or not Path(os.path.normpath(target)).is_relative_to(self.path / folder):
            raise DataError(f"'{name}' is not a name for a file in {folder}/ of the run directory.")
        target.parent.mkdir(parents=True, exist_ok=True)
        return target


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file at one stroke."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    write_at_once(path, f"{text}\n".encode())


def write_at_once(path: Path, content: bytes) -> Path:
    """Write a file so that a reader sees the old content or the new, never half of it.

    >>> write_at_once(Path("report.html"), b"<p>Done.")  # doctest: +SKIP
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _number(name: str, value: Any) -> float | int:
    """`value` as a Python number; numpy and torch scalars have ``item``."""
    with contextlib.suppress(ValueError, RuntimeError):
        value = value.item() if hasattr(value, "item") else value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"Metric '{name}' is {value!r}, which is not one number.")
    return value
