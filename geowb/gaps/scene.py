"""One call that fills the gaps of a scene."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

from geowb.errors import RequestError
from geowb.gaps.fillers import LinearInTime
from geowb.gaps.opening import DIMS, Series, open_filler, open_series
from geowb.lines import Line
from geowb.models.wrapper import placed
from geowb.predict.grid import Axis, reflected

__all__ = ["FLAGS", "fill_gaps"]

#: Values of the variable ``filled``.
FLAGS = (
    "observed",
    "filled",
    "filled_clear_on_no_date",
    "interpolated_in_time",
    "mean_of_date",
)
_TILE = 64  # of a model whose card names no size
_STRIP = 2**16  # pixels of a date that a rule fills at a time


def fill_gaps(
    scene: xr.Dataset,
    mask: xr.DataArray | np.ndarray | None = None,
    model: str | Path | nn.Module = "prithvi_demo",
    *,
    tile: int = 0,
    overlap: int | None = None,
    batch_size: int = 16,
    accelerator: str = "auto",
    progress: bool = True,
) -> xr.Dataset:
    """Fill what clouds hide in a time series; clear pixels stay as they are, bit for bit.

    >>> filled = geowb.fill_gaps(scene)  # doctest: +SKIP
    >>> filled.filled.attrs["flag_meanings"]  # doctest: +SKIP
    'observed filled filled_clear_on_no_date interpolated_in_time mean_of_date'

    Parameters
    ----------
    scene
        A scene of any height and width with ``reflectance (time, band, y, x)`` in counts: float32
        with NaN, or integers with a no-data value (-9999 if it names none). Dates ascend, or none
        is known (all NaT: then the order counts). It is read into memory.
    mask
        ``(time, y, x)`` bool, True where missing; if None, what ``fmask`` calls cloud, adjacent to
        cloud or shadow. A pixel without data in any band is missing too, as a whole.
    model
        A masked Prithvi that comes with geowb, by name; a rule: ``temporal_neighbour``,
        ``linear``, ``date_mean``; a model file; or a model: a masked Prithvi, a
        `geowb.models.cgan.CGAN`, a `geowb.gaps.NetworkFiller`.
    tile, overlap
        Edge of what the model sees at a time, and what neighbours share of it, in pixels; by
        default the size that its card names (64 if it names none), and half of that and half a
        patch. Neighbours fade into each other.
    batch_size
        Tiles that the model fills at a time: bounds the memory that it takes.
    accelerator
        ``auto``, ``cpu`` or ``gpu``.

    Returns
    -------
    xarray.Dataset
        The scene with ``reflectance`` filled (same type, grid, coordinates and attributes), and
        ``filled (time, y, x)`` uint8: 0 observed; 1 filled by the model; 2 by the model, of a pixel
        that is clear on no date; 3 by interpolation in time where the model saw nothing; 4 by the
        mean of the date where that too is impossible. ``cover (time)`` is the share that was
        missing. The attributes of ``filled`` name the model and where its weights came from.

    Raises
    ------
    RequestError
        For a mask of another shape or type, or sizes that do not fit.
    DataError
        For a scene without reflectance, mask or clear pixel, with other bands than the model's,
        with dates that do not ascend or come twice, or with fewer dates than the model needs.
    ModelError
        For a model that is not known or cannot fill.

    Notes
    -----
    A model that takes fewer dates than the scene has fills each date from its nearest ones, where a
    date counts as farther away the less of it is clear. See docs/gap_filling.md.
    """
    filler = open_filler(model)
    series = open_series(scene, mask, filler)
    if batch_size < 1:
        raise RequestError(f"batch_size must be 1 or more; it is {batch_size}.")
    made = np.full(series.values.shape, np.nan, np.float32)
    with torch.no_grad(), placed(filler, accelerator) as device:
        if filler.card["frames"] is None:
            _by_rows(series, filler, made)
        else:
            axes = _axes(series, filler, tile, overlap)
            _by_tiles(series, filler, axes, batch_size, device, made, progress)
    flags = _complete(series, made)
    return _result(scene, series, made, flags, filler)


def _by_rows(series: Series, rule: nn.Module, made: np.ndarray) -> None:
    """Let a rule fill some rows at a time: it takes several times what it is given."""
    means = torch.from_numpy(_date_means(series).astype(np.float32).T[None, ..., None, None])
    height, width = series.values.shape[-2:]
    step = max(1, _STRIP // width)
    for first in range(0, height, step):
        rows = np.s_[..., first : first + step, :]
        x, missing = _tensors(series, rows)
        filled = rule.fill(x, missing, days=series.days, means=means)
        made[rows] = filled.prediction[0].transpose(0, 1)


def _date_means(series: Series) -> np.ndarray:
    """Mean of the clear pixels of each date, of all dates for one that has none; ``(T, C)``."""
    clear = (~series.missing).sum((1, 2))[:, None]
    sums = np.stack([np.nansum(date, (1, 2), dtype=np.float64) for date in series.values])
    with np.errstate(invalid="ignore"):
        return np.where(clear > 0, sums / clear, sums.sum(0) / clear.sum())


def _axes(series: Series, filler: nn.Module, tile: int, overlap: int | None) -> tuple[Axis, Axis]:
    tile = tile or filler.card.get("size", _TILE)
    if overlap is None:
        # Half a patch more than half: the patches of neighbours do not end at the same pixels.
        overlap = tile // 2 + filler.card.get("unit", 0) // 2
    if not 0 <= overlap < tile:
        raise RequestError(f"overlap is from 0 to less than the tile of {tile}; it is {overlap}.")
    height, width = series.values.shape[-2:]
    blend = min(overlap, tile - overlap)
    return Axis(height, tile, overlap, blend), Axis(width, tile, overlap, blend)


def _windows(series: Series, frames: int) -> dict[tuple[int, ...], list[int]]:
    """Dates that are given to the model together, and which of them it fills."""
    clear = 1 - series.missing.mean((1, 2))
    found: dict[tuple[int, ...], list[int]] = {}
    for date in np.flatnonzero(series.missing.any((1, 2))):
        away = np.abs(series.days - series.days[date]) / np.maximum(clear, 0.01)
        away[date] = -1  # itself first
        window = tuple(sorted(away.argsort(kind="stable")[:frames].tolist()))
        found.setdefault(window, []).append(int(date))
    return found


def _by_tiles(
    series: Series,
    filler: nn.Module,
    axes: tuple[Axis, Axis],
    batch_size: int,
    device: torch.device,
    made: np.ndarray,
    progress: bool,
) -> None:
    """Let the model fill tiles, and blend them into `made`; NaN stays where it saw nothing."""
    windows = _windows(series, filler.card["frames"])
    work = {window: list(_tiles(series, axes, dates)) for window, dates in windows.items()}
    line, done, whole = Line() if progress else None, 0, sum(map(len, work.values()))
    for window, tiles in work.items():
        dates = windows[window]
        total = np.zeros((len(dates), *made.shape[1:]), np.float32)
        weight = np.zeros(made.shape[-2:], np.float32)
        for first in range(0, len(tiles), batch_size):
            batch = tiles[first : first + batch_size]
            x, missing = zip(*(_tile(series, axes, window, *at) for at in batch), strict=True)
            x, missing = torch.stack(x).to(device), torch.stack(missing).to(device)
            seen = filler.can_fill(x, missing)
            if seen.any():
                at = [window.index(date) for date in dates]
                filled = filler.fill(x[seen], missing[seen]).prediction[:, :, at]
                filled = filled.transpose(1, 2).float().cpu().numpy()
                for place, one in zip(np.array(batch)[seen.cpu().numpy()], filled, strict=True):
                    _blend(axes, place, one, total, weight)
            done += len(batch)
            if line is not None:
                line.show(f"gaps: {done} of {whole} tiles filled", lasting=done == whole)
        with np.errstate(invalid="ignore"):
            made[dates] = total / weight  # NaN where no tile counts


def _tiles(series: Series, axes: tuple[Axis, Axis], dates: list[int]) -> Iterator[tuple[int, int]]:
    """Tiles that count somewhere where one of the dates is missing."""
    gaps = series.missing[dates].any(0)
    for i in range(axes[0].count):
        rows = gaps[axes[0].cut(i) : axes[0].end(i)]
        for j in range(axes[1].count):
            if rows[:, axes[1].cut(j) : axes[1].end(j)].any():
                yield i, j


def _tile(
    series: Series, axes: tuple[Axis, Axis], window: tuple[int, ...], i: int, j: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Read a tile, mirrored beyond the edges: ``(C, T, h, w)`` and ``(T, h, w)``."""
    rows, columns = (
        reflected(axis.start(at), axis.start(at) + axis.tile, axis.length)
        for axis, at in zip(axes, (i, j), strict=True)
    )
    values = series.values[np.ix_(window, range(series.values.shape[1]), rows, columns)]
    missing = series.missing[np.ix_(window, rows, columns)]
    return torch.from_numpy(values).transpose(0, 1), torch.from_numpy(missing)


