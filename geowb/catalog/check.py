"""Problems of an entry that can be seen from headers alone, before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from geowb.bands import HLS6
from geowb.catalog.schema import is_url
from geowb.errors import DataError, RequestError, did_you_mean

if TYPE_CHECKING:
    from geowb.catalog.source import Source

__all__ = ["check_source", "file_problems"]

#: Variables of every simulated scene, then those of a flood and of fires.
_WORLD = ("reflectance", "fmask", "landcover", "agb", "agb_se", "agb_dense", "elevation")
_FLOOD, _FIRE = ("flood",), ("burn", "burn_severity", "burn_date")


def check_source(
    value: str,
    *,
    catalog: str = "",
    variables: Sequence[str] = (),
    bands: Sequence[str] | str = (),
    selection: Mapping[str, Sequence[str]] | None = None,
    labels: str = "",
) -> list[str]:
    """Problems of a catalog entry, one sentence each; empty when there is none.

    >>> check_source("wrld")
    ["The catalog ... has no entry 'wrld'. Did you mean 'world'?"]

    Parameters
    ----------
    value
        Name of an entry.
    catalog
        A catalog file; empty for the one that comes with geowb.
    variables, bands
        What a study needs of the scene; ``"agb|agb_dense"`` asks for one of them, ``"HLS6"``
        stands for those six bands.
    selection
        Placeholder -> wanted values; an empty list stands for all of them.
    labels
        A file that brings the variables, so that the scene need not have them; empty for none.
    """
    from geowb.catalog.source import open_catalog

    try:
        source = open_catalog(catalog or None)[value]
    except RequestError as error:
        hint = ""
        if "/" in value or value.endswith((".tif", ".tiff")):
            hint = " A file is used through a catalog entry that describes it (docs/catalog.md)."
        return [f"{error}{hint}"]
    wanted = {
        name: [values] if isinstance(values, str) else [str(value) for value in values]
        for name, values in (selection or {}).items()
    }
    for name in source.entry.placeholders:
        wanted.setdefault(name, source.choices(name)[:1])  # what `open` takes when it is left out
    problems = source.selection_problems(wanted)
    variables = () if labels.strip() else variables
    problems += _content_problems(source, variables, HLS6 if bands == "HLS6" else bands)
    return problems or file_problems(source, wanted)


def _content_problems(
    source: Source, variables: Sequence[str], bands: Sequence[str]
) -> Iterator[str]:
    driver, _ = source.reader({})
    if driver is None:
        yield source.not_a_scene
        return
    options, rename = driver.options, source.entry.data_adapter.rename
    names: Sequence[str | None] | None = HLS6
    if driver.name == "world":
        has = _world_variables(source)
    elif driver.name == "stac":
        has = ["reflectance", *(["fmask"] if options.fmask else [])]
        names = list(next(iter(options.collections.values())))
    elif driver.name in ("arrays", "digits"):
        has, names = ["reflectance", "label"], getattr(options, "bands", ("GREY",))
    else:
        image = getattr(options, "variable", "reflectance")
        names = options.bands if image == "reflectance" else ()
        has = [] if options.bands and not any(options.bands) else [image]
        has += [*options.layers, *options.labels]
        has += ["label"] if "{class}" in getattr(options, "images", "") else []
    has = [rename.get(name, name) for name in has]
    for variable in variables:
        if not set(either := variable.split("|")) & set(has):
            named = "' and no '".join(either)
            hint = did_you_mean(either[0], has)
            yield f"Entry '{source.name}' has no variable '{named}'. {hint}"
    if names is None:  # the file itself names its bands, or nobody does
        return
    held = [rename.get(name, name) for name in names if name]
    if absent := [band for band in bands if band not in held]:
        yield (
            f"Entry '{source.name}' lacks the band(s) {', '.join(absent)}; "
            f"it has {', '.join(held) or 'none'}."
        )


def file_problems(source: Source, wanted: Mapping[str, Sequence[str]]) -> list[str]:
    """Problems in the files of an entry: opening it reads their headers and nothing else."""
    driver, _ = source.reader({})
    if driver is not None and driver.name == "world":
        return _world_problems(source, wanted)
    if driver is None:
        return []
    if driver.name == "stac":
        from geowb.catalog import stac

        problem = stac.token_problem(driver.options)
        return [problem] if problem else []
    problems: dict[str, None] = {}
    for fields in _selected(source, wanted):
        if is_url(source.entry.uri):  # only what lies beside it is looked at, not the network
            problems |= dict.fromkeys(filter(None, [source.absence(fields)]))
            continue
        try:
            source.open(**fields)
        except (DataError, RequestError) as error:
            problems[str(error)] = None
    return list(problems)


def _selected(source: Source, wanted: Mapping[str, Sequence[str]]) -> Iterator[dict[str, str]]:
    """Each combination of the wanted values."""
    given = {name: values[0] for name, values in wanted.items() if values}
    for fields in source.selections():
        if all(value in (wanted.get(name) or [value]) for name, value in fields.items()):
            yield given | fields


def _world_variables(source: Source) -> list[str]:
    """Variables that the scenes of a world entry have in all its regions."""
    from geowb.world import REGIONS

    options = [source.reader(fields)[0].options for fields in source.selections()]
    has = [*_WORLD, *(_FLOOD if options[0].flood else ()), *(_FIRE if options[0].fire else ())]
    if all(one.region in REGIONS and REGIONS[one.region].crops for one in options):
        has.append("crop")
    return has


def _world_problems(source: Source, wanted: Mapping[str, Sequence[str]]) -> list[str]:
    """Regions that the world does not have; its other arguments have their bounds in the schema."""
    from geowb.world import REGIONS

    regions = [source.reader(fields)[0].options.region for fields in _selected(source, wanted)]
    return [
        f"Entry '{source.name}': the world has no region '{region}'. "
        + did_you_mean(region, REGIONS)
        for region in dict.fromkeys(regions)
        if region not in REGIONS
    ]
