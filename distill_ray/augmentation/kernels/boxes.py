"""Rectangles in images: where they lie, and what is put into them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill_ray.augmentation.draws import integers

if TYPE_CHECKING:
    from distill_ray.augmentation.draws import Per
    from distill_ray.augmentation.source import BatchSource


ATTEMPTS = 10
"""Draws of a rectangle to erase, of which the first that fits counts."""


def cutout(
    source: BatchSource, images: Tensor, size: int, holes: int, per: Per, stream: str = ""
) -> Tensor:
    """float `images` (B, C, H, W) of the share with square holes of side `size`, in the mean colour
    of the data set.
    """
    height, width = images.shape[2:]
    uniform = source.uniform(f"{stream}cutout", 2 * holes, per)
    side = np.full(len(images), size)
    for hole in range(holes):
        boxes = box(
            *centres(uniform[:, 2 * hole : 2 * hole + 2], height, width), side, side, height, width
        )
        images = torch.where(inside(source.tensor(boxes), height, width), source.mean, images)
    return images


def erased(
    source: BatchSource,
    images: Tensor,
    chance: float,
    areas: tuple[float, float],
    at: NDArray[np.int64] | None = None,
) -> Tensor:
    """float `images` (B, C, H, W) of the share, or of the positions `at`, in which by `chance` a
    rectangle of `areas` (lowest and highest share of the image) is given the mean colour of the
    data set. On a CPU they are changed in place.
    """
    height, width = images.shape[2:]
    uniform = source.uniform("erasing", 2 * ATTEMPTS + 3, positions=at)
    rectangles = erasing_boxes(uniform[:, 1:], areas, height, width)
    rectangles[uniform[:, 0] >= chance] = 0
    if images.device.type == "cpu":
        for image, (top, bottom, left, right) in zip(images, rectangles.tolist(), strict=True):
            image[:, top:bottom, left:right] = source.mean
        return images
    where = inside(source.tensor(rectangles), height, width)
    return torch.where(where, source.mean, images)


def erasing_boxes(
    uniform: NDArray[np.float64], areas: tuple[float, float], height: int, width: int
) -> NDArray[np.int64]:
    """Rectangles (n, 4) to erase, as `inside` takes them, from numbers (n, 22); empty where in ten
    draws of area and shape none was smaller than the image.

    Height over width is log-uniform in 0.3 to 10 / 3. Source: Zhong et al. 2020, "Random erasing",
    algorithm 1, as in torchvision.
    """
    lowest, highest = areas
    area = (lowest + (highest - lowest) * uniform[:, :ATTEMPTS]) * (height * width)
    shape = 0.3 ** (1 - 2 * uniform[:, ATTEMPTS : 2 * ATTEMPTS])
    tall = np.round(np.sqrt(area * shape)).astype(np.int64)
    wide = np.round(np.sqrt(area / shape)).astype(np.int64)
    fits = (tall < height) & (wide < width)
    every, first = np.arange(len(uniform)), fits.argmax(1)
    tall, wide = tall[every, first] * fits.any(1), wide[every, first] * fits.any(1)
    top = np.floor(uniform[:, -2] * (height - tall + 1)).astype(np.int64)
    left = np.floor(uniform[:, -1] * (width - wide + 1)).astype(np.int64)
    return np.stack([top, top + tall, left, left + wide], axis=1)


def centres(
    uniform: NDArray[np.float64], height: int, width: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns (n,) of uniformly distributed pixels, from numbers (n, 2)."""
    return integers(uniform[:, 0], height), integers(uniform[:, 1], width)


def box(
    row: NDArray[np.int64],
    column: NDArray[np.int64],
    tall: NDArray[np.int64],
    wide: NDArray[np.int64],
    height: int,
    width: int,
) -> NDArray[np.int64]:
    """Boxes around centres, clipped at the borders of the image: first and last-plus-one row, then
    column, (n, 4).

    They reach half of their size, rounded down, to both sides, so an odd size loses a pixel, as in
    the published codes.
    """
    return np.stack(
        [
            np.clip(row - tall // 2, 0, height),
            np.clip(row + tall // 2, 0, height),
            np.clip(column - wide // 2, 0, width),
            np.clip(column + wide // 2, 0, width),
        ],
        axis=1,
    )


def cutmix_box(
    weight: NDArray[np.float64],
    row: NDArray[np.int64],
    column: NDArray[np.int64],
    height: int,
    width: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The boxes (n, 4) of CutMix for weights (n,) of the first image, and the weights that remain
    once they are clipped.

    Source: Yun et al. 2019, "CutMix", algorithm A1.
    """
    scale = np.sqrt(1 - weight)
    boxes = box(
        row,
        column,
        np.floor(height * scale).astype(np.int64),
        np.floor(width * scale).astype(np.int64),
        height,
        width,
    )
    area = (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2])
    return boxes, 1 - area / (height * width)


def inside(boxes: Tensor, height: int, width: int) -> Tensor:
    """Which pixels lie in `boxes` (B, 4): bool (B, 1, H, W)."""
    limits = boxes.view(-1, 4, 1, 1, 1).unbind(1)
    rows = torch.arange(height, device=boxes.device).view(-1, 1)
    columns = torch.arange(width, device=boxes.device)
    return (rows >= limits[0]) & (rows < limits[1]) & (columns >= limits[2]) & (columns < limits[3])
