"""Live teachers: networks that run while the student trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from distill_ray.augmentation.augmentation import Part
from distill_ray.methods.method import Teachers
from distill_ray.training.device import autocast
from distill_ray.training.fused import FusedTeachers


class EpochTeachers(Protocol):
    """Where a training run gets its teachers from, epoch by epoch: they may be live in one and
    stored teacher logits in another.
    """

    @property
    def networks(self) -> Sequence[nn.Module]:
        """The teachers themselves, for methods that want them live."""

    def of_epoch(self, epoch: int) -> Teachers:
        """The teachers of the 1-based `epoch`."""


class LiveTeachers:
    """Frozen networks that give their raw logits, (N, B, K), for every part they are asked about.

    The members process the whole batch in sequence: on a CPU that is faster than all at once in
    grouped convolutions or under a vectorised map (BENCHMARKS.md).
    """

    images: ClassVar[int] = 0
    """How many images the teachers of this process have answered for, all members together once."""

    def __init__(self, networks: Sequence[nn.Module], device: torch.device, precision: str) -> None:
        self.networks = [
            network.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
            for network in networks
        ]
        self._device = device
        self._precision = precision
        self._fused: FusedTeachers | None = None

    def __len__(self) -> int:
        return len(self.networks)

    def of_epoch(self, epoch: int) -> LiveTeachers:
        """These."""
        return self

    def of_many(self, part: Part) -> Tensor:
        """The same within rounding, for a pass over many batches of one size: on a CPU the networks
        become programs with the first.
        """
        if self._device.type != "cpu":
            return self(part)
        if self._fused is None:
            self._fused = FusedTeachers(self.networks, self._precision)
        LiveTeachers.images += len(part.images)
        return self._fused(part.images)

    def __call__(self, part: Part) -> Tensor:
        LiveTeachers.images += len(part.images)
        with torch.inference_mode(), autocast(self._device, self._precision):
            answers = torch.stack([network(part.images).float() for network in self.networks])
        return answers.clone()  # autograd saves no inference tensors for the backward pass


class CalibratedTeachers:
    """Teachers, live or stored, whose logits are divided by temperatures, one for each, before a
    method sees them.

    Source: Kim, Park, Lee & Kwak 2025, "The role of teacher calibration in knowledge distillation"
    (arXiv 2508.20224), with temperature scaling. `networks` stay as they are: methods take
    features and directions from them, and targets from the logits.
    """

    def __init__(
        self, teachers: EpochTeachers, temperatures: Sequence[float], device: torch.device
    ) -> None:
        self._teachers = teachers
        self._temperatures = torch.tensor(temperatures, device=device)[:, None, None]

    @property
    def networks(self) -> Sequence[nn.Module]:
        """The teachers themselves."""
        return self._teachers.networks

    def of_epoch(self, epoch: int) -> Teachers:
        """The teachers of the 1-based `epoch`."""
        return _Calibrated(self._teachers.of_epoch(epoch), self._temperatures)


class _Calibrated:
    def __init__(self, teachers: Teachers, temperatures: Tensor) -> None:
        self._teachers = teachers
        self._temperatures = temperatures

    @property
    def networks(self) -> Sequence[nn.Module]:
        return self._teachers.networks

    def __call__(self, part: Part) -> Tensor:
        return self._teachers(part) / self._temperatures


NO_TEACHERS = LiveTeachers((), torch.device("cpu"), "fp32")
"""For methods that learn from labels alone."""
