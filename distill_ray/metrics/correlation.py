"""Whether one measure predicts another: three correlation coefficients with their p-values."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

NORMAL = 1.959963984540054
"""The quantile of the normal distribution for 95 %."""


@dataclass(frozen=True)
class Coefficient:
    """A correlation coefficient from -1 to 1, its two-sided p-value against independence, and its
    95 % confidence interval; None of too few points for one, and where it is 1 or -1.
    """

    value: float
    p_value: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Correlation:
    """Pearson's r (linear), Spearman's rho and Kendall's tau-b (of ranks) of the same points."""

    pearson: Coefficient
    spearman: Coefficient
    kendall: Coefficient


def correlate(x: ArrayLike, y: ArrayLike) -> Correlation:
    """The three correlations of points (N,), (N,), N >= 3, with SciPy's p-values (exact for Kendall
    without ties) and intervals by Fisher's z. Its variance is 1 / (N - 3) for Pearson,
    (1 + r² / 2) / (N - 3) for Spearman and 0.437 / (N - 4) for Kendall (Bonett & Wright 2000).

    Raises ValueError, naming the argument, for shapes that differ, NaN, and values that are all
    equal (nothing is defined).
    """
    from scipy import stats

    points = {"x": np.asarray(x, np.float64), "y": np.asarray(y, np.float64)}
    for name, values in points.items():
        if (
            values.ndim != 1
            or len(values) < 3
            or values.shape != points["x"].shape
            or not np.isfinite(values).all()
        ):
            raise ValueError(
                f"{name}: expected at least 3 numbers, as many in x as in y, found the shape "
                f"{values.shape}"
            )
        if (values == values[0]).all():
            raise ValueError(f"{name}: all values are equal, so that no correlation is defined")
    pearson, spearman, kendall = (
        test(points["x"], points["y"])
        for test in (stats.pearsonr, stats.spearmanr, stats.kendalltau)
    )
    samples, rho = len(points["x"]), float(spearman.statistic)
    return Correlation(
        _coefficient(pearson, 1.0, samples - 3),
        _coefficient(spearman, 1 + rho**2 / 2, samples - 3),
        _coefficient(kendall, 0.437, samples - 4),
    )


def _coefficient(result: Any, scale: float, degrees: int) -> Coefficient:
    """What SciPy found, with the interval of a coefficient whose z has the variance `scale` /
    `degrees`.
    """
    value, interval = float(result.statistic), None
    if degrees > 0 and abs(value) < 1:
        z, half = math.atanh(value), NORMAL * math.sqrt(scale / degrees)
        interval = math.tanh(z - half), math.tanh(z + half)
    return Coefficient(value, float(result.pvalue), interval)
