"""``geowb studies``, ``run``, ``sweep`` and ``report``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from geowb.cli.printing import shown, table
from geowb.errors import RequestError

__all__ = ["report", "run", "studies", "sweep"]


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
    table(("study", "title", "paper", "summary"), rows)


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
    rows = [(name, shown(m["value"]), m["unit"]) for name, m in result.metrics.items()]
    if rows:
        table(("metric", "value", "unit"), rows, err=True)
    typer.echo(result.path)


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
    kernel: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Jupyter kernel; if left out geowb-warm, or python3."),
    ] = None,
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
            kernel=kernel,
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
    table(("parameter", "type", "default", "what it is"), rows)
    if study.profiles:
        typer.echo()
        shown = (
            (profile, ", ".join(f"{k}={_told(v)}" for k, v in values.items()) or "the defaults")
            for profile, values in study.profiles.items()
        )
        table(("profile", "sets"), shown)
    for problem in study.problems:
        typer.echo(problem, err=True)


def _told(value: Any) -> str:
    """Write a profile's value; one that depends on another parameter, with what it depends on."""
    from geowb.batch.checks import as_text, depends

    if not depends(value):
        return as_text(value)
    chosen = [(k, v) for k, v in value.items() if k not in ("by", "else")]
    told = [f"{as_text(v)} where {value['by']} is {k}" for k, v in chosen]
    return "; ".join([*told, f"{as_text(value['else'])} else"])


def _limits(rules: Mapping[str, Any]) -> str:
    limits = [f"{k} {rules[k]}" for k in ("min", "above", "max") if k in rules]
    limits += [" | ".join(map(str, rules["choices"]))] if "choices" in rules else []
    return f"({', '.join(limits)})" if limits else ""
