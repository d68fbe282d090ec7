"""Tasks on the cluster, as many at a time as fit, by Ray Tune: each task is a Tune trial, whether
it trains a teacher, measures an augmentation, or is a trial of the search.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable

from ray.tune.schedulers import TrialScheduler

from distill_ray.execution.cluster import ON_THE_HEAD, Cluster
from distill_ray.execution.machines import present_machines, workers_on
from distill_ray.execution.resources import WorkerResources
from distill_ray.execution.task_source import TaskSource
from distill_ray.execution.tune_run import Stage, TuneRun


def run_tasks(
    cluster: Cluster,
    source: TaskSource,
    resources: WorkerResources,
    *,
    workers: int,
    scheduler: TrialScheduler | None = None,
    max_concurrent: float = math.inf,
    deadline: Callable[[], float] = lambda: math.inf,
    beside: TaskSource | None = None,
) -> None:
    """Run the tasks of `source` until there are no more, its `error` ends them, or time is up.

    A process takes one task after another and keeps what it has imported and loaded, for the tasks
    of later calls too. A task whose process dies, or in which the machine is at fault, is started
    again in another process, up to `resources.retries` times. Tasks for which there is no room yet
    are submitted too, so that Ray's autoscaler sees the demand.

    Args:
        cluster: where they run. It has to be connected, and holds the processes that are kept.
        source: hands out the tasks and hears of them.
        resources: what each worker takes.
        workers: how many workers each task takes. A task of several only waits for them; it runs on
            the head, which is no spot machine, and in a process of its own.
        scheduler: decides after epochs which tasks go on; without one all do.
        max_concurrent: how many tasks may run or be submitted at once.
        deadline: tells the end by the monotonic clock, which is nobody's to set, and may change its
            mind. Tasks that are under way then are stopped without a word to the source.
        beside: tasks of one worker that nobody waits for here. They get the places that those of
            `source` leave free, and go on after the call, in later ones; one of these may have
            them as its `source` and wait for them. Not for several `workers`.
    """

    def places() -> float:
        return workers_on(present_machines(), resources)

    stage = Stage(source, scheduler, max_concurrent, deadline, beside, places)
    if workers > 1:
        cluster.end_processes()  # the workers need their place
        with contextlib.closing(TuneRun(ON_THE_HEAD, resources.retries, reuse=False)) as run:
            run.do(stage)
    else:
        _kept_run(cluster, resources).do(stage)


def _kept_run(cluster: Cluster, resources: WorkerResources) -> TuneRun:
    """The Tune run of the cluster, with the processes that it has kept, or a new one where they
    have other resources.
    """
    bundle = {"CPU": resources.cpus, "GPU": resources.gpus}
    run = cluster.tune_run
    if run is None or not run.takes(bundle, resources.retries):
        cluster.end_processes()
        run = cluster.tune_run = TuneRun(bundle, resources.retries)
    return run
