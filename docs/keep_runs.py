"""Keep what pages of results are made from: the records of runs, without their models and pictures.

.venv/bin/python docs/keep_runs.py prithvi_tasks runs/prithvi_tasks/*

Writes docs/records/NAME/RUN/run.json and metrics.json, and tables/ where there are any: parameters,
versions, data, timings, metrics, points of curves, without the names of the machine and of its
folders. `geowb report docs/records/NAME` and
`geowb.batch.load_runs` read them as any folder of runs.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

KEPT = Path(__file__).parent / "records"
#: What says more of the machine than of the run.
_LEFT_OUT = {"host", "pid", "cwd", "notebook", "platform", "kernel", "timeout"}


def keep(name: str, folder: Path) -> None:
    """Copy one run's record; a run that failed is told and left out."""
    record = json.loads((folder / "run.json").read_text("utf-8"))
    if record["status"] != "done":
        print(f"{folder.name}: {record['status']}, left out")
        return
    target = KEPT / name / folder.name
    target.mkdir(parents=True, exist_ok=True)
    metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
    kept = {key: value for key, value in record.items() if key not in _LEFT_OUT}
    for file, content in (("run.json", kept), ("metrics.json", metrics)):
        (target / file).write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    if (tables := folder / "tables").is_dir():
        shutil.copytree(tables, target / "tables", dirs_exist_ok=True)


if __name__ == "__main__":
    for argument in sys.argv[2:]:
        keep(sys.argv[1], Path(argument))
