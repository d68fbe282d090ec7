"""Answering only where the network is sure: the risk of the answers that are given against their
share, the coverage.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

from distill_ray.metrics.classification import FloatArray, top_labels


def risks(log_probabilities: ArrayLike, labels: ArrayLike) -> FloatArray:
    """The share of errors among the n most confident answers, for n = 1 to N: (N, K), (N,) -> (N,).

    Confidence is the probability of the most probable class. Of equally confident answers, whose
    order is arbitrary, each counts as much as their mean.
    """
    confidences, correct = top_labels(log_probabilities, labels)
    _, group, sizes = np.unique(-confidences, return_inverse=True, return_counts=True)
    errors = np.bincount(group, ~correct) / sizes
    return np.asarray(np.cumsum(np.repeat(errors, sizes)) / np.arange(1, len(confidences) + 1))


def aurc(risk: FloatArray) -> float:
    """The area under the risk-coverage curve, from what `risks` returns: the mean risk over all
    coverages 1/N to 1.

    Source: Geifman, Uziel & El-Yaniv 2019, "Bias-reduced uncertainty estimation for deep neural
    classifiers".
    """
    return float(risk.mean())


def excess_aurc(risk: FloatArray) -> float:
    """The AURC less that of the same answers when all errors are the least confident ones.

    Source: Geifman et al. 2019, with the exact optimum of N samples in place of its integral.
    """
    samples = len(risk)
    errors = round(float(risk[-1]) * samples)
    least = np.arange(1, errors + 1) / np.arange(samples - errors + 1, samples + 1)
    return max(aurc(risk) - float(least.sum()) / samples, 0.0)


def accuracy_at(risk: FloatArray, coverage: float) -> float:
    """The accuracy of the most confident answers that make up `coverage` of all, rounded up."""
    answers = math.ceil(coverage * len(risk) - 1e-9)
    return 1.0 - float(risk[max(answers, 1) - 1])
