"""What the teachers' logits will cost a stage, stored or live: time, disk, and which of the two it
will be.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable

from distill_ray.execution.sharing import Sharing, stored_share
from distill_ray.job import Job
from distill_ray.planning.bench import Bench, some_of
from distill_ray.planning.programs import Programs
from distill_ray.training import (
    Dataset,
    LiveTeachers,
    TeacherLogitsKey,
    Worker,
    compute_teacher_logits,
    share_as_programs,
    to_arrow,
)

TIMED_IMAGES = 128


@dataclasses.dataclass(frozen=True)
class TeacherLogitsPlan:
    """The teacher logits that jobs of a stage need which ask teachers alike, of these `methods`.

    `stored` says what the stage will do. Stored teacher logits take `bytes` and are computed once,
    in `seconds`, with the time until teachers are programs if they become some; live teachers take
    `live_seconds` over all jobs. Both are times on one worker, and early stopping makes both
    shorter. Storing is cheaper from `pays_from` jobs on, infinitely many where no two of them use
    the same teacher logits. `live_for` names the method where it takes more from teachers than
    their logits, so that nothing can be stored.
    """

    methods: tuple[str, ...]
    stored: bool
    bytes: int
    seconds: float
    live_seconds: float
    pays_from: float
    live_for: str = ""


def jobs_by_logits(jobs: Iterable[Job], sharing: Sharing, classes: int) -> list[list[Job]]:
    """The jobs that learn from teachers, those together which ask them alike: the same teachers
    about the same augmentation, stored in the same form or, for methods that take more from
    teachers than their logits, not at all.
    """
    groups: dict[object, list[Job]] = {}
    for job in jobs:
        if job.teachers:
            key = dataclasses.replace(teacher_logits_key(job, sharing, classes), seed=0)
            groups.setdefault((key, _live_for(job)), []).append(job)
    return list(groups.values())


def plan_teacher_logits(
    jobs: list[Job],
    sharing: Sharing,
    dataset: Dataset,
    teachers: LiveTeachers,
    worker: Worker,
    bench: Bench | None = None,
    augmentations: float = 1.0,
    programs: Callable[[], Programs] = Programs,
) -> TeacherLogitsPlan:
    """The plan for `jobs`, which all ask `teachers` alike.

    The time that teachers take layer by layer is that of `bench`, where there is one, and judged
    from one timed batch otherwise. What they take as `programs` is asked where they become some. Of
    so many `augmentations` each job has drawn one, infinitely many where no two draw the same.
    """
    recipe = jobs[0].recipe
    few = some_of(dataset, TIMED_IMAGES)
    share = len(few.train) / len(dataset.train)
    key = teacher_logits_key(jobs[0], sharing, dataset.num_classes)
    compute_teacher_logits(key, 1, teachers, some_of(dataset, 2), worker.device)
    begun = time.perf_counter()
    teacher_logits = compute_teacher_logits(key, 1, teachers, few, worker.device)
    all_live = (time.perf_counter() - begun) / share
    images = len(dataset.train)
    if bench is not None:
        all_live = bench.teachers * images / bench.batch_size
    live_epoch = all_live / stored_share(recipe.augmentation)
    as_programs = share_as_programs(key, images)
    times = programs() if as_programs else Programs()
    stored_epoch = images * times.seconds(all_live / images, as_programs)
    size = len(to_arrow(teacher_logits, "")) / share
    distinct = len({job.seed for job in jobs}) * augmentations
    passes = min(len(jobs), distinct) * max(job.recipe.epochs for job in jobs)
    epochs = sum(job.recipe.epochs for job in jobs)
    live_for = _live_for(jobs[0])
    pays_from = math.inf
    if math.isfinite(distinct) and not live_for:
        pays_from = math.floor(stored_share(recipe.augmentation) * distinct) + 1
    return TeacherLogitsPlan(
        tuple(dict.fromkeys(job.recipe.method.name for job in jobs)),
        sharing.stores_for(recipe),
        int(passes * size),
        times.making + passes * stored_epoch,
        epochs * live_epoch,
        pays_from,
        live_for,
    )


def teacher_logits_key(job: Job, sharing: Sharing, classes: int) -> TeacherLogitsKey:
    """The key by which the teacher logits that `job` needs are stored, where they are."""
    return TeacherLogitsKey.of(job, "fp32", sharing.exact, sharing.largest(job.recipe, classes))


def _live_for(job: Job) -> str:
    """The method of a job if it takes more from teachers than their logits."""
    method = job.recipe.method
    return method.name if method.live_teachers(job.recipe.augmentation) else ""
