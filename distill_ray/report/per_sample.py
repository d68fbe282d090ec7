"""Metrics that are means over samples, sample by sample, and how much they depend on which samples
the test split happens to hold.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from distill_ray.metrics.calibration import with_temperature
from distill_ray.metrics.regression import losses
from distill_ray.records import Predictions

LEVEL = 0.95
"""Confidence level of every interval."""

RESAMPLES = 2000

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Interval:
    """A confidence interval."""

    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def sample_scores(predictions: Predictions) -> dict[str, NDArray[np.float64]]:
    """By metric, the score of every sample, (N,): accuracy, nll and brier, or those of regression.

    The Brier score leaves out nothing: `sum_k (p_k - y_k)^2 = sum_k p_k^2 - 2 p_y + 1`.
    """
    labels = predictions.labels
    if labels.dtype.kind == "f":
        return losses(predictions.log_probabilities, labels)
    logs = np.asarray(predictions.log_probabilities, np.float64)
    of_label = _of_label(logs, labels)
    return {
        "accuracy": (logs.argmax(axis=1) == labels).astype(np.float64),
        "nll": -of_label,
        "brier": (np.exp(logs) ** 2).sum(axis=1) - 2 * np.exp(of_label) + 1,
    }


def calibrated_nll(predictions: Predictions, temperature: float) -> NDArray[np.float64]:
    """The NLL of every sample, (N,), after temperature scaling."""
    logs = np.asarray(predictions.log_probabilities, np.float64)
    return -_of_label(with_temperature(logs, temperature), predictions.labels)


def bootstrap(columns: Mapping[Key, NDArray[np.float64]], seed: int = 0) -> dict[Key, Interval]:
    """Percentile intervals of the mean of each column (N,), all from the same resampled test
    sets. Columns with values that are not finite are left out.
    """
    finite = {key: values for key, values in columns.items() if np.isfinite(values).all()}
    if not finite:
        return {}
    values = np.stack(list(finite.values()), axis=1)
    size, rng = len(values), np.random.default_rng(seed)
    means = np.empty((RESAMPLES, values.shape[1]))
    for resample in range(RESAMPLES):
        counts = np.bincount(rng.integers(size, size=size), minlength=size)
        means[resample] = counts @ values / size
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return {
        key: Interval(float(low[index]), float(high[index])) for index, key in enumerate(finite)
    }


def _of_label(logs: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    picked: NDArray[np.float64] = np.take_along_axis(logs, labels[:, None], axis=1)[:, 0]
    return picked
