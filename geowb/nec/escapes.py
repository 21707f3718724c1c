"""Symbols that are in no table: whole numbers of float32, exact.

First come sign and exponent, by a fixed table in which two exponents more are half as likely; then
that part of the fraction that a whole number of this exponent can have: as many bits as the
exponent says, 23 at most. A symbol of 3 takes 4 bits, one of 100 takes 12, one of 1e30 takes 48.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geowb.errors import RequestError

__all__ = ["coding", "escaped_bits", "pop_escaped", "push_escaped"]


def coding() -> Any:
    """Import the entropy coder's module, ``constriction.stream``.

    Raises
    ------
    RequestError
        If it is not installed, which it is not by itself on Linux on ARM.
    """
    try:
        import constriction
    except ModuleNotFoundError as error:
        raise RequestError(
            "The entropy coder is not installed: pip install 'constriction>=0.5,<0.6' (on Linux on "
            "ARM it is built, which needs a Rust compiler)."
        ) from error
    return constriction.stream


@cache
def _weights() -> NDArray[np.int64]:
    """Weights of sign and exponent, ``2 * exponent + sign``, which add to 2 ** 24."""
    weights = np.repeat(np.maximum(1, 2**21 >> np.arange(128) // 2), 2)
    weights[:2] += (2**24 - weights.sum()) // 2
    return weights


@cache
def _heads() -> Any:
    # Exact, as in `geowb.nec.tables`.
    given = (_weights() - 1).astype(np.float32)
    return coding().model.Categorical(given, perfect=False)


def _sizes(exponents: NDArray) -> NDArray[np.int32]:
    """How many bits of a symbol's fraction follow: all that a whole number can have."""
    return np.minimum(exponents, 23).astype(np.int32)


def _split(symbols: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray]:
    """Take whole float32 numbers apart: sign and exponent, fraction, bits of the fraction."""
    bits = np.ascontiguousarray(symbols).view(np.uint32)
    exponents = ((bits >> 23) & 255).astype(np.int32) - 127
    sizes = _sizes(exponents)
    fractions = ((bits & 0x7FFFFF) >> (23 - sizes).astype(np.uint32)).astype(np.int32)
    return exponents * 2 + (bits >> 31).astype(np.int32), fractions, sizes


def escaped_bits(symbols: NDArray[np.float32]) -> float:
    """Count what `push_escaped` adds to a stream, in bits."""
    if not symbols.size:
        return 0.0
    heads, _, sizes = _split(symbols)
    return float((24 - np.log2(_weights()[heads])).sum() + sizes.sum())


def push_escaped(coder: Any, symbols: NDArray[np.float32]) -> None:
    """Put symbols on a coder (constriction's ``AnsCoder``)."""
    uniform = coding().model.Uniform
    heads, fractions, sizes = _split(symbols)
    some = sizes > 0
    if some.any():
        coder.encode_reverse(fractions[some], uniform(), (1 << sizes[some]).astype(np.int32))
    coder.encode_reverse(heads, _heads())


def pop_escaped(coder: Any, count: int) -> NDArray[np.float32]:
    """Take as many symbols from a coder, in the order in which they were given."""
    uniform = coding().model.Uniform
    heads = coder.decode(_heads(), count).astype(np.int32)
    exponents = heads >> 1
    sizes = _sizes(exponents)
    fractions, some = np.zeros(count, np.uint32), sizes > 0
    if some.any():
        fractions[some] = coder.decode(uniform(), (1 << sizes[some]).astype(np.int32))
    bits = (heads & 1).astype(np.uint32) << 31
    bits |= (exponents + 127).astype(np.uint32) << 23
    bits |= fractions << (23 - sizes).astype(np.uint32)
    return bits.view(np.float32)
