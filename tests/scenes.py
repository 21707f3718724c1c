"""Tiny scenes made for the tests."""

import numpy as np
import xarray as xr

from geowb.bands import HLS6


def scene(height=64, width=64, dates=1, *, density=0.02, seed=0, slope=0.02):
    """A scene whose biomass is a linear function of its red band, with sparse labels."""
    import rioxarray  # noqa: F401

    rng = np.random.default_rng(seed)
    counts = rng.uniform(200, 4000, (dates, 6, height, width)).astype("float32").round()
    truth = (slope * counts[:, 2].mean(0)).astype("float32")
    labelled = rng.random((height, width)) < density
    times = np.datetime64("2022-06-01", "ns") + np.arange(dates) * np.timedelta64(16, "D")
    dataset = xr.Dataset(
        {
            "reflectance": (("time", "band", "y", "x"), counts),
            "agb": (("y", "x"), np.where(labelled, truth, np.nan), {"units": "Mg/ha"}),
            "agb_dense": (("y", "x"), truth, {"units": "Mg/ha"}),
        },
        coords={
            "time": times,
            "band": list(HLS6),
            "y": 7_000_000 - 30 * (np.arange(height) + 0.5),
            "x": 500_000 + 30 * (np.arange(width) + 0.5),
        },
    )
    return dataset.rio.write_crs(32722).rio.write_transform()
