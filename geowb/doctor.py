"""What is wrong with this environment, in plain words: ``geowb doctor``.

Each check is a small function without arguments that gives one `Finding`.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
import webbrowser
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from geowb.errors import GeowbError
from geowb.machine import memory
from geowb.paths import cache_dir, default_catalog

__all__ = ["CHECKS", "Finding", "examine"]

_EXTRAS = ("models", "widgets", "cluster")
_NETWORK_SECONDS = 2.5
_TORCH_SECONDS = 90
_TORCH = """
import json, torch
cuda = torch.cuda.is_available()
print(json.dumps({
    "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count() * cuda)],
    "mps": torch.backends.mps.is_available(),
    "build": torch.version.cuda or torch.version.hip,
}), flush=True)
try:
    import torchvision
except ModuleNotFoundError as error:
    if error.name != "torchvision":
        raise
"""


@dataclass(frozen=True)
class Finding:
    """What a check found: ``ok``, a ``note`` that is no error, or a ``problem``."""

    level: Literal["ok", "note", "problem"]
    sentence: str
    next_step: str = ""


def examine() -> list[Finding]:
    """Run all checks side by side; takes as long as ``import torch``.

    >>> [finding.sentence for finding in examine() if finding.level == "problem"]  # doctest: +SKIP
    []
    """
    with ThreadPoolExecutor(len(CHECKS)) as pool:
        found = list(pool.map(lambda check: check(), CHECKS))
    return [finding for finding in found if finding is not None]


def check_packages() -> Finding:
    """Look for the packages that geowb asks for, in versions that it can use."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(text) for text in requires("geowb") or ()]
    except PackageNotFoundError:
        return Finding("problem", "geowb itself is not installed.", "Run: pip install -e .")
    lacking: dict[str, list[str]] = {}
    for requirement in wanted:
        marker = requirement.marker
        extras = [e for e in _EXTRAS if marker and marker.evaluate({"extra": e})]
        if requirement.name == "geowb" or (marker and not extras):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            found = ""
        if not found or not requirement.specifier.contains(found, prereleases=True):
            told = f"{found} ({requirement.specifier} is needed)" if found else "missing"
            lacking.setdefault("".join(extras[:1]), []).append(f"{requirement.name} {told}")
    if not lacking:
        return Finding("ok", "All packages for models, widgets and clusters are installed.")
    told = " ".join(f"For {x or 'geowb itself'}: {', '.join(y)}." for x, y in lacking.items())
    package = f"'geowb[{','.join(filter(None, lacking))}]'".replace("[]", "")
    return Finding("problem" if "" in lacking else "note", told, f"Run: pip install {package}")


def check_torch() -> Finding | None:
    """See whether torch and torchvision load and fit together, and which GPU there is.

    They are loaded in a process of their own, so that a crash is a finding.
    """
    try:
        pair = f"torch {version('torch')}"
    except PackageNotFoundError:
        return None  # `check_packages` says it
    command = [sys.executable, "-c", _TORCH]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TORCH_SECONDS)
    except subprocess.TimeoutExpired:
        return Finding("note", f"{pair} did not load within {_TORCH_SECONDS} s: a slow disk?")
    if done.returncode:
        return _torch_problem(pair, done.stderr)
    facts = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    if facts["gpus"]:
        return Finding("ok", f"{pair} works with {', '.join(facts['gpus'])}.")
    if facts["mps"]:
        return Finding("ok", f"{pair} works with this Mac's GPU (MPS).")
    if shutil.which("nvidia-smi"):
        kind = "a build without CUDA" if not facts["build"] else f"built for CUDA {facts['build']}"
        step = "Install the torch build for this driver, see https://pytorch.org/get-started."
        return Finding("note", f"There seems to be a GPU, but {pair} ({kind}) sees none.", step)
    step = "The teaching and full profiles need none; the paper profiles do."
    return Finding("note", f"{pair} works, without a GPU.", step)


def _torch_problem(pair: str, stderr: str) -> Finding:
    with contextlib.suppress(PackageNotFoundError):
        pair += f" and torchvision {version('torchvision')}"
    last = (stderr.strip().splitlines() or ["no message"])[-1]
    if "torchvision::nms" in stderr or "torchvision" in last:
        sentence = f"{pair} do not fit together ({last})."
        step = "Install both anew from one place, in one command: pip install torch torchvision"
        return Finding("problem", sentence, step)
    return Finding("problem", f"{pair} cannot be loaded: {last}", "Install torch anew.")


