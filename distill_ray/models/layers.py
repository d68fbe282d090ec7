"""Layers that several architectures are made of."""

from __future__ import annotations

from torch import Tensor, nn


def conv_norm(
    narrow: int, wide: int, kernel: int, stride: int = 1, groups: int = 1, bias: bool = False, relu: bool = True
) -> nn.Sequential:
    """Convolution that keeps the size of the map (before its stride), batch normalisation and, unless told not to, ReLU."""
    layers = nn.Sequential(
        nn.Conv2d(narrow, wide, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=bias), nn.BatchNorm2d(wide)
    )
    if relu:
        layers.append(nn.ReLU(inplace=True))
    return layers


def draw_fan_out(module: nn.Module) -> None:
    """Draw the weights of every convolution from N(0, 2 / (k * k * out)) and set their biases to 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def draw_fan_out_and_small(module: nn.Module) -> None:
    """Draw convolutions as `draw_fan_out` does, and linear layers from N(0, 0.01²) with biases 0."""
    draw_fan_out(module)
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0.0, 0.01)
            nn.init.zeros_(layer.bias)


class GlobalAveragePool(nn.Module):
    """Feature maps (B, D, H, W) to their means (B, D)."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))


class ChannelShuffle(nn.Module):
    """Interleaves the channels of `groups` groups, so that the next grouped convolution sees all of them."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, maps: Tensor) -> Tensor:
        # With channels last in memory, a plain reshape would copy the maps back to channels first.
        last: Tensor = maps.permute(0, 2, 3, 1).unflatten(3, (self.groups, -1))
        return last.transpose(3, 4).flatten(3).permute(0, 3, 1, 2)
