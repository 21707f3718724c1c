"""Splits: which chips are trained on, which validate, which test; always by place.

A scene is laid out in square blocks of chips, and a block, or a whole scene, belongs to one split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from geowb.errors import DataError, RequestError

__all__ = [
    "SPLITS",
    "share_of",
    "split_by_place",
    "split_by_scene",
    "what_split_shows",
    "with_test",
]

#: Names of the splits, in the order of the fractions.
SPLITS = ("train", "val", "test")


def split_by_place(
    chips: pd.DataFrame,
    *,
    fractions: Sequence[float] = (0.6, 0.2, 0.2),
    block: int = 1,
    others: Sequence[str] = (),
    seed: int = 0,
) -> pd.DataFrame:
    """Assign chips to train, val and test by square blocks of `block` x `block` chips.

    >>> table = split_by_place(cut(scenes), seed=0)  # doctest: +SKIP
    >>> table.groupby("split").labelled.sum()  # doctest: +SKIP

    In each scene the blocks come in random order, and each goes to the split that lacks most of
    its share of the labels; blocks without a label are dealt out in the same way by their number.
    In a set of samples a block is one sample. A published ``split`` is kept.

    Parameters
    ----------
    others
        Names that a published split may have beside the three, such as a country held out.

    Raises
    ------
    RequestError
        If fractions are not three positive numbers.
    DataError
        If a scene has fewer labelled blocks than there are splits, or if a published split has
        other names than train, val and test.
    """
    if len(fractions) != 3 or min(fractions) <= 0:
        raise RequestError(f"Fractions must be three positive numbers, not {list(fractions)}.")
    chips = chips.copy()
    if "split" not in chips:
        chips["split"] = np.nan
    chips["split"] = chips["split"].astype(object)
    published = set(chips["split"].dropna())
    if unknown := sorted(published - {*SPLITS, *others, ""}):
        raise DataError(
            f"The published split has the names {', '.join(map(repr, unknown))}; they must be "
            f"{', '.join(SPLITS)} ('' for left out). Name them so in the catalog entry."
        )
    chips["side"] = chips["size"] * block
    places = zip(
        chips["sample"], chips["y"] // chips["side"], chips["x"] // chips["side"], strict=True
    )
    chips["block"] = [f"{y}/{x}" if sample < 0 else f"{sample}" for sample, y, x in places]
    rng = np.random.default_rng(seed)
    for name, part in chips[chips["split"].isna()].groupby("scene", sort=True):
        blocks = part.groupby("block", sort=True)["labelled"].sum()
        filled, empty = blocks[blocks > 0], blocks[blocks == 0]
        if len(filled) < len(SPLITS):
            raise DataError(
                f"The scene '{name}' has labels in {len(filled)} blocks of "
                f"{int(part['side'].iloc[0])} pixels; three splits need at least three. "
                "Use smaller chips or blocks."
            )
        dealt = {**_deal(filled, fractions, rng), **_deal(empty + 1, fractions, rng)}
        chips.loc[part.index, "split"] = part["block"].map(dealt)
    return chips


def split_by_scene(
    chips: pd.DataFrame,
    groups: Mapping[str, str],
    *,
    fractions: Sequence[float] = (0.6, 0.2, 0.2),
    unseen: str = "",
    seed: int = 0,
) -> pd.DataFrame:
    """Assign whole scenes to train, val and test, in each group (a region) some to each.

    >>> chips = pd.DataFrame({"scene": list("abcd"), "sample": -1, "size": 64, "labelled": 9})
    >>> split_by_scene(chips, dict.fromkeys("abcd", "cerrado"))["split"].value_counts().to_dict()
    {'train': 2, 'val': 1, 'test': 1}

    The scenes of a group come in random order, and each goes to the split that lacks most of its
    share of the labels; the first three go to different ones. A model is then tested on images of
    which it has seen nothing.

    Parameters
    ----------
    groups
        Group of each scene.
    unseen
        A group that is in none of the three; the split of its chips is ``unseen``.

    Raises
    ------
    DataError
        If a group has fewer than three scenes with labels, or a scene no group.
    """
    chips = chips.assign(split="", side=chips["size"], block=chips["scene"])
    rng = np.random.default_rng(seed)
    group = chips["scene"].map(groups)
    if group.isna().any():
        names = ", ".join(map(str, chips["scene"][group.isna()].unique()))
        raise DataError(f"There is no group for the scenes {names}: name one for each.")
    for name, part in chips.groupby(group, sort=True):
        if name == unseen:
            chips.loc[part.index, "split"] = "unseen"
            continue
        labels = part.groupby("scene", sort=True)["labelled"].sum()
        if (labels > 0).sum() < len(SPLITS):
            raise DataError(
                f"'{name}' has {int((labels > 0).sum())} scenes with labels; three splits of whole "
                "scenes need at least three. Take more scenes, or split_by_place."
            )
        dealt = _deal(labels[labels > 0], fractions, rng)
        chips.loc[part.index, "split"] = part["scene"].map(dealt).fillna("train")
    return chips


def with_test(chips: pd.DataFrame, *, share: float = 0.1, seed: int = 0) -> pd.DataFrame:
    """Where a publisher has no test split, test on what is published as validation.

    >>> chips = pd.DataFrame({"sample": range(25), "split": ["train"] * 20 + ["val"] * 5})
    >>> chips = chips.assign(scene="a", labelled=1)
    >>> with_test(chips)["split"].value_counts().to_dict()
    {'train': 18, 'test': 5, 'val': 2}

    A `share` of the training images, at least two, becomes the validation by which rates and epochs
    are chosen, so that the test has no part in it. Chips with a test split come back as they are.
    """
    if (chips["split"] == "test").any() or not (chips["split"] == "val").any():
        return chips
    chips = chips.assign(split=chips["split"].replace("val", "test"))
    train = chips[(chips["split"] == "train") & (chips["labelled"] > 0)]
    images = train[["scene", "sample"]].drop_duplicates()
    held = images.sample(frac=1, random_state=seed).head(max(2, round(share * len(images))))
    keys = pd.MultiIndex.from_frame(chips[["scene", "sample"]])
    inside = keys.isin(pd.MultiIndex.from_frame(held)) & (chips["split"] == "train")
    chips.loc[inside, "split"] = "val"
    return chips


def share_of(chips: pd.DataFrame, share: float, *, seed: int = 0) -> pd.DataFrame:
    """Draw a share of the labelled chips at random, at least two; smaller shares lie in larger.

    >>> chips = pd.DataFrame({"scene": "a", "labelled": [9] * 40})
    >>> len(share_of(chips, 0.1)), set(share_of(chips, 0.1).index) < set(share_of(chips, 0.5).index)
    (4, True)

    Raises
    ------
    RequestError
        For a share that is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise RequestError(f"A share of the chips lies above 0 and up to 1; it is {share}.")
    labelled = chips[chips["labelled"] > 0]
    count = max(2, round(share * len(labelled)))
    return labelled.sample(frac=1, random_state=seed).head(count).sort_index()


