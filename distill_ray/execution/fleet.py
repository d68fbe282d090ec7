"""Many jobs at once as Ray tasks: the teachers, and the confirmations."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from typing import Any

import ray
from ray.exceptions import RayError

from distill_ray.errors import DamagedError, RunError
from distill_ray.events import Observer, Run
from distill_ray.execution.cluster import ON_THE_HEAD, Cluster, WorkerResources
from distill_ray.execution.worker_group import give_back
from distill_ray.job import Job
from distill_ray.records import find_job, log_path
from distill_ray.store import Store


def run_jobs(
    cluster: Cluster,
    store: Store,
    runs: Sequence[Run],
    resources: WorkerResources,
    observer: Observer,
    *,
    read_test: bool = False,
    retries: int = 2,
) -> None:
    """Run the jobs side by side, as many as fit, until all are in the store.

    A job whose process dies is started again, up to `retries` times, and goes on from its last checkpoint. A job that fails on
    its own account would fail again: raises `RunError` with its message and its log file, after the jobs beside it were stopped.
    Raises `DamagedError` when one found a damaged record.
    """
    waiting, running = deque((run, 0) for run in runs), dict[Any, tuple[Run, int]]()
    try:
        while waiting or running:
            while waiting and len(running) < cluster.capacity(waiting[0][0].job.workers, resources):
                run, attempt = waiting.popleft()
                running[_start(store, run, resources, read_test)] = (run, attempt)
                if attempt == 0:
                    observer.started(run)
            ready, _ = ray.wait(list(running), num_returns=1)
            stream: Any = ready[0]
            run, attempt = running[stream]
            try:
                told: dict[str, Any] = ray.get(next(stream))
            except StopIteration:
                del running[stream]
                found = find_job(store, run.job.id)
                if found is None:
                    raise RunError(
                        f"{run.role} {run.job.id} ended without a result; see {store.shown}/{log_path(run.job.id)}"
                    ) from None
                observer.ended(run, "finished", found.metrics, "")
            except RayError:
                del running[stream]
                if run.job.workers > 1:
                    give_back(run.job.id)
                if attempt >= retries:
                    raise RunError(
                        f"{run.role} {run.job.id}: its process died {attempt + 1} times; is there enough memory?"
                    ) from None
                waiting.append((run, attempt + 1))
            else:
                if "damaged" in told:
                    raise DamagedError(told["damaged"])
                if "failure" in told:
                    observer.ended(run, "failed", {}, told["failure"])
                    raise RunError(f"{run.role} {run.number}: {told['failure']} (log: {store.shown}/{log_path(run.job.id)})")
                for record in told["epochs"]:
                    observer.epoch(run, record)
    finally:
        for stream in running:
            ray.cancel(stream, force=True)


def _start(store: Store, run: Run, resources: WorkerResources, read_test: bool) -> Any:
    single = run.job.workers == 1
    if single:
        task = _job.options(num_cpus=resources.cpus, num_gpus=resources.gpus)
    else:
        task = _job.options(num_cpus=0, resources=ON_THE_HEAD)
    return task.remote(store, run.job.to_dict(), resources, read_test)


@ray.remote(num_returns="streaming", max_retries=0)
def _job(store: Store, job: dict[str, Any], resources: WorkerResources, read_test: bool) -> Generator[dict[str, Any], None, None]:
    """The records of a job's `epochs`, some at a time; last `failure`, where it failed on its own account, or `damaged`."""
    from distill_ray.execution.run_job import run_job  # torch: seconds that the driver need not spend

    try:
        for epochs in run_job(store, Job.from_dict(job), resources, read_test=read_test):
            yield {"epochs": epochs}
    except DamagedError as error:
        yield {"damaged": str(error)}
    except ChildProcessError:
        raise  # as if it had been this one: the driver tries again
    except Exception as error:
        yield {"failure": str(error) or type(error).__name__}
