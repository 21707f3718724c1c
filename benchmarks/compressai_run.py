"""What CompressAI's ``EntropyBottleneck`` gives and takes, run with it on the path.

    python benchmarks/compressai_run.py time    times of `compress` and `decompress`, JSON
    python benchmarks/compressai_run.py facts   parameters and likelihoods that the tests hold

CompressAI is no dependency: `bench_nec` puts it into a folder that is thrown away. Its package
imports torch-geometric and more; the module that is wanted needs none of it, so the package's own
``__init__`` is not run.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
import time
import types
from pathlib import Path

import numpy as np
import torch

VERSION = "1.2.6"


def bottleneck(channels: int, seed: int = 0) -> torch.nn.Module:
    """Build an ``EntropyBottleneck`` whose weights are not those of its start."""
    found = importlib.util.find_spec("compressai")
    package = types.ModuleType("compressai")
    package.__path__ = list(found.submodule_search_locations)
    package.get_entropy_coder = lambda: "ans"
    package.available_entropy_coders = lambda: ["ans"]
    sys.modules["compressai"] = package
    from compressai.entropy_models.entropy_models import EntropyBottleneck

    torch.manual_seed(seed)
    made = EntropyBottleneck(channels)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if name != "quantiles":
                weight.add_(0.3 * torch.randn_like(weight))
    return made.eval()


def embedding(channels: int, tokens: int) -> torch.Tensor:
    """Draw values ``(tokens, channels)`` of many widths."""
    random = torch.Generator().manual_seed(1)
    widths = torch.linspace(0.5, 8, channels)
    return torch.randn(tokens, channels, generator=random) * widths


def facts() -> dict:
    """Give parameters and likelihoods of two channels."""
    made, values = bottleneck(2), embedding(2, 9)
    with torch.no_grad():
        found, _, _ = made._likelihood(values.t().unsqueeze(1))
    return {
        "made_by": f"compressai {VERSION}, benchmarks/compressai_run.py facts",
        "state": {k: v.tolist() for k, v in made.state_dict().items() if v.dtype.is_floating_point
                  and v.numel()},
        "values": values.tolist(),
        "likelihoods": found.squeeze(1).t().tolist(),
    }  # fmt: skip


def times(channels: int, tokens: int, repeats: int, state: Path) -> dict:
    """Time its coder with the densities, medians and values in a file."""
    given = torch.load(state, weights_only=True)
    made = bottleneck(channels)
    made.load_state_dict(given["state"], strict=False)
    made.update(force=True)
    values = given["values"].t().unsqueeze(0)
    took: dict[str, list[float]] = {"encode": [], "decode": []}
    for _ in range(repeats):
        began = time.perf_counter()
        strings = made.compress(values)
        between = time.perf_counter()
        decoded = made.decompress(strings, values.shape[2:])
        took["decode"].append(time.perf_counter() - between)
        took["encode"].append(between - began)
    return {
        **{name: statistics.median(each) for name, each in took.items()},
        "bytes": len(strings[0]),
        "sum": float(np.abs(decoded.numpy()).sum(dtype=np.float64)),
        "likelihood": made._likelihood(values.permute(1, 0, 2))[0].squeeze(1).t().tolist(),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    if sys.argv[1] == "facts":
        print(json.dumps(facts(), indent=1))
    else:
        print(json.dumps(times(*map(int, sys.argv[2:5]), Path(sys.argv[5]))))
