"""What a pretrained encoder is worth, on worlds that it has not seen and on real chips."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geowb.bands import HLS6
from geowb.batch.rundir import write_at_once
from geowb.errors import DataError, ModelError, RequestError
from geowb.lines import Line
from geowb.models.masked import MaskedModel, from_card
from geowb.pretrain.probes import (
    Labelled,
    features,
    linear_probe,
    paired_interval,
    probe_difference,
    reconstruction_errors,
    squares,
)
from geowb.pretrain.sampling import Sampling
from geowb.pretrain.scenes import windows

__all__ = ["SETS", "Examined", "as_metrics", "examine", "world_chips", "write_metrics"]

_SEEDS = (0, 1, 2)
#: Squares a class that a probe learns from: few, as a person would label, and many.
_LABELS = (20, 200)
_SIDE = 64


@dataclass(frozen=True)
class Images:
    """What a probe is made on.

    ``data`` (pixels, labels, places), which images to learn from (``train``), what the label is
    (``what``), which data (``source``); ``columns``: rows are all alike, so whole columns are
    hidden; ``shown``: images for the reconstruction, those of `data` if None.
    """

    data: Labelled
    train: np.ndarray
    what: str
    source: str
    columns: bool = False
    shown: np.ndarray | None = None


@dataclass(frozen=True)
class Examined:
    """Two tables on a masked model, a row a data set.

    ``probes``: data, source, what, labels (squares a class that are learned from; in all, of a
    quantity), score, model (mean of the label draws), random (mean over draws and weights),
    low, high (95 % interval of the difference, worst of the seeds), clear. ``reconstruction``:
    data, model, mean, nearest (mean square errors in normalised units), low_mean, low_nearest
    (lower ends of the 95 % intervals of what the model takes off), clear.
    """

    probes: pd.DataFrame
    reconstruction: pd.DataFrame
    missing: tuple[str, ...] = ()


def world_chips(
    frames: int,
    *,
    seeds: range = range(400, 416),
    count: int = 1920,
    workers: int | None = 1,
    progress: bool = False,
) -> Images:
    """Simulate worlds that no pretraining has seen, with land cover.

    >>> world_chips(3).data.images.shape[1:]  # doctest: +SKIP
    (6, 3, 64, 64)

    The first half of the seeds is learned from, the second half tested. `workers` are processes;
    None for as many as there are cores.
    """
    from geowb.pretrain.archive import write_archive
    from geowb.world import VERSION

    wanted = Sampling("world_year", seeds=seeds, size=_SIDE, frames=frames, count=count)
    with tempfile.TemporaryDirectory(prefix="geowb-probe-") as folder:
        how = {"workers": workers, "progress": progress}
        archive = write_archive(wanted, Path(folder) / "chips.zarr", **how)
        read, table = archive.read(np.arange(len(archive))), archive.table
    seed = table["scene"].str.extract(r"seed=(\d+)")[0].astype(int).to_numpy()
    place = table["scene"].astype("category").cat.codes.to_numpy()
    data = Labelled(read["image"], read["landcover"].astype(int), place)
    return Images(
        data,
        seed < seeds[len(seeds) // 2],
        "land cover",
        f"world {VERSION}, world_year, seeds {seeds[0]}-{seeds[-1]}",
    )


def _biomass(frames: int, **_: Any) -> Images:
    """Three months without snow of one BioMassters chip; the label is biomass."""
    from geowb.catalog import open_catalog

    scene = open_catalog()["biomassters_chip"].open()
    months = [4, 3, 5][:frames]  # in the first three most of the chip is snow
    months.sort()
    images = _windows(scene["reflectance"].isel(time=months).transpose("band", "time", "y", "x"))
    labels = _windows(scene["agb_dense"].squeeze()).astype(np.float32)
    place = np.arange(len(images))
    return Images(Labelled(images, labels, place), place % 2 == 0, "biomass", "biomassters_chip")


def _flood(frames: int, **_: Any) -> Images:
    """One Sentinel-2 chip of a flood; the label is water."""
    from geowb.catalog import open_catalog

    scene = open_catalog()["sen1floods11_chip"].open()
    images = _windows(scene["reflectance"].transpose("band", "time", "y", "x"))
    labels = _windows(scene["flood"].squeeze()).astype(int)
    place = np.arange(len(images))
    return Images(Labelled(images, labels, place), place % 2 == 0, "water", "sen1floods11_chip")


def _series(frames: int, **_: Any) -> Images:
    """Real dates of a row of Landsat pixels, repeated downwards; the label is Fmask's class."""
    from geowb.catalog import open_catalog

    source = open_catalog()["landsat_series"]
    if problem := source.absence({}):
        raise DataError(problem)
    with np.load(source.files({})[0][0], allow_pickle=False) as held:
        counts, ordinal = held["Y"], held["dates"]
    pixels, mask = counts[:6, :, :256].astype(np.float32), counts[7, :, :256]
    pixels[:, (mask == 255) | (pixels <= 0).any(0) | (pixels > 15_999).any(0)] = np.nan
    rows = pixels.reshape(6, -1, 4, 1, _SIDE)  # band, date, window, (row), pixel
    kinds = np.where(np.isin(mask, (0, 1)), 0, np.where(mask == 255, -1, mask)).astype(int)
    labels = np.full((len(ordinal) * 4, _SIDE, _SIDE), -1)
    labels[:, :8] = kinds.reshape(-1, 1, _SIDE)
    images = np.repeat(rows, _SIDE, axis=3).transpose(1, 2, 0, 3, 4).reshape(-1, 6, _SIDE, _SIDE)
    clear = np.flatnonzero((kinds == 0).mean(1) > 0.9)
    groups = [clear[i : i + 3 * frames : 3] for i in range(0, len(clear) - 3 * frames, 3 * frames)]
    shown = np.stack([np.where(kinds[g] == 0, pixels[:, g], np.nan)[..., :_SIDE] for g in groups])
    shown = np.repeat(shown[:, :, :, None], _SIDE, axis=3)
    place = np.repeat(ordinal, 4)
    return Images(
        Labelled(images[:, :, None], labels, place),
        place < np.median(ordinal),
        "clear, shadow, snow or cloud",
        "landsat_series",
        columns=True,
        shown=shown,
    )


