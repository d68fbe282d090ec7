"""Mixup and CutMix: images made of two."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt

from distill_ray._lazy import LazyModule
from distill_ray.augmentation.augmentation import AUGMENTATIONS, Part
from distill_ray.augmentation.draws import Per
from distill_ray.augmentation.standard import StandardAugmentation
from distill_ray.settings import Doc

if TYPE_CHECKING:
    from distill_ray.augmentation.kernels import crop_flip, mixing
    from distill_ray.augmentation.source import BatchSource
else:
    mixing = LazyModule("distill_ray.augmentation.kernels.mixing")
    crop_flip = LazyModule("distill_ray.augmentation.kernels.crop_flip")


@AUGMENTATIONS.register("mixup")
@dataclass(frozen=True, kw_only=True)
class Mixup(StandardAugmentation):
    """Crop, flip and rotation, then weighted means of pairs of images and of their labels.

    Source: Zhang et al. 2018, "mixup".
    """

    name = "mixup"
    mixes = True

    alpha: Annotated[float, Gt(0), Doc("weights are drawn from Beta(alpha, alpha)")] = 1.0
    per: Annotated[Per, Doc("whether weight and partner are drawn per image or once per batch")] = (
        "batch"
    )

    def parts(self, source: BatchSource) -> tuple[Part, ...]:
        """The mixed images, with their partners' labels and the weight of their own."""
        return (
            mixing.mix(
                source,
                crop_flip.images(source, self.usual),
                functools.partial(crop_flip.images, source, self.usual),
                "mixup",
                self.alpha,
                self.per,
            ),
        )


@AUGMENTATIONS.register("cutmix")
@dataclass(frozen=True, kw_only=True)
class CutMix(StandardAugmentation):
    """Crop, flip and rotation, then a box of another image pasted in, and the labels mixed by area.

    Source: Yun et al. 2019, "CutMix".
    """

    name = "cutmix"
    mixes = True

    alpha: Annotated[
        float, Gt(0), Doc("the area outside the box is drawn from Beta(alpha, alpha)")
    ] = 1.0
    per: Annotated[Per, Doc("whether box and partner are drawn per image or once per batch")] = (
        "image"
    )

    def parts(self, source: BatchSource) -> tuple[Part, ...]:
        """The mixed images, with their partners' labels and the weight of their own."""
        return (
            mixing.mix(
                source,
                crop_flip.images(source, self.usual),
                functools.partial(crop_flip.images, source, self.usual),
                "cutmix",
                self.alpha,
                self.per,
            ),
        )
