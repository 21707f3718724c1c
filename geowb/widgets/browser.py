"""What the catalog has: search, licence, size, whether it is here, a preview, open, fetch."""

from __future__ import annotations

from typing import Any

import ipywidgets
import numpy as np
import traitlets as t

from geowb.catalog import Catalog, Source, open_catalog
from geowb.errors import did_you_mean
from geowb.widgets import drawing
from geowb.widgets.frames import open_frames
from geowb.widgets.panel import Panel, Thing, escaped, guarded, note
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
    {"key": "size", "label": "size", "kind": "short"},
    {"key": "licence", "label": "licence", "kind": "text"},
    {"key": "description", "label": "what it is"},
]
_LARGEST = 192  # pixels of a preview


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
        self._image: np.ndarray | None = None
        super().__init__("Catalog", (self._make(),))
        self._connect()
        self._read()
        for name, value in traits.items():
            setattr(self, name, value)

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
        self._seed = ipywidgets.BoundedIntText(0, min=0, max=2**31 - 1, description="seed", **style)
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
        self._shown = ipywidgets.VBox([self._picture], layout={"flex": "0 0 270px"})
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

    @property
    def source(self) -> Source | None:
        """The chosen entry."""
        return self.catalog[self.selected] if self.selected else None

    @t.observe("selected")
    @guarded
    def _chosen(self, _: Any) -> None:
        self._table.selected = [self.selected] if self.selected else []
        source = self.source
        self._choices.children = ()
        self.choices = {}
        if source is not None:
            self._ask(source)
        self._show()

    def _ask(self, source: Source) -> None:
        """Put a control for each placeholder of an entry."""
        controls: list[Any] = []
        for name, values in source.entry.placeholders.items():
            style = {"style": {"description_width": "90px"}, "layout": {"width": "340px"}}
            if values == "any":
                control = ipywidgets.Text(description=name, continuous_update=False, **style)
            else:
                control = ipywidgets.Dropdown(options=list(values), description=name, **style)
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
        if self.source is not None:
            self._show()

    def _show(self) -> None:
        """Say what is known of the chosen entry, and draw its preview if it is here."""
        source = self.source
        self._below.layout.display = "" if source else "none"
        if source is None:
            return
        status = source.status()
        self._about.value = _about(source, status, self._code())
        scene = source.entry.driver.name != "archive" or source.reader({})[0] is not None
        here = status in ("embedded", "here")
        self._open_button.disabled = not scene or status == "missing" or self._unasked(source)
        self._open_button.tooltip = "Open it, as `browser.scene`" if scene else source.not_a_scene
        streamed = source.streamed
        self._get_button.layout.display = "" if status == "remote" and not streamed else "none"
        self._get_button.tooltip = f"Download it ({source.entry.metadata.size or 'size not known'})"
        wanted = (source.name, tuple(self.choices.items()), self.seed)
        if not (here and scene):
            self._picture.png, self._image, self._preview_of = b"", None, ()
            self._shown.layout.display = "none"
            self._filter()
        elif wanted != self._preview_of:
            self.work(self._preview, f"Drawing a preview of {source.name} ...")

    def _unasked(self, source: Source) -> bool:
        """Whether a placeholder without listed values has none yet."""
        free = [n for n, values in source.entry.placeholders.items() if values == "any"]
        return any(not self.choices.get(name) for name in free)

    def _preview(self, turn: Turn) -> None:
        source, choices, seed = self.source, dict(self.choices), self.seed
        if source is None:
            return
        frames = open_frames(source.open(seed=seed, **choices))
        turn.check()
        look = next(iter(drawing.composites(frames.bands).values()), None)
        view = frames.start
        if look:
            values = frames.read(0, look.bands, view, turn, _LARGEST)
            hidden = frames.hidden(0, view, turn, _LARGEST)
            clear = None if hidden is None else hidden == 0
            limits = drawing.joined(drawing.spans(values, clear, (2, 98)), look)
            image = drawing.stretch(values, limits)
            told = f"{look.name}, {frames.dates[0]}"
        else:
            name = [*frames.layers, "fmask"][0]
            plane = frames.layer(name, 0, view, turn, _LARGEST)
            how = drawing.overlay_of(plane, frames.scene[name].attrs)
            white = np.full((*plane.shape, 3), 255, np.uint8)
            image, told = drawing.overlaid(white, plane, how, 1.0), name
        turn.check()
        rows, columns = view.shape
        self._shown.layout.display = ""
        self._picture.show(
            drawing.encode(image),
            shown_width=max(48, round(256 * min(1, columns / rows))),
            pixels=[columns, rows],
            caption=f"Preview: {told}. {rows} × {columns} pixels, {frames.count} "
            f"{'sample' if frames.axis == 'sample' else 'date'}{'s' * (frames.count != 1)}.",
            alt=f"Preview of {source.name}",
        )
        self._image, self._preview_of = image, (source.name, tuple(choices.items()), seed)
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
        if self.source is None:
            self.say("Choose a data set first.", "result")
        else:
            self.work(self._open, f"Opening {self.selected} ...")

    def _open(self, turn: Turn) -> None:
        source = self.source
        if source is not None:
            scene = source.open(seed=self.seed, **self.choices)
            turn.check()
            self.scene = scene
            sizes = ", ".join(f"{name} {size}" for name, size in scene.sizes.items())
            self.say(f"{source.name} is open ({sizes}): it is `scene` of this browser.")

    @guarded
    def fetch(self) -> None:
        """Download the chosen entry, with a bar; stopped, it goes on from there the next time."""
        if self.source is not None:
            self.work(self._fetch, f"Fetching {self.selected} ...")

    def _fetch(self, turn: Turn) -> None:
        source = self.source
        if source is not None:
            place = source.get(progress=turn.at)
            self._read()
            self._show()
            self.say(f"{source.name} lies in {place}.")

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
