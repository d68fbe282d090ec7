"""Crops of random size, and all that recipes for photographs add to them."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt, Le

from distill_ray._lazy import LazyModule
from distill_ray.augmentation.augmentation import AUGMENTATIONS, Augmentation, Part
from distill_ray.augmentation.erasing import AREAS
from distill_ray.augmentation.policies import Magnitude, Operations, check_colours
from distill_ray.augmentation.standard import StandardAugmentation, plain
from distill_ray.settings import Doc

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from distill_ray.augmentation.kernels import (
        boxes,
        crop_flip,
        geometry,
        jitter,
        mixing,
        policy,
        resized_crop,
    )
    from distill_ray.augmentation.source import BatchSource
else:
    boxes = LazyModule("distill_ray.augmentation.kernels.boxes")
    crop_flip = LazyModule("distill_ray.augmentation.kernels.crop_flip")
    geometry = LazyModule("distill_ray.augmentation.kernels.geometry")
    jitter = LazyModule("distill_ray.augmentation.kernels.jitter")
    mixing = LazyModule("distill_ray.augmentation.kernels.mixing")
    policy = LazyModule("distill_ray.augmentation.kernels.policy")
    resized_crop = LazyModule("distill_ray.augmentation.kernels.resized_crop")

Share = Annotated[float, Ge(0), Le(1)]


@AUGMENTATIONS.register("random-resized-crop")
@dataclass(frozen=True, kw_only=True)
class RandomResizedCrop(Augmentation):
    """A crop of random area and shape, resized with antialiasing to the size of the images, then a
    horizontal flip: the standard for photographs. Crops are taken from all of a photograph, up to
    three times as long as it is wide.

    Source: Szegedy et al. 2015, "Going deeper with convolutions",
    https://arxiv.org/abs/1409.4842; as in torchvision.
    """

    name = "random-resized-crop"
    crops_whole = True

    smallest: Annotated[
        float,
        Gt(0),
        Le(1),
        Doc("smallest area of a crop, as a share of the image; the largest is 1"),
    ] = 0.08
    ratio: Annotated[float, Ge(1), Doc("width over height lies between 1 / ratio and ratio")] = (
        4 / 3
    )
    interpolation: Annotated[Literal["bilinear", "bicubic"], Doc("how crops are resized")] = (
        "bilinear"
    )
    flip: Annotated[bool, Doc("flip each image horizontally with probability 0.5")] = True

    @property
    def crop(self) -> resized_crop.ResizedCrop:
        """The settings of the crop."""
        return resized_crop.ResizedCrop(self.smallest, self.ratio, self.interpolation, self.flip)

    def parts(self, source: BatchSource) -> tuple[Part, ...]:
        return plain(resized_crop.images(source, self.crop), source)


@AUGMENTATIONS.register("colour-jitter")
@dataclass(frozen=True, kw_only=True)
class ColourJitter(StandardAugmentation):
    """Crop, flip and rotation, then brightness, contrast, saturation and hue changed in random
    order, then by chance grey or a Gaussian blur.

    Source: Chen et al. 2020, "SimCLR", appendix A, https://arxiv.org/abs/2002.05709; order and
    ranges as in torchvision.
    """

    name = "colour-jitter"

    brightness: Annotated[float, Ge(0), Doc("largest change of the brightness, as a share")] = 0.4
    contrast: Annotated[float, Ge(0), Doc("largest change of the contrast, as a share")] = 0.4
    saturation: Annotated[float, Ge(0), Doc("largest change of the saturation, as a share")] = 0.4
    hue: Annotated[
        float, Ge(0), Le(0.5), Doc("largest change of the hue, as a share of the circle")
    ] = 0.1
    grey: Annotated[Share, Doc("probability of a grey image")] = 0.0
    blur: Annotated[
        Share,
        Doc("probability of a blur of up to 2 pixels, its kernel a tenth of the shorter side"),
    ] = 0.0

    def check_images(self, channels: int, height: int, width: int) -> None:
        """Besides the crop's border: grey or colour images."""
        super().check_images(channels, height, width)
        check_colours(self.name, channels)

    def parts(self, source: BatchSource) -> tuple[Part, ...]:
        settings = jitter.Jitter(
            self.brightness, self.contrast, self.saturation, self.hue, self.grey, self.blur
        )
        images = crop_flip.images(source, self.usual)
        return plain(jitter.jitter(source, images, settings), source)


