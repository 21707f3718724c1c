"""Integer tables of symbols, a channel each, and the entropy coder that works by them.

>>> tables = Tables.fit(np.random.default_rng(0).normal(size=(4096, 3)), steps=0.25)
>>> tables.decode(tables.encode([[0.1, 0.6, -0.4]])).shape
(1, 3)

Needs numpy and constriction only. Whoever decodes uses the integers that whoever encoded has used:
nothing is computed from floats on the way, so any machine gets the same numbers out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geowb.errors import CorruptStream, DataError
from geowb.nec import packing
from geowb.nec import stream as framing
from geowb.nec.escapes import coding, escaped_bits, pop_escaped, push_escaped
from geowb.nec.packing import WIDEST

__all__ = ["PRECISION", "Tables"]

#: The weights of a table add to 2 ** PRECISION, which is what the coder works with.
PRECISION = 24
_WHOLE = 2**PRECISION
#: Elements that `decode` makes at most unless it is told another number (float32: 1 GiB).
_LIMIT = 2**28


@dataclass(frozen=True, eq=False)
class Tables:
    """How likely each symbol of each channel is, in integers, and how symbols become values.

    A value x of channel c is the symbol ``rint((x - medians[c]) / steps[c])`` and is decoded as
    ``symbol * steps[c] + medians[c]``, in float32. ``weights[c]`` are those of the symbols
    ``first[c], first[c] + 1, ...``, and last the weight of the escape, after which any other
    symbol follows as it is; they are 1 or more and add to 2 ** 24.

    Parameters
    ----------
    medians, steps
        ``(C,)`` float32.
    first
        ``(C,)`` int32, 0 or less.
    weights
        C arrays of uint32; the symbol 0 has a weight in each.

    Raises
    ------
    DataError
        For tables that cannot be.
    """

    medians: NDArray[np.float32]
    steps: NDArray[np.float32]
    first: NDArray[np.int32]
    weights: tuple[NDArray[np.uint32], ...]

    def __post_init__(self) -> None:
        for name, dtype in (("medians", "<f4"), ("steps", "<f4"), ("first", "<i4")):
            object.__setattr__(self, name, _fixed(getattr(self, name), dtype))
        object.__setattr__(self, "weights", tuple(_fixed(one, "<u4") for one in self.weights))
        channels = len(self.weights)
        if not channels or any(
            one.shape != (channels,) for one in (self.medians, self.steps, self.first)
        ):
            raise DataError(
                f"Tables of {channels} channels need as many medians, steps and first symbols, "
                f"one or more; there are {self.medians.shape}, {self.steps.shape}, "
                f"{self.first.shape}."
            )
        if not packing.fits(self.weights):
            raise DataError(
                f"Tables of {channels:,} channels with {sum(map(len, self.weights)):,} symbols in "
                f"all are too large to be stored: there are {packing.MOST_CHANNELS:,} channels and "
                "about 16 million symbols at most. Take wider steps."
            )
        if not (np.isfinite(self.medians).all() and np.isfinite(self.steps).all()):
            raise DataError("Medians and steps of tables must be finite.")
        for channel, (first, step, one) in enumerate(
            zip(self.first, self.steps, self.weights, strict=True)
        ):
            if (
                one.ndim != 1
                or not 2 <= len(one) <= WIDEST + 1
                or one.min() < 1
                or int(one.sum(dtype=np.uint64)) != _WHOLE
                or not first <= 0 < first + len(one) - 1
                or not step > 0
            ):
                raise DataError(
                    f"The table of channel {channel} cannot be: it has {one.size} weights, from "
                    f"the symbol {first} on, with step {step}. There are 2 to {WIDEST + 1} "
                    f"weights of 1 or more that add to 2**{PRECISION}, one is that of the symbol "
                    "0, and steps are above 0."
                )

    @classmethod
    def from_probabilities(
        cls,
        probabilities: Sequence[ArrayLike],
        first: ArrayLike,
        medians: ArrayLike,
        steps: ArrayLike | float = 1.0,
    ) -> Tables:
        """Round probabilities to integers; what they lack to 1 is the escape's.

        >>> Tables.from_probabilities([[0.25, 0.5, 0.25]], first=[-1], medians=[0.0]).weights[0]
        array([4194304, 8388607, 4194304,       1], dtype=uint32)

        Parameters
        ----------
        probabilities
            C lists: of the symbols ``first[c]`` and on. Each symbol gets a weight of 1 at least.

        Raises
        ------
        DataError
            For probabilities that are negative, not finite or nothing, and as `Tables`.
        """
        weights = []
        for channel, given in enumerate(probabilities):
            p = np.append(np.asarray(given, np.float64), 0.0)
            if not (np.isfinite(p).all() and p.min() >= 0 and p.sum() > 0):
                raise DataError(
                    f"The probabilities of channel {channel} are negative or no numbers."
                )
            p[-1] = max(0.0, 1.0 - p.sum())
            w = 1 + np.floor(p / p.sum() * (_WHOLE - len(p))).astype(np.int64)
            w[np.argmax(w)] += _WHOLE - w.sum()
            weights.append(w)
        return cls(medians, np.broadcast_to(steps, len(weights)), first, tuple(weights))

    @classmethod
    def fit(cls, values: ArrayLike, steps: ArrayLike | float = 1.0) -> Tables:
        """Count how often each symbol is in values: tables for embeddings without a learned prior.

        >>> Tables.fit([[0.0], [0.0], [1.0]]).first
        array([0], dtype=int32)

        Each symbol between the least and the largest, and the escape, gets half a count more
        (Krichevsky and Trofimov).

        Parameters
        ----------
        values
            ``(..., C)``; NaN in all channels of a token: it is left out.
        steps
            Width of a symbol in the values' unit, one or ``(C,)``.

        Raises
        ------
        DataError
            For no values at all, NaN in some channels, infinite values; steps that are not above 0,
            or not one a channel.
        """
        tokens, _ = _tokens(values, missing=True)
        if not tokens.size:
            raise DataError("There are no values to make tables of.")
        medians, steps = np.median(tokens, axis=0).astype(np.float32), np.asarray(steps, np.float32)
        if steps.shape not in ((), medians.shape) or not (steps > 0).all():
            raise DataError(f"steps are {steps}: one above 0, or {len(medians)}, one a channel.")
        steps = np.broadcast_to(steps, medians.shape)
        symbols = _symbols(tokens, medians, steps)
        half = WIDEST // 2 - 1
        probabilities, first = [], []
        for column in symbols.T:
            inside = column[np.abs(column) <= half].astype(np.int64)
            low, high = min(inside.min(initial=0), 0), max(inside.max(initial=0), 0)
            counts = np.bincount(inside - low, minlength=high - low + 1) + 0.5
            probabilities.append(counts / (counts.sum() + len(column) - len(inside) + 0.5))
            first.append(low)
        return cls.from_probabilities(probabilities, first, medians, steps)

    # Encoding and decoding.

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.weights)

    def encode(self, values: ArrayLike, *, missing: bool = False) -> bytes:
        """Make a stream of values ``(..., C)``, which `decode` turns into what `quantise` gives.

        Parameters
        ----------
        missing
            Take tokens that are NaN in all channels: they cost next to nothing, and come back as
            NaN.

        Raises
        ------
        DataError
            For another number of channels; NaN (but see `missing`) or infinite values, and values
            so large that float32 does not hold them as a symbol.
        """
        values = np.asarray(values)
        tokens, there = self._checked(values, missing)
        index, symbols = self._index(tokens)
        coder = coding().stack.AnsCoder()
        escaped = symbols[index == self._counts[:, None]]
        if escaped.size:
            push_escaped(coder, escaped)
        for row, model in zip(index[::-1], self._models[::-1], strict=True):
            coder.encode_reverse(row, model)
        words = coder.get_compressed().astype("<u4").tobytes()
        return framing.pack(values.shape[:-1], there, words, self._seed)

    def decode(
        self, stream: bytes, *, shape: tuple[int, ...] | None = None, limit: int = _LIMIT
    ) -> NDArray[np.float32]:
        """Give the values ``(..., C)`` of a stream, float32, rounded as `quantise` does.

        Parameters
        ----------
        shape
            What the values must have; another one in the stream is an error.
        limit
            Elements that are decoded at most, whatever the stream says of itself.

        Raises
        ------
        CorruptStream
            For a stream that is damaged, that was made with other tables, or that asks for more
            than `limit`.
        """
        if shape is not None and shape[-1:] != (self.channels,):
            raise DataError(f"These tables are of {self.channels} channels, not of {shape}.")
        leading = None if shape is None else shape[:-1]
        packed = framing.unpack(stream, leading, limit // self.channels, self._seed)
        tokens = self._decoded(packed.count, packed.words)
        if packed.there is not None:
            found = np.full((packed.there.size, self.channels), np.nan, np.float32)
            found[packed.there] = tokens
            tokens = found
        return tokens.reshape(*packed.shape, self.channels)

    def count(self, stream: bytes, *, limit: int = _LIMIT) -> int:
        """Count the tokens that a stream holds values of, without decoding them.

        >>> tables = Tables.fit([[0.0], [1.0]])
        >>> tables.count(tables.encode([[1.0], [float("nan")]], missing=True))
        1

        Raises
        ------
        CorruptStream
            As `decode`.
        """
        return framing.unpack(stream, None, limit // self.channels, self._seed).count

    def quantise(self, values: ArrayLike) -> NDArray[np.float32]:
        """Give what ``decode(encode(values))`` would.

        >>> Tables.fit([[0.0], [2.0], [0.2]], steps=0.5).quantise([[1.9]])
        array([[1.7]], dtype=float32)
        """
        values = np.asarray(values)
        tokens, there = self._checked(values, missing=True)
        found = np.full((there.size, self.channels), np.nan, np.float32)
        found[there] = self._values(_symbols(tokens, self.medians, self.steps))
        return found.reshape(values.shape)

    def information(self, values: ArrayLike) -> float:
        """Count the bits that values hold by the tables: -log2 of each symbol's share, escapes too.

        What follows an escape is counted as `geowb.nec.escapes` codes it.
        """
        index, symbols = self._index(self._checked(np.asarray(values), missing=True)[0])
        bits = PRECISION - np.log2(np.concatenate(self.weights))
        escaped = symbols[index == self._counts[:, None]]
        return float(bits[index + self._starts[:, None]].sum()) + escaped_bits(escaped)

    def _checked(
        self, values: np.ndarray, missing: bool
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        if values.ndim < 1 or values.shape[-1] != self.channels:
            raise DataError(
                f"These tables are of {self.channels} channels, which come last; the values are "
                f"{values.shape}."
            )
        return _tokens(values, missing)

    def _index(self, tokens: NDArray) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Give the place of each value in its table, and the symbols, both ``(C, tokens)``."""
        symbols = np.ascontiguousarray(_symbols(tokens, self.medians, self.steps).T)
        ends = symbols[:, :0] if not symbols.size else np.stack((symbols.min(1), symbols.max(1)), 1)
        if not np.isfinite(self._values(ends.T)).all():
            raise DataError("A value is too large: as a symbol it is not one of float32.")
        index = symbols - self.first[:, None].astype(np.float32)
        counts = self._counts[:, None]
        outside = (index < 0) | (index >= counts)
        return np.where(outside, counts, index).astype(np.int32), symbols

    def _values(self, symbols: NDArray[np.float32]) -> NDArray[np.float32]:
        # Two steps, so that no processor rounds once where another does twice.
        with np.errstate(over="ignore"):
            scaled = symbols * self.steps
            return scaled + self.medians

    def _decoded(self, count: int, words: bytes) -> NDArray[np.float32]:
        numbers = np.frombuffer(words, "<u4").astype(np.uint32)
        try:
            coder = coding().stack.AnsCoder(numbers)
        except ValueError as error:  # a zero at the end
            raise CorruptStream(f"The stream is no entropy-coded one: {error}") from error
        symbols = np.empty((self.channels, count), np.float32)
        index = np.empty((self.channels, count), np.int32)
        if count:
            for row, model in zip(index, self._models, strict=True):
                row[:] = coder.decode(model, count)
        np.add(index, self.first[:, None], out=symbols)
        escaped = index == self._counts[:, None]
        if number := int(np.count_nonzero(escaped)):
            symbols[escaped] = pop_escaped(coder, number)
        if not coder.is_empty():
            raise CorruptStream("The stream is longer than what it holds.")
        values = self._values(np.ascontiguousarray(symbols.T))
        if number and not np.isfinite(values).all():
            raise CorruptStream("The stream holds a symbol that is no value of float32.")
        return values

    @cached_property
    def _counts(self) -> NDArray[np.int32]:
        """Symbols of each table; also the place of its escape."""
        return np.array([len(one) - 1 for one in self.weights], np.int32)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.concatenate(([0], np.cumsum(self._counts + 1, dtype=np.int64)[:-1]))

    @cached_property
    def _models(self) -> list[Any]:
        # The coder gives each symbol 1 and shares out the rest by its probability. Of the weights
        # less 1, which add to all that it shares out, nothing is rounded: float32 holds them.
        categorical = coding().model.Categorical
        return [categorical((one - 1).astype(np.float32), perfect=False) for one in self.weights]

    # As bytes.

    @cached_property
    def _raw(self) -> bytes:
        return packing.laid_out(self.medians, self.steps, self.first, self.weights)

    @cached_property
    def sha256(self) -> str:
        """Digest of what is in the tables."""
        return hashlib.sha256(self._raw).hexdigest()

    @property
    def _seed(self) -> int:
        """What checksums begin with, so that a stream fits its own tables only."""
        return int(self.sha256[:8], 16)

    def to_bytes(self) -> bytes:
        """Pack the tables; `from_bytes` reads them.

        >>> len(Tables.fit([[0.0], [1.0]]).to_bytes()) < 100
        True
        """
        return packing.pack(self._raw)

    @classmethod
    def from_bytes(cls, packed: bytes) -> Tables:
        """Read packed tables.

        Raises
        ------
        CorruptStream
            If they are damaged, or of another format.
        """
        parts = packing.unpack(packed)
        try:
            return cls(*parts)
        except DataError as error:
            raise packing.damaged(error) from error

    def __reduce__(self) -> tuple:
        return Tables.from_bytes, (self.to_bytes(),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tables) and self.sha256 == other.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)

    def __repr__(self) -> str:
        symbols = f"{self._counts.min()} to {self._counts.max()} symbols"
        return f"<Tables of {self.channels} channels, {symbols}, {self.sha256[:12]}>"


