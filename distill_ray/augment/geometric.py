"""Views that move pixels: none at all, mirrored, cropped at a random place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from distill_ray._lazy import LazyModule
from distill_ray.augment.view import VIEWS, Part, View
from distill_ray.settings import Setting

if TYPE_CHECKING:
    from distill_ray.augment import warp
    from distill_ray.augment.epoch import BatchSource
else:
    warp = LazyModule("distill_ray.augment.warp")


@VIEWS.register("identity")
@dataclass(frozen=True, kw_only=True)
class Identity(View):
    """The images as they are."""

    name = "identity"

    def parts(self, source: BatchSource) -> tuple[Part, ...]:
        """One part: every image of the share, unchanged."""
        return (Part(warp.unit(source.images()), source.labels()),)


@VIEWS.register("flip")
@dataclass(frozen=True, kw_only=True)
class Flip(View):
    """Each image mirrored left to right with probability one half."""

    name = "flip"

    def parts(self, source: BatchSource) -> tuple[Part, ...]:
        """One part, drawn per image."""
        return (Part(warp.unit(warp.standard(source, padding=0)), source.labels()),)


@VIEWS.register("crop-flip")
@dataclass(frozen=True, kw_only=True)
class CropFlip(View):
    """Black border of `padding` pixels, a crop of the original size at a uniformly drawn place, then flip: the usual one."""

    name = "crop-flip"

    padding: Annotated[int | None, Setting("width of the border; an eighth of the shorter side if unset", at_least=0)] = None

    def parts(self, source: BatchSource) -> tuple[Part, ...]:
        """One part, drawn per image."""
        return (Part(warp.unit(warp.standard(source, padding=self.padding)), source.labels()),)
