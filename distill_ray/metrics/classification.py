"""Accuracy, negative log-likelihood and Brier score of per-sample log-probabilities."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntegerArray = NDArray[np.integer[Any]]


def accuracy(log_probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Fraction of the samples whose most probable class (the first of equals) is their label; (N, K) and (N,)."""
    return float(top_labels(log_probabilities, labels)[1].mean())


def nll(log_probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean of -ln p(label), in nats; (N, K) and (N,). Infinite when a label has probability 0: nothing is added to p."""
    predicted, truth = checked(log_probabilities, labels)
    return float(-_of_classes(predicted, truth).mean())


def brier(log_probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean over samples of the squared distance between p and the one-hot label, summed over classes (0 to 2).

    Source: Brier 1950, equation 2; some libraries report half of it for two classes.
    """
    predicted, truth = checked(log_probabilities, labels)
    probabilities = np.exp(predicted).ravel()
    of_labels = np.exp(_of_classes(predicted, truth))
    return float((probabilities @ probabilities - 2 * of_labels.sum()) / len(truth) + 1)


def top_labels(log_probabilities: ArrayLike, labels: ArrayLike) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Confidence (the probability of the most probable class) and whether that class is the label; (N, K), (N,) -> (N,), (N,)."""
    predicted, truth = checked(log_probabilities, labels)
    top = predicted.argmax(axis=1)
    return np.minimum(np.exp(_of_classes(predicted, top)), 1.0), np.asarray(top == truth)


def checked(log_probabilities: ArrayLike, labels: ArrayLike) -> tuple[FloatArray, IntegerArray]:
    """The two arguments of every classification metric as float64 (N, K) and integers (N,), N >= 1.

    Probability 0 (-inf) is allowed. Raises ValueError, naming the argument, for other shapes, NaN, values above 0 (logits or
    probabilities given by mistake) and labels that are not integers from 0 to K - 1.
    """
    predicted = np.asarray(log_probabilities, np.float64)
    truth = np.asarray(labels)
    if predicted.ndim != 2 or predicted.size == 0:
        raise ValueError(f"log_probabilities: expected the shape (samples, classes), found {predicted.shape}")
    largest = predicted.max()  # NaN if any value is
    if np.isnan(largest):
        raise ValueError("log_probabilities: contains NaN")
    if largest > 1e-4:  # float32 sums round to slightly above 0
        raise ValueError(f"log_probabilities: logarithms of probabilities are at most 0, found {largest:g}")
    if truth.shape != predicted.shape[:1]:
        raise ValueError(f"labels: expected the shape {predicted.shape[:1]}, found {truth.shape}")
    if truth.dtype.kind not in "iu":
        raise ValueError(f"labels: expected integers, found {truth.dtype}")
    if truth.min() < 0 or truth.max() >= predicted.shape[1]:
        raise ValueError(f"labels: expected 0 to {predicted.shape[1] - 1}, found {truth.min()} to {truth.max()}")
    return predicted, truth


def _of_classes(values: FloatArray, classes: IntegerArray) -> FloatArray:
    return values[np.arange(len(values)), classes]
