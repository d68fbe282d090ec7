"""Distillation by correlation: the student ranks classes and images as the teachers do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge

from distill_ray._lazy import LazyModule
from distill_ray.methods.method import METHODS, Student, Teachers
from distill_ray.methods.softened import FromEnsemble
from distill_ray.settings import Doc

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from distill_ray.augmentation.augmentation import Batch, Part
    from distill_ray.methods import losses, whole_batch
else:
    torch = LazyModule("torch")
    losses = LazyModule("distill_ray.methods.losses")
    whole_batch = LazyModule("distill_ray.methods.whole_batch")

SMALLEST_PRODUCT = 1e-8
"""Added to the product of two lengths that divides; part of the published definition."""


@METHODS.register("dist")
@dataclass(frozen=True, kw_only=True)
class DIST(FromEnsemble):
    r"""`labels * CE + T² [inter * (1 - correlation over classes) + intra * (1 - correlation over
    images)]`.

    ```math
    L = w_1 \, \mathrm{CE}(y, z) + T^2 \Big[ b \, \frac{1}{B} \sum_i \big( 1 - \rho(p_{i \cdot},
    q_{i \cdot}) \big) + c \, \frac{1}{K} \sum_k \big( 1 - \rho(p_{\cdot k}, q_{\cdot k}) \big)
    \Big]
    ```

    - `p_ik`, `q_ik`: softmax at the temperature T of the logits of student and teachers for image i
      of the B in a batch, class k of K; `ρ`: Pearson's correlation.
    - `w_1`, `b`, `c`: the settings `labels`, `inter`, `intra`. The batch is that of all workers.
    - With several teachers q is their mean softmax (`combine: mean-softmax`), or the correlations
      with each are averaged (`mean-loss`). Weights for each image are not defined for the
      correlation over images, so there is no `confident`.

    The factor T² is that of the published code, not of the paper; the paper has T = 1 for ImageNet
    and T = 4 for CIFAR-100. `standardise` compares the softmax of z-scores.

    Source: Huang, You, Wang, Qian & Xu 2022, "Knowledge distillation from a stronger teacher",
    https://arxiv.org/abs/2205.10536.

    Example:

    ```yaml
    name: correlated
    teachers: {members: 3, model: wrn-10-1}
    student: {model: wrn-10-1, method: dist}
    search:
      space:
        temperature: {log: [1, 8]}
        intra: {uniform: [0, 4]}
    ```
    """

    name = "dist"

    combine: Annotated[
        Literal["mean-softmax", "mean-loss"], Doc("how the teachers are combined")
    ] = "mean-softmax"
    labels: Annotated[float, Ge(0), Doc("weight of the labels")] = 1.0
    inter: Annotated[
        float, Ge(0), Doc("weight of the correlation over the classes of an image")
    ] = 2.0
    intra: Annotated[float, Ge(0), Doc("weight of the correlation over the images of a batch")] = (
        2.0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels + self.inter + self.intra == 0:
            raise ValueError("labels, inter and intra must not all be 0")

    @property
    def takes_unlabelled(self) -> bool:
        """Only the cross-entropy needs labels."""
        return True

    def loss(self, student: Student, batch: Batch, teachers: Teachers) -> Mapping[str, Tensor]:
        """The weighted sum and its components, averaged over the parts of the batch."""
        terms = [
            self._of_part(student, batch, *student.pick(part, teachers)) for part in batch.parts
        ]
        labels, inter, intra = (losses.average(term) for term in zip(*terms, strict=True))
        return {
            "loss": self.labels * labels + self.inter * inter + self.intra * intra,
            "loss/labels": labels,
            "loss/inter": inter,
            "loss/intra": intra,
        }

    def _of_part(
        self, student: Student, batch: Batch, part: Part, answers: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        logits = losses.at_least_float32(student(part.images))
        goal = self.targets(answers, part, self.temperature)
        p = (self.comparable(logits) / self.temperature).softmax(-1)
        q = goal.log_q.exp()
        inter = goal.mean(1 - correlation(p, q))

        every_p = whole_batch.of_all_workers(student, batch, p)
        every_q = whole_batch.of_all_workers(student, batch, q.transpose(0, 1)).transpose(0, 1)
        over_images = correlation(every_p.mT, every_q.mT).mean(-1)
        intra = goal.mean_of_batches(1 - over_images)

        scale = self.temperature**2
        return losses.cross_entropy(logits, part), scale * inter, scale * intra


def correlation(one: Tensor, other: Tensor) -> Tensor:
    """Pearson's correlation over the last axis; 0 where one side does not vary."""
    one, other = (side - side.mean(-1, keepdim=True) for side in (one, other))
    lengths = torch.linalg.vector_norm(one, dim=-1) * torch.linalg.vector_norm(other, dim=-1)
    correlations: Tensor = (one * other).sum(-1) / (lengths + SMALLEST_PRODUCT)
    return correlations
