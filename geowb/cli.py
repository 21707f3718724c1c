"""What a person types: ``geowb studies``, ``geowb run``, ``geowb catalog``, ``geowb doctor``, ...

Nothing heavy is imported here: ``geowb --help`` has to answer at once.
Results go to standard output, progress and errors to standard error.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import textwrap
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import geowb
from geowb.errors import GeowbError, RequestError

__all__ = ["app", "main"]

_SETTINGS: dict[str, Any] = {
    "no_args_is_help": True,
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}
app = typer.Typer(help="A workbench for geospatial foundation models.", **_SETTINGS)
catalog_app = typer.Typer(help="Data sets: what there is, where it comes from.", **_SETTINGS)
app.add_typer(catalog_app, name="catalog")

CatalogFile = Annotated[
    str, typer.Option("--catalog", metavar="FILE", help="Another data_catalog.yaml.")
]


def main() -> None:
    """Entry point: turn errors into a paragraph and an exit status."""
    debug = "--debug" in sys.argv[1:]
    signal.signal(signal.SIGTERM, _terminated)
    try:
        app([word for word in sys.argv[1:] if word != "--debug"])
    except GeowbError as error:
        _fail(str(error), error.exit_status, debug)
    except Exception as error:  # noqa: BLE001 - the last stop before a person
        told = f"{type(error).__name__}: {' '.join(str(error).split())}"
        step = "Please report it with what the same command prints with --debug."
        _fail(f"This is a defect in geowb: {told} {step}", 1, debug)


def _terminated(number: int, _: object) -> None:
    # A batch system's request to stop: clean up as after Ctrl-C.
    sys.exit(128 + number)


def _fail(message: str, status: int, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns
        message = textwrap.fill(message, width, break_long_words=False, break_on_hyphens=False)
    print(message, file=sys.stderr)  # noqa: T201
    sys.exit(status)


def _version(shown: bool) -> None:
    if shown:
        typer.echo(f"geowb {geowb.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    pass


@app.command()
def studies(
    study: Annotated[str, typer.Argument(metavar="[STUDY]", help="Name or .ipynb file.")] = "",
) -> None:
    """List the studies, or the parameters and profiles of one.

    Example: geowb studies agb_transfer
    """
    from geowb.batch.studies import find_studies

    if study:
        _show_study(study)
        return
    rows = [(s.name, s.title, s.paper, s.summary) for s in find_studies().values()]
    if not rows:
        typer.echo("There are no studies here.", err=True)
        return
    _table(("study", "title", "paper", "summary"), rows)


Parameters = Annotated[
    list[str] | None,
    typer.Option("-p", "--parameter", metavar="NAME=VALUE", help="Set a parameter; repeatable."),
]
Profile = Annotated[
    str | None, typer.Option(metavar="NAME", help="Named set of values: teaching, full, paper.")
]
Kernel = Annotated[
    str | None, typer.Option(metavar="NAME", help="Jupyter kernel; python3 if left out.")
]
Timeout = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="Seconds that a run may take.", min=1)
]
HelpParameters = Annotated[
    bool, typer.Option("--help-parameters", help="Show the study's parameters and stop.")
]


@app.command()
def run(
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="Name of a study, or an .ipynb file.")
    ] = "",
    parameter: Parameters = None,
    profile: Profile = None,
    like: Annotated[
        Path | None,
        typer.Option(metavar="RUNDIR", help="Repeat this run; -p changes single values."),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for run directories.")] = Path(
        "runs"
    ),
    kernel: Kernel = None,
    timeout: Timeout = None,
    help_parameters: HelpParameters = False,
) -> None:
    """Run a study; the last line printed is its run directory.

    Example: geowb run agb_transfer --profile teaching -p epochs=3
    """
    if not study and like is None:
        raise RequestError("What to run is missing: the name of a study, or --like RUNDIR.")
    if like is not None and (study or profile):
        raise RequestError(f"--like {like} has a study and a profile; leave out those given here.")
    if help_parameters:
        _show_study(study)
        return
    from geowb import batch

    values = _assignments(parameter or ())
    options = {"out": out, "kernel": kernel, "timeout": timeout, "profile": profile}
    options = {name: value for name, value in options.items() if value is not None}
    try:
        result = (
            batch.repeat(like, values, **options) if like else batch.run(study, values, **options)
        )
    except KeyboardInterrupt:
        typer.echo("Interrupted; the kernel was ended and the unfinished run removed.", err=True)
        raise typer.Exit(130) from None
    for warning in result.warnings:
        typer.echo(warning, err=True)
    rows = [(name, _shown(m["value"]), m["unit"]) for name, m in result.metrics.items()]
    if rows:
        _table(("metric", "value", "unit"), rows, err=True)
    typer.echo(result.path)


@app.command()
def sweep(
    study: Annotated[str, typer.Argument(help="Name of a study, or an .ipynb file.")],
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            "-p",
            "--parameter",
            metavar="NAME=VALUES",
            help="Values of a parameter: 1e-3,3e-4 or 0..4; lists as JSON. Repeatable: all "
            "combinations are run.",
        ),
    ] = None,
    profile: Profile = None,
    settings: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="CSV or YAML file with a setting a row."),
    ] = None,
    repeat: Annotated[
        int | None, typer.Option(metavar="N", help="Run each setting with seeds 0 to N-1.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder for the runs of this study; runs/STUDY if left out."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Runs at a time; if left out, what cores and memory allow, or a run a GPU.",
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Dask scheduler that has the runs made."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Do finished runs again.")] = False,
    kernel: Kernel = None,
    timeout: Timeout = None,
    help_parameters: HelpParameters = False,
) -> None:
    """Run a study many times; the same command again resumes.

    All combinations of the values are run. What is done stays, what is missing or failed is done.
    The last line printed is the folder with the run directories; `geowb report` makes a page of it.

    Example: geowb sweep agb_transfer --profile teaching -p label_density=1,0.2 --repeat 3
    """
    if help_parameters:
        _show_study(study)
        return
    from geowb import batch

    grid = _assignments(parameter or ())
    folder = out if out is not None else Path("runs") / Path(study).name.removesuffix(".ipynb")
    try:
        runs = batch.sweep(
            study,
            grid,
            profile=profile,
            settings=settings,
            repeat=repeat,
            out=folder,
            workers=workers,
            scheduler=scheduler,
            force=force,
            kernel=kernel or "python3",
            timeout=timeout,
        )
    except KeyboardInterrupt:
        typer.echo(
            "Interrupted; kernels were ended and unfinished runs removed. What had ended is kept "
            f"in {folder}, and the same command does the rest.",
            err=True,
        )
        raise typer.Exit(130) from None
    failed = [result for result in runs if result.error]
    told = "run is" if len(runs) == 1 else "runs are"
    typer.echo(f"{len(runs) - len(failed)} of {len(runs)} {told} done.", err=True)
    for result in failed:
        _show_failed(result, study)
    typer.echo(folder.expanduser().absolute())
    if failed:
        raise typer.Exit(1)


def _show_failed(result: Any, study: str) -> None:
    """Say why a run of a sweep failed, and how to repeat it alone."""
    from geowb.batch.runner import what_went_wrong
    from geowb.batch.sweeps import command_for, near

    kept = f"\n  notebook: {near(result.notebook)}" if result.notebook.is_file() else ""
    told = f"{result.path.name} failed{what_went_wrong(result.error)}{kept}"
    typer.echo(f"\n{told}\n  alone: {command_for(result, study)}", err=True)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with run directories.")],
) -> None:
    """Write a page on what runs say of the papers' claims.

    Into the folder go report.html (printed last), claims.json and runs.parquet. Runs are found in
    the folders below it too.

    Example: geowb report runs
    """
    from geowb import batch

    typer.echo(batch.report(folder))


def _shown(value: float | None) -> str:
    if value is None:
        return "n/a"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def _assignments(words: Iterable[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        name = name.strip()
        if not equals or not name:
            raise RequestError(f"'-p {word}' is not NAME=VALUE, as in -p epochs=3.")
        if name in values:
            raise RequestError(f"The parameter '{name}' is given twice.")
        values[name] = value
    return values


def _show_study(name: str) -> None:
    from geowb.batch import as_text, load_study

    study = load_study(name)
    typer.echo(f"{study.title}\n{study.summary}".strip())
    if study.paper:
        typer.echo(f"Paper: https://arxiv.org/abs/{study.paper}")
    typer.echo(f"Notebook: {study.path}\n")
    rows = [
        (p.name, p.type, as_text(p.default), f"{p.help} {_limits(p.rules)}".strip())
        for p in study.parameters.values()
        if p.rules.get("role") != "run_dir"
    ]
    _table(("parameter", "type", "default", "what it is"), rows)
    if study.profiles:
        typer.echo()
        shown = (
            (profile, ", ".join(f"{k}={as_text(v)}" for k, v in values.items()) or "the defaults")
            for profile, values in study.profiles.items()
        )
        _table(("profile", "sets"), shown)
    for problem in study.problems:
        typer.echo(problem, err=True)


def _limits(rules: Mapping[str, Any]) -> str:
    limits = [f"{k} {rules[k]}" for k in ("min", "above", "max") if k in rules]
    limits += [" | ".join(map(str, rules["choices"]))] if "choices" in rules else []
    return f"({', '.join(limits)})" if limits else ""


def _table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], *, err: bool = False, clip: bool = False
) -> None:
    """Print a table; in a pipe or a file a line a row, and with `clip` everywhere."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(stderr=err, highlight=False)
    if not console.is_terminal:
        console = Console(stderr=err, highlight=False, width=10_000)
    cells = [[str(cell) for cell in row] for row in rows]
    if clip:
        used = sum(max(map(len, column)) + 2 for column in list(zip(*cells, strict=True))[:-1])
        room = max(20, console.width - used)
        cells = [[*row[:-1], textwrap.shorten(row[-1], room, placeholder="...")] for row in cells]
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in cells:
        table.add_row(*map(Text, row))
    console.print(table)


