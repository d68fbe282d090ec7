"""Regression measures: oracle C and F of the multi-head system, and agreement with scikit-learn and
SciPy.
"""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats
from sklearn.metrics import mean_absolute_error, root_mean_squared_error

from distill_ray.metrics import (
    final_score,
    fit_temperature,
    mean_prediction,
    score,
    validation_score,
)
from distill_ray.metrics.classification import FloatArray
from distill_ray.metrics.regression import gaussian_nll, losses, mae, mixture, rmse
from distill_ray.metrics.uncertainty import Uncertainty

# (samples, members, [mean, log-variance])
TEACHERS = np.array([[[0.5, -0.2], [0.7, 0.1], [0.4, 0]], [[-1, 0.3], [-0.8, -0.5], [-1.3, 0.2]]])
STUDENTS = np.array([[[0.6, 0], [0.2, -0.3]], [[-0.9, 0.1], [-1.1, 0.4]]])
TARGETS = [0.55, -1.2]


def moments(outputs: FloatArray) -> tuple[FloatArray, Uncertainty]:
    return mixture(outputs[..., 0].T, np.exp(outputs[..., 1]).T)


def test_mixture_oracle() -> None:
    """The system adds 1e-8 to every variance."""
    mean, deviation = moments(TEACHERS)
    assert_allclose(mean, [0.5333333333, -1.0333333333], atol=1e-10)
    assert_allclose(deviation.total**2 + 1e-8, [0.9979672337, 1.1225974185], atol=1e-10)
    mean, deviation = moments(STUDENTS)
    assert_allclose(mean, [0.4, -1.0], atol=1e-10)
    assert_allclose(deviation.total**2 + 1e-8, [0.9504091203, 1.3184978179], atol=1e-10)


def test_decomposition_and_likelihood_oracle() -> None:
    mean, deviation = moments(TEACHERS)
    assert_allclose(deviation.total, [0.9989830948, 1.0595269739], atol=1e-10)
    assert_allclose(deviation.aleatoric, [0.9872354787, 1.0292055553], atol=1e-10)
    assert_allclose(deviation.epistemic, [0.1527525232, 0.2516611478], atol=1e-10)
    assert_allclose(gaussian_nll(mean, deviation.total, TARGETS), 0.0346582040, atol=1e-10)
    assert_allclose(rmse(mean, TARGETS), 0.1184389200, atol=1e-10)
    assert_allclose(mae(mean, TARGETS), 0.0916666667, atol=1e-10)


def test_a_single_member_has_no_epistemic_uncertainty() -> None:
    mean, deviation = mixture([[1.0, 2.0]], [[4.0, 9.0]])
    assert mean.tolist() == [1, 2]
    assert (
        deviation.total.tolist(),
        deviation.aleatoric.tolist(),
        deviation.epistemic.tolist(),
    ) == ([2, 3], [2, 3], [0, 0])


def test_agreement_with_scikit_learn_and_scipy() -> None:
    generator = np.random.default_rng(0)
    mean, targets, deviation = (
        generator.normal(size=50),
        generator.normal(size=50),
        generator.uniform(0.5, 2, 50),
    )
    assert_allclose(rmse(mean, targets), root_mean_squared_error(targets, mean))
    assert_allclose(mae(mean, targets), mean_absolute_error(targets, mean))
    assert_allclose(
        gaussian_nll(mean, deviation, targets) + np.log(2 * np.pi) / 2,
        -stats.norm.logpdf(targets, mean, deviation).mean(),
    )
    assert all(
        type(value) is float
        for value in (
            rmse(mean, targets),
            mae(mean, targets),
            gaussian_nll(mean, deviation, targets),
        )
    )


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: mixture([1.0], [1.0]), "means"),
        (lambda: mixture([[np.nan]], [[1.0]]), "means"),
        (lambda: mixture([[1.0]], [[-1.0]]), "variances"),
        (lambda: mixture([[1.0]], [[1.0, 2.0]]), "variances"),
        (lambda: rmse([1.0, 2.0], [[1.0], [2.0]]), "targets"),
        (lambda: mae([], []), "targets"),
        (lambda: gaussian_nll([1.0], [0.0], [1.0]), "deviation"),
    ],
)
def test_wrong_arguments_are_named(call: Callable[[], object], argument: str) -> None:
    with pytest.raises(ValueError, match=f"^{argument}: "):
        call()


