"""One head with noise in the place of many: dropout and Gaussian weights in the last layer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, cast

from distill_ray._lazy import LazyModule
from distill_ray.methods.method import METHODS, Method, Setup, Student, Teachers
from distill_ray.settings import Setting

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from distill_ray.augment.view import Batch, Part
    from distill_ray.methods import losses, mixture, stochastic, task_losses
else:
    losses = LazyModule("distill_ray.methods.losses")
    mixture = LazyModule("distill_ray.methods.mixture")
    stochastic = LazyModule("distill_ray.methods.stochastic")
    task_losses = LazyModule("distill_ray.methods.task_losses")


@dataclass(frozen=True, kw_only=True)
class SampledHeads(Method):
    """`(1 - alpha) * cross-entropy + alpha * T² KL(teacher || sample)` over pairs of teachers and samples of the last layer.

    Samples and teachers are paired in order, as heads are in Hydra. In evaluation the samples are drawn once, layer by layer,
    and the network answers with their mean prediction; the published code draws anew for every image. For regression both terms
    are those of `hydra+`.

    Source: Ferianc & Rodrigues 2022, as coded.
    """

    needs_teachers = True
    even_tail = True
    tasks = ("classification", "regression")

    samples: Annotated[int, Setting("samples of the last layer in each step and in evaluation", at_least=1)] = 20
    temperature: Annotated[float, Setting("softens teachers and samples alike", above=0)] = 4.0
    alpha: Annotated[float, Setting("weight of the teachers; the labels have 1 - alpha", at_least=0, at_most=1)] = 0.95

    @property
    @abstractmethod
    def classifier(self) -> type[stochastic.StochasticClassifier]:
        """The layer with noise."""

    def student(self, network: nn.Module, setup: Setup) -> nn.Module:
        """The network with noise in its last layer. Raises `ValueError` for networks outside of the catalogue."""
        return stochastic.StochasticStudent(network, self.classifier, self.samples, len(setup.rows))

    def loss(self, student: Student, batch: Batch, teachers: Teachers) -> Mapping[str, Tensor]:
        """The weighted sum and its components, averaged over the parts of the batch."""
        network = cast("stochastic.StochasticStudent", student.network)
        from_labels, from_teachers = [], []
        for number, offered in enumerate(batch.parts):
            part, answers = student.pick(offered, teachers)
            features = losses.at_least_float32(student(part.images))
            logits = network.sample(features, self._uniform(network, batch, part, f"samples of part {number}"))
            compare = task_losses.task_losses(part)
            from_labels.append(compare.correctness(logits, part))
            from_teachers.append(compare.individuality(logits, answers, self.temperature))
        labels, distilled = losses.average(from_labels), losses.average(from_teachers)
        return {"loss": labels.lerp(distilled, self.alpha), "loss/labels": labels, "loss/teachers": distilled}

    def _uniform(self, network: stochastic.StochasticStudent, batch: Batch, part: Part, purpose: str) -> NDArray[np.float64]:
        """Numbers for every image of the part; they belong to its position."""
        start = int(batch.positions[0])
        return batch.draws.uniform(purpose, start, start + len(part.images), self.samples * network.classifier.noise_width)

    def deploy(self, student: nn.Module) -> nn.Module:
        """The mean prediction of samples drawn once."""
        network = cast("stochastic.StochasticStudent", student)
        return mixture.MeanPrediction(network.frozen(), network.task)

    def deployable(self, network: nn.Module) -> nn.Module:
        """The same, made from the plain network."""
        return self.deploy(self.student(network, Setup()))


@METHODS.register("drop")
@dataclass(frozen=True, kw_only=True)
class DropoutKD(SampledHeads):
    """Samples by dropout: half of the features of the last layer are left out, in training and in evaluation."""

    name = "drop"

    @property
    def classifier(self) -> type[stochastic.StochasticClassifier]:
        """Dropout before the last layer."""
        return stochastic.DropoutClassifier


@METHODS.register("gauss")
@dataclass(frozen=True, kw_only=True)
class GaussianKD(SampledHeads):
    """Samples by a last layer whose weights are Gaussian, drawn towards a standard Gaussian by a divergence."""

    name = "gauss"

    prior: Annotated[
        float | None, Setting("weight of the divergence from the prior; 1 / training images if unset", at_least=0)
    ] = None

    @property
    def classifier(self) -> type[stochastic.StochasticClassifier]:
        """Gaussian weights."""
        return stochastic.GaussianClassifier

    def loss(self, student: Student, batch: Batch, teachers: Teachers) -> Mapping[str, Tensor]:
        """That of the samples and the divergence from the prior."""
        network = cast("stochastic.StochasticStudent", student.network)
        terms = super().loss(student, batch, teachers)
        divergence = cast("stochastic.GaussianClassifier", network.classifier).divergence_from_prior()
        weight = 1 / network.images if self.prior is None else self.prior
        return {**terms, "loss": terms["loss"] + weight * divergence, "loss/prior": divergence}
