"""Problems of an entry that can be seen from headers alone, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["check_source"]


def check_source(
    value: str,
    *,
    catalog: str = "",
    variables: Sequence[str] = (),
    bands: Sequence[str] = (),
    selection: Mapping[str, Sequence[str]] | None = None,
) -> list[str]:
    """Problems of a catalog entry, one sentence each; empty when there is none."""
    return []
