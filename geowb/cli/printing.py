"""How values and tables look on the screen."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["shown", "table"]


def shown(value: float | None) -> str:
    """Format a value with four digits; "n/a" where there is none."""
    if value is None:
        return "n/a"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], *, err: bool = False, clip: bool = False
) -> None:
    """Print a table; in a pipe or a file a line a row, and with `clip` everywhere."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(stderr=err, highlight=False)
    if not console.is_terminal:
        console = Console(stderr=err, highlight=False, width=10_000)
    cells = [[str(cell) for cell in row] for row in rows]
    if clip:
        used = sum(max(map(len, column)) + 2 for column in list(zip(*cells, strict=True))[:-1])
        room = max(20, console.width - used)
        cells = [[*row[:-1], textwrap.shorten(row[-1], room, placeholder="...")] for row in cells]
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in cells:
        table.add_row(*map(Text, row))
    console.print(table)
