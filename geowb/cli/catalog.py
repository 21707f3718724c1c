"""``geowb catalog``: data sets, what there is, where it comes from."""

from __future__ import annotations

from typing import Annotated

import typer

import geowb
from geowb.cli.printing import table

__all__ = ["check", "get", "list_", "show"]

CatalogFile = Annotated[
    str, typer.Option("--catalog", metavar="FILE", help="Another data_catalog.yaml.")
]


def list_(catalog: CatalogFile = "") -> None:
    """List the data sets and whether they are here; `geowb catalog show` says more.

    Example: geowb catalog list
    """
    columns = ("name", "category", "status", "description")
    rows = geowb.open_catalog(catalog or None).table()
    table(columns, [[row[column] for column in columns] for row in rows], clip=True)


def show(
    name: Annotated[str, typer.Argument(help="Name of an entry.")], catalog: CatalogFile = ""
) -> None:
    """Show one data set: variables, licence, source, where it lies.

    Example: geowb catalog show world
    """
    typer.echo(geowb.open_catalog(catalog or None)[name].describe())


def check(catalog: CatalogFile = "") -> None:
    """Check the catalog and all data that are here.

    Example: geowb catalog check --catalog my_catalog.yaml
    """
    problems = geowb.open_catalog(catalog or None).check()
    for problem in problems:
        typer.echo(problem, err=True)
    if problems:
        raise typer.Exit(1)
    typer.echo("The catalog is in order.")


def get(
    name: Annotated[str, typer.Argument(help="Name of an entry.")], catalog: CatalogFile = ""
) -> None:
    """Download a data set; the last line printed is where it lies.

    Example: geowb catalog get test_chips
    """
    typer.echo(geowb.open_catalog(catalog or None)[name].get(progress=True))
