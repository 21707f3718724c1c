"""Write docs/prithvi_results.md: what runs of the study of four tasks show, as tables.

.venv/bin/python docs/make_prithvi_page.py

The runs are those of docs/records (docs/keep_runs.py copied them there), or of two folders that
are given: of each task those of the profile full that differ in their seed only, made by
geowb sweep prithvi_tasks --profile full --repeat 3 -p task=gap_filling,flood,burn_scar,crop
and the same with another decoder, made by
geowb sweep prithvi_tasks --profile full --repeat 3 -p task=flood,burn_scar,crop \
    -p decoder=linear -p 'arms=["prithvi", "random"]' -p 'few=[]' --out runs/prithvi_linear
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
from results_pages import command, markdown, samples, spread, verdicts

from geowb.batch import load_runs
from geowb.batch.results import Record

PAGE = Path(__file__).parent / "prithvi_results.md"
STUDY, PAPER = "prithvi_tasks", "2310.18660"
#: The records that the page is made from: the study, and the same with one linear layer.
KEPT = [PAGE.parent / "records" / name for name in (STUDY, "prithvi_linear")]
TASKS = ("gap_filling", "flood", "burn_scar", "crop")
SEGMENTATION = TASKS[1:]
SHARES = ("100", "50", "25", "10", "5")
CLASSES = {
    "mean IoU": ("score/{}/labels-100", "{:.3f}"),
    "mean accuracy (%)": ("accuracy/{}/mean", "{:.1f}"),
    "mean IoU, unseen region": ("score/{}/unseen", "{:.3f}"),
}
GAPS = {
    "SSIM, missing": ("ssim/{}/missing", "{:.3f}"),
    "MAE, missing (reflectance)": ("mae/{}/missing", "{:.4f}"),
    "SSIM as published": ("ssim/{}/published", "{:.3f}"),
    "SSIM, missing, unseen region": ("score/{}/unseen", "{:.3f}"),
}


def arms_of(runs: pd.DataFrame) -> list[str]:
    """Everything that was scored, in the order in which it was."""
    return [name.split("/")[1] for name in runs if name.endswith("/labels-100")]


def of(runs: pd.DataFrame, metric: str) -> pd.Series:
    """Return a metric of each run; NaN where it was not recorded."""
    return runs[metric] if metric in runs else pd.Series(float("nan"), index=runs.index)


def scores(runs: pd.DataFrame, columns: dict[str, tuple[str, str]]) -> str:
    """One row an arm or a rule: the rates that validation chose, and what it scores."""
    shown = {k: v for k, v in columns.items() if any(v[0].format(a) in runs for a in arms_of(runs))}
    rows = []
    for arm in arms_of(runs):
        tried = f"learning_rate/{arm}"
        rates = ", ".join(f"{rate:g}" for rate in runs[tried]) if tried in runs else "-"
        values = [spread(of(runs, metric.format(arm)), form) for metric, form in shown.values()]
        rows.append([f"`{arm}`", rates, *values])
    return markdown(rows, ["", "rates chosen", *shown])


def steps(tasks: dict[str, pd.DataFrame]) -> str:
    """One row a task: steps to 95 % of the final score of random weights."""
    rows = []
    for task, runs in tasks.items():
        counts = [of(runs, f"steps/{arm}/to-95") for arm in ("prithvi", "random", "unet")]
        ratio = counts[0] / counts[1]
        bar = spread(of(runs, "steps/score-to-reach"), "{:.3f}")
        half = "yes" if (ratio <= 0.5).all() else f"in {(ratio <= 0.5).sum()} of {len(ratio)}"
        told = [spread(count, "{:.0f}") for count in counts]
        rows.append([task, bar, *told, spread(ratio, "{:.2f}"), half if ratio.any() else "-"])
    header = ["task", "score to reach", "`prithvi`", "`random`", "`unet`", "prithvi / random"]
    return markdown(rows, [*header, "at most half, each seed"])


def labels(tasks: dict[str, pd.DataFrame]) -> str:
    """One row a task: the score on shares of the chips, and what is kept of it."""
    rows = []
    for task, runs in tasks.items():
        found = [of(runs, f"score/prithvi/labels-{share}") for share in SHARES]
        kept = (100 * of(runs, "score/prithvi/labels-10") / found[0]).dropna()
        told = [spread(one, "{:.3f}") for one in found]
        rows.append([task, *told, spread(kept, "{:.0f}")])
    return markdown(rows, ["task", *(f"{share} %" for share in SHARES), "kept at 10 % (%)"])


def by_class(runs: pd.DataFrame) -> str:
    """One row a class: IoU and accuracy, the mean over the seeds that have it."""
    arms = arms_of(runs)
    names = [n.split("/", 2)[2] for n in runs if n.startswith(f"iou/{arms[0]}/")]
    names = [name for name in names if not name.startswith("unseen/")]
    rows = [
        [
            name.replace("_", " "),
            *(
                f"{of(runs, f'{what}/{arm}/{name}').mean():.1f}"
                for arm in arms
                for what in ("iou", "accuracy")
            ),
        ]
        for name in names
    ]
    header = [f"`{arm}` {what}" for arm in arms for what in ("IoU", "acc.")]
    return markdown(rows, ["class", *header])


def tables(folder: Path) -> tuple[dict[str, pd.DataFrame], dict[str, list[Record]]]:
    """Read the runs of each task, in the order of their seeds."""
    records = {runs[0].parameters["task"]: runs for runs in samples(folder)}
    whole = load_runs(folder).set_index("path")
    found = {
        task: whole.loc[[run.path for run in records[task]]].dropna(axis=1, how="all").reset_index()
        for task in TASKS
        if task in records
    }
    return found, records


def how(tasks: dict[str, pd.DataFrame], records: dict[str, list[Record]]) -> str:
    """One row a task: what makes its runs, and how long they took."""
    rows = []
    for task, runs in tasks.items():
        words, seeds = command(records[task], STUDY)
        minutes = ", ".join(f"{seconds / 60:.0f}" for seconds in runs["seconds"])
        rows.append([task, records[task][0].data, f"`{words} -p seed={seeds}`", minutes])
    return markdown(rows, ["task", "data", "command", "minutes"])


def main(folder: Path, more: Path | None = None) -> None:
    """Write the page."""
    tasks, records = tables(folder)
    first = next(iter(records.values()))[0]
    one = json.loads((Path(first.path) / "run.json").read_text("utf-8"))
    parts = [
        f"""# What the study of four tasks shows on the world

