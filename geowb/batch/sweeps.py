"""Many runs of one study: in parallel, resumed by the same command, none lost."""

from __future__ import annotations

import contextlib
import queue
import shlex
import shutil
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import geowb
from geowb.batch import folder
from geowb.batch.checks import as_text, refusal
from geowb.batch.engines import Events, Local
from geowb.batch.grid import Plan, plan
from geowb.batch.kernel import check_kernel, preferred_kernel
from geowb.batch.process import Snapshot
from geowb.batch.progress import SweepProgress
from geowb.batch.runner import Run, load_run
from geowb.batch.studies import Study
from geowb.errors import RequestError, RunFailed
from geowb.machine import gpus, room

__all__ = ["command_for", "near", "sweep"]

_ATTEMPTS = 3  # at a run whose process dies
_SECONDS_TO_ASK_AGAIN = 1.0  # whether another sweep has made a run that this one needs


def sweep(
    study: str | Path,
    grid: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    *,
    profile: str | None = None,
    settings: str | Path | None = None,
    repeat: int | None = None,
    out: str | Path | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    force: bool = False,
    kernel: str | None = None,
    timeout: float | None = None,
    progress: bool | Callable[[str, int], SweepProgress] = True,
) -> list[Run]:
    """Run a study for each setting of a grid; the same call again does what is missing or failed.

    >>> runs = sweep("agb_transfer", {"encoder": ["swin_demo", "unet"]}, repeat=3)  # doctest: +SKIP
    >>> [run.status for run in runs]  # doctest: +SKIP
    ['done', 'done', 'done', 'done', 'done', 'done']

    Parameters
    ----------
    grid
        Parameter -> value or list of values, of which all combinations are run; or a list of
        settings. Text is read as on the command line: ``"1e-3,3e-4"``, ``"0..4"``.
    profile
        Named set of values, below those of the grid.
    settings
        CSV or YAML file with a setting a row, combined with the grid.
    repeat
        Run each setting with seed 0, 1, ... up to this many.
    out
        Folder for the run directories, ``runs/STUDY`` by default; runs of one study only.
    workers
        Runs at a time on this machine; by default as many as cores and memory allow, or GPUs.
    scheduler
        Address of a dask scheduler (``tcp://HOST:8786``), whose workers make the runs.
    force
        Do finished runs again.
    kernel
        Name of the Jupyter kernel; by default ``geowb-warm`` where warm kernels are possible, and
        ``python3`` elsewhere.
    timeout
        Seconds that each run may take.
    progress
        Whether standard error shows how it goes; or what makes something else of the study's name
        and the number of runs. What its methods raise ends the sweep like Ctrl-C.

    Returns
    -------
    list of Run
        One for each setting, in the grid's order; failed ones have their ``error``.

    Raises
    ------
    RequestError
        Something in the request is wrong; nothing has been started or written.
    RunFailed
        The scheduler went away. What had ended is kept.
    """
    asked = plan(
        study, grid, profile=profile, settings=settings, repeat=repeat, checks=not scheduler
    )
    out = Path(out if out is not None else Path("runs") / asked.study.name).expanduser().absolute()
    _check_folder(out, asked.study)
    common = {"kernel": kernel or "", "timeout": timeout, "profile": profile}
    going = _Sweep(asked, out, common, force)
    at_a_time = _workers(workers, scheduler, going)
    if kernel and not scheduler:
        check_kernel(kernel)
    how = progress if callable(progress) else partial(SweepProgress, shown=progress)
    with how(asked.study.name, len(asked.values)) as shown:
        going.take_what_is_done(shown)
        if going.waiting:
            if not kernel and not scheduler and (why := preferred_kernel()[1]):
                shown.note(f"Kernels are ordinary ones, not warm: {why}")
            events: Events = queue.Queue()
            with _engine(going, events, at_a_time, scheduler, kernel or "") as engine:
                shown.begin(len(going.results), engine.at_a_time)
                going.carry_out(engine, events, shown)
    return [going.results[number] for number in range(len(asked.values))]


def command_for(run: Run, study: str | Path = "") -> str:
    """Command that repeats a run alone: like its directory, or in full where there is none.

    Parameters
    ----------
    study
        What the sweep was asked to run, if it is not the run's study by name.
    """
    words = ["geowb", "run"]
    if (run.path / "run.json").is_file():
        words += ["--like", near(run.path)]
    else:
        words.append(str(study or run.study))
        for name, value in run.parameters.items():
            words += ["-p", f"{name}={as_text(value)}"]
    return shlex.join([*words, "--out", near(run.path.parent)])


