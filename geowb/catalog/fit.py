"""Whether a file fits its entry: its grid, its classes, its offset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from geowb.errors import DataError

if TYPE_CHECKING:
    import numpy as np

    from geowb.catalog.source import Source

__all__ = ["Numbers", "check_classes", "check_offset", "grid_problem", "numbers_of"]


def grid_problem(image: Any, label: Any) -> str | None:
    """Say how far the grid of `label` is from that of `image` (arrays, or open files).

    Half a thousandth of a pixel at any corner is rounding, more is another grid.
    """
    (size, crs, a), (own, own_crs, b) = _grid(image), _grid(label)
    if size != own:
        sizes = f"{own[0]} x {own[1]} pixels (rows x columns)"
        return f"it has {sizes}, the image {size[0]} x {size[1]}"
    if crs and own_crs and crs != own_crs:
        return f"its CRS is {own_crs.to_string()}, the image's {crs.to_string()}"
    ends = [(x, y) for x in (0, size[1]) for y in (0, size[0])]
    lies = [~a * (b * end) for end in ends]  # corners of the label, in pixels of the image
    off = [(x - i + 0.0, y - j + 0.0) for (x, y), (i, j) in zip(lies, ends, strict=True)]  # no -0
    if max(abs(distance) for corner in off for distance in corner) <= 5e-4:
        return None
    columns, rows = off[0]
    if max(abs(columns), abs(rows)) > 5e-4:
        return (
            f"it is shifted by {columns:.4g} columns and {rows:.4g} rows "
            f"(corner {b.c:.10g}, {b.f:.10g}; the image's {a.c:.10g}, {a.f:.10g})"
        )
    if (a.b, a.d) == (b.b, b.d):
        return f"its pixels are {b.a:.10g} x {b.e:.10g}, the image's {a.a:.10g} x {a.e:.10g}"
    return (
        f"it is rotated or sheared against the image (its corner opposite the origin is off by "
        f"{off[-1][0]:.4g} columns and {off[-1][1]:.4g} rows); warp it to the image's grid"
    )


def _grid(raster: Any) -> tuple[tuple[int, int], Any, Any]:
    """Shape, CRS and transform of an array with ``.rio`` or of an open file."""
    if hasattr(raster, "rio"):
        return raster.rio.shape, raster.rio.crs, raster.rio.transform()
    return raster.shape, raster.crs, raster.transform


class Numbers(NamedTuple):
    """What the adapter of an entry makes of the numbers of one variable."""

    name: str
    mult: float
    add: float | None


def numbers_of(source: Source, variable: str) -> Numbers:
    """Conversion that the entry of `source` declares for a variable of its files."""
    adapter = source.entry.data_adapter
    name = adapter.rename.get(variable, variable)
    return Numbers(name, adapter.unit_mult.get(name, 1.0), adapter.unit_add.get(name))


def check_offset(path: str, offset: float, scale: float, numbers: Numbers) -> None:
    """Refuse an offset in the file unless the entry says what to add: it would be lost."""
    if offset and numbers.add is None:
        meant = numbers.mult * offset / (scale or 1.0)
        raise DataError(
            f"'{path}' states an offset of {offset:g} (scale {scale:g}), which is not applied by "
            f"itself. Write data_adapter: {{unit_add: {{{numbers.name}: {meant:.10g}}}}} in its "
            "entry, or 0 if the values have it already."
        )


def check_classes(
    values: np.ndarray, *, path: str, classes: Sequence[str] | None, numbers: Numbers
) -> np.ndarray:
    """Return `values` if each is a class, after the adapter, or NaN or -1 (unlabelled)."""
    import numpy as np

    top = len(classes) if classes else 2**15
    meant = values * numbers.mult + (numbers.add or 0.0)
    good = (values == np.rint(values)) & (np.abs(values) < 2**15) & (meant >= 0) & (meant < top)
    bad = values[~(good | np.isnan(values) | (values == -1))]
    if bad.size:
        which = f"{top} classes, 0-{top - 1}" if classes else f"class numbers, 0-{top - 1}"
        turned = "" if numbers.mult == 1 and not numbers.add else " after its data_adapter"
        raise DataError(
            f"The label '{path}' holds {bad[0]:g}, but '{numbers.name}' has {which}{turned}. "
            f"{_known_classes(classes, numbers)}Name that value as nodata of the label, correct "
            "the list classes, or shift the numbers with data_adapter.unit_add."
        )
    return values


def _known_classes(classes: Sequence[str] | None, numbers: Numbers) -> str:
    """Sentence with the classes by the numbers that they have in the file."""
    if not classes:
        return ""
    stored = [(i - (numbers.add or 0.0)) / numbers.mult for i in range(len(classes))]
    listed = ", ".join(f"{value:g} {name}" for value, name in zip(stored, classes, strict=True))
    return f"Known in the file: {listed}. "
