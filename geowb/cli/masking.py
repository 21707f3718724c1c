"""``geowb masking``: how much a model hides its gradients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from geowb.cli import maps
from geowb.cli.catalog import CatalogFile
from geowb.cli.printing import shown, table
from geowb.errors import RequestError

__all__ = ["masking"]


def masking(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Folder or file of a model, or a run directory with one model."
        ),
    ],
    data: Annotated[str, typer.Option(metavar="NAME", help="Catalog entry to measure on.")],
    catalog: CatalogFile = "",
    select: maps.Select = None,
    label: Annotated[
        str, typer.Option(metavar="NAME", help="Variable with the labels of maps, if several fit.")
    ] = "",
    epsilon: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="Largest change, as a share of the pixel range; 8/255, as in the paper.",
            show_default=False,
        ),
    ] = 8 / 255,
    norm: Annotated[
        str, typer.Option(metavar="NAME", help="linf (of a pixel) or l2 (of an image).")
    ] = "linf",
    bounds: Annotated[
        str | None,
        typer.Option(
            metavar="LOW,HIGH", help="Range of pixels; the entry's, or 0,10000 for reflectance."
        ),
    ] = None,
    images: Annotated[int, typer.Option(metavar="N", help="Images or chips at most.")] = 200,
    chip_size: Annotated[
        int,
        typer.Option(
            metavar="PIXELS",
            help="Edge of a chip of maps; that of the training.",
            show_default=False,
        ),
    ] = 0,
    metric: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this metric; repeatable.")
    ] = None,
    draws: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Random corners; as many as the verdict needs if left out.",
            show_default=False,
        ),
    ] = 0,
    attack: Annotated[
        bool, typer.Option("--attack", help="AutoAttack too; models of images only, minutes.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write it as JSON; - for the screen."),
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(metavar="N", help="Images in a batch; 64, or 8 chips.", show_default=False),
    ] = 0,
    seed: Annotated[int, typer.Option(metavar="N", help="Of images, world, starts, corners.")] = 0,
    accelerator: maps.Accelerator = "auto",
    quiet: maps.Quiet = False,
) -> None:
    """Measure how much a model hides its gradients, and say it in words.

    Five metrics of masked gradients (arXiv:2204.04778) on labelled images, with intervals, and a
    verdict that counts only for a model that looks robust.

    Example: geowb masking runs/NAME/models/pgd --data digits --epsilon 0.15
    """
    if out is not None and str(out) != "-" and not out.expanduser().parent.is_dir():
        raise RequestError(f"There is no folder {out.parent} for {out.name}: make it first.")
    from geowb.masking.examining import examine

    how: dict[str, Any] = {"metrics": metric} if metric else {}
    found = examine(
        model,
        data,
        catalog=catalog,
        select=maps.pairs(select),
        label=label,
        epsilon=epsilon,
        bounds=_numbers(bounds),
        norm=norm,
        draws=draws,
        images=images,
        chip_size=chip_size,
        attack=attack,
        seed=seed,
        batch_size=batch_size,
        accelerator=accelerator,
        progress=not quiet,
        **how,
    )
    text = json.dumps(found.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
    if str(out) == "-":
        typer.echo(text)
        return
    about, one = found.about, found.profile
    typer.echo(
        f"{about['model']} on {about['images']} images of {about['data']}: epsilon "
        f"{shown(about['epsilon_in_pixels'])} of pixels from {about['pixel_range'][0]:g} to "
        f"{about['pixel_range'][1]:g}."
    )
    if not about["published_test"]:
        typer.echo("No test split is published: the model may have been trained on some of them.")
    rows = one.shown()
    table(["measure", *rows.columns], rows.reset_index().to_numpy())
    if found.attacked is not None:
        columns = ["attack", "right (%)", "seconds"]
        attacks = found.attacked.table
        told = [[n, f"{100 * r.right:.1f}", f"{r.seconds:.1f}"] for n, r in attacks.iterrows()]
        table(columns, told)
        for note in found.attacked.notes:
            typer.echo(note)
    typer.echo(one.verdict)
    if out is not None:
        from geowb.batch.rundir import write_at_once

        write_at_once(out.expanduser(), f"{text}\n".encode())
        typer.echo(str(out))


def _numbers(text: str | None) -> list[float]:
    """Read LOW,HIGH."""
    if text is None:
        return []
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise RequestError(f"--bounds is two numbers, 0,255, not '{text}'.") from None
    return [low, high]
