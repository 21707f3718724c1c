"""The ``stac`` driver: pystac-client searches, odc-stac loads on one grid."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from geowb.catalog.fetch import no_network
from geowb.catalog.schema import Metadata, StacOptions
from geowb.errors import DataError, DownloadError, RequestError

if TYPE_CHECKING:
    import xarray as xr
    from odc.loader import RioDriver

__all__ = ["load", "reader", "signer", "token_problem"]

_AUTH = ("GDAL_HTTP_AUTH", "GDAL_HTTP_BEARER")
_SAS = "https://planetarycomputer.microsoft.com/api/sas/v1/token/"


def bbox_of(text: str) -> tuple[float, float, float, float]:
    """West, south, east and north of ``"-60.5,-3.2,-60.3,-3.0"``."""
    try:
        west, south, east, north = (float(part) for part in text.split(","))
    except ValueError as error:
        raise RequestError(f"bbox '{text}' is not west,south,east,north in degrees.") from error
    if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
        raise RequestError(f"bbox '{text}' is empty or off the globe (west,south,east,north).")
    return west, south, east, north


def load(options: StacOptions, meta: Metadata, *, twin: str | None = None) -> xr.Dataset:
    """Search, sign and load lazily: ``reflectance`` (time, band, y, x) and ``fmask``."""
    import odc.stac
    import requests
    import rioxarray  # noqa: F401 - gives .rio
    import xarray as xr
    from pystac_client.exceptions import APIError

    bbox, host = bbox_of(options.bbox), urlsplit(options.url).netloc
    try:
        items = _search(options, bbox)
        here = [name for name in options.collections if any(i.collection_id == name for i in items)]
        patches = {name: signer(options, name) for name in here}
        driver = reader(options)
    except (requests.ConnectionError, requests.Timeout) as error:
        raise no_network(host, twin) from error
    except (APIError, requests.HTTPError) as error:
        if "Max retries" in str(error):  # pystac-client wraps a lost connection in an APIError
            raise no_network(host, twin) from error
        raise DownloadError(f"{host} refused the search: {str(error)[:200]}") from error
    crs = "utm" if meta.crs in (None, "none") else meta.crs
    grid: dict[str, Any] = {"bbox": bbox, "crs": crs, "resolution": options.resolution}
    parts: list[xr.Dataset] = []
    for collection in here:
        assets = options.collections[collection]
        how = {
            "items": [item for item in items if item.collection_id == collection],
            "groupby": "solar_day",
            "chunks": {"x": 1024, "y": 1024},
            "patch_url": patches[collection],
            "driver": driver,
        }
        # Items seldom say what type their pixels are; unsigned would wrap below zero.
        raw = odc.stac.load(
            bands=list(assets.values()), dtype="float32", nodata=meta.nodata, **how, **grid
        )
        values = xr.concat([raw[asset] for asset in assets.values()], dim="band")
        values = values.where(values != meta.nodata).assign_coords(band=list(assets))
        part = values.transpose("time", "band", "y", "x").to_dataset(name="reflectance")
        grid = {"like": raw}
        if options.fmask:
            mask = odc.stac.load(bands=[options.fmask], dtype="uint8", nodata=255, **how, **grid)
            part["fmask"] = mask[options.fmask]
        parts.append(part)
    return xr.concat(parts, dim="time").sortby("time") if len(parts) > 1 else parts[0]


def _search(options: StacOptions, bbox: tuple[float, ...]) -> list[Any]:
    import pystac_client

    client = pystac_client.Client.open(options.url)
    search = client.search(
        collections=list(options.collections), bbox=bbox, datetime=options.datetime
    )
    limit = options.max_cloud
    items = [i for i in search.items() if i.properties.get("eo:cloud_cover", 0) <= limit]
    if not items:
        raise DataError(
            f"{urlsplit(options.url).netloc} has no item of {', '.join(options.collections)} in "
            f"{options.bbox} during {options.datetime} with at most {limit:g} % cloud."
        )
    return items


def signer(options: StacOptions, collection: str) -> Callable[[str], str] | None:
    """Make a function that makes an asset's address readable.

    A token goes to its own provider's hosts only, whatever a catalog or an item names.

    Raises
    ------
    RequestError
        If the environment variable with the token is not set.
    """
    if options.sign == "none":
        return None
    if options.sign == "earthdata":
        if problem := token_problem(options):
            raise RequestError(problem)
        return lambda href: _guarded(href, ".earthdatacloud.nasa.gov")
    import requests

    reply = requests.get(_SAS + collection, timeout=30)
    reply.raise_for_status()
    token = reply.json()["token"]
    return lambda href: f"{_guarded(href, '.blob.core.windows.net')}?{token}"


def reader(options: StacOptions) -> RioDriver:
    """Driver whose every read, however late, has this source's token or none at all.

    Settings of the process would outlive the load, and go to the hosts of the next one.
    """
    from odc.loader import RioDriver

    token = os.environ.get(options.token_env) if options.sign == "earthdata" else None

    class Reader(RioDriver):
        def capture_env(self) -> dict[str, Any]:
            env = {k: v for k, v in super().capture_env().items() if k not in _AUTH}
            # With this setting curl drops the token when it is sent on to another host.
            return env | (dict(zip(_AUTH, ("BEARER", token), strict=True)) if token else {})

    return Reader()


def token_problem(options: StacOptions) -> str | None:
    """Say how to get the token that the signer needs, if the environment lacks it."""
    if options.sign != "earthdata" or os.environ.get(options.token_env):
        return None
    return (
        "HLS from NASA needs an Earthdata token in the environment variable "
        f"{options.token_env}: log in at https://urs.earthdata.nasa.gov, choose Generate Token, "
        "and export it before you start."
    )


def _guarded(href: str, host: str) -> str:
    parts = urlsplit(href)
    if parts.scheme != "https" or not (parts.hostname or "").endswith(host):
        raise DataError(f"The asset {href} is not on a host that the token may be sent to.")
    return href
