"""Examine a model file on an entry of the catalog, as ``geowb masking`` does.

>>> examine("runs/NAME/models/pgd", "digits", epsilon=0.15).profile.verdict  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from geowb.chips import ChipDataset, cut
from geowb.errors import RequestError, did_you_mean
from geowb.labelled import cut_places
from geowb.masking.comparing import METRICS
from geowb.masking.drawing import chip_samples, samples
from geowb.masking.profiling import Profile, profile
from geowb.masking.strong import Attacked, autoattack
from geowb.models.classifier import Classifier
from geowb.models.files import load
from geowb.models.publishing import find_model
from geowb.models.wrapper import PixelModel, placed

if TYPE_CHECKING:
    import xarray as xr

    from geowb.catalog.source import Source

__all__ = ["Examined", "examine"]

#: Reflectance in counts: what a pixel can be, where the catalog does not say.
REFLECTANCE = (0.0, 10_000.0)
#: Labels of quantities and of classes, in the order in which they are looked for.
_QUANTITIES, _CLASSES = ("agb", "agb_dense"), ("flood", "burn", "crop", "landcover")


@dataclass
class Examined:
    """A profile, an attack where one was asked for, and what was examined on what."""

    profile: Profile
    attacked: Attacked | None
    about: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and words, for JSON."""
        told = {"about": self.about, **self.profile.to_dict()}
        if self.attacked is not None:
            rows = self.attacked.table.astype(float).to_dict("index")
            told["autoattack"] = {
                "right": self.attacked.accuracy,
                "attacks": {str(name): row for name, row in rows.items()},
                "notes": list(self.attacked.notes),
                "seconds": round(self.attacked.seconds, 3),
            }
        return told


def examine(
    model: str | Path,
    data: str,
    *,
    catalog: str = "",
    select: Mapping[str, str] | None = None,
    label: str = "",
    epsilon: float = 8 / 255,
    bounds: Sequence[float] = (),
    norm: str = "linf",
    metrics: Sequence[str] = METRICS,
    draws: int = 0,
    images: int = 200,
    chip_size: int = 0,
    attack: bool = False,
    seed: int = 0,
    batch_size: int = 0,
    accelerator: str = "auto",
    progress: bool = False,
) -> Examined:
    """Profile a model file on images of a catalog entry.

    Parameters
    ----------
    model
        A model file, its folder, or a run directory with one model: of classes an image, of classes
        a pixel, or of a quantity a pixel.
    data, catalog, select
        The entry, the catalog (empty: the one that comes with geowb), values of placeholders.
    label
        Variable that holds the labels of maps; by default the one that fits the model.
    bounds
        Range of pixels; by default the entry's pixel_range, or that of reflectance, 0 to 10,000.
        What lies beyond is cut off there. A classifier has its own, and takes no other.
    images
        How many at most, drawn from `seed`; those of a published test split where there is one,
        else of all: some may be among those that the model was trained on.
    chip_size
        Edge of a chip of maps; by default that of the training.
    attack
        Attack with AutoAttack too; of classes an image only.
    batch_size
        By default 64 images, or 8 chips of maps.

    Raises
    ------
    RequestError
        Models of other kinds; labels that do not fit; an attack on maps.
    ModelError, DataError, CatalogError
        As `geowb.models.load`, the catalog and `geowb.masking.profile` say.
    """
    from geowb.catalog import open_catalog

    file = find_model(str(model))
    held, source = load(file), open_catalog(catalog or None)[data]
    if not isinstance(held, Classifier | PixelModel):
        raise RequestError(
            f"'{file.parent}' is no model of classes or quantities ({type(held).__name__}): there "
            "is no label that an attack could make it miss."
        )
    if attack and not isinstance(held, Classifier):
        raise RequestError("AutoAttack takes a class an image: leave it out for models of maps.")
    scene = source.open(seed=seed, **(select or {}))
    low, high = _bounds(held, source, scene, bounds)
    of = _images if isinstance(held, Classifier) else _chips
    x, y, about = of(held, source, scene, label, (low, high), images, chip_size, seed)
    how = {"epsilon": epsilon, "norm": norm, "seed": seed}
    with placed(held, accelerator):
        inner = (0.0, 1.0) if isinstance(held, Classifier) else (low, high)
        loss = "squared_error" if y.is_floating_point() else "cross_entropy"
        found = profile(
            held, (x, y), bounds=inner, loss=loss, metrics=metrics, draws=draws,
            batch_size=batch_size or (64 if y.ndim == 1 else 8), progress=progress, **how,
        )  # fmt: skip
        strong = autoattack(held, x, y, batch_size=batch_size or 256, **how) if attack else None
    about = {"model": str(file), "data": data, "pixel_range": [low, high], **about}
    about["published_test"] = "split" in scene.coords and bool((scene["split"] == "test").any())
    about["epsilon_in_pixels"] = epsilon * (high - low)
    return Examined(found, strong, about)