def _blend(
    axes: tuple[Axis, Axis],
    place: np.ndarray,
    filled: np.ndarray,
    total: np.ndarray,
    weight: np.ndarray,
) -> None:
    """Add a tile ``(dates, C, h, w)`` where it counts."""
    ends = [(a.cut(i), a.end(i), a.start(i)) for a, i in zip(axes, place, strict=True)]
    (top, bottom, y), (left, right, x) = ends
    share = np.outer(*(a.weights(i) for a, i in zip(axes, place, strict=True))).astype(np.float32)
    inner = filled[..., top - y : bottom - y, left - x : right - x]
    total[..., top:bottom, left:right] += share * inner
    weight[top:bottom, left:right] += share


def _complete(series: Series, made: np.ndarray) -> np.ndarray:
    """Fill in `made` what the model left, and say of each pixel what became of it."""
    missing, never = series.missing, series.missing.all(0)
    left = missing & ~np.isfinite(made).all(1)
    flags = missing.astype(np.uint8) + (missing & never)
    flags[left & ~never], flags[left & never] = 3, 4
    rows, columns = left.any(0).nonzero()
    if rows.size:
        x, gap = _tensors(series, np.s_[..., rows, columns])
        lines = LinearInTime().fill(x, gap, days=series.days).prediction[0, :, :, 0].numpy()
        mean = _date_means(series).T[..., None]
        lines = np.where(never[rows, columns], mean, lines).transpose(1, 0, 2)
        here = left[:, None, rows, columns]
        made[:, :, rows, columns] = np.where(here, lines, made[:, :, rows, columns])
    return flags


