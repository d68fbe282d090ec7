"""Residual blocks with activation after the addition."""

import pytest
import torch
from torch import Tensor, nn

from distill_ray.models import build_model
from distill_ray.models.resnet import BasicBlock, Bottleneck


@pytest.fixture
def maps() -> Tensor:
    return torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(0))


def test_basic_block_adds_its_input(maps: Tensor) -> None:
    block = BasicBlock(8, 8, stride=1).eval()
    torch.testing.assert_close(block(maps), torch.relu(maps + block.residual(maps)))


@pytest.mark.parametrize(
    "block", [BasicBlock(8, 12, stride=2), Bottleneck(8, 4, stride=2), Bottleneck(8, 4, stride=1)]
)
def test_block_projects_its_input_where_the_shape_changes(
    block: BasicBlock | Bottleneck, maps: Tensor
) -> None:
    block.eval()
    assert block.shortcut is not None
    expected = torch.relu(block.shortcut(maps) + block.residual(maps))
    torch.testing.assert_close(block(maps), expected)


def test_bottleneck_strides_in_its_3x3_convolution() -> None:
    strides = [
        (m.kernel_size, m.stride)
        for m in Bottleneck(8, 4, stride=2).residual.modules()
        if isinstance(m, nn.Conv2d)
    ]
    assert strides == [((1, 1), (1, 1)), ((3, 3), (2, 2)), ((1, 1), (1, 1))]


def test_gradients_pass_through_a_bottleneck(maps: Tensor) -> None:
    block = Bottleneck(8, 2, stride=1)
    block(maps).square().sum().backward()
    assert all(
        parameter.grad is not None and parameter.grad.any() for parameter in block.parameters()
    )


def test_resnet50_maps_small_images_to_2048_features() -> None:
    with torch.device("meta"):
        network = build_model("resnet50", num_classes=10, image_shape=(3, 32, 32), seed=0)
        assert network.features(torch.empty(2, 3, 32, 32)).shape == (2, 2048)
        assert network.features[:-1](torch.empty(2, 3, 32, 32)).shape == (2, 2048, 4, 4)
