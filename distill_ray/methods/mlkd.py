"""Multi-level distillation: image by image, image against image and class against class, at several
temperatures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt

from distill_ray._lazy import LazyModule
from distill_ray.methods.method import METHODS, Student, Teachers
from distill_ray.methods.softened import FromEnsemble
from distill_ray.settings import Doc

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from distill_ray.augmentation.augmentation import Augmentation, Batch, Part
    from distill_ray.methods import losses, whole_batch
    from distill_ray.methods.targets import Targets
else:
    torch = LazyModule("torch")
    losses = LazyModule("distill_ray.methods.losses")
    whole_batch = LazyModule("distill_ray.methods.whole_batch")

SPREAD = (0.5, 0.75, 1.0, 1.25, 1.5)
"""The temperatures, in units of the setting: 2, 3, 4, 5 and 6 for 4, as published."""


@METHODS.register("mlkd")
@dataclass(frozen=True, kw_only=True)
class MLKD(FromEnsemble):
    r"""`labels * [CE(x) + CE(x')] + sum over five T of (images * [KD(x) + KD(x')] + pairs * B(x) +
    class_pairs * C(x))`.

    ```math
    L = w_1 \big[ \mathrm{CE}(y, s(x)) + \mathrm{CE}(y', s(x')) \big] + \sum_T \Big[ a \, T^2 \big(
    \mathrm{KL}(q \Vert p) + \mathrm{KL}(q' \Vert p') \big) + \frac{b}{B} \big\Vert Q Q^\top - P
    P^\top \big\Vert_F^2 + \frac{c}{K} \big\Vert Q^\top Q - P^\top P \big\Vert_F^2 \Big]
    ```

    - `x`, `x'`: the images after crop, flip and rotation, and copies that are augmented more
      strongly, the two parts of the augmentation `additional`.
    - `p`, `q`: softmax at T of the logits of student and teachers for x, `p'`, `q'` for x'; `P`,
      `Q`: the rows p and q of the B images in a batch, that of all workers, (B, K).
    - `T`: `temperature` times 1/2, 3/4, 1, 5/4 and 3/2.
    - `w_1`, `a`, `b`, `c`: the settings `labels`, `images`, `pairs`, `class_pairs`.
    - With several teachers q is their mean softmax (`combine: mean-softmax`), or the terms of each
      are averaged (`mean-loss`). Weights for each image are not defined for pairs and classes, so
      there is no `confident`.

    Defaults are the weights that the published code has in effect: it multiplies the terms for x by
    a mask of the half of images (or classes) that the teacher is less sure of, but after their
    mean, so that it halves them. It also takes x in the place of x' at two of the temperatures, and
    leaves out pairs and classes for x', as done here. `standardise` compares z-scores, as in `kd`.

    Source: Jin, Wang & Lin 2023, "Multi-level logit distillation",
    https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html.

    Example:

    ```yaml
    name: levels
    teachers: {members: 3, model: wrn-10-1}
    student:
      model: wrn-10-1
      method: mlkd
      augmentation: {name: additional, scheme: autoaugment}
    search:
      space:
        temperature: {log: [1, 8]}
        pairs: {log: [0.1, 2]}
    ```
    """

    name = "mlkd"

    temperature: Annotated[
        float, Gt(0), Doc("middle of the five that soften teachers and student alike")
    ] = 4.0
    combine: Annotated[
        Literal["mean-softmax", "mean-loss"], Doc("how the teachers are combined")
    ] = "mean-softmax"
    labels: Annotated[float, Ge(0), Doc("weight of the labels, of x and x'")] = 0.1
    images: Annotated[float, Ge(0), Doc("weight of distillation image by image, of x and x'")] = 0.9
    pairs: Annotated[
        float, Ge(0), Doc("weight of the products of predictions for pairs of images")
    ] = 0.45
    class_pairs: Annotated[
        float, Ge(0), Doc("weight of the products of predictions for pairs of classes")
    ] = 0.45

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels + self.images + self.pairs + self.class_pairs == 0:
            raise ValueError("labels, images, pairs and class_pairs must not all be 0")

    def check_fit(self, *, model: str, augmentation: Augmentation, teachers: int) -> None:
        """Besides the common rules: an augmentation of images and copies."""
        super().check_fit(model=model, augmentation=augmentation, teachers=teachers)
        if augmentation.part_count < 2:
            raise ValueError(
                f"method {self.name!r} needs images and augmented copies beside them; augmentation "
                f"{augmentation.name!r} has none, additional has"
            )

    @property
    def takes_unlabelled(self) -> bool:
        """Only the cross-entropy needs labels."""
        return True

    def loss(self, student: Student, batch: Batch, teachers: Teachers) -> Mapping[str, Tensor]:
        """The weighted sum and its components, each summed over temperatures."""
        images, *offered = batch.parts
        labels, by_image, pairs, classes = self._of_part(
            student, images, teachers(images), batch=batch
        )
        of_copies = [self._of_part(student, *student.pick(part, teachers)) for part in offered]
        labels_of_copies, by_copy, *_ = (
            losses.average(term) for term in zip(*of_copies, strict=True)
        )
        labels, by_image = labels + labels_of_copies, by_image + by_copy
        distilled = self.images * by_image + self.pairs * pairs + self.class_pairs * classes
        return {
            "loss": self.labels * labels + distilled,
            "loss/labels": labels,
            "loss/images": by_image,
            "loss/pairs": pairs,
            "loss/classes": classes,
        }

    def _of_part(
        self, student: Student, part: Part, answers: Tensor, batch: Batch | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four terms of a part; those of pairs and classes are 0 without a `batch`."""
        logits = losses.at_least_float32(student(part.images))
        compared = self.comparable(logits)
        temperatures = [self.temperature * factor for factor in SPREAD]
        by_image = torch.zeros_like(logits[0, 0])
        pairs, classes = by_image, by_image
        for temperature in temperatures:
            goal = self.targets(answers, part, temperature)
            log_p = (compared / temperature).log_softmax(-1)
            divergence = losses.divergence(goal.log_q, log_p)
            by_image = by_image + temperature**2 * goal.mean(divergence)

        if batch is not None:  # the rest compares images of the whole batch
            compared = whole_batch.of_all_workers(student, batch, compared)
            answers = student.gather(answers.transpose(0, 1).contiguous()).transpose(0, 1)
            for temperature in temperatures:
                goal = self.targets(answers, part, temperature)
                of_pairs, of_classes = products((compared / temperature).softmax(-1), goal)
                pairs, classes = pairs + of_pairs, classes + of_classes
        return losses.cross_entropy(logits, part), by_image, pairs, classes


def products(p: Tensor, goal: Targets) -> tuple[Tensor, Tensor]:
    """How far the products of predictions p (B, K) are from those of the targets, for pairs of
    images, over B, and for pairs of classes, over K.
    """
    q = goal.log_q.exp()
    images, classes = p.shape
    of_pairs = (q @ q.mT - p @ p.mT).square().sum((-2, -1)) / images
    of_classes = (q.mT @ q - p.mT @ p).square().sum((-2, -1)) / classes
    return goal.mean_of_batches(of_pairs), goal.mean_of_batches(of_classes)
