"""Read checkpoints safely and fit them to a model, or say exactly why they do not fit."""

from __future__ import annotations

import pickle
import re
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import torch

from geowb.errors import DownloadError, ModelError, WeightsMismatch
from geowb.models.checks import misfits
from geowb.models.registry import encoder_tensors, locate, read_card, spec
from geowb.paths import sha256

if TYPE_CHECKING:
    from geowb.models.masked import MaskedModel
    from geowb.models.wrapper import PixelModel

__all__ = ["fetch", "fit_state", "load_masked_weights", "load_weights", "read_checkpoint"]

#: Tensors that a Prithvi makes for itself, and those that only geowb's files have.
_MADE = r"pos_embed$|^(mean|std)$"


def load_weights(
    model: PixelModel, weights: str, free: Collection[str] = ("mean", "std")
) -> tuple[str, bool]:
    """Load weights into `model` in place; return where they came from and if they are trained.

    >>> load_weights(model, "hf://ibm-nasa-geospatial/Prithvi-EO-1.0-100M")  # doctest: +SKIP
    ('encoder from hf://ibm-nasa-geospatial/Prithvi-EO-1.0-100M, sha256 ...', True)

    `weights` are what `geowb.models.registry.locate` knows. A model file of geowb, or any
    checkpoint whose names are the whole model's, is loaded whole, with its normalisation and
    output scale. Every other checkpoint is taken for the encoder's (Prithvi's first and later
    names, SimMIM's, MMSegmentation's and TerraTorch's are known), and so is a model file with a
    linear decoder for a model with another, and the other way round. Files of geowb bring those of
    ``mean`` and ``std`` that are `free`. (UPerNet with and without a smoothing filter are the same
    tensors, and load each other's files whole.)

    Raises
    ------
    WeightsMismatch
        If names or shapes do not fit; nothing is loaded then.
    """
    name = model.card["name"]
    path = fetch(weights, name)
    label = f"geowb's own {name}" if weights == "pretrained" else path.name
    origin = f"{weights if weights.startswith('hf://') else label}, sha256 {sha256(path)[:16]}"
    state, card = read_checkpoint(path), read_card(path)
    if problems := misfits(path, {k: tuple(v.shape) for k, v in state.items()}, name, card):
        raise WeightsMismatch(problems[0])
    whole = any(key.startswith(("network.", "model.network.")) for key in state)
    linear = any("network.decoder.norms." in key for key in state)  # no other decoder has these
    if whole and linear == (model.card["decoder"] == "linear"):
        state = {k.removeprefix("model."): v for k, v in state.items()}
        return _load_whole(model, state, path, card, origin)
    masked = card.get("kind") == "masked"
    kind = "masked model" if masked else "model file"
    ours = bool(card) and (masked or whole)
    if ours and (missing := {"bands", "mean", "std"}.difference(card)):
        raise ModelError(f"The card of {path} is no {kind}'s: no '{min(missing)}' in it.")
    if masked or whole:
        part = re.compile(r"encoder\." if masked else r"(model\.)?network\.encoder\.")
        state = {key: value for key, value in state.items() if part.match(key)}
    found = spec(name)
    state = _RENAME[found.family](encoder_tensors(state, found))
    state = _with_time(state) if found.flat else state
    state = _input_bands(state, model.card, card, path)
    fit_state(model.network.encoder, state, path, may_lack=_MAY_LACK)
    if not ours:
        return f"encoder from {origin}", True
    _take_statistics(model, card, free)
    return f"encoder from the {kind} {origin} ({card.get('weights', 'unknown')})", _trained(card)


