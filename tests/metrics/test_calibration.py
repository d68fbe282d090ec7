"""Calibration against the printed oracles of the published systems, and against independent
reckoning.
"""

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp

from distill_ray.metrics import Binning, calibrated_score, fit_temperature, reliability, score
from distill_ray.metrics.calibration import (
    CALIBRATED_ENSEMBLE,
    MULTI_HEAD,
    STANDARD,
    batchwise_ece,
    diagram,
    ece,
    oe,
    with_temperature,
)
from distill_ray.metrics.classification import FloatArray, IntegerArray

# Jain, Patel & Viradiya 2022, "Improved distillation with ensemble of calibrated models", values
# worked out from its code.
CONFIDENCES = [0.9055, 0.9075, 0.5025, 0.5085, 0.3315, 0.3385, 0.7555, 0.9985, 1.0, 0.2105]
CORRECT = [1, 0, 1, 0, 0, 1, 1, 1, 0, 0]

# LatentBE, oracle 8.11.
LOGITS = np.array(
    [[4, 0, 1], [0.5, 3, 2.5], [2, 2.2, -1], [-1, 0, 5], [3, 1, 0], [0, 4, 1]], np.float64
)
LABELS = np.array([0, 2, 0, 2, 0, 2])


def predictions(
    confidences: ArrayLike, correct: ArrayLike, classes: int = 40
) -> tuple[FloatArray, IntegerArray]:
    """Log-probabilities whose top class 0 has these confidences, and labels that make the
    predictions correct or not.
    """
    rest = (1 - np.asarray(confidences, np.float64)) / (classes - 1)
    probabilities = np.tile(rest[:, None], (1, classes))
    probabilities[:, 0] = confidences
    with np.errstate(divide="ignore"):
        return np.log(probabilities), 1 - np.asarray(correct)


def random_predictions(
    samples: int = 400, classes: int = 7, seed: int = 3
) -> tuple[FloatArray, IntegerArray]:
    generator = np.random.default_rng(seed)
    logs = log_softmax(generator.normal(0, 2, (samples, classes)), axis=1)
    return logs, np.where(
        generator.random(samples) < 0.6,
        logs.argmax(axis=1),
        generator.integers(0, classes, samples),
    )


@pytest.mark.parametrize(
    ("binning", "expected_ece", "expected_oe"),
    [
        (CALIBRATED_ENSEMBLE, 0.16105000, 0.07868552),
        (Binning(100, "left", "own"), 0.26105000, 0.17868552),
        (Binning(100, "left", "fold"), 0.26075000, 0.17846064),
        (Binning(15, "left", "fold"), 0.32705000, 0.18944986),
        (Binning(10, "left", "fold"), 0.26075000, 0.17760038),
    ],
)
def test_calibrated_ensemble_oracle(
    binning: Binning, expected_ece: float, expected_oe: float
) -> None:
    found = diagram(CONFIDENCES, CORRECT, binning)
    assert_allclose([found.ece, found.oe], [expected_ece, expected_oe], atol=5e-9)
    logs, labels = predictions(CONFIDENCES, CORRECT)
    assert_allclose(
        [ece(logs, labels, binning), oe(logs, labels, binning)],
        [expected_ece, expected_oe],
        atol=5e-9,
    )


def test_latent_batchensemble_ece_oracle() -> None:
    confidences = [0.95, 0.91, 0.82, 0.78, 0.62, 0.61, 0.55, 0.41, 0.405, 1.0]
    correct = [1, 1, 0, 1, 1, 0, 1, 0, 0, 1]
    assert_allclose(diagram(confidences, correct).ece, 0.2675, atol=1e-12)
    assert_allclose(score(*predictions(confidences, correct))["ece"], 0.2675, atol=1e-12)
    logs, labels = predictions(confidences, correct)
    # Where confidence 1 falls out of all bins
    assert score(logs, labels)["ece"] != pytest.approx(0.2972222, abs=1e-3)


def test_multi_head_ece_oracle() -> None:
    logs, labels = predictions(
        [0.95, 0.85, 0.85, 0.62, 0.55, 0.35, 0.88, 0.97], [1, 1, 0, 1, 0, 0, 1, 1]
    )
    assert_allclose(100 * ece(logs, labels, MULTI_HEAD), 24.25, atol=1e-12)
    assert_allclose(100 * ece(logs[:4], labels[:4], MULTI_HEAD), 28.25, atol=1e-12)
    assert_allclose(100 * ece(logs[4:], labels[4:], MULTI_HEAD), 26.25, atol=1e-12)
    assert_allclose(100 * batchwise_ece(logs, labels, 4, MULTI_HEAD), 27.25, atol=1e-12)
    assert batchwise_ece(logs, labels, 8, MULTI_HEAD) == ece(logs, labels, MULTI_HEAD)


def test_a_short_last_batch_weighs_as_much_as_it_holds() -> None:
    logs, labels = random_predictions(25)
    expected = (
        10 * ece(logs[:10], labels[:10])
        + 10 * ece(logs[10:20], labels[10:20])
        + 5 * ece(logs[20:], labels[20:])
    ) / 25
    assert_allclose(batchwise_ece(logs, labels, 10), expected)


