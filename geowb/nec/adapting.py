"""Adapt a pretrained encoder to compression: masked reconstruction plus the rate of its embedding.

>>> adapt("prithvi_demo", "codecs", lambdas=[10, 100])  # doctest: +SKIP

The loss is ``bits per element + lambda * mean square error`` (normalised units) of the masked
reconstruction from a noisy embedding (Gomes and Brunschwiler 2024, whose code adds the bits of a
whole batch instead: their lambda is this one times the elements of a batch, 3.9e7 of 1,024 images).

Of each codec

1. the width of a step is chosen: the embedding is scaled by the factor, one of powers of the square
   root of 2, that costs least when it is rounded as it is (`CompressedMAE.rescale`);
2. the prior is fitted to the embeddings that the encoder gives;
3. encoder and prior are trained together, 2.5 % of the pretraining's steps or fewer;
4. the prior is fitted again, and frozen into tables.

Only 3 runs the network forwards and backwards, and counts as iterations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from geowb.errors import RequestError, did_you_mean
from geowb.locks import held
from geowb.models.checks import check_accelerator
from geowb.nec.bases import open_base
from geowb.nec.making import Adaptation, Making
from geowb.pretrain.archive import write_archive
from geowb.pretrain.recipes import Recipe
from geowb.pretrain.recipes import recipe as standard
from geowb.pretrain.sampling import Sampling
from geowb.tasks import check_workers
from geowb.workfolders import WorkFolder

__all__ = ["SHARE", "Adaptation", "adapt"]

#: Most steps to one of the pretraining: the paper's are 20 of 1,600 epochs, in batches of half the
#: size. It is a bound of steps, not of images: batches may be of another size than in pretraining.
SHARE = 0.025
#: What adapting makes in its folder, and what a process that was killed may have left there.
_WORK = WorkFolder(
    kind="adaptation",
    record="adapting.json",
    made=("chips.zarr", "lambda-*"),
    leftovers=(".chips.zarr*", ".*.partial"),
)


def adapt(
    base: str | Path,
    folder: str | Path,
    lambdas: Sequence[float],
    *,
    weights: str = "",
    steps: int | None = None,
    sampling: Mapping[str, Any] | None = None,
    workers: int | None = None,
    accelerator: str = "auto",
    force: bool = False,
    progress: bool = True,
    **values: Any,
) -> list[Path]:
    """Make a codec for each of a list of trade-offs; the same call again goes on where it stopped.

    >>> adapt("mae_demo", "codecs", [1, 10, 100])  # doctest: +SKIP
    [PosixPath('/.../codecs/lambda-1'), ..., PosixPath('/.../codecs/lambda-100')]

    Parameters
    ----------
    base, weights
        As for `geowb.nec.bases.open_base`.
    lambdas
        What a unit of mean square error is worth, in bits per element; a larger one gives a better
        and larger embedding.
    steps
        Iterations; by default, and at most, 2.5 % of those that the encoder was pretrained with,
        where its file says how many these were.
    sampling
        Fields of `geowb.pretrain.Sampling` that are not as in the pretraining; size, dates and
        bands are the model's.
    **values
        The other fields of `Adaptation`.

    Returns
    -------
    list of Path
        Folders of the codecs, as `geowb.nec.load_codec` takes them.

    Raises
    ------
    RequestError
        For values that cannot be, more steps than 2.5 %, a folder of other codecs.
    """
    lambdas = [float(one) for one in lambdas]
    names = [f"lambda-{one:g}" for one in lambdas]
    if not lambdas or len(set(names)) < len(names) or not all(0 < x < 1e15 for x in lambdas):
        raise RequestError(
            f"lambdas are {lambdas}: numbers above 0 and below 1e15, each once, also by the six "
            "digits in a folder's name."
        )
    check_workers(workers)
    if problems := check_accelerator(accelerator):
        raise RequestError(problems[0])
    model, said = open_base(base, weights)
    how = Adaptation(_steps(steps, model.card, str(base)), **values)
    folder = Path(folder).expanduser().absolute()
    recipe = _recipe(model.card, how, sampling)
    recipe.sampling.scenes()  # refuses what is not in the catalog
    asked = {"base": said, "adaptation": asdict(how), "sampling": recipe.sampling.to_dict()}
    with held(folder.with_name(f".{folder.name}.lock")) as mine:
        if not mine:
            raise RequestError(f"Another process adapts in {folder}: wait until it has ended.")
        _WORK.claim(folder, asked, force=force)
        made = [folder / name for name in names]
        if all((one / "codec.json").is_file() for one in made):
            return made
        sampled = {"workers": workers, "progress": progress}
        archive = write_archive(recipe.sampling, folder / "chips.zarr", **sampled)
        for each, one in zip(lambdas, made, strict=True):
            if not (one / "codec.json").is_file():
                making = Making(model, each, one, how, recipe, archive, progress)
                making.go(asked, accelerator)
    return made


def _steps(steps: int | None, card: dict[str, Any], base: str) -> int:
    """Check the number of steps against those of the pretraining."""
    known = card.get("training", {}).get("recipe", {}).get("steps")
    if known is None:
        if steps is None:
            raise RequestError(
                f"It is not known how long '{base}' was pretrained: say how many steps it is "
                "adapted for (steps=..., --steps)."
            )
        return steps
    most = math.floor(SHARE * known)
    wanted = most if steps is None else steps
    if not 1 <= wanted <= most:
        raise RequestError(
            f"{wanted} steps for an encoder that was pretrained for {known:,}: at least 1 and at "
            f"most {SHARE:.1%} of them, {most}, count as adapting."
        )
    return wanted


def _recipe(card: dict[str, Any], how: Adaptation, changes: Mapping[str, Any] | None) -> Recipe:
    """Chips and masks as in the pretraining; no more chips than are seen, and no gains."""
    trained = card.get("training", {}).get("recipe")
    chips = Sampling(**trained["sampling"]) if trained else standard(card["name"]).sampling
    known = [field.name for field in fields(Sampling)]
    if unknown := [name for name in changes or {} if name not in known]:
        raise RequestError(f"sampling has no '{unknown[0]}'. {did_you_mean(unknown[0], known)}")
    own = {"size": card["size"], "frames": card["frames"], "bands": card["bands"]}
    found = replace(
        standard(card["name"]),
        sampling=replace(chips, **{**(changes or {}), **own}),
        held_out=None,
        mask_ratio=card["mask_ratio"],
        jitter=0.0,
        batch_size=how.batch_size,
        steps=how.steps,
        seed=how.seed,
    )
    wanted = changes and {"count", "seeds"} & changes.keys()
    return found if wanted else found.shortened(how.steps)
