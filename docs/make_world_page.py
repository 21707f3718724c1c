"""Make the figures and tables of docs/world.md from the world and from real data.

    GEOWB_DATA=FOLDER python docs/make_world_page.py [events]

With `events` only the part on floods, fires, crops and masks is made (docs/make_world_events.py).
FOLDER holds the test data sets that the page compares with. Tables go between the page's
markers, figures into docs/figures.
"""

from __future__ import annotations

import datetime as dt
import io
import os
import sys
import zipfile
from pathlib import Path

import matplotlib as mpl
import numpy as np
from scipy import ndimage

from geowb.bands import HLS6, STATISTICS
from geowb.world import VERSION, scene
from geowb.world.land import CLASSES

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

DOCS = Path(__file__).parent
#: The regions of version 1.0, which the tables compare.
BIOMES = ("amazonia", "cerrado", "mata_atlantica")
NIR, RED = HLS6.index("NIR_NARROW"), HLS6.index("RED")
# Okabe-Ito colours
COLOUR = {"amazonia": "#009E73", "cerrado": "#D55E00", "mata_atlantica": "#0072B2",
          "great_plains": "#CC79A7"}  # fmt: skip
REAL = "#000000"
COVER = ("#00441b", "#41ab5d", "#a6761d", "#d9d08f", "#c7eae5", "#ffe680",
         "#cc79a7", "#253494", "#e6550d", "#999999", "#2b8cbe")  # fmt: skip
NAMES = {"amazonia": "Amazonia", "cerrado": "Cerrado", "mata_atlantica": "Mata Atlantica"}
plt.rcParams.update({"font.size": 8, "axes.titlesize": 8, "legend.fontsize": 7, "figure.dpi": 100})


# --- real data


def real(*parts: str) -> Path:
    """Path of a real file."""
    return Path(os.environ["GEOWB_DATA"]).joinpath(*parts)


def tif(*parts: str) -> np.ndarray:
    """Read a real raster, (band, y, x)."""
    import rasterio

    with rasterio.open(real(*parts)) as src:
        return src.read()


def biomassters(month: str) -> tuple[np.ndarray, np.ndarray]:
    """Six bands and biomass, averaged from 10 m to 30 m."""
    bands = tif("biomassters_0060c0a5", f"0060c0a5_S2_{month}.tif").astype(float)
    agb = tif("biomassters_0060c0a5", "0060c0a5_agbm.tif").astype(float)
    stack = np.concatenate([bands[[0, 1, 2, 7, 8, 9]], agb])[:, :255, :255]
    stack = stack.reshape(7, 85, 3, 85, 3).mean((2, 4))
    return stack[:6], stack[6]


def texas() -> tuple[np.ndarray, np.ndarray]:
    """Six bands and sparse biomass of the HLS-GEDI chip."""
    label = tif("agb_hls_gedi", "south_texas_label.tif")[0].astype(float)
    bands = tif("agb_hls_gedi", "south_texas_input.tif")[1:7].astype(float)
    return bands, np.where(label < 0, np.nan, label)


def landsat() -> tuple[np.ndarray, np.ndarray]:
    """Days (ordinal) and (band, date, pixel) of the Landsat series."""
    data = np.load(real("landsat_series", "p013r030_r50_n423_b8.npz"), allow_pickle=True)
    return data["dates"], data["Y"].astype(float)


def fmask_windows() -> list[np.ndarray]:
    """All whole 512-pixel windows of the real Fmask tiles."""
    windows = []
    for path in sorted(real("hls_fmask").glob("*.tif")):
        tile = tif("hls_fmask", path.name)[0]
        for row in range(0, 3584, 512):
            for col in range(0, 3584, 512):
                window = tile[row : row + 512, col : col + 512]
                if not (window == 255).any():
                    windows.append(window)
    return windows


def gedi_granule() -> dict[str, dict[str, np.ndarray]]:
    """Columns of each beam of the L4A granule."""
    import h5py

    folder = real("gedi_l4a")
    with zipfile.ZipFile(next(folder.glob("*.zip"))) as archive:
        raw = io.BytesIO(archive.read(archive.namelist()[0]))
    names = (
        "agbd",
        "agbd_t_se",
        "l4_quality_flag",
        "lat_lowestmode",
        "lon_lowestmode",
        "sensitivity",
    )
    with h5py.File(raw) as file:
        return {b: {n: file[b][n][:] for n in names} for b in file if b.startswith("BEAM")}


