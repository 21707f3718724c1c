"""Clear chips with gaps that are drawn: the truth behind the gaps is known."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geowb.chips import ChipDataset, Scenes
from geowb.composite import FMASK_CLOUDY
from geowb.errors import DataError, RequestError

if TYPE_CHECKING:
    import torch

__all__ = ["GapDataset", "clear_chips"]

#: Edge in pixels of the square that stays clear on some date, so that a model sees a patch: 16
#: holds a whole one of 8 or 16 pixels; 28, in chips that are made of such squares, one of 14 too.
_SEEN, _SEEN_14 = 16, 28


def clear_chips(scenes: Scenes, size: int = 64, *, most_bad: float = 0.05) -> pd.DataFrame:
    """Lay out the whole chips of scenes that are clear on all dates.

    >>> chips = clear_chips({"cerrado": scene}, size=64)  # doctest: +SKIP
    >>> chips = geowb.chips.split_by_place(chips, seed=0)  # doctest: +SKIP

    Parameters
    ----------
    scenes
        Scenes by name, with ``reflectance`` of dims (time, band, y, x) or
        (sample, time, band, y, x), all with the same number of dates.
    size
        Edge of a chip in pixels.
    most_bad
        Share of a date that an ``fmask`` may call cloud, adjacent to cloud or shadow; a chip with
        a pixel without data is never taken. As published: less than 5 % and none (ClarkCGA,
        gfm-gap-filling, ``bad_pct_max`` and ``na_count``).

    Returns
    -------
    pandas.DataFrame
        As of `geowb.chips.cut`: scene, sample, y, x, size, labelled (all pixels), and the
        publisher's ``split`` where the scenes carry one.

    Raises
    ------
    DataError
        If no chip is clear, or a scene has no dates or another number of them.
    """
    counts = {name: scene["reflectance"].sizes.get("time", 0) for name, scene in scenes.items()}
    if not counts or 0 in counts.values() or len(set(counts.values())) > 1:
        told = ", ".join(f"'{name}' {count}" for name, count in counts.items()) or "no scene"
        raise DataError(f"Gap filling takes scenes of one number of dates; there are: {told}.")
    rows, split = [], {}
    for name, scene in scenes.items():
        split |= {(name, i): s for i, s in enumerate(scene.coords.get("split", np.array([])))}
        for sample in range(scene.sizes["sample"]) if "sample" in scene.dims else (-1,):
            one = scene.isel(sample=sample) if sample >= 0 else scene
            rows += [
                (name, sample, y, x, size, size * size) for y, x in _clear(one, size, most_bad)
            ]
    if not rows:
        raise DataError(
            f"No chip of {size} x {size} pixels is clear on all dates (at most {most_bad:.0%} "
            "cloudy, no pixel without data). Use clearer dates, smaller chips or more scenes."
        )
    table = pd.DataFrame(rows, columns=["scene", "sample", "y", "x", "size", "labelled"])
    if split:
        keys = zip(table["scene"], table["sample"], strict=True)
        table["split"] = [str(np.asarray(split[key])) if key in split else np.nan for key in keys]
    return table


def _clear(scene: Any, size: int, most_bad: float) -> list[tuple[int, int]]:
    """Corners of the clear chips of one image."""
    known = np.isfinite(scene["reflectance"].transpose("time", "band", "y", "x").values).all((0, 1))
    bad = np.zeros((1, *known.shape), bool)
    if "fmask" in scene:
        bad = (
            scene["fmask"].transpose("time", "y", "x").values.astype(np.uint8) & FMASK_CLOUDY
        ) > 0
    height, width = known.shape
    return [
        (y, x)
        for y in range(0, height - size + 1, size)
        for x in range(0, width - size + 1, size)
        if known[y : y + size, x : x + size].all()
        and (bad[:, y : y + size, x : x + size].mean((1, 2)) <= most_bad).all()
    ]


class GapDataset(ChipDataset):
    """Clear chips of scenes, and a cloud mask drawn for each.

    >>> data = GapDataset(scenes, clear_chips(scenes), masks, seed=0)  # doctest: +SKIP
    >>> data[0]["image"].shape, data[0]["missing"].shape  # doctest: +SKIP
    (torch.Size([6, 3, 64, 64]), torch.Size([3, 64, 64]))

    An item has ``image`` (C, T, H, W) in counts, the truth everywhere; ``missing`` (T, H, W) bool;
    ``index``, the row in ``chips``. The mask depends on `seed`, the epoch and the chip alone, and
    leaves some pixel missing and a square of 16 pixels clear (28 in chips made of such); that of
    `plain` does not depend on the epoch.

    Parameters
    ----------
    scenes, chips
        The scenes, and rows of `clear_chips`.
    masks
        ``(n, H, W)`` bool (or an `xarray.DataArray`), True for cloud; larger ones are cropped at
        random.
    dates
        Where masks are put: ``middle``, the second of three dates (Jakubik et al. 2023); ``any``,
        one of the combinations of dates, drawn at random, with a mask of its own for each date
        (Godwin et al. 2024: seven of three dates); or positions, such as ``[0, 2]``.
    augment
        Turn and mirror each chip at random.

    Raises
    ------
    RequestError
        For masks that are too small or of another shape, and for dates that there are not.
    """

    def __init__(
        self,
        scenes: Scenes,
        chips: pd.DataFrame,
        masks: np.ndarray,
        *,
        dates: str | Sequence[int] = "middle",
        augment: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(scenes, chips, label=None, augment=augment, seed=seed)
        if not len(self.chips):
            raise DataError("There is no chip to make gaps in.")
        self.masks = np.asarray(masks)
        size = int(self.chips["size"].max())
        if self.masks.ndim != 3 or not len(self.masks) or min(self.masks.shape[1:]) < size:
            raise RequestError(
                f"masks are (n, y, x) of at least {size} x {size} pixels, the size of the chips; "
                f"they were given as {self.masks.shape}."
            )
        self._frames = self._image(self.chips.iloc[0]).shape[1]
        self._dates = _positions(dates, self._frames)
        self._fixed = False

    def plain(self) -> GapDataset:
        """Return the same dataset with masks that stay, not turned."""
        other = copy.copy(self)
        other.augment, other._fixed = False, True
        return other

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | int]:
        import torch

        chip = self.chips.iloc[index]
        image = self._image(chip)
        draw = np.random.default_rng((self.seed, 0 if self._fixed else 1 + self.epoch, index))
        missing = self._missing(draw, chip["size"])
        if self.augment:
            turns, mirror = draw.integers(4), draw.integers(2)
            image = np.rot90(image, turns, axes=(-2, -1))
            image = image[..., ::-1] if mirror else image
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image)),
            "missing": torch.from_numpy(missing),
            "index": index,
        }

    def _missing(self, draw: np.random.Generator, size: int) -> np.ndarray:
        for _ in range(100):
            missing = np.zeros((self._frames, size, size), bool)
            for date in self._dates[draw.integers(len(self._dates))]:
                mask = self.masks[draw.integers(len(self.masks))]
                y, x = (draw.integers(n - size + 1) for n in mask.shape)
                missing[date] = mask[y : y + size, x : x + size]
            side = min(_SEEN if size % _SEEN_14 else _SEEN_14, size)
            whole = missing[:, : size // side * side, : size // side * side]
            squares = whole.reshape(self._frames, size // side, side, size // side, side)
            if missing.any() and not squares.any((2, 4)).all():
                return missing
        raise DataError(
            f"100 masks in a row left nothing missing or nothing to see: {len(self.masks)} masks "
            f"cover {self.masks.mean():.1%} on average. Use others."
        )


def _positions(dates: str | Sequence[int], count: int) -> list[tuple[int, ...]]:
    """Which dates may get a mask together."""
    if isinstance(dates, str):
        if dates == "middle" and count % 2 and count > 1:
            return [(count // 2,)]
        if dates == "any":
            return [tuple(i for i in range(count) if k >> i & 1) for k in range(1, 2**count)]
    elif len(dates) and all(0 <= date < count for date in dates):
        return [tuple(sorted({int(date) for date in dates}))]
    raise RequestError(
        f"dates is {dates!r}: with {count} dates it is 'any', "
        f"{repr('middle') + ', ' if count % 2 and count > 1 else ''}or a list of positions from 0 "
        f"to {count - 1}. The middle date needs three (or five, ...)."
    )