def test_latent_batchensemble_temperature_oracle() -> None:
    """The system adds 1e-8 inside its logarithms, which moves the cNLL by 3e-8; this package does
    not.
    """
    logs = log_softmax(LOGITS, axis=1)
    before = score(logs, LABELS)
    assert before["accuracy"] == 0.5
    assert_allclose([before["nll"], before["ece"]], [0.8591668691, 0.3582556536], atol=1e-10)
    temperature = fit_temperature(logs, LABELS)
    assert_allclose(
        fit_temperature(np.log(np.exp(logs) + 1e-8).clip(max=0), LABELS), 1.8088250538, atol=1e-8
    )
    assert_allclose(temperature, 1.8088250538, atol=1e-7)
    smoothed = np.exp(logs[np.arange(6), LABELS])
    assert_allclose(-np.log(smoothed + 1e-8).mean(), 0.8591668195, atol=1e-10)
    after = calibrated_score(logs, LABELS, temperature)
    assert_allclose(after["cnll"], 0.7513204619, atol=3e-8)
    assert_allclose(after["cece"], 0.3255376664, atol=1e-8)


def test_the_temperature_is_the_minimum_of_the_nll() -> None:
    logs, labels = random_predictions()
    found = minimize_scalar(
        lambda t: np.mean(logsumexp(logs / t, axis=1) - logs[np.arange(len(labels)), labels] / t),
        bounds=(0.1, 10),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert_allclose(fit_temperature(logs, labels), found.x, rtol=1e-6)
    assert_allclose(
        calibrated_score(logs, labels, fit_temperature(logs, labels))["cnll"], found.fun, rtol=1e-10
    )


def test_temperature_scaling_of_what_was_scaled_undoes_it() -> None:
    logs, labels = random_predictions()
    first = fit_temperature(logs, labels)
    assert_allclose(fit_temperature(with_temperature(logs, 3.0), labels), first / 3, rtol=1e-8)
    assert_allclose(fit_temperature(with_temperature(logs, first), labels), 1, rtol=1e-8)


def test_the_temperature_stays_within_bounds_where_the_nll_has_no_minimum() -> None:
    logs, _ = random_predictions()
    assert fit_temperature(logs, logs.argmax(axis=1)) == 0.01
    assert fit_temperature(logs, logs.argmin(axis=1)) == 100


def test_the_temperature_survives_impossible_classes() -> None:
    logs = log_softmax(np.concatenate([LOGITS, np.full((6, 1), -np.inf)], axis=1), axis=1)
    assert_allclose(
        fit_temperature(logs, LABELS),
        fit_temperature(log_softmax(LOGITS, axis=1), LABELS),
        rtol=1e-12,
    )


def test_ece_and_oe_agree_with_a_plain_loop_over_bins() -> None:
    logs, labels = random_predictions()
    probabilities = np.exp(logs)
    confidences, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    expected_ece = expected_oe = 0.0
    for low in range(15):
        inside = (confidences > low / 15) & (confidences <= (low + 1) / 15)
        if inside.any():
            gap = confidences[inside].mean() - correct[inside].mean()
            expected_ece += inside.mean() * abs(gap)
            expected_oe += inside.mean() * confidences[inside].mean() * max(gap, 0)
    assert_allclose([ece(logs, labels), oe(logs, labels)], [expected_ece, expected_oe], rtol=1e-12)


def test_bins_are_closed_where_they_say() -> None:
    at_edges = np.array([0.2, 0.29, 0.4, 0.6, 1.0])
    assert Binning(5).indices(at_edges).tolist() == [0, 1, 1, 2, 4]
    assert Binning(5, "left").indices(at_edges).tolist() == [1, 1, 2, 3, 4]
    just_beyond = np.nextafter(at_edges[[0, 2, 3]], [1, 1, 0])
    assert Binning(5).indices(just_beyond).tolist() == [1, 2, 2]
    assert Binning(5, "left").indices(just_beyond).tolist() == [1, 2, 2]
    assert Binning(100, "left").indices(np.arange(100) / 100).tolist() == list(range(100))
    assert Binning(100).indices(np.arange(1, 101) / 100).tolist() == list(range(100))


def test_certain_means_1_in_single_precision() -> None:
    nearly = np.array([1 - 1e-9, 1 - 1e-6])
    assert Binning(10, "left", "own").indices(nearly).tolist() == [10, 9]


def test_the_reliability_diagram_holds_what_ece_sums() -> None:
    logs, labels = random_predictions()
    found = reliability(logs, labels)
    assert found.binning == STANDARD
    assert found.counts.shape == found.confidence.shape == found.accuracy.shape == (15,)
    assert found.counts.sum() == found.samples == len(labels)
    assert_allclose(found.counts @ found.accuracy / found.samples, score(logs, labels)["accuracy"])
    filled = found.counts > 0
    edges = found.binning.edges
    assert (found.confidence[filled] > edges[:-1][filled]).all() and (
        found.confidence[filled] <= edges[1:][filled]
    ).all()
    assert found.oe <= found.ece


@pytest.mark.parametrize(
    ("arguments", "field"), [((0,), "bins"), ((10, "right", "skip"), "certain")]
)
def test_impossible_binnings_are_refused(arguments: tuple[Any, ...], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        Binning(*arguments)


def test_a_temperature_of_0_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature"):
        calibrated_score(*random_predictions(), 0.0)
