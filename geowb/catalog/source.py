"""Sources: entries of a catalog that can be opened."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geowb import paths
from geowb.catalog.load import load
from geowb.catalog.schema import ArchiveFile, Entry, HubOptions, combinations, expand, is_url
from geowb.errors import DataError, RequestError, did_you_mean

if TYPE_CHECKING:
    import xarray as xr

    from geowb.catalog.fetch import Shown

__all__ = ["Catalog", "Source", "fingerprint", "open_catalog"]

_HASHED = 64 * 2**20  # bytes; larger files go into run.json by size and time


def open_catalog(path: str | os.PathLike[str] | None = None) -> Catalog:
    """Read a catalog file; without `path` the one that comes with geowb.

    >>> "world" in open_catalog()
    True

    Raises
    ------
    CatalogError
        With every problem of the file: entry, line and what would be right.
    """
    return Catalog(Path(path).expanduser() if path else paths.default_catalog())


class Catalog(dict[str, "Source"]):
    """A catalog file: a mapping of names to sources."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.meta, entries = load(path)
        self.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        super().__init__({name: Source(name, entry, self) for name, entry in entries.items()})

    def __missing__(self, name: str) -> Source:
        hint = did_you_mean(name, self)
        raise RequestError(f"The catalog {self.path} has no entry '{name}'. {hint}")

    def __repr__(self) -> str:
        return f"Catalog({str(self.path)!r}, {len(self)} entries)"

    @property
    def downloads(self) -> Path:
        """Folder in the cache that holds what this catalog downloads, and no other one."""
        here, name = self.path.resolve(), self.meta.name
        if here != paths.default_catalog().resolve():  # a name is not enough: any file may take it
            name += "-" + hashlib.sha256(str(here).encode()).hexdigest()[:8]
        return paths.cache_dir() / "data" / name

    def places(self) -> list[Path]:
        """Folders that relative paths are looked up in, first match wins.

        ``GEOWB_DATA``, then the first of ``meta.roots`` that exists (the
        catalog's own folder if it names none), then the downloads.
        """
        here = self.path.resolve().parent
        named = [here / Path(root).expanduser() for root in self.meta.roots] or [here]
        places = [root for root in named if root.is_dir()][:1]
        if data := os.environ.get("GEOWB_DATA"):
            places.insert(0, Path(data).expanduser())
        return [*places, self.downloads]

    def find(self, pattern: str) -> list[Path]:
        """Files (or folders) that a relative path or glob names, from the first place with any."""
        path, places = Path(pattern).expanduser(), self.places()
        if path.is_absolute():
            path, places = path.relative_to(path.anchor), [Path(path.anchor)]
        for root in places:
            if (root / path).exists():
                return [root / path]
            if found := sorted(root.glob(path.as_posix())):
                return found
        return []

    def table(self) -> list[dict[str, str]]:
        """One row an entry: name, category, licence, size, status, description."""
        return [
            {
                "name": source.name,
                "category": meta.category or "",
                "licence": meta.source_license or "unknown",
                "size": meta.size or "",
                "status": source.status(),
                "description": source.entry.description,
            }
            for source in self.values()
            for meta in [source.entry.metadata]
        ]

    def check(self) -> list[str]:
        """Problems of all entries whose data is on this machine or should be, a sentence each."""
        from geowb.catalog.check import file_problems

        problems: list[str] = []
        for source in self.values():
            status, free = source.status(), "any" in source.entry.placeholders.values()
            if status in ("here", "embedded") or (is_url(source.entry.uri) and not free):
                problems += file_problems(source, {})
            elif status == "missing" and not free and not source.entry.metadata.how_to_get:
                problems += list(filter(None, map(source.absence, source.selections())))[:1]
        return problems


