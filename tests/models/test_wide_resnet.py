"""The wide residual networks of the good-augmentation system."""

import pytest
import torch

from distill_ray.models import build_model
from distill_ray.models.wide_resnet import WideBlock


def test_convolutions_are_drawn_with_the_fan_out_rule() -> None:
    net = build_model("wrn-16-4", num_classes=10, image_shape=(3, 32, 32), seed=0)
    conv = next(
        m
        for m in net.modules()
        if isinstance(m, torch.nn.Conv2d) and m.weight.shape == (256, 256, 3, 3)
    )
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.01)
    assert torch.equal(net.classifier.bias, torch.zeros(10))
    assert net.classifier.weight.abs().max().item() <= 256**-0.5


def test_shortcut_projects_the_activated_input() -> None:
    net = build_model("wrn-10-2", num_classes=10, image_shape=(3, 8, 8), seed=0).eval()
    block = net.features[1]
    assert isinstance(block, WideBlock) and block.shortcut is not None
    maps = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    active = torch.relu(maps / (1 + 1e-5) ** 0.5)
    hidden = torch.relu(block.conv1(active) / (1 + 1e-5) ** 0.5)
    torch.testing.assert_close(block(maps), block.conv2(hidden) + block.shortcut(active))
