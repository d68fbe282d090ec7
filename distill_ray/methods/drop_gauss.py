"""One noisy head instead of many: dropout and Gaussian weights in the last layer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, cast

from annotated_types import Ge, Le

from distill_ray._lazy import LazyModule
from distill_ray.methods.method import METHODS, Setup, Student, Teachers
from distill_ray.methods.softened import Softened
from distill_ray.settings import Doc

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from distill_ray.augmentation.augmentation import Batch, Part
    from distill_ray.methods import drop_gauss_layers as stochastic
    from distill_ray.methods import losses, mixture, task_losses
else:
    losses = LazyModule("distill_ray.methods.losses")
    mixture = LazyModule("distill_ray.methods.mixture")
    stochastic = LazyModule("distill_ray.methods.drop_gauss_layers")
    task_losses = LazyModule("distill_ray.methods.task_losses")


@dataclass(frozen=True, kw_only=True)
class SampledHeads(Softened):
    r"""Students of one head with noise in its last layer, whose samples take the place of heads.

    In evaluation the samples are drawn once, layer by layer, and the network outputs their mean
    prediction; the published code draws new ones for every image. For regression the two terms are
    the correctness and the individuality of `hydra+`.

    Source: Ferianc & Rodrigues 2022, as coded.
    """

    needs_features = True

    even_tail = True
    tasks = ("classification", "regression")

    samples: Annotated[
        int, Ge(1), Doc("samples of the last layer in each step and in evaluation")
    ] = 20
    alpha: Annotated[
        float, Ge(0), Le(1), Doc("weight of the teachers; the labels' weight is 1 - alpha")
    ] = 0.95

    @property
    @abstractmethod
    def classifier(self) -> type[stochastic.StochasticClassifier]:
        """The layer with noise."""

    def student(self, network: nn.Module, setup: Setup) -> nn.Module:
        """The network with noise in its last layer. Raises `ValueError` for networks outside of the
        catalogue.
        """
        return stochastic.StochasticStudent(network, self.classifier, self.samples, len(setup.rows))

    def loss(self, student: Student, batch: Batch, teachers: Teachers) -> Mapping[str, Tensor]:
        """The weighted sum and its components, averaged over the parts of the batch."""
        network = cast("stochastic.StochasticStudent", student.network)
        from_labels, from_teachers = [], []
        for number, offered in enumerate(batch.parts):
            part, answers = student.pick(offered, teachers)
            features = losses.at_least_float32(student(part.images))
            logits = network.sample(
                features, self._uniform(network, batch, part, f"samples of part {number}")
            )
            compare = task_losses.task_losses(part)
            from_labels.append(compare.correctness(logits, part))
            from_teachers.append(
                compare.individuality(
                    self.comparable(logits), self.comparable(answers), self.temperature
                )
            )
        labels, distilled = losses.average(from_labels), losses.average(from_teachers)
        return {
            "loss": labels.lerp(distilled, self.alpha),
            "loss/labels": labels,
            "loss/teachers": distilled,
        }

    def _uniform(
        self, network: stochastic.StochasticStudent, batch: Batch, part: Part, purpose: str
    ) -> NDArray[np.float64]:
        """Numbers for every image of the part; they belong to its position."""
        start = int(batch.positions[0])
        return batch.draws.uniform(
            purpose, start, start + len(part.images), self.samples * network.classifier.noise_width
        )

    def deploy(self, student: nn.Module) -> nn.Module:
        """The mean prediction of samples drawn once."""
        network = cast("stochastic.StochasticStudent", student)
        return mixture.MeanPrediction(network.frozen(), network.task)

    def deployed_like(self, network: nn.Module) -> nn.Module:
        """The same, made from the plain network."""
        return self.deploy(self.student(network, Setup()))


@METHODS.register("drop")
@dataclass(frozen=True, kw_only=True)
class DropoutKD(SampledHeads):
    r"""`(1 - alpha) * CE + alpha * T² KL(teacher || sample)` over samples drawn by dropout of half
    of the last layer's features.

    ```math
    L = \frac{1 - \alpha}{S} \sum_s \mathrm{CE}(y, z_s) + \frac{\alpha \, T^2}{P} \sum_{k=0}^{P-1}
    \mathrm{KL}\big( q_{k \bmod N} \,\big\Vert\, p_{k \bmod S} \big)
    \qquad z_s = W (2 \, d_s \odot f) + b
    ```

    - `f`: the features of an image, `W`, `b` the last layer, `d_s` a mask of zeros and ones, each
      with probability one half.
    - `q_n`, `p_s`: softmax at the temperature T of the logits of teacher n of N and of sample s of
      S (`samples`); P is the larger of N and S.

    Features are dropped in evaluation too: S masks are drawn once, and the deployed network outputs
    the mean prediction of those S layers, while the published code draws new ones for every image.
    For regression both terms are those of `hydra+`.

    Source: Gal & Ghahramani 2016, "Dropout as a Bayesian approximation",
    https://arxiv.org/abs/1506.02142, as a student in the code of Ferianc & Rodrigues 2022.

    Example:

    ```yaml
    name: dropped
    teachers: {members: 5, model: wrn-10-1}
    student: {model: wrn-10-1, method: drop, samples: 10}
    search:
      space:
        temperature: {log: [1, 20]}
        alpha: {uniform: [0.5, 1]}
    ```
    """

    name = "drop"

    @property
    def classifier(self) -> type[stochastic.StochasticClassifier]:
        """Dropout before the last layer."""
        return stochastic.DropoutClassifier


@METHODS.register("gauss")
@dataclass(frozen=True, kw_only=True)
class GaussianKD(SampledHeads):
    r"""`drop` with Gaussian weights in the last layer instead of dropout, pulled towards a standard
    Gaussian by `prior * KL`.

    ```math
    L = L_\mathrm{drop}(z_1, \dots, z_S) + \frac{\kappa}{2} \sum_w \big( \sigma_w^2 + \mu_w^2 - 1
    - \ln \sigma_w^2 \big)
    \qquad z_s = W f + b + \varepsilon_s \odot \sqrt{ \sigma_W^2 f^2 + \sigma_b^2 } \quad
    \varepsilon_s \sim \mathcal{N}(0, 1)
    ```

    - `f`: the features of an image; `W`, `b`: the means of the last layer's weights and biases,
      with their own variances `σ²`, initialised to exp(-10).
    - `L_drop`: the loss of `drop` for S samples of the logits, drawn for each image.
    - The sum runs over all weights and biases `w` of the layer; it replaces their weight decay.
      `κ`: the setting `prior`.

    As with `drop`, the deployed network outputs the mean prediction of S layers that are drawn
    once.

    Source: Kingma, Salimans & Welling 2015, "Variational dropout and the local reparameterization
    trick", https://arxiv.org/abs/1506.02557, as a student in the code of Ferianc & Rodrigues 2022.

    Example:

    ```yaml
    name: gaussian
    teachers: {members: 5, model: wrn-10-1}
    student: {model: wrn-10-1, method: gauss, samples: 10}
    search:
      space:
        temperature: {log: [1, 20]}
        prior: {log: [1.0e-5, 1.0e-2]}
    ```
    """

    name = "gauss"

    prior: Annotated[
        float | None,
        Ge(0),
        Doc("weight of the divergence from the prior; unset: 1 / number of training images"),
    ] = None

    @property
    def classifier(self) -> type[stochastic.StochasticClassifier]:
        """Gaussian weights."""
        return stochastic.GaussianClassifier

    def loss(self, student: Student, batch: Batch, teachers: Teachers) -> Mapping[str, Tensor]:
        """The loss of the samples and the divergence from the prior."""
        network = cast("stochastic.StochasticStudent", student.network)
        terms = super().loss(student, batch, teachers)
        divergence = cast(
            "stochastic.GaussianClassifier", network.classifier
        ).divergence_from_prior()
        weight = 1 / network.images if self.prior is None else self.prior
        return {**terms, "loss": terms["loss"] + weight * divergence, "loss/prior": divergence}
