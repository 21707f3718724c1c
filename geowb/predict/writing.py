"""From raw numbers to what others open: a Cloud-Optimised GeoTIFF, a Zarr, an array."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import numpy as np

from geowb.errors import DataError
from geowb.predict.job import Raw, full_disk
from geowb.predict.outputs import Output, Outputs

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["array", "tags_in", "write_cog", "write_zarr"]

_GDAL_TYPES = {"float32": "Float32", "uint8": "Byte", "int16": "Int16"}
_EDGE = 512  # of a block, pixels


def write_cog(
    file: Path, raw: Raw, output: Output, *, crs: Any, transform: Any, tags: Mapping[str, str]
) -> None:
    """Write a Cloud-Optimised GeoTIFF of raw numbers, with overviews.

    GDAL reads the raw file through a description of it (a VRT), block by block.

    Raises
    ------
    DataError
        If it could not be written, as on a full disk.
    """
    import rasterio.shutil
    from rasterio._err import CPLE_BaseError  # what the copy raises has no public name
    from rasterio.errors import RasterioError

    from geowb.predict.source import bounded_cache

    vrt = raw.path.with_suffix(".vrt")
    attrs = {key: _text(value) for key, value in output.attrs.items()}
    vrt.write_text(_vrt(raw, output, crs, transform, {**attrs, **tags}), "utf-8")
    whole = output.dtype == "float32"
    options = {
        "driver": "COG",
        "COMPRESS": "DEFLATE",
        "LEVEL": 1,
        "PREDICTOR": "YES",
        "BLOCKSIZE": _EDGE,
        "BIGTIFF": "IF_SAFER",
        "NUM_THREADS": "ALL_CPUS",
        "OVERVIEW_RESAMPLING": "AVERAGE" if whole else "NEAREST",
    }
    try:
        with full_disk(file.parent), bounded_cache():
            rasterio.shutil.copy(vrt, file, **options)
            _check(file, raw)
    except (RasterioError, CPLE_BaseError) as error:
        told = " ".join(str(error.__cause__ or error).split())
        raise DataError(
            f"The GeoTIFF could not be written in {file.parent.parent.absolute()}: {told} Is the "
            "disk full? What is done is kept, and the same command goes on."
        ) from error


def _check(file: Path, raw: Raw) -> None:
    """Read the last block of a file that was written: a full disk is not always told."""
    import rasterio
    from rasterio.windows import Window

    height, width = raw.shape[:2]
    y, x = (height - 1) // _EDGE * _EDGE, (width - 1) // _EDGE * _EDGE
    with rasterio.open(file) as made:
        found = made.read(window=Window(x, y, width - x, height - y))
    meant = np.moveaxis(raw.read(slice(y, height), slice(x, width)), -1, 0)
    if not np.array_equal(found, meant, equal_nan=raw.dtype.kind == "f"):
        raise DataError(f"{file} does not hold what was written into it: is the disk in order?")


def _vrt(raw: Raw, output: Output, crs: Any, transform: Any, tags: Mapping[str, str]) -> str:
    """Describe a raw file to GDAL."""
    height, width, bands = raw.shape
    size = raw.dtype.itemsize
    order = "LSB" if np.little_endian else "MSB"
    lines = [f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">']
    if crs:
        lines.append(f"<SRS>{escape(crs.to_wkt())}</SRS>")
    gdal = ", ".join(map(repr, transform.to_gdal()))
    lines += [f"<GeoTransform>{gdal}</GeoTransform>", "<Metadata>"]
    lines += [f'<MDI key="{escape(key)}">{escape(text)}</MDI>' for key, text in tags.items()]
    lines.append("</Metadata>")
    for band in range(bands):
        name = _band_name(output, band)
        lines += [
            f'<VRTRasterBand dataType="{_GDAL_TYPES[output.dtype]}" band="{band + 1}" '
            'subClass="VRTRawRasterBand">',
            f"<Description>{escape(name)}</Description>",
            f"<UnitType>{escape(output.attrs.get('units', ''))}</UnitType>",
            f"<NoDataValue>{output.nodata:g}</NoDataValue>",
            f'<SourceFilename relativetoVRT="1">{escape(raw.path.name)}</SourceFilename>',
            f"<ImageOffset>{band * size}</ImageOffset>",
            f"<PixelOffset>{bands * size}</PixelOffset>",
            f"<LineOffset>{width * bands * size}</LineOffset>",
            f"<ByteOrder>{order}</ByteOrder>",
            "</VRTRasterBand>",
        ]
    return "\n".join([*lines, "</VRTDataset>"])


def _band_name(output: Output, band: int) -> str:
    if output.names:
        return output.names[band]
    name = output.attrs["long_name"]
    return name if output.bands == 1 else f"{name} {band + 1}"


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def tags_in(file: Path) -> dict[str, str]:
    """Tags of a map, which say what made it; empty for what is no raster."""
    import rasterio
    from rasterio.errors import RasterioIOError

    if file.is_dir():
        attributes = file / "zarr.json"
        if not attributes.is_file():
            return {}
        return json.loads(attributes.read_text("utf-8")).get("attributes", {})
    try:
        with rasterio.open(file) as found:
            return found.tags()
    except RasterioIOError:
        return {}


class _Lazy:
    """A raw file that dask reads in parts, without mapping it into memory."""

    def __init__(self, raw: Raw, axes: tuple[int, ...]) -> None:
        self.raw = raw
        self.axes = axes
        self.shape = tuple(raw.shape[axis] for axis in axes)
        self.dtype = raw.dtype
        self.ndim = len(axes)

    def __getitem__(self, key: tuple[slice, ...]) -> np.ndarray:
        parts = [range(size)[part] for size, part in zip(self.shape, key, strict=True)]
        at = dict(zip(self.axes, parts, strict=True))
        block = self.raw.read(*(slice(at[axis].start, at[axis].stop) for axis in (0, 1)))
        bands = at.get(2, range(1))
        block = block[..., bands.start : bands.stop]
        return block[..., 0] if self.ndim == 2 else block.transpose(self.axes)


def _dataset(
    raws: Mapping[str, Raw],
    outputs: Outputs,
    crs: Any,
    transform: Any,
    tags: Mapping[str, str],
    times: Sequence[Any] = (),
) -> xr.Dataset:
    """Describe raw files as a lazy dataset with coordinates and CRS."""
    import dask.array as da
    import rioxarray  # noqa: F401 - gives .rio
    import xarray as xr
    from rioxarray.rioxarray import affine_to_coords

    found = {}
    for output in outputs:
        raw = raws[output.name]
        dims, axes = ("y", "x"), (0, 1)
        if output.name == "embedding":
            dims, axes = ("y", "x", "channel"), (0, 1, 2)
        elif output.bands > 1:
            kind = "class" if output.name == "probabilities" else "band"
            dims, axes = (kind, "y", "x"), (2, 0, 1)
        lazy, edge = _Lazy(raw, axes), _EDGE
        if output.cube:  # few of its chunks at once: all channels are in each
            edge = 4 * output.cube.chunk
        chunks = tuple(
            min(size, edge) if name in "yx" else size
            for name, size in zip(dims, lazy.shape, strict=True)
        )
        values = da.from_array(lazy, chunks=chunks, asarray=False)
        if output.cube:
            dims, frames = ("time", *dims), output.cube.frames
            each = lazy.shape[-1] // frames
            parts = [values[..., t * each : (t + 1) * each] for t in range(frames)]
            values = da.stack([part.rechunk({2: each}) for part in parts])
        attrs = {**output.attrs, "_FillValue": output.nodata}
        if output.names:  # as a coordinate they would be texts, which Zarr has no fixed format for
            attrs["class_names"] = list(output.names)
        found[output.name] = (dims, values, attrs)
    height, width = next(iter(raws.values())).shape[:2]
    coords = {}
    if transform.is_rectilinear:
        coords = dict(affine_to_coords(transform, width, height))
    if any(output.cube for output in outputs) and not np.isnat(np.asarray(times)).any():
        coords["time"] = np.asarray(times, "datetime64[ns]")
    data = xr.Dataset(found, coords, dict(tags))
    data = data.rio.write_crs(crs) if crs else data
    return data.rio.write_transform(transform)


def write_zarr(
    folder: Path,
    raws: Mapping[str, Raw],
    outputs: Outputs,
    *,
    crs: Any,
    transform: Any,
    tags: Mapping[str, str],
    times: Sequence[Any] = (),
) -> None:
    """Write all outputs as variables of one Zarr (version 3), with CF names and CRS."""
    import dask

    data = _dataset(raws, outputs, crs, transform, tags, times)
    for output in outputs:
        variable = data[output.name]
        variable.encoding["_FillValue"] = variable.attrs.pop("_FillValue")
        variable.encoding["coordinates"] = data.rio.grid_mapping  # kept by who selects the variable
        if cube := output.cube:
            # No larger than the array: Zarr fills up what lies beyond its edges.
            most = {"time": 1, "y": cube.chunk, "x": cube.chunk}
            sizes = {dim: min(size, most.get(dim, size)) for dim, size in variable.sizes.items()}
            variable.encoding["chunks"] = tuple(sizes.values())
            variable.encoding["fill_value"] = output.nodata  # what lies beyond the scene's edge
            if cube.serializer is not None:
                coded = {"serializer": cube.serializer, "compressors": (), "filters": ()}
                variable.encoding.update(coded)
    # One read opens a cube that lies far away.
    consolidated = any(output.cube for output in outputs)
    with (
        full_disk(folder.parent),
        dask.config.set(scheduler="sync"),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings(
            "ignore", "Consolidated metadata is currently not part", UserWarning
        )
        data.to_zarr(folder, mode="w", consolidated=consolidated, zarr_format=3)


def array(raw: Raw, output: Output, *, crs: Any, transform: Any) -> xr.DataArray:
    """Load an output into memory, NaN (or the class's no-data value) where there is no data."""
    data = _dataset({output.name: raw}, Outputs((output,), 0, 1), crs, transform, {})
    found = data[output.name].load(scheduler="sync")
    if output.dtype == "float32":
        found.attrs.pop("_FillValue")
    return found
