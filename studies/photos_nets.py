"""The network of one's own in studies/photos-small.yaml; `--extension` names this file."""

import torch
from torch import Tensor, nn


class Mixer(nn.Module):
    """Patches of 4 by 4 pixels, mixed by depthwise convolutions within and by pointwise ones across
    channels.

    Source: Trockman & Kolter 2022, "Patches are all you need?", https://arxiv.org/abs/2201.09792.
    """

    def __init__(self, num_classes: int, width: int = 64, depth: int = 4) -> None:
        super().__init__()
        self.patches = _activated(nn.Conv2d(3, width, 4, stride=4), width)
        self.within = nn.ModuleList(
            _activated(nn.Conv2d(width, width, 5, padding=2, groups=width), width)
            for _ in range(depth)
        )
        self.across = nn.ModuleList(
            _activated(nn.Conv2d(width, width, 1), width) for _ in range(depth)
        )
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """The logits (B, K) of images (B, 3, H, W)."""
        maps = self.patches(images)
        for within, across in zip(self.within, self.across, strict=True):
            maps = across(maps + within(maps))
        logits: Tensor = self.head(torch.mean(maps, (2, 3)))
        return logits


def _activated(convolution: nn.Conv2d, width: int) -> nn.Module:
    return nn.Sequential(convolution, nn.GELU(), nn.BatchNorm2d(width))
