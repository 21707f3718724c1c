"""Starting JupyterLab: for this machine only, with a token, at the start page."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from geowb.errors import RequestError
from geowb.machine import short_waits
from geowb.paths import notebooks_dir

__all__ = ["START_PAGE", "folder_of_notebooks", "settings", "start"]

START_PAGE = "00_start_here.ipynb"
_COPY = "geowb-notebooks"
_SECONDS_TO_END = 15  # for JupyterLab, to end its kernels


def start(
    folder: str | Path | None = None,
    *,
    port: int = 8888,
    browser: bool = True,
    tell: Callable[[str], None] = print,
) -> int:
    """Open JupyterLab on a folder and wait for its end; return its exit status.

    >>> start("my_notebooks", browser=False)  # doctest: +SKIP
    0

    Parameters
    ----------
    folder
        Folder with notebooks; geowb's own by default.
    port
        Port of 127.0.0.1; the next free one is taken.
    browser
        Open a browser.
    tell
        Is given what a person should know.

    Raises
    ------
    RequestError
        JupyterLab is not installed, or there is no such folder.
    """
    if find_spec("jupyterlab") is None:
        raise RequestError(
            "JupyterLab is not installed. Install it with: pip install 'geowb[widgets]'"
        )
    root = folder_of_notebooks(tell) if folder is None else _existing(folder)
    command = [sys.executable, "-m", "jupyterlab", "--ip=127.0.0.1", f"--port={port}"]
    command += [f"--ServerApp.root_dir={root}"]
    command += [] if browser else ["--no-browser"]
    command += ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(prefix="geowb-lab-") as place:
        for name, content in settings(root).items():
            file = Path(place) / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(content), encoding="utf-8")
        paths = os.pathsep.join(filter(None, [os.environ.get("JUPYTER_CONFIG_PATH"), place]))
        return _wait(command, os.environ | short_waits() | {"JUPYTER_CONFIG_PATH": paths})


def settings(root: Path) -> dict[str, Any]:
    """Files of settings with which JupyterLab is started on a folder: name -> content.

    >>> settings(Path("empty"))["jupyter_server_config.json"]
    {'ServerApp': {'contents_manager_class': 'geowb.lab.contents.Contents'}}
    """
    lab: dict[str, Any] = {"expose_app_in_browser": True}  # widgets open notebooks in a tab
    if (root / START_PAGE).is_file():
        lab["default_url"] = f"/lab/tree/{START_PAGE}"
    # No question about news over the page: a class should see the notebook.
    off = {"@jupyterlab/apputils-extension:announcements": True}
    contents = "geowb.lab.contents.Contents"
    return {
        "jupyter_server_config.json": {"ServerApp": {"contents_manager_class": contents}},
        "jupyter_lab_config.json": {"LabApp": lab},
        "labconfig/page_config.json": {"disabledExtensions": off},
    }


def folder_of_notebooks(tell: Callable[[str], None] = print) -> Path:
    """Folder with geowb's notebooks that may be edited.

    In a checkout it is its own. Where geowb was installed, they are copied into the working
    directory once: nobody edits what lies among the installed packages.

    Raises
    ------
    RequestError
        They cannot be copied.
    """
    own = notebooks_dir()
    if own.parent.name != "_share":
        return own
    copy = Path.cwd() / _COPY
    if copy.is_dir():
        tell(f"The notebooks in {copy} are used; rename the folder for a fresh copy.")
        return copy
    try:
        with tempfile.TemporaryDirectory(prefix=f".{_COPY}-", dir=Path.cwd()) as place:
            made = Path(place) / _COPY
            shutil.copytree(own, made, ignore=shutil.ignore_patterns("runs"))
            made.rename(copy)
    except OSError as error:
        raise RequestError(
            f"geowb's notebooks cannot be copied to {copy}: {error}. Start in a folder that you "
            "may write in, or name a folder with notebooks: geowb lab FOLDER"
        ) from error
    tell(f"geowb's notebooks were copied to {copy}; edit them there.")
    return copy


def _existing(folder: str | Path) -> Path:
    path = Path(folder).expanduser().absolute()
    if path.is_dir():
        return path
    if path.is_file():
        raise RequestError(f"{path} is a file. Name the folder that it lies in: {path.parent}")
    raise RequestError(f"{path} is no folder. Make it first, or name another.")


def _wait(command: list[str], environment: dict[str, str]) -> int:
    """Run JupyterLab to its end. It ends with this process, and its kernels with it."""
    # Ctrl-C is JupyterLab's: it asks before it shuts down.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        process = subprocess.Popen(command, env=environment)
        try:
            return process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(_SECONDS_TO_END)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
    finally:
        signal.signal(signal.SIGINT, before)
