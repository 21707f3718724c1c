"""Maps on a screen: tiles from this process, with the value under the mouse and a legend."""

from __future__ import annotations

import math
import socket
import tempfile
import threading
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geowb.errors import RequestError
from geowb.maps.files import open_map
from geowb.maps.hover import explain
from geowb.maps.layers import Layer, composite_layer, map_layer
from geowb.maps.looks import file_of
from geowb.maps.tiles import tiles

if TYPE_CHECKING:
    import leafmap.leafmap
    import xarray as xr

__all__ = ["show_map"]

#: Server of the basemap.
_HOST = "tile.openstreetmap.org"
#: Seconds that it may take to answer.
_PATIENCE = 1.5
#: Pixels of a map's width that its first view counts on.
_WIDTH = 640


def show_map(
    scene: xr.Dataset | xr.DataArray | str | Path | None = None,
    *layers: xr.DataArray | str | Path,
    names: Sequence[str] | None = None,
    swipe: bool = False,
    limits: tuple[float, float] | None = None,
    cmap: str = "viridis",
    basemap: bool | None = None,
    bands: Sequence[Any] = (),
    time: int = 0,
    opacity: float = 1.0,
    height: int = 500,
    **options: Any,
) -> leafmap.leafmap.Map:
    """Show a scene and maps on a map that can be moved, with the value under the mouse.

    >>> show_map("agb.tif")  # doctest: +SKIP
    >>> show_map(scene, "agb.tif", opacity=0.7)  # doctest: +SKIP
    >>> show_map("truth.tif", "predicted.tif", swipe=True, limits=(0, 300))  # doctest: +SKIP

    Parameters
    ----------
    scene
        Lies below: a scene with ``reflectance``, shown as three bands, a raster of three bands or
        more, or a map like `layers`.
    layers
        Quantities or classes, as `geowb.maps.open_map` takes them, each on top of those before it.
    names
        Of the maps in their order; a scene of bands may be left out.
    swipe
        Compare two maps with a line that is moved: the two layers, or `scene` and the one layer.
    limits
        Values at the ends of the colour bars. If left out, the 1st and 99th percentile; maps of the
        same unit share them.
    cmap
        A colour map of matplotlib, for quantities.
    basemap
        Whether OpenStreetMap lies below. If left out, where its server can be reached.
    bands, time
        Of a scene: three bands for red, green and blue, each stretched between its 2nd and 98th
        percentile, and the number of the date. SWIR_1, NIR_NARROW and RED if left out, or the first
        three.
    opacity
        Of `layers`, from 0 to 1.
    height
        Of the map, in pixels.
    **options
        Of `leafmap.Map`, such as ``toolbar_control=True``.

    Returns
    -------
    leafmap.Map
        More can be added to it: ``show_map("agb.tif").add_geojson("plots.geojson")``.

    Raises
    ------
    RequestError
        If there is no such map, or the request makes no sense.
    DataError
        If a map has no CRS or cannot be read.

    Notes
    -----
    The tiles come from this kernel, and need no network. They are gone when the kernel ends, and a
    stored notebook holds their addresses, with the paths of the files: for what is stored or handed
    on use `geowb.plot_map`. Arrays are written into temporary files, as they are, which are removed
    when the map is closed and when Python ends.
    """
    count = len(layers) + (scene is not None)
    if swipe and count != 2 and len(layers) != 2:
        raise RequestError(f"A swipe compares two maps; this is {count}.")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="geowb-map-")))
        shown = [] if scene is None else [_bottom(scene, folder, bands, time, limits, cmap)]
        for source in layers:
            shown.append(map_layer(source, _name(source), folder, limits=limits, cmap=cmap))
        shown = _shared(_named(shown, names), limits)
        drawn = [
            tiles(one, opacity=1.0 if scene is not None and one is shown[0] else opacity)
            for one in shown
        ]
        made = _canvas(drawn, basemap, height, options)
        _put(made, drawn, swipe)
        explain(made, shown)
        clean = weakref.finalize(made, stack.pop_all().close)
    made.observe(lambda change: None if change["new"] else clean(), "comm")  # when it is closed
    return made


# --- which layers ----------------------------------------------------------------------------


def _bottom(
    scene: Any,
    folder: Path,
    bands: Sequence[Any],
    time: int,
    limits: tuple[float, float] | None,
    cmap: str,
) -> Layer:
    """Make the lowest layer: three bands of a scene or of a raster, or a map."""
    import xarray as xr

    if isinstance(scene, xr.Dataset):
        return composite_layer(_date(scene, time), "scene", folder, bands=bands)
    found = open_map(scene)
    if "band" not in found.dims:
        return map_layer(scene, _name(scene), folder, limits=limits, cmap=cmap)
    if len(found.dims) > 3:
        raise RequestError(
            f"A scene is shown as (band, y, x); this has {', '.join(map(str, found.dims))}: choose "
            "one of the others with isel."
        )
    return composite_layer(found, _name(scene), folder, file=file_of(scene), bands=bands)


