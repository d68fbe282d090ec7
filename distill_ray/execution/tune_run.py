"""One run of Ray Tune for a whole study, which keeps processes from stage to stage."""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from ray import tune
from ray.exceptions import ActorDiedError, RayActorError, RayTaskError
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from distill_ray.errors import Failure, first_line
from distill_ray.execution import _ray_internals as ray_internals
from distill_ray.execution.job_runner import JobRunner, PackedTask, leave_vanished_directory
from distill_ray.execution.messages import Finished, Task
from distill_ray.execution.task_source import TaskSource

logger = logging.getLogger(__name__)

IDLE_S = 60.0
"""Seconds for which processes that have nothing to do are kept while the last tasks of their stage
run. Their machines may then be needed elsewhere.
"""

END_TIMEOUT_S = 30.0
"""Seconds that a run is given to end."""

LONGEST_PAUSE_S = 16.0
"""The longest pause, in seconds, before a task whose process could not begin is tried again."""


@dataclass(frozen=True)
class RunningTask:
    """A task that has been handed out and has not ended, and where it came from."""

    task: Task
    source: TaskSource


@dataclass(eq=False)
class Stage:
    """Tasks that the study waits for: where they come from, and which of them go on how long.

    Those `beside` them get places that are left over, of as many as `places` says there are. The
    stage ends without them; they go on in the next one.
    """

    source: TaskSource
    scheduler: TrialScheduler | None
    max_concurrent: float
    deadline: Callable[[], float]
    beside: TaskSource | None
    places: Callable[[], float]
    drained: set[TaskSource] = field(default_factory=set)
    """The sources that have no more tasks."""
    drained_at: float = math.inf
    """When the last of them had none, by the monotonic clock."""

    @property
    def is_cut_short(self) -> bool:
        """Whether tasks that still run are to be stopped."""
        return self.source.error is not None or time.monotonic() > self.deadline()

    @property
    def has_idle_processes(self) -> bool:
        """Whether the last tasks have left processes without work for long."""
        sources = {self.source} if self.beside is None else {self.source, self.beside}
        return sources <= self.drained and time.monotonic() > self.drained_at + IDLE_S

    def next_task(self, trial_id: str, running: Collection[RunningTask]) -> RunningTask | None:
        """The next task, if there is one now beside those that run."""
        own = sum(other.source is self.source for other in running)
        if own < self.max_concurrent and (task := self._next_of(self.source, trial_id)) is not None:
            return RunningTask(task, self.source)
        # When its own have ended, so has the stage
        if own and self.beside is not None and self.beside not in self.drained:
            is_room = len(running) < self.places()
            if is_room and (task := self._next_of(self.beside, trial_id)) is not None:
                return RunningTask(task, self.beside)
        return None

    def _next_of(self, source: TaskSource, trial_id: str) -> Task | None:
        if source in self.drained:
            return None
        task = source.next_task(trial_id)
        if task is None:
            self.drained.add(source)
            self.drained_at = time.monotonic()
        return task


