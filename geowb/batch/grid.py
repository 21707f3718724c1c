"""What a sweep asks for -> a checked list of settings, before anything starts.

How values are written is in `geowb.batch.asked`; here they are counted, combined and judged.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geowb.batch.asked import Range, csv_rows, item, items, numbered, placed, read_settings
from geowb.batch.checks import (
    WRONG,
    convert,
    filled,
    machine_checks,
    opening,
    refusal,
    requested,
    same_key,
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
    if total > LARGEST:
        number = f"{total:,}" if total < 10**15 else "more than 10^15"
        told = f"These are {number} runs, more than {LARGEST:,}"
        problems.append(f"{told}: take fewer values or larger steps.")
    # An axis that is too long by itself is not made; its values are judged no further.
    made = [axis.make(study, start, problems) for axis in axes if axis.count <= LARGEST]
    if total > LARGEST:
        raise refusal(study, problems)
    given = tuple({k: v for part in c for k, v in part.items()} for c in itertools.product(*made))
    values = tuple(filled(study, start | setting) for setting in given)
    asked = {name for axis in axes for name in axis.names}.intersection(study.parameters)
    differ = {name for name in asked if len({same_key(v.get(name)) for v in values}) > 1}
    varied = tuple(name for name in study.parameters if name in differ)
    result = Plan(study, profile, values, given, varied)
    if checks:
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


@dataclass(frozen=True)
class _Axis:
    """What is varied: values of one parameter, or rows that set several at a time."""

    where: str  # "settings.csv"
    kind: str  # "row" or "item"; "" for values of one parameter
    names: set[str]
    always: set[str]  # the names that every row has
    count: int
    rows: Iterable[tuple[int, Mapping[str, Any]]]  # each with its number; made as they are read

    def make(self, study: Study, start: Setting, problems: list[str]) -> list[Setting]:
        """Read and judge the rows; what is wrong in several of them is one problem."""
        made: list[Setting] = []
        found: dict[tuple[str, str], list[int]] = {}
        same: dict[str, list[int]] = {}
        for number, row in self.rows:
            setting: Setting = {}
            for name, value in row.items():
                wrong: list[str] = []
                setting[name] = requested(study, name, value, wrong)
                for problem in wrong:
                    found.setdefault((name, problem), []).append(number)
            made.append(setting)
            if not any(value is WRONG for value in setting.values()):
                same.setdefault(same_key(start | setting), []).append(number)
        told = [placed(self._place(n, name), problem) for (name, problem), n in found.items()]
        for numbers in same.values():
            if len(numbers) > 1:
                twice = "the same values of all parameters."
                if not self.kind:
                    (name,) = self.names
                    twice = f"{name}={shown(made[numbers[0]][name])} is given twice."
                told.append(placed(self._place(numbers), twice))
        problems += dict.fromkeys(told)
        return made

    def _place(self, numbers: Sequence[int], name: str = "") -> str:
        rows = f", {numbered(self.kind, numbers)}" if self.kind else ""
        return self.where + rows + (f", column '{name}'" if self.kind == "row" and name else "")


def _rows_axes(where: str, kind: str, rows: Sequence[tuple[int, Setting]]) -> list[_Axis]:
    names = [{*row} for _, row in rows]
    if not rows:
        return []
    return [_Axis(where, kind, set.union(*names), set.intersection(*names), len(rows), rows)]


def _axes(study: Study, grid: Any, settings: Any, repeat: Any, problems: list[str]) -> list[_Axis]:
    """All that is varied, slowest first; what cannot be read is in `problems`."""
    file = [] if settings is None else _file_axes(study, Path(settings), problems)
    rest = [] if grid is None else _grid_axes(study, grid, "", problems)
    in_file, in_grid = ({name for axis in axes for name in axis.names} for axes in (file, rest))
    for name in sorted(in_file & in_grid, key=str):
        problems.append(
            f"'{name}' is both in {Path(settings).name} and beside it (-p): leave one of them out."
        )
    return file + rest + _repeat_axes(study, repeat, in_file | in_grid, problems)


def _repeat_axes(study: Study, repeat: Any, taken: set[str], problems: list[str]) -> list[_Axis]:
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
    return [] if wrong else _value_axes(study, "seed", range(repeat), "", problems)


def _file_axes(study: Study, path: Path, problems: list[str]) -> list[_Axis]:
    try:
        content = read_settings(path)
    except ValueError as error:
        problems.append(str(error))
        return []
    if path.suffix.lower() != ".csv":
        return _grid_axes(study, content, path.name, problems)
    return _rows_axes(path.name, "row", csv_rows(study, path.name, content, problems))


def _grid_axes(study: Study, grid: Any, where: str, problems: list[str]) -> list[_Axis]:
    if isinstance(grid, Mapping):
        axes = [_value_axes(study, name, value, where, problems) for name, value in grid.items()]
        return [axis for found in axes for axis in found]
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
    return _rows_axes(where, "item", rows)


def _value_axes(
    study: Study, name: str, value: Any, where: str, problems: list[str]
) -> list[_Axis]:
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
    problems += [placed(where, problem) for problem in dict.fromkeys(wrong)]
    if name not in study.parameters:
        return []
    found += [WRONG] if wrong else []
    count = sum(value.count if isinstance(value, Range) else 1 for value in found)
    each = (value if isinstance(value, Range) else [value] for value in found)
    rows = enumerate({name: value} for value in itertools.chain.from_iterable(each))
    return [_Axis(where, "", {name}, {name}, count, rows)]