def _bounds(
    model: Classifier | PixelModel, source: Source, scene: xr.Dataset, bounds: Sequence[float]
) -> tuple[float, float]:
    """Range of pixels: of a classifier that of its card, which the entry's must be."""
    given = bounds or scene.attrs.get("pixel_range") or REFLECTANCE
    if len(given) != 2 or not float(given[0]) < float(given[1]):
        raise RequestError(f"bounds are the smallest and the largest pixel: {list(given)}.")
    low, high = map(float, given)
    own = model.card.get("pixel_range", [0.0, 1.0]) if isinstance(model, Classifier) else None
    if own and own != [0.0, 1.0] and own != [low, high]:
        raise RequestError(
            f"The model takes pixels from {own[0]:g} to {own[1]:g}; those of '{source.name}' "
            f"{'are given as' if bounds else 'are'} {low:g} to {high:g}."
        )
    return low, high


def _images(
    model: Classifier,
    source: Source,
    scene: xr.Dataset,
    label: str,
    bounds: tuple[float, float],
    images: int,
    chip_size: int,
    seed: int,
) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """Images with a class each, numbered as the model numbers its classes."""
    bands = model.card.get("bands") or [str(name) for name in scene["band"].values]
    _check_bands(source, scene, bands)
    if len(bands) != (count := model.card["shape"][0]):
        raise RequestError(f"'{source.name}' has {len(bands)} band(s); the model takes {count}.")
    edge = max(scene.sizes["y"], scene.sizes["x"])
    size = min(chip_size or model.card["shape"][-1], edge)
    places = cut_places({source.name: scene}, size, bands=bands, label=label or "landcover")
    known = {name: k for k, name in enumerate(model.card["classes"])}
    if not set(places.names) & set(known):
        raise RequestError(
            f"The model tells {', '.join(known)}; '{source.name}' has "
            f"{', '.join(places.names)}. None of them is the same."
        )
    numbers = np.array([known.get(name, -1) for name in places.names] + [-1])
    rows = _test(places.table) & (numbers[places.classes] >= 0)
    x, y = samples(places, rows, bounds=bounds, count=images, seed=seed)
    y = torch.from_numpy(numbers)[y]
    return x, y, {"images": len(x), "classes": list(known), "bands": bands}


def _test(table: Any) -> np.ndarray:
    """Rows of the published test, or all where none is published."""
    if "split" in table and (table["split"] == "test").any():
        return (table["split"] == "test").to_numpy()
    return np.ones(len(table), bool)


def _check_bands(source: Source, scene: xr.Dataset, bands: Sequence[str]) -> None:
    held = [str(name) for name in scene["band"].values]
    if absent := [band for band in bands if band not in held]:
        raise RequestError(
            f"'{source.name}' lacks the band(s) {', '.join(absent)} that the model takes; it has "
            f"{', '.join(held)}."
        )


def _chips(
    model: PixelModel,
    source: Source,
    scene: xr.Dataset,
    label: str,
    bounds: tuple[float, float],
    images: int,
    chip_size: int,
    seed: int,
) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """Labelled chips of a scene or of a set of samples, for a model of maps."""
    card = model.card
    _check_bands(source, scene, card["bands"])
    label, frames = _label(model, source, scene, label), card["frames"]
    scene = scene.sel(band=list(card["bands"]))
    dates = scene.sizes.get("time", 1)
    if dates < frames:
        raise RequestError(f"'{source.name}' has {dates} date(s); the model takes {frames}.")
    if dates > frames:
        scene = scene.isel(time=slice(-frames, None))
    size = chip_size or int((card.get("trained_on") or {}).get("chip_size") or 64)
    table = cut({source.name: scene}, size, label=label)
    dataset = ChipDataset({source.name: scene}, table[_test(table)], label=label)
    x, y = chip_samples(dataset, bounds=bounds, count=images, seed=seed)
    about = {
        "images": len(x),
        "chip_size": size,
        "label": label,
        "units": card.get("units", ""),
        "bands": list(card["bands"]),
    }
    return x, y, about


def _label(model: PixelModel, source: Source, scene: xr.Dataset, label: str) -> str:
    """Find the variable that the model was made for."""
    outputs = model.card["outputs"]
    wanted = _QUANTITIES if outputs == 1 else _CLASSES
    fitting = [name for name in wanted if name in scene and _fits(scene[name], outputs)]
    if label and label not in scene:
        told = did_you_mean(label, map(str, scene.data_vars))
        raise RequestError(f"'{source.name}' has no variable '{label}'. {told}")
    if label and not _fits(scene[label], outputs):
        raise RequestError(
            f"'{label}' of '{source.name}' does not fit a model of {outputs} outputs."
        )
    if not label and not fitting:
        what = "a quantity" if outputs == 1 else f"{outputs} classes"
        raise RequestError(
            f"'{source.name}' has no label of {what} for this model: name one with --label, or "
            f"other data. It has {', '.join(map(str, scene.data_vars))}."
        )
    return label or fitting[0]


def _fits(label: xr.DataArray, outputs: int) -> bool:
    if "y" not in label.dims or "time" in label.dims:
        return False
    if outputs == 1:
        return label.dtype.kind == "f"
    names = str(label.attrs.get("flag_meanings", "")).split()
    return label.dtype.kind != "f" and len(names) in (0, outputs)
