"""Write docs/prithvi_results.md: what runs of the study of four tasks show, as tables.

.venv/bin/python docs/make_prithvi_page.py

The runs are those of docs/records, where docs/keep_runs.py copied them: of each task those of the
profile full that differ in their seed only. docs/records/README.md says what makes them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from results_pages import command, markdown, samples, spread, verdicts

from geowb.batch import load_runs
from geowb.batch.results import Record

PAGE = Path(__file__).parent / "prithvi_results.md"
STUDY, PAPER = "prithvi_tasks", "2310.18660"
RECORDS = PAGE.parent / "records"
#: What else was tried: a folder of records, a heading, and what was changed.
TRIES = {
    "prithvi_linear": (
        "Another decoder",
        "With one linear layer on four blocks in place of the published neck and head.",
    ),
    "prithvi_wider": (
        "A wider search, the encoder as it is, and random weights on few labels",
        "Three rates in place of two. `frozen` trains only what follows the pretrained encoder.\n"
        "If `random` keeps as much with a tenth of the labels as `prithvi` does, then it is not\n"
        "pretraining that makes few labels suffice. The last column is the same of the IoU of the\n"
        "class that is mapped, without the background.",
    ),
    "prithvi_long_gan": (
        "A conditional GAN that is trained ten times as long",
        "At the published rate of its generator, 0.0005; one seed.",
    ),
}
TITLES = {
    "gap_filling": "Gap filling",
    "flood": "Floods",
    "burn_scar": "Burn scars",
    "crop": "Crops",
}
#: The class that a map of two is made for.
MAPPED = {"flood": "water", "burn_scar": "burnt"}
ARMS = ("prithvi", "frozen", "random", "unet")
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


def scores(runs: pd.DataFrame, task: str) -> str:
    """One row an arm or a rule: the rates that validation chose, and what it scores."""
    columns = GAPS if task == "gap_filling" else CLASSES
    shown = {k: v for k, v in columns.items() if any(v[0].format(a) in runs for a in arms_of(runs))}
    rows = []
    for arm in arms_of(runs):
        tried = f"learning_rate/{arm}"
        rates = ", ".join(f"{rate:g}" for rate in runs[tried]) if tried in runs else "-"
        values = [spread(of(runs, metric.format(arm)), form) for metric, form in shown.values()]
        rows.append([f"`{arm}`", rates, *values])
    return markdown(rows, ["", "rates chosen", *shown])


def gains(tasks: dict[str, pd.DataFrame]) -> str:
    """One row a task: what pretrained weights have more than random ones, after the training."""
    rows = []
    for task, runs in tasks.items():
        scored = [
            of(runs, f"score/prithvi/{on}") - of(runs, f"score/random/{on}")
            for on in ("labels-100", "unseen")
        ]
        rows.append([task, *(spread(one, "{:+.3f}") for one in scored)])
    return markdown(rows, ["`prithvi` minus `random`", "test images", "unseen region"])


def steps(tasks: dict[str, pd.DataFrame]) -> str:
    """One row a task: steps to 95 % of the final score of random weights."""
    count = {
        arm: {task: of(runs, f"steps/{arm}/to-95") for task, runs in tasks.items()}
        for arm in ARMS
        if any(f"steps/{arm}/to-95" in runs for runs in tasks.values())
    }
    first, rows = next(iter(count)), []
    for task, runs in tasks.items():
        last = runs["steps"].iloc[0]
        ratio = count[first][task] / count["random"][task]
        alike = runs[f"learning_rate/{first}"] == runs["learning_rate/random"]
        half = "yes" if (ratio <= 0.5).all() else f"in {(ratio <= 0.5).sum()} of {len(ratio)}"
        told = [spread(of_arm[task], "{:.0f}", most=last) for of_arm in count.values()]
        bar = spread(of(runs, "steps/score-to-reach"), "{:.3f}")
        same = ", ".join(map("{:.2f}".format, ratio[alike])) or "-"
        rows.append([task, bar, *told, spread(ratio, "{:.2f}"), half, same])
    names = [f"`{arm}`" for arm in count]
    header = ["task", "score to reach", *names, f"{first} / random", "at most half, each seed"]
    return markdown(rows, [*header, "where both have one rate"])


def labels(tasks: dict[str, pd.DataFrame]) -> str:
    """One row a task and arm: the score on shares of the chips, and what is kept of it."""
    metric = "score/{}/labels-{}".format
    shares = [s for s in SHARES if any(metric(a, s) in t for a in ARMS for t in tasks.values())]
    rows = []
    for task, runs in tasks.items():
        for arm in [arm for arm in ARMS if metric(arm, "10") in runs]:
            found = [of(runs, metric(arm, share)) for share in shares]
            kept = 100 * of(runs, metric(arm, "10")) / found[0]
            told = [spread(one, "{:.3f}") for one in found]
            whole, few = (of(runs, f"iou/{arm}/labels-{s}/{MAPPED.get(task)}") for s in (100, 10))
            kept = [spread(kept, "{:.0f}"), spread(100 * few / whole, "{:.0f}")]
            rows.append([task, f"`{arm}`", *told, *kept])
    header = [
        "task",
        "",
        *(f"{share} %" for share in shares),
        "kept at 10 % (%)",
        "of water, burnt",
    ]
    width = len(header) - all(row[-1] == "-" for row in rows)  # where no class is recorded by share
    return markdown((row[:width] for row in rows), header[:width])


def by_class(runs: pd.DataFrame) -> str:
    """One row a class: IoU and accuracy, the mean over the seeds that have it."""
    arms = arms_of(runs)
    names = [n.split("/", 2)[2] for n in runs if n.startswith(f"iou/{arms[0]}/")]
    names = [name for name in names if not name.startswith(("unseen/", "labels-"))]
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
        for task in TITLES
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


def floor(runs: pd.DataFrame) -> str:
    """Say how far the arms of gap filling came, beside the mean of what is clear."""
    mean, names = of(runs, "score/date_mean/labels-100"), ("cgan", "random")
    below = {a: int((of(runs, f"score/{a}/labels-100") < mean).sum()) for a in names}
    untrained = spread(of(runs, "score/prithvi_as_it_comes/labels-100"), "{:.3f}")
    told = " and of ".join(f"`{arm}` in {count}" for arm, count in below.items())
    return f"""In gap filling the floor, `date_mean`, is ahead of {told} of {len(runs)} seeds:
