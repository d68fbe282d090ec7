"""Whether one measure predicts another: three correlation coefficients with their p-values."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Coefficient:
    """A correlation coefficient from -1 to 1 and its two-sided p-value against independence."""

    value: float
    p_value: float


@dataclass(frozen=True)
class Correlation:
    """Pearson's r (linear), Spearman's rho and Kendall's tau-b (of ranks) of the same points."""

    pearson: Coefficient
    spearman: Coefficient
    kendall: Coefficient


def correlate(x: ArrayLike, y: ArrayLike) -> Correlation:
    """The three correlations of points (N,), (N,), N >= 3, with SciPy's p-values (exact for Kendall
    without ties).

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
    found = (
        test(points["x"], points["y"])
        for test in (stats.pearsonr, stats.spearmanr, stats.kendalltau)
    )
    return Correlation(*(Coefficient(float(each.statistic), float(each.pvalue)) for each in found))
