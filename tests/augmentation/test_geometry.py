"""Pixels moved by batched gathers, against Pillow and torchvision, pixel for pixel."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional

from distill_ray.augmentation import Crop, CropFlip, Flip, Rotation
from distill_ray.augmentation.epoch import epoch_batches
from distill_ray.augmentation.kernels.geometry import MAPS, Grid, bilinear, fixed_point

ROTATIONS = np.array([0.0, 7.3, -15, 30, 45, 90, 180, -123.456])
SHEARS = np.array([0.0, 0.1, -0.3, 0.03, -0.0123, 0.25])
STEPS = np.array([0.0, 1, -3, 14, 40, -40])
AMOUNTS = {
    "rotate": ROTATIONS,
    "shear-x": SHEARS,
    "shear-y": SHEARS,
    "translate-x": STEPS,
    "translate-y": STEPS,
}


def images(count: int, height: int, width: int, channels: int = 3) -> torch.Tensor:
    pixels = np.random.default_rng(3).integers(
        0, 256, (count, height, width, channels), dtype=np.uint8
    )
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def pictures(batch: torch.Tensor) -> list[Image.Image]:
    return [Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()) for image in batch]


def stacked(changed: list[Image.Image]) -> torch.Tensor:
    return torch.stack(
        [torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) for image in changed]
    )


def nearest(batch: torch.Tensor, matrices: np.ndarray) -> torch.Tensor:
    return Grid.of(batch).affine(torch.from_numpy(fixed_point(matrices))).show(batch)


@pytest.mark.parametrize("size", [(32, 32), (9, 14)], ids=str)
@pytest.mark.parametrize("name", MAPS)
def test_affine_maps_to_the_nearest_pixel_are_pillows(name: str, size: tuple[int, int]) -> None:
    amounts = AMOUNTS[name]
    batch = images(len(amounts), *size)
    matrices = MAPS[name](amounts, *size)
    if name == "rotate":
        expected = [
            picture.rotate(angle) for picture, angle in zip(pictures(batch), amounts, strict=True)
        ]
    else:
        expected = [
            picture.transform(size[::-1], Image.Transform.AFFINE, tuple(matrix))
            for picture, matrix in zip(pictures(batch), matrices, strict=True)
        ]
    assert torch.equal(nearest(batch, matrices), stacked(expected))


@pytest.mark.parametrize("size", [(32, 32), (9, 14)], ids=str)
@pytest.mark.parametrize("name", MAPS)
def test_affine_maps_between_pixels_are_pillows(name: str, size: tuple[int, int]) -> None:
    largest = {"rotate": 30, "translate-x": 9, "translate-y": 9}.get(name, 0.3)
    amounts = np.random.default_rng(1).uniform(-largest, largest, 40)
    batch = images(40, *size)
    matrices = MAPS[name](amounts, *size)
    expected = stacked(
        [
            picture.transform(
                size[::-1],
                Image.Transform.AFFINE,
                tuple(matrix),
                resample=Image.Resampling.BILINEAR,
            )
            for picture, matrix in zip(pictures(batch), matrices, strict=True)
        ]
    )
    difference = (bilinear(batch, torch.from_numpy(matrices)).int() - expected.int()).abs()
    assert difference.max() <= 1
    # A value between pixels that is an integer but for its last digits
    assert (difference > 0).float().mean() < 1e-4


def test_the_maps_are_those_of_torchvision() -> None:
    batch = images(1, 32, 20)
    picture = pictures(batch)[0]
    degrees = [math.degrees(math.atan(0.27)), 0.0]
    turned = functional.rotate(picture, 23.5)
    expected = {
        ("rotate", 23.5): turned,
        ("shear-x", 0.27): functional.affine(picture, 0.0, [0, 0], 1.0, degrees, center=[0, 0]),
        ("shear-y", 0.27): functional.affine(
            picture, 0.0, [0, 0], 1.0, degrees[::-1], center=[0, 0]
        ),
        ("translate-x", -7.0): functional.affine(picture, 0.0, [-7, 0], 1.0, [0.0, 0.0]),
        ("translate-y", 5.0): functional.affine(picture, 0.0, [0, 5], 1.0, [0.0, 0.0]),
    }
    for (name, amount), result in expected.items():
        assert torch.equal(
            nearest(batch, MAPS[name](np.array([amount]), 32, 20)), stacked([result])
        ), name


def test_torchvisions_tensor_kernel_differs_only_where_two_pixels_are_equally_near() -> None:
    batch = images(200, 32, 32)
    angles = np.random.default_rng(0).uniform(-30, 30, 200)
    ours = nearest(batch, MAPS["rotate"](angles, 32, 32))
    theirs = torch.stack(
        [functional.rotate(image, float(angle)) for image, angle in zip(batch, angles, strict=True)]
    )
    assert (ours != theirs).float().mean() < 5e-4


def test_shift_and_mirror_are_pad_crop_and_flip() -> None:
    batch = images(6, 10, 7)
    shift = torch.tensor([[0, 0], [-2, 1], [2, 2], [-2, -2], [1, 0], [0, -1]])
    mirrored = torch.tensor([False, True, False, True, True, False])
    result = Grid.of(batch).mirror(mirrored).shift(shift).show(batch)
    for image, (down, right), flip, shown in zip(
        batch, shift.tolist(), mirrored, result, strict=True
    ):
        expected = functional.crop(functional.pad(image, [2]), 2 + down, 2 + right, 10, 7)
        assert torch.equal(shown, functional.hflip(expected) if flip else expected)


def test_a_chain_of_maps_is_one_map_after_the_other() -> None:
    batch = images(5, 16, 12)
    shift, mirrored = torch.tensor([[1, -2]] * 5), torch.tensor([True, False, True, True, False])
    angles = torch.from_numpy(fixed_point(MAPS["rotate"](np.linspace(-15, 15, 5), 16, 12)))
    result = Grid.of(batch).affine(angles).mirror(mirrored).shift(shift).show(batch)
    for turn in (
        lambda grid: grid.shift(shift),
        lambda grid: grid.mirror(mirrored),
        lambda grid: grid.affine(angles),
    ):
        batch = turn(Grid.of(batch)).show(batch)
    assert torch.equal(result, batch)


PATTERN = np.zeros((4000, 8, 8, 1), np.uint8)
PATTERN[:, 3, 3], PATTERN[:, 3, 4] = 100, 200


def places(augmentation: CropFlip | Crop | Flip) -> Counter[tuple[int, int, bool]]:
    """How often the two bright pixels of the pattern come to lie where, and on which side the
    brighter one is.
    """
    batches = epoch_batches(
        augmentation,
        PATTERN,
        np.zeros(4000, np.int64),
        seed=0,
        epoch=0,
        batch_size=500,
        device="cpu",
    )
    pixels = torch.cat([(batch.parts[0].images * 255).round() for batch in batches])[:, 0]
    row, column = np.divmod(pixels.flatten(1).argmax(1).numpy(), 8)
    right = (
        pixels[torch.arange(4000), torch.from_numpy(row), torch.from_numpy(column - 1) % 8] == 100
    )
    return Counter(zip(row.tolist(), column.tolist(), right.logical_not().tolist(), strict=True))


def chi_square(counts: Counter[tuple[int, int, bool]], cells: int) -> float:
    expected = sum(counts.values()) / cells
    return (
        sum((count - expected) ** 2 / expected for count in counts.values())
        + (cells - len(counts)) * expected
    )


def test_half_of_the_images_are_flipped() -> None:
    counts = places(Flip())
    assert set(counts) == {(3, 4, False), (3, 3, True)}
    assert chi_square(counts, 2) < 12  # 1 degree of freedom: 12 at 0.0005


def test_crop_offsets_are_uniform() -> None:
    counts = places(Crop(padding=2))
    assert set(counts) == {(row, column, False) for row in range(1, 6) for column in range(2, 7)}
    assert chi_square(counts, 25) < 54  # 24 degrees of freedom: 54 at 0.0004


def test_crop_and_flip_are_independent() -> None:
    assert chi_square(places(CropFlip(padding=1)), 18) < 43  # 17 degrees of freedom: 43 at 0.0005


@pytest.mark.parametrize(("size", "offsets"), [(8, 3), (12, 5), (32, 9), (64, 17)])
def test_the_border_is_an_eighth_of_the_side_unless_it_is_set(size: int, offsets: int) -> None:
    pixels = np.broadcast_to(
        np.arange(size, dtype=np.uint8).reshape(1, size, 1, 1), (600, size, size, 1)
    ) + np.uint8(1)
    batch = next(
        epoch_batches(
            Crop(), pixels, np.zeros(600, np.int64), seed=0, epoch=0, batch_size=600, device="cpu"
        )
    )
    assert len(set(batch.parts[0].images[:, 0, size // 2].amax(1).tolist())) == offsets


def test_rotation_turns_by_up_to_its_degrees() -> None:
    pixels = np.full((400, 33, 33, 1), 255, np.uint8)
    for degrees, blackest in ((5.0, 0.0), (45.0, 1.0)):
        augmentation = Rotation(rotation=degrees, padding=0)
        batch = next(
            epoch_batches(
                augmentation,
                pixels,
                np.zeros(400, np.int64),
                seed=0,
                epoch=0,
                batch_size=400,
                device="cpu",
            )
        )
        black = (batch.parts[0].images[:, 0, 4, 4] == 0).float().amax()  # black from 10 degrees on
        assert black == blackest
