"""What a catalog may say, as typed models.

The shape is that of hydromt v1 catalogs. Drivers are a closed table, so a
catalog can neither load a class nor run code.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from geowb.bands import STATISTICS
from geowb.errors import did_you_mean

__all__ = ["Entry", "Meta", "combinations", "expand", "is_url", "placeholders_in"]

#: Filled from the file names themselves in the templates of the ``chips`` driver.
FILE_FIELDS = ("split", "class", "sample")

_FIELD = re.compile(r"\{(\w+)(?::0?(\d{1,2})d)?\}")
Named, Options = TypeVar("Named"), TypeVar("Options")


def placeholders_in(value: Any) -> set[str]:
    """Names in ``{braces}`` anywhere in a string, list or mapping.

    >>> sorted(placeholders_in({"uri": "{region}/{year}.tif"}))
    ['region', 'year']
    """
    if isinstance(value, str):
        return {name for name, _ in _FIELD.findall(value)}
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return set()
    return set().union(*map(placeholders_in, value))


def combinations(choices: Mapping[str, Iterable[str]]) -> list[dict[str, str]]:
    """Every way to choose one value for each name.

    >>> combinations({"a": "xy", "b": "z"})
    [{'a': 'x', 'b': 'z'}, {'a': 'y', 'b': 'z'}]
    """
    rows = itertools.product(*choices.values())
    return [dict(zip(choices, row, strict=True)) for row in rows]


def expand(value: Any, fields: Mapping[str, str]) -> Any:
    """Fill ``{name}`` and ``{name:02d}`` in every string of `value`; leave other names.

    >>> expand("{region}_{month:02d}.tif", {"region": "cerrado", "month": "7"})
    'cerrado_07.tif'
    """
    if isinstance(value, str):

        def fill(match: re.Match[str]) -> str:
            if (text := fields.get(match[1])) is None:
                return match[0]
            return text.zfill(int(match[2])) if match[2] else text

        return _FIELD.sub(fill, value)
    if isinstance(value, Mapping):
        return {key: expand(item, fields) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [expand(item, fields) for item in value]
    return value


def is_url(uri: str) -> bool:
    """Whether a ``uri`` is an address on the network."""
    return uri.startswith(("http://", "https://"))


# --- types of single values ---------------------------------------------------------------------


def _crs(value: int | str) -> int | str:
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        if value != "none":
            CRS.from_user_input(value)
    except CRSError as error:
        raise ValueError(
            f"{value!r} is no CRS that PROJ knows; write an EPSG code such as 32614, or none"
        ) from error
    return value


def _inside(value: str) -> str:
    """Refuse places that are absolute or above the folder they are meant for."""
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or "\\" in value or ":" in value:
        raise ValueError(f"{value!r} must be a relative path that does not leave its folder")
    return value


def _published(name: str) -> str:
    if name not in STATISTICS:
        raise ValueError(f"no statistics {name!r} in geowb.bands. {did_you_mean(name, STATISTICS)}")
    return name


Crs = Annotated[int | str, AfterValidator(_crs)]
Inside = Annotated[str, AfterValidator(_inside)]
_URL = r"^https?://[^\s/]+(/\S*)?$"
Url = Annotated[str, Field(pattern=_URL)]
Digest = Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}|unknown)$")]
Text = Annotated[str, Field(coerce_numbers_to_str=True)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
EnvName = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Grown(_Strict):
    """With fields that came later: left out where they are empty, so that digests stay."""

    later: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_empty(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {k: v for k, v in handler(self).items() if v or k not in self.later}


# --- drivers and their options ------------------------------------------------------------------


class Label(_Grown):
    """One label variable: a raster on the image's grid."""

    later = ("class_weights",)
    uri: str
    nodata: float | None = None
    band: int = Field(1, ge=1)
    #: Names of the classes, from class 0 on; its presence makes the label a class map.
    classes: tuple[str, ...] | None = None
    #: ``quantity``: float32 and NaN; ``classes``: int16 and -1.
    kind: Literal["quantity", "classes"] = "quantity"
    #: Published weight of each class in the loss (cross entropy).
    class_weights: tuple[Annotated[float, Field(gt=0)], ...] = ()

    @model_validator(mode="after")
    def _a_weight_a_class(self) -> Label:
        if self.class_weights and len(self.class_weights) != len(self.classes or ()):
            raise ValueError(
                f"class_weights has {len(self.class_weights)} numbers, classes "
                f"{len(self.classes or ())} names"
            )
        return self


