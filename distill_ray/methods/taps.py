"""Maps inside of networks, at the ends of their units, and which of them student and teachers
compare.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from distill_ray.models.network import Network, with_features

Pair = tuple[int, int]
"""A unit of the student and one of a teacher, counted from 0."""


def run(network: Network, images: Tensor, units: Sequence[int]) -> tuple[list[Tensor], Tensor]:
    """The maps (B, C, H, W) at the end of `units`, and the logits (B, K).

    The end of a unit is its last output of two dimensions, larger than one pixel: what pooling
    makes of it does not count. Maps are copies, which layers that work in place do not change.
    Raises `ValueError` for a unit without a map.
    """
    maps, logits = maps_of_units(network, images, units)
    missing = [unit + 1 for unit in units if unit not in maps]
    if missing:
        raise ValueError(f"unit {missing[0]} of {network.name!r} has no maps")
    return [maps[unit] for unit in units], logits


def maps_of_units(
    network: Network, images: Tensor, wanted: Sequence[int] | None = None
) -> tuple[dict[int, Tensor], Tensor]:
    """The maps of those units that have some, of the `wanted` ones or of all, and the logits."""
    values, maps, unit = network.normalise(images), {}, -1
    beginnings = network.units()
    for place, module in enumerate(network.features):
        unit += place in beginnings
        values = module(values)
        is_map = values.ndim == 4 and values.shape[2] * values.shape[3] > 1
        if is_map and (wanted is None or unit in wanted):
            maps[unit] = values.clone()
    return maps, network.classifier(values)


def sizes(network: Network, image_shape: tuple[int, ...]) -> dict[int, tuple[int, int, int]]:
    """Channels, height and width of the maps at the end of each unit that has maps."""
    shapes: dict[int, Any] = {}  # in the place of weights, which need not be copied
    for weight in network.parameters():
        shapes[id(weight)] = nn.Parameter(torch.empty(weight.shape, device="meta"))
    for buffer in network.buffers():
        shapes[id(buffer)] = torch.empty(buffer.shape, dtype=buffer.dtype, device="meta")
    shadow = copy.deepcopy(network, shapes).eval()
    maps, _ = maps_of_units(shadow, torch.empty(1, *image_shape, device="meta"))
    sizes_of_units = {}
    for unit, values in maps.items():
        if unit >= 0:  # layers before the first unit belong to none
            sizes_of_units[unit] = (values.shape[1], values.shape[2], values.shape[3])
    return sizes_of_units


def pairs(
    student: nn.Module,
    teacher: nn.Module,
    image_shape: tuple[int, ...],
    student_units: Sequence[int] = (),
    teacher_units: Sequence[int] = (),
) -> list[Pair]:
    """Which units are compared: those named, counted from 1, in order, or for every size of maps
    that both have the last unit with it.

    Raises `ValueError` when a unit is not there, has no maps, or no sizes agree.
    """
    student, teacher = with_features(student), with_features(teacher)
    of_student, of_teacher = sizes(student, image_shape), sizes(teacher, image_shape)
    if student_units:
        for name, network, shapes, units in (
            ("student_units", student, of_student, student_units),
            ("teacher_units", teacher, of_teacher, teacher_units),
        ):
            for unit in units:
                if unit - 1 not in shapes:
                    having = ", ".join(str(known + 1) for known in shapes) or "none"
                    raise ValueError(
                        f"{name} names unit {unit} of {network.name!r}, which has no maps (units "
                        f"with maps: {having})"
                    )
        return [
            (own - 1, other - 1) for own, other in zip(student_units, teacher_units, strict=True)
        ]
    for network, shapes in ((student, of_student), (teacher, of_teacher)):
        if not shapes:
            raise ValueError(
                f"{network.name!r} has nothing to compare: no unit of it ends in maps of more than "
                "one pixel"
            )
    last_of_student = {shape[1:]: unit for unit, shape in of_student.items()}
    last_of_teacher = {shape[1:]: unit for unit, shape in of_teacher.items()}
    common = [size for size in last_of_student if size in last_of_teacher]
    if not common:
        raise ValueError(
            f"no unit of {student.name!r} has maps of the size of one of {teacher.name!r} "
            f"({_listed(of_student)}; {_listed(of_teacher)}); name student_units and teacher_units"
        )
    return [(last_of_student[size], last_of_teacher[size]) for size in common]


class TappedStudent(nn.Module):
    """A network that keeps the maps of each pass in training, `kept[teacher][pair]`, of the width
    of the teacher's where it has projections.

    Images (B, C, H, W) to logits (B, K). Weights of the projections are drawn from the network's
    seed.
    """

    def __init__(
        self,
        network: nn.Module,
        teachers: Sequence[nn.Module],
        pairs_of_teachers: Sequence[Sequence[Pair]],
        image_shape: tuple[int, ...],
        *,
        project: bool,
    ) -> None:
        super().__init__()
        self.network = with_features(network)
        self.pairs = pairs_of_teachers
        self.units = sorted({own for chosen in self.pairs for own, _ in chosen})
        self.kept: list[list[Tensor]] = []
        widths = sizes(self.network, image_shape)
        projections = []
        with drawn_from_seed_of(self.network, "projections"):
            for teacher, chosen in zip(map(with_features, teachers), self.pairs, strict=True):
                wanted = sizes(teacher, image_shape)
                projections += [
                    _projection(widths[own][0], wanted[other][0], project) for own, other in chosen
                ]
        self.projections = nn.ModuleList(projections)

    def forward(self, images: Tensor) -> Tensor:
        """The logits of the network."""
        if not self.training:
            logits: Tensor = self.network(images)
            return logits
        maps, logits = run(self.network, images, self.units)
        of_unit = dict(zip(self.units, maps, strict=True))
        self.kept = self.adapted([[of_unit[own] for own, _ in chosen] for chosen in self.pairs])
        return logits

    def adapted(self, maps: list[list[Tensor]]) -> list[list[Tensor]]:
        """The maps, `[teacher][pair]`, as they are compared: projected."""
        projections = iter(self.projections)
        return [[next(projections)(one) for one in of_teacher] for of_teacher in maps]


@contextmanager
def drawn_from_seed_of(network: Network, purpose: str) -> Iterator[None]:
    """Weights made inside are drawn from the network's seed and `purpose`, whatever was drawn
    before.
    """
    seed = hashlib.sha256(f"{purpose} {network.seed}".encode()).digest()[:7]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int.from_bytes(seed))
        yield


@torch.no_grad()
def of_teachers(
    student: TappedStudent, networks: Sequence[nn.Module], images: Tensor
) -> tuple[list[list[Tensor]], Tensor]:
    """The maps of each teacher that its pairs name, in their order, and the logits (N, B, K)."""
    maps, logits = [], []
    for network, chosen in zip(map(with_features, networks), student.pairs, strict=True):
        units = [other for _, other in chosen]
        features, answers = run(network, images, units)
        maps.append(features)
        logits.append(answers)
    return maps, torch.stack(logits)


def of_one_size(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps (B, C, H, W), the larger averaged down to the size of the smaller."""
    height = min(one.shape[2], other.shape[2])
    width = min(one.shape[3], other.shape[3])
    pool = nn.functional.adaptive_avg_pool2d
    return tuple(  # type: ignore[return-value]
        side if side.shape[2:] == (height, width) else pool(side, (height, width))
        for side in (one, other)
    )


def _projection(width: int, wanted: int, project: bool) -> nn.Module:
    if not project or width == wanted:
        return nn.Identity()
    return nn.Conv2d(width, wanted, 1, bias=False)


def _listed(shapes: dict[int, tuple[int, int, int]]) -> str:
    sizes = [f"{unit + 1}: {height}x{width}" for unit, (_, height, width) in shapes.items()]
    return ", ".join(sizes) or "none"
