"""Normalised distillation: the label by the teachers' probability, the other classes among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt

from distill_ray._lazy import LazyModule
from distill_ray.methods.method import METHODS, Student, Teachers
from distill_ray.methods.softened import FromEnsemble
from distill_ray.settings import Doc

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from distill_ray.augmentation.augmentation import Batch, Part
    from distill_ray.methods import losses, targets
else:
    torch = LazyModule("torch")
    losses = LazyModule("distill_ray.methods.losses")
    targets = LazyModule("distill_ray.methods.targets")


@METHODS.register("nkd")
@dataclass(frozen=True, kw_only=True)
class NKD(FromEnsemble):
    r"""`labels * CE + target * (teachers' probability of the label) * CE + nontarget * T² CE among
    the other classes`.

    ```math
    L = -w_1 \ln p^1_y - a \, q^1_y \ln p^1_y - b \, T^2 \sum_{k \ne y} \hat q_k \ln \hat p_k
    \qquad \hat p_k = \frac{p_k}{\sum_{j \ne y} p_j}
    ```

    - `y`: the label; `p`, `q`: softmax at the temperature T of the logits of student and teachers;
      `p^1`, `q^1`: the same at T = 1.
    - `w_1`, `a`, `b`: the settings `labels`, `target`, `nontarget`; `b` is the gamma of the paper,
      T its lambda.
    - With several teachers `q` and `q^1` are their mean softmax (`combine: mean-softmax`), or the
      terms of each are averaged (`mean-loss`), with weights for each image where teachers are
      `confident`.
    - A mixed image costs w times the terms for its first label plus 1 - w times those for its
      second; the published code takes the label of the larger share.

    `standardise` compares z-scores among the other classes, as in `kd`; the two terms of the label
    are those of the logits themselves.

    Source: Yang, Zeng, Li, Zhang, Yuan & Li 2023, "From knowledge distillation to self-knowledge
    distillation: a unified approach with normalized loss and customized soft labels",
    https://arxiv.org/abs/2303.13005.

    Example:

    ```yaml
    name: normalised
    teachers: {members: 3, model: wrn-10-1}
    student: {model: wrn-10-1, method: nkd}
    search:
      space:
        temperature: {log: [1, 10]}
        nontarget: {log: [0.3, 5]}
    ```
    """

    name = "nkd"

    temperature: Annotated[
        float, Gt(0), Doc("softens teachers and student alike, among the other classes")
    ] = 1.0
    combine: Annotated[
        Literal["mean-softmax", "mean-loss", "confident"], Doc("how the teachers are combined")
    ] = "mean-softmax"
    labels: Annotated[float, Ge(0), Doc("weight of the labels")] = 1.0
    target: Annotated[
        float, Ge(0), Doc("weight of the labels by the teachers' probability of them")
    ] = 1.0
    nontarget: Annotated[float, Ge(0), Doc("weight of how the other classes share the rest")] = 1.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels + self.target + self.nontarget == 0:
            raise ValueError("labels, target and nontarget must not all be 0")

    def loss(self, student: Student, batch: Batch, teachers: Teachers) -> Mapping[str, Tensor]:
        """The weighted sum and its components, averaged over the parts of the batch."""
        terms = [self._of_part(student, *student.pick(part, teachers)) for part in batch.parts]
        labels, target, nontarget = (losses.average(term) for term in zip(*terms, strict=True))
        return {
            "loss": self.labels * labels + self.target * target + self.nontarget * nontarget,
            "loss/labels": labels,
            "loss/target": target,
            "loss/nontarget": nontarget,
        }

    def _of_part(
        self, student: Student, part: Part, answers: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        logits = losses.at_least_float32(student(part.images))
        merged = self.combine == "mean-softmax"
        plain = targets.targets(answers, 1.0, self.shares(answers, part), merged=merged)
        goal = self.targets(answers, part, self.temperature)
        log_p1 = logits.log_softmax(-1)
        log_p = (self.comparable(logits) / self.temperature).log_softmax(-1)

        def terms(labels: Tensor) -> Tensor:
            p1_label, _, _ = losses.label_and_others(log_p1, labels)
            q1_label, _, _ = losses.label_and_others(plain.log_q, labels)
            _, _, p_others = losses.label_and_others(log_p, labels)
            _, _, q_others = losses.label_and_others(goal.log_q, labels)
            nontarget = -(q_others.exp() * p_others).sum(-1)
            return torch.stack([-q1_label.exp() * p1_label, self.temperature**2 * nontarget])

        target, nontarget = (goal.mean(term) for term in losses.by_label(part, terms))
        return losses.cross_entropy(logits, part), target, nontarget
