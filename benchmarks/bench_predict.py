"""A map of a whole scene, beside the bare model and TerraTorch's tiled inference.

Tile and stride are the same for all. The bare model is run on as many batches as the map takes,
from memory, and nothing is read, blended or written; TerraTorch is given the scene as a tensor in
memory and gives one: what it takes to read and write the files is not counted for it.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from run import Row
from torch import nn

TILE, STRIDE, SIZE = 256, 192, 4096
MODELS = {"unet": "U-Net with a ResNet-18", "small": "three layers of 16 channels"}
REPEATS = {"unet": 1, "small": 3}


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
    """Time both models, in turn, and take the memory of each way in a process of its own."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        file = scene(Path(folder) / "scene.tif")
        for name, words in MODELS.items():
            found += _speed(name, words, file)
            found.append(_memory(name, words, file))
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


def bare(model: Net, file: Path) -> float:
    """Run as many batches, of the same size, layout and precision; seconds."""
    from geowb.predict.planning import prepared
    from geowb.predict.units import ready

    task = prepared(model, file, tile=TILE, overlap=TILE - STRIDE)
    size = task.grid.batch_size
    batches = torch.randint(100, 5000, (4, size, 6, 1, TILE, TILE)).float()
    with ready(task.model, task.way) as (ready_model, _):
        task.outputs.run(ready_model, batches[0])
        began = time.perf_counter()
        for number in range(-(-task.grid.tiles // size)):
            task.outputs.run(ready_model, batches[number % 4])
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


WAYS = {"geowb": geowb_map, "bare": bare, "terratorch": terratorch_map}


def _speed(name: str, words: str, file: Path) -> list[Row]:
    model = Net(name)
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(REPEATS[name]):
        for way, work in WAYS.items():
            taken[way].append(work(model, file))
    seconds = {way: statistics.median(values) for way, values in taken.items()}
    rate = SIZE**2 / seconds["geowb"] / 1e6
    what = f"a map of {SIZE} x {SIZE} x 6, {words}"
    note = f"{rate:.3g} million pixels/s; tile {TILE}, stride {STRIDE}, float32"
    limit = seconds["bare"] / 0.95 if name == "unet" else None
    return [
        Row(what, seconds["geowb"], "the bare model on as many tiles", seconds["bare"],
            limit=limit, note=note),
        Row(what, seconds["geowb"], "TerraTorch's tiled_inference", seconds["terratorch"],
            limit=seconds["terratorch"], note="from tensor to tensor; geowb's from file to file"),
    ]  # fmt: skip


def _memory(name: str, words: str, file: Path) -> Row:
    taken = {way: _peak(way, name, file) for way in ("geowb", "terratorch")}
    what = f"peak memory beyond model and libraries, {words}"
    note = f"{SIZE} x {SIZE} x 6; a process of its own each"
    other = "TerraTorch's tiled_inference"
    return Row(what, taken["geowb"], other, taken["terratorch"], "MB", limit=300, note=note)


def _peak(way: str, name: str, file: Path) -> float:
    here = str(Path(__file__).resolve())
    command = [sys.executable, here, way, name, str(file)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _kilobytes(key: str) -> int:
    return int(Path("/proc/self/status").read_text().split(f"{key}:")[1].split()[0])


def main() -> None:
    """Tell the peak of one way in this process, beyond what a small scene needs."""
    way, name, file = sys.argv[1:]
    from geowb.predict import map_scenes

    work: Callable[[Net, Path], float] = WAYS[way]
    if way == "terratorch":
        from geowb.models.wrapper import terratorch

        terratorch()
        from terratorch.tasks import tiled_inference  # noqa: F401
    else:
        import xarray as xr

        image = xr.DataArray(np.full((6, 8, 8), 500.0), dims=("band", "y", "x"))
        map_scenes(Net("small"), {"a": image.to_dataset(name="reflectance")}, tile=8)
    model = Net(name)
    before = _kilobytes("VmRSS")
    work(model, Path(file))
    print(json.dumps((_kilobytes("VmHWM") - before) / 1000))


if __name__ == "__main__":
    main()
