"""Make the figures and tables of docs/world.md on floods, fires, crops and masks.

Called by docs/make_world_page.py, which holds what both share.
"""

from __future__ import annotations

import make_world_page as page
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from geowb.world import REGIONS, VERSION, cloud_masks, scene
from geowb.world.crops import CALENDAR, CROPS, Crops

SEEDS = range(20, 30)
SIZE = 320
#: Start of the rainy and of the dry season.
WET = dict.fromkeys(page.BIOMES, "2023-01-20") | {"great_plains": "2022-05-20"}
DRY = dict.fromkeys(page.BIOMES, "2022-08-20") | {"great_plains": "2022-04-20"}
#: Okabe-Ito and Tol colours, one a crop class; lightness tells neighbours apart as well.
CROP_COLOURS = ("#d9d08f", "#00441b", "#e69f00", "#117733", "#56b4e9", "#888888", "#0072b2",
                "#7a4a1d", "#cc79a7", "#ffffff", "#000000", "#d55e00", "#f0e442")  # fmt: skip
STYLES = ("-", "--", "-.", ":")


def tables() -> dict[str, str]:
    """Draw the figures; return the tables."""
    picture_flood()
    picture_fire()
    picture_crops()
    made = {"floods": table_floods(), "fires": table_fires(), "crops": table_crops()}
    made["masks"] = picture_masks()
    for name, table in made.items():
        print(f"\n## {name}\n{table}")
    return made


# --- pictures


def show(ax: plt.Axes, image: np.ndarray, title: str, **how: object) -> object:
    """Lay an image out in kilometres."""
    side = image.shape[1] * 0.03
    shown = ax.imshow(image, extent=(0, side, 0, side), interpolation="nearest", **how)
    ax.set_title(title)
    ax.set_xticks([0, 5, 10, 15])
    ax.set_yticks([0, 5, 10, 15])
    ax.tick_params(labelsize=6)
    return shown


def false_colour(counts: np.ndarray) -> np.ndarray:
    """SWIR 1, NIR and red."""
    return page.rgb(counts, (4, 3, 2), (4200, 4800, 2400))


def picture_flood() -> None:
    """Before, in the flood, label and index."""
    figure, axes = plt.subplots(2, 4, figsize=(9.6, 5.2), layout="constrained")
    labels = ListedColormap(["#000000", "#f0e6c8", "#0072b2"])
    for row, (region, seed) in zip(axes, (("amazonia", 22), ("cerrado", 26)), strict=True):
        ds = scene(region, seed=seed, dates=2, start="2022-09-10", every=132, flood=True)
        counts = ds.reflectance.values
        when = [str(t)[:10] for t in ds.time.values]
        show(row[0], false_colour(counts[0]), f"{region}, {when[0]}")
        show(row[1], false_colour(counts[1]), f"flood of {when[1]}")
        show(row[2], ds.flood.values, "label", cmap=labels, vmin=-1.5, vmax=1.5)
        index = difference(counts[1], 1, 4)
        bar = show(row[3], index, "MNDWI", cmap="cividis", vmin=-0.7, vmax=0.7)
        figure.colorbar(bar, ax=row[3], shrink=0.75, label="MNDWI")
    names = ("hidden (-1)", "dry (0)", "water (1)")
    handles = [Patch(facecolor=labels(i), edgecolor="0.5", label=n) for i, n in enumerate(names)]
    figure.legend(handles=handles, ncols=3, loc="outside lower center")
    axes[0, 0].set_ylabel("km")
    axes[1, 0].set_ylabel("km")
    figure.suptitle(f"World {VERSION}: floods, SWIR 1 / NIR / red", fontsize=9)
    page.save(figure, "flood", 200)


