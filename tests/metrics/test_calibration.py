"""Calibration against the printed oracles of the published systems, and against independent
reckoning.
"""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp
from scipy.stats import gamma
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from distill_ray.metrics import Binning, calibrated_score, fit_temperature, reliability, score
from distill_ray.metrics.calibration import (
    CALIBRATED_ENSEMBLE,
    PRIOR_IMAGES,
    STANDARD,
    determines_temperature,
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


def test_calibrated_ensemble_oracle() -> None:
    expected = [0.16105000, 0.07868552]
    found = diagram(CONFIDENCES, CORRECT, CALIBRATED_ENSEMBLE)
    assert_allclose([found.ece, found.oe], expected, atol=5e-9)
    logs, labels = predictions(CONFIDENCES, CORRECT)
    assert_allclose(
        [ece(logs, labels, CALIBRATED_ENSEMBLE), oe(logs, labels, CALIBRATED_ENSEMBLE)],
        expected,
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
    """10 bins, and averages over batches, which bias it upwards."""
    logs, labels = predictions(
        [0.95, 0.85, 0.85, 0.62, 0.55, 0.35, 0.88, 0.97], [1, 1, 0, 1, 0, 0, 1, 1]
    )
    bins = Binning(10)
    assert_allclose(100 * ece(logs, labels, bins), 24.25, atol=1e-12)
    assert_allclose(100 * ece(logs[:4], labels[:4], bins), 28.25, atol=1e-12)
    assert_allclose(100 * ece(logs[4:], labels[4:], bins), 26.25, atol=1e-12)


def test_latent_batchensemble_temperature_oracle() -> None:
    """The system adds 1e-8 inside its logarithms, which moves the cNLL by 3e-8; this package does
    not.
    """
    logs = log_softmax(LOGITS, axis=1)
    before = score(logs, LABELS)
    assert before["accuracy"] == 0.5
    assert_allclose([before["nll"], before["ece"]], [0.8591668691, 0.3582556536], atol=1e-10)
    temperature = fit_temperature(logs, LABELS, prior_images=0)
    widened = np.log(np.exp(logs) + 1e-8).clip(max=0)
    assert_allclose(fit_temperature(widened, LABELS, prior_images=0), 1.8088250538, atol=1e-8)
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
    temperature = fit_temperature(logs, labels, prior_images=0)
    assert_allclose(temperature, found.x, rtol=1e-6)
    assert_allclose(calibrated_score(logs, labels, temperature)["cnll"], found.fun, rtol=1e-10)


def test_the_temperature_is_the_mode_under_a_gamma_prior() -> None:
    """SciPy's density of 1 / T, and its own search."""
    logs, labels = random_predictions()
    rows = np.arange(len(labels))

    def against(inverse: float) -> float:
        likelihood = (logs[rows, labels] * inverse - logsumexp(logs * inverse, axis=1)).sum()
        return float(-likelihood - gamma.logpdf(inverse, PRIOR_IMAGES + 1, scale=1 / PRIOR_IMAGES))

    found = minimize_scalar(against, bounds=(0.1, 10), method="bounded", options={"xatol": 1e-10})
    assert_allclose(fit_temperature(logs, labels), 1 / found.x, rtol=1e-6)


def test_temperature_scaling_of_what_was_scaled_undoes_it() -> None:
    logs, labels = random_predictions()
    first = fit_temperature(logs, labels, prior_images=0)
    scaled = with_temperature(logs, 3.0), with_temperature(logs, first)
    assert_allclose(fit_temperature(scaled[0], labels, prior_images=0), first / 3, rtol=1e-8)
    assert_allclose(fit_temperature(scaled[1], labels, prior_images=0), 1, rtol=1e-8)
    assert_allclose(fit_temperature(scaled[1], labels), 1, rtol=1e-8)


def test_the_temperature_stays_within_bounds_where_the_nll_has_no_minimum() -> None:
    logs, _ = random_predictions()
    right, wrong = logs.argmax(axis=1), logs.argmin(axis=1)
    assert fit_temperature(logs, right, prior_images=0) == 0.01
    assert fit_temperature(logs, wrong, prior_images=0) == 100
    assert not determines_temperature(logs, right)
    assert not determines_temperature(logs, wrong)
    assert determines_temperature(*random_predictions())
    # Nothing can be told of networks that are always certain
    assert fit_temperature(np.where(np.eye(3), 0.0, -np.inf), [0, 1, 2]) == pytest.approx(1)


@pytest.mark.parametrize("images", [20, 60, 100])
@pytest.mark.parametrize("sureness", [0.9, 0.99, 0.999])
def test_a_split_without_errors_hardly_sharpens_predictions(images: int, sureness: float) -> None:
    """By how much it may is bounded: the confidence that remains is no less than what so many
    images without an error bear out.
    """
    logs, labels = predictions([sureness] * images, [1] * images)
    temperature = fit_temperature(logs, labels)
    assert 0.3 < temperature <= 1
    doubt = 1 - np.exp(with_temperature(logs, temperature).max(axis=1))
    assert (doubt >= min(1 - sureness, 1 / images) / 10).all()


def test_digits_without_a_validation_error_stay_calibrated() -> None:
    """A classifier of scikit-learn whose first 60 validation images are all right: before the
    prior, T was 0.01 and the calibrated NLL of the test images several nats.
    """
    images, labels = load_digits(return_X_y=True)
    model = LogisticRegression(C=0.1, max_iter=500).fit(images[:700] / 16, labels[:700])
    logs = model.predict_log_proba(images / 16)
    right = np.flatnonzero(logs[700:1200].argmax(axis=1) == labels[700:1200]) + 700
    test = slice(1200, None)
    plain = score(logs[test], labels[test])["nll"]
    for chosen in (right[:60], right[:100], right[-60:]):
        assert fit_temperature(logs[chosen], labels[chosen], prior_images=0) == 0.01
        temperature = fit_temperature(logs[chosen], labels[chosen])
        assert calibrated_score(logs[test], labels[test], temperature)["cnll"] < plain + 0.05
        assert calibrated_score(logs[test], labels[test], 0.01)["cnll"] > plain + 2


def test_the_prior_yields_to_evidence() -> None:
    """On a thousand samples it moves T by less than its standard error, in either direction."""
    logs, labels = random_predictions(samples=1000)
    for scale in (0.5, 1.0, 3.0):
        scaled = with_temperature(logs, scale)
        best = fit_temperature(scaled, labels, prior_images=0)
        assert fit_temperature(scaled, labels) == pytest.approx(best, rel=0.04)


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
    just_beyond = np.nextafter(at_edges[[0, 2, 3]], [1, 1, 0])
    assert Binning(5).indices(just_beyond).tolist() == [1, 2, 2]
    assert Binning(100).indices(np.arange(1, 101) / 100).tolist() == list(range(100))


def test_published_bins_are_those_of_float32() -> None:
    """As PyTorch computes them from the float32 that a softmax gives, confidence by confidence."""
    confidences = np.arange(101) / 100
    coded = [int(torch.tensor(value, dtype=torch.float32) * 100) for value in confidences]
    assert CALIBRATED_ENSEMBLE.indices(confidences).tolist() == coded
    for confidence, expected in ((0.7, 70), (0.29, 29), (0.57, 57), (1 - 1e-9, 100), (0.999, 99)):
        assert CALIBRATED_ENSEMBLE.indices(np.array([np.float32(confidence)])) == expected
    assert Binning(10, as_coded=True).indices(np.array([1 - 1e-9, 1 - 1e-6])).tolist() == [10, 9]


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


def test_impossible_binnings_are_refused() -> None:
    with pytest.raises(ValueError, match="bins"):
        Binning(0)


def test_a_temperature_of_0_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature"):
        calibrated_score(*random_predictions(), 0.0)
