"""Where chips lie: coordinates and eco-regions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geowb.errors import DataError, did_you_mean

if TYPE_CHECKING:
    import os

    import xarray as xr

__all__ = ["locate", "name_regions"]


def locate(chips: pd.DataFrame, scenes: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """Add where each chip lies, and the region of its scene.

    >>> locate(cut(scenes), scenes)[["lon", "lat", "region"]]  # doctest: +SKIP

    Returns
    -------
    pandas.DataFrame
        The chips with ``lon`` and ``lat`` (degrees, WGS 84) of the middle of the part that lies in
        the scene, NaN where the scene has no CRS or is a set of samples, and ``region``: the one
        that the catalog entry was opened with, or the scene's name.
    """
    import rioxarray  # noqa: F401 - gives .rio
    from pyproj import Transformer

    chips = chips.assign(lon=np.nan, lat=np.nan, region=chips["scene"].astype(object))
    for name, part in chips.groupby("scene"):
        scene = scenes[name]
        chips.loc[part.index, "region"] = str(scene.attrs.get("select_region", name))
        if "sample" in scene.dims or scene.rio.crs is None or not {"x", "y"} <= set(scene.coords):
            continue
        x, y = (
            [scene[axis].values[i : i + part["size"].iloc[0]].mean() for i in part[axis]]
            for axis in ("x", "y")
        )
        to_degrees = Transformer.from_crs(scene.rio.crs, 4326, always_xy=True)
        chips.loc[part.index, "lon"], chips.loc[part.index, "lat"] = to_degrees.transform(x, y)
    return chips


def name_regions(chips: pd.DataFrame, file: str | os.PathLike, column: str) -> pd.DataFrame:
    """Take the region of each chip from the polygon that holds its middle.

    >>> chips = locate(cut(scenes), scenes)  # doctest: +SKIP
    >>> chips = name_regions(chips, "Ecoregions2017.shp", "ECO_NAME")  # doctest: +SKIP

    Parameters
    ----------
    chips
        Chips with ``lon`` and ``lat``, from `locate`.
    file
        Polygons in any format that geopandas reads, such as eco-regions. Without a CRS they are
        taken for degrees; where polygons overlap, the first in the file counts.
    column
        What the region is called by.

    Returns
    -------
    pandas.DataFrame
        The chips with ``region``, "" where no polygon holds them.

    Raises
    ------
    DataError
        If chips have no position, the file cannot be read or has no such column, or no chip lies
        in any polygon.
    """
    import geopandas

    from geowb.labels.plots import read_features

    if "lon" not in chips or not chips["lon"].notna().any():
        raise DataError("The chips have no position: use locate(chips, scenes) on scenes with CRS.")
    polygons = read_features(file)
    if column not in polygons or column == polygons.geometry.name:
        known = [name for name in polygons.columns if name != polygons.geometry.name]
        raise DataError(
            f"{file} has no column '{column}'. {did_you_mean(column, known)} Its columns are "
            f"{', '.join(known)}."
        )
    polygons = polygons.set_crs(4326) if polygons.crs is None else polygons.to_crs(4326)
    placed = chips[chips["lon"].notna()]
    middles = geopandas.GeoSeries.from_xy(placed["lon"], placed["lat"], crs=4326)
    point, polygon = polygons.sindex.query(middles, predicate="intersects")
    if not point.size:
        west, south, east, north = polygons.total_bounds
        raise DataError(
            f"No chip lies in any polygon of {file}, which reach from {west:.2f} to {east:.2f} "
            f"degrees east and from {south:.2f} to {north:.2f} degrees north; the first chip is at "
            f"{placed['lon'].iloc[0]:.4f} east, {placed['lat'].iloc[0]:.4f} north."
        )
    first = pd.Series(polygon).groupby(point).min()
    regions = pd.Series("", index=range(len(chips)), dtype=object)
    at = np.flatnonzero(chips["lon"].notna())[first.index]
    names = polygons[column].iloc[first.to_numpy()]
    regions.iloc[at] = ["" if pd.isna(name) else str(name) for name in names]
    return chips.assign(region=regions.to_numpy())
