"""The answer stage: teachers answer for all versions of the images that students will see, ahead of
the students.

It is there for students with `versions`. Versions and shards are divided among as many tasks as the
cluster can use; what the store has is not computed again, by this study or another. A student whose
teacher logits are missing all the same, since they were damaged or evicted, computes them itself.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import posixpath
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from distill_ray.data import open_source
from distill_ray.events import Answered, Observer
from distill_ray.execution.cluster import Cluster
from distill_ray.execution.messages import Finished, Record, Task, Work
from distill_ray.execution.resources import WorkerResources
from distill_ray.execution.sharing import Sharing, distinct_augmentations, trial_sharing
from distill_ray.execution.task_source import TaskSource
from distill_ray.job import Data, Job
from distill_ray.resolve import data_for, learned_from
from distill_ray.store import MANIFEST, Store
from distill_ray.study import StudyDefinition
from distill_ray.study.compatibility import combinations
from distill_ray.study.recipes import augmentation_text
from distill_ray.training.teacher_logits_key import TeacherLogitsKey

TASKS = 128
"""About how many tasks a stage has at most: enough to keep a cluster busy to the end, few enough
that handing them out costs nothing."""

PRECISIONS = ("fp32", "bf16")
"""In which of them a worker's teachers answer follows from its device."""

Piece = tuple[int, int]
"""A version and a shard of it."""


@dataclass(frozen=True)
class Answers:
    """What teachers are asked: these versions of the images. The key has no precision yet."""

    key: TeacherLogitsKey
    versions: tuple[int, ...]
    images: int
    """Images in the training split."""
    precision: str = ""
    """In which students look for the answers; empty where that is known to workers alone."""

    @property
    def name(self) -> str:
        """The augmentation as people read it."""
        return augmentation_text(self.key.augmentation)

    @property
    def pieces(self) -> list[Piece]:
        """All pieces, version by version."""
        shards = range(len(self.key.shards(self.images)))
        return [(version, shard) for version in self.versions for shard in shards]

    def images_of(self, pieces: Sequence[Piece]) -> int:
        """How many images those pieces have together."""
        shards = self.key.shards(self.images)
        return sum(shards[shard][1] - shards[shard][0] for _, shard in pieces)

    def missing(self, store: Store) -> list[Piece]:
        """The pieces that the store does not have in the precision of these answers, or in any
        where that is not known.
        """
        there: set[str] = set()
        for precision in [self.precision] if self.precision else PRECISIONS:
            folder = posixpath.join("teacher_logits", replace_precision(self.key, precision).id)
            paths = (path for path, _, _ in store.tree(folder))
            there.update("/".join(path.split("/")[-3:-1]) for path in paths if _is_manifest(path))
        return [piece for piece in self.pieces if f"{piece[0]:05d}/{piece[1]:05d}" not in there]


def replace_precision(key: TeacherLogitsKey, precision: str) -> TeacherLogitsKey:
    """The key of teachers that answer in that precision."""
    return dataclasses.replace(key, precision=precision)


def _is_manifest(path: str) -> bool:
    return posixpath.basename(path) == MANIFEST


def answers_for(
    jobs: Iterable[Job], sharing: Sharing, data: Data, *, all_versions: bool = False
) -> list[Answers]:
    """What the teachers of those jobs are asked about versions; nothing for jobs without. Jobs of
    fewer epochs than versions do not see all, unless `all_versions` are asked for.
    """
    source = None
    versions: dict[TeacherLogitsKey, set[int]] = {}
    for job in jobs:
        image_versions = job.recipe.image_versions
        if image_versions is None or not job.teachers or not sharing.stores_for(job.recipe):
            continue
        source = source or open_source(data.location, label=data.label, cuts_test=data.cuts_test)
        largest = sharing.largest(job.recipe, source.num_classes)
        key = TeacherLogitsKey.of(job, "", sharing.exact, largest)
        epochs = max(job.recipe.epochs, image_versions.count if all_versions else 0)
        versions.setdefault(key, set()).update(image_versions.shown_to(epochs, [job.seed]))
    if source is None:
        return []
    labels = functools.partial(source.labels, "train")
    images = data.split.training_images(source.rows("train"), labels)
    answers = []
    for key, asked in versions.items():
        more = 0 if key.data.unlabelled is None else key.data.unlabelled.images
        answers.append(Answers(key, tuple(sorted(asked)), images + more))
    return answers


