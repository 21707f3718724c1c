"""Readers: files -> lazy xarray, by the scene contract."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geowb.bands import HLS6, SENSOR_BANDS
from geowb.catalog.fit import Numbers, check_classes, check_offset, grid_problem, numbers_of
from geowb.catalog.schema import (
    ChipsOptions,
    DataAdapter,
    Label,
    RasterOptions,
    expand,
    is_url,
)
from geowb.catalog.stored import open_quietly
from geowb.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

    from geowb.catalog.source import Source

__all__ = [
    "adapt",
    "chips",
    "find_chips",
    "raster",
]


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


# --- one scene on one grid ----------------------------------------------------------------------


def _read(path: str) -> xr.DataArray:
    import rioxarray

    return open_quietly(rioxarray.open_rasterio, path, chunks={"x": 2048, "y": 2048}, lock=False)


def _masked(values: xr.DataArray, *nodata: float | None) -> xr.DataArray:
    """float32 with NaN where the value is any of `nodata`."""
    result = values.astype("float32")
    for value in nodata:
        if value is not None:
            result = result.where(values != value)
    return result


def _label(values: xr.DataArray, label: Label) -> xr.DataArray:
    """Label from float32 with NaN: a quantity as it is, a class map as int16 with -1."""
    if not _is_classes(label):
        return values
    flags = _flags(label.classes) if label.classes else {}
    return values.fillna(-1).astype("int16").assign_attrs(flags)


def _is_classes(label: Label) -> bool:
    return label.kind == "classes" or bool(label.classes)


def _flags(classes: Sequence[str]) -> dict[str, Any]:
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


def _kept(names: Sequence[str | None]) -> list[int]:
    """Channels with a name, as in the file; where all six HLS bands are, they come first."""
    kept = [i for i, name in enumerate(names) if name is not None]
    if not set(HLS6) <= set(names):
        return kept
    return sorted(kept, key=lambda i: HLS6.index(names[i]) if names[i] in HLS6 else len(HLS6))


def _paths(source: Source, uri: str) -> list[str]:
    return [uri] if is_url(uri) else [str(path) for path in source.catalog.find(uri)]


def raster(source: Source, options: RasterOptions, uri: str) -> xr.Dataset:
    """One scene: a file with all bands, or one such file a date."""
    import numpy as np
    import xarray as xr

    meta = source.entry.metadata
    files = _paths(source, uri)
    images = [_read(path) for path in files]
    first = images[0]
    frames, numbers = [], numbers_of(source, options.variable)
    for path, image in zip(files, images, strict=True):
        if problem := grid_problem(first, image):
            raise DataError(f"'{path}' is not on the grid of '{files[0]}': {problem}.")
        if options.variable == "fmask":
            frames.append(image.isel(band=0, drop=True).astype("uint8").expand_dims("time"))
            continue
        told = image.attrs
        offset = max(told.get("offsets", (told.get("add_offset", 0.0),)), key=abs)
        check_offset(path, offset, told.get("scale_factor", 1.0), numbers)
        names = band_names(path, image, options)
        kept = _kept(names)
        values = _masked(image, meta.nodata, image.rio.nodata)
        for frame in range(options.frames):
            channels = [frame * len(names) + i for i in kept]
            bands = [names[i] for i in kept]
            frames.append(values.isel(band=channels).assign_coords(band=bands).expand_dims("time"))
    dates = options.dates or [np.datetime64("NaT")] * len(frames)
    if len(dates) != len(frames):
        raise DataError(
            f"Entry '{source.name}' names {len(dates)} dates, its files hold {len(frames)}."
        )
    stacked = xr.concat(frames, dim="time", join="override", combine_attrs="drop")
    time = np.array([np.datetime64(date) for date in dates], dtype="datetime64[ns]")
    scene = stacked.assign_coords(time=time).to_dataset(name=options.variable)
    for name, label in options.labels.items():
        place = _paths(source, label.uri)[0]
        values = _read(place)
        if label.band > values.sizes["band"]:
            raise DataError(f"'{place}' has {values.sizes['band']} bands, not {label.band}.")
        if problem := grid_problem(first, values):
            raise DataError(f"The label '{place}' is off the image's grid: {problem}.")
        one = values.isel(band=label.band - 1, drop=True)
        numbers, told = numbers_of(source, name), one.attrs
        offset = told.get("offsets", [told.get("add_offset", 0.0)] * label.band)[label.band - 1]
        check_offset(place, offset, told.get("scale_factor", 1.0), numbers)
        chosen = _masked(one, label.nodata, values.rio.nodata)
        if _is_classes(label):
            how = {"path": place, "classes": label.classes, "numbers": numbers}
            checked = chosen.data.map_blocks(check_classes, **how, meta=chosen.data._meta)
            chosen = chosen.copy(data=checked)
        chosen = _label(chosen, label)
        scene[name] = (("y", "x"), chosen.data, chosen.attrs)
    if crs := _crs(source, first, files[0]):
        scene = scene.rio.write_crs(crs).rio.write_transform(first.rio.transform())
    return scene


def _crs(source: Source, image: xr.DataArray, path: str) -> Any:
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


# --- many images --------------------------------------------------------------------------------


def find_chips(folder: Path, template: str) -> list[tuple[Path, dict[str, str]]]:
    """Files that fit a template, with the values of its fields, sorted by path."""
    pattern, seen = "", set()
    for piece in re.split(r"(\{\w+\}|\*\*/|\*)", template):
        name = piece[1:-1]
        if piece == "**/":
            pattern += "(?:[^/]+/)*"
        elif piece == "*":
            pattern += "[^/]*"
        elif piece.startswith("{"):
            pattern += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+)"
            seen.add(name)
        else:
            pattern += re.escape(piece)
    matcher = re.compile(pattern)
    found = []
    for path in sorted(folder.glob(re.sub(r"\{\w+\}", "*", template))):
        if path.name.endswith((".aux.xml", ".ovr")):  # GDAL writes these beside images
            continue
        if match := matcher.fullmatch(path.relative_to(folder).as_posix()):
            found.append((path, {"sample": path.stem, **match.groupdict()}))
    return found


def split_of(names: Sequence[str], lines: Mapping[str, Sequence[str]]) -> list[str]:
    """Split of each sample, from the lines of the published split files.

    A line's first column may carry a folder, an extension or a suffix such as
    ``_S1Hand.tif``; it belongs to the sample whose whole name it starts with.
    """
    known, split = set(names), dict.fromkeys(names, "")
    for name, listed in lines.items():
        for line in listed:
            stem = line.split(",")[0].strip().rpartition("/")[2]
            while stem and stem not in known:
                stem = re.sub(r"(^|[._])[^._]*$", "", stem)
            if stem:
                split[stem] = name
    return [split[name] for name in names]


def _load_block(
    paths: np.ndarray,
    images: np.ndarray,
    *,
    indexes: list[int],
    nodata: float | None,
    shape: tuple[int, int],
    resize: bool,
    numbers: Numbers,
    label: Label | None = None,
) -> np.ndarray:
    """Channels `indexes` of one file, (1, channels, rows, columns), float32 with NaN."""
    import numpy as np
    import rasterio

    path = paths[0]
    with open_quietly(rasterio.open, path) as file:
        if label:
            with open_quietly(rasterio.open, images[0]) as image:
                if problem := grid_problem(image, file):
                    raise DataError(f"The label '{path}' is off its image's grid: {problem}.")
        if not resize and file.shape != shape:
            raise DataError(
                f"'{path}' has {file.height} x {file.width} pixels, the first image "
                f"{shape[0]} x {shape[1]}; give the option size to bring all to one size."
            )
        if max(indexes) > file.count:
            raise DataError(f"'{path}' has {file.count} channels, not {max(indexes)}.")
        for i in indexes:
            check_offset(path, file.offsets[i - 1], file.scales[i - 1], numbers)
        # Labels keep their numbers: the nearest pixel. Images are resampled below, without nodata.
        raw = file.read(indexes, out_shape=(len(indexes), *shape) if label else None)
        values = raw.astype("float32")
        for value in (nodata, file.nodata):
            if value is not None:
                values[raw == value] = np.nan
    if label is None:
        return _resampled(values, shape)[None]
    if _is_classes(label):
        check_classes(values, path=path, classes=label.classes, numbers=numbers)
    return values[None]


def _resampled(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Bilinear (channels, rows, columns) of another size, from the pixels that are not NaN."""
    import numpy as np
    from rasterio.transform import from_bounds
    from rasterio.warp import Resampling, reproject

    if values.shape[1:] == shape:
        return values
    old, new = (from_bounds(0, 0, 1, 1, w, h) for h, w in (values.shape[1:], shape))
    result = np.full((len(values), *shape), np.nan, "float32")
    for band, out in zip(values, result, strict=True):  # together, NaN of one would count in all
        reproject(
            band, out, src_transform=old, dst_transform=new, src_crs=3857, dst_crs=3857,
            src_nodata=np.nan, dst_nodata=np.nan, resampling=Resampling.bilinear,
        )  # fmt: skip
    return result


