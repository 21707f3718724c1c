"""Look at a scene: bands, dates, clouds, labels, one pixel over time, a box to cut out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import ipywidgets
import numpy as np
import traitlets as t

from geowb.errors import RequestError, did_you_mean
from geowb.widgets import drawing
from geowb.widgets.frames import MOST, Frames, View, open_frames
from geowb.widgets.panel import Panel, Thing, escaped, guarded, note
from geowb.widgets.parts import Picture, Plot
from geowb.widgets.series import as_curves, draw_series, table_of
from geowb.widgets.work import Turn

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["SceneExplorer"]

_NOTHING = "none"
_STRETCHES = {
    "each date": "each date by itself, 2nd to 98th percentile of what is clear",
    "all dates": "all dates alike, so that they can be compared",
    "full range": "from the smallest to the largest value of this picture",
}
_KEYS = (
    "In the picture: arrow keys move a cross (Shift: ten pixels), Enter takes the pixel or a "
    "corner of the box, + and - zoom, 0 shows the whole scene, Escape clears."
)


class SceneExplorer(Panel):
    """Explore a scene by mouse, keys or code.

    >>> explorer = SceneExplorer(catalog["world"].open(region="cerrado"))  # doctest: +SKIP
    >>> explorer.date = 2; explorer.show = "NDVI (vegetation)"  # doctest: +SKIP
    >>> explorer.pixel = (120, 300); explorer.series  # a pandas table  # doctest: +SKIP
    >>> explorer.box = (0, 64, 0, 64); explorer.selection  # a smaller scene  # doctest: +SKIP

    Parameters
    ----------
    scene
        A scene (`xarray.Dataset`), an array ``(band, y, x)``, the path of a raster or Zarr, or an
        entry of the catalog. May be left out and set later.
    **traits
        Any of those below, to begin with.

    Attributes
    ----------
    date
        Number of the date (or of the sample), from 0.
    show
        What is shown: a composite, an index or a band; `choices` lists them.
    stretch
        ``each date``, ``all dates`` or ``full range``.
    clouds
        Whether clouds and shadows are hatched, where the scene has an ``fmask``.
    overlay, opacity
        A label over the picture, or ``none``; from 0 to 1.
    pixel
        Row and column of the chosen pixel, or None.
    box
        Top, bottom, left and right of the chosen part, half open, or None.
    view
        The part that is shown.

    A scene of any size is shown from its overviews; without them the middle first, in full detail.
    It is never read as a whole unless it is small (400 MB).
    """

    scene = Thing(None)
    date = t.Int(0)
    show = t.Unicode("")
    stretch = t.Enum(tuple(_STRETCHES), "each date")
    clouds = t.Bool(False)
    overlay = t.Unicode(_NOTHING)
    opacity = t.Float(0.7)
    pixel = t.Any(None)
    box = t.Any(None)
    view = t.Any(None)

    def __init__(self, scene: Any = None, **traits: Any) -> None:
        self._frames: Frames | None = None
        self._limits: dict[Any, np.ndarray] = {}
        self._overlays: dict[str, drawing.Overlay] = {}
        self._image = np.zeros((1, 1, 3), np.uint8)
        self._series: pd.DataFrame | None = None
        self._given = traits
        self._looks: dict[str, drawing.Look] = {}
        super().__init__("Scene explorer", (self._make(),))
        self._connect()
        self.say("No scene yet: set `scene`, for example to catalog['world'].open().", "empty")
        self.scene = scene

    # --- parts ---

    def _make(self) -> ipywidgets.Box:
        wide = {
            "layout": {"width": "auto", "min_width": "250px"},
            "style": {"description_width": "62px"},
        }
        self._date = ipywidgets.SelectionSlider(
            options=[("-", 0)], description="Date", continuous_update=True,
            layout={"width": "auto", "flex": "1 1 auto"}, style={"description_width": "62px"},
        )  # fmt: skip
        self._show = ipywidgets.Dropdown(options=[("-", "")], description="Show", **wide)
        self._stretch = ipywidgets.Dropdown(
            options=list(_STRETCHES), description="Stretch", tooltip=_STRETCHES["each date"], **wide
        )
        self._overlay = ipywidgets.Dropdown(options=[_NOTHING], description="Label", **wide)
        self._opacity = ipywidgets.FloatSlider(
            0.7, min=0, max=1, step=0.05, description="Opacity", readout_format=".0%", **wide
        )
        self._clouds = ipywidgets.Checkbox(
            False, description="hatch clouds and shadows", indent=False, layout={"width": "auto"}
        )
        self._tool = ipywidgets.ToggleButtons(
            options=[("Pixel", "point"), ("Box", "box"), ("Move", "move")],
            tooltips=["choose a pixel", "draw a box", "move the view"],
            style={"button_width": "64px"},
        )
        zoom = [
            self._button(text, told, gesture)
            for text, told, gesture in (
                ("+", "Zoom in", ("zoom", [0.5, 0.5, 0.5])),
                ("−", "Zoom out", ("zoom", [0.5, 0.5, 2])),
                ("Whole", "Show the whole scene", ("whole", [])),
            )
        ]
        self._map_button = self._button(
            "Map", "Show the scene on a map that can be moved (leafmap)"
        )
        self._map_button.on_click(self._mapped)
        self._picture, self._plot, self._text = Picture(hint=_KEYS), Plot(), note()
        self._map = ipywidgets.VBox()
        tools = ipywidgets.HBox([self._tool, *zoom, self._map_button])
        tools.add_class("geowb-tools")
        left = ipywidgets.VBox(
            [tools, self._picture], layout={"flex": "0 1 540px", "min_width": "300px"}
        )
        controls = [self._show, self._stretch, self._overlay, self._opacity, self._clouds]
        right = ipywidgets.VBox(
            [*controls, self._text, self._plot], layout={"flex": "1 1 420px", "min_width": "300px"}
        )
        both = ipywidgets.HBox([left, right])
        both.add_class("geowb-gap")
        return ipywidgets.VBox([self._date, both, self._map])

    def _button(self, text: str, told: str, gesture: tuple[str, list[float]] | None = None) -> Any:
        made = ipywidgets.Button(description=text, tooltip=told, layout={"width": "64px"})
        if gesture:
            made.on_click(lambda _: self._gesture(*gesture))
        return made

    def _connect(self) -> None:
        """Tie controls and traits together."""
        names = ("date", "show", "stretch", "clouds", "overlay", "opacity")
        self._controls = {name: getattr(self, f"_{name}") for name in names}
        for name, control in self._controls.items():
            control.observe(lambda change, name=name: self._moved(name, change["new"]), "value")
        self._tool.observe(lambda change: setattr(self._picture, "tool", change["new"]), "value")
        self._picture.on_gesture(self._gesture)

    @guarded
    def _moved(self, name: str, value: Any) -> None:
        if value is not None and self._frames is not None:
            setattr(self, name, value)

    # --- opening ---

    @t.observe("scene")
    @guarded
    def _opened(self, change: dict[str, Any]) -> None:
        if change["new"] is not None:
            self._frames = None
            self.work(self._open, "Opening the scene ...")

    def _open(self, turn: Turn) -> None:
        frames = open_frames(self.scene)
        frames.hold()
        turn.check()
        self._limits, self._overlays, self._series = {}, {}, None
        self._looks = drawing.composites(frames.bands)
        given, self._given = self._given, {}
        layers = [_NOTHING, *frames.layers]
        first = _NOTHING if self._looks else layers[1] if len(layers) > 1 else _NOTHING
        start = {
            "date": min(self.date, frames.count - 1),
            "show": self.show if self.show in self._looks else next(iter(self._looks), ""),
            "overlay": self.overlay if self.overlay in layers else first,
            "clouds": (self.clouds or not self._looks) and "fmask" in frames.scene,
        } | {"pixel": None, "box": None, "view": frames.start}
        self._date.options = [(text, i) for i, text in enumerate(frames.dates)]
        self._date.description = "Sample" if frames.axis == "sample" else "Date"
        self._date.disabled = frames.count < 2
        self._show.options = [(name, name) for name in self._looks] or [("labels alone", "")]
        self._overlay.options = layers
        self._overlay.disabled = self._opacity.disabled = len(layers) == 1
        self._clouds.disabled = "fmask" not in frames.scene
        self._map_button.disabled = frames.scene.rio.crs is None or frames.axis == "sample"
        with self.hold_trait_notifications():
            self._frames = frames
            for name, value in (start | given).items():
                setattr(self, name, value)
        self._show_controls()
        self._draw(turn)

    def _show_controls(self) -> None:
        for name, control in self._controls.items():
            if control.value != getattr(self, name):
                control.value = getattr(self, name)

    @property
    def choices(self) -> list[str]:
        """What `show` can be."""
        return list(self._looks)

    # --- what may be set ---

    @t.validate("date")
    def _good_date(self, proposal: dict[str, Any]) -> int:
        number = proposal["value"]
        if self._frames is not None and not 0 <= number < self._frames.count:
            raise t.TraitError(f"date is {number}; the scene has 0 to {self._frames.count - 1}.")
        return number

    @t.validate("show")
    def _good_show(self, proposal: dict[str, Any]) -> str:
        return self._known("show", proposal["value"], self._looks)

    @t.validate("overlay")
    def _good_overlay(self, proposal: dict[str, Any]) -> str:
        layers = [_NOTHING, *self._frames.layers] if self._frames else []
        return self._known("overlay", proposal["value"], layers)

    def _known(self, name: str, value: str, known: Any) -> str:
        if self._frames is not None and known and value not in known:
            raise t.TraitError(f"{name} is '{value}'. {did_you_mean(value, known)}")
        return value

    @t.validate("pixel")
    def _good_pixel(self, proposal: dict[str, Any]) -> tuple[int, int] | None:
        value = proposal["value"]
        if value is None or self._frames is None:
            return value
        row, column = (int(one) for one in value)
        rows, columns = self._frames.shape
        if not (0 <= row < rows and 0 <= column < columns):
            raise t.TraitError(f"pixel is {(row, column)}; the scene has {rows} x {columns}.")
        return row, column

    @t.validate("box", "view")
    def _good_part(self, proposal: dict[str, Any]) -> View | None:
        value = proposal["value"]
        if value is None or self._frames is None:
            return value
        edges = value if isinstance(value, View) else View(*map(int, value))
        rows, columns = self._frames.shape
        if not (0 <= edges.top < edges.bottom <= rows and 0 <= edges.left < edges.right <= columns):
            name, told = proposal["trait"].name, tuple(vars(edges).values())
            raise t.TraitError(
                f"{name} is {told}: it is top, bottom, left, right within {rows} x {columns}."
            )
        return edges

    @t.observe("date", "show", "stretch", "clouds", "overlay", "opacity", "view")
    @guarded
    def _changed(self, _: Any) -> None:
        if self._frames is None:
            return
        self._show_controls()
        self._stretch.tooltip = _STRETCHES[self.stretch]
        quick = self._frames.files is None and self._frames.coarse
        self.work(self._draw, "" if quick else "Reading the scene ...")

    @t.observe("box")
    @guarded
    def _boxed(self, _: Any) -> None:
        if self._frames is not None:
            self._marks()
            self._told()

    @t.observe("pixel")
    @guarded
    def _picked(self, change: dict[str, Any]) -> None:
        if self._frames is None:
            return
        self._marks()
        if change["new"] is None:
            self._series, self._plot.item = None, {}
            self._told()
        else:
            self.work(self._draw_pixel)

    # --- gestures ---

    @guarded
    def _gesture(self, kind: str, at: list[float]) -> None:
        if self._frames is None or self.view is None:
            return
        view, whole = self.view, self._frames.shape
        if kind == "point":
            self.pixel = view.pixel(at)
        elif kind == "box":
            (top, left), (bottom, right) = view.pixel(at[:2]), view.pixel(at[2:])
            rows, columns = sorted((top, bottom)), sorted((left, right))
            self.box = View(rows[0], rows[1] + 1, columns[0], columns[1] + 1)
        elif kind == "zoom":
            self.view = view.zoomed(at[2], at[:2], whole)
        elif kind == "move":
            self.view = view.moved(*at, whole)
        elif kind == "whole":
            self.view = self._frames.whole
        elif kind == "clear":
            self.box = self.pixel = None

    @guarded
    def _mapped(self, _: Any) -> None:
        self.work(lambda turn: setattr(self._map, "children", (self.map(),)), "Making the map ...")

    def map(self, **options: Any) -> Any:
        """Show the scene on a map that can be moved, by `geowb.show_map`.

        >>> explorer.map(basemap=False)  # doctest: +SKIP
        """
        from geowb.maps.live import show_map

        frames = self._ready()
        look = self._looks.get(self.show)
        bands = look.bands if look and look.kind == "rgb" else ()
        extra = [] if self.overlay == _NOTHING else [frames.scene[self.overlay]]
        made = show_map(frames.scene, *extra, bands=bands, time=self.date, **options)
        self.say(self._sentence())
        return made

    # --- drawing ---

    def _ready(self) -> Frames:
        if self._frames is None:
            raise RequestError("There is no scene yet: set `scene`, and `wait()` until it is open.")
        return self._frames

    def _draw(self, turn: Turn) -> None:
        frames, view, date = self._ready(), self.view, self.date
        look = self._looks.get(self.show)
        image, legend, known = self._ground(frames, look, date, view, turn)
        hidden = frames.hidden(date, view, turn) if self.clouds else None
        if self.overlay != _NOTHING:
            plane = frames.layer(self.overlay, date, view, turn)
            how = self._how(frames, plane)
            image = drawing.overlaid(image, plane, how, self.opacity)
            legend = legend + how.legend()
        if hidden is not None:
            image = drawing.veil(image, hidden)
            legend = legend + [{"name": name, "colour": colour} for name, colour in drawing.CLOUDS]
        turn.check()
        self._image = image
        rows, columns = view.shape
        self._picture.show(
            drawing.encode(image),
            pixels=[columns, rows],
            shown_width=max(64, round(MOST * min(1, columns / rows))),
            caption=self._caption(frames, look, view),
            alt=f"{frames.name}, {frames.dates[date]}, {self.show or 'labels'}: choose a pixel",
            legend=legend,
            **self._where(),
        )
        self._told()
        self.say(self._sentence(known))
        if self.pixel is not None and self._series is None:
            self._draw_pixel(turn)

    def _ground(
        self, frames: Frames, look: drawing.Look | None, date: int, view: View, turn: Turn
    ) -> tuple[np.ndarray, list[dict[str, Any]], bool]:
        """Picture without what lies over it, its legend, and whether there is anything."""
        if look is None:
            shape = tuple(-(-edge // view.step(MOST)) for edge in view.shape)
            return np.full((*shape, 3), 255, np.uint8), [], True
        values = frames.read(date, look.bands, view, turn)
        known = bool(np.isfinite(values).any())
        if look.kind == "index":
            plane = drawing.index(values)[0]
            return drawing.shade(plane, drawing.INDEX.limits), drawing.INDEX.legend(), known
        limits = self._stretched(frames, look, date, view, values, turn)
        limits = drawing.joined(limits, look)
        legend = []
        if look.kind == "grey":
            low, high = (f"{value:.4g}" for value in limits[0])
            legend = [{"colours": ["#000000", "#ffffff"], "low": low, "high": high, "unit": ""}]
        return drawing.stretch(values, limits), legend, known

    def _stretched(
        self, frames: Frames, look: drawing.Look, date: int, view: View, values: Any, turn: Turn
    ) -> np.ndarray:
        """Find the ends of the stretch; those of all dates once a composite and view."""
        if self.stretch == "full range":
            return drawing.spans(values, None, (0, 100))
        if self.stretch == "each date":
            return drawing.spans(values, _clear(frames.hidden(date, view, turn)), (2, 98))
        key = (look.bands, view)
        if key not in self._limits:
            dates = np.unique(np.linspace(0, frames.count - 1, min(frames.count, 24)).astype(int))
            small = [frames.read(int(d), look.bands, view, turn, 128) for d in dates]
            masks = [frames.hidden(int(d), view, turn, 128) for d in dates]
            clear = None if masks[0] is None else np.concatenate([m == 0 for m in masks])
            self._limits = {key: drawing.spans(np.concatenate(small, axis=1), clear, (2, 98))}
        return self._limits[key]

    def _how(self, frames: Frames, plane: np.ndarray) -> drawing.Overlay:
        """Colours of the overlay, the same for all dates and views."""
        if self.overlay not in self._overlays:
            attrs: Mapping[str, Any] = frames.scene[self.overlay].attrs
            self._overlays[self.overlay] = drawing.overlay_of(plane, attrs)
        return self._overlays[self.overlay]

    def _caption(self, frames: Frames, look: drawing.Look | None, view: View) -> str:
        text = f"{frames.dates[self.date]}: {self.show or 'no bands'}"
        if look and look.kind == "rgb":
            text += f" (red {look.bands[0]}, green {look.bands[1]}, blue {look.bands[2]})"
        if look and look.kind == "index":
            first, second = look.bands
            text += f" = ({first} − {second}) / ({first} + {second})"
        if view != frames.whole:
            text += (
                f"; rows {view.top} to {view.bottom - 1}, columns {view.left} to {view.right - 1}"
            )
        if (step := view.step(MOST)) > 1:
            text += f"; one pixel of {step} × {step} is shown"
        return text

    def _sentence(self, known: bool = True) -> str:
        frames = self._ready()
        rows, columns = frames.shape
        unit = "sample" if frames.axis == "sample" else "date"
        text = f"{frames.name}: {rows} × {columns} pixels, {frames.count} {unit}"
        bands = len(frames.bands)
        text += f"{'s' * (frames.count != 1)}, {bands} band{'s' * (bands != 1)}."
        if not known:
            text += f" There is no data in this part on this {unit}."
        if not frames.coarse and self.view == frames.start:
            text += (
                " It is large and has no overviews, so this is its middle; Whole reads all of it"
                " once (gdaladdo would make overviews)."
            )
        return text

    # --- the pixel and the box ---

    def _marks(self) -> None:
        for name, value in self._where().items():
            setattr(self._picture, name, value)

    def _where(self) -> dict[str, list[float]]:
        """Pixel and box as shares of the picture."""
        mark = self.view.share(self.pixel[0] + 0.5, self.pixel[1] + 0.5) if self.pixel else []
        box: list[float] = []
        if self.box:
            start = self.view.share(self.box.top, self.box.left)
            box = start + self.view.share(self.box.bottom, self.box.right)
        inside = mark and all(0 <= one <= 1 for one in mark)
        return {"mark": mark if inside else [], "box": box}

    def _draw_pixel(self, turn: Turn) -> None:
        frames, chosen = self._ready(), self.pixel
        if chosen is None:
            return
        values, cloudy = frames.pixel(*chosen)
        turn.check()
        self._series = table_of(frames, values, cloudy)
        element, alt = as_curves(self._series, frames, chosen)
        from geowb.widgets.liveplot import as_json

        item = as_json(element) if element is not None else {}
        with self._plot.hold_sync():
            self._plot.serial, self._plot.alt, self._plot.item = self._plot.serial + 1, alt, item
        self._told()
        self.say(self._sentence())

    @property
    def series(self) -> pd.DataFrame | None:
        """The chosen pixel over all dates: a row a date, a column a band, and ``cloudy``."""
        return self._series

    @property
    def selection(self) -> xr.Dataset | None:
        """The part of the scene in the box, as lazy as the scene; None without a box."""
        return self._ready().crop(self.box) if self.box else None

    def _told(self) -> None:
        """Say which pixel and box are chosen, and how code gets at them."""
        frames, lines = self._ready(), []
        if self.pixel:
            row, column = self.pixel
            where = frames.place(row, column)
            lines.append(f"<b>Pixel</b> row {row}, column {column}{f' ({where})' * bool(where)}")
            if self.overlay != _NOTHING:
                lines.append(escaped(self._label_at(row, column)))
            lines.append("<code>explorer.series</code> is a table of it.")
        else:
            lines.append("<span class='geowb-muted'>Press on a pixel to see it over time.</span>")
        if self.box:
            (rows, columns), box = self.box.shape, self.box
            where = f"from row {box.top}, column {box.left}"
            lines.append(f"<b>Box</b> {rows} × {columns} pixels, {where}")
            lines.append("<code>explorer.selection</code> is that part as a scene.")
        self._text.value = "<br>".join(lines)

    def _label_at(self, row: int, column: int) -> str:
        frames, name = self._ready(), self.overlay
        value = frames.layer(name, self.date, View(row, row + 1, column, column + 1), Turn())[0, 0]
        how = self._overlays.get(name)
        if how is None:
            return ""
        if how.classes is not None:
            text = how.classes.get(int(value), "not labelled").replace("_", " ")
        else:
            text = f"{value:.4g} {how.units}".strip() if np.isfinite(value) else "not labelled"
        return f"{name}: {text}"

    def picture(self) -> bytes | None:
        """PNG of the picture, its caption and legend, and of the chosen pixel."""
        from geowb.widgets.stored import framed

        if self._frames is None or self.state == "error":
            return super().picture()
        series, frames = self._series, self._frames
        chart = None if series is None else lambda axes: draw_series(axes, series, frames)
        shown = self._picture
        return framed(
            self._image, frames.name, shown.caption, shown.legend, chart=chart, **self._where()
        )

    def __repr__(self) -> str:
        return f"SceneExplorer({self._frames.name if self._frames else 'no scene'})"


def _clear(hidden: np.ndarray | None) -> np.ndarray | None:
    return None if hidden is None else hidden == 0
