"""Crop, flip and rotation with their draws: the standard augmentation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from distill_ray.augmentation.draws import Per, integers
from distill_ray.augmentation.kernels.geometry import Grid, fixed_point, rotation
from distill_ray.augmentation.source import BatchSource


@dataclass(frozen=True)
class CropFlipRotate:
    """Settings of crop, flip and rotation: in this order a crop out of a black border of `padding`
    pixels (unset: an eighth of the shorter side), a flip with probability one half, a rotation by
    up to `rotation` degrees; or in the opposite order.
    """

    padding: int | None = 0
    flip: bool = False
    rotation: float = 0.0
    rotate_first: bool = False


def images(
    source: BatchSource,
    settings: CropFlipRotate,
    positions: NDArray[np.int64] | None = None,
    stream: str | None = None,
) -> Tensor:
    """The share's images, or those of `positions` (B,), after crop, flip and rotation: uint8 (B, C,
    H, W).

    Every image gets the draws of its own position, the same in whatever share it is asked for; with
    a `stream` it gets those of that name at the place it takes in this share, independent of its
    own.
    """
    if stream is None:
        return change(source, source.images(positions), settings, "", at=positions)
    return change(source, source.images(positions), settings, stream)


def change(
    source: BatchSource,
    images: Tensor,
    settings: CropFlipRotate,
    stream: str,
    per: Per = "image",
    at: NDArray[np.int64] | None = None,
) -> Tensor:
    """`images` (B, C, H, W) after the augmentation, by draws of the name `stream` for this share,
    or for the positions `at`.
    """
    height, width = images.shape[2:]
    border = max(1, round(min(height, width) / 8)) if settings.padding is None else settings.padding

    def crop(grid: Grid) -> Grid:
        if not border:
            return grid
        return grid.shift(
            source.tensor(
                integers(source.uniform(f"{stream}crop", 2, per, at), 2 * border + 1) - border
            )
        )

    def flip(grid: Grid) -> Grid:
        return (
            grid.mirror(source.tensor(source.uniform(f"{stream}flip", 1, per, at)[:, 0] < 0.5))
            if settings.flip
            else grid
        )

    def rotate(grid: Grid) -> Grid:
        if not settings.rotation:
            return grid
        degrees = (
            2 * source.uniform(f"{stream}rotation", 1, per, at)[:, 0] - 1
        ) * settings.rotation
        return grid.affine(source.tensor(fixed_point(rotation(degrees, height, width))))

    grid = Grid.of(images)
    # From the result back
    for step in (crop, flip, rotate) if settings.rotate_first else (rotate, flip, crop):
        grid = step(grid)
    return grid.show(images)
