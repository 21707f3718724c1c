"""Studies: notebooks that declare what they ask and which parameters they take.

The ``parameters`` cell is read as Python (``ast``), not as text: papermill's
own reader drops a line such as ``name: str = "a=b"`` without a word.
"""

from __future__ import annotations

import ast
import io
import json
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from geowb.errors import RequestError, did_you_mean

__all__ = [
    "RULES",
    "TYPES",
    "Parameter",
    "Study",
    "find_studies",
    "lint",
    "load_study",
    "read_parameters",
]

#: Types that a parameter can have, as they are written in the parameters cell.
TYPES = ("int", "float", "bool", "str", "list[str]", "list[int]", "list[float]")

#: What a study's metadata can say of a parameter; beside these, the arguments of its check.
RULES = frozenset({"check", "choices", "empty", "min", "above", "max", "items", "role"})
_ARGUMENTS = frozenset(
    {"catalog", "variables", "bands", "labels", "crs", "selection", "model", "of", "rule"}
    | {"arms", "codecs", "data", "lambdas", "task", "weights", "worlds"}
)

#: What the ``study`` entry can say: texts, and for the report lists of names.
_ABOUT = {
    "title": str,
    "paper": str,
    "summary": str,
    "figures": list,
    "metrics": list,
    "each": list,
}


@dataclass(frozen=True)
class Parameter:
    """One parameter of a study.

    >>> read_parameters("epochs: int = 3  # passes over the data")["epochs"].help
    'passes over the data'
    """

    name: str
    type: str  # one of TYPES; "" where the cell does not say
    default: Any
    help: str = ""
    rules: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """A notebook that can be run: its title, paper, parameters and profiles."""

    name: str
    path: Path
    title: str
    paper: str
    summary: str
    parameters: Mapping[str, Parameter]
    profiles: Mapping[str, Mapping[str, Any]]
    problems: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()  # key figures, as they are called in figures/
    metrics: tuple[str, ...] = ()  # key metrics; {parameter} stands for a parameter's value
    each: tuple[str, ...] = ()  # parameters of which a whole run of the study takes all choices

    def with_role(self, role: str) -> str | None:
        """Name of the parameter that has this role (``"run_dir"``), if there is one."""
        return next((p.name for p in self.parameters.values() if p.rules.get("role") == role), None)

    def code_sha256(self) -> str:
        """Digest of the code cells as the file has them now.

        >>> len(load_study("agb_transfer").code_sha256())
        64

        Outputs and text are left out: a notebook that was executed or explained anew does the same.
        """
        cells = (c for c in _read(self.path)["cells"] if c.get("cell_type") == "code")
        return sha256(json.dumps([_source(cell) for cell in cells]).encode()).hexdigest()


def find_studies(folder: str | Path | None = None) -> dict[str, Study]:
    """All studies in a folder of notebooks (geowb's own by default), by name.

    >>> sorted(find_studies())  # doctest: +SKIP
    ['agb_transfer']

    Raises
    ------
    RequestError
        A notebook in the folder is not a notebook.
    """
    studies = {}
    for path in sorted(_folder(folder).glob("*.ipynb")):
        notebook = _read(path)
        if "study" in _block(notebook):
            studies[path.stem] = _study(path, notebook)
    return studies


def load_study(study: str | Path, folder: str | Path | None = None) -> Study:
    """Read one study by its name, or any notebook by its path.

    Raises
    ------
    RequestError
        There is no such study (the nearest name is offered) or no such file.
    """
    text = str(study)
    if text.endswith(".ipynb"):
        path = Path(text).expanduser()
        if not path.is_file():
            raise RequestError(f"There is no notebook at {text}.")
        return _study(path, _read(path))
    path = _folder(folder) / f"{text}.ipynb"
    if Path(text).name == text and path.is_file():
        notebook = _read(path)
        if "study" in _block(notebook):
            return _study(path, notebook)
    if Path(f"{text}.ipynb").is_file():
        near = f"Did you mean the notebook {text}.ipynb?"
    else:
        near = did_you_mean(text, find_studies(folder))
    raise RequestError(f"There is no study '{text}'. {near} `geowb studies` lists them.")


def read_parameters(
    source: str, rules: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Parameter]:
    """Names, types, defaults and help of the parameters that a cell assigns.

    Parameters
    ----------
    source
        Python source of the cell tagged ``parameters``.
    rules
        The ``parameters`` entry of the notebook's ``geowb`` block.

    >>> read_parameters("lr: float = 1e-3  # learning rate")["lr"].default
    0.001

    Raises
    ------
    SyntaxError
        The cell is not Python.
    """
    rules, comments, parameters = rules or {}, _comments(source), {}
    for node in ast.parse(source).body:
        name = _assigned(node)
        if name is None:
            continue
        try:
            default = ast.literal_eval(node.value)
        except ValueError:
            default = None
        annotated = getattr(node, "annotation", None)
        kind = ast.unparse(annotated) if annotated is not None else _type_of(default)
        parameters[name] = Parameter(
            name, kind, default, comments.get(node.end_lineno, ""), dict(rules.get(name, {}))
        )
    return parameters