class Source:
    """One entry of a catalog.

    >>> scene = open_catalog()["world"].open(region="cerrado", seed=0)
    >>> scene.reflectance.dims
    ('time', 'band', 'y', 'x')
    """

    def __init__(self, name: str, entry: Entry, catalog: Catalog) -> None:
        self.name = name
        self.entry = entry
        self.catalog = catalog

    def __repr__(self) -> str:
        return f"Source({self.name!r}, driver={self.entry.driver.name!r}, {self.status()})"

    # --- selection ---

    def choices(self, placeholder: str) -> list[str]:
        """Values of a placeholder; empty if the entry has none of that name, or any value goes."""
        values = self.entry.placeholders.get(placeholder, ())
        return [] if values == "any" else list(values)

    def selections(self) -> list[dict[str, str]]:
        """Every combination of the placeholders that have listed values."""
        listed = {name: self.choices(name) for name in self.entry.placeholders}
        return combinations({name: values for name, values in listed.items() if values})

    def selection_problems(self, selection: Mapping[str, Sequence[str]]) -> list[str]:
        """Problems of the wanted values of placeholders; no value stands for all of them."""
        known, problems = self.entry.placeholders, []
        for name, values in selection.items():
            if name not in known and values:
                problems.append(
                    f"Entry '{self.name}' has no placeholder '{name}'. "
                    f"{did_you_mean(name, known)} Leave '{name}' empty, not {', '.join(values)}."
                )
            elif choices := self.choices(name):
                problems += [
                    f"Entry '{self.name}' has no {name} '{value}'. {did_you_mean(value, choices)}"
                    for value in values
                    if value not in choices
                ]
        return problems + [
            f"Entry '{self.name}' needs a value for '{name}' ({name}=...)."
            for name, values in known.items()
            if values == "any" and not selection.get(name)
        ]

    def fields(self, selection: Mapping[str, object]) -> dict[str, str]:
        """Check and complete `selection`: a placeholder left out takes its first value."""
        fields = {name: str(value) for name, value in selection.items()}
        if problems := self.selection_problems({name: [value] for name, value in fields.items()}):
            raise RequestError(problems[0])
        return {name: values[0] for name, values in self.entry.placeholders.items()} | fields

    def reader(self, fields: Mapping[str, str]) -> tuple[Any, str]:
        """Driver that reads this entry, and its ``uri``, with the placeholders filled."""
        driver = self.entry.driver
        if driver.name in ("archive", "hub"):
            driver = driver.options.then
        if driver is None:
            return None, expand(self.entry.uri, fields)
        options = type(driver.options).model_validate(expand(driver.options.model_dump(), fields))
        return driver.model_copy(update={"options": options}), expand(self.entry.uri, fields)

    @property
    def not_a_scene(self) -> str:
        """Sentence for an entry that only brings files."""
        return (
            f"Entry '{self.name}' is a set of files, not a scene: "
            f"catalog['{self.name}'].get() gives their folder."
        )

    # --- where the data is ---

    @property
    def streamed(self) -> bool:
        """Whether the entry is read over the network without a download."""
        return self.entry.driver.name == "stac" or is_url(self.entry.uri)

    def files(self, fields: Mapping[str, str]) -> tuple[list[str], list[str]]:
        """Paths or URLs that this selection reads, and what of it is not on this machine."""
        from geowb.catalog import fetch

        driver, uri = self.reader(fields)
        wanted = [uri] if uri else list(self._downloads())
        if driver is not None and driver.name == "raster":
            wanted += [label.uri for label in driver.options.labels.values()]
        matches = {name: [name] if is_url(name) else self.catalog.find(name) for name in wanted}
        found = [str(path) for paths in matches.values() for path in paths]
        if any(Path(path).is_relative_to(self.catalog.downloads) for path in found):
            # A download of many files may have been interrupted half-way.
            known = fetch.record(self.catalog.downloads)
            for name, file in self._downloads().items():
                matches[name] = self._right(name, file, known)
        return found, [name for name, paths in matches.items() if not paths]

    def _right(
        self, path: str, file: ArchiveFile | HubOptions, known: dict[str, dict[str, str]]
    ) -> list[Path]:
        """Find a download: one in the cache counts if the record agrees with the catalog."""
        from geowb.catalog import fetch

        found = self.catalog.find(path)
        own = any(place.is_relative_to(self.catalog.downloads) for place in found)
        return found if not own or fetch.agrees(file, known) else []

    def _downloads(self) -> dict[str, ArchiveFile | HubOptions]:
        """Map places to what a download brings there: all of it, or what is in its top folder."""
        if self.entry.part_of:
            top = self.entry.uri.partition("/")[0]
            whole = self.catalog[self.entry.part_of]._downloads()
            return {path: file for path, file in whole.items() if path.partition("/")[0] == top}
        options = self.entry.driver.options
        if self.entry.driver.name == "hub":
            return {options.path: options}
        return {file.path: file for file in getattr(options, "all_files", list)()}

    def status(self) -> str:
        """Say where the data is: "embedded", "here", "remote" or "missing"."""
        if self.entry.driver.name in ("world", "digits"):
            return "embedded"
        if self.streamed:
            return "remote"
        if not any(self.files(fields)[1] for fields in self.selections()):
            return "here"
        return "remote" if self._downloads() else "missing"

    def absence(self, fields: Mapping[str, str]) -> str | None:
        """Say which file of this selection is not here, and how it can be had; None if all are."""
        if not (absent := self.files(fields)[1]):
            return None
        looked = ", ".join(map(str, self.catalog.places()))
        how = self.how_to_get(absent[0])
        return f"'{absent[0]}' of entry '{self.name}' is not here (looked in {looked}). {how}"

    def how_to_get(self, absent: str = "") -> str:
        """Say how data that is not here can be had, or the one file `absent` of it."""
        meta, status = self.entry.metadata, self.status()
        if status == "embedded":
            made = self.entry.driver.name == "world"
            return "geowb makes it itself." if made else "It comes with scikit-learn."
        if self.streamed and not absent:
            how = "It is read over the network when it is opened."
        elif status == "remote" and not self.streamed:
            size = f" ({meta.size})" if meta.size else ""
            how = f"Run: geowb catalog get {self.name}{size}."
        else:
            own = (
                f"{meta.how_to_get} Then set" if meta.how_to_get else "Put the files there, or set"
            )
            how = f"The entry names no download. {own} GEOWB_DATA to the folder that has them."
        return how + (f" The embedded twin is '{self.entry.twin}'." if self.entry.twin else "")

    def get(self, *, progress: Shown = True) -> Path:
        """Download what is not here yet, and say where it lies.

        Parameters
        ----------
        progress
            Whether a line on standard error tells how far it is; or a function of the share that
            is here and a sentence, which ends the download by raising. Data sets of the Hugging
            Face hub and archives that are being unpacked do not ask it.

        Raises
        ------
        RequestError
            If there is nothing that could be downloaded.
        DownloadError, ChecksumError
            If the download failed; nothing is left under the final names.
        """
        from geowb.catalog import fetch

        status, target, twin = self.status(), self.catalog.downloads, self.entry.twin
        if self.streamed or status in ("embedded", "missing"):
            raise RequestError(f"Nothing to download for '{self.name}'. {self.how_to_get()}")
        known = fetch.record(target)
        for path, options in self._downloads().items() if status == "remote" else ():
            if self.entry.driver.name == "hub":
                fetch.hub(options, target, twin=twin)
            elif not self._right(path, options, known):
                fetch.archive(options, target, twin=twin, progress=progress)
        found, absent = self.files(self.selections()[0])
        if absent:
            raise DataError(f"Entry '{self.name}' was downloaded, but brought no '{absent[0]}'.")
        return Path(os.path.commonpath(found))

    # --- opening ---

    def open(self, *, seed: int | None = None, **selection: object) -> xr.Dataset:
        """Open one lazy scene, or one lazy set of chips.

        Parameters
        ----------
        seed
            Chooses which world is simulated (0 if None); archives ignore it.
        **selection
            Values of the entry's placeholders; one left out takes its first value.

        Returns
        -------
        xarray.Dataset
            ``reflectance`` (time, band, y, x) or (sample, band, y, x), float32,
            reflectance x 10,000, NaN where there is no data; labels on the same grid.

        Raises
        ------
        RequestError
            For a placeholder or a value that the entry does not have.
        DataError
            If the data is not here, or is not what the entry says.
        """
        from geowb.catalog import arrays, chips, published, read

        fields = self.fields(selection)
        driver, uri = self.reader(fields)
        if driver is None:
            raise DataError(self.not_a_scene)
        if driver.name == "world":
            import geowb.world

            scene = geowb.world.scene(seed=seed or 0, **driver.options.model_dump())
        elif driver.name == "digits":
            scene = arrays.digits()
        elif driver.name == "stac":
            from geowb.catalog import stac

            scene = stac.load(driver.options, self.entry.metadata, twin=self.entry.twin)
        else:
            if problem := self.absence(fields):
                raise DataError(problem)
            how = {"raster": read.raster, "chips": chips.chips, "arrays": arrays.arrays}
            scene = how[driver.name](self, driver.options, uri)
            published.warn_of_other_numbers(self, scene)
        scene = read.adapt(scene, self.entry.data_adapter)
        scene.attrs.update(entry=self.name, **{f"select_{k}": v for k, v in fields.items()})
        for key in ("source_license", "source_url"):
            if value := getattr(self.entry.metadata, key):
                scene.attrs[key] = value
        if self.entry.metadata.pixel_range:
            scene.attrs["pixel_range"] = list(self.entry.metadata.pixel_range)
        return scene

    def open_each(
        self, placeholder: str, values: Sequence[str] = (), *, seed: int | None = None
    ) -> dict[str, xr.Dataset]:
        """Open one scene for each value of a placeholder (all of them when `values` is empty).

        >>> list(open_catalog()["world"].open_each("region", ["cerrado"]))
        ['cerrado']

        An entry without that placeholder gives ``{source.name: scene}``.
        """
        if placeholder not in self.entry.placeholders and not values:
            return {self.name: self.open(seed=seed)}
        wanted = [str(value) for value in values] or self.choices(placeholder)
        return {value: self.open(seed=seed, **{placeholder: value}) for value in wanted}

    # --- telling about it ---

    def describe(self) -> str:
        """Everything the catalog knows of this entry, as text."""
        from geowb.catalog import published

        entry, status = self.entry, self.status()
        known = {"driver": entry.driver.name, "status": status}
        for name, values in entry.placeholders.items():
            known[name] = values if values == "any" else ", ".join(values)
        known |= published.facts(self)
        if entry.twin:
            known["twin"] = entry.twin
        if status in ("remote", "missing"):
            known["to get it"] = self.how_to_get()
        lines = [f"  {key}: {value}" for key, value in known.items()]
        return "\n".join([f"{self.name}: {entry.description}", *lines])

    def provenance(self, **selection: object) -> dict[str, Any]:
        """Record what was read, and how: the world's version and options, or digests of files."""
        driver, how = self.entry.driver, ("uri", "placeholders", "driver", "data_adapter")
        record: dict[str, Any] = {"entry": self.name, "driver": driver.name}
        fields = dict.fromkeys(how, True) | {"metadata": {"crs", "nodata"}}
        text = self.entry.model_dump_json(include=fields)
        record["entry_sha256"] = hashlib.sha256(text.encode()).hexdigest()
        if driver.name == "world":
            import geowb.world

            options = driver.options.model_dump(mode="json")
            return record | {"world_version": geowb.world.VERSION, "options": options}
        if driver.name == "digits":
            import sklearn

            return record | {"scikit_learn_version": sklearn.__version__}
        record["catalog_sha256"] = self.catalog.sha256
        chosen = [self.fields(selection)] if selection else self.selections()
        found = {path for fields in chosen for path in self.files(fields)[0]}
        return record | {"files": {self._short(path): fingerprint(path) for path in sorted(found)}}

    def _short(self, path: str) -> str:
        """Path as the catalog knows it, without this machine's folders."""
        for root in self.catalog.places():
            if Path(path).is_relative_to(root):
                return Path(path).relative_to(root).as_posix()
        return path


def fingerprint(path: str | Path) -> dict[str, Any]:
    """SHA-256 of a small file, size and time of a large one, a digest of a folder's listing.

    >>> fingerprint("plots.csv")  # doctest: +SKIP
    {'sha256': '783993b57343d610...'}
    """
    place = Path(path)
    if place.is_dir():
        listing = sorted(
            f"{file.relative_to(place).as_posix()} {file.stat().st_size}"
            for file in place.rglob("*")
            if file.is_file()
        )
        digest = hashlib.sha256("\n".join(listing).encode()).hexdigest()
        return {"files": len(listing), "listing_sha256": digest}
    if not place.is_file():
        return {"url": path}
    stat = place.stat()
    if stat.st_size > _HASHED:
        return {"bytes": stat.st_size, "mtime": stat.st_mtime}
    return {"sha256": hashlib.sha256(place.read_bytes()).hexdigest()}
