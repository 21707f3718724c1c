"""One run of a study: papermill, a run directory, a record of what was done."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from geowb.batch.kernel import Execution, check_kernel, execute, heading_of
from geowb.batch.preflight import preflight, sources
from geowb.batch.progress import Progress
from geowb.batch.record import environment
from geowb.batch.rundir import RunDirectory, write_json
from geowb.batch.studies import Study
from geowb.errors import GeowbError, RequestError, RunFailed

__all__ = ["Run", "load_run", "run", "run_name"]

_LARGEST_NOTEBOOK = 2_000_000  # bytes; larger ones are slow to open and to keep in git


@dataclass(frozen=True)
class Run:
    """A run that has ended.

    >>> load_run("runs/agb_transfer-teaching-3f9a1c2b").seconds  # doctest: +SKIP
    41.7
    """

    path: Path
    study: str
    status: str  # "done" or "failed"
    parameters: dict[str, Any]
    metrics: dict[str, dict[str, Any]]
    seconds: float
    error: dict[str, Any] | None = None
    warnings: tuple[str, ...] = ()

    @property
    def notebook(self) -> Path:
        """The executed notebook."""
        return self.path / "notebook.ipynb"


def run(
    study: str | Path,
    parameters: Mapping[str, Any] | None = None,
    *,
    profile: str | None = None,
    out: str | Path = "runs",
    name: str | None = None,
    kernel: str = "python3",
    progress: bool = True,
    timeout: float | None = None,
) -> Run:
    """Run a study once, in a directory of its own.

    >>> run = geowb.batch.run("agb_transfer", {"epochs": 1}, profile="teaching")  # doctest: +SKIP
    >>> run.metrics["rmse/unet/all"]  # doctest: +SKIP
    {'value': 61.2, 'unit': 'Mg/ha'}

    Parameters
    ----------
    study
        A study's name, or the path of a notebook.
    parameters
        Values that win over the profile's and the notebook's own.
    profile
        ``teaching``, ``full``, ``paper`` or another that the study declares.
    out
        Folder for run directories; made if it is not there.
    name
        Name of the run directory; by default made of study, profile and a
        hash of all values. A run never takes the place of an earlier one: the
        second of a name gets ``-2``.
    kernel
        Name of the Jupyter kernel.
    timeout
        Seconds that the whole run may take.

    Raises
    ------
    RequestError
        The request was wrong; nothing has been started or written.
    RunFailed
        The notebook raised, or its kernel died; the directory is kept.
    """
    study, values = preflight(study, parameters, profile=profile)
    check_kernel(kernel)
    name = name or run_name(study.name, values, profile or "")
    if not re.fullmatch(r"\w[\w.=,+-]{0,99}", name, re.ASCII):
        raise RequestError(
            f"'{name}' cannot be the name of a run directory: letters, digits and . = , + - _ only."
        )
    result = _run(study, values, profile, Path(out), name, kernel, progress, timeout)
    if result.error:
        where = f" under '{result.error['heading']}'" if result.error["heading"] else ""
        raise RunFailed(
            f"{study.name} failed{where}. {result.error['type']}: "
            f"{_one_sentence(result.error['message'])} "
            f"The notebook with the error in it is kept: {result.notebook}"
        )
    return result


def run_name(study: str, values: Mapping[str, Any], label: str = "") -> str:
    """Name for a run: the study, a readable label, and a hash of all values.

    >>> run_name("agb_transfer", {"epochs": 5, "seed": 0}, "teaching")
    'agb_transfer-teaching-f160b35a'
    """
    content = json.dumps([study, dict(values)], sort_keys=True, ensure_ascii=False)
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    parts = [re.sub(r"[^\w.=,+-]+", "_", part, flags=re.ASCII)[:60] for part in (study, label)]
    return "-".join([*filter(None, parts), digest])


def load_run(path: str | Path) -> Run:
    """Read a run directory.

    Raises
    ------
    RequestError
        The folder is not a run directory, or its ``run.json`` is broken.
    """
    path = Path(path).expanduser().absolute()
    try:
        record = json.loads((path / "run.json").read_text("utf-8"))
        return Run(
            path=path,
            study=record["study"],
            status=record["status"],
            parameters=record["parameters"],
            metrics=RunDirectory(path).metrics,
            seconds=record["seconds"],
            error=record["error"],
            warnings=tuple(record["warnings"]),
        )
    except FileNotFoundError as error:
        raise RequestError(f"{path} is not a run directory: it has no run.json.") from error
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise RequestError(f"The record of the run {path} cannot be read: {error!r}.") from error


def _run(
    study: Study,
    values: dict[str, Any],
    profile: str | None,
    out: Path,
    name: str,
    kernel: str,
    progress: bool,
    timeout: float | None,
) -> Run:
    """Run what has passed preflight; a failure of the notebook is in the result's `error`."""
    partial = _partial(out, name)
    record = {"study": study.name, "status": "running", "profile": profile, "parameters": values}
    record |= {"seed": values.get("seed"), "kernel": kernel, "started": _now()}
    try:
        record |= environment(study.path)
        record["data"] = _provenance(study, values)  # before: files may change while it runs
        write_json(partial / "run.json", record)
        role, started = study.with_role("run_dir"), time.monotonic()
        injected = values | ({role: str(partial)} if role else {})
        cells = _code_cells(study.path) + bool(injected)
        with Progress(study.name, cells, shown=progress) as shown:
            record["error"] = execute(
                study.path,
                partial / "notebook.ipynb",
                injected,
                kernel=kernel,
                execution=Execution(shown.show),
                timeout=timeout,
            )
        record |= {"finished": _now(), "seconds": round(time.monotonic() - started, 3)}
        record["status"] = "failed" if record["error"] else "done"
        record |= _tidy(partial / "notebook.ipynb", study)
        write_json(partial / "run.json", record)
        return load_run(_finish(partial, name))
    except OSError as error:
        raise RunFailed(f"{study.name}: {error}. What was written lies in {partial}.") from error
    except (KeyboardInterrupt, SystemExit):
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _partial(out: Path, name: str) -> Path:
    """Make the folder that a run is written to while it goes."""
    partial = out.expanduser().absolute() / f".{name}.partial-{os.getpid()}-{secrets.token_hex(3)}"
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise RequestError(
            f"The folder {out} for run directories cannot be written to ({error.strerror}). "
            "Choose another with --out."
        ) from error
    return partial


