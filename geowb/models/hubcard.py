"""What the Hugging Face hub is told of a model: ``config.json`` and the model card."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geowb import __version__
from geowb.models.registry import MODELS
from geowb.paths import sha256

if TYPE_CHECKING:
    from torch import nn

__all__ = ["About", "config", "readme"]

#: Units of what a model costs, which is no result of an evaluation.
_COSTS = {"parameters", "s", "MB"}
_SWIN = "Liu et al. (2021), Swin Transformer, https://arxiv.org/abs/2103.14030"
_UNET = "Ronneberger et al. (2015), U-Net, https://arxiv.org/abs/1505.04597"
_UPERNET = "Xiao et al. (2018), UPerNet, https://arxiv.org/abs/1807.10221"
_PRITHVI = "Jakubik et al. (2023), Prithvi, https://arxiv.org/abs/2310.18660"
_TERRATORCH = "Gomes et al. (2025), TerraTorch, https://arxiv.org/abs/2503.20563"
#: What to cite, by the family of the model and whether it is one for masked pretraining.
_CITE = {
    ("unet", False): [
        _UNET,
        "Muszynski et al. (2024), Fine-tuning of Geospatial Foundation Models for Aboveground "
        "Biomass Estimation, https://arxiv.org/abs/2406.19888",
    ],
    ("smp", False): [
        _UNET,
        "Iakubovskii (2019), Segmentation Models PyTorch, "
        "https://github.com/qubvel-org/segmentation_models.pytorch",
    ],
    ("swin", False): [_SWIN, _UPERNET, _TERRATORCH],
    ("swin", True): [
        _SWIN,
        "Xie et al. (2022), SimMIM, https://arxiv.org/abs/2111.09886",
        _TERRATORCH,
    ],
    ("prithvi", False): [_PRITHVI, _TERRATORCH],
    ("prithvi", True): [
        _PRITHVI,
        "He et al. (2021), Masked Autoencoders, https://arxiv.org/abs/2111.06377",
        _TERRATORCH,
    ],
}


@dataclass
class About:
    """All that is known of a model that is to be published.

    >>> About(card={"name": "unet", "bands": ["RED"], "task": "regression"}).simulated
    False
    """

    card: dict[str, Any]
    file: Path = Path("model.safetensors")
    run: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    repo_id: str = "OWNER/NAME"
    licence: str = "apache-2.0"
    title: str = ""
    description: str = ""
    trained: bool = True

    @property
    def name(self) -> str:
        """Name of the model in geowb."""
        return self.card["name"]

    @property
    def masked(self) -> bool:
        """Whether it is a model for masked pretraining."""
        return self.card.get("kind") == "masked"

    @property
    def family(self) -> str:
        """Which code builds it."""
        return MODELS[self.name].family if self.name in MODELS else ""

    @property
    def architecture(self) -> str:
        """Title of the model in geowb, with its own decoder; a masked model's is not named."""
        title = MODELS[self.name].title if self.name in MODELS else self.name
        encoder, upernet, _ = title.partition(", UPerNet")
        if upernet and self.card.get("decoder") == "linear":
            return f"{encoder}, one linear layer"
        return encoder if self.masked else title

    @property
    def classes(self) -> list[str]:
        """Names of the classes; none for a quantity."""
        return list(self.card.get("classes") or ())

    @property
    def pipeline(self) -> str | None:
        """The hub's name of the task; it has none for a quantity a pixel."""
        if self.masked:
            return "image-feature-extraction"
        return "image-segmentation" if self.classes else None

    @property
    def trained_on(self) -> dict[str, Any]:
        """What the model's file says of its training data."""
        return self.card.get("trained_on") or {}

    @cached_property
    def entries(self) -> dict[str, Any]:
        """Catalog entries that it was trained on, by name; None where geowb's has it not."""
        from geowb.catalog import open_catalog

        named = self.trained_on.get("data") or self.trained_on.get("entry") or []
        catalog = open_catalog()
        names = [named] if isinstance(named, str) else named
        return {name: catalog[name].entry if name in catalog else None for name in names}

    @property
    def world_version(self) -> str:
        """Version of the simulated world, where it is known."""
        read = self.trained_on.get("provenance") or self.run.get("data", {}).get("data", {})
        return str(self.trained_on.get("world_version") or read.get("world_version") or "")

    @property
    def simulated(self) -> bool:
        """Whether it was trained on the simulated world."""
        drivers = [entry.driver.name for entry in self.entries.values() if entry]
        return bool(self.world_version) or "world" in drivers

    @cached_property
    def figures(self) -> list[Path]:
        """Pictures that lie beside the model."""
        return sorted(file for file in self.file.parent.glob("*.png") if file.is_file())

    @property
    def datasets(self) -> dict[str, str]:
        """Entries by the name that the hub has for them, or geowb's where it has none."""
        start = "https://huggingface.co/datasets/"
        urls = {n: str(e.metadata.source_url) if e else "" for n, e in self.entries.items()}
        return {
            name: url.removeprefix(start).strip("/") if url.startswith(start) else f"geowb-{name}"
            for name, url in urls.items()
        }