#: Data sets by name: what makes them for a model's number of dates, with `workers` and `progress`.
SETS: dict[str, Callable[..., Images]] = {
    "world": world_chips,
    "biomassters": _biomass,
    "sen1floods11": _flood,
    "landsat_series": _series,
}


def _windows(grid: Any) -> np.ndarray:
    """Cut whole windows of 64 pixels out of ``(..., y, x)``; ``(N, ..., 64, 64)``."""
    cut = np.moveaxis(windows(np.asarray(grid.values, np.float32), _SIDE), (-4, -3), (0, 1))
    return cut.reshape(-1, *cut.shape[2:])


def examine(
    model: MaskedModel,
    sets: tuple[str, ...] = tuple(SETS),
    *,
    workers: int | None = 1,
    progress: bool = False,
) -> Examined:
    """Probe a masked model and let it fill in what is hidden; real chips only where they are.

    >>> examine(load("swin_demo/model.safetensors")).probes  # doctest: +SKIP

    Classes of land cover that occur in fewer than four training or test places are left out. Each
    probe is made with three draws of labels, and beside each with the same architecture under
    three random weights. ``clear`` is: better with every seed, and with the worst of them the 95 %
    interval of the difference (bootstrap over places) leaves out zero. The world is simulated by
    `workers` processes (None: as many as cores); with `progress` lines tell how far it is.

    Raises
    ------
    RequestError
        If the model has other bands, or patches that do not fit the probes.
    """
    if list(model.card["bands"]) != list(HLS6) or model.unit > 16 or _SIDE % model.unit:
        raise RequestError(
            f"'{model.card['name']}' on {', '.join(model.card['bands'])} cannot be probed: the "
            f"probes are chips of {_SIDE} pixels and of the bands {', '.join(HLS6)}, in squares of "
            "8 pixels."
        )
    random = [from_card({**model.card, "seed": seed}).to(model.mean.device) for seed in _SEEDS]
    probes, filled, missing = [], [], []
    line = Line() if progress else None
    for name in sets:

        def tell(text: str, name: str = name) -> None:
            if line is not None:
                line.show(f"{name}: {text}")

        try:
            images = SETS[name](model.card["frames"], workers=workers, progress=progress)
            rows = list(_probes(model, random, _without_rare(images), tell))
            errors = _fill(model, images, tell)
        except (DataError, RequestError, ModelError) as error:  # not here, or too few dates
            missing.append(f"{name}: {error}")
            continue
        probes += [{"data": name, "source": images.source, **row} for row in rows]
        filled.append({"data": name, "source": images.source, **errors})
    return Examined(pd.DataFrame(probes), pd.DataFrame(filled), tuple(missing))


def _without_rare(images: Images, labels: int = _LABELS[0], places: int = 4) -> Images:
    """Unlabel classes that hang on few places: their score would be that of a place.

    Kept are those with `labels` squares among the training images, in at least `places` places of
    both parts.
    """
    data = images.data
    if not data.classes:
        return images
    y = squares(data.labels)
    kept = []
    for name in np.unique(y[y >= 0]):
        has = (y == name).any((1, 2))
        enough = (y[images.train] == name).sum() >= labels
        parts = (has & images.train, has & ~images.train)
        if enough and all(len(np.unique(data.place[part])) >= places for part in parts):
            kept.append(name)
    labelled = np.where(np.isin(data.labels, kept), data.labels, -1)
    return replace(images, data=replace(data, labels=labelled))


