"""Which chips a model is pretrained on: what lies in the scenes, what is clear, what is drawn.

A window of a scene gives several candidates: its clear dates are cut at random into groups that
have no date in common. Of the candidates, each stratum (place, land cover, season) gives its share.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geowb.bands import HLS6
from geowb.errors import DataError, RequestError, did_you_mean
from geowb.pretrain.scenes import clear_shares, cover, open_scene, seasons, times_of, with_places
from geowb.tasks import each

if TYPE_CHECKING:
    from geowb.catalog.source import Source

__all__ = ["STRATA", "Sampling", "draw", "survey"]

#: What candidates can be told apart by.
STRATA = ("selection", "landcover", "season")

_SAMPLES_A_TASK = 256
_TILE = 1024  # pixels: what large rasters are read in


@dataclass(frozen=True)
class Sampling:
    """What is sampled from a catalog entry, in plain values.

    >>> Sampling(data="world_year", selections={"region": ["cerrado"]}, seeds=[0, 1]).seeds
    (0, 1)

    Parameters
    ----------
    data, catalog
        The catalog entry, and the catalog's file ("": the one that comes with geowb).
    selections
        Values of the entry's placeholders; one that is left out takes all that are listed.
    seeds
        Which worlds are simulated. Archives ignore them and have one scene a selection.
    size, frames, count
        Edge of a chip (pixels), dates a chip, chips wanted.
    min_clear
        Least share of clear pixels on each date of a chip: by `fmask` no cloud, nor next to one,
        shadow, snow or fill; without `fmask` all pixels that have data in every band.
    strata
        Any of `STRATA`; those that the entry does not offer are left out, which is said.
    bands
        The bands of a chip, in their order.
    seed
        Of the draw.

    Raises
    ------
    RequestError
        For a value that is out of range.
    """

    data: str
    catalog: str = ""
    selections: Mapping[str, Sequence[str]] = field(default_factory=dict)
    seeds: Sequence[int] = (0,)
    size: int = 64
    frames: int = 3
    count: int = 1000
    min_clear: float = 0.9
    strata: Sequence[str] = STRATA
    bands: Sequence[str] = HLS6
    seed: int = 0

    def __post_init__(self) -> None:
        chosen = {
            k: (v,) if isinstance(v, str) else tuple(map(str, v))
            for k, v in sorted(self.selections.items())
        }
        object.__setattr__(self, "selections", {k: v for k, v in chosen.items() if v})
        for name in ("seeds", "strata", "bands"):
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)
            if not values and name != "strata":
                raise RequestError(f"{name} is empty: give at least one.")
            if len(set(values)) < len(values):
                raise RequestError(f"{name} names something twice: {values}.")
        limits = (("size", 8), ("frames", 1), ("count", 1), ("seed", 0))
        whole = [(name, getattr(self, name), least) for name, least in limits]
        for name, value, least in [*whole, *(("seeds", seed, 0) for seed in self.seeds)]:
            if not hasattr(value, "__index__") or value < least:
                raise RequestError(f"{name}: {value!r} is not a whole number of at least {least}.")
        if not 0 < self.min_clear <= 1:
            raise RequestError(f"min_clear={self.min_clear} is not a share in (0, 1].")
        for name in self.strata:
            if name not in STRATA:
                raise RequestError(f"No stratum '{name}'. {did_you_mean(name, STRATA)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON holds them; ``Sampling(**values)`` makes it again."""
        return json.loads(json.dumps(asdict(self), default=lambda number: number.item()))

    def source(self) -> Source:
        """Look up the catalog entry, and check the selections against it."""
        from geowb.catalog import open_catalog

        source = open_catalog(self.catalog or None)[self.data]
        if problems := source.selection_problems(self.selections):
            raise RequestError(problems[0])
        return source

    def scenes(self, source: Source | None = None) -> dict[str, dict[str, Any]]:
        """Arguments of `Source.open` for every scene, by the scene's key.

        Who has the `source` already passes it: the catalog is read once less.

        >>> list(Sampling(data="world", selections={"region": ["cerrado"]}).scenes())
        ['region=cerrado,seed=0']
        """
        from geowb.catalog.schema import combinations

        source = source or self.source()
        wanted = {k: self.selections.get(k) or source.choices(k) for k in source.entry.placeholders}
        simulated = source.entry.driver.name == "world"
        found = {}
        for fields in combinations({k: sorted(set(v)) for k, v in wanted.items()}):
            for seed in sorted(self.seeds) if simulated else [None]:
                how = fields | ({"seed": seed} if simulated else {})
                key = ",".join(f"{k}={v}" for k, v in how.items()) or source.name
                found[key] = how
        return found


