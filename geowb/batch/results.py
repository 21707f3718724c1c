"""Many run directories as one table."""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geowb.errors import RequestError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["BASE", "load_runs", "read_parquet", "write_at_once", "write_parquet"]

#: Columns that every table of runs starts with, and their types.
BASE = {
    "run": "str",
    "study": "str",
    "status": "str",  # done, failed or broken
    "profile": "str",
    "seconds": "float64",  # in all, kernel start included
    "peak_memory_mb": "float64",  # resident memory of the kernel, 10^6 bytes
    "data": "str",  # label such as "world 1.0 (simulated)"
    "simulated": "bool",  # any of the data is the simulated world
    "evidence": "str",  # simulated, real, mixed or unknown
    "data_sha256": "str",  # of what run.json says of the data
    "started": "datetime64[us, UTC]",
    "geowb": "str",
    "commit": "str",
    "notebook_sha256": "str",
    "error": "str",
    "path": "str",
}
_LONGEST_ERROR = 300  # characters


def load_runs(folder: str | Path) -> pd.DataFrame:
    """Read all run directories below a folder, one row each, sorted by start.

    The columns of ``BASE`` come first, then every parameter, then every
    metric, each under its own name. A parameter whose name is taken by a
    column before it is called ``parameter/NAME``; a metric whose name is
    taken, or begins with ``metric/``, is called ``metric/NAME``.
    ``frame.attrs`` has the ``units`` of the metrics, the columns of
    ``parameters`` and ``metrics`` by name, and ``not_finite``: for each path
    the metrics that were recorded but are no finite number (NaN in the table,
    as are metrics that a run does not have).

    A directory whose ``run.json`` or ``metrics.json`` cannot be read is a row
    with status ``broken`` and the reason in ``error``. Hidden folders, and
    what lies inside run directories, are not looked at.

    >>> frame = load_runs("runs")  # doctest: +SKIP
    >>> frame[["run", "status", "data", "rmse/unet/all"]]  # doctest: +SKIP

    Raises
    ------
    RequestError
        There is no such folder.
    """
    import pandas as pd

    folder = Path(folder).expanduser().absolute()
    if not folder.is_dir():
        raise RequestError(f"There is no folder {folder} with runs in it.")
    runs = [_read(path) for path in _run_directories(folder)]
    runs.sort(key=lambda run: (run["base"]["started"] is None, str(run["base"]["started"])))
    parameters = _names((run["parameters"] for run in runs), BASE, "parameter")
    metrics = _names((run["metrics"] for run in runs), [*BASE, *parameters.values()], "metric")
    columns: dict[str, Any] = {
        name: pd.Series([run["base"][name] for run in runs], dtype=kind)
        for name, kind in BASE.items()
    }
    for name, column in parameters.items():
        columns[column] = _series([run["parameters"].get(name) for run in runs])
    for name, column in metrics.items():
        values = [run["metrics"].get(name, {}).get("value") for run in runs]
        columns[column] = pd.Series(values, dtype="float64")
    frame = pd.DataFrame(columns)
    frame.attrs = {
        "units": {metrics[n]: m["unit"] for run in runs for n, m in run["metrics"].items()},
        "parameters": parameters,
        "metrics": metrics,
        "not_finite": {
            run["base"]["path"]: missing
            for run in runs
            if (missing := [n for n, m in run["metrics"].items() if not math.isfinite(m["value"])])
        },
    }
    return frame


def write_parquet(frame: pd.DataFrame, path: str | Path) -> Path:
    """Write a table of runs at one stroke; lists and mixed values as JSON texts.

    `read_parquet` gives back the same table. Other readers see, in the
    columns named under ``json`` in the attributes, JSON.

    >>> write_parquet(load_runs("runs"), "runs.parquet")  # doctest: +SKIP
    """
    import io

    texts = [name for name in frame.columns if frame[name].dtype == object]
    encoded = frame.assign(**{name: frame[name].map(_json).astype("str") for name in texts})
    encoded.attrs = {**frame.attrs, "json": texts}
    buffer = io.BytesIO()
    encoded.to_parquet(buffer)
    return write_at_once(Path(path), buffer.getvalue())


def read_parquet(path: str | Path) -> pd.DataFrame:
    """Read what `write_parquet` has written.

    >>> read_parquet("runs.parquet").attrs["units"]  # doctest: +SKIP
    """
    import pandas as pd

    frame = pd.read_parquet(path)
    attributes = dict(frame.attrs)
    for name in attributes.pop("json", []):
        frame[name] = pd.Series([json.loads(text) for text in frame[name]], dtype=object)
    frame.attrs = attributes
    return frame


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


def _run_directories(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        if "run.json" in files:
            folders.clear()
            yield Path(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))


