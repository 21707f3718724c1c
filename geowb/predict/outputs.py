"""What is written of a model's output: values, classes, probabilities, confidence, embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from geowb.errors import ModelError, RequestError, did_you_mean

if TYPE_CHECKING:
    import torch

__all__ = ["Cube", "Output", "Outputs", "outputs_for"]

#: Names that can be asked for; those of one tuple come from the same blended values.
_FAMILIES = (("values",), ("classes", "probabilities", "confidence"), ("embedding",))


@dataclass(frozen=True)
class Cube:
    """How an embedding lies in a Zarr, ``(time, y, x, channel)``, and how chunks are coded."""

    frames: int  # dates, whose channels the model gives side by side
    chunk: int  # tokens along an edge of a chunk, which has all channels of one date
    serializer: Any = None  # a Zarr codec from arrays to bytes
    attrs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Output:
    """One thing that is written."""

    name: str
    dtype: str
    bands: int
    nodata: float
    attrs: dict[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()  # of its bands
    cube: Cube | None = None

    def of(self, values: np.ndarray) -> np.ndarray:
        """Make ``(y, x, bands)`` of blended values ``(K, y, x)``, NaN where there is no data."""
        if self.name == "classes":
            missing = np.isnan(values[0])
            best = np.where(missing, self.nodata, values.argmax(axis=0))
            return best.astype(self.dtype)[..., None]
        if self.name == "confidence":
            return values.max(axis=0).astype(self.dtype)[..., None]
        return np.ascontiguousarray(np.moveaxis(values.astype(self.dtype), 0, -1))


@dataclass(frozen=True)
class Outputs:
    """All that is written, and how the model is run for it."""

    wanted: tuple[Output, ...]
    channels: int  # of the blended values
    scale: int  # pixels of the scene to one of the output
    level: int = -1

    def __iter__(self) -> Any:
        return iter(self.wanted)

    def run(self, model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        """Run a batch ``(B, C, T, H, W)``; gives ``(B, K, H / scale, W / scale)`` float32."""
        return _ways(self.wanted[0].name, self.level)(model, x).float()


def outputs_for(
    model: torch.nn.Module,
    asked: str | Sequence[str],
    example: torch.Tensor,
    *,
    level: int = -1,
    units: str = "",
    classes: Sequence[str] | None = None,
    cube: Cube | None = None,
) -> Outputs:
    """Find out by one tile what a model gives, and what of it is written.

    >>> from geowb.models import build
    >>> outputs = outputs_for(build("unet").eval(), "auto", torch.zeros(1, 6, 1, 64, 64))
    >>> [(output.name, output.dtype) for output in outputs]
    [('values', 'float32')]

    Parameters
    ----------
    asked
        ``auto`` is ``values`` for one channel and ``classes`` for several.
    example
        A tile ``(1, C, T, H, W)``, as it will be.
    level
        Which of the encoder's maps is the embedding; the last by default.
    units, classes
        Beside what the model's card says.
    cube
        How an embedding lies in a Zarr, if not as ``(y, x, channel)``.
    """
    import torch

    names = [asked] if isinstance(asked, str) else list(asked)
    _check_names(names)
    way = _ways(names[0], level)
    channels, scale = _shape(_tried(way, model, example), example)
    if scale > 1:  # of 36 pixels a model that pads makes 4 tokens too, of 8 pixels each
        larger = torch.nn.functional.pad(example, (0, example.shape[-1], 0, example.shape[-2]))
        if _shape(_tried(way, model, larger), larger)[1] != scale:
            raise _not_a_multiple(example)
    if names == ["auto"]:
        names = ["values" if channels == 1 else "classes"]
    card = getattr(model, "card", {})
    units = units or card.get("units", "")
    known = list(classes if classes is not None else card.get("classes") or [])
    if known and channels != len(known) and names[0] in _FAMILIES[1]:
        raise RequestError(f"The model has {channels} classes, but {len(known)} names are given.")
    if channels == 1 and names[0] in _FAMILIES[1]:
        raise RequestError(f"The model gives one value a pixel, no {names[0]}: ask for values.")
    wanted = [_output(name, channels, units, known) for name in dict.fromkeys(names)]
    if cube is not None:
        wanted = [replace(one, cube=cube, attrs=one.attrs | cube.attrs) for one in wanted]
    return Outputs(tuple(wanted), channels, scale, level)


def _check_names(names: Sequence[str]) -> None:
    known = ("auto", *(name for family in _FAMILIES for name in family))
    for name in names:
        if name not in known:
            raise RequestError(f"There is no output '{name}'. {did_you_mean(name, known)}")
    if names != ["auto"] and not any(set(names) <= set(family) for family in _FAMILIES):
        raise RequestError(
            f"The outputs {', '.join(names) or '(none)'} cannot be had in one pass: ask for "
            "classes, probabilities and confidence together, for values or embedding alone."
        )


def _ways(name: str, level: int) -> Callable[[torch.nn.Module, torch.Tensor], torch.Tensor]:
    """Return the function that runs a model for an output."""
    if name == "embedding":

        def features(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
            found = model.features(x)
            return found[level] if isinstance(found, (list, tuple)) else found

        return features
    if name in _FAMILIES[1]:
        return lambda model, x: model(x).float().softmax(dim=1)
    return lambda model, x: model(x)


def _tried(way: Callable[..., torch.Tensor], model: torch.nn.Module, x: torch.Tensor) -> Any:
    import torch

    try:
        with torch.inference_mode():
            return way(model, x)
    except (RuntimeError, TypeError, IndexError, ValueError, AttributeError) as error:
        raise ModelError(
            f"The model cannot take a tile {tuple(x.shape)} (batch, bands, dates, y, x): {error}"
        ) from error


def _not_a_multiple(example: torch.Tensor) -> ModelError:
    height, width = example.shape[-2:]
    return ModelError(
        f"A tile of {height} x {width} pixels is no multiple of the model's patch: choose one."
    )


def _shape(given: torch.Tensor, example: torch.Tensor) -> tuple[int, int]:
    """Channels, and pixels of a tile to one of the output."""
    height, width = example.shape[-2:]
    if getattr(given, "ndim", 0) != 4:
        kind = tuple(getattr(given, "shape", ())) or type(given).__name__
        raise ModelError(
            f"A model gives (batch, channels, y, x); this one gave {kind}. Of a model that was "
            "pretrained by masking, ask for the embedding."
        )
    scale = height // max(1, given.shape[-2])
    if scale < 1 or given.shape[-2] * scale != height or given.shape[-1] * scale != width:
        raise _not_a_multiple(example)
    return given.shape[1], scale


def _output(name: str, channels: int, units: str, classes: Sequence[str]) -> Output:
    meanings: Mapping[str, Any] = {}
    if classes:
        named = " ".join("_".join(str(one).split()) for one in classes)
        meanings = {"flag_values": list(range(channels)), "flag_meanings": named}
    if name == "classes":
        small = channels < 255
        dtype, nodata = ("uint8", 255) if small else ("int16", -1)
        attrs = {"long_name": "predicted class", **meanings}
        return Output(name, dtype, 1, nodata, attrs)
    nan = float("nan")
    if name == "probabilities":
        attrs = {"long_name": "probability", "units": "1"}
        return Output(name, "float32", channels, nan, attrs, tuple(map(str, classes)))
    if name == "confidence":
        attrs = {"long_name": "probability of the predicted class", "units": "1"}
        return Output(name, "float32", 1, nan, attrs)
    attrs = {"long_name": "predicted" if name == "values" else "embedding"}
    return Output(name, "float32", channels, nan, {**attrs, **({"units": units} if units else {})})
