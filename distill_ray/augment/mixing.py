"""Mixup and CutMix: images made of two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from distill_ray._lazy import LazyModule
from distill_ray.augment.standard import StandardView
from distill_ray.augment.view import VIEWS, Part, Per
from distill_ray.settings import Setting

if TYPE_CHECKING:
    from distill_ray.augment.epoch import BatchSource
    from distill_ray.augment.kernels import mixing, usual
else:
    mixing = LazyModule("distill_ray.augment.kernels.mixing")
    usual = LazyModule("distill_ray.augment.kernels.usual")


@VIEWS.register("mixup")
@dataclass(frozen=True, kw_only=True)
class Mixup(StandardView):
    """The usual augmentation, then weighted means of pairs of images and of their labels.

    Source: Zhang et al. 2018, "mixup".
    """

    name = "mixup"
    mixes = True

    alpha: Annotated[float, Setting("weights are drawn from Beta(alpha, alpha)", above=0)] = 1.0
    per: Annotated[Per, Setting("whether weight and partner are drawn per image or once per batch")] = "batch"

    def parts(self, source: BatchSource) -> tuple[Part, ...]:
        """One part, with partner labels and the weight of the own label."""
        return (mixing.mix(source, usual.images(source, self.usual), self.usual, "mixup", self.alpha, self.per),)


@VIEWS.register("cutmix")
@dataclass(frozen=True, kw_only=True)
class CutMix(StandardView):
    """The usual augmentation, then a box of another image pasted in, and the labels mixed by area.

    Source: Yun et al. 2019, "CutMix".
    """

    name = "cutmix"
    mixes = True

    alpha: Annotated[float, Setting("the area outside the box is drawn from Beta(alpha, alpha)", above=0)] = 1.0
    per: Annotated[Per, Setting("whether box and partner are drawn per image or once per batch")] = "image"

    def parts(self, source: BatchSource) -> tuple[Part, ...]:
        """One part, with partner labels and the weight of the own label."""
        return (mixing.mix(source, usual.images(source, self.usual), self.usual, "cutmix", self.alpha, self.per),)
