"""What compressed embeddings are held against: zstd, JPEG 2000, uniform quantisation, rounding."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from geowb.errors import CorruptStream, DataError, RequestError
from geowb.nec import baselines, sending
from geowb.nec.baselines import Uniform, coded, from_jpeg2000, jpeg2000, packed, unpacked

RNG = np.random.default_rng(0)


def picture(size=64, dtype="uint16", top=3000):
    """A smooth image with an edge, three bands."""
    y, x = np.mgrid[:size, :size] / size
    planes = [np.sin(3 * x + k) * np.cos(4 * y) + (x + y > 1) for k in range(3)]
    image = np.stack(planes) - np.min(planes)
    return (top * image / image.max()).astype(dtype)


def rmse(a, b):
    return float(np.sqrt(np.mean((a.astype(float) - b.astype(float)) ** 2)))


@settings(max_examples=25, deadline=None)
@given(arrays("uint16", st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))))
def test_packing_loses_nothing(values):
    again = unpacked(packed(values), "uint16", values.shape)
    assert again.dtype == values.dtype
    assert np.array_equal(again, values)


def test_bit_shuffling_makes_few_bits_cost_few_bits():
    codes = RNG.integers(0, 4, 2**16).astype("uint8")  # two bits of entropy, eight of storage
    assert 2**14 <= len(packed(codes)) < 1.02 * 2**14


def test_a_damaged_package_is_told():
    stream = packed(picture())
    with pytest.raises(CorruptStream, match="are no uint16 of"):
        unpacked(stream[:-5], "uint16", (3, 64, 64))
    with pytest.raises(CorruptStream, match="are no uint16 of"):
        unpacked(stream, "uint16", (3, 64, 65))
    with pytest.raises(CorruptStream, match="no JPEG 2000"):
        from_jpeg2000(b"not a picture")


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_jpeg2000_keeps_to_its_bytes_and_more_bytes_are_better(dtype):
    image = picture(128, dtype, 250 if dtype == "uint8" else 9000)
    sizes, errors = (300, 600, 1500, 6000), []
    for size in sizes:
        stream = jpeg2000(image, size)
        assert len(stream) <= size
        assert len(stream) > 0.9 * size or size == sizes[-1]  # which is more than there is to say
        assert stream[:4] == b"\xff\x4f\xff\x51"  # a codestream, without a file around it
        made = from_jpeg2000(stream)
        assert (made.shape, made.dtype) == (image.shape, image.dtype)
        errors.append(rmse(made, image))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < image.std() / 2  # GDAL's own choice of resolutions is worse than the mean


def test_jpeg2000_is_no_worse_than_what_gdal_does_by_itself():
    image = picture(128)
    with MemoryFile() as file:
        how = {"width": 128, "height": 128, "count": 3, "dtype": "uint16", "QUALITY": "0.5"}
        with (
            pytest.warns(NotGeoreferencedWarning),
            file.open(driver="JP2OpenJPEG", CODEC="J2K", REVERSIBLE="NO", **how) as data,
        ):
            data.write(image)
        usual = file.read()
    ours = jpeg2000(image, len(usual))
    assert rmse(from_jpeg2000(ours), image) < 0.7 * rmse(from_jpeg2000(usual), image)


def test_a_large_budget_takes_the_best_there_is():
    rows, columns = np.mgrid[:64, :64] / 64
    image = 3000 + 900 * np.stack([np.sin(5 * rows), np.cos(7 * columns), rows * columns])
    image = image.round().astype("uint16")
    sizes = [3000, 8192, 13312, 20000]
    made = [jpeg2000(image, size) for size in sizes]
    errors = [rmse(from_jpeg2000(stream), image) for stream in made]
    assert all(len(stream) <= size for stream, size in zip(made, sizes, strict=True))
    assert errors == sorted(errors, reverse=True)
    assert made[-1] == coded(image, 100)
    noise = np.random.default_rng(0).integers(0, 256, (3, 64, 64)).astype("uint8")
    assert len(coded(noise, 100)) > noise.nbytes  # nothing can be packed
    stream = jpeg2000(noise, noise.nbytes + 50)
    assert 0.9 * noise.nbytes < len(stream) <= noise.nbytes + 50
    assert rmse(from_jpeg2000(stream), noise) < 5


def test_a_step_in_the_size_is_got_over(monkeypatch):
    """As an image of a simulated scene has one: 1,230 bytes where 1,229 are allowed, then fewer."""

    def steps(image, quality):
        return bytes(1230 if 1.2 < quality < 2 else int(900 * quality))

    monkeypatch.setattr(baselines, "coded", steps)
    found = baselines.quality_for(np.zeros((3, 128, 128), "uint16"), 1229)
    assert 0.9 < found <= 1.2


def test_jpeg2000_refuses_what_it_cannot_do():
    with pytest.raises(RequestError, match="even its smallest codestream has"):
        jpeg2000(picture(), 60)
    with pytest.raises(RequestError, match="not float32"):
        jpeg2000(picture().astype("float32"), 600)


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 8, 12])
@pytest.mark.parametrize("channels", [True, False])
def test_uniform_quantisation_is_right_to_half_a_step(bits, channels):
    values = (RNG.normal(size=(40, 6)) * [1, 2, 3, 4, 5, 60]).astype("float32")
    uniform = Uniform.fit(values, bits, channels=channels)
    made = uniform.decode(uniform.encode(values), values.shape)
    steps = (uniform.high - uniform.low) / (2**bits - 1)
    assert (np.abs(made - values) <= steps / 2 + 1e-5).all()
    assert len(np.unique(made[:, 0])) <= 2**bits
    assert uniform.side == (8 * 6 if channels else 8)


def test_what_is_beyond_the_range_is_sent_as_its_end():
    uniform = Uniform.fit(np.array([[0.0], [1.0]]), 3)
    made = uniform.decode(uniform.encode(np.array([[-5.0], [7.0]])), (2, 1))
    assert made.ravel().tolist() == [0.0, 1.0]
    constant = Uniform.fit(np.full((4, 2), 3.0), 2)
    assert constant.decode(constant.encode(np.full((4, 2), 3.0)), (4, 2)).tolist() == [[3, 3]] * 4
    with pytest.raises(RequestError, match="Quantisation to 0 bits"):
        Uniform.fit(np.zeros((2, 2)), 0)


def test_rounding_costs_what_the_entropy_of_its_symbols_is():
    values = RNG.normal(size=(8, 16, 16, 32)).astype("float32")
    sent = sending.by_rounding(values, step=1.0)
    # The entropy of a normal variable in steps of its standard deviation.
    edges = [0.5 * math.erfc(-(k - 0.5) / math.sqrt(2)) for k in range(-8, 10)]
    p = np.diff(edges)
    expected = -(p[p > 0] * np.log2(p[p > 0])).sum()
    streams = 8 * sent.sizes.mean() / sent.tokens[0].size
    assert streams == pytest.approx(expected, rel=0.02)
    assert sent.bits_per_element == streams + 8 * sent.shared / sent.tokens.size
    assert np.abs(sent.tokens - values).max() <= 0.5 * values.std() * 1.02
    apart = sending.by_rounding(values + np.arange(values.shape[-1], dtype="float32"), step=1.0)
    assert apart.sizes == pytest.approx(
        sent.sizes, rel=0.01
    )  # steps are of the spread in a channel
    finer = sending.by_rounding(values, step=0.5)
    assert finer.size > sent.size
    assert rmse(finer.tokens, values) < rmse(sent.tokens, values)


def test_sizes_count_what_is_sent_once():
    values = RNG.normal(size=(5, 8, 8, 16)).astype("float32")
    half = sending.by_float16(values)
    assert half.shared == 0
    assert np.array_equal(half.tokens, values.astype("float16").astype("float32"))
    uniform = sending.by_uniform(values, 3)
    assert uniform.size == uniform.sizes.mean() + 8 / 5
    assert uniform.kib == uniform.size / 1024
    assert uniform.bits_per_element == 8 * uniform.size / (8 * 8 * 16)
    assert uniform.without_tokens().size == uniform.size
    assert uniform.without_tokens().tokens.base is None  # no view of what is let go of


class Like:
    """An encoder's statistics."""

    def __init__(self):
        import torch

        self.mean, self.std = torch.tensor([1000.0, 500.0]), torch.tensor([200.0, 100.0])


