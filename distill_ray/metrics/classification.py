"""Accuracy, negative log-likelihood, Brier score and the means over classes of per-sample
log-probabilities.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntegerArray = NDArray[np.integer[Any]]


def accuracy(log_probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Fraction of the samples whose most probable class (the first of equals) is their label; (N,
    K) and (N,).
    """
    return float(top_labels(log_probabilities, labels)[1].mean())


def nll(log_probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean of -ln p(label), in nats; (N, K) and (N,). Infinite when a label has probability 0:
    nothing is added to p.
    """
    predicted, truth = checked(log_probabilities, labels)
    return float(-_of_classes(predicted, truth).mean())


def brier(log_probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean over samples of the squared distance between p and the one-hot label, summed over
    classes (0 to 2).

    Source: Brier 1950; some libraries report half of it for two classes.
    """
    predicted, truth = checked(log_probabilities, labels)
    squares = 0.0
    # Blocks that stay in the processor's cache take half the time
    rows = max(1, 2**16 // predicted.shape[1])
    for start in range(0, len(predicted), rows):
        probabilities = np.exp(predicted[start : start + rows], dtype=np.float64).ravel()
        squares += float(probabilities @ probabilities)
    of_labels = np.exp(_of_classes(predicted, truth)).sum()
    return float((squares - 2 * of_labels) / len(truth) + 1)


def balanced_accuracy(log_probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean over the classes that occur among the labels of the share of their samples that is
    classified correctly; (N, K) and (N,).
    """
    hits, true, _ = _counts(log_probabilities, labels)
    present = true > 0
    return float((hits[present] / true[present]).mean())


def macro_f1(log_probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean of the F1 scores of the classes that occur among the labels or the predictions; (N, K)
    and (N,).
    """
    hits, true, named = _counts(log_probabilities, labels)
    occurring = true + named > 0
    return float((2 * hits[occurring] / (true + named)[occurring]).mean())


def _counts(
    log_probabilities: ArrayLike, labels: ArrayLike
) -> tuple[IntegerArray, IntegerArray, IntegerArray]:
    """By class (K,): samples classified correctly, samples with that label, samples so named."""
    predicted, truth = checked(log_probabilities, labels)
    top, classes = predicted.argmax(axis=1), predicted.shape[1]
    return (
        np.bincount(truth[top == truth], minlength=classes),
        np.bincount(truth, minlength=classes),
        np.bincount(top, minlength=classes),
    )


def top_labels(
    log_probabilities: ArrayLike, labels: ArrayLike
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Confidence (the probability of the most probable class) and whether that class is the label;
    (N, K), (N,) -> (N,), (N,).
    """
    predicted, truth = checked(log_probabilities, labels)
    top = predicted.argmax(axis=1)
    return np.minimum(np.exp(_of_classes(predicted, top)), 1.0), np.asarray(top == truth)


def checked(
    log_probabilities: ArrayLike, labels: ArrayLike
) -> tuple[NDArray[np.floating[Any]], IntegerArray]:
    """The two arguments of every classification metric as arrays (N, K) and (N,), N >= 1.

    float32 stays as it is, for metrics to widen only what they use. Probability 0 (-inf) is
    allowed. Raises ValueError, naming the argument, for other shapes, NaN, values above 0 (logits
    or probabilities given by mistake) and labels that are not integers from 0 to K - 1.
    """
    predicted = np.asarray(log_probabilities)
    truth = np.asarray(labels)
    if predicted.ndim != 2 or predicted.size == 0:
        raise ValueError(
            f"log_probabilities: expected the shape (samples, classes), found {predicted.shape}"
        )
    if predicted.dtype.kind != "f":
        raise ValueError(
            f"log_probabilities: expected floating-point numbers, found {predicted.dtype}"
        )
    largest = predicted.max()  # NaN if any value is
    if np.isnan(largest):
        raise ValueError("log_probabilities: contains NaN")
    if largest > 1e-4:  # float32 sums round to slightly above 0
        raise ValueError(
            f"log_probabilities: logarithms of probabilities are at most 0, found {largest:g}"
        )
    if truth.shape != predicted.shape[:1]:
        raise ValueError(f"labels: expected the shape {predicted.shape[:1]}, found {truth.shape}")
    if truth.dtype.kind not in "iu":
        raise ValueError(f"labels: expected integers, found {truth.dtype}")
    if truth.min() < 0 or truth.max() >= predicted.shape[1]:
        raise ValueError(
            f"labels: expected 0 to {predicted.shape[1] - 1}, found {truth.min()} to {truth.max()}"
        )
    return predicted, truth


def _of_classes(values: NDArray[np.floating[Any]], classes: IntegerArray) -> FloatArray:
    return np.asarray(values[np.arange(len(values)), classes], np.float64)
