"""What an exported model says of the images that it takes is what training did with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distill_ray.data import load_images, open_source
from distill_ray.errors import RequestError
from distill_ray.export.card import FITTING, READING
from distill_ray.export.images import read_image
from distill_ray.tracking.preprocessing import Preprocessing

SQUARE = Preprocessing(12, 12, 3, fit=True)
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


@pytest.mark.parametrize("turn", [None, 3, 6])
def test_the_code_on_the_card_does_the_same(tmp_path: Path, turn: int | None) -> None:
    path = photograph(tmp_path / "0.png", turn=turn)
    fit = FITTING.format(height=12, width=12)
    code = READING.format(mode="RGB", fit=fit, height=12, width=12, channels=3)
    variables: dict[str, np.ndarray] = {}
    exec(code.replace("IMAGE", str(path), 1), variables)
    np.testing.assert_array_equal(variables["images"][0], read_image(path, SQUARE))


def test_other_sizes_are_refused_where_training_had_one(tmp_path: Path) -> None:
    path = photograph(tmp_path / "0.png")
    plain = Preprocessing(12, 12, 3)
    with pytest.raises(RequestError, match="the image is 40x23, but this model takes 12x12"):
        read_image(path, plain)
    np.testing.assert_array_equal(read_image(path, plain, resize=True), read_image(path, SQUARE))


def test_the_steps_say_what_is_done() -> None:
    steps = " ".join(SQUARE.steps())
    order = ["EXIF orientation", "RGB", "resize that to 12 by 12", "0 to 255"]
    assert sorted(order, key=steps.index) == order
    assert "resize" not in " ".join(Preprocessing(12, 12, 3).steps())
    assert "grey (L)" in " ".join(Preprocessing(8, 8, 1).steps())
    assert Preprocessing.from_dict(SQUARE.to_dict()) == SQUARE
