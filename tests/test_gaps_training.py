"""Fine-tuning of what fills gaps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

from geowb.errors import DataError, RequestError
from geowb.gaps import Adversarial, GapDataset, GapFilling, NetworkFiller, clear_chips, measure
from geowb.models.cgan import build_cgan
from geowb.models.masked import build_masked
from geowb.train import fit, steps_an_epoch


@pytest.fixture(scope="module")
def data() -> GapDataset:
    """Eight chips of 32 pixels whose middle date is the mean of the others."""
    draw = np.random.default_rng(0)
    counts = draw.normal(2500, 600, (3, 6, 64, 128)).astype(np.float32)
    counts[:, :, ::2] = counts[:, :, 1::2]
    counts[1] = counts[::2].mean(0)
    scenes = {"a": xr.Dataset({"reflectance": (("time", "band", "y", "x"), counts)})}
    masks = np.zeros((4, 32, 32), bool)
    for i, mask in enumerate(masks):
        mask[: 6 + 4 * i] = True
    return GapDataset(scenes, clear_chips(scenes, 32), masks, augment=True)


def _models() -> list:
    return [
        (lambda: build_masked("prithvi_demo", frames=3, size=32), GapFilling, 1e-3),
        (lambda: NetworkFiller.build("unet"), GapFilling, 1e-3),
        (lambda: build_cgan(width=4, halvings=2, blocks=1, size=32), Adversarial, 5e-4),
    ]


@pytest.mark.parametrize(("build", "task", "rate"), _models(), ids=["prithvi", "unet", "cgan"])
def test_training_improves_and_repeats(build, task, rate, data: GapDataset) -> None:
    before = measure(build(), data)
    fits = [
        fit(build(), data, data.plain(), task=task, steps=12, val_every=4, learning_rate=rate,
            batch_size=4, progress=False)
        for _ in range(2)
    ]  # fmt: skip
    found = measure(fits[0].model, data)
    assert found.ssim_missing.mean() > before.ssim_missing.mean()
    history = fits[0].history
    assert history["step"].tolist() == [4, 8, 12]  # a step of the GAN is one of its generator
    assert fits[0].score == "ssim"
    # What the history says of the kept weights is what `measure` finds.
    assert fits[0].val_score == pytest.approx(history["val_ssim"].max())
    assert fits[0].val_score == pytest.approx(found.ssim_missing.mean(), abs=1e-4)
    assert np.array_equal(history["val_ssim"], fits[1].history["val_ssim"])


def test_a_network_that_has_diverged_loses_and_is_told(data: GapDataset) -> None:
    model = NetworkFiller.build("unet")
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    lost = fit(model, data, data.plain(), task=GapFilling, steps=2, val_every=1, batch_size=4,
               learning_rate=1e-3, progress=False)  # fmt: skip
    assert lost.val_score == -np.inf
    with pytest.raises(DataError, match="the chips 0 to 7 is not finite: the model has diverged"):
        measure(lost.model, data)


def test_one_lost_sample_is_not_left_out_of_the_score(data: GapDataset) -> None:
    task = GapFilling(NetworkFiller.build("unet"), {"learning_rate": 1.0})
    task.log = lambda *_, **__: None
    items = [data.plain()[i] for i in range(2)]
    batch = {key: torch.stack([item[key] for item in items]) for key in ("image", "missing")}
    filled = batch["image"].clone()
    task._note(filled, batch)
    assert task.ssim.compute() == pytest.approx(1.0)
    filled[0] = torch.nan
    task._note(filled, batch)
    assert task.ssim.compute().isnan()


def test_the_discriminators_take_no_scaled_gradients(data: GapDataset) -> None:
    class Trainer:
        precision = "16-mixed"

    task = Adversarial(build_cgan(width=4, halvings=2, blocks=1, size=32), {"learning_rate": 1.0})
    task._trainer = Trainer()
    with pytest.raises(RequestError, match="bf16-mixed"):
        task.configure_optimizers()


def test_steps_of_an_epoch_of_chips_without_labels(data: GapDataset) -> None:
    assert steps_an_epoch(data, 4, GapFilling) == 2
    assert steps_an_epoch(data, 7, GapFilling) == 1  # a chip alone is no batch


class _Probe(torch.nn.Module):
    """A model of one number, whose gradient is large."""

    def __init__(self) -> None:
        super().__init__()
        self.value = torch.nn.Parameter(torch.zeros(()))
        self.norms: list[float] = []
        self.value.register_post_accumulate_grad_hook(lambda p: self.norms.append(float(p.grad)))

    def fill(self, x: torch.Tensor, missing: torch.Tensor):
        from geowb.models.masked import Reconstruction

        return Reconstruction(x * 0 + self.value, missing[:, None], 1e6 * self.value)


def test_gradients_are_clipped_to_a_norm_of_one(data: GapDataset) -> None:
    seen: list[float] = []

    class Watched(GapFilling):
        def on_before_zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
            if self.model.value.grad is not None:
                seen.append(float(self.model.value.grad.abs()))

    model = _Probe()
    fit(model, data, None, task=Watched, epochs=2, batch_size=4, progress=False)
    assert max(model.norms) == 1e6
    assert seen
    assert max(seen) == pytest.approx(1.0, rel=1e-4)


def test_the_adversarial_losses_move_both_sides(data: GapDataset) -> None:
    model = build_cgan(width=4, halvings=2, blocks=0, size=32)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    fit(model, data, None, task=Adversarial, epochs=1, learning_rate=1e-3, batch_size=4,
        progress=False)  # fmt: skip
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert {name.split(".")[0] for name in moved} == {"generator", "discriminators"}
    assert all(p.requires_grad for p in model.parameters())
    # Adam's first steps are as long as the rate: a fifth of it for the discriminators.
    off = {
        part: max((p - before[n]).abs().max() for n, p in model.named_parameters() if part in n)
        for part in ("generator", "discriminators")
    }
    assert off["generator"].item() == pytest.approx(5 * off["discriminators"].item(), rel=0.5)
