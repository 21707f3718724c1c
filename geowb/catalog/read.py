"""One scene on one grid: files -> lazy xarray, by the scene contract."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from geowb.bands import HLS6, SENSOR_BANDS
from geowb.catalog.fit import check_classes, check_offset, grid_problem, numbers_of
from geowb.catalog.schema import ChipsOptions, DataAdapter, Label, Layer, RasterOptions, is_url
from geowb.catalog.stored import open_quietly
from geowb.errors import DataError

if TYPE_CHECKING:
    import xarray as xr

    from geowb.catalog.source import Source

__all__ = [
    "FILES", "adapt", "as_label", "band_names", "crs_of", "flags", "is_classes", "kept", "opened",
    "raster",
]  # fmt: skip

#: Key of the encoding of ``reflectance`` that says which files and channels it was read from, so
#: that pictures can be taken from their overviews.
FILES = "geowb_files"


def adapt(scene: xr.Dataset, adapter: DataAdapter) -> xr.Dataset:
    """Rename variables and bands, then convert units; -1 of a class map stays -1."""
    import numpy as np

    bands = [str(name) for name in scene.band.values] if "band" in scene.coords else []
    known = {*map(str, scene.data_vars), *bands}
    if unknown := set(adapter.rename) - known:
        raise DataError(f"data_adapter renames '{min(unknown)}', but there is no such thing here.")
    scene = scene.rename({k: v for k, v in adapter.rename.items() if k in scene.data_vars})
    if bands:
        scene = scene.assign_coords(band=[adapter.rename.get(name, name) for name in bands])
    for name in {**adapter.unit_mult, **adapter.unit_add}:
        if name not in scene:
            raise DataError(f"data_adapter converts '{name}', but there is no such variable here.")
        old = scene[name]
        new = old * adapter.unit_mult.get(name, 1.0) + adapter.unit_add.get(name, 0.0)
        if np.issubdtype(old.dtype, np.signedinteger):
            new = new.where(old != -1, -1)
        scene[name] = new.astype(old.dtype).assign_attrs(old.attrs)
    return scene


def opened(path: str) -> xr.DataArray:
    """Open a raster lazily ``(band, y, x)``, its numbers as they are stored."""
    import rioxarray

    return open_quietly(rioxarray.open_rasterio, path, chunks={"x": 2048, "y": 2048}, lock=False)


def _masked(values: xr.DataArray, *nodata: float | None) -> xr.DataArray:
    """float32 with NaN where the value is any of `nodata`."""
    result = values.astype("float32")
    for value in nodata:
        if value is not None:
            result = result.where(values != value)
    return result


def as_label(values: xr.DataArray, label: Label | Layer) -> xr.DataArray:
    """Label from float32 with NaN: a quantity as it is, a class map as int16 with -1."""
    if not is_classes(label):
        return values
    told = flags(label.classes) if label.classes else {}
    if weights := getattr(label, "class_weights", None):
        told["class_weights"] = list(weights)
    return values.fillna(-1).astype("int16").assign_attrs(told)


def is_classes(label: Label | Layer) -> bool:
    """Whether the numbers of a label are classes."""
    return label.kind == "classes" or bool(label.classes)


def flags(classes: Sequence[str]) -> dict[str, Any]:
    """Attributes of a class map by the CF conventions, for classes that count from 0."""
    return {
        "flag_values": list(range(len(classes))),
        "flag_meanings": " ".join(re.sub(r"\W+", "_", name) for name in classes),
    }


def band_names(
    path: str, image: xr.DataArray, options: RasterOptions | ChipsOptions
) -> list[str | None]:
    """Names of the channels of one date, as the entry declares them.

    Raises
    ------
    DataError
        If the file has another number of channels, or its own band descriptions
        contradict the declared order.
    """
    count, frames = image.sizes["band"], options.frames
    names = options.bands or [f"band_{i + 1}" for i in range(count // frames)]
    if len(names) * frames != count:
        dates = f" x {frames} dates" if frames > 1 else ""
        raise DataError(f"'{path}' has {count} channels, the entry declares {len(names)}{dates}.")
    told = image.attrs.get("long_name", ())
    for name, text in zip(names, [told] if isinstance(told, str) else told, strict=False):
        meant = _meanings(text or "")
        if name in HLS6 and meant and name not in meant:
            raise DataError(
                f"'{path}' describes a band as '{text}', which the entry declares to be {name}: "
                "is the order of bands right?"
            )
    return list(names)


def _meanings(description: str) -> set[str]:
    """Which of the six HLS bands a file's own band description may mean."""
    text = description.strip().upper()
    tables = [HLS6, *SENSOR_BANDS.values()]
    return {HLS6[codes.index(text)] for codes in tables if text in codes}


def kept(names: Sequence[str | None]) -> list[int]:
    """Channels with a name, as in the file; where all six HLS bands are, they come first."""
    found = [i for i, name in enumerate(names) if name is not None]
    if not set(HLS6) <= set(names):
        return found
    return sorted(found, key=lambda i: HLS6.index(names[i]) if names[i] in HLS6 else len(HLS6))


def _paths(source: Source, uri: str) -> list[str]:
    return [uri] if is_url(uri) else [str(path) for path in source.catalog.find(uri)]


