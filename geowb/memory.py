"""What training takes of memory, measured by its allocations."""

from __future__ import annotations

import math
import os
import sys

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

__all__ = ["PeakMemory"]


class PeakMemory(Callback):
    """Peak memory of training: weights, gradients, optimiser state and activations, in MB.

    On a GPU it is what the allocator reports. On the CPU it is taken from the allocations of the
    first two steps (the second has the optimiser's state beside it): the process's own size would
    depend on what ran before.
    """

    def __init__(self) -> None:
        self.mb = math.nan
        self._profile: torch.profiler.profile | None = None

    def on_train_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Start to record allocations."""
        if task.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(task.device)
        elif task.device.type == "cpu":
            self._profile = _start_profile()
            self._first = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, task: L.LightningModule, *_: object) -> None:
        """Stop after two steps."""
        if self._profile is not None and trainer.global_step - self._first >= 2:
            self._stop(task)

    def on_train_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Take the peak."""
        if task.device.type == "cuda":
            self.mb = torch.cuda.max_memory_allocated(task.device) / 1e6
        elif self._profile is not None:
            self._stop(task)

    def on_exception(self, _: L.Trainer, task: L.LightningModule, __: BaseException) -> None:
        """Leave no profiler running."""
        if self._profile is not None:
            self._stop(task)

    def _stop(self, task: L.LightningModule) -> None:
        self._profile.stop()
        events = self._profile.profiler.kineto_results.events()
        changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
        held = peak = 0
        for _, change in changes:
            held += change
            peak = max(peak, held)
        self.mb = (peak + sum(t.nbytes for t in task.model.state_dict().values())) / 1e6
        self._profile = None


def _start_profile() -> torch.profiler.profile:
    """Start recording allocations, without what torch's C++ says about it on standard error."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # a greeting
    cpu = [torch.profiler.ProfilerActivity.CPU]
    profile = torch.profiler.profile(activities=cpu, profile_memory=True)
    older = torch.empty(1)
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        profile.start()
        del older  # a warning, once a process: freed here, but not allocated here
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
    return profile
