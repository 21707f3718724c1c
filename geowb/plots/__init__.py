"""Static pictures of scenes and results: HoloViews elements on matplotlib.

Each function returns a HoloViews element; `show` stores it as a PNG, in the notebook and in the run
directory, so that an executed notebook reads well without a kernel and without a network.
"""

from geowb.plots.axes import holoviews, layout, png, show
from geowb.plots.charts import bars, curves, lines, loss_curve, matrix, residuals, scatter
from geowb.plots.scenes import picture, raster, reconstructions, rgb, shots, stretched

__all__ = [
    "bars",
    "curves",
    "holoviews",
    "layout",
    "lines",
    "loss_curve",
    "matrix",
    "picture",
    "png",
    "raster",
    "reconstructions",
    "residuals",
    "rgb",
    "scatter",
    "shots",
    "show",
    "stretched",
]
