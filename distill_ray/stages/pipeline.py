"""A study from beginning to end: teach, screen, search, confirm, report. What the store has already
is not done again.
"""

from __future__ import annotations

import functools
import importlib
import logging
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import optuna
from optuna.trial import TrialState

from distill_ray.errors import RunError
from distill_ray.events import JobState, Observer, Observers, StudyJob, stage
from distill_ray.execution.cluster import Cluster, WorkerResources
from distill_ray.execution.sharing import confirm_sharing, trial_sharing
from distill_ray.job import Data
from distill_ray.records import find_job
from distill_ray.resolve import (
    CONFIRM,
    SCREEN,
    SEARCH,
    TEACH,
    confirm_runs,
    learned_from,
    teacher_runs,
    trial_run,
)
from distill_ray.search.history import JOB_STATES, best_recipes, counted, is_over, open_history
from distill_ray.search.warm_start import warm_start
from distill_ray.stages.lock import search_lock
from distill_ray.stages.screen import (
    deviations,
    found_metrics,
    measurement,
    narrowed,
    run_screenings,
    screening_sharing,
    screenings,
)
from distill_ray.store import Store
from distill_ray.study import Study

logger = logging.getLogger(__name__)

SEARCHING, REPORTING = "distill_ray.search.search", "distill_ray.report.write"
"""The modules in which these stages are."""


@dataclass(frozen=True)
class RunContext:
    """What a study runs with: its data, its store, Optuna's storage, the cluster, and those who
    watch.
    """

    study: Study
    data: Data
    store: Store
    search_storage: str | None
    cluster: Cluster
    observer: Observer

    @property
    def resources(self) -> WorkerResources:
        """What each worker of a job gets."""
        return WorkerResources.of(self.study, confirm_sharing(self.study))


def run_stages(around: RunContext) -> None:
    """Run the stages that train; when it returns, every job of the study is in the store, and so is
    Optuna's history.
    """
    teachers = _teach(around)
    around = replace(around, study=_screen(around, teachers))
    history = _search(around, teachers)
    _confirm(around, teachers, history)


def _teach(around: RunContext) -> list[str]:
    runs = teacher_runs(around.study, around.data)
    with stage(around.observer, TEACH, len(runs)):
        _train(around, runs, next_stage=SEARCHING)
    return [run.job.id for run in runs]


def _screen(around: RunContext, teachers: Sequence[str]) -> Study:
    """The study with the choices of augmentation that the screening leaves to the search."""
    study, store = around.study, around.store
    wanted = screenings(study, around.data, learned_from(study, teachers))
    if not wanted:
        return study
    with stage(around.observer, SCREEN, len(wanted)):
        found = {
            screening: metrics
            for screening in wanted
            if (metrics := found_metrics(store, screening)) is not None
        }
        for screening, metrics in found.items():
            around.observer.measured(measurement(screening, metrics, reused=True))
        missing = [screening for screening in wanted if screening not in found]
        if missing:
            _connect(around)
            run_screenings(
                store,
                missing,
                around.resources,
                around.observer,
                sharing=functools.partial(screening_sharing, study),
            )
    return narrowed(study, deviations(wanted, store))


def _search(around: RunContext, teachers: Sequence[str]) -> optuna.Study:
    study = around.study
    history = open_history(
        study, around.data, teachers, around.store, around.search_storage, logger.warning
    )
    in_database = around.search_storage is not None and not is_over(history, study.search)
    with (
        search_lock(history, around.store) if in_database else nullcontext(),
        stage(around.observer, SEARCH, study.search.trials),
    ):
        if not is_over(history, study.search):
            warm_start(history, study, around.store, around.search_storage)
        tell_of_trials(study, around.data, teachers, history, around.store, around.observer)
        _train_lost(around, teachers, history)
        if not is_over(history, study.search):
            from distill_ray.search.search import run_search

            _connect(around)
            run_search(
                study, around.data, teachers, history, around.store, around.cluster, around.observer
            )
    return history


def tell_of_trials(
    study: Study,
    data: Data,
    teachers: Sequence[str],
    history: optuna.Study,
    store: Store,
    observer: Observer,
) -> None:
    """Report the trials that have already ended to `observer`."""
    (objective, *_) = study.search.objectives
    for trial in counted(history):
        run = trial_run(study, data, teachers, trial.number, trial.params)
        found = find_job(store, run.job.id)
        ended = {"time": trial.datetime_complete.timestamp()} if trial.datetime_complete else {}
        values = [
            {"epoch": epoch, objective: value} | ended
            for epoch, value in sorted(trial.intermediate_values.items())
        ]
        observer.past(
            run,
            JOB_STATES[trial.state],
            found.epochs if found else functools.partial(list, values),
            found.metrics if found else {},
            trial.user_attrs.get("reason", ""),
        )


def _train_lost(around: RunContext, teachers: Sequence[str], history: optuna.Study) -> None:
    """Train trials again whose record was damaged and set aside. Those of another store, or tidied
    away, have no place here.
    """
    finished = [trial for trial in counted(history) if trial.state == TrialState.COMPLETE]
    places = set(around.store.names("jobs")) if finished else set()
    runs = [
        trial_run(around.study, around.data, teachers, trial.number, trial.params)
        for trial in finished
    ]
    _train(
        around,
        [run for run in runs if run.job.id in places],
        next_stage=SEARCHING,
        resources=replace(around.resources, sharing=trial_sharing(around.study)),
        observer=Observers(()),
    )


def _confirm(around: RunContext, teachers: Sequence[str], history: optuna.Study) -> None:
    found = best_recipes(around.study, history, around.study.confirm.top)
    if not found:
        raise RunError(
            f"the search of study {around.study.name} found nothing: no trial came to its end"
        )
    runs = confirm_runs(around.study, around.data, teachers, found)
    with stage(around.observer, CONFIRM, len(runs)):
        _train(around, runs, next_stage=REPORTING, read_test=True)
        taught = teacher_runs(around.study, around.data)
        _train(around, taught, next_stage=REPORTING, read_test=True, observer=Observers(()))


def _train(
    around: RunContext,
    runs: Sequence[StudyJob],
    *,
    next_stage: str,
    read_test: bool = False,
    resources: WorkerResources | None = None,
    observer: Observer | None = None,
) -> None:
    observer = observer or around.observer
    missing = []
    for run in runs:
        found = find_job(around.store, run.job.id)
        if found is None or (read_test and not found.has_read_test):
            missing.append(run)
        else:
            observer.past(run, JobState.FINISHED, found.epochs, found.metrics, "")
    if missing:
        from distill_ray.execution.runner import run_jobs

        _connect(around)
        # What the next stage needs takes seconds to import: they pass while jobs are training.
        threading.Thread(target=importlib.import_module, args=(next_stage,), daemon=True).start()
        first = {run.job.id: run for run in reversed(missing)}
        run_jobs(
            around.store,
            [run for run in missing if run is first[run.job.id]],
            resources or around.resources,
            observer,
            read_test=read_test,
        )
        # A candidate that is another one under a second name: one training serves both
        for run in missing:
            if run is not first[run.job.id] and (found := find_job(around.store, run.job.id)):
                observer.past(run, JobState.FINISHED, found.epochs, found.metrics, "")


def _connect(around: RunContext) -> None:
    around.cluster.connect()
    around.cluster.check(around.study)
