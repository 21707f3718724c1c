"""The Zarr codec ``geowb.factorized_prior``: an array of embeddings, its chunks entropy-coded.

>>> import zarr
>>> codec = FactorizedPriorCodec(Tables.fit(np.zeros((9, 4))))
>>> array = zarr.create_array({}, shape=(8, 8, 4), chunks=(4, 4, 4), dtype="float32",
...                           serializer=codec, compressors=None, fill_value=float("nan"))
>>> array[:] = 0.0
>>> float(array[0, 0, 0])
0.0

Zarr finds it by the entry point of the same name, so that whoever has geowb installed opens such an
array as any other. The tables stand in the codec's configuration, since a codec sees nothing else:

| key | |
|---|---|
| ``tables`` | `Tables.to_bytes`, base64 |
| ``sha256`` | digest of what is in them |

A chunk is one stream (`geowb.nec.stream`). Its last dim holds all channels; tokens that are NaN in
all of them cost next to nothing. Needs numpy, zarr and constriction.
"""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer

from geowb.errors import CorruptStream, DataError
from geowb.nec.tables import Tables

__all__ = ["NAME", "FactorizedPriorCodec"]

NAME = "geowb.factorized_prior"


@dataclass(frozen=True)
class FactorizedPriorCodec(ArrayBytesCodec):
    """Makes streams of chunks ``(..., C)`` of float32 by the tables of a factorised prior."""

    tables: Tables
    is_fixed_size = False

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Read the codec's entry in an array's metadata.

        Raises
        ------
        CorruptStream
            If the tables in it are damaged, or not those that the entry names.
        """
        held = data.get("configuration")
        if not isinstance(held, dict) or not isinstance(held.get("tables"), str):
            raise CorruptStream(f"The configuration of the codec '{NAME}' has no tables.")
        try:
            packed = base64.b64decode(held["tables"], validate=True)
        except ValueError as error:  # binascii.Error, and what is not ASCII
            raise CorruptStream(
                f"The tables of the codec '{NAME}' are damaged: {error}."
            ) from error
        tables = Tables.from_bytes(packed)
        if held.get("sha256") != tables.sha256:
            raise CorruptStream(
                f"The tables of the codec '{NAME}' are not those with which the array was written: "
                f"their digest is {tables.sha256[:12]}, not {str(held.get('sha256'))[:12]}."
            )
        return cls(tables)

    def to_dict(self) -> dict[str, Any]:
        """Give the codec's entry in an array's metadata."""
        packed = base64.b64encode(self.tables.to_bytes()).decode()
        return {
            "name": NAME,
            "configuration": {"sha256": self.tables.sha256, "tables": packed},
        }

    def evolve_from_array_spec(self, array_spec: ArraySpec) -> Self:
        """Refuse what `validate` refuses, also within shards, for which Zarr does not ask that."""
        self._check(array_spec.dtype, array_spec.shape, array_spec.shape)
        return self

    def validate(self, *, shape: tuple[int, ...], dtype: Any, chunk_grid: Any) -> None:
        """Refuse arrays that are no embeddings of these tables.

        Raises
        ------
        DataError
            For another type than float32, and channels that do not come last, or not as one chunk.
        """
        self._check(dtype, shape, getattr(chunk_grid, "chunk_shape", shape))

    def _check(self, dtype: Any, shape: tuple[int, ...], chunk: tuple[int, ...]) -> None:
        native = dtype.to_native_dtype() if hasattr(dtype, "to_native_dtype") else np.dtype(dtype)
        if native != np.float32:
            raise DataError(f"The codec '{NAME}' takes float32, not {native}.")
        channels = self.tables.channels
        if shape[-1:] != (channels,) or chunk[-1:] != (channels,):
            raise DataError(
                f"The codec '{NAME}' has tables of {channels} channels, which come last and in one "
                f"chunk; the array is {shape}, in chunks of {chunk}. To save what was made of "
                "embeddings, without this codec: xarray's drop_encoding() before to_zarr."
            )

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        values = self.tables.decode(
            chunk_bytes.to_bytes(), shape=chunk_spec.shape, limit=int(np.prod(chunk_spec.shape))
        )
        return chunk_spec.prototype.nd_buffer.from_numpy_array(values)

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return await asyncio.to_thread(self._decode_sync, chunk_bytes, chunk_spec)

    def _encode_sync(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        stream = self.tables.encode(chunk_array.as_numpy_array(), missing=True)
        return chunk_spec.prototype.buffer.from_bytes(stream)

    async def _encode_single(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer | None:
        return await asyncio.to_thread(self._encode_sync, chunk_array, chunk_spec)

    def compute_encoded_size(self, input_byte_length: int, _chunk_spec: ArraySpec) -> int:
        """Nothing can be said before it is done."""
        raise NotImplementedError(f"The size of a chunk of '{NAME}' depends on its values.")
