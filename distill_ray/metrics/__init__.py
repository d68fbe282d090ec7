"""Scores of per-sample predictions, computed in float64 NumPy.

Predictions are log-probabilities (N, K) for classification, mean and log-variance (N, 2) for
regression. The type of the labels decides which: the functions below take either, those of the
modules one.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from distill_ray.metric import METRICS
from distill_ray.metrics import calibration, regression, selective
from distill_ray.metrics.binning import adaptive_ece, classwise_ece, debiased_ece
from distill_ray.metrics.calibration import (
    Binning,
    determines_temperature,
    diagram,
    ece,
    reliability,
    with_temperature,
)
from distill_ray.metrics.classification import (
    balanced_accuracy,
    brier,
    checked,
    macro_f1,
    nll,
    top_labels,
)
from distill_ray.metrics.ensemble import mean_log_probabilities
from distill_ray.metrics.uncertainty import diversity
from distill_ray.task import GAUSSIAN, Task, task_of

__all__ = [
    "Binning",
    "calibrated_score",
    "detailed_score",
    "determines_temperature",
    "diversity",
    "final_score",
    "fit_temperature",
    "mean_log_probabilities",
    "mean_prediction",
    "reliability",
    "score",
    "validation_score",
]


def score(predictions: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """The scores of predictions for labels (N,).

    For classification accuracy, nll, ece (15 bins), brier and oe (15 bins), fractions and nats. For
    regression nll, without the constant ln(2 pi) / 2, rmse and mae. For either, also the metrics of
    other packages. Raises ValueError, naming the argument, for shapes that do not match, NaN,
    log-probabilities above 0 and labels out of range.
    """
    if _is_regression(predictions, labels):
        return regression.score(predictions, labels) | _others("regression", predictions, labels)
    predicted, truth = checked(predictions, labels)
    confidence, correct = top_labels(predicted, truth)
    bins = diagram(confidence, correct)
    return {
        "accuracy": float(correct.mean()),
        "nll": nll(predicted, truth),
        "ece": bins.ece,
        "brier": brier(predicted, truth),
        "oe": bins.oe,
    } | _others("classification", predicted, truth)


def validation_score(predictions: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """What `score` returns, and as cnll the NLL after temperature scaling.

    The temperature is fitted to these same predictions, so cnll is for selection, not for
    reporting. Raises ValueError as `score` does.
    """
    scores = score(predictions, labels)
    if _is_regression(predictions, labels):
        return scores
    temperature = fit_temperature(predictions, labels)
    return scores | {"cnll": nll(with_temperature(predictions, temperature), labels)}


def final_score(predictions: ArrayLike, labels: ArrayLike, temperature: float) -> dict[str, float]:
    """What `detailed_score` returns, and for classification also what `calibrated_score` does."""
    scores = detailed_score(predictions, labels)
    return (
        scores
        if _is_regression(predictions, labels)
        else scores | calibrated_score(predictions, labels, temperature)
    )


def detailed_score(predictions: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """What `score` returns, and for classification the metrics that are details (`Metric.detail`):
    other estimates of the calibration error, risk against coverage, means over classes.
    """
    scores = score(predictions, labels)
    if _is_regression(predictions, labels):
        return scores
    predicted, truth = checked(predictions, labels)
    risk = selective.risks(predicted, truth)
    return scores | {
        "classwise-ece": classwise_ece(predicted, truth),
        "adaptive-ece": adaptive_ece(predicted, truth),
        "debiased-ece": debiased_ece(predicted, truth),
        "aurc": selective.aurc(risk),
        "excess-aurc": selective.excess_aurc(risk),
        **{
            f"accuracy-at-{share}": selective.accuracy_at(risk, share / 100)
            for share in (80, 90, 95)
        },
        "balanced-accuracy": balanced_accuracy(predicted, truth),
        "macro-f1": macro_f1(predicted, truth),
    }


def fit_temperature(
    predictions: ArrayLike,
    labels: ArrayLike,
    *,
    prior_images: float = calibration.PRIOR_IMAGES,
) -> float:
    """The temperature that calibrates predictions, see `calibration.fit_temperature`; 1 for
    regression, which has none.
    """
    if _is_regression(predictions, labels):
        return 1.0
    return calibration.fit_temperature(predictions, labels, prior_images=prior_images)


def calibrated_score(
    predictions: ArrayLike, labels: ArrayLike, temperature: float
) -> dict[str, float]:
    """NLL and ECE of softmax(log p / T), as cnll and cece; T comes from `fit_temperature` on the
    validation split.

    For classification only. Raises ValueError as `score` does, and for a temperature that is not
    above 0.
    """
    predicted, truth = checked(predictions, labels)
    scaled = with_temperature(predicted, temperature)
    return {"cnll": nll(scaled, truth), "cece": ece(scaled, truth)}


def mean_prediction(
    members: Sequence[ArrayLike], labels: ArrayLike, weights: ArrayLike | None = None
) -> np.ndarray:
    """The joint prediction of several members for the same samples, in the form of one member's
    predictions.

    `members` are M times log-probabilities (N, K) for class labels (N,), or mean and log-variance
    (N, 2) for real-valued ones. The result is the mean of the probabilities for classification,
    mean and variance of the mixture for regression. `weights` (M,) are the relative weights of the
    members in any unit, equal by default.
    """
    if _is_regression(members[0], labels):
        return regression.mean_gaussian(members, weights)
    return mean_log_probabilities(np.asarray(members), weights)


def _others(task: Task, predictions: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """The metrics of other packages."""
    functions = {
        name: metric.function
        for name, metric in METRICS.items()
        if metric.function and task in metric.tasks
    }
    return {
        name: float(function(np.asarray(predictions), np.asarray(labels)))
        for name, function in functions.items()
    }


def _is_regression(predictions: ArrayLike, labels: ArrayLike) -> bool:
    """Real labels with anything but two predicted numbers are a mistake, which classification
    names.
    """
    return task_of(np.asarray(labels)) == "regression" and np.shape(predictions)[-1:] == (
        len(GAUSSIAN),
    )