# --- candidates ---------------------------------------------------------------------------------


def survey(
    sampling: Sampling,
    *,
    scheduler: str | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Find every chip that could be drawn, one row each.

    >>> candidates = survey(Sampling(data="world_year", count=100))  # doctest: +SKIP
    >>> candidates.stratum.value_counts()  # doctest: +SKIP

    Windows lie on a grid of `size` pixels. The dates on which a window is clear come in an order
    that depends on the window alone, and are cut into groups of `frames` dates. Only `fmask` and
    `landcover` are read, and the image where there is no `fmask`.

    Parameters
    ----------
    scheduler
        Address of a dask scheduler; without one, processes of this machine. As with all processes
        of Python, a script needs ``if __name__ == "__main__":`` then.
    workers
        Processes on this machine (all cores if None); 1 works in this process.
    progress
        Show a bar on standard error (lines, where that is no terminal).

    Returns
    -------
    pandas.DataFrame
        scene (key), sample (-1, or the index in a set of images), y, x (first pixel), dates
        (indices), times (ISO), clear (mean share), season, landcover, stratum, crs, east, north,
        lon, lat (centre); ``attrs`` holds what was looked at.

    Raises
    ------
    RequestError, DataError
        For selections that the entry does not have, a band that a scene lacks, chips larger than a
        scene.
    """
    source, tasks = sampling.source(), []
    for key, how in sampling.scenes(source).items():
        driver, _ = source.reader(source.fields({k: v for k, v in how.items() if k != "seed"}))
        count = source.open(**how).sizes["sample"] if driver and driver.name == "chips" else None
        starts = [None] if count is None else range(0, count, _SAMPLES_A_TASK)
        tasks += [(sampling, key, start) for start in starts]
    found = each(
        _survey_scene, tasks, title=f"Survey of {sampling.data}",
        scheduler=scheduler, workers=workers, progress=progress,
    )  # fmt: skip
    tables, told = zip(*found, strict=True)
    some = [table for table in tables if len(table)]  # one without a row has no types either
    table = pd.concat(some or tables, ignore_index=True)
    table.attrs = {
        "windows": sum(one["windows"] for one in told),
        "best_clear": max(one["best"] for one in told),
        "most_dates": max(one["most"] for one in told),
        "frames": sampling.frames,
        "min_clear": sampling.min_clear,
        "fmask": any(one["fmask"] for one in told),
        "landcover": [one["landcover"] for one in told if one["landcover"] is not None],
        "notes": [],
    }
    _name_strata(table, sampling)
    return table


def _name_strata(table: pd.DataFrame, sampling: Sampling) -> None:
    """Fill the column `stratum`, and note what the entry does not offer."""
    scenes = sampling.scenes()
    parts = {key: "/".join(v for k, v in how.items() if k != "seed") for key, how in scenes.items()}
    table["selection"] = table["scene"].map(parts).astype(object)
    lacking = {
        "selection": not any(parts.values()),
        "landcover": not table.attrs["landcover"],
        "season": (table["season"] == "undated").all(),
    }
    kept = [name for name in sampling.strata if not lacking[name]]
    table["stratum"] = "all"
    if kept:
        table["stratum"] = table[kept].agg("/".join, axis=1) if len(table) else ""
    if dropped := [name for name in sampling.strata if lacking[name]]:
        table.attrs["notes"].append(
            f"'{sampling.data}' offers no {' and no '.join(dropped)}: strata are told apart by "
            f"{', '.join(kept) or 'nothing'}."
        )


def _survey_scene(
    sampling: Sampling, key: str, start: int | None
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Find the candidates of a scene, or of a part of a set of images."""
    scene, size = open_scene(sampling, key), sampling.size
    samples = [-1]
    if start is not None:
        samples = list(range(start, min(start + _SAMPLES_A_TASK, scene.sizes["sample"])))
    shown, season = times_of(scene), seasons(scene["time"].values)
    rows, best, most, windows = [], 0.0, 0, 0
    for sample in samples:
        one = scene if sample < 0 else scene.isel(sample=sample)
        clear, classes = clear_shares(one, size), cover(one, size)
        good = clear >= sampling.min_clear - 1e-9
        best, most = max(best, clear.max()), max(most, good.sum(0).max())
        windows += clear[0].size
        for row, column in np.ndindex(clear.shape[1:]):
            at = (key, sample, row * size, column * size)
            for dates in _groups(at, good[:, row, column], sampling.frames):
                times, middle = tuple(shown[list(dates)].tolist()), dates[len(dates) // 2]
                share = round(float(clear[list(dates), row, column].mean()), 6)
                rows.append((*at, dates, times, share, season[middle], classes[row][column]))
    names = ["scene", "sample", "y", "x", "dates", "times", "clear", "season", "landcover"]
    table = with_places(pd.DataFrame(rows, columns=names), scene, size)
    facts = {"windows": windows, "best": float(best), "most": int(most), "fmask": "fmask" in scene}
    attrs = scene["landcover"].attrs if "landcover" in scene else None
    flags = ("flag_values", "flag_meanings")
    told = attrs and {k: np.asarray(attrs[k]).tolist() for k in flags if k in attrs}
    return table, facts | {"landcover": told}


def _groups(at: tuple, good: np.ndarray, frames: int) -> list[tuple[int, ...]]:
    """Cut the clear dates of a window into groups, in an order that the window alone decides."""
    digest = hashlib.sha256("|".join(map(str, at)).encode()).digest()
    order = np.random.default_rng(list(digest)).permutation(np.flatnonzero(good))
    cut = [order[i : i + frames] for i in range(0, len(order) - frames + 1, frames)]
    return sorted(tuple(sorted(int(date) for date in group)) for group in cut)


# --- the draw -----------------------------------------------------------------------------------


def draw(candidates: pd.DataFrame, count: int, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Draw chips at random, as many from each stratum as it has and others leave it.

    >>> chosen, report = draw(candidates, 500)  # doctest: +SKIP

    Strata have equal shares; what a small one lacks goes in equal parts to the others. A larger
    `count` draws the same chips and more.

    Returns
    -------
    chosen : pandas.DataFrame
        Rows of `candidates`, by scene and place; notes in ``attrs["notes"]``.
    report : pandas.DataFrame
        stratum, available, wanted (its equal share), taken, short (wanted, and not there).

    Raises
    ------
    DataError
        If there is no candidate; it says what was looked at.
    """
    if candidates.empty:
        raise DataError(_nothing(candidates.attrs))
    keys = ["scene", "sample", "y", "x", "dates"]
    candidates = candidates.sort_values(keys, ignore_index=True)
    available = candidates["stratum"].value_counts().sort_index()
    report = pd.DataFrame({"stratum": available.index, "available": available.to_numpy()})
    report["wanted"] = _level(np.full(len(report), count), count)
    report["taken"] = _level(report["available"].to_numpy(), count)
    report["short"] = (report["wanted"] - report["available"]).clip(lower=0)
    rows = []
    for stratum, taken in zip(report["stratum"], report["taken"], strict=True):
        digest = hashlib.sha256(f"{seed}|{stratum}".encode()).digest()
        members = np.flatnonzero(candidates["stratum"] == stratum)
        rows.append(np.random.default_rng(list(digest)).permutation(members)[:taken])
    chosen = candidates.iloc[np.sort(np.concatenate(rows))]
    tiles = [chosen["scene"], chosen["sample"], chosen["y"] // _TILE, chosen["x"] // _TILE]
    near = np.lexsort(tiles[::-1])  # stable: within a tile as before
    chosen = chosen.iloc[near].reset_index(drop=True)
    chosen.attrs = candidates.attrs | {"notes": list(candidates.attrs.get("notes", ()))}
    if len(chosen) < count:
        chosen.attrs["notes"].append(
            f"{count} chips were wanted, and {len(chosen)} are there: all of them were taken."
        )
    return chosen, report


def _level(available: np.ndarray, count: int) -> np.ndarray:
    """Divide `count` as evenly as `available` allows; the smallest first, the rest to the last."""
    taken, left = np.zeros(len(available), int), count
    for done, i in enumerate(np.argsort(available, kind="stable")):
        taken[i] = min(available[i], left // (len(available) - done))
        left -= taken[i]
    return taken


def _nothing(facts: Mapping[str, Any]) -> str:
    """Say why there is no candidate, and what may help."""
    if not facts:
        return "There is no candidate to draw from."
    text = f"None of {facts['windows']} windows gives a chip: "
    if facts["most_dates"] == 0:
        return text + (
            f"the clearest has {facts['best_clear']:.1%} of clear pixels on a date, wanted are "
            f"{100 * facts['min_clear']:g}%. Lower min_clear, make chips smaller, or take other "
            "dates."
        )
    return text + (
        f"at most {facts['most_dates']} of their dates are clear, wanted are "
        f"{facts['frames']}. Lower min_clear or frames, or take a source with more dates."
    )
