"""Sentences and tables of a model card."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from geowb.bands import HLS6
from geowb.lines import duration

if TYPE_CHECKING:
    from geowb.models.hubcard import About

__all__ = [
    "curve",
    "data",
    "facts",
    "limits",
    "metrics",
    "number",
    "snippet",
    "title",
    "training",
    "what",
]

#: Columns of a loss curve that are shown, and at most how many rows.
_CURVE = ("step", "epoch", "loss", "held_out")
_ROWS = 9
#: Arguments of `build` that weights have to agree with, where they differ from these.
_USUAL = {
    "bands": list(HLS6),
    "frames": 1,
    "outputs": 1,
    "decoder": "upernet",
    "decoder_channels": 32,
}


def title(about: About) -> str:
    """Heading of the card: the architecture, and what it was trained for."""
    if about.masked:
        aim = "pretrained by masking" if about.trained else "for masked pretraining"
    elif about.classes:
        aim = f"{len(about.classes)} classes, pixel by pixel"
    else:
        aim = f"{about.card.get('units') or 'values'}, pixel by pixel"
    return f"{about.architecture}: {aim}"


def what(about: About) -> str:
    """First paragraph of the card."""
    card = about.card
    seen = f"{len(card['bands'])} bands of {_dates(about)}"
    if about.masked:
        units = f" in squares of {card['unit']} pixels" if card.get("unit") else ""
        text = (
            f"This model hides {card['mask_ratio']:.0%} of an image of {seen}{units}, and predicts "
            "what is hidden. Its encoder is a start for other tasks."
        )
    elif about.classes:
        text = f"From {seen}, this model gives each pixel a score for each of {_listed(about)}."
    else:
        units = f", in {card['units']}" if card.get("units") else ""
        text = f"From {seen}, this model predicts one value for each pixel{units}."
    made = "It was trained" if about.trained else "**It was never trained.** It was built"
    world = " on a simulated world" if about.simulated and about.trained else ""
    return f"{text} {made}{world} with geowb, a workbench for geospatial foundation models."


def _listed(about: About) -> str:
    return f"{len(about.classes)} classes ({', '.join(about.classes)})"


def _dates(about: About) -> str:
    frames = about.card["frames"]
    if frames == 1:
        return "one date"
    prithvi = about.masked and about.family == "prithvi"
    return f"1 to {frames} dates" if prithvi else f"{frames} dates"


def facts(about: About) -> dict[str, Any]:
    """Tell what goes in and what comes out."""
    card = about.card
    bands, frames = len(card["bands"]), card["frames"]
    sides = f"{card['size']}, {card['size']}" if card.get("size") else "y, x"
    output = f"`(batch, {card.get('outputs')}, y, x)`, "
    output += f"scores of {_listed(about)}" if about.classes else card.get("units") or "no unit"
    if about.masked:
        output = "the whole image in the input's units, what was hidden, and the loss"
    return {
        "input": f"`(batch, {bands}, {frames}, {sides})` float32: batch, band, date, y, x; surface "
        "reflectance x 10,000, NaN where there is no data",
        "bands, in this order": card["bands"],
        "normalisation": "part of the model: give it the values as they are",
        "output": output,
        "parameters": number(card.get("parameters")) if card.get("parameters") else None,
        "licence of the weights": about.licence,
    }


def limits(about: About) -> list[str]:
    """Tell what the model is for, and what it is not."""
    said = []
    if not about.trained:
        said += ["**The weights are random.** The output means nothing; it is for tests of code."]
    if about.simulated and about.trained:
        version = f" (version {about.world_version})" if about.world_version else ""
        said += [
            f"**It was trained on geowb's simulated world{version}. Its numbers are no "
            "measurements of a place**: use it for teaching, for tests, and to compare methods "
            "on the same simulated data; not for maps of real land, nor beside published errors."
        ]
    if about.masked:
        said += [
            "It is made for fine-tuning. What it predicts of hidden pixels is a means of training "
            "and no way to fill clouds."
        ]
    said += [
        f"It takes {', '.join(about.card['bands'])} as HLS has them. Other bands, another order "
        "or another scale (reflectance of 0 to 1) give wrong output without an error."
    ]
    if places := _places(about):
        said += [f"It has seen nothing but {places}. How it does elsewhere has to be measured."]
    if about.card.get("freeze_backbone") and not about.card.get("pretrained"):
        said += ["Its encoder was frozen at random weights; only what follows it was trained."]
    if not about.masked and not about.classes:
        said += ["It gives no uncertainty with its values."]
    return said


def _places(about: About) -> str:
    regions = about.trained_on.get("regions") or about.trained_on.get("region")
    named = ", ".join(map(str, [regions] if isinstance(regions, str) else regions or ()))
    return named or ", ".join(about.entries)


def snippet(about: About) -> str:
    """Code that loads the model from the hub and calls it once."""
    card = about.card
    side = card.get("size") or 64
    shape = (1, len(card["bands"]), card["frames"], side, side)
    call, told = "model(chips)", f"(1, {card.get('outputs')}, {side}, {side})"
    told += "" if about.classes or not card.get("units") else f", {card['units']}"
    if about.masked:
        call, told = "model(chips).prediction", f"{shape}, what is hidden is predicted"
    lines = [
        "import geowb",
        "import torch",
        "from huggingface_hub import snapshot_download",
        "",
        f'folder = snapshot_download("{about.repo_id}")',
        "model = geowb.models.load(folder)",
        f"chips = torch.full({shape}, 1000.0)  # reflectance x 10,000",
        "with torch.no_grad():",
        f"    result = {call}  # {told}",
    ]
    if about.masked or about.family in ("swin", "prithvi"):
        options = "".join(
            f", {key}={card[key]!r}"
            for key, usual in _USUAL.items()
            if card.get(key, usual) != usual
        )
        lines += [
            "",
            "# A model to fine-tune, from these weights:",
            f'tuned = geowb.models.build("{about.name}"{options}, '
            'weights=f"{folder}/model.safetensors")',
        ]
    return "\n".join(lines)


def number(value: float | None) -> str:
    """Format a number for a table: four digits, whole numbers in full.

    >>> number(66.33285), number(7763905), number(None)
    ('66.33', '7,763,905', 'n/a')
    """
    if value is None:
        return "n/a"
    if float(value).is_integer() or (abs(value) >= 1e4 and math.isfinite(value)):
        return f"{value:,.0f}"
    return f"{value:.4g}"


def metrics(about: About) -> list[list[str]]:
    """Table of what was measured, head first, without columns that say nothing; empty if none."""
    heads = ("metric", "what", "value", "beside it", "unit", "data")
    rows = [
        [
            row["name"],
            row.get("what") or "",
            number(row["value"]),
            "; ".join(f"{name} {_range(held)}" for name, held in (row.get("beside") or {}).items()),
            row.get("unit") or "",
            row.get("data") or "",
        ]
        for row in about.metrics
    ]
    used = [i for i in range(len(heads)) if any(row[i] for row in rows)]
    return [[row[i] for i in used] for row in (heads, *rows)] if rows else []


def _range(held: float | list[float]) -> str:
    return " to ".join(map(number, held)) if isinstance(held, list) else number(held)


def data(about: About) -> dict[str, Any]:
    """Tell what the model was trained on, with source and licence of the entries geowb knows."""
    # Of the provenance only the version: it lists each file that was read.
    told = {k: v for k, v in about.trained_on.items() if k not in ("provenance", "world_version")}
    rows = {key.replace("_", " "): value for key, value in told.items()}
    if about.simulated:
        rows["world version"] = about.world_version
    for name, entry in about.entries.items():
        if entry is None:
            continue
        meta = entry.metadata
        rows[f"what `{name}` is"] = entry.description
        rows[f"licence of `{name}`"] = meta.source_license
        rows[f"source of `{name}`"] = meta.source_url
        rows[f"notes on `{name}`"] = meta.notes
    return rows


def training(about: About) -> dict[str, Any]:
    """Tell how the model was trained, as far as its card and its run do."""
    card, run = about.card, about.run
    held = dict(card.get("training") or {})
    recipe = dict(held.pop("recipe", None) or {})
    rows: dict[str, Any] = {"started from": f"random weights (seed {card['seed']})"}
    if not about.masked or not about.trained:
        rows = {"started from": card.get("weights")}
    rows |= {
        key.replace("_", " "): value
        for key, value in (recipe | held).items()
        if key not in ("model", "unit", "mask_ratio") and not isinstance(value, (Mapping, list))
    }
    if "seconds" in rows:
        rows["time"] = duration(rows.pop("seconds"))
    if "command" in rows:
        rows["command"] = f"`{rows['command']}`"
    if run.get("study"):
        profile = f", profile {run['profile']}" if run.get("profile") else ""
        rows["study"] = f"{run['study']}{profile}"
        seconds = run.get("seconds")
        rows["time of the whole study"] = "" if seconds is None else duration(seconds)
    rows["trained parameters"] = number(card["trainable"]) if "trainable" in card else None
    return rows


def curve(card: Mapping[str, Any]) -> list[list[str]]:
    """Table of the losses in a model's card, head first: at most nine rows; empty if none."""
    rows = (card.get("training") or {}).get("curve") or []
    most = max(map(len, rows), default=0)
    rows = [row for row in rows if len(row) == most]  # those with the loss of held-out chips
    last = len(rows) - 1
    picked = sorted({round(last * i / (_ROWS - 1)) for i in range(_ROWS)}) if rows else []
    names = [name for name in _CURVE if rows and name in rows[0]]
    table = [[number(rows[i][name]) for name in names] for i in picked]
    return [[name.replace("_", " ") for name in names], *table] if names else []