def load_masked_weights(
    model: MaskedModel, weights: str, free: Collection[str] = ("mean", "std")
) -> tuple[str, bool]:
    """Load encoder and decoder into a masked model; return where they came from, and True.

    >>> load_masked_weights(model, "hf://ibm-nasa-geospatial/Prithvi-EO-1.0-100M")  # doctest: +SKIP
    ('masked model from hf://ibm-nasa-geospatial/Prithvi-EO-1.0-100M, sha256 ...', True)

    `weights` are what `geowb.models.registry.locate` knows: a masked model's file of geowb, with
    those of its ``mean`` and ``std`` that are `free`, a published Prithvi with its decoder (the
    first's names or later ones), whose number of dates may differ, or a published 2-D masked
    autoencoder for a model of that build, with its encodings of places.

    Raises
    ------
    WeightsMismatch
        If names, shapes or bands do not fit, or there is no decoder; nothing is loaded then.
    """
    name = model.card["name"]
    path = fetch(weights, name)
    state, card = read_checkpoint(path), read_card(path)
    if problems := misfits(path, {k: tuple(v.shape) for k, v in state.items()}, name, card):
        raise WeightsMismatch(problems[0])
    found = spec(name)
    bands = card.get("bands", found.bands)
    if list(bands) != model.card["bands"]:
        raise WeightsMismatch(f"{path} knows the bands {', '.join(bands)}, in this order.")
    state = {_masked_name(key): value for key, value in state.items()}
    if not any(key.startswith("decoder.") for key in state):
        raise WeightsMismatch(
            f"{path} has no decoder that fills patches, only an encoder: take the file of a masked "
            "model, or Prithvi's own."
        )
    if found.flat:
        state = _with_time(state)
    else:
        state = {key: value for key, value in state.items() if not key.endswith("pos_embed")}
    taken = {"mean", "std"} & state.keys() & {*free}
    state = {k: v for k, v in state.items() if k in taken or k not in ("mean", "std")}
    fit_state(model, state, path, may_lack=_MADE)
    model.card |= {key: card[key] for key in taken if key in card}
    label = f"geowb's own {name}" if weights == "pretrained" else path.name
    origin = weights if weights.startswith("hf://") else label
    return f"masked model from {origin}, sha256 {sha256(path)[:16]}", True


