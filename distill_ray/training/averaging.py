"""A moving average of the weights, which often generalises better than the weights themselves."""

from __future__ import annotations

import copy

import torch
from torch import nn

START = 10
"""The average begins as that of about the last tenth of the steps so far."""


class AveragedWeights:
    """The exponential moving average of a network's parameters and running statistics.

    After step t (from 1) the average a of weights w becomes `d a + (1 - d) w` with the decay d, or
    (1 + t) / (10 + t) as long as that is smaller, so that it forgets the initial weights. Steps are
    counted by the training loop, so that a resumed run continues it exactly. Source: Polyak &
    Juditsky 1992; the warm-up is that of TensorFlow's ExponentialMovingAverage and of timm.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights of `network` after its 1-based `step`."""
        decay = min(self._decay, (1 + step) / (START + step))
        averages = [*self.network.parameters(), *self.network.buffers()]
        values = [*network.parameters(), *network.buffers()]
        for average, value in zip(averages, values, strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - decay)
            else:
                average.copy_(value)
