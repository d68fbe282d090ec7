"""What a prediction is worth. Everything is computed in float64 NumPy from per-sample log-probabilities."""

from typing import Literal

from numpy.typing import ArrayLike

from distill_ray.metrics.calibration import Binning, diagram, ece, fit_temperature, reliability, with_temperature
from distill_ray.metrics.classification import brier, checked, nll, top_labels
from distill_ray.metrics.ensemble import mean_log_probabilities

__all__ = [
    "DIRECTIONS",
    "Binning",
    "calibrated_score",
    "fit_temperature",
    "mean_log_probabilities",
    "reliability",
    "score",
    "validation_score",
]

DIRECTIONS: dict[str, Literal["min", "max"]] = {
    "accuracy": "max",
    "nll": "min",
    "ece": "min",
    "brier": "min",
    "oe": "min",
    "cnll": "min",
    "cece": "min",
}
"""Every metric that a study can name, and whether lower ("min") or higher ("max") is better."""


def score(log_probabilities: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Accuracy, nll, ece (15 bins), brier and oe (15 bins) of (N, K) log-probabilities for labels (N,); fractions and nats.

    Raises ValueError, naming the argument, for shapes that do not fit, NaN, values above 0 and labels out of range.
    """
    predicted, truth = checked(log_probabilities, labels)
    confidence, correct = top_labels(predicted, truth)
    bins = diagram(confidence, correct)
    return {
        "accuracy": float(correct.mean()),
        "nll": nll(predicted, truth),
        "ece": bins.ece,
        "brier": brier(predicted, truth),
        "oe": bins.oe,
    }


def validation_score(log_probabilities: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """What `score` says, and as cnll the NLL that is left after temperature scaling: the lowest that one temperature reaches.

    The temperature is fitted to these very predictions, so cnll serves to choose by, not to report. Raises ValueError as
    `score` does.
    """
    calibrated = calibrated_score(log_probabilities, labels, fit_temperature(log_probabilities, labels))
    return score(log_probabilities, labels) | {"cnll": calibrated["cnll"]}


def calibrated_score(log_probabilities: ArrayLike, labels: ArrayLike, temperature: float) -> dict[str, float]:
    """NLL and ECE of softmax(log p / T), as cnll and cece; T comes from `fit_temperature` on the validation split.

    Raises ValueError as `score` does, and for a temperature that is not above 0.
    """
    predicted, truth = checked(log_probabilities, labels)
    scaled = with_temperature(predicted, temperature)
    return {"cnll": nll(scaled, truth), "cece": ece(scaled, truth)}
