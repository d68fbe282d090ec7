"""Fusion of the student's stages and the hierarchical context loss, from the paper's formulas."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distill_ray.augmentation.augmentation import Batch, Part
from distill_ray.methods import ReviewKD
from distill_ray.methods.method import Setup, Student
from distill_ray.methods.reviewkd_fusion import Fusion, ReviewingStudent, hierarchical_context
from distill_ray.methods.taps import run
from distill_ray.models import build_model
from distill_ray.models.network import Network

SHAPE = (3, 16, 16)
IMAGES = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(0))
PART = Part(IMAGES, torch.tensor([0, 1, 2, 0, 1]))

Values = NDArray[np.float64]


def network_of(name: str, seed: int = 0) -> Network:
    return build_model(name, num_classes=3, image_shape=SHAPE, seed=seed)


class Live:
    """Two teachers, one deeper and wider than the student, one like it."""

    def __init__(self) -> None:
        self.networks = [network_of("wrn-16-2", 1).eval(), network_of("wrn-10-1", 2).eval()]

    def __call__(self, part: Part) -> Tensor:
        raise AssertionError("one pass is enough")


LIVE = Live()


def make_student(method: ReviewKD, seed: int = 0) -> ReviewingStudent:
    setup = Setup(teachers=2, networks=LIVE.networks, image_shape=SHAPE)
    student = method.student(network_of("wrn-10-1", seed), setup)
    assert isinstance(student, ReviewingStudent)
    return student.train()


def double(values: Tensor) -> Values:
    return values.detach().double().numpy()


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        (8, (4 + 1 / 2 + 1 / 16 + 1 / 128) / (15 / 8)),
        (4, (16 + 4 / 2 + 1 / 4) / (7 / 4)),
        (2, (64 + 16 / 2) / (3 / 2)),
    ],
)
def test_hierarchical_context_by_hand(side: int, expected: float) -> None:
    """One pixel differs by 16. Of 8 by 8 the mean square is 256 / 64 = 4; averaged to 4 by 4 the
    pixel's cell is 4, and 16 / 16 = 1; to 2 by 2 it is 1, and 1 / 4; to one pixel 1 / 4, and
    1 / 16. Weighted by 1, 1/2, 1/4, 1/8 that is 2.4375. Smaller maps have fewer levels.
    """
    teacher = torch.full((1, 1, side, side), 3.0, dtype=torch.float64)
    student = teacher.clone()
    student[0, 0, 1, 0] += 16
    found = hierarchical_context(student, teacher).item()
    assert found == pytest.approx(expected, rel=1e-12)
    assert side != 8 or found == 2.4375


def averaged(maps: Values, side: int) -> Values:
    count, channels, height, width = maps.shape
    cells = maps.reshape(count, channels, side, height // side, side, width // side)
    return cells.mean((3, 5))


def context_of(student: Values, teacher: Values) -> float:
    parts, weights = [((student - teacher) ** 2).mean()], [1.0]
    for side in (4, 2, 1):
        if side < student.shape[2]:
            weights.append(0.5 ** len(weights))
            parts.append(((averaged(student, side) - averaged(teacher, side)) ** 2).mean())
    return float(np.dot(parts, weights) / sum(weights))


def convolved(maps: Values, weight: Values) -> Values:
    """With zeros around; then brought to mean 0 and variance 1 for each channel of the batch."""
    _, _, height, width = maps.shape
    side = weight.shape[2]
    around = ((0, 0), (0, 0), (side // 2, side // 2), (side // 2, side // 2))
    padded: Values = np.pad(maps, around)
    found: Any = 0.0
    for row in range(side):
        for column in range(side):
            window = padded[:, :, row : row + height, column : column + width]
            found = found + np.einsum("dc,bchw->bdhw", weight[:, :, row, column], window)
    mean = found.mean((0, 2, 3), keepdims=True)
    variance = ((found - mean) ** 2).mean((0, 2, 3), keepdims=True)
    normalised: Values = (found - mean) / np.sqrt(variance + 1e-5)
    return normalised


def resized(maps: Values, side: int) -> Values:
    """The nearest pixel, for sides that are multiples of each other."""
    own = maps.shape[2]
    if side >= own:
        return maps.repeat(side // own, 2).repeat(side // own, 3)
    return maps[:, :, :: own // side, :: own // side]


def fused_of(fusion: Fusion, maps: Sequence[Values], sides: Sequence[int]) -> list[Values]:
    """What the fusion should give, from its weights."""
    weights = {name: double(weight) for name, weight in fusion.state_dict().items()}
    found: list[Values] = []
    deeper: Values | None = None
    for place in (2, 1, 0):
        values = convolved(maps[place], weights[f"narrow.{place}.0.weight"])
        if deeper is not None:
            deeper = resized(deeper, values.shape[2])
            attention = weights[f"attend.{place}.weight"][:, :, 0, 0]
            scores = np.einsum("dc,bchw->bdhw", attention, np.concatenate((values, deeper), 1))
            shares = 1 / (1 + np.exp(-scores - weights[f"attend.{place}.bias"][:, None, None]))
            values = values * shares[:, [0]] + deeper * shares[:, [1]]
        deeper = resized(values, sides[place])
        found.insert(0, convolved(deeper, weights[f"widen.{place}.0.weight"]))
    return found


@pytest.mark.parametrize("sides", [(16, 8, 4), (8, 8, 2)])
def test_fusion_of_three_stages(sides: tuple[int, ...]) -> None:
    """Also to sizes that are not the student's own."""
    torch.manual_seed(3)
    maps = [
        torch.randn(4, width, side, side, dtype=torch.float64)
        for width, side in ((3, 16), (5, 8), (6, 4))
    ]
    wanted = [(width, side, side) for width, side in zip((2, 4, 7), sides, strict=True)]
    fusion = Fusion([3, 5, 6], wanted)
    found = fusion.double()(maps)
    expected = fused_of(fusion, [double(one) for one in maps], sides)
    assert [one.shape[1:] for one in found] == wanted
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(double(one), other, rtol=1e-9, atol=1e-11)


