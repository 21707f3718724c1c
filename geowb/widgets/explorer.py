"""Look at a scene: bands, dates, clouds, labels, one pixel over time, a box to cut out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import ipywidgets
import traitlets as t

from geowb.errors import RequestError, did_you_mean
from geowb.widgets import drawing
from geowb.widgets.frames import MOST, Frames, View, open_frames
from geowb.widgets.painting import NOTHING, STRETCHES, Painted, Painter, Wanted
from geowb.widgets.panel import Panel, Thing, discard, escaped, guarded, note, whole
from geowb.widgets.parts import Picture, Plot
from geowb.widgets.series import as_curves, draw_series, table_of
from geowb.widgets.work import Turn

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["SceneExplorer"]

_KEYS = (
    "In the picture: arrow keys move a cross (Shift: ten pixels), Enter takes the pixel or a "
    "corner of the box, + and - zoom, 0 shows the whole scene, Escape clears."
)
_NO_SCENE = "No scene yet: set `scene`, for example to catalog['world'].open()."
#: Controls that show what is set, by the trait's name.
_CONTROLS = ("date", "show", "stretch", "clouds", "overlay", "opacity")


class SceneExplorer(Panel):
    """Explore a scene by mouse, keys or code.

    >>> explorer = SceneExplorer(catalog["world"].open(region="cerrado"))  # doctest: +SKIP
    >>> explorer.date = 2; explorer.show = "NDVI (vegetation)"  # doctest: +SKIP
    >>> explorer.pixel = (120, 300); explorer.wait(); explorer.series  # a table  # doctest: +SKIP
    >>> explorer.box = (0, 64, 0, 64); explorer.selection  # a smaller scene  # doctest: +SKIP

    Parameters
    ----------
    scene
        A scene (`xarray.Dataset`), an array ``(band, y, x)``, the path of a raster or Zarr, or an
        entry of the catalog. May be left out and set later; set again, it is opened again.
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
        The part that is shown, in the same way.

    A scene of any size is shown from its overviews; without them the middle first, in full detail.
    It is never read as a whole unless it is small (400 MB).
    """

    scene = Thing(None)
    date = t.Int(0)
    show = t.Unicode("")
    stretch = t.Enum(tuple(STRETCHES), "each date")
    clouds = t.Bool(False)
    overlay = t.Unicode(NOTHING)
    opacity = t.Float(0.7)
    pixel = t.Any(None)
    box = t.Any(None)
    view = t.Any(None)

    def __init__(self, scene: Any = None, **traits: Any) -> None:
        self._painter: Painter | None = None
        self._opening = self._before = False
        self._painted: Painted | None = None
        self._painted_for: Wanted | None = None
        self._series: pd.DataFrame | None = None
        self._series_for: tuple[Any, ...] = ()
        super().__init__("Scene explorer", (self._make(),))
        self._connect()
        self.say(_NO_SCENE, "empty")
        self.take(traits)
        self.scene = scene

    # --- parts ---

    def _make(self) -> ipywidgets.Box:
        wide = {"layout": {"width": "auto", "min_width": "250px"}}
        wide |= {"style": {"description_width": "62px"}}
        self._date = ipywidgets.SelectionSlider(
            options=[("-", 0)], description="Date", continuous_update=True,
            layout={"width": "auto", "flex": "1 1 auto"}, style={"description_width": "62px"},
        )  # fmt: skip
        self._show = ipywidgets.Dropdown(options=[("-", "")], description="Show", **wide)
        self._stretch = ipywidgets.Dropdown(options=list(STRETCHES), description="Stretch", **wide)
        self._overlay = ipywidgets.Dropdown(options=[NOTHING], description="Label", **wide)
        self._opacity = ipywidgets.FloatSlider(
            0.7, min=0, max=1, step=0.05, description="Opacity", readout_format=".0%", **wide
        )
        self._clouds = ipywidgets.Checkbox(
            False, description="hatch clouds and shadows", indent=False, layout={"width": "auto"}
        )
        self._picture, self._plot, self._text = Picture(hint=_KEYS), Plot(), note()
        self._map = ipywidgets.VBox()
        controls = [self._show, self._stretch, self._overlay, self._opacity, self._clouds]
        left = ipywidgets.VBox(
            [self._tools(), self._picture], layout={"flex": "0 1 540px", "min_width": "300px"}
        )
        right = ipywidgets.VBox(
            [*controls, self._text, self._plot], layout={"flex": "1 1 420px", "min_width": "300px"}
        )
        both = ipywidgets.HBox([left, right])
        both.add_class("geowb-gap")
        return ipywidgets.VBox([self._date, both, self._map])

    def _tools(self) -> ipywidgets.HBox:
        """Make the choice of what a press on the picture does, and buttons for the view."""
        self._tool = ipywidgets.ToggleButtons(
            options=[("Pixel", "point"), ("Box", "box"), ("Move", "move")],
            tooltips=["choose a pixel", "draw a box", "move the view"],
            style={"button_width": "64px"},
        )
        buttons = []
        for text, told, gesture in (
            ("Zoom in", "Show a part, larger (key +)", ("zoom", [0.5, 0.5, 0.5])),
            ("Zoom out", "Show more around it (key -)", ("zoom", [0.5, 0.5, 2])),
            ("Whole", "Show the whole scene (key 0)", ("whole", [])),
            ("Map", "Show the scene on a map that can be moved (leafmap)", None),
        ):
            made = ipywidgets.Button(description=text, tooltip=told, layout={"width": "auto"})
            made.on_click(
                lambda _, asked=gesture: self._gesture(*asked) if asked else self._mapped()
            )
            buttons.append(made)
        self._map_button = buttons[-1]
        tools = ipywidgets.HBox([self._tool, *buttons])
        tools.add_class("geowb-tools")
        return tools

    def _connect(self) -> None:
        """Tie controls and traits together."""
        for name in _CONTROLS:
            control = getattr(self, f"_{name}")
            control.observe(lambda change, name=name: self._moved(name, change["new"]), "value")
        self._tool.observe(lambda change: setattr(self._picture, "tool", change["new"]), "value")
        self._picture.on_gesture(self._gesture)

    @guarded
    def _moved(self, name: str, value: Any) -> None:
        if value is not None and self._frames is not None and not self._opening:
            setattr(self, name, value)

    # --- opening ---

    @t.observe("scene")
    @guarded
    def _opened(self, change: dict[str, Any]) -> None:
        if change["new"] is None and change["old"] is None:
            return
        self._map_button.disabled = True
        old, self._map.children = self._map.children, ()
        discard(old)
        if self._painter is not None:  # what is chosen in one scene says nothing about another
            self._painter = None
            self.pixel = self.box = self.view = None
        if change["new"] is not None:
            self.work(self._open, "Opening the scene ...")
        else:
            self._work.stop()
            self._picture.png, self._plot.item, self._text.value = b"", {}, ""
            self.say(_NO_SCENE, "empty")

    def _open(self, turn: Turn) -> None:
        frames = open_frames(self.scene)
        frames.hold()
        turn.check()
        painter = Painter(frames)
        self._painted_for, self._series, self._series_for = None, None, ()
        problem = self._settle(painter)
        self._redraw(turn)
        if problem:
            raise problem

    def _settle(self, painter: Painter) -> Exception | None:
        """Put the scene into the controls; keep what was set before where it fits, else say why."""
        frames, layers = painter.frames, painter.layers
        labels = not painter.looks and len(layers) > 1
        first = {"show": next(iter(painter.looks), ""), "overlay": layers[labels], "date": 0}
        first |= {"clouds": not painter.looks and not labels, "view": frames.start}
        unset = {"show": "", "overlay": NOTHING, "clouds": False, "view": None}
        problem: Exception | None = None
        self._opening = True
        try:
            self._offer(painter)
            self._painter = painter
            for name in ("show", "overlay", "date", "clouds", "view", "pixel", "box"):
                value = getattr(self, name)
                value = first[name] if name in unset and value == unset[name] else value
                try:
                    setattr(self, name, value)
                except t.TraitError as error:
                    setattr(self, name, first.get(name))
                    problem = None if self._before else problem or error
            self._before = True
            self._show_controls()
        finally:
            self._opening = False
        return problem

    def _offer(self, painter: Painter) -> None:
        """Give the controls what the scene has."""
        frames = painter.frames
        self._date.options = [(text, i) for i, text in enumerate(frames.dates)]
        self._date.description = "Sample" if frames.axis == "sample" else "Date"
        self._date.disabled = frames.count < 2
        self._show.options = [(name, name) for name in painter.looks] or [("labels alone", "")]
        self._overlay.options = painter.layers
        self._overlay.disabled = self._opacity.disabled = len(painter.layers) == 1
        self._clouds.disabled = "fmask" not in frames.scene
        nowhere = frames.scene.rio.crs is None or frames.axis == "sample"
        self._map_button.disabled = nowhere or not frames.bands

    def _show_controls(self) -> None:
        for name in _CONTROLS:
            control = getattr(self, f"_{name}")
            if control.value != getattr(self, name):
                control.value = getattr(self, name)
        self._stretch.tooltip = STRETCHES[self.stretch]

    @property
    def _frames(self) -> Frames | None:
        return self._painter.frames if self._painter else None

    @property
    def choices(self) -> list[str]:
        """What `show` can be."""
        return list(self._painter.looks) if self._painter else []

    # --- what may be set ---

    @t.validate("date")
    def _good_date(self, proposal: dict[str, Any]) -> int:
        number, frames = proposal["value"], self._frames
        if frames is not None and not 0 <= number < frames.count:
            unit = "sample" if frames.axis == "sample" else "date"
            raise t.TraitError(f"date is {number}: the {unit}s are 0 to {frames.count - 1}.")
        return number

    @t.validate("show", "overlay")
    def _good_name(self, proposal: dict[str, Any]) -> str:
        name, value, painter = proposal["trait"].name, proposal["value"], self._painter
        known = (painter.looks or [""] if name == "show" else painter.layers) if painter else ()
        if painter and value not in known:
            raise t.TraitError(f"{name} is '{value}'. {did_you_mean(value, known)}")
        return value

    @t.validate("opacity")
    def _good_share(self, proposal: dict[str, Any]) -> float:
        if math.isnan(proposal["value"]) or not 0 <= proposal["value"] <= 1:
            raise t.TraitError(f"opacity is {proposal['value']}: it is a share, from 0 to 1.")
        return proposal["value"]

    @t.validate("pixel")
    def _good_pixel(self, proposal: dict[str, Any]) -> tuple[int, ...] | None:
        if proposal["value"] is None:
            return None
        pixel = whole("pixel", proposal["value"], ("row", "column"))
        if self._frames is not None:
            rows, columns = self._frames.shape
            if not (0 <= pixel[0] < rows and 0 <= pixel[1] < columns):
                last = f"rows are 0 to {rows - 1}, columns 0 to {columns - 1}"
                raise t.TraitError(f"pixel is {pixel}: {last}.")
        return pixel

    @t.validate("box", "view")
    def _good_part(self, proposal: dict[str, Any]) -> View | None:
        name, value = proposal["trait"].name, proposal["value"]
        if value is None:
            return None
        edges = value
        if not isinstance(value, View):
            edges = View(*whole(name, value, ("top", "bottom", "left", "right")))
        if self._frames is not None:
            rows, columns = self._frames.shape
            down, right = 0 <= edges.top < edges.bottom <= rows, edges.right <= columns
            if not (down and right and 0 <= edges.left < edges.right):
                told = f"it is top, bottom, left, right, half open, within {rows} x {columns}"
                raise t.TraitError(f"{name} is {tuple(vars(edges).values())}: {told}.")
        return edges

    @t.observe("date", "show", "stretch", "clouds", "overlay", "opacity", "view", "pixel")
    @guarded
    def _changed(self, change: dict[str, Any]) -> None:
        if self._frames is None or self._opening:
            return
        if self.view is None:  # traitlets does not ask a validator about None
            self.view = self._frames.whole
            return
        self._show_controls()
        if change["name"] == "pixel":
            self._marks()
        quick = self._frames.files is None and self._frames.coarse
        self.work(self._redraw, "" if quick else "Reading the scene ...")

    @t.observe("box")
    @guarded
    def _boxed(self, _: Any) -> None:
        if self._frames is not None and not self._opening:
            self._marks()
            self._told()

    # --- gestures ---

    @guarded
    def _gesture(self, kind: str, at: list[float]) -> None:
        if self._frames is None or self.view is None:
            return
        view, shape = self.view, self._frames.shape
        if kind == "point":
            self.pixel = view.pixel(at)
        elif kind == "box":
            (top, left), (bottom, right) = view.pixel(at[:2]), view.pixel(at[2:])
            rows, columns = sorted((top, bottom)), sorted((left, right))
            self.box = View(rows[0], rows[1] + 1, columns[0], columns[1] + 1)
        elif kind == "zoom":
            self.view = view.zoomed(at[2], at[:2], shape)
        elif kind == "move":
            self.view = view.moved(*at, shape)
        elif kind == "whole":
            self.view = self._frames.whole
        elif kind == "clear":
            self.box = self.pixel = None

    @guarded
    def _mapped(self) -> None:
        self.aside(self._put_map, "Making the map ...")

    def _put_map(self, turn: Turn) -> None:
        made = self.map()
        old, self._map.children = self._map.children, () if turn.over else (made,)
        discard([*old, made] if turn.over else old)

    def map(self, **options: Any) -> Any:
        """Show the scene on a map that can be moved, by `geowb.show_map`.

        >>> explorer.map(basemap=False)  # doctest: +SKIP
        """
        from geowb.maps.live import show_map

        painter = self._ready()
        look, scene = painter.looks.get(self.show), painter.frames.scene
        bands = look.bands if look and look.kind == "rgb" else ()
        extra = []
        if self.overlay != NOTHING:
            label, axis = scene[self.overlay], painter.frames.axis
            extra = [label.isel({axis: self.date}) if axis in label.dims else label]
        made = show_map(scene, *extra, bands=bands, time=self.date, **options)
        self.say(painter.sentence(self.view))
        return made

    # --- drawing ---

    def _ready(self) -> Painter:
        if self._painter is None:
            raise RequestError("There is no scene yet: set `scene`, and `wait()` until it is open.")
        return self._painter

    def _redraw(self, turn: Turn) -> None:
        """Draw what is stale: the picture, the chosen pixel, or both."""
        painter = self._ready()
        wanted = Wanted(
            *(
                self.date,
                self.show,
                self.stretch,
                self.clouds,
                self.overlay,
                self.opacity,
                self.view,
            )
        )
        if wanted != self._painted_for:
            painted = painter.paint(wanted, turn)
            turn.check()
            self._present(wanted, painted)
        self._draw_pixel(painter, turn)
        self._told()
        self.say(painter.sentence(wanted.view, self._painted.known))

    def _present(self, wanted: Wanted, painted: Painted) -> None:
        frames = self._ready().frames
        rows, columns = wanted.view.shape
        self._painted, self._painted_for = painted, wanted
        what = wanted.show or "labels"
        self._picture.show(
            drawing.encode(painted.image),
            pixels=[columns, rows],
            origin=[wanted.view.top, wanted.view.left],
            shown_width=max(64, round(MOST * min(1, columns / rows))),
            caption=painted.caption,
            alt=f"{frames.name}, {frames.dates[wanted.date]}, {what}: choose a pixel",
            legend=painted.legend,
            **self._where(wanted.view),
        )

    def _marks(self) -> None:
        if self._painted_for is not None:
            for name, value in self._where(self._painted_for.view).items():
                setattr(self._picture, name, value)

    def _where(self, view: View) -> dict[str, list[float]]:
        """Pixel and box as shares of a picture."""
        mark = view.share(self.pixel[0] + 0.5, self.pixel[1] + 0.5) if self.pixel else []
        box: list[float] = []
        if self.box:
            start = view.share(self.box.top, self.box.left)
            box = start + view.share(self.box.bottom, self.box.right)
        inside = mark and all(0 <= one <= 1 for one in mark)
        return {"mark": mark if inside else [], "box": box}

    def _draw_pixel(self, painter: Painter, turn: Turn) -> None:
        """Draw the chosen pixel over all dates; of a set of samples that of the one shown."""
        frames, chosen = painter.frames, self.pixel
        dates = [self.date] if frames.axis == "sample" else list(range(frames.count))
        wanted = () if chosen is None else (chosen, dates)
        if wanted == self._series_for:
            return
        item, alt, series = {}, "", None
        if chosen is not None:
            from geowb.widgets.liveplot import as_json

            series = table_of(frames, dates, *frames.pixel(*chosen, dates, turn))
            element, alt = as_curves(series, frames, chosen)
            item = as_json(element) if element is not None else {}
        turn.check()
        self._series, self._series_for = series, wanted
        with self._plot.hold_sync():
            self._plot.serial, self._plot.alt, self._plot.item = self._plot.serial + 1, alt, item

    @property
    def series(self) -> pd.DataFrame | None:
        """The chosen pixel over all dates: a row a date, a column a band, and ``cloudy``."""
        return self._series

    @property
    def selection(self) -> xr.Dataset | None:
        """The part of the scene in the box, as lazy as the scene; None without a box."""
        return self._ready().frames.crop(self.box) if self.box else None

    def _told(self) -> None:
        """Say which pixel and box are chosen, and how code gets at them."""
        painter, lines = self._ready(), []
        if self.pixel:
            row, column = self.pixel
            where = painter.frames.place(row, column)
            lines.append(f"<b>Pixel</b> row {row}, column {column}{f' ({where})' * bool(where)}")
            if self.overlay != NOTHING:
                lines.append(escaped(painter.label_at(self.overlay, self.date, self.pixel)))
            lines.append("The attribute <code>series</code> is a table of it.")
        else:
            lines.append("<span class='geowb-muted'>Press on a pixel to see its values.</span>")
        if self.box:
            (rows, columns), box = self.box.shape, self.box
            where = f"from row {box.top}, column {box.left}"
            lines.append(f"<b>Box</b> {rows} × {columns} pixels, {where}")
            lines.append("The attribute <code>selection</code> is that part as a scene.")
        self._text.value = "<br>".join(lines)

    def picture(self) -> bytes | None:
        """PNG of the picture, its caption and legend, and of the chosen pixel."""
        from geowb.widgets.stored import framed

        if self._painter is None or self._painted is None or self.state == "error":
            return super().picture()
        series, frames, painted = self._series, self._painter.frames, self._painted
        chart = None if series is None else lambda axes: draw_series(axes, series, frames)
        told = (painted.image, frames.name, painted.caption, painted.legend)
        return framed(*told, chart=chart, **self._where(self._painted_for.view))

    def __repr__(self) -> str:
        return f"SceneExplorer({self._frames.name if self._frames else 'no scene'})"
