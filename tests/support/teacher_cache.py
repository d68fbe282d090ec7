"""A small cache of teacher logits, and the programs of processes that use it at the same time:
`python teacher_cache.py same URI`, with `versions` in place of `same`, and `two URI SEED`.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from distill_ray.augmentation import Crop
from distill_ray.execution.teacher_cache import TeacherCache
from distill_ray.job import Data, Split
from distill_ray.models import build_model
from distill_ray.store import Store
from distill_ray.training import (
    Dataset,
    LiveTeachers,
    TeacherLogitsKey,
    Worker,
    compute_teacher_logits,
    teacher_logits_key,
)

HERE = Worker(torch.device("cpu"))
DATA = Data(
    name="noise", digest="0" * 32, location="noise", label="label", split=Split(validation=16)
)
KEY = TeacherLogitsKey(
    teachers=("a", "b"), data=DATA, augmentation=Crop(), seed=3, batch_size=None, precision="fp32"
)

VERSIONS = replace(KEY, versioned=True, seed=0)


def noise() -> Dataset:
    """Forty-four random images to train on, of three classes."""
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1)).astype(np.uint8)
    return Dataset(
        images, np.arange(60) % 3, np.arange(44), np.arange(44, 60), ("a", "b", "c"), (0.5,), (0.3,)
    )


class CountingTeachers(LiveTeachers):
    """Live teachers that count how often they are asked."""

    def __init__(self) -> None:
        networks = [
            build_model("wrn-10-1", num_classes=3, image_shape=(1, 8, 8), seed=seed)
            for seed in range(2)
        ]
        super().__init__(networks, HERE.device, "fp32")
        self.asked = 0

    def __call__(self, part: Any) -> torch.Tensor:
        self.asked += 1
        return super().__call__(part)


def cache_of(
    store: Store, teachers: CountingTeachers, key: TeacherLogitsKey = KEY, **settings: Any
) -> TeacherCache:
    """The cache of three epochs of `noise`."""
    arguments = {"worker": HERE, "epochs": 3, "limit": 1e9} | settings
    return TeacherCache(store, key, noise(), lambda: teachers, **arguments)


def computed(
    teachers: CountingTeachers, epoch: int, key: TeacherLogitsKey = KEY
) -> np.ndarray[Any, Any]:
    """The logits of an epoch, as they should be in the cache."""
    return compute_teacher_logits(key, epoch, teachers, noise(), HERE.device).logits[0]


def fill_four_epochs(store: Store) -> int:
    """Go through four epochs of one key; how often the teachers were asked."""
    teachers = CountingTeachers()
    cache = cache_of(store, teachers, epochs=4)
    for epoch in range(1, 5):
        assert cache.of_epoch(epoch) is not None
    return teachers.asked


def fill_two_versions(store: Store) -> int:
    """Go through the shards of two versions; how often the teachers were asked."""
    teacher_logits_key.SHARD = 16
    teachers = CountingTeachers()
    cache = cache_of(store, teachers, VERSIONS, epochs=2)
    for version in (1, 2):
        assert cache.shards_of(version) is not None
    return teachers.asked


def fill_two_keys(store: Store, seed: int) -> int:
    """Go through the epochs of `KEY` and of a key with that seed, with room for about half of them,
    and check each; how often the teachers were asked.
    """
    teachers, checking = CountingTeachers(), CountingTeachers()
    for key in (KEY, replace(KEY, seed=seed)):
        cache = cache_of(store, teachers, key, limit=40_000)
        for epoch in (1, 2, 3):
            teacher_logits = cache.of_epoch(epoch)
            assert teacher_logits is not None, (key, epoch)
            right = computed(checking, epoch, key)
            assert np.array_equal(teacher_logits.logits[0], right), (key, epoch)
    return teachers.asked


if __name__ == "__main__":
    program, uri, *seed = sys.argv[1:]
    shared = Store.open(uri)
    if program == "two":
        print(fill_two_keys(shared, int(seed[0])))
    else:
        print(fill_four_epochs(shared) if program == "same" else fill_two_versions(shared))
