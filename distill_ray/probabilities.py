"""Predictions as log-probabilities, as losses and the picking of images compute with them."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """`values`, widened to float32 where they are narrower."""
    return values if values.dtype == torch.float64 else values.float()


def log_mean(log_p: Tensor, dim: int) -> Tensor:
    """Log of the mean, over axis `dim`, of probabilities that are given by their logs: (..., M,
    ..., K) to (..., K).
    """
    return log_p.logsumexp(dim) - math.log(log_p.shape[dim])


def log_mean_softmax(logits: Tensor, dim: int) -> Tensor:
    """Log of the probabilities over the last axis, averaged over members, which lie along `dim`:
    (..., M, ..., K) to (..., K).
    """
    return log_mean(logits.log_softmax(-1), dim)
