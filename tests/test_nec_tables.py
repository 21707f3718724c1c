"""Tables and streams: exact, small, safe, and readable by a decoder that shares no code."""

from __future__ import annotations

import math
import pickle
import resource
import struct
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from geowb.errors import CorruptStream, DataError, RequestError
from geowb.nec import Tables


def fixed_tables() -> Tables:
    """Tables of whole numbers alone, the same on every machine."""
    weights = ([2**24 - 7, 4, 3], [2**23, 2**22, 2**21, 2**20, 2**20], [2**24 - 1, 1])
    return Tables([0.0, 0.5, -3.0], [1.0, 0.25, 2.0], [0, -2, 0], weights)


def laplacian(rng, tokens=197, channels=64):
    return rng.laplace(size=(tokens, channels)) * np.geomspace(0.02, 8, channels)


@pytest.fixture(scope="module")
def tables() -> Tables:
    return Tables.fit(laplacian(np.random.default_rng(1), 4000))


def python_decode(tables: Tables, stream: bytes) -> np.ndarray:
    """Read a stream by its description alone: range ANS of 32-bit words, 24 bits of precision."""
    assert (
        zlib.crc32(stream[:-4], int(tables.sha256[:8], 16)) == struct.unpack("<I", stream[-4:])[0]
    )
    body, at = stream[:-4], 1
    assert body[0] >> 4 == 1

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte, at = body[at], at + 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    shape = [number() for _ in range(body[0] >> 1 & 7)]
    count, there = math.prod(shape), None
    if body[0] & 1:
        length = number()
        bits = zlib.decompress(body[at : at + length])
        there = [bits[i // 8] >> (7 - i % 8) & 1 for i in range(count)]
        at += length
        count = sum(there)
    words = list(struct.unpack(f"<{len(body[at:]) // 4}I", body[at:]))
    state = 0

    def refill():
        nonlocal state
        if state < 2**32 and words:
            state = state << 32 | words.pop()

    refill(), refill()

    def symbol(weights, precision=24):
        nonlocal state
        below, rest = 0, state % 2**precision
        for index, weight in enumerate(weights):
            if rest < below + weight:
                state = (state >> precision) * weight + rest - below
                refill()
                return index
            below += weight
        raise AssertionError

    def uniform(size):
        """Equal shares of 2 ** 24; the last symbol gets what is left over."""
        nonlocal state
        each, rest = 2**24 // size, state % 2**24
        index = min(rest // each, size - 1)
        weight = each if index < size - 1 else 2**24 - each * (size - 1)
        state = (state >> 24) * weight + rest - index * each
        refill()
        return index

    heads = [max(1, 2 ** (21 - e // 2) if e < 44 else 1) for e in range(128) for _ in (0, 1)]
    heads[0] += (2**24 - sum(heads)) // 2
    heads[1] += 2**24 - sum(heads)
    lists = [one.tolist() for one in tables.weights]
    index = [[symbol(weights) for _ in range(count)] for weights in lists]
    escapes = [(c, t) for c in range(len(lists)) for t in range(count)
               if index[c][t] == len(lists[c]) - 1]  # fmt: skip
    found = [symbol(heads) for _ in escapes]
    values = np.empty((count, len(lists)), np.float32)
    for c, first in enumerate(tables.first.tolist()):
        values[:, c] = [first + i for i in index[c]]
    for (c, t), head in zip(escapes, found, strict=True):
        bits = min(head >> 1, 23)
        fraction = uniform(2**bits) if bits else 0
        whole = (2**bits + fraction) * 2 ** ((head >> 1) - bits)
        values[t, c] = -whole if head & 1 else whole
    assert not state
    assert not words
    values = values * tables.steps + tables.medians
    if there is not None:
        every = np.full((len(there), values.shape[1]), np.nan, np.float32)
        every[np.array(there, bool)] = values
        values = every
    return values.reshape(*shape, len(lists))


CASES = {
    "usual": lambda rng: laplacian(rng),
    "constant": lambda rng: np.zeros((197, 64)),
    "constant and unlikely": lambda rng: np.full((50, 64), 3000.5),
    "huge outliers": lambda rng: np.where(
        rng.random((50, 64)) < 0.3, rng.normal(size=(50, 64)) * 1e30, 0
    ),
    "empty": lambda rng: np.zeros((0, 64)),
    "one token": lambda rng: laplacian(rng, 1),
    "no tokens' dim": lambda rng: laplacian(rng, 1)[0],
    "four dims": lambda rng: laplacian(rng, 24).reshape(2, 3, 4, 64),
    "largest float": lambda rng: np.full((3, 64), np.finfo(np.float32).max),
}


@pytest.mark.parametrize("case", CASES)
def test_streams_are_exact_and_as_small_as_the_tables_say(tables, case):
    values = CASES[case](np.random.default_rng(0))
    stream = tables.encode(values)
    found = tables.decode(stream)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, tables.quantise(values))
    assert found.shape == values.shape
    information = tables.information(values) / 8
    assert information <= len(stream) <= 1.001 * information + 16


def test_values_are_rounded_about_the_median(tables):
    values = laplacian(np.random.default_rng(2))
    found = tables.quantise(values)
    assert np.abs(found - values).max() <= 0.5 + 1e-5
    np.testing.assert_allclose(
        found, np.round(values - tables.medians) + tables.medians, rtol=0, atol=1e-5
    )
    steps = Tables.fit(values, steps=np.geomspace(0.01, 1, 64))
    assert (np.abs(steps.quantise(values) - values) <= 0.5001 * steps.steps).all()


def test_information_is_that_of_the_symbols():
    tables = fixed_tables()
    values = tables.quantise([[0.0, 0.5, -3.0], [1.0, 0.0, -3.0]])
    bits = 24 - np.log2([2**24 - 7, 2**21, 2**24 - 1, 4, 2**23, 2**24 - 1])
    assert tables.information(values) == pytest.approx(bits.sum(), abs=1e-9)
    escaped = tables.quantise([[2.0, 0.5, -3.0]])  # 2 is 1.0 x 2: one bit of fraction
    head = 24 - math.log2(2**21)
    assert tables.information(escaped) == pytest.approx(
        (24 - np.log2([3, 2**21, 2**24 - 1])).sum() + head + 1, abs=1e-9
    )


@pytest.mark.parametrize("case", [name for name in CASES if name != "usual"])
def test_a_decoder_by_the_description_alone_reads_the_same(tables, case):
    values = CASES[case](np.random.default_rng(3))
    np.testing.assert_array_equal(
        python_decode(tables, tables.encode(values)), tables.quantise(values)
    )


def test_a_stream_is_the_same_everywhere():
    """Bytes of a stream that was written once: a change of them makes archives unreadable."""
    tables = fixed_tables()
    symbols = np.arange(60).reshape(20, 3) % [2, 7, 3] - [0, 2, 1]
    values = (symbols * tables.steps + tables.medians).astype(np.float32)
    values[17, 1] = 1e9
    values = values.reshape(4, 5, 3)
    assert tables.sha256[:16] == "31ab8303cfdef696"
    assert tables.encode(values).hex() == GOLDEN
    np.testing.assert_array_equal(tables.decode(bytes.fromhex(GOLDEN)), values)


GOLDEN = (
    "140405e801014d7ac1163056fb4f2cf1e44024ffffffffffffffffffffffffffffffffffffffffff"
    "fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffbfd"
    "fefffde2a697d8082808942b474407991921a943084ec1474480c216603804184e00290b000000e7"
    "b6dc81"
)


def test_missing_tokens_come_back_and_cost_little(tables):
    values = laplacian(np.random.default_rng(4), 256).reshape(16, 16, 64)
    whole = len(tables.encode(values))
    values[:4] = np.nan
    stream = tables.encode(values, missing=True)
    np.testing.assert_array_equal(tables.decode(stream), tables.quantise(values))
    assert np.isnan(tables.decode(stream)[:4]).all()
    assert len(stream) < 0.8 * whole
    nothing = tables.encode(np.full((64, 64), np.nan), missing=True)
    assert len(nothing) < 30
    assert np.isnan(tables.decode(nothing)).all()


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (np.zeros((3, 63)), "of 64 channels"),
        (np.float32(1), "of 64 channels"),
        (np.where(np.eye(3, 64) > 0, np.inf, 0), "token 0, channel 0 is inf"),
        (np.full((2, 64), np.nan), "missing=True"),
        (np.full((2, 64), 1e39), "inf"),
        (np.zeros((1,) * 8 + (64,)), "9 dims"),
    ],
)
def test_what_cannot_be_compressed_is_refused(tables, values, told):
    with pytest.raises(DataError, match=told):
        tables.encode(values)


def test_some_channels_missing_are_refused(tables):
    values = np.zeros((5, 64))
    values[3, 9] = np.nan
    with pytest.raises(DataError, match="token 3, channel 9 is nan"):
        tables.encode(values, missing=True)


def test_too_large_for_its_step_is_refused():
    tables = Tables.fit(np.zeros((4, 2)), steps=1e-30)
    with pytest.raises(DataError, match="too large"):
        tables.encode([[1e20, 0.0]])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"weights": ([2**24],)}, "channel 0"),
        ({"weights": ([2**24 - 2, 1],)}, "channel 0"),
        ({"weights": ([2**24, 0],)}, "channel 0"),
        ({"weights": ([2**24 - 1, 1], [2**24 - 1, 1])}, "2 channels"),
        ({"first": [1]}, "channel 0"),
        ({"first": [-1]}, "channel 0"),
        ({"first": [0.5]}, "whole"),
        ({"steps": [0.0]}, "channel 0"),
        ({"steps": [np.nan]}, "finite"),
        ({"medians": [np.inf]}, "finite"),
    ],
)
def test_tables_that_cannot_be_are_refused(change, told):
    good = {"medians": [0.0], "steps": [1.0], "first": [0], "weights": ([2**24 - 1, 1],)}
    assert Tables(**good).channels == 1
    with pytest.raises(DataError, match=told):
        Tables(**{**good, **change})


