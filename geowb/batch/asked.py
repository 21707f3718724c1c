"""What a person typed after ``-p``, or wrote in a settings file -> items and rows.

Ranges are counted, not made, so that ``0..1000000000000`` costs nothing.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml

from geowb.batch.checks import WRONG, as_text, convert, settable, shown
from geowb.batch.studies import Parameter, Study

__all__ = ["Range", "csv_rows", "item", "items", "placed", "read_settings"]


@dataclass(frozen=True)
class Range:
    """The numbers of a range; `kind` makes each of them anew, so that no error adds up.

    >>> list(Range(Fraction("0.1"), Fraction("0.1"), 3, float))
    [0.1, 0.2, 0.3]
    """

    first: int | Fraction
    step: int | Fraction
    count: int
    kind: Callable[[Any], int | float] = int

    def __iter__(self) -> Iterator[int | float]:
        return (self.kind(self.first + i * self.step) for i in range(self.count))


def items(parameter: Parameter, value: Any) -> Sequence[Any]:
    """Single values, unconverted, out of what was given for one parameter.

    >>> items(Parameter("encoder", "str", ""), 'swin_demo, "a,b"')
    ['swin_demo', 'a,b']

    Raises
    ------
    ValueError
        Text that cannot be taken apart, or nothing in it.
    """
    listed = parameter.type.startswith("list[")
    if isinstance(value, str):
        found = _lists(parameter, value) if listed else _texts(parameter, value)
    elif isinstance(value, range) and not listed:
        count = max(0, -((value.start - value.stop) // value.step))
        found = [Range(value.start, value.step, count)] if count else []
    elif not _is_list(value) or (listed and not (len(value) and all(map(_is_list, value)))):
        found = [value]
    else:
        found = value.tolist() if hasattr(value, "tolist") else list(value)
    if not found:
        raise ValueError(f"{parameter.name}={shown(value)} has no values.")
    return found


def item(parameter: Parameter, value: Any) -> Any:
    """`value`, or the range that its text stands for.

    >>> item(Parameter("seed", "int", 0), "0..10..5")
    Range(first=0, step=5, count=3, kind=<class 'int'>)

    Raises
    ------
    ValueError
        A range that cannot be read, or is empty.
    """
    if parameter.type not in ("int", "float") or not isinstance(value, str) or ".." not in value:
        return value
    told, parts = f"{parameter.name}={shown(value)}", [part.strip() for part in value.split("..")]
    kind, noun, example = _RANGES[parameter.type]
    try:
        numbers = [_number(part, kind) for part in parts]
    except (ValueError, ArithmeticError):
        numbers = []
    if len(numbers) not in (2, 3) or "..." in value:
        raise ValueError(f"{told} is not a range of {noun}: write {example}.")
    if len(numbers) == 2 and kind is float:
        raise ValueError(f"{told} is a range without a step: write {example}.")
    first, last, step = (*numbers, 1)[:3]
    if step == 0:
        raise ValueError(f"{told} has a step of 0: write {example}.")
    count = (last - first) // step + 1
    if count < 1:
        first, last, step = (*parts, "")[:3]
        why, other = f"{first} is above {last}; write {last}..{first}, or", "-1"
        if step:
            why = f"steps of {step} from {first} lead away from {last}; write"
            other = step[1:] if step.startswith("-") else f"-{step.lstrip('+')}"
        raise ValueError(f"{told} is an empty range: {why} {first}..{last}..{other}.")
    return Range(first, step, count, kind)


_RANGES: dict[str, tuple[Callable[[Any], Any], str, str]] = {
    "int": (int, "whole numbers", "first..last or first..last..step, as in 0..4 or 0..10..5"),
    "float": (float, "numbers", "first..last..step, as in 0.1..0.5..0.1"),
}


def _number(text: str, kind: type) -> int | Fraction:
    if kind is int:
        return int(text)
    number = Decimal(text)
    if not math.isfinite(float(number)) or number.as_tuple().exponent < -400:
        raise ValueError
    return Fraction(number)


def _is_list(value: Any) -> bool:
    sequence = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    return sequence or bool(getattr(value, "ndim", 0))


# One item and the comma after it. In quotes, as in CSV, a comma is a comma.
_ITEM = re.compile(r'\s*+(?:"((?:[^"]|"")*+)"|([^",][^,]*+)?+)\s*+(?:(,)|\Z)')


def _texts(parameter: Parameter, text: str) -> list[Any]:
    told = f"{parameter.name}={shown(text)}"
    if text.lstrip().startswith("["):
        if (found := _json(text)) is not None:
            return found
        raise ValueError(
            f"{told} starts with [ and is not a JSON list: write [1, 2] or "
            '["a", "b"], or put text that starts with [ in double quotes.'
        )
    found, position, more = [], 0, True
    while more:
        match = _ITEM.match(text, position)
        if not match:
            raise ValueError(
                f"{told} has a double quote without its other end: write "
                '"a,b" for an item with a comma in it, and "" for a quote inside.'
            )
        quoted, plain, more = match.groups()
        if quoted is None and not plain and (more or found):
            advice = 'leave out a comma, or write "" for empty text'
            raise ValueError(f"{told} has an empty item: {advice}.")
        found.append((plain or "").strip() if quoted is None else quoted.replace('""', '"'))
        position = match.end()
    return found


def _lists(parameter: Parameter, text: str) -> list[Any]:
    told, plain = f"{parameter.name}={shown(text)}", text.strip()
    if not plain.startswith("["):
        values = convert(parameter, plain)
        if "," not in plain:
            return [values]
        one, several = as_text(values), as_text([[value] for value in values])
        raise ValueError(
            f"{told} can be one list or several: write '{parameter.name}={one}' for one "
            f"list, '{parameter.name}={several}' for {len(values)} runs."
        )
    found = _json(f"[{plain}]")
    if found and len(found) == 1 and found[0] and all(map(_is_list, found[0])):
        return found[0]  # [["a"], ["b"]]
    if found and all(map(_is_list, found)):
        return found  # ["a"], ["b"], or one list
    example = '["a", "b"]' if "str" in parameter.type else "[1, 2]"
    raise ValueError(f"{told} is no JSON: write {example} for one list, [{example}, []] for two.")


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def read_settings(path: Path) -> Any:
    """Read a settings file: a list or a mapping, or the text of a CSV file.

    Raises
    ------
    ValueError
        The file is not there or cannot be read; one sentence that names it.
    """
    kind = path.suffix.lower()
    if kind not in (".csv", ".yaml", ".yml", ".json"):
        raise ValueError(f"The settings file {path} is not a .csv, .yaml, .yml or .json file.")
    try:
        text = path.expanduser().read_bytes().decode("utf-8-sig")
        if kind == ".csv":
            return text
        if kind == ".json":
            parsed = json.loads(text, object_pairs_hook=_once)
        else:
            parsed = yaml.load(text, _Loader)
    except FileNotFoundError:
        raise ValueError(f"There is no settings file {path}.") from None
    except UnicodeDecodeError as error:
        at = f"{path} is not UTF-8 (byte {error.start})"
        raise ValueError(f"{at}: save it as UTF-8, in Excel as 'CSV UTF-8'.") from None
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"The settings file {path} cannot be read: {_reason(error)}.") from None
    if not parsed:
        raise ValueError(f"The settings file {path} has no settings in it.")
    return parsed


class _Loader(yaml.SafeLoader):
    """YAML in which all but null is text, as in CSV: parameters know their types, YAML guesses."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own name for it
        letter: [found for found in resolvers if found[0].endswith((":null", ":merge"))]
        for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen and isinstance(key, yaml.ScalarNode):
                problem = f"'{key.value}' is there twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"'{key}' is there twice")
        result[key] = value
    return result


