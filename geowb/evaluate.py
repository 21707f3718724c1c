"""Predictions at labelled pixels, errors and how sure they are."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geowb.chips import ChipDataset
from geowb.errors import DataError

if TYPE_CHECKING:
    import torch
    import xarray as xr

__all__ = [
    "AGB_BINS",
    "against_truth",
    "as_text",
    "at_labels",
    "paired",
    "residuals",
    "rmse",
    "rmse_by_bin",
    "scores",
    "transfer_loss",
    "with_interval",
]

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
        One row a labelled pixel: scene, sample, region (the scene, unless the chips have one),
        place (the block of the split, or the chip), row and column in the scene, observed,
        predicted.
    """
    data = data.plain()
    tables = [
        _labelled_table(data.chips.iloc[index], label, prediction)
        for index, label, prediction in _predictions(model, data, batch_size, accelerator)
    ]
    columns = ["scene", "sample", "region", "place", "row", "col", "observed", "predicted"]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def _labelled_table(chip: pd.Series, label: np.ndarray, prediction: np.ndarray) -> pd.DataFrame:
    rows, cols = np.nonzero(np.isfinite(label))
    return pd.DataFrame(
        {
            "scene": chip["scene"],
            "sample": chip["sample"],
            "region": chip.get("region", chip["scene"]),
            "place": chip.get("block", f"{chip['sample']}/{chip['y']}/{chip['x']}"),
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

    from geowb.models.wrapper import placed

    with placed(model, accelerator) as device, torch.inference_mode():
        for batch in DataLoader(data, batch_size=batch_size):
            predicted = model(batch["image"].to(device))[:, 0].float().cpu().numpy()
            labels = batch["label"].numpy()
            yield from zip(batch["index"].tolist(), labels, predicted, strict=True)


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
    """RMSE by observed value: in each bin, over the bins together, above them, and over all.

    >>> pixels = pd.DataFrame({"observed": [50.0, 350.0], "predicted": [60.0, 330.0]})
    >>> rmse_by_bin(pixels)["rmse"].round(1).to_dict()
    {'0-100': 10.0, '100-200': nan, '200-300': nan, '0-300': 10.0, '300+': 20.0, 'all': 15.8}

    Bins are half open, ``[low, high)``; the errors of all pixels in a bin are pooled. After the
    bins come all of them together, what lies above, and all pixels. A bin without a pixel has the
    RMSE NaN and 0 pixels.
    """
    if (pixels["observed"] < 0).any():
        raise DataError("Observed values below zero: is the no-label value missing in the catalog?")
    parts = {f"{low:g}-{high:g}": (low, high) for low, high in bins}
    first, last = bins[0][0], bins[-1][1]
    parts[f"{first:g}-{last:g}"] = (first, last)
    parts |= {f"{last:g}+": (last, np.inf), "all": (0.0, np.inf)}
    chosen = {
        name: pixels[(pixels["observed"] >= low) & (pixels["observed"] < high)]
        for name, (low, high) in parts.items()
    }
    return pd.DataFrame(
        {"pixels": [len(part) for part in chosen.values()], "rmse": map(rmse, chosen.values())},
        index=pd.Index(chosen, name="bin"),
    )


#: What is added up in each place; every score below follows from the sums.
_SUMS = ("pixels", "error", "error2", "observed", "observed2")


def _sums(pixels: pd.DataFrame) -> pd.DataFrame:
    """Add up over the pixels of each place, a row a place; one NaN makes its place NaN."""
    observed = pixels["observed"].to_numpy(float)
    error = pixels["predicted"].to_numpy(float) - observed
    values = (np.ones(len(pixels)), error, error**2, observed, observed**2)
    groups = pixels.groupby(["scene", "place"])
    at = groups.ngroup().to_numpy()
    columns = {
        name: np.bincount(at, weights=value, minlength=groups.ngroups)
        for name, value in zip(_SUMS, values, strict=True)
    }
    return pd.DataFrame(columns, index=groups.size().index)


def _scores(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Scores from sums ``(..., 5)``."""
    n, error, error2, observed, observed2 = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = observed2 - observed**2 / n
        r2 = np.where(spread > 1e-9 * observed2, 1 - error2 / spread, np.nan)
        return {"rmse": np.sqrt(error2 / n), "bias": error / n, "r2": r2}


def draws(places: pd.Index, repeats: int, seed: int) -> np.ndarray:
    """How often each place is drawn, ``(repeats, places)``: each scene keeps its number of them.

    Where a scene is one place, in all scenes, they are drawn among each other.
    """
    rng = np.random.default_rng(seed)
    scene = places.get_level_values(0).to_numpy()
    scene = scene if places.get_level_values(0).has_duplicates else np.zeros(len(places))
    counts = np.zeros((repeats, len(places)))
    for name in pd.unique(scene):
        own = np.flatnonzero(scene == name)
        counts[:, own] = rng.multinomial(len(own), np.full(len(own), 1 / len(own)), repeats)
    return counts


def scores(pixels: pd.DataFrame) -> pd.Series:
    """RMSE, bias (predicted minus observed) and R2 over the rows of `at_labels`.

    >>> table = pd.DataFrame({"observed": [0.0, 10.0], "predicted": [3.0, 13.0]})
    >>> scores(table.assign(scene="a", place="0/0"))[["rmse", "bias", "r2"]].tolist()
    [3.0, 3.0, 0.64]

    R2 is 1 - sum of squared errors / sum of squares about the mean of what was observed: 0 for
    predicting that mean, and below it for anything worse; NaN if all that was observed is equal.
    A prediction that is not finite makes all of them NaN.
    """
    found = _scores(_sums(pixels).to_numpy().sum(axis=0))
    return pd.Series({"pixels": len(pixels), **{name: float(v) for name, v in found.items()}})


def with_interval(pixels: pd.DataFrame, *, repeats: int = 2000, seed: int = 0) -> pd.DataFrame:
    """`scores` with a 95 % interval, by bootstrap over places.

    >>> with_interval(at_labels(model, test)).loc["rmse"]  # doctest: +SKIP
    value    66.2
    low      61.0
    high     71.9

    Pixels of one place (a block of the split) share soil, weather and track, so whole places are
    drawn, in each scene as many as it has. The interval says how much the result depends on which
    places of these scenes were tested, not how it would be in other scenes or with another seed.
    With fewer than three places there is none (NaN).
    """
    sums = _sums(pixels)
    drawn = _scores(draws(sums.index, repeats, seed) @ sums.to_numpy())
    rows = {
        name: (value, *middle_95(drawn[name], len(sums)))
        for name, value in scores(pixels).drop("pixels").items()
    }
    return pd.DataFrame(rows, index=["value", "low", "high"]).T


def middle_95(drawn: np.ndarray, places: int) -> tuple[float, float]:
    """Bounds of the middle 95 % of the draws; NaN from fewer than three places."""
    drawn = drawn[np.isfinite(drawn)]
    if places < 3 or not drawn.size:
        return float("nan"), float("nan")
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def paired(
    ours: pd.DataFrame, theirs: pd.DataFrame, *, repeats: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Compare the RMSE of two models on the same pixels, by bootstrap over places.

    >>> paired(pixels["swin_demo"], pixels["unet"])  # doctest: +SKIP
                value   low  high
    difference    2.1  -0.4   4.9
    ratio         1.0   1.0   1.1

    The same places are drawn for both, so that what makes a place hard for both cancels.

    Raises
    ------
    DataError
        If the two tables are not of the same labelled pixels.
    """
    keys = ["scene", "sample", "row", "col", "observed"]
    if len(ours) != len(theirs) or not (ours[keys].to_numpy() == theirs[keys].to_numpy()).all():
        raise DataError("The two tables are of different pixels: compare models on one test set.")
    both = [_sums(table) for table in (ours, theirs)]
    counts = np.vstack([np.ones((1, len(both[0]))), draws(both[0].index, repeats, seed)])
    mine, other = (_scores(counts @ sums.to_numpy())["rmse"] for sums in both)
    rows = {
        name: (values[0], *middle_95(values[1:], len(both[0])))
        for name, values in {"difference": mine - other, "ratio": mine / other}.items()
    }
    return pd.DataFrame(rows, index=["value", "low", "high"]).T


def residuals(pixels: pd.DataFrame, *, width: float = 50.0, least: int = 5) -> pd.DataFrame:
    """Predicted minus observed by observed biomass: quartiles in bins of `width`.

    >>> table = pd.DataFrame({"observed": [10.0, 20.0, 30.0], "predicted": [15.0, 25.0, 35.0]})
    >>> residuals(table, least=3)["median"].to_dict()
    {25.0: 5.0}

    The index is the middle of a bin; bins of fewer than `least` pixels are left out.
    """
    error = (pixels["predicted"] - pixels["observed"]).to_numpy(float)
    middle = (np.floor(pixels["observed"].to_numpy(float) / width) + 0.5) * width
    table = pd.Series(error).groupby(middle).describe()
    table = table[table["count"] >= least].rename(
        columns={"count": "pixels", "25%": "low", "50%": "median", "75%": "high"}
    )
    return table[["pixels", "low", "median", "high"]].rename_axis("observed")


def transfer_loss(tested: Mapping[str, pd.DataFrame], *, least: int = 20) -> pd.Series:
    """RMSE of a model trained in another region / of one trained in the region itself.

    >>> transfer_loss({name: at_labels(models[name], test) for name in scenes})  # doctest: +SKIP
    0-100      1.3
    100-200    1.2
    all        1.4

    Parameters
    ----------
    tested
        Region trained on -> its model's `at_labels` on the test pixels of all regions.
    least
        A region with fewer test pixels in a bin is left out of that bin.

    Returns
    -------
    pandas.Series
        For each bin the mean over all ordered pairs of regions (trained, tested) that have enough
        pixels; NaN without any. Bins rest on different pairs where a region lacks some biomass.
    """
    by_bin = {
        source: {at: rmse_by_bin(part) for at, part in table.groupby("region")}
        for source, table in tested.items()
    }
    names = rmse_by_bin(pd.DataFrame({"observed": [], "predicted": []})).index
    pairs = {}
    for source, target in itertools.permutations(by_bin, 2):
        if target in by_bin[source]:
            away, home = by_bin[source][target], by_bin[target][target]
            pairs[source, target] = (away["rmse"] / home["rmse"]).where(home["pixels"] >= least)
    return pd.DataFrame(pairs, index=names).mean(axis=1)


def against_truth(
    model: torch.nn.Module,
    scenes: Mapping[str, xr.Dataset],
    chips: pd.DataFrame,
    *,
    label: str = "agb",
    truth: str = "agb_dense",
    accelerator: str = "auto",
) -> pd.DataFrame:
    """Predict every pixel of chips whose true value is known, with and without a shot.

    >>> pixels = against_truth(model, scenes, test)  # doctest: +SKIP
    >>> pixels.groupby("shot").apply(rmse)  # doctest: +SKIP

    Returns
    -------
    pandas.DataFrame
        As `at_labels`, with the truth as ``observed``; ``shot``: whether the pixel has a label;
        ``label``: that label, or NaN.
    """
    data = ChipDataset(scenes, chips, label=truth)
    pixels = at_labels(model, data, accelerator=accelerator)
    values = np.full(len(pixels), np.nan)
    for name, part in pixels.groupby("scene"):
        at = scenes[name][label].values
        sample = (part["sample"].to_numpy(),) if at.ndim == 3 else ()
        values[part.index] = at[(*sample, part["row"].to_numpy(), part["col"].to_numpy())]
    return pixels.assign(label=values, shot=np.isfinite(values))


def as_text(
    errors: pd.DataFrame, title: str = "", *, digits: int = 1, missing: str = "not finite"
) -> pd.DataFrame:
    """Write a table of errors with `digits` decimals; an empty bin says "no pixels".

    >>> as_text(pd.DataFrame({"pixels": [3, 0], "unet": [12.34, float("nan")]})).unet.tolist()
    ['12.3', 'no pixels']
    """
    text = errors.map(lambda value: f"{value:.{digits}f}" if np.isfinite(value) else missing)
    if "pixels" in errors:
        text[errors["pixels"] == 0] = "no pixels"
        text["pixels"] = errors["pixels"]
    return text.rename_axis(columns=title)
