"""Tasks on the cluster, as many at a time as fit, by Ray Tune: each task is a Tune trial, whether
it trains a teacher, measures an augmentation, or is a trial of the search.
"""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import tempfile
import time
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, cast

from ray import tune
from ray.exceptions import RayTaskError
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from distill_ray.errors import Failure
from distill_ray.execution._ray_internals import error_of, forget_ended
from distill_ray.execution.cluster import ON_THE_HEAD
from distill_ray.execution.job_runner import JobRunner, leave_vanished_directory
from distill_ray.execution.messages import Finished, Record, Task
from distill_ray.execution.resources import WorkerResources

logger = logging.getLogger(__name__)


class TaskSearcher(Searcher):
    """What hands Tune its tasks, and hears how they go."""

    error: Exception | None = None
    """What ends the run of all tasks, once it is there."""

    @abstractmethod
    def next_task(self, trial_id: str) -> Task | None:
        """The next task, which Tune calls `trial_id`; None when there are no more."""

    @abstractmethod
    def on_start(self, trial_id: str) -> None:
        """A process begins the task, for the first time or again."""

    @abstractmethod
    def on_epochs(self, trial_id: str, records: Sequence[Record]) -> None:
        """A task has finished some epochs; one that was started again may repeat some."""

    @abstractmethod
    def on_end(self, trial_id: str, end: Finished | Failure | None) -> None:
        """A task has ended: as it says itself, by faults of the machine, or, without an `end`,
        because Tune's scheduler stopped it.
        """

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        task = None if self.error else self.next_task(trial_id)
        return cast("dict[str, Any]", Searcher.FINISHED) if task is None else {"task": task}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self.on_epochs(trial_id, result.get("epochs", ()))

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        if error:
            return  # the listener has the reason, and comes next
        result = result or {}
        self.on_epochs(trial_id, result.get("epochs", ()))
        self.on_end(trial_id, result.get("end"))

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store, or Optuna's storage, has what counts."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing was saved."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its searcher, though nothing reads that


def run_tasks(
    searcher: TaskSearcher,
    resources: WorkerResources,
    *,
    workers: int,
    scheduler: TrialScheduler | None = None,
    max_concurrent: int | None = None,
    deadline: float = float("inf"),
) -> None:
    """Run the searcher's tasks until there are no more, its `error` ends them, or time is up.

    A process takes one task after another and keeps what it has imported and loaded. A task whose
    process dies, or in which the machine is at fault, is started again in another process, up to
    `resources.retries` times. Tasks for which there is no room yet are submitted too, so that Ray's
    autoscaler sees the demand.

    Args:
        searcher: hands out the tasks and hears of them.
        resources: what each worker takes.
        workers: how many workers each task takes. A task of several only waits for them; it runs on
            the head, which is no spot machine, and in a process of its own.
        scheduler: decides after epochs which tasks go on; without one all do.
        max_concurrent: how many tasks may run or be submitted at once, if that has a limit.
        deadline: the end by the monotonic clock, which is nobody's to set. Tasks that are under way
            then are stopped without a word to the searcher.
    """
    leave_vanished_directory()
    here = {"CPU": resources.cpus, "GPU": resources.gpus} if workers == 1 else ON_THE_HEAD
    folder = tempfile.mkdtemp(prefix="distill-ray-tune-")
    tuner = tune.Tuner(
        tune.with_resources(JobRunner, tune.PlacementGroupFactory([here])),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler or InOrder(),  # type: ignore[no-untyped-call]
            num_samples=-1,
            max_concurrent_trials=max_concurrent,
            reuse_actors=workers == 1,
        ),
        run_config=tune.RunConfig(
            storage_path=folder,
            name="tasks",
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=resources.retries),
            checkpoint_config=tune.CheckpointConfig(
                checkpoint_frequency=0, checkpoint_at_end=False
            ),
            callbacks=[_Listener(searcher)],
            stop=_End(searcher, deadline),
        ),
    )
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            tuner.fit()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Forgetting(TrialScheduler):
    """Tune asks its scheduler in every step which trial comes next, and would hand it every trial
    there has ever been.
    """

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        forget_ended(tune_controller)
        return super().choose_trial_to_run(tune_controller)


class InOrder(Forgetting, FIFOScheduler):
    """Stops nothing."""


class _Listener(TrialProgressCallback):
    """Tells the searcher of tasks whose processes died too often, and frees what they held.

    It takes the place of Tune's own reporter, which would print nothing and keep every trial.
    """

    def __init__(self, searcher: TaskSearcher) -> None:
        super().__init__()
        self._searcher = searcher

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._searcher.on_start(trial.trial_id)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        task: Task = trial.config["task"]
        logger.warning("%s is started again: %s", task.name, _reason(trial))
        task.release()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        task: Task = trial.config["task"]
        task.release()
        count = trial.run_metadata.num_failures
        reason = f"{_reason(trial)}; tried {'once' if count == 1 else f'{count} times'}"
        self._searcher.on_end(trial.trial_id, Failure("machine", reason))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        pass

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        pass

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _End(tune.Stopper):
    """Stops all tasks when their searcher has an error, and at the deadline. Ray's own time limit
    follows the clock that people set.
    """

    def __init__(self, searcher: TaskSearcher, deadline: float) -> None:
        self._searcher = searcher
        self._deadline = deadline

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        leave_vanished_directory()  # Tune asks in each of its steps whether to stop
        return self._searcher.error is not None or time.monotonic() > self._deadline


def _reason(trial: Any) -> str:
    """What killed the process of a trial, or kept it from its work, in a line.

    A task says of itself what goes wrong in its job. What Tune reports as an error is therefore the
    machine's: a process or a node that is gone, an environment that does not work.
    """
    error = error_of(trial)
    if isinstance(error, RayTaskError):
        return f"{type(error.cause).__name__}: {error.cause}"
    return "its process died (is there enough memory?)"
