"""The usual augmentation: crop, flip, rotation, drawn per image. Alone it is a view, and stronger views start from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from distill_ray._lazy import LazyModule
from distill_ray.augment.view import VIEWS, Part, View
from distill_ray.settings import Setting

if TYPE_CHECKING:
    from torch import Tensor

    from distill_ray.augment.epoch import BatchSource
    from distill_ray.augment.kernels import geometry, usual
else:
    geometry = LazyModule("distill_ray.augment.kernels.geometry")
    usual = LazyModule("distill_ray.augment.kernels.usual")


@dataclass(frozen=True)
class Usual:
    """Settings of the usual augmentation: in this order a crop out of a black border of `padding` pixels (unset: an eighth of
    the shorter side), a flip with probability one half, a rotation by up to `rotation` degrees; or in the opposite order.
    """

    padding: int | None = 0
    flip: bool = False
    rotation: float = 0.0
    rotate_first: bool = False


@dataclass(frozen=True, kw_only=True)
class StandardView(View):
    """Base of the views that change images which the usual augmentation has been applied to."""

    padding: Annotated[int | None, Setting("border of the crop; an eighth of the shorter side if unset", at_least=0)] = None
    flip: Annotated[bool, Setting("mirror half of the images")] = True
    rotation: Annotated[float, Setting("rotate by up to that many degrees", at_least=0, at_most=180)] = 0.0

    @property
    def usual(self) -> Usual:
        """The augmentation that comes first."""
        return Usual(self.padding, self.flip, self.rotation)

    def check_images(self, channels: int, height: int, width: int) -> None:
        """The border of the crop must be smaller than the image."""
        check_padding(self.padding, height, width)


def check_padding(padding: int | None, height: int, width: int) -> None:
    """Raise `ValueError` where a crop could miss the image."""
    if padding is not None and padding >= min(height, width):
        raise ValueError(f"padding must be below the side of the images, {min(height, width)}, found {padding}")


def plain(images: Tensor, source: BatchSource) -> tuple[Part, ...]:
    """One part of uint8 images (B, C, H, W) with their own labels; its images are in [0, 1]."""
    return (Part(geometry.unit(images), source.labels()),)


@VIEWS.register("identity")
@dataclass(frozen=True, kw_only=True)
class Identity(View):
    """The images as they are."""

    name = "identity"
    real_valued = True

    def parts(self, source: BatchSource) -> tuple[Part, ...]:
        """One part: every image of the share, unchanged."""
        return plain(source.images(), source)


@VIEWS.register("flip")
@dataclass(frozen=True, kw_only=True)
class Flip(View):
    """Each image mirrored left to right with probability one half."""

    name = "flip"

    def parts(self, source: BatchSource) -> tuple[Part, ...]:
        """One part, drawn per image."""
        return plain(usual.images(source, Usual(flip=True)), source)


@VIEWS.register("crop")
@dataclass(frozen=True, kw_only=True)
class Crop(View):
    """A crop of the original size at a uniformly drawn place of the black-bordered image."""

    name = "crop"
    mirrored = False

    padding: Annotated[int | None, Setting("width of the border; an eighth of the shorter side if unset", at_least=0)] = None

    def check_images(self, channels: int, height: int, width: int) -> None:
        """The border must be smaller than the image."""
        check_padding(self.padding, height, width)

    def parts(self, source: BatchSource) -> tuple[Part, ...]:
        """One part, drawn per image."""
        return plain(usual.images(source, Usual(self.padding, flip=self.mirrored)), source)


@VIEWS.register("crop-flip")
@dataclass(frozen=True, kw_only=True)
class CropFlip(Crop):
    """A crop of the black-bordered image, then flip: the usual augmentation of small images."""

    name = "crop-flip"
    mirrored = True


@VIEWS.register("rotation")
@dataclass(frozen=True, kw_only=True)
class Rotation(StandardView):
    """Crop, flip, and rotation about the centre, to the nearest pixel, black outside.

    Source: the "ensemble of calibrated models" system, which trains all networks on it.
    """

    name = "rotation"

    rotation: Annotated[float, Setting("rotate by up to that many degrees", above=0, at_most=180)] = 15.0

    def parts(self, source: BatchSource) -> tuple[Part, ...]:
        """One part, drawn per image."""
        return plain(usual.images(source, self.usual), source)
