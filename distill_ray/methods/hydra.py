"""Hydra and Hydra+: one trunk with several heads, each of which learns from teachers of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, cast

from annotated_types import Ge, Gt

from distill_ray._lazy import LazyModule
from distill_ray.methods.method import METHODS, Setup, Student, Teachers
from distill_ray.methods.softened import Softened
from distill_ray.models import check_multi_head
from distill_ray.settings import Doc

if TYPE_CHECKING:
    from torch import Tensor, nn

    from distill_ray.augmentation.augmentation import Augmentation, Batch, Part
    from distill_ray.methods import hydra_diversity as diversity
    from distill_ray.methods import losses, mixture, task_losses
    from distill_ray.models import multi_head
else:
    diversity = LazyModule("distill_ray.methods.hydra_diversity")
    losses = LazyModule("distill_ray.methods.losses")
    mixture = LazyModule("distill_ray.methods.mixture")
    multi_head = LazyModule("distill_ray.models.multi_head")
    task_losses = LazyModule("distill_ray.methods.task_losses")


@METHODS.register("hydra")
@dataclass(frozen=True, kw_only=True)
class Hydra(Softened):
    r"""`T² KL(teacher || head)`, averaged over pairs of teachers and heads of one student. No
    labels are used.

    ```math
    L = \frac{T^2}{P} \sum_{k=0}^{P-1} \mathrm{KL}\big( q_{k \bmod N} \,\big\Vert\, p_{k \bmod M}
    \big)
    ```

    - `q_n`, `p_m`: softmax at the temperature T of the logits of teacher n of N and of head m of M
      (`heads`).
    - P, the number of pairs, is the larger of N and M: heads and teachers are paired in order, the
      shorter list repeated.
    - KL is summed over classes and averaged over images.

    Each head has its own copy of the last `depth` units of the features and of the classifier. The
    deployed network outputs the mean of its heads' predictions. For regression the divergence is
    that of two Gaussians, without a temperature, and the heads' mixture is deployed as one Gaussian
    with its mean and variance. The paper's first phase, which prepares the heads, is left out, as
    in the code of Ferianc & Rodrigues 2022.

    Source: Tran et al. 2020, "Hydra: Preserving ensemble diversity for model distillation",
    https://arxiv.org/abs/2001.04694.

    Example:

    ```yaml
    name: many-heads
    teachers: {members: 5, model: wrn-10-1}
    student: {model: wrn-10-1, method: hydra, heads: 5}
    search:
      space:
        temperature: {log: [1, 20]}
        depth: {int: [0, 1]}
    ```
    """

    name = "hydra"
    needs_features = True
    even_tail = True
    tasks = ("classification", "regression")

    heads: Annotated[int, Ge(1), Doc("number of heads")] = 5
    depth: Annotated[
        int, Ge(0), Doc("units before the classifier that each head has its own copy of")
    ] = 0

    def check_fit(self, *, model: str, augmentation: Augmentation, teachers: int) -> None:
        """Besides the common rules: the model has units for the heads and for the shared part."""
        super().check_fit(model=model, augmentation=augmentation, teachers=teachers)
        check_multi_head(model, self.depth)

    def student(self, network: nn.Module, setup: Setup) -> nn.Module:
        """The network with several heads. Raises `ValueError` for a depth that leaves nothing to
        share.
        """
        return multi_head.to_multi_head(network, self.heads, self.depth)

    def loss(self, student: Student, batch: Batch, teachers: Teachers) -> Mapping[str, Tensor]:
        """The mean over the parts of the batch."""
        picked = [student.pick(part, teachers) for part in batch.parts]
        terms = [
            task_losses.task_losses(part).individuality(
                self.comparable(student(part.images)), self.comparable(answers), self.temperature
            )
            for part, answers in picked
        ]
        return {"loss": losses.average(terms)}

    def deploy(self, student: nn.Module) -> nn.Module:
        """The heads' mean prediction."""
        return mixture.MeanPrediction(student, cast("multi_head.MultiHead", student).task)

    def deployed_like(self, network: nn.Module) -> nn.Module:
        """The same, made from the plain network."""
        return self.deploy(multi_head.to_multi_head(network, self.heads, self.depth))


