"""A study's progress in a few lines, on any machine that reaches its store and its search."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import optuna

from distill_ray.events import JobState, Metrics, StudyJob, describe
from distill_ray.report.format import duration
from distill_ray.resolve import ANSWER, CONFIRM, SCREEN, SEARCH, TEACH
from distill_ray.search.history import counted
from distill_ray.stages.state import JobStatus, StudyState


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
    """A study at one moment.

    `driver` says whether a process is running it. `jobs` holds those known so far: trials only when
    they have begun, and until the search is over only the baselines of the confirmations. `best` is
    the trial that leads, with its first objective. `finished` says that every stage has ended and
    that teachers and students have read the test split.
    """

    name: str
    driver: bool
    finished: bool
    stages: tuple[StageStatus, ...]
    jobs: tuple[JobStatus, ...]
    best: tuple[StudyJob, float] | None


def study_status(state: StudyState) -> StudyStatus:
    """How the study stands now."""
    study, jobs = state.study, state.jobs()
    by_stage: dict[str, list[JobStatus]] = {TEACH: [], SEARCH: [], CONFIRM: []}
    for job in jobs:
        by_stage[job.run.stage].append(job)
    over, driver = state.search_is_over, state.has_driver

    stages = [_stage(TEACH, by_stage[TEACH], len(state.teachers))]
    if state.screenings:
        stages.append(StageStatus(SCREEN, len(state.screenings), len(state.deviation)))
    if asked := state.answers():
        pieces = sum(len(answers.pieces) for answers in asked)
        missing = sum(len(answers.missing(state.store)) for answers in asked)
        stages.append(StageStatus(ANSWER, pieces, pieces - missing))
    search = _stage(SEARCH, by_stage[SEARCH], study.search.trials)
    if over:
        search = replace(search, jobs=search.ended)
        to_confirm = len(state.confirmations)
    else:
        if driver and state.history:
            left = _seconds_left(state.history, study.search.trials)
            search = replace(search, seconds_left=left)
        to_confirm = (len(study.confirm.baselines) + study.confirm.top) * study.confirm.seeds
    stages += [search, _stage(CONFIRM, by_stage[CONFIRM], to_confirm)]

    return StudyStatus(
        study.name, driver, state.is_finished, tuple(stages), tuple(jobs), state.best_trial
    )


def status_lines(now: StudyStatus, objective: str, store: str) -> Iterator[str]:
    """The status as `distill-ray status` prints it."""
    if now.finished:
        condition = "finished"
    elif now.driver:
        condition = "running"
    elif any(job.state != JobState.WAITING for job in now.jobs):
        condition = "stopped; the same command goes on from here"
    else:
        condition = f"not begun in {store}"
    yield f"{now.name}: {condition}"
    for stage in now.stages:
        jobs = [job for job in now.jobs if job.run.stage == stage.stage]
        parts = [f"{stage.ended}/{stage.jobs}"]
        for state in SHOWN_STATES:
            if count := sum(job.state == state for job in jobs):
                parts.append(f"{count} {state}")
        if stage.seconds_left is not None:
            parts.append(f"about {duration(stage.seconds_left)} left")
        yield f"  {stage.stage:<8} {', '.join(parts)}"
        for job in jobs:
            if job.state == JobState.RUNNING:
                epoch = _epoch(job.last_epoch, objective)
                yield f"           {describe(job.run)}  {epoch}".rstrip()
    if now.best is not None:
        run, value = now.best
        yield f"  best     {describe(run)}: {objective} {value:.4f}"


def _epoch(record: Metrics, objective: str) -> str:
    """When a job finished its last epoch, and the objective and the accuracy then."""
    if "epoch" not in record:
        return ""
    parts = [f"epoch {record['epoch']:g}"]
    if "time" in record:
        ended = datetime.fromtimestamp(record["time"])
        parts.insert(0, f"{ended:%Y-%m-%d %H:%M:%S}")
    for name in dict.fromkeys((objective, "val/accuracy")):
        if name in record:
            parts.append(f"{name} {record[name]:.4g}")
    return "  ".join(parts)


def _stage(stage: str, jobs: Sequence[JobStatus], total: int) -> StageStatus:
    ended = [job for job in jobs if job.state.has_ended and job.state != JobState.INFEASIBLE]
    return StageStatus(stage, total, len(ended))


SHOWN_STATES = (
    JobState.RUNNING,
    JobState.INTERRUPTED,
    JobState.PRUNED,
    JobState.INFEASIBLE,
    JobState.FAILED,
)
"""The states whose jobs are counted on a stage's line."""


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
