"""What teachers on a CPU take as programs, which they become in passes over many images."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from distill_ray.augmentation import Part
from distill_ray.training import LiveTeachers
from distill_ray.training.teacher_logits import BATCH

FEWEST, PASS_S = 4, 0.5
"""Images that are timed at least, and about how long a pass over those that are may take: to make
programs takes five, which for large images would be minutes with whole batches.
"""


@dataclass(frozen=True)
class Programs:
    """Seconds in which teachers, all of them together, answer for an image layer by layer and as
    programs, and until they are programs, which each process waits for once.
    """

    layers: float = 0.0
    program: float = 0.0
    making: float = 0.0

    def seconds(self, layers: float, share: float) -> float:
        """The time for an image that takes so long where teachers answer layer by layer, if they
        are programs for that `share` of the images: making images takes what it took.
        """
        if self.layers <= 0:
            return layers
        spared = min(self.layers, layers) * (1 - self.program / self.layers)
        return layers - share * spared


def time_programs(
    teachers: LiveTeachers, shape: tuple[int, int, int], device: torch.device
) -> Programs:
    """The times for images (C, H, W), measured here; nothing for what is no CPU.

    Teachers that are one and the same network stand for so many, each of which would have to become
    a program of its own.
    """
    if device.type != "cpu" or not len(teachers):
        return Programs()
    few = _images(FEWEST, shape)
    warm = min(_seconds(teachers, few) for _ in range(2))
    count = min(BATCH, max(FEWEST, round(FEWEST * PASS_S / max(warm, 1e-6))))
    part = _images(count, shape)
    layers = min(_seconds(teachers, part) for _ in range(2))
    first = _seconds(teachers.of_many, part)
    program = min(_seconds(teachers.of_many, part) for _ in range(2))
    kinds = len(set(teachers.networks))
    making = max(0.0, first - program) * len(teachers) / kinds
    return Programs(layers / count, program / count, making)


def _images(count: int, shape: tuple[int, int, int]) -> Part:
    images = torch.rand(count, *shape).contiguous(memory_format=torch.channels_last)
    return Part(images, torch.zeros(count, dtype=torch.int64))


def _seconds(answer: Callable[[Part], torch.Tensor], part: Part) -> float:
    begun = time.perf_counter()
    answer(part)
    return time.perf_counter() - begun
