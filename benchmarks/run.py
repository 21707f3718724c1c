"""Run the benchmarks and write results.md beside this file: `make bench`.

    python benchmarks/run.py            all of them
    python benchmarks/run.py start      those of benchmarks/bench_start.py, printed only
    python benchmarks/run.py --append widgets    put below the last whole run in results.md

Each row compares geowb with what a person would do without it, in the same run on the same
machine. A row can have a limit; one that is over its limit makes the whole fail.
"""

from __future__ import annotations

import importlib
import platform
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGES = ("papermill", "nbclient", "ipykernel", "dask", "numpy", "torch", "xarray", "zarr")


@dataclass(frozen=True)
class Row:
    """One comparison: smaller is better."""

    what: str  # what was done, with its size
    ours: float
    otherwise: str  # what it is compared with
    theirs: float
    unit: str = "s"
    limit: float | None = None  # that `ours` must not exceed
    note: str = ""

    @property
    def exceeded(self) -> bool:
        """Whether the row is over its limit."""
        return self.limit is not None and self.ours > self.limit

    def cells(self) -> list[str]:
        """Text of the row's cells."""
        limit = "" if self.limit is None else f"at most {self.limit:.3g} {self.unit}"
        ratio = f"{self.ours / self.theirs:.2f}"
        ours, theirs = (f"{value:.3g} {self.unit}" for value in (self.ours, self.theirs))
        bold = f"**{limit}: exceeded**" if self.exceeded else limit
        return [self.what, ours, self.otherwise, theirs, ratio, bold, self.note]


COLUMNS = ("what", "geowb", "compared with", "which takes", "ratio", "limit", "how")


def table(rows: list[Row]) -> str:
    """Rows as a Markdown table."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def machine() -> str:
    """Tell what it was measured on and with."""
    from geowb.machine import cores, gpus, memory

    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"Measured on {datetime.now(UTC):%Y-%m-%d}: {cores()} cores, "
        f"{(memory() or 0) / 2**30:.0f} GiB, {len(gpus())} GPUs, {platform.machine()}, "
        f"{platform.system()}, Python {platform.python_version()}; geowb {version('geowb')}, "
        f"{versions}."
    )


def kilobytes(key: str) -> int:
    """Read what Linux counts of this process: VmRSS, its peak VmHWM."""
    return int(Path("/proc/self/status").read_text().split(f"{key}:")[1].split()[0])


def main() -> int:
    """Run the benchmarks that are named, or all, and tell whether each keeps its limit."""
    found = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    append = sys.argv[1:2] == ["--append"]
    named = sys.argv[1 + append :] or found
    if unknown := sorted(set(named) - set(found)):
        print(f"There is no benchmark {', '.join(unknown)}. Known: {', '.join(found)}.")
        return 2
    sys.path.insert(0, str(HERE))
    rows = []
    for name in named:
        print(f"== {name}", flush=True)
        rows += (new := importlib.import_module(f"bench_{name}").rows())
        print(table(new), flush=True)
    results = HERE / "results.md"
    if append:
        text = f"\nMeasured alone. {machine()}\n\n{table(rows)}\n"
        results.write_text(results.read_text("utf-8") + text, encoding="utf-8")
    if not sys.argv[1:]:
        text = "Made by `make bench`; the ratio is geowb's value over the other's.\n\n"
        text = f"# Benchmarks\n\n{text}{machine()}\n\n{table(rows)}\n"
        results.write_text(text, encoding="utf-8")
        print(f"\nWritten: {results}")
    return int(any(row.exceeded for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
