"""A job's log, and what an attempt does that comes too late."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from distill_ray.execution.run_job import JobLog
from distill_ray.execution.train_job import train_here
from distill_ray.job import Data, Job, Recipe
from distill_ray.records import find_job, log_path
from distill_ray.resolve import data_of
from distill_ray.store import Store
from distill_ray.study import StudyDefinition
from distill_ray.training import Worker


def test_what_the_package_logs_during_a_job_is_in_its_log(small_data: Data, tmp_path: Path) -> None:
    """Warnings, while the job runs; not what is logged before and after."""
    store = Store.open(str(tmp_path / "store"))
    job = Job(recipe=Recipe(model="mlp-4"), data=small_data, seed=0)
    logger = logging.getLogger("distill_ray.training.compiling")

    def epochs() -> Iterator[list[dict[str, float]]]:
        yield [{"epoch": 1, "train/loss": 0.5}]
        logger.warning("training is not compiled: %s", "no compiler")
        yield [{"epoch": 2, "train/loss": 0.25}]

    logger.warning("before")
    records = []
    for batch in JobLog(store, job).following(epochs()):  # type: ignore[arg-type]
        records += [record["epoch"] for record in batch]
    logger.warning("after")
    assert records == [1, 2]
    lines = (store.read(log_path(job.id)) or b"").decode().splitlines()
    assert [line.split(" ", 2)[2] for line in lines[-3:]] == [
        "epoch 1  train/loss 0.5",
        "training is not compiled: no compiler",
        "epoch 2  train/loss 0.25",
    ]
    assert not any("before" in line or "after" in line for line in lines)


def test_what_another_attempt_has_finished_is_not_trained_again(
    tiny_study: Callable[..., StudyDefinition], tmp_path: Path
) -> None:
    """Workers whose leader was killed may come to the end while the next attempt begins, and take
    the checkpoint away that it would go on from.
    """
    store = Store.open(str(tmp_path / "store"))
    job = Job(recipe=Recipe(model="mlp-4", epochs=3), data=data_of(tiny_study()), seed=0)
    trained = [record for records in train_here(store, job, Worker.here()) for record in records]
    record = find_job(store, job.id)
    assert record is not None and record.epochs() == trained
    batches = list(train_here(store, job, Worker.here(), stops={1}))
    assert batches == [trained[:1], trained[1:]]
    late = find_job(store, job.id)
    assert late is not None and late.epochs() == trained
