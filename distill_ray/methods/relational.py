"""What methods share that compare how the images of a batch lie in the student's and the teachers'
features.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, cast

from annotated_types import Ge

from distill_ray._lazy import LazyModule
from distill_ray.methods.method import Setup, Student, Teachers
from distill_ray.methods.softened import FromEnsemble
from distill_ray.settings import Doc

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from distill_ray.augmentation.augmentation import Augmentation, Batch, Part
    from distill_ray.methods import kept_features, losses, whole_batch
else:
    torch = LazyModule("torch")
    kept_features = LazyModule("distill_ray.methods.kept_features")
    losses = LazyModule("distill_ray.methods.losses")
    whole_batch = LazyModule("distill_ray.methods.whole_batch")


@dataclass(frozen=True, kw_only=True)
class Relational(FromEnsemble):
    """`labels * CE + alpha * T² KL` and terms between the features of a batch, each with a weight.

    Features may differ in their width, since only relations between images are compared. They are
    not among the answers that are stored, so the teachers run in every step.
    """

    labels: Annotated[float, Ge(0), Doc("weight of the labels")] = 1.0
    alpha: Annotated[float, Ge(0), Doc("weight of distillation by outputs, T² KL as in kd")] = 0.0
    features: Annotated[
        Literal["each", "concatenated"],
        Doc("mean of the losses against each teacher's features, or one against all of them"),
    ] = "each"

    def __post_init__(self) -> None:
        super().__post_init__()
        weights = self.relation_weights
        if self.labels + self.alpha + sum(weights.values()) == 0:
            raise ValueError(f"labels, alpha and {' and '.join(weights)} must not all be 0")

    @property
    @abstractmethod
    def relation_weights(self) -> Mapping[str, float]:
        """The weight of each term by its name."""

    @abstractmethod
    def relations(self, student: Tensor, teacher: Tensor) -> Mapping[str, Tensor]:
        """The terms by name, scalars: features (B, D) of the student and (B, E) of one teacher for
        the images of a batch. One of weight 0 may be left out.
        """

    def live_teachers(self, augmentation: Augmentation) -> bool:
        """Their features are needed, not only their predictions."""
        return True

    def student(self, network: nn.Module, setup: Setup) -> nn.Module:
        """The network, which keeps its features. Raises `ValueError` for networks outside of the
        catalogue.
        """
        return kept_features.FeaturesKept(network)

    def loss(self, student: Student, batch: Batch, teachers: Teachers) -> Mapping[str, Tensor]:
        """The weighted sum and its components, averaged over the parts of the batch."""
        network = cast("kept_features.FeaturesKept", student.network)
        network.kept.clear()
        parts = [self._of_part(student, network, batch, part, teachers) for part in batch.parts]
        terms = {name: losses.average([part[name] for part in parts]) for name in parts[0]}
        total = self.labels * terms["labels"]
        if self.alpha:
            total = total + self.alpha * terms["teachers"]
        for name, weight in self.relation_weights.items():
            if weight:
                total = total + weight * terms[name]
        return {"loss": total, **{f"loss/{name}": term for name, term in terms.items()}}

    def deploy(self, student: nn.Module) -> nn.Module:
        """The network alone."""
        return cast("kept_features.FeaturesKept", student).network

    def _of_part(
        self,
        student: Student,
        network: kept_features.FeaturesKept,
        batch: Batch,
        offered: Part,
        teachers: Teachers,
    ) -> dict[str, Tensor]:
        part = offered if offered.pick is None else student.pick(offered, teachers)[0]
        logits = losses.at_least_float32(student(part.images))
        own = losses.at_least_float32(network.kept[-1])
        with student.autocast():
            of_teachers, answers = kept_features.of_teachers(teachers.networks, part.images)

        terms = {"labels": losses.cross_entropy(logits, part)}
        if self.alpha:
            terms["teachers"] = losses.ensemble_kd(
                self.comparable(logits),
                self.comparable(answers),
                self.temperature,
                self.combine,
                self.shares(answers, part),
            )
        if any(self.relation_weights.values()):
            own = whole_batch.of_all_workers(student, batch, own)
            terms |= self._compared(own, [student.gather(each) for each in of_teachers])
        return terms

    def _compared(self, own: Tensor, of_teachers: list[Tensor]) -> dict[str, Tensor]:
        """The mean over teachers of each relation."""
        others = [losses.at_least_float32(each) for each in of_teachers]
        if self.features == "concatenated":
            others = [torch.cat(others, 1)]
        compared = [self.relations(own, other) for other in others]
        shares = [1 / len(others)] * len(others)
        if self.teacher_weights and self.features == "each":
            shares = [weight / sum(self.teacher_weights) for weight in self.teacher_weights]
        terms = {}
        for name in compared[0]:
            weighted = [share * one[name] for share, one in zip(shares, compared, strict=True)]
            terms[name] = torch.stack(weighted).sum()
        return terms
