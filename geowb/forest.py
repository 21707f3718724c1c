"""A random forest on single pixels: what spectra and dates tell without any neighbourhood."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from geowb.chips import ChipDataset, Scenes
from geowb.errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from sklearn.ensemble import RandomForestClassifier

__all__ = ["PixelForest", "fit_forest"]


class PixelForest:
    """A fitted forest; `fit_forest` makes it.

    ``forest`` is scikit-learn's, its classes are those of the labels.
    """

    def __init__(self, forest: RandomForestClassifier, label: str) -> None:
        self.forest, self.label = forest, label

    def maps(self, scenes: Mapping[str, xr.Dataset]) -> dict[str, xr.DataArray]:
        """Map whole scenes: the label's grid and class names, as of `geowb.predict.map_scenes`.

        >>> forest.maps(scenes)["cerrado 0"]  # doctest: +SKIP
        """
        return {name: self._map(scene) for name, scene in scenes.items()}

    def _map(self, scene: xr.Dataset) -> xr.DataArray:
        import xarray as xr

        if "sample" in scene.dims:
            each = [scene.isel(sample=number) for number in range(scene.sizes["sample"])]
            return xr.concat([self._map(one) for one in each], "sample")
        order = [dim for dim in ("time", "band", "y", "x") if dim in scene["reflectance"].dims]
        image = scene["reflectance"].transpose(*order).values
        values = image.reshape(-1, image.shape[-2] * image.shape[-1]).T
        made = self.forest.predict(values.astype(np.float32))
        grid = scene[self.label].transpose("y", "x")
        return grid.copy(data=made.reshape(grid.shape).astype(np.int16))


def fit_forest(
    scenes: Scenes,
    chips: pd.DataFrame,
    *,
    label: str,
    pixels: int = 10_000,
    trees: int = 50,
    seed: int = 0,
) -> PixelForest:
    """Fit a random forest to labelled pixels of chips: bands and dates in, a class out.

    >>> forest = fit_forest(scenes, chips[chips.split == "train"], label="crop")  # doctest: +SKIP
    >>> geowb.classes.confusions(forest.maps(test), test, label="crop", count=13)  # doctest: +SKIP

    The simplest thing that one can do with class labels, beside which a network that looks at whole
    chips has to show what it is worth.

    Parameters
    ----------
    scenes, chips, label
        As for `geowb.chips.ChipDataset`; labels are classes, -1 unlabelled.
    pixels
        Labelled pixels that are drawn from the chips at random, from each as many, so that a
        class has about the share that it has in the chips.
    trees
        Of scikit-learn's forest, with leaves of at least three pixels. Values without data (NaN)
        are a branch of their own.
    seed
        Of the draw and of the trees.

    Raises
    ------
    DataError
        If no pixel is labelled.
    """
    from sklearn.ensemble import RandomForestClassifier

    data, rng = ChipDataset(scenes, chips, label=label), np.random.default_rng(seed)
    seen, classes = [], []
    for item in (data[at] for at in range(len(data))):
        target = item["label"].numpy().ravel()
        labelled = np.flatnonzero(target >= 0)
        drawn = rng.permutation(labelled)[: -(-pixels // len(data))]
        image = item["image"].transpose(0, 1) if item["image"].ndim == 4 else item["image"]
        seen.append(image.flatten(-2).flatten(0, -2).numpy()[:, drawn].T)
        classes.append(target[drawn])
    if not sum(map(len, classes)):
        raise DataError(f"No pixel of the {len(data)} chips has a '{label}': nothing to learn.")
    forest = RandomForestClassifier(trees, min_samples_leaf=3, random_state=seed)
    return PixelForest(forest.fit(np.concatenate(seen), np.concatenate(classes)), label)
