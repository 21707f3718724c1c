"""What the catalog has: search, licence, size, whether it is here, a preview, open, fetch."""

from __future__ import annotations

from functools import partial
from typing import Any

import ipywidgets
import numpy as np
import traitlets as t

from geowb.catalog import Catalog, Source, open_catalog
from geowb.errors import did_you_mean
from geowb.widgets import drawing
from geowb.widgets.frames import open_frames
from geowb.widgets.painting import NOTHING, Painter, Wanted
from geowb.widgets.panel import Panel, Thing, discard, escaped, guarded, note
from geowb.widgets.parts import Picture, Table
from geowb.widgets.work import Turn

__all__ = ["CatalogBrowser"]

_ALL = "all"
#: What the catalog's words for where data is mean to a person: sign, words, tone of the cell.
_PLACES = {
    "embedded": ("● made here", "good"),
    "here": ("● on this machine", "good"),
    "remote": ("○ to be fetched", ""),
    "missing": ("– not here, no download", ""),
}
_COLUMNS = [
    {"key": "name", "label": "name", "kind": "short"},
    {"key": "category", "label": "category", "kind": "short"},
    {"key": "status", "label": "where it is", "kind": "short"},
    {"key": "size", "label": "size", "kind": "text"},
    {"key": "licence", "label": "licence", "kind": "text"},
    {"key": "description", "label": "what it is", "kind": "wide"},
]
#: Layout of the control of a placeholder.
_PLACEHOLDER = {"style": {"description_width": "90px"}, "layout": {"width": "340px"}}


