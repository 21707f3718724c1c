"""The batch engine: preflight, runs through papermill, run directories.

>>> import geowb.batch
>>> run = geowb.batch.run("agb_transfer", {"epochs": 1}, profile="teaching")  # doctest: +SKIP
>>> run.metrics["rmse/unet/all"]["value"]  # doctest: +SKIP

The engine knows nothing of torch; checks of other rooms are reached by name.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "preflight": ["as_text", "convert", "preflight"],
        "rundir": ["RunDirectory"],
        "runner": ["Run", "load_run", "run", "run_name"],
        "studies": ["Parameter", "Study", "find_studies", "lint", "load_study"],
    },
)
