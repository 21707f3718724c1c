"""``geowb predict`` and ``geowb area``: from a model and scenes to maps, and what is on them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geowb.cli.catalog import CatalogFile
from geowb.cli.printing import table as show
from geowb.errors import RequestError

if TYPE_CHECKING:
    from geowb.predict import Prediction

__all__ = ["area", "predict"]

#: Options that say what the scene is, and how a model is run over it.
Tile = Annotated[
    int | None, typer.Option(metavar="PIXELS", help="Edge of a tile; that of training chips.")
]
Overlap = Annotated[
    int | None, typer.Option(metavar="PIXELS", help="What two tiles share; tile / 4.")
]
BatchSize = Annotated[int | None, typer.Option(metavar="N", help="Tiles in a batch.")]
Bands = Annotated[
    str | None,
    typer.Option(metavar="LIST", help="Which are the model's: names, or numbers from 1."),
]
Dates = Annotated[
    str | None,
    typer.Option(metavar="LIST", help="Which dates: 2023-06-21, or numbers from 0."),
]
Scale = Annotated[
    float | None,
    typer.Option(metavar="FACTOR", help="Makes counts (reflectance x 10,000) of the numbers."),
]
NoData = Annotated[
    float | None, typer.Option(metavar="VALUE", help="What means no data, if not the file's.")
]
Crs = Annotated[
    str | None, typer.Option(metavar="CRS", help="Of a scene that has none: EPSG:32722, none.")
]
Select = Annotated[
    list[str] | None,
    typer.Option("-s", "--select", metavar="KEY=VALUE", help="Of a catalog entry; repeatable."),
]
Seed = Annotated[int | None, typer.Option(metavar="N", help="Of a simulated world.")]
Missing = Annotated[
    str,
    typer.Option(metavar="WHICH", help="No data where all, or any, bands and dates are none."),
]
Unreadable = Annotated[
    str, typer.Option(metavar="HOW", help="fail at a block that cannot be read, or nodata.")
]
Precision = Annotated[
    str, typer.Option(metavar="NAME", help="auto (bf16 on a GPU that has it), 32 or bf16.")
]
Accelerator = Annotated[str, typer.Option(metavar="NAME", help="auto, cpu or gpu.")]
Scheduler = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="Dask scheduler that makes the units.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a map of another request.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No line of progress.")]
Together = Annotated[
    str,
    typer.Option(
        "--as",
        metavar="WHAT",
        help="What several files are: scenes, or the bands or dates of one scene.",
    ),
]


def predict(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Folder or file of a model, or a run directory with one model."
        ),
    ],
    scenes: Annotated[
        list[str],
        typer.Argument(
            metavar="SCENE... OUT",
            help="Rasters, addresses, Zarrs or catalog entries; last the map: .tif, .zarr, or for "
            "several scenes a folder.",
        ),
    ],
    tile: Tile = None,
    overlap: Overlap = None,
    blend: Annotated[
        int | None,
        typer.Option(metavar="PIXELS", help="Over how many one fades into the other; overlap / 2."),
    ] = None,
    batch_size: BatchSize = None,
    output: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="values, classes, probabilities, confidence or embedding; repeatable.",
        ),
    ] = None,
    level: Annotated[
        int, typer.Option(metavar="N", help="Which of the encoder's maps is the embedding.")
    ] = -1,
    together: Together = "scenes",
    bands: Bands = None,
    dates: Dates = None,
    scale: Scale = None,
    nodata: NoData = None,
    crs: Crs = None,
    select: Select = None,
    catalog: CatalogFile = "",
    seed: Seed = None,
    missing: Missing = "all",
    unreadable: Unreadable = "fail",
    precision: Precision = "auto",
    compile_: Annotated[
        bool, typer.Option("--compile", help="Compile the model first (a minute).")
    ] = False,
    accelerator: Accelerator = "auto",
    scheduler: Scheduler = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Run a model over scenes of any size and write georeferenced maps.

    Memory is set by tile, batch and overlap, not by the scene. The same command goes on where a
    killed one stopped. The last line printed for each scene is its map.

    Example: geowb predict runs/NAME/models/unet scene.tif agb.tif
    """
    if len(scenes) < 2:
        raise RequestError("Name a scene and where the map goes: geowb predict MODEL SCENE OUT.")
    *sources, out = scenes
    if together not in ("scenes", "bands", "dates"):
        raise RequestError(f"--as is '{together}': it is scenes, bands or dates.")
    from geowb.predict import predict_scene, predict_scenes

    how: dict[str, Any] = {
        "tile": tile,
        "overlap": overlap,
        "blend": blend,
        "batch_size": batch_size,
        "output": output or "auto",
        "level": level,
        "bands": listed(bands),
        "dates": listed(dates),
        "scale": scale,
        "nodata": nodata,
        "crs": crs,
        "select": pairs(select),
        "catalog": catalog,
        "seed": seed,
        "missing": missing,
        "unreadable": unreadable,
        "precision": precision,
        "compile": compile_,
        "accelerator": accelerator,
        "scheduler": scheduler,
        "overwrite": overwrite,
        "progress": not quiet,
    }
    one_file = Path(out).suffix.lower() in (".tif", ".tiff", ".zarr")  # a Zarr is a folder too
    try:
        if together != "scenes":
            _told(predict_scene(model, sources, out, stack=together, **how))
        elif len(sources) == 1 and (one_file or (Path(out).suffix and not Path(out).is_dir())):
            _told(predict_scene(model, sources[0], out, **how))
        elif one_file or (Path(out).suffix and not Path(out).is_dir()):
            raise RequestError(
                f"{len(sources)} scenes cannot go into one file, {out}: name a folder last, or say "
                "--as bands or --as dates if they are one scene."
            )
        else:
            predict_scenes(model, sources, out, made=_told, **how)
    except KeyboardInterrupt:
        typer.echo("Interrupted. What is done is kept; the same command goes on.", err=True)
        raise typer.Exit(130) from None


