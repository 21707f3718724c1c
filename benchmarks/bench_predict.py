"""A map of a whole scene, beside the bare model and TerraTorch's tiled inference.

Tile and stride are the same for all, and each way has a process of its own, in turn. The bare model
is run on as many batches as the map takes, from memory, and nothing is read, blended or written:
once as it is loaded, once as geowb runs it, with its weights channels last and with the memory of a
batch kept for the next. TerraTorch is given the scene as a tensor in memory and gives one: what it
takes to read and write the files is not counted for it.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from run import Row, kilobytes
from torch import nn

TILE, STRIDE, SIZE = 256, 192, 4096
MODELS = {"unet": "U-Net with a ResNet-18", "small": "three layers of 16 channels"}
REPEATS = {"unet": 2, "small": 3}


class Net(nn.Module):
    """A network behind geowb's calling convention."""

    def __init__(self, name: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        if name == "unet":
            import segmentation_models_pytorch as smp

            self.net = smp.Unet("resnet18", encoder_weights=None, in_channels=6, classes=1)
        else:
            self.net = nn.Sequential(
                nn.Conv2d(6, 16, 3, padding=1), nn.ReLU(),
                nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 1, 1),
            )  # fmt: skip
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Take ``(B, C, 1, H, W)`` counts."""
        return self.net(x[:, :, 0] * 1e-4)


def rows() -> list[Row]:
    """Time both models in turn, and take the memory of each way."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        file = scene(Path(folder) / "scene.tif")
        for name, words in MODELS.items():
            found += _compared(name, words, file)
    return found


def scene(file: Path) -> Path:
    """Write a compressed scene of six bands with texture at all scales."""
    import rasterio
    from rasterio.transform import from_origin
    from rasterio.windows import Window
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    shape = (6, 1024, 1024)
    smooth = gaussian_filter(rng.normal(size=shape), (0, 8, 8), mode="wrap") * 8000
    block = (smooth + 2000 + rng.normal(size=shape) * 30).clip(1, 10_000).astype("int16")
    profile = {"driver": "GTiff", "count": 6, "height": SIZE, "width": SIZE, "dtype": "int16",
               "crs": "EPSG:32722", "transform": from_origin(5e5, 7e6, 30, 30), "tiled": True,
               "blockxsize": 512, "blockysize": 512, "compress": "deflate"}  # fmt: skip
    with rasterio.open(file, "w", **profile) as out:
        for y in range(0, SIZE, 1024):
            for x in range(0, SIZE, 1024):
                turned = np.roll(block, (y // 7, x // 11), (1, 2))
                out.write(turned, window=Window(x, y, 1024, 1024))
    return file


def geowb_map(model: Net, file: Path) -> float:
    """Predict from file to file; seconds."""
    from geowb.predict import predict_scene

    target, size = file.with_name("map.tif"), {"tile": TILE, "overlap": TILE - STRIDE}
    made = predict_scene(model, file, target, overwrite=True, progress=False, **size)
    target.unlink()
    return made.seconds


def as_loaded(model: Net, file: Path) -> float:
    """Run as many batches of the same size; seconds."""
    from geowb.predict.planning import prepared

    task = prepared(model, file, tile=TILE, overlap=TILE - STRIDE, channels_last=False)
    with torch.inference_mode():
        return _batches(task, model)


def as_in_geowb(model: Net, file: Path) -> float:
    """Run as many batches of the same size, in the same layout, memory and precision; seconds."""
    from geowb.predict.heap import kept
    from geowb.predict.planning import prepared
    from geowb.predict.units import ready

    task = prepared(model, file, tile=TILE, overlap=TILE - STRIDE)
    with kept(), ready(task.model, task.way) as (ready_model, _):
        return _batches(task, ready_model)


def _batches(task: Any, model: nn.Module) -> float:
    size = task.grid.batch_size
    batches = torch.randint(100, 5000, (4, size, 6, 1, TILE, TILE)).float()
    task.outputs.run(model, batches[0])
    began = time.perf_counter()
    for number in range(-(-task.grid.tiles // size)):
        task.outputs.run(model, batches[number % 4])
    return time.perf_counter() - began


def terratorch_map(model: Net, file: Path) -> float:
    """Run TerraTorch's tiled inference on the scene in memory; seconds."""
    import rasterio

    from geowb.models.wrapper import terratorch

    terratorch()
    from terratorch.tasks.tiled_inference import tiled_inference

    with rasterio.open(file) as found:
        x = torch.from_numpy(found.read().astype("float32"))[None, :, None]
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of its own deprecations
        model(x[..., :TILE, :TILE])
        began = time.perf_counter()
        tiled_inference(model, x, crop=TILE, stride=STRIDE, delta=8, batch_size=4)
        return time.perf_counter() - began


WAYS = {
    "geowb": geowb_map,
    "as loaded": as_loaded,
    "as in geowb": as_in_geowb,
    "terratorch": terratorch_map,
}


def _compared(name: str, words: str, file: Path) -> list[Row]:
    taken: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(REPEATS[name]):
        for way in WAYS:
            taken[way].append(_measured(way, name, file))
    seconds = {way: statistics.median(one["seconds"] for one in taken[way]) for way in WAYS}
    most = {way: max(one["megabytes"] for one in taken[way]) for way in ("geowb", "terratorch")}
    rate = SIZE**2 / seconds["geowb"] / 1e6
    what = f"a map of {SIZE} x {SIZE} x 6, {words}"
    note = f"{rate:.3g} million pixels/s; tile {TILE}, stride {STRIDE}, float32"
    limit = seconds["as loaded"] / 0.95 if name == "unet" else None
    other = "TerraTorch's tiled_inference"
    return [
        Row(what, seconds["geowb"], "the bare model on as many tiles", seconds["as loaded"],
            limit=limit, note=note),
        Row(what, seconds["geowb"], "the bare model as geowb runs it", seconds["as in geowb"],
            note="in the same layout, memory kept; nothing is read or written"),
        Row(what, seconds["geowb"], other, seconds["terratorch"],
            limit=seconds["terratorch"], note="from tensor to tensor; geowb's from file to file"),
        Row(f"peak memory beyond model and libraries, {words}", most["geowb"], other,
            most["terratorch"], "MB", limit=300, note=f"{SIZE} x {SIZE} x 6"),
    ]  # fmt: skip


def _first_use() -> None:
    """Have what happens once a process happen."""
    import xarray as xr

    from geowb.predict import map_scenes

    image = xr.DataArray(np.full((6, 8, 8), 500.0), dims=("band", "y", "x"))
    map_scenes(Net("small"), {"a": image.to_dataset(name="reflectance")}, tile=8)


def _measured(way: str, name: str, file: Path) -> dict[str, float]:
    """Seconds and peak memory of one way, in a process of its own."""
    here = str(Path(__file__).resolve())
    command = [sys.executable, here, way, name, str(file)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Tell the time of one way in this process, and its peak beyond what a small scene needs."""
    way, name, file = sys.argv[1:]
    if way == "terratorch":
        from geowb.models.wrapper import terratorch

        terratorch()
        from terratorch.tasks import tiled_inference  # noqa: F401
    elif way == "geowb":
        _first_use()
    model = Net(name)
    before = kilobytes("VmRSS")
    seconds = WAYS[way](model, Path(file))
    megabytes = (kilobytes("VmHWM") - before) / 1000
    print(json.dumps({"seconds": seconds, "megabytes": megabytes}))


if __name__ == "__main__":
    main()
