"""Renew the README's picture: run the biomass study on the world and keep its map.

.venv/bin/python docs/make_readme_picture.py
"""

import shutil
import tempfile
from pathlib import Path

import geowb.batch

with tempfile.TemporaryDirectory() as folder:
    run = geowb.batch.run("agb_transfer", profile="teaching", out=folder)
    target = Path(__file__).parent / "figures" / "agb_maps.png"
    shutil.copyfile(run.path / "figures" / "maps.png", target)
    print(target)