def _fixed(values: ArrayLike, dtype: str) -> np.ndarray:
    """Copy what is given into an array that nobody changes."""
    given = np.asarray(values)
    fixed = np.array(given, dtype, order="C")
    if fixed.dtype.kind != "f" and given.size and not np.array_equal(fixed, given):
        raise DataError(f"Numbers of a table are whole and of 32 bits: {given!r}.")
    fixed.flags.writeable = False
    return fixed


def _tokens(values: ArrayLike, missing: bool) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Lay values out as ``(tokens, C)`` float32; say which tokens are there."""
    values = np.asarray(values)
    with np.errstate(over="ignore"):
        tokens = values.reshape(-1, values.shape[-1] if values.ndim else 1).astype(np.float32)
    finite = np.isfinite(tokens)
    there = np.ones(len(tokens), bool)
    if finite.all():
        return tokens, there
    if missing:
        there = ~np.isnan(tokens).all(axis=1)
        tokens, finite = tokens[there], finite[there]
    if not finite.all():
        token, channel = np.argwhere(~finite)[0]
        place = int(np.flatnonzero(there)[token])
        hint = "" if missing else " (missing=True takes tokens that are NaN as a whole)"
        raise DataError(
            f"The value of token {place}, channel {channel} is {tokens[token, channel]}: only "
            f"finite numbers can be compressed{hint}."
        )
    return tokens, there


def _symbols(
    tokens: NDArray[np.float32], medians: NDArray[np.float32], steps: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Round to whole steps from the median, ``(tokens, C)``, as float32 that are whole numbers."""
    with np.errstate(over="ignore"):
        symbols = np.rint((tokens - medians) / steps)
    if not np.isfinite(symbols).all():
        raise DataError("A value is too large: it is no number of steps that float32 holds.")
    return symbols
