"""What compressed embeddings are held against: lossless images, JPEG 2000, uniform quantisation.

>>> image = np.arange(3 * 64 * 64, dtype=np.uint16).reshape(3, 64, 64)
>>> stream = jpeg2000(image, 600)
>>> len(stream) <= 600, from_jpeg2000(stream).shape
(True, (3, 64, 64))
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from geowb.errors import CorruptStream, RequestError

__all__ = ["Uniform", "coded", "from_jpeg2000", "jpeg2000", "packed", "quality_for", "unpacked"]

#: Settings of OpenJPEG: the irreversible transform, the codestream without a file around it.
_OPENJPEG = {"driver": "JP2OpenJPEG", "REVERSIBLE": "NO", "CODEC": "J2K"}
#: Codings in the search of a quality, and how full the bytes are then to be.
_TRIES, _CLOSE = 10, 0.97
#: OpenJPEG's least and best quality, per cent; what lies beyond GDAL takes for its own choice.
_WORST, _BEST = 1e-3, 100.0


def packed(values: np.ndarray) -> bytes:
    """Compress whole numbers or floats without loss: zstd, level 3, behind a bit shuffle.

    >>> len(packed(np.zeros(4096, np.uint16))) < 60
    True

    As in the paper's code (Blosc, clevel 3, bit shuffle; IBM/neural-embedding-compression).
    """
    from numcodecs import Blosc

    return bytes(
        Blosc("zstd", clevel=3, shuffle=Blosc.BITSHUFFLE).encode(np.ascontiguousarray(values))
    )


def unpacked(stream: bytes, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Undo `packed`.

    Raises
    ------
    CorruptStream
        If the stream is damaged, or of another shape.
    """
    from numcodecs import Blosc

    try:
        values = np.frombuffer(Blosc().decode(stream), dtype)
        return values.reshape(shape)
    except (RuntimeError, ValueError) as error:
        raise CorruptStream(f"{len(stream)} bytes are no {dtype} of {shape}: {error}") from error


def jpeg2000(image: np.ndarray, size: int) -> bytes:
    """Compress an image with JPEG 2000 to at most `size` bytes, as close to it as it goes.

    Parameters
    ----------
    image
        ``(bands, y, x)`` uint8 or uint16; three bands are taken for red, green and blue.

    Notes
    -----
    GDAL's OpenJPEG through rasterio: the 9-7 wavelet, five halvings (GDAL's own choice for small
    images, none, is far worse at low rates), a bare codestream of one tile.

    Raises
    ------
    RequestError
        If the image is not of this kind, or not even its headers fit into `size`.
    """
    return coded(image, quality_for(image, size))


def quality_for(image: np.ndarray, size: int) -> float:
    """Find OpenJPEG's quality with which an image takes at most `size` bytes, and little less.

    Raises
    ------
    RequestError
        As `jpeg2000`.
    """
    if image.ndim != 3 or image.dtype not in (np.uint8, np.uint16):
        raise RequestError(
            f"JPEG 2000 takes (bands, y, x) of uint8 or uint16, not {image.dtype} {image.shape}."
        )
    if len(coded(image, _BEST)) <= size:
        return _BEST
    smallest = len(coded(image, _WORST))
    if smallest > size:
        raise RequestError(
            f"JPEG 2000 of {image.shape} takes more than {size} bytes: even its smallest "
            f"codestream has {smallest}."
        )
    low, high, quality = 0.0, _BEST, min(100 * size / image.nbytes, 0.99 * _BEST)
    for tried in range(2 * _TRIES):
        taken = len(coded(image, quality))
        if taken <= size:
            low = quality
            if taken > _CLOSE * size or tried >= _TRIES:
                break
        else:
            high = quality
        if low and tried == _TRIES - 1:
            break
        quality *= size / taken
        if not low < quality < high:  # the size is no smooth function of it
            quality = 1.1 * low if 1.1 * low < high == _BEST else (low + high) / 2
        elif tried >= _TRIES - 1:  # nor a continuous one: a step may be wider than what is over
            quality *= 1 - 0.02 * (tried - _TRIES + 2)
    return low or _WORST


def coded(image: np.ndarray, quality: float) -> bytes:
    """Compress an image with JPEG 2000 at a quality of OpenJPEG's, per cent of the image."""
    from rasterio.io import MemoryFile

    bands, height, width = image.shape
    levels = max(1, min(6, min(height, width).bit_length() - 1))
    with MemoryFile() as file:
        with (
            _no_place(),
            file.open(
                **{"height": height, "width": width, "count": bands, "dtype": image.dtype.name},
                **{"QUALITY": f"{quality:.6f}", "RESOLUTIONS": str(levels), **_OPENJPEG},
            ) as data,
        ):
            data.write(image)
        return file.read()


def from_jpeg2000(stream: bytes) -> np.ndarray:
    """Decompress a codestream of `jpeg2000`.

    Raises
    ------
    CorruptStream
        If GDAL cannot read it.
    """
    from rasterio.errors import RasterioError
    from rasterio.io import MemoryFile

    try:
        with MemoryFile(stream) as file, _no_place(), file.open() as data:
            return data.read()
    except RasterioError as error:
        raise CorruptStream(f"{len(stream)} bytes are no JPEG 2000: {error}") from error


@contextmanager
def _no_place() -> Iterator[None]:
    """Leave out rasterio's warning that an image has no place: none is meant to be sent."""
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


@dataclass(frozen=True)
class Uniform:
    """Uniform quantisation of an embedding: equal steps between the least and the largest value.

    >>> values = np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2)
    >>> uniform = Uniform.fit(values, bits=2)
    >>> [f"{value:.2f}" for value in uniform.decode(uniform.encode(values), (4, 2))[:, 0]]
    ['-1.00', '-0.43', '0.14', '0.71']

    What is beyond the range is sent as its end. `low` and `high` are sent once (`side` bytes).
    """

    low: np.ndarray
    high: np.ndarray
    bits: int

    @classmethod
    def fit(cls, values: np.ndarray, bits: int, *, channels: bool = False) -> Uniform:
        """Take the range from values ``(..., channel)``.

        Parameters
        ----------
        channels
            A range a channel. By default there is one for all, as in the paper's code: few channels
            with large values leave few steps to the others, which then cost next to nothing.

        Raises
        ------
        RequestError
            If bits are not 1 to 16.
        """
        if not 1 <= bits <= 16:
            raise RequestError(f"Quantisation to {bits} bits: 1 to 16 are meant.")
        axes = tuple(range(values.ndim - 1)) if channels else None
        low, high = (np.atleast_1d(f(values, axis=axes)) for f in (np.min, np.max))
        return cls(low.astype(np.float32), high.astype(np.float32), bits)

    @property
    def side(self) -> int:
        """Bytes of the ranges."""
        return self.low.nbytes + self.high.nbytes

    @property
    def _dtype(self) -> str:
        return "uint8" if self.bits <= 8 else "uint16"

    def encode(self, values: np.ndarray) -> bytes:
        """Quantise and pack values ``(..., channel)``."""
        span = np.maximum(self.high - self.low, np.finfo(np.float32).tiny)
        share = np.clip((values - self.low) / span, 0, 1)
        return packed(np.rint(share * (2**self.bits - 1)).astype(self._dtype))

    def decode(self, stream: bytes, shape: tuple[int, ...]) -> np.ndarray:
        """Give back what arrives, float32."""
        codes = unpacked(stream, self._dtype, shape).astype(np.float32)
        return self.low + codes / (2**self.bits - 1) * (self.high - self.low)
