"""Make a Hugging Face model repository of a model file; nothing is uploaded.

>>> geowb.models.publish("runs/agb/models/unet", "agb-unet")  # doctest: +SKIP
"""

from __future__ import annotations

import json
import math
import re
import secrets
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geowb.errors import GeowbError, ModelError, RequestError, did_you_mean
from geowb.models import registry

if TYPE_CHECKING:
    from torch import nn

__all__ = ["find_model", "hub_name", "publish", "was_trained"]

_WRITTEN = {"model.safetensors", "model.json", "config.json", "README.md"}
#: What a clone from the hub holds beside them; it stays.
_HUBS_OWN = {".git", ".gitattributes", ".cache"}


def publish(
    model_file: str | Path,
    folder: str | Path,
    *,
    licence: str = "Apache-2.0",
    title: str = "",
    repo_id: str = "",
    description: str = "",
    metrics: Sequence[Mapping[str, Any]] | None = None,
    overwrite: bool = False,
    allow_untrained: bool = False,
) -> Path:
    """Write a folder that can be uploaded to the Hugging Face hub as it is; return its path.

    >>> publish("runs/agb/models/unet", "agb-unet", repo_id="me/agb-unet")  # doctest: +SKIP

    The folder holds ``model.safetensors`` and ``model.json`` (what `geowb.models.load` reads),
    ``config.json`` for the hub's tools, the model card ``README.md``, and the PNG files that lie
    beside the model.

    Parameters
    ----------
    model_file
        A model file or its folder, a run directory with one model in it, or the name of a model
        that ships with geowb.
    folder
        What is written; it must not exist, or be empty.
    licence
        Of the weights: an identifier as ``Apache-2.0`` or ``cc-by-4.0``.
    title, description
        Heading and first paragraph of the card; made from the model if empty.
    repo_id
        ``OWNER/NAME`` on the hub, for the code in the card.
    metrics
        Mappings with ``name``, ``value``, ``unit`` and ``data`` (what it was measured on); they
        are added to those in ``model.json`` and in the run's ``metrics.json``.
    overwrite
        Replace what an earlier call wrote; a folder with other files in it is left alone.
    allow_untrained
        Publish random weights; the card says so.

    Raises
    ------
    RequestError
        If there is no such model, it cannot be loaded, it was never trained, the folder is not
        free, or licence, repository or a metric are not well formed. Nothing is written then.
    ModelError
        If the folder cannot be written.

    Notes
    -----
    The card follows https://huggingface.co/docs/hub/model-cards.
    """
    file, folder = find_model(model_file), Path(folder).expanduser().resolve()
    card, run, measured = _what_is_known(file)
    _refuse_words(licence, repo_id)
    _refuse_folder(folder, overwrite)
    if not (allow_untrained or was_trained(card)):
        raise RequestError(
            f"{file} was never trained: its weights are {card.get('weights', 'of unknown origin')}."
            " Publish a model that a run left, or say --allow-untrained (allow_untrained=True)."
        )
    model = _loaded(file)

    from geowb.models import hubcard

    rows = {(m["name"], m.get("data")): m for m in [*measured, *_checked(metrics or ())]}
    about = hubcard.About(
        card=card,
        file=file,
        run=run,
        metrics=list(rows.values()),
        repo_id=repo_id or hub_name(folder),
        licence=licence.lower(),
        title=title,
        description=description,
        trained=was_trained(card),
    )
    texts = {"config.json": hubcard.config(about, model), "README.md": hubcard.readme(about)}
    texts["model.json"] = json.dumps(card, indent=1) + "\n"
    try:
        _write(folder, [file, *about.figures], texts)
    except OSError as error:
        raise ModelError(
            f"{folder} could not be written ({error.strerror or error}). Name another folder."
        ) from error
    return folder


