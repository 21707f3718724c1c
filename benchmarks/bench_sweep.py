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
from typing import Any

from run import Row

WORKERS = 2
TINY = {"regions": ["cerrado"], "epochs": 1, "chip_size": 64, "accelerator": "cpu"}
#: What the study did when sweeps were first measured: two arms, one training each.
TINIEST = TINY | {"arms": ["unet", "frozen"], "detail": [], "label_curve": [], "few_shot": []}
GRID = {"learning_rates": [[0.003], [0.01]], "seed": [0, 1, 2, 3]}


def rows() -> list[Row]:
    """Time sweeps and loops, one after the other, from nothing to eight executed notebooks."""
    from geowb.warm import start

    began = time.perf_counter()
    start()
    warmed = time.perf_counter() - began
    swept, loop, cells, records = both(TINY)
    swept_tiniest, loop_tiniest, _, _ = both(TINIEST)
    own = sum(record["seconds"] for record in records)
    beyond, without_start = overhead(records)
    what = f"{len(records)} runs of agb_transfer (one region, one epoch), {WORKERS} workers"
    share = f"sum of the runs' own times / {WORKERS} workers"
    loops = "a loop over papermill, ordinary kernels"
    return [
        Row(what, swept, loops, loop, limit=loop / 4,
            note="one after the other, same values; the sweep with warm kernels"),
        Row(f"{what}, two arms and no curves", swept_tiniest, loops, loop_tiniest,
            limit=loop_tiniest / 4,
            note="the same with less to compute: what the study did when sweeps were new"),
        Row("the warm process's start before them", warmed, "the first sweep", swept,
            note="once; nothing where it is warm already"),
        Row(what, swept, share, own / WORKERS, limit=1.3 * own / WORKERS,
            note="the first worker's start and the last kernel's end included"),
        Row("a run's time beyond its cells", beyond, "papermill", (loop - cells) / len(records),
            note="kernel's start included; its end is waited for by papermill only"),
        Row("of it, beyond the kernel's start", without_start, "papermill, start included",
            (loop - cells) / len(records), limit=0.5,
            note="from a worker's first run to its last; the notebook is stored at each code cell"),
    ]  # fmt: skip


def both(values: dict[str, Any]) -> tuple[float, float, float, list[dict[str, Any]]]:
    """Seconds of a sweep, of the loop, of the loop's cells; records of the sweep's runs."""
    from geowb.batch import load_study, sweep

    study = load_study("agb_transfer")
    lists = {name: [value] for name, value in values.items() if isinstance(value, list)}
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        grid = {**values, **lists, **GRID}
        runs = sweep(study.name, grid, out=f"{folder}/runs", workers=WORKERS, progress=False)
        swept = time.perf_counter() - began
        assert all(run.status == "done" for run in runs), [run.error for run in runs]
        records = [json.loads((run.path / "run.json").read_text()) for run in runs]
        loop, cells = papermill_loop(study.path, Path(folder) / "loop", values)
    return swept, loop, cells, records


def papermill_loop(notebook: Path, out: Path, values: dict[str, Any]) -> tuple[float, float]:
    """Do what a person would write; give seconds in all, and of the cells."""
    import papermill

    began, cells = time.perf_counter(), 0.0
    for rates, seed in itertools.product(*GRID.values()):
        folder = out / f"{rates[0]}-{seed}"
        folder.mkdir(parents=True)
        chosen = values | {"learning_rates": rates, "seed": seed, "run_dir": str(folder)}
        with quiet():
            done = papermill.execute_notebook(
                notebook, folder / "notebook.ipynb", chosen, progress_bar=False
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
