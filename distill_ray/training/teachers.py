"""Teachers that answer while the student trains."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distill_ray.augment.view import Part
from distill_ray.training.device import autocast


class LiveTeachers:
    """Frozen networks that give their raw logits, (N, B, K), for every part they are asked about."""

    def __init__(self, networks: Sequence[nn.Module], device: torch.device, precision: str) -> None:
        self.networks = [
            network.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False) for network in networks
        ]
        self._device = device
        self._precision = precision

    def __len__(self) -> int:
        return len(self.networks)

    def __call__(self, part: Part) -> Tensor:
        with torch.no_grad(), autocast(self._device, self._precision):
            return torch.stack([network(part.images).float() for network in self.networks])


NO_TEACHERS = LiveTeachers((), torch.device("cpu"), "fp32")
"""For methods that learn from labels alone."""
