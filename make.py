"""Set up geowb and run its jobs, with nothing but Python 3.11 or newer.

    python make.py run          install, run all studies at the teaching profile, write a report
    python make.py test         install, check the style, run the tests
    python make.py lab          install, open JupyterLab
    python make.py bench        install, run the benchmarks, write benchmarks/results.md
    python make.py lint         style checks alone
    python make.py wheelhouse   collect all packages for machines without a network
    python make.py lock         solve the dependencies anew (needs a network)
    python make.py clean        remove the environment and what was run

`make run` and the like call this file; on Windows call it as above. Everything is installed into
.venv beside it, at the versions and digests of requirements.lock; no other environment is touched.
Where a folder wheelhouse/ lies beside it, packages come from there and no network is needed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
LOCK = ROOT / "requirements.lock"
WHEELHOUSE = ROOT / "wheelhouse"
BROWSER = "tests/browser"
#: What builds packages that come as source, geowb itself included.
BUILDERS = (
    *("hatchling", "packaging", "pathspec", "pluggy", "tomlkit", "trove-classifiers"),
    "setuptools",
)


def main() -> int:
    """Run the job that the command line names."""
    jobs = {
        "run": run,
        "test": test,
        "lab": lab,
        "bench": bench,
        "lint": lint,
        "wheelhouse": wheelhouse,
        "lock": lock,
        "clean": clean,
    }
    if sys.version_info < (3, 11):  # noqa: UP036 - an older Python may well be the one at hand
        return fail(f"geowb needs Python 3.11 or newer; this is {sys.version.split()[0]}.")
    if len(sys.argv) != 2 or sys.argv[1] not in jobs:
        print(__doc__)
        return 0 if sys.argv[1:] in ([], ["help"]) else 2
    try:
        return jobs[sys.argv[1]]()
    except subprocess.CalledProcessError as error:
        command = " ".join(
            Path(str(error.cmd[0])).name if not i else str(part) for i, part in enumerate(error.cmd)
        )
        return fail(f"'{command[:160]}' ended with status {error.returncode}; see above.")
    except KeyboardInterrupt:
        return 130


def run() -> int:
    """Run every study at the teaching profile; end with the report on the papers' claims."""
    install()
    began, failed, runs = time.monotonic(), [], ROOT / "runs"
    for study in studies():
        print(f"\n== {study}", flush=True)
        words = ["sweep", study, "--profile", "teaching", "--force", "--out", runs / study]
        words += [word for choice in choices(study) for word in ("-p", choice)]
        if subprocess.run([PYTHON, "-m", "geowb.cli", *words], env=environment()).returncode:
            failed.append(study)
    print(f"\n{len(studies())} studies in {time.monotonic() - began:.0f} s.", flush=True)
    call([PYTHON, "-m", "geowb.cli", "report", runs])
    call([PYTHON, "-m", "geowb.cli", "warm", "stop"])
    print(f"Open {(runs / 'report.html').as_uri()} in a browser: what the runs show.")
    return fail(f"Failed: {', '.join(failed)}.") if failed else 0


def test() -> int:
    """Check the style; run the tests and the notebooks, then what needs a browser."""
    install()
    lint()
    call(
        [
            *(PYTHON, "-m", "pytest", "tests", "notebooks", "--ignore", BROWSER),
            *("-q", "--durations=10", "-n", "2", "--dist", "loadscope"),
            *("--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout", "600"),
            *("--nbval-sanitize-with", "tests/nbval_sanitize.cfg"),
        ]
    )
    # One after the other: what these tests wait for is also how long it takes.
    call([PYTHON, ROOT / BROWSER / "harness.py"])
    call([PYTHON, "-m", "pytest", BROWSER, "-q", "--durations=10", "-n", "0"])
    return 0


def lab() -> int:
    """Open JupyterLab on the notebooks."""
    install()
    call([PYTHON, "-m", "geowb.cli", "lab"])
    return 0


def bench() -> int:
    """Run the benchmarks; write benchmarks/results.md."""
    install()
    call([PYTHON, ROOT / "benchmarks" / "run.py"])
    return 0


def lint() -> int:
    """Check style and format, notebooks included."""
    install()
    call([PYTHON, "-m", "ruff", "check", "."])
    call([PYTHON, "-m", "ruff", "format", "--check", "--quiet", "."])
    return 0


