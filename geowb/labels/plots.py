"""Field plots from tables and vector files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geowb.errors import DataError, RequestError, did_you_mean

if TYPE_CHECKING:
    import geopandas

__all__ = ["read_features", "read_plots"]

#: Names of a column that mean the same.
_SPELLINGS = (
    ("lon", "longitude", "long", "x", "easting"),
    ("lat", "latitude", "y", "northing"),
    ("agb", "agbd", "biomass"),
    ("agb_se", "agbd_se"),
)
_TOLD = 5  # rows in one message


def read_plots(
    file: str | os.PathLike,
    *,
    lon: str = "lon",
    lat: str = "lat",
    agb: str = "agb",
    error: str = "",
    radius: str = "",
    crs: Any = None,
) -> pd.DataFrame:
    """Read field plots from a CSV file or a vector file.

    >>> plots = read_plots("plots.csv", agb="biomass_mg_ha", crs=32614)  # doctest: +SKIP
    >>> plots.columns.tolist()  # doctest: +SKIP
    ['lon', 'lat', 'agb', 'agb_se', 'radius']

    Parameters
    ----------
    file
        ``.csv`` (commas, semicolons or tabs), or what geopandas reads (GeoJSON, GeoPackage, ...),
        with points or polygons. Of a polygon its centroid is taken and, without a column for it,
        the radius of a circle of equal area.
    lon, lat, agb, error, radius
        Names of the columns: position (tables only), biomass (Mg/ha), its standard error (Mg/ha)
        and the plot's radius (m). Capitals do not matter, and ``lon`` finds a ``longitude``,
        ``long``, ``x`` or ``easting`` too, ``agb`` an ``agbd`` or ``biomass``. Empty for the last
        two: a column ``agb_se`` or ``radius``, if there is one.
    crs
        Of the coordinates, where they are not degrees: an EPSG code or anything that pyproj takes.
        A vector file says it itself; `crs` overrules it.

    Returns
    -------
    pandas.DataFrame
        ``lon``, ``lat`` (degrees, WGS 84), ``agb``, ``agb_se`` and ``radius`` (NaN where unknown).

    Raises
    ------
    RequestError
        If `crs` cannot be understood.
    DataError
        If the file cannot be read, a column is missing, or a row is bad; names the rows as a
        spreadsheet numbers them (the header is row 1).
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    wanted = {"agb": agb, "agb_se": error, "radius": radius}
    if path.suffix.lower() == ".csv":
        table, unit = _read_table(path), "row"
        columns = _columns(path, table, {"lon": lon, "lat": lat} | wanted)
    else:
        features, unit = _in_crs(read_features(path), path, crs), "feature"
        crs = features.crs if features.crs is not None else crs
        table = pd.DataFrame(features.drop(columns=features.geometry.name))
        columns = _columns(path, table, wanted)
        table, columns = _placed(features, table, columns)
    first = 2 if unit == "row" else 1
    plots = _numbers(path, table, columns, lambda index: f"{unit} {index + first}")
    plots["lon"], plots["lat"] = _degrees(
        path, plots["lon"].to_numpy(), plots["lat"].to_numpy(), crs
    )
    return plots.reset_index(drop=True)


