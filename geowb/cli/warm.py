"""``geowb warm``: the process from which warm kernels are forked."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from geowb.cli.printing import table

__all__ = ["start", "status", "stop"]


def start(
    module: Annotated[
        list[str] | None,
        typer.Option(
            "--module",
            "-m",
            metavar="NAME",
            help="What to import, again for each; NAME.* is a package and all in it. "
            "Left out: what the studies need.",
        ),
    ] = None,
    idle: Annotated[
        float | None,
        typer.Option(min=0.01, metavar="MINUTES", help="Ends when so long without a kernel; 15."),
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(min=0.1, metavar="GB", help="Most that its imports may take; 4."),
    ] = None,
) -> None:
    """Import the deep-learning stack once; kernels named geowb-warm are forked from there.

    They start it by themselves; this is for having it ready before a class, or with other modules.

    Example: geowb warm start --idle 120
    """
    from geowb.warm import start as start_it

    if sys.stderr.isatty():
        typer.echo("Importing, once ...", err=True)
    found = start_it(
        module or (), idle=idle and idle * 60, memory=None if memory is None else memory * 1e9
    )
    _show([found | {"here": True}])


def status() -> None:
    """Show the processes that wait for kernels, of all environments of this user.

    Example: geowb warm status
    """
    from geowb.warm import impossible
    from geowb.warm import status as look

    if reason := impossible():
        typer.echo(f"There are no warm kernels here: {reason}")
        return
    _show(look())


def stop(
    everywhere: Annotated[
        bool, typer.Option("--all", help="Those of other environments too.")
    ] = False,
) -> None:
    """Stop the process of this environment. Kernels that run live on.

    Example: geowb warm stop
    """
    from geowb.warm import stop as stop_it

    stopped = stop_it(everywhere=everywhere)
    for found in stopped:
        kept = found.get("kernels", 0)
        told = f", when its {kept} kernel{'s have' * (kept != 1) or ' has'} ended" if kept else ""
        typer.echo(f"Stopped: process {found['pid']} of {found['prefix']}{told}.")
    if not stopped:
        typer.echo("There was none to stop.")


def _show(processes: list[dict[str, Any]]) -> None:
    if not processes:
        typer.echo("No process is warm. 'geowb warm start', or the first kernel, starts one.")
        return
    rows = [_row(found) for found in processes]
    columns = ("state", "environment", "process", "memory", "kernels", "ends after")
    table(columns, rows)
    for found in processes:
        if found.get("why"):
            typer.echo(f"\nProcess {found['pid']} forks no kernels: {found['why']}.")
            typer.echo(f"What its imports printed: {found['log']}")
        if found.get("missing"):
            typer.echo(f"\nNot installed, so not imported: {', '.join(found['missing'])}.")


def _row(found: dict[str, Any]) -> tuple[str, ...]:
    here = " (this one)" if found["here"] else ""
    if found["state"] == "warming":
        return (
            "warming",
            f"{found.get('prefix', '')}{here}",
            str(found.get("pid", "")),
            "",
            "",
            "",
        )
    idle = found["settings"]["idle"] / 60
    ready = f" in {found['seconds']:.0f} s" if found["state"] == "ready" else ""
    return (
        f"{found['state']}{ready}",
        f"{found['prefix']}, Python {found['python']}{here}",
        str(found["pid"]),
        f"{found['memory'] / 1e9:.2f} GB",
        f"{found['kernels']} now, {found['served']} in all",
        f"{idle:.0f} min idle ({found['idle'] / 60:.0f} now)",
    )