# --- measures


def clear(mask: np.ndarray) -> np.ndarray:
    """Neither cloud nor shadow nor next to them."""
    return (mask & 0b1110) == 0


def cloud(mask: np.ndarray) -> np.ndarray:
    """Cloud bit of Fmask."""
    return (mask >> 1) & 1 == 1


def cloud_objects(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Area and perimeter (pixels) of each connected cloud."""
    labels, n = ndimage.label(cloud(mask))
    around, perimeter = np.pad(labels, 1), np.zeros(n + 1)
    for a, b in ((around[:-1], around[1:]), (around[:, :-1], around[:, 1:])):
        edge = a != b
        perimeter += np.bincount(a[edge], minlength=n + 1) + np.bincount(b[edge], minlength=n + 1)
    return np.bincount(labels.ravel(), minlength=n + 1)[1:], perimeter[1:]


def shape_statistics(masks: list[np.ndarray]) -> dict:
    """Sizes and shapes of the clouds of many windows."""
    sizes = [cloud_objects(m) for m in masks]
    area, perimeter = (np.concatenate([s[i] for s in sizes]) for i in (0, 1))
    big = area >= 16
    share = np.array([cloud(m).mean() for m in masks])
    shadow = np.mean([((m >> 3) & 1).mean() for m in masks])
    near = np.mean([((m >> 2) & 1).mean() for m in masks])
    return {
        "area": area[big], "perimeter": perimeter[big], "share": share,
        "fractal": 2 * np.polyfit(np.log(area[big]), np.log(perimeter[big]), 1)[0],
        "exponent": 1 + big.sum() / np.log(area[big] / 15.5).sum(),
        "shadow": shadow / share.mean(), "near": near / share.mean(),
    }  # fmt: skip


def autocorrelation(band: np.ndarray, lag: int) -> float:
    """Correlation of pixels `lag` apart along rows and columns."""
    a = band - band.mean()
    pairs = (a[:, :-lag] * a[:, lag:]).mean() + (a[:-lag] * a[lag:]).mean()
    return float(pairs / 2 / (a * a).mean())


def harmonic_residual(days: np.ndarray, values: np.ndarray) -> float:
    """Robust standard deviation about a harmonic year with a trend."""
    w = 2 * np.pi / 365.25 * days
    waves = [f(k * w) for k in (1, 2) for f in (np.cos, np.sin)]
    terms = np.stack([np.ones_like(w), days - days.mean(), *waves], 1)
    fit = terms @ np.linalg.lstsq(terms, values, rcond=None)[0]
    return float(1.4826 * np.median(np.abs(values - fit)))


def months(times: np.ndarray) -> np.ndarray:
    """Month, 0-11."""
    return times.astype("M8[M]").astype(int) % 12


def composite(ds: object) -> np.ndarray:
    """Mean of the clear dates; NaN where there is none."""
    ok = clear(ds.fmask.values)[:, None]
    return np.where(ok, ds.reflectance.values, 0).sum(0) / np.where(ok.any(0), ok.sum(0), np.nan)


# --- figures


def save(figure: plt.Figure, name: str, colours: int = 128) -> None:
    """Write a PNG with a palette, so that it stays small."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    path = DOCS / "figures" / f"world_{name}.png"
    path.parent.mkdir(exist_ok=True)
    image = Image.open(buffer).convert("RGB")
    image.quantize(colours, kmeans=2, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def rgb(counts: np.ndarray, bands: tuple[int, int, int], top: tuple[float, ...]) -> np.ndarray:
    """Stretch three bands for the eye."""
    picture = np.moveaxis(counts[list(bands)], 0, -1) / np.array(top)
    return np.clip(picture, 0, 1) ** 0.65


def picture_region(region: str, seed: int) -> None:
    """Three dates, false colour, land cover and biomass of one scene."""
    ds = scene(region, seed=seed)
    figure, axes = plt.subplots(2, 3, figsize=(7.6, 5.6), layout="constrained")
    half = 512 * 30 / 2000
    for t, ax in enumerate(axes[0]):
        ax.imshow(
            rgb(ds.reflectance.values[t], (2, 1, 0), (2600, 2300, 2000)),
            extent=(0, 2 * half, 0, 2 * half),
        )
        cover = cloud(ds.fmask.values[t]).mean()
        ax.set_title(
            f"{str(ds.time.values[t])[:10]} {ds.sensor.values[t]}, Fmask cloud {cover:.0%}"
        )
    best = int(np.argmax(clear(ds.fmask.values).mean((1, 2))))
    ax = axes[1, 0]
    ax.imshow(
        rgb(ds.reflectance.values[best], (4, 3, 2), (4200, 4800, 2400)),
        extent=(0, 2 * half, 0, 2 * half),
    )
    ax.set_title(f"SWIR 1 / NIR / red, {str(ds.time.values[best])[:10]}")
    ax = axes[1, 1]
    present = [c for c in range(len(CLASSES)) if (ds.landcover.values == c).mean() > 0.002]
    ax.imshow(
        ds.landcover,
        cmap=ListedColormap(COVER),
        vmin=-0.5,
        vmax=10.5,
        interpolation="nearest",
        extent=(0, 2 * half, 0, 2 * half),
    )
    ax.set_title("land cover")
    handles = [Patch(color=COVER[c], label=CLASSES[c].replace("_", " ")) for c in present]
    figure.legend(handles=handles, ncols=min(8, len(handles)), loc="outside lower center")
    ax = axes[1, 2]
    image = ax.imshow(
        ds.agb_dense, cmap="cividis", vmin=0, vmax=350, extent=(0, 2 * half, 0, 2 * half)
    )
    rows, cols = np.nonzero(np.isfinite(ds.agb.values))
    ax.plot((cols + 0.5) * 0.03, 2 * half - (rows + 0.5) * 0.03, ".", color="white", ms=0.7)
    ax.set_title(f"biomass; white: {rows.size} GEDI shots")
    figure.colorbar(image, ax=ax, shrink=0.8, label="Mg/ha")
    for ax in axes.flat:
        ax.set_xticks([0, 5, 10, 15])
        ax.set_yticks([0, 5, 10, 15])
        ax.tick_params(labelsize=6)
    axes[1, 0].set_xlabel("km")
    axes[1, 0].set_ylabel("km")
    figure.suptitle(f"World {VERSION}: {region}, seed {seed}", fontsize=9)
    save(figure, region, 250)


def picture_clouds(ours: dict[str, list], theirs: list[np.ndarray]) -> str:
    """Masks side by side, and their statistics."""
    code = ListedColormap(["#f7f7f7", "#fdb863", "#2c3e50", "#4393c3"])

    def simple(mask: np.ndarray) -> np.ndarray:
        return np.where(
            cloud(mask), 3, np.where((mask >> 3) & 1, 2, np.where((mask >> 2) & 1, 1, 0))
        )

    figure = plt.figure(figsize=(8.2, 6.4), layout="constrained")
    grid = figure.add_gridspec(3, 4, height_ratios=(1, 1, 1.15))
    pool = [m for masks in ours.values() for m in masks]
    for row, (label, masks) in enumerate((("real HLS", theirs), ("world", pool))):
        chosen = sorted(masks, key=lambda m: cloud(m).mean())
        share = np.array([cloud(m).mean() for m in chosen])
        for col, level in enumerate((0.05, 0.15, 0.35, 0.6)):
            mask = chosen[int(np.argmin(np.abs(share - level)))]
            ax = figure.add_subplot(grid[row, col])
            ax.imshow(
                simple(mask),
                cmap=code,
                vmin=0,
                vmax=3,
                interpolation="nearest",
                extent=(0, 15.4, 0, 15.4),
            )
            ax.set_title(f"{label}, cloud {cloud(mask).mean():.0%}")
            ax.set_xticks([0, 15])
            ax.set_yticks([0, 15])
            if col == 0:
                ax.set_ylabel("km")
    handles = [
        Patch(color=code(i), label=n)
        for i, n in ((3, "cloud"), (2, "shadow"), (1, "adjacent"), (0, "clear"))
    ]
    figure.legend(handles=handles, ncols=4, loc="outside lower center")
    left, right = figure.add_subplot(grid[2, :2]), figure.add_subplot(grid[2, 2:])
    rows = []
    tables = {
        "real HLS Fmask (2 tiles)": (REAL, theirs),
        **{f"world, {r}": (COLOUR[r], m) for r, m in ours.items()},
    }
    for name, (colour, masks) in tables.items():
        s = shape_statistics(masks)
        left.plot(
            s["area"] * 9e-4,
            s["perimeter"] * 0.03,
            ".",
            ms=3 if colour == REAL else 2,
            color=colour,
            alpha=0.6,
        )
        order = np.sort(s["area"] * 9e-4)
        right.plot(
            order,
            1 - np.arange(order.size) / order.size,
            color=colour,
            label=name,
            lw=2 if colour == REAL else 1.2,
        )
        bins = np.histogram(s["share"], (0, 0.01, 0.1, 0.5, 1.1))[0] / len(masks)
        cells = [name, str(len(masks)), f"{s['share'].mean():.2f}", *(f"{b:.0%}" for b in bins)]
        cells += [f"{s[key]:.2f}" for key in ("fractal", "exponent", "shadow", "near")]
        rows.append("| " + " | ".join(cells) + " |")
    for ax, x, y in (
        (left, "area (km²)", "perimeter (km)"),
        (right, "area (km²)", "share of clouds larger"),
    ):
        ax.set(xscale="log", yscale="log", xlabel=x, ylabel=y)
    right.legend()
    save(figure, "clouds", 64)
    head = (
        "| masks | windows | mean cloud | <1 % | 1-10 % | 10-50 % | >50 % | fractal dimension "
        "| size exponent | shadow / cloud | adjacent / cloud |\n" + "|---" * 11 + "|"
    )
    return "\n".join([head, *rows])


def picture_seasons(years: dict) -> str:
    """Season of NDVI, of cloud, and how covers are distributed."""
    dates, series = landsat()
    when = np.array([dt.date.fromordinal(int(d)) for d in dates], "M8[D]")
    month, mask = months(when), series[7]
    figure, axes = plt.subplots(1, 3, figsize=(8.2, 2.9), layout="constrained")
    axis = np.arange(1, 13)

    def monthly(values: np.ndarray, of: np.ndarray, fn: object) -> np.ndarray:
        return np.array([
            fn(values[of == m]) if np.isfinite(values[of == m]).any() else np.nan for m in range(12)
        ])  # fmt: skip

    ok = (mask <= 1) & (series[3] > 0) & (series[2] > 0)
    ndvi = np.where(ok, (series[3] - series[2]) / np.maximum(series[3] + series[2], 1), np.nan)
    axes[0].plot(
        axis,
        monthly(ndvi, month, np.nanmedian),
        "o-",
        color=REAL,
        ms=3,
        label="real, temperate (Landsat)",
    )
    seen = mask != 255
    real_cloud = np.array(
        [
            (row[s] == 4).mean() if s.mean() > 0.5 else np.nan
            for row, s in zip(mask, seen, strict=True)
        ]
    )
    axes[1].plot(axis, monthly(real_cloud, month, np.nanmean), "o-", color=REAL, ms=3)
    bins = np.array([0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.001])
    middle = np.arange(6)
    known = real_cloud[np.isfinite(real_cloud)]
    groups = {"real, temperate (Landsat)": (REAL, known)}
    amplitude = {}
    for region, ds in years.items():
        counts, bits, of = ds.reflectance.values, ds.fmask.values, months(ds.time.values)
        free, cover = clear(bits), cloud(bits).mean((1, 2))
        groups[region] = (COLOUR[region], cover)
        axes[1].plot(axis, monthly(cover, of, np.mean), "o-", color=COLOUR[region], ms=3)
        for name, style in (("forest", "-"), ("pasture", "--")):
            where = ds.landcover.values == CLASSES.index(name)
            value = (counts[:, NIR] - counts[:, RED]) / (counts[:, NIR] + counts[:, RED])
            value = np.where(free & where, value, np.nan)
            curve = monthly(value, of, np.nanmedian)
            amplitude[region, name] = np.nanmin(curve), np.nanmax(curve)
            axes[0].plot(axis, curve, style, color=COLOUR[region], label=f"{NAMES[region]} {name}")
    width = 0.2
    for number, (_, (colour, values)) in enumerate(groups.items()):
        share = np.histogram(values, bins)[0] / values.size
        axes[2].bar(middle + (number - 1.5) * width, share, width, color=colour)
    axes[2].set_xticks(middle, ["<5", "5-25", "25-50", "50-75", "75-95", ">95"])
    axes[0].set(ylabel="NDVI, monthly median", xlabel="month", ylim=(0, 1))
    axes[1].set(ylabel="mean cloud fraction", xlabel="month", ylim=(0, 1))
    axes[2].set(ylabel="share of dates", xlabel="cloud fraction of the window (%)")
    for ax in axes[:2]:
        ax.set_xticks([1, 4, 7, 10])
    figure.legend(*axes[0].get_legend_handles_labels(), ncols=4, loc="outside lower center")
    save(figure, "seasons", 64)

    rows = [
        "| series | dates | mean cloud | <5 % | >95 % | NDVI, lowest to highest month |",
        "|---" * 6 + "|",
    ]
    curve = monthly(ndvi, month, np.nanmedian)
    for name, (_, values) in groups.items():
        if name in years:
            what = "; ".join(
                f"{n} {amplitude[name, n][0]:.2f}-{amplitude[name, n][1]:.2f}"
                for n in ("forest", "pasture")
            )
        else:
            what = f"{np.nanmin(curve):.2f}-{np.nanmax(curve):.2f}"
        rows.append(
            f"| {name} | {values.size} | {values.mean():.2f} | {(values < 0.05).mean():.0%} "
            f"| {(values >= 0.95).mean():.0%} | {what} |"
        )
    return "\n".join(rows)


def table_residuals(years: dict) -> str:
    """Scatter of single clear dates about the season."""
    dates, series = landsat()
    rows = ["| series | " + " | ".join(HLS6) + " |", "|---" * 7 + "|"]
    values = []
    for pixel in range(0, 300, 6):
        ok = (series[7][:, pixel] <= 1) & (series[0][:, pixel] < 1500) & (series[3][:, pixel] > 0)
        values.append(
            [harmonic_residual(dates[ok].astype(float), series[b][ok, pixel]) for b in range(6)]
        )
    rows.append(
        "| real, temperate (Landsat, 30 years) | "
        + " | ".join(f"{v:.0f}" for v in np.mean(values, 0))
        + " |"
    )
    for region, ds in years.items():
        free, days = clear(ds.fmask.values), ds.time.values.astype("M8[D]").astype(float)
        counts, values = ds.reflectance.values.astype(float), []
        for y in range(8, ds.sizes["y"], 16):
            for x in range(8, ds.sizes["x"], 16):
                ok = free[:, y, x]
                if ok.sum() >= 20:
                    values.append(
                        [harmonic_residual(days[ok], counts[ok, b, y, x]) for b in range(6)]
                    )
        rows.append(
            f"| world, {region} (1 year) | "
            + " | ".join(f"{v:.0f}" for v in np.mean(values, 0))
            + " |"
        )
    return "\n".join(rows)


def tables_bands(images: dict[str, np.ndarray]) -> tuple[str, str]:
    """Mean and spread of the bands; correlation in space and between bands."""
    first = ["| image | " + " | ".join(HLS6) + " |", "|---" * 7 + "|"]
    granite = STATISTICS["granite_agb"]
    published = [f"{m:.0f} ± {s:.0f}" for m, s in zip(granite.mean, granite.std, strict=True)]
    name = "published statistics of Granite biomass (15 biomes)"
    first.append(f"| {name} | " + " | ".join(published) + " |")
    second = [
        "| image | NIR 1 px | 2 px | 5 px | 10 px | SWIR 1 1 px | 5 px | red-NIR | red-SWIR 2 |",
        "|---" * 9 + "|",
    ]
    for name, counts in images.items():
        first.append(
            f"| {name} | " + " | ".join(f"{b.mean():.0f} ± {b.std():.0f}" for b in counts) + " |"
        )
        r = np.corrcoef(counts.reshape(6, -1))
        lags = [autocorrelation(counts[NIR], lag) for lag in (1, 2, 5, 10)]
        lags += [autocorrelation(counts[4], lag) for lag in (1, 5)] + [r[RED, NIR], r[RED, 5]]
        second.append(f"| {name} | " + " | ".join(f"{v:.2f}" for v in lags) + " |")
    return "\n".join(first), "\n".join(second)


def picture_biomass(scenes: dict) -> str:
    """How the bands follow biomass: here, and in BioMassters."""
    show = ("RED", "NIR_NARROW", "SWIR_1")
    figure, axes = plt.subplots(1, 4, figsize=(8.2, 2.8), layout="constrained")
    edges = np.arange(0, 401, 20.0)
    rows = ["| data | biomass | " + " | ".join(HLS6) + " |", "|---" * 8 + "|"]
    bands, agb = biomassters("08")
    trees = agb > 5
    data = {"BioMassters, May (real, Finland)": (REAL, bands[:, trees], agb[trees], np.zeros(0))}
    for region, ds in scenes.items():
        mean, truth = composite(ds), ds.agb_dense.values
        woody = np.isin(ds.landcover.values, [0, 1, 2]) & np.isfinite(mean).all(0)
        nir = np.where(woody, mean[NIR], np.nanmean(mean[NIR]))
        rough = np.abs(nir - ndimage.uniform_filter(nir, 3))
        inner = ndimage.binary_erosion(woody, iterations=2)
        data[f"world, {region}"] = (
            COLOUR[region],
            mean[:, woody],
            truth[woody],
            (rough[inner], truth[inner]),
        )
    for name, (colour, counts, agb, texture) in data.items():
        which = np.digitize(agb, edges) - 1
        good = [k for k in range(edges.size - 1) if (which == k).sum() >= 60]
        for ax, band in zip(axes, show, strict=False):
            ax.plot(
                edges[good] + 10,
                [np.median(counts[HLS6.index(band)][which == k]) for k in good],
                color=colour,
                label=name,
                lw=2 if colour == REAL else 1.4,
            )
        if len(texture):
            which = np.digitize(texture[1], edges) - 1
            good = [k for k in range(edges.size - 1) if (which == k).sum() >= 60]
            axes[3].plot(
                edges[good] + 10, [texture[0][which == k].mean() for k in good], color=colour
            )
        for low, high in ((5, 100), (100, 200), (200, 400)):
            some = (agb >= low) & (agb < high)
            if some.sum() >= 200:
                r = [np.corrcoef(b[some], agb[some])[0, 1] for b in counts]
                rows.append(
                    f"| {name} | {low}-{high} (n {some.sum()}) | "
                    + " | ".join(f"{v:+.2f}" for v in r)
                    + " |"
                )
    for ax, band in zip(axes, show, strict=False):
        ax.set(title=f"{band}, median", xlabel="biomass (Mg/ha)", ylabel="counts")
    axes[3].set(title="NIR texture, 3 x 3 pixels", xlabel="biomass (Mg/ha)", ylabel="counts")
    figure.legend(*axes[0].get_legend_handles_labels(), ncols=4, loc="outside lower center")
    save(figure, "biomass", 64)
    return "\n".join(rows)


def picture_gedi(scenes: dict) -> str:
    """Where shots fall and what they measure."""
    _, label = texas()
    granule = gedi_granule()
    figure, axes = plt.subplots(1, 4, figsize=(9.6, 2.6), layout="constrained")
    rows = [
        "| shots | number | share of pixels | mean | SD | 5 % | 50 % | 95 % |",
        "|---" * 8 + "|",
    ]

    def add(name: str, values: np.ndarray, share: float | None = None) -> None:
        q = np.quantile(values, [0.05, 0.5, 0.95])
        text = "-" if share is None else f"{share:.2%}"
        rows.append(
            f"| {name} | {values.size} | {text} | {values.mean():.0f} | {values.std():.0f} | "
            + " | ".join(f"{v:.0f}" for v in q)
            + " |"
        )

    good = np.concatenate([g["agbd"][g["l4_quality_flag"] == 1] for g in granule.values()])
    add("real GEDI L4A, central Amazon, quality flag 1", good)
    for region, ds in scenes.items():
        shots = ds.agb.values
        add(f"world, {region}", shots[np.isfinite(shots)], np.isfinite(shots).mean())
        tall = np.isfinite(shots) & (ds.landcover.values == 0)
        add(f"world, {region}, forest only", shots[tall])
    add("real HLS-GEDI chip, south Texas", label[np.isfinite(label)], np.isfinite(label).mean())
    window = scenes["cerrado"].agb.values
    counts = [
        (np.isfinite(window[i : i + 224, j : j + 224]).sum(), i, j)
        for i in range(0, 289, 32)
        for j in range(0, 289, 32)
    ]
    _, i, j = min(counts, key=lambda c: abs(c[0] - 246))
    for ax, shots, title in (
        (axes[0], label, "real chip, south Texas"),
        (axes[1], window[i : i + 224, j : j + 224], "world, cerrado (cut)"),
    ):
        y, x = np.nonzero(np.isfinite(shots))
        dots = ax.scatter(
            (x + 0.5) * 0.03, (224 - y) * 0.03, s=3, c=shots[y, x], cmap="cividis", vmin=0, vmax=40
        )
        ax.set(
            title=f"{title}: {y.size} shots",
            xlim=(0, 6.72),
            ylim=(0, 6.72),
            aspect="equal",
            xlabel="km",
        )
    figure.colorbar(dots, ax=axes[1], shrink=0.7, label="Mg/ha", extend="max")
    edges = np.arange(0, 801, 40)
    amazon = scenes["amazonia"]
    tall = amazon.agb.values[np.isfinite(amazon.agb.values) & (amazon.landcover.values == 0)]
    axes[2].hist(
        good, edges, density=True, histtype="step", color=REAL, label="real, central Amazon"
    )
    axes[2].hist(
        tall,
        edges,
        density=True,
        histtype="step",
        color=COLOUR["amazonia"],
        label="world, amazonia forest",
    )
    axes[2].set(xlabel="biomass of shots (Mg/ha)", ylabel="density (ha/Mg)", yticks=[])
    axes[2].legend(loc="upper right", fontsize=6)
    for region, ds in scenes.items():
        ok = np.isfinite(ds.agb.values)
        axes[3].plot(
            ds.agb_dense.values[ok],
            ds.agb.values[ok],
            ".",
            ms=1,
            color=COLOUR[region],
            label=NAMES[region],
        )
    axes[3].plot([0, 500], [0, 500], color=REAL, lw=0.6)
    axes[3].set(xlabel="truth (Mg/ha)", ylabel="shot (Mg/ha)", xlim=(0, 450), ylim=(0, 700))
    axes[3].legend(markerscale=5, fontsize=6)
    save(figure, "gedi", 96)
    for region, ds in scenes.items():
        ok = np.isfinite(ds.agb.values)
        error = (ds.agb.values - ds.agb_dense.values)[ok]
        rms, bias = np.sqrt((error**2).mean()), error.mean()
        rows.append(
            f"\nShots against truth, {region}: RMSE {rms:.1f} Mg/ha, bias {bias:+.1f} Mg/ha."
        )
    from pyproj import Transformer

    to_utm = Transformer.from_crs(4326, 32721, always_xy=True)
    steps, headings = [], []
    for beam in granule.values():
        x, y = to_utm.transform(beam["lon_lowestmode"], beam["lat_lowestmode"])
        steps.append(np.median(np.hypot(np.diff(x), np.diff(y))))
        headings.append(np.degrees(np.arctan2(x[-1] - x[0], y[-1] - y[0])))
    se = np.median(np.concatenate([g["agbd_t_se"] for g in granule.values()]))
    coverage = {b for b in granule if b[4:7] in ("000", "001")}
    kept = {}
    for name, beams in (("coverage", coverage), ("full power", set(granule) - coverage)):
        flags = np.concatenate([granule[b]["l4_quality_flag"] for b in beams])
        kept[name] = flags.mean()
    passed = " and ".join(f"{v:.0%} of {k} shots" for k, v in kept.items())
    rows.append(
        f"\nReal granule: footprints {np.median(steps):.1f} m apart, heading "
        f"{np.median(headings):.1f} degrees, standard error {se:.2f} in the square root of "
        f"biomass, quality flag 1 for {passed}."
    )
    return "\n".join(rows)


def table_transfer() -> str:
    """Extra trees on the shots of four scenes, tested on the truth of a fifth."""
    from sklearn.ensemble import ExtraTreesRegressor

    def features(ds: object) -> tuple[np.ndarray, np.ndarray]:
        mean = composite(ds)
        ok = np.isfinite(mean).all(0)
        filled = np.where(ok, mean, np.nanmean(mean, (1, 2))[:, None, None])
        local = ndimage.uniform_filter(filled, (0, 5, 5))
        spread = np.sqrt(np.maximum(ndimage.uniform_filter(filled**2, (0, 5, 5)) - local**2, 0))
        return np.concatenate([filled, local, spread]).reshape(18, -1).T, ok.ravel()

    train, test = {}, {}
    for region in BIOMES:
        x, y = [], []
        for seed in (10, 11, 12, 13):
            ds = scene(region, seed=seed)
            values, ok = features(ds)
            shots = ds.agb.values.ravel()
            use = ok & np.isfinite(shots)
            x.append(values[use])
            y.append(shots[use])
        train[region] = np.concatenate(x), np.concatenate(y)
        ds = scene(region, seed=20)
        values, ok = features(ds)
        use = np.flatnonzero(ok)[::5]
        test[region] = values[use], ds.agb_dense.values.ravel()[use]
    rows = [
        "| trained on | " + " | ".join(f"tested on {r}" for r in BIOMES) + " |",
        "|---" * 4 + "|",
    ]
    for one, (x, y) in train.items():
        model = ExtraTreesRegressor(100, min_samples_leaf=5, random_state=0).fit(x, y)
        cells = []
        for values, truth in test.values():
            error = model.predict(values) - truth
            cells.append(f"{np.sqrt((error**2).mean()):.0f} (bias {error.mean():+.0f})")
        rows.append(f"| {one} | " + " | ".join(cells) + " |")
    spread = " | ".join(f"{truth.std():.0f}" for _, truth in test.values())
    return "\n".join([*rows, f"| *spread (SD) of the truth* | {spread} |"])


def inject(tables: dict[str, str]) -> None:
    """Put the tables between the page's markers."""
    page = DOCS / "world.md"
    text = page.read_text()
    for name, table in tables.items():
        start, end = f"<!-- {name} -->", f"<!-- end {name} -->"
        head, rest = text.split(start)
        text = f"{head}{start}\n\n{table}\n\n{end}{rest.split(end)[1]}"
    page.write_text(text)


def main() -> None:
    """Make everything."""
    if not os.environ.get("GEOWB_DATA"):
        sys.exit("Set GEOWB_DATA to the folder with the real test data.")
    import make_world_events

    inject(make_world_events.tables())
    if sys.argv[1:] == ["events"]:
        return
    for region, seed in (("amazonia", 2), ("cerrado", 5), ("mata_atlantica", 3)):
        picture_region(region, seed)
    scenes = {region: scene(region, seed=2, gedi_fraction=0.005) for region in BIOMES}
    everything = {"size": 512, "dates": 24, "every": 15, "start": "2022-01-01", "max_cloud": 1.0}
    skies = {r: list(scene(r, seed=7, gedi_fraction=0, **everything).fmask.values) for r in BIOMES}
    years = {
        r: scene(r, seed=7, size=160, dates=110, every=3, start="2022-01-01", max_cloud=1.0)
        for r in BIOMES
    }
    images = {"real HLS chip, south Texas": texas()[0]}
    images["real BioMassters at 30 m, May"] = biomassters("08")[0]
    images["real BioMassters at 30 m, June"] = biomassters("09")[0]
    for region in BIOMES:
        for seed in (2, 5):
            ds = scene(region, seed=seed, size=224, clouds=False, dates=3)
            images[f"world, {region}, seed {seed}"] = ds.reflectance.values.mean(0)
    bands, texture = tables_bands(images)
    tables = {
        "clouds": picture_clouds(skies, fmask_windows()),
        "seasons": picture_seasons(years),
        "residuals": table_residuals(years),
        "bands": bands,
        "texture": texture,
        "biomass": picture_biomass(scenes),
        "gedi": picture_gedi(scenes),
        "transfer": table_transfer(),
    }
    for name, table in tables.items():
        print(f"\n## {name}\n{table}")
    if (DOCS / "world.md").exists():
        inject(tables)


if __name__ == "__main__":
    main()
