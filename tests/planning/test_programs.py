"""Plans time teachers as they will answer: as programs where a pass has many images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distill_ray.augmentation import Part
from distill_ray.models import build_model
from distill_ray.planning import plan, programs
from distill_ray.planning.bench import LIVE, STUDENT, TEACHER_LOGITS
from distill_ray.planning.bench_record import keep_bench
from distill_ray.planning.plan import StagePlan, plan_study
from distill_ray.planning.programs import Programs, time_programs
from distill_ray.resolve import data_of
from distill_ray.stages.state import StudyState
from distill_ray.store import Store
from distill_ray.study import StudyDefinition
from distill_ray.training import LiveTeachers, fused, teacher_logits
from support.bench import BENCH

CPU = torch.device("cpu")
IMAGES, EPOCHS, AUGMENTATIONS, TRIALS = 96, 2, 2, 4
"""Of `tiny.yaml`."""


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Timed(LiveTeachers):
    """Teachers that take 20 ms an image, and 5 ms as programs, which takes 3 s for each network."""

    def __init__(self, clock: Clock, networks: list[torch.nn.Module]) -> None:
        super().__init__(networks, CPU, "fp32")
        self.clock, self.shown, self.is_program = clock, [0], False

    def __call__(self, part: Part) -> Tensor:
        self.clock.now += 0.02 * len(part.images)
        self.shown.append(len(part.images))
        return torch.empty(0)

    def of_many(self, part: Part) -> Tensor:
        self.clock.now += 0.005 * len(part.images)
        if not self.is_program:
            self.clock.now += 3.0 * len(set(self.networks))
        self.is_program = True
        return torch.empty(0)


def test_programs_are_timed_and_so_is_making_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four teachers, of which two are the same network, with images whose pass takes half a second:
    making four programs takes as long as making each of the three kinds, and one more.
    """
    clock = Clock()
    monkeypatch.setattr(programs, "time", clock)
    networks: list[torch.nn.Module] = [torch.nn.Linear(2, 2) for _ in range(3)]
    teachers = Timed(clock, [*networks, networks[0]])
    found = time_programs(teachers, (3, 8, 8), CPU)
    assert found.layers == pytest.approx(0.02)
    assert found.program == pytest.approx(0.005)
    assert found.making == pytest.approx(4 * 3.0)
    assert max(teachers.shown) == 25
    assert time_programs(LiveTeachers((), CPU, "fp32"), (3, 8, 8), CPU) == Programs()
    assert time_programs(teachers, (3, 8, 8), torch.device("cuda")) == Programs()


def test_what_they_spare_is_of_the_teachers_alone() -> None:
    """To make an image takes 0.1 s of 1.1 in both; a third of the images come layer by layer."""
    times = Programs(layers=1.0, program=0.25)
    assert times.seconds(1.1, 1.0) == pytest.approx(0.35)
    assert times.seconds(1.1, 2 / 3) == pytest.approx(0.6)
    assert times.seconds(0.5, 1.0) == pytest.approx(0.125), "the machine was busier meanwhile"
    assert Programs().seconds(1.1, 0.0) == 1.1


def test_a_network_that_is_there_twice_becomes_one_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[object] = []

    def program(network: Any, *_: Any) -> Callable[[Tensor], Tensor]:
        made.append(network)
        return lambda batch: network(batch).float()

    monkeypatch.setattr(fused, "_program", program)
    one, other = (
        build_model("wrn-10-1", num_classes=5, image_shape=(3, 8, 8), seed=seed) for seed in (1, 2)
    )
    teachers = LiveTeachers([one, other, one], CPU, "fp32")
    part = Part(torch.rand(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64))
    torch.testing.assert_close(teachers.of_many(part), teachers(part))
    assert made == [one, other]


TIMES = Programs(layers=1.0, program=0.25, making=7.0)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many teachers were timed as programs, which answer from 96 images on."""
    asked: list[int] = []

    def times(teachers: LiveTeachers, *_: Any) -> Programs:
        asked.append(len(teachers))
        return TIMES

    monkeypatch.setattr(plan, "time_programs", times)
    monkeypatch.setattr(plan, "LOADING_S", 0.0)
    monkeypatch.setattr(plan, "epoch_seconds", lambda *_: 1000.0)
    monkeypatch.setattr(teacher_logits, "MANY", IMAGES)
    return asked


def planned(study: StudyDefinition, store: Store) -> dict[str, StagePlan]:
    """A plan where live teachers take 1.25 s an image, as `bench` has measured."""
    steps = {STUDENT: 3.0, LIVE: 43.0, TEACHER_LOGITS: 3.0}
    keep_bench(store, study, replace(BENCH, batch_size=32, steps=steps, teachers=40.0))
    stages = plan_study(StudyState(study, data_of(study), store))
    return {stage.stage: stage for stage in stages}


def test_a_plan_counts_programs_for_what_is_stored(
    timed: list[int], tiny_study: Callable[..., StudyDefinition], tmp_path: Path
) -> None:
    """And layers for what is not, or is stored exactly; the time to make them once."""
    store = Store.open(str(tmp_path))
    (search,) = planned(tiny_study(), store)["search"].teacher_logits
    image = 1.25 - (1.0 - 0.25)
    assert search.seconds == pytest.approx(7.0 + AUGMENTATIONS * EPOCHS * IMAGES * image)
    assert search.live_seconds == pytest.approx(TRIALS * EPOCHS * IMAGES * 1.25)
    assert timed == [2], "once for the search and the confirmations"
    exact = tiny_study("resources.teacher_logits.precision=fp32")
    (search,) = planned(exact, store)["search"].teacher_logits
    assert search.seconds == pytest.approx(AUGMENTATIONS * EPOCHS * IMAGES * 1.25)
    assert timed == [2]


def test_each_process_that_answers_makes_programs(
    timed: list[int],
    tiny_study: Callable[..., StudyDefinition],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two of them, side by side: the time of the stage has that once."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    study = tiny_study("student.versions=2")
    answer = planned(study, Store.open(str(tmp_path)))["answer"]
    images = AUGMENTATIONS * 2 * IMAGES
    assert answer.images == images
    assert answer.seconds == pytest.approx(7.0 + images * 0.5 / 2)
    assert answer.job_seconds == pytest.approx(2 * 7.0 + images * 0.5)
    assert timed == [2]


def test_few_images_and_gpus_take_no_programs(
    timed: list[int],
    tiny_study: Callable[..., StudyDefinition],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(teacher_logits, "MANY", IMAGES + 1)
    study = tiny_study("student.versions=2")
    answer = planned(study, Store.open(str(tmp_path)))["answer"]
    assert answer.job_seconds == pytest.approx(AUGMENTATIONS * 2 * IMAGES * 1.25)
    assert timed == []
