"""From scenes to chips: where they lie, which split they belong to, and a torch dataset of them.

Splits are made by place (`geowb.splits`, offered here too): pixels of two splits are never in one
chip, nor in one block.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geowb.errors import DataError, RequestError
from geowb.splits import SPLITS, share_of, split_by_place, split_by_scene, what_split_shows

if TYPE_CHECKING:
    import torch
    import xarray as xr

__all__ = [
    "SPLITS",
    "ChipDataset",
    "cut",
    "drop_unseen",
    "examples",
    "only",
    "share_of",
    "split_by_place",
    "split_by_scene",
    "what_split_shows",
    "with_labels",
]


Scenes = Mapping[str, "xr.Dataset"]


def cut(scenes: Scenes, size: int = 64, *, label: str | None = "agb") -> pd.DataFrame:
    """Lay out square chips over scenes, edges included.

    >>> chips = cut({"cerrado": scene}, size=64)  # doctest: +SKIP
    >>> chips.columns.tolist()  # doctest: +SKIP
    ['scene', 'sample', 'y', 'x', 'size', 'labelled']

    Parameters
    ----------
    scenes
        Scenes by name, with ``reflectance`` of dims (time, band, y, x) or (sample, band, y, x).
    size
        Edge of a chip in pixels. Chips at the right and bottom edge may reach over it; there the
        image is mirrored and the label missing.
    label
        The variable whose labelled pixels are counted; None counts all pixels of the image.

    Returns
    -------
    pandas.DataFrame
        One row a chip: scene, sample (-1 in a scene), first row and column, size, number of
        labelled pixels, and the publisher's ``split`` where the scene carries one.
    """
    if size < 8:
        raise RequestError(f"Chips of {size} pixels are too small: use 8 or more.")
    tables = [_cut_scene(name, scene, size, label) for name, scene in scenes.items()]
    if not tables:
        raise RequestError("There is no scene to cut into chips.")
    return pd.concat(tables, ignore_index=True)


def _cut_scene(name: str, scene: xr.Dataset, size: int, label: str | None) -> pd.DataFrame:
    if label is not None and label not in scene:
        raise DataError(f"The scene '{name}' has no variable '{label}': {', '.join(scene)}.")
    height, width = scene.sizes["y"], scene.sizes["x"]
    samples = scene.sizes.get("sample")
    every = np.broadcast_to(True, (height, width) if samples is None else (samples, height, width))
    labelled = every if label is None else _labelled(scene[label].transpose(..., "y", "x").values)
    published = scene.coords["split"].values if "split" in scene.coords else None
    rows = []
    for sample in range(samples) if samples is not None else (-1,):
        counts = labelled[sample] if sample >= 0 else labelled
        for y in range(0, height, size):
            for x in range(0, width, size):
                count = int(counts[y : y + size, x : x + size].sum())
                rows.append((name, sample, y, x, size, count))
    table = pd.DataFrame(rows, columns=["scene", "sample", "y", "x", "size", "labelled"])
    if published is not None:
        table["split"] = published[table["sample"].to_numpy()]
    return table


def _labelled(array: np.ndarray) -> np.ndarray:
    """Where a label is: not NaN for quantities, not negative for classes."""
    return np.isfinite(array) if array.dtype.kind == "f" else array >= 0


def drop_unseen(scene: xr.Dataset, label: str | None = "agb") -> xr.Dataset:
    """Unlabel the pixels of a scene that have no image: never clear, or outside of it.

    >>> scene = drop_unseen(clear_mean(scene))  # doctest: +SKIP

    Sets of samples come back as they are: finding their pixels would mean reading all images; and
    so do scenes without the label.
    """
    if "sample" in scene.dims or label not in scene:
        return scene
    image = scene["reflectance"]
    seen = image.notnull().any([dim for dim in image.dims if dim not in ("y", "x")])
    labels = scene[label]
    if labels.dtype.kind == "f":
        return scene.assign({label: labels.where(seen)})
    return scene.assign({label: labels.where(seen, -1).astype(labels.dtype)})


def examples(scenes: Scenes, chips: pd.DataFrame, count: int = 3) -> dict[str, xr.Dataset]:
    """Pick a few whole images to look at: scenes, or test samples of a set, with a time axis.

    >>> shown = examples(scenes, chips)  # doctest: +SKIP
    """
    found = {}
    for name, scene in scenes.items():
        if "sample" not in scene.dims:
            found[name] = scene
            continue
        test = chips[(chips["scene"] == name) & (chips["split"] == "test")]["sample"].unique()
        for sample in test[:count]:
            one = scene.isel(sample=int(sample)).load()
            if "time" not in one["reflectance"].dims:
                one["reflectance"] = one["reflectance"].expand_dims(time=1)
            found[f"{name}-{sample}"] = one
    return dict(list(found.items())[:count])


def only(
    scenes: Scenes, chips: pd.DataFrame, *, label: str, split: str = "test"
) -> dict[str, xr.Dataset]:
    """Return the whole images that a split has chips in, unlabelled outside of these chips.

    >>> test = only(scenes, chips, label="flood")  # doctest: +SKIP

    Scenes keep their grid; of a set of samples those of the split are left.
    """
    chosen, found = chips[chips["split"] == split], {}
    for name, part in chosen.groupby("scene", sort=False):
        scene = scenes[name]
        if "sample" in scene.dims:
            found[name] = scene.isel(sample=sorted(part["sample"].unique()))
            continue
        inside = np.zeros((scene.sizes["y"], scene.sizes["x"]), bool)
        for _, chip in part.iterrows():
            inside[_window(chip)] = True
        values = scene[label].transpose("y", "x").values
        missing = np.nan if values.dtype.kind == "f" else values.dtype.type(-1)
        found[name] = scene.assign({label: (("y", "x"), np.where(inside, values, missing))})
        found[name][label].attrs = dict(scene[label].attrs)
    return found


class ChipDataset:
    """Chips of scenes as a torch dataset.

    >>> dataset = ChipDataset(scenes, chips.query("split == 'train'"))  # doctest: +SKIP
    >>> dataset[0]["image"].shape, dataset[0]["label"].shape  # doctest: +SKIP
    (torch.Size([6, 1, 64, 64]), torch.Size([64, 64]))

    An item has ``image`` (C, T, H, W) in counts with NaN for no data, ``label`` (H, W) with NaN for
    unlabelled (-1 for classes), and ``index``, the row in ``chips``.

    Parameters
    ----------
    scenes, chips
        The scenes, and the rows of `cut` that are wanted.
    label
        Name of the label variable; None for chips without labels.
    label_fraction
        Share of the labelled pixels that is kept, drawn from `seed`; the rest becomes unlabelled.
    augment
        Turn and mirror each chip at random (the eight symmetries of the square). The draw depends
        on `seed`, the epoch (see `set_epoch`) and the chip alone.
    """

    def __init__(
        self,
        scenes: Scenes,
        chips: pd.DataFrame,
        *,
        label: str | None = "agb",
        label_fraction: float = 1.0,
        augment: bool = False,
        seed: int = 0,
    ) -> None:
        if not 0 < label_fraction <= 1:
            raise RequestError(f"label_fraction must lie in (0, 1]; it is {label_fraction}.")
        self.chips = chips.reset_index(drop=True)
        self.augment = augment
        self.seed = seed
        self.epoch = 0
        self._images = {}
        self._labels = {}
        for name in self.chips["scene"].unique():
            images = scenes[name]["reflectance"]
            if "time" not in images.dims:  # one date a sample
                images = images.expand_dims("time", axis=1)
            dims = [dim for dim in ("sample", "time") if dim in images.dims]
            self._images[name] = images.transpose(*dims, "band", "y", "x").data
            if label is not None:
                self._labels[name] = _thinned(scenes[name][label], label_fraction, seed)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that random augmentation is drawn for."""
        self.epoch = epoch

    def plain(self) -> ChipDataset:
        """Return the same dataset without augmentation."""
        other = copy.copy(self)
        other.augment = False
        return other

    def label_statistics(self) -> tuple[float, float]:
        """Mean and standard deviation of the labels, for a model's output scale.

        Raises
        ------
        DataError
            If there are fewer than two different labels.
        """
        labels = [self._label(chip) for _, chip in self.chips.iterrows()]
        values = np.concatenate([label[_labelled(label)] for label in labels] or [np.empty(0)])
        if values.size < 2 or values.std() == 0:
            raise DataError(
                f"{values.size} labelled pixels in {len(self)} chips, not two different values: "
                "nothing can be learned from them."
            )
        return float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))

    def classes(self) -> list[int]:
        """List the classes among the labels that are left after thinning."""
        found = [np.unique(self._label(chip)) for _, chip in self.chips.iterrows()]
        return [int(k) for k in np.unique(np.concatenate(found or [np.empty(0)])) if k >= 0]

    def count_labelled(self) -> int:
        """Count the labelled pixels that are left after thinning."""
        return sum(self._count(chip) for _, chip in self.chips.iterrows())

    def labelled_only(self) -> ChipDataset:
        """Return the same dataset without the chips that have no labelled pixel."""
        kept = [self._count(chip) > 0 for _, chip in self.chips.iterrows()]
        other = copy.copy(self)
        other.chips = self.chips[kept].reset_index(drop=True)
        return other

    def _count(self, chip: pd.Series) -> int:
        return int(_labelled(self._label(chip)).sum())

    def __len__(self) -> int:
        return len(self.chips)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | int]:
        import torch

        chip = self.chips.iloc[index]
        image, label = self._image(chip), self._label(chip)
        if self.augment:
            draw = np.random.default_rng((self.seed, self.epoch, index))
            turns, mirror = draw.integers(4), draw.integers(2)
            image, label = (np.rot90(a, turns, axes=(-2, -1)) for a in (image, label))
            if mirror:
                image, label = image[..., ::-1], label[..., ::-1]
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image)),
            "label": torch.from_numpy(np.ascontiguousarray(label)),
            "index": index,
        }

    def _image(self, chip: pd.Series) -> np.ndarray:
        images = self._images[chip["scene"]]
        if chip["sample"] >= 0:
            images = images[chip["sample"]]
        image = np.asarray(images[_window(chip)], dtype=np.float32)
        image = image.swapaxes(0, 1)  # (C, T, H, W)
        # The chip's own mirror image, not no data: batch normalisation counts every pixel.
        return np.pad(image, _margins(image, chip["size"]), mode="symmetric")

    def _label(self, chip: pd.Series) -> np.ndarray:
        if not self._labels:
            return np.full((chip["size"], chip["size"]), np.nan, dtype=np.float32)
        labels = self._labels[chip["scene"]]
        if chip["sample"] >= 0:
            labels = labels[chip["sample"]]
        label = labels[_window(chip)]
        label = label if label.dtype.kind == "f" else label.astype(np.int64)
        filler = np.nan if label.dtype.kind == "f" else -1
        return np.pad(label, _margins(label, chip["size"]), constant_values=filler)


