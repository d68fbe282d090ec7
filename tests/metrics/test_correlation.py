"""The three correlations against every coefficient and p-value that the good-augmentation system
published.
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import ArrayLike
from scipy.stats import pearsonr

from distill_ray.metrics.correlation import Correlation, correlate

# T. stddev and student test loss in the order identity, flip, crop-flip, cutout, autoaugment,
# mixup, cutmix, cutmixpick by the student's and by the teacher's entropy; then coefficient and
# p-value in percent of Pearson, Spearman and Kendall.
PUBLISHED: dict[str, tuple[list[float], list[float], list[tuple[float, float]]]] = {
    "cifar-100 wrn_40_2/wrn_16_2": (
        [0.005473, 0.005471, 0.005410, 0.005255, 0.005110, 0.004988, 0.004719, 0.004400, 0.004154],
        [1.0976, 1.0774, 1.0837, 1.0564, 1.0305, 1.0486, 1.0275, 1.0054, 0.9746],
        [(0.9581, 0.00), (0.9667, 0.00), (0.8889, 0.02)],
    ),
    "cifar-100 resnet56/resnet20": (
        [0.005248, 0.005232, 0.005121, 0.004983, 0.004904, 0.004719, 0.004443, 0.004039, 0.003788],
        [1.1783, 1.1668, 1.1763, 1.1687, 1.1478, 1.1621, 1.1440, 1.1269, 1.0924],
        [(0.9404, 0.02), (0.9333, 0.02), (0.8333, 0.09)],
    ),
    "cifar-100 vgg13/vgg8": (
        [0.005519, 0.005516, 0.005457, 0.005295, 0.005176, 0.005075, 0.004665, 0.004300, 0.004042],
        [1.1856, 1.1754, 1.1537, 1.1279, 1.1273, 1.1194, 1.0862, 1.0605, 0.9981],
        [(0.9742, 0.00), (1.0000, 0.00), (1.0000, 0.00)],
    ),
    "cifar-100 ResNet50/vgg8": (
        [0.005530, 0.005532, 0.005494, 0.005370, 0.005248, 0.005083, 0.004870, 0.004656, 0.004397],
        [1.2418, 1.2110, 1.1976, 1.1925, 1.1443, 1.1188, 1.1161, 1.0851, 1.0069],
        [(0.9697, 0.00), (0.9833, 0.00), (0.9444, 0.00)],
    ),
    "tiny wrn_40_2/wrn_16_2": (
        [0.003482, 0.003473, 0.003385, 0.003305, 0.002953, 0.002999, 0.002921, 0.002609, 0.002386],
        [1.7676, 1.7567, 1.7599, 1.7587, 1.7358, 1.7278, 1.7296, 1.6986, 1.6849],
        [(0.9831, 0.00), (0.9000, 0.09), (0.7778, 0.24)],
    ),
    "tiny resnet56/resnet20": (
        [0.002994, 0.002978, 0.002893, 0.002845, 0.002610, 0.002593, 0.002494, 0.002148, 0.001972],
        [1.9459, 1.9352, 1.9343, 1.9369, 1.9569, 1.9201, 1.9136, 1.8985, 1.8817],
        [(0.8484, 0.38), (0.7833, 1.25), (0.6667, 1.27)],
    ),
    "tiny vgg13/vgg8": (
        [0.003873, 0.003873, 0.003808, 0.003734, 0.003284, 0.003388, 0.003173, 0.002905, 0.002681],
        [1.8377, 1.8379, 1.8346, 1.7932, 1.7310, 1.7757, 1.7259, 1.6556, 1.6237],
        [(0.9870, 0.00), (0.9958, 0.00), (0.9860, 0.02)],
    ),
    "tiny ResNet50/vgg8": (
        [0.003903, 0.003901, 0.003860, 0.003773, 0.003332, 0.003413, 0.003373, 0.003197, 0.002948],
        [1.9767, 1.9674, 1.9249, 1.9091, 1.7750, 1.8281, 1.8225, 1.7290, 1.6724],
        [(0.9879, 0.00), (1.0000, 0.00), (1.0000, 0.00)],
    ),
    "imagenet-100 resnet34/resnet18": (
        [0.002545, 0.002539, 0.002457, 0.002500, 0.002472, 0.002371, 0.002367, 0.002224, 0.002165],
        [0.6713, 0.6609, 0.6679, 0.6646, 0.6465, 0.6619, 0.6568, 0.6524, 0.6364],
        [(0.7309, 2.53), (0.6667, 4.99), (0.5556, 4.46)],
    ),
    "imagenet-1k resnet34/resnet18": (
        [0.000702, 0.000699, 0.000673, 0.000683, 0.000641, 0.000640, 0.000619, 0.000578, 0.000578],
        [1.2103, 1.1977, 1.2147, 1.1990, 1.1990, 1.1875, 1.1809, 1.2049, 1.1955],
        [(0.3460, 36.17), (0.4202, 26.02), (0.2857, 29.19)],
    ),
}


def values(found: Correlation) -> list[tuple[float, float]]:
    """The coefficients with their p-values."""
    each = (found.pearson, found.spearman, found.kendall)
    return [(coefficient.value, coefficient.p_value) for coefficient in each]


@pytest.mark.parametrize("pair", PUBLISHED)
def test_published_correlations(pair: str) -> None:
    deviations, losses, expected = PUBLISHED[pair]
    found = values(correlate(deviations, losses))
    assert [(round(value, 4), round(100 * p, 2)) for value, p in found] == expected


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (
            *PUBLISHED["cifar-100 wrn_40_2/wrn_16_2"][:2],
            [(0.95810435, 4.75668661e-5), (0.96666667, 2.15503127e-5), (0.88888889, 2.42504409e-4)],
        ),
        (
            [1, 2, 3, 4, 5],
            [2, 1.5, 3.5, 3, 5],
            [(0.86602540, 0.05766889), (0.8, 0.10408804), (0.6, 0.23333333)],
        ),
        (
            [1, 2, 2, 4, 5, 6],
            [1, 3, 2, 2, 6, 5],
            [(0.82103116, 0.04517860), (0.80882353, 0.05132906), (0.64285714, 0.07983872)],
        ),
    ],
    ids=["first column", "no ties", "ties"],
)
def test_oracle(x: ArrayLike, y: ArrayLike, expected: list[tuple[float, float]]) -> None:
    found = values(correlate(x, y))
    assert_allclose(found, expected, rtol=2e-9, atol=5e-9)


def test_the_order_of_points_and_monotone_changes() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 12))
    order = np.random.default_rng(1).permutation(12)
    assert_allclose(values(correlate(x[order], y[order])), values(correlate(x, y)), rtol=1e-12)
    bent = correlate(np.exp(x), y)
    assert bent.spearman == correlate(x, y).spearman and bent.kendall == correlate(x, y).kendall
    assert bent.pearson != correlate(x, y).pearson
    assert_allclose(correlate(x, -y).kendall.value, -correlate(x, y).kendall.value)


@pytest.mark.parametrize(
    ("x", "y", "argument"),
    [
        ([1, 2], [1, 2], "x"),
        ([1, 2, 3], [1, 2], "y"),
        ([1, 2, np.nan], [1, 2, 3], "x"),
        ([1, 2, 3], [1, np.inf, 3], "y"),
        ([1, 2, 3], [4, 4, 4], "y"),
        ([[1, 2, 3]], [[1, 2, 3]], "x"),
    ],
)
def test_wrong_arguments_are_named(x: ArrayLike, y: ArrayLike, argument: str) -> None:
    with pytest.raises(ValueError, match=f"^{argument}: "):
        correlate(x, y)


def test_intervals_are_those_of_fisher() -> None:
    """Pearson's as SciPy has it; that of nine points by hand; none of three."""
    x, y = np.random.default_rng(0).normal(size=(2, 12)).cumsum(axis=0)
    found, interval = correlate(x, y), pearsonr(x, y).confidence_interval()
    assert found.pearson.interval == pytest.approx((interval.low, interval.high))
    assert found.spearman.interval is not None
    z = np.arctanh(found.spearman.value)
    half = 1.959964 * np.sqrt((1 + found.spearman.value**2 / 2) / 9)
    assert found.spearman.interval == pytest.approx((np.tanh(z - half), np.tanh(z + half)))
    few = correlate([1, 2, 3], [1, 3, 2])
    assert (few.pearson.interval, few.kendall.interval) == (None, None)
