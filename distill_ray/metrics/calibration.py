"""Does confidence mean what it says: expected calibration error, overconfidence error, temperature
scaling.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from distill_ray.metrics.classification import FloatArray, IntegerArray, checked, top_labels

LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.01, 100.0


@dataclass(frozen=True)
class Binning:
    """How top-label confidences in [0, 1] are put into bins of equal width.

    `closed="right"` makes bins (low, high], `"left"` [low, high). A confidence of exactly 1 (in
    float32, which is what the published systems computed in) has no bin of the left-closed kind;
    `certain` says where it goes: into the last bin ("fold"), into one more bin of its own ("own"),
    or into no bin while it still counts as a sample ("skip").
    """

    bins: int = 15
    closed: Literal["right", "left"] = "right"
    certain: Literal["fold", "own", "skip"] = "fold"

    def __post_init__(self) -> None:
        """Raises ValueError for settings that contradict each other."""
        if self.bins < 1:
            raise ValueError(f"bins: expected at least 1, found {self.bins}")
        if self.closed == "right" and self.certain != "fold":
            raise ValueError(
                f"certain: right-closed bins hold confidence 1 in the last one, found {self.certain!r}"
            )

    @property
    def edges(self) -> FloatArray:
        """Borders of the bins, (bins + 1,), from 0 to 1."""
        return np.arange(self.bins + 1) / self.bins

    def indices(self, confidences: FloatArray) -> IntegerArray:
        """The bin of every confidence, (N,) -> (N,); `bins` stands for the one beyond the last."""
        if self.closed == "right":
            return np.maximum(np.searchsorted(self.edges, confidences, side="left") - 1, 0)
        found = np.minimum(
            np.searchsorted(self.edges, confidences, side="right") - 1, self.bins - 1
        )
        return (
            found
            if self.certain == "fold"
            else np.where(confidences.astype(np.float32) >= 1, self.bins, found)
        )


STANDARD = Binning()
"""15 bins (low, high]: Guo et al. 2017, and what the LatentBE system reports."""

CALIBRATED_ENSEMBLE = Binning(bins=100, closed="left", certain="skip")
"""100 bins as coded by Jain, Patel & Viradiya 2022 (ensemble of calibrated models), which leaves
certain predictions out.
"""

MULTI_HEAD = Binning(bins=10)
"""10 bins (low, high]: the Hydra+ system, whose published numbers are averages over batches
(`batchwise_ece`).
"""


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


def batchwise_ece(
    log_probabilities: ArrayLike, labels: ArrayLike, batch: int, binning: Binning = STANDARD
) -> float:
    """Mean over samples of the ECE of their batch (consecutive ones of `batch` samples), a
    fraction.

    For comparison with tables made that way, such as those of Hydra+: biased upwards, often
    strongly.
    """
    predicted, truth = checked(log_probabilities, labels)
    parts = [slice(start, start + batch) for start in range(0, len(truth), batch)]
    return sum(
        ece(predicted[part], truth[part], binning) * len(truth[part]) for part in parts
    ) / len(truth)


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
    bins = binning.bins + (binning.certain == "own")
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


def fit_temperature(log_probabilities: ArrayLike, labels: ArrayLike) -> float:
    """The temperature T that minimises the NLL of softmax(log p / T) for labels (N,), to 1e-8 and
    within [0.01, 100].

    Fit it on the validation split. An ensemble is pooled first and then has one T
    (`mean_log_probabilities`). Where the NLL has no minimum inside (every label is the top class,
    or the worst), T is the limit it falls towards. Source: Guo et al. 2017; exact where the
    LatentBE system stops its BFGS at a gradient of 1e-3.
    """
    from scipy.optimize import brentq

    predicted, truth = checked(log_probabilities, labels)
    # At T <= 100 anything this far below the top class has no weight; -inf would make 0 * inf.
    logits = np.maximum(
        np.subtract(predicted, predicted.max(axis=1, keepdims=True), dtype=np.float64), -1e4
    )
    of_labels = logits[np.arange(len(truth)), truth].mean()

    def slope(log_temperature: float) -> float:
        """The derivative of the NLL by 1 / T, which grows with 1 / T: the NLL is convex in it."""
        weights = np.exp(logits / np.exp(log_temperature))
        expected = np.einsum("nk,nk->n", weights, logits) / weights.sum(axis=1)
        return float(expected.mean() - of_labels)

    coldest, hottest = np.log(LOWEST_TEMPERATURE), np.log(HIGHEST_TEMPERATURE)
    if slope(coldest) <= 0:
        return LOWEST_TEMPERATURE
    if slope(hottest) >= 0:
        return HIGHEST_TEMPERATURE
    return float(np.exp(brentq(slope, coldest, hottest, xtol=1e-11, rtol=1e-11)))


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
