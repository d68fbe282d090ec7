"""Where VGG halves its maps, and how it is drawn."""

import pytest
import torch
from torch import nn

from distill_ray.models import build_model


@pytest.mark.parametrize(("side", "last"), [(8, 1), (32, 4), (64, 4)])
def test_maps_before_the_last_pooling(side: int, last: int) -> None:
    network = build_model("vgg8", num_classes=2, image_shape=(3, side, side), seed=0).eval()
    assert network.features[:-1](torch.rand(1, 3, side, side)).shape == (1, 512, last, last)


def test_high_images_may_be_as_narrow_as_is_said() -> None:
    network = build_model("vgg8", num_classes=2, image_shape=(3, 64, 16), seed=0).eval()
    assert network(torch.rand(1, 3, 64, 16)).shape == (1, 2)


def test_classifier_is_drawn_small_and_biases_are_zero() -> None:
    network = build_model("vgg8", num_classes=100, image_shape=(3, 8, 8), seed=0)
    assert network.classifier.weight.std().item() == pytest.approx(0.01, rel=0.02)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert layer.bias is not None and not layer.bias.any()
