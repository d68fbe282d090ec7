"""ShuffleNet V2 for small images, as used by CRD and its successors."""

from __future__ import annotations

from torch import Tensor, nn

from distill_ray.models.layers import (
    ChannelHalves,
    ChannelShuffle,
    ChannelStack,
    GlobalAveragePool,
    conv_norm,
)
from distill_ray.models.network import Architecture


def shufflenet_v2(image_shape: tuple[int, int, int], num_classes: int) -> Architecture:
    """Architecture of width 1: stages 116, 232 and 464 wide with 4, 8 and 4 units, then 1024
    channels.

    The stem is a 1x1 convolution without stride and without pooling. Source: Ma et al. 2018, as
    coded in RepDistiller.
    """
    features = nn.Sequential(conv_norm(image_shape[0], 24, 1))
    narrow = 24
    for wide, units in ((116, 3), (232, 7), (464, 3)):
        features.append(DownUnit(narrow, wide))
        features.extend(BasicUnit(wide) for _ in range(units))
        narrow = wide
    features.extend([conv_norm(narrow, 1024, 1), GlobalAveragePool()])
    return Architecture(features, nn.Linear(1024, num_classes))


class BasicUnit(nn.Module):
    """Passes the first half of the channels of maps (B, C, H, W) on and convolves the second."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        half = wide // 2
        self.branch = nn.Sequential(
            conv_norm(half, half, 1),
            conv_norm(half, half, 3, groups=half, relu=False),
            conv_norm(half, half, 1),
        )
        self.halves = ChannelHalves()
        self.stack = ChannelStack()
        self.shuffle = ChannelShuffle(2)

    def forward(self, maps: Tensor) -> Tensor:
        kept, convolved = self.halves(maps)
        shuffled: Tensor = self.shuffle(self.stack(kept, self.branch(convolved)))
        return shuffled


class DownUnit(nn.Module):
    """Halves maps (B, C, H, W) in two branches, each half as wide as the result."""

    def __init__(self, narrow: int, wide: int) -> None:
        super().__init__()
        half = wide // 2
        self.left = nn.Sequential(
            conv_norm(narrow, narrow, 3, stride=2, groups=narrow, relu=False),
            conv_norm(narrow, half, 1),
        )
        self.right = nn.Sequential(
            conv_norm(narrow, half, 1),
            conv_norm(half, half, 3, stride=2, groups=half, relu=False),
            conv_norm(half, half, 1),
        )
        self.stack = ChannelStack()
        self.shuffle = ChannelShuffle(2)

    def forward(self, maps: Tensor) -> Tensor:
        shuffled: Tensor = self.shuffle(self.stack(self.left(maps), self.right(maps)))
        return shuffled
