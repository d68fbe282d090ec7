"""Learning from the labels alone: teachers, and the student from scratch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from distill_ray._lazy import LazyModule
from distill_ray.methods.method import METHODS, Method, Student, Teachers
from distill_ray.settings import Doc

if TYPE_CHECKING:
    from torch import Tensor

    from distill_ray.augmentation.augmentation import Batch, Part
    from distill_ray.methods import losses, task_losses
else:
    losses = LazyModule("distill_ray.methods.losses")
    task_losses = LazyModule("distill_ray.methods.task_losses")


@METHODS.register("supervised")
@dataclass(frozen=True, kw_only=True)
class Supervised(Method):
    r"""`CE(labels, student)`, with mixed labels where the augmentation mixes images; for regression
    the Gaussian negative log-likelihood.

    ```math
    L = w \, \mathrm{CE}(y, z) + (1 - w) \, \mathrm{CE}(y_2, z)
    ```

    - `z`: logits; `y`: the label of an image, `y_2` that of the image mixed with it, `w` the weight
      of the first; w is 1 where nothing is mixed.

    Where the augmentation shows V versions of each image, as AugMix does, the cross-entropy is that
    of the first, clean version, and the Jensen-Shannon divergence between the outputs for all
    versions is added:

    ```math
    L = \mathrm{CE}(y, z_1) + \lambda \frac{1}{V} \sum_v \mathrm{KL}\Big( p_v \,\Big\Vert\,
    \frac{1}{V} \sum_u p_u \Big)
    \qquad p_v = \mathrm{softmax}(z_v)
    ```

    - `λ`: the setting `consistency`, 12 in the paper.

    For regression the outputs are a mean and a log-variance s, with the loss of a target y

    ```math
    L = \frac{1}{2} \Big[ s + \frac{ (y - \mu)^2 }{ e^s } \Big]
    ```

    Source: Zhang et al. 2018 (mixup), https://arxiv.org/abs/1710.09412; Yun et al. 2019 (CutMix),
    https://arxiv.org/abs/1905.04899; Hendrycks et al. 2020 (AugMix),
    https://arxiv.org/abs/1912.02781.

    Example:

    ```yaml
    name: mixed
    teachers: {members: 3, model: wrn-10-1, augmentation: cutmix}
    student: {model: wrn-10-1, method: supervised, augmentation: cutmix}
    search:
      space:
        lr: {log: [0.01, 0.3]}
    ```
    """

    name = "supervised"
    compares_versions = True
    tasks = ("classification", "regression")

    consistency: Annotated[
        float,
        Ge(0),
        Doc(
            "weight of the consistency between versions of an image, where the augmentation "
            "has several"
        ),
    ] = 12.0

    def loss(self, student: Student, batch: Batch, teachers: Teachers) -> Mapping[str, Tensor]:
        """The mean loss over the parts of the batch."""
        return {
            "loss": losses.average(
                [self._loss_of(student(part.images), part) for part in batch.parts]
            )
        }

    def _loss_of(self, logits: Tensor, part: Part) -> Tensor:
        if part.copies == 1:
            return task_losses.task_losses(part).correctness(logits, part)
        versions = logits.chunk(part.copies)
        plain = replace(part, labels=part.labels[: len(versions[0])])
        return losses.cross_entropy(versions[0], plain) + self.consistency * losses.jensen_shannon(
            *versions
        )
