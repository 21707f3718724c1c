"""Catalog files: what they may say, and how their errors read."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geowb.catalog import open_catalog
from geowb.catalog.load import load
from geowb.catalog.schema import expand, placeholders_in
from geowb.errors import CatalogError, RequestError

GOOD = """\
meta: {name: mine, version: 1, roots: [data]}
chip:
  description: one chip
  uri: "{year}/chip_{month:02d}.tif"
  placeholders: {year: [2020, 2021], month: [1, 2]}
  driver:
    name: raster
    options:
      bands: [BLUE, null]
      labels:
        agb: {uri: agb.tif, nodata: -1}
  metadata: {crs: 32614, nodata: -9999, source_url: "https://example.org/chip"}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "catalog.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problems(folder: Path, text: str) -> str:
    with pytest.raises(CatalogError) as caught:
        load(write(folder, text))
    return str(caught.value)


def test_a_good_catalog_is_read_as_written(tmp_path: Path) -> None:
    meta, entries = load(write(tmp_path, GOOD))
    assert (meta.name, meta.version, meta.roots) == ("mine", "1", ("data",))
    chip = entries["chip"]
    assert chip.placeholders == {"year": ("2020", "2021"), "month": ("1", "2")}
    assert chip.driver.options.bands == ("BLUE", None)
    assert chip.driver.options.labels["agb"].nodata == -1
    assert chip.metadata.crs == 32614


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("description:", "descripton:", 3, "unknown key 'descripton'. Did you mean 'description'?"),
        ("      bands:", "      band:", 9, "unknown key 'band'. Did you mean 'bands'?"),
        ("nodata: -1", "nodta: -1", 11, "unknown key 'nodta'. Did you mean 'nodata'?"),
        ("crs: 32614", "csr: 32614", 12, "unknown key 'csr'. Did you mean 'crs'?"),
        ("name: raster", "name: rastr", 6, "unknown driver 'rastr'. Did you mean 'raster'?"),
        ("name: raster", "name: os.system", 6, "unknown driver 'os.system'"),
        ("version: 1", "versoin: 1", 1, "unknown key 'versoin'. Did you mean 'version'?"),
        ("crs: 32614", "crs: 99999999", 12, "no CRS that PROJ knows"),
        ("https://example.org/chip", "nowhere", 12, "source_url"),
        ("nodata: -9999", "nodata: none", 12, "not 'none'"),
        ("bands: [BLUE, null]", "bands: BLUE", 9, "not 'BLUE'"),
        ("{year: [2020, 2021]", "{yaer: [2020, 2021]", 2, "{year} is not among the placeholders"),
        ("month: [1, 2]}", "month: [1, 2], day: [3]}", 2, "'day' is used nowhere"),
        ("one chip", "!!python/object/apply:os.system [ls]", 3, "is not allowed in a catalog"),
        ("one chip", "!!python/name:os.system ''", 3, "is not allowed in a catalog"),
        ("  description: one chip", "  uri: again", 4, "'uri' stands here again (line 3)"),
        ("one chip", "[unclosed", 4, "not valid YAML"),
        ("meta:", "meta: {}\nmeta:", 2, "'meta' stands here again"),
    ],
)
def test_an_error_names_the_line_and_what_would_be_right(
    tmp_path: Path, old: str, new: str, line: int, words: str
) -> None:
    assert old in GOOD
    message = problems(tmp_path, GOOD.replace(old, new, 1))
    assert words in message
    assert f"line {line}" in message


def test_one_message_lists_all_problems_of_a_file(tmp_path: Path) -> None:
    text = GOOD.replace("description:", "desc:").replace("crs: 32614", "crs: nope")
    message = problems(tmp_path, text + "other: 3\n")
    assert "has 3 problems" in message
    assert message.index("line 3, entry 'chip'") < message.index("line 12, entry 'chip'")
    assert "line 13, entry 'other': must be a block of keys" in message


