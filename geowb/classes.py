"""Scores of class maps: confusions by place, IoU, F1 and accuracy of each class, intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geowb.errors import DataError
from geowb.evaluate import draws, middle_95

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "COLOURS",
    "class_table",
    "confusion",
    "confusions",
    "difference",
    "drawn",
    "paired",
    "shares",
    "with_interval",
]

#: Colours of the classes of each label, and of right and wrong, for `geowb.maps.plot_map`: pale
#: for what is common, and told apart by colour-blind readers (after Okabe and Ito, and Tol).
COLOURS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "flood": ("#EFE6CB", "#0072B2"),
        "burn": ("#E3E8D5", "#882255"),
        "crop": (
            *("#E8E4B0", "#117733", "#F0C000", "#44AA99", "#88CCEE", "#999999", "#332288"),
            *("#8C510A", "#DD77AA", "#C8B08A", "#CC3311", "#EE7733", "#AA4499"),
        ),
        "two": ("#F0F0F0", "#A0A0A0", "#D55E00", "#56B4E9"),
        "many": ("#E5E5E5", "#D55E00"),
    }
)


def shares(label: xr.DataArray) -> pd.Series:
    """Share of the pixels of a class map that each class has, ``unlabelled`` (-1) first.

    >>> import xarray as xr
    >>> told = {"flag_meanings": "dry water"}
    >>> shares(xr.DataArray(np.array([[0, 0], [1, -1]]), attrs=told)).to_dict()
    {'unlabelled': 0.25, 'dry': 0.5, 'water': 0.25}

    The names are those of the attribute ``flag_meanings`` (CF), which a catalog entry's ``classes``
    give.

    Raises
    ------
    DataError
        If the classes have no names, or a value stands for none of them.
    """
    names, values = label.attrs.get("flag_meanings", "").split(), label.values
    if not names:
        raise DataError(
            f"The classes of '{label.name}' have no names: list them in the entry's metadata "
            "(classes), or set the attribute flag_meanings."
        )
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    if not (low >= -1 and high < len(names)):
        worst = high if high >= len(names) else low
        raise DataError(
            f"'{label.name}' has the value {worst:g}; its classes are 0 to {len(names) - 1} "
            f"({', '.join(names)}), and -1 is unlabelled. Name the entry's classes, or its no-data "
            "value, in the catalog."
        )
    counts = np.bincount(values.ravel().astype(np.int64) + 1, minlength=len(names) + 1)
    return pd.Series(counts / max(values.size, 1), index=["unlabelled", *names])


def confusion(observed: np.ndarray, predicted: np.ndarray, count: int) -> np.ndarray:
    """Count pixels by observed (rows) and predicted class (columns), unlabelled ones left out.

    >>> confusion(np.array([0, 0, 1, -1]), np.array([0, 1, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]

    By torchmetrics. Classes go from 0 to `count` - 1; an observed -1 is unlabelled. A labelled
    pixel without a prediction (255, or NaN) is an error: a map that leaves out what is hard would
    look better than it is.

    Raises
    ------
    DataError
        For a labelled pixel without a prediction, and for classes out of range.
    """
    import torch
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    labelled = observed >= 0
    seen, made = observed[labelled].astype(np.int64), predicted[labelled]
    missing = ~np.isfinite(made) | (made == 255)
    if missing.any():
        raise DataError(
            f"{int(missing.sum()):,} of {seen.size:,} labelled pixels have no prediction: they "
            "have no image. Unlabel them (geowb.chips.drop_unseen)."
        )
    made = made.astype(np.int64)
    for what, values in (("label", seen), ("prediction", made)):
        if values.size and not 0 <= values.min() <= values.max() < count:
            worst = int(values.max() if values.max() >= count else values.min())
            raise DataError(f"A {what} has the class {worst}; the classes are 0 to {count - 1}.")
    pair = (torch.from_numpy(made), torch.from_numpy(seen))
    return multiclass_confusion_matrix(*pair, count, validate_args=False).numpy()  # checked above


def confusions(
    maps: Mapping[str, xr.DataArray],
    scenes: Mapping[str, xr.Dataset],
    *,
    label: str,
    count: int,
    block: int = 64,
) -> pd.DataFrame:
    """Count whole maps against their scenes' labels, a row a place.

    >>> table = confusions(maps, scenes, label="flood", count=2)  # doctest: +SKIP
    >>> class_table(table, ["dry", "water"])  # doctest: +SKIP

    Parameters
    ----------
    maps
        Predicted classes ``(y, x)`` or ``(sample, y, x)``, by the scene's name.
    block
        Edge in pixels of a place in a scene, for intervals; a sample of a set is one place.

    Returns
    -------
    pandas.DataFrame
        Index ``scene``, ``place``; columns 0 to count * count - 1, the confusion matrix row by row.
        Places without a labelled pixel are left out.
    """
    rows = {}
    for name, made in maps.items():
        observed = scenes[name][label].transpose(..., "y", "x").values
        predicted = made.transpose(..., "y", "x").values
        if observed.shape != predicted.shape:
            raise DataError(
                f"The map of '{name}' is {predicted.shape}, its '{label}' {observed.shape}."
            )
        for place, window in _places(observed.shape, block):
            table = confusion(observed[window], predicted[window], count)
            if table.sum():
                rows[name, place] = table.ravel()
    index = pd.MultiIndex.from_tuples(rows, names=["scene", "place"]) if rows else None
    return pd.DataFrame(list(rows.values()), index=index)


def _places(shape: Sequence[int], block: int) -> list[tuple[str, tuple]]:
    """Windows of a map, each with its name."""
    if len(shape) == 3:
        return [(str(sample), np.s_[sample]) for sample in range(shape[0])]
    rows, columns = (range(0, edge, block) for edge in shape)
    return [
        (f"{y // block}/{x // block}", np.s_[y : y + block, x : x + block])
        for y in rows
        for x in columns
    ]


def _whole(tables: pd.DataFrame | np.ndarray) -> np.ndarray:
    """One confusion matrix of many."""
    values = np.asarray(tables)
    if isinstance(tables, pd.DataFrame):
        values = values.sum(axis=0)
        side = round(values.size**0.5)
        values = values.reshape(side, side)
    return values


def class_table(tables: pd.DataFrame | np.ndarray, names: Sequence[str]) -> pd.DataFrame:
    """IoU, F1, accuracy and precision of each class, and their means in the row ``mean``.

    >>> class_table(np.array([[8, 2], [0, 10]]), ["dry", "water"]).round(2).loc["water"].to_dict()
    {'iou': 0.83, 'f1': 0.91, 'accuracy': 1.0, 'precision': 0.83, 'pixels': 10.0}

    Parameters
    ----------
    tables
        A confusion matrix, observed in rows; or what `confusions` returns, which is added up.
    names
        Names of the classes.

    Returns
    -------
    pandas.DataFrame
        A row a class. Accuracy is the share of what was observed as the class that is found
        (recall), precision the share of what is called so that is of it; IoU = TP / (TP + FP + FN)
        and F1 = 2 TP / (2 TP + FP + FN). What divides by nothing is NaN: all of a class that is
        neither observed nor predicted, accuracy if it is not observed, precision if it is never
        predicted. The row ``mean`` has the means of what is not NaN: mIoU, mF1, mean accuracy, and
        all pixels; the row ``all`` the share of all pixels that are right, as accuracy.
    """
    table = _whole(tables).astype(float)
    hit, seen, made = np.diag(table), table.sum(axis=1), table.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = pd.DataFrame(
            {
                "iou": hit / (seen + made - hit),
                "f1": 2 * hit / (seen + made),
                "accuracy": hit / seen,
                "precision": hit / made,
                "pixels": seen,
            },
            index=list(names),
        )
        whole = hit.sum() / table.sum()
    means = found.mean()
    means["pixels"] = table.sum()
    found.loc["mean"] = means
    found.loc["all"] = {"accuracy": whole, "pixels": table.sum()}
    return found


def _scores(stacked: np.ndarray, side: int) -> dict[str, np.ndarray]:
    """Mean IoU and the IoU of each class of confusion matrices ``(n, side * side)``."""
    table = stacked.reshape(-1, side, side)
    hit = np.diagonal(table, axis1=1, axis2=2)
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = hit / (table.sum(axis=1) + table.sum(axis=2) - hit)
    known = np.isfinite(iou)
    mean = np.where(known, iou, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    mean = np.where(known.any(axis=1), mean, np.nan)
    return {"mean": mean, **{k: iou[:, k] for k in range(side)}}


def _counts(tables: pd.DataFrame, repeats: int, seed: int) -> np.ndarray:
    """How often each place counts: once, and then in `repeats` draws, ``(1 + repeats, places)``."""
    return np.vstack([np.ones((1, len(tables))), draws(tables.index, repeats, seed)])


def drawn(
    tables: pd.DataFrame, *, score: str = "miou", repeats: int = 2000, seed: int = 0
) -> np.ndarray:
    """Score of all places, and then of `repeats` bootstrap draws of them, ``(1 + repeats,)``.

    >>> tables = pd.DataFrame([[1, 0, 0, 1], [1, 1, 0, 0]], index=[("a", "0"), ("a", "1")])
    >>> tables.index = pd.MultiIndex.from_tuples(tables.index)
    >>> float(drawn(tables, score="accuracy", repeats=10)[0])
    0.75

    Of tables of the same places, `seed` draws the same places: the difference of two results is
    paired. Whole places are drawn, in each scene as many as it has (as
    `geowb.evaluate.with_interval`).

    Parameters
    ----------
    score
        ``miou``, the mean IoU over the classes that are observed or predicted in a draw, or
        ``accuracy``, the share of the pixels (or images) that are right.
    """
    counts = _counts(tables, repeats, seed)
    side = round(tables.shape[1] ** 0.5)
    if score == "miou":
        return _scores(counts @ tables.to_numpy(), side)["mean"]
    hit = tables.to_numpy()[:, :: side + 1].sum(axis=1)
    return (counts @ hit) / (counts @ tables.to_numpy().sum(axis=1))


def with_interval(
    tables: pd.DataFrame, names: Sequence[str], *, repeats: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """IoU of each class and their mean with a 95 % interval, by bootstrap over places.

    >>> with_interval(confusions(maps, scenes, label="flood", count=2), names)  # doctest: +SKIP
           value   low  high
    mean    0.81  0.77  0.84

    Whole places are drawn, in each scene as many as it has (as `geowb.evaluate.with_interval`).
    """
    found = _scores(_counts(tables, repeats, seed) @ tables.to_numpy(), len(names))
    rows = {
        str(name): (values[0], *middle_95(values[1:], len(tables)))
        for name, values in zip(["mean", *names], found.values(), strict=True)
    }
    return pd.DataFrame(rows, index=["value", "low", "high"]).T


def paired(
    ours: pd.DataFrame, theirs: pd.DataFrame, *, repeats: int = 2000, seed: int = 0
) -> pd.Series:
    """Difference of the mean IoU of two models on the same places, with a 95 % interval.

    >>> paired(tables["prithvi_demo"], tables["unet"])  # doctest: +SKIP
    value    0.021
    low      0.004
    high     0.039

    Raises
    ------
    DataError
        If the two are not of the same places with the same labels.
    """
    side = round(ours.shape[1] ** 0.5)
    seen = [t.to_numpy().reshape(-1, side, side).sum(axis=2) for t in (ours, theirs)]
    if not ours.index.equals(theirs.index) or not np.array_equal(*seen):
        raise DataError("The two tables are of different pixels: compare models on one test set.")
    mine, other = (drawn(t, repeats=repeats, seed=seed) for t in (ours, theirs))
    gain = mine - other
    return pd.Series([gain[0], *middle_95(gain[1:], len(ours))], index=["value", "low", "high"])


def difference(
    observed: xr.DataArray, predicted: xr.DataArray, *, classes: Sequence[str]
) -> xr.DataArray:
    """Map what is right and what is wrong: a class map of its own, for `geowb.maps.plot_map`.

    >>> difference(scene.flood, made, classes=["dry", "water"]).attrs["flag_meanings"]
    ... # doctest: +SKIP
    'dry_right water_right water_missed water_invented'

    For two classes it tells what was missed from what was invented; for more, right from wrong.
    -1 where there is no label. Colours: ``COLOURS["two"]`` and ``COLOURS["many"]``.
    """
    seen, made = observed.values, predicted.values
    right = seen == made
    if len(classes) == 2:
        what = classes[1]
        names = [f"{classes[0]}_right", f"{what}_right", f"{what}_missed", f"{what}_invented"]
        values = np.where(right, seen, np.where(seen == 1, 2, 3))
    else:
        names, values = ["right", "wrong"], np.where(right, 0, 1)
    values = np.where(seen >= 0, values, -1).astype(np.int16)
    flags = np.arange(len(names), dtype=np.int16)
    told = {"long_name": "prediction against label", "units": "1", "flag_values": flags}
    return observed.copy(data=values).assign_attrs(**told, flag_meanings=" ".join(names))
