"""Gaps that clouds leave in a time series: chips with gaps, what fills them, scores.

>>> filled = geowb.fill_gaps(scene)  # doctest: +SKIP

What fills gaps has a method ``fill(x, missing)``: chips ``(B, C, T, H, W)`` in counts and
``(B, T, H, W)`` bool in, a prediction of all pixels out. So do masked Prithvi models, the
conditional GAN of `geowb.models.cgan`, and what is in `fillers`.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=["chips", "fillers", "measures", "opening", "scene", "training"],
    submod_attrs={
        "chips": ["GapDataset", "clear_chips"],
        "fillers": ["RULES", "DateMean", "LinearInTime", "NetworkFiller", "TemporalNeighbour"],
        "masks": ["check_masks", "cut_masks", "known_mask"],
        "measures": ["measure", "paired", "scores", "ssim_missing", "with_interval"],
        "pictures": ["chips_with_gaps", "fillings"],
        "scene": ["fill_gaps"],
        "training": ["Adversarial", "GapFilling"],
    },
)
