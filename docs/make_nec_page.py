"""Write docs/nec_results.md: what runs of the study of compressed embeddings show, as tables.

.venv/bin/python docs/make_nec_page.py

The runs are those of docs/records, where docs/keep_runs.py copied them: of the world those of the
profile full that differ in their seed only, and one of real photographs. docs/records/README.md
says what makes them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from results_pages import command, markdown, samples, spread, verdicts

from geowb.batch.results import Record
from geowb.nec.pictures import curves, show_curves
from geowb.nec.tradeoff import published

PAGE = Path(__file__).parent / "nec_results.md"
STUDY, PAPER = "nec_tradeoff", "2403.17886"
RECORDS = PAGE.parent / "records"
PICTURES = PAGE.parent / "figures"
TASKS = {"classes": "Classes of images", "maps": "Classes of pixels"}
#: What each budget is, as a reader would say it.
BUDGETS = {
    "zstd-75": "75 % less than zstd",
    "zstd-90": "90 % less than zstd",
    "raw-99.7": "99.7 % less than uncompressed",
    "8bit-99.7": "99.7 % less than 8 bits a value",
}


def tables(records: list[Record], name: str) -> pd.DataFrame:
    """Put a table of all runs together, with their seeds."""
    parts = [
        pd.read_csv(Path(run.path) / "tables" / f"{name}.csv").assign(seed=run.parameters["seed"])
        for run in records
    ]
    return pd.concat(parts, ignore_index=True)


def mean_points(points: pd.DataFrame, task: str) -> pd.DataFrame:
    """Average operating points over the seeds; low and high are the least and the most of them.

    Of one seed they are the bounds of its interval.
    """
    keys = ["method", "setting"]
    groups = points[points["task"] == task].groupby(keys, sort=False)
    found = groups[["kib", "bits_per_element", "of_raw", "of_zstd", "score", "miou"]].mean()
    ends = groups["score"].agg(low="min", high="max")
    if points["seed"].nunique() == 1:
        ends = groups[["low", "high"]].first()
    return found.join(ends).reset_index()


def operating_points(points: pd.DataFrame, task: str) -> str:
    """One row an operating point."""
    part = points[points["task"] == task]
    rows = []
    for (method, setting), group in part.groupby(["method", "setting"], sort=False):
        mean = group[["kib", "bits_per_element", "of_zstd"]].mean()
        told = [f"{mean.kib:.2f}", f"{mean.bits_per_element:.3f}", f"{mean.of_zstd:.2f}"]
        if method in ("full", "jpeg2000"):
            told[1] = "-"
        rows.append([f"`{method}`", setting, *told, spread(group["score"]), spread(group["miou"])])
    score = "accuracy (%)" if task == "classes" else "overall accuracy (%)"
    header = ["", "setting", "KiB", "bits an element", "% of zstd", score, "mean IoU (%)"]
    return markdown(rows, header)


def intervals(group: pd.DataFrame) -> str:
    """Say the interval of each seed."""
    ends = zip(group["low"], group["high"], strict=True)
    return "; ".join(f"{low:+.1f} to {high:+.1f}" for low, high in ends)


def at_budgets(budgets: pd.DataFrame, task: str) -> str:
    """One row a budget and a way of sending: what is lost, and what each run says of it."""
    part = budgets[budgets["task"] == task]
    rows = []
    for name, told in BUDGETS.items():
        for method, group in part[part["budget"] == name].groupby("method", sort=False):
            row = [f"{told} ({group['at_most'].mean():.2f})", f"`{method}`"]
            row += [spread(group["kib"], "{:.2f}"), spread(group["score"])]
            row += [spread(group["lost"], "{:+.1f}"), intervals(group)]
            rows.append([*row, ", ".join(group["verdict"])])
    header = ["at most (KiB)", "", "KiB", "accuracy (%)", "points lost", "95 % intervals", "says"]
    return markdown(rows, header)


def gains(found: pd.DataFrame) -> str:
    """One row a comparison at equal size."""
    rows = []
    for (task, ours, theirs), group in found.groupby(["task", "ours", "theirs"], sort=False):
        what = [TASKS[task], f"`{ours}`", f"`{theirs}`"]
        rows.append([*what, spread(group["more"], "{:+.1f}"), intervals(group)])
    return markdown(rows, ["", "has more than", "", "points", "95 % intervals"])


def how(records: list[Record]) -> str:
    """Say what makes the runs, and how long they took."""
    words, seeds = command(records, STUDY)
    minutes = ", ".join(f"{run.seconds / 60:.0f}" for run in records)
    return markdown(
        [[records[0].data, f"`{words} -p seed={seeds}`", trained(records[0]), minutes]],
        ["data", "command", "training of a head", "minutes"],
    )


def trained(run: Record) -> str:
    """Say how long heads are trained."""
    own = run.parameters
    told = f"{own['epochs']} epochs of steps of {own['batch_size']} images"
    if own["folds"]:
        return f"{told}, {own['folds']} folds {own['repeats']} times"
    return f"{told}; for maps {own['map_epochs']} of {own['map_batch_size']}"


def draw(points: pd.DataFrame, name: str, title: str) -> str:
    """Draw the curves of a data set beside the paper's; return the line that shows them."""
    panels = [curves(mean_points(points, "classes"), title=f"{title}: classes of images")]
    panels += [curves(published("ucmerced"), title="the paper's: UC Merced (other data)")]
    if (points["task"] == "maps").any():
        label = "overall accuracy (%)"
        ours = mean_points(points, "maps")
        panels += [curves(ours, ylabel=label, title=f"{title}: classes of pixels")]
        theirs = published("potsdam")
        panels += [curves(theirs, ylabel=label, title="the paper's: Potsdam (other data)")]
    show_curves(panels, PICTURES / f"nec_{name}.png")
    return f"![Accuracy against the size of an image, {title}](figures/nec_{name}.png)\n"


