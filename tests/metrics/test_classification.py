"""Scores of classifiers: printed oracles, agreement with scikit-learn, and what every
classification metric must do.
"""

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import ArrayLike
from scipy.special import log_softmax
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss

from distill_ray.metric import METRICS as DECLARED
from distill_ray.metrics import (
    calibrated_score,
    detailed_score,
    mean_log_probabilities,
    score,
)
from distill_ray.metrics.calibration import ece, oe
from distill_ray.metrics.classification import FloatArray, IntegerArray, accuracy, brier, nll

Metric = Callable[[ArrayLike, ArrayLike], float]

METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "nll": nll,
    "brier": brier,
    "ece": ece,
    "oe": oe,
    "cnll": lambda logs, labels: calibrated_score(logs, labels, 2.5)["cnll"],
    "cece": lambda logs, labels: calibrated_score(logs, labels, 2.5)["cece"],
}
every_metric = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)


def random_predictions(
    classes: int, samples: int = 300, seed: int = 0
) -> tuple[FloatArray, IntegerArray]:
    generator = np.random.default_rng(seed)
    return log_softmax(generator.normal(0, 3, (samples, classes)), axis=1), generator.integers(
        0, classes, samples
    )


def one_hot(labels: IntegerArray, classes: int) -> FloatArray:
    return np.asarray(np.eye(classes)[labels])


def test_every_metric_has_a_direction_and_a_conformance_test() -> None:
    assert set(METRICS) == {
        name
        for name, metric in DECLARED.items()
        if "classification" in metric.tasks and not metric.detail
    }
    logs, labels = random_predictions(3)
    scores = score(logs, labels) | calibrated_score(logs, labels, 2.5)
    assert set(scores) == set(METRICS)
    assert scores == {name: metric(logs, labels) for name, metric in METRICS.items()}
    details = {name for name, metric in DECLARED.items() if metric.detail}
    assert set(detailed_score(logs, labels)) == set(score(logs, labels)) | details


def test_multi_head_oracle_of_the_mean_prediction() -> None:
    """Oracle F; its NLL has 1e-8 inside the logarithm, which moves it by about 2e-8."""
    heads = np.array(
        [
            [[0.7, 0.2, 0.1], [0.6, 0.3, 0.1]],
            [[0.9, 0.05, 0.05], [0.05, 0.9, 0.05]],
            [[1 / 3] * 3, [1 / 3] * 3],
        ]
    )
    mean = mean_log_probabilities(np.log(heads.transpose(1, 0, 2)))
    labels = np.array([0, 1, 2])
    assert_allclose(
        -np.log(np.exp(mean[[0, 1, 2], labels]) + 1e-8).mean(), 0.7579452044, atol=1e-10
    )
    assert_allclose(nll(mean, labels), 0.7579452044, atol=3e-8)
    assert_allclose(brier(mean, labels), 0.4551388889, atol=1e-10)


@every_metric
@pytest.mark.parametrize("classes", [1, 2, 3, 10, 100])
def test_any_number_of_classes(metric: Metric, classes: int) -> None:
    logs, labels = random_predictions(classes)
    value = metric(logs, labels)
    assert type(value) is float
    assert np.isfinite(value) and value >= 0


@every_metric
def test_the_order_of_samples_and_of_classes_does_not_matter(metric: Metric) -> None:
    logs, labels = random_predictions(10)
    order = np.random.default_rng(1).permutation(len(labels))
    assert_allclose(metric(logs[order], labels[order]), metric(logs, labels), rtol=1e-12)
    assert_allclose(metric(logs[:, ::-1], 9 - labels), metric(logs, labels), rtol=1e-12)


@every_metric
def test_every_sample_twice_changes_nothing(metric: Metric) -> None:
    logs, labels = random_predictions(10)
    assert_allclose(
        metric(np.tile(logs, (2, 1)), np.tile(labels, 2)), metric(logs, labels), rtol=1e-12
    )


