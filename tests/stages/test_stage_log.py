"""What the stages took, over several runs of a study."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from distill_ray.events import JobState, StudyJob, stage
from distill_ray.resolve import CONFIRM, SEARCH, TEACH, confirm_runs, data_of, teacher_runs
from distill_ray.stages.stage_log import StageLog, stage_rows
from distill_ray.store import Store
from distill_ray.study import StudyDefinition


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path))


def teach(study: StudyDefinition, store: Store, runs: list[StudyJob], joules: float | None) -> None:
    log = StageLog(study, store)
    with stage(log, TEACH, 2):
        for run in runs:
            log.epoch(
                run, {"epoch": 1} | ({} if joules is None else {"system/energy_joules": joules})
            )
            log.ended(run, JobState.FINISHED, {}, "")


def test_energy_is_summed_over_epochs_and_runs(
    tiny_study: Callable[..., StudyDefinition], store: Store
) -> None:
    study = tiny_study()
    first, second = teacher_runs(study, data_of(study))
    teach(study, store, [first], 40.0)
    teach(study, store, [second], 2.5)
    (row,) = stage_rows(study, store)
    assert (row.stage, row.done, row.reused, row.joules) == (TEACH, 2, 0, 42.5)


def test_energy_that_no_device_reports_is_unknown(
    tiny_study: Callable[..., StudyDefinition], store: Store
) -> None:
    study = tiny_study()
    teach(study, store, list(teacher_runs(study, data_of(study))), None)
    (row,) = stage_rows(study, store)
    assert row.joules is None and row.done == 2


def test_jobs_that_another_study_had_trained_are_reused(
    tiny_study: Callable[..., StudyDefinition], store: Store
) -> None:
    """In the first run and in all later ones, which find the study's own as well."""
    study = tiny_study()
    first, second = teacher_runs(study, data_of(study))
    for _ in range(2):
        log = StageLog(study, store)
        with stage(log, TEACH, 2):
            log.past(first, JobState.FINISHED, list, {}, "")
            if not stage_rows(study, store)[0].done:
                log.ended(second, JobState.FINISHED, {}, "")
            else:
                log.past(second, JobState.FINISHED, list, {}, "")
        (row,) = stage_rows(study, store)
        assert (row.done, row.reused) == (1, 1)


def test_what_a_killed_driver_had_trained_is_known(
    tiny_study: Callable[..., StudyDefinition], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill_ray.stages.stage_log.PACE", 0.0)
    study = tiny_study()
    first, second = teacher_runs(study, data_of(study))
    killed = StageLog(study, store)
    killed.stage_started(TEACH, 2)
    killed.epoch(first, {"epoch": 1, "system/energy_joules": 10.0})
    killed.ended(first, JobState.FINISHED, {}, "")
    (row,) = stage_rows(study, store)
    assert (row.done, row.reused, row.joules) == (1, 0, 10.0) and row.seconds > 0
    log = StageLog(study, store)
    with stage(log, TEACH, 2):
        log.past(first, JobState.FINISHED, list, {}, "")
        log.ended(second, JobState.FINISHED, {}, "")
    assert [(row.done, row.reused) for row in stage_rows(study, store)] == [(2, 0)]


def test_jobs_beside_a_stage_count_in_their_own(
    tiny_study: Callable[..., StudyDefinition], store: Store
) -> None:
    """Where they are found later as what this study has trained."""
    study = tiny_study()
    data = data_of(study)
    first, second = confirm_runs(study, data, ["a", "b"], [])
    log = StageLog(study, store)
    with stage(log, SEARCH, 4):
        for run in (first, second):
            log.epoch(run, {"epoch": 1, "time": time.time(), "system/energy_joules": 10.0})
        log.ended(first, JobState.FINISHED, {}, "")
    with stage(log, CONFIRM, 2):
        log.past(first, JobState.FINISHED, list, {}, "")
        log.epoch(second, {"epoch": 1, "time": time.time(), "system/energy_joules": 10.0})
        log.ended(second, JobState.FINISHED, {}, "")
    search, confirm = stage_rows(study, store)
    assert (search.done, search.reused, search.joules) == (0, 0, None)
    assert (confirm.done, confirm.reused, confirm.joules) == (2, 0, 20.0)


def test_epochs_that_are_told_of_again_use_no_energy(
    tiny_study: Callable[..., StudyDefinition], store: Store
) -> None:
    """By a job that goes on from a checkpoint: one of this run, or one of the run before."""
    study = tiny_study()
    first, _ = teacher_runs(study, data_of(study))
    log = StageLog(study, store)
    with stage(log, TEACH, 2):
        now = time.time() + 1
        for epoch, at in ((1, now - 100), (2, now), (1, now - 100), (2, now), (3, now + 1)):
            log.epoch(first, {"epoch": epoch, "time": at, "system/energy_joules": 10.0})
    assert stage_rows(study, store)[0].joules == 20.0
