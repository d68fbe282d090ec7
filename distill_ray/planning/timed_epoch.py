"""What an epoch of a job takes on this machine, judged from some of its batches."""

from __future__ import annotations

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

EVEN = 0.02
"""Spread of the logits that stand for stored ones: so even that half precision holds them, that the
largest of them and an even tail do, and that no method diverges by what it learns from them.
"""


def timed_form(recipe: Recipe) -> Recipe:
    """The recipe as it is timed: for two epochs, the second of which counts. With a small learning
    rate it cannot diverge by what it learns from teachers that are not trained yet.
    """
    return replace(recipe, epochs=2, warmup_epochs=0.0, milestones=(), lr=TIMED_LR, final_lr=0.0)


def epoch_seconds(
    job: Job, dataset: Dataset, teachers: LiveTeachers | TeacherLogitsKey, worker: Worker
) -> float:
    """An epoch's time, judged from the second of two epochs over a few batches.

    The teachers of the job are those that answer live, or the key by which their logits are stored:
    then it is timed as when all of them are, and no teacher runs.
    """
    few = some_of(dataset, TIMED_BATCHES * job.recipe.batch_size)
    answering = _answering(teachers, few, worker) if job.teachers else None
    *_, last = train(job, few, answering, worker=worker)
    return last["seconds"] * len(dataset.train) / len(few.train)


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
