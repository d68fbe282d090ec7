"""The features of student and teachers, for methods that compare those."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distill_ray.models.network import with_features


class FeaturesKept(nn.Module):
    """A network that keeps the features (B, D) of its last pass in training, in `kept`.

    Images (B, C, H, W) to logits (B, K). Raises `ValueError` for networks outside of the catalogue.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = with_features(network)
        self.kept = torch.empty(0)

    def forward(self, images: Tensor) -> Tensor:
        """The logits of the network."""
        features = self.network.features(self.network.normalise(images))
        if self.training:
            self.kept = features
        logits: Tensor = self.network.classifier(features)
        return logits


@torch.no_grad()
def of_teachers(networks: Sequence[nn.Module], images: Tensor) -> tuple[list[Tensor], Tensor]:
    """The features (B, D) of each of N networks, and their logits (N, B, K), in one pass."""
    features, logits = [], []
    for network in map(with_features, networks):
        features.append(network.features(network.normalise(images)))
        logits.append(network.classifier(features[-1]))
    return features, torch.stack(logits)
