"""Units of the ShuffleNets and of MobileNetV2."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from distill_ray.models.layers import ChannelShuffle
from distill_ray.models.mobilenet_v2 import InvertedResidual
from distill_ray.models.shufflenet_v1 import ShuffleUnit
from distill_ray.models.shufflenet_v2 import BasicUnit, DownUnit


def maps(channels: int) -> Tensor:
    return torch.randn(2, channels, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_shuffle_interleaves_the_groups(memory_format: torch.memory_format) -> None:
    given = maps(6).contiguous(memory_format=memory_format)
    torch.testing.assert_close(ChannelShuffle(2)(given), given[:, [0, 3, 1, 4, 2, 5]])
    torch.testing.assert_close(ChannelShuffle(3)(given), given[:, [0, 2, 4, 1, 3, 5]])


def test_v1_unit_stacks_its_pooled_input_below_the_branch() -> None:
    unit = ShuffleUnit(24, 240, down=True).eval()
    made = unit(maps(24))
    assert made.shape == (2, 240, 3, 3)
    torch.testing.assert_close(made[:, :216], unit.branch(maps(24)).relu())
    torch.testing.assert_close(made[:, 216:], functional.avg_pool2d(maps(24), 3, 2, 1).relu())


def test_v1_unit_adds_its_input() -> None:
    unit = ShuffleUnit(240, 240, down=False).eval()
    torch.testing.assert_close(unit(maps(240)), (unit.branch(maps(240)) + maps(240)).relu())


def test_v2_unit_passes_one_half_on() -> None:
    unit = BasicUnit(8).eval()
    made = unit(maps(8))
    torch.testing.assert_close(made[:, 0::2], maps(8)[:, :4])
    torch.testing.assert_close(made[:, 1::2], unit.branch(maps(8)[:, 4:]))


def test_v2_unit_halves_the_map_in_two_branches() -> None:
    unit = DownUnit(4, 8).eval()
    made = unit(maps(4))
    assert made.shape == (2, 8, 3, 3)
    torch.testing.assert_close(made[:, 0::2], unit.left(maps(4)))
    torch.testing.assert_close(made[:, 1::2], unit.right(maps(4)))


@pytest.mark.parametrize(("wide", "stride", "adds"), [(4, 1, True), (6, 1, False), (4, 2, False)])
def test_mobilenet_block_adds_its_input_where_the_shape_stays(
    wide: int, stride: int, adds: bool
) -> None:
    block = InvertedResidual(4, wide, 6, stride).eval()
    expected = block.residual(maps(4))
    torch.testing.assert_close(block(maps(4)), expected + maps(4) if adds else expected)