Made by `docs/make_prithvi_page.py` from runs of the profile `full`, geowb {one["geowb"]}, two at a
time on {one["cores"]} cores, one thread each.
**Mean over the seeds** (each seed).
Worlds, not places of one world, are trained on, validate and test.
One region is held out of fine-tuning (not for crops, which have one only); the encoder was
pretrained on other worlds of all three Brazilian regions, the held-out one included.
The profile was chosen by trials on seed 10.
The numbers are of a simulated world and of a model of 2.7 million parameters, trained for
{first.parameters["steps"]} steps of {first.parameters["batch_size"]} chips (crops: more): their
size cannot be compared with the paper's.
{"" if "crop" in tasks else "Crops are not judged yet."}

{how(tasks, records)}
## The paper's claims

{verdicts(PAPER, folder, by="task")}
Intervals are Student's over three seeds, which is few: *cannot tell* is what most differences come
to that are not large.
`pixel_forest`, a random forest on single pixels, shows how far spectra and dates alone go. Where it
is ahead of all networks, sharp edges may count for more than context: a reading, which nothing here
tests.
"""
    ]
    if "gap_filling" in tasks:
        parts.append(f"## Gap filling\n\n{scores(tasks['gap_filling'], GAPS)}")
    for task in SEGMENTATION:
        if task in tasks:
            parts.append(
                f"## {task.replace('_', ' ').capitalize()}\n\n{scores(tasks[task], CLASSES)}"
            )
    if "crop" in tasks:
        text = "Per cent, the mean over the seeds that have the class in the test scene."
        parts.append(f"### Crops, class by class\n\n{text}\n\n{by_class(tasks['crop'])}")
    parts.append(
        f"""## How many steps

Steps until validation had reached 95 % of the final score of `random`; validation is every
{first.parameters["val_every"]} steps.

{steps(tasks)}"""
    )
    parts.append(
        f"""## How many labels

Score on the test images of `prithvi`, trained on a share of the chips for as many steps
(gap filling: SSIM on missing pixels, else mean IoU).

{labels(tasks)}"""
    )
    if more:
        others, records = tables(more)
        parts.append(
            f"""## What else was tried: another decoder

With one linear layer on four blocks in place of the published neck and head.

{how(others, records)}
{verdicts(PAPER, more, by="task")}
{steps(others)}"""
        )
        parts += [f"### {task}\n\n{scores(runs, CLASSES)}" for task, runs in others.items()]
    PAGE.write_text("\n".join(parts), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main(*(list(map(Path, sys.argv[1:])) or KEPT))