def _probes(
    model: MaskedModel, random: list[MaskedModel], images: Images, tell: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """Compare linear probes of a model with those of random weights, from few and many labels."""
    held = []
    for number, one in enumerate((model, *random), 1):
        tell(f"features of {len(images.data.images)} images, encoder {number} of {1 + len(random)}")
        held.append(features(one, images.data.images))
    ours, *theirs = held
    classes = images.data.classes
    for labels in _LABELS:
        many = f"{labels} squares a class" if classes else f"{10 * labels} squares"
        tell(f"linear probes of {images.what} from {many}")
        scores, chances, intervals = [], [], []
        for seed in _SEEDS:
            how = {"train": images.train, "test": ~images.train, "seed": seed, "labels": labels}
            found = linear_probe(ours, images.data, **how)
            other = linear_probe(theirs[seed], images.data, **how)
            score, chance, gains = probe_difference(found, other, classes=classes)
            scores.append(score)
            chances.append(chance)
            intervals.append(paired_interval(gains))
        low, high = min(intervals)
        yield {
            "what": images.what,
            "labels": labels if classes else 10 * labels,
            "score": "mean accuracy" if classes else "R2",
            "model": float(np.mean(scores)),
            "random": float(np.mean(chances)),
            "low": low,
            "high": high,
            "clear": bool(low > 0 and min(np.subtract(scores, chances)) > 0),
        }


def _fill(model: MaskedModel, images: Images, tell: Callable[[str], None]) -> dict[str, Any]:
    """Compare what a model fills in with the mean and with the nearest unit."""
    shown = images.data.images if images.shown is None else images.shown
    tell(f"filling in what is hidden of {len(shown)} images, {len(_SEEDS)} times")
    errors = pd.concat(
        reconstruction_errors(model, shown, columns=images.columns, seed=seed) for seed in _SEEDS
    )
    errors = errors.groupby(level=0).mean()
    row: dict[str, Any] = {"images": len(errors), **errors.mean().to_dict()}
    if images.shown is None:
        errors = errors.groupby(images.data.place).mean()  # images of one scene are no repeats
    for name in ("mean", "nearest"):
        row[f"low_{name}"] = paired_interval(errors[name] - errors["model"])[0]
    return row | {"clear": bool(row["low_mean"] > 0 and row["low_nearest"] > 0)}


def as_metrics(examined: Examined) -> list[dict[str, Any]]:
    """Put both tables as metrics of a model's card: name, what, value, unit, data, beside.

    >>> [row["name"] for row in as_metrics(examine(model, ("world",)))]  # doctest: +SKIP
    ['mean_accuracy/land_cover/20', 'mean_accuracy/land_cover/200', 'mse/hidden']
    """
    rows = []
    for row in examined.probes.to_dict("records"):
        squares_ = "squares" if row["score"] == "R2" else "squares a class"
        beside = {"random weights": row["random"], "gain at 95 %": [row["low"], row["high"]]}
        words = (row["score"], row["what"], str(row["labels"]))
        name = "/".join(re.sub(r"\W+", "_", word).lower() for word in words)
        what = f"linear probe of {row['what']} from {row['labels']} {squares_}"
        rows.append((name, what, row["model"], "1", row["source"], beside))
    for row in examined.reconstruction.to_dict("records"):
        beside = {"mean of what is shown": row["mean"], "nearest unit shown": row["nearest"]}
        what = "filling in what is hidden"
        one = ("mse/hidden", what, row["model"], "squared deviations", row["source"], beside)
        rows.append(one)
    names = ("name", "what", "value", "unit", "data", "beside")
    return [_rounded(dict(zip(names, row, strict=True))) for row in rows if math.isfinite(row[2])]


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(held) for key, held in value.items()}
    if isinstance(value, list):
        return [_rounded(held) for held in value]
    return round(value, 4) if isinstance(value, float) else value


def write_metrics(file: Path, examined: Examined) -> None:
    """Put metrics into the card beside a model file; what another data set gave before is kept."""
    path = file.with_name("model.json")
    card = json.loads(path.read_text("utf-8"))
    new = as_metrics(examined)
    named = {(row["name"], row["data"]) for row in new}
    old = [row for row in card.get("metrics", []) if (row["name"], row["data"]) not in named]
    write_at_once(path, (json.dumps(card | {"metrics": old + new}, indent=1) + "\n").encode())
