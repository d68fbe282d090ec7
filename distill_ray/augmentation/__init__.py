"""Augmentations: how training images are presented to the networks. Importing this package is
cheap: torch loads with the first batch.

`distill_ray.augmentation.epoch.epoch_batches` makes the batches of an epoch from an augmentation
and the training images, and `distill_ray.augmentation.picking.pick` picks images out of a pool.
`kernels` holds the tensor code.
"""

from distill_ray.augmentation.additional import Additional
from distill_ray.augmentation.augmentation import (
    AUGMENTATIONS,
    Augmentation,
    Batch,
    Criterion,
    Part,
    Pick,
)
from distill_ray.augmentation.draws import Draws
from distill_ray.augmentation.erasing import Cutout, RandomErasing
from distill_ray.augmentation.mixing import CutMix, Mixup
from distill_ray.augmentation.photographs import ColourJitter, Photo, RandomResizedCrop
from distill_ray.augmentation.policies import AugMix, AutoAugment, RandAugment, TrivialAugment
from distill_ray.augmentation.standard import Crop, CropFlip, Flip, Identity, Rotation

__all__ = [
    "AUGMENTATIONS",
    "Additional",
    "AugMix",
    "Augmentation",
    "AutoAugment",
    "Batch",
    "ColourJitter",
    "Criterion",
    "Crop",
    "CropFlip",
    "CutMix",
    "Cutout",
    "Draws",
    "Flip",
    "Identity",
    "Mixup",
    "Part",
    "Photo",
    "Pick",
    "RandAugment",
    "RandomErasing",
    "RandomResizedCrop",
    "Rotation",
    "TrivialAugment",
]
