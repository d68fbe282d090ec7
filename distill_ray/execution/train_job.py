"""Training one job in this process: the images and the teachers it needs, its checkpoints, and its
record in the store. Several workers of a job each do the same, with one of them writing.
"""

from __future__ import annotations

import functools
import math
import posixpath
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from distill_ray.augmentation import Augmentation
from distill_ray.augmentation.versions import Versions
from distill_ray.errors import DamagedError, RunError, StoreError
from distill_ray.execution.checkpoint_writer import (
    MIN_INTERVAL_S,
    CheckpointWriter,
    RecordBatches,
    in_batches,
)
from distill_ray.execution.sharing import LIVE, Sharing, automatic_top_k
from distill_ray.execution.teacher_cache import CachedTeachers, TeacherCache
from distill_ray.imported_weights import stored_weights
from distill_ray.job import Data, Job
from distill_ray.records import JobRecord, Predictions, find_job, save_job
from distill_ray.store import Store
from distill_ray.training import (
    CalibratedTeachers,
    Dataset,
    EpochTeachers,
    LiveTeachers,
    TeacherLogits,
    TeacherLogitsKey,
    Worker,
    given_teacher_logits,
    load_dataset,
    load_network,
    precision_of_teachers,
    train,
)
from distill_ray.training.checkpoint import is_intact
from distill_ray.training.compiling import Compile
from distill_ray.training.device import computation_of
from distill_ray.training.resource_usage import Usage


def train_here(
    store: Store,
    job: Job,
    worker: Worker,
    *,
    sharing: Sharing = LIVE,
    compile: Compile = "never",
    share: float = 1.0,
    stops: Collection[int] = (),
) -> RecordBatches:
    """Train `job` in this process, alone or as the `worker` that it is, with a checkpoint about
    once a second and after each of the epochs `stops`.

    What is yielded is in a checkpoint or in the finished record, so that an interrupted run never
    repeats an epoch that has been reported. `sharing` decides whether the teachers answer live;
    `share` is the part of the device that this process has.
    """
    path = posixpath.join("work", job.id, "checkpoint.safetensors")
    first = worker.rank == 0
    saved = store.read(path) if first else None
    if saved is not None and not is_intact(saved, job.id):
        store.set_aside(path)
        saved = None
    saved = worker.agreed(saved)  # another driver may write a later one while these workers begin
    if saved is None:
        # Workers whose leader was killed live on for a moment, and may have come to the end
        finished = first and find_job(store, job.id) is not None
        if worker.agreed(b"finished" if finished else None) is not None:
            yield from in_batches(finished_job(store, job).epochs(), stops)
            return
    dataset = cached_dataset(job.data)
    teachers = teachers_of(store, job, worker, sharing) if job.teachers else None
    if teachers is not None and job.calibrated:
        temperatures = [
            _temperature(store, job_id) if job_id in job.calibrated else 1.0
            for job_id in job.teachers
        ]
        teachers = CalibratedTeachers(teachers, temperatures, worker.device)
    usage = Usage(worker, share)
    write = functools.partial(store.write, path)
    keeper = CheckpointWriter(write, job.recipe.epochs, stops, MIN_INTERVAL_S)
    save = keeper.offer if first else None
    training = train(
        job,
        dataset,
        teachers,
        worker=worker,
        usage=usage,
        saved=saved,
        save=save,
        initial=None if job.recipe.weights is None else stored_weights(store, job.recipe.weights),
        compile=compile,
    )
    outcome = yield from keeper.following(training)
    if first:
        save_job(
            store,
            job,
            weights=outcome.weights,
            epochs=outcome.epochs,
            kept_epoch=outcome.kept_epoch,
            predictions=Predictions(outcome.log_probabilities, outcome.labels),
            parameters=outcome.parameters,
            computation=computation_of(job.recipe, dataset.image_shape, worker),
        )
        store.delete(posixpath.dirname(path))


def finished_job(store: Store, job: Job) -> JobRecord:
    """The record of a job that has been finished. Raises `DamagedError` when it is gone."""
    record = find_job(store, job.id)
    if record is None:
        raise DamagedError(
            f"store {store.shown}: job {job.id} is gone; running the study makes it anew"
        )
    return record


