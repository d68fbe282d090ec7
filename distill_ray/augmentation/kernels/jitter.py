"""Colours changed a little: jitter, grey and blur, each image by draws of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from distill_ray.augmentation.kernels.policy import apply
from distill_ray.augmentation.source import BatchSource

OPERATIONS = np.array(["brightness", "contrast", "color", "hue"])


@dataclass(frozen=True)
class Jitter:
    """Settings of the jitter: largest changes of brightness, contrast and saturation, as shares,
    and of hue, as a share of the circle; probabilities of grey and of a blur.
    """

    brightness: float
    contrast: float
    saturation: float
    hue: float
    grey: float
    blur: float


def jitter(
    source: BatchSource, images: Tensor, settings: Jitter, at: NDArray[np.int64] | None = None
) -> Tensor:
    """uint8 `images` (B, C, H, W) of the share, or of the positions `at`, with brightness,
    contrast, saturation and hue changed in random order, then grey or blurred by chance.

    Factors are uniform in 1 - s to 1 + s (from 0), a hue moves by up to s either way, and the
    standard deviation of a blur is uniform in 0.1 to 2 pixels. Source: Chen et al. 2020, "SimCLR",
    appendix A; order and ranges as in torchvision's ColorJitter.
    """
    strengths = np.array(
        [settings.brightness, settings.contrast, settings.saturation, settings.hue]
    )
    drawn = source.uniform("colour jitter", 8, positions=at)
    lowest = np.array([*np.maximum(0, 1 - strengths[:3]), -settings.hue])
    highest = np.array([*(1 + strengths[:3]), settings.hue])
    amounts = lowest + (highest - lowest) * drawn[:, :4]
    order = np.argsort(drawn[:, 4:], axis=1, kind="stable")
    every = np.arange(len(images))
    for turn in range(4 if strengths.any() else 0):
        which = order[:, turn]
        names = np.where(strengths[which] > 0, OPERATIONS[which], "")
        images = apply(source, images, names, amounts[every, which])
    for name, chance in (("grey", settings.grey), ("blur", settings.blur)):
        if chance:
            happens, amount = source.uniform(name, 2, positions=at).T
            images = apply(source, images, np.where(happens < chance, name, ""), 0.1 + 1.9 * amount)
    return images
