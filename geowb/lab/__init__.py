"""JupyterLab on the notebooks: how it is started, and how notebooks with widgets are stored.

>>> from geowb.lab import start
>>> start("notebooks", browser=False)  # doctest: +SKIP
0
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "contents": ["Contents"],
        "starting": ["folder_of_notebooks", "settings", "start"],
    },
)
