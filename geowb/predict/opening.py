"""Open what is given as a scene: files, addresses, Zarr, entries of the catalog, arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from geowb.catalog.source import fingerprint
from geowb.catalog.stored import absent, raster_as_stored, zarr_as_stored
from geowb.errors import DataError, RequestError
from geowb.predict.source import Plane, Scene, bounded_cache

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["band_labels", "open_scene"]


def open_scene(
    source: Any,
    *,
    wanted: Sequence[str] = (),
    frames: int = 1,
    bands: Sequence[str | int] = (),
    dates: Sequence[str | int] = (),
    stack: str = "auto",
    scale: float | None = None,
    nodata: float | None = None,
    crs: str | None = None,
    select: Mapping[str, Any] | None = None,
    catalog: str = "",
    seed: int | None = None,
) -> Scene:
    """Open a scene for a model that takes the bands `wanted` of `frames` dates.

    >>> open_scene("scene.tif", wanted=HLS6).channels  # doctest: +SKIP
    (6, 1)

    Parameters
    ----------
    source
        A path or an address of what rioxarray opens, or several of them (bands or dates of one
        scene); a Zarr; the name of a catalog entry; a scene (`xarray.Dataset` with
        ``reflectance``) or an array with dimensions y, x and, where it has them, band and time.
    wanted
        Names of the model's bands; empty takes all bands as they are.
    bands
        Which bands of the source are the model's, by name or by number from 1; needed where their
        names do not tell and there are others too.
    dates
        Which of the source's dates, by number from 0 or as ``2023-06-21``; needed where it has
        more than the model takes.
    stack
        What several files are: ``bands``, ``dates``, or ``auto``, what fits the model.
    scale
        Factor that makes counts (reflectance x 10,000) of the source's numbers. By default what
        the file says of itself, and numbers that cannot be counts are refused.
    nodata
        Value that means no data, beside the file's own.
    crs
        CRS of a source that has none; ``"none"`` goes without.
    select, catalog, seed
        For an entry: values of its placeholders, another catalog file, the seed of a world.

    Raises
    ------
    RequestError, DataError
        If it cannot be opened, or lacks what the model needs.
    """
    name, images, origin, declared = _found(source, select or {}, catalog, seed)
    if len(images) > 1 or stack != "auto":
        images = _stacked(name, images, stack, len(wanted), frames)
    first = images[0][0][1]
    planes = [[_plane(*one, nodata=nodata, scale=scale) for one in date] for date in images]
    planes = _chosen_dates(name, planes, images, dates, frames, wanted)
    planes = [_chosen_bands(name, date, wanted, bands) for date in planes]
    meant, transform = _crs(name, first, crs, declared), first.rio.transform()
    if meant and transform == type(transform).identity():
        raise RequestError(
            f"'{name}' has a CRS, but no transform says where its pixels lie in it (ground control "
            "points do not, nor coordinates of one pixel): warp it first, as with gdalwarp, set "
            "one with array.rio.write_transform(...), or say crs='none' (--crs none) for a map "
            "without place."
        )
    return Scene(
        name=name,
        dates=planes,
        shape=(first.sizes["y"], first.sizes["x"]),
        crs=meant,
        transform=transform,
        origin=origin,
    )


# --- what is given -> images by date ------------------------------------------------------------

_Image = tuple[str, Any]  # a name for messages, and an array (band, y, x)


class _Found(NamedTuple):
    """What is given as a scene, opened."""

    name: str
    images: list[list[_Image]]  # a list a date
    origin: str = ""  # digests of its files, so that a change of one is seen
    crs: str | None = None  # that its entry declares


def _found(source: Any, select: Mapping[str, Any], catalog: str, seed: int | None) -> _Found:
    import xarray as xr

    if isinstance(source, (xr.Dataset, xr.DataArray)):
        name = str(source.attrs.get("entry") or getattr(source, "name", None) or "the scene")
        return _Found(name, _of_array(name, source))
    if isinstance(source, (list, tuple)):
        if not source:
            raise RequestError("No file is given: a scene is one file or several.")
        parts = [_found(one, {}, "", None) for one in source]
        name = Path(str(source[0])).name
        name = f"{name} and {len(source) - 1} more" if len(source) > 1 else name
        dates = [date for part in parts for date in part.images]
        return _Found(name, dates, " ".join(part.origin for part in parts))
    text = str(source)
    if catalog != "" or not (Path(text).suffix or "/" in text or Path(text).exists()):
        return _of_entry(text, select, catalog, seed)
    if select:
        raise RequestError(f"'{text}' is a file, no catalog entry: there is nothing to select.")
    name, zarr = Path(text).name, text.rstrip("/").endswith(".zarr")
    images = _of_zarr(text) if zarr or (Path(text) / "zarr.json").is_file() else _of_file(text)
    return _Found(name, images, str(fingerprint(text)))


def _of_entry(text: str, select: Mapping[str, Any], catalog: str, seed: int | None) -> _Found:
    from geowb.catalog import open_catalog

    entry = open_catalog(catalog or None)[text]
    scene = entry.open(seed=seed, **select)
    name = f"{text} {' '.join(map(str, select.values()))}".strip()
    origin = f"{entry.provenance(**select)} {seed}"
    return _Found(name, _of_array(name, scene), origin, entry.entry.metadata.crs)


def _of_file(path: str) -> list[list[_Image]]:
    if absent(path):
        raise RequestError(f"There is no file '{path}', and no such catalog entry.")
    with bounded_cache():
        return [[(Path(path).name, raster_as_stored(path))]]


def _of_zarr(path: str) -> list[list[_Image]]:
    data, name = zarr_as_stored(path), Path(path).name
    if "reflectance" not in data and len(data.data_vars) > 1:
        has = ", ".join(map(str, data.data_vars))
        raise DataError(f"'{name}' has no variable reflectance, but {has}: pass the array of one.")
    return _of_array(name, data if "reflectance" in data else data[next(iter(data.data_vars))])


def _of_array(name: str, data: xr.Dataset | xr.DataArray) -> list[list[_Image]]:
    """Images of a scene or an array, a list a date."""
    import rioxarray  # noqa: F401 - gives .rio
    import xarray as xr

    crs = data.rio.crs
    if isinstance(data, xr.Dataset):
        if "reflectance" not in data:
            has = ", ".join(map(str, data.data_vars)) or "none"
            raise DataError(f"The scene '{name}' has no variable reflectance; it has {has}.")
        data = data["reflectance"]
    if "sample" in data.dims:
        raise RequestError(
            f"'{name}' is a set of {data.sizes['sample']} images, not a scene: map_scenes takes "
            "sets, or choose one with .isel(sample=0)."
        )
    sides = {data.rio.x_dim: "x", data.rio.y_dim: "y"}
    data = data.rename({old: new for old, new in sides.items() if old != new})
    if other := set(data.dims) - {"time", "band", "y", "x"}:
        raise DataError(f"'{name}' has the dimension {min(map(str, other))}: choose one of it.")
    transform = data.rio.transform()
    data = data if "band" in data.dims else data.expand_dims("band")
    data = data if "time" in data.dims else data.expand_dims("time")
    data = data.transpose("time", "band", "y", "x")
    images = []
    for number in range(data.sizes["time"]):
        image = data.isel(time=number)
        image = image.rio.write_crs(crs) if crs else image
        if transform != type(transform).identity():  # with one, rioxarray makes pixels of 1 m of it
            image = image.rio.write_transform(transform)
        images.append([(name, image)])
    return images


def _stacked(
    name: str, images: list[list[_Image]], stack: str, bands: int, frames: int
) -> list[list[_Image]]:
    """Sort several files into bands or dates of one scene, on one grid."""
    from geowb.catalog.fit import grid_problem

    files = [image for date in images for image in date]
    for other, array in files[1:]:
        if problem := grid_problem(files[0][1], array):
            raise RequestError(f"{other} is not on the grid of {files[0][0]}: {problem}.")
    if stack not in ("auto", "bands", "dates"):
        raise RequestError(f"stack is '{stack}': it is auto, bands or dates.")
    if stack == "auto" and frames > 1 and len(files) == frames:
        stack = "dates"
    if stack == "auto":
        stack = "bands" if all(array.sizes["band"] == 1 for _, array in files) else "dates"
    if stack == "dates":
        return [[one] for one in files]
    if len(files) % frames or (frames > 1 and bands and len(files) != bands * frames):
        raise RequestError(
            f"{len(files)} files cannot be the bands of {frames} dates ({name}): give all bands "
            "of the first date, then all of the next."
        )
    each = len(files) // frames
    return [files[i * each : (i + 1) * each] for i in range(frames)]


# --- images -> planes ---------------------------------------------------------------------------


def _plane(name: str, array: xr.DataArray, nodata: float | None, scale: float | None) -> Plane:
    own = array.rio.nodata if nodata is None else nodata
    if own is not None and np.issubdtype(array.dtype, np.integer):
        limits = np.iinfo(array.dtype)
        own = own if limits.min <= own <= limits.max and float(own).is_integer() else None
    gain, offset = _numbers(array) if scale is None else (float(scale), 0.0)
    return Plane(name, array, list(range(array.sizes["band"])), own, gain, offset)


def _numbers(array: xr.DataArray) -> tuple[float, float]:
    """Factor and offset that make counts of what a file says of its numbers.

    What stands in the encoding has been applied when the array was decoded.
    """
    told = array.attrs
    scales = set(np.ravel(told.get("scales", told.get("scale_factor", 1.0))).tolist())
    offsets = set(np.ravel(told.get("offsets", told.get("add_offset", 0.0))).tolist())
    if len(scales) > 1 or len(offsets) > 1:
        raise RequestError(
            f"The file says other scales or offsets for its bands ({sorted(scales)}, "
            f"{sorted(offsets)}): bring them to one, or say scale=1 (--scale 1) to take the "
            "numbers as they are stored."
        )
    scale, offset = scales.pop(), offsets.pop()
    if scale in (0.0, 1.0):
        return 1.0, offset
    return scale * 10_000, offset * 10_000  # reflectance = number * scale + offset


def _chosen_dates(
    name: str,
    planes: list[list[Plane]],
    images: list[list[_Image]],
    dates: Sequence[str | int],
    frames: int,
    wanted: Sequence[str],
) -> list[list[Plane]]:
    """Choose the dates that are asked for, as many as the model takes."""
    if dates:
        planes = [planes[_date(name, images, one)] for one in dates]
    if len(planes) == frames:
        return planes
    only = planes[0]
    channels = sum(len(plane.bands) for plane in only)
    enough = channels % frames == 0 and channels // frames >= max(1, len(wanted))
    if len(planes) == 1 and frames > 1 and len(only) == 1 and enough:
        return _split_dates(only[0], frames)  # one file: all bands of the first date, then ...
    has = f"{len(planes)} date{'s' * (len(planes) != 1)}"
    step = "choose with dates=[...] (--dates 0)" if len(planes) > frames else "give as many dates"
    raise RequestError(f"'{name}' has {has}, the model takes {frames}: {step}.")


def _split_dates(plane: Plane, frames: int) -> list[list[Plane]]:
    each = len(plane.bands) // frames
    split = []
    for number in range(frames):
        part = plane.array.isel(band=slice(number * each, (number + 1) * each))
        part.encoding = plane.array.encoding
        whole = (plane.name, part, list(range(each)), plane.nodata, plane.gain, plane.offset)
        split.append([Plane(*whole)])
    return split


def _date(name: str, images: list[list[_Image]], asked: str | int) -> int:
    text = str(asked)
    if text.lstrip("-").isdigit() and len(text) < 4:  # 2021 is a year
        if not -len(images) <= int(text) < len(images):
            raise RequestError(f"'{name}' has {len(images)} dates: there is no date {text}.")
        return int(text)
    times = [str(date[0][1].coords["time"].values)[: len(text)] for date in images
             if "time" in date[0][1].coords]  # fmt: skip
    if text not in times:
        known = ", ".join(dict.fromkeys(times)) or "none; choose by number from 0"
        raise RequestError(f"'{name}' has no date {text}. It has: {known}.")
    return times.index(text)


def _chosen_bands(
    name: str, date: list[Plane], wanted: Sequence[str], bands: Sequence[str | int]
) -> list[Plane]:
    """Choose the model's bands of one date, in its order."""
    names = [label for plane in date for label in band_labels(plane.array)]
    places = [(plane, number) for plane in date for number in plane.bands]
    if bands:
        picked = [_band(name, names, one) for one in bands]
    elif set(wanted) <= set(names) and wanted:
        picked = [names.index(one) for one in wanted]
    else:
        picked = list(range(len(names)))
    if wanted and len(picked) != len(wanted):
        known = [label for label in names if label]
        told = f" ({', '.join(known)})" if known else " without names"
        step = f"bands=[...] (--bands) names or numbers the {len(wanted)} in that order"
        if len(names) < len(wanted):
            step = "it lacks some"
        raise RequestError(
            f"'{name}' has {len(names)} bands{told}, {len(picked)} of them chosen; the model takes "
            f"{len(wanted)}, {', '.join(wanted)}: {step}."
        )
    _check_order(name, [names[i] for i in picked], wanted if not bands else ())
    chosen: list[Plane] = []
    for index in picked:
        plane, number = places[index]
        if chosen and chosen[-1].array is plane.array:
            chosen[-1].bands.append(number)
        else:
            own = (plane.name, plane.array, [number], plane.nodata, plane.gain, plane.offset)
            chosen.append(Plane(*own))
    return chosen


