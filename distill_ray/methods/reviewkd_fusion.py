"""How `reviewkd` fuses the maps of a student from deep to shallow, and compares them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill_ray.methods import taps
from distill_ray.models.network import with_features

Shape = tuple[int, int, int]
"""Channels, height and width."""

WIDEST = 512
"""Maps are fused at the width of the student's deepest one, and at this at most."""

LEVELS = (4, 2, 1)
"""Height and width that maps are averaged to; each level has half of the weight of the one before,
and the maps as they are have weight 1.
"""


def hierarchical_context(student: Tensor, teacher: Tensor) -> Tensor:
    """The hierarchical context loss of two maps (B, C, H, W): mean squared differences of the maps
    and of their averages, weighted, over the sum of the weights.

    Levels that are not smaller than the maps are left out.
    """
    differences = student - teacher
    weight, weights = 1.0, 1.0
    loss = differences.square().mean()
    for level in LEVELS:
        if level >= min(differences.shape[2:]):
            continue
        weight /= 2
        weights += weight
        pooled = functional.adaptive_avg_pool2d(differences, level)
        loss = loss + weight * pooled.square().mean()
    return loss / weights


class ReviewingStudent(taps.TappedStudent):
    """A network that keeps its maps fused, of width and size of those of each teacher.

    Images (B, C, H, W) to logits (B, K). Weights of the fusions are drawn from the network's seed.
    """

    def __init__(
        self,
        network: nn.Module,
        teachers: Sequence[nn.Module],
        pairs_of_teachers: Sequence[Sequence[taps.Pair]],
        image_shape: tuple[int, ...],
    ) -> None:
        super().__init__(network, teachers, pairs_of_teachers, image_shape, project=False)
        own_shapes = taps.sizes(self.network, image_shape)
        self.fusions = nn.ModuleList()
        with taps.drawn_from_seed_of(self.network, "fusions"):
            for teacher, pairs in zip(teachers, self.pairs, strict=True):
                shapes = taps.sizes(with_features(teacher), image_shape)
                self.fusions.append(
                    Fusion(
                        [own_shapes[own][0] for own, _ in pairs],
                        [shapes[other] for _, other in pairs],
                    )
                )

    def adapted(self, maps: list[list[Tensor]]) -> list[list[Tensor]]:
        """The maps, `[teacher][pair]`, fused for each teacher."""
        return [fusion(of_teacher) for fusion, of_teacher in zip(self.fusions, maps, strict=True)]


class Fusion(nn.Module):
    """Attention-based fusion of maps, from the deepest to the first.

    Maps (B, C_i, H_i, W_i), in the order of the network, to as many of the `wanted` shapes. Each is
    brought to one width, added to what the deeper ones gave with two weights for each pixel, and
    then brought to its wanted shape.
    """

    def __init__(self, widths: Sequence[int], wanted: Sequence[Shape]) -> None:
        super().__init__()
        middle = min(WIDEST, widths[-1])
        self.wanted_sizes = [(height, width) for _, height, width in wanted]
        self.narrow = nn.ModuleList(_convolution(width, middle, 1) for width in widths)
        self.attend = nn.ModuleList(nn.Conv2d(2 * middle, 2, 1) for _ in widths[1:])
        self.widen = nn.ModuleList(_convolution(middle, channels, 3) for channels, _, _ in wanted)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The fused maps in the order of `maps`."""
        fused: list[Tensor] = []
        deeper: Tensor | None = None
        for place in reversed(range(len(maps))):
            values = self.narrow[place](maps[place])
            if deeper is not None:
                deeper = functional.interpolate(deeper, values.shape[2:])
                both = torch.cat((values, deeper), 1)
                shares = torch.sigmoid(self.attend[place](both))
                values = shares[:, :1] * values + shares[:, 1:] * deeper
            if values.shape[2:] != self.wanted_sizes[place]:
                values = functional.interpolate(values, self.wanted_sizes[place])
            fused.insert(0, self.widen[place](values))
            deeper = values
        return fused


def _convolution(width: int, wanted: int, side: int) -> nn.Sequential:
    """A convolution that keeps the size, of `side` by `side` pixels, and batch normalisation."""
    convolution = nn.Conv2d(width, wanted, side, padding=side // 2, bias=False)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    return nn.Sequential(convolution, nn.BatchNorm2d(wanted))
