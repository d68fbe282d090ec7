"""Lists of tasks: the jobs of teachers and confirmations, and what a stage hears of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from distill_ray.data.foreign import ForeignSet
from distill_ray.errors import Failure, RunError
from distill_ray.events import JobState, Observer, StudyJob
from distill_ray.execution.cluster import Cluster
from distill_ray.execution.job_task import JobTask
from distill_ray.execution.messages import Finished, Record, Task
from distill_ray.execution.resources import WorkerResources
from distill_ray.execution.task_source import TaskSource
from distill_ray.execution.tasks import run_tasks
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
    cluster: Cluster,
    assignments: Sequence[Assignment],
    resources: WorkerResources,
    *,
    workers: int = 1,
    beside: TaskSource | None = None,
) -> None:
    """Do all tasks, in order, of `workers` workers each; those `beside` them as `run_tasks` does.

    Raises:
        RunError: a task failed, by itself or by faults of the machine once too often. The others
            are stopped.
        StoreError: the store cannot be used, or, as `DamagedError`, a record in it was damaged.
    """
    if assignments:
        run_list(cluster, TaskList(assignments), resources, workers=workers, beside=beside)


def run_list(
    cluster: Cluster,
    tasks: TaskList,
    resources: WorkerResources,
    *,
    workers: int = 1,
    beside: TaskSource | None = None,
) -> None:
    """Do all tasks of a list, some of which may run already. Raises as `run_in_parallel` does."""
    run_tasks(cluster, tasks, resources, workers=workers, beside=beside)
    if tasks.error is not None:
        raise tasks.error


class TaskList(TaskSource):
    """Tasks in order. They may be done beside a stage first, and later as a stage of their own."""

    def __init__(self, assignments: Iterable[Assignment]) -> None:
        self._waiting = deque(assignments)
        self._submitted: dict[str, Assignment] = {}
        self._started: set[Task] = set()

    def next_task(self, trial_id: str) -> Task | None:
        if not self._waiting or self.error is not None:
            return None
        self._submitted[trial_id] = self._waiting.popleft()
        return self._submitted[trial_id].task

    def on_start(self, trial_id: str) -> None:
        assignment = self._submitted[trial_id]
        if assignment.task not in self._started:
            self._started.add(assignment.task)
            assignment.on_start()

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
            case None:
                self._waiting.appendleft(assignment)


class JobsBeside(TaskList):
    """Jobs of one worker each that are trained beside other stages, in places that these leave
    free, until `run_jobs` takes them over. After one that fails no other is begun.
    """

    def __init__(
        self,
        store: Store,
        runs: Sequence[StudyJob],
        resources: WorkerResources,
        observer: Observer,
    ) -> None:
        super().__init__(_assignments(store, runs, resources, observer))

    @property
    def running(self) -> set[str]:
        """The ids of the jobs that have been handed out and have not ended."""
        tasks = (assignment.task for assignment in self._submitted.values())
        return {task.job.id for task in tasks if isinstance(task, JobTask)}

    def go_on_with(self, assignments: Iterable[Assignment]) -> None:
        """Do these after those that run, and none of those that wait."""
        self._waiting = deque(assignments)


def _assignments(
    store: Store,
    runs: Sequence[StudyJob],
    resources: WorkerResources,
    observer: Observer,
    read_test: bool = False,
    foreign: tuple[ForeignSet, ...] = (),
) -> list[Assignment]:
    return [
        _JobAssignment(
            JobTask(run.name, run.job, store, resources, read_test, foreign), run, observer
        )
        for run in runs
    ]


def run_jobs(
    cluster: Cluster,
    store: Store,
    runs: Sequence[StudyJob],
    resources: WorkerResources,
    observer: Observer,
    *,
    unheard: Sequence[StudyJob] = (),
    read_test: bool = False,
    foreign: tuple[ForeignSet, ...] = (),
    begun: JobsBeside | None = None,
) -> None:
    """Run the jobs in parallel until all are in the store; one that is started again resumes from
    its last checkpoint.

    With `read_test` the finished networks also predict the test split, each on one worker, and
    judge it and the `foreign` sets. Those `unheard` come last, and the observer does not hear of
    them. Jobs that have `begun` beside earlier stages and still run are waited for. Raises as
    `run_in_parallel` does.
    """
    for workers in sorted({run.job.workers for run in (*runs, *unheard)}):
        heard = [run for run in runs if run.job.workers == workers]
        others = [run for run in unheard if run.job.workers == workers]
        alone = workers == 1
        under_way = begun.running if begun is not None and alone else set()
        waiting = [run for run in heard if run.job.id not in under_way]
        reads = read_test and alone
        assignments = [
            *_assignments(store, waiting, resources, observer, reads, foreign),
            *_assignments(store, others, resources, Observer(), reads, foreign),
        ]
        if begun is not None and under_way:
            begun.go_on_with(assignments)
            run_list(cluster, begun, resources)
        else:
            run_in_parallel(cluster, assignments, resources, workers=workers)
        if read_test:
            # Networks of several workers, and those that nothing was to be chosen by, do so later
            unread = [run for run in (*heard, *others) if not alone or run.job.id in under_way]
            readings = _assignments(store, unread, resources, Observer(), True, foreign)
            run_in_parallel(cluster, readings, resources)


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
