"""Warm kernels: a process that has imported the deep-learning stack forks a kernel on request.

>>> import geowb.warm
>>> geowb.warm.start()["state"]  # doctest: +SKIP
'ready'

The Jupyter kernel ``geowb-warm`` asks for one by itself, in JupyterLab, papermill, nbval and
sweeps. The modules: `places` says where the process of an environment lies, `asking` talks to it,
`parent` is the process, `child` what a fork does, `changes` when it is out of date, `provisioner`
what Jupyter calls.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "asking": ["Unavailable", "start", "status", "stop"],
        "places": ["KERNEL", "impossible"],
    },
)