class Layer(_Strict):
    """One variable that is a channel of the image file itself, such as a cloud mask."""

    #: Channel of one date, counted from 1.
    channel: int = Field(ge=1)
    #: No data, in place of the value that the file has for all its channels.
    nodata: float | None = None
    #: As in a label.
    classes: tuple[str, ...] | None = None
    kind: Literal["quantity", "classes"] = "quantity"


class WorldOptions(_Grown):
    """Arguments of ``geowb.world.scene``."""

    later = ("flood", "fire")

    region: str = "{region}"
    size: int = Field(512, ge=32, le=3660)
    dates: int = Field(3, ge=1, le=366)
    clouds: bool = True
    gedi_fraction: float = Field(0.005, ge=0, le=0.02)
    #: First day, and days between images.
    start: date = date(2022, 4, 20)
    every: int = Field(56, ge=1, le=366)
    flood: bool = False
    fire: bool = False


class _ImageOptions(_Grown):
    """What images and their labels have in common."""

    later = ("layers",)
    #: Name of each channel of one date; None: not read.
    bands: tuple[str | None, ...] | None = None
    #: Dates in one file, outermost: channels = frames x bands.
    frames: int = Field(1, ge=1)
    labels: dict[Name, Label] = {}
    #: Variables in channels of the image itself; the list bands has null there.
    layers: dict[Name, Layer] = {}

    @model_validator(mode="after")
    def _layers_are_channels_without_a_band(self) -> _ImageOptions:
        fmask = getattr(self, "variable", "") == "fmask"
        if self.bands is not None and not any(self.bands) and not self.layers and not fmask:
            raise ValueError("bands names no channel, and there are no layers: nothing to read")
        for name, layer in self.layers.items():
            here = f"layer {name!r}: channel {layer.channel}"
            if self.bands is None:
                raise ValueError(f"{here} is read as a band too; list bands, with null there")
            if layer.channel > len(self.bands):
                raise ValueError(f"{here} is not among the {len(self.bands)} of bands")
            if band := self.bands[layer.channel - 1]:
                raise ValueError(f"{here} is the band {band}; write null there in bands")
            if name == "reflectance" or name in self.labels:
                raise ValueError(f"layer {name!r} has the name of another variable")
        return self


class RasterOptions(_ImageOptions):
    """One scene on one grid; a glob in ``uri`` gives one file a date."""

    variable: Literal["reflectance", "fmask"] = "reflectance"
    dates: tuple[date, ...] | None = None

    @model_validator(mode="after")
    def _fmask_is_one_channel(self) -> RasterOptions:
        if self.variable == "fmask" and self.layers:
            raise ValueError("a file of variable fmask has one channel, and so no layers")
        return self


class ChipsOptions(_ImageOptions):
    """Many images, found by a template with ``{split}``, ``{class}`` and ``{sample}``."""

    images: str
    #: Published names of the splits -> train, val, test (folders named by ``{split}``).
    splits: dict[Text, str] = {}
    #: Split -> text file that lists its samples (first column, extensions allowed).
    split_files: dict[str, str] = {}
    #: Read every image at this many pixels a side (images of other sizes are resampled).
    size: int | None = Field(None, ge=1)


