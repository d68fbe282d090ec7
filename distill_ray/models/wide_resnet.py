"""Wide residual networks for small images, as used by CRD and its successors."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from distill_ray.models.layers import GlobalAveragePool, draw_fan_out
from distill_ray.models.network import Architecture


def wide_resnet(
    image_shape: tuple[int, int, int], num_classes: int, depth: int, width: int
) -> Architecture:
    """Architecture of WRN-depth-width: three stages of (depth - 4) / 6 blocks, 16, 32 and 64 times
    `width` wide.

    Source: Zagoruyko and Komodakis 2016, as coded in RepDistiller: no dropout, no normalisation
    after the stem, and convolutions drawn from N(0, 2 / (k * k * out)).
    """
    features = nn.Sequential(nn.Conv2d(image_shape[0], 16, 3, padding=1, bias=False))
    wide = 16
    for stage in range(3):
        for block in range((depth - 4) // 6):
            narrow, wide = wide, 16 * width * 2**stage
            features.append(WideBlock(narrow, wide, stride=2 if stage > 0 and block == 0 else 1))
    features.append(nn.Sequential(nn.BatchNorm2d(wide), nn.ReLU(inplace=True), GlobalAveragePool()))
    return Architecture(features, nn.Linear(wide, num_classes), draw)


def draw(module: nn.Module) -> None:
    """Draw convolutions by the fan-out rule, and set the biases of linear layers to 0."""
    draw_fan_out(module)
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.bias)


class WideBlock(nn.Module):
    """Pre-activation block for maps (B, C, H, W); where the width changes, the shortcut projects
    the activated input.
    """

    def __init__(self, narrow: int, wide: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(narrow)
        self.conv1 = nn.Conv2d(narrow, wide, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(wide)
        self.conv2 = nn.Conv2d(wide, wide, 3, padding=1, bias=False)
        self.shortcut = (
            nn.Conv2d(narrow, wide, 1, stride=stride, bias=False) if narrow != wide else None
        )

    def forward(self, maps: Tensor) -> Tensor:
        active = functional.relu(self.bn1(maps), inplace=True)
        residual: Tensor = self.conv2(functional.relu(self.bn2(self.conv1(active)), inplace=True))
        return residual.add_(maps if self.shortcut is None else self.shortcut(active))
