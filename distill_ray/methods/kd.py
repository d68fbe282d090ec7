"""Distillation of an ensemble into one network by softened outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Le

from distill_ray._lazy import LazyModule
from distill_ray.methods.method import METHODS, Student, Teachers
from distill_ray.methods.softened import FromEnsemble
from distill_ray.settings import Doc

if TYPE_CHECKING:
    from torch import Tensor

    from distill_ray.augmentation.augmentation import Batch, Part
    from distill_ray.methods import losses
else:
    losses = LazyModule("distill_ray.methods.losses")


@METHODS.register("kd")
@dataclass(frozen=True, kw_only=True)
class EnsembleKD(FromEnsemble):
    r"""`(1 - alpha) * CE(labels, student) + alpha * T² KL(teachers || student)`, with the outputs
    in KL softened by T.

    ```math
    L = (1 - \alpha) \, \mathrm{CE}(y, z) + \alpha \, T^2 \, \mathrm{KL}\Big( \sum_n w_n q_n
    \,\Big\Vert\, p \Big)
    \qquad q_n = \mathrm{softmax}(z_n / T) \quad p = \mathrm{softmax}(z / T)
    ```

    - `z`, `z_n`: logits of the student and of teacher n of N; `y`: the labels, which the student is
      compared with at T = 1.
    - `w_n`: the teachers' `teacher_weights`, normalised to sum to 1, or 1 / N.
    - CE and KL are summed over classes and averaged over images; no gradient reaches the teachers.

    That is `combine: mean-softmax`. The others replace the second term by

    - `mean-loss`: sum over n of `w_n T² KL(q_n || p)`, larger by a constant and with the same
      gradient;
    - `add-loss`: N times `mean-loss`;
    - `sum-softmax`: the divergence from the sum of the `q_n`, of mass N, with the gradient of
      `add-loss`;
    - `confident`: `mean-loss` with weights for each image that favour teachers which are right
      about it, of cross-entropies c_n against its label:

    ```math
    w_n = \frac{1}{N - 1} \Big[ 1 - \frac{ e^{c_n} }{ \sum_m e^{c_m} } \Big]
    ```

    The weights are those of Zhang, Chen & Wang 2022, "Confidence-aware multi-teacher knowledge
    distillation", https://arxiv.org/abs/2201.00007, whose code divides by N once more.

    With `divergence: reverse` KL(q || p) becomes KL(p || q), and with `jensen-shannon` the mean of
    the divergences of p and q from (p + q) / 2. With `standardise` z-scores take the place of the
    logits in q and p (not in CE): Sun et al. 2024, "Logit standardization in knowledge
    distillation", https://arxiv.org/abs/2403.01427. Its code divides the squared deviation by K - 1
    classes and the paper by K, as done here; the difference is a factor sqrt(K / (K - 1)) of T.

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
    even_tail = True

    alpha: Annotated[
        float, Ge(0), Le(1), Doc("weight of the teachers; the labels' weight is 1 - alpha")
    ] = 0.9
    divergence: Annotated[
        Literal["forward", "reverse", "jensen-shannon"],
        Doc("KL(teachers || student), KL(student || teachers), or their symmetric mixture"),
    ] = "forward"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.divergence != "forward" and self.combine == "sum-softmax":
            raise ValueError(
                "combine 'sum-softmax' is no probability, and only divergence 'forward' is defined "
                f"for it, found {self.divergence!r}"
            )

    @property
    def takes_unlabelled(self) -> bool:
        """Unless teachers are weighted by the labels."""
        return self.combine != "confident"

    def loss(self, student: Student, batch: Batch, teachers: Teachers) -> Mapping[str, Tensor]:
        """The weighted sum, with its two components as `"loss/labels"` and `"loss/teachers"`,
        averaged over the parts.
        """
        from_labels, from_teachers = [], []
        for offered in batch.parts:
            part, answers = student.pick(offered, teachers)
            logits = losses.at_least_float32(student(part.images))
            from_labels.append(losses.cross_entropy(logits, part))
            from_teachers.append(self._distilled(logits, answers, part))
        labels, distilled = losses.average(from_labels), losses.average(from_teachers)
        return {
            "loss": labels.lerp(distilled, self.alpha),
            "loss/labels": labels,
            "loss/teachers": distilled,
        }

    def _distilled(self, logits: Tensor, answers: Tensor, part: Part) -> Tensor:
        logits, shares = self.comparable(logits), self.shares(answers, part)
        if self.divergence == "forward":
            return losses.ensemble_kd(
                logits, self.comparable(answers), self.temperature, self.combine, shares
            )
        goal = self.targets(answers, part, self.temperature)
        log_p = (logits / self.temperature).log_softmax(-1)
        if self.divergence == "reverse":
            terms = losses.divergence(log_p, goal.log_q)
        else:
            terms = losses.symmetric_divergence(log_p, goal.log_q)
        count = len(answers) if self.combine == "add-loss" else 1
        return self.temperature**2 * count * goal.mean(terms)
