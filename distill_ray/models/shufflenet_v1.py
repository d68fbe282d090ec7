"""ShuffleNet V1 for small images, as used by CRD and its successors."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from distill_ray.models.layers import ChannelShuffle, ChannelStack, GlobalAveragePool, conv_norm
from distill_ray.models.network import Architecture


def shufflenet_v1(image_shape: tuple[int, int, int], num_classes: int) -> Architecture:
    """Architecture with three groups: stages of 4, 8 and 4 units, 240, 480 and 960 channels wide.

    The pooling is over the whole map, which for images of 32 pixels is the fixed 4x4 of the
    original code. Source: Zhang et al. 2018, as coded in RepDistiller (ReLU after the depthwise
    convolution included).
    """
    features = nn.Sequential(conv_norm(image_shape[0], 24, 1))
    narrow = 24
    for wide, units in ((240, 4), (480, 8), (960, 4)):
        for unit in range(units):
            features.append(ShuffleUnit(narrow, wide, down=unit == 0))
            narrow = wide
    features.append(GlobalAveragePool())
    return Architecture(features, nn.Linear(narrow, num_classes))


class ShuffleUnit(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1; a unit that halves the map stacks its
    pooled input below the result.
    """

    def __init__(self, narrow: int, wide: int, down: bool) -> None:
        super().__init__()
        out = wide - narrow if down else wide
        middle = out // 4
        groups = 1 if narrow == 24 else 3
        self.stack = ChannelStack() if down else None
        self.branch = nn.Sequential(
            conv_norm(narrow, middle, 1, groups=groups),
            ChannelShuffle(groups),
            conv_norm(middle, middle, 3, stride=2 if down else 1, groups=middle),
            conv_norm(middle, out, 1, groups=3, relu=False),
        )

    def forward(self, maps: Tensor) -> Tensor:
        branch: Tensor = self.branch(maps)
        if self.stack is None:
            return branch.add_(maps).relu_()
        stacked: Tensor = self.stack(branch, functional.avg_pool2d(maps, 3, stride=2, padding=1))
        return stacked.relu_()