def answers_for_search(
    study: StudyDefinition, data: Data, teachers: Sequence[str], *, all_versions: bool = False
) -> list[Answers]:
    """What the trials of a study ask; nothing where a number of the augmentation is drawn, so that
    it is known only with the trial. `all_versions` as in `answers_for`.
    """
    searched = {dimension.name for dimension in study.search.space.dimensions}
    if study.student.versions is None and "versions" not in searched:
        return []
    if math.isinf(distinct_augmentations(study)):
        return []
    epochs = study.search.space.most_epochs(study.student)
    jobs = []
    for drawn in combinations(study.search.space):
        recipe = study.search.space.recipe(study.student, drawn)
        if not recipe.method.needs_teachers:
            continue
        longest = dataclasses.replace(recipe, epochs=max(epochs, recipe.epochs))
        learned = tuple(learned_from(study, teachers))
        learned_data = data_for(longest, data)
        jobs.append(Job(recipe=longest, data=learned_data, seed=study.trial_seed, teachers=learned))
    return answers_for(jobs, trial_sharing(study), data, all_versions=all_versions)


def joined(asked: Iterable[Answers]) -> list[Answers]:
    """The same, with the versions of one key together."""
    by_key: dict[TeacherLogitsKey, Answers] = {}
    for answers in asked:
        known = by_key.get(answers.key, answers)
        versions = tuple(sorted({*known.versions, *answers.versions}))
        by_key[answers.key] = dataclasses.replace(answers, versions=versions)
    return list(by_key.values())


@dataclass(frozen=True, eq=False)
class AnswerTask(Task):
    """Let the teachers answer for some pieces."""

    answers: Answers
    pieces: tuple[Piece, ...]
    store: Store
    resources: WorkerResources
    epochs: int = 0

    @property
    def name(self) -> str:  # type: ignore[override]
        first, last = self.pieces[0], self.pieces[-1]
        versions = (
            f"version {first[0]}" if first[0] == last[0] else f"versions {first[0]}-{last[0]}"
        )
        return f"teacher logits of {self.answers.name}, {versions}"

    def work(self) -> Work:
        yield from ()  # there are no epochs to tell of
        from distill_ray.execution.train_job import answer_ahead
        from distill_ray.training import LiveTeachers

        begun, before = time.perf_counter(), LiveTeachers.images
        self.resources.prepare()
        limit = self.resources.sharing.limit
        worker = self.resources.worker()
        answer_ahead(self.store, self.answers.key, self.pieces, worker, limit)
        images = float(LiveTeachers.images - before)
        return Finished({"teacher_images": images}, time.perf_counter() - begun)


def answer_tasks(
    asked: Iterable[Answers], store: Store, resources: WorkerResources
) -> list[AnswerTask]:
    """Tasks for all that is missing, each of some shards in a row."""
    missing = [(answers, answers.missing(store)) for answers in asked]
    size = max(1, math.ceil(sum(len(pieces) for _, pieces in missing) / TASKS))
    tasks = []
    for answers, pieces in missing:
        for first in range(0, len(pieces), size):
            some = tuple(pieces[first : first + size])
            tasks.append(AnswerTask(answers, some, store, resources))
    return tasks


def run_answers(
    cluster: Cluster,
    tasks: Sequence[AnswerTask],
    resources: WorkerResources,
    observer: Observer,
    beside: TaskSource | None = None,
) -> None:
    """Run the tasks in parallel, as many as fit, and others `beside` them. Raises as
    `run_in_parallel` does.
    """
    from distill_ray.execution.runner import run_in_parallel  # Ray

    assignments = [_AnswerAssignment(task, observer) for task in tasks]
    run_in_parallel(cluster, assignments, resources, beside=beside)


@dataclass(frozen=True)
class _AnswerAssignment:
    task: AnswerTask
    observer: Observer
    log: str = ""

    def on_start(self) -> None:
        """Observers hear of a task when it is done."""

    def on_epochs(self, records: Sequence[Record]) -> None:
        """It has none."""

    def on_finish(self, result: Finished) -> None:
        images = int(result.metrics["teacher_images"])
        self.observer.answered(Answered(self.task.name, images, result.seconds))

    def on_failure(self, reason: str) -> None:
        """The error of the stage says it."""