def _finish(partial: Path, name: str) -> Path:
    """Give the run its final name, and this name to every text in it that has the temporary one."""
    for count in itertools.count(1):
        final = partial.parent / (name if count == 1 else f"{name}-{count}")
        try:
            final.mkdir()  # nobody else can take the name from here on
            break
        except FileExistsError:
            continue
    for file in partial.rglob("*"):
        if file.suffix in (".ipynb", ".json", ".csv", ".txt", ".yaml", ".html") and file.is_file():
            old = file.read_bytes()
            new = old.replace(partial.name.encode(), final.name.encode())
            if new != old:
                file.write_bytes(new)
    if os.name == "nt":
        final.rmdir()  # elsewhere the rename replaces an empty folder
    return partial.rename(final)


def _tidy(path: Path, study: Study) -> dict[str, Any]:
    """Strip what does not outlive the kernel from the stored notebook; time by heading."""
    import nbformat

    if not path.is_file():
        return {"timings": {}, "warnings": []}
    notebook, heading, timings = nbformat.read(path, as_version=4), "", {}
    notebook.metadata.pop("widgets", None)
    notebook.metadata.papermill |= {"input_path": study.path.name, "output_path": path.name}
    for cell in notebook.cells:
        heading = heading_of(cell, heading)
        seconds = cell.metadata.get("papermill", {}).get("duration") or 0
        if cell.cell_type == "code":
            timings[heading] = round(timings.get(heading, 0) + seconds, 3)
            for output in cell.outputs:
                output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    nbformat.write(notebook, path)
    size, warnings = path.stat().st_size, []
    if size > _LARGEST_NOTEBOOK:
        warnings = [
            f"The executed notebook has {size / 1e6:.1f} MB; more than 2 MB are slow to open."
        ]
    return {"timings": timings, "warnings": warnings}


def _provenance(study: Study, values: Mapping[str, Any]) -> dict[str, Any]:
    """Ask the catalog what the data were: world version, or digests; by parameter."""
    found = {}
    for parameter, catalog in sources(study, values).items():
        from geowb.catalog import open_catalog

        try:
            found[parameter] = open_catalog(catalog or None)[values[parameter]].provenance()
        except GeowbError as error:
            found[parameter] = {"error": str(error)}
    return found


def _code_cells(path: Path) -> int:
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return sum(c["cell_type"] == "code" and bool("".join(c["source"]).strip()) for c in cells)


def _one_sentence(message: str, longest: int = 600) -> str:
    text = " ".join(message.split())
    text = text if len(text) <= longest else f"{text[:longest]}..."
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
