"""Which networks there are, and how one is made from its name. Names are checked without torch."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import distill_ray.models.families  # noqa: F401  (it registers its families)
from distill_ray._lazy import LazyModule
from distill_ray.models.family import FAMILIES, ModelFamily
from distill_ray.models.preprocessing import Preprocessing
from distill_ray.task import Task

if TYPE_CHECKING:
    import torch

    from distill_ray.models import network
else:
    torch = LazyModule("torch")
    network = LazyModule("distill_ray.models.network")


def check_model_name(name: str, image_shape: tuple[int, int, int] | None = None) -> None:
    """Raise `ValueError` with the reason when no network is called `name`, or when it cannot take
    images of that (C, H, W).
    """
    family, arguments = family_of(name)
    if image_shape is not None:
        try:
            family.check_images(image_shape, **arguments)
        except ValueError as error:
            raise ValueError(f"model {name!r} {error}") from None


def trains_on_one_image(name: str, image_shape: tuple[int, int, int]) -> bool:
    """Whether the network called `name` can be trained on a batch of one image; batch
    normalisation cannot where a map has one pixel. Builds the network.
    """
    built = build_model(name, num_classes=2, image_shape=image_shape, seed=0)
    try:
        built.train()(torch.zeros(1, *image_shape))
    except ValueError:
        return False
    return True


def check_batch_ensemble(name: str) -> None:
    """Raise `ValueError` with the reason when the network called `name` cannot become a
    BatchEnsemble.
    """
    family, arguments = family_of(name)
    if not family.plain_layers(**arguments):
        raise ValueError(
            f"model {name!r} cannot become a BatchEnsemble: it has layers that are neither "
            "convolutions nor linear layers nor "
            "batch normalisation"
        )


def check_multi_head(name: str, depth: int = 0) -> None:
    """Raise `ValueError` with the reason when the network called `name` cannot have heads of
    `depth` units.
    """
    family, arguments = family_of(name)
    units = family.units(**arguments)
    if not 0 <= depth < units:
        raise ValueError(
            f"model {name!r} cannot become multi-head with depth {depth}: it has {units} "
            "units, and one at least must be shared"
        )


def is_dense(name: str, side: int) -> bool:
    """Whether the network called `name` spends its time in products of large matrices, where `side`
    is the shorter side of its images in pixels.
    """
    family, arguments = family_of(name)
    return family.dense(side=side, **arguments)


def unit_count(name: str) -> int:
    """How many units the features of the network called `name` are a chain of."""
    family, arguments = family_of(name)
    return family.units(**arguments)


def model_names() -> list[str]:
    """Examples of every family, sorted: every name of those with fixed names, typical ones of those
    with numbers.
    """
    return sorted(example for family in model_families() for example in family.examples)


def build_model(
    name: str,
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    seed: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    preprocessing: Preprocessing | None = None,
    task: Task = "classification",
) -> network.Network:
    """The network called `name` for images (C, H, W) in [0, 1], with weights that are a pure
    function of `seed`.

    `num_classes` counts its outputs, whose meaning `task` tells. `mean` and `std`, one value per
    channel, become its first operation; without them images go in as they are. What else
    `preprocessing` asks comes before; its own mean and std are not read here. The global random
    state is left as it was. Raises `ValueError` as `check_model_name` does, and for a mean or std
    of the wrong length.
    """
    channels = image_shape[0]
    if preprocessing is not None and preprocessing.size is not None:
        image_shape = (channels, preprocessing.size, preprocessing.size)
    check_model_name(name, image_shape)
    family, arguments = family_of(name)
    mean = [0.0] * channels if mean is None else mean
    std = [1.0] * channels if std is None else std
    if not len(mean) == len(std) == channels:
        raise ValueError(
            f"mean and std need one value for each of {channels} channels, found {len(mean)} "
            f"and {len(std)}"
        )
    module, function = family.builder.split(":")
    builder = getattr(importlib.import_module(module), function)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        architecture: network.Architecture = builder(
            image_shape=image_shape, num_classes=num_classes, **arguments
        )
        architecture.draw(architecture.features)
        architecture.draw(architecture.classifier)
    return network.Network(
        name, seed, network.Normalise(mean, std, preprocessing), architecture, task
    )


def family_of(name: str) -> tuple[ModelFamily, dict[str, Any]]:
    """The family that the network called `name` is of, and the builder's arguments. Raises
    `ValueError` for other names.
    """
    for family in model_families():
        match = re.fullmatch(family.expression, name)
        if match:
            return family, family.arguments(*match.groups())
    near = difflib.get_close_matches(name, model_names(), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    if own := re.fullmatch(r"([A-Za-z_]\w*)/\w+(@\w+)?", name):
        hint += f"; a network in a file of yours needs --extension {own[1]}.py"
    raise ValueError(
        f"unknown model {name!r}{hint} (known: "
        f"{', '.join(family.pattern for family in model_families())})"
    )


def model_families() -> Iterator[ModelFamily]:
    """Every family, those of this package first, then those of others."""
    yield from FAMILIES.values()