class TuneRun:
    """A run of Ray Tune, in a thread, which does the tasks of one stage after another in the same
    processes.

    To Tune it is one long search: its searcher hands out the tasks of the current stage, and waits
    between two stages. A stage that is cut short ends the run; what went on beside it is then told
    so, and may be handed out again.

    Args:
        bundle: the resources that each task takes.
        retries: how often a task is started again after a fault of the machine.
        reuse: whether a process does more than one task.
    """

    def __init__(self, bundle: Mapping[str, float], retries: int, *, reuse: bool = True) -> None:
        self._needs = dict(bundle), retries
        self._reuse = reuse
        self._changed = threading.Condition()
        self._stage: Stage | None = None
        self._running: dict[str, RunningTask] = {}
        self._closing = False
        self._has_ended = False
        self._failure: BaseException | None = None
        self._controller: Any = None
        self._thread = threading.Thread(target=self._fit, name="ray-tune", daemon=True)
        self._thread.start()

    def takes(self, bundle: Mapping[str, float], retries: int) -> bool:
        """Whether it can do another stage, of tasks that need these resources."""
        return self._needs == (bundle, retries) and not self._has_ended

    def do(self, stage: Stage) -> None:
        """Do the tasks of a stage; returns when all have ended, or have been stopped."""
        with self._changed:
            self._stage = stage
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._stage is not stage)
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """End the run and its processes, whatever they are doing."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(END_TIMEOUT_S)

    # What follows runs in the thread

    def _fit(self) -> None:
        folder = tempfile.mkdtemp(prefix="distill-ray-tune-")
        try:
            leave_vanished_directory()
            with ray_internals.tune_takes_any_process():
                self._tuner(folder).fit()
        except BaseException as error:
            self._failure = error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            self._has_ended = True
            self._let_go_of_others()
            self._end_stage()

    def _tuner(self, folder: str) -> tune.Tuner:
        _, retries = self._needs
        return tune.Tuner(
            tune.with_resources(JobRunner, self._resources),
            tune_config=tune.TuneConfig(
                search_alg=_Searcher(self),
                scheduler=_Scheduler(self),
                num_samples=-1,
                reuse_actors=self._reuse,
            ),
            run_config=tune.RunConfig(
                storage_path=folder,
                name="tasks",
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=retries),
                checkpoint_config=tune.CheckpointConfig(
                    checkpoint_frequency=0, checkpoint_at_end=False
                ),
                callbacks=[_Listener(self)],
                stop=_Stopper(self),
            ),
        )

    @property
    def _resources(self) -> tune.PlacementGroupFactory:
        bundle, _ = self._needs
        return tune.PlacementGroupFactory([bundle])

    def _end_stage(self) -> None:
        with self._changed:
            self._stage = None
            self._changed.notify_all()

    def _let_go_of_others(self) -> None:
        """Tell of the tasks that went on beside the stage, which end with the run. Whoever waits
        for its own ones knows.
        """
        own = None if self._stage is None else self._stage.source
        for trial_id, running in list(self._running.items()):
            if running.source is not own:
                self.on_end(trial_id, None)

    def running(self, trial_id: str) -> RunningTask:
        """A task that has been handed out and has not ended, by Tune's name."""
        return self._running[trial_id]

    def on_end(self, trial_id: str, end: Finished | Failure | None) -> None:
        """A task has ended, as its source is told."""
        self._running.pop(trial_id).source.on_end(trial_id, end)

    def scheduler_of(self, trial: Any) -> TrialScheduler | None:
        """What decides whether that task goes on; nothing for those beside the stage."""
        assert self._stage is not None, "there is one whenever something happens to a task"
        running = self._running.get(trial.trial_id)
        is_own = running is None or running.source is self._stage.source
        return self._stage.scheduler if is_own else None

    def next_task(self, trial_id: str) -> Task | None:
        """The next task; None when there is none now, or the run is to end. A stage that is done is
        ended, and the next one waited for.
        """
        while not self.is_over():
            if self._stage is None:
                with self._changed:
                    self._changed.wait_for(lambda: self._stage is not None or self._closing)
                self.drop_dead_processes()
                continue
            stage, others = self._stage, self._running.values()
            if (next_one := stage.next_task(trial_id, others)) is not None:
                self._running[trial_id] = next_one
                return next_one.task
            if any(other.source is stage.source for other in others):
                return None
            if not self.is_over():
                self._end_stage()
        return None

    def is_over(self) -> bool:
        """Whether the run is to end, and all tasks that are under way with it."""
        return self._closing or (self._stage is not None and self._stage.is_cut_short)

    def stop_all(self) -> bool:
        """Whether Tune, which asks in each of its steps, is to stop everything."""
        leave_vanished_directory()
        if self._closing or (self._reuse and self.is_over()):
            # Those that lead several workers let these go first
            ray_internals.kill_processes(self._controller)
        return self.is_over()

    def on_step(self, controller: Any) -> None:
        """Tune, of which this is the controller, looks for what to run in a step."""
        if self._controller is None:
            ray_internals.expect_any_death(controller)
        self._controller = controller
        ray_internals.forget_ended(controller)
        if self._reuse:
            keep = self._stage is None or not self._stage.has_idle_processes
            ray_internals.keep_processes(controller, self._resources, keep)

    def pause(self, attempts: int) -> None:
        """Wait before a task is tried again whose process could not begin, longer after each of its
        `attempts`: a cluster takes some 20 seconds to notice that a machine is gone, and would give
        it the task again. Tune, and with it all other tasks, waits as well.
        """
        seconds = min(2.0 ** (attempts - 1), LONGEST_PAUSE_S)
        with self._changed:
            self._changed.wait_for(self.is_over, timeout=seconds)

    def drop_dead_processes(self) -> None:
        """Forget processes without a task that have died: a task given to one would fail."""
        if self._controller is not None:
            ray_internals.drop_dead_processes(self._controller)