def teachers_of(
    store: Store,
    job: Job,
    worker: Worker,
    sharing: Sharing,
) -> EpochTeachers:
    """The teachers that `job` learns from, not calibrated yet: stored teacher logits where
    `sharing` has them and the method can use them, else live.

    Raises `RunError` when a teacher predicts other classes than the job's data has.
    """
    recipe = job.recipe
    _check_classes(store, job)
    dataset = cached_dataset(job.data)
    shape = dataset.image_shape
    live = functools.partial(cached_teachers, store, job.teachers, shape, worker)
    if not sharing.stores_for(recipe):
        return live()
    largest = sharing.largest(recipe, dataset.num_classes)
    precision = _precision(store, job.teachers, shape, worker)
    key = TeacherLogitsKey.of(job, precision, sharing.exact, largest)
    versions = recipe.image_versions
    count = recipe.epochs if versions is None else versions.count
    teacher_logits = TeacherCache(
        store, key, dataset, live, worker=worker, epochs=count, limit=sharing.limit
    )
    if versions is None:
        return CachedTeachers(teacher_logits, live, worker)
    shown_in = functools.partial(versions.shown_in, seed=job.seed)
    return CachedTeachers(teacher_logits, live, worker, shown_in)


def _check_classes(store: Store, job: Job) -> None:
    """Raise `RunError` when a teacher of `job` learned another number of classes."""
    classes = cached_dataset(job.data).num_classes
    for job_id in job.teachers:
        data = _teacher(store, job_id).job.data
        if data.identity == job.data.identity:
            continue
        learned = cached_dataset(data).num_classes
        if learned != classes:
            raise RunError(
                f"teacher {job_id} predicts the {learned} classes of {data.name}, and "
                f"{job.data.name} has {classes}; teachers must have learned the classes of the data"
            )


def teachers_of_augmentation(
    store: Store,
    teachers: tuple[str, ...],
    data: Data,
    augmentation: Augmentation,
    worker: Worker,
    *,
    seed: int,
    batch_size: int,
    epochs: int,
    sharing: Sharing,
    versions: Versions | None = None,
) -> EpochTeachers:
    """The teachers for a pass without training: from the teacher logits that trials with that
    augmentation and seed also use.

    What they have stored is read, and what is missing is stored for them; live where `sharing`
    stores nothing, or not every class. `batch_size` is that of the trials; it matters only to
    augmentations that draw once per batch.
    """
    dataset = cached_dataset(data)
    live = functools.partial(cached_teachers, store, teachers, dataset.image_shape, worker)
    returning = versions is not None and sharing.mode != "live"
    if (
        not (returning or sharing.stores(augmentation))
        or (sharing.top_k or automatic_top_k(dataset.num_classes)) < dataset.num_classes
    ):
        return live()
    key = TeacherLogitsKey(
        teachers=teachers,
        data=data,
        augmentation=augmentation,
        seed=seed if versions is None else versions.seed,
        versioned=versions is not None,
        batch_size=batch_size if augmentation.by_batch else None,
        precision=_precision(store, teachers, dataset.image_shape, worker),
        exact=sharing.exact,
    )
    count = epochs if versions is None else versions.count
    teacher_logits = TeacherCache(
        store, key, dataset, live, worker=worker, epochs=count, limit=sharing.limit
    )
    if versions is None:
        return CachedTeachers(teacher_logits, live, worker)
    shown_in = functools.partial(versions.shown_in, seed=seed)
    return CachedTeachers(teacher_logits, live, worker, shown_in)


def answer_ahead(
    store: Store,
    key: TeacherLogitsKey,
    pieces: Sequence[tuple[int, int]],
    worker: Worker,
    limit: float,
) -> None:
    """Let the teachers answer for versions and shards that are not stored yet, in this process, in
    the precision that its device has. Ends early where there is no room for more.
    """
    dataset = cached_dataset(key.data)
    shape = dataset.image_shape
    live = functools.partial(cached_teachers, store, key.teachers, shape, worker)
    key = replace(key, precision=_precision(store, key.teachers, shape, worker))
    count = max(version for version, _ in pieces)
    cache = TeacherCache(store, key, dataset, live, worker=worker, epochs=count, limit=limit)
    for version, shard in pieces:
        if not cache.is_full:
            cache.of_epoch(version, shard)


