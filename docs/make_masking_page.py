"""Write docs/masking_results.md: what runs of the study of masked gradients show, as tables.

.venv/bin/python docs/make_masking_page.py

The runs are those of docs/records, where docs/keep_runs.py copied them; docs/records/README.md says
what makes them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from results_pages import command, markdown, samples, spread, verdicts

from geowb.batch.results import Record
from geowb.masking.comparing import ATTACKS, METRICS, RISES
from geowb.masking.defences import DEFENCES
from geowb.masking.pictures import NAMES, against_gap
from geowb.plots import layout, show

PAGE = Path(__file__).parent / "masking_results.md"
STUDY, PAPER = "masking_metrics", "2204.04778"
RECORDS = PAGE.parent / "records"
PICTURES = PAGE.parent / "figures"
KINDS = {True: "masks by construction", False: "honest", None: "trained into it"}
GAPS = ("fgsm-autoattack", "fgsm-pgd", "pgd-autoattack")


def values(records: list[Record], metric: str) -> pd.Series:
    """Value of a metric in each run; NaN where it is not defined."""
    found = [json.loads((Path(run.path) / "metrics.json").read_text("utf-8")) for run in records]
    return pd.Series([one.get(metric, {}).get("value") for one in found], dtype=float)


def models(records: list[Record]) -> pd.DataFrame:
    """All models of all runs, a row each."""
    parts = [
        pd.read_csv(Path(run.path) / "tables" / "models.csv").assign(seed=run.parameters["seed"])
        for run in records
    ]
    return pd.concat(parts, ignore_index=True)


def accuracies(records: list[Record], names: list[str]) -> str:
    """One row a model: what is left under each attack."""
    rows = [
        [f"`{name}`", KINDS[DEFENCES[name].masks]]
        + [spread(values(records, f"accuracy/{name}/{attack}")) for attack in ATTACKS]
        for name in names
    ]
    return markdown(rows, ["", "", "no attack (%)", "FGSM (%)", "PGD (%)", "AutoAttack (%)"])


def measures(records: list[Record], names: list[str]) -> str:
    """One row a model: means of the measures, and of what the verdict is made of."""
    shown = [*METRICS, "foresight", "trust"]
    rows = [
        [f"`{name}`"] + [spread(values(records, f"{m}/{name}"), "{:.2f}") for m in shown]
        for name in names
    ]
    return markdown(rows, ["", *[NAMES.get(name, name) for name in shown]])


def correlated(records: list[Record], kind: str) -> str:
    """One row a measure, with the paper's correlation beside ours."""
    rows = [
        [NAMES[name], *[spread(values(records, f"{kind}/{name}/{gap}"), "{:+.2f}") for gap in GAPS]]
        for name in METRICS
    ]
    return markdown(rows, [kind, *[NAMES[gap].removesuffix(" (points)") for gap in GAPS]])


def intervals(records: list[Record]) -> str:
    """Say the interval of the correlation with each gap, of each run."""
    parts = [pd.read_csv(Path(run.path) / "tables" / "correlations.csv") for run in records]
    rows = []
    for name in METRICS:
        row = [NAMES[name]]
        for gap in GAPS:
            found = [
                part[(part["metric"] == name) & (part["gap"] == gap)].iloc[0] for part in parts
            ]
            row.append(
                "; ".join(f"{one.pearson_low:+.2f} to {one.pearson_high:+.2f}" for one in found)
            )
        rows.append(row)
    return markdown(
        rows, ["Pearson, 95 %", *[NAMES[gap].removesuffix(" (points)") for gap in GAPS]]
    )


def areas(records: list[Record]) -> str:
    """One row a measure: how well it alone tells who masks."""
    rows = [
        [NAMES.get(name, name), spread(values(records, f"auroc/{name}/masking"), "{:.2f}")]
        for name in [*METRICS, "trust"]
    ]
    return markdown(rows, ["", "AUROC"])


def costs(records: list[Record]) -> str:
    """One row a model and a tool: passes and seconds."""
    rows = []
    for role in ("undefended", "defended"):
        for tool in ("metrics", "autoattack"):
            told = [f"{tool}, {role}", spread(values(records, f"passes/{tool}/{role}"), "{:,.0f}")]
            rows.append([*told, spread(values(records, f"seconds/{tool}/{role}"))])
    return markdown(rows, ["", "passes an image", "seconds"])