def _channel(
    source: Source, name: str, label: Label | Layer, path: str, image: xr.DataArray, number: int
) -> xr.DataArray:
    """Channel `number` (from 1) of a file as a label or layer, float32 with NaN, checked lazily."""
    if number > image.sizes["band"]:
        raise DataError(f"'{path}' has {image.sizes['band']} bands, not {number}.")
    one = image.isel(band=number - 1, drop=True)
    numbers, told = numbers_of(source, name), one.attrs
    offset = told.get("offsets", [told.get("add_offset", 0.0)] * number)[number - 1]
    check_offset(path, offset, told.get("scale_factor", 1.0), numbers)
    own = image.rio.nodata  # meant for all channels of an image: a layer may say otherwise
    if isinstance(label, Layer) and label.nodata is not None:
        own = None
    values = _masked(one, label.nodata, own)
    if is_classes(label):
        how = {"path": path, "classes": label.classes, "numbers": numbers}
        checked = values.data.map_blocks(check_classes, **how, meta=values.data._meta)
        values = values.copy(data=checked)
    return values


def _frames(
    source: Source, options: RasterOptions, path: str, image: xr.DataArray
) -> Iterator[tuple[str, xr.DataArray]]:
    """Variables of one file with their names, one date after the other."""
    if options.variable == "fmask":
        yield "fmask", image.isel(band=0, drop=True).astype("uint8").expand_dims("time")
        return
    names, told = band_names(path, image, options), image.attrs
    read = kept(names)
    if read:
        offset = max(told.get("offsets", (told.get("add_offset", 0.0),)), key=abs)
        numbers = numbers_of(source, "reflectance")
        check_offset(path, offset, told.get("scale_factor", 1.0), numbers)
    values = _masked(image, source.entry.metadata.nodata, image.rio.nodata)
    for start in range(0, options.frames * len(names), len(names)):
        if read:
            one = values.isel(band=[start + i for i in read])
            one = one.assign_coords(band=[names[i] for i in read])
            yield "reflectance", one.expand_dims("time")
        for name, layer in options.layers.items():
            one = _channel(source, name, layer, path, image, start + layer.channel)
            yield name, one.expand_dims("time")


def raster(source: Source, options: RasterOptions, uri: str) -> xr.Dataset:
    """One scene: a file with all bands, or one such file a date."""
    import numpy as np
    import xarray as xr

    files = _paths(source, uri)
    images = [opened(path) for path in files]
    first = images[0]
    frames: dict[str, list[xr.DataArray]] = {}
    for path, image in zip(files, images, strict=True):
        if problem := grid_problem(first, image):
            raise DataError(f"'{path}' is not on the grid of '{files[0]}': {problem}.")
        for name, frame in _frames(source, options, path, image):
            frames.setdefault(name, []).append(frame)
    count = max(map(len, frames.values()), default=0)
    dates = options.dates or [np.datetime64("NaT")] * count
    if len(dates) != count:
        raise DataError(f"Entry '{source.name}' names {len(dates)} dates, its files hold {count}.")
    time = np.array([np.datetime64(date) for date in dates], dtype="datetime64[ns]")
    scene = xr.Dataset(coords={"time": time})
    for name, one in frames.items():
        values = xr.concat(one, dim="time", join="override", combine_attrs="drop")
        if name in options.layers:
            values = as_label(values, options.layers[name])
        scene[name] = values
    if "reflectance" in scene:
        scene["reflectance"].encoding[FILES] = _stored(source, options, files, images, scene)
    for name, label in options.labels.items():
        place = _paths(source, label.uri)[0]
        values = opened(place)
        if problem := grid_problem(first, values):
            raise DataError(f"The label '{place}' is off the image's grid: {problem}.")
        chosen = as_label(_channel(source, name, label, place, values, label.band), label)
        scene[name] = (("y", "x"), chosen.data, chosen.attrs)
    if crs := crs_of(source, first, files[0]):
        scene = scene.rio.write_crs(crs).rio.write_transform(first.rio.transform())
    return scene


def _stored(
    source: Source,
    options: RasterOptions,
    files: list[str],
    images: list[xr.DataArray],
    scene: xr.Dataset,
) -> dict[str, Any]:
    """Which file and which of its channels, from 1, hold each date and band."""
    paths, channels = [], []
    for path, image in zip(files, images, strict=True):
        names = band_names(path, image, options)
        for start in range(0, options.frames * len(names), len(names)):
            paths.append(path)
            channels.append(tuple(start + i + 1 for i in kept(names)))
    nodata = source.entry.metadata.nodata
    return {
        "paths": tuple(paths),
        "channels": tuple(channels),
        "bands": tuple(str(band) for band in scene["band"].values),
        "times": tuple(str(time) for time in scene["time"].values),
        "nodata": () if nodata is None else (nodata,),
    }


def crs_of(source: Source, image: xr.DataArray, path: str) -> Any:
    """CRS of a file, held against that of its entry; None where the entry says ``crs: none``."""
    from rasterio.crs import CRS

    declared, own = source.entry.metadata.crs, image.rio.crs
    if declared is None and own is None:
        problem = "the file has no CRS; give metadata.crs, or say crs: none"
    elif declared in (None, "none"):
        return own
    elif own in (None, meant := CRS.from_user_input(declared)):
        return meant
    else:
        problem = f"the file says CRS {own.to_string()}, the entry {declared}"
    raise DataError(f"Entry '{source.name}': {problem} ('{path}').")
