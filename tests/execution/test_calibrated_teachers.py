"""Students of calibrated teachers learn from logits divided by the temperature that is fitted to
each teacher on the validation split, live or stored.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distill_ray.errors import RequestError
from distill_ray.execution.resources import WorkerResources
from distill_ray.execution.run_job import run_job
from distill_ray.execution.sharing import LIVE, STORED, Sharing
from distill_ray.execution.teacher_cache import ROOT
from distill_ray.job import Data, Job
from distill_ray.metrics import fit_temperature
from distill_ray.records import JobRecord, find_job, save_job
from distill_ray.resolve import (
    calibrated,
    comparable,
    confirm_runs,
    data_of,
    search_name,
    teacher_runs,
    trial_run,
)
from distill_ray.store import Store
from distill_ray.study import StudyDefinition, check_against_data, load_study

STUDY = """
name: calibrated
data: {source: digits, train: 96, validation: 100}
teachers:
- {name: smooth, members: 1, model: mlp-8, epochs: 20, label_smoothing: 0.6, calibrate: true}
- {name: plain, members: 1, model: mlp-8, epochs: 2, batch_size: 32}
student: {model: mlp-4, method: kd, epochs: 2, batch_size: 32, augmentation: crop, precision: fp32}
search: {trials: 1, space: {alpha: {uniform: [0.1, 1.0]}}}
confirm: {seeds: 1, baselines: {scratch: {method: supervised}, of-plain: {teachers: [plain]}}}
"""


@pytest.fixture
def study(tmp_path: Path) -> StudyDefinition:
    (tmp_path / "study.yaml").write_text(STUDY)
    return load_study(tmp_path / "study.yaml")


@pytest.fixture
def data(study: StudyDefinition) -> Data:
    return data_of(study)


def finished(store: Store, job: Job, sharing: Sharing = LIVE) -> JobRecord:
    for _ in run_job(store, job, WorkerResources(sharing=sharing)):
        pass
    record = find_job(store, job.id)
    assert record is not None
    return record


def nll_of(record: JobRecord) -> np.ndarray:
    predictions = record.predictions("validation")
    assert predictions is not None
    return predictions.log_probabilities


def test_students_learn_as_from_teachers_with_scaled_weights(
    study: StudyDefinition, data: Data, tmp_path: Path
) -> None:
    """Dividing the classifier of a teacher by its temperature gives the same student, within
    rounding; so do stored logits, which are those of students of the same teachers as they are.
    """
    store = Store.open(str(tmp_path / "store"))
    smooth, plain = (run.job for run in teacher_runs(study, data))
    taught = finished(store, smooth)
    finished(store, plain)
    predicted = taught.predictions("validation")
    assert predicted is not None
    temperature = fit_temperature(predicted.log_probabilities, predicted.labels)
    assert abs(np.log(temperature)) > 0.2

    student = trial_run(study, data, [smooth.id, plain.id], 0, {"alpha": 0.9}).job
    assert (student.teachers, student.calibrated) == ((smooth.id, plain.id), (smooth.id,))
    live = nll_of(finished(store, student))

    weights = taught.weights()
    classifier = [name for name, tensor in weights.items() if len(tensor) == 10][-2:]
    scaled = replace(smooth, seed=99)
    save_job(
        store,
        scaled,
        weights=weights | {name: weights[name] / temperature for name in classifier},
        epochs=taught.epochs(),
        kept_epoch=20,
        predictions=predicted,
        parameters=taught.parameters,
    )
    by_weights = replace(student, teachers=(scaled.id, plain.id), calibrated=())
    np.testing.assert_allclose(nll_of(finished(store, by_weights)), live, atol=1e-4)

    other = Store.open(str(tmp_path / "other"))
    for teacher in (smooth, plain):
        finished(other, teacher)
    stored = nll_of(finished(other, student, STORED))
    np.testing.assert_allclose(stored, live, atol=1e-2)
    pieces = [path for path, _, _ in other.tree(ROOT)]
    as_they_are = nll_of(finished(other, replace(student, calibrated=()), STORED))
    assert np.abs(as_they_are - stored).max() > 0.05
    assert [path for path, _, _ in other.tree(ROOT)] == pieces


def test_calibration_is_part_of_what_students_are(study: StudyDefinition, data: Data) -> None:
    """Only of those that learn from calibrated teachers, and not of the teachers themselves."""
    ids = [run.job.id for run in teacher_runs(study, data)]
    without = load_study(study.path, ["teachers.0.calibrate=false"])
    assert [run.job.id for run in teacher_runs(without, data)] == ids
    recipes = [study.student]
    here, there = (
        {run.role: run.job for run in confirm_runs(each, data, ids, recipes)}
        for each in (study, without)
    )
    assert [role for role in here if here[role].id != there[role].id] == ["best"]
    assert calibrated(study, ids) == ids[:1] and calibrated(without, ids) == []
    assert search_name(study, data, ids) != search_name(without, data, ids)
    assert comparable(study, data, ids) != comparable(without, data, ids)
    assert study.to_dict()["teachers"][0]["calibrate"] is True
    assert "calibrate" not in without.to_dict()["teachers"][0]


def test_real_valued_targets_have_no_temperature(study: StudyDefinition) -> None:
    with pytest.raises(RequestError, match=r"teachers\.0\.calibrate: .* is for classes"):
        check_against_data(study, 1797, 1, (1, 8, 8), task="regression")
    with pytest.raises(RequestError, match=r"calibrate: found 'yes', must be"):
        load_study(study.path, ["teachers.0.calibrate='yes'"])