def picture_fire() -> None:
    """Scars, their severity and days."""
    figure, axes = plt.subplots(2, 4, figsize=(9.6, 5.2), layout="constrained")
    for row, (region, seed) in zip(axes, (("amazonia", 26), ("cerrado", 24)), strict=True):
        ds = scene(region, seed=seed, dates=2, start="2022-06-05", every=76, fire=True)
        when = [str(t)[:10] for t in ds.time.values]
        show(row[0], false_colour(ds.reflectance.values[0]), f"{region}, {when[0]}")
        show(row[1], false_colour(ds.reflectance.values[1]), f"{when[1]}")
        bar = show(row[2], ds.burn_severity.values, "severity", cmap="cividis", vmin=0, vmax=1)
        figure.colorbar(bar, ax=row[2], shrink=0.75, label="share consumed or killed")
        age = (ds.time.values[1] - ds.burn_date.values) / np.timedelta64(1, "D")
        age[np.isnat(ds.burn_date.values)] = np.nan
        bar = show(row[3], age, "age on the second date", cmap="viridis", vmin=0, vmax=100)
        figure.colorbar(bar, ax=row[3], shrink=0.75, label="days since the fire")
        row[0].set_ylabel("km")
    figure.suptitle(f"World {VERSION}: fires, SWIR 1 / NIR / red", fontsize=9)
    page.save(figure, "fire", 200)


def picture_crops() -> None:
    """Three dates, the classes and their calendars."""
    figure, axes = plt.subplots(1, 4, figsize=(9.6, 2.9), layout="constrained")
    ds = scene("great_plains", seed=104, dates=3, clouds=False, start="2022-04-01", every=75)
    for ax, counts, time in zip(axes, ds.reflectance.values, ds.time.values, strict=False):
        show(ax, false_colour(counts), str(time)[:10])
    axes[0].set_ylabel("km")
    show(axes[3], ds.crop.values, "crop", cmap=ListedColormap(CROP_COLOURS), vmin=-0.5, vmax=12.5)
    handles = [Patch(facecolor=c, edgecolor="0.5", label=n.replace("_", " "))
               for c, n in zip(CROP_COLOURS, CROPS, strict=True)]  # fmt: skip
    figure.legend(handles=handles, ncols=7, loc="outside lower center")
    figure.suptitle(f"World {VERSION}: great_plains, seed 104, SWIR 1 / NIR / red", fontsize=9)
    page.save(figure, "crops", 200)
    figure, ax = plt.subplots(figsize=(7.0, 2.9), layout="constrained")
    days = np.arange(1, 366)
    on_white = {"fallow_idle": "#999900", "other": "#56b4e9"}  # pale on the map
    for number, name in enumerate(CALENDAR):
        kind = np.full(200, CROPS.index(name))
        draws = np.random.default_rng(0).standard_normal((4, 200))
        crops = Crops(np.zeros((1, 1), np.int16), kind, np.zeros((1, 1), np.int64), draws)
        curve = np.array([crops.green(day).mean() for day in days])
        colour = on_white.get(name, CROP_COLOURS[CROPS.index(name)])
        ax.plot(days, curve, STYLES[number % 4], color=colour, lw=1.6, label=name.replace("_", " "))
    ax.set(xlabel="day of the year", ylabel="green cover, mean of 200 parcels", ylim=(0, 1))
    figure.legend(*ax.get_legend_handles_labels(), ncols=1, loc="outside right center")
    page.save(figure, "calendars", 64)


# --- what a threshold or a forest of trees makes of them


def difference(counts: np.ndarray, one: int, other: int) -> np.ndarray:
    """Normalised difference of two bands."""
    return (counts[one] - counts[other]) / (counts[one] + counts[other])


def best_threshold(values: list[np.ndarray], truth: list[np.ndarray]) -> tuple[float, float]:
    """Largest IoU that one threshold on the pooled pixels reaches, and the threshold."""
    index, wanted = np.concatenate(values), np.concatenate(truth)
    levels = np.linspace(-0.9, 0.9, 181)
    scores = [(hit := index > t, (hit & wanted).sum() / max((hit | wanted).sum(), 1))[1]
              for t in levels]  # fmt: skip
    return float(np.max(scores)), float(levels[int(np.argmax(scores))])


