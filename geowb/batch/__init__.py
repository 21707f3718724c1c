"""The batch engine: preflight, runs, sweeps, and what came out of them.

>>> import geowb.batch
>>> run = geowb.batch.run("agb_transfer", {"epochs": 1}, profile="teaching")  # doctest: +SKIP
>>> run.metrics["rmse/unet/all"]["value"]  # doctest: +SKIP
>>> runs = geowb.batch.sweep("agb_transfer", {"seed": range(3)})  # doctest: +SKIP

The engine knows nothing of torch; checks of other rooms are reached by name.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "checks": ["as_text", "convert", "preflight"],
        "reports": ["report"],
        "results": ["load_runs"],
        "rundir": ["RunDirectory"],
        "folder": ["run_name"],
        "runner": ["Run", "load_run", "repeat", "run"],
        "sweeps": ["sweep"],
        "studies": ["Parameter", "Study", "find_studies", "lint", "load_study"],
    },
)
