"""Random streams and random fields.

Every component of a scene draws from a stream of its own, named by words, so that adding or
changing one component moves no other. All arithmetic is in float64: processors differ in the last
bit of sines and exponentials, and nothing here enlarges that.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import fft

__all__ = [
    "PIXEL",
    "Array",
    "Grid",
    "Streams",
    "gaussian_field",
    "parcels",
    "quarter_sections",
    "smoothstep",
]

Array = NDArray[np.float64]

#: Pixel size of HLS, in metres.
PIXEL = 30.0


@dataclass(frozen=True)
class Streams:
    """Independent random generators, one for each name.

    >>> one, other = (Streams(0, "cerrado").rng("relief") for _ in range(2))
    >>> one.integers(1000) == other.integers(1000)
    np.True_
    """

    seed: int
    region: str

    def rng(self, *name: object) -> np.random.Generator:
        """Counter-based generator (Philox) that depends on seed, region and name alone."""
        digest = hashlib.sha256("/".join(map(str, (self.region, *name))).encode()).digest()
        words = np.frombuffer(digest, "<u4").tolist()
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, *words])))


@dataclass(frozen=True)
class Grid:
    """Scene of `size` pixels within a periodic domain of `n` pixels.

    Fields are made on the domain, which is larger than the scene: what lies outside still casts
    shadows and drains into it, and no edge of the scene repeats the opposite one.
    """

    size: int

    @cached_property
    def n(self) -> int:
        """Domain size: a length with small prime factors, a multiple of 4."""
        n = max(256, self.size + 64)
        return 4 * fft.next_fast_len(-(-n // 4), real=True)

    def crop(self, field: Array) -> Array:
        """Scene part of a field on the domain."""
        edge = (self.n - self.size) // 2
        return field[..., edge : edge + self.size, edge : edge + self.size]

    @cached_property
    def frequencies(self) -> tuple[Array, Array]:
        """Angular spatial frequencies (rad/m) of rows and columns."""
        return (
            2 * np.pi * fft.fftfreq(self.n, PIXEL)[:, None],
            2 * np.pi * fft.rfftfreq(self.n, PIXEL)[None, :],
        )

    @cached_property
    def metres(self) -> tuple[Array, Array]:
        """Southward and eastward distance (m) of the domain's pixel centres from its corner."""
        axis = (np.arange(self.n) + 0.5) * PIXEL
        return axis[:, None], axis[None, :]


def gaussian_field(
    rng: np.random.Generator,
    grid: Grid,
    scale: float,
    *,
    rough: float = 0.8,
    inner: float = 0.0,
    stretch: float = 1.0,
    angle: float = 0.0,
) -> Array:
    """Gaussian random field of mean 0 and variance 1 with a von Karman spectrum.

    Parameters
    ----------
    scale : float
        Outer scale in metres: the field is fractal below it and uncorrelated above.
    rough : float
        Hurst exponent of the fractal range (0 rough to 1 smooth; above 1 smoother still).
    inner : float
        Standard deviation in metres of a Gaussian that takes out finer detail.
    stretch, angle : float
        The field is drawn out `stretch` times along `angle` (radians from east to south).

    The variance is that of the ensemble: the mean of one scene wanders, as it does in nature.
    """
    ky, kx = grid.frequencies
    if stretch != 1.0:
        along = (kx * np.cos(angle) + ky * np.sin(angle)) * np.sqrt(stretch)
        across = (ky * np.cos(angle) - kx * np.sin(angle)) / np.sqrt(stretch)
        k2 = along * along + across * across
    else:
        k2 = kx * kx + ky * ky
    amplitude = (1.0 + k2 * (scale * scale)) ** (-0.5 * (rough + 1.0))
    if inner:
        amplitude *= np.exp(-0.5 * k2 * (inner * inner))
    power = amplitude * amplitude
    # A column of the half-spectrum stands for two of the full one, except the first and the last.
    variance = 4 * power[:, 1:-1].sum() + power[:, 0].sum() + power[:, -1].sum()
    noise = rng.standard_normal((*amplitude.shape, 2), np.float32).view(np.complex64)[..., 0]
    spectrum = noise * (amplitude * (grid.n**2 / np.sqrt(variance)))
    return fft.irfft2(spectrum, s=(grid.n, grid.n), overwrite_x=True)


