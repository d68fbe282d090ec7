"""The cut of a training split into training and validation images."""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np

from distill_ray.errors import RequestError


def split_indices(
    labels: np.ndarray,
    *,
    validation: int,
    train: int | None = None,
    rule: Literal["stratified", "last"] = "stratified",
    seed: int = 0,
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
            f"data.validation must be at least 1 and less than the {count} images there are, found "
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
    for field, number, shares in (
        ("validation", validation, for_validation),
        ("train", for_train, for_training),
    ):
        if not shares.all():
            missing = int(np.argmin(shares))
            raise RequestError(
                f"data.{field}: {number} of {count} images, stratified, leave none of class "
                f"{classes[missing]} (it has {sizes[missing]} images, there are {len(classes)} "
                "classes); change data.validation or data.train"
            )
    shuffled = _shuffled(count, seed)
    by_class = shuffled[np.argsort(class_of[shuffled], kind="stable")]
    first = np.repeat(np.cumsum(sizes) - sizes, sizes)
    rank = np.arange(count) - first
    sorted_class = class_of[by_class]
    in_validation = rank < for_validation[sorted_class]
    in_training = ~in_validation & (rank < (for_validation + for_training)[sorted_class])
    return np.sort(by_class[in_training]), np.sort(by_class[in_validation])


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
