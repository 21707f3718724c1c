"""Warm kernels: from the request to the end of the first cell, and what kernels hold of memory."""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from run import Row

REPEATS = 5
FIRST_CELL = "import torch, terratorch"
KERNELS = 4


def rows() -> list[Row]:
    """Start kernels of both kinds in turn, then several of each kind at a time."""
    from geowb.warm import KERNEL, start, stop

    with tempfile.TemporaryDirectory(prefix="gw") as folder:
        os.environ["GEOWB_WARM_DIR"] = folder
        try:
            began = time.perf_counter()
            start()
            ready = time.perf_counter() - began
            taken: dict[str, list[float]] = {KERNEL: [], "python3": []}
            for _ in range(REPEATS):
                for name, values in taken.items():
                    values.append(first_cell(name))
            median = {name: statistics.median(values) for name, values in taken.items()}
            held = {name: memory(name) for name in taken}
        finally:
            stop()
            del os.environ["GEOWB_WARM_DIR"]
    note = f"median of {REPEATS}, from the request to the cell's reply"
    return [
        Row(f"first cell `{FIRST_CELL}`, warm kernel", median[KERNEL], "ordinary kernel",
            median["python3"], limit=1.5, note=note),
        Row("the warm process's start, once", ready, "ordinary kernel, the same cell, each time",
            median["python3"], note="it imports all of geowb and what the studies load later too"),
        Row(f"memory of {KERNELS} warm kernels after it", held[KERNEL], "ordinary kernels",
            held["python3"], "GB", note="proportional set size, the warm process's own included"),
    ]  # fmt: skip


def first_cell(name: str) -> float:
    """Seconds from the request for a kernel until it has imported the stack."""
    from jupyter_client.manager import start_new_kernel

    began = time.perf_counter()
    manager, client = start_new_kernel(kernel_name=name, **quiet())
    try:
        reply = client.execute_interactive(FIRST_CELL, timeout=300)
        taken = time.perf_counter() - began
        assert reply["content"]["status"] == "ok", reply
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    return taken


def memory(name: str) -> float:
    """GB that several kernels hold together, what they share counted once."""
    from jupyter_client.manager import start_new_kernel

    from geowb.warm import status

    started = [start_new_kernel(kernel_name=name, **quiet()) for _ in range(KERNELS)]
    try:
        for _, client in started:
            client.execute_interactive(FIRST_CELL, timeout=300)
        processes = [manager.provisioner.pid for manager, _ in started]
        processes += [found["pid"] for found in status()] if name != "python3" else []
        return sum(map(proportional, processes)) / 1e9
    finally:
        for manager, client in started:
            client.stop_channels()
            manager.shutdown_kernel(now=True)


def proportional(pid: int) -> int:
    """Bytes of a process, each page divided by the number of processes that share it."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def quiet() -> dict[str, int]:
    """Where kernels write what is no result."""
    return {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
