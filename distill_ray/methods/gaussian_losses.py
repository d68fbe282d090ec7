"""Losses of regression with a predicted mean and log-variance, between an ensemble of teachers and
a student with heads.

Outputs are (N, B, 2) on the teachers' side and (B, M, 2) on the student's: the mean and the log of
the variance. All losses leave out the constant log(2 pi) / 2, and those against teachers also the
terms that depend on the teachers alone, so that they can be negative. Source: Ferianc & Rodrigues
2022 (Hydra+), as coded.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distill_ray.methods.member_losses import repeated

FLOOR = 1e-6
"""Variances below this count as this in the likelihood."""

SMOOTHING = 1e-8
"""Added to variances where they divide; part of the published definition."""


def gaussian_likelihood(student: Tensor, targets: Tensor) -> Tensor:
    """Mean over images and heads of the negative log-likelihood of targets (B,): (s + (y - mu)² /
    exp(s)) / 2.
    """
    mean, log_variance = student.unbind(-1)
    squared = (targets.unsqueeze(-1) - mean).square()
    return 0.5 * (log_variance + squared / log_variance.exp().clamp_min(FLOOR)).mean()


def paired_gaussians(student: Tensor, teachers: Tensor) -> Tensor:
    """Divergence of each head from its teacher, less the terms without the student, averaged over
    images and pairs.

    Teachers and heads are paired as in `member_losses.paired_kd`.
    """
    heads, members = student.transpose(0, 1), teachers.detach()
    pairs = max(len(heads), len(members))
    mean, log_variance = repeated(heads, pairs).unbind(-1)
    target_mean, target_log_variance = repeated(members, pairs).unbind(-1)
    return _divergence(
        target_mean, target_log_variance.exp() + SMOOTHING, mean, log_variance.exp() + SMOOTHING
    )


def aggregated_gaussians(student: Tensor, teachers: Tensor) -> Tensor:
    """Divergence between the two mixtures, each taken for the Gaussian of its mean and variance,
    averaged over images.

    The variance of a mixture is the mean of the variances and the unbiased variance of the means,
    which is 0 for one head.
    """
    mean, variance = mixture(student, dim=1)
    target_mean, target_variance = mixture(teachers.detach(), dim=0)
    return _divergence(target_mean, target_variance, mean, variance)


def mixture(outputs: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Mean and variance (B,) of the mixture of Gaussians (..., 2) whose members lie along `dim`."""
    mean, log_variance = outputs.unbind(-1)
    between = mean.var(dim) if mean.shape[dim] > 1 else torch.zeros_like(mean.sum(dim))
    return mean.mean(dim), log_variance.exp().mean(dim) + between + SMOOTHING


def _divergence(
    target_mean: Tensor, target_variance: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    variance = variance + SMOOTHING
    return (
        0.5 * ((target_variance + (target_mean - mean).square()) / variance + variance.log()).mean()
    )
