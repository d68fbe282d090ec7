"""The log of a job holds what happened to it, and nothing of other jobs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from distill_ray.execution.run_job import JobLog
from distill_ray.job import Data, Job, Recipe
from distill_ray.records import log_path
from distill_ray.store import Store


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
