"""The catalog: ``data_catalog.yaml`` -> validated sources -> xarray.

>>> import geowb
>>> catalog = geowb.open_catalog()
>>> scene = catalog["world"].open(region="cerrado", seed=0)

What other rooms call:

==========================================================  =======================================
``open_catalog(path=None) -> Catalog``                      mapping of names to ``Source``
``Catalog.table() -> list[dict[str, str]]``                 name, category, licence, size, status,
                                                            description; one row an entry
``Catalog.check() -> list[str]``                            problems over all entries that are here
``Source.open(*, seed=None, **selection) -> Dataset``       one lazy scene or set of chips
``Source.open_each(placeholder, values=(), *, seed=None)``  ``dict[str, Dataset]``
``Source.choices(placeholder) -> list[str]``                values of a placeholder
``Source.status() -> str``                                  "embedded", "here", "remote", "missing"
``Source.get(*, progress=True) -> Path``                    download; folder or file
``Source.describe() -> str``                                what ``geowb catalog show`` prints
``Source.provenance(**selection) -> dict``                  what ``run.json`` records
``check_source(value, *, catalog="", variables=(),``        problems that can be seen cheaply
``bands=(), selection={}) -> list[str]``
==========================================================  =======================================
"""

from geowb.catalog.check import check_source
from geowb.catalog.source import Catalog, Source, open_catalog

__all__ = ["Catalog", "Source", "check_source", "open_catalog"]
