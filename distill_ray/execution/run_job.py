"""Running one job, on one worker or several: its log, its record in the store, its predictions of
the test split.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import time
import traceback
from collections.abc import Collection, Sequence

import numpy as np
import torch

from distill_ray.data.foreign import ForeignSet
from distill_ray.errors import StoreError
from distill_ray.execution.checkpoint_writer import RecordBatches, in_batches
from distill_ray.execution.judging import judge_foreign
from distill_ray.execution.messages import Finished, Record, Work
from distill_ray.execution.resources import WorkerResources
from distill_ray.execution.train_job import cached_dataset, finished_job, train_here
from distill_ray.job import Job
from distill_ray.records import (
    TEACHER_IMAGES,
    Predictions,
    find_job,
    last_epoch,
    last_epoch_path,
    log_path,
    save_test_predictions,
)
from distill_ray.store import Store
from distill_ray.training import LiveTeachers, Worker, load_network, load_split, predict


def run_job(
    store: Store,
    job: Job,
    resources: WorkerResources,
    *,
    read_test: bool = False,
    foreign: Sequence[ForeignSet] = (),
    stops: Collection[int] = (),
) -> Work:
    """Run `job` on as many workers as it has, unless it is finished, and put its result into the
    store.

    The records of its epochs come about once a second, several together where epochs are short, and
    none of them later than an epoch in `stops`, after which it is decided whether the job
    continues. Those of a finished job are yielded at once. With `read_test` the finished network
    also predicts the test split, and judges it and the `foreign` sets. What happens is written to
    the job's log file; an error is written there with its traceback and raised again.
    """
    resources.prepare()
    log = JobLog(store, job)
    try:
        if (record := find_job(store, job.id)) is not None:
            yield from in_batches(record.epochs(), stops)
        elif job.workers == 1:
            alone = functools.partial(
                train_here,
                sharing=resources.sharing,
                share=resources.share,
                compile=resources.compile,
            )
            yield from log.following(alone(store, job, resources.worker(), stops=stops))
        else:
            from distill_ray.execution.data_parallel import train_on_workers

            yield from log.following(train_on_workers(store, job, resources))
        if read_test:
            device = resources.worker().device
            evaluate_on_test(store, job, device)
            judge_foreign(store, finished_job(store, job), foreign, device)
        record = finished_job(store, job)
    except Exception:
        log.write(traceback.format_exc())
        raise
    return Finished(record.metrics, record.seconds)


def evaluate_on_test(store: Store, job: Job, device: torch.device) -> None:
    """Let the finished network of `job` predict the test split on `device`, in float32 as it is
    deployed; nothing happens when it has.
    """
    record = finished_job(store, job)
    if record.has_read_test:
        return
    worker = Worker(device)
    test = load_split(job.data, "test")
    dataset = cached_dataset(job.data)
    network = (
        load_network(job, record.weights(), dataset)
        .to(worker.device)
        .to(memory_format=torch.channels_last)
    )
    rows = np.arange(len(test.images))
    log_probabilities = predict(network, test.images, rows, worker=worker, task=dataset.task)
    save_test_predictions(store, job.id, Predictions(log_probabilities, test.labels))


class JobLog:
    """The log file of a job: what it was, its epochs, and how it failed if it did.

    Beside it lie the metrics of the last epoch as JSON, for `status`, with the number of images
    that teachers have answered for in this job, in however many attempts.
    """

    def __init__(self, store: Store, job: Job) -> None:
        self._store = store
        self.path = log_path(job.id)
        self._last_epoch_path = last_epoch_path(job.id)
        self._answered = last_epoch(store, job.id).get(TEACHER_IMAGES, 0) - LiveTeachers.images
        self._lines = [
            f"job {job.id}",
            *(
                f"  {name}: {value}"
                for name, value in (job.recipe.params() | {"seed": job.seed}).items()
            ),
        ]

    def following(self, epochs: RecordBatches) -> RecordBatches:
        """The same records, each one written down as it passes, and between them whatever the
        package logs.
        """
        handler = _JobLogHandler(self)
        package = logging.getLogger("distill_ray")
        package.addHandler(handler)
        try:
            with contextlib.closing(epochs):
                for records in epochs:
                    self.write(*map(_line, records))
                    answered = {TEACHER_IMAGES: self._answered + LiveTeachers.images}
                    last = json.dumps(records[-1] | answered)
                    self._store.write(self._last_epoch_path, last.encode())
                    yield records
        finally:
            package.removeHandler(handler)

    def write(self, *texts: str) -> None:
        """Add `texts`, a line each, with the time of day."""
        self._lines += [f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}" for text in texts]
        self._store.write(self.path, "\n".join([*self._lines, ""]).encode())


class _JobLogHandler(logging.Handler):
    """Writes warnings of the package into the log of a job."""

    def __init__(self, log: JobLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        # A full store ends the job when its result is written; its log must not end it earlier.
        with contextlib.suppress(StoreError):
            self._log.write(record.getMessage())


def _line(record: Record) -> str:
    values = {
        name: value
        for name, value in record.items()
        if name != "time" and not name.startswith("system/")
    }
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())
