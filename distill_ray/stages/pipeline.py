"""A study from beginning to end: teach, screen, search, confirm, report. What the store has already
is not done again.
"""

from __future__ import annotations

import functools
import importlib
import logging
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from distill_ray.errors import RunError
from distill_ray.events import JobState, Observer, Observers, StudyJob, stage
from distill_ray.execution.cluster import Cluster
from distill_ray.execution.resources import WorkerResources
from distill_ray.execution.sharing import confirm_sharing, trial_sharing
from distill_ray.report.cautions import cautions
from distill_ray.report.table import row_of
from distill_ray.resolve import ANSWER, CONFIRM, SCREEN, SEARCH, TEACH
from distill_ray.search.history import COSTS, job_state
from distill_ray.search.warm_start import note_of_earlier_versions, warm_start
from distill_ray.stages.answer import answer_tasks, run_answers
from distill_ray.stages.contenders import teacher_contenders
from distill_ray.stages.lock import search_lock
from distill_ray.stages.screen import measurement, run_screenings, screening_sharing
from distill_ray.stages.state import StudyState

if TYPE_CHECKING:
    from distill_ray.execution.runner import JobsBeside  # Ray

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
    begun: float = field(default_factory=time.monotonic)
    """When the run of the study began, by the monotonic clock."""

    @property
    def resources(self) -> WorkerResources:
        """What each worker of a job gets."""
        return WorkerResources.of(self.state.study, confirm_sharing(self.state.study))

    def connect(self) -> None:
        """Start Ray or join the cluster, once, and check that the study fits."""
        self.cluster.check_machine(self.state.study)
        self.cluster.connect()
        self.cluster.check(self.state.study)


def run_stages(context: RunContext) -> None:
    """Run the stages that train; when it returns, every job of the study is in the store, and so is
    Optuna's history.
    """
    _teach(context)
    _screen(context)
    _answer(context)
    begun = _search(context)
    _confirm(context, begun)
    context.cluster.end_processes()


def _teach(context: RunContext) -> None:
    state = context.state
    untrained = not state.is_taught
    with stage(context.observer, TEACH, len(state.teachers)):
        # Those that somebody trained first: a wrong file shows before anything is trained
        given = [run for run in state.teachers if run.job.takes_weights]
        unmeasured = any(state.record(run) is None for run in given)
        _take_absent(state)
        _train(context, given, next_stage=SEARCHING)
        if unmeasured:
            _tell_of_given(state)
        others = [run for run in state.teachers if not run.job.takes_weights]
        _train(context, others, next_stage=SEARCHING)
    if untrained:
        records = state.finished(state.teachers)
        contenders = teacher_contenders(state.study, state.teachers, records)
        for caution in cautions([row_of(contender, "validation") for contender in contenders]):
            logger.warning("caution: %s", caution)


def _take_absent(state: StudyState) -> None:
    """Put the teachers that are known by their answers alone into the store."""
    if any(run.job.recipe.answers_alone for run in state.teachers):
        from distill_ray.stages.absent_teachers import take_teachers

        take_teachers(state)


def _tell_of_given(state: StudyState) -> None:
    from distill_ray.stages.given_teachers import given_teachers

    for teacher in given_teachers(state.study, state.data, state.store, state.record_of):
        for line in teacher.lines():
            logger.log(logging.WARNING if teacher.doubts else logging.INFO, "%s", line)


def _screen(context: RunContext) -> None:
    state = context.state
    if not state.screenings:
        return
    with stage(context.observer, SCREEN, len(state.screenings)):
        tell_of_screenings(state, context.observer)
        missing = [screening for screening in state.screenings if state.screened(screening) is None]
        if missing:
            context.connect()
            run_screenings(
                context.cluster,
                state.store,
                missing,
                context.resources,
                context.observer,
                sharing=functools.partial(screening_sharing, state.study),
            )


def _answer(context: RunContext, beside: JobsBeside | None = None) -> None:
    """Let teachers answer for the versions that the store does not have, ahead of the students.
    Those that are not here have answered already.
    """
    state = context.state
    resources = replace(context.resources, sharing=confirm_sharing(state.study))
    asked = state.answers()
    elsewhere = [answers for answers in asked if state.is_answered_elsewhere(answers)]
    if elsewhere:
        from distill_ray.stages.absent_teachers import take_answers

        take_answers(state, elsewhere)
    here = [answers for answers in asked if answers not in elsewhere]
    tasks = answer_tasks(here, state.store, resources)
    if tasks:
        with stage(context.observer, ANSWER, len(tasks)):
            context.connect()
            run_answers(context.cluster, tasks, resources, context.observer, beside)


def _search(context: RunContext) -> JobsBeside | None:
    """Search, and return the baselines that were begun beside it."""
    state, history = context.state, context.state.history
    assert history is not None
    in_database = state.search_storage is not None and not state.search_is_over
    with (
        search_lock(history, state.store) if in_database else nullcontext(),
        stage(context.observer, SEARCH, state.study.search.trials),
    ):
        if not state.search_is_over:
            place = state.store, state.search_storage
            note = note_of_earlier_versions(state.study, state.data, state.teacher_ids, *place)
            if note:
                logger.info("%s", note)
            warm_start(history, state.study, state.data, *place)
        tell_of_trials(state, context.observer)
        _train_lost(context)
        if state.search_is_over:
            beside = None
        else:
            from distill_ray.search.search import run_search

            context.connect()
            beside = _baselines_beside(context)
            run_search(
                state.study,
                state.data,
                state.teacher_ids,
                history,
                state.store,
                context.cluster,
                context.observer,
                beside,
                context.begun,
            )
    return beside


