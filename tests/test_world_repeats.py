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

from geowb.world import REGIONS, VERSION, scene

TABLE = Path(__file__).with_name("test_world_versions.json")

_MAKE = """
import sys, numpy as np
from geowb.world import REGIONS, scene
out = {}
for region in REGIONS:
    ds = scene(region, seed=4, size=160, dates=3, max_cloud=0.9)
    for name in ("reflectance", "fmask", "landcover", "agb", "agb_dense", "elevation"):
        out[region + "/" + name] = ds[name].values
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


def test_plainer_processor_same_scene(here, tmp_path):
    features = dispatched()
    if not features:
        pytest.skip("NumPy uses no special instructions on this processor")
    there = make_elsewhere(
        tmp_path / "there.npz", NPY_DISABLE_CPU_FEATURES=" ".join(features), PYTHONHASHSEED="2"
    )
    for key, mine in here.items():
        theirs = there[key]
        if key.endswith(("fmask", "landcover")):
            assert (mine != theirs).mean() <= 1e-3, key
        elif key.endswith("/agb"):
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
    from geowb.world import clouds, fields, land, terrain

    rng = np.random.default_rng(0)

    def shaken(*args, **kwargs):
        field = fields.gaussian_field(*args, **kwargs)
        return field * (1.0 + 1e-9 * rng.standard_normal(field.shape))

    for module in (clouds, land, terrain):
        monkeypatch.setattr(module, "gaussian_field", shaken)
    for region in REGIONS:
        ds = scene(region, seed=4, size=160, dates=3, max_cloud=0.9)
        for name in ("reflectance", "fmask", "landcover"):
            mine, theirs = here[f"{region}/{name}"], ds[name].values
            assert (mine != theirs).mean() <= 1e-3, name
        assert not np.array_equal(here[f"{region}/elevation"], ds.elevation.values)


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


def test_world_looks_as_its_version_says():
    table = json.loads(TABLE.read_text())
    assert VERSION in table, f"add version {VERSION} to {TABLE.name}: python {Path(__file__).name}"
    for region, now in figures().items():
        then = table[VERSION][region]
        hint = f"{region} is not that of version {VERSION}: raise VERSION if this is meant"
        assert now["times"] == then["times"], hint
        assert now["corner"] == then["corner"], hint
        assert np.allclose(now["band means"], then["band means"], atol=0.03), hint
        assert np.not_equal(now["pixels"], then["pixels"]).mean() <= 0.01, hint
        assert now["biomass"] == pytest.approx(then["biomass"], abs=0.1), hint
        assert now["shots"] == pytest.approx(then["shots"], rel=0.01), hint
        for name in ("landcover", "fmask"):
            moved = np.abs(np.subtract(now[name], then[name])).sum() / np.sum(then[name])
            assert moved <= 4e-3, hint


if __name__ == "__main__":
    known = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    if VERSION in known:
        raise SystemExit(f"Version {VERSION} is in the table: raise geowb.world.VERSION first.")
    TABLE.write_text(json.dumps({**known, VERSION: figures()}) + "\n")