def table_floods() -> str:
    """Share of water, and the best threshold on NDWI and MNDWI."""
    rows = ["| region | scenes | water, median | least-most | hidden | IoU of NDWI (at) "
            "| IoU of MNDWI (at) |", "|---" * 7 + "|"]  # fmt: skip
    for region in REGIONS:
        share, hidden, wet, index = [], [], [], ([], [])
        for seed in SEEDS:
            ds = scene(region, seed=seed, size=SIZE, dates=1, start=WET[region], flood=True)
            ok = ds.flood.values >= 0
            hidden.append(1 - ok.mean())
            wet.append(ds.flood.values[ok] == 1)
            share.append(wet[-1].mean())
            for of, other in zip(index, (3, 4), strict=True):
                of.append(difference(ds.reflectance.values[0], 1, other)[ok])
        scores = ["{:.2f} ({:+.2f})".format(*best_threshold(of, wet)) for of in index]
        rows.append(
            f"| {region} | {len(SEEDS)} | {np.median(share):.0%} | {min(share):.0%}-"
            f"{max(share):.0%} | {np.mean(hidden):.0%} | {scores[0]} | {scores[1]} |"
        )
    return "\n".join(rows)


def table_fires() -> str:
    """Share burnt, and the best threshold on NBR and on its fall since a year ago."""
    rows = ["| region | scenes | burnt, median | least-most | IoU of NBR (at) | IoU of dNBR (at) |",
            "|---" * 6 + "|"]  # fmt: skip
    for region in REGIONS:
        share, burnt, index, both, fall = [], [], [], [], []
        for seed in SEEDS:
            ds = scene(region, seed=seed, size=SIZE, dates=1, start=DRY[region], fire=True)
            ok = ds.burn.values >= 0
            burnt.append(ds.burn.values[ok] == 1)
            share.append(burnt[-1].mean())
            index.append(-difference(ds.reflectance.values[0], 3, 5)[ok])
            year = str(int(DRY[region][:4]) - 1) + DRY[region][4:]
            ds = scene(region, seed=seed, size=SIZE, dates=2, start=year, every=365, fire=True)
            ok = (ds.burn.values >= 0) & page.clear(ds.fmask.values[0])
            before, after = (difference(c, 3, 5)[ok] for c in ds.reflectance.values)
            fall.append(before - after)
            both.append(ds.burn.values[ok] == 1)
        nbr, level = best_threshold(index, burnt)
        rows.append(
            f"| {region} | {len(SEEDS)} | {np.median(share):.0%} | {min(share):.0%}-"
            f"{max(share):.0%} | {nbr:.2f} (below {-level:+.2f}) "
            "| {:.2f} ({:+.2f}) |".format(*best_threshold(fall, both))
        )
    return "\n".join(rows)


def table_crops() -> str:
    """Random forest on the 18 bands of three dates, trained on other seeds."""
    from sklearn.ensemble import RandomForestClassifier

    def pixels(seeds: range, step: int) -> tuple[np.ndarray, np.ndarray]:
        x, y = [], []
        for seed in seeds:
            ds = scene("great_plains", seed=seed, size=SIZE, dates=3, clouds=False,
                       start="2022-04-01", every=75)  # fmt: skip
            x.append(ds.reflectance.values.reshape(18, -1).T[::step])
            y.append(ds.crop.values.ravel()[::step])
        return np.concatenate(x), np.concatenate(y)

    x, y = pixels(range(100, 120), 23)
    values, truth = pixels(range(200, 210), 13)
    model = RandomForestClassifier(60, min_samples_leaf=3, random_state=0).fit(x, y)
    guess = model.predict(values)
    rows = ["| class | share | accuracy | IoU | most often taken for |", "|---" * 5 + "|"]
    scores = []
    for code, name in enumerate(CROPS):
        here, said = truth == code, guess == code
        counts = np.bincount(guess[here & ~said], minlength=len(CROPS))
        wrong = f"{CROPS[int(counts.argmax())]} ({counts.max() / here.sum():.0%})"
        scores.append(((here & said).sum() / here.sum(), (here & said).sum() / (here | said).sum()))
        accuracy, iou = scores[-1]
        rows.append(f"| {name} | {here.mean():.1%} | {accuracy:.2f} | {iou:.2f} | {wrong} |")
    accuracy, iou = np.mean(scores, 0)
    rows.append(f"| *mean of the classes* | | {accuracy:.2f} | {iou:.2f} | |")
    return "\n".join([*rows, f"\nOverall accuracy {(guess == truth).mean():.2f}."])


