"""Relief, streams and the light that falls on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from geowb.world.fields import PIXEL, Array, Grid, Streams, gaussian_field, smoothstep
from geowb.world.regions import Region

__all__ = ["Terrain", "illumination", "make_terrain"]

#: Side of a cell of the drainage graph, in pixels.
_CELL = 4


@dataclass(frozen=True)
class Terrain:
    """Relief on the domain: metres throughout."""

    elevation: Array
    stream_distance: Array  # from the nearest stream's centre line
    stream_width: Array  # of that stream
    above_stream: Array  # height above it

    @property
    def slope(self) -> tuple[Array, Array]:
        """Rise over run towards the south and towards the east."""
        south, east = np.gradient(self.elevation, PIXEL)
        return south, east


def make_terrain(streams: Streams, grid: Grid, region: Region) -> Terrain:
    """Fractal relief, drained by a tree of streams that run in its lows and carve valleys."""
    rough = gaussian_field(streams.rng("relief"), grid, region.relief_scale, rough=1.1)
    y, x, width = _streams(streams, grid, region, rough)
    distance, nearest = _nearest(grid, y, x, width)
    # Hillslopes rise from the streams; larger streams lie deeper, and valleys widen smoothly.
    order = np.log2(1.0 + nearest / 4.0)
    for _ in range(2):
        order = ndimage.uniform_filter(order, 41, mode="nearest")
    valley = 4.0 * (2.0**order - 1.0)
    incision = 0.35 * order * np.exp(-distance / (5.0 * valley + 250.0))
    hillslope = 1.5 * (1.0 - np.exp(-distance / (0.45 * region.relief_scale)))
    elevation = region.upland + region.relief * (0.75 * rough + hillslope - incision)
    flood = smoothstep(distance, 0.5 * valley, 6.0 * valley + 60.0)
    rise = region.relief * hillslope * flood * (1.0 + 0.35 * rough)
    return Terrain(elevation, distance, nearest, np.maximum(rise, 0.0))


def _streams(
    streams: Streams, grid: Grid, region: Region, rough: Array
) -> tuple[Array, Array, Array]:
    """Points along the streams (row and column in pixels) and the streams' width there (m)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import dijkstra

    rng = streams.rng("streams")
    m = grid.n // _CELL
    cost = np.exp(1.1 * rough[_CELL // 2 :: _CELL, _CELL // 2 :: _CELL])
    cost *= rng.uniform(0.6, 1.4, (m, m))
    index = np.arange(m * m).reshape(m, m)
    rows, cols, weights = [], [], []
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        a = (slice(0, m - dy), slice(max(0, -dx), m - max(0, dx)))
        b = (slice(dy, m), slice(max(0, dx), m + min(0, dx)))
        rows.append(index[a].ravel())
        cols.append(index[b].ravel())
        weights.append(((cost[a] + cost[b]) * np.hypot(dy, dx)).ravel())
    graph = coo_array(
        (np.concatenate(weights), (np.concatenate(rows), np.concatenate(cols))), (m * m, m * m)
    ).tocsr()
    # The river enters on one side and leaves on the opposite one, each at its lowest cell.
    side = int(rng.integers(4))
    edges = [index[0], index[:, -1], index[-1], index[:, 0]]
    flat = cost.ravel()
    middle = slice(m // 5, m - m // 5)
    outlet, inlet = (int(e[middle][np.argmin(flat[e[middle]])]) for e in
                     (edges[side], edges[(side + 2) % 4]))  # fmt: skip
    reach, down = dijkstra(graph, directed=False, indices=outlet, return_predecessors=True)
    area = [(_CELL * PIXEL / 1000.0) ** 2] * (m * m)
    low, high = np.log(region.river_area)
    area[inlet] += float(np.exp(rng.uniform(low, high)))
    towards = down.tolist()
    for node in np.argsort(-reach, kind="stable")[:-1].tolist():
        area[towards[node]] += area[node]
    drained = np.array(area)

    # Each stretch is a quadratic spline from the middle of one graph edge to that of the next.
    centre = (np.stack(np.divmod(index.ravel(), m)) + 0.5) * _CELL
    centre += rng.uniform(-0.42, 0.42, centre.shape) * _CELL
    upper = np.flatnonzero((drained > region.stream_area) & (down >= 0))
    upper = upper[down[down[upper]] >= 0]
    upper = upper[np.argsort(drained[upper], kind="stable")]
    knee, lower = down[upper], down[down[upper]]
    t = (np.arange(10) + 0.5) / 10.0
    start = 0.5 * (centre[:, upper] + centre[:, knee])[..., None]
    end = 0.5 * (centre[:, knee] + centre[:, lower])[..., None]
    points = start * (1 - t) ** 2 + 2 * centre[:, knee, None] * t * (1 - t) + end * t**2
    width = np.repeat(2.6 * drained[knee] ** 0.5, t.size)  # hydraulic geometry, w ~ A^0.5
    return points[0].ravel(), points[1].ravel(), width


def _nearest(grid: Grid, y: Array, x: Array, width: Array) -> tuple[Array, Array]:
    """Distance (m) of each pixel from the nearest stream point, and that stream's width (m)."""
    shape = (grid.n, grid.n)
    row = np.clip(y.astype(int), 0, grid.n - 1)
    col = np.clip(x.astype(int), 0, grid.n - 1)
    py, px, pw = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    dry = np.ones(shape, bool)
    # Points come in order of size, so the largest stream in a pixel stays.
    py[row, col], px[row, col], pw[row, col], dry[row, col] = y, x, width, False
    if dry.all():
        return np.full(shape, 1e5), np.full(shape, 1.0)
    i, j = ndimage.distance_transform_edt(dry, return_distances=False, return_indices=True)
    axis = np.arange(grid.n) + 0.5
    distance = PIXEL * np.hypot(py[i, j] - axis[:, None], px[i, j] - axis[None, :])
    return distance, pw[i, j]


def illumination(
    slope: tuple[Array, Array], zenith: float, azimuth: float, soften: float = 0.45
) -> Array:
    """Ratio of the light on a slope to that on level ground, softened by diffuse light.

    The form of the C-correction (Teillet et al. 1982): (cos i + c) / (cos zenith + c).
    Angles in radians, azimuth clockwise from north.
    """
    south, east = slope
    towards_north, towards_east = np.cos(azimuth), np.sin(azimuth)
    # The surface normal is (-dz/dx, -dz/dy, 1); rows run south.
    cos_i = np.cos(zenith) + np.sin(zenith) * (south * towards_north - east * towards_east)
    cos_i = np.maximum(cos_i / np.sqrt(1.0 + south * south + east * east), 0.0)
    return (cos_i + soften) / (np.cos(zenith) + soften)