class CatalogBrowser(Panel):
    """Find data in the catalog, look at it, and open it.

    >>> browser = CatalogBrowser()  # doctest: +SKIP
    >>> browser.search = "flood"; browser.names  # doctest: +SKIP
    ['world_floods', 'sen1floods11', 'sen1floods11_chip']
    >>> browser.selected = "world_floods"; browser.open_scene(); browser.scene  # doctest: +SKIP

    Parameters
    ----------
    catalog
        A `Catalog`, or the path of a file; geowb's own if left out.
    **traits
        Any of those below, to begin with.

    Attributes
    ----------
    search, category, place
        Words that name, description, category or licence have; a category, or ``all``;
        ``embedded``, ``here``, ``remote``, ``missing`` or ``all``.
    selected
        Name of the chosen entry, empty where none is.
    choices
        Values of its placeholders, such as the region.
    seed
        Of a simulated world.
    scene
        What was opened last (`xarray.Dataset`), or None.
    """

    search = t.Unicode("")
    category = t.Unicode(_ALL)
    place = t.Enum((_ALL, *_PLACES), _ALL)
    selected = t.Unicode("")
    choices = t.Dict({})
    seed = t.Int(0)
    scene = Thing(None)

    def __init__(self, catalog: Catalog | str | None = None, **traits: Any) -> None:
        self.catalog = catalog if isinstance(catalog, Catalog) else open_catalog(catalog)
        self._rows: list[dict[str, str]] = []
        self._preview_of: tuple[Any, ...] = ()
        self._fetching: object = None  # stands for the download that goes on
        self._openable = self._asking = False
        self._image: np.ndarray | None = None
        super().__init__("Catalog", (self._make(),))
        self._connect()
        self._read()
        self.take({name: traits[name] for name in sorted(traits, key=_first)})

    # --- parts ---

    def _make(self) -> ipywidgets.Box:
        style = {"style": {"description_width": "initial"}, "layout": {"width": "auto"}}
        self._search = ipywidgets.Text(
            placeholder="words, such as flood or biomass",
            description="Search",
            continuous_update=True,
            layout={"width": "320px"},
            style={"description_width": "initial"},
        )
        self._category = ipywidgets.Dropdown(options=[_ALL], description="Category", **style)
        places = [(_ALL, _ALL), *((text, key) for key, (text, _) in _PLACES.items())]
        self._place = ipywidgets.Dropdown(options=places, description="Where", **style)
        self._table = Table(
            columns=_COLUMNS, label="Data sets", max_height=270, nothing="No data set is like that."
        )
        self._about = note()
        self._choices = ipywidgets.VBox()
        self._seed = ipywidgets.BoundedIntText(
            0, min=0, max=2**31 - 1, description="seed", **_PLACEHOLDER
        )
        self._picture = Picture(hint="")
        self._open_button = ipywidgets.Button(
            description="Open as scene", button_style="primary", layout={"width": "130px"}
        )
        self._get_button = ipywidgets.Button(description="Fetch", layout={"width": "90px"})
        self._buttons = ipywidgets.HBox([self._open_button, self._get_button])
        filters = ipywidgets.HBox([self._search, self._category, self._place])
        left = ipywidgets.VBox(
            [self._about, self._choices, self._buttons],
            layout={"flex": "1 1 480px", "min_width": "300px"},
        )
        self._shown = ipywidgets.VBox(
            [self._picture], layout={"flex": "0 0 270px", "padding": "8px 0 0 0"}
        )
        self._below = ipywidgets.HBox([left, self._shown])
        for row in (filters, self._below):
            row.add_class("geowb-gap")
        return ipywidgets.VBox([filters, self._table, self._below])

    def _connect(self) -> None:
        for name in ("search", "category", "place", "seed"):
            t.link((self, name), (getattr(self, f"_{name}"), "value"))
        self._table.observe(self._picked, "selected")
        self._open_button.on_click(lambda _: self.open_scene())
        self._get_button.on_click(lambda _: self.fetch())

    # --- the list ---

    def _read(self) -> None:
        """Read the catalog's table anew: what is here changes."""
        self._rows = self.catalog.table()
        known = sorted({row["category"] for row in self._rows if row["category"]})
        with self.hold_trait_notifications():
            self._category.options = [_ALL, *known]
        self._filter()

    @property
    def names(self) -> list[str]:
        """Entries that the search and the filters leave."""
        words = self.search.lower().split()
        found = []
        for row in self._rows:
            text = " ".join(row.values()).lower()
            fits = self.category in (_ALL, row["category"]) and self.place in (_ALL, row["status"])
            if fits and all(word in text for word in words):
                found.append(row["name"])
        return found

    @t.validate("category")
    def _good_category(self, proposal: dict[str, Any]) -> str:
        known = {_ALL, *(row["category"] for row in self._rows)}
        if self._rows and proposal["value"] not in known:
            hint = did_you_mean(proposal["value"], known)
            raise t.TraitError(f"category is '{proposal['value']}'. {hint}")
        return proposal["value"]

    @t.observe("search", "category", "place")
    @guarded
    def _filter(self, _: Any = None) -> None:
        names = set(self.names)
        self._table.rows = [_row(row) for row in self._rows if row["name"] in names]
        if not self._rows:
            self.say(f"The catalog {self.catalog.path} has no entries.", "empty")
        elif self.state != "loading":
            told = "" if len(names) == len(self._rows) else f"{len(names)} of "
            self.say(f"{told}{len(self._rows)} data sets in {self.catalog.path.name}.")

    # --- one entry ---

    @guarded
    def _picked(self, change: dict[str, Any]) -> None:
        self.selected = change["new"][0] if change["new"] else ""

    @t.validate("selected")
    def _good_selected(self, proposal: dict[str, Any]) -> str:
        name = proposal["value"]
        if name and name not in self.catalog:
            raise t.TraitError(f"selected is '{name}'. {did_you_mean(name, self.catalog)}")
        return name

    @t.validate("choices")
    def _good_choices(self, proposal: dict[str, Any]) -> dict[str, str]:
        given = {name: str(value) for name, value in proposal["value"].items()}
        source = self.source
        if source is None and given:
            raise t.TraitError(f"choices is {given}, but nothing is `selected`: choose an entry.")
        listed = source.entry.placeholders if source is not None else {}
        free = [name for name, values in listed.items() if values == "any"]
        told = {name: [value] for name, value in given.items() if value or name not in free}
        told |= {name: ["-"] for name in free if name not in told}  # not given yet
        if source is not None and (problems := source.selection_problems(told)):
            raise t.TraitError(problems[0])
        return given

    @property
    def source(self) -> Source | None:
        """The chosen entry."""
        return self.catalog[self.selected] if self.selected else None

    @t.observe("selected")
    @guarded
    def _chosen(self, _: Any) -> None:
        self._table.selected = [self.selected] if self.selected else []
        source = self.source
        old, self._choices.children = self._choices.children, ()
        discard(control for control in old if control is not self._seed)
        self._asking = True  # so that the preview is begun once
        try:
            self.choices = {}
            if source is not None:
                self._ask(source)
        finally:
            self._asking = False
        self._show()

    def _ask(self, source: Source) -> None:
        """Put a control for each placeholder of an entry."""
        controls: list[Any] = []
        for name, values in source.entry.placeholders.items():
            if values == "any":
                control = ipywidgets.Text(description=name, continuous_update=False, **_PLACEHOLDER)
            else:
                control = ipywidgets.Dropdown(
                    options=list(values), description=name, **_PLACEHOLDER
                )
            control.observe(lambda change, name=name: self._choose(name, change["new"]), "value")
            controls.append(control)
        if source.entry.driver.name == "world":
            controls.append(self._seed)
        self._choices.children = tuple(controls)
        self.choices = {n: v[0] for n, v in source.entry.placeholders.items() if v != "any"}

    @guarded
    def _choose(self, name: str, value: str) -> None:
        self.choices = self.choices | {name: value}

    @t.observe("choices", "seed")
    @guarded
    def _changed(self, _: Any) -> None:
        for control in self._choices.children:
            value = self.choices.get(control.description)
            if value is not None and control.value != value:
                control.value = value
        if self.source is not None and not self._asking:
            self._show()

    def _show(self) -> None:
        """Say what is known of the chosen entry, and draw its preview if it is here."""
        source = self.source
        self._below.layout.display = "" if source else "none"
        if source is None:
            self._filter()
            return
        status, unasked = self._status(source)
        self._about.value = _about(source, status, self._code())
        scene = source.entry.driver.name != "archive" or source.reader({})[0] is not None
        self._openable = scene and status != "missing" and not unasked
        self._allow()
        self._open_button.tooltip = "Open it, as `scene`" if scene else source.not_a_scene
        remote = status == "remote" and not source.streamed
        self._get_button.layout.display = "" if remote else "none"
        self._get_button.tooltip = f"Download it ({source.entry.metadata.size or 'size not known'})"
        wanted = (source, tuple(self.choices.items()), self.seed)
        if self._fetching or wanted == self._preview_of:
            return
        self._preview_of, self._image, self._picture.png = (), None, b""
        if status in ("embedded", "here") and scene and not unasked:
            told = f"Drawing a preview of {source.name} ..."
            self.work(partial(self._preview, source, dict(self.choices), self.seed), told)
        else:
            self._work.stop()
            self._shown.layout.display = "none"
            if unasked:
                self.say(f"{source.name}: type a value for {unasked[0]}.")
            else:
                self._filter()

    def _allow(self) -> None:
        """Enable the buttons that make sense now."""
        self._open_button.disabled = not self._openable or self._fetching is not None
        self._get_button.disabled = self._fetching is not None

    def _status(self, source: Source) -> tuple[str, list[str]]:
        """Where an entry's data is, and which placeholders without listed values have none yet."""
        free = [n for n, values in source.entry.placeholders.items() if values == "any"]
        unasked = [name for name in free if not self.choices.get(name)]
        status = source.status()
        if free and not unasked and status == "missing":
            status = "missing" if source.absence(source.fields(self.choices)) else "here"
        return status, unasked

    def _preview(self, source: Source, choices: dict[str, str], seed: int, turn: Turn) -> None:
        frames = open_frames(source.open(seed=seed, **choices))
        turn.check()
        painter = Painter(frames)
        look = next(iter(painter.looks), "")
        overlay = "" if look else next(iter(frames.layers), "")
        told = (look, "each date", not look and not overlay, overlay or NOTHING, 1.0, frames.start)
        painted = painter.paint(Wanted(0, *told), turn)
        turn.check()
        rows, columns = frames.start.shape
        unit = "sample" if frames.axis == "sample" else "date"
        self._shown.layout.display = ""
        self._picture.show(
            drawing.encode(painted.image),
            shown_width=max(48, round(256 * min(1, columns / rows))),
            caption=f"Preview: {look or overlay or 'clouds'}, {frames.dates[0]}. "
            f"{rows} × {columns} pixels, {frames.count} {unit}{'s' * (frames.count != 1)}.",
            alt=f"Preview of {source.name}",
        )
        self._image = painted.image
        self._preview_of = (source, tuple(choices.items()), seed)
        self.say(f"{source.name}: press Open as scene, or use the line of code.")

    def _code(self) -> str:
        """Line of code that opens what is chosen."""
        own = "" if self.catalog.path == open_catalog().path else repr(str(self.catalog.path))
        given = {"seed": self.seed} if self.seed else {}
        words = ", ".join(f"{name}={value!r}" for name, value in {**given, **self.choices}.items())
        return f'scene = geowb.open_catalog({own})["{self.selected}"].open({words})'

    # --- opening and fetching ---

    @guarded
    def open_scene(self) -> None:
        """Open the chosen entry beside the kernel's work: `scene` is what comes of it."""
        source = self.source
        if source is None:
            self.say("Choose a data set first.")
        else:
            job = partial(self._open, source, dict(self.choices), self.seed)
            self.work(job, f"Opening {source.name} ...")

    def _open(self, source: Source, choices: dict[str, str], seed: int, turn: Turn) -> None:
        scene = source.open(seed=seed, **choices)
        turn.check()
        self.scene = scene
        sizes = ", ".join(f"{name} {size}" for name, size in scene.sizes.items())
        self.say(f"{source.name} is open ({sizes}): it is `scene` of this browser.")

    @guarded
    def fetch(self) -> None:
        """Download the chosen entry, with a bar; stopped, it goes on from there the next time."""
        source = self.source
        if source is None:
            self.say("Choose a data set first.")
            return
        self._fetching = mine = object()
        self._show()
        self.work(partial(self._fetch, source, mine), f"Fetching {source.name} ...")

    def _fetch(self, source: Source, mine: object, turn: Turn) -> None:
        try:
            place = source.get(progress=turn.at)
        finally:
            self._fetched(mine)
        self._read()
        self.say(f"{source.name} lies in {place}.")
        self._show()

    def stop(self) -> None:
        """Stop what goes on; a download goes on from there the next time."""
        fetching = self._fetching
        self._fetched(fetching)
        super().stop()
        if fetching:
            self.say("The download was stopped; Fetch goes on from there.")

    def _fetched(self, mine: object) -> None:
        """Note that a download has ended, if it is the one that goes on."""
        if self._fetching is mine:
            self._fetching = None
            self._allow()

    def picture(self) -> bytes | None:
        """PNG of the list, or of the chosen entry with its preview."""
        from geowb.widgets.stored import card, framed

        if self.state == "error" or not self._rows:
            return super().picture()
        if self.source is not None and self._image is not None:
            return framed(self._image, self.selected, self.source.entry.description, [])
        rows = [row for row in self._rows if row["name"] in set(self.names)]
        columns = ("name", "category", "status", "size", "licence")
        return card("Catalog", [self.message], columns, [[r[c] for c in columns] for r in rows])

    def __repr__(self) -> str:
        return f"CatalogBrowser({self.catalog.path.name}, {len(self.catalog)} entries)"


def _first(name: str) -> int:
    """Order in which traits are set: what an entry is opened with after the entry."""
    return ("seed", "selected", "choices").index(name) if name in ("selected", "choices") else 0


def _row(row: dict[str, str]) -> dict[str, Any]:
    text, tone = _PLACES[row["status"]]
    return {"key": row["name"], "cells": row | {"status": {"text": text, "tone": tone}}}


def _about(source: Source, status: str, code: str) -> str:
    """Tell what is known of an entry, as HTML."""
    meta = source.entry.metadata
    known = {
        "where it is": _PLACES[status][0][2:],
        "licence": meta.source_license or "unknown: ask its publisher before you use it",
        "size": meta.size,
        "region": meta.spatial_extent,
        "time": meta.temporal_extent,
        "paper": meta.paper_ref,
        "embedded twin": source.entry.twin,
        "note": meta.notes,
    }
    if status in ("remote", "missing"):
        known["to get it"] = source.how_to_get()
    items = "".join(f"<dt>{k}</dt><dd>{escaped(v)}</dd>" for k, v in known.items() if v)
    head = f"<h4>{escaped(source.name)}</h4>{escaped(source.entry.description)}"
    return f"{head}<dl>{items}</dl><code>{escaped(code)}</code>"
