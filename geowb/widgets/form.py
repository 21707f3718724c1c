"""A form made of a study's parameters cell: a control a parameter, by its type and its rules."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets
import traitlets as t

from geowb.batch.checks import WRONG, as_text, convert, requested
from geowb.batch.studies import Parameter, Study
from geowb.widgets.panel import escaped, note

__all__ = ["Field", "limits", "typed"]


def limits(parameter: Parameter) -> str:
    """Say what a parameter's rules allow.

    >>> limits(Parameter("share", "float", 1.0, rules={"above": 0, "max": 1}))
    'above 0, at most 1'
    """
    words = {"min": "at least", "above": "above", "max": "at most"}
    told = [
        f"{word} {parameter.rules[rule]}" for rule, word in words.items() if rule in parameter.rules
    ]
    if items := parameter.rules.get("items"):
        told.append(f"{items} or more of them")
    return ", ".join(told)


class Field:
    """One parameter of the form: its name, a control, what it is, what is wrong with it.

    >>> field = Field(study, study.parameters["epochs"], print)  # doctest: +SKIP
    >>> field.value = 5  # doctest: +SKIP
    """

    def __init__(self, study: Study, parameter: Parameter, changed: Callable[[str], None]) -> None:
        self.study, self.parameter = study, parameter
        self._changed, self._quiet = changed, False
        self._asked: Any = None  # as it was asked for, which a control may be unable to show
        self.control = _control(parameter)
        self.control.add_class("geowb-control")
        self._label = note(flex="0 0 180px")
        self._help = note(flex="1 1 200px")
        self.box = ipywidgets.HBox(
            [self._label, self.control, self._help], layout={"align_items": "flex-start"}
        )
        self.box.add_class("geowb-field")
        self.control.observe(self._moved, "value")
        self.tell(changed=False)

    @property
    def name(self) -> str:
        """Name of the parameter."""
        return self.parameter.name

    @property
    def value(self) -> Any:
        """What stands in the control, as the parameter's type where it can be read so."""
        found = requested(self.study, self.name, self._asked, [])
        return self._asked if found is WRONG else found

    @value.setter
    def value(self, value: Any) -> None:
        self._asked = value
        if self.problem():
            return  # the control keeps what it can show; the sentence beside it says the rest
        self._quiet = True
        try:
            self.control.value = self._shown(self.value)
        finally:
            self._quiet = False

    def problem(self) -> str:
        """Say what is wrong with what stands in the control; empty where nothing is."""
        problems: list[str] = []
        requested(self.study, self.name, self._asked, problems)
        return problems[0] if problems else ""

    def tell(self, *, changed: bool) -> None:
        """Write the help, or what is wrong; a changed parameter is marked."""
        about = [self.parameter.help, limits(self.parameter)]
        text = escaped(", ".join(filter(None, about)))
        if problem := self.problem():
            text += f"<br><span class='geowb-problem'>✗ {escaped(problem)}</span>"
        name = escaped(self.name)
        marked = f"<b>● {name}</b> <span class='geowb-muted'>changed</span>" if changed else name
        self._label.value = marked
        self._help.value = f"<span class='geowb-muted'>{text}</span>"

    def matches(self, words: str) -> bool:
        """Whether name or help have the words."""
        text = f"{self.name} {self.parameter.help}".lower()
        return all(word in text for word in words.lower().split())

    def _moved(self, _: Any) -> None:
        if not self._quiet:
            self._asked = self.control.value
            self._changed(self.name)

    def _shown(self, value: Any) -> Any:
        if isinstance(self.control, (ipywidgets.Text, ipywidgets.Combobox)):
            return typed(self.parameter, value)
        if isinstance(self.control, Picks):
            return list(value)
        return value


def typed(parameter: Parameter, value: Any) -> str:
    """Value as a person types it: a list with commas where that is read back alike, else JSON.

    >>> typed(Parameter("bands", "list[str]", []), ["RED", "NIR_NARROW"])
    'RED, NIR_NARROW'
    """
    if isinstance(value, list):
        text = ", ".join(map(str, value))
        with contextlib.suppress(ValueError):
            if convert(parameter, text) == value:
                return text
    return as_text(value)


class Picks(ipywidgets.HBox):
    """Several of some choices, each with a box to tick; `value` keeps the order of the choices."""

    value = t.List()

    def __init__(self, choices: Sequence[Any]) -> None:
        self._boxes = {
            name: ipywidgets.Checkbox(
                False,
                description=str(name),
                indent=False,
                layout={"width": "auto", "margin": "0 10px 0 0"},
            )
            for name in choices
        }
        for box in self._boxes.values():
            box.observe(self._ticked, "value")
        super().__init__(list(self._boxes.values()), layout={"flex_flow": "row wrap"})
        self.add_class("geowb-picks")

    def _ticked(self, _: Any) -> None:
        self.value = [name for name, box in self._boxes.items() if box.value]

    @t.observe("value")
    def _given(self, change: Mapping[str, Any]) -> None:
        for name, box in self._boxes.items():
            box.value = name in change["new"]


def _control(parameter: Parameter) -> Any:
    """Control for a parameter's type and rules."""
    rules, layout = parameter.rules, {"flex": "0 0 260px", "width": "auto"}
    # The name stands in a column of its own, and again as the label that screen readers find.
    told = {"layout": layout, "description": parameter.name, "tooltip": parameter.type}
    choices = rules.get("choices")
    if choices and parameter.type.startswith("list"):
        picks = Picks(choices)
        picks.layout.flex = "0 0 260px"
        return picks
    if choices:
        return ipywidgets.Dropdown(
            options=[(str(one) or "(empty)", one) for one in choices], **told
        )
    if parameter.type == "bool":
        return ipywidgets.Checkbox(False, description=parameter.name, indent=False, layout=layout)
    if parameter.type == "int":
        return ipywidgets.IntText(0, **told)
    if rules.get("check") == "source":
        return ipywidgets.Combobox(
            options=_entries(rules), placeholder="entry of the catalog", **told
        )
    return ipywidgets.Text(continuous_update=False, **told)


def _entries(rules: Mapping[str, Any]) -> list[str]:
    from geowb.catalog import open_catalog

    return [name for name, one in open_catalog().items() if one.entry.driver.name != "archive"]
