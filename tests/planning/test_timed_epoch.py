"""What an epoch takes is judged from some of its batches, and without teachers that are stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from distill_ray.execution.sharing import Sharing
from distill_ray.job import Job
from distill_ray.methods import METHODS
from distill_ray.planning import timed_epoch
from distill_ray.planning.plan_teacher_logits import teacher_logits_key
from distill_ray.planning.timed_epoch import epoch_seconds, timed_form
from distill_ray.resolve import data_of
from distill_ray.study import StudyDefinition
from distill_ray.testing.methods import fitting
from distill_ray.training import (
    Dataset,
    LiveTeachers,
    StoredTeachers,
    TeacherLogits,
    Worker,
)

HERE = Worker(torch.device("cpu"))


def dataset_of(classes: int, images: int = 96) -> Dataset:
    """Random images, five sixths of them for training."""
    pixels = np.random.default_rng(0).integers(0, 256, (images, 8, 8, 1), np.uint8)
    names = tuple(map(str, range(classes)))
    rows = np.split(np.arange(images), [images * 5 // 6])
    return Dataset(pixels, np.arange(images) % classes, *rows, names, (0.5,), (0.3,))


def job_of(study: StudyDefinition, **changes: Any) -> Job:
    recipe = timed_form(replace(study.student, **changes))
    return Job(recipe=recipe, data=data_of(study), seed=3, teachers=("a", "b"))


def test_an_epoch_of_many_images_is_judged_by_as_many_as_take_a_while(
    tiny_study: Callable[..., StudyDefinition], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each epoch takes 10 ms, and 0.1 ms for each image, when it is neither the first nor the
    last.
    """
    shown: list[int] = []

    def train(job: Job, dataset: Dataset, *_: Any, **__: Any) -> Iterator[dict[str, float]]:
        shown.append(len(dataset.train))
        for epoch in range(1, job.recipe.epochs + 1):
            between = 1 < epoch < job.recipe.epochs
            yield {"seconds": 0.01 + 1e-4 * len(dataset.train) if between else 100.0}

    monkeypatch.setattr(timed_epoch, "train", train)
    job = replace(job_of(tiny_study()), teachers=())
    live = LiveTeachers((), HERE.device, "fp32")
    few, many = dataset_of(10, 1200), dataset_of(10, 60000)
    assert epoch_seconds(job, few, live, HERE) == pytest.approx(0.01 + 0.1)
    assert shown[0] == 4 * 32 and shown[-1] == 1000, "all of them, as they take no longer"
    shown.clear()
    assert epoch_seconds(job, many, live, HERE) == pytest.approx(0.01 + 5.0, rel=0.05)
    assert 2400 <= shown[-1] < 10000
    monkeypatch.setattr(timed_epoch, "TIMED_S", 0.02)
    shown.clear()
    epoch_seconds(job, many, live, HERE)
    assert shown == [4 * 32], "what takes longer is not timed twice"


@pytest.mark.parametrize("classes", [10, 600])
@pytest.mark.parametrize("name", sorted(name for name in METHODS if METHODS[name].needs_teachers))
def test_every_method_can_be_timed_with_answers_that_are_stored(
    name: str, classes: int, tiny_study: Callable[..., StudyDefinition]
) -> None:
    """Nothing diverges, also where the largest logits alone are kept, and with any augmentation."""
    study, method = tiny_study(), METHODS[name]()
    for augmentation in fitting(method, study.student.model):
        job = job_of(study, method=method, augmentation=augmentation)
        if Sharing("cached").stores_for(job.recipe):
            key = teacher_logits_key(job, Sharing("cached"), classes)
            assert epoch_seconds(job, dataset_of(classes), key, HERE) > 0


@pytest.mark.parametrize(("classes", "kept"), [(10, 10), (600, 75)])
def test_answers_have_the_form_of_stored_ones(
    classes: int,
    kept: int,
    tiny_study: Callable[..., StudyDefinition],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In half precision, of both teachers, of many classes the largest alone, and the same in every
    epoch.
    """
    opened: list[TeacherLogits] = []

    def stored(teacher_logits: TeacherLogits, device: torch.device) -> StoredTeachers:
        opened.append(teacher_logits)
        return StoredTeachers(teacher_logits, device)

    monkeypatch.setattr(timed_epoch, "StoredTeachers", stored)
    dataset, job = dataset_of(classes), job_of(tiny_study())
    epoch_seconds(job, dataset, teacher_logits_key(job, Sharing("cached"), classes), HERE)
    (logits,) = {id(each): each.logits for each in opened}.values()
    assert len(opened) == 2 and len(logits) == 1
    assert logits[0].shape == (80, 1, 2, kept) and logits[0].dtype == np.float16
