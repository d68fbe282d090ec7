"""Addressed random numbers: pinned values, random access, independence, distribution."""

import numpy as np
import pytest

from distill_ray.augmentation.draws import Draws, beta, integers, shares

DRAWS = Draws(seed=7, epoch=3)


def test_the_numbers_are_pinned_for_ever() -> None:
    assert DRAWS.uniform("crop", 5, 7, 2).tolist() == [
        [0.7306918442525738, 0.8026033037781661],
        [0.607233426101312, 0.23308946397984553],
    ]
    assert beta(DRAWS.uniform("weight", 0, 3, 1)[:, 0], 0.3).tolist() == [
        0.4801364541053772,
        5.364418029785156e-07,
        0.15907615423202515,
    ]
    assert shares(DRAWS.uniform("share", 0, 1, 2))[0].tolist() == [
        0.8794320317009964,
        0.11285336256035217,
        0.007714605738651459,
    ]
    assert DRAWS.permutation("order", 12).tolist() == [7, 0, 11, 10, 2, 4, 6, 8, 3, 9, 1, 5]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize(("start", "stop"), [(0, 1), (0, 40), (1, 2), (3, 17), (39, 40), (8, 8)])
def test_a_range_is_the_slice_of_everything(count: int, start: int, stop: int) -> None:
    everything = DRAWS.uniform("any", 0, 40, count)
    assert np.array_equal(DRAWS.uniform("any", start, stop, count), everything[start:stop])


def test_a_far_index_costs_no_more_than_a_near_one() -> None:
    assert DRAWS.uniform("any", 10**15, 10**15 + 2, 3).shape == (2, 3)


def test_seed_epoch_and_purpose_are_independent_streams() -> None:
    streams = [
        Draws(seed, epoch).uniform(purpose, 0, 4000, 1)[:, 0]
        for seed, epoch, purpose in [
            (7, 3, "a"),
            (7, 3, "b"),
            (7, 4, "a"),
            (8, 3, "a"),
            (73, 0, "a"),
            (7, 30, "a"),
        ]
    ]
    correlation = np.corrcoef(streams) - np.eye(len(streams))
    assert np.abs(correlation).max() < 0.06


def test_uniform_numbers_are_uniform() -> None:
    numbers = DRAWS.uniform("any", 0, 20_000, 3)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = np.histogram(numbers, bins=50, range=(0, 1))[0]
    # Chi-square, 49 degrees of freedom: 89.6 at 0.0004
    assert ((counts - 1200) ** 2 / 1200).sum() < 90


def test_integers_take_every_value_equally_often() -> None:
    counts = np.bincount(integers(DRAWS.uniform("any", 0, 9000, 1)[:, 0], 9), minlength=9)
    assert len(counts) == 9
    assert ((counts - 1000) ** 2 / 1000).sum() < 30  # 8 degrees of freedom: 30 at 0.0002


def test_a_permutation_has_every_number_once_and_depends_on_the_epoch() -> None:
    orders = [Draws(1, epoch).permutation("order", 1000) for epoch in range(2)]
    assert all(sorted(order) == list(range(1000)) for order in orders)
    assert (orders[0] == orders[1]).sum() < 10


@pytest.mark.parametrize("alpha", [0.2, 0.3, 1.0, 4.0])
def test_beta_numbers_have_the_moments_of_their_distribution(alpha: float) -> None:
    numbers = beta(DRAWS.uniform("any", 0, 20_000, 1)[:, 0], alpha)
    assert numbers.min() >= 0
    assert numbers.max() <= 1
    assert numbers.mean() == pytest.approx(0.5, abs=0.01)
    assert numbers.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.02)
    assert np.array_equal(numbers, numbers.astype(np.float32))


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_shares_are_uniform_over_the_simplex(parts: int) -> None:
    weights = shares(DRAWS.uniform("any", 0, 20_000, parts - 1))
    assert weights.shape == (20_000, parts)
    assert weights.min() >= 0
    assert weights.sum(1) == pytest.approx(1)
    assert weights.mean(0) == pytest.approx(1 / parts, abs=0.01)
    variance = (parts - 1) / (parts**2 * (parts + 1))
    assert weights.var(0) == pytest.approx(variance, rel=0.05)
    assert np.cov(weights.T)[0, 1] == pytest.approx(-variance / (parts - 1), rel=0.1)
