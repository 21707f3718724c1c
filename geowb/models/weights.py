"""Read checkpoints safely and fit them to a model, or say exactly why they do not fit."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from geowb.bands import HLS6
from geowb.errors import DownloadError, ModelError, WeightsMismatch

if TYPE_CHECKING:
    from geowb.models.wrapper import PixelModel

__all__ = ["fit_state", "load_weights", "read_checkpoint"]

#: Wrappers' prefixes that say nothing about the tensor.
_PREFIXES = ("module.", "model.", "network.", "encoder.", "backbone.", "_timm_module.")

#: What a checkpoint holds beside the encoder: decoders, heads, SimMIM's mask token and last norm,
#: and the attention masks that Swin's first code stored and that follow from the image's size.
_FOREIGN = (
    r"^(decoder|decode_head|head|neck|auxiliary_head|aux_heads|fc|mask_token|norm)\b|attn_mask$"
)


def load_weights(model: PixelModel, weights: str) -> tuple[str, bool]:
    """Load weights into `model` in place; return where they came from and if they are trained.

    `weights` is a checkpoint file, or ``hf://OWNER/REPOSITORY/FILE``. A model file of geowb, or
    any checkpoint whose names are the whole model's, is loaded whole, with its normalisation and
    output scale; every other checkpoint is taken for the encoder's (SimMIM's, MMSegmentation's and
    TerraTorch's names are known).

    Raises
    ------
    WeightsMismatch
        If names or shapes do not fit; nothing is loaded then.
    """
    path = _fetch(weights)
    state = read_checkpoint(path)
    if any(key.startswith(("network.", "model.network.")) for key in state):
        return _load_whole(model, {k.removeprefix("model."): v for k, v in state.items()}, path)
    if not hasattr(model.network, "encoder"):
        raise WeightsMismatch(
            f"{path} is not a model file of '{model.card['name']}': it has no 'network.' tensor."
        )
    encoder = model.network.encoder
    state = _swin_names(state)
    state = _input_bands(state, model.card["bands"], model.card["frames"], path)
    fit_state(encoder, state, path, may_lack=r"relative_position_index$|^stages_\d\.norm\.")
    return f"encoder from {path.name}, sha256 {_digest(path)}", True


def _load_whole(model: PixelModel, state: dict, path: Path) -> tuple[str, bool]:
    """Load a whole model; its card, where there is one, must be that of the same model."""
    file = path.with_name("model.json")
    theirs = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    for key in ("name", "bands", "frames", "outputs", "decoder_channels"):
        if theirs.get(key, model.card[key]) != model.card[key]:
            raise WeightsMismatch(
                f"{path} was built with {key} = {theirs[key]}, this model with {model.card[key]}."
            )
    fit_state(model, state, path)
    for key in ("mean", "std", "output_mean", "output_std", "non_negative"):
        model.card[key] = theirs.get(key, model.card[key])
    before = theirs.get("weights", "unknown")
    trained = bool(theirs.get("trained_on")) and not theirs.get("freeze_backbone")
    origin = f"model file {path.name}, sha256 {_digest(path)}, which started from: {before}"
    return origin, trained or bool(theirs.get("pretrained"))


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


def _swin_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give a Swin checkpoint's encoder tensors the names that TerraTorch's encoder uses."""
    from geowb.models.wrapper import terratorch

    convert = terratorch().models.backbones.prithvi_swin.convert_weights_swin2mmseg
    names = {key: _bare(key) for key in state}
    encoder = {new: state[old] for old, new in names.items() if not re.search(_FOREIGN, new)}
    if any(key.startswith("layers.") for key in encoder):
        encoder = convert(encoder)
    return {re.sub(r"^stages\.", "stages_", key): value for key, value in encoder.items()}


def _bare(key: str) -> str:
    while prefix := next((p for p in _PREFIXES if key.startswith(p)), ""):
        key = key.removeprefix(prefix)
    return key


def _input_bands(
    state: dict[str, torch.Tensor], bands: list[str], frames: int, path: Path
) -> dict[str, torch.Tensor]:
    """Pick the patch embedding's input channels by band name (weights have the six HLS bands)."""
    key = "patch_embed.projection.weight"
    if key not in state or state[key].shape[1] != len(HLS6):
        return state
    if unknown := [b for b in bands if b not in HLS6]:
        raise WeightsMismatch(f"{path} knows the bands {', '.join(HLS6)}; not '{unknown[0]}'.")
    # The network's channels are band-major: (band, date) flattened.
    picked = state[key][:, [HLS6.index(b) for b in bands for _ in range(frames)]] / frames
    return {**state, key: picked}


def _fetch(weights: str) -> Path:
    if not weights.startswith("hf://"):
        path = Path(weights).expanduser()
        if not path.is_file():
            raise ModelError(f"There is no weights file {path}.")
        return path
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    owner, repository, file = weights.removeprefix("hf://").split("/", 2)
    try:
        return Path(hf_hub_download(f"{owner}/{repository}", file))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise DownloadError(
            f"{weights} could not be fetched from the Hugging Face hub "
            f"({str(error).splitlines()[0][:120]}). Give a local file instead."
        ) from error


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]