@AUGMENTATIONS.register("photo")
@dataclass(frozen=True, kw_only=True)
class Photo(RandomResizedCrop):
    """What recipes for photographs are made of, in this order: a random resized crop and a flip, a
    policy, jitter, grey and blur, an erased rectangle, and a batch mixed by mixup or CutMix. What
    is not set is left out.

    Source: the recipes of torchvision's references, Liu et al. 2022, "A ConvNet for the 2020s",
    https://arxiv.org/abs/2201.03545, and Touvron et al. 2021, "DeiT",
    https://arxiv.org/abs/2012.12877.
    """

    name = "photo"

    policy: Annotated[
        Literal["none", "rand-augment", "trivial-augment"], Doc("operations on place and colour")
    ] = "none"
    operations: Operations = 2
    magnitude: Magnitude = 9
    brightness: Annotated[float, Ge(0), Doc("largest change of the brightness, as a share")] = 0.0
    contrast: Annotated[float, Ge(0), Doc("largest change of the contrast, as a share")] = 0.0
    saturation: Annotated[float, Ge(0), Doc("largest change of the saturation, as a share")] = 0.0
    hue: Annotated[
        float, Ge(0), Le(0.5), Doc("largest change of the hue, as a share of the circle")
    ] = 0.0
    grey: Annotated[Share, Doc("probability of a grey image")] = 0.0
    blur: Annotated[Share, Doc("probability of a blur, as in colour-jitter")] = 0.0
    erasing: Annotated[
        Share, Doc("probability of a rectangle in the mean colour, as in random-erasing")
    ] = 0.0
    mixup: Annotated[
        float, Ge(0), Doc("mixup's weight is drawn from Beta(mixup, mixup) once per batch; 0: none")
    ] = 0.0
    cutmix: Annotated[
        float,
        Ge(0),
        Doc("likewise for CutMix; with both, either is drawn with probability 0.5 for each batch"),
    ] = 0.0

    @property
    def mixes(self) -> bool:  # type: ignore[override]
        """Whether a batch is mixed."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def by_batch(self) -> bool:
        """Whether images are mixed with others of their batch."""
        return self.mixes

    def check_images(self, channels: int, height: int, width: int) -> None:
        """Grey or colour images, where colours are changed."""
        if self.policy != "none" or self._jitters:
            check_colours(self.name, channels)

    @property
    def _jitters(self) -> bool:
        strengths = (self.brightness, self.contrast, self.saturation, self.hue)
        return any((*strengths, self.grey, self.blur))

    def parts(self, source: BatchSource) -> tuple[Part, ...]:
        """The images, or pairs of them with both labels."""
        images = self._single(source)
        if not self.mixes:
            return (Part(images, source.labels()),)
        make = functools.partial(self._single, source)
        mixup = self.mixup > 0
        if self.mixup and self.cutmix:
            mixup = source.uniform("mixup or cutmix", 1, "batch")[0, 0] < 0.5
        scheme: mixing.Scheme = "mixup" if mixup else "cutmix"
        alpha = self.mixup if mixup else self.cutmix
        return (mixing.mix(source, images, make, scheme, alpha, "batch"),)

    def _single(
        self, source: BatchSource, at: NDArray[np.int64] | None = None, stream: str | None = None
    ) -> Tensor:
        """The images of the share, or of the positions `at`, before they are mixed: in [0, 1]."""
        images = resized_crop.images(source, self.crop, at)
        if self.policy == "rand-augment":
            images = policy.rand_augment(source, images, self.operations, self.magnitude, at)
        elif self.policy == "trivial-augment":
            images = policy.trivial_augment(source, images, at)
        if self._jitters:
            settings = jitter.Jitter(
                self.brightness, self.contrast, self.saturation, self.hue, self.grey, self.blur
            )
            images = jitter.jitter(source, images, settings, at)
        pixels = geometry.unit(images)
        return boxes.erased(source, pixels, self.erasing, AREAS, at) if self.erasing else pixels