def what_split_shows(chips: pd.DataFrame) -> str:
    """Say in a sentence or two what a test on this split can and cannot show.

    >>> print(what_split_shows(split_by_place(chips)))  # doctest: +SKIP
    """
    places = chips.groupby(["scene", "sample"]).ngroups
    if (chips["sample"] >= 0).all():
        out = int((chips["split"] == "").sum())
        left = f" {out} chips are in no split and are left out." if out else ""
        return (
            f"{places} separate images; each lies in one split as a whole. The test is as far from "
            f"the training as the places of the images are apart.{left}"
        )
    if (chips.groupby("scene")["split"].nunique() == 1).all() and places > 1:
        out = chips[chips["split"] == "test"]["scene"].nunique()
        return (
            f"{places} scenes, each in one split as a whole: the test shows how well a model does "
            f"in {out} scene{'s' * (out != 1)} of the same kind that it has seen nothing of."
        )
    blocks = f"split into blocks of {int(chips['side'].iloc[0])} x {int(chips['side'].iloc[0])}"
    if places == 1:
        return (
            f"One scene, {blocks} pixels: the test shows how well a model fills in between the "
            "labels of this scene, on this date. Blocks that touch look alike, so the error is a "
            "lower bound; it cannot show how the model does at another place, in another season or "
            "under another sensor."
        )
    return (
        f"{places} scenes, each {blocks} pixels: the test shows how well a model fills in between "
        "the labels of places that it has seen. Blocks that touch look alike; a new place needs a "
        "scene that was left out of training."
    )


def _deal(blocks: pd.Series, fractions: Sequence[float], rng: np.random.Generator) -> dict:
    """Deal out blocks in random order, each to the split that lacks most of its share of labels."""
    lacking = np.asarray(fractions) / np.sum(fractions) * blocks.sum()
    dealt = {}
    for i, at in enumerate(rng.permutation(len(blocks))):
        # The first three go to different splits, so that none stays empty.
        taken = {SPLITS.index(split) for split in dealt.values()} if i < len(SPLITS) else set()
        split = max((k for k in range(len(SPLITS)) if k not in taken), key=lambda k: lacking[k])
        lacking[split] -= blocks.iloc[at]
        dealt[blocks.index[at]] = SPLITS[split]
    return dealt
