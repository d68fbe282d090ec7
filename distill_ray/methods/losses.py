"""Losses that methods are made of: pure functions of logits, labels and the teachers' logits.

All of them work in float32 at least, whatever precision the network ran in, and in float64 where
the logits are float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional

from distill_ray.device import to_device
from distill_ray.probabilities import at_least_float32 as at_least_float32
from distill_ray.probabilities import log_mean

if TYPE_CHECKING:
    from distill_ray.augmentation.augmentation import Part

Combine = Literal["mean-softmax", "mean-loss", "add-loss", "sum-softmax", "confident"]
Divergence = Literal["forward", "reverse", "jensen-shannon"]


SMALLEST_VARIANCE = 1e-14
"""Added to the variance of an image's logits, so that equal ones have a z-score and a gradient."""


def ensemble_kd(
    student: Tensor,
    teachers: Tensor,
    temperature: float,
    combine: Combine = "mean-softmax",
    weights: Sequence[float] | Tensor = (),
) -> Tensor:
    """Temperature-squared Kullback-Leibler divergence from an ensemble to the student, summed over
    classes, averaged over images.

    With q_n and p the outputs of teacher n and of the student, softened by T, and N teachers:

    - `mean-softmax`: T² KL(mean_n q_n || p);
    - `mean-loss`: mean_n T² KL(q_n || p), which is larger by a constant and has the same gradient;
    - `add-loss`: sum_n T² KL(q_n || p), N times the loss before it;
    - `sum-softmax`: as `mean-softmax` with sum_n q_n, of mass N, in the place of the mean, which is
      what the published script "avg softmax" computes. It has the gradient of `add-loss`, and a
      value of N ln(N) T² more than N times `mean-softmax`;
    - `confident`: `mean-loss`, with the `weights` that `targets.confidence` gives.

    Args:
        student: logits (B, K).
        teachers: logits (N, B, K); no gradient reaches them.
        temperature: T, above 0.
        combine: how the teachers are combined.
        weights: the share of each teacher in the means, in any unit; equal by default. A tensor
            (N, B) gives the shares for each image.

    Raises `ValueError` where there are weights and not one for each teacher. Source: Hinton et al.
    2015, in the normalisation of Tian et al. 2020 (`DistillKL`).
    """
    log_p = (at_least_float32(student) / temperature).log_softmax(-1)
    with torch.no_grad():
        log_q = (teachers.to(log_p.dtype) / temperature).log_softmax(-1)
        shares = shares_of(log_q, weights)
        log_pooled = log_mean_of(log_q, shares)
    scale = (
        temperature**2
        / len(student)
        * (len(teachers) if combine in ("add-loss", "sum-softmax") else 1)
    )
    divergence = functional.kl_div(log_p, log_pooled, reduction="sum", log_target=True)
    if combine == "sum-softmax":
        divergence = divergence + len(student) * math.log(len(teachers))
    elif combine != "mean-softmax":
        with torch.no_grad():
            from_mean = functional.kl_div(log_pooled, log_q, reduction="none", log_target=True)
            disagreement = _weighted_sum(from_mean, shares)
        divergence = divergence + disagreement
    return scale * divergence


def cross_entropy(logits: Tensor, part: Part) -> Tensor:
    """Mean cross-entropy of logits (B, K) against the labels of `part`, or against the mix of
    labels where images are mixed.

    With logits (B, M, K) of M members or heads, the mean over them too. A mixed image costs w
    CE(first label) + (1 - w) CE(second label), which is the cross-entropy against the mixed
    probabilities. Source: Zhang et al. 2018 (mixup), Yun et al. 2019 (CutMix).

    With `part.label_smoothing` s it is (1 - s) of that and s of the mean over classes of -log p.
    Source: Szegedy et al. 2016, "Rethinking the Inception architecture", section 7,
    https://arxiv.org/abs/1512.00567.

    With `part.class_weights` w it is -sum_k w_k t_k log p_k for the mixed and smoothed label t,
    averaged over images and not over weights, so that batches add up.

    Images whose label is -1 have none: the mean is over the others, and 0 where there are none.
    """
    logits = at_least_float32(logits)
    labels, partner_labels, label_weight = part.labels, part.partner_labels, part.label_weight
    if logits.ndim == 3:
        members = logits.shape[1]
        logits = logits.flatten(0, 1)
        labels = labels.repeat_interleave(members)
        if partner_labels is not None and label_weight is not None:
            partner_labels, label_weight = (
                partner_labels.repeat_interleave(members),
                label_weight.repeat_interleave(members),
            )
    unmixed = partner_labels is None or label_weight is None
    if unmixed and part.class_weights is None:
        mean = functional.cross_entropy(
            logits, labels, ignore_index=-1, label_smoothing=part.label_smoothing
        )
        return torch.where((labels >= 0).any(), mean, torch.zeros_like(mean))
    log_p = logits.log_softmax(-1)
    if part.class_weights is not None:
        log_p = log_p * part.class_weights.to(log_p.dtype)
    if partner_labels is None or label_weight is None:
        partner_labels, label_weight = labels, torch.ones_like(log_p[:, 0])
    weight = label_weight.to(log_p.dtype)
    own = functional.nll_loss(log_p, labels, reduction="none", ignore_index=-1)
    partner = functional.nll_loss(log_p, partner_labels, reduction="none", ignore_index=-1)
    # How much of each image's label is known: exactly 1 where both are
    known = torch.lerp((partner_labels >= 0).to(log_p.dtype), (labels >= 0).to(log_p.dtype), weight)
    share = known.mean().clamp(min=1e-6)
    mixed = torch.lerp(partner, own, weight).mean() / share
    if part.label_smoothing == 0:
        return mixed
    return mixed.lerp(-(log_p * known.unsqueeze(1)).mean() / share, part.label_smoothing)