# --- masks


def real_masks(size: int) -> np.ndarray:
    """Windows of the real Fmask tiles in which 1 % or more is cloud or shadow."""
    found = []
    for path in sorted(page.real("hls_fmask").glob("*.tif")):
        tile = page.tif("hls_fmask", path.name)[0]
        for row in range(0, tile.shape[0] - size + 1, size):
            for col in range(0, tile.shape[1] - size + 1, size):
                window = tile[row : row + size, col : col + size]
                hidden = (window & 0b1010) > 0
                if not (window == 255).any() and hidden.mean() >= 0.01:
                    found.append(hidden)
    return np.stack(found)


def mask_statistics(masks: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Covers; fractal dimension of the pieces (Lovejoy); edge pixels a hidden pixel."""
    area, perimeter = [], []
    for mask in masks:
        a, p = page.cloud_objects(mask.astype(np.uint8) << 1)
        area.append(a)
        perimeter.append(p)
    a, p = np.concatenate(area), np.concatenate(perimeter)
    big = a >= 16
    fractal = 2 * np.polyfit(np.log(a[big]), np.log(p[big]), 1)[0]
    edges = (masks[:, 1:] ^ masks[:, :-1]).sum() + (masks[:, :, 1:] ^ masks[:, :, :-1]).sum()
    return masks.mean((1, 2)), float(fractal), float(edges / masks.sum())


def picture_masks() -> str:
    """Coverage and shape of masks, simulated and real."""
    rows = ["| masks | pixels | windows | mean hidden | 1-10 % | 10-50 % | 50-90 % | >90 % "
            "| fractal dimension | edges / hidden pixel |", "|---" * 10 + "|"]  # fmt: skip
    figure, axes = plt.subplots(2, 6, figsize=(9.0, 3.4), layout="constrained")
    for size, count in ((64, 600), (224, 200)):
        sets = {"real HLS Fmask (2 tiles)": real_masks(size)}
        sets["world, all regions"] = cloud_masks(count, size=size, seed=1).values
        sets["world, equalised"] = cloud_masks(count, size=size, seed=1, equalise=True).values
        for name, masks in sets.items():
            cover, fractal, edges = mask_statistics(masks)
            bins = np.histogram(cover, (0, 0.1, 0.5, 0.9, 1.01))[0] / len(masks)
            cells = [name, str(size), str(len(masks)), f"{cover.mean():.2f}"]
            cells += [*(f"{b:.0%}" for b in bins), f"{fractal:.2f}", f"{edges:.2f}"]
            rows.append("| " + " | ".join(cells) + " |")
        if size == 64:
            continue
        for line, name in zip(axes, list(sets)[:2], strict=True):
            cover = sets[name].mean((1, 2))
            for ax, level in zip(line, (0.03, 0.12, 0.3, 0.5, 0.7, 0.9), strict=True):
                mask = sets[name][int(np.argmin(np.abs(cover - level)))]
                ax.imshow(mask, cmap="gray_r", vmin=0, vmax=1.3, interpolation="nearest")
                ax.set_title(f"{mask.mean():.0%}")
                ax.set_xticks([])
                ax.set_yticks([])
            line[0].set_ylabel(name.split(" (")[0].split(",")[0])
    figure.suptitle(f"World {VERSION}: hidden by cloud or shadow (dark), 224 pixels", fontsize=9)
    page.save(figure, "masks", 16)
    return "\n".join(rows)
