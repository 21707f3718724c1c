"""What is wrong with a request, found before anything starts and written nowhere."""

from __future__ import annotations

import importlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from geowb.batch.studies import RULES, TYPES, Parameter, Study, load_study
from geowb.errors import GeowbError, RequestError, did_you_mean

__all__ = ["CHECKS", "as_text", "convert", "preflight"]

#: Checks of other rooms that a study's metadata can name, imported when one does.
CHECKS = {
    "source": "geowb.catalog:check_source",
    "weights": "geowb.models.registry:check_weights",
    "accelerator": "geowb.models.registry:check_accelerator",
}


def preflight(
    study: str | Path | Study,
    parameters: Mapping[str, Any] | None = None,
    *,
    profile: str | None = None,
) -> tuple[Study, dict[str, Any]]:
    """Check a request and expand it to the value of every parameter.

    A given value wins over the profile's, which wins over the cell's default.

    >>> study, values = preflight("agb_transfer", {"epochs": "3"})  # doctest: +SKIP
    >>> values["epochs"]  # doctest: +SKIP
    3

    Returns
    -------
    tuple
        The study, and its parameters' values in the order of the cell, without
        the one of role ``run_dir``, which the runner sets.

    Raises
    ------
    RequestError
        One paragraph with everything that is wrong. No file has been written.
    """
    study = study if isinstance(study, Study) else load_study(study)
    problems = list(study.problems)
    if profile is not None and profile not in study.profiles:
        problems.append(f"There is no profile '{profile}'. {did_you_mean(profile, study.profiles)}")
    preset, given = study.profiles.get(profile, {}), dict(parameters or {})
    # A foreign notebook's default that is no literal is left for the notebook to make.
    known = [p for p in study.parameters.values() if p.type in TYPES and p.default is not None]
    values, bad = {p.name: p.default for p in known}, set()
    for name, value in {**preset, **given}.items():
        try:
            values[name] = _requested(study, name, value)
        except ValueError as error:
            bad.add(name)
            origin = "" if name in given else f" The profile '{profile}' sets it."
            problems.append(f"{error}{origin}")
    for parameter in study.parameters.values():
        if parameter.name in values and not bad & {parameter.name, *_references(parameter, values)}:
            problems += _checked(parameter, values)
    if problems:
        raise RequestError(_paragraph(study.name, problems))
    values.pop(study.with_role("run_dir") or "", None)
    return study, values


def sources(study: Study, values: Mapping[str, Any]) -> dict[str, str]:
    """Parameters that name a catalog entry, each with the path of its catalog.

    >>> sources(*preflight("agb_transfer"))  # doctest: +SKIP
    {'data': ''}
    """
    named = [p for p in study.parameters.values() if p.rules.get("check") == "source"]
    return {p.name: _resolved(p.rules.get("catalog", ""), values) for p in named}


def convert(parameter: Parameter, value: Any) -> Any:
    """`value` as the parameter's type, from text or from Python.

    Text is read by the type: ``3``, ``1e-3``, ``true``, and for lists JSON or
    items with commas between them. An int will do for a float, a tuple or an
    array for a list, a path for a str; a bool will not do for a number.

    >>> convert(Parameter("bands", "list[str]", []), "RED, NIR_NARROW")
    ['RED', 'NIR_NARROW']

    Raises
    ------
    ValueError
        The value is not of the type, not finite, or against the study's
        `choices`, `min`, `above` or `max`; names parameter, value and what is expected.
    """
    try:
        if not parameter.type:  # a foreign notebook's parameter without annotation, None or so
            return json.loads(json.dumps(value, allow_nan=False))
        if parameter.type not in TYPES:
            raise ValueError
        result = _convert(value, parameter.type)
    except (ValueError, TypeError, LookupError, OverflowError):
        other = f"possible: the type {parameter.type or 'of its value'} cannot be passed on"
        raise ValueError(
            f"{parameter.name}={_shown(value)} is not {_EXPECTED.get(parameter.type, other)}."
        ) from None
    for item in result if isinstance(result, list) else [result]:
        _check_range(parameter, item)
    return result


def as_text(value: Any) -> str:
    """`value` as it is typed after ``-p NAME=``; `convert` gives it back.

    >>> as_text([1, 2]), as_text(True), as_text("a, b")
    ('[1, 2]', 'true', 'a, b')
    """
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