def _lazy(
    paths: Sequence[Path],
    images: Sequence[Path],
    shape: tuple[int, int],
    indexes: list[int],
    **how: Any,
) -> Any:
    """(sample, channel, y, x) of many files, one dask chunk each; `images` lie beside labels."""
    import dask.array as da
    import numpy as np

    names = [np.array([str(path) for path in one], dtype=object) for one in (paths, images)]
    return da.map_blocks(
        _load_block,
        *(da.from_array(one, chunks=1) for one in names),
        indexes=indexes,
        shape=shape,
        **how,
        dtype="float32",
        chunks=((1,) * len(paths), (len(indexes),), (shape[0],), (shape[1],)),
        new_axis=[1, 2, 3],
        meta=np.empty((0, 0, 0, 0), "float32"),
    )


def chips(source: Source, options: ChipsOptions, uri: str) -> xr.Dataset:
    """Many images of one size, read lazily, one dask chunk each."""
    import numpy as np
    import xarray as xr

    folder = source.catalog.find(uri)[0]
    found = find_chips(folder, options.images)
    if not found:
        raise DataError(f"No file in '{folder}' fits '{options.images}' (entry '{source.name}').")
    files, fields = zip(*found, strict=True)
    first = _read(str(files[0]))
    names = band_names(str(files[0]), first, options)
    _crs(source, first, str(files[0]))
    n, kept = len(found), _kept(names)
    shape = (options.size, options.size) if options.size else first.rio.shape
    resize = options.size is not None
    indexes = [1 + f * len(names) + i for f in range(options.frames) for i in kept]
    nodata = source.entry.metadata.nodata
    numbers = numbers_of(source, "reflectance")
    data = _lazy(files, files, shape, indexes, nodata=nodata, resize=resize, numbers=numbers)
    dims: tuple[str, ...] = ("sample", "band", "y", "x")
    if options.frames > 1:
        data = data.reshape(n, options.frames, len(kept), *shape)
        dims = ("sample", "time", "band", "y", "x")
    samples = [one["sample"] for one in fields]
    coords = {"sample": samples, "band": [names[i] for i in kept]}
    scene = xr.Dataset({"reflectance": (dims, data)}, coords)
    for name, label in options.labels.items():
        places = [folder / expand(label.uri, one) for one in fields]
        if absent := [place for place in places if not place.is_file()]:
            raise DataError(
                f"{len(absent)} of {n} images of entry '{source.name}' have no label "
                f"'{name}', the first '{absent[0]}'."
            )
        if problem := grid_problem(first, _read(str(places[0]))):
            raise DataError(f"The label '{places[0]}' is off its image's grid: {problem}.")
        how = {"nodata": label.nodata, "numbers": numbers_of(source, name), "label": label}
        values = _lazy(places, files, shape, [label.band], resize=resize, **how)
        scene[name] = _label(xr.DataArray(values[:, 0], dims=("sample", "y", "x")), label)
    if "class" in fields[0]:
        classes, numbers = np.unique([one["class"] for one in fields], return_inverse=True)
        numbers = numbers.astype("int16")
        scene["label"] = ("sample", numbers, _flags(classes))
    if options.split_files:
        lines = {}
        for split, name in options.split_files.items():
            if not (folder / name).is_file():
                raise DataError(f"The split file '{folder / name}' is missing.")
            lines[split] = (folder / name).read_text(encoding="utf-8").splitlines()
        scene = scene.assign_coords(split=("sample", split_of(samples, lines)))
    elif "split" in fields[0]:
        renamed = [options.splits.get(one["split"], one["split"]) for one in fields]
        scene = scene.assign_coords(split=("sample", renamed))
    return scene
