"""Classifiers with noise, whose samples stand in for heads: dropout, and weights with a Gaussian
distribution.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor, nn

from distill_ray.device import to_device
from distill_ray.models.network import Network, with_features

FLOOR = 1e-8
"""Variances of outputs below this count as this; part of the published definition."""


FIRST_LOG_VARIANCE = -10.0


class StochasticClassifier(nn.Module):
    """A linear layer with noise. `noise_width` uniform numbers make one sample of the output for
    one image.

    Weight decay leaves it alone where it is not `decayed`.
    """

    decayed = True

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.weight = plain.weight
        self.bias = plain.bias

    @property
    @abstractmethod
    def noise_width(self) -> int:
        """Numbers in [0, 1) for each sample."""

    @abstractmethod
    def forward(self, features: Tensor, noise: Tensor) -> Tensor:
        """Features (B, D) and noise (B, S, noise_width) to S samples of the logits, (B, S, K)."""

    @abstractmethod
    def drawn(self, samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Weights (S, K, D) and biases (S, K) of that many plain layers, drawn from the
        distribution that this one is.
        """


class DropoutClassifier(StochasticClassifier):
    """Each feature is left out with probability one half and doubled otherwise, in training and in
    evaluation.
    """

    @property
    def noise_width(self) -> int:
        """One number per feature."""
        return self.weight.shape[1]

    def forward(self, features: Tensor, noise: Tensor) -> Tensor:
        """The outputs for S different halves of the features."""
        kept = features.unsqueeze(1) * (2 * (noise >= 0.5)).to(features.dtype)
        return nn.functional.linear(kept, self.weight, self.bias)

    def drawn(self, samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One mask per layer, the same for all images."""
        drawn = torch.rand(samples, 1, self.weight.shape[1], generator=generator) >= 0.5
        kept = 2 * to_device(drawn, self.weight.device).to(self.weight.dtype)
        return self.weight.detach() * kept, self.bias.detach().expand(samples, -1).clone()


class GaussianClassifier(StochasticClassifier):
    """Weights and biases are independent Gaussians; outputs are drawn from the Gaussians that
    follow, one for each image.

    The variances begin at exp(-10), and what is trained is the difference of their logarithms from
    that. The divergence from the prior takes the place of weight decay. Source: Kingma, Salimans &
    Welling 2015 (local reparameterisation), as coded by Ferianc & Rodrigues 2022.
    """

    decayed = False

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__(plain)
        self.log_variance_offset = nn.Parameter(torch.zeros_like(plain.weight))
        self.bias_log_variance_offset = nn.Parameter(torch.zeros_like(plain.bias))

    @property
    def log_variance(self) -> Tensor:
        """Of the weights, (K, D)."""
        return self.log_variance_offset + FIRST_LOG_VARIANCE

    @property
    def bias_log_variance(self) -> Tensor:
        """Of the biases, (K,)."""
        return self.bias_log_variance_offset + FIRST_LOG_VARIANCE

    @property
    def noise_width(self) -> int:
        """One number per class."""
        return self.weight.shape[0]

    def moments(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (B, K) of the outputs."""
        mean = nn.functional.linear(features, self.weight, self.bias)
        variance = nn.functional.linear(
            features.square(), self.log_variance.exp(), self.bias_log_variance.exp()
        )
        return mean, variance.clamp_min(FLOOR)

    def forward(self, features: Tensor, noise: Tensor) -> Tensor:
        """Draws around the mean outputs."""
        mean, variance = self.moments(features)
        standard: Tensor = torch.special.ndtri(noise.clamp_min(torch.finfo(noise.dtype).tiny))
        return mean.unsqueeze(1) + variance.sqrt().unsqueeze(1) * standard.to(mean.dtype)

    def divergence_from_prior(self) -> Tensor:
        """KL divergence of all weights and biases from independent standard Gaussians."""
        pairs = (self.weight, self.log_variance), (self.bias, self.bias_log_variance)
        return torch.stack(
            [0.5 * (log_v.exp() + mean.square() - 1 - log_v).sum() for mean, log_v in pairs]
        ).sum()

    def drawn(self, samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One draw of all weights per layer, the same for all images."""

        def draw(mean: Tensor, log_variance: Tensor) -> Tensor:
            standard = to_device(
                torch.randn(samples, *mean.shape, generator=generator), mean.device
            ).to(mean.dtype)
            return mean.detach() + (log_variance.detach() / 2).exp() * standard

        return draw(self.weight, self.log_variance), draw(self.bias, self.bias_log_variance)


class StochasticStudent(nn.Module):
    """A network of the catalogue with a classifier that has noise: images (B, C, H, W) to features
    (B, D) in training.

    In evaluation, images to the logits of `samples` drawn classifiers, (B, S, K), the same at every
    call.
    """

    def __init__(
        self, network: nn.Module, kind: type[StochasticClassifier], samples: int, images: int
    ) -> None:
        super().__init__()
        if not isinstance(network, Network):
            raise ValueError(
                "only a network of the catalogue can have a classifier with noise, found "
                f"{type(network).__name__}"
            )
        network = with_features(network)
        self.seed = network.seed
        self.task = network.task
        self.trunk = nn.Sequential(network.normalise, network.features)
        self.classifier = kind(network.classifier)
        self.samples = samples
        self.images = images

    def forward(self, images: Tensor) -> Tensor:
        """Features in training, logits in evaluation."""
        if self.training:
            features: Tensor = self.trunk(images)
            return features
        logits: Tensor = self.frozen()(images)
        return logits

    def sample(self, features: Tensor, uniform: np.ndarray) -> Tensor:
        """The logits (B, S, K) that features (B, D) and numbers in [0, 1), S * noise_width for each
        image, make.
        """
        noise = to_device(torch.from_numpy(uniform), features.device).unflatten(
            1, (self.samples, -1)
        )
        logits: Tensor = self.classifier(features, noise)
        return logits

    def frozen(self) -> FrozenSamples:
        """The student with as many plain classifiers, drawn once, as it takes samples."""
        stream = int.from_bytes(hashlib.sha256(f"samples {self.seed}".encode()).digest()[:7])
        weight, bias = self.classifier.drawn(self.samples, torch.Generator().manual_seed(stream))
        return FrozenSamples(self.trunk, weight, bias)


class FrozenSamples(nn.Module):
    """Images (B, C, H, W) to the logits (B, S, K) of S linear classifiers on the same features."""

    def __init__(self, trunk: nn.Module, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.trunk = trunk
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        """The logits of every classifier."""
        outputs = nn.functional.linear(
            self.trunk(images), self.weight.flatten(0, 1), self.bias.flatten()
        )
        logits: Tensor = outputs.unflatten(1, self.bias.shape)
        return logits
