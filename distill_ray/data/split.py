"""The cut of a training split into training, validation and test images."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from distill_ray.errors import RequestError


class Cut(NamedTuple):
    """Rows of the training split, each int64 and ascending, without overlap."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    """Empty where the data set has a test split of its own."""


def cut_rows(
    labels: np.ndarray,
    *,
    validation: int,
    train: int | None = None,
    rule: Literal["stratified", "last", "own"] = "stratified",
    seed: int = 0,
    test: int | None = None,
    imbalance: float | None = None,
) -> Cut:
    """Cut `test` images off a training split, where that is asked for, then `validation` images;
    `train` of the others (default: all of them) are trained on, or of these a long tail with
    `imbalance`, see `long_tail`.

    With `own` the last `validation` rows are the validation split that the data set came with, and
    the cut of the others is stratified. `stratified` and `last` are those of `split_indices`; with
    `last` the test images come before those for validation.

    Raises:
        RequestError: as `split_indices` does.
    """
    if imbalance is not None:
        cut = cut_rows(labels, validation=validation, train=train, rule=rule, seed=seed, test=test)
        return cut._replace(train=_tail_rows(labels, cut.train, imbalance, seed))
    if train == 0:  # all that would be trained on is left out
        cut = cut_rows(labels, validation=validation, rule=rule, seed=seed, test=test)
        return cut._replace(train=cut.train[:0])
    if rule == "last":
        held_out = test or 0
        kept, after = split_indices(
            labels, validation=held_out + validation, train=train, rule=rule
        )
        return Cut(kept, after[held_out:], after[:held_out])
    others = np.arange(len(labels), dtype=np.int64)
    own = others[:0]
    if rule == "own":
        others, own = others[: len(labels) - validation], others[len(labels) - validation :]
    test_rows = others[:0]
    if test is not None:
        kept, chosen = split_indices(labels[others], validation=test, seed=seed, field="test")
        others, test_rows = others[kept], others[chosen]
    if rule == "own":
        if train is not None and train < len(others):
            unused = len(others) - train
            kept, _ = split_indices(labels[others], validation=unused, seed=seed, field="train")
            others = others[kept]
        return Cut(others, own, test_rows)
    kept, chosen = split_indices(labels[others], validation=validation, train=train, seed=seed)
    return Cut(others[kept], others[chosen], test_rows)


def split_indices(
    labels: np.ndarray,
    *,
    validation: int,
    train: int | None = None,
    rule: Literal["stratified", "last"] = "stratified",
    seed: int = 0,
    field: str = "validation",
) -> tuple[np.ndarray, np.ndarray]:
    """Choose `validation` images for validation and `train` of the others (default: all of them)
    for training.

    `stratified` gives every class its share of both, exact up to rounding (the largest remainders
    are rounded up); which images of a class is a function of `seed` alone, on every machine and
    with every version of NumPy. `last` takes the last `validation` rows for validation and the
    first `train` rows for training.

    Args:
        labels: (N,) labels of the training split.
        validation: How many images to keep for validation.
        train: How many of the others to train on; None for all.
        rule: `stratified` or `last`, as above.
        seed: Any integer; `last` does not use it.
        field: The field of the study file that `validation` is from.

    Returns:
        Row numbers for training and for validation, each int64 and ascending, without overlap.

    Raises:
        RequestError: more images are asked for than there are, or a class would have none on one of
            the two sides, or there are no classes because the labels are real numbers.
    """
    if labels.dtype.kind == "f" and rule == "stratified":
        raise RequestError(
            "data.split: stratified is by class, and these labels are real numbers; use last"
        )
    count = len(labels)
    if not 1 <= validation < count:
        raise RequestError(
            f"data.{field} must be at least 1 and less than the {count} images there are, found "
            f"{validation}"
        )
    rest = count - validation
    if train is not None and not 1 <= train <= rest:
        raise RequestError(
            f"data.train must be at least 1 and at most {rest} ({count} images less {validation} "
            f"for validation), found {train}"
        )
    for_train = rest if train is None else train
    if rule == "last":
        return np.arange(for_train, dtype=np.int64), np.arange(rest, count, dtype=np.int64)

    classes, class_of, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    for_validation = _shares(sizes, validation)
    for_training = _shares(sizes - for_validation, for_train)
    for name, number, shares in (
        (field, validation, for_validation),
        ("train", for_train, for_training),
    ):
        if not shares.all():
            missing = int(np.argmin(shares))
            raise RequestError(
                f"data.{name}: {number} of {count} images, stratified, leave none of class "
                f"{classes[missing]} (it has {sizes[missing]} images, there are {len(classes)} "
                f"classes); change data.{field} or data.train"
            )
    shuffled = _shuffled(count, seed)
    by_class = shuffled[np.argsort(class_of[shuffled], kind="stable")]
    first = np.repeat(np.cumsum(sizes) - sizes, sizes)
    rank = np.arange(count) - first
    sorted_class = class_of[by_class]
    in_validation = rank < for_validation[sorted_class]
    in_training = ~in_validation & (rank < (for_validation + for_training)[sorted_class])
    return np.sort(by_class[in_training]), np.sort(by_class[in_validation])


def long_tail(sizes: Sequence[int], imbalance: float) -> list[int]:
    """How many images each class keeps where the most frequent one is to have `imbalance` times
    those of the rarest, given how many it has.

    With n images of K classes, class k (from 0) keeps n / K * imbalance ** (-k / (K - 1)) of its
    images, rounded down, or all if it has fewer, and at least one. Source: Cui et al. 2019,
    "Class-Balanced Loss Based on Effective Number of Samples", whose code also takes the mean size
    of a class for the largest.
    """
    largest = sum(sizes) / len(sizes)
    last = max(1, len(sizes) - 1)
    # Whatever rounding adds to a whole number must not take it below
    shares = [largest * imbalance ** (-place / last) for place in range(len(sizes))]
    return [
        min(size, max(1, math.floor(share + 1e-9)))
        for size, share in zip(sizes, shares, strict=True)
    ]


def _tail_rows(labels: np.ndarray, rows: np.ndarray, imbalance: float, seed: int) -> np.ndarray:
    """Those of the training rows that a long tail keeps: of each class the first in an order that
    depends on `seed` alone, so that a longer tail is part of a shorter one.
    """
    shuffled = rows[_shuffled(len(rows), seed)]
    of_class = [shuffled[labels[shuffled] == number] for number in np.unique(labels[rows])]
    if not of_class:
        return rows
    kept = long_tail([len(members) for members in of_class], imbalance)
    some = [members[:count] for members, count in zip(of_class, kept, strict=True)]
    return np.sort(np.concatenate(some))


def some_rows(count: int, number: int, seed: int) -> np.ndarray:
    """`number` of 0..count-1, ascending: a function of `seed` alone, on every machine."""
    return np.sort(_shuffled(count, seed)[:number])


def _shares(sizes: np.ndarray, total: int) -> np.ndarray:
    """`total` divided in proportion to `sizes`; what rounding down leaves goes to the largest
    remainders, lower class first.
    """
    shares, remainders = np.divmod(sizes * total, sizes.sum())
    rounded_up = np.argsort(-remainders, kind="stable")[: total - shares.sum()]
    shares[rounded_up] += 1
    return shares


def _shuffled(count: int, seed: int) -> np.ndarray:
    """0..count-1 in an order that depends on `seed` alone: sorted by Philox's raw output, which
    NumPy keeps stable.
    """
    key = hashlib.sha256(f"distill_ray split {seed}".encode()).digest()
    bits = np.random.Philox(key=np.frombuffer(key[:16], "<u8")).random_raw(count)
    return np.argsort(bits, kind="stable").astype(np.int64)
