"""Learning from the labels alone: teachers, and the student from scratch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distill_ray._lazy import LazyModule
from distill_ray.methods.method import METHODS, Method, Student, Teachers

if TYPE_CHECKING:
    from torch import Tensor

    from distill_ray.augment.view import Batch
    from distill_ray.methods import losses
else:
    losses = LazyModule("distill_ray.methods.losses")


@METHODS.register("supervised")
@dataclass(frozen=True, kw_only=True)
class Supervised(Method):
    """Cross-entropy against the labels, mixed ones where the view mixes images."""

    name = "supervised"

    def loss(self, student: Student, batch: Batch, teachers: Teachers) -> Mapping[str, Tensor]:
        """The mean cross-entropy over the parts of the batch."""
        return {"loss": losses.average([losses.cross_entropy(student(part.images), part) for part in batch.parts])}
