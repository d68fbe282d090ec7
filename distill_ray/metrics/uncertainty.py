"""How uncertain a prediction is, why (noise in the data or disagreement of members), and whether
that reveals foreign data.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from distill_ray.metrics.classification import FloatArray
from distill_ray.metrics.ensemble import mean_log_probabilities


@dataclass(frozen=True)
class Uncertainty:
    """Per sample (N,), the total uncertainty of a prediction and its two sources.

    Aleatoric is what a member expects on average (noise in the data), epistemic is how much the
    members disagree. For classification all are in nats and add up; for regression they are
    standard deviations, whose squares add up.
    """

    total: FloatArray
    aleatoric: FloatArray
    epistemic: FloatArray


def entropy(log_probabilities: ArrayLike) -> FloatArray:
    """-sum p ln p over the last axis, in nats, (..., K) -> (...); a class of probability 0 adds
    nothing.
    """
    logs = np.asarray(log_probabilities, np.float64)
    probabilities = np.exp(logs)
    return np.asarray(-(probabilities * np.where(probabilities > 0, logs, 0)).sum(axis=-1))


def decompose(members: ArrayLike) -> Uncertainty:
    """Entropy of the mean prediction, mean entropy of the members and their difference, the mutual
    information.

    `members` are log-probabilities (M, N, K). Source: Depeweg et al. 2018; the difference is kept
    from going below 0.
    """
    total = entropy(mean_log_probabilities(members))
    aleatoric = entropy(members).mean(axis=0)
    return Uncertainty(total, aleatoric, np.maximum(total - aleatoric, 0))


def disagreement(members: ArrayLike) -> FloatArray:
    """Share of the samples for which two members name different classes, for every pair: (M, N, K)
    -> (M, M).
    """
    named = np.asarray(members).argmax(axis=-1)
    return np.asarray((named[:, None] != named[None]).mean(axis=-1))


def diversity(members: ArrayLike) -> dict[str, float]:
    """How different M members are: `disagreement`, the mean over pairs, and `information`, the mean
    mutual information in nats.

    `members` are log-probabilities (M, N, K). A single member disagrees with nobody: both are 0.
    """
    pairs = disagreement(members)[np.triu_indices(len(np.asarray(members)), 1)]
    return {
        "disagreement": float(pairs.mean()) if len(pairs) else 0.0,
        "information": float(decompose(members).epistemic.mean()),
    }


def decompose_dirichlet(concentrations: ArrayLike) -> Uncertainty:
    """The same decomposition, in closed form, of categorical distributions drawn from Dir(alpha),
    alpha (N, K) above 0.

    Raises ValueError for another shape or a concentration that is not above 0. Source: Malinin and
    Gales 2018, "Prior Networks"; exact where Hydra+ draws 20 samples.
    """
    from scipy.special import digamma

    alpha = np.asarray(concentrations, np.float64)
    if alpha.ndim != 2 or not (alpha > 0).all():
        raise ValueError(
            "concentrations: expected numbers above 0 of the shape (samples, classes), found "
            f"{alpha.shape}"
        )
    precision = alpha.sum(axis=1, keepdims=True)
    mean = alpha / precision
    total = entropy(np.log(mean))
    aleatoric = -(mean * (digamma(alpha + 1) - digamma(precision + 1))).sum(axis=1)
    return Uncertainty(total, aleatoric, np.maximum(total - aleatoric, 0))


def auroc(familiar: ArrayLike, foreign: ArrayLike) -> float:
    """How well an uncertainty (N,) separates foreign samples from familiar ones: the area under the
    ROC curve.

    It is the probability that a foreign sample is the more uncertain one of a random pair, ties
    counted as half (Hanley & McNeil 1982). Raises ValueError, naming the argument, for no samples
    or NaN.
    """
    inside, outside = np.sort(_scores("familiar", familiar)), _scores("foreign", foreign)
    below, not_above = (
        np.searchsorted(inside, outside, side="left"),
        np.searchsorted(inside, outside, side="right"),
    )
    return float((below + not_above).mean() / 2 / len(inside))


def average_precision(positive: ArrayLike, negative: ArrayLike) -> float:
    """The area under the precision-recall curve (AUPR) of telling positive samples by their higher
    scores, (P,) and (N,), as average precision: the precision at each step of the recall.

    Samples of equal scores are taken together. Raises ValueError as `auroc` does.
    """
    high, low = np.sort(_scores("positive", positive)), np.sort(_scores("negative", negative))
    thresholds, counts = np.unique(high, return_counts=True)
    true_positives = len(high) - np.searchsorted(high, thresholds, side="left")
    wrong = len(low) - np.searchsorted(low, thresholds, side="left")
    return float((counts * true_positives / (true_positives + wrong)).sum() / len(high))


def fpr_at_tpr(familiar: ArrayLike, foreign: ArrayLike, tpr: float = 0.95) -> float:
    """The share of foreign samples that are taken for familiar at the uncertainty up to which a
    share `tpr` of the familiar ones are accepted; (N,) and (P,).

    Source: Liang, Li & Srikant 2018 (ODIN), whose positives are the familiar samples. Raises
    ValueError as `auroc` does.
    """
    inside, outside = np.sort(_scores("familiar", familiar)), _scores("foreign", foreign)
    accepted = inside[math.ceil(tpr * len(inside) - 1e-9) - 1]
    return float((outside <= accepted).mean())


def separation(familiar: ArrayLike, foreign: ArrayLike) -> dict[str, float]:
    """How well an uncertainty tells foreign samples (P,) from familiar ones (N,): `auroc`;
    `aupr-foreign` and `aupr-test`, average precision with either as the positives; `fpr95`.
    """
    inside, outside = _scores("familiar", familiar), _scores("foreign", foreign)
    return {
        "auroc": auroc(inside, outside),
        "aupr-foreign": average_precision(outside, inside),
        "aupr-test": average_precision(-inside, -outside),
        "fpr95": fpr_at_tpr(inside, outside),
    }


def total_variation(first: ArrayLike, second: ArrayLike, highest: float, bins: int = 50) -> float:
    """Total-variation distance (0 to 1) between two samples' histograms of `bins` equal bins on [0,
    highest].

    It tells how faithfully a student's uncertainties (N,) follow its teachers' (P,); `highest` is
    ln K for entropies. Hydra+ reports the sum of |density differences| instead, which is 2 * bins /
    highest times as large.
    """
    shares = []
    for name, values in (("first", first), ("second", second)):
        sample = np.clip(_scores(name, values), 0, highest)
        shares.append(np.histogram(sample, bins, (0, highest))[0] / len(sample))
    return float(np.abs(shares[0] - shares[1]).sum() / 2)


def _scores(name: str, values: ArrayLike) -> FloatArray:
    scores = np.asarray(values, np.float64)
    if scores.ndim != 1 or scores.size == 0 or np.isnan(scores).any():
        raise ValueError(
            f"{name}: expected at least one number, none of them NaN, in the shape "
            f"(samples,), found {scores.shape}"
        )
    return scores
