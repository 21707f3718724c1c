"""Polygons of other people: read, checked, and brought onto the pixels of a map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from geowb.errors import DataError, RequestError, did_you_mean
from geowb.labels.grid import Grid
from geowb.labels.plots import read_features

if TYPE_CHECKING:
    import geopandas
    import shapely
    from pyproj import CRS

__all__ = ["Zones", "on_grid", "read_zones"]

#: Metres between the points of an edge that is brought into another CRS.
_EDGE = 5_000


class Zones(NamedTuple):
    """Polygons that can be used."""

    names: list[Any]
    shapes: np.ndarray
    crs: CRS
    repaired: list[Any]


def read_zones(polygons: str | Path | geopandas.GeoDataFrame, by: str) -> Zones:
    """Open polygons and check them; those that cross themselves are repaired."""
    import shapely
    from pyproj import CRS

    told = f"'{polygons}'" if isinstance(polygons, (str, Path)) else "The table of polygons"
    table = _opened(polygons)
    if by and by not in table:
        raise RequestError(f"{told} has no column '{by}'. {did_you_mean(by, table.columns)}")
    if other := sorted(set(table.geom_type.dropna()) - {"Polygon", "MultiPolygon"}):
        raise RequestError(
            f"{told} holds {', '.join(other)}; a zone is a polygon. Make one, such as a circle "
            "about a point: points.to_crs(32722).buffer(15)."
        )
    if table.crs is None:
        raise DataError(
            f"{told} has no CRS, so there is no telling where the polygons lie. If you know it, "
            "give it: geopandas.read_file(...).set_crs(32722)."
        )
    names = table[by].tolist() if by else table.index.tolist()
    shapes = shapely.force_2d(table.geometry.to_numpy())
    crossed = ~shapely.is_valid(shapes) & ~shapely.is_missing(shapes)
    shapes[crossed] = shapely.make_valid(shapes[crossed], method="structure", keep_collapsed=False)
    for number in np.flatnonzero(shapely.is_missing(shapes) | ~(shapely.area(shapes) > 0)):
        raise DataError(
            f"{told}: polygon {number + 1} ({by or 'index'} {names[number]!r}) is empty. Draw it "
            "anew, or leave it out."
        )
    repaired = [names[number] for number in np.flatnonzero(crossed)]
    return Zones(names, shapes, CRS.from_user_input(table.crs), repaired)


def _opened(polygons: str | Path | geopandas.GeoDataFrame) -> geopandas.GeoDataFrame:
    import geopandas

    if isinstance(polygons, (str, Path)):
        return read_features(polygons)  # GeoJSON without a CRS is read as degrees
    if isinstance(polygons, geopandas.GeoSeries):
        polygons = polygons.to_frame("geometry")
    if not isinstance(polygons, geopandas.GeoDataFrame):
        raise RequestError(
            f"polygons is a {type(polygons).__name__}: give a file that geopandas reads, or a "
            "GeoDataFrame."
        )
    if polygons.empty:
        raise DataError("The table of polygons has no row.")
    return polygons


def on_grid(zones: Zones, grid: Grid) -> np.ndarray:
    """Polygons in pixels of a map: the column to the right, the row downwards from 0.

    Those that lie outside are empty.
    """
    import shapely
    from pyproj import Transformer

    shapes, around = zones.shapes, _surroundings(grid, zones.crs)
    if not zones.crs.equals(grid.crs, ignore_axis_order=True):
        meets = shapely.intersection(shapes, around)
        to_map = Transformer.from_crs(zones.crs, grid.crs, always_xy=True)
        shapes = shapely.transform(
            _with_points(meets, zones.crs), to_map.transform, interleaved=False
        )
        for number in np.flatnonzero(~np.isfinite(shapely.bounds(shapes)).all(axis=1)):
            if not shapely.is_empty(meets[number]):
                raise DataError(
                    f"Polygon {number + 1} ({zones.names[number]!r}) reaches beyond what can be "
                    f"shown in the map's CRS ({grid.crs.to_string()}). Cut it to the map's "
                    "surroundings, such as with polygons.clip(...)."
                )
    back = ~grid.transform

    def pixels(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return back.a * x + back.b * y + back.c, -(back.d * x + back.e * y + back.f)

    shapes = shapely.transform(shapes, pixels, interleaved=False)
    inside = shapely.area(shapely.clip_by_rect(shapes, 0, -grid.height, grid.width, 0)) > 0
    if not inside.any():
        raise _outside(zones, grid, around)
    return np.where(inside, shapes, shapely.Polygon())


def ground_areas(zones: Zones) -> np.ndarray:
    """Areas of whole polygons on the ellipsoid, m2, whether they lie on the map or not."""
    import shapely
    from pyproj import Transformer

    turned = shapely.orient_polygons(zones.shapes)  # holes count the other way round
    to_degrees = Transformer.from_crs(zones.crs, zones.crs.geodetic_crs, always_xy=True)
    shapes = shapely.transform(
        _with_points(turned, zones.crs), to_degrees.transform, interleaved=False
    )
    geod = zones.crs.get_geod()
    return np.array([abs(geod.geometry_area_perimeter(shape)[0]) for shape in shapes])


def _with_points(shapes: np.ndarray, crs: CRS) -> np.ndarray:
    """Polygons with points on their edges, which stay where they are in another CRS."""
    import shapely

    step = _EDGE / (crs.axis_info[0].unit_conversion_factor or 1)
    step = step / crs.ellipsoid.semi_major_metre if crs.is_geographic else step
    return shapely.segmentize(shapes, step)


def _surroundings(grid: Grid, crs: CRS) -> shapely.Geometry:
    """Box about a map in another CRS, a fiftieth larger on each side."""
    import shapely
    from pyproj import Transformer

    t, rows, cols = grid.transform, [0, 0, grid.height, grid.height], [0, grid.width] * 2
    x = [t.a * col + t.b * row + t.c for row, col in zip(rows, cols, strict=True)]
    y = [t.d * col + t.e * row + t.f for row, col in zip(rows, cols, strict=True)]
    to_other = Transformer.from_crs(grid.crs, crs, always_xy=True)
    west, south, east, north = to_other.transform_bounds(min(x), min(y), max(x), max(y))
    if not np.isfinite([west, south, east, north]).all():
        return shapely.box(-1e9, -1e9, 1e9, 1e9)  # it reaches beyond the Earth
    dy = (north - south) / 50
    if west <= east:
        dx = (east - west) / 50
        return shapely.box(west - dx, south - dy, east + dx, north + dy)
    dx = (east + 360 - west) / 50  # across the antimeridian
    return shapely.union(
        shapely.box(west - dx, south - dy, 180, north + dy),
        shapely.box(-180, south - dy, east + dx, north + dy),
    )


def _outside(zones: Zones, grid: Grid, around: shapely.Geometry) -> DataError:
    import shapely

    theirs = _spans(shapely.total_bounds(zones.shapes))
    return DataError(
        f"None of the {len(zones.names):,} polygons lies on the map. In their CRS "
        f"({zones.crs.to_string()}) they span {theirs}, and the map with its surroundings "
        f"{_spans(around.bounds)}; its own CRS is {grid.crs.to_string()}. Is the CRS of the "
        "polygons right, and are x and y in this order?"
    )


def _spans(bounds: Sequence[float]) -> str:
    west, south, east, north = (f"{value:.7g}" for value in bounds)
    return f"x {west} to {east}, y {south} to {north}"