def band_labels(array: xr.DataArray) -> list[str]:
    """Say what the bands of an array are called, in the words of HLS where they can be told."""
    count = array.sizes["band"]
    told = array.attrs.get("long_name", ())
    told = [told] if isinstance(told, str) else list(told)
    if len(told) != count:
        coords = array.coords["band"].values if "band" in array.coords else [""] * count
        told = ["" if np.issubdtype(type(one), np.number) else str(one) for one in coords]
    return _in_words([str(text or "").strip() for text in told])


def _in_words(told: list[str]) -> list[str]:
    """Names for the codes of the sensor all of whose six codes are there; B05 is not one thing."""
    from geowb.bands import HLS6, SENSOR_BANDS

    upper = [text.upper() for text in told]
    for sensor in ("S2", "HLSS30", "HLSL30"):  # the last one's codes are among the others'
        codes = dict(zip(SENSOR_BANDS[sensor], HLS6, strict=True))
        if set(codes) <= set(upper):
            return [codes.get(code, text) for code, text in zip(upper, told, strict=True)]
    return [code if code in HLS6 else text for code, text in zip(upper, told, strict=True)]


def _band(name: str, names: list[str], asked: str | int) -> int:
    text = str(asked).strip()
    if text.isdigit():
        if not 1 <= int(text) <= len(names):
            raise RequestError(f"'{name}' has {len(names)} bands: there is no band {text}.")
        return int(text) - 1
    if text not in names:
        known = ", ".join(filter(None, names)) or "no names; give numbers from 1"
        raise RequestError(f"'{name}' has no band '{text}'. It has: {known}.")
    return names.index(text)


def _check_order(name: str, found: list[str], wanted: Sequence[str]) -> None:
    """Refuse names that say another order than the model's."""
    for number, (own, model) in enumerate(zip(found, wanted, strict=False), start=1):
        if own in wanted and own != model:
            raise RequestError(
                f"Band {number} of '{name}' is called {own}, where the model takes {model}; not "
                f"all names are the model's ({', '.join(found)}): say which is which with "
                "bands=[...] (--bands)."
            )


def _crs(name: str, array: xr.DataArray, given: str | None, declared: str | None) -> Any:
    """CRS of a scene; None where it is said that there is none."""
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    own = array.rio.crs
    if given == "none":
        return None
    if given is None and (own or declared == "none"):
        return own
    if given is None:
        raise RequestError(
            f"'{name}' has no CRS, so that its map would lie nowhere: say which with "
            "crs='EPSG:32722' (--crs), or crs='none' for a map without one."
        )
    try:
        meant = CRS.from_user_input(given)
    except CRSError as error:
        raise RequestError(f"'{given}' is no CRS: {error}") from error
    if own and own != meant:
        raise RequestError(f"'{name}' says CRS {own.to_string()}, but {given} is given.")
    return meant
