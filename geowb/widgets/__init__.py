"""What a person moves and looks at, in JupyterLab.

>>> from geowb.widgets import SceneExplorer
>>> explorer = SceneExplorer(geowb.open_catalog()["world"].open())  # doctest: +SKIP
>>> explorer.date, explorer.pixel = 1, (120, 300)  # the same as moving it  # doctest: +SKIP

Each is a class whose traits can be read, set and observed. Errors are shown in the widget, long
work runs beside the kernel's own with a bar and a button that stops it, and a stored notebook keeps
a picture of the last state instead of a widget.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "browser": ["CatalogBrowser"],
        "explorer": ["SceneExplorer"],
        "liveplot": ["LivePlot"],
        "panel": ["Panel"],
        "runner": ["StudyRunner"],
        "runs": ["RunsExplorer"],
    },
)
