"""Problems of an entry that can be seen from headers alone, before anything runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from geowb.bands import HLS6, SENSOR_BANDS
from geowb.errors import DataError, RequestError, did_you_mean

if TYPE_CHECKING:
    from geowb.catalog.source import Source

__all__ = ["check_source", "file_problems"]

_WORLD = ("reflectance", "agb", "agb_dense", "fmask", "landcover")


def check_source(
    value: str,
    *,
    catalog: str = "",
    variables: Sequence[str] = (),
    bands: Sequence[str] | str = (),
    selection: Mapping[str, Sequence[str]] | None = None,
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
        What a study needs of the scene; ``"HLS6"`` stands for those six bands.
    selection
        Placeholder -> wanted values; an empty list stands for all of them.
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
    problems = list(_selection_problems(source, wanted))
    problems += _content_problems(source, variables, HLS6 if bands == "HLS6" else bands)
    if problems:
        return problems
    return file_problems(source, wanted)


def _selection_problems(source: Source, wanted: Mapping[str, list[str]]) -> Iterator[str]:
    known = source.entry.placeholders
    for name, values in wanted.items():
        if not values:
            continue
        if name not in known:
            yield (
                f"Entry '{source.name}' has no placeholder '{name}', so {values} cannot be "
                f"chosen; leave it empty. {did_you_mean(name, known) if known else ''}".strip()
            )
            continue
        for value in values:
            if known[name] != "any" and value not in known[name]:
                hint = did_you_mean(value, known[name])
                yield f"Entry '{source.name}' has no {name} '{value}'. {hint}"
    for name, values in known.items():
        if values == "any" and not wanted.get(name):
            yield f"Entry '{source.name}' needs a value for '{name}'."


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
        has = [*_WORLD]
    elif driver.name == "stac":
        has = ["reflectance", *(["fmask"] if options.fmask else [])]
        names = list(next(iter(options.collections.values())))
    else:
        has = [getattr(options, "variable", "reflectance"), *options.labels]
        has += ["label"] if "{class}" in getattr(options, "images", "") else []
        names = options.bands if has[0] == "reflectance" else ()
    has = [rename.get(name, name) for name in has]
    for variable in variables:
        if variable not in has:
            yield (
                f"Entry '{source.name}' has no variable '{variable}'. {did_you_mean(variable, has)}"
            )
    if names is None:  # the file itself names its bands, or nobody does
        return
    held = [rename.get(name, name) for name in names if name]
    if absent := [band for band in bands if band not in held]:
        yield (
            f"Entry '{source.name}' lacks the band(s) {', '.join(absent)}; "
            f"it has {', '.join(held) or 'none'}."
        )


def file_problems(source: Source, wanted: Mapping[str, Sequence[str]] | None = None) -> list[str]:
    """Problems in the files of an entry, by their headers."""
    chosen = [
        fields
        for fields in source.selections()
        if all(
            not values or fields.get(n, values[0]) in values for n, values in (wanted or {}).items()
        )
    ]
    problems: list[str] = []
    for fields in chosen:
        driver, uri = source.reader(fields)
        if driver is None or driver.name == "world" or source.is_url:
            continue
        if driver.name == "stac":
            from geowb.catalog import stac

            if driver.options.sign == "earthdata" and not os.environ.get(
                stac.token_name(driver.options)
            ):
                problems.append(stac.token_missing(driver.options))
        elif missing := source.missing(fields):
            problems.append(missing)
        else:
            look = _raster_problems if driver.name == "raster" else _chips_problems
            problems += look(source, driver.options, uri)
    return list(dict.fromkeys(problems))


def _header(path: str, where: str) -> Any:
    """Open rasterio dataset; DataError if the file is no raster."""
    import warnings

    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioIOError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            return rasterio.open(path)
    except RasterioIOError as error:
        raise DataError(f"{where}: '{path}' is not a raster that can be read ({error}).") from error


def _raster_problems(source: Source, options: Any, uri: str) -> Iterator[str]:
    from geowb.catalog import read

    where = f"Entry '{source.name}'"
    files = source.catalog.find(uri)
    try:
        image = _header(str(files[0]), where)
    except DataError as error:
        yield str(error)
        return
    with image:
        if problem := read.crs_problem(source.entry.metadata.crs, image.crs):
            yield f"{where}: {problem}."
        if options.variable == "reflectance":
            yield from _band_problems(image, options, f"{where}: '{files[0]}'")
        if options.dates and len(options.dates) != len(files) * options.frames:
            yield f"{where} names {len(options.dates)} dates, its files hold {len(files)}."
        for name, label in options.labels.items():
            place = source.catalog.find(label.uri)[0]
            try:
                with _header(str(place), where) as grid:
                    if label.band > grid.count:
                        yield f"{where}: '{place}' has {grid.count} bands, not {label.band}."
                    if problem := read.grid_problem(image, grid):
                        yield f"{where}: the label {name} is off the image's grid: {problem}."
            except DataError as error:
                yield str(error)


def _band_problems(image: Any, options: Any, where: str) -> Iterator[str]:
    from geowb.catalog import read

    try:
        names = read.band_names(image.count, options.bands, options.frames)
    except DataError as error:
        yield f"{where} {error}."
        return
    for name, told in zip(names, image.descriptions, strict=False):
        meant = _meanings(told or "")
        if name in HLS6 and meant and name not in meant:
            yield (
                f"{where} describes a band as '{told}', which the entry declares to be {name}: "
                "is the order of bands right?"
            )


def _meanings(description: str) -> set[str]:
    """Which of the six bands a file's own band description may mean."""
    text = description.strip().upper()
    if text in HLS6:
        return {text}
    return {
        name
        for codes in SENSOR_BANDS.values()
        for code, name in zip(codes, HLS6, strict=True)
        if text == code
    }


def _chips_problems(source: Source, options: Any, uri: str) -> Iterator[str]:
    from geowb.catalog import read
    from geowb.catalog.schema import expand

    where, folder = f"Entry '{source.name}'", source.catalog.find(uri)[0]
    found = read.find_chips(folder, options.images)
    if not found:
        yield f"{where}: no file in '{folder}' fits '{options.images}'."
        return
    path, fields = found[0]
    try:
        with _header(str(path), where) as image:
            if problem := read.crs_problem(source.entry.metadata.crs, image.crs):
                yield f"{where}: {problem} ('{path}')."
            yield from _band_problems(image, options, f"{where}: '{path}'")
            for name, label in options.labels.items():
                place = folder / expand(label.uri, fields)
                if not place.is_file():
                    yield f"{where}: the label {name} of '{path}' is missing ('{place}')."
                    continue
                with _header(str(place), where) as grid:
                    if problem := read.grid_problem(image, grid):
                        yield f"{where}: the label {name} of '{path}' is off its grid: {problem}."
    except DataError as error:
        yield str(error)
    for name in options.split_files.values():
        if not (folder / name).is_file():
            yield f"{where}: the split file '{folder / name}' is missing."
