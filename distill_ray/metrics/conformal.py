"""Split conformal prediction: sets of classes that hold the label of a new image with a probability
that is chosen beforehand, by a threshold calibrated on the validation split.

The probability is over images exchangeable with those of the validation split, and an average: for
some images or classes it is lower.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distill_ray.metrics.classification import FloatArray, checked

Score = Literal["lac", "aps", "raps"]
SCORES: tuple[Score, ...] = ("lac", "aps", "raps")
"""How little a class conforms with a prediction, see `nonconformity`."""

PENALTY, FREE_RANKS = 0.01, 5
"""Of RAPS: what each rank beyond the first five adds; the paper's lambda and k_reg for ImageNet."""

LEVEL = 0.95
"""Confidence level of the interval of a coverage."""


@dataclass(frozen=True)
class Conformal:
    """How sets of one score did on a test split.

    - quantile: the threshold; infinite where the validation split is too small for the coverage;
    - coverage: share of the samples whose set holds their label, from `low` to `high` by the
      Clopper-Pearson interval of that many samples;
    - size: the mean number of classes of a set; `empty` is the share of sets without any;
    - by_class: coverage and mean size of the samples of each class (K, 2), NaN where there
      are none.
    """

    score: Score
    quantile: float
    coverage: float
    low: float
    high: float
    size: float
    empty: float
    by_class: FloatArray


def fewest_images(coverage: float) -> int:
    """How many validation images a threshold for `coverage` needs."""
    return math.ceil(coverage / (1 - coverage) * (1 - 1e-9))


def nonconformity(log_probabilities: ArrayLike, score: Score) -> FloatArray:
    """The scores of all classes (N, K).

    - lac: 1 - p_k (Sadinle, Lei & Wasserman 2019): the smallest sets on average, perhaps empty;
    - aps: the probability of all more probable classes (Romano, Sesia & Candes 2020): a set is
      the most probable classes down to which a total is reached. Without their randomisation, so
      that equal images get equal sets; where the most probable class alone suffices, sets cover
      more than was asked;
    - raps: aps plus 0.01 for each rank beyond the fifth (Angelopoulos et al. 2021), against long
      tails of improbable classes.
    """
    probabilities = np.exp(np.asarray(log_probabilities, np.float64))
    if score == "lac":
        return 1 - probabilities
    order = np.argsort(-probabilities, axis=1, kind="stable")
    ordered = np.take_along_axis(probabilities, order, axis=1)
    totals = np.cumsum(ordered, axis=1) - ordered
    if score == "raps":
        ranks = np.arange(1, probabilities.shape[1] + 1)
        totals += PENALTY * np.maximum(ranks - FREE_RANKS, 0)
    scores: FloatArray = np.empty_like(totals)
    np.put_along_axis(scores, order, totals, axis=1)
    return scores


def quantile(
    log_probabilities: ArrayLike, labels: ArrayLike, score: Score, coverage: float
) -> float:
    """The threshold under which the scores of a share `coverage` of new labels lie: the
    ceil((N + 1) coverage)-th smallest score of the labels (N,).

    Infinite where there are fewer samples than `fewest_images`. Source: Vovk, Gammerman & Shafer
    2005. Raises ValueError for a coverage that is not between 0 and 1.
    """
    if not 0 < coverage < 1:
        raise ValueError(f"coverage: expected a number between 0 and 1, found {coverage}")
    predicted, truth = checked(log_probabilities, labels)
    scores = np.sort(nonconformity(predicted, score)[np.arange(len(truth)), truth])
    rank = math.ceil((len(scores) + 1) * coverage - 1e-9)
    return float(scores[rank - 1]) if rank <= len(scores) else math.inf


def prediction_sets(
    log_probabilities: ArrayLike, score: Score, threshold: float
) -> NDArray[np.bool_]:
    """Which classes are in the set of each sample, (N, K): those that score at most `threshold`."""
    return np.asarray(nonconformity(log_probabilities, score) <= threshold)


def conformal(
    log_probabilities: ArrayLike, labels: ArrayLike, score: Score, threshold: float
) -> Conformal:
    """The sets of a test split (N, K) with labels (N,), by a threshold from `quantile` on the
    validation split.
    """
    from scipy.special import betaincinv

    predicted, truth = checked(log_probabilities, labels)
    sets = prediction_sets(predicted, score, threshold)
    covered, sizes = sets[np.arange(len(truth)), truth], sets.sum(axis=1)
    samples, hits, tail = len(truth), int(covered.sum()), (1 - LEVEL) / 2
    counts = np.bincount(truth, minlength=predicted.shape[1])
    with np.errstate(invalid="ignore"):
        by_class = np.stack(
            [
                np.bincount(truth, weights, minlength=len(counts)) / counts
                for weights in (covered, sizes)
            ],
            axis=1,
        )
    return Conformal(
        score=score,
        quantile=threshold,
        coverage=hits / samples,
        low=float(betaincinv(hits, samples - hits + 1, tail)) if hits else 0.0,
        high=float(betaincinv(hits + 1, samples - hits, 1 - tail)) if hits < samples else 1.0,
        size=float(sizes.mean()),
        empty=float((sizes == 0).mean()),
        by_class=by_class,
    )
