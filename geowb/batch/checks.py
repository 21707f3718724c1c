"""What is wrong with a request, found before anything starts and written nowhere."""

from __future__ import annotations

import importlib
import json
import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from geowb.batch.studies import RULES, TYPES, Parameter, Study, load_study
from geowb.errors import GeowbError, RequestError, did_you_mean

__all__ = ["CHECKS", "as_text", "convert", "depends", "preflight", "profile_values"]

#: Checks of other rooms that a study's metadata can name, imported when one does.
CHECKS = {
    "source": "geowb.catalog:check_source",
    "labels": "geowb.labels:check_labels",
    "weights": "geowb.models.checks:check_weights",
    "accelerator": "geowb.models.checks:check_accelerator",
    "chip_size": "geowb.models.checks:check_chip_size",
    "masks": "geowb.gaps.masks:check_masks",
    "codecs": "geowb.nec.codecs:check_codecs",
    "worlds": "geowb.nec.codecs:check_worlds",
    "folds": "geowb.batch.checks:check_folds",
    "multiple": "geowb.batch.checks:check_multiple",
}
#: In the place of a value that is wrong, so that the rest of the request can be judged.
WRONG = object()
_TOLD = 10  # problems in one paragraph


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
    problems = opening(study, profile)
    given = {n: requested(study, n, v, problems) for n, v in (parameters or {}).items()}
    values = filled(study, starting_values(study, profile, given, problems) | given)
    problems += machine_checks(study, [values])
    if problems:
        raise refusal(study, problems)
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
        `choices`, `min`, `above`, `max` or `items`; names parameter, value and what is expected.
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
            f"{parameter.name}={shown(value)} is not {_EXPECTED.get(parameter.type, other)}."
        ) from None
    listed = isinstance(result, list)
    if listed and len(result) < (least := parameter.rules.get("items", 0)):
        raise ValueError(f"{parameter.name}={shown(result)} must have {least} item(s) or more.")
    for item in result if listed else [result]:
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


def check_multiple(value: int, *, of: int, rule: str) -> list[str]:
    """Say so if a number is no multiple of another parameter's; `rule` says what is wanted.

    >>> check_multiple(32, of=5, rule="steps is a multiple of val_every")
    ['steps is a multiple of val_every: 32 is none of 5; 30 and 35 are.']
    """
    if of < 1 or value % of == 0:
        return []
    below = value // of * of
    near = f"{below} and {below + of} are" if below else f"{of} is"
    return [f"{rule}: {value} is none of {of}; {near}."]


def check_folds(value: int) -> list[str]:
    """Say so if a cross-validation has one fold, which leaves nothing to train on.

    >>> check_folds(1)
    ['folds is 1: a cross-validation has 2 or more, and 0 makes one split.']
    """
    told = "folds is 1: a cross-validation has 2 or more, and 0 makes one split."
    return [told] if value == 1 else []


def opening(study: Study, profile: str | None) -> list[str]:
    """Say what is wrong with the study itself and the profile's name."""
    problems = list(study.problems)
    if profile is not None and profile not in study.profiles:
        problems.append(f"There is no profile '{profile}'. {did_you_mean(profile, study.profiles)}")
    return problems


def starting_values(
    study: Study, profile: str | None, given: Collection[str], problems: list[str]
) -> dict[str, Any]:
    """Values of the cell under those of the profile, but for the runner's and what is `given`."""
    values, wrong = {}, []
    for parameter in study.parameters.values():
        # A foreign notebook's default that is no literal is left for the notebook to make.
        known = parameter.type in TYPES and parameter.default is not None
        if known and parameter.rules.get("role") != "run_dir":
            values[parameter.name] = _default(parameter)
    for name, value in study.profiles.get(profile, {}).items():
        if name not in given:
            values[name] = _each(value, lambda v, name=name: requested(study, name, v, wrong))
    problems += [f"{problem} The profile '{profile}' sets it." for problem in wrong]
    return values


