"""What a sweep asks for -> a checked list of settings, before anything starts.

How values are written is in `geowb.batch.asked`; here they are counted, combined and judged.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geowb.batch.asked import Range, csv_rows, item, items, lower, numbered, read_settings
from geowb.batch.checks import (
    WRONG,
    convert,
    machine_checks,
    opening,
    refusal,
    requested,
    settable,
    shown,
    starting_values,
)
from geowb.batch.studies import Parameter, Study, load_study

__all__ = ["LARGEST", "Plan", "check", "plan"]

#: Runs that one sweep may have.
LARGEST = 10_000

Setting = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """The runs of a sweep: every value of each, and what of it was asked for.

    >>> plan("agb_transfer", {"epochs": "1..3"}, checks=False).given
    ({'epochs': 1}, {'epochs': 2}, {'epochs': 3})
    """

    study: Study
    profile: str | None
    values: tuple[Setting, ...]
    given: tuple[Setting, ...]
    varied: tuple[str, ...]


def plan(
    study: str | Path | Study,
    grid: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    *,
    profile: str | None = None,
    settings: str | Path | None = None,
    repeat: int | None = None,
    checks: bool = True,
) -> Plan:
    """Expand what a sweep asks for to the values of each run, and judge all of it.

    >>> found = plan("agb_transfer", {"epochs": "1,2"}, repeat=2, checks=False)
    >>> [(values["epochs"], values["seed"]) for values in found.values]
    [(1, 0), (1, 1), (2, 0), (2, 1)]

    Parameters
    ----------
    study
        A study's name, the path of a notebook, or a study that was loaded.
    grid
        Name -> value or values: all combinations are run, the last name
        varies fastest. Text is read as after ``-p NAME=``; a list varies a
        scalar parameter, and is one value of a list parameter, which a list
        of lists varies. Or a list of such mappings, each one run.
    profile
        Values for what is not given.
    settings
        A file, combined with the grid: ``.csv`` with a run a row, the names
        in the first (an empty cell is not given; spaces around one do not
        count), or ``.yaml``, ``.json`` with either form of `grid`.
    repeat
        Runs of each setting, with the seeds 0, 1, 2, ...
    checks
        Whether data, weights and so on are looked up here; `check` does it later.

    Raises
    ------
    RequestError
        One paragraph with everything that is wrong. No file has been written.
    """
    study = study if isinstance(study, Study) else load_study(study)
    problems = opening(study, profile)
    axes = _axes(study, grid, settings, repeat, problems)
    always = {name for axis in axes for name in axis.always}
    start = starting_values(study, profile, always, problems)
    total = math.prod(axis.count for axis in axes)
    problems += [_too_many(total)] if total > LARGEST else []
    # An axis that is too long by itself is not made; its values are judged no further.
    made = [axis.make(study, start, problems) for axis in axes if axis.count <= LARGEST]
    made = made if total <= LARGEST else []
    given = tuple({k: v for part in c for k, v in part.items()} for c in itertools.product(*made))
    result = Plan(study, profile, *_expanded(study, start, given))
    if checks and total <= LARGEST:
        problems += check(result)
    if problems:
        raise refusal(study, problems)
    return result


def check(plan: Plan) -> list[str]:
    """Run the checks of data, weights and so on that a plan needs, each once.

    >>> check(plan("agb_transfer", {"data": "world"}, checks=False))
    []
    """
    return machine_checks(plan.study, plan.values, plan.varied)


def _too_many(total: int) -> str:
    number = f"{total:,}" if total < 10**15 else "more than 10^15"
    return f"These are {number} runs, more than {LARGEST:,}: take fewer values or larger steps."


def _expanded(
    study: Study, start: Setting, given: tuple[Setting, ...]
) -> tuple[tuple[Setting, ...], tuple[Setting, ...], tuple[str, ...]]:
    values = tuple(start | setting for setting in given)
    role = study.with_role("run_dir")
    for one in values:
        one.pop(role, None)
    asked = {name for setting in given for name in setting}
    varied = [n for n in study.parameters if n in asked and _distinct(v.get(n) for v in values) > 1]
    return values, given, tuple(varied)


def _distinct(values: Iterable[Any]) -> int:
    return len({_key(value) for value in values})


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=repr)


# What is varied: values of one parameter, or rows that set several at a time.


@dataclass(frozen=True)
class _Values:
    """Values of one parameter; `items` are as given, or ranges that are not made yet."""

    name: str
    items: Sequence[Any]
    where: str = ""

    @property
    def always(self) -> set[str]:
        return {self.name}

    names = always

    @property
    def count(self) -> int:
        return sum(item.count if isinstance(item, Range) else 1 for item in self.items)

    def make(self, study: Study, start: Setting, problems: list[str]) -> list[Setting]:
        wrong: list[str] = []
        each = ([i] if not isinstance(i, Range) else i for i in self.items)
        flat = itertools.chain.from_iterable(each)
        values = [requested(study, self.name, value, wrong) for value in flat]
        twice = _repeated(value for value in values if value is not WRONG)
        wrong += [f"{self.name}={shown(value)} is given twice." for value in twice]
        problems += _placed(self.where, wrong)
        return [{self.name: value} for value in values]


@dataclass(frozen=True)
class _Rows:
    """Settings that were written out, each with its number in `where`."""

    where: str  # "settings.csv"
    kind: str  # "row" or "item"
    rows: Sequence[tuple[int, Mapping[str, Any]]]

    @property
    def always(self) -> set[str]:
        return set.intersection(*({*row} for _, row in self.rows)) if self.rows else set()

    @property
    def names(self) -> set[str]:
        return {name for _, row in self.rows for name in row}

    @property
    def count(self) -> int:
        return len(self.rows)

    def make(self, study: Study, start: Setting, problems: list[str]) -> list[Setting]:
        made, found = [], {}
        for number, row in self.rows:
            setting: Setting = {}
            for name, value in row.items():
                wrong: list[str] = []
                setting[name] = requested(study, name, value, wrong)
                for problem in wrong:
                    found.setdefault((name, problem), []).append(number)
            made.append(setting)
        for (name, problem), numbers in found.items():
            column = f", column '{name}'" if self.kind == "row" else ""
            problems.append(f"{self._place(numbers)}{column}: {lower(problem)}")
        problems += self._twice(start, made)
        return made

    def _twice(self, start: Setting, made: Sequence[Setting]) -> Iterator[str]:
        seen: dict[str, list[int]] = {}
        for (number, _), setting in zip(self.rows, made, strict=True):
            if not any(value is WRONG for value in setting.values()):
                seen.setdefault(_key(start | setting), []).append(number)
        for numbers in seen.values():
            if len(numbers) > 1:
                yield f"{self._place(numbers)}: the same values of all parameters."

    def _place(self, numbers: Sequence[int]) -> str:
        return f"{self.where}, {numbered(self.kind, numbers)}"


def _repeated(values: Iterable[Any]) -> list[Any]:
    counts: dict[str, list[Any]] = {}
    for value in values:
        counts.setdefault(_key(value), []).append(value)
    return [same[0] for same in counts.values() if len(same) > 1]


def _axes(
    study: Study, grid: Any, settings: Any, repeat: Any, problems: list[str]
) -> list[_Values | _Rows]:
    """All that is varied, slowest first; what cannot be read is in `problems`."""
    file = [] if settings is None else _file_axes(study, Path(settings), problems)
    rest = [] if grid is None else _grid_axes(study, grid, "", problems)
    in_file, in_grid = ({name for axis in axes for name in axis.names} for axes in (file, rest))
    for name in sorted(in_file & in_grid, key=str):
        problems.append(
            f"'{name}' is both in {Path(settings).name} and beside it (-p): leave one of them out."
        )
    return file + rest + _repeat_axes(study, repeat, in_file | in_grid, problems)


def _repeat_axes(study: Study, repeat: Any, taken: set[str], problems: list[str]) -> list[_Values]:
    if repeat is None:
        return []
    seed, wrong = study.parameters.get("seed"), []
    try:
        repeat = convert(Parameter("repeat", "int", None, "", {"min": 1}), repeat)
    except ValueError as error:
        wrong.append(str(error))
    if seed is None or seed.type != "int":
        wrong.append("There is no whole-number parameter 'seed', which repeat fills: leave it out.")
    if "seed" in taken:
        wrong.append("'seed' is given, and repeat fills it too: leave one of them out.")
    problems += wrong
    return [] if wrong else [_Values("seed", [Range(0, 1, repeat)])]


def _file_axes(study: Study, path: Path, problems: list[str]) -> list[_Values] | list[_Rows]:
    try:
        content = read_settings(path)
    except ValueError as error:
        problems.append(str(error))
        return []
    if path.suffix.lower() != ".csv":
        return _grid_axes(study, content, path.name, problems)
    rows = csv_rows(study, path.name, content, problems)
    return [_Rows(path.name, "row", rows)] if rows else []


def _grid_axes(
    study: Study, grid: Any, where: str, problems: list[str]
) -> list[_Values] | list[_Rows]:
    if isinstance(grid, Mapping):
        axes = [_values(study, name, value, where, problems) for name, value in grid.items()]
        return [axis for axis in axes if axis]
    where = where or "The list of settings"
    if not isinstance(grid, Sequence) or isinstance(grid, str | bytes):
        told = f"{where}: neither a mapping of names to values nor a list of such mappings"
        problems.append(f"{told}, but {shown(grid)}.")
        return []
    if not grid:
        problems.append(f"{where} is empty.")
    rows = [(i, row) for i, row in enumerate(grid, 1) if isinstance(row, Mapping)]
    wrong = [i for i, row in enumerate(grid, 1) if not isinstance(row, Mapping)]
    if wrong:
        problems.append(f"{where}, {numbered('item', wrong)}: not a mapping of names to values.")
    return [_Rows(where, "item", rows)] if rows else []


def _values(study: Study, name: str, value: Any, where: str, problems: list[str]) -> _Values | None:
    found: list[Any] = []
    wrong: list[str] = []
    try:
        parameter = settable(study, name)
        for one in items(parameter, value):
            try:
                found.append(item(parameter, one))
            except ValueError as error:
                wrong.append(str(error))
    except ValueError as error:
        wrong.append(str(error))
    problems += _placed(where, wrong)
    if name not in study.parameters:
        return None
    return _Values(name, [*found, WRONG] if wrong else found, where)


def _placed(where: str, problems: Iterable[str]) -> list[str]:
    """Each problem once, with the file that it is in."""
    return [f"{where}: {lower(p)}" if where else p for p in dict.fromkeys(problems)]