@every_metric
def test_float32_and_small_integers_are_reckoned_in_float64(metric: Metric) -> None:
    logs, labels = random_predictions(10)
    single = logs.astype(np.float32)
    assert metric(single, labels.astype(np.uint8)) == metric(single.astype(np.float64), labels)
    assert type(metric(single, labels.astype(np.int32))) is float


@every_metric
def test_arguments_are_left_as_they_were(metric: Metric) -> None:
    logs, labels = random_predictions(10)
    kept = logs.copy(), labels.copy()
    metric(logs, labels)
    assert (logs == kept[0]).all() and (labels == kept[1]).all()


@every_metric
def test_a_perfect_predictor_reaches_the_best_value(metric: Metric) -> None:
    labels = np.arange(4).repeat(5)
    with np.errstate(divide="ignore"):
        value = metric(np.log(one_hot(labels, 4)), labels)
    assert value == (1.0 if metric is accuracy else 0.0)


@every_metric
def test_being_certain_and_wrong_is_the_worst(metric: Metric) -> None:
    labels = np.arange(4).repeat(5)
    wrong = np.log(0.97 * one_hot((labels + 1) % 4, 4) + 0.01)
    right = np.log(0.97 * one_hot(labels, 4) + 0.01)
    if metric is accuracy:
        assert metric(wrong, labels) == 0
    else:
        assert metric(wrong, labels) > 0.5 > metric(right, labels)


def test_agreement_with_scikit_learn() -> None:
    logs, labels = random_predictions(6)
    assert_allclose(accuracy(logs, labels), accuracy_score(labels, logs.argmax(axis=1)))
    assert_allclose(
        nll(logs, labels), log_loss(labels, np.exp(logs), labels=np.arange(6)), rtol=1e-12
    )


def test_brier_of_two_classes_is_twice_that_of_scikit_learn() -> None:
    logs, labels = random_predictions(2)
    assert_allclose(
        brier(logs, labels), 2 * brier_score_loss(labels, np.exp(logs[:, 1])), rtol=1e-12
    )


def test_brier_sums_over_classes() -> None:
    logs, labels = random_predictions(6)
    expected = ((np.exp(logs) - one_hot(labels, 6)) ** 2).sum(axis=1).mean()
    assert_allclose(brier(logs, labels), expected, rtol=1e-12)


def test_a_label_of_probability_0_has_infinite_nll() -> None:
    logs = np.array([[0.0, -np.inf]])
    assert nll(logs, [1]) == np.inf
    assert brier(logs, [1]) == 2


@every_metric
@pytest.mark.parametrize(
    ("logs", "labels", "argument"),
    [
        (np.zeros(3), [0, 0, 0], "log_probabilities"),
        (np.zeros((0, 3)), np.zeros(0, int), "log_probabilities"),
        (np.log([[0.5, 0.5], [np.nan, 1]]), [0, 1], "log_probabilities"),
        ([[0.5, 0.5]], [0], "log_probabilities"),
        (np.zeros((1, 2), int), [0], "log_probabilities"),
        (np.log([[0.5, 0.5]]), [0, 1], "labels"),
        (np.log([[0.5, 0.5]]), [[0]], "labels"),
        (np.log([[0.5, 0.5]]), [2], "labels"),
        (np.log([[0.5, 0.5]]), [-1], "labels"),
        (np.log([[0.5, 0.5]]), [0.0], "labels"),
    ],
)
def test_wrong_arguments_are_named(
    metric: Metric, logs: ArrayLike, labels: ArrayLike, argument: str
) -> None:
    with pytest.raises(ValueError, match=f"^{argument}: "):
        metric(logs, labels)


def test_importing_metrics_imports_neither_torch_nor_scipy() -> None:
    """They are scored after every epoch and checked in study files, by processes that should start
    at once.
    """
    program = """
import pkgutil, sys
import distill_ray.metrics as metrics
for module in pkgutil.iter_modules(metrics.__path__):
    __import__(f"distill_ray.metrics.{module.name}")
heavy = {"torch", "scipy", "sklearn", "pandas", "ray", "mlflow"}
print(*sorted({name.split(".")[0] for name in sys.modules} & heavy))
"""
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == ""
