"""Views: how training images are presented to the networks. Importing this package is cheap: torch loads with the first batch.

`distill_ray.augment.epoch.epoch_batches` makes the batches of an epoch from a view and the training images, and
`distill_ray.augment.picking.pick` picks images where a part asks for it. `kernels` holds the tensor code.
"""

from distill_ray.augment.additional import Additional
from distill_ray.augment.draws import Draws
from distill_ray.augment.erasing import Cutout
from distill_ray.augment.mixing import CutMix, Mixup
from distill_ray.augment.policies import AugMix, AutoAugment
from distill_ray.augment.standard import Crop, CropFlip, Flip, Identity, Rotation
from distill_ray.augment.view import VIEWS, Batch, Criterion, Part, Pick, View

__all__ = [
    "VIEWS",
    "Additional",
    "AugMix",
    "AutoAugment",
    "Batch",
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
    "Pick",
    "Rotation",
    "View",
]