def _reason(error: Exception) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    told = problem or getattr(error, "strerror", None) or " ".join(str(error).split())
    return f"line {mark.line + 1}, {told}" if mark else told.rstrip(".")


Row = tuple[int, dict[str, Any]]


def csv_rows(study: Study, file: str, text: str, problems: list[str]) -> list[Row]:
    """Rows of a CSV file, each with the number of its line; what is wrong is in `problems`."""
    (line, names), *rows = _lines(file, text, problems) or [(1, [])]
    if not rows:
        problems.append(f"{file} has no rows under its header: write one for each run.")
    bad = _bad_columns(study, f"{file}, row {line}", names, problems)
    found, wrong = [], {}
    for number, cells in rows:
        if len(cells) != len(names):
            told = f"too {'few' if len(cells) < len(names) else 'many'} cells"
            told = f"{told} ({len(cells)}, the header has {len(names)})"
            wrong.setdefault(told, []).append(number)
        elif not any(cells):
            wrong.setdefault("empty cells only; delete it, or give a value", []).append(number)
        else:
            given = [(n, c) for n, c in zip(names, cells, strict=True) if c]
            found.append((number, {n: WRONG if n in bad else c for n, c in given}))
    problems += [f"{file}, {numbered('row', rows)}: {told}." for told, rows in wrong.items()]
    return found


def _lines(file: str, text: str, problems: list[str]) -> list[tuple[int, list[str]]]:
    """Lines that are not blank, with their numbers; of a quoted cell's lines, the first."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = ";" if ";" in first and "," not in first else ","
    source = io.StringIO(text, newline="")
    reader = csv.reader(source, delimiter=delimiter, skipinitialspace=True, strict=True)
    lines, start = [], 1
    try:
        for cells in reader:
            lines.append((start, [cell.strip() for cell in cells]))
            start = reader.line_num + 1
    except csv.Error as error:
        problems.append(f"{file}, row {start}: {error}; look at its double quotes.")
    return [(number, cells) for number, cells in lines if len(cells) > 1 or any(cells)]


def _bad_columns(study: Study, where: str, names: Sequence[str], problems: list[str]) -> set[str]:
    """Names in the header that are of no parameter, or there twice."""
    bad = set()
    for column, name in enumerate(names, 1):
        try:
            if names.index(name) + 1 < column:
                raise ValueError(f"'{name}' is column {names.index(name) + 1} already.")
            settable(study, name)
        except ValueError as error:
            bad.add(name)
            told = str(error) if name else "it has no name."
            problems.append(placed(f"{where}, column {column}", told))
    return bad


def numbered(kind: str, numbers: Sequence[int]) -> str:
    """Say which rows, the first three of many.

    >>> numbered("row", [2, 5]), numbered("item", [1, 2, 3, 4, 5])
    ('rows 2 and 5', 'items 1, 2, 3 and 2 more')
    """
    if len(numbers) == 1:
        return f"{kind} {numbers[0]}"
    more = [f"{len(numbers) - 3:,} more"] if len(numbers) > 3 else []
    *first, last = [*map(str, numbers[:3]), *more]
    return f"{kind}s {', '.join(first)} and {last}"


def placed(where: str, problem: str) -> str:
    """`problem` after a colon, if there is a place to tell."""
    return f"{where}: {re.sub('^There ', 'there ', problem)}" if where else problem
