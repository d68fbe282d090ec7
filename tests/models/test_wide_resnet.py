"""The wide residual networks of the good-augmentation system."""

import pytest
import torch

from distill_ray.models import build_model


@pytest.mark.parametrize(
    ("name", "num_classes", "side", "parameters"),
    [
        ("wrn-40-2", 100, 32, 2_255_156),
        ("wrn-40-2", 200, 64, 2_268_056),
        ("wrn-16-2", 100, 32, 703_284),
        ("wrn-16-2", 200, 64, 716_184),
    ],
)
def test_parameter_counts_are_the_published_ones(name: str, num_classes: int, side: int, parameters: int) -> None:
    net = build_model(name, num_classes=num_classes, image_shape=(3, side, side), seed=0)
    assert sum(p.numel() for p in net.parameters()) == parameters


@pytest.mark.parametrize(("name", "parameters"), [("wrn-40-2", 2_249_748), ("wrn-16-2", 701_460)])
def test_parameters_without_batch_norm(name: str, parameters: int) -> None:
    net = build_model(name, num_classes=100, image_shape=(3, 32, 32), seed=0)
    weighted = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert sum(p.numel() for m in weighted for p in m.parameters()) == parameters


def test_convolutions_are_drawn_with_the_fan_out_rule() -> None:
    net = build_model("wrn-16-4", num_classes=10, image_shape=(3, 32, 32), seed=0)
    conv = next(m for m in net.modules() if isinstance(m, torch.nn.Conv2d) and m.weight.shape == (256, 256, 3, 3))
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.01)
    assert torch.equal(net.classifier.bias, torch.zeros(10))
    assert net.classifier.weight.abs().max().item() <= 256**-0.5


def test_shortcut_projects_the_activated_input() -> None:
    net = build_model("wrn-10-2", num_classes=10, image_shape=(3, 8, 8), seed=0).eval()
    block = net.features[1]
    maps = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    active = torch.relu(maps / (1 + 1e-5) ** 0.5)
    hidden = torch.relu(block.conv1(active) / (1 + 1e-5) ** 0.5)
    torch.testing.assert_close(block(maps), block.conv2(hidden) + block.shortcut(active))
