"""A small study that can go wrong in many ways, and a look at what a sweep leaves behind."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil

GEOWB = [sys.executable, "-m", "geowb.cli"]
PARAMETERS = """\
mode: str = "ok"  # what goes wrong
x: float = 1.0  # a number
n: int = 2  # another
names: list[str] = []  # a list
seed: int = 0  # a seed
log: str = ""  # where each run says that it has come to its end
run_dir: str = ""
"""
CELLS = (
    "## Data",
    "import os, time\n"
    "from pathlib import Path\n"
    "from geowb.batch import RunDirectory\n"
    "run = RunDirectory(run_dir)\n"
    "print(os.environ.get('OMP_NUM_THREADS'), os.environ.get('CUDA_VISIBLE_DEVICES'))\n"
    "print(run.path)",
    "## Experiment",
    "if mode == 'raise':\n    raise ValueError('No pixel has a label: nothing to train on.')\n"
    "if mode == 'hang':\n    time.sleep(600)\n"
    "if mode == 'flood':\n    print('y' * 100_000_000)\n"
    "if mode == 'lines':\n    for i in range(1_000_000):\n        print('z' * 100)\n"
    "if mode == 'child':\n"
    "    import subprocess\n"
    "    child = subprocess.Popen(['sleep', '600'])\n"
    "    Path(f'{log}.waits-{x}-{seed}-{child.pid}').touch()\n    time.sleep(600)\n"
    "if mode == 'exit':\n    raise SystemExit\n"
    "if mode == 'fill':\n    run.figure('large.bin').write_bytes(bytes(8_000_000))\n"
    "if mode == 'once' and not Path(log + '.once').exists():\n"
    "    Path(log + '.once').touch()\n    time.sleep(600)\n"
    "if mode == 'wait':\n    Path(f'{log}.waits-{x}-{seed}-{os.getpid()}').touch()\n"
    "    while not Path(log + '.go').exists():\n        time.sleep(0.05)",
    "## Results",
    "run.metric('score', x * n + seed, 'points')\n"
    "with open(log or os.devnull, 'a') as file:\n    file.write(f'{mode} {x} {seed}\\n')",
)


class Sweep:
    """A sweep in a process of its own, whose processes can be told from all others."""

    def __init__(self, study: Path, *words: object, **options: object) -> None:
        self.mark = secrets.token_hex(8)
        self.command = [*GEOWB, "sweep", str(study), *map(str, words)]
        env = {**os.environ, "GEOWB_TEST_MARK": self.mark, **options.pop("env", {})}
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
            **options,
        )  # fmt: skip

    def end(self, timeout: float = 120) -> tuple[int, str, str]:
        """Wait for it: exit status, standard output, standard error."""
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, out, err

    def processes(self, word: str = "") -> list[psutil.Process]:
        """Its processes (those with `word` in their command), wherever they hang by now."""
        return [p for p in marked(self.mark) if word in " ".join(_command(p))]

    def has_no_process(self, seconds: float = 10) -> bool:
        """Whether all its processes have ended, soon at the latest."""
        return until(lambda: not marked(self.mark), seconds)


def _command(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return process.cmdline()
    return []


def marked(mark: str) -> list[psutil.Process]:
    """Running processes of one test."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("GEOWB_TEST_MARK") == mark:
                found += [process] if process.status() != psutil.STATUS_ZOMBIE else []
    return found


def until(condition, seconds: float = 60) -> bool:
    """Wait for something to become true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return bool(condition())


def ends(log: Path) -> Counter[str]:
    """How often each run has come to its end."""
    return Counter(log.read_text().splitlines()) if log.is_file() else Counter()


def waiting(log: Path) -> int:
    """How many runs are in the middle, waiting to be let go on."""
    pids = [int(file.name.split("-")[-1]) for file in log.parent.glob(f"{log.name}.waits-*")]
    return sum(psutil.pid_exists(pid) for pid in pids)
