"""geowb: a Jupyter-first research workbench for geospatial foundation models.

>>> import geowb
>>> scene = geowb.open_catalog()["world"].open(region="cerrado", seed=0)

Importing geowb is light: everything below is loaded when first used.
"""

import lazy_loader as _lazy

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=[
        *(
            "bands",
            "batch",
            "catalog",
            "chips",
            "evaluate",
            "gaps",
            "labels",
            "maps",
            "masking",
            "models",
            "nec",
        ),
        *("plots", "predict", "readout", "train", "widgets", "world"),
    ],
    submod_attrs={
        "bands": ["HLS6"],
        "catalog": ["Catalog", "Source", "open_catalog"],
        "errors": ["GeowbError"],
        "gaps.scene": ["fill_gaps"],
        "maps.areas": ["area_per_class"],
        "maps.live": ["show_map"],
        "maps.static": ["plot_map"],
        "maps.zones": ["zonal_summary"],
    },
)
