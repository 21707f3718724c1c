"""Checks of the world's entries, which have no files."""

from __future__ import annotations

from pathlib import Path

import pytest

from geowb.catalog import check, check_source, open_catalog
from geowb.errors import CatalogError, RequestError
from geowb.world import scene


def world(folder: Path, options: str, regions: str = "") -> str:
    path = folder / "catalog.yaml"
    places = f"  placeholders: {{region: [{regions}]}}\n" if regions else ""
    path.write_text(f"w:\n{places}  driver: {{name: world, options: {{{options}}}}}\n")
    return str(path)


def test_the_variables_of_the_world_are_those_of_its_scenes() -> None:
    catalog = open_catalog()
    made = scene("cerrado", size=32, dates=1)
    assert set(check._world_variables(catalog["world"])) == set(made.data_vars)
    assert check_source("world", variables=list(made.data_vars)) == []
    for name, region, how in (
        ("world_floods", "amazonia", {"flood": True}),
        ("world_burns", "cerrado", {"fire": True}),
        ("world_crops", "great_plains", {}),
        ("world_gaps", "cerrado", {}),  # one of its regions has crops, the others none
    ):
        made = scene(region, size=32, dates=1, **how)
        assert set(check._world_variables(catalog[name])) == set(made.data_vars)
    for name, variable in (("world", "flood"), ("world_floods", "burn"), ("world_gaps", "crop")):
        assert f"has no variable '{variable}'" in check_source(name, variables=[variable])[0]


def test_one_of_several_variables_will_do() -> None:
    assert check_source("world", variables=["height|agb", "agb|agb_dense"]) == []
    [problem] = check_source("world", variables=["height|crop"])
    assert "Entry 'world' has no variable 'height' and no 'crop'. Known: agb, " in problem
    [problem] = check_source("world", variables=["agb_dens"])
    assert "no variable 'agb_dens'. Did you mean 'agb_dense'?" in problem


def test_a_file_of_labels_stands_for_the_variables() -> None:
    assert check_source("world", variables=["height"], labels="plots.csv") == []
    assert len(check_source("world", variables=["height"], labels="")) == 1
    assert "lacks the band" in check_source("world", bands=["B99"], labels="plots.csv")[0]


def test_a_region_that_the_world_lacks_is_seen_before_a_run(tmp_path: Path) -> None:
    path = world(tmp_path, "region: cerado")
    assert (
        "Entry 'w': the world has no region 'cerado'. Did you mean 'cerrado'"
        in (check_source("w", catalog=path)[0])
    )
    path = world(tmp_path, 'region: "{region}"', "cerrado, atlantis")
    assert check_source("w", catalog=path, selection={"region": ["cerrado"]}) == []
    found = check_source("w", catalog=path, selection={"region": []})
    assert len(found) == 1
    assert "no region 'atlantis'" in found[0]


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("gedi_fraction", 0.02, 0.021),
        ("gedi_fraction", 0, -0.1),
        ("size", 32, 31),
        ("size", 3660, 3661),
        ("dates", 366, 367),
    ],
)
def test_bounds_of_the_world_are_those_of_the_schema(
    tmp_path: Path, name: str, good: float, bad: float
) -> None:
    open_catalog(world(tmp_path, f"region: cerrado, {name}: {good}"))
    with pytest.raises(RequestError):
        scene("cerrado", **{name: bad})
    with pytest.raises(CatalogError, match=rf"line 2, .*{name}"):
        open_catalog(world(tmp_path, f"region: cerrado, {name}: {bad}"))
