from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from distill_ray.data import split_indices
from distill_ray.errors import RequestError

GOLDEN_VALIDATION = [0, 1, 5, 9, 10]
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
