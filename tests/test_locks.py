"""Locks between processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from geowb.errors import RequestError
from geowb.locks import held


def test_one_at_a_time_and_nothing_is_left(tmp_path):
    place = tmp_path / "new" / ".work.lock"
    with held(place) as mine, held(place) as other:
        assert (mine, other) == (True, False)
    assert list(place.parent.iterdir()) == []
    with held(place) as mine:
        assert mine


@pytest.mark.parametrize("wait", [True, False])
def test_a_folder_that_cannot_be_written_is_not_somebody_elses(tmp_path, wait):
    (tmp_path / "file").touch()
    for parent in (tmp_path / "file", tmp_path / "file" / "new", Path("/proc")):
        with (
            pytest.raises(RequestError, match=f"{parent} cannot be written"),
            held(parent / ".work.lock", wait=wait),
        ):
            pass
