"""Learning from the labels alone: teachers, and the student from scratch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from distill_ray._lazy import LazyModule
from distill_ray.methods.method import METHODS, Method, Student, Teachers
from distill_ray.settings import Setting

if TYPE_CHECKING:
    from torch import Tensor

    from distill_ray.augment.view import Batch, Part
    from distill_ray.methods import losses, task_losses
else:
    losses = LazyModule("distill_ray.methods.losses")
    task_losses = LazyModule("distill_ray.methods.task_losses")


@METHODS.register("supervised")
@dataclass(frozen=True, kw_only=True)
class Supervised(Method):
    """Cross-entropy against the labels, mixed ones where the view mixes images; for regression the Gaussian likelihood.

    Where the view shows several versions of each image, as AugMix does, the cross-entropy is that of the first version, and
    `consistency` times the Jensen-Shannon divergence between the outputs for all versions is added (Hendrycks et al. 2020).
    """

    name = "supervised"
    compares_versions = True
    tasks = ("classification", "regression")

    consistency: Annotated[
        float, Setting("weight of agreement between versions of an image, if the view has some", at_least=0)
    ] = 12.0

    def loss(self, student: Student, batch: Batch, teachers: Teachers) -> Mapping[str, Tensor]:
        """The mean loss over the parts of the batch."""
        return {"loss": losses.average([self._loss_of(student(part.images), part) for part in batch.parts])}

    def _loss_of(self, logits: Tensor, part: Part) -> Tensor:
        if part.copies == 1:
            return task_losses.task_losses(part).correctness(logits, part)
        versions = logits.chunk(part.copies)
        plain = replace(part, labels=part.labels[: len(versions[0])])
        return losses.cross_entropy(versions[0], plain) + self.consistency * losses.jensen_shannon(*versions)
