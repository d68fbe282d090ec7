"""Crop, flip and rotation with their draws: the standard augmentation."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from distill_ray.augmentation.draws import Per, integers
from distill_ray.augmentation.kernels import opencv
from distill_ray.augmentation.kernels.geometry import Grid, fixed_point, rotation
from distill_ray.augmentation.source import BatchSource


@dataclass(frozen=True)
class CropFlipRotate:
    """Settings of crop, flip and rotation: in this order a crop out of a black border of `padding`
    pixels (unset: an eighth of the shorter side), a flip with probability one half, a rotation by
    up to `rotation` degrees; or in the opposite order.

    Where images are kept larger than networks see them, a random window of them comes first unless
    `padding` is 0, and unset there is no border.
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
    name, at = ("", positions) if stream is None else (stream, None)
    if not any(source.margin) or settings.padding == 0:
        return change(source, source.images(positions), settings, name, at=at)
    # There is no need for a border where the images are larger
    windows = _windows(source, source.whole_images(positions), name, at)
    padding = settings.padding or 0
    return change(source, windows, replace(settings, padding=padding), name, at=at)


def _windows(
    source: BatchSource, whole: Tensor, stream: str, at: NDArray[np.int64] | None
) -> Tensor:
    """A random window of each of the `whole` images (B, C, H, W), in the size that networks see."""
    height, width = source.shape
    corners = source.uniform(f"{stream}window", 2, positions=at) * (np.array(source.margin) + 1)
    result = whole.new_empty((len(whole), *source.shape, whole.shape[1])).permute(0, 3, 1, 2)
    for number, (top, left) in enumerate(corners.astype(np.int64).tolist()):
        result[number] = whole[number, :, top : top + height, left : left + width]
    return result


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

    offset, mirrored, turned = None, None, None
    if border:
        corners = source.uniform(f"{stream}crop", 2, per, at)
        offset = integers(corners, 2 * border + 1) - border
    if settings.flip:
        mirrored = source.uniform(f"{stream}flip", 1, per, at)[:, 0] < 0.5
    if settings.rotation:
        degrees = 2 * source.uniform(f"{stream}rotation", 1, per, at)[:, 0] - 1
        turned = fixed_point(rotation(degrees * settings.rotation, height, width))
    if opencv.suits(images):
        return opencv.crop_flip_rotate(
            images, offset, mirrored, turned, rotate_first=settings.rotate_first
        )

    def crop(grid: Grid) -> Grid:
        return grid if offset is None else grid.shift(source.tensor(offset))

    def flip(grid: Grid) -> Grid:
        return grid if mirrored is None else grid.mirror(source.tensor(mirrored))

    def rotate(grid: Grid) -> Grid:
        return grid if turned is None else grid.affine(source.tensor(turned))

    grid = Grid.of(images)
    # From the result back
    for step in (crop, flip, rotate) if settings.rotate_first else (rotate, flip, crop):
        grid = step(grid)
    return grid.show(images)
