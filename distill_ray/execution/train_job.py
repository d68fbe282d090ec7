"""Training one job in this process: the images and the teachers it needs, its checkpoints, and its
record in the store. Several workers of a job each do the same, with one of them writing.
"""

from __future__ import annotations

import functools
import posixpath
from collections.abc import Collection

from distill_ray.augmentation import Augmentation
from distill_ray.errors import DamagedError, RunError
from distill_ray.execution.checkpoint_writer import MIN_INTERVAL_S, CheckpointWriter, RecordBatches
from distill_ray.execution.sharing import LIVE, Sharing, automatic_top_k
from distill_ray.execution.teacher_cache import CachedTeachers, TeacherCache
from distill_ray.imported_weights import stored_weights
from distill_ray.job import Data, Job
from distill_ray.records import JobRecord, Predictions, find_job, save_job
from distill_ray.store import Store
from distill_ray.training import (
    Dataset,
    EpochTeachers,
    LiveTeachers,
    TeacherLogitsKey,
    Worker,
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
    pace: float = MIN_INTERVAL_S,
    stops: Collection[int] = (),
) -> RecordBatches:
    """Train `job` in this process, alone or as the `worker` that it is, with a checkpoint about
    every `pace` seconds.

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
    dataset = cached_dataset(job.data)
    teachers = teachers_of(store, job, worker, sharing) if job.teachers else None
    usage = Usage(worker, share)
    keeper = CheckpointWriter(functools.partial(store.write, path), job.recipe.epochs, stops, pace)
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
            computation=computation_of(job.recipe, worker),
        )
        store.delete(posixpath.dirname(path))


def teachers_of(
    store: Store,
    job: Job,
    worker: Worker,
    sharing: Sharing,
) -> EpochTeachers:
    """The teachers that `job` learns from: stored teacher logits where `sharing` has them and the
    method can use them, else live.

    Raises `RunError` when a teacher predicts other classes than the job's data has.
    """
    recipe = job.recipe
    _check_classes(store, job)
    live = functools.partial(cached_teachers, store, job.teachers, worker)
    if recipe.method.live_teachers(recipe.augmentation) or not sharing.stores(recipe.augmentation):
        return live()
    dataset = cached_dataset(job.data)
    largest = sharing.largest(recipe, dataset.num_classes)
    key = TeacherLogitsKey.of(job, _precision(store, job.teachers, worker), sharing.exact, largest)
    teacher_logits = TeacherCache(
        store, key, dataset, live, worker=worker, epochs=recipe.epochs, limit=sharing.limit
    )
    return CachedTeachers(teacher_logits, live, worker)


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
) -> EpochTeachers:
    """The teachers for a pass without training: from the teacher logits that trials with that
    augmentation and seed also use.

    What they have stored is read, and what is missing is stored for them; live where `sharing`
    stores nothing, or not every class. `batch_size` is that of the trials; it matters only to
    augmentations that draw once per batch.
    """
    dataset = cached_dataset(data)
    live = functools.partial(cached_teachers, store, teachers, worker)
    if (
        not sharing.stores(augmentation)
        or (sharing.top_k or automatic_top_k(dataset.num_classes)) < dataset.num_classes
    ):
        return live()
    key = TeacherLogitsKey(
        teachers=teachers,
        data=data,
        augmentation=augmentation,
        seed=seed,
        batch_size=batch_size if augmentation.by_batch else None,
        precision=_precision(store, teachers, worker),
        exact=sharing.exact,
    )
    teacher_logits = TeacherCache(
        store, key, dataset, live, worker=worker, epochs=epochs, limit=sharing.limit
    )
    return CachedTeachers(teacher_logits, live, worker)


@functools.lru_cache(maxsize=2)
def cached_dataset(data: Data) -> Dataset:
    """The images of `data`, kept in this process for the next job."""
    return load_dataset(data)


@functools.lru_cache(maxsize=2)
def cached_teachers(store: Store, job_ids: tuple[str, ...], worker: Worker) -> LiveTeachers:
    """Finished teachers from the store, kept in this process for the next job. Raises
    `DamagedError` when one is gone.
    """
    networks = []
    for job_id in job_ids:
        found = _teacher(store, job_id)
        networks.append(load_network(found.job, found.weights(), cached_dataset(found.job.data)))
    return LiveTeachers(networks, worker.device, _precision(store, job_ids, worker))


def _precision(store: Store, teachers: tuple[str, ...], worker: Worker) -> str:
    return precision_of_teachers(
        (_teacher(store, job_id).job.recipe for job_id in teachers), worker.device
    )


def _teacher(store: Store, job_id: str) -> JobRecord:
    found = find_job(store, job_id)
    if found is None:
        raise DamagedError(
            f"store {store.shown}: teacher {job_id} is gone; running the study makes it anew"
        )
    return found
