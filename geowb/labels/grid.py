"""From points to sparse labels on a scene's grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from geowb.errors import DataError, RequestError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from affine import Affine
    from pyproj import CRS

__all__ = ["Grid", "to_grid", "told"]


@dataclass(frozen=True)
class Grid:
    """Pixels of a scene: CRS, transform from column and row to x and y, rows and columns."""

    crs: CRS
    transform: Affine
    height: int
    width: int

    @classmethod
    def of(cls, scene: xr.Dataset) -> Grid:
        """Grid of a scene; a DataError where it has none."""
        import rioxarray  # noqa: F401 - gives .rio
        from pyproj import CRS

        if "sample" in scene.dims:
            raise DataError("Points fall on one grid; a set of separate images has many.")
        if scene.rio.crs is None:
            raise DataError(
                "The scene has no CRS, so there is no telling where points fall on it. If you know "
                "it, give it: scene = scene.rio.write_crs(32722)."
            )
        # Anew from the coordinates: the stored one is that of the scene before it was thinned.
        transform = scene.rio.transform(recalc=True)
        crs = CRS.from_user_input(scene.rio.crs)
        return cls(crs, transform, scene.sizes["y"], scene.sizes["x"])

    @property
    def pixel(self) -> float:
        """Edge of a pixel (the root of its area), in units of the CRS."""
        return float(np.sqrt(abs(self.transform.determinant)))

    def pixels(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row and column in pixels (not whole) of positions in the CRS; NaN stays."""
        back = ~self.transform
        x, y = (np.where(np.isfinite(x) & np.isfinite(y), v, np.nan) for v in (x, y))
        col = back.a * x + back.b * y + back.c
        row = back.d * x + back.e * y + back.f
        return row, col

    def holds(self, row: np.ndarray, col: np.ndarray) -> np.ndarray:
        """Which positions (in pixels) lie in the scene."""
        return (row >= 0) & (row < self.height) & (col >= 0) & (col < self.width)

    def project(self, lon: np.ndarray, lat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row and column in pixels (not whole) of degrees, NaN where there is none."""
        from pyproj import Transformer

        return self.pixels(
            *Transformer.from_crs(4326, self.crs, always_xy=True).transform(lon, lat)
        )

    def degrees(self, row: np.ndarray, col: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Longitude and latitude of positions in pixels."""
        from pyproj import Transformer

        t = self.transform
        x, y = t.a * col + t.b * row + t.c, t.d * col + t.e * row + t.f
        return Transformer.from_crs(self.crs, 4326, always_xy=True).transform(x, y)

    def metres(self, row: np.ndarray, col: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Metres that one unit of the CRS is along x and along y, at positions in pixels."""
        if not self.crs.is_geographic:
            unit = np.full(np.shape(row), self.crs.axis_info[0].unit_conversion_factor)
            return unit, unit
        from pyproj import Geod

        lon, lat = (np.asarray(v) for v in self.degrees(row, col))
        geod, half = Geod(ellps="WGS84"), 5e-4
        along = geod.inv(lon - half, lat, lon + half, lat)[2]
        across = geod.inv(lon, lat - half, lon, lat + half)[2]
        return np.asarray(along) * 1e3, np.asarray(across) * 1e3

    def middle(self) -> tuple[np.ndarray, np.ndarray]:
        """Position of the middle of the scene, in pixels."""
        return np.array(self.height / 2), np.array(self.width / 2)


def to_grid(points: pd.DataFrame, scene: xr.Dataset, *, min_points: int = 1) -> xr.Dataset:
    """Put shots or plots on the grid of a scene as sparse labels.

    >>> scene = to_grid(usable(read_gedi(file)), scene)  # doctest: +SKIP
    >>> print(told(scene))  # doctest: +SKIP
    733 shots, 412 inside the scene, on 398 pixels (0.15 %).

    Parameters
    ----------
    points
        ``lon``, ``lat`` (degrees, WGS 84), ``agb`` (Mg/ha), and where known ``agb_se`` (Mg/ha) and
        ``radius`` (m). A point labels the pixel that holds it; a plot with a radius of half a pixel
        or more labels every pixel whose centre lies within it, and the one that holds it.
    scene
        Has ``y`` and ``x``, a CRS and coordinates; an earlier ``agb`` is replaced.
    min_points
        Pixels with fewer points stay unlabelled.

    Returns
    -------
    xarray.Dataset
        The scene with ``agb`` and ``agb_se`` (y, x) float32, Mg/ha, NaN where unlabelled, and
        ``agb_count`` int16, the points that a pixel has (those below `min_points` included).
        ``agb`` has the attributes ``points``, ``points_inside``, ``pixels_labelled`` and
        ``pixels_shared`` (with more than one point).

    Raises
    ------
    DataError
        If the scene has no CRS, a point has no biomass, no point lies inside (the message says how
        far away they are, and whether the coordinates look swapped or projected), or no pixel has
        `min_points`.

    Notes
    -----
    Several points in a pixel: ``agb`` is their mean, ``agb_se`` is sqrt(sum of se^2) / n, the
    standard error of a mean of independent errors. Errors of L4A shots are partly shared (one
    model a stratum), so with n > 1 this is a lower bound. A plot whose middle lies outside is left
    out even where it reaches in.
    """
    if min_points < 1:
        raise RequestError(f"min_points must be 1 or more; it is {min_points}.")
    lon, lat, agb, se, radius = _arrays(points)
    grid = Grid.of(scene)
    row, col = grid.project(lon, lat)
    inside = np.flatnonzero(grid.holds(row, col))
    if not inside.size:
        raise _outside(grid, lon, lat)
    owner, pixel = _covered(grid, row[inside], col[inside], radius[inside])
    layers = _means(agb[inside][owner], se[inside][owner], pixel, grid, min_points)
    labelled = int(np.isfinite(layers["agb"]).sum())
    if not labelled:
        raise DataError(
            f"No pixel has min_points={min_points} points; the most that one has is "
            f"{layers['agb_count'].max()}."
        )
    counts = {
        "points": len(points),
        "points_inside": int(inside.size),
        "pixels_labelled": labelled,
        "pixels_shared": int((np.isfinite(layers["agb"]) & (layers["agb_count"] > 1)).sum()),
        "points_are": _kind(points),
    }
    return _assigned(scene, layers, counts)


def _arrays(points: pd.DataFrame) -> list[np.ndarray]:
    """Columns of the points as numbers; a DataError where biomass or position is missing."""
    if absent := [name for name in ("lon", "lat", "agb") if name not in points]:
        raise DataError(
            f"Points need the columns lon, lat and agb; {', '.join(absent)} is missing from "
            f"{', '.join(map(str, points.columns))}."
        )
    if points.empty:
        raise DataError("There is no point to put on the grid.")
    filled = points.reindex(columns=["lon", "lat", "agb", "agb_se", "radius"])
    columns = [filled[name].to_numpy(dtype=float, na_value=np.nan) for name in filled]
    bad = ~np.isfinite(np.stack(columns[:3])).all(axis=0)
    if bad.any():
        raise DataError(
            f"{bad.sum():,} of {bad.size:,} points have no position or no agb. Take those of "
            "labels.usable(shots)."
        )
    return columns


def _covered(
    grid: Grid, row: np.ndarray, col: np.ndarray, radius: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pair each point with every pixel that it labels: numbers of points, numbers of pixels."""
    whole = np.floor(row).astype(np.int64) * grid.width + np.floor(col).astype(np.int64)
    owners, pixels = [np.arange(row.size)], [whole]
    mx, my = grid.metres(row, col)
    for i in np.flatnonzero(radius >= 0.5 * grid.pixel * np.sqrt(mx * my)):
        extra = _disc(grid, row[i], col[i], radius[i] / mx[i], radius[i] / my[i])
        extra = extra[extra != whole[i]]
        owners.append(np.full(extra.size, i))
        pixels.append(extra)
    return np.concatenate(owners), np.concatenate(pixels)


def _disc(grid: Grid, row: float, col: float, rx: float, ry: float) -> np.ndarray:
    """Pixels whose centres lie within an ellipse of these half-axes (in the CRS) about a point."""
    t, reach = grid.transform, max(rx, ry)
    back = ~t
    high, wide = reach * np.hypot(back.d, back.e), reach * np.hypot(back.a, back.b)
    rows = np.arange(max(0, int(row - high)), min(grid.height, int(row + high) + 1))
    cols = np.arange(max(0, int(col - wide)), min(grid.width, int(col + wide) + 1))
    down, across = np.meshgrid(rows + 0.5 - row, cols + 0.5 - col, indexing="ij")
    dx, dy = t.a * across + t.b * down, t.d * across + t.e * down
    near = (dx / rx) ** 2 + (dy / ry) ** 2 <= 1.0
    return (rows[:, None] * grid.width + cols[None, :])[near]


def _means(
    agb: np.ndarray, se: np.ndarray, pixel: np.ndarray, grid: Grid, min_points: int
) -> dict[str, np.ndarray]:
    """Mean, standard error and number of the points of each pixel."""
    shape, size = (grid.height, grid.width), grid.height * grid.width
    count = np.bincount(pixel, minlength=size).reshape(shape)
    total = np.bincount(pixel, weights=agb, minlength=size).reshape(shape)
    square = np.bincount(pixel, weights=se**2, minlength=size).reshape(shape)
    enough, n = count >= min_points, np.maximum(count, 1)
    return {
        "agb": np.where(enough, total / n, np.nan).astype(np.float32),
        "agb_se": np.where(enough, np.sqrt(square) / n, np.nan).astype(np.float32),
        "agb_count": np.minimum(count, np.iinfo(np.int16).max).astype(np.int16),
    }


_NAMES = {
    "agb": ("above-ground biomass density", "Mg/ha"),
    "agb_se": ("standard error of agb", "Mg/ha"),
    "agb_count": ("number of points in the pixel", "1"),
}


def _assigned(scene: xr.Dataset, layers: dict[str, np.ndarray], counts: dict) -> xr.Dataset:
    encoding = {"grid_mapping": scene.rio.grid_mapping}
    scene = scene.drop_vars([name for name in layers if name in scene])
    variables: dict[str, Any] = {}
    for name, (long_name, units) in _NAMES.items():
        attrs = {"long_name": long_name, "units": units} | (counts if name == "agb" else {})
        variables[name] = (("y", "x"), layers[name], attrs, encoding)
    return scene.assign(variables)


def _kind(points: pd.DataFrame) -> str:
    return "shots" if "beam" in points else "plots" if "radius" in points else "points"


def told(scene: xr.Dataset) -> str:
    """Say in a sentence or two how many points became labels of a scene.

    >>> print(told(to_grid(shots, scene)))  # doctest: +SKIP
    733 shots, 412 inside the scene, on 398 pixels (0.15 %).
    """
    agb = scene["agb"]
    labelled = agb.attrs.get("pixels_labelled", int(agb.notnull().sum()))
    percent = 100 * labelled / agb.size
    share = f"{labelled:,} pixels ({percent:{'.2f' if percent >= 0.01 else '.1g'}} %)"
    if "points" not in agb.attrs:
        return f"{share} are labelled."
    kind, shared = agb.attrs["points_are"], agb.attrs["pixels_shared"]
    text = f"{agb.attrs['points']:,} {kind}, {agb.attrs['points_inside']:,} inside the scene, "
    text += f"on {share}."
    if shared:
        hold, one = ("pixel holds", "takes") if shared == 1 else ("pixels hold", "take")
        text += f" {shared:,} {hold} more than one of the {kind} and {one} their mean."
    return text


def _outside(grid: Grid, lon: np.ndarray, lat: np.ndarray) -> DataError:
    """Say how far away the points are, and what may be wrong with their coordinates."""
    text = f"None of the {lon.size:,} points lies inside the scene"
    swapped = int(grid.holds(*grid.project(lat, lon)).sum())
    if swapped:
        return DataError(
            f"{text}, but {swapped:,} would with lon and lat exchanged: the coordinates are "
            "swapped. Exchange the two columns."
        )
    raw = int(grid.holds(*grid.pixels(lon, lat)).sum())
    if raw and not grid.crs.is_geographic:
        code = grid.crs.to_epsg()
        return DataError(
            f"{text}, but {raw:,} would if their numbers are metres in the scene's own CRS and not "
            f"degrees. Read them with crs={code or repr(grid.crs.to_string())}."
        )
    if not ((np.abs(lon) <= 180) & (np.abs(lat) <= 90)).any():
        return DataError(f"{text}: their lon and lat are no degrees. Read them with their crs.")
    far, where = _nearest(grid, lon, lat)
    shown = f"{far:,.0f}" if far >= 10 else f"{far:.1f}"
    east, north = map(float, grid.degrees(*grid.middle()))
    return DataError(
        f"{text}; the nearest is {shown} km {where} of the scene, whose middle is at "
        f"lat {north:.4f}, lon {east:.4f}. Take granules or plots of this place, or a scene of "
        "theirs."
    )


_WINDS = (
    "north", "north-east", "east", "south-east", "south", "south-west", "west", "north-west",
)  # fmt: skip


def _nearest(grid: Grid, lon: np.ndarray, lat: np.ndarray) -> tuple[float, str]:
    """Distance (km) from the scene's edge to the nearest of points outside, and where it lies."""
    from pyproj import Geod

    valid = (np.abs(lon) <= 180) & (np.abs(lat) <= 90)
    lon, lat = lon[valid], lat[valid]
    turn = np.linspace(0.0, 1.0, 101)
    edge = np.concatenate([[turn, 0 * turn], [turn, 0 * turn + 1], [0 * turn, turn],
                           [0 * turn + 1, turn]], axis=1)  # fmt: skip
    east, north = map(np.asarray, grid.degrees(edge[0] * grid.height, edge[1] * grid.width))
    # The nearest few by straight lines through the Earth, then on the ellipsoid.
    rim, at = _on_sphere(east, north), _on_sphere(lon, lat)
    few = np.unique([_largest(at @ direction) for direction in rim[::20]])
    a, b = np.meshgrid(few, np.arange(east.size), indexing="ij")
    azimuth, _, metres = Geod(ellps="WGS84").inv(
        east[b].ravel(), north[b].ravel(), lon[a].ravel(), lat[a].ravel()
    )
    least = int(np.argmin(metres))
    return metres[least] / 1000, _WINDS[round(azimuth[least] / 45) % 8]


def _largest(values: np.ndarray, count: int = 20) -> np.ndarray:
    count = min(count, values.size)
    return np.argpartition(-values, count - 1)[:count]


def _on_sphere(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    lam, phi = np.radians(lon), np.radians(lat)
    return np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)], axis=1)
