"""Distillation of an ensemble into one network by softened outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from distill_ray._lazy import LazyModule
from distill_ray.methods.method import METHODS, Method, Student, Teachers
from distill_ray.settings import Setting

if TYPE_CHECKING:
    from torch import Tensor

    from distill_ray.augmentation.augmentation import Augmentation, Batch
    from distill_ray.methods import losses
else:
    losses = LazyModule("distill_ray.methods.losses")


@METHODS.register("kd")
@dataclass(frozen=True, kw_only=True)
class EnsembleKD(Method):
    r"""`(1 - alpha) * CE(labels, student) + alpha * T² KL(teachers || student)`, with the outputs
    in KL softened by T.

    ```math L = (1 - \alpha) \, \mathrm{CE}(y, z) + \alpha \, T^2 \, \mathrm{KL}\Big( \sum_n w_n q_n
    \,\Big\Vert\, p \Big) \qquad q_n = \mathrm{softmax}(z_n / T) \quad p = \mathrm{softmax}(z / T)
    ```

    - `z`, `z_n`: logits of the student and of teacher n of N; `y`: the labels, which the student is
      compared with at T = 1.
    - `w_n`: the teachers' `weights`, normalised to sum to 1, or 1 / N.
    - CE and KL are summed over classes and averaged over images; no gradient reaches the teachers.

    That is `combine: mean-softmax`. The others replace the second term by

    - `mean-loss`: sum over n of `w_n T² KL(q_n || p)`, larger by a constant and with the same
      gradient;
    - `add-loss`: N times `mean-loss`;
    - `sum-softmax`: the divergence from the sum of the `q_n`, of mass N, with the gradient of
      `add-loss`.

    The combinations are those of Jain, Patel & Viradiya 2022, "Improved distillation with ensemble
    of calibrated models",
    https://github.com/RiyanshuJain/Improved-Distillation-with-Ensemble-of-Calibrated-models. Its
    script for mean-softmax does not divide by N and computes `sum-softmax`.

    Source: Hinton, Vinyals & Dean 2015, "Distilling the knowledge in a neural network", section 2,
    https://arxiv.org/abs/1503.02531.

    Example:

    ```yaml
    name: softened
    teachers: {members: 4, model: wrn-10-1}
    student: {model: wrn-10-1, method: kd}
    search:
      space:
        temperature: {log: [1, 20]}
        alpha: {uniform: [0.1, 1]}
        combine: {choice: [mean-softmax, add-loss]}
    ```
    """

    name = "kd"
    needs_teachers = True
    even_tail = True

    temperature: Annotated[float, Setting("softens teachers and student alike", above=0)] = 4.0
    alpha: Annotated[
        float,
        Setting("weight of the teachers; the labels' weight is 1 - alpha", at_least=0, at_most=1),
    ] = 0.9
    combine: Annotated[
        Literal["mean-softmax", "mean-loss", "add-loss", "sum-softmax"],
        Setting("how the teachers are combined"),
    ] = "mean-softmax"
    weights: Annotated[
        tuple[float, ...],
        Setting("relative weight of each teacher, in any unit; empty: all equal", at_least=0),
    ] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights and not any(self.weights):
            raise ValueError("weights must not all be 0")

    def check_fit(self, *, model: str, augmentation: Augmentation, teachers: int) -> None:
        """Besides the common rules: one weight per teacher, if there are weights."""
        super().check_fit(model=model, augmentation=augmentation, teachers=teachers)
        if self.weights and len(self.weights) != teachers:
            raise ValueError(
                f"weights must be one for each of {teachers} teachers, found {len(self.weights)}"
            )

    def loss(self, student: Student, batch: Batch, teachers: Teachers) -> Mapping[str, Tensor]:
        """The weighted sum, with its two components as `"loss/labels"` and `"loss/teachers"`,
        averaged over the parts.
        """
        from_labels, from_teachers = [], []
        for offered in batch.parts:
            part, answers = student.pick(offered, teachers)
            logits = losses.at_least_float32(student(part.images))
            from_labels.append(losses.cross_entropy(logits, part))
            from_teachers.append(
                losses.ensemble_kd(logits, answers, self.temperature, self.combine, self.weights)
            )
        labels, distilled = losses.average(from_labels), losses.average(from_teachers)
        return {
            "loss": labels.lerp(distilled, self.alpha),
            "loss/labels": labels,
            "loss/teachers": distilled,
        }
