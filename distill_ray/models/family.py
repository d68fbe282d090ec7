"""What a family of architectures is: the pattern of its names, and where its members are built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


def any_images(image_shape: tuple[int, int, int], **arguments: Any) -> None:
    """For families that take images of every size."""


def at_least(side: int, image_shape: tuple[int, int, int]) -> None:
    """Raise `ValueError` when images (C, H, W) are smaller than `side` in either direction."""
    _, height, width = image_shape
    if min(height, width) < side:
        raise ValueError(f"takes images of at least {side}x{side} pixels, found {height}x{width}")


@dataclass(frozen=True)
class ModelFamily:
    """Architectures whose names follow one pattern. Free of torch, so that a study file is checked without it.

    `pattern` is for people. `expression` is a regular expression for the whole name; `arguments` turns its groups into the
    keyword arguments of the builder, and `check_images` looks at an image shape (C, H, W) with those arguments: both raise
    `ValueError` with the reason where something does not fit.

    `builder` is `"module:function"`, imported at first use. The function takes `image_shape`, `num_classes` and the arguments,
    and returns the features, a chain of units from images to vectors (B, D), and the classifier, a linear layer of D inputs.

    Another package adds a family by an entry point of group `distill_ray.model` that loads an instance of this class.
    """

    pattern: str
    expression: str
    examples: tuple[str, ...]
    builder: str
    arguments: Callable[..., dict[str, Any]] = dict
    check_images: Callable[..., None] = any_images
