"""What methods share that compare how the images of a batch lie in the student's and the teachers'
features.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, cast

from distill_ray._lazy import LazyModule
from distill_ray.methods.feature_based import FeatureBased
from distill_ray.methods.method import Setup, Student
from distill_ray.settings import Doc

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from distill_ray.augmentation.augmentation import Batch
    from distill_ray.methods import kept_features, losses, whole_batch
else:
    torch = LazyModule("torch")
    kept_features = LazyModule("distill_ray.methods.kept_features")
    losses = LazyModule("distill_ray.methods.losses")
    whole_batch = LazyModule("distill_ray.methods.whole_batch")


@dataclass(frozen=True, kw_only=True)
class Relational(FeatureBased):
    """Terms between the features before the classifier, which may differ in width, since only
    relations between images are compared.
    """

    features: Annotated[
        Literal["each", "concatenated"],
        Doc("mean of the losses against each teacher's features, or one against all of them"),
    ] = "each"

    @abstractmethod
    def relations(self, student: Tensor, teacher: Tensor) -> Mapping[str, Tensor]:
        """The terms by name, scalars: features (B, D) of the student and (B, E) of one teacher for
        the images of a batch. One of weight 0 may be left out.
        """

    def student(self, network: nn.Module, setup: Setup) -> nn.Module:
        """The network, which keeps its features. Raises `ValueError` for networks outside of the
        catalogue.
        """
        return kept_features.FeaturesKept(network)

    def read_teachers(
        self, student: nn.Module, networks: Sequence[nn.Module], images: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        return kept_features.of_teachers(networks, images)

    def compare(
        self, student: Student, batch: Batch, of_teachers: Sequence[Tensor]
    ) -> Mapping[str, Tensor]:
        """The mean over teachers of each relation, over the batch of all workers."""
        own = losses.at_least_float32(cast("kept_features.FeaturesKept", student.network).kept)
        own = whole_batch.of_all_workers(student, batch, own)
        others = [student.gather(losses.at_least_float32(features)) for features in of_teachers]
        if self.features == "concatenated":
            return self.relations(own, torch.cat(others, 1))
        compared = [self.relations(own, other) for other in others]
        shares = self.teacher_shares(len(others))
        terms = {}
        for name in compared[0]:
            weighted = [share * one[name] for share, one in zip(shares, compared, strict=True)]
            terms[name] = torch.stack(weighted).sum()
        return terms