def _tensors(series: Series, where: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels of all dates as one sample, ``(1, C, T, h, w)`` and ``(1, T, h, w)``."""
    x, missing = torch.from_numpy(series.values[where]), torch.from_numpy(series.missing[where])
    if x.ndim == 3:  # a list of pixels
        x, missing = x[:, :, None], missing[:, None]
    return x.transpose(0, 1)[None], missing[None]


def _result(
    scene: xr.Dataset, series: Series, made: np.ndarray, flags: np.ndarray, filler: nn.Module
) -> xr.Dataset:
    """Put what was filled into a copy of the scene."""
    old = scene["reflectance"]
    new = old.copy(data=old.values.copy())  # as it is held: type, order of dims and of bands
    if old.dtype.kind in "iu":
        limits = np.iinfo(old.dtype)
        made = np.clip(np.rint(made), limits.min, limits.max)
    order = new.transpose(*DIMS)  # a view
    bands = order["band"].values.tolist() if series.bands else range(made.shape[1])
    for at, band in enumerate(bands):
        source = series.bands.index(band) if series.bands else at
        target = order.values[:, at]
        target[series.missing] = made[:, source][series.missing].astype(old.dtype)
    card = filler.card
    filled = xr.DataArray(flags, dims=("time", "y", "x")).assign_attrs(
        long_name="what became of the pixel in gap filling",
        flag_values=np.arange(len(FLAGS), dtype=np.uint8),
        flag_meanings=" ".join(FLAGS),
        model=card["name"],
        origin=card.get("weights", ""),
    )
    filled.encoding = {k: v for k, v in old.encoding.items() if k == "grid_mapping"}
    cover = xr.DataArray(series.missing.mean((1, 2)), dims="time").assign_attrs(
        long_name="share of the date that was missing before gaps were filled"
    )
    return scene.assign(reflectance=new, filled=filled).assign_coords(cover=cover)
