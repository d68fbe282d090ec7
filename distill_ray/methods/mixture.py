"""Several members or heads as one network: the deployable form of students that keep them."""

from __future__ import annotations

from torch import Tensor, nn

from distill_ray.methods.losses import at_least_float32
from distill_ray.methods.member_losses import log_mean_softmax


class MeanPrediction(nn.Module):
    """Images (B, C, H, W) to the logarithm of the members' mean prediction (B, K), which serves as logits.

    `members` is the network that gives the logits of each member, (B, M, K).
    """

    def __init__(self, members: nn.Module) -> None:
        super().__init__()
        self.members = members

    def forward(self, images: Tensor) -> Tensor:
        """At least float32, whatever precision the members ran in."""
        return log_mean_softmax(at_least_float32(self.members(images)), dim=1)
