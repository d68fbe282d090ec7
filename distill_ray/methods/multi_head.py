"""Hydra and Hydra+: one trunk with several heads, each of which learns from teachers of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, cast

from distill_ray._lazy import LazyModule
from distill_ray.methods.method import METHODS, Method, Setup, Student, Teachers
from distill_ray.models import check_multi_head
from distill_ray.settings import Setting

if TYPE_CHECKING:
    from torch import Tensor, nn

    from distill_ray.augment.view import Batch, Part, View
    from distill_ray.methods import diversity, losses, mixture, task_losses
    from distill_ray.models import multi_head
else:
    diversity = LazyModule("distill_ray.methods.diversity")
    losses = LazyModule("distill_ray.methods.losses")
    mixture = LazyModule("distill_ray.methods.mixture")
    multi_head = LazyModule("distill_ray.models.multi_head")
    task_losses = LazyModule("distill_ray.methods.task_losses")


@METHODS.register("hydra")
@dataclass(frozen=True, kw_only=True)
class Hydra(Method):
    """T² KL(teacher || head), averaged over pairs of teachers and heads. No labels are used.

    Heads and teachers are paired in order, the shorter list repeated. The deployed network answers with the mean of its
    heads' predictions. For regression the divergence is that of two Gaussians, without a temperature, and the heads'
    mixture is deployed as one Gaussian of its mean and variance.

    Source: Tran et al. 2020 (Hydra), as coded by Ferianc & Rodrigues 2022, without a phase in which the heads are prepared.
    """

    name = "hydra"
    needs_teachers = True
    even_tail = True
    tasks = ("classification", "regression")

    heads: Annotated[int, Setting("number of heads", at_least=1)] = 5
    depth: Annotated[int, Setting("units before the classifier that each head has to itself", at_least=0)] = 0
    temperature: Annotated[float, Setting("softens teachers and heads alike", above=0)] = 4.0

    def check_fit(self, *, model: str, view: View, teachers: int) -> None:
        """Besides the common rules: a model that has units for the heads and for what they share."""
        super().check_fit(model=model, view=view, teachers=teachers)
        check_multi_head(model, self.depth)

    def student(self, network: nn.Module, setup: Setup) -> nn.Module:
        """The network with several heads. Raises `ValueError` for a depth that leaves nothing to share."""
        return multi_head.to_multi_head(network, self.heads, self.depth)

    def loss(self, student: Student, batch: Batch, teachers: Teachers) -> Mapping[str, Tensor]:
        """The mean over the parts of the batch."""
        shown = [student.pick(part, teachers) for part in batch.parts]
        terms = [
            task_losses.task_losses(part).individuality(student(part.images), answers, self.temperature)
            for part, answers in shown
        ]
        return {"loss": losses.average(terms)}

    def deploy(self, student: nn.Module) -> nn.Module:
        """The heads' mean prediction."""
        return mixture.MeanPrediction(student, cast("multi_head.MultiHead", student).task)

    def deployable(self, network: nn.Module) -> nn.Module:
        """The same, made from the plain network."""
        return self.deploy(multi_head.to_multi_head(network, self.heads, self.depth))


@METHODS.register("hydra+")
@dataclass(frozen=True, kw_only=True)
class HydraPlus(Hydra):
    """The weighted sum of four components, with weights that are free: the paper's are (1 - a), a (1 - b), a b and lambda.

    - correctness: cross-entropy of each head against the labels;
    - aggregation: T² KL(mean of teachers || mean of heads), at the temperature `mean_temperature`;
    - individuality: the loss of Hydra, at `temperature`;
    - diversity: (1 + cosine) / 2 between each row of weights and its mean over the heads, summed over rows, layers and heads,
      so that its weight depends on the size and number of the heads. It may start at an epoch and grow linearly until another.

    Diversity leaves biases out by default, since comparing them as rows of one number, as the published code does
    (`diversity_bias: separate`), makes gradients that dwarf all others; `diversity_of: layers` is the formula of the paper.
    Regression has the first three terms for Gaussians, aggregation between the moments of the mixtures.

    Source: Ferianc & Rodrigues 2022, "Simple regularisation for uncertainty-aware knowledge distillation".
    """

    name = "hydra+"

    correctness: Annotated[float, Setting("weight of the labels", at_least=0)] = 0.1
    aggregation: Annotated[float, Setting("weight of the mean of the teachers", at_least=0)] = 0.45
    individuality: Annotated[float, Setting("weight of each head's own teachers", at_least=0)] = 0.45
    mean_temperature: Annotated[float, Setting("softens the means of teachers and of heads", above=0)] = 1.0
    diversity: Annotated[float, Setting("weight of the penalty on heads that resemble each other", at_least=0)] = 0.002
    diversity_from: Annotated[int, Setting("epochs before the penalty begins", at_least=0)] = 0
    diversity_until: Annotated[int, Setting("epochs until the penalty has its full weight", at_least=0)] = 0
    diversity_of: Annotated[Literal["rows", "layers"], Setting("the vectors of weights that are compared")] = "rows"
    diversity_bias: Annotated[Literal["none", "joined", "separate"], Setting("whether and how biases are compared")] = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.correctness + self.aggregation + self.individuality == 0:
            raise ValueError("correctness, aggregation and individuality must not all be 0")

    def loss(self, student: Student, batch: Batch, teachers: Teachers) -> Mapping[str, Tensor]:
        """The weighted sum and its components; those of the outputs are averaged over the parts of the batch."""
        parts = [self._of_part(student, *student.pick(part, teachers)) for part in batch.parts]
        correctness, aggregation, individuality = (losses.average(terms) for terms in zip(*parts, strict=True))
        heads = cast("multi_head.MultiHead", student.network).head_weights()
        likeness = diversity.diversity(heads, compare=self.diversity_of, bias=self.diversity_bias)
        weight = ramp(batch.draws.epoch - 1, self.diversity_from, self.diversity_until, self.diversity)
        total = self.correctness * correctness + self.aggregation * aggregation + self.individuality * individuality
        return {
            "loss": total + weight * likeness,
            "loss/correctness": correctness,
            "loss/aggregation": aggregation,
            "loss/individuality": individuality,
            "loss/diversity": likeness,
        }

    def _of_part(self, student: Student, part: Part, answers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = losses.at_least_float32(student(part.images))
        compare = task_losses.task_losses(part)
        return (
            compare.correctness(logits, part),
            compare.aggregation(logits, answers, self.mean_temperature),
            compare.individuality(logits, answers, self.temperature),
        )


def ramp(epoch: int, start: int, stop: int, value: float) -> float:
    """A weight that is 0 before the 0-based epoch `start`, grows linearly from 0 there, and is `value` from `stop` - 1 on."""
    if epoch < start:
        return 0.0
    return value if epoch >= stop - 1 else value * (epoch - start) / (stop - 1 - start)
