"""The biomass study as its users meet it: wrong requests, real data, labels that are not there."""

import functools
import hashlib
import http.server
import io
import json
import re
import subprocess
import sys
import tarfile
import textwrap
import threading
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import rioxarray
import xarray as xr
from pyproj import Transformer
from scenes import scene

from geowb.labels.granule import BEAMS as GEDI_BEAMS
from geowb.labels.granule import write_granule

ROOT = Path(__file__).parent.parent
BANDS = ["BLUE", "GREEN", "RED", "NIR_NARROW", "SWIR_1", "SWIR_2"]


def geowb(*words, cwd, timeout=300):
    command = [sys.executable, "-m", "geowb.cli", *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, timeout=timeout, check=False
    )


def write_raster(file, values, *, crs=32722, descriptions=None, shift=0.0):
    """Write (band, y, x) to a GeoTIFF of 30 m."""
    _, height, width = values.shape
    coords = {"y": 7e6 - 30.0 * np.arange(height), "x": 5e5 + shift + 30.0 * np.arange(width)}
    array = xr.DataArray(values.astype("float32"), dims=("band", "y", "x"), coords=coords)
    array = array.rio.write_crs(crs) if crs else array
    if descriptions:
        array.attrs["long_name"] = tuple(descriptions)
    array.rio.to_raster(file)


CATALOG = """
    plots:
      uri: image.tif
      driver:
        name: raster
        options:
          bands: [BLUE, GREEN, RED, NIR_NARROW, SWIR_1, SWIR_2]
          labels: {agb: {uri: label.tif, nodata: -1}}
      metadata: {nodata: -9999}
"""


@pytest.fixture
def folder(tmp_path):
    """A scene with labels, as a catalog entry of its own."""
    made = scene(64, 64, density=0.3)
    write_raster(tmp_path / "image.tif", made.reflectance.values[0])
    write_raster(tmp_path / "label.tif", np.nan_to_num(made.agb.values, nan=-1)[None])
    (tmp_path / "catalog.yaml").write_text(textwrap.dedent(CATALOG))
    return tmp_path


def break_unknown_key(folder):
    text = (folder / "catalog.yaml").read_text()
    (folder / "catalog.yaml").write_text(text.replace("  uri: image", "  urii: image"))


def break_no_raster(folder):
    (folder / "image.tif").write_text("This is no raster.")


def break_band_count(folder):
    write_raster(folder / "image.tif", np.ones((5, 64, 64)))


def break_band_order(folder):
    write_raster(folder / "image.tif", np.ones((6, 64, 64)), descriptions=BANDS[::-1])


def break_crs(folder):
    write_raster(folder / "image.tif", np.ones((6, 64, 64)), crs=None)


def break_grid(folder):
    write_raster(folder / "label.tif", np.ones((1, 64, 64)), shift=300.0)


def break_file(folder):
    (folder / "image.tif").unlink()


def break_weights(folder):
    """A U-Net's model file, by its header alone."""
    header = json.dumps({"network.x": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}})
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header.encode())
    (folder / "model.json").write_text('{"name": "unet"}')


def break_granule(folder):
    """A granule in which no shot passes the quality flag."""
    made = scene(32, 32, density=0.1)
    made["agb_se"] = made["agb"] * 0 + 5
    file = write_granule(made, folder / "gedi.h5")
    with h5py.File(file, "a") as granule:
        for beam in GEDI_BEAMS:
            granule[beam]["l4_quality_flag"][:] = 0


def write_plots(folder, lon="lon", lat="lat", crs=4326):
    """A table of plots on the scene of the fixture `folder`."""
    made = scene(64, 64, density=0.3)
    rows, cols = np.nonzero(np.isfinite(made.agb.values))
    to = Transformer.from_crs(32722, crs, always_xy=True)
    x, y = to.transform(5e5 + 30.0 * cols, 7e6 - 30.0 * rows)
    plots = pd.DataFrame({lon: x, lat: y, "biomass": made.agb.values[rows, cols]})
    plots.to_csv(folder / "plots.csv", index=False)
    return plots


def break_degrees(folder):
    write_plots(folder, crs=32722)


def break_order(folder):
    plots = write_plots(folder)
    plots.assign(lon=plots.lat, lat=plots.lon - 60).to_csv(folder / "plots.csv", index=False)