@METHODS.register("hydra+")
@dataclass(frozen=True, kw_only=True)
class HydraPlus(Hydra):
    r"""`correctness * CE + aggregation * KL of means + individuality * hydra + diversity *
    similarity of the heads`.

    ```math
    L = \lambda_1 \frac{1}{M} \sum_m \mathrm{CE}(y, z_m) + \lambda_2 \, T_0^2 \, \mathrm{KL}\Big(
    \frac{1}{N} \sum_n q_n \,\Big\Vert\, \frac{1}{M} \sum_m p_m \Big) + \lambda_3 L_\mathrm{hydra}
    + \lambda_4 \sum_{l, m, r} \frac{ 1 + \cos( \bar\theta_{lr}, \theta_{lmr} ) }{2}
    ```

    - `z_m`: logits of head m of M, at T = 1; `q_n`, `p_m`: softmax of teacher n of N and of head m
      at the temperature `T_0`.
    - `L_hydra`: the loss of `hydra`, at `temperature`.
    - `θ_lmr`: row r of the weights of layer l in head m, the weights of one output; it is compared
      with its mean over the heads, through which gradients flow. The sum, and so its influence,
      grows with the size and number of the heads.
    - `λ_1` to `λ_4`, `T_0`: the settings `correctness`, `aggregation`, `individuality`, `diversity`
      and `mean_temperature`. The paper's weights are (1 - a), a (1 - b), a b and lambda.

    `λ_4` may start at epoch `diversity_from` and grow linearly until `diversity_until`. Biases are
    left out by default: comparing them as rows of one number, as the published code does
    (`diversity_bias: separate`), makes gradients that dwarf all others. `diversity_of: layers`
    compares whole layers, the formula of the paper. Regression has the first three terms for
    Gaussians, aggregation between the moments of the mixtures.

    Source: Ferianc & Rodrigues 2022, "Simple regularisation for uncertainty-aware knowledge
    distillation", https://arxiv.org/abs/2205.09526.

    Example:

    ```yaml
    name: diverse-heads
    teachers: {members: 5, model: wrn-10-1}
    student: {model: wrn-10-1, method: hydra+, heads: 5}
    search:
      space:
        temperature: {log: [1, 20]}
        individuality: {uniform: [0.1, 0.9]}
        diversity: {log: [1.0e-4, 1.0e-1]}
    ```
    """

    name = "hydra+"

    correctness: Annotated[float, Ge(0), Doc("weight of the labels")] = 0.1
    aggregation: Annotated[float, Ge(0), Doc("weight of the teachers' mean")] = 0.45
    individuality: Annotated[float, Ge(0), Doc("weight of each head's own teachers")] = 0.45
    mean_temperature: Annotated[
        float, Gt(0), Doc("softens the predictions averaged over teachers and over heads")
    ] = 1.0
    diversity: Annotated[
        float, Ge(0), Doc("weight of the penalty on heads that resemble each other")
    ] = 0.002
    diversity_from: Annotated[int, Ge(0), Doc("epochs before the penalty sets in")] = 0
    diversity_until: Annotated[
        int, Ge(0), Doc("epochs until the penalty reaches its full weight")
    ] = 0
    diversity_of: Annotated[
        Literal["rows", "layers"], Doc("the weight vectors that are compared")
    ] = "rows"
    diversity_bias: Annotated[
        Literal["none", "joined", "separate"], Doc("whether and how biases are compared")
    ] = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.correctness + self.aggregation + self.individuality == 0:
            raise ValueError("correctness, aggregation and individuality must not all be 0")

    def loss(self, student: Student, batch: Batch, teachers: Teachers) -> Mapping[str, Tensor]:
        """The weighted sum and its components; those of the outputs are averaged over the parts of
        the batch.
        """
        parts = [self._of_part(student, *student.pick(part, teachers)) for part in batch.parts]
        correctness, aggregation, individuality = (
            losses.average(terms) for terms in zip(*parts, strict=True)
        )
        heads = cast("multi_head.MultiHead", student.network).head_weights()
        likeness = diversity.diversity(heads, compare=self.diversity_of, bias=self.diversity_bias)
        weight = ramp(
            batch.draws.epoch - 1, self.diversity_from, self.diversity_until, self.diversity
        )
        total = (
            self.correctness * correctness
            + self.aggregation * aggregation
            + self.individuality * individuality
        )
        return {
            "loss": total + weight * likeness,
            "loss/correctness": correctness,
            "loss/aggregation": aggregation,
            "loss/individuality": individuality,
            "loss/diversity": likeness,
        }

    def _of_part(
        self, student: Student, part: Part, answers: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        logits = losses.at_least_float32(student(part.images))
        compare = task_losses.task_losses(part)
        heads, members = self.comparable(logits), self.comparable(answers)
        return (
            compare.correctness(logits, part),
            compare.aggregation(heads, members, self.mean_temperature),
            compare.individuality(heads, members, self.temperature),
        )


def ramp(epoch: int, start: int, stop: int, value: float) -> float:
    """A weight that is 0 before the 0-based epoch `start`, grows linearly from 0 there, and is
    `value` from `stop` - 1 on.
    """
    if epoch < start:
        return 0.0
    return value if epoch >= stop - 1 else value * (epoch - start) / (stop - 1 - start)