class _Searcher(Searcher):
    """Hands Tune the tasks, and tells their source what comes of them."""

    def __init__(self, run: TuneRun) -> None:
        super().__init__(metric="epoch", mode="max")
        self._run = run

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        task = self._run.next_task(trial_id)
        if task is not None:
            return {"task": PackedTask.of(task)}
        return cast("dict[str, Any]", Searcher.FINISHED) if self._run.is_over() else None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self._run.running(trial_id).source.on_epochs(trial_id, result.get("epochs", ()))

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        if error:
            return  # the listener has the reason, and comes next
        result = result or {}
        self._run.running(trial_id).source.on_epochs(trial_id, result.get("epochs", ()))
        self._run.on_end(trial_id, result.get("end"))

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store, or Optuna's storage, has what counts."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing was saved."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its searcher, though nothing reads that


class _Scheduler(FIFOScheduler):
    """Runs tasks in order, and asks the scheduler of their stage which of them go on."""

    def __init__(self, run: TuneRun) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._run = run

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        self._run.on_step(tune_controller)
        return super().choose_trial_to_run(tune_controller)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        if (scheduler := self._run.scheduler_of(trial)) is not None:
            scheduler.on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if (scheduler := self._run.scheduler_of(trial)) is None:
            return TrialScheduler.CONTINUE
        return scheduler.on_trial_result(tune_controller, trial, result)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if (scheduler := self._run.scheduler_of(trial)) is not None:
            scheduler.on_trial_complete(tune_controller, trial, result)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        if (scheduler := self._run.scheduler_of(trial)) is not None:
            scheduler.on_trial_error(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        if (scheduler := self._run.scheduler_of(trial)) is not None:
            scheduler.on_trial_remove(tune_controller, trial)

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Listener(TrialProgressCallback):
    """Tells the source of tasks that begin, and of those whose processes died too often, and frees
    what these held.

    It takes the place of Tune's own reporter, which would print nothing and keep every trial.
    """

    def __init__(self, run: TuneRun) -> None:
        super().__init__()
        self._run = run
        self._begun = set[str]()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._begun.add(trial.trial_id)
        self._run.running(trial.trial_id).source.on_start(trial.trial_id)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        task = self._run.running(trial.trial_id).task
        logger.warning("%s is started again: %s", task.name, _reason(trial))
        task.release()
        self._run.drop_dead_processes()  # a machine may be gone with all of its own
        if trial.trial_id not in self._begun:
            self._run.pause(trial.run_metadata.num_failures)
        self._begun.discard(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._begun.discard(trial.trial_id)
        self._run.running(trial.trial_id).task.release()
        count = trial.run_metadata.num_failures
        reason = f"{_reason(trial)}; tried {'once' if count == 1 else f'{count} times'}"
        self._run.on_end(trial.trial_id, Failure("machine", reason))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        pass

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._begun.discard(trial.trial_id)

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Stopper(tune.Stopper):
    """Stops all tasks when the run is to end. Ray's own time limit follows the clock that people
    set.
    """

    def __init__(self, run: TuneRun) -> None:
        self._run = run

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._run.stop_all()

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _reason(trial: Any) -> str:
    """What killed the process of a trial, or kept it from its work, in a line.

    A task says of itself what goes wrong in its job. What Tune reports as an error is therefore the
    machine's: a process or a node that is gone, an environment that does not work.
    """
    error = ray_internals.error_of(trial)
    if isinstance(error, RayTaskError):
        return f"{type(error.cause).__name__}: {error.cause}"
    if isinstance(error, ActorDiedError) and "creation task" in str(error):
        return f"its process could not begin: {str(error).strip().splitlines()[-1]}"
    if isinstance(error, RayActorError) and not isinstance(error, ActorDiedError):
        return first_line(error)
    return "its process died (is there enough memory?)"
