"""Fully connected networks, as Hydra+ uses them for its toy tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from distill_ray.models.network import Architecture


def mlp(image_shape: tuple[int, int, int], num_classes: int, widths: Sequence[int]) -> Architecture:
    """Architecture: a linear layer and ReLU for each of `widths`, PyTorch's initialisation.

    A vector of D numbers is an image of shape (D, 1, 1). Source: code of Ferianc and Rodrigues
    2022.
    """
    features = nn.Sequential(nn.Flatten())
    narrow = math.prod(image_shape)
    for wide in widths:
        features.append(nn.Sequential(nn.Linear(narrow, wide), nn.ReLU(inplace=True)))
        narrow = wide
    return Architecture(features, nn.Linear(narrow, num_classes))
