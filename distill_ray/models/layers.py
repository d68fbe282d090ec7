"""Layers that several architectures are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def conv_norm(
    narrow: int,
    wide: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
    relu: bool = True,
) -> nn.Sequential:
    """Convolution that keeps the size of the map (before its stride), batch normalisation and,
    unless told not to, ReLU.
    """
    layers = nn.Sequential(
        nn.Conv2d(
            narrow, wide, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=bias
        ),
        nn.BatchNorm2d(wide),
    )
    if relu:
        layers.append(nn.ReLU(inplace=True))
    return layers


def draw_fan_out(module: nn.Module) -> None:
    """Draw the weights of every convolution from N(0, 2 / (k * k * out)) and zero its biases."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def draw_fan_out_and_small(module: nn.Module) -> None:
    """Draw convolutions as `draw_fan_out` does, linear layers from N(0, 0.01²) with biases 0."""
    draw_fan_out(module)
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0.0, 0.01)
            nn.init.zeros_(layer.bias)


class GlobalAveragePool(nn.Module):
    """Feature maps (B, D, H, W) to their means (B, D)."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))


class HeadwiseOperation(nn.Module):
    """An operation that tells channels apart. Its maps may hold those of several heads side by
    side: it treats each alone.
    """

    heads = 1

    def split(self, maps: Tensor, *sizes: int) -> Tensor:
        """Maps (B, heads * C, H, W) as (B, H, W, heads, *sizes), C being the product of the sizes.

        Channels come last because they are last in memory: other orders would copy the maps to
        channels first.
        """
        split: Tensor = maps.permute(0, 2, 3, 1).unflatten(3, (self.heads, *sizes))
        return split

    def merged(self, maps: Tensor) -> Tensor:
        """The inverse of `split`: (B, H, W, heads, ...) as (B, heads * C, H, W)."""
        return maps.flatten(3).permute(0, 3, 1, 2)


class ChannelShuffle(HeadwiseOperation):
    """Interleaves the channels of maps (B, C, H, W) in `groups` groups, so that the next grouped
    convolution sees all of them.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, maps: Tensor) -> Tensor:
        return self.merged(self.split(maps, self.groups, -1).transpose(4, 5))


class ChannelHalves(HeadwiseOperation):
    """Splits (B, C, H, W) into the halves of its channels, (B, C / 2, H, W) each."""

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        first, second = self.split(maps, 2, -1).unbind(4)
        return self.merged(first), self.merged(second)


class ChannelStack(HeadwiseOperation):
    """Maps (B, C, H, W) and (B, D, H, W) to (B, C + D, H, W): the channels of `first`, then those
    of `second`.
    """

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.merged(torch.cat([self.split(first, -1), self.split(second, -1)], 4))
