"""Regression by an ensemble of Gaussians: their mixture's moments, its likelihood and errors, and
its uncertainty.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from distill_ray.metrics.classification import FloatArray
from distill_ray.metrics.ensemble import shares_of
from distill_ray.metrics.uncertainty import Uncertainty


def mixture(means: ArrayLike, variances: ArrayLike) -> tuple[FloatArray, Uncertainty]:
    """Mean (N,) of the members' mixture, and the standard deviations of what it predicts; (M, N)
    each.

    total² = aleatoric² + epistemic², where aleatoric² is the members' mean variance and epistemic²
    the unbiased variance of their means, 0 for a single member. Source: Lakshminarayanan et al.
    2017 with Hydra+'s M - 1. Raises ValueError, naming the argument, for shapes that differ, NaN
    and negative variances.
    """
    centres, spreads = np.asarray(means, np.float64), np.asarray(variances, np.float64)
    if centres.ndim != 2 or centres.size == 0 or np.isnan(centres).any():
        raise ValueError(
            f"means: expected numbers of the shape (members, samples), found {centres.shape}"
        )
    if spreads.shape != centres.shape or not (spreads >= 0).all():
        raise ValueError(
            f"variances: expected numbers that are not negative of the shape {centres.shape}, "
            f"found {spreads.shape}"
        )
    disagreement = centres.var(axis=0, ddof=1) if len(centres) > 1 else np.zeros(centres.shape[1])
    noise = spreads.mean(axis=0)
    return centres.mean(axis=0), Uncertainty(
        np.sqrt(noise + disagreement), np.sqrt(noise), np.sqrt(disagreement)
    )


def gaussian_nll(mean: ArrayLike, deviation: ArrayLike, targets: ArrayLike) -> float:
    """Mean negative log-likelihood of targets (N,) under normal distributions of this mean and
    standard deviation (N,), in nats, without the constant ln(2 pi) / 2, as the losses and tables
    of Hydra+ have it.

    Raises ValueError for a deviation of 0.
    """
    scale = np.asarray(deviation, np.float64)
    if not (scale > 0).all():
        raise ValueError("deviation: expected numbers above 0")
    errors = _errors(mean, targets) / scale
    return float((np.log(scale) + errors**2 / 2).mean())


def rmse(mean: ArrayLike, targets: ArrayLike) -> float:
    """Root of the mean squared error, (N,) and (N,)."""
    return float(np.sqrt((_errors(mean, targets) ** 2).mean()))


def mae(mean: ArrayLike, targets: ArrayLike) -> float:
    """Mean absolute error, (N,) and (N,)."""
    return float(np.abs(_errors(mean, targets)).mean())


def score(predictions: ArrayLike, targets: ArrayLike) -> dict[str, float]:
    """nll (without the constant ln(2 pi) / 2), rmse and mae of predicted means and log-variances
    (N, 2) for targets (N,).
    """
    mean, variance = _gaussians(predictions)
    return {
        "nll": gaussian_nll(mean, np.sqrt(variance), targets),
        "rmse": rmse(mean, targets),
        "mae": mae(mean, targets),
    }


def mean_gaussian(members: Sequence[ArrayLike], weights: ArrayLike | None = None) -> FloatArray:
    """Mean and log-variance (N, 2) of the mixture of members (M, N, 2), as `mixture` has it.

    `weights` (M,) are their shares in any unit, equal by default. With them the variance of the
    members' means is divided by 1 - the sum of the squared shares. Raises ValueError for weights as
    `mean_log_probabilities` does.
    """
    means, variances = map(np.stack, zip(*map(_gaussians, members), strict=True))
    shares = shares_of(weights, len(means))
    mean, noise = shares @ means, shares @ variances
    # What makes the weighted variance of the means unbiased: M / (M - 1) for equal shares, whereas
    # a member of share 0 counts for nothing, and a single one has no spread.
    freedom = 1 - shares @ shares
    between = shares @ (means - mean) ** 2 / freedom if freedom > 0 else 0.0
    return np.stack([mean, np.log(noise + between)], axis=1)


def losses(predictions: ArrayLike, targets: ArrayLike) -> dict[str, FloatArray]:
    """The metrics that are means over samples, for every sample: (N,) each."""
    mean, variance = _gaussians(predictions)
    errors = _errors(mean, targets)
    return {"nll": (np.log(variance) + errors**2 / variance) / 2, "mae": np.abs(errors)}


def _gaussians(predictions: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Means and variances (N,)."""
    predicted = np.asarray(predictions, np.float64)
    if (
        predicted.ndim != 2
        or predicted.shape[1] != 2
        or predicted.size == 0
        or np.isnan(predicted).any()
    ):
        raise ValueError(
            f"predictions: expected numbers of the shape (samples, 2), found {predicted.shape}"
        )
    return predicted[:, 0], np.exp(predicted[:, 1])


def _errors(mean: ArrayLike, targets: ArrayLike) -> FloatArray:
    predicted, truth = np.asarray(mean, np.float64), np.asarray(targets, np.float64)
    if truth.shape != predicted.shape or truth.size == 0:  # (N, 1) against (N,) would broadcast
        raise ValueError(
            f"targets: expected the shape {predicted.shape} of the mean, found {truth.shape}"
        )
    return predicted - truth
