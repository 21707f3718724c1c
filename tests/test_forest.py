"""The forest on single pixels: what it can learn, where it maps it, and what it refuses."""

import numpy as np
import pytest
import xarray as xr

from geowb.chips import cut
from geowb.errors import DataError
from geowb.forest import fit_forest

RNG = np.random.default_rng(0)
NAMES = {"flag_meanings": "dry water"}


def scene(dates=2, size=32):
    """A scene whose class is told by the order of two dates in one band, and by nothing else."""
    image = RNG.uniform(1000, 2000, (dates, 2, size, size)).astype(np.float32)
    truth = (image[0, 1] > image[1, 1]).astype(np.int16)
    return xr.Dataset(
        {
            "reflectance": (("time", "band", "y", "x"), image),
            "flood": (("y", "x"), truth, NAMES),
        },
        coords={"y": np.arange(size) * -30.0, "x": np.arange(size) * 30.0},
    )


def test_it_learns_from_all_bands_and_dates_and_maps_the_labels_grid():
    scenes = {"a": scene(size=96)}
    forest = fit_forest(scenes, cut(scenes, 16, label="flood"), label="flood", seed=0)
    assert forest.forest.n_features_in_ == 4
    other = scene()
    made = forest.maps({"b": other.transpose("band", "x", "time", "y")})["b"]
    assert (made == other.flood).mean() > 0.9  # bands and dates swapped it is 0.5
    assert made.attrs == NAMES
    assert made.x.equals(other.x)


def test_the_seed_is_all_that_is_drawn():
    scenes = {"a": scene()}
    chips = cut(scenes, 16, label="flood")
    first, again, third = (
        fit_forest(scenes, chips, label="flood", pixels=200, trees=5, seed=seed).maps(scenes)["a"]
        for seed in (1, 1, 2)
    )
    assert first.equals(again)
    assert not first.equals(third)


def test_unlabelled_pixels_are_left_out_and_gaps_are_no_error():
    one = scene()
    one.flood[:16] = -1
    one.reflectance[0, 0, 16:, :4] = np.nan
    chips = cut({"a": one}, 16, label="flood")
    made = fit_forest({"a": one}, chips, label="flood").maps({"a": one})["a"]
    assert set(np.unique(made)) == {0, 1}
    one.flood[:] = -1
    with pytest.raises(DataError, match="No pixel of the 4 chips has a 'flood'"):
        fit_forest({"a": one}, chips, label="flood")


def test_a_set_of_samples_gives_a_map_a_sample():
    one = scene()
    many = xr.concat([one, one.isel(x=slice(None, None, -1)).assign_coords(x=one.x)], "sample")
    forest = fit_forest({"a": one}, cut({"a": one}, 16, label="flood"), label="flood")
    made = forest.maps({"s": many})["s"]
    assert made.dims == ("sample", "y", "x")
    assert np.array_equal(made[1], made[0, :, ::-1])