def profile_values(study: Study, profile: str | None, values: Mapping[str, Any]) -> dict[str, Any]:
    """Say what a profile sets; where that depends on another parameter, on its value in `values`.

    >>> profile_values(load_study("prithvi_tasks"), "full", {"task": "crop"})["worlds"]
    ... # doctest: +SKIP
    18
    """
    rules = study.profiles.get(profile, {})
    return {name: _chosen(rule, values) if depends(rule) else rule for name, rule in rules.items()}


def filled(study: Study, values: Mapping[str, Any]) -> dict[str, Any]:
    """Resolve what depends on other parameters: values of a profile, and empty ones.

    In the place of an empty value comes what the rule ``empty`` says, such as a task's own data.

    >>> values = filled(load_study("prithvi_tasks"), {"task": "flood", "data": ""})
    ... # doctest: +SKIP
    >>> values["data"]  # doctest: +SKIP
    'world_floods'
    """
    values = {name: _chosen(v, values) if depends(v) else v for name, v in values.items()}
    rules = {name: p.rules["empty"] for name, p in study.parameters.items() if "empty" in p.rules}
    open_ones = {name: rule for name, rule in rules.items() if values.get(name, WRONG) in ("", [])}
    return {**values, **{name: _resolved(rule, values) for name, rule in open_ones.items()}}


def requested(study: Study, name: str, value: Any, problems: list[str]) -> Any:
    """`value` as the parameter's type; `WRONG`, and a sentence in `problems`, where it is not."""
    try:
        return value if value is WRONG else convert(settable(study, name), value)
    except ValueError as error:
        problems.append(str(error))
        return WRONG


def settable(study: Study, name: str) -> Parameter:
    """Look up the parameter of this name; a ValueError if a request may not set it."""
    if name not in study.parameters:
        raise ValueError(f"There is no parameter '{name}'. {did_you_mean(name, study.parameters)}")
    if study.parameters[name].rules.get("role") == "run_dir":
        raise ValueError(f"'{name}' is set by the runner; choose a folder with --out.")
    return study.parameters[name]


def machine_checks(
    study: Study, runs: Sequence[Mapping[str, Any]], varied: Collection[str] = ()
) -> list[str]:
    """Run the checks that the study's metadata names, each once for the same arguments.

    A problem that only some of the runs have tells how many, and what the first
    of them has of the parameters that are `varied`.
    """
    # What each check is called with beside the value; names of parameters stand for their values.
    checked = [
        (p, {name: rule for name, rule in p.rules.items() if name not in RULES})
        for p in study.parameters.values()
        if "check" in p.rules
    ]
    answers: dict[str, list[str]] = {}
    found: dict[str, list[str]] = {}  # problem -> what each run with it was asked
    for values in runs:
        told: dict[str, str] = {}
        for parameter, arguments in checked:
            looked = [parameter.name, *sorted(_references(arguments, values))]
            if any(values.get(name, WRONG) is WRONG for name in looked):
                continue
            value, resolved = values[parameter.name], _resolved(arguments, values)
            key = same_key([parameter.rules["check"], value, resolved])
            if key not in answers:
                answers[key] = _answer(parameter, value, resolved)
            asked = ", ".join(f"{n}={shown(values[n])}" for n in looked if n in varied)
            for problem in answers[key]:
                told.setdefault(problem, asked)
        for problem, asked in told.items():
            found.setdefault(problem, []).append(asked)
    return [f"{problem}{_share(asked, len(runs))}" for problem, asked in found.items()]