def config(about: About, model: nn.Module) -> str:
    """Text of ``config.json``: what tools of the hub look for, taken from the model's card.

    Shapes are those of one call: chips ``(batch, bands, dates, y, x)`` in counts.
    """
    card = about.card
    chips = ["batch", len(card["bands"]), card["frames"], *_sides(card)]
    held: dict[str, Any] = {
        "model_type": f"geowb-{about.name.replace('_', '-')}",
        "architectures": [type(model).__name__],
        "library_name": "geowb",
        "task": "masked-image-modeling" if about.masked else card.get("task"),
        "bands": card["bands"],
        "mean": card["mean"],
        "std": card["std"],
        "input": {"shape": chips, "dtype": "float32", "units": "reflectance x 10000"},
        "output": {"shape": chips, "units": "reflectance x 10000"}
        if about.masked
        else {
            "shape": ["batch", card["outputs"], "height", "width"],
            "units": "class scores" if about.classes else card.get("units", ""),
        },
        "parameters": sum(value.numel() for value in model.parameters()),
    }
    if about.classes:
        held["id2label"] = {str(number): name for number, name in enumerate(about.classes)}
        held["label2id"] = {name: number for number, name in enumerate(about.classes)}
    if about.masked:
        held |= {key: card[key] for key in ("size", "unit", "mask_ratio") if key in card}
    return json.dumps(held, indent=2) + "\n"


def _sides(card: Mapping[str, Any]) -> list[Any]:
    size = card.get("size")
    return [size, size] if size else ["height", "width"]


def readme(about: About) -> str:
    """Text of the model card: YAML front matter for the hub, and a page for a person.

    >>> readme(About(card=card)).splitlines()[0]  # doctest: +SKIP
    '---'
    """
    from huggingface_hub import ModelCard

    from geowb.models import hubtexts

    sources = list(_CITE.get((about.family, about.masked), ()))
    if about.card.get("decoder") == "linear":
        sources = [source for source in sources if source != _UPERNET]
    spec = MODELS.get(about.name)
    known = [about.card.get("source"), about.card.get("citation")]
    sources += [source for source in known if source]
    source = f" ({spec.source})" if spec and spec.source else ""
    card = ModelCard.from_template(
        _front_matter(about),
        template_path=str(Path(__file__).with_name("model_card.md.j2")),
        title=about.title or hubtexts.title(about),
        what=about.description or hubtexts.what(about),
        figures=[file.name for file in about.figures],
        facts=_cells(hubtexts.facts(about)),
        limits=hubtexts.limits(about),
        snippet=hubtexts.snippet(about),
        metrics=[list(map(_cell, row)) for row in hubtexts.metrics(about)],
        data=_cells(hubtexts.data(about)),
        training=_cells(hubtexts.training(about)),
        command=_command(about.run),
        curve=hubtexts.curve(about.card),
        provenance=_cells(_provenance(about)),
        architecture=f"{about.architecture}{source}",
        sources=sources or ["geowb"],
        one_run=bool(about.run),
    )
    return card.content.rstrip() + "\n"


def _front_matter(about: About) -> Any:
    from huggingface_hub import EvalResult, ModelCardData

    results = []
    for row in about.metrics:
        if row["value"] is None or row.get("unit") in _COSTS:
            continue
        data, unit = row.get("data") or "not recorded", row.get("unit") or ""
        known = [hubs for name, hubs in about.datasets.items() if name in data.split()]
        result = EvalResult(
            task_type=about.pipeline or "pixel-regression",
            dataset_type=known[0] if known else "other",
            dataset_name=data,
            dataset_config=data,  # the hub's tools merge results whose type and config are the same
            metric_type=row["name"].split("/")[0],
            metric_name=row["name"] + (f" ({unit})" if unit not in ("", "1") else ""),
            metric_value=row["value"],
        )
        results.append(result)
    kind = "masked-autoencoder" if about.masked else about.card.get("task")
    tags = ["geowb", "geospatial", "earth-observation", "remote-sensing", about.name, kind]
    return ModelCardData(
        license=about.licence,
        library_name="geowb",
        pipeline_tag=about.pipeline,
        tags=[tag for tag in [*tags, "simulated-data" if about.simulated else ""] if tag],
        datasets=list(about.datasets.values()) or None,
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=about.repo_id.split("/")[1],
        eval_results=results or None,
    )


def _provenance(about: About) -> dict[str, Any]:
    return {
        "geowb that trained it": about.card.get("geowb"),
        "geowb that published it": __version__,
        "run": about.run.get("name") or about.card.get("run"),
        "commit": about.run.get("commit"),
        "model.safetensors": f"{about.file.stat().st_size:,} bytes, sha256 `{sha256(about.file)}`",
    }


def _command(run: Mapping[str, Any]) -> str:
    """Command that repeats the study."""
    lines = [f"geowb run {run.get('study')}"]
    for name, value in run.get("parameters", {}).items():
        text = value if isinstance(value, str) else json.dumps(value)
        lines.append(f"-p {shlex.quote(f'{name}={text}')}")
    return " \\\n  ".join(lines) if run.get("study") else ""


def _cells(rows: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rows of a table without those that say nothing."""
    return [(name, _cell(value)) for name, value in rows.items() if value not in (None, "", [], {})]


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        value = [f"{name}: {_cell(held)}" for name, held in value.items()]
    if isinstance(value, list):
        row = len(value) > 3 and all(isinstance(v, int) for v in value)
        row = row and value == list(range(value[0], value[-1] + 1))
        value = f"{value[0]} to {value[-1]}" if row else ", ".join(map(str, value))
    return str(value).replace("|", "\\|").replace("\n", " ")
