"""What decides the logits of teachers, and the name that follows from it. Needs no torch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from distill_ray.augmentation import Augmentation
from distill_ray.job import Data, Job, canonical_json

SCHEMA_VERSION = 1
"""Part of the identity of teacher logits. Raise it when a change of code changes what the same key
stands for.
"""

SHARD = 4096
"""Images of a version in one shard. It does not depend on who computes them, so that all find each
other's.
"""


@dataclass(frozen=True, kw_only=True)
class TeacherLogitsKey:
    """Everything that decides the teacher logits of all epochs of a run, or of all versions of the
    images if it is `versioned`; `seed` is that of the run, or of the versions. `batch_size` is None
    where the augmentation does not depend on it.

    `precision` is that of the teachers' forward passes, `exact` says that logits are always stored
    in float32, and `top_k` how many of the largest logits are stored per prediction, all if None.
    Whether a last, smaller batch is dropped does not matter, since its images are included.
    """

    teachers: tuple[str, ...]
    data: Data
    augmentation: Augmentation
    seed: int
    batch_size: int | None
    precision: str
    exact: bool = False
    top_k: int | None = None
    versioned: bool = False

    @classmethod
    def of(
        cls, job: Job, precision: str, exact: bool = False, top_k: int | None = None
    ) -> TeacherLogitsKey:
        """The key of the teacher logits that `job` needs."""
        augmentation, versions = job.recipe.augmentation, job.recipe.image_versions
        return cls(
            teachers=job.teachers,
            data=job.data,
            augmentation=augmentation,
            seed=job.seed if versions is None else versions.seed,
            versioned=versions is not None,
            batch_size=job.recipe.batch_size if augmentation.by_batch else None,
            precision=precision,
            exact=exact,
            top_k=top_k,
        )

    def shards(self, images: int) -> list[tuple[int, int]]:
        """The places (first, last) of each shard; without versions one for all `images`."""
        if not self.versioned:
            return [(0, images)]
        return [(first, min(first + SHARD, images)) for first in range(0, images, SHARD)]

    def identity(self, number: int, shard: int = 0) -> str:
        """The key and the number of the epoch or of version and shard, as canonical JSON; it is
        written into the file and compared when that is read.
        """
        if self.versioned:
            return canonical_json(self._values() | {"version": number, "shard": shard})
        return canonical_json(self._values() | {"epoch": number})

    @property
    def id(self) -> str:
        """Twenty hexadecimal digits that stand for the key."""
        return hashlib.sha256(canonical_json(self._values()).encode()).hexdigest()[:20]

    def _values(self) -> dict[str, Any]:
        some: dict[str, Any] = {} if self.top_k is None else {"top_k": self.top_k}
        if self.versioned:
            some |= {"versioned": True, "images_per_shard": SHARD}
        return some | {
            "schema": SCHEMA_VERSION,
            "teachers": list(self.teachers),
            "data": self.data.seen_by(self.augmentation),
            "augmentation": self.augmentation.to_dict(),
            "seed": self.seed,
            "batch_size": self.batch_size,
            "precision": self.precision,
            "exact": self.exact,
        }
