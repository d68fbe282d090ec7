"""Cutout and random erasing: images with holes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Le

from distill_ray._lazy import LazyModule
from distill_ray.augmentation.augmentation import AUGMENTATIONS, Part
from distill_ray.augmentation.draws import Per
from distill_ray.augmentation.standard import StandardAugmentation
from distill_ray.settings import Doc

if TYPE_CHECKING:
    from distill_ray.augmentation.kernels import boxes, crop_flip, geometry
    from distill_ray.augmentation.source import BatchSource
else:
    boxes = LazyModule("distill_ray.augmentation.kernels.boxes")
    geometry = LazyModule("distill_ray.augmentation.kernels.geometry")
    crop_flip = LazyModule("distill_ray.augmentation.kernels.crop_flip")


@AUGMENTATIONS.register("cutout")
@dataclass(frozen=True, kw_only=True)
class Cutout(StandardAugmentation):
    """Crop, flip and rotation, then square holes in the mean colour, centred on any pixel and
    clipped at the borders.

    Source: DeVries and Taylor 2017, "Cutout", applied after normalisation, so that a hole is 0 to
    the network.
    """

    name = "cutout"

    size: Annotated[
        int | None, Ge(2), Doc("side of a hole in pixels; unset: a quarter of the shorter side")
    ] = None
    holes: Annotated[int, Ge(1), Doc("holes per image")] = 1
    per: Annotated[Per, Doc("whether positions are drawn per image or once per batch")] = "image"

    def check_images(self, channels: int, height: int, width: int) -> None:
        """Besides the crop's border, a hole must fit into the image."""
        super().check_images(channels, height, width)
        check_size(self.size, height, width)

    def parts(self, source: BatchSource) -> tuple[Part, ...]:
        images = geometry.unit(crop_flip.images(source, self.usual))
        side = hole_size(self.size, *images.shape[2:])
        return (Part(boxes.cutout(source, images, side, self.holes, self.per), source.labels()),)


AREAS = (0.02, 0.33)
"""Smallest and largest area of an erased rectangle, as shares of the image."""


@AUGMENTATIONS.register("random-erasing")
@dataclass(frozen=True, kw_only=True)
class RandomErasing(StandardAugmentation):
    """Crop, flip and rotation, then by chance a rectangle in the mean colour, which lies within the
    image.

    Source: Zhong et al. 2020, "Random erasing data augmentation",
    https://arxiv.org/abs/1708.04896; as in torchvision, applied after normalisation with value 0.
    """

    name = "random-erasing"

    chance: Annotated[float, Ge(0), Le(1), Doc("probability of a rectangle")] = 0.5
    smallest: Annotated[
        float, Gt(0), Le(1), Doc("smallest area of the rectangle, as a share of the image")
    ] = AREAS[0]
    largest: Annotated[float, Gt(0), Le(1), Doc("its largest area")] = AREAS[1]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.smallest > self.largest:
            raise ValueError(
                f"smallest must be at most largest ({self.largest}), found {self.smallest}"
            )

    def parts(self, source: BatchSource) -> tuple[Part, ...]:
        images = geometry.unit(crop_flip.images(source, self.usual))
        areas = (self.smallest, self.largest)
        return (Part(boxes.erased(source, images, self.chance, areas), source.labels()),)


def hole_size(size: int | None, height: int, width: int) -> int:
    """The side of a hole: 8 at 32 pixels unless it is set."""
    return max(2, round(min(height, width) / 4)) if size is None else size


def check_size(size: int | None, height: int, width: int) -> None:
    """Raise `ValueError` for a hole larger than the image."""
    if size is not None and size > min(height, width):
        raise ValueError(
            f"size must be at most the side of the images, {min(height, width)}, found {size}"
        )
