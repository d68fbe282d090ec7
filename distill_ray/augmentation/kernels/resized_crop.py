"""Crops of random size and shape, resized: what photographs are trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from distill_ray.augmentation.source import BatchSource, Rectangles

Interpolation = Literal["bilinear", "bicubic"]

ATTEMPTS = 10
"""Draws of size and shape per image, of which the first that fits counts."""


@dataclass(frozen=True)
class ResizedCrop:
    """Settings of a crop: its share of the image's area from `smallest` to 1, its width over its
    height from 1 / `ratio` to `ratio`; and whether it is mirrored with probability one half.
    """

    smallest: float
    ratio: float
    interpolation: Interpolation
    flip: bool


def images(
    source: BatchSource, settings: ResizedCrop, at: NDArray[np.int64] | None = None
) -> Tensor:
    """The share's images, or those at the positions `at` (B,), as a whole, cropped and resized to
    the size that networks see: uint8 (B, C, H, W).
    """
    originals = source.rectangles(at)
    drawn = source.uniform("resized crop", 2 * ATTEMPTS + 2, positions=at)
    windows = crop_windows(drawn, settings.smallest, settings.ratio, *originals.sizes)
    mirrored = np.zeros(len(originals), bool)
    if settings.flip:
        mirrored = source.uniform("flip", 1, positions=at)[:, 0] < 0.5
    return resized(originals, windows, mirrored, source.shape, settings.interpolation)


def crop_windows(
    uniform: NDArray[np.float64],
    smallest: float,
    ratio: float,
    height: NDArray[np.int64],
    width: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Top, left, height and width of each crop, (n, 4), from numbers (n, 22) and the height (n,)
    and width (n,) of its image.

    Area and shape are drawn ten times, uniform and log-uniform; where nothing fits, the crop is the
    middle of the image. Source: Szegedy et al. 2015, "Going deeper with convolutions", section 6,
    as in torchvision.
    """
    areas = (smallest + (1 - smallest) * uniform[:, :ATTEMPTS]) * (height * width)[:, None]
    shapes = ratio ** (2 * uniform[:, ATTEMPTS : 2 * ATTEMPTS] - 1)
    wide = np.round(np.sqrt(areas * shapes)).astype(np.int64)
    tall = np.round(np.sqrt(areas / shapes)).astype(np.int64)
    fits = (wide > 0) & (wide <= width[:, None]) & (tall > 0) & (tall <= height[:, None])
    first = fits.argmax(1)
    every = np.arange(len(uniform))
    fitting = fits.any(1)
    middle_wide = np.minimum(width, np.round(height * ratio).astype(np.int64))
    middle_tall = np.minimum(height, np.round(width * ratio).astype(np.int64))
    wide = np.where(fitting, wide[every, first], middle_wide)
    tall = np.where(fitting, tall[every, first], middle_tall)
    top = np.floor(uniform[:, -2] * (height - tall + 1)).astype(np.int64)
    left = np.floor(uniform[:, -1] * (width - wide + 1)).astype(np.int64)
    top = np.where(fitting, top, (height - tall) // 2)
    left = np.where(fitting, left, (width - wide) // 2)
    return np.stack([top, left, tall, wide], axis=1)


def resized(
    originals: Rectangles,
    windows: NDArray[np.int64],
    mirrored: NDArray[np.bool_],
    shape: tuple[int, int],
    interpolation: Interpolation,
) -> Tensor:
    """`windows` (B, 4) of uint8 `originals`, resized to height and width `shape` with
    antialiasing, and then `mirrored` (B,).

    They are torch's own: on a CPU in integers, elsewhere in float32 and rounded, which may differ
    by one level.
    """
    squares = originals.squares
    batch, channels, *_ = squares.shape
    result = squares.new_empty((batch, *shape, channels)).permute(0, 3, 1, 2)
    for number, (window, turned) in enumerate(zip(windows.tolist(), mirrored, strict=True)):
        top, left, tall, wide = window
        image = originals[number][None, :, top : top + tall, left : left + wide]
        if (tall, wide) != shape:
            # A crop has gaps between its rows, for which torch would put the result channels first,
            # and copying that into the batch would take as long as resizing
            dense = image.contiguous(memory_format=torch.channels_last)
            exact = dense if dense.device.type == "cpu" else dense.float()
            exact = interpolate(exact, shape, mode=interpolation, antialias=True)
            image = exact.round_().clamp_(0, 255) if exact.is_floating_point() else exact
        result[number] = image[0].flip(2) if turned else image[0]
    return result
