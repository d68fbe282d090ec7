"""The network and the images of oracle 8.15 of the latent BatchEnsemble system."""

import math

import pytest
import torch
from torch import Tensor, nn

from distill_ray.models import build_model
from distill_ray.models.network import Network


@pytest.fixture
def filled_network() -> Network:
    """pre-wrn-28-4 in float64 with the oracle's deterministic weights, and its normalisation."""
    network = build_model(
        "pre-wrn-28-4",
        num_classes=100,
        image_shape=(3, 32, 32),
        seed=0,
        mean=[0.5072, 0.4866, 0.4410],
        std=[0.2673, 0.2564, 0.2760],
    ).double()
    for buffer, values in (
        (network.normalise.mean, [0.5072, 0.4866, 0.4410]),
        (network.normalise.std, [0.2673, 0.2564, 0.2760]),
    ):
        buffer.copy_(torch.tensor(values, dtype=torch.float64).view(3, 1, 1))
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                out, narrow, height, width = module.weight.shape
                module.weight.copy_(
                    _hashed(module.weight).view(height, width, narrow, out).permute(3, 2, 0, 1)
                )
            elif isinstance(module, nn.Linear):
                module.weight.copy_(
                    _hashed(module.weight).view(module.in_features, module.out_features).T
                )
                module.bias.copy_(
                    0.1 * torch.cos(torch.arange(module.out_features, dtype=torch.float64))
                )
            elif isinstance(module, nn.BatchNorm2d):
                channel = torch.arange(module.num_features, dtype=torch.float64)
                module.weight.copy_(1 + 0.1 * torch.sin(channel))
                module.bias.copy_(0.1 * torch.cos(channel))
    return network


def _hashed(weight: Tensor) -> Tensor:
    k = torch.arange(weight.numel())
    h = (40503 * k**2 + 2654435761 * k) % 2**32
    return math.sqrt(12 / weight[0].numel()) * (h.double() / 2**32 - 0.5)


@pytest.fixture
def two_images() -> Tensor:
    """The two images of the oracle, (2, 3, 32, 32) in float64."""
    channel, row, column = torch.meshgrid(
        *(torch.arange(size, dtype=torch.float64) for size in (3, 32, 32)), indexing="ij"
    )
    first = 0.5 + 0.4 * torch.sin(0.1 * (96 * row + 3 * column + channel))
    second = 0.5 + 0.4 * torch.cos(0.07 * row + 0.13 * column + channel)
    return torch.stack([first, second])
