"""Small images with a class each, as machine learning passes them around: npz, records, digits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from geowb.catalog.read import flags
from geowb.catalog.schema import ArraysOptions
from geowb.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

    from geowb.catalog.source import Source

__all__ = ["arrays", "digits"]

_MOST = 32_767  # classes are int16


def digits() -> xr.Dataset:
    """Open the 1,797 handwritten digits that come with scikit-learn: 8 x 8 pixels from 0 to 16."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return _dataset(found.images[:, None], found.target, ["GREY"], [str(k) for k in range(10)])


def arrays(source: Source, options: ArraysOptions, uri: str) -> xr.Dataset:
    """Read the images of an npz file, or of files of records, and what class each is of."""
    import numpy as np

    if not options.record:
        images, labels = _from_npz(source.catalog.find(uri)[0], options)
        return _dataset(images, labels, options.bands, options.classes)
    folder = source.catalog.find(uri)[0]
    read = [
        (split, _records(file, options.record))
        for split, pattern in options.splits.items()
        for file in _files(source, folder, pattern)
    ]
    images, labels = (np.concatenate(parts) for parts in zip(*(r for _, r in read), strict=True))
    splits = [split for split, (part, _) in read for _ in part]
    return _dataset(images, labels, options.bands, options.classes).assign_coords(
        split=("sample", splits)
    )


def _files(source: Source, folder: Path, pattern: str) -> list[Path]:
    found = sorted(folder.glob(pattern))
    if not found:
        raise DataError(f"No file in '{folder}' fits '{pattern}' (entry '{source.name}').")
    return found


def _from_npz(file: Path, options: ArraysOptions) -> tuple[np.ndarray, np.ndarray]:
    """Images ``(N, bands, y, x)`` and classes ``(N,)``; nothing in the file can run code."""
    import zipfile
    import zlib

    import numpy as np

    try:
        with np.load(file, allow_pickle=False) as held:
            absent = [
                name for name in (options.images_array, options.labels_array) if name not in held
            ]
            if absent:
                told = ", ".join(held)
                raise DataError(f"'{file}' has no array '{absent[0]}'; it has {told}.")
            images, labels = held[options.images_array], held[options.labels_array]
    except (ValueError, TypeError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"'{file}' is no npz file of plain numbers: {error}") from error
    images = images[:, None] if images.ndim == 3 else images
    if (
        images.ndim != 4
        or images.shape[1] != len(options.bands)
        or labels.shape != images.shape[:1]
    ):
        raise DataError(
            f"'{file}' has images {images.shape} and labels {labels.shape}; the entry declares "
            f"(N, {len(options.bands)}, y, x) and N."
        )
    return images, labels


def _records(file: Path, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Read records of one byte for the class and one for each pixel, band by band."""
    import numpy as np

    raw, size = np.fromfile(file, np.uint8), 1 + int(np.prod(shape))
    if not raw.size or raw.size % size:
        raise DataError(f"'{file}' has {raw.size:,} bytes, which are no records of {size:,}.")
    rows = raw.reshape(-1, size)
    return rows[:, 1:].reshape(-1, *shape), rows[:, 0]


def _dataset(images: np.ndarray, labels: np.ndarray, bands: Any, classes: Any) -> xr.Dataset:
    import numpy as np
    import xarray as xr

    labels = np.asarray(labels)
    if not len(labels) or images.dtype.kind not in "uif":
        raise DataError(f"There are {len(labels)} images of {images.dtype}: numbers are wanted.")
    whole = labels.dtype.kind in "ui" and labels.min() >= 0 and labels.max() <= _MOST
    if not whole:
        raise DataError(f"Classes are numbers from 0 to {_MOST}; these are {labels.dtype}.")
    if classes and labels.max() >= len(classes):
        raise DataError(f"There is a class {labels.max()}, of {len(classes)} that are declared.")
    told = flags(classes) if classes else {}
    return xr.Dataset(
        {
            "reflectance": (("sample", "band", "y", "x"), images.astype("float32")),
            "label": ("sample", labels.astype("int16"), told),
        },
        coords={"sample": [f"{k:05d}" for k in range(len(labels))], "band": list(bands)},
    )