def near(path: Path) -> str:
    """Path as it is typed here: relative where it lies below the working directory."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


class _Sweep:
    """The runs that were asked for, and how far each of them is."""

    def __init__(self, asked: Plan, out: Path, common: dict[str, Any], force: bool) -> None:
        self.asked, self.out, self.force = asked, out, force
        self.study = asked.study.name
        self.results: dict[int, Run] = {}
        self.waiting = deque(range(len(asked.values)))
        self.labels = [folder.label(values, asked.varied) for values in asked.values]
        since = datetime.now(UTC).isoformat(timespec="milliseconds") if force else ""
        self._common = common | {"study": self.study, "since": since, "out": str(out)}
        self._common |= {"directory": str(Path.cwd())}
        self._running: set[int] = set()
        self._elsewhere: dict[int, float] = {}  # made by another sweep; when to ask again
        self._attempts: Counter[int] = Counter()
        self._told: set[str] = set()  # warnings of runs that have been shown
        self._claims: dict[int, contextlib.ExitStack] = {}

    def name(self, number: int) -> str:
        """Name of the run's directory."""
        readable = self.labels[number] or self.asked.profile or ""
        return folder.run_name(self.study, self.asked.values[number], readable)

    def uses_gpu(self, number: int) -> bool:
        """Whether the run may use a GPU: all may, but those whose accelerator is the CPU."""
        values, parameters = self.asked.values[number], self.asked.study.parameters.values()
        chosen = [values.get(p.name) for p in parameters if p.rules.get("check") == "accelerator"]
        return "cpu" not in chosen

    def take_what_is_done(self, shown: SweepProgress) -> None:
        """Take the results of runs that are done already, unless they are to be done again."""
        known = folder.by_key(self.out)
        current = self.asked.study.code_sha256(), geowb.__version__
        old = 0
        for number in self.waiting:
            if self.force or (run := self._done(number, known)) is None:
                continue
            self.results[number] = run
            record = folder.read_record(run.path)
            old += (record.get("notebook_sha256"), record.get("geowb")) != current
        self.waiting = deque(number for number in self.waiting if number not in self.results)
        if old:
            shown.note(
                f"{old} of the {len(self.results)} runs that are done were made by another version "
                "of the notebook or of geowb; --force does them again."
            )

    def carry_out(self, engine: Any, events: Events, shown: SweepProgress) -> None:
        """Have everything made that is not done."""
        with contextlib.ExitStack() as claims:
            while self.waiting or self._running or self._elsewhere:
                self._hand_over(engine, claims)
                shown.going_on()
                try:
                    number, event = events.get(timeout=0.5)
                except queue.Empty:
                    if trouble := engine.trouble():
                        raise RunFailed(f"{trouble} {self._standing()}") from None
                    continue
                self._take(number, event, shown)

    def _hand_over(self, engine: Any, claims: contextlib.ExitStack) -> None:
        now = time.monotonic()
        due = [number for number, when in self._elsewhere.items() if when <= now]
        self.waiting.extendleft(due)
        for number in due:
            del self._elsewhere[number]
        while self.waiting and len(self._running) < engine.capacity:
            number = self.waiting.popleft()
            if not engine.shared and not self._claim(number, claims):
                self._elsewhere[number] = now + _SECONDS_TO_ASK_AGAIN
            elif number not in self.results:
                self._running.add(number)
                engine.submit(number, self._order(number))

    def _order(self, number: int) -> dict[str, Any]:
        order = {"values": self.asked.values[number], "name": self.name(number)}
        return self._common | order | {"uses_gpu": self.uses_gpu(number)}

    def _take(self, number: int, event: dict[str, Any], shown: SweepProgress) -> None:
        """Note what a worker tells of a run."""
        if number not in self._running:
            return  # an echo of what has been settled
        kind, name = event["event"], self.labels[number] or self.name(number)
        if kind == "cell":
            shown.at(name, event["heading"], event["cell"], event["cells"])
            return
        self._running.discard(number)
        if kind == "lost":
            raise RunFailed(f"The scheduler has lost the run {name}. {self._standing()}")
        if kind == "busy":
            self._elsewhere[number] = time.monotonic() + _SECONDS_TO_ASK_AGAIN
        elif kind == "died" and self._attempts[number] + 1 < _ATTEMPTS:
            self._attempts[number] += 1
            self.waiting.appendleft(number)
        else:
            run = self._result(number, event)
            self.results[number] = run
            shown.ended(name, run.status, run.seconds)
            for warning in set(run.warnings) - self._told:
                self._told.add(warning)
                shown.note(f"{name}: {warning}")
        if kind in ("busy", "died"):
            shown.gone(name)
        if number in self._claims and number in self.results:
            self._claims.pop(number).close()

    def _result(self, number: int, event: dict[str, Any]) -> Run:
        values = self.asked.values[number]
        try:
            if "archive" in event:
                return self._unpack(number, event)
            if event["event"] == "done":
                return load_run(event["path"])
            message = event["message"]
        except (OSError, RequestError) as error:
            message = str(error)
        kind = "Failed"
        if event["event"] == "died":
            kind, attempts = "WorkerDied", self._attempts[number] + 1
            message += f"; so {attempts} times."
            with folder.claim(self.out, self.study, values) as mine:
                if mine:
                    folder.recover(self.out, self.study, values)
        error = {"cell": 0, "heading": "", "type": kind, "message": message}
        path = self.out / self.name(number)
        return Run(path, self.study, "failed", values, {}, 0.0, error)

    def _claim(self, number: int, claims: contextlib.ExitStack) -> bool:
        """Claim a run whose directory will come through the scheduler; take it if it is done."""
        if number in self._claims:
            return True
        values, own = self.asked.values[number], contextlib.ExitStack()
        if not own.enter_context(folder.claim(self.out, self.study, values)):
            return False
        folder.recover(self.out, self.study, values)
        if not self.force and (run := self._done(number)) is not None:
            self.results[number] = run
            own.close()
            return True
        self._claims[number] = own
        claims.callback(own.close)
        return True

    def _unpack(self, number: int, event: dict[str, Any]) -> Run:
        """Store a run that came through the scheduler."""
        from geowb.batch.cluster import unpack

        values, name = self.asked.values[number], self.name(number)
        place = folder.partial(self.out, name, claimed=True)
        try:
            unpack(event["archive"], place, instead_of=event["path"])
        except OSError:
            shutil.rmtree(place, ignore_errors=True)
            raise
        before = [path for path, _ in folder.earlier(self.out, self.study, values)]
        return load_run(folder.finish(place, name, before))

    def _done(self, number: int, known: dict[str, list[Path]] | None = None) -> Run | None:
        values = self.asked.values[number]
        for path, record in folder.earlier(self.out, self.study, values, known):
            if record.get("status") == "done":
                with contextlib.suppress(RequestError):
                    return load_run(path)
        return None

    def _standing(self) -> str:
        ended = len(self.results)
        return (
            f"{ended} of {len(self.asked.values)} runs have ended and are kept in {self.out}; "
            "the same command does the rest."
        )


