"""The claims ledger: what the papers say, and how runs of the studies test it.

``notebooks/claims.yaml`` names for each claim a metric, a difference or a
ratio of two, the runs that are a test of it, and a threshold.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from geowb.batch.checks import as_text
from geowb.errors import RequestError, did_you_mean

__all__ = ["Claim", "Condition", "Paper", "Published", "Rule", "load_claims"]

#: The four rules, each with its meaning and its opposite.
_RULES = {
    "at_most": (operator.le, "above"),
    "at_least": (operator.ge, "below"),
    "above": (operator.gt, "at most"),
    "below": (operator.lt, "at least"),
}
Text = Annotated[str, Field(min_length=3)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _OneOf(_Strict):
    """What has exactly one of its fields."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self.model_fields_set) != 1 or self._given[1] is None:
            names = [field.alias or name for name, field in type(self).model_fields.items()]
            raise ValueError(f"give exactly one of {', '.join(names)}")
        return self

    @property
    def _given(self) -> tuple[str, Any]:
        name = next(iter(self.model_fields_set))
        return name, getattr(self, name)


class Published(_Strict):
    """A number that the paper or its authors have published, and where it is known from."""

    name: Text
    value: int | float
    unit: str
    source: Text
    qualifier: Literal["", "about", "up to", "over"] = ""


class Rule(_OneOf):
    """The threshold on one side of which a claim holds; exactly one of the four is given."""

    at_most: float | None = None
    at_least: float | None = None
    above: float | None = None
    below: float | None = None

    @property
    def threshold(self) -> float:
        """The number itself."""
        return self._given[1]

    def words(self, *, opposite: bool = False) -> str:
        """Say the rule, or its opposite: "at most 1.1", "above 1.1"."""
        name, threshold = self._given
        return f"{_RULES[name][1] if opposite else name} {threshold:g}".replace("_", " ")

    def met(self, value: float) -> bool:
        """Whether `value` is on the side where the claim holds."""
        name, limit = self._given
        return _RULES[name][0](value, limit)


class Condition(_OneOf):
    """What a parameter (or the profile) of a run must be for the run to be a test.

    >>> Condition.model_validate({"not": ""}).met("weights.safetensors")
    True
    """

    model_config = ConfigDict(populate_by_name=True)

    equal: Any = None
    one_of: Annotated[tuple[Any, ...], Field(min_length=1)] | None = None
    unlike: Any = Field(None, alias="not")
    at_least: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return value if isinstance(value, Mapping) else {"equal": value}

    def met(self, value: Any) -> bool:
        """Whether a parameter's value meets it; a parameter that a run lacks (None) never does."""
        kind, given = self._given
        if value is None:
            return False
        if kind == "one_of":
            return any(_same(value, allowed) for allowed in given)
        if kind == "at_least":
            return isinstance(value, int | float) and value >= given
        return _same(value, given) is (kind == "equal")

    def words(self, name: str) -> str:
        """Say the condition on the parameter `name`."""
        kind, given = self._given
        if kind == "one_of":
            return f"{name} {' or '.join(map(as_text, given))}"
        link = {"equal": "=", "unlike": "not", "at_least": "at least"}[kind]
        value = f"{given:g}" if kind == "at_least" else as_text(given)
        return f"{name} {link} {value or 'empty'}"

    def example(self, name: str) -> str:
        """Value to write after ``-p NAME=``; a word in capitals where the user must choose."""
        kind, given = self._given
        if kind == "unlike":
            return "FILE" if name == "weights" else name.upper()
        return (
            f"{given:g}" if kind == "at_least" else as_text(given[0] if kind == "one_of" else given)
        )


