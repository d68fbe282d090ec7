from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from distill_ray.data import split_indices
from distill_ray.data.split import cut_rows, long_tail
from distill_ray.errors import RequestError

GOLDEN_VALIDATION = [0, 1, 5, 9, 10]
GOLDEN_TAIL = [0, 2, 3, 6, 12, 15, 21, 25, 27, 30, 36, 39, 40, 42, 45, 48, 51, 52, 57]
GOLDEN_LARGE = "4bae733045c9d82bb3914cf54241f7b27c28bf4e0fb7dfa0e320ef3a56e25ddc"


def test_the_stratified_cut_never_changes() -> None:
    labels = np.arange(12) % 3
    train, validation = split_indices(labels, validation=5, seed=7)
    assert validation.tolist() == GOLDEN_VALIDATION
    assert train.tolist() == sorted(set(range(12)) - set(GOLDEN_VALIDATION))
    large = split_indices(np.arange(50_000) % 100, validation=5000, seed=0)[1]
    assert hashlib.sha256(large.astype("<i8").tobytes()).hexdigest() == GOLDEN_LARGE


def test_last_takes_index_ranges() -> None:
    train, validation = split_indices(np.zeros(50_000, np.int64), validation=5000, rule="last")
    assert (train == np.arange(45_000)).all()
    assert (validation == np.arange(45_000, 50_000)).all()
    assert split_indices(np.zeros(10), validation=2, train=3, rule="last")[0].tolist() == [0, 1, 2]


@given(
    sizes=st.lists(st.integers(8, 40), min_size=1, max_size=6),
    part=st.floats(0.05, 0.9),
    seed=st.integers(),
    keep=st.floats(0.3, 1),
)
def test_classes_keep_their_shares(sizes: Any, part: Any, seed: Any, keep: Any) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)) * 3, sizes))
    count = len(labels)
    validation = max(1, min(count - 1, round(part * count)))
    train = max(1, round(keep * (count - validation)))
    shares = [validation * size / count for size in sizes]
    assume(
        min(shares) >= 1
        and min(size - share for size, share in zip(sizes, shares, strict=True)) * keep > 3
    )
    cut = split_indices(labels, validation=validation, train=train, seed=seed)
    for rows, wanted in zip(cut, (train, validation), strict=True):
        assert len(rows) == wanted
        assert (np.diff(rows) > 0).all()
    assert not set(cut[0]) & set(cut[1])
    found = np.bincount(labels[cut[1]], minlength=labels.max() + 1)[::3]
    assert np.abs(found - validation * np.array(sizes) / count).max() < 1


def test_largest_remainders_are_rounded_up() -> None:
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    _, validation = split_indices(labels, validation=11)
    assert np.bincount(labels[validation]).tolist() == [6, 3, 2]  # 5.5, 3.3, 2.2
    _, validation = split_indices(labels, validation=13)
    assert np.bincount(labels[validation]).tolist() == [6, 4, 3]  # 6.5, 3.9, 2.6


def test_a_smaller_training_split_leaves_validation_alone() -> None:
    labels = np.arange(1000) % 10
    _, whole = split_indices(labels, validation=200, seed=3)
    train, validation = split_indices(labels, validation=200, train=100, seed=3)
    assert (whole == validation).all()
    assert np.bincount(labels[train]).tolist() == [10] * 10


def test_seeds_give_different_cuts() -> None:
    labels = np.arange(1000) % 10
    cuts = [
        tuple(split_indices(labels, validation=100, seed=seed)[1]) for seed in (0, 1, -1, 2**80)
    ]
    assert len(set(cuts)) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation": 20}, "data.validation must be at least 1 and less than the 20"),
        ({"validation": 0}, "data.validation must be at least 1"),
        ({"validation": 20, "rule": "last"}, "data.validation"),
        ({"validation": 5, "train": 16}, "data.train must be at least 1 and at most 15"),
        ({"validation": 1}, "data.validation: 1 of 20 images, stratified, leave none of class 1"),
        ({"validation": 19}, "data.train: 1 of 20 images"),
    ],
)
def test_impossible_cuts_name_the_field(settings: Any, message: Any) -> None:
    with pytest.raises(RequestError, match=message):
        split_indices(np.arange(20) % 2, **settings)


def test_long_tails_are_those_of_the_field() -> None:
    """The images per class, and their sums, of CIFAR-10-LT and CIFAR-100-LT."""
    ten = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert long_tail([5000] * 10, 100) == ten
    assert sum(ten) == 12_406
    assert sum(long_tail([500] * 100, 100)) == 10_847
    assert long_tail([30, 3, 30], 30) == [21, 3, 1], "what a class does not have is not made up"
    assert long_tail([8], 100) == [8]


@pytest.mark.parametrize("rule", ["stratified", "last", "own"])
def test_the_tail_is_cut_from_training_alone(rule: Any) -> None:
    labels = np.arange(1300) % 10
    whole = cut_rows(labels, validation=200, rule=rule, seed=3, test=100)
    tail = cut_rows(labels, validation=200, rule=rule, seed=3, test=100, imbalance=10)
    longer = cut_rows(labels, validation=200, rule=rule, seed=3, test=100, imbalance=50)
    assert (tail.validation == whole.validation).all() and (tail.test == whole.test).all()
    assert np.bincount(labels[tail.train]).tolist() == long_tail([100] * 10, 10)
    assert set(longer.train) < set(tail.train) < set(whole.train)
    assert (np.diff(tail.train) > 0).all()
    other = cut_rows(labels, validation=200, rule=rule, seed=4, test=100, imbalance=10)
    assert set(other.train) != set(tail.train)


def test_the_long_tail_never_changes() -> None:
    cut = cut_rows(np.arange(60) % 3, validation=15, seed=7, imbalance=15)
    assert cut.train.tolist() == GOLDEN_TAIL
