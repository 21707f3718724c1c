"""What geowb's widgets leave in a notebook: a view that lives as long as its kernel, and a picture.

A widget of geowb shows two outputs: one that holds the view, whose metadata are
``{"geowb": "view"}``, and a picture of the same, ``{"geowb": "picture"}``, which stays in the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["STATE", "VIEW", "Removed", "is_view", "without_views"]

VIEW = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
_REFERENCE = re.compile(r"IPY_MODEL_([\w-]+)")


@dataclass(frozen=True)
class Removed:
    """An output that was taken out of a cell: which cell, at which place, what it was."""

    cell: str  # its id; empty in notebooks whose cells have none
    index: int
    output: dict[str, Any]

    @property
    def model(self) -> str:
        """Number of the widget's model in its kernel; empty when it is unknown."""
        view = self.output.get("data", {}).get(VIEW)
        return str(view.get("model_id", "")) if isinstance(view, Mapping) else ""


def is_view(output: Mapping[str, Any]) -> bool:
    """Whether an output is the view of a widget of geowb.

    >>> is_view({"output_type": "display_data", "data": {}, "metadata": {"geowb": "view"}})
    True
    """
    return output.get("metadata", {}).get("geowb") == "view"


def without_views(notebook: dict[str, Any]) -> list[Removed]:
    """Take the views of geowb's widgets out of a notebook, and say what was taken.

    What the notebook stores of these widgets' state goes too. Other people's widgets keep theirs.

    >>> view = {"output_type": "display_data", "data": {}, "metadata": {"geowb": "view"}}
    >>> cell = {"cell_type": "code", "id": "a", "outputs": [view]}
    >>> [(one.cell, one.index) for one in without_views({"cells": [cell], "metadata": {}})]
    [('a', 0)]
    >>> cell["outputs"]
    []
    """
    removed, others = [], []
    for cell in notebook.get("cells", []):
        outputs = cell.get("outputs") or []
        for index, output in enumerate(outputs):
            if is_view(output):
                removed.append(Removed(str(cell.get("id", "")), index, output))
            elif VIEW in output.get("data", {}):
                others.append(output["data"][VIEW])
        if outputs:
            cell["outputs"] = [output for output in outputs if not is_view(output)]
    if removed and "widgets" in notebook.get("metadata", {}):
        _forget(notebook["metadata"], [one.model for one in removed], others)
    return removed


def _forget(metadata: dict[str, Any], ours: list[str], others: list[Any]) -> None:
    """Take the state of our widgets out of a notebook's metadata; all of it if nobody else's is."""
    if not others:
        del metadata["widgets"]
        return
    models = metadata["widgets"].get(STATE, {}).get("state", {})
    theirs = [str(view.get("model_id", "")) for view in others if isinstance(view, Mapping)]
    for model in _below(models, ours) - _below(models, theirs):
        del models[model]


def _below(models: Mapping[str, Any], first: Iterable[str]) -> set[str]:
    """Models that some models are made of, themselves included."""
    found: set[str] = set()
    waiting = [model for model in first if model in models]
    while waiting:
        if (model := waiting.pop()) not in found:
            found.add(model)
            named = _REFERENCE.findall(str(models[model].get("state", "")))
            waiting += [one for one in named if one in models]
    return found
