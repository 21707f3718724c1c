"""Many run directories: what each of them says, and one table of them all."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geowb.batch.checks import as_text
from geowb.batch.record import one_sentence
from geowb.batch.rundir import write_at_once
from geowb.errors import RequestError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["BASE", "TECHNICAL", "Record", "load_runs", "number", "read_runs", "write_parquet"]

#: Parameters that do not change what a run measures; what a catalog says of the data is in
#: ``data_sha256``.
TECHNICAL = frozenset({"accelerator", "catalog", "run_dir"})


@dataclass(frozen=True)
class Record:
    """What one run directory says."""

    run: str
    study: str
    status: str  # done, failed or broken
    profile: str
    seconds: float  # in all, kernel start included
    peak_memory_mb: float  # resident memory of the kernel, 10^6 bytes
    data: str  # label such as "world 1.0 (simulated)"
    simulated: bool | None  # any of the data is the simulated world; None where unknown
    evidence: str  # simulated, real, mixed or unknown
    data_sha256: str  # of what run.json says of the data
    started: datetime | None
    geowb: str
    commit: str
    notebook_sha256: str
    error: str
    path: str
    parameters: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)  # NaN: recorded, but no finite number
    units: dict[str, str] = field(default_factory=dict)

    def fill(self, template: str) -> str:
        """Put parameters into a metric's name: rmse/{encoder}/all -> rmse/swin_demo/all."""
        return re.sub(r"\{(\w+)\}", lambda m: as_text(self.parameters.get(m[1], m[0])), template)

    def settings(self, names: Sequence[str] | None = None, *, seed: bool = False) -> dict[str, Any]:
        """Parameters that matter: those named, or all but the technical ones and the seed."""
        if names is not None:
            return {name: self.parameters.get(name) for name in names}
        left_out = TECHNICAL if seed else TECHNICAL | {"seed"}
        return {n: v for n, v in self.parameters.items() if n not in left_out}

    def key(self, names: Sequence[str] | None = None, *, seed: bool = False) -> str:
        """Text that this run shares with its repeats (over seeds, unless `seed`)."""
        data = [self.data, self.evidence] if names is None or "data" in names else []
        return json.dumps([data, self.settings(names, seed=seed)], sort_keys=True)


_KINDS = {"float": "float64", "bool | None": "boolean", "datetime | None": "datetime64[us, UTC]"}
#: Columns that every table of runs starts with, and their types.
BASE = {f.name: _KINDS.get(f.type, "str") for f in fields(Record) if f.default_factory is MISSING}


def read_runs(folder: str | Path) -> list[Record]:
    """Read all run directories below a folder, in the order of their start.

    Hidden folders, and what lies inside run directories, are not looked at.

    >>> [run.fill("rmse/{encoder}/all") for run in read_runs("runs")]  # doctest: +SKIP
    ['rmse/swin_demo/all']

    Raises
    ------
    RequestError
        There is no such folder.
    """
    folder = Path(folder).expanduser().absolute()
    if not folder.is_dir():
        raise RequestError(f"There is no folder {folder} with runs in it.")
    runs = [_read(path) for path in _run_directories(folder)]
    never = datetime.min.replace(tzinfo=UTC)
    return sorted(runs, key=lambda run: (run.started or never, run.path))


def load_runs(folder: str | Path | Sequence[Record]) -> pd.DataFrame:
    """Read all run directories below a folder as a table, one row each, in the order of start.

    What `read_runs` gives is taken as well as the folder.

    The columns of ``BASE`` come first, then every parameter, then every
    metric, each under its own name. A parameter whose name is taken by a
    column before it is called ``parameter/NAME``; a metric whose name is
    taken, or begins with ``metric/``, is called ``metric/NAME``. A metric
    that a run has not recorded, or not as a finite number, is NaN.
    ``frame.attrs`` has the ``units`` of the metrics, and the columns of
    ``parameters`` and ``metrics`` by name.

    A directory whose ``run.json`` or ``metrics.json`` cannot be read is a row
    with status ``broken`` and the reason in ``error``.

    >>> frame = load_runs("runs")  # doctest: +SKIP
    >>> frame[["run", "status", "data", "rmse/unet/all"]]  # doctest: +SKIP

    Raises
    ------
    RequestError
        There is no such folder.
    """
    import pandas as pd

    runs = read_runs(folder) if isinstance(folder, str | Path) else folder
    parameters = _names((run.parameters for run in runs), BASE, "parameter")
    metrics = _names((run.metrics for run in runs), [*BASE, *parameters.values()], "metric")
    columns: dict[str, Any] = {
        name: pd.Series([getattr(run, name) for run in runs], dtype=kind)
        for name, kind in BASE.items()
    }
    for name, column in parameters.items():
        columns[column] = _series([run.parameters.get(name) for run in runs])
    for name, column in metrics.items():
        columns[column] = pd.Series([run.metrics.get(name) for run in runs], dtype="float64")
    frame = pd.DataFrame(columns)
    units = {metrics[name]: unit for run in runs for name, unit in run.units.items()}
    frame.attrs = {"units": units, "parameters": parameters, "metrics": metrics}
    return frame


