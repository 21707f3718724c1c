"""What importing geowb may not load, and that its core works without the extras."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
#: Import names where they are not the package's own name.
IMPORT_NAMES = {
    "segmentation-models-pytorch": "segmentation_models_pytorch",
    "pre-commit": "pre_commit",
    "pytest-xdist": "xdist",
    "scikit-learn": "sklearn",
}
#: Packages of extras that a package of the core itself brings along.
IN_CORE = {"setuptools"}


def extras():
    """Import names of all packages that the extras add to the core."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]

    def names(requirements):
        return {re.match(r"[\w.-]+", text)[0] for text in requirements}

    added = set().union(*map(names, project["optional-dependencies"].values()))
    added -= names(project["dependencies"]) | IN_CORE | {"geowb"}
    return sorted(IMPORT_NAMES.get(name, name.replace("-", "_")) for name in added)


@pytest.mark.parametrize(
    "statement",
    ["import geowb", "import geowb.cli, geowb.doctor", "import geowb.batch, geowb.catalog"],
)
def test_importing_geowb_loads_nothing_heavy(statement):
    heavy = {"torch", "leafmap", "terratorch", "holoviews"}
    loaded = _python(f"import sys; {statement}; print(*sys.modules)").split()
    assert not heavy & set(loaded)
    if "batch" not in statement:
        assert not {"numpy", "xarray", "rasterio", "papermill", "nbformat"} & set(loaded)


def test_the_names_of_the_extras_are_import_names():
    """Otherwise the test below would block nothing."""
    from importlib.util import find_spec

    assert {"torch", "terratorch", "holoviews", "leafmap", "matplotlib", "jupyterlab"} < set(
        extras()
    )
    assert [name for name in extras() if find_spec(name) is None] == []


@pytest.fixture
def core_alone(tmp_path):
    """Environment in which no package of the extras can be imported, kernels included."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        f"BLOCKED = frozenset({extras()!r})\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in BLOCKED:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Block())\n"
    )
    return os.environ | {"PYTHONPATH": str(tmp_path)}


def _python(program, *words, env=None):
    command = [sys.executable, "-c", program, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_core_works_without_the_extras(core_alone, tmp_path, write_study):
    study = write_study(
        tmp_path / "tiny.ipynb",
        'data: str = "world"\nrun_dir: str = ""',
        (
            "## Data",
            "import geowb\n"
            "scene = geowb.open_catalog()[data].open(seed=0)\n"
            "geowb.batch.RunDirectory(run_dir).metric('bands', scene.sizes['band'], '')",
            "try:\n    import torch\nexcept ModuleNotFoundError:\n    pass\n"
            "else:\n    raise AssertionError('torch was not blocked')",
        ),
        rules={"data": {"check": "source", "variables": ["agb"], "bands": "HLS6"}},
    )
    program = (
        "import sys, geowb, geowb.batch\n"
        "catalog = geowb.open_catalog()\n"
        "assert any(row['name'] == 'world' for row in catalog.table())\n"
        "run = geowb.batch.run(sys.argv[1], out=sys.argv[2], progress=False)\n"
        "print(run.metrics['bands']['value'], sorted(geowb.batch.find_studies()) != [])\n"
    )
    assert _python(program, study, tmp_path / "runs", env=core_alone).split()[0] == "6"


def test_the_command_line_works_without_the_extras(core_alone):
    command = [sys.executable, "-m", "geowb.cli"]
    for words in (["--help"], ["studies"], ["catalog", "list"]):
        done = subprocess.run([*command, *words], env=core_alone, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout


def test_compressed_embeddings_are_read_without_the_extras(core_alone, tmp_path):
    import numpy as np
    import zarr

    from geowb.nec import FactorizedPriorCodec, Tables

    values = np.random.default_rng(0).normal(size=(1, 6, 5, 8)).astype("float32")
    tables = Tables.fit(values, steps=0.5)
    zarr.create_group(tmp_path / "a.zarr").create_array(
        "embedding", data=values, chunks=(1, 3, 5, 8), serializer=FactorizedPriorCodec(tables),
        compressors=None, dimension_names=("time", "y", "x", "channel"),
    )  # fmt: skip
    program = (
        "import sys, xarray, geowb.nec\n"
        "plain = xarray.open_zarr(sys.argv[1], consolidated=False)['embedding']\n"
        "ours = geowb.nec.open_embeddings(sys.argv[1])\n"
        "print(float(plain.sum()), float(ours.sum()))\n"
    )
    found = _python(program, tmp_path / "a.zarr", env=core_alone).split()
    meant = float(tables.quantise(values).sum())
    assert [float(one) for one in found] == [meant, meant]
