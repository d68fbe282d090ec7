"""Which networks there are: names, the rules that names obey, and where each is built. Free of torch."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distill_ray._lazy import LazyModule
from distill_ray.registry import Registry

if TYPE_CHECKING:
    import torch

    from distill_ray.models import network
else:
    torch = LazyModule("torch")
    network = LazyModule("distill_ray.models.network")


@dataclass(frozen=True)
class ModelFamily:
    """Architectures whose names follow one pattern.

    `pattern` is for people, `expression` (a regular expression, matched against the whole name) for us; `arguments` turns its
    groups into the keyword arguments of the builder, or raises `ValueError` with the reason why they do not fit. `builder` is
    `"module:function"`, imported at first use; the function takes `image_shape` (C, H, W), `num_classes` and those arguments,
    and returns the features (a chain of units, images to vectors (B, D)) and the classifier. Images must be at least
    `smallest_side` pixels high and wide.

    Another package adds a family with an entry point of group `distill_ray.model` that loads an instance of this class.
    """

    pattern: str
    expression: str
    examples: tuple[str, ...]
    builder: str
    arguments: Callable[..., dict[str, Any]]
    smallest_side: int = 1


def check_model_name(name: str, image_shape: tuple[int, int, int] | None = None) -> None:
    """Raise `ValueError` with the reason when no network is called `name`, or when it cannot take images of that shape."""
    family, _ = _resolve(name)
    if image_shape is not None and min(image_shape[1:]) < family.smallest_side:
        height, width = image_shape[1:]
        side = family.smallest_side
        raise ValueError(f"model {name!r} takes images of at least {side}x{side} pixels, found {height}x{width}")


def model_names() -> list[str]:
    """Examples of every family, sorted: every name of those with fixed names, typical ones of those with numbers."""
    return sorted(example for family in _families() for example in family.examples)


def build_model(
    name: str,
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    seed: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> network.Network:
    """The network called `name` for images (C, H, W) in [0, 1], with weights that are a pure function of `seed`.

    `mean` and `std`, one value per channel, become its first operation; without them images go in as they are. The global
    random state is left as it was. Raises `ValueError` as `check_model_name` does, and for a mean or std of the wrong length.
    """
    check_model_name(name, image_shape)
    family, arguments = _resolve(name)
    channels = image_shape[0]
    mean = [0.0] * channels if mean is None else mean
    std = [1.0] * channels if std is None else std
    if not len(mean) == len(std) == channels:
        raise ValueError(f"mean and std need one value for each of {channels} channels, found {len(mean)} and {len(std)}")
    module, function = family.builder.split(":")
    builder = getattr(importlib.import_module(module), function)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        features, classifier = builder(image_shape=image_shape, num_classes=num_classes, **arguments)
    return network.Network(name, network.Normalise(mean, std), features, classifier)


def _resolve(name: str) -> tuple[ModelFamily, dict[str, Any]]:
    for family in _families():
        found = re.fullmatch(family.expression, name)
        if found:
            return family, family.arguments(*found.groups())
    near = difflib.get_close_matches(name, model_names(), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"unknown model {name!r}{hint} (known: {', '.join(family.pattern for family in _families())})")


def _families() -> Iterator[ModelFamily]:
    yield from OWN_FAMILIES
    yield from FAMILIES.values()


def _wide(depth: str, width: str) -> dict[str, Any]:
    if int(depth) < 10 or (int(depth) - 4) % 6:
        raise ValueError(f"depth {depth} does not fit wrn-d-k: d - 4 must be a multiple of 6 (10, 16, 22, 28, 40)")
    return {"depth": int(depth), "width": int(width)}


FAMILIES: Registry[ModelFamily] = Registry("model")
"""The families of other packages, searched when a name fits none of ours."""

OWN_FAMILIES = (
    ModelFamily(
        pattern="wrn-d-k",
        expression=r"wrn-([1-9]\d*)-([1-9]\d*)",
        examples=("wrn-10-1", "wrn-16-2", "wrn-28-4", "wrn-28-10", "wrn-40-2"),
        builder="distill_ray.models.wide_resnet:wide_resnet",
        arguments=_wide,
    ),
)