def find_model(model: str | Path) -> Path:
    """Find the ``model.safetensors`` that a person means.

    >>> find_model("runs/agb/models/unet")  # doctest: +SKIP
    PosixPath('runs/agb/models/unet/model.safetensors')

    `model` is a model file or its folder, a run directory with one model in it, or the name of a
    model that ships with geowb.

    Raises
    ------
    RequestError
        If there is none, or more than one.
    """
    path = Path(model).expanduser()
    if path.name == "model.json" and path.is_file():
        path = path.parent
    if path.is_file():
        found = [path]
    elif path.is_dir() and str(model):
        found = [path / "model.safetensors"] if (path / "model.safetensors").is_file() else []
        found = found or sorted({*path.glob("models/*/model.safetensors")})
        found = found or sorted({*path.glob("*/model.safetensors")})
        if not found:
            raise RequestError(f"There is no model in {path}: name the folder of a model file.")
    else:
        found = [_shipped(str(model))]
    if len(found) > 1:
        listed = ", ".join(str(file.parent) for file in found)
        raise RequestError(f"{path} has {len(found)} models; name one of them: {listed}.")
    if found[0].name != "model.safetensors" or not found[0].with_name("model.json").is_file():
        raise RequestError(
            f"{found[0]} is no model file of geowb: that is model.safetensors with model.json "
            "beside it. Load other weights with geowb.models.build and write them with "
            "geowb.models.save."
        )
    return found[0]


def _shipped(name: str) -> Path:
    if name in (names := registry.shipped()):
        return registry.SHIPPED / name / "model.safetensors"
    hint = f"No model that ships has this name. {did_you_mean(name, names)}" if names else ""
    raise RequestError(
        f"There is no model '{name}': no such file or folder. "
        f"{hint or 'Give the folder of a model, as runs/NAME/models/unet.'}"
    )


def hub_name(folder: Path) -> str:
    """Name of a repository for a folder, its owner left open.

    >>> hub_name(Path("my model"))
    'OWNER/my-model'
    """
    return f"OWNER/{re.sub(r'[^A-Za-z0-9._-]+', '-', folder.name).strip('.-') or 'NAME'}"


def was_trained(card: Mapping[str, Any]) -> bool:
    """Whether the whole model was trained; random weights, or a random decoder, are not.

    >>> was_trained({"weights": "random (seed 0)", "pretrained": False, "trained_on": {}})
    False
    """
    whole = card.get("pretrained") and not str(card.get("weights")).startswith("encoder from")
    return bool(card.get("trained_on") or card.get("run") or whole)


def _what_is_known(file: Path) -> tuple[dict, dict, list[dict]]:
    """Return the model's card, the run's record (or nothing), and metrics with their data."""
    card = without_folders(_read(file.with_name("model.json")))
    measured = [*_held_out(card), *_checked(card.get("metrics") or [])]
    folder = file.absolute().parent
    record = folder.parent.parent / "run.json"
    if folder.parent.name != "models" or not record.is_file():
        return card, {}, measured
    run = {**without_folders(_read(record)), "name": card.get("run") or record.parent.name}
    numbers = record.with_name("metrics.json")
    held = _read(numbers) if numbers.is_file() else {}
    entry = run.get("data", {}).get("data", {})
    words = (str(entry[key]) for key in ("entry", "world_version") if entry.get(key))
    data = f"{' '.join(words)} (run {run['name']})".strip()
    for name, value in held.items():
        if folder.name in name.split("/"):  # the arm; others may be of the same model
            measured.append({"name": name, "data": data, **value})
    return card, run, measured


def without_folders(value: Any) -> Any:
    """Leave of this machine's absolute paths only the last part, in keys, values and commands.

    >>> without_folders({"command": "geowb pretrain unet --catalog /home/me/mine.yaml"})
    {'command': 'geowb pretrain unet --catalog mine.yaml'}
    """
    if isinstance(value, dict):
        held = {without_folders(key): without_folders(one) for key, one in value.items()}
        if isinstance(words := held.get("command"), str):
            held["command"] = shlex.join(map(without_folders, shlex.split(words)))
        return held
    if isinstance(value, list):
        return [without_folders(one) for one in value]
    if isinstance(value, str):
        head, equals, path = value.rpartition("=")
        return f"{head}{equals}{Path(path).name}" if Path(path).is_absolute() else value
    return value