@catalog_app.command("list")
def catalog_list(catalog: CatalogFile = "") -> None:
    """List the data sets and whether they are here; `geowb catalog show` says more.

    Example: geowb catalog list
    """
    columns = ("name", "category", "status", "description")
    rows = geowb.open_catalog(catalog or None).table()
    _table(columns, [[row[column] for column in columns] for row in rows], clip=True)


@catalog_app.command("show")
def catalog_show(
    name: Annotated[str, typer.Argument(help="Name of an entry.")], catalog: CatalogFile = ""
) -> None:
    """Show one data set: variables, licence, source, where it lies.

    Example: geowb catalog show world
    """
    typer.echo(geowb.open_catalog(catalog or None)[name].describe())


@catalog_app.command("check")
def catalog_check(catalog: CatalogFile = "") -> None:
    """Check the catalog and all data that are here.

    Example: geowb catalog check --catalog my_catalog.yaml
    """
    problems = geowb.open_catalog(catalog or None).check()
    for problem in problems:
        typer.echo(problem, err=True)
    if problems:
        raise typer.Exit(1)
    typer.echo("The catalog is in order.")


@catalog_app.command("get")
def catalog_get(
    name: Annotated[str, typer.Argument(help="Name of an entry.")], catalog: CatalogFile = ""
) -> None:
    """Download a data set; the last line printed is where it lies.

    Example: geowb catalog get test_chips
    """
    typer.echo(geowb.open_catalog(catalog or None)[name].get(progress=True))


