"""``geowb doctor`` and ``lab``."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import textwrap
from pathlib import Path
from typing import Annotated

import typer

from geowb.errors import RequestError

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

    from geowb.machine import short_waits
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
            env = os.environ | short_waits() | {"JUPYTER_CONFIG_PATH": paths}
            done = subprocess.run(command, env=env, check=False)
        finally:
            signal.signal(signal.SIGINT, before)
    raise typer.Exit(done.returncode)
