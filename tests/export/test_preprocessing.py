"""What an exported model says of the images that it takes is what training did with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from distill_ray.data import load_images, open_source
from distill_ray.errors import RequestError
from distill_ray.export.card import FITTING, READING
from distill_ray.export.card import MIDDLE as MIDDLE_CODE
from distill_ray.export.images import read_image
from distill_ray.tracking.preprocessing import ImagePreparation

SQUARE = ImagePreparation(12, 12, 3, fit=True)
MIDDLE = ImagePreparation(12, 12, 3, fit=True, resize=15)
ORIENTATION = 0x0112


def photograph(path: Path, width: int = 40, height: int = 23, turn: int | None = None) -> Path:
    """A gradient that differs in every corner, and may say that it is to be turned."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([255 * x / width, 255 * y / height, 128 + 0 * x], axis=-1).astype(np.uint8)
    exif = Image.Exif()
    if turn is not None:
        exif[ORIENTATION] = turn
    Image.fromarray(pixels).save(path, exif=exif)
    return path


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_images_become_what_they_were_in_training(tmp_path: Path, kind: str) -> None:
    for split in ("train", "test"):
        for label in ("a", "b"):
            (tmp_path / split / label).mkdir(parents=True)
            photograph(tmp_path / split / label / f"0.{kind}", 40 if label == "a" else 23, 31)
    trained = load_images(open_source(str(tmp_path)), "test", tmp_path / "cache", size=12)
    for index, label in enumerate("ab"):
        pixels = read_image(tmp_path / "test" / label / f"0.{kind}", SQUARE)
        np.testing.assert_array_equal(pixels, trained.images[index])


def test_the_orientation_that_a_camera_noted_is_applied(tmp_path: Path) -> None:
    upright = read_image(photograph(tmp_path / "0.png"), SQUARE)
    turned = read_image(photograph(tmp_path / "1.png", turn=3), SQUARE)
    np.testing.assert_array_equal(turned, upright[::-1, ::-1])


def test_the_middle_is_that_of_torchvision(tmp_path: Path) -> None:
    """Resized to 16 and cropped to 12, as ImageNet practice is to 256 and 224."""
    path = photograph(tmp_path / "0.png", 48, 24)
    practice = transforms.Compose([transforms.Resize(16), transforms.CenterCrop(12)])
    expected = np.asarray(practice(Image.open(path))).astype(int)
    found = read_image(path, ImagePreparation(12, 12, 3, fit=True, resize=16))
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("turn", [None, 3, 6])
@pytest.mark.parametrize("side", [12, 15])
def test_the_code_on_the_card_does_the_same(tmp_path: Path, turn: int | None, side: int) -> None:
    path = photograph(tmp_path / "0.png", turn=turn)
    fit = FITTING.format(height=side, width=side)
    if side > 12:
        fit += MIDDLE_CODE.format(height=12, width=12)
    code = READING.format(mode="RGB", fit=fit, height=12, width=12, channels=3)
    variables: dict[str, np.ndarray] = {}
    exec(code.replace("IMAGE", str(path), 1), variables)
    steps = SQUARE if side == 12 else MIDDLE
    np.testing.assert_array_equal(variables["images"][0], read_image(path, steps))


@pytest.mark.parametrize("kind", ["png", "jpg", "bmp"])
@pytest.mark.parametrize("side", [40, 9])
def test_a_grey_image_stored_in_colour_has_the_same_pixels(
    tmp_path: Path, kind: str, side: int
) -> None:
    """At its own size, and scaled down, where a JPEG is decoded at a fraction of its size."""
    rng = np.random.default_rng(0)
    # Blocks, which survive JPEG
    pixels = np.kron(rng.integers(0, 256, (5, 5), np.uint8), np.ones((8, 8), np.uint8))
    grey = Image.fromarray(pixels)
    grey.save(tmp_path / f"grey.{kind}")
    grey.convert("RGB").save(tmp_path / f"colour.{kind}")
    steps = ImagePreparation(side, side, 1, fit=True)
    expected = read_image(tmp_path / f"grey.{kind}", steps)
    assert expected.shape == (side, side, 1)
    np.testing.assert_array_equal(read_image(tmp_path / f"colour.{kind}", steps), expected)


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK"])
def test_other_modes_without_colours_are_grey(tmp_path: Path, mode: str) -> None:
    grey = Image.fromarray(np.arange(144, dtype=np.uint8).reshape(12, 12))
    grey.convert(mode).save(tmp_path / "other.tif")
    found = read_image(tmp_path / "other.tif", ImagePreparation(12, 12, 1))
    np.testing.assert_array_equal(found[..., 0], np.asarray(grey))


def test_colours_are_refused_where_training_had_none(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"has colours, .* convert it to grey \(L\)"):
        read_image(photograph(tmp_path / "0.png"), ImagePreparation(23, 40, 1))


def test_other_sizes_are_refused_where_training_had_one(tmp_path: Path) -> None:
    path = photograph(tmp_path / "0.png")
    plain = ImagePreparation(12, 12, 3)
    with pytest.raises(RequestError, match="the image is 40x23, but this model takes 12x12"):
        read_image(path, plain)
    np.testing.assert_array_equal(read_image(path, plain, resize=True), read_image(path, SQUARE))


def test_the_steps_say_what_is_done() -> None:
    steps = " ".join(SQUARE.steps())
    order = ["EXIF orientation", "RGB", "resize that to 12 by 12", "0 to 255"]
    assert sorted(order, key=steps.index) == order
    assert "resize" not in " ".join(ImagePreparation(12, 12, 3).steps())
    assert "grey (L)" in " ".join(ImagePreparation(8, 8, 1).steps())
    assert ImagePreparation.from_dict(SQUARE.to_dict()) == SQUARE
    assert ImagePreparation.from_dict(MIDDLE.to_dict()) == MIDDLE
    assert "Take the 12 by 12 pixels in its middle" in " ".join(MIDDLE.steps())
    with pytest.raises(ValueError, match=r"preprocessing\.resize must be 12 to"):
        ImagePreparation.from_dict(MIDDLE.to_dict() | {"resize": 11})
