"""One run of a study: papermill, a run directory, a record of what was done."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from geowb.batch.checks import preflight, sources
from geowb.batch.folder import (
    claim,
    earlier,
    finish,
    is_done,
    partial,
    read_record,
    recover,
    run_name,
)
from geowb.batch.kernel import Execution, check_kernel, execute, heading_of
from geowb.batch.progress import Progress
from geowb.batch.record import environment, one_sentence
from geowb.batch.rundir import RunDirectory, write_json
from geowb.batch.studies import Study
from geowb.errors import GeowbError, RequestError, RunFailed

__all__ = ["Job", "Run", "load_run", "make", "make_once", "repeat", "run", "what_went_wrong"]

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
    peak_memory_mb: float | None = None  # of the kernel's process, 10^6 bytes

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
    if not re.fullmatch(r"\w[\w.=,+-]{0,149}", name, re.ASCII):
        raise RequestError(
            f"'{name}' cannot be the name of a run directory: at most 150 letters, digits and "
            ". = , + - _, no more."
        )
    job = Job(study, values, name, Path(out), profile=profile, kernel=kernel, timeout=timeout)
    with Progress(study.name, job.cells, shown=progress) as shown:
        result = make(job, shown.show)
    if result.error:
        raise RunFailed(
            f"{study.name} failed{what_went_wrong(result.error)} "
            f"The notebook with the error in it is kept: {result.notebook}"
        )
    return result


def repeat(like: str | Path, parameters: Mapping[str, Any] | None = None, **options: Any) -> Run:
    """Run once more what a run directory records: the same study, values and kernel.

    >>> again = repeat("runs/agb_transfer-teaching-3f9a1c2b", {"seed": 1})  # doctest: +SKIP

    Parameters
    ----------
    like
        The run directory.
    parameters
        Values to change.
    **options
        As for `run`; what is not given is as it was. Relative paths among the values are
        looked up from the folder in which the run was started.

    Raises
    ------
    RequestError
        It is no run directory, or its study is not there any more.
    RunFailed
        As for `run`.
    """
    path = Path(like).expanduser().absolute()
    load_run(path)  # refuses what is none
    record = read_record(path)
    chosen = {name: value for name, value in options.items() if value is not None}
    chosen["out"] = Path(chosen.get("out", "runs")).expanduser().absolute()
    before = {name: record.get(name) for name in ("profile", "kernel", "timeout")}
    before["name"] = None if parameters else re.sub(r"(-[0-9a-f]{8})-\d+$", r"\1", path.name)
    known = {name: value for name, value in before.items() if value is not None}
    study = Path(record.get("notebook", ""))
    if not study.is_file():
        study = record["study"]
    with (
        contextlib.chdir(record["cwd"])
        if Path(record["cwd"]).is_dir()
        else contextlib.nullcontext()
    ):
        return run(study, record["parameters"] | dict(parameters or {}), **(known | chosen))


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
            peak_memory_mb=record.get("peak_memory_mb"),
        )
    except FileNotFoundError as error:
        raise RequestError(f"{path} is not a run directory: it has no run.json.") from error
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise RequestError(f"The record of the run {path} cannot be read: {error!r}.") from error


@dataclass(frozen=True)
class Job:
    """A run to be made: its values have passed preflight."""

    study: Study
    values: dict[str, Any]
    name: str
    out: Path
    profile: str | None = None
    kernel: str = "python3"
    timeout: float | None = None
    notebook: str = ""  # where the study came from, if `study.path` is a copy
    directory: str | None = None  # the kernel's working directory
    environment: dict[str, str] = field(default_factory=dict)  # of the kernel
    claimed: bool = False  # this process alone makes this run in `out`

    @property
    def cells(self) -> int:
        """Code cells that will be executed, the one with the given values included."""
        cells = json.loads(self.study.path.read_text("utf-8"))["cells"]
        code = [c for c in cells if c["cell_type"] == "code" and "".join(c["source"]).strip()]
        return len(code) + bool(self.values or self.study.with_role("run_dir"))


def make(
    job: Job, watch: Callable[[Execution], None] | None = None, replaced: tuple[Path, ...] = ()
) -> Run:
    """Make a run; a failure of the notebook is in the result's `error`.

    Parameters
    ----------
    watch
        Is told of each cell.
    replaced
        Earlier runs in whose place it comes. One that is done stays if this one fails.

    Raises
    ------
    RunFailed
        What was made could not be stored.
    """
    folder = partial(job.out.expanduser().absolute(), job.name, claimed=job.claimed)
    record: dict[str, Any] = {"study": job.study.name, "status": "running"}
    record |= {"profile": job.profile, "parameters": job.values, "seed": job.values.get("seed")}
    record |= {"kernel": job.kernel, "timeout": job.timeout, "started": _now()}
    record |= {"notebook": job.notebook or str(job.study.path)}
    try:
        try:
            _carry_out(job, folder, record, watch)
        except OSError as error:
            if not job.claimed:
                raise
            failure = {"cell": 0, "heading": "", "type": type(error).__name__}
            record["error"] = failure | {"message": f"{error}."}
            record |= {"status": "failed", "seconds": 0.0, "warnings": [], "timings": {}}
        write_json(folder / "run.json", record)
        return load_run(finish(folder, job.name, replaced))
    except OSError as error:
        told = f"What was written lies in {folder}."
        if job.claimed:
            shutil.rmtree(folder, ignore_errors=True)
            told = "Nothing of this run is kept."
        raise RunFailed(f"{job.study.name}: {error}. {told}") from error
    except BaseException:
        if not is_done(folder):  # else it had ended, and the next sweep gives it its name
            shutil.rmtree(folder, ignore_errors=True)
        raise


def make_once(
    job: Job, watch: Callable[[Execution], None] | None = None, *, since: str = ""
) -> Run | None:
    """Make a run that nobody else makes or has made; None if somebody else is making it now.

    Parameters
    ----------
    since
        UTC time (ISO 8601): a run that ended before it is made anew. Empty: any that is done
        counts.
    """
    out = job.out.expanduser().absolute()
    with claim(out, job.study.name, job.values) as mine:
        if not mine:
            return None
        recover(out, job.study.name, job.values)
        before = earlier(out, job.study.name, job.values)
        for path, record in before:
            if record.get("status") == "done" and str(record.get("finished")) >= since:
                return load_run(path)
        return make(job, watch, replaced=tuple(path for path, _ in before))


def _carry_out(
    job: Job, folder: Path, record: dict[str, Any], watch: Callable[[Execution], None] | None
) -> None:
    """Execute the notebook in `folder` and complete the run's record."""
    record |= environment(job.study)
    record["cwd"] = job.directory or record["cwd"]
    record["data"] = _provenance(job.study, job.values)  # before: files may change while it runs
    write_json(folder / "run.json", record)
    role, started = job.study.with_role("run_dir"), time.monotonic()
    execution = Execution(watch)
    record["error"] = execute(
        job.study.path,
        folder / "notebook.ipynb",
        job.values | ({role: str(folder)} if role else {}),
        kernel=job.kernel,
        execution=execution,
        timeout=job.timeout,
        environment=job.environment,
        directory=job.directory,
    )
    record |= {"finished": _now(), "seconds": round(time.monotonic() - started, 3)}
    peak = execution.peak_memory
    record["peak_memory_mb"] = None if peak is None else round(peak / 1e6, 1)
    record["kernel_seconds"] = execution.kernel_seconds
    record["kernel_fallback"] = execution.kernel_fallback
    record |= _tidy(folder / "notebook.ipynb", job.study, done=not record["error"])
    if execution.kernel_fallback:
        told = f"The kernel is an ordinary one, not a warm one: {execution.kernel_fallback}"
        record["warnings"].append(told)
    record["status"] = "failed" if record["error"] else "done"


