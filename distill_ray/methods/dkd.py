"""Decoupled distillation: the probability of the label, and how the rest spreads, on their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge

from distill_ray._lazy import LazyModule
from distill_ray.methods.method import METHODS, Student, Teachers
from distill_ray.methods.softened import FromEnsemble
from distill_ray.settings import Doc

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from distill_ray.augmentation.augmentation import Batch, Part
    from distill_ray.methods import losses
else:
    torch = LazyModule("torch")
    losses = LazyModule("distill_ray.methods.losses")


@METHODS.register("dkd")
@dataclass(frozen=True, kw_only=True)
class DKD(FromEnsemble):
    r"""`labels * CE + T² [target * KL of the label's probability + nontarget * KL among the other
    classes]`.

    ```math
    L = w_1 \, \mathrm{CE}(y, z) + T^2 \Big[ a \, \mathrm{KL}( b^q \Vert b^p )
    + b \, \mathrm{KL}( \hat q \Vert \hat p ) \Big]
    \qquad b^p = (p_y, 1 - p_y) \quad \hat p_k = \frac{p_k}{1 - p_y}, \; k \ne y
    ```

    - `z`: logits of the student; `y`: the label; `p`, `q`: softmax at the temperature T of the
      logits of student and teachers.
    - `w_1`, `a`, `b`: the settings `labels`, `target`, `nontarget`. The divergence of `kd` is the
      first plus 1 - q_y times the second: it counts the other classes least where the teacher is
      sure.
    - With several teachers q is their mean softmax (`combine: mean-softmax`), or the terms of each
      are averaged (`mean-loss`), with weights for each image where teachers are `confident`.
    - A mixed image costs w times the terms for its first label plus 1 - w times those for its
      second.

    With `ramp` both terms grow linearly over that many epochs; the published runs of 240 epochs
    have 20. `standardise` compares z-scores, as in `kd`.

    Source: Zhao, Cui, Song, Qiu & Liang 2022, "Decoupled knowledge distillation",
    https://arxiv.org/abs/2203.08679.

    Example:

    ```yaml
    name: decoupled
    teachers: {members: 3, model: wrn-10-1}
    student: {model: wrn-10-1, method: dkd}
    search:
      space:
        temperature: {log: [1, 10]}
        nontarget: {log: [1, 16]}
        combine: {choice: [mean-softmax, mean-loss, confident]}
    ```
    """

    name = "dkd"

    combine: Annotated[
        Literal["mean-softmax", "mean-loss", "confident"], Doc("how the teachers are combined")
    ] = "mean-softmax"
    labels: Annotated[float, Ge(0), Doc("weight of the labels")] = 1.0
    target: Annotated[float, Ge(0), Doc("weight of the probability of the label")] = 1.0
    nontarget: Annotated[float, Ge(0), Doc("weight of how the other classes share the rest")] = 8.0
    ramp: Annotated[
        int, Ge(0), Doc("epochs in which the weights of distillation grow to their value")
    ] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels + self.target + self.nontarget == 0:
            raise ValueError("labels, target and nontarget must not all be 0")

    def loss(self, student: Student, batch: Batch, teachers: Teachers) -> Mapping[str, Tensor]:
        """The weighted sum and its components, averaged over the parts of the batch."""
        terms = [self._of_part(student, *student.pick(part, teachers)) for part in batch.parts]
        labels, target, nontarget = (losses.average(term) for term in zip(*terms, strict=True))
        growth = min(batch.draws.epoch / self.ramp, 1.0) if self.ramp else 1.0
        distilled = self.target * target + self.nontarget * nontarget
        return {
            "loss": self.labels * labels + growth * distilled,
            "loss/labels": labels,
            "loss/target": target,
            "loss/nontarget": nontarget,
        }

    def _of_part(
        self, student: Student, part: Part, answers: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        logits = losses.at_least_float32(student(part.images))
        log_p = (self.comparable(logits) / self.temperature).log_softmax(-1)
        goal = self.targets(answers, part, self.temperature)
        both = losses.by_label(part, lambda labels: decoupled(log_p, goal.log_q, labels))
        target, nontarget = (self.temperature**2 * goal.mean(term) for term in both)
        return losses.cross_entropy(logits, part), target, nontarget


def decoupled(log_p: Tensor, log_q: Tensor, labels: Tensor) -> Tensor:
    """The divergences of the label's probability and among the other classes, (2, G, B).

    Args:
        log_p: log probabilities of the student, (B, K).
        log_q: those of G targets, (G, B, K).
        labels: (B,).
    """
    p_label, p_rest, p_others = losses.label_and_others(log_p, labels)
    q_label, q_rest, q_others = losses.label_and_others(log_q, labels)
    target = q_label.exp() * (q_label - p_label) + q_rest.exp() * (q_rest - p_rest)
    return torch.stack([target, losses.divergence(q_others, p_others)])
