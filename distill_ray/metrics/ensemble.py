"""The prediction of an ensemble: the mean of its members' probabilities."""

import numpy as np
from numpy.typing import ArrayLike

from distill_ray.metrics.classification import FloatArray


def mean_log_probabilities(members: ArrayLike, weights: ArrayLike | None = None) -> FloatArray:
    """Logarithm of the mean of the members' probabilities, (M, N, K) log-probabilities -> (N, K).

    `weights` (M,), not negative and not all 0, are divided by their sum; None means equal ones.
    Computed without leaving the logarithms, so that tiny probabilities survive. Raises ValueError,
    naming the argument, for other shapes, NaN and weights.
    """
    logs = np.asarray(members, np.float64)
    if logs.ndim != 3 or logs.size == 0:
        raise ValueError(
            f"members: expected the shape (members, samples, classes), found {logs.shape}"
        )
    share = shares_of(weights, len(logs))
    logs, share = logs[share > 0], share[share > 0]
    top = logs.max(axis=0)  # NaN if any member's value is
    if np.isnan(top).any():
        raise ValueError("members: contains NaN")
    top = np.maximum(top, np.finfo(np.float64).min)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.tensordot(share, np.exp(logs - top), axes=1)) + top)


def shares_of(weights: ArrayLike | None, members: int) -> FloatArray:
    """`weights` as shares (members,) that sum to 1; None means equal ones.

    Raises ValueError for another number of them, and where one is negative or all are 0.
    """
    shares = np.ones(members) if weights is None else np.asarray(weights, np.float64)
    if shares.shape != (members,):
        raise ValueError(f"weights: expected the shape {(members,)}, found {shares.shape}")
    if not (np.isfinite(shares).all() and (shares >= 0).all() and shares.sum() > 0):
        raise ValueError(
            "weights: expected numbers that are not negative and not all 0, found "
            f"{shares.tolist()}"
        )
    return np.asarray(shares / shares.sum())