MEMBERS = np.array([[[0.5, -0.2], [-1, 0.3]], [[0.7, 0.1], [-0.8, -0.5]], [[0.4, 0], [-1.3, 0.2]]])
TRUTH = np.array([0.55, -1.2])


def test_members_together_are_scored_as_the_oracle_says() -> None:
    together = mean_prediction(list(MEMBERS), TRUTH)
    np.testing.assert_allclose(together[:, 0], [0.5333333333, -1.0333333333], atol=5.1e-11)
    np.testing.assert_allclose(
        np.exp(together[:, 1] / 2), [0.9989830948, 1.0595269739], atol=5.1e-9
    )
    scores = score(together, TRUTH)
    assert scores == pytest.approx(
        {"nll": 0.0346582040, "rmse": 0.1184389200, "mae": 0.0916666667}, abs=1e-8
    )
    assert validation_score(together, TRUTH) == scores
    assert final_score(together, TRUTH, fit_temperature(together, TRUTH)) == scores
    per_sample = losses(together, TRUTH)
    assert {name: values.mean() for name, values in per_sample.items()} == pytest.approx(
        {n: scores[n] for n in ("nll", "mae")}
    )


def test_shares_of_members() -> None:
    alone = mean_prediction([MEMBERS[0]], TRUTH)
    np.testing.assert_allclose(alone, MEMBERS[0])
    np.testing.assert_allclose(
        mean_prediction(list(MEMBERS), TRUTH, [2, 2, 2]), mean_prediction(list(MEMBERS), TRUTH)
    )
    np.testing.assert_allclose(
        mean_prediction(list(MEMBERS), TRUTH, [2, 2, 0]), mean_prediction(list(MEMBERS[:2]), TRUTH)
    )
    np.testing.assert_allclose(mean_prediction(list(MEMBERS), TRUTH, [0, 5, 0]), MEMBERS[1])
    tilted = mean_prediction(list(MEMBERS[:2]), TRUTH, [3, 1])
    np.testing.assert_allclose(tilted[:, 0], 0.75 * MEMBERS[0, :, 0] + 0.25 * MEMBERS[1, :, 0])


@pytest.mark.parametrize(
    ("means", "weights", "variance"),
    [
        ([0, 2, 9], [1, 1, 0], 3.0),  # 1, and 2 between the members that count
        ([0, 2], [3, 1], 1 + 0.75 / (1 - 10 / 16)),
        ([0, 2, 4, 9], [2, 1, 1, 0], 1 + 2.75 / (1 - 6 / 16)),
        ([0, 7], [1, 0], 1.0),
    ],
)
def test_the_variance_between_members_is_unbiased_for_any_shares(
    means: list[float], weights: list[float], variance: float
) -> None:
    """Members with a log-variance of 0."""
    members = [[[float(mean), 0.0]] for mean in means]
    (together,) = mean_prediction(members, np.array([0.5]), weights)
    assert np.exp(together[1]) == pytest.approx(variance, rel=1e-12)


@pytest.mark.parametrize("weights", [[1, 1], [1, -1, 1], [0, 0, 0], [1, np.nan, 1]])
def test_impossible_shares_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match=r"^weights: expected"):
        mean_prediction(list(MEMBERS), TRUTH, weights)


def test_predictions_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="labels: expected integers"):
        score(np.full((2, 3), -1.0), TRUTH)
    with pytest.raises(ValueError, match="predictions: expected"):
        losses(np.zeros((2, 3)), TRUTH)