def check_kernel() -> Finding:
    """See whether the Jupyter kernel ``python3`` is this Python."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    step = f"Run: {sys.executable} -m ipykernel install --sys-prefix"
    try:
        spec = KernelSpecManager().get_kernel_spec("python3")
    except NoSuchKernel:
        return Finding("problem", "Jupyter has no kernel 'python3'.", step)
    python = Path(spec.argv[0])
    if python.is_absolute() and python.parent != Path(sys.executable).parent:
        told = f"The Jupyter kernel 'python3' is another Python, {python}: it may lack geowb."
        return Finding("problem", told, step)
    return Finding("ok", "The Jupyter kernel 'python3' is this Python.")


def check_cache() -> Finding:
    """See whether downloads can be written."""
    return _writable(cache_dir(), "The cache for downloads", "Set GEOWB_CACHE to another folder.")


def check_runs() -> Finding:
    """See whether run directories can be written."""
    folder = Path.cwd() / "runs"
    return _writable(folder, "The folder for runs", "Go to another folder, or use --out.")


def _writable(folder: Path, what: str, step: str) -> Finding:
    """Find out whether a folder can be written to, or be made, without making it."""
    nearest = next(p for p in (folder, *folder.parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        why = error.strerror or str(error)
        return Finding("problem", f"{what}, {folder}, cannot be written to ({why}).", step)
    free = shutil.disk_usage(nearest).free / 1e9
    told = f"{what}, {folder}, can be written to; {free:.0f} GB are free."
    if free < 1:
        told = f"{what}, {folder}, has only {free:.1f} GB left."
        return Finding("problem", told, f"Make room, or: {step}")
    return Finding("note" if free < 10 else "ok", told)


def check_network() -> Finding:
    """Ask the host of most of the catalog's data for a sign of life; never wait long."""
    host = _usual_host()
    if not host:
        return Finding("note", "The catalog names no host, so the network was not tried.")
    url, answers = f"https://{host}", []

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")
        with contextlib.suppress(OSError):
            with contextlib.suppress(urllib.error.HTTPError):  # a server's refusal is an answer
                urllib.request.urlopen(request, timeout=_NETWORK_SECONDS).close()
            answers.append(True)

    # A thread of its own: looking up a name has no time limit.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_NETWORK_SECONDS)
    if answers:
        return Finding("ok", f"There is a network: {url} answers.")
    step = "What is embedded or already here works without one."
    return Finding(
        "note", f"There is no network, or not to {url}: nothing can be downloaded.", step
    )


def _usual_host() -> str:
    text = default_catalog().read_text("utf-8") if default_catalog().is_file() else ""
    hosts = Counter(re.findall(r"https://([\w.-]+\.\w+)", text)).most_common(1)
    return hosts[0][0] if hosts else ""


def check_browser() -> Finding:
    """See whether there is a browser for JupyterLab."""
    try:
        webbrowser.get()
    except webbrowser.Error:
        step = "`geowb lab --no-browser` prints the address to open elsewhere."
        return Finding("note", "No browser was found on this machine.", step)
    return Finding("ok", "There is a browser for JupyterLab.")


def check_data() -> Finding:
    """See where real data would be, and which settings come from the environment."""
    found = [f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith("GEOWB_")]
    told = f"Settings: {', '.join(found)}." if found else "No GEOWB_ variable is set."
    named = os.environ.get("GEOWB_DATA")
    if named and not Path(named).expanduser().is_dir():
        step = "Set it to a folder with data."
        return Finding("problem", f"GEOWB_DATA is {named}, which is no folder.", step)
    from geowb.catalog import open_catalog

    try:
        here = [row["name"] for row in open_catalog().table() if row["status"] == "here"]
    except GeowbError as error:
        return Finding("problem", f"{told} {error}")
    if here:
        step = "A run takes one with `-p data=NAME`."
        return Finding("ok", f"{told} Real data here: {', '.join(here)}. {step}")
    step = "`geowb catalog list` shows what can be had; GEOWB_DATA can name a folder with data."
    return Finding("note", f"{told} No real data is here, only the simulated world.", step)


def check_machine() -> Finding:
    """Count cores and memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    bytes_ = memory()
    told = f"Python {platform.python_version()} in {sys.prefix}, cores: {cores}, memory: "
    told += f"{bytes_ / 2**30:.0f} GiB." if bytes_ else "unknown."
    if bytes_ and bytes_ < 6 * 2**30:
        return Finding("note", told, "Stay with the teaching profile; close what else is open.")
    return Finding("ok", told)


def check_warm_kernels() -> Finding:
    """See whether kernels can be forked from a warm process."""
    from geowb.batch.kernel import preferred_kernel
    from geowb.warm import KERNEL, impossible, status

    kernel, why = preferred_kernel()
    if kernel != KERNEL:
        return Finding("note", f"Kernels import everything anew each time: {why or impossible()}")
    try:
        processes = status()
    except GeowbError as error:
        return Finding("note", f"No kernel can be forked from a warm process: {error}")
    for found in processes:
        if found["here"] and found["state"] == "failed":
            told = f"No kernel can be forked from the warm process: {found['why']}."
            return Finding("note", told, "Once that is mended: geowb warm start")
    return Finding("ok", f"Kernels named {KERNEL} start at once.")


CHECKS = (
    check_machine,
    check_packages,
    check_torch,
    check_warm_kernels,
    check_kernel,
    check_cache,
    check_runs,
    check_network,
    check_browser,
    check_data,
)
