"""Renew the README's picture: the maps of a run of the biomass study on the world.

geowb run agb_transfer --profile full -p seed=3
.venv/bin/python docs/make_readme_picture.py runs/agb_transfer-...
"""

import shutil
import sys
from pathlib import Path

target = Path(__file__).parent / "figures" / "agb_maps.png"
shutil.copyfile(Path(sys.argv[1]) / "figures" / "maps.png", target)
print(target)
