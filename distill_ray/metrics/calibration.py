"""Does confidence mean what it says: expected calibration error, overconfidence error, temperature
scaling.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from distill_ray.metrics.classification import FloatArray, IntegerArray, checked, top_labels

LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.01, 100.0

PRIOR_IMAGES = 4.0
"""The weight of the prior on a temperature, see `fit_temperature`.

Tried on digits: 48 networks of three architectures (labels alone, distilled at T = 8, mixup), each
with 5 validation splits of 30 to 200 images. Against T = 1 the prior lowers the test NLL by 0.12 to
0.15 on average, as the best fit does, and raises it by at most 0.05; without it the worst case is a
rise of 12.
"""


@dataclass(frozen=True)
class Binning:
    """How top-label confidences in [0, 1] are put into bins of equal width.

    Bins are (low, high], compared in float64, or `as_coded` by Jain, Patel & Viradiya 2022
    (ensemble of calibrated models): the integer part of confidence times bins in float32, where 0.7
    of 100 bins falls into bin 70. A confidence of 1, in float32, then has no bin of its own kind
    and counts as a sample only.
    """

    bins: int = 15
    as_coded: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for less than one bin."""
        if self.bins < 1:
            raise ValueError(f"bins: expected at least 1, found {self.bins}")

    @property
    def edges(self) -> FloatArray:
        """Borders of the bins, (bins + 1,), from 0 to 1."""
        return np.arange(self.bins + 1) / self.bins

    def indices(self, confidences: FloatArray) -> IntegerArray:
        """The bin of every confidence, (N,) -> (N,); `bins` stands for none."""
        if self.as_coded:
            return (confidences.astype(np.float32) * np.float32(self.bins)).astype(np.int64)
        return np.maximum(np.searchsorted(self.edges, confidences, side="left") - 1, 0)


STANDARD = Binning()
"""15 bins (low, high]: Guo et al. 2017, and what the LatentBE system reports."""

