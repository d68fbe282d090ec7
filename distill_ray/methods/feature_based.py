"""What methods share that compare features of student and teachers: a base for those of relations
between images and for those of maps inside the networks.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, cast

from annotated_types import Ge

from distill_ray._lazy import LazyModule
from distill_ray.methods.method import Student, Teachers
from distill_ray.methods.softened import FromEnsemble
from distill_ray.settings import Doc

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from distill_ray.augmentation.augmentation import Augmentation, Batch, Part
    from distill_ray.methods import losses
else:
    torch = LazyModule("torch")
    losses = LazyModule("distill_ray.methods.losses")


@dataclass(frozen=True, kw_only=True)
class FeatureBased(FromEnsemble):
    """`labels * CE + alpha * T² KL` and terms between features, each with a weight.

    Features are not among the answers that are stored, so the teachers run in every step, once for
    features and logits. A subclass trains a module whose `network` is what is deployed.
    """

    needs_features = True

    labels: Annotated[float, Ge(0), Doc("weight of the labels")] = 1.0
    alpha: Annotated[float, Ge(0), Doc("weight of distillation by outputs, T² KL as in kd")] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        weights = self.feature_weights
        if self.labels + self.alpha + sum(weights.values()) == 0:
            raise ValueError(f"labels, alpha and {' and '.join(weights)} must not all be 0")

    @property
    @abstractmethod
    def feature_weights(self) -> Mapping[str, float]:
        """The weight of each term between features by its name."""

    @abstractmethod
    def read_teachers(
        self, student: nn.Module, networks: Sequence[nn.Module], images: Tensor
    ) -> tuple[list[Any], Tensor]:
        """What is compared of each of N teachers, and their logits (N, B, K)."""

    @abstractmethod
    def compare(
        self, student: Student, batch: Batch, of_teachers: Sequence[Any]
    ) -> Mapping[str, Tensor]:
        """The terms by name, of the student's last pass; one of weight 0 may be left out."""

    def live_teachers(self, augmentation: Augmentation) -> bool:
        """Their features are needed, not only their predictions."""
        return True

    @property
    def takes_unlabelled(self) -> bool:
        """Unless teachers are weighted by the labels."""
        return self.combine != "confident"

    def loss(self, student: Student, batch: Batch, teachers: Teachers) -> Mapping[str, Tensor]:
        """The weighted sum and its components, averaged over the parts of the batch."""
        parts = [self._of_part(student, batch, part, teachers) for part in batch.parts]
        terms = {name: losses.average([part[name] for part in parts]) for name in parts[0]}
        weights = {"labels": self.labels, "teachers": self.alpha, **self.feature_weights}
        weighted = [weight * terms[name] for name, weight in weights.items() if name in terms]
        return {
            "loss": sum(weighted[1:], weighted[0]),
            **{f"loss/{name}": term for name, term in terms.items()},
        }

    def deploy(self, student: nn.Module) -> nn.Module:
        """The network alone."""
        return cast("nn.Module", student.network)

    def teacher_shares(self, count: int) -> list[float]:
        """The share of each of `count` teachers in a mean of losses."""
        weights = self.teacher_weights or (1.0,) * count
        return [weight / sum(weights) for weight in weights]

    def _of_part(
        self, student: Student, batch: Batch, offered: Part, teachers: Teachers
    ) -> dict[str, Tensor]:
        part = offered if offered.pick is None else student.pick(offered, teachers)[0]
        logits = losses.at_least_float32(student(part.images))
        with torch.no_grad(), student.autocast():
            of_teachers, answers = self.read_teachers(
                student.network, teachers.networks, part.images
            )
        terms = {"labels": losses.cross_entropy(logits, part)}
        if self.alpha:
            terms["teachers"] = losses.ensemble_kd(
                self.comparable(logits),
                self.comparable(answers),
                self.temperature,
                self.combine,
                self.shares(answers, part),
            )
        if any(self.feature_weights.values()):
            terms |= self.compare(student, batch, of_teachers)
        return terms
