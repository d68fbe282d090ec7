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
