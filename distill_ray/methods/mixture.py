"""Several members or heads as one network: the deployable form of students that keep them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distill_ray.methods import gaussian_losses
from distill_ray.probabilities import at_least_float32, log_mean_softmax
from distill_ray.task import Task


class MeanPrediction(nn.Module):
    """Images (B, C, H, W) to the logarithm of the members' mean prediction (B, K), which serves as
    logits.

    `members` is the network that gives the logits of each member, (B, M, K). For regression, means
    and log-variances of the members (B, M, 2) become those of their mixture, (B, 2).
    """

    def __init__(self, members: nn.Module, task: Task = "classification") -> None:
        super().__init__()
        self.members = members
        self.task = task

    def forward(self, images: Tensor) -> Tensor:
        """At least float32, whatever precision the members ran in."""
        outputs = at_least_float32(self.members(images))
        if self.task == "classification":
            return log_mean_softmax(outputs, dim=1)
        mean, variance = gaussian_losses.mixture(outputs, dim=1)
        return torch.stack([mean, variance.log()], dim=-1)
