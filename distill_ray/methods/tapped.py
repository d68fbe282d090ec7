"""What methods share that compare maps inside of student and teachers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, cast

from annotated_types import Ge

from distill_ray._lazy import LazyModule
from distill_ray.methods.feature_based import FeatureBased
from distill_ray.methods.method import Setup, Student
from distill_ray.models import unit_count
from distill_ray.settings import Doc

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from distill_ray.augmentation.augmentation import Augmentation, Batch
    from distill_ray.methods import losses, taps
else:
    torch = LazyModule("torch")
    losses = LazyModule("distill_ray.methods.losses")
    taps = LazyModule("distill_ray.methods.taps")


@dataclass(frozen=True, kw_only=True)
class Tapped(FeatureBased):
    """Terms between the maps at the ends of units, the parts that a network is a chain of."""

    student_units: Annotated[
        tuple[Annotated[int, Ge(1)], ...],
        Doc("units of the student whose maps are compared, from 1; empty: paired by size"),
    ] = ()
    teacher_units: Annotated[
        tuple[Annotated[int, Ge(1)], ...],
        Doc("units of every teacher that these are compared with, one for each"),
    ] = ()

    projects: ClassVar[bool] = False
    """Whether maps of the student are projected to the width of the teacher's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.student_units) != len(self.teacher_units):
            raise ValueError(
                f"student_units must be as many as teacher_units, found {len(self.student_units)} "
                f"and {len(self.teacher_units)}"
            )

    @abstractmethod
    def map_term(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of one pair of maps, a scalar: (B, C, H, W) of the student and (B, D, H, W) of a
        teacher.
        """

    def chosen(self, pairs: Sequence[taps.Pair]) -> Sequence[taps.Pair]:
        """Those of the pairs by size that are compared."""
        return pairs

    def check_fit(self, *, model: str, augmentation: Augmentation, teachers: int) -> None:
        """Besides the common rules: a student that has the units that are named."""
        super().check_fit(model=model, augmentation=augmentation, teachers=teachers)
        _check_units("student_units", self.student_units, model)

    def check_teachers(self, models: Sequence[str]) -> None:
        """Besides the common rules: teachers that have the units that are named."""
        super().check_teachers(models)
        for model in models:
            _check_units("teacher_units", self.teacher_units, model)

    def student(self, network: nn.Module, setup: Setup) -> nn.Module:
        """The network, which keeps its maps. Raises `ValueError` for networks outside of the
        catalogue, and for units that are not there or cannot be paired.
        """
        return taps.TappedStudent(
            network,
            setup.networks,
            self.pairs(network, setup),
            setup.image_shape,
            project=self.projects,
        )

    def pairs(self, network: nn.Module, setup: Setup) -> list[Sequence[taps.Pair]]:
        """The units that are compared, for each teacher."""
        pairs: list[Sequence[taps.Pair]] = []
        for teacher in setup.networks:
            paired = taps.pairs(
                network, teacher, setup.image_shape, self.student_units, self.teacher_units
            )
            pairs.append(paired if self.student_units else self.chosen(paired))
        return pairs

    def read_teachers(
        self, student: nn.Module, networks: Sequence[nn.Module], images: Tensor
    ) -> tuple[list[list[Tensor]], Tensor]:
        return taps.of_teachers(cast("taps.TappedStudent", student), networks, images)

    def compare(
        self, student: Student, batch: Batch, of_teachers: Sequence[Sequence[Tensor]]
    ) -> Mapping[str, Tensor]:
        """The sum over pairs of maps, averaged over the teachers."""
        kept = cast("taps.TappedStudent", student.network).kept
        terms = []
        for own, others in zip(kept, of_teachers, strict=True):
            of_pairs = [
                self.map_term(
                    *taps.of_one_size(losses.at_least_float32(one), losses.at_least_float32(other))
                )
                for one, other in zip(own, others, strict=True)
            ]
            terms.append(torch.stack(of_pairs).sum())
        shares = self.teacher_shares(len(terms))
        weighted = [share * term for share, term in zip(shares, terms, strict=True)]
        (name,) = self.feature_weights
        return {name: torch.stack(weighted).sum()}


def _check_units(field: str, units: Sequence[int], model: str) -> None:
    """Raise `ValueError` when a network called `model` has fewer units than that."""
    if units and max(units) > unit_count(model):
        raise ValueError(
            f"{field} must be at most {unit_count(model)} for model {model!r}, found {list(units)}"
        )