def write_parquet(frame: pd.DataFrame, path: str | Path) -> Path:
    """Write a table of runs at one stroke; lists and mixed values as JSON texts.

    >>> write_parquet(load_runs("runs"), "runs.parquet")  # doctest: +SKIP
    """
    dump = functools.partial(json.dumps, ensure_ascii=False)
    texts = [name for name in frame.columns if frame[name].dtype == object]
    encoded = frame.assign(**{name: frame[name].map(dump).astype("str") for name in texts})
    return write_at_once(Path(path), encoded.to_parquet())


def number(value: Any) -> float:
    """`value` as a float; NaN where it is none, and where it is too large to be squared.

    >>> number(3), number("3"), number(10**400)
    (3.0, nan, nan)
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        return math.nan
    return float(value) if abs(value) < 1e150 else math.nan


def _run_directories(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        if "run.json" in files:
            folders.clear()
            yield Path(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))


def _read(path: Path) -> Record:
    record: dict[str, Any] = {}
    found: dict[str, Any] = {}
    problem = ""
    try:
        record = _mapping(path / "run.json")
        found = {"parameters": _checked_parameters(record)}
        if (path / "metrics.json").exists():
            found |= _checked_metrics(_mapping(path / "metrics.json"))
    except (OSError, ValueError) as error:
        problem = str(error)
    base = _base(path, record)
    if problem:
        base |= {"status": "broken", "error": one_sentence(problem, 300)}
    return Record(**base, **found)


def _mapping(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text("utf-8"))
        json.dumps([str(file), content], ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{file.name} or its path has half a character in it") from None
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
    return {name: value for name, value in record["parameters"].items() if value is not None}


def _checked_metrics(metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    for name, metric in metrics.items():
        value = metric.get("value", "") if isinstance(metric, dict) else ""
        if not isinstance(value, int | float | None) or isinstance(value, bool):
            raise ValueError(f"metrics.json has no number under '{name}'")
    return {
        "metrics": {name: number(metric["value"]) for name, metric in metrics.items()},
        "units": {name: str(metric.get("unit", "")) for name, metric in metrics.items()},
    }


def _base(path: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    label, evidence = _data(record)
    data = json.dumps(_without(record.get("data"), "catalog_sha256"), sort_keys=True)
    texts = ("study", "status", "profile", "geowb", "commit", "notebook_sha256")
    return {
        **{name: None if (v := record.get(name)) is None else str(v) for name in texts},
        **{name: number(record.get(name)) for name in ("seconds", "peak_memory_mb")},
        "run": _whole(path.name),
        "data": label,
        "simulated": None if evidence == "unknown" else evidence != "real",
        "evidence": evidence,
        "data_sha256": hashlib.sha256(data.encode()).hexdigest()[:16],
        "started": _time(record.get("started")),
        "error": _failure(record.get("error")),
        "path": _whole(str(path)),
    }


def _whole(path: str) -> str:
    r"""Path as text that can be written; bytes that are no UTF-8 as \udcff."""
    return path.encode("utf-8", "backslashreplace").decode()


def _without(value: Any, name: str) -> Any:
    """Leave a key out of nested mappings."""
    if not isinstance(value, dict):
        return value
    return {key: _without(item, name) for key, item in value.items() if key != name}


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
    if len(sorts) < 2:
        evidence = min(sorts, default="unknown")
    else:
        evidence = "mixed" if "simulated" in sorts else "unknown"
        labels = [label if label.endswith(")") else f"{label} (real)" for label in labels]
    return " + ".join(dict.fromkeys(labels)) or "no catalog entry", evidence


def _failure(error: Any) -> str | None:
    if not isinstance(error, dict):
        return None if error is None else one_sentence(str(error), 300)
    where = f"Under '{error['heading']}': " if error.get("heading") else ""
    return one_sentence(f"{where}{error.get('type', 'Error')}: {error.get('message', '')}", 300)


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


def _time(value: Any) -> datetime | None:
    try:
        time = datetime.fromisoformat(str(value))
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