@app.command()
def doctor() -> None:
    """Say in plain words what is wrong with this environment.

    Example: geowb doctor
    """
    from geowb.doctor import examine

    results = examine()
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    for result in results:
        text = f"{result.level:<8} {result.sentence} {result.next_step}".rstrip()
        typer.echo(
            textwrap.fill(
                text,
                width,
                subsequent_indent=" " * 9,
                break_long_words=False,
                break_on_hyphens=False,
            )
        )
    problems = sum(result.level == "problem" for result in results)
    typer.echo(f"\n{problems or 'No'} problem{'s' * (problems != 1)} found.")
    if problems:
        raise typer.Exit(1)


@app.command()
def lab(
    port: Annotated[int, typer.Option(help="Port; the next free one is taken.")] = 8888,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
) -> None:
    """Open JupyterLab on the studies, for this machine only.

    Example: geowb lab --no-browser
    """
    import json
    import subprocess
    import tempfile
    from importlib.util import find_spec

    from geowb.paths import notebooks_dir

    if find_spec("jupyterlab") is None:
        raise RequestError(
            "JupyterLab is not installed. Install it with: pip install 'geowb[widgets]'"
        )
    command = [sys.executable, "-m", "jupyterlab", "--ip=127.0.0.1", f"--port={port}"]
    command += [f"--ServerApp.root_dir={notebooks_dir()}"]
    command += [] if browser else ["--no-browser"]
    command += ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(prefix="geowb-lab-") as folder:
        # No question about news over the page: a class should see the notebook.
        page = Path(folder) / "labconfig" / "page_config.json"
        page.parent.mkdir()
        off = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
        page.write_text(json.dumps(off), encoding="utf-8")
        paths = os.pathsep.join(filter(None, [os.environ.get("JUPYTER_CONFIG_PATH"), folder]))
        # Ctrl-C is JupyterLab's: it asks before it shuts down.
        before = signal.signal(signal.SIGINT, lambda *_: None)
        try:
            env = os.environ | {"JUPYTER_CONFIG_PATH": paths}
            done = subprocess.run(command, env=env, check=False)
        finally:
            signal.signal(signal.SIGINT, before)
    raise typer.Exit(done.returncode)


if __name__ == "__main__":
    main()
