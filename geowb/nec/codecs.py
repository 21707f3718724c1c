"""Codec files: what was changed of an encoder for compression, its prior, its tables, and a card.

A codec is a folder:

| file | |
|---|---|
| ``codec.safetensors`` | the tensors that were trained, under the names of `CompressedMAE` |
| ``tables.bin`` | `Tables.to_bytes`, without which nothing can be read |
| ``codec.json`` | of which encoder, how it was adapted, what it costs |

The encoder's other weights are in its own file, which the card names with its digest.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geowb.errors import CatalogError, ModelError, RequestError, WeightsMismatch
from geowb.nec.bases import encoder_file, open_base
from geowb.nec.escapes import coding
from geowb.nec.tables import Tables
from geowb.paths import sha256

if TYPE_CHECKING:
    from geowb.models.masked import MaskedModel
    from geowb.nec.autoencoder import CompressedMAE

__all__ = [
    "Codec",
    "check_codecs",
    "check_worlds",
    "codec_folders",
    "load_codec",
    "load_codecs",
    "open_base",
    "read_card",
    "save_codec",
]

_FORMAT = 1
#: Codecs that come with geowb: a folder an encoder.
SHIPPED = Path(__file__).parent / "shipped"
_DTYPES = ("float32", "float16")


@dataclass(frozen=True)
class Codec:
    """An adapted encoder (in eval mode), its tables, and the card that says how it was made."""

    model: CompressedMAE
    tables: Tables
    card: dict[str, Any]

    @property
    def name(self) -> str:
        """Encoder and trade-off in words."""
        return f"{self.card['base']['name']}, {self.setting}"

    @property
    def setting(self) -> str:
        """Trade-off in words."""
        return f"lambda {self.card['lambda']:g}"


def save_codec(
    model: CompressedMAE,
    folder: str | Path,
    card: Mapping[str, Any],
    *,
    tables: Tables | None = None,
    dtype: str = "float32",
) -> Codec:
    """Write a codec; what is in the folder under these names is replaced.

    Parameters
    ----------
    card
        ``base`` as `open_base` gives it, ``lambda``, and whatever else is to be known.
    tables
        By default those of the model's prior.
    dtype
        ``"float16"`` halves the file: its weights are rounded to 11 bits. The tables, and the codec
        that is given back, are of the weights in memory.

    Raises
    ------
    ModelError
        For another dtype, or a card without ``base`` and ``lambda``.
    """
    import torch
    from safetensors.torch import save_file

    if dtype not in _DTYPES or not {"base", "lambda"} <= card.keys():
        raise ModelError(f"A codec has base and lambda in its card, and dtype {_DTYPES}: {dtype}.")
    folder, kind = Path(folder), getattr(torch, dtype)
    trained = {n for n, p in model.named_parameters() if p.requires_grad or n.startswith("prior.")}
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    state = {key: value.to(kind) for key, value in state.items() if key in trained}
    tables = tables or model.prior.tables()
    said = {**card, "format": _FORMAT, "dtype": dtype, "tables_sha256": tables.sha256}
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / ".codec.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    save_file(state, partial / "codec.safetensors")
    (partial / "tables.bin").write_bytes(tables.to_bytes())
    (partial / "codec.json").write_text(json.dumps(said, indent=1) + "\n", "utf-8")
    mode = (partial / "codec.json").stat().st_mode
    (partial / "codec.safetensors").chmod(mode)  # safetensors writes for its owner alone
    for name in ("codec.safetensors", "tables.bin", "codec.json"):  # the card last
        (partial / name).replace(folder / name)
    partial.rmdir()
    return Codec(model.eval(), tables, said)


def read_card(folder: str | Path) -> dict[str, Any]:
    """Read a codec's card, without its weights.

    Raises
    ------
    RequestError
        If there is no codec.
    ModelError
        If its card is damaged, or of a later format.
    """
    file = _folder(folder) / "codec.json"
    if not file.is_file():
        places = [SHIPPED / folder, (SHIPPED / folder).parent, Path(folder), Path(folder).parent]
        places = list(dict.fromkeys(places))
        near = [one for place in places for one in sorted(place.glob("*/codec.json"))]
        near = [str(one.parent).removeprefix(f"{SHIPPED}/") for one in near[:10]]
        known = f"; there are {', '.join(near)}" if near else ", such as mae_demo/lambda-4"
        raise RequestError(
            f"There is no codec in {folder}: it is a folder with codec.json, codec.safetensors and "
            f"tables.bin, which `geowb adapt` leaves, or one that comes with geowb{known}."
        )
    try:
        card = json.loads(file.read_text("utf-8"))
        known = card["format"] == _FORMAT and {"base", "lambda", "tables_sha256"} <= card.keys()
        known = known and {"name", "weights", "sha256"} <= card["base"].keys()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{file} is no card of a codec: {error!r}.") from error
    if not known:
        raise ModelError(
            f"{file} is of format {card['format']}, or incomplete; this geowb reads {_FORMAT}."
        )
    return card


def _folder(place: str | Path) -> Path:
    """Find the folder of a codec: itself, that of its card, or one that comes with geowb."""
    place = Path(place)
    if not place.exists() and not place.is_absolute() and (SHIPPED / place).is_dir():
        return SHIPPED / place
    return place.parent if place.name == "codec.json" else place


def codec_folders(place: str | Path, lambdas: Sequence[float] = ()) -> list[Path]:
    """List the codecs of a folder, or those that come with geowb, smaller rates first.

    >>> [folder.name for folder in codec_folders("mae_demo", [4])]
    ['lambda-4']

    Parameters
    ----------
    place
        Folder that `geowb adapt` left, or the name of an encoder.
    lambdas
        Which of them; empty for all.

    Raises
    ------
    RequestError
        If there is none, or not one of the lambdas, or two of one lambda.
    """
    text = str(place)
    folder = Path(text) if Path(text).is_dir() else SHIPPED / text
    found: dict[float, Path] = {}
    for file in sorted(folder.glob("*/codec.json")):
        same = found.setdefault(read_card(file)["lambda"], file.parent)
        if same != file.parent:
            raise RequestError(
                f"{same} and {file.parent} are codecs of one lambda: move one to another folder."
            )
    if not text or not found:
        known = ", ".join(sorted(one.name for one in SHIPPED.iterdir() if one.is_dir()))
        raise RequestError(
            f"There are no codecs in '{text}': it is a folder that `geowb adapt` left, or an "
            f"encoder whose codecs come with geowb ({known})."
        )
    if missing := [one for one in lambdas if one not in found]:
        raise RequestError(
            f"{text} has no codec of lambda {missing[0]:g}; it has those of "
            f"{', '.join(f'{one:g}' for one in sorted(found))}."
        )
    return [found[one] for one in sorted(found) if one in lambdas or not lambdas]


def check_codecs(
    value: str, *, model: str, lambdas: Sequence[float] = (), weights: str = ""
) -> list[str]:
    """Say what is wrong with the codecs of a study before it starts, and with their encoder.

    >>> check_codecs("", model="mae_demo", lambdas=[1.7])
    []

    Parameters
    ----------
    value
        A folder of codecs, or empty for those that come with the encoder `model`.
    weights
        Of the encoder, if it is named: a file that must be there, or an address.
    """
    try:
        coding()
        folders = codec_folders(value or model, lambdas)
    except (RequestError, ModelError) as error:
        return [str(error)]
    file = Path(weights).expanduser() if weights else encoder_file(model)
    digest = sha256(file) if file.is_file() else ""
    for folder in folders:
        base = read_card(folder)["base"]
        if base["name"] != model and not Path(model).exists():
            return [f"The codec in {folder} is of the encoder '{base['name']}', not of '{model}'."]
        if _differs(base, digest):
            return [
                f"The codec in {folder} is of another encoder '{base['name']}' than {file}: their "
                "files differ. Name the encoder that it was made of."
            ]
    if weights and weights != "pretrained" and "://" not in weights and not file.is_file():
        return [f"There is no weights file {weights} for the encoder '{model}'."]
    return []


def check_worlds(
    value: int,
    *,
    worlds: int,
    data: str,
    model: str,
    catalog: str = "",
    codecs: str = "",
    lambdas: Sequence[float] = (),
    weights: str = "",
) -> list[str]:
    """Say so if an encoder or its codecs have seen the simulated worlds that a seed stands for.

    >>> check_worlds(0, worlds=24, data="world_places", model="mae_demo")
    []
    >>> check_worlds(13, worlds=24, data="world_places", model="mae_demo")
    ['The seed 13 stands for the worlds 312 to 335, of which mae_demo was trained on 24: ...']

    Parameters
    ----------
    value
        A seed, which stands for `worlds` worlds from ``value * worlds`` on.
    data, catalog
        Entry that is studied; any other than of a simulated world is always good.
    model, weights, codecs, lambdas
        As of `check_codecs`.
    """
    from geowb.models import registry

    if not _simulated(data, catalog):
        return []
    card = registry.read_card(Path(weights).expanduser() if weights else encoder_file(model))
    trained = {model: (card.get("trained_on") or {}).get("seeds", ())}  # none of other data
    for folder in codec_folders(codecs or model, lambdas):
        own = read_card(folder).get("sampling", {})
        if _simulated(own.get("data", ""), own.get("catalog", "")):
            trained[f"the codec in {folder}"] = own["seeds"]
    wanted = range(value * worlds, (value + 1) * worlds)
    for name, seeds in trained.items():
        if seen := set(wanted) & set(seeds):
            return [
                f"The seed {value} stands for the worlds {wanted[0]} to {wanted[-1]}, of which "
                f"{name} was trained on {len(seen)}: what is measured there says nothing of other "
                "places. Choose another seed."
            ]
    return []


def _simulated(data: str, catalog: str) -> bool:
    """Whether an entry, if there is one, is of the simulated world."""
    from geowb.catalog import open_catalog

    try:
        return open_catalog(catalog or None)[data].entry.driver.name == "world"
    except (CatalogError, KeyError):
        return False


def load_codec(folder: str | Path, weights: str = "") -> Codec:
    """Load a codec and the encoder that it changes.

    >>> load_codec("mae_demo/lambda-4").tables
    <Tables of 192 channels, ... symbols, ...>

    A folder, or the name of one that comes with geowb.

    Parameters
    ----------
    weights
        Where the encoder's file lies now, if not where the card says.

    Raises
    ------
    RequestError, ModelError
        If there is no codec, or a file of it is missing.
    WeightsMismatch
        If the encoder's file is another one.
    CorruptStream
        If the tables are damaged, or not the codec's.
    """
    from geowb.errors import CorruptStream
    from geowb.models.weights import fit_state, read_checkpoint
    from geowb.nec.autoencoder import CompressedMAE

    card, folder = read_card(folder), _folder(folder)
    tables_file, changes = folder / "tables.bin", folder / "codec.safetensors"
    for file in (tables_file, changes):
        if not file.is_file():
            raise ModelError(f"There is no {file}: the codec is not whole.")
    tables = Tables.from_bytes(tables_file.read_bytes())
    if tables.sha256 != card["tables_sha256"]:
        raise CorruptStream(f"{tables_file} are not the tables that {folder / 'codec.json'} names.")
    model = CompressedMAE.of(_base_of(card["base"], folder, weights))
    state = {key: value.float() for key, value in read_checkpoint(changes).items()}
    own = model.state_dict()
    if missing := [k for k in state if k not in own] or [
        n for n, p in model.named_parameters() if p.requires_grad and n not in state
    ]:
        raise WeightsMismatch(f"{changes} does not fit the encoder: {', '.join(missing[:3])}.")
    fit_state(model, {**own, **state}, changes)
    return Codec(model.eval(), tables, card)


def load_codecs(
    place: str | Path, lambdas: Sequence[float], base: Mapping[str, Any], weights: str = ""
) -> dict[str, Codec]:
    """Load the codecs of a folder by their settings, all of one encoder.

    >>> list(load_codecs("mae_demo", [100, 1.7], open_base("mae_demo")[1]))
    ['lambda 1.7', 'lambda 100']

    Parameters
    ----------
    place, lambdas
        As of `codec_folders`.
    base
        What `open_base` says of the encoder that they are to be compared with.
    weights
        As of `load_codec`.

    Raises
    ------
    WeightsMismatch
        If a codec is of another encoder.
    """
    here = weights or base["weights"]  # the encoder itself, wherever the card says that it was
    found = [load_codec(folder, here) for folder in codec_folders(place, lambdas)]
    for codec in found:
        if _differs(codec.card["base"], base["sha256"]):
            raise WeightsMismatch(
                f"The codec '{codec.name}' in {place} is of another encoder than '{base['name']}' "
                f"with sha256 {base['sha256'][:16]}: name the encoder that it was made of."
            )
    return {codec.setting: codec for codec in found}


def _differs(base: Mapping[str, Any], digest: str) -> bool:
    """Whether a card's encoder is of another file; not said where either has no digest."""
    return bool(digest and base["sha256"]) and base["sha256"] != digest


