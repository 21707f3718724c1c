# ruff: noqa: T201
"""Models and rasters for the tests of prediction, and a program that predicts in its own process.

    python predicting.py SOURCE TARGET [KEY=VALUE ...]

KILL_AT=N in the environment ends it by SIGKILL at the N-th batch.
"""

import json
import os
import signal
import sys

import numpy as np
import rasterio
import torch
from rasterio.transform import from_origin

TRANSFORM = from_origin(500_000, 7_000_000, 30, 30)


class Pixelwise(torch.nn.Module):
    """A value a pixel, from this pixel alone."""

    def forward(self, x):
        return 0.01 * x[:, 2] + torch.sqrt(x[:, 0].abs())


class Constant(torch.nn.Module):
    def forward(self, x):
        return torch.full_like(x[:, :1, 0], 0.1)


class Blur(torch.nn.Module):
    """Sees `radius` pixels far; beyond the edges of what it is given, by reflection."""

    def __init__(self, radius=2, outputs=1):
        super().__init__()
        torch.manual_seed(radius)
        size = 2 * radius + 1
        self.conv = torch.nn.Conv2d(6, outputs, size, padding=radius, padding_mode="reflect")
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        if self.calls == int(os.environ.get("KILL_AT", "0")):
            os.kill(os.getpid(), signal.SIGKILL)
        return self.conv(x[:, :, 0] / 1000)


class Layer(torch.nn.Module):
    """One layer, for scenes of any size."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(6, 1, 1)

    def forward(self, x):
        return self.conv(x[:, :, 0] / 1000)


def raster(path, values, *, crs="EPSG:32722", nodata=None, names=(), block=64, **how):
    """Write a tiled GeoTIFF of ``(band, y, x)``."""
    bands, height, width = values.shape
    profile = {"driver": "GTiff", "count": bands, "height": height, "width": width, "crs": crs,
               "dtype": values.dtype, "nodata": nodata, "transform": TRANSFORM, "tiled": True,
               "blockxsize": block, "blockysize": block}  # fmt: skip
    with rasterio.open(path, "w", **profile | how) as file:
        file.write(values)
        for number, name in enumerate(names, start=1):
            file.set_band_description(number, name)
    return path


def counts(height, width, bands=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(100, 5000, (bands, height, width)).astype("int16")


def sparse(path, size):
    """A scene of six bands that takes hardly any room on the disk; its middle holds numbers."""
    profile = {"driver": "GTiff", "count": 6, "height": size, "width": size, "crs": "EPSG:32722",
               "dtype": "int16", "transform": TRANSFORM, "tiled": True, "blockxsize": 512,
               "blockysize": 512, "sparse_ok": True, "bigtiff": "yes"}  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        window = rasterio.windows.Window(size // 2, size // 2, 512, 512)
        file.write(counts(512, 512), window=window)
    return path


def memory(key):
    """Megabytes of this process, now (VmRSS) or at most (VmHWM)."""
    with open("/proc/self/status", encoding="utf-8") as file:  # noqa: PTH123
        return int(file.read().split(f"{key}:")[1].split()[0]) / 1000


def main():
    from scenes import scene

    from geowb.predict import map_scenes, predict_scene

    source, target, *words = sys.argv[1:]
    options = {key: json.loads(value) for key, _, value in (word.partition("=") for word in words)}
    model = {"blur": Blur, "layer": Layer}[options.pop("model", "blur")]()
    killed = os.environ.pop("KILL_AT", "0")
    map_scenes(model, {"a": scene(64, 64)}, tile=64)  # everything is imported
    model.calls = 0
    os.environ["KILL_AT"] = killed
    before = memory("VmRSS")
    made = predict_scene(model, source, target, progress=False, **options)
    print(json.dumps({"megabytes": memory("VmHWM") - before, "resumed": made.resumed,
                      "units": made.units, "seconds": made.seconds}))  # fmt: skip


if __name__ == "__main__":
    main()