def test_tables_that_could_not_be_read_again_are_not_made():
    spread = np.zeros((3, 300))
    spread[1:] = [[3], [-3]]
    with pytest.raises(DataError, match=r"too large to be stored.*wider steps"):
        Tables.fit(spread, steps=1e-4)
    largest = Tables.fit(spread[:, :270], steps=1e-4)  # 60,002 weights each: 65 million bytes
    assert Tables.from_bytes(largest.to_bytes()).sha256 == largest.sha256
    with pytest.raises(DataError, match="65,537 channels"):
        Tables.fit(np.zeros((1, 2**16 + 1)))


def test_a_missing_coder_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(RequestError, match="pip install 'constriction"):
        fixed_tables().encode([[0.0, 0.5, -3.0]])


def test_nobody_can_change_tables(tables):
    with pytest.raises(ValueError, match="read-only"):
        tables.medians[0] = 1
    given = np.array([2**24 - 1, 1])
    ours = Tables([0.0], [1.0], [0], (given,))
    given[:] = 0
    assert ours.weights[0].tolist() == [2**24 - 1, 1]


def test_probabilities_become_weights():
    p = [np.array([0.1, 0.7, 0.2 - 1e-4]), np.array([1e-30, 1.0])]
    tables = Tables.from_probabilities(p, first=[-1, -1], medians=[0, 0])
    for one, weights in zip(p, tables.weights, strict=True):
        np.testing.assert_allclose(weights[:-1] / 2**24, one, atol=3e-7)
    assert tables.weights[0][-1] == pytest.approx(1e-4 * 2**24, abs=3)
    for bad in ([[np.nan, 1.0]], [[-0.1, 1.0]], [[0.0, 0.0]]):
        with pytest.raises(DataError, match="channel 0"):
            Tables.from_probabilities(bad, first=[0], medians=[0])


