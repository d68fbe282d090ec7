"""Photographs that OpenCV changes on a CPU against the batched tensor code on the same draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distill_ray.augmentation import AUGMENTATIONS, Additional, Augmentation, AugMix, Rotation
from distill_ray.augmentation.epoch import epoch_batches
from distill_ray.augmentation.kernels import opencv
from distill_ray.augmentation.kernels.geometry import MAPS
from distill_ray.augmentation.kernels.policy import COLOURS, apply, apply_together
from distill_ray.testing.cases import settings_label

EXACT = {*MAPS, *opencv.TABLES, "grey"}
"""Operations that give the same bits; the others are one level off at most."""

AMOUNTS = {
    "rotate": (-135, 135),
    "shear-x": (-0.99, 0.99),
    "shear-y": (-0.99, 0.99),
    "translate-x": (-40, 40),
    "translate-y": (-40, 40),
    "posterize": (0, 8),
    "solarize": (0, 256),
    "hue": (-0.5, 0.5),
    "blur": (0.1, 2),
}
"""Lowest and highest amounts; of all others they are 0 and 2."""


class Here:
    """As much of a source as `apply_together` needs."""

    def tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array)


def photographs(channels: int, count: int = 14) -> np.ndarray:
    """Noise, a narrow range, one level, two levels, smooth colours: 70 by 58 pixels."""
    draw = np.random.default_rng(5)
    pixels = draw.integers(0, 256, (count, 70, 58, channels), dtype=np.uint8)
    pixels[1] = draw.integers(100, 140, pixels[1].shape)
    pixels[2] = 77
    pixels[3] = np.where(pixels[3] < 50, 10, 200)
    y, x = np.mgrid[:70, :58]
    smooth = np.stack([2 * x + y, 250 - 3 * y, x + 2 * y], axis=-1)
    pixels[4] = smooth[..., :channels].clip(0, 255)
    pixels[5, ..., 0] = 0
    return pixels


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", [*MAPS, *COLOURS])
def test_operations_are_those_of_the_batched_code(name: str, channels: int) -> None:
    images = torch.from_numpy(photographs(channels)).permute(0, 3, 1, 2)
    assert opencv.suits(images)
    names = np.full(len(images), name)
    names[[6, 9]] = ""
    low, high = AMOUNTS.get(name, (0, 2))
    amount = np.linspace(low, high, len(images))
    if name.startswith("translate") or name == "posterize":
        amount = np.round(amount)
    source: Any = Here()
    ours = apply(source, images, names, amount).int()
    together = apply_together(source, images, names, amount).int()
    difference = (ours - together).abs()
    assert difference.max() <= (name not in EXACT)
    assert difference.float().mean() < 0.1
    assert torch.equal(ours[6], images[6].int())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", MAPS)
def test_between_pixels_a_value_is_one_level_off_at_most(name: str, channels: int) -> None:
    images = torch.from_numpy(photographs(channels)).permute(0, 3, 1, 2)
    low, high = AMOUNTS[name]
    amount = np.linspace(low, high, len(images))
    names, source = np.full(len(images), name), Here()
    arguments: Any = (source, images, names, amount)
    ours = apply(*arguments, between_pixels=True).int()
    difference = (ours - apply_together(*arguments, between_pixels=True).int()).abs()
    assert difference.max() <= 1
    assert difference.float().mean() < 0.005


CASES: list[Augmentation] = [
    *(augmentation() for name, augmentation in AUGMENTATIONS.items() if name != "identity"),
    Rotation(rotation=40, padding=11),
    AugMix(consistency=True, rotation=20),
    Additional(scheme="crop-flip", per="batch"),
]


@pytest.mark.parametrize("augmentation", CASES, ids=settings_label)
@pytest.mark.parametrize("threads", [1, 2])
def test_augmentations_show_the_same_images(
    augmentation: Augmentation, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a level of 255, or some where what is a level off is stretched next, on any number of
    threads.
    """
    images, labels = photographs(3, 8), np.arange(8)
    settings: dict[str, Any] = {"seed": 2, "epoch": 1, "batch_size": 8, "device": "cpu"}

    def shown() -> Tensor:
        batches = epoch_batches(augmentation, images, labels, mean=[0.5] * 3, **settings)
        return torch.cat([part.images for batch in batches for part in batch.parts]) * 255

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ours = shown()
        monkeypatch.setattr(opencv, "suits", lambda images: False)
        difference = (ours - shown()).abs()
    finally:
        torch.set_num_threads(before)
    assert difference.mean() < 0.05
    assert (difference > 1.01).float().mean() < 0.001
    assert difference.max() <= 4
