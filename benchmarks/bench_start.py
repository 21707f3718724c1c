"""Seconds until geowb is there: each command is started several times in turn."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from run import Row

REPEATS = 7
COMMANDS = {
    "bare": [sys.executable, "-c", "pass"],
    "numpy": [sys.executable, "-c", "import numpy"],
    "geowb": [sys.executable, "-c", "import geowb"],
    "help": [sys.executable, "-m", "geowb.cli", "--help"],
}


def seconds(command: list[str]) -> float:
    """Time one start of a command."""
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def rows() -> list[Row]:
    """Time `import geowb` and `geowb --help`."""
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(REPEATS):
        for name, command in COMMANDS.items():
            taken[name].append(seconds(command))
    median = {name: statistics.median(values) for name, values in taken.items()}
    note = f"median of {REPEATS} starts, Python's own included"
    return [
        Row("`import geowb`", median["geowb"], "`import numpy`", median["numpy"], "s", 0.5, note),
        Row("`geowb --help`", median["help"], "a bare Python", median["bare"], "s", 1.0, note),
    ]