def test_counted_tables_are_near_the_entropy_of_the_values():
    rng = np.random.default_rng(5)
    values = rng.integers(-3, 4, size=(20_000, 4)).astype(float)
    tables = Tables.fit(values)
    assert tables.information(values) / values.size == pytest.approx(np.log2(7), abs=2e-3)
    with pytest.raises(DataError, match="no values"):
        Tables.fit(np.zeros((0, 4)))
    for steps in (0, -1.0, np.nan, np.ones(5)):
        with pytest.raises(DataError, match="one above 0, or 4, one a channel"):
            Tables.fit(np.zeros((9, 4)), steps=steps)


def test_packed_tables_come_back_the_same(tables):
    for one in (tables, fixed_tables()):
        again = Tables.from_bytes(one.to_bytes())
        assert again == one
        assert again == pickle.loads(pickle.dumps(one))
        values = one.quantise(np.zeros((2, one.channels)))
        np.testing.assert_array_equal(again.decode(one.encode(values)), values)
    assert tables != fixed_tables()


@given(at=st.integers(0, 10_000), byte=st.integers(1, 255))
@settings(max_examples=150)
def test_damaged_tables_are_refused(at, byte):
    packed = bytearray(fixed_tables().to_bytes())
    packed[at % len(packed)] ^= byte
    try:
        found = Tables.from_bytes(bytes(packed))
    except CorruptStream:
        return
    assert found == fixed_tables()  # a bit of zlib's that means nothing


def test_short_or_foreign_tables_are_refused():
    packed = fixed_tables().to_bytes()
    for part in (b"", packed[:10], packed[:40], packed[:-1], packed + b"x", b"PK" + packed):
        with pytest.raises(CorruptStream):
            Tables.from_bytes(part)