def test_aliases_are_refused_before_they_can_explode(tmp_path: Path) -> None:
    bomb = "a: &a [x, x]\n" + "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    assert "line 2: the alias *a is not allowed" in problems(tmp_path, bomb)
    assert "nested too deeply" in problems(tmp_path, "[" * 5000 + "]" * 5000)
    assert "no catalog" in problems(tmp_path, "#" * 2_000_001)


def test_a_missing_catalog_is_a_wrong_request(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no catalog file"):
        open_catalog(tmp_path / "none.yaml")


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "C:/x", "a\\..\\x"])
def test_downloads_cannot_be_sent_out_of_the_cache(tmp_path: Path, path: str) -> None:
    text = f"""\
evil:
  uri: data
  driver:
    name: archive
    options:
      files:
        - {{url: "https://example.org/a.zip", path: '{path}', digest: unknown}}
"""
    assert "relative path that does not leave its folder" in problems(tmp_path, text)


@pytest.mark.parametrize("value", ["../../../out.txt", "/tmp/out.txt", "C:out", "a/../../b"])
def test_no_value_of_each_sends_a_download_out_of_the_cache(tmp_path: Path, value: str) -> None:
    text = f"""\
evil:
  uri: data
  driver:
    name: archive
    options:
      files:
        - url: "https://example.org/{{x}}"
          path: "{{x}}"
          digest: unknown
          each: {{x: [a, "{value}"]}}
"""
    message = problems(tmp_path, text)
    assert f"line 7, entry 'evil': driver.archive.options.files.0: {value!r} must be a" in message


def test_twins_and_collections_must_exist(tmp_path: Path) -> None:
    text = (
        GOOD
        + "  twin: wrld\n  part_of: chip\nworld:\n  driver: {name: world, options: {region: c}}\n"
    )
    message = problems(tmp_path, text)
    assert "line 13, entry 'chip': twin 'wrld' is no entry. Did you mean 'world'?" in message
    assert "part_of 'chip' must be an entry of driver 'archive'" in message


def test_variants_share_the_entry_and_keep_their_lines(tmp_path: Path) -> None:
    text = """\
series:
  metadata: {crs: none}
  variants:
    - {provider: a, uri: a.tif, driver: {name: raster}}
    - {version: 2, uri: b.tif, driver: {name: raster}}
"""
    _, entries = load(write(tmp_path, text))
    assert list(entries) == ["series", "series@a", "series@2"]
    assert entries["series"] == entries["series@a"]
    assert (entries["series@2"].uri, entries["series@2"].metadata.crs) == ("b.tif", "none")
    message = problems(tmp_path, text.replace("uri: b.tif", "url: b.tif"))
    assert "line 5, entry 'series@2': unknown key 'url'. Did you mean 'uri'?" in message


names = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
plain = st.text(
    alphabet=st.characters(exclude_characters="{}", exclude_categories=["Cs"]), max_size=8
)


@given(st.dictionaries(names, plain, min_size=1, max_size=4), st.data())
def test_filling_a_template_gives_its_parts_in_order(
    fields: dict[str, str], data: st.DataObject
) -> None:
    parts = data.draw(st.lists(st.tuples(plain, st.sampled_from(sorted(fields))), max_size=6))
    template = "".join(f"{text}{{{name}}}" for text, name in parts)
    assert placeholders_in(template) == {name for _, name in parts}
    assert expand(template, fields) == "".join(text + fields[name] for text, name in parts)
    assert expand([{"uri": template}], {}) == [{"uri": template}]


@given(st.integers(0, 10**6), st.integers(1, 9))
def test_padding_is_that_of_python(number: int, width: int) -> None:
    assert expand(f"{{n:0{width}d}}", {"n": str(number)}) == f"{number:0{width}d}"


@pytest.mark.parametrize("text", ["{a.__class__}", "{a[0]}", "{a!r}", "{}"])
def test_templates_reach_no_attributes(text: str) -> None:
    assert expand(text, {"a": "x"}) == text