def _told(made: Prediction) -> None:
    """Print what is to know of a map, and its files; the target itself last."""
    for line in made.told():
        typer.echo(line, err=True)
    if not made.seconds:
        typer.echo("It was there already, made by the same request.", err=True)
    for file in dict.fromkeys(reversed(made.files.values())):
        typer.echo(file)


def listed(text: str | None) -> list[str]:
    """Split a list at its commas."""
    return [part.strip() for part in text.split(",")] if text else []


def pairs(words: list[str] | None) -> dict[str, str]:
    """Read KEY=VALUE words, a key once."""
    from geowb.cli.models import selections

    found = selections(words) or {}
    if twice := next((key for key, values in found.items() if len(values) > 1), None):
        raise RequestError(f"--select {twice} is given twice: one scene has one.")
    return {key: values[0] for key, values in found.items()}


def area(
    source: Annotated[str, typer.Argument(metavar="MAP", help="A map: .tif or .zarr.")],
    zones: Annotated[
        str | None, typer.Option(metavar="FILE", help="Polygons: GeoJSON, GeoPackage, shapefile.")
    ] = None,
    by: Annotated[str, typer.Option(metavar="COLUMN", help="What names the polygons.")] = "",
    variable: Annotated[str, typer.Option(metavar="NAME", help="Which variable of a Zarr.")] = "",
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write the table there too.")
    ] = None,
) -> None:
    """Say how much of the ground each class of a map covers, or sum a map up by polygons.

    Areas are those on the ellipsoid, in any CRS, also in degrees.

    Example: geowb area agb.tif --zones stands.geojson --by stand
    """
    import geowb

    if by and not zones:
        raise RequestError("--by names polygons: give them with --zones FILE.")
    if zones:
        found = geowb.zonal_summary(source, zones, by=by, variable=variable)
    else:
        found = geowb.area_per_class(source, variable=variable)
    units = {"mean": "units", "std": "units", "min": "units", "median": "units", "max": "units",
             "total": "total_units"}  # fmt: skip
    heads = []
    for name in found.columns:
        unit = found.attrs.get(units.get(name, ""), "")
        heads.append(f"{name} ({unit})" if unit else name)
    show(heads, [[_cell(value) for value in row] for row in found.itertuples(index=False)])
    if "nodata_km2" in found.attrs:
        typer.echo(f"No data: {found.attrs['nodata_km2']:,.4g} km2, not in the shares.", err=True)
    for name in found.attrs.get("repaired", ()):
        typer.echo(f"Polygon {name} crossed itself, and was repaired.", err=True)
    if csv is not None:
        found.to_csv(csv, index=False)


def _cell(value: Any) -> str:
    return f"{value:,.6g}" if isinstance(value, float) else str(value)
