"""The progress of a study, read from its store and its search alone, so that it can be shown on any
machine that reaches both.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import optuna

from distill_ray.events import JobState, StudyJob
from distill_ray.job import Data
from distill_ray.records import find_job, log_path
from distill_ray.resolve import CONFIRM, SCREEN, SEARCH, TEACH, trial_run
from distill_ray.search.history import JOB_STATES, begun, best_trials, counted
from distill_ray.stages.lock import is_running
from distill_ray.stages.state import StudyState, state_of
from distill_ray.store import Store
from distill_ray.study import Study


@dataclass(frozen=True)
class JobStatus:
    """A job of the study, its state, and the last line of its log while it runs."""

    run: StudyJob
    state: JobState
    reason: str = ""
    last_line: str = ""


@dataclass(frozen=True)
class StageStatus:
    """A stage: how many jobs it has, how many have ended; `seconds_left` only where it can be
    estimated.
    """

    stage: str
    jobs: int
    ended: int
    seconds_left: float | None = None


@dataclass(frozen=True)
class StudyStatus:
    """The current state of a study.

    `driver` says whether a process is running it. `jobs` holds those known so far: trials only when
    they have begun, confirmations only when the search is over. `best` is the trial that leads,
    with its first objective. `finished` says that every stage has ended and that teachers and
    students have read the test split.
    """

    name: str
    driver: bool
    finished: bool
    stages: tuple[StageStatus, ...]
    jobs: tuple[JobStatus, ...]
    best: tuple[StudyJob, float] | None


def standing(study: Study, data: Data, store: Store, *, search_storage: str | None) -> StudyStatus:
    """The current progress of `study`."""
    driver = is_running(store, study.name)
    logs = set(store.names("logs"))

    def stands(run: StudyJob) -> JobStatus:
        if find_job(store, run.job.id) is not None:
            return JobStatus(run, JobState.FINISHED)
        if posixpath.basename(log_path(run.job.id)) not in logs:
            return JobStatus(run, JobState.WAITING)
        if not driver:
            return JobStatus(run, JobState.INTERRUPTED)
        return JobStatus(run, JobState.RUNNING, last_line=_last_line(store, run))

    state = state_of(study, data, store, search_storage)
    teachers = [stands(run) for run in state.teachers]
    trials = _trials(state, data, store, driver)
    confirmations = [stands(run) for run in state.confirmations]
    stages = [_stage(TEACH, teachers, len(teachers))]
    if state.screenings:
        stages.append(StageStatus(SCREEN, len(state.screenings), len(state.deviation)))
    search, to_confirm = _stage(SEARCH, trials, study.search.trials), len(confirmations)
    if state.search_is_over:
        stages.append(replace(search, jobs=search.ended))
    else:
        left = (
            _seconds_left(state.history, study.search.trials) if driver and state.history else None
        )
        stages.append(replace(search, seconds_left=left))
        to_confirm = (len(study.confirm.baselines) + study.confirm.top) * study.confirm.seeds
    stages.append(_stage(CONFIRM, confirmations, to_confirm))
    judged = (find_job(store, run.job.id) for run in (*state.teachers, *state.confirmations))
    finished = all(stage.ended >= stage.jobs for stage in stages) and all(
        found and found.has_read_test for found in judged
    )
    return StudyStatus(
        study.name,
        driver,
        finished,
        tuple(stages),
        (*teachers, *trials, *confirmations),
        _leading(state, data),
    )


def _leading(state: StudyState, data: Data) -> tuple[StudyJob, float] | None:
    leading = best_trials(state.history, state.study.search) if state.history else []
    if not leading:
        return None
    run = trial_run(state.study, data, state.teacher_ids, leading[0].number, leading[0].params)
    return run, float(leading[0].values[0])


def _stage(stage: str, jobs: Sequence[JobStatus], total: int) -> StageStatus:
    return StageStatus(stage, total, sum(job.state.has_ended for job in jobs))


def _trials(state: StudyState, data: Data, store: Store, driver: bool) -> list[JobStatus]:
    found = []
    for trial in begun(state.history) if state.history else ():
        reason = trial.user_attrs.get("reason", "")
        run = trial_run(state.study, data, state.teacher_ids, trial.number, trial.params)
        job_state = JOB_STATES[trial.state]
        if job_state == JobState.RUNNING and not driver:
            job_state = JobState.INTERRUPTED
        last_line = _last_line(store, run) if job_state == JobState.RUNNING else ""
        found.append(JobStatus(run, job_state, reason, last_line))
    return found


def _seconds_left(history: optuna.Study, trials: int, recent: int = 20) -> float | None:
    """What the remaining trials take at the pace of the last ones; None before two have ended."""
    ended = [
        trial for trial in counted(history) if trial.datetime_start and trial.datetime_complete
    ]
    last = sorted(ended, key=lambda trial: trial.datetime_complete or datetime.min)[-recent:]
    if len(last) < 2:
        return None
    begun = min(trial.datetime_start for trial in last if trial.datetime_start)
    until = max(trial.datetime_complete for trial in last if trial.datetime_complete)
    return (until - begun).total_seconds() / len(last) * (trials - len(ended))


def _last_line(store: Store, run: StudyJob) -> str:
    content = store.read(log_path(run.job.id))
    lines = content.decode(errors="replace").splitlines() if content else []
    return lines[-1].strip() if lines else ""
