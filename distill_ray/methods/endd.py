"""Distillation of the distribution over the members' predictions: the student predicts a Dirichlet
distribution.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Le

from distill_ray._lazy import LazyModule
from distill_ray.methods.method import METHODS, Method, Student, Teachers
from distill_ray.settings import Doc

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from distill_ray.augmentation.augmentation import Augmentation, Batch
    from distill_ray.methods import losses
else:
    torch = LazyModule("torch")
    losses = LazyModule("distill_ray.methods.losses")


@METHODS.register("endd")
@dataclass(frozen=True, kw_only=True)
class EnDD(Method):
    r"""`-T² log Dir(teachers' softened predictions; exp(logits / T))`: the student predicts how the
    members' predictions spread.

    ```math
    L = T^2 \, \Big[ \sum_c \ln \Gamma(a_c) - \ln \Gamma(a_0) - \sum_c (a_c - 1) \frac{1}{N}
    \sum_n \ln q_{nc} \Big]
    \qquad a_c = \exp(z_c / T) \quad a_0 = \sum_c a_c
    ```

    - `z_c`: the student's logit of class c; `a_c`: the concentrations of a Dirichlet distribution.
    - `q_nc`: softmax at the temperature T of the logits of teacher n of N; with `smoothing` g it
      becomes (1 - g) q + g / classes.
    - Averaged over images. No labels are used.

    The mean of that distribution at T = 1 is the usual softmax, so the student is deployed as it
    is. With `anneal_until`, T decreases linearly from `temperature` at epoch `anneal_from` to 1 at
    epoch `anneal_until` (both 0-based), as in the paper; without it T is constant, as in the code
    of Ferianc & Rodrigues 2022 (Hydra+), whose students are nevertheless evaluated at T = 1.

    Source: Malinin, Mlodozeniec & Gales 2020, "Ensemble distribution distillation", section 3,
    https://arxiv.org/abs/1905.00076.

    Example:

    ```yaml
    name: distributions
    teachers: {members: 5, model: wrn-10-1}
    student:
      model: wrn-10-1
      method: endd
      smoothing: 0.001
      epochs: 12
      anneal_from: 3
      anneal_until: 9
    search:
      space:
        temperature: {log: [2, 20]}
    ```
    """

    name = "endd"
    needs_teachers = True

    temperature: Annotated[float, Gt(0), Doc("softens teachers and student alike")] = 5.0
    smoothing: Annotated[
        float, Ge(0), Le(1), Doc("weight of the uniform distribution in the teachers' predictions")
    ] = 0.0
    anneal_from: Annotated[int, Ge(0), Doc("epoch until which the temperature is constant")] = 0
    anneal_until: Annotated[
        int | None, Ge(1), Doc("epoch at which the temperature reaches 1; unset: it is constant")
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.anneal_until is not None and self.anneal_until <= self.anneal_from:
            raise ValueError(
                f"anneal_until must be above anneal_from, {self.anneal_from}, found "
                f"{self.anneal_until}"
            )

    def check_fit(self, *, model: str, augmentation: Augmentation, teachers: int) -> None:
        """Besides the common rules: two teachers, since a single one is fitted best by a
        distribution of zero width.
        """
        super().check_fit(model=model, augmentation=augmentation, teachers=teachers)
        if teachers < 2:
            raise ValueError(
                f"method {self.name!r} learns how teachers differ and needs at least 2 of "
                f"them, found {teachers}"
            )

    @property
    def takes_unlabelled(self) -> bool:
        """It needs no label."""
        return True

    def loss(self, student: Student, batch: Batch, teachers: Teachers) -> Mapping[str, Tensor]:
        """The mean over the parts of the batch."""
        temperature = self.temperature_at(batch.draws.epoch - 1)
        picked = [student.pick(part, teachers) for part in batch.parts]
        terms = [
            dirichlet_likelihood(student(part.images), answers, temperature, self.smoothing)
            for part, answers in picked
        ]
        return {"loss": losses.average(terms)}

    def softened(self, logits: Tensor, epoch: int) -> Tensor:
        """Logits (..., K) over the temperature of the 1-based `epoch`."""
        return logits / self.temperature_at(epoch - 1)

    def temperature_at(self, epoch: int) -> float:
        """The temperature of a 0-based epoch."""
        if self.anneal_until is None:
            return self.temperature
        share = (epoch - self.anneal_from) / (self.anneal_until - self.anneal_from)
        return self.temperature + (1 - self.temperature) * min(max(share, 0.0), 1.0)


def dirichlet_likelihood(
    student: Tensor, teachers: Tensor, temperature: float, smoothing: float = 0.0
) -> Tensor:
    """T² times the negative log-likelihood of the members' softened predictions under
    Dir(exp(student / T)).

    Averaged over members and images; `student` holds logits (B, K) and `teachers` (N, B, K), which
    get no gradient. With `smoothing` g every teacher's probabilities p become (1 - g) p + g / K.
    """
    concentration = (losses.at_least_float32(student) / temperature).exp()
    with torch.no_grad():
        log_q = (teachers.to(concentration.dtype) / temperature).log_softmax(-1)
        if smoothing:
            log_q = ((1 - smoothing) * log_q.exp() + smoothing / log_q.shape[-1]).log()
        log_q = log_q.mean(0)
    normaliser = concentration.lgamma().sum(-1) - concentration.sum(-1).lgamma()
    return temperature**2 * (normaliser - ((concentration - 1) * log_q).sum(-1)).mean()
