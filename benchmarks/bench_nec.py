"""The entropy coder beside CompressAI's, on one embedding of 197 tokens of 768 channels.

And the memory that the embedding of a scene takes, against that of a quarter of it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from compressai_run import VERSION, embedding
from run import Row, kilobytes

CHANNELS, TOKENS, REPEATS = 768, 197, 21
WIDTH, HEIGHTS = 1024, (8192, 32768)  # of the scenes, pixels; below 8192 all of it fits in buffers
CODEC = "mae_demo/lambda-20"


def rows() -> list[Row]:
    """Time the coder beside another, and weigh the embedding of scenes."""
    return [*coder(), *scenes()]


def coder() -> list[Row]:
    """Time encoding and decoding by the same densities, and compare likelihoods."""
    import torch

    from geowb.nec import FactorizedPrior

    torch.set_num_threads(1)
    values = embedding(CHANNELS, TOKENS)
    prior = FactorizedPrior(CHANNELS)
    with torch.no_grad():
        for weight in prior.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator()))
    prior.update_quantiles()
    with tempfile.TemporaryDirectory() as folder:
        theirs = compressai(prior, values, Path(folder))
    if theirs is None:
        return []
    tables, array = prior.tables(), values.numpy()
    took: dict[str, list[float]] = {"encode": [], "decode": []}
    for _ in range(REPEATS):
        began = time.perf_counter()
        stream = tables.encode(array)
        between = time.perf_counter()
        decoded = tables.decode(stream)
        took["decode"].append(time.perf_counter() - between)
        took["encode"].append(between - began)
    if (decoded != tables.quantise(array)).any():
        raise SystemExit("What was decoded is not what was encoded.")
    what = f"{{}} of {CHANNELS} channels x {TOKENS} tokens"
    name, how = f"CompressAI {VERSION}", f"median of {REPEATS}, one thread, the same densities"
    found = []
    for job in ("encode", "decode"):
        ours, other = 1e3 * statistics.median(took[job]), 1e3 * theirs[job]
        found.append(Row(what.format(job), ours, name, other, "ms", other / 5, how))
    information = tables.information(array) / 8
    limit = 1.001 * information + 16
    size = Row("bytes of it", len(stream), "what the tables say", information, "B", limit)
    with torch.no_grad():
        own = prior.likelihood(values)
    off = float((own - torch.tensor(theirs["likelihood"]).clamp_min(1e-9)).abs().max())
    note = "largest difference of a likelihood; the largest likelihood"
    return [*found, size, Row("likelihoods", off, name, float(own.max()), "", 1e-5, note)]


def compressai(prior: object, values: object, folder: Path) -> dict | None:
    """Run CompressAI in a process of its own, installed into a folder that is thrown away."""
    import torch

    target = folder / "packages"
    install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps"]
    install += ["--python", sys.executable, "--target", target, f"compressai=={VERSION}"]
    if subprocess.run(install, check=False).returncode:
        print(f"compressai {VERSION} could not be installed: its rows are left out.")
        return None
    names = {"matrices": "_matrix", "biases": "_bias", "factors": "_factor"}
    state = {}
    for key, value in prior.state_dict().items():
        name, _, number = key.partition(".")
        state[names[name] + number if number else name] = value
    torch.save({"state": state, "values": values}, folder / "state.pt")
    command = [sys.executable, Path(__file__).with_name("compressai_run.py"), "time"]
    command += [str(CHANNELS), str(TOKENS), str(REPEATS), folder / "state.pt"]
    env = os.environ | {"PYTHONPATH": str(target)}
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def scenes() -> list[Row]:
    """Embed a small scene and a large one, each in a process of its own."""
    small, large = (weighed(height) for height in HEIGHTS)
    note = (
        "beyond model and libraries; the embedding itself, not compressed, has "
        f"{large['values']:.0f} MB; {large['seconds']:.0f} s and {small['seconds']:.0f} s"
    )
    what = f"peak memory of embedding {WIDTH:,} x {HEIGHTS[1]:,} pixels"
    took, limit = small["megabytes"], 1.5 * small["megabytes"]
    other = f"{WIDTH:,} x {HEIGHTS[0]:,}"
    return [Row(what, large["megabytes"], other, took, "MB", limit, note)]


def weighed(height: int) -> dict[str, float]:
    """Seconds and megabytes of the embedding of a scene of noise, in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), str(height)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Embed a scene in this process, after a tile of one has been."""
    import numpy as np
    import rasterio

    from geowb.nec import embed_scene, load_codec

    codec = load_codec(CODEC)
    with tempfile.TemporaryDirectory() as folder:
        before = 0.0
        for width, height in ((128, 128), (WIDTH, int(sys.argv[1]))):
            file = Path(folder) / f"{height}.tif"
            how = {"width": width, "height": height, "count": 3, "dtype": "int16", "tiled": True}
            place = {"crs": "EPSG:32723", "transform": rasterio.Affine(30, 0, 0, 0, -30, 0)}
            with rasterio.open(file, "w", **how, **place) as target:
                for _, window in target.block_windows():
                    shape = (3, int(window.height), int(window.width))
                    values = np.random.default_rng(window.row_off).integers(200, 3000, shape)
                    target.write(values.astype("int16"), window=window)
                target.descriptions = codec.card["base"]["bands"]
            before, began = kilobytes("VmRSS"), time.perf_counter()
            embed_scene(codec, file, Path(folder) / f"{height}.zarr", progress=False)
    tokens = width * height // codec.card["base"]["unit"] ** 2
    found = {"seconds": time.perf_counter() - began}
    found["megabytes"] = (kilobytes("VmHWM") - before) / 1000
    found["values"] = tokens * codec.tables.channels * 4 / 1e6
    print(json.dumps(found))


if __name__ == "__main__":
    main()