def read_features(path: str | os.PathLike) -> geopandas.GeoDataFrame:
    """Read a vector file of any kind.

    Raises
    ------
    DataError
        If it cannot be read, or has no geometries.
    """
    import geopandas
    from pyogrio.errors import DataLayerError, DataSourceError

    path = Path(path).expanduser()
    if not path.exists():
        raise DataError(f"There is no file {path}.")
    try:
        features = geopandas.read_file(path)
    except (DataSourceError, DataLayerError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a vector file: {error}.") from None
    if not isinstance(features, geopandas.GeoDataFrame):
        raise DataError(f"{path} is a table without geometries: save it as .csv.")
    if features.empty:
        raise DataError(f"{path} has no feature in it.")
    return features


def _read_table(path: Path) -> pd.DataFrame:
    """Read a CSV file; empty rows keep their number and are dropped."""
    try:
        with path.open(encoding="utf-8-sig") as lines:
            header = lines.readline()
        table = pd.read_csv(
            path,
            sep=max(",;\t", key=header.count),
            encoding="utf-8-sig",
            skip_blank_lines=False,
            skipinitialspace=True,
            index_col=False,
        )
    except (OSError, ValueError) as error:  # pandas' own errors of reading are ValueErrors
        raise DataError(f"{path} cannot be read as a table: {error}.") from None
    table = table.rename(columns=lambda name: str(name).strip()).dropna(how="all")
    if table.empty:
        raise DataError(f"{path} has no row below its header.")
    return table


def _columns(path: Path, table: pd.DataFrame, wanted: dict[str, str]) -> dict[str, str]:
    """Column of the table for each column of the result; those that may be missing are left out."""
    found = {}
    for name, asked in wanted.items():
        column = _column(table.columns, asked or name)
        if column is not None:
            found[name] = column
        elif asked:
            raise DataError(
                f"{path} has no column '{asked}' for {name}. "
                f"{did_you_mean(asked, table.columns)} Its columns are {', '.join(table.columns)}."
            )
    return found


def _column(columns: Iterable[str], asked: str) -> str | None:
    """Find a column by its name, then without regard to capitals, then by another spelling."""
    columns = list(columns)
    if asked in columns:
        return asked
    low = asked.casefold()
    others = next((group for group in _SPELLINGS if low in group), ())
    for spelling in (low, *others):
        for column in columns:
            if column.casefold() == spelling:
                return column
    return None


def _in_crs(features: geopandas.GeoDataFrame, path: Path, crs: Any) -> geopandas.GeoDataFrame:
    """Give features the CRS that was asked for, and check that they are points or polygons."""
    known = {"Point", "MultiPoint", "Polygon", "MultiPolygon"}
    if other := sorted(set(features.geom_type.dropna()) - known):
        raise DataError(f"{path} has geometries that are no plots ({', '.join(other)}).")
    return features if crs is None else features.set_crs(_crs(crs), allow_override=True)


def _placed(
    features: geopandas.GeoDataFrame, table: pd.DataFrame, columns: dict[str, str]
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Table with the position of each feature and, for polygons without one, the radius (m)."""
    import shapely

    shapes = features.geometry
    middle = shapely.centroid(shapes.to_numpy())
    new = {"lon": shapely.get_x(middle), "lat": shapely.get_y(middle)}
    areal = shapes.geom_type.isin(["Polygon", "MultiPolygon"])
    if "radius" not in columns and areal.any():
        flat = (shapes if shapes.crs is not None else shapes.set_crs(4326)).to_crs(6933)
        area = flat.area.where(areal & np.isfinite(flat.area))  # 6933: equal area, metres
        new["radius"] = np.sqrt(area / np.pi).to_numpy()
    table = table.drop(columns=[name for name in new if name in table])
    return table.assign(**new), columns | {name: name for name in new}


def _numbers(path: Path, table: pd.DataFrame, columns: dict[str, str], row: Any) -> pd.DataFrame:
    """Columns of the result as numbers; every row with something else is told."""
    plots = pd.DataFrame(index=table.index)
    for name in ("lon", "lat", "agb", "agb_se", "radius"):
        if name not in columns:
            plots[name] = np.nan
            continue
        given = table[columns[name]]
        values = pd.to_numeric(given, errors="coerce").astype(float)
        bad = ~np.isfinite(values)
        if name in ("agb_se", "radius"):  # unknown for some plots
            bad &= given.notna()
        if name not in ("lon", "lat"):
            bad |= values < 0
        if bad.any():
            at = table.index[bad]
            told = [f"{row(i)} ({_shown(given[i])})" for i in at[:_TOLD]]
            more = f" and {len(at) - _TOLD:,} more" if len(at) > _TOLD else ""
            wants = "a number" if name in ("lon", "lat") else "a number of at least 0"
            raise DataError(
                f"{path}: the column '{columns[name]}' ({name}) must hold {wants}; it does not in "
                f"{', '.join(told)}{more}. Correct these rows or remove them."
            )
        plots[name] = values
    return plots


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return repr(value)
    return "empty" if pd.isna(value) else f"{value:g}"


def _degrees(path: Path, x: np.ndarray, y: np.ndarray, crs: Any) -> tuple[np.ndarray, np.ndarray]:
    """Longitude and latitude in degrees (WGS 84) of coordinates in a CRS, None for degrees."""
    from pyproj import Transformer

    lon, lat = x, y
    if crs is not None:
        crs = _crs(crs)
        lon, lat = Transformer.from_crs(crs, 4326, always_xy=True).transform(x, y)
    bad = ~((np.abs(lon) <= 180) & (np.abs(lat) <= 90))
    if not bad.any():
        return lon, lat
    at = int(np.flatnonzero(bad)[0])
    told = (
        f"{path}: {bad.sum():,} of {bad.size:,} positions are no longitude and latitude in degrees"
        f" (the first is {x[at]:.10g}, {y[at]:.10g})"
    )
    if crs is not None and not crs.is_geographic:
        raise DataError(f"{told} when they are read in {crs.to_string()}. Is it their CRS?")
    if (np.abs(x) <= 90).all() and (np.abs(y) <= 180).all():
        raise DataError(
            f"{told}: they look swapped. Exchange the columns given for lon and lat (in a vector "
            "file, the coordinates)."
        )
    if (np.maximum(np.abs(x), np.abs(y)) > 360).mean() > 0.5:
        raise DataError(f"{told}: they look like metres. Give their CRS, such as crs=32614.")
    if ((x >= 0) & (x <= 360) & (np.abs(y) <= 90)).all():
        raise DataError(f"{told}. Longitudes of 0 to 360 must be written as -180 to 180.")
    raise DataError(f"{told}. Correct or remove them.")


def _crs(crs: Any) -> Any:
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        return CRS.from_user_input(crs)
    except CRSError as error:
        raise RequestError(
            f"crs={crs!r} is no coordinate reference system: {error}. Give an EPSG code such as "
            "crs=32614."
        ) from None
