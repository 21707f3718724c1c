"""Predictions at labelled pixels, tables of errors, and maps on the scenes' own grids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geowb.chips import ChipDataset
from geowb.errors import DataError

if TYPE_CHECKING:
    import torch
    import xarray as xr

__all__ = ["AGB_BINS", "as_text", "at_labels", "map_scenes", "rmse", "rmse_by_bin"]

#: Bins of above-ground biomass, Mg/ha, half open (granite-geospatial-biomass, binwise_rmse.py).
AGB_BINS: tuple[tuple[float, float], ...] = ((0, 100), (100, 200), (200, 300))


def at_labels(
    model: torch.nn.Module, data: ChipDataset, *, batch_size: int = 16, accelerator: str = "auto"
) -> pd.DataFrame:
    """Predict every labelled pixel of a dataset, as it is (without augmentation).

    >>> pixels = at_labels(model, test)  # doctest: +SKIP
    >>> rmse(pixels)  # doctest: +SKIP

    Returns
    -------
    pandas.DataFrame
        One row a labelled pixel: scene, sample, row and column in the scene, observed, predicted.
    """
    data = data.plain()
    tables = [
        _labelled_table(data.chips.iloc[index], label, prediction)
        for index, label, prediction in _predictions(model, data, batch_size, accelerator)
    ]
    columns = ["scene", "sample", "row", "col", "observed", "predicted"]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def _labelled_table(chip: pd.Series, label: np.ndarray, prediction: np.ndarray) -> pd.DataFrame:
    rows, cols = np.nonzero(np.isfinite(label))
    return pd.DataFrame(
        {
            "scene": chip["scene"],
            "sample": chip["sample"],
            "row": rows + chip["y"],
            "col": cols + chip["x"],
            "observed": label[rows, cols],
            "predicted": prediction[rows, cols],
        }
    )


def _predictions(
    model: torch.nn.Module, data: ChipDataset, batch_size: int, accelerator: str
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    import torch
    from torch.utils.data import DataLoader

    home = next(model.parameters()).device
    device = "cuda" if accelerator != "cpu" and torch.cuda.is_available() else home
    model.to(device).eval()
    try:
        with torch.inference_mode():
            for batch in DataLoader(data, batch_size=batch_size):
                predicted = model(batch["image"].to(device))[:, 0].float().cpu().numpy()
                labels = batch["label"].numpy()
                yield from zip(batch["index"].tolist(), labels, predicted, strict=True)
    finally:
        model.to(home)


def rmse(pixels: pd.DataFrame) -> float:
    """Root mean square error over the rows of `at_labels`; NaN without rows.

    >>> rmse(pd.DataFrame({"observed": [0.0, 0.0], "predicted": [3.0, 4.0]}))
    3.5355339059327378
    """
    if pixels.empty:
        return float("nan")
    error = pixels["predicted"].to_numpy(float) - pixels["observed"].to_numpy(float)
    return float(np.sqrt(np.mean(error**2)))


def rmse_by_bin(
    pixels: pd.DataFrame, bins: Sequence[tuple[float, float]] = AGB_BINS
) -> pd.DataFrame:
    """RMSE for each bin of the observed value, and over all bins together.

    >>> pixels = pd.DataFrame({"observed": [50.0, 250.0], "predicted": [60.0, 230.0]})
    >>> rmse_by_bin(pixels)["rmse"].tolist()
    [10.0, nan, 20.0, 15.811388300841896]

    Bins are half open, ``[low, high)``; the errors of all pixels in a bin are pooled. A bin without
    a pixel has the RMSE NaN and 0 pixels.
    """
    if (pixels["observed"] < 0).any():
        raise DataError("Observed values below zero: is the no-label value missing in the catalog?")
    parts = {f"{low:g}-{high:g}": (low, high) for low, high in bins}
    parts["all"] = (0.0, np.inf)
    chosen = {
        name: pixels[(pixels["observed"] >= low) & (pixels["observed"] < high)]
        for name, (low, high) in parts.items()
    }
    return pd.DataFrame(
        {"pixels": [len(part) for part in chosen.values()], "rmse": map(rmse, chosen.values())},
        index=pd.Index(chosen, name="bin"),
    )


def as_text(errors: pd.DataFrame, title: str = "") -> pd.DataFrame:
    """Write a table of errors with one decimal; an empty bin says "no pixels".

    >>> as_text(pd.DataFrame({"pixels": [3, 0], "unet": [12.34, float("nan")]})).unet.tolist()
    ['12.3', 'no pixels']
    """
    text = errors.map(lambda value: f"{value:.1f}" if np.isfinite(value) else "not finite")
    if "pixels" in errors:
        text[errors["pixels"] == 0] = "no pixels"
        text["pixels"] = errors["pixels"]
    return text.rename_axis(columns=title)


def map_scenes(
    model: torch.nn.Module,
    scenes: Mapping[str, xr.Dataset],
    *,
    size: int = 64,
    units: str = "",
    batch_size: int = 16,
    accelerator: str = "auto",
) -> dict[str, xr.DataArray]:
    """Predict whole scenes, labelled or not, each on its own grid.

    >>> maps = map_scenes(model, scenes, units="Mg/ha")  # doctest: +SKIP
    >>> maps["cerrado"].rio.to_raster("agb.tif")  # doctest: +SKIP

    The scene is read in windows of `size` pixels, the size of the training chips; a quarter of the
    window on each inner side is thrown away, since a network knows least at a window's edge.

    Returns
    -------
    dict of xarray.DataArray
        ``(y, x)`` with the scene's coordinates and CRS; NaN where every band has no data.
        For a set of samples, ``(sample, y, x)``.
    """
    return {
        name: _map(model, scene, size, batch_size, accelerator).assign_attrs(
            long_name="predicted", units=units
        )
        for name, scene in scenes.items()
    }


def _map(
    model: torch.nn.Module, scene: xr.Dataset, size: int, batch_size: int, accelerator: str
) -> xr.DataArray:
    windows = [
        (y, x) for y in _starts(scene.sizes["y"], size) for x in _starts(scene.sizes["x"], size)
    ]
    samples = range(scene.sizes["sample"]) if "sample" in scene.dims else (-1,)
    rows = [("scene", sample, y[0], x[0], size) for sample in samples for y, x in windows]
    table = pd.DataFrame(rows, columns=["scene", "sample", "y", "x", "size"])
    data = ChipDataset({"scene": scene}, table, label=None)
    seen = scene["reflectance"].notnull().any([d for d in ("time", "band") if d in scene.dims])
    target = np.full(seen.shape, np.nan, dtype=np.float32)
    for index, _, prediction in _predictions(model, data, batch_size, accelerator):
        (y, top, bottom), (x, left, right) = windows[index % len(windows)]
        plane = target[index // len(windows)] if target.ndim == 3 else target
        plane[top:bottom, left:right] = prediction[top - y : bottom - y, left - x : right - x]
    return seen.copy(data=target).where(seen)


def _starts(length: int, size: int) -> list[tuple[int, int, int]]:
    """Windows over one axis: where each starts, and from where to where it is kept."""
    margin = size // 4
    last = max(length - size, 0)
    starts = [*range(0, last, size - 2 * margin), last]
    edges = [0, *(start + margin for start in starts[1:]), length]
    return list(zip(starts, edges[:-1], edges[1:], strict=True))
