"""The answer stage: which versions teachers are asked about, computed once, and by whom."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from distill_ray.execution.messages import Finished
from distill_ray.execution.resources import WorkerResources
from distill_ray.execution.run_job import run_job
from distill_ray.execution.sharing import STORED
from distill_ray.execution.train_job import cached_teachers
from distill_ray.planning.plan import plan_study
from distill_ray.resolve import confirm_runs, data_of, trial_run
from distill_ray.stages.answer import (
    AnswerTask,
    answer_tasks,
    answers_for,
    answers_for_search,
    replace_precision,
)
from distill_ray.stages.state import StudyState
from distill_ray.stages.status import study_status
from distill_ray.store import MANIFEST, Store
from distill_ray.study import StudyDefinition, load_study
from distill_ray.training import LiveTeachers, teacher_logits_key
from distill_ray.training.device import AUTO_PRECISION

HERE = WorkerResources(sharing=STORED)


@pytest.fixture
def store(finished_study: Any, tmp_path: Path) -> Store:
    """The store of a study whose teachers are trained."""
    shutil.copytree(finished_study.store.uri, tmp_path / "store")
    return Store.open(str(tmp_path / "store"))


def study_with(finished_study: Any, *overrides: str) -> StudyDefinition:
    return load_study(finished_study.file, ["student.versions=2", *overrides])


def state_of(study: StudyDefinition, store: Store) -> StudyState:
    return StudyState(study, data_of(study), store)


def images_of(task: AnswerTask) -> int:
    """Do a task; how many images the teachers answered for."""
    work = task.work()
    while True:
        try:
            next(work)
        except StopIteration as end:
            assert isinstance(end.value, Finished)
            return int(end.value.metrics["teacher_images"])


def test_teachers_answer_once_for_all_trials_and_seeds(
    finished_study: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For two augmentations in two versions, whatever the seed; no job asks them again."""
    monkeypatch.setattr(teacher_logits_key, "SHARD", 40)
    study = study_with(finished_study)
    state = state_of(study, store)
    asked = state.answers()
    assert [(answers.name, answers.versions) for answers in asked] == [
        ("identity", (1, 2)),
        ("crop", (1, 2)),
    ]
    tasks = answer_tasks(asked, store, HERE)
    assert [len(task.pieces) for task in tasks] == [1] * 12
    assert study_status(state).stages[1].jobs == 12
    assert sum(map(images_of, tasks)) == 4 * 96
    assert answer_tasks(asked, store, HERE) == []
    assert study_status(state).stages[1].ended == 12
    before = LiveTeachers.images
    drawn = {"temperature": 4.0, "alpha": 0.9, "augmentation": "crop"}
    trial = trial_run(study, state.data, state.teacher_ids, 0, drawn)
    runs = confirm_runs(study, state.data, state.teacher_ids, [trial.job.recipe])
    confirmed = [run for run in runs if run.role == "best"]
    assert len({run.job.seed for run in confirmed}) == 2
    for run in (trial, *confirmed):
        for _ in run_job(store, run.job, HERE):
            pass
    assert LiveTeachers.images == before


def test_the_plan_has_a_line_for_it(finished_study: Any, store: Store) -> None:
    """Students then cost what they cost without teachers."""
    study = study_with(finished_study, "search.trials=8")
    plan = {stage.stage: stage for stage in plan_study(state_of(study, store))}
    assert (plan["answer"].jobs, plan["answer"].done, plan["answer"].images) == (4, 0, 4 * 96)
    assert plan["answer"].job_seconds > 0 and plan["search"].teacher_logits == ()


def test_only_what_is_missing_is_asked_for(finished_study: Any, store: Store) -> None:
    """More versions, and a version that is gone; fewer need nothing."""
    study = study_with(finished_study)
    for task in answer_tasks(state_of(study, store).answers(), store, HERE):
        images_of(task)
    more = state_of(study_with(finished_study, "student.versions=3"), store)
    epochs = state_of(study_with(finished_study, "student.versions=3", "student.epochs=3"), store)
    fewer = state_of(study_with(finished_study, "student.versions=1"), store)
    assert {task.pieces for task in answer_tasks(epochs.answers(), store, HERE)} == {((3, 0),)}
    assert len(more.answers()[0].versions) == 2, "two epochs show two of the three"
    assert answer_tasks(fewer.answers(), store, HERE) == []
    (manifest, *_) = (path for path, *_ in store.tree("teacher_logits") if path.endswith(MANIFEST))
    store.delete(manifest)
    (again,) = answer_tasks(state_of(study, store).answers(), store, HERE)
    assert images_of(again) == 96


def test_answers_in_another_precision_are_not_those_asked_for(
    finished_study: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Students look for theirs in the precision of this machine, so that the stage, its status and
    the plan go by that too. Where workers have GPUs and this machine has none, whose precision it
    is cannot be told, and answers in any count.
    """
    state = state_of(study_with(finished_study), store)
    for precision in ("fp32", "bf16"):
        monkeypatch.setenv(AUTO_PRECISION, precision)
        cached_teachers.cache_clear()
        tasks = answer_tasks(state.answers(), store, HERE)
        assert study_status(state).stages[1].ended == 0
        assert sum(map(images_of, tasks)) == 4 * 96
        assert answer_tasks(state.answers(), store, HERE) == []
        assert study_status(state).stages[1].ended == 4
    monkeypatch.setenv(AUTO_PRECISION, "fp32")
    for answers in state.answers():
        store.delete(f"teacher_logits/{replace_precision(answers.key, 'fp32').id}")
    assert len(answer_tasks(state.answers(), store, HERE)) == 4
    on_gpus = state_of(study_with(finished_study, "resources.gpus_per_worker=1"), store)
    assert answer_tasks(on_gpus.answers(), store, HERE) == []


def test_baselines_have_their_answers_before_the_search(finished_study: Any, store: Store) -> None:
    """They may begin beside it."""
    study = study_with(
        finished_study, "search.trials=8", "student.versions=5", "confirm.baselines=[default-kd]"
    )
    shown = study.student.image_versions
    assert shown is not None
    of_trials = set(shown.shown_to(2, [study.trial_seed]))
    of_all = of_trials | set(shown.shown_to(2, study.confirm_seeds))
    assert [
        (answers.name, set(answers.versions)) for answers in state_of(study, store).answers()
    ] == [
        ("identity", of_all),
        ("crop", of_trials),
    ]
    assert of_trials < of_all


def test_nothing_is_asked_where_it_is_not_known_or_not_wanted(
    finished_study: Any, store: Store
) -> None:
    def asked(*overrides: str) -> int:
        study = study_with(finished_study, *overrides)
        return len(answers_for_search(study, data_of(study), ["a", "b"]))

    drawn = "search.space={augmentation.padding: {int: [1, 3]}}"
    assert asked() == 2
    assert asked("student.versions=null") == 0
    assert asked("resources.teacher_logits.mode=live") == 0
    assert asked("student.augmentation=crop", "search.try_first=[]", drawn) == 0
    study = study_with(finished_study)
    scratch = [
        run.job
        for run in confirm_runs(study, data_of(study), ["a", "b"], [study.student])
        if run.role == "scratch"
    ]
    assert Counter(job.recipe.versions for job in scratch) == {None: 2}
    assert answers_for(scratch, STORED, data_of(study)) == []
