"""Write docs/biomass_results.md: what runs of the biomass study show, as tables.

.venv/bin/python docs/make_biomass_page.py runs/agb_transfer runs/linear

The first folder holds runs of the profile full that differ in their seed only, the second, if
there is one, runs of the linear arms alone, which take a minute each:
geowb sweep agb_transfer --profile full -p seed=3,4,5 --out runs/agb_transfer
geowb sweep agb_transfer --profile full -p seed=3..12 -p 'arms=["linear", "random_linear"]' \
    -p 'detail=[]' --out runs/linear
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from results_pages import command, markdown, samples, spread, verdicts

from geowb.batch import load_runs
from geowb.batch.results import Record

PAGE = Path(__file__).parent / "biomass_results.md"
STUDY, PAPER = "agb_transfer", "2406.19888"
CURVES = (
    (
        "few_shot",
        "A few chips of a new region",
        "RMSE there after fine-tuning a model of another region on so many chips, over all pairs.",
        "chips",
    ),
    (
        "few_shot_alone",
        "The few chips alone",
        "RMSE of a new model that has seen only these.",
        "chips",
    ),
    (
        "label_curve",
        "Fewer labels",
        "RMSE in all regions after training on a share of them.",
        "share",
    ),
)


def arms_of(runs: pd.DataFrame) -> list[str]:
    """Arms in the order in which they were trained."""
    return [name.split("/")[1] for name in runs if name.startswith("trainable/")]


def errors(runs: pd.DataFrame) -> str:
    """One row an arm: errors by bin and between the shots."""
    columns = {
        "RMSE, labels": "rmse/{}/all",
        "0-100": "rmse/{}/0-100",
        "100-200": "rmse/{}/100-200",
        "200-300": "rmse/{}/200-300",
        "300+": "rmse/{}/300+",
        "0-300": "rmse/{}/0-300",
        "bias": "bias/{}/all",
        "no shot, truth": "rmse_truth/{}/no_shot",
    }
    rows = []
    for arm in arms_of(runs):
        count = f"{int(runs[f'trainable/{arm}'].iloc[0]):,}"
        tried = f"learning_rate/{arm}"
        rates = ", ".join(f"{rate:g}" for rate in runs[tried]) if tried in runs else "none needed"
        rows.append([arm, count, rates, *(spread(runs[c.format(arm)]) for c in columns.values())])
    return markdown(rows, ["arm", "trained parameters", "rates chosen", *columns])


def ratios(runs: pd.DataFrame) -> str:
    """One row a pair of arms: ratios of RMSE by what they are measured against."""
    arms = arms_of(runs)
    encoder = next(arm for arm in arms if arm != "unet")
    linear = f"{encoder}_linear"
    pairs = [(encoder, "unet"), (encoder, f"{encoder}_random"), (f"{encoder}_tuned", encoder)]
    pairs += [(linear, "unet"), (linear, encoder), (linear, f"{encoder}_random_linear")]
    kinds = {
        "all labels": "rmse/{}/all",
        "labels of 0-300": "rmse/{}/0-300",
        "the truth, no shot": "rmse_truth/{}/no_shot",
    }
    rows = [
        [
            f"{ours} / {theirs}",
            *(
                spread(runs[m.format(ours)] / runs[m.format(theirs)], "{:.3f}")
                for m in kinds.values()
            ),
        ]
        for ours, theirs in pairs
        if {ours, theirs} <= set(arms)
    ]
    return markdown(rows, ["", *kinds])


def transfer(runs: pd.DataFrame) -> str:
    """Matrices of RMSE, trained by tested, the mean over seeds."""
    names = [name.split("/")[1:] for name in runs if name.startswith("transfer/")]
    text = ""
    for arm in dict.fromkeys(arm for arm, _, _ in names):
        trained = list(dict.fromkeys(row for a, row, _ in names if a == arm))
        tested = list(dict.fromkeys(column for a, _, column in names if a == arm))
        cell: Callable[[str, str], str] = lambda row, at, arm=arm: (  # noqa: E731
            f"{runs[f'transfer/{arm}/{row}/{at}'].mean():.1f}"
        )
        rows = [[row, *(cell(row, at) for at in tested)] for row in trained]
        bins = ("0-100", "100-200", "200-300", "all")
        loss = "; ".join(f"{b}: {spread(runs[f'transfer_loss/{arm}/{b}'], '{:.2f}')}" for b in bins)
        text += f"\n`{arm}`\n\n{markdown(rows, ['trained on', *tested])}"
        text += f"\nRMSE elsewhere / at home, by bin (Mg/ha): {loss}\n"
    return text


def curve(runs: pd.DataFrame, metric: str, what: str) -> str:
    """One row a number of chips or a share of labels, one column an arm."""
    names = [name.split("/")[1:] for name in runs if name.startswith(f"{metric}/")]
    arms = list(dict.fromkeys(arm for arm, _ in names))
    points = sorted({point for _, point in names}, key=float)
    rows = [[p, *(spread(runs[f"{metric}/{arm}/{p}"]) for arm in arms)] for p in points]
    return markdown(rows, [what, *arms])


def linear(folder: Path) -> str:
    """One row a seed: the linear layer on the pretrained and on the random encoder."""
    runs = load_runs(folder).sort_values("seed")
    _, ours, theirs, _ = next(name for name in runs if name.startswith("against/")).split("/")
    low, high = (runs[f"against/{ours}/{theirs}/{bound}"] for bound in ("low", "high"))
    values = [runs[f"rmse/{arm}/all"] for arm in (ours, theirs)]
    rows = [
        [seed, f"{a:.1f}", f"{b:.1f}", f"{a - b:+.1f} ({least:+.1f} to {most:+.1f})"]
        for seed, a, b, least, most in zip(runs["seed"], *values, low, high, strict=True)
    ]
    return markdown(rows, ["seed", ours, theirs, "difference (95 %, over places)"])


def sample(folder: Path) -> list[Record]:
    """Find the runs of the profile full that differ in their seed only, or end the program."""
    groups = samples(folder)
    if len(groups) != 1:
        sys.exit(f"{folder} holds full runs of {len(groups)} requests; one is wanted.")
    return groups[0]


def main(folder: Path, more: Path | None = None) -> None:
    """Write the page."""
    records = sample(folder)
    table = load_runs(folder).set_index("path")
    runs = table.loc[[run.path for run in records]].reset_index()
    one = json.loads((Path(records[0].path) / "run.json").read_text("utf-8"))
    words, seeds = command(records, STUDY)
    minutes = ", ".join(f"{seconds / 60:.0f}" for seconds in runs["seconds"])
    parts = [
        f"""# What the biomass study shows on the world

