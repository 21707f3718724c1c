"""What a warm process imports, and whether kernels can be forked from it afterwards."""

from __future__ import annotations

import builtins
import contextlib
import importlib
import importlib.util
import os
import pkgutil
import resource
import sys
from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import psutil

__all__ = ["MODULES", "Unfit", "import_all", "resident", "why_unsound"]

#: What is imported when nobody says otherwise: geowb, and what it loads where it is used.
MODULES = (
    *("geowb.*", "terratorch", "holoviews.plotting.mpl", "leafmap", "ipywidgets", "rioxarray"),
    *("distributed", "h5py", "exactextract", "localtileserver"),
)
#: Of `geowb.*` not: the command line, and this.
_NOT = ("geowb.cli", "geowb.warm", "geowb.doctor")
_GPUS = ("/dev/nvidia", "/dev/dxg", "/dev/kfd")  # files of CUDA, of it in Windows, of ROCm


class Unfit(Exception):
    """No kernel can be forked from here; the message says why."""


def import_all(modules: Sequence[str], memory: float) -> tuple[list[str], dict[str, str]]:
    """Import modules, and of names with ``.*`` all that is in the package.

    >>> import_all(["json", "no_such_package"], 4e9)[0]  # doctest: +SKIP
    ['no_such_package']

    Parameters
    ----------
    memory
        Bytes that the data of this process may take.

    Returns
    -------
    list of str
        What is not installed.
    dict
        Variables of the environment that the imports have set.

    Raises
    ------
    Unfit
        An import fails, starts a thread, or takes more memory.
    """
    before, missing = dict(os.environ), []
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = int(memory) if hard == resource.RLIM_INFINITY else min(int(memory), hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    try:
        with _as_in_a_notebook():
            for name in modules:
                _import(name, missing, memory)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    return missing, {k: v for k, v in os.environ.items() if before.get(k) != v}


def why_unsound(limit: float) -> str:
    """Say why a fork of this process would not be sound."""
    if _threads() > 1:
        return "the imports started a thread, and no fork has it"
    if _touched_cuda():
        return "the imports have touched CUDA, and no fork could use it"
    memory = resident()
    if memory > limit:
        return (
            f"the imports take {memory / 1e9:.2f} GB, more than the limit of {limit / 1e9:.3g} GB"
        )
    return ""


def _import(name: str, missing: list[str], memory: float) -> None:
    """Import a module, or with ``.*`` a package and all in it; note what is not installed."""
    package = name.removesuffix(".*")
    try:
        if not _is_there(package):
            _note(package, missing)
            return
        found = importlib.import_module(package)
        if package != name:
            for entry in pkgutil.walk_packages(found.__path__, f"{package}."):
                if not entry.name.startswith(_NOT) and not entry.name.endswith("__main__"):
                    _import_one(entry.name, missing)
    except MemoryError:
        raise Unfit(
            f"importing {name} takes more than {memory / 1e9:.3g} GB of memory, the limit"
        ) from None
    except Exception as error:
        raise Unfit(f"importing {name} fails: {type(error).__name__}: {error}") from error
    if _threads() > 1:
        raise Unfit(f"importing {name} starts {_threads() - 1} thread(s), which no fork has")


def _import_one(name: str, missing: list[str]) -> None:
    """Import a module of a package; one whose own requirement is not installed is left out."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not error.name or _is_there(error.name):
            raise
        _note(error.name, missing)


def _note(name: str, missing: list[str]) -> None:
    if name not in missing:
        missing.append(name)


@contextlib.contextmanager
def _as_in_a_notebook() -> Iterator[None]:
    """Have libraries that look at their import whether they are in a notebook see that they are.

    Lightning looks for a prompt, tqdm for the kernel's modules, pandas (which then shows 20
    columns) and param for IPython's builtin.
    """
    sys.ps1, sys.ps2 = "In : ", "...: "
    for name in ("ipykernel.kernelapp", "ipykernel.ipkernel", "threadpoolctl"):
        importlib.import_module(name)
    builtins.get_ipython = lambda: SimpleNamespace(kernel=None)
    try:
        yield
    finally:
        del builtins.get_ipython


def _is_there(name: str) -> bool:
    """Whether the package of a module is installed."""
    return importlib.util.find_spec(name.partition(".")[0]) is not None


def _threads() -> int:
    return psutil.Process().num_threads()


def _touched_cuda() -> bool:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return True
    for file in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            if os.readlink(f"/proc/self/fd/{file}").startswith(_GPUS):  # noqa: PTH115
                return True
        except OSError:  # the one that lists them
            continue
    return False


def resident() -> int:
    """Resident memory, bytes."""
    return psutil.Process().memory_info().rss
