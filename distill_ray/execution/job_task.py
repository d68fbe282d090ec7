"""A job as a task: what trains teachers, trials and confirmations on the cluster."""

from __future__ import annotations

from dataclasses import dataclass, field

from distill_ray.data.foreign import ForeignSet
from distill_ray.execution.messages import Task, Work
from distill_ray.execution.resources import WorkerResources
from distill_ray.job import Job
from distill_ray.store import Store


@dataclass(frozen=True, eq=False)
class JobTask(Task):
    """Run `job` as `run_job` does, stopping to ask after the epochs in `stops`."""

    name: str
    job: Job = field(repr=False)
    store: Store = field(repr=False)
    resources: WorkerResources = field(repr=False)
    read_test: bool = False
    foreign: tuple[ForeignSet, ...] = field(default=(), repr=False)
    stops: frozenset[int] = field(default=frozenset(), repr=False)

    @property
    def epochs(self) -> int:  # type: ignore[override]
        return self.job.recipe.epochs

    def release(self) -> None:
        if self.job.workers > 1:
            from distill_ray.execution.placement_group import release  # Ray

            release(self.job.id)

    def work(self) -> Work:
        # Torch: seconds that the driver need not spend
        from distill_ray.execution.run_job import run_job

        return run_job(
            self.store,
            self.job,
            self.resources,
            read_test=self.read_test,
            foreign=self.foreign,
            stops=self.stops,
        )
