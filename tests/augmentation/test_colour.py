"""Colour operations on batches against torchvision's tensor kernels and Pillow, pixel for pixel."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms.v2 import functional

from distill_ray.augmentation.kernels import colour

FACTORS = [0.1, 0.4, 0.7, 1.0, 1.3, 1.5, 1.9]
BITS = [0, 1, 3, 4, 6, 7, 8]
THRESHOLDS = [0.0, 28.333333, 85.0, 141.66667, 170.0, 226.66667, 255.0]


def images(channels: int) -> torch.Tensor:
    """Seven images: noise, narrow ranges, one value only, two values, a ramp."""
    draw = np.random.default_rng(5)
    pixels = draw.integers(0, 256, (7, 20, 16, channels), dtype=np.uint8)
    pixels[1] = draw.integers(100, 140, pixels[1].shape)
    pixels[2] = 77
    pixels[3] = np.where(pixels[3] < 50, 10, 200)
    pixels[4] = np.arange(320, dtype=np.uint16).reshape(20, 16, 1) * 4 // 5
    pixels[5, ..., 0] = 0
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("ours", "theirs", "amounts"),
    [
        (colour.brightness, functional.adjust_brightness, FACTORS),
        (colour.saturation, functional.adjust_saturation, FACTORS),
        (colour.contrast, functional.adjust_contrast, FACTORS),
        (colour.sharpness, functional.adjust_sharpness, FACTORS),
        (colour.posterize, functional.posterize, BITS),
        (colour.solarize, functional.solarize, THRESHOLDS),
    ],
    ids=["brightness", "saturation", "contrast", "sharpness", "posterize", "solarize"],
)
def test_amounts_per_image_give_what_torchvision_gives(
    ours: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    theirs: Callable[[torch.Tensor, float], torch.Tensor],
    amounts: list[float],
    channels: int,
) -> None:
    for turn in range(len(amounts)):
        turned = amounts[turn:] + amounts[:turn]
        batch = images(channels)
        expected = torch.stack(
            [theirs(image, amount) for image, amount in zip(batch, turned, strict=True)]
        )
        assert torch.equal(ours(batch, torch.tensor(turned, dtype=torch.float64)), expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (colour.autocontrast, functional.autocontrast),
        (colour.equalize, functional.equalize),
        (colour.invert, functional.invert),
    ],
    ids=["autocontrast", "equalize", "invert"],
)
def test_whole_images_come_out_as_from_torchvision(
    ours: Callable[[torch.Tensor], torch.Tensor],
    theirs: Callable[[torch.Tensor], torch.Tensor],
    channels: int,
) -> None:
    batch = images(channels)
    assert torch.equal(ours(batch), torch.stack([theirs(image) for image in batch]))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (colour.autocontrast_by_table, ImageOps.autocontrast),
        (colour.equalize, ImageOps.equalize),
        (colour.invert, ImageOps.invert),
        (
            lambda batch: colour.posterize(batch, torch.full((7,), 3)),
            lambda picture: ImageOps.posterize(picture, 3),
        ),
        (
            lambda batch: colour.solarize(batch, torch.full((7,), 130.0)),
            lambda picture: ImageOps.solarize(picture, 130),
        ),
    ],
    ids=["autocontrast", "equalize", "invert", "posterize", "solarize"],
)
def test_operations_of_augmix_give_what_pillow_gives(
    ours: Callable[[torch.Tensor], torch.Tensor], theirs: Callable[[Image.Image], Image.Image]
) -> None:
    batch = images(3)
    pictures = [Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()) for image in batch]
    expected = torch.stack(
        [
            torch.from_numpy(np.asarray(theirs(picture)).copy()).permute(2, 0, 1)
            for picture in pictures
        ]
    )
    assert torch.equal(ours(batch), expected)


def test_autocontrast_of_pillow_for_every_range_of_values() -> None:
    lowest, highest = np.triu_indices(256, 1)
    chosen = np.arange(0, len(lowest), 101)
    ramp = (
        np.clip(np.arange(256), lowest[chosen, None], highest[chosen, None])
        .astype(np.uint8)
        .reshape(-1, 1, 16, 16)
    )
    expected = np.stack(
        [np.asarray(ImageOps.autocontrast(Image.fromarray(image[0]))) for image in ramp]
    )
    assert np.array_equal(
        colour.autocontrast_by_table(torch.from_numpy(ramp))[:, 0].numpy(), expected
    )


def test_an_image_comes_out_the_same_in_any_batch() -> None:
    batch, factor = images(3), torch.tensor(FACTORS, dtype=torch.float64)
    for change in (colour.saturation, colour.contrast, colour.sharpness, colour.brightness):
        alone = torch.cat([change(batch[i : i + 1], factor[i : i + 1]) for i in range(len(batch))])
        assert torch.equal(change(batch, factor), alone)
