"""Cutout and the boxes of CutMix, against the published numbers."""

import numpy as np
import pytest
import torch

from distill_ray.augmentation import Cutout
from distill_ray.augmentation.epoch import epoch_batches
from distill_ray.augmentation.kernels.boxes import box, centres, cutmix_box, inside


@pytest.mark.parametrize(
    ("side", "weight", "column", "row", "expected", "left_over"),
    [
        (32, 0.6, 5, 28, (0, 18, 15, 32), 0.79492188),
        (32, 0.25, 16, 16, (3, 3, 29, 29), 0.33984375),
        (32, 0.3, 16, 16, (3, 3, 29, 29), 0.33984375),
        (64, 0.6, 40, 10, (20, 0, 60, 30), 0.70703125),
        (32, 0.95, 31, 0, (28, 0, 32, 3), 0.98828125),
        (4, 0.3, 1, 2, (0, 1, 2, 3), 0.75),
    ],
)
def test_boxes_of_cutmix(
    side: int,
    weight: float,
    column: int,
    row: int,
    expected: tuple[int, int, int, int],
    left_over: float,
) -> None:
    boxes, weights = cutmix_box(np.array([weight]), np.array([row]), np.array([column]), side, side)
    top, bottom, left, right = boxes[0].tolist()
    assert (left, top, right, bottom) == expected
    assert weights[0] == pytest.approx(left_over, abs=5e-9)


@pytest.mark.parametrize("centre", [9, 10])
def test_a_box_of_one_pixel_is_empty(centre: int) -> None:
    boxes, weights = cutmix_box(np.array([0.999]), np.array([centre]), np.array([centre]), 32, 32)
    assert not inside(torch.from_numpy(boxes), 32, 32).any()
    assert weights[0] == 1.0


@pytest.mark.parametrize(
    ("side", "row", "column", "size", "rows", "columns", "area"),
    [
        (32, 3, 30, 8, (0, 6), (26, 31), 42),
        (32, 16, 16, 8, (12, 19), (12, 19), 64),
        (64, 3, 60, 16, (0, 10), (52, 63), 132),
        (32, 3, 30, 16, (0, 10), (22, 31), 110),
        (32, 16, 16, 16, (8, 23), (8, 23), 256),
    ],
)
def test_holes_of_cutout(
    side: int,
    row: int,
    column: int,
    size: int,
    rows: tuple[int, int],
    columns: tuple[int, int],
    area: int,
) -> None:
    sizes = np.array([size])
    hole = inside(
        torch.from_numpy(box(np.array([row]), np.array([column]), sizes, sizes, side, side)),
        side,
        side,
    )[0, 0]
    down, across = (
        torch.nonzero(hole.any(1)).flatten().tolist(),
        torch.nonzero(hole.any(0)).flatten().tolist(),
    )
    assert (down[0], down[-1]) == rows
    assert (across[0], across[-1]) == columns
    assert hole.sum() == area


def test_centres_are_uniform_over_the_pixels() -> None:
    grid = (
        np.stack(np.meshgrid(np.arange(6), np.arange(4), indexing="ij"), -1).reshape(-1, 2) + 0.5
    ) / (6, 4)
    rows, columns = centres(grid, 6, 4)
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == [
        (row, column) for row in range(6) for column in range(4)
    ]


def cut(augmentation: Cutout, count: int = 200) -> torch.Tensor:
    pixels = np.full((count, 32, 32, 3), 255, np.uint8)
    mean = (0.25, 0.5, 0.125)
    batches = epoch_batches(
        augmentation,
        pixels,
        np.zeros(count, np.int64),
        seed=0,
        epoch=0,
        batch_size=50,
        device="cpu",
        mean=mean,
    )
    return torch.cat([batch.parts[0].images for batch in batches])


def test_holes_have_the_mean_colour_and_lie_anywhere() -> None:
    images = cut(Cutout(padding=0))
    holes = (images < 1).all(1)
    assert torch.equal(
        images.movedim(1, -1)[holes].unique(dim=0), torch.tensor([[0.25, 0.5, 0.125]])
    )
    areas = holes.sum((1, 2))
    assert areas.max() == 64  # a quarter of the side
    assert 16 <= areas.min() < 64  # clipped in a corner
    assert (holes.float().mean(0) > 0).all()


def test_two_holes() -> None:
    assert (cut(Cutout(padding=0, size=4, holes=2)) < 1).all(1).sum((1, 2)).max() == 32


def test_a_batch_can_share_its_hole() -> None:
    holes = (cut(Cutout(padding=0, per="batch")) < 1).reshape(4, 50, -1)
    assert (holes == holes[:, :1]).all()
    assert (holes[0, 0] != holes[1, 0]).any()
