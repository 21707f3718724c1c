"""From a model to a map: scenes of any size in bounded memory.

>>> import geowb
>>> geowb.predict.predict_scene("models/unet", "scene.tif", "agb.tif")  # doctest: +SKIP
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=[
        "grid",
        "job",
        "making",
        "opening",
        "outputs",
        "planning",
        "scene",
        "source",
        "units",
        "writing",
    ],
    submod_attrs={
        "opening": ["open_scene"],
        "scene": ["Prediction", "map_scenes", "predict_scene", "predict_scenes"],
    },
)