OWN = ("-p", "catalog=catalog.yaml", "-p", "data=plots")
WRONG = {
    "study": (None, ["agb_transfr"], "agb_transfer"),
    "parameter": (None, ["agb_transfer", "-p", "epochz=9"], "epochs"),
    "type": (None, ["agb_transfer", "-p", "epochs=ten"], "'ten'"),
    "entry": (None, ["agb_transfer", "-p", "data=wrold"], "'world'"),
    "region": (None, ["agb_transfer", "-p", "regions=cerado"], "cerrado"),
    "key": (break_unknown_key, ["agb_transfer", *OWN], "urii"),
    "file": (break_file, ["agb_transfer", *OWN], "image.tif"),
    "no raster": (break_no_raster, ["agb_transfer", *OWN], "image.tif"),
    "band count": (break_band_count, ["agb_transfer", *OWN], "5"),
    "band order": (break_band_order, ["agb_transfer", *OWN], "SWIR_2"),
    "crs": (break_crs, ["agb_transfer", *OWN], "CRS"),
    "grid": (break_grid, ["agb_transfer", *OWN], "label.tif"),
    "no granule": (None, ["agb_transfer", "-p", "labels=gedi.h5"], "gedi.h5"),
    "granule": (break_granule, ["agb_transfer", "-p", "labels=gedi.h5"], "usable"),
    "kind of labels": (None, ["agb_transfer", "-p", "labels=plots.xlsx"], ".geojson"),
    "degrees": (break_degrees, ["agb_transfer", "-p", "labels=plots.csv"], "crs=32614"),
    "swapped": (break_order, ["agb_transfer", "-p", "labels=plots.csv"], "swapped"),
    "month": (None, ["agb_transfer", "-p", "months=13"], "13"),
    "no rate": (None, ["agb_transfer", "-p", "learning_rates=[]"], "1 item"),
    "arm": (None, ["agb_transfer", "-p", "arms=frozn"], "frozen"),
    "no weights": (None, ["agb_transfer", "-p", "encoder=prithvi_swin_B"], "weights"),
    "weights": (break_weights, ["agb_transfer", "-p", "weights=model.safetensors"], "'unet'"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_requests_are_found_before_anything_starts(folder, what):
    spoil, words, told = WRONG[what]
    if spoil:
        spoil(folder)
    before = sorted(folder.rglob("*"))
    done = geowb("run", *words, cwd=folder)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert sorted(folder.rglob("*")) == before


def test_labels_that_are_all_missing_fail_with_the_notebook_kept(folder):
    write_raster(folder / "label.tif", -np.ones((1, 64, 64)))
    done = geowb("run", "agb_transfer", *OWN, "-p", "chip_size=16", "-p", "epochs=1", cwd=folder)
    assert done.returncode == 1
    assert "label" in done.stderr.splitlines()[-1]
    (kept,) = (folder / "runs").iterdir()
    assert json.loads((kept / "run.json").read_text())["status"] == "failed"
    assert "DataError" in (kept / "notebook.ipynb").read_text()
    assert not list((folder / "runs").glob(".*"))


#: A run of the study that takes seconds: two arms, one pass.
SHORT = [word for p in ("chip_size=16", "epochs=1", "arms=unet,random", "detail=[]",
                        "label_curve=[]") for word in ("-p", p)]  # fmt: skip


def test_plots_of_one_s_own_become_the_labels(folder):
    text = (folder / "catalog.yaml").read_text()
    text = re.sub(r".*labels: .*\n", "", text)  # the entry has an image and no labels
    (folder / "catalog.yaml").write_text(text)
    plots = write_plots(folder, crs=32722)
    done = geowb("run", "agb_transfer", *OWN, *SHORT, cwd=folder)
    assert done.returncode == 2
    assert "no variable 'agb' and no 'agb_dense'" in done.stderr
    words = [*OWN, *SHORT, "-p", "labels=plots.csv", "-p", "labels_crs=EPSG:32722"]
    done = geowb("run", "agb_transfer", *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    run = Path(done.stdout.strip())
    notebook = (run / "notebook.ipynb").read_text()
    n = len(plots)
    assert f"{n:,} plots, {n:,} inside the scene, on {n:,} pixels" in notebook
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["rmse/swin_demo_random/all"]["value"] > 0
    assert "rmse/swin_demo/all" not in metrics
    record = json.loads((run / "run.json").read_text())["data"]["labels"]
    digest = hashlib.sha256((folder / "plots.csv").read_bytes()).hexdigest()
    assert record == {"entry": "plots.csv", "sha256": digest}


@pytest.mark.real
def test_a_granule_of_another_place_says_how_far_it_is(folder, geowb_data):
    (granule,) = (geowb_data / "gedi_l4a").glob("*.zip")
    words = [*OWN, *SHORT, "-p", f"labels={granule}"]
    done = geowb("run", "agb_transfer", *words, cwd=folder)
    assert done.returncode == 1
    told = re.search(r"the nearest is ([\d,]+) km (\S+) of the scene", done.stderr)
    # From 5.9254 S, 57.5 W or so to the scene at 27.1 S, 51 W: about 2,440 km.
    assert int(told[1].replace(",", "")) == pytest.approx(2440, rel=0.02)
    assert told[2].startswith("north")


ARCHIVE = """
    far:
      uri: far
      driver:
        name: archive
        options:
          files: [{{url: "{url}", path: far/images, digest: "{digest}", unpack: true}}]
          then: {{name: chips, options: {{images: "images/{{sample}}.tif", bands: [RED]}}}}
      metadata: {{crs: none}}
      twin: world
    world: {{driver: {{name: world, options: {{region: cerrado}}}}}}
"""


@pytest.fixture
def server(tmp_path):
    """Serves a folder on this machine: (folder, address)."""
    served = tmp_path / "served"
    served.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=served)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield served, f"http://127.0.0.1:{running.server_port}/data.tar.gz"
        running.shutdown()


def packed(member):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo(member))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("member", "digest", "told"),
    [
        ("a.tif", "sha256:" + 64 * "0", "sha256"),
        ("../a.tif", "unknown", "../a.tif"),
        (None, "unknown", "'world'"),
    ],
    ids=["checksum", "member that leaves", "no server"],
)
def test_downloads_that_fail_leave_nothing_half_done(
    tmp_path, server, monkeypatch, member, digest, told
):
    served, url = server
    if member:
        (served / "data.tar.gz").write_bytes(packed(member))
    else:
        url = "http://127.0.0.1:9/data.tar.gz"  # the discard port: nobody listens
    text = textwrap.dedent(ARCHIVE).format(url=url, digest=digest)
    (tmp_path / "catalog.yaml").write_text(text)
    monkeypatch.setenv("GEOWB_CACHE", str(tmp_path / "cache"))
    done = geowb("catalog", "get", "far", "--catalog", "catalog.yaml", cwd=tmp_path)
    assert done.returncode == 1
    assert told in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    names = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert "a.tif" not in names
    assert not (tmp_path / "cache" / "data" / "geowb" / "far").exists()


