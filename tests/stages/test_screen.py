"""The screen stage: what is measured, what it is called in the store, and what it leaves of the
search.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distill_ray.augmentation import Additional, Augmentation, Crop, CutMix, Cutout, Identity
from distill_ray.augmentation.augmentation import Part
from distill_ray.execution.resources import WorkerResources
from distill_ray.execution.run_job import run_job
from distill_ray.execution.sharing import trial_sharing
from distill_ray.job import Data, Job, Recipe
from distill_ray.metrics.augmentation import Deviation
from distill_ray.records import Predictions, save_job
from distill_ray.resolve import confirm_runs, data_of, search_name, teacher_runs, trial_run
from distill_ray.stages.screen import (
    T_STDDEV,
    Screening,
    find_screening,
    kept_choices,
    measure,
    narrowed,
    run_screening,
    screening_sharing,
    screenings,
)
from distill_ray.store import Store
from distill_ray.study import StudyDefinition
from distill_ray.training import Dataset, load_dataset, train

CPU = torch.device("cpu")
SPACE = (
    "search.space={augmentation: {choice: [identity, crop, cutout]}, "
    "augmentation.size: {int: [2, 4]}, temperature: {log: [1, 20]}}"
)


class Confident:
    """Teachers that are sure of the class of each image, which its brightest third of columns
    tells; they never err.
    """

    networks = ()

    def __init__(self, members: int = 1) -> None:
        self.members = members
        self.shown: list[Part] = []

    def of_epoch(self, epoch: int) -> Confident:
        return self

    def __call__(self, part: Part) -> Tensor:
        self.shown.append(part)
        columns = part.images.mean(dim=(1, 2))[:, :6].unflatten(1, (3, 2)).mean(-1)
        return (1000.0 * columns).expand(self.members, -1, -1)


def screening(augmentation: Augmentation, data: Data, **settings: object) -> Screening:
    fields = {"epochs": 10, "images": None, "batch_size": 16, "seed": 3} | settings
    return Screening(augmentation=augmentation, data=data, teachers=("t" * 20,), **fields)  # type: ignore[arg-type]


def test_it_is_the_published_measure_of_the_batches_of_the_training_loader(
    small_dataset: Dataset, small_data: Data
) -> None:
    """Ten epochs of three batches (16, 16, 12): six groups of five, each the mean of the one-hot
    labels in it.
    """
    teachers = Confident()
    found = measure(screening(Identity(), small_data), small_dataset, teachers, CPU)
    labels = [part.labels.numpy() for part in teachers.shown]
    assert [len(batch) for batch in labels] == [16, 16, 12] * 10
    means = [
        np.eye(3)[np.concatenate(labels[first : first + 5])].mean(0) for first in range(0, 30, 5)
    ]
    assert found.metrics["screen/groups"] == 6
    assert found.metrics[T_STDDEV] == pytest.approx(np.std(means, axis=0, ddof=1).mean(), rel=1e-6)


def test_images_and_copies_stand_in_one_group(small_dataset: Dataset, small_data: Data) -> None:
    """Copies that are the images again leave the mean of a group, and so T. stddev, as it is (the
    published Identity).
    """
    plain = measure(screening(Crop(), small_data), small_dataset, Confident(), CPU)
    doubled = measure(
        screening(Additional(scheme="identity", flip=False), small_data),
        small_dataset,
        Confident(),
        CPU,
    )
    assert doubled.metrics["screen/groups"] == plain.metrics["screen/groups"] == 6
    assert doubled.metrics[T_STDDEV] == pytest.approx(plain.metrics[T_STDDEV], rel=1e-6)


def test_several_teachers_count_by_their_mean_prediction(
    small_dataset: Dataset, small_data: Data
) -> None:
    class Divided(Confident):
        def __call__(self, part: Part) -> Tensor:
            sure = super().__call__(part)
            return torch.cat([sure, torch.zeros_like(sure)])

    asked = screening(Identity(), small_data)
    whole = measure(asked, small_dataset, Confident(), CPU).deviation.value
    assert measure(asked, small_dataset, Confident(3), CPU).deviation.value == pytest.approx(whole)
    assert measure(asked, small_dataset, Divided(), CPU).deviation.value == pytest.approx(
        whole / 2, rel=1e-6
    )


def test_a_pick_by_the_teachers_is_measured_on_what_is_picked(
    small_dataset: Dataset, small_data: Data
) -> None:
    teachers = Confident()
    measure(
        screening(Additional(pick="teacher-entropy", flip=False), small_data, epochs=4),
        small_dataset,
        teachers,
        CPU,
    )
    assert [len(part.images) for part in teachers.shown[:4]] == [16, 32, 16, 32]


def test_fewer_images_are_the_same_in_every_epoch(small_dataset: Dataset, small_data: Data) -> None:
    teachers = Confident()
    measure(screening(Identity(), small_data, images=8, batch_size=8), small_dataset, teachers, CPU)
    shown = {part.images.sum().item() for part in teachers.shown}
    assert len(teachers.shown) == 10
    assert max(shown) - min(shown) < 1e-3


def test_the_result_is_stored_under_all_that_decides_it_and_never_measured_twice(
    tmp_path: object, small_data: Data, tiny_study: Callable[..., StudyDefinition]
) -> None:
    study = tiny_study("teachers.members=1", "screen={epochs: 6}")
    data = data_of(study)
    store = Store.open(str(tmp_path))
    (run,) = teacher_runs(study, data)
    dataset = load_dataset(data)
    (wanted, other) = screenings(study, data, [run.job.id])
    save_job(store, run.job, **_trained(run.job, dataset))
    run_screening(store, wanted, WorkerResources())
    first = find_screening(store, wanted)
    assert first is not None and first.deviation.value > 0
    assert find_screening(store, other) is None
    written = store.names(wanted.key)
    run_screening(store, wanted, WorkerResources())
    assert store.names(wanted.key) == written
    assert Screening.from_dict(wanted.to_dict()) == wanted


def test_it_shares_the_teacher_logits_of_the_trials(
    tmp_path: Path, small_data: Data, tiny_study: Callable[..., StudyDefinition]
) -> None:
    study = tiny_study(
        "teachers.members=1",
        "screen={epochs: 2, batch_size: 8}",
        "resources.teacher_logits.mode=cached",
    )
    data, store = data_of(study), Store.open(str(tmp_path))
    (teacher,) = teacher_runs(study, data)
    save_job(store, teacher.job, **_trained(teacher.job, load_dataset(data)))
    (wanted, _) = screenings(study, data, [teacher.job.id])
    sharing = screening_sharing(study, wanted)
    run_screening(store, wanted, WorkerResources(sharing=sharing))
    shared = find_screening(store, wanted)
    made = [path for path, *_ in store.tree("teacher_logits") if path.endswith("manifest.json")]
    assert len(made) == 2
    trial = trial_run(
        study,
        data,
        [teacher.job.id],
        0,
        {"temperature": 4.0, "alpha": 0.9, "augmentation": "identity"},
    )
    for _ in run_job(store, trial.job, WorkerResources(sharing=trial_sharing(study))):
        pass
    assert [
        path for path, *_ in store.tree("teacher_logits") if path.endswith("manifest.json")
    ] == made
    store.delete(wanted.key)
    run_screening(store, wanted, WorkerResources())
    live = find_screening(store, wanted)
    assert shared is not None and live is not None
    assert shared.deviation.value == pytest.approx(live.deviation.value, rel=1e-3)


@pytest.mark.parametrize(
    "override",
    [
        "screen={images: 32}",
        "screen={candidates: [cutmix]}",
        "screen={candidates: [identity, {name: crop, padding: 1}]}",
    ],
)
def test_what_no_trial_asks_for_is_not_stored(
    override: str, tiny_study: Callable[..., StudyDefinition], small_data: Data
) -> None:
    study = tiny_study(override, "resources.teacher_logits.mode=cached")
    assert not screening_sharing(study, screenings(study, small_data, ["t" * 20])[-1]).stores(
        Identity()
    )


def _trained(job: Job, dataset: Dataset) -> dict[str, Any]:
    steps = train(job, dataset)
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            outcome = stop.value
            kept = {
                name: getattr(outcome, name)
                for name in ("weights", "epochs", "kept_epoch", "parameters")
            }
            return kept | {"predictions": Predictions(outcome.log_probabilities, outcome.labels)}


@pytest.mark.parametrize(
    "change",
    [
        {"augmentation": Crop()},
        {"epochs": 11},
        {"images": 9},
        {"batch_size": 17},
        {"seed": 4},
        {"teachers": ("u" * 20,)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_changes_the_result_changes_the_identity(
    small_data: Data, change: dict[str, object]
) -> None:
    asked = screening(Identity(), small_data)
    assert replace(asked, **change).id != asked.id  # type: ignore[arg-type]


def test_where_the_data_lie_does_not_change_the_identity(small_data: Data) -> None:
    asked = screening(Identity(), small_data)
    assert (
        replace(asked, data=replace(small_data, location="elsewhere", name="other")).id == asked.id
    )


def test_the_best_choices_stay_in_the_search(tiny_study: Callable[..., StudyDefinition]) -> None:
    study = tiny_study(
        SPACE,
        "screen={keep: 2, epochs: 6}",
        "search.try_first=[{augmentation: cutout, augmentation.size: 2}, {augmentation: crop}]",
    )
    values = {Identity(): Deviation(0.3), Crop(): Deviation(0.1), Cutout(): Deviation(0.2)}
    assert kept_choices(study, values) == [Crop(), Cutout()]
    less = narrowed(study, values | {Cutout(): Deviation(0.4)})
    assert [dimension.name for dimension in less.search.space.dimensions] == [
        "augmentation",
        "temperature",
    ]
    assert less.search.space["augmentation"].limits == (Identity(), Crop())
    assert less.search.try_first == ({"augmentation": "crop"},)
    data = data_of(study)
    assert search_name(less, data, ["a", "b"]) != search_name(study, data, ["a", "b"])
    assert (
        trial_run(less, data, ["a", "b"], 0, {"augmentation": "crop"}).job.recipe.augmentation
        == Crop()
    )


def test_a_choice_that_needs_a_student_stays_and_is_not_measured(
    tiny_study: Callable[..., StudyDefinition],
) -> None:
    space = (
        "search.space={augmentation: {choice: [identity, cutmix, {name: additional, pick: kl}]}}"
    )
    study = tiny_study(space, "search.try_first=[]", "screen={keep: 1, epochs: 6}")
    assert [asked.augmentation for asked in screenings(study, data_of(study), ["a"])] == [
        Identity(),
        CutMix(),
    ]
    assert kept_choices(study, {Identity(): Deviation(0.3), CutMix(): Deviation(0.1)}) == [
        CutMix(),
        Additional(pick="kl"),
    ]


def test_without_keep_the_search_is_left_as_it_was(
    tiny_study: Callable[..., StudyDefinition],
) -> None:
    study = tiny_study("screen={epochs: 6}")
    assert narrowed(study, {Identity(): Deviation(0.1), Crop(): Deviation(0.2)}) is study


def test_recipes_of_students_know_their_groups_of_teachers(
    tiny_study: Callable[..., StudyDefinition],
) -> None:
    group = (
        "{members: 1, model: wrn-10-1, epochs: 1, batch_size: 32, augmentation: identity, name: %s}"
    )
    groups = f"teachers=[{group % 'one'}, {group % 'two'}, {group % 'three'}]"
    study = tiny_study(
        groups, "student.teachers=[three, one]", "confirm.baselines={b: {teachers: [two]}}"
    )
    data = data_of(study)
    ids = [run.job.id for run in teacher_runs(study, data)]
    assert trial_run(study, data, ids, 0, {}).job.teachers == (ids[0], ids[2])
    runs = confirm_runs(study, data, ids, [Recipe(model="wrn-10-1", method=study.student.method)])
    assert {run.role: run.job.teachers for run in runs} == {
        "b": (ids[1],),
        "best": (ids[0], ids[2]),
    }


def test_only_what_is_behind_beyond_chance_is_left_out(
    tiny_study: Callable[..., StudyDefinition],
) -> None:
    """Crop is lowest; Cutout varies with it from image to image, Identity is far behind."""
    study = tiny_study(SPACE, "search.try_first=[]", "screen={drop_behind: true, epochs: 6}")
    blocks = np.linspace(-0.001, 0.001, 20)
    values = {
        Identity(): Deviation(0.3, tuple(0.3 + blocks)),
        Crop(): Deviation(0.1, tuple(0.1 + blocks)),
        Cutout(): Deviation(0.105, tuple(0.105 - blocks)),
    }
    assert kept_choices(study, values) == [Crop(), Cutout()]
    # The same values where nothing is known of their errors: nobody is left out
    unknown = {augmentation: Deviation(each.value) for augmentation, each in values.items()}
    assert kept_choices(study, unknown) == [Identity(), Crop(), Cutout()]


def test_errors_over_images_and_teachers(small_dataset: Dataset, small_data: Data) -> None:
    """Teachers that agree have no error over teachers; those that do not have one, which is that of
    leaving each of them out. The groups of images are the same for each augmentation.
    """

    class Divided(Confident):
        def __call__(self, part: Part) -> Tensor:
            sure = super().__call__(part)
            return torch.cat([sure, sure / 1000, torch.zeros_like(sure)])

    asked = replace(screening(Identity(), small_data), teachers=("a", "b", "c"))
    alike = measure(asked, small_dataset, Confident(3), CPU)
    assert len(alike.deviation.without_images) == 20
    assert alike.deviation.over_teachers == pytest.approx(0)
    found = measure(asked, small_dataset, Divided(), CPU)
    alone = [
        measure(screening(Identity(), small_data), small_dataset, teachers, CPU).deviation.value
        for teachers in (Confident(), Confident())
    ]
    assert found.deviation.without_teachers[2] > found.deviation.without_teachers[0]
    assert found.metrics["screen/t-stddev-error-teachers"] == found.deviation.over_teachers
    assert alone[0] == alone[1]
    one = measure(screening(Identity(), small_data), small_dataset, Confident(), CPU)
    assert one.deviation.over_teachers is None
    assert "screen/t-stddev-error-teachers" not in one.metrics
