"""Running one job in this process: the data and the teachers it needs, checkpoints on the way, its result into the store."""

from __future__ import annotations

import functools
import posixpath
import time
import traceback
from collections.abc import Generator

import numpy as np
import torch

from distill_ray.errors import RunError
from distill_ray.job import Data, Job
from distill_ray.records import Predictions, find_job, save_job, save_test_predictions
from distill_ray.stages.cluster import WorkerResources
from distill_ray.store import Store
from distill_ray.training import (
    Dataset,
    LiveTeachers,
    Worker,
    load_dataset,
    load_network,
    load_test_split,
    precision_of,
    predict,
    train,
)
from distill_ray.training.checkpoint import is_intact

Epochs = Generator[dict[str, float], None, None]
"""The records of a job's epochs, as they come; when they end, the job is in the store."""


def run_job(store: Store, job: Job, resources: WorkerResources, *, read_test: bool = False) -> Epochs:
    """Run `job` on as many workers as it has, unless it is finished, and put its result into the store.

    The records of a finished job are yielded at once. With `read_test` the finished network also predicts the test split.
    What happens is written to the job's log file; an error is written there with its traceback and raised again.
    """
    torch.set_num_threads(max(1, int(resources.cpus)))
    log = JobLog(store, job)
    try:
        if (found := find_job(store, job.id)) is not None:
            yield from found.epochs()
        elif job.workers == 1:
            yield from log.following(train_here(store, job))
        else:
            from distill_ray.stages.data_parallel import train_on_workers

            yield from log.following(train_on_workers(store, job, resources))
        if read_test:
            evaluate_on_test(store, job)
    except Exception:
        log.write(traceback.format_exc())
        raise


def train_here(store: Store, job: Job, worker: Worker | None = None) -> Epochs:
    """Train `job` in this process, alone or as the `worker` that it is, with a checkpoint in the store after every epoch."""
    worker = worker or Worker.here()
    path = posixpath.join("work", job.id, "checkpoint.safetensors")
    saved = store.read(path)
    if saved is not None and not is_intact(saved, job.id):
        store.set_aside(path)
        saved = None
    first = worker.rank == 0
    dataset = _dataset(job.data)
    teachers = _teachers(store, job.teachers, worker) if job.teachers else None
    save = functools.partial(store.write, path) if first else None
    outcome = yield from train(job, dataset, teachers, worker=worker, saved=saved, save=save)
    if first:
        save_job(
            store,
            job,
            weights=outcome.weights,
            epochs=outcome.epochs,
            kept_epoch=outcome.kept_epoch,
            predictions=Predictions(outcome.log_probabilities, outcome.labels),
            parameters=outcome.parameters,
        )
        store.delete(posixpath.dirname(path))


def evaluate_on_test(store: Store, job: Job) -> None:
    """Let the finished network of `job` predict the test split; nothing happens when it has."""
    found = find_job(store, job.id)
    if found is None:
        raise RunError(f"store {store.uri}: job {job.id} is gone; run the same command again")
    if found.has_read_test:
        return
    worker = Worker(Worker.here().device)
    images, labels = load_test_split(job.data)
    network = load_network(job, found.weights(), _dataset(job.data)).to(worker.device).to(memory_format=torch.channels_last)
    precision = precision_of(job.recipe, worker.device)
    log_probabilities = predict(network, images, np.arange(len(images)), worker=worker, precision=precision)
    save_test_predictions(store, job.id, Predictions(log_probabilities, labels))


class JobLog:
    """The log file of a job: what it was, its epochs, and how it failed if it did."""

    def __init__(self, store: Store, job: Job) -> None:
        self._store = store
        self.path = log_path(job)
        self._lines = [
            f"job {job.id}",
            *(f"  {name}: {value}" for name, value in (job.recipe.params() | {"seed": job.seed}).items()),
        ]

    def following(self, epochs: Epochs) -> Epochs:
        """The same records, each one written down as it passes."""
        for record in epochs:
            self.write("  ".join(f"{name} {value:.6g}" for name, value in record.items() if name != "time"))
            yield record

    def write(self, text: str) -> None:
        """Add `text` with the time of day."""
        self._lines.append(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}")
        self._store.write(self.path, "\n".join([*self._lines, ""]).encode())


def log_path(job: Job) -> str:
    """Where the log file of a job lies in the store."""
    return posixpath.join("logs", f"{job.id}.log")


@functools.lru_cache(maxsize=2)
def _dataset(data: Data) -> Dataset:
    return load_dataset(data)


@functools.lru_cache(maxsize=2)
def _teachers(store: Store, job_ids: tuple[str, ...], worker: Worker) -> LiveTeachers:
    networks = []
    precision = "fp32"
    for job_id in job_ids:
        found = find_job(store, job_id)
        if found is None:
            raise RunError(f"store {store.uri}: teacher {job_id} is gone; run the same command again")
        job = found.job
        precision = precision_of(job.recipe, worker.device)
        networks.append(load_network(job, found.weights(), _dataset(job.data)))
    return LiveTeachers(networks, worker.device, precision)
