"""AutoAugment, RandAugment, TrivialAugment and AugMix: operations on place and colour, drawn from a
list.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Le

from distill_ray._lazy import LazyModule
from distill_ray.augmentation.augmentation import AUGMENTATIONS, Part
from distill_ray.augmentation.draws import Per
from distill_ray.augmentation.standard import StandardAugmentation, plain
from distill_ray.settings import Doc

if TYPE_CHECKING:
    import torch

    from distill_ray.augmentation.kernels import augmix, crop_flip, geometry, policy
    from distill_ray.augmentation.source import BatchSource
else:
    torch = LazyModule("torch")
    augmix = LazyModule("distill_ray.augmentation.kernels.augmix")
    geometry = LazyModule("distill_ray.augmentation.kernels.geometry")
    policy = LazyModule("distill_ray.augmentation.kernels.policy")
    crop_flip = LazyModule("distill_ray.augmentation.kernels.crop_flip")


@AUGMENTATIONS.register("autoaugment")
@dataclass(frozen=True, kw_only=True)
class AutoAugment(StandardAugmentation):
    """Crop, flip and rotation, then one of 25 learned pairs of operations, each applied with its
    own probability.

    Source: Cubuk et al. 2019, "AutoAugment"; magnitudes and rounding as in torchvision.
    """

    name = "autoaugment"

    policy: Annotated[
        Literal["cifar10", "imagenet"], Doc("the data set that the policy was learned on")
    ] = "cifar10"
    per: Annotated[Per, Doc("whether the pair is drawn per image or once per batch")] = "image"

    def check_images(self, channels: int, height: int, width: int) -> None:
        """Besides the crop's border: grey or colour images."""
        super().check_images(channels, height, width)
        check_colours(self.name, channels)

    def parts(self, source: BatchSource) -> tuple[Part, ...]:
        return plain(
            policy.auto_augment(
                source, crop_flip.images(source, self.usual), self.policy, self.per
            ),
            source,
        )


Operations = Annotated[int, Ge(1), Le(16), Doc("rand-augment: operations in a row")]
Magnitude = Annotated[
    int, Ge(0), Le(30), Doc("rand-augment: their strength, in thirtieths of the largest")
]


@AUGMENTATIONS.register("rand-augment")
@dataclass(frozen=True, kw_only=True)
class RandAugment(StandardAugmentation):
    """Crop, flip and rotation, then randomly drawn operations, all of one strength.

    Source: Cubuk et al. 2020, "RandAugment", https://arxiv.org/abs/1909.13719; operations and
    strengths as in torchvision.
    """

    name = "rand-augment"

    operations: Operations = 2
    magnitude: Magnitude = 9

    def check_images(self, channels: int, height: int, width: int) -> None:
        """Besides the crop's border: grey or colour images."""
        super().check_images(channels, height, width)
        check_colours(self.name, channels)

    def parts(self, source: BatchSource) -> tuple[Part, ...]:
        images = crop_flip.images(source, self.usual)
        return plain(policy.rand_augment(source, images, self.operations, self.magnitude), source)


@AUGMENTATIONS.register("trivial-augment")
@dataclass(frozen=True, kw_only=True)
class TrivialAugment(StandardAugmentation):
    """Crop, flip and rotation, then one randomly drawn operation of random strength, from a wide
    range.

    Source: Müller & Hutter 2021, "TrivialAugment", https://arxiv.org/abs/2103.10158, the wide
    space; operations and strengths as in torchvision.
    """

    name = "trivial-augment"

    def check_images(self, channels: int, height: int, width: int) -> None:
        """Besides the crop's border: grey or colour images."""
        super().check_images(channels, height, width)
        check_colours(self.name, channels)

    def parts(self, source: BatchSource) -> tuple[Part, ...]:
        images = crop_flip.images(source, self.usual)
        return plain(policy.trivial_augment(source, images), source)


def check_colours(name: str, channels: int) -> None:
    """Raise `ValueError` for images that have no brightness and saturation, which the augmentation
    of that name changes.
    """
    if channels not in (1, 3):
        raise ValueError(
            f"{name} changes colours, so images must have 1 or 3 channels, found {channels}"
        )


@AUGMENTATIONS.register("augmix")
@dataclass(frozen=True, kw_only=True)
class AugMix(StandardAugmentation):
    """Rotation, flip and crop, then the image mixed with chains of operations.

    Source: Hendrycks et al. 2020, "AugMix".
    """

    name = "augmix"

    severity: Annotated[
        float, Ge(0.1), Le(10), Doc("highest level of an operation; levels are drawn from 0.1 up")
    ] = 3.0
    chains: Annotated[int, Ge(1), Doc("number of chains of operations to mix")] = 3
    depth: Annotated[
        int | None, Ge(1), Le(3), Doc("operations in a chain; unset: drawn from 1 to 3")
    ] = None
    consistency: Annotated[bool, Doc("each image in three versions, one clean and two mixed")] = (
        False
    )

    @property
    def usual(self) -> crop_flip.CropFlipRotate:
        """As for the other augmentations, in the opposite order."""
        return replace(super().usual, rotate_first=True)

    @property
    def copies(self) -> int:
        """Three where versions are compared."""
        return 3 if self.consistency else 1

    def parts(self, source: BatchSource) -> tuple[Part, ...]:
        """The mixed images or, with `consistency`, the clean ones and two independent mixes."""
        images = crop_flip.images(source, self.usual)
        mixed = [
            augmix.augmix(source, images, self.severity, self.chains, self.depth, f"{version} ")
            for version in range(self.copies - 1 or 1)
        ]
        if self.consistency:
            mixed.insert(0, geometry.unit(images))
        versions = torch.cat(mixed).contiguous(memory_format=torch.channels_last)
        return (Part(versions, source.labels().repeat(self.copies), copies=self.copies),)
