"""What stands beside the table: other estimates of the calibration error, risk against coverage,
means over classes, against scikit-learn and loops over samples.
"""

import math

import numpy as np
import pytest
from scipy.special import log_softmax
from scipy.stats import foldnorm
from sklearn.metrics import balanced_accuracy_score, f1_score

from distill_ray.metrics import detailed_score, score
from distill_ray.metrics.binning import adaptive_ece, classwise_ece, debiased_ece
from distill_ray.metrics.classification import FloatArray, IntegerArray
from distill_ray.metrics.selective import accuracy_at, aurc, excess_aurc, risks


def predictions(
    samples: int = 300, classes: int = 5, sharpness: float = 2.0, seed: int = 0
) -> tuple[FloatArray, IntegerArray]:
    """Predictions for labels that are drawn from them, calibrated at a sharpness of 1."""
    generator = np.random.default_rng(seed)
    logits = 1.5 * generator.normal(size=(samples, classes))
    gumbel = generator.gumbel(size=logits.shape)
    return log_softmax(sharpness * logits, axis=1), (logits + gumbel).argmax(axis=1)


def by_hand(*confidences_and_correct: tuple[float, bool]) -> tuple[FloatArray, IntegerArray]:
    """Two classes: class 0 with these confidences, above one half."""
    sure = np.array([confidence for confidence, _ in confidences_and_correct])
    labels = np.array([0 if correct else 1 for _, correct in confidences_and_correct])
    return np.log(np.stack([sure, 1 - sure], axis=1)), labels


def test_means_over_classes_are_those_of_scikit_learn() -> None:
    logs, labels = predictions(samples=60, classes=12)
    labels = np.where(labels == 3, 4, labels)  # a class without samples, but with predictions
    named = logs.argmax(axis=1)
    assert (named == 3).any()
    scores = detailed_score(logs, labels)
    assert scores["macro-f1"] == pytest.approx(f1_score(labels, named, average="macro"), abs=1e-12)
    balanced = np.mean([(named[labels == each] == each).mean() for each in np.unique(labels)])
    assert scores["balanced-accuracy"] == pytest.approx(balanced, abs=1e-12)
    logs, labels = predictions()
    named = logs.argmax(axis=1)
    assert detailed_score(logs, labels)["balanced-accuracy"] == pytest.approx(
        balanced_accuracy_score(labels, named), abs=1e-12
    )


def test_classwise_ece_is_the_mean_over_one_against_all() -> None:
    logs, labels = predictions()
    total = 0.0
    for label in range(5):
        for low in range(15):
            inside = [
                n
                for n in range(len(labels))
                if low / 15 < math.exp(logs[n, label]) <= (low + 1) / 15
            ]
            total += abs(sum((labels[n] == label) - math.exp(logs[n, label]) for n in inside))
    assert classwise_ece(logs, labels) == pytest.approx(total / len(labels) / 5, abs=1e-12)


def test_adaptive_ece_has_bins_of_equal_mass() -> None:
    """300 samples of different confidence: 15 bins of 20."""
    logs, labels = predictions()
    confidence, correct = np.exp(logs.max(axis=1)), logs.argmax(axis=1) == labels
    order = np.argsort(confidence)
    bins = [order[start : start + 20] for start in range(0, 300, 20)]
    expected = np.mean([abs(confidence[each].mean() - correct[each].mean()) for each in bins])
    assert adaptive_ece(logs, labels) == pytest.approx(expected, abs=1e-12)
    # By hand: two bins, of 0.6 and 0.7 (one right) and of 0.8 and 0.9 (both right)
    logs, labels = by_hand((0.6, True), (0.9, True), (0.7, False), (0.8, True))
    assert adaptive_ece(logs, labels, bins=2) == pytest.approx((0.15 + 0.15) / 2)


def test_adaptive_ece_does_not_depend_on_the_order_of_equal_confidences() -> None:
    right_first = by_hand(*[(0.8, True)] * 30, *[(0.8, False)] * 10)
    wrong_first = by_hand(*[(0.8, False)] * 10, *[(0.8, True)] * 30)
    assert adaptive_ece(*right_first) == pytest.approx(adaptive_ece(*wrong_first))
    assert adaptive_ece(*right_first) == pytest.approx(0.05)


def test_debiased_ece_takes_off_what_chance_adds() -> None:
    logs, labels = by_hand(*[(0.7, True)] * 7, *[(0.7, False)] * 3)  # one bin, without a gap
    assert debiased_ece(logs, labels) == 0
    logs, labels = by_hand(*[(0.7, True)] * 5, *[(0.7, False)] * 5)  # a gap of 0.2
    deviation = math.sqrt(0.25 / 10)
    folded = foldnorm.mean(0.2 / deviation, scale=deviation)
    assert debiased_ece(logs, labels) == pytest.approx(0.2 - (folded - 0.2), abs=1e-12)


def test_debiased_ece_of_calibrated_predictions_is_below_the_ece() -> None:
    plain, debiased = [], []
    for seed in range(20):
        logs, labels = predictions(sharpness=1.0, seed=seed)
        plain.append(score(logs, labels)["ece"])
        debiased.append(debiased_ece(logs, labels))
    assert np.mean(plain) > 0.03
    assert np.mean(debiased) < 0.75 * np.mean(plain)


def test_risk_against_coverage_sample_by_sample() -> None:
    logs, labels = predictions()
    order = np.argsort(-logs.max(axis=1), kind="stable")
    wrong = (logs.argmax(axis=1) != labels)[order]
    expected = [wrong[:n].mean() for n in range(1, len(wrong) + 1)]
    risk = risks(logs, labels)
    np.testing.assert_allclose(risk, expected, atol=1e-12)
    assert aurc(risk) == pytest.approx(np.mean(expected))
    ideal = np.sort(wrong)
    best = np.mean([ideal[:n].mean() for n in range(1, len(ideal) + 1)])
    assert excess_aurc(risk) == pytest.approx(np.mean(expected) - best, abs=1e-12)
    assert accuracy_at(risk, 0.8) == pytest.approx(1 - wrong[:240].mean())
    assert accuracy_at(risk, 1.0) == pytest.approx(1 - wrong.mean())


def test_aurc_by_hand() -> None:
    # Errors: the second of four. Risks 0, 1/2, 1/3, 1/4; at best 0, 0, 0, 1/4
    logs, labels = by_hand((0.9, True), (0.8, False), (0.7, True), (0.6, True))
    risk = risks(logs, labels)
    assert aurc(risk) == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert excess_aurc(risk) == pytest.approx((1 / 2 + 1 / 3) / 4)
    # Equally confident: half an error each, whatever their order
    one, other = by_hand((0.8, True), (0.8, False)), by_hand((0.8, False), (0.8, True))
    assert risks(*one).tolist() == risks(*other).tolist() == [0.5, 0.5]