@pytest.fixture
def real_run(tmp_path, geowb_data):
    arguments = ["-p", "data=agb_south_texas", "-p", "epochs=3"]
    done = geowb("run", "agb_transfer", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


@pytest.mark.real
def test_the_real_chip_trains_and_gives_a_map_on_its_grid(real_run, geowb_data):
    run = real_run
    metrics = json.loads((run / "metrics.json").read_text())
    for arm in ("unet", "swin_demo"):
        assert 0 < metrics[f"rmse/{arm}/all"]["value"] < 100
        assert metrics[f"rmse/{arm}/all"]["unit"] == "Mg/ha"
        assert metrics[f"rmse/{arm}/200-300"]["value"] is None

    notebook = (run / "notebook.ipynb").read_text()
    assert "no pixels" in notebook
    assert "cannot show how the model does at another place" in notebook
    assert re.search(r"agb_south_texas +224 x 224 +246 +0\.49", notebook)

    image = rioxarray.open_rasterio(geowb_data / "agb_hls_gedi" / "south_texas_input.tif")
    for arm in ("unet", "swin_demo"):
        made = rioxarray.open_rasterio(run / "maps" / f"agb_south_texas-{arm}.tif")
        assert made.rio.crs == image.rio.crs
        assert made.rio.transform() == image.rio.transform()
        assert made.shape == (1, 224, 224)
        assert np.isfinite(made.values).all()

    import torch

    from geowb.models import load

    model = load(run / "models" / "unet")
    assert model.card["units"] == "Mg/ha"
    counts = torch.from_numpy(image.values[1:7].astype("float32"))[None, :, None]
    with torch.inference_mode():
        assert torch.isfinite(model(counts)).all()


def write_granite(root):
    """A tiny copy of the public archive: its names, channels, sentinels and published splits."""
    for number, split in enumerate(["train"] * 6 + ["val"] * 2 + ["test"] * 2):
        made = scene(32, 32, density=0.1, seed=number)
        image = np.zeros((11, 32, 32), "float32")
        image[1:7] = made.reflectance.values[0]
        image[:, :4] = -9999 if number == 0 else image[:, :4]
        label = np.nan_to_num(made.agb.values, nan=-1)[None]
        folder = root / "agb_granite" / "all_ecos_datasplit"
        for kind, values in (("image", image), ("label", label)):
            (folder / f"{split}_{kind}s").mkdir(parents=True, exist_ok=True)
            suffix = "img" if kind == "image" else "label"
            file = folder / f"{split}_{kind}s" / f"T10SFF_{number}_tile_{suffix}.tif"
            write_raster(file, values, crs=None)


def test_the_archive_s_layout_runs_as_the_paper_profile_would(tmp_path, monkeypatch):
    write_granite(tmp_path / "data")
    monkeypatch.setenv("GEOWB_DATA", str(tmp_path / "data"))
    small = ["epochs=1", "chip_size=32", "batch_size=4", "encoder=swin_demo", "accelerator=cpu"]
    words = [word for value in small for word in ("-p", value)]
    done = geowb("run", "agb_transfer", "--profile", "paper", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = Path(done.stdout.strip())
    metrics = json.loads((run / "metrics.json").read_text())
    for arm in ("unet", "swin_demo_scratch", "swin_demo_random", "swin_demo_random_linear"):
        assert 0 < metrics[f"rmse/{arm}/all"]["value"] < 1000
        assert metrics[f"r2/{arm}/all"]["value"] < 1
    assert sorted(path.name for path in (run / "maps").iterdir()) == [
        f"agb_granite-{sample}-{arm}.tif"
        for sample in (0, 1)
        for arm in ("swin_demo_random_linear", "swin_demo_scratch", "unet")
    ]
    notebook = (run / "notebook.ipynb").read_text()
    assert "10 separate images" in notebook


def test_the_readme_s_python_works():
    readme = (ROOT / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.S)
    code = code.replace("epochs=5", "epochs=1")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"0-100 +\d+ +\d+\.\d+", done.stdout)


@pytest.mark.real
def test_the_dense_map_shows_the_error_between_the_shots(tmp_path, geowb_data):
    words = ["-p", "data=biomassters_chip", "-p", "epochs=2", "-p", "arms=unet,frozen"]
    done = geowb("run", "agb_transfer", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((Path(done.stdout.strip()) / "metrics.json").read_text())
    for arm in ("unet", "swin_demo"):
        at, apart = (metrics[f"rmse_truth/{arm}/{part}"]["value"] for part in ("shots", "no_shot"))
        assert at == pytest.approx(metrics[f"rmse/{arm}/all"]["value"])  # these labels are exact
        assert 0 < apart < 200
        assert apart != at


def test_transfer_and_few_chips_between_two_eco_regions(tmp_path):
    small = [
        "regions=cerrado,mata_atlantica",
        "arms=unet,frozen,linear",
        "epochs=1",
        "few_shot=2,99",
        "detail=frozen,linear",
    ]
    words = [word for value in [*small, "few_shot_steps=2"] for word in ("-p", value)]
    done = geowb("run", "agb_transfer", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = Path(done.stdout.strip())
    metrics = {k: v["value"] for k, v in json.loads((run / "metrics.json").read_text()).items()}
    names = ("cerrado", "mata_atlantica")
    found = {(a, b): metrics[f"transfer/swin_demo/{a}/{b}"] for a in names for b in names}
    n = {name: metrics[f"rmse/swin_demo/region/{name}"] for name in names}
    assert {name: metrics[f"transfer/swin_demo/all/{name}"] for name in names} == pytest.approx(n)
    ratios = [found[a, b] / found[b, b] for a, b in (names, names[::-1])]
    assert metrics["transfer_loss/swin_demo/all"] == pytest.approx(np.mean(ratios))
    for name in ("few_shot", "few_shot_alone"):
        assert metrics[f"{name}/swin_demo/2"] > 0
        assert f"{name}/swin_demo/99" not in metrics  # no region has so many
    bounds = [metrics[f"against/swin_demo/unet/{bound}"] for bound in ("low", "value", "high")]
    assert bounds == sorted(bounds)
    assert "label_curve/swin_demo/0.2" in metrics
    assert metrics["label_curve/swin_demo_linear/0.2"] > metrics["rmse/swin_demo_linear/all"]
    elsewhere = metrics["transfer/swin_demo_linear/cerrado/mata_atlantica"]
    assert elsewhere > metrics["transfer/swin_demo_linear/mata_atlantica/mata_atlantica"]
    assert not [name for name in metrics if name.startswith("few_shot/swin_demo_linear")]
    assert 1e-5 <= metrics["penalty/swin_demo_linear"] <= 10
    notebook = (run / "notebook.ipynb").read_text()
    assert re.search(r"99 chips: cerrado has only \d+ with labels", notebook)
    assert {"transfer.png", "few_shot.png", "residuals.png", "label_curve.png"} <= {
        file.name for file in (run / "figures").iterdir()
    }