def lint(notebook: Mapping[str, Any]) -> list[str]:
    """Say what is wrong with a study's parameters cell and ``geowb`` block, a sentence each.

    A parameter is one annotated assignment of a literal on one line, without
    a second ``=`` or a ``#`` inside its value: papermill's reader drops or
    cuts such lines, ``papermill --help-notebook`` then does not show them, and
    a run warns of an unknown parameter.

    Parameters
    ----------
    notebook
        The notebook as read from its JSON file.
    """
    cells = _parameter_cells(notebook)
    if len(cells) != 1:
        return [f"It has {len(cells)} cells with the tag 'parameters', not one."]
    source = _source(cells[0])
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        return [f"Its parameters cell is not Python (line {error.lineno}: {error.msg})."]
    lines, problems = source.splitlines(), []
    for node in body:
        text = lines[node.lineno - 1]
        if problem := _line_problem(node, text):
            problems.append(
                f"Line {node.lineno} of its parameters cell, `{text.strip()}`, {problem}."
            )
    names = [_assigned(node) for node in body]
    problems += [
        f"It assigns '{n}' twice." for n in sorted({n for n in names if n and names.count(n) > 1})
    ]
    return problems + _block_problems(_block(notebook), set(filter(None, names)))


def _line_problem(node: ast.stmt, text: str) -> str:
    if _assigned(node) is None:
        return "is not an assignment to one name"
    if not isinstance(node, ast.AnnAssign):
        return "has no type annotation"
    kind = ast.unparse(node.annotation)
    if kind not in TYPES:
        return f"has the type {kind}; a parameter's type is one of {', '.join(TYPES)}"
    try:
        default = ast.literal_eval(node.value)
    except ValueError:
        return "has a value that is not a literal"
    if not _is_a(default, kind):
        return f"has a value that is not of its type {kind}"
    if node.end_lineno != node.lineno:
        return "goes over several lines"
    if text.count("=") > 1:
        return "has a second '=' (papermill would drop the line)"
    if "#" in text[: node.end_col_offset]:
        return "has a '#' in its value (papermill would cut the line there)"
    return ""


def _block_problems(block: Mapping[str, Any], names: set[str]) -> list[str]:
    problems, known = [], RULES | _ARGUMENTS
    for name, rules in block.get("parameters", {}).items():
        if name not in names:
            problems.append(f"Its metadata has rules for '{name}'. {did_you_mean(name, names)}")
        problems += [
            f"Its metadata has an unknown rule '{rule}' for '{name}'. {did_you_mean(rule, known)}"
            for rule in rules
            if rule not in known
        ]
    for profile, values in block.get("profiles", {}).items():
        problems += [
            f"Its profile '{profile}' sets '{name}'. {did_you_mean(name, names)}"
            for name in values
            if name not in names
        ]
        problems += [
            f"Its profile '{profile}' sets '{name}' by '{value.get('by')}': that must be another "
            "parameter, and 'else' must say what the value is for its other choices."
            for name, value in values.items()
            if isinstance(value, Mapping)
            and (value.get("by") not in names - {name} or "else" not in value)
        ]
    return problems + _about_problems(block.get("study", {}))


def _about_problems(about: Mapping[str, Any]) -> list[str]:
    problems = []
    for key, value in about.items():
        kind = _ABOUT.get(key)
        if kind is None:
            problems.append(f"Its metadata has an unknown '{key}'. {did_you_mean(key, _ABOUT)}")
        elif not isinstance(value, kind) or not all(isinstance(item, str) for item in value):
            expected = "a list of names" if kind is list else "a text"
            problems.append(f"Its metadata has {value!r} for '{key}', which is not {expected}.")
    return problems


def _is_a(value: Any, kind: str) -> bool:
    if kind.startswith("list["):
        return isinstance(value, list) and all(_is_a(item, kind[5:-1]) for item in value)
    if kind == "float":
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value).__name__ == kind


def _type_of(value: Any) -> str:
    """Type of an unannotated default, where it is one that a parameter can have."""
    if isinstance(value, list) and value:
        kind = f"list[{type(value[0]).__name__}]"
    else:
        kind = type(value).__name__
    return kind if kind in TYPES and _is_a(value, kind) else ""


def _assigned(node: ast.stmt) -> str | None:
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
        return node.target.id
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = node.targets[0]
        return target.id if isinstance(target, ast.Name) else None
    return None


def _comments(source: str) -> dict[int, str]:
    """Comment of each line."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}


def _folder(folder: str | Path | None) -> Path:
    from geowb.paths import notebooks_dir

    return Path(folder) if folder is not None else notebooks_dir()


def _read(path: Path) -> dict[str, Any]:
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} cannot be read as a notebook: {error}.") from error
    if not isinstance(notebook, dict) or "cells" not in notebook:
        raise RequestError(f"{path} is not a Jupyter notebook (format 4): it has no cells.")
    return notebook


def _block(notebook: Mapping[str, Any]) -> Mapping[str, Any]:
    return notebook.get("metadata", {}).get("geowb", {})


def _source(cell: Mapping[str, Any]) -> str:
    source = cell.get("source", "")
    return source if isinstance(source, str) else "".join(source)


def _parameter_cells(notebook: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [
        cell
        for cell in notebook["cells"]
        if cell.get("cell_type") == "code"
        and "parameters" in cell.get("metadata", {}).get("tags", [])
    ]


def _study(path: Path, notebook: Mapping[str, Any]) -> Study:
    block = _block(notebook)
    about, cells = block.get("study", {}), _parameter_cells(notebook)
    try:
        parameters = read_parameters(_source(cells[0]) if cells else "", block.get("parameters"))
    except SyntaxError:
        parameters = {}
    return Study(
        name=path.stem,
        path=path.resolve(),
        title=about.get("title", path.stem),
        paper=about.get("paper", ""),
        summary=about.get("summary", ""),
        parameters=parameters,
        profiles=block.get("profiles", {}),
        problems=tuple(lint(notebook)) if "study" in block else (),
        figures=_listed(about, "figures"),
        metrics=_listed(about, "metrics"),
        each=_listed(about, "each"),
    )


def _listed(about: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = about.get(key, ())
    return tuple(map(str, value)) if isinstance(value, list) else ()