def jensen_shannon(*logits: Tensor) -> Tensor:
    """Mean divergence of the outputs for several versions of each image from their average, over
    images; logits (B, K) of each.

    Source: Hendrycks et al. 2020 (AugMix), which adds 12 times this for three versions (plain, and
    two augmented) to the cross-entropy of the plain one.
    """
    log_p = torch.stack([at_least_float32(version) for version in logits]).log_softmax(-1)
    return divergence(log_p, log_mean(log_p, 0)).mean()


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) over the last axis of probabilities that are given by their logs."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def symmetric_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Jensen-Shannon: the mean of KL(p || m) and KL(q || m), m = (p + q) / 2, over the last axis.

    Source: Lin 1991, "Divergence measures based on the Shannon entropy".
    """
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return (divergence(log_p, log_m) + divergence(log_q, log_m)) / 2


def label_and_others(log_p: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log probabilities (..., B, K) taken apart by labels (B,): the label's, (..., B), that of all
    other classes together, (..., B), and the others' shares of it, (..., B, K - 1).
    """
    classes = torch.arange(log_p.shape[-1] - 1, device=log_p.device)
    place = labels.unsqueeze(-1)
    others = (classes + (classes >= place)).expand(*log_p.shape[:-1], -1)
    own = log_p.gather(-1, place.expand(*log_p.shape[:-1], 1)).squeeze(-1)
    log_others = log_p.gather(-1, others)
    rest = log_others.logsumexp(-1)
    return own, rest, log_others - rest.unsqueeze(-1)


def by_label(part: Part, terms: Callable[[Tensor], Tensor]) -> Tensor:
    """What `terms` makes of the labels (B,) of `part`, (..., B); for mixed images that of both
    labels, each by its share.
    """
    own = terms(part.labels)
    if part.partner_labels is None or part.label_weight is None:
        return own
    return torch.lerp(terms(part.partner_labels), own, part.label_weight.to(own.dtype))


def average(terms: Sequence[Tensor]) -> Tensor:
    """The mean of scalars, such as one loss per part of a batch."""
    return terms[0] if len(terms) == 1 else torch.stack(tuple(terms)).mean()


def z_scores(logits: Tensor) -> Tensor:
    """Logits (..., K) less their mean over the classes, over their standard deviation; 0 where all
    are equal.

    The deviation is that of the paper, which divides by K; dividing by K - 1, as its code does, is
    the same at a temperature sqrt(K / (K - 1)) times as high. Source: Sun et al. 2024, "Logit
    standardization in knowledge distillation", algorithm 1, https://arxiv.org/abs/2403.01427.
    """
    centred = at_least_float32(logits)
    centred = centred - centred.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + SMALLEST_VARIANCE).sqrt()


def log_mean_of(log_q: Tensor, shares: Tensor | None) -> Tensor:
    """Log of the mean over the first axis of probabilities (N, B, K) that are given by their logs.

    `shares` (N, 1) or (N, B) sum to 1 over the teachers; None: all are equal.
    """
    if shares is None:
        return log_mean(log_q, 0)
    return (log_q + shares.log().unsqueeze(-1)).logsumexp(0)


def shares_of(like: Tensor, weights: Sequence[float] | Tensor) -> Tensor | None:
    """`weights` as shares of 1: (N, 1) where there is one for each of the N entries of the first
    axis of `like`, (N, B) where there is one for each image too, None where there are none.
    """
    if isinstance(weights, Tensor):
        return weights.to(like.dtype) / weights.sum(0)
    if not weights:
        return None
    if len(weights) != len(like):
        raise ValueError(
            f"weights must be one for each of {len(like)} teachers, found {len(weights)}"
        )
    shares = torch.tensor(weights, dtype=like.dtype) / sum(weights)
    return to_device(shares, like.device).unsqueeze(1)


def _weighted_sum(terms: Tensor, shares: Tensor | None) -> Tensor:
    """The sum over images and classes of terms (N, B, K), averaged over the teachers."""
    if shares is None:
        return terms.sum((1, 2)).mean()
    if shares.shape[1] == 1:
        return (terms.sum((1, 2)) * shares.squeeze(1)).sum()
    return (terms.sum(2) * shares).sum()
