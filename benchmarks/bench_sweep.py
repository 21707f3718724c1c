"""A sweep of 8 tiny biomass runs with 2 workers, beside a plain loop over papermill."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from run import Row

WORKERS = 2
VALUES = {"regions": ["cerrado"], "epochs": 1, "chip_size": 64, "accelerator": "cpu"}
GRID = {"learning_rates": [[0.003], [0.01]], "seed": [0, 1, 2, 3]}


def rows() -> list[Row]:
    """Time both, one after the other, from nothing to eight executed notebooks."""
    from geowb.batch import load_study, sweep
    from geowb.warm import start

    study = load_study("agb_transfer")
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        start()
        warmed = time.perf_counter() - began
        began = time.perf_counter()
        grid = {**VALUES, "regions": [VALUES["regions"]], **GRID}
        runs = sweep(study.name, grid, out=f"{folder}/runs", workers=WORKERS, progress=False)
        swept = time.perf_counter() - began
        assert all(run.status == "done" for run in runs), [run.error for run in runs]
        records = [json.loads((run.path / "run.json").read_text()) for run in runs]
        loop, cells = papermill_loop(study.path, Path(folder) / "loop")
    own = sum(record["seconds"] for record in records)
    beyond, without_start = overhead(records)
    what = f"{len(runs)} runs of agb_transfer (one region, one epoch)"
    share = f"sum of the runs' own times / {WORKERS} workers"
    return [
        Row(f"{what}, {WORKERS} workers", swept, "a loop over papermill", loop,
            limit=loop / 4,
            note="one after the other, same values, ordinary kernels; warm ones in the sweep"),
        Row("the warm process's start before it", warmed, "the sweep", swept,
            note="once; nothing where it is warm already"),
        Row(f"{what}, {WORKERS} workers", swept, share, own / WORKERS, limit=1.3 * own / WORKERS,
            note="the first worker's start and the last kernel's end included"),
        Row("a run's time beyond its cells", beyond, "papermill", (loop - cells) / len(runs),
            note="kernel's start included; its end is waited for by papermill only"),
        Row("of it, beyond the kernel's start", without_start, "papermill, start included",
            (loop - cells) / len(runs), limit=0.5,
            note="from a worker's first run to its last; the notebook is stored at each code cell"),
    ]  # fmt: skip


def papermill_loop(notebook: Path, out: Path) -> tuple[float, float]:
    """Do what a person would write; give seconds in all, and of the cells."""
    import papermill

    began, cells = time.perf_counter(), 0.0
    for rates, seed in itertools.product(*GRID.values()):
        folder = out / f"{rates[0]}-{seed}"
        folder.mkdir(parents=True)
        values = VALUES | {"learning_rates": rates, "seed": seed, "run_dir": str(folder)}
        with quiet():
            done = papermill.execute_notebook(
                notebook, folder / "notebook.ipynb", values, progress_bar=False
            )
        cells += sum(cell.metadata.papermill.get("duration") or 0 for cell in done.cells)
    return time.perf_counter() - began, cells


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what kernels write to standard error off the screen."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def overhead(records: list[dict]) -> tuple[float, float]:
    """Seconds a run that no cell took, over each worker's time; and without the starts."""
    beyond = start = 0.0
    for _, own in itertools.groupby(sorted(records, key=lambda r: r["pid"]), lambda r: r["pid"]):
        mine = sorted(own, key=lambda record: record["started"])
        first, last = (
            datetime.fromisoformat(text) for text in (mine[0]["started"], mine[-1]["finished"])
        )
        beyond += (last - first).total_seconds() - sum(sum(r["timings"].values()) for r in mine)
        start += sum(record["kernel_seconds"] for record in mine)
    return beyond / len(records), (beyond - start) / len(records)
