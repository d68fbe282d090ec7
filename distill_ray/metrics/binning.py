"""Estimates of the calibration error beside the ECE in 15 bins of equal width: of all classes, in
bins of equal mass, and without what chance adds. Where they disagree, bins make the difference.
"""

import numpy as np
from numpy.typing import ArrayLike

from distill_ray.metrics.calibration import STANDARD, Binning, diagram, reliability
from distill_ray.metrics.classification import FloatArray, checked, top_labels


def classwise_ece(
    log_probabilities: ArrayLike, labels: ArrayLike, binning: Binning = STANDARD
) -> float:
    """The ECE of the probability of each class, as of the event that the label is that class,
    averaged over the classes; (N, K) and (N,).

    Source: Kull et al. 2019, "Beyond temperature scaling", equation 5.
    """
    predicted, truth = checked(log_probabilities, labels)
    errors = 0.0
    for label in range(predicted.shape[1]):
        probabilities = np.minimum(np.exp(predicted[:, label], dtype=np.float64), 1)
        errors += diagram(probabilities, truth == label, binning).ece
    return float(errors / predicted.shape[1])


def adaptive_ece(log_probabilities: ArrayLike, labels: ArrayLike, bins: int = 15) -> float:
    """The ECE in `bins` bins that hold equally many samples; (N, K) and (N,).

    Samples of equal confidence share a bin, so that their order does not matter. With fewer samples
    than bins each has one of its own. Source: Nguyen & O'Connor 2015, "Posterior calibration and
    exploratory analysis for natural language processing models".
    """
    confidences, correct = top_labels(log_probabilities, labels)
    ordered = np.sort(confidences)
    starts = ordered[np.arange(1, bins) * len(ordered) // bins]
    where = np.searchsorted(starts, confidences, side="right")
    gaps = np.bincount(where, confidences - correct, minlength=bins)
    return float(np.abs(gaps).sum() / len(ordered))


def debiased_ece(
    log_probabilities: ArrayLike, labels: ArrayLike, binning: Binning = STANDARD
) -> float:
    """The ECE less what the choice of samples adds to it by chance, at least 0; (N, K) and (N,).

    The gap d of a bin of n samples with accuracy a is measured with a variance of a (1 - a) / n.
    Were d true, |gap| would be the mean of a folded normal distribution: its excess over |d| is
    taken off. Source: Kumar, Liang & Ma 2019, "Verified uncertainty calibration", in closed form
    where their code draws samples.
    """
    bins = reliability(log_probabilities, labels, binning)
    gaps = bins.confidence - bins.accuracy
    deviations = np.sqrt(bins.accuracy * (1 - bins.accuracy) / np.maximum(bins.counts, 1))
    excess = bins.counts @ (_folded_mean(gaps, deviations) - np.abs(gaps)) / bins.samples
    return max(bins.ece - float(excess), 0.0)


def _folded_mean(means: FloatArray, deviations: FloatArray) -> FloatArray:
    """E|X| of normal X, elementwise."""
    from scipy.special import erf

    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = means / (np.sqrt(2) * deviations)
        folded = np.sqrt(2 / np.pi) * deviations * np.exp(-(scaled**2)) + means * erf(scaled)
    return np.where(deviations > 0, folded, np.abs(means))
