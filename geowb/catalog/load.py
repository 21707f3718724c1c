"""Catalog files: YAML with the line of every key -> validated entries.

Only plain YAML is read: no tags, no aliases, no repeated keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from geowb.catalog.schema import Entry, Meta
from geowb.errors import CatalogError, did_you_mean

__all__ = ["load"]

_MAX_CHARACTERS, _MAX_DEPTH = 2_000_000, 30

Location = tuple[str | int, ...]
_SCALARS = {f"tag:yaml.org,2002:{t}" for t in ("str", "int", "float", "bool", "null", "timestamp")}


class _Plain:
    """YAML nodes -> plain Python, with the line of every key and the problems met."""

    def __init__(self) -> None:
        self.lines: dict[Location, int] = {}
        self.problems: list[tuple[int, str]] = []
        self._scalars = yaml.SafeLoader("")

    def convert(self, node: yaml.Node, at: Location = ()) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(at, line)
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self._mapping(node, at)
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self.convert(item, (*at, i)) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
            try:
                return self._scalars.construct_object(node)
            except ValueError as error:  # 2020-13-45 looks like a date
                self.problems.append((line, f"{node.value!r}: {error}"))
                return None
        self.problems.append((line, f"the tag {node.tag!r} is not allowed in a catalog"))
        return None

    def _mapping(self, node: yaml.MappingNode, at: Location) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = self.convert(key_node, (*at, "<key>"))
            if isinstance(key, int) and not isinstance(key, bool):
                key = str(key)
            if not isinstance(key, str):
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
        fields = [m.model_fields[part] for m in models if part in m.model_fields]
        if fields:
            models = {inner for field in fields for inner in _models(field.annotation)}
        elif tagged := {
            m
            for m in models
            if "name" in m.model_fields and part in get_args(m.model_fields["name"].annotation)
        }:
            models = tagged
    return {name for m in models for name in m.model_fields}


def _explain(model: type[BaseModel], problem: Mapping[str, Any]) -> str:
    """One readable clause for one error of pydantic."""
    location, kind = problem["loc"], problem["type"]
    path = ".".join(str(part) for part in location) or "the entry"
    if kind == "extra_forbidden":
        known = _known_keys(model, location[:-1])
        return f"unknown key {str(location[-1])!r}. {did_you_mean(str(location[-1]), known)}"
    if kind == "missing":
        return f"the key {path!r} is missing"
    if kind.startswith("union_tag"):
        if kind == "union_tag_not_found":
            return f"{path} needs a name"
        tags = re.findall(r"'(\w+)'", problem["ctx"]["expected_tags"])
        return (
            f"unknown driver {problem['ctx']['tag']!r}. {did_you_mean(problem['ctx']['tag'], tags)}"
        )
    if kind == "value_error":
        return f"{path}: {problem['ctx']['error']}"
    shown = repr(problem["input"])
    return f"{path}: {problem['msg']}, not {shown if len(shown) < 60 else shown[:57] + '...'}"


def _validated(
    model: type[BaseModel],
    raw: Any,
    bases: tuple[Location, ...],
    plain: _Plain,
    label: str,
) -> Any:
    """`raw` as a `model`, or None with the problems and their lines noted."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        for problem in error.errors():
            at = bases[-1]
            for base in bases:  # the deepest key that the file really has
                reached = base
                for part in problem["loc"]:
                    reached = (*reached, part) if (*reached, part) in plain.lines else reached
                if len(reached) - len(base) > len(at) - len(bases[-1]):
                    at = reached
            plain.problems.append((plain.lines[at], f"{label}{_explain(model, problem)}"))
    return None


def _entries(raw: dict[str, Any], plain: _Plain) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for name, block in raw.items():
        if name == "meta":
            continue
        label = f"entry {name!r}: "
        if not re.fullmatch(r"[A-Za-z][\w-]*", name):
            plain.problems.append(
                (plain.lines[name,], label + "a name is letters, digits, _ and -")
            )
        if not isinstance(block, dict):
            plain.problems.append((plain.lines[name,], label + "must be a block of keys"))
            continue
        shared = {key: value for key, value in block.items() if key != "variants"}
        variants = block.get("variants", [])
        if not isinstance(variants, list) or not all(isinstance(v, dict) for v in variants):
            at = plain.lines[name, "variants"]
            plain.problems.append((at, label + "variants must be a list of blocks of keys"))
            continue
        if not variants:
            entries[name] = _validated(Entry, shared, ((name,),), plain, label)
        for i, variant in enumerate(variants):
            suffix = variant.get("provider") or variant.get("version")
            own = {k: v for k, v in variant.items() if k not in ("provider", "version")}
            bases = ((name, "variants", i), (name,))
            if suffix is None:
                at = plain.lines[name, "variants", i]
                plain.problems.append((at, label + "a variant needs a provider or a version"))
                continue
            entry = _validated(Entry, shared | own, bases, plain, f"entry '{name}@{suffix}': ")
            entries.setdefault(name, entry)
            entries[f"{name}@{suffix}"] = entry
    return entries


def _refuse_dangers(path: Path, text: str) -> None:
    """Refuse aliases and deep nesting, by which a small file can grow without bound."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            raise CatalogError(
                f"{path}, line {line}: the alias *{event.anchor} is not allowed; "
                "write the block out, or use variants."
            )
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise CatalogError(f"{path}, line {line}: nested too deeply to be a catalog.")


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
    plain = _Plain()
    try:
        _refuse_dangers(path, text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        raw = plain.convert(node) if node else {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise CatalogError(
            f"{path}{where}: not valid YAML: {getattr(error, 'problem', None) or error}."
        ) from error
    if not isinstance(raw, dict):
        raise CatalogError(f"{path}, line 1: a catalog is a block of named entries.")
    meta = Meta()
    if "meta" in raw:
        meta = _validated(Meta, raw["meta"], (("meta",),), plain, "meta: ") or meta
    entries = _entries(raw, plain)
    for name, entry in entries.items():
        if entry is None:
            continue
        base = name.partition("@")[0]
        for key, driver in (("twin", "world"), ("part_of", "archive")):
            other = getattr(entry, key)
            if other is None:
                continue
            at = plain.lines.get((base, key), plain.lines[base,])
            if other not in entries:
                hint = did_you_mean(other, entries)
                plain.problems.append((at, f"entry {name!r}: {key} {other!r} is no entry. {hint}"))
            elif entries[other] is not None and entries[other].driver.name != driver:
                text = f"entry {name!r}: {key} {other!r} must be an entry of driver {driver!r}"
                plain.problems.append((at, text))
    if plain.problems:
        listed = [f"line {line}, {text}" for line, text in sorted(set(plain.problems))]
        count = "1 problem" if len(listed) == 1 else f"{len(listed)} problems"
        raise CatalogError(f"The catalog {path} has {count}: " + "; ".join(listed))
    return meta, entries
