"""Regression measures: oracle C and F of the multi-head system, and agreement with scikit-learn and SciPy."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats
from sklearn.metrics import mean_absolute_error, root_mean_squared_error

from distill_ray.metrics.classification import FloatArray
from distill_ray.metrics.regression import gaussian_nll, mae, mixture, rmse
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
    assert_allclose(gaussian_nll(mean, deviation.total, TARGETS, constant=False), 0.0346582040, atol=1e-10)
    assert_allclose(gaussian_nll(mean, deviation.total, TARGETS), 0.9535967372, atol=1e-10)
    assert_allclose(rmse(mean, TARGETS), 0.1184389200, atol=1e-10)
    assert_allclose(mae(mean, TARGETS), 0.0916666667, atol=1e-10)


def test_a_single_member_has_no_epistemic_uncertainty() -> None:
    mean, deviation = mixture([[1.0, 2.0]], [[4.0, 9.0]])
    assert mean.tolist() == [1, 2]
    assert (deviation.total.tolist(), deviation.aleatoric.tolist(), deviation.epistemic.tolist()) == ([2, 3], [2, 3], [0, 0])


def test_agreement_with_scikit_learn_and_scipy() -> None:
    generator = np.random.default_rng(0)
    mean, targets, deviation = generator.normal(size=50), generator.normal(size=50), generator.uniform(0.5, 2, 50)
    assert_allclose(rmse(mean, targets), root_mean_squared_error(targets, mean))
    assert_allclose(mae(mean, targets), mean_absolute_error(targets, mean))
    assert_allclose(gaussian_nll(mean, deviation, targets), -stats.norm.logpdf(targets, mean, deviation).mean())
    assert all(
        type(value) is float for value in (rmse(mean, targets), mae(mean, targets), gaussian_nll(mean, deviation, targets))
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