def what_went_wrong(error: Mapping[str, Any]) -> str:
    """Say where a run failed and why.

    >>> what_went_wrong({"heading": "Data", "type": "OSError", "message": "No such file"})
    " under 'Data'. OSError: No such file."
    """
    where = f" under '{error['heading']}'" if error["heading"] else ""
    return f"{where}. {error['type']}: {one_sentence(error['message'])}"


def _tidy(path: Path, study: Study, *, done: bool) -> dict[str, Any]:
    """Strip what does not outlive the kernel from the stored notebook; time by heading."""
    import nbformat

    from geowb.batch.client import LEFT_OUT
    from geowb.batch.outputs import VIEW, without_views

    if not path.is_file():
        return {"timings": {}, "warnings": []}
    notebook, heading, timings = nbformat.read(path, as_version=4), "", {}
    without_views(notebook)  # the picture beside each stays
    notebook.metadata.pop("widgets", None)
    notebook.metadata.papermill |= {"input_path": study.path.name, "output_path": path.name}
    for cell in notebook.cells:
        heading = heading_of(cell, heading)
        seconds = cell.metadata.get("papermill", {}).get("duration") or 0
        if cell.cell_type == "code":
            timings[heading] = round(timings.get(heading, 0) + seconds, 3)
            for output in cell.outputs:
                output.get("data", {}).pop(VIEW, None)
    nbformat.write(notebook, path)
    size, warnings = path.stat().st_size, []
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    if done and any(cell.execution_count is None for cell in code):
        warnings.append("The notebook ended itself (sys.exit) before its last cell.")
    if LEFT_OUT in path.read_text("utf-8"):
        warnings.append("A cell printed very much; the stored notebook lacks the middle of it.")
    if size > _LARGEST_NOTEBOOK:
        warnings.append(
            f"The executed notebook has {size / 1e6:.1f} MB; more than 2 MB are slow to open."
        )
    return {"timings": timings, "warnings": warnings}


def _provenance(study: Study, values: Mapping[str, Any]) -> dict[str, Any]:
    """Ask what the data were: world version, or digests; by parameter."""
    found = {}
    for parameter in study.parameters.values():
        if parameter.rules.get("check") == "labels" and (file := values[parameter.name]):
            from geowb.catalog.source import fingerprint

            file = Path(file).expanduser()
            found[parameter.name] = {"entry": file.name, **fingerprint(file)}
    for parameter, catalog in sources(study, values).items():
        from geowb.catalog import open_catalog

        try:
            found[parameter] = open_catalog(catalog or None)[values[parameter]].provenance()
        except GeowbError as error:
            found[parameter] = {"error": str(error)}
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
