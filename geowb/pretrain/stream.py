"""Batches for training, from an archive that is read a shard at a time by a thread of its own.

The order of chips depends on seed and epoch alone, so a stream can begin at any step, and several
processes see together what one would see.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from geowb.errors import RequestError
from geowb.pretrain.reader import ChipArchive, as_floats

if TYPE_CHECKING:
    import torch

__all__ = ["ChipStream"]


class ChipStream:
    """Batches of chips in random order, without end up to a number of steps.

    >>> stream = ChipStream(archive, batch_size=32, steps=1000)  # doctest: +SKIP
    >>> next(iter(stream))["image"].shape  # doctest: +SKIP
    torch.Size([32, 6, 3, 64, 64])

    A batch has ``image`` (B, C, T, H, W), float32 counts with NaN for no data, and ``key`` (B,),
    int64: epoch x len(archive) + index. In each epoch the shards come in random order, `pool` of
    them together, whose chips are mixed. Batches run on over the end of an epoch. A thread reads
    shards, another makes batches; in memory are the shards of two pools at most (int16: of 256
    chips of 6 x 3 x 64 x 64, 36 MiB each), and `ahead` batches. An archive of no more shards than
    that is read once.

    Parameters
    ----------
    batch_size
        Chips of a batch of all processes together.
    steps, start
        The stream ends before step `steps`; it begins at step `start`, with the batches that it
        would have there otherwise.
    seed
        Of the order and of the augmentation.
    rank, world_size
        Which of how many processes this is: it gets rows ``rank::world_size`` of each batch.
    augment
        Turn and mirror each chip, by one of the eight symmetries of the square; which one depends
        on seed and key alone.

    Raises
    ------
    RequestError
        For sizes that do not fit each other.
    DataError
        While it is read, if the archive is damaged.
    """

    def __init__(
        self,
        archive: ChipArchive,
        *,
        batch_size: int,
        steps: int,
        start: int = 0,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        augment: bool = True,
        pool: int = 8,
        ahead: int = 2,
    ) -> None:
        if not 0 <= rank < world_size:
            raise RequestError(f"rank={rank} does not lie in 0 ... world_size - 1 ({world_size=}).")
        if batch_size < 1 or batch_size % world_size:
            raise RequestError(
                f"batch_size={batch_size} is the batch of all {world_size} processes together: "
                f"give a multiple of {world_size}."
            )
        if not 0 <= start <= steps:
            raise RequestError(f"start={start} does not lie in 0 ... steps ({steps=}).")
        if pool < 1 or ahead < 1 or seed < 0:
            raise RequestError(f"{pool=} and {ahead=} must be 1 or more, {seed=} 0 or more.")
        self.archive = archive
        self.batch_size, self.steps, self.start, self.seed = batch_size, steps, start, seed
        self.rank, self.world_size, self.augment = rank, world_size, augment
        self.pool, self.ahead = pool, ahead

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        import torch

        maker = _Maker(self)
        with ThreadPoolExecutor(1, "geowb-chips") as thread:
            coming: deque[Future] = deque()
            try:
                for step in range(self.start, self.steps):
                    while len(coming) <= self.ahead and step + len(coming) < self.steps:
                        coming.append(thread.submit(maker.batch, step + len(coming)))
                    batch = coming.popleft().result()
                    yield {name: torch.from_numpy(values) for name, values in batch.items()}
            finally:  # also when the iterator is closed or dropped
                thread.shutdown(wait=False, cancel_futures=True)
                maker.close()


class _Maker:
    """Makes batches, one after the other; holds the shards of the present pool and of the next."""

    def __init__(self, stream: ChipStream) -> None:
        self.stream, self.archive = stream, stream.archive
        self.order = _Order(self.archive, stream.pool, stream.seed)
        self.keeps_all = self.archive.shards <= 2 * stream.pool
        self.reader = ThreadPoolExecutor(1, "geowb-shards")
        self.shards: dict[int, Future] = {}
        self.at = -1  # number of the present pool, counted over all epochs

    def close(self) -> None:
        """End the reading thread."""
        self.reader.shutdown(wait=True, cancel_futures=True)
        self.shards.clear()

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """Make this process's rows of the batch of a step."""
        size, of = self.stream.batch_size, self.stream.world_size
        wanted = np.arange(step * size + self.stream.rank, (step + 1) * size, of)
        keys = np.empty(len(wanted), np.int64)
        a, done = self.archive, 0
        chips = np.empty((len(wanted), len(a.bands), a.frames, a.size, a.size), np.int16)
        while done < len(wanted):
            number, first = self.order.pool_at(int(wanted[done]))
            samples = self.order.chips_of(number)
            count = int(np.searchsorted(wanted, first + len(samples))) - done
            self._enter(number)
            rows = samples[wanted[done : done + count] - first]
            self._fill(chips[done : done + count], rows)
            epoch = number // self.order.pools
            keys[done : done + count] = epoch * len(self.archive) + rows
            done += count
        if self.stream.augment:
            chips = _turned(chips, _mixed(self.stream.seed, keys))
        return {"image": as_floats(chips), "key": keys}

    def _enter(self, number: int) -> None:
        """Let go of earlier pools, and have this one and the next read."""
        if number == self.at:
            return
        self.at = number
        needed = [*self.order.shards_of(number), *self.order.shards_of(number + 1)]
        for shard in [] if self.keeps_all else set(self.shards).difference(needed):
            del self.shards[shard]
        for shard in needed:
            if shard not in self.shards:
                self.shards[shard] = self.reader.submit(self.archive.read_shard, int(shard))

    def _fill(self, chips: np.ndarray, rows: np.ndarray) -> None:
        """Copy chips `rows` of the archive; all lie in the present pool."""
        shards, inside = np.divmod(rows, self.archive.shard)
        for shard in np.unique(shards):
            where = np.flatnonzero(shards == shard)
            chips[where] = self.shards[int(shard)].result()[inside[where]]


