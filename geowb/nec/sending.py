"""Ways of sending images to someone who will look at their embeddings, and what each costs.

>>> images = Images.of(places.images, like=model)  # doctest: +SKIP
>>> sent = by_codec(codec, images)  # doctest: +SKIP
>>> sent.kib, sent.tokens.shape  # doctest: +SKIP
(0.29, (400, 16, 16, 192))
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from geowb.errors import DataError
from geowb.nec.baselines import Uniform, coded, from_jpeg2000, packed, quality_for, unpacked
from geowb.nec.tables import Tables

if TYPE_CHECKING:
    import torch

    from geowb.nec.autoencoder import CompressedMAE
    from geowb.nec.codecs import Codec

__all__ = [
    "Images",
    "Sent",
    "by_codec",
    "by_float16",
    "by_jpeg2000",
    "by_rounding",
    "by_uniform",
    "embedded",
    "lossless",
    "recounted",
]


#: Images on which a quality of JPEG 2000 is tried.
_TRIED = 8


@dataclass(frozen=True)
class Images:
    """Images as they are sent, and how they become what the encoder was pretrained on.

    ``pixels`` ``(N, bands, y, x)`` is uint8 or uint16; the encoder is given
    ``gain * pixels + offset``, band by band.
    """

    pixels: np.ndarray
    gain: np.ndarray
    offset: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, like: torch.nn.Module, rows: Sequence[int] = ()) -> Images:
        """Take images of whole counts; NaN is not allowed.

        Values up to 255 are taken for photographs of 8 bits, and brought to the mean and the
        spread of the encoder's own images, band by band (statistics of the images `rows`, which
        are trained on; of all, if none are named). Others are reflectance in counts, and stay.

        Parameters
        ----------
        values
            ``(N, bands, y, x)``.
        like
            A masked model, whose bands these are.

        Raises
        ------
        DataError
            If a value is missing, or above 65,535.
        """
        values = np.asarray(values)
        if not values.size or not np.isfinite(values).all():
            missing = int((~np.isfinite(values)).any(axis=(1, 2, 3)).sum())
            raise DataError(
                f"{missing} of {len(values)} images have pixels without data: images are sent "
                "whole. Leave those out."
            )
        whole = np.rint(values).clip(0)  # reflectance may be a little below nothing
        if whole.max() > 65_535:
            raise DataError(f"The images have the value {whole.max():g}; 65,535 is the largest.")
        count = values.shape[1]
        if whole.max() > 255:
            return cls(whole.astype(np.uint16), np.ones(count), np.zeros(count))
        some = whole[list(rows)] if len(rows) else whole
        mean, std = (f(some, axis=(0, 2, 3), dtype=np.float64) for f in (np.mean, np.std))
        wanted, spread = (b.detach().cpu().numpy().ravel() for b in (like.mean, like.std))
        gain = spread / np.maximum(std, 1e-6)
        return cls(whole.astype(np.uint8), gain, wanted - gain * mean)

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def raw(self) -> int:
        """Bytes of an image that is not compressed."""
        return self.pixels[0].nbytes

    def tensor(self, rows: slice) -> torch.Tensor:
        """Give what the encoder sees: ``(n, bands, 1, y, x)`` float32."""
        import torch

        scaled = self.pixels[rows] * self.gain[:, None, None] + self.offset[:, None, None]
        return torch.from_numpy(scaled.astype(np.float32))[:, :, None]


@dataclass(frozen=True)
class Sent:
    """What arrives of images, and what it took.

    Parameters
    ----------
    method, setting
        How it was sent: ``nec`` and ``lambda 30``, ``jpeg2000`` and ``0.3 KiB``.
    tokens
        ``(N, y, x, channel)`` float32: the embeddings that the receiver has in the end.
    sizes
        Bytes of each image.
    shared
        Bytes that are sent once for all: tables, ranges.
    seconds
        An image, by what was done: ``encode`` (the network), ``write``, ``read``.
    """

    method: str
    setting: str
    tokens: np.ndarray
    sizes: np.ndarray
    shared: int
    seconds: dict[str, float]

    def without_tokens(self) -> Sent:
        """Keep what it took, and let go of what arrived, but for one image."""
        return replace(self, tokens=self.tokens[:1].copy())  # a view would keep them all

    @property
    def size(self) -> float:
        """Mean bytes of an image, its part of what is shared included."""
        return float(self.sizes.mean()) + self.shared / len(self.sizes)

    @property
    def kib(self) -> float:
        """The same in KiB."""
        return self.size / 1024

    @property
    def bits_per_element(self) -> float:
        """Bits to a number of the embedding."""
        return 8 * self.size / self.tokens[0].size


def embedded(
    model: CompressedMAE, images: Images, *, batch_size: int = 16, accelerator: str = "auto"
) -> tuple[np.ndarray, float]:
    """Encode images: ``(N, y, x, channel)`` float32, and the seconds that one took."""
    import torch

    from geowb.models.wrapper import placed

    began, parts = time.perf_counter(), []
    with placed(model.eval(), accelerator) as device, torch.inference_mode():
        for start in range(0, len(images), batch_size):
            batch = images.tensor(slice(start, start + batch_size)).to(device)
            parts.append(model.embed(batch)[:, 0].float().cpu().numpy())
    return np.concatenate(parts), (time.perf_counter() - began) / len(images)


def _sent(
    method: str,
    setting: str,
    values: np.ndarray,
    write: Callable[[np.ndarray], bytes],
    read: Callable[[bytes], np.ndarray],
    encode: float = 0.0,
    shared: int = 0,
) -> Sent:
    """Send each of `values` on its own: write it, count it, read it again."""
    began = time.perf_counter()
    streams = [write(value) for value in values]
    between = time.perf_counter()
    arrived = np.stack([read(stream) for stream in streams])
    done = time.perf_counter()
    took = {
        "encode": encode,
        "write": (between - began) / len(values),
        "read": (done - between) / len(values),
    }
    sizes = np.array([len(stream) for stream in streams])
    return Sent(method, setting, arrived, sizes, shared, took)


def by_codec(codec: Codec, images: Images, **how: Any) -> Sent:
    """Send compressed embeddings; the tables are counted once.

    >>> by_codec(load_codec("codecs/lambda-30"), images).bits_per_element  # doctest: +SKIP

    `how` is that of `embedded`.
    """
    values, encode = embedded(codec.model, images, **how)
    tables = codec.tables
    shared = len(tables.to_bytes())
    return _sent("nec", codec.setting, values, tables.encode, tables.decode, encode, shared)


def recounted(codec: Codec, images: Images, rows: Sequence[int], **how: Any) -> Codec:
    """Count a codec's tables anew, for images of another kind than those that it was made of.

    >>> by_codec(recounted(codec, images, train), images).kib  # doctest: +SKIP

    The encoder and the widths of its steps stay. What seldom occurred where the codec was made is
    escaped by its own tables, and costs many times as much; the tables are sent with the data, so
    that nothing keeps the sender from counting its own. `how` is that of `embedded`.
    """
    some = Images(images.pixels[list(rows)], images.gain, images.offset)
    values, _ = embedded(codec.model, some, **how)
    return replace(codec, tables=Tables.fit(values, steps=codec.tables.steps))


def by_rounding(
    values: np.ndarray, step: float, fitted: np.ndarray | None = None, encode: float = 0.0
) -> Sent:
    """Send embeddings of an encoder that was not adapted, rounded and entropy-coded.

    Parameters
    ----------
    values
        ``(N, y, x, channel)``.
    step
        Width of a step, to the standard deviation within a channel (the root of the mean square
        over the channels).
    fitted
        Embeddings whose symbols are counted for the tables; `values` if None.
    """
    fitted = values if fitted is None else fitted
    spread = float(np.sqrt(fitted.reshape(-1, fitted.shape[-1]).var(axis=0, dtype=float).mean()))
    tables = Tables.fit(fitted, steps=step * spread)
    shared = len(tables.to_bytes())
    write, read = tables.encode, tables.decode
    return _sent("rounded", f"step {step:g}", values, write, read, encode, shared)


def by_uniform(
    values: np.ndarray,
    bits: int,
    fitted: np.ndarray | None = None,
    *,
    channels: bool = False,
    encode: float = 0.0,
) -> Sent:
    """Send embeddings of an encoder that was not adapted, in equal steps, with zstd."""
    uniform = Uniform.fit(values if fitted is None else fitted, bits, channels=channels)
    method = "uniform_channels" if channels else "uniform"
    shape = values.shape[1:]
    read = lambda stream: uniform.decode(stream, shape)  # noqa: E731
    return _sent(method, f"{bits} bits", values, uniform.encode, read, encode, uniform.side)


def by_float16(values: np.ndarray, encode: float = 0.0) -> Sent:
    """Send embeddings as they are, in half precision, with zstd."""
    shape = values.shape[1:]
    write = lambda value: packed(value.astype(np.float16))  # noqa: E731
    read = lambda stream: unpacked(stream, "float16", shape).astype(np.float32)  # noqa: E731
    return _sent("float16", "float16", values, write, read, encode)


def by_jpeg2000(model: CompressedMAE, images: Images, size: int, **how: Any) -> Sent:
    """Send the images with JPEG 2000 in about `size` bytes; the receiver encodes them.

    All at one quality, with which none of a few of them takes more.
    """
    some = images.pixels[:: max(1, len(images) // _TRIED)][:_TRIED]
    quality = min(quality_for(image, size) for image in some)
    write = lambda image: coded(image, quality)  # noqa: E731
    sent = _sent("jpeg2000", _named(size), images.pixels, write, from_jpeg2000)
    return _received(model, images, sent, **how)


def _named(size: int) -> str:
    """Name a size in KiB: by two decimals, by four digits where these are another size.

    >>> _named(286), _named(290)
    ('0.28 KiB', '0.2832 KiB')
    """
    short = f"{size / 1024:.2f}"
    same = abs(1024 * float(short) - size) < 1
    return f"{short if same else f'{size / 1024:.4g}'} KiB"


def lossless(model: CompressedMAE, images: Images, **how: Any) -> Sent:
    """Send the images with zstd; the receiver encodes them."""
    shape, dtype = images.pixels.shape[1:], images.pixels.dtype.name
    read = lambda stream: unpacked(stream, dtype, shape)  # noqa: E731
    sent = _sent("full", "zstd", images.pixels, packed, read)
    return _received(model, images, sent, **how)


def _received(model: CompressedMAE, images: Images, sent: Sent, **how: Any) -> Sent:
    """Encode the images that arrived."""
    arrived = Images(sent.tokens, images.gain, images.offset)
    values, encode = embedded(model, arrived, **how)
    return replace(sent, tokens=values, seconds={**sent.seconds, "encode": encode})