class ArraysOptions(_Strict):
    """Small images with a class each: an npz file, or files of records."""

    bands: tuple[str, ...] = Field(min_length=1)
    #: Names of the classes, from 0 on.
    classes: tuple[str, ...] = ()
    #: Arrays of an npz file: ``(N, y, x)`` or ``(N, band, y, x)``, and ``(N,)``.
    images_array: str = "images"
    labels_array: str = "labels"
    #: Bands, rows and columns of records: a byte for the class, then one for each pixel.
    record: tuple[int, int, int] | None = None
    #: Split -> pattern of its files of records.
    splits: dict[str, str] = {}

    @model_validator(mode="after")
    def _records_have_files(self) -> ArraysOptions:
        if bool(self.record) != bool(self.splits):
            raise ValueError("record and splits belong together: which files hold the records")
        if self.record and (min(self.record) < 1 or self.record[0] != len(self.bands)):
            raise ValueError(f"record {self.record} does not fit {len(self.bands)} band(s)")
        return self


class DigitsOptions(_Strict):
    """The handwritten digits that come with scikit-learn; there is nothing to choose."""


class StacOptions(_Strict):
    """A search in a STAC API, loaded on one grid by odc-stac."""

    url: Url
    #: Collection -> band name -> asset.
    collections: dict[str, dict[str, str]]
    bbox: str
    datetime: str
    fmask: str | None = None
    max_cloud: float = Field(100, ge=0, le=100)
    resolution: float = Field(30.0, gt=0)
    sign: Literal["none", "earthdata", "planetary_computer"] = "none"
    #: Name (never the value) of the environment variable with the access token.
    token_env: EnvName = "EARTHDATA_TOKEN"


class _Driver(_Strict, Generic[Named, Options]):
    """Its name and its options."""

    name: Named
    options: Options = Field(default_factory=dict, validate_default=True)


Raster = _Driver[Literal["raster"], RasterOptions]
Chips = _Driver[Literal["chips"], ChipsOptions]
Arrays = _Driver[Literal["arrays"], ArraysOptions]
Digits = _Driver[Literal["digits"], DigitsOptions]
Reader = Annotated[Raster | Chips | Arrays, Field(discriminator="name")]


class ArchiveFile(_Strict):
    """One file to download; ``unpack`` makes ``path`` a folder."""

    url: Url
    path: Inside
    digest: Digest
    unpack: bool = False
    #: Fields of url and path -> their values: one file for each combination.
    each: dict[Name, tuple[Text, ...]] = {}

    def spelt_out(self) -> list[ArchiveFile]:
        """One file for each combination of ``each``."""
        return [
            self.model_copy(
                update={"url": expand(self.url, f), "path": expand(self.path, f), "each": {}}
            )
            for f in combinations(self.each)
        ]

    @model_validator(mode="after")
    def _each_stays_inside(self) -> ArchiveFile:
        for file in self.spelt_out():
            _inside(file.path)
            if not re.match(_URL, file.url):
                raise ValueError(f"{file.url!r}, as each spells it out, is no address")
        return self


class ArchiveOptions(_Strict):
    """Files at fixed addresses; ``then`` says how to read what ``uri`` names."""

    files: tuple[ArchiveFile, ...] = ()
    then: Reader | None = None

    def all_files(self) -> list[ArchiveFile]:
        """`files` with every ``each`` spelt out."""
        return [one for file in self.files for one in file.spelt_out()]


class HubOptions(_Strict):
    """A data set on the Hugging Face hub, brought to ``path``; ``then`` says how to read it."""

    path: Inside
    repo_id: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str = "main"
    allow_patterns: list[str] | None = None
    #: Archive of the repository -> folder beside it that it is unpacked to.
    unpack: dict[Inside, Inside] = {}
    token_env: EnvName = "HF_TOKEN"
    then: Reader | None = None


World = _Driver[Literal["world"], WorldOptions]
Stac = _Driver[Literal["stac"], StacOptions]
Archive = _Driver[Literal["archive"], ArchiveOptions]
Hub = _Driver[Literal["hub"], HubOptions]
#: The closed table of drivers: whatever else a catalog names is refused.
Driver = Annotated[
    World | Digits | Raster | Chips | Arrays | Stac | Archive | Hub, Field(discriminator="name")
]


