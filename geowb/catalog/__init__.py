"""The catalog: ``data_catalog.yaml`` -> validated sources -> xarray.

>>> import geowb
>>> catalog = geowb.open_catalog()
>>> scene = catalog["world"].open(region="cerrado", seed=0)

``docs/catalog.md`` explains the file, ``docs/architecture.md`` what other rooms may call;
the command line also uses ``Catalog.table``, ``Catalog.check`` and ``Source.describe``.
"""

from geowb.catalog.check import check_source
from geowb.catalog.source import Catalog, Source, open_catalog

__all__ = ["Catalog", "Source", "check_source", "open_catalog"]