def _held_out(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Last loss on held-out chips in a pretraining's curve, as a metric."""
    curve = (card.get("training") or {}).get("curve") or []
    losses = [row["held_out"] for row in curve if "held_out" in row]
    entry = (card.get("trained_on") or {}).get("entry", "")
    data = f"{entry} held-out chips, of other places".strip()
    return [
        {"name": "held_out_loss", "value": loss, "unit": "normalised", "data": data}
        for loss in losses[-1:]
    ]


def _read(file: Path) -> dict[str, Any]:
    try:
        held = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{file} cannot be read ({error}). Train or save it again.") from error
    if not isinstance(held, dict):
        raise RequestError(f"{file} holds no names and values. Train or save the model again.")
    return held


def _checked(metrics: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    for number, row in enumerate(metrics, 1):
        value = row.get("value") if isinstance(row, Mapping) and row.get("name") else "?"
        real = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is not None and not (real and math.isfinite(value)):
            raise RequestError(
                f"Metric {number}, {row!r}, is not of the form "
                '{"name": "rmse", "value": 61.2, "unit": "Mg/ha", "data": "world"}.'
            )
    return [dict(row) for row in metrics]


def _refuse_words(licence: str, repo_id: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", licence):
        raise RequestError(
            f"'{licence}' is no identifier of a licence: use one of "
            "https://huggingface.co/docs/hub/repositories-licenses, as apache-2.0 or cc-by-4.0."
        )
    if repo_id and not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", repo_id, re.ASCII):
        raise RequestError(f"'{repo_id}' is no repository on the hub: write OWNER/NAME.")


def _refuse_folder(folder: Path, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"{folder} is a file: name a folder that does not exist yet.")
    held = {p.name for p in folder.iterdir()} - _HUBS_OWN if folder.exists() else set()
    if held and not overwrite:
        raise RequestError(
            f"{folder} is not empty: name another folder, or say --overwrite (overwrite=True)."
        )
    other = sorted(n for n in held - _WRITTEN if not n.endswith(".png"))
    if "config.json" not in held:  # then it is not a copy of a model but the model
        other += sorted({"model.safetensors"} & held)
    if other:
        raise RequestError(
            f"{folder} holds more than a published model ({', '.join(other[:3])}) and is not "
            "overwritten: name another folder."
        )


def _loaded(file: Path) -> nn.Module:
    """Load the model as a reader would, so that nothing is published that cannot be loaded."""
    from geowb.models.files import load

    try:
        model = load(file)
    except (GeowbError, OSError) as error:
        raise RequestError(f"{file.parent} cannot be published. {error}") from error
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            raise RequestError(
                f"{file} cannot be published: {name} has values that are not finite. "
                "Train it again with a smaller learning rate."
            )
    return model


def _write(folder: Path, files: Sequence[Path], texts: Mapping[str, str]) -> None:
    """Write under a temporary name beside `folder`, then rename, or move into what is there."""
    partial = folder.with_name(f".{folder.name}.partial-{secrets.token_hex(4)}")
    partial.mkdir(parents=True)
    try:
        for file in files:
            shutil.copyfile(file, partial / file.name)
        for name, text in texts.items():
            (partial / name).write_text(text, "utf-8")
        if not folder.exists():
            partial.rename(folder)
            return
        names = {file.name for file in partial.iterdir()}
        for name in names:
            (partial / name).replace(folder / name)
        for file in folder.glob("*.png"):
            if file.name not in names:
                file.unlink()
    finally:
        shutil.rmtree(partial, ignore_errors=True)