def test_photographs_are_brought_to_the_encoders_mean_and_spread():
    values = RNG.integers(0, 256, (6, 2, 8, 8)).astype("float32")
    images = sending.Images.of(values, Like())
    assert (images.pixels.dtype, images.raw) == ("uint8", 2 * 8 * 8)
    given = images.tensor(slice(None)).numpy()
    assert given.shape == (6, 2, 1, 8, 8)
    assert given.mean((0, 2, 3, 4)) == pytest.approx([1000, 500], rel=1e-5)
    assert given.std((0, 2, 3, 4)) == pytest.approx([200, 100], rel=1e-4)
    some = sending.Images.of(values, Like(), rows=[0, 1]).tensor(slice(2)).numpy()
    assert some.mean((0, 2, 3, 4)) == pytest.approx([1000, 500], rel=1e-5)


def test_reflectance_stays_as_it_is():
    values = RNG.integers(0, 4000, (3, 2, 8, 8)).astype("float32")
    values[0, 0, 0, 0] = -7  # below nothing, as HLS has it over water
    images = sending.Images.of(values, Like())
    assert (images.pixels.dtype, images.raw) == ("uint16", 2 * 2 * 8 * 8)
    assert np.array_equal(images.tensor(slice(None)).numpy()[:, :, 0], values.clip(0))


def test_images_with_holes_or_huge_values_are_refused():
    values = np.ones((3, 2, 8, 8), "float32")
    values[1, 0, 2, 2] = np.nan
    with pytest.raises(DataError, match="1 of 3 images have pixels without data"):
        sending.Images.of(values, Like())
    with pytest.raises(DataError, match="have the value 70000; 65,535 is the largest"):
        sending.Images.of(np.full((1, 2, 8, 8), 70000.0), Like())
