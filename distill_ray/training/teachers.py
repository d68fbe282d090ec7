"""Live teachers: networks that run while the student trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from distill_ray.augmentation.augmentation import Part
from distill_ray.methods.method import Teachers
from distill_ray.training.device import autocast


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

    def __init__(self, networks: Sequence[nn.Module], device: torch.device, precision: str) -> None:
        self.networks = [
            network.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
            for network in networks
        ]
        self._device = device
        self._precision = precision

    def __len__(self) -> int:
        return len(self.networks)

    def of_epoch(self, epoch: int) -> LiveTeachers:
        """These."""
        return self

    def __call__(self, part: Part) -> Tensor:
        with torch.inference_mode(), autocast(self._device, self._precision):
            answers = torch.stack([network(part.images).float() for network in self.networks])
        return answers.clone()  # autograd saves no inference tensors for the backward pass


NO_TEACHERS = LiveTeachers((), torch.device("cpu"), "fp32")
"""For methods that learn from labels alone."""
