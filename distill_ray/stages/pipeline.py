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

from distill_ray.errors import RunError
from distill_ray.events import JobState, Observer, Observers, StudyJob, stage
from distill_ray.execution.cluster import Cluster
from distill_ray.execution.resources import WorkerResources
from distill_ray.execution.sharing import confirm_sharing, trial_sharing
from distill_ray.report.cautions import cautions
from distill_ray.report.table import row_of
from distill_ray.resolve import CONFIRM, SCREEN, SEARCH, TEACH
from distill_ray.search.history import JOB_STATES
from distill_ray.search.warm_start import note_of_trials_set_aside, warm_start
from distill_ray.stages.contenders import teacher_contenders
from distill_ray.stages.lock import search_lock
from distill_ray.stages.screen import measurement, run_screenings, screening_sharing
from distill_ray.stages.state import StudyState

logger = logging.getLogger(__name__)

SEARCHING, REPORTING = "distill_ray.search.search", "distill_ray.report.write"
"""The modules in which these stages are."""


@dataclass(frozen=True)
class RunContext:
    """What a study runs with: its state, which the stages advance, the cluster, and the observer of
    what happens.
    """

    state: StudyState
    cluster: Cluster
    observer: Observer

    @property
    def resources(self) -> WorkerResources:
        """What each worker of a job gets."""
        return WorkerResources.of(self.state.study, confirm_sharing(self.state.study))

    def connect(self) -> None:
        """Start Ray or join the cluster, once, and check that the study fits."""
        self.cluster.connect()
        self.cluster.check(self.state.study)


def run_stages(context: RunContext) -> None:
    """Run the stages that train; when it returns, every job of the study is in the store, and so is
    Optuna's history.
    """
    _teach(context)
    _screen(context)
    _search(context)
    _confirm(context)


def _teach(context: RunContext) -> None:
    state = context.state
    untrained = not state.is_taught
    with stage(context.observer, TEACH, len(state.teachers)):
        _train(context, state.teachers, next_stage=SEARCHING)
    if untrained:
        records = state.finished(state.teachers)
        contenders = teacher_contenders(state.study, state.teachers, records)
        for caution in cautions([row_of(contender, "validation") for contender in contenders]):
            logger.warning("caution: %s", caution)


def _screen(context: RunContext) -> None:
    state = context.state
    if not state.screenings:
        return
    with stage(context.observer, SCREEN, len(state.screenings)):
        tell_of_screenings(state, context.observer)
        missing = [each for each in state.screenings if state.screened(each) is None]
        if missing:
            context.connect()
            run_screenings(
                state.store,
                missing,
                context.resources,
                context.observer,
                sharing=functools.partial(screening_sharing, state.study),
            )


def _search(context: RunContext) -> None:
    state, history = context.state, context.state.history
    assert history is not None
    in_database = state.search_storage is not None and not state.search_is_over
    with (
        search_lock(history, state.store) if in_database else nullcontext(),
        stage(context.observer, SEARCH, state.study.search.trials),
    ):
        if not state.search_is_over:
            place = state.store, state.search_storage
            note = note_of_trials_set_aside(state.study, state.data, state.teacher_ids, *place)
            if note:
                logger.info("%s", note)
            warm_start(history, state.study, *place)
        tell_of_trials(state, context.observer)
        _train_lost(context)
        if not state.search_is_over:
            from distill_ray.search.search import run_search

            context.connect()
            run_search(
                state.study,
                state.data,
                state.teacher_ids,
                history,
                state.store,
                context.cluster,
                context.observer,
            )


def _train_lost(context: RunContext) -> None:
    """Train trials again whose record was damaged and set aside. Those of another store, or tidied
    away, have no place here.
    """
    state = context.state
    finished = [run for run, trial in state.trials if JOB_STATES[trial.state] == JobState.FINISHED]
    places = set(state.store.names("jobs")) if finished else set()
    _train(
        context,
        [run for run in finished if run.job.id in places],
        next_stage=SEARCHING,
        resources=replace(context.resources, sharing=trial_sharing(state.study)),
        observer=Observers(()),
    )


def _confirm(context: RunContext) -> None:
    state = context.state
    if state.best_trial is None:
        raise RunError(
            f"the search of study {state.study.name} found nothing: no trial came to its end"
        )
    with stage(context.observer, CONFIRM, len(state.confirmations)):
        _train(context, state.confirmations, next_stage=REPORTING, read_test=True)
        _train(
            context,
            state.teachers,
            next_stage=REPORTING,
            read_test=True,
            observer=Observers(()),
        )


def _train(
    context: RunContext,
    runs: Sequence[StudyJob],
    *,
    next_stage: str,
    read_test: bool = False,
    resources: WorkerResources | None = None,
    observer: Observer | None = None,
) -> None:
    """Train those of the jobs that are not in the store, and tell the observer of the others.

    With `read_test` their networks also predict the test split.
    """
    state, observer = context.state, observer or context.observer
    missing = []
    for run in runs:
        if state.record(run) is None or (read_test and not state.has_read_test(run)):
            missing.append(run)
        else:
            tell_of_finished(state, [run], observer)
    if missing:
        from distill_ray.execution.runner import run_jobs

        context.connect()
        # What the next stage needs takes seconds to import: they pass while jobs are training.
        threading.Thread(target=importlib.import_module, args=(next_stage,), daemon=True).start()
        first = {run.job.id: run for run in reversed(missing)}
        run_jobs(
            state.store,
            [run for run in missing if run is first[run.job.id]],
            resources or context.resources,
            observer,
            read_test=read_test,
        )
        # A candidate that is another one under a second name: one training serves both
        seconds = [run for run in missing if run is not first[run.job.id]]
        tell_of_finished(state, seconds, observer)


def tell_of_finished(state: StudyState, runs: Sequence[StudyJob], observer: Observer) -> None:
    """Report those of the jobs that are in the store to `observer`."""
    for run in runs:
        if (record := state.record(run)) is not None:
            observer.past(run, JobState.FINISHED, record.epochs, record.metrics, "")


def tell_of_screenings(state: StudyState, observer: Observer) -> None:
    """Report the screenings that are in the store to `observer`."""
    for screening in state.screenings:
        if (metrics := state.screened(screening)) is not None:
            observer.measured(measurement(screening, metrics, reused=True))


def tell_of_trials(state: StudyState, observer: Observer) -> None:
    """Report the trials that have already ended to `observer`."""
    (objective, *_) = state.study.search.objectives
    for run, trial in state.trials:
        if not trial.state.is_finished():
            continue
        record = state.record(run)
        ended = {"time": trial.datetime_complete.timestamp()} if trial.datetime_complete else {}
        values = [
            {"epoch": epoch, objective: value} | ended
            for epoch, value in sorted(trial.intermediate_values.items())
        ]
        observer.past(
            run,
            JOB_STATES[trial.state],
            record.epochs if record else functools.partial(list, values),
            record.metrics if record else {},
            trial.user_attrs.get("reason", ""),
        )