in so few steps they have hardly learnt the task, and to be ahead of them says no more than that.
The pretrained model has {untrained} on the test chips as it comes, before any step."""


def rounding(tasks: dict[str, pd.DataFrame], again: dict[str, pd.DataFrame]) -> str:
    """Say how far trainings lie apart that differ in the order of their sums alone."""
    pairs = []
    for task, runs in again.items():
        for arm in ("prithvi", "random"):
            score, keys = f"score/{arm}/labels-100", ["seed", f"learning_rate/{arm}"]
            columns = [*keys, score]
            both = tasks[task][columns].merge(runs[columns], on=keys)
            rows = both[["seed", f"{score}_x", f"{score}_y"]].itertuples(index=False)
            pairs += [(abs(one - two), task, arm, seed, one, two) for seed, one, two in rows]
    most, task, arm, seed, once, other = max(pairs)
    mean = sum(pair[0] for pair in pairs) / len(pairs)
    return f"""The runs of the wider search below had two threads, those above one, so that sums
are rounded otherwise. {len(pairs)} trainings are the same but for that (arm, seed and rate).
Their mean IoU differs by {mean:.3f} on average, and by {most:.3f} at most:
`{arm}` on {TITLES[task].lower()}, seed {seed}, has {once:.3f} and {other:.3f}.
So much of a difference between two arms of one seed is luck of the training."""


def tried(folder: Path, title: str, text: str) -> str:
    """Write the section of something else that was tried."""
    tasks, records = tables(folder)
    few = any(len(run.parameters["few"]) for runs in records.values() for run in runs)
    reached = any("steps/score-to-reach" in runs for runs in tasks.values())
    parts = [f"### {title}", text, how(tasks, records), verdicts(PAPER, folder, by="task")]
    parts += [steps(tasks) if reached else "", labels(tasks) if few else ""]
    parts += [f"{TITLES[task]}:\n\n{scores(runs, task)}" for task, runs in tasks.items()]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def main(folder: Path = RECORDS) -> None:
    """Write the page."""
    tasks, records = tables(folder / STUDY)
    run = records["flood"][0]
    one = json.loads((Path(run.path) / "run.json").read_text("utf-8"))
    values, crop = run.parameters, records["crop"][0].parameters
    counts = sorted({int(runs["trainable/prithvi"].iloc[0]) for runs in tasks.values()})
    sizes = f"{counts[0] / 1e6:.1f} to {counts[-1] / 1e6:.1f}"
    parts = [
        f"""# What the study of four tasks shows on the world

Made by `docs/make_prithvi_page.py` from runs of the profile `full`, geowb {one["geowb"]}, two at a
time on {one["cores"]} cores, one thread each.
**Mean over the seeds** (each seed).
Worlds, not places of one world, are trained on, validate and test.
The last region is held out of fine-tuning: for floods and burn scars `mata_atlantica`, on other
worlds of which the encoder was pretrained; for gap filling `great_plains`, which is new to the
encoder too. (Crops have one region only, `great_plains`; none is held out.)
The profile was chosen by trials on seed 10.
The numbers are of a simulated world and of models of {sizes} million parameters, trained for
{values["steps"]} steps of {values["batch_size"]} chips (crops: {crop["steps"]}):
their size cannot be compared with the paper's.

{how(tasks, records)}
## The paper's claims

{verdicts(PAPER, folder / STUDY, by="task")}
Intervals are Student's over three seeds, which is few: *cannot tell* is what most differences come
to that are not large.
{floor(tasks["gap_filling"])}
`pixel_forest`, a random forest on single pixels, shows how far spectra and dates alone go. Where it
is ahead of all networks, sharp edges may count for more than context: a reading, which nothing here
tests.
"""
    ]
    luck = rounding(tasks, tables(folder / "prithvi_wider")[0])
    parts.append(f"## Pretrained or random weights\n\n{gains(tasks)}\n{luck}\n")
    for task, runs in tasks.items():
        parts.append(f"## {TITLES[task]}\n\n{scores(runs, task)}")
    text = "Per cent, the mean over the seeds that have the class in the test scenes."
    parts.append(f"### Crops, class by class\n\n{text}\n\n{by_class(tasks['crop'])}")
    parts.append(
        f"""## How many steps

Steps until validation had reached 95 % of the final score of `random`; validation is every
{values["val_every"]} steps (crops: {crop["val_every"]}), the first after as many.
Each arm has the rate, of two, that was best for its score, not for its speed: a ratio of arms of
unlike rates is one of rates too.

{steps(tasks)}"""
    )
    parts.append(
        f"""## How many labels

Score on the test images, trained on a share of the chips for as many steps
(gap filling: SSIM on missing pixels, else mean IoU).
The chips of a share lie in all training worlds, so that it is labels that are few and not places;
half of a mean IoU of two classes is the background, which keeps its score more easily.

{labels(tasks)}"""
    )
    parts.append("## What else was tried\n")
    parts += [tried(folder / name, *told) for name, told in TRIES.items()]
    PAGE.write_text("\n".join(parts), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
