"""Losses between an ensemble of teachers and a student with several members or heads: pure
functions of logits.

Logits are (N, B, K) on the teachers' side and (B, M, K) on the student's, for N teachers, M
members, B images and K classes. All are in float32 at least; none lets a gradient reach the
teachers.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from distill_ray.probabilities import at_least_float32, log_mean_softmax


def paired_kd(student: Tensor, teachers: Tensor, temperature: float) -> Tensor:
    """T² KL(teacher || member) of each pair, summed over classes, averaged over images and pairs.

    Teachers and members are paired in order; where there are more of one than of the other, the
    shorter list is repeated (pair k is teacher k mod N with member k mod M), and never shuffled, so
    that a member learns from the same teachers from beginning to end.

    Source: "individuality" in Ferianc & Rodrigues 2022 (Hydra+), whose N = M case is the
    distillation loss of Nam et al. 2022 (LatentBE) less the entropy of the teachers, which is
    constant in the student.
    """
    log_p = (at_least_float32(student) / temperature).log_softmax(-1).transpose(0, 1)
    with torch.no_grad():
        log_q = (teachers.to(log_p.dtype) / temperature).log_softmax(-1)
    pairs = max(len(log_p), len(log_q))
    divergence = functional.kl_div(
        repeated(log_p, pairs), repeated(log_q, pairs), reduction="sum", log_target=True
    )
    return temperature**2 / (pairs * len(student)) * divergence


def aggregated_kd(student: Tensor, teachers: Tensor, temperature: float) -> Tensor:
    """T² KL(mean of teachers || mean of members), summed over classes, averaged over images;
    probabilities are averaged.

    Source: "aggregation" in Ferianc & Rodrigues 2022 (Hydra+).
    """
    log_p = log_mean_softmax(at_least_float32(student) / temperature, dim=1)
    with torch.no_grad():
        log_q = log_mean_softmax(teachers.to(log_p.dtype) / temperature, dim=0)
    return (
        temperature**2
        / len(student)
        * functional.kl_div(log_p, log_q, reduction="sum", log_target=True)
    )


def repeated(values: Tensor, length: int) -> Tensor:
    """The first axis repeated from its beginning up to `length`."""
    if len(values) == length:
        return values
    return values[torch.arange(length, device=values.device) % len(values)]
