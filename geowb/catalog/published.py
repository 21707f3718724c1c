"""What is published about an entry, in words, and how what is here differs from it."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import TYPE_CHECKING

from geowb.bands import STATISTICS

if TYPE_CHECKING:
    import xarray as xr

    from geowb.catalog.schema import Label, Layer
    from geowb.catalog.source import Source

__all__ = ["facts", "warn_of_other_numbers"]


def facts(source: Source) -> dict[str, str]:
    """Metadata, labels and layers of an entry, each as one line of text.

    >>> facts(geowb.open_catalog()["sen1floods11"])["chips"]  # doctest: +SKIP
    '252 train, 89 val, 90 test, 15 bolivia (published)'
    """
    meta = source.entry.metadata
    known = meta.model_dump(exclude_none=True, exclude={"chips", "statistics"})
    told = {name: str(value) for name, value in known.items()}
    if meta.chips:
        counts = ", ".join(f"{count:,} {_in(split)}" for split, count in meta.chips.items())
        told["chips"] = f"{counts} (published)"
    if meta.statistics:
        found = STATISTICS[meta.statistics]
        mean, std = (" ".join(f"{v:.1f}" for v in values) for values in (found.mean, found.std))
        told["statistics"] = f"{meta.statistics}: mean {mean}; deviation {std} ({found.source})"
    driver, _ = source.reader({})
    options = getattr(driver, "options", None)
    for name, label in getattr(options, "labels", {}).items():
        told[f"label {name}"] = _meaning(label)
    for name, layer in getattr(options, "layers", {}).items():
        told[f"layer {name}"] = f"channel {layer.channel}; {_meaning(layer)}"
    return told


def _in(split: str) -> str:
    return "in all" if split == "all" else split


def _meaning(label: Label | Layer) -> str:
    """Classes with their weights, and what stands for no data in the file."""
    weights = getattr(label, "class_weights", None) or ()
    told = [f"{i} {name}" for i, name in enumerate(label.classes or ())]
    for i, weight in enumerate(weights):
        told[i] += f" (weight {weight})"
    classes = ", ".join(told) or ("class numbers" if label.kind == "classes" else "a quantity")
    return classes + (
        f"; {label.nodata:g} in the file is no data" if label.nodata is not None else ""
    )


def warn_of_other_numbers(source: Source, scene: xr.Dataset) -> None:
    """Warn, once for each message, if the splits are not of their published sizes.

    Subsets are fine to work with; their scores are not those of the published split.
    """
    published = source.entry.metadata.chips
    if not published or "sample" not in scene.dims:
        return
    if "all" in published:
        found = Counter({"all": scene.sizes["sample"]})
    else:
        found = Counter(map(str, scene.split.values)) if "split" in scene.coords else Counter()
    told = [
        f"{found[split]:,} {_in(split)} (published: {published.get(split, 0):,})"
        for split in [*published, *sorted(found.keys() - published.keys() - {""})]
        if found[split] != published.get(split, 0)
    ]
    if told:
        warnings.warn(
            f"Entry '{source.name}' does not have the published numbers of chips here: "
            f"{', '.join(told)}. Scores on these splits cannot be compared with published ones.",
            stacklevel=3,
        )
