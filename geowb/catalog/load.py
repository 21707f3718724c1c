"""Catalog files: YAML with the line of every key -> validated entries.

Only plain YAML is read: no tags, no aliases, no repeated keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from geowb.catalog.schema import Entry, Meta
from geowb.errors import CatalogError, did_you_mean

__all__ = ["load"]

_MAX_CHARACTERS, _MAX_DEPTH = 2_000_000, 30

Location = tuple[str | int, ...]
_KINDS = ("str", "int", "float", "bool", "null", "timestamp", "map", "seq")
_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in _KINDS}


class _Loader(yaml.SafeLoader):
    """YAML -> plain Python, with the line of every key and the problems met.

    Aliases and deep nesting, by which a small file can grow without bound, are refused.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lines: dict[Location, int] = {}
        self.problems: list[tuple[int, str]] = []
        self.depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        event, problem = self.peek_event(), None
        if isinstance(event, yaml.AliasEvent):
            problem = f"the alias *{event.anchor} is not allowed; write the block out"
        elif self.depth > _MAX_DEPTH:
            problem = "nested too deeply to be a catalog"
        if problem:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def convert(self, node: yaml.Node, at: Location = ()) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(at, line)
        if node.tag not in _TAGS:
            self.problems.append((line, f"the tag {node.tag!r} is not allowed in a catalog"))
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, at)
        if isinstance(node, yaml.SequenceNode):
            return [self.convert(item, (*at, i)) for i, item in enumerate(node.value)]
        try:
            return self.construct_object(node)
        except ValueError as error:  # 2020-13-45 looks like a date
            self.problems.append((line, f"{node.value!r}: {error}"))
            return None

    def _mapping(self, node: yaml.MappingNode, at: Location) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = key_node.value
            if not key_node.tag.endswith((":str", ":int")) or not isinstance(key, str):
                self.problems.append((line, f"a key must be a word, not {key!r}"))
                continue
            if key in result:
                first = self.lines[(*at, key)]
                self.problems.append((line, f"the key {key!r} stands here again (line {first})"))
                continue
            self.lines[(*at, key)] = line
            result[key] = self.convert(value_node, (*at, key))
        return result


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _known_keys(model: type[BaseModel], location: Location) -> set[str]:
    """Keys that are allowed in the block at `location` of `model`."""
    models = {model}
    for part in location:
        fields = (m.model_fields[part] for m in models if part in m.model_fields)
        inner = {found for field in fields for found in _models(field.annotation)}
        tagged = {m for m in models if "name" in m.model_fields and part in _names(m)}
        models = inner or tagged or models
    return {name for m in models for name in m.model_fields}


def _names(driver: type[BaseModel]) -> tuple[str, ...]:
    return get_args(driver.model_fields["name"].annotation)


def _explain(model: type[BaseModel], problem: Mapping[str, Any]) -> str:
    """One readable clause for one error of pydantic."""
    location, kind = problem["loc"], problem["type"]
    path = ".".join(str(part) for part in location) or "the entry"
    if kind == "extra_forbidden":
        known = _known_keys(model, location[:-1])
        return f"unknown key {str(location[-1])!r}. {did_you_mean(str(location[-1]), known)}"
    if kind == "missing":
        return f"the key {path!r} is missing"
    if kind == "union_tag_not_found":
        return f"{path} needs a name"
    if kind == "union_tag_invalid":
        tag, known = problem["ctx"]["tag"], re.findall(r"\w+", problem["ctx"]["expected_tags"])
        return f"unknown driver {tag!r}. {did_you_mean(tag, known)}"
    if kind == "value_error":
        return f"{path}: {problem['ctx']['error']}"
    shown = repr(problem["input"])
    return f"{path}: {problem['msg']}, not {shown if len(shown) < 60 else shown[:57] + '...'}"