def smoothstep(value: Array, low: float, high: float) -> Array:
    """Rise from 0 at `low` to 1 at `high` without a corner."""
    t = np.clip((value - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def parcels(
    rng: np.random.Generator, u: Array, v: Array, area: float
) -> tuple[NDArray[np.int64], Array, NDArray[np.int64], Array]:
    """Cut the plane into rectangles of about `area` square metres along the axes `u` and `v`.

    Each rectangle is halved, roughly, across its longer side until the mean area is reached.
    Returns each pixel's parcel, its distance (m) to the parcel's edge, the parcel's count of
    pixels and the parcels' boxes `(u0, u1, v0, v1)` as rows.
    """
    boxes = np.array([[u.min()], [u.max()], [v.min()], [v.max()]])
    whole = float(np.prod(boxes[[1, 3]] - boxes[[0, 2]]))
    which = np.zeros(u.shape, np.int64)
    for _ in range(max(0, round(np.log2(whole / area)))):
        cut = rng.uniform(0.33, 0.67, boxes.shape[1])
        tall = (boxes[3] - boxes[2]) > (boxes[1] - boxes[0])
        at = np.where(tall, boxes[2] + cut * (boxes[3] - boxes[2]),
                      boxes[0] + cut * (boxes[1] - boxes[0]))  # fmt: skip
        which = 2 * which + (np.where(tall[which], v, u) > at[which])
        boxes = np.repeat(boxes, 2, axis=1)
        boxes[1, 0::2] = np.where(tall, boxes[1, 0::2], at)
        boxes[0, 1::2] = np.where(tall, boxes[0, 1::2], at)
        boxes[3, 0::2] = np.where(tall, at, boxes[3, 0::2])
        boxes[2, 1::2] = np.where(tall, at, boxes[2, 1::2])
    box = boxes[:, which]
    edge = np.minimum(np.minimum(u - box[0], box[1] - u), np.minimum(v - box[2], box[3] - v))
    return which, edge, np.bincount(which.ravel(), minlength=boxes.shape[1]), boxes


def quarter_sections(
    rng: np.random.Generator, u: Array, v: Array, side: float
) -> tuple[NDArray[np.int64], Array, NDArray[np.int64], Array]:
    """Cut the plane into squares of `side` metres, some of them halved; as `parcels` returns it."""
    column, row = np.floor(u / side).astype(int), np.floor(v / side).astype(int)
    column -= (first := (int(column.min()), int(row.min())))[0]
    row -= first[1]
    columns, squares = int(column.max()) + 1, (int(column.max()) + 1) * (int(row.max()) + 1)
    corner = np.stack(np.divmod(np.arange(squares), columns)[::-1]) + np.array(first)[:, None]
    corner = np.repeat(corner * side, 2, axis=1)  # two parcels a square, the second often empty
    boxes = np.stack([corner[0], corner[0] + side, corner[1], corner[1] + side])
    cut = rng.uniform(size=squares)
    half = 0.5 * side
    for axis, halved in ((0, cut < 0.16), (2, cut > 0.84)):
        boxes[axis + 1, 0::2][halved] -= half
        boxes[axis, 1::2][halved] += half
    square = row * columns + column
    second = ((cut[square] < 0.16) & (u - boxes[0, 2 * square] > half)) | (
        (cut[square] > 0.84) & (v - boxes[2, 2 * square] > half)
    )
    which = 2 * square + second
    box = boxes[:, which]
    edge = np.minimum(np.minimum(u - box[0], box[1] - u), np.minimum(v - box[2], box[3] - v))
    return which, edge, np.bincount(which.ravel(), minlength=boxes.shape[1]), boxes
