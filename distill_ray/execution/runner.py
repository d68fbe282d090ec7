"""Many things in parallel as Ray tasks: the teachers, the screenings and the confirmations."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray.exceptions import RayError, RayTaskError

from distill_ray.errors import DamagedError, RunError
from distill_ray.events import JobState, Observer, StudyJob
from distill_ray.execution.cluster import ON_THE_HEAD, Cluster, WorkerResources
from distill_ray.execution.placement_group import release
from distill_ray.job import Job
from distill_ray.records import find_job, log_path
from distill_ray.store import Store

Message = dict[str, Any]
"""What a task tells the driver: anything its work understands, or at last `failure`, where it
failed on its own account, or `damaged`, where it found a damaged record.
"""


class Work(Protocol):
    """A piece of work that a Ray task does, for `run_in_parallel`."""

    @property
    def name(self) -> str:
        """Its name in messages."""

    @property
    def workers(self) -> int:
        """How many workers it takes."""

    def start(self, attempt: int) -> Any:
        """Start its task and return the stream of messages; `attempt` counts from 0."""

    def heard(self, message: Message) -> None:
        """Handle a message of its task. Raises `RunError` for a `failure`."""

    def done(self) -> None:
        """Its task has ended."""

    def lost(self) -> None:
        """The process of its task has died or is being killed."""


def run_in_parallel(cluster: Cluster, work: Sequence[Work], resources: WorkerResources) -> None:
    """Do all of `work`, as much at a time as fits the cluster.

    Work whose process dies is started again, up to `resources.retries` times; work that fails on
    its own account would fail again. Raises `RunError` with its reason, after stopping the other
    work, and `DamagedError` for a damaged record.
    """
    waiting, running = deque((each, 0) for each in work), dict[Any, tuple[Work, int]]()
    try:
        while waiting or running:
            # One waits in Ray's queue where there is no room at all, since the last machine is
            # gone.
            while waiting and len(running) < max(
                1, cluster.capacity(waiting[0][0].workers, resources)
            ):
                each, attempt = waiting.popleft()
                running[each.start(attempt)] = (each, attempt)
            ready, _ = ray.wait(list(running), num_returns=1)
            stream: Any = ready[0]
            each, attempt = running[stream]
            try:
                message: Message = ray.get(next(stream))
            except StopIteration:
                del running[stream]
                each.done()
            except RayError as error:
                del running[stream]
                each.lost()
                # Such as a missing package
                if isinstance(error, RayTaskError) and not isinstance(error, ChildProcessError):
                    raise RunError(
                        f"{each.name}: {type(error.cause).__name__}: {error.cause}"
                    ) from None
                if attempt >= resources.retries:
                    raise RunError(
                        f"{each.name}: its process died {attempt + 1} times; is there enough memory?"
                    ) from None
                waiting.append((each, attempt + 1))
            else:
                if "damaged" in message:
                    raise DamagedError(message["damaged"])
                each.heard(message)
    except DamagedError:  # after which this driver lives on
        while running:
            stream, (each, _) = running.popitem()
            ray.cancel(stream, force=True)
            each.lost()
        raise
    finally:
        for stream in running:
            ray.cancel(stream, force=True)


def run_jobs(
    cluster: Cluster,
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
    training = [
        _Training(store, run, resources, observer, run.job.workers, read_test) for run in runs
    ]
    run_in_parallel(cluster, training, resources)
    if read_test:
        together = [run for run in runs if run.job.workers > 1]
        reading = [_Training(store, run, resources, Observer(), 1, True) for run in together]
        run_in_parallel(cluster, reading, resources)


@dataclass(frozen=True)
class _Training:
    store: Store
    run: StudyJob
    resources: WorkerResources
    observer: Observer
    workers: int
    read_test: bool

    @property
    def name(self) -> str:
        return f"{self.run.role} {self.run.number}"

    def start(self, attempt: int) -> Any:
        if attempt == 0:
            self.observer.started(self.run)
        if self.workers == 1:
            task = task_on_worker(_train, self.resources)
        else:
            # it only waits for the workers; a network that several have trained reads the test
            # split later
            task = ray.remote(
                num_returns="streaming", max_retries=0, num_cpus=0, resources=ON_THE_HEAD
            )(_train)
        return task.remote(
            self.store, self.run.job.to_dict(), self.resources, self.read_test and self.workers == 1
        )

    def heard(self, message: Message) -> None:
        if "failure" in message:
            self.observer.ended(self.run, JobState.FAILED, {}, message["failure"])
            raise RunError(
                f"{self.name}: {message['failure']} (log: {self.store.shown}/{log_path(self.run.job.id)})"
            )
        for record in message["epochs"]:
            self.observer.epoch(self.run, record)

    def done(self) -> None:
        found = find_job(self.store, self.run.job.id)
        if found is None:
            raise RunError(
                f"{self.name} ended without a result; see {self.store.shown}/{log_path(self.run.job.id)}"
            )
        self.observer.ended(self.run, JobState.FINISHED, found.metrics, "")

    def lost(self) -> None:
        if self.workers > 1:
            release(self.run.job.id)


def task_on_worker(function: Callable[..., Any], resources: WorkerResources) -> Any:
    """`function`, which yields messages, as a task with what a worker gets.

    A process that had a GPU ends with its task: CUDA would stay on the GPU that it was first used
    on, and keep its memory. Others take the next task, with all that they have imported and loaded.
    """
    task: Any = ray.remote(
        num_returns="streaming",
        max_retries=0,
        num_cpus=resources.cpus,
        num_gpus=resources.gpus,
        max_calls=1 if resources.gpus else 0,
    )
    return task(function)


def _train(
    store: Store, job: Message, resources: WorkerResources, read_test: bool
) -> Generator[Message, None, None]:
    """The records of a job's `epochs`, some at a time."""
    # Torch: seconds that the driver need not spend
    from distill_ray.execution.run_job import run_job

    try:
        for epochs in run_job(store, Job.from_dict(job), resources, read_test=read_test):
            yield {"epochs": epochs}
    except DamagedError as error:
        yield {"damaged": str(error)}
    except ChildProcessError:
        raise  # as if it had been this one: the driver tries again
    except Exception as error:
        yield {"failure": str(error) or type(error).__name__}