class Claim(_Strict):
    """One statement of a paper, and how runs of its study test it."""

    says: Text
    published: tuple[Published, ...]
    quantity: Text  # in words, as the report names it
    unit: str
    metric: str | None = None
    difference: tuple[str, str] | None = None  # first minus second
    ratio: tuple[str, str] | None = None  # first over second
    holds: Rule
    where: dict[str, Condition] = {}
    exact: bool = False  # counted, not measured: one run is enough
    depends_on: tuple[str, ...] | None = None  # of a count: all parameters that it depends on
    seeds: Annotated[int, Field(ge=2)] = 3
    data: Annotated[tuple[str, ...], Field(min_length=1)]
    awaits: str = ""  # what its study does not measure yet
    note: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Claim:
        if sum(q is not None for q in (self.metric, self.difference, self.ratio)) != 1:
            raise ValueError("give exactly one of metric, difference, ratio")
        if self.depends_on is not None and not self.exact:
            raise ValueError("depends_on is for counts (exact: true)")
        return self

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics, placeholders not filled."""
        return self.difference or self.ratio or (self.metric or "",)

    @property
    def formula(self) -> str:
        """The quantity in metrics, such as "rmse/{encoder}/all over rmse/unet/all"."""
        return (" minus " if self.difference else " over ").join(self.metrics)

    @property
    def counted(self) -> bool:
        """Whether it is a count that depends on no data, and so is no evidence of any."""
        return self.depends_on is not None and "data" not in self.depends_on

    def fits(self, units: set[str]) -> bool:
        """Whether metrics that were recorded in these units give the quantity in its own."""
        if self.ratio:
            return len(units) <= 1
        return units <= {"%" if self.difference and self.unit == "points" else self.unit}

    def value(self, values: Sequence[float]) -> float:
        """Compute the quantity from the metrics' values; NaN where it is not defined."""
        if self.difference:
            return values[0] - values[1]
        if self.ratio:
            return values[0] / values[1] if values[0] >= 0 and values[1] > 0 else math.nan
        return values[0]


class Paper(_Strict):
    """A paper's claims."""

    title: Text
    cite: Text
    study: str
    known_from: Text
    claims: Annotated[dict[str, Claim], Field(min_length=1)]


class _Loader(yaml.SafeLoader):
    """YAML whose keys stay as they are written (2310.18660 is no number) and stand there once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
        result = {}
        for key, value in node.value:
            if key.value in result:
                line = key.start_mark.line + 1
                raise RequestError(f"The key '{key.value}' stands twice (line {line}).")
            result[key.value] = self.construct_object(value, deep=True)
        return result


def load_claims(path: str | Path | None = None) -> dict[str, Paper]:
    """Read a claims ledger (geowb's own by default), by arXiv id.

    >>> load_claims()["2406.19888"].claims["fewer-parameters"].holds.words()
    'at least 10'

    Raises
    ------
    RequestError
        There is no such file, or it does not hold to the rules; the message
        names paper, claim and key.
    """
    from geowb.paths import notebooks_dir

    path = notebooks_dir() / "claims.yaml" if path is None else Path(path).expanduser()
    try:
        content = yaml.load(path.read_text("utf-8"), Loader=_Loader)
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RequestError(f"The claims in {path} cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise RequestError(f"{path} is not a claims ledger: it has no papers.")
    papers, problems = {}, []
    for name, block in content.items():
        try:
            papers[name] = Paper.model_validate(block)
        except ValidationError as error:
            problems += [_problem(name, item) for item in error.errors()]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise RequestError(f"{path}: {'; '.join(problems[:5])}{more}.")
    return papers


def _problem(paper: str, error: Mapping[str, Any]) -> str:
    """Say what pydantic found, with paper, claim and key."""
    parts = [str(part) for part in error["loc"]]
    where = f"paper {paper}"
    if parts[:1] == ["claims"] and len(parts) > 1:
        where, parts = f"{where}, claim {parts[1]}", parts[2:]
    if parts:
        where += f", key {'.'.join(parts)}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        known = {*Claim.model_fields, *Paper.model_fields, *Published.model_fields}
        message = f"there is no such key. {did_you_mean(parts[-1], known)}".rstrip(".")
    return f"{where}: {message}"


def _same(a: Any, b: Any) -> bool:
    """Equal, where true is not 1."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)
