"""Crop, flip and rotation, drawn per image: augmentations of their own, and what the stronger ones
start from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Le

from distill_ray._lazy import LazyModule
from distill_ray.augmentation.augmentation import AUGMENTATIONS, Augmentation, Part
from distill_ray.settings import Doc

if TYPE_CHECKING:
    from torch import Tensor

    from distill_ray.augmentation.kernels import crop_flip, geometry
    from distill_ray.augmentation.source import BatchSource
else:
    geometry = LazyModule("distill_ray.augmentation.kernels.geometry")
    crop_flip = LazyModule("distill_ray.augmentation.kernels.crop_flip")


@dataclass(frozen=True, kw_only=True)
class StandardAugmentation(Augmentation):
    """Base of the augmentations that first crop, flip and rotate."""

    padding: Annotated[
        int | None,
        Ge(0),
        Doc("padding of the crop in pixels; unset: an eighth of the shorter side"),
    ] = None
    flip: Annotated[bool, Doc("flip each image horizontally with probability 0.5")] = True
    rotation: Annotated[float, Ge(0), Le(180), Doc("maximum rotation in degrees")] = 0.0

    @property
    def usual(self) -> crop_flip.CropFlipRotate:
        """The crop, flip and rotation that come first."""
        return crop_flip.CropFlipRotate(self.padding, self.flip, self.rotation)

    def check_images(self, channels: int, height: int, width: int) -> None:
        """The border of the crop must be smaller than the image."""
        check_padding(self.padding, height, width)


def check_padding(padding: int | None, height: int, width: int) -> None:
    """Raise `ValueError` where a crop could miss the image."""
    if padding is not None and padding >= min(height, width):
        raise ValueError(
            f"padding must be below the side of the images, {min(height, width)}, found {padding}"
        )


def plain(images: Tensor, source: BatchSource) -> tuple[Part, ...]:
    """uint8 images (B, C, H, W) with their own labels as the one part of a batch, in [0, 1]."""
    return (Part(geometry.unit(images), source.labels()),)


@AUGMENTATIONS.register("identity")
@dataclass(frozen=True, kw_only=True)
class Identity(Augmentation):
    """The images as they are."""

    name = "identity"
    real_valued = True

    def parts(self, source: BatchSource) -> tuple[Part, ...]:
        return plain(source.images(), source)


@AUGMENTATIONS.register("flip")
@dataclass(frozen=True, kw_only=True)
class Flip(Augmentation):
    """A horizontal flip of each image with probability 0.5."""

    name = "flip"

    def parts(self, source: BatchSource) -> tuple[Part, ...]:
        return plain(crop_flip.images(source, crop_flip.CropFlipRotate(flip=True)), source)


@AUGMENTATIONS.register("crop")
@dataclass(frozen=True, kw_only=True)
class Crop(Augmentation):
    """A crop of the original size at a uniformly random position in the black-padded image."""

    name = "crop"
    mirrored = False

    padding: Annotated[
        int | None, Ge(0), Doc("padding in pixels; unset: an eighth of the shorter side")
    ] = None

    def check_images(self, channels: int, height: int, width: int) -> None:
        """The border must be smaller than the image."""
        check_padding(self.padding, height, width)

    def parts(self, source: BatchSource) -> tuple[Part, ...]:
        return plain(
            crop_flip.images(source, crop_flip.CropFlipRotate(self.padding, flip=self.mirrored)),
            source,
        )


@AUGMENTATIONS.register("crop-flip")
@dataclass(frozen=True, kw_only=True)
class CropFlip(Crop):
    """A crop of the black-padded image, then a horizontal flip: the standard for small images."""

    name = "crop-flip"
    mirrored = True


@AUGMENTATIONS.register("rotation")
@dataclass(frozen=True, kw_only=True)
class Rotation(StandardAugmentation):
    """Crop, flip, and rotation about the centre, nearest-neighbour, black outside.

    Source: Jain, Patel & Viradiya 2022, "Improved distillation with ensemble of calibrated models",
    as coded, where all networks are trained on it:
    https://github.com/RiyanshuJain/Improved-Distillation-with-Ensemble-of-Calibrated-models.
    """

    name = "rotation"

    rotation: Annotated[float, Gt(0), Le(180), Doc("maximum rotation in degrees")] = 15.0

    def parts(self, source: BatchSource) -> tuple[Part, ...]:
        return plain(crop_flip.images(source, self.usual), source)
