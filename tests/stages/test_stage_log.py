"""What the stages took, over several runs of a study."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from distill_ray.events import Run, stage
from distill_ray.resolve import TEACH, data_of, teacher_runs
from distill_ray.stages.stage_log import StageLog, stage_rows
from distill_ray.store import Store
from distill_ray.study import Study


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path))


def teach(study: Study, store: Store, runs: list[Run], joules: float | None) -> None:
    log = StageLog(study, store)
    with stage(log, TEACH, 2):
        for run in runs:
            log.epoch(run, {"epoch": 1} | ({} if joules is None else {"system/energy_joules": joules}))
            log.ended(run, "finished", {}, "")


def test_energy_is_summed_over_epochs_and_runs(tiny_study: Callable[..., Study], store: Store) -> None:
    study = tiny_study()
    first, second = teacher_runs(study, data_of(study))
    teach(study, store, [first], 40.0)
    teach(study, store, [second], 2.5)
    (row,) = stage_rows(study, store)
    assert (row.stage, row.done, row.reused, row.joules) == (TEACH, 2, 0, 42.5)


def test_energy_that_no_device_reports_is_unknown(tiny_study: Callable[..., Study], store: Store) -> None:
    study = tiny_study()
    teach(study, store, list(teacher_runs(study, data_of(study))), None)
    (row,) = stage_rows(study, store)
    assert row.joules is None and row.done == 2
