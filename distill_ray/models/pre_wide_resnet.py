"""Wide residual networks of the latent BatchEnsemble system: raw shortcuts, truncated normal
weights, biased variances.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional

from distill_ray.models.layers import GlobalAveragePool
from distill_ray.models.network import Architecture


def pre_wide_resnet(
    image_shape: tuple[int, int, int], num_classes: int, depth: int, width: int
) -> Architecture:
    """Architecture of pre-wrn-depth-width: stem and stages as in `wide_resnet`, apart from three
    things.

    Shortcuts project the raw input of the block. Every weight is drawn from a normal truncated at
    two sigma whose variance after truncation is 2 / fan_in; the bias of the classifier is 0. Batch
    normalisation tracks the biased variance. Source: code of Nam et al. 2022.
    """
    features = nn.Sequential(nn.Conv2d(image_shape[0], 16, 3, padding=1, bias=False))
    wide = 16
    for stage in range(3):
        for block in range((depth - 4) // 6):
            narrow, wide = wide, 16 * width * 2**stage
            features.append(PreWideBlock(narrow, wide, stride=2 if stage > 0 and block == 0 else 1))
    features.append(
        nn.Sequential(BiasedBatchNorm2d(wide), nn.ReLU(inplace=True), GlobalAveragePool())
    )
    return Architecture(features, nn.Linear(wide, num_classes), draw)


def draw(module: nn.Module) -> None:
    """Draw every weight from the truncated normal, and set the biases of linear layers to 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            sigma = math.sqrt(2 / layer.weight[0].numel()) / TRUNCATED_STD
            nn.init.trunc_normal_(layer.weight, 0.0, sigma, -2 * sigma, 2 * sigma)
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.bias)


TRUNCATED_STD = 0.87962566103423978
"""Standard deviation of a standard normal truncated at -2 and 2."""


class PreWideBlock(nn.Module):
    """Pre-activation block for maps (B, C, H, W) whose shortcut, where stride or width change,
    projects the raw input.
    """

    def __init__(self, narrow: int, wide: int, stride: int) -> None:
        super().__init__()
        self.bn1 = BiasedBatchNorm2d(narrow)
        self.conv1 = nn.Conv2d(narrow, wide, 3, stride=stride, padding=1, bias=False)
        self.bn2 = BiasedBatchNorm2d(wide)
        self.conv2 = nn.Conv2d(wide, wide, 3, padding=1, bias=False)
        self.shortcut = (
            nn.Conv2d(narrow, wide, 1, stride=stride, bias=False)
            if stride > 1 or narrow != wide
            else None
        )

    def forward(self, maps: Tensor) -> Tensor:
        hidden = self.conv1(functional.relu(self.bn1(maps), inplace=True))
        residual: Tensor = self.conv2(functional.relu(self.bn2(hidden), inplace=True))
        return residual.add_(maps if self.shortcut is None else self.shortcut(maps))


class BiasedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation whose running variance follows the batch's biased variance, the one it
    normalises with.

    PyTorch's own follows the unbiased one, larger by n / (n - 1) for n values per channel.
    """

    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, maps: Tensor) -> Tensor:
        if not self.training:
            return super().forward(maps)
        unbiased = self.running_var.clone()
        normalised = functional.batch_norm(
            maps,
            self.running_mean,
            unbiased,
            self.weight,
            self.bias,
            training=True,
            momentum=0.1,
            eps=self.eps,
        )
        count = maps.numel() // maps.shape[1]
        kept = 0.9 * self.running_var
        self.running_var.copy_(kept + (unbiased - kept) * ((count - 1) / count))
        self.num_batches_tracked.add_(1)
        return normalised
