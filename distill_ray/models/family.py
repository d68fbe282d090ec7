"""What a family of architectures is: the pattern of its names, and where its members are built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from distill_ray.registry import Registry


def any_images(image_shape: tuple[int, int, int], **arguments: Any) -> None:
    """For families that take images of every size."""


def one_unit(**arguments: Any) -> int:
    """For families whose features cannot be cut."""
    return 1


def always(**arguments: Any) -> bool:
    """For families all of whose members have a property."""
    return True


def never(**arguments: Any) -> bool:
    """For families none of whose members has a property."""
    return False


def at_least(side: int, image_shape: tuple[int, int, int]) -> None:
    """Raise `ValueError` when images (C, H, W) are smaller than `side` in either direction."""
    _, height, width = image_shape
    if min(height, width) < side:
        raise ValueError(f"takes images of at least {side}x{side} pixels, found {height}x{width}")


@dataclass(frozen=True)
class Size:
    """How large a network for 100 classes is: its trained weights, and the multiply-adds of one
    image of 3x32x32 through it.
    """

    weights: int
    multiply_adds: int


@dataclass(frozen=True)
class ModelFamily:
    """Architectures whose names follow one pattern. Free of torch, so that a study file is checked
    without it.

    `pattern` is for people. `expression` is a regular expression for the whole name; `arguments`
    turns its groups into the keyword arguments of the builder, and `check_images` looks at an image
    shape (C, H, W) with those arguments: both raise `ValueError` with the reason where something
    does not fit.

    `builder` is `"module:function"`, imported at first use. The function takes `image_shape`,
    `num_classes` and the arguments, and returns a `network.Architecture`.

    What transformations ask: `units` tells how many units the features have (see
    `network.Network.units`), `plain_layers` whether all trained parameters are in convolutions,
    linear layers and batch normalisation. Both take the arguments. More than one unit is a promise
    that all units after the first have such layers only, and tell channels apart by nothing but
    these and a `layers.HeadwiseOperation`, so that heads can be computed side by side.

    `dense` tells whether networks spend their time in products of large matrices, which half
    precision speeds up on a CPU, and not in grouped or depthwise convolutions, nor in converting
    weights that images are too small to use often. It takes `side`, the shorter side of the images
    in pixels, and the arguments.

    What `docs/models.md` says, in Markdown: `help` tells what the family is, its first paragraph in
    one sentence for the overview, the others in detail; `source` names the paper, or the code that
    it follows; `sizes` has those examples whose size is known.

    Another package adds a family by an entry point of group `distill_ray.model` that loads an
    instance of this class.
    """

    pattern: str
    expression: str
    examples: tuple[str, ...]
    builder: str
    arguments: Callable[..., dict[str, Any]] = dict
    check_images: Callable[..., None] = any_images
    units: Callable[..., int] = one_unit
    plain_layers: Callable[..., bool] = always
    dense: Callable[..., bool] = always
    help: str = ""
    source: str = ""
    sizes: Mapping[str, Size] = field(default_factory=dict)


FAMILIES: Registry[ModelFamily] = Registry("model")
"""Every family by its pattern, or by the name of its entry point."""
