"""MobileNetV2 of half width for small images, as used by CRD and its successors."""

from __future__ import annotations

from torch import Tensor, nn

from distill_ray.models.layers import GlobalAveragePool, conv_norm, draw_fan_out_and_small
from distill_ray.models.network import Architecture

GROUPS = (
    (1, 8, 1, 1),
    (6, 12, 2, 1),
    (6, 16, 3, 2),
    (6, 32, 4, 2),
    (6, 48, 3, 1),
    (6, 80, 3, 2),
    (6, 160, 1, 1),
)
"""Expansion, width, blocks and stride of the first block of each group."""


def mobilenet_v2(image_shape: tuple[int, int, int], num_classes: int) -> Architecture:
    """Architecture: inverted residual blocks with ReLU (not ReLU6), then 1280 channels, no dropout.

    Source: Sandler et al. 2018, as coded in RepDistiller.
    """
    features = nn.Sequential(conv_norm(image_shape[0], 16, 3, stride=2))
    narrow = 16
    for expansion, wide, blocks, stride in GROUPS:
        for block in range(blocks):
            features.append(InvertedResidual(narrow, wide, expansion, stride if block == 0 else 1))
            narrow = wide
    features.extend([conv_norm(narrow, 1280, 1), GlobalAveragePool()])
    return Architecture(features, nn.Linear(1280, num_classes), draw_fan_out_and_small)


class InvertedResidual(nn.Module):
    """Maps (B, C, H, W) widened, each channel convolved by itself, and narrowed again; added to its
    input where shapes agree.
    """

    def __init__(self, narrow: int, wide: int, expansion: int, stride: int) -> None:
        super().__init__()
        middle = expansion * narrow
        self.residual = nn.Sequential(
            conv_norm(narrow, middle, 1),
            conv_norm(middle, middle, 3, stride, groups=middle),
            conv_norm(middle, wide, 1, relu=False),
        )
        self.adds = stride == 1 and narrow == wide

    def forward(self, maps: Tensor) -> Tensor:
        residual: Tensor = self.residual(maps)
        return residual.add_(maps) if self.adds else residual
