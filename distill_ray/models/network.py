"""The shape that every network here has, so that one transformation of it serves them all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Network(nn.Module):
    """Images (B, C, H, W) in [0, 1] to logits (B, K): `normalise`, then `features`, then `classifier`.

    `features` is a chain of units that ends in one vector per image, (B, D). What follows the last unit with a convolution
    or a linear layer in it (a final normalisation, the pooling) belongs to that unit. `name` is the name in the catalogue.
    """

    def __init__(self, name: str, normalise: Normalise, features: nn.Sequential, classifier: nn.Linear) -> None:
        super().__init__()
        self.name = name
        self.normalise = normalise
        self.features = features
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(self.normalise(images)))
        return logits


class Normalise(nn.Module):
    """Subtracts the mean of each channel and divides by its standard deviation; both are buffers, never trained."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.get_default_dtype()).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.get_default_dtype()).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean).div_(self.std)
