"""Divergences between the student's Dirichlet distribution and a proxy for the teachers.

They are computed in float64: differences of gamma functions of large concentrations are small.
Source: Ryabinin, Malinin & Gales 2021, as coded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill_ray.methods.losses import at_least_float32

SMALLEST = 1e-7
"""Added to twice the disagreement of teachers; part of the published definition."""

LARGEST = 80.0
"""Logits of the student above this count as this, so that the loss is a number in float32."""


@dataclass(frozen=True)
class Proxy:
    """The mean prediction (B, K) of the teachers, and the precision (B, 1) that their disagreement
    stands for, without the 1 that is added to every concentration.
    """

    mean: Tensor
    precision: Tensor

    @property
    def concentrations(self) -> Tensor:
        """b (B, K)."""
        return self.mean * self.precision + 1


@torch.no_grad()
def proxy(teachers: Tensor) -> Proxy:
    """The proxy of teachers with logits (N, B, K)."""
    log_q = teachers.double().log_softmax(-1)
    log_mean = log_q.logsumexp(0) - math.log(len(log_q))
    mean = log_mean.exp()
    disagreement = (mean * (log_mean - log_q.mean(0))).sum(-1, keepdim=True)
    return Proxy(mean, (mean.shape[-1] - 1) / (2 * disagreement + SMALLEST))


def reverse(student: Tensor, teachers: Tensor) -> Tensor:
    """KL(student || proxy) over the precision of the proxy, less a constant, averaged over images.

    `student` holds logits (B, K), `teachers` (N, B, K), which get no gradient.
    """
    goal, a = proxy(teachers), concentrations(student)
    expected_logs = a.digamma() - a.sum(-1, keepdim=True).digamma()
    entropy = log_beta(a) - ((a - 1) * expected_logs).sum(-1)
    precision = goal.precision.squeeze(-1) + a.shape[-1]
    loss = -(goal.mean * expected_logs).sum(-1) - entropy / precision
    return loss.mean().to(at_least_float32(student).dtype)


def forward(student: Tensor, teachers: Tensor) -> Tensor:
    """KL(proxy || student), averaged over images; arguments as in `reverse`."""
    a, b = concentrations(student), proxy(teachers).concentrations
    expected_logs = b.digamma() - b.sum(-1, keepdim=True).digamma()
    loss = log_beta(a) - log_beta(b) + ((b - a) * expected_logs).sum(-1)
    return loss.mean().to(at_least_float32(student).dtype)


DIVERGENCES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "reverse": reverse,
    "forward": forward,
}


def concentrations(logits: Tensor) -> Tensor:
    """a = exp(logits) + 1, float64."""
    return logits.double().clamp_max(LARGEST).exp() + 1


def log_beta(concentrations: Tensor) -> Tensor:
    """Log of the multivariate beta function over the last axis, the normaliser of a Dirichlet."""
    return concentrations.lgamma().sum(-1) - concentrations.sum(-1).lgamma()


class Concentrations(nn.Module):
    """Images (B, C, H, W) to log(exp(z) + 1) of the logits z of `network`, (B, K): the softmax of
    that is the mean of the Dirichlet distribution.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """At least float32, whatever precision the network ran in."""
        return functional.softplus(at_least_float32(self.network(images)))
