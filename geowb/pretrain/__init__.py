"""Masked pretraining: sampling, filtering, Zarr training examples, and the training itself.

>>> from geowb.pretrain import ChipStream, Sampling, write_archive
>>> sampling = Sampling(data="world_year", seeds=(0, 1), size=64, frames=3, count=500)
>>> archive = write_archive(sampling, "chips.zarr")  # doctest: +SKIP
>>> batches = ChipStream(archive, batch_size=32, steps=1000)  # doctest: +SKIP
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=[
        "archive",
        "folder",
        "following",
        "probes",
        "reader",
        "recipes",
        "sampling",
        "scenes",
        "stream",
        "training",
        "views",
        "worth",
    ],
    submod_attrs={
        "archive": ["ChipArchive", "write_archive"],
        "recipes": ["RECIPES", "Recipe", "recipe"],
        "sampling": ["Sampling", "draw", "survey"],
        "stream": ["ChipStream"],
        "training": ["Pretraining", "pretrain"],
    },
)