def short(points: pd.DataFrame, budgets: pd.DataFrame, found: pd.DataFrame) -> str:
    """Say the means in two sentences a task: at the budgets, and at equal size."""
    lines = []
    for task, told in TASKS.items():
        part = points[(points["task"] == task) & (points["method"] == "full")]
        if part.empty:
            continue
        at = budgets[(budgets["task"] == task) & (budgets["method"] == "nec_decoder")]
        means = at.groupby("budget")["score"].mean()
        words = [f"{means[name]:.1f} with {BUDGETS[name]}" for name in BUDGETS if name in means]
        own = found[(found["task"] == task) & (found["ours"] == "nec_decoder")]
        more = own.groupby("theirs", sort=False)["more"].mean()
        against = ", ".join(f"{value:+.1f} against `{name}`" for name, value in more.items())
        lines.append(
            f"- {told}: the full encoder on the images has {part['score'].mean():.1f} % right, NEC "
            f"with a decoder layer {', '.join(words)}. At equal size, points: {against}."
        )
    return "\n".join(lines)


def about(records: list[Record], title: str, name: str, text: str) -> str:
    """Write the section of one data set."""
    points = tables(records, "points")
    tasks = [task for task in TASKS if (points["task"] == task).any()]
    parts = [f"## {title}", text, how(records), draw(points, name, title.lower())]
    parts += [short(points, tables(records, "budgets"), tables(records, "gains"))]
    parts += ["### The paper's claims", verdicts(PAPER, Path(records[0].path).parent)]
    for task in tasks:
        parts += [
            f"### {TASKS[task]}: at a given reduction",
            at_budgets(tables(records, "budgets"), task),
        ]
    parts += ["### At equal size", gains(tables(records, "gains"))]
    for task in tasks:
        parts += [f"### {TASKS[task]}: all points", operating_points(points, task)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def main(folder: Path = RECORDS) -> None:
    """Write the page."""
    world, real = samples(folder / STUDY)[0], samples(folder / "nec_ucmerced")[0]
    one = json.loads((Path(world[0].path) / "run.json").read_text("utf-8"))
    parts = [
        f"""# What the study of compressed embeddings shows

Made by `docs/make_nec_page.py` from runs of the profile `full`, geowb {one["geowb"]}, on
{one["cores"]} cores, one thread each.
**Mean over the seeds** (each seed). Intervals of a run are by bootstrap over what is tested, in the
world over whole scenes, and paired where something is compared: by them "says" judges each run by
itself. Those of the paper's claims are Student's t over the seeds, and their verdicts are of all
seeds together. None holds the luck of a head's training: with other starting weights and another
order a point moved by 3 to 5 points when that was tried, now and then by more.
The encoder is `mae_demo`, of {int(one["parameters"]["chip_size"])} pixels and 192 channels, and has
seen other places of the same simulated world: the order of the ways of sending can be compared with
the paper's, the size of the numbers cannot.
`nec`: the codecs of `mae_demo`. `rounded`: the same encoder, not adapted, its embedding
rounded and entropy-coded. `uniform`: that embedding in 2 to 8 bits, with zstd.
`..._decoder`: with a layer of the decoder at the receiver.
`jpeg2000` and `full` send images, and have the whole encoder at the receiver.
""",
        about(world, "The world", "world", WORLD),
        about(real, "Ten photographs of each of 21 classes", "ucmerced", REAL),
    ]
    PAGE.write_text("\n".join(parts), encoding="utf-8")
    print(PAGE)


WORLD = """Each seed has worlds of its own, none of which the encoder or the codecs have seen. The
codecs have the tables that they come with. Bars are the least and the most of the seeds."""
REAL = """A part of UC Merced, by repeated cross-validation: each image is tested by a head that has
not seen it. The codecs were made of simulated scenes; photographs are new to
them; the encoder has not seen any either, nor are they of its resolution. **Their tables were
counted anew on these images** (`recount`), as those of `rounded` were, the tested ones included;
with those that they come with they take two to three times as much. Bars are 95 % intervals
over the images."""

if __name__ == "__main__":
    main()
