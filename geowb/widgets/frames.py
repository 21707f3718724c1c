"""Parts of a scene as arrays: small scenes from memory, large files from their overviews."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geowb.bands import HLS6
from geowb.composite import FMASK_CLOUDY, FMASK_SHADOW
from geowb.errors import DataError, RequestError
from geowb.widgets.work import Turn

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["MOST", "Files", "Frames", "View", "open_frames"]

#: Pixels along an edge of a picture.
MOST = 512
#: Bytes of a scene that is held in memory as a whole.
_HELD = 400 * 2**20
#: Bytes of GDAL's block cache: two rows of blocks of a wide scene of six bands.
_CACHE = 256 * 2**20
#: Rows that are read at a time of what has no chunks.
_STRIP = 512
#: Dates of which a few pixels are compared with the files.
_PROVED = 6
#: Pixels of one date up to which it is read whole where it has no overviews.
_WHOLE = 2048**2


@dataclass(frozen=True)
class View:
    """Rows and columns of a scene, half open.

    >>> View(0, 100, 0, 200).zoomed(0.5, (0.5, 0.5), (100, 200))
    View(top=25, bottom=75, left=50, right=150)
    """

    top: int
    bottom: int
    left: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.bottom - self.top, self.right - self.left

    def zoomed(
        self, factor: float, at: Sequence[float], whole: tuple[int, int], least: int = 16
    ) -> View:
        """View of another size about a place, which are shares of this one's width and height."""
        edges: list[int] = []
        for axis, share in ((0, at[1]), (1, at[0])):
            start, size = ((self.top, self.left)[axis], self.shape[axis])
            length = int(np.clip(round(size * factor), min(least, whole[axis]), whole[axis]))
            first = start + share * size - share * length
            first = int(np.clip(round(first), 0, whole[axis] - length))
            edges += [first, first + length]
        return View(*edges)

    def moved(self, right: float, down: float, whole: tuple[int, int]) -> View:
        """Move by shares of its width and height, inside the scene."""
        rows, columns = self.shape
        top = int(np.clip(self.top + round(down * rows), 0, whole[0] - rows))
        left = int(np.clip(self.left + round(right * columns), 0, whole[1] - columns))
        return View(top, top + rows, left, left + columns)

    def pixel(self, at: Sequence[float]) -> tuple[int, int]:
        """Row and column at shares of the width and height."""
        rows, columns = self.shape
        return (
            self.top + min(int(at[1] * rows), rows - 1),
            self.left + min(int(at[0] * columns), columns - 1),
        )

    def share(self, row: float, column: float) -> list[float]:
        """Shares of the width and height at which a place lies; beyond 0 to 1 outside."""
        rows, columns = self.shape
        return [(column - self.left) / columns, (row - self.top) / rows]

    def step(self, most: int) -> int:
        """Every how many pixels one is read, for a picture of at most so many an edge."""
        return max(1, -(-max(self.shape) // most))


@dataclass(frozen=True)
class Files:
    """Where the reflectance of a scene is stored: a file a date, and which channel a band is."""

    paths: tuple[str, ...]
    channels: tuple[tuple[int, ...], ...]  # from 1, by date
    bands: tuple[str, ...]
    times: tuple[str, ...]
    nodata: tuple[float, ...] = ()

    def fits(self, planes: xr.DataArray) -> bool:
        """Whether an array is what these files hold, and not a part or a rearrangement of it."""
        import rasterio

        times = _times(planes)
        if len(set(times)) < len(times) or times != self.times:
            return False
        if tuple(str(one) for one in planes["band"].values) != self.bands:
            return False
        turned = {"x", "y"} <= set(planes.coords) and min(planes.sizes["x"], planes.sizes["y"]) > 1
        with rasterio.open(self.paths[0]) as raster:
            same = planes.sizes["y"] == raster.height and planes.sizes["x"] == raster.width
            place = planes.rio.transform(recalc=turned)
            return same and place.almost_equals(raster.transform, 1e-3)

    def agrees(self, frames: Frames) -> bool:
        """Whether the files hold the values of a scene, by a few pixels: its arrays may be new."""
        rows, columns = frames.shape
        dates = np.unique(np.linspace(0, frames.count - 1, min(frames.count, _PROVED)).astype(int))
        for number, date in enumerate([0, 0, *dates.tolist()]):
            share = (0.21, 0.83, 0.5)[min(number, 2)]
            top, left = int(share * rows), int((1 - share) * columns)
            view = View(top, min(top + 4, rows), left, min(left + 4, columns))
            ours = self.read(date, frames.bands, view, 1, Turn())
            if not np.array_equal(ours, frames.values(date, frames.bands, view), equal_nan=True):
                return False
        return True

    def overviews(self) -> bool:
        """Whether a small picture of each file can be read quickly."""
        import rasterio

        for path in set(self.paths):
            with rasterio.open(path) as raster:
                coarsest = max(raster.overviews(1), default=1)
                if max(raster.shape) / coarsest > 4 * MOST:
                    return False
        return True

    def read(
        self, date: int, bands: Sequence[str], view: View, step: int, turn: Turn
    ) -> np.ndarray:
        """Read bands of one date ``(B, y, x)``, float32 with NaN, each `step` pixels one."""
        import rasterio
        from rasterio.enums import Resampling
        from rasterio.windows import Window

        rows, columns = (-(-edge // step) for edge in view.shape)
        out = np.empty((len(bands), rows, columns), np.float32)
        numbers = [self.channels[date][self.bands.index(band)] for band in bands]
        path = self.paths[date]
        with _told(path), rasterio.Env(GDAL_CACHEMAX=_CACHE), rasterio.open(path) as raster:
            strips = [(0, rows)]
            if step > 1 and not raster.overviews(1):  # else one read would be of the whole
                high = max(1, raster.block_shapes[0][0] // step)
                strips = [(at, min(at + high, rows)) for at in range(0, rows, high)]
            for first, last in strips:
                turn.at(first / rows)
                top = view.top + first * step
                bottom = min(view.top + last * step, view.bottom)
                where = Window(view.left, top, view.shape[1], bottom - top)
                found = raster.read(
                    numbers,
                    window=where,
                    out_shape=(len(bands), last - first, columns),
                    resampling=Resampling.nearest,
                    masked=True,
                )
                out[:, first:last] = found.astype(np.float32).filled(np.nan)
        for value in self.nodata:
            out[out == value] = np.nan
        return out


class Frames:
    """A scene as parts are wanted of it: three bands of a date, a label, one pixel over all dates.

    >>> frames = open_frames(geowb.open_catalog()["world"].open())  # doctest: +SKIP
    >>> frames.read(0, ["RED"], frames.start, Turn()).shape  # doctest: +SKIP
    (1, 512, 512)

    `start` is the view to begin with: the whole scene, or the middle of a large one that cannot be
    reduced quickly (`coarse` is false).
    """

    def __init__(
        self, scene: xr.Dataset, files: Files | None = None, name: str = "", *, sure: bool = False
    ) -> None:
        self.scene, self.files, self.name = scene, files, name
        self.shape = (scene.sizes["y"], scene.sizes["x"])
        self.axis = next((d for d in ("time", "sample") if d in scene.dims), "")
        self.count = scene.sizes[self.axis] if self.axis else 1
        self.bands = [str(band) for band in scene["band"].values] if "band" in scene.dims else []
        self._lock = threading.Lock()
        self._largest = 0.0  # number that was read
        self._small = scene.nbytes <= _HELD
        self._nodata = _nodata(scene["reflectance"]) if self.bands else ()
        if self.files is not None and (self._small or not (sure or self.files.agrees(self))):
            self.files = None
        self.overviews = self.files is not None and self.files.overviews()
        self.coarse = self._small or self.overviews or self.shape[0] * self.shape[1] <= _WHOLE
        rows, columns = self.shape
        self.whole = View(0, rows, 0, columns)
        middle = self.whole.zoomed(MOST / max(rows, columns), (0.5, 0.5), self.shape, MOST)
        self.start = self.whole if self.coarse else middle
        self.layers = [
            str(name)
            for name, one in scene.data_vars.items()
            if {"y", "x"} <= set(one.dims) and set(one.dims) <= {"y", "x", self.axis}
            and name not in ("reflectance", "fmask") and one.dtype.kind in "iufb"
        ]  # fmt: skip

    @property
    def dates(self) -> list[str]:
        """What the slider says of each date or sample."""
        if self.axis == "time":
            known = [text or f"date {i + 1}, not known" for i, text in enumerate(self._days())]
            return _apart(known)
        if self.axis == "sample":
            labels = self.scene["sample"].values if "sample" in self.scene.coords else None
            numbers = range(self.count)
            return _apart([str(n if labels is None else labels[n]) for n in numbers])
        return ["one date"]

    def _days(self) -> list[str]:
        values = self.scene["time"].values
        if values.dtype.kind != "M":
            return [str(value) for value in values]
        return ["" if np.isnat(value) else str(value)[:10] for value in values]

    @property
    def times(self) -> np.ndarray | None:
        """Days of the dates, where all are known."""
        values = self.scene["time"].values if self.axis == "time" else np.array([])
        known = values.dtype.kind == "M" and len(values) > 1 and not np.isnat(values).any()
        return values if known else None

    @property
    def unit(self) -> str:
        """Unit of the bands: as told, or that of HLS where names and numbers are like it."""
        told = self.scene["reflectance"].attrs.get("units") if self.bands else None
        if told not in (None, "1", "1e-4"):
            return str(told)
        counts = told == "1e-4" or (set(self.bands) <= set(HLS6) and 255 < self._largest <= 20_000)
        return "reflectance × 10,000" if counts else "value"

    def hold(self) -> None:
        """Read a small scene into memory, once."""
        with self._lock:
            if self._small:
                with _told(self.name):
                    self.scene = self.scene.compute()

    def read(
        self, date: int, bands: Sequence[str], view: View, turn: Turn, most: int = MOST
    ) -> np.ndarray:
        """Bands of one date ``(B, y, x)``, float32 with NaN, at most `most` pixels an edge."""
        step = view.step(most)
        how = self.values if self.files is None else self.files.read
        found = how(date, bands, view, step, turn)
        if not self._largest:  # the first picture tells
            self._largest = float(np.nanmax(np.abs(found), initial=0))
        return found

    def values(
        self, date: int, bands: Sequence[str], view: View, step: int = 1, turn: Turn | None = None
    ) -> np.ndarray:
        """Read the same from the scene's arrays, whatever its files are."""
        planes = self._at(self.scene["reflectance"], date).sel(band=list(bands))
        found = self._cut(planes.transpose("band", "y", "x"), view, step, turn or Turn())
        absent = [found == value for value in self._nodata]
        found = found.astype(np.float32)
        for where in absent:
            found[where] = np.nan
        return found

    def layer(self, name: str, date: int, view: View, turn: Turn, most: int = MOST) -> np.ndarray:
        """Read another variable ``(y, x)`` as it is stored, at most `most` pixels an edge."""
        plane = self._at(self.scene[name], date).transpose("y", "x")
        step = view.step(most)
        quantity = plane.dtype.kind == "f" and name != "fmask" and "flag_values" not in plane.attrs
        if quantity and step > 1 and self._small:  # single labels stay in sight
            return _means(self._cut(plane, view, 1, turn), step)
        return self._cut(plane, view, step, turn)

    def pixel(
        self, row: int, column: int, dates: Sequence[int], turn: Turn
    ) -> tuple[np.ndarray, np.ndarray]:
        """One pixel on these dates ``(date, band)``, and whether it is cloudy ``(date,)``."""
        view, quiet = View(row, row + 1, column, column + 1), Turn()
        values = np.full((len(dates), len(self.bands)), np.nan, np.float32)
        cloudy = np.zeros(len(dates), bool)
        for number, date in enumerate(dates):
            turn.at(number / len(dates))
            if self.bands:
                values[number] = self.read(date, self.bands, view, quiet)[:, 0, 0]
            if (hidden := self.hidden(date, view, quiet)) is not None:
                cloudy[number] = hidden[0, 0] > 0
        return values, cloudy

    def hidden(self, date: int, view: View, turn: Turn, most: int = MOST) -> np.ndarray | None:
        """0 clear, 1 cloud or beside one, 2 shadow, by ``fmask``; None where there is none."""
        if "fmask" not in self.scene:
            return None
        bits = np.nan_to_num(self.layer("fmask", date, view, turn, most), nan=255).astype(np.uint8)
        shadow = (bits & FMASK_SHADOW) > 0
        cloud = (bits & (FMASK_CLOUDY ^ FMASK_SHADOW)) > 0
        return np.where(bits == 255, 0, np.where(cloud, 1, np.where(shadow, 2, 0))).astype(np.uint8)

    def crop(self, view: View) -> xr.Dataset:
        """Cut a part out of the scene, as lazy as the scene is."""
        rows, columns = slice(view.top, view.bottom), slice(view.left, view.right)
        part = self.scene.isel(y=rows, x=columns)
        if self._nodata:
            stored = part["reflectance"]
            known = stored.astype("float32").where(~stored.isin(self._nodata))
            part = part.assign(reflectance=known.drop_attrs(deep=False))
        return part.rio.write_transform(part.rio.transform(recalc=True)) if part.rio.crs else part

    def place(self, row: int, column: int) -> str:
        """Where a pixel's middle lies, in degrees; empty where nobody knows."""
        import rioxarray  # noqa: F401 - gives .rio
        from pyproj import Transformer
        from pyproj.exceptions import ProjError

        crs = self.scene.rio.crs
        if crs is None or not {"x", "y"} <= set(self.scene.coords):
            return ""
        x, y = float(self.scene["x"][column]), float(self.scene["y"][row])
        try:
            lon, lat = Transformer.from_crs(crs, 4326, always_xy=True).transform(x, y)
        except ProjError:  # a local system, of which nobody knows where it lies
            return ""
        if not np.isfinite([lon, lat]).all():
            return ""
        north, east = "N" if lat >= 0 else "S", "E" if lon >= 0 else "W"
        return f"{abs(lat):.4f}° {north}, {abs(lon):.4f}° {east}"

    def _at(self, planes: xr.DataArray, date: int) -> xr.DataArray:
        return planes.isel({self.axis: date}) if self.axis in planes.dims else planes

    def _cut(self, planes: xr.DataArray, view: View, step: int, turn: Turn) -> np.ndarray:
        """Each `step` pixels one of a part, read in strips where it is lazy."""
        part = planes.isel(
            y=slice(view.top, view.bottom, step), x=slice(view.left, view.right, step)
        )
        stored = planes.chunksizes["y"][0] if planes.chunks else _STRIP
        high = max(1, stored // step)
        strips = []
        for at in range(0, part.sizes["y"], high):
            turn.at(at / part.sizes["y"])
            with _told(self.name):
                strips.append(part.isel(y=slice(at, at + high)).to_numpy())
        return np.concatenate(strips, axis=-2)


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Say of which file or scene it is that something cannot be read."""
    from rasterio.errors import RasterioError

    try:
        yield
    except RasterioError as error:
        told = error.__cause__ or error
        raise DataError(f"'{name}' cannot be read: {told}. Get the file anew.") from error


def _nodata(planes: xr.DataArray) -> tuple[float, ...]:
    """Values of stored numbers that stand for no data; HLS's own where nothing is said."""
    told = planes.rio.nodata
    told = planes.encoding.get("_FillValue") if told is None else told
    if told is None and planes.dtype == np.int16:
        told = -9999
    return () if told is None or not np.isfinite(told) else (float(told),)


def _times(planes: xr.DataArray) -> tuple[str, ...]:
    if "time" not in planes.dims:
        return ("",)
    return tuple(str(value) for value in planes["time"].values)


def _apart(texts: list[str]) -> list[str]:
    """Texts of which none is there twice."""
    return [f"{text} ({i + 1})" if texts.count(text) > 1 else text for i, text in enumerate(texts)]


def _means(plane: np.ndarray, step: int) -> np.ndarray:
    """Mean of what is known in blocks of `step` pixels; NaN where nothing is."""
    rows, columns = (-(-edge // step) * step for edge in plane.shape)
    padded = np.full((rows, columns), np.nan, plane.dtype)
    padded[: plane.shape[0], : plane.shape[1]] = plane
    blocks = padded.reshape(rows // step, step, columns // step, step)
    known = np.isfinite(blocks)
    count = known.sum((1, 3))
    total = np.where(known, blocks, 0).sum((1, 3))
    return np.where(count, total / np.maximum(count, 1), np.nan).astype(plane.dtype)


# --- what is given -> frames ---------------------------------------------------------------------


def open_frames(source: Any) -> Frames:
    """Open what `geowb.widgets.SceneExplorer` takes.

    >>> open_frames("scene.tif").coarse  # doctest: +SKIP
    True

    Raises
    ------
    RequestError, DataError
        If it is no scene.
    """
    import xarray as xr

    from geowb.catalog import Source

    name, sure = "", isinstance(source, (str, Path, Source))
    if isinstance(source, Source):
        name, source = source.name, source.open()
    if isinstance(source, (str, Path)):
        name = Path(str(source).rstrip("/")).stem
        source = _of_path(str(source))
    if isinstance(source, xr.DataArray):
        source = _of_array(source)
    if not isinstance(source, xr.Dataset):
        raise RequestError(
            f"A {type(source).__name__} is no scene: give an xarray.Dataset, such as "
            "catalog['world'].open(), the path of a raster, or an entry of the catalog."
        )
    return _checked(source, name or str(source.attrs.get("entry", "scene")), sure)


def _checked(scene: xr.Dataset, name: str, sure: bool) -> Frames:
    """Refuse what has no rows and columns, or nothing that can be shown."""
    import rioxarray  # noqa: F401 - gives .rio

    from geowb.catalog.read import FILES

    if not {"y", "x"} <= set(scene.dims):
        has = ", ".join(map(str, scene.dims)) or "none"
        raise DataError(f"'{name}' has no dimensions y and x, but {has}: it is no scene.")
    if 0 in scene.sizes.values():
        empty = next(str(d) for d, size in scene.sizes.items() if not size)
        raise DataError(f"'{name}' is empty: nothing lies along {empty}. Choose a larger part.")
    files = None
    if "reflectance" in scene:
        planes = scene["reflectance"]
        if "band" not in planes.dims:
            scene = scene.assign(reflectance=planes.expand_dims(band=["value"]))
        elif "band" not in planes.coords:
            names = [f"band {i + 1}" for i in range(planes.sizes["band"])]
            scene = scene.assign_coords(band=names)
        told = planes.encoding.get(FILES)
        files = Files(**told) if told else None
        if files is not None and not files.fits(scene["reflectance"]):
            files = None
    found = Frames(scene, files, name, sure=sure)
    if not found.bands and not found.layers and "fmask" not in scene:
        raise DataError(
            f"'{name}' has nothing that can be shown: no reflectance, and no variable of (y, x)."
        )
    return found


def _of_path(path: str) -> xr.Dataset:
    """Open a raster file or a Zarr as a scene."""
    import xarray as xr

    from geowb.catalog.read import opened
    from geowb.catalog.stored import absent

    if absent(path):
        raise RequestError(f"There is no file '{path}'.")
    if path.rstrip("/").endswith(".zarr"):
        found = xr.open_zarr(path, decode_coords="all")
        if "reflectance" in found:
            return found
        name = next(iter(found.data_vars), "")
        if not name:
            raise DataError(f"'{path}' has no variable.")
        return _of_array(found[name])
    return _of_array(opened(path), path)


def _of_array(array: xr.DataArray, path: str = "") -> xr.Dataset:
    """Make a scene of an array ``(band, y, x)`` or ``(y, x)``, with names of its bands."""
    import xarray as xr
    from rioxarray.exceptions import MissingSpatialDimensionError

    from geowb.catalog.read import FILES
    from geowb.predict.opening import band_labels

    try:
        crs, transform = array.rio.crs, array.rio.transform()
        array.rio.x_dim, array.rio.y_dim  # noqa: B018 - raise where there are none
    except MissingSpatialDimensionError as error:
        has = ", ".join(map(str, array.dims)) or "none"
        raise DataError(
            f"The array has no dimensions y and x, but {has}: it is no scene."
        ) from error
    path = path or _path_of(array)
    sides = {array.rio.x_dim: "x", array.rio.y_dim: "y"}
    array = array.rename({old: new for old, new in sides.items() if old != new})
    array = array if "band" in array.dims else array.expand_dims("band")
    if other := set(array.dims) - {"time", "band", "y", "x"}:
        raise DataError(f"The array has the dimension {min(map(str, other))}: choose one of it.")
    labels = [text or f"band {i + 1}" for i, text in enumerate(band_labels(array))]
    labels = _apart([f"band {text}" if text.isdigit() else text for text in labels])
    numbers = array["band"].values if "band" in array.coords else np.arange(len(labels)) + 1
    scene = xr.Dataset({"reflectance": array.assign_coords(band=labels)})
    if crs is not None:
        scene = scene.rio.write_crs(crs).rio.write_transform(transform)
    if path and "time" not in array.dims and np.issubdtype(numbers.dtype, np.integer):
        told = {"paths": (path,), "channels": (tuple(map(int, numbers)),)}
        told |= {"bands": tuple(labels), "times": ("",)}
        scene["reflectance"].encoding[FILES] = told | {"nodata": ()}
    return scene


def _path_of(array: xr.DataArray) -> str:
    """File that an array was opened from, where its numbers are stored as they are."""
    source, told = array.encoding.get("source"), array.attrs | array.encoding
    plain = told.get("scale_factor", 1) == 1 and told.get("add_offset", 0) == 0
    return source if isinstance(source, str) and plain and Path(source).is_file() else ""