def _validated(
    model: type[BaseModel], raw: Any, bases: Sequence[Location], plain: _Loader, label: str
) -> Any:
    """`raw` as a `model`, or None with the problems and their lines noted."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        for problem in error.errors():
            _, at = max((_follow(base, problem["loc"], plain) for base in bases), key=itemgetter(0))
            plain.problems.append((plain.lines[at], label + _explain(model, problem)))
    return None


def _follow(at: Location, way: Location, plain: _Loader) -> tuple[int, Location]:
    """How many steps of `way` from `at` the file has keys for, and where they end."""
    steps = 0
    for part in way:
        if (*at, part) in plain.lines:
            steps, at = steps + 1, (*at, part)
    return steps, at


def _entries(raw: dict[str, Any], plain: _Loader) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}

    def note(text: str, name: str, *deeper: str | int) -> None:
        plain.problems.append((plain.lines[name, *deeper], f"entry {name!r}: {text}"))

    for name, block in raw.items():
        if not re.fullmatch(r"[A-Za-z][\w-]*", name):
            note("a name is letters, digits, _ and -", name)
        if not isinstance(block, dict):
            note("must be a block of keys", name)
            continue
        shared = {key: value for key, value in block.items() if key != "variants"}
        variants = block.get("variants", [])
        if not isinstance(variants, list) or not all(isinstance(v, dict) for v in variants):
            note("variants must be a list of blocks of keys", name, "variants")
            continue
        if not variants:
            entries[name] = _validated(Entry, shared, [(name,)], plain, f"entry {name!r}: ")
        for i, variant in enumerate(variants):
            here = (name, "variants", i)
            suffix = variant.get("provider") or variant.get("version")
            own = {k: v for k, v in variant.items() if k not in ("provider", "version")}
            if suffix is None:
                note("a variant needs a provider or a version", *here)
                continue
            full = f"{name}@{suffix}"
            merged = shared | own
            entry = _validated(Entry, merged, [here, (name,)], plain, f"entry {full!r}: ")
            entries.setdefault(name, entry)
            entries[full] = entry
    return entries


def _check_references(entries: Mapping[str, Entry], plain: _Loader) -> None:
    for name, entry in entries.items():
        base = name.partition("@")[0]
        for key, drivers in (("twin", ("world", "digits")), ("part_of", ("archive",))):
            if not (other := getattr(entry, key, None)):
                continue
            if other not in entries:
                problem = f"is no entry. {did_you_mean(other, entries)}"
            elif entries[other] is not None and entries[other].driver.name not in drivers:
                problem = f"must be an entry of driver {' or '.join(map(repr, drivers))}"
            else:
                continue
            at = plain.lines.get((base, key), plain.lines[base,])
            plain.problems.append((at, f"entry {name!r}: {key} {other!r} {problem}"))


def load(path: Path) -> tuple[Meta, dict[str, Entry]]:
    """Read and validate a catalog file.

    Raises
    ------
    CatalogError
        With every problem of the file, each with its line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise CatalogError(f"There is no catalog file {path}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogError(f"The catalog {path} cannot be read: {error}.") from error
    if len(text) > _MAX_CHARACTERS:
        raise CatalogError(f"{path} has {len(text)} characters: that is no catalog.")
    try:
        plain = _Loader(text)
        node = plain.get_single_node()
        raw = plain.convert(node) if node else {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or error
        raise CatalogError(
            f"{path}{where}: {reason}. This is not valid YAML for a catalog."
        ) from error
    if not isinstance(raw, dict):
        raise CatalogError(f"{path}, line 1: a catalog is a block of named entries.")
    meta = _validated(Meta, raw.pop("meta", {}), [("meta",)], plain, "meta: ") or Meta()
    entries = _entries(raw, plain)
    _check_references(entries, plain)
    if plain.problems:
        listed = [f"line {line}, {text}" for line, text in sorted(set(plain.problems))]
        count = "1 problem" if len(listed) == 1 else f"{len(listed)} problems"
        raise CatalogError(f"The catalog {path} has {count}: " + "; ".join(listed))
    return meta, entries
