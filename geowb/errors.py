"""Errors that geowb raises: each names the value, the place and the next step.

The command line turns them into one paragraph on standard error and the
exit status that the class carries: 2 when the request was wrong and nothing
was started, 1 when the work itself failed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "CatalogError",
    "ChecksumError",
    "CorruptStream",
    "DataError",
    "DownloadError",
    "GeowbError",
    "ModelError",
    "NotDifferentiable",
    "RequestError",
    "RunFailed",
    "WeightsMismatch",
    "did_you_mean",
]


class GeowbError(Exception):
    """Base class of all errors that geowb raises on purpose."""

    exit_status = 1


class RequestError(GeowbError):
    """The request was wrong and was found out before anything started."""

    exit_status = 2


class CatalogError(RequestError):
    """A catalog file does not hold to the catalog's rules."""


class DataError(GeowbError):
    """Data that was opened is not what the caller needs."""


class CorruptStream(DataError):
    """Compressed data are damaged, or were made with other tables than those at hand."""


class DownloadError(GeowbError):
    """Remote data could not be had: no network, a server's refusal, a broken file."""


class ChecksumError(DownloadError):
    """A file's digest is not the one that its publisher gives."""


class ModelError(GeowbError):
    """A model cannot be built, saved or used as asked."""


class NotDifferentiable(ModelError):
    """A model's output does not depend on its input by anything that has a gradient."""


class WeightsMismatch(ModelError):
    """Weights do not fit the model; the message names keys and shapes."""


class RunFailed(GeowbError):
    """A study's notebook raised; its run directory is kept."""


def did_you_mean(value: str, options: Iterable[str]) -> str:
    """Sentence that offers the nearest of `options`, or lists them all.

    >>> did_you_mean("epochz", ["epochs", "seed"])
    "Did you mean 'epochs'?"
    >>> did_you_mean("xyz", ["epochs", "seed"])
    'Known: epochs, seed.'
    """
    known = sorted(map(str, options))
    near = difflib.get_close_matches(str(value), known, n=1, cutoff=0.6)
    if near:
        return f"Did you mean '{near[0]}'?"
    return f"Known: {', '.join(known)}." if known else "There is none."