def _base_of(base: Mapping[str, Any], folder: Path, weights: str) -> MaskedModel:
    place = str(Path(weights).expanduser()) if weights.startswith("~") else weights
    place = place or base["weights"]
    remote = place.startswith("hf://")
    if not (place == "pretrained" or remote or Path(place).exists()):
        if weights:
            raise ModelError(f"There is no weights file {weights}, nor a folder of that name.")
        raise ModelError(
            f"The codec in {folder} changes the encoder '{base['name']}', whose weights were in "
            f"{place}, where nothing is now: say where they are (weights=..., --weights)."
        )
    # A model of geowb has a card beside it; any other file is a checkpoint of a known encoder.
    file = Path(place) / "model.safetensors" if Path(place).is_dir() else Path(place)
    own = file.name == "model.safetensors" and file.with_name("model.json").is_file()
    if place == "pretrained":
        model, said = open_base(base["name"])
    elif own and not remote:
        model, said = open_base(place)
    else:
        model, said = open_base(base["name"], place)
    if _differs(base, said["sha256"]):
        raise WeightsMismatch(
            f"The codec in {folder} changes the encoder '{base['name']}' of the file with sha256 "
            f"{base['sha256'][:16]}; {place} has {said['sha256'][:16]}. With other weights the "
            "embeddings would be others: give the right file (weights=..., --weights)."
        )
    return model
