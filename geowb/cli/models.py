"""``geowb pretrain`` and ``geowb publish``: models, from chips to what others can use."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from geowb.cli.catalog import CatalogFile
from geowb.cli.printing import table as show
from geowb.errors import RequestError, did_you_mean

__all__ = ["pretrain", "probe", "publish", "seeds", "selections"]


def pretrain(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="prithvi_demo, swin_demo, or another Prithvi or Swin model."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for everything; pretraining/MODEL if left out."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(metavar="N", help="Steps; with fewer of them, fewer chips are sampled."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", help="Chips a step, of all devices together.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(metavar="RATE", help="Peak of the learning rate.")
    ] = None,
    mask_ratio: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Share of a chip that is hidden.")
    ] = None,
    jitter: Annotated[
        float | None, typer.Option(metavar="SPREAD", help="Spread of random gains of the bands.")
    ] = None,
    normalise: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="By the published statistics, or by those of the archive."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Of weights, order and masks.")] = (
        None
    ),
    data: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Catalog entry to sample; a world if left out."),
    ] = None,
    catalog: CatalogFile = "",
    select: Annotated[
        list[str] | None,
        typer.Option(
            "-s",
            "--select",
            metavar="KEY=VALUE",
            help="Value of the entry's placeholder; repeatable, all listed ones if left out.",
        ),
    ] = None,
    held_out: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="The same, for chips on which the loss is only followed."
        ),
    ] = None,
    worlds: Annotated[
        str | None,
        typer.Option(metavar="SEEDS", help="Seeds of simulated worlds: 300..339 or 1,2."),
    ] = None,
    chips: Annotated[int | None, typer.Option(metavar="N", help="Chips that are sampled.")] = None,
    size: Annotated[int | None, typer.Option(metavar="PIXELS", help="Edge of a chip.")] = None,
    frames: Annotated[int | None, typer.Option(metavar="N", help="Dates of a chip.")] = None,
    bands: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Bands, such as RED,GREEN,BLUE.")
    ] = None,
    min_clear: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Least share of clear pixels of a date.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Processes that sample; as many as cores.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Dask scheduler that samples.")
    ] = None,
    accelerator: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu or gpu.")] = "auto",
    devices: Annotated[int, typer.Option(metavar="N", help="Devices of a node.")] = 1,
    nodes: Annotated[int, typer.Option(metavar="N", help="Nodes.")] = 1,
    strategy: Annotated[
        str, typer.Option(metavar="NAME", help="Lightning's: auto, ddp and its kin.")
    ] = "auto",
    precision: Annotated[
        str, typer.Option(metavar="NAME", help="auto, 32-true or bf16-mixed.")
    ] = "auto",
    stop_after: Annotated[
        int, typer.Option(metavar="N", help="Stop after N steps; the same command goes on.", min=0)
    ] = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Throw away what the folder holds of a pretraining.")
    ] = False,
) -> None:
    """Pretrain a model by masking: sample chips, write them to Zarr, train.

    The same command again resumes. The last line printed is the model file, which studies
    (-p weights=FILE), `geowb probe` and `geowb publish` take.

    Example: geowb pretrain prithvi_demo --steps 50
    """
    from geowb.pretrain import pretrain as work
    from geowb.pretrain import recipe
    from geowb.pretrain.folder import is_first

    chosen = recipe(model).changed(
        steps=steps,
        worlds=seeds(worlds),
        held_out=selections(held_out),
        sampling={
            "data": data,
            "catalog": catalog or None,
            "selections": selections(select),
            "count": chips,
            "size": size,
            "frames": frames,
            "bands": [band.strip() for band in bands.split(",")] if bands else None,
            "min_clear": min_clear,
        },
        batch_size=batch_size,
        learning_rate=learning_rate,
        mask_ratio=mask_ratio,
        jitter=jitter,
        normalise=normalise,
        seed=seed,
    )
    folder = out if out is not None else Path("pretraining") / model
    try:
        result = work(
            chosen,
            folder,
            accelerator=accelerator,
            devices=devices,
            nodes=nodes,
            strategy=strategy,
            precision=precision,
            scheduler=scheduler,
            workers=workers,
            stop_after=stop_after,
            force=force,
        )
    except (KeyboardInterrupt, SystemExit) as stop:  # Ctrl-C, or a batch system's SIGTERM
        if is_first():
            told = f"Interrupted. What is in {folder} is kept; the same command goes on."
            typer.echo(told, err=True)
        raise typer.Exit(getattr(stop, "code", 130)) from None
    if not result.done:
        told = f"Stopped at step {result.step} of {chosen.steps}; the same command goes on."
        typer.echo(told, err=True)
    if is_first():
        typer.echo(result.model_file if result.done else result.folder)


def probe(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Folder or file of a masked model, or the name of a shipped one."
        ),
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="world, biomassters, sen1floods11 or landsat_series; repeatable, all if left out.",
        ),
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Put the figures into the model's card.")
    ] = False,
) -> None:
    """Say what a pretrained encoder is worth: a linear probe, and filling in what is hidden.

    On worlds that no pretraining sees, and on real chips where they are on this machine. Beside
    each figure stands what costs nothing: the same encoder with random weights, the mean of what
    is shown, the nearest unit that is shown. "clear" means that the 95 % interval of
    the difference leaves out zero, for a probe with each of three seeds.

    Example: geowb probe pretraining/swin_demo --data world
    """
    from geowb.models.files import load
    from geowb.models.publishing import find_model
    from geowb.pretrain import worth

    names = tuple(dict.fromkeys(data or worth.SETS))
    if unknown := [name for name in names if name not in worth.SETS]:
        raise RequestError(
            f"There is no data '{unknown[0]}'. {did_you_mean(unknown[0], worth.SETS)}"
        )
    file = find_model(model)
    if write and not os.access(file.parent, os.W_OK):
        raise RequestError(f"{file.parent} cannot be written: copy it, or leave out --write.")
    masked = load(file)
    if getattr(masked, "card", {}).get("kind") != "masked":
        raise RequestError(f"{file} is no masked model: geowb pretrain makes one.")
    found = worth.examine(masked, names, workers=None, progress=True)
    for line in found.missing:
        typer.echo(f"Left out: {line}", err=True)
    for table, title in (
        (found.probes, "Linear probe of frozen features (higher is better)"),
        (found.reconstruction, "Mean square error of what is hidden (lower is better)"),
    ):
        if len(table):
            typer.echo(f"{title}\n")
            heads = tuple(_HEADS.get(name, name) for name in table.columns)
            show(heads, [[_cell(v) for v in row] for row in table.to_numpy()])
            typer.echo()
    if write:
        worth.write_metrics(file, found)
        typer.echo(f"Written into {file.with_name('model.json')}.", err=True)


#: What columns of the probes' tables are called on a screen.
_HEADS = {
    "low": "gain from",
    "high": "to",
    "low_mean": "gain on mean from",
    "low_nearest": "on nearest from",
}


def _cell(value: Any) -> str:
    if isinstance(value, (bool, str)):
        return {True: "yes", False: "no"}.get(value, str(value))
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def selections(words: list[str] | None) -> dict[str, list[str]] | None:
    """Values by placeholder, from KEY=VALUE."""
    if not words:
        return None
    found: dict[str, list[str]] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key or not value:
            raise RequestError(f"'{word}' is not KEY=VALUE, as in region=cerrado.")
        found.setdefault(key, []).append(value)
    return found


def seeds(text: str | None) -> list[int] | None:
    """Read the seeds of worlds: 300..339, or 1,2."""
    if text is None:
        return None
    low, dots, high = text.partition("..")
    try:
        seeds = list(range(int(low), int(high) + 1)) if dots else [int(n) for n in text.split(",")]
    except ValueError:
        seeds = []
    if not seeds:
        raise RequestError(f"--worlds '{text}' is no list of seeds: write 300..339 or 300,301.")
    return seeds


def publish(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Folder of a model file, a run directory with one model, or the name of a model "
            "that ships with geowb.",
        ),
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write.")],
    licence: Annotated[
        str, typer.Option("--licence", "--license", metavar="ID", help="Licence of the weights.")
    ] = "Apache-2.0",
    title: Annotated[str, typer.Option(metavar="TEXT", help="Heading of the card.")] = "",
    description: Annotated[
        str, typer.Option(metavar="TEXT", help="First paragraph of the card.")
    ] = "",
    repo: Annotated[
        str, typer.Option("--repo", metavar="OWNER/NAME", help="Where it will be on the hub.")
    ] = "",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what an earlier publish wrote.")
    ] = False,
    allow_untrained: Annotated[
        bool, typer.Option("--allow-untrained", help="Publish random weights too.")
    ] = False,
) -> None:
    """Write a model as a Hugging Face repository, with a model card.

    Nothing is uploaded: the command that does is shown. The last line printed is the folder.

    Example: geowb publish runs/NAME/models/unet agb-unet --repo me/agb-unet
    """
    from geowb import models
    from geowb.models.publishing import hub_name

    written = models.publish(
        model,
        folder,
        licence=licence,
        title=title,
        repo_id=repo,
        description=description,
        overwrite=overwrite,
        allow_untrained=allow_untrained,
    )
    command = [_hub_command(), "upload", repo or hub_name(written), str(written)]
    typer.echo(f"Read README.md in it. To upload it: {shlex.join(command)}", err=True)
    typer.echo(written)


def _hub_command() -> str:
    """Name of the hub's command line: ``hf`` since huggingface_hub 0.34."""
    from importlib.metadata import distribution

    names = {point.name for point in distribution("huggingface_hub").entry_points}
    return "hf" if "hf" in names else "huggingface-cli"
