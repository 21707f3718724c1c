"""Seconds until geowb is there: `import geowb` and `geowb --help` beside a bare Python.

Each is started several times in turn, in the same run; the median counts.
"""

import statistics
import subprocess
import sys
import time

REPEATS = 7
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import numpy": [sys.executable, "-c", "import numpy"],
    "import geowb": [sys.executable, "-c", "import geowb"],
    "geowb --help": [sys.executable, "-m", "geowb.cli", "--help"],
}
LIMITS = {"import geowb": 0.5, "geowb --help": 1.0}


def seconds(command: list[str]) -> float:
    """Time one start of a command."""
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> int:
    """Print a line for each command; fail if one is over its limit."""
    taken = {name: [] for name in COMMANDS}
    for _ in range(REPEATS):
        for name, command in COMMANDS.items():
            taken[name].append(seconds(command))
    median = {name: statistics.median(values) for name, values in taken.items()}
    bare = median["python -c pass"]
    for name, value in median.items():
        limit = f"limit {LIMITS[name]:.1f} s" if name in LIMITS else ""
        print(f"{name:15} {value:6.3f} s  {value / bare:5.1f} x a bare Python  {limit}")
    return int(any(median[name] > limit for name, limit in LIMITS.items()))


if __name__ == "__main__":
    raise SystemExit(main())
