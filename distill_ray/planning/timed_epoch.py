"""What an epoch of a job takes on this machine, judged from some of its batches."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from distill_ray.job import Job, Recipe
from distill_ray.planning.bench import some_of
from distill_ray.training import (
    Dataset,
    EpochTeachers,
    LiveTeachers,
    StoredTeachers,
    TeacherLogits,
    TeacherLogitsKey,
    Worker,
    compute_teacher_logits,
    train,
)

TIMED_BATCHES, TIMED_LR = 4, 1e-3

TIMED_S = 0.25
"""Seconds that the timed batches take at least, if the epoch has so many: in a few milliseconds,
what an epoch takes once and not for each image would count for too much.
"""

EVEN = 0.02
"""Spread of the logits that stand for stored ones: so even that half precision holds them, that the
largest of them and an even tail do, and that no method diverges by what it learns from them.
"""


def timed_form(recipe: Recipe) -> Recipe:
    """The recipe as it is timed: in the second of three epochs, which is like those between the
    first and the last. With a small learning rate it cannot diverge by what it learns from teachers
    that are not trained yet.
    """
    return replace(recipe, epochs=3, warmup_epochs=0.0, milestones=(), lr=TIMED_LR, final_lr=0.0)


def epoch_seconds(
    job: Job, dataset: Dataset, teachers: LiveTeachers | TeacherLogitsKey, worker: Worker
) -> float:
    """An epoch's time, judged from `TIMED_BATCHES`, or from as many as take `TIMED_S`.

    The teachers of the job are those that answer live, or the key by which their logits are stored:
    then it is timed as when all of them are, and no teacher runs.
    """
    batches = TIMED_BATCHES
    while True:
        few = some_of(dataset, batches * job.recipe.batch_size)
        share = len(few.train) / len(dataset.train)
        answering = _answering(teachers, few, worker) if job.teachers else None
        _, timed = itertools.islice(train(job, few, answering, worker=worker), 2)
        if timed["seconds"] >= TIMED_S or share == 1:
            return timed["seconds"] / share
        batches *= max(2, math.ceil(TIMED_S / timed["seconds"]))


def _answering(
    teachers: LiveTeachers | TeacherLogitsKey, dataset: Dataset, worker: Worker
) -> EpochTeachers:
    """The live teachers themselves, or some whose logits for `dataset` are stored already."""
    if isinstance(teachers, LiveTeachers):
        return teachers
    drawn = LiveTeachers(
        [_Drawn(dataset.num_classes) for _ in teachers.teachers], worker.device, "fp32"
    )
    teacher_logits = compute_teacher_logits(teachers, 1, drawn, dataset, worker.device)
    return _Stored(teacher_logits, worker.device)


class _Drawn(nn.Module):
    """A network that takes no time: its logits (B, K) are drawn, whatever the images."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self._classes = classes

    def forward(self, images: Tensor) -> Tensor:
        return EVEN * torch.randn(len(images), self._classes, device=images.device)


@dataclass(frozen=True)
class _Stored:
    """Teachers whose stored logits are the same in every epoch."""

    teacher_logits: TeacherLogits
    device: torch.device

    networks: ClassVar[tuple[nn.Module, ...]] = ()

    def of_epoch(self, epoch: int) -> StoredTeachers:
        return StoredTeachers(self.teacher_logits, self.device)
