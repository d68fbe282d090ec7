"""What a student is compared with where a method for one teacher learns from several.

All of it is in float32 at least; no gradient reaches the teachers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from distill_ray.methods import losses

if TYPE_CHECKING:
    from distill_ray.augmentation.augmentation import Part


@dataclass(frozen=True)
class Targets:
    """Log probabilities (G, B, K) of G targets, and their `shares`, (G, 1) or (G, B), which sum to
    1 over the targets.

    G is 1 for an ensemble's mean, and the number of teachers where each of them is a target.
    """

    log_q: Tensor
    shares: Tensor

    def mean(self, terms: Tensor) -> Tensor:
        """The mean over images of terms (G, B), one for each target and image, by share."""
        return (terms * self.shares).sum(0).mean()

    def mean_of_batches(self, terms: Tensor) -> Tensor:
        """The mean of terms (G,) that stand for a whole batch each, by share."""
        return (terms * self.shares.mean(1)).sum()


@torch.no_grad()
def targets(
    logits: Tensor, temperature: float, weights: Sequence[float] | Tensor, *, merged: bool
) -> Targets:
    """The targets that teachers with `logits` (N, B, K) set at a temperature.

    Args:
        logits: those of N teachers, (N, B, K).
        temperature: T of softmax(logits / T).
        weights: the teachers' weights in any unit, N of them or (N, B); empty: all equal.
        merged: one target, the mean of the teachers' probabilities; otherwise one for each teacher.
    """
    log_q = (losses.at_least_float32(logits) / temperature).log_softmax(-1)
    shares = losses.shares_of(log_q, weights)
    if merged:
        log_mean = losses.log_mean_of(log_q, shares)
        return Targets(log_mean.unsqueeze(0), log_mean.new_ones(1, 1))
    if shares is None:
        shares = log_q.new_full((len(log_q), 1), 1 / len(log_q))
    return Targets(log_q, shares)


@torch.no_grad()
def confidence(teachers: Tensor, part: Part) -> Tensor:
    """The share (N, B) of each of N teachers for each image, the larger the smaller its own
    cross-entropy: (1 - softmax over teachers of the cross-entropies) / (N - 1).

    `teachers` holds logits (N, B, K), N at least 2. A mixed image counts with the cross-entropy
    against its mixed label. Source: Zhang, Chen & Wang 2022, "Confidence-aware multi-teacher
    knowledge distillation", equation 5, https://arxiv.org/abs/2201.00007.
    """
    log_q = losses.at_least_float32(teachers).log_softmax(-1)
    costs = -(part.targets(log_q.shape[-1]).to(log_q.dtype) * log_q).sum(-1)
    return (1 - costs.softmax(0)) / (len(costs) - 1)
