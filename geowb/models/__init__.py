"""Model wrappers: one way to build each model, one way to load weights.

>>> import geowb
>>> model = geowb.models.build("unet")
>>> geowb.models.trainable(model)
7763905

A model takes chips ``(B, C, T, H, W)`` of float32 counts (reflectance x 10,000, NaN where there is
no data) and returns ``(B, K, H, W)``. Normalisation is part of the model and travels in its file.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=[
        *("cgan", "checks", "classifier", "files", "masked", "prithvi", "registry", "unet"),
        "weights",
    ],
    submod_attrs={
        "checks": ["check_weights"],
        "classifier": ["Classifier", "build_classifier"],
        "files": ["load", "save"],
        "publishing": ["publish"],
        "registry": ["MODELS", "ModelSpec"],
        "wrapper": ["PixelModel", "build", "trainable"],
    },
)