@contextlib.contextmanager
def _engine(
    going: _Sweep, events: Events, at_a_time: int, scheduler: str | None, kernel: str
) -> Iterator[Any]:
    """Engine that makes the runs; it is closed at the end, whatever happens."""
    study = Snapshot.of(going.asked.study)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_made(going.out))
        if scheduler:
            from geowb.batch.cluster import Cluster

            engine = stack.enter_context(Cluster(scheduler, study, going.out, events))
            if problems := engine.examine(list(going.asked.values), kernel):
                raise refusal(going.asked.study, problems)
        else:
            workers = min(at_a_time, len(going.waiting))
            engine = stack.enter_context(Local(study, workers, events))
        yield engine


@contextlib.contextmanager
def _made(out: Path) -> Iterator[None]:
    """Folder that can be written to; what was made of it for nothing is removed."""
    new = [place for place in (out, *out.parents) if not place.exists()]
    try:
        try:
            out.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=out):
                pass
        except OSError as error:
            raise folder.not_writable(out, error) from error
        yield
    finally:
        with contextlib.suppress(OSError):  # not empty
            for place in new:
                place.rmdir()


def _workers(workers: int | None, scheduler: str | None, going: _Sweep) -> int:
    """How many runs to make at a time on this machine."""
    gpu = any(going.uses_gpu(number) for number in going.waiting)
    if workers is None:
        return 1 if scheduler else room(uses_gpu=gpu)
    if scheduler:
        raise RequestError("--workers is for this machine; a scheduler has its own. Leave it out.")
    if workers < 1:
        raise RequestError(f"--workers {workers} is not possible; at least one has to make runs.")
    if gpu and gpus() and workers > len(gpus()):
        raise RequestError(
            f"--workers {workers} is too many: the runs use a GPU, each one of its own, and there "
            f"are {len(gpus())}. Ask for {len(gpus())}, or for -p accelerator=cpu."
        )
    return workers


def _check_folder(out: Path, study: Study) -> None:
    """Refuse a folder that is none, or is another study's."""
    try:
        nearest = next(place for place in (out, *out.parents) if place.exists())
    except OSError as error:
        raise RequestError(f"{out} cannot be a folder: {error.strerror}.") from error
    if not nearest.is_dir():
        raise RequestError(f"{nearest} is a file. Choose another folder with --out.")
    if (out / "run.json").is_file():
        raise RequestError(f"{out} is a run directory itself. Choose another folder with --out.")
    for file in out.glob("*/run.json"):
        other = folder.read_record(file.parent).get("study")
        if other and other != study.name:
            raise RequestError(
                f"{out} holds runs of {other}, {file.parent.name} for one; a sweep's folder holds "
                f"one study. Choose another, for example --out {out / study.name}."
            )