CALIBRATED_ENSEMBLE = Binning(bins=100, as_coded=True)
"""The 100 bins of the calibrated-ensemble tables."""


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: per bin the number of samples, their mean confidence and their
    accuracy (0 where empty).
    """

    binning: Binning
    samples: int
    counts: IntegerArray
    confidence: FloatArray
    accuracy: FloatArray

    @property
    def ece(self) -> float:
        """Expected calibration error: mean over samples of |confidence - accuracy| of their bin."""
        return self._mean(np.abs(self.confidence - self.accuracy))

    @property
    def oe(self) -> float:
        """Overconfidence error: mean over samples of confidence * max(confidence - accuracy, 0) of
        their bin; at most the ECE.
        """
        return self._mean(self.confidence * np.maximum(self.confidence - self.accuracy, 0))

    def _mean(self, per_bin: FloatArray) -> float:
        return float(self.counts @ per_bin / self.samples)


def ece(log_probabilities: ArrayLike, labels: ArrayLike, binning: Binning = STANDARD) -> float:
    """Expected calibration error of (N, K) log-probabilities for labels (N,), a fraction (Guo et
    al. 2017, equation 3).
    """
    return reliability(log_probabilities, labels, binning).ece


def oe(log_probabilities: ArrayLike, labels: ArrayLike, binning: Binning = STANDARD) -> float:
    """Overconfidence error of (N, K) log-probabilities for labels (N,), a fraction (Thulasidasan et
    al. 2019).
    """
    return reliability(log_probabilities, labels, binning).oe


def reliability(
    log_probabilities: ArrayLike, labels: ArrayLike, binning: Binning = STANDARD
) -> Reliability:
    """The reliability diagram of (N, K) log-probabilities for labels (N,)."""
    return diagram(*top_labels(log_probabilities, labels), binning)


def diagram(confidences: ArrayLike, correct: ArrayLike, binning: Binning = STANDARD) -> Reliability:
    """The reliability diagram of confidences (N,) in [0, 1] whose predictions were `correct` (N,)
    or not.
    """
    sure, right = np.asarray(confidences, np.float64), np.asarray(correct, np.float64)
    bins = binning.bins
    where = binning.indices(sure)
    counts = np.bincount(where, minlength=bins)[:bins]
    filled = np.maximum(counts, 1)
    return Reliability(
        binning=binning,
        samples=len(sure),
        counts=counts,
        confidence=np.bincount(where, sure, minlength=bins)[:bins] / filled,
        accuracy=np.bincount(where, right, minlength=bins)[:bins] / filled,
    )


def fit_temperature(
    log_probabilities: ArrayLike, labels: ArrayLike, *, prior_images: float = PRIOR_IMAGES
) -> float:
    """The temperature T that makes softmax(log p / T) most probable given labels (N,): to 1e-8 and
    within [0.01, 100].

    It minimises the NLL, summed over the N samples, plus `prior_images` * (1 / T - 1 + ln T). The
    second term is a Gamma prior on 1 / T whose mode is T = 1. Without it the NLL falls towards T =
    0 where every label is the top class, as happens on small validation splits of easy data, and
    the single error on a test image then costs hundreds of nats. With many samples, or many errors,
    the prior is outweighed.

    Fit it on the validation split. An ensemble is pooled first and then has one T
    (`mean_log_probabilities`). Source: Guo et al. 2017, which is `prior_images=0`, where T is the
    bound that the NLL falls towards if it has no minimum inside.

    Args:
        log_probabilities: predictions (N, K).
        labels: classes (N,).
        prior_images: weight of the prior. Near T = 1 it is worth as many images of which each one
            determines ln T with a variance of 1.
    """
    from scipy.optimize import brentq

    slope = _slope(log_probabilities, labels)
    prior = prior_images / len(np.asarray(labels))

    def total(log_temperature: float) -> float:
        """The derivative of the objective by 1 / T, in which it is convex."""
        return slope(log_temperature) + prior * (1 - math.exp(log_temperature))

    coldest, hottest = math.log(LOWEST_TEMPERATURE), math.log(HIGHEST_TEMPERATURE)
    if total(coldest) <= 0:
        return LOWEST_TEMPERATURE
    if total(hottest) >= 0:
        return HIGHEST_TEMPERATURE
    return float(np.exp(brentq(total, coldest, hottest, xtol=1e-11, rtol=1e-11)))


def determines_temperature(log_probabilities: ArrayLike, labels: ArrayLike) -> bool:
    """Whether these predictions for labels (N,) have an NLL with a minimum at some T in (0.01,
    100).

    Where not, as where every label is the top class, the prior decides the temperature.
    """
    slope = _slope(log_probabilities, labels)
    return slope(math.log(LOWEST_TEMPERATURE)) > 0 > slope(math.log(HIGHEST_TEMPERATURE))


def _slope(log_probabilities: ArrayLike, labels: ArrayLike) -> Callable[[float], float]:
    """The derivative of the mean NLL of softmax(log p / T) by 1 / T, as a function of ln T."""
    predicted, truth = checked(log_probabilities, labels)
    # At T <= 100 anything this far below the top class has no weight; -inf would make 0 * inf.
    logits = np.maximum(
        np.subtract(predicted, predicted.max(axis=1, keepdims=True), dtype=np.float64), -1e4
    )
    of_labels = logits[np.arange(len(truth)), truth].mean()

    def slope(log_temperature: float) -> float:
        weights = np.exp(logits / np.exp(log_temperature))
        expected = np.einsum("nk,nk->n", weights, logits) / weights.sum(axis=1)
        return float(expected.mean() - of_labels)

    return slope


def with_temperature(log_probabilities: ArrayLike, temperature: float) -> FloatArray:
    """log softmax(log p / T), (N, K) -> (N, K); equal to dividing the logits by T. Raises
    ValueError for T not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature: expected a number above 0, found {temperature}")
    scaled = np.asarray(log_probabilities, np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    scaled -= np.log(np.exp(scaled).sum(axis=1, keepdims=True))
    return np.asarray(scaled)
