"""One way in for labels of any kind, and what is wrong with a file of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd

from geowb.errors import DataError, GeowbError, RequestError
from geowb.labels.gedi import (
    Bounds,
    beams_of,
    funnel,
    granules,
    read_gedi,
    shots_of,
    usable,
)
from geowb.labels.plots import read_plots

__all__ = ["check_labels", "read_labels"]

_GRANULES = (".h5", ".zip")
_PLOTS = (".csv", ".geojson", ".gpkg")
#: Options of `usable`.
_QUALITY = ("min_sensitivity", "degraded", "leaf_off")


def read_labels(
    file: str | os.PathLike,
    *,
    bounds: Bounds | None = None,
    min_sensitivity: float = 0.0,
    degraded: bool = True,
    leaf_off: bool = True,
    lon: str = "lon",
    lat: str = "lat",
    agb: str = "agb",
    error: str = "",
    radius: str = "",
    crs: Any = None,
) -> pd.DataFrame:
    """Read labels by what the file is: the usable shots of GEDI granules, or field plots.

    >>> points = read_labels("gedi/", bounds=(-58.2, -6.0, -57.4, -5.0))  # doctest: +SKIP
    >>> points = read_labels("plots.csv", agb="biomass", crs=32614)  # doctest: +SKIP

    Parameters
    ----------
    file
        ``.h5``, ``.zip`` of such, or a folder: GEDI L4A. ``.csv``, ``.geojson`` or ``.gpkg``:
        plots.
    bounds, min_sensitivity, degraded, leaf_off
        For granules, as in `read_gedi` and `usable`; not looked at for plots.
    lon, lat, agb, error, radius, crs
        For plots, as in `read_plots`; not looked at for granules. An empty `crs` is none.

    Raises
    ------
    RequestError
        If the kind of file is unknown.
    DataError
        If the file cannot be read, or nothing in it is usable.
    """
    if _kind(file) == "granules":
        return usable(
            read_gedi(file, bounds=bounds),
            min_sensitivity=min_sensitivity,
            degraded=degraded,
            leaf_off=leaf_off,
        )
    crs = None if isinstance(crs, str) and not crs.strip() else crs
    return read_plots(file, lon=lon, lat=lat, agb=agb, error=error, radius=radius, crs=crs)


def check_labels(value: str, **options: Any) -> list[str]:
    """Say what is wrong with a file of labels, one sentence a problem, before anything runs.

    >>> check_labels("")  # no file: the labels of the scene are used
    []
    >>> check_labels("plots.xlsx")
    ["'plots.xlsx' is no known kind of labels: .csv, .geojson, .gpkg, .h5, .zip or a folder."]

    Parameters
    ----------
    value
        Path of the labels, or empty.
    options
        As for `read_labels`.

    Notes
    -----
    Of every granule the layout is looked at; shots are read until a granule has a usable one.
    """
    if not str(value).strip():
        return []
    try:
        if _kind(value) == "granules":
            _look(value, options)
        else:
            read_labels(value, **options)
    except GeowbError as error:
        return [str(error)]
    return []


def _kind(file: str | os.PathLike) -> str:
    path = Path(file).expanduser()
    suffix = path.suffix.lower()
    if path.is_dir() or suffix in _GRANULES:
        return "granules"
    if not suffix and not path.exists():
        raise DataError(f"There is no file or folder {path}.")
    if suffix not in _PLOTS:
        known = ", ".join(sorted(_GRANULES + _PLOTS)[:-1])
        raise RequestError(f"'{file}' is no known kind of labels: {known}, .zip or a folder.")
    return "plots"


def _look(file: str | os.PathLike, options: dict[str, Any]) -> None:
    """Raise what is wrong with granules; shots are read until a usable one is found."""
    rules = {name: options[name] for name in _QUALITY if name in options}
    bounds = options.get("bounds")
    found = False
    for name, granule in granules(file):
        beams_of(granule, name)
        found = found or funnel(shots_of(granule, name, bounds), **rules)["left"].iloc[-1] > 0
    if not found:
        usable(read_gedi(file, bounds=bounds), **rules)  # says why
