"""What is done with a map: look at it, on paper and on a screen, and count what is on it.

>>> import geowb
>>> geowb.plot_map("agb.tif")  # doctest: +SKIP
>>> geowb.area_per_class("landcover.tif")  # doctest: +SKIP
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=[
        "areas",
        "files",
        "hover",
        "layers",
        "live",
        "looks",
        "parts",
        "polygons",
        "static",
        "tiles",
        "zones",
    ],
    submod_attrs={
        "areas": ["area_per_class", "pixel_areas"],
        "files": ["class_names", "open_map"],
        "live": ["show_map"],
        "static": ["plot_map"],
        "zones": ["zonal_summary"],
    },
)
