"""Lists of tasks: the jobs of teachers and confirmations, and what a stage hears of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from distill_ray.errors import Failure, RunError
from distill_ray.events import JobState, Observer, StudyJob
from distill_ray.execution.job_task import JobTask
from distill_ray.execution.messages import Finished, Record, Task
from distill_ray.execution.resources import WorkerResources
from distill_ray.execution.tasks import TaskSearcher, run_tasks
from distill_ray.records import log_path
from distill_ray.store import Store


class Assignment(Protocol):
    """A task for `run_in_parallel`, and what the driver does with what it hears of it."""

    @property
    def task(self) -> Task:
        """What its process is to do."""

    @property
    def log(self) -> str:
        """Where its log lies; empty where it keeps none."""

    def on_start(self) -> None:
        """It is started for the first time."""

    def on_epochs(self, records: Sequence[Record]) -> None:
        """It has finished some epochs."""

    def on_finish(self, result: Finished) -> None:
        """It is done."""

    def on_failure(self, reason: str) -> None:
        """It has failed, and is not tried again."""


def run_in_parallel(
    assignments: Sequence[Assignment], resources: WorkerResources, *, workers: int = 1
) -> None:
    """Do all tasks, in order, of `workers` workers each.

    Raises:
        RunError: a task failed, by itself or by faults of the machine once too often. The others
            are stopped.
        StoreError: the store cannot be used, or, as `DamagedError`, a record in it was damaged.
    """
    if not assignments:
        return
    searcher = _InOrderSearcher(assignments)
    run_tasks(searcher, resources, workers=workers)
    if searcher.error is not None:
        raise searcher.error


class _InOrderSearcher(TaskSearcher):
    def __init__(self, assignments: Sequence[Assignment]) -> None:
        super().__init__(metric="epoch", mode="max")
        self._waiting = deque(assignments)
        self._submitted: dict[str, Assignment] = {}
        self._started: set[str] = set()

    def next_task(self, trial_id: str) -> Task | None:
        if not self._waiting:
            return None
        self._submitted[trial_id] = self._waiting.popleft()
        return self._submitted[trial_id].task

    def on_start(self, trial_id: str) -> None:
        if trial_id not in self._started:
            self._started.add(trial_id)
            self._submitted[trial_id].on_start()

    def on_epochs(self, trial_id: str, records: Sequence[Record]) -> None:
        self._submitted[trial_id].on_epochs(records)

    def on_end(self, trial_id: str, end: Finished | Failure | None) -> None:
        assignment = self._submitted.pop(trial_id)
        match end:
            case Finished():
                assignment.on_finish(end)
            case Failure(fault="damaged" | "store"):
                self.error = self.error or end.error()
            case Failure(reason=reason):
                assignment.on_failure(reason)
                log = f" (log: {assignment.log})" if assignment.log else ""
                self.error = self.error or RunError(f"{assignment.task.name}: {reason}{log}")


def run_jobs(
    store: Store,
    runs: Sequence[StudyJob],
    resources: WorkerResources,
    observer: Observer,
    *,
    read_test: bool = False,
) -> None:
    """Run the jobs in parallel until all are in the store; one that is started again resumes from
    its last checkpoint.

    With `read_test` the finished networks also predict the test split, each on one worker. Raises
    as `run_in_parallel` does.
    """
    for workers in sorted({run.job.workers for run in runs}):
        # A network that several workers have trained reads the test split later, on one
        alone = workers == 1
        assignments = [
            _JobAssignment(
                JobTask(run.name, run.job, store, resources, read_test and alone), run, observer
            )
            for run in runs
            if run.job.workers == workers
        ]
        run_in_parallel(assignments, resources, workers=workers)
        if read_test and not alone:
            readings = [
                _JobAssignment(
                    JobTask(each.task.name, each.run.job, store, resources, True),
                    each.run,
                    Observer(),
                )
                for each in assignments
            ]
            run_in_parallel(readings, resources)


@dataclass(frozen=True)
class _JobAssignment:
    task: JobTask
    run: StudyJob
    observer: Observer

    @property
    def log(self) -> str:
        return f"{self.task.store.shown}/{log_path(self.run.job.id)}"

    def on_start(self) -> None:
        self.observer.started(self.run)

    def on_epochs(self, records: Sequence[Record]) -> None:
        for record in records:
            self.observer.epoch(self.run, record)

    def on_finish(self, result: Finished) -> None:
        self.observer.ended(self.run, JobState.FINISHED, result.metrics, "")

    def on_failure(self, reason: str) -> None:
        self.observer.ended(self.run, JobState.FAILED, {}, reason)
