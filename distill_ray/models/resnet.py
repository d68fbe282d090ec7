"""Residual networks with activation after the addition: those of CRD for CIFAR, ResNet50 among
them, and those of Hydra+.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from distill_ray.models.layers import GlobalAveragePool, conv_norm, draw_fan_out
from distill_ray.models.network import Architecture


def cifar_resnet(
    image_shape: tuple[int, int, int], num_classes: int, depth: int, widen: int = 1
) -> Architecture:
    """Architecture of resnet<depth> and resnet<depth>x4: three stages of (depth - 2) / 6 basic
    blocks.

    Stem and stages are 16, 16, 32, 64 wide; x4 makes the stem twice and the stages four times as
    wide. Source: He et al. 2016, as coded in RepDistiller.
    """
    stem = 32 if widen == 4 else 16
    features = nn.Sequential(conv_norm(image_shape[0], stem, 3))
    wide = _append_stages(features, stem, [16 * widen, 32 * widen, 64 * widen], (depth - 2) // 6)
    return Architecture(features, nn.Linear(wide, num_classes), draw_fan_out)


def resnet50(image_shape: tuple[int, int, int], num_classes: int) -> Architecture:
    """Architecture of ResNet50 for small images: a stem of stride 1, no pooling, bottlenecks (3, 4,
    6, 3).

    Source: He et al. 2016, as coded in RepDistiller.
    """
    features = nn.Sequential(conv_norm(image_shape[0], 64, 3))
    narrow = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            features.append(
                Bottleneck(narrow, 64 * 2**stage, stride=2 if stage > 0 and block == 0 else 1)
            )
            narrow = 256 * 2**stage
    features.append(GlobalAveragePool())
    return Architecture(features, nn.Linear(narrow, num_classes), draw_fan_out)


def basic_resnet(
    image_shape: tuple[int, int, int], num_classes: int, planes: Sequence[int]
) -> Architecture:
    """Architecture of Hydra+'s residual networks: two basic blocks for each of `planes`, PyTorch's
    initialisation.

    The teacher for CIFAR-10 has planes (32, 64, 128, 256), the student (96, 192, 256, 128).
    Source: code of Ferianc and Rodrigues 2022.
    """
    features = nn.Sequential(conv_norm(image_shape[0], planes[0], 3))
    wide = _append_stages(features, planes[0], planes, 2)
    return Architecture(features, nn.Linear(wide, num_classes))


def _append_stages(features: nn.Sequential, narrow: int, planes: Sequence[int], blocks: int) -> int:
    for stage, wide in enumerate(planes):
        for block in range(blocks):
            features.append(BasicBlock(narrow, wide, stride=2 if stage > 0 and block == 0 else 1))
            narrow = wide
    features.append(GlobalAveragePool())
    return narrow


class BasicBlock(nn.Module):
    """Maps (B, C, H, W) through two 3x3 convolutions; the shortcut is projected where stride or
    width change.
    """

    def __init__(self, narrow: int, wide: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            conv_norm(narrow, wide, 3, stride), conv_norm(wide, wide, 3, relu=False)
        )
        self.shortcut = (
            conv_norm(narrow, wide, 1, stride, relu=False) if stride > 1 or narrow != wide else None
        )

    def forward(self, maps: Tensor) -> Tensor:
        residual: Tensor = self.residual(maps)
        return residual.add_(maps if self.shortcut is None else self.shortcut(maps)).relu_()


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided) and 1x1 convolution, the last one four times as wide; a projected shortcut
    as in `BasicBlock`.
    """

    def __init__(self, narrow: int, middle: int, stride: int) -> None:
        super().__init__()
        wide = 4 * middle
        self.residual = nn.Sequential(
            conv_norm(narrow, middle, 1),
            conv_norm(middle, middle, 3, stride),
            conv_norm(middle, wide, 1, relu=False),
        )
        self.shortcut = (
            conv_norm(narrow, wide, 1, stride, relu=False) if stride > 1 or narrow != wide else None
        )

    def forward(self, maps: Tensor) -> Tensor:
        residual: Tensor = self.residual(maps)
        return residual.add_(maps if self.shortcut is None else self.shortcut(maps)).relu_()
