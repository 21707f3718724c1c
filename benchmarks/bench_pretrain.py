"""Masked pretraining: whether the model waits for chips, and what a step costs."""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from run import Row

STEPS, REPEATS = 30, 3


def rows() -> list[Row]:
    """Time the stream, the training, and the same model in a bare loop, in turn."""
    from geowb.pretrain import recipe, write_archive

    with tempfile.TemporaryDirectory() as folder:
        usual = recipe("prithvi_demo")
        chips = replace(usual.sampling, seeds=usual.sampling.seeds[:2], count=256)
        # The same work every step: all dates.
        chosen = replace(
            usual, sampling=chips, held_out=None, steps=STEPS, fewer_dates=0.0, jitter=usual.jitter
        )
        archive = write_archive(chips, Path(folder) / "chips.zarr", shard=64, progress=False)
        taken: dict[str, list[float]] = {"bare": [], "geowb": [], "stream": []}
        for number in range(REPEATS):
            taken["bare"].append(bare(chosen, archive))
            taken["geowb"].append(framework(chosen, Path(folder) / str(number)))
            taken["stream"].append(stream(chosen, archive))
    median = {name: statistics.median(values) for name, values in taken.items()}
    model = "prithvi_demo, 32 chips of 6 x 3 x 64 x 64"
    note = f"median of {REPEATS}; {STEPS} steps each, in turn"
    step, batch = "a pretraining step", "a batch from the stream"
    return [
        Row(f"{step}: {model}", median["geowb"], "the same model in a bare PyTorch loop",
            median["bare"], "s", 1.1 * median["bare"], note),
        Row(f"{batch}, pools read anew", median["stream"], "a step of the model",
            median["geowb"], "s", median["geowb"] / 2, note),
    ]  # fmt: skip


def bare(recipe: object, archive: object) -> float:
    """Seconds a step of a plain loop over batches that are there already."""
    from geowb.pretrain import ChipStream
    from geowb.pretrain.training import model_for

    model = model_for(recipe, archive)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    batches = [batch["image"] for batch in ChipStream(archive, batch_size=32, steps=8)]
    for step in range(-3, STEPS):
        if step == 0:
            began = time.perf_counter()
        optimizer.zero_grad()
        model(batches[step % 8]).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return (time.perf_counter() - began) / STEPS


def framework(recipe: object, folder: Path) -> float:
    """Seconds a step of `geowb.pretrain.pretrain`, its first row left out."""
    from geowb.pretrain import pretrain

    history = pretrain(recipe, folder, progress=False).history
    first, last = history.iloc[2], history.iloc[-1]
    return (last["seconds"] - first["seconds"]) / (last["step"] - first["step"])


def stream(recipe: object, archive: object) -> float:
    """Seconds a batch, with one shard a pool: every shard is read again each time."""
    from geowb.pretrain import ChipStream

    batches = iter(ChipStream(archive, batch_size=32, steps=STEPS + 3, pool=1))
    for _ in range(3):
        next(batches)
    began = time.perf_counter()
    count = sum(1 for _ in batches)
    return (time.perf_counter() - began) / count
