"""What a person types: ``geowb studies``, ``geowb run``, ``geowb catalog``, ``geowb doctor``, ...

Nothing heavy is imported here: ``geowb --help`` has to answer at once.
Results go to standard output, progress and errors to standard error.
"""

from __future__ import annotations

import shutil
import signal
import sys
import textwrap
import traceback
from typing import Annotated, Any

import typer

import geowb
from geowb.cli import catalog, maps, masking, models, nec, runs, tools, warm
from geowb.errors import GeowbError

__all__ = ["app", "main"]

_SETTINGS: dict[str, Any] = {
    "no_args_is_help": True,
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}


#: Commands in the order of the help, with the group of the catalog between the two.
_COMMANDS = {
    "studies": runs.studies,
    "run": runs.run,
    "sweep": runs.sweep,
    "report": runs.report,
    "doctor": tools.doctor,
    "lab": tools.lab,
}
_CATALOG = {
    "list": catalog.list_,
    "show": catalog.show,
    "check": catalog.check,
    "get": catalog.get,
}
_WARM = {"start": warm.start, "status": warm.status, "stop": warm.stop}
_MODELS = {
    "pretrain": models.pretrain,
    "probe": models.probe,
    "predict": maps.predict,
    "area": maps.area,
    "adapt": nec.adapt,
    "embed": nec.embed,
    "masking": masking.masking,
    "publish": models.publish,
}


class _InOrder(typer.core.TyperGroup):
    """Shows the commands on models last; typer itself would show its groups there."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=_MODELS.__contains__)


app = typer.Typer(help="A workbench for geospatial foundation models.", cls=_InOrder, **_SETTINGS)
catalog_app = typer.Typer(help="Data sets: what there is, where it comes from.", **_SETTINGS)
app.add_typer(catalog_app, name="catalog")
warm_app = typer.Typer(help="Kernels that are forked from a warm process.", **_SETTINGS)
app.add_typer(warm_app, name="warm")
for _name, _command in {**_COMMANDS, **_MODELS}.items():
    app.command(_name)(_command)
for _name, _command in _CATALOG.items():
    catalog_app.command(_name)(_command)
for _name, _command in _WARM.items():
    warm_app.command(_name)(_command)


def main() -> None:
    """Entry point: turn errors into a paragraph and an exit status."""
    # nbformat's jsonschema would compile a grammar of IRIs for a second; notebooks have none.
    sys.modules.setdefault("rfc3987_syntax", None)
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