def test_tables_that_unpack_to_gigabytes_are_refused():
    bomb = fixed_tables().to_bytes()[:37] + zlib.compress(bytes(2**28), 9)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CorruptStream):
        Tables.from_bytes(bomb)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_a_stream_of_other_tables_is_refused(tables):
    stream = tables.encode(np.zeros((5, 64)))
    other = Tables.fit(laplacian(np.random.default_rng(9), 500))
    with pytest.raises(CorruptStream, match="other tables"):
        other.decode(stream)


def sealed(body: bytes, tables: Tables) -> bytes:
    """Close a stream with the right checksum, as only someone who means harm would."""
    crc = zlib.crc32(body, int(tables.sha256[:8], 16))
    return body + struct.pack("<I", crc)


def test_what_a_header_asks_for_is_bounded(tables):
    huge = sealed(bytes([0x14]) + b"\xff\xff\xff\xff\x7f" * 2, tables)
    with pytest.raises(CorruptStream, match="tokens"):
        tables.decode(huge)
    stream = tables.encode(np.zeros((100, 64)))
    with pytest.raises(CorruptStream, match="100 tokens; 1 are allowed"):
        tables.decode(stream, limit=100)
    with pytest.raises(CorruptStream, match="expected"):
        tables.decode(stream, shape=(99, 64))
    with pytest.raises(DataError, match="64 channels"):
        tables.decode(stream, shape=(100, 63))
    bits = zlib.compress(bytes(2**24), 9)
    bomb = bytes([0x13, 8]) + bytes([len(bits) & 127 | 128, len(bits) >> 7]) + bits
    with pytest.raises(CorruptStream):
        tables.decode(sealed(bomb, tables))


def test_words_beyond_the_last_symbol_are_refused(tables):
    body = tables.encode(laplacian(np.random.default_rng(0), 5))[:-4]
    assert np.isfinite(tables.decode(sealed(body, tables))).all()
    header, words = body[:2], body[2:]
    with pytest.raises(CorruptStream, match="longer than what it holds"):
        tables.decode(sealed(header + b"\x07\x00\x00\x00" + words, tables))


def test_a_symbol_that_is_no_float_is_refused():
    small = fixed_tables()
    wide = Tables(small.medians, small.steps * 1e20, small.first, small.weights)
    body = small.encode([[1e30, 0.5, -3.0]])[:-4]
    with pytest.raises(CorruptStream, match="no value of float32"):
        wide.decode(sealed(body, wide))


SMALL = Tables.fit(laplacian(np.random.default_rng(6), 500, 7))
STREAMS = [
    SMALL.encode(laplacian(np.random.default_rng(7), tokens, 7) * scale)
    for tokens, scale in ((0, 1), (1, 1), (9, 1), (30, 50), (20, 1e20))
]
HOLED = laplacian(np.random.default_rng(8), 40, 7)
HOLED[::3] = np.nan
STREAMS.append(SMALL.encode(HOLED, missing=True))
RIGHT = [SMALL.decode(stream) for stream in STREAMS]


@given(data=st.data(), which=st.integers(0, len(STREAMS) - 1))
@settings(max_examples=300)
def test_mutated_streams_give_the_right_array_or_an_error(data, which):
    stream = bytearray(STREAMS[which])
    places = data.draw(st.lists(st.integers(0, len(stream) - 1), max_size=4))
    for at in places:
        stream[at] = data.draw(st.integers(0, 255))
    stream = stream[: data.draw(st.integers(0, len(stream))) if data.draw(st.booleans()) else None]
    stream += data.draw(st.binary(max_size=3))
    try:
        found = SMALL.decode(bytes(stream))
    except CorruptStream:
        return
    np.testing.assert_array_equal(found, RIGHT[which])


@given(body=st.binary(max_size=60), first=st.integers(0, 15))
@settings(max_examples=300)
def test_any_bytes_with_a_right_checksum_are_read_or_refused(body, first):
    try:
        found = SMALL.decode(sealed(bytes([0x10 | first]) + body, SMALL), limit=70_000)
    except CorruptStream:
        return
    assert found.shape[-1] == 7
    assert found.size <= 70_000


@given(
    values=hnp.arrays(
        np.float32,
        st.tuples(st.integers(0, 6), st.just(7)),
        elements=st.floats(-(2.0**100), 2.0**100, width=32),
    )
)
@settings(max_examples=200)
def test_any_finite_values_come_back_as_they_were_rounded(values):
    stream = SMALL.encode(values)
    np.testing.assert_array_equal(SMALL.decode(stream), SMALL.quantise(values))
    assert len(stream) <= 1.001 * SMALL.information(values) / 8 + 16
