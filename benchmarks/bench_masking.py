"""All five masking metrics beside standard AutoAttack, on the same network and the same 200 images.

Scikit-learn's digits, epsilon 0.15, the small network of the study; one thread, AutoAttack once (it
takes the most by far), the metrics as the median of three. Once with as many random corners as the
paper's code draws (256), and as `profile` draws them: until its verdict is clear.
"""

from __future__ import annotations

import statistics

import torch
from run import Row

EPSILON, IMAGES, SHARE = 0.15, 200, 0.10
MODELS = {"none": "undefended", "pgd": "trained with PGD"}


def rows() -> list[Row]:
    """Time both for both networks."""
    from sklearn.datasets import load_digits

    from geowb.masking.defences import train

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        digits = load_digits()
        x = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
        y = torch.tensor(digits.target)
        found = []
        for name, words in MODELS.items():
            model = train(name, x[:1200], y[:1200], epsilon=EPSILON)
            found += _compared(model, words, x[-IMAGES:], y[-IMAGES:], defended=name == "pgd")
        return found
    finally:
        torch.set_num_threads(before)


def _compared(
    model: torch.nn.Module, words: str, x: torch.Tensor, y: torch.Tensor, *, defended: bool
) -> list[Row]:
    from geowb.masking import profile
    from geowb.masking.strong import autoattack

    strong = autoattack(model, x, y, epsilon=EPSILON)
    found = []
    for draws in (256, 0):
        times = [profile(model, (x, y), epsilon=EPSILON, draws=draws) for _ in range(3)]
        last = times[-1]
        drawn = f"{last.settings['draws']} corners" + " until the verdict is clear" * (not draws)
        passes = [
            f"{one.passes.forward / IMAGES:,.0f} + {one.passes.backward / IMAGES:,.0f}"
            for one in (last, strong)
        ]
        found.append(
            Row(
                f"five masking metrics, {IMAGES} images, {words}; {drawn}",
                statistics.median(one.seconds for one in times),
                "standard AutoAttack",
                strong.seconds,
                limit=SHARE * strong.seconds if defended else None,
                note=f"passes an image, forward + backward: {passes[0]} and {passes[1]}; right "
                f"after it: {100 * strong.accuracy:.1f} %",
            )
        )
    found.append(
        Row(
            f"passes of five masking metrics, {words}",
            (last.passes.forward + last.passes.backward) / IMAGES,
            "standard AutoAttack",
            (strong.passes.forward + strong.passes.backward) / IMAGES,
            unit="passes an image",
        )
    )
    return found
