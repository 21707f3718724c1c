"""Sparse biomass labels of your own: GEDI L4A granules or field plots on a scene's grid.

>>> from geowb import labels
>>> shots = labels.usable(labels.read_gedi("GEDI04_A.h5"))  # doctest: +SKIP
>>> scene = labels.to_grid(shots, scene)  # doctest: +SKIP
>>> print(labels.told(scene))  # doctest: +SKIP
733 shots, 412 inside the scene, on 398 pixels (0.15 %).

The recipe is that of the public biomass model (ibm-granite/granite-geospatial-biomass): shots of
the season of the images, on their grid; a pixel without a shot has no label.
"""

from geowb.labels.draw import sparse
from geowb.labels.files import check_labels, read_labels
from geowb.labels.gedi import funnel, read_gedi, usable
from geowb.labels.granule import write_granule
from geowb.labels.grid import to_grid, told
from geowb.labels.plots import read_plots

__all__ = [
    "check_labels",
    "funnel",
    "read_gedi",
    "read_labels",
    "read_plots",
    "sparse",
    "to_grid",
    "told",
    "usable",
    "write_granule",
]
