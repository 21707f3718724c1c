"""The same seed gives the same scene: here to the byte, elsewhere within one count.

The second half holds the world to its version: whoever changes what a scene looks like raises
`geowb.world.VERSION` and adds its figures to the table with

    python tests/test_world_repeats.py
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from geowb.world import REGIONS, VERSION, cloud_masks, scene

TABLE = Path(__file__).with_name("test_world_versions.json")

_MAKE = """
import sys, numpy as np
from geowb.world import REGIONS, scene
out = {}
for region in REGIONS:
    ds = scene(region, seed=4, size=160, dates=3, max_cloud=0.9)
    for name in ("reflectance", "fmask", "landcover", "agb", "agb_dense", "elevation"):
        out[region + "/" + name] = ds[name].values
    ds = scene(region, seed=5, size=160, dates=1, flood=True, fire=True)
    for name in {"reflectance", "fmask", "flood", "burn", "burn_severity", "crop"} & set(ds):
        out[region + "/event/" + name] = ds[name].values
np.savez(sys.argv[1], **out)
"""


def dispatched():
    """Processor features that NumPy has code for and that this processor has."""
    from numpy._core import _multiarray_umath as core

    return [name for name in core.__cpu_dispatch__ if core.__cpu_features__.get(name)]


def make_elsewhere(path, **env):
    subprocess.run([sys.executable, "-c", _MAKE, str(path)], check=True, env={**os.environ, **env})
    with np.load(path) as data:
        return dict(data)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    return make_elsewhere(tmp_path_factory.mktemp("world") / "here.npz", PYTHONHASHSEED="1")


def test_same_processor_same_bytes(here):
    for region in REGIONS:
        ds = scene(region, seed=4, size=160, dates=3, max_cloud=0.9)
        for name in ("reflectance", "fmask", "landcover", "agb", "agb_dense", "elevation"):
            assert ds[name].values.tobytes() == here[f"{region}/{name}"].tobytes(), name
        ds = scene(region, seed=5, size=160, dates=1, flood=True, fire=True)
        names = [key.split("/")[2] for key in here if key.startswith(f"{region}/event/")]
        assert len(names) == 5 + (region == "great_plains")
        for name in names:
            assert ds[name].values.tobytes() == here[f"{region}/event/{name}"].tobytes(), name


def test_plainer_processor_same_scene(here, tmp_path):
    features = dispatched()
    if not features:
        pytest.skip("NumPy uses no special instructions on this processor")
    there = make_elsewhere(
        tmp_path / "there.npz", NPY_DISABLE_CPU_FEATURES=" ".join(features), PYTHONHASHSEED="2"
    )
    for key, mine in here.items():
        theirs = there[key]
        if key.endswith(("fmask", "landcover", "flood", "burn", "crop")):
            assert (mine != theirs).mean() <= 1e-3, key
        elif key.endswith(("/agb", "/burn_severity")):
            assert (np.isnan(mine) != np.isnan(theirs)).mean() <= 1e-3, key
            both = np.isfinite(mine) & np.isfinite(theirs)
            assert np.isclose(mine[both], theirs[both], rtol=1e-5).mean() >= 0.999, key
        else:
            # 1 count of reflectance; 1 Mg/ha; 1 m
            far = np.abs(mine - theirs) > (1.0 if key.endswith("reflectance") else 1e-3)
            assert far.mean() <= 1e-3, key
            assert (mine != theirs).mean() <= 1e-3 or not key.endswith("reflectance"), key


def test_last_bits_are_not_enlarged(here, monkeypatch):
    """Every random field is off by far more than the last bits."""
    from geowb.world import clouds, fields, fires, floods, land, terrain

    rng = np.random.default_rng(0)

    def shaken(*args, **kwargs):
        field = fields.gaussian_field(*args, **kwargs)
        return field * (1.0 + 1e-9 * rng.standard_normal(field.shape))

    for module in (clouds, fires, floods, land, terrain):
        monkeypatch.setattr(module, "gaussian_field", shaken)
    for region in REGIONS:
        ds = scene(region, seed=4, size=160, dates=3, max_cloud=0.9)
        for name in ("reflectance", "fmask", "landcover"):
            mine, theirs = here[f"{region}/{name}"], ds[name].values
            assert (mine != theirs).mean() <= 1e-3, name
        assert not np.array_equal(here[f"{region}/elevation"], ds.elevation.values)
        ds = scene(region, seed=5, size=160, dates=1, flood=True, fire=True)
        for name in ("flood", "burn"):
            mine, theirs = here[f"{region}/event/{name}"], ds[name].values
            assert (mine != theirs).mean() <= 1e-3, name


def figures():
    """What a scene of this version looks like, in a few numbers."""
    table = {}
    for region in REGIONS:
        ds = scene(region, seed=0, size=96, dates=2)
        counts = ds.reflectance.values.astype(float)
        table[region] = {
            "band means": counts.mean((2, 3)).round(2).tolist(),
            "pixels": counts[:, :, 10::37, 20::37].astype(int).ravel().tolist(),
            "landcover": np.bincount(ds.landcover.values.ravel(), minlength=11).tolist(),
            "fmask": np.bincount(ds.fmask.values.ravel() & 63, minlength=64).tolist(),
            "biomass": round(float(ds.agb_dense.values.astype(float).mean()), 3),
            "shots": round(float(np.nansum(ds.agb.values.astype(float))), 1),
            "times": ds.time.values.astype("M8[s]").astype(str).tolist(),
            "corner": [int(ds.rio.transform().c), int(ds.rio.transform().f)],
        }
    return table


def figures_of_events():
    """The same for a scene with flood and fire, and for crops and masks."""
    table = {}
    for region in REGIONS:
        ds = scene(region, seed=0, size=96, dates=2, flood=True, fire=True)
        table[region] = {
            "band means": ds.reflectance.values.astype(float).mean((2, 3)).round(2).tolist(),
            "flood": np.bincount(ds.flood.values.ravel() + 1, minlength=3).tolist(),
            "burn": np.bincount(ds.burn.values.ravel() + 1, minlength=3).tolist(),
            "severity": round(float(np.nanmean(ds.burn_severity.values.astype(float))), 3),
        }
        if "crop" in ds:
            table[region]["crop"] = np.bincount(ds.crop.values.ravel(), minlength=13).tolist()
    table["masks"] = cloud_masks(6, size=48).cover.values.round(3).tolist()
    return table


def compare(now, then, region, version):
    hint = f"{region} is not that of version {version}: raise VERSION if this is meant"
    assert now["times"] == then["times"], hint
    assert now["corner"] == then["corner"], hint
    assert np.allclose(now["band means"], then["band means"], atol=0.03), hint
    assert np.not_equal(now["pixels"], then["pixels"]).mean() <= 0.01, hint
    assert now["biomass"] == pytest.approx(then["biomass"], abs=0.1), hint
    assert now["shots"] == pytest.approx(then["shots"], rel=0.01), hint
    for name in ("landcover", "fmask"):
        moved = np.abs(np.subtract(now[name], then[name])).sum() / np.sum(then[name])
        assert moved <= 4e-3, hint


def test_world_looks_as_its_version_says():
    table = json.loads(TABLE.read_text())
    assert VERSION in table, f"add version {VERSION} to {TABLE.name}: python {Path(__file__).name}"
    then = dict(table[VERSION])
    events = then.pop("events")
    now = figures()
    assert now.keys() == then.keys()
    for region in now:
        compare(now[region], then[region], region, VERSION)
    made = figures_of_events()
    assert made.keys() == events.keys()
    assert np.allclose(made.pop("masks"), events.pop("masks"), atol=2e-3)
    for region, of in made.items():
        assert of.keys() == events[region].keys()
        assert np.allclose(of["band means"], events[region]["band means"], atol=0.3), region
        assert of["severity"] == pytest.approx(events[region]["severity"], abs=2e-3)
        for name in of.keys() & {"flood", "burn", "crop"}:
            moved = np.abs(np.subtract(of[name], events[region][name])).sum()
            assert moved <= 4e-3 * np.sum(of[name]), (region, name)


def test_scenes_of_version_1_0_are_as_they_were():
    then = json.loads(TABLE.read_text())["1.0"]
    assert set(then) == {"amazonia", "cerrado", "mata_atlantica"}
    now = figures()
    for region in then:
        compare(now[region], then[region], region, "1.0")


if __name__ == "__main__":
    known = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    if VERSION in known:
        raise SystemExit(f"Version {VERSION} is in the table: raise geowb.world.VERSION first.")
    new = {**figures(), "events": figures_of_events()}
    TABLE.write_text(json.dumps({**known, VERSION: new}) + "\n")
