"""Embeddings of scenes as Zarr arrays: written by an encoder, opened by anyone.

>>> embed_scene("codecs/lambda-30", "scene.tif", "scene.zarr").told()  # doctest: +SKIP
>>> open_embeddings("scene.zarr").sel(x=500_000, y=-900_000, method="nearest")  # doctest: +SKIP

`open_embeddings` needs xarray, zarr and constriction; `embed_scene` torch.
"""

from __future__ import annotations

import json
import math
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geowb.errors import DataError, RequestError

if TYPE_CHECKING:
    import xarray as xr

    from geowb.nec.codecs import Codec

__all__ = ["Size", "embed_scene", "open_embeddings", "store_size"]

#: Tokens along an edge of a chunk.
_CHUNK = 32


@dataclass(frozen=True)
class Size:
    """What a store takes, in bytes, and of how many numbers."""

    total: int  # of all files
    streams: int  # of the embedding's chunks
    tables: int  # in the metadata, as often as they stand there
    tokens: int  # that are there
    channels: int
    notes: tuple[str, ...] = ()  # what a person should know of how it was made

    @property
    def bits_per_element(self) -> float:
        """Bits of all files to a number of the embedding."""
        return 8 * self.total / max(1, self.tokens * self.channels)

    def told(self) -> str:
        """Say it in a sentence, and what there is to note in a line each.

        >>> Size(3000, 2000, 600, 64, 192).told()
        '2.9 KiB for 64 tokens of 192 channels: 1.953 bits an element (tables 0.6 KiB)'
        """
        rate = f"{self.bits_per_element:.3f} bits an element"
        size = (
            f"{self.total / 1024:,.1f} KiB for {self.tokens:,} tokens of {self.channels} channels: "
            f"{rate if self.tokens else 'no token has data'} "
            f"(tables {self.tables / 1024:,.1f} KiB)"
        )
        return "\n".join((size, *self.notes))


def embed_scene(
    codec: Codec | str | Path,
    source: Any,
    target: str | Path,
    *,
    chunk: int = _CHUNK,
    weights: str = "",
    **how: Any,
) -> Size:
    """Encode a scene of any size and write its compressed embedding, in bounded memory.

    >>> embed_scene("codecs/lambda-30", "scene.tif", "scene.zarr")  # doctest: +SKIP

    The target is a Zarr with ``embedding`` ``(time, y, x, channel)`` on the encoder's token grid.
    Tiles of the scene are encoded with a margin on all sides that is thrown away; a killed call
    goes on where it stopped (`geowb.predict.predict_scene`).

    Parameters
    ----------
    codec
        A codec, or its folder; `weights` is that of `geowb.nec.load_codec`.
    source
        Anything that `geowb.predict.open_scene` opens.
    target
        ``.zarr``.
    chunk
        Tokens along an edge of a chunk: what is decoded at least.
    **how
        Keywords of `geowb.predict.predict_scene`: tile, overlap, bands, dates, scale, ...

    Raises
    ------
    RequestError, DataError, ModelError
        As `geowb.predict.predict_scene`.
    """
    from geowb.nec.codecs import Codec, load_codec
    from geowb.nec.escapes import coding
    from geowb.nec.zarrcodec import FactorizedPriorCodec
    from geowb.predict import predict_scene
    from geowb.predict.outputs import Cube

    if Path(target).suffix.lower() != ".zarr":
        raise RequestError(f"{target} is no .zarr: embeddings are written as a Zarr.")
    if chunk < 1:
        raise RequestError(f"chunk is {chunk}: a chunk has 1 token or more along its edges.")
    coding()  # may be missing, which is better said before than after hours
    codec = codec if isinstance(codec, Codec) else load_codec(codec, weights)
    base = codec.card["base"]
    said = {
        "encoder": base["name"],
        "encoder_sha256": base["sha256"],
        "lambda": codec.card["lambda"],
        "tables_sha256": codec.tables.sha256,
    }
    attrs = {"geowb_codec": json.dumps(said), "grid": f"tokens of {base['unit']} pixels"}
    cube = Cube(base["frames"], chunk, FactorizedPriorCodec(codec.tables), attrs)
    how = {"units": "1", **how, "output": "embedding", "cube": cube}
    made = predict_scene(codec.model, source, target, **how)
    return replace(store_size(made.file), notes=tuple(made.told()))