# --- entries ------------------------------------------------------------------------------------


class DataAdapter(_Strict):
    """From the file's names and units to geowb's."""

    #: Variable or band -> name in geowb.
    rename: dict[str, str] = {}
    #: Variable -> factor, then variable -> summand.
    unit_mult: dict[str, float] = {}
    unit_add: dict[str, float] = {}


class Metadata(_Strict):
    """Where the data comes from and what may be done with it."""

    crs: Crs | None = None
    nodata: float | None = None
    category: str | None = None
    size: str | None = None
    source_url: Url | None = None
    source_license: str | None = None
    source_author: str | None = None
    source_version: Text | None = None
    paper_ref: str | None = None
    paper_doi: str | None = Field(None, pattern=r"^10\.\d{4,}/\S+$")
    temporal_extent: str | None = None
    spatial_extent: str | None = None
    notes: str | None = None
    #: Smallest and largest value that a pixel can have, for attacks (epsilon is a share of it).
    pixel_range: tuple[float, float] | None = None
    #: Published number of chips of each split; ``all`` where only their sum is published.
    chips: dict[Name, Annotated[int, Field(ge=1)]] = {}
    #: Band statistics that were published with the data, a key of ``bands.STATISTICS``.
    statistics: Annotated[str, AfterValidator(_published)] | None = None
    #: Where files come from that geowb cannot download (a form, a log-in, a bucket).
    how_to_get: str | None = None

    @model_validator(mode="after")
    def _range_rises(self) -> Metadata:
        if self.pixel_range and not self.pixel_range[0] < self.pixel_range[1]:
            raise ValueError(f"pixel_range {self.pixel_range} must rise")
        return self

    @model_validator(mode="after")
    def _all_stands_alone(self) -> Metadata:
        if "all" in self.chips and len(self.chips) > 1:
            raise ValueError("chips: give either the number of all chips or that of each split")
        return self


class Entry(_Strict):
    """One source of a catalog."""

    description: str = ""
    data_type: Literal["RasterDataset", "Files"] = "RasterDataset"
    uri: str = ""
    placeholders: dict[Name, tuple[Text, ...] | Literal["any"]] = {}
    driver: Driver
    data_adapter: DataAdapter = DataAdapter()
    metadata: Metadata = Metadata()
    #: Name of the embedded entry with the same variables.
    twin: Name | None = None
    #: Name of the archive entry that brings this entry's files.
    part_of: Name | None = None

    @model_validator(mode="after")
    def _placeholders_and_uri(self) -> Entry:
        own: set[str] = {*FILE_FIELDS}
        for file in getattr(self.driver.options, "files", ()):
            own |= file.each.keys()
            if unknown := placeholders_in([file.url, file.path]) ^ set(file.each):
                raise ValueError(f"{{{min(unknown)}}} must stand in each and in url or path")
        used = placeholders_in([self.uri, self.driver.model_dump()]) - own
        declared = set(self.placeholders)
        if reserved := declared & {*FILE_FIELDS}:
            raise ValueError(f"the name {min(reserved)!r} is kept for file names of chips")
        if unknown := used - declared:
            raise ValueError(
                f"{{{min(unknown)}}} is not among the placeholders. "
                + did_you_mean(min(unknown), declared)
            )
        if unused := declared - used:
            raise ValueError(f"placeholder {min(unused)!r} is used nowhere in uri and options")
        if self.driver.name in ("raster", "chips", "arrays") and not self.uri:
            raise ValueError(f"driver {self.driver.name!r} needs a uri")
        if self.driver.name in ("archive", "hub"):
            _inside(self.uri)
            if "any" in self.placeholders.values():
                raise ValueError("an entry that is downloaded needs its placeholders' values")
        return self


class Meta(_Strict):
    """The ``meta`` block of a catalog."""

    name: Name = "catalog"
    version: Text = "0"
    roots: tuple[str, ...] = ()
    category: str | None = None
