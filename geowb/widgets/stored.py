"""Pictures of widgets for readers without a kernel: sentences and tables, drawn by matplotlib."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from geowb.plots.axes import packed

__all__ = ["card", "framed"]

_DPI = 100
_WIDE = 9.0  # inches
_CUT = 60  # characters of a cell
_LETTER = 0.071  # inches of a letter of 8 points, and what lies between columns


def card(
    title: str,
    lines: Sequence[str],
    columns: Sequence[str] = (),
    rows: Sequence[Sequence[Any]] = (),
    *,
    most: int = 18,
) -> bytes:
    r"""Draw a title, sentences and a table; of a long table the first rows.

    >>> card("Runs", ["two runs"], ["run", "RMSE"], [["a", 35.1], ["b", 40.2]])[:4]
    b'\x89PNG'
    """
    from matplotlib.figure import Figure

    wrapped = [part for line in lines if line for part in textwrap.wrap(line, 110) or [""]]
    shown = [[_short(cell) for cell in row] for row in rows[:most]]
    left = len(rows) - len(shown)
    height = 0.3 * bool(title) + 0.22 * (len(wrapped) + bool(left)) + 0.24 * (len(shown) + 1) + 0.15
    figure = Figure(figsize=(_WIDE, max(height, 0.5)))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, _WIDE)
    axes.set_ylim(height, 0)
    down = 0.22
    if title:
        axes.text(0.05, down, title, fontsize=11, fontweight="bold", va="center", parse_math=False)
        down += 0.3
    for line in wrapped:
        axes.text(0.05, down, line, fontsize=9, va="center", parse_math=False)
        down += 0.22
    if columns:
        down = _grid(axes, down, columns, shown)
    if left:
        axes.text(0.05, down, f"and {left} more", fontsize=8, va="center", color="#545454")
    return packed(figure, _DPI, even=True)


def _grid(axes: Any, down: float, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> float:
    """Write the head and rows of a table; tell where they end."""
    lengths = [max(map(len, (str(c), *(r[i] for r in rows)))) for i, c in enumerate(columns)]
    starts = np.cumsum([0, *(length + 2 for length in lengths)])
    scale = min(_LETTER, (_WIDE - 0.1) / max(starts[-1], 1))
    size = 8 * scale / _LETTER
    for number, row in enumerate([list(map(str, columns)), *rows]):
        for start, text in zip(starts, row, strict=False):
            axes.text(
                *(0.05 + start * scale, down, text),
                **{"fontsize": size, "va": "center", "parse_math": False},
                fontweight="bold" if not number else "normal",
            )
        if not number:
            axes.plot([0.05, _WIDE - 0.05], [down + 0.12] * 2, color="#8a8a8a", linewidth=0.8)
        down += 0.24
    return down


def _short(cell: Any) -> str:
    text = f"{cell:.4g}" if isinstance(cell, float) else str("" if cell is None else cell)
    return text if len(text) <= _CUT else f"{text[: _CUT - 1]}…"


def framed(
    image: np.ndarray,
    title: str,
    caption: str,
    legend: Sequence[dict[str, Any]],
    *,
    mark: Sequence[float] = (),
    box: Sequence[float] = (),
    chart: Any = None,
) -> bytes:
    """Draw a picture with its caption and legend, and beside it what `chart` draws on its axes."""
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.figure import Figure

    wide = 8.4 if chart else 4.6
    figure = Figure(figsize=(wide, 4.4), layout="constrained")
    panels = figure.subplots(1, 2 if chart else 1, squeeze=False)[0]
    panels[0].imshow(image, interpolation="nearest")
    panels[0].set(xticks=[], yticks=[])
    panels[0].set_title(_literal(title), fontsize=10)
    panels[0].set_xlabel(_literal("\n".join(textwrap.wrap(caption, 66))), fontsize=8)
    _mark(panels[0], image.shape, mark, box)
    squares = [_square(item) for item in legend if "colour" in item]
    if squares:
        panels[0].legend(
            handles=squares,
            fontsize=7,
            ncols=2 if len(squares) > 8 else 1,
            loc="upper left",
            framealpha=0.9,
        )
    for item in (i for i in legend if "colours" in i):
        import matplotlib

        span = Normalize(float(item["low"]), float(item["high"]))
        colours = matplotlib.cm.ScalarMappable(
            span, LinearSegmentedColormap.from_list("", item["colours"])
        )
        figure.colorbar(colours, ax=panels[0], shrink=0.7, label=_literal(item["unit"]))
    if chart:
        chart(panels[1])
    return packed(figure, _DPI, even=True)


def _literal(text: str) -> str:
    r"""Text in which a dollar is a dollar, for what matplotlib would read as a formula.

    >>> _literal("5 $")
    '5 \\$'
    """
    return text.replace("$", r"\$")


def _square(item: dict[str, Any]) -> Any:
    """Square of a legend, hatched where the picture is."""
    from matplotlib.patches import Patch

    if hatch := item.get("hatch"):
        colour = item["colour"]
        return Patch(
            facecolor="white", edgecolor=colour, hatch=hatch * 4, label=_literal(item["name"])
        )
    return Patch(facecolor=item["colour"], label=_literal(item["name"]))


def _mark(axes: Any, shape: tuple[int, ...], mark: Sequence[float], box: Sequence[float]) -> None:
    """Draw a cross and a box, given as shares of the picture's width and height."""
    from matplotlib.patches import Rectangle

    rows, columns = shape[:2]
    for colour, width in (("black", 3.0), ("white", 1.2)):
        if mark:
            at = (mark[0] * columns - 0.5, mark[1] * rows - 0.5)
            axes.plot(*at, "+", color=colour, markersize=14, markeredgewidth=width)
        if box:
            left, top, right, bottom = np.multiply(box, [columns, rows] * 2) - 0.5
            where = {"width": right - left, "height": bottom - top}
            axes.add_patch(
                Rectangle((left, top), **where, fill=False, edgecolor=colour, linewidth=width)
            )