Made by `docs/make_biomass_page.py` from the runs of
`{words} -p seed={seeds}`:
{records[0].data}, geowb {one["geowb"]}; {minutes} minutes on {one["cores"]} cores.
What the profile sets was chosen by trials on the seeds 0 to 2, but for one thing: a learning rate
of 0.0003 is no longer tried, since no arm had chosen it in earlier runs on the seeds 3 to 5.
Errors in Mg/ha: **mean over the seeds** (each seed).
The numbers are of a simulated world and not comparable in size with the paper's.

## Arms

RMSE over the labelled pixels of the test blocks, by observed biomass, and against the truth at all
test pixels without a shot.

{errors(runs)}
Beside each other, RMSE of the first over RMSE of the second:

{ratios(runs)}
## The paper's claims

{verdicts(PAPER, folder)}"""
    ]
    if any(name.startswith("transfer/") for name in runs):
        parts.append(
            f"""## Transfer between eco-regions

RMSE of a model trained in one eco-region (rows) in the test blocks of another (columns), zero-shot.
{transfer(runs)}"""
        )
    for metric, title, text, what in CURVES:
        if any(name.startswith(f"{metric}/") for name in runs):
            parts.append(f"## {title}\n\n{text}\n\n{curve(runs, metric, what)}")
    if more:
        words, seeds = command(sample(more), STUDY)
        parts.append(
            f"""## One linear layer, more seeds

RMSE over the labelled pixels of the test blocks: `{words} -p seed={seeds}`.

{linear(more)}
{verdicts(PAPER, more)}"""
        )
    PAGE.write_text("\n".join(parts), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:] or ["runs/agb_transfer"]))