def refusal(study: Study, problems: Sequence[str]) -> RequestError:
    """Error that tells all problems, or the first ten, in one paragraph.

    >>> from geowb.batch import load_study
    >>> refusal(load_study("agb_transfer"), ["lr is wrong."])
    RequestError('agb_transfer was not started. lr is wrong.')
    """
    if len(problems) == 1:
        return RequestError(f"{study.name} was not started. {problems[0]}")
    listed = [f"({i}) {problem}" for i, problem in enumerate(problems[:_TOLD], 1)]
    listed += [f"And {len(problems) - _TOLD:,} more."] if len(problems) > _TOLD else []
    told = f"{study.name} was not started, for {len(problems):,} reasons."
    return RequestError(" ".join([told, *listed]))


def shown(value: Any) -> str:
    """`value` as it stands in a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def same_key(value: Any) -> str:
    """Text that is the same for the same values."""
    return json.dumps(value, sort_keys=True, default=repr)


def _default(parameter: Parameter) -> Any:
    try:
        return _convert(parameter.default, parameter.type)  # 1 is 1.0 for a float, as when given
    except (ValueError, TypeError, LookupError, OverflowError):
        return parameter.default  # a foreign notebook's annotation says something else


def _share(asked: Sequence[str], runs: int) -> str:
    if len(asked) == runs:
        return ""
    first = f", first with {asked[0]}" if asked[0] else ""
    return f" (In {len(asked):,} of {runs:,} runs{first}.)"


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
    rules, told = parameter.rules, f"{parameter.name}={shown(item)}"
    if "choices" in rules and item not in rules["choices"]:
        raise ValueError(f"{told} is not a choice. {did_you_mean(item, rules['choices'])}")
    if "min" in rules and item < rules["min"]:
        raise ValueError(f"{told} is below the smallest value allowed, {rules['min']}.")
    if "above" in rules and item <= rules["above"]:
        raise ValueError(f"{told} is not above {rules['above']}.")
    if "max" in rules and item > rules["max"]:
        raise ValueError(f"{told} is above the largest value allowed, {rules['max']}.")


def _references(rule: Any, values: Mapping[str, Any]) -> set[str]:
    """Names of other parameters in what a check is called with."""
    if isinstance(rule, dict):
        return {name for part in rule.values() for name in _references(part, values)}
    return {rule} if isinstance(rule, str) and rule in values else set()


def _resolved(value: Any, values: Mapping[str, Any]) -> Any:
    if depends(value):  # one rule for each choice of a parameter
        return _resolved(_chosen(value, values), values)
    if isinstance(value, dict):
        return {key: _resolved(item, values) for key, item in value.items()}
    return values.get(value, value) if isinstance(value, str) else value


def depends(value: Any) -> bool:
    """Whether something goes by the value of another parameter.

    >>> depends({"by": "task", "crop": 18, "else": 6}), depends(6)
    (True, False)
    """
    return isinstance(value, Mapping) and "by" in value


def _chosen(rule: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
    """Pick what a rule has for the value of the parameter that it goes by."""
    chosen, other = values.get(rule["by"]), rule.get("else", "")
    return rule.get(chosen, other) if isinstance(chosen, str) else other


def _each(value: Any, make: Callable[[Any], Any]) -> Any:
    """Make something of a value, or of each that it may be by another parameter."""
    if not depends(value):
        return make(value)
    made = {key: item if key == "by" else make(item) for key, item in value.items()}
    return WRONG if any(item is WRONG for item in made.values()) else made


def _answer(parameter: Parameter, value: Any, arguments: dict[str, Any]) -> list[str]:
    name, check = parameter.name, parameter.rules["check"]
    if check not in CHECKS:
        return [f"'{name}' has an unknown check '{check}'. {did_you_mean(check, CHECKS)}"]
    if arguments.get("bands") == "HLS6":
        from geowb.bands import HLS6

        arguments["bands"] = HLS6
    module, function = CHECKS[check].split(":")
    try:
        return getattr(importlib.import_module(module), function)(value, **arguments)
    except ModuleNotFoundError as error:
        return [f"'{name}' cannot be checked: the package {error.name} is not installed."]
    except GeowbError as error:
        return [str(error)]
