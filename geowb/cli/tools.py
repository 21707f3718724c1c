"""``geowb doctor`` and ``lab``."""

from __future__ import annotations

import shutil
import sys
import textwrap
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["doctor", "lab"]


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


def lab(
    folder: Annotated[
        Path | None, typer.Argument(help="Folder with notebooks; geowb's own by default.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port; the next free one is taken.")] = 8888,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
) -> None:
    """Open JupyterLab on notebooks, for this machine only.

    Example: geowb lab --no-browser
    """
    from geowb.lab import start

    raise typer.Exit(start(folder, port=port, browser=browser, tell=typer.echo))
