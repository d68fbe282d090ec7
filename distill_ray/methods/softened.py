"""What methods share that compare softened outputs: the temperature, z-scores of the logits, and
how the members of an ensemble are combined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt

from distill_ray._lazy import LazyModule
from distill_ray.methods.method import Method
from distill_ray.settings import Doc
from distill_ray.task import Task

if TYPE_CHECKING:
    from torch import Tensor

    from distill_ray.augmentation.augmentation import Augmentation, Part
    from distill_ray.methods import losses, targets
else:
    losses = LazyModule("distill_ray.methods.losses")
    targets = LazyModule("distill_ray.methods.targets")


@dataclass(frozen=True, kw_only=True)
class Softened(Method):
    """A method that compares softmax(z / T) of student and teachers, or softmax(zscore(z) / T).

    Source of the z-scores: Sun, Ren, Li, Wang & Cao 2024, "Logit standardization in knowledge
    distillation", https://arxiv.org/abs/2403.01427.
    """

    needs_teachers = True

    temperature: Annotated[float, Gt(0), Doc("softens teachers and student alike")] = 4.0
    standardise: Annotated[
        bool,
        Doc("compare z-scores of the logits, (z - mean) / deviation over classes, instead of z"),
    ] = False

    def check_data(self, *, task: Task, real_valued: bool) -> None:
        """Besides the common rules: classes, over which logits are standardised."""
        super().check_data(task=task, real_valued=real_valued)
        if self.standardise and task != "classification":
            raise ValueError(
                f"standardise compares logits of classes, and {task} has none; leave it out"
            )

    def needs_all_classes(self, augmentation: Augmentation) -> str | None:
        """Besides the common rules: the mean and deviation that logits are standardised with."""
        if self.standardise:
            return "standardise"
        return super().needs_all_classes(augmentation)

    def softened(self, logits: Tensor, epoch: int) -> Tensor:
        """Logits (..., K), or their z-scores, over the temperature."""
        return self.comparable(logits) / self.temperature

    def comparable(self, logits: Tensor) -> Tensor:
        """Logits (..., K) as they are divided by T: themselves, or their z-scores."""
        return losses.z_scores(logits) if self.standardise else logits


@dataclass(frozen=True, kw_only=True)
class FromEnsemble(Softened):
    """A method of one teacher that takes N: their mean softmax for its only teacher, or the mean of
    the losses against each. A subclass may offer fewer ways to `combine` them.
    """

    combine: Annotated[
        Literal["mean-softmax", "mean-loss", "add-loss", "sum-softmax", "confident"],
        Doc("how the teachers are combined"),
    ] = "mean-softmax"
    teacher_weights: Annotated[
        tuple[Annotated[float, Ge(0)], ...],
        Doc("relative weight of each teacher, in any unit; empty: all equal"),
    ] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teacher_weights and not any(self.teacher_weights):
            raise ValueError("teacher_weights must not all be 0")
        if self.teacher_weights and self.combine == "confident":
            raise ValueError(
                "combine 'confident' weights the teachers itself; leave teacher_weights out"
            )

    def check_fit(self, *, model: str, augmentation: Augmentation, teachers: int) -> None:
        """Besides the common rules: one weight per teacher, if there are weights, and two teachers
        where one is preferred to another.
        """
        super().check_fit(model=model, augmentation=augmentation, teachers=teachers)
        if self.teacher_weights and len(self.teacher_weights) != teachers:
            raise ValueError(
                f"teacher_weights must be one for each of {teachers} teachers, found "
                f"{len(self.teacher_weights)}"
            )
        if self.combine == "confident" and teachers < 2:
            raise ValueError(f"combine 'confident' needs at least 2 teachers, found {teachers}")

    def needs_all_classes(self, augmentation: Augmentation) -> str | None:
        """Besides the common rules: weights by cross-entropy, which is large where the label is not
        among the largest.
        """
        if self.combine == "confident":
            return "combine 'confident'"
        return super().needs_all_classes(augmentation)

    def shares(self, answers: Tensor, part: Part) -> Sequence[float] | Tensor:
        """The relative weights of the teachers that gave `answers` (N, B, K) for `part`: one for
        each, or one for each and every image, (N, B).
        """
        if self.combine == "confident":
            return targets.confidence(answers, part)
        return self.teacher_weights

    def targets(self, answers: Tensor, part: Part, temperature: float) -> targets.Targets:
        """What the student is compared with: one softened distribution per image, or one for each
        teacher.
        """
        return targets.targets(
            self.comparable(answers),
            temperature,
            self.shares(answers, part),
            merged=self.combine == "mean-softmax",
        )
