"""The examples in the docstrings are true."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "module",
    [
        "errors",
        "batch.asked",
        "batch.checks",
        "batch.folder",
        "batch.grid",
        "batch.runner",
        "batch.studies",
        "machine",
        "warm.changes",
        "warm.places",
        "warm.provisioner",
    ],
)
def test_examples(module):
    result = doctest.testmod(importlib.import_module(f"geowb.{module}"))
    assert result.attempted > 0
    assert result.failed == 0