def _date(scene: xr.Dataset, time: int) -> xr.DataArray:
    """Take one date of a scene's reflectance."""
    if "reflectance" not in scene:
        raise RequestError(
            f"The scene has no reflectance, but {', '.join(map(str, scene.data_vars))}: show one "
            "of them as scene['...']."
        )
    planes = scene["reflectance"]
    if "sample" in planes.dims:
        raise RequestError("A set of separate images has no place on a map: show one with plots.")
    if "time" not in planes.dims:
        return planes
    if not -planes.sizes["time"] <= time < planes.sizes["time"]:
        raise RequestError(f"The scene has {planes.sizes['time']} dates; time is {time}.")
    return planes.isel(time=time, drop=True)


def _name(source: Any) -> str:
    """Name of a map that is given none."""
    if isinstance(source, (str, Path)):
        return Path(str(source).rstrip("/")).stem
    return str(source.name or source.attrs.get("long_name") or "map")


def _named(shown: list[Layer], names: Sequence[str] | None) -> list[Layer]:
    """Give layers their names, each one once."""
    chosen = [one.name for one in shown] if names is None else [str(name) for name in names]
    if shown and shown[0].bands and len(chosen) == len(shown) - 1:
        chosen = [shown[0].name, *chosen]
    if len(chosen) != len(shown):
        raise RequestError(f"There are {len(shown)} maps and {len(chosen)} names for them.")
    for at, name in enumerate(chosen):
        before = sum(other == name for other in chosen[:at])
        chosen[at] = f"{name} ({before + 1})" if before else name
    return [replace(one, name=name) for one, name in zip(shown, chosen, strict=True)]


def _shared(shown: list[Layer], limits: Any) -> list[Layer]:
    """Give quantities of one unit the same limits, so that their colours can be compared."""
    if limits is not None:
        return shown
    spans: dict[str, list[tuple[float, float]]] = {}
    for one in shown:
        if not one.bands and one.look.classes is None and one.look.units:
            spans.setdefault(one.look.units, []).append(one.look.limits)
    common = {
        unit: (min(low for low, _ in ends), max(high for _, high in ends))
        for unit, ends in spans.items()
    }
    return [
        replace(one, look=replace(one.look, limits=common.get(one.look.units, one.look.limits)))
        for one in shown
    ]


# --- the map ---------------------------------------------------------------------------------


def _canvas(drawn: list[Any], basemap: bool | None, height: int, options: dict[str, Any]) -> Any:
    """Make the map, over what the layers cover."""
    from leafmap.leafmap import Map

    plain = {"toolbar_control": False, "draw_control": False, "height": f"{height}px"}
    options = plain | options
    if drawn:
        corners = [corner for one in drawn for corner in one.bounds]
        south, west = (min(corner[axis] for corner in corners) for axis in (0, 1))
        north, east = (max(corner[axis] for corner in corners) for axis in (0, 1))
        options = _view(south, west, north, east, height) | options
    made = Map(**options)
    if not (_reachable() if basemap is None else basemap):
        made.remove(made.layers[0])
    return made


def _view(south: float, west: float, north: float, east: float, tall: float) -> dict[str, Any]:
    """Centre and zoom at which bounds fill a map."""

    def down(lat: float) -> float:
        """Mercator's way from the equator, as a share of the world."""
        return math.asinh(math.tan(math.radians(max(-85.05, min(85.05, lat))))) / math.tau

    middle = math.degrees(math.atan(math.sinh((down(south) + down(north)) / 2 * math.tau)))
    across = max((east - west) / 360, (down(north) - down(south)) * _WIDTH / tall, 1e-9)
    zoom = math.floor(math.log2(_WIDTH / 256 / across))
    return {"center": (middle, (west + east) / 2), "zoom": max(0, min(zoom, 20))}


@cache
def _reachable() -> bool:
    """Whether the basemap's server answers; says once that it does not."""
    answered = threading.Event()

    def ask() -> None:
        try:
            socket.create_connection((_HOST, 443), timeout=_PATIENCE).close()
        except OSError:
            return
        answered.set()

    asking = threading.Thread(target=ask, daemon=True)  # looking up the name has no time limit
    asking.start()
    asking.join(_PATIENCE)
    if not answered.is_set():
        print(  # noqa: T201 - for the person at the notebook
            f"There is no basemap, as {_HOST} cannot be reached; the maps need no network."
        )
    return answered.is_set()


def _put(made: Any, drawn: list[Any], swipe: bool) -> None:
    """Put layers on the map, and a control that shows and hides them."""
    from ipyleaflet import SplitMapControl

    over = drawn[-2:] if swipe else []
    for one in drawn[: len(drawn) - len(over)]:
        made.add(one)
    if over:
        made.add(SplitMapControl(left_layer=over[0], right_layer=over[1]))
    elif drawn:
        made.add_layer_manager(opened=False)
