"""Places that are looked at from afar: images, the class of each, the classes of its pixels.

>>> scenes = {"cerrado": geowb.world.scene(size=64, dates=1, clouds=False)}
>>> places = cut_places(scenes, 32, bands=("RED", "GREEN", "BLUE"))
>>> places.images.shape, places.maps.shape
((4, 3, 32, 32), (4, 32, 32))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geowb.chips import ChipDataset, cut
from geowb.errors import DataError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Places", "cut_places", "dominant"]


@dataclass(frozen=True)
class Places:
    """Images with their labels.

    Parameters
    ----------
    images
        ``(N, bands, y, x)`` in counts.
    table
        A row an image: scene, sample, y, x, and ``split`` where one is published.
    classes, names
        Class of each image ``(N,)``, -1 for none, and the classes' names.
    maps, map_names
        Class of each pixel ``(N, y, x)``, -1 unlabelled, and the names; None without such labels.
    """

    images: np.ndarray
    table: pd.DataFrame
    classes: np.ndarray
    names: list[str]
    maps: np.ndarray | None
    map_names: list[str]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def index(self) -> pd.MultiIndex:
        """Scene and place of each image, for bootstrap draws."""
        place = (
            self.table["sample"]
            .astype(str)
            .where(
                self.table["sample"] >= 0,
                self.table["y"].astype(str) + "/" + self.table["x"].astype(str),
            )
        )
        return pd.MultiIndex.from_arrays([self.table["scene"], place], names=["scene", "place"])

    def folds(
        self, count: int, repeats: int = 1, seed: int = 0
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Part the images that have a class into training and test, `count` times `repeats`.

        Each class is spread evenly over the folds, and what was cut from one sample of a set stays
        together, and of a scene all that was (scikit-learn's `StratifiedGroupKFold`).

        Raises
        ------
        DataError
            If there are fewer than two folds, or a class has fewer images (or samples or scenes
            that its images were cut from) than there are folds.
        """
        from sklearn.model_selection import StratifiedGroupKFold

        if count < 2:
            raise DataError(f"{count} folds part nothing: it takes 2 or more.")
        rows = np.flatnonzero(self.classes >= 0)
        of = pd.MultiIndex.from_frame(self.table[["scene", "sample"]])  # -1 throughout a scene
        sample, found = pd.factorize(of[rows])[0], []
        apart = np.unique(np.stack([sample, self.classes[rows]]), axis=1)
        numbers = np.bincount(apart[1])
        if numbers[numbers > 0].min() < count:
            rarest = self.names[int(np.where(numbers > 0, numbers, numbers.max() + 1).argmin())]
            raise DataError(
                f"The class '{rarest}' has fewer images than there are folds ({count}); those of "
                "one sample or scene count once."
            )
        for number in range(repeats):
            drawn = np.random.RandomState([seed, number])
            parting = StratifiedGroupKFold(count, shuffle=True, random_state=drawn)
            parts = parting.split(rows, self.classes[rows], sample)
            found += [(rows[train], rows[test]) for train, test in parts]
        return found


def dominant(maps: np.ndarray, count: int, least: float = 0.5) -> np.ndarray:
    """Find the class that covers a place: ``(N,)``, -1 where none covers `least` of it.

    >>> dominant(np.array([[[0, 0], [0, 1]], [[0, 1], [2, 3]]]), 4).tolist()
    [0, -1]

    Parameters
    ----------
    maps
        ``(N, y, x)``, -1 unlabelled: no part of any class, but of the place.
    """
    flat = maps.reshape(len(maps), -1)
    shares = np.stack([(flat == k).mean(axis=1) for k in range(count)], axis=1)
    return np.where(shares.max(axis=1) >= least, shares.argmax(axis=1), -1)


def cut_places(
    scenes: Mapping[str, xr.Dataset],
    size: int,
    *,
    bands: Sequence[str],
    label: str = "landcover",
    least: float = 0.5,
) -> Places:
    """Cut scenes into images, or take the images of a set whole.

    Images of a set with one class each (`label` of the set) are brought to `size` by means over
    areas if they are larger. Scenes, and sets with a map a sample, are cut into squares of that
    size; the class of one is what covers `least` of it. Classes without an image are left out, and
    so are images with pixels without data.

    Raises
    ------
    DataError
        If there is no label, no image without missing pixels, or none that has a class.
    """
    first = next(iter(scenes.values()))
    whole = "label" in first and first["label"].ndim == 1
    if not whole and label not in first:
        raise DataError(
            f"The images have neither a class each (label) nor a map of classes ({label})."
        )
    wanted = {
        k: s.sel(band=list(bands)).transpose(..., "band", "y", "x") for k, s in scenes.items()
    }
    edge = max(first.sizes["y"], first.sizes["x"]) if whole else size
    table = cut(wanted, edge, label=None if whole else label)
    data = ChipDataset(wanted, table, label=None if whole else label)
    items = [data[row] for row in range(len(data))]
    images = np.stack([item["image"][:, 0].numpy() for item in items])
    there = np.isfinite(images).all(axis=(1, 2, 3))
    if not there.any():
        raise DataError("Every image has pixels without data: images are sent whole.")
    table = table.reset_index(drop=True)
    if whole:
        found = {name: scene["label"].values for name, scene in scenes.items()}
        pairs = zip(table["scene"], table["sample"], strict=True)
        classes = np.array([found[scene][sample] for scene, sample in pairs])
        maps, names = None, _names(first["label"], int(classes.max()) + 1)
        map_names: list[str] = []
        images = _smaller(images, size)
    else:
        maps = np.stack([item["label"].numpy() for item in items])
        if maps.max() < 0:
            raise DataError(f"No pixel has a class ({label}).")
        map_names = _names(first[label], int(maps.max()) + 1)
        classes, names = dominant(maps, len(map_names), least), map_names
    if (classes[there] < 0).all():
        ends = "" if whole else f": none is covered to {100 * least:g} % by one (least {least:g})"
        raise DataError(f"No image has a class{ends}.")
    made = Places(images, table, classes, names, maps, map_names)
    return _used(_of(made, np.flatnonzero(there)))


def _names(label: xr.DataArray, count: int) -> list[str]:
    names = label.attrs.get("flag_meanings", "").split()
    return names if len(names) >= count else [str(k) for k in range(count)]


def _smaller(images: np.ndarray, size: int) -> np.ndarray:
    """Bring images to an edge of `size` by means over areas, if they are larger."""
    import torch

    if max(images.shape[-2:]) <= size:
        return images
    held = torch.from_numpy(images)
    return torch.nn.functional.interpolate(held, (size, size), mode="area").numpy()


def _of(places: Places, rows: np.ndarray) -> Places:
    return replace(
        places,
        images=places.images[rows],
        table=places.table.iloc[rows].reset_index(drop=True),
        classes=places.classes[rows],
        maps=None if places.maps is None else places.maps[rows],
    )


def _used(places: Places) -> Places:
    """Leave out classes that no image is of, and number the others anew."""
    used = [k for k in np.unique(places.classes) if k >= 0]
    numbers = np.full(len(places.names) + 1, -1)  # the last: that of -1
    numbers[used] = range(len(used))
    names = [places.names[k] for k in used]
    return replace(places, classes=numbers[places.classes], names=names)