def test_review_of_two_teachers() -> None:
    """Units of one size are paired, and the second teacher counts three times."""
    method = ReviewKD(teacher_weights=(1.0, 3.0))
    network = make_student(method)
    batch = Batch((PART,), torch.arange(5))
    terms = method.loss(Student(network, network), batch, LIVE)
    sums = []
    by_size = [(1, 2), (2, 4), (3, 6)], [(1, 1), (2, 2), (3, 3)]
    for place, teacher in enumerate(LIVE.networks):
        fusion = network.fusions[place]
        assert isinstance(fusion, Fusion)
        own, _ = run(network.network, IMAGES, [own for own, _ in by_size[place]])
        others, _ = run(teacher, IMAGES, [other for _, other in by_size[place]])
        fused = fused_of(fusion, [double(one) for one in own], (16, 8, 4))
        pairs = zip(fused, others, strict=True)
        sums.append(sum(context_of(one, double(other)) for one, other in pairs))
    expected = (sums[0] + 3 * sums[1]) / 4
    assert terms["loss/review"].item() == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(terms["loss"], terms["loss/labels"] + terms["loss/review"])


def test_units_are_fused_from_the_deepest_in_whatever_order_they_are_named() -> None:
    method = ReviewKD(student_units=(4, 2), teacher_units=(4, 1))
    assert make_student(method).pairs == [[(1, 0), (3, 3)]] * 2


def test_a_loss_of_the_first_stage_teaches_the_deepest() -> None:
    network = make_student(ReviewKD())
    network(IMAGES)
    network.kept[0][0].square().sum().backward()
    deepest = network.network.features[network.network.units()[-1]]
    assert any(weight.grad is not None for weight in deepest.parameters())


def test_fusions_are_drawn_from_the_seed_of_the_network_and_left_out() -> None:
    torch.manual_seed(1)
    first = make_student(ReviewKD(), seed=5)
    torch.manual_seed(2)
    second = make_student(ReviewKD(), seed=5)
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name]), name
    other = make_student(ReviewKD(), seed=6).fusions[0].state_dict()["narrow.0.0.weight"]
    assert not torch.equal(other, first.fusions[0].state_dict()["narrow.0.0.weight"])
    deployed: nn.Module = ReviewKD().deploy(first)
    assert deployed.state_dict().keys() == network_of("wrn-10-1").state_dict().keys()