def _with_time(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give the patches of a 2-D autoencoder an axis of time, of one date."""
    patch = re.compile(r"(encoder\.)?patch_embed\.proj\.weight$")
    return {
        key: value.unsqueeze(2) if patch.match(key) and value.ndim == 4 else value
        for key, value in state.items()
    }


def _masked_name(key: str) -> str:
    """Give a tensor the name that it has in `geowb.models.mae.MaskedPrithvi`."""
    key = key.replace("_timm_module.", "")
    if key.startswith(("encoder.", "decoder.")) or key in ("mean", "std"):
        return key
    decodes = key == "mask_token" or key.startswith("decoder_") or "_embed_dec." in key
    return f"{'decoder' if decodes else 'encoder'}.{key}"


def _trained(card: Mapping[str, Any]) -> bool:
    """Whether a file's encoder was trained, there or before."""
    here = bool(card.get("trained_on")) and not card.get("freeze_backbone")
    return here or bool(card.get("pretrained"))


def _take_statistics(model: PixelModel, card: Mapping[str, Any], free: Collection[str]) -> None:
    for key in free:
        by_band = dict(zip(card["bands"], card[key], strict=True))
        model.card[key] = [by_band[band] for band in model.card["bands"]]
        buffer = getattr(model, key)
        buffer.copy_(torch.tensor(model.card[key]).reshape(buffer.shape))


def _load_whole(
    model: PixelModel, state: dict, path: Path, theirs: Mapping[str, Any], origin: str
) -> tuple[str, bool]:
    """Load a whole model; its card, where there is one, must be that of the same model."""
    for key in ("name", "bands", "frames", "outputs", "decoder_channels"):
        if theirs.get(key, model.card[key]) != model.card[key]:
            raise WeightsMismatch(
                f"{path} was built with {key} = {theirs[key]}, this model with {model.card[key]}."
            )
    fit_state(model, state, path)
    for key in ("mean", "std", "output_mean", "output_std", "non_negative"):
        model.card[key] = theirs.get(key, model.card[key])
    before = theirs.get("weights", "unknown")
    return f"model file {origin}, which started from: {before}", _trained(theirs)


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """Read a checkpoint's tensors by name, without running code from the file.

    Safetensors, or a PyTorch file read with ``weights_only=True``; a ``state_dict`` or ``model``
    entry (Lightning, SimMIM) is unpacked.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ModelError(f"{path} is not a safetensors file: {error}.") from error
    try:
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise ModelError(
            f"{path} cannot be read as a checkpoint of tensors alone "
            f"({str(error).splitlines()[0][:120]}). Save its state_dict as safetensors."
        ) from error
    for inner in ("state_dict", "model"):
        if isinstance(held, Mapping) and isinstance(held.get(inner), Mapping):
            held = held[inner]
    if not isinstance(held, Mapping):
        raise ModelError(f"{path} holds a {type(held).__name__}, not named tensors.")
    tensors = {k: v for k, v in held.items() if isinstance(v, torch.Tensor)}
    if not tensors:
        raise ModelError(f"{path} holds no named tensor.")
    return tensors


def fit_state(
    module: torch.nn.Module,
    state: Mapping[str, torch.Tensor],
    path: Path,
    may_lack: str = r"(?!)",
) -> None:
    """Load `state` into `module` if all names and shapes fit; otherwise say which do not.

    Names that match the pattern `may_lack` may be missing from `state`.
    """
    own = module.state_dict()
    missing = [k for k in own if k not in state and not re.search(may_lack, k)]
    unknown = [k for k in state if k not in own]
    misfit = [
        f"{k}: {tuple(state[k].shape)} where the model has {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    if not (missing or unknown or misfit):
        module.load_state_dict(dict(state), strict=False)
        return
    parts = [
        f"{len(names)} {what} ({'; '.join(names[:3])}{'; ...' if len(names) > 3 else ''})"
        for what, names in (
            ("tensors of the model are missing", missing),
            ("tensors are not the model's", unknown),
            ("tensors have another shape", misfit),
        )
        if names
    ]
    raise WeightsMismatch(f"{path} does not fit the model: {', '.join(parts)}.")


def _swin_names(encoder: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give a Swin's tensors the names that TerraTorch's encoder uses."""
    from geowb.models.wrapper import terratorch

    if any(key.startswith("layers.") for key in encoder):
        encoder = terratorch().models.backbones.prithvi_swin.convert_weights_swin2mmseg(encoder)
    return {re.sub(r"^stages\.", "stages_", key): value for key, value in encoder.items()}


_RENAME = {"swin": _swin_names, "prithvi": dict}

#: What an encoder makes for itself, and norms that the first Swin has not.
_MAY_LACK = r"^pos_embed$|relative_position_index$|^stages_\d\.norm\."


def _input_bands(
    state: dict[str, torch.Tensor],
    ours: Mapping[str, Any],
    theirs: Mapping[str, Any],
    path: Path,
) -> dict[str, torch.Tensor]:
    """Pick the first layer's input channels by band name.

    Weights have the bands of their card, or the model's usual ones. Swin has the dates of each band
    side by side as channels; weights of one date are shared out.
    """
    key = next(k for k in state if re.fullmatch(r"patch_embed\.proj(ection)?\.weight", k))
    flat = state[key].ndim == 4
    frames = ours["frames"] if flat else 1
    bands = theirs.get("bands", spec(ours["name"]).bands)
    held = theirs.get("frames", 1) if flat else 1
    if unknown := [b for b in ours["bands"] if b not in bands]:
        raise WeightsMismatch(f"{path} knows the bands {', '.join(bands)}; not '{unknown[0]}'.")
    if held not in (1, frames):
        raise WeightsMismatch(f"{path} has the weights of {held} dates, this model {frames}.")
    if state[key].shape[1] != len(bands) * held:
        return state
    picked = state[key].unflatten(1, (len(bands), held)).float()
    picked = picked[:, [bands.index(b) for b in ours["bands"]]]
    if held < frames:
        picked = picked.repeat_interleave(frames, 2) / frames
    return {**state, key: picked.flatten(1, 2)}


def fetch(weights: str, model: str) -> Path:
    """Find the file of weights on this machine; those of the hub are downloaded once.

    >>> fetch("pretrained", "prithvi_demo").name
    'model.safetensors'
    """
    place = locate(weights, model)
    if isinstance(place, Path):
        return place
    repository, file = place
    path = _download(repository, file)
    if path.name == "model.safetensors":  # its card comes with it, if it has one
        _download(repository, str(PurePosixPath(file).with_name("model.json")), may_lack=True)
    return path


def _download(repository: str, file: str, *, may_lack: bool = False) -> Path:
    from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError
    from huggingface_hub.errors import LocalEntryNotFoundError as Offline

    try:
        if may_lack and try_to_load_from_cache(repository, file) is _CACHED_NO_EXIST:
            return Path(file)
        return Path(hf_hub_download(repository, file))
    except (HfHubHTTPError, EntryNotFoundError, HFValidationError, OSError) as error:
        if may_lack and isinstance(error, EntryNotFoundError) and not isinstance(error, Offline):
            return Path(file)
        raise DownloadError(
            f"hf://{repository}/{file} could not be fetched from the Hugging Face hub "
            f"({str(error).splitlines()[0][:120]}). Give a local file instead."
        ) from error
