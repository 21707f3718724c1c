"""Pictures of a scene: which bands and date, how stretched, what lies over them, in words too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from geowb.widgets import drawing
from geowb.widgets.frames import MOST, Frames, View
from geowb.widgets.work import Turn

__all__ = ["NOTHING", "STRETCHES", "Painted", "Painter", "Wanted"]

#: Name of no label.
NOTHING = "none"
#: How bands are stretched, and what that means.
STRETCHES = {
    "each date": "each date by itself, 2nd to 98th percentile of what is clear",
    "all dates": "all dates alike, so that they can be compared",
    "full range": "from the smallest to the largest value of this picture",
}
_KEPT = 16  # of the bands and the clouds of pictures
_DATES = 24  # most dates from which the stretch of all is found


@dataclass(frozen=True)
class Wanted:
    """All that a picture depends on."""

    date: int
    show: str
    stretch: str
    clouds: bool
    overlay: str
    opacity: float
    view: View


@dataclass(frozen=True)
class Painted:
    """A picture ``(y, x, 3)`` in bytes, its legend and caption, and whether there is any data."""

    image: np.ndarray
    legend: list[dict[str, Any]]
    caption: str
    known: bool


class Painter:
    """Paints pictures of one scene, and keeps the numbers of the last few.

    >>> painter = Painter(open_frames(scene))  # doctest: +SKIP
    >>> painter.paint(Wanted(0, "RED", "each date", False, "none", 1.0, view), Turn()).image.shape
    ... # doctest: +SKIP
    (512, 512, 3)
    """

    def __init__(self, frames: Frames) -> None:
        self.frames = frames
        self.looks = drawing.composites(frames.bands)
        self.layers = [NOTHING, *frames.layers]
        self._seen: dict[Any, Any] = {}
        self._limits: dict[Any, np.ndarray] = {}
        self._overlays: dict[str, drawing.Overlay] = {}

    def paint(self, wanted: Wanted, turn: Turn) -> Painted:
        """Read what a picture needs and draw it."""
        image, legend, known = self._ground(wanted, turn)
        if wanted.overlay != NOTHING:
            plane = self.frames.layer(wanted.overlay, wanted.date, wanted.view, turn)
            how = self._how(wanted.overlay, plane)
            image = drawing.overlaid(image, plane, how, wanted.opacity)
            legend = legend + how.legend()
        hidden = self._hidden(wanted.date, wanted.view, turn) if wanted.clouds else None
        if hidden is not None:
            image = drawing.veil(image, hidden)
            legend = legend + drawing.CLOUDS
        return Painted(image, legend, self._caption(wanted), known)

    def _ground(self, wanted: Wanted, turn: Turn) -> tuple[np.ndarray, list[Any], bool]:
        """Picture without what lies over it, its legend, and whether there is anything."""
        look, view = self.looks.get(wanted.show), wanted.view
        if look is None:
            shape = tuple(-(-edge // view.step(MOST)) for edge in view.shape)
            return np.full((*shape, 3), 255, np.uint8), [], True
        values = self._read(wanted.date, look.bands, view, turn)
        known = bool(np.isfinite(values).any())
        if look.kind == "index":
            how = drawing.INDEX
            return drawing.shade(drawing.index(values)[0], how.limits), how.legend(), known
        limits = drawing.joined(self._stretched(wanted, look, values, turn), look)
        legend = []
        if look.kind == "grey":
            low, high = (f"{value:.4g}" for value in limits[0])
            legend = [{"colours": ["#000000", "#ffffff"], "low": low, "high": high, "unit": ""}]
        return drawing.stretch(values, limits), legend, known

    def _read(self, date: int, bands: tuple[str, ...], view: View, turn: Turn) -> np.ndarray:
        """Read bands, or take them from the last few pictures."""
        key = (date, bands, view)
        return self._kept(key, lambda: self.frames.read(date, bands, view, turn))

    def _hidden(self, date: int, view: View, turn: Turn) -> np.ndarray | None:
        """Find what clouds hide, which both the stretch and the hatching want."""
        key = (date, "hidden", view)
        return self._kept(key, lambda: self.frames.hidden(date, view, turn))

    def _kept(self, key: Any, read: Callable[[], Any]) -> Any:
        if key not in self._seen:
            if len(self._seen) >= _KEPT:
                self._seen.pop(next(iter(self._seen)))
            self._seen[key] = read()
        return self._seen[key]

    def _stretched(
        self, wanted: Wanted, look: drawing.Look, values: np.ndarray, turn: Turn
    ) -> np.ndarray:
        """Find the ends of the stretch; those of all dates once a composite and view."""
        frames, view = self.frames, wanted.view
        if wanted.stretch == "full range":
            return drawing.spans(values, None, (0, 100))
        if wanted.stretch == "each date" or frames.count == 1:
            hidden = self._hidden(wanted.date, view, turn)
            return drawing.spans(values, None if hidden is None else hidden == 0, (2, 98))
        key = (look.bands, view)
        if key not in self._limits:
            count = min(frames.count, _DATES)
            dates = np.unique(np.linspace(0, frames.count - 1, count).astype(int)).tolist()
            small = [frames.read(date, look.bands, view, turn, 128) for date in dates]
            masks = [frames.hidden(date, view, turn, 128) for date in dates]
            clear = None if masks[0] is None else np.concatenate([mask == 0 for mask in masks])
            self._limits = {key: drawing.spans(np.concatenate(small, axis=1), clear, (2, 98))}
        return self._limits[key]

    def _how(self, overlay: str, plane: np.ndarray) -> drawing.Overlay:
        """Colours of a label, the same for all dates and views."""
        known = self._overlays.get(overlay)
        if known is None:
            known = drawing.overlay_of(plane, self.frames.scene[overlay].attrs)
        self._overlays[overlay] = drawing.extended(known, plane)
        return self._overlays[overlay]

    def _caption(self, wanted: Wanted) -> str:
        look, view, frames = self.looks.get(wanted.show), wanted.view, self.frames
        text = f"{frames.dates[wanted.date]}: {wanted.show or 'no bands'}"
        if look and look.kind == "rgb":
            text += f" (red {look.bands[0]}, green {look.bands[1]}, blue {look.bands[2]})"
        if look and look.kind == "index":
            first, second = look.bands
            text += f" = ({first} − {second}) / ({first} + {second})"
        if view != frames.whole:
            rows, columns = f"{view.top} to {view.bottom - 1}", f"{view.left} to {view.right - 1}"
            text += f"; rows {rows}, columns {columns}"
        if (step := view.step(MOST)) > 1:
            text += f"; one pixel of {step} × {step} is shown"
        return text

    def sentence(self, view: View, known: bool = True) -> str:
        """Say what the scene is, and what is not to be seen of it."""
        frames = self.frames
        rows, columns = frames.shape
        unit, bands = "sample" if frames.axis == "sample" else "date", len(frames.bands)
        text = f"{frames.name}: {rows} × {columns} pixels, {frames.count} {unit}"
        text += f"{'s' * (frames.count != 1)}, {bands} band{'s' * (bands != 1)}."
        if "world_version" in frames.scene.attrs:
            text += " Simulated: never a measurement of a place."
        if not known:
            text += f" There is no data in this part on this {unit}."
        if not frames.coarse and view == frames.start:
            text += (
                " It is large and has no overviews, so this is its middle; Whole reads all of it"
                " once (gdaladdo would make overviews)."
            )
        return text

    def label_at(self, overlay: str, date: int, pixel: tuple[int, int]) -> str:
        """Say what a label is at a pixel."""
        row, column = pixel
        view = View(row, row + 1, column, column + 1)
        value = self.frames.layer(overlay, date, view, Turn())[0, 0]
        how = self._how(overlay, np.array([[value]]))
        if how.classes is not None:
            text = how.classes.get(int(value), "not labelled").replace("_", " ")
        else:
            text = f"{value:.4g} {how.units}".strip() if np.isfinite(value) else "not labelled"
        return f"{overlay}: {text}"
