"""The images and, beside them, the same images more strongly augmented."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt

from distill_ray._lazy import LazyModule
from distill_ray.augmentation.augmentation import AUGMENTATIONS, Part, Pick
from distill_ray.augmentation.draws import Per
from distill_ray.augmentation.erasing import check_size, hole_size
from distill_ray.augmentation.policies import check_colours
from distill_ray.augmentation.standard import StandardAugmentation, plain
from distill_ray.settings import Doc

if TYPE_CHECKING:
    from torch import Tensor

    from distill_ray.augmentation import picking
    from distill_ray.augmentation.kernels import boxes, crop_flip, geometry, mixing, policy
    from distill_ray.augmentation.source import BatchSource
else:
    boxes = LazyModule("distill_ray.augmentation.kernels.boxes")
    geometry = LazyModule("distill_ray.augmentation.kernels.geometry")
    mixing = LazyModule("distill_ray.augmentation.kernels.mixing")
    picking = LazyModule("distill_ray.augmentation.picking")
    policy = LazyModule("distill_ray.augmentation.kernels.policy")
    crop_flip = LazyModule("distill_ray.augmentation.kernels.crop_flip")


@AUGMENTATIONS.register("additional")
@dataclass(frozen=True, kw_only=True)
class Additional(StandardAugmentation):
    """Every image in two augmented versions: x by crop, flip and rotation, and x' made from x by
    one of seven schemes.

    With a `pick`, x' is picked from a pool of `pool` independently drawn versions of the batch, as
    many images as x has: CutMixPick, if the scheme is cutmix.

    Source: Wang et al. 2022, "What makes a good data augmentation in knowledge distillation", where
    all draws of x' are per batch. Its rounding down to uint8 is left out.
    """

    name = "additional"
    part_count = 2

    scheme: Annotated[
        Literal["identity", "flip", "crop-flip", "cutout", "autoaugment", "mixup", "cutmix"],
        Doc("how x' is made from x"),
    ] = "cutmix"
    per: Annotated[Per, Doc("whether x' is drawn per image or once per batch")] = "batch"
    alpha: Annotated[
        float, Gt(0), Doc("mixup and cutmix: weights are drawn from Beta(alpha, alpha)")
    ] = 1.0
    size: Annotated[
        int | None, Ge(2), Doc("cutout: side of the hole; unset: a quarter of the shorter side")
    ] = None
    policy: Annotated[
        Literal["cifar10", "imagenet"],
        Doc("autoaugment: the data set that the policy was learned on"),
    ] = "cifar10"
    pick: Annotated[
        Literal["none", "student-entropy", "teacher-entropy", "kl"],
        Doc("criterion by which images are picked (highest first)"),
    ] = "none"
    pool: Annotated[int, Ge(2), Doc("size of the pool to pick from, in batches")] = 2

    @property
    def picks(self) -> bool:
        """Whether x' is a pool."""
        return self.pick != "none"

    @property
    def asks_student(self) -> bool:
        """True unless the teachers' entropy decides."""
        return self.pick in ("student-entropy", "kl")

    @property
    def mixes_labels(self) -> bool:
        return self.scheme in ("mixup", "cutmix")

    def check_images(self, channels: int, height: int, width: int) -> None:
        """What the chosen scheme needs, besides a crop's border that fits."""
        super().check_images(channels, height, width)
        if self.scheme == "cutout":
            check_size(self.size, height, width)
        if self.scheme == "autoaugment":
            check_colours("autoaugment", channels)

    def parts(self, source: BatchSource) -> tuple[Part, ...]:
        """x, and x' or the pool that it is picked from."""
        images = crop_flip.images(source, self.usual)
        standard, *_ = plain(images, source)
        if self.pick == "none":
            return standard, self._changed(source, images, "x' ")
        goes = [self._changed(source, images, f"x' {go} ") for go in range(self.pool)]
        return standard, picking.pool(
            goes, Pick(self.pick, source.last - source.first, *source.within)
        )

    def _changed(self, source: BatchSource, images: Tensor, stream: str) -> Part:
        height, width = images.shape[2:]
        if self.scheme in ("mixup", "cutmix"):
            make = functools.partial(crop_flip.images, source, self.usual)
            return mixing.mix(source, images, make, self.scheme, self.alpha, self.per, stream)
        if self.scheme == "cutout":
            size = hole_size(self.size, height, width)
            return Part(
                boxes.cutout(source, geometry.unit(images), size, 1, self.per, stream),
                source.labels(),
            )
        if self.scheme == "autoaugment":
            images = policy.auto_augment(source, images, self.policy, self.per, stream)
        elif self.scheme != "identity":
            again = crop_flip.CropFlipRotate(
                padding=self.padding if self.scheme == "crop-flip" else 0, flip=True
            )
            images = crop_flip.change(source, images, again, stream, self.per)
        return Part(geometry.unit(images), source.labels())
