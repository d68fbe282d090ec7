"""What the teachers' logits will cost a stage, stored or live: time, disk, and which of the two it
will be.
"""

from __future__ import annotations

import dataclasses
import math
import time

from distill_ray.execution.sharing import Sharing, stored_share
from distill_ray.job import Job
from distill_ray.planning.bench import Bench, some_of
from distill_ray.training import (
    Dataset,
    LiveTeachers,
    TeacherLogitsKey,
    Worker,
    compute_teacher_logits,
    to_arrow,
)

TIMED_IMAGES = 128


@dataclasses.dataclass(frozen=True)
class TeacherLogitsPlan:
    """The teacher logits that the jobs of a stage need.

    `stored` says what the stage will do. Stored teacher logits take `bytes` and are computed once,
    in `seconds`; live teachers take `live_seconds` over all jobs. Both are times on one worker, and
    early stopping makes both shorter. Storing is cheaper from `pays_from` jobs on, infinitely many
    where no two of them use the same teacher logits. `live_for` names the method where it takes
    more from teachers than their logits, so that nothing can be stored.
    """

    stored: bool
    bytes: int
    seconds: float
    live_seconds: float
    pays_from: float
    live_for: str = ""

    @property
    def spared(self) -> float:
        """Seconds that the stage takes less than with live teachers."""
        return self.live_seconds - self.seconds if self.stored else 0.0


def plan_teacher_logits(
    jobs: list[Job],
    sharing: Sharing,
    dataset: Dataset,
    teachers: LiveTeachers,
    worker: Worker,
    bench: Bench | None = None,
) -> TeacherLogitsPlan:
    """The plan for `jobs`, which all learn from `teachers`, by the first job's recipe.

    The time that teachers take is that of `bench`, where there is one, and judged from one timed
    batch otherwise.
    """
    recipe = jobs[0].recipe
    few = some_of(dataset, TIMED_IMAGES)
    share = len(few.train) / len(dataset.train)
    key = TeacherLogitsKey.of(
        jobs[0], "fp32", sharing.exact, sharing.largest(recipe, dataset.num_classes)
    )
    compute_teacher_logits(key, 1, teachers, some_of(dataset, 2), worker.device)
    begun = time.perf_counter()
    teacher_logits = compute_teacher_logits(key, 1, teachers, few, worker.device)
    stored_epoch = (time.perf_counter() - begun) / share
    if bench is not None:
        stored_epoch = bench.teachers * len(dataset.train) / bench.batch_size
    live_epoch = stored_epoch / stored_share(recipe.augmentation)
    size = len(to_arrow(teacher_logits, "")) / share
    kinds = max(1.0, len(jobs) / max(sharing.sharers, 1.0)) * recipe.epochs
    epochs = sum(job.recipe.epochs for job in jobs)
    stored = sharing.stores_for(recipe)
    pays_from = math.inf
    live_for = recipe.method.name if recipe.method.live_teachers(recipe.augmentation) else ""
    if sharing.sharers and not live_for:
        pays_from = math.floor(stored_share(recipe.augmentation) * len(jobs) / sharing.sharers) + 1
    return TeacherLogitsPlan(
        stored, int(kinds * size), kinds * stored_epoch, epochs * live_epoch, pays_from, live_for
    )