_EXPECTED = {
    "int": "a whole number (int)",
    "float": "a finite number (float)",
    "bool": "true or false (bool)",
    "str": "text (str)",
    "list[str]": 'a list of text: a,b or ["a", "b"] (list[str])',
    "list[int]": "a list of whole numbers: 1,2 or [1, 2] (list[int])",
    "list[float]": "a list of finite numbers: 0.1,2 or [0.1, 2] (list[float])",
}


def _requested(study: Study, name: str, value: Any) -> Any:
    if name not in study.parameters:
        raise ValueError(f"There is no parameter '{name}'. {did_you_mean(name, study.parameters)}")
    if study.parameters[name].rules.get("role") == "run_dir":
        raise ValueError(f"'{name}' is set by the runner; choose a folder with --out.")
    return convert(study.parameters[name], value)


def _convert(value: Any, kind: str) -> Any:
    if kind.startswith("list["):
        return [_convert(item, kind[5:-1]) for item in _items(value)]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()  # numpy and torch scalars
    if kind == "str":
        text = os.fspath(value)
        if not isinstance(text, str):
            raise TypeError
        text.encode()  # a lone surrogate cannot be stored in a notebook
        return str(text)
    if isinstance(value, str):
        value = _READ[kind](value.strip().lower())
    if isinstance(value, bool) != (kind == "bool"):
        raise TypeError
    if kind == "float" and isinstance(value, int):
        value = float(value)
    if type(value).__name__ != kind or (kind == "float" and not math.isfinite(value)):
        raise TypeError
    return value


_BOOLS = {"true": True, "yes": True, "on": True, "1": True}
_BOOLS |= {"false": False, "no": False, "off": False, "0": False}
_READ = {"int": int, "float": float, "bool": _BOOLS.__getitem__}


def _items(value: Any) -> Sequence[Any]:
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("["):
            return json.loads(text)
        items = [item.strip() for item in text.split(",")] if text else []
        if "" in items:
            raise ValueError
        return items
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, bytes):
        raise TypeError
    return value


def _check_range(parameter: Parameter, item: Any) -> None:
    rules, told = parameter.rules, f"{parameter.name}={_shown(item)}"
    if "choices" in rules and item not in rules["choices"]:
        raise ValueError(f"{told} is not a choice. {did_you_mean(item, rules['choices'])}")
    if "min" in rules and item < rules["min"]:
        raise ValueError(f"{told} is below the smallest value allowed, {rules['min']}.")
    if "above" in rules and item <= rules["above"]:
        raise ValueError(f"{told} is not above {rules['above']}.")
    if "max" in rules and item > rules["max"]:
        raise ValueError(f"{told} is above the largest value allowed, {rules['max']}.")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _arguments(parameter: Parameter) -> dict[str, Any]:
    """Take what the parameter's check is called with from the metadata, unresolved."""
    rules = parameter.rules
    return {name: rule for name, rule in rules.items() if name not in RULES}


def _references(parameter: Parameter, values: Mapping[str, Any]) -> set[str]:
    """Names of other parameters that the parameter's check looks at."""
    found: set[str] = set()
    for value in _arguments(parameter).values():
        found |= {
            v
            for v in (value.values() if isinstance(value, dict) else [value])
            if isinstance(v, str) and v in values
        }
    return found


def _resolved(value: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        return {key: _resolved(item, values) for key, item in value.items()}
    return values.get(value, value) if isinstance(value, str) else value


def _checked(parameter: Parameter, values: Mapping[str, Any]) -> list[str]:
    """Run the check that the parameter's metadata names."""
    name, value = parameter.rules.get("check"), values[parameter.name]
    if name is None:
        return []
    if name not in CHECKS:
        return [f"'{parameter.name}' has an unknown check '{name}'. {did_you_mean(name, CHECKS)}"]
    arguments = {k: _resolved(v, values) for k, v in _arguments(parameter).items()}
    if arguments.get("bands") == "HLS6":
        from geowb.bands import HLS6

        arguments["bands"] = HLS6
    module, function = CHECKS[name].split(":")
    try:
        return getattr(importlib.import_module(module), function)(value, **arguments)
    except ModuleNotFoundError as error:
        return [f"'{parameter.name}' cannot be checked: the package {error.name} is not installed."]
    except GeowbError as error:
        return [str(error)]


def _paragraph(study: str, problems: Sequence[str]) -> str:
    if len(problems) == 1:
        return f"{study} was not started. {problems[0]}"
    listed = " ".join(f"({i}) {problem}" for i, problem in enumerate(problems, 1))
    return f"{study} was not started, for {len(problems)} reasons. {listed}"
