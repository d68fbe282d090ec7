"""Split conformal prediction against loops over the definition, and its promise of coverage."""

import math

import numpy as np
import pytest
from scipy.special import log_softmax
from scipy.stats import binomtest

from distill_ray.metrics.conformal import (
    SCORES,
    Score,
    conformal,
    fewest_images,
    nonconformity,
    prediction_sets,
    quantile,
)

ROW = np.log([[0.1, 0.6, 0.25, 0.05]])


def test_scores_by_hand() -> None:
    assert nonconformity(ROW, "lac")[0] == pytest.approx([0.9, 0.4, 0.75, 0.95])
    assert nonconformity(ROW, "aps")[0] == pytest.approx([0.85, 0.0, 0.6, 0.95])
    seven = np.log(np.full((1, 7), 1 / 7))  # equals in the order of the classes
    penalties = [0, 0, 0, 0, 0, 0.01, 0.02]
    assert nonconformity(seven, "raps")[0] == pytest.approx(
        [n / 7 + penalty for n, penalty in enumerate(penalties)]
    )


def test_threshold_is_an_order_statistic() -> None:
    """Of 19 labels the 18th smallest score covers 90 %, of 9 the largest, of 8 none."""
    probabilities = np.linspace(0.55, 0.99, 19)
    logs, labels = np.log(np.stack([probabilities, 1 - probabilities], axis=1)), np.zeros(19, int)
    assert quantile(logs, labels, "lac", 0.9) == pytest.approx(1 - np.sort(probabilities)[1])
    assert quantile(logs[:9], labels[:9], "lac", 0.9) == pytest.approx(1 - probabilities[0])
    assert quantile(logs[:8], labels[:8], "lac", 0.9) == math.inf
    assert fewest_images(0.9) == 9
    assert fewest_images(0.99) == 99
    with pytest.raises(ValueError, match="coverage"):
        quantile(logs, labels, "lac", 1.0)


def test_sets_by_hand() -> None:
    assert prediction_sets(ROW, "lac", 0.3).tolist() == [[False] * 4]
    assert prediction_sets(ROW, "aps", 0.3).tolist() == [[False, True, False, False]]
    assert prediction_sets(ROW, "aps", 0.61).tolist() == [[False, True, True, False]]


@pytest.mark.parametrize("score", SCORES)
def test_coverage_is_what_was_asked(score: Score) -> None:
    """Over 200 splits of a network that is not calibrated. The most probable class
    alone covers less than was asked, so that no score covers more.
    """
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(8000, 6))
    labels = (1.5 * logits + generator.gumbel(size=logits.shape)).argmax(axis=1)
    logs = log_softmax(3 * logits, axis=1)
    coverages = []
    for _ in range(200):
        rows = generator.permutation(8000)
        threshold = quantile(logs[rows[:99]], labels[rows[:99]], score, 0.9)
        coverages.append(
            conformal(logs[rows[99:2099]], labels[rows[99:2099]], score, threshold).coverage
        )
    assert np.mean(coverages) == pytest.approx(0.9, abs=0.008)


def test_report_of_a_split() -> None:
    logs = np.log([[0.9, 0.06, 0.04], [0.5, 0.4, 0.1], [0.2, 0.3, 0.5]])
    found = conformal(logs, np.array([0, 1, 1]), "lac", 0.6)  # sets {0}, {0, 1}, {2}
    assert (found.coverage, found.size, found.empty) == (2 / 3, 4 / 3, 0)
    interval = binomtest(2, 3).proportion_ci(0.95)  # Clopper-Pearson
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    np.testing.assert_allclose(found.by_class, [[1, 1], [0.5, 1.5], [np.nan, np.nan]])