class _Order:
    """Which chip comes when: pools of shards, and the chips of each pool, for every epoch."""

    def __init__(self, archive: ChipArchive, pool: int, seed: int) -> None:
        self.count, self.shard, self.pool, self.seed = len(archive), archive.shard, pool, seed
        self.sizes = np.full(archive.shards, archive.shard)
        self.sizes[-1] -= archive.shards * archive.shard - self.count
        self.pools = -(-archive.shards // pool)
        self._epoch: tuple[int, np.ndarray] = (-1, self.sizes)
        self._chips: tuple[int, np.ndarray] = (-1, self.sizes)

    def _shards(self, epoch: int) -> np.ndarray:
        if self._epoch[0] != epoch:
            draw = np.random.default_rng((self.seed, epoch))
            self._epoch = epoch, draw.permutation(len(self.sizes))
        return self._epoch[1]

    def shards_of(self, number: int) -> np.ndarray:
        """Shards of a pool, counted over all epochs."""
        epoch, place = divmod(number, self.pools)
        return self._shards(epoch)[place * self.pool : (place + 1) * self.pool]

    def chips_of(self, number: int) -> np.ndarray:
        """Chips of a pool, in the order in which they come."""
        if self._chips[0] != number:
            shards = self.shards_of(number)
            first = shards * self.shard
            parts = map(np.arange, first, first + self.sizes[shards])
            draw = np.random.default_rng((self.seed, *divmod(number, self.pools)))
            self._chips = number, draw.permutation(np.concatenate(list(parts)))
        return self._chips[1]

    def pool_at(self, position: int) -> tuple[int, int]:
        """Pool of the chip at a position of the whole stream, and that pool's first position."""
        epoch, within = divmod(position, self.count)
        ends = np.cumsum(self.sizes[self._shards(epoch)])
        shard = int(np.searchsorted(ends, within, side="right"))
        place = shard // self.pool
        first = int(ends[place * self.pool - 1]) if place else 0
        return epoch * self.pools + place, epoch * self.count + first


def _mixed(seed: int, keys: np.ndarray) -> np.ndarray:
    """Draw a number from 0 to 7 for each key: the top bits of SplitMix64 (Steele et al. 2014)."""
    offset = np.random.default_rng((seed, 1)).integers(2**63, dtype=np.uint64)
    with np.errstate(over="ignore"):
        z = keys.astype(np.uint64) + offset
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
        return ((z ^ (z >> np.uint64(31))) >> np.uint64(61)).astype(np.int64)


def _turned(chips: np.ndarray, symmetry: np.ndarray) -> np.ndarray:
    """Chips (..., H, W), each turned by symmetry % 4 quarters and mirrored if it is 4 or more."""
    result = np.empty_like(chips)
    for which in np.unique(symmetry):
        where = np.flatnonzero(symmetry == which)
        some: Any = np.rot90(chips[where], which % 4, axes=(-2, -1))
        result[where] = some[..., ::-1] if which >= 4 else some
    return result
