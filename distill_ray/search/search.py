"""The search stage: Ray Tune runs the trials that Optuna suggests, and stops unpromising ones
early.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import Trial, TrialState
from ray import tune
from ray.tune.progress_reporter import TrialProgressCallback

from distill_ray.errors import RunError
from distill_ray.events import Observer, StudyJob
from distill_ray.execution.cluster import ON_THE_HEAD, Cluster, WorkerResources
from distill_ray.execution.placement_group import release
from distill_ray.execution.sharing import trial_sharing
from distill_ray.job import Data, Job
from distill_ray.resolve import trial_run
from distill_ray.search.history import (
    JOB_STATES,
    SECONDS,
    best_trials,
    counted,
    time_left,
    time_spent,
)
from distill_ray.search.scheduler import make_scheduler, rungs
from distill_ray.search.searcher import OptunaSearcher, make_sampler, queue_first, settle_abandoned
from distill_ray.search.trial import Task, TrialRunner
from distill_ray.store import Store
from distill_ray.study import Study


def run_search(
    study: Study,
    data: Data,
    teachers: Sequence[str],
    history: optuna.Study,
    store: Store,
    cluster: Cluster,
    observer: Observer,
) -> None:
    """Run trials until the search is over. Raises `RunError` when none of them completed."""
    queue_first(history, study.search)
    settle_abandoned(history)
    search, wanted = study.search, study.resources
    resources = WorkerResources.of(study, trial_sharing(study))
    single = wanted.workers_per_trial == 1
    fits = cluster.capacity(wanted.workers_per_trial, resources)
    history.sampler = make_sampler(search, len(history.get_trials(deepcopy=False)))
    begun, spent = time.monotonic(), time_spent(history)
    left = time_left(history, search)
    trials = _Trials(study, data, teachers, store, resources, observer)

    def ended(number: int, state: TrialState, reason: str, metrics: dict[str, float]) -> None:
        # Now, since the driver may be killed
        history.set_user_attr(SECONDS, spent + time.monotonic() - begun)
        trials.ended(number, state, reason, metrics)

    searcher = OptunaSearcher(history, search, trials.configure, ended, deadline=begun + left)
    here = {"CPU": resources.cpus, "GPU": resources.gpus} if single else ON_THE_HEAD
    folder = tempfile.mkdtemp(prefix="distill-ray-tune-")
    tuner = tune.Tuner(
        tune.with_resources(TrialRunner, tune.PlacementGroupFactory([here])),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=make_scheduler(study, history),
            num_samples=-1,
            max_concurrent_trials=max(1, min(fits, search.max_concurrent or fits)),
            reuse_actors=single,
        ),
        run_config=tune.RunConfig(
            storage_path=folder,
            name=history.study_name,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=wanted.retries),
            checkpoint_config=tune.CheckpointConfig(
                checkpoint_frequency=0, checkpoint_at_end=False
            ),
            callbacks=[_Listener(trials)],
            stop=_Deadline(begun + left),
        ),
    )
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            tuner.fit()
        if not searcher.store_error:
            searcher.settle_stopped()
    finally:
        # A database that is away; the error of the search says so
        with contextlib.suppress(RunError):
            history.set_user_attr(SECONDS, spent + time.monotonic() - begun)
        shutil.rmtree(folder, ignore_errors=True)
    if searcher.store_error:
        raise searcher.store_error
    if not best_trials(history, search):
        reasons = {
            trial.user_attrs.get("reason", "")
            for trial in counted(history)
            if trial.state == TrialState.FAIL
        }
        raise RunError(
            f"no trial of the search came to its end: {'; '.join(sorted(reasons)) or 'all were stopped'}"
        )


class _Trials:
    """The runs behind Tune's trials: made when one is drawn, and told of to the observer."""

    def __init__(
        self,
        study: Study,
        data: Data,
        teachers: Sequence[str],
        store: Store,
        resources: WorkerResources,
        observer: Observer,
    ) -> None:
        self._study = study
        self._data = data
        self._teachers = teachers
        self._store = store
        self._resources = resources
        self._observer = observer
        self._stops = rungs(study)
        self.runs: dict[int, StudyJob] = {}

    def configure(self, trial: Trial) -> dict[str, Any]:
        """The Tune configuration of a drawn trial."""
        run = trial_run(self._study, self._data, self._teachers, trial.number, trial.params)
        self.runs[trial.number] = run
        trial.set_user_attr("job_id", run.job.id)
        self._observer.started(run)
        return {
            "task": Task(trial.number, run.job.to_dict(), self._store, self._resources, self._stops)
        }

    def epochs(self, number: int, records: Sequence[dict[str, float]]) -> None:
        """A trial has finished some epochs."""
        for record in records:
            self._observer.epoch(self.runs[number], record)

    def died(self, job: dict[str, Any]) -> None:
        """The processes of a trial were killed, whether it is tried again or not."""
        if job["workers"] > 1:
            release(Job.from_dict(job).id)

    def ended(self, number: int, state: TrialState, reason: str, metrics: dict[str, float]) -> None:
        """A trial has come to its end, one way or another."""
        self._observer.ended(self.runs.pop(number), JOB_STATES[state], metrics, reason)


class _Listener(TrialProgressCallback):
    """Passes the epochs of all trials on, as Tune hears of them.

    It takes the place of Tune's own reporter, which would print nothing and keep every trial. Tune
    pickles it with its own state, which nobody reads.
    """

    def __init__(self, trials: _Trials) -> None:
        super().__init__()
        self._trials = trials

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self._trials.epochs(trial.config["task"].number, result.get("epochs", ()))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        pass

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._trials.died(trial.config["task"].job)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._trials.died(trial.config["task"].job)

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Deadline(tune.Stopper):
    """Stops all trials at that moment of the clock that never goes back; Ray's own time limit
    follows the one that people set.
    """

    def __init__(self, moment: float) -> None:
        self._moment = moment

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return time.monotonic() > self._moment
