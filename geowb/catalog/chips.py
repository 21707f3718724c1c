"""Many images: files that fit a template -> one lazy set of chips."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geowb.catalog.fit import Numbers, check_classes, check_offset, grid_problem, numbers_of
from geowb.catalog.read import as_label, band_names, crs_of, flags, is_classes, kept, opened
from geowb.catalog.schema import ChipsOptions, Label, Layer, expand
from geowb.catalog.stored import open_quietly
from geowb.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

    from geowb.catalog.source import Source

__all__ = ["chips", "find_chips", "split_of"]


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
    label: Label | Layer | None = None,
) -> np.ndarray:
    """Channels `indexes` of one file, (1, channels, rows, columns), float32 with NaN."""
    import numpy as np
    import rasterio

    path = paths[0]
    with open_quietly(rasterio.open, path) as file:
        if isinstance(label, Label):
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
        own = None if isinstance(label, Layer) and nodata is not None else file.nodata
        for value in (nodata, own):
            if value is not None:
                values[raw == value] = np.nan
    if label is None:
        return _resampled(values, shape)[None]
    if is_classes(label):
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
    import xarray as xr

    folder = source.catalog.find(uri)[0]
    found = find_chips(folder, options.images)
    if not found:
        raise DataError(f"No file in '{folder}' fits '{options.images}' (entry '{source.name}').")
    files, fields = zip(*found, strict=True)
    first = opened(str(files[0]))
    names = band_names(str(files[0]), first, options)
    crs_of(source, first, str(files[0]))
    n, read = len(found), kept(names)
    shape = (options.size, options.size) if options.size else first.rio.shape
    resize = options.size is not None
    starts = [1 + frame * len(names) for frame in range(options.frames)]
    times = ("time",) if options.frames > 1 else ()
    sizes = (options.frames,) if options.frames > 1 else ()
    scene = xr.Dataset(coords={"sample": [one["sample"] for one in fields]})
    if read:
        how = {"nodata": source.entry.metadata.nodata, "numbers": numbers_of(source, "reflectance")}
        indexes = [start + i for start in starts for i in read]
        data = _lazy(files, files, shape, indexes, resize=resize, **how)
        data = data.reshape(n, *sizes, len(read), *shape)
        scene = scene.assign_coords(band=[names[i] for i in read])
        scene["reflectance"] = ("sample", *times, "band", "y", "x"), data
    for name, layer in options.layers.items():
        how = {"nodata": layer.nodata, "numbers": numbers_of(source, name), "label": layer}
        indexes = [start + layer.channel - 1 for start in starts]
        data = _lazy(files, files, shape, indexes, resize=resize, **how)
        values = xr.DataArray(data.reshape(n, *sizes, *shape), dims=("sample", *times, "y", "x"))
        scene[name] = as_label(values, layer)
    for name, label in options.labels.items():
        places = _label_files(source, name, label, folder, fields)
        if problem := grid_problem(first, opened(str(places[0]))):
            raise DataError(f"The label '{places[0]}' is off its image's grid: {problem}.")
        how = {"nodata": label.nodata, "numbers": numbers_of(source, name), "label": label}
        values = _lazy(places, files, shape, [label.band], resize=resize, **how)
        scene[name] = as_label(xr.DataArray(values[:, 0], dims=("sample", "y", "x")), label)
    return _sorted_out(scene, options, folder, fields)


def _label_files(
    source: Source, name: str, label: Label, folder: Path, fields: Sequence[Mapping[str, str]]
) -> list[Path]:
    """File of a label for each image."""
    places = [folder / expand(label.uri, one) for one in fields]
    if absent := [place for place in places if not place.is_file()]:
        raise DataError(
            f"{len(absent)} of {len(fields)} images of entry '{source.name}' have no label "
            f"'{name}', the first '{absent[0]}'."
        )
    return places


def _sorted_out(
    scene: xr.Dataset, options: ChipsOptions, folder: Path, fields: Sequence[Mapping[str, str]]
) -> xr.Dataset:
    """Add what folders and lists say of each sample: its class, its split."""
    import numpy as np

    if "class" in fields[0]:
        classes, numbers = np.unique([one["class"] for one in fields], return_inverse=True)
        scene["label"] = ("sample", numbers.astype("int16"), flags(classes))
    if options.split_files:
        lines = {}
        for split, name in options.split_files.items():
            if not (folder / name).is_file():
                raise DataError(f"The split file '{folder / name}' is missing.")
            lines[split] = (folder / name).read_text(encoding="utf-8").splitlines()
        return scene.assign_coords(split=("sample", split_of(scene.sample.values.tolist(), lines)))
    if "split" in fields[0]:
        renamed = [options.splits.get(one["split"], one["split"]) for one in fields]
        return scene.assign_coords(split=("sample", renamed))
    return scene