def stored_answers(
    store: Store, key: TeacherLogitsKey, version: int, worker: Worker
) -> list[TeacherLogits]:
    """The shards of a version that is stored, in whatever precision. Raises `RunError` where one
    was damaged.
    """
    shape = cached_dataset(key.data).image_shape
    for precision in (_precision(store, key.teachers, shape, worker), "fp32", "bf16"):
        cache = _answers_cache(store, replace(key, precision=precision), worker)
        shards = cache.opened_shards_of(version)
        if shards is not None:
            return shards
    raise RunError(f"teacher logits of version {version} are damaged; run the study again")


def keep_answers(
    store: Store,
    key: TeacherLogitsKey,
    version: int,
    parts: Sequence[np.ndarray],
    worker: Worker,
) -> None:
    """Put answers that were computed elsewhere, by part (images, copies, N, K), in the place of
    those of this machine's teachers. Raises `StoreError` where there is no room for them.
    """
    dataset = cached_dataset(key.data)
    precision = _precision(store, key.teachers, dataset.image_shape, worker)
    key = replace(key, precision=precision)
    cache = _answers_cache(store, key, worker)
    for shard, (first, last) in enumerate(key.shards(len(dataset.train))):
        some = [part[first:last] for part in parts]
        answers = given_teacher_logits(key, version, shard, some, dataset)
        if lacking := cache.put(version, shard, answers, 0.0):
            raise StoreError(
                f"store {store.shown}: answers of teachers for version {version} are not kept, "
                f"since {lacking}; the store needs more space than that to spare"
            )


def set_damaged_aside(
    store: Store, key: TeacherLogitsKey, pieces: Sequence[tuple[int, int]], worker: Worker
) -> None:
    """Set those versions and shards aside that are stored and damaged, so that they are missing."""
    precision = _precision(store, key.teachers, cached_dataset(key.data).image_shape, worker)
    cache = _answers_cache(store, replace(key, precision=precision), worker)
    for version, shard in pieces:
        cache.opened(version, shard)


def _answers_cache(store: Store, key: TeacherLogitsKey, worker: Worker) -> TeacherCache:
    dataset = cached_dataset(key.data)
    live = functools.partial(cached_teachers, store, key.teachers, dataset.image_shape, worker)
    return TeacherCache(store, key, dataset, live, worker=worker, epochs=1, limit=math.inf)


@functools.lru_cache(maxsize=2)
def cached_dataset(data: Data) -> Dataset:
    """The images of `data`, kept in this process for the next job."""
    return load_dataset(data)


@functools.lru_cache(maxsize=2)
def cached_teachers(
    store: Store, job_ids: tuple[str, ...], image_shape: tuple[int, int, int], worker: Worker
) -> LiveTeachers:
    """Finished teachers from the store, to answer for images (C, H, W), kept in this process for
    the next job. Raises `DamagedError` when one is gone, and where they have no networks: the study
    then takes what is missing from the folder of their answers.
    """
    networks = []
    for job_id in job_ids:
        teacher = _teacher(store, job_id)
        if teacher.job.recipe.answers_alone:
            raise DamagedError(
                f"store {store.shown}: answers of {teacher.job.recipe.weights} are gone; running "
                "the study takes them from their folder again"
            )
        dataset = cached_dataset(teacher.job.data)
        networks.append(load_network(teacher.job, teacher.weights(), dataset))
    return LiveTeachers(networks, worker.device, _precision(store, job_ids, image_shape, worker))


def _precision(
    store: Store,
    teachers: tuple[str, ...],
    image_shape: tuple[int, int, int],
    worker: Worker,
) -> str:
    recipes = [_teacher(store, job_id).job.recipe for job_id in teachers]
    return precision_of_teachers(recipes, image_shape, worker.device)


@functools.lru_cache(maxsize=64)
def _temperature(store: Store, job_id: str) -> float:
    """The temperature that calibrates a teacher's predictions for its validation split."""
    return _teacher(store, job_id).temperature


def _teacher(store: Store, job_id: str) -> JobRecord:
    teacher = find_job(store, job_id)
    if teacher is None:
        raise DamagedError(
            f"store {store.shown}: teacher {job_id} is gone; running the study makes it anew"
        )
    return teacher
