"""``geowb adapt`` and ``geowb embed``: codecs of an encoder, compressed embeddings of scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from geowb.cli import maps
from geowb.cli.catalog import CatalogFile
from geowb.errors import RequestError

__all__ = ["adapt", "embed"]


def adapt(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="mae_demo, prithvi_demo, the folder of a masked model, or with --weights the name "
            "of any MAE or Prithvi model.",
        ),
    ],
    lambdas: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="What a unit of the reconstruction's error is worth, bits per element: 1,10,100.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the codecs; codecs/MODEL if left out."),
    ] = None,
    weights: Annotated[
        str, typer.Option(metavar="FILE", help="Of a model that is named: a file, or hf://...")
    ] = "",
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Iterations; 2.5 % of the pretraining's, which is the most."
        ),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(metavar="N", help="Chips a step.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(metavar="RATE", help="Peak of the network's learning rate.")
    ] = None,
    through: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What the decoder sees in training: rounding, or noise as in the paper's code.",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Of order, masks and noise.")] = (
        None
    ),
    stored: Annotated[
        str | None, typer.Option(metavar="DTYPE", help="Of the weights: float32 or float16.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Catalog entry to sample; the pretraining's if left out."
        ),
    ] = None,
    catalog: CatalogFile = "",
    select: maps.Select = None,
    worlds: Annotated[
        str | None, typer.Option(metavar="SEEDS", help="Of simulated worlds: 300..339 or 1,2.")
    ] = None,
    chips: Annotated[int | None, typer.Option(metavar="N", help="Chips that are sampled.")] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Processes that sample; as many as cores.")
    ] = None,
    accelerator: maps.Accelerator = "auto",
    force: Annotated[
        bool, typer.Option("--force", help="Throw away the codecs that the folder holds.")
    ] = False,
    quiet: maps.Quiet = False,
) -> None:
    """Adapt a pretrained encoder to compression: a codec for each trade-off.

    The same command again resumes. Each line printed is the folder of a codec, which `geowb embed`
    takes.

    Example: geowb adapt prithvi_demo --lambdas 10,100 --steps 20
    """
    from geowb.cli.models import seeds, selections
    from geowb.nec import adapt as work

    sampling = {
        "data": data,
        "catalog": catalog or None,
        "selections": selections(select),
        "seeds": seeds(worlds),
        "count": chips,
    }
    values = {
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "through": through,
        "seed": seed,
        "stored": stored,
    }
    try:
        made = work(
            model,
            out if out is not None else Path("codecs") / Path(model).name,
            _numbers(lambdas),
            weights=weights,
            steps=steps,
            sampling={key: value for key, value in sampling.items() if value is not None},
            workers=workers,
            accelerator=accelerator,
            force=force,
            progress=not quiet,
            **{key: value for key, value in values.items() if value is not None},
        )
    except KeyboardInterrupt:
        typer.echo("Interrupted. What is done is kept; the same command goes on.", err=True)
        raise typer.Exit(130) from None
    for folder in made:
        typer.echo(folder)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise RequestError(
            f"--lambdas is '{text}': it is a list of numbers above 0, as 1,10,100."
        ) from error


def embed(
    scenes: Annotated[
        list[str],
        typer.Argument(
            metavar="SCENE OUT.zarr",
            help="A raster, an address, a Zarr or a catalog entry; or several files, see --as.",
        ),
    ],
    codec: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="A codec: the folder that `geowb adapt` left, or one that comes with geowb, "
            "mae_demo/lambda-X with X 1, 1.7, 4, 20, 100 or 600.",
        ),
    ],
    weights: Annotated[
        str,
        typer.Option(metavar="FILE", help="The encoder's file, if it is not where it was."),
    ] = "",
    chunk: Annotated[
        int, typer.Option(metavar="TOKENS", help="Edge of a chunk: what is decoded at least.")
    ] = 32,
    tile: maps.Tile = None,
    overlap: maps.Overlap = None,
    batch_size: maps.BatchSize = None,
    together: Annotated[
        str,
        typer.Option(
            "--as", metavar="WHAT", help="What several files are of the scene: bands or dates."
        ),
    ] = "",
    bands: maps.Bands = None,
    dates: maps.Dates = None,
    scale: maps.Scale = None,
    nodata: maps.NoData = None,
    crs: maps.Crs = None,
    select: maps.Select = None,
    catalog: CatalogFile = "",
    seed: maps.Seed = None,
    missing: maps.Missing = "all",
    unreadable: maps.Unreadable = "fail",
    precision: maps.Precision = "auto",
    accelerator: maps.Accelerator = "auto",
    scheduler: maps.Scheduler = None,
    overwrite: maps.Overwrite = False,
    quiet: maps.Quiet = False,
) -> None:
    """Encode a scene of any size and write its compressed embedding, a Zarr on the token grid.

    xarray.open_zarr reads it wherever geowb is installed, with torch or without. Memory is set by
    tile and batch, not by the scene; the same command goes on where a killed one stopped. The last
    line printed is the Zarr.

    Example: geowb embed scene.tif scene.zarr --codec codecs/prithvi_demo/lambda-10
    """
    if len(scenes) < 2:
        raise RequestError("Name a scene and where it goes: geowb embed SCENE OUT.zarr --codec DIR")
    *sources, out = scenes
    if together not in ("", "bands", "dates") or (len(sources) > 1 and not together):
        raise RequestError(
            f"--as is '{together}': of the {len(sources)} files of a scene say bands or dates."
        )
    from geowb.nec import embed_scene

    how: dict[str, Any] = {
        **{"tile": tile, "overlap": overlap, "batch_size": batch_size, "scale": scale},
        **{"bands": maps.listed(bands), "dates": maps.listed(dates), "nodata": nodata, "crs": crs},
        **{"select": maps.pairs(select), "catalog": catalog, "seed": seed, "missing": missing},
        **{"unreadable": unreadable, "precision": precision, "accelerator": accelerator},
        **{"scheduler": scheduler, "overwrite": overwrite, "progress": not quiet},
        **({"stack": together} if together else {}),
    }
    source = sources if together else sources[0]
    try:
        size = embed_scene(codec, source, out, chunk=chunk, weights=weights, **how)
    except KeyboardInterrupt:
        typer.echo("Interrupted. What is done is kept; the same command goes on.", err=True)
        raise typer.Exit(130) from None
    typer.echo(size.told(), err=True)
    typer.echo(out)
