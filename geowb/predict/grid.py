"""Where tiles lie on a scene, what each counts for where they overlap, and in which order they go.

All lengths are in pixels of the output: those of the scene, or tokens of an embedding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from geowb.errors import RequestError

__all__ = ["Axis", "Grid", "Group", "reflected"]

#: Weights are multiples of 2**-10: their products and sums are exact in float64.
_PARTS = 2**10
#: A unit of work is at most about as high as this: what is read twice is a small part of it.
_UNIT_ROWS = 768


@dataclass(frozen=True)
class Axis:
    """Tiles along one side of a scene: a regular row that reaches beyond both of its ends.

    >>> axis = Axis(length=100, tile=64, overlap=16, blend=8)
    >>> axis.count, [axis.start(i) for i in range(axis.count)], axis.cut(1)
    (2, [-6, 42], 46)

    Two neighbours share `overlap` pixels. In the middle `blend` of them one fades into the other;
    the rest, half on each side, is margin: it is predicted and thrown away. At the ends of the
    scene the margin is reflected, and what the last tile reaches too far is shared between both.
    """

    length: int
    tile: int
    overlap: int
    blend: int

    def __post_init__(self) -> None:
        told = f"tile {self.tile}, overlap {self.overlap}, blend {self.blend}"
        if self.tile < 1 or self.overlap < 0 or self.blend < 0:
            raise RequestError(f"{told}: a tile has 1 pixel or more, the others 0 or more.")
        if self.overlap == self.tile:
            raise RequestError(f"{told}: tiles that share all of their pixels never end.")
        if self.blend > self.overlap or self.overlap + self.blend > self.tile:
            raise RequestError(
                f"{told}: blend is at most the overlap, and both together at most the tile, "
                f"as with overlap {self.tile // 4} and blend {self.tile // 8}."
            )

    @property
    def stride(self) -> int:
        """Pixels from a tile's start to that of the next."""
        return self.tile - self.overlap

    @property
    def margin(self) -> int:
        """Pixels at a tile's start that are thrown away."""
        return (self.overlap - self.blend) // 2

    @cached_property
    def count(self) -> int:
        """Number of tiles."""
        kept = self.tile - self.overlap + self.blend
        return 1 + max(0, -(-(self.length - kept) // self.stride))

    @cached_property
    def _first(self) -> int:
        kept = self.tile - self.overlap + self.blend
        beyond = kept + (self.count - 1) * self.stride - self.length
        return -self.margin - beyond // 2

    def start(self, i: int) -> int:
        """First pixel of tile `i`; negative before the scene."""
        return self._first + i * self.stride

    def cut(self, i: int) -> int:
        """Pixel from which tile `i` counts: there the `blend` pixels between it and the last begin.

        0 for the first tile; ``cut(count)`` is the length.
        """
        if i <= 0:
            return 0
        return self.length if i >= self.count else self.start(i) + self.margin

    def end(self, i: int) -> int:
        """Pixel up to which tile `i` counts."""
        return self.cut(i + 1) + (self.blend if i + 1 < self.count else 0)

    def weights(self, i: int) -> np.ndarray:
        """Weight of tile `i` at each pixel from ``cut(i)`` to ``end(i)``; neighbours add to 1."""
        weights = np.ones(self.end(i) - self.cut(i))
        if self.blend:
            middle = (np.arange(self.blend) + 0.5) / self.blend
            up = np.round(middle * _PARTS) / _PARTS
            if i > 0:
                weights[: self.blend] = up
            if i + 1 < self.count:
                weights[-self.blend :] = 1 - up
        return weights


@dataclass(frozen=True)
class Group:
    """Tiles that are read and blended together: a block of a unit's tiles, a batch or several."""

    rows: range
    cols: range
    last: bool  # of its unit


@dataclass(frozen=True)
class Grid:
    """All tiles of a scene, in units that can be done in any order, each in groups from the left.

    >>> grid = Grid(Axis(500, 64, 16, 8), Axis(300, 64, 16, 8), batch_size=8)
    >>> grid.units, len(list(grid.groups(0))), grid.tiles
    (2, 7, 77)
    """

    y: Axis
    x: Axis
    batch_size: int

    @property
    def tiles(self) -> int:
        """Number of all tiles."""
        return self.y.count * self.x.count

    @cached_property
    def rows(self) -> int:
        """Rows of tiles in a unit: a divisor or multiple of the batch, so that batches are full."""
        most = max(1, _UNIT_ROWS // self.y.stride)
        return max(
            n for n in range(1, most + 1) if self.batch_size % n == 0 or n % self.batch_size == 0
        )

    @property
    def units(self) -> int:
        """Number of units."""
        return -(-self.y.count // self.rows)

    def unit(self, number: int) -> range:
        """Rows of tiles of a unit."""
        return range(number * self.rows, min((number + 1) * self.rows, self.y.count))

    def pixels(self, number: int) -> int:
        """Pixels that a unit finishes, those between it and the next included."""
        rows = self.unit(number)
        return (self.y.cut(rows.stop) - self.y.cut(rows.start)) * self.x.length

    def groups(self, number: int) -> Iterator[Group]:
        """Give the groups of a unit from left to right; no batch holds tiles of two units."""
        rows = self.unit(number)
        width = self.batch_size // math.gcd(len(rows), self.batch_size)
        if len(rows) * width > 2 * max(len(rows), self.batch_size):  # the last unit, of odd height
            width = max(1, self.batch_size // len(rows))
        for first in range(0, self.x.count, width):
            stop = min(first + width, self.x.count)
            yield Group(rows, range(first, stop), stop == self.x.count)


def reflected(start: int, stop: int, length: int) -> np.ndarray:
    """Pixels of a side of `length` for positions that may lie beyond it, mirrored at its ends.

    >>> reflected(-3, 6, 4)
    array([3, 2, 1, 0, 1, 2, 3, 2, 1])

    As numpy's padding "reflect": the outermost pixel is not repeated.
    """
    if length == 1:
        return np.zeros(stop - start, dtype=np.intp)
    there = np.arange(start, stop) % (2 * length - 2)
    return np.minimum(there, 2 * length - 2 - there)