def _baselines_beside(context: RunContext) -> JobsBeside | None:
    """The baselines that the store does not have, for the places that trials leave free. Those of
    several workers would need more than one.
    """
    from distill_ray.execution.runner import JobsBeside

    state = context.state
    if state.study.resources.workers_per_trial > 1:
        return None
    missing = [run for run in state.baselines if state.record(run) is None]
    baselines = _longest_first(state, _distinct(missing))
    return JobsBeside(state.store, baselines, context.resources, context.observer)


def _train_lost(context: RunContext) -> None:
    """Train trials again whose record was damaged and set aside. Those of another store, or tidied
    away, have no place here.
    """
    state = context.state
    finished = [run for run, trial in state.trials if job_state(trial) == JobState.FINISHED]
    places = set(state.store.names("jobs")) if finished else set()
    _train(
        context,
        [run for run in finished if run.job.id in places],
        next_stage=SEARCHING,
        resources=replace(context.resources, sharing=trial_sharing(state.study)),
        observer=Observers(()),
    )


def _confirm(context: RunContext, begun: JobsBeside | None) -> None:
    state = context.state
    if state.best_trial is None:
        raise RunError(
            f"the search of study {state.study.name} found nothing: no trial came to its end"
        )
    _answer(context, begun)  # what the search's best sees beyond the trials
    with stage(context.observer, CONFIRM, len(state.confirmations)):
        _train(
            context,
            state.confirmations,
            next_stage=REPORTING,
            read_test=True,
            unheard=state.teachers,
            begun=begun,
        )


def _train(
    context: RunContext,
    runs: Sequence[StudyJob],
    *,
    next_stage: str,
    read_test: bool = False,
    unheard: Sequence[StudyJob] = (),
    resources: WorkerResources | None = None,
    observer: Observer | None = None,
    begun: JobsBeside | None = None,
) -> None:
    """Train those of the jobs that are not in the store, those first that have most to compute, and
    tell the observer of the others.

    With `read_test` their networks also predict the test split and judge foreign sets. The same is
    done with jobs `unheard`, of which the observer does not hear. Those that have `begun` already
    are waited for.
    """
    state, observer = context.state, observer or context.observer
    under_way = begun.running if begun is not None else set()
    untrained = [run for run in runs if run.job.id in under_way or state.record(run) is None]
    trained = [run for run in runs if run not in untrained]
    tell_of_finished(state, trained, observer)

    def is_missing(run: StudyJob) -> bool:
        return state.record(run) is None or (read_test and not state.is_evaluated(run))

    unheard = [run for run in (*trained, *unheard) if is_missing(run)]
    if untrained or unheard:
        from distill_ray.execution.runner import run_jobs

        context.connect()
        # What the next stage needs takes seconds to import: they pass while jobs are training.
        threading.Thread(target=importlib.import_module, args=(next_stage,), daemon=True).start()
        first = _distinct(untrained)
        ids = {run.job.id for run in first}
        run_jobs(
            context.cluster,
            state.store,
            _longest_first(state, first),
            resources or context.resources,
            observer,
            unheard=[run for run in _distinct(unheard) if run.job.id not in ids],
            read_test=read_test,
            foreign=state.foreign,
            begun=begun,
        )
        # A candidate that is another one under a second name: one training serves both
        tell_of_finished(state, [run for run in untrained if run not in first], observer)


def _distinct(runs: Sequence[StudyJob]) -> list[StudyJob]:
    """The first run of each job."""
    first = {run.job.id: run for run in reversed(runs)}
    return [run for run in runs if run is first[run.job.id]]


def _longest_first(state: StudyState, runs: Sequence[StudyJob]) -> list[StudyJob]:
    """The runs that have most to compute first."""
    return sorted(runs, key=lambda run: _work_left(state, run), reverse=True)


def _work_left(state: StudyState, run: StudyJob) -> int:
    """How much a job has to compute, roughly: its epochs, for itself and each of its teachers."""
    job = run.job
    return 0 if state.record(run) is not None else job.recipe.epochs * (1 + len(job.teachers))


def tell_of_finished(state: StudyState, runs: Sequence[StudyJob], observer: Observer) -> None:
    """Report those of the jobs that are in the store to `observer`."""
    for run in runs:
        if (record := state.record(run)) is not None:
            observer.past(run, JobState.FINISHED, record.epochs, record.metrics, "")


def tell_of_screenings(state: StudyState, observer: Observer) -> None:
    """Report the screenings that are in the store to `observer`."""
    for screening in state.screenings:
        if (screened := state.screened(screening)) is not None:
            observer.measured(measurement(screening, screened.metrics, reused=True))


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
            job_state(trial),
            record.epochs if record else functools.partial(list, values),
            (record.metrics if record else {}) | trial.user_attrs.get(COSTS, {}),
            trial.user_attrs.get("reason", ""),
        )