def open_embeddings(store: Any, *, variable: str = "embedding") -> xr.DataArray:
    """Open compressed embeddings lazily: chunks are decoded when they are touched, by dask.

    >>> open_embeddings("scene.zarr").dims  # doctest: +SKIP
    ('time', 'y', 'x', 'channel')

    Tokens that were no data are NaN in all channels.

    Parameters
    ----------
    store
        A folder, a ``.zip`` of one, an address that fsspec knows, or a store of zarr.
    variable
        Which one, if the store has several.

    Raises
    ------
    DataError
        If there is no such store or variable, or it cannot be reached.
    CorruptStream
        If its tables are damaged; when values are read, if their chunk is.
    """
    import rioxarray  # noqa: F401 - gives .rio
    import xarray as xr
    import zarr

    from geowb.nec.zarrcodec import NAME

    place: Any = store
    local = isinstance(store, (str, Path)) and "://" not in str(store)
    if local and not Path(store).exists():
        raise DataError(f"There is no {store}: embeddings are a folder or a zip of Zarr.")
    zipped = local and Path(store).suffix == ".zip"
    try:
        if zipped:
            place = zarr.storage.ZipStore(store, mode="r")
        whole = zarr.open_group(place, mode="r").metadata.consolidated_metadata is not None
        data = xr.open_zarr(place, decode_coords="all", consolidated=whole)
    except (OSError, KeyError, ValueError, ImportError, zipfile.BadZipFile) as error:
        told = " ".join(str(error).split())[:200]
        hint = " In a zip zarr.json lies at the top." if zipped else ""
        raise DataError(
            f"{store} cannot be opened as a Zarr of embeddings: {told}.{hint}"
        ) from error
    if variable not in data:
        raise DataError(
            f"{store} has no variable '{variable}'; it has {', '.join(map(str, data)) or 'none'}."
        )
    found = data[variable]
    if getattr(found.encoding.get("serializer"), "tables", None) is None:
        raise DataError(
            f"'{variable}' of {store} is not coded by '{NAME}': open it with xarray.open_zarr."
        )
    return found


def store_size(folder: str | Path, variable: str = "embedding") -> Size:
    """Count the bytes of a store, a folder on this machine, tables and metadata included.

    >>> store_size("scene.zarr").told()  # doctest: +SKIP

    Raises
    ------
    RequestError
        If it is no folder: the size of a zip is that of the file.
    DataError, CorruptStream
        As `open_embeddings`.
    """
    folder = Path(folder)
    if folder.is_file():
        raise RequestError(f"{folder} is a file: it takes {folder.stat().st_size:,} bytes.")
    found = open_embeddings(folder, variable=variable)
    sizes = {file: file.stat().st_size for file in folder.rglob("*") if file.is_file()}
    packed = json.dumps(found.encoding["serializer"].to_dict()["configuration"]["tables"])
    metadata = [file for file in sizes if file.name == "zarr.json"]
    copies = sum(file.read_text("utf-8").count(packed) for file in metadata)
    inside = [file for file in sizes if folder / variable in file.parents]
    chunks = [file for file in inside if file not in metadata]
    tables = found.encoding["serializer"].tables
    if any(found.encoding.get(key) for key in ("shards", "compressors", "filters")):
        there = int(found.isel({found.dims[-1]: 0}).notnull().sum())  # a file is no stream
    else:
        most = math.prod(found.encoding["chunks"])
        there = sum(tables.count(file.read_bytes(), limit=most) for file in chunks)
    streams = sum(sizes[file] for file in chunks)
    return Size(sum(sizes.values()), streams, copies * len(packed), there, tables.channels)