def with_labels(train: ChipDataset, val: ChipDataset | None) -> ChipDataset:
    """Return the training chips that have labels.

    >>> len(with_labels(train, val))  # doctest: +SKIP
    101

    Raises
    ------
    DataError
        If a split has no labelled pixel.
    """
    for name, part in (("training", train), ("validation", val)):
        if part is not None and not part.count_labelled():
            raise DataError(
                f"The {name} split has no labelled pixel ({len(part)} chips): "
                "nothing can be learned from it."
            )
    return train.labelled_only()


def _window(chip: pd.Series) -> tuple:
    y, x, size = chip["y"], chip["x"], chip["size"]
    return np.s_[..., y : y + size, x : x + size]


def _margins(array: np.ndarray, size: int) -> list[tuple[int, int]]:
    """Return what a window at the right or bottom edge lacks to a whole chip, for `numpy.pad`."""
    height, width = array.shape[-2:]
    return [(0, 0)] * (array.ndim - 2) + [(0, size - height), (0, size - width)]


def _thinned(values: xr.DataArray, fraction: float, seed: int) -> np.ndarray:
    """Labels with a random share kept."""
    array = values.transpose(..., "y", "x").values
    kinds = {"f": np.float32, "u": np.int64}  # -1 stands for none
    array = array.astype(kinds.get(array.dtype.kind, array.dtype), copy=False)
    if fraction == 1:
        return array
    drop = np.random.default_rng(seed).random(array.shape) >= fraction
    return np.where(drop, np.float32(np.nan) if array.dtype.kind == "f" else -1, array)