def wheelhouse() -> int:
    """Collect the locked packages for this kind of machine in wheelhouse/."""
    install()
    pip = [PYTHON, "-m", "pip", "--disable-pip-version-check"]
    call([*pip, "download", "--require-hashes", "--no-deps", "--no-build-isolation",
          "--progress-bar", "off", "-r", LOCK, "-d", WHEELHOUSE])  # fmt: skip
    size = sum(f.stat().st_size for f in WHEELHOUSE.iterdir()) / 1e9
    print(
        f"\n{len(list(WHEELHOUSE.iterdir()))} packages, {size:.1f} GB in {WHEELHOUSE}.\n"
        "Copy the whole project with this folder to machines of the same kind (operating system, "
        "processor, Python version); 'make run' needs no network there."
    )
    return 0


def lock() -> int:
    """Solve the dependencies anew, one version a package on all platforms."""
    install()
    call(
        [
            *(PYTHON, "-m", "uv", "pip", "compile", "--universal", "--fork-strategy", "fewest"),
            *("--python-version", "3.11", "--generate-hashes", "--all-extras", "--upgrade"),
            *("--no-header", "--no-emit-index-url", "--quiet"),
            *("--output-file", LOCK.name, "pyproject.toml"),
        ]
    )
    return 0


def clean() -> int:
    """Remove the environment and what was run."""
    for folder in (VENV, ROOT / "runs"):
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def install() -> None:
    """Create .venv and install the locked packages, if that has not been done for this lock."""
    stamp = VENV / "geowb-installed"
    wanted = hashlib.sha256(LOCK.read_bytes() + (ROOT / "pyproject.toml").read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted and PYTHON.exists():
        return
    began = time.monotonic()
    print("Installing into .venv (once; about a minute and several GB) ...", flush=True)
    if not PYTHON.exists():
        call([sys.executable, "-m", "venv", VENV])
    offline = WHEELHOUSE.is_dir()
    local = ["--no-index", "--find-links", WHEELHOUSE] if offline else []
    with tempfile.TemporaryDirectory() as folder:
        first, builders = Path(folder) / "uv.txt", Path(folder) / "builders.txt"
        first.write_text(locked("uv"))
        builders.write_text("".join(map(locked, BUILDERS)))
        pip = [PYTHON, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        call([*pip, *local, "--require-hashes", "-r", first])
        uv = [PYTHON, "-m", "uv", "pip", "install", "--quiet", "--python", PYTHON]
        uv += [
            "--no-build-isolation",
            "--compile-bytecode",
            *(["--offline"] if offline else []),
            *local,
        ]
        call([*uv, "--require-hashes", "-r", builders])
        call([*uv, "--require-hashes", "-r", LOCK])
        call([*uv, "--no-deps", "--editable", ROOT])
    stamp.write_text(wanted)
    print(f"Installed in {time.monotonic() - began:.0f} s.", flush=True)


def locked(package: str) -> str:
    """Return the lock file's lines of one package: version and digests."""
    lines = LOCK.read_text().splitlines(keepends=True)
    start = next(i for i, line in enumerate(lines) if line.startswith(f"{package}=="))
    end = next((i for i in range(start + 1, len(lines)) if not lines[i].startswith(" ")), None)
    return "".join(line for line in lines[start:end] if not line.lstrip().startswith("#"))


def studies() -> list[str]:
    """Names of the notebooks that are studies."""
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    found = {path.stem: json.loads(path.read_text("utf-8"))["metadata"] for path in notebooks}
    return [name for name, metadata in found.items() if "study" in metadata.get("geowb", {})]


def choices(study: str) -> list[str]:
    """All choices of the parameters of which a whole run of a study takes each: its tasks."""
    notebook = json.loads((ROOT / "notebooks" / f"{study}.ipynb").read_text("utf-8"))
    about = notebook["metadata"]["geowb"]
    rules = about.get("parameters", {})
    return [f"{name}={','.join(rules[name]['choices'])}" for name in about["study"].get("each", [])]


def environment() -> dict[str, str]:
    """Environment of the caller, less what would reach into .venv from another Python."""
    # Without byte code each start of a kernel would compile the deep-learning stack again (15 s).
    other = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONDONTWRITEBYTECODE"}
    kept = {key: value for key, value in os.environ.items() if key not in other}
    return {**kept, "PATH": f"{BIN}{os.pathsep}{kept.get('PATH', '')}"}


def call(command: list[object]) -> None:
    """Run a command in the project's folder; raise if it fails."""
    subprocess.run([str(part) for part in command], cwd=ROOT, env=environment(), check=True)


def fail(message: str) -> int:
    """Say on standard error what went wrong."""
    print(message, file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