def _read(path: Path) -> dict[str, Any]:
    """Read one run directory: its base columns, parameters and metrics."""
    record: dict[str, Any] = {}
    parameters: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    try:
        record = _mapping(path / "run.json")
        parameters = _checked_parameters(record)
        if (path / "metrics.json").exists():
            metrics = _checked_metrics(_mapping(path / "metrics.json"))
        problem = ""
    except (OSError, ValueError) as error:
        problem = str(error)
    base = _base(path, record)
    if problem:
        base |= {"status": "broken", "error": _sentence(problem)}
    return {"base": base, "parameters": parameters, "metrics": metrics}


def _mapping(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file.name} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file.name} holds a {type(content).__name__}, not names and values")
    return content


def _checked_parameters(record: Mapping[str, Any]) -> dict[str, Any]:
    for key, kind in {"study": str, "status": str, "parameters": dict}.items():
        if not isinstance(record.get(key), kind):
            raise ValueError(f"run.json has no usable '{key}'")
    if record["status"] not in ("done", "failed"):
        raise ValueError(f"run.json says '{record['status']}', which is neither done nor failed")
    return record["parameters"]


def _checked_metrics(metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    checked = {}
    for name, metric in metrics.items():
        value = metric.get("value", "") if isinstance(metric, dict) else ""
        if not isinstance(value, int | float | None) or isinstance(value, bool):
            raise ValueError(f"metrics.json has no number under '{name}'")
        checked[name] = {"value": _number(value), "unit": str(metric.get("unit", ""))}
    return checked


def _base(path: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    label, evidence = _data(record)
    data = json.dumps(record.get("data"), sort_keys=True)
    return {
        **{name: _text(record.get(name)) for name in ("study", "status", "profile", "geowb")},
        **{name: _text(record.get(name)) for name in ("commit", "notebook_sha256")},
        **{name: _number(record.get(name)) for name in ("seconds", "peak_memory_mb")},
        "run": path.name,
        "data": label,
        "simulated": evidence in ("simulated", "mixed"),
        "evidence": evidence,
        "data_sha256": hashlib.sha256(data.encode()).hexdigest()[:16],
        "started": _time(record.get("started")),
        "error": _failure(record.get("error")),
        "path": str(path),
    }


def _data(record: Mapping[str, Any]) -> tuple[str, str]:
    """Label of a run's data, and what sort of evidence they are."""
    sources, labels, sorts = record.get("data"), [], set()
    for parameter, source in sources.items() if isinstance(sources, dict) else ():
        source = source if isinstance(source, dict) else {}
        asked = record.get("parameters")
        name = source.get("entry") or (asked.get(parameter) if isinstance(asked, dict) else None)
        if "world_version" in source:
            labels.append(f"{name} {source['world_version']} (simulated)")
            sorts.add("simulated")
        elif "error" in source or not name:
            labels.append(f"{name or parameter} (not known what was read)")
            sorts.add("unknown")
        else:
            labels.append(str(name))
            sorts.add("real")
    evidence = "mixed" if len(sorts) > 1 else (sorts or {"unknown"}).pop()
    if evidence == "mixed":
        labels = [label if label.endswith(")") else f"{label} (real)" for label in labels]
    return " + ".join(dict.fromkeys(labels)) or "no catalog entry", evidence


def _failure(error: Any) -> str | None:
    if not isinstance(error, dict):
        return None if error is None else _sentence(str(error))
    where = f"Under '{error['heading']}': " if error.get("heading") else ""
    return _sentence(f"{where}{error.get('type', 'Error')}: {error.get('message', '')}")


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    text = text if len(text) <= _LONGEST_ERROR else f"{text[:_LONGEST_ERROR]}..."
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _names(runs: Iterable[Mapping[str, Any]], taken: Iterable[str], prefix: str) -> dict[str, str]:
    """Column for each name, in the order of first use."""
    taken = set(taken)
    return {
        name: f"{prefix}/{name}" if name in taken or name.startswith(f"{prefix}/") else name
        for run in runs
        for name in run
    }


def _series(values: list[Any]) -> pd.Series:
    """Make a column of parameter values: a whole number stays one where others are missing."""
    import pandas as pd

    kinds = {type(value) for value in values if value is not None}
    kinds = {float} if kinds == {int, float} else kinds
    single = {int: "Int64", bool: "boolean", float: "float64", str: "str"}
    kind = single.get(next(iter(kinds)), object) if len(kinds) == 1 else object
    if kind == "Int64" and any(abs(value or 0) >= 2**63 for value in values):
        kind = object
    return pd.Series(values, dtype=kind)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _number(value: Any) -> float:
    """`value` as a float; NaN where it is none, and for whole numbers beyond all floats."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return math.nan
    return float(value) if abs(value) < 1e300 else math.nan


def _time(value: Any) -> datetime | None:
    try:
        time = datetime.fromisoformat(str(value))
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