def of_maps(records: list[Record]) -> str:
    """One row a task and a measure: U-Net, frozen foundation model, and their difference."""
    rows = []
    for task in ("flood", "agb"):
        for name in (
            "fgsm_pgd_cosine",
            "pgd_collinearity",
            "linearization_error",
            "foresight",
            "trust",
        ):
            row = [task, NAMES.get(name, name)]
            row += [
                spread(values(records, f"maps/{task}/{name}/{arm}"), "{:.2f}")
                for arm in ("unet", "frozen")
            ]
            stem = f"maps/{task}/{name}/frozen-unet"
            low, high = (values(records, f"{stem}/{end}") for end in ("low", "high"))
            pairs = zip(low, high, strict=True)
            ends = "; ".join(f"{a:+.2f} to {b:+.2f}" for a, b in pairs if pd.notna(a))
            rows.append([*row, ends or "-"])
    header = ["", "", "U-Net", "frozen", "frozen minus U-Net, 95 % of each seed"]
    words, seeds = command(records, STUDY)
    return f"{MAPS}\n\nMade by `{words} -p seed={seeds}`.\n\n{markdown(rows, header)}"


def draw(found: pd.DataFrame) -> str:
    """Draw the models of all seeds; return the line that shows them."""
    panels = [
        against_gap(found, metric, gap, legend=gap == GAPS[2])
        for metric in ("fgsm_pgd_cosine", "gradient_information")
        for gap in (GAPS[0], GAPS[2])
    ]
    picture = layout(panels, columns=2, apart=0.4).opts(hspace=0.3)
    show(picture, PICTURES / "masking.png", inches=3.4)
    return "![Two measures against two gaps of accuracy](figures/masking.png)"


def main(folder: Path = RECORDS) -> None:
    """Write the page."""
    records = samples(folder / STUDY)[0]
    one = json.loads((Path(records[0].path) / "run.json").read_text("utf-8"))
    found = models(records)
    names = list(dict.fromkeys(found["model"]))
    words, seeds = command(records, STUDY)
    right, every = values(records, "verdict/right"), values(records, "verdict/models")
    minutes = ", ".join(f"{run.seconds / 60:.0f}" for run in records)
    rises = " and ".join(NAMES[name] for name in RISES)
    parts = [
        f"""# What the study of masked gradients shows

Made by `docs/make_masking_page.py` from `{words} -p seed={seeds}`, geowb {one["geowb"]}, on
{one["cores"]} cores ({minutes} minutes). Scikit-learn's digits (real, 8 x 8 pixels), epsilon
{records[0].parameters["epsilon"]:g} of the pixel range, {len(names)} small networks a seed.
**Mean over the seeds** (each seed). They are other data and smaller networks than the paper's
(CIFAR-10, ResNets): signs can be compared with it, sizes cannot.

The verdict of `geowb.masking.profile`, which has not seen AutoAttack, was right for
{right.sum():.0f} of {every.sum():.0f} networks: "masks" for those that mask by construction, "does
not" for the honest ones. `fgsm_overfit`, which its training leads into masking, is not counted.""",
        "## The paper's claims",
        verdicts(PAPER, Path(records[0].path).parent),
        "## What is left under attack",
        accuracies(records, names),
        "## What the measures say",
        measures(records, names),
        "## Measures against gaps of accuracy",
        draw(found),
        f"All networks of a seed count. Masking makes {rises} large, the others small.",
        correlated(records, "pearson"),
        correlated(records, "spearman"),
        "Intervals by bootstrap over the networks of each seed:",
        intervals(records),
        "## Who masks, by one measure alone",
        "Among networks with a defence. Gradient information is not defined for two of the five "
        "that mask, which have no gradient at all.",
        areas(records),
        "## What it costs",
        costs(records),
        of_maps(samples(folder / "masking_maps")[0]) if (folder / "masking_maps").is_dir() else "",
    ]
    PAGE.write_text("\n\n".join(part.strip() for part in parts if part) + "\n", encoding="utf-8")
    print(PAGE)


MAPS = """## Maps: does a frozen foundation model hide its gradients?

A U-Net, and a frozen encoder with a trained decoder (Prithvi for water, Swin for biomass), trained
alike in the simulated world, measured on the same test chips at an epsilon of 100 counts of
reflectance. Intervals are by bootstrap over chips; chips of one scene are not independent."""

if __name__ == "__main__":
    main()
