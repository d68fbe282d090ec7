"""LeNet-like networks, as Hydra+ uses them for SVHN."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from distill_ray.models.network import Architecture


def lenet(
    image_shape: tuple[int, int, int],
    num_classes: int,
    planes: Sequence[int],
    widths: Sequence[int],
) -> Architecture:
    """Architecture: a 3x3 convolution, ReLU and 2x2 max-pooling for each of `planes`, then linear
    layers with ReLU.

    The maps are averaged to 4x4 in between. The teacher has planes (32, 64) and widths (128,), the
    student (128, 32) and (128, 128). Source: code of Ferianc and Rodrigues 2022.
    """
    features = nn.Sequential()
    narrow = image_shape[0]
    for wide in planes:
        features.append(
            nn.Sequential(
                nn.Conv2d(narrow, wide, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)
            )
        )
        narrow = wide
    features.extend([nn.AdaptiveAvgPool2d(4), nn.Flatten()])
    narrow *= 16
    for wide in widths:
        features.append(nn.Sequential(nn.Linear(narrow, wide), nn.ReLU(inplace=True)))
        narrow = wide
    return Architecture(features, nn.Linear(narrow, num_classes))
