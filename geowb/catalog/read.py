"""Readers: files -> lazy xarray, by the scene contract."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from geowb.bands import HLS6, SENSOR_BANDS
from geowb.catalog.fetch import no_network
from geowb.catalog.schema import (
    FILE_FIELDS,
    ChipsOptions,
    DataAdapter,
    Label,
    RasterOptions,
    expand,
    is_url,
)
from geowb.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

    from geowb.catalog.source import Source

__all__ = ["adapt", "chips", "find_chips", "grid_problem", "raster"]

_OPENING = threading.Lock()  # warning filters belong to the whole process


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


def grid_problem(image: Any, label: Any) -> str | None:
    """Say how far the grid of `label` is from that of `image` (rasterio or rioxarray objects).

    Half a thousandth of a pixel is rounding, more is another grid.
    """
    if (image.width, image.height) != (label.width, label.height):
        return (
            f"it has {label.height} x {label.width} pixels (rows x columns), "
            f"the image {image.height} x {image.width}"
        )
    if image.crs and label.crs and image.crs != label.crs:
        return f"its CRS is {label.crs.to_string()}, the image's {image.crs.to_string()}"
    a, b = _transform(image), _transform(label)
    columns, rows = (b.c - a.c) / a.a + 0.0, (b.f - a.f) / a.e + 0.0  # + 0.0: no -0
    if max(abs(columns), abs(rows)) > 5e-4:
        return (
            f"it is shifted by {columns:.4g} columns and {rows:.4g} rows "
            f"(corner {b.c:.10g}, {b.f:.10g}; the image's {a.c:.10g}, {a.f:.10g})"
        )
    drift = abs(b.a - a.a) * image.width / abs(a.a), abs(b.e - a.e) * image.height / abs(a.e)
    if max(drift) > 5e-4:
        return f"its pixels are {b.a:.10g} x {b.e:.10g}, the image's {a.a:.10g} x {a.e:.10g}"
    return None


def _transform(grid: Any) -> Any:
    return grid.transform() if callable(grid.transform) else grid.transform


def _open(opener: Callable[..., Any], path: str | Path, **how: Any) -> Any:
    """Open a raster; a missing georeference is for the checks to judge, not for a warning."""
    from rasterio.errors import NotGeoreferencedWarning, RasterioIOError

    with _OPENING, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            return opener(path, **how)
        except RasterioIOError as error:
            if str(path).startswith("http") and "CURL error" in str(error):
                raise no_network(urlsplit(str(path)).netloc, None) from error
            raise DataError(f"'{path}' is not a raster that can be read: {error}") from error


def _read(path: str) -> xr.DataArray:
    import rioxarray

    return _open(rioxarray.open_rasterio, path, chunks={"x": 2048, "y": 2048}, lock=False)


def _masked(values: xr.DataArray, *nodata: float | None) -> xr.DataArray:
    """float32 with NaN where the value is any of `nodata`."""
    result = values.astype("float32")
    for value in nodata:
        if value is not None and value == value:
            result = result.where(values != value)
    return result


def _label(values: xr.DataArray, label: Label) -> xr.DataArray:
    """Label from float32 with NaN: a quantity as it is, a class map as int16 with -1."""
    if label.kind == "quantity" and not label.classes:
        return values
    return values.fillna(-1).astype("int16").assign_attrs(_flags(label.classes or ()))


def _flags(classes: Sequence[str]) -> dict[str, Any]:
    if not classes:
        return {}
    return {
        "flag_values": list(range(len(classes))),
        "flag_meanings": " ".join(re.sub(r"\W+", "_", name) for name in classes),
    }


def band_names(path: str, count: int, told: Sequence[str | None], options: Any) -> list[str | None]:
    """Names of the channels of one date, as the entry declares them.

    Raises
    ------
    DataError
        If the file has another number of channels, or its own band descriptions
        contradict the declared order.
    """
    names, frames = options.bands, options.frames
    if names is None:
        names = [f"band_{i + 1}" for i in range(count // frames)]
    if len(names) * frames != count:
        dates = f" x {frames} dates" if frames > 1 else ""
        raise DataError(f"'{path}' has {count} channels, the entry declares {len(names)}{dates}.")
    for name, text in zip(names, told, strict=False):
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
    codes = {
        (code, name) for c in SENSOR_BANDS.values() for code, name in zip(c, HLS6, strict=True)
    }
    return {text} & set(HLS6) or {name for code, name in codes if code == text}


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
    frames = []
    for path, image in zip(files, images, strict=True):
        if problem := grid_problem(first.rio, image.rio):
            raise DataError(f"'{path}' is not on the grid of '{files[0]}': {problem}.")
        if options.variable == "fmask":
            frames.append(image.isel(band=0, drop=True).astype("uint8").expand_dims("time"))
            continue
        told = image.attrs.get("long_name", ())
        told = (told,) if isinstance(told, str) else told
        names = band_names(path, image.sizes["band"], told, options)
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
        if problem := grid_problem(first.rio, values.rio):
            raise DataError(f"The label '{place}' is off the image's grid: {problem}.")
        one = values.isel(band=label.band - 1, drop=True)
        chosen = _label(_masked(one, label.nodata, values.rio.nodata), label)
        scene[name] = (("y", "x"), chosen.data, chosen.attrs)
    return _with_crs(scene, first, source)


def _with_crs(scene: xr.Dataset, image: xr.DataArray, source: Source) -> xr.Dataset:
    declared, own = source.entry.metadata.crs, image.rio.crs
    if problem := crs_problem(declared, own):
        raise DataError(f"Entry '{source.name}': {problem}.")
    if own is None and declared == "none":
        return scene
    return scene.rio.write_crs(own or declared).rio.write_transform(image.rio.transform())


def crs_problem(declared: int | str | None, own: Any) -> str | None:
    """Say what is wrong between the CRS of the entry and that of its file."""
    from rasterio.crs import CRS

    if declared == "none":
        return None
    if declared is None:
        return None if own else "the file has no CRS; give metadata.crs, or say crs: none"
    if own and own != CRS.from_user_input(declared):
        return f"the file says CRS {own.to_string()}, the entry {declared}"
    return None


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
        elif piece.startswith("{") and name in FILE_FIELDS:
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


def _load_block(paths: np.ndarray, **how: Any) -> np.ndarray:
    """Image (1, channels, rows, columns) or label (1, rows, columns) of one chip, float32."""
    import numpy as np
    import rasterio
    from rasterio.enums import Resampling

    path, shape, indexes = str(paths[0]), how["shape"], how["indexes"]
    with _open(rasterio.open, path) as file:
        if not how["resize"] and file.shape != shape:
            raise DataError(
                f"'{path}' has {file.height} x {file.width} pixels, the first image "
                f"{shape[0]} x {shape[1]}; give the option size to bring all to one size."
            )
        if max(np.atleast_1d(indexes)) > file.count:
            raise DataError(f"'{path}' has {file.count} channels, the first image had more.")
        method = Resampling.bilinear if how["smooth"] else Resampling.nearest
        out = (len(indexes), *shape) if isinstance(indexes, list) else shape
        raw = file.read(indexes, out_shape=out, resampling=method)
        values = raw.astype("float32")
        for nodata in (*how["nodata"], file.nodata):
            if nodata is not None and nodata == nodata:
                values[raw == nodata] = np.nan
    return values[None]


def chips(source: Source, options: ChipsOptions, uri: str) -> xr.Dataset:
    """Many images of one size, read lazily, one dask chunk each."""
    import dask.array as da
    import numpy as np
    import rasterio
    import xarray as xr

    meta, folder = source.entry.metadata, source.catalog.find(uri)[0]
    found = find_chips(folder, options.images)
    if not found:
        raise DataError(f"No file in '{folder}' fits '{options.images}' (entry '{source.name}').")
    with _open(rasterio.open, found[0][0]) as first:
        names = band_names(str(found[0][0]), first.count, first.descriptions, options)
        shape = first.shape
        if problem := crs_problem(meta.crs, first.crs):
            raise DataError(f"Entry '{source.name}': {problem} ('{found[0][0]}').")
        for label in options.labels.values():
            place = folder / expand(label.uri, found[0][1])
            if place.is_file():
                with _open(rasterio.open, place) as grid:
                    if problem := grid_problem(first, grid):
                        raise DataError(f"The label '{place}' is off its image's grid: {problem}.")
    size = (options.size, options.size) if options.size else shape
    n, kept = len(found), _kept(names)

    def lazy(
        paths: list[Path], indexes: list[int] | int, nodata: Sequence[Any], *, smooth: bool
    ) -> Any:
        blocks = da.from_array(np.array(list(map(str, paths)), dtype=object), chunks=1)
        extra = ((len(indexes),),) if isinstance(indexes, list) else ()
        how = {"indexes": indexes, "nodata": tuple(nodata), "smooth": smooth}
        return blocks.map_blocks(
            _load_block,
            **how,
            shape=size,
            resize=options.size is not None,
            dtype="float32",
            chunks=((1,) * n, *extra, (size[0],), (size[1],)),
            new_axis=list(range(1, 3 + len(extra))),
            meta=np.empty((0,) * (3 + len(extra)), "float32"),
        )

    indexes = [1 + f * len(names) + i for f in range(options.frames) for i in kept]
    data = lazy([path for path, _ in found], indexes, [meta.nodata], smooth=True)
    dims: tuple[str, ...] = ("sample", "band", "y", "x")
    if options.frames > 1:
        data = data.reshape(n, options.frames, len(kept), *size)
        dims = ("sample", "time", "band", "y", "x")
    scene = xr.Dataset({"reflectance": (dims, data)}, {"band": [names[i] for i in kept]})
    samples = [fields["sample"] for _, fields in found]
    scene = scene.assign_coords(sample=samples)
    for name, label in options.labels.items():
        files = [folder / expand(label.uri, fields) for _, fields in found]
        if absent := [file for file in files if not file.is_file()]:
            raise DataError(
                f"{len(absent)} of {n} images of entry '{source.name}' have no label "
                f"'{name}', the first '{absent[0]}'."
            )
        values = xr.DataArray(
            lazy(files, label.band, [label.nodata], smooth=False), dims=("sample", "y", "x")
        )
        scene[name] = _label(values, label)
    if "class" in found[0][1]:
        classes = sorted({fields["class"] for _, fields in found})
        numbers = np.array([classes.index(fields["class"]) for _, fields in found], dtype="int16")
        scene["label"] = ("sample", numbers, _flags(classes))
    if options.split_files:
        lines = {}
        for split, name in options.split_files.items():
            if not (folder / name).is_file():
                raise DataError(f"The split file '{folder / name}' is missing.")
            lines[split] = (folder / name).read_text(encoding="utf-8").splitlines()
        scene = scene.assign_coords(split=("sample", split_of(samples, lines)))
    elif "split" in found[0][1]:
        renamed = [options.splits.get(fields["split"], fields["split"]) for _, fields in found]
        scene = scene.assign_coords(split=("sample", renamed))
    return scene
