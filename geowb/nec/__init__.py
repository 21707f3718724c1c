"""Neural embedding compression: a learned prior, an entropy coder, a Zarr codec.

>>> import numpy as np
>>> from geowb.nec import Tables
>>> tables = Tables.fit(np.random.default_rng(0).normal(size=(4096, 3)), steps=0.5)
>>> stream = tables.encode([[0.1, 0.6, -0.4]])
>>> np.array_equal(tables.decode(stream), tables.quantise([[0.1, 0.6, -0.4]]))
True

Reading needs numpy, zarr and constriction; only what learns needs torch.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=["adapting", "codecs", "prior", "store", "stream", "tables", "zarrcodec"],
    submod_attrs={
        "adapting": ["adapt"],
        "autoencoder": ["CompressedMAE"],
        "codecs": ["Codec", "load_codec", "save_codec"],
        "prior": ["FactorizedPrior"],
        "store": ["embed_scene", "open_embeddings", "store_size"],
        "tables": ["Tables"],
        "zarrcodec": ["FactorizedPriorCodec"],
    },
)
