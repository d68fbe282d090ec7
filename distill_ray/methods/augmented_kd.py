"""Distillation on images and, beside them, on the same images more strongly augmented."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge

from distill_ray._lazy import LazyModule
from distill_ray.methods.method import METHODS, Student, Teachers
from distill_ray.methods.softened import FromEnsemble
from distill_ray.settings import Doc

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from distill_ray.augmentation.augmentation import Augmentation, Batch, Part
    from distill_ray.methods import losses
else:
    torch = LazyModule("torch")
    losses = LazyModule("distill_ray.methods.losses")


@METHODS.register("augmented-kd")
@dataclass(frozen=True, kw_only=True)
class AugmentedKD(FromEnsemble):
    r"""`labels * CE(x) + alpha * [original * KD(x) + mixed_labels * CE(x') + augmented * KD(x')]`
    for images x and copies x'.

    ```math
    L = r \, \mathrm{CE}(y, s(x)) + a \, \big[ w_1 \mathrm{KD}(x) + w_2 \, \mathrm{CE}(y', s(x'))
    + w_3 \mathrm{KD}(x') \big]
    ```

    ```math
    \mathrm{KD}(x) = T^2 \, \mathrm{KL}\big( \mathrm{softmax}(t(x) / T) \,\big\Vert\,
    \mathrm{softmax}(s(x) / T) \big)
    ```

    - `x`, `x'`: the images after crop, flip and rotation, and copies that are augmented more
      strongly, the two parts of the augmentation; `y`, `y'`: their labels, mixed ones for mixed
      copies.
    - `s`, `t`: logits of the student and of the teachers; several are combined, and
      logits standardised, as in `kd`.
    - `r`, `a`, `w_1`, `w_2`, `w_3`: the settings `labels`, `alpha`, `original`, `mixed_labels`,
      `augmented`.

    x and x' have separate forward passes, and so separate batch statistics. The target for x' is
    the teachers' prediction for x' itself; its mixed label counts only through `mixed_labels`,
    which the paper does not use.

    Where the augmentation picks images (CutMixPick), x' are those picked; the student scores the
    pool in evaluation mode. The published code leaves it in training mode, so that its running
    statistics also see the pool.

    Source: Wang, Lohit, Jones & Fu 2022, "What makes a good data augmentation in knowledge
    distillation", as coded, https://arxiv.org/abs/2012.02909.

    Example:

    ```yaml
    name: cutmix-beside
    teachers: {members: 1, model: wrn-10-1}
    student:
      model: wrn-10-1
      method: augmented-kd
      augmentation: {name: additional, scheme: cutmix}
    search:
      space:
        temperature: {log: [1, 20]}
        augmented: {uniform: [0.2, 2]}
    ```
    """

    name = "augmented-kd"
    even_tail = True
    needed: ClassVar[str] = "labels and alpha, or original, mixed_labels and augmented"

    labels: Annotated[float, Ge(0), Doc("weight of the label loss on the images")] = 0.1
    alpha: Annotated[float, Ge(0), Doc("weight of the three terms below together")] = 0.9
    original: Annotated[float, Ge(0), Doc("weight of distillation on the images")] = 1.0
    mixed_labels: Annotated[
        float, Ge(0), Doc("weight of the label loss on the augmented copies")
    ] = 0.0
    augmented: Annotated[float, Ge(0), Doc("weight of distillation on the augmented copies")] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self._learns():
            raise ValueError(f"{self.needed}, must not all be 0")

    def check_fit(self, *, model: str, augmentation: Augmentation, teachers: int) -> None:
        """Besides the common rules: an augmentation of images and copies."""
        super().check_fit(model=model, augmentation=augmentation, teachers=teachers)
        if augmentation.part_count < 2:
            raise ValueError(
                f"method {self.name!r} needs images and augmented copies beside them; "
                f"augmentation {augmentation.name!r} has none"
            )

    def loss(self, student: Student, batch: Batch, teachers: Teachers) -> Mapping[str, Tensor]:
        """The weighted sum and its components."""
        images, *offered = batch.parts
        logits = losses.at_least_float32(student(images.images))
        labels = losses.cross_entropy(logits, images)
        original = self._distilled(logits, teachers(images), images)
        mixed, augmented = (
            self._of_copies(student, offered, teachers)
            if offered
            else (torch.zeros_like(labels),) * 2
        )
        terms = self.original * original + self.mixed_labels * mixed + self.augmented * augmented
        return {
            "loss": self.labels * labels + self.alpha * terms,
            "loss/labels": labels,
            "loss/original": original,
            "loss/mixed-labels": mixed,
            "loss/augmented": augmented,
        }

    def _learns(self) -> bool:
        return self.labels + self.alpha * (self.original + self.mixed_labels + self.augmented) > 0

    def _of_copies(
        self, student: Student, offered: list[Part], teachers: Teachers
    ) -> tuple[Tensor, Tensor]:
        mixed, augmented = [], []
        for part, answers in (student.pick(part, teachers) for part in offered):
            logits = losses.at_least_float32(student(part.images))
            mixed.append(losses.cross_entropy(logits, part))
            augmented.append(self._distilled(logits, answers, part))
        return losses.average(mixed), losses.average(augmented)

    def _distilled(self, logits: Tensor, answers: Tensor, part: Part) -> Tensor:
        return losses.ensemble_kd(
            self.comparable(logits),
            self.comparable(answers),
            self.temperature,
            self.combine,
            self.shares(answers, part),
        )
